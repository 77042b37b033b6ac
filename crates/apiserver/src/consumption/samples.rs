//! The last two measures of each node and container, and what was used between them.
//!
//! A measure is a time with all that was used until then, so use is a difference. The one before counts only if it is of
//! the same run: the container may not have started after it. One that has begun within the last period is measured from its
//! start on, once that is long enough ago to say anything (metrics-server's storage; so a pod that takes another's name has none of its figures).

use super::meter::EVERY;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

/// What began less long ago is not measured from its start (metrics-server's `freshContainerMinMetricsResolution`).
const FRESH_MIN: Duration = Duration::from_secs(10);

/// What was used until a moment. Times are since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Point {
    /// Zero for a node.
    pub(super) started_ns: u64,
    pub(super) at_ns: u64,
    pub(super) cpu_ns: u64,
    pub(super) memory_bytes: u64,
}

/// What one kubelet has told: of pods by namespace and name, and of their containers by name.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) node: Option<Point>,
    pub(super) pods: HashMap<(String, String), BTreeMap<String, Point>>,
}

#[derive(Debug, Clone, Copy)]
struct Pair {
    last: Point,
    before: Option<Point>,
}

/// What was used within a window that ended at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Consumed {
    pub(super) at_ns: u64,
    pub(super) window_ns: u64,
    pub(super) cpu_nanocores: u64,
    pub(super) memory_bytes: u64,
}

/// The same of a pod's containers; the window is that of the one that was measured first.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ConsumedByPod<'s> {
    pub(super) at_ns: u64,
    pub(super) window_ns: u64,
    pub(super) containers: Vec<(&'s str, Consumed)>,
}

#[derive(Debug)]
struct Pod {
    node: Arc<str>,
    containers: BTreeMap<String, Pair>,
}

/// By namespace, then by name: asked for without making a key.
type Pods = HashMap<String, HashMap<String, Pod>>;

/// What is known of a node, and the pods that it has told of, by namespace and name.
#[derive(Debug, Default)]
struct Known {
    pair: Option<Pair>,
    pods: Vec<(String, String)>,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Samples {
    nodes: HashMap<Arc<str>, Known>,
    pods: Pods,
}

impl Point {
    pub(super) fn is_measured(&self) -> bool {
        self.at_ns > 0 && self.cpu_ns > 0 && self.memory_bytes > 0
    }
}

impl Pair {
    /// A new measure after the present state.
    fn next(present: Option<&Pair>, last: Point) -> Pair {
        let age = Duration::from_nanos(last.at_ns.saturating_sub(last.started_ns));
        if last.started_ns > 0 && (FRESH_MIN..EVERY).contains(&age) {
            return Pair { last, before: Some(Point { at_ns: last.started_ns, cpu_ns: 0, ..last }) };
        }
        let present = present.filter(|pair| last.started_ns < pair.last.at_ns);
        let before = present.and_then(|pair| {
            let moved = last.at_ns > pair.last.at_ns;
            if moved { Some(pair.last) } else { pair.before.filter(|before| before.at_ns < last.at_ns) }
        });
        Pair { last, before }
    }

    /// What was used; none if there is one measure alone, or two that contradict each other.
    fn consumed(&self) -> Option<Consumed> {
        let before = self.before?;
        if self.last.started_ns < before.started_ns || self.last.cpu_ns < before.cpu_ns {
            return None;
        }
        let window_ns = self.last.at_ns.checked_sub(before.at_ns).filter(|window| *window > 0)?;
        let cores = (self.last.cpu_ns - before.cpu_ns) as f64 / window_ns as f64;
        // Less than the range, since it is a share of a time.
        Some(Consumed { at_ns: self.last.at_ns, window_ns, cpu_nanocores: (cores * 1e9) as u64, memory_bytes: self.last.memory_bytes })
    }
}

impl Samples {
    /// Takes what a node's kubelet has told; what it tells no more of is forgotten.
    pub(super) fn store(&mut self, node: &str, batch: Batch) {
        let name: Arc<str> = node.into();
        let present = self.nodes.remove(node).unwrap_or_default();
        let pair = batch.node.map(|point| Pair::next(present.pair.as_ref(), point));
        let mut old = self.take_pods(node, present.pods);
        let mut pods = Vec::with_capacity(batch.pods.len());
        for (key, points) in batch.pods {
            let before = old.remove(&key).map(|pod| pod.containers).unwrap_or_default();
            let containers = points.into_iter().map(|(name, point)| {
                let pair = Pair::next(before.get(&name), point);
                (name, pair)
            });
            let new = Pod { node: Arc::clone(&name), containers: containers.collect() };
            // Of two kubelets that tell of one pod the first is believed, as there.
            self.pods.entry(key.0.clone()).or_default().entry(key.1.clone()).or_insert(new);
            pods.push(key);
        }
        self.nodes.insert(name, Known { pair, pods });
    }

    /// A node of which nothing was told.
    pub(super) fn forget(&mut self, node: &str) {
        if let Some(known) = self.nodes.remove(node) {
            self.take_pods(node, known.pods);
        }
    }

    /// Forgets all nodes but these.
    pub(super) fn retain(&mut self, nodes: &[String]) {
        let present: HashSet<&str> = nodes.iter().map(String::as_str).collect();
        let gone: Vec<Arc<str>> = self.nodes.keys().filter(|node| !present.contains(&***node)).cloned().collect();
        gone.iter().for_each(|node| self.forget(node));
    }

    /// Of the pods that a node has told of those that it is believed of.
    fn take_pods(&mut self, node: &str, told: Vec<(String, String)>) -> HashMap<(String, String), Pod> {
        let mut taken = HashMap::new();
        for key in told {
            let Some(pods) = self.pods.get_mut(&key.0) else { continue };
            let own = pods.get(&key.1).is_some_and(|pod| &*pod.node == node);
            let pod = if own { pods.remove(&key.1) } else { None };
            if pods.is_empty() {
                self.pods.remove(&key.0);
            }
            taken.extend(pod.map(|pod| (key, pod)));
        }
        taken
    }

    /// What a node uses.
    pub(super) fn of_node(&self, name: &str) -> Option<Consumed> {
        self.nodes.get(name)?.pair.as_ref()?.consumed()
    }

    /// What a pod's containers use; none while one of them has been measured once alone.
    pub(super) fn of_pod(&self, namespace: &str, name: &str) -> Option<ConsumedByPod<'_>> {
        let pod = self.pods.get(namespace)?.get(name)?;
        if pod.containers.values().any(|pair| pair.before.is_none()) {
            return None;
        }
        let containers: Vec<(&str, Consumed)> = pod.containers.iter().filter_map(|(name, pair)| Some((name.as_str(), pair.consumed()?))).collect();
        let first = containers.iter().map(|(_, used)| *used).min_by_key(|used| used.at_ns)?;
        Some(ConsumedByPod { at_ns: first.at_ns, window_ns: first.window_ns, containers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn point(started_s: u64, at_s: u64, cpu_ms: u64) -> Point {
        Point { started_ns: started_s * S, at_ns: at_s * S, cpu_ns: cpu_ms * 1_000_000, memory_bytes: 4096 }
    }

    fn batch(node: Point, containers: &[(&str, Point)]) -> Batch {
        let containers = containers.iter().map(|(name, point)| ((*name).to_owned(), *point)).collect();
        Batch { node: Some(node), pods: HashMap::from([(("n".to_owned(), "p".to_owned()), containers)]) }
    }

    #[test]
    fn use_is_the_difference_of_two_measures() {
        let mut samples = Samples::default();
        samples.store("a", batch(point(0, 100, 1000), &[("c", point(10, 100, 500))]));
        assert_eq!((samples.of_node("a"), samples.of_pod("n", "p")), (None, None), "one measure says nothing");
        samples.store("a", batch(point(0, 115, 4000), &[("c", point(10, 115, 2000))]));
        let node = Consumed { at_ns: 115 * S, window_ns: 15 * S, cpu_nanocores: 200_000_000, memory_bytes: 4096 };
        assert_eq!(samples.of_node("a"), Some(node));
        let used = Consumed { cpu_nanocores: 100_000_000, ..node };
        assert_eq!(samples.of_pod("n", "p"), Some(ConsumedByPod { at_ns: 115 * S, window_ns: 15 * S, containers: vec![("c", used)] }));
        samples.store("a", batch(point(0, 115, 4000), &[("c", point(10, 115, 2000))]));
        assert_eq!(samples.of_node("a"), Some(node), "the same measure told twice is one");
        samples.store("a", batch(point(0, 130, 3000), &[]));
        assert_eq!((samples.of_node("a"), samples.of_pod("n", "p")), (None, None), "what goes back is no use; a pod that ended has none");
    }

    #[test]
    fn a_run_is_measured_by_itself() {
        let mut samples = Samples::default();
        let node = point(0, 100, 1);
        samples.store("a", batch(node, &[("c", point(10, 100, 500))]));
        samples.store("a", batch(node, &[("c", point(110, 115, 20))]));
        assert_eq!(samples.of_pod("n", "p"), None, "it began after the measure before");
        samples.store("a", batch(node, &[("c", point(110, 121, 110)), ("d", point(90, 121, 5))]));
        assert_eq!(samples.of_pod("n", "p"), None, "one container has been measured once");
        samples.store("a", batch(node, &[("c", point(110, 136, 110)), ("d", point(90, 136, 5))]));
        assert!(samples.of_pod("n", "p").is_some());
        let mut fresh = Samples::default();
        fresh.store("a", batch(node, &[("c", point(110, 121, 110))]));
        let used = fresh.of_pod("n", "p").map(|pod| (pod.window_ns, pod.containers[0].1.cpu_nanocores));
        assert_eq!(used, Some((11 * S, 10_000_000)), "from its start, which is long enough ago");
    }

    #[test]
    fn what_nobody_tells_of_is_forgotten() {
        let mut samples = Samples::default();
        for at in [100, 115] {
            samples.store("a", batch(point(0, at, at), &[("c", point(10, at, at))]));
            samples.store("b", batch(point(0, at, at), &[("c", point(10, at, 9 * at))]));
        }
        assert_eq!(samples.of_pod("n", "p").map(|pod| pod.containers[0].1.cpu_nanocores), Some(1_000_000), "the first that told of it is believed");
        samples.forget("a");
        assert_eq!((samples.of_node("a"), samples.of_pod("n", "p")), (None, None));
        samples.retain(&["c".to_owned()]);
        assert_eq!(samples.of_node("b"), None);
        assert!(samples.pods.is_empty());
    }
}
