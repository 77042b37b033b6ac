//! Where the nodes of the control plane's machine are reached from others: their own addresses are in their ranges of pods, which lie
//! behind the machine's address. The annotation tells it (`network::mesh` reads it).
//!
//! What holds it: each Node is looked at when it comes and when somebody has changed the annotation, and all of them at a start.

use std::sync::Arc;

use client::{Client, Delta, Informer, Meta, Patch, PatchParams};
use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use super::Machines;
use crate::work::{Controller, Cx, Step};

/// Addresses of the machine that a node is on, with commas between them.
pub(crate) const ANNOTATION: &str = "knarr.local/machine-address";

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx, machines: Machines) {
    let controller = Arc::new(Addresses { client: cx.client(super::ACCOUNT), nodes: cx.informers.informer(), machines });
    cx.setup(&controller)
        .on(&controller.nodes, |_, queue, change| {
            let new = change.object();
            let same = matches!(change, Delta::Updated { old, .. } if old.annotation(ANNOTATION) == new.annotation(ANNOTATION) && !Arc::ptr_eq(old, new));
            if !same && !matches!(change, Delta::Deleted(_)) {
                queue.add(new.name().to_owned());
            }
        })
        .work(1)
        .await;
}

struct Addresses {
    client: Client,
    nodes: Informer<Node>,
    machines: Machines,
}

impl Controller for Addresses {
    const QUEUE: &'static str = "knarr_machines_address";
    type Key = String;

    async fn reconcile(&self, name: &String) -> Step {
        let wanted = self.machines.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let Some(node) = self.nodes.get("", name).filter(|node| node.annotation(ANNOTATION) != Some(&wanted)) else { return Ok(None) };
        if !self.machines.held().await?.nodes.contains_key(name) {
            return Ok(None);
        }
        let patch = json!({"metadata": {"uid": node.uid(), "annotations": {ANNOTATION: wanted}}});
        match self.client.all::<Node>().patch(name, &Patch::Merge(patch), &PatchParams::default()).await {
            // Another of the name is heard of.
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{machines, node};
    use super::*;
    use crate::fake::Fake;

    #[tokio::test]
    async fn the_machines_own_nodes_tell_its_address() {
        let fake = Fake::new(|_, _| (200, json!({"kind": "Node", "apiVersion": "v1", "metadata": {}})));
        let mut done = node("done", "2026-01-01T00:00:00Z", &[], "10.244.1.0/24", true);
        done.metadata.annotations = Some([(ANNOTATION.to_owned(), "192.0.2.1".to_owned())].into());
        let all = ["first", "other"].map(|name| node(name, "2026-01-01T00:00:00Z", &[], "10.244.0.0/24", true));
        let nodes = Informer::fixed(all.into_iter().chain([done]));
        let controller = Addresses { client: fake.client(), nodes, machines: machines(&[("first", "10.244.0.0/24"), ("done", "10.244.1.0/24")]) };
        for name in ["first", "other", "done", "gone"] {
            controller.reconcile(&name.to_owned()).await.expect("a step");
        }
        let body = json!({"metadata": {"uid": "uid-first", "annotations": {ANNOTATION: "192.0.2.1"}}});
        assert_eq!(fake.written(), [format!("PATCH /api/v1/nodes/first {body}")]);
    }
}
