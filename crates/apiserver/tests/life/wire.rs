//! Answers as the original writes them, byte for byte where it matters: the order of keys, escapes, line ends, indentation,
//! and large lists in every form.

use super::{
    MAPS, PODS, map, pod,
    support::{Server, names},
};
use http::Method;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use std::io::Read as _;

async fn text(server: &Server, uri: &str, headers: &[(&str, &str)]) -> String {
    String::from_utf8(server.raw(Method::GET, uri, headers, "").await.1.to_vec()).expect("UTF-8")
}

/// Where each of the texts stands, which must be in this order.
#[track_caller]
fn in_order(text: &str, parts: &[&str]) {
    let places: Vec<usize> = parts.iter().map(|part| text.find(part).unwrap_or_else(|| panic!("{part} in {text}"))).collect();
    assert!(places.is_sorted(), "{places:?} of {parts:?} in {text}");
}

/// Texts observed from kube-apiserver 1.37.2.
#[tokio::test]
async fn free_form_values_keep_the_text_that_they_came_in() {
    const CLASSES: &str = "/apis/resource.k8s.io/v1/deviceclasses";
    const CLASS: &str = r#"{"apiVersion":"resource.k8s.io/v1","kind":"DeviceClass","metadata":{"name":"dc"},"spec":{"config":[{"opaque":{"driver":"d.example.com","parameters":{"b":1.0, "a":[1e3,0.10],"t":"<\u0041>","dup":1,"dup":2}}}]}}"#;
    const KEPT: &str = r#"{"opaque":{"driver":"d.example.com","parameters":{"b":1.0,"a":[1e3,0.10],"t":"\u003c\u0041\u003e","dup":1,"dup":2}}}"#;
    let server = Server::start().await;
    let send = async |method: Method, uri: &str, media: &str, body: &'static str| {
        let (code, answer) = server.raw(method, uri, &[("content-type", media)], body).await;
        (code, String::from_utf8(answer.to_vec()).expect("UTF-8"))
    };
    let one = format!("{CLASSES}/dc");
    let dry = send(Method::POST, &format!("{CLASSES}?dryRun=All&fieldValidation=Strict"), "application/json", CLASS).await;
    assert!(dry.0 == 201 && dry.1.contains(KEPT), "{dry:?}");
    let mut watch = server.body(&format!("{CLASSES}?watch=true&resourceVersion=0&allowWatchBookmarks=false")).await;
    let made = send(Method::POST, &format!("{CLASSES}?fieldValidation=Strict"), "application/json", CLASS).await;
    assert!(made.0 == 201 && made.1.contains(KEPT), "{made:?}");
    let event = watch.frame().await.expect("an event").expect("a frame").into_data().expect("data");
    assert!(String::from_utf8_lossy(&event).contains(KEPT), "{event:?}");
    for uri in [&one, CLASSES] {
        assert!(text(&server, uri, &[]).await.contains(KEPT), "{uri}");
    }
    let (_, message) = server.raw(Method::GET, &one, &[("accept", "application/vnd.kubernetes.protobuf")], "").await;
    // A message has what was sent, to the space.
    let parameters = r#"{"b":1.0, "a":[1e3,0.10],"#;
    assert!(message.windows(parameters.len()).any(|part| part == parameters.as_bytes()));

    let merge = send(Method::PATCH, &one, "application/merge-patch+json", r#"{"metadata":{"labels":{"a":"1"}}}"#).await;
    assert!(merge.1.contains(KEPT), "{merge:?}");
    let add = r#"[{"op":"add","path":"/spec/config/-","value":{"opaque":{"driver":"e.example.com","parameters":{"z":1.0,"y":2 }}}}]"#;
    let added = send(Method::PATCH, &one, "application/json-patch+json", add).await;
    assert!(added.1.contains(&format!(r#"{KEPT},{{"opaque":{{"driver":"e.example.com","parameters":{{"z":1.0,"y":2}}}}}}"#)), "{added:?}");
    // The same value in another text is another object.
    let version = |answer: &str| serde_json::from_str::<Value>(answer).expect("JSON")["metadata"]["resourceVersion"].clone();
    let same = send(Method::PATCH, &one, "application/merge-patch+json", r#"{"metadata":{"labels":{"a":"1"}}}"#).await;
    assert_eq!(version(&same.1), version(&added.1));
    let list = r#"{"spec":{"config":[{"opaque":{"driver":"d.example.com","parameters":{"b":1.0,"a":1e3}}}]}}"#;
    let replaced = send(Method::PATCH, &one, "application/merge-patch+json", list).await;
    assert!(replaced.1.contains(r#""parameters":{"a":1e3,"b":1.0}"#), "its library sorts what a merge puts in: {replaced:?}");
    const OTHER: &str = r#"{"apiVersion":"resource.k8s.io/v1","kind":"DeviceClass","metadata":{"name":"dc","labels":{"a":"1"}},"spec":{"config":[{"opaque":{"driver":"d.example.com","parameters":{"b":1.0,"a":1e3}}}]}}"#;
    let other = send(Method::PUT, &one, "application/json", OTHER).await;
    assert!(other.1.contains(r#""parameters":{"b":1.0,"a":1e3}"#) && version(&other.1) != version(&replaced.1), "{other:?}");
    // What is made from maps is sorted.
    let strategic = send(Method::PATCH, &one, "application/strategic-merge-patch+json", r#"{"metadata":{"labels":{"b":"1"}}}"#).await;
    assert!(strategic.1.contains(r#""parameters":{"a":1000,"b":1}"#), "{strategic:?}");
}

#[tokio::test]
async fn keys_stand_in_the_order_of_the_go_fields() {
    let server = Server::start().await;
    let mut object = map("a", "<&>\u{2028}");
    object["metadata"]["annotations"] = json!({"b": "1", "a": "2"});
    server.post(MAPS, &object).await.expect(201);
    let one = text(&server, &format!("{MAPS}/a"), &[]).await;
    let begin = r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","namespace":"default","uid":""#;
    assert!(one.starts_with(begin), "{one}");
    in_order(
        &one,
        &[
            r#""uid""#,
            r#""resourceVersion""#,
            r#""creationTimestamp""#,
            r#""labels":{"app""#,
            r#""annotations":{"a":"2","b""#,
            r#""managedFields":[{"manager":"unknown","operation":"Update","apiVersion":"v1","time":""#,
        ],
    );
    assert!(one.ends_with("},\"data\":{\"k\":\"\\u003c\\u0026\\u003e\\u2028\"}}\n"), "{one}");

    let many = text(&server, &format!("{MAPS}?labelSelector=app%3Da"), &[]).await;
    assert!(many.starts_with(r#"{"kind":"ConfigMapList","apiVersion":"v1","metadata":{"resourceVersion":""#), "{many}");
    assert!(many.contains(r#""items":[{"metadata":{"name":"a","#), "an item says nothing that the list says: {many}");
    assert!(many.ends_with("]}\n"));
    assert!(text(&server, &format!("{MAPS}?labelSelector=none%3Da"), &[]).await.ends_with("\"items\":[]}\n"));

    let missing = text(&server, &format!("{MAPS}/none"), &[]).await;
    let status = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"configmaps \"none\" not found","reason":"NotFound","details":{"name":"none","kind":"configmaps"},"code":404}"#;
    assert_eq!(missing, format!("{status}\n"));
    let pretty = text(&server, &format!("{MAPS}/none?pretty=true"), &[]).await;
    in_order(&pretty, &["{\n  \"kind\": \"Status\",\n  \"apiVersion\": \"v1\",\n  \"metadata\": {},\n  \"status\"", "\n  \"code\": 404\n}"]);
    assert!(pretty.ends_with('}'), "what is indented ends without a line's end");
}

#[tokio::test]
async fn tables_metadata_and_discovery_are_in_order_too() {
    let server = Server::start().await;
    server.post(PODS, &pod("p")).await.expect(201);
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let rows = text(&server, PODS, &table).await;
    in_order(
        &rows,
        &[
            r#"{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{"resourceVersion":""#,
            r#""columnDefinitions":[{"name":"Name","type":"string","format":"name","description":""#,
        ],
    );
    in_order(&rows, &[r#""rows":[{"cells":["p","#, r#""object":{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"name":"p""#]);
    assert!(rows.ends_with("]}\n"));
    let one = text(&server, &format!("{PODS}/p?includeObject=Object"), &table).await;
    assert!(one.contains(r#""object":{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p""#), "{one}");
    let partial = [("accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")];
    let metadata = text(&server, PODS, &partial).await;
    in_order(
        &metadata,
        &[
            r#"{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1","metadata":{"#,
            r#""items":[{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"name":"p""#,
        ],
    );

    let resources = text(&server, "/apis/apps/v1", &[]).await;
    assert!(resources.starts_with(r#"{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"apps/v1","resources":[{"name":"#), "{resources}");
    let core = text(&server, "/api/v1", &[]).await;
    assert!(core.starts_with(r#"{"kind":"APIResourceList","groupVersion":"v1","resources":[{"name":"bindings""#), "{core}");
    assert!(core.contains(r#""verbs":["get","list"],"shortNames":["cs"]}"#), "component statuses are stored in no version: {core}");
    let aggregated = [("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")];
    let groups = text(&server, "/apis", &aggregated).await;
    in_order(
        &groups,
        &[
            r#"{"kind":"APIGroupDiscoveryList","apiVersion":"apidiscovery.k8s.io/v2","metadata":{},"items":[{"metadata":{"name":""#,
            r#""versions":[{"version":"v1","resources":[{"resource":""#,
        ],
    );
    in_order(&text(&server, "/version", &[]).await, &["{\n  \"major\": ", "\n  \"minor\": ", "\n  \"gitVersion\": ", "\n  \"platform\": "]);
    let watched = server.raw(Method::GET, &format!("{PODS}?watch=1&timeoutSeconds=1"), &[], "").await.1;
    assert!(watched.starts_with(br#"{"type":"ADDED","object":{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p""#));
}

/// Every form of a list that is sent in many windows says what the same list says in one piece.
#[tokio::test]
async fn a_large_list_is_whole_in_every_form() {
    let server = Server::start().await;
    for n in 0..120 {
        server.post(MAPS, &map(&format!("m{n:03}"), &format!("{n}\n\n  {n} ").repeat(400))).await.expect(201);
    }
    let json: Value = serde_json::from_str(&text(&server, MAPS, &[]).await).expect("JSON");
    let items = json["items"].as_array().expect("items").len();
    let pretty = text(&server, &format!("{MAPS}?pretty=1"), &[]).await;
    assert_eq!(serde_json::from_str::<Value>(&pretty).expect("JSON"), json);
    assert!(pretty.starts_with("{\n  \"kind\": \"ConfigMapList\",\n  \"apiVersion\": \"v1\",\n  \"metadata\": {\n    \"resourceVersion\": "));
    let decoded = machinery::yaml::decode(text(&server, MAPS, &[("accept", "application/yaml")]).await.as_bytes(), None, machinery::json::Validation::Ignore);
    assert_eq!(decoded.expect("YAML").value, json);
    let empty = text(&server, &format!("{MAPS}?labelSelector=x%3Dy"), &[("accept", "application/yaml")]).await;
    assert!(empty.starts_with("apiVersion: v1\nitems: []\nkind: ConfigMapList\nmetadata:\n"), "{empty}");
    for (form, list, entries) in [("Table", "rows", "cells"), ("PartialObjectMetadataList", "items", "metadata")] {
        for encoding in ["json", "yaml"] {
            let accept = format!("application/{encoding};as={form};v=v1;g=meta.k8s.io");
            let uri = format!("{MAPS}?includeObject=Object");
            let found = text(&server, &uri, &[("accept", &accept)]).await;
            let found = if encoding == "json" {
                serde_json::from_str::<Value>(&found).expect("JSON")
            } else {
                machinery::yaml::decode(found.as_bytes(), None, machinery::json::Validation::Ignore).expect("YAML").value
            };
            assert_eq!(found["kind"], form);
            assert_eq!(found[list].as_array().map(|all| all.iter().filter(|one| !one[entries].is_null()).count()), Some(items), "{accept}");
        }
    }
    for query in ["labelSelector=x%3Dy", "labelSelector=x%3Dy&pretty=1"] {
        let none = text(&server, &format!("{MAPS}?{query}"), &[("accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")]).await;
        let none: Value = serde_json::from_str(&none).unwrap_or_else(|error| panic!("{query}: {error}: {none}"));
        assert_eq!((&none["kind"], &none["items"]), (&"PartialObjectMetadataList".into(), &Value::Null));
    }
    // What is collected in a slice of its own is none where there is none; one that is made for its rows is empty.
    for (resource, rows) in [("rbac.authorization.k8s.io/v1/clusterroles", "null"), ("apiregistration.k8s.io/v1/apiservices", "[]")] {
        let none = text(&server, &format!("/apis/{resource}?labelSelector=x%3Dy"), &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")]).await;
        assert!(none.ends_with(&format!("\"rows\":{rows}}}\n")), "{none}");
    }
    // Compressed as it is made, in the forms that nobody keeps.
    for accept in ["application/yaml", "application/json;as=Table;v=v1;g=meta.k8s.io", "application/vnd.kubernetes.protobuf"] {
        let plain = server.raw(Method::GET, &format!("{MAPS}?includeObject=Object"), &[("accept", accept)], "").await.1;
        let packed = server.raw(Method::GET, &format!("{MAPS}?includeObject=Object"), &[("accept", accept), ("accept-encoding", "gzip")], "").await.1;
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut unpacked).expect("gzip");
        // A table tells ages, which go on, from `9s` to `10s`.
        assert!(
            unpacked.len().abs_diff(plain.len()) * 100 < plain.len() && packed.len() * 4 < plain.len(),
            "{accept}: {} {} {}",
            packed.len(),
            unpacked.len(),
            plain.len()
        );
    }
}

/// What is made of a large list before somebody takes it is a window, not the list.
#[tokio::test]
async fn a_list_that_nobody_reads_is_not_made() {
    let server = Server::start().await;
    for n in 0..120 {
        server.post(MAPS, &map(&format!("m{n:03}"), &"x".repeat(8000))).await.expect(201);
    }
    for query in ["", "?pretty=1"] {
        let mut body = server.body(&format!("{MAPS}{query}")).await;
        let first = body.frame().await.expect("a frame").expect("no error").into_data().expect("data");
        assert!(first.len() < 400_000, "{query}: {} bytes at once", first.len());
        let mut frames = 1;
        while let Some(frame) = body.frame().await {
            assert!(frame.expect("no error").into_data().expect("data").len() < 400_000);
            frames += 1;
        }
        assert!(frames > 5, "{query}: {frames} frames");
    }
}

#[tokio::test]
async fn what_is_left_is_told_on_every_page() {
    let server = Server::start().await;
    for n in 0..25 {
        server.post(MAPS, &map(&format!("m{n:02}"), "1")).await.expect(201);
    }
    for root in [MAPS, "/api/v1/configmaps"] {
        let all = server.get(root).await.expect(200)["items"].as_array().map_or(0, Vec::len);
        let (mut token, mut seen) = (String::new(), 0);
        loop {
            let page = server.get(&format!("{root}?limit=10&continue={token}")).await.expect(200);
            seen += page["items"].as_array().map_or(0, Vec::len);
            let left = page["metadata"]["remainingItemCount"].as_u64().map_or(0, |n| usize::try_from(n).expect("a count"));
            assert_eq!(seen + left, all, "{root}");
            // A change between pages changes nothing of the snapshot.
            server.patch(&format!("{MAPS}/m24"), "application/merge-patch+json", &json!({"data": {"seen": seen.to_string()}})).await.expect(200);
            match page["metadata"]["continue"].as_str() {
                Some(next) => token = next.to_owned(),
                None => break,
            }
        }
        assert_eq!(seen, all);
    }
}

/// What upstream finds by an index has an end that is known.
#[tokio::test]
async fn a_page_of_one_node_s_pods_is_the_last_if_none_of_that_node_follows() {
    let server = Server::start().await;
    for (name, node) in [("p1", "n1"), ("p2", "n2"), ("p3", "n1")] {
        let mut pod = pod(name);
        pod["spec"]["nodeName"] = node.into();
        server.post(PODS, &pod).await.expect(201);
    }
    let version = text_of(&server.get(PODS).await.expect(200)["metadata"]["resourceVersion"]).to_owned();
    for (query, name, goes_on) in [
        ("spec.nodeName%3Dn2".to_owned(), "p2", false),
        ("spec.nodeName%3Dn1".to_owned(), "p1", true),
        ("spec.nodeName!%3Dn1".to_owned(), "p2", true),
        (format!("spec.nodeName%3Dn2&resourceVersionMatch=NotOlderThan&resourceVersion={version}"), "p2", false),
        (format!("spec.nodeName%3Dn2&resourceVersion={version}"), "p2", true),
    ] {
        let page = server.get(&format!("{PODS}?limit=1&fieldSelector={query}")).await.expect(200);
        assert_eq!((names(&page), page["metadata"]["continue"].is_string()), (vec![name], goes_on), "{query}");
    }
}

#[tokio::test]
async fn a_watch_of_one_node_sees_its_pods_come_and_go() {
    let server = Server::start().await;
    let mut one = server.watch("/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Dn").await;
    let mut named = server.watch(&format!("{MAPS}?watch=1&fieldSelector=metadata.name%3Da&resourceVersion=1")).await;
    for (name, node) in [("p", "m"), ("q", "n")] {
        let mut pod = pod(name);
        pod["spec"]["nodeName"] = node.into();
        server.post(PODS, &pod).await.expect(201);
        server.post(MAPS, &map(if name == "p" { "b" } else { "a" }, "1")).await.expect(201);
    }
    let (kind, object) = one.next().await;
    assert_eq!((kind.as_str(), &object["metadata"]["name"]), ("ADDED", &json!("q")));
    let (kind, object) = named.next().await;
    assert_eq!((kind.as_str(), &object["metadata"]["name"]), ("ADDED", &json!("a")));
    server.delete(&format!("{PODS}/q"), Some(json!({"gracePeriodSeconds": 0}))).await.expect(200);
    assert_eq!(one.next().await.0, "DELETED");
}

/// An object that is deeper than JSON is read again would be null as soon as its tree is forgotten, and at the next start. As
/// deep as that it may be, on threads with stacks as the program's have.
#[test]
fn what_is_stored_can_be_read_again_however_deep_it_is() {
    let test = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(deep_objects());
    std::thread::Builder::new().stack_size(machinery::json::STACK_BYTES).spawn(test).expect("a thread").join().expect("it holds");
}

async fn deep_objects() {
    let server = Server::start().await;
    let revisions = "/apis/apps/v1/namespaces/default/controllerrevisions";
    let ty = machinery::schema::builtin().named("io.k8s.api.apps.v1.ControllerRevision").expect("a type");
    let most = machinery::json::DEPTH_MAX - 1;
    for (name, levels, code) in [("deep", most + 1, 400), ("less", 100, 201), ("deep", most, 201)] {
        let data = machinery::json::read((r#"{"a":"#.repeat(levels - 1) + "{}" + &"}".repeat(levels - 1)).as_bytes());
        let object = json!({"metadata": {"name": name, "namespace": "default"}, "revision": 1, "data": data.expect("JSON")});
        let reply = server.post_protobuf(revisions, machinery::proto::encode(ty, &object)).await.expect(code);
        if code == 400 {
            assert!(reply["message"].as_str().is_some_and(|m| m.contains("exceeded max depth")), "{}", reply["message"]);
        }
    }
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    for patch in ["application/merge-patch+json", "application/strategic-merge-patch+json"] {
        server.patch(&format!("{revisions}/deep"), patch, &label).await.expect(200);
    }
    let deep = "\"a\":{".repeat(most - 1);
    for uri in [format!("{revisions}/deep"), revisions.to_owned()] {
        assert!(text(&server, &uri, &[]).await.contains(&deep), "{uri}");
    }
    server.delete(&format!("{revisions}/deep"), None).await.expect(200);
}

#[tokio::test]
async fn what_is_not_served_is_refused_in_the_original_s_words() {
    let server = Server::start().await;
    server.post(MAPS, &map("a", "v")).await.expect(201);
    server.post(PODS, &pod("p")).await.expect(201);
    let json: &[(&str, &str)] = &[("content-type", "application/json")];
    let answer = async |method: Method, uri: &str, headers: &[(&str, &str)], body: &'static str| {
        let (code, text) = server.raw(method, uri, headers, body).await;
        (code, String::from_utf8(text.to_vec()).expect("UTF-8"))
    };
    let status = |reason: &str, message: &str, code: u16| {
        let text = format!(
            r#"{{"kind":"Status","apiVersion":"v1","metadata":{{}},"status":"Failure","message":"{message}","reason":"{reason}","details":{{}},"code":{code}}}"#
        );
        (code, text + "\n")
    };
    let no_method = status("MethodNotAllowed", "the server does not allow this method on the requested resource", 405);
    for (method, uri) in [
        (Method::DELETE, "/api/v1/pods".to_owned()),
        (Method::POST, "/api/v1/pods".to_owned()),
        (Method::PUT, MAPS.to_owned()),
        (Method::POST, format!("{MAPS}/a")),
        (Method::DELETE, "/api/v1/namespaces".to_owned()),
    ] {
        assert_eq!(answer(method.clone(), &uri, json, "{}").await, no_method, "{method} {uri}");
    }
    server.get(&format!("{PODS}/p")).await.expect(200);
    assert_eq!(answer(Method::HEAD, &format!("{MAPS}/a"), &[], "").await.0, 405);
    let no_path = status("NotFound", "the server could not find the requested resource", 404);
    for uri in ["/api/v1/nothing".to_owned(), format!("{MAPS}/a/status"), format!("{PODS}/p/nothing")] {
        assert_eq!(answer(Method::GET, &uri, &[], "").await, no_path, "{uri}");
    }
    for (uri, code, told) in [
        ("?continue=x", 400, "invalid continue token: continue key is not valid: illegal base64 data at input byte 0"),
        ("?resourceVersion=x", 400, r#"invalid resource version: resourceVersion: Invalid value: \"x\": strconv.ParseUint"#),
        ("?watch=1&resourceVersion=x", 500, r#"resourceVersion: Invalid value: \"x\": strconv.ParseUint"#),
        ("?timeoutSeconds=x", 400, r#"strconv.ParseInt: parsing \"x\": invalid syntax"#),
        ("?fieldSelector=foo%3Dx", 400, r#"\"foo\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""#),
        ("?fieldSelector=%3D%3D", 200, "ConfigMapList"),
        ("?pretty=x", 200, r#"{"kind":"ConfigMapList","apiVersion""#),
    ] {
        let (found, text) = answer(Method::GET, &format!("{MAPS}{uri}"), &[], "").await;
        assert!(found == code && text.contains(told), "{uri}: {found} {text}");
    }
    assert_eq!(answer(Method::GET, &format!("{PODS}?fieldSelector=spec.host%3Dnone"), &[], "").await.0, 200);
    for (body, told) in [
        (
            r#"{"kind":"Secret","apiVersion":"v1"}"#,
            r#"Secret in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): unknown conversion"#,
        ),
        (
            r#"{"kind":"ConfigMap","apiVersion":"v2"}"#,
            r#"ConfigMap in version \"v2\" cannot be handled as a ConfigMap: no kind \"ConfigMap\" is registered for version \"v2\" in scheme"#,
        ),
    ] {
        let (code, text) = answer(Method::POST, MAPS, json, body).await;
        assert!(code == 400 && text.contains(told), "{text}");
    }
}

/// As a running original answered.
#[tokio::test]
async fn a_watch_from_a_revision_to_come_tells_what_comes_after_it() {
    let server = Server::start().await;
    let now: u64 = text_of(&server.get(MAPS).await.expect(200)["metadata"]["resourceVersion"]).parse().expect("a revision");
    let mut watch = server.watch(&format!("{MAPS}?watch=1&allowWatchBookmarks=true&resourceVersion={}", now + 2)).await;
    let mut scoped = server.watch(&format!("{MAPS}?watch=1&fieldSelector=metadata.name=m3&resourceVersion={}", now + 2)).await;
    for name in ["m1", "m2", "m3"] {
        server.post(MAPS, &map(name, "v")).await.expect(201);
    }
    for watch in [&mut watch, &mut scoped] {
        let (kind, object) = watch.next().await;
        assert_eq!((kind.as_str(), &object["metadata"]["name"]), ("ADDED", &json!("m3")));
    }
    let initial = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let (kind, status) = server.watch(&format!("{MAPS}?{initial}&resourceVersion=99999999")).await.next().await;
    assert_eq!((kind.as_str(), &status["code"], &status["reason"]), ("ERROR", &json!(504), &json!("Timeout")));
    assert_eq!(status["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    let (kind, _) = server.watch(&format!("{MAPS}?{initial}&resourceVersion={now}")).await.next().await;
    assert_eq!(kind, "ADDED", "a state that is there is sent");
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_watch_is_not_to_be_had_in_yaml() {
    let server = Server::start().await;
    for accept in ["application/yaml", "application/yaml, application/json", "application/yaml;as=Table;v=v1;g=meta.k8s.io"] {
        let (code, body) = server.raw(Method::GET, &format!("{MAPS}?watch=1&timeoutSeconds=1"), &[("accept", accept)], "").await;
        let words = String::from_utf8(body.to_vec()).expect("UTF-8").replace("\n  ", " ");
        assert_eq!(code, 406, "{accept}: {words}");
        let types = "only the following media types are accepted: application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
        assert!(words.contains(types), "{accept}: {words}");
    }
    let (code, _) = server.raw(Method::GET, MAPS, &[("accept", "application/yaml")], "").await;
    assert_eq!(code, 200, "a list is");
}

/// client-go's metadata informers (the original's garbage collector, operators) ask so.
#[tokio::test]
async fn a_watch_is_of_the_type_that_it_says() {
    let server = Server::start().await;
    server.post(MAPS, &map("a", "x")).await.expect(201);
    let watch = format!("{MAPS}?watch=1&timeoutSeconds=1");
    for form in ["", ";as=PartialObjectMetadata;g=meta.k8s.io;v=v1"] {
        let accept = format!("application/vnd.kubernetes.protobuf{form},application/json{form},application/json");
        let (media, body) = server.typed(&watch, &accept).await;
        assert_eq!(media, "application/vnd.kubernetes.protobuf;stream=watch", "{form}");
        let length = u32::from_be_bytes(body[..4].try_into().expect("four bytes")) as usize;
        assert_eq!(&body[4..11], b"\n\x05ADDED", "{form}: an event of {length} bytes");
        assert!(body[4..4 + length].windows(5).any(|w| w == b"k8s\0\n"), "{form}: with an object in its envelope");
        let (media, body) = server.typed(&watch, &format!("application/json{form}")).await;
        assert_eq!(media, "application/json", "{form}");
        assert!(body.starts_with(br#"{"type":"ADDED","#), "{form}");
    }
    let table = "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1,application/json;as=Table;g=meta.k8s.io;v=v1";
    let (media, body) = server.typed(&watch, table).await;
    assert_eq!(media, "application/json");
    assert!(body.starts_with(br#"{"type":"ADDED","object":{"kind":"Table""#));
}

#[tokio::test]
async fn a_refusal_carries_the_warnings_that_came_before_it() {
    let server = Server::start().await;
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "e"}, "subsets": [{}]});
    let reply = server.post("/api/v1/namespaces/default/endpoints", &endpoints).await;
    assert_eq!(reply.warnings, ["299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\""]);
    reply.expect(422);
    assert!(server.post(MAPS, &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "A_"}})).await.warnings.is_empty());
}

/// As a running original worded each.
#[tokio::test]
async fn drivers_and_runtime_classes_are_refused_in_the_original_s_words() {
    let server = Server::start().await;
    let said = |reply: Value| text_of(&reply["message"]).to_owned();
    let mut volume = pod("v");
    volume["spec"]["volumes"] = json!([{"name": "v", "csi": {"driver": "A_b", "nodePublishSecretRef": {"name": ""}}}]);
    let message = said(server.post(PODS, &volume).await.expect(422));
    assert!(message.contains(r#"spec.volumes[0].csi.driver: Invalid value: "A_b": a lowercase RFC 1123 subdomain must"#), "{message}");
    assert!(message.contains("spec.volumes[0].csi.nodePublishSecretRef.name: Required value"), "{message}");
    volume["spec"]["volumes"] = json!([{"name": "v", "csi": {"driver": "a".repeat(64)}}]);
    let message = said(server.post(PODS, &volume).await.expect(422));
    assert!(message.ends_with("spec.volumes[0].csi.driver: Too long: may not be more than 63 bytes"), "{message}");
    let spec =
        json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "csi": {"driver": "d", "volumeHandle": "", "controllerPublishSecretRef": {}}});
    let message = said(
        server
            .post("/api/v1/persistentvolumes", &json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "p"}, "spec": spec}))
            .await
            .expect(422),
    );
    let missing = "[spec.csi.volumeHandle: Required value, spec.csi.controllerPublishSecretRef.name: Required value, spec.csi.controllerPublishSecretRef.namespace: Required value]";
    assert!(message.ends_with(missing), "{message}");
    let tolerations = json!([{"key": "a", "operator": "Exists", "value": "x", "effect": "Y"}, {"key": "a"}, {"key": "a"}]);
    let class = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "r"}, "handler": "h",
        "overhead": {"podFixed": {"cpu": "-1"}}, "scheduling": {"tolerations": tolerations}});
    let message = said(server.post("/apis/node.k8s.io/v1/runtimeclasses", &class).await.expect(422));
    for part in [
        r#"overhead.limits[cpu]: Invalid value: "-1": must be greater than or equal to 0"#,
        r#"scheduling.tolerations[0].operator: Invalid value: "x": value must be empty when `operator` is 'Exists'"#,
        r#"scheduling.tolerations[0].effect: Unsupported value: "Y": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute""#,
        "scheduling.tolerations[2]: Duplicate value: ",
    ] {
        assert!(message.contains(part), "{part} in {message}");
    }
}

#[tokio::test]
async fn a_page_is_of_its_snapshot_until_too_much_has_changed_and_a_watch_of_one_object_outlives_that() {
    let server = Server::start().await;
    for name in ["a", "b", "z"] {
        server.post(MAPS, &map(name, "1")).await.expect(201);
    }
    let large = "x".repeat(1_000_000);
    let change = async |times: usize| {
        for n in 0..times {
            server.put(&format!("{MAPS}/z"), &map("z", &format!("{times} {n} {large}"))).await.expect(200);
        }
    };
    let begin = async || {
        let first = server.get(&format!("{MAPS}?limit=1")).await.expect(200);
        let next = format!("{MAPS}?limit=1&continue={}", text_of(&first["metadata"]["continue"]));
        (text_of(&first["metadata"]["resourceVersion"]).to_owned(), next)
    };
    let (version, next) = begin().await;
    // Nobody reads them while all else changes: the one has a queue of what concerns it, the other looks into the history.
    let mut of_one = server.watch(&format!("{MAPS}?watch=1&fieldSelector=metadata.name%3Dquiet&resourceVersion={version}")).await;
    let mut of_all = server.watch(&format!("{MAPS}?watch=1&resourceVersion={version}")).await;
    // More than the 32 MiB after which pages once ended.
    change(40).await;
    let page = server.get(&next).await.expect(200);
    assert_eq!((names(&page), text_of(&page["metadata"]["resourceVersion"])), (vec!["b"], version.as_str()));
    // More than history holds, of a list whose second page nobody has asked for in time.
    let (version, next) = begin().await;
    change(80).await;
    let expired = server.get(&next).await.expect(410);
    assert_eq!(expired["reason"], "Expired");
    assert!(text_of(&expired["message"]).starts_with("The provided continue parameter is too old to display a consistent list result."), "{expired}");
    let go_on = text_of(&expired["metadata"]["continue"]);
    let rest = server.get(&format!("{MAPS}?limit=1&continue={go_on}")).await.expect(200);
    assert_eq!(names(&rest), ["b"]);
    assert_ne!(text_of(&rest["metadata"]["resourceVersion"]), version, "what follows is of another state");

    server.post(MAPS, &map("quiet", "1")).await.expect(201);
    let (kind, object) = of_one.next().await;
    assert_eq!((kind.as_str(), &object["metadata"]["name"]), ("ADDED", &json!("quiet")));
    let (kind, status) = of_all.next().await;
    assert_eq!((kind.as_str(), &status["code"]), ("ERROR", &json!(410)));
}

/// As a running original worded each.
#[tokio::test]
async fn changes_of_a_service_s_addresses_are_refused_in_the_original_s_words() {
    const SERVICES: &str = "/api/v1/namespaces/default/services";
    let server = Server::start().await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    server.post(SERVICES, &service).await.expect(201);
    for (spec, words) in [
        (json!({"clusterIP": "x"}), r#"spec.clusterIPs[0]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"#),
        (json!({"clusterIP": "10.96.77.77"}), r#"spec.clusterIPs[0]: Invalid value: ["10.96.77.77"]: may not change once set"#),
        (json!({"type": "X"}), r#"spec.type: Unsupported value: "X": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort""#),
    ] {
        let refused = server.patch(&format!("{SERVICES}/s"), "application/merge-patch+json", &json!({"spec": spec})).await.expect(422);
        assert_eq!(refused["message"], format!("Service \"s\" is invalid: {words}"));
    }
}
