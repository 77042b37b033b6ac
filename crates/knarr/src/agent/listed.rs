//! By an annotation of its Node, a node tells where its DNS answers: the control plane writes that into the EndpointSlices of the
//! cluster's DNS, since a node may write none. It is told when it is true, and taken back where the node has no DNS.

use super::of_node;
use crate::dns_probe;
use client::{Client, Informers, Meta as _, Patch, PatchParams};
use k8s_openapi::api::core::v1::Node;
use serde_json::json;
use std::{convert::Infallible, net::IpAddr, time::Duration};
use tokio::sync::watch;

/// The annotation: an address, at whose port 53 it answers.
pub const ANNOTATION: &str = "knarr.local/dns-address";
/// After a write that failed: the first pause, and the longest.
const AGAIN_MIN: Duration = Duration::from_millis(200);
const AGAIN_MAX: Duration = Duration::from_secs(10);

/// A node's DNS.
pub struct Answers {
    /// Where it answers.
    pub address: IpAddr,
    /// For which domain.
    pub domain: String,
    /// What tells that it does.
    pub ready: watch::Receiver<bool>,
}

/// Keeps the annotation as it is to be: also when somebody changes it, or the Node object is made anew.
pub async fn keep(client: Client, informers: &Informers, node: &str, dns: Option<Answers>) -> Infallible {
    let mut wanted = None;
    if let Some(Answers { address, domain, mut ready }) = dns {
        if ready.wait_for(|answers| *answers).await.is_err() {
            // It has ended, and with it soon the node.
            return std::future::pending().await;
        }
        // Where another program has the port it is at another one, which nobody is told of.
        dns_probe::answering(address, &domain).await;
        wanted = Some(address.to_string());
    }
    let mut pause = AGAIN_MIN;
    loop {
        of_node(informers, node, |node: &Node| (node.annotation(ANNOTATION) != wanted.as_deref()).then_some(())).await;
        let patch = Patch::Merge(json!({"metadata": {"annotations": {ANNOTATION: wanted}}}));
        if let Err(error) = client.all::<Node>().patch(node, &patch, &PatchParams::default()).await {
            tracing::warn!(%error, "the cluster is not told where this node's DNS answers; trying again");
        }
        // Time for the news of the own change, too.
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(AGAIN_MAX);
    }
}
