//! ReplicaSets and ReplicationControllers: as many pods as wished, no more and no fewer.
//!
//! Both kinds are one controller over [`Replicated`]. What is decided without input and output is in `plan.rs`. In place of the
//! original's resync a pod that is ready but not yet available names its time, and expectations whose events were lost name the
//! end of their time.

mod kinds;
mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use client::{Client, Delta, Informer, Meta, Object, ObjectKey, Plural, WorkQueue, object_reference};
use instruments::{Family, Histogram, Kind, exponential};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use machinery::labels::Selector;

use crate::burst::Burst;
use crate::claim::{claim, controller_key, owner_reference};
use crate::compiled::Compiled;
use crate::expectations::Expectations;
use crate::meta::{labels, secs};
use crate::pods::{self, PodControl};
use crate::work::{Controller, Cx, Step};

/// Pods created or deleted in one step at most (upstream `BurstReplicas`).
const BURST_MAX: usize = 500;
const WORKERS: usize = 5;

const AGE_RATIO: Family = Family::new(
    "replicaset_controller_sorting_deletion_age_ratio",
    Kind::Histogram,
    "[ALPHA] The ratio of chosen deleted pod's ages to the current youngest pod's age (at the time). Should be <2. The intent of this metric is to measure the rough efficacy of the LogarithmicScaleDown feature gate's effect on the sorting (and deletion) of pods when a replicaset scales down. This only considers Ready pods when calculating and reporting.",
);
static AGE_RATIO_ENDS: [f64; 6] = exponential(0.25, 2.0);

/// A kind that keeps a number of equal pods.
pub(crate) trait Replicated: Object + Plural + k8s_openapi::Resource<Scope = NamespaceResourceScope> {
    /// The service account's name.
    const ACCOUNT: &'static str;
    /// The queue's name.
    const QUEUE: &'static str;
    /// The name in events.
    const COMPONENT: &'static str;
    /// Whether the status tells how many pods are terminating.
    const TERMINATING: bool;
    /// Whether it is told how old the pods are that go.
    const TELLS_AGES: bool;
    fn replicas(&self) -> i32;
    fn min_ready_s(&self) -> i32;
    fn selector(&self) -> Selector;
    fn template(&self) -> Option<&PodTemplateSpec>;
    fn counts(&self) -> Counts;
    fn set_counts(&mut self, counts: Counts);
}

/// The status of both kinds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Counts {
    pub(crate) replicas: i32,
    pub(crate) fully_labeled: i32,
    pub(crate) ready: i32,
    pub(crate) available: i32,
    /// ReplicationControllers do not have it.
    pub(crate) terminating: Option<i32>,
    pub(crate) observed_generation: i64,
    pub(crate) conditions: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Condition {
    pub(crate) kind: String,
    pub(crate) status: String,
    pub(crate) reason: Option<String>,
    pub(crate) message: Option<String>,
    pub(crate) since: Option<Time>,
}

/// Runs the controller of one kind until the end.
pub(crate) async fn run<K: Replicated>(cx: Cx) {
    let client = cx.client(K::ACCOUNT);
    let controller = Arc::new(Replication::<K> {
        control: PodControl { recorder: cx.recorder(&client, K::COMPONENT), client: client.clone() },
        client,
        sets: cx.informers.informer(),
        pods: cx.informers.informer(),
        expectations: Expectations::default(),
        selectors: Compiled::default(),
        age_ratio: if K::TELLS_AGES { cx.metrics().histogram(&AGE_RATIO, &AGE_RATIO_ENDS) } else { Arc::new(Histogram::new(&AGE_RATIO_ENDS)) },
    });
    pods::index_controller(&controller.pods);
    controller.sets.add_index("controller", |set| set.controller().map(|o| o.uid.clone()).into_iter().collect());
    cx.setup(&controller)
        .on(&controller.sets, |c, queue, change| c.expectations.heard_owner(queue, change))
        .on(&controller.pods, Replication::heard)
        .work(WORKERS)
        .await;
}

struct Replication<K> {
    client: Client,
    sets: Informer<K>,
    pods: Informer<Pod>,
    control: PodControl,
    expectations: Expectations,
    selectors: Compiled<Selector>,
    age_ratio: Arc<Histogram>,
}

impl<K: Replicated> Replication<K> {
    fn selector(&self, set: &K) -> Arc<Selector> {
        self.selectors.get(set, K::selector)
    }

    /// The owner of a pod, if it is of this kind and still the one that the pod means.
    fn owner(&self, pod: &Pod) -> Option<Arc<K>> {
        let (key, uid) = controller_key::<K>(pod)?;
        self.sets.get_key(&key).filter(|set| set.uid() == uid)
    }

    /// Those that would adopt a pod.
    fn matching(&self, pod: &Pod) -> Vec<ObjectKey> {
        if labels(pod).is_empty() {
            return Vec::new();
        }
        let sets = self.sets.list_namespace(pod.namespace());
        sets.iter().filter(|s| self.selector(s).matches_map(labels(pod))).map(|s| s.key()).collect()
    }

    fn heard(&self, queue: &WorkQueue<ObjectKey>, change: &Delta<Pod>) {
        match change {
            Delta::Added(pod) if pod.is_deleting() => self.gone(queue, pod),
            Delta::Added(pod) => match (pod.controller(), self.owner(pod)) {
                (_, Some(owner)) => {
                    self.expectations.created(owner.uid());
                    queue.add(owner.key());
                }
                (Some(_), None) => {}
                (None, None) => self.matching(pod).into_iter().for_each(|key| queue.add(key)),
            },
            Delta::Updated { old, new } => self.updated(queue, old, new),
            Delta::Deleted(pod) => self.gone(queue, pod),
        }
    }

    fn updated(&self, queue: &WorkQueue<ObjectKey>, old: &Pod, new: &Arc<Pod>) {
        let owner_changed = old.controller().map(|o| &o.uid) != new.controller().map(|o| &o.uid);
        let labels_changed = labels(old) != labels(&**new);
        if new.is_deleting() && !old.is_deleting() {
            self.gone(queue, new);
            if labels_changed || owner_changed {
                self.gone(queue, old);
            }
        }
        if owner_changed && let Some(owner) = self.owner(old) {
            queue.add(owner.key());
        }
        if let Some(owner) = self.owner(new) {
            queue.add(owner.key());
        } else if new.controller().is_none() && (labels_changed || owner_changed) {
            self.matching(new).into_iter().for_each(|key| queue.add(key));
        }
    }

    fn gone(&self, queue: &WorkQueue<ObjectKey>, pod: &Pod) {
        if let Some(owner) = self.owner(pod) {
            self.expectations.deleted(owner.uid(), pod.uid());
            queue.add(owner.key());
        }
    }

    /// Creates or deletes what is missing or too much.
    async fn manage(&self, set: &K, active: &[Arc<Pod>]) -> client::Result<()> {
        let wished = usize::try_from(set.replicas()).unwrap_or(0);
        match wished.checked_sub(active.len()) {
            Some(0) => Ok(()),
            Some(missing) => self.create(set, missing.min(BURST_MAX)).await,
            None => self.delete(set, active, (active.len() - wished).min(BURST_MAX)).await,
        }
    }

    async fn create(&self, set: &K, count: usize) -> client::Result<()> {
        let Some(template) = set.template() else { return Ok(()) };
        let about = object_reference(set);
        let pod = pods::from_template(template, set.name(), set.namespace(), owner_reference(set));
        Burst::new(&self.control, &self.expectations, (set.uid(), &about), count, &[]).create(|_| &pod).await
    }

    async fn delete(&self, set: &K, active: &[Arc<Pod>], count: usize) -> client::Result<()> {
        let about = object_reference(set);
        let related = self.related(set);
        let now = client::timestamp();
        let chosen = plan::to_delete(active, &related, count, now);
        if count < active.len() {
            plan::age_ratios(active, &chosen, now).into_iter().for_each(|ratio| self.age_ratio.observe(ratio));
        }
        Burst::new(&self.control, &self.expectations, (set.uid(), &about), 0, &chosen).delete().await
    }

    /// Active pods of all sets that the same controller has (the old and the new of a Deployment): of pods on one node
    /// rather one goes that has company.
    fn related(&self, set: &K) -> Vec<Arc<Pod>> {
        let Some(controller) = set.controller() else { return pods::of_controller(&self.pods, set.uid()) };
        let siblings = self.sets.by_index("controller", &controller.uid);
        siblings.iter().flat_map(|s| pods::of_controller(&self.pods, s.uid())).filter(|p| pods::is_active(p)).collect()
    }

    async fn write_status(&self, set: &K, counts: Counts) -> client::Result<()> {
        let mut changed = set.clone();
        changed.set_counts(counts.clone());
        let api = self.client.namespaced::<K>(set.namespace());
        match api.replace_status(set.name(), &changed).await {
            Err(error) if error.is_conflict() => {
                // Once more on the newest, since the counts are of pods and not of the object. A namesake has pods of its own.
                let mut live = api.get(set.name()).await?;
                if live.uid() != set.uid() {
                    return Ok(());
                }
                live.set_counts(counts);
                api.replace_status(set.name(), &live).await.map(drop)
            }
            other => other.map(drop),
        }
    }
}

impl<K: Replicated> Controller for Replication<K> {
    const QUEUE: &'static str = K::QUEUE;
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Step {
        let Some(set) = self.sets.get_key(key) else {
            self.selectors.forget(key);
            return Ok(None);
        };
        let may_act = self.expectations.satisfied(set.uid());
        let all = pods::of_controller_and_orphans(&self.pods, set.uid(), set.namespace());
        let selector = self.selector(&set);
        let claimable = all.into_iter().filter(|p| plan::is_claimable(p, set.uid(), &selector)).collect();
        let claimed = claim::<K, Pod>(&self.client, &set, &selector, claimable).await?;
        let (active, terminating): (Vec<_>, Vec<_>) = claimed.into_iter().partition(|p| pods::is_active(p));
        let managed = if may_act && !set.is_deleting() { self.manage(&set, &active).await } else { Ok(()) };
        let now = client::timestamp();
        let counts = plan::counts(&*set, &active, terminating.len(), managed.as_ref().err(), now);
        let available_next = plan::next_available(&*set, &active, now);
        if counts != set.counts() {
            match self.write_status(&set, counts).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        managed?;
        // A second of grace: the API's times have no fractions.
        let available_next = available_next.map(|after| after + secs(1));
        Ok(available_next.into_iter().chain(self.expectations.look_again(set.uid())).min())
    }
}
