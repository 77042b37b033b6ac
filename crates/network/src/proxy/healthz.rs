//! What the proxy tells of itself, at the port of kube-proxy (10256): `/healthz`, by which balancers outside choose among the nodes
//! (KEP-3836): a node that is about to go takes no new connections. And `/livez`, which asks for the proxy alone.
//!
//! A proxy is healthy while no news of Services waits for longer than a minute to become rules.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use client::Informer;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::answers;
use super::counts::Counts;
use crate::nft::Family;

/// Where kube-proxy tells it.
pub const PORT: u16 = 10256;
/// Twice upstream's `syncPeriod`.
const LATE: Duration = Duration::from_secs(60);
/// The taint of a node that the cluster autoscaler is about to remove.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// How far the rules of a family are.
#[derive(Debug, Default)]
struct Steps {
    /// When they were in step last; none: this only starts.
    updated: Option<MicroTime>,
    /// Since when news waits.
    waits_since: Option<Instant>,
}

/// How far the proxy is, in each family that it has, and what it counted on its way.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    steps: Arc<Mutex<BTreeMap<Family, Steps>>>,
    counts: Arc<Counts>,
}

/// What is told of a family.
#[derive(Debug, Serialize)]
struct OfFamily {
    #[serde(rename = "lastUpdated")]
    last_updated: MicroTime,
    healthy: bool,
}

/// What is told (upstream's `ProxyHealth`).
#[derive(Debug, Serialize)]
struct Health {
    #[serde(rename = "lastUpdated")]
    last_updated: Option<MicroTime>,
    #[serde(rename = "currentTime")]
    current_time: MicroTime,
    #[serde(rename = "nodeEligible", skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<&'static str, OfFamily>,
}

impl Progress {
    /// News has come for a family.
    pub(super) fn queued(&self, family: Family, now: Instant) {
        let mut all = self.steps.lock();
        let steps = all.entry(family).or_default();
        steps.waits_since = steps.waits_since.or(Some(now));
        self.counts.queued(family);
    }

    /// The kernel has all that was heard.
    pub(super) fn updated(&self, family: Family) {
        self.steps.lock().insert(family, Steps { updated: Some(client::now_micro()), waits_since: None });
        self.counts.synced(family);
    }

    /// What is counted.
    pub(super) fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Whether no family is late.
    pub(super) fn is_healthy(&self, now: Instant) -> bool {
        self.steps.lock().values().all(|steps| !steps.is_late(now))
    }

    fn health(&self, now: Instant) -> Health {
        let mut status = BTreeMap::new();
        for (family, steps) in &*self.steps.lock() {
            if let Some(updated) = &steps.updated {
                status.insert(family.name(), OfFamily { last_updated: updated.clone(), healthy: !steps.is_late(now) });
            }
        }
        let last_updated = status.values().map(|of: &OfFamily| of.last_updated.clone()).max();
        Health { last_updated, current_time: client::now_micro(), node_eligible: None, healthy: status.values().all(|of| of.healthy), status }
    }
}

impl Steps {
    /// One that starts is not late, however long it takes.
    fn is_late(&self, now: Instant) -> bool {
        self.updated.is_some() && self.waits_since.is_some_and(|since| now.duration_since(since) >= LATE)
    }
}

/// Whether new connections may be sent to a node, as far as its object says. Of an object that nobody shows nothing is said.
fn is_eligible(nodes: &Informer<Node>, name: &str) -> bool {
    !nodes.is_synced() || nodes.get("", name).is_some_and(|node| stays(&node))
}

fn stays(node: &Node) -> bool {
    let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    node.metadata.deletion_timestamp.is_none() && taints.all(|taint| taint.key != TO_BE_DELETED)
}

fn answer(path: &str, progress: &Progress, is_eligible: impl FnOnce() -> bool) -> String {
    let mut health = progress.health(Instant::now());
    let mut is_good = health.healthy;
    match path {
        "/healthz" => {
            let eligible = is_eligible();
            health.node_eligible = Some(eligible);
            is_good &= eligible;
        }
        "/livez" => {}
        _ => return answers::not_found(),
    }
    progress.counts.asked(path == "/healthz", is_good);
    if is_good {
        // As upstream has it for those who look how old it is: what is in step is so now.
        health.last_updated = Some(health.current_time.clone());
    }
    answers::json(is_good, "", &serde_json::to_string(&health).unwrap_or_default())
}

/// Tells it at these addresses, until what is given back is dropped.
pub(super) fn serve(addresses: &[IpAddr], progress: Progress, nodes: Informer<Node>, node: &str) -> JoinSet<()> {
    let name = node.to_owned();
    answers::serve_all(addresses.iter().copied(), PORT, node, move |path: &str| answer(path, &progress, || is_eligible(&nodes, &name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_proxy_is_well_until_news_waits_for_a_minute() {
        let (progress, begun) = (Progress::default(), Instant::now());
        let good = |path, eligible| answer(path, &progress, || eligible).starts_with("HTTP/1.1 200 OK\r\n");
        progress.queued(Family::V4, begun);
        assert!(progress.is_healthy(begun + 2 * LATE), "while it starts");
        assert!(good("/healthz", true) && good("/livez", false) && !good("/healthz", false));
        assert!(answer("/", &progress, || true).starts_with("HTTP/1.1 404 Not Found\r\n"));
        progress.updated(Family::V4);
        progress.updated(Family::V6);
        progress.queued(Family::V6, begun);
        progress.queued(Family::V6, begun + LATE);
        assert!(progress.is_healthy(begun + LATE - Duration::from_millis(1)));
        let late = progress.health(begun + LATE);
        assert!(!progress.is_healthy(begun + LATE) && !late.healthy);
        assert!(late.status["IPv4"].healthy && !late.status["IPv6"].healthy);
        progress.updated(Family::V6);
        assert!(progress.is_healthy(begun + 2 * LATE));
        let told = answer("/healthz", &progress, || true);
        assert!(told.contains("\"nodeEligible\":true,\"healthy\":true,\"status\":{\"IPv4\":{\"lastUpdated\":"), "{told}");
    }

    #[test]
    fn a_node_that_is_about_to_go_takes_nothing_new() {
        let node = |value: serde_json::Value| serde_json::from_value::<Node>(value).unwrap();
        assert!(stays(&node(json!({"metadata": {"name": "n"}, "spec": {"taints": [{"key": "other", "effect": "NoSchedule"}]}}))));
        assert!(!stays(&node(json!({"metadata": {"name": "n"}, "spec": {"taints": [{"key": TO_BE_DELETED, "effect": "NoSchedule"}]}}))));
        assert!(!stays(&node(json!({"metadata": {"name": "n", "deletionTimestamp": "2026-11-30T00:00:00Z"}}))));
    }
}
