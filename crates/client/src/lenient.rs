//! From JSON to types, for objects that the API accepts and the types refuse.
//!
//! The original keeps a condition without a time as `lastTransitionTime: null` (the zero of Go's time), which a type that
//! demands a time cannot hold. Such an object must be as usable as any other, and one that cannot be read at all must
//! not hold up those after it.

use crate::codec::Coded;
use crate::error::{Error, Result};
use crate::object::ObjectKey;
use serde_json::Value;

/// What stands where the original has no time.
const NO_TIME: &str = "1970-01-01T00:00:00Z";

/// Decodes an answer; what the types refuse is tried again with its gaps filled.
pub(crate) fn decode<T>(bytes: &[u8], read: fn(&[u8]) -> serde_json::Result<T>) -> Result<T> {
    read(bytes).or_else(|first| read(&filled(bytes)?).map_err(|_| Error::Decode(first.to_string())))
}

/// The same JSON with its gaps filled.
fn filled(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut value: Value = serde_json::from_slice(bytes).map_err(|e| Error::Decode(e.to_string()))?;
    fill(&mut value);
    serde_json::to_vec(&value).map_err(|e| Error::Decode(e.to_string()))
}

/// Decodes the items of a list one by one; those that cannot be read are left out.
pub(crate) fn items<T: Coded>(list: &mut Value) -> Vec<T> {
    let items = list["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
    let decoded = items.into_iter().filter_map(|mut item| {
        fill(&mut item);
        let at = format!("{}/{}", text(&item["metadata"]["namespace"]), text(&item["metadata"]["name"]));
        let bytes = serde_json::to_vec(&item).unwrap_or_default();
        T::decode(&bytes).map_err(|error| tracing::warn!(object = at, %error, "an object cannot be read and is left out")).ok()
    });
    decoded.collect()
}

/// What can be told of a watch event whose object cannot be read.
pub(crate) struct Unread {
    pub(crate) key: ObjectKey,
    pub(crate) resource_version: String,
    pub(crate) is_gone: bool,
}

/// Of which object, and at which revision, a watch event is whose object cannot be read.
pub(crate) fn unread(frame: &[u8]) -> Option<Unread> {
    let value: Value = serde_json::from_slice(frame).ok()?;
    let meta = &value["object"]["metadata"];
    let resource_version = meta["resourceVersion"].as_str().filter(|_| value["type"] != "ERROR")?.to_owned();
    let key = ObjectKey::new(text(&meta["namespace"]), text(&meta["name"]));
    Some(Unread { key, resource_version, is_gone: value["type"] == "DELETED" })
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Nulls go, and conditions get a time.
fn fill(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            if map.contains_key("type") && map.contains_key("status") {
                map.entry("lastTransitionTime").or_insert_with(|| NO_TIME.into());
            }
            map.values_mut().for_each(fill);
        }
        Value::Array(all) => all.iter_mut().for_each(fill),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;

    #[test]
    fn a_condition_without_a_time_does_not_hide_its_object() {
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "resourceVersion": "7"},
            "status": {"conditions": [{"type": "T", "status": "True", "reason": "R", "message": "", "lastTransitionTime": null}]}});
        assert!(serde_json::from_value::<Service>(service.clone()).is_err(), "the type demands a time");
        let read = decode(&serde_json::to_vec(&service).unwrap(), Service::decode).unwrap();
        assert_eq!(read.metadata.name.as_deref(), Some("a"));
        let frame = json!({"type": "DELETED", "object": {"metadata": {"namespace": "n", "name": "a", "resourceVersion": "7"}, "spec": 5}});
        let told = unread(&serde_json::to_vec(&frame).unwrap()).unwrap();
        assert_eq!((told.key.to_string().as_str(), told.resource_version.as_str(), told.is_gone), ("n/a", "7", true));
        let mut list = json!({"items": [service, {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "b"}, "spec": 5}]});
        assert_eq!(items::<Service>(&mut list).len(), 1);
    }
}
