//! HorizontalPodAutoscaler v1 and v2. The v1 form has a field for CPU utilisation alone; other metrics, their status,
//! the conditions and the behaviour travel as JSON in annotations.

use crate::{Map, Value};
use serde_json::json;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const TOLERANCES: [&str; 2] = ["autoscaling.alpha.kubernetes.io/scale-down-tolerance", "autoscaling.alpha.kubernetes.io/scale-up-tolerance"];

/// The CPU utilisation that v1 meant when it said nothing, in percent.
const DEFAULT_CPU_PERCENT: i64 = 80;

type Pairs = &'static [(&'static str, &'static [&'static str])];

/// Metric sources: type, and the v1 field with the place in v2 that holds the same.
const SOURCES: &[(&str, Pairs)] = &[
    (
        "object",
        &[
            ("target", &["describedObject"]),
            ("metricName", &["metric", "name"]),
            ("selector", &["metric", "selector"]),
            ("targetValue", &["target", "value"]),
            ("averageValue", &["target", "averageValue"]),
        ],
    ),
    ("pods", &[("metricName", &["metric", "name"]), ("selector", &["metric", "selector"]), ("targetAverageValue", &["target", "averageValue"])]),
    ("resource", &[("name", &["name"]), ("targetAverageUtilization", &["target", "averageUtilization"]), ("targetAverageValue", &["target", "averageValue"])]),
    (
        "containerResource",
        &[
            ("name", &["name"]),
            ("container", &["container"]),
            ("targetAverageUtilization", &["target", "averageUtilization"]),
            ("targetAverageValue", &["target", "averageValue"]),
        ],
    ),
    (
        "external",
        &[
            ("metricName", &["metric", "name"]),
            ("metricSelector", &["metric", "selector"]),
            ("targetValue", &["target", "value"]),
            ("targetAverageValue", &["target", "averageValue"]),
        ],
    ),
];

/// The same for statuses.
const STATUSES: &[(&str, Pairs)] = &[
    (
        "object",
        &[
            ("target", &["describedObject"]),
            ("metricName", &["metric", "name"]),
            ("selector", &["metric", "selector"]),
            ("currentValue", &["current", "value"]),
            ("averageValue", &["current", "averageValue"]),
        ],
    ),
    ("pods", &[("metricName", &["metric", "name"]), ("selector", &["metric", "selector"]), ("currentAverageValue", &["current", "averageValue"])]),
    (
        "resource",
        &[("name", &["name"]), ("currentAverageUtilization", &["current", "averageUtilization"]), ("currentAverageValue", &["current", "averageValue"])],
    ),
    (
        "containerResource",
        &[
            ("name", &["name"]),
            ("container", &["container"]),
            ("currentAverageUtilization", &["current", "averageUtilization"]),
            ("currentAverageValue", &["current", "averageValue"]),
        ],
    ),
    (
        "external",
        &[
            ("metricName", &["metric", "name"]),
            ("metricSelector", &["metric", "selector"]),
            ("currentValue", &["current", "value"]),
            ("currentAverageValue", &["current", "averageValue"]),
        ],
    ),
];

pub(super) fn to_v1(map: &mut Map<String, Value>) {
    let mut annotations = Map::new();
    if let Some(Value::Object(spec)) = map.get_mut("spec") {
        let metrics = array(spec.remove("metrics"));
        let cpu = metrics.iter().find_map(cpu_target);
        let others: Vec<Value> = metrics.iter().filter(|m| cpu_target(m).is_none()).map(|m| metric_to_v1(m, SOURCES)).collect();
        if let Some(percent) = cpu {
            spec.insert("targetCPUUtilizationPercentage".into(), percent);
        }
        note(&mut annotations, METRICS, others);
        if let Some(behavior) = spec.remove("behavior") {
            annotations.insert(BEHAVIOR.into(), Value::String(recase(&behavior, true).to_string()));
        }
    }
    if let Some(Value::Object(status)) = map.get_mut("status") {
        status.entry("currentReplicas").or_insert_with(|| 0.into());
        let metrics = array(status.remove("currentMetrics"));
        let cpu = metrics.iter().filter(|m| m["type"] == "Resource" && m["resource"]["name"] == "cpu");
        let percent = cpu.filter_map(|m| m["resource"]["current"].get("averageUtilization")).next_back().cloned();
        if let Some(percent) = percent {
            status.insert("currentCPUUtilizationPercentage".into(), percent);
        }
        note(&mut annotations, CURRENT_METRICS, metrics.iter().map(|m| metric_to_v1(m, STATUSES)).collect());
        note(&mut annotations, CONDITIONS, array(status.remove("conditions")));
    }
    drop_annotations(map);
    if annotations.is_empty() {
        return;
    }
    let metadata = map.entry("metadata").or_insert_with(|| json!({}));
    if let Some(Value::Object(kept)) = metadata.as_object_mut().map(|m| m.entry("annotations").or_insert_with(|| json!({}))) {
        kept.extend(annotations);
    }
}

pub(super) fn to_v2(map: &mut Map<String, Value>) {
    let annotation = |map: &Map<String, Value>, name: &str| -> Option<Value> { serde_json::from_str(map.get("metadata")?["annotations"][name].as_str()?).ok() };
    let (metrics, behavior) = (annotation(map, METRICS), annotation(map, BEHAVIOR));
    let (current, conditions) = (annotation(map, CURRENT_METRICS), annotation(map, CONDITIONS));
    if let Some(Value::Object(spec)) = map.get_mut("spec") {
        let mut all: Vec<Value> = array(metrics).iter().map(source_to_v2).collect();
        if let Some(percent) = spec.remove("targetCPUUtilizationPercentage") {
            all.push(cpu_metric(&percent));
        }
        if all.is_empty() {
            all.push(cpu_metric(&DEFAULT_CPU_PERCENT.into()));
        }
        spec.insert("metrics".into(), Value::Array(all));
        if let Some(behavior) = behavior.filter(Value::is_object) {
            spec.insert("behavior".into(), recase(&behavior, false));
        }
    }
    if let Some(Value::Object(status)) = map.get_mut("status") {
        let percent = status.remove("currentCPUUtilizationPercentage");
        let metrics = match (current, percent) {
            (Some(Value::Array(metrics)), _) => metrics.iter().map(|m| metric_to_v2(m, STATUSES)).collect(),
            (_, Some(percent)) => {
                vec![json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percent}}})]
            }
            _ => Vec::new(),
        };
        // Go leaves out the number that is zero here, and shows the list that is none.
        if status.get("currentReplicas").is_some_and(|n| *n == 0) {
            status.remove("currentReplicas");
        }
        status.insert("currentMetrics".into(), if metrics.is_empty() { Value::Null } else { Value::Array(metrics) });
        if let Some(conditions) = conditions.filter(Value::is_array) {
            status.insert("conditions".into(), conditions);
        }
    }
    drop_annotations(map);
}

fn cpu_metric(percent: &Value) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}})
}

/// The utilisation that a metric asks of the CPU, which is what v1 has a field for.
fn cpu_target(metric: &Value) -> Option<Value> {
    let is_cpu = metric["type"] == "Resource" && metric["resource"]["name"] == "cpu";
    if is_cpu { metric["resource"]["target"].get("averageUtilization").cloned() } else { None }
}

fn metric_to_v1(metric: &Value, table: &[(&str, Pairs)]) -> Value {
    each_metric(metric, table, |old, new, v1, path| {
        let found = path.iter().try_fold(old, |v, key| v.get(*key));
        if let Some(found) = found {
            new.insert(v1.to_owned(), found.clone());
        }
    })
}

fn metric_to_v2(metric: &Value, table: &[(&str, Pairs)]) -> Value {
    each_metric(metric, table, |old, new, v1, path| {
        let Some(found) = old.get(v1) else { return };
        match path {
            [outer, inner] => {
                let outer = new.entry(*outer).or_insert_with(|| json!({}));
                outer[*inner] = found.clone();
            }
            [outer] => drop(new.insert((*outer).to_owned(), found.clone())),
            _ => {}
        }
    })
}

/// A metric source in v2 also says which of its targets counts.
fn source_to_v2(metric: &Value) -> Value {
    let mut metric = metric_to_v2(metric, SOURCES);
    for (kind, _) in SOURCES {
        let Some(target) = metric.get_mut(*kind).and_then(|m| m.get_mut("target")).and_then(Value::as_object_mut) else { continue };
        let has = |field: &str| target.contains_key(field);
        let target_type = match *kind {
            "resource" | "containerResource" if has("averageUtilization") => "Utilization",
            "object" if !has("averageValue") => "Value",
            "external" if has("value") => "Value",
            _ => "AverageValue",
        };
        if target_type == "AverageValue" && *kind == "object" && target.get("value").is_some_and(|v| v == "0") {
            target.remove("value");
        }
        target.insert("type".into(), target_type.into());
    }
    metric
}

fn each_metric(metric: &Value, table: &[(&str, Pairs)], copy: impl Fn(&Value, &mut Map<String, Value>, &str, &[&str])) -> Value {
    let mut out = Map::new();
    if let Some(kind) = metric.get("type") {
        out.insert("type".into(), kind.clone());
    }
    for (kind, pairs) in table {
        if let Some(old) = metric.get(*kind) {
            let mut new = Map::new();
            for (v1, path) in *pairs {
                copy(old, &mut new, v1, path);
            }
            out.insert((*kind).to_owned(), Value::Object(new));
        }
    }
    Value::Object(out)
}

/// The behaviour is kept with the field names of upstream's internal type: they begin with a capital.
fn recase(value: &Value, upper: bool) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .filter(|(_, v)| !v.is_null())
            .map(|(name, value)| {
                let mut chars = name.chars();
                let first = chars.next().map(|c| if upper { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() });
                (first.into_iter().chain(chars).collect::<String>(), recase(value, upper))
            })
            .collect(),
        Value::Array(items) => items.iter().map(|v| recase(v, upper)).collect(),
        other => other.clone(),
    }
}

fn note(annotations: &mut Map<String, Value>, name: &str, values: Vec<Value>) {
    if !values.is_empty() {
        annotations.insert(name.into(), Value::String(Value::Array(values).to_string()));
    }
}

fn drop_annotations(map: &mut Map<String, Value>) {
    let annotations = map.get_mut("metadata").and_then(|m| m.get_mut("annotations")).and_then(Value::as_object_mut);
    if let Some(annotations) = annotations {
        for name in [METRICS, CURRENT_METRICS, CONDITIONS, BEHAVIOR].iter().chain(&TOLERANCES) {
            annotations.remove(*name);
        }
    }
}

fn array(value: Option<Value>) -> Vec<Value> {
    match value {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}
