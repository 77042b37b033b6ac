//! Since when nobody uses a claim (KEP 5541; upstream `pvc_protection_controller.go`): the condition `Unused` of a bound claim is true while
//! no pod that has not ended names it, and its transition time says since when.
//!
//! It is told from memory: pods and claims come by different watches, so it may be told a moment too early, and is put right when
//! the pod is heard of. (The original lists a namespace's pods before it tells; whether a claim may go, which cannot be put right, is
//! still asked of the server: `protection.rs`.) Somebody who changes the condition is heard, and corrected.

use std::sync::Arc;

use client::storage::claim_phase;
use client::{Client, Delta, Informer, Meta, ObjectKey};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimCondition, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{claim_names, index_claims, is_through, pods_of};
use crate::work::{Controller, Cx, Step, itself};

const UNUSED: &str = "Unused";
const WORKERS: usize = 2;

/// Runs the controller until the end, as the one that protects claims.
pub(crate) async fn run(cx: Cx) {
    let client = cx.client("pvc-protection-controller");
    let controller = Arc::new(Watcher { client, claims: cx.informers.informer(), pods: cx.informers.informer() });
    index_claims(&controller.pods);
    cx.setup(&controller)
        .on(&controller.claims, itself)
        .on(&controller.pods, |_: &Watcher, queue, change| {
            if let Delta::Updated { old, new } = change
                && is_through(old) == is_through(new)
            {
                return;
            }
            let pod = change.object();
            claim_names(pod).for_each(|name| queue.add(ObjectKey::new(pod.namespace(), &name)));
        })
        .work(WORKERS)
        .await;
}

struct Watcher {
    client: Client,
    claims: Informer<PersistentVolumeClaim>,
    pods: Informer<Pod>,
}

/// Whether a pod needs a claim: by name, or as the one that was made for a volume of its own.
fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    !is_through(pod)
        && pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).any(|volume| {
            let named = volume.persistent_volume_claim.as_ref().is_some_and(|source| source.claim_name == claim.name());
            named || volume.ephemeral.is_some() && client::own_claim(pod, &volume.name) == claim.name() && claim.is_controlled_by(pod.uid())
        })
}

/// The claim as it says whether it is used; none if it does, or is not bound, or is to go.
fn told(claim: &PersistentVolumeClaim, used: bool, now: Time) -> Option<PersistentVolumeClaim> {
    if claim_phase(claim) != "Bound" || claim.is_deleting() {
        return None;
    }
    let mut next = claim.clone();
    let conditions = next.status.get_or_insert_default().conditions.get_or_insert_default();
    let present = conditions.iter_mut().find(|c| c.type_ == UNUSED);
    let says_unused = present.as_ref().map(|c| c.status == "True");
    if says_unused == Some(!used) {
        return None;
    }
    let (status, reason, message) = match used {
        true => ("False", "PodUsingPVC", "A pod is currently referencing this PVC"),
        false => ("True", "NoPodsUsingPVC", "No pods are currently referencing this PVC"),
    };
    let condition = PersistentVolumeClaimCondition {
        type_: UNUSED.to_owned(),
        status: status.to_owned(),
        last_transition_time: Some(now),
        last_probe_time: None,
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
    };
    match present {
        Some(present) => *present = condition,
        None => conditions.push(condition),
    }
    Some(next)
}

impl Controller for Watcher {
    const QUEUE: &'static str = "knarr_unused_claims";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Step {
        let Some(claim) = self.claims.get_key(key) else { return Ok(None) };
        let used = pods_of(&self.pods, key).iter().any(|pod| uses(pod, &claim));
        let Some(next) = told(&claim, used, client::now()) else { return Ok(None) };
        match self.client.namespaced::<PersistentVolumeClaim>(&key.namespace).replace_status(&key.name, &next).await {
            Err(error) if error.is_not_found() => Ok(None),
            other => other.map(|_| None),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(phase: &str, unused: Option<&str>) -> PersistentVolumeClaim {
        let conditions: Vec<Value> = unused.into_iter().map(|status| json!({"type": "Unused", "status": status, "reason": "old"})).collect();
        client::typed(&json!({"metadata": {"namespace": "n", "name": "c"}, "status": {"phase": phase, "conditions": conditions}})).expect("a claim")
    }

    #[test]
    fn a_bound_claim_says_since_when_nobody_uses_it() {
        let after = |phase: &str, unused: Option<&str>, used: bool| {
            let next = told(&claim(phase, unused), used, client::now())?;
            let condition = next.status?.conditions?.pop()?;
            condition.last_transition_time?;
            Some((condition.status, condition.reason?, condition.message?))
        };
        let owned = |words: (&str, &str, &str)| Some((words.0.to_owned(), words.1.to_owned(), words.2.to_owned()));
        let unused = owned(("True", "NoPodsUsingPVC", "No pods are currently referencing this PVC"));
        let used = owned(("False", "PodUsingPVC", "A pod is currently referencing this PVC"));
        assert_eq!(
            (after("Bound", None, false), after("Bound", Some("False"), false), after("Bound", Some("True"), false)),
            (unused.clone(), unused.clone(), None)
        );
        assert_eq!((after("Bound", None, true), after("Bound", Some("True"), true), after("Bound", Some("False"), true)), (used.clone(), used, None));
        assert_eq!((after("Pending", None, false), after("Lost", None, false)), (None, None));
        assert_eq!(after("Bound", Some("True"), false), None, "the time stays");
        assert_eq!(after("Bound", Some("False"), false), unused);
    }

    #[test]
    fn a_pod_uses_a_claim_until_it_has_ended() {
        let pod = |with: Value| {
            let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
            let mut pod = json!({"metadata": {"namespace": "n", "name": "p", "uid": "P"}, "spec": {"containers": [], "volumes": volumes}});
            machinery::patch::merge(&mut pod, &with);
            client::typed::<Pod>(&pod).expect("a pod")
        };
        let state = |state: Value| json!({"status": {"containerStatuses": [{"name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]}});
        let going = |with: Value| {
            let mut all = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
            machinery::patch::merge(&mut all, &with);
            all
        };
        let used = |with: Value| uses(&pod(with), &claim("Bound", None));
        assert!(used(json!({})), "also before it has a node");
        assert!(!used(json!({"status": {"phase": "Succeeded"}})) && !used(json!({"status": {"phase": "Failed"}})));
        assert!(used(going(state(json!({"running": {}})))), "it is to go, but runs");
        assert!(!used(going(state(json!({"terminated": {"exitCode": 0}})))) && !used(going(state(json!({"waiting": {}})))) && !used(going(json!({}))));
        let own = json!({"spec": {"volumes": [{"name": "x", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}]}});
        let mut of_pod = claim("Bound", None);
        of_pod.metadata.name = Some("p-x".to_owned());
        assert!(!uses(&pod(own.clone()), &of_pod), "somebody else's claim of that name");
        of_pod.metadata.owner_references = Some(vec![crate::claim::owner_reference(&pod(json!({})))]);
        assert!(uses(&pod(own), &of_pod));
    }
}
