//! Who waits to be placed, and for what.
//!
//! Every pod is in one place: *active* (to be looked at, the higher priority first, then the longer waiting), *backoff*
//! (may be looked at, but others first), *failed* (an error: not before its time), *parked* (no node did: waits for a
//! change that a plugin which turned it away thinks helpful), *gated*, or *taken* (being bound). As upstream since 1.33, a
//! pod in backoff is taken when nothing else is to do, so an idle scheduler never lets anybody wait. Has no clock and
//! no timer: the caller says what time it is and asks for the next [`Queue::deadline`].

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use client::Meta;
use tokio::time::Instant;

use crate::config::Config;
use crate::extender::EXTENDER;
use crate::framework::Change;
use crate::pod::PodInfo;
use crate::profile::Profiles;

/// A parked pod is looked at again after this, whatever happened (upstream `DefaultPodMaxInUnschedulablePodsDuration`).
const PARKED_MAX: Duration = Duration::from_secs(300);

/// The order among the active: priority, time, order of arrival; the UID.
type Rank = (Reverse<i32>, Instant, u64, String);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Active(Rank),
    Backoff(Instant, Rank),
    Failed(Instant),
    Parked(Instant),
    Gated,
    Taken,
}

#[derive(Debug)]
struct Waiting {
    pod: Arc<PodInfo>,
    place: Place,
    /// Failures so far.
    failures: u32,
    /// Who turned it away the last time.
    plugins: BTreeSet<&'static str>,
}

/// The queue.
#[derive(Debug)]
pub struct Queue {
    profiles: Arc<Profiles>,
    backoff_min: Duration,
    backoff_max: Duration,
    /// By UID.
    waiting: HashMap<String, Waiting>,
    active: BTreeSet<Rank>,
    backoff: BTreeSet<(Instant, Rank)>,
    failed: BTreeSet<(Instant, String)>,
    parked: BTreeSet<(Instant, String)>,
    arrivals: u64,
}

impl Default for Queue {
    fn default() -> Self {
        Self::new(&Config::default())
    }
}

impl Queue {
    /// An empty queue.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            profiles: config.profiles.clone(),
            backoff_min: config.backoff_min,
            backoff_max: config.backoff_max,
            waiting: HashMap::new(),
            active: BTreeSet::new(),
            backoff: BTreeSet::new(),
            failed: BTreeSet::new(),
            parked: BTreeSet::new(),
            arrivals: 0,
        }
    }

    /// How long a pod rests after so many failures: twice as long each time.
    fn rest(&self, failures: u32) -> Duration {
        if failures == 0 {
            return Duration::ZERO;
        }
        self.backoff_min.saturating_mul(1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX)).min(self.backoff_max)
    }

    /// Whether a gate holds a pod back, where gates count.
    fn is_gated(&self, pod: &PodInfo) -> bool {
        pod.is_gated() && self.profiles.get(pod.scheduler_name()).is_none_or(|profile| profile.gates)
    }

    /// Whether a change may help a pod: one of those who turned it away thinks so, or nobody in particular did. What an extender
    /// goes by is not known: anything may help.
    fn concerns(&self, waiting: &Waiting, change: &Change<'_>) -> bool {
        if waiting.plugins.is_empty() || waiting.plugins.contains(EXTENDER) {
            return !matches!(change, Change::Own { .. });
        }
        let Some(profile) = self.profiles.get(waiting.pod.scheduler_name()) else { return false };
        waiting.plugins.iter().filter_map(|name| profile.plugin(name)).any(|plugin| plugin.wakes(change, &waiting.pod))
    }
}

impl Queue {
    /// Takes in a pod that has no node: a new one, or one that changed. One that is `held` back for what is not there yet is as if it had
    /// a gate.
    pub fn upsert(&mut self, pod: Arc<PodInfo>, held: bool, now: Instant) {
        let uid = pod.pod.uid().to_owned();
        let gated = held || self.is_gated(&pod);
        let Some(waiting) = self.waiting.get_mut(&uid) else {
            self.waiting.insert(uid.clone(), Waiting { pod, place: Place::Gated, failures: 0, plugins: BTreeSet::new() });
            if !gated {
                self.activate(&uid, now);
            }
            return;
        };
        let old = std::mem::replace(&mut waiting.pod, pod);
        let wake = match self.waiting.get(&uid) {
            Some(Waiting { place: Place::Gated, .. }) => !gated,
            Some(waiting @ Waiting { place: Place::Parked(_), .. }) => self.concerns(waiting, &Change::Own { old: &old }),
            _ => false,
        };
        if wake {
            self.wake_one(&uid, now);
        }
    }

    /// Those of the pods that are held back.
    #[must_use]
    pub fn held(&self, is: impl Fn(&PodInfo) -> bool) -> Vec<Arc<PodInfo>> {
        let held = |waiting: &&Waiting| waiting.place == Place::Gated && is(&waiting.pod);
        self.waiting.values().filter(held).map(|waiting| waiting.pod.clone()).collect()
    }

    /// Forgets a pod.
    pub fn remove(&mut self, uid: &str) {
        self.leave(uid);
        self.waiting.remove(uid);
    }

    /// The pod to look at now.
    pub fn pop(&mut self, now: Instant) -> Option<Arc<PodInfo>> {
        self.flush(now);
        let uid = match self.active.first().or_else(|| self.backoff.first().map(|(_, rank)| rank)) {
            Some(rank) => rank.3.clone(),
            None => return None,
        };
        self.leave(&uid);
        let waiting = self.waiting.get_mut(&uid)?;
        waiting.place = Place::Taken;
        Some(waiting.pod.clone())
    }

    /// No node did for the pod that was taken; these plugins turned it away.
    pub fn park(&mut self, uid: &str, plugins: BTreeSet<&'static str>, now: Instant) {
        self.leave(uid);
        let Some(waiting) = self.waiting.get_mut(uid) else {
            return;
        };
        waiting.failures += 1;
        waiting.plugins = plugins;
        waiting.place = Place::Parked(now);
        self.parked.insert((now, uid.to_owned()));
    }

    /// Something went wrong with the pod that was taken: it is tried again by itself.
    pub fn fail(&mut self, uid: &str, now: Instant) {
        self.leave(uid);
        let Some(waiting) = self.waiting.get_mut(uid) else {
            return;
        };
        waiting.failures += 1;
        let failures = waiting.failures;
        waiting.plugins.clear();
        let until = now + self.rest(failures);
        let Some(waiting) = self.waiting.get_mut(uid) else {
            return;
        };
        waiting.place = Place::Failed(until);
        self.failed.insert((until, uid.to_owned()));
    }

    /// What was to let a parked pod back went wrong: it is tried again by itself.
    pub fn retry(&mut self, uid: &str, now: Instant) {
        if self.waiting.get(uid).is_some_and(|w| matches!(w.place, Place::Parked(_))) {
            self.fail(uid, now);
        }
    }

    /// Lets the parked pods back whom this change may help.
    pub fn change(&mut self, change: &Change<'_>, now: Instant) {
        if self.parked.is_empty() {
            return;
        }
        let helped: Vec<String> =
            self.parked.iter().filter(|(_, uid)| self.waiting.get(uid).is_some_and(|w| self.concerns(w, change))).map(|(_, uid)| uid.clone()).collect();
        for uid in helped {
            self.wake_one(&uid, now);
        }
    }

    /// Lets a parked pod back at once.
    pub fn activate(&mut self, uid: &str, now: Instant) {
        if self.waiting.get(uid).is_none_or(|w| !matches!(w.place, Place::Parked(_) | Place::Gated | Place::Backoff(..) | Place::Failed(_))) {
            return;
        }
        self.leave(uid);
        let rank = self.rank(uid, now);
        if let Some(waiting) = self.waiting.get_mut(uid) {
            waiting.place = Place::Active(rank.clone());
            self.active.insert(rank);
        }
    }

    /// When something is to be done without a change of the cluster.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let failed = self.failed.first().map(|(until, _)| *until);
        let parked = self.parked.first().map(|(since, _)| *since + PARKED_MAX);
        failed.into_iter().chain(parked).min()
    }

    /// The pod, in its newest state.
    #[must_use]
    pub fn get(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        self.waiting.get(uid).map(|w| &w.pod)
    }

    fn wake_one(&mut self, uid: &str, now: Instant) {
        let Some(waiting) = self.waiting.get(uid) else {
            return;
        };
        let until = match waiting.place {
            Place::Parked(since) => since + self.rest(waiting.failures),
            _ => now,
        };
        if until <= now {
            return self.activate(uid, now);
        }
        self.leave(uid);
        let rank = self.rank(uid, now);
        if let Some(waiting) = self.waiting.get_mut(uid) {
            waiting.place = Place::Backoff(until, rank.clone());
            self.backoff.insert((until, rank));
        }
    }

    fn rank(&mut self, uid: &str, now: Instant) -> Rank {
        self.arrivals += 1;
        let priority = self.waiting.get(uid).map_or(0, |w| w.pod.priority());
        (Reverse(priority), now, self.arrivals, uid.to_owned())
    }

    /// Takes a pod out of the place where it is.
    fn leave(&mut self, uid: &str) {
        let Some(waiting) = self.waiting.get_mut(uid) else {
            return;
        };
        match std::mem::replace(&mut waiting.place, Place::Taken) {
            Place::Active(rank) => drop(self.active.remove(&rank)),
            Place::Backoff(until, rank) => drop(self.backoff.remove(&(until, rank))),
            Place::Failed(until) => drop(self.failed.remove(&(until, uid.to_owned()))),
            Place::Parked(since) => drop(self.parked.remove(&(since, uid.to_owned()))),
            Place::Gated | Place::Taken => {}
        }
    }

    /// Lets back those whose time has come.
    fn flush(&mut self, now: Instant) {
        while let Some((_, uid)) = self.failed.first().filter(|(until, _)| *until <= now).cloned() {
            self.activate(&uid, now);
        }
        while let Some((_, uid)) = self.parked.first().filter(|(since, _)| *since + PARKED_MAX <= now).cloned() {
            self.activate(&uid, now);
        }
        while let Some((_, rank)) = self.backoff.first().filter(|(until, _)| *until <= now).cloned() {
            self.activate(&rank.3, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(uid: &str, priority: i32, gates: &[&str]) -> Arc<PodInfo> {
        let gates: Vec<_> = gates.iter().map(|g| json!({"name": g})).collect();
        let value =
            json!({"metadata": {"namespace": "n", "name": uid, "uid": uid}, "spec": {"priority": priority, "containers": [], "schedulingGates": gates}});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(value).unwrap())))
    }

    fn popped(queue: &mut Queue, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| queue.pop(now)).map(|p| p.pod.uid().to_owned()).collect()
    }

    #[test]
    fn priority_then_time() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for (uid, priority) in [("a", 0), ("b", 10), ("c", 0), ("d", 10)] {
            queue.upsert(pod(uid, priority, &[]), false, now);
        }
        queue.remove("c");
        assert_eq!(popped(&mut queue, now), ["b", "d", "a"]);
    }

    #[test]
    fn a_gate_holds_until_it_is_gone() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.upsert(pod("a", 0, &["wait"]), false, now);
        assert!(popped(&mut queue, now).is_empty());
        queue.upsert(pod("a", 0, &[]), false, now);
        assert_eq!(popped(&mut queue, now), ["a"]);
    }

    #[test]
    fn only_what_may_help_wakes() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.upsert(pod("a", 0, &[]), false, now);
        queue.pop(now);
        queue.park("a", ["NodeResourcesFit"].into(), now);
        queue.change(&Change::PodPlaced(&pod("x", 0, &[])), now);
        queue.change(&Change::Namespace, now);
        assert!(popped(&mut queue, now).is_empty());
        assert_eq!(queue.deadline(), Some(now + PARKED_MAX));
        queue.change(&Change::PodGone(&pod("x", 0, &[])), now);
        // Its back-off is not over, but nobody else is there.
        assert_eq!(popped(&mut queue, now), ["a"]);
        queue.park("a", BTreeSet::new(), now);
        assert_eq!(popped(&mut queue, now + PARKED_MAX), ["a"]);
    }

    #[test]
    fn who_is_not_in_backoff_comes_first_and_an_error_waits() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.upsert(pod("a", 100, &[]), false, now);
        queue.pop(now);
        queue.park("a", BTreeSet::new(), now);
        queue.change(&Change::Namespace, now);
        queue.upsert(pod("b", 0, &[]), false, now);
        assert_eq!(popped(&mut queue, now), ["b", "a"]);
        queue.fail("b", now);
        assert!(popped(&mut queue, now).is_empty());
        assert_eq!(queue.deadline(), Some(now + Duration::from_secs(1)));
        assert_eq!(popped(&mut queue, now + Duration::from_secs(1)), ["b"]);
        assert_eq!([0, 1, 2, 3, 4, 5, 40].map(|f| queue.rest(f).as_secs()), [0, 1, 2, 4, 8, 10, 10]);
    }
}
