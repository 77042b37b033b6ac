//! The quality of service of a pod (`pkg/apis/core/helper/qos`): how well its containers' limits cover its requests.

use crate::{rules, tree};
use machinery::{Value, quantity::Quantity};

const COUNTED: [&str; 2] = ["cpu", "memory"];
const BEST_EFFORT: &str = "BestEffort";
const BURSTABLE: &str = "Burstable";
const GUARANTEED: &str = "Guaranteed";

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub fn qos_class(spec: &Value) -> &'static str {
    let own = &spec["resources"];
    let of_pods = |name: &str| COUNTED.contains(&name) || name.starts_with("hugepages-");
    if ["requests", "limits"].into_iter().flat_map(|list| tree::entries(own, list)).any(|(name, _)| of_pods(name)) {
        return of_resources(own);
    }
    let lists = ["initContainers", "containers"].into_iter().flat_map(|list| tree::list(spec, list));
    common(lists.map(|container| of_resources(&container["resources"])))
}

/// What all are, or else burstable.
fn common(mut classes: impl Iterator<Item = &'static str>) -> &'static str {
    let first = classes.next().unwrap_or(BEST_EFFORT);
    if classes.all(|class| class == first) { first } else { BURSTABLE }
}

fn of_resources(resources: &Value) -> &'static str {
    common(COUNTED.into_iter().map(|name| {
        let [request, limit] = ["requests", "limits"].map(|list| rules::quantity(&resources[list][name]).unwrap_or_default());
        match () {
            () if request != limit => BURSTABLE,
            () if request == Quantity::ZERO => BEST_EFFORT,
            () => GUARANTEED,
        }
    }))
}
