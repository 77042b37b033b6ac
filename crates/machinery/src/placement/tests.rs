//! What is asked of nodes, and what of pods.

use serde_json::{Value, json};

use super::*;

fn labels() -> Labels {
    [("zone", "a"), ("cpus", "8")].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

fn ask(key: &str, operator: &str, values: &[&str]) -> Value {
    json!({"key": key, "operator": operator, "values": values})
}

fn selects(terms: Value) -> bool {
    NodeSelector::new(&json!({"nodeSelectorTerms": terms})).matches(Place::new("n1", Some(&labels())))
}

#[test]
fn one_of_the_terms_must_hold() {
    for terms in [
        json!([{"matchExpressions": [ask("zone", "In", &["b", "a"])]}]),
        json!([{"matchExpressions": [ask("zone", "NotIn", &["b"]), ask("gpu", "NotIn", &["x"])]}]),
        json!([{"matchExpressions": [ask("cpus", "Gt", &["4"]), ask("cpus", "Lt", &["9"])]}]),
        json!([{"matchExpressions": [ask("gpu", "Exists", &[])]}, {"matchExpressions": [ask("gpu", "DoesNotExist", &[])]}]),
        json!([{"matchFields": [ask("metadata.name", "In", &["n1"])]}]),
        json!([{"matchFields": [ask("metadata.name", "NotIn", &["n2"])], "matchExpressions": [ask("zone", "Exists", &[])]}]),
    ] {
        assert!(selects(terms.clone()), "{terms}");
    }
    for terms in [
        json!([]),
        json!([{}]),
        json!(null),
        json!([{"matchExpressions": [ask("zone", "In", &["a"]), ask("cpus", "Gt", &["8"])]}]),
        json!([{"matchExpressions": [ask("zone", "Gt", &["4"])]}]),
        json!([{"matchFields": [ask("metadata.name", "NotIn", &["n1"])]}]),
        json!([{"matchFields": [ask("metadata.uid", "In", &["n1"])]}]),
        // Malformed terms never hold, whatever else they say.
        json!([{"matchExpressions": [ask("zone", "Like", &["a"])]}]),
        json!([{"matchExpressions": [ask("gpu", "NotIn", &["not a label's value"])]}]),
        json!([{"matchExpressions": [ask("cpus", "Gt", &["four"])]}]),
        json!([{"matchFields": [ask("metadata.name", "In", &["n1", "n2"])]}]),
        json!([{"matchFields": [ask("metadata.name", "Exists", &[])]}]),
    ] {
        assert!(!selects(terms.clone()), "{terms}");
    }
}

#[test]
fn a_malformed_term_does_not_spoil_the_others() {
    assert!(selects(json!([{"matchExpressions": [ask("zone", "Like", &["a"])]}, {"matchExpressions": [ask("zone", "In", &["a"])]}])));
}

#[test]
fn nodes_that_are_named_by_every_term() {
    let names = |terms: Value| NodeSelector::new(&json!({"nodeSelectorTerms": terms})).names().map(|n| n.into_iter().collect::<Vec<_>>().join(" "));
    let named = |name: &str| json!({"matchFields": [ask("metadata.name", "In", &[name])]});
    assert_eq!(names(json!([named("a"), named("b")])).as_deref(), Some("a b"));
    assert_eq!(names(json!([named("a"), {"matchExpressions": [ask("zone", "Exists", &[])]}])), None, "the second may hold anywhere");
    let both = json!({"matchFields": [ask("metadata.name", "In", &["a"]), ask("metadata.name", "In", &["b"])]});
    assert_eq!(names(json!([both])).as_deref(), Some(""), "no node has two names");
    assert_eq!(names(json!([])), None);
}

#[test]
fn what_a_pod_demands_and_prefers() {
    let (here, labels) = ("n1", labels());
    let place = Place::new(here, Some(&labels));
    let wants = |key: &str, value: &str| Labels::from([(key.to_owned(), value.to_owned())]);
    let zone_a = json!({"nodeSelectorTerms": [{"matchExpressions": [ask("zone", "In", &["a"])]}]});
    assert!(Required::default().allows(place) && Required::default().is_nothing());
    assert!(Required::new(Some(&wants("zone", "a")), Some(&zone_a)).allows(place));
    assert!(!Required::new(Some(&wants("zone", "b")), Some(&zone_a)).allows(place), "both must hold");
    assert!(!Required::new(Some(&wants("gpu", "")), None::<&Value>).allows(place), "an absent label is not an empty one");
    assert!(!Required::new(None, Some(&zone_a)).allows(Place::new(here, None)));
    let term = |weight: i64, zone: &str| json!({"weight": weight, "preference": {"matchExpressions": [ask("zone", "In", &[zone])]}});
    let preferred = Preferred::new(&json!([term(3, "a"), term(5, "b"), term(7, "a"), {"weight": 9, "preference": {}}]));
    assert_eq!(preferred.score(place), 10);
    assert!(Preferred::new(&json!([term(0, "a")])).is_nothing());
}

#[test]
fn tolerations_bear_taints() {
    let taint = Taint { key: "k", value: "5", effect: NO_SCHEDULE };
    let bears = |toleration: Value| Tolerations::new(&json!([toleration])).bear(taint);
    for good in [
        json!({"key": "k", "value": "5"}),
        json!({"key": "k", "operator": "Equal", "value": "5", "effect": "NoSchedule"}),
        json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"}),
        json!({"operator": "Exists"}),
    ] {
        assert!(bears(good.clone()), "{good}");
    }
    for bad in [
        json!({"key": "k", "value": "6"}),
        json!({"key": "k", "value": "5", "effect": "NoExecute"}),
        json!({"key": "j", "operator": "Exists"}),
        // Their gate is off.
        json!({"key": "k", "operator": "Gt", "value": "4"}),
        json!({"key": "k", "operator": "Lt", "value": "9"}),
    ] {
        assert!(!bears(bad.clone()), "{bad}");
    }
    assert!(!Tolerations::default().bear(taint) && taint.keeps_away() && !Taint { effect: PREFER_NO_SCHEDULE, ..taint }.keeps_away());
    let timed = Tolerations::new(&json!([{"operator": "Exists", "tolerationSeconds": 30}]));
    assert_eq!(timed.bearing(taint).map(|t| t.seconds).collect::<Vec<_>>(), [Some(30)]);
}
