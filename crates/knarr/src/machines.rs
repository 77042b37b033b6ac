//! What a cluster has for nodes of other machines (`up --advertise-address`): what they must know before they are trusted and after, what
//! they may, and how this machine is joined to theirs.
//!
//! Names and rights are those that kubeadm sets up, so that its tools and the original's kubelets find what they look for; what knarr's
//! own nodes need beside it is named `knarr-…`.

use crate::{
    cli::{Component, Up},
    cluster::{Cluster, DOMAIN, Plan, list, nodes::FIRST},
    host, manifest, node_rights,
};
use anyhow::{Context as _, anyhow, bail};
use client::Client;
use controllers::{Held, Machines};
use identity::pki::{ClusterNames, ClusterPki, Kubelets};
use network::{
    Mark,
    mesh::{self, Kind},
    pod::OwnPort,
    proxy::NodePortAddresses,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

/// What kubeadm gives whoever joins (`kubeadm init phase bootstrap-token`), and what the controllers may that serve such nodes.
const RIGHTS: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: "kubeadm:bootstrap-signer-clusterinfo", namespace: kube-public}
rules: [{apiGroups: [""], resources: [configmaps], resourceNames: [cluster-info], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: "kubeadm:bootstrap-signer-clusterinfo", namespace: kube-public}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: "kubeadm:bootstrap-signer-clusterinfo"}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: "system:anonymous"}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: "kubeadm:get-nodes"}
rules: [{apiGroups: [""], resources: [nodes], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "kubeadm:get-nodes"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "kubeadm:get-nodes"}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:bootstrappers:kubeadm:default-node-token"}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "kubeadm:kubelet-bootstrap"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:node-bootstrapper"}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:bootstrappers:kubeadm:default-node-token"}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "kubeadm:node-autoapprove-bootstrap"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:certificates.k8s.io:certificatesigningrequests:nodeclient"}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:bootstrappers:kubeadm:default-node-token"}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "kubeadm:node-autoapprove-certificate-rotation"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient"}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:nodes"}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: "system:knarr-machines"}
rules: [{apiGroups: [""], resources: [nodes], verbs: [patch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "system:knarr-machines"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:knarr-machines"}
subjects: [{kind: ServiceAccount, name: knarr-machines, namespace: kube-system}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: "system:knarr-machines", namespace: kube-system}
rules: [{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [create, update, delete]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: "system:knarr-machines", namespace: kube-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: "system:knarr-machines"}
subjects: [{kind: ServiceAccount, name: knarr-machines, namespace: kube-system}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: "system:knarr-kubelet-serving-approver"}
rules:
- {apiGroups: [certificates.k8s.io], resources: [certificatesigningrequests/approval], verbs: [update]}
- {apiGroups: ["", events.k8s.io], resources: [events], verbs: [create, patch, update]}
- {apiGroups: [certificates.k8s.io], resources: [signers], resourceNames: [kubernetes.io/kubelet-serving], verbs: [approve]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "system:knarr-kubelet-serving-approver"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:knarr-kubelet-serving-approver"}
subjects: [{kind: ServiceAccount, name: knarr-kubelet-serving-approver, namespace: kube-system}]
"#;

/// Controllers that the original leaves off unless they are named: who joins by a token needs them.
const CONTROLLERS: [&str; 3] = ["*", "bootstrap-signer-controller", "token-cleaner-controller"];

/// Refuses an address at which nobody would reach the cluster.
pub fn check(plan: &Plan) -> anyhow::Result<()> {
    let Some(ip) = plan.advertise.first().copied() else {
        if plan.pod_network != Kind::default() {
            bail!("--pod-network {} joins machines: it goes with --advertise-address", plan.pod_network);
        }
        return Ok(());
    };
    if ip.is_ipv4() != plan.service_cidr().is_ipv4() {
        bail!("service IP family {} must match public address family {ip}: --advertise-address takes one of the first family first", plan.service_cidr());
    }
    let services = plan.service_cidrs();
    match plan.advertise.get(1..).unwrap_or_default() {
        [] => {}
        [second] if second.is_ipv4() != ip.is_ipv4() && services.len() == 2 => {}
        [second, ..] => bail!("{second} is no second address of this cluster's: --advertise-address takes one of each family that the cluster has"),
    }
    let own = host::addresses().context("this machine's addresses")?;
    for ip in &plan.advertise {
        if !own.contains(ip) {
            bail!("{ip}, at which nodes of other machines reach the cluster, is no address of this machine: --advertise-address says another");
        }
        if plan.ranges().iter().any(|range| range.contains(*ip)) {
            bail!("{ip} is one of the cluster's own addresses, which other machines do not reach: --advertise-address says another");
        }
    }
    Ok(())
}

/// Where other machines reach the API server.
fn server(plan: &Plan) -> Option<String> {
    plan.advertise.first().map(|ip| format!("https://{}", SocketAddr::new(*ip, plan.port)))
}

/// What pods' links may carry on this machine, if they lead to others.
pub fn mtu(plan: &Plan) -> anyhow::Result<Option<u32>> {
    plan.advertise.first().map(|ip| mesh::mtu(plan.pod_network, *ip)).transpose().context("the way to other machines' pods")
}

/// This machine's address, if pods of others are reached by VXLAN.
pub fn tunnel(plan: &Plan) -> Option<IpAddr> {
    plan.advertise.first().copied().filter(|_| plan.pod_network == Kind::Vxlan)
}

/// The one of a machine's addresses by which pods of other machines are reached by routes, of IPv4, where node ports are served at the
/// loopback: else its link is left as it is.
pub fn lan(kind: Kind, addresses: &[IpAddr], node_ports: Option<&NodePortAddresses>) -> Option<Ipv4Addr> {
    let of = |ip: &IpAddr| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None };
    addresses.iter().find_map(of).filter(|_| kind == Kind::Routes && node_ports.is_some_and(NodePortAddresses::at_loopback))
}

/// The port at which the kernel itself listens then.
pub fn tunnel_port(tunnel: Option<IpAddr>) -> Option<OwnPort> {
    tunnel.map(|_| OwnPort { ip: None, port: mesh::VXLAN_PORT, protocol: "UDP" })
}

/// How this machine's first node, which has the routes of all its nodes, is joined to other machines.
pub fn mesh(cluster: &Cluster, plan: &Plan, node: &str) -> Option<mesh::Config> {
    if plan.advertise.is_empty() {
        return None;
    }
    let own = mesh::Own { node: node.to_owned(), kind: plan.pod_network, addresses: plan.advertise.clone(), cluster: plan.pod_cidrs() };
    Some(mesh::Config { mark: Mark::new(&cluster.name), own, gateways: plan.node_ips() })
}

/// What a node may bring along of the pods' range; in a cluster of this machine alone nobody is kept from anything.
pub fn node_ranges(plan: &Plan) -> Vec<(String, u8)> {
    if plan.advertise.is_empty() { Vec::new() } else { plan.node_parts() }
}

/// The controllers' settings.
pub fn controllers(config: controllers::Config, cluster: &Cluster, plan: &Plan, names: &ClusterNames) -> controllers::Config {
    if plan.advertise.is_empty() {
        return config;
    }
    let held = {
        let (cluster, plan) = (cluster.clone(), plan.clone());
        move || held(&cluster, &plan).map_err(|error| format!("{error:#}"))
    };
    let ranges = (list(&plan.pod_cidrs()), list(&plan.service_cidrs()));
    let machines = Machines::new(plan.advertise.clone(), names.all(), DOMAIN.to_owned(), (&ranges.0, &ranges.1), held);
    controllers::Config { enabled: CONTROLLERS.map(str::to_owned).to_vec(), machines: Some(machines), ..config }
}

/// The nodes of this machine with their ranges; none is added meanwhile.
fn held(cluster: &Cluster, plan: &Plan) -> anyhow::Result<Held> {
    let (wishes, lock) = cluster.held_wishes()?;
    let all = wishes.into_iter().map(|wish| (wish.name, wish.number)).chain([(plan.node.clone(), FIRST)]);
    let ranges = |number| Some(plan.parts(number).ok()?.iter().map(|part| part.pod_cidr.to_string()).collect());
    let nodes: BTreeMap<_, _> = all.filter_map(|(name, number)| Some((name, ranges(number)?))).collect();
    Ok(Held { nodes, lock: Box::new(lock) })
}

/// The file of further authorities of kubelets, which must have some.
pub fn authorities(up: &Up) -> anyhow::Result<Option<Vec<u8>>> {
    let Some(file) = &up.machines.kubelet_certificate_authority else { return Ok(None) };
    let told = || format!("--kubelet-certificate-authority {}", file.display());
    let pem = std::fs::read(file).with_context(told)?;
    if !String::from_utf8_lossy(&pem).contains("-----BEGIN CERTIFICATE-----") {
        return Err(anyhow!("it has no certificate in PEM")).with_context(told);
    }
    Ok(Some(pem))
}

/// Who is believed to be a kubelet, beside those that the cluster's authority vouches for.
pub fn kubelets(up: &Up, known: &Kubelets) -> anyhow::Result<Option<Kubelets>> {
    let pem = authorities(up)?;
    pem.map(|pem| known.also(&pem)).transpose().context("--kubelet-certificate-authority")
}

/// Makes what nodes of other machines read, and their rights. What is told of the cluster is told anew at each start; of rights, what is
/// there is left as it is.
pub async fn apply(admin: &Client, cluster: &Cluster, plan: &Plan, pki: &ClusterPki, disabled: &[Component]) -> anyhow::Result<()> {
    let Some(server) = server(plan) else { return Ok(()) };
    let rights = [manifest::parse(RIGHTS)?, manifest::parse(node_rights::RIGHTS)?].concat();
    futures_util::future::try_join_all(rights.iter().map(|object| manifest::make(admin, object))).await?;
    // Of a cluster without a first node no DNS makes the Service, to which that of the other nodes is led.
    if disabled.contains(&Component::Kubelet) && !disabled.contains(&Component::Dns) {
        for object in manifest::parse(&network::dns::service(plan.dns_ip()).to_string())? {
            manifest::make(admin, &object).await?;
        }
    }
    for object in [cluster_info(&server, pki), settings(cluster, plan, &server, disabled)] {
        for object in manifest::parse(&object.to_string())? {
            manifest::apply(admin, &object).await?;
        }
    }
    Ok(())
}

/// What is read without trust, and believed by its signature: the bootstrap signer adds one for each token.
fn cluster_info(server: &str, pki: &ClusterPki) -> Value {
    let cluster = json!({"certificate-authority-data": base64(pki.ca.cert_pem()), "server": server});
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "", "preferences": {},
        "clusters": [{"name": "", "cluster": cluster}], "contexts": null, "users": null,
    });
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "cluster-info", "namespace": "kube-public"},
        "data": {"kubeconfig": config.to_string()},
    })
}

/// What a node of another machine must know of the cluster; lists have commas.
fn settings(cluster: &Cluster, plan: &Plan, server: &str, disabled: &[Component]) -> Value {
    let disabled: Vec<&str> = Component::OF_NODES.into_iter().filter(|(component, _)| disabled.contains(component)).map(|(_, name)| name).collect();
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": node_rights::NAME, "namespace": node_rights::NAMESPACE},
        "data": {
            "clusterName": cluster.name,
            "clusterCIDR": list(&plan.pod_cidrs()),
            "serviceCIDR": list(&plan.service_cidrs()),
            "clusterDomain": DOMAIN,
            "clusterDNS": plan.dns_ip().to_string(),
            "kubernetesServiceIP": plan.api_ip().to_string(),
            "podNetwork": plan.pod_network.to_string(),
            "apiServers": server,
            "disabled": disabled.join(","),
        },
    })
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(advertise: Option<&str>) -> Plan {
        let plan = r#"{"name": "m", "data": "/", "pods": "10.244.0.0", "services": "10.96.0.0", "port": 6443}"#;
        Plan { advertise: advertise.into_iter().map(|ip| ip.parse().unwrap()).collect(), ..serde_json::from_str(plan).unwrap() }
    }

    /// The same of both families, IPv6 first if so.
    fn both(six_first: bool, advertise: &[&str]) -> Plan {
        let (four, six) = (("10.244.0.0", "10.96.0.0"), ("fd00:1::", "fd00:2::"));
        let ((pods, services), prefixes, second) = if six_first {
            (six, (56, 112), ("10.244.0.0/16".parse().unwrap(), "10.96.0.0/16".parse().unwrap()))
        } else {
            (four, (16, 16), ("fd00:1::/56".parse().unwrap(), "fd00:2::/112".parse().unwrap()))
        };
        let ip = |text: &str| text.parse().unwrap();
        let advertise = advertise.iter().map(|text| ip(text)).collect();
        let (pods, services) = (ip(pods), ip(services));
        Plan { pods, pods_prefix: prefixes.0, services, services_prefix: prefixes.1, second: Some(second), advertise, ..plan(None) }
    }

    #[test]
    fn an_address_that_nobody_reaches_is_refused() {
        let told = |ip: &str| check(&plan(Some(ip))).unwrap_err().to_string();
        assert!(told("203.0.113.77").contains("203.0.113.77, at which nodes of other machines reach the cluster, is no address of this machine"));
        assert!(told("127.0.0.1").contains("--advertise-address"));
        assert!(told("2001:db8::7").contains("service IP family 10.96.0.0/16 must match public address family 2001:db8::7"));
        check(&plan(None)).unwrap();
        let told = |plan: Plan| check(&plan).unwrap_err().to_string();
        assert!(told(both(true, &["192.0.2.7"])).contains("service IP family fd00:2::/112 must match public address family 192.0.2.7"));
        assert!(told(both(true, &["2001:db8::7"])).contains("2001:db8::7, at which nodes"));
        assert!(told(both(true, &["2001:db8::7", "2001:db8::8"])).contains("2001:db8::8 is no second address"));
        assert!(told(both(false, &["192.0.2.7", "192.0.2.8"])).contains("192.0.2.8 is no second address"));
        assert!(told(Plan { second: None, ..both(false, &["192.0.2.7", "2001:db8::7"]) }).contains("2001:db8::7 is no second address"));
        assert!(told(both(false, &["192.0.2.7", "2001:db8::7", "2001:db8::8"])).contains("one of each family"));
        let routes = Plan { pod_network: Kind::Routes, ..plan(None) };
        assert!(check(&routes).unwrap_err().to_string().contains("--pod-network routes joins machines"));
    }

    #[test]
    fn a_node_reads_what_it_must_know() {
        let cluster = Cluster { name: "m".into(), data: "/d".into(), run: "/r".into() };
        let plan = plan(Some("192.0.2.7"));
        let server = server(&plan).unwrap();
        assert_eq!(server, "https://192.0.2.7:6443");
        let told = settings(&cluster, &plan, &server, &[Component::Dns, Component::Scheduler, Component::Proxy]);
        let expected = json!({
            "clusterName": "m", "clusterCIDR": "10.244.0.0/16", "serviceCIDR": "10.96.0.0/16", "clusterDomain": "cluster.local", "clusterDNS": "10.96.0.10",
            "kubernetesServiceIP": "10.96.0.1", "podNetwork": "vxlan", "apiServers": server, "disabled": "proxy,dns",
        });
        assert_eq!(told["data"], expected);
        let six = both(true, &["2001:db8::7"]);
        let server = super::server(&six).unwrap();
        let told = settings(&cluster, &six, &server, &[]);
        let of = |key: &str| told["data"][key].as_str().unwrap_or_default().to_owned();
        assert_eq!(["clusterCIDR", "serviceCIDR"].map(of), ["fd00:1::/56,10.244.0.0/16", "fd00:2::/112,10.96.0.0/16"]);
        assert_eq!(["clusterDNS", "kubernetesServiceIP", "apiServers"].map(of), ["fd00:2::a", "fd00:2::1", "https://[2001:db8::7]:6443"]);
        assert_eq!(manifest::parse(&told.to_string()).unwrap().len(), 1);
        let rights = |text: &str| manifest::parse(text).unwrap().len();
        assert_eq!((rights(RIGHTS), rights(node_rights::RIGHTS)), (13, 4), "they can be read");
    }

    #[test]
    fn the_nodes_of_this_machine_are_held_with_their_ranges() {
        let folder = std::env::temp_dir().join(format!("knarr-held-{}", std::process::id()));
        // Of a run with the same number that was killed.
        let _ = std::fs::remove_dir_all(&folder);
        let cluster = Cluster { name: "m".into(), data: folder.join("data"), run: folder.join("run") };
        std::fs::create_dir_all(&cluster.data).unwrap();
        let plan = plan(None);
        cluster.change_wishes(|wishes| crate::cluster::nodes::at_least(wishes, 2, &plan.node, |_| true)).unwrap();
        let held = held(&cluster, &plan).unwrap();
        assert_eq!(plan.node, host::name(), "as it was not kept yet");
        let worker = format!("{}-2", plan.node);
        assert_eq!(held.nodes, BTreeMap::from([(plan.node, vec!["10.244.0.0/24".to_owned()]), (worker, vec!["10.244.1.0/24".to_owned()])]));
        // It holds the wishes.
        drop(held);
        let both = both(false, &["192.0.2.7"]);
        assert_eq!(self::held(&cluster, &both).unwrap().nodes[&both.node], ["10.244.0.0/24", "fd00:1::/64"]);
        assert_eq!(node_ranges(&both), [("10.244.0.0/16".to_owned(), 24), ("fd00:1::/56".to_owned(), 64)]);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
