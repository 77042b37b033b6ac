//! Claims and volumes from the first binding to the last, as a user and a provisioner see them.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::Cluster;

const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
const VOLUMES: &str = "/api/v1/persistentvolumes";
const CLASSES: &str = "/apis/storage.k8s.io/v1/storageclasses";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn claim(name: &str, class: Option<&str>, size: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class, "resources": {"requests": {"storage": size}}}})
}

fn volume(name: &str, class: &str, size: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class, "capacity": {"storage": size},
            "csi": {"driver": "d.example.com", "volumeHandle": name}}})
}

fn class(name: &str, mode: &str, is_default: bool) -> Value {
    json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "d.example.com", "volumeBindingMode": mode, "allowVolumeExpansion": true,
        "metadata": {"name": name, "annotations": {"storageclass.kubernetes.io/is-default-class": is_default.to_string()}}})
}

fn phase(object: &Value) -> &str {
    object["status"]["phase"].as_str().unwrap_or_default()
}

async fn told(c: &Cluster, of: &str, reason: &str) -> String {
    let events = format!("/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3D{of},reason%3D{reason}");
    let list = c.until(&events, |l| l["items"].as_array().is_some_and(|i| !i.is_empty())).await;
    list["items"][0]["message"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_there_is_bound_and_released_when_its_claim_goes() {
    let c = Cluster::start().await;
    c.create(CLAIMS, claim("data", Some(""), "2Gi")).await;
    assert_eq!(told(&c, "data", "FailedBinding").await, "no persistent volumes available for this claim and no storage class is set");
    for (name, size) in [("small", "1Gi"), ("large", "9Gi"), ("fits", "3Gi")] {
        c.create(VOLUMES, volume(name, "", size)).await;
    }
    // Nothing but the volumes is heard of: the claim that waits is found.
    let bound = c.until(&format!("{CLAIMS}/data"), |o| phase(o) == "Bound").await;
    let name = bound["spec"]["volumeName"].as_str().unwrap_or_default().to_owned();
    assert!(name == "large" || name == "fits", "{bound:#}");
    assert_eq!(bound["metadata"]["annotations"]["pv.kubernetes.io/bind-completed"], "yes");
    let volume = c.until(&format!("{VOLUMES}/{name}"), |o| phase(o) == "Bound").await;
    assert_eq!((&volume["spec"]["claimRef"]["uid"], &bound["status"]["capacity"]), (&bound["metadata"]["uid"], &volume["spec"]["capacity"]));
    let unused = |status: &'static str| {
        move |o: &Value| o["status"]["conditions"].as_array().into_iter().flatten().any(|k| k["type"] == "Unused" && k["status"] == status)
    };
    c.until(&format!("{CLAIMS}/data"), unused("True")).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "user", "annotations": {"test/unschedulable": ""}},
        "spec": {"containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}});
    c.create(PODS, pod).await;
    c.until(&format!("{CLAIMS}/data"), unused("False")).await;
    c.delete(&format!("{PODS}/user"), "Background").await;
    c.until(&format!("{CLAIMS}/data"), unused("True")).await;

    // Another of the name, made at once: the volume is the former one's, and is not given to it.
    c.delete(&format!("{CLAIMS}/data"), "Background").await;
    c.until(&format!("{CLAIMS}/data"), Value::is_null).await;
    c.create(CLAIMS, claim("data", Some(""), "8Gi")).await;
    c.until(&format!("{VOLUMES}/{name}"), |o| phase(o) == "Released").await;
    c.merge(&format!("{VOLUMES}/{name}"), json!({"spec": {"claimRef": null}})).await;
    let anew = c.until(&format!("{CLAIMS}/data"), |o| phase(o) == "Bound").await;
    assert_eq!(anew["spec"]["volumeName"], "large", "a hand has freed it, or it was free");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_set_aside_finds_its_other_side() {
    let c = Cluster::start().await;
    let mut aside = volume("aside", "x", "1Gi");
    aside["spec"]["claimRef"] = json!({"namespace": "default", "name": "mine"});
    c.create(VOLUMES, aside).await;
    c.create(VOLUMES, volume("named", "x", "1Gi")).await;
    c.create(CLAIMS, claim("mine", Some("x"), "1Gi")).await;
    let mut named = claim("asks", Some("x"), "1Gi");
    named["spec"]["volumeName"] = "named".into();
    c.create(CLAIMS, named.clone()).await;
    for (claim, volume) in [("mine", "aside"), ("asks", "named")] {
        let bound = c.until(&format!("{CLAIMS}/{claim}"), |o| phase(o) == "Bound").await;
        assert_eq!(bound["spec"]["volumeName"], volume);
        let taken = c.until(&format!("{VOLUMES}/{volume}"), |o| phase(o) == "Bound").await;
        // What a user wrote is not the controller's to take back.
        let by_controller = |o: &Value| o["metadata"]["annotations"]["pv.kubernetes.io/bound-by-controller"] == "yes";
        assert_eq!((by_controller(&bound), by_controller(&taken)), (claim == "mine", volume == "named"));
    }
    named["metadata"]["name"] = "late".into();
    c.create(CLAIMS, named).await;
    assert_eq!(told(&c, "late", "FailedBinding").await, "volume \"named\" already bound to a different claim.");
    // Its volume is removed by force: the claim is lost, and says so.
    c.delete(&format!("{VOLUMES}/named"), "Background").await;
    c.merge(&format!("{VOLUMES}/named"), json!({"metadata": {"finalizers": null}})).await;
    c.until(&format!("{CLAIMS}/asks"), |o| phase(o) == "Lost").await;
    assert_eq!(told(&c, "asks", "ClaimLost").await, "Bound claim has lost its PersistentVolume. Data on the volume is lost!");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provisioner_is_asked_and_what_it_makes_is_bound() {
    let c = Cluster::start().await;
    c.create(CLAIMS, claim("early", None, "1Gi")).await;
    c.create(CLASSES, class("later", "WaitForFirstConsumer", false)).await;
    c.create(CLASSES, class("now", "Immediate", true)).await;
    // It asked for no class before there was a default.
    let asked = c.until(&format!("{CLAIMS}/early"), |o| !o["metadata"]["annotations"]["volume.kubernetes.io/storage-provisioner"].is_null()).await;
    assert_eq!(
        (&asked["spec"]["storageClassName"], &asked["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-provisioner"]),
        (&json!("now"), &json!("d.example.com"))
    );
    let uid = asked["metadata"]["uid"].as_str().unwrap_or_default();
    let mut made = volume(&format!("pvc-{uid}"), "now", "1Gi");
    made["metadata"]["annotations"] = json!({"pv.kubernetes.io/provisioned-by": "d.example.com"});
    made["spec"]["persistentVolumeReclaimPolicy"] = "Delete".into();
    made["spec"]["claimRef"] = json!({"namespace": "default", "name": "early", "uid": uid});
    c.create(VOLUMES, made).await;
    let path = format!("{CLAIMS}/early");
    c.until(&path, |o| phase(o) == "Bound").await;
    c.merge(&path, json!({"spec": {"resources": {"requests": {"storage": "5Gi"}}}})).await;
    assert_eq!(told(&c, "early", "ExternalExpanding").await, "waiting for an external controller to expand this PVC");
    c.delete(&path, "Background").await;
    c.until(&format!("{VOLUMES}/pvc-{uid}"), |o| phase(o) == "Released").await;

    // With the pod's node: the scheduler's word is waited for.
    c.create(CLAIMS, claim("wait", Some("later"), "1Gi")).await;
    assert_eq!(told(&c, "wait", "WaitForFirstConsumer").await, "waiting for first consumer to be created before binding");
    let waits = c.get(&format!("{CLAIMS}/wait")).await.unwrap_or_default();
    assert!(waits["metadata"]["annotations"]["volume.kubernetes.io/storage-provisioner"].is_null());
    c.merge(&format!("{CLAIMS}/wait"), json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "a"}}})).await;
    assert!(
        told(&c, "wait", "ExternalProvisioning").await.starts_with("Waiting for a volume to be created either by the external provisioner 'd.example.com'")
    );
    c.create(CLAIMS, claim("never", Some("gone"), "1Gi")).await;
    assert_eq!(told(&c, "never", "ProvisioningFailed").await, "storageclass.storage.k8s.io \"gone\" not found");

    // A pod's own.
    let template = json!({"metadata": {"labels": {"of": "pod"}}, "spec": claim("", Some("gone"), "1Gi")["spec"]});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "own", "annotations": {"test/unschedulable": ""}},
        "spec": {"containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": template}}]}});
    c.create(PODS, pod).await;
    let own = c.until(&format!("{CLAIMS}/own-v"), |o| !o.is_null()).await;
    assert_eq!((&own["metadata"]["labels"]["of"], &own["metadata"]["ownerReferences"][0]["name"]), (&json!("pod"), &json!("own")));
    c.delete(&format!("{PODS}/own"), "Background").await;
    c.until(&format!("{CLAIMS}/own-v"), Value::is_null).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recycled_volume_is_emptied_by_a_pod_and_free_again() {
    let c = Cluster::start().await;
    let mut old = volume("old", "", "1Gi");
    let spec = old["spec"].as_object_mut().expect("a spec");
    spec.remove("csi");
    spec.insert("hostPath".into(), json!({"path": "/data"}));
    spec.insert("persistentVolumeReclaimPolicy".into(), "Recycle".into());
    c.create(VOLUMES, old).await;
    c.create(CLAIMS, claim("data", Some(""), "1Gi")).await;
    c.until(&format!("{CLAIMS}/data"), |o| phase(o) == "Bound").await;
    c.delete(&format!("{CLAIMS}/data"), "Background").await;
    let pod = c.until(&format!("{PODS}/recycler-for-old"), |o| phase(o) == "Running").await;
    assert_eq!((&pod["spec"]["volumes"][0]["hostPath"]["path"], &pod["spec"]["activeDeadlineSeconds"]), (&json!("/data"), &json!(60)));
    assert_eq!(phase(&c.get(&format!("{VOLUMES}/old")).await.unwrap_or_default()), "Released");
    c.merge(&format!("{PODS}/recycler-for-old/status"), json!({"status": {"phase": "Succeeded"}})).await;
    let free = c.until(&format!("{VOLUMES}/old"), |o| phase(o) == "Available").await;
    assert!(free["spec"]["claimRef"].is_null());
    assert_eq!(told(&c, "old", "VolumeRecycled").await, "Volume recycled");
    c.until(&format!("{PODS}/recycler-for-old"), Value::is_null).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_binders_give_each_of_many_claims_one_volume() {
    const COUNT: usize = 300;
    let c = Cluster::start().await;
    c.another(&["persistentvolume-binder-controller"]);
    let claims = (0..COUNT).map(|n| c.create(CLAIMS, claim(&format!("c{n}"), Some(""), "1Gi")));
    futures_util::future::join_all(claims).await;
    let begun = Instant::now();
    let volumes = (0..COUNT).map(|n| c.create(VOLUMES, volume(&format!("v{n}"), "", &format!("{}Gi", 1 + n % 7))));
    futures_util::future::join_all(volumes).await;
    let bound = |l: &Value| l["items"].as_array().is_some_and(|all| all.iter().filter(|o| phase(o) == "Bound").count() == COUNT);
    let claims = loop {
        let list = c.get(CLAIMS).await.unwrap_or_default();
        if bound(&list) {
            break list;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "they are not bound in a minute");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let names: HashSet<&str> = claims["items"].as_array().into_iter().flatten().filter_map(|o| o["spec"]["volumeName"].as_str()).collect();
    assert_eq!(names.len(), COUNT, "each has its own");
    // The claim's side is written last: by then every volume names its claim, and no other.
    let volumes = c.get(VOLUMES).await.unwrap_or_default();
    assert!(volumes["items"].as_array().into_iter().flatten().all(|v| phase(v) == "Bound" && !v["spec"]["claimRef"]["uid"].is_null()));
}
