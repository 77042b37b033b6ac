//! What is known of the volumes that this node has, by their names.
//!
//! A volume's [`Slot`] is there while a pod wants it or something of it may be on the host. Calls of one volume come one after
//! the other (`busy`); the state beside them is changed without waiting, so that it can always be read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::cri::PodUid;

/// First and longest wait after a call that failed (upstream's `exponentialbackoff`).
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(122);

/// How far something has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// Nothing is on the host.
    #[default]
    Nothing,
    /// It may be there: a call did not end, or a former process made it.
    Perhaps,
    /// It is there.
    Done,
}

/// A volume as one pod has it.
#[derive(Clone, Debug, Default)]
pub(super) struct Use {
    /// The persistent volume's name; of an inline volume its name in the pod.
    pub(super) name: String,
    /// Its names in the pod: several volumes of a pod may be of one claim.
    pub(super) outer: BTreeSet<String>,
    pub(super) block: bool,
    pub(super) published: Step,
    /// A former process published it: what is there is not taken away when a call fails.
    pub(super) found: bool,
    /// The pod is to stop: what takes long and need not be done is ended.
    pub(super) stopping: Arc<AtomicBool>,
}

/// What is known of a volume.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) driver: String,
    pub(super) handle: String,
    /// Who lets it go says so in the node's status (`volumesInUse`).
    pub(super) attaches: bool,
    /// Of a device: the persistent volume's name, by which it is kept on the host.
    pub(super) device: Option<String>,
    /// It is staged once a node; an inline volume is not.
    pub(super) ephemeral: bool,
    pub(super) staged: Step,
    pub(super) pods: BTreeMap<PodUid, Use>,
    /// Somebody is undoing what nobody uses.
    pub(super) undoing: bool,
    /// How much it holds, in bytes, as this node has it.
    pub(super) size: Option<i64>,
    /// The node cannot grow it while it is in use, says its driver.
    pub(super) no_growth_in_use: bool,
    /// Growing it failed for good (`CheckVolumeInFailedExpansionWithFinalErrors`).
    pub(super) growth_failed: bool,
    failures: u32,
    not_before: Option<Instant>,
}

impl State {
    /// A call failed: the next waits.
    pub(super) fn failed(&mut self, now: Instant) {
        let pause = PAUSE_MIN.saturating_mul(2_u32.saturating_pow(self.failures.min(16))).min(PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(now + pause);
    }

    pub(super) fn went_well(&mut self) {
        (self.failures, self.not_before) = (0, None);
    }

    /// When the next call may come.
    pub(super) fn not_before(&self) -> Option<Instant> {
        self.not_before
    }

    /// Nobody wants it, and nothing of it is on the host.
    fn is_nothing(&self) -> bool {
        self.pods.is_empty() && self.staged == Step::Nothing && !self.undoing
    }

    /// It is on the host and nobody wants it.
    pub(super) fn is_left(&self) -> bool {
        self.pods.is_empty() && self.staged != Step::Nothing
    }
}

/// One volume.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) key: String,
    pub(super) state: Mutex<State>,
    /// Held by whoever calls its driver.
    pub(super) busy: Arc<tokio::sync::Mutex<()>>,
}

/// All volumes.
#[derive(Debug, Default)]
pub(super) struct Slots(Mutex<HashMap<String, Arc<Slot>>>);

impl Slots {
    /// The slot of a volume, with what a pod wants of it noted: it stays until the pod lets go.
    pub(super) fn want(&self, key: &str, uid: &PodUid, wanted: Use, begin: impl FnOnce(&mut State)) -> Arc<Slot> {
        let mut all = self.0.lock();
        let slot = all.entry(key.to_owned()).or_insert_with(|| Arc::new(Slot { key: key.to_owned(), ..Slot::default() }));
        let mut state = slot.state.lock();
        begin(&mut state);
        let outer = wanted.outer.clone();
        state.pods.entry(uid.clone()).or_insert(wanted).outer.extend(outer);
        drop(state);
        Arc::clone(slot)
    }

    /// The slot of a volume that a former process left.
    pub(super) fn find(&self, key: &str, begin: impl FnOnce(&mut State)) {
        let mut all = self.0.lock();
        let slot = all.entry(key.to_owned()).or_insert_with(|| Arc::new(Slot { key: key.to_owned(), ..Slot::default() }));
        begin(&mut slot.state.lock());
    }

    /// Forgets a volume that is nothing any more. Whoever wants it now has it noted before.
    pub(super) fn forget(&self, slot: &Slot) -> bool {
        let mut all = self.0.lock();
        let nothing = slot.state.lock().is_nothing();
        if nothing {
            all.remove(&slot.key);
        }
        nothing
    }

    pub(super) fn all(&self) -> Vec<Arc<Slot>> {
        self.0.lock().values().cloned().collect()
    }

    pub(super) fn get(&self, key: &str) -> Option<Arc<Slot>> {
        self.0.lock().get(key).cloned()
    }

    /// Those that a pod has, or wants.
    pub(super) fn of(&self, uid: &PodUid) -> Vec<Arc<Slot>> {
        let mut found: Vec<_> = self.all().into_iter().filter(|s| s.state.lock().pods.contains_key(uid)).collect();
        found.sort_by(|a, b| a.key.cmp(&b.key));
        found
    }

    /// The names of those that may be attached for this node.
    pub(super) fn attached(&self) -> Vec<String> {
        let mut all: Vec<String> = self.0.lock().values().filter(|s| s.state.lock().attaches).map(|s| s.key.clone()).collect();
        all.sort();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_are_upstreams_and_a_success_forgets_them() {
        let (mut state, mut pauses) = (State::default(), Vec::new());
        for _ in 0..10 {
            let now = Instant::now();
            state.failed(now);
            pauses.push((state.not_before().unwrap() - now).as_millis());
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 122_000, 122_000]);
        state.went_well();
        assert_eq!(state.not_before(), None);
    }

    #[test]
    fn a_volume_is_known_while_a_pod_wants_it_or_it_is_staged() {
        let (slots, uid) = (Slots::default(), PodUid("u".into()));
        let slot = slots.want("k", &uid, Use::default(), |s| s.attaches = true);
        assert!(!slots.forget(&slot));
        assert_eq!(slots.attached(), ["k"]);
        slot.state.lock().staged = Step::Perhaps;
        slot.state.lock().pods.clear();
        assert!(!slots.forget(&slot) && slot.state.lock().is_left());
        slot.state.lock().staged = Step::Nothing;
        assert!(slots.forget(&slot));
        assert!(slots.get("k").is_none() && slots.attached().is_empty());
    }
}
