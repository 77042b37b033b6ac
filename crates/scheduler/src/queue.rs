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
use crate::metrics::{NEW, Part, QueueMetrics, Tries};
use crate::plugins::dynamic_resources;
use crate::pod::PodInfo;
use crate::profile::Profiles;

/// A parked pod is looked at again after this, whatever happened (upstream `DefaultPodMaxInUnschedulablePodsDuration`).
const PARKED_MAX: Duration = Duration::from_secs(300);

/// What holds a pod back that has a gate.
const GATES: &str = "SchedulingGates";

/// What brings a pod to another place, beside changes of the cluster (the original's special events).
mod event {
    pub(super) const CHANGED: &str = "UnscheduledPodUpdate";
    pub(super) const FAILURE: &str = "ScheduleAttemptFailure";
    pub(super) const RESTED: &str = "BackoffComplete";
    pub(super) const EARLY: &str = "PopFromBackoffQ";
    pub(super) const TIMEOUT: &str = "UnschedulableTimeout";
    pub(super) const FORCED: &str = "ForceActivate";
}

/// Rests end with these, so that of those whose rests end in one of them the most important comes first (upstream
/// `backoffQOrderingWindowDuration`).
const WINDOW: Duration = Duration::from_secs(1);

/// The order among the active: priority, time, order of arrival; the UID.
type Rank = (Reverse<i32>, Instant, u64, String);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Active(Rank),
    Backoff(Instant, Rank),
    Failed(Instant),
    Parked(Instant),
    /// By this plugin.
    Gated(&'static str),
    Taken,
}

impl Place {
    /// Where it is, as it is counted.
    fn part(&self) -> Option<Part> {
        match self {
            Self::Active(_) => Some(Part::Active),
            Self::Backoff(..) | Self::Failed(_) => Some(Part::Backoff),
            Self::Parked(_) => Some(Part::Unschedulable),
            Self::Gated(_) => Some(Part::Gated),
            Self::Taken => None,
        }
    }
}

#[derive(Debug)]
struct Waiting {
    pod: Arc<PodInfo>,
    place: Place,
    /// How often no node did.
    turned_away: u32,
    /// How often in a row something went wrong.
    errors: u32,
    /// Since when it waits: it came, or was tried the last time. Among equals it is the longest waiting's turn, however long a
    /// change that helps is in coming (upstream's `Timestamp`).
    since: Instant,
    /// Who turned it away the last time.
    plugins: BTreeSet<&'static str>,
    /// How often it was taken, and when for the first time.
    tries: u32,
    first: Option<Instant>,
    /// Whether nothing but time let it back the last time.
    flushed: bool,
}

impl Waiting {
    /// After how many failures it rests: those of the last sort.
    fn failures(&self) -> u32 {
        if self.errors > 0 { self.errors } else { self.turned_away }
    }

    /// Counts who holds it back, where somebody does.
    fn count_held(&self, metrics: &QueueMetrics, by: i64) {
        match self.place {
            Place::Parked(_) => metrics.held(self.plugins.iter().copied(), self.pod.scheduler_name(), by),
            Place::Gated(plugin) => metrics.held([plugin].into_iter(), self.pod.scheduler_name(), by),
            _ => {}
        }
    }
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
    /// From when on windows are counted.
    began: Instant,
    metrics: QueueMetrics,
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
            began: Instant::now(),
            metrics: config.metrics.queue.clone(),
        }
    }

    /// How long a pod rests after so many failures: twice as long each time.
    fn rest(&self, failures: u32) -> Duration {
        if failures == 0 {
            return Duration::ZERO;
        }
        self.backoff_min.saturating_mul(1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX)).min(self.backoff_max)
    }

    /// When a rest is over that ends then.
    fn rested(&self, end: Instant) -> Instant {
        let windows = end.saturating_duration_since(self.began).as_secs() / WINDOW.as_secs() + 1;
        self.began + WINDOW * u32::try_from(windows).unwrap_or(u32::MAX)
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
        let gate = if self.is_gated(&pod) { Some(GATES) } else { held.then_some(dynamic_resources::NAME) };
        let Some(waiting) = self.waiting.get_mut(&uid) else {
            let new =
                Waiting { pod, place: Place::Taken, turned_away: 0, errors: 0, since: now, plugins: BTreeSet::new(), tries: 0, first: None, flushed: false };
            self.waiting.insert(uid.clone(), new);
            match gate {
                Some(gate) => self.enter(&uid, Place::Gated(gate), NEW),
                None => self.make_active(&uid, NEW),
            }
            return;
        };
        let old = std::mem::replace(&mut waiting.pod, pod);
        let wake = match self.waiting.get(&uid) {
            Some(Waiting { place: Place::Gated(_), .. }) => gate.is_none(),
            Some(waiting @ Waiting { place: Place::Parked(_), .. }) => self.concerns(waiting, &Change::Own { old: &old }),
            _ => false,
        };
        if wake {
            self.wake_one(&uid, event::CHANGED, now);
        }
    }

    /// Those of the pods that are held back.
    #[must_use]
    pub fn held(&self, is: impl Fn(&PodInfo) -> bool) -> Vec<Arc<PodInfo>> {
        let held = |waiting: &&Waiting| matches!(waiting.place, Place::Gated(_)) && is(&waiting.pod);
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
        let uid = match (self.active.first(), self.backoff.first()) {
            (Some(rank), _) => rank.3.clone(),
            (None, Some((_, rank))) => {
                let uid = rank.3.clone();
                self.make_active(&uid, event::EARLY);
                uid
            }
            (None, None) => return None,
        };
        self.leave(&uid);
        let waiting = self.waiting.get_mut(&uid)?;
        waiting.tries += 1;
        waiting.first.get_or_insert(now);
        Some(waiting.pod.clone())
    }

    /// The way of a pod so far that was taken.
    #[must_use]
    pub fn tries(&self, uid: &str) -> Option<Tries> {
        let waiting = self.waiting.get(uid)?;
        Some(Tries { count: waiting.tries, since: waiting.first?, flushed: waiting.flushed })
    }

    /// No node did for the pod that was taken; these plugins turned it away.
    pub fn park(&mut self, uid: &str, plugins: BTreeSet<&'static str>, now: Instant) {
        self.leave(uid);
        let Some(waiting) = self.waiting.get_mut(uid) else {
            return;
        };
        waiting.turned_away += 1;
        waiting.errors = 0;
        waiting.since = now;
        waiting.plugins = plugins;
        waiting.flushed = false;
        self.enter(uid, Place::Parked(now), event::FAILURE);
    }

    /// The pod that was taken is not to be tried yet: it waits as before.
    pub fn put_back(&mut self, uid: &str, now: Instant) {
        self.leave(uid);
        if let Some(waiting) = self.waiting.get_mut(uid) {
            waiting.tries = waiting.tries.saturating_sub(1);
            self.enter(uid, Place::Parked(now), event::FAILURE);
        }
    }

    /// Something went wrong with the pod that was taken: it is tried again by itself.
    pub fn fail(&mut self, uid: &str, now: Instant) {
        self.leave(uid);
        let Some(waiting) = self.waiting.get_mut(uid) else {
            return;
        };
        waiting.errors += 1;
        waiting.since = now;
        waiting.plugins.clear();
        waiting.flushed = false;
        let failures = waiting.failures();
        self.enter(uid, Place::Failed(now + self.rest(failures)), event::FAILURE);
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
            self.wake_one(&uid, change.event(), now);
        }
    }

    /// Lets a parked pod back at once. One that has a gate keeps it.
    pub fn activate(&mut self, uid: &str) {
        if self.waiting.get(uid).is_some_and(|w| !matches!(w.place, Place::Gated(_))) {
            self.let_back(uid, event::FORCED);
        }
    }

    fn let_back(&mut self, uid: &str, event: &'static str) {
        if self.waiting.get(uid).is_some_and(|w| matches!(w.place, Place::Parked(_) | Place::Gated(_) | Place::Backoff(..) | Place::Failed(_))) {
            self.make_active(uid, event);
        }
    }

    fn make_active(&mut self, uid: &str, event: &'static str) {
        self.leave(uid);
        let rank = self.rank(uid);
        self.enter(uid, Place::Active(rank), event);
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

    fn wake_one(&mut self, uid: &str, event: &'static str, now: Instant) {
        let Some(waiting) = self.waiting.get(uid) else {
            return;
        };
        let until = match waiting.place {
            Place::Parked(since) => self.rested(since + self.rest(waiting.failures())),
            _ => now,
        };
        if until <= now {
            return self.let_back(uid, event);
        }
        self.leave(uid);
        let rank = self.rank(uid);
        self.enter(uid, Place::Backoff(until, rank), event);
    }

    fn rank(&mut self, uid: &str) -> Rank {
        self.arrivals += 1;
        let Some(waiting) = self.waiting.get(uid) else { unreachable!() };
        (Reverse(waiting.pod.priority()), waiting.since, self.arrivals, uid.to_owned())
    }

    /// Puts a pod that is nowhere into a place, because of this event.
    fn enter(&mut self, uid: &str, place: Place, event: &'static str) {
        let Some(waiting) = self.waiting.get_mut(uid) else {
            return;
        };
        match &place {
            Place::Active(rank) => drop(self.active.insert(rank.clone())),
            Place::Backoff(until, rank) => drop(self.backoff.insert((*until, rank.clone()))),
            Place::Failed(until) => drop(self.failed.insert((*until, uid.to_owned()))),
            Place::Parked(since) => drop(self.parked.insert((*since, uid.to_owned()))),
            Place::Gated(_) | Place::Taken => {}
        }
        waiting.place = place;
        if let Some(part) = waiting.place.part() {
            self.metrics.enter(part, event);
        }
        waiting.count_held(&self.metrics, 1);
    }

    /// Takes a pod out of the place where it is.
    fn leave(&mut self, uid: &str) {
        let Some(waiting) = self.waiting.get_mut(uid) else {
            return;
        };
        if let Some(part) = waiting.place.part() {
            self.metrics.leave(part);
        }
        waiting.count_held(&self.metrics, -1);
        match std::mem::replace(&mut waiting.place, Place::Taken) {
            Place::Active(rank) => drop(self.active.remove(&rank)),
            Place::Backoff(until, rank) => drop(self.backoff.remove(&(until, rank))),
            Place::Failed(until) => drop(self.failed.remove(&(until, uid.to_owned()))),
            Place::Parked(since) => drop(self.parked.remove(&(since, uid.to_owned()))),
            Place::Gated(_) | Place::Taken => {}
        }
    }

    /// Lets back those whose time has come.
    fn flush(&mut self, now: Instant) {
        while let Some((_, uid)) = self.failed.first().filter(|(until, _)| *until <= now).cloned() {
            self.let_back(&uid, event::RESTED);
        }
        while let Some((_, uid)) = self.parked.first().filter(|(since, _)| *since + PARKED_MAX <= now).cloned() {
            self.let_back(&uid, event::TIMEOUT);
            if let Some(waiting) = self.waiting.get_mut(&uid) {
                waiting.flushed = true;
            }
        }
        while let Some((_, rank)) = self.backoff.first().filter(|(until, _)| *until <= now).cloned() {
            self.let_back(&rank.3, event::RESTED);
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
        queue.activate("a");
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
    fn where_pods_are_and_what_brought_them_there_is_counted() {
        let config = Config::default();
        let (mut queue, now) = (Queue::new(&config), Instant::now());
        let samples = |names: [&str; 2]| {
            let text = config.metrics.registry().text();
            let of = |line: &&str| names.iter().any(|name| line.starts_with(&format!("scheduler_{name}{{"))) && !line.ends_with(" 0");
            text.lines().filter(of).map(|line| line.trim_start_matches("scheduler_").to_owned()).collect::<Vec<_>>()
        };
        queue.upsert(pod("a", 0, &[]), false, now);
        queue.upsert(pod("b", 0, &["wait"]), false, now);
        queue.upsert(pod("c", 0, &[]), true, now);
        queue.pop(now);
        queue.park("a", ["NodeResourcesFit", "NodeAffinity"].into(), now);
        assert_eq!(samples(["pending_pods", "queued_entities"])[..2], [r#"pending_pods{queue="gated"} 2"#, r#"pending_pods{queue="unschedulable"} 1"#]);
        assert_eq!(
            samples(["unschedulable_pods"; 2]),
            [
                r#"unschedulable_pods{plugin="DynamicResources",profile="default-scheduler"} 1"#,
                r#"unschedulable_pods{plugin="NodeAffinity",profile="default-scheduler"} 1"#,
                r#"unschedulable_pods{plugin="NodeResourcesFit",profile="default-scheduler"} 1"#,
                r#"unschedulable_pods{plugin="SchedulingGates",profile="default-scheduler"} 1"#,
            ]
        );
        queue.upsert(pod("b", 0, &[]), false, now);
        queue.change(&Change::PodGone(&pod("x", 0, &[])), now);
        assert_eq!(
            samples(["pending_pods"; 2]),
            [r#"pending_pods{queue="active"} 1"#, r#"pending_pods{queue="backoff"} 1"#, r#"pending_pods{queue="gated"} 1"#]
        );
        assert_eq!(popped(&mut queue, now), ["b", "a"]);
        assert_eq!(queue.tries("a"), Some(Tries { count: 2, since: now, flushed: false }));
        queue.park("a", ["NodeAffinity"].into(), now);
        let later = now + PARKED_MAX;
        assert_eq!(popped(&mut queue, later), ["a"]);
        assert_eq!(queue.tries("a"), Some(Tries { count: 3, since: now, flushed: true }));
        queue.fail("a", later);
        queue.remove("b");
        queue.remove("c");
        assert_eq!(samples(["pending_pods", "unschedulable_pods"]), [r#"pending_pods{queue="backoff"} 1"#]);
        assert_eq!(
            samples(["queue_incoming_pods_total"; 2]),
            [
                r#"queue_incoming_pods_total{event="AssignedPodDelete",queue="backoff"} 1"#,
                r#"queue_incoming_pods_total{event="PopFromBackoffQ",queue="active"} 1"#,
                r#"queue_incoming_pods_total{event="ScheduleAttemptFailure",queue="backoff"} 1"#,
                r#"queue_incoming_pods_total{event="ScheduleAttemptFailure",queue="unschedulable"} 2"#,
                r#"queue_incoming_pods_total{event="UnschedulableTimeout",queue="active"} 1"#,
                r#"queue_incoming_pods_total{event="UnscheduledPodAdd",queue="active"} 1"#,
                r#"queue_incoming_pods_total{event="UnscheduledPodAdd",queue="unschedulable"} 2"#,
                r#"queue_incoming_pods_total{event="UnscheduledPodUpdate",queue="active"} 1"#,
            ]
        );
    }

    #[test]
    fn the_longest_waiting_comes_first_however_late_a_change_helps_it() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let after = |seconds| now + Duration::from_secs(seconds);
        queue.upsert(pod("old", 0, &[]), false, now);
        queue.pop(now);
        queue.park("old", ["NodeResourcesFit"].into(), now);
        queue.upsert(pod("new", 0, &[]), false, after(20));
        queue.upsert(pod("urgent", 1, &[]), false, after(21));
        queue.change(&Change::PodGone(&pod("x", 0, &[])), after(30));
        assert_eq!(popped(&mut queue, after(30)), ["urgent", "old", "new"]);
        // An error rests as the errors in a row before it, not as all failures.
        for n in 0..3 {
            queue.park("old", BTreeSet::new(), after(40 + n));
        }
        queue.fail("old", after(50));
        assert_eq!(queue.deadline(), Some(after(51)));
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

    #[test]
    fn of_those_whose_rest_ends_in_one_second_the_most_important_comes_first() {
        let mut queue = Queue::default();
        let began = queue.began;
        let at = |ms: u64| began + Duration::from_millis(ms);
        for (uid, priority, ms) in [("low", 0, 100), ("high", 10, 200), ("highest", 20, 1100)] {
            queue.upsert(pod(uid, priority, &[]), false, at(ms));
            queue.pop(at(ms));
            queue.park(uid, BTreeSet::new(), at(ms));
        }
        queue.change(&Change::Namespace, at(1150));
        assert_eq!(popped(&mut queue, at(1150)), ["high", "low", "highest"]);
    }

    #[test]
    fn one_that_is_put_back_waits_for_the_same_as_before() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let gone = pod("x", 0, &[]);
        queue.upsert(pod("a", 0, &[]), false, now);
        queue.pop(now);
        queue.park("a", ["NodeResourcesFit"].into(), now);
        queue.change(&Change::PodGone(&gone), now);
        queue.pop(now);
        queue.put_back("a", now);
        queue.change(&Change::Namespace, now);
        assert!(popped(&mut queue, now).is_empty());
        assert_eq!(queue.tries("a").map(|tries| tries.count), Some(1));
        queue.change(&Change::PodGone(&gone), now);
        assert_eq!(popped(&mut queue, now), ["a"]);
    }
}
