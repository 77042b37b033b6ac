//! DaemonSets: one pod on every node that is to have one.
//!
//! In place of the original's resync: a failed pod that is held back (`backoff.rs`), one that is not available yet and a
//! step that was cut at the burst's size each name the time of the next look; expectations that were lost end by themselves.

mod backoff;
mod plan;
mod revisions;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use client::{Client, Delta, EventType, Informer, Meta, ObjectKey, Recorder, WorkQueue, object_reference};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use machinery::labels::Selector;

use crate::burst::Burst;
use crate::claim::{claim, controller_key};
use crate::compiled::Compiled;
use crate::expectations::Expectations;
use crate::history::{self, HASH_LABEL, Limit, Owner};
use crate::meta::{between, labels, secs, selector};
use crate::pods::{self, PodControl};
use crate::work::{Controller, Cx, Step};
use backoff::FailedPods;
use plan::{Demands, Plan};

const WORKERS: usize = 2;
/// Pods created or deleted in one step at most (upstream `BurstReplicas`).
const BURST_MAX: usize = 250;

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let client = cx.client("daemon-set-controller");
    let recorder = cx.recorder(&client, "daemonset-controller");
    let controller = Arc::new(Daemons {
        control: PodControl { client: client.clone(), recorder: recorder.clone() },
        client,
        recorder,
        sets: cx.informers.informer(),
        pods: cx.informers.informer(),
        nodes: cx.informers.informer(),
        revisions: cx.informers.informer(),
        expectations: Expectations::default(),
        failed: FailedPods::default(),
        selectors: Compiled::default(),
        demands: Compiled::default(),
    });
    pods::index_controller(&controller.pods);
    cx.setup(&controller)
        .on(&controller.sets, Daemons::heard_set)
        .on(&controller.pods, Daemons::heard_pod)
        .on(&controller.nodes, Daemons::heard_node)
        .on(&controller.revisions, Daemons::heard_revision)
        .work(WORKERS)
        .await;
}

struct Daemons {
    client: Client,
    recorder: Recorder,
    control: PodControl,
    sets: Informer<DaemonSet>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    revisions: Informer<ControllerRevision>,
    expectations: Expectations,
    failed: FailedPods,
    selectors: Compiled<Selector>,
    demands: Compiled<Demands>,
}

impl Daemons {
    fn owner(&self, pod: &Pod) -> Option<Arc<DaemonSet>> {
        let (key, uid) = controller_key::<DaemonSet>(pod)?;
        self.sets.get_key(&key).filter(|s| s.uid() == uid)
    }

    fn selector(&self, set: &DaemonSet) -> Arc<Selector> {
        self.selectors.get(set, |s| selector(&s.spec.selector))
    }

    fn demands(&self, set: &DaemonSet) -> Arc<Demands> {
        self.demands.get(set, Demands::of)
    }

    fn heard_set(&self, queue: &WorkQueue<ObjectKey>, change: &Delta<DaemonSet>) {
        if let Delta::Deleted(set) = change {
            self.failed.forget(set.uid());
            self.selectors.forget(&set.key());
            self.demands.forget(&set.key());
        }
        self.expectations.heard_owner(queue, change);
    }

    fn heard_pod(&self, queue: &WorkQueue<ObjectKey>, change: &Delta<Pod>) {
        let gone = |pod: &Pod| {
            if let Some(set) = self.owner(pod) {
                self.expectations.deleted(set.uid(), pod.uid());
                queue.add(set.key());
            }
        };
        match change {
            Delta::Added(pod) if pod.is_deleting() => gone(pod),
            Delta::Added(pod) => match self.owner(pod) {
                Some(set) => {
                    self.expectations.created(set.uid());
                    queue.add(set.key());
                }
                None => self.heard_orphan(queue, pod),
            },
            Delta::Updated { old, new } => {
                if new.is_deleting() && !old.is_deleting() {
                    gone(new);
                }
                if old.controller() != new.controller()
                    && let Some(former) = self.owner(old)
                {
                    queue.add(former.key());
                }
                match self.owner(new) {
                    Some(set) => queue.add(set.key()),
                    None => self.heard_orphan(queue, new),
                }
            }
            Delta::Deleted(pod) => gone(pod),
        }
    }

    fn heard_orphan(&self, queue: &WorkQueue<ObjectKey>, pod: &Pod) {
        if pod.controller().is_some() || labels(pod).is_empty() {
            return;
        }
        let all = self.sets.list_namespace(pod.namespace());
        all.iter().filter(|s| self.selector(s).matches_map(labels(pod))).for_each(|s| queue.add(s.key()));
    }

    /// A node's labels, taints and name decide; its heartbeats do not.
    fn heard_node(&self, queue: &WorkQueue<ObjectKey>, change: &Delta<Node>) {
        if let Delta::Updated { old, new } = change
            && plan::is_same_place(old, new)
        {
            return;
        }
        for set in self.sets.list() {
            let demands = self.demands(&set);
            let concerns = match change {
                Delta::Updated { old, new } => demands.want(old) != demands.want(new),
                Delta::Added(node) => demands.want(node) != (false, false),
                Delta::Deleted(_) => true,
            };
            if concerns {
                queue.add(set.key());
            }
        }
    }

    /// The revision of the present template that somebody deletes is made again; one that nobody has may be a set's.
    fn heard_revision(&self, queue: &WorkQueue<ObjectKey>, change: &Delta<ControllerRevision>) {
        let owner = |r: &ControllerRevision| {
            let (key, uid) = controller_key::<DaemonSet>(r)?;
            self.sets.get_key(&key).filter(|s| s.uid() == uid).map(|_| key)
        };
        match change {
            Delta::Deleted(revision) => owner(revision).into_iter().for_each(|key| queue.add(key)),
            Delta::Updated { old, new } if old.controller() != new.controller() => owner(old).into_iter().for_each(|key| queue.add(key)),
            _ => {}
        }
        let revision = change.object();
        if revision.controller().is_none() && !matches!(change, Delta::Deleted(_)) {
            let all = self.sets.list_namespace(revision.namespace());
            all.iter().filter(|s| self.selector(s).matches_map(labels(&**revision))).for_each(|s| queue.add(s.key()));
        }
    }

    async fn act(&self, ds: &DaemonSet, hash: &str, mut plan: Plan) -> client::Result<()> {
        let about = object_reference(ds);
        for (ended, reason, word) in [(&plan.failed, "FailedDaemonPod", "kill"), (&plan.succeeded, "SucceededDaemonPod", "delete")] {
            for pod in ended {
                let what = if word == "kill" { "failed" } else { "succeeded" };
                let message = format!("Found {what} daemon pod {} on node {}, will try to {word} it", pod.key(), pods::node_name(pod));
                let kind = if word == "kill" { EventType::Warning } else { EventType::Normal };
                self.recorder.event(&about, kind, reason, message);
            }
        }
        plan.delete.append(&mut plan.failed);
        plan.delete.append(&mut plan.succeeded);
        plan.create.truncate(BURST_MAX);
        plan.delete.truncate(BURST_MAX);
        if plan.create.is_empty() && plan.delete.is_empty() {
            return Ok(());
        }
        let burst = Burst::new(&self.control, &self.expectations, (ds.uid(), &about), plan.create.len(), &plan.delete);
        let created = burst.create(|n| plan::pod(ds, &plan.create[n], hash)).await;
        let deleted = burst.delete().await;
        created.and(deleted)
    }

    async fn write_status(&self, ds: &DaemonSet, status: DaemonSetStatus) -> client::Result<()> {
        if ds.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let mut changed = ds.clone();
        changed.status = Some(status.clone());
        let api = self.client.namespaced::<DaemonSet>(ds.namespace());
        match api.replace_status(ds.name(), &changed).await {
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) if error.is_conflict() => {
                let mut live = api.get(ds.name()).await?;
                // A namesake has pods of its own.
                if live.uid() != ds.uid() {
                    return Ok(());
                }
                live.status = Some(status);
                api.replace_status(ds.name(), &live).await.map(drop)
            }
            other => other.map(drop),
        }
    }

    /// The set's pods as they are, adopted and released.
    async fn pods_of(&self, ds: &DaemonSet) -> client::Result<Vec<Arc<Pod>>> {
        let all = pods::of_controller_and_orphans(&self.pods, ds.uid(), ds.namespace());
        claim::<DaemonSet, Pod>(&self.client, ds, &self.selector(ds), all).await
    }
}

impl Controller for Daemons {
    const QUEUE: &'static str = "daemonset";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Step {
        let Some(ds) = self.sets.get_key(key) else { return Ok(None) };
        let selector = self.selector(&ds);
        if selector.is_everything() {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.recorder.event(&object_reference(&*ds), EventType::Warning, "SelectingAll", message);
            return Ok(None);
        }
        if ds.is_deleting() {
            return Ok(None);
        }
        let owner = Owner {
            object: &*ds,
            template: &ds.spec.template,
            selector: (*selector).clone(),
            collisions: ds.status.as_ref().and_then(|s| s.collision_count),
            label: HASH_LABEL,
        };
        let mut history = match history::keep(&self.client, &self.revisions, &owner).await {
            Err(error) if error.is_namespace_terminating() => return Ok(None),
            other => other?,
        };
        revisions::label(&self.client, &mut history).await?;
        let hash = history.update.label(HASH_LABEL).unwrap_or_default().to_owned();
        let may_act = self.expectations.satisfied(ds.uid());
        let mut all = self.pods_of(&ds).await?;
        revisions::unite(&self.client, &mut history, &mut all).await?;
        let pods = plan::by_node(&all);
        let (nodes, now, demands) = (self.nodes.list(), client::timestamp(), self.demands(&ds));
        let state = (nodes.as_slice(), &pods);
        let (mut result, mut again) = (Ok(()), None);
        if may_act {
            let observed = ds.status.as_ref().and_then(|s| s.observed_generation).unwrap_or(0);
            let plan = plan::manage(&ds, &demands, state, &hash, now, |node| self.failed.held_back((ds.uid(), observed), node));
            again = plan.again;
            result = self.act(&ds, &hash, plan).await;
            if result.is_ok() && self.expectations.satisfied(ds.uid()) && plan::rolls(&ds) {
                result = self.act(&ds, &hash, plan::roll(&ds, &demands, state, &hash, now)).await;
            }
        }
        let collisions = Some(history.collisions).filter(|c| *c > 0);
        let mut status = plan::status(&ds, &demands, state, &hash, collisions, now);
        if !may_act {
            // Nothing was done for the present spec yet, so it is not said to be observed.
            status.observed_generation = ds.status.as_ref().and_then(|s| s.observed_generation);
        }
        self.write_status(&ds, status).await?;
        result?;
        let in_use = |r: &ControllerRevision| all.iter().any(|p| p.label(HASH_LABEL).is_some() && p.label(HASH_LABEL) == r.label(HASH_LABEL));
        history::truncate(&self.client, &history, ds.spec.revision_history_limit.unwrap_or(10), Limit::Former, in_use).await?;
        let soonest = all.iter().filter_map(|p| pods::available_at(p, plan::min_ready_s(&ds))).filter(|at| *at > now).min();
        let available = soonest.map(|at| between(now, at) + secs(1));
        Ok(again.into_iter().chain(available).chain(self.expectations.look_again(ds.uid())).min())
    }
}
