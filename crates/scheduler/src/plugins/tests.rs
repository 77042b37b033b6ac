//! Tables of placements: nodes with their pods, a pod, and where it goes or what users are told. The cases are those of
//! upstream's plugin tests.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::framework::{Change, Cycle, Nominated, Snapshot};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::preemption::Outcome;
use crate::profile::Profile;
use crate::schedule::{Decision, Failure, schedule, scores};
use crate::world::World;

/// The profile of a scheduler that is told nothing.
pub(super) fn standard() -> Arc<Profile> {
    static PROFILES: std::sync::LazyLock<Arc<crate::profile::Profiles>> = std::sync::LazyLock::new(|| crate::Config::default().profiles);
    PROFILES.get("default-scheduler").cloned().unwrap()
}

/// A pod from what differs from a plain one: `labels`, `ns`, and everything else its spec.
pub(super) fn pod(name: &str, mut spec: Value) -> Arc<PodInfo> {
    let mut take = |key: &str| spec.as_object_mut().and_then(|s| s.remove(key)).unwrap_or_default();
    let (labels, namespace, status) = (take("labels"), take("ns"), take("status"));
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{"name": "c"}]);
    }
    let namespace = namespace.as_str().unwrap_or("default").to_owned();
    let value = json!({"metadata": {"name": name, "namespace": namespace, "uid": name, "labels": labels}, "spec": spec, "status": status});
    Arc::new(PodInfo::new(Arc::new(serde_json::from_value(value).unwrap())))
}

pub(super) fn asks(cpu: &str, memory: &str) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]})
}

pub(super) fn with(mut value: Value, key: &str, other: Value) -> Value {
    value[key] = other;
    value
}

/// A node with 4 CPUs, 8 GiB and room for 10 pods; `spec` may set labels, taints and other things.
pub(super) fn node(name: &str, labels: Value, spec: Value, pods: &[Arc<PodInfo>]) -> NodeInfo {
    let mut all = labels;
    all["kubernetes.io/hostname"] = name.into();
    let value = json!({"metadata": {"name": name, "labels": all}, "spec": spec,
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10", "ephemeral-storage": "10Gi", "example.com/gpu": "2"}}});
    let mut info = NodeInfo::new(Arc::new(serde_json::from_value(value).unwrap()));
    pods.iter().for_each(|p| info.add(p.clone()));
    info
}

pub(super) fn plain(name: &str, pods: &[Arc<PodInfo>]) -> NodeInfo {
    node(name, json!({}), json!({}), pods)
}

pub(super) fn decide(world: &World, nodes: &[NodeInfo], pod: &PodInfo) -> Result<String, Box<Failure>> {
    let mut nominated = Nominated::new();
    if !pod.nominated().is_empty() {
        nominated.entry(pod.nominated().to_owned()).or_default().push(Arc::new(pod.clone()));
    }
    match schedule(&standard(), Snapshot { nodes, world, nominated: &nominated }, pod, &mut 0, &mut |_| 0).expect("an answer") {
        Decision::Bind(node) => Ok(node),
        Decision::Wait(failure) => Err(failure),
    }
}

fn place(nodes: &[NodeInfo], pod: &PodInfo) -> String {
    place_in(&World::empty(), nodes, pod)
}

pub(super) fn place_in(world: &World, nodes: &[NodeInfo], pod: &PodInfo) -> String {
    decide(world, nodes, pod).unwrap_or_else(|f| f.message)
}

/// The first sentence, without what preemption says.
fn why(nodes: &[NodeInfo], pod: &PodInfo) -> String {
    place(nodes, pod).split(" preemption:").next().unwrap_or_default().to_owned()
}

#[test]
fn room() {
    let full = plain("a", &[pod("x", asks("3", "1Gi"))]);
    assert_eq!(place(std::slice::from_ref(&full), &pod("p", asks("1", "1Gi"))), "a");
    assert_eq!(
        place(std::slice::from_ref(&full), &pod("p", asks("2", "1Gi"))),
        "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
    );
    assert_eq!(
        place(std::slice::from_ref(&full), &pod("p", asks("5", "9Gi"))),
        "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    );
    let gpus = json!({"containers": [{"name": "c", "resources": {"requests": {"example.com/gpu": "3"}}}]});
    assert_eq!(why(&[full], &pod("p", gpus)), "0/1 nodes are available: 1 Insufficient example.com/gpu.");
    let many: Vec<_> = (0..10).map(|i| pod(&format!("x{i}"), json!({}))).collect();
    assert_eq!(why(&[plain("a", &many)], &pod("p", json!({}))), "0/1 nodes are available: 1 Too many pods.");
    assert_eq!(place(&[], &pod("p", json!({}))), "no nodes available to schedule pods");
}

#[test]
fn what_not_every_kubelet_can_do_is_for_those_that_say_so() {
    let rules = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [1]}}]);
    let wants = pod("p", json!({"containers": [{"name": "c", "restartPolicy": "Never", "restartPolicyRules": rules}]}));
    let silent = plain("a", &[]);
    assert_eq!(why(std::slice::from_ref(&silent), &wants), "0/1 nodes are available: 1 node(s) didn't match Pod's required features.");
    let mut declaring = plain("b", &[]);
    let mut node = (*declaring.node).clone();
    node.status.get_or_insert_default().declared_features = Some(vec!["RestartAllContainersOnContainerExits".into()]);
    declaring.node = Arc::new(node);
    assert_eq!(place(&[silent.clone(), declaring], &wants), "b");
    assert_eq!(place(&[silent], &pod("p", json!({}))), "a");
}

#[test]
fn taints_and_cordons() {
    let tainted = |effect: &str| node("a", json!({}), json!({"taints": [{"key": "k", "value": "v", "effect": effect}]}), &[]);
    let refused =
        "0/1 nodes are available: 1 node(s) had untolerated taint(s). preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    assert_eq!(place(&[tainted("NoSchedule")], &pod("p", json!({}))), refused);
    assert_eq!(place(&[tainted("NoExecute")], &pod("p", json!({}))), refused);
    assert_eq!(place(&[tainted("PreferNoSchedule")], &pod("p", json!({}))), "a");
    assert_eq!(place(&[tainted("PreferNoSchedule"), plain("b", &[])], &pod("p", json!({}))), "b");
    let bearing = pod("p", json!({"tolerations": [{"key": "k", "operator": "Exists"}]}));
    assert_eq!(place(&[tainted("NoSchedule")], &bearing), "a");
    let cordoned = node("a", json!({}), json!({"unschedulable": true}), &[]);
    assert_eq!(why(std::slice::from_ref(&cordoned), &pod("p", json!({}))), "0/1 nodes are available: 1 node(s) were unschedulable.");
    let daemon = pod("p", json!({"tolerations": [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"}]}));
    assert_eq!(place(&[cordoned], &daemon), "a");
}

#[test]
fn node_choice() {
    let nodes = [node("a", json!({"disk": "ssd"}), json!({}), &[]), node("b", json!({"disk": "hdd"}), json!({}), &[])];
    assert_eq!(place(&nodes, &pod("p", json!({"nodeSelector": {"disk": "hdd"}}))), "b");
    let refused = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.";
    assert_eq!(why(&nodes, &pod("p", json!({"nodeSelector": {"disk": "tape"}}))), refused);
    let fields = |values: &[&str]| {
        let term = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": values}]});
        pod("p", json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}}))
    };
    assert_eq!(place(&nodes, &fields(&["b"])), "b");
    assert_eq!(why(&nodes, &fields(&["z"])), "0/2 nodes are available: 2 node(s) didn't satisfy plugin(s) [NodeAffinity].");
    let prefers = json!([{"weight": 5, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["hdd"]}]}}]);
    let wish = pod("p", json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": prefers}}}));
    assert_eq!(place(&nodes, &wish), "b");
    assert_eq!(why(&nodes, &pod("p", json!({"nodeName": "z"}))), "0/2 nodes are available: 2 node(s) didn't match the requested node name.");
}

#[test]
fn ports_of_the_node() {
    let port = |ip: &str, port: i32, protocol: &str| json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": port, "hostIP": ip, "protocol": protocol}]}]});
    let free = |have: Value, want: Value| place(&[plain("a", &[pod("x", have)])], &pod("p", want)) == "a";
    assert!(free(port("", 80, "TCP"), port("", 81, "TCP")));
    assert!(free(port("", 80, "TCP"), port("", 80, "UDP")));
    assert!(free(port("10.0.0.1", 80, "TCP"), port("10.0.0.2", 80, "TCP")));
    assert!(!free(port("", 80, "TCP"), port("", 80, "TCP")));
    assert!(!free(port("10.0.0.1", 80, "TCP"), port("", 80, "TCP")));
    assert!(!free(port("0.0.0.0", 80, "TCP"), port("10.0.0.1", 80, "TCP")));
    let told = why(&[plain("a", &[pod("x", port("", 80, "TCP"))])], &pod("p", port("", 80, "TCP")));
    assert_eq!(told, "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.");
}

fn spread(skew: i32, key: &str, when: &str) -> Value {
    json!([{"maxSkew": skew, "topologyKey": key, "whenUnsatisfiable": when, "labelSelector": {"matchLabels": {"app": "x"}}}])
}

#[test]
fn spreading() {
    let like = |name: &str| pod(name, json!({"labels": {"app": "x"}}));
    let zone = |name: &str, zone: &str, pods: &[Arc<PodInfo>]| node(name, json!({"zone": zone}), json!({}), pods);
    let nodes = [zone("a", "1", &[like("x1"), like("x2")]), zone("b", "1", &[]), zone("c", "2", &[like("x3")])];
    let wants = |skew: i32, when: &str| pod("p", json!({"labels": {"app": "x"}, "topologySpreadConstraints": spread(skew, "zone", when)}));
    assert_eq!(place(&nodes, &wants(1, "DoNotSchedule")), "c");
    let two = &nodes[..2];
    assert_eq!(place(two, &wants(1, "DoNotSchedule")), "b", "one zone is no skew");
    let refused = place(&[nodes[0].clone(), node("c", json!({"zone": "2"}), json!({"unschedulable": true}), &[])], &wants(1, "DoNotSchedule"));
    let expected = "0/2 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) were unschedulable. \
        preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling.";
    assert_eq!(refused, expected);
    let unlabelled = why(&[plain("d", &[])], &wants(1, "DoNotSchedule"));
    assert_eq!(unlabelled, "0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label).");
    assert_eq!(place(&nodes, &wants(1, "ScheduleAnyway")), "c");
    let other = pod("p", json!({"ns": "other", "labels": {"app": "x"}, "topologySpreadConstraints": spread(1, "zone", "DoNotSchedule")}));
    assert_ne!(place(&nodes, &other), "", "pods of other namespaces do not count");
    let mut domains = spread(1, "zone", "DoNotSchedule");
    domains[0]["minDomains"] = 3.into();
    let few = why(&nodes, &pod("p", json!({"labels": {"app": "x"}, "topologySpreadConstraints": domains})));
    assert_eq!(few, "0/3 nodes are available: 3 node(s) didn't match pod topology spread constraints.");
}

#[test]
fn a_services_pods_are_spread_by_default() {
    let mut world = World::empty();
    let service = json!({"metadata": {"name": "s", "namespace": "default"}, "spec": {"selector": {"app": "x"}}});
    world.services = client::Informer::fixed([serde_json::from_value(service).unwrap()]);
    let like = |name: &str| pod(name, json!({"labels": {"app": "x"}}));
    let nodes = [plain("a", &[like("x1"), like("x2")]), plain("b", &[like("x3"), pod("y1", json!({})), pod("y2", json!({}))])];
    assert_eq!(place_in(&world, &nodes, &like("p")), "b");
    assert_eq!(place(&nodes, &like("p")), "a", "without the Service the emptier one is better");
}

fn affinity(kind: &str, key: &str, more: Value) -> Value {
    let mut term = json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": "x"}}});
    for (name, value) in more.as_object().into_iter().flatten() {
        term[name] = value.clone();
    }
    json!({kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}})
}

#[test]
fn near_and_far() {
    let like = |name: &str| pod(name, json!({"labels": {"app": "x"}}));
    let nodes = [plain("a", &[like("x")]), plain("b", &[])];
    let wants = |labels: Value, affinity: Value| pod("p", json!({"labels": labels, "affinity": affinity}));
    const HOST: &str = "kubernetes.io/hostname";
    assert_eq!(place(&nodes, &wants(json!({}), affinity("podAffinity", HOST, json!({})))), "a");
    assert_eq!(place(&nodes, &wants(json!({}), affinity("podAntiAffinity", HOST, json!({})))), "b");
    let refused = why(&nodes[1..], &wants(json!({}), affinity("podAffinity", HOST, json!({}))));
    assert_eq!(refused, "0/1 nodes are available: 1 node(s) didn't match pod affinity rules.");
    let first = wants(json!({"app": "x"}), affinity("podAffinity", HOST, json!({})));
    assert_eq!(place(&nodes[1..], &first), "b", "the first of a group goes anywhere");
    let refused = why(&nodes[..1], &wants(json!({}), affinity("podAntiAffinity", HOST, json!({}))));
    assert_eq!(refused, "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules.");
    let shy = pod("shy", json!({"affinity": affinity("podAntiAffinity", HOST, json!({}))}));
    let nodes = [plain("a", &[shy]), plain("b", &[])];
    assert_eq!(place(&nodes, &like("p")), "b", "anti-affinity binds both ways");
    assert_eq!(why(&nodes[..1], &like("p")), "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules.");
}

#[test]
fn affinity_over_namespaces() {
    let mut world = World::empty();
    let namespace = json!({"metadata": {"name": "shop", "labels": {"team": "t"}}});
    world.namespaces = client::Informer::fixed([serde_json::from_value(namespace).unwrap()]);
    let nodes = [plain("a", &[pod("x", json!({"ns": "shop", "labels": {"app": "x"}}))]), plain("b", &[])];
    let wants = |more: Value| pod("p", json!({"affinity": affinity("podAffinity", "kubernetes.io/hostname", more)}));
    assert!(place_in(&world, &nodes, &wants(json!({}))).starts_with("0/2"), "its own namespace");
    assert_eq!(place_in(&world, &nodes, &wants(json!({"namespaces": ["shop"]}))), "a");
    assert_eq!(place_in(&world, &nodes, &wants(json!({"namespaceSelector": {"matchLabels": {"team": "t"}}}))), "a");
    assert_eq!(place_in(&world, &nodes, &wants(json!({"namespaceSelector": {}}))), "a");
    assert!(place_in(&world, &nodes, &wants(json!({"namespaceSelector": {"matchLabels": {"team": "u"}}}))).starts_with("0/2"));
}

#[test]
fn preferred_affinity_counts_both_ways() {
    let prefer = |kind: &str| {
        let term = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "x"}}});
        json!({kind: {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]}})
    };
    let like = |name: &str| pod(name, json!({"labels": {"app": "x"}}));
    let nodes = [plain("a", &[]), plain("b", &[like("x")])];
    assert_eq!(place(&nodes, &pod("p", json!({"affinity": prefer("podAffinity")}))), "b");
    let nodes = [plain("a", &[pod("x", json!({"affinity": prefer("podAntiAffinity")}))]), plain("b", &[pod("y", json!({}))])];
    assert_eq!(place(&nodes, &like("p")), "b");
}

#[test]
fn the_emptier_and_the_more_balanced() {
    let nodes = [plain("a", &[pod("x", asks("2", "4Gi"))]), plain("b", &[pod("y", asks("1", "2Gi"))])];
    assert_eq!(place(&nodes, &pod("p", asks("500m", "1Gi"))), "b");
    let world = World::empty();
    let nominated = Nominated::new();
    let it = pod("p", asks("1", "0"));
    let uneven = [plain("a", &[pod("x", asks("2", "2Gi"))]), plain("b", &[pod("y", asks("1", "4Gi"))])];
    let standard = standard();
    let cycle = Cycle::new(&it, &standard, Snapshot { nodes: &uneven, world: &world, nominated: &nominated });
    let plugin = standard.plugin("NodeResourcesBalancedAllocation").unwrap();
    let score = plugin.prepare_score(&cycle, &[]).unwrap();
    // cpu 0.50 → 0.75 beside memory 0.25; cpu 0.25 → 0.50 beside memory 0.50.
    assert_eq!((score.score(&uneven[0]), score.score(&uneven[1])), (50 + (50 + 75 - 87) / 2, 50 + (50 + 100 - 87) / 2));
    assert_eq!(scores(&cycle, &[&uneven[0], &uneven[1]]).len(), 2);
}

#[test]
fn images_draw() {
    let with_image = |name: &str, size: i64| {
        let mut info = plain(name, &[]);
        let mut node = (*info.node).clone();
        node.status.as_mut().unwrap().images = serde_json::from_value(json!([{"names": ["reg/app:latest"], "sizeBytes": size}])).unwrap();
        info.set_node(Arc::new(node));
        info
    };
    let it = pod("p", json!({"containers": [{"name": "c", "image": "reg/app"}]}));
    assert_eq!(place(&[plain("a", &[]), with_image("b", 800 << 20)], &it), "b");
    assert_eq!(place(&[plain("a", &[]), with_image("b", 10 << 20)], &it), "a", "small ones do not count");
}

#[test]
fn claims() {
    let uses = pod("p", json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}));
    let nodes = [node("a", json!({"zone": "1"}), json!({}), &[]), node("b", json!({"zone": "2"}), json!({}), &[])];
    let mut world = World::empty();
    let first = |world: &World| place_in(world, &nodes, &uses).split(" preemption:").next().unwrap_or_default().to_owned();
    assert_eq!(first(&world), "0/2 nodes are available: persistentvolumeclaim \"data\" not found. not found");
    let claim = |spec: Value, annotations: Value| {
        let value = json!({"metadata": {"namespace": "default", "name": "data", "uid": "c", "annotations": annotations}, "spec": spec});
        client::Informer::fixed([serde_json::from_value(value).unwrap()])
    };
    world.claims = claim(json!({"storageClassName": "fast"}), json!({}));
    assert_eq!(first(&world), "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found");
    let class = json!({"metadata": {"name": "fast"}, "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"});
    world.classes = client::Informer::fixed([serde_json::from_value(class).unwrap()]);
    assert_eq!(first(&world), "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind.");
    let in_zone = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["2"]}]}]}});
    let volume = json!({"metadata": {"name": "pv"}, "spec": {"storageClassName": "fast", "capacity": {"storage": "1Gi"}, "nodeAffinity": in_zone},
        "status": {"phase": "Available"}});
    world.volumes = client::Informer::fixed([serde_json::from_value(volume).unwrap()]);
    let mut world = world.indexed();
    assert_eq!(first(&world), "b");
    assert_eq!(super::volume_binding::plan(&uses, &nodes[1].node, &world).len(), 1);
    world.claims = claim(json!({"storageClassName": "fast", "volumeName": "pv"}), json!({"pv.kubernetes.io/bind-completed": "yes"}));
    assert_eq!(first(&world), "b");
    let alone = place_in(&world, &nodes[..1], &uses);
    assert!(alone.starts_with("0/1 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity."), "{alone}");
    world.claims = claim(json!({"volumeName": "gone"}), json!({"pv.kubernetes.io/bind-completed": "yes"}));
    // VolumeZone looks for it before nodes are looked at.
    assert_eq!(first(&world), "0/2 nodes are available: persistentvolume \"gone\" not found. not found");
}

fn victims(nodes: &[NodeInfo], world: &World, pod: &PodInfo) -> (String, Vec<String>) {
    match decide(world, nodes, pod).map_err(|why| *why) {
        Err(Failure { preemption: Outcome::Evict { node, victims }, .. }) => (node, victims.iter().map(|v| v.pod.metadata.name.clone().unwrap()).collect()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_toleration_lets_a_pod_look_again_where_taints_say_which_nodes_count() {
    let standard = standard();
    let spread = standard.plugin("PodTopologySpread").unwrap();
    let wakes = |policy: &str| {
        let constraint = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "nodeTaintsPolicy": policy, "labelSelector": {}});
        let spec = json!({"topologySpreadConstraints": [constraint]});
        let (old, new) = (pod("p", spec.clone()), pod("p", with(spec, "tolerations", json!([{"operator": "Exists"}]))));
        spread.wakes(&Change::Own { old: &old }, &new)
    };
    assert!(wakes("Honor") && !wakes("Ignore"));
}

#[test]
fn a_change_that_cannot_help_wakes_nobody() {
    let standard = standard();
    let wakes = |plugin: &str, change: Change<'_>, pod: &PodInfo| standard.plugin(plugin).is_some_and(|plugin| plugin.wakes(&change, pod));
    let (here, there) = (node("n", json!({"zone": "1", "x": "1"}), json!({}), &[]), node("n", json!({"zone": "2", "x": "1"}), json!({}), &[]));
    let other_label = node("n", json!({"zone": "1", "x": "2"}), json!({}), &[]);
    let (moved, relabelled) = (|| Change::NodeUpdated { old: &here.node, new: &there }, || Change::NodeUpdated { old: &here.node, new: &other_label });
    let (web, db) = (pod("w", json!({"labels": {"app": "web"}})), pod("d", json!({"labels": {"app": "db"}})));
    let term = json!([{"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "web"}}}]);
    let of = |kind: &str| pod("p", json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": term}}}));
    let (near, far) = (of("podAffinity"), of("podAntiAffinity"));
    let plugin = "InterPodAffinity";
    for pod in [&near, &far] {
        assert!(wakes(plugin, moved(), pod) && !wakes(plugin, relabelled(), pod), "another zone, and a label that is none of its terms'");
    }
    assert!(wakes(plugin, Change::PodPlaced(&web), &near) && !wakes(plugin, Change::PodPlaced(&db), &near) && !wakes(plugin, Change::PodPlaced(&web), &far));
    assert!(wakes(plugin, Change::PodGone(&web), &far) && !wakes(plugin, Change::PodGone(&db), &far) && !wakes(plugin, Change::PodGone(&web), &near));
    assert!(wakes(plugin, Change::PodGone(&far), &web) && !wakes(plugin, Change::PodGone(&far), &db), "the terms of who goes");
    assert!(wakes(plugin, Change::PodUpdated { old: &db, new: &web }, &near) && wakes(plugin, Change::PodUpdated { old: &web, new: &db }, &far));
    let constraint = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}});
    let (spread, plugin) = (pod("p", json!({"topologySpreadConstraints": [constraint]})), "PodTopologySpread");
    assert!(wakes(plugin, moved(), &spread) && !wakes(plugin, relabelled(), &spread));
    assert!(wakes(plugin, Change::PodUpdated { old: &db, new: &web }, &spread) && !wakes(plugin, Change::PodUpdated { old: &db, new: &db }, &spread));
    let keyless = plain("k", &[]);
    assert!(wakes(plugin, Change::NodeRemoved(&here.node), &spread) && !wakes(plugin, Change::NodeRemoved(&keyless.node), &spread));
    let (busy, plugin) = (pod("p", asks("1", "0")), "NodeResourcesFit");
    let sized = |cpu: &str, memory: &str| pod("s", asks(cpu, memory));
    assert!(wakes(plugin, Change::PodUpdated { old: &sized("2", "1Gi"), new: &sized("1", "1Gi") }, &busy));
    assert!(!wakes(plugin, Change::PodUpdated { old: &sized("2", "2Gi"), new: &sized("2", "1Gi") }, &busy), "it asks for no memory");
    let with_memory = |memory: &str| {
        let status = json!({"allocatable": {"cpu": "4", "memory": memory, "pods": "10"}});
        NodeInfo::new(Arc::new(serde_json::from_value(json!({"metadata": {"name": "n"}, "status": status})).unwrap()))
    };
    let (little, much) = (with_memory("1Gi"), with_memory("2Gi"));
    let grows = || Change::NodeUpdated { old: &little.node, new: &much };
    assert!(wakes(plugin, grows(), &sized("1", "2Gi")) && !wakes(plugin, grows(), &busy));
    let with_gpus = |gpus: &str| {
        let status = json!({"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10", "example.com/gpu": gpus}});
        NodeInfo::new(Arc::new(serde_json::from_value(json!({"metadata": {"name": "n"}, "status": status})).unwrap()))
    };
    let (plugged, unplugged) = (with_gpus("2"), with_gpus("0"));
    let drawing = pod("g", json!({"containers": [{"name": "c", "resources": {"requests": {"example.com/gpu": "1"}}}]}));
    let goes = || Change::NodeUpdated { old: &plugged.node, new: &unplugged };
    assert!(wakes(plugin, goes(), &drawing) && !wakes(plugin, goes(), &busy), "devices may stand for what the node has no more");
}

#[test]
fn preemption() {
    let sized = |name: &str, priority: i32, cpu: &str| pod(name, with(asks(cpu, "0"), "priority", priority.into()));
    let world = World::empty();
    let high = sized("p", 100, "2");
    let a = plain("a", &[sized("a1", 1, "2"), sized("a2", 2, "2")]);
    let b = plain("b", &[sized("b1", 50, "4")]);
    assert_eq!(victims(&[a.clone(), b.clone()], &world, &high), ("a".into(), vec!["a1".into()]), "the least important, and no more than needed");
    let told = decide(&world, std::slice::from_ref(&a), &high).unwrap_err().message;
    let expected = "0/1 nodes are available: 1 Insufficient cpu. preemption: found a potential placement for pod on node a, preempting 1 victims";
    assert_eq!(told, expected);
    let never = pod("p", with(with(asks("2", "0"), "priority", 100.into()), "preemptionPolicy", "Never".into()));
    assert_eq!(place(std::slice::from_ref(&a), &never), "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never.");
    let port = json!([{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80}]}]);
    let holds = pod("x", json!({"priority": 1, "containers": port.clone()}));
    let wants = pod("p", json!({"priority": 2, "containers": port}));
    assert_eq!(victims(&[plain("a", &[holds])], &world, &wants).1, ["x"], "a port is freed too");
    let shy = json!({"priority": 1, "affinity": affinity("podAntiAffinity", "kubernetes.io/hostname", json!({}))});
    let liked = pod("p", json!({"priority": 2, "labels": {"app": "x"}}));
    assert_eq!(victims(&[plain("a", &[pod("shy", shy)])], &world, &liked).1, ["shy"], "and the place that anti-affinity kept");
}

#[test]
fn preemption_spares_budgets_and_does_not_repeat_itself() {
    let sized = |name: &str, app: &str| pod(name, with(with(asks("4", "0"), "priority", 1.into()), "labels", json!({"app": app})));
    let mut world = World::empty();
    let budget = json!({"metadata": {"name": "b", "namespace": "default"}, "spec": {"selector": {"matchLabels": {"app": "kept"}}},
        "status": {"disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}});
    world.budgets = client::Informer::fixed([serde_json::from_value(budget).unwrap()]);
    let nodes = [plain("a", &[sized("a1", "kept")]), plain("b", &[sized("b1", "free")])];
    let high = pod("p", with(asks("2", "0"), "priority", 100.into()));
    assert_eq!(victims(&nodes, &world, &high).0, "b");
    assert_eq!(victims(&nodes[..1], &world, &high).1, ["a1"], "but a budget is no wall");
    let last = |at: usize| if at == 100 { "free" } else { "kept" };
    let crowd: Vec<NodeInfo> = (0..101).map(|at| plain(&format!("n{at}"), &[sized(&format!("p{at}"), last(at))])).collect();
    assert_eq!(victims(&crowd, &world, &high).0, "n100", "a hundred candidates are not enough while all of them break one");
    let mut going = (*sized("b1", "free").pod).clone();
    going.metadata.deletion_timestamp = Some(client::now());
    going.status = serde_json::from_value(json!({"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]})).unwrap();
    let nodes = [plain("b", &[Arc::new(PodInfo::new(Arc::new(going)))])];
    let waits = pod("p", with(with(asks("2", "0"), "priority", 100.into()), "status", json!({"nominatedNodeName": "b"})));
    let told = "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to a terminating pod on the nominated node.";
    assert_eq!(place_in(&world, &nodes, &waits), told);
}

#[test]
fn a_pod_that_breaks_one_budget_draws_on_no_other() {
    let budget = |name: &str, allowed: i32| {
        let value = json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"selector": {"matchLabels": {name: "1"}}},
            "status": {"disruptionsAllowed": allowed, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}});
        serde_json::from_value(value).unwrap()
    };
    let world = World { budgets: client::Informer::fixed([budget("a", 0), budget("b", 1)]), ..World::empty() };
    let sized = |name: &str, priority: i32, labels: Value| pod(name, with(with(asks("2", "0"), "priority", priority.into()), "labels", labels));
    let one = plain("one", &[sized("p", 2, json!({"a": "1", "b": "1"})), sized("q", 2, json!({"b": "1"}))]);
    let two = plain("two", &[sized("r", 1, json!({"a": "1"})), sized("s", 1, json!({"a": "1"}))]);
    let high = pod("high", with(asks("4", "0"), "priority", 100.into()));
    assert_eq!(victims(&[one, two], &world, &high).0, "one", "it breaks one budget once, the other breaks one twice");
}

#[test]
fn in_a_large_cluster_every_node_has_its_turn() {
    let (world, nominated) = (World::empty(), Nominated::new());
    let nodes: Vec<NodeInfo> = (0..150).map(|at| plain(&format!("n{at}"), &[])).collect();
    let snapshot = Snapshot { nodes: &nodes, world: &world, nominated: &nominated };
    let (it, mut start) = (pod("p", asks("2", "0")), 0);
    let mut goes = |pick: usize| match schedule(&standard(), snapshot, &it, &mut start, &mut |_| pick).expect("an answer") {
        Decision::Bind(node) => node,
        Decision::Wait(failure) => failure.message,
    };
    // A hundred that do are enough.
    assert_eq!([goes(0), goes(0), goes(99)], ["n0", "n100", "n149"]);
    assert_eq!(start, 0);
}

#[test]
fn room_is_kept_for_those_who_wait_for_a_node() {
    let world = World::empty();
    let nodes = [plain("a", &[])];
    let mut nominated = Nominated::new();
    nominated.insert("a".into(), vec![pod("first", with(asks("3", "0"), "priority", 10.into()))]);
    let snapshot = Snapshot { nodes: &nodes, world: &world, nominated: &nominated };
    let goes = |priority: i32| {
        let it = pod("p", with(asks("2", "0"), "priority", priority.into()));
        matches!(schedule(&standard(), snapshot, &it, &mut 0, &mut |_| 0), Ok(Decision::Bind(_)))
    };
    assert!(!goes(5));
    assert!(!goes(10));
    assert!(goes(11));
}
