//! What a pod's worker does about resources that change while the pod runs, a step a function: it notes what each container has,
//! gathers what is not as the specification says, asks whether the node has it, and gives it.
//!
//! What a change is, and how it is made, is in `resize.rs`; here is when.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container as Spec, Pod, ResourceRequirements};
use tokio::time::Instant;

use super::duties::Duty;
use super::plan::find_spec;
use super::resize::{self, Change, Wide};
use super::worker::{Outcome, Worker, earliest};
use crate::api::Severity;
use crate::cri::{Container, ContainerId, State};

/// Wait before resources that others must give back first are looked for again.
const RETRY: Duration = Duration::from_secs(5);

/// What is not as the specification says.
struct Growth {
    /// The running containers that are to have something else.
    changes: Vec<Change>,
    /// Who has ended with something else, and what he is to run again with.
    ended: Vec<(ContainerId, ResourceRequirements)>,
    /// The pod as a whole has something else.
    outgrown: bool,
    /// Who has ended meanwhile runs again with what he had, until there is more for him.
    waits: bool,
}

impl Growth {
    /// Whether at most those who have ended want something.
    fn is_of_the_ended(&self) -> bool {
        self.changes.is_empty() && !self.outgrown && !self.waits
    }
}

impl Worker {
    /// Gives containers that can have them new resources in place; answers those that must be started anew.
    pub(super) fn outgrown(&mut self, pod: &Arc<Pod>, containers: &[Container], at: Instant) -> HashSet<ContainerId> {
        self.note_resources(pod, containers);
        let growth = self.growth(pod, containers);
        if growth.is_of_the_ended() && !self.anew.is_empty() {
            // What else was wanted meanwhile is not any more.
            self.resize.0 = None;
            self.resize_look_at = None;
            return HashSet::new();
        }
        if growth.is_of_the_ended() && growth.ended.is_empty() {
            self.complete_growth(pod, at);
            return HashSet::new();
        }
        if self.is_granted(pod, at) { self.give(pod, containers, growth, at) } else { HashSet::new() }
    }

    /// Notes what containers have that were seen for the first time, and forgets those that are gone.
    fn note_resources(&mut self, pod: &Arc<Pod>, containers: &[Container]) {
        let given = self.given(pod, containers);
        for c in containers.iter().filter(|c| c.state != State::Created) {
            if !self.applied.contains_key(&c.id) {
                // One that was begun here has what it was begun with, also where it ended at once; another what the spec says, or what the one before had.
                let begun = self.begun_with.get(&c.name).filter(|(attempt, _)| *attempt == Some(c.attempt)).map(|(_, has)| has.clone());
                let of_spec = || find_spec(&given, &c.name).and_then(|(_, s)| s.resources).unwrap_or_default();
                if let Some(has) = begun.or_else(|| c.running().then(of_spec)) {
                    self.applied.insert(c.id.clone(), has);
                }
            }
            // Who follows it in a sandbox made anew is begun with what it has by now.
            if let (Some(has), Some(newest)) = (self.applied.get(&c.id), self.begun_with.get_mut(&c.name))
                && newest.0 <= Some(c.attempt)
                && newest.1 != *has
            {
                *newest = (Some(c.attempt), has.clone());
            }
        }
        self.applied.retain(|id, _| containers.iter().any(|c| c.id == *id));
    }

    /// What is not as the specification says, and whom that leaves to be started anew still.
    fn growth(&mut self, pod: &Pod, containers: &[Container]) -> Growth {
        let outgrown = resize::is_outgrown(pod, self.of_all.get_or_insert_with(|| resize::of_all(pod)));
        if self.wide == Wide::Unknown {
            // Who looked after this pod before may have ended in the middle of a change.
            self.wide = if containers.is_empty() { Wide::No } else { Wide::For(0) };
        }
        let changes = resize::changes(pod, containers, &self.applied);
        let waits = self.resize.0.is_some() && resize::is_wanted(pod, containers, &self.applied);
        // It still is to end, or has ended to be followed by another.
        let ends = |c: &Container| {
            if c.running() { self.killing.contains_key(&c.id) || changes.iter().any(|change| change.id == c.id) } else { self.again.contains(&c.id) }
        };
        // However the next one fares: it has been started with what the spec says.
        self.anew.retain(|name, old| {
            let was = containers.iter().find(|c| c.id == *old);
            was.is_some_and(|was| ends(was) && !containers.iter().any(|c| c.name == *name && c.attempt > was.attempt && c.state != State::Created))
        });
        // Who has ended runs again with what is granted: the pod as a whole must have it, too.
        let ended = if self.anew.is_empty() { resize::ended(pod, containers, &self.applied) } else { Vec::new() };
        Growth { changes, ended, outgrown, waits }
    }

    /// Everybody has what he is to have: the pod as a whole gets its own limits again, and it is told.
    fn complete_growth(&mut self, pod: &Arc<Pod>, at: Instant) {
        if self.wide != Wide::No {
            if !self.duties.ready(Duty::Resize, at) {
                self.resize_look_at = self.duties.waits(Duty::Resize, at);
                return;
            }
            self.wide = Wide::No;
            let (cx, pod) = (Arc::clone(&self.cx), Arc::clone(pod));
            self.duties.begin(Duty::Resize, at, async move {
                resize::narrow(&cx, &pod).await;
                Outcome::Narrowed
            });
        }
        self.resize = (None, None);
        self.resize_look_at = None;
        if let Some(generation) = self.resizing.take() {
            self.cx.api.pod_event(pod, None, Severity::Normal, "ResizeCompleted", &resize::message("completed", pod, generation, ""));
        }
    }

    /// Whether the node has what the pod now asks for, and it can be given at once; else when that is looked at again.
    fn is_granted(&mut self, pod: &Arc<Pod>, at: Instant) -> bool {
        let (ready, generation) = (self.duties.ready(Duty::Resize, at), pod.metadata.generation.unwrap_or(0));
        // What nobody has judged yet is judged at once: till then it counts for the node, and who ends would run with it.
        let judged = self.resize.0.is_some() || self.resizing == Some(generation);
        if judged && (!ready || self.resize_look_at.is_some_and(|look| look > at)) {
            self.resize_look_at = earliest(self.resize_look_at, self.duties.waits(Duty::Resize, at));
            return false;
        }
        self.resize_look_at = None;
        if !*self.cx.all_known.borrow() {
            // Everybody is woken when they are.
            return false;
        }
        let pending = {
            // Of two that both see the same room only one has it.
            let _alone = self.cx.judging.lock();
            let others: Vec<Arc<Pod>> = (self.cx.others)(&self.handle.uid);
            let pending = resize::pending(&self.cx, pod, &others);
            if pending.is_none() {
                self.handle.grant();
            }
            pending
        };
        if let Some((reason, message)) = pending.as_ref().filter(|_| pending != self.resize.0) {
            self.cx.api.pod_event(pod, None, Severity::Warning, &format!("Resize{reason}"), &resize::message(reason, pod, generation, message));
        }
        self.resize.0 = pending;
        if self.resize.0.is_some() {
            // What others give back is not told here; it is looked at again after a while.
            self.resize_look_at = Some(at + RETRY);
            return false;
        }
        if !ready {
            self.resize_look_at = self.duties.waits(Duty::Resize, at);
        }
        ready
    }

    /// Gives what was granted: in place, where that is possible, and first; answers whom that leaves to be started anew.
    fn give(&mut self, pod: &Arc<Pod>, containers: &[Container], growth: Growth, at: Instant) -> HashSet<ContainerId> {
        let generation = pod.metadata.generation.unwrap_or(0);
        let Growth { changes, ended, outgrown, .. } = growth;
        self.resize.1.get_or_insert(None);
        if self.resizing != Some(generation) {
            self.resizing = Some(generation);
            self.cx.api.pod_event(pod, None, Severity::Normal, "ResizeStarted", &resize::message("started", pod, generation, ""));
        }
        let mut in_place: Vec<(ContainerId, Spec)> =
            changes.iter().filter(|c| !c.restart).filter_map(|c| Some((c.id.clone(), find_spec(pod, &c.name)?.1))).collect();
        if outgrown {
            in_place.extend(resize::limited_by_pod(pod, containers).into_iter().filter(|(id, _)| changes.iter().all(|change| change.id != *id)));
        }
        if outgrown || !in_place.is_empty() || !ended.is_empty() || self.wide != Wide::For(generation) {
            // All at once, so that nobody sees a half of it; and before any is started anew, which would not fit into the pod as it was.
            self.restarting = Some(at);
            let (cx, pod) = (Arc::clone(&self.cx), Arc::clone(pod));
            let running = resize::in_force(&pod, containers, &self.applied, self.of_all.as_ref());
            self.duties.begin(Duty::Resize, at, async move {
                let (mut done, error) = resize::apply(&cx, &pod, &running, in_place).await;
                if error.is_none() {
                    done.extend(ended);
                }
                Outcome::Resized { done, of_all: resize::of_all(&pod), error }
            });
            return HashSet::new();
        }
        let anew: HashMap<String, ContainerId> = changes.into_iter().filter(|c| c.restart).map(|c| (c.name, c.id)).collect();
        let ids = anew.values().cloned().collect();
        self.anew.extend(anew);
        ids
    }
}
