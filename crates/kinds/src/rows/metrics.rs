//! What nodes and pods use: the columns are those of metrics-server, the amounts of a pod the sums of its containers'.

use super::{Cells, text};
use crate::{print, tree};
use machinery::{Value, quantity::Quantity};
use std::time::SystemTime;

pub(super) fn find(kind: &str) -> Option<Cells> {
    matches!(kind, "NodeMetrics" | "PodMetrics").then_some(cells)
}

fn cells(obj: &Value, _now: SystemTime) -> Vec<Value> {
    let sum = |resource: &str| -> Value {
        let parts = tree::list(obj, "containers").iter().map(|container| &container["usage"]).chain([&obj["usage"]]);
        let amounts = parts.filter_map(|usage| usage[resource].as_str()?.parse::<Quantity>().ok());
        amounts.reduce(|a, b| a + b).map_or_else(|| "0".to_owned(), |amount| amount.to_string()).into()
    };
    vec![print::name(obj), sum("cpu"), sum("memory"), text(obj, "window")]
}
