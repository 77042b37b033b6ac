//! What is to be done next for a pod: a pure function of its spec, of what the runtime shows and of what the worker remembers.
//!
//! Level-triggered: the plan looks only at the present, so it can be made again after any event or crash. It follows
//! upstream's `computePodActions` (`pkg/kubelet/kuberuntime`): a sandbox first, then init containers one after the other
//! (sidecars count as done when started), then the rest; containers that ended are started again by policy and back-off.
//! What the kubelet itself killed to be started again is started again, however it ended. A new sandbox begins with the first
//! init container, but runs nothing again that has ended for good, and none is made for a pod of policy `Never` that has run.

use k8s_openapi::api::core::v1::{Container as Spec, Pod};
use machinery::time::go_duration;
use std::collections::{BTreeMap, HashMap, HashSet};
use tokio::time::Instant;

use super::backoff::Backoff;
use crate::cri::{Container, ContainerId, Sandbox, State, label};
use crate::probes::results::Results;
use crate::resources::is_sidecar;
use crate::util;

/// Which list of the spec a container is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `initContainers`.
    Init,
    /// `containers`.
    Regular,
    /// `ephemeralContainers`.
    Ephemeral,
}

impl Kind {
    /// As it stands in the runtime's label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Regular => "regular",
            Self::Ephemeral => "ephemeral",
        }
    }

    /// The path of a container of this kind in Events.
    #[must_use]
    pub fn field_path(self, name: &str) -> String {
        match self {
            Self::Init => format!("spec.initContainers{{{name}}}"),
            Self::Regular => format!("spec.containers{{{name}}}"),
            Self::Ephemeral => format!("spec.ephemeralContainers{{{name}}}"),
        }
    }
}

/// A failed attempt to start a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The reason shown while waiting (`ErrImagePull`, …).
    pub reason: String,
    /// The message shown.
    pub message: String,
    /// The image it was tried with: another one is another try.
    pub image: Option<String>,
    /// When it is tried again.
    pub retry_at: Instant,
}

/// Everything that a plan looks at.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The newest sandbox, if any.
    pub sandbox: Option<&'a Sandbox>,
    /// Volumes and network are set up for that sandbox.
    pub set_up: bool,
    /// Until when setting up must wait after it failed.
    pub set_up_waits: Option<Instant>,
    /// The pod's containers: ended ones, those of former sandboxes, and lost runs too.
    pub containers: &'a [Container],
    /// When those that have ended did so.
    pub ended: &'a HashMap<ContainerId, Instant>,
    /// Containers that were killed or removed to be started again.
    pub again: &'a HashSet<ContainerId>,
    /// What the probes found, by container.
    pub probes: &'a HashMap<ContainerId, Results>,
    /// Containers that could not be started, by name.
    pub failures: &'a BTreeMap<String, Failure>,
    /// What containers wait for while the pod is not set up, by name.
    pub lacking: &'a BTreeMap<String, (String, String)>,
    /// Restart waits by [`restart_key`].
    pub backoff: &'a Backoff,
    /// The container that is being started.
    pub starting: Option<&'a str>,
    /// Containers that must be started anew for their new resources.
    pub outgrown: &'a HashSet<ContainerId>,
    /// Containers that are being stopped.
    pub killing: &'a HashSet<ContainerId>,
    /// Something is being set up, started or removed right now: nothing else is begun.
    pub busy: bool,
    /// Now.
    pub now: Instant,
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Make directories, cgroup, volumes, sandbox and network.
    SetUp,
    /// Start a container.
    Start {
        /// Which list.
        kind: Kind,
        /// Which place in it.
        index: usize,
        /// When the last run of it ended, if it is a restart.
        after: Option<Instant>,
    },
    /// Remove all containers and begin anew with the first, in this order (`RestartAllContainers`).
    Reset(Vec<ContainerId>),
    /// Stop a container.
    Kill {
        /// Which one.
        id: ContainerId,
        /// It is started again by a later plan, whatever its exit code.
        again: bool,
        /// The Event's message.
        message: String,
        /// Grace period in seconds of the probe that failed, if it names one.
        grace_s: Option<i64>,
    },
    /// Nothing more will run: stop what still does and clean up.
    Finish,
}

/// What to do, what waits and why, and when to look again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Steps to begin now.
    pub actions: Vec<Action>,
    /// Reason and message of the containers that wait, by name.
    pub waiting: BTreeMap<String, (String, String)>,
    /// The next time at which the plan changes by itself.
    pub wake_at: Option<Instant>,
}

impl Plan {
    fn wake(&mut self, at: Instant) {
        self.wake_at = Some(self.wake_at.map_or(at, |w| w.min(at)));
    }
}

/// The newest container of that name, in the given sandbox only if one is named.
#[must_use]
pub fn latest<'a>(containers: &'a [Container], name: &str, sandbox: Option<&Sandbox>) -> Option<&'a Container> {
    containers.iter().filter(|c| c.name == name && sandbox.is_none_or(|s| c.sandbox == s.id)).max_by_key(|c| (c.attempt, c.created))
}

/// The first of a container's own rules that an exit code meets (KEP-5307): the action.
fn rule(c: &Spec, exit_code: i32) -> Option<&str> {
    c.restart_policy_rules.iter().flatten().find_map(|rule| {
        let on = rule.exit_codes.as_ref()?;
        let listed = on.values.iter().flatten().any(|v| *v == exit_code);
        let hit = if on.operator == "NotIn" { !listed } else { listed };
        hit.then_some(rule.action.as_str())
    })
}

/// Whether a container's end makes all of the pod begin anew.
#[must_use]
pub fn restarts_all(c: &Spec, exit_code: i32) -> bool {
    rule(c, exit_code) == Some("RestartAllContainers")
}

/// The policy of a container: its own, else the pod's.
fn policy<'a>(pod: &'a Pod, c: &'a Spec) -> &'a str {
    c.restart_policy.as_deref().or_else(|| pod.spec.as_ref()?.restart_policy.as_deref()).unwrap_or("Always")
}

/// Whether a container that ended with `exit_code` runs again: its own rules, its own policy, the pod's policy (KEP-5307).
#[must_use]
pub fn restarts(pod: &Pod, c: &Spec, kind: Kind, exit_code: i32) -> bool {
    if kind == Kind::Ephemeral {
        return false;
    }
    if matches!(rule(c, exit_code), Some("Restart" | "RestartAllContainers")) {
        return true;
    }
    match (policy(pod, c), kind) {
        // An init container that succeeded is done, whatever the policy; only sidecars run for ever.
        ("Always", Kind::Init) => is_sidecar(c) || exit_code != 0,
        ("Always", _) => true,
        ("OnFailure", _) => exit_code != 0,
        _ => false,
    }
}

/// What the waits between restarts are counted by: a container with another image or other resources begins anew.
#[must_use]
pub fn restart_key(c: &Spec) -> String {
    format!("{}/{}", c.name, util::stable_hash(&(&c.image, &c.resources)))
}

/// Hash of the parts of a container whose change restarts it: the image (upstream's `HashContainer` since 1.31 looks at
/// nothing else that can change in place).
#[must_use]
pub fn container_hash(c: &Spec) -> String {
    util::stable_hash(&(&c.name, &c.image))
}

/// Makes the plan.
#[must_use]
pub fn plan(v: &View<'_>) -> Plan {
    let mut out = Plan::default();
    let Some(spec) = &v.pod.spec else { return out };
    if let Some(order) = reset(v) {
        if !v.busy {
            out.actions.push(Action::Reset(order));
        }
        return out;
    }
    let ready = v.sandbox.filter(|s| s.ready);
    let step = Step { v, sandbox: ready };
    if ready.is_none() || !v.set_up {
        if ready.is_none() && step.finished_before() {
            out.actions.push(Action::Finish);
            return out;
        }
        out.waiting = step.lacking();
        match v.set_up_waits {
            Some(at) => out.wake(at),
            None if !v.busy => out.actions.push(Action::SetUp),
            None => {}
        }
        return out;
    }
    for (i, e) in spec.ephemeral_containers.iter().flatten().enumerate() {
        // Never a second time, in whichever sandbox it ran.
        if latest(v.containers, &e.name, None).is_none() {
            step.start(&mut out, Kind::Ephemeral, i, &util::ephemeral_as_container(e), None);
        }
    }
    match step.init(&mut out) {
        Init::Failed => {
            out.actions.retain(|a| !matches!(a, Action::Start { .. }));
            out.actions.push(Action::Finish);
        }
        Init::Pending => {}
        Init::Done => step.regular(&mut out),
    }
    if v.busy {
        out.actions.retain(|a| !matches!(a, Action::Start { .. } | Action::SetUp));
    }
    out
}

/// The containers to be removed because one ended by a rule `RestartAllContainers`: those that ended so last, so that a kubelet
/// that dies in between finds the reason again.
#[must_use]
pub fn reset(v: &View<'_>) -> Option<Vec<ContainerId>> {
    let spec = v.pod.spec.as_ref()?;
    let source = |c: &Container, of: &Spec| c.state == State::Exited && !v.again.contains(&c.id) && restarts_all(of, c.exit_code);
    let lists = [spec.containers.as_slice(), spec.init_containers.as_deref().unwrap_or_default()];
    let all = || lists.iter().flat_map(|l| l.iter());
    if !all().any(|of| latest(v.containers, &of.name, None).is_some_and(|c| source(c, of))) {
        return None;
    }
    let of_spec = all().flat_map(|of| v.containers.iter().filter(|c| c.name == of.name).map(move |c| (source(c, of), c.id.clone())));
    let (sources, targets): (Vec<_>, Vec<_>) = of_spec.partition(|(source, _)| *source);
    Some(targets.into_iter().chain(sources).map(|(_, id)| id).collect())
}

enum Init {
    Pending,
    Done,
    Failed,
}

struct Step<'a> {
    v: &'a View<'a>,
    sandbox: Option<&'a Sandbox>,
}

impl Step<'_> {
    /// Whether a run that has ended is followed by another.
    fn goes_on(&self, c: &Spec, kind: Kind, run: &Container) -> bool {
        self.v.again.contains(&run.id) || restarts(self.v.pod, c, kind, run.exit_code)
    }

    /// The sandbox is gone, and no new one is made for nothing: every container ended for good before, an init container failed
    /// for good, or the pod may run only once and did (upstream's `computePodActions`).
    fn finished_before(&self) -> bool {
        let v = self.v;
        let Some(spec) = &v.pod.spec else { return true };
        let once = |c: &Spec| policy(v.pod, c) == "Never" && c.restart_policy_rules.iter().flatten().next().is_none();
        let ended = |c: &Spec, kind| latest(v.containers, &c.name, None).filter(|s| s.state == State::Exited && !self.goes_on(c, kind, s));
        let init_failed = spec.init_containers.iter().flatten().any(|c| ended(c, Kind::Init).is_some_and(|s| s.exit_code != 0));
        let has_run = spec.containers.iter().any(|c| ended(c, Kind::Regular).is_some());
        init_failed || (has_run && spec.containers.iter().all(once)) || spec.containers.iter().all(|c| ended(c, Kind::Regular).is_some())
    }

    /// What those wait for that are still to run: after a start of the kubelet some may have ended for good.
    fn lacking(&self) -> BTreeMap<String, (String, String)> {
        let v = self.v;
        let here = |name: &str| self.sandbox.and_then(|s| latest(v.containers, name, Some(s)));
        let begun = v.pod.spec.iter().flat_map(|spec| &spec.containers).any(|c| here(&c.name).is_some());
        let waits = |name: &str| {
            let Some((kind, c)) = find_spec(v.pod, name) else { return false };
            let init = kind == Kind::Init;
            if init && begun && !is_sidecar(&c) {
                return false;
            }
            let run = if init { here(name) } else { latest(v.containers, name, None) };
            run.is_none_or(|run| run.state != State::Exited || self.goes_on(&c, kind, run))
        };
        v.lacking.iter().filter(|(name, _)| waits(name)).map(|(name, why)| (name.clone(), why.clone())).collect()
    }

    fn results(&self, c: &Container) -> Results {
        self.v.probes.get(&c.id).copied().unwrap_or_default()
    }

    /// Starts a container unless it must wait: for its back-off, or for the next try after an error.
    fn start(&self, out: &mut Plan, kind: Kind, index: usize, c: &Spec, last: Option<&Container>) {
        let (v, name) = (self.v, &c.name);
        if let Some(f) = v.failures.get(name).filter(|f| f.image == c.image) {
            // Until the next try has ended the last one's reason stands.
            out.waiting.insert(name.clone(), (f.reason.clone(), f.message.clone()));
            if f.retry_at > v.now {
                out.wake(f.retry_at);
                return;
            }
        }
        let after = last.and_then(|l| self.waits_after(c, l));
        // What is being started has waited as long as it had to: the wait that its start begins is for the next one.
        if let Some(ended) = after.filter(|_| v.starting != Some(name))
            && let Some(wait) = v.backoff.waiting(&restart_key(c), ended, v.now)
        {
            let message = format!("back-off {} restarting failed container={name} pod={}", go_duration(wait.delay), util::describe(v.pod));
            out.waiting.insert(name.clone(), ("CrashLoopBackOff".into(), message));
            out.wake(wait.until);
            return;
        }
        out.actions.push(Action::Start { kind, index, after });
    }

    /// The end of a run after which the next may have to wait. Who kills a run to start another does both in one go upstream, where the run before it
    /// is the last that has ended: the new one waits for the killed one's end only if it would have had to wait when that was killed.
    fn waits_after(&self, c: &Spec, last: &Container) -> Option<Instant> {
        let v = self.v;
        let ended = v.ended.get(&last.id).copied()?;
        if !v.again.contains(&last.id) {
            return Some(ended);
        }
        let earlier = v.containers.iter().filter(|run| run.name == last.name && run.attempt < last.attempt && run.state == State::Exited);
        let before = earlier.max_by_key(|run| run.attempt).and_then(|run| v.ended.get(&run.id).copied());
        let would_wait = before.is_some_and(|before| v.backoff.waiting(&restart_key(c), before, ended).is_some());
        if would_wait { Some(ended) } else { before }
    }

    fn kill(&self, out: &mut Plan, c: &Container, again: bool, message: String, grace_s: Option<i64>) {
        if !self.v.killing.contains(&c.id) {
            out.actions.push(Action::Kill { id: c.id.clone(), again, message, grace_s });
        }
    }

    /// Kills a running container whose probes failed or whose spec changed; if it is (being) killed, whether it is started again. A
    /// changed one is whatever the policy, a failed one unless the policy is `Never`.
    fn check_running(&self, out: &mut Plan, spec: &Spec, kind: Kind, c: &Container) -> Option<bool> {
        let r = self.results(c);
        let by_policy = policy(self.v.pod, spec) != "Never";
        let changed = c.labels.get(label::CONTAINER_HASH).is_some_and(|h| *h != container_hash(spec));
        let grace = |p: &Option<k8s_openapi::api::core::v1::Probe>| p.as_ref().and_then(|p| p.termination_grace_period_seconds);
        let (what, again, grace_s) = if changed {
            ("definition changed", true, None)
        } else if r.liveness_failed {
            ("failed liveness probe", by_policy, grace(&spec.liveness_probe))
        } else if r.startup_failed {
            ("failed startup probe", by_policy, grace(&spec.startup_probe))
        } else if self.v.outgrown.contains(&c.id) {
            self.kill(out, c, true, format!("Container {} resize requires restart", spec.name), None);
            return Some(true);
        } else {
            return None;
        };
        let (who, then) = match (kind, again) {
            (Kind::Init, _) => ("Init container", ""),
            (_, true) => ("Container", ", will be restarted"),
            (_, false) => ("Container", ""),
        };
        self.kill(out, c, again, format!("{who} {} {what}{then}", spec.name), grace_s);
        Some(again)
    }

    /// Walks the init containers in order up to the first that is not done.
    fn init(&self, out: &mut Plan) -> Init {
        let v = self.v;
        let Some(spec) = &v.pod.spec else { return Init::Done };
        // Once a regular container was made in this sandbox the plain init containers are history.
        let begun = spec.containers.iter().any(|c| latest(v.containers, &c.name, self.sandbox).is_some());
        let regular_over = begun && self.regular_over();
        let made = |c: &Spec| latest(v.containers, &c.name, self.sandbox).is_some();
        let last_made = spec.init_containers.as_deref().and_then(|all| all.iter().rposition(made));
        for (i, c) in spec.init_containers.iter().flatten().enumerate() {
            let sidecar = is_sidecar(c);
            // What a later one was made after has done its part: a sidecar that ends is started again, and holds nobody up.
            let behind = begun || last_made.is_some_and(|last| i < last);
            if behind && !sidecar {
                continue;
            }
            let run = latest(v.containers, &c.name, self.sandbox);
            match run {
                Some(s) if s.state == State::Exited && !sidecar && s.exit_code == 0 && !v.again.contains(&s.id) => continue,
                Some(s) if s.state == State::Exited && !self.goes_on(c, Kind::Init, s) => return Init::Failed,
                Some(s) if s.state == State::Running => {
                    // A plain init container has no probes, and goes on with the image it has.
                    let dying = (sidecar || v.outgrown.contains(&s.id)) && self.check_running(out, c, Kind::Init, s).is_some();
                    if !sidecar || (!behind && (dying || !self.results(s).started)) {
                        return Init::Pending;
                    }
                    continue;
                }
                // Not there, ended, or made while the start did not come to its end: it is made anew.
                _ => {
                    let under_way = v.busy && run.is_some_and(|s| s.state == State::Created);
                    if !regular_over && !under_way {
                        self.start(out, Kind::Init, i, c, run);
                    }
                    if !behind {
                        return Init::Pending;
                    }
                }
            }
        }
        Init::Done
    }

    /// Every regular container has ended for good, in whichever sandbox.
    fn regular_over(&self) -> bool {
        let Some(spec) = &self.v.pod.spec else { return true };
        spec.containers.iter().all(|c| latest(self.v.containers, &c.name, None).is_some_and(|s| s.state == State::Exited && !self.goes_on(c, Kind::Regular, s)))
    }

    fn regular(&self, out: &mut Plan) {
        let v = self.v;
        let Some(spec) = &v.pod.spec else { return };
        // Whether any is kept, or is to run again.
        let mut lives = false;
        for (i, c) in spec.containers.iter().enumerate() {
            match latest(v.containers, &c.name, None) {
                Some(s) if s.state == State::Running && self.sandbox.is_some_and(|now| s.sandbox == now.id) => {
                    // One with rules ends alone, since these may begin it anew by the code with which it ends.
                    lives |= self.check_running(out, c, Kind::Regular, s) != Some(false) || c.restart_policy_rules.iter().flatten().next().is_some();
                }
                Some(s) if s.state == State::Exited && !self.goes_on(c, Kind::Regular, s) => {}
                Some(s) if s.state == State::Created && v.busy => lives = true,
                run => {
                    self.start(out, Kind::Regular, i, c, run);
                    lives = true;
                }
            }
        }
        if !lives {
            // Where none stays the whole pod is stopped, by its own grace period, also where a probe has failed.
            out.actions.retain(|a| !matches!(a, Action::Start { .. } | Action::Kill { .. }));
            out.actions.push(Action::Finish);
        }
    }
}

/// Finds a container of the spec by name.
#[must_use]
pub fn find_spec(pod: &Pod, name: &str) -> Option<(Kind, Spec)> {
    let spec = pod.spec.as_ref()?;
    let init = spec.init_containers.iter().flatten().find(|c| c.name == name).map(|c| (Kind::Init, c.clone()));
    let regular = || spec.containers.iter().find(|c| c.name == name).map(|c| (Kind::Regular, c.clone()));
    let ephemeral = || {
        let found = spec.ephemeral_containers.iter().flatten().find(|c| c.name == name);
        found.map(|c| (Kind::Ephemeral, util::ephemeral_as_container(c)))
    };
    init.or_else(regular).or_else(ephemeral)
}
