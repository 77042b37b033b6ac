use super::*;
use crate::schema::{self, Type, sample::sample};
use serde_json::json;

#[test]
fn samples_of_every_kind_survive_the_wire() {
    let mut kinds = 0;
    for (gvk, ty) in schema::builtin().kinds().filter(|(_, ty)| ty.object().is_some_and(|o| !o.proto.is_empty())) {
        let value = sample(ty, 1, 12);
        let (found, decoded) = decode(&encode(ty, &value)).unwrap_or_else(|e| panic!("{gvk:?}: {}", e.message));
        assert_eq!(&found, gvk);
        let (expected, decoded) = (without_inner_kinds(ty, value, true), without_inner_kinds(ty, decoded, true));
        assert_eq!(decoded, expected, "{gvk:?}");
        kinds += 1;
    }
    assert!(kinds > 200, "{kinds}");
}

/// The wire has no apiVersion and kind below the envelope.
fn without_inner_kinds(ty: TypeRef<'_>, value: Value, top: bool) -> Value {
    match (ty.get(), value) {
        (Type::Object(object), Value::Object(map)) => Value::Object(
            map.into_iter()
                .filter(|(name, _)| top || object.field(name).is_none_or(|f| f.tag > 0 || (name != "apiVersion" && name != "kind")))
                .map(|(name, value)| {
                    let value = match ty.child(&name) {
                        Some(child) => without_inner_kinds(child, value, false),
                        None => value,
                    };
                    (name, value)
                })
                .collect(),
        ),
        (Type::List { elem, .. }, Value::Array(items)) => items.into_iter().map(|i| without_inner_kinds(ty.to(*elem), i, false)).collect(),
        (_, value) => value,
    }
}

#[test]
fn a_config_map_has_the_bytes_of_the_original() {
    let ty = schema::builtin().named("io.k8s.api.core.v1.ConfigMap").unwrap();
    let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}});
    let raw = b"\x0a\x03\x0a\x01a\x12\x06\x0a\x01k\x12\x01v";
    let mut sorted = encode_raw(ty, &value);
    // Fields come in the order of their names: data before metadata.
    sorted.rotate_left(8);
    assert_eq!(sorted, raw);
    let whole = encode(ty, &value);
    assert!(whole.starts_with(b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x0d"));
    assert_eq!(decode(&whole).unwrap().1, value);
}

#[test]
fn a_status_has_the_bytes_of_the_original() {
    let ty = schema::builtin().kind(&Gvk::parse("v1", "Status")).unwrap();
    let value = Status::not_found("apps", "deployments", "d").to_value();
    let raw = b"\x0a\x06\x0a\0\x12\0\x1a\0\x12\x07Failure\x1a\x1edeployments.apps \"d\" not found\x22\x08NotFound\
        \x2a\x1a\x0a\x01d\x12\x04apps\x1a\x0bdeployments\x28\0\x32\0\x30\x94\x03";
    assert_eq!(encode_raw(ty, &value).escape_ascii().to_string(), raw.escape_ascii().to_string());
}

#[test]
fn what_is_malformed_is_told_in_go_s_words() {
    let ty = schema::builtin().named("io.k8s.api.core.v1.ConfigMap").unwrap();
    for (bytes, why) in [
        (&b"\x10\x01"[..], "proto: wrong wireType = 0 for field Data"),
        (b"\x08\x01", "proto: wrong wireType = 0 for field ObjectMeta"),
        (b"\x0b", "proto: wrong wireType = 3 for field ObjectMeta"),
        (b"\x0a\x02\x08\x01", "proto: wrong wireType = 0 for field Name"),
        (b"\x00\x00", "proto: ConfigMap: illegal tag 0 (wire type 0)"),
        (b"\x0c", "proto: ConfigMap: wiretype end group for non-group"),
        (b"\x7e", "proto: illegal wireType 6"),
        (b"{}", "unexpected EOF"),
        (b"\x12\x05\x0a", "unexpected EOF"),
    ] {
        assert_eq!(decode_raw(ty, bytes).unwrap_err().message, why);
    }
    let whole = decode_raw(ty, b"\x7b\x08\x01\x7b\x7c\x7c\x12\x07\x0a\x01k\x12\x02\xe4v").unwrap();
    assert_eq!(whole, json!({"data": {"k": "\u{fffd}v"}}), "a group is stepped over, and what is no UTF-8 is replaced");
}

#[test]
fn zeros_that_go_writes_are_dropped_and_those_behind_pointers_kept() {
    let ty = schema::builtin().named("io.k8s.api.apps.v1.DeploymentSpec").unwrap();
    // replicas (1) = 0, minReadySeconds (5) = 0, paused (7) = false, an unknown tag 100.
    let value = decode_raw(ty, b"\x08\x00\x28\x00\x38\x00\xa0\x06\x01").unwrap();
    assert_eq!(value, json!({"replicas": 0}));
}

#[test]
fn quantities_are_checked_and_put_into_canonical_form() {
    let ty = schema::builtin().named("io.k8s.api.core.v1.ResourceQuotaSpec").unwrap();
    let hard = |amount: &str| {
        let mut raw = Vec::new();
        message_field(&mut raw, 1, |out| {
            string_field(out, 1, b"cpu");
            message_field(out, 2, |out| string_field(out, 1, amount.as_bytes()));
        });
        decode_raw(ty, &raw)
    };
    for (sent, kept) in [("1.5", "1500m"), ("1000m", "1"), ("1024Ki", "1Mi"), ("0.5Gi", "512Mi"), ("1e3", "1e3"), ("2", "2")] {
        assert_eq!(hard(sent).unwrap(), json!({"hard": {"cpu": kept}}), "{sent}");
    }
    for refused in ["lots", "", " 1", "x"] {
        assert!(hard(refused).unwrap_err().message.starts_with("quantities must match the regular expression"), "{refused:?}");
    }
    // hard (1) = {cpu: a quantity without a text}, and one of another wire type.
    assert_eq!(decode_raw(ty, b"\x0a\x07\x0a\x03cpu\x12\x00").unwrap(), json!({"hard": {"cpu": "0"}}));
    let mistyped = decode_raw(ty, b"\x0a\x09\x0a\x03cpu\x12\x02\x08\x01").unwrap_err().message;
    assert_eq!(mistyped, "proto: wrong wireType = 0 for field String_");
}

#[test]
fn a_message_in_parts_is_one() {
    let ty = schema::builtin().named("io.k8s.api.core.v1.ConfigMap").unwrap();
    // metadata (1): the name (1), then the namespace (3), then another name, then none.
    let parts: [&[u8]; 4] = [b"\x0a\x03\x0a\x01x", b"\x0a\x04\x1a\x02wi", b"\x0a\x03\x0a\x01y", b"\x0a\x02\x0a\x00"];
    for (sent, metadata) in [(2, json!({"name": "x", "namespace": "wi"})), (3, json!({"name": "y", "namespace": "wi"})), (4, json!({"namespace": "wi"}))] {
        assert_eq!(decode_raw(ty, &parts[..sent].concat()).unwrap()["metadata"], metadata);
    }
}

#[test]
fn a_set_of_fields_that_is_no_json_is_read_and_is_none() {
    let ty = schema::builtin().named("io.k8s.apimachinery.pkg.apis.meta.v1.ManagedFieldsEntry").unwrap();
    // fieldsV1 (7), whose raw bytes are its field 1.
    assert_eq!(decode_raw(ty, b"\x3a\x0a\x0a\x08not json").unwrap(), json!({"fieldsV1": "not json"}));
    assert_eq!(decode_raw(ty, b"\x3a\x0a\x0a\x08{\"f:a\":{").unwrap(), json!({"fieldsV1": "{\"f:a\":{"}));
    assert_eq!(decode_raw(ty, b"\x3a\x0c\x0a\x0a{\"f:a\":{}}").unwrap(), json!({"fieldsV1": {"f:a": {}}}));
}

#[test]
fn packed_and_unpacked_numbers_are_read() {
    let ty = schema::builtin().named("io.k8s.api.core.v1.PodSecurityContext").unwrap();
    let tag = ty.field("supplementalGroups").map(|f| f.tag).unwrap() as u8;
    let packed = decode_raw(ty, &[tag << 3 | 2, 2, 1, 2]).unwrap();
    let plain = decode_raw(ty, &[tag << 3, 1, tag << 3, 2]).unwrap();
    assert_eq!(packed, json!({"supplementalGroups": [1, 2]}));
    assert_eq!(packed, plain);
}

#[test]
fn lists_and_events_are_put_together_from_encoded_items() {
    let ty = schema::builtin().named("io.k8s.api.core.v1.ConfigMap").unwrap();
    let item = json!({"metadata": {"name": "a"}});
    let raw = encode_raw(ty, &item);
    let gvk = Gvk { group: String::new(), version: "v1".into(), kind: "ConfigMapList".into() };
    let body = list(&gvk, &json!({"resourceVersion": "7"}), [raw.as_slice(), raw.as_slice()].into_iter());
    let (_, value) = decode(&body).unwrap();
    assert_eq!(value["metadata"]["resourceVersion"], "7");
    assert_eq!(value["items"], json!([item, item]));
    let event = watch_event("ADDED", &encode(ty, &item));
    let (kind, object) = open_watch_event(&event).unwrap();
    assert_eq!(kind, "ADDED");
    assert_eq!(decode(object).unwrap().1["metadata"]["name"], "a");
}

#[test]
fn broken_messages_are_errors() {
    let ty = schema::builtin().named("io.k8s.api.core.v1.ConfigMap").unwrap();
    for bytes in [&b"\x0a"[..], b"\x0a\x05a", b"\x0b", b"\x00", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"] {
        assert!(decode_raw(ty, bytes).is_err(), "{bytes:?}");
    }
    assert!(decode(b"{}").is_err());
}

#[test]
fn envelopes_inside_envelopes_come_to_an_end() {
    let test = || {
        let nested = |levels: usize| {
            let mut bomb = envelope("v1", "WatchEvent", b"");
            for _ in 0..levels {
                bomb = envelope("v1", "WatchEvent", &watch_event("ADDED", &bomb));
            }
            decode(&bomb)
        };
        assert!(nested(1_000).is_ok());
        assert!(nested(crate::json::DEPTH_MAX + 1).is_err());
    };
    std::thread::Builder::new().stack_size(crate::json::STACK_BYTES).spawn(test).expect("a thread").join().expect("it holds");
}

/// What the tree gives, and the JSON that it is stored as.
fn by_tree(ty: TypeRef<'_>, value: &Value) -> (Vec<u8>, Vec<u8>) {
    let json = crate::json::encode_as(Some(ty), value);
    let tree = crate::json::read(&json).expect("JSON");
    let message = encode_raw_spelled(ty, &tree, &Texts::read(ty, &json));
    (json, message)
}

/// Compares both ways; what stands before stays.
fn same(ty: TypeRef<'_>, json: &[u8], message: &[u8]) {
    let mut out = b"before".to_vec();
    let shown = || String::from_utf8_lossy(json).into_owned();
    assert!(encode_stored(ty, json, &mut out).is_some(), "{}", shown());
    assert!(out.strip_prefix(b"before") == Some(message), "{}", shown());
    assert_eq!(stored_len(ty, json), Some(message.len()), "{}", shown());
}

/// Values that a place may have to hold, of whatever type it is.
fn odd(number: usize) -> Value {
    let all = [
        json!(null),
        json!(""),
        json!("a \"b\" \\ \n\t\r\u{8}\u{c}\u{1} <&> \u{2028} é€😀"),
        json!("2026-01-02T03:04:05.678901Z"),
        json!("2026-01-02T03:04:05+02:00"),
        json!("AAEC/w=="),
        json!("no base64"),
        json!(0),
        json!(-1),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(1.5),
        json!(-0.0),
        json!(1e300),
        json!(true),
        json!(false),
        json!({}),
        json!([]),
        json!([null, "a", 1, {"b": null}, [[]]]),
        json!({"z": 1, "a\"b": {"y": {}, "x": {}}, "a": null, "a!": "b", "k:{\"port\":443}": {}, "k:{\"port\":80}": {}, "i:10": {}, "i:9": {}, "f:a": {}}),
    ];
    all[number % all.len()].clone()
}

/// The places below a value.
fn places(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(places).sum(),
        Value::Object(map) => map.values().map(places).sum(),
        _ => 0,
    }
}

/// The value with something else at one of its places.
fn replaced(value: &mut Value, place: &mut usize, by: &Value) {
    match (*place, value) {
        (0, value) => *value = by.clone(),
        (_, Value::Array(items)) => items.iter_mut().for_each(|item| step(item, place, by)),
        (_, Value::Object(map)) => map.values_mut().for_each(|item| step(item, place, by)),
        _ => {}
    }
}

fn step(item: &mut Value, place: &mut usize, by: &Value) {
    if *place > 0 && *place != usize::MAX {
        *place -= 1;
        replaced(item, place, by);
        if *place == 0 {
            *place = usize::MAX;
        }
    }
}

#[test]
fn stored_objects_of_every_kind_have_the_bytes_of_their_trees() {
    let (mut kinds, mut number) = (0_usize, 1_usize);
    for (_, ty) in schema::builtin().kinds().filter(|(_, ty)| !super::status::is_one(*ty) && ty.object().is_some_and(|o| !o.proto.is_empty())) {
        let value = sample(ty, 1, 12);
        let (json, message) = by_tree(ty, &value);
        same(ty, &json, &message);
        let places = places(&value);
        // Some odd values at once; a list's items are other kinds'.
        let mut value = value;
        for _ in 0..if ty.field("items").is_some() { 0 } else { 1 + kinds % 6 } {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            replaced(&mut value, &mut (1 + (number >> 33) % places), &odd(number >> 20));
        }
        let (json, message) = by_tree(ty, &value);
        same(ty, &json, &message);
        kinds += 1;
    }
    assert!(kinds > 200, "{kinds}");
}

#[test]
fn sets_of_fields_are_sent_in_the_order_of_sets() {
    let ty = schema::builtin().named("io.k8s.api.core.v1.ConfigMap").unwrap();
    let fields =
        json!({"f:data": {".": {}, "k:{\"port\":80}": {}, "k:{\"port\":443}": {"f:a": {}, ".": {}}, "i:9": {}, "i:10": {}, "v:\"<\"": {}, "v:\"=\"": {}}});
    let value = json!({"metadata": {"name": "a", "managedFields": [{"manager": "m", "fieldsType": "FieldsV1", "fieldsV1": fields}]}});
    let (json, message) = by_tree(ty, &value);
    same(ty, &json, &message);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (json, message) = (text(&json), text(&message));
    let at = |part: &str| message.find(part).unwrap_or_else(|| panic!("{part} in {message}"));
    assert!(at(r#"k:{\"port\":80}"#) < at(r#"k:{\"port\":443}"#) && at("k:") < at("i:9"));
    let set = &message[at("{\"f:data")..];
    assert!(json.contains(&set[..=set.rfind('}').unwrap_or_default()]), "{json} {set}");
}

#[test]
fn free_form_values_are_sent_as_they_are_stored() {
    let ty = schema::builtin().named("io.k8s.api.apps.v1.ControllerRevision").unwrap();
    let json = br#"{"metadata":{"name":"a"},"data":{"z":1.0,"a":[1e2,{"y":null,"b":"\u003c"}],"a":2},"revision":7}"#;
    let tree = crate::json::read(json).expect("JSON");
    let message = encode_raw_spelled(ty, &tree, &Texts::read(ty, json));
    same(ty, json, &message);
    assert!(String::from_utf8_lossy(&message).contains(r#"{"z":1.0,"a":[1e2,{"y":null,"b":"\u003c"}],"a":2}"#));
}

#[test]
fn what_is_not_as_it_would_be_stored_is_left_to_the_tree() {
    let ty = schema::builtin().named("io.k8s.api.core.v1.ConfigMap").unwrap();
    for json in [
        &br#"{"metadata": {"name":"a"}}"#[..],
        br#"{"metadata":{"name":"a"},"metadata":{"name":"b"}}"#,
        br#"{"data":{"b":"1","a":"2"}}"#,
        br#"{"data":{"a":"1","a":"2"}}"#,
        br#"{"data":{"a":"\ud800"}}"#,
        br#"{"metadata":{"name":nil}}"#,
        br#"{"metadata":{"name":"a"}}}"#,
        br#"{"metadata":{"name":"a"}"#,
        b"{\"data\":{\"a\":\"\xff\"}}",
        b"",
    ] {
        let mut out = b"before".to_vec();
        assert_eq!((encode_stored(ty, json, &mut out), stored_len(ty, json)), (None, None), "{}", String::from_utf8_lossy(json));
        assert_eq!(out, b"before");
    }
    let escaped = br#"{"d\u0061ta":{"a":"1"},"\"":1}"#;
    same(ty, escaped, &encode_raw(ty, &json!({"data": {"a": "1"}})));
    // Broken off or spoilt anywhere, it comes to an end.
    let pod = schema::builtin().named("io.k8s.api.core.v1.Pod").unwrap();
    let value = json!({
        "metadata": {"name": "a", "labels": {"a": "b\n"}, "creationTimestamp": "2026-01-02T03:04:05Z", "managedFields": [{"fieldsV1": {"f:a": {}}}]},
        "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "1"}}}], "hostNetwork": true},
    });
    let (json, message) = by_tree(pod, &value);
    same(pod, &json, &message);
    for at in 0..json.len() {
        assert!(encode_stored(pod, &json[..at], &mut Vec::new()).is_none());
        for byte in *b"\"\\{}[],:n-\x00" {
            let mut spoilt = json.clone();
            spoilt[at] = byte;
            let (mut out, length) = (Vec::new(), stored_len(pod, &spoilt));
            if encode_stored(pod, &spoilt, &mut out).is_some() {
                assert_eq!(length, Some(out.len()));
            }
        }
    }
}
