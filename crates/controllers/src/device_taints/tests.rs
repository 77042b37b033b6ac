use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::fake::Fake;

/// A pod on a node with a claim `c` that is reserved for it.
fn pod() -> Pod {
    let meta = json!({"namespace": "n", "name": "p", "uid": "P"});
    let spec = json!({"containers": [], "nodeName": "node", "resourceClaims": [{"name": "c", "resourceClaimName": "c"}]});
    client::typed(&json!({"metadata": meta, "spec": spec})).expect("a pod")
}

fn claim(tolerations: Value) -> ResourceClaim {
    let result = json!({"request": "r", "driver": "d.io", "pool": "pool", "device": "one", "tolerations": tolerations});
    let status = json!({"allocation": {"devices": {"results": [result]}}, "reservedFor": [{"resource": "pods", "name": "p", "uid": "P"}]});
    client::typed(&json!({"metadata": {"namespace": "n", "name": "c"}, "spec": {}, "status": status})).expect("a claim")
}

fn slice(generation: i64, taints: Value) -> ResourceSlice {
    let pool = json!({"name": "pool", "generation": generation, "resourceSliceCount": 1});
    let spec = json!({"driver": "d.io", "nodeName": "node", "pool": pool, "devices": [{"name": "one", "taints": taints}, {"name": "two"}]});
    client::typed(&json!({"metadata": {"name": format!("s{generation}")}, "spec": spec})).expect("a slice")
}

fn taint(effect: &str, ago: Duration) -> Value {
    let added = client::timestamp().checked_sub(ago).expect("a time");
    json!({"key": "sick", "effect": effect, "timeAdded": k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(added)})
}

fn rule(effect: &str) -> DeviceTaintRule {
    let spec = json!({"deviceSelector": {"driver": "d.io"}, "taint": taint(effect, Duration::from_secs(5))});
    client::typed(&json!({"metadata": {"name": "r", "uid": "R", "generation": 1}, "spec": spec})).expect("a rule")
}

fn made(claim: ResourceClaim, slices: Vec<ResourceSlice>, rules: Vec<DeviceTaintRule>) -> (Taints, impl Fn() -> Vec<String>) {
    let fake = Fake::new(move |_, path: &str| match path {
        path if path.ends_with("/events") => (201, json!({"kind": "Event", "apiVersion": "v1", "metadata": {"name": "e"}})),
        path if path.contains("taintrules") => (
            200,
            json!({"kind": "DeviceTaintRule", "apiVersion": "resource.k8s.io/v1", "metadata": {"name": "r"}, "spec": {"taint": {"key": "k", "effect": "None"}}}),
        ),
        _ => (200, json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"namespace": "n", "name": "p", "uid": "P"}})),
    });
    let client = fake.client();
    let taints = Taints {
        recorder: Recorder::new(client.clone(), NAME, ""),
        client,
        queue: WorkQueue::default(),
        pods: Informer::fixed([pod()]),
        claims: Informer::fixed([claim]),
        slices: Informer::fixed(slices),
        rules: Informer::fixed(rules),
        due: Mutex::default(),
        evicted: Mutex::default(),
        deletions: Arc::default(),
        latency: Arc::new(Histogram::new(&LATENCY_S)),
    };
    taints.index();
    let written = move || fake.written().into_iter().filter(|w| !w.contains("/events ")).collect();
    (taints, written)
}

fn the_pod() -> Key {
    Key::Pod(ObjectKey::new("n", "p"))
}

#[tokio::test]
async fn a_pod_with_a_device_that_is_tainted_goes() {
    let sick = || json!([taint("NoExecute", Duration::from_secs(3))]);
    let (taints, written) = made(claim(json!([])), vec![slice(1, sick())], vec![]);
    assert_eq!(taints.reconcile(&the_pod()).await.expect("gone"), None);
    let writes = written();
    assert!(writes[0].starts_with("PATCH /api/v1/namespaces/n/pods/p/status") && writes[0].contains("DeletionByDeviceTaintManager"), "{writes:?}");
    assert!(writes[1].starts_with("DELETE /api/v1/namespaces/n/pods/p ") && writes[1].contains(r#""uid":"P""#), "{writes:?}");
    for (slices, tolerations) in [
        // Another effect, a newer generation, borne for good.
        (vec![slice(1, json!([taint("NoSchedule", Duration::ZERO)]))], json!([])),
        (vec![slice(1, sick()), slice(2, json!([]))], json!([])),
        (vec![slice(1, sick())], json!([{"key": "sick", "operator": "Exists", "effect": "NoExecute"}])),
    ] {
        let (taints, written) = made(claim(tolerations), slices, vec![]);
        taints.due.lock().insert("P".to_owned());
        assert_eq!(taints.reconcile(&the_pod()).await.expect("it stays"), None);
        assert!(written().is_empty() && taints.due.lock().is_empty());
    }
}

#[tokio::test]
async fn what_is_borne_for_a_time_counts_from_the_taint() {
    let borne = |seconds: i64| json!([{"key": "sick", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}]);
    let sick = json!([taint("NoExecute", Duration::from_secs(30))]);
    let (taints, written) = made(claim(borne(3600)), vec![slice(1, sick.clone())], vec![]);
    let left = taints.reconcile(&the_pod()).await.expect("a time").expect("some");
    assert!(left > Duration::from_secs(3000) && left <= Duration::from_secs(3571), "{left:?}");
    assert!(written().is_empty());
    let (taints, written) = made(claim(borne(20)), vec![slice(1, sick)], vec![]);
    assert_eq!(taints.reconcile(&the_pod()).await.expect("it is over"), None);
    assert_eq!(written().len(), 2);
}

#[tokio::test]
async fn a_rule_tells_what_it_does() {
    let text = |effect: &str| {
        let (taints, _) = made(claim(json!([])), vec![slice(1, json!([])), slice(0, json!([]))], vec![rule(effect)]);
        let (status, reason, message) = taints.progress(&rule(effect));
        format!("{status} {reason} {message}")
    };
    assert_eq!(text("NoExecute"), "True PodsPendingEviction 1 pod needs to be evicted in 1 namespace.");
    assert_eq!(text("NoSchedule"), "False OtherEffect Eviction only happens for the NoExecute effect.");
    assert_eq!(
        text("None"),
        "False NoEffect 2 published devices selected. 1 allocated device selected. 1 pod would be evicted in 1 namespace if the effect was \
         NoExecute. This information will not be updated again. Recreate the DeviceTaintRule to trigger an update."
    );
    let (taints, written) = made(claim(json!([])), vec![], vec![rule("NoExecute")]);
    taints.reconcile(&the_pod()).await.expect("it goes");
    assert_eq!(taints.evicted.lock().get("R"), Some(&1));
    taints.evicted.lock().insert("R".to_owned(), 2);
    let (_, reason, message) = taints.progress(&rule("NoExecute"));
    assert_eq!((reason, message.as_str()), ("PodsPendingEviction", "1 pod needs to be evicted in 1 namespace. 2 pods evicted since starting the controller."));
    taints.reconcile(&Key::Rule("r".to_owned())).await.expect("told");
    let told = written().pop().expect("a status");
    assert!(told.starts_with("PATCH /apis/resource.k8s.io/v1/devicetaintrules/r/status") && told.contains("EvictionInProgress"), "{told}");
}
