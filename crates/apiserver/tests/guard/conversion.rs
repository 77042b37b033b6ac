//! Conversion webhooks: that every way to an object of another version leads by them, that nobody is asked for nothing, and
//! that an answer which is wrong is no answer.

use crate::{
    extension::{self, Extension},
    hook::{Act, Hook},
    support::{Cluster, PATIENCE, Reply, admin},
};
use apiserver::{Body, full};
use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const NAME: &str = "lamps.example.com";
/// The version that is stored first: it says `spec.color`.
const ONE: &str = "/apis/example.com/v1/namespaces/default/lamps";
/// The other one: it says `spec.hue`.
const TWO: &str = "/apis/example.com/v2/namespaces/default/lamps";
const PATH: &str = "/convert";

/// Turns a lamp into another version.
fn converted(object: &Value, to: &str) -> Value {
    let mut object = object.clone();
    let (had, has) = if to.ends_with("v2") { ("color", "hue") } else { ("hue", "color") };
    object["apiVersion"] = to.into();
    if let Some(spec) = object["spec"].as_object_mut()
        && let Some(value) = spec.remove(had)
    {
        spec.insert(has.to_owned(), value);
    }
    object["metadata"]["labels"] = json!({"seen": to.rsplit('/').next()});
    object
}

fn review(uid: &Value, result: Value, objects: Vec<Value>) -> Act {
    let response = json!({"uid": uid, "result": result, "convertedObjects": objects});
    Act::Body(json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "response": response}).to_string())
}

/// A cluster with a hook whose mood can be changed.
struct Lamps {
    cluster: Cluster,
    hook: Hook,
    mood: Arc<Mutex<&'static str>>,
    /// Ends a "waits".
    go_on: Arc<tokio::sync::Notify>,
}

impl Lamps {
    async fn start() -> Lamps {
        let mood = Arc::new(Mutex::new("good"));
        let own = Arc::clone(&mood);
        let go_on = Arc::new(tokio::sync::Notify::new());
        let told = Arc::clone(&go_on);
        let hook = Hook::start(move |path, request| {
            if path != PATH {
                return Act::Respond(json!({"allowed": true}));
            }
            let to = request["desiredAPIVersion"].as_str().unwrap_or_default();
            let mut objects: Vec<Value> = request["objects"].as_array().into_iter().flatten().map(|object| converted(object, to)).collect();
            let success = json!({"status": "Success"});
            match *own.lock().unwrap() {
                "fails" => return review(&request["uid"], json!({"status": "Failed", "message": "no lamp today"}), Vec::new()),
                "uid" => return review(&"another".into(), success, objects),
                "count" => drop(objects.pop()),
                "name" => objects[0]["metadata"]["name"] = "another".into(),
                "version" => objects[0]["apiVersion"] = "example.com/v9".into(),
                "adds" => objects[0]["spec"]["unheard"] = 1.into(),
                "waits" => {
                    let Act::Body(text) = review(&request["uid"], success, objects) else { return Act::Hang };
                    return Act::After(Arc::clone(&told), text);
                }
                "refuses" if objects.iter().any(|object| object["metadata"]["name"] == "bad") => {
                    return review(&request["uid"], json!({"status": "Failed", "message": "no bad lamp"}), Vec::new());
                }
                "late" => {
                    let Act::Body(text) = review(&request["uid"], success, objects) else { return Act::Hang };
                    let now = Arc::new(tokio::sync::Notify::new());
                    let then = Arc::clone(&now);
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_millis(200)).await;
                        then.notify_one();
                    });
                    return Act::After(now, text);
                }
                "hangs" => return Act::Hang,
                "floods" => return Act::Flood,
                _ => {}
            }
            review(&request["uid"], success, objects)
        })
        .await;
        let lamps = Lamps { cluster: Cluster::start().await, hook, mood, go_on };
        lamps.define().await;
        lamps
    }

    async fn define(&self) {
        let version = |name: &str, field: &str, storage: bool| {
            json!({"name": name, "served": true, "storage": storage, "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
                "selectableFields": [{"jsonPath": format!(".spec.{field}")}],
                "additionalPrinterColumns": [{"name": "Shade", "type": "string", "jsonPath": format!(".spec.{field}")}],
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "properties": {field: {"type": "string"}, "replicas": {"type": "integer"}}},
                    "status": {"type": "object", "properties": {"replicas": {"type": "integer"}}}}}}})
        };
        let webhook = json!({"clientConfig": self.hook.by_url(PATH), "conversionReviewVersions": ["v9", "v1"]});
        let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": NAME}, "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "lamps", "singular": "lamp", "kind": "Lamp", "listKind": "LampList"},
            "versions": [version("v1", "color", true), version("v2", "hue", false)],
            "conversion": {"strategy": "Webhook", "webhook": webhook}}});
        self.cluster.post(DEFINITIONS, definition).await.expect(201);
        self.eventually(TWO, |reply| reply.code == 200).await;
    }

    async fn eventually(&self, uri: &str, wanted: impl Fn(&Reply) -> bool) {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if wanted(&self.cluster.get(uri).await) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{uri}: never as wanted");
    }

    async fn make(&self, name: &str, color: &str) -> Value {
        let lamp = json!({"apiVersion": "example.com/v1", "kind": "Lamp", "metadata": {"name": name}, "spec": {"color": color, "replicas": 1}});
        self.cluster.post(ONE, lamp).await.expect(201)
    }

    fn feel(&self, mood: &'static str) {
        *self.mood.lock().unwrap() = mood;
    }

    /// How many objects each review held since this was asked last.
    fn asked(&self) -> Vec<usize> {
        let all = self.hook.on(PATH);
        self.hook.seen.lock().unwrap().clear();
        all.iter().map(|request| request["objects"].as_array().map_or(0, Vec::len)).collect()
    }

    async fn send(&self, method: Method, uri: &str, media: &str, body: Value) -> Reply {
        self.cluster.call(&admin(), method, uri, &[("content-type", media)], body).await
    }

    async fn watch(&self, uri: &str) -> Watch {
        let request = Request::builder().uri(uri).extension(Arc::new(admin())).body(full("")).unwrap();
        Watch { body: self.cluster.api.handle(request).await.into_body(), buffer: Vec::new() }
    }
}

struct Watch {
    body: Body,
    buffer: Vec<u8>,
}

impl Watch {
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let mut event: Value = serde_json::from_slice(&line).expect("an event is JSON");
                return Some((event["type"].as_str().unwrap_or_default().to_owned(), event["object"].take()));
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("an event in time")?;
            self.buffer.extend_from_slice(&frame.expect("no error").into_data().expect("data"));
        }
    }
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().into_iter().flatten().filter_map(|item| item["metadata"]["name"].as_str()).collect()
}

#[tokio::test]
async fn every_read_of_another_version_is_converted() {
    let lamps = Lamps::start().await;
    let made = lamps.make("a", "red").await;
    lamps.make("b", "green").await;
    lamps.cluster.get(&format!("{ONE}/a")).await.expect(200);
    lamps.cluster.get(ONE).await.expect(200);
    assert_eq!(lamps.asked(), [0; 0], "nobody is asked where the versions agree");

    let read = lamps.cluster.get(&format!("{TWO}/a")).await.expect(200);
    assert_eq!((&read["apiVersion"], &read["spec"]), (&json!("example.com/v2"), &json!({"hue": "red", "replicas": 1})));
    assert_eq!(read["metadata"]["labels"], json!({"seen": "v2"}));
    for field in ["uid", "resourceVersion", "creationTimestamp", "managedFields"] {
        assert_eq!(read["metadata"][field], made["metadata"][field], "{field}");
    }
    let request = lamps.hook.on(PATH).remove(0);
    assert_eq!((&request["desiredAPIVersion"], &request["objects"][0]["apiVersion"]), (&json!("example.com/v2"), &json!("example.com/v1")));
    assert_eq!(lamps.hook.seen.lock().unwrap()[0].1["query"], "timeout=30s");
    assert_eq!(lamps.asked(), [1]);

    lamps.cluster.get(&format!("{TWO}/a")).await.expect(200);
    assert_eq!(lamps.asked(), [1], "the webhook may have changed its mind");
    lamps.cluster.get(&format!("{TWO}/a?resourceVersion=0")).await.expect(200);
    assert_eq!(lamps.asked(), [0; 0], "what is remembered will do");

    lamps.make("c", "blue").await;
    let list = lamps.cluster.get(TWO).await.expect(200);
    assert_eq!((names(&list), &list["items"][1]["spec"]["hue"]), (vec!["a", "b", "c"], &json!("green")));
    assert_eq!(lamps.asked(), [2], "a list goes at once, and what is known does not");
    lamps.cluster.delete(&format!("{ONE}/c")).await.expect(200);
    let first = lamps.cluster.get(&format!("{TWO}?limit=1")).await.expect(200);
    assert_eq!(names(&first), ["a"]);
    let rest = lamps.cluster.get(&format!("{TWO}?limit=1&continue={}", first["metadata"]["continue"].as_str().unwrap())).await.expect(200);
    assert_eq!((names(&rest), lamps.asked()), (vec!["b"], vec![]));
    // Fields and labels are those of the version.
    assert_eq!(names(&lamps.cluster.get(&format!("{TWO}?fieldSelector=spec.hue=green")).await.expect(200)), ["b"]);
    assert_eq!(names(&lamps.cluster.get(&format!("{TWO}?labelSelector=seen=v2")).await.expect(200)), ["a", "b"]);
    assert_eq!(names(&lamps.cluster.get(&format!("{ONE}?labelSelector=seen=v2")).await.expect(200)), [""; 0]);
    assert_eq!(names(&lamps.cluster.get(&format!("{TWO}?fieldSelector=metadata.name=b")).await.expect(200)), ["b"]);

    let table = |uri: &'static str| async {
        lamps.cluster.call(&admin(), Method::GET, uri, &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")], Value::Null).await.expect(200)
    };
    assert_eq!(table(TWO).await["rows"][0]["cells"], json!(["a", "red"]));
    let partial = [("accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")];
    let partial = lamps.cluster.call(&admin(), Method::GET, TWO, &partial, Value::Null).await.expect(200);
    assert_eq!(partial["items"][0]["metadata"]["labels"], json!({"seen": "v2"}));
    assert_eq!(lamps.cluster.get(&format!("{TWO}/a/scale")).await.expect(200)["spec"]["replicas"], 1);
}

#[tokio::test]
async fn every_write_of_another_version_is_stored_in_the_one_that_is_stored() {
    let lamps = Lamps::start().await;
    let lamp = json!({"apiVersion": "example.com/v2", "kind": "Lamp", "metadata": {"name": "a"}, "spec": {"hue": "red", "replicas": 1}});
    let mut made = lamps.cluster.post(TWO, lamp).await.expect(201);
    assert_eq!((&made["apiVersion"], &made["spec"]["hue"]), (&json!("example.com/v2"), &json!("red")));
    assert_eq!(lamps.asked(), [1, 1], "there and back");
    lamps.cluster.get(TWO).await.expect(200);
    assert_eq!(lamps.asked(), [0; 0], "what came back is known");
    let stored = async || {
        let stored = lamps.cluster.get(&format!("{ONE}/a")).await.expect(200);
        assert!(stored["spec"].get("hue").is_none(), "{stored}");
        stored["spec"]["color"].clone()
    };
    assert_eq!((stored().await, lamps.asked()), (json!("red"), vec![]));

    made["spec"]["hue"] = "green".into();
    let changed = lamps.send(Method::PUT, &format!("{TWO}/a"), "application/json", made).await.expect(200);
    assert_eq!((&changed["spec"]["hue"], stored().await), (&json!("green"), json!("green")));
    assert_eq!(changed["metadata"]["generation"], 2);
    let patched = lamps.cluster.patch(&format!("{TWO}/a"), json!({"spec": {"hue": "blue"}})).await.expect(200);
    assert_eq!((&patched["spec"]["hue"], stored().await), (&json!("blue"), json!("blue")));
    let apply = json!({"apiVersion": "example.com/v2", "kind": "Lamp", "spec": {"hue": "white"}});
    let applied = lamps.send(Method::PATCH, &format!("{TWO}/a?fieldManager=me&force=true"), "application/apply-patch+yaml", apply.clone()).await.expect(200);
    assert_eq!((&applied["spec"]["hue"], stored().await), (&json!("white"), json!("white")));
    let mut named = apply;
    named["metadata"]["name"] = "b".into();
    lamps.send(Method::PATCH, &format!("{TWO}/b?fieldManager=me"), "application/apply-patch+yaml", named).await.expect(201);
    lamps.cluster.patch(&format!("{TWO}/a/status"), json!({"status": {"replicas": 3}})).await.expect(200);
    lamps.cluster.patch(&format!("{TWO}/a/scale"), json!({"spec": {"replicas": 7}})).await.expect(200);
    let read = lamps.cluster.get(&format!("{ONE}/a")).await.expect(200);
    assert_eq!((&read["spec"], &read["status"]), (&json!({"color": "white", "replicas": 7}), &json!({"replicas": 3})));

    // Who only tries sees what would come back.
    let tried = lamps.cluster.patch(&format!("{TWO}/a?dryRun=All"), json!({"spec": {"hue": "dry"}})).await.expect(200);
    assert_eq!((&tried["spec"]["hue"], &tried["metadata"]["labels"]), (&json!("dry"), &json!({"seen": "v2"})));
    assert_eq!(tried["metadata"]["resourceVersion"], read["metadata"]["resourceVersion"]);

    // A change of nothing is none, and nothing is converted for it.
    lamps.asked();
    let same = lamps.cluster.patch(&format!("{TWO}/a"), json!({"spec": {"hue": "white"}})).await.expect(200);
    assert_eq!((&same["metadata"]["resourceVersion"], lamps.asked()), (&read["metadata"]["resourceVersion"], vec![]));
    lamps.cluster.patch(&format!("{TWO}/a"), json!({"metadata": {"finalizers": ["example.com/hold"]}})).await.expect(200);
    let going = lamps.cluster.delete(&format!("{TWO}/a")).await.expect(200);
    assert_eq!((&going["spec"]["hue"], going["metadata"]["deletionTimestamp"].is_string()), (&json!("white"), true));
    lamps.cluster.patch(&format!("{TWO}/a"), json!({"metadata": {"finalizers": null}})).await.expect(200);
    assert_eq!(names(&lamps.cluster.get(ONE).await.expect(200)), ["b"]);
    lamps.cluster.delete(TWO).await.expect(200);
    assert_eq!(names(&lamps.cluster.get(ONE).await.expect(200)), [""; 0]);
}

/// What the original made of the same applies.
#[tokio::test]
async fn who_owns_what_is_compared_in_the_versions_of_the_owners() {
    let lamps = Lamps::start().await;
    let lamp = json!({"apiVersion": "example.com/v2", "kind": "Lamp", "metadata": {"name": "c"}, "spec": {"hue": "pink", "replicas": 1}});
    lamps.cluster.post(&format!("{TWO}?fieldManager=first"), lamp).await.expect(201);
    let apply = async |base: &str, version: &str, who: &str, force: bool, spec: Value| {
        let body = json!({"apiVersion": format!("example.com/{version}"), "kind": "Lamp", "spec": spec});
        lamps.send(Method::PATCH, &format!("{base}/c?fieldManager={who}&force={force}"), "application/apply-patch+yaml", body).await
    };
    let owners = |object: &Value| -> Vec<Value> {
        let entries = object["metadata"]["managedFields"].as_array().unwrap().iter();
        entries.map(|e| json!([e["manager"], e["apiVersion"].as_str().unwrap().rsplit('/').next(), e["fieldsV1"]["f:spec"]])).collect()
    };
    apply(TWO, "v2", "me", true, json!({"hue": "white"})).await.expect(200);
    let refused = apply(ONE, "v1", "you", false, json!({"color": "black"})).await.expect(409);
    assert_eq!(refused["message"], "Apply failed with 1 conflict: conflict with \"me\": .spec.hue");
    // What was applied in another version, and is not any more, goes.
    let same = apply(ONE, "v1", "me", true, json!({"replicas": 2})).await.expect(200);
    assert_eq!(same["spec"], json!({"replicas": 2}));
    assert_eq!(owners(&same), [json!(["me", "v1", {"f:replicas": {}}]), json!(["first", "v2", {}])]);
    let forced = apply(ONE, "v1", "you", true, json!({"color": "black"})).await.expect(200);
    assert_eq!(forced["spec"], json!({"color": "black", "replicas": 2}));
    let refused = apply(TWO, "v2", "them", false, json!({"hue": "gray"})).await.expect(409);
    assert_eq!(refused["message"], "Apply failed with 1 conflict: conflict with \"you\": .spec.color");
    // An update takes the field from who owns it by another name.
    let patched = lamps.cluster.patch(&format!("{TWO}/c?fieldManager=last"), json!({"spec": {"hue": "gray"}})).await.expect(200);
    assert_eq!(owners(&patched), [json!(["me", "v1", {"f:replicas": {}}]), json!(["first", "v2", {}]), json!(["last", "v2", {"f:hue": {}}])]);
    // Who writes in the version that is stored need not wait for a webhook to be well.
    lamps.feel("fails");
    let written = lamps.cluster.patch(&format!("{ONE}/c?fieldManager=late"), json!({"spec": {"color": "green"}})).await.expect(200);
    assert_eq!(owners(&written), owners(&patched), "nobody is told whose the field is");
    assert_eq!(
        apply(ONE, "v1", "late", true, json!({"color": "red"})).await.refused(500),
        "conversion webhook for example.com/v1, Kind=Lamp failed: no lamp today"
    );
    // What is converted into no object of its version has no owners.
    lamps.feel("adds");
    let written = lamps.cluster.patch(&format!("{ONE}/c?fieldManager=late"), json!({"spec": {"color": "brown"}})).await.expect(200);
    assert_eq!(owners(&written), owners(&patched));
    assert_eq!(apply(ONE, "v1", "late", true, json!({"color": "red"})).await.refused(500), ".spec.unheard: field not declared in schema");
}

#[tokio::test]
async fn a_watch_tells_its_own_version() {
    let lamps = Lamps::start().await;
    lamps.make("a", "red").await;
    let mut all = lamps.watch(&format!("{TWO}?watch=true")).await;
    let mut red = lamps.watch(&format!("{TWO}?watch=true&fieldSelector=spec.hue=red")).await;
    for watch in [&mut all, &mut red] {
        let (kind, object) = watch.next().await.unwrap();
        assert_eq!((kind.as_str(), &object["apiVersion"], &object["spec"]["hue"]), ("ADDED", &json!("example.com/v2"), &json!("red")));
    }
    lamps.cluster.patch(&format!("{ONE}/a"), json!({"spec": {"color": "blue"}})).await.expect(200);
    let (kind, object) = all.next().await.unwrap();
    assert_eq!((kind.as_str(), &object["spec"]["hue"]), ("MODIFIED", &json!("blue")));
    let (kind, last) = red.next().await.unwrap();
    assert_eq!((kind.as_str(), &last["spec"]["hue"]), ("DELETED", &json!("red")));
    assert_eq!(last["metadata"]["resourceVersion"], object["metadata"]["resourceVersion"]);
    lamps.cluster.delete(&format!("{ONE}/a")).await.expect(200);
    let (kind, object) = all.next().await.unwrap();
    assert_eq!((kind.as_str(), &object["apiVersion"], &object["spec"]["hue"]), ("DELETED", &json!("example.com/v2"), &json!("blue")));

    // Who cannot be told of a change hears no more, as of the original.
    lamps.feel("fails");
    lamps.make("b", "red").await;
    assert!(all.next().await.is_none());
    assert!(red.next().await.is_none());
}

#[tokio::test]
async fn a_change_is_converted_once_however_many_hear_of_it() {
    let lamps = Lamps::start().await;
    let mut watches = Vec::new();
    for _ in 0..20 {
        watches.push(lamps.watch(&format!("{TWO}?watch=true&fieldSelector=spec.hue=red")).await);
    }
    lamps.feel("late");
    lamps.make("a", "red").await;
    for (kind, object) in futures_util::future::join_all(watches.iter_mut().map(Watch::next)).await.into_iter().flatten() {
        assert_eq!((kind.as_str(), &object["spec"]["hue"]), ("ADDED", &json!("red")));
    }
    assert_eq!(lamps.asked(), [1]);
    lamps.cluster.delete(&format!("{ONE}/a")).await.expect(200);
    for (kind, object) in futures_util::future::join_all(watches.iter_mut().map(Watch::next)).await.into_iter().flatten() {
        assert_eq!((kind.as_str(), &object["spec"]["hue"]), ("DELETED", &json!("red")));
    }
    assert_eq!(lamps.asked(), [0; 0], "the state before is known");
}

/// Texts that the original gave.
#[tokio::test]
async fn a_wrong_answer_is_none() {
    let lamps = Lamps::start().await;
    let made = lamps.make("a", "red").await;
    let one = format!("{TWO}/a");
    let about = "conversion webhook for example.com/v1, Kind=Lamp";
    let expected = [
        ("fails", "failed: no lamp today"),
        ("count", "returned 0 objects, expected 1"),
        ("name", "returned invalid object: must have the same name: a != another"),
        ("version", "returned invalid object at index 0: invalid groupVersion (expected example.com/v2, received example.com/v9)"),
    ];
    let revision = made["metadata"]["resourceVersion"].as_str().unwrap();
    let corrupt = |key: &str, why: &str| {
        format!(
            "StorageError: corrupt object, Code: 7, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: object not decodable revision={revision}: {about} {why}"
        )
    };
    for (mood, why) in expected {
        lamps.feel(mood);
        let refused = lamps.cluster.get(&one).await.expect(500);
        let alone = corrupt("/example.com/lamps/default/a", why);
        assert_eq!((&refused["message"], &refused["reason"]), (&json!(format!("Internal error occurred: {alone}")), &json!("InternalError")), "{mood}");
        assert_eq!(refused["details"]["causes"], json!([{"message": alone}]), "{mood}");
        let listed = corrupt("/registry/example.com/lamps/default/a", why);
        for list in [lamps.cluster.get(TWO).await, lamps.cluster.delete(TWO).await] {
            let list = list.expect(500);
            assert_eq!(list["message"], format!("failed to read one or more lamps.example.com from the storage: {listed}"), "{mood}");
            assert_eq!(list["reason"], "StorageReadError");
            let causes = json!([{"reason": "UnexpectedServerResponse", "field": "/registry/example.com/lamps/default/a", "message": listed}]);
            assert_eq!(list["details"], json!({"name": "list", "group": "example.com", "kind": "lamps", "causes": causes}), "{mood}");
        }
        lamps.cluster.delete(&one).await.expect(500);
        lamps.cluster.get(&format!("{TWO}?watch=true")).await.expect(500);
        lamps.cluster.patch(&one, json!({"spec": {"hue": "blue"}})).await.expect(500);
        let lamp = json!({"apiVersion": "example.com/v2", "kind": "Lamp", "metadata": {"name": "a"}});
        let mut other = lamp.clone();
        other["metadata"]["name"] = "c".into();
        // That its name is taken is found after it was converted.
        for lamp in [lamp, other] {
            let refused = lamps.cluster.post(TWO, lamp).await.expect(500);
            assert!(
                refused.get("reason").is_none() && refused["message"].as_str().unwrap().starts_with("conversion webhook for example.com/v2, Kind=Lamp "),
                "{refused}"
            );
        }
        assert_eq!(names(&lamps.cluster.get(ONE).await.expect(200)), ["a"], "{mood}: nothing is changed");
    }
    lamps.feel("uid");
    let message = lamps.cluster.get(&one).await.refused(500);
    assert!(message.contains("failed: expected response.uid=\"") && message.ends_with("\", got \"another\""), "{message}");
    lamps.feel("floods");
    let message = lamps.cluster.get(&one).await.refused(500);
    assert!(message.ends_with("http: response body too large"), "{message}");
    lamps.feel("good");
    assert_eq!(lamps.cluster.get(&one).await.expect(200)["spec"]["hue"], "red");
    // What has been converted is told while its webhook is away, as by the original's cache.
    lamps.feel("fails");
    lamps.cluster.get(&one).await.expect(500);
    assert_eq!(names(&lamps.cluster.get(TWO).await.expect(200)), ["a"]);
}

#[tokio::test]
async fn a_webhook_that_hangs_holds_up_nobody_else() {
    let lamps = Lamps::start().await;
    lamps.make("a", "red").await;
    let mut watch = lamps.watch(&format!("{ONE}?watch=true")).await;
    assert_eq!(watch.next().await.unwrap().0, "ADDED");
    lamps.feel("hangs");
    // Its webhook has half a minute.
    let hung = lamps.cluster.get(TWO);
    let others = async {
        lamps.cluster.get(&format!("{ONE}/a")).await.expect(200);
        lamps.make("b", "green").await;
        assert_eq!(watch.next().await.unwrap().1["metadata"]["name"], "b");
        lamps.cluster.get("/readyz").await.expect(200);
        lamps.cluster.get(&format!("{TWO}/a?timeout=100ms")).await.expect(504);
        let mut definition = lamps.cluster.get(&format!("{DEFINITIONS}/{NAME}")).await.expect(200);
        definition["metadata"]["labels"] = json!({"a": "b"});
        lamps.send(Method::PUT, &format!("{DEFINITIONS}/{NAME}"), "application/json", definition).await.expect(200);
    };
    tokio::select! {
        _ = hung => panic!("the list came back"),
        () = others => {}
    }
}

#[tokio::test]
async fn admission_sees_the_version_that_it_is_registered_for() {
    let lamps = Lamps::start().await;
    let rules = json!([{"apiGroups": ["example.com"], "apiVersions": ["v1"], "resources": ["lamps"], "operations": ["*"]}]);
    let mut entry = crate::hook::entry("eq.example.com", lamps.hook.by_url("/admit"));
    entry["rules"] = rules.clone();
    let hooks = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    lamps.cluster.post(hooks, crate::hook::configuration("Validating", "eq", vec![entry])).await.expect(201);
    let lamp = |hue: &str| json!({"apiVersion": "example.com/v2", "kind": "Lamp", "metadata": {"name": "a"}, "spec": {"hue": hue}});
    lamps.cluster.post(TWO, lamp("red")).await.expect(201);
    lamps.cluster.patch(&format!("{TWO}/a"), json!({"spec": {"hue": "blue"}})).await.expect(200);
    lamps.cluster.delete(&format!("{TWO}/a")).await.expect(200);
    let seen = lamps.hook.on("/admit");
    let told: Vec<Value> =
        seen.iter().map(|r| json!([r["operation"], r["kind"]["version"], r["requestKind"]["version"], r["object"]["spec"], r["oldObject"]["spec"]])).collect();
    let expected = [
        json!(["CREATE", "v1", "v2", {"color": "red"}, null]),
        json!(["UPDATE", "v1", "v2", {"color": "blue"}, {"color": "red"}]),
        json!(["DELETE", "v1", "v2", null, {"color": "blue"}]),
    ];
    assert_eq!(told, expected);
    lamps.feel("fails");
    let why = "conversion webhook for example.com/v2, Kind=Lamp failed: no lamp today";
    assert_eq!(lamps.cluster.post(TWO, lamp("red")).await.refused(500), format!("Internal error occurred: {why}"));
    lamps.feel("good");
    lamps.cluster.delete(&format!("{hooks}/eq")).await.expect(200);

    let base = "/apis/admissionregistration.k8s.io/v1";
    let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "eq"}, "spec": {
        "matchConstraints": {"resourceRules": rules}, "validations": [{"expression": "object == null || object.spec.color != 'red'", "message": "no red"}]}});
    lamps.cluster.post(&format!("{base}/validatingadmissionpolicies"), policy).await.expect(201);
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "eq"},
        "spec": {"policyName": "eq", "validationActions": ["Deny"]}});
    lamps.cluster.post(&format!("{base}/validatingadmissionpolicybindings"), binding).await.expect(201);
    let by = "lamps.example.com \"a\" is forbidden: ValidatingAdmissionPolicy 'eq' with binding 'eq' denied request:";
    assert_eq!(lamps.cluster.post(TWO, lamp("red")).await.refused(422), format!("{by} no red"));
    lamps.feel("fails");
    let refused = lamps.cluster.post(TWO, lamp("blue")).await.refused(422);
    assert_eq!(refused, format!("{by} failed to configure binding: failed to convert object version: {why}"));
    lamps.feel("good");
    lamps.cluster.post(TWO, lamp("blue")).await.expect(201);

    // One that mutates is told of itself.
    let mutation = json!({"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: 'remove', path: '/spec/none'}]"}});
    let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy", "metadata": {"name": "m"}, "spec": {
        "matchConstraints": {"resourceRules": rules}, "reinvocationPolicy": "Never", "mutations": [mutation]}});
    lamps.cluster.post(&format!("{base}/mutatingadmissionpolicies"), policy).await.expect(201);
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding", "metadata": {"name": "m"},
        "spec": {"policyName": "m"}});
    lamps.cluster.post(&format!("{base}/mutatingadmissionpolicybindings"), binding).await.expect(201);
    lamps.feel("fails");
    let refused = lamps.cluster.post(TWO, lamp("green")).await.refused(403);
    assert_eq!(refused, format!("policy \"m\" denied request: failed to configure policy: {why}"));
}

#[tokio::test]
async fn what_is_stored_moves_with_the_storage_version() {
    let lamps = Lamps::start().await;
    lamps.make("a", "red").await;
    lamps.make("b", "green").await;
    let uri = format!("{DEFINITIONS}/{NAME}");
    let mut definition = lamps.cluster.get(&uri).await.expect(200);
    definition["spec"]["versions"][0]["storage"] = false.into();
    definition["spec"]["versions"][1]["storage"] = true.into();
    lamps.send(Method::PUT, &uri, "application/json", definition).await.expect(200);
    lamps.asked();
    let read = lamps.cluster.get(&format!("{TWO}/a")).await.expect(200);
    assert_eq!((&read["spec"]["hue"], lamps.asked()), (&json!("red"), vec![1]), "it still lies in the version of old");
    assert_eq!(lamps.cluster.get(&format!("{ONE}/a")).await.expect(200)["spec"]["color"], "red");
    assert_eq!(lamps.asked(), [0; 0]);
    // What changes nothing writes it in the new version.
    let moved = lamps.send(Method::PUT, &format!("{TWO}/a"), "application/json", read.clone()).await.expect(200);
    assert_ne!(moved["metadata"]["resourceVersion"], read["metadata"]["resourceVersion"]);
    lamps.asked();
    let list = lamps.cluster.get(TWO).await.expect(200);
    assert_eq!((names(&list), &list["items"][0]["spec"]["hue"], &list["items"][1]["spec"]["hue"]), (vec!["a", "b"], &json!("red"), &json!("green")));
    assert_eq!(lamps.asked(), [1], "only what differs is sent");
    let list = lamps.cluster.get(ONE).await.expect(200);
    assert_eq!((&list["items"][0]["spec"]["color"], &list["items"][1]["spec"]["color"]), (&json!("red"), &json!("green")));
    assert_eq!(lamps.asked(), [1], "only what differs is sent");
    let again = lamps.send(Method::PUT, &format!("{TWO}/a"), "application/json", moved.clone()).await.expect(200);
    assert_eq!(again["metadata"]["resourceVersion"], moved["metadata"]["resourceVersion"]);
    lamps.cluster.delete(&uri).await.expect(200);
    lamps.eventually(&uri, |reply| reply.code == 404).await;
}

#[tokio::test]
async fn no_object_of_a_definition_appears_under_the_next_one_of_its_name() {
    let lamps = Lamps::start().await;
    lamps.feel("waits");
    let lamp = json!({"apiVersion": "example.com/v2", "kind": "Lamp", "metadata": {"name": "a"}});
    let meanwhile = async {
        while lamps.hook.on(PATH).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        lamps.feel("good");
        let uri = format!("{DEFINITIONS}/{NAME}");
        lamps.cluster.delete(&uri).await.expect(200);
        lamps.eventually(&uri, |reply| reply.code == 404).await;
        lamps.define().await;
        lamps.go_on.notify_one();
    };
    let both = async { tokio::join!(lamps.cluster.post(TWO, lamp), meanwhile) };
    let (refused, ()) = tokio::time::timeout(PATIENCE, Box::pin(both)).await.expect("the webhook is asked");
    assert_eq!(refused.refused(403), "lamps.example.com \"a\" is forbidden: create not allowed while custom resource definition is terminating");
    assert_eq!(names(&lamps.cluster.get(ONE).await.expect(200)), [""; 0]);
    lamps.make("a", "red").await;
}

#[tokio::test]
async fn one_object_that_is_refused_is_not_the_failure_of_the_others() {
    let lamps = Lamps::start().await;
    for name in ["a", "b", "bad", "c", "d"] {
        lamps.make(name, "red").await;
    }
    lamps.feel("refuses");
    let refused = lamps.cluster.get(TWO).await.expect(500);
    let causes = refused["details"]["causes"].as_array().expect("causes");
    assert_eq!(causes.iter().map(|cause| &cause["field"]).collect::<Vec<_>>(), ["/registry/example.com/lamps/default/bad"], "{refused}");
    lamps.asked();
    lamps.cluster.get(TWO).await.expect(500);
    assert_eq!(lamps.asked(), [1], "what was converted is not asked about again");
}

/// What the original's watch cache gives waits for what there was at its beginning.
#[tokio::test]
async fn no_list_begins_before_what_there_was_is_converted() {
    let lamps = Lamps::start().await;
    lamps.make("a", "red").await;
    lamps.feel("fails");
    lamps.cluster.get(TWO).await.expect(500);
    let conversion = json!({"spec": {"conversion": {"webhook": {"conversionReviewVersions": ["v1"]}}}});
    lamps.cluster.patch(&format!("{DEFINITIONS}/{NAME}"), conversion).await.expect(200);
    lamps.eventually(TWO, |reply| reply.code == 429).await;
    for uri in [TWO.to_owned(), format!("{TWO}?labelSelector=a=b&limit=1"), format!("{TWO}?watch=true"), TWO.replace("default", "other")] {
        let told = lamps.cluster.get(&uri).await.refused(429);
        let why =
            told.strip_prefix("storage is (re)initializing: failed to list <unspecified>: failed to read one or more lamps.example.com from the storage: ");
        assert!(why.is_some_and(|why| why.contains("/registry/example.com/lamps/default/a,")), "{uri}: {told}");
    }
    // A page is read from where the objects lie, and the version that is stored is there.
    assert_eq!(lamps.cluster.get(&format!("{TWO}?limit=1")).await.expect(500)["reason"], "StorageReadError");
    assert_eq!(names(&lamps.cluster.get(ONE).await.expect(200)), ["a"]);
    lamps.feel("good");
    assert_eq!(names(&lamps.cluster.get(TWO).await.expect(200)), ["a"]);
    // What comes later refuses those alone who are told of it, for a while.
    lamps.feel("fails");
    lamps.make("b", "red").await;
    lamps.cluster.get(TWO).await.expect(500);
    assert_eq!(names(&lamps.cluster.get(&TWO.replace("default", "other")).await.expect(200)), [""; 0]);
}

#[tokio::test]
async fn all_who_come_at_once_ask_once() {
    let lamps = Lamps::start().await;
    lamps.make("a", "red").await;
    lamps.make("b", "green").await;
    lamps.feel("late");
    let answers = futures_util::future::join_all((0..8).map(|_| lamps.cluster.get(TWO))).await;
    for answer in answers {
        assert_eq!(names(&answer.expect(200)), ["a", "b"]);
    }
    assert_eq!(lamps.asked(), [2]);
}

/// As everywhere else, whoever converts.
#[tokio::test]
async fn what_a_watch_is_sent_is_counted_with_its_bookmarks() {
    let lamps = Lamps::start().await;
    lamps.make("a", "red").await;
    let mut watch = lamps.watch(&format!("{TWO}?watch=true&allowWatchBookmarks=true")).await;
    for told in ["ADDED", "BOOKMARK"] {
        assert_eq!(watch.next().await.unwrap().0, told);
    }
    let metrics = lamps.cluster.get("/metrics").await.expect(200);
    let counted = "apiserver_watch_events_total{group=\"example.com\",resource=\"lamps\",version=\"v2\"} 2\n";
    assert!(metrics.as_str().is_some_and(|text| text.contains(counted)), "{metrics}");
}

/// Behind the Service of the API are the servers that are aggregated: they convert as well.
#[tokio::test]
async fn the_server_is_its_own_webhook() {
    let lamps = Lamps::start().await;
    lamps.make("a", "red").await;
    let server = Extension::start(|seen| match seen.method.as_str() {
        "POST" => {
            let review: Value = serde_json::from_str(&seen.body).unwrap_or_default();
            let to = review["request"]["desiredAPIVersion"].as_str().unwrap_or_default();
            let objects: Vec<Value> = review["request"]["objects"].as_array().into_iter().flatten().map(|object| converted(object, to)).collect();
            let response = json!({"uid": review["request"]["uid"], "result": {"status": "Success"}, "convertedObjects": objects});
            extension::reply(&json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "response": response}))
        }
        _ => extension::reply(&json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "converters.example.com/v1", "resources": []})),
    })
    .await;
    server.register(&lamps.cluster, "v1", "converters.example.com").await;
    lamps.asked();
    let service = json!({"namespace": "default", "name": "kubernetes", "path": "/apis/converters.example.com/v1/lamps"});
    let webhook = json!({"clientConfig": {"url": null, "caBundle": null, "service": service}});
    lamps.cluster.patch(&format!("{DEFINITIONS}/{NAME}"), json!({"spec": {"conversion": {"webhook": webhook}}})).await.expect(200);
    let path = "/apis/converters.example.com/v1/lamps";
    lamps.eventually(&format!("{TWO}/a"), |reply| reply.code == 200 && !server.on(path).is_empty()).await;
    assert_eq!(lamps.cluster.get(&format!("{TWO}/a")).await.expect(200)["spec"]["hue"], "red");
    let user = server.on(path).iter().map(|seen| seen.header("x-remote-user")).next();
    assert_eq!(user.as_deref(), Some("system:apiserver"));
}

#[tokio::test]
async fn a_definition_that_goes_hears_that_its_conversion_is_mended() {
    let lamps = Lamps::start().await;
    lamps.make("a", "red").await;
    let uri = format!("{DEFINITIONS}/{NAME}");
    let mut definition = lamps.cluster.get(&uri).await.expect(200);
    for version in definition["spec"]["versions"].as_array_mut().unwrap() {
        version["storage"] = (version["name"] == "v2").into();
    }
    lamps.send(Method::PUT, &uri, "application/json", definition).await.expect(200);
    lamps.feel("fails");
    lamps.cluster.delete(&uri).await.expect(200);
    let failed = |reply: &Reply| reply.body["status"]["conditions"].as_array().into_iter().flatten().any(|c| c["reason"] == "InstanceDeletionFailed");
    lamps.eventually(&uri, failed).await;
    lamps.cluster.patch(&uri, json!({"spec": {"conversion": {"strategy": "None", "webhook": null}}})).await.expect(200);
    lamps.eventually(&uri, |reply| reply.code == 404).await;
}

/// More writes than there are places for heavy work: those that wait at the door hold none that those inside need.
#[tokio::test]
async fn the_end_of_a_definition_stops_nobody() {
    let lamps = Lamps::start().await;
    lamps.feel("late");
    let writes = (0..40).map(|n| {
        let lamp = json!({"apiVersion": "example.com/v2", "kind": "Lamp", "metadata": {"name": format!("a{n}")}, "spec": {"hue": "x".repeat(40_000)}});
        let lamps = &lamps;
        async move {
            tokio::time::sleep(Duration::from_millis(10 * n)).await;
            lamps.cluster.post(TWO, lamp).await
        }
    });
    let uri = format!("{DEFINITIONS}/{NAME}");
    let end = async {
        while lamps.hook.on(PATH).len() < 20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        lamps.cluster.delete(&uri).await.expect(200);
    };
    let all = async { tokio::join!(futures_util::future::join_all(writes), end) };
    let (answers, ()) = tokio::time::timeout(PATIENCE, Box::pin(all)).await.expect("everybody is answered");
    assert!(answers.iter().all(|answer| matches!(answer.code, 201 | 403 | 404)), "{:?}", answers.iter().map(|a| a.code).collect::<Vec<_>>());
    lamps.eventually(&uri, |reply| reply.code == 404).await;
}
