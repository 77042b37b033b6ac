use super::CustomRules;
use crate::{
    Strategy,
    custom::{Custom, Described},
};
use kubecel::regex::Patterns;
use machinery::{Value, field::ErrorList, gvk::Gvk};
use serde_json::json;
use std::sync::atomic::AtomicBool;

const CASES: &str = include_str!("../../tests/objects/cases.jsonl");
const ANSWERS: &str = include_str!("../../tests/objects/answers.jsonl");

/// Schemas with objects and old ones, and what the original says of them (`crates/cel/tests/golden/objects`).
#[test]
fn objects_are_judged_as_the_original_judges_them() {
    let mut wrong = Vec::new();
    for (at, (case, answer)) in CASES.lines().zip(ANSWERS.lines()).enumerate() {
        let (case, answer): (Value, Value) = (serde_json::from_str(case).unwrap(), serde_json::from_str(answer).unwrap());
        let rules = CustomRules::compile(&case["schema"], &Patterns::default());
        let verdict = rules.map(|rules| rules.validate(&case["object"], case.get("old"), None)).unwrap_or_default();
        let mut errors: Vec<String> = verdict.errors.iter().map(|error| format!("{}: {}", error.path.as_str(), error.body())).collect();
        let mut warnings = verdict.warnings;
        errors.sort();
        warnings.sort();
        let theirs = |key: &str| serde_json::from_value::<Vec<String>>(answer[key].clone()).unwrap();
        if errors != theirs("errors") || warnings != theirs("warnings") {
            wrong.push(format!("{at}: {case}\n    {answer}\n    {errors:?} {warnings:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn what_many_items_break_is_told_for_the_first_of_them() {
    let items = |message: &str| json!({"type": "integer", "x-kubernetes-validations": [{"rule": "self < 0", "message": message}]});
    let told = |message: &str, old: bool| {
        let rules = CustomRules::compile(&json!({"type": "array", "maxItems": 100_000, "items": items(message)}), &Patterns::default()).unwrap();
        let list = json!(vec![1; 100_000]);
        let verdict = rules.validate(&list, old.then_some(&list), None);
        (verdict.errors.len(), verdict.warnings.len())
    };
    assert_eq!(told("is below nothing", false), (1_000, 0));
    assert_eq!(told("is below nothing", true), (0, 1_000), "what was there is told as warnings, and no more of them");
    let (long, none) = told(&"x".repeat(20_000), false);
    assert!((40..60).contains(&long) && none == 0, "{long}");
}

#[test]
fn a_schema_without_rules_has_none() {
    assert!(CustomRules::compile(&json!({"type": "object", "properties": {"a": {"type": "integer"}}}), &Patterns::default()).is_none());
}

/// The strategy of a custom kind asks the rules last, and only about objects that are otherwise as the schema wants them.
#[test]
fn rules_are_asked_last() {
    let schema = json!({"type": "object", "properties": {"spec": {
        "type": "object",
        "required": ["a"],
        "properties": {"a": {"type": "integer", "x-kubernetes-validations": [{"rule": "self > 1"}, {"rule": "self >= oldSelf"}]}},
    }}});
    let version = Described::new(&json!({"schema": {"openAPIV3Schema": schema}}));
    let custom = Custom { kind: Gvk::new("a", "v1", "K"), version, ..Default::default() };
    let object = |a: i64| json!({"apiVersion": "a/v1", "kind": "K", "metadata": {"name": "n"}, "spec": {"a": a}});
    let said = |errors: ErrorList| errors.iter().map(|error| format!("{}: {}", error.path.as_str(), error.body())).collect::<Vec<_>>();
    assert_eq!(said(custom.validate(&object(2))), [""; 0]);
    assert_eq!(said(custom.validate(&object(1))), ["spec.a: Invalid value: 1: failed rule: self > 1"]);
    assert_eq!(said(custom.validate_update(&object(2), &object(3))), ["spec.a: Invalid value: 2: failed rule: self >= oldSelf"]);
    assert_eq!(said(custom.validate_status(&object(2), &object(3))), ["spec.a: Invalid value: 2: failed rule: self >= oldSelf"]);
    assert_eq!(said(custom.validate_update(&object(1), &object(1))), [""; 0]);
    let goes_on = AtomicBool::new(false);
    for part in ["", "status", "scale"] {
        let judged = custom.judge_through(part, &object(1), &object(1), &goes_on);
        assert_eq!((said(judged.errors), judged.let_pass), (vec![], vec!["spec.a: Invalid value: 1: failed rule: self > 1".to_owned()]), "{part}");
    }
    let ended = AtomicBool::new(true);
    let cut = ["spec.a: Invalid value: \"integer\": operation interrupted evaluating rule: self > 1"];
    assert_eq!(said(custom.judge(&object(2), &ended).errors), cut, "what nobody waits for is not found right");
    assert_eq!(said(custom.judge_through("status", &object(2), &object(2), &ended).errors), cut);
    let unchecked = "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; \
                     correct the existing errors to complete validation";
    let broken = json!({"apiVersion": "a/v1", "kind": "K", "metadata": {"name": "n"}, "spec": {}});
    assert_eq!(said(custom.validate(&broken)), ["spec.a: Required value", unchecked]);
}

/// Of an object of another kind the schema says nothing, and the rules do.
#[test]
fn an_object_of_another_kind_is_asked_the_rules() {
    let set = json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "integer", "maximum": 3}});
    let spec = json!({"type": "object", "properties": {"s": set}, "x-kubernetes-validations": [{"rule": "size(self.s) < 2", "message": "too many"}]});
    let version = Described::new(&json!({"schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}}));
    let custom = Custom { kind: Gvk::new("a", "v1", "K"), version, ..Default::default() };
    let object = |api_version: &str, kind: &str| json!({"apiVersion": api_version, "kind": kind, "spec": {"s": [7, 7]}});
    let said = |errors: ErrorList| errors.iter().map(|error| format!("{}: {}", error.path.as_str(), error.body())).collect::<Vec<_>>();
    let rest = ["spec.s[1]: Duplicate value: 7", "spec: Invalid value: too many"];
    let told = ["kind: Invalid value: \"Q\": must be K", "apiVersion: Invalid value: \"a/v2\": must be a/v1", rest[0], rest[1]];
    assert_eq!(said(custom.validate(&object("a/v2", "Q"))), told);
    let old = json!({"apiVersion": "a/v1", "kind": "K", "spec": {"s": [7]}});
    assert_eq!(said(custom.validate_update(&object("a/v2", "Q"), &old)), told);
    assert_eq!(said(custom.validate_status(&object("a/v1", "Q"), &old)), [told[0], rest[0], rest[1]]);
}

#[test]
fn many_elements_are_found_at_once() {
    const COUNT: usize = 10_000;
    let rule = json!([{"rule": "self.v < 0"}]);
    let element = json!({
        "type": "object",
        "properties": {"k": {"type": "string"}, "v": {"type": "integer"}, "w": {"type": "integer", "x-kubernetes-validations": [{"rule": "self < 0"}]}},
        "x-kubernetes-validations": rule,
    });
    let list = json!({"type": "array", "items": element, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]});
    let rules = CustomRules::compile(&json!({"type": "object", "properties": {"list": list}}), &Patterns::default()).expect("rules");
    let object = |changed: usize| {
        let element = |at: usize| json!({"k": format!("{at}"), "v": if at == changed { 2 } else { 1 }});
        json!({"list": (0..COUNT).map(element).collect::<Vec<_>>()})
    };
    let started = std::time::Instant::now();
    let changed = COUNT - 7;
    let verdict = rules.validate(&object(changed), Some(&object(COUNT)), None);
    let errors: Vec<_> = verdict.errors.iter().map(|error| error.path.as_str().to_owned()).collect();
    assert_eq!((errors, verdict.warnings.len()), (vec![format!("list[{changed}]")], 1_000), "no warning hides an error");
    // None is found: all ask for the list's answer.
    let renamed = json!({"list": (0..COUNT).map(|at| json!({"k": format!("new{at}"), "v": 1})).collect::<Vec<_>>()});
    let verdict = rules.validate(&renamed, Some(&object(COUNT)), None);
    assert_eq!((verdict.errors.len(), verdict.warnings.len()), (1_000, 0));
    assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
}
