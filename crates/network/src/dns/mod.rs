//! The cluster's name server on this node.
//!
//! It listens on the node's own address; the Service `kube-system/kube-dns` with the well-known cluster address leads there
//! through the service proxy, ours or another's, like any Service. Names of the cluster are answered from the informers' memory
//! (`zone.rs`), at once and in the loop that receives; other names are asked of the host's name servers (`forward.rs`).

mod forward;
mod publish;
mod server;
#[cfg(test)]
mod tests;
mod zone;

pub use forward::Upstream;

use std::net::{IpAddr, Ipv4Addr};
use std::time::SystemTime;

use client::Informers;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cidr::Cidr;
use crate::{Error, Result};
use forward::Forwarder;
use zone::Zone;

/// The port of DNS.
const PORT: u16 = 53;

/// How a node's name server works.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name.
    pub node_name: String,
    /// The node's address, where it listens: on port 53, or if that is taken, on another that the Service then leads to.
    pub listen: Ipv4Addr,
    /// The well-known address of `kube-system/kube-dns`.
    pub cluster_ip: Ipv4Addr,
    /// The cluster's domain.
    pub domain: String,
    /// The pods' and Services' ranges: nobody outside knows their reverse names.
    pub own_ranges: Vec<Cidr>,
    /// Where other names are asked.
    pub upstream: Upstream,
    /// Keeps the Service `kube-dns` and this node's EndpointSlice of it in the API.
    pub publish: bool,
}

/// Seconds since 1970: a zone's serial number only has to grow.
fn serial() -> u32 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs() as u32)
}

/// Answers until `shutdown`; `ready` becomes true when names are answered from a whole memory and the Service leads here.
pub async fn run(config: Config, informers: Informers, shutdown: CancellationToken, ready: watch::Sender<bool>) -> Result<()> {
    let zone = Zone::new(
        &config.domain,
        config.cluster_ip,
        config.own_ranges.clone(),
        informers.informer(),
        informers.informer(),
        informers.informer(),
    )?;
    let sockets = server::Sockets::bind(config.listen, PORT).await.map_err(|e| Error::io(format!("listen on {}", config.listen), e))?;
    let own = vec![IpAddr::V4(config.listen), IpAddr::V4(config.cluster_ip)];
    let forwarder = Forwarder::new(config.upstream.clone(), own);
    let publish = async {
        if config.publish {
            publish::keep(informers.client(), &config, sockets.port()).await;
        }
        zone.synced().await;
        tracing::info!(address = %config.listen, port = sockets.port(), "DNS answers");
        ready.send_replace(true);
        std::future::pending::<()>().await
    };
    let serve = async {
        // A question that comes before the memory is whole waits in the socket: it must not hear that a name does not exist.
        zone.synced().await;
        server::serve(&sockets, server::Answerer::new(zone.clone(), forwarder)).await
    };
    tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        () = publish => Ok(()),
        result = serve => result.map_err(|e| Error::io("receive DNS questions", e)),
    }
}
