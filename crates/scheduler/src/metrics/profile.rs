//! What is counted of a profile: attempts and what became of them, and how long its stages and plugins take.
//!
//! Stages are timed in each cycle, single plugins in every tenth (the original's `pluginMetricsSamplePercent`, by chance there).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use instruments::{Collect, Counter, Families, Family, Histogram, Kind, Labelled, Registry, exponential};
use tokio::time::Instant;

use crate::framework::{Rejection, Verdict};

const ATTEMPTS: Family = Family::new(
    "scheduler_schedule_attempts_total",
    Kind::Counter,
    "[STABLE] Number of attempts to schedule pods, by the result. 'unschedulable' means a pod could not be scheduled, while 'error' means an internal scheduler problem.",
);
const LATENCY: Family = Family::new(
    "scheduler_scheduling_attempt_duration_seconds",
    Kind::Histogram,
    "[STABLE] Scheduling attempt latency in seconds (scheduling algorithm + binding)",
);
const STAGES: Family = Family::new(
    "scheduler_framework_extension_point_duration_seconds",
    Kind::Histogram,
    "[STABLE] Latency for running all plugins of a specific extension point.",
);
const PLUGINS: Family =
    Family::new("scheduler_plugin_execution_duration_seconds", Kind::Histogram, "[BETA] Duration for running a plugin at a specific extension point.");
const EVALUATIONS: Family = Family::new(
    "scheduler_plugin_evaluation_total",
    Kind::Counter,
    "[BETA] Number of attempts to schedule pods by each plugin and the extension point (available only in PreFilter, Filter, PreScore, and Score).",
);

static LATENCY_S: [f64; 15] = exponential(0.001, 2.0);
static STAGES_S: [f64; 12] = exponential(0.0001, 2.0);
static PLUGINS_S: [f64; 20] = exponential(0.00001, 1.5);

/// One cycle of so many has its plugins timed.
const SAMPLE: u64 = 10;

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    Scheduled,
    Unschedulable,
    Error,
}

/// An extension point at which we do something that takes time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    PreFilter,
    Filter,
    PostFilter,
    PreScore,
    Score,
    Reserve,
    PreBind,
    Bind,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::PreFilter => "PreFilter",
            Self::Filter => "Filter",
            Self::PostFilter => "PostFilter",
            Self::PreScore => "PreScore",
            Self::Score => "Score",
            Self::Reserve => "Reserve",
            Self::PreBind => "PreBind",
            Self::Bind => "Bind",
        }
    }
}

/// How a stage or a plugin ended (the original's `Code`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Success,
    Skip,
    Unschedulable,
    Unresolvable,
    Error,
}

impl Status {
    /// Of a verdict.
    pub(crate) fn of(verdict: &Verdict) -> Self {
        match verdict {
            Ok(()) => Self::Success,
            Err(rejection) => Self::rejected(rejection),
        }
    }

    /// Of a rejection.
    pub(crate) fn rejected(rejection: &Rejection) -> Self {
        match rejection {
            Rejection { is_error: true, .. } => Self::Error,
            Rejection { resolvable: true, .. } => Self::Unschedulable,
            Rejection { .. } => Self::Unresolvable,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Success => "Success",
            Self::Skip => "Skip",
            Self::Unschedulable => "Unschedulable",
            Self::Unresolvable => "UnschedulableAndUnresolvable",
            Self::Error => "Error",
        }
    }
}

/// What is counted of a profile.
pub struct ProfileMetrics {
    registry: Registry,
    name: String,
    attempts: Arc<Labelled<2, Counter>>,
    latency: Arc<Labelled<2, Histogram>>,
    stages: Arc<Labelled<3, Histogram>>,
    /// Those of `Success`, which nearly all are.
    successes: [OnceLock<Arc<Histogram>>; 8],
    plugins: Arc<Labelled<3, Histogram>>,
    evaluations: HashMap<(Stage, &'static str), Arc<Counter>>,
    cycles: AtomicU64,
}

impl std::fmt::Debug for ProfileMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProfileMetrics").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Collect for ProfileMetrics {
    fn collect(&self, out: &mut Families) {
        self.registry.tell(out);
    }

    fn declare(&self, show: &mut dyn FnMut(&'static Family, &[&'static str])) {
        self.registry.declare(show);
    }
}

impl ProfileMetrics {
    /// Of the profile of this name with these plugins at these stages.
    pub(crate) fn new(name: &str, plugins: impl Iterator<Item = (Stage, &'static str)>) -> Self {
        let registry = Registry::default();
        let evaluations = registry.counters(&EVALUATIONS, ["extension_point", "plugin", "profile"]);
        Self {
            name: name.to_owned(),
            attempts: registry.counters(&ATTEMPTS, ["profile", "result"]),
            latency: registry.histograms(&LATENCY, ["profile", "result"], &LATENCY_S),
            stages: registry.histograms(&STAGES, ["extension_point", "profile", "status"], &STAGES_S),
            successes: Default::default(),
            plugins: registry.histograms(&PLUGINS, ["extension_point", "plugin", "status"], &PLUGINS_S),
            evaluations: plugins.map(|(stage, plugin)| ((stage, plugin), evaluations.with([stage.name(), plugin, name]))).collect(),
            cycles: AtomicU64::new(0),
            registry,
        }
    }

    /// An attempt ended so after so long.
    pub(crate) fn attempt(&self, attempt: Attempt, took: Duration) {
        let result = match attempt {
            Attempt::Scheduled => "scheduled",
            Attempt::Unschedulable => "unschedulable",
            Attempt::Error => "error",
        };
        self.attempts.with([&self.name, result]).inc();
        self.latency.with([&self.name, result]).took(took);
    }

    /// A stage that began then has ended now.
    pub(crate) fn stage(&self, stage: Stage, status: Status, since: Instant) {
        self.stage_took(stage, status, since.elapsed());
    }

    /// A stage took so long.
    pub(crate) fn stage_took(&self, stage: Stage, status: Status, took: Duration) {
        let of = || self.stages.with([stage.name(), &self.name, status.name()]);
        if status == Status::Success {
            self.successes[stage as usize].get_or_init(of).took(took);
        } else {
            of().took(took);
        }
    }

    /// Whether single plugins are timed in the cycle that begins now.
    pub(crate) fn samples(&self) -> bool {
        self.cycles.fetch_add(1, Ordering::Relaxed).is_multiple_of(SAMPLE)
    }

    /// A plugin took so long, in a cycle that is a sample.
    pub(crate) fn plugin(&self, stage: Stage, plugin: &str, status: Status, took: Duration) {
        self.plugins.with([stage.name(), plugin, status.name()]).took(took);
    }

    /// A plugin was asked so often.
    pub(crate) fn evaluated(&self, stage: Stage, plugin: &'static str, times: u64) {
        if let Some(counter) = self.evaluations.get(&(stage, plugin)) {
            counter.add(times);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn attempts_stages_and_plugins_are_counted() {
        let metrics = ProfileMetrics::new("p", [(Stage::Filter, "Fit")].into_iter());
        let begun = Instant::now();
        tokio::time::advance(Duration::from_secs(1)).await;
        metrics.stage(Stage::Filter, Status::Success, begun);
        metrics.stage(Stage::PreFilter, Status::Unresolvable, begun);
        metrics.attempt(Attempt::Unschedulable, Duration::from_secs(2));
        metrics.evaluated(Stage::Filter, "Fit", 7);
        metrics.evaluated(Stage::Filter, "unknown", 7);
        assert_eq!((0..20).filter(|_| metrics.samples()).count(), 2);
        metrics.plugin(Stage::Filter, "Fit", Status::Unschedulable, Duration::from_secs(1));
        let mut out = Families::default();
        metrics.collect(&mut out);
        let text = out.finish();
        for line in [
            "scheduler_framework_extension_point_duration_seconds_sum{extension_point=\"Filter\",profile=\"p\",status=\"Success\"} 1",
            "scheduler_framework_extension_point_duration_seconds_sum{extension_point=\"PreFilter\",profile=\"p\",status=\"UnschedulableAndUnresolvable\"} 1",
            "scheduler_schedule_attempts_total{profile=\"p\",result=\"unschedulable\"} 1",
            "scheduler_scheduling_attempt_duration_seconds_sum{profile=\"p\",result=\"unschedulable\"} 2",
            "scheduler_plugin_evaluation_total{extension_point=\"Filter\",plugin=\"Fit\",profile=\"p\"} 7",
            "scheduler_plugin_execution_duration_seconds_count{extension_point=\"Filter\",plugin=\"Fit\",status=\"Unschedulable\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
