//! A pod's status from what the runtime shows: a pure function, by upstream's `generateAPIPodStatus`, `getPhase` and
//! `pkg/kubelet/status/generate.go`.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::SystemTime;

use k8s_openapi::api::core::v1::{
    Container as Spec, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, ContainerUser, HostIP,
    LinuxContainerUser, Pod, PodCondition, PodIP, PodSpec, PodStatus, ResourceRequirements, VolumeMountStatus,
};

use super::plan::{Kind, latest};
use super::resize::{Applied, Pending};
use crate::cri::{Container, ContainerId, Sandbox, State};
use crate::probes::Results;
use crate::resources::{is_sidecar, qos};
use crate::util::{self, time};

/// Everything that a status is made from.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The pod as the API has it.
    pub pod: &'a Pod,
    /// The status written last, or the API's.
    pub old: &'a PodStatus,
    /// The newest sandbox.
    pub sandbox: Option<&'a Sandbox>,
    /// The pod's containers.
    pub containers: &'a [Container],
    /// What the probes found.
    pub probes: &'a HashMap<ContainerId, Results>,
    /// Reason and message of waiting containers.
    pub waiting: &'a BTreeMap<String, (String, String)>,
    /// Messages that containers left behind.
    pub messages: &'a HashMap<ContainerId, String>,
    /// The resources that containers have, where that is known.
    pub applied: &'a Applied,
    /// Why new resources must wait; and that they are being given, with the error of the last try.
    pub resize: (Option<&'a Pending>, Option<Option<&'a str>>),
    /// Addresses of the node.
    pub host_ips: &'a [IpAddr],
    /// Addresses of the pod.
    pub pod_ips: &'a [IpAddr],
    /// Network and volumes are set up.
    pub set_up: bool,
    /// When this kubelet first saw the pod.
    pub start_time: SystemTime,
    /// A phase that does not follow from the containers (eviction, deadline): phase, reason and message.
    pub forced: Option<&'a (String, String, String)>,
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
    let ephemeral: Vec<ContainerStatus> = ephemeral.map(|c| container(v, &c, Kind::Ephemeral, false, v.terminal)).collect();
    let mut out = v.old.clone();
    let phase = match v.forced {
        Some((phase, reason, message)) => {
            out.reason = Some(reason.clone());
            out.message = Some(message.clone());
            phase.clone()
        }
        None => match v.old.phase.as_deref() {
            // A pod that has ended stays ended.
            Some(p @ ("Succeeded" | "Failed")) => p.to_owned(),
            _ => phase(spec, &init, &regular, v.terminal).to_owned(),
        },
    };
    let ended = phase == "Succeeded" || phase == "Failed";
    out.init_container_statuses = (!init.is_empty()).then_some(init);
    out.container_statuses = Some(regular);
    out.ephemeral_container_statuses = (!ephemeral.is_empty()).then_some(ephemeral);
    out.start_time.get_or_insert_with(|| time(v.start_time));
    out.qos_class = Some(qos(v.pod).as_str().to_owned());
    out.host_ip = v.host_ips.first().map(ToString::to_string);
    out.host_ips = Some(v.host_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect());
    if !v.pod_ips.is_empty() {
        out.pod_ip = v.pod_ips.first().map(ToString::to_string);
        out.pod_ips = Some(v.pod_ips.iter().map(|ip| PodIP { ip: ip.to_string() }).collect());
    }
    out.observed_generation = v.pod.metadata.generation;
    out.phase = Some(phase);
    conditions(v, spec, &mut out, ended);
    out
}

fn state_of(v: &View<'_>, c: &Container) -> ContainerState {
    match c.state {
        State::Created => waiting("ContainerCreating", ""),
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
    ContainerStateTerminated {
        container_id: Some(format!("{}://{}", v.scheme, c.id)),
        exit_code: c.exit_code,
        finished_at: c.finished.map(time),
        message,
        reason: Some(reason.to_owned()),
        signal: None,
        started_at: Some(time(c.started.unwrap_or(c.created))),
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
    let before = current.and_then(|c| v.containers.iter().filter(|o| o.name == c.name && o.attempt < c.attempt).max_by_key(|o| o.attempt));
    let old = old_status(v.old, kind, &spec.name);
    let mut out = ContainerStatus { name: spec.name.clone(), image: spec.image.clone().unwrap_or_default(), ..ContainerStatus::default() };
    out.restart_count = current.map_or(old.map_or(0, |o| o.restart_count), |c| i32::try_from(c.attempt).unwrap_or(i32::MAX));
    out.last_state = Some(ContainerState { terminated: before.map(|b| terminated(v, b)), ..ContainerState::default() });
    if before.is_none()
        && let Some(o) = old.filter(|o| o.restart_count > 0 && o.restart_count == out.restart_count)
    {
        out.last_state.clone_from(&o.last_state);
    }
    let default_reason = if has_init { "PodInitializing" } else { "ContainerCreating" };
    let mut state = match current {
        Some(c) => state_of(v, c),
        None if lost => unknown_end(old),
        None if v.terminal && old.is_some_and(|o| failed(o.state.as_ref()).is_some()) => unknown_end(old),
        None => waiting(default_reason, ""),
    };
    if let Some(c) = current {
        out.container_id = Some(format!("{}://{}", v.scheme, c.id));
        out.image_id.clone_from(&c.image_id);
        out.image.clone_from(&c.image);
        if let Some((uid, gid, groups)) = &c.user {
            let linux = LinuxContainerUser { uid: *uid, gid: *gid, supplemental_groups: Some(groups.clone()) };
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
    details(&mut out, spec, current.and_then(|c| v.applied.get(&c.id)));
    out
}

/// What repeats the spec: resources and mounts.
fn details(out: &mut ContainerStatus, spec: &Spec, has: Option<&ResourceRequirements>) {
    if out.container_id.is_some() {
        let has = has.or(spec.resources.as_ref()).cloned().unwrap_or_default();
        out.allocated_resources = has.requests.clone().filter(|r| !r.is_empty());
        out.resources = Some(has);
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

#[derive(Default)]
struct Count {
    waiting: usize,
    running: usize,
    stopped: usize,
    succeeded: usize,
    unknown: usize,
}

fn failed(state: Option<&ContainerState>) -> Option<bool> {
    state.and_then(|s| s.terminated.as_ref()).map(|t| t.exit_code != 0)
}

/// The phase, by upstream's `getPhase`.
fn phase(spec: &PodSpec, init: &[ContainerStatus], regular: &[ContainerStatus], terminal: bool) -> &'static str {
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let (mut pending, mut failures) = (0, 0);
    for (c, s) in spec.init_containers.iter().flatten().zip(init) {
        let sidecar = is_sidecar(c);
        let own = c.restart_policy.as_deref().unwrap_or(policy);
        match (failed(s.state.as_ref()), s.state.as_ref().is_some_and(|x| x.running.is_some())) {
            (Some(true), _) if !sidecar && own == "Never" => failures += 1,
            (Some(true), _) if !sidecar => pending += 1,
            (Some(_), _) => {}
            (None, true) if sidecar => pending += usize::from(s.started != Some(true)),
            (None, _) => pending += 1,
        }
    }
    let mut n = Count::default();
    for s in regular {
        match &s.state {
            Some(x) if x.running.is_some() => n.running += 1,
            Some(x) if x.terminated.is_some() => {
                n.stopped += 1;
                n.succeeded += usize::from(failed(Some(x)) == Some(false));
            }
            Some(x) if x.waiting.is_some() => {
                if s.last_state.as_ref().is_some_and(|l| l.terminated.is_some()) {
                    n.stopped += 1;
                } else {
                    n.waiting += 1;
                }
            }
            _ => n.unknown += 1,
        }
    }
    let begun = n.running + n.stopped > 0;
    if failures > 0 {
        return "Failed";
    }
    if pending > 0 && !begun && !terminal {
        return "Pending";
    }
    match n {
        Count { waiting, .. } if waiting > 0 => "Pending",
        Count { running, unknown: 0, .. } if running > 0 => "Running",
        Count { running: 0, unknown: 0, stopped, succeeded, .. } if stopped > 0 => {
            let good = stopped == succeeded;
            let may_restart = spec.containers.iter().zip(regular).any(|(c, s)| {
                let own = c.restart_policy.as_deref().unwrap_or(policy);
                own == "Always" || (own == "OnFailure" && failed(s.state.as_ref()) != Some(false)) || s.state.as_ref().is_some_and(|x| x.waiting.is_some())
            });
            match (terminal, may_restart, good) {
                (false, true, _) => "Running",
                (_, _, true) => "Succeeded",
                _ => "Failed",
            }
        }
        _ => "Pending",
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
    let all = init.map(|(_, s)| s).chain(status.container_statuses.iter().flatten());
    let unready: Vec<&str> = all.filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
    match named("unready status", &unready) {
        None => yes(),
        Some(message) => no("ContainersNotReady", message),
    }
}

fn initialized(spec: &PodSpec, status: &PodStatus) -> Verdict {
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
    match named("incomplete status", &incomplete) {
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
    let network = if ended || v.terminal { no("", None) } else { Verdict { status: v.set_up && v.sandbox.is_some_and(|s| s.ready), ..yes() } };
    let network = Verdict { reason: None, ..network };
    let initialized = initialized(spec, out);
    // Conditions of others come from the API's object, which may be newer than what was written last.
    let mut list: Vec<PodCondition> = v
        .pod
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten())
        .filter(|c| {
            !matches!(
                c.type_.as_str(),
                "PodReadyToStartContainers" | "Initialized" | "Ready" | "ContainersReady" | "PodScheduled" | "PodResizePending" | "PodResizeInProgress"
            )
        })
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
            observed_generation: generation,
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
    if let Some((reason, message)) = v.resize.0 {
        set("PodResizePending", Verdict { status: true, reason: Some(reason), message: Some(message.clone()) });
    }
    if let Some(error) = v.resize.1 {
        set("PodResizeInProgress", Verdict { status: true, reason: error.map(|_| "Error"), message: error.map(str::to_owned) });
    }
    out.conditions = Some(list);
}
