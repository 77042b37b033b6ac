use super::*;
use crate::{gvk::Gvk, resources};
use std::collections::HashSet;

fn everything() -> Vec<Served<'static>> {
    resources::builtin().iter().map(|resource| Served { resource, custom: None }).collect()
}

/// Every reference in a document must lead somewhere.
fn check_references(value: &Value, prefix: &str, known: &HashSet<&str>) {
    match value {
        Value::Object(map) => {
            if let Some(target) = map.get("$ref").and_then(Value::as_str) {
                let name = target.strip_prefix(prefix).unwrap_or_else(|| target.strip_prefix("#/parameters/").unwrap_or_else(|| panic!("{target}")));
                assert!(known.contains(name), "{name}");
            }
            map.values().for_each(|v| check_references(v, prefix, known));
        }
        Value::Array(items) => items.iter().for_each(|v| check_references(v, prefix, known)),
        _ => {}
    }
}

#[test]
fn every_group_version_has_a_document_that_stands_alone() {
    for (path, served) in v3_groups(&everything()) {
        let document = v3_document(&served, "v1.37.2");
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let known = schemas.keys().map(String::as_str).collect();
        check_references(&document, "#/components/schemas/", &known);
        assert!(document["paths"].as_object().is_some_and(|p| p.keys().all(|k| k.starts_with(&format!("/{path}")))), "{path}");
    }
}

#[test]
fn kubectl_finds_what_it_looks_for() {
    let served: Vec<Served<'_>> = everything().into_iter().filter(|s| s.resource.group == "apps").collect();
    let document = v3_document(&served, "v1.37.2");
    let item = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
    let gvk = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
    assert_eq!(item["patch"]["x-kubernetes-group-version-kind"], gvk);
    let names: Vec<&str> = item["patch"]["parameters"].as_array().unwrap().iter().filter_map(|p| p["name"].as_str()).collect();
    assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation", "force"]);
    assert_eq!(item["patch"]["operationId"], "patchAppsV1NamespacedDeployment");
    let schema = &document["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(schema["x-kubernetes-group-version-kind"], json!([gvk]));
    assert!(schema["description"].as_str().is_some_and(|d| d.starts_with("Deployment enables declarative updates")));
    let spec = &document["components"]["schemas"]["io.k8s.api.apps.v1.DeploymentSpec"];
    assert!(spec["properties"]["replicas"]["description"].as_str().is_some_and(|d| d.starts_with("Number of desired pods")));
    assert_eq!(spec["properties"]["strategy"]["x-kubernetes-patch-strategy"], "retainKeys");
    let scale = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"]["get"];
    assert_eq!(scale["x-kubernetes-group-version-kind"]["kind"], "Scale");
}

#[test]
fn version_2_holds_everything_at_once() {
    let document = v2_document(&everything(), "v1.37.2");
    let known = ["definitions", "parameters"].iter().flat_map(|part| document[*part].as_object().unwrap().keys()).map(String::as_str).collect();
    check_references(&document, "#/definitions/", &known);
    assert!(document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}/status"]["put"].is_object());
    let port = &document["definitions"]["io.k8s.api.core.v1.ServicePort"]["properties"];
    assert!(port["protocol"].get("default").is_none(), "version 2 tells no defaults");
    assert_eq!(port["targetPort"]["$ref"], "#/definitions/io.k8s.apimachinery.pkg.util.intstr.IntOrString");
}

#[test]
fn custom_kinds_stand_beside_built_in_ones() {
    let mut resource = resources::find("apps", "v1", "deployments").unwrap().clone();
    resource.group = "stable.example.com".into();
    resource.resource = "crontabs".into();
    resource.kind = Gvk { group: "stable.example.com".into(), version: "v1".into(), kind: "CronTab".into() };
    resource.subresources.truncate(0);
    let described = json!({"schema": {"openAPIV3Schema": {"type": "object", "description": "a job", "properties": {"spec": {"type": "object", "nullable": true, "properties": {"cron": {"type": "string", "example": false}}}}}}, "selectableFields": [{"jsonPath": ".spec.cron"}]});
    let served = [Served { resource: &resource, custom: Some(Custom { described: &described, list_kind: "CronTabList" }) }];
    let document = v3_document(&served, "v1.37.2");
    let own = &document["components"]["schemas"]["com.example.stable.v1.CronTab"];
    assert_eq!(own["properties"]["spec"]["properties"]["cron"], json!({"type": "string", "example": false}));
    assert_eq!(own["properties"]["kind"]["type"], "string");
    assert_eq!(own["x-kubernetes-group-version-kind"][0]["kind"], "CronTab");
    assert_eq!(own["x-kubernetes-selectable-fields"], json!([{"fieldPath": "spec.cron"}]));
    assert_eq!(document["info"], json!({"title": "Kubernetes CRD Swagger", "version": "v0.1.0"}));
    let item = &document["paths"]["/apis/stable.example.com/v1/namespaces/{namespace}/crontabs/{name}"];
    assert_eq!(item["get"]["operationId"], "readStableExampleComV1NamespacedCronTab");
    assert_eq!(item["get"]["tags"], json!(["stableExampleCom_v1"]));
    let patch = &document["paths"]["/apis/stable.example.com/v1/namespaces/{namespace}/crontabs/{name}"]["patch"]["requestBody"]["content"];
    assert!(patch["application/merge-patch+json"].is_object() && patch.get("application/strategic-merge-patch+json").is_none());
    let list = &document["components"]["schemas"]["com.example.stable.v1.CronTabList"];
    assert_eq!(list["properties"]["items"]["items"]["$ref"], "#/components/schemas/com.example.stable.v1.CronTab");
    let known = document["components"]["schemas"].as_object().unwrap().keys().map(String::as_str).collect();
    check_references(&document, "#/components/schemas/", &known);
    let document = v2_document(&served, "v1.37.2");
    assert!(document["definitions"]["com.example.stable.v1.CronTab"]["properties"]["spec"].get("properties").is_none(), "nullable cannot be said");
    let mut resource = resource.clone();
    resource.group = "snapshot.storage.k8s.io".into();
    resource.kind.group = resource.group.clone();
    let served = [Served { resource: &resource, custom: Some(Custom { described: &described, list_kind: "CronTabList" }) }];
    for document in [v3_document(&served, "v1.37.2"), v2_document(&served, "v1.37.2")] {
        let get = &document["paths"]["/apis/snapshot.storage.k8s.io/v1/namespaces/{namespace}/crontabs/{name}"]["get"];
        assert_eq!((&get["operationId"], &get["tags"]), (&json!("readSnapshotStorageV1NamespacedCronTab"), &json!(["snapshotStorage_v1"])));
    }
}

#[test]
fn the_packed_document_names_its_kinds() {
    use crate::proto::wire::{Payload, Reader};
    /// The messages under a tag.
    fn all(message: &[u8], tag: u32) -> Vec<&[u8]> {
        let (mut reader, mut found) = (Reader::new(message), Vec::new());
        while let Some((at, payload)) = reader.next().unwrap() {
            if let (true, Payload::Bytes(bytes)) = (at == tag, payload) {
                found.push(bytes);
            }
        }
        found
    }
    let pods = crate::resources::find("", "v1", "pods").unwrap();
    let document = v2_document(&[Served { resource: pods, custom: None }], "v1.37.2");
    let packed = v2_packed(&document);
    assert_eq!(all(&packed, 1), [b"2.0"]);
    let definitions = all(all(&packed, 9)[0], 1);
    assert_eq!(definitions.len(), document["definitions"].as_object().unwrap().len());
    let pod = definitions.iter().find(|d| all(d, 1) == [b"io.k8s.api.core.v1.Pod"]).unwrap();
    let extension = all(all(pod, 2)[0], 31)[0];
    assert_eq!(all(extension, 1), [b"x-kubernetes-group-version-kind"]);
    let read = |yaml: &[u8]| crate::yaml::decode(yaml, None, crate::json::Validation::Ignore).unwrap().value;
    let kinds = json!([{"group": "", "version": "v1", "kind": "Pod"}]);
    assert_eq!(read(all(all(extension, 2)[0], 2)[0]), kinds);
    assert_eq!(all(all(&packed, 8)[0], 2).len(), document["paths"].as_object().unwrap().len());
    // What all operations have stands with the document, and is referred to.
    assert_eq!(all(all(&packed, 10)[0], 1).len(), document["parameters"].as_object().unwrap().len());
    let document = v3_document(&[Served { resource: pods, custom: None }], "v1.37.2");
    let packed = v3_packed(&document);
    assert_eq!(all(&packed, 1), [b"3.0.0"]);
    let schemas = all(all(all(&packed, 5)[0], 1)[0], 1);
    assert_eq!(schemas.len(), document["components"]["schemas"].as_object().unwrap().len());
    let pod = schemas.iter().find(|schema| all(schema, 1) == [b"io.k8s.api.core.v1.Pod"]).unwrap();
    let pod = all(all(pod, 2)[0], 1)[0];
    assert_eq!(read(all(all(all(pod, 36)[0], 2)[0], 2)[0]), kinds);
    assert_eq!(all(all(&packed, 4)[0], 1).len(), document["paths"].as_object().unwrap().len());
}
