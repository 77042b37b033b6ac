//! PodDisruptionBudgets: how many pods of a group may be evicted now. And pods that were to be evicted and were not: after two
//! minutes they are not said to be a target any more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Client, Delta, EventType, Informer, Meta, ObjectKey, Patch, PatchParams, Recorder, WorkQueue, object_reference};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use machinery::labels::Selector;
use serde_json::json;

use crate::autoscaling::target::Targets;
use crate::claim::{controller_key, group};
use crate::deployment::scaled;
use crate::members::Members;
use crate::meta::{between, generation, labels, plus, seconds, secs, selector, selector_text};
use crate::pods;
use crate::work::{Controller, Cx, Step};

/// An eviction that was allowed is to be seen as a deletion within this (upstream `DeletionTimeout`).
const DELETION_S: i64 = 120;
/// A pod that is said to be a target of a disruption and still is not being deleted is none any more after this (upstream
/// `stalePodDisruptionTimeout`).
const STALE_S: i64 = 120;
/// The kubelet's own word may come long before the deletion (upstream `PodReasonTerminationByKubelet`).
const BY_KUBELET: &str = "TerminationByKubelet";

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let client = cx.client("disruption-controller");
    let pods = cx.informers.informer();
    let controller = Arc::new(Budgets {
        recorder: cx.recorder(&client, "controllermanager"),
        targets: Targets::new(client.clone()),
        client,
        budgets: cx.informers.informer(),
        members: Members::new(&pods),
        pods,
        sets: cx.informers.informer(),
        deployments: cx.informers.informer(),
        stateful: cx.informers.informer(),
        replication: cx.informers.informer(),
    });
    cx.setup(&controller)
        .on(&controller.budgets, Budgets::heard_budget)
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
    members: Members,
    sets: Informer<ReplicaSet>,
    deployments: Informer<Deployment>,
    stateful: Informer<StatefulSet>,
    replication: Informer<ReplicationController>,
    /// Controllers of other kinds.
    targets: Targets,
}

fn selector_of(budget: &PodDisruptionBudget) -> Selector {
    budget.spec.as_ref().and_then(|s| s.selector.as_ref()).map_or_else(Selector::nothing, selector)
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Budget(ObjectKey),
    /// A pod that is said to be a target.
    Target(ObjectKey),
}

/// How long until a pod that is said to be a target of a disruption, and is not being deleted, is none any more.
fn stale_in(pod: &Pod, now: Timestamp) -> Option<Duration> {
    let condition = pods::condition(pod, "DisruptionTarget").filter(|c| c.status == "True" && c.reason.as_deref() != Some(BY_KUBELET))?;
    let since = condition.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0);
    pods::is_active(pod).then(|| between(now, plus(since, secs(STALE_S))))
}

impl Budgets {
    fn heard(&self, queue: &WorkQueue<Key>, change: &Delta<Pod>) {
        let pod = change.object();
        if !matches!(change, Delta::Deleted(_))
            && let Some(after) = stale_in(pod, client::timestamp())
        {
            queue.add_after(Key::Target(pod.key()), after);
        }
        let budgets = self.members.heard(&pod.key());
        let may_be_told = budgets.len() > 1 && !matches!(change, Delta::Deleted(_));
        // One that only selected it before is none.
        let selects = |key: &&ObjectKey| may_be_told && self.budgets.get_key(key).is_some_and(|b| selector_of(&b).matches_map(labels(&**pod)));
        if let [first, _, ..] = budgets.iter().filter(selects).collect::<Vec<_>>().as_slice() {
            let (namespace, name) = (pod.namespace(), pod.name());
            let message = format!("Pod {namespace:?}/{name:?} matches multiple PodDisruptionBudgets.  Chose {:?} arbitrarily.", first.name);
            self.recorder.event(&object_reference(&**pod), EventType::Warning, "MultiplePodDisruptionBudgets", message);
        }
        budgets.into_iter().for_each(|key| queue.add(Key::Budget(key)));
    }

    /// A budget changed: it is worked on, with the pods that it selects now.
    fn heard_budget(&self, queue: &WorkQueue<Key>, change: &Delta<PodDisruptionBudget>) {
        let key = change.object().key();
        self.members.set(&key, self.budgets.get_key(&key).map(|b| selector_of(&b)));
        queue.add(Key::Budget(key));
    }

    /// How many replicas the controllers of these pods are to have in all; each once. Pods that have none do not count.
    async fn expected(&self, pods: &[Arc<Pod>]) -> Result<i32, String> {
        let mut controllers: BTreeMap<String, i32> = BTreeMap::new();
        for pod in pods {
            let Some(owner) = pod.controller() else { continue };
            if !controllers.contains_key(&owner.uid) {
                let found = match self.scale(pod) {
                    Some(own) => Some(own),
                    None => self.scale_of(owner, pod.namespace()).await?,
                };
                let (uid, size) = found.ok_or_else(|| format!("found no controllers for pod {:?}", pod.name()))?;
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

    /// The size of a controller of any other kind, by its `scale` (upstream `getScaleController`); none if it is not the one that is
    /// meant, or gone.
    async fn scale_of(&self, owner: &OwnerReference, namespace: &str) -> Result<Option<(String, i32)>, String> {
        let found = self.targets.look_up(group(&owner.api_version), &owner.kind).await?;
        let served = found.ok_or_else(|| format!("no matches for kind {:?} in version {:?}", owner.kind, owner.api_version))?;
        if !served.scales {
            let dot = if served.group.is_empty() { "" } else { "." };
            return Err(format!("{}{dot}{} does not implement the scale subresource", served.resource, served.group));
        }
        match self.targets.scale(&served, namespace, &owner.name).await {
            Ok(scale) if scale.metadata.uid.as_deref() == Some(&*owner.uid) => Ok(Some((owner.uid.clone(), scale.spec.and_then(|s| s.replicas).unwrap_or(0)))),
            Ok(_) => Ok(None),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    /// How many pods there are to be, and how many of them must be healthy.
    async fn demand(&self, budget: &PodDisruptionBudget, pods: &[Arc<Pod>]) -> Result<(i32, i32), String> {
        let count = i32::try_from(pods.len()).unwrap_or(i32::MAX);
        let spec = budget.spec.clone().unwrap_or_default();
        if let Some(most) = &spec.max_unavailable {
            let expected = self.expected(pods).await?;
            return Ok((expected, (expected - scaled(most, expected, true)).max(0)));
        }
        match &spec.min_available {
            Some(IntOrString::Int(least)) => Ok((count, *least)),
            Some(least) => {
                let expected = self.expected(pods).await?;
                Ok((expected, scaled(least, expected, true)))
            }
            // One that says nothing expects nothing, and so lets nothing go.
            None => Ok((0, 0)),
        }
    }
}

/// Whether a budget is reckoned from what controllers are to have, to which pods without one are a riddle.
fn needs_controllers(budget: &PodDisruptionBudget) -> bool {
    let spec = budget.spec.as_ref();
    spec.is_some_and(|s| s.max_unavailable.is_some() || matches!(s.min_available, Some(IntOrString::String(_))))
}

/// A selector as `kubectl` and the original's messages write it.
fn told(budget: &PodDisruptionBudget) -> String {
    selector_text(budget.spec.as_ref().and_then(|s| s.selector.as_ref()))
}

impl Controller for Budgets {
    const QUEUE: &'static str = "disruption";
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Step {
        match key {
            Key::Budget(key) => self.budget(key).await,
            Key::Target(key) => self.target(key).await,
        }
    }
}

impl Budgets {
    /// Takes back that a pod is a target, if it is one no longer.
    async fn target(&self, key: &ObjectKey) -> Step {
        let Some(pod) = self.pods.get_key(key) else { return Ok(None) };
        match stale_in(&pod, client::timestamp()) {
            None => Ok(None),
            Some(left) if !left.is_zero() => Ok(Some(left)),
            Some(_) => {
                let condition = json!({"type": "DisruptionTarget", "status": "False", "reason": null, "message": null,
                    "lastTransitionTime": client::now(), "observedGeneration": pod.metadata.generation});
                let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}});
                let api = self.client.namespaced::<Pod>(pod.namespace());
                match api.patch_status(pod.name(), &Patch::Strategic(patch), &PatchParams::default()).await {
                    Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
                    _ => Ok(None),
                }
            }
        }
    }

    /// Pods without a controller make a budget that is reckoned from controllers a guess.
    fn tell_unmanaged(&self, budget: &PodDisruptionBudget, pods: &[Arc<Pod>]) {
        if needs_controllers(budget) && pods.iter().any(|p| p.controller().is_none()) {
            let message = format!(
                "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated \
                 correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.",
                told(budget)
            );
            self.recorder.event(&object_reference(budget), EventType::Warning, "UnmanagedPods", message);
        }
    }

    /// Of evictions that were allowed and never came the pods are told, once: the budget forgets them now.
    fn tell_undeleted(&self, budget: &PodDisruptionBudget, pods: &[Arc<Pod>], now: Timestamp) {
        let disrupted = budget.status.iter().flat_map(|s| s.disrupted_pods.iter().flatten());
        for (name, _) in disrupted.filter(|(_, at)| deletion_in(at, now).is_zero()) {
            if let Some(pod) = pods.iter().find(|p| p.name() == name && !p.is_deleting()) {
                // The original names the namespace twice.
                let message = format!("Pod was expected by PDB {0}/{0} to be deleted but it wasn't", budget.namespace());
                self.recorder.event(&object_reference(&**pod), EventType::Warning, "NotDeleted", message);
            }
        }
    }

    async fn budget(&self, key: &ObjectKey) -> Step {
        let Some(budget) = self.budgets.get_key(key).filter(|b| !b.is_deleting()) else { return Ok(None) };
        let pods = self.members.of(key);
        let now = client::timestamp();
        let about = object_reference(&*budget);
        if pods.is_empty() {
            self.recorder.event(&about, EventType::Normal, "NoPods", "No matching pods found");
        }
        let mut status = budget.status.clone().unwrap_or_default();
        let again = match self.demand(&budget, &pods).await {
            Ok((expected, desired)) => {
                self.tell_unmanaged(&budget, &pods);
                self.tell_undeleted(&budget, &pods, now);
                let (next, again) = judge(&budget, &pods, expected, desired, now);
                status = next;
                again
            }
            Err(why) => {
                let message = format!("Failed to calculate the number of expected pods: {why}");
                self.recorder.event(&about, EventType::Warning, "CalculateExpectedPodCountFailed", message);
                fail_safe(&mut status, why, now);
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

/// How long an allowed eviction is still to be seen as a deletion.
fn deletion_in(at: &Time, now: Timestamp) -> Duration {
    between(now, plus(at.0, secs(DELETION_S)))
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
            let left = deletion_in(at, now);
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
    note(&mut status, reason, value, String::new(), now);
    (status, again)
}

/// Nothing is allowed while nothing is known. The rest of the status is of the generation that was reckoned last, and the condition says so
/// (upstream `failSafe`).
fn fail_safe(status: &mut PodDisruptionBudgetStatus, why: String, now: Timestamp) {
    status.disruptions_allowed = Some(0);
    note(status, "SyncFailed", "False", why, now);
}

fn note(status: &mut PodDisruptionBudgetStatus, reason: &str, value: &str, message: String, now: Timestamp) {
    let observed_generation = status.observed_generation.filter(|n| *n != 0);
    let all = status.conditions.get_or_insert_default();
    let mut new = Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message,
        last_transition_time: seconds(now),
        observed_generation,
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
    use crate::fake::{Fake, refusal};

    #[test]
    fn a_target_that_is_not_deleted_is_none_after_two_minutes() {
        let now = client::timestamp();
        let pod = |ago_s: i64, reason: &str, deleting: bool| -> Pod {
            let at = Timestamp::from_second(now.as_second() - ago_s).unwrap_or_default().to_string();
            let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": reason, "lastTransitionTime": at});
            let deletion = if deleting { json!(at) } else { json!(null) };
            serde_json::from_value(json!({"metadata": {"name": "p", "deletionTimestamp": deletion}, "status": {"phase": "Running", "conditions": [condition]}}))
                .unwrap_or_else(|e| panic!("{e}"))
        };
        assert!(stale_in(&pod(30, "EvictionByEvictionAPI", false), now).is_some_and(|left| (88..=91).contains(&left.as_secs())));
        assert_eq!(stale_in(&pod(130, "EvictionByEvictionAPI", false), now), Some(Duration::ZERO));
        assert_eq!(stale_in(&pod(130, "EvictionByEvictionAPI", true), now), None, "it goes");
        assert_eq!(stale_in(&pod(130, BY_KUBELET, false), now), None);
        assert_eq!(stale_in(&Pod::default(), now), None);
    }

    fn budgets(client: Client) -> Budgets {
        Budgets {
            recorder: Recorder::new(client.clone(), "c", ""),
            targets: Targets::new(client.clone()),
            client,
            budgets: Informer::fixed([]),
            pods: Informer::fixed([]),
            members: Members::new(&Informer::fixed([])),
            sets: Informer::fixed([]),
            deployments: Informer::fixed([]),
            stateful: Informer::fixed([]),
            replication: Informer::fixed([]),
        }
    }

    #[tokio::test]
    async fn a_budget_that_says_nothing_lets_nothing_go() {
        let server = Fake::new(|_, _| refusal(404, "NotFound"));
        let pods = [Arc::new(Pod::default()), Arc::new(Pod::default())];
        for (spec, want) in [(json!({"selector": {}}), (0, 0)), (json!({"selector": {}, "minAvailable": 1}), (2, 1))] {
            let budget: PodDisruptionBudget = serde_json::from_value(json!({"spec": spec})).unwrap_or_default();
            assert_eq!(budgets(server.client()).demand(&budget, &pods).await, Ok(want));
        }
    }

    #[test]
    fn budgets_that_are_reckoned_from_controllers() {
        let budget = |spec: serde_json::Value| -> PodDisruptionBudget { serde_json::from_value(json!({"spec": spec})).unwrap_or_default() };
        assert!(needs_controllers(&budget(json!({"maxUnavailable": 1}))) && needs_controllers(&budget(json!({"minAvailable": "50%"}))));
        assert!(!needs_controllers(&budget(json!({"minAvailable": 1}))));
        let written = told(&budget(json!({"selector": {"matchLabels": {"a": "b"}}})));
        assert_eq!(written, "&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{},}");
        let (among, there) = (json!({"key": "k", "operator": "In", "values": ["x", "y"]}), json!({"key": "e", "operator": "Exists"}));
        let written = told(&budget(json!({"selector": {"matchExpressions": [among, there]}})));
        let expressions = "LabelSelectorRequirement{Key:k,Operator:In,Values:[x y],},LabelSelectorRequirement{Key:e,Operator:Exists,Values:[],},";
        let want = format!("&LabelSelector{{MatchLabels:map[string]string{{}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}");
        assert_eq!(written, want);
    }

    /// Pods of other controllers count by the scale of those.
    #[tokio::test]
    async fn a_controller_of_any_kind_is_asked_for_its_scale() {
        let server = Fake::new(|_, path| match path {
            "/api" => (200, json!({"items": []})),
            "/apis" => {
                let scale = json!([{"subresource": "scale", "responseKind": {"kind": "Scale"}}]);
                let row = |plural: &str, kind: &str, subresources: serde_json::Value| json!({"resource": plural, "responseKind": {"kind": kind}, "scope": "Namespaced", "verbs": ["get"], "subresources": subresources});
                let groups = [("e.com", row("rings", "Ring", scale)), ("batch", row("jobs", "Job", json!([])))];
                let item = |(group, row): &(&str, serde_json::Value)| json!({"metadata": {"name": group}, "versions": [{"version": "v1", "resources": [row]}]});
                (200, json!({"items": groups.iter().map(item).collect::<Vec<_>>()}))
            }
            "/apis/e.com/v1/namespaces/n/rings/r/scale" => (200, json!({"metadata": {"name": "r", "uid": "ru"}, "spec": {"replicas": 5}})),
            // Where a name led that is taken for more than a name.
            "/apis/e.com/v1/namespaces/n/rings/" => (200, json!({"metadata": {"name": "r", "uid": "ru"}, "spec": {"replicas": 9}})),
            _ => refusal(404, "NotFound"),
        });
        let budgets = budgets(server.client());
        for (version, kind, name, uid, want) in [
            ("e.com/v1beta1", "Ring", "r", "ru", Ok(5)),
            ("e.com/v1", "Ring", "r", "former", Err("found no controllers for pod \"p\"")),
            ("e.com/v1", "Ring", "gone", "ru", Err("found no controllers for pod \"p\"")),
            ("e.com/v1", "Ring", "?watch=1&x=", "ru", Err("found no controllers for pod \"p\"")),
            ("batch/v1", "Job", "j", "ju", Err("jobs.batch does not implement the scale subresource")),
            ("x.com/v1", "Thing", "t", "tu", Err("no matches for kind \"Thing\" in version \"x.com/v1\"")),
        ] {
            let owner = json!([{"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": true}]);
            let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "ownerReferences": owner}})).unwrap_or_default();
            assert_eq!(budgets.expected(&[Arc::new(pod)]).await, want.map_err(str::to_owned), "{kind} {name} {uid}");
        }
    }

    #[test]
    fn what_cannot_be_reckoned_is_told_of_the_generation_before() {
        let (now, mut status) = (client::timestamp(), PodDisruptionBudgetStatus::default());
        let told = |status: &PodDisruptionBudgetStatus| {
            let condition = status.conditions.iter().flatten().next().cloned().unwrap_or_else(|| panic!("no condition"));
            (condition.reason, condition.message, condition.observed_generation)
        };
        fail_safe(&mut status, "why".to_owned(), now);
        assert_eq!((status.disruptions_allowed, told(&status)), (Some(0), ("SyncFailed".to_owned(), "why".to_owned(), None)), "nothing was reckoned yet");
        let budget: PodDisruptionBudget = serde_json::from_value(json!({"metadata": {"generation": 3}})).unwrap_or_default();
        let (mut status, _) = judge(&budget, &[], 0, 0, now);
        assert_eq!(told(&status).2, Some(3));
        fail_safe(&mut status, "why".to_owned(), now);
        assert_eq!(told(&status).2, Some(3));
    }

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
