//! The health checks of load balancers: how many ready endpoints of a Service are on this node. Those that finish their work
//! serve on, but are not counted (KEP-1669), so that a balancer goes elsewhere meanwhile.
//!
//! Only Services of type LoadBalancer with `externalTrafficPolicy: Local` have one. Each listens by itself and answers from a
//! number, at the addresses where node ports are; without such Services nothing listens.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use client::ObjectKey;
use dial::guests::{Door, Guest, Places};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Ipv6V6Only;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;

use super::NodePortAddresses;
use crate::nft::Family;

/// Bytes of a request's head.
const MAX_HEAD: usize = 4096;
/// Requests at a time, per Service: of all balancers, and of one.
const MAX_CONNECTIONS: usize = 64;
const MAX_CONNECTIONS_OF_ONE: usize = 16;
const DEADLINE: Duration = Duration::from_secs(5);
/// After an address that is taken.
const RETRY: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(30);

struct Check {
    port: u16,
    endpoints: Arc<AtomicUsize>,
    /// Whoever listens: they end with this.
    _tasks: JoinSet<()>,
}

/// The checks that are answered.
pub(super) struct Checks {
    addresses: Vec<IpAddr>,
    checks: HashMap<ObjectKey, Check>,
}

impl Checks {
    /// Those at a family's addresses.
    pub(super) fn new(at: &NodePortAddresses, family: Family) -> Self {
        let addresses = match at {
            NodePortAddresses::All => vec![family.unspecified()],
            NodePortAddresses::Only(addresses) => addresses.iter().copied().filter(|ip| Family::of(*ip) == family).collect(),
        };
        Self { addresses, checks: HashMap::new() }
    }

    /// Port and local endpoints of a Service; none: it has no check.
    pub(super) fn set(&mut self, service: &ObjectKey, health: Option<(u16, usize)>) {
        let Some((port, endpoints)) = health else {
            self.checks.remove(service);
            return;
        };
        if let Some(check) = self.checks.get(service).filter(|c| c.port == port) {
            check.endpoints.store(endpoints, Ordering::Relaxed);
            return;
        }
        let count = Arc::new(AtomicUsize::new(endpoints));
        let tasks = self.addresses.iter().map(|address| listen((*address, port), service.clone(), count.clone())).collect();
        self.checks.insert(service.clone(), Check { port, endpoints: count, _tasks: tasks });
    }
}

/// Listens at an address alone: all of IPv6's are not IPv4's as well, for which somebody else listens.
fn bind(at: SocketAddr) -> std::io::Result<TcpListener> {
    const BACKLOG: u32 = 128;
    let socket = if at.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    if at.is_ipv6() {
        setsockopt(&socket, Ipv6V6Only, &true)?;
    }
    socket.bind(at)?;
    socket.listen(BACKLOG)
}

async fn listen(at: (IpAddr, u16), service: ObjectKey, endpoints: Arc<AtomicUsize>) {
    let mut pause = RETRY;
    let listener = loop {
        match bind(at.into()) {
            Ok(listener) => break listener,
            // Perhaps the former Service's, whose task is just ending.
            Err(error) => tracing::warn!(%service, port = at.1, %error, "the health check of a Service cannot be answered; trying again"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    };
    let mut door = Door::new("health check", listener, Places::new(MAX_CONNECTIONS, MAX_CONNECTIONS_OF_ONE));
    loop {
        let guest = door.next().await;
        let body = answer(&service, endpoints.load(Ordering::Relaxed));
        tokio::spawn(tokio::time::timeout(DEADLINE, respond(guest, body)));
    }
}

fn answer(service: &ObjectKey, endpoints: usize) -> String {
    let status = if endpoints > 0 { "200 OK" } else { "503 Service Unavailable" };
    let body = serde_json::json!({
        "service": {"namespace": service.namespace, "name": service.name},
        "localEndpoints": endpoints,
        "serviceProxyHealthy": true,
    });
    let body = body.to_string();
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\nX-Load-Balancing-Endpoint-Weight: {endpoints}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

async fn respond(mut stream: Guest, answer: String) -> std::io::Result<()> {
    let mut head = Vec::with_capacity(512);
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        if head.len() > MAX_HEAD || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}
