//! kubectl's own record of what it applied, an annotation that client-side `kubectl apply` computes deletions from.
//!
//! Where kubectl applies on the server an object that has it, the record is written anew; and what the record shows to have
//! come from kubectl is no conflict, so that a first server-side apply takes over from client-side ones.

use super::{
    compare::{compare, fields_of},
    set::FieldSet,
    typed,
};
use crate::{Map, Value, schema::TypeRef};

/// The annotation.
const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The manager that keeps the annotation; others that want it otherwise use another name.
const KUBECTL: &str = "kubectl";

/// The most bytes of all annotations of an object, as validation has it: a longer record is left out.
const ANNOTATIONS_MAX_BYTES: usize = 256 * 1024;

/// Writes what is applied into the annotation if kubectl applies and the object has it.
pub(super) fn update(manager: &str, object: &mut Value, applied: &Value) {
    if manager != KUBECTL || recorded(object).is_none() {
        return;
    }
    let mut record = applied.clone();
    if let Some(annotations) = annotations(&mut record) {
        annotations.remove(ANNOTATION);
    }
    // Go's encoder keeps a record safe inside HTML and ends it with a line break.
    let text = serde_json::to_string(&record).unwrap_or_default();
    let text = text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026") + "\n";
    let Some(annotations) = annotations(object) else { return };
    annotations.insert(ANNOTATION.into(), text.into());
    let bytes: usize = annotations.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if bytes > ANNOTATIONS_MAX_BYTES {
        annotations.remove(ANNOTATION);
    }
}

/// The fields that kubectl applied by itself and that are still as it applied them; `None` if it has no record of this version.
pub(super) fn owned(ty: TypeRef<'_>, manager: &str, live: &Value) -> Option<FieldSet> {
    if manager != KUBECTL {
        return None;
    }
    let record: Value = crate::json::read(recorded(live)?.as_bytes()).ok()?;
    let kind = ty.gvk()?;
    if record.get("apiVersion").and_then(Value::as_str) != Some(kind.api_version().as_str()) || typed::errors(ty, &record, false).is_some() {
        return None;
    }
    let mut set = fields_of(ty, &record);
    let differs = compare(ty, &record, live);
    set.subtract(&differs.changed);
    set.subtract(&differs.removed);
    Some(set)
}

fn recorded(object: &Value) -> Option<&str> {
    object.get("metadata")?.get("annotations")?.get(ANNOTATION)?.as_str().filter(|text| !text.is_empty())
}

fn annotations(object: &mut Value) -> Option<&mut Map<String, Value>> {
    object.get_mut("metadata")?.get_mut("annotations")?.as_object_mut()
}
