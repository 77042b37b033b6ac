//! What is counted of Jobs (upstream `pkg/controller/job/metrics`).

use std::sync::Arc;
use std::time::Duration;

use client::{Delta, Meta};
use instruments::{Counter, Family, Histogram, Kind, Labelled, Registry, exponential};
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;

use super::indexes;
use super::plan::{FINALIZER, Plan, condition};
use crate::pods;

const SYNC: Family = Family::new("job_controller_job_sync_duration_seconds", Kind::Histogram, "[STABLE] The time it took to sync a job");
const SYNCS: Family = Family::new("job_controller_job_syncs_total", Kind::Counter, "[STABLE] The number of job syncs");
const FINISHED: Family = Family::new("job_controller_jobs_finished_total", Kind::Counter, "[STABLE] The number of finished jobs");
const PODS_FINISHED: Family =
    Family::new("job_controller_job_pods_finished_total", Kind::Counter, "[STABLE] The number of finished Pods that are fully tracked");
const INDEXES: Family = Family::new(
    "job_controller_job_finished_indexes_total",
    Kind::Counter,
    "[ALPHA] The number of finished indexes. Possible values for the status label are: \"succeeded\", \"failed\". Possible values for the backoffLimit label are: \"perIndex\" and \"global\"",
);
const TRACKED: Family = Family::new(
    "job_controller_terminated_pods_tracking_finalizer_total",
    Kind::Counter,
    "[BETA] The number of terminated pods (phase=Failed|Succeeded) that have the finalizer batch.kubernetes.io/job-tracking. The event label can be \"add\" or \"delete\".",
);
const EXTERNAL: Family =
    Family::new("job_controller_jobs_by_external_controller_total", Kind::Counter, "[ALPHA] The number of Jobs managed by an external controller");

const MADE: Family = Family::new(
    "job_controller_job_pods_creation_total",
    Kind::Counter,
    "[ALPHA] The number of Pods created by the Job controller labelled with a reason for the Pod creation. This metric also distinguishes between Pods created using different PodReplacementPolicy settings. Possible values of the \"reason\" label are: \"new\", \"recreate_terminating_or_failed\", \"recreate_failed\". Possible values of the \"status\" label are: \"succeeded\", \"failed\".",
);
const JUDGED: Family = Family::new(
    "job_controller_pod_failures_handled_by_failure_policy_total",
    Kind::Counter,
    "[BETA] The number of failed Pods handled by failure policy with respect to the failure policy action applied based on the matched rule. Possible values of the action label correspond to the possible values for the failure policy rule action, which are: \"FailJob\", \"Ignore\" and \"Count\".",
);

static SYNC_S: [f64; 15] = exponential(0.004, 2.0);

/// What is counted of Jobs.
pub(super) struct Metrics {
    sync: Arc<Labelled<3, Histogram>>,
    syncs: Arc<Labelled<3, Counter>>,
    finished: Arc<Labelled<3, Counter>>,
    pods_finished: Arc<Labelled<2, Counter>>,
    indexes: Arc<Labelled<2, Counter>>,
    tracked: Arc<Labelled<1, Counter>>,
    external: Arc<Labelled<1, Counter>>,
    made: Arc<Labelled<2, Counter>>,
    judged: Arc<Labelled<1, Counter>>,
}

/// What a pass did, for its label.
pub(super) fn action(acts: bool, plan: &Plan) -> &'static str {
    match plan {
        _ if !acts => "reconciling",
        plan if !plan.create.is_empty() => "pods_created",
        plan if !plan.delete.is_empty() => "pods_deleted",
        _ => "tracking",
    }
}

fn mode(job: &Job) -> &str {
    job.spec.as_ref().and_then(|s| s.completion_mode.as_deref()).unwrap_or("NonIndexed")
}

fn is_tracked(pod: &Pod) -> bool {
    pods::is_terminal(pod) && pod.has_finalizer(FINALIZER)
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            sync: registry.histograms(&SYNC, ["action", "completion_mode", "result"], &SYNC_S),
            syncs: registry.counters(&SYNCS, ["action", "completion_mode", "result"]),
            finished: registry.counters(&FINISHED, ["completion_mode", "reason", "result"]),
            pods_finished: registry.counters(&PODS_FINISHED, ["completion_mode", "result"]),
            indexes: registry.counters(&INDEXES, ["backoffLimit", "status"]),
            tracked: registry.counters(&TRACKED, ["event"]),
            external: registry.counters(&EXTERNAL, ["controller_name"]),
            made: registry.counters(&MADE, ["reason", "status"]),
            judged: registry.counters(&JUDGED, ["action"]),
        }
    }

    /// A pass ended so after so long.
    pub(super) fn synced(&self, job: &Job, action: &str, is_error: bool, took: Duration) {
        let labels = [action, mode(job), if is_error { "error" } else { "success" }];
        self.sync.with(labels).took(took);
        self.syncs.with(labels).inc();
    }

    /// A new status was written: what it counts that the one before did not.
    pub(super) fn written(&self, job: &Job, new: &JobStatus) {
        let (none, mode) = (JobStatus::default(), mode(job));
        let old = job.status.as_ref().unwrap_or(&none);
        for (result, before, after) in [("succeeded", old.succeeded, new.succeeded), ("failed", old.failed, new.failed)] {
            let more = i64::from(after.unwrap_or(0)) - i64::from(before.unwrap_or(0));
            if let Some(more) = u64::try_from(more).ok().filter(|more| *more > 0) {
                self.pods_finished.with([mode, result]).add(more);
            }
        }
        if mode == "Indexed" {
            let limit = if job.spec.as_ref().is_some_and(|s| s.backoff_limit_per_index.is_some()) { "perIndex" } else { "global" };
            let lists = [("succeeded", &old.completed_indexes, &new.completed_indexes), ("failed", &old.failed_indexes, &new.failed_indexes)];
            for (status, before, after) in lists.into_iter().filter(|(_, before, after)| before != after) {
                let count =
                    |list: &Option<String>| indexes::ranges(list.as_deref().unwrap_or_default(), u32::MAX).map(|range| indexes::size(&range)).sum::<usize>();
                if let Some(more) = count(after).checked_sub(count(before)).filter(|more| *more > 0) {
                    self.indexes.with([limit, status]).add(more as u64);
                }
            }
        }
        for (kind, result) in [("Complete", "succeeded"), ("Failed", "failed")] {
            if let Some(now) = condition(new, kind).filter(|_| condition(old, kind).is_none()) {
                self.finished.with([mode, now.reason.as_deref().unwrap_or_default(), result]).inc();
            }
        }
    }

    /// A pod was made, or was not, for this reason.
    pub(super) fn made(&self, reason: &str, is_made: bool) {
        self.made.with([reason, if is_made { "succeeded" } else { "failed" }]).inc();
    }

    /// Rules of the failure policy said this of pods that are counted now.
    pub(super) fn judged(&self, actions: &[&'static str]) {
        actions.iter().for_each(|action| self.judged.with([action]).inc());
    }

    /// A pod changed: whether it has ended and is not let go yet.
    pub(super) fn heard_pod(&self, change: &Delta<Pod>) {
        let (before, after) = match change {
            Delta::Added(pod) => (false, is_tracked(pod)),
            Delta::Updated { old, new } => (is_tracked(old), is_tracked(new)),
            Delta::Deleted(pod) => (is_tracked(pod), false),
        };
        if before != after {
            self.tracked.with([if after { "add" } else { "delete" }]).inc();
        }
    }

    /// A job of another controller came.
    pub(super) fn others(&self, controller: &str) {
        self.external.with([controller]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn samples(registry: &Registry) -> Vec<String> {
        let text = registry.text();
        let of = |line: &&str| !line.starts_with('#') && !line.contains("_bucket{");
        text.lines().filter(of).map(|line| line.trim_start_matches("job_controller_").to_owned()).collect()
    }

    #[test]
    fn what_a_status_counts_newly_is_counted_once() {
        let registry = Registry::default();
        let metrics = Metrics::new(&registry);
        let status = |value| serde_json::from_value::<JobStatus>(value).unwrap();
        let spec = json!({"completionMode": "Indexed", "backoffLimitPerIndex": 1, "template": {}});
        let mut job: Job =
            serde_json::from_value(json!({"metadata": {"name": "j"}, "spec": spec, "status": {"succeeded": 1, "completedIndexes": "0"}})).unwrap();
        let new = status(json!({"succeeded": 3, "failed": 1, "completedIndexes": "0-2", "failedIndexes": "4",
            "conditions": [{"type": "Failed", "status": "True", "reason": "FailedIndexes"}]}));
        metrics.written(&job, &new);
        job.status = Some(new.clone());
        metrics.written(&job, &new);
        metrics.synced(&job, "tracking", false, Duration::from_secs(2));
        metrics.others("example.com/queue");
        assert_eq!(
            samples(&registry),
            [
                r#"job_finished_indexes_total{backoffLimit="perIndex",status="failed"} 1"#,
                r#"job_finished_indexes_total{backoffLimit="perIndex",status="succeeded"} 2"#,
                r#"job_pods_finished_total{completion_mode="Indexed",result="failed"} 1"#,
                r#"job_pods_finished_total{completion_mode="Indexed",result="succeeded"} 2"#,
                r#"job_sync_duration_seconds_sum{action="tracking",completion_mode="Indexed",result="success"} 2"#,
                r#"job_sync_duration_seconds_count{action="tracking",completion_mode="Indexed",result="success"} 1"#,
                r#"job_syncs_total{action="tracking",completion_mode="Indexed",result="success"} 1"#,
                r#"jobs_by_external_controller_total{controller_name="example.com/queue"} 1"#,
                r#"jobs_finished_total{completion_mode="Indexed",reason="FailedIndexes",result="failed"} 1"#,
            ]
        );
    }

    #[test]
    fn a_pod_is_tracked_from_its_end_until_it_is_let_go() {
        let registry = Registry::default();
        let metrics = Metrics::new(&registry);
        let pod = |phase: &str, finalizers: &[&str]| {
            let meta = json!({"name": "p", "finalizers": finalizers});
            Arc::new(serde_json::from_value::<Pod>(json!({"metadata": meta, "status": {"phase": phase}})).unwrap())
        };
        let (runs, ended, gone) = (pod("Running", &[FINALIZER]), pod("Failed", &[FINALIZER]), pod("Failed", &[]));
        metrics.heard_pod(&Delta::Added(runs.clone()));
        metrics.heard_pod(&Delta::Updated { old: runs, new: ended.clone() });
        metrics.heard_pod(&Delta::Updated { old: ended.clone(), new: ended.clone() });
        metrics.heard_pod(&Delta::Updated { old: ended, new: gone.clone() });
        metrics.heard_pod(&Delta::Deleted(gone));
        let told = ["add", "delete"].map(|event| format!("terminated_pods_tracking_finalizer_total{{event=\"{event}\"}} 1"));
        assert_eq!(samples(&registry), told);
    }
}
