//! PodDisruptionBudgets: how many pods of a group may be evicted now.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use client::{Client, Delta, EventType, Informer, Meta, ObjectKey, Recorder, WorkQueue, object_reference};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use machinery::labels::Selector;

use crate::claim::controller_key;
use crate::deployment::scaled;
use crate::meta::{between, generation, labels, plus, seconds, secs, selector};
use crate::pods;
use crate::work::{Controller, Cx, Step, itself};

/// An eviction that was allowed is to be seen as a deletion within this (upstream `DeletionTimeout`).
const DELETION_S: i64 = 120;

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let client = cx.client("disruption-controller");
    let controller = Arc::new(Budgets {
        recorder: cx.recorder(&client, "controllermanager"),
        client,
        budgets: cx.informers.informer(),
        pods: cx.informers.informer(),
        sets: cx.informers.informer(),
        deployments: cx.informers.informer(),
        stateful: cx.informers.informer(),
        replication: cx.informers.informer(),
    });
    cx.setup(&controller)
        .on(&controller.budgets, itself)
        .on(&controller.pods, Budgets::heard)
        .reads(&controller.sets)
        .reads(&controller.deployments)
        .reads(&controller.stateful)
        .reads(&controller.replication)
        .work(2)
        .await;
}

struct Budgets {
    client: Client,
    recorder: Recorder,
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    sets: Informer<ReplicaSet>,
    deployments: Informer<Deployment>,
    stateful: Informer<StatefulSet>,
    replication: Informer<ReplicationController>,
}

fn selector_of(budget: &PodDisruptionBudget) -> Selector {
    budget.spec.as_ref().and_then(|s| s.selector.as_ref()).map_or_else(Selector::nothing, selector)
}

impl Budgets {
    fn heard(&self, queue: &WorkQueue<ObjectKey>, change: &Delta<Pod>) {
        let pod = change.object();
        for budget in self.budgets.list_namespace(pod.namespace()) {
            let selector = selector_of(&budget);
            let was = matches!(change, Delta::Updated { old, .. } if selector.matches_map(labels(&**old)));
            if was || selector.matches_map(labels(&**pod)) {
                queue.add(budget.key());
            }
        }
    }

    /// How many replicas the controllers of these pods are to have in all; each once.
    fn expected(&self, pods: &[Arc<Pod>]) -> Result<i32, String> {
        let mut controllers: BTreeMap<String, i32> = BTreeMap::new();
        let mut unmanaged = HashSet::new();
        for pod in pods {
            let Some(owner) = pod.controller() else {
                unmanaged.insert(pod.name());
                continue;
            };
            if !controllers.contains_key(&owner.uid) {
                let (uid, size) = self.scale(pod).ok_or_else(|| format!("found no controllers for pod {:?}", pod.name()))?;
                controllers.insert(owner.uid.clone(), 0);
                controllers.insert(uid, size);
            }
        }
        Ok(controllers.values().sum::<i32>())
    }

    fn scale(&self, pod: &Pod) -> Option<(String, i32)> {
        if let Some((key, uid)) = controller_key::<ReplicaSet>(pod) {
            let set = self.sets.get_key(&key).filter(|s| s.uid() == uid)?;
            let deployment = controller_key::<Deployment>(&*set).and_then(|(key, uid)| self.deployments.get_key(&key).filter(|d| d.uid() == uid));
            return Some(deployment.map_or((uid, set.spec.replicas.unwrap_or(1)), |d| (d.uid().to_owned(), d.spec.replicas.unwrap_or(1))));
        }
        if let Some((key, uid)) = controller_key::<StatefulSet>(pod) {
            let size = self.stateful.get_key(&key).filter(|s| s.uid() == uid)?.spec.replicas.unwrap_or(1);
            return Some((uid, size));
        }
        let (key, uid) = controller_key::<ReplicationController>(pod)?;
        let size = self.replication.get_key(&key).filter(|s| s.uid() == uid)?.spec.as_ref()?.replicas.unwrap_or(1);
        Some((uid, size))
    }

    /// How many pods there are to be, and how many of them must be healthy.
    fn demand(&self, budget: &PodDisruptionBudget, pods: &[Arc<Pod>]) -> Result<(i32, i32), String> {
        let count = i32::try_from(pods.len()).unwrap_or(i32::MAX);
        let spec = budget.spec.clone().unwrap_or_default();
        if let Some(most) = &spec.max_unavailable {
            let expected = self.expected(pods)?;
            return Ok((expected, (expected - scaled(most, expected, true)).max(0)));
        }
        match &spec.min_available {
            Some(IntOrString::Int(least)) => Ok((count, *least)),
            Some(least) => {
                let expected = self.expected(pods)?;
                Ok((expected, scaled(least, expected, true)))
            }
            None => Ok((count, 0)),
        }
    }
}

impl Controller for Budgets {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Step {
        let Some(budget) = self.budgets.get_key(key).filter(|b| !b.is_deleting()) else { return Ok(None) };
        let selector = selector_of(&budget);
        let pods: Vec<_> = self.pods.list_namespace(&key.namespace).into_iter().filter(|p| selector.matches_map(labels(&**p))).collect();
        let now = client::timestamp();
        let about = object_reference(&*budget);
        if pods.is_empty() {
            self.recorder.event(&about, EventType::Normal, "NoPods", "No matching pods found");
        }
        let mut status = budget.status.clone().unwrap_or_default();
        let again = match self.demand(&budget, &pods) {
            Ok((expected, desired)) => {
                let (next, again) = judge(&budget, &pods, expected, desired, now);
                status = next;
                again
            }
            Err(why) => {
                let message = format!("Failed to calculate the number of expected pods: {why}");
                self.recorder.event(&about, EventType::Warning, "CalculateExpectedPodCountFailed", message);
                // Nothing is allowed while nothing is known.
                status.disruptions_allowed = Some(0);
                note(&mut status, &budget, "SyncFailed", "False", why, now);
                None
            }
        };
        if budget.status.as_ref() != Some(&status) {
            let mut changed = (*budget).clone();
            changed.status = Some(status);
            match self.client.namespaced::<PodDisruptionBudget>(&key.namespace).replace_status(&key.name, &changed).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(again)
    }
}

/// The status of a budget with these pods, and when an allowed eviction that did not happen is forgotten.
fn judge(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    expected: i32,
    desired: i32,
    now: Timestamp,
) -> (PodDisruptionBudgetStatus, Option<std::time::Duration>) {
    let mut status = budget.status.clone().unwrap_or_default();
    let mut again = None;
    let disrupted: BTreeMap<String, Time> = status
        .disrupted_pods
        .take()
        .into_iter()
        .flatten()
        .filter(|(name, at)| {
            let left = between(now, plus(at.0, secs(DELETION_S)));
            let waits = !left.is_zero() && pods.iter().any(|p| p.name() == name && !p.is_deleting());
            if waits {
                again = Some(again.map_or(left, |a: std::time::Duration| a.min(left)));
            }
            waits
        })
        .collect();
    let healthy = pods.iter().filter(|p| !p.is_deleting() && !disrupted.contains_key(p.name()) && pods::is_ready(p)).count();
    let healthy = i32::try_from(healthy).unwrap_or(i32::MAX);
    let allowed = if expected <= 0 { 0 } else { (healthy - desired).max(0) };
    status.current_healthy = Some(healthy);
    status.desired_healthy = Some(desired);
    status.expected_pods = Some(expected);
    status.disruptions_allowed = Some(allowed);
    status.disrupted_pods = Some(disrupted).filter(|d| !d.is_empty());
    status.observed_generation = Some(generation(budget));
    let (reason, value) = if allowed > 0 { ("SufficientPods", "True") } else { ("InsufficientPods", "False") };
    note(&mut status, budget, reason, value, String::new(), now);
    (status, again)
}

fn note(status: &mut PodDisruptionBudgetStatus, budget: &PodDisruptionBudget, reason: &str, value: &str, message: String, now: Timestamp) {
    let all = status.conditions.get_or_insert_default();
    let mut new = Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message,
        last_transition_time: seconds(now),
        observed_generation: Some(generation(budget)),
    };
    match all.iter_mut().find(|c| c.type_ == new.type_) {
        Some(old) => {
            if old.status == new.status {
                new.last_transition_time = old.last_transition_time.clone();
            }
            *old = new;
        }
        None => all.push(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_healthy_beyond_the_demand_may_go() {
        let now = client::timestamp();
        let pod = |name: &str, ready: bool| {
            let value = json!({"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}});
            Arc::new(serde_json::from_value::<Pod>(value).unwrap_or_default())
        };
        let pods = [pod("a", true), pod("b", true), pod("c", true), pod("d", false)];
        let mut budget = PodDisruptionBudget::default();
        let allowed = |b: &PodDisruptionBudget, expected, desired| judge(b, &pods, expected, desired, now).0.disruptions_allowed;
        assert_eq!(allowed(&budget, 4, 2), Some(1));
        assert_eq!(allowed(&budget, 4, 3), Some(0));
        assert_eq!(allowed(&budget, 0, 0), Some(0), "of nothing nothing may go");
        budget.status.get_or_insert_default().disrupted_pods = Some(BTreeMap::from([("a".to_owned(), seconds(now)), ("gone".to_owned(), seconds(now))]));
        let (status, again) = judge(&budget, &pods, 4, 2, now);
        assert_eq!((status.disruptions_allowed, status.disrupted_pods.map(|d| d.len())), (Some(0), Some(1)), "an eviction under way counts");
        assert!(again.is_some_and(|a| a.as_secs() > 100));
    }
}
