//! Pods on a node that is short of something, with time paused.

use std::fs;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::lives::{Node, roomy};
use super::manager::Pods;
use super::tests::pod;
use crate::cri::PodUid;
use crate::settings::Options;
use crate::testing::{FakeRuntime, TempDir, clock};

fn reason(p: &Pod) -> Option<&str> {
    p.status.as_ref()?.reason.as_deref()
}

#[tokio::test(start_paused = true)]
async fn a_short_node_lets_in_who_asked_for_something_and_evicts_one_after_the_other() {
    let (clock, dir) = (clock(), TempDir::new("short"));
    let manifest = dir.path().join("web.yaml");
    fs::write(&manifest, "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: \"img:1\"}]}\n").unwrap();
    // A soft one: of what a hard one keeps free nobody could ask for anything.
    let options = Options {
        eviction_soft: vec!["memory.available<1000Ti".into()],
        eviction_soft_grace_period: vec!["memory.available=1s".into()],
        pod_manifest_path: Some(manifest),
        ..roomy()
    };
    let settings = options.check().unwrap();
    let node = Node::start_with(Arc::new(FakeRuntime::new(clock.clone())), clock, dir, move |config| config.settings = settings);
    node.runtime.called("start c", 1).await;
    let asks = json!({"containers": [{"name": "a", "image": "img:1", "resources": {"requests": {"memory": "1Mi"}}}]});
    node.apply(&pod(asks));
    let evicted = node.until("evicted", |p| reason(p) == Some("Evicted")).await;
    let status = evicted.status.unwrap();
    let message = status.message.unwrap();
    assert!(message.starts_with("The node was low on resource: memory. Threshold quantity: 1000Ti, available: "), "{message}");
    let condition = status.conditions.unwrap().into_iter().find(|c| c.type_ == "DisruptionTarget").unwrap();
    assert_eq!((condition.reason.as_deref(), condition.message), (Some("TerminationByKubelet"), Some(message)));
    // Who asked for nothing is not even let in; and what the node itself runs stays.
    let mut best = pod(json!({"containers": [{"name": "b", "image": "img:1"}]}));
    best.metadata.uid = Some("best".into());
    node.apply(&best);
    let refused = node.until("refused", |p| p.metadata.uid.as_deref() == Some("best") && reason(p) == Some("Evicted")).await;
    assert_eq!(refused.status.unwrap().message.as_deref(), Some("Pod was rejected: The node had condition: [MemoryPressure]. "));
    let calls = node.runtime.calls();
    assert!(calls.iter().any(|c| c.starts_with("stop a")) && !calls.iter().any(|c| c.starts_with("stop c")), "{calls:?}");
    node.end().await;
}

#[test]
fn who_is_not_let_in_takes_nothing_of_the_node() {
    let (pods, nobody) = (Pods::default(), PodUid(String::new()));
    let handle = Arc::new(super::Handle::new(Arc::new(pod(json!({"containers": []})))));
    pods.insert(&handle);
    assert_eq!(pods.others(&nobody).len(), 1);
    // Its status does not tell so yet.
    handle.refuse();
    assert!(pods.others(&nobody).is_empty());
}

#[tokio::test(start_paused = true)]
async fn of_critical_pods_that_come_at_once_each_has_room_made() {
    let (clock, dir) = (clock(), TempDir::new("crowd"));
    let node = Node::start_with(Arc::new(FakeRuntime::new(clock.clone())), clock, dir, |config| config.max_pods = 2);
    let apply = |name: &str, priority: i32| {
        let mut p = pod(json!({"priority": priority, "containers": [{"name": name, "image": "img:1"}], "terminationGracePeriodSeconds": 1}));
        p.metadata.name = Some(name.to_owned());
        p.metadata.uid = Some(name.to_owned());
        node.apply(&p);
    };
    for name in ["a", "b"] {
        apply(name, 0);
        node.runtime.called(&format!("start {name}"), 1).await;
    }
    apply("c", 2_000_000_000);
    apply("d", 2_000_000_000);
    node.runtime.called("start c", 1).await;
    node.runtime.called("start d", 1).await;
    node.end().await;
}
