//! What becomes of an object that is there already: upstream's rules for each kind.

use super::{Policy, Wanted};
use identity::rbac::{Rule, uncovered};
use machinery::Value;

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Next {
    Nothing,
    Update(Box<Value>),
    /// Deleted and made anew: a field cannot be changed.
    Replace,
}

const RBAC_AUTO: &str = "rbac.authorization.kubernetes.io/autoupdate";
const REGISTERED: &str = "kube-aggregator.kubernetes.io/automanaged";
const FLOW_AUTO: &str = "apf.kubernetes.io/autoupdate-spec";
/// These two hold the server together, so their specs are always ours.
const MANDATORY: [&str; 2] = ["exempt", "catch-all"];

/// Compares what is there with what should be.
pub(super) fn next(wanted: &Wanted, present: &Value) -> Next {
    let mut value = present.clone();
    let note = |name: &str| present["metadata"]["annotations"][name].as_str();
    match wanted.policy {
        Policy::Keep => return Next::Nothing,
        Policy::Role | Policy::Binding if note(RBAC_AUTO) == Some("false") => return Next::Nothing,
        Policy::Registration => {
            let labels = &present["metadata"]["labels"];
            let ours = labels[REGISTERED].as_str().is_some_and(|kept| matches!(kept, "onstart" | "true"));
            let same = covers(&present["spec"], &wanted.value["spec"]) && present["spec"]["service"].is_null();
            if !ours || same {
                return Next::Nothing;
            }
            value["spec"] = wanted.value["spec"].clone();
        }
        Policy::Role => {
            keep_metadata(&wanted.value, &mut value);
            role(&wanted.value, &mut value);
        }
        Policy::Binding => {
            if present["roleRef"] != wanted.value["roleRef"] {
                return Next::Replace;
            }
            keep_metadata(&wanted.value, &mut value);
            add_missing(&mut value["subjects"], &wanted.value["subjects"]);
        }
        Policy::FlowControl => {
            let mandatory = MANDATORY.contains(&wanted.meta("name"));
            if !mandatory && note(FLOW_AUTO) == Some("false") {
                return Next::Nothing;
            }
            overlay(&mut value["spec"], &wanted.value["spec"]);
        }
        Policy::Ports => overlay(&mut value["spec"]["ports"], &wanted.value["spec"]["ports"]),
        Policy::Longer => {
            let list = |of: &Value| of["spec"]["cidrs"].as_array().cloned().unwrap_or_default();
            let (have, wanted) = (list(present), list(&wanted.value));
            if wanted.len() > have.len() && wanted.starts_with(&have) {
                value["spec"]["cidrs"] = wanted.into();
            }
        }
        Policy::Set(parts) => {
            let told = |part: &&&str| wanted.value[**part].as_object().is_none_or(|o| !o.is_empty());
            for part in parts.iter().filter(told) {
                overlay(&mut value[*part], &wanted.value[*part]);
            }
        }
    }
    // Looking at a field that is not there leaves a null.
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|_, v| !v.is_null());
    }
    if value == *present { Next::Nothing } else { Next::Update(Box::new(value)) }
}

/// Labels and annotations that are missing; those that are there stay.
fn keep_metadata(wanted: &Value, value: &mut Value) {
    for part in ["labels", "annotations"] {
        for (key, text) in wanted["metadata"][part].as_object().into_iter().flatten() {
            if value["metadata"][part][key.as_str()].is_null() {
                value["metadata"][part][key.as_str()] = text.clone();
            }
        }
    }
}

fn role(wanted: &Value, value: &mut Value) {
    if wanted["aggregationRule"].is_object() {
        // Its rules are the aggregation's.
        add_missing(&mut value["aggregationRule"]["clusterRoleSelectors"], &wanted["aggregationRule"]["clusterRoleSelectors"]);
        return;
    }
    let missing = uncovered(&Rule::of_role(value), &Rule::of_role(wanted));
    if missing.is_empty() {
        return;
    }
    let mut rules = value["rules"].as_array().cloned().unwrap_or_default();
    rules.extend(missing.iter().map(Rule::to_value));
    value["rules"] = rules.into();
}

fn add_missing(list: &mut Value, wanted: &Value) {
    let mut all = list.as_array().cloned().unwrap_or_default();
    let before = all.len();
    for item in wanted.as_array().into_iter().flatten() {
        if !all.iter().any(|have| covers(have, item)) {
            all.push(item.clone());
        }
    }
    if all.len() > before {
        *list = all.into();
    }
}

/// Sets what is wanted; fields that are not named (defaults, a Service's address) stay. Lists are set as a whole, unless
/// they say the same with defaults.
fn overlay(value: &mut Value, wanted: &Value) {
    match (value, wanted) {
        (Value::Object(have), Value::Object(want)) => {
            for (key, wanted) in want {
                overlay(have.entry(key.as_str()).or_insert(Value::Null), wanted);
            }
        }
        (value, wanted) if covers(value, wanted) => {}
        (value, wanted) => wanted.clone_into(value),
    }
}

/// Whether a value says everything that is wanted, perhaps with more fields.
fn covers(have: &Value, want: &Value) -> bool {
    match (have, want) {
        (Value::Object(have), Value::Object(want)) => want.iter().all(|(key, w)| have.get(key).is_some_and(|h| covers(h, w))),
        (Value::Array(have), Value::Array(want)) => have.len() == want.len() && have.iter().zip(want).all(|(h, w)| covers(h, w)),
        (have, want) => have == want,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_range_of_services_gains_a_family_and_nothing_else() {
        let object = |cidrs: &[&str]| json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": cidrs}});
        let after = |have: &[&str], wanted: &[&str]| {
            let wanted = Wanted { resource: ("networking.k8s.io", "v1", "servicecidrs"), policy: Policy::Longer, value: object(wanted) };
            next(&wanted, &object(have))
        };
        let (one, both) = (&["10.96.0.0/16"][..], &["10.96.0.0/16", "fd00:96::/112"][..]);
        assert_eq!(after(one, both), Next::Update(Box::new(object(both))));
        for (have, wanted) in [(one, one), (both, one), (both, both), (&["10.97.0.0/16"][..], both)] {
            assert_eq!(after(have, wanted), Next::Nothing, "{have:?} {wanted:?}");
        }
    }
}
