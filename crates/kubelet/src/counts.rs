//! What the kubelet counts of its own work, under the original's names (`pkg/kubelet/metrics`).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use instruments::{Counter, Family, Histogram, Kind as Shape, Labelled, Registry};

use crate::pod::plan::Kind;

const OPERATIONS: Family =
    Family::new("kubelet_runtime_operations_total", Shape::Counter, "[ALPHA] Cumulative number of runtime operations by operation type.");
const OPERATION_TIMES: Family = Family::new(
    "kubelet_runtime_operations_duration_seconds",
    Shape::Histogram,
    "[ALPHA] Duration in seconds of runtime operations. Broken down by operation type.",
);
const OPERATION_ERRORS: Family =
    Family::new("kubelet_runtime_operations_errors_total", Shape::Counter, "[ALPHA] Cumulative number of runtime operation errors by operation type.");
const PODS: Family = Family::new("kubelet_started_pods_total", Shape::Counter, "[ALPHA] Cumulative number of pods started");
const POD_ERRORS: Family = Family::new("kubelet_started_pods_errors_total", Shape::Counter, "[ALPHA] Cumulative number of errors when starting pods");
const CONTAINERS: Family = Family::new("kubelet_started_containers_total", Shape::Counter, "[ALPHA] Cumulative number of containers started");
const CONTAINER_ERRORS: Family =
    Family::new("kubelet_started_containers_errors_total", Shape::Counter, "[ALPHA] Cumulative number of errors when starting containers");
const POD_STARTS: Family = Family::new(
    "kubelet_pod_start_duration_seconds",
    Shape::Histogram,
    "[ALPHA] Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run",
);

/// From 5 ms on, each two and a half times the one before.
static OPERATION_ENDS_S: [f64; 14] = [
    0.005,
    0.0125,
    0.03125,
    0.078125,
    0.1953125,
    0.48828125,
    1.220703125,
    3.0517578125,
    7.62939453125,
    19.073486328125,
    47.6837158203125,
    119.20928955078125,
    298.0232238769531,
    745.0580596923828,
];
static START_ENDS_S: [f64; 25] = [
    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0,
    3600.0,
];

/// The counts. Cheap to clone.
#[derive(Clone)]
pub struct Counts {
    operations: Arc<Labelled<1, Counter>>,
    operation_times: Arc<Labelled<1, Histogram>>,
    operation_errors: Arc<Labelled<1, Counter>>,
    pods: Arc<Counter>,
    pod_errors: Arc<Counter>,
    containers: Arc<Labelled<1, Counter>>,
    container_errors: Arc<Labelled<2, Counter>>,
    pod_starts: Arc<Histogram>,
}

impl Counts {
    /// Told in this registry.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        Self {
            operations: registry.counters(&OPERATIONS, ["operation_type"]),
            operation_times: registry.histograms(&OPERATION_TIMES, ["operation_type"], &OPERATION_ENDS_S),
            operation_errors: registry.counters(&OPERATION_ERRORS, ["operation_type"]),
            pods: registry.counter(&PODS),
            pod_errors: registry.counter(&POD_ERRORS),
            containers: registry.counters(&CONTAINERS, ["container_type"]),
            container_errors: registry.counters(&CONTAINER_ERRORS, ["code", "container_type"]),
            pod_starts: registry.histogram(&POD_STARTS, &START_ENDS_S),
        }
    }

    /// The runtime did something, or failed to.
    pub fn operation(&self, what: &str, took: Duration, done: bool) {
        self.operations.with([what]).inc();
        self.operation_times.with([what]).took(took);
        if !done {
            self.operation_errors.with([what]).inc();
        }
    }

    /// A pod's sandbox was asked for, and came or did not.
    pub fn pod(&self, made: bool) {
        self.pods.inc();
        if !made {
            self.pod_errors.inc();
        }
    }

    /// A container is to be started.
    pub fn container(&self, kind: Kind) {
        self.containers.with([container_type(kind)]).inc();
    }

    /// It was not, and this is the reason that its status tells.
    pub fn container_failed(&self, kind: Kind, reason: &str) {
        self.container_errors.with([reason, container_type(kind)]).inc();
    }

    /// A pod runs that was seen first at this time.
    pub fn runs(&self, first_seen: SystemTime, now: SystemTime) {
        self.pod_starts.took(now.duration_since(first_seen).unwrap_or_default());
    }
}

fn container_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Init => "init_container",
        Kind::Regular => "container",
        Kind::Ephemeral => "ephemeral_container",
    }
}
