//! What the settings of plugins change.

use client::Informer;
use serde_json::{Value, json};

use super::tests::{asks, node, plain, pod};
use crate::config::Config;
use crate::framework::{Nominated, Snapshot};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::schedule::{Decision, schedule};
use crate::world::World;

/// Where a pod goes, or what its user is told, under a profile with these settings of one plugin.
fn place(plugin: &str, args: Value, world: &World, nodes: &[NodeInfo], pod: &PodInfo) -> String {
    let config = json!({"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
        "profiles": [{"pluginConfig": [{"name": plugin, "args": args}]}]});
    let config = Config::parse(config.to_string().as_bytes()).unwrap();
    let profile = config.profiles.get("default-scheduler").unwrap();
    match schedule(profile, Snapshot { nodes, world, nominated: &Nominated::new() }, pod, &mut 0, &mut |_| 0).expect("an answer") {
        Decision::Bind(node) => node,
        Decision::Wait(failure) => failure.message.split(" preemption:").next().unwrap_or_default().to_owned(),
    }
}

#[test]
fn room_by_three_strategies() {
    // 4 CPUs and 8 GiB each: half taken, an eighth taken.
    let nodes = [plain("full", &[pod("x", asks("2", "4Gi"))]), plain("empty", &[pod("y", asks("500m", "1Gi"))])];
    let p = pod("p", asks("500m", "1Gi"));
    let by = |strategy: Value| place("NodeResourcesFit", json!({"scoringStrategy": strategy}), &World::empty(), &nodes, &p);
    assert_eq!(by(json!({"type": "LeastAllocated"})), "empty");
    assert_eq!(by(json!({"type": "MostAllocated"})), "full");
    let ratio = |shape: Value| by(json!({"type": "RequestedToCapacityRatio", "requestedToCapacityRatio": {"shape": shape}}));
    assert_eq!(ratio(json!([{"utilization": 0, "score": 0}, {"utilization": 100, "score": 10}])), "full");
    assert_eq!(ratio(json!([{"utilization": 0, "score": 10}, {"utilization": 100, "score": 0}])), "empty");
}

#[test]
fn resources_that_are_not_counted() {
    let wants = pod("p", json!({"containers": [{"name": "c", "resources": {"requests": {"example.com/gpu": "9"}}}]}));
    let by = |args: Value| place("NodeResourcesFit", args, &World::empty(), &[plain("a", &[])], &wants);
    assert_eq!(by(json!({})), "0/1 nodes are available: 1 Insufficient example.com/gpu.");
    assert_eq!(by(json!({"ignoredResources": ["example.com/gpu"]})), "a");
    assert_eq!(by(json!({"ignoredResourceGroups": ["example.com"]})), "a");
    assert_ne!(by(json!({"ignoredResourceGroups": ["example.org"]})), "a");
}

#[test]
fn an_affinity_for_all_pods() {
    let term = |value: &str| json!({"matchExpressions": [{"key": "pool", "operator": "In", "values": [value]}]});
    let nodes = [node("a", json!({"pool": "1"}), json!({}), &[]), node("b", json!({"pool": "2"}), json!({}), &[])];
    let by = |affinity: Value| place("NodeAffinity", json!({"addedAffinity": affinity}), &World::empty(), &nodes, &pod("p", json!({})));
    let required = |value: &str| json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term(value)]}});
    assert_eq!(by(required("2")), "b");
    assert_eq!(by(required("3")), "0/2 nodes are available: 2 node(s) didn't match scheduler-enforced node affinity.");
    assert_eq!(by(json!({"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 5, "preference": term("2")}]})), "b");
}

#[test]
fn constraints_for_pods_that_have_none() {
    let service = json!({"metadata": {"name": "s", "namespace": "default"}, "spec": {"selector": {"app": "s"}}});
    let world = World { services: Informer::fixed([serde_json::from_value(service).unwrap()]), ..World::empty() };
    let like = |name: &str| pod(name, json!({"labels": {"app": "s"}}));
    let nodes = [node("a", json!({"z": "1"}), json!({}), &[like("x")]), node("b", json!({}), json!({}), &[])];
    let list = |action: &str| json!({"defaultingType": "List", "defaultConstraints": [{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": action}]});
    let by = |action: &str, nodes: &[NodeInfo]| place("PodTopologySpread", list(action), &world, nodes, &like("p"));
    assert_eq!(by("DoNotSchedule", &nodes), "a", "b lacks the label");
    let wide = [node("a", json!({"z": "1"}), json!({}), &[like("x")]), node("b", json!({"z": "2"}), json!({"unschedulable": true}), &[])];
    let told = "0/2 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) were unschedulable.";
    assert_eq!(by("DoNotSchedule", &wide), told);
    assert_eq!(by("ScheduleAnyway", &wide), "a");
}
