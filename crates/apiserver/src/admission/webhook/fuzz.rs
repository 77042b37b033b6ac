//! What an admission webhook may answer: it must end, without a panic, and in bounded memory whatever its patch says.
//! `crates/runtime/src/fuzz.rs` says how to run it for longer; the corpus is in `crates/apiserver/fuzz/corpus`.

use super::{
    plain,
    review::{self, Verdict},
};
use crate::{gate::webhooks::Review, mutations};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use machinery::{json, patch};
use serde_json::json;

/// Most mutations of a patch would break its base64: this mutates what it holds instead.
fn repair(bytes: &mut Vec<u8>) {
    let Ok(mut review) = json::read(bytes) else { return };
    let length = bytes.len();
    let Some(text) = review["response"]["patch"].as_str() else { return };
    let mut patch = STANDARD.decode(text).unwrap_or_else(|_| text.as_bytes().to_vec());
    let at = length % patch.len().max(1);
    if let Some(byte) = patch.get_mut(at) {
        *byte = byte.wrapping_add((length / 7) as u8 % 5);
    }
    review["response"]["patch"] = STANDARD.encode(patch).into();
    *bytes = json::encode(&review);
}

#[test]
fn fuzz_admission() {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"a": "1"}, "list": [1, {"b": null}]});
    let run = |bytes: &[u8]| {
        for (spoken, mutating) in [(Review::V1, true), (Review::V1, false), (Review::V1beta1, true)] {
            let judged = review::judged(bytes, spoken, "u", mutating);
            if spoken == Review::V1
                && let Some(plain) = plain::yes(bytes, "u", mutating)
            {
                let told = |verdict: &Verdict| (verdict.allowed, verdict.patch.clone(), verdict.patch_type.clone(), verdict.warnings.clone());
                assert_eq!(judged.as_ref().map(told).ok(), Some(told(&plain)), "the short way tells the same");
            }
            let Ok(verdict) = judged else { continue };
            assert!(mutating || verdict.patch.is_empty());
            let Ok(operations) = json::read(&verdict.patch) else { continue };
            if let Ok(patched) = patch::json_patch_told(&object, &operations) {
                let _ = json::encode(&patched);
            }
        }
    };
    mutations::run("admission", repair, run);
}
