use bytes::Bytes;
use client::storage::SELECTED_NODE;
use client::{Body, Transport};
use futures_util::future::BoxFuture;
use http::{Request as Asked, Response};
use http_body_util::{BodyExt as _, Full};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaimSpec, TopologySelectorLabelRequirement, TopologySelectorTerm, TypedLocalObjectReference, TypedObjectReference,
};
use machinery::quantity::Quantity;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::request::{Refusal, Request, read};
use super::*;

/// A server that answers as it is told to, and tells what it was asked to write: method, path, body.
struct Fake<A> {
    answer: A,
    written: mpsc::UnboundedSender<(String, Value)>,
}

impl<A: Fn(&str, &str, &Value) -> (u16, Value) + Send + Sync + 'static> Transport for Fake<A> {
    fn send(&self, request: Asked<Bytes>) -> BoxFuture<'static, client::Result<Response<Body>>> {
        let (method, path) = (request.method().as_str(), request.uri().path());
        let sent: Value = serde_json::from_slice(request.body()).unwrap_or_default();
        let (code, answer) = (self.answer)(method, path, &sent);
        if method != "GET" {
            let _ = self.written.send((format!("{method} {path} {code}"), sent));
        }
        let body = Full::new(Bytes::from(answer.to_string())).map_err(|never| match never {}).boxed_unsync();
        Box::pin(async move { Ok(Response::builder().status(code).header("content-type", "application/json").body(body).expect("an answer")) })
    }
}

fn refusal(code: u16, reason: &str) -> (u16, Value) {
    (code, json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": code}))
}

fn typed<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object")
}

fn claim() -> PersistentVolumeClaim {
    typed(json!({
        "metadata": {"name": "data", "namespace": "ns", "uid": "u1", "resourceVersion": "5", "annotations": {PROVISIONER: disk::NAME, SELECTED_NODE: "n1"}},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "standard", "volumeMode": "Filesystem", "resources": {"requests": {"storage": "2Mi"}}}
    }))
}

fn class() -> StorageClass {
    typed(json!({
        "metadata": {"name": "standard"}, "provisioner": disk::NAME, "reclaimPolicy": "Delete",
        "mountOptions": ["noatime"], "volumeBindingMode": "WaitForFirstConsumer"
    }))
}

fn with(change: impl FnOnce(&mut PersistentVolumeClaimSpec)) -> PersistentVolumeClaim {
    let mut claim = claim();
    claim.spec.as_mut().map(change);
    claim
}

fn asked(claim: &PersistentVolumeClaim, class: &StorageClass) -> Result<Request, Refusal> {
    read(claim, class, &BTreeMap::from([(disk::TOPOLOGY.to_owned(), "n1".to_owned())]))
}

/// The texts are external-provisioner's (v6.4.0).
#[test]
fn what_cannot_be_is_refused_in_the_sidecars_words() {
    assert_eq!(asked(&claim(), &class()), Ok(Request { bytes: 2 << 20, block: false }));
    assert_eq!(asked(&with(|s| s.volume_mode = Some("Block".to_owned())), &class()), Ok(Request { bytes: 2 << 20, block: true }));
    let failed = |text: &str| Err(Refusal::Failed(text.to_owned()));
    let source = |kind: &str, group: Option<&str>, name: &str| {
        let source = TypedLocalObjectReference { api_group: group.map(str::to_owned), kind: kind.to_owned(), name: name.to_owned() };
        asked(&with(|s| s.data_source = Some(source)), &class())
    };
    assert_eq!(
        source("PersistentVolumeClaim", None, "other"),
        failed("CSI driver does not support clone operations: controller CLONE_VOLUME capability is not reported")
    );
    let snapshots = "CSI driver does not support snapshot restore: controller CREATE_DELETE_SNAPSHOT capability is not reported";
    assert_eq!(source("VolumeSnapshot", Some("snapshot.storage.k8s.io"), "s"), failed(snapshots));
    let group = "the PVC source does not belong to the right APIGroup. Expected snapshot.storage.k8s.io, Got x";
    assert_eq!(source("VolumeSnapshot", Some("x"), "s"), failed(group));
    assert_eq!(source("VolumeSnapshot", Some("x"), ""), failed("the PVC source not found for PVC data"));
    assert_eq!(source("Hello", Some("hello.example.com"), "s"), Err(Refusal::Populator));
    let elsewhere = TypedObjectReference { namespace: Some("there".to_owned()), kind: "Hello".to_owned(), name: "h".to_owned(), api_group: None };
    assert_eq!(
        asked(&with(|s| s.data_source_ref = Some(elsewhere)), &class()),
        failed("dataSourceRef namespace specified but the CrossNamespaceVolumeDataSource feature is disabled")
    );
    assert_eq!(
        asked(&with(|s| s.volume_attributes_class_name = Some("gold".to_owned())), &class()),
        failed("CSI driver does not support VolumeAttributesClass: controller MODIFY_VOLUME capability is not reported")
    );
    assert_eq!(asked(&with(|s| s.selector = Some(Default::default())), &class()), failed("claim Selector is not supported"));
    let infeasible = |text: &str| Err(Refusal::Infeasible(format!("rpc error: code = InvalidArgument desc = {text}")));
    for mode in ["ReadWriteMany", "ReadOnlyMany"] {
        let modes = with(|s| s.access_modes = Some(vec!["ReadWriteOnce".to_owned(), mode.to_owned()]));
        assert_eq!(asked(&modes, &class()), infeasible("disk.knarr.local only supports ReadWriteOnce and ReadWriteOncePod access modes"));
    }
}

#[test]
fn a_class_is_read() {
    let of = |parameters: &[(&str, &str)]| {
        let parameters = parameters.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        asked(&claim(), &StorageClass { parameters: Some(parameters), ..class() })
    };
    assert!(of(&[("fsType", "ext4")]).is_ok());
    assert!(of(&[("csi.storage.k8s.io/fstype", "ext4"), ("csi.storage.k8s.io/node-stage-secret-name", "s")]).is_ok());
    assert!(matches!(of(&[("csi.storage.k8s.io/fstype", "xfs")]), Err(Refusal::Infeasible(t)) if t.contains("\"xfs\" is not supported")));
    assert!(matches!(of(&[("type", "ssd")]), Err(Refusal::Infeasible(t)) if t.contains("parameter \"type\" is not known")));
    let twice = "fstype specified in parameters with both \"fstype\" and \"csi.storage.k8s.io/fstype\" keys";
    assert_eq!(of(&[("fstype", "ext4"), ("csi.storage.k8s.io/fstype", "ext4")]), Err(Refusal::Failed(twice.to_owned())));
    let unknown =
        "failed to strip CSI Parameters of prefixed keys: found unknown parameter key \"csi.storage.k8s.io/x\" with reserved namespace csi.storage.k8s.io/";
    assert_eq!(of(&[("csi.storage.k8s.io/x", "")]), Err(Refusal::Failed(unknown.to_owned())));
    let on = |values: &[&str]| {
        let values = values.iter().map(|v| (*v).to_owned()).collect();
        let term = TopologySelectorTerm { match_label_expressions: Some(vec![TopologySelectorLabelRequirement { key: disk::TOPOLOGY.to_owned(), values }]) };
        asked(&claim(), &StorageClass { allowed_topologies: Some(vec![term]), ..class() })
    };
    assert!(on(&["n0", "n1"]).is_ok());
    let elsewhere = "error generating accessibility requirements: selected node '\"n1\"' topology '[{kubernetes.io/hostname n1}]' is not in allowed topologies: [[{kubernetes.io/hostname n2}]]";
    assert_eq!(on(&["n2"]), Err(Refusal::Failed(elsewhere.to_owned())));
}

#[test]
fn growth_goes_on_where_it_was_left() {
    let size = |text: &str| text.parse::<Quantity>().expect("a size");
    let case = |asked: &str, volume: &str, allocated: Option<&str>, status: &str, failed: bool| {
        let sizes =
            growth::Sizes { asked: size(asked), has: size("1Gi"), volume: size(volume), allocated: allocated.map(size), status: status.to_owned(), failed };
        growth::target(&sizes).map(|q| q.to_string())
    };
    let to = |text: &str| Some(text.to_owned());
    assert_eq!(case("2Gi", "1Gi", None, "", false), to("2Gi"));
    assert_eq!(case("3Gi", "1Gi", Some("2Gi"), "ControllerResizeInProgress", false), to("2Gi"), "what was begun ends first");
    assert_eq!(case("3Gi", "1Gi", Some("2Gi"), "ControllerResizeInProgress", true), to("3Gi"), "unless it failed");
    assert_eq!(case("2Gi", "1Gi", Some("9Gi"), "ControllerResizeInfeasible", false), to("2Gi"), "recovery to a smaller size");
    assert_eq!(case("3Gi", "2Gi", Some("2Gi"), "NodeResizePending", false), None, "the node is at it");
    assert_eq!(case("3Gi", "1Gi", Some("2Gi"), "NodeResizeInProgress", false), to("2Gi"));
    assert_eq!(case("3Gi", "2Gi", Some("2Gi"), "NodeResizeInfeasible", false), to("2Gi"));
    assert_eq!(case("2Gi", "2Gi", Some("2Gi"), "NodeResizePending", false), None);
    assert_eq!(case("2Gi", "2Gi", Some("2Gi"), "ControllerResizeInProgress", false), to("2Gi"), "it grew, and was not noted");
    assert_eq!(case("2Gi", "2Gi", None, "", false), to("2Gi"));
}

struct Place(std::path::PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("knarr-provision-{name}-{}", std::process::id()));
        // Of a run with the same number that was killed.
        let _ = std::fs::remove_dir_all(&dir);
        Self(dir)
    }

    fn open(&self) -> Disk {
        Disk::open(&self.0, "n1").expect("a store")
    }

    fn there(&self) -> Vec<String> {
        disk::list(&self.0).expect("a list").into_iter().map(|found| found.meta.handle).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What was written, in its order; what a test passes over it may ask for later.
struct Written {
    heard: mpsc::UnboundedReceiver<(String, Value)>,
    passed: Vec<(String, Value)>,
}

fn provisioner(
    place: &Place,
    (claims, volumes): (Vec<PersistentVolumeClaim>, Vec<PersistentVolume>),
    answer: impl Fn(&str, &str, &Value) -> (u16, Value) + Send + Sync + 'static,
) -> (Provisioner, Written) {
    let (written, heard) = mpsc::unbounded_channel();
    let client = Client::new(Arc::new(Fake { answer, written }));
    let informers = Informers::new(client.clone(), CancellationToken::new());
    let mut made = Provisioner::new("n1".to_owned(), place.open(), client, &informers);
    made.claims = Informer::fixed(claims);
    made.volumes = Informer::fixed(volumes);
    made.classes = Informer::fixed([class()]);
    made.nodes = Informer::fixed([]);
    (made, Written { heard, passed: Vec::new() })
}

/// The next thing written to something of this kind.
async fn next(written: &mut Written, what: &str) -> (String, Value) {
    if let Some(at) = written.passed.iter().position(|(request, _)| request.contains(what)) {
        return written.passed.remove(at);
    }
    loop {
        let one = tokio::time::timeout(Duration::from_secs(60), written.heard.recv()).await.expect("in time").expect("one more");
        if one.0.contains(what) {
            return one;
        }
        written.passed.push(one);
    }
}

fn echo(_: &str, path: &str, sent: &Value) -> (u16, Value) {
    if path.ends_with("/events") || sent.is_object() { (200, sent.clone()) } else { refusal(404, "NotFound") }
}

#[tokio::test]
async fn a_claim_gets_an_image_and_then_its_volume() {
    let place = Place::new("claim");
    let (made, mut written) = provisioner(&place, (vec![claim()], Vec::new()), echo);
    assert_eq!(made.step(&Key::Claim(claim().key(), "u1".to_owned())).await, Step::Done);
    let (request, volume) = next(&mut written, "/persistentvolumes").await;
    assert_eq!(request, "POST /api/v1/persistentvolumes 200");
    assert_eq!(volume["metadata"]["name"], "pvc-u1");
    assert_eq!(volume["metadata"]["annotations"]["pv.kubernetes.io/provisioned-by"], "disk.knarr.local");
    assert_eq!(volume["metadata"]["finalizers"], json!(["external-provisioner.volume.kubernetes.io/finalizer"]));
    let spec = &volume["spec"];
    assert_eq!(spec["capacity"]["storage"], "2Mi");
    assert_eq!((&spec["csi"]["driver"], &spec["csi"]["volumeHandle"], &spec["csi"]["fsType"]), (&json!("disk.knarr.local"), &json!("pvc-u1"), &json!("ext4")));
    assert_eq!(
        (&spec["claimRef"]["uid"], &spec["claimRef"]["kind"], &spec["claimRef"]["resourceVersion"]),
        (&json!("u1"), &json!("PersistentVolumeClaim"), &json!("5"))
    );
    assert_eq!(
        (&spec["persistentVolumeReclaimPolicy"], &spec["mountOptions"], &spec["storageClassName"]),
        (&json!("Delete"), &json!(["noatime"]), &json!("standard"))
    );
    let here = json!([{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]}]);
    assert_eq!(spec["nodeAffinity"]["required"]["nodeSelectorTerms"], here);
    let found = made.disk.find("pvc-u1").await.unwrap().unwrap();
    assert!(found.kept && found.meta.bytes == 2 << 20 && found.meta.claim.name == "data");
    let mut said = Vec::new();
    for _ in 0..2 {
        let (_, event) = next(&mut written, "/events").await;
        said.push(format!("{} {} {}", event["type"].as_str().unwrap(), event["reason"].as_str().unwrap(), event["message"].as_str().unwrap()));
    }
    said.sort();
    let expected = [
        "Normal Provisioning External provisioner is provisioning volume for claim \"ns/data\"",
        "Normal ProvisioningSucceeded Successfully provisioned volume pvc-u1",
    ];
    assert_eq!(said, expected);
}

#[tokio::test]
async fn what_never_got_its_volume_goes_with_its_claim_and_nothing_else() {
    let place = Place::new("tidy");
    let disk = place.open();
    for (uid, kept) in [("gone", false), ("lives", false), ("has-one", false), ("lost-store", true)] {
        let claim = disk::Claim { namespace: "ns".to_owned(), name: uid.to_owned(), uid: uid.to_owned() };
        let handle = format!("pvc-{uid}");
        disk.create(disk::New { handle: handle.clone(), claim, bytes: 0, block: false }).await.unwrap();
        if kept {
            disk.keep(&handle).await.unwrap();
        }
    }
    let (made, _written) = provisioner(&place, (Vec::new(), Vec::new()), |_, path, _| match path {
        "/api/v1/namespaces/ns/persistentvolumeclaims/lives" => (200, json!({"metadata": {"name": "lives", "namespace": "ns", "uid": "lives"}, "spec": {}})),
        // Of its name, but another.
        "/api/v1/namespaces/ns/persistentvolumeclaims/gone" => (200, json!({"metadata": {"name": "gone", "namespace": "ns", "uid": "later"}, "spec": {}})),
        "/api/v1/persistentvolumes/pvc-has-one" => (200, json!({"metadata": {"name": "pvc-has-one"}, "spec": {}})),
        _ => refusal(404, "NotFound"),
    });
    let queue = WorkQueue::new(BACKOFF);
    made.look_back(&queue).await;
    for _ in 0..3 {
        let key = queue.get().await.expect("three that are not kept");
        assert_eq!(made.step(&key).await, Step::Done);
        queue.done(&key);
    }
    assert_eq!(place.there(), ["pvc-has-one", "pvc-lives", "pvc-lost-store"]);
    assert!(made.disk.find("pvc-has-one").await.unwrap().unwrap().kept);
    // A server that does not answer says nothing.
    let (made, _written) = provisioner(&place, (Vec::new(), Vec::new()), |_, _, _| refusal(503, "ServiceUnavailable"));
    assert_eq!(made.step(&Key::Claim(ObjectKey::new("ns", "lives"), "lives".to_owned())).await, Step::Again);
    assert_eq!(place.there().len(), 3);
}

fn released(policy: &str, node: &str) -> PersistentVolume {
    typed(json!({
        "metadata": {"name": "pvc-u1", "uid": "v1", "resourceVersion": "9", "finalizers": ["kubernetes.io/pv-protection", FINALIZER], "annotations": {PROVISIONED_BY: disk::NAME}},
        "spec": {
            "csi": {"driver": disk::NAME, "volumeHandle": "pvc-u1"}, "persistentVolumeReclaimPolicy": policy,
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": disk::TOPOLOGY, "operator": "In", "values": [node]}]}]}}
        },
        "status": {"phase": "Released"}
    }))
}

#[tokio::test]
async fn a_released_volume_goes_as_its_policy_says_where_it_is() {
    for (policy, node, goes) in [("Delete", "n1", true), ("Retain", "n1", false), ("Delete", "n2", false)] {
        let place = Place::new(&format!("released-{policy}-{node}"));
        let volume = released(policy, node);
        let answer = {
            let volume = serde_json::to_value(&volume).unwrap();
            move |_: &str, _: &str, _: &Value| (200, volume.clone())
        };
        let (made, mut written) = provisioner(&place, (Vec::new(), vec![volume]), answer);
        let claim = disk::Claim::default();
        made.disk.create(disk::New { handle: "pvc-u1".to_owned(), claim, bytes: 0, block: false }).await.unwrap();
        made.disk.keep("pvc-u1").await.unwrap();
        assert_eq!(made.step(&Key::Volume("pvc-u1".to_owned())).await, Step::Done);
        assert_eq!(place.there().is_empty(), goes, "{policy} on {node}");
        if goes {
            let (request, options) = next(&mut written, "/persistentvolumes/").await;
            assert_eq!((request.as_str(), &options["preconditions"]["uid"]), ("DELETE /api/v1/persistentvolumes/pvc-u1 200", &json!("v1")));
        }
        if node == "n1" {
            let (_, change) = next(&mut written, "PATCH /api/v1/persistentvolumes/pvc-u1").await;
            assert_eq!(change["metadata"], json!({"finalizers": ["kubernetes.io/pv-protection"], "resourceVersion": "9"}));
        }
        assert!(written.passed.is_empty() && written.heard.try_recv().is_err(), "nothing else");
    }
}

#[tokio::test]
async fn what_cannot_be_stored_leaves_no_image() {
    let place = Place::new("unstored");
    let (made, mut written) = provisioner(&place, (vec![claim()], Vec::new()), |method, path, sent| match (method, path) {
        ("POST", "/api/v1/persistentvolumes") => refusal(422, "Invalid"),
        _ => echo(method, path, sent),
    });
    assert_eq!(made.step(&Key::Claim(claim().key(), "u1".to_owned())).await, Step::Again);
    assert!(place.there().is_empty());
    let mut reasons = Vec::new();
    for _ in 0..2 {
        let (_, event) = next(&mut written, "/events").await;
        reasons.push((event["reason"].as_str().unwrap().to_owned(), event["message"].as_str().unwrap().to_owned()));
    }
    assert!(
        reasons.iter().any(|(r, m)| r == "ProvisioningFailed"
            && m.starts_with("Error creating provisioned PV object for claim ns/data: ")
            && m.ends_with(" Deleting the volume.")),
        "{reasons:?}"
    );
}

#[tokio::test]
async fn an_image_that_had_its_volume_outlives_a_refusal() {
    let place = Place::new("unstored-kept");
    let (made, mut written) = provisioner(&place, (vec![claim()], Vec::new()), |method, path, sent| match (method, path) {
        ("POST", "/api/v1/persistentvolumes") => refusal(422, "Invalid"),
        _ => echo(method, path, sent),
    });
    let own = disk::Claim { namespace: "ns".to_owned(), name: "data".to_owned(), uid: "u1".to_owned() };
    made.disk.create(disk::New { handle: "pvc-u1".to_owned(), claim: own, bytes: 2 << 20, block: false }).await.unwrap();
    made.disk.keep("pvc-u1").await.unwrap();
    assert_eq!(made.step(&Key::Claim(claim().key(), "u1".to_owned())).await, Step::Again);
    assert_eq!(place.there(), ["pvc-u1"]);
    let mut told = Vec::new();
    for _ in 0..2 {
        let (_, event) = next(&mut written, "/events").await;
        told.push(event["message"].as_str().unwrap().to_owned());
    }
    assert!(told.iter().any(|m| m.starts_with("Error creating provisioned PV object for claim ns/data: ") && !m.contains("Deleting")), "{told:?}");
}

#[tokio::test]
async fn what_is_in_memory_may_be_old_and_deletes_nothing() {
    let another = |change: &dyn Fn(&mut Value)| {
        let mut live = serde_json::to_value(released("Delete", "n1")).unwrap();
        change(&mut live);
        (200, live)
    };
    let lives = [
        another(&|live| live["spec"]["persistentVolumeReclaimPolicy"] = json!("Retain")),
        another(&|live| live["status"]["phase"] = json!("Bound")),
        another(&|live| live["metadata"]["uid"] = json!("v2")),
        refusal(404, "NotFound"),
    ];
    for (at, live) in lives.into_iter().enumerate() {
        let place = Place::new(&format!("old-{at}"));
        let (made, mut written) = provisioner(&place, (Vec::new(), vec![released("Delete", "n1")]), move |_, _, _| live.clone());
        made.disk.create(disk::New { handle: "pvc-u1".to_owned(), claim: disk::Claim::default(), bytes: 0, block: false }).await.unwrap();
        made.disk.keep("pvc-u1").await.unwrap();
        assert_eq!(made.step(&Key::Volume("pvc-u1".to_owned())).await, Step::Done);
        assert_eq!(place.there(), ["pvc-u1"], "{at}");
        assert!(written.passed.is_empty() && written.heard.try_recv().is_err(), "nothing is written");
    }
}

#[tokio::test]
async fn a_size_that_cannot_be_is_told_and_a_full_disk_gives_the_node_back() {
    for (size, code, gives_back) in [("1Ei", "OutOfRange", false), ("15Ti", "ResourceExhausted", true)] {
        let place = Place::new(&format!("size-{size}"));
        let large = with(|s| s.resources = Some(typed(json!({"requests": {"storage": size}}))));
        let stored = serde_json::to_value(&large).unwrap();
        let (made, mut written) = provisioner(&place, (vec![large], Vec::new()), move |method, path, sent| match method {
            "GET" => (200, stored.clone()),
            _ => echo(method, path, sent),
        });
        let step = made.step(&Key::Claim(claim().key(), "u1".to_owned())).await;
        assert_eq!(step, if gives_back { Step::Done } else { Step::Again });
        if gives_back {
            let (_, put) = next(&mut written, "PUT /api/v1/namespaces/ns/persistentvolumeclaims/data").await;
            assert_eq!(put["metadata"]["annotations"], json!({PROVISIONER: disk::NAME}));
        }
        let mut events = Vec::new();
        while events.len() < 2 {
            let (_, event) = next(&mut written, "/events").await;
            events.push(event);
        }
        let words = format!("failed to provision volume with StorageClass \"standard\": rpc error: code = {code} desc = ");
        let told = events.iter().any(|e| e["reason"] == "ProvisioningFailed" && e["message"].as_str().unwrap().starts_with(&words));
        assert!(told, "{events:?}");
        assert!(place.there().is_empty());
    }
}
