//! The life of ConfigMaps, Pods and Deployments, driven through [`apiserver::ApiServer::handle`] as an in-process caller does.

mod custom;
mod levels;
mod paths;
mod support;
mod wire;

use serde_json::{Value, json};
use support::{Server, names};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": name}}, "data": {"k": value}})
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "nginx"}], "terminationGracePeriodSeconds": 30}})
}

fn deployment(name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "replicas": 2, "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}}}})
}

#[tokio::test]
async fn a_config_map_is_made_read_changed_and_removed() {
    let server = Server::start().await;
    let made = server.post(MAPS, &map("a", "1")).await.expect(201);
    let meta = &made["metadata"];
    assert!(meta["uid"].as_str().is_some_and(|u| u.len() == 36));
    assert!(meta["resourceVersion"].as_str().is_some_and(|v| v.parse::<u64>().is_ok()));
    assert_eq!(meta["managedFields"][0]["operation"], "Update");
    assert_eq!(server.get(&format!("{MAPS}/a")).await.expect(200), made);

    let again = server.post(MAPS, &map("a", "1")).await.expect(409);
    assert_eq!((again["reason"].as_str(), again["message"].as_str()), (Some("AlreadyExists"), Some("configmaps \"a\" already exists")));

    let mut next = made.clone();
    next["data"]["k"] = "2".into();
    let changed = server.put(&format!("{MAPS}/a"), &next).await.expect(200);
    assert_ne!(changed["metadata"]["resourceVersion"], meta["resourceVersion"]);
    let stale = server.put(&format!("{MAPS}/a"), &next).await.expect(409);
    assert_eq!(
        stale["message"],
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
    let unchanged = server.put(&format!("{MAPS}/a"), &changed).await.expect(200);
    assert_eq!(unchanged["metadata"]["resourceVersion"], changed["metadata"]["resourceVersion"], "a write that changes nothing is none");

    let gone = server.delete(&format!("{MAPS}/a"), None).await.expect(200);
    assert_eq!((gone["kind"].as_str(), gone["status"].as_str()), (Some("Status"), Some("Success")));
    assert_eq!(gone["details"]["uid"], meta["uid"]);
    let missing = server.get(&format!("{MAPS}/a")).await.expect(404);
    assert_eq!(missing["message"], "configmaps \"a\" not found");
}

#[tokio::test]
async fn a_large_list_is_the_same_compressed() {
    let server = Server::start().await;
    for n in 0..150 {
        server.post(MAPS, &map(&format!("m{n}"), &format!("{n} ").repeat(300))).await.expect(201);
    }
    let get = async |headers: &[(&str, &str)]| server.raw(http::Method::GET, MAPS, headers, "").await.1;
    let plain = get(&[]).await;
    let lists = ["not kept", "being kept", "kept"];
    for which in lists {
        let packed = get(&[("accept-encoding", "gzip, br")]).await;
        assert!(packed.len() * 4 < plain.len(), "{which}: {} of {} bytes", packed.len(), plain.len());
        let mut unpacked = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&packed[..]), &mut unpacked).expect("gzip");
        assert_eq!(unpacked, plain, "{which}");
    }
    let (_, small) = server.raw(http::Method::GET, &format!("{MAPS}/m1"), &[("accept-encoding", "gzip")], "").await;
    assert!(small.starts_with(b"{"));
}

#[tokio::test]
async fn the_parts_of_the_control_plane_are_asked() {
    // Nothing else runs here: what listens at their ports, if anything does, is not of this server.
    let server = Server::start().await;
    let list = server.get("/api/v1/componentstatuses").await.expect(200);
    assert_eq!((list["kind"].as_str(), &list["metadata"]), (Some("ComponentStatusList"), &json!({})));
    assert_eq!(names(&list), ["controller-manager", "scheduler", "etcd-0"]);
    let store = server.get("/api/v1/componentstatuses/etcd-0").await.expect(200);
    assert_eq!(store["conditions"], json!([{"type": "Healthy", "status": "True", "message": "ok"}]));
    let one = server.get("/api/v1/componentstatuses?fieldSelector=metadata.name=etcd-0").await.expect(200);
    assert_eq!(names(&one), ["etcd-0"]);
    assert_eq!(names(&server.get("/api/v1/componentstatuses?labelSelector=a=b").await.expect(200)), [""; 0]);
    for (selector, code) in [("fieldSelector=foo%3Dbar", 400), ("labelSelector=((", 400), ("labelSelector=a", 405)] {
        server.get(&format!("/api/v1/componentstatuses?watch=1&{selector}")).await.expect(code);
    }
    let missing = server.get("/api/v1/componentstatuses/nobody").await.expect(404);
    assert_eq!(missing["message"], "componentstatus \"nobody\" not found");
    let table = server.get_as("/api/v1/componentstatuses?fieldSelector=metadata.name=etcd-0", "application/json;as=Table;g=meta.k8s.io;v=v1").await.expect(200);
    assert_eq!(table["rows"][0]["cells"], json!(["etcd-0", "Healthy", "ok", ""]));
}

#[tokio::test]
async fn what_a_binding_says_of_itself_is_the_pod_s_whatever_it_is() {
    let server = Server::start().await;
    server.post(PODS, &pod("p")).await.expect(201);
    let metadata = json!({"name": "p", "labels": {"bad key": "x", "a": "b c"}, "annotations": {"bad key": "x"}});
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": metadata, "target": {"kind": "Node", "name": "n"}});
    server.post(&format!("{PODS}/p/binding?dryRun=All"), &binding).await.expect(201);
    server.post("/api/v1/namespaces/default/bindings", &binding).await.expect(201);
    let bound = server.get(&format!("{PODS}/p")).await.expect(200);
    assert_eq!((&bound["metadata"]["labels"], &bound["spec"]["nodeName"]), (&metadata["labels"], &json!("n")));
    assert_eq!(bound["metadata"]["annotations"], metadata["annotations"]);
}

#[tokio::test]
async fn an_evicted_pod_says_why_it_goes() {
    let server = Server::start().await;
    let mut object = pod("p");
    object["metadata"]["finalizers"] = json!(["example.com/look"]);
    let made = server.post(PODS, &object).await.expect(201);
    let eviction = |options: Value| json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}, "deleteOptions": options});
    let path = format!("{PODS}/p");
    server.post(&format!("{path}/eviction"), &eviction(json!({"dryRun": ["All"]}))).await.expect(201);
    assert_eq!(server.get(&path).await.expect(200)["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    server.post(&format!("{path}/eviction"), &eviction(json!({"preconditions": {"uid": "another"}}))).await.expect(409);
    // The version that is meant is the one before the condition.
    let meant = json!({"preconditions": {"resourceVersion": made["metadata"]["resourceVersion"]}});
    server.post(&format!("{path}/eviction"), &eviction(meant)).await.expect(201);
    let going = server.get(&path).await.expect(200);
    assert!(going["metadata"]["deletionTimestamp"].is_string());
    let conditions = going["status"]["conditions"].as_array().expect("conditions");
    let target = conditions.iter().find(|c| c["type"] == "DisruptionTarget").expect("the reason");
    assert_eq!((&target["status"], &target["reason"], &target["message"]), (&json!("True"), &json!("EvictionByEvictionAPI"), &json!("Eviction API: evicting")));
}

#[tokio::test]
async fn a_budget_is_asked_before_how_its_pod_goes() {
    let server = Server::start().await;
    let (path, budgets) = (format!("{PODS}/p"), "/apis/policy/v1/namespaces/default/poddisruptionbudgets");
    let mut object = pod("p");
    object["metadata"]["labels"] = json!({"app": "p"});
    let mut running = server.post(PODS, &object).await.expect(201);
    running["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    server.put(&format!("{path}/status"), &running).await.expect(200);
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "p"}}}});
    let mut budget = server.post(budgets, &budget).await.expect(201);
    budget["status"] = json!({"observedGeneration": 1, "disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1});
    let mut budget = server.put(&format!("{budgets}/b/status"), &budget).await.expect(200);
    let evict = async |options: &Value, code: u16| {
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}, "deleteOptions": options});
        server.post(&format!("{path}/eviction"), &eviction).await.expect(code)
    };
    let another = json!({"preconditions": {"uid": "another"}});
    let wrong = json!({"propagationPolicy": "x"});
    for options in [&another, &wrong, &json!({"dryRun": ["x"]}), &json!({"propagationPolicy": "Orphan", "orphanDependents": true})] {
        let refused = evict(options, 429).await;
        assert_eq!(refused["message"], "Cannot evict pod as it would violate the pod's disruption budget.", "{options}");
    }
    budget["status"]["disruptionsAllowed"] = 3.into();
    server.put(&format!("{budgets}/b/status"), &budget).await.expect(200);
    let left = async || server.get(&format!("{budgets}/b")).await.expect(200)["status"]["disruptionsAllowed"].clone();
    let is_told = async || {
        let pod = server.get(&path).await.expect(200);
        pod["status"]["conditions"].as_array().is_some_and(|all| all.iter().any(|c| c["type"] == "DisruptionTarget"))
    };
    evict(&json!({"dryRun": ["x"]}), 422).await;
    assert_eq!((left().await, is_told().await), (json!(3), false), "what is only tried takes nothing");
    evict(&another, 409).await;
    assert_eq!((left().await, is_told().await), (json!(2), false), "of another pod the budget is asked, too");
    evict(&wrong, 422).await;
    assert_eq!((left().await, is_told().await), (json!(1), true), "as in the original, which finds it when it deletes");
    evict(&json!({"preconditions": {"resourceVersion": "1"}}), 409).await;
    assert_eq!(left().await, json!(0));
}

#[tokio::test]
async fn what_is_not_stored_has_no_table() {
    let server = Server::start().await;
    let review =
        r#"{"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}}"#;
    let headers = [("content-type", "application/json"), ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(server.raw(http::Method::POST, path, &headers, review).await.0, 406);
    assert_eq!(server.raw(http::Method::POST, path, &headers[..1], review).await.0, 201);
}

#[tokio::test]
async fn pages_of_a_list_are_one_snapshot() {
    let server = Server::start().await;
    for name in ["a", "b", "c", "d", "e"] {
        server.post(MAPS, &map(name, "1")).await.expect(201);
    }
    let first = server.get(&format!("{MAPS}?limit=2")).await.expect(200);
    assert_eq!(names(&first), ["a", "b"]);
    assert!(first["metadata"]["remainingItemCount"].as_u64().is_some_and(|n| n >= 3));
    server.delete(&format!("{MAPS}/d"), None).await.expect(200);
    server.post(MAPS, &map("bb", "1")).await.expect(201);
    let token = first["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
    let rest = server.get(&format!("{MAPS}?limit=50&continue={token}")).await.expect(200);
    assert_eq!(names(&rest)[..3], ["c", "d", "e"]);
    assert_eq!(rest["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let selected = server.get(&format!("{MAPS}?labelSelector=app+in+(a,e)")).await.expect(200);
    assert_eq!(names(&selected), ["a", "e"]);
    let by_name = server.get(&format!("{MAPS}?fieldSelector=metadata.name%3Db")).await.expect(200);
    assert_eq!(names(&by_name), ["b"]);
    let wrong = server.get(&format!("{MAPS}?fieldSelector=data.k%3Db")).await.expect(400);
    assert!(wrong["message"].as_str().is_some_and(|m| m.contains("\"data.k\" is not a known field selector: only ")), "{wrong}");
}

#[tokio::test]
async fn a_watch_tells_every_change_once_and_in_order() {
    let server = Server::start().await;
    let made = server.post(MAPS, &map("a", "1")).await.expect(201);
    let version = made["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let mut all = server.watch(&format!("{MAPS}?watch=1&resourceVersion={version}")).await;
    let mut labelled = server.watch(&format!("{MAPS}?watch=1&resourceVersion={version}&labelSelector=app%3Db")).await;
    let merge = json!({"metadata": {"labels": {"app": "b"}}});
    server.patch(&format!("{MAPS}/a"), "application/merge-patch+json", &merge).await.expect(200);
    let back = json!({"metadata": {"labels": {"app": "a"}}});
    server.patch(&format!("{MAPS}/a"), "application/merge-patch+json", &back).await.expect(200);
    server.delete(&format!("{MAPS}/a"), None).await.expect(200);
    let kinds: Vec<String> = vec![all.next().await.0, all.next().await.0, all.next().await.0];
    assert_eq!(kinds, ["MODIFIED", "MODIFIED", "DELETED"]);
    assert_eq!(labelled.next().await.0, "ADDED");
    let (kind, object) = labelled.next().await;
    assert_eq!((kind.as_str(), object["metadata"]["labels"]["app"].as_str()), ("DELETED", Some("b")));
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let server = Server::start().await;
    server.post(MAPS, &map("a", "1")).await.expect(201);
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&fieldSelector=metadata.name%3Da";
    let mut watch = server.watch(&format!("{MAPS}?{query}")).await;
    assert_eq!(watch.next().await.0, "ADDED");
    let (kind, object) = watch.next().await;
    assert_eq!(kind, "BOOKMARK");
    assert_eq!(object["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let metrics = server.get("/metrics").await.expect(200);
    let told = "apiserver_watch_events_total{group=\"\",resource=\"configmaps\",version=\"v1\"} 2\n";
    assert!(metrics.as_str().is_some_and(|metrics| metrics.contains(told)), "the bookmark is an event: {metrics}");
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let mut watch = server.watch_with(&format!("{MAPS}?{query}&includeObject=None"), &table).await;
    let (_, added) = watch.next().await;
    assert_eq!((&added["rows"][0]["cells"][0], added["rows"][0].get("object")), (&json!("a"), Some(&Value::Null)));
    let (kind, ended) = watch.next().await;
    assert_eq!(kind, "BOOKMARK");
    assert_eq!(ended["rows"][0]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true", "whatever is included");
    assert_eq!(ended["metadata"]["resourceVersion"], ended["rows"][0]["object"]["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn the_four_patches() {
    let server = Server::start().await;
    server.post(DEPLOYMENTS, &deployment("d")).await.expect(201);
    let path = format!("{DEPLOYMENTS}/d");
    let json = json!([{"op": "replace", "path": "/spec/replicas", "value": 3}]);
    let got = server.patch(&path, "application/json-patch+json", &json).await.expect(200);
    assert_eq!((got["spec"]["replicas"].as_i64(), got["metadata"]["generation"].as_i64()), (Some(3), Some(2)));
    let strategic = json!({"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "busybox"}]}}}});
    let got = server.patch(&path, "application/strategic-merge-patch+json", &strategic).await.expect(200);
    assert_eq!(got["spec"]["template"]["spec"]["containers"].as_array().map(Vec::len), Some(2));
    let merge = json!({"metadata": {"annotations": {"x": "y"}}});
    let got = server.patch(&path, "application/merge-patch+json", &merge).await.expect(200);
    assert_eq!(
        (got["metadata"]["annotations"]["x"].as_str(), got["metadata"]["generation"].as_i64()),
        (Some("y"), Some(4)),
        "annotations of a Deployment count"
    );
    let apply = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"replicas": 7}});
    let lost = server.patch(&format!("{path}?fieldManager=me"), "application/apply-patch+yaml", &apply).await.expect(409);
    assert_eq!(lost["reason"], "Conflict");
    let won = server.patch(&format!("{path}?fieldManager=me&force=true"), "application/apply-patch+yaml", &apply).await.expect(200);
    assert_eq!(won["spec"]["replicas"], 7);
    let nobody = server.patch(&path, "application/apply-patch+yaml", &apply).await.expect(422);
    assert!(nobody["message"].as_str().is_some_and(|m| m.contains("fieldManager: Required value: is required for apply patch")), "{nobody}");
    let other = server.patch(&path, "text/plain", &apply).await.expect(415);
    assert_eq!(other["reason"], "UnsupportedMediaType");
}

#[tokio::test]
async fn apply_creates_what_is_not_there() {
    let server = Server::start().await;
    let path = format!("{MAPS}/new?fieldManager=me");
    server.patch(&path, "application/apply-patch+yaml", &map("new", "1")).await.expect(201);
    let got = server.patch(&path, "application/apply-patch+yaml", &map("new", "2")).await.expect(200);
    assert_eq!((got["data"]["k"].as_str(), got["metadata"]["managedFields"][0]["operation"].as_str()), (Some("2"), Some("Apply")));
}

#[tokio::test]
async fn a_dry_run_leaves_nothing() {
    let server = Server::start().await;
    server.post(&format!("{MAPS}?dryRun=All"), &map("a", "1")).await.expect(201);
    server.get(&format!("{MAPS}/a")).await.expect(404);
    let wrong = server.post(&format!("{MAPS}?dryRun=some"), &map("a", "1")).await.expect(422);
    assert!(wrong["message"].as_str().is_some_and(|m| m.contains("dryRun")), "{wrong}");
}

#[tokio::test]
async fn unknown_fields_are_told_warned_of_or_dropped() {
    let server = Server::start().await;
    let mut bad = map("a", "1");
    bad["spek"] = json!({});
    let strict = server.post(&format!("{MAPS}?fieldValidation=Strict"), &bad).await.expect(400);
    assert!(strict["message"].as_str().is_some_and(|m| m.contains("unknown field \"spek\"")), "{strict}");
    let warned = server.post(&format!("{MAPS}?fieldValidation=Warn"), &bad).await;
    assert_eq!(warned.warnings, ["299 - \"unknown field \\\"spek\\\"\""]);
    assert!(warned.expect(201).get("spek").is_none());
}

#[tokio::test]
async fn names_are_generated_and_checked() {
    let server = Server::start().await;
    let mut one = map("x", "1");
    one["metadata"] = json!({"generateName": "gen-"});
    let made = server.post(MAPS, &one).await.expect(201);
    assert!(made["metadata"]["name"].as_str().is_some_and(|n| n.starts_with("gen-") && n.len() == 9));
    one["metadata"] = json!({"generateName": "gen-", "name": made["metadata"]["name"]});
    let taken = server.post(MAPS, &one).await.expect(409);
    assert!(taken["message"].as_str().is_some_and(|m| m.ends_with(", the server was not able to generate a unique name for the object")), "{taken}");
    assert_eq!(taken["details"]["retryAfterSeconds"], 1);
    one["metadata"] = json!({});
    let unnamed = server.post(MAPS, &one).await.expect(422);
    assert!(unnamed["message"].as_str().is_some_and(|m| m.contains("name or generateName is required")), "{unnamed}");
    let wrong = server.post(MAPS, &map("Not_A_Name", "1")).await.expect(422);
    assert_eq!(wrong["reason"], "Invalid");
    let mut elsewhere = map("a", "1");
    elsewhere["metadata"]["namespace"] = "kube-system".into();
    let misplaced = server.post(MAPS, &elsewhere).await.expect(400);
    assert_eq!(misplaced["message"], "the namespace of the provided object does not match the namespace sent on the request");
}

#[tokio::test]
async fn a_pod_ends_gracefully() {
    let server = Server::start().await;
    server.post(PODS, &pod("p")).await.expect(201);
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    let mut stale = binding.clone();
    stale["metadata"]["resourceVersion"] = json!("1");
    let refused = server.post(&format!("{PODS}/p/binding"), &stale).await.expect(409);
    assert!(refused["message"].as_str().is_some_and(|m| m.contains("ResourceVersion in precondition: 1, ")), "{refused}");
    server.post(&format!("{PODS}/p/binding"), &binding).await.expect(201);
    let bound = server.get(&format!("{PODS}/p")).await.expect(200);
    assert_eq!(bound["spec"]["nodeName"], "n");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    let twice = server.post(&format!("{PODS}/p/binding"), &binding).await.expect(409);
    assert_eq!(twice["reason"], "Conflict");

    let going = server.delete(&format!("{PODS}/p"), None).await.expect(200);
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 30);
    assert!(going["metadata"]["deletionTimestamp"].is_string());
    let mut later = going.clone();
    later["metadata"]["deletionTimestamp"] = json!("2099-01-01T00:00:00Z");
    let put = server.put(&format!("{PODS}/p"), &later).await.expect(200);
    assert_eq!(put["metadata"]["deletionTimestamp"], going["metadata"]["deletionTimestamp"], "an update moves no end");
    let status = json!({"status": {"phase": "Running"}});
    let running = server.patch(&format!("{PODS}/p/status"), "application/merge-patch+json", &status).await.expect(200);
    assert_eq!(running["status"]["phase"], "Running");
    server.delete(&format!("{PODS}/p"), Some(json!({"gracePeriodSeconds": 0}))).await.expect(200);
    server.get(&format!("{PODS}/p")).await.expect(404);
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_is_gone() {
    let server = Server::start().await;
    server.post(DEPLOYMENTS, &deployment("d")).await.expect(201);
    let path = format!("{DEPLOYMENTS}/d");
    let going = server.delete(&path, Some(json!({"propagationPolicy": "Foreground"}))).await.expect(200);
    assert_eq!(going["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    assert!(going["metadata"]["deletionTimestamp"].is_string());
    let free = json!({"metadata": {"finalizers": null}});
    server.patch(&path, "application/merge-patch+json", &free).await.expect(200);
    server.get(&path).await.expect(404);
    server.post(DEPLOYMENTS, &deployment("d")).await.expect(201);
    let wrong = json!({"preconditions": {"uid": "other"}});
    let kept = server.delete(&path, Some(wrong)).await.expect(409);
    assert!(kept["message"].as_str().is_some_and(|m| m.contains("the UID in the precondition (other) does not match the UID in record (")), "{kept}");
}

/// One strategy serves both groups of events in the original.
#[tokio::test]
async fn who_means_another_event_is_told_so_in_the_older_group() {
    let server = Server::start().await;
    let events = "/apis/events.k8s.io/v1/namespaces/default/events";
    let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"}, "eventTime": "2024-01-01T00:00:00.000000Z",
        "reportingController": "a.b/c", "reportingInstance": "i", "action": "Act", "reason": "R", "type": "Normal", "regarding": {"namespace": "default"}});
    server.post(events, &event).await.expect(201);
    let kept = server.delete(&format!("{events}/e"), Some(json!({"preconditions": {"uid": "other"}}))).await.expect(409);
    assert!(kept["message"].as_str().is_some_and(|m| m.starts_with("Operation cannot be fulfilled on Event \"e\": ")), "{kept}");
    assert_eq!((&kept["details"]["kind"], &kept["details"]["group"]), (&json!("Event"), &Value::Null));
}

#[tokio::test]
async fn a_deployment_is_scaled() {
    let server = Server::start().await;
    server.post(DEPLOYMENTS, &deployment("d")).await.expect(201);
    let path = format!("{DEPLOYMENTS}/d/scale");
    let scale = server.get(&path).await.expect(200);
    assert_eq!((scale["kind"].as_str(), scale["spec"]["replicas"].as_i64()), (Some("Scale"), Some(2)));
    assert_eq!(scale["status"]["selector"], "app=d");
    let mut more = scale.clone();
    more["spec"]["replicas"] = 5.into();
    assert_eq!(server.put(&path, &more).await.expect(200)["spec"]["replicas"], 5);
    let less = json!({"spec": {"replicas": 1}});
    server.patch(&path, "application/merge-patch+json", &less).await.expect(200);
    let now = server.get(&format!("{DEPLOYMENTS}/d")).await.expect(200);
    assert_eq!((now["spec"]["replicas"].as_i64(), now["metadata"]["generation"].as_i64()), (Some(1), Some(3)));
    // What there is not is told before what is applied to it.
    let foreign = json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 9}});
    for (name, code) in [("d", 400), ("nope", 404)] {
        server.patch(&format!("{DEPLOYMENTS}/{name}/scale?fieldManager=f"), "application/apply-patch+yaml", &foreign).await.expect(code);
    }
}

#[tokio::test]
async fn services_get_addresses_and_ports() {
    let server = Server::start().await;
    let path = "/api/v1/namespaces/default/services";
    let service = |name: &str, spec: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec});
    let spec = json!({"type": "NodePort", "ports": [{"port": 80}], "selector": {"a": "b"}});
    let made = server.post(path, &service("s", spec)).await.expect(201);
    let ip = made["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
    assert!(ip.starts_with("10.96."), "{made}");
    assert!(made["spec"]["ports"][0]["nodePort"].as_i64().is_some_and(|p| (30_000..=32_767).contains(&p)));
    server.get(&format!("/apis/networking.k8s.io/v1/ipaddresses/{ip}")).await.expect(200);
    let taken = server.post(path, &service("t", json!({"clusterIP": ip, "ports": [{"port": 80}]}))).await.expect(422);
    assert!(taken["message"].as_str().is_some_and(|m| m.contains("provided IP is already allocated")), "{taken}");
    server.delete(&format!("{path}/s"), None).await.expect(200);
    server.get(&format!("/apis/networking.k8s.io/v1/ipaddresses/{ip}")).await.expect(404);
    server.post(path, &service("t", json!({"clusterIP": ip, "ports": [{"port": 80}]}))).await.expect(201);
}

/// The original stores what it hides of an external name.
#[tokio::test]
async fn who_owned_the_policy_of_a_service_owns_it_after_its_name_was_another_s() {
    let server = Server::start().await;
    let services = "/api/v1/namespaces/default/services";
    let put = async |manager: &str, told: &Value, kind: &str| {
        let mut next = told.clone();
        next["metadata"]["resourceVersion"] = Value::Null;
        next["metadata"]["managedFields"] = Value::Null;
        next["spec"]["type"] = kind.into();
        next["spec"]["externalName"] = if kind == "ExternalName" { "a.example.com".into() } else { Value::Null };
        server.put(&format!("{services}/s?fieldManager={manager}"), &next).await.expect(200)
    };
    let owners = |told: &Value| -> Vec<String> {
        let entries = told["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        let owns = |entry: &Value| entry["fieldsV1"]["f:spec"]["f:internalTrafficPolicy"].is_object();
        entries.iter().filter(|entry| owns(entry)).map(|entry| entry["manager"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let body = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    let made = server.post(&format!("{services}?fieldManager=a"), &body).await.expect(201);
    let away = put("b", &made, "ExternalName").await;
    assert_eq!((&away["spec"]["internalTrafficPolicy"], owners(&away)), (&Value::Null, vec!["a".to_owned()]));
    let back = put("c", &away, "ClusterIP").await;
    assert_eq!((&back["spec"]["internalTrafficPolicy"], owners(&back)), (&json!("Cluster"), vec!["a".to_owned()]));
    // Who writes an external name as it is told has left the policy out.
    let away = put("b", &back, "ExternalName").await;
    let still = put("b", &away, "ExternalName").await;
    assert_eq!(owners(&still), Vec::<String>::new());
    assert_eq!(owners(&put("c", &still, "ClusterIP").await), ["c"]);
}

/// As kube-apiserver 1.37.2 answers: it stores the one address that is said, and shows a list of it.
#[tokio::test]
async fn an_address_said_with_an_external_name_is_shown_as_a_list() {
    let server = Server::start().await;
    let services = "/api/v1/namespaces/default/services";
    let body = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    server.post(services, &body).await.expect(201);
    let path = format!("{services}/s");
    let mut away = body.clone();
    away["spec"] = json!({"type": "ExternalName", "externalName": "a.b", "clusterIP": "10.96.9.9"});
    for uri in [format!("{path}?dryRun=All"), path.clone()] {
        assert_eq!(server.put(&uri, &away).await.expect(200)["spec"]["clusterIPs"], json!(["10.96.9.9"]), "{uri}");
    }
    let merge = "application/merge-patch+json";
    server.patch(&path, merge, &json!({"metadata": {"labels": {"a": "b"}}})).await.expect(422);
    let other = server.patch(&path, merge, &json!({"spec": {"clusterIP": "None"}})).await.expect(200);
    assert_eq!(other["spec"]["clusterIPs"], json!(["None"]));
    let none = server.patch(&path, merge, &json!({"spec": {"clusterIP": null}})).await.expect(200);
    assert_eq!(none["spec"]["clusterIPs"], Value::Null);
}

#[tokio::test]
async fn the_status_of_no_service_makes_one() {
    let server = Server::start().await;
    let service = |name: &str| {
        let balancer = json!({"ingress": [{"ip": "192.0.2.1"}]});
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}, "status": {"loadBalancer": balancer}})
    };
    let services = "/api/v1/namespaces/default/services";
    let put = server.put(&format!("{services}/a/status"), &service("a")).await.expect(201);
    let applied = server.patch(&format!("{services}/b/status?fieldManager=x"), "application/apply-patch+yaml", &service("b")).await.expect(201);
    for (made, operation, owned) in [(put, "Update", json!({"f:ingress": {}})), (applied, "Apply", json!({"f:ingress": {}}))] {
        assert!(made["spec"]["clusterIP"].is_null() && made["status"]["loadBalancer"] == json!({}), "{made}");
        let owner = &made["metadata"]["managedFields"][0];
        assert_eq!((&owner["operation"], &owner["subresource"]), (&json!(operation), &json!("status")));
        assert_eq!(owner["fieldsV1"], json!({"f:status": {"f:loadBalancer": owned}}));
    }
    // Nobody completes its addresses, either, and they are judged with the rest.
    let mut addressed = service("c");
    addressed["spec"] = json!({"ports": [{"port": 0}], "clusterIP": "10.96.0.77"});
    let refused = server.put(&format!("{services}/c/status"), &addressed).await.expect(422);
    let told: Vec<_> = refused["details"]["causes"].as_array().unwrap().iter().map(|cause| cause["field"].as_str().unwrap_or_default()).collect();
    assert_eq!((told.first(), told.last()), (Some(&"spec.ports[0].port"), Some(&"spec.clusterIPs")), "{refused}");
    addressed["spec"] = json!({"ports": [{"port": 80}], "clusterIP": "10.96.0.77", "clusterIPs": ["10.96.0.77"]});
    server.put(&format!("{services}/c/status"), &addressed).await.expect(201);
}

#[tokio::test]
async fn answers_come_as_tables_metadata_yaml_and_protobuf() {
    let server = Server::start().await;
    server.post(MAPS, &map("a", "1")).await.expect(201);
    let table = server.get_as(&format!("{MAPS}/a"), "application/json;as=Table;v=v1;g=meta.k8s.io,application/json").await.expect(200);
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    assert_eq!(table["rows"][0]["cells"][0], "a");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let partial = server.get_as(MAPS, "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io").await.expect(200);
    assert_eq!(partial["kind"], "PartialObjectMetadataList");
    let yaml = server.raw(http::Method::GET, &format!("{MAPS}/a"), &[("accept", "application/yaml")], "").await;
    assert!(String::from_utf8_lossy(&yaml.1).contains("kind: ConfigMap"));
    let proto = server.raw(http::Method::GET, &format!("{MAPS}/a"), &[("accept", "application/vnd.kubernetes.protobuf")], "").await;
    let (gvk, value) = machinery::proto::decode(&proto.1).expect("a protobuf body");
    assert_eq!((gvk.kind.as_str(), value["data"]["k"].as_str()), ("ConfigMap", Some("1")));
    let neither = server.get_as(MAPS, "text/html").await.expect(406);
    assert_eq!(neither["reason"], "NotAcceptable");
}

#[tokio::test]
async fn what_is_not_allowed_is_forbidden_in_upstreams_words() {
    let server = Server::start().await;
    let (code, body) = server.raw_as("nobody", http::Method::GET, MAPS, &[], "").await;
    let status: Value = serde_json::from_slice(&body).unwrap_or_default();
    assert_eq!(code, 403);
    let message = status["message"].as_str().unwrap_or_default();
    let want = "configmaps is forbidden: User \"nobody\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\"";
    assert!(message.starts_with(want), "{message}");
}

#[tokio::test]
async fn a_namespace_waits_for_its_finalizer() {
    let server = Server::start().await;
    let space = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "space"}});
    let made = server.post("/api/v1/namespaces", &space).await.expect(201);
    assert_eq!((made["status"]["phase"].as_str(), made["spec"]["finalizers"][0].as_str()), (Some("Active"), Some("kubernetes")));
    let going = server.delete("/api/v1/namespaces/space", None).await.expect(200);
    assert_eq!(going["status"]["phase"], "Terminating");
    let mut last = server.get("/api/v1/namespaces/space").await.expect(200);
    last["spec"]["finalizers"] = json!([]);
    server.put("/api/v1/namespaces/space/finalize", &last).await.expect(200);
    server.get("/api/v1/namespaces/space").await.expect(404);

    // One whose finalizers were taken away before: its first delete notes its end, the second is it.
    let mut made = server.post("/api/v1/namespaces", &space).await.expect(201);
    made["spec"]["finalizers"] = json!([]);
    server.put("/api/v1/namespaces/space/finalize", &made).await.expect(200);
    let going = server.delete("/api/v1/namespaces/space", None).await.expect(200);
    assert_eq!((going["kind"].as_str(), going["status"]["phase"].as_str()), (Some("Namespace"), Some("Terminating")));
    server.get("/api/v1/namespaces/space").await.expect(200);
    server.delete("/api/v1/namespaces/space", None).await.expect(200);
    server.get("/api/v1/namespaces/space").await.expect(404);
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let server = Server::start().await;
    for name in ["a", "b"] {
        server.post(MAPS, &map(name, "1")).await.expect(201);
    }
    server.delete(&format!("{MAPS}?labelSelector=app%3Da"), None).await.expect(200);
    server.get(&format!("{MAPS}/a")).await.expect(404);
    server.get(&format!("{MAPS}/b")).await.expect(200);
}

#[tokio::test]
async fn bodies_are_bounded() {
    let server = Server::start().await;
    let big = map("a", &"x".repeat(4 * 1024 * 1024));
    let refused = server.post(MAPS, &big).await.expect(413);
    assert_eq!(refused["message"], "Request entity too large: limit is 3145728");
}

#[tokio::test]
async fn what_is_served_can_be_discovered() {
    let server = Server::start().await;
    let core = server.get("/api/v1").await.expect(200);
    assert_eq!(core["kind"], "APIResourceList");
    assert!(core["resources"].as_array().is_some_and(|r| r.iter().any(|r| r["name"] == "pods/eviction" && r["group"] == "policy")));
    let groups = server.get("/apis").await.expect(200);
    assert!(groups["groups"].as_array().is_some_and(|g| g.iter().any(|g| g["name"] == "apps")));
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let all = server.get_as("/apis", accept).await.expect(200);
    assert_eq!(all["kind"], "APIGroupDiscoveryList");
    assert_eq!(server.get("/version").await.expect(200)["minor"], "37");
    let (code, body) = server.raw(http::Method::GET, "/readyz?verbose", &[], "").await;
    assert!(code == 200 && String::from_utf8_lossy(&body).contains("[+]etcd ok"));
}

#[tokio::test]
async fn who_writes_an_autoscaler_in_the_old_version_leaves_what_he_does_not_write() {
    let server = Server::start().await;
    let at = |version: &str| format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers");
    let scaler = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"}, "spec": {
        "maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}, "behavior": {}}});
    let mut told = server.post(&at("v2"), &scaler).await.expect(201);
    // The old version's metric has a value, be it none.
    told["status"] = json!({"currentReplicas": 1, "desiredReplicas": 2,
        "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 50}}}],
        "conditions": [{"type": "AbleToScale", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
    let before = server.put(&format!("{}/h/status", at("v2")), &told).await.expect(200);
    assert_eq!(before["status"], told["status"]);
    let (old, new) = (format!("{}/h", at("v1")), format!("{}/h", at("v2")));
    let mut of_old = server.get(&old).await.expect(200);
    of_old["status"]["desiredReplicas"] = 3.into();
    server.put(&format!("{old}/status"), &of_old).await.expect(200);
    let after = server.get(&new).await.expect(200);
    assert_eq!((&after["spec"], &after["status"]["desiredReplicas"]), (&before["spec"], &json!(3)));
    server.put(&format!("{new}/status"), &told).await.expect(409);
    told["metadata"]["resourceVersion"] = Value::Null;
    server.put(&format!("{new}/status"), &told).await.expect(200);
    of_old["spec"]["maxReplicas"] = 5.into();
    of_old["metadata"]["resourceVersion"] = Value::Null;
    server.put(&old, &of_old).await.expect(200);
    let after = server.get(&new).await.expect(200);
    assert_eq!((&after["spec"]["maxReplicas"], &after["status"]), (&json!(5), &before["status"]));
}

#[tokio::test]
async fn a_version_that_is_none_makes_nothing() {
    let server = Server::start().await;
    let role =
        |version: &str| json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "r", "resourceVersion": version}});
    let uri = "/apis/rbac.authorization.k8s.io/v1/clusterroles/r";
    let large = "9".repeat(23);
    let wrong =
        [("abc", "invalid syntax"), ("-1", "invalid syntax"), ("+1", "invalid syntax"), ("1.5", "invalid syntax"), (large.as_str(), "value out of range")];
    // Whether or not it is there.
    for there in [false, true] {
        for (version, why) in wrong {
            for query in ["", "?dryRun=All"] {
                let refused = server.put(&format!("{uri}{query}"), &role(version)).await.expect(500);
                assert_eq!(refused["message"], format!("strconv.ParseUint: parsing \"{version}\": {why}"), "{there}");
            }
        }
        server.put(uri, &role("00")).await.expect(if there { 200 } else { 201 });
    }
}

#[tokio::test]
async fn bytes_that_are_no_text_are_told_as_go_tells_them() {
    let server = Server::start().await;
    let absent = server.get(&format!("{MAPS}/a%ff")).await.expect(404);
    assert_eq!(absent["message"], r#"configmaps "a\xff" not found"#);
    assert_eq!(absent["details"]["name"], "a\u{fffd}");
    let selected = server.get(&format!("{MAPS}?labelSelector=a%3D%ff")).await.expect(400);
    assert!(selected["message"].as_str().is_some_and(|told| told.contains(r#"values[0][a]: Invalid value: "\xff": "#)), "{selected}");
    let version = server.get(&format!("{MAPS}?limit=%ff")).await.expect(400);
    assert_eq!(version["message"], r#"strconv.ParseInt: parsing "\xff": invalid syntax"#);
}

#[tokio::test]
async fn what_is_empty_in_a_body_is_told_and_not_kept() {
    let server = Server::start().await;
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "a"}, "rules": []});
    let made = server.post(roles, &role).await.expect(201);
    assert_eq!(made["rules"], Value::Null, "a message has no empty list");
    for _ in 0..2 {
        let put = server.put(&format!("{roles}/a"), &role).await.expect(200);
        assert_eq!(put["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"], "nothing has changed");
    }
    let scalers = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let scaler = |behavior: Value| {
        json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"}, "spec": {
            "maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}, "behavior": behavior}})
    };
    let refused = server.post(scalers, &scaler(json!({"scaleUp": {"policies": []}}))).await.expect(422);
    let told = "HorizontalPodAutoscaler.autoscaling \"h\" is invalid: spec.behavior.scaleUp.policies: Required value: must specify at least one Policy";
    assert_eq!(refused["message"], told);
    let filled = server.post(scalers, &scaler(json!({"scaleUp": {}}))).await.expect(201);
    assert_eq!(filled["spec"]["behavior"]["scaleUp"]["policies"].as_array().map(Vec::len), Some(2), "what is not there is filled in");
    let mut shown = deployment("d");
    shown["spec"]["template"]["metadata"]["labels"] = json!({});
    let refused = server.post(DEPLOYMENTS, &shown).await.expect(422);
    assert!(refused["message"].as_str().is_some_and(|told| told.contains("template.metadata.labels: Invalid value: {}: ")), "{refused}");
}
