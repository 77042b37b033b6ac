//! [`PodNet`] over the pod network.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;

use async_trait::async_trait;
use network::pod::{AttachRequest, PodNetwork};

use crate::cri::{CriError, HostPort, PodNet, SandboxId};

/// The pod network of this node.
pub struct RealNet {
    inner: PodNetwork,
}

impl RealNet {
    /// Over a network that is open.
    #[must_use]
    pub fn new(inner: PodNetwork) -> Self {
        Self { inner }
    }
}

fn error(e: network::Error) -> CriError {
    CriError::Other(e.to_string())
}

/// The network's view of a port. At an address of a family that pods do not have it leads nowhere.
fn port(p: HostPort) -> network::pod::HostPort {
    network::pod::HostPort { host_ip: p.host_ip, host_port: p.host_port, container_port: p.container_port, protocol: p.protocol }
}

#[async_trait]
impl PodNet for RealNet {
    async fn attach(&self, sandbox: &SandboxId, netns: &Path, host_ports: Vec<HostPort>) -> Result<Vec<IpAddr>, CriError> {
        let request = AttachRequest { sandbox_id: sandbox.0.clone(), host_ports: host_ports.into_iter().map(port).collect() };
        let got = self.inner.attach(netns, request).await.map_err(error)?;
        Ok(got.ips)
    }

    async fn detach(&self, sandbox: &SandboxId) -> Result<(), CriError> {
        self.inner.detach(&sandbox.0).await.map_err(error)
    }

    async fn adopt(&self, live: &HashSet<SandboxId>) -> Result<(), CriError> {
        let live = live.iter().map(|s| s.0.clone()).collect();
        self.inner.adopt(&live).await.map_err(error)
    }
}
