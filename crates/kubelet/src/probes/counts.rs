//! How often probes came to what, and how long they took: for `/metrics/probes` alone.
//!
//! A container's counts go on when it starts again, as upstream's worker does, and are forgotten with its pod.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use super::Found;

/// Upper ends of the buckets in seconds (the `DefBuckets` of Prometheus' library), but for the last, which has none.
pub const BUCKETS_S: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Which probe of which container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Which {
    /// `Liveness`, `Readiness` or `Startup`.
    pub probe: &'static str,
    /// The container's name.
    pub container: String,
    /// Its pod's.
    pub pod: String,
    /// Its namespace.
    pub namespace: String,
    /// The pod's UID.
    pub pod_uid: String,
}

/// What a probe came to.
#[derive(Debug, Default)]
pub struct Count {
    successful: u64,
    failed: u64,
    unknown: u64,
    buckets: [u64; BUCKETS_S.len() + 1],
    sum_s: f64,
}

impl Count {
    /// Those results that there were.
    pub fn results(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [("failed", self.failed), ("successful", self.successful), ("unknown", self.unknown)].into_iter().filter(|(_, number)| *number > 0)
    }

    /// How many took how long, and all together; none if none is counted.
    pub fn durations(&self) -> Option<(&[u64; BUCKETS_S.len() + 1], f64)> {
        self.buckets.iter().any(|count| *count > 0).then_some((&self.buckets, self.sum_s))
    }
}

/// All counts.
#[derive(Default)]
pub struct Counts(Mutex<BTreeMap<Which, Count>>);

impl Counts {
    /// Counts a probe that has taken so long. What failed has no duration.
    pub(super) fn add(&self, which: &Which, found: &Found, took: Duration) {
        let mut held = self.0.lock();
        let count = held.entry(which.clone()).or_default();
        match found {
            Found::Good | Found::Warned(_) => count.successful += 1,
            Found::Bad(_) => count.failed += 1,
            Found::Unknown(_) => count.unknown += 1,
        }
        if matches!(found, Found::Bad(_)) {
            return;
        }
        let took_s = took.as_secs_f64();
        count.sum_s += took_s;
        count.buckets[BUCKETS_S.partition_point(|end| *end < took_s)] += 1;
    }

    /// Forgets those of a pod.
    pub(super) fn forget(&self, pod_uid: &str) {
        self.0.lock().retain(|which, _| which.pod_uid != pod_uid);
    }

    /// Shows all, in order.
    pub fn each(&self, mut show: impl FnMut(&Which, &Count)) {
        self.0.lock().iter().for_each(|(which, count)| show(which, count));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_and_durations_are_counted() {
        let counts = Counts::default();
        let which = |uid: &str| Which { probe: "Liveness", container: "c".into(), pod: "p".into(), namespace: "n".into(), pod_uid: uid.into() };
        counts.add(&which("a"), &Found::Good, Duration::from_millis(5));
        counts.add(&which("a"), &Found::Good, Duration::from_millis(6));
        counts.add(&which("a"), &Found::Bad("no".into()), Duration::from_secs(9));
        counts.add(&which("a"), &Found::Unknown("why".into()), Duration::from_secs(11));
        counts.add(&which("b"), &Found::Bad("no".into()), Duration::from_secs(9));
        let mut seen = Vec::new();
        counts.each(|which, count| seen.push((which.pod_uid.clone(), count.results().collect::<Vec<_>>(), count.durations().map(|(buckets, _)| *buckets))));
        let mut buckets = [0; 12];
        (buckets[0], buckets[1], buckets[11]) = (1, 1, 1);
        assert_eq!(seen[0], ("a".into(), vec![("failed", 1), ("successful", 2), ("unknown", 1)], Some(buckets)));
        assert_eq!(seen[1], ("b".into(), vec![("failed", 1)], None));
        counts.forget("a");
        let mut left = Vec::new();
        counts.each(|which, _| left.push(which.pod_uid.clone()));
        assert_eq!(left, ["b"]);
    }
}
