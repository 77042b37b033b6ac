//! What a pod asks for and may use in all: the sums that LimitRanger and ResourceQuota compare (upstream's
//! `component-helpers/resource`).

use super::{items, text};
use machinery::{Value, quantity::Quantity};
use std::collections::BTreeMap;

/// Amounts by name of the resource.
pub(super) type Amounts = BTreeMap<String, Quantity>;

/// The amounts of a resource list; what is no quantity was refused by validation.
pub(super) fn of(list: &Value) -> Amounts {
    let entries = list.as_object().into_iter().flatten();
    entries.filter_map(|(name, amount)| Some((name.clone(), parse(amount)?))).collect()
}

/// A quantity, which may also be written as a number.
pub(super) fn parse(amount: &Value) -> Option<Quantity> {
    match amount {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

pub(super) fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        *sum.entry(name.clone()).or_default() += *amount;
    }
}

fn raise(to: &mut Amounts, least: &Amounts) {
    for (name, amount) in least {
        let present = to.entry(name.clone()).or_insert(*amount);
        *present = (*present).max(*amount);
    }
}

/// `requests` or `limits` of a whole pod: its containers and sidecars together, or what an init container needs beside
/// the sidecars before it, if that is more; a pod's own amounts go before its containers'; overhead comes on top.
pub(super) fn of_pod(pod: &Value, which: &str) -> Amounts {
    let spec = &pod["spec"];
    let mut sum = Amounts::new();
    for container in items(&spec["containers"]) {
        add(&mut sum, &of(&container["resources"][which]));
    }
    let (mut sidecars, mut most) = (Amounts::new(), Amounts::new());
    for container in items(&spec["initContainers"]) {
        let mut own = of(&container["resources"][which]);
        if text(container, "restartPolicy") == "Always" {
            add(&mut sum, &own);
            add(&mut sidecars, &own);
            own.clone_from(&sidecars);
        } else {
            add(&mut own, &sidecars);
        }
        raise(&mut most, &own);
    }
    raise(&mut sum, &most);
    sum.extend(of(&spec["resources"][which]));
    for (name, amount) in of(&spec["overhead"]) {
        // Overhead does not limit what nobody has limited.
        match sum.get_mut(&name) {
            Some(present) => *present += amount,
            None if which == "requests" => {
                sum.insert(name, amount);
            }
            None => {}
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_s_amounts_are_summed_as_upstream_sums_them() {
        let needs = |cpu: &str| json!({"requests": {"cpu": cpu}});
        let pod = json!({"spec": {
            "containers": [{"resources": needs("100m")}, {"resources": needs("200m")}],
            "initContainers": [{"resources": needs("250m")}, {"restartPolicy": "Always", "resources": needs("50m")}, {"resources": needs("400m")}],
            "overhead": {"cpu": "10m", "memory": "1Mi"},
        }});
        let sum = of_pod(&pod, "requests");
        assert_eq!(sum["cpu"].to_string(), "460m", "the last init container beside the sidecar, and the overhead");
        assert_eq!(sum["memory"].to_string(), "1Mi");
        assert!(of_pod(&pod, "limits").is_empty());
    }
}
