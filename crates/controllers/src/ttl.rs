//! Jobs that have ended and are to go after a while (`ttlSecondsAfterFinished`): each names its time.

use std::sync::Arc;

use client::{Client, DeleteParams, Informer, Meta, ObjectKey, Preconditions, Propagation};
use instruments::{Family, Histogram, Kind, exponential};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::jiff::Timestamp;

use crate::job::finished_at;
use crate::meta::{between, plus, secs};
use crate::work::{Controller, Cx, Step};

const LATE: Family = Family::new(
    "ttl_after_finished_controller_job_deletion_duration_seconds",
    Kind::Histogram,
    "[ALPHA] The time it took to delete the job since it became eligible for deletion",
);
static LATE_S: [f64; 14] = exponential(0.1, 2.0);

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let client = cx.client("ttl-after-finished-controller");
    let controller = Arc::new(Ttl { client, jobs: cx.informers.informer(), late: cx.metrics().histogram(&LATE, &LATE_S) });
    cx.setup(&controller)
        .on(&controller.jobs, |_, queue, change| {
            let job = change.object();
            if ends(job).is_some() {
                queue.add(job.key());
            }
        })
        .work(5)
        .await;
}

struct Ttl {
    client: Client,
    jobs: Informer<Job>,
    /// How much later than their times jobs are deleted.
    late: Arc<Histogram>,
}

/// When a job is to go; none while it is under way, or without such a wish.
fn ends(job: &Job) -> Option<Timestamp> {
    let ttl_s = job.spec.as_ref()?.ttl_seconds_after_finished?;
    Some(plus(finished_at(job)?, secs(ttl_s))).filter(|_| !job.is_deleting())
}

impl Controller for Ttl {
    const QUEUE: &'static str = "ttl_jobs_to_delete";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Step {
        let Some((job, end)) = self.jobs.get_key(key).and_then(|j| ends(&j).map(|e| (j, e))) else { return Ok(None) };
        let left = between(client::timestamp(), end);
        if !left.is_zero() {
            return Ok(Some(left));
        }
        // Its wish may have changed since it was seen.
        let preconditions = Preconditions { uid: Some(job.uid().to_owned()), resource_version: Some(job.resource_version().to_owned()) };
        let params = DeleteParams { propagation: Some(Propagation::Foreground), preconditions, ..DeleteParams::default() };
        match self.client.namespaced::<Job>(&key.namespace).delete(&key.name, &params).await {
            Err(error) if !error.is_not_found() => Err(error),
            Err(_) => Ok(None),
            Ok(()) => {
                self.late.took(between(end, client::timestamp()));
                Ok(None)
            }
        }
    }
}
