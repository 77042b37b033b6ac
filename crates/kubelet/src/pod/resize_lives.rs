//! Resources that change while a pod lives, on a runtime in memory, with time paused.

use std::sync::atomic::Ordering;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use serde_json::{Value, json};

use super::lives::{Node, a_while, is_ready};
use super::tests::pod;
use crate::PodChange;

/// A pod whose container has these resources.
fn asks(resources: &Value) -> Pod {
    pod(json!({"containers": [{"name": "a", "image": "img:1", "resources": resources}]}))
}

/// A node where this pod is ready, and what is told of it.
async fn up(name: &str, pod: &Pod) -> (Node, Option<PodStatus>) {
    let node = Node::fresh(name);
    node.apply(pod);
    node.changes.send(PodChange::Synced).unwrap();
    let status = node.until("ready", is_ready).await.status;
    (node, status)
}

/// What is told of the pod's first container.
fn first(p: &Pod) -> Option<ContainerStatus> {
    p.status.as_ref()?.container_statuses.as_ref()?.first().cloned()
}

/// The Events of changes of resources.
fn reasons(node: &Node) -> Vec<String> {
    node.api.reasons().into_iter().filter(|r| r.starts_with("Resize")).collect()
}

#[tokio::test(start_paused = true)]
async fn resources_change_in_place() {
    let with = |cpu: &str| asks(&json!({"requests": {"cpu": cpu}}));
    let (node, status) = up("resize", &with("100m")).await;
    node.apply(&Pod { status, ..with("200m") });
    node.runtime.called("update a 204", 1).await;
    let has = |p: &Pod| first(p)?.allocated_resources?.remove("cpu").map(|q| q.0);
    let status = node.until("resized", |p| has(p).as_deref() == Some("200m")).await.status;
    node.apply(&Pod { status, ..with("9000") });
    let p = node.until("pending", |p| p.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.type_ == "PodResizePending")).await;
    assert_eq!(has(&p).as_deref(), Some("200m"));
    let events: Vec<_> = node.api.events().into_iter().filter(|(reason, _)| reason.starts_with("Resize")).collect();
    let reasons: Vec<&str> = events.iter().map(|(reason, _)| reason.as_str()).collect();
    assert_eq!(reasons, ["ResizeStarted", "ResizeCompleted", "ResizeInfeasible"], "each once");
    assert_eq!(events[0].1, r#"Pod resize started: {"containers":[{"name":"a","resources":{"requests":{"cpu":"200m"}}}],"generation":0}"#);
    assert!(events[2].1.starts_with("Pod resize Infeasible: {") && events[2].1.contains(r#""error":"Node didn't have enough capacity"#), "{}", events[2].1);
    // Who ends meanwhile runs again with what he had.
    node.runtime.exit("a", 1);
    let again = |p: &Pod| first(p).is_some_and(|c| c.restart_count == 1 && c.ready);
    let p = node.until("running again", again).await;
    assert_eq!(has(&p).as_deref(), Some("200m"));
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_for_is_judged_when_all_pods_are_known() {
    let with = |cpu: &str| asks(&json!({"requests": {"cpu": cpu}}));
    let node = Node::fresh("resize-known");
    node.apply(&with("100m"));
    let status = node.until("ready", is_ready).await.status;
    node.apply(&Pod { status, ..with("200m") });
    a_while(3).await;
    assert!(reasons(&node).is_empty(), "another pod may have taken it");
    node.changes.send(PodChange::Synced).unwrap();
    node.runtime.called("update a 204", 1).await;
    a_while(1).await;
    assert_eq!(reasons(&node), ["ResizeStarted", "ResizeCompleted"]);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn resources_of_who_waits_to_run_again_are_judged_and_the_pod_gets_them() {
    let with = |cpu: &str| asks(&json!({"requests": {"cpu": cpu}}));
    let runs = |p: &Pod, times: i32| is_ready(p) && first(p).is_some_and(|c| c.restart_count == times);
    let has = |p: &Pod| first(p)?.allocated_resources?.remove("cpu").map(|q| q.0);
    let (node, _) = up("resize-ended", &with("100m")).await;
    node.runtime.exit("a", 1);
    node.until("running again", |p| runs(p, 1)).await;
    node.runtime.exit("a", 1);
    let status = node.until("waiting", |p| !is_ready(p)).await.status;
    node.apply(&Pod { status, ..with("9000") });
    let p = node.until("running a third time", |p| runs(p, 2)).await;
    assert_eq!(has(&p).as_deref(), Some("100m"));
    node.runtime.exit("a", 1);
    let status = node.until("waiting again", |p| !is_ready(p)).await.status;
    node.apply(&Pod { status, ..with("300m") });
    node.until("running with more", |p| runs(p, 3) && has(p).as_deref() == Some("300m")).await;
    a_while(1).await;
    assert_eq!(reasons(&node), ["ResizeInfeasible", "ResizeStarted", "ResizeCompleted"]);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_container_that_is_started_anew_for_its_resources_has_them_before_the_change_is_told_complete() {
    let with = |memory: &str| {
        let policy = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
        pod(json!({"containers": [{"name": "a", "image": "img:1", "resizePolicy": policy, "resources": {"limits": {"memory": memory}}}]}))
    };
    let (node, status) = up("anew", &with("64Mi")).await;
    node.runtime.full.store(true, Ordering::Relaxed);
    node.apply(&Pod { status, ..with("96Mi") });
    node.until("killed", |p| first(p).and_then(|s| s.state).is_some_and(|s| s.running.is_none())).await;
    a_while(3).await;
    assert_eq!(reasons(&node), ["ResizeStarted"], "it does not run with them yet");
    node.runtime.full.store(false, Ordering::Relaxed);
    let has = |p: &Pod| first(p)?.resources?.limits?.remove("memory").map(|q| q.0);
    let p = node.until("running with them", |p| is_ready(p) && has(p).as_deref() == Some("96Mi")).await;
    assert_eq!(first(&p).map(|s| s.restart_count), Some(1));
    a_while(1).await;
    assert_eq!(reasons(&node), ["ResizeStarted", "ResizeCompleted"]);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn resources_of_the_pod_as_a_whole_change_in_place() {
    let with = |cpu: &str, memory: &str| {
        let resources = json!({"requests": {"cpu": cpu}, "limits": {"memory": memory}});
        pod(json!({"containers": [{"name": "a", "image": "img:1"}], "resources": resources}))
    };
    let has = |p: &Pod| {
        let status = p.status.as_ref()?;
        let all = status.resources.as_ref()?;
        let (granted, limit) = (status.allocated_resources.as_ref()?.get("cpu")?.0.clone(), all.limits.as_ref()?.get("memory")?.0.clone());
        (all.requests.as_ref()?.get("cpu")?.0 == granted).then_some((granted, limit))
    };
    let (node, status) = up("whole", &with("100m", "64Mi")).await;
    let ready = Pod { status, ..with("100m", "64Mi") };
    assert_eq!(has(&ready), Some(("100m".into(), "64Mi".into())));
    let more = Pod { status: ready.status, ..with("300m", "128Mi") };
    node.apply(&more);
    // It has no limit of its own: the pod's is its.
    node.runtime.called("update a 2", 1).await;
    let told = node.until("resized", |p| has(p) == Some(("300m".into(), "128Mi".into()))).await;
    a_while(1).await;
    assert_eq!(reasons(&node), ["ResizeStarted", "ResizeCompleted"]);
    // A restarted kubelet knows by the status what the pod has.
    let kept = super::resize::told_of_all(&told, told.status.as_ref().unwrap()).unwrap();
    assert!(!super::resize::is_outgrown(&Pod { spec: more.spec.clone(), ..told }, &kept));
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn memory_in_use_is_not_taken_away() {
    let with = |memory: &str| asks(&json!({"limits": {"memory": memory}}));
    let (node, status) = up("in-use", &with("64Mi")).await;
    node.runtime.memory_in_use.store(40 << 20, Ordering::Relaxed);
    node.apply(&Pod { status, ..with("32Mi") });
    let error = |p: &Pod| {
        let all = p.status.as_ref()?.conditions.as_ref()?;
        all.iter().find(|c| c.type_ == "PodResizeInProgress")?.message.clone()
    };
    let told = error(&node.until("an error", |p| error(p).is_some()).await).unwrap();
    let of = |what: &str| format!("attempting to set {what} memory limit (33554432) below current usage (41943040)");
    assert_eq!(told, format!("cannot decrease memory limits: [{}, {}]", of("pod"), of("container \"a\"")));
    assert!(!node.runtime.calls().iter().any(|call| call.starts_with("update")), "the kernel would kill for it");
    // Once it is given back it is taken.
    node.runtime.memory_in_use.store(10 << 20, Ordering::Relaxed);
    node.runtime.called("update a 2", 1).await;
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_for_before_a_container_first_runs_is_judged_when_it_does() {
    let node = Node::fresh("resize-first");
    node.changes.send(PodChange::Synced).unwrap();
    let with = |cpu: &str| {
        let resources = json!({"requests": {"cpu": cpu}});
        pod(json!({"initContainers": [{"name": "i", "image": "img:1"}], "containers": [{"name": "a", "image": "img:1", "resources": resources}]}))
    };
    node.apply(&with("100m"));
    node.runtime.called("start i", 1).await;
    let status = node.until("told", |p| p.status.is_some()).await.status;
    node.apply(&Pod { status, ..with("300m") });
    node.runtime.exit("i", 0);
    node.runtime.called("update a 307", 1).await;
    node.until("resized", |p| first(p).and_then(|c| c.allocated_resources?.remove("cpu")).is_some_and(|q| q.0 == "300m")).await;
    a_while(1).await;
    assert_eq!(reasons(&node), ["ResizeStarted", "ResizeCompleted"]);
    node.end().await;
}
