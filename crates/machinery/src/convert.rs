//! The few kinds that are served in two default versions but stored in one.
//!
//! - `events.k8s.io/v1` and core `v1` Events are the same objects with other names for some fields.
//! - `autoscaling/v1` HorizontalPodAutoscalers hold what v1 has no fields for in annotations, as upstream does.
//! - Other versions of a kind (served with `--runtime-config`, or held back in the store) have the same shape: only
//!   apiVersion changes.
//!
//! Source: `pkg/apis/{events,autoscaling}/*/conversion.go` of Kubernetes.

mod autoscaling;
#[cfg(test)]
mod tests;

use crate::{Map, Value, gvk::Gvk};

/// Fields of Events: the core name, the name in `events.k8s.io`.
const EVENT_FIELDS: [(&str, &str); 6] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// Core Events call the reporting controller `reportingComponent`.
const REPORTER: (&str, &str) = ("reportingComponent", "reportingController");

/// Like the controller, written by core Events whether there is one or not, and by the others only if there is one.
const REPORTER_ITSELF: &str = "reportingInstance";

/// The object in another version of its kind; its apiVersion is set.
pub fn convert(mut value: Value, from: &Gvk, to: &Gvk) -> Value {
    if from == to {
        return value;
    }
    if let Value::Object(map) = &mut value {
        match (to.group.as_str(), to.version.as_str(), to.kind.as_str()) {
            ("", "v1", "Event") => {
                rename(map, EVENT_FIELDS.iter().chain([&REPORTER]).map(|(core, events)| (*events, *core)));
                for reporter in [REPORTER.0, REPORTER_ITSELF] {
                    map.entry(reporter).or_insert_with(|| Value::String(String::new()));
                }
            }
            ("events.k8s.io", "v1", "Event") => {
                rename(map, EVENT_FIELDS.iter().chain([&REPORTER]).copied());
                map.retain(|name, value| *value != "" || (name != REPORTER.1 && name != REPORTER_ITSELF));
            }
            ("autoscaling", "v1", "HorizontalPodAutoscaler") if from.version == "v2" => autoscaling::to_v1(map),
            ("autoscaling", "v2", "HorizontalPodAutoscaler") if from.version == "v1" => autoscaling::to_v2(map),
            _ => {}
        }
        map.insert("apiVersion".into(), Value::String(to.api_version()));
    }
    value
}

/// Whether converting between two versions of a kind changes more than apiVersion.
pub fn changes_shape(from: &Gvk, to: &Gvk) -> bool {
    from != to && (from.group != to.group || (from.group == "autoscaling" && from.kind == "HorizontalPodAutoscaler"))
}

fn rename<'a>(map: &mut Map<String, Value>, names: impl Iterator<Item = (&'a str, &'a str)>) {
    for (old, new) in names {
        if let Some(value) = map.remove(old) {
            map.insert(new.to_owned(), value);
        }
    }
}
