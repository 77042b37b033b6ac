//! Taints and ranges, as tables.

use std::collections::HashSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Taint};
use machinery::placement::Tolerations;
use serde_json::json;

use super::ipam::Range;
use super::taints::{Evict, stay, wanted};

fn node(ready: Option<&str>, taints: &[(&str, &str)]) -> Node {
    let conditions: Vec<_> = ready.iter().map(|r| json!({"type": "Ready", "status": r})).collect();
    let taints: Vec<_> = taints.iter().map(|(k, e)| json!({"key": k, "effect": e})).collect();
    serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": {"taints": taints}, "status": {"conditions": conditions}})).unwrap_or_default()
}

#[test]
fn taints_follow_the_conditions() {
    let (nr, ur) = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable");
    let told = |node: &Node, evict: Evict| {
        let now = client::now();
        wanted(node, evict, &now)
            .map(|all| all.iter().map(|t| format!("{}:{}", t.key.rsplit('/').next().unwrap_or_default(), t.effect)).collect::<Vec<_>>().join(" "))
    };
    let both = Some("not-ready:NoSchedule not-ready:NoExecute".to_owned());
    assert_eq!(told(&node(Some("False"), &[]), Evict::Yes), both);
    assert_eq!(told(&node(Some("False"), &[]), Evict::No), Some("not-ready:NoSchedule".to_owned()), "when no node is ready nobody is evicted");
    assert_eq!(
        told(&node(Some("Unknown"), &[(nr, "NoSchedule"), ("mine", "NoExecute")]), Evict::Yes),
        Some("mine:NoExecute unreachable:NoSchedule unreachable:NoExecute".to_owned())
    );
    assert_eq!(told(&node(Some("True"), &[(ur, "NoSchedule"), (ur, "NoExecute")]), Evict::Yes), Some(String::new()));
    assert_eq!(told(&node(Some("True"), &[("mine", "NoSchedule")]), Evict::Yes), None);
    assert_eq!(told(&node(Some("False"), &[]), Evict::Wait), Some("not-ready:NoSchedule".to_owned()), "its turn has not come");
    let swapped = Some("unreachable:NoSchedule unreachable:NoExecute".to_owned());
    assert_eq!(told(&node(Some("Unknown"), &[(nr, "NoExecute")]), Evict::Wait), swapped, "what was begun goes on at once");
    assert_eq!(told(&node(Some("False"), &[(nr, "NoSchedule"), (nr, "NoExecute")]), Evict::No), Some("not-ready:NoSchedule".to_owned()));
    assert_eq!(told(&node(None, &[(nr, "NoSchedule")]), Evict::Yes), None, "what admission gave a new node stays until it tells");
}

#[test]
fn a_pod_stays_as_long_as_it_tolerates_every_taint() {
    let taint = |key: &str| Taint { key: key.to_owned(), effect: "NoExecute".to_owned(), ..Taint::default() };
    let stay = |taints: &[Taint], borne: &[(&str, Option<i64>)]| {
        let one = |(key, seconds): &(&str, Option<i64>)| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        stay(taints, &Tolerations::new(&borne.iter().map(one).collect::<Vec<_>>()))
    };
    assert_eq!(stay(&[], &[]), None);
    assert_eq!(stay(&[taint("a")], &[]), Some(Duration::ZERO));
    assert_eq!(stay(&[taint("a")], &[("a", Some(300))]), Some(Duration::from_secs(300)));
    assert_eq!(stay(&[taint("a"), taint("b")], &[("a", Some(300)), ("b", Some(5))]), Some(Duration::from_secs(5)));
    assert_eq!(stay(&[taint("a"), taint("b")], &[("a", None)]), Some(Duration::ZERO));
    assert_eq!(stay(&[taint("a")], &[("a", None)]), None);
}

#[test]
fn ranges_are_given_from_the_start_and_end() {
    let range = Range::parse("10.244.0.0/22", 24).unwrap_or_else(|| panic!("a range"));
    let mut taken = HashSet::new();
    for want in ["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24"] {
        let free = range.free(&taken).unwrap_or_default();
        assert_eq!(free, want);
        taken.insert(free);
    }
    assert_eq!(range.free(&taken), None);
    taken.remove("10.244.1.0/24");
    assert_eq!(range.free(&taken).as_deref(), Some("10.244.1.0/24"));
    assert_eq!(Range::parse("fd00::/48", 24).and_then(|r| r.free(&HashSet::from(["fd00::/64".to_owned()]))).as_deref(), Some("fd00:0:0:1::/64"));
    assert!(Range::parse("10.0.0.0/25", 24).is_none());
}
