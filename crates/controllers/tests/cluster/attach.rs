//! Attaching, with a test in the place of a driver's attacher and of the kubelets.

use client::Delta;
use k8s_openapi::api::storage::v1::VolumeAttachment;
use serde_json::{Value, json};

use crate::support::Cluster;
use crate::{PODS, items};

const VOLUME: &str = "kubernetes.io/csi/driver.example.com^disk-1";
const ATTACHMENTS: &str = "/apis/storage.k8s.io/v1/volumeattachments";

/// A node that has these volumes in use.
async fn uses(c: &Cluster, node: &str, volumes: Value) {
    c.merge(&format!("/api/v1/nodes/{node}/status"), json!({"status": {"volumesInUse": volumes}})).await;
}

fn reports(node: &Value) -> bool {
    node["status"]["volumesAttached"].as_array().is_some_and(|all| all.iter().any(|v| v["name"] == VOLUME))
}

fn user(name: &str, node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"nodeName": node, "containers": [{"name": "c", "image": "x"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}})
}

async fn told(c: &Cluster, pod: &str, reason: &str, message: &str) {
    let is = |l: &Value| items(l).iter().any(|e| e["involvedObject"]["name"] == pod && e["reason"] == reason && e["message"] == message);
    c.until("/api/v1/namespaces/default/events", is).await;
}

/// The node of the one attachment that there is.
async fn attachment(c: &Cluster) -> (String, String) {
    let list = c.until(&format!("{ATTACHMENTS}?limit=9"), |l| items(l).len() == 1 && items(l)[0]["metadata"]["deletionTimestamp"].is_null()).await;
    let one = &items(&list)[0];
    assert_eq!(one["spec"]["attacher"], "driver.example.com");
    assert_eq!(one["spec"]["source"], json!({"persistentVolumeName": "pv"}));
    (one["metadata"]["name"].as_str().unwrap_or_default().to_owned(), one["spec"]["nodeName"].as_str().unwrap_or_default().to_owned())
}

/// A volume for one node, which pod `first` on node `a` is to have: the name of its attachment.
async fn asked_for(c: &Cluster) -> String {
    for node in ["a", "b"] {
        let managed = json!({"metadata": {"annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}}});
        c.merge(&format!("/api/v1/nodes/{node}"), managed).await;
    }
    let size = json!({"storage": "1Gi"});
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"},
        "spec": {"volumeName": "pv", "storageClassName": "", "accessModes": ["ReadWriteOnce"], "resources": {"requests": size}}});
    let claim = c.create("/api/v1/namespaces/default/persistentvolumeclaims", claim).await;
    let reference = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "default", "name": "c", "uid": claim["metadata"]["uid"]});
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"}, "spec": {"capacity": size, "accessModes": ["ReadWriteOnce"],
        "csi": {"driver": "driver.example.com", "volumeHandle": "disk-1"}, "claimRef": reference}});
    c.create("/api/v1/persistentvolumes", volume).await;
    c.create(PODS, user("first", "a")).await;
    // Only now the pod's volume is known.
    c.merge(
        "/api/v1/namespaces/default/persistentvolumeclaims/c/status",
        json!({"status": {"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": size}}),
    )
    .await;
    let (name, node) = attachment(c).await;
    assert_eq!(node, "a");
    name
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_is_taken_from_a_node_that_is_out_of_service() {
    let c = Cluster::start().await;
    let name = asked_for(&c).await;
    c.merge(&format!("{ATTACHMENTS}/{name}/status"), json!({"status": {"attached": true}})).await;
    c.until("/api/v1/nodes/a", reports).await;
    uses(&c, "a", json!([VOLUME])).await;
    // Its pods go, and nobody there will ever say that the volume is not in use any more.
    let taint = json!({"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"});
    c.merge("/api/v1/nodes/a", json!({"spec": {"taints": [taint]}})).await;
    c.until(&format!("{PODS}/first"), Value::is_null).await;
    c.until(&format!("{ATTACHMENTS}/{name}"), Value::is_null).await;
    c.until("/api/v1/nodes/a", |n| !reports(n)).await;
    c.create(PODS, user("second", "b")).await;
    let (name, node) = attachment(&c).await;
    assert_eq!(node, "b");
    c.merge(&format!("{ATTACHMENTS}/{name}/status"), json!({"status": {"attached": true}})).await;
    c.until("/api/v1/nodes/b", reports).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_for_one_node_goes_from_one_to_the_other() {
    let c = Cluster::start().await;
    let name = asked_for(&c).await;

    let refused = json!({"status": {"attached": false, "attachError": {"message": "no slot", "time": client::now()}}});
    c.merge(&format!("{ATTACHMENTS}/{name}/status"), refused).await;
    told(&c, "first", "FailedAttachVolume", "AttachVolume.Attach failed for volume \"pv\" : no slot").await;
    c.merge(&format!("{ATTACHMENTS}/{name}/status"), json!({"status": {"attached": true, "attachError": null}})).await;
    c.until("/api/v1/nodes/a", reports).await;
    told(&c, "first", "SuccessfulAttachVolume", "AttachVolume.Attach succeeded for volume \"pv\" ").await;

    uses(&c, "a", json!([VOLUME])).await;
    c.create(PODS, user("second", "b")).await;
    told(&c, "second", "FailedAttachVolume", "Waiting for detach for volume \"pv\" Volume is already used by pod(s) first").await;
    let mut changes = c.informers.informer::<VolumeAttachment>().subscribe();
    c.delete(&format!("{PODS}/first"), "Background").await;
    c.until(&format!("{PODS}/first"), Value::is_null).await;
    assert!(reports(&c.get("/api/v1/nodes/a").await.unwrap_or_default()), "the node still uses it");
    assert_eq!(attachment(&c).await.1, "a");

    uses(&c, "a", json!([])).await;
    c.until("/api/v1/nodes/a", |n| !reports(n)).await;
    let (name, node) = loop {
        let one = attachment(&c).await;
        if one.1 == "b" {
            break one;
        }
        while !matches!(changes.recv().await, Some(Delta::Deleted(_))) {}
    };
    c.merge(&format!("{ATTACHMENTS}/{name}/status"), json!({"status": {"attached": true}})).await;
    c.until("/api/v1/nodes/b", reports).await;

    // Somebody else takes the attachment away: it is made again, and meanwhile the node is not told that it has the volume.
    c.delete(&format!("{ATTACHMENTS}/{name}"), "Background").await;
    c.until("/api/v1/nodes/b", |n| !reports(n)).await;
    assert_eq!((name, node), attachment(&c).await);
}
