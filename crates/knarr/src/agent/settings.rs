//! What a node must know of its cluster. [`super::told`] says by whom.
//!
//! | key | what it says |
//! | --- | --- |
//! | `clusterCIDR` | all pods' ranges, one or one of each family, the first family's first |
//! | `serviceCIDR` | the Services'; nodes have the families that both have |
//! | `clusterDNS` | the addresses of the cluster's DNS; empty: it has none [the tenth of the Services' first range] |
//! | `clusterDomain` | its domain [`cluster.local`] |
//! | `podNetwork` | how machines' pods are joined: `vxlan`, `routes`, `none` [`vxlan`] |
//! | `disabled` | the parts of a node that are somebody else's: `proxy`, `dns` |
//! | `serverTLSBootstrap` | whether the cluster's authority signs for the kubelet's own API, as KubeletConfiguration has it [`true`] |
//! | `from` | who says it, if the cluster has nothing for nodes of knarr's: `kubeadm`, `flags` |

use crate::{
    cli::Component,
    cluster::{Cluster, DOMAIN, Plan},
    node_rights::{NAME, NAMESPACE},
};
use anyhow::{Context as _, bail};
use network::{Net, mesh::Kind};
use std::{collections::BTreeMap, net::IpAddr};

/// As it is told and kept.
pub type Data = BTreeMap<String, String>;

/// What it says, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// All pods' ranges, of the families that both have.
    pub pods: Vec<Net>,
    /// The Services', of the same families.
    pub services: Vec<Net>,
    /// Whom pods ask for names.
    pub dns: Vec<IpAddr>,
    /// The domain that is looked in.
    pub domain: String,
    /// How machines' pods are joined.
    pub kind: Kind,
    /// Parts of a node that are somebody else's.
    pub disabled: Vec<Component>,
    /// Whether somebody signs for the kubelet's own API.
    pub is_signed_for: bool,
    /// Whether the cluster lets its nodes read what those of knarr's do: all Nodes, Services and where they lead.
    pub reads_all: bool,
}

fn ranges(data: &Data, key: &str, flag: &str) -> anyhow::Result<Vec<Net>> {
    let text = data.get(key).with_context(|| format!("nobody says the cluster's {key}, neither {NAMESPACE}/{NAME} nor kubeadm: {flag} does"))?;
    let all = text.split(',').map(str::trim).filter(|t| !t.is_empty());
    let all = all.map(|t| t.parse::<Net>().with_context(|| format!("{key} of the cluster"))).collect::<anyhow::Result<Vec<_>>>()?;
    match all[..] {
        [_] => Ok(all),
        [one, other] if one.is_ipv4() != other.is_ipv4() => Ok(all),
        _ => bail!("{key} of the cluster is neither one range nor one of each family"),
    }
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

impl Settings {
    /// Reads what is told.
    pub fn read(data: &Data) -> anyhow::Result<Settings> {
        let (all, services) = (ranges(data, "clusterCIDR", "--cluster-cidr")?, ranges(data, "serviceCIDR", "--service-cidr")?);
        let of = |pods: Net| Some((pods, services.iter().copied().find(|range| range.family() == pods.family())?));
        let (pods, services): (Vec<Net>, Vec<Net>) = all.iter().filter_map(|pods| of(*pods)).unzip();
        let first = services.first().filter(|_| pods.first() == all.first());
        let first = first.with_context(|| format!("serviceCIDR of the cluster has no range of the family of its pods' first ({})", all[0]))?;
        let dns = match data.get("clusterDNS") {
            None => first.nth(10).into_iter().collect(),
            Some(all) => all
                .split(',')
                .map(str::trim)
                .filter(|t| !t.is_empty())
                .map(|t| t.parse().with_context(|| format!("clusterDNS of the cluster: {t:?} is no address")))
                .collect::<anyhow::Result<_>>()?,
        };
        let kind = data.get("podNetwork").map(|kind| kind.parse()).transpose().context("podNetwork of the cluster")?.unwrap_or_default();
        let reads_all = !data.contains_key("from");
        if !reads_all && kind != Kind::None {
            bail!(
                "--pod-network {kind} follows all Nodes, which this cluster lets none of its nodes read: `knarr agent --print-manifest …` prints the rights \
                 (and {NAMESPACE}/{NAME}) for an administrator to apply"
            );
        }
        Ok(Settings {
            pods,
            services,
            dns,
            domain: data.get("clusterDomain").filter(|domain| !domain.is_empty()).map_or(DOMAIN, String::as_str).to_owned(),
            kind,
            disabled: parts(data.get("disabled").map_or("", String::as_str)),
            is_signed_for: data.get("serverTLSBootstrap").is_none_or(|told| told != "false"),
            reads_all,
        })
    }

    /// Its addresses, as they are kept for a cluster of this machine; so others that start here choose other ones.
    pub fn plan(&self, cluster: &Cluster, port: u16) -> anyhow::Result<Plan> {
        let (Some(pods), Some(services)) = (self.pods.first(), self.services.first()) else { bail!("the cluster has no ranges") };
        // As the file has it: what it says of clusters that have their control plane here is left out.
        Ok(serde_json::from_value(serde_json::json!({
            "name": cluster.name, "data": cluster.data, "port": port,
            "pods": pods.base(), "pods_prefix": pods.prefix(), "services": services.base(), "services_prefix": services.prefix(),
            "second": self.pods.get(1).zip(self.services.get(1)).map(|(pods, services)| [pods.to_string(), services.to_string()]),
        }))?)
    }

    /// All ranges of the cluster.
    pub fn ranges(&self) -> Vec<Net> {
        [&self.pods[..], &self.services].concat()
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
        let mut data: Data = usual.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        data.extend(change.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        data.retain(|_, value| value != "-");
        Settings::read(&data)
    }

    #[test]
    fn what_the_control_plane_publishes_is_read() {
        let settings = read(&[]).unwrap();
        assert_eq!((settings.pods.len(), settings.kind), (1, Kind::Routes), "Services have the first family alone");
        assert!(settings.is_signed_for && settings.reads_all);
        let both = read(&[("clusterCIDR", "fd00:1::/56,10.244.0.0/16"), ("serviceCIDR", "10.96.0.0/16,fd00:2::/112"), ("clusterDNS", "-")]).unwrap();
        let cluster = Cluster { name: "n".into(), data: "/d".into(), run: "/r".into() };
        let plan = both.plan(&cluster, 6443).unwrap();
        assert_eq!((plan.pod_cidrs(), plan.service_cidrs(), vec![plan.dns_ip()]), (both.pods.clone(), both.services, both.dns));
        assert_eq!(read(&[("disabled", "storage,dns")]).unwrap().disabled, [Component::Dns]);
        let usual = read(&[("clusterDNS", "-"), ("clusterDomain", "-"), ("podNetwork", "-")]).unwrap();
        assert_eq!(usual, Settings { kind: Kind::Vxlan, ..settings.clone() });
        let cluster = Cluster { name: "n".into(), data: "/d".into(), run: "/r".into() };
        let plan = settings.plan(&cluster, 6443).unwrap();
        assert_eq!(
            (plan.pod_cidr().to_string(), plan.service_cidr().to_string(), plan.dns_ip().to_string()),
            ("10.244.0.0/16".into(), "10.96.0.0/16".into(), "10.96.0.10".into())
        );
    }

    #[test]
    fn dns_is_where_it_is_told() {
        assert_eq!(read(&[("clusterDNS", "10.96.0.53, fd00::a")]).unwrap().dns, ["10.96.0.53", "fd00::a"].map(|ip| ip.parse::<IpAddr>().unwrap()));
        assert!(read(&[("clusterDNS", "")]).unwrap().dns.is_empty());
        assert_eq!(read(&[("clusterDomain", "example.com")]).unwrap().domain, "example.com");
    }

    #[test]
    fn what_cannot_be_done_is_refused_in_words() {
        for (key, value, why) in [
            ("clusterCIDR", "-", "nobody says the cluster's clusterCIDR"),
            ("clusterCIDR", "fd00::/56", "no range of the family of its pods' first"),
            ("clusterCIDR", "fd00:10:244::/56,10.244.0.0/16", "no range of the family of its pods' first"),
            ("clusterCIDR", "10.0.0.0/16,10.1.0.0/16", "neither one range nor one of each family"),
            ("serviceCIDR", "somewhere", "serviceCIDR of the cluster"),
            ("clusterDNS", "ns.example.com", "\"ns.example.com\" is no address"),
            ("podNetwork", "flannel", "podNetwork of the cluster"),
            // Without rights of its own.
            ("from", "kubeadm", "--print-manifest"),
        ] {
            let told = format!("{:#}", read(&[(key, value)]).unwrap_err());
            assert!(told.contains(why), "{key}: {told}");
        }
    }
}
