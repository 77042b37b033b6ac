//! Placements by volumes, in tables; the cases are those of upstream's plugin tests.

use client::{Informer, Object};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::tests::{decide, node, place_in, plain, pod, standard};
use super::volume_binding::{Step, plan};
use crate::framework::{Change, Turn};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::world::World;

fn objects<K: Object + DeserializeOwned>(values: &[Value]) -> Informer<K> {
    Informer::fixed(values.iter().map(|v| serde_json::from_value(v.clone()).unwrap_or_else(|e| panic!("{e}: {v}"))))
}

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap_or_else(|e| panic!("{e}"))
}

/// A pod with these claims.
fn user(name: &str, claims: &[&str]) -> std::sync::Arc<PodInfo> {
    let volumes: Vec<Value> = claims.iter().map(|c| json!({"name": c, "persistentVolumeClaim": {"claimName": c}})).collect();
    pod(name, json!({"volumes": volumes}))
}

fn claim(name: &str, volume: &str, class: &str, size: &str) -> Value {
    let annotations = if volume.is_empty() { json!({}) } else { json!({"pv.kubernetes.io/bind-completed": "yes"}) };
    json!({"metadata": {"namespace": "default", "name": name, "uid": name, "resourceVersion": "1", "annotations": annotations},
        "spec": {"volumeName": volume, "storageClassName": class, "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}})
}

fn csi_volume(name: &str, driver: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"csi": {"driver": driver, "volumeHandle": format!("h-{name}")}}})
}

fn volume(name: &str, class: &str, size: &str) -> Value {
    json!({"metadata": {"name": name, "resourceVersion": "1"}, "spec": {"storageClassName": class, "capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"]},
        "status": {"phase": "Available"}})
}

fn class(name: &str, provisioner: &str) -> Value {
    json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"})
}

fn why(world: &World, nodes: &[NodeInfo], pod: &PodInfo) -> String {
    place_in(world, nodes, pod).split(" preemption:").next().unwrap_or_default().to_owned()
}

#[test]
fn a_node_takes_as_many_volumes_as_its_drivers_say() {
    let csi_node = |count: Value| json!({"metadata": {"name": "a"}, "spec": {"drivers": [{"name": "d", "nodeID": "a", "allocatable": {"count": count}}]}});
    let world = |count: Value, attached: &[&str]| {
        let attachment = |pv: &&str| json!({"metadata": {"name": pv}, "spec": {"attacher": "d", "nodeName": "a", "source": {"persistentVolumeName": pv}}});
        let attachments: Vec<Value> = attached.iter().map(attachment).collect();
        World {
            claims: objects(&[claim("one", "one", "", "1"), claim("two", "two", "", "1"), claim("new", "", "later", "1")]),
            volumes: objects(&[csi_volume("one", "d"), csi_volume("two", "d"), csi_volume("three", "d")]),
            classes: objects(&[class("later", "d")]),
            csi_nodes: objects(&[csi_node(count)]),
            attachments: objects(&attachments),
            ..World::empty()
        }
        .indexed()
    };
    let nodes = [plain("a", &[user("x", &["one"])])];
    let full = "0/1 nodes are available: 1 node(s) exceed max volume count.";
    for (count, attached, claims, told) in [
        (json!(1), &[][..], &["two"][..], full),
        (json!(1), &[], &["one"], "a"),
        (json!(2), &[], &["two"], "a"),
        (json!(2), &[], &["one", "two"], "a"),
        (json!(2), &[], &["two", "new"], full),
        (json!(2), &["three"], &["two"], full),
        (json!(2), &["one"], &["two"], "a"),
        (json!(null), &[], &["two", "new"], "a"),
    ] {
        assert_eq!(why(&world(count.clone(), attached), &nodes, &user("p", claims)), told, "{count} {attached:?} {claims:?}");
    }
    let mut missing = world(json!(null), &[]);
    missing.drivers = objects(&[json!({"metadata": {"name": "d"}, "spec": {"preventPodSchedulingIfMissing": true}})]);
    assert_eq!(why(&missing, &nodes, &user("p", &["two"])), "a");
    missing.csi_nodes = objects(&[]);
    assert_eq!(why(&missing, &nodes, &user("p", &["two"])), "0/1 nodes are available: 1 d CSI driver is not installed on the node.");
}

#[test]
fn a_volume_is_reached_from_its_zone() {
    let zone = "topology.kubernetes.io/zone";
    let world = |labels: Value| {
        let volume = json!({"metadata": {"name": "v", "labels": labels}, "spec": {}});
        World { claims: objects(&[claim("c", "v", "", "1")]), volumes: objects(&[volume]), ..World::empty() }.indexed()
    };
    let nodes = [node("a", json!({zone: "1"}), json!({}), &[]), node("b", json!({zone: "2"}), json!({}), &[])];
    let p = user("p", &["c"]);
    assert_eq!(why(&world(json!({zone: "2"})), &nodes, &p), "b");
    assert_eq!(why(&world(json!({"failure-domain.beta.kubernetes.io/zone": "3__2"})), &nodes, &p), "b");
    assert_eq!(why(&world(json!({zone: "3"})), &nodes, &p), "0/2 nodes are available: 2 node(s) had no available volume zone.");
    assert_eq!(why(&world(json!({zone: "3"})), &[plain("c", &[])], &p), "c", "a cluster of one zone has no labels");
    let absent = World { claims: objects(&[claim("c", "v", "", "1")]), ..World::empty() }.indexed();
    assert_eq!(why(&absent, &nodes, &p), "0/2 nodes are available: persistentvolume \"v\" not found. not found");
}

#[test]
fn a_claim_for_one_pod_is_freed_by_preemption() {
    let mut alone = claim("c", "v", "", "1");
    alone["spec"]["accessModes"] = json!(["ReadWriteOncePod"]);
    let world = World { claims: objects(&[alone]), volumes: objects(&[volume("v", "", "1")]), ..World::empty() }.indexed();
    let nodes = [plain("a", &[user("x", &["c"])]), plain("b", &[])];
    let told = why(&world, &nodes, &user("p", &["c"]));
    let in_use = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod";
    assert_eq!(told, format!("0/2 nodes are available: 2 {in_use}."));
    let mut important = (*user("p", &["c"]).pod).clone();
    important.spec.as_mut().unwrap().priority = Some(10);
    let failure = decide(&world, &nodes, &PodInfo::new(std::sync::Arc::new(important))).expect_err("it waits");
    assert!(format!("{:?}", failure.preemption).contains("node: \"a\""), "{:?}", failure.preemption);
}

#[test]
fn disks_that_pods_name_themselves() {
    let disk = |read_only: bool| json!({"volumes": [{"name": "d", "iscsi": {"targetPortal": "p", "iqn": "i", "lun": 0, "readOnly": read_only}}]});
    let nodes = |other: bool| [plain("a", &[pod("x", disk(other))])];
    assert_eq!(why(&World::empty(), &nodes(false), &pod("p", disk(true))), "0/1 nodes are available: 1 node(s) had no available disk.");
    assert_eq!(why(&World::empty(), &nodes(true), &pod("p", disk(true))), "a");
}

#[test]
fn the_smallest_volume_that_does_and_the_smallest_claim_first() {
    let world = World {
        claims: objects(&[claim("big", "", "fast", "5Gi"), claim("small", "", "fast", "1Gi")]),
        classes: objects(&[class("fast", "kubernetes.io/no-provisioner")]),
        volumes: objects(&[volume("v10", "fast", "10Gi"), volume("v5", "fast", "5Gi"), volume("v6", "fast", "6Gi"), volume("other", "slow", "1Gi")]),
        ..World::empty()
    }
    .indexed();
    let node = plain("a", &[]);
    let mut world = world;
    let steps = plan(&user("p", &["big", "small"]), &node.node, &world);
    let bound = |steps: &[Step]| -> Vec<(String, String)> {
        steps
            .iter()
            .map(|step| match step {
                Step::Bind(claim, volume, _) => (claim.metadata.name.clone().unwrap(), volume.metadata.name.clone().unwrap()),
                Step::Provision(claim, _) => (claim.metadata.name.clone().unwrap(), "made".to_owned()),
            })
            .collect()
    };
    assert_eq!(bound(&steps), [("small".into(), "v5".into()), ("big".into(), "v6".into())]);
    let Step::Bind(_, _, then) = &steps[0] else { panic!("{steps:?}") };
    assert_eq!(then.metadata.annotations.as_ref().unwrap()["pv.kubernetes.io/bound-by-controller"], "yes");
    // What is decided counts at once, until it is taken back or the API has something newer.
    steps.iter().for_each(|step| step.assume(&mut world));
    let next = user("q", &["other"]);
    world.claims = objects(&[claim("other", "", "fast", "1Gi")]);
    assert_eq!(bound(&plan(&next, &node.node, &world)), [("other".into(), "v10".into())]);
    steps.iter().for_each(|step| step.revert(&mut world));
    assert_eq!(bound(&plan(&next, &node.node, &world)), [("other".into(), "v5".into())]);
}

#[test]
fn a_volume_that_is_meant_for_a_claim_is_taken_or_nothing() {
    let mut meant = volume("meant", "fast", "50Gi");
    meant["spec"]["claimRef"] = json!({"namespace": "default", "name": "c"});
    meant["spec"]["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "z", "operator": "In", "values": ["2"]}]}]}});
    let world = World {
        claims: objects(&[claim("c", "", "fast", "1Gi")]),
        classes: objects(&[class("fast", "kubernetes.io/no-provisioner")]),
        volumes: objects(&[volume("free", "fast", "1Gi"), meant]),
        ..World::empty()
    }
    .indexed();
    let nodes = [node("a", json!({"z": "1"}), json!({}), &[]), node("b", json!({"z": "2"}), json!({}), &[])];
    assert_eq!(why(&world, &nodes, &user("p", &["c"])), "b");
    let steps = plan(&user("p", &["c"]), &nodes[1].node, &world);
    let Step::Bind(_, _, then) = &steps[0] else { panic!("{steps:?}") };
    assert_eq!(then.metadata.annotations, None, "the user bound it");
    assert_eq!(then.spec.as_ref().unwrap().claim_ref.as_ref().unwrap().uid.as_deref(), Some("c"));
}

#[test]
fn volumes_of_other_claims_are_not_looked_at() {
    let of = |name: &str, class: &str, claim: &str, phase: &str| {
        let mut it = volume(name, class, "1Gi");
        it["spec"]["claimRef"] = json!({"namespace": "default", "name": claim, "uid": claim});
        it["status"]["phase"] = phase.into();
        it
    };
    let volumes = [of("a", "fast", "other", "Bound"), of("b", "fast", "c", "Bound"), of("d", "slow", "c", "Available"), volume("e", "fast", "1Gi")];
    let mut world = World {
        claims: objects(&[claim("c", "", "fast", "1Gi"), claim("x", "", "fast", "1Gi")]),
        classes: objects(&[class("fast", "kubernetes.io/no-provisioner")]),
        volumes: objects(&volumes),
        ..World::empty()
    }
    .indexed();
    let seen = |world: &World, claim: &str| -> Vec<(String, Option<String>)> {
        let all = world.volumes_for("fast", &client::ObjectKey::new("default", claim));
        all.iter().map(|v| (v.metadata.name.clone().unwrap(), v.spec.as_ref().unwrap().claim_ref.as_ref().and_then(|r| r.name.clone()))).collect()
    };
    assert_eq!(seen(&world, "c"), [("b".into(), Some("c".into())), ("e".into(), None)], "one that is bound to it already, and none of another class");
    assert_eq!(seen(&world, "x"), [("e".into(), None)]);
    let node = plain("n", &[]);
    let steps = plan(&user("p", &["c"]), &node.node, &world);
    assert!(matches!(&steps[..], [Step::Bind(_, volume, _)] if volume.metadata.name.as_deref() == Some("b")), "{steps:?}");
    // What is assumed of one without a claim is seen where it lies.
    plan(&user("q", &["x"]), &node.node, &world).iter().for_each(|step| step.assume(&mut world));
    assert_eq!(seen(&world, "x"), [("e".into(), Some("x".into()))]);
}

#[test]
fn a_volume_is_made_where_its_class_allows() {
    let nodes = [node("a", json!({"z": "1"}), json!({}), &[])];
    let at = |zone: &str| json!({"matchLabelExpressions": [{"key": "z", "values": [zone]}]});
    let nowhere = "0/1 nodes are available: 1 node(s) didn't find available persistent volumes to bind.";
    for (terms, told) in [
        (json!([]), "a"),
        (json!([at("2"), at("1")]), "a"),
        (json!([at("2")]), nowhere),
        (json!([{"matchLabelExpressions": []}]), nowhere),
        (json!([{}, at("1")]), "a"),
    ] {
        let mut fast = class("fast", "made.example");
        fast["allowedTopologies"] = terms.clone();
        let world = World { claims: objects(&[claim("c", "", "fast", "1Gi")]), classes: objects(&[fast]), ..World::empty() }.indexed();
        assert_eq!(why(&world, &nodes, &user("p", &["c"])), told, "{terms}");
    }
}

#[test]
fn a_volume_is_made_where_there_is_room_for_it() {
    let capacity = |name: &str, zone: &str, room: &str, largest: Value| {
        json!({"metadata": {"namespace": "kube-system", "name": name}, "storageClassName": "fast", "capacity": room, "maximumVolumeSize": largest,
            "nodeTopology": {"matchLabels": {"z": zone}}})
    };
    let world = |tells: bool| {
        World {
            claims: objects(&[claim("c", "", "fast", "10Gi")]),
            classes: objects(&[class("fast", "d")]),
            drivers: objects(&[json!({"metadata": {"name": "d"}, "spec": {"storageCapacity": tells}})]),
            capacities: objects(&[
                capacity("one", "1", "5Gi", json!(null)),
                capacity("two", "2", "20Gi", json!("8Gi")),
                capacity("three", "3", "20Gi", json!(null)),
                capacity("four", "4", "100Gi", json!(null)),
            ]),
            ..World::empty()
        }
        .indexed()
    };
    let at = |zone: &str| node(zone, json!({"z": zone}), json!({}), &[]);
    let nodes: Vec<NodeInfo> = ["1", "2", "5"].map(at).into();
    let p = user("p", &["c"]);
    assert_eq!(why(&world(true), &nodes, &p), "0/3 nodes are available: 3 node(s) did not have enough free storage.");
    assert_ne!(why(&world(false), &nodes, &p), "", "who tells nothing is believed");
    assert!(decide(&world(false), &nodes, &p).is_ok());
    assert_eq!(why(&world(true), &[at("1"), at("3")], &p), "3");
    // The less of the room it takes, the better (StorageCapacityScoring).
    assert_eq!(why(&world(true), &[at("3"), at("4")], &p), "4");
    let steps = plan(&p, &at("3").node, &world(true));
    let Step::Provision(_, then) = &steps[0] else { panic!("{steps:?}") };
    assert_eq!(then.metadata.annotations.as_ref().unwrap()["volume.kubernetes.io/selected-node"], "3");
}

#[test]
fn hints_of_those_who_look_at_volumes() {
    let standard = standard();
    let p = user("p", &["c"]);
    let wakes = |plugin: &str, change: Change<'_>| standard.plugin(plugin).is_some_and(|plugin| plugin.wakes(&change, &p));
    let (own, other) = (object(claim("c", "", "fast", "1")), object(claim("d", "", "fast", "1")));
    let came = |new| Change::Claim(Turn { old: None, new });
    for plugin in ["VolumeBinding", "VolumeZone", "VolumeRestrictions", "NodeVolumeLimits"] {
        assert!(wakes(plugin, came(&own)) && !wakes(plugin, came(&other)), "{plugin}");
    }
    let changed = || Change::Claim(Turn { old: Some(&own), new: &own });
    assert!(wakes("VolumeBinding", changed()) && wakes("VolumeZone", changed()));
    assert!(!wakes("VolumeRestrictions", changed()) && !wakes("NodeVolumeLimits", changed()));
    let capacity = |room: &str| object(json!({"metadata": {"name": "x", "namespace": "n"}, "storageClassName": "fast", "capacity": room}));
    let (less, more) = (capacity("1Gi"), capacity("2Gi"));
    assert!(wakes("VolumeBinding", Change::Capacity(Turn { old: Some(&less), new: &more })));
    assert!(!wakes("VolumeBinding", Change::Capacity(Turn { old: Some(&more), new: &less })));
    let csi_node =
        |count: i32| object(json!({"metadata": {"name": "a"}, "spec": {"drivers": [{"name": "d", "nodeID": "a", "allocatable": {"count": count}}]}}));
    let (few, many) = (csi_node(1), csi_node(2));
    assert!(wakes("NodeVolumeLimits", Change::CsiNode(Turn { old: Some(&few), new: &many })));
    assert!(!wakes("NodeVolumeLimits", Change::CsiNode(Turn { old: Some(&many), new: &few })));
    assert!(!wakes("VolumeBinding", Change::CsiNode(Turn { old: Some(&few), new: &many })));
    let none = object(json!({"metadata": {"name": "a"}, "spec": {"drivers": []}}));
    let unlimited = object(json!({"metadata": {"name": "a"}, "spec": {"drivers": [{"name": "d", "nodeID": "a"}]}}));
    assert!(wakes("NodeVolumeLimits", Change::CsiNode(Turn { old: Some(&none), new: &unlimited })), "a driver that a pod does not do without");
    assert!(!wakes("NodeVolumeLimits", Change::CsiNode(Turn { old: Some(&unlimited), new: &none })));
    assert!(wakes("NodeVolumeLimits", Change::PodGone(&user("x", &["any"]))) && !wakes("NodeVolumeLimits", Change::PodGone(&user("x", &[]))));
    let gone = object(json!({"metadata": {"name": "x"}, "spec": {"attacher": "d", "nodeName": "a", "source": {}}}));
    assert!(wakes("NodeVolumeLimits", Change::AttachmentGone(&gone)) && !wakes("VolumeBinding", Change::AttachmentGone(&gone)));
    let class = |topologies: Value| {
        object(json!({"metadata": {"name": "fast"}, "provisioner": "p", "volumeBindingMode": "WaitForFirstConsumer", "allowedTopologies": topologies}))
    };
    let terms = json!([{"matchLabelExpressions": [{"key": "z", "values": ["1"]}]}]);
    let (before, after) = (class(json!([])), class(terms));
    assert!(
        wakes("VolumeBinding", Change::Class(Turn { old: Some(&before), new: &after })) && wakes("VolumeZone", Change::Class(Turn { old: None, new: &after }))
    );
    assert!(
        !wakes("VolumeBinding", Change::Class(Turn { old: Some(&before), new: &before }))
            && !wakes("VolumeZone", Change::Class(Turn { old: Some(&before), new: &after }))
    );
}
