//! The cluster's certificates while it runs: a look a day, and what ends soon is made anew.
//!
//! A start makes anew what has less than sixty days; a process that runs on looks every day and does the same. What is shown
//! by servers and clients of this process is swapped where it stands, so that no listener and no connection ends; the
//! administrator's kubeconfigs are written again.

use crate::{
    cluster::{Cluster, DOMAIN, Plan},
    host, kubeconfig,
};
use anyhow::Context as _;
use identity::pki::{ClusterNames, ClusterPki, NodePki};
use std::{
    convert::Infallible,
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(24 * 60 * 60);
/// The administrator's kubeconfig in the data directory.
const ADMIN: &str = "kubeconfig/admin.conf";

/// What the API server's certificate says: its own addresses, what was asked for, and where it listens on all addresses
/// the host's.
pub fn names(plan: &Plan, listen: &[IpAddr], asked: &[String]) -> anyhow::Result<ClusterNames> {
    let mut ips: Vec<IpAddr> = [plan.node_ip().into()].into_iter().chain(listen.iter().copied().filter(|ip| !ip.is_unspecified())).collect();
    let mut names = Vec::new();
    if listen.iter().any(IpAddr::is_unspecified) {
        ips.extend(host::addresses().context("this host's addresses")?);
        names.push(host::name());
    }
    for name in asked {
        match name.parse() {
            Ok(ip) => ips.push(ip),
            Err(_) => names.push(name.to_ascii_lowercase()),
        }
    }
    Ok(ClusterNames { domain: DOMAIN.into(), service_ip: plan.api_ip().into(), ips, names })
}

/// Keeps the certificates of a running cluster.
pub struct Keeper {
    cluster: Cluster,
    plan: Plan,
    pki: ClusterPki,
    node: Option<(String, NodePki)>,
    names: ClusterNames,
    user: PathBuf,
}

impl Keeper {
    /// Of the cluster that was just started; `user` is the user's kubeconfig.
    pub fn new(cluster: &Cluster, plan: &Plan, user: &Path, pki: ClusterPki, node: Option<(String, NodePki)>, names: ClusterNames) -> Keeper {
        Keeper { cluster: cluster.clone(), plan: plan.clone(), pki, node, names, user: user.to_owned() }
    }

    /// The context's name.
    pub fn name(&self) -> &str {
        &self.cluster.name
    }

    /// What to do where the user's kubeconfig cannot be written.
    pub fn otherwise(&self) -> String {
        format!("The cluster's own is {}.", self.cluster.data.join(ADMIN).display())
    }

    /// Writes the administrator's kubeconfig beside the data, and its context into the user's.
    pub fn write_contexts(&mut self) -> anyhow::Result<()> {
        let text = self.pki.admin_kubeconfig(&self.cluster.name, &format!("https://127.0.0.1:{}", self.plan.port));
        let own = self.cluster.data.join(ADMIN);
        ClusterPki::write_kubeconfig(&own, &text).with_context(|| own.display().to_string())?;
        // First remembered, then written: a context that a crash leaves is known to be ours.
        kubeconfig::remember(&mut self.plan.contexts, &self.user, &text)?;
        self.cluster.keep(&self.plan)?;
        kubeconfig::merge(&self.user, &text, &self.plan.contexts)
    }

    /// Looks every day.
    pub async fn keep(&mut self) -> Infallible {
        loop {
            tokio::time::sleep(LOOK).await;
            if let Err(error) = self.look(SystemTime::now()) {
                tracing::error!("certificates that end soon cannot be made anew: {error:#}");
            }
        }
    }

    fn look(&mut self, now: SystemTime) -> anyhow::Result<()> {
        let node_ends = self.node.as_ref().is_some_and(|(_, own)| own.ends_soon(now));
        if !self.pki.ends_soon(now) && !node_ends {
            return Ok(());
        }
        self.pki.renew(&self.names)?;
        if let Some((name, own)) = &mut self.node {
            self.pki.renew_node(own, name, &[self.plan.node_ip().into()])?;
        }
        tracing::warn!("certificates that would have ended soon were made anew");
        self.write_contexts()
    }
}
