//! HorizontalPodAutoscaler v1 and v2. The v1 form has a field for CPU utilisation alone; other metrics, their status,
//! the conditions and the behaviour travel as JSON in annotations.

use crate::{Map, Value, json, schema};
use serde_json::json;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const TOLERANCES: [&str; 2] = ["autoscaling.alpha.kubernetes.io/scale-down-tolerance", "autoscaling.alpha.kubernetes.io/scale-up-tolerance"];

/// The CPU utilisation that v1 meant when it said nothing, in percent.
const DEFAULT_CPU_PERCENT: i64 = 80;

/// Fields of a metric in v1, in the order in which Go writes them: the name, the place in v2 that holds the same, and what is written where there
/// is nothing (empty: nothing is).
type Fields = &'static [(&'static str, &'static [&'static str], &'static str)];

const NO_TEXT: &str = r#""""#;
const NO_QUANTITY: &str = r#""0""#;
const NO_REFERENCE: &str = r#"{"kind":"","name":""}"#;

/// Metric sources by their types.
const SOURCES: &[(&str, Fields)] = &[
    (
        "object",
        &[
            ("target", &["describedObject"], NO_REFERENCE),
            ("metricName", &["metric", "name"], NO_TEXT),
            ("targetValue", &["target", "value"], NO_QUANTITY),
            ("selector", &["metric", "selector"], ""),
            ("averageValue", &["target", "averageValue"], ""),
        ],
    ),
    (
        "pods",
        &[
            ("metricName", &["metric", "name"], NO_TEXT),
            ("targetAverageValue", &["target", "averageValue"], NO_QUANTITY),
            ("selector", &["metric", "selector"], ""),
        ],
    ),
    (
        "resource",
        &[
            ("name", &["name"], NO_TEXT),
            ("targetAverageUtilization", &["target", "averageUtilization"], ""),
            ("targetAverageValue", &["target", "averageValue"], ""),
        ],
    ),
    (
        "containerResource",
        &[
            ("name", &["name"], NO_TEXT),
            ("targetAverageUtilization", &["target", "averageUtilization"], ""),
            ("targetAverageValue", &["target", "averageValue"], ""),
            ("container", &["container"], NO_TEXT),
        ],
    ),
    (
        "external",
        &[
            ("metricName", &["metric", "name"], NO_TEXT),
            ("metricSelector", &["metric", "selector"], ""),
            ("targetValue", &["target", "value"], ""),
            ("targetAverageValue", &["target", "averageValue"], ""),
        ],
    ),
];

/// The same for statuses.
const STATUSES: &[(&str, Fields)] = &[
    (
        "object",
        &[
            ("target", &["describedObject"], NO_REFERENCE),
            ("metricName", &["metric", "name"], NO_TEXT),
            ("currentValue", &["current", "value"], NO_QUANTITY),
            ("selector", &["metric", "selector"], ""),
            ("averageValue", &["current", "averageValue"], ""),
        ],
    ),
    (
        "pods",
        &[
            ("metricName", &["metric", "name"], NO_TEXT),
            ("currentAverageValue", &["current", "averageValue"], NO_QUANTITY),
            ("selector", &["metric", "selector"], ""),
        ],
    ),
    (
        "resource",
        &[
            ("name", &["name"], NO_TEXT),
            ("currentAverageUtilization", &["current", "averageUtilization"], ""),
            ("currentAverageValue", &["current", "averageValue"], NO_QUANTITY),
        ],
    ),
    (
        "containerResource",
        &[
            ("name", &["name"], NO_TEXT),
            ("currentAverageUtilization", &["current", "averageUtilization"], ""),
            ("currentAverageValue", &["current", "averageValue"], NO_QUANTITY),
            ("container", &["container"], NO_TEXT),
        ],
    ),
    (
        "external",
        &[
            ("metricName", &["metric", "name"], NO_TEXT),
            ("metricSelector", &["metric", "selector"], ""),
            ("currentValue", &["current", "value"], NO_QUANTITY),
            ("currentAverageValue", &["current", "averageValue"], ""),
        ],
    ),
];

/// The fields of a scaling rule and of a policy in the order of upstream's internal types, which have no other names.
const RULE: [&str; 4] = ["stabilizationWindowSeconds", "selectPolicy", "policies", "tolerance"];
const POLICY: [(&str, &str); 3] = [("type", NO_TEXT), ("value", "0"), ("periodSeconds", "0")];

pub(super) fn to_v1(map: &mut Map<String, Value>) {
    let mut annotations = Map::new();
    if let Some(Value::Object(spec)) = map.get_mut("spec") {
        let metrics = array(spec.remove("metrics"));
        let cpu = metrics.iter().find_map(cpu_target);
        let others: Vec<String> = metrics.iter().filter(|m| cpu_target(m).is_none()).map(|m| metric_to_v1(m, SOURCES)).collect();
        if let Some(percent) = cpu {
            spec.insert("targetCPUUtilizationPercentage".into(), percent);
        }
        note(&mut annotations, METRICS, &others);
        if let Some(behavior) = spec.remove("behavior") {
            annotations.insert(BEHAVIOR.into(), Value::String(internal_behavior(&behavior)));
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
        let metrics: Vec<String> = metrics.iter().map(|m| metric_to_v1(m, STATUSES)).collect();
        note(&mut annotations, CURRENT_METRICS, &metrics);
        let conditions: Vec<String> = array(status.remove("conditions")).into_iter().map(condition).collect();
        note(&mut annotations, CONDITIONS, &conditions);
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
        // One that says nothing is none.
        if let Some(behavior) = behavior.map(|behavior| external(&behavior)).filter(|behavior| behavior.as_object().is_some_and(|rules| !rules.is_empty())) {
            spec.insert("behavior".into(), behavior);
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

/// A metric as Go writes it in v1.
fn metric_to_v1(metric: &Value, table: &[(&str, Fields)]) -> String {
    let mut out = format!(r#"{{"type":{}"#, written("", &metric["type"]).unwrap_or_else(|| NO_TEXT.to_owned()));
    for (kind, fields) in table {
        let Some(old) = metric.get(*kind).filter(|old| !old.is_null()) else { continue };
        let members = fields.iter().filter_map(|(name, path, nothing)| {
            let found = path.iter().try_fold(old, |v, key| v.get(*key)).and_then(|found| written(name, found));
            found.or_else(|| (!nothing.is_empty()).then(|| (*nothing).to_owned())).map(|text| format!("\"{name}\":{text}"))
        });
        out.push_str(&format!(",\"{kind}\":{{{}}}", members.collect::<Vec<_>>().join(",")));
    }
    out.push('}');
    out
}

/// The value of a field as Go writes it: what has fields of its own, in their order.
fn written(name: &str, value: &Value) -> Option<String> {
    let ty = match name {
        "target" => Some("io.k8s.api.autoscaling.v2.CrossVersionObjectReference"),
        "selector" | "metricSelector" => Some("io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector"),
        "conditions" => Some("io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerCondition"),
        _ => None,
    };
    let ty = ty.and_then(|ty| schema::builtin().named(ty));
    (!value.is_null()).then(|| String::from_utf8_lossy(&json::encode_as(ty, value)).into_owned())
}

fn condition(mut condition: Value) -> String {
    if let Some(fields) = condition.as_object_mut() {
        fields.entry("lastTransitionTime").or_insert(Value::Null);
    }
    written("conditions", &condition).unwrap_or_default()
}

fn metric_to_v2(metric: &Value, table: &[(&str, Fields)]) -> Value {
    let mut out = Map::new();
    if let Some(kind) = metric.get("type") {
        out.insert("type".into(), kind.clone());
    }
    for (kind, fields) in table {
        let Some(old) = metric.get(*kind).filter(|old| !old.is_null()) else { continue };
        let mut new = Map::new();
        for (name, path, nothing) in *fields {
            // Only a quantity that is none is written as one.
            let none = (*nothing == NO_QUANTITY).then(|| Value::from("0"));
            let Some(found) = old.get(*name).cloned().or(none) else { continue };
            match path {
                [outer, inner] => {
                    let outer = new.entry(*outer).or_insert_with(|| json!({}));
                    outer[*inner] = found;
                }
                [outer] => drop(new.insert((*outer).to_owned(), found)),
                _ => {}
            }
        }
        out.insert((*kind).to_owned(), Value::Object(new));
    }
    Value::Object(out)
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

/// A behaviour as Go writes upstream's internal type: with capitals, and `null` for what there is not.
fn internal_behavior(behavior: &Value) -> String {
    let text = |value: &Value| String::from_utf8_lossy(&json::encode(value)).into_owned();
    let policy = |policy: &Value| {
        let members = POLICY.map(|(name, nothing)| {
            let value = policy.get(name).map_or_else(|| nothing.to_owned(), text);
            format!("\"{}\":{value}", capital(name, true))
        });
        format!("{{{}}}", members.join(","))
    };
    let rule = |rule: &Value| {
        if rule.is_null() {
            return "null".to_owned();
        }
        let members = RULE.map(|name| {
            let value = match &rule[name] {
                Value::Array(policies) => format!("[{}]", policies.iter().map(policy).collect::<Vec<_>>().join(",")),
                other => text(other),
            };
            format!("\"{}\":{value}", capital(name, true))
        });
        format!("{{{}}}", members.join(","))
    };
    format!(r#"{{"ScaleUp":{},"ScaleDown":{}}}"#, rule(&behavior["scaleUp"]), rule(&behavior["scaleDown"]))
}

fn capital(name: &str, upper: bool) -> String {
    let mut chars = name.chars();
    let first = chars.next().map(|c| if upper { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() });
    first.into_iter().chain(chars).collect()
}

/// What was written of the internal type.
fn external(value: &Value) -> Value {
    match value {
        Value::Object(map) => map.iter().filter(|(_, v)| !v.is_null()).map(|(name, value)| (capital(name, false), external(value))).collect(),
        Value::Array(items) => items.iter().map(external).collect(),
        other => other.clone(),
    }
}

fn note(annotations: &mut Map<String, Value>, name: &str, values: &[String]) {
    if !values.is_empty() {
        annotations.insert(name.into(), Value::String(format!("[{}]", values.join(","))));
    }
}

fn drop_annotations(map: &mut Map<String, Value>) {
    let Some(metadata) = map.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) else { return };
    for name in [METRICS, CURRENT_METRICS, CONDITIONS, BEHAVIOR].iter().chain(&TOLERANCES) {
        annotations.remove(*name);
    }
    // Go shows no empty map.
    if annotations.is_empty() {
        metadata.remove("annotations");
    }
}

fn array(value: Option<Value>) -> Vec<Value> {
    match value {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}
