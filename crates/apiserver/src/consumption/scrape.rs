//! What a kubelet says of its node and containers: its `/metrics/resource`, by the server's own way to kubelets.

use super::{exposition, samples::Batch};
use crate::{offload, proxy, world::World};
use std::time::{SystemTime, UNIX_EPOCH};

const PATH: &str = "/metrics/resource";
/// Bytes of an answer: each container has three lines of some hundred bytes, and a node 250 pods. The add-on has no bound.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Asks the kubelet of a node.
///
/// # Errors
/// It does not answer, or not in a way that can be read.
pub(super) async fn node(world: &World, name: &str) -> Result<Batch, String> {
    let body = proxy::of_kubelet(world, name, PATH, ANSWER_BYTES_MAX).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let large = body.len() >= offload::INLINE_BYTES_MAX;
    let read = move || {
        let text = std::str::from_utf8(&body).map_err(|error| error.to_string())?;
        exposition::read(text, u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
    };
    if large { offload::call(read).await } else { read() }
}
