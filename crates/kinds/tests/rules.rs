//! The rules of definitions, and what the original says of them: `rules/said.jsonl` was recorded by the program in
//! `crates/cel/tests/golden` from `rules/definitions.jsonl`.

use kinds::strategy;
use machinery::Value;
use serde_json::json;
use std::fmt::Write;

fn definition(schema: &Value) -> Value {
    json!({
        "metadata": {"name": "things.example.com", "resourceVersion": "1"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "conversion": {"strategy": "None"},
            "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
        "status": {"storedVersions": ["v1"]},
    })
}

/// The type of `self` has a number of the moment.
fn numbered(said: &str) -> String {
    let mut parts = said.split("selfType");
    let mut out = parts.next().unwrap_or_default().to_string();
    for part in parts {
        out.push_str("selfType");
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        out.push_str(if rest.len() < part.len() { "1" } else { "" });
        out.push_str(rest);
    }
    out
}

#[test]
fn what_the_original_says() {
    // What the API server's threads have.
    let compared = std::thread::Builder::new().stack_size(machinery::json::STACK_BYTES).spawn(compare).expect("a thread").join();
    assert!(compared.is_ok(), "see above");
}

fn compare() {
    let strategy = strategy("apiextensions.k8s.io", "customresourcedefinitions");
    let (mut wrong, mut told) = (0, String::new());
    let said = include_str!("rules/said.jsonl").lines();
    for (given, said) in include_str!("rules/definitions.jsonl").lines().zip(said) {
        let given: Value = serde_json::from_str(given).expect("JSON");
        let mut theirs: Vec<String> = serde_json::from_str(&numbered(said)).expect("JSON");
        let new = definition(&given["schema"]);
        let errors = match &given["old"] {
            Value::Null => strategy.validate(&new),
            old => strategy.validate_update(&new, &definition(old)),
        };
        let mut ours: Vec<String> = errors.iter().map(ToString::to_string).collect();
        // The original walks properties in an order of chance.
        theirs.sort();
        ours.sort();
        if theirs != ours {
            wrong += 1;
            writeln!(told, "== {given}\n-- theirs: {theirs:#?}\n-- ours:   {ours:#?}").expect("text");
        }
    }
    assert!(wrong == 0, "{wrong} differ:\n{told}");
}

/// What a definition has wrong that becomes this one of itself.
fn told(change: impl Fn(&mut Value)) -> Vec<String> {
    let strategy = strategy("apiextensions.k8s.io", "customresourcedefinitions");
    let mut new = definition(&json!({"type": "object", "properties": {"spec": {"type": "object"}}}));
    change(&mut new);
    strategy.validate_update(&new, &definition(&json!({"type": "object"}))).iter().map(ToString::to_string).collect()
}

#[test]
fn a_path_to_a_selector_is_shown_as_json() {
    let scale = json!({"specReplicasPath": ".spec.a", "statusReplicasPath": ".status.a", "labelSelectorPath": ".metadata<"});
    let detail = "should be a json path under either .spec or .status";
    let expected = format!("spec.subresources.scale.labelSelectorPath: Invalid value: \".metadata\\u003c\": {detail}");
    assert_eq!(told(|new| new["spec"]["versions"][0]["subresources"] = json!({"scale": scale.clone()})), [expected]);
}

#[test]
fn a_version_that_was_stored_is_missed_once() {
    let said = told(|new| new["status"]["storedVersions"] = json!(["v0", "v1", "v0"]));
    assert!(matches!(said.as_slice(), [one] if one.starts_with("status.storedVersions[2]: Invalid value: \"v0\": missing from spec.versions; ")), "{said:?}");
}
