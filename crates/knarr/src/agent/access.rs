//! The node's way to the API servers: one of several, by the certificate that it has at the moment.

use super::cluster_info;
use crate::cluster::Joined;
use client::{Client, Credentials, Endpoint, Failover, HttpTransport, Transport};
use kubelet::certificates::Pair;
use std::sync::Arc;

/// The way; cheap to clone.
#[derive(Clone)]
pub struct Access {
    servers: Vec<String>,
    ca: String,
    ways: Failover,
}

impl Access {
    /// As the node.
    pub fn new(joined: &Joined, pair: &Pair) -> anyhow::Result<Access> {
        Self::with(joined, || Ok(pair.credentials()?))
    }

    /// As whoever has these credentials.
    pub fn with(joined: &Joined, credentials: impl Fn() -> anyhow::Result<Credentials>) -> anyhow::Result<Access> {
        let ways = Failover::new(transports(&joined.servers, &joined.ca, credentials)?)?;
        Ok(Access { servers: joined.servers.clone(), ca: joined.ca.clone(), ways })
    }

    /// A client by this way; it stays one when the certificate is renewed.
    pub fn client(&self) -> Client {
        Client::new(Arc::new(self.ways.clone()))
    }

    /// Shows another certificate from now on. Watches that are open end as they would have: a server ends them after some minutes.
    pub fn renew(&self, pair: &Pair) -> anyhow::Result<()> {
        Ok(self.ways.replace(transports(&self.servers, &self.ca, || Ok(pair.credentials()?))?)?)
    }
}

fn transports(servers: &[String], ca: &str, credentials: impl Fn() -> anyhow::Result<Credentials>) -> anyhow::Result<Vec<Arc<dyn Transport>>> {
    let authorities = cluster_info::authorities(ca)?;
    let one = |server: &String| {
        let credentials = credentials()?;
        let endpoint = Endpoint { server: server.clone(), authorities: authorities.clone(), server_name: None, insecure: false, credentials };
        anyhow::Ok(Arc::new(HttpTransport::new(endpoint)?) as Arc<dyn Transport>)
    };
    servers.iter().map(one).collect()
}
