//! What a node must know of its cluster: the ConfigMap `kube-system/knarr-node`, which the control plane publishes, and any administrator
//! of another cluster may.
//!
//! | key | what it says |
//! | --- | --- |
//! | `clusterCIDR` | all pods' ranges, one or two |
//! | `serviceCIDR` | the Services' |
//! | `clusterDNS` | the address of the cluster's DNS [the tenth of the Services'] |
//! | `clusterDomain` | its domain [`cluster.local`] |
//! | `podNetwork` | how machines' pods are joined: `vxlan`, `routes`, `none` [`vxlan`] |
//! | `disabled` | the parts of a node that are somebody else's: `proxy`, `dns` |

use crate::{
    cli::Component,
    cluster::{Cluster, DOMAIN, Plan},
};
use anyhow::{Context as _, bail};
use network::{Cidr, Net, mesh::Kind};
use std::{collections::BTreeMap, net::IpAddr};

/// Where it is.
pub const NAMESPACE: &str = "kube-system";
/// Its name.
pub const NAME: &str = "knarr-node";

/// What it says, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// All pods' ranges.
    pub pods: Vec<Net>,
    /// The Services'.
    pub services: Vec<Net>,
    /// How machines' pods are joined.
    pub kind: Kind,
    /// Parts of a node that are somebody else's.
    pub disabled: Vec<Component>,
}

fn ranges(data: &BTreeMap<String, String>, key: &str) -> anyhow::Result<Vec<Net>> {
    let text = data.get(key).with_context(|| format!("{NAMESPACE}/{NAME} has no {key}"))?;
    let all = text.split(',').map(str::trim).filter(|t| !t.is_empty());
    let all = all.map(|t| t.parse::<Net>().with_context(|| format!("{key} in {NAMESPACE}/{NAME}"))).collect::<anyhow::Result<Vec<_>>>()?;
    if !all.iter().any(|net| net.is_ipv4()) {
        bail!("{key} in {NAMESPACE}/{NAME} has no range of IPv4, which a node of this version needs");
    }
    Ok(all)
}

/// Parts that a node can do without; others are the control plane's.
fn parts(text: &str) -> Vec<Component> {
    let named = |name: &str| match name {
        "proxy" => Some(Component::Proxy),
        "dns" => Some(Component::Dns),
        _ => None,
    };
    text.split(',').filter_map(|name| named(name.trim())).collect()
}

fn ipv4(ranges: &[Net]) -> anyhow::Result<Cidr> {
    let first = ranges.iter().find(|net| net.is_ipv4()).context("there is no range of IPv4")?;
    Ok(first.to_string().parse()?)
}

impl Settings {
    /// Reads the ConfigMap's data.
    pub fn read(data: &BTreeMap<String, String>) -> anyhow::Result<Settings> {
        let settings = Settings {
            pods: ranges(data, "clusterCIDR")?,
            services: ranges(data, "serviceCIDR")?,
            disabled: parts(data.get("disabled").map_or("", String::as_str)),
            kind: data.get("podNetwork").map(|kind| kind.parse()).transpose().with_context(|| format!("podNetwork in {NAMESPACE}/{NAME}"))?.unwrap_or_default(),
        };
        // What nodes are told nowhere else yet must be what they take for granted.
        if let Some(other) = data.get("clusterDomain").filter(|domain| *domain != DOMAIN) {
            bail!("the cluster's domain is {other}: nodes of this version are for {DOMAIN} alone");
        }
        let usual = ipv4(&settings.services)?.nth(10);
        let told = data.get("clusterDNS").and_then(|all| all.split(',').filter_map(|ip| ip.trim().parse::<IpAddr>().ok()).find(IpAddr::is_ipv4));
        if let Some(other) = told.filter(|told| Some(*told) != usual.map(IpAddr::V4)) {
            bail!("the cluster's DNS is at {other}: nodes of this version are for the tenth address of the Services alone");
        }
        Ok(settings)
    }

    /// Its addresses, as they are kept for a cluster of this machine; so others that start here choose other ones.
    pub fn plan(&self, cluster: &Cluster, port: u16) -> anyhow::Result<Plan> {
        let (pods, services) = (ipv4(&self.pods)?, ipv4(&self.services)?);
        // As the file has it: what it says of clusters that have their control plane here is left out.
        Ok(serde_json::from_value(serde_json::json!({
            "name": cluster.name, "data": cluster.data, "port": port,
            "pods": pods.base(), "pods_prefix": pods.prefix(), "services": services.base(), "services_prefix": services.prefix(),
        }))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(change: &[(&str, &str)]) -> anyhow::Result<Settings> {
        let usual = [
            ("clusterCIDR", "10.244.0.0/16, fd00:10:244::/56"),
            ("serviceCIDR", "10.96.0.0/16"),
            ("clusterDNS", "10.96.0.10"),
            ("clusterDomain", "cluster.local"),
            ("podNetwork", "routes"),
        ];
        let mut data: BTreeMap<String, String> = usual.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        data.extend(change.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        data.retain(|_, value| !value.is_empty());
        Settings::read(&data)
    }

    #[test]
    fn what_the_control_plane_publishes_is_read() {
        let settings = read(&[]).unwrap();
        assert_eq!((settings.pods.len(), settings.kind), (2, Kind::Routes));
        assert_eq!(read(&[("disabled", "storage,dns")]).unwrap().disabled, [Component::Dns]);
        assert_eq!(read(&[("clusterDNS", ""), ("clusterDomain", ""), ("podNetwork", "")]).unwrap().kind, Kind::Vxlan);
        let cluster = Cluster { name: "n".into(), data: "/d".into(), run: "/r".into() };
        let plan = settings.plan(&cluster, 6443).unwrap();
        assert_eq!(
            (plan.pod_cidr().to_string(), plan.service_cidr().to_string(), plan.dns_ip().to_string()),
            ("10.244.0.0/16".into(), "10.96.0.0/16".into(), "10.96.0.10".into())
        );
    }

    #[test]
    fn what_cannot_be_done_is_refused_in_words() {
        for (key, value, why) in [
            ("clusterCIDR", "", "has no clusterCIDR"),
            ("clusterCIDR", "fd00::/56", "no range of IPv4"),
            ("serviceCIDR", "somewhere", "serviceCIDR in kube-system/knarr-node"),
            ("clusterDNS", "10.96.0.53", "10.96.0.53"),
            ("clusterDomain", "example.com", "example.com"),
            ("podNetwork", "flannel", "podNetwork in kube-system/knarr-node"),
        ] {
            let told = format!("{:#}", read(&[(key, value)]).unwrap_err());
            assert!(told.contains(why), "{key}: {told}");
        }
    }
}
