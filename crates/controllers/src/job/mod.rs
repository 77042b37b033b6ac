//! Jobs: pods that are to end well so many times.
//!
//! In place of the original's resync: back-offs and deadlines name the time of the next look; finalizers of pods whose job is
//! gone are heard of by the pod and by the job.

mod indexes;
mod metrics;
mod plan;
mod policy;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Backoff, Client, Delta, EventType, Informer, Meta, ObjectKey, Patch, PatchParams, Recorder, WorkQueue, object_reference};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use machinery::labels::Selector;
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use crate::burst::Burst;
use crate::claim::{claim_with_finalizer, controller_key};
use crate::compiled::Compiled;
use crate::expectations::Expectations;
use crate::meta::{labels, selector};
use crate::pods::{self, PodControl};
use crate::work::{Controller, Cx, Step};
use metrics::Metrics;
pub(crate) use plan::finished_at;
use plan::{FINALIZER, Failures, Plan};

const WORKERS: usize = 5;

/// Whether a Job has ended.
pub(crate) fn is_finished(job: &Job) -> bool {
    plan::is_finished(job)
}

/// Whether a Job has ended well.
pub(crate) fn is_complete(job: &Job) -> bool {
    job.status.as_ref().is_some_and(|s| plan::condition(s, "Complete").is_some())
}

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let client = cx.client("job-controller");
    let recorder = cx.recorder(&client, "job-controller");
    let controller = Arc::new(Jobs {
        control: PodControl { client: client.clone(), recorder: recorder.clone() },
        client,
        recorder,
        jobs: cx.informers.informer(),
        pods: cx.informers.informer(),
        expectations: Expectations::default(),
        selectors: Compiled::default(),
        failures: Mutex::default(),
        metrics: Metrics::new(cx.metrics()),
    });
    pods::index_controller(&controller.pods);
    cx.setup(&controller).on(&controller.jobs, Jobs::heard_job).on(&controller.pods, Jobs::heard_pod).work(WORKERS).await;
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Job(ObjectKey),
    /// A pod whose job is gone.
    Orphan(ObjectKey),
}

struct Jobs {
    client: Client,
    recorder: Recorder,
    control: PodControl,
    jobs: Informer<Job>,
    pods: Informer<Pod>,
    expectations: Expectations,
    selectors: Compiled<Selector>,
    /// The failures of jobs that are under way, by their UIDs.
    failures: Mutex<HashMap<String, Failures>>,
    metrics: Metrics,
}

/// The controller that a Job says is to care for it, if that is another.
fn other_controller(job: &Job) -> Option<&str> {
    job.spec.as_ref()?.managed_by.as_deref().filter(|by| *by != "kubernetes.io/job-controller")
}

fn selector_of(job: &Job) -> Selector {
    job.spec.as_ref().and_then(|s| s.selector.as_ref()).map_or_else(Selector::nothing, selector)
}

impl Jobs {
    fn selector(&self, job: &Job) -> Arc<Selector> {
        self.selectors.get(job, selector_of)
    }

    fn owner(&self, pod: &Pod) -> Option<Arc<Job>> {
        let (key, uid) = controller_key::<Job>(pod)?;
        self.jobs.get_key(&key).filter(|j| j.uid() == uid)
    }

    fn heard_job(&self, queue: &WorkQueue<Key>, change: &Delta<Job>) {
        if let Delta::Added(job) = change {
            other_controller(job).into_iter().for_each(|other| self.metrics.others(other));
        }
        if let Delta::Deleted(job) = change {
            self.expectations.forget(job.uid());
            self.failures.lock().remove(job.uid());
            self.selectors.forget(&job.key());
            // Their finalizers are nobody's any more.
            pods::of_controller(&self.pods, job.uid()).iter().for_each(|p| queue.add(Key::Orphan(p.key())));
        }
        queue.add(Key::Job(change.object().key()));
    }

    fn heard_pod(&self, queue: &WorkQueue<Key>, change: &Delta<Pod>) {
        let pod = change.object();
        self.metrics.heard_pod(change);
        let Some(job) = self.owner(pod) else {
            // What another kind's controller has is not for this one to let go, even if it uses the finalizer.
            let is_orphan = pod.controller().is_none() || controller_key::<Job>(&**pod).is_some();
            if is_orphan && pod.has_finalizer(FINALIZER) && !matches!(change, Delta::Deleted(_)) {
                queue.add(Key::Orphan(pod.key()));
            } else if pod.controller().is_none() && !labels(&**pod).is_empty() {
                let all = self.jobs.list_namespace(pod.namespace());
                all.iter().filter(|j| self.selector(j).matches_map(labels(&**pod))).for_each(|j| queue.add(Key::Job(j.key())));
            }
            return;
        };
        match change {
            Delta::Added(_) => self.expectations.created(job.uid()),
            Delta::Updated { old, new } if new.is_deleting() && !old.is_deleting() => self.expectations.deleted(job.uid(), new.uid()),
            Delta::Updated { .. } => {}
            Delta::Deleted(pod) => self.expectations.deleted(job.uid(), pod.uid()),
        }
        queue.add(Key::Job(job.key()));
    }

    async fn job(&self, key: &ObjectKey) -> Step {
        let Some(job) = self.jobs.get_key(key) else { return Ok(None) };
        if other_controller(&job).is_some() {
            return Ok(None);
        }
        if is_finished(&job) {
            self.failures.lock().remove(job.uid());
            let left = pods::of_controller(&self.pods, job.uid());
            return self.release(left.iter().filter(|p| p.has_finalizer(FINALIZER))).await.map(|()| None);
        }
        let begun = Instant::now();
        let act = self.expectations.satisfied(job.uid());
        let selector = self.selector(&job);
        let all = pods::of_controller_and_orphans(&self.pods, job.uid(), job.namespace());
        let pods = claim_with_finalizer::<Job, Pod>(&self.client, &job, &selector, all, FINALIZER).await?;
        let failures = self.failures.lock().get(job.uid()).copied().unwrap_or_default();
        let plan = plan::plan(&job, &pods, failures, act, client::timestamp());
        let (again, action) = (plan.again, metrics::action(act, &plan));
        let done = self.carry_out(&job, plan).await;
        self.metrics.synced(&job, action, done.is_err(), begun.elapsed());
        done?;
        Ok(again.into_iter().chain(self.expectations.look_again(job.uid())).min())
    }

    /// The status first: only what is noted there may lose its finalizer.
    async fn carry_out(&self, job: &Job, plan: Plan) -> client::Result<()> {
        if job.status.as_ref() != Some(&plan.status) {
            let mut changed = job.clone();
            changed.status = Some(plan.status.clone());
            match self.client.namespaced::<Job>(job.namespace()).replace_status(job.name(), &changed).await {
                Err(error) if error.is_not_found() => return Ok(()),
                other => other.map(drop)?,
            }
            if plan.failures == Failures::default() {
                self.failures.lock().remove(job.uid());
            } else {
                self.failures.lock().insert(job.uid().to_owned(), plan.failures);
            }
            self.metrics.written(job, &plan.status);
        }
        let about = object_reference(job);
        for (warning, reason, message) in &plan.tell {
            let kind = if *warning { EventType::Warning } else { EventType::Normal };
            self.recorder.event(&about, kind, reason, message.clone());
        }
        self.metrics.judged(&plan.judged);
        self.release(plan.release.iter()).await?;
        if plan.create.is_empty() && plan.delete.is_empty() {
            return Ok(());
        }
        let burst = Burst::new(&self.control, &self.expectations, (job.uid(), &about), plan.create.len(), &plan.delete);
        let deleted = burst.delete().await;
        let created = burst.create_each(|n| plan::pod(job, plan.create[n]), |is_made| self.metrics.made(plan.reason, is_made)).await;
        created.and(deleted)
    }

    /// Lets pods go that are counted.
    async fn release(&self, pods: impl Iterator<Item = &Arc<Pod>>) -> client::Result<()> {
        let each = pods.map(|pod| async move {
            let patch = json!({"metadata": {"uid": pod.uid(), "$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
            match self.client.namespaced::<Pod>(pod.namespace()).patch(pod.name(), &Patch::Strategic(patch), &PatchParams::default()).await {
                Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
                _ => Ok(()),
            }
        });
        futures_util::future::join_all(each).await.into_iter().collect()
    }
}

impl Controller for Jobs {
    const QUEUE: &'static str = "job";
    /// `DefaultJobApiBackOff` and `MaxJobApiBackOff`: a pod that is refused is told of once a second at first, not two hundred times.
    const BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(60) };
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Step {
        match key {
            Key::Job(key) => self.job(key).await,
            Key::Orphan(key) => {
                let orphan = self.pods.get_key(key).filter(|p| p.has_finalizer(FINALIZER) && self.owner(p).is_none());
                self.release(orphan.iter()).await.map(|()| None)
            }
        }
    }
}
