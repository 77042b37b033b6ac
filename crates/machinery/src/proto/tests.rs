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
fn zeros_that_go_writes_are_dropped_and_those_behind_pointers_kept() {
    let ty = schema::builtin().named("io.k8s.api.apps.v1.DeploymentSpec").unwrap();
    // replicas (1) = 0, minReadySeconds (5) = 0, paused (7) = false, an unknown tag 100.
    let value = decode_raw(ty, b"\x08\x00\x28\x00\x38\x00\xa0\x06\x01").unwrap();
    assert_eq!(value, json!({"replicas": 0}));
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
    for bytes in [&b"\x0a"[..], b"\x0a\x05a", b"\x0b", b"\x00", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x12\x04\x0a\x02\xff\xff"] {
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
