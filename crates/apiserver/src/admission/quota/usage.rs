//! What a pod's containers must name once a quota bounds it.

use super::super::{
    amounts::{self, Amounts},
    items, text,
};
use kinds::usage::compute;
use machinery::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Resources that every container must name once a quota bounds them.
const SAID: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

/// Resources that a pod may name for all of its containers.
fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

/// Whether every container names what a quota bounds; what is missing otherwise.
pub(super) fn said(pod: &Value, hard: &Amounts) -> Result<(), String> {
    // What the pod says as a whole is enough.
    if ["requests", "limits"].iter().any(|which| amounts::of(&pod["spec"]["resources"][*which]).keys().any(|name| is_pod_level(name))) {
        return Ok(());
    }
    let required: Vec<&str> = SAID.into_iter().filter(|name| hard.contains_key(*name)).collect();
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for container in ["containers", "initContainers"].iter().flat_map(|list| items(&pod["spec"][*list])) {
        let resources = &container["resources"];
        let mut named = Amounts::new();
        compute(&amounts::of(&resources["requests"]), &amounts::of(&resources["limits"]), &mut named);
        // What is limited is requested as much, by defaulting.
        for name in required.iter().filter(|name| !named.contains_key(**name)) {
            missing.entry(name).or_default().insert(text(container, "name"));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let list = |names: BTreeSet<&str>| names.into_iter().collect::<Vec<_>>().join(",");
    let texts: Vec<String> = missing.into_iter().map(|(resource, containers)| format!("{resource} for: {}", list(containers))).collect();
    Err(format!("must specify {}", texts.join("; ")))
}
