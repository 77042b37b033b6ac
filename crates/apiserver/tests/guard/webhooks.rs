//! Webhooks: whom they are asked about, what they are told, what their answers do, and what it costs when they are wrong.

use crate::{
    extension::{Extension, reply},
    hook::{Act, Hook, configuration, entry, papers},
    support::{Cluster, admin, merged, pod, user},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::Method;
use serde_json::{Value, json};
use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Notify;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const CONFIGURATIONS: &str = "/apis/admissionregistration.k8s.io/v1/";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"start": "yes"}})
}

fn patch(operations: Value) -> Act {
    Act::Respond(json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(operations.to_string())}))
}

fn yes() -> Act {
    Act::Respond(json!({"allowed": true}))
}

impl Cluster {
    async fn register(&self, kind: &str, name: &str, hooks: Vec<Value>) {
        let resource = format!("{CONFIGURATIONS}{}webhookconfigurations", kind.to_lowercase());
        self.post(&resource, configuration(kind, name, hooks)).await.expect(201);
    }
}

#[tokio::test]
async fn a_webhook_is_told_everything_and_counts_at_once() {
    let (cluster, hook) = (Cluster::start().await, Hook::start(|_, _| yes()).await);
    let everything = json!([{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}]);
    cluster.register("Mutating", "m", vec![merged(entry("m.example.com", hook.by_url("/m")), json!({"rules": everything}))]).await;
    cluster.register("Validating", "v", vec![merged(entry("v.example.com", hook.by_url("/v")), json!({"rules": everything}))]).await;
    assert!(hook.on("/m").is_empty(), "webhooks are not asked about webhooks");
    let generated = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "map-"}});
    let made = cluster.post(&format!("{MAPS}?fieldManager=me&fieldValidation=Strict"), generated).await.expect(201);
    let (mutating, validating) = (&hook.on("/m")[0], &hook.on("/v")[0]);
    let kind = json!({"group": "", "version": "v1", "kind": "ConfigMap"});
    let resource = json!({"group": "", "version": "v1", "resource": "configmaps"});
    for request in [mutating, validating] {
        assert_eq!((&request["kind"], &request["requestKind"]), (&kind, &kind));
        assert_eq!((&request["resource"], &request["requestResource"]), (&resource, &resource));
        assert_eq!((&request["operation"], &request["namespace"], &request["dryRun"]), (&"CREATE".into(), &"default".into(), &false.into()));
        assert_eq!(request["userInfo"], json!({"username": "admin", "groups": ["system:masters", "system:authenticated"]}));
        assert_eq!(request["options"], json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "me", "fieldValidation": "Strict"}));
        assert!(request["oldObject"].is_null() && request.get("subResource").is_none());
    }
    // Who mutates sees no name yet and nothing that the server adds; who validates sees the object as it is stored.
    assert!(mutating.get("name").is_none() && mutating["object"]["metadata"]["uid"].is_null() && mutating["object"]["metadata"]["creationTimestamp"].is_null());
    assert_eq!((&validating["name"], &validating["object"]["metadata"]["uid"]), (&made["metadata"]["name"], &made["metadata"]["uid"]));
    assert_ne!(mutating["uid"], validating["uid"]);

    let name = made["metadata"]["name"].as_str().unwrap();
    cluster.patch(&format!("{MAPS}/{name}?dryRun=All"), json!({"data": {"a": "b"}})).await.expect(200);
    let update = hook.on("/v").pop().unwrap();
    assert_eq!((&update["operation"], &update["dryRun"], &update["name"]), (&"UPDATE".into(), &true.into(), &name.into()));
    assert_eq!((&update["object"]["data"]["a"], &update["oldObject"]["data"]), (&"b".into(), &Value::Null));
    assert_eq!(update["options"]["kind"], "UpdateOptions");

    cluster.delete(&format!("{MAPS}/{name}?propagationPolicy=Background")).await.expect(200);
    let delete = hook.on("/v").pop().unwrap();
    assert_eq!((&delete["operation"], &delete["object"], &delete["oldObject"]["metadata"]["name"]), (&"DELETE".into(), &Value::Null, &name.into()));
    assert_eq!(delete["options"], json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1", "propagationPolicy": "Background"}));
    assert_eq!(hook.on("/m").last().unwrap()["operation"], "DELETE", "mutating webhooks are asked about deletions too");

    // What is gone is asked no more.
    cluster.delete(&format!("{CONFIGURATIONS}mutatingwebhookconfigurations/m")).await.expect(200);
    let before = hook.on("/m").len();
    cluster.post(MAPS, map("after")).await.expect(201);
    assert_eq!(hook.on("/m").len(), before);
    assert_eq!(hook.seen.lock().unwrap()[0].1["query"], "timeout=5s");
}

#[tokio::test]
async fn every_way_to_write_is_asked_about() {
    let (cluster, hook) = (Cluster::start().await, Hook::start(|_, _| yes()).await);
    let namespaced = json!([{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}]);
    cluster.register("Validating", "v", vec![merged(entry("v.example.com", hook.by_url("/v")), json!({"rules": namespaced}))]).await;
    let last = || hook.on("/v").pop().unwrap();
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
    });
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let apply = [("content-type", "application/apply-patch+yaml")];
    cluster.call(&admin(), Method::PATCH, &format!("{deployments}/d?fieldManager=me"), &apply, deployment).await.expect(201);
    assert_eq!((&last()["operation"], &last()["options"]["kind"]), (&"CREATE".into(), &"CreateOptions".into()), "apply that creates");
    cluster.patch(&format!("{deployments}/d/scale"), json!({"spec": {"replicas": 3}})).await.expect(200);
    let scale = last();
    assert_eq!((&scale["subResource"], &scale["kind"]["kind"], &scale["resource"]["resource"]), (&"scale".into(), &"Scale".into(), &"deployments".into()));
    assert_eq!((&scale["object"]["spec"]["replicas"], &scale["oldObject"]["spec"]["replicas"]), (&3.into(), &1.into()));
    cluster.patch(&format!("{deployments}/d/status"), json!({"status": {"replicas": 1}})).await.expect(200);
    assert_eq!((&last()["subResource"], &last()["kind"]["kind"]), (&"status".into(), &"Deployment".into()));

    cluster.post("/api/v1/namespaces/default/pods", pod("p")).await.expect(201);
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    cluster.post("/api/v1/namespaces/default/pods/p/binding", binding).await.expect(201);
    let bound = last();
    assert_eq!((&bound["operation"], &bound["subResource"], &bound["kind"]["kind"]), (&"CREATE".into(), &"binding".into(), &"Binding".into()));
    assert_eq!(bound["object"]["target"]["name"], "n");
    let debug = json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "i"}]}});
    cluster.patch("/api/v1/namespaces/default/pods/p/ephemeralcontainers", debug).await.expect(200);
    assert_eq!((&last()["subResource"], &last()["operation"]), (&"ephemeralcontainers".into(), &"UPDATE".into()));
    let exec = cluster.call(&admin(), Method::POST, "/api/v1/namespaces/default/pods/p/exec?command=ls&command=-l&stdout=true", &[], Value::Null).await;
    assert_ne!(exec.code, 200);
    let connect = last();
    assert_eq!((&connect["operation"], &connect["kind"]["kind"], &connect["options"]), (&"CONNECT".into(), &"PodExecOptions".into(), &Value::Null));
    assert_eq!(connect["object"], json!({"kind": "PodExecOptions", "apiVersion": "v1", "stdout": true, "command": ["ls", "-l"]}));
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    let tried = merged(eviction.clone(), json!({"deleteOptions": {"gracePeriodSeconds": 3}}));
    cluster.post("/api/v1/namespaces/default/pods/p/eviction?dryRun=All", tried).await.expect(201);
    assert_eq!(last()["object"]["deleteOptions"], json!({"gracePeriodSeconds": 3, "dryRun": ["All"]}));
    cluster.post("/api/v1/namespaces/default/pods/p/eviction", eviction).await.expect(201);
    let all = hook.on("/v");
    let evicted = all.iter().find(|request| request["subResource"] == "eviction").unwrap();
    assert_eq!((&evicted["operation"], &evicted["kind"]["kind"], &evicted["kind"]["group"]), (&"CREATE".into(), &"Eviction".into(), &"policy".into()));
    assert!(all.iter().all(|request| request["operation"] != "DELETE"), "an eviction is asked about as what it is, once");
    let space = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}});
    let space = cluster.post("/api/v1/namespaces", space).await.expect(201);
    cluster.delete("/api/v1/namespaces/x").await.expect(200);
    assert_eq!(last()["options"]["preconditions"], json!({"uid": space["metadata"]["uid"]}), "it is the one that was found");

    for name in ["a", "b"] {
        cluster.post(MAPS, map(name)).await.expect(201);
    }
    let before = hook.on("/v").len();
    cluster.delete(MAPS).await.expect(200);
    let gone: Vec<Value> = hook.on("/v").split_off(before);
    assert!(gone.len() >= 2 && gone.iter().all(|request| request["operation"] == "DELETE" && request.get("name").is_none()), "{gone:?}");
    cluster.namespace("other").await;
    let all = hook.on("/v");
    let namespace = all.iter().rev().find(|request| request["kind"]["kind"] == "Namespace").unwrap();
    assert_eq!(namespace["namespace"], "other", "a namespace is in itself");
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let before = hook.on("/v").len();
    cluster.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review).await.expect(201);
    assert_eq!(hook.on("/v").len(), before, "nobody is asked about questions");
}

#[tokio::test]
async fn what_webhooks_answer_is_the_writes_answer() {
    let cluster = Cluster::start().await;
    let hook = Hook::start(|_, request| match request["name"].as_str().unwrap_or_default() {
        "plain" => Act::Respond(json!({"allowed": false})),
        "said" => Act::Respond(json!({"allowed": false, "status": {"message": "not today"}})),
        "reasoned" => Act::Respond(json!({"allowed": false, "status": {"reason": "Forbidden", "code": 403}})),
        "kind" => Act::Respond(
            json!({"allowed": false, "status": {"message": "full", "code": 429, "reason": "TooManyRequests", "details": {"retryAfterSeconds": 7}}}),
        ),
        "low" => Act::Respond(json!({"allowed": false, "status": {"code": 200, "message": "odd", "status": "Success"}})),
        "listed" => Act::Respond(
            json!({"allowed": false, "status": {"status": "Late", "message": "m", "metadata": {"resourceVersion": "5", "continue": "", "other": "x"}}}),
        ),
        "yaml" => Act::Body(format!("apiVersion: admission.k8s.io/v1\nkind: AdmissionReview\nresponse: {{uid: {}, allowed: true}}\n", request["uid"])),
        "packed" => {
            let text = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {"uid": request["uid"], "allowed": true}});
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut packed, text.to_string().as_bytes()).expect("packed");
            Act::Packed(packed.finish().expect("packed"))
        }
        "warned" => Act::Respond(json!({"allowed": true, "warnings": ["first", "second", "first"]})),
        "uid" => Act::Respond(json!({"allowed": true, "uid": "other"})),
        "kindless" => Act::Body(json!({"response": {"uid": request["uid"], "allowed": true}}).to_string()),
        "absent" => Act::Body(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}).to_string()),
        "patching" => patch(json!([{"op": "add", "path": "/data/x", "value": "y"}])),
        "typed" => Act::Respond(json!({"allowed": true, "patchType": "JSONPatch"})),
        "string" => Act::Respond(json!({"allowed": "yes"})),
        "foreign" => Act::Body(json!({"apiVersion": "v1", "kind": "Pod"}).to_string()),
        "text" => Act::Body("hello".into()),
        "cut" => Act::Body("{\"response\": {\"allowed\": tru".into()),
        "empty" => Act::Body(String::new()),
        "missing" => Act::Code(404, ("content-type", "text/plain"), "nothing here".into()),
        "broken" => Act::Code(500, ("content-type", "text/plain"), "oh no".into()),
        "status" => Act::Code(
            403,
            ("content-type", "application/json"),
            json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "message": "go away"}).to_string(),
        ),
        "moved" => Act::Code(307, ("location", "https://127.0.0.1:1/"), String::new()),
        "flood" => Act::Flood,
        _ => yes(),
    })
    .await;
    cluster.register("Validating", "v", vec![entry("v.example.com", hook.by_url("/v"))]).await;
    let denied = [
        ("plain", 400, "", "admission webhook \"v.example.com\" denied the request without explanation"),
        ("said", 400, "", "admission webhook \"v.example.com\" denied the request: not today"),
        ("reasoned", 403, "Forbidden", "admission webhook \"v.example.com\" denied the request: Forbidden"),
        ("kind", 429, "TooManyRequests", "admission webhook \"v.example.com\" denied the request: full"),
        ("low", 400, "", "admission webhook \"v.example.com\" denied the request: odd"),
    ];
    for (name, code, reason, message) in denied {
        let status = cluster.post(MAPS, map(name)).await.expect(code);
        assert_eq!((&status["message"], status["reason"].as_str().unwrap_or_default()), (&message.into(), reason), "{name}");
        assert_eq!((&status["metadata"], &status["status"]), (&json!({}), &"Failure".into()), "{name}");
    }
    let listed = cluster.post(MAPS, map("listed")).await.expect(400);
    assert_eq!((&listed["metadata"], &listed["status"]), (&json!({"resourceVersion": "5"}), &"Late".into()));
    let uid = "received invalid webhook response: expected response.uid=";
    let failures = [
        ("uid", uid),
        ("kindless", "received invalid webhook response: expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got /, Kind="),
        ("absent", "received invalid webhook response: webhook response was absent"),
        ("patching", "received invalid webhook response: validating webhook may not return response.patch"),
        ("typed", "received invalid webhook response: validating webhook may not return response.patchType"),
        ("string", "failed to call webhook: json: cannot unmarshal string into Go struct field AdmissionResponse.response.allowed of type bool"),
        ("foreign", "failed to call webhook: no kind \"Pod\" is registered for version \"v1\" in scheme \"pkg/runtime/scheme.go:111\""),
        ("text", "failed to call webhook: couldn't get version/kind; json parse error: json: cannot unmarshal string into Go value of type struct {"),
        ("cut", "failed to call webhook: couldn't get version/kind; json parse error: invalid character ' ' in literal true (expecting 'e')"),
        ("empty", "failed to call webhook: 0-length response with status code: 200 and content type: application/json"),
        ("missing", "failed to call webhook: the server could not find the requested resource"),
        ("broken", "failed to call webhook: an error on the server (\"oh no\") has prevented the request from succeeding"),
        ("status", "failed to call webhook: go away"),
        ("moved", "failed to call webhook: the server responded with the status code 307 but did not return more information"),
        ("flood", "failed to call webhook: unexpected error when reading response body. Please retry. Original error: http: response body too large"),
    ];
    for (name, message) in failures {
        let status = cluster.post(MAPS, map(name)).await.expect(500);
        let text = status["message"].as_str().unwrap();
        let expected = format!("Internal error occurred: failed calling webhook \"v.example.com\": {message}");
        assert!(text.starts_with(&expected), "{name}: {text}");
        assert_eq!(status["reason"], "InternalError");
    }
    cluster.post(MAPS, map("warned")).await.expect(201);
    cluster.post(MAPS, map("yaml")).await.expect(201);
    cluster.post(MAPS, map("packed")).await.expect(201);
    cluster.get(&format!("{MAPS}/warned")).await.expect(200);
    cluster.get(&format!("{MAPS}/plain")).await.expect(404);
}

#[tokio::test]
async fn patches_change_the_object_or_say_why_not() {
    let cluster = Cluster::start().await;
    let hook = Hook::start(|path, request| match (path, request["name"].as_str().unwrap_or_default()) {
        ("/second", _) => patch(json!([{"op": "test", "path": "/data/first", "value": "yes"}, {"op": "add", "path": "/data/second", "value": "yes"}])),
        (_, "gone") => patch(json!([{"op": "remove", "path": "/data/nothing"}])),
        (_, "deep") => patch(json!([{"op": "add", "path": "/spec/a/b", "value": 1}])),
        (_, "wrong") => patch(json!([{"op": "replace", "path": "/data", "value": "text"}])),
        (_, "none") => patch(json!({"op": "add"})),
        (_, "empty") => patch(json!([])),
        (_, "unknown") => patch(json!([{"op": "add", "path": "/extra", "value": 1}, {"op": "add", "path": "/data/first", "value": "yes"}])),
        (_, "half") => Act::Respond(json!({"allowed": true, "patch": STANDARD.encode("[]")})),
        (_, "merge") => Act::Respond(json!({"allowed": true, "patchType": "Merge", "patch": STANDARD.encode("[{}]")})),
        (_, "invalid") => patch(json!([{"op": "add", "path": "/data/a b", "value": "c"}])),
        _ => patch(json!([{"op": "add", "path": "/data/first", "value": "yes"}])),
    })
    .await;
    cluster.register("Mutating", "a", vec![entry("a.example.com", hook.by_url("/first"))]).await;
    // The order is that of the configurations' names, not of their making; the webhook that sees what the other left is second.
    let second = merged(entry("b.example.com", hook.by_url("/second")), json!({"objectSelector": {"matchLabels": {"second": "yes"}}}));
    cluster.register("Mutating", "b", vec![second]).await;
    let labelled = merged(map("both"), json!({"metadata": {"labels": {"second": "yes"}}}));
    let both = cluster.post(MAPS, labelled).await.expect(201);
    assert_eq!(both["data"], json!({"start": "yes", "first": "yes", "second": "yes"}));
    assert_eq!(cluster.get(&format!("{MAPS}/both")).await.expect(200)["data"], both["data"]);
    assert_eq!(cluster.post(MAPS, map("empty")).await.expect(201)["data"], json!({"start": "yes"}));
    let unknown = cluster.post(MAPS, map("unknown")).await.expect(201);
    assert!(unknown.get("extra").is_none() && unknown["data"]["first"] == "yes");
    let failing = [
        ("gone", "error in remove for path: '/data/nothing': Unable to remove nonexistent key: nothing: missing value"),
        ("deep", "add operation does not apply: doc is missing path: \"/spec/a/b\": missing value"),
        (
            "none",
            "failed calling webhook \"a.example.com\": received undecodable patch in webhook response: json: cannot unmarshal object into Go value of type jsonpatch.Patch",
        ),
        ("half", "failed calling webhook \"a.example.com\": received invalid webhook response: webhook returned response.patch but not response.patchType"),
        ("merge", "failed calling webhook \"a.example.com\": unsupported patch type \"Merge\""),
    ];
    for (name, why) in failing {
        assert_eq!(cluster.post(MAPS, map(name)).await.refused(500), format!("Internal error occurred: {why}"), "{name}");
    }
    let wrong = cluster.post(MAPS, map("wrong")).await.refused(500);
    assert!(wrong.contains("json: cannot unmarshal string into Go struct field ConfigMap.data of type map[string]string"), "{wrong}");
    // What a webhook makes of an object is validated as what anybody makes.
    let invalid = cluster.post(MAPS, map("invalid")).await.refused(422);
    assert!(invalid.contains("data[a b]: Invalid value"), "{invalid}");
}

#[tokio::test]
async fn who_is_busy_is_asked_again() {
    let cluster = Cluster::start().await;
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let hook = Hook::start(move |_, request| match (request["name"].as_str(), asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
        (Some("later"), _) => Act::Code(503, ("retry-after", "30"), String::new()),
        (Some("never"), _) => Act::Code(503, ("retry-after", "18446744073709551615"), String::new()),
        (_, 0) => Act::Code(429, ("retry-after", "1"), String::new()),
        (_, 1) => Act::Code(500, ("retry-after", "0"), String::new()),
        _ => yes(),
    })
    .await;
    let brief = json!({"timeoutSeconds": 4});
    cluster.register("Validating", "v", vec![merged(entry("v.example.com", hook.by_url("/v")), brief)]).await;
    let begun = Instant::now();
    cluster.post(MAPS, map("busy")).await.expect(201);
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(hook.on("/v").len(), 3);
    // Not as long as they are told to wait.
    for name in ["later", "never"] {
        let begun = Instant::now();
        let refused = cluster.post(MAPS, map(name)).await.refused(500);
        assert!(refused.ends_with("context deadline exceeded") && begun.elapsed() < Duration::from_secs(30), "{name}: {refused}");
    }
}

#[tokio::test]
async fn what_patches_make_of_scales_and_connections() {
    let cluster = Cluster::start().await;
    let hook = Hook::start(|path, _| match path {
        "/scale" => patch(json!([{"op": "remove", "path": "/spec/replicas"}])),
        _ => patch(json!([{"op": "add", "path": "/container", "value": "of the webhook"}])),
    })
    .await;
    let about = |operation: &str, group: &str, resource: &str| json!({"rules": [{"operations": [operation], "apiGroups": [group], "apiVersions": ["v1"], "resources": [resource]}]});
    let scale = merged(entry("scale.example.com", hook.by_url("/scale")), about("UPDATE", "apps", "deployments/scale"));
    let exec = merged(entry("exec.example.com", hook.by_url("/exec")), about("CONNECT", "", "pods/exec"));
    cluster.register("Mutating", "a", vec![scale, exec]).await;
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
    });
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    cluster.post(deployments, deployment).await.expect(201);
    cluster.patch(&format!("{deployments}/d/scale"), json!({"spec": {"replicas": 3}})).await.expect(200);
    assert_eq!(cluster.get(&format!("{deployments}/d")).await.expect(200)["spec"]["replicas"], 0, "a scale without a number has none");
    let sent = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": 4}});
    cluster.call(&admin(), Method::PUT, &format!("{deployments}/d/scale"), &[("content-type", "application/json")], sent).await.expect(200);
    let seen = hook.on("/scale").pop().unwrap();
    let (metadata, old) = (&seen["object"]["metadata"], &seen["oldObject"]["metadata"]);
    assert_eq!(
        (&metadata["uid"], &metadata["namespace"], &seen["object"]["status"]),
        (&Value::Null, &"default".into(), &json!({"replicas": 0})),
        "as it is sent"
    );
    assert_eq!(metadata["managedFields"][0]["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}), "{metadata}");
    assert!(old["uid"].is_string() && old["managedFields"].is_array(), "{old}");
    let asked = hook.on("/scale").len();
    let other = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d", "uid": "another"}, "spec": {"replicas": 4}});
    cluster.call(&admin(), Method::PUT, &format!("{deployments}/d/scale"), &[("content-type", "application/json")], other).await.refused(409);
    assert_eq!(hook.on("/scale").len(), asked, "the store looks at the UID before anybody is asked");
    cluster.post("/api/v1/namespaces/default/pods", pod("p")).await.expect(201);
    let exec = "/api/v1/namespaces/default/pods/p/exec?command=ls&stdout=true";
    let refused = cluster.call(&admin(), Method::POST, exec, &[], Value::Null).await.refused(400);
    assert_eq!(refused, "container of the webhook is not valid for pod p", "a connection is opened with what admission has left");
}

#[tokio::test]
async fn an_eviction_is_what_webhooks_leave_of_it() {
    let cluster = Cluster::start().await;
    let hook = Hook::start(|_, request| match request["name"].as_str() {
        Some("renamed") => patch(json!([{"op": "replace", "path": "/metadata/name", "value": "other"}])),
        _ => patch(json!([{"op": "add", "path": "/deleteOptions", "value": {"preconditions": {"uid": "another"}}}])),
    })
    .await;
    let rules = json!({"rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods/eviction"]}]});
    cluster.register("Mutating", "e", vec![merged(entry("e.example.com", hook.by_url("/e")), rules)]).await;
    for (name, code) in [("renamed", 400), ("other", 409)] {
        let path = format!("/api/v1/namespaces/default/pods/{name}");
        cluster.post("/api/v1/namespaces/default/pods", pod(name)).await.expect(201);
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
        cluster.post(&format!("{path}/eviction"), eviction).await.refused(code);
        cluster.get(&path).await.expect(200);
    }
}

#[tokio::test]
async fn who_judges_hears_the_name_that_was_sent() {
    let cluster = Cluster::start().await;
    let hook = Hook::start(|path, _| match path {
        "/m" => patch(json!([{"op": "replace", "path": "/metadata/name", "value": "other"}])),
        _ => yes(),
    })
    .await;
    cluster.register("Mutating", "m", vec![entry("m.example.com", hook.by_url("/m"))]).await;
    cluster.register("Validating", "v", vec![entry("v.example.com", hook.by_url("/v"))]).await;
    let made = cluster.post(MAPS, map("sent")).await.expect(201);
    assert_eq!(made["metadata"]["name"], "other");
    let asked = hook.on("/v").pop().unwrap();
    assert_eq!((&asked["name"], &asked["object"]["metadata"]["name"]), (&"sent".into(), &"other".into()));
}

/// The right to make what an update or an apply does not find is asked for by the name of the path.
#[tokio::test]
async fn what_is_made_by_an_update_and_renamed_is_authorised_by_its_first_name() {
    let cluster = Cluster::start().await;
    let hook = Hook::start(|_, _| patch(json!([{"op": "replace", "path": "/metadata/name", "value": "other"}]))).await;
    let creates = json!({"rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["limitranges", "configmaps"]}]});
    cluster.register("Mutating", "m", vec![merged(entry("m.example.com", hook.by_url("/m")), creates)]).await;
    let rules = json!([
        {"apiGroups": [""], "resources": ["limitranges", "configmaps"], "verbs": ["update", "patch"]},
        {"apiGroups": [""], "resources": ["limitranges", "configmaps"], "verbs": ["create"], "resourceNames": ["path"]},
    ]);
    let group = "rbac.authorization.k8s.io";
    let named = |kind: &str| json!({"apiVersion": format!("{group}/v1"), "kind": kind, "metadata": {"name": "writer"}});
    let role = merged(named("ClusterRole"), json!({"rules": rules}));
    cluster.post(&format!("/apis/{group}/v1/clusterroles"), role).await.expect(201);
    let both =
        json!({"roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "writer"}, "subjects": [{"apiGroup": group, "kind": "User", "name": "writer"}]});
    cluster.post(&format!("/apis/{group}/v1/clusterrolebindings"), merged(named("ClusterRoleBinding"), both)).await.expect(201);
    let (ranges, writer) = ("/api/v1/namespaces/default/limitranges", user("writer", &[]));
    let range = |name: &str| json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": name}, "spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}}]}});
    let put = async |name: &str| cluster.call(&writer, Method::PUT, &format!("{ranges}/{name}"), &[], range(name)).await;
    let refused = put("third").await.refused(403);
    assert!(refused.starts_with("limitranges \"third\" is forbidden: User \"writer\" cannot create resource \"limitranges\""), "{refused}");
    assert_eq!(put("path").await.expect(201)["metadata"]["name"], "other");
    assert_eq!(put("path").await.refused(409), "limitranges \"other\" already exists");
    let apply = [("content-type", "application/apply-patch+yaml")];
    let applied = async |name: &str| cluster.call(&writer, Method::PATCH, &format!("{MAPS}/{name}?fieldManager=me"), &apply, map(name)).await;
    assert!(applied("third").await.refused(403).starts_with("configmaps \"third\" is forbidden: "));
    assert_eq!(applied("path").await.expect(201)["metadata"]["name"], "other");
}

#[tokio::test]
async fn what_is_renamed_by_an_update_is_refused_by_its_new_name() {
    let cluster = Cluster::start().await;
    let hook = Hook::start(|_, _| patch(json!([{"op": "replace", "path": "/metadata/name", "value": "renamed"}]))).await;
    let updates = json!({"rules": [{"operations": ["UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]});
    cluster.register("Mutating", "m", vec![merged(entry("m.example.com", hook.by_url("/m")), updates)]).await;
    cluster.post(MAPS, map("own")).await.expect(201);
    let refused = cluster.patch(&format!("{MAPS}/own"), json!({"data": {"more": "x"}})).await.refused(422);
    assert!(refused.starts_with("ConfigMap \"renamed\" is invalid: ") && refused.contains("Invalid value: \"renamed\": field is immutable"), "{refused}");
}

#[tokio::test]
async fn what_patches_break_in_the_metadata_is_put_right_and_told() {
    let cluster = Cluster::start().await;
    let hook = Hook::start(|_, request| match request["name"].as_str().unwrap_or_default() {
        "managers" => patch(json!([{"op": "replace", "path": "/metadata/managedFields/0/operation", "value": "Steal"}])),
        "system" if request["operation"] == "UPDATE" => {
            patch(json!([{"op": "remove", "path": "/metadata/creationTimestamp"}, {"op": "add", "path": "/metadata/generation", "value": 7}]))
        }
        "system" => yes(),
        _ => patch(json!([{"op": "add", "path": "/metadata/ownerReferences/-", "value": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}}])),
    })
    .await;
    cluster.register("Mutating", "a", vec![entry("a.example.com", hook.by_url("/"))]).await;
    let reply = cluster.post(&format!("{MAPS}?fieldManager=me"), map("managers")).await;
    let told = reply.warnings.clone();
    assert!(told[0].contains("please fix your requests: operation must be `Apply` or `Update`"), "{told:?}");
    assert_eq!(reply.expect(201)["metadata"]["managedFields"][0]["manager"], "me");
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"});
    let owned = |owners: Value| merged(map("owned"), json!({"metadata": {"ownerReferences": owners}}));
    let reply = cluster.post(MAPS, owned(json!([owner, owner]))).await;
    let told = reply.warnings.clone();
    assert!(told.len() == 2 && told[0].contains("entries; API server dedups") && told[1].contains("entries after mutating admission happens; API"), "{told:?}");
    assert_eq!(reply.expect(201)["metadata"]["ownerReferences"].as_array().unwrap().len(), 1);
    let made = cluster.post(MAPS, map("system")).await.expect(201);
    let changed = cluster.patch(&format!("{MAPS}/system"), json!({"data": {"more": "x"}})).await.expect(200);
    assert_eq!(changed["metadata"]["creationTimestamp"], made["metadata"]["creationTimestamp"]);
    assert_eq!((changed["metadata"].get("generation"), &changed["data"]["more"]), (None, &"x".into()), "what the server alone writes");
}

#[tokio::test]
async fn those_that_want_it_see_what_others_changed_after_them() {
    let cluster = Cluster::start().await;
    let hook = Hook::start(|path, request| {
        let path = path.trim_start_matches('/');
        let has = !request["object"]["data"][path].is_null();
        if has { yes() } else { patch(json!([{"op": "add", "path": format!("/data/{path}"), "value": "yes"}])) }
    })
    .await;
    let again =
        |name: &str, policy: &str| merged(entry(&format!("{name}.example.com"), hook.by_url(&format!("/{name}"))), json!({"reinvocationPolicy": policy}));
    cluster.register("Mutating", "m", vec![again("one", "IfNeeded"), again("two", "Never"), again("three", "IfNeeded")]).await;
    let made = cluster.post(MAPS, map("x")).await.expect(201);
    assert_eq!(made["data"], json!({"start": "yes", "one": "yes", "two": "yes", "three": "yes"}));
    assert_eq!([hook.on("/one").len(), hook.on("/two").len(), hook.on("/three").len()], [2, 1, 1]);
    assert_eq!(hook.on("/one")[1]["object"]["data"], made["data"]);
}

#[tokio::test]
async fn of_many_that_are_deleted_all_stay_that_follow_the_refused_one() {
    let hook = Hook::start(|_, request| Act::Respond(json!({"allowed": request["oldObject"]["metadata"]["name"] != "b"}))).await;
    let cluster = Cluster::start().await;
    for name in ["a", "b", "c", "d"] {
        cluster.post(MAPS, map(name)).await.expect(201);
    }
    let rules = json!({"rules": [{"operations": ["DELETE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]});
    cluster.register("Validating", "v", vec![merged(entry("v.example.com", hook.by_url("/v")), rules)]).await;
    cluster.delete(MAPS).await.refused(400);
    assert_eq!(hook.on("/v").len(), 2, "of what follows nobody is asked");
    let left = cluster.get(MAPS).await.expect(200);
    let names: Vec<_> = left["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].clone()).collect();
    assert_eq!(names, ["b", "c", "d"]);
}

#[tokio::test]
async fn rules_selectors_and_versions_choose() {
    let (cluster, hook) = (Cluster::start().await, Hook::start(|_, _| yes()).await);
    cluster.namespace("other").await;
    cluster.patch("/api/v1/namespaces/other", json!({"metadata": {"labels": {"asked": "yes"}}})).await.expect(200);
    let selected = json!({"namespaceSelector": {"matchLabels": {"asked": "yes"}}});
    cluster.register("Validating", "namespaces", vec![merged(entry("n.example.com", hook.by_url("/n")), selected)]).await;
    let labelled = json!({"objectSelector": {"matchLabels": {"asked": "yes"}}, "rules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]});
    cluster.register("Validating", "objects", vec![merged(entry("o.example.com", hook.by_url("/o")), labelled)]).await;
    cluster.post(MAPS, map("x")).await.expect(201);
    assert!(hook.on("/n").is_empty() && hook.on("/o").is_empty());
    cluster.post("/api/v1/namespaces/other/configmaps", map("x")).await.expect(201);
    assert_eq!(hook.on("/n").len(), 1);
    cluster.patch(&format!("{MAPS}/x"), json!({"metadata": {"labels": {"asked": "yes"}}})).await.expect(200);
    cluster.patch(&format!("{MAPS}/x"), json!({"metadata": {"labels": null}})).await.expect(200);
    assert_eq!(hook.on("/o").len(), 2, "the label before the write counts, and the one after it");

    // A rule of one version meets a request of another, and the webhook is told the version that it knows.
    let scaler = json!({
        "apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
        "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50, "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}},
    });
    let rules = json!({"rules": [{"operations": ["CREATE"], "apiGroups": ["autoscaling"], "apiVersions": ["v2"], "resources": ["horizontalpodautoscalers"]}]});
    cluster.register("Validating", "equivalent", vec![merged(entry("e.example.com", hook.by_url("/e")), rules.clone())]).await;
    let exact = merged(merged(entry("x.example.com", hook.by_url("/x")), rules.clone()), json!({"matchPolicy": "Exact"}));
    cluster.register("Validating", "exact", vec![exact]).await;
    cluster.register("Mutating", "equivalent", vec![merged(entry("m.example.com", hook.by_url("/m")), rules.clone())]).await;
    // Its conditions see the objects as it does, and what was asked for.
    let as_asked = json!({"matchConditions": [{"name": "v1", "expression": "request.kind.version == 'v2' && request.resource.version == 'v1'"}]});
    cluster.register("Validating", "conditions", vec![merged(merged(entry("c.example.com", hook.by_url("/c")), rules), as_asked)]).await;
    cluster.post("/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers", scaler).await.expect(201);
    assert!(hook.on("/x").is_empty());
    for path in ["/e", "/m", "/c"] {
        let asked = &hook.on(path)[0];
        assert_eq!((&asked["kind"]["version"], &asked["requestKind"]["version"]), (&"v2".into(), &"v1".into()));
        assert_eq!((&asked["resource"]["version"], &asked["requestResource"]["version"]), (&"v2".into(), &"v1".into()));
        assert_eq!((&asked["object"]["apiVersion"], &asked["object"]["spec"]["metrics"][0]["resource"]["name"]), (&"autoscaling/v2".into(), &"cpu".into()));
    }
}

#[tokio::test]
async fn failures_are_ignored_where_the_policy_says_so() {
    let (cluster, hook) = (Cluster::start().await, Hook::start(|path, _| if path == "/hang" { Act::Hang } else { Act::Trickle }).await);
    let timed = |name: &str, policy: &str| {
        let own = json!({"failurePolicy": policy, "timeoutSeconds": 2, "objectSelector": {"matchLabels": {"asked": name}}});
        merged(entry(&format!("{name}.example.com"), hook.by_url(&format!("/{}", name.split('-').next().unwrap()))), own)
    };
    for kind in ["Mutating", "Validating"] {
        cluster.register(kind, "v", vec![timed("hang", "Fail"), timed("hang-ignored", "Ignore"), timed("trickle", "Fail")]).await;
    }
    let asked = |name: &str| merged(map(name), json!({"metadata": {"labels": {"asked": name}}}));
    let began = Instant::now();
    let hung = cluster.post(MAPS, asked("hang")).await.refused(500);
    let url = format!("https://127.0.0.1:{}/hang?timeout=2s", hook.port);
    assert_eq!(
        hung,
        format!("Internal error occurred: failed calling webhook \"hang.example.com\": failed to call webhook: Post \"{url}\": context deadline exceeded")
    );
    let trickled = cluster.post(MAPS, asked("trickle")).await.refused(500);
    assert!(trickled.ends_with("unexpected error when reading response body. Please retry. Original error: context deadline exceeded"), "{trickled}");
    // Both kinds are asked, each for its time.
    cluster.post(MAPS, asked("hang-ignored")).await.expect(201);
    // A busy machine takes longer, but not the ten seconds that each of the four calls would have by itself.
    assert!((Duration::from_secs(8)..Duration::from_secs(40)).contains(&began.elapsed()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn validating_webhooks_are_asked_at_once() {
    let cluster = Cluster::start().await;
    let hook = Hook::start(|_, _| Act::Hang).await;
    let hooks =
        (0..10).map(|at| merged(entry(&format!("h{at}.example.com"), hook.by_url("/v")), json!({"failurePolicy": "Ignore", "timeoutSeconds": 3}))).collect();
    cluster.register("Validating", "v", hooks).await;
    let began = Instant::now();
    cluster.post(MAPS, map("x")).await.expect(201);
    assert!(began.elapsed() < Duration::from_secs(30), "one after the other: {:?}", began.elapsed());
    assert_eq!(hook.on("/v").len(), 10);
}

#[tokio::test]
async fn a_webhook_of_this_host_is_asked_on_one_connection() {
    let (cluster, hook) = (Cluster::start().await, Hook::start(|_, _| yes()).await);
    cluster.register("Validating", "v", vec![entry("v.example.com", hook.by_url("/v"))]).await;
    cluster.post(MAPS, map("first")).await.expect(201);
    let names: Vec<String> = (0..40).map(|n| format!("m{n}")).collect();
    for answer in futures_util::future::join_all(names.iter().map(|name| cluster.post(MAPS, map(name)))).await {
        answer.expect(201);
    }
    assert_eq!((hook.on("/v").len(), hook.connections.load(Ordering::Relaxed)), (41, 1));
}

/// All hooks at one server of this host share its connections, each of which has room for a hundred calls at a time.
#[tokio::test]
async fn webhooks_of_one_server_share_its_connections() {
    let cluster = Cluster::start().await;
    let (told, holds) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let (tell, held) = (Arc::clone(&told), Arc::clone(&holds));
    let hook = Hook::start(move |_, request| {
        if !held.load(Ordering::Relaxed) {
            return yes();
        }
        let review = json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": {"uid": request["uid"], "allowed": true}});
        Act::After(Arc::clone(&tell), review.to_string())
    })
    .await;
    let hooks = |range: std::ops::Range<u32>| range.map(|n| entry(&format!("v{n}.example.com"), hook.by_url(&format!("/{n}")))).collect();
    cluster.register("Validating", "one", hooks(0..5)).await;
    cluster.register("Validating", "two", hooks(5..10)).await;
    cluster.post(MAPS, map("first")).await.expect(201);
    assert_eq!((hook.seen.lock().unwrap().len(), hook.connections.load(Ordering::Relaxed)), (10, 1), "who comes at once shares what the first has made");

    holds.store(true, Ordering::Relaxed);
    let names: Vec<String> = (0..25).map(|n| format!("m{n}")).collect();
    let mut all = pin!(futures_util::future::join_all(names.iter().map(|name| cluster.post(MAPS, map(name)))));
    let answers = loop {
        tokio::select! {
            answers = &mut all => break answers,
            () = tokio::time::sleep(Duration::from_millis(1)) => {}
        }
        if hook.seen.lock().unwrap().len() >= 260 {
            told.notify_waiters();
        }
    };
    answers.into_iter().for_each(|answer| drop(answer.expect(201)));
    assert_eq!((hook.seen.lock().unwrap().len(), hook.connections.load(Ordering::Relaxed)), (260, 3));
}

/// Who refuses to look at a call has done nothing with it, and is asked again, though not for ever.
#[tokio::test]
async fn who_refuses_a_call_is_asked_again() {
    let (cluster, calls) = (Cluster::start().await, AtomicUsize::new(0));
    let hook = Hook::start(move |_, request| match request["name"].as_str() {
        Some("never") => Act::Refuse,
        _ if calls.fetch_add(1, Ordering::Relaxed) < 2 => Act::Refuse,
        _ => yes(),
    })
    .await;
    cluster.register("Validating", "v", vec![entry("v.example.com", hook.by_url("/v"))]).await;
    cluster.post(MAPS, map("later")).await.expect(201);
    assert_eq!((hook.seen.lock().unwrap().len(), hook.connections.load(Ordering::Relaxed)), (3, 1));
    let never = cluster.post(MAPS, map("never")).await.expect(500);
    let told = never["message"].as_str().unwrap_or_default();
    assert!(told.contains("?timeout=5s\": stream error: stream ID ") && told.ends_with("; REFUSED_STREAM; received from peer"), "{told}");
    assert_eq!((hook.seen.lock().unwrap().len(), hook.connections.load(Ordering::Relaxed)), (10, 1));
}

#[tokio::test]
async fn who_a_webhook_is_must_be_proven() {
    let cluster = Cluster::start().await;
    let wrong_name = Hook::with(papers(&["other.example.com"], |_| {}), |_, _| yes()).await;
    let old = Hook::with(
        papers(&["127.0.0.1"], |params| {
            params.not_before = rcgen::date_time_ymd(2019, 1, 1);
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        }),
        |_, _| yes(),
    )
    .await;
    let good = Hook::start(|_, _| yes()).await;
    // Its certificate could sign others, which Go takes.
    let authority = Hook::with(papers(&["127.0.0.1"], |params| params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained)), |_, _| yes()).await;
    let asked = |name: &str, client: Value| merged(entry(&format!("{name}.example.com"), client), json!({"objectSelector": {"matchLabels": {"asked": name}}}));
    let stranger = json!({"url": format!("https://127.0.0.1:{}/", good.port), "caBundle": wrong_name.bundle()});
    let nobody = json!({"url": format!("https://127.0.0.1:{}/", good.port)});
    let service = json!({"service": {"namespace": "default", "name": "hook", "path": "/s", "port": good.port}, "caBundle": good.bundle()});
    let absent = json!({"service": {"namespace": "default", "name": "absent"}, "caBundle": good.bundle()});
    let closed = json!({"url": "https://127.0.0.1:1/x", "caBundle": good.bundle()});
    let garbage = json!({"url": format!("https://127.0.0.1:{}/", good.port), "caBundle": STANDARD.encode("garbage")});
    let hooks = [
        ("name", wrong_name.by_url("")),
        ("old", old.by_url("")),
        ("stranger", stranger),
        ("nobody", nobody),
        ("service", service),
        ("absent", absent),
        ("closed", closed),
        ("garbage", garbage),
        ("authority", authority.by_url("")),
    ];
    cluster.register("Validating", "v", hooks.into_iter().map(|(name, client)| asked(name, client)).collect()).await;
    let outside = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hook"}, "spec": {"type": "ExternalName", "externalName": "localhost"}});
    cluster.post("/api/v1/namespaces/default/services", outside).await.expect(201);
    let labelled = |name: &str| merged(map(name), json!({"metadata": {"labels": {"asked": name}}}));
    let refused = async |name: &str| {
        let message = cluster.post(MAPS, labelled(name)).await.refused(500);
        message.strip_prefix(&format!("Internal error occurred: failed calling webhook \"{name}.example.com\": ")).unwrap_or(&message).to_owned()
    };
    let post = |port: u16, path: &str, why: &str| format!("failed to call webhook: Post \"https://127.0.0.1:{port}{path}?timeout=5s\": {why}");
    let verify = "tls: failed to verify certificate: x509: ";
    assert_eq!(
        refused("name").await,
        post(wrong_name.port, "/", &format!("{verify}cannot validate certificate for 127.0.0.1 because it doesn't contain any IP SANs"))
    );
    let expired = refused("old").await;
    assert!(expired.starts_with(&post(old.port, "/", &format!("{verify}certificate has expired or is not yet valid: current time "))), "{expired}");
    assert!(expired.ends_with(" is after 2020-01-01T00:00:00Z"), "{expired}");
    let hint = "(possibly because of \"x509: ECDSA verification failure\" while trying to verify candidate authority certificate \"hooks-ca\")";
    assert_eq!(refused("stranger").await, post(good.port, "/", &format!("{verify}certificate signed by unknown authority {hint}")));
    assert_eq!(refused("nobody").await, post(good.port, "/", &format!("{verify}certificate signed by unknown authority")));
    assert_eq!(refused("closed").await, post(1, "/x", "dial tcp 127.0.0.1:1: connect: connection refused"));
    assert_eq!(refused("absent").await, "failed to call webhook: Post \"https://absent.default.svc:443/?timeout=5s\": service \"absent\" not found");
    assert_eq!(refused("garbage").await, "could not get REST client: unable to load root certificates: unable to parse bytes as PEM block");
    cluster.post(MAPS, labelled("authority")).await.expect(201);
    cluster.post(MAPS, labelled("service")).await.expect(201);
    assert_eq!(good.on("/s").len(), 1);
}

#[tokio::test]
async fn large_objects_are_asked_about_as_well_and_hold_nobody_up() {
    let cluster = Cluster::start().await;
    let hook = Hook::start(|_, request| match request["name"].as_str().unwrap_or_default().starts_with("hang") {
        true => Act::Hang,
        false => patch(json!([{"op": "add", "path": "/data/asked", "value": "yes"}])),
    })
    .await;
    cluster.register("Mutating", "m", vec![merged(entry("m.example.com", hook.by_url("/m")), json!({"timeoutSeconds": 10}))]).await;
    let large = |name: &str| merged(map(name), json!({"data": {"large": "x".repeat(100_000)}}));
    assert_eq!(cluster.post(MAPS, large("one")).await.expect(201)["data"]["asked"], "yes");
    // More requests that hang than heavy work has places: others are answered meanwhile.
    let began = Instant::now();
    let names: Vec<String> = (0..40).map(|at| format!("hang-{at}")).collect();
    let hanging = futures_util::future::join_all(names.iter().map(|name| cluster.post(MAPS, large(name))));
    let other = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.post(MAPS, large("two")).await.expect(201);
        began.elapsed()
    };
    let (hung, took) = tokio::join!(hanging, other);
    assert!(took < Duration::from_secs(10), "as long as those that hang: {took:?}");
    assert!(hung.into_iter().all(|reply| reply.code == 500));
}

/// Behind the Service of the API are the servers that are aggregated: they are asked through the server itself, as its own user.
#[tokio::test]
async fn the_server_is_its_own_hook() {
    let cluster = Cluster::start().await;
    let service = json!({"service": {"namespace": "default", "name": "kubernetes", "path": "/apis/validators.example.com/v1/maps"}});
    cluster.register("Validating", "v", vec![entry("v.example.com", service)]).await;
    // Who is nobody is forbidden to look for it.
    let expected =
        "Internal error occurred: failed calling webhook \"v.example.com\": failed to call webhook: the server could not find the requested resource";
    assert_eq!(cluster.post(MAPS, map("a")).await.refused(500), expected);
}

/// Large ones are written on threads that have no network.
#[tokio::test]
async fn the_server_asks_itself_about_many_objects_and_large_ones() {
    let cluster = Cluster::start().await;
    let server = Extension::start(|seen| match seen.method.as_str() {
        "POST" => {
            let review: Value = serde_json::from_str(&seen.body).unwrap_or_default();
            reply(&json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": {"uid": review["request"]["uid"], "allowed": true}}))
        }
        _ => reply(&json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "validators.example.com/v1", "resources": []})),
    })
    .await;
    server.register(&cluster, "v1", "validators.example.com").await;
    let service = json!({"service": {"namespace": "default", "name": "kubernetes", "path": "/apis/validators.example.com/v1/maps"}});
    cluster.register("Validating", "v", vec![entry("v.example.com", service)]).await;
    let object = |at: usize| {
        let large = if at.is_multiple_of(4) { "x".repeat(100_000) } else { String::new() };
        merged(map(&format!("m-{at}")), json!({"data": {"large": large}}))
    };
    let written = futures_util::future::join_all((0..100).map(|at| cluster.post(MAPS, object(at)))).await;
    written.into_iter().for_each(|reply| drop(reply.expect(201)));
}
