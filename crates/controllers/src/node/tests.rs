//! Taints and ranges, as tables.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Taint};
use machinery::placement::Tolerations;
use serde_json::json;

use super::ipam::Pool;
use super::taints::{Evict, stay, wanted};
use crate::range::Range;

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
    let pool = |text: &str| Pool::parse(text, 24, 64);
    let given = |from_end: bool| {
        let mut taken: Vec<Range> = Vec::new();
        std::iter::from_fn(|| {
            let free = pool("10.244.0.0/22")?.free(&taken, from_end)?;
            taken.extend(Range::parse(&free));
            Some(free)
        })
        .collect::<Vec<_>>()
    };
    let all = ["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24"];
    assert_eq!(given(false), all);
    assert_eq!(given(true), Vec::from_iter(all.into_iter().rev()));
    let free = |text: &str, taken: &[&str], from_end: bool| {
        let taken: Vec<Range> = taken.iter().filter_map(|text| Range::parse(text)).collect();
        pool(text).and_then(|pool| pool.free(&taken, from_end))
    };
    assert_eq!(free("10.244.0.0/22", &["10.244.2.0/24", "10.244.0.0/24"], false).as_deref(), Some("10.244.1.0/24"));
    assert_eq!(free("10.244.0.0/22", &["10.244.3.77/32", "10.244.0.0/23", "fd00::/8"], true).as_deref(), Some("10.244.2.0/24"), "of any size");
    assert_eq!(free("10.244.0.0/22", &["10.0.0.0/8"], false), None);
    assert_eq!(free("fd00::/48", &["fd00::/64"], false).as_deref(), Some("fd00:0:0:1::/64"));
    assert_eq!(free("fd00::/48", &[], true).as_deref(), Some("fd00:0:0:ffff::/64"));
    assert!(pool("10.0.0.0/25").is_none());
}
