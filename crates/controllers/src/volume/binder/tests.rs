use client::storage::{BIND_COMPLETED, BOUND_BY_CONTROLLER};
use serde_json::{Value, json};

use super::shelf::Shelf;
use super::volumes::Reclaim;
use super::*;
use crate::volume::migrated;

const GIB: &str = "1Gi";

/// A claim in namespace `n` with the UID `U-NAME`, for 1 GiB, once by a node.
pub(super) fn claim(name: &str, with: Value) -> Arc<PersistentVolumeClaim> {
    let mut claim = json!({"metadata": {"namespace": "n", "name": name, "uid": format!("U-{name}"), "resourceVersion": "5"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": GIB}}}, "status": {"phase": "Pending"}});
    merge(&mut claim, with);
    Arc::new(client::typed(&claim).expect("a claim"))
}

/// A free volume of this size, once by a node.
pub(super) fn volume(name: &str, size: &str, with: Value) -> Arc<PersistentVolume> {
    let mut volume = json!({"metadata": {"name": name, "uid": format!("U-{name}"), "resourceVersion": "5"},
        "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": size}, "persistentVolumeReclaimPolicy": "Retain"},
        "status": {"phase": "Available"}});
    merge(&mut volume, with);
    Arc::new(client::typed(&volume).expect("a volume"))
}

pub(super) fn merge(into: &mut Value, with: Value) {
    machinery::patch::merge(into, &with);
}

pub(super) fn owner(name: &str, uid: &str) -> Value {
    json!({"spec": {"claimRef": {"kind": "PersistentVolumeClaim", "namespace": "n", "name": name, "uid": uid}}})
}

fn class(name: &str, mode: &str, provisioner: &str, is_default: bool) -> StorageClass {
    let annotations = json!({"storageclass.kubernetes.io/is-default-class": is_default.to_string()});
    client::typed(&json!({"metadata": {"name": name, "annotations": annotations}, "provisioner": provisioner, "volumeBindingMode": mode})).expect("a class")
}

fn shelf(volumes: &[Arc<PersistentVolume>], claims: &[Arc<PersistentVolumeClaim>]) -> Shelf {
    let shelf = Shelf::default();
    for volume in volumes {
        shelf.heard_volume(&Delta::Added(volume.clone()));
    }
    for claim in claims {
        shelf.heard_claim(&Delta::Added(claim.clone()));
    }
    shelf
}

fn chosen(volumes: &[Arc<PersistentVolume>], claim: &PersistentVolumeClaim, waits_for_pod: bool) -> String {
    let shelf = shelf(volumes, &[]);
    let hold = shelf.choose(claim, waits_for_pod);
    hold.map_or_else(|| "none".to_owned(), |hold| hold.volume.name().to_owned())
}

#[test]
fn a_claim_gets_the_smallest_volume_that_suits() {
    let free = [
        volume("large", "10Gi", json!({})),
        volume("fits", "2Gi", json!({})),
        volume("small", "512Mi", json!({})),
        volume("block", GIB, json!({"spec": {"volumeMode": "Block"}})),
        volume("gold", GIB, json!({"spec": {"storageClassName": "gold"}})),
        volume("fast", GIB, json!({"spec": {"volumeAttributesClassName": "fast"}})),
        volume("many", GIB, json!({"spec": {"accessModes": ["ReadWriteMany", "ReadWriteOnce"]}})),
        volume("labelled", "5Gi", json!({"metadata": {"labels": {"disk": "ssd"}}})),
        volume("pending", GIB, json!({"status": {"phase": "Pending"}})),
        volume("going", GIB, json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})),
        volume("taken", GIB, owner("other", "")),
    ];
    let wish = |with: Value| chosen(&free, &claim("c", with), false);
    assert_eq!(wish(json!({})), "fits", "not one of more modes, though it is smaller");
    assert_eq!(wish(json!({"spec": {"resources": {"requests": {"storage": "3Gi"}}}})), "labelled");
    assert_eq!(wish(json!({"spec": {"resources": {"requests": {"storage": "11Gi"}}}})), "none");
    assert_eq!(wish(json!({"spec": {"volumeMode": "Block"}})), "block");
    assert_eq!(wish(json!({"spec": {"storageClassName": "gold"}})), "gold");
    assert_eq!(wish(json!({"metadata": {"annotations": {"volume.beta.kubernetes.io/storage-class": "gold"}}})), "gold");
    assert_eq!(wish(json!({"spec": {"volumeAttributesClassName": "fast"}})), "fast");
    assert_eq!(wish(json!({"spec": {"accessModes": ["ReadWriteMany"]}})), "many");
    assert_eq!(wish(json!({"spec": {"accessModes": ["ReadWriteOncePod"]}})), "none");
    assert_eq!(wish(json!({"spec": {"selector": {"matchLabels": {"disk": "ssd"}}}})), "labelled");
    let selector = |expressions: Value| wish(json!({"spec": {"selector": {"matchExpressions": expressions}}}));
    assert_eq!(selector(json!([{"key": "disk", "operator": "In", "values": ["hdd"]}])), "none");
    assert_eq!(selector(json!([{"key": "disk", "operator": "In", "values": ["hdd", "ssd"]}])), "labelled");
    assert_eq!(selector(json!([{"key": "disk", "operator": "Exists"}])), "labelled");
    assert_eq!(selector(json!([{"key": "disk", "operator": "NotIn", "values": ["ssd"]}])), "fits");
    assert_eq!(selector(json!([{"key": "disk", "operator": "In", "values": ["ssd"]}, {"key": "zone", "operator": "Exists"}])), "none");
    assert_eq!(chosen(&free, &claim("c", json!({})), true), "none", "the scheduler chooses among free ones");
}

#[test]
fn a_volume_that_names_the_claim_comes_before_free_ones() {
    let named = |with: Value| {
        let mut all = owner("c", "");
        merge(&mut all, with);
        [volume("free", GIB, json!({})), volume("named", "9Gi", all)]
    };
    let c = claim("c", json!({}));
    assert_eq!(chosen(&named(json!({})), &c, false), "named");
    assert_eq!(chosen(&named(json!({})), &c, true), "named", "also where the scheduler chooses");
    assert_eq!(chosen(&named(json!({"spec": {"storageClassName": "x", "claimRef": {"uid": "U-c"}}})), &c, false), "named", "whatever its class");
    assert_eq!(chosen(&named(json!({"spec": {"claimRef": {"uid": "former"}}})), &c, false), "free", "a former claim of the name");
    assert_eq!(chosen(&named(json!({"spec": {"volumeMode": "Block"}})), &c, false), "free");
    assert_eq!(chosen(&named(json!({"spec": {"accessModes": ["ReadWriteOnce", "ReadOnlyMany"]}})), &c, false), "free", "fewer modes come first, as upstream");
}

#[test]
fn no_two_steps_choose_one_volume() {
    let shelf = shelf(&[volume("a", GIB, json!({})), volume("b", "2Gi", json!({}))], &[]);
    let (one, two) = (claim("one", json!({})), claim("two", json!({})));
    let first = shelf.choose(&one, false).expect("a volume");
    let second = shelf.choose(&two, false).expect("another");
    assert_eq!((first.volume.name(), second.volume.name()), ("a", "b"));
    assert!(shelf.choose(&claim("three", json!({})), false).is_none());
    drop(first);
    assert_eq!(shelf.choose(&two, false).map(|h| h.volume.name().to_owned()).as_deref(), Some("a"));
}

#[test]
fn a_labelled_volume_is_found_while_it_is_free_and_for_one_claim() {
    let ssd = json!({"spec": {"selector": {"matchLabels": {"disk": "ssd"}}}});
    let labelled = |name: &str, size: &str| volume(name, size, json!({"metadata": {"labels": {"disk": "ssd"}}}));
    let claims: Vec<_> = ["a", "b", "c"].map(|name| claim(name, ssd.clone())).into();
    let shelf = shelf(&[labelled("large", "2Gi"), labelled("small", GIB), volume("plain", GIB, json!({}))], &claims);
    assert_eq!(shelf.matches("").len(), 2, "each volume is for one");
    let first = shelf.choose(&claims[0], false).expect("a volume");
    assert_eq!(first.volume.name(), "small");
    assert_eq!(shelf.choose(&claims[1], false).map(|h| h.volume.name().to_owned()).as_deref(), Some("large"));
    drop(first);
    let mut taken = owner("x", "U-x");
    merge(&mut taken, json!({"metadata": {"labels": {"disk": "ssd"}}}));
    shelf.heard_volume(&Delta::Added(volume("small", GIB, taken)));
    assert_eq!(shelf.choose(&claims[0], false).map(|h| h.volume.name().to_owned()).as_deref(), Some("large"));
    shelf.heard_volume(&Delta::Added(volume("large", "2Gi", json!({"metadata": {"labels": {"disk": "hdd"}}}))));
    assert!(shelf.choose(&claims[0], false).is_none(), "it lost its label");
}

#[test]
fn free_volumes_wake_the_oldest_claims_and_no_more() {
    let at = |second: u32| json!({"metadata": {"creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")}});
    let claims: Vec<_> = [("young", 9), ("old", 1), ("middle", 5)].map(|(name, second)| claim(name, at(second))).into();
    let shelf = shelf(&[], &claims);
    assert!(shelf.matches("").is_empty());
    let free = |name: &str, size: &str| shelf.heard_volume(&Delta::Added(volume(name, size, json!({}))));
    assert!(free("v", GIB) && !free("v", GIB) && free("w", "2Gi") && free("too-small", "1Mi"));
    let woken: Vec<String> = shelf.matches("").iter().map(|k| k.name.clone()).collect();
    assert_eq!(woken, ["old", "middle"]);
    assert!(shelf.matches("gold").is_empty());
    // What has a volume, or its name, waits no more.
    shelf.heard_claim(&Delta::Added(claim("old", json!({"spec": {"volumeName": "v"}}))));
    shelf.heard_claim(&Delta::Deleted(claim("middle", json!({}))));
    assert_eq!(shelf.matches("").len(), 1);
    assert_eq!((shelf.asking("v"), shelf.is_waiting(&ObjectKey::new("n", "young"))), (vec![ObjectKey::new("n", "old")], true));
}

#[test]
fn a_free_volume_is_not_kept_for_a_claim_that_has_another() {
    let (a, b, c) = (claim("a", json!({})), claim("b", json!({})), claim("c", json!({})));
    let shelf = shelf(&[volume("v", GIB, json!({}))], &[a.clone(), b, c]);
    let hold = shelf.choose(&a, false).expect("a volume");
    assert!(shelf.heard_volume(&Delta::Added(volume("w", GIB, json!({})))));
    let woken = || shelf.matches("").iter().map(|k| k.name.clone()).collect::<Vec<_>>();
    assert_eq!(woken(), ["b"], "a is being bound to v");
    drop(hold);
    assert_eq!(woken(), ["a", "b"]);
    // One of those that were woken goes, or is bound by somebody else: another may have what was meant for it.
    assert_eq!(shelf.heard_claim(&Delta::Deleted(a)).as_deref(), Some(""));
    let bound = claim("b", json!({"metadata": {"resourceVersion": "6"}, "spec": {"volumeName": "elsewhere"}}));
    assert_eq!((shelf.wrote_claim(&bound).as_deref(), shelf.wrote_claim(&bound)), (Some(""), None));
    assert_eq!(woken(), ["c"]);
    // A label that a selector asks for comes later.
    let chooser = claim("chooser", json!({"spec": {"storageClassName": "x", "selector": {"matchLabels": {"a": "b"}}}}));
    shelf.heard_claim(&Delta::Added(chooser));
    let of_class =
        |labels: Value, version: &str| volume("x", GIB, json!({"metadata": {"labels": labels, "resourceVersion": version}, "spec": {"storageClassName": "x"}}));
    assert!(shelf.heard_volume(&Delta::Added(of_class(json!({}), "5"))) && shelf.matches("x").is_empty());
    let labelled = of_class(json!({"a": "b"}), "6");
    assert!(shelf.heard_volume(&Delta::Updated { old: of_class(json!({}), "5"), new: labelled }) && shelf.matches("x").len() == 1);
}

#[test]
fn what_was_heard_to_be_gone_is_not_put_back() {
    let with = |version: &str, uid: &str| volume("v", GIB, json!({"metadata": {"resourceVersion": version, "uid": uid}}));
    let shelf = shelf(&[with("5", "a")], &[]);
    let version = || shelf.volume("v").map(|v| v.resource_version().to_owned());
    shelf.wrote_volume(&with("7", "a"));
    shelf.heard_volume(&Delta::Updated { old: with("5", "a"), new: with("6", "a") });
    assert_eq!(version().as_deref(), Some("7"), "an own write is newer than what is heard late");
    shelf.heard_volume(&Delta::Deleted(with("8", "a")));
    shelf.wrote_volume(&with("7", "a"));
    assert_eq!(version(), None, "the answer came after the deletion");
    shelf.heard_volume(&Delta::Added(with("9", "b")));
    shelf.wrote_volume(&with("10", "a"));
    assert_eq!(version().as_deref(), Some("9"), "the answer was about a former volume of the name");
    assert_eq!(shelf.matches("").len(), 0);
}

/// What is due about a claim, in a word.
fn told(claim: &Arc<PersistentVolumeClaim>, volumes: &[Arc<PersistentVolume>], classes: &[StorageClass], pods: &[Value]) -> String {
    let pods = Informer::fixed(pods.iter().map(|pod| client::typed::<Pod>(pod).expect("a pod")));
    index_claims(&pods);
    let (shelf, classes) = (shelf(volumes, &[]), Informer::fixed(classes.to_vec()));
    let say = |note: &Note| format!("{:?} {}: {}", note.kind, note.reason, note.message);
    match (Sight { shelf: &shelf, classes: &classes, pods: &pods }).due(claim) {
        claims::Due::Bind(chosen) => format!("bind {}", chosen.volume().name()),
        claims::Due::Adopt(class) => format!("class {class}"),
        claims::Due::Wait(note) => note.map_or_else(|| "wait".to_owned(), |n| format!("wait {}", say(&n))),
        claims::Due::Provision { provisioner, note } => format!("{provisioner} {}", say(&note)),
        claims::Due::Refuse(note) => say(&note),
        claims::Due::Misbound { note, why } => format!("{} / {why}", say(&note)),
        claims::Due::Lost { reason, message } => format!("lost {reason}: {message}"),
    }
}

#[test]
fn a_claim_without_a_volume_says_what_it_waits_for() {
    let classes = [class("now", "Immediate", "disk.knarr.local", false), class("later", "WaitForFirstConsumer", "disk.knarr.local", false)];
    let of = |name: &str| claim("c", json!({"spec": {"storageClassName": name}}));
    let pod = |name: &str, node: &str, phase: &str| {
        let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
        json!({"metadata": {"namespace": "n", "name": name}, "spec": {"containers": [], "nodeName": node, "volumes": volumes}, "status": {"phase": phase}})
    };
    let plain = claim("c", json!({}));
    assert_eq!(told(&plain, &[], &[], &[]), "wait Normal FailedBinding: no persistent volumes available for this claim and no storage class is set");
    assert_eq!(told(&of(""), &[], &[class("d", "Immediate", "p", true)], &[]), told(&plain, &[], &[], &[]), "none is a class of its own");
    assert_eq!(told(&plain, &[], &[class("a", "Immediate", "p", true), class("b", "Immediate", "p", true)], &[]), "class a");
    assert_eq!(told(&plain, &[volume("v", GIB, json!({}))], &[class("d", "Immediate", "p", true)], &[]), "bind v", "before a default is set");
    assert_eq!(told(&of("gone"), &[], &classes, &[]), "Warning ProvisioningFailed: storageclass.storage.k8s.io \"gone\" not found");
    let external = "disk.knarr.local Normal ExternalProvisioning: Waiting for a volume to be created either by the external provisioner \
        'disk.knarr.local' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running \
        and correctly registered.";
    assert_eq!(told(&of("now"), &[], &classes, &[]), external);
    let first = "wait Normal WaitForFirstConsumer: waiting for first consumer to be created before binding";
    assert_eq!(told(&of("later"), &[], &classes, &[]), first);
    assert_eq!(told(&of("later"), &[], &classes, &[pod("p", "node", "Running"), pod("q", "", "Failed")]), first);
    let one = [pod("p", "", "Pending")];
    assert_eq!(told(&of("later"), &[], &classes, &one), "wait Normal WaitForPodScheduled: waiting for pod p to be scheduled");
    let two = [pod("p", "", "Pending"), pod("q", "", "Pending")];
    assert_eq!(told(&of("later"), &[], &classes, &two), "wait Normal WaitForPodScheduled: waiting for pods p,q to be scheduled");
    let selected = json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "node"}}, "spec": {"storageClassName": "later"}});
    assert_eq!(told(&claim("c", selected), &[], &classes, &[]), external);
    let by = |provisioner: &str| told(&of("x"), &[], &[class("x", "Immediate", provisioner, false)], &[]);
    assert_eq!(by("kubernetes.io/no-provisioner"), "Warning ProvisioningFailed: no volume plugin matched name: kubernetes.io/no-provisioner");
    assert_eq!(
        by("kubernetes.io/host-path"),
        "kubernetes.io/host-path Warning ProvisioningFailed: Failed to create provisioner: provisioning in volume plugin \"kubernetes.io/host-path\" is disabled"
    );
    assert!(by("kubernetes.io/aws-ebs").starts_with("ebs.csi.aws.com Normal ExternalProvisioning: Waiting"));
}

#[test]
fn a_claim_that_names_a_volume_gets_that_one_or_says_why_not() {
    let c = |with: Value| {
        let mut all = json!({"spec": {"volumeName": "v"}});
        merge(&mut all, with);
        claim("c", all)
    };
    let of = |with: Value| told(&c(json!({})), &[volume("v", GIB, with)], &[], &[]);
    assert_eq!(told(&c(json!({})), &[], &[], &[]), "wait", "it may come");
    assert_eq!(of(json!({})), "bind v");
    assert_eq!(of(owner("c", "U-c")), "bind v");
    assert_eq!(of(owner("c", "")), "bind v");
    assert_eq!(of(json!({"status": {"phase": "Pending"}})), "bind v", "whatever its phase");
    for (with, why) in [
        (json!({"spec": {"capacity": {"storage": "1Mi"}}}), "requested PV is too small"),
        (json!({"spec": {"storageClassName": "x"}}), "storageClassName does not match"),
        (json!({"spec": {"volumeAttributesClassName": "x"}}), "volumeAttributesClassName does not match"),
        (json!({"spec": {"volumeMode": "Block"}}), "incompatible volumeMode"),
        (json!({"spec": {"accessModes": ["ReadOnlyMany"]}}), "incompatible accessMode"),
        (json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}), "the volume is marked for deletion \"v\""),
    ] {
        assert_eq!(of(with), format!("wait Warning VolumeMismatch: Cannot bind to requested volume \"v\": {why}"));
    }
    let other = [volume("v", GIB, owner("d", "U-d"))];
    assert_eq!(told(&c(json!({})), &other, &[], &[]), "wait Warning FailedBinding: volume \"v\" already bound to a different claim.");
    let by_controller = c(json!({"metadata": {"annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}}}));
    assert_eq!(
        told(&by_controller, &other, &[], &[]),
        "Warning FailedBinding: volume \"v\" already bound to a different claim. / invalid binding of claim \"n/c\" to volume \"v\": volume already claimed by \"n/d\""
    );
}

#[test]
fn a_claim_that_had_a_volume_keeps_it_or_is_lost() {
    let bound = |name: &str| claim("c", json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": name}}));
    assert_eq!(told(&bound(""), &[], &[], &[]), "lost ClaimLost: Bound claim has lost reference to PersistentVolume. Data on the volume is lost!");
    assert_eq!(told(&bound("v"), &[], &[], &[]), "lost ClaimLost: Bound claim has lost its PersistentVolume. Data on the volume is lost!");
    assert_eq!(told(&bound("v"), &[volume("v", GIB, json!({}))], &[], &[]), "bind v", "the volume's side is made again");
    assert_eq!(told(&bound("v"), &[volume("v", "1Mi", owner("c", "U-c"))], &[], &[]), "bind v", "what was bound is not judged again");
    assert_eq!(
        told(&bound("v"), &[volume("v", GIB, owner("c", "former"))], &[], &[]),
        "lost ClaimMisbound: Two claims are bound to the same volume, this one is bound incorrectly"
    );
}

#[test]
fn a_volume_follows_its_claim() {
    let due = |with: Value, claim: Option<&PersistentVolumeClaim>| volumes::due(&volume("v", GIB, with), claim);
    let (none, has, other) = (claim("c", json!({})), claim("c", json!({"spec": {"volumeName": "v"}})), claim("c", json!({"spec": {"volumeName": "w"}})));
    let mine = || owner("c", "U-c");
    let made = |policy: &str| {
        let mut made = mine();
        merge(&mut made, json!({"metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": "d"}}, "spec": {"persistentVolumeReclaimPolicy": policy}}));
        made
    };
    assert_eq!(due(json!({}), None), volumes::Due::Phase("Available"));
    assert_eq!(due(owner("c", ""), Some(&none)), volumes::Due::Phase("Available"), "set aside");
    assert_eq!(due(mine(), None), volumes::Due::Release);
    assert_eq!(due(mine(), Some(&none)), volumes::Due::Claim);
    assert_eq!(due(mine(), Some(&has)), volumes::Due::Phase("Bound"));
    assert_eq!(due(mine(), Some(&other)), volumes::Due::Unbind);
    assert_eq!(due(made("Delete"), Some(&other)), volumes::Due::Release, "nobody else wants it");
    assert_eq!(due(made("Retain"), Some(&other)), volumes::Due::Unbind);
    let block = claim("c", json!({"spec": {"volumeMode": "Block"}}));
    let (of_volume, of_claim) = (
        "Cannot bind PersistentVolume to requested PersistentVolumeClaim \"c\" due to incompatible volumeMode.",
        "Cannot bind PersistentVolume \"v\" to requested PersistentVolumeClaim due to incompatible volumeMode.",
    );
    assert_eq!(due(mine(), Some(&block)), volumes::Due::Mismatch { volume: of_volume.to_owned(), claim: of_claim.to_owned() });
}

#[test]
fn a_released_volume_stays_goes_or_says_why_it_cannot() {
    let reclaim = |policy: &str, source: (&str, Value), by: Option<&str>| {
        let mut with = json!({"spec": {"persistentVolumeReclaimPolicy": policy}});
        with["spec"][source.0] = source.1;
        if let Some(by) = by {
            with["metadata"] = json!({"annotations": {"pv.kubernetes.io/provisioned-by": by}});
        }
        match volumes::reclaim(&volume("v", GIB, with)) {
            Reclaim::Nothing => "nothing".to_owned(),
            Reclaim::Recycle => "recycle".to_owned(),
            Reclaim::Fail(note) => format!("{} {}", note.reason, note.message),
        }
    };
    let (csi, path, nfs) =
        (("csi", json!({"driver": "d", "volumeHandle": "h"})), ("hostPath", json!({"path": "/data"})), ("nfs", json!({"server": "s", "path": "/"})));
    assert_eq!(reclaim("Retain", path.clone(), None), "nothing");
    assert_eq!(reclaim("Delete", csi.clone(), None), "nothing", "its provisioner removes it");
    assert_eq!(reclaim("Delete", path.clone(), Some("some.provisioner")), "nothing");
    assert_eq!(reclaim("Delete", path.clone(), None), "VolumeFailedDelete host_path deleter only supports /tmp/.+ but received provided /data");
    assert_eq!(
        reclaim("Delete", nfs.clone(), None),
        "VolumeFailedDelete error getting deleter volume plugin for volume \"v\": no deletable volume plugin matched"
    );
    assert_eq!(
        reclaim("Delete", ("local", json!({"path": "/x"})), None),
        "VolumeFailedDelete error getting deleter volume plugin for volume \"v\": no volume plugin matched"
    );
    assert_eq!(reclaim("Delete", csi.clone(), Some("kubernetes.io/quobyte")), "VolumeFailedDelete no volume plugin matched name: kubernetes.io/quobyte");
    assert_eq!((reclaim("Recycle", path, None), reclaim("Recycle", nfs, None)), ("recycle".to_owned(), "recycle".to_owned()));
    assert_eq!(reclaim("Recycle", csi.clone(), None), "VolumeFailedRecycle No recycler plugin found for the volume!");
    assert_eq!(reclaim("Burn", csi, None), "VolumeUnknownReclaimPolicy Volume has unrecognized PersistentVolumeReclaimPolicy");
}

#[test]
fn a_binding_is_four_states_and_each_is_written_once() {
    let (c, v) = (claim("c", json!({})), volume("v", "2Gi", json!({"spec": {"volumeAttributesClassName": "fast"}})));
    let v1 = bind::volume_to_claim(&v, &c).expect("a change");
    let owner_of = v1.spec.as_ref().and_then(|s| s.claim_ref.clone()).expect("an owner");
    assert_eq!((owner_of.kind.as_deref(), owner_of.api_version.as_deref(), owner_of.uid.as_deref()), (Some("PersistentVolumeClaim"), Some("v1"), Some("U-c")));
    assert_eq!((v1.annotation(BOUND_BY_CONTROLLER), bind::volume_to_claim(&v1, &c)), (Some("yes"), None));
    let v2 = bind::with_phase(&v1, "Bound", "").expect("a change");
    assert_eq!(bind::with_phase(&v2, "Bound", ""), None);
    let c1 = bind::claim_to_volume(&c, &v2).expect("a change");
    assert_eq!((c1.annotation(BOUND_BY_CONTROLLER), c1.annotation(BIND_COMPLETED), volume_name(&c1)), (Some("yes"), Some("yes"), "v"));
    assert_eq!(bind::claim_to_volume(&c1, &v2), None);
    let c2 = bind::with_status(&c1, "Bound", Some(&v2)).expect("a size").expect("a change");
    let status = c2.status.clone().unwrap_or_default();
    assert_eq!((status.phase.as_deref(), status.capacity.map(|c| c["storage"].0.clone()).as_deref()), (Some("Bound"), Some("2Gi")));
    assert_eq!((status.access_modes, status.current_volume_attributes_class_name.as_deref()), (Some(vec!["ReadWriteOnce".to_owned()]), Some("fast")));
    assert_eq!(bind::with_status(&c2, "Bound", Some(&v2)), Ok(None));
    // What was set aside by a user or made for the claim is not the controller's.
    let aside = volume("v", GIB, owner("c", ""));
    let v1 = bind::volume_to_claim(&aside, &c).expect("a UID");
    assert_eq!(v1.annotation(BOUND_BY_CONTROLLER), None);
    let asked = claim("c", json!({"spec": {"volumeName": "v"}}));
    assert_eq!(bind::claim_to_volume(&asked, &v1).map(|c| c.annotation(BOUND_BY_CONTROLLER).is_some()), Some(false));
}

#[test]
fn sizes_are_told_when_a_claim_becomes_bound_and_not_after() {
    let size = |claim: &PersistentVolumeClaim| held_text(claim);
    let v = volume("v", "2Gi", json!({}));
    let resized = claim("c", json!({"status": {"phase": "Bound", "capacity": {"storage": GIB}, "accessModes": ["ReadWriteOnce"]}}));
    assert_eq!(bind::with_status(&resized, "Bound", Some(&v)), Ok(None), "the file system has not grown yet");
    let growing = volume("v", "2Gi", json!({"metadata": {"annotations": {"volume.alpha.kubernetes.io/pre-resize-capacity": GIB}}}));
    let next = bind::with_status(&claim("c", json!({})), "Bound", Some(&growing)).expect("a size").expect("a change");
    assert_eq!(size(&next), GIB);
    let sizeless = volume("v", GIB, json!({"spec": {"capacity": null}}));
    assert_eq!(bind::with_status(&claim("c", json!({})), "Bound", Some(&sizeless)), Err("PersistentVolume \"v\" is without a storage capacity".to_owned()));
    let lost = bind::with_status(&resized, "Lost", None).expect("a phase").expect("a change");
    assert_eq!(lost.status.map(|s| (s.phase, s.capacity, s.access_modes)), Some((Some("Lost".to_owned()), None, None)));
}

fn held_text(claim: &PersistentVolumeClaim) -> String {
    claim.status.as_ref().and_then(|s| s.capacity.as_ref()).map(|c| c["storage"].0.clone()).unwrap_or_default()
}

#[test]
fn a_volume_keeps_the_finalizer_of_who_removes_it() {
    let annealed = |by: &str, policy: &str, finalizers: &[&str]| {
        let with = json!({"metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": by}, "finalizers": finalizers},
            "spec": {"persistentVolumeReclaimPolicy": policy}});
        volumes::annealed(&volume("v", GIB, with)).map(|v| (v.annotation(migrated::MIGRATED_TO).map(str::to_owned), v.metadata.finalizers.unwrap_or_default()))
    };
    let (ours, theirs) = ("kubernetes.io/pv-controller", volumes::EXTERNAL_FINALIZER);
    assert_eq!(annealed("disk.knarr.local", "Delete", &[theirs]), None);
    assert_eq!(annealed("kubernetes.io/aws-ebs", "Delete", &[ours, theirs]), Some((Some("ebs.csi.aws.com".to_owned()), vec![theirs.to_owned()])));
    assert_eq!(annealed("kubernetes.io/quobyte", "Delete", &[theirs]), Some((None, vec![ours.to_owned()])));
    assert_eq!(annealed("kubernetes.io/quobyte", "Delete", &[ours]), None);
    assert_eq!(annealed("kubernetes.io/quobyte", "Retain", &["x", ours]), Some((None, vec!["x".to_owned()])));
    let free = bind::unbound(&volume("v", GIB, {
        let mut with = owner("c", "U-c");
        merge(&mut with, json!({"metadata": {"annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}}}));
        with
    }));
    assert!(free.spec.is_some_and(|s| s.claim_ref.is_none()) && free.metadata.annotations.is_none_or(|a| a.is_empty()));
    let aside = bind::unbound(&volume("v", GIB, owner("c", "U-c"))).spec.and_then(|s| s.claim_ref);
    assert_eq!(aside.map(|o| (o.name, o.uid)), Some((Some("c".to_owned()), None)), "the user's own word stays");
}
