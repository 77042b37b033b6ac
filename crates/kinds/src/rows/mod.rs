//! The cells of `kubectl get` tables (`pkg/printers/internalversion`), one function a kind, in the order of its columns.
//!
//! [`cells`] finds the function by the object's kind, so that a strategy need not say anything: `Strategy::row` calls it.
//! Both shapes of a kind that has two (events, autoscalers) are told apart by the fields that they have.
//!
//! Invariant: as many cells as the resource has columns, whatever the object looks like; two (name, time of creation)
//! for kinds without columns of their own.

mod access;
mod admission;
mod autoscaling;
mod core;
mod devices;
mod metrics;
mod networking;
mod nodes;
mod pods;
mod storage;
#[cfg(test)]
mod tests;
mod workloads;

use crate::{print, tree};
use machinery::{Value, gvk};
use std::time::SystemTime;

/// What makes the cells of one kind.
type Cells = fn(&Value, SystemTime) -> Vec<Value>;

/// The cells of an object.
pub fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    let (group, _) = gvk::parse_api_version(tree::text(obj, "apiVersion"));
    match find(group, tree::text(obj, "kind")) {
        Some(cells) => cells(obj, now),
        None => vec![print::name(obj), print::created(obj)],
    }
}

/// The function of a built-in kind with columns of its own.
fn find(group: &str, kind: &str) -> Option<Cells> {
    match group {
        "" => match kind {
            "Pod" => Some(pods::cells),
            "Node" => Some(nodes::cells),
            "ReplicationController" | "PodTemplate" => workloads::find(kind),
            "PersistentVolume" | "PersistentVolumeClaim" => storage::find(kind),
            _ => self::core::find(kind),
        },
        "events.k8s.io" => self::core::find(kind),
        "metrics.k8s.io" => metrics::find(kind),
        "apps" | "batch" => workloads::find(kind),
        "autoscaling" | "policy" => autoscaling::find(kind),
        "storage.k8s.io" => storage::find(kind),
        "networking.k8s.io" | "discovery.k8s.io" => networking::find(kind),
        "rbac.authorization.k8s.io" | "certificates.k8s.io" => access::find(kind),
        "admissionregistration.k8s.io" | "apiextensions.k8s.io" | "apiregistration.k8s.io" | "flowcontrol.apiserver.k8s.io" => admission::find(kind),
        "storagemigration.k8s.io" => admission::find(kind),
        "scheduling.k8s.io" | "coordination.k8s.io" | "node.k8s.io" | "resource.k8s.io" => devices::find(kind),
        _ => None,
    }
}

/// The condition of a type.
pub(crate) fn condition<'v>(status: &'v Value, kind: &str) -> Option<&'v Value> {
    tree::list(status, "conditions").iter().find(|c| c["type"] == kind)
}

/// Whether a condition is `True`.
fn holds(status: &Value, kind: &str) -> bool {
    condition(status, kind).is_some_and(|c| c["status"] == "True")
}

/// A text's cell, empty if absent.
fn text(owner: &Value, key: &str) -> Value {
    tree::text(owner, key).into()
}

/// The number of elements of a list.
fn count(owner: &Value, key: &str) -> Value {
    tree::list(owner, key).len().into()
}

/// A truth's cell.
fn truth(owner: &Value, key: &str, absent: bool) -> Value {
    owner[key].as_bool().unwrap_or(absent).into()
}

/// The shown few of many parts, and what stands for none of them.
fn few(parts: &[String], most: usize) -> String {
    let shown = print::first_few(parts, most);
    if shown.is_empty() { print::UNSET.to_owned() } else { shown }
}

/// What stands at the entrance of a load balancer, sorted.
fn load_balancer(status: &Value) -> Vec<&str> {
    let mut out: Vec<&str> = tree::list(&status["loadBalancer"], "ingress")
        .iter()
        .map(|i| if tree::empty(&i["ip"]) { tree::text(i, "hostname") } else { tree::text(i, "ip") })
        .filter(|t| !t.is_empty())
        .collect();
    out.sort_unstable();
    out.dedup();
    out
}
