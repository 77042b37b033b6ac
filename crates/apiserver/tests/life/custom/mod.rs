//! Custom resources: definitions that come, change and go, and the objects of the kinds that they describe.

mod definitions;
mod objects;

use crate::support::{PATIENCE, Server};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

pub const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
pub const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

/// A definition of Widgets with one version, `v1`.
pub fn widgets() -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.com"}, "spec": {
        "group": "example.com", "scope": "Namespaced",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList", "shortNames": ["wd"], "categories": ["all"]},
        "versions": [version("v1", true)]}})
}

pub fn version(name: &str, storage: bool) -> Value {
    json!({"name": name, "served": true, "storage": storage,
        "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
        "selectableFields": [{"jsonPath": ".spec.color"}, {"jsonPath": ".spec.replicas"}],
        "additionalPrinterColumns": [
            {"name": "Color", "type": "string", "jsonPath": ".spec.color"},
            {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas", "priority": 1, "description": "How many"},
            {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
            {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}],
        "schema": {"openAPIV3Schema": {"type": "object", "description": "A thing.", "properties": {
            "spec": {"type": "object", "properties": {
                "color": {"type": "string", "default": "blue", "maxLength": 10},
                "replicas": {"type": "integer"},
                "tags": {"type": "object", "additionalProperties": {"type": "string"}},
                "anything": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "items": {
                    "type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "size": {"type": "integer"}}}}}},
            "status": {"type": "object", "properties": {
                "replicas": {"type": "integer"}, "selector": {"type": "string"},
                "conditions": {"type": "array", "items": {"type": "object", "properties": {"type": {"type": "string"}, "status": {"type": "string"}}}}}}}}}})
}

pub fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

/// Makes a definition and waits until it says that it is established; returns it as it is then.
pub async fn establish(server: &Server, definition: &Value) -> Value {
    let name = definition["metadata"]["name"].as_str().unwrap_or_default();
    let made = server.post(DEFINITIONS, definition).await.expect(201);
    let version = made["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let mut watch = server.watch(&format!("{DEFINITIONS}?watch=true&fieldSelector=metadata.name={name}&resourceVersion={version}")).await;
    loop {
        let (_, object) = watch.next().await;
        if condition(&object, "Established")["status"] == "True" {
            return object;
        }
    }
}

/// A condition of a status; null if it is not there.
pub fn condition(object: &Value, kind: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().find(|c| c["type"] == kind).cloned().unwrap_or_default()
}

/// Asks again and again until the answer is as `wanted`.
pub async fn eventually(server: &Server, uri: &str, wanted: impl Fn(u16, &Value) -> bool) -> Value {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let reply = server.get(uri).await;
        let (code, body) = reply.either();
        if wanted(code, &body) {
            return body;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{uri}: never as wanted");
}
