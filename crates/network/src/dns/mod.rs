//! The cluster's name server on this node.
//!
//! It listens on the node's own address; the Service `kube-system/kube-dns` with the well-known cluster address leads there
//! through the service proxy, ours or another's, like any Service. Names of the cluster are answered from the informers' memory
//! (`zone.rs`), at once and in the loop that receives; other names are asked of the host's name servers (`forward.rs`).

mod clients;
mod forward;
mod publish;
mod server;
#[cfg(test)]
mod tests;
mod zone;

pub use forward::Upstream;
pub use publish::{is_anothers, service, withdraw};

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use client::{Client, Informers};
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use tokio::net::UdpSocket;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::cidr::Net;
use crate::nft::Family;
use crate::ranges::ServiceRanges;
use crate::{Error, Result};
use clients::Own;
use forward::Forwarder;
use zone::Zone;

/// The port of DNS.
pub const PORT: u16 = 53;
/// Between two looks, at the start alone, whether the cluster's address leads here.
const PROBE: Duration = Duration::from_millis(5);
/// Between two attempts to open sockets that have failed.
const REOPEN: Duration = Duration::from_secs(1);
/// Without a proxy, DNS is as ready as it will be.
const PROXY_TIMEOUT: Duration = Duration::from_secs(5);

/// How a node's name server works.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name.
    pub node_name: String,
    /// The node's address, where it listens: on port 53, or if that is taken, on another that the Service then leads to.
    pub listen: IpAddr,
    /// The well-known address of `kube-system/kube-dns`.
    pub cluster_ip: IpAddr,
    /// The cluster's domain.
    pub domain: String,
    /// The pods' and Services' ranges, beside those of ServiceCIDRs: nobody outside knows their reverse names.
    pub own_ranges: Vec<Net>,
    /// Where other names are asked.
    pub upstream: Upstream,
    /// Who keeps the Service `kube-dns` and this node's EndpointSlice of it in the API; none: somebody else does.
    pub publish: Option<Client>,
}

/// Seconds since 1970: a zone's serial number only has to grow.
fn serial() -> u32 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs() as u32)
}

/// Waits until a question to the cluster's address is answered, as a pod's would be.
async fn reachable(address: IpAddr) {
    let mut question = Message::query();
    question.add_query(Query::query(Name::root(), RecordType::NULL));
    question.queries[0].set_query_class(DNSClass::CH);
    let Ok(question) = question.to_vec() else { return };
    loop {
        // A new socket each time: a flow that began before the Service was translated would stay astray.
        let attempt = async {
            let socket = UdpSocket::bind((Family::of(address).unspecified(), 0)).await?;
            socket.connect((address, PORT)).await?;
            socket.send(&question).await?;
            socket.recv(&mut [0; 512]).await
        };
        if let Ok(Ok(_)) = tokio::time::timeout(PROBE, attempt).await {
            return;
        }
        tokio::time::sleep(PROBE).await;
    }
}

/// Answers until `shutdown`; `ready` becomes true when names are answered from a whole memory, at the cluster's address.
pub async fn run(config: Config, informers: Informers, shutdown: CancellationToken, ready: watch::Sender<bool>) -> Result<()> {
    let own_ranges = ServiceRanges::new(config.own_ranges.iter().copied(), informers.informer());
    let zone = Zone::new(&config.domain, config.cluster_ip, own_ranges, informers.informer(), informers.informer(), informers.informer())?;
    let mut sockets = server::Sockets::bind(config.listen, PORT).await.map_err(|e| Error::io(format!("listen on {}", config.listen), e))?;
    let port = sockets.port();
    let own = vec![config.listen, config.cluster_ip];
    let forwarder = Forwarder::new(config.upstream.clone(), own);
    let published = Notify::new();
    let publish = async {
        match &config.publish {
            Some(client) => publish::keep(client, &config, port, &informers, || published.notify_one()).await,
            None => published.notify_one(),
        }
        std::future::pending::<()>().await
    };
    let tell = async {
        published.notified().await;
        zone.synced().await;
        if config.publish.is_some() && tokio::time::timeout(PROXY_TIMEOUT, reachable(config.cluster_ip)).await.is_err() {
            tracing::warn!(address = %config.cluster_ip, "no service proxy leads the cluster's DNS address here");
        }
        tracing::info!(address = %config.listen, port, "DNS answers");
        ready.send_replace(true);
        std::future::pending::<()>().await
    };
    let serve = async {
        // A question that comes before the memory is whole waits in the socket: it must not hear that a name does not exist.
        zone.synced().await;
        let answerer = server::Answerer::new(zone.clone(), forwarder, Own::new(config.own_ranges.clone()));
        loop {
            let Err(error) = server::serve(&sockets, answerer.clone()).await else { continue };
            tracing::warn!(%error, "DNS opens its sockets anew");
            // The Service leads to this port.
            sockets = loop {
                tokio::time::sleep(REOPEN).await;
                match server::Sockets::at(config.listen, port).await {
                    Ok(sockets) => break sockets,
                    Err(error) => tracing::warn!(%error, address = %config.listen, port, "DNS cannot listen; trying again"),
                }
            };
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        () = publish => Ok(()),
        () = tell => Ok(()),
        () = serve => Ok(()),
    }
}
