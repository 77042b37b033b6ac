//! From JSON to types, for objects that the API accepts and the types refuse.
//!
//! The original keeps a condition without a time as `lastTransitionTime: null` (the zero of Go's time), which a type that
//! demands a time cannot hold. Such an object must be as usable as any other, and one that cannot be read at all must
//! not hold up those after it.

use crate::codec::Coded;
use crate::error::{Error, Result};
use crate::object::ObjectKey;
use machinery::json;
use serde_json::Value;

/// What stands where the original has no time.
const NO_TIME: &str = "1970-01-01T00:00:00Z";

/// Levels of an object that are read: types are nested far less, and their decoder stops at 127. What is deeper stands in fields that may
/// hold anything (a ControllerRevision's data, owned fields) and is left out; the server refuses to have such an object's data changed.
const LEVELS_MAX: usize = 100;

/// Decodes an answer; what the types refuse is tried again with its gaps filled.
pub(crate) fn decode<T>(bytes: &[u8], read: fn(&[u8]) -> serde_json::Result<T>) -> Result<T> {
    read(bytes).or_else(|first| read(&filled(bytes)?).map_err(|_| Error::Decode(first.to_string())))
}

/// The same JSON with its gaps filled.
fn filled(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut value = json::read(bytes).map_err(|e| Error::Decode(e.to_string()))?;
    fill(&mut value, LEVELS_MAX);
    serde_json::to_vec(&value).map_err(|e| Error::Decode(e.to_string()))
}

/// Decodes the items of a list one by one; those that cannot be read are left out.
pub(crate) fn items<T: Coded>(list: &mut Value) -> Vec<T> {
    let items = list["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
    let decoded = items.into_iter().filter_map(|mut item| {
        fill(&mut item, LEVELS_MAX);
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
    let value = json::read(frame).ok()?;
    let meta = &value["object"]["metadata"];
    let resource_version = meta["resourceVersion"].as_str().filter(|_| value["type"] != "ERROR")?.to_owned();
    let key = ObjectKey::new(text(&meta["namespace"]), text(&meta["name"]));
    Some(Unread { key, resource_version, is_gone: value["type"] == "DELETED" })
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Nulls go, conditions get a time, and what lies below so many levels goes.
fn fill(value: &mut Value, levels: usize) {
    match value {
        Value::Object(_) | Value::Array(_) if levels == 0 => *value = Value::Null,
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            if map.contains_key("type") && map.contains_key("status") {
                map.entry("lastTransitionTime").or_insert_with(|| NO_TIME.into());
            }
            map.values_mut().for_each(|v| fill(v, levels - 1));
        }
        Value::Array(all) => all.iter_mut().for_each(|v| fill(v, levels - 1)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::{apps::v1::ControllerRevision, core::v1::Service};
    use serde_json::json as tree;

    #[test]
    fn a_condition_without_a_time_does_not_hide_its_object() {
        let service = tree!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "resourceVersion": "7"},
            "status": {"conditions": [{"type": "T", "status": "True", "reason": "R", "message": "", "lastTransitionTime": null}]}});
        assert!(serde_json::from_value::<Service>(service.clone()).is_err(), "the type demands a time");
        let read = decode(&serde_json::to_vec(&service).unwrap(), Service::decode).unwrap();
        assert_eq!(read.metadata.name.as_deref(), Some("a"));
        let frame = tree!({"type": "DELETED", "object": {"metadata": {"namespace": "n", "name": "a", "resourceVersion": "7"}, "spec": 5}});
        let told = unread(&serde_json::to_vec(&frame).unwrap()).unwrap();
        assert_eq!((told.key.to_string().as_str(), told.resource_version.as_str(), told.is_gone), ("n/a", "7", true));
        let mut list = tree!({"items": [service, {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "b"}, "spec": 5}]});
        assert_eq!(items::<Service>(&mut list).len(), 1);
    }

    #[test]
    fn what_is_nested_deep_is_read_by_every_part() {
        let test = || {
            let data = format!("{}1{}", r#"{"a":"#.repeat(json::DEPTH_MAX - 1), "}".repeat(json::DEPTH_MAX - 1));
            let object =
                format!(r#"{{"apiVersion":"apps/v1","kind":"ControllerRevision","metadata":{{"name":"a","resourceVersion":"7"}},"revision":1,"data":{data}}}"#);
            let read = decode(object.as_bytes(), ControllerRevision::decode).unwrap();
            assert_eq!((read.revision, read.metadata.name.as_deref()), (Some(1), Some("a")));
            assert!(read.data.0.is_object());
            let event = crate::watch::decode(format!(r#"{{"type":"ADDED","object":{object}}}"#).as_bytes()).unwrap();
            assert!(matches!(event, crate::watch::Event::Added(object) if ControllerRevision::clone(&object).metadata == read.metadata));
            let list = crate::api::decode_list::<ControllerRevision>("", format!(r#"{{"metadata":{{}},"items":[{object},{object}]}}"#).as_bytes()).unwrap();
            assert_eq!(list.items().len(), 2);
            let told = unread(format!(r#"{{"type":"DELETED","object":{object}}}"#).as_bytes()).unwrap();
            assert!(told.is_gone);
        };
        std::thread::Builder::new().stack_size(json::STACK_BYTES).spawn(test).unwrap().join().unwrap();
    }
}
