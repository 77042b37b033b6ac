//! Flags of `knarr agent` that say of a cluster what it does not tell its nodes by itself, or tells otherwise.

use clap::Args;
use network::{Net, mesh::Kind};
use std::{collections::BTreeMap, net::IpAddr};

/// What they say comes before what the cluster tells.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "The cluster [default: as it tells its nodes itself, by ConfigMap kube-system/knarr-node or by kubeadm's]")]
pub struct ClusterFlags {
    /// All pods' ranges
    #[arg(long, value_delimiter = ',')]
    pub cluster_cidr: Vec<Net>,
    /// The Services' ranges
    #[arg(long, value_delimiter = ',')]
    pub service_cidr: Vec<Net>,
    /// Addresses of its DNS
    #[arg(long, value_delimiter = ',')]
    pub cluster_dns: Vec<IpAddr>,
    /// Its domain
    #[arg(long, value_parser = domain)]
    pub cluster_domain: Option<String>,
    /// How this machine's pods are joined to others': vxlan, routes, none (by somebody else)
    #[arg(long)]
    pub pod_network: Option<Kind>,
}

fn domain(text: &str) -> Result<String, String> {
    machinery::names::dns1123_subdomain(text).into_iter().next().map_or_else(|| Ok(text.to_owned()), Err)
}

fn list<T: ToString>(all: &[T]) -> Option<String> {
    (!all.is_empty()).then(|| all.iter().map(T::to_string).collect::<Vec<_>>().join(","))
}

impl ClusterFlags {
    /// What the cluster tells, with what the flags say in its place.
    pub fn over(&self, told: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let said = [
            ("clusterCIDR", list(&self.cluster_cidr)),
            ("serviceCIDR", list(&self.service_cidr)),
            ("clusterDNS", list(&self.cluster_dns)),
            ("clusterDomain", self.cluster_domain.clone()),
            ("podNetwork", self.pod_network.map(|kind| kind.to_string())),
        ];
        let said = said.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        told.clone().into_iter().chain(said).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_comes_before_what_is_told() {
        let told = BTreeMap::from([("clusterCIDR".to_owned(), "10.1.0.0/16".to_owned()), ("podNetwork".to_owned(), "none".to_owned())]);
        assert_eq!(ClusterFlags::default().over(&told), told);
        let flags = ClusterFlags {
            cluster_cidr: ["10.2.0.0/16", "fd00::/56"].map(|net| net.parse().unwrap()).to_vec(),
            cluster_dns: vec!["10.96.0.53".parse().unwrap()],
            ..ClusterFlags::default()
        };
        let said = flags.over(&told);
        assert_eq!([&said["clusterCIDR"], &said["clusterDNS"], &said["podNetwork"]], ["10.2.0.0/16,fd00::/56", "10.96.0.53", "none"]);
    }
}
