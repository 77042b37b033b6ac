//! What is counted of work queues (`workqueue_*`, as client-go's provider for Prometheus has it).
//!
//! Adding and taking a key cost an atomic or two. How long unfinished work takes is worked out when somebody asks: nothing runs for it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Weak};
use std::time::Duration;

use instruments::{Counter, Families, Family, Gauge, Histogram, Kind, Labelled, Registry, exponential};
use parking_lot::Mutex;

const ADDS: Family = Family::new("workqueue_adds_total", Kind::Counter, "[BETA] Total number of adds handled by workqueue");
const DEPTH: Family = Family::new("workqueue_depth", Kind::Gauge, "[BETA] Current depth of workqueue");
const LONGEST: Family = Family::new(
    "workqueue_longest_running_processor_seconds",
    Kind::Gauge,
    "[BETA] How many seconds has the longest running processor for workqueue been running.",
);
const WAITED: Family =
    Family::new("workqueue_queue_duration_seconds", Kind::Histogram, "[BETA] How long in seconds an item stays in workqueue before being requested.");
const RETRIES: Family = Family::new("workqueue_retries_total", Kind::Counter, "[BETA] Total number of retries handled by workqueue");
const UNFINISHED: Family = Family::new(
    "workqueue_unfinished_work_seconds",
    Kind::Gauge,
    "[BETA] How many seconds of work has done that is in progress and hasn't been observed by work_duration. Large values indicate stuck threads. One can deduce the number of stuck threads by observing the rate at which this increases.",
);
const WORKED: Family = Family::new("workqueue_work_duration_seconds", Kind::Histogram, "[BETA] How long in seconds processing an item from workqueue takes.");

static BUCKETS_S: [f64; 10] = exponential(10e-9, 10.0);

/// A queue, asked about the work that goes on.
pub(crate) trait Busy: Send + Sync {
    /// How long all of it takes already, and the longest.
    fn working(&self) -> (Duration, Duration);
}

/// The instruments of one queue.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) adds: Arc<Counter>,
    /// Keys that are ready, or will be when their workers are done. Queues of one name are told together.
    pub(crate) depth: Arc<Gauge>,
    pub(crate) retries: Arc<Counter>,
    /// From its being added to its being taken.
    pub(crate) waited: Arc<Histogram>,
    /// From its being taken to its being done.
    pub(crate) worked: Arc<Histogram>,
}

/// What is counted of a part's queues. Cheap to clone.
#[derive(Clone)]
pub struct QueueMetrics {
    adds: Arc<Labelled<1, Counter>>,
    depth: Arc<Labelled<1, Gauge>>,
    retries: Arc<Labelled<1, Counter>>,
    waited: Arc<Labelled<1, Histogram>>,
    worked: Arc<Labelled<1, Histogram>>,
    queues: Arc<Queues>,
}

/// The queues that there are, by name.
type Queues = Mutex<BTreeMap<String, Vec<Weak<dyn Busy>>>>;

impl Debug for QueueMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueueMetrics").finish_non_exhaustive()
    }
}

impl QueueMetrics {
    /// Told in this registry.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let queues = Arc::<Queues>::default();
        registry.collect(&[(&UNFINISHED, &["name"]), (&LONGEST, &["name"])], {
            let queues = queues.clone();
            move |out| tell_busy(&queues, out)
        });
        Self {
            adds: registry.counters(&ADDS, ["name"]),
            depth: registry.gauges(&DEPTH, ["name"]),
            retries: registry.counters(&RETRIES, ["name"]),
            waited: registry.histograms(&WAITED, ["name"], &BUCKETS_S),
            worked: registry.histograms(&WORKED, ["name"], &BUCKETS_S),
            queues,
        }
    }

    /// The instruments of a queue of this name.
    pub(crate) fn queue(&self, name: &str, queue: Weak<dyn Busy>) -> Told {
        self.queues.lock().entry(name.to_owned()).or_default().push(queue);
        Told {
            adds: self.adds.with([name]),
            depth: self.depth.with([name]),
            retries: self.retries.with([name]),
            waited: self.waited.with([name]),
            worked: self.worked.with([name]),
        }
    }
}

fn tell_busy(queues: &Queues, out: &mut Families) {
    let mut queues = queues.lock();
    queues.retain(|_, of| {
        of.retain(|queue| queue.strong_count() > 0);
        !of.is_empty()
    });
    for (name, of) in queues.iter() {
        let each = of.iter().filter_map(Weak::upgrade).map(|queue| queue.working());
        let (all, longest) = each.fold((Duration::ZERO, Duration::ZERO), |(all, most), (sum, longest)| (all + sum, most.max(longest)));
        out.add(&UNFINISHED, &[("name", name)], all.as_secs_f64(), None);
        out.add(&LONGEST, &[("name", name)], longest.as_secs_f64(), None);
    }
}
