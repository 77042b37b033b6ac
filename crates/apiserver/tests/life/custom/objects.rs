//! Objects of custom kinds take the one path: decoding, defaults, validation, subresources, patches, lists and tables.

use super::{DEFINITIONS, WIDGETS, establish, eventually, version, widget, widgets};
use crate::support::{Server, names};
use http::Method;
use serde_json::{Value, json};

const MERGE: &str = "application/merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

async fn started() -> Server {
    let server = Server::start().await;
    establish(&server, &widgets()).await;
    server
}

#[tokio::test]
async fn unknown_fields_are_pruned_or_refused() {
    let server = started().await;
    let mut object = widget("a", json!({"color": "red", "odd": 1, "anything": {"kept": [1]}, "tags": {"x": "y"}}));
    object["metadata"]["odd"] = 1.into();
    object["extra"] = true.into();
    let made = server.post(WIDGETS, &object).await;
    assert_eq!(
        made.warnings,
        ["299 - \"unknown field \\\"metadata.odd\\\"\"", "299 - \"unknown field \\\"extra\\\"\"", "299 - \"unknown field \\\"spec.odd\\\"\""]
    );
    let made = made.expect(201);
    assert_eq!(made["spec"], json!({"color": "red", "anything": {"kept": [1]}, "tags": {"x": "y"}}));
    assert!(made.get("extra").is_none() && made["metadata"].get("odd").is_none());
    assert_eq!(made["metadata"]["generation"], 1);
    object["metadata"]["name"] = "b".into();
    let refused = server.post(&format!("{WIDGETS}?fieldValidation=Strict"), &object).await.expect(400);
    assert_eq!(
        refused["message"],
        "Widget in version \"v1\" cannot be handled as a Widget: strict decoding error: unknown field \"metadata.odd\", unknown field \"extra\", unknown field \"spec.odd\""
    );
    let ignored = server.post(&format!("{WIDGETS}?fieldValidation=Ignore"), &object).await;
    assert!(ignored.warnings.is_empty());
    ignored.expect(201);
}

#[tokio::test]
async fn the_schema_judges_and_metadata_is_typed() {
    let server = started().await;
    let wrong = server.post(WIDGETS, &widget("a", json!({"color": "a very long color", "replicas": "x"}))).await.expect(422);
    assert_eq!(wrong["reason"], "Invalid");
    let causes: Vec<&str> = wrong["details"]["causes"].as_array().into_iter().flatten().filter_map(|c| c["field"].as_str()).collect();
    assert!(causes.contains(&"spec.color") && causes.contains(&"spec.replicas"), "{wrong:#}");
    let mut named = widget("A", json!({}));
    named["metadata"]["finalizers"] = json!(["hold"]);
    server.post(WIDGETS, &named).await.expect(422);
    named["metadata"]["name"] = "a".into();
    let made = server.post(WIDGETS, &named).await;
    assert_eq!(
        made.warnings,
        ["299 - \"metadata.finalizers: \\\"hold\\\": prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers\""]
    );
    made.expect(201);
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let server = started().await;
    let mut object = widget("a", json!({"replicas": 1}));
    object["status"] = json!({"replicas": 7});
    let made = server.post(WIDGETS, &object).await.expect(201);
    assert!(made.get("status").is_none());
    let at = format!("{WIDGETS}/a");
    let mut next = made.clone();
    next["status"] = json!({"replicas": 3});
    next["spec"]["replicas"] = 9.into();
    next["metadata"]["labels"] = json!({"no": "label"});
    let told = server.put(&format!("{at}/status"), &next).await.expect(200);
    assert_eq!((&told["status"]["replicas"], &told["spec"]["replicas"], &told["metadata"]["generation"]), (&json!(3), &json!(1), &json!(1)));
    assert!(told["metadata"].get("labels").is_none());
    assert_eq!(told["metadata"]["managedFields"][1]["subresource"], "status");
    let mut next = told.clone();
    next["spec"]["replicas"] = 2.into();
    next["status"] = json!({"replicas": 8});
    let changed = server.put(&at, &next).await.expect(200);
    assert_eq!((&changed["status"]["replicas"], &changed["metadata"]["generation"]), (&json!(3), &json!(2)));
    let wrong = server.patch(&format!("{at}/status"), MERGE, &json!({"status": {"replicas": "many"}})).await.expect(422);
    assert_eq!(wrong["details"]["causes"][0]["field"], "status.replicas");
    let mut unversioned = changed.clone();
    unversioned["metadata"].as_object_mut().expect("metadata").remove("resourceVersion");
    let refused = server.put(&at, &unversioned).await.expect(422);
    assert_eq!(refused["message"], "widgets.example.com \"a\" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update");
}

#[tokio::test]
async fn the_scale_stands_where_the_definition_says() {
    let server = started().await;
    server.post(WIDGETS, &widget("a", json!({}))).await.expect(201);
    let at = format!("{WIDGETS}/a/scale");
    let missing = server.get(&at).await.expect(500);
    assert_eq!(missing["message"], "Internal error occurred: the spec replicas field \".spec.replicas\" does not exist");
    let refused = server.patch(&at, MERGE, &json!({"status": {}})).await.expect(400);
    assert_eq!(refused["message"], "the spec replicas field \".spec.replicas\" cannot be empty");
    let scaled = server.patch(&at, MERGE, &json!({"spec": {"replicas": 3}})).await.expect(200);
    assert_eq!((&scaled["kind"], &scaled["spec"]["replicas"]), (&json!("Scale"), &json!(3)));
    server.patch(&format!("{WIDGETS}/a/status"), MERGE, &json!({"status": {"replicas": 2, "selector": "app=a"}})).await.expect(200);
    let scale = server.get(&at).await.expect(200);
    assert_eq!(scale["status"], json!({"replicas": 2, "selector": "app=a"}));
    let mut next = scale;
    next["spec"]["replicas"] = 5.into();
    server.put(&at, &next).await.expect(200);
    assert_eq!(server.get(&format!("{WIDGETS}/a")).await.expect(200)["spec"]["replicas"], 5);
    next["metadata"]["resourceVersion"] = "1".into();
    server.put(&at, &next).await.expect(409);
    let wrong = server.patch(&at, MERGE, &json!({"spec": {"replicas": -1}})).await.expect(422);
    assert_eq!(wrong["details"]["causes"][0]["message"], "Invalid value: -1: should be a non-negative integer");
    next["spec"]["odd"] = 1.into();
    let refused = server.put(&format!("{at}?fieldValidation=Strict"), &next).await.expect(400);
    assert_eq!(refused["message"], "no kind is registered for the type v1.Scale in scheme \"pkg/runtime/scheme.go:111\"", "whatever is wrong with it");
}

#[tokio::test]
async fn a_scale_that_says_no_version_owns_nothing() {
    let server = started().await;
    server.post(WIDGETS, &widget("a", json!({"replicas": 1}))).await.expect(201);
    let at = format!("{WIDGETS}/a/scale?fieldManager=scaler");
    let owners = async || server.get(&format!("{WIDGETS}/a")).await.expect(200)["metadata"]["managedFields"].clone();
    // As recorded of the original: the Scale's entry comes back in another version than the object's, so whose the replicas were is another
    // without a time at first, and then nobody.
    let at_replicas = |owners: Value| -> Vec<Value> {
        let all = owners.as_array().unwrap().iter().filter(|owner| !owner["fieldsV1"]["f:spec"]["f:replicas"].is_null());
        all.map(|owner| json!([owner["manager"], owner["time"]])).collect()
    };
    for (kind, left) in [(json!({}), vec![json!(["unknown", null])]), (json!({}), vec![]), (json!({"kind": "Scale"}), vec![])] {
        let mut scale = json!({"metadata": {"name": "a"}, "spec": {"replicas": 2}});
        scale.as_object_mut().unwrap().extend(kind.as_object().unwrap().clone());
        assert_eq!(server.put(&at, &scale).await.expect(200)["spec"]["replicas"], 2);
        assert_eq!(at_replicas(owners().await), left, "{kind}");
    }
    // One that does is its manager's, where the replicas were somebody's.
    server.post(WIDGETS, &widget("b", json!({"replicas": 1}))).await.expect(201);
    server.put(&at.replace("/a/", "/b/"), &json!({"apiVersion": "autoscaling/v1", "metadata": {"name": "b"}, "spec": {"replicas": 3}})).await.expect(200);
    let owners = server.get(&format!("{WIDGETS}/b")).await.expect(200)["metadata"]["managedFields"].clone();
    let managers: Vec<_> = owners.as_array().unwrap().iter().map(|owner| owner["manager"].clone()).collect();
    assert!(managers.contains(&json!("scaler")), "{managers:?}");
}

#[tokio::test]
async fn a_message_is_no_custom_object() {
    let server = started().await;
    let lenient = format!("{WIDGETS}?fieldValidation=Ignore");
    let refused = server.post_protobuf(&lenient, b"{}".to_vec()).await.expect(400);
    let none = "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]";
    assert_eq!(refused["message"], format!("the object provided is unrecognized (must be of type Widget): {none} ({{}})"));
    let refused = server.post_protobuf(&lenient, machinery::proto::envelope("example.com/v1", "Widget", b"{}")).await.expect(400);
    assert_eq!(refused["message"], "Widget in version \"v1\" cannot be handled as a Widget: Object 'Kind' is missing in 'object has no kind field '");
}

#[tokio::test]
async fn patches_apply_and_are_owned_by_schema() {
    let server = started().await;
    let at = format!("{WIDGETS}/a");
    let config = |size: i64, name: &str| widget("a", json!({"parts": [{"name": name, "size": size}]}));
    let made = server.patch(&format!("{at}?fieldManager=one"), APPLY, &config(1, "x")).await.expect(201);
    assert_eq!(made["spec"]["color"], "blue");
    let two = server.patch(&format!("{at}?fieldManager=two"), APPLY, &config(2, "y")).await.expect(200);
    assert_eq!(two["spec"]["parts"], json!([{"name": "x", "size": 1}, {"name": "y", "size": 2}]));
    let conflict = server.patch(&format!("{at}?fieldManager=two"), APPLY, &config(5, "x")).await.expect(409);
    assert_eq!(conflict["details"]["causes"][0]["field"], ".spec.parts[name=\"x\"].size");
    let odd = server.patch(&format!("{at}?fieldManager=one"), APPLY, &widget("a", json!({"odd": 1}))).await.expect(500);
    assert!(odd["message"].as_str().is_some_and(|m| m.ends_with(".spec.odd: field not declared in schema")), "{odd}");

    let json_patch = json!([{"op": "replace", "path": "/spec/color", "value": "green"}]);
    let patched = server.patch(&at, "application/json-patch+json", &json_patch).await.expect(200);
    assert_eq!(patched["spec"]["color"], "green");
    let merged = server.patch(&at, MERGE, &json!({"spec": {"color": null, "odd": 1}})).await;
    assert_eq!(merged.warnings, ["299 - \"unknown field \\\"spec.odd\\\"\""]);
    assert_eq!(merged.expect(200)["spec"]["color"], "blue", "what is taken away gets its default");
    let refused = server.patch(&at, "application/strategic-merge-patch+json", &json!({})).await.expect(415);
    assert_eq!(
        refused["message"],
        "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
    );
}

#[tokio::test]
async fn a_new_object_has_the_status_that_its_schema_fills_in() {
    let server = Server::start().await;
    let mut definition = widgets();
    let schema = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    schema["properties"]["status"]["default"] = json!({"replicas": 3});
    establish(&server, &definition).await;
    let mut sent = widget("a", json!({}));
    sent["status"] = json!({"replicas": 7});
    let filled = json!({"replicas": 3});
    assert_eq!(server.post(&format!("{WIDGETS}?dryRun=All"), &sent).await.expect(201)["status"], filled);
    assert_eq!(server.post(WIDGETS, &sent).await.expect(201)["status"], filled);
    assert_eq!(server.get(WIDGETS).await.expect(200)["items"][0]["status"], filled);
    let patched = server.patch(&format!("{WIDGETS}/a/status?fieldManager=p"), MERGE, &json!({"status": null})).await.expect(200);
    assert_eq!(patched["status"], filled);
    assert_eq!(server.get(&format!("{WIDGETS}/a")).await.expect(200)["metadata"]["managedFields"].as_array().map(Vec::len), Some(1), "it is nobody's");
}

#[tokio::test]
async fn selectable_fields_select() {
    let server = started().await;
    for (name, color, replicas) in [("a", "red", 1), ("b", "blue", 1), ("c", "red", 2)] {
        server.post(WIDGETS, &widget(name, json!({"color": color, "replicas": replicas}))).await.expect(201);
    }
    let listed = |reply: Value| names(&reply).join(" ");
    assert_eq!(listed(server.get(&format!("{WIDGETS}?fieldSelector=spec.color=red")).await.expect(200)), "a c");
    assert_eq!(listed(server.get(&format!("{WIDGETS}?fieldSelector=spec.color=red,spec.replicas!=1")).await.expect(200)), "c");
    let wrong = server.get(&format!("{WIDGETS}?fieldSelector=spec.odd=1")).await.expect(400);
    assert_eq!(wrong["message"], "field label not supported: spec.odd");
    let mut watch = server.watch(&format!("{WIDGETS}?watch=true&fieldSelector=spec.color=red")).await;
    assert_eq!((watch.next().await.1["metadata"]["name"].take(), watch.next().await.1["metadata"]["name"].take()), (json!("a"), json!("c")));
    server.patch(&format!("{WIDGETS}/b"), MERGE, &json!({"spec": {"color": "red"}})).await.expect(200);
    assert_eq!(watch.next().await.0, "ADDED");
    server.patch(&format!("{WIDGETS}/a"), MERGE, &json!({"spec": {"color": "blue"}})).await.expect(200);
    assert_eq!(watch.next().await.0, "DELETED");
    server.delete(&format!("{WIDGETS}?fieldSelector=spec.color=red"), None).await.expect(200);
    assert_eq!(listed(server.get(WIDGETS).await.expect(200)), "a");
}

#[tokio::test]
async fn tables_show_the_printer_columns() {
    let server = started().await;
    server.post(WIDGETS, &widget("a", json!({"replicas": 2}))).await.expect(201);
    let table = server.get_as(WIDGETS, "application/json;as=Table;v=v1;g=meta.k8s.io").await.expect(200);
    let columns = table["columnDefinitions"].as_array().into_iter().flatten();
    let shown: Vec<String> = columns.map(|c| format!("{} {} {}", c["name"], c["type"], c["priority"])).collect();
    assert_eq!(shown, ["\"Name\" \"string\" 0", "\"Color\" \"string\" 0", "\"Replicas\" \"integer\" 1", "\"Ready\" \"string\" 0", "\"Age\" \"date\" 0"]);
    assert_eq!(table["columnDefinitions"][1]["description"], "Custom resource definition column (in JSONPath format): .spec.color");
    assert_eq!(table["columnDefinitions"][2]["description"], "How many");
    let cells = &table["rows"][0]["cells"];
    assert_eq!(cells.as_array().map(|c| c[..4].to_vec()), Some(vec![json!("a"), json!("blue"), json!(2), Value::Null]));
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    server.patch(&format!("{WIDGETS}/a/status"), MERGE, &ready).await.expect(200);
    let table = server.get_as(&format!("{WIDGETS}/a"), "application/json;as=Table;v=v1;g=meta.k8s.io").await.expect(200);
    assert_eq!(table["rows"][0]["cells"][3], "True");
    let partial = server.get_as(WIDGETS, "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io").await.expect(200);
    assert_eq!((&partial["items"][0]["kind"], &partial["items"][0]["metadata"]["name"]), (&json!("PartialObjectMetadata"), &json!("a")));
}

#[tokio::test]
async fn protobuf_is_not_to_be_had() {
    let server = started().await;
    let protobuf = "application/vnd.kubernetes.protobuf";
    let refused = server.get_as(WIDGETS, protobuf).await;
    refused.expect(406);
    let either = server.get_as(WIDGETS, &format!("{protobuf},application/json")).await.expect(200);
    assert_eq!(either["kind"], "WidgetList");
    let (code, _) =
        server.raw(Method::GET, WIDGETS, &[("accept", "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")], "").await;
    assert_eq!(code, 200, "metadata has a form of its own");
}

#[tokio::test]
async fn cluster_scoped_kinds_have_no_namespace() {
    let server = Server::start().await;
    let mut definition = widgets();
    definition["spec"]["scope"] = "Cluster".into();
    establish(&server, &definition).await;
    server.post("/apis/example.com/v1/widgets", &widget("a", json!({}))).await.expect(201);
    server.get(&format!("{WIDGETS}/a")).await.expect(404);
    server.post(WIDGETS, &widget("b", json!({}))).await.expect(404);
    server.get("/apis/example.com/v1/widgets/a").await.expect(200);
    server.get("/apis/example.com/v1/widgets/a/odd").await.expect(404);
    server.delete(&format!("{DEFINITIONS}/widgets.example.com"), None).await.expect(200);
    eventually(&server, "/apis/example.com/v1/widgets", |code, _| code == 404).await;
}

#[tokio::test]
async fn what_says_that_it_is_another_kind_has_no_defaults() {
    let server = Server::start().await;
    let mut definition = widgets();
    let mut only = version("v1", true);
    only["schema"]["openAPIV3Schema"]["x-kubernetes-validations"] = json!([{"rule": "self.spec.color != 'x'"}]);
    definition["spec"]["versions"] = json!([only]);
    establish(&server, &definition).await;
    let mut gadget = widget("b", json!({}));
    gadget["kind"] = "Gadget".into();
    let refused = server.post(WIDGETS, &gadget).await.expect(422);
    let missing = "<nil>: Invalid value: \"object\": no such key: color evaluating rule: self.spec.color != 'x'";
    assert_eq!(refused["message"], format!("Gadget.example.com \"b\" is invalid: [kind: Invalid value: \"Gadget\": must be Widget, {missing}]"));
    server.post(WIDGETS, &widget("b", json!({}))).await.expect(201);
}

/// Each text is what the original answered.
#[tokio::test]
async fn bodies_of_something_else_are_refused() {
    let server = started().await;
    let posted = async |body: Value| server.post(WIDGETS, &body).await;
    let mut other = widget("b", json!({}));
    other["apiVersion"] = "other.com/v1".into();
    let refused = posted(other).await.expect(400);
    assert_eq!(refused["message"], "the API version in the data (other.com/v1) does not match the expected API version (example.com/v1)");
    let mut gadget = widget("b", json!({}));
    gadget["kind"] = "Gadget".into();
    let refused = posted(gadget).await.expect(422);
    assert_eq!(refused["message"], "Gadget.example.com \"b\" is invalid: kind: Invalid value: \"Gadget\": must be Widget");
    let (code, body) = server
        .raw(Method::POST, WIDGETS, &[("content-type", "application/json")], r#"{"apiVersion":"example.com/v1","metadata":{"name":"b"},"spec":{}}"#)
        .await;
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(code, 400);
    assert_eq!(
        body["message"],
        r#"the object provided is unrecognized (must be of type Widget): Object 'Kind' is missing in '{"apiVersion":"example.com/v1","metadata":{"name":"b"},"spec":{}}' ({"apiVersion":"example.com/v1" ...)"#
    );
    let refused = server.post(WIDGETS, &json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": 1})).await.expect(400);
    assert_eq!(refused["message"], "Widget in version \"v1\" cannot be handled as a Widget: json: cannot unmarshal number into Go value of type v1.ObjectMeta");
    let mut typed = widget("a", json!({}));
    typed["metadata"]["labels"] = json!({"a": 1});
    let refused = posted(typed.clone()).await.expect(400);
    assert_eq!(
        refused["message"],
        "Widget in version \"v1\" cannot be handled as a Widget: json: cannot unmarshal number into Go struct field ObjectMeta.labels of type string"
    );
    typed["kind"] = "Gadget".into();
    let refused = posted(typed).await.expect(400);
    assert_eq!(
        refused["message"],
        "Gadget in version \"v1\" cannot be handled as a Widget: json: cannot unmarshal number into Go struct field ObjectMeta.labels of type string"
    );
    let (code, body) = server.raw(Method::PUT, WIDGETS, &[("content-type", "application/json")], "{}").await;
    assert!(code == 400 && String::from_utf8_lossy(&body).contains("name must be provided"));
    let (code, body) = server.raw(Method::GET, "/apis/example.com/v1/nones", &[], "").await;
    assert_eq!((code, &body[..]), (404, &b"404 page not found\n"[..]));
    let unsupported = server.post(&format!("{WIDGETS}/a/status"), &json!({})).await.expect(405);
    assert_eq!(unsupported["message"], "create is not supported on resources of kind \"widgets.example.com\"");
    let list = server.get(&format!("{WIDGETS}?limit=1")).await.expect(200);
    assert_eq!(list["metadata"]["continue"], "", "nothing is left out of a list without a type");
}

#[tokio::test]
async fn owners_are_known_by_the_fields_of_their_version() {
    let server = Server::start().await;
    let mut definition = widgets();
    let mut second = version("v2", false);
    // What both have in common is the definition's, and may stand there only beside its schema.
    second["selectableFields"] = json!([{"jsonPath": ".spec.color"}]);
    second["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["shape"] = json!({"type": "string", "default": "round"});
    definition["spec"]["versions"] = json!([version("v1", true), second]);
    establish(&server, &definition).await;
    let made = server.post(WIDGETS, &widget("a", json!({"color": "red"}))).await.expect(201);
    let at = "/apis/example.com/v2/namespaces/default/widgets/a";
    // What the other version adds changes the object, and is nothing that its owner's version could hold.
    let labelled = server.patch(&format!("{at}?fieldManager=other"), MERGE, &json!({"metadata": {"labels": {"x": "y"}}})).await.expect(200);
    assert_eq!((&labelled["metadata"]["generation"], labelled["spec"].get("shape")), (&json!(2), None));
    assert_eq!(labelled["metadata"]["managedFields"], made["metadata"]["managedFields"]);
    let config = json!({"apiVersion": "example.com/v2", "kind": "Widget", "metadata": {"name": "a"}, "spec": {"shape": "square"}});
    let refused = server.patch(&format!("{at}?fieldManager=other"), APPLY, &config).await.expect(500);
    assert_eq!(refused["message"], "failed to convert new object: .spec.shape: field not declared in schema");
    // Who has applied in the version that lacks the field hears of that first: what he names no more is looked for there.
    let first = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a"}, "spec": {"color": "red"}});
    server.patch(&format!("{WIDGETS}/a?fieldManager=other"), APPLY, &first).await.expect(200);
    let refused = server.patch(&format!("{at}?fieldManager=other"), APPLY, &config).await.expect(500);
    let why = "failed to prune fields: failed to convert merged object to last applied version: .spec.shape: field not declared in schema";
    assert_eq!(refused["message"], why);
}
