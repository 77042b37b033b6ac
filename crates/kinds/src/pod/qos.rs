//! The quality of service of a pod (`pkg/apis/core/helper/qos`): how well its containers' limits cover its requests.

use crate::{rules, tree};
use machinery::{Value, quantity::Quantity};
use std::collections::BTreeMap;

const COUNTED: [&str; 2] = ["cpu", "memory"];

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub fn qos_class(spec: &Value) -> &'static str {
    let own = &spec["resources"];
    if !tree::empty(&own["requests"]) || !tree::empty(&own["limits"]) {
        return class(std::iter::once(own));
    }
    let lists = ["containers", "initContainers"];
    class(lists.iter().flat_map(|list| tree::list(spec, list)).map(|c| &c["resources"]))
}

fn class<'v>(resources: impl Iterator<Item = &'v Value>) -> &'static str {
    let mut requests: BTreeMap<&str, Quantity> = BTreeMap::new();
    let mut limits: BTreeMap<&str, Quantity> = BTreeMap::new();
    let mut all_limited = true;
    for resource in resources {
        for (name, quantity) in counted(&resource["requests"]) {
            *requests.entry(name).or_default() += quantity;
        }
        let mut found = 0;
        for (name, quantity) in counted(&resource["limits"]) {
            *limits.entry(name).or_default() += quantity;
            found += 1;
        }
        all_limited &= found == COUNTED.len();
    }
    match () {
        () if requests.is_empty() && limits.is_empty() => "BestEffort",
        () if all_limited && requests == limits => "Guaranteed",
        () => "Burstable",
    }
}

fn counted(list: &Value) -> impl Iterator<Item = (&'static str, Quantity)> {
    COUNTED.into_iter().filter_map(|name| Some((name, rules::quantity(&list[name])?))).filter(|(_, q)| *q > Quantity::ZERO)
}
