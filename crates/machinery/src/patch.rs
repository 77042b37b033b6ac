//! The three patch types besides apply: JSON Patch (RFC 6902), JSON Merge Patch (RFC 7386), strategic merge patch.
//!
//! All work on the tree; the caller decodes the result against the schema again ([`crate::json::normalize`]).

mod json_patch;
mod strategic;
#[cfg(test)]
mod tests;

pub use json_patch::json_patch;
pub use strategic::strategic;

use crate::{Map, Value};

/// Merges `patch` into `target` as RFC 7386 has it: objects are merged, `null` deletes, everything else replaces.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else if let Some(old) = target.get_mut(name) {
            merge(old, value);
        } else {
            let mut new = Value::Null;
            merge(&mut new, value);
            target.insert(name.clone(), new);
        }
    }
}
