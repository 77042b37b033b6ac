use super::*;
use crate::{
    defaulting,
    field::Path,
    json::{self, Validation},
};
use serde_json::json;

fn gvk() -> Gvk {
    Gvk { group: "stable.example.com".into(), version: "v1".into(), kind: "CronTab".into() }
}

fn crontab() -> Value {
    json!({"type": "object", "required": ["spec"], "properties": {"spec": {"type": "object", "required": ["cron"], "properties": {
        "cron": {"type": "string", "pattern": "^(\\d+|\\*)(/\\d+)?$"},
        "replicas": {"type": "integer", "minimum": 1, "maximum": 10, "default": 1},
        "mode": {"type": "string", "enum": ["fast", "slow"]},
        "port": {"x-kubernetes-int-or-string": true},
        "note": {"type": "string", "nullable": true},
        "raw": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "limits": {"type": "object", "additionalProperties": {"type": "string"}},
        "items": {"type": "array", "maxItems": 2, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "n": {"type": "number"}}}}}}}})
}

fn decoded(body: &Value) -> json::Decoded {
    let schema = schema(&[(gvk(), Some(&crontab()))]);
    let ty = schema.kind(&gvk()).unwrap();
    let mut out = json::decode(body.to_string().as_bytes(), Some(ty), Validation::Warn).unwrap();
    defaulting::apply(ty, &mut out.value);
    out
}

#[test]
fn a_whole_float_is_a_whole_number_to_the_metadata() {
    let out = decoded(&json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": "a", "generation": 2.0}, "spec": {"cron": "1"}}));
    assert_eq!(out.value["metadata"]["generation"], 2);
}

#[test]
fn unknown_fields_are_pruned_and_defaults_set() {
    let out = decoded(
        &json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": "a", "foo": 1}, "extra": 1, "spec": {"cron": "1", "more": 2, "note": null,
        "raw": {"any": {"thing": [1]}}, "limits": {"a": "b"}, "items": [{"name": "x", "y": 1}]}}),
    );
    assert_eq!(
        out.value,
        json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": "a"}, "spec": {"cron": "1", "replicas": 1,
            "note": null, "raw": {"any": {"thing": [1]}}, "limits": {"a": "b"}, "items": [{"name": "x"}]}})
    );
    assert_eq!(out.warnings, ["unknown field \"metadata.foo\"", "unknown field \"extra\"", "unknown field \"spec.items[0].y\"", "unknown field \"spec.more\""]);
}

#[test]
fn a_list_where_an_object_keeps_what_it_does_not_know_is_left_as_it_is() {
    let body = |spec: Value| json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": "a"}, "spec": spec});
    let out = decoded(&body(json!({"cron": "1", "replicas": 1, "raw": [{"a": 1}], "limits": [{"b": 1}]})));
    assert_eq!(out.value["spec"], json!({"cron": "1", "replicas": 1, "raw": [{"a": 1}], "limits": [{}]}));
    assert_eq!(out.warnings, ["unknown field \"spec.limits[0].b\""]);
}

#[test]
fn an_object_of_which_no_field_is_told_may_have_any_to_those_who_apply() {
    let spec = json!({"type": "object", "properties": {"free": {"type": "object"}, "told": {"type": "object", "properties": {"a": {"type": "string"}}}}});
    let schema = schema(&[(gvk(), Some(&json!({"type": "object", "properties": {"spec": spec}})))]);
    let told = |spec: Value| crate::apply::live_errors(schema.kind(&gvk()).unwrap(), &json!({"spec": spec}));
    assert_eq!(told(json!({"free": {"b": {"c": [1]}}})), None);
    assert_eq!(told(json!({"told": {"b": 1}})).unwrap(), ".spec.told.b: field not declared in schema");
}

#[test]
fn fields_of_what_has_no_type_are_known_and_anything_may_stand_there() {
    let parameters = json!({"x-kubernetes-preserve-unknown-fields": true, "properties": {
        "labels": {"type": "array", "items": {"type": "string"}}, "mode": {"type": "string", "default": "all"}}});
    let spec = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"parameters": parameters}}}});
    let schema = schema(&[(gvk(), Some(&spec))]);
    let ty = schema.kind(&gvk()).unwrap();
    let read = |parameters: Value| {
        let body = json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "spec": {"parameters": parameters}});
        let mut out = json::decode(body.to_string().as_bytes(), Some(ty), Validation::Warn).unwrap();
        defaulting::apply(ty, &mut out.value);
        (out.value["spec"]["parameters"].clone(), out.warnings, crate::apply::live_errors(ty, &out.value))
    };
    let (value, warnings, _) = read(json!({"labels": [{"key": "a"}], "other": {"b": 1}}));
    assert_eq!(value, json!({"labels": [{}], "mode": "all", "other": {"b": 1}}));
    assert_eq!(warnings, ["unknown field \"spec.parameters.labels[0].key\""]);
    assert_eq!(read(json!({"labels": [0]})).2.unwrap(), ".spec.parameters.labels[0]: expected string, got &value.valueUnstructured{Value:0}");
    for other in [json!("text"), json!([{"a": 1}]), json!(1)] {
        assert_eq!(read(other.clone()), (other, vec![], None));
    }
}

#[test]
fn that_a_body_says_no_kind_comes_before_what_its_metadata_cannot_hold() {
    let schema = schema(&[(gvk(), Some(&crontab()))]);
    let why = |body: &Value| json::decode(body.to_string().as_bytes(), schema.kind(&gvk()), Validation::Warn).unwrap_err().message;
    let mut body = json!({"apiVersion": "stable.example.com/v1", "metadata": {"finalizers": "x"}});
    assert!(why(&body).contains("Object 'Kind' is missing in '"), "{}", why(&body));
    body["kind"] = "CronTab".into();
    assert!(why(&body).ends_with("json: cannot unmarshal string into Go struct field ObjectMeta.finalizers of type []string"), "{}", why(&body));
}

#[test]
fn without_a_schema_everything_is_kept() {
    let schema = schema(&[(gvk(), None)]);
    let body = json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": "a"}, "spec": {"x": [null, {"y": 0}]}});
    let out = json::decode(body.to_string().as_bytes(), schema.kind(&gvk()), Validation::Strict).unwrap();
    assert_eq!(out.value, body);
}

/// As kube-apiserver 1.37.2 answers, which reads the metadata from a map.
#[test]
fn of_metadata_the_first_wrong_value_by_name_is_told() {
    let schema = schema(&[(gvk(), Some(&crontab()))]);
    let body = br#"{"apiVersion":"stable.example.com/v1","kind":"CronTab","metadata":{"uid":1,"resourceVersion":1},"spec":{"cron":"1"}}"#;
    let refused = json::decode(body, schema.kind(&gvk()), Validation::Strict).unwrap_err().message;
    assert!(refused.ends_with("json: cannot unmarshal number into Go struct field ObjectMeta.resourceVersion of type string"), "{refused}");
}

#[test]
fn errors_speak_as_upstream() {
    let node = Node::compile(&crontab(), Purpose::Objects);
    let says = |spec: Value| -> Vec<String> {
        let object = json!({"spec": spec});
        let found = node.validate(&object, &Path::empty()).into_iter().chain(node.repeated(&object, &Path::empty()));
        found.map(|error| error.to_string()).collect()
    };
    for (spec, error) in [
        (json!({}), "spec.cron: Required value"),
        (json!({"cron": 1}), "spec.cron: Invalid value: \"integer\": spec.cron in body must be of type string: \"integer\""),
        (json!({"cron": "x"}), "spec.cron: Invalid value: \"x\": spec.cron in body should match '^(\\d+|\\*)(/\\d+)?$'"),
        (json!({"cron": "1", "replicas": 11}), "spec.replicas: Invalid value: 11: spec.replicas in body should be less than or equal to 10"),
        (json!({"cron": "1", "mode": "mad"}), "spec.mode: Unsupported value: \"mad\": supported values: \"fast\", \"slow\""),
        (json!({"cron": "1", "port": true}), "spec.port: Invalid value: \"boolean\": spec.port in body must be of type integer,string: \"boolean\""),
        (json!({"cron": "1", "items": [{}]}), "spec.items[0].name: Required value"),
        (json!({"cron": "1", "items": [{"name": "a"}, {"name": "a"}]}), "spec.items[1]: Duplicate value: {\"name\":\"a\"}"),
        (json!({"cron": "1", "items": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}), "spec.items: Too many: 3: must have at most 2 items"),
    ] {
        assert_eq!(says(spec), [error]);
    }
    assert!(says(json!({"cron": "*/5", "replicas": 2, "port": "http", "note": null, "items": [{"name": "a", "n": 1}]})).is_empty());
}

#[test]
fn lists_are_merged_and_owned_as_the_schema_says() {
    let schema = schema(&[(gvk(), Some(&crontab()))]);
    let ty = schema.kind(&gvk()).unwrap();
    let none = crate::apply::FieldSet::new();
    let config = |name: &str| json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": "a"}, "spec": {"items": [{"name": name}]}});
    let one = crate::apply::apply(ty, None, &config("x"), "one", "stable.example.com/v1", "", false, "2026-01-01T00:00:00Z", &none).unwrap();
    let two = crate::apply::apply(ty, Some(&one), &config("y"), "two", "stable.example.com/v1", "", false, "2026-01-01T00:00:00Z", &none).unwrap();
    assert_eq!(two["spec"]["items"], json!([{"name": "x"}, {"name": "y"}]));
}

#[test]
fn what_was_wrong_and_is_unchanged_is_forgiven() {
    let node = Node::compile(&crontab(), Purpose::Objects);
    let says = |new: Value, old: Value| -> Vec<String> {
        node.validate_update(&json!({"spec": new}), &json!({"spec": old}), &Path::empty()).iter().map(ToString::to_string).collect()
    };
    let wrong = json!({"cron": "x", "items": [{"name": "a", "n": "no"}, {"name": "b"}]});
    let moved = json!({"cron": "x", "mode": "fast", "items": [{"name": "b"}, {"name": "a", "n": "no"}]});
    assert!(says(moved, wrong.clone()).is_empty());
    let changed = json!({"cron": "y", "items": [{"name": "a", "n": "yes"}]});
    let found = says(changed, wrong);
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn much_that_is_wrong_is_told_in_part_and_soon() {
    let node = |items: Value| Node::compile(&json!({"type": "object", "properties": {"list": {"type": "array", "items": items}}}), Purpose::Objects);
    let started = std::time::Instant::now();
    let errors = node(json!({"type": "string"})).validate(&json!({"list": vec![1; 100_000]}), &Path::empty());
    assert_eq!(errors.len(), 1_000);
    let status = crate::status::Status::invalid("stable.example.com", "CronTab", "a", errors);
    assert_eq!(status.details.map(|details| details.causes.len()), Some(1_000));
    // Of each element, too, that has much wrong by itself.
    let nested = json!({"type": "array", "items": {"type": "string"}});
    assert_eq!(node(nested).validate(&json!({"list": vec![vec![1; 900]; 300]}), &Path::empty()).len(), 1_000);
    // The whole enumeration stands in every error.
    let long: Vec<String> = (0..10_000).map(|n| format!("value-{n}")).collect();
    let errors = node(json!({"type": "string", "enum": long})).validate(&json!({"list": vec!["x"; 50_000]}), &Path::empty());
    assert!((1..20).contains(&errors.len()), "{}", errors.len());
    assert!(started.elapsed() < std::time::Duration::from_secs(60), "{:?}", started.elapsed());
    // What comes before the limit is told as ever, each once.
    assert_eq!(node(json!({"type": "string"})).validate(&json!({"list": [1, "a", 2]}), &Path::empty()).len(), 2);
}

#[test]
fn patterns_are_compiled_when_they_are_asked_and_shared() {
    let pattern = "^shared-[a-z]{1,9}$";
    let schema = json!({"type": "object", "properties": {"a": {"type": "string", "pattern": pattern}}});
    let (one, two) = (Node::compile(&schema, Purpose::Objects), Node::compile(&schema, Purpose::Objects));
    for node in [&one, &two] {
        assert!(node.validate(&json!({"a": "shared-x"}), &Path::empty()).is_empty());
        assert_eq!(node.validate(&json!({"a": "x"}), &Path::empty()).len(), 1);
    }
    let compiled = |node: &Node| node.property("a")?.texts.as_ref()?.pattern.as_ref()?.compiled().clone().ok();
    let (of_one, of_two) = (compiled(&one).unwrap(), compiled(&two).unwrap());
    assert!(std::sync::Arc::ptr_eq(&of_one, &of_two));
}

#[test]
fn patterns_that_are_dear_to_compile_are_known_until_they_are() {
    let schema = |pattern: &str| json!({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "string", "pattern": pattern}}}});
    for (pattern, dear) in [("^a{1,253}$", false), ("^(a{1,100}b){1,100}$", true), ("^[{]x}$", false)] {
        let node = Node::compile(&schema(pattern), Purpose::Objects);
        assert_eq!(node.has_dear_pattern_ahead(), dear, "{pattern}");
        assert!(!node.validate(&json!({"a": ["ccc"]}), &Path::empty()).is_empty());
        assert!(!node.has_dear_pattern_ahead(), "{pattern} is compiled now");
    }
}
