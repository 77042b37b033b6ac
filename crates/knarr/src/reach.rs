//! Whether a further node of this machine reaches the API server: asked in its own network namespace, where its kubelet and its pods'
//! ways begin. That a Node is Ready tells of one connection that was made; this tells of one that is made now, and where it ends.

use crate::cluster::{Cluster, Plan};
use anyhow::{Context as _, anyhow};
use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// For a connection on this very machine.
const PATIENCE: Duration = Duration::from_secs(2);

/// A connection from a node to the API server.
pub async fn api(node: &Cluster, plan: &Plan) -> anyhow::Result<()> {
    let (space, server) = (node.space(), SocketAddr::from((plan.node_ip(), plan.port)));
    let connect = move || {
        network::worker::enter(&space)?;
        TcpStream::connect_timeout(&server, PATIENCE).map(drop).with_context(|| {
            format!("it does not reach the API server at {server} from its network namespace {}: is there a firewall on this machine?", space.display())
        })
    };
    // A thread of its own, which ends: it stays in the namespace.
    let asked = tokio::task::spawn_blocking(move || std::thread::spawn(connect).join()).await?;
    asked.map_err(|_| anyhow!("the look at a node's network failed"))?
}
