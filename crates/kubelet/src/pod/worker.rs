//! The worker of one pod: one task that wakes on events, plans, starts what the plan says, and publishes the status.
//!
//! A pod's life here is a [`Stage`]. Everything that takes time runs as a [`Duty`] beside the worker, or as a stop of one
//! container, so that a worker always answers: to a shorter grace period, to a probe, to the end of a process. Between events
//! it looks at everything once a minute, as upstream's resync does: what an event missed is found then. Waits are measured by
//! a clock that nobody sets; the time of day is for what is told, and for `activeDeadlineSeconds`. What the worker does is in
//! `work`, what it removes in `cleanup`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Pod, PodStatus, ResourceRequirements};
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::duties::{Duties, Duty};
use super::kill::Turns;
use super::plan::{self, Failure, latest};
use super::resize::{self, Applied, Pending, Wide};
use super::setup::{self, SetUp, SetUpError};
use super::{Context, Eviction, Handle, begun, lost, messages, status};
use crate::api::Severity;
use crate::cri::{Container, ContainerId, Sandbox, State};
use crate::probes::Probes;
use crate::resources;
use crate::start_error::StartError;
use crate::statics::is_static;
use crate::status_writer::StatusWriter;
use crate::util;
use crate::volumes;
use crate::volumes::tokens::Proofs;

/// How long a restart may take before the status tells that the container does not run.
const RESTART_UNTOLD: Duration = Duration::from_millis(500);
/// How often a pod is looked at without an event (upstream's `syncFrequency`), give or take a half.
const LOOK: Duration = Duration::from_secs(60);
/// Longest grace period that is counted; what a user writes may be longer than any clock goes.
const GRACE_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long a status under way is waited for when the kubelet stops: the next process tells it again.
const FLUSH_MAX: Duration = Duration::from_secs(2);

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

/// What a duty ends with.
pub(super) enum Outcome {
    SetUp(Result<SetUp, SetUpError>),
    Started {
        name: String,
        image: Option<String>,
        result: Result<(), StartError>,
    },
    Refreshed(Vec<volumes::VolumeError>),
    Resized {
        done: Vec<(ContainerId, ResourceRequirements)>,
        /// What the pod as a whole has, if there is no error.
        of_all: ResourceRequirements,
        error: Option<String>,
    },
    /// The pod as a whole has its own limits again.
    Narrowed,
    Reset(Result<Vec<Container>, String>),
    Tidied(Result<(), String>),
    GivenBack(Result<(), String>),
    Cleaned(Result<(), String>),
    Deleted(Result<(), String>),
}

/// A stop under way.
pub(super) struct Killing {
    pub(super) deadline: watch::Sender<Instant>,
}

/// The worker.
pub struct Worker {
    pub(super) cx: Arc<Context>,
    pub(super) handle: Arc<Handle>,
    pub(super) writer: StatusWriter,
    /// The UID of the mirror that is written to.
    mirrored: Option<String>,
    pub(super) probes: Probes,
    pub(super) stage: Stage,
    first_seen: SystemTime,
    pub(super) proofs: Arc<Proofs>,
    pub(super) set_up: Option<SetUp>,
    pub(super) ips: Vec<IpAddr>,
    pub(super) failures: BTreeMap<String, Failure>,
    pub(super) backoff: Backoff,
    pub(super) waiting: BTreeMap<String, (String, String)>,
    /// What containers wait for while the pod is not set up: images of their volumes.
    pub(super) lacking: BTreeMap<String, (String, String)>,
    messages: HashMap<ContainerId, String>,
    pub(super) told_backoff: HashMap<String, String>,
    pub(super) duties: Duties<Outcome>,
    /// Name and attempt of the container that is being started, its postStart hook included.
    pub(super) starting: Option<(String, u32)>,
    /// Containers whose postStart hook failed: they are being stopped and never counted as running.
    pub(super) unhooked: HashSet<ContainerId>,
    pub(super) kills: JoinSet<Result<(), String>>,
    pub(super) kill_of: HashMap<Id, ContainerId>,
    pub(super) killing: HashMap<ContainerId, Killing>,
    /// Stops that failed, and when they are tried again.
    pub(super) kill_pauses: HashMap<ContainerId, Instant>,
    pub(super) turns: Option<Turns>,
    pub(super) stop_deadline: Option<Instant>,
    /// A container is being started again, or gets other resources, since then.
    pub(super) restarting: Option<Instant>,
    pub(super) applied: Applied,
    /// By container its newest run and what that was begun with, or has by now; before the first, what the pod was let in with.
    pub(super) begun_with: HashMap<String, (Option<u32>, ResourceRequirements)>,
    /// What the pod as a whole has, once that is known.
    pub(super) of_all: Option<ResourceRequirements>,
    pub(super) resize: (Option<Pending>, Option<Option<String>>),
    pub(super) resize_look_at: Option<Instant>,
    /// The generation whose resources are being given.
    pub(super) resizing: Option<i64>,
    /// Whether the pod's own cgroup was made wide for containers that grow.
    pub(super) wide: Wide,
    /// Containers by name that are killed to be started with other resources, until another of the name runs.
    pub(super) anew: HashMap<String, ContainerId>,
    forced: Option<status::Forced>,
    /// Admission refused it.
    rejected: bool,
    /// It had ended when this process first saw it, or gave back all that is known of its runs.
    pub(super) settled: bool,
    pub(super) cancel: CancellationToken,
    /// Containers that were killed or removed to be started again.
    pub(super) again: HashSet<ContainerId>,
    /// When containers ended, as far as they have.
    ended: HashMap<ContainerId, Instant>,
    /// Runs that the API remembers and the runtime does not know.
    pub(super) lost: Vec<Container>,
    /// Runs that were removed so that all began anew, and whose next run there is: no more than the run before that.
    removed: Vec<Container>,
    /// What it has been woken for and since when, until nothing of that is under way.
    pass: Option<(&'static str, Instant)>,
    /// Volumes are to be brought up to date.
    pub(super) refresh_due: bool,
    look_at: Instant,
}

/// A grace period as the API has it, which may be any number.
pub(super) fn grace_period(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).min(GRACE_MAX)
}

/// What a pod's containers get between its deletion and SIGKILL.
pub(crate) fn grace_of(pod: &Pod) -> Duration {
    let spec = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
    let asked = pod.metadata.deletion_grace_period_seconds.or(spec).unwrap_or(30);
    // Never nothing: a process gets the chance to see the signal, as upstream's workers decide.
    grace_period(asked).max(Duration::from_secs(1))
}

pub(super) fn has_ended(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|s| matches!(s.phase.as_deref(), Some("Succeeded" | "Failed")))
}

impl Worker {
    /// A worker for a pod; `rejected` is the verdict of admission: reason and message.
    #[must_use]
    pub fn new(cx: Arc<Context>, handle: Arc<Handle>, rejected: Option<(String, String)>) -> Self {
        let pod = handle.pod();
        let mut worker = Self {
            writer: if is_static(&pod) { StatusWriter::idle() } else { StatusWriter::spawn(Arc::clone(&cx.api), &pod) },
            mirrored: None,
            probes: Probes::new(Arc::clone(&cx), Arc::clone(&handle)),
            stage: Stage::Syncing,
            first_seen: cx.now(),
            proofs: Arc::default(),
            set_up: None,
            ips: Vec::new(),
            failures: BTreeMap::new(),
            backoff: Backoff::default(),
            waiting: BTreeMap::new(),
            lacking: BTreeMap::new(),
            messages: HashMap::new(),
            told_backoff: HashMap::new(),
            duties: Duties::default(),
            starting: None,
            unhooked: HashSet::new(),
            kills: JoinSet::new(),
            kill_of: HashMap::new(),
            killing: HashMap::new(),
            kill_pauses: HashMap::new(),
            turns: None,
            stop_deadline: None,
            restarting: None,
            applied: Applied::new(),
            begun_with: resize::asked_by_name(&handle.granted()),
            of_all: None,
            resize: (None, None),
            resize_look_at: None,
            resizing: None,
            wide: Wide::Unknown,
            anew: HashMap::new(),
            forced: None,
            rejected: false,
            settled: false,
            cancel: CancellationToken::new(),
            again: HashSet::new(),
            ended: HashMap::new(),
            lost: Vec::new(),
            removed: Vec::new(),
            pass: Some(("create", Instant::now())),
            refresh_due: false,
            look_at: Instant::now() + util::jittered(LOOK),
            cx,
            handle,
        };
        let ended = has_ended(&pod);
        if let Some((reason, message)) = rejected.filter(|_| !ended) {
            worker.rejected = true;
            worker.reject(&reason, &message);
        } else if ended {
            worker.settled = true;
            worker.begin_stop(&pod, None);
        }
        worker.adopt(&pod);
        worker
    }

    /// Takes over what a former process left: what runs, and what the API alone remembers.
    fn adopt(&mut self, pod: &Pod) {
        let told = pod.status.as_ref();
        self.lost = told.map(|s| lost::runs(s, &self.cx.runtime.pod_containers(&self.handle.uid))).unwrap_or_default();
        // That they are to begin anew was told before they were removed; and who was removed waits still when the first runs again.
        let all = status::restarts_all(pod);
        let anew = self.lost.iter().filter(|c| all || c.reason == lost::RESTARTING_ALL);
        self.again.extend(anew.map(|c| c.id.clone()));
        // Also where nothing runs any more, as after a reboot: who ran runs again with what he had.
        self.resize.0 = told.and_then(resize::told_pending);
        let has = told.map(|s| resize::told(pod, s, &self.cx.scheme)).unwrap_or_default();
        self.applied = has.into_iter().map(|(id, r)| (ContainerId(id), r)).collect();
        self.of_all = told.and_then(|status| resize::told_of_all(pod, status));
        let Some(sandbox) = self.sandbox().filter(|s| s.ready) else { return };
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
            self.count_pass();
            if self.stage == Stage::Done {
                self.cx.watches.release(&self.handle.uid);
                return;
            }
            tokio::select! {
                () = self.handle.notify.notified() => self.begin_pass("update"),
                (duty, outcome) = self.duties.next() => self.finished(duty, outcome),
                Some(done) = self.kills.join_next_with_id() => {
                    let (id, result) = match done {
                        Ok(done) => done,
                        Err(e) => (e.id(), Err(format!("task failed: {e}"))),
                    };
                    self.killed(id, result);
                }
                () = tokio::time::sleep_until(wake_at) => self.begin_pass("sync"),
                () = shutdown.cancelled() => {
                    let _ = tokio::time::timeout(FLUSH_MAX, self.writer.flush()).await;
                    return;
                }
            }
        }
    }

    /// Notes what the worker is woken for, unless it is busy with something still.
    fn begin_pass(&mut self, what: &'static str) {
        self.pass.get_or_insert_with(|| (what, Instant::now()));
    }

    /// Counts what it was woken for, once nothing of that is under way.
    fn count_pass(&mut self) {
        if self.duties.any() || !self.killing.is_empty() {
            return;
        }
        if let Some((what, begun)) = self.pass.take() {
            let what = if self.stage == Stage::Syncing { what } else { "kill" };
            self.cx.counts.pass(what, begun.elapsed());
        }
    }

    /// The pod as its containers are to run: while a change of resources waits, with what they, or those before them, and itself have.
    pub(super) fn given(&self, pod: &Arc<Pod>, containers: &[Container]) -> Arc<Pod> {
        if self.resize.0.is_none() {
            return Arc::clone(pod);
        }
        let told = resize::as_told(pod, &self.handle.status.lock());
        Arc::new(resize::in_force(&told, containers, &self.applied, self.of_all.as_ref()))
    }

    fn sandbox(&self) -> Option<Sandbox> {
        self.cx.runtime.pod_sandboxes(&self.handle.uid).into_iter().max_by_key(|s| (s.attempt, s.created))
    }

    /// The runtime's containers, and the lost runs that no newer one of the name has replaced.
    fn containers(&mut self) -> Vec<Container> {
        let mut all = self.cx.runtime.pod_containers(&self.handle.uid);
        let followed: Vec<Container> = self.lost.extract_if(.., |l| all.iter().any(|c| c.name == l.name)).collect();
        self.removed.retain(|r| !followed.iter().any(|f| f.name == r.name));
        self.removed.extend(followed.into_iter().filter(|f| f.reason == lost::RESTARTING_ALL));
        all.extend(self.lost.iter().cloned());
        all
    }

    /// A container whose start, the postStart hook included, has not come to its end counts as made and no more: it is not
    /// probed, and not told as running (upstream's sync is blocked by the hook).
    fn begun(&self, mut containers: Vec<Container>) -> Vec<Container> {
        for c in containers.iter_mut().filter(|c| c.running()) {
            let starting = self.starting.as_ref().is_some_and(|(name, attempt)| c.name == *name && c.attempt == *attempt);
            if starting || self.unhooked.contains(&c.id) {
                c.state = State::Created;
            }
        }
        containers
    }

    /// Looks at everything, begins what is to be done, publishes the status. Answers when to look again at the latest.
    fn step(&mut self) -> Instant {
        let pod = self.handle.pod();
        let (now, at) = (self.cx.now(), Instant::now());
        if at >= self.look_at {
            self.look_at = at + util::jittered(LOOK);
            self.refresh_due = true;
        }
        if self.handle.take_stale() {
            self.hear_news(at);
        }
        let sandbox = self.sandbox();
        let real = self.containers();
        self.remember(&real, now, at);
        let mut wake = Some(self.look_at);
        if self.stage == Stage::Syncing {
            wake = earliest(wake, self.check_end(&pod, now).map(|left| at + left));
        }
        let containers = if self.stage == Stage::Syncing { self.begun(real) } else { real };
        if matches!(self.stage, Stage::Syncing | Stage::Terminating) {
            self.probes.sync(&pod, &containers, &self.ips, self.stage == Stage::Terminating);
        }
        if self.stage == Stage::Syncing {
            wake = earliest(wake, self.sync(&pod, sandbox.as_ref(), &containers, at));
        }
        if self.stage == Stage::Terminating {
            let real = self.containers();
            wake = earliest(wake, self.stop_all(&pod, sandbox.as_ref(), &real, at));
        }
        if matches!(self.stage, Stage::Cleaning | Stage::Ended) {
            wake = earliest(wake, self.clean(&pod, sandbox.as_ref(), &containers, at));
        }
        let told_at = self.restarting.filter(|_| self.stage == Stage::Syncing).map(|since| since + RESTART_UNTOLD);
        if let Some(told_at) = told_at.filter(|told_at| *told_at > at) {
            // A restart that takes a moment is told when it is done, as upstream's sync loop does: nobody acts on the moment.
            wake = earliest(wake, Some(told_at));
        } else if self.stage != Stage::Done {
            self.publish(&pod, sandbox.as_ref(), &containers, now);
        }
        wake.unwrap_or(self.look_at)
    }

    /// Plans, and begins what is planned.
    fn sync(&mut self, pod: &Arc<Pod>, sandbox: Option<&Sandbox>, containers: &[Container], at: Instant) -> Option<Instant> {
        let killing: HashSet<ContainerId> =
            self.killing.keys().chain(self.kill_pauses.iter().filter(|(_, until)| **until > at).map(|(id, _)| id)).cloned().collect();
        // The planner sees no running container in these: where the stop failed it is for the worker to try it again.
        for c in containers.iter().filter(|c| self.unhooked.contains(&c.id) && !killing.contains(&c.id)).cloned().collect::<Vec<_>>() {
            self.kill(pod, &c, "FailedPostStartHook".into(), at + self.grace(pod));
        }
        let live = sandbox.filter(|s| s.ready);
        let outgrown = self.outgrown(pod, containers, at);
        let view = plan::View {
            pod,
            sandbox,
            set_up: self.set_up.as_ref().is_some_and(|u| live.is_some_and(|s| s.id == u.sandbox.id)),
            set_up_waits: self.duties.waits(Duty::SetUp, at),
            containers,
            ended: &self.ended,
            again: &self.again,
            probes: &self.handle.results(),
            failures: &self.failures,
            lacking: &self.lacking,
            backoff: &self.backoff,
            starting: self.starting.as_ref().map(|(name, _)| name.as_str()),
            outgrown: &outgrown,
            killing: &killing,
            busy: self.duties.running(&[Duty::SetUp, Duty::Start, Duty::Reset]) || !self.unhooked.is_empty(),
            now: at,
        };
        let made = plan::plan(&view);
        let mut wake = earliest(made.wake_at, self.kill_pauses.values().copied().filter(|until| *until > at).min());
        for duty in [Duty::SetUp, Duty::Start, Duty::Reset] {
            wake = earliest(wake, self.duties.waits(duty, at));
        }
        wake = earliest(wake, self.resize_look_at);
        self.execute(pod, made, sandbox, containers, at);
        if self.stage == Stage::Syncing {
            self.tidy(sandbox, containers, at);
            wake = earliest(wake, self.refresh(pod, at));
        }
        wake
    }

    /// What was read may have changed: volumes are looked at again, and so is what a set-up or start failed for.
    fn hear_news(&mut self, at: Instant) {
        self.refresh_due = true;
        self.duties.hurry(Duty::Refresh);
        self.duties.hurry(Duty::SetUp);
        for f in self.failures.values_mut().filter(|f| f.reason == "CreateContainerConfigError") {
            f.retry_at = f.retry_at.min(at + super::duties::PAUSE_MIN);
        }
    }

    /// Whether the pod is to stop: deleted, ended by another's word, or past its deadline. Answers how long it has left.
    fn check_end(&mut self, pod: &Arc<Pod>, now: SystemTime) -> Option<Duration> {
        if self.handle.is_gone() || pod.metadata.deletion_timestamp.is_some() || has_ended(pod) {
            // A phase that another writer made terminal stands (upstream's pod workers): the pod is torn down.
            self.begin_stop(pod, None);
            return None;
        }
        if let Some(Eviction { reason, message, condition, grace, for_room }) = self.handle.eviction() {
            if for_room {
                self.cx.api.pod_event(pod, None, Severity::Warning, &reason, &message);
            }
            self.forced = Some(status::Forced { disruption: condition, ..status::Forced::failed(&reason, message) });
            self.begin_stop(pod, Some(grace));
            return None;
        }
        let limit = pod.spec.as_ref().and_then(|s| s.active_deadline_seconds).and_then(|s| u64::try_from(s).ok())?;
        // Of a static pod the API's mirror tells it, which outlives this process.
        let began = |p: &Pod| p.status.as_ref().and_then(|s| s.start_time.as_ref()).map(util::system_time);
        let started = began(pod).or_else(|| self.handle.mirror().and_then(|m| began(&m))).unwrap_or(self.first_seen);
        let end = started.checked_add(Duration::from_secs(limit))?;
        if now >= end {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            self.cx.api.pod_event(pod, None, Severity::Normal, "DeadlineExceeded", &message);
            self.forced = Some(status::Forced::failed("DeadlineExceeded", message));
            self.begin_stop(pod, None);
            return None;
        }
        end.duration_since(now).ok().map(|left| left.min(GRACE_MAX))
    }

    /// What the pod needs is not to be had on this node, as admission or its set-up has found: it ends, so that whoever made it makes another.
    pub(super) fn reject(&mut self, reason: &str, message: &str) {
        let pod = self.handle.pod();
        self.cx.api.pod_event(&pod, None, Severity::Warning, reason, message);
        self.cx.counts.rejected(reason);
        self.forced = Some(status::Forced::failed(reason, format!("Pod was rejected: {message}")));
        self.begin_stop(&pod, None);
    }

    pub(super) fn grace(&self, pod: &Pod) -> Duration {
        grace_of(pod)
    }

    pub(super) fn begin_stop(&mut self, pod: &Pod, grace: Option<Duration>) {
        let grace = grace.unwrap_or_else(|| self.grace(pod));
        self.stop_deadline = Some(Instant::now() + grace);
        self.stage = Stage::Terminating;
        self.cancel.cancel();
    }

    /// Remembers of the containers what the runtime does not tell: their messages, and when they ended by the worker's clock.
    fn remember(&mut self, containers: &[Container], now: SystemTime, at: Instant) {
        let known = |id: &ContainerId| containers.iter().any(|c| c.id == *id);
        let runs = |id: &ContainerId| containers.iter().any(|c| c.id == *id && c.running());
        self.messages.retain(|id, _| known(id));
        self.ended.retain(|id, _| known(id));
        self.again.retain(known);
        self.unhooked.retain(runs);
        self.kill_pauses.retain(|id, _| runs(id));
        for c in containers.iter().filter(|c| c.state == State::Exited) {
            self.messages.entry(c.id.clone()).or_insert_with(|| messages::read(c));
            let end = c.finished.or(c.started).unwrap_or(c.created);
            let ago = now.duration_since(end).unwrap_or_default();
            self.ended.entry(c.id.clone()).or_insert_with(|| at.checked_sub(ago).unwrap_or(at));
        }
        self.handle.keep_results(runs);
    }

    fn publish(&mut self, pod: &Arc<Pod>, sandbox: Option<&Sandbox>, containers: &[Container], now: SystemTime) {
        let mut old = self.handle.status.lock().clone();
        // What a former process told of a static pod stands in its mirror (upstream's status manager).
        if self.mirrored.is_none()
            && let Some(told) = self.handle.mirror().and_then(|m| m.status.clone())
            && told.start_time.is_some()
        {
            (old.start_time, old.conditions) = (told.start_time, told.conditions);
        }
        if let (true, Some(forced)) = (self.rejected, &self.forced) {
            // A pod that was never taken in has nothing else to tell of, as upstream's `rejectPod`.
            let new = PodStatus {
                phase: Some(forced.phase.clone()),
                reason: Some(forced.reason.clone()),
                message: Some(forced.message.clone()),
                qos_class: Some(resources::qos(pod).as_str().to_owned()),
                start_time: old.start_time.clone().or_else(|| Some(util::time(self.first_seen))),
                observed_generation: pod.metadata.generation,
                ..PodStatus::default()
            };
            self.handle.set_status(&new);
            return self.tell(pod, new);
        }
        if self.settled && containers.iter().all(|c| c.sandbox.0.is_empty()) {
            // The API's status stands for an ended pod whose containers are forgotten.
            return;
        }
        let results = self.handle.results();
        let over = matches!(self.stage, Stage::Cleaning | Stage::Ended);
        // `Succeeded` and `Failed`, and why, are told only once everything has stopped: others free what the pod holds when they see it
        // (upstream's `mergePodStatus`).
        let terminal = |s: &PodStatus| matches!(s.phase.as_deref(), Some("Succeeded" | "Failed"));
        let busy = !over && (containers.iter().any(Container::running) || self.cx.devices.holds(&self.handle.uid));
        let early = busy && !terminal(&old) && !has_ended(pod);
        let forced = self.forced.clone().map(|f| status::Forced { disruption: f.disruption.filter(|_| !early), ..f });
        let given = self.given(pod, containers);
        let mut new: PodStatus = status::generate(&status::View {
            pod: &given,
            old: &old,
            sandbox,
            containers,
            removed: &self.removed,
            again: &self.again,
            probes: &results,
            waiting: &self.waiting,
            messages: &self.messages,
            applied: &self.applied,
            of_all: self.of_all.as_ref(),
            resize: (self.resize.0.as_ref(), self.resize.1.as_ref().map(Option::as_deref)),
            resizing: self.resizing,
            host_ips: &self.cx.machine.host_ips,
            pod_ips: &self.ips,
            set_up: !self.ips.is_empty(),
            start_time: self.first_seen,
            forced: forced.as_ref(),
            terminal: over,
            scheme: &self.cx.scheme,
            now,
        });
        if old.phase.as_deref().is_none_or(|phase| phase == "Pending") && new.phase.as_deref() == Some("Running") {
            self.cx.counts.runs(self.first_seen, now);
            // Of a static pod nobody knows since when it has been wished.
            if let Some(created) = pod.metadata.creation_timestamp.as_ref().filter(|_| !is_static(pod)) {
                let whole = now.duration_since(util::system_time(created)).unwrap_or_default();
                let beside = self.cx.images.pulled_for(&self.handle.uid) + begun::init_time(&new);
                self.cx.counts.started(whole, beside, begun::is_stateful(pod));
            }
        }
        if early && terminal(&new) {
            (new.phase, new.reason, new.message) = (old.phase, old.reason, old.message);
        }
        self.cx.devices.tell(pod, &mut new);
        self.handle.set_status(&new);
        self.tell(pod, new);
    }

    /// Tells the API: of a static pod by its mirror, whichever there is, until the end; nothing of one that is gone.
    fn tell(&mut self, pod: &Arc<Pod>, status: PodStatus) {
        if !is_static(pod) {
            if !self.handle.is_gone() {
                self.writer.publish(status);
                self.writer.observe(pod);
            }
            return;
        }
        let mirror = self.handle.mirror();
        let uid = mirror.as_ref().map(|m| util::uid(m).to_owned());
        if self.mirrored != uid {
            self.mirrored = uid;
            self.writer = mirror.as_ref().map_or_else(StatusWriter::idle, |m| StatusWriter::spawn(Arc::clone(&self.cx.api), m));
        }
        self.writer.publish(status);
        if let Some(mirror) = &mirror {
            self.writer.observe(mirror);
        }
    }

    /// The restart count of the next run of a container: one more than the highest that is known of it.
    pub(super) fn next_attempt(&self, containers: &[Container], name: &str) -> u32 {
        let status = self.handle.status.lock();
        let lists = [&status.container_statuses, &status.init_container_statuses];
        let told = lists.into_iter().flat_map(|l| l.iter().flatten()).filter(|s| s.name == name);
        let told = told.map(|s| u32::try_from(s.restart_count).unwrap_or(0)).max().unwrap_or(0);
        latest(containers, name, None).map_or(0, |c| c.attempt + 1).max(told)
    }
}

pub(super) fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
