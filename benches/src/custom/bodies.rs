//! Definitions, objects and policies to measure with.

use serde_json::{Map, Value, json};

/// Properties of each sort in the wide kind; with the four others of [`wide`] 200 fields.
const OF_EACH: usize = 49;

fn definition(group: &str, plural: &str, kind: &str, schema: Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": plural, "kind": kind},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
    })
}

/// A kind with 200 fields and ten rules.
pub(super) fn wide() -> Value {
    let mut fields = Map::new();
    for n in 0..OF_EACH {
        fields.insert(format!("number{n}"), json!({"type": "integer", "minimum": 0, "maximum": 1_000_000}));
        fields.insert(format!("text{n}"), json!({"type": "string", "maxLength": 64, "pattern": "^[a-z0-9-]*$"}));
        fields.insert(format!("flag{n}"), json!({"type": "boolean", "default": false}));
        fields.insert(format!("choice{n}"), json!({"type": "string", "enum": ["one", "two", "three"]}));
    }
    fields.insert("names".into(), json!({"type": "array", "maxItems": 20, "items": {"type": "string", "maxLength": 64}}));
    fields.insert("labels".into(), json!({"type": "object", "maxProperties": 20, "additionalProperties": {"type": "string", "maxLength": 64}}));
    let port = json!({"type": "object", "required": ["name"], "properties": {"name": {"type": "string", "maxLength": 64}, "port": {"type": "integer"}}});
    fields.insert(
        "ports".into(),
        json!({"type": "array", "maxItems": 20, "items": port, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}),
    );
    let rules = [
        "self.number0 <= 1000000",
        "self.number1 >= 0 || self.number2 >= 0",
        "!self.flag0 || self.number3 > 0",
        "self.text0.startsWith('a')",
        "self.text1.size() < 60",
        "self.names.all(n, n.size() > 0)",
        "self.ports.all(p, p.port > 0 && p.port < 65536)",
        "self.labels.all(k, self.labels[k] != '')",
        "self.choice0 in ['one', 'two']",
        "has(self.text2) && self.text2.matches('^[a-z0-9-]+$')",
    ];
    let rules: Vec<Value> = rules.iter().map(|rule| json!({"rule": rule, "message": "does not hold"})).collect();
    let spec = json!({"type": "object", "properties": fields, "x-kubernetes-validations": rules});
    definition("bench.example.com", "widgets", "Widget", json!({"type": "object", "properties": {"spec": spec}}))
}

/// An object of the wide kind.
pub(super) fn widget(i: u32) -> String {
    let mut spec = Map::new();
    for n in 0..OF_EACH {
        spec.insert(format!("number{n}"), n.into());
        spec.insert(format!("text{n}"), format!("a-text-of-{n}").into());
        spec.insert(format!("choice{n}"), "one".into());
    }
    spec.insert("names".into(), json!(["first", "second", "third"]));
    spec.insert("labels".into(), json!({"app": "bench", "tier": "back"}));
    spec.insert("ports".into(), json!([{"name": "http", "port": 80}, {"name": "https", "port": 443}]));
    let metadata = json!({"name": format!("widget-{i}"), "labels": {"shard": (i % 100).to_string()}});
    json!({"apiVersion": "bench.example.com/v1", "kind": "Widget", "metadata": metadata, "spec": spec}).to_string()
}

/// A small kind of a group of its own.
pub(super) fn small(group: &str) -> Value {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}}});
    definition(group, "things", "Thing", schema)
}

/// An object of a small kind.
pub(super) fn thing(group: &str) -> String {
    json!({"apiVersion": format!("{group}/v1"), "kind": "Thing", "metadata": {"name": "first"}, "spec": {"size": 1}}).to_string()
}

/// A definition of the size that operators have: some 1,000 described fields, ten levels deep, 100 kB.
pub(super) fn large(n: u32) -> Value {
    let schema = json!({"type": "object", "properties": {"spec": branch(0), "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}});
    definition(&format!("large{n}.example.com"), "larges", "Large", schema)
}

fn branch(depth: usize) -> Value {
    const DESCRIPTION: &str = "What this is for, in the two sentences that a generator has taken from the comment of a field. It says when to set it.";
    let mut fields = Map::new();
    for n in 0..90 {
        let ty = ["string", "integer", "boolean"][n % 3];
        fields.insert(format!("field{depth}x{n}"), json!({"type": ty, "description": DESCRIPTION}));
    }
    if depth < 10 {
        fields.insert("list".into(), json!({"type": "array", "description": DESCRIPTION, "items": branch(depth + 1)}));
    }
    json!({"type": "object", "description": DESCRIPTION, "properties": fields})
}

/// A policy on ConfigMaps and its binding.
pub(super) fn policy(n: u32) -> (String, String) {
    let rules = json!({"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["CREATE", "UPDATE"]}]});
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": format!("policy-{n}")},
        "spec": {
            "matchConstraints": rules,
            "validations": [{"expression": format!("!has(object.data) || object.data.all(k, k != 'forbidden-{n}' && object.data[k].size() < 4096)")}],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": format!("policy-{n}")},
        "spec": {"policyName": format!("policy-{n}"), "validationActions": ["Deny"]},
    });
    (policy.to_string(), binding.to_string())
}

/// A ConfigMap that all policies admit.
pub(super) fn map(name: &str, i: u32) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("{name}-{i}")}, "data": {"a": "x".repeat(512), "b": "y".repeat(512)}})
        .to_string()
}

/// A ConfigMap that the last policy refuses.
pub(super) fn forbidden() -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "refused"}, "data": {"forbidden-49": "x"}}).to_string()
}
