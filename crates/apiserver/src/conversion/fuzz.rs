//! What a conversion webhook may answer: it must end, without a panic, and what counts of it is what was sent, in the version that
//! was asked for. `crates/runtime/src/fuzz.rs` says how to run it for longer; the corpus is in `crates/apiserver/fuzz/corpus`.

use super::answer::{self, Review};
use crate::{
    family::{Entrance, Family},
    mutations,
};
use kinds::custom::Described;
use machinery::{Value, gvk::Gvk};
use serde_json::json;

fn family() -> Family {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "text": {"type": "string"}, "number": {"type": "integer"}, "map": {"type": "object", "additionalProperties": {"type": "number"}},
        "list": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}, "any": {"x-kubernetes-preserve-unknown-fields": true}}}}}}}});
    let versions = [("v1", json!({})), ("v2", json!({"schema": {"openAPIV3Schema": schema}}))];
    let versions = versions.map(|(name, version)| (name.to_owned(), Described::new(&version)));
    Family::new("ks.a.b".into(), &Gvk::new("a.b", "v1", "K"), versions.into(), None, Entrance::new())
}

#[test]
fn fuzz_conversion() {
    let sent =
        |name: &str| json!({"apiVersion": "a.b/v1", "kind": "K", "metadata": {"name": name, "namespace": "ns", "uid": format!("u-{name}"), "generation": 7}});
    let (sent, family) = ([sent("a"), sent("b")], family());
    let run = |bytes: &[u8]| {
        for review in [Review::V1, Review::V1beta1] {
            let Ok(answers) = answer::read(bytes, review, "u", "a.b/v2", &sent) else { continue };
            assert_eq!(answers.len(), sent.len());
            for (sent, answer) in sent.iter().zip(answers) {
                let Ok(object) = answer else { continue };
                let object = family.pruned("v2", object);
                assert_eq!((&object["apiVersion"], &object["kind"]), (&json!("a.b/v2"), &sent["kind"]));
                for field in ["name", "namespace", "uid", "generation"] {
                    assert_eq!(object["metadata"][field], sent["metadata"][field]);
                }
                for field in ["labels", "annotations"] {
                    let texts = &object["metadata"][field];
                    assert!(texts.is_null() || texts.as_object().is_some_and(|texts| texts.values().all(Value::is_string)), "{object}");
                }
            }
        }
    };
    mutations::run("conversion", |_| {}, run);
}
