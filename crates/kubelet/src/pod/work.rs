//! What a pod's worker begins, and what it does with the end of it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container as Spec, Pod};
use tokio::sync::watch;
use tokio::task::Id;
use tokio::time::Instant;

use super::duties::Duty;
use super::kill::{Kill, Turns};
use super::ops::{self, Start};
use super::plan::{Action, Failure, Kind, Plan, find_spec, latest, restart_key};
use super::worker::{Killing, Outcome, Stage, Worker, earliest, grace_period};
use super::{cleanup, lost, resize, resize::Wide, setup};
use crate::api::Severity;
use crate::cri::{Container, ContainerId, Sandbox, State};
use crate::start_error::StartError;
use crate::statics::is_static;
use crate::status_writer::StatusWriter;
use crate::util;
use crate::volumes::payload::Source;
use crate::volumes::{self, Layout};

/// Wait before a failed start is tried again (upstream's `backOffPeriod`).
const START_RETRY: Duration = Duration::from_secs(10);
/// How long the error of a start is told before what follows it (upstream's next look at what the runtime has, a second later).
const SHOWN: Duration = Duration::from_secs(1);
/// Wait before a stop that failed is tried again.
const KILL_RETRY: Duration = Duration::from_secs(2);

fn spec_of(pod: &Pod, kind: Kind, index: usize) -> Option<Spec> {
    let spec = pod.spec.as_ref()?;
    match kind {
        Kind::Init => spec.init_containers.as_ref()?.get(index).cloned(),
        Kind::Regular => spec.containers.get(index).cloned(),
        Kind::Ephemeral => spec.ephemeral_containers.as_ref()?.get(index).map(util::ephemeral_as_container),
    }
}

impl Worker {
    pub(super) fn execute(&mut self, pod: &Arc<Pod>, made: Plan, sandbox: Option<&Sandbox>, containers: &[Container], at: Instant) {
        self.tell_backoff(pod, &made);
        self.waiting = made.waiting;
        for action in made.actions {
            match action {
                Action::SetUp => self.begin_set_up(&self.given(pod, containers), sandbox, at),
                Action::Start { kind, index, after } => self.start(pod, kind, index, after, containers, at),
                Action::Reset(order) => self.reset(pod, &order, containers, at),
                Action::Kill { id, again, message, grace_s } => {
                    let grace = grace_s.map_or_else(|| self.grace(pod), grace_period);
                    if let Some(c) = containers.iter().find(|c| c.id == id) {
                        if again {
                            self.again.insert(id);
                        }
                        self.kill(pod, c, message, at + grace);
                    }
                }
                Action::Finish => return self.begin_stop(pod, None),
            }
        }
    }

    fn begin_set_up(&mut self, pod: &Arc<Pod>, sandbox: Option<&Sandbox>, at: Instant) {
        // A refresh writes to the same places.
        if !self.duties.ready(Duty::SetUp, at) || self.duties.running(&[Duty::Refresh]) {
            return;
        }
        let attempt = sandbox.map_or(0, |s| if s.ready { s.attempt } else { s.attempt + 1 });
        if sandbox.is_some_and(|s| !s.ready) {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            self.cx.api.pod_event(pod, None, Severity::Normal, "SandboxChanged", message);
        }
        self.set_up = None;
        let (cx, pod, proofs, cancel) = (Arc::clone(&self.cx), Arc::clone(pod), Arc::clone(&self.proofs), self.cancel.clone());
        let old = sandbox.cloned();
        self.duties.begin(Duty::SetUp, at, async move {
            if let Some(dead) = old.as_ref().filter(|s| !s.ready) {
                // What remains of it is removed when its successor is up.
                let _ = cx.net.detach(&dead.id).await;
                let _ = cx.runtime.stop_sandbox(&dead.id).await;
            }
            Outcome::SetUp(setup::set_up(cx, pod, proofs, old, attempt, cancel).await)
        });
    }

    fn start(&mut self, pod: &Arc<Pod>, kind: Kind, index: usize, after: Option<Instant>, containers: &[Container], at: Instant) {
        let (Some(spec), Some(set_up)) = (spec_of(pod, kind, index), self.set_up.clone()) else { return };
        if !self.duties.ready(Duty::Start, at) {
            return;
        }
        let name = spec.name.clone();
        if after.is_some() {
            self.backoff.next(&restart_key(&spec), at);
        }
        let pod = &self.given(pod, containers);
        let Some(mut spec) = spec_of(pod, kind, index) else { return };
        let attempt = self.next_attempt(containers, &name);
        let ran = containers.iter().any(|c| c.name == name && c.state != State::Created);
        if let Some((_, first)) = self.begun_with.get(&name).filter(|_| !ran) {
            // What is asked for since the pod was let in is judged once this runs.
            spec.resources = Some(first.clone());
        }
        self.begun_with.insert(name.clone(), (Some(attempt), spec.resources.clone().unwrap_or_default()));
        self.restarting = (attempt > 0).then_some(at);
        self.starting = Some((name.clone(), attempt));
        let target = pod
            .spec
            .as_ref()
            .and_then(|s| s.ephemeral_containers.as_ref()?.get(index)?.target_container_name.clone())
            .filter(|name| kind == Kind::Ephemeral && !name.is_empty())
            .map(|name| {
                let found = latest(containers, &name, None);
                ops::Target { run: found.map(|c| c.id.clone()), running: found.is_some_and(Container::running), name }
            });
        let image = spec.image.clone();
        let start = Start { pod: Arc::clone(pod), kind, spec, attempt, set_up, target, cancel: self.cancel.clone() };
        let cx = Arc::clone(&self.cx);
        // Of each name the newest ended container is kept, for `logs --previous`; older ones go.
        let known = |c: &&Container| !c.sandbox.0.is_empty() && c.name == name;
        let old = containers.iter().filter(known).filter(|c| c.state == State::Exited && c.attempt + 1 < attempt);
        let spare: Vec<Container> = old.chain(containers.iter().filter(known).filter(|c| c.state == State::Created)).cloned().collect();
        self.duties.begin(Duty::Start, at, async move {
            let result = ops::start(Arc::clone(&cx), start).await;
            for c in spare {
                if let Err(e) = cleanup::remove_run(&cx, &c, true).await {
                    tracing::debug!(container = %c.id, error = %e, "former run not removed; the next start tries again");
                }
            }
            Outcome::Started { name, image, result }
        });
    }

    /// Removes all containers, so that the pod begins anew with the first (upstream's `ContainersToReset`).
    fn reset(&mut self, pod: &Arc<Pod>, order: &[ContainerId], containers: &[Container], at: Instant) {
        let found = |id: &ContainerId| containers.iter().find(|c| c.id == *id).cloned();
        let (cx, pod) = (Arc::clone(&self.cx), Arc::clone(pod));
        let order: Vec<Container> = order.iter().filter_map(found).collect();
        self.duties.begin(Duty::Reset, at, async move { Outcome::Reset(cleanup::reset(&cx, &pod, order).await) });
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

    pub(super) fn kill(&mut self, pod: &Arc<Pod>, c: &Container, message: String, deadline: Instant) {
        if self.killing.contains_key(&c.id) {
            return;
        }
        let (sender, receiver) = watch::channel(deadline);
        let (kind, spec) = find_spec(pod, &c.name).map_or((Kind::Regular, None), |(k, s)| (k, Some(s)));
        self.killing.insert(c.id.clone(), Killing { deadline: sender });
        let kill = Kill {
            pod: Arc::clone(pod),
            kind,
            spec,
            id: c.id.clone(),
            name: c.name.clone(),
            ips: self.ips.clone(),
            message,
            deadline: receiver,
            turns: self.turns.clone(),
        };
        let id = self.kills.spawn(super::kill::kill(self.cx.hands(), kill)).id();
        self.kill_of.insert(id, c.id.clone());
    }

    pub(super) fn killed(&mut self, task: Id, result: Result<(), String>) {
        let Some(id) = self.kill_of.remove(&task) else { return };
        self.killing.remove(&id);
        if let Err(e) = result {
            tracing::warn!(container = %id, error = %e, "container could not be stopped; will be tried again");
            if self.stage == Stage::Terminating {
                let runs = self.cx.runtime.pod_containers(&self.handle.uid);
                let name = runs.iter().find(|c| c.id == id).map_or("", |c| c.name.as_str());
                let message = format!("error killing pod: failed to \"KillContainer\" for {name:?} with KillContainerError: {e:?}");
                self.cx.api.pod_event(&self.handle.pod(), None, Severity::Warning, "FailedKillPod", &message);
            }
            self.kill_pauses.insert(id, Instant::now() + KILL_RETRY);
        }
    }

    /// Stops every container; when none runs the pod goes on to be cleaned.
    pub(super) fn stop_all(&mut self, pod: &Arc<Pod>, sandbox: Option<&Sandbox>, containers: &[Container], at: Instant) -> Option<Instant> {
        // A grace period may only become shorter.
        let deleted = (pod.metadata.deletion_timestamp.is_some() || self.handle.is_gone()).then(|| self.grace(pod));
        for grace in deleted.into_iter().chain(self.handle.eviction().map(|e| e.grace)) {
            let asked = at + grace;
            self.stop_deadline = Some(self.stop_deadline.map_or(asked, |d| d.min(asked)));
        }
        let deadline = self.stop_deadline.unwrap_or(at);
        let running: Vec<&Container> = containers.iter().filter(|c| c.running()).collect();
        let names: HashSet<String> = running.iter().map(|c| c.name.clone()).collect();
        // Whose turn it is follows from what runs, whoever stopped the others.
        match &self.turns {
            Some(turns) => turns.update(names),
            None => self.turns = Some(Turns::new(pod, names)),
        }
        for k in self.killing.values() {
            k.deadline.send_if_modified(|end| {
                let earlier = deadline < *end;
                *end = deadline.min(*end);
                earlier
            });
        }
        let mut wake = None;
        for c in &running {
            match self.kill_pauses.get(&c.id).copied().filter(|until| *until > at) {
                Some(until) => wake = earliest(wake, Some(until)),
                None => self.kill(pod, c, format!("Stopping container {}", c.name), deadline),
            }
        }
        if running.is_empty() && !self.duties.any() && self.killing.is_empty() {
            self.probes.stop();
            // Before the pod is told to have ended: who hears that gives its devices to others.
            if self.cx.devices.holds(&self.handle.uid) {
                return earliest(wake, self.give_back(sandbox, at));
            }
            self.stage = Stage::Cleaning;
        }
        wake
    }

    /// Has the pod's devices taken back; answers when that is tried again.
    fn give_back(&mut self, sandbox: Option<&Sandbox>, at: Instant) -> Option<Instant> {
        if !self.duties.ready(Duty::GiveBack, at) {
            return self.duties.waits(Duty::GiveBack, at);
        }
        let (cx, uid, sandbox) = (Arc::clone(&self.cx), self.handle.uid.clone(), sandbox.map(|s| s.id.clone()));
        self.duties.begin(Duty::GiveBack, at, async move { Outcome::GivenBack(cleanup::give_back(&cx, &uid, sandbox).await) });
        None
    }

    /// Removes the pod from the host, and then from the API if it is deleted there.
    pub(super) fn clean(&mut self, pod: &Arc<Pod>, sandbox: Option<&Sandbox>, containers: &[Container], at: Instant) -> Option<Instant> {
        if !self.duties.ready(Duty::Clean, at) {
            return self.duties.waits(Duty::Clean, at);
        }
        let (cx, pod) = (Arc::clone(&self.cx), Arc::clone(pod));
        // A static pod may be the API server itself: nobody waits until its mirror has been told.
        let writer = if is_static(&pod) { StatusWriter::idle() } else { self.writer.clone() };
        let deleted = self.handle.is_gone() || pod.metadata.deletion_timestamp.is_some();
        let runs = || containers.iter().filter(|c| !c.sandbox.0.is_empty()).cloned().collect::<Vec<_>>();
        if self.stage == Stage::Cleaning {
            // Who was put out gives back layers and logs as well (upstream's `ShouldPodContentBeRemoved`); what was told of him stands.
            let spent =
                if self.handle.eviction().is_some_and(|e| e.for_room) { (cx.runtime.pod_sandboxes(&self.handle.uid), runs()) } else { Default::default() };
            self.settled |= !spent.1.is_empty();
            let sandbox = sandbox.map(|s| s.id.clone());
            self.duties.begin(Duty::Clean, at, async move {
                let mut cleaned = cleanup::clean_host(&cx, &pod, sandbox).await;
                writer.flush().await;
                if cleaned.is_ok() {
                    cleaned = cleanup::remove_sandboxes(&cx, spent.0, spent.1, true).await;
                }
                Outcome::Cleaned(cleaned)
            });
        } else if deleted {
            let sandboxes = cx.runtime.pod_sandboxes(&self.handle.uid);
            let runs = runs();
            let gone = self.handle.is_gone();
            self.duties.begin(Duty::Clean, at, async move { Outcome::Deleted(cleanup::forget(&cx, &pod, sandboxes, runs, &writer, gone).await) });
        }
        None
    }

    /// Removes sandboxes that a newer one has replaced, unless a container in one is the last ended of its name (upstream's
    /// sandbox collector).
    pub(super) fn tidy(&mut self, now: Option<&Sandbox>, containers: &[Container], at: Instant) {
        let Some(now) = now.filter(|s| s.ready) else { return };
        let last_ended = |c: &Container| {
            let newer = |o: &&Container| o.name == c.name && o.attempt > c.attempt && o.state == State::Exited;
            c.state == State::Exited && !containers.iter().any(|o| newer(&o))
        };
        let spare = |s: &Sandbox| s.id != now.id && !s.ready && !containers.iter().any(|c| c.sandbox == s.id && last_ended(c));
        let dead: Vec<Sandbox> = self.cx.runtime.pod_sandboxes(&self.handle.uid).into_iter().filter(spare).collect();
        if dead.is_empty() || !self.duties.ready(Duty::Tidy, at) {
            return;
        }
        let runs: Vec<Container> = containers.iter().filter(|c| dead.iter().any(|s| s.id == c.sandbox)).cloned().collect();
        let cx = Arc::clone(&self.cx);
        self.duties.begin(Duty::Tidy, at, async move { Outcome::Tidied(cleanup::remove_sandboxes(&cx, dead, runs, true).await) });
    }

    pub(super) fn finished(&mut self, duty: Duty, outcome: Option<Outcome>) {
        let at = Instant::now();
        let good = outcome.map(|o| self.settle(o, at));
        if duty == Duty::Start {
            self.starting = None;
        }
        if matches!(duty, Duty::Start | Duty::Resize) {
            self.restarting = None;
        }
        self.duties.ended(duty, good.unwrap_or(false), at);
    }

    /// Takes in what a duty ended with; false if it failed and must wait before it is begun again.
    fn settle(&mut self, outcome: Outcome, at: Instant) -> bool {
        match outcome {
            Outcome::SetUp(Ok(done)) => {
                self.handle.ips.lock().clone_from(&done.ips);
                self.ips.clone_from(&done.ips);
                *self.handle.mounted.lock() = done.volumes.values().map(|ready| ready.plugin.clone()).collect();
                self.set_up = Some(done);
                self.lacking.clear();
                true
            }
            Outcome::SetUp(Err(e)) => {
                tracing::debug!(pod = %util::describe(&self.handle.pod()), message = %e.message, "set-up failed");
                self.lacking = e.waiting;
                if let Some(reason) = e.rejects.filter(|_| self.stage == Stage::Syncing) {
                    self.reject(reason, &e.message);
                }
                false
            }
            Outcome::Started { name, result: Ok(()), .. } => {
                self.failures.remove(&name);
                true
            }
            Outcome::Started { name, image, result: Err(e) } => {
                self.start_failed(name, image, e, at);
                true
            }
            Outcome::Resized { done, of_all, error } => {
                self.applied.extend(done);
                let good = error.is_none();
                if good {
                    self.of_all = Some(of_all);
                }
                if let Some(why) = error.as_deref().filter(|_| self.resize.1.as_ref() != Some(&error)) {
                    let pod = self.handle.pod();
                    let message = resize::message("error", &pod, self.resizing.unwrap_or(0), why);
                    self.cx.api.pod_event(&pod, None, Severity::Warning, "ResizeError", &message);
                }
                self.resize.1 = Some(error);
                self.wide = Wide::For(self.resizing.unwrap_or(0));
                good
            }
            Outcome::Narrowed => true,
            Outcome::Refreshed(errors) => {
                for e in &errors {
                    self.cx.api.pod_event(&self.handle.pod(), None, Severity::Warning, e.reason, &e.message);
                }
                self.refresh_due |= !errors.is_empty();
                errors.is_empty()
            }
            Outcome::Reset(Ok(removed)) => {
                self.lost.extend(removed.iter().map(lost::removed));
                // Several runs of a name: the newest is the one that is followed.
                let newest = |c: &Container, all: &[Container]| !all.iter().any(|o| o.name == c.name && o.attempt > c.attempt);
                let all = self.lost.clone();
                self.lost.retain(|c| newest(c, &all));
                self.again.extend(self.lost.iter().map(|c| c.id.clone()));
                self.failures.clear();
                true
            }
            Outcome::Tidied(Ok(())) | Outcome::GivenBack(Ok(())) => true,
            Outcome::Cleaned(Ok(())) => {
                self.handle.set_emptied();
                self.stage = Stage::Ended;
                true
            }
            Outcome::Deleted(Ok(())) => {
                self.stage = Stage::Done;
                true
            }
            Outcome::Reset(Err(e)) | Outcome::GivenBack(Err(e)) | Outcome::Tidied(Err(e)) | Outcome::Cleaned(Err(e)) | Outcome::Deleted(Err(e)) => {
                tracing::warn!(pod = %util::describe(&self.handle.pod()), error = %e, "clean-up failed; will be tried again");
                false
            }
        }
    }

    fn start_failed(&mut self, name: String, image: Option<String>, e: StartError, at: Instant) {
        // A pull that failed just now shows its error for a moment and then that it waits; the puller keeps the times.
        let retry_at = match e.reason.as_str() {
            "ErrImagePull" => at + SHOWN,
            "ImagePullBackOff" => self.cx.images.retry_at(&self.handle.uid, image.as_deref().unwrap_or_default(), at).unwrap_or(at + START_RETRY),
            // How long it waits is a matter of the container's end.
            "PostStartHookError" => at,
            // So it is where the runtime tells one: its error is shown for a moment, and then that it waits.
            "RunContainerError" if self.has_ended(&name) => at + SHOWN,
            _ => at + START_RETRY,
        };
        if let Some(id) = e.unhooked {
            let pod = self.handle.pod();
            let found = self.cx.runtime.pod_containers(&self.handle.uid).into_iter().find(|c| c.id == id && c.running());
            if let Some(c) = found {
                self.unhooked.insert(id);
                let grace = self.grace(&pod);
                self.kill(&pod, &c, "FailedPostStartHook".into(), at + grace);
            }
        }
        self.failures.insert(name, Failure { reason: e.reason, message: e.message, image, retry_at });
    }

    /// Whether the newest container of this name has ended, as far as the runtime knows.
    fn has_ended(&self, name: &str) -> bool {
        let all = self.cx.runtime.pod_containers(&self.handle.uid);
        latest(&all, name, None).is_some_and(|c| c.state == State::Exited)
    }

    /// Brings volumes up to date when an object of theirs changed, a token is due, or a minute has passed.
    pub(super) fn refresh(&mut self, pod: &Arc<Pod>, at: Instant) -> Option<Instant> {
        if self.set_up.is_none() || self.duties.running(&[Duty::SetUp, Duty::Refresh]) {
            return None;
        }
        let due = self.proofs.next_renewal();
        if !self.refresh_due && due.is_none_or(|due| due > at) {
            return due;
        }
        if let Some(until) = self.duties.waits(Duty::Refresh, at) {
            return Some(until);
        }
        self.refresh_due = false;
        let (cx, pod, proofs, ips) = (Arc::clone(&self.cx), Arc::clone(pod), Arc::clone(&self.proofs), self.ips.clone());
        let cancel = self.cancel.clone();
        self.duties.begin(Duty::Refresh, at, async move {
            let layout = Layout::new(&cx.config.root_dir, util::uid(&pod));
            let node = cx.node.read().clone();
            let source = Source {
                api: &cx.api,
                watches: &cx.watches,
                looks: &cx.looks,
                persistent: &cx.persistent,
                pod: &pod,
                node: node.as_deref(),
                proofs: &proofs,
                facts: cx.facts(&pod, &ips),
            };
            tokio::select! {
                errors = volumes::refresh(&source, &layout) => Outcome::Refreshed(errors),
                // A pod that goes waits for nobody's answer.
                () = cancel.cancelled() => Outcome::Refreshed(Vec::new()),
            }
        });
        None
    }
}
