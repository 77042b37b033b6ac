//! Autoscalers, in both of their shapes, and disruption budgets.

use super::Cells;
use crate::{groups::autoscaling::inside, print, tree};
use machinery::Value;
use std::time::SystemTime;

/// How many metrics are shown.
const SHOWN_MAX: usize = 2;

pub(super) fn find(kind: &str) -> Option<Cells> {
    Some(match kind {
        "HorizontalPodAutoscaler" => autoscaler,
        "PodDisruptionBudget" => budget,
        _ => return None,
    })
}

fn budget(obj: &Value, now: SystemTime) -> Vec<Value> {
    let bound = |key: &str| match &obj["spec"][key] {
        Value::Null => Value::from("N/A"),
        value => print::int_or_string(value).into(),
    };
    vec![print::name(obj), bound("minAvailable"), bound("maxUnavailable"), print::number(&obj["status"]["disruptionsAllowed"]), print::age(obj, now)]
}

fn autoscaler(obj: &Value, now: SystemTime) -> Vec<Value> {
    // The metrics of the older shape lie partly in annotations.
    let obj = &*inside(obj);
    let (spec, status) = (&obj["spec"], &obj["status"]);
    let target = &spec["scaleTargetRef"];
    vec![
        print::name(obj),
        format!("{}/{}", tree::text(target, "kind"), tree::text(target, "name")).into(),
        metrics(tree::list(spec, "metrics"), tree::list(status, "currentMetrics")).into(),
        spec["minReplicas"].as_i64().map_or(print::UNSET.to_owned(), |n| n.to_string()).into(),
        print::number(&spec["maxReplicas"]),
        print::number(&status["currentReplicas"]),
        print::age(obj, now),
    ]
}

fn metrics(specs: &[Value], statuses: &[Value]) -> String {
    if specs.is_empty() {
        return print::NONE.to_owned();
    }
    let shown: Vec<String> = specs.iter().take(SHOWN_MAX).enumerate().map(|(at, spec)| metric(spec, statuses.get(at).unwrap_or(&Value::Null))).collect();
    let shown = shown.join(", ");
    if specs.len() > SHOWN_MAX { format!("{shown} + {} more...", specs.len() - SHOWN_MAX) } else { shown }
}

/// `present/wanted` of one metric.
fn metric(spec: &Value, status: &Value) -> String {
    let (key, of_resource) = match tree::text(spec, "type") {
        "External" => ("external", false),
        "Pods" => ("pods", false),
        "Object" => ("object", false),
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        _ => return "<unknown type>".to_owned(),
    };
    let (target, current) = (&spec[key]["target"], &status[key]["current"]);
    let quantity = |value: &Value| if value.is_null() { "0".to_owned() } else { print::int_or_string(value) };
    let present = |field: &str| match (&status[key], &current[field]) {
        (Value::Null, _) => print::UNKNOWN.to_owned(),
        (_, Value::Null) if field == "averageValue" && !of_resource && key != "pods" => print::UNKNOWN.to_owned(),
        (_, value) => quantity(value),
    };
    if of_resource {
        let name = tree::text(&spec[key], "name");
        let percent = |value: &Value, none: &str| value.as_i64().map_or(none.to_owned(), |p| format!("{p}%"));
        return match &target["averageValue"] {
            Value::Null => {
                format!("{name}: {}/{}", percent(&current["averageUtilization"], print::UNKNOWN), percent(&target["averageUtilization"], "<auto>"))
            }
            wanted => format!("{name}: {}/{}", present("averageValue"), quantity(wanted)),
        };
    }
    match &target["averageValue"] {
        wanted if key == "pods" => format!("{}/{}", present("averageValue"), quantity(wanted)),
        Value::Null => format!("{}/{}", present("value"), quantity(&target["value"])),
        wanted => format!("{}/{} (avg)", present("averageValue"), quantity(wanted)),
    }
}
