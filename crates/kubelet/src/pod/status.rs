//! A pod's status from what the runtime shows: a pure function, by upstream's `generateAPIPodStatus`, `getPhase` and
//! `pkg/kubelet/status/generate.go`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::time::SystemTime;

use k8s_openapi::api::core::v1::{
    Container as Spec, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, ContainerUser, HostIP,
    LinuxContainerUser, Pod, PodCondition, PodIP, PodSpec, PodStatus, ResourceRequirements, VolumeMountStatus,
};

use super::lost;
use super::plan::{self, Kind, latest};
use super::resize::{self, Applied, Pending};
use crate::cri::{Container, ContainerId, Sandbox, State};
use crate::probes::results::Results;
use crate::resources::{is_sidecar, qos};
use crate::util::{self, time};

/// A phase that does not follow from the containers: refusal, eviction, deadline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forced {
    /// The phase.
    pub phase: String,
    /// Reason of the status.
    pub reason: String,
    /// Message of the status.
    pub message: String,
    /// Message of the condition `DisruptionTarget`, by which Jobs tell a disruption from a failure.
    pub disruption: Option<String>,
}

impl Forced {
    /// The pod has failed.
    #[must_use]
    pub fn failed(reason: &str, message: String) -> Self {
        Self { phase: "Failed".into(), reason: reason.into(), message, disruption: None }
    }
}

/// Most bytes that the containers of a pod say together as they end (upstream's `MaxPodTerminationMessageLogLength`).
const MESSAGES_MAX: usize = 12 * 1024;
/// The condition that all containers are being removed to begin anew.
const RESTARTING_ALL: &str = "AllContainersRestarting";
/// The condition that a pod goes though it did nothing.
const DISRUPTION: &str = "DisruptionTarget";
/// The conditions that are made here; those of others stay as they are.
pub(crate) const OWN: [&str; 9] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "PodResizePending",
    "PodResizeInProgress",
    RESTARTING_ALL,
    DISRUPTION,
];

/// Whether the API was told that all containers of the pod are to begin anew.
#[must_use]
pub fn restarts_all(pod: &Pod) -> bool {
    pod.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.type_ == RESTARTING_ALL && c.status == "True")
}

/// Everything that a status is made from.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The pod as the API has it, but for resources that it cannot have yet.
    pub pod: &'a Pod,
    /// The status written last, or the API's.
    pub old: &'a PodStatus,
    /// The newest sandbox.
    pub sandbox: Option<&'a Sandbox>,
    /// The pod's containers.
    pub containers: &'a [Container],
    /// Runs that were removed so that all began anew, and whose next run there is.
    pub removed: &'a [Container],
    /// Containers that were killed or removed to be started again.
    pub again: &'a HashSet<ContainerId>,
    /// What the probes found.
    pub probes: &'a HashMap<ContainerId, Results>,
    /// Reason and message of waiting containers.
    pub waiting: &'a BTreeMap<String, (String, String)>,
    /// Messages that containers left behind.
    pub messages: &'a HashMap<ContainerId, String>,
    /// The resources that containers have, where that is known.
    pub applied: &'a Applied,
    /// What the pod as a whole has, where that is known.
    pub of_all: Option<&'a ResourceRequirements>,
    /// Why new resources must wait; and that they are being given, with the error of the last try.
    pub resize: (Option<&'a Pending>, Option<Option<&'a str>>),
    /// The generation whose resources are being given.
    pub resizing: Option<i64>,
    /// Addresses of the node.
    pub host_ips: &'a [IpAddr],
    /// Addresses of the pod.
    pub pod_ips: &'a [IpAddr],
    /// Network and volumes are set up.
    pub set_up: bool,
    /// When this kubelet first saw the pod.
    pub start_time: SystemTime,
    /// A phase that does not follow from the containers.
    pub forced: Option<&'a Forced>,
    /// All has ended and nothing will be started again.
    pub terminal: bool,
    /// Scheme of container IDs.
    pub scheme: &'a str,
    /// Now.
    pub now: SystemTime,
}

/// The status.
#[must_use]
pub fn generate(v: &View<'_>) -> PodStatus {
    let Some(spec) = &v.pod.spec else { return v.old.clone() };
    let has_init = spec.init_containers.iter().flatten().next().is_some();
    let (reached, begun) = (init_reached(v, spec), v.terminal && initialized_once(v, spec));
    let init = spec.init_containers.iter().flatten().enumerate();
    let init: Vec<ContainerStatus> = init.map(|(i, c)| container(v, c, Kind::Init, has_init, v.terminal && i < reached)).collect();
    let regular: Vec<ContainerStatus> = spec.containers.iter().map(|c| container(v, c, Kind::Regular, has_init, begun)).collect();
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(util::ephemeral_as_container);
    let ephemeral: Vec<ContainerStatus> = ephemeral.map(|c| container(v, &c, Kind::Ephemeral, has_init, v.terminal)).collect();
    let mut out = v.old.clone();
    let told = v.pod.status.as_ref();
    let over = |s: &PodStatus| s.phase.clone().filter(|p| p == "Succeeded" || p == "Failed");
    // A pod that has ended stays ended, also where another writer said so (upstream's `generateAPIPodStatus`).
    let phase = told.and_then(over).or_else(|| v.forced.map(|f| f.phase.clone())).or_else(|| over(v.old));
    let phase = phase.unwrap_or_else(|| phase_of(v, spec, &init, &regular).to_owned());
    if v.old.phase.as_deref() != Some(phase.as_str()) {
        // They told of the phase before.
        (out.reason, out.message) = (None, None);
        if let Some(told) = told.filter(|t| t.phase.as_deref() == Some(phase.as_str())) {
            (out.reason, out.message) = (told.reason.clone(), told.message.clone());
        }
    }
    if let Some(f) = v.forced.filter(|f| f.phase == phase) {
        (out.reason, out.message) = (Some(f.reason.clone()), Some(f.message.clone()));
    }
    let ended = phase == "Succeeded" || phase == "Failed";
    out.init_container_statuses = (!init.is_empty()).then_some(init);
    out.container_statuses = Some(by_name(regular));
    out.ephemeral_container_statuses = (!ephemeral.is_empty()).then(|| by_name(ephemeral));
    out.start_time.get_or_insert_with(|| time(v.start_time));
    out.qos_class = Some(qos(v.pod).as_str().to_owned());
    out.host_ip = v.host_ips.first().map(ToString::to_string);
    out.host_ips = Some(v.host_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect());
    if !v.pod_ips.is_empty() {
        out.pod_ip = v.pod_ips.first().map(ToString::to_string);
        out.pod_ips = Some(v.pod_ips.iter().map(|ip| PodIP { ip: ip.to_string() }).collect());
    }
    (out.allocated_resources, out.resources) = resize::totals(&resize::in_force(v.pod, v.containers, v.applied, v.of_all), phase == "Running");
    out.observed_generation = v.pod.metadata.generation;
    out.phase = Some(phase);
    bound_messages(spec, &mut out);
    conditions(v, spec, &mut out, ended);
    out
}

/// Statuses are told by name, whatever the order in the spec; those of init containers alone are in its order (upstream's
/// `SortedContainerStatuses`).
fn by_name(mut statuses: Vec<ContainerStatus>) -> Vec<ContainerStatus> {
    statuses.sort_by(|a, b| a.name.cmp(&b.name));
    statuses
}

/// Cuts the containers' messages to a share each of what a pod may say.
fn bound_messages(spec: &PodSpec, out: &mut PodStatus) {
    let containers = spec.containers.len() + spec.init_containers.iter().flatten().count() + spec.ephemeral_containers.iter().flatten().count();
    let each = MESSAGES_MAX / containers.max(1);
    let lists = [&mut out.init_container_statuses, &mut out.container_statuses, &mut out.ephemeral_container_statuses];
    for told in lists.into_iter().flat_map(|list| list.iter_mut().flatten()) {
        for state in [&mut told.state, &mut told.last_state] {
            if let Some(message) = state.as_mut().and_then(|s| s.terminated.as_mut()?.message.as_mut()) {
                let length = util::truncate(message, each).len();
                message.truncate(length);
            }
        }
    }
}

fn state_of(v: &View<'_>, c: &Container, default_reason: &str) -> ContainerState {
    match c.state {
        State::Created => waiting(default_reason, ""),
        // A lost run says nothing of now: the next one is waited for.
        State::Exited if lost::unseen(c) && !v.terminal => waiting(default_reason, ""),
        State::Running => ContainerState { running: Some(ContainerStateRunning { started_at: c.started.map(time) }), ..ContainerState::default() },
        State::Exited => ContainerState { terminated: Some(terminated(v, c)), ..ContainerState::default() },
    }
}

fn terminated(v: &View<'_>, c: &Container) -> ContainerStateTerminated {
    let reason = if c.oom_killed {
        "OOMKilled"
    } else if !c.reason.is_empty() {
        c.reason.as_str()
    } else if c.exit_code == 0 {
        "Completed"
    } else {
        "Error"
    };
    let message = v.messages.get(&c.id).cloned().filter(|m| !m.is_empty()).or_else(|| Some(c.message.clone()).filter(|m| !m.is_empty()));
    let seen = !lost::unseen(c);
    ContainerStateTerminated {
        container_id: seen.then(|| format!("{}://{}", v.scheme, c.id)),
        exit_code: c.exit_code,
        finished_at: c.finished.map(time),
        message,
        reason: Some(reason.to_owned()),
        signal: None,
        started_at: seen.then(|| time(c.started.unwrap_or(c.created))),
    }
}

fn waiting(reason: &str, message: &str) -> ContainerState {
    let message = (!message.is_empty()).then(|| message.to_owned());
    ContainerState { waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }), ..ContainerState::default() }
}

/// Whether there is a trace of a container having run.
fn traced(v: &View<'_>, kind: Kind, name: &str) -> bool {
    latest(v.containers, name, None).is_some_and(|c| c.state != State::Created)
        || old_status(v.old, kind, name).is_some_and(|o| {
            let out = |s: &Option<ContainerState>| s.as_ref().is_some_and(|s| s.running.is_some() || s.terminated.is_some());
            out(&o.state) || out(&o.last_state)
        })
}

/// How many init containers were come to (upstream's `initializedContainers`).
fn init_reached(v: &View<'_>, spec: &PodSpec) -> usize {
    let init: Vec<&Spec> = spec.init_containers.iter().flatten().collect();
    init.iter().rposition(|c| traced(v, Kind::Init, &c.name)).map_or(0, |i| i + 1)
}

/// Whether the pod was ever initialised, so that a container without a trace is one that was lost (upstream's `hasPodInitialized`).
fn initialized_once(v: &View<'_>, spec: &PodSpec) -> bool {
    let Some(last) = spec.init_containers.iter().flatten().last() else { return true };
    let completed = latest(v.containers, &last.name, None).is_some_and(|c| c.state == State::Exited && c.exit_code == 0)
        || old_status(v.old, Kind::Init, &last.name).and_then(|o| failed(o.state.as_ref())) == Some(false);
    completed || spec.containers.iter().any(|c| traced(v, Kind::Regular, &c.name))
}

/// The status of one container; `lost`: without a trace of it, it counts as ended.
fn container(v: &View<'_>, spec: &Spec, kind: Kind, has_init: bool, lost: bool) -> ContainerStatus {
    let current = latest(v.containers, &spec.name, None);
    // One that was made, and never begun since a kubelet died in between, was no run.
    let earlier = |c: &Container, o: &&Container| o.name == c.name && o.attempt < c.attempt && o.state == State::Exited;
    let runs = || v.containers.iter().chain(v.removed);
    let before = current.and_then(|c| runs().filter(|o| earlier(c, o)).max_by_key(|o| o.attempt));
    let old = old_status(v.old, kind, &spec.name);
    let mut out = ContainerStatus { name: spec.name.clone(), image: spec.image.clone().unwrap_or_default(), ..ContainerStatus::default() };
    out.restart_count = current.map_or(old.map_or(0, |o| o.restart_count), |c| i32::try_from(c.attempt).unwrap_or(i32::MAX));
    // Runs are removed, restarts stay counted.
    if let (Some(c), Some(o)) = (current, old)
        && !lost::unseen(c)
    {
        out.restart_count = out.restart_count.max(o.restart_count);
    }
    out.last_state = Some(ContainerState { terminated: before.map(|b| terminated(v, b)), ..ContainerState::default() });
    if before.is_none()
        && let Some(o) = old
    {
        // The run before this one may be known to the API alone.
        let own = current.map(|c| format!("{}://{}", v.scheme, c.id));
        let ends = [o.state.as_ref().filter(|_| own.is_some()), o.last_state.as_ref()];
        let ends = ends.into_iter().flatten().filter_map(|s| s.terminated.as_ref());
        let last = ends.into_iter().find(|t| own.is_none() || t.container_id != own);
        out.last_state = Some(ContainerState { terminated: last.cloned(), ..ContainerState::default() });
    }
    let default_reason = if has_init { "PodInitializing" } else { "ContainerCreating" };
    let mut state = match current {
        Some(c) => state_of(v, c, default_reason),
        None if lost => unknown_end(old),
        None if v.terminal && old.is_some_and(|o| failed(o.state.as_ref()).is_some()) => unknown_end(old),
        None => waiting(default_reason, ""),
    };
    if let Some(c) = current.filter(|c| lost::unseen(c)) {
        // The end that nobody saw counts as a restart (upstream's `convertToAPIContainerStatuses`).
        out.last_state = Some(ContainerState { terminated: Some(terminated(v, c)), ..ContainerState::default() });
        if v.pod.metadata.deletion_timestamp.is_none() {
            out.restart_count = out.restart_count.saturating_add(1);
        }
    } else if let Some(c) = current {
        out.container_id = Some(format!("{}://{}", v.scheme, c.id));
        out.image_id.clone_from(&c.image_id);
        out.image.clone_from(&c.image);
        if let Some((uid, gid, groups)) = &c.user {
            let mut groups = groups.clone();
            groups.sort_unstable();
            let linux = LinuxContainerUser { uid: *uid, gid: *gid, supplemental_groups: Some(groups) };
            out.user = Some(ContainerUser { linux: Some(linux) });
        }
    }
    if !v.terminal
        && !current.is_some_and(Container::running)
        && let Some((reason, message)) = v.waiting.get(&spec.name)
    {
        if let Some(t) = state.terminated.take() {
            out.last_state = Some(ContainerState { terminated: Some(t), ..ContainerState::default() });
        }
        state = waiting(reason, message);
    }
    let results = current.and_then(|c| v.probes.get(&c.id)).copied().unwrap_or_default();
    let running = current.is_some_and(Container::running);
    let sidecar = kind == Kind::Init && is_sidecar(spec);
    out.started = Some(running && results.started);
    out.ready = match kind {
        Kind::Init if !sidecar => state.terminated.as_ref().is_some_and(|t| t.exit_code == 0),
        Kind::Ephemeral => false,
        _ => running && results.started && results.ready,
    };
    if kind == Kind::Ephemeral {
        out.started = None;
    }
    out.state = Some(state);
    let level = v.of_all.or_else(|| v.pod.spec.as_ref()?.resources.as_ref()).filter(|_| running);
    details(&mut out, spec, current.and_then(|c| v.applied.get(&c.id)), level);
    out
}

/// What repeats the spec: resources, of one that runs with what it has from the pod as a whole, and mounts.
fn details(out: &mut ContainerStatus, spec: &Spec, has: Option<&ResourceRequirements>, level: Option<&ResourceRequirements>) {
    if out.container_id.is_some() {
        let has = has.or(spec.resources.as_ref()).cloned().unwrap_or_default();
        out.allocated_resources = has.requests.clone().filter(|r| !r.is_empty());
        out.resources = Some(level.map_or_else(|| has.clone(), |level| resize::shown(&has, level)));
    }
    let mounts: Vec<VolumeMountStatus> = spec
        .volume_mounts
        .iter()
        .flatten()
        .map(|m| {
            let readonly = m.read_only.unwrap_or(false);
            VolumeMountStatus {
                mount_path: m.mount_path.clone(),
                name: m.name.clone(),
                read_only: readonly.then_some(true),
                recursive_read_only: readonly.then(|| match m.recursive_read_only.as_deref() {
                    Some("Enabled" | "IfPossible") => "Enabled".to_owned(),
                    _ => "Disabled".to_owned(),
                }),
                ..VolumeMountStatus::default()
            }
        })
        .collect();
    out.volume_mounts = (!mounts.is_empty()).then_some(mounts);
}

fn old_status<'a>(old: &'a PodStatus, kind: Kind, name: &str) -> Option<&'a ContainerStatus> {
    let list = match kind {
        Kind::Init => &old.init_container_statuses,
        Kind::Regular => &old.container_statuses,
        Kind::Ephemeral => &old.ephemeral_container_statuses,
    };
    list.iter().flatten().find(|c| c.name == name)
}

/// The pod has ended and the runtime knows nothing of this container: its former end stands, or it is told that nobody knows.
fn unknown_end(old: Option<&ContainerStatus>) -> ContainerState {
    if let Some(state) = old.and_then(|o| o.state.as_ref()).filter(|s| s.terminated.is_some()) {
        return state.clone();
    }
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".into()),
            message: Some("The container could not be located when the pod was terminated".into()),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    }
}

fn failed(state: Option<&ContainerState>) -> Option<bool> {
    state.and_then(|s| s.terminated.as_ref()).map(|t| t.exit_code != 0)
}

/// Whether a container that has ended is followed by another run: the rule of the planner.
fn goes_on(v: &View<'_>, c: &Spec, kind: Kind, s: &ContainerStatus, end: &ContainerStateTerminated) -> bool {
    let killed = latest(v.containers, &s.name, None).is_some_and(|run| v.again.contains(&run.id));
    killed || end.reason.as_deref() == Some(lost::RESTARTING_ALL) || plan::restarts(v.pod, c, kind, end.exit_code)
}

/// The end that a status tells of: of this run, or of the one before while the next is waited for.
fn end_of(s: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    let terminated = |x: &'_ Option<ContainerState>| x.as_ref().is_some_and(|x| x.terminated.is_some());
    let of = if terminated(&s.state) { &s.state } else { &s.last_state };
    of.as_ref().and_then(|x| x.terminated.as_ref())
}

/// The phase, by upstream's `getPhase`.
fn phase_of(v: &View<'_>, spec: &PodSpec, init: &[ContainerStatus], regular: &[ContainerStatus]) -> &'static str {
    let runs = |s: &ContainerStatus| s.state.as_ref().is_some_and(|x| x.running.is_some());
    let (mut pending, mut failures, mut running, mut waiting) = (0, 0, 0, 0);
    for (c, s) in spec.init_containers.iter().flatten().zip(init) {
        match (is_sidecar(c), end_of(s)) {
            (true, _) if runs(s) => {
                running += 1;
                pending += usize::from(s.started != Some(true));
            }
            (true, Some(_)) => {}
            (true, None) => {
                pending += 1;
                waiting += 1;
            }
            (false, Some(end)) if !runs(s) => failures += usize::from(end.exit_code != 0 && !goes_on(v, c, Kind::Init, s, end)),
            (false, _) => pending += 1,
        }
        // One that failed and is tried again is not done yet.
        let again = !is_sidecar(c) && !runs(s) && end_of(s).is_some_and(|e| e.exit_code != 0);
        pending += usize::from(again);
    }
    let (mut stopped, mut over, mut succeeded) = (0, 0, 0);
    for (c, s) in spec.containers.iter().zip(regular) {
        match end_of(s) {
            _ if runs(s) => running += 1,
            Some(end) => {
                stopped += 1;
                over += usize::from(!goes_on(v, c, Kind::Regular, s, end));
                succeeded += usize::from(s.state.as_ref().is_some_and(|x| x.terminated.is_some()) && end.exit_code == 0);
            }
            None => waiting += 1,
        }
    }
    let begun = regular.iter().any(|s| runs(s) || end_of(s).is_some());
    if failures > 0 {
        return "Failed";
    }
    if (pending > 0 && !begun && !v.terminal) || waiting > 0 {
        return "Pending";
    }
    match (running, stopped) {
        (0, 0) => "Pending",
        (0, _) if !v.terminal && over < stopped => "Running",
        (0, _) if succeeded == stopped => "Succeeded",
        (0, _) => "Failed",
        _ => "Running",
    }
}

struct Verdict {
    status: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

fn yes() -> Verdict {
    Verdict { status: true, reason: None, message: None }
}

fn no(reason: &'static str, message: impl Into<Option<String>>) -> Verdict {
    Verdict { status: false, reason: Some(reason), message: message.into() }
}

fn named(what: &str, names: &[&str]) -> Option<String> {
    (!names.is_empty()).then(|| format!("containers with {what}: [{}]", names.join(" ")))
}

fn containers_ready(spec: &PodSpec, status: &PodStatus) -> Verdict {
    match status.phase.as_deref() {
        Some("Succeeded") => return no("PodCompleted", None),
        Some("Failed") => return no("PodFailed", None),
        _ => {}
    }
    let init = spec.init_containers.iter().flatten().zip(status.init_container_statuses.iter().flatten()).filter(|(c, _)| is_sidecar(c));
    let regular = spec.containers.iter().filter_map(|c| status.container_statuses.iter().flatten().find(|s| s.name == c.name));
    let all = init.map(|(_, s)| s).chain(regular);
    let unready: Vec<&str> = all.filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
    match named("unready status", &unready) {
        None => yes(),
        Some(message) => no("ContainersNotReady", message),
    }
}

/// Whether the init containers have done their work. They have for ever: one that is begun anew takes nothing back.
fn initialized(spec: &PodSpec, old: &PodStatus, status: &PodStatus) -> Verdict {
    if status.phase.as_deref() == Some("Succeeded") {
        return Verdict { reason: Some("PodCompleted"), ..yes() };
    }
    let begun = status.container_statuses.iter().flatten().any(|s| s.container_id.is_some());
    let incomplete: Vec<&str> = spec
        .init_containers
        .iter()
        .flatten()
        .zip(status.init_container_statuses.iter().flatten())
        .filter(|(c, s)| if is_sidecar(c) { s.started != Some(true) && !begun } else { !s.ready && !begun })
        .map(|(_, s)| s.name.as_str())
        .collect();
    let once = old.conditions.iter().flatten().any(|c| c.type_ == "Initialized" && c.status == "True");
    match named("incomplete status", &incomplete).filter(|_| !once) {
        None => yes(),
        Some(message) => no("ContainersNotInitialized", message),
    }
}

fn ready(spec: &PodSpec, old: &PodStatus, containers: &Verdict) -> Verdict {
    if !containers.status {
        return Verdict { status: false, reason: containers.reason, message: containers.message.clone() };
    }
    let condition = |t: &str| old.conditions.iter().flatten().find(|c| c.type_ == t);
    let mut missing = Vec::new();
    for gate in spec.readiness_gates.iter().flatten() {
        match condition(&gate.condition_type) {
            None => missing.push(format!("corresponding condition of pod readiness gate {:?} does not exist.", gate.condition_type)),
            Some(c) if c.status != "True" => {
                missing.push(format!("the status of pod readiness gate {:?} is not \"True\", but {}", gate.condition_type, c.status));
            }
            Some(_) => {}
        }
    }
    if missing.is_empty() { yes() } else { no("ReadinessGatesNotReady", missing.join(", ")) }
}

/// Sets the kubelet's own conditions and leaves the others as they are.
fn conditions(v: &View<'_>, spec: &PodSpec, out: &mut PodStatus, ended: bool) {
    let containers = containers_ready(spec, out);
    let gates = v.pod.status.as_ref().unwrap_or(v.old);
    let pod_ready = ready(spec, gates, &containers);
    let lacking = match v.sandbox {
        Some(s) if !s.ready || ended || v.terminal => Some("pod sandbox is not ready"),
        Some(_) if v.set_up => None,
        // Upstream's comes after the volumes, and is there with its addresses or not at all.
        _ => Some("no pod sandbox exists"),
    };
    let network = lacking.map_or_else(yes, |why| no("PodSandboxNotReady", why.to_owned()));
    let initialized = initialized(spec, v.old, out);
    // Conditions of others come from the API's object, which may be newer than what was written last.
    let mut list: Vec<PodCondition> = v
        .pod
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten())
        // A disruption that another announced stays as it was said.
        .filter(|c| !OWN.contains(&c.type_.as_str()) || (c.type_ == DISRUPTION && v.forced.is_none_or(|f| f.disruption.is_none())))
        .cloned()
        .collect();
    let generation = v.pod.metadata.generation;
    let mut set = |type_: &str, verdict: Verdict| {
        let before = v.old.conditions.iter().flatten().find(|c| c.type_ == type_);
        let status = if verdict.status { "True" } else { "False" };
        let transition = before.filter(|b| b.status == status).and_then(|b| b.last_transition_time.clone()).unwrap_or_else(|| time(v.now));
        list.push(PodCondition {
            last_probe_time: None,
            last_transition_time: Some(transition),
            message: verdict.message,
            // As upstream, of this one alone it is not told.
            observed_generation: generation.filter(|_| type_ != RESTARTING_ALL),
            reason: verdict.reason.map(str::to_owned),
            status: status.to_owned(),
            type_: type_.to_owned(),
        });
    };
    set("PodReadyToStartContainers", network);
    set("Initialized", initialized);
    set("Ready", pod_ready);
    set("ContainersReady", containers);
    set("PodScheduled", yes());
    if let Some(message) = v.forced.and_then(|f| f.disruption.clone()) {
        set(DISRUPTION, Verdict { status: true, reason: Some("TerminationByKubelet"), message: Some(message) });
    }
    let rules = |c: &Spec| c.restart_policy_rules.iter().flatten().any(|r| r.action == "RestartAllContainers");
    if spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(rules) {
        let source = |c: &Spec| latest(v.containers, &c.name, None).filter(|run| run.state == State::Exited && !v.again.contains(&run.id));
        let hit = |c: &Spec| source(c).is_some_and(|run| plan::restarts_all(c, run.exit_code));
        let begins = spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(hit);
        set(
            RESTARTING_ALL,
            match out.phase.as_deref() {
                Some("Succeeded") => no("PodCompleted", None),
                Some("Failed") => no("PodFailed", None),
                _ if begins => {
                    Verdict { message: Some("container exited with restart policy rule".into()), reason: Some("RestartAllContainersStarted"), status: true }
                }
                _ => Verdict { reason: None, ..no("", None) },
            },
        );
    }
    list.extend(resize_conditions(v));
    out.conditions = Some(list);
}

/// The conditions of a change of resources (upstream's `updatedPodResizeCondition`): another reason is another transition, and the one of what is being
/// given is of the generation that asked for it, whatever was asked for since. Of a pod that has ended nothing changes any more.
fn resize_conditions(v: &View<'_>) -> Vec<PodCondition> {
    if v.terminal {
        return Vec::new();
    }
    let generation = v.pod.metadata.generation;
    let made = |type_: &str, reason: Option<&str>, message: Option<&str>, generation: Option<i64>| {
        let before = v.old.conditions.iter().flatten().find(|c| c.type_ == type_ && c.reason.as_deref() == reason);
        let unchanged = before.filter(|b| b.message.as_deref() == message && b.observed_generation == generation);
        PodCondition {
            last_probe_time: unchanged.and_then(|b| b.last_probe_time.clone()).or_else(|| Some(time(v.now))),
            last_transition_time: before.and_then(|b| b.last_transition_time.clone()).or_else(|| Some(time(v.now))),
            message: message.map(str::to_owned),
            observed_generation: generation,
            reason: reason.map(str::to_owned),
            status: "True".to_owned(),
            type_: type_.to_owned(),
        }
    };
    let pending = v.resize.0.map(|(reason, message)| made("PodResizePending", Some(reason), Some(message), generation));
    let given = v.resize.1.map(|error| made("PodResizeInProgress", error.map(|_| "Error"), error, v.resizing.or(generation)));
    pending.into_iter().chain(given).collect()
}
