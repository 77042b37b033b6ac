//! Nodes and pods, as tables.

use std::sync::Arc;

use client::Meta;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::Daemons;
use super::plan::{self, ByNode, Demands, Plan};
use crate::fake::{Fake, refusal};
use crate::pods::PodControl;

fn set(change: Value) -> DaemonSet {
    let mut spec = json!({"selector": {"matchLabels": {"app": "a"}}, "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": []}}});
    for (key, value) in change.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    serde_json::from_value(json!({"metadata": {"name": "d", "namespace": "n", "uid": "u"}, "spec": spec})).unwrap_or_else(|e| panic!("{e}"))
}

fn node(name: &str, taints: Value) -> Arc<Node> {
    let value = json!({"metadata": {"name": name, "labels": {"disk": if name == "a" { "ssd" } else { "hdd" }}}, "spec": {"taints": taints}});
    Arc::new(serde_json::from_value(value).unwrap_or_default())
}

/// `a=new`, `b=old?` (not ready), `c=old!` (failed), `d=old-` (being deleted).
fn pods(text: &str) -> ByNode {
    let pod = |(n, word): (usize, &str)| {
        let (node, rest) = word.split_once('=').unwrap_or_default();
        let (hash, ready) = (rest.trim_end_matches(['?', '!', '-']), !rest.contains(['?', '!']));
        let deleted = rest.contains('-').then_some("2026-01-01T00:00:00Z");
        let value = json!({
            "metadata": {"deletionTimestamp": deleted, "name": format!("{word}{n}"), "uid": n.to_string(), "labels": {"controller-revision-hash": hash}},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": if rest.contains('!') { "Failed" } else { "Running" },
                       "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        });
        Arc::new(serde_json::from_value::<Pod>(value).unwrap_or_default())
    };
    plan::by_node(&text.split_whitespace().enumerate().map(pod).collect::<Vec<_>>())
}

fn told(plan: &Plan) -> String {
    let mut all: Vec<String> = plan.create.iter().map(|n| format!("+{n}")).collect();
    all.extend(plan.delete.iter().chain(&plan.failed).map(|p| format!("-{}", pods_node(p))));
    all.sort();
    all.join(" ")
}

fn pods_node(pod: &Pod) -> String {
    pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default()
}

#[test]
fn every_fitting_node_has_one() {
    let now = client::timestamp();
    let taint = |effect: &str| json!([{"key": "t", "effect": effect}]);
    let nodes = [
        node("a", json!([])),
        node("b", taint("NoSchedule")),
        node("c", taint("NoExecute")),
        node("d", json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}])),
    ];
    let manage = |ds: &DaemonSet, state: &str| told(&plan::manage(ds, &Demands::of(ds), (&nodes, &pods(state)), "new", now, |_| None));
    assert_eq!(manage(&set(json!({})), ""), "+a +d", "a daemon bears that a node is not ready");
    assert_eq!(manage(&set(json!({})), "a=new b=new c=new d=new d=new"), "-c -d", "what came before a NoSchedule taint may stay");
    assert_eq!(manage(&set(json!({})), "a=new! d=new"), "-a");
    let picky = set(json!({"template": {"spec": {"containers": [], "nodeSelector": {"disk": "ssd"}}}}));
    assert_eq!(manage(&picky, "d=new"), "+a -d");
    let status = plan::status(&set(json!({})), &Demands::of(&set(json!({}))), (&nodes, &pods("a=new b=new d=old?")), "new", None, now);
    assert_eq!((status.desired_number_scheduled, status.current_number_scheduled, status.number_misscheduled, status.number_ready), (2, 2, 1, 1));
    assert_eq!((status.updated_number_scheduled, status.number_unavailable), (Some(1), Some(1)));
}

#[test]
fn a_roll_out_keeps_its_bounds() {
    let now = client::timestamp();
    let nodes = [node("a", json!([])), node("b", json!([])), node("c", json!([]))];
    let roll = |ds: &DaemonSet, state: &str| told(&plan::roll(ds, &Demands::of(ds), (&nodes, &pods(state)), "new", now));
    let one = set(json!({}));
    assert_eq!(roll(&one, "a=old b=old c=old"), "-a");
    assert_eq!(roll(&one, "b=old c=old"), "", "one is missing already");
    assert_eq!(roll(&one, "a=new b=old c=old?"), "-c", "one that does not serve is no loss");
    let surge = set(json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}));
    assert_eq!(roll(&surge, "a=old b=old c=old"), "+a");
    assert_eq!(roll(&surge, "a=old a=new? b=old c=old"), "");
    assert_eq!(told(&plan::manage(&surge, &Demands::of(&surge), (&nodes, &pods("a=old a=new b=old c=old")), "new", now, |_| None)), "-a");
}

#[test]
fn what_goes_holds_up_no_other() {
    let (now, nodes) = (client::timestamp(), [node("a", json!([])), node("b", json!([]))]);
    let manage = |ds: &DaemonSet, state: &str| told(&plan::manage(ds, &Demands::of(ds), (&nodes, &pods(state)), "new", now, |_| None));
    let surge = set(json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}));
    assert_eq!(manage(&set(json!({})), "a=old- b=new"), "", "its end is waited for");
    assert_eq!(manage(&surge, "a=old- b=new"), "+a", "a set that may surge does not wait");
    let by_hand = set(json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}));
    assert_eq!(manage(&by_hand, "a=old- b=new"), "", "one that does not roll waits whatever else it says");
    assert_eq!(manage(&set(json!({})), "a=old!- b=new"), "+a", "one that has ended holds no place, whatever its finalizers");
    assert_eq!(manage(&surge, "a=old? a=new? b=new"), "-a", "an old one that serves no longer goes before the new one serves");
    // A node that may keep its pod and is to have none: the old template goes there too.
    let tainted = [node("a", json!([])), node("b", json!([{"key": "t", "effect": "NoSchedule"}]))];
    let roll = |ds: &DaemonSet, state: &str| told(&plan::roll(ds, &Demands::of(ds), (&tainted, &pods(state)), "new", now));
    assert_eq!(roll(&set(json!({})), "a=new b=old"), "-b");
    assert_eq!((roll(&surge, "a=new b=old"), roll(&surge, "a=new? b=old")), ("-b".to_owned(), String::new()), "when enough serve");
    let three = [node("a", json!([])), node("b", json!([])), node("c", json!([]))];
    let plan = plan::roll(&surge, &Demands::of(&surge), (&three, &pods("a=old? b=old? c=old")), "new", now);
    assert_eq!(told(&plan), "+a +b +c", "beside what does not serve the new one comes whatever the limit");
}

#[test]
fn a_pod_of_the_present_template_is_known_by_its_number_too() {
    let (now, nodes) = (client::timestamp(), [node("a", json!([]))]);
    let mut ds = set(json!({}));
    ds.metadata.annotations = Some([("deprecated.daemonset.template.generation".to_owned(), "7".to_owned())].into());
    let mut pod = (*pods("a=other")["a"][0]).clone();
    let counted = |pod: &Pod| {
        let state = plan::by_node(&[Arc::new(pod.clone())]);
        plan::status(&ds, &Demands::of(&ds), (&nodes, &state), "new", None, now).updated_number_scheduled
    };
    assert_eq!(counted(&pod), Some(0));
    pod.meta_mut().labels.get_or_insert_default().insert("pod-template-generation".to_owned(), "7".to_owned());
    assert_eq!(counted(&pod), Some(1));
}

#[test]
fn what_is_meant_for_no_node_is_left_alone() {
    let (now, ds, nodes) = (client::timestamp(), set(json!({})), [node("a", json!([]))]);
    let adopted: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": []}})).unwrap_or_default();
    let plan = plan::manage(&ds, &Demands::of(&ds), (&nodes, &plan::by_node(&[Arc::new(adopted)])), "new", now, |_| None);
    assert_eq!((told(&plan).as_str(), plan.delete.len()), ("+a", 0));
}

#[test]
fn a_daemon_is_bound_to_its_node() {
    let pod = plan::pod(&set(json!({})), "a", "h");
    let target = pod.spec.as_ref().and_then(crate::affinity::target);
    assert_eq!((target, pod.label("controller-revision-hash")), (Some("a"), Some("h")));
    assert_eq!(pod.spec.as_ref().and_then(|s| s.tolerations.as_ref()).map(Vec::len), Some(6));
}

#[test]
fn a_failed_pod_that_is_held_back_stays_and_keeps_its_node_taken() {
    let (now, ds, nodes) = (client::timestamp(), set(json!({})), [node("a", json!([])), node("b", json!([]))]);
    let wait = std::time::Duration::from_secs(8);
    let held = |name: &str| (name == "a").then_some(wait);
    let plan = plan::manage(&ds, &Demands::of(&ds), (&nodes, &pods("a=new! b=new!")), "new", now, held);
    assert_eq!((told(&plan).as_str(), plan.again), ("-b", Some(wait)));
}

#[test]
fn what_waits_for_a_node_that_is_gone_goes() {
    let (now, ds, nodes) = (client::timestamp(), set(json!({})), [node("a", json!([]))]);
    let waiting = |node: &str| Arc::new(plan::pod(&ds, node, "new"));
    let state = plan::by_node(&[waiting("a"), waiting("gone")]);
    let plan = plan::manage(&ds, &Demands::of(&ds), (&nodes, &state), "new", now, |_| None);
    let targets: Vec<_> = plan.delete.iter().filter_map(|p| crate::affinity::target(p.spec.as_ref()?)).collect();
    assert_eq!((targets, plan.create.len()), (vec!["gone"], 0));
    // What runs on a node that nobody has heard of yet is not touched.
    let bound = plan::manage(&ds, &Demands::of(&ds), (&nodes, &pods("a=new gone=new")), "new", now, |_| None);
    assert_eq!(told(&bound), "");
}

#[test]
fn a_heartbeat_changes_nothing_of_a_node() {
    let (old, tainted) = (node("a", json!([])), node("a", json!([{"key": "t", "effect": "NoSchedule"}])));
    let mut beat = (*old).clone();
    beat.metadata.resource_version = Some("9".to_owned());
    beat.status.get_or_insert_default().phase = Some("Running".to_owned());
    assert!(plan::is_same_place(&old, &beat) && !plan::is_same_place(&old, &tainted));
}

/// As with ReplicaSets: the second try after a conflict is for the same set alone.
#[tokio::test]
async fn a_namesake_does_not_get_the_status_of_the_one_before() {
    for (live, writes) in [("u", 2), ("another", 1)] {
        let server = Fake::new(move |method, _| {
            let set = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "d", "namespace": "n", "uid": live, "resourceVersion": "9"},
                "spec": {"selector": {}, "template": {}}});
            if method == "GET" { (200, set) } else { refusal(409, "Conflict") }
        });
        let client = server.client();
        let recorder = client::Recorder::new(client.clone(), "c", "");
        let daemons = Daemons {
            control: PodControl { recorder: recorder.clone(), client: client.clone() },
            client,
            recorder,
            sets: client::Informer::fixed([]),
            pods: client::Informer::fixed([]),
            nodes: client::Informer::fixed([]),
            revisions: client::Informer::fixed([]),
            expectations: Default::default(),
            failed: Default::default(),
            selectors: Default::default(),
            demands: Default::default(),
        };
        let status = k8s_openapi::api::apps::v1::DaemonSetStatus { number_ready: 3, ..Default::default() };
        let written = daemons.write_status(&set(json!({})), status).await;
        assert_eq!(written.is_ok(), writes == 1);
        assert_eq!(server.written().len(), writes);
    }
}
