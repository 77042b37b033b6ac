//! The lives of static pods, with time paused: the test tells the kubelet of what it did to the API, as the watch would.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::lives::{Node, is_ready};
use crate::PodChange;
use crate::api::KubeApi;
use crate::testing::{FakeRuntime, TempDir, clock, when};
use crate::util;

fn write(dir: &Path, image: &str) {
    let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec: {{containers: [{{name: c, image: \"{image}\"}}]}}\n");
    fs::write(dir.join(".new"), text).unwrap();
    fs::rename(dir.join(".new"), dir.join("web.yaml")).unwrap();
}

impl Node {
    fn mirror(&self) -> Option<Pod> {
        self.api.pod("default", "web-node-1")
    }

    async fn unshown(&self) {
        for _ in 0..1_000 {
            if self.mirror().is_none() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("still shown: {:#?}", self.mirror());
    }

    /// The starts and stops of the container `c`.
    fn runs(&self) -> Vec<String> {
        self.runtime.calls().iter().filter_map(|call| call.split_once(" c").map(|(what, _)| what.to_owned())).collect()
    }

    /// Waits for a mirror as wanted. What the API has of it is told again and again, as a watch tells of each change.
    async fn shown(&self, what: &str, wanted: impl Fn(&Pod) -> bool) -> Pod {
        for _ in 0..1_000 {
            if let Some(pod) = self.mirror() {
                if wanted(&pod) {
                    return pod;
                }
                self.changes.send(PodChange::Applied(Arc::new(pod))).unwrap();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("not {what}: {:#?}", self.mirror());
    }
}

#[tokio::test(start_paused = true)]
async fn a_static_pod_needs_no_api_and_ends_with_its_file_alone() {
    let (clock, dir) = (clock(), TempDir::new("static-life"));
    let manifests = dir.path().join("manifests");
    fs::create_dir(&manifests).unwrap();
    write(&manifests, "img:1");
    let path = manifests.clone();
    let node = Node::start_with(Arc::new(FakeRuntime::new(clock.clone())), clock, dir, move |config| config.settings.static_pods = Some(path));
    *node.api.away.lock() = true;
    node.runtime.called("start c", 1).await;
    assert!(node.mirror().is_none());
    // The API is there: the pod is shown, by a pod of another UID, with the status of what runs.
    node.api.peopled.store(true, Ordering::Relaxed);
    *node.api.away.lock() = false;
    node.changes.send(PodChange::Synced).unwrap();
    let first = node.shown("ready", is_ready).await;
    let annotations = first.metadata.annotations.clone().unwrap();
    assert_eq!(annotations["kubernetes.io/config.mirror"], annotations["kubernetes.io/config.hash"]);
    assert_ne!(annotations["kubernetes.io/config.mirror"], util::uid(&first));
    assert_eq!(first.metadata.owner_references.as_ref().unwrap()[0].uid, "node-uid");
    // Whoever deletes the mirror ends nothing: it is made again, and told of again.
    node.api.delete_pod("default", "web-node-1", "").await.unwrap();
    node.changes.send(PodChange::Removed(Arc::new(first.clone()))).unwrap();
    let second = node.shown("shown again", is_ready).await;
    assert_ne!(util::uid(&second), util::uid(&first));
    let mut ending = second.clone();
    ending.metadata.deletion_timestamp = Some(util::time(node.runtime.now()));
    node.api.put_pod(&ending);
    node.changes.send(PodChange::Applied(Arc::new(ending))).unwrap();
    let third = node.shown("shown once more", |p| util::uid(p) != util::uid(&second) && is_ready(p)).await;
    assert_eq!(node.runs(), ["start"], "all that while it runs");
    // Another text is another pod, which begins when the former has ended.
    // The API does not hold it up: the pod may be the API server.
    *node.api.away.lock() = true;
    write(&manifests, "img:2");
    node.runtime.called("start c", 2).await;
    *node.api.away.lock() = false;
    let image = |p: &Pod| p.spec.as_ref().unwrap().containers[0].image.clone();
    let fourth = node.shown("the new one", |p| image(p).as_deref() == Some("img:2") && is_ready(p)).await;
    assert_ne!(util::uid(&fourth), util::uid(&third));
    assert_eq!(node.runs(), ["start", "stop", "start"]);
    // Without a file there is neither the one nor the other.
    fs::remove_file(manifests.join("web.yaml")).unwrap();
    node.unshown().await;
    assert_eq!(node.runs(), ["start", "stop", "start", "stop"]);
    node.changes.send(PodChange::Removed(Arc::new(fourth.clone()))).unwrap();
    // Nor does a mirror stay that nobody here is shown by.
    node.api.put_pod(&fourth);
    node.changes.send(PodChange::Applied(Arc::new(fourth))).unwrap();
    node.unshown().await;
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_static_pod_goes_on_over_a_restart() {
    let (clock, dir) = (clock(), TempDir::new("static-deadline"));
    let manifest = dir.path().join("web.yaml");
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {activeDeadlineSeconds: 100, containers: [{name: c, image: \"img:1\"}]}\n";
    fs::write(&manifest, text).unwrap();
    let path = manifest.clone();
    let node = Node::start_with(Arc::new(FakeRuntime::new(clock.clone())), clock.clone(), dir, move |config| config.settings.static_pods = Some(path));
    node.api.peopled.store(true, Ordering::Relaxed);
    node.changes.send(PodChange::Synced).unwrap();
    let mirror = node.shown("ready", is_ready).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let runtime = Arc::clone(&node.runtime);
    let dir = node.end().await;
    let node = Node::start_with(runtime, clock, dir, move |config| config.settings.static_pods = Some(manifest));
    node.api.peopled.store(true, Ordering::Relaxed);
    node.api.put_pod(&mirror);
    node.changes.send(PodChange::Applied(Arc::new(mirror))).unwrap();
    node.changes.send(PodChange::Synced).unwrap();
    let begun = tokio::time::Instant::now();
    when("stopped", || node.runtime.calls().iter().any(|c| c.starts_with("stop c"))).await;
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    node.end().await;
}
