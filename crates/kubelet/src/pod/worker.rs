//! The worker of one pod: one task that wakes on events, plans, starts what the plan says, and publishes the status.
//!
//! A pod's life here is a [`Stage`]. Everything that takes time runs as a task beside the worker (one set-up or start at a
//! time, any number of stops), so that a worker always answers: to a shorter grace period, to a probe, to the end of a process.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Container as Spec, Pod, PodStatus, ResourceRequirements};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::kill::{Kill, Turns};
use super::ops::{self, Start, StartError};
use super::plan::{self, Action, Failure, Kind, Plan, latest};
use super::resize::{self, Applied, Pending};
use super::setup::{self, SetUp, SetUpError};
use super::{Context, Handle, messages, status};
use crate::api::Severity;
use crate::cri::{Container, ContainerId, Sandbox, State};
use crate::probes::Probes;
use crate::resources;
use crate::status_writer::StatusWriter;
use crate::util;
use crate::volumes::payload::Source;
use crate::volumes::tokens::Tokens;
use crate::volumes::{self, Layout};

/// Wait before a failed start is tried again (upstream's `backOffPeriod`).
const START_RETRY: Duration = Duration::from_secs(10);
/// First and longest wait before volumes and sandbox are tried again.
const SETUP_RETRY_MIN: Duration = Duration::from_millis(500);
const SETUP_RETRY_MAX: Duration = Duration::from_secs(60);
/// How long a restart may take before the status tells that the container does not run.
const RESTART_UNTOLD: Duration = Duration::from_millis(500);
/// What an evicted pod gets between its stop signal and the end: a pod over its limit goes on filling the disk.
const EVICTION_GRACE: Duration = Duration::from_secs(1);
/// Wait before resources that could not be given are tried again.
const RESIZE_RETRY: Duration = Duration::from_secs(5);
/// Wait before a stop, a clean-up or a deletion that failed is tried again.
const CLEAN_RETRY: Duration = Duration::from_secs(2);

/// Where a pod is on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Kept running.
    Syncing,
    /// Its containers are being stopped.
    Terminating,
    /// No container runs; the sandbox and all on the host is being removed.
    Cleaning,
    /// Nothing is left on the host but logs; the API still has it.
    Ended,
    /// Nothing is left anywhere.
    Done,
}

enum Outcome {
    SetUp(Result<SetUp, SetUpError>),
    Started { name: String, result: Result<(), StartError> },
    Refreshed(Result<(), volumes::VolumeError>),
    Resized { done: Vec<(ContainerId, ResourceRequirements)>, error: Option<String> },
    Cleaned(Result<(), String>),
    Deleted(Result<(), String>),
}

struct Killing {
    deadline: watch::Sender<Instant>,
}

/// The worker.
pub struct Worker {
    cx: Arc<Context>,
    handle: Arc<Handle>,
    writer: StatusWriter,
    probes: Probes,
    stage: Stage,
    first_seen: SystemTime,
    tokens: Arc<Tokens>,
    set_up: Option<SetUp>,
    ips: Vec<IpAddr>,
    set_up_failures: u32,
    set_up_retry_at: Option<SystemTime>,
    failures: BTreeMap<String, Failure>,
    backoff: Backoff,
    waiting: BTreeMap<String, (String, String)>,
    messages: HashMap<ContainerId, String>,
    told_backoff: HashMap<String, String>,
    op: Option<JoinHandle<Outcome>>,
    kills: JoinSet<(ContainerId, Result<(), String>)>,
    killing: HashMap<ContainerId, Killing>,
    kill_retry_at: Option<SystemTime>,
    turns: Option<Turns>,
    stop_deadline: Option<Instant>,
    /// A container is being started again, or gets other resources, since then.
    restarting: Option<SystemTime>,
    applied: Applied,
    resize: (Option<Pending>, Option<Option<String>>),
    resize_retry_at: Option<SystemTime>,
    forced: Option<(String, String, String)>,
    /// Admission refused it.
    rejected: bool,
    /// It had ended when this process first saw it.
    settled: bool,
    clean_retry_at: Option<SystemTime>,
    cancel: CancellationToken,
}

fn spec_of(pod: &Pod, kind: Kind, index: usize) -> Option<Spec> {
    let spec = pod.spec.as_ref()?;
    match kind {
        Kind::Init => spec.init_containers.as_ref()?.get(index).cloned(),
        Kind::Regular => spec.containers.get(index).cloned(),
        Kind::Ephemeral => spec.ephemeral_containers.as_ref()?.get(index).map(util::ephemeral_as_container),
    }
}

/// Finds a container of the spec by name.
#[must_use]
pub fn find_spec(pod: &Pod, name: &str) -> Option<(Kind, Spec)> {
    let spec = pod.spec.as_ref()?;
    let init = spec.init_containers.iter().flatten().find(|c| c.name == name).map(|c| (Kind::Init, c.clone()));
    let regular = || spec.containers.iter().find(|c| c.name == name).map(|c| (Kind::Regular, c.clone()));
    let ephemeral = || spec.ephemeral_containers.iter().flatten().find(|c| c.name == name).map(|c| (Kind::Ephemeral, util::ephemeral_as_container(c)));
    init.or_else(regular).or_else(ephemeral)
}

impl Worker {
    /// A worker for a pod; `rejected` is the verdict of admission: reason and message.
    #[must_use]
    pub fn new(cx: Arc<Context>, handle: Arc<Handle>, rejected: Option<(String, String)>) -> Self {
        let pod = handle.pod();
        let probes = Probes::new(Arc::clone(&cx), Arc::clone(&handle));
        let writer = StatusWriter::spawn(Arc::clone(&cx.api), &pod);
        let mut worker = Self {
            writer,
            probes,
            stage: Stage::Syncing,
            first_seen: cx.now(),
            tokens: Arc::default(),
            set_up: None,
            ips: Vec::new(),
            set_up_failures: 0,
            set_up_retry_at: None,
            failures: BTreeMap::new(),
            backoff: Backoff::default(),
            waiting: BTreeMap::new(),
            messages: HashMap::new(),
            told_backoff: HashMap::new(),
            op: None,
            kills: JoinSet::new(),
            killing: HashMap::new(),
            kill_retry_at: None,
            turns: None,
            stop_deadline: None,
            restarting: None,
            applied: Applied::new(),
            resize: (None, None),
            resize_retry_at: None,
            forced: None,
            rejected: false,
            settled: false,
            clean_retry_at: None,
            cancel: CancellationToken::new(),
            cx,
            handle,
        };
        let ended = pod.status.as_ref().is_some_and(|s| matches!(s.phase.as_deref(), Some("Succeeded" | "Failed")));
        if let Some((reason, message)) = rejected.filter(|_| !ended) {
            worker.cx.api.pod_event(&pod, None, Severity::Warning, &reason, &message);
            worker.forced = Some(("Failed".into(), reason, format!("Pod was rejected: {message}")));
            worker.rejected = true;
            worker.begin_stop(&pod, None);
        } else if ended {
            worker.settled = true;
            worker.begin_stop(&pod, None);
        }
        worker.adopt(&pod);
        worker
    }

    /// Takes over what a former process left running.
    fn adopt(&mut self, pod: &Pod) {
        let Some(sandbox) = self.sandbox().filter(|s| s.ready) else { return };
        let told = pod.status.as_ref().map(|s| resize::told(s, &self.cx.scheme)).unwrap_or_default();
        self.applied = told.into_iter().map(|(id, r)| (ContainerId(id), r)).collect();
        let dir = self.cx.config.pod_dir(util::uid(pod));
        if let Some(ips) = setup::recorded_ips(&dir, &sandbox) {
            self.handle.ips.lock().clone_from(&ips);
            self.ips = ips;
        }
    }

    /// Runs until nothing of the pod is left, or the kubelet stops. Containers are left as they are in the latter case.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let wake_at = self.step();
            if self.stage == Stage::Done {
                self.cx.watches.release(&self.handle.uid);
                return;
            }
            let timer = async {
                match wake_at {
                    Some(at) => tokio::time::sleep(at.duration_since(self.cx.now()).unwrap_or_default()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.handle.notify.notified() => {}
                outcome = next_outcome(&mut self.op) => {
                    self.op = None;
                    self.finished(outcome);
                }
                Some(done) = self.kills.join_next() => self.killed(done.ok()),
                () = timer => {}
                () = shutdown.cancelled() => {
                    self.writer.flush().await;
                    return;
                }
            }
        }
    }

    fn sandbox(&self) -> Option<Sandbox> {
        self.cx.runtime.pod_sandboxes(&self.handle.uid).into_iter().max_by_key(|s| (s.attempt, s.created))
    }

    /// Looks at everything, begins what is to be done, publishes the status. Answers when to look again at the latest.
    fn step(&mut self) -> Option<SystemTime> {
        let pod = self.handle.pod();
        let now = self.cx.now();
        let sandbox = self.sandbox();
        let containers = self.cx.runtime.pod_containers(&self.handle.uid);
        self.read_messages(&containers);
        let serving = matches!(self.stage, Stage::Syncing | Stage::Terminating);
        if serving {
            self.probes.sync(&pod, &containers, &self.ips, self.stage == Stage::Terminating);
        }
        if self.handle.is_stale() {
            // What a start failed for may be what changed.
            for f in self.failures.values_mut().filter(|f| f.reason == "CreateContainerConfigError") {
                f.retry_at = now;
            }
        }
        let results = self.handle.results();
        let mut wake = None;
        if self.stage == Stage::Syncing {
            wake = self.check_end(&pod, now);
        }
        if self.stage == Stage::Syncing {
            let killing: HashSet<ContainerId> = self.killing.keys().cloned().collect();
            let live = sandbox.as_ref().filter(|s| s.ready);
            let outgrown = self.outgrown(&pod, &containers, now);
            wake = earliest(wake, self.resize_retry_at);
            let view = plan::View {
                pod: &pod,
                sandbox: sandbox.as_ref(),
                set_up: self.set_up.as_ref().is_some_and(|u| live.is_some_and(|s| s.id == u.sandbox.id)),
                set_up_retry_at: self.set_up_retry_at,
                containers: &containers,
                probes: &results,
                failures: &self.failures,
                backoff: &self.backoff,
                outgrown: &outgrown,
                killing: &killing,
                busy: self.op.is_some(),
                now,
            };
            let made = plan::plan(&view);
            wake = earliest(wake, made.wake_at);
            self.execute(&pod, made, sandbox.clone(), &containers, now);
            wake = earliest(wake, self.refresh(&pod, now));
        }
        if self.stage == Stage::Terminating {
            wake = earliest(wake, self.stop_all(&pod, &containers, now));
        }
        if matches!(self.stage, Stage::Cleaning | Stage::Ended) {
            wake = earliest(wake, self.clean(&pod, sandbox.as_ref(), &containers, now));
        }
        let told_at = self.restarting.filter(|_| self.stage == Stage::Syncing).map(|since| since + RESTART_UNTOLD);
        if let Some(at) = told_at.filter(|at| *at > now) {
            // A restart that takes a moment is told when it is done, as upstream's sync loop does: nobody acts on the moment.
            wake = earliest(wake, Some(at));
        } else if self.stage != Stage::Done {
            self.publish(&pod, sandbox.as_ref(), &containers, now);
        }
        wake
    }

    /// Whether the pod is to stop: deleted, or past its deadline.
    fn check_end(&mut self, pod: &Arc<Pod>, now: SystemTime) -> Option<SystemTime> {
        if self.handle.is_gone() || pod.metadata.deletion_timestamp.is_some() {
            self.begin_stop(pod, None);
            return None;
        }
        if let Some(message) = self.handle.take_evicted() {
            self.cx.api.pod_event(pod, None, Severity::Warning, "Evicted", &message);
            self.forced = Some(("Failed".into(), "Evicted".into(), message));
            self.begin_stop(pod, Some(EVICTION_GRACE));
            return None;
        }
        let limit = pod.spec.as_ref().and_then(|s| s.active_deadline_seconds).and_then(|s| u64::try_from(s).ok())?;
        let started = pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map_or(self.first_seen, util::system_time);
        let end = started + Duration::from_secs(limit);
        if now >= end {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            self.cx.api.pod_event(pod, None, Severity::Normal, "DeadlineExceeded", &message);
            self.forced = Some(("Failed".into(), "DeadlineExceeded".into(), message));
            self.begin_stop(pod, None);
            return None;
        }
        Some(end)
    }

    fn grace(&self, pod: &Pod) -> Duration {
        let spec = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
        let asked = pod.metadata.deletion_grace_period_seconds.or(spec).unwrap_or(30);
        // Never nothing: a process gets the chance to see the signal, as upstream's workers decide.
        Duration::from_secs(u64::try_from(asked).unwrap_or(0).max(1))
    }

    fn begin_stop(&mut self, pod: &Pod, grace: Option<Duration>) {
        let grace = grace.unwrap_or_else(|| self.grace(pod));
        self.stop_deadline = Some(Instant::now() + grace);
        self.stage = Stage::Terminating;
        self.cancel.cancel();
    }

    fn execute(&mut self, pod: &Arc<Pod>, made: Plan, sandbox: Option<Sandbox>, containers: &[Container], now: SystemTime) {
        self.tell_backoff(pod, &made);
        self.waiting = made.waiting;
        for action in made.actions {
            match action {
                Action::SetUp if self.op.is_none() => {
                    let attempt = sandbox.as_ref().map_or(0, |s| if s.ready { s.attempt } else { s.attempt + 1 });
                    if sandbox.as_ref().is_some_and(|s| !s.ready) {
                        self.cx.api.pod_event(pod, None, Severity::Normal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.");
                    }
                    self.set_up = None;
                    let (cx, pod, tokens) = (Arc::clone(&self.cx), Arc::clone(pod), Arc::clone(&self.tokens));
                    let old = sandbox.clone();
                    self.op = Some(tokio::spawn(async move {
                        if let Some(dead) = old.as_ref().filter(|s| !s.ready) {
                            let _ = cx.net.detach(&dead.id).await;
                            let _ = cx.runtime.stop_sandbox(&dead.id).await;
                        }
                        Outcome::SetUp(setup::set_up(cx, pod, tokens, old, attempt).await)
                    }));
                }
                Action::Start { kind, index, after } if self.op.is_none() => self.start(pod, kind, index, after, containers, now),
                Action::SetUp | Action::Start { .. } => {}
                Action::Kill { id, message, grace_s } => {
                    let grace = grace_s.and_then(|s| u64::try_from(s).ok()).map_or_else(|| self.grace(pod), Duration::from_secs);
                    if let Some(c) = containers.iter().find(|c| c.id == id) {
                        self.kill(pod, c, message, Instant::now() + grace);
                    }
                }
                Action::Finish => {
                    self.begin_stop(pod, None);
                    return;
                }
            }
        }
    }

    fn start(&mut self, pod: &Arc<Pod>, kind: Kind, index: usize, after: Option<SystemTime>, containers: &[Container], now: SystemTime) {
        let (Some(spec), Some(set_up)) = (spec_of(pod, kind, index), self.set_up.clone()) else { return };
        let name = spec.name.clone();
        if let Some(ended) = after {
            self.backoff.next(&name, ended, now);
        }
        let status = pod.status.as_ref();
        let told = status.into_iter().flat_map(|s| s.container_statuses.iter().flatten().chain(s.init_container_statuses.iter().flatten()));
        let told = told.filter(|s| s.name == name && s.container_id.is_some()).map(|s| u32::try_from(s.restart_count).unwrap_or(0) + 1).max();
        let attempt = latest(containers, &name, None).map(|c| c.attempt + 1).or(told).unwrap_or(0);
        self.restarting = (attempt > 0).then_some(now);
        let target = pod
            .spec
            .as_ref()
            .and_then(|s| s.ephemeral_containers.as_ref()?.get(index)?.target_container_name.clone())
            .filter(|_| kind == Kind::Ephemeral)
            .and_then(|t| latest(containers, &t, None).map(|c| c.id.clone()));
        let start = Start { pod: Arc::clone(pod), kind, spec, attempt, set_up, target, cancel: self.cancel.clone() };
        let cx = Arc::clone(&self.cx);
        // Of each name the newest ended container is kept, for `logs --previous`; older ones go.
        let spare: Vec<ContainerId> = containers
            .iter()
            .filter(|c| c.name == name && c.state != State::Running && c.attempt + 1 < attempt)
            .map(|c| c.id.clone())
            .chain(containers.iter().filter(|c| c.name == name && c.state == State::Created).map(|c| c.id.clone()))
            .collect();
        self.op = Some(tokio::spawn(async move {
            let result = ops::start(Arc::clone(&cx), start).await;
            for id in spare {
                let _ = cx.runtime.remove_container(&id).await;
            }
            Outcome::Started { name, result }
        }));
    }

    /// One Event for each wait, not one for each look at it.
    fn tell_backoff(&mut self, pod: &Pod, made: &Plan) {
        for (name, (reason, message)) in &made.waiting {
            if reason != "CrashLoopBackOff" || self.told_backoff.get(name) == Some(message) {
                continue;
            }
            let path = find_spec(pod, name).map(|(kind, _)| kind.field_path(name));
            let text = format!("Back-off restarting failed container {name} in pod {}", util::describe(pod));
            self.cx.api.pod_event(pod, path.as_deref(), Severity::Warning, "BackOff", &text);
            self.told_backoff.insert(name.clone(), message.clone());
        }
    }

    fn kill(&mut self, pod: &Arc<Pod>, c: &Container, message: String, deadline: Instant) {
        if self.killing.contains_key(&c.id) {
            return;
        }
        let (sender, receiver) = watch::channel(deadline);
        let (kind, spec) = find_spec(pod, &c.name).map_or((Kind::Regular, None), |(k, s)| (k, Some(s)));
        self.killing.insert(c.id.clone(), Killing { deadline: sender });
        self.kills.spawn(super::kill::kill(
            Arc::clone(&self.cx),
            Kill {
                pod: Arc::clone(pod),
                kind,
                spec,
                id: c.id.clone(),
                name: c.name.clone(),
                ips: self.ips.clone(),
                message,
                deadline: receiver,
                turns: self.turns.clone(),
            },
        ));
    }

    fn killed(&mut self, done: Option<(ContainerId, Result<(), String>)>) {
        let Some((id, result)) = done else { return };
        self.killing.remove(&id);
        if let Err(e) = result {
            tracing::warn!(container = %id, error = %e, "container could not be stopped; will be tried again");
            self.kill_retry_at = Some(self.cx.now() + CLEAN_RETRY);
        }
    }

    /// Stops every container; when none runs the pod goes on to be cleaned.
    fn stop_all(&mut self, pod: &Arc<Pod>, containers: &[Container], now: SystemTime) -> Option<SystemTime> {
        // A grace period may only become shorter.
        if pod.metadata.deletion_timestamp.is_some() || self.handle.is_gone() {
            let asked = Instant::now() + self.grace(pod);
            self.stop_deadline = Some(self.stop_deadline.map_or(asked, |d| d.min(asked)));
        }
        let deadline = self.stop_deadline.unwrap_or_else(Instant::now);
        let running: Vec<&Container> = containers.iter().filter(|c| c.running()).collect();
        if self.turns.is_none() {
            self.turns = Some(Turns::new(pod, running.iter().map(|c| c.name.clone()).collect()));
        }
        for k in self.killing.values() {
            k.deadline.send_if_modified(|at| {
                let earlier = deadline < *at;
                *at = deadline.min(*at);
                earlier
            });
        }
        if let Some(at) = self.kill_retry_at.filter(|at| *at > now) {
            return Some(at);
        }
        for c in &running {
            self.kill(pod, c, format!("Stopping container {}", c.name), deadline);
        }
        if running.is_empty() && self.op.is_none() && self.killing.is_empty() {
            self.probes.stop();
            self.stage = Stage::Cleaning;
        }
        None
    }

    /// Removes the pod from the host, and then from the API if it is deleted there.
    fn clean(&mut self, pod: &Arc<Pod>, sandbox: Option<&Sandbox>, containers: &[Container], now: SystemTime) -> Option<SystemTime> {
        if self.op.is_some() {
            return None;
        }
        if let Some(at) = self.clean_retry_at.filter(|at| *at > now) {
            return Some(at);
        }
        let cx = Arc::clone(&self.cx);
        let deleted = self.handle.is_gone() || pod.metadata.deletion_timestamp.is_some();
        if self.stage == Stage::Cleaning {
            let sandbox = sandbox.map(|s| s.id.clone());
            let pod = Arc::clone(pod);
            let writer = self.writer.clone();
            self.op = Some(tokio::spawn(async move {
                let cleaned = clean_host(&cx, &pod, sandbox).await;
                writer.flush().await;
                Outcome::Cleaned(cleaned)
            }));
        } else if deleted {
            let sandboxes: Vec<_> = cx.runtime.pod_sandboxes(&self.handle.uid);
            let ids: Vec<ContainerId> = containers.iter().map(|c| c.id.clone()).collect();
            let (pod, writer, gone) = (Arc::clone(pod), self.writer.clone(), self.handle.is_gone());
            self.op = Some(tokio::spawn(async move { Outcome::Deleted(forget(&cx, &pod, sandboxes, ids, &writer, gone).await) }));
        }
        None
    }

    fn finished(&mut self, outcome: Outcome) {
        let now = self.cx.now();
        self.restarting = None;
        match outcome {
            Outcome::SetUp(Ok(done)) => {
                self.handle.ips.lock().clone_from(&done.ips);
                self.ips.clone_from(&done.ips);
                self.set_up = Some(done);
                self.set_up_failures = 0;
                self.set_up_retry_at = None;
            }
            Outcome::SetUp(Err(SetUpError(message))) => {
                tracing::debug!(pod = %util::describe(&self.handle.pod()), %message, "set-up failed");
                let wait = (SETUP_RETRY_MIN * 2_u32.saturating_pow(self.set_up_failures.min(8))).min(SETUP_RETRY_MAX);
                self.set_up_failures += 1;
                self.set_up_retry_at = Some(now + wait);
            }
            Outcome::Started { name, result: Ok(()) } => {
                self.failures.remove(&name);
            }
            Outcome::Started { name, result: Err(e) } => self.start_failed(name, e, now),
            Outcome::Resized { done, error } => {
                self.applied.extend(done);
                self.resize_retry_at = error.as_ref().map(|_| now + RESIZE_RETRY);
                self.resize.1 = Some(error);
            }
            Outcome::Refreshed(Ok(())) => {}
            Outcome::Refreshed(Err(e)) => {
                self.cx.api.pod_event(&self.handle.pod(), None, Severity::Warning, "FailedMount", &e.to_string());
            }
            Outcome::Cleaned(Ok(())) => self.stage = Stage::Ended,
            Outcome::Deleted(Ok(())) => self.stage = Stage::Done,
            Outcome::Cleaned(Err(e)) | Outcome::Deleted(Err(e)) => {
                tracing::warn!(pod = %util::describe(&self.handle.pod()), error = %e, "clean-up failed; will be tried again");
                self.clean_retry_at = Some(now + CLEAN_RETRY);
            }
        }
    }

    fn start_failed(&mut self, name: String, e: StartError, now: SystemTime) {
        // A pull that failed just now shows its error for a moment and then that it waits; the puller keeps the times.
        let retry_at = match e.reason.as_str() {
            "ErrImagePull" => now + Duration::from_secs(1),
            "ImagePullBackOff" => self.cx.images.retry_at(&self.handle.uid, &name, now).unwrap_or(now + START_RETRY),
            "PostStartHookError" => now,
            _ => now + START_RETRY,
        };
        self.failures.insert(name, Failure { reason: e.reason, message: e.message, retry_at });
    }

    /// Gives containers that can have them new resources in place, one at a time; answers those that must be started anew.
    fn outgrown(&mut self, pod: &Arc<Pod>, containers: &[Container], now: SystemTime) -> HashSet<ContainerId> {
        for c in containers.iter().filter(|c| c.running()) {
            // One that has just been started has what the spec says.
            let of_spec = || find_spec(pod, &c.name).and_then(|(_, s)| s.resources).unwrap_or_default();
            self.applied.entry(c.id.clone()).or_insert_with(of_spec);
        }
        self.applied.retain(|id, _| containers.iter().any(|c| c.id == *id));
        let changes = resize::changes(pod, containers, &self.applied);
        if changes.is_empty() {
            self.resize = (None, None);
            self.resize_retry_at = None;
            return HashSet::new();
        }
        if self.op.is_some() || self.resize_retry_at.is_some_and(|at| at > now) {
            return HashSet::new();
        }
        self.resize_retry_at = None;
        let others: Vec<Arc<Pod>> = (self.cx.others)(&self.handle.uid);
        self.resize.0 = resize::pending(&self.cx, pod, &others);
        if self.resize.0.is_some() {
            // What others give back is not told here; it is looked at again after a while.
            self.resize_retry_at = Some(now + RESIZE_RETRY);
            return HashSet::new();
        }
        self.resize.1.get_or_insert(None);
        let in_place: Vec<(ContainerId, Spec)> =
            changes.iter().filter(|c| !c.restart).filter_map(|c| Some((c.id.clone(), find_spec(pod, &c.name)?.1))).collect();
        if !in_place.is_empty() {
            // All at once, so that nobody sees a half of it.
            self.restarting = Some(now);
            let (cx, pod) = (Arc::clone(&self.cx), Arc::clone(pod));
            self.op = Some(tokio::spawn(async move {
                let (done, error) = resize::apply(&cx, &pod, in_place).await;
                Outcome::Resized { done, error }
            }));
        }
        changes.into_iter().filter(|c| c.restart).map(|c| c.id).collect()
    }

    /// Brings volumes up to date when an object of theirs changed or a token is due.
    fn refresh(&mut self, pod: &Arc<Pod>, now: SystemTime) -> Option<SystemTime> {
        let due = self.tokens.next_renewal();
        if self.stage != Stage::Syncing || self.op.is_some() {
            return None;
        }
        if self.set_up.is_none() {
            // What changed may be what the set-up waits for.
            if self.handle.take_stale() {
                self.set_up_retry_at = None;
                self.handle.wake();
            }
            return None;
        }
        if !self.handle.take_stale() && due.is_none_or(|at| at > now) {
            return due;
        }
        let (cx, pod, tokens, ips) = (Arc::clone(&self.cx), Arc::clone(pod), Arc::clone(&self.tokens), self.ips.clone());
        self.op = Some(tokio::spawn(async move {
            let layout = Layout::new(&cx.config.root_dir, util::uid(&pod));
            let source = Source { api: &cx.api, watches: &cx.watches, tokens: &tokens, facts: cx.facts(&pod, &ips) };
            Outcome::Refreshed(volumes::refresh(&source, &layout).await)
        }));
        Some(now + START_RETRY)
    }

    fn read_messages(&mut self, containers: &[Container]) {
        self.messages.retain(|id, _| containers.iter().any(|c| c.id == *id));
        for c in containers.iter().filter(|c| c.state == State::Exited) {
            self.messages.entry(c.id.clone()).or_insert_with(|| messages::read(c));
        }
        self.handle.keep_results(|id| containers.iter().any(|c| c.id == *id && c.running()));
    }

    fn publish(&mut self, pod: &Arc<Pod>, sandbox: Option<&Sandbox>, containers: &[Container], now: SystemTime) {
        let old = self.handle.status.lock().clone();
        if let (true, Some((phase, reason, message))) = (self.rejected, &self.forced) {
            // A pod that was never taken in has no containers to tell of, as upstream's `rejectPod`.
            let qos = Some(resources::qos(pod).as_str().to_owned());
            let new = PodStatus { phase: Some(phase.clone()), reason: Some(reason.clone()), message: Some(message.clone()), qos_class: qos, ..old };
            *self.handle.status.lock() = new.clone();
            return self.writer.publish(new);
        }
        if self.settled && containers.is_empty() {
            // The API's status stands for an ended pod whose containers are forgotten.
            return;
        }
        let results = self.handle.results();
        let new: PodStatus = status::generate(&status::View {
            pod,
            old: &old,
            sandbox,
            containers,
            probes: &results,
            waiting: &self.waiting,
            messages: &self.messages,
            applied: &self.applied,
            resize: (self.resize.0.as_ref(), self.resize.1.as_ref().map(Option::as_deref)),
            host_ips: &self.cx.machine.host_ips,
            pod_ips: &self.ips,
            set_up: !self.ips.is_empty(),
            start_time: self.first_seen,
            forced: self.forced.as_ref(),
            terminal: matches!(self.stage, Stage::Cleaning | Stage::Ended),
            scheme: &self.cx.scheme,
            now,
        });
        // `Succeeded` and `Failed` are told only once everything has stopped: others free what the pod holds when they see it.
        let mut new = new;
        if !matches!(self.stage, Stage::Cleaning | Stage::Ended)
            && matches!(new.phase.as_deref(), Some("Succeeded" | "Failed"))
            && !matches!(old.phase.as_deref(), Some("Succeeded" | "Failed"))
            && containers.iter().any(Container::running)
        {
            new.phase.clone_from(&old.phase);
        }
        *self.handle.status.lock() = new.clone();
        if !self.handle.is_gone() {
            self.writer.publish(new);
            self.writer.observe(pod);
        }
    }
}

fn earliest(a: Option<SystemTime>, b: Option<SystemTime>) -> Option<SystemTime> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

async fn next_outcome(op: &mut Option<JoinHandle<Outcome>>) -> Outcome {
    match op {
        Some(handle) => match handle.await {
            Ok(outcome) => outcome,
            // A task that panicked is a defect of ours; the pod is tried again.
            Err(e) => Outcome::SetUp(Err(SetUpError(format!("task failed: {e}")))),
        },
        None => std::future::pending().await,
    }
}

/// Stops the sandbox and removes what the pod had on the host, except its logs.
async fn clean_host(cx: &Arc<Context>, pod: &Arc<Pod>, sandbox: Option<crate::cri::SandboxId>) -> Result<(), String> {
    if let Some(id) = sandbox {
        cx.net.detach(&id).await.map_err(|e| e.to_string())?;
        match cx.runtime.stop_sandbox(&id).await {
            Ok(()) | Err(crate::cri::CriError::NotFound(_)) => {}
            Err(e) => return Err(e.to_string()),
        }
    }
    cx.watches.release(&crate::cri::PodUid(util::uid(pod).to_owned()));
    let (c, p) = (Arc::clone(cx), Arc::clone(pod));
    let removed = tokio::task::spawn_blocking(move || {
        volumes::tear_down(&Layout::new(&c.config.root_dir, util::uid(&p)))?;
        c.cgroups.remove_pod(&p)
    });
    removed.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}

/// Lets the API forget the pod, and removes containers, sandboxes and logs.
async fn forget(cx: &Arc<Context>, pod: &Pod, sandboxes: Vec<Sandbox>, containers: Vec<ContainerId>, writer: &StatusWriter, gone: bool) -> Result<(), String> {
    writer.flush().await;
    // All that others could miss (addresses, volumes, cgroup) is free already; what remains concerns this node alone.
    if !gone {
        match cx.api.delete_pod(util::namespace(pod), util::name(pod), util::uid(pod)).await {
            Ok(()) => {}
            Err(e) if e.is_not_found() || matches!(e, crate::api::ApiError::Conflict(_)) => {}
            Err(e) => return Err(e.to_string()),
        }
    }
    for id in containers {
        let _ = cx.runtime.remove_container(&id).await;
    }
    for s in sandboxes {
        let _ = cx.net.detach(&s.id).await;
        let _ = cx.runtime.stop_sandbox(&s.id).await;
        let _ = cx.runtime.remove_sandbox(&s.id).await;
    }
    let dir = cx.config.pod_log_dir(util::namespace(pod), util::name(pod), util::uid(pod));
    match std::fs::remove_dir_all(&dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => tracing::debug!(dir = %dir.display(), error = %e, "logs not removed"),
        _ => {}
    }
    cx.images.forget(&crate::cri::PodUid(util::uid(pod).to_owned()));
    Ok(())
}
