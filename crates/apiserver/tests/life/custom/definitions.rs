//! What becomes of a definition: names, conditions, discovery, changes, its end.

use super::{DEFINITIONS, WIDGETS, condition, establish, eventually, version, widget, widgets};
use crate::support::{Server, names};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const API_SERVICE: &str = "/apis/apiregistration.k8s.io/v1/apiservices/v1.example.com";

#[tokio::test]
async fn a_definition_is_served_as_soon_as_it_is_established() {
    let server = Server::start().await;
    let begun = Instant::now();
    let definition = establish(&server, &widgets()).await;
    server.post(WIDGETS, &widget("a", json!({}))).await.expect(201);
    let group = server.get("/apis/example.com").await.expect(200);
    let open_api = server.get("/openapi/v3").await.expect(200);
    // A guard against waiting for a timer, not a promise about the machine.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}: a debug build, and others may run beside", begun.elapsed());
    assert_eq!(group["preferredVersion"]["groupVersion"], "example.com/v1");
    assert!(open_api["paths"]["apis/example.com/v1"].is_object());

    let shown = |kind: &str| {
        let found = condition(&definition, kind);
        ["status", "reason", "message"].map(|key| found[key].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(shown("NamesAccepted"), ["True", "NoConflicts", "no conflicts found"]);
    assert_eq!(shown("Established"), ["True", "InitialNamesAccepted", "the initial names have been accepted"]);
    assert_eq!(definition["status"]["acceptedNames"], definition["spec"]["names"]);
    assert_eq!(definition["status"]["storedVersions"], json!(["v1"]));

    let service = eventually(&server, API_SERVICE, |code, _| code == 200).await;
    assert_eq!(service["metadata"]["labels"], json!({"kube-aggregator.kubernetes.io/automanaged": "true"}));
    assert_eq!(service["spec"], json!({"group": "example.com", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 100}));
    assert_eq!(condition(&service, "Available")["reason"], "Local");
    server.patch(API_SERVICE, "application/merge-patch+json", &json!({"spec": {"groupPriorityMinimum": 17}})).await.expect(200);
    eventually(&server, API_SERVICE, |_, service| service["spec"]["groupPriorityMinimum"] == 1000).await;
    server.delete(API_SERVICE, None).await.expect(200);
    eventually(&server, API_SERVICE, |code, again| code == 200 && again["metadata"]["uid"] != service["metadata"]["uid"]).await;

    let resources = server.get("/apis/example.com/v1").await.expect(200);
    assert_eq!(
        resources["resources"],
        json!([
            {"name": "widgets", "singularName": "widget", "namespaced": true, "kind": "Widget", "shortNames": ["wd"], "categories": ["all"],
                "verbs": ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"], "storageVersionHash": resources["resources"][0]["storageVersionHash"]},
            {"name": "widgets/status", "singularName": "", "namespaced": true, "kind": "Widget", "verbs": ["get", "patch", "update"]},
            {"name": "widgets/scale", "singularName": "", "namespaced": true, "kind": "Scale", "group": "autoscaling", "version": "v1", "verbs": ["get", "patch", "update"]},
        ])
    );
    let aggregated = server.get_as("/apis", "application/json;v=v2;g=apidiscovery.k8s.io;as=APIGroupDiscoveryList").await.expect(200);
    let last = aggregated["items"].as_array().and_then(|items| items.last()).cloned().unwrap_or_default();
    assert_eq!(last["metadata"]["name"], "example.com");
    assert_eq!(last["versions"][0]["resources"][0]["subresources"][1]["responseKind"]["kind"], "Scale");
}

#[tokio::test]
async fn names_that_are_taken_are_waited_for() {
    let server = Server::start().await;
    establish(&server, &widgets()).await;
    let mut rival = widgets();
    rival["metadata"]["name"] = "wudgets.example.com".into();
    rival["spec"]["names"]["plural"] = "wudgets".into();
    server.post(DEFINITIONS, &rival).await.expect(201);
    let at = format!("{DEFINITIONS}/wudgets.example.com");
    let refused = eventually(&server, &at, |_, object| condition(object, "NamesAccepted")["status"] == "False").await;
    assert_eq!(condition(&refused, "NamesAccepted")["reason"], "ListKindConflict");
    assert_eq!(condition(&refused, "NamesAccepted")["message"], "\"WidgetList\" is already in use");
    assert_eq!(condition(&refused, "Established")["reason"], "NotAccepted");
    assert_eq!(condition(&refused, "Established")["message"], "not all names are accepted");
    assert_eq!(refused["status"]["acceptedNames"]["plural"], "wudgets");
    server.get("/apis/example.com/v1/wudgets").await.expect(404);

    server.delete(&format!("{DEFINITIONS}/widgets.example.com"), None).await.expect(200);
    let accepted = eventually(&server, &at, |_, object| condition(object, "Established")["status"] == "True").await;
    assert_eq!(condition(&accepted, "NamesAccepted")["reason"], "NoConflicts");
    server.get("/apis/example.com/v1/wudgets").await.expect(200);
    server.get("/apis/example.com/v1/widgets").await.expect(404);
}

#[tokio::test]
async fn a_definition_goes_when_its_instances_are_gone() {
    let server = Server::start().await;
    establish(&server, &widgets()).await;
    let mut held = widget("held", json!({}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    server.post(WIDGETS, &held).await.expect(201);
    server.post(WIDGETS, &widget("free", json!({}))).await.expect(201);
    let mut instances = server.watch(&format!("{WIDGETS}?watch=true&resourceVersion=0")).await;
    for _ in 0..2 {
        assert_eq!(instances.next().await.0, "ADDED");
    }

    let at = format!("{DEFINITIONS}/widgets.example.com");
    let marked = server.delete(&at, None).await.expect(200);
    assert_eq!(condition(&marked, "Terminating")["reason"], "InstanceDeletionPending");
    assert_eq!(marked["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    let going = eventually(&server, &at, |_, object| condition(object, "Terminating")["reason"] == "InstanceDeletionInProgress").await;
    assert_eq!(condition(&going, "Terminating")["message"], "CustomResource deletion is in progress");
    let refused = server.post(WIDGETS, &widget("late", json!({}))).await.expect(403);
    assert_eq!(refused["message"], "widgets.example.com \"late\" is forbidden: create not allowed while custom resource definition is terminating");
    let resources = server.get("/apis/example.com/v1").await.expect(200);
    assert_eq!(resources["resources"][0]["verbs"], json!(["delete", "deletecollection", "get", "list", "watch"]));

    // The one that is held is marked in its turn, which may be after the other is gone.
    eventually(&server, WIDGETS, |_, list| names(list) == ["held"] && list["items"][0]["metadata"]["deletionTimestamp"].is_string()).await;
    server.patch(&format!("{WIDGETS}/held"), "application/merge-patch+json", &json!({"metadata": {"finalizers": null}})).await.expect(200);
    eventually(&server, &at, |code, _| code == 404).await;
    eventually(&server, WIDGETS, |code, _| code == 404).await;
    server.get("/apis/example.com").await.expect(404);
    eventually(&server, API_SERVICE, |code, _| code == 404).await;
    let mut gone = Vec::new();
    while let Some((kind, object)) = instances.next_or_end().await {
        gone.push(format!("{kind} {}", object["metadata"]["name"].as_str().unwrap_or_default()));
    }
    gone.sort();
    assert_eq!(gone, ["DELETED free", "DELETED held", "MODIFIED held"], "all is told before the watch ends");

    // The same name with another UID begins anew.
    establish(&server, &widgets()).await;
    assert!(names(&server.get(WIDGETS).await.expect(200)).is_empty());
}

#[tokio::test]
async fn a_changed_definition_ends_watches_and_is_followed() {
    let server = Server::start().await;
    let mut definition = establish(&server, &widgets()).await;
    server.post(WIDGETS, &widget("a", json!({"color": "red"}))).await.expect(201);
    let tag = |reply: Value| reply["paths"]["apis/example.com/v1"]["serverRelativeURL"].clone();
    let before = server.get("/openapi/v3").await.expect(200);
    let mut watch = server.watch(&format!("{WIDGETS}?watch=true")).await;
    assert_eq!(watch.next().await.0, "ADDED");

    let spec = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    spec["properties"]["shape"] = json!({"type": "string", "default": "round"});
    spec["properties"].as_object_mut().expect("properties").remove("color");
    definition["spec"]["versions"][0].as_object_mut().expect("a version").remove("selectableFields");
    server.put(&format!("{DEFINITIONS}/widgets.example.com"), &definition).await.expect(200);
    assert_eq!(watch.next_or_end().await, None, "a watch ends without an error");
    let read = eventually(&server, &format!("{WIDGETS}/a"), |_, object| object["spec"]["shape"] == "round").await;
    assert_eq!(read["spec"], json!({"shape": "round"}), "what the schema knows no more is pruned when it is read");
    let list = server.get(WIDGETS).await.expect(200);
    assert_eq!(list["items"][0]["spec"], read["spec"]);
    let after = server.get("/openapi/v3").await.expect(200);
    assert_ne!(tag(before.clone()), tag(after.clone()));
    assert_eq!(before["paths"]["api/v1"], after["paths"]["api/v1"], "no other group's hash changes");
}

#[tokio::test]
async fn versions_are_ordered_and_converted_by_name() {
    let server = Server::start().await;
    let mut definition = widgets();
    definition["spec"]["versions"] = json!([version("v1beta1", true), version("v1", false), version("v2alpha1", false)]);
    definition["spec"]["versions"][2]["served"] = false.into();
    definition["spec"]["versions"][0]["deprecated"] = true.into();
    let definition = establish(&server, &definition).await;
    let group = server.get("/apis/example.com").await.expect(200);
    assert_eq!(group["versions"], json!([{"groupVersion": "example.com/v1", "version": "v1"}, {"groupVersion": "example.com/v1beta1", "version": "v1beta1"}]));

    let made = server.post(WIDGETS, &widget("a", json!({"color": "red"}))).await.expect(201);
    assert_eq!(made["apiVersion"], "example.com/v1");
    server.post(WIDGETS, &widget("b", json!({}))).await.expect(201);
    let old = server.get("/apis/example.com/v1beta1/namespaces/default/widgets/a").await;
    assert_eq!(old.warnings, ["299 - \"example.com/v1beta1 Widget is deprecated; use example.com/v1 Widget\""]);
    let old = old.expect(200);
    assert_eq!((old["apiVersion"].as_str(), &old["metadata"]["uid"]), (Some("example.com/v1beta1"), &made["metadata"]["uid"]));
    let list = server.get(WIDGETS).await.expect(200);
    assert_eq!((list["apiVersion"].as_str(), list["items"][0]["apiVersion"].as_str()), (Some("example.com/v1"), Some("example.com/v1")));
    server.get("/apis/example.com/v2alpha1/widgets").await.expect(404);

    // The storage version changes; what lies in the former one is read all the same.
    let mut next = definition.clone();
    next["spec"]["versions"][0]["storage"] = false.into();
    next["spec"]["versions"][1]["storage"] = true.into();
    let next = server.put(&format!("{DEFINITIONS}/widgets.example.com"), &next).await.expect(200);
    assert_eq!(next["status"]["storedVersions"], json!(["v1beta1", "v1"]));
    let read = server.get(&format!("{WIDGETS}/a")).await.expect(200);
    assert_eq!((&read["apiVersion"], &read["spec"]["color"]), (&json!("example.com/v1"), &json!("red")));

    // The former version leaves the definition before what lies in it is written anew: nobody can read that.
    let at = format!("{DEFINITIONS}/widgets.example.com");
    let mut next = server.patch(&format!("{at}/status"), "application/merge-patch+json", &json!({"status": {"storedVersions": ["v1"]}})).await.expect(200);
    next["spec"]["versions"].as_array_mut().expect("versions").remove(0);
    server.put(&at, &next).await.expect(200);
    let lost = eventually(&server, &format!("{WIDGETS}/a"), |code, _| code == 500).await;
    let why = "AdditionalErrorMsg: object not decodable revision=";
    assert!(lost["message"].as_str().is_some_and(|text| text.contains(why) && text.ends_with("from an invalid group/version: example.com/v1beta1")), "{lost}");
    // What the original's cache would give, which does not come up, is to be asked for later; a page is not of the cache.
    for more in ["", "?labelSelector=no=one", "?watch=true&timeoutSeconds=1"] {
        let refused = server.get(&format!("{WIDGETS}{more}")).await.expect(429);
        let text = refused["message"].as_str().unwrap_or_default();
        let told = text.strip_prefix("storage is (re)initializing: failed to list <unspecified>: failed to read one or more widgets.example.com");
        assert!(told.is_some_and(|text| text.ends_with("from an invalid group/version: example.com/v1beta1 (and 1 more)")), "{refused}");
    }
    let refused = server.get(&format!("{WIDGETS}?limit=1")).await.expect(500);
    assert_eq!(refused["reason"], "StorageReadError");
    // Of two the other is told once one is gone, and once there is none any more all are listed.
    for (left, name) in [(1, "a"), (0, "b")] {
        let at = format!("{WIDGETS}/{name}?ignoreStoreReadErrorWithClusterBreakingPotential=true");
        server.delete(&at, None).await.expect(200);
        let listed = server.get(WIDGETS).await;
        match left {
            0 => assert_eq!(listed.expect(200)["items"], json!([])),
            _ => assert!(listed.expect(429)["message"].as_str().is_some_and(|text| text.contains("/default/b,"))),
        }
    }
    server.get("/apis/example.com/v1beta1").await.expect(404);
    server.get("/openapi/v3/apis/example.com/v1beta1").await.expect(200);
}

#[tokio::test]
async fn what_is_stored_is_served_by_the_next_server_at_once() {
    let store = store::Store::in_memory(&store::Options::default()).expect("a store");
    let first = Server::over(store.clone()).await;
    establish(&first, &widgets()).await;
    first.post(WIDGETS, &widget("a", json!({}))).await.expect(201);
    let next = Server::unbegun(store);
    let read = next.get(&format!("{WIDGETS}/a")).await.expect(200);
    assert_eq!(read["spec"]["color"], "blue");
}

/// A start with many definitions looks at none of their schemas: no tree is made of one until somebody wants it.
#[test]
fn a_start_reads_no_schema() {
    let directory = std::env::temp_dir().join(format!("apiserver-start-{}", std::process::id()));
    // Of a run with the same number that was killed.
    let _ = std::fs::remove_dir_all(&directory);
    let definition = |at: usize| large(&format!("thing{at}"), json!({"type": "object", "properties": properties(0, 4)}));
    // With its runtime all end that hold the store.
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime().block_on(async {
        let server = Server::over(store::Store::open(&directory, &store::Options::default()).expect("a store")).await;
        for at in 0..20 {
            establish(&server, &definition(at)).await;
        }
    });
    let store = (0..1000).find_map(|_| match store::Store::open(&directory, &store::Options::default()) {
        Err(store::OpenError::Locked(_)) => {
            std::thread::sleep(Duration::from_millis(10));
            None
        }
        opened => Some(opened.expect("the store again")),
    });
    let store = store.expect("nobody has the store");
    let prefix = "/registry/apiextensions.k8s.io/customresourcedefinitions/";
    let bucket = store.bucket(prefix);
    let is_read = |at: usize| bucket.get(&format!("{prefix}thing{at}s.example.com")).expect("a definition").value_at_hand().is_some();
    runtime().block_on(async {
        let server = Server::unbegun(store.clone());
        for at in 0..20 {
            server.get(&format!("/apis/example.com/v1/thing{at}s")).await.expect(200);
        }
        server.begin().await;
        // A new one has its turn behind those that were there.
        establish(&server, &definition(20)).await;
        assert_eq!((0..20).filter(|at| is_read(*at)).count(), 0);
        assert!(is_read(20), "who writes one has its tree");
        let object = json!({"apiVersion": "example.com/v1", "kind": "thing7", "metadata": {"name": "a"}, "spec": {"field1": 3, "none": 1}});
        let made = server.post("/apis/example.com/v1/namespaces/default/thing7s", &object).await.expect(201);
        assert_eq!(made["spec"], json!({"field1": 3}));
    });
    let _ = std::fs::remove_dir_all(&directory);
}

/// Definitions lie in the original's store as JSON, which tells an empty list from none.
#[tokio::test]
async fn conditions_that_are_an_empty_list_stay_one() {
    let server = Server::start().await;
    establish(&server, &widgets()).await;
    for none in [json!([]), Value::Null] {
        let mut definition = server.get(&format!("{DEFINITIONS}/widgets.example.com")).await.expect(200);
        definition["status"]["conditions"] = none.clone();
        // What is stored so has conditions again in a moment.
        let told = server.put(&format!("{DEFINITIONS}/widgets.example.com/status?dryRun=All"), &definition).await.expect(200);
        assert_eq!(told["status"]["conditions"], none);
    }
}

#[tokio::test]
async fn groups_of_the_community_want_approval() {
    let server = Server::start().await;
    let mut definition = widgets();
    definition["metadata"]["name"] = "widgets.extra.k8s.io".into();
    definition["spec"]["group"] = "extra.k8s.io".into();
    let refused = server.post(DEFINITIONS, &definition).await.expect(422);
    assert_eq!(refused["details"]["causes"][0]["field"], "metadata.annotations[api-approved.kubernetes.io]");
    definition["metadata"]["annotations"] = json!({"api-approved.kubernetes.io": "unapproved, just a test"});
    let made = establish(&server, &definition).await;
    let conformant = condition(&made, "KubernetesAPIApprovalPolicyConformant");
    assert_eq!(
        ["status", "reason", "message"].map(|key| conformant[key].as_str().unwrap_or_default()),
        ["False", "UnapprovedAnnotation", "not approved: \"unapproved, just a test\""]
    );
}

#[tokio::test]
async fn what_is_published_is_what_the_original_publishes() {
    let server = Server::start().await;
    establish(&server, &widgets()).await;
    let document = server.get("/openapi/v3/apis/example.com/v1").await.expect(200);
    assert_eq!(document["info"], json!({"title": "Kubernetes CRD Swagger", "version": "v0.1.0"}));
    let own = &document["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(own["description"], "A thing.");
    assert_eq!(own["properties"]["metadata"]["allOf"][0]["$ref"], "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
    assert_eq!(own["properties"]["spec"]["properties"]["anything"], json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
    assert_eq!(own["x-kubernetes-selectable-fields"], json!([{"fieldPath": "spec.color"}, {"fieldPath": "spec.replicas"}]));
    let list = &document["components"]["schemas"]["com.example.v1.WidgetList"];
    assert_eq!(
        list["properties"]["items"]["description"],
        "List of widgets. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md"
    );
    let scale = &document["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets/{name}/scale"]["get"];
    assert_eq!(scale["operationId"], "readExampleComV1NamespacedWidgetScale");
    assert_eq!(scale["x-kubernetes-group-version-kind"], json!({"group": "example.com", "version": "v1", "kind": "Widget"}));
    let all = server.get("/openapi/v2").await.expect(200);
    let own = &all["definitions"]["com.example.v1.Widget"]["properties"]["spec"]["properties"];
    assert_eq!(own["anything"], json!({"x-kubernetes-preserve-unknown-fields": true}), "version 2 cannot say it with a type");
    assert_eq!(own["color"], json!({"type": "string", "maxLength": 10}), "nor tells it defaults");
}

#[tokio::test]
async fn a_webhook_that_is_not_there_costs_those_alone_who_need_it() {
    let server = Server::start().await;
    let mut definition = widgets();
    definition["spec"]["versions"] = json!([version("v1", true), version("v2", false)]);
    let client = json!({"url": "https://127.0.0.1:1/convert"});
    definition["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {"clientConfig": client, "conversionReviewVersions": ["v1"]}});
    establish(&server, &definition).await;
    let other = WIDGETS.replace("/v1/", "/v2/");
    assert_eq!(server.get(&other).await.expect(200)["items"], json!([]), "nobody is asked about nothing");
    server.post(WIDGETS, &widget("a", json!({}))).await.expect(201);
    server.get(WIDGETS).await.expect(200);
    let why = "conversion webhook for example.com/v1, Kind=Widget failed: Post \"https://127.0.0.1:1/convert?timeout=30s\": dial tcp 127.0.0.1:1: connect: connection refused";
    let refused = server.get(&other).await.expect(500);
    assert_eq!(refused["reason"], "StorageReadError");
    assert!(refused["message"].as_str().is_some_and(|message| message.ends_with(why)), "{refused}");
    let mut second = widget("b", json!({}));
    second["apiVersion"] = "example.com/v2".into();
    let refused = server.post(&other, &second).await.expect(500);
    assert_eq!(refused["message"], why.replace("/v1, ", "/v2, "));
    second["metadata"]["name"] = "a".into();
    let refused = server.post(&other, &second).await.expect(500);
    assert_eq!(refused["message"], why.replace("/v1, ", "/v2, "), "a name that is taken is found after that");
    // What lies in the former version of storage is read in it without the webhook; in the other it is not.
    let at = format!("{DEFINITIONS}/widgets.example.com");
    let mut moved = server.get(&at).await.expect(200);
    moved["spec"]["versions"] = json!([version("v1", false), version("v2", true)]);
    server.put(&at, &moved).await.expect(200);
    server.get(&format!("{WIDGETS}/a")).await.expect(200);
    server.get(&format!("{other}/a")).await.expect(500);
}

/// Properties of a schema: so many on each level, three of which have properties themselves.
fn properties(levels: usize, width: usize) -> Value {
    let leaf = |at: usize| match at % 4 {
        0 => json!({"type": "string", "maxLength": 253, "description": "A field that says something of itself, at some length, as fields do."}),
        1 => json!({"type": "integer", "minimum": 0}),
        2 => json!({"type": "array", "items": {"type": "string"}}),
        _ => json!({"type": "object", "additionalProperties": {"type": "string"}}),
    };
    let property = |at: usize| match levels > 0 && at < 3 {
        true => json!({"type": "object", "description": "A part.", "properties": properties(levels - 1, width)}),
        false => leaf(at),
    };
    (0..width).map(|at| (format!("field{at}"), property(at))).collect::<serde_json::Map<_, _>>().into()
}

fn large(name: &str, spec: Value) -> Value {
    let mut definition = widgets();
    definition["metadata"]["name"] = format!("{name}s.example.com").into();
    definition["spec"]["names"] = json!({"plural": format!("{name}s"), "singular": name, "kind": name, "listKind": format!("{name}List")});
    definition["spec"]["versions"] =
        json!([{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}}]);
    definition
}

/// As many as fit a test's time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_definitions_and_a_large_one_hold_up_nobody() {
    let server = Server::start().await;
    let begun = Instant::now();
    let work = async {
        for at in 0..60 {
            server.post(DEFINITIONS, &large(&format!("thing{at}"), json!({"type": "object", "properties": properties(3, 9)}))).await.expect(201);
        }
        let many = (0..120).map(|at| (format!("part{at}"), json!({"type": "object", "properties": properties(2, 9)})));
        let huge = large("huge", json!({"type": "object", "properties": many.collect::<serde_json::Map<_, _>>()}));
        assert!(huge.to_string().len() > 1_000_000, "{}", huge.to_string().len());
        server.post(DEFINITIONS, &huge).await.expect(201);
        eventually(&server, "/apis/example.com/v1/huges", |code, _| code == 200).await;
    };
    let others = async {
        let mut worst = Duration::ZERO;
        loop {
            let asked = Instant::now();
            server.get("/api/v1/namespaces/default").await.expect(200);
            worst = worst.max(asked.elapsed());
            assert!(worst < Duration::from_secs(20), "{worst:?}: a debug build, and others may run beside");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = others => {}
    }
    assert!(begun.elapsed() < Duration::from_secs(300), "{:?}", begun.elapsed());
    let object = json!({"apiVersion": "example.com/v1", "kind": "huge", "metadata": {"name": "a"}, "spec": {"part7": {"field5": 3, "none": 1}, "field1": 1}});
    let made = server.post("/apis/example.com/v1/namespaces/default/huges", &object).await.expect(201);
    assert_eq!(made["spec"], json!({"part7": {"field5": 3}}));
}
