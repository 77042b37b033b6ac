use super::CustomRules;
use machinery::Value;

const CASES: &str = include_str!("../../tests/objects/cases.jsonl");
const ANSWERS: &str = include_str!("../../tests/objects/answers.jsonl");

/// Schemas with objects and old ones, and what the original says of them (`crates/cel/tests/golden/objects`).
#[test]
fn objects_are_judged_as_the_original_judges_them() {
    let mut wrong = Vec::new();
    for (at, (case, answer)) in CASES.lines().zip(ANSWERS.lines()).enumerate() {
        let (case, answer): (Value, Value) = (serde_json::from_str(case).unwrap(), serde_json::from_str(answer).unwrap());
        let rules = CustomRules::compile(&case["schema"]);
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
fn a_schema_without_rules_has_none() {
    assert!(CustomRules::compile(&serde_json::json!({"type": "object", "properties": {"a": {"type": "integer"}}})).is_none());
}
