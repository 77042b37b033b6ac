//! The three patch types besides apply: JSON Patch (RFC 6902), JSON Merge Patch (RFC 7386), strategic merge patch.
//!
//! All work on the tree; the caller decodes the result against the schema again. [`parse`] reads a patch, [`Patch::apply`]
//! does both and words what is wrong with the patched object as something wrong with the patch.

mod document;
mod json_patch;
mod parse;
mod strategic;
#[cfg(test)]
mod tests;

pub use json_patch::{Unfit, json_patch, json_patch_told};
pub use parse::{Kind, Patch, Versions, parse};
pub use strategic::strategic;

use crate::{
    Map, Value,
    status::{Details, Status},
};

/// A patch that cannot be applied to the object: 422 without a word on why, as upstream answers.
fn unprocessable() -> Status {
    let mut status = Status::new(422, "Invalid", "the server rejected our request due to an error in our request");
    status.details = Some(Box::<Details>::default());
    status
}

/// Takes out of the objects of a list what a patch says is null.
fn forget_nulls(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(forget_nulls),
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(forget_nulls);
        }
        _ => {}
    }
}

/// Merges `patch` into `target` as RFC 7386 has it: objects are merged, `null` deletes, everything else replaces.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        let replaces = !target.is_object();
        *target = patch.clone();
        // A list in the place of an object keeps its nulls, by upstream's library.
        if replaces {
            forget_nulls(target);
        }
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
