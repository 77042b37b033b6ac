//! What a node is short of, over time: a pure step from what was observed (upstream's `synchronize`).
//!
//! A threshold counts as met until its minimum reclaim is there as well; a soft one is acted upon when it has been met for its grace
//! period; a condition stands for a while after the last threshold of its kind, so that nothing is scheduled into the shortage at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use machinery::quantity::Quantity;
use tokio::time::Instant;

use super::signals::{Observations, Signal, Threshold};

/// What a node tells that it is short of, in the order in which it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// `MemoryPressure`.
    Memory,
    /// `DiskPressure`.
    Disk,
    /// `PIDPressure`.
    Pids,
}

impl Condition {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Disk, Self::Pids];

    /// As the API names it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "MemoryPressure",
            Self::Disk => "DiskPressure",
            Self::Pids => "PIDPressure",
        }
    }

    fn of(signal: Signal) -> Self {
        match signal.resource() {
            "memory" => Self::Memory,
            "pids" => Self::Pids,
            _ => Self::Disk,
        }
    }
}

/// What was seen until now. Thresholds are known by their place in the list, which never changes.
#[derive(Debug, Default)]
pub struct State {
    first: BTreeMap<usize, Instant>,
    met: BTreeSet<usize>,
    seen: BTreeMap<Condition, Instant>,
}

/// Whether there is less than a threshold says, or than it and what is to be reclaimed.
fn is_met(t: &Threshold, observed: &Observations, reclaim: bool) -> bool {
    let Some(seen) = observed.get(&t.signal) else { return false };
    let at = |q: Quantity| i128::from(q.value());
    let more = t.reclaim.filter(|_| reclaim).map_or(0, |r| at(r.of(seen.capacity)));
    i128::from(seen.available) < at(t.below.of(seen.capacity)) + more
}

/// Whether everything is there again, with what was to be reclaimed.
#[must_use]
pub fn is_over(thresholds: &[Threshold], observed: &Observations) -> bool {
    !thresholds.iter().any(|t| is_met(t, observed, true))
}

impl State {
    /// Takes in what was observed; answers the thresholds that are to be acted upon, memory first.
    pub fn step(&mut self, thresholds: &[Threshold], observed: &Observations, now: Instant) -> Vec<Threshold> {
        let all = thresholds.iter().enumerate();
        let met: BTreeSet<usize> =
            all.filter(|(i, t)| is_met(t, observed, false) || (self.met.contains(i) && is_met(t, observed, true))).map(|(i, _)| i).collect();
        self.first.retain(|i, _| met.contains(i));
        for i in &met {
            self.first.entry(*i).or_insert(now);
            self.seen.insert(Condition::of(thresholds[*i].signal), now);
        }
        self.met = self.first.iter().filter(|(i, since)| now.duration_since(**since) >= thresholds[**i].grace).map(|(i, _)| *i).collect();
        let mut starved: Vec<Threshold> = self.met.iter().map(|i| thresholds[*i]).collect();
        starved.sort_by_key(|t| Condition::of(t.signal) != Condition::Memory);
        starved
    }

    /// What is told: what was short within the last while.
    #[must_use]
    pub fn told(&self, transition: Duration, now: Instant) -> BTreeSet<Condition> {
        self.seen.iter().filter(|(_, at)| now.duration_since(**at) < transition).map(|(c, _)| *c).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::signals::{Amount, Observed};
    use super::*;

    fn below(signal: Signal, amount: &str, grace_s: u64, reclaim: Option<&str>) -> Threshold {
        let of = |text: &str| Amount::Quantity(text.parse().unwrap());
        Threshold { signal, below: of(amount), grace: Duration::from_secs(grace_s), reclaim: reclaim.map(of) }
    }

    fn seen(pairs: &[(Signal, i64)]) -> Observations {
        pairs.iter().map(|(s, available)| (*s, Observed { available: *available, capacity: 1000 })).collect()
    }

    #[test]
    fn a_threshold_is_met_until_what_is_to_be_reclaimed_is_there() {
        let thresholds = [below(Signal::NodeFs, "100", 0, Some("50")), below(Signal::Memory, "10", 0, None), below(Signal::Pids, "5", 0, None)];
        let (mut state, start) = (State::default(), Instant::now());
        let signals = |list: Vec<Threshold>| list.iter().map(|t| t.signal).collect::<Vec<_>>();
        let mut step = |disk: i64, memory: i64, after_s: u64| {
            let now = start + Duration::from_secs(after_s);
            let met = signals(state.step(&thresholds, &seen(&[(Signal::NodeFs, disk), (Signal::Memory, memory)]), now));
            (met, state.told(Duration::from_secs(300), now).into_iter().collect::<Vec<_>>())
        };
        assert_eq!(step(120, 10, 0), (vec![], vec![]), "of process numbers nothing is known");
        assert_eq!(step(99, 9, 10), (vec![Signal::Memory, Signal::NodeFs], vec![Condition::Memory, Condition::Disk]), "memory first");
        assert_eq!(step(149, 10, 20).0, [Signal::NodeFs]);
        assert_eq!(step(150, 10, 30), (vec![], vec![Condition::Memory, Condition::Disk]));
        assert_eq!(step(120, 10, 40).0, [], "what is over is met by less than its threshold alone");
        assert_eq!(step(150, 10, 309).1, [Condition::Memory, Condition::Disk]);
        assert_eq!(step(150, 10, 310).1, [Condition::Disk]);
        assert_eq!(step(150, 10, 320).1, []);
        assert!(!is_over(&thresholds, &seen(&[(Signal::NodeFs, 149)])) && is_over(&thresholds, &seen(&[(Signal::NodeFs, 150)])));
    }

    #[test]
    fn a_soft_threshold_waits_and_begins_anew() {
        let thresholds = [below(Signal::Memory, "100", 60, None)];
        let (mut state, start) = (State::default(), Instant::now());
        let mut step = |available: i64, after_s: u64| {
            let now = start + Duration::from_secs(after_s);
            (state.step(&thresholds, &seen(&[(Signal::Memory, available)]), now).len(), state.told(Duration::from_secs(1), now).len())
        };
        assert_eq!(step(50, 0), (0, 1), "told at once");
        assert_eq!(step(50, 59), (0, 1));
        assert_eq!(step(50, 60), (1, 1));
        assert_eq!(step(500, 70), (0, 0));
        assert_eq!(step(50, 80), (0, 1), "from the beginning");
        assert_eq!(step(50, 140), (1, 1));
    }
}
