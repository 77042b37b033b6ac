use serde_json::{Value, json};

use super::*;
use crate::fake::Fake;

fn pod(uid: &str, node: &str, status: Value) -> Pod {
    let claims = json!([{"name": "gpu", "resourceClaimTemplateName": "t"}, {"name": "shared", "resourceClaimName": "shared"}]);
    let meta = json!({"namespace": "n", "name": "web", "uid": uid});
    client::typed(&json!({"metadata": meta, "spec": {"containers": [], "nodeName": node, "resourceClaims": claims}, "status": status})).expect("a pod")
}

fn knows(claim: &str) -> Value {
    json!({"resourceClaimStatuses": [{"name": "gpu", "resourceClaimName": claim}]})
}

fn template() -> ResourceClaimTemplate {
    let spec = json!({"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}}, "spec": {"devices": {"requests": [{"name": "r"}]}}});
    client::typed(&json!({"metadata": {"namespace": "n", "name": "t"}, "spec": spec})).expect("a template")
}

/// A claim: of this pod, or nobody's; in this state.
fn claim(name: &str, pod: Option<&str>, status: Value) -> ResourceClaim {
    let owners: Vec<Value> = pod.map(|uid| json!({"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": uid, "controller": true})).into_iter().collect();
    let allocated = status["allocation"].is_object();
    let meta = json!({
        "namespace": "n", "name": name, "uid": name, "resourceVersion": "3", "ownerReferences": owners,
        "annotations": {devices::POD_CLAIM: "gpu"}, "finalizers": if allocated { json!([devices::FINALIZER]) } else { json!([]) },
    });
    client::typed(&json!({"metadata": meta, "spec": {}, "status": status})).expect("a claim")
}

fn allocated(pods: &[(&str, &str)]) -> Value {
    let reserved: Vec<Value> = pods.iter().map(|(name, uid)| json!({"resource": "pods", "name": name, "uid": uid})).collect();
    json!({"allocation": {"devices": {"results": []}}, "reservedFor": reserved})
}

/// A controller, and what it writes. The server answers as `live` says, and takes writes.
fn made(pods: Vec<Pod>, claims: Vec<ResourceClaim>, live: Option<Value>) -> (Arc<Claims>, impl Fn() -> Vec<(String, Value)>) {
    let fake = Fake::new(move |method, path: &str| match (method, &live) {
        ("GET", None) => crate::fake::refusal(404, "NotFound"),
        ("GET", Some(live)) => (200, live.clone()),
        _ if path.ends_with("/events") => (201, json!({"kind": "Event", "apiVersion": "v1", "metadata": {"name": "e"}})),
        _ if path.contains("/pods") => (200, json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "web"}})),
        ("PUT", _) => {
            let meta = json!({"namespace": "n", "name": "c", "resourceVersion": "4", "finalizers": [devices::FINALIZER]});
            (200, json!({"kind": "ResourceClaim", "apiVersion": "resource.k8s.io/v1", "metadata": meta, "spec": {}}))
        }
        _ => (
            201,
            json!({"kind": "ResourceClaim", "apiVersion": "resource.k8s.io/v1", "metadata": {"namespace": "n", "name": "web-gpu-x", "annotations": {"resource.kubernetes.io/pod-claim-name": "gpu"}}, "spec": {}}),
        ),
    });
    let client = fake.client();
    let controller = Claims {
        recorder: Recorder::new(client.clone(), "resource_claim", ""),
        client,
        pods: Informer::fixed(pods),
        claims: Informer::fixed(claims),
        templates: Informer::fixed([template()]),
        gone: Mutex::default(),
        made: Mutex::default(),
        created: Created::new(&instruments::Registry::default()),
    };
    controller.index();
    let written = move || {
        let writes = fake.written().into_iter().filter(|w| !w.contains("/events "));
        writes
            .map(|w| {
                let mut parts = w.splitn(3, ' ');
                let what = format!("{} {}", parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
                (what, parts.next().and_then(|body| serde_json::from_str(body).ok()).unwrap_or_default())
            })
            .collect()
    };
    (Arc::new(controller), written)
}

fn web() -> Key {
    Key::Pod(ObjectKey::new("n", "web"))
}

fn of(name: &str) -> Key {
    Key::Claim(ObjectKey::new("n", name))
}

const CLAIMS: &str = "/apis/resource.k8s.io/v1/namespaces/n/resourceclaims";

#[tokio::test]
async fn a_pod_gets_one_claim_of_its_template_and_its_name() {
    let (controller, written) = made(vec![pod("P", "", json!({}))], vec![], None);
    controller.reconcile(&web()).await.expect("a claim");
    let writes = written();
    assert_eq!(
        writes.iter().map(|(what, _)| what.as_str()).collect::<Vec<_>>(),
        [format!("POST {CLAIMS}").as_str(), "PATCH /api/v1/namespaces/n/pods/web/status"]
    );
    let meta = &writes[0].1["metadata"];
    assert_eq!((&meta["generateName"], &meta["labels"]), (&json!("web-gpu-"), &json!({"a": "b"})));
    assert_eq!(meta["annotations"], json!({"c": "d", devices::POD_CLAIM: "gpu"}));
    assert_eq!(meta["ownerReferences"], json!([{"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "P", "controller": true}]));
    assert_eq!(writes[1].1["status"], knows("web-gpu-x"));
    // Memory knows neither of them yet: the pod gets no second one.
    controller.reconcile(&web()).await.expect("its name again");
    assert_eq!(written().iter().filter(|(what, _)| what.starts_with("POST")).count(), 1);
}

#[tokio::test]
async fn a_claim_that_is_there_is_not_made_again() {
    let (controller, written) = made(vec![pod("P", "", knows("web-gpu-1"))], vec![claim("web-gpu-1", Some("P"), json!({}))], None);
    controller.reconcile(&web()).await.expect("nothing");
    assert!(written().is_empty(), "{:?}", written());
    // Made before a restart: it is found by its owner.
    let (controller, written) = made(vec![pod("P", "", json!({}))], vec![claim("web-gpu-1", Some("P"), json!({}))], None);
    controller.reconcile(&web()).await.expect("its name");
    assert_eq!((written().len(), &written()[0].1["status"]), (1, &knows("web-gpu-1")));
    // Deleted by somebody, or another pod's: a new one.
    for claims in [vec![], vec![claim("web-gpu-1", Some("Q"), json!({}))]] {
        let (controller, written) = made(vec![pod("P", "", knows("web-gpu-1"))], claims, None);
        controller.reconcile(&web()).await.expect("a new one");
        assert_eq!(written()[1].1["status"], knows("web-gpu-x"));
    }
}

#[tokio::test]
async fn a_pod_that_was_placed_by_hand_has_its_claims_reserved() {
    let claims = || vec![claim("web-gpu-1", Some("P"), allocated(&[])), claim("shared", None, allocated(&[("other", "O")]))];
    let (controller, written) = made(vec![pod("P", "node", knows("web-gpu-1"))], claims(), None);
    controller.reconcile(&web()).await.expect("reserved");
    let reserved: Vec<_> = written().into_iter().map(|(what, body)| (what, body["status"]["reservedFor"].as_array().map(Vec::len))).collect();
    assert_eq!(reserved, [(format!("PUT {CLAIMS}/web-gpu-1/status"), Some(1)), (format!("PUT {CLAIMS}/shared/status"), Some(2))]);
    let (controller, written) = made(vec![pod("P", "", knows("web-gpu-1"))], claims(), None);
    controller.reconcile(&web()).await.expect("the scheduler's affair");
    assert!(written().is_empty(), "{:?}", written());
}

#[tokio::test]
async fn a_claim_has_no_more_users_than_it_may() {
    for (users, writes) in [(make::USERS_MAX - 1, 1), (make::USERS_MAX, 0)] {
        let names: Vec<String> = (0..users).map(|n| format!("p{n}")).collect();
        let reserved: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), name.as_str())).collect();
        let claims = vec![claim("own", Some("P"), allocated(&[("web", "P")])), claim("shared", None, allocated(&reserved))];
        let (claims, written) = made(vec![pod("P", "node", knows("own"))], claims, None);
        claims.reconcile(&web()).await.expect("a step");
        assert_eq!(written().len(), writes, "{users}");
    }
}

#[tokio::test]
async fn reservations_end_with_their_pods_and_the_last_gives_the_devices_back() {
    let status = || allocated(&[("web", "P"), ("old", "O")]);
    let live = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"namespace": "n", "name": "old", "uid": "O"}});
    // Both may be there: one is in memory, the other only at the server.
    let (controller, written) = made(vec![pod("P", "node", json!({}))], vec![claim("shared", None, status())], Some(live.clone()));
    controller.reconcile(&of("shared")).await.expect("nothing");
    assert!(written().is_empty(), "{:?}", written());
    // The memory has an older pod of the name yet, the server the one that has it reserved.
    let newer = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"namespace": "n", "name": "web", "uid": "N"}});
    let claims = vec![claim("shared", None, allocated(&[("web", "N")]))];
    let (behind, written_behind) = made(vec![pod("P", "node", json!({}))], claims, Some(newer));
    behind.reconcile(&of("shared")).await.expect("nothing");
    assert!(written_behind().is_empty(), "{:?}", written_behind());
    // One is gone.
    controller.gone.lock().add("O");
    controller.reconcile(&of("shared")).await.expect("one less");
    assert_eq!(written()[0].1["status"]["reservedFor"], json!([{"resource": "pods", "name": "web", "uid": "P"}]));
    assert!(written()[0].1["status"]["allocation"].is_object());
    // Both are.
    let ended = json!({"phase": "Succeeded"});
    let (controller, written) = made(vec![pod("P", "node", ended)], vec![claim("shared", None, status())], None);
    controller.reconcile(&of("shared")).await.expect("given back");
    let writes = written();
    assert_eq!(writes.iter().map(|(what, _)| what.as_str()).collect::<Vec<_>>(), [format!("PUT {CLAIMS}/shared/status"), format!("PUT {CLAIMS}/c")]);
    assert!(writes[0].1["status"].get("allocation").is_none() && writes[0].1["status"].get("reservedFor").is_none(), "{writes:?}");
    assert_eq!(writes[1].1["metadata"]["finalizers"], json!([]));
    // Somebody else's reservation is nobody's business.
    let foreign = json!({"reservedFor": [{"apiGroup": "x.io", "resource": "things", "name": "t", "uid": "T"}]});
    let (controller, written) = made(vec![], vec![claim("shared", None, foreign)], None);
    controller.reconcile(&of("shared")).await.expect("nothing");
    assert!(written().is_empty(), "{:?}", written());
}

#[tokio::test]
async fn a_claim_that_is_deleted_and_unused_gives_its_devices_back() {
    for (status, writes) in [
        (allocated(&[]), vec![format!("PUT {CLAIMS}/shared/status"), format!("PUT {CLAIMS}/c")]),
        // Only the finalizer was left on.
        (json!({}), vec![format!("PUT {CLAIMS}/shared")]),
    ] {
        let mut deleted = claim("shared", None, status);
        deleted.metadata.finalizers = Some(vec![devices::FINALIZER.to_owned()]);
        let kept = deleted.clone();
        deleted.metadata.deletion_timestamp = Some(client::now());
        let (controller, written) = made(vec![], vec![deleted], None);
        controller.reconcile(&of("shared")).await.expect("given back");
        assert_eq!(written().into_iter().map(|(what, _)| what).collect::<Vec<_>>(), writes);
        // One that is not deleted keeps them for the next pod.
        let (controller, written) = made(vec![], vec![kept], None);
        controller.reconcile(&of("shared")).await.expect("nothing");
        assert!(written().is_empty(), "{:?}", written());
    }
}

#[tokio::test]
async fn what_was_made_for_a_pod_goes_when_the_pod_is_done() {
    for (pods, deleted) in [
        (vec![pod("P", "node", json!({"phase": "Failed"}))], true),
        (vec![pod("Q", "node", json!({}))], true),
        (vec![pod("P", "node", json!({"phase": "Running"}))], false),
        // The garbage collector's.
        (vec![], false),
    ] {
        let (controller, written) = made(pods, vec![claim("web-gpu-1", Some("P"), json!({}))], None);
        controller.reconcile(&of("web-gpu-1")).await.expect("a look");
        assert_eq!(written().iter().any(|(what, _)| *what == format!("DELETE {CLAIMS}/web-gpu-1")), deleted);
    }
}

#[test]
fn long_names_lose_their_shares_and_few_pods_are_remembered() {
    assert_eq!(make::base("web", "gpu"), "web-gpu-");
    let name = make::base(&"p".repeat(60), &"c".repeat(60));
    assert_eq!(name, format!("{}-{}", "p".repeat(28), "c".repeat(28)));
    let mut gone = Gone::default();
    (0..GONE_MAX + 5).for_each(|n| gone.add(&n.to_string()));
    assert_eq!((gone.uids.len(), gone.uids.contains("4"), gone.uids.contains("5")), (GONE_MAX, false, true));
}

#[tokio::test]
async fn a_pod_that_is_done_gets_nothing() {
    let mut status = knows("web-gpu-1");
    status["phase"] = json!("Succeeded");
    let (controller, written) = made(vec![pod("P", "node", status)], vec![claim("shared", None, allocated(&[("other", "O")]))], None);
    controller.reconcile(&web()).await.expect("nothing");
    assert!(written().is_empty(), "{:?}", written());
}
