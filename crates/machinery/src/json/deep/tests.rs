use super::*;
use crate::{
    Value, apply, defaulting,
    json::{self, STACK_BYTES, Validation},
    patch, proto,
    schema::{self, TypeRef},
    yaml,
};
use serde_json::json;
use std::time::{Duration, Instant};

/// Runs on a thread as those of the program are.
fn on_a_stack(test: fn()) {
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(test).expect("a thread");
    thread.join().expect("it holds");
}

fn revision_type() -> TypeRef<'static> {
    schema::builtin().named("io.k8s.api.apps.v1.ControllerRevision").expect("a type")
}

/// A ControllerRevision of a depth.
fn revision(levels: usize, open: &str, close: &str) -> String {
    let (open, close) = (open.repeat(levels - 2), close.repeat(levels - 2));
    format!(r#"{{"apiVersion":"apps/v1","kind":"ControllerRevision","metadata":{{"name":"a"}},"revision":1,"data":{{"d":{open}1{close}}}}}"#)
}

fn both(levels: usize) -> [String; 2] {
    [revision(levels, "[", "]"), revision(levels, r#"{"a":"#, "}")]
}

#[test]
fn as_many_levels_as_the_original_s_decoders_take() {
    on_a_stack(|| {
        for body in both(DEPTH_MAX) {
            let body = body.as_bytes();
            let decoded = json::decode(body, Some(revision_type()), Validation::Strict).expect("decoded").value;
            assert_eq!(json::decode(body, None, Validation::Strict).expect("decoded").value, decoded);
            assert_eq!(json::read(body).expect("read"), decoded);
            assert_eq!(json::bounds::depth(&decoded), DEPTH_MAX);
            assert!(json::is_readable(&decoded));
            assert_eq!(yaml::decode(body, Some(revision_type()), Validation::Strict).expect("decoded").value, decoded);
            assert_eq!(json::parse_applied(body).expect("an object").value, decoded);
            assert_eq!(json::peek(body).expect("an object"), ("apps/v1".into(), "ControllerRevision".into()));
        }
        for (body, bracket) in both(DEPTH_MAX + 1).iter().zip(['[', '{']) {
            let body = body.as_bytes();
            let error = json::decode(body, Some(revision_type()), Validation::Strict).unwrap_err();
            assert_eq!(error.code, 400);
            assert_eq!(
                error.message,
                format!(
                    "the object provided is unrecognized (must be of type ControllerRevision): couldn't get version/kind; json parse error: \
                     invalid character '{bracket}' exceeded max depth ({{\"apiVersion\":\"apps/v1\",\"kind\" ...)"
                )
            );
            let error = yaml::decode(body, Some(revision_type()), Validation::Strict).unwrap_err();
            assert!(error.message.contains("(must be of type ControllerRevision): yaml: exceeded max depth of 10000 ("), "{}", error.message);
            let error = json::parse_applied(body).unwrap_err();
            assert_eq!(error.message, "error decoding patch: error converting YAML to JSON: yaml: exceeded max depth of 10000");
            assert_eq!(patch::parse(patch::Kind::Merge, body, Validation::Strict).unwrap_err().message, "invalid JSON patch");
            assert!(json::read(body).is_ok(), "a list around an object is read");
        }
        for body in both(DEPTH_MAX + json::bounds::AROUND_MAX + 1) {
            assert!(json::read(body.as_bytes()).is_err(), "what nobody answers is not");
        }
        let block: String = (0..300).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
        assert!(yaml::decode(block.as_bytes(), None, Validation::Strict).is_ok(), "YAML's own style");
    });
}

#[test]
fn the_levels_of_what_is_read_past_count_as_well() {
    on_a_stack(|| {
        let map = schema::builtin().named("io.k8s.api.core.v1.ConfigMap").expect("a type");
        let body = |levels: usize| format!(r#"{{"metadata":{{"name":"deep"}},"zz":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
        for validation in [Validation::Strict, Validation::Warn, Validation::Ignore] {
            for levels in [DEPTH_MAX, 1_400_000] {
                let error = json::decode(body(levels).as_bytes(), Some(map), validation).unwrap_err();
                let why = r#"couldn't get version/kind; json parse error: invalid character '[' exceeded max depth ({"metadata":{"name":"deep"},"z ...)"#;
                assert_eq!((error.code, error.message), (400, format!("the object provided is unrecognized (must be of type ConfigMap): {why}")));
            }
        }
        let read = json::decode(body(DEPTH_MAX - 1).as_bytes(), Some(map), Validation::Warn).expect("as deep as it may be");
        assert_eq!(read.warnings, [r#"unknown field "zz""#]);
        // An amount that is a bare number is looked up in the text once more.
        let quota = schema::builtin().named("io.k8s.api.core.v1.ResourceQuota").expect("a type");
        let body =
            |levels: usize| format!(r#"{{"spec":{{"hard":{{"a":1e3}}}},"zz":{}{},"status":{{"hard":{{"a":1e3}}}}}}"#, "[".repeat(levels), "]".repeat(levels));
        for levels in [DEPTH_MAX, 1_400_000] {
            let error = json::decode(body(levels).as_bytes(), Some(quota), Validation::Ignore).unwrap_err();
            assert!(error.message.contains("exceeded max depth"), "{}", error.message);
        }
        let read = json::decode(body(DEPTH_MAX - 1).as_bytes(), Some(quota), Validation::Ignore).expect("as deep as it may be").value;
        assert_eq!([&read["spec"]["hard"]["a"], &read["status"]["hard"]["a"]], ["1e3", "1e3"]);
    });
}

#[test]
fn every_walk_holds() {
    on_a_stack(|| {
        let ty = revision_type();
        for body in both(DEPTH_MAX) {
            let decoded = json::decode(body.as_bytes(), Some(ty), Validation::Strict).expect("decoded").value;
            let copy = decoded.clone();
            assert!(copy == decoded);
            let written = json::encode_as(Some(ty), &decoded);
            assert!(json::read(&written).expect("read") == decoded);
            assert_eq!(decoded.to_string().len(), written.len());
            let message = proto::encode(ty, &decoded);
            assert!(proto::decode(&message).expect("decoded").1 == decoded);
            assert_eq!(proto::stored_len(ty, &written), Some(proto::encode_raw(ty, &decoded).len()));
            assert!(json::normalize(copy, ty, Validation::Strict).expect("normal").value == decoded);
            let mut filled = decoded.clone();
            defaulting::apply(ty, &mut filled);
            for (kind, text) in [
                (patch::Kind::Merge, r#"{"metadata":{"labels":{"a":"b"}}}"#),
                (patch::Kind::Strategic, r#"{"metadata":{"labels":{"a":"b"}}}"#),
                (
                    patch::Kind::Json,
                    r#"[{"op":"copy","from":"/data","path":"/data/e"},{"op":"remove","path":"/data/e"},{"op":"test","path":"/revision","value":1}]"#,
                ),
                (patch::Kind::Merge, &body),
            ] {
                let patched = patch::parse(kind, text.as_bytes(), Validation::Strict).and_then(|patch| patch.apply(ty, &decoded, &mut Vec::new()));
                assert!(patched.expect("patched").value["data"] == decoded["data"], "{kind:?}");
            }
            // What is free in form has no fields that a strategic merge could look for.
            let strategic =
                patch::parse(patch::Kind::Strategic, body.as_bytes(), Validation::Strict).and_then(|patch| patch.apply(ty, &decoded, &mut Vec::new()));
            assert_eq!(strategic.map_err(|error| error.code).map(drop), Err(500));
            let fields = apply::FieldSet::default();
            let applied = apply::apply(ty, None, &decoded, "m", "apps/v1", "", false, "2020-01-01T00:00:00Z", &fields).expect("applied");
            assert!(applied["data"] == decoded["data"]);
            let again = apply::apply(ty, Some(&applied), &decoded, "o", "apps/v1", "", false, "2020-01-01T00:00:00Z", &fields).expect("applied");
            assert_eq!(again["metadata"]["managedFields"].as_array().map(Vec::len), Some(2));
            let mut next = decoded.clone();
            next["data"] = json!({"e": decoded["data"]["d"][0]});
            apply::track_update(ty, Some(&applied), &mut next, "n", "apps/v1", "", "2020-01-01T00:00:00Z", &fields);
            assert_eq!(next["metadata"]["managedFields"].as_array().map(Vec::len), Some(2));
        }
    });
}

#[test]
fn an_object_within_an_object_and_a_schema_within_a_schema_hold() {
    on_a_stack(|| {
        let ty = schema::builtin().named("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition").expect("a type");
        let levels = (DEPTH_MAX - 10) / 2;
        let schema = format!("{}{}{}", r#"{"type":"object","properties":{"a":"#.repeat(levels), r#"{"type":"string"}"#, "}}".repeat(levels));
        let body = format!(
            r#"{{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","spec":{{"versions":[{{"schema":{{"openAPIV3Schema":{schema}}}}}]}}}}"#
        );
        let decoded = json::decode(body.as_bytes(), Some(ty), Validation::Strict).expect("decoded").value;
        assert!(json::decode(&json::encode_as(Some(ty), &decoded), Some(ty), Validation::Strict).expect("again").value == decoded);
        let message = proto::encode(ty, &decoded);
        from_what_is_stored(ty, &decoded);
        let mut again = proto::decode(&message).expect("decoded").1;
        defaulting::apply(ty, &mut again);
        // Owned level by level, and as deep.
        let owned = format!("{}{}{}", r#"{"f:a":"#.repeat(DEPTH_MAX - 10), "{}", "}".repeat(DEPTH_MAX - 10));
        let owner = format!(r#"[{{"manager":"m","operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{owned}}}]"#);
        let map = format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"a","managedFields":{owner}}},"data":{{"k":"v"}}}}"#);
        let ty = schema::builtin().named("io.k8s.api.core.v1.ConfigMap").expect("a type");
        let live = json::decode(map.as_bytes(), Some(ty), Validation::Strict).expect("decoded").value;
        let mut next = live.clone();
        next["data"]["k"] = json!("w");
        apply::track_update(ty, Some(&live), &mut next, "n", "v1", "", "2020-01-01T00:00:00Z", &apply::FieldSet::default());
        assert!(json::encode_as(Some(ty), &next).len() > DEPTH_MAX);
        assert!(proto::decode(&proto::encode(ty, &next)).is_ok());
        from_what_is_stored(ty, &next);
    });
}

/// Without a tree it is the same message.
fn from_what_is_stored(ty: schema::TypeRef<'_>, value: &Value) {
    let mut message = Vec::new();
    proto::encode_stored(ty, &json::encode_as(Some(ty), value), &mut message).expect("as it is stored");
    assert!(message == proto::encode_raw(ty, value));
}

#[test]
fn what_is_hostile_costs_little() {
    on_a_stack(|| {
        let start = Instant::now();
        for open in ["[", r#"{"a":"#, r#"{"data":{"a":"#, r#"[{"a":["#] {
            let body = open.repeat((3 << 20) / open.len());
            let body = body.as_bytes();
            assert!(json::decode(body, Some(revision_type()), Validation::Strict).unwrap_err().message.contains(" exceeded max depth ("));
            assert!(json::decode(body, None, Validation::Warn).is_err());
            assert!(json::peek(body).is_err());
            assert!(json::read(body).is_err());
        }
        // What is wrong before the level too many is told.
        let early = format!(r#"{{"data":[1 2],"x":{}"#, "[".repeat(20_000));
        let message = json::decode(early.as_bytes(), Some(revision_type()), Validation::Strict).unwrap_err().message;
        assert!(message.contains("invalid character '2' after array element"), "{message}");
        let late = format!(r#"{{"data":{{"a":{}1 2{}}}}}"#, "[".repeat(500), "]".repeat(500));
        let message = json::decode(late.as_bytes(), Some(revision_type()), Validation::Strict).unwrap_err().message;
        assert!(message.contains("invalid character '2' after array element"), "{message}");
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    });
}

#[test]
fn what_is_deep_is_read_as_what_is_not() {
    on_a_stack(|| {
        let value = json!({"a": [1, -2, 2.5, u64::MAX, "x\u{e9}\n\"\\]}", null, true, false, {}, [], {"b": {"c": []}}], "": {"k\"": [[1], [2, 3]]}});
        let deep = |value: &str| format!("{}{value}{}", "[".repeat(200), "]".repeat(200));
        for text in [value.to_string(), serde_json::to_string_pretty(&value).expect("JSON")] {
            let read: Value = json::read(deep(&text).as_bytes()).expect("read");
            let inner = (0..200).fold(&read, |value, _| &value[0]);
            assert_eq!(*inner, value);
        }
        // Keys that are there twice, halves of characters, wrong types: as above the parser's levels.
        let map = schema::builtin().named("io.k8s.api.core.v1.ConfigMap").expect("a type");
        let body = |data: &str| format!(r#"{{"metadata":{{"name":"a","name":"b"}},"zz":{},"data":{data}}}"#, deep("1"));
        let warned = json::decode(body(r#"{"k":"\ud800"}"#).as_bytes(), Some(map), Validation::Warn).expect("decoded");
        assert_eq!(warned.warnings, [r#"duplicate field "metadata.name""#, r#"unknown field "zz""#]);
        assert_eq!(warned.value["data"]["k"], "\u{fffd}");
        let error = json::decode(body(r#"{"k":1}"#).as_bytes(), Some(map), Validation::Warn).unwrap_err();
        assert!(error.message.ends_with("json: cannot unmarshal number into Go struct field ConfigMap.data of type string"), "{}", error.message);
        let revision = format!(r#"{{"metadata":{{"name":"a"}},"data":{}}}"#, deep(r#"{"k":1,"k":2}"#));
        let warned = json::decode(revision.as_bytes(), Some(revision_type()), Validation::Warn).expect("decoded");
        assert!(warned.warnings.is_empty(), "nobody looks into what is kept as it came: {:?}", warned.warnings);
    });
}

#[test]
fn what_is_down_a_path_is_found_by_its_text() {
    let json = br#" {"a" : {"x": [1, {"s": "]}\"", "t": 2}], "l": [ {"s": {"l": [{"s": 0}]}, "n": 1} , {"n": []}, {}, "s" ] }, "l": [{"s": 1}], "e": []} "#;
    let texts = |path: &[&str]| -> Vec<(usize, String)> {
        let spans = spans(json, path).into_iter();
        spans.map(|(depth, range)| (depth, String::from_utf8_lossy(&json[range]).into_owned())).filter(|(depth, _)| *depth > 1).collect()
    };
    let found = texts(&["a", "l", "*", "s"]);
    let wanted = [(4, r#"{"l": [{"s": 0}]}"#), (3, r#"{"s": {"l": [{"s": 0}]}, "n": 1}"#), (3, r#"{"n": []}"#), (3, "{}"), (3, r#""s""#)];
    assert_eq!(found[..5], wanted.map(|(depth, text)| (depth, text.to_owned())));
    assert_eq!((found.len(), found[5].0), (6, 2), "and the list itself");
    assert_eq!(texts(&["e", "*"]), [], "nothing stands in an empty list");
    let whole = spans(json, &[]);
    assert_eq!(whole, [(0, 1..json.len() - 1)]);
    // What is broken off ends where it ends.
    for end in 0..json.len() {
        assert!(spans(&json[..end], &["a", "l", "*", "s"]).iter().all(|(_, range)| range.end <= end));
    }
}
