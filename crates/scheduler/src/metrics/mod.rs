//! What the scheduler counts, under the original's names (`pkg/scheduler/metrics`).
//!
//! What belongs to a profile is counted by it ([`profile`]), what belongs to the queue there ([`queue`]), and the rest here by the
//! rim. Which of the original's metrics are not here, and why, stands in `docs/metrics.md`.

pub mod pods;
mod profile;
mod queue;

use std::sync::Arc;
use std::time::Duration;

use client::devices::Created;
use instruments::{Counter, Family, Gauge, Histogram, Kind, Labelled, Registry, exponential};
use tokio::time::Instant;

use crate::profile::Profiles;
pub use profile::ProfileMetrics;
pub(crate) use profile::{Attempt, Stage, Status};
pub(crate) use queue::{NEW, Part, QueueMetrics};

const ALGORITHM: Family = Family::new("scheduler_scheduling_algorithm_duration_seconds", Kind::Histogram, "[BETA] Scheduling algorithm latency in seconds");
const VICTIMS: Family =
    Family::new("scheduler_preemption_victims", Kind::Histogram, "[STABLE] Number of selected preemption victims for preemption initiated by a single pod");
const PREEMPTIONS: Family = Family::new("scheduler_preemption_attempts_total", Kind::Counter, "[STABLE] Total preemption attempts in the cluster till now");
const TASKS: Family = Family::new("scheduler_goroutines", Kind::Gauge, "[BETA] Number of running goroutines split by the work they do such as binding.");
const SLI: Family = Family::new(
    "scheduler_pod_scheduling_sli_duration_seconds",
    Kind::Histogram,
    "[BETA] E2e latency for a pod being scheduled, from the time the pod enters the scheduling queue and might involve multiple scheduling attempts.",
);
const ATTEMPTS: Family = Family::new("scheduler_pod_scheduling_attempts", Kind::Histogram, "[STABLE] Number of attempts to successfully schedule a pod.");
const AFTER_FLUSH: Family = Family::new(
    "scheduler_pod_scheduled_after_flush_total",
    Kind::Counter,
    "[ALPHA] Number of pods that were successfully scheduled after being flushed from unschedulableEntities due to timeout. This metric helps detect potential queueing hint misconfigurations or event handling issues.",
);
const CACHE: Family = Family::new("scheduler_cache_size", Kind::Gauge, "[ALPHA] Number of nodes, pods, and assumed (bound) pods in the scheduler cache.");
const EVENTS: Family = Family::new("scheduler_event_handling_duration_seconds", Kind::Histogram, "[ALPHA] Event handling latency in seconds.");
const EVICTING: Family = Family::new(
    "scheduler_preemption_goroutines_duration_seconds",
    Kind::Histogram,
    "[ALPHA] (Deprecated since 1.37.0) Duration in seconds for running goroutines for the preemption.",
);
const EVICTIONS: Family = Family::new("scheduler_preemption_goroutines_execution_total", Kind::Counter, "[ALPHA] Number of preemption goroutines executed.");
const VOLUME_ERRORS: Family = Family::new("scheduler_volume_scheduling_stage_error_total", Kind::Counter, "[ALPHA] Volume scheduling stage error count");
const DEVICES_BOUND: Family = Family::new(
    "scheduler_dra_bindingconditions_allocations_total",
    Kind::Counter,
    "[ALPHA] Number of allocations using devices with BindingConditions, counted per driver per scheduling attempt",
);
const DEVICES_WAIT: Family = Family::new(
    "scheduler_dra_bindingconditions_wait_duration_seconds",
    Kind::Histogram,
    "[ALPHA] Time in seconds spent waiting for BindingConditions to be satisfied during PreBind.",
);

static ALGORITHM_S: [f64; 15] = exponential(0.001, 2.0);
static VICTIMS_MOST: [f64; 7] = exponential(1.0, 2.0);
static SLI_S: [f64; 20] = exponential(0.01, 2.0);
static ATTEMPTS_MOST: [f64; 5] = exponential(1.0, 2.0);
static EVENTS_S: [f64; 12] = exponential(0.0001, 2.0);
static EVICTING_S: [f64; 20] = exponential(0.01, 2.0);
static DEVICES_WAIT_S: [f64; 14] = exponential(0.1, 2.0);

/// How many tries are told apart; more are `15+`.
const TRIES: [&str; 15] = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15+"];

/// A pod's way to its node, so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tries {
    /// How often it was looked at.
    pub count: u32,
    /// When it was the first time.
    pub since: Instant,
    /// Whether nothing but time let it back the last time.
    pub flushed: bool,
}

/// What the scheduler counts.
pub struct Metrics {
    registry: Registry,
    pub(crate) queue: QueueMetrics,
    pub(crate) algorithm: Arc<Histogram>,
    pub(crate) victims: Arc<Histogram>,
    pub(crate) preemptions: Arc<Counter>,
    /// Placements that are being carried out.
    pub(crate) binding: Arc<Gauge>,
    pub(crate) cache: CacheSize,
    pub(crate) events: Arc<Labelled<1, Histogram>>,
    pub(crate) volume_errors: Arc<Labelled<1, Counter>>,
    sli: Arc<Labelled<1, Histogram>>,
    attempts: Arc<Histogram>,
    after_flush: Arc<Counter>,
    evicting: Arc<Labelled<1, Histogram>>,
    evictions: Arc<Labelled<1, Counter>>,
    devices_bound: Arc<Labelled<3, Counter>>,
    devices_wait: Arc<Labelled<3, Histogram>>,
    /// For pods' extended resources.
    pub(crate) claims_made: Created,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").field("registry", &self.registry).finish_non_exhaustive()
    }
}

/// How much the cache holds.
pub(crate) struct CacheSize {
    pub(crate) nodes: Arc<Gauge>,
    pub(crate) pods: Arc<Gauge>,
    pub(crate) assumed: Arc<Gauge>,
}

impl Metrics {
    /// Of a scheduler with these profiles.
    #[must_use]
    pub fn new(profiles: &Profiles) -> Self {
        let registry = Registry::default();
        for profile in profiles.iter() {
            registry.register(profile.metrics.clone());
        }
        let cache = registry.gauges(&CACHE, ["type"]);
        Self {
            queue: QueueMetrics::new(&registry),
            algorithm: registry.histogram(&ALGORITHM, &ALGORITHM_S),
            victims: registry.histogram(&VICTIMS, &VICTIMS_MOST),
            preemptions: registry.counter(&PREEMPTIONS),
            binding: registry.gauges(&TASKS, ["operation"]).with(["binding"]),
            cache: CacheSize { nodes: cache.with(["nodes"]), pods: cache.with(["pods"]), assumed: cache.with(["assumed_pods"]) },
            events: registry.histograms(&EVENTS, ["event"], &EVENTS_S),
            volume_errors: registry.counters(&VOLUME_ERRORS, ["operation"]),
            sli: registry.histograms(&SLI, ["attempts"], &SLI_S),
            attempts: registry.histogram(&ATTEMPTS, &ATTEMPTS_MOST),
            after_flush: registry.counter(&AFTER_FLUSH),
            evicting: registry.histograms(&EVICTING, ["result"], &EVICTING_S),
            evictions: registry.counters(&EVICTIONS, ["result"]),
            devices_bound: registry.counters(&DEVICES_BOUND, ["driver", "profile", "status"]),
            devices_wait: registry.histograms(&DEVICES_WAIT, ["driver", "profile", "status"], &DEVICES_WAIT_S),
            claims_made: Created::new(&registry),
            registry,
        }
    }

    /// All of it: whatever else is to be told with it is added there.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// A pod is on its node, after so many tries.
    pub(crate) fn placed(&self, tries: Tries) {
        self.attempts.observe(f64::from(tries.count));
        let at = usize::try_from(tries.count).unwrap_or(usize::MAX).clamp(1, TRIES.len()) - 1;
        self.sli.with([TRIES[at]]).took(tries.since.elapsed());
        if tries.flushed {
            self.after_flush.inc();
        }
    }

    /// The victims of a preemption were told to go, or could not be.
    pub(crate) fn evicted(&self, done: bool, took: Duration) {
        let result = if done { "success" } else { "error" };
        self.evictions.with([result]).inc();
        self.evicting.with([result]).took(took);
    }

    /// Drivers were waited for. `devices`: the driver of each, and whether it has to bind it.
    pub(crate) fn devices_waited<'a>(&self, profile: &str, devices: impl Iterator<Item = (&'a str, bool)>, status: &str, took: Duration) {
        for (driver, must_bind) in devices {
            self.devices_wait.with([driver, profile, status]).took(took);
            if must_bind {
                self.devices_bound.with([driver, profile, status]).inc();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    #[tokio::test(start_paused = true)]
    async fn the_way_of_a_pod_is_counted() {
        let config = Config::default();
        let since = Instant::now();
        tokio::time::advance(Duration::from_secs(2)).await;
        config.metrics.placed(Tries { count: 3, since, flushed: false });
        config.metrics.placed(Tries { count: 40, since, flushed: true });
        config.metrics.evicted(false, Duration::from_secs(1));
        config.metrics.devices_waited("p", [("d", true), ("d", false)].into_iter(), "timeout", Duration::from_secs(3));
        let text = config.metrics.registry().text();
        for line in [
            "scheduler_pod_scheduling_attempts_sum 43",
            "scheduler_pod_scheduling_sli_duration_seconds_sum{attempts=\"15+\"} 2",
            "scheduler_pod_scheduling_sli_duration_seconds_sum{attempts=\"3\"} 2",
            "scheduler_pod_scheduled_after_flush_total 1",
            "scheduler_preemption_goroutines_execution_total{result=\"error\"} 1",
            "scheduler_dra_bindingconditions_allocations_total{driver=\"d\",profile=\"p\",status=\"timeout\"} 1",
            "scheduler_dra_bindingconditions_wait_duration_seconds_count{driver=\"d\",profile=\"p\",status=\"timeout\"} 2",
            "scheduler_pending_pods{queue=\"active\"} 0",
            "scheduler_cache_size{type=\"assumed_pods\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
