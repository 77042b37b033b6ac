//! Pods on a node that is short of something, with time paused.

use std::fs;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::lives::Node;
use super::tests::pod;
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
        // No hard ones: the test's disk may be full.
        eviction_hard: vec![String::new()],
        eviction_soft: vec!["memory.available<1000Ti".into()],
        eviction_soft_grace_period: vec!["memory.available=1s".into()],
        pod_manifest_path: Some(manifest),
        ..Options::default()
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
