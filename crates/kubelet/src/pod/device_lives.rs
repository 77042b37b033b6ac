//! Pods with devices, from a driver behind a real socket.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::volume::Failure;
use ::volume::csi::Channel;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::lives::{Node, is_ready};
use super::tests::pod;
use crate::PodChange;
use crate::devices::driven::Driven;
use crate::devices::tests::claim;
use crate::pod_resources::wire::{CdiDevice, ClaimResource, ContainerResources, DynamicResource, GetRequest, GetResponse, ListResponse, PodResources};
use crate::testing::{FakeRuntime, TempDir, clock, when};

fn phase(p: &Pod) -> Option<&str> {
    p.status.as_ref()?.phase.as_deref()
}

/// Who watches devices.
struct Watcher(Channel);

impl Watcher {
    const PATIENCE: Duration = Duration::from_secs(30);

    fn new(root: &Path) -> Self {
        Self(Channel::new(root.join("pod-resources/kubelet.sock")))
    }

    async fn get(&self, name: &str) -> Result<PodResources, Failure> {
        let request = GetRequest { name: name.to_owned(), namespace: "n".to_owned() };
        let told: GetResponse = self.0.call("v1.PodResourcesLister/Get", &request, Self::PATIENCE).await?;
        Ok(told.pod.expect("a pod"))
    }

    async fn list(&self, version: &str) -> Vec<PodResources> {
        let told: ListResponse = self.0.call(&format!("{version}.PodResourcesLister/List"), &(), Self::PATIENCE).await.expect("a list");
        told.pods
    }
}

// Time is not paused: it would run on while the socket is waited for.
#[tokio::test]
async fn a_pod_has_its_devices_before_its_sandbox_and_has_ended_when_they_are_taken_back() {
    let (clock, dir) = (clock(), TempDir::new("device-life"));
    let registry = dir.path().join("plugins_registry");
    std::fs::create_dir_all(&registry).unwrap();
    let node = Node::start_with(Arc::new(FakeRuntime::new(clock.clone())), clock, dir, |_| {});
    node.api.device_claims.lock().push(claim("a", &["u"]));
    let container = json!({"name": "c", "image": "img:1", "resources": {"claims": [{"name": "x", "request": "other"}]}});
    let spec = json!({"containers": [container], "restartPolicy": "Never", "resourceClaims": [{"name": "x", "resourceClaimName": "a"}]});
    node.apply(&pod(spec));
    node.changes.send(PodChange::Synced).unwrap();
    when("told", || node.api.events().iter().any(|(_, message)| message.ends_with("prepare dynamic resources: DRA driver d.io is not registered"))).await;
    assert_eq!(node.runtime.calls(), [""; 0], "it has no sandbox");
    let driver = Driven::new(&registry.join("d-reg.sock"));
    node.until("ready", is_ready).await;
    assert_eq!(driver.asked(), ["NodePrepareResources uid-a"]);
    // Who watches devices is told whose they are.
    let watcher = Watcher::new(node.dir());
    let told = watcher.get("p").await.expect("it is there");
    let device = ClaimResource {
        cdi: vec![CdiDevice { name: "d.io/gpu=uid-a".to_owned() }],
        driver: "d.io".to_owned(),
        pool: "p".to_owned(),
        device: "uid-a".to_owned(),
        share: None,
    };
    let claim = DynamicResource { claim: "a".to_owned(), namespace: "n".to_owned(), resources: vec![device] };
    let container = ContainerResources { name: "c".to_owned(), dynamic: vec![claim] };
    assert_eq!(told, PodResources { name: "p".to_owned(), namespace: "n".to_owned(), containers: vec![container] });
    assert_eq!(watcher.list("v1").await, [told]);
    assert_eq!(watcher.get("q").await.expect_err("there is none").message, "pod q in namespace n not found");
    // Who hears that it has ended gives its devices to others: it is not told as long as the driver has not taken them back.
    *driver.refuses.lock() = "not now";
    node.runtime.exit("c", 0);
    driver.was_asked("NodeUnprepareResources uid-a", 2).await;
    assert_eq!(phase(&node.api.pod("n", "p").unwrap()), Some("Running"));
    *driver.refuses.lock() = "";
    node.until("over", |p| phase(p) == Some("Succeeded")).await;
    assert_eq!(watcher.list("v1").await, []);
    assert_eq!(watcher.list("v1alpha1").await.len(), 1, "the old version tells of what has ended, too");
    node.end().await;
}
