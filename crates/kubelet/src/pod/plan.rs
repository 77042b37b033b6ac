//! What is to be done next for a pod: a pure function of its spec, of what the runtime shows and of what the worker remembers.
//!
//! Level-triggered: the plan looks only at the present, so it can be made again after any event or crash. It follows
//! upstream's `computePodActions` (`pkg/kubelet/kuberuntime`): a sandbox first, then init containers one after the other
//! (sidecars count as done when started), then the rest; containers that ended are started again by policy and back-off.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::SystemTime;

use k8s_openapi::api::core::v1::{Container as Spec, Pod};

use super::backoff::{Backoff, go_duration};
use crate::cri::{Container, ContainerId, Sandbox, State, label};
use crate::probes::Results;
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
    /// When it is tried again.
    pub retry_at: SystemTime,
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
    /// When setting up may be tried again after it failed.
    pub set_up_retry_at: Option<SystemTime>,
    /// The pod's containers, ended ones and those of former sandboxes too.
    pub containers: &'a [Container],
    /// What the probes found, by container.
    pub probes: &'a HashMap<ContainerId, Results>,
    /// Containers that could not be started, by name.
    pub failures: &'a BTreeMap<String, Failure>,
    /// Restart waits by container name.
    pub backoff: &'a Backoff,
    /// Containers that must be started anew for their new resources.
    pub outgrown: &'a HashSet<ContainerId>,
    /// Containers that are being stopped.
    pub killing: &'a HashSet<ContainerId>,
    /// Something is being set up or started right now: nothing else is begun.
    pub busy: bool,
    /// Now.
    pub now: SystemTime,
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
        after: Option<SystemTime>,
    },
    /// Stop a container; it is started again by a later plan if its policy says so.
    Kill {
        /// Which one.
        id: ContainerId,
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
    pub wake_at: Option<SystemTime>,
}

impl Plan {
    fn wake(&mut self, at: SystemTime) {
        self.wake_at = Some(self.wake_at.map_or(at, |w| w.min(at)));
    }
}

/// The newest container of that name, in the given sandbox only if one is named.
#[must_use]
pub fn latest<'a>(containers: &'a [Container], name: &str, sandbox: Option<&Sandbox>) -> Option<&'a Container> {
    containers.iter().filter(|c| c.name == name && sandbox.is_none_or(|s| c.sandbox == s.id)).max_by_key(|c| (c.attempt, c.created))
}

/// Whether a container that ended with `exit_code` runs again: its own rules, its own policy, the pod's policy (KEP-5307).
#[must_use]
pub fn restarts(pod: &Pod, c: &Spec, kind: Kind, exit_code: i32) -> bool {
    for rule in c.restart_policy_rules.iter().flatten() {
        let Some(on) = &rule.exit_codes else { continue };
        let listed = on.values.iter().flatten().any(|v| *v == exit_code);
        let hit = if on.operator == "NotIn" { !listed } else { listed };
        if hit && rule.action.starts_with("Restart") {
            return true;
        }
    }
    let pod_policy = pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()).unwrap_or("Always");
    let policy = c.restart_policy.as_deref().unwrap_or(pod_policy);
    match (policy, kind) {
        // An init container that succeeded is done, whatever the policy; only sidecars run for ever.
        ("Always", Kind::Init) => is_sidecar(c) || exit_code != 0,
        ("Always", _) => true,
        ("OnFailure", _) => exit_code != 0,
        _ => false,
    }
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
    let ready = v.sandbox.filter(|s| s.ready);
    if ready.is_none() || !v.set_up {
        if ready.is_none() && finished_before(v) {
            out.actions.push(Action::Finish);
            return out;
        }
        match v.set_up_retry_at.filter(|at| *at > v.now) {
            Some(at) => out.wake(at),
            None if !v.busy => out.actions.push(Action::SetUp),
            None => {}
        }
        return out;
    }
    let step = Step { v, sandbox: ready };
    for (i, e) in spec.ephemeral_containers.iter().flatten().enumerate() {
        if latest(v.containers, &e.name, ready).is_none() {
            step.start(&mut out, Kind::Ephemeral, i, &e.name, None);
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

/// The sandbox is gone, and every container ended for good before: no new sandbox is made for nothing.
fn finished_before(v: &View<'_>) -> bool {
    let Some(spec) = &v.pod.spec else { return true };
    if v.sandbox.is_none() {
        return false;
    }
    let over = |c: &Spec, kind| latest(v.containers, &c.name, None).is_some_and(|s| s.state == State::Exited && !restarts(v.pod, c, kind, s.exit_code));
    let init_failed = spec.init_containers.iter().flatten().any(|c| {
        latest(v.containers, &c.name, None).is_some_and(|s| s.state == State::Exited && s.exit_code != 0 && !restarts(v.pod, c, Kind::Init, s.exit_code))
    });
    init_failed || spec.containers.iter().all(|c| over(c, Kind::Regular))
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
    fn results(&self, c: &Container) -> Results {
        self.v.probes.get(&c.id).copied().unwrap_or_default()
    }

    /// Starts a container unless it must wait: for its back-off, or for the next try after an error.
    fn start(&self, out: &mut Plan, kind: Kind, index: usize, name: &str, last: Option<&Container>) {
        let v = self.v;
        if let Some(f) = v.failures.get(name) {
            if f.retry_at > v.now {
                out.waiting.insert(name.to_owned(), (f.reason.clone(), f.message.clone()));
                out.wake(f.retry_at);
                return;
            }
            // Until the next try has ended the last one's reason stands.
            out.waiting.insert(name.to_owned(), (f.reason.clone(), f.message.clone()));
        }
        let after = last.and_then(|l| l.finished.or(l.started)).or_else(|| last.map(|l| l.created));
        if let Some(ended) = after
            && let Some(wait) = v.backoff.waiting(name, ended, v.now)
        {
            let message = format!("back-off {} restarting failed container={name} pod={}", go_duration(wait.delay), util::describe(v.pod));
            out.waiting.insert(name.to_owned(), ("CrashLoopBackOff".into(), message));
            out.wake(wait.until);
            return;
        }
        out.actions.push(Action::Start { kind, index, after });
    }

    fn kill(&self, out: &mut Plan, c: &Container, message: String, grace_s: Option<i64>) {
        if !self.v.killing.contains(&c.id) {
            out.actions.push(Action::Kill { id: c.id.clone(), message, grace_s });
        }
    }

    /// Kills a running container whose probes failed or whose spec changed; true if it is (being) killed.
    fn check_running(&self, out: &mut Plan, spec: &Spec, c: &Container) -> bool {
        let r = self.results(c);
        let changed = c.labels.get(label::CONTAINER_HASH).is_some_and(|h| *h != container_hash(spec));
        if changed {
            self.kill(out, c, format!("Container {} definition changed, will be restarted", spec.name), None);
        } else if r.startup_failed {
            let grace = spec.startup_probe.as_ref().and_then(|p| p.termination_grace_period_seconds);
            self.kill(out, c, format!("Container {} failed startup probe, will be restarted", spec.name), grace);
        } else if r.liveness_failed {
            let grace = spec.liveness_probe.as_ref().and_then(|p| p.termination_grace_period_seconds);
            self.kill(out, c, format!("Container {} failed liveness probe, will be restarted", spec.name), grace);
        }
        let outgrown = self.v.outgrown.contains(&c.id);
        if outgrown && !changed && !r.startup_failed && !r.liveness_failed {
            self.kill(out, c, format!("Container {} resize requires restart", spec.name), None);
        }
        changed || r.startup_failed || r.liveness_failed || outgrown
    }

    /// Walks the init containers in order up to the first that is not done.
    fn init(&self, out: &mut Plan) -> Init {
        let v = self.v;
        let Some(spec) = &v.pod.spec else { return Init::Done };
        // Once a regular container was made in this sandbox the plain init containers are history.
        let begun = spec.containers.iter().any(|c| latest(v.containers, &c.name, self.sandbox).is_some());
        let regular_over = begun && self.regular_over();
        for (i, c) in spec.init_containers.iter().flatten().enumerate() {
            let sidecar = is_sidecar(c);
            if begun && !sidecar {
                continue;
            }
            match latest(v.containers, &c.name, self.sandbox) {
                None => {
                    if !regular_over {
                        self.start(out, Kind::Init, i, &c.name, None);
                    }
                    if !begun {
                        return Init::Pending;
                    }
                }
                Some(s) if s.state == State::Exited => {
                    if !sidecar && s.exit_code == 0 {
                        continue;
                    }
                    if !restarts(v.pod, c, Kind::Init, s.exit_code) {
                        return Init::Failed;
                    }
                    if !regular_over {
                        self.start(out, Kind::Init, i, &c.name, Some(s));
                    }
                    if !begun {
                        return Init::Pending;
                    }
                }
                Some(s) if s.state == State::Running => {
                    let dying = self.check_running(out, c, s);
                    if !sidecar || (!begun && (dying || !self.results(s).started)) {
                        return Init::Pending;
                    }
                }
                // Made, but the start did not come to its end: it is made anew.
                Some(s) => {
                    if !v.busy {
                        self.start(out, Kind::Init, i, &c.name, Some(s));
                    }
                    if !begun {
                        return Init::Pending;
                    }
                }
            }
        }
        Init::Done
    }

    /// Every regular container has ended for good.
    fn regular_over(&self) -> bool {
        let Some(spec) = &self.v.pod.spec else { return true };
        spec.containers.iter().all(|c| {
            latest(self.v.containers, &c.name, self.sandbox).is_some_and(|s| s.state == State::Exited && !restarts(self.v.pod, c, Kind::Regular, s.exit_code))
        })
    }

    fn regular(&self, out: &mut Plan) {
        let v = self.v;
        let Some(spec) = &v.pod.spec else { return };
        for (i, c) in spec.containers.iter().enumerate() {
            let now = latest(v.containers, &c.name, self.sandbox);
            match now {
                None => self.start(out, Kind::Regular, i, &c.name, latest(v.containers, &c.name, None).filter(|s| s.state == State::Exited)),
                Some(s) if s.state == State::Exited => {
                    if restarts(v.pod, c, Kind::Regular, s.exit_code) {
                        self.start(out, Kind::Regular, i, &c.name, Some(s));
                    }
                }
                Some(s) if s.state == State::Running => {
                    self.check_running(out, c, s);
                }
                Some(s) => {
                    if !v.busy {
                        self.start(out, Kind::Regular, i, &c.name, Some(s));
                    }
                }
            }
        }
        if self.regular_over() {
            out.actions.retain(|a| !matches!(a, Action::Start { .. }));
            out.actions.push(Action::Finish);
        }
    }
}
