//! A further node of this machine: a process in a network namespace of its own, with kubelet, runtime, pod network, proxy and DNS.
//!
//! The supervisor in the cluster's process (`supervisor.rs`) makes the namespace and starts this; from then on both know each other by
//! files alone. It reaches the API server as a node elsewhere would, over TLS at the first node's address, with certificates that it
//! has from the cluster's directory: what the kubelet may is what a node may, what the others may is theirs. Images are the first
//! node's store; everything else lies below `nodes/NUMBER`.
//!
//! It holds the lock of its directory, which is how it is found. Killed, or ended by SIGTERM, it leaves its pods, and the next one takes
//! them over; after an interrupt it ends them first. Before its certificates end it ends itself, and is started again with new ones.

use crate::{
    addons,
    cli::{self, Component},
    cluster::{Cluster, DOMAIN, Plan, Work, nodes::Wish},
    log::log,
    member::{Api, Member, Running},
    node::{self, Node},
    preflight,
    signals::{End, Signals},
    volumes,
};
use anyhow::{Context as _, anyhow};
use client::{Client, Credentials, Endpoint, HttpTransport};
use identity::pki::{self, Ca, Credential, Subject, Usage};
use network::{Mark, Part, dns, proxy::NodePortAddresses};
use nix::{
    sched::{CloneFlags, unshare},
    unistd::sethostname,
};
use runtime::Runtime;
use std::{
    collections::BTreeSet,
    fs::File,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};
use volume::provision;

/// Between two looks at the certificates.
const LOOK: Duration = Duration::from_secs(24 * 60 * 60);
/// What has less time than this is made anew; a start does so with more, so that it is not the same again.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Before the node's name, in names of files with certificates: those that every node has, and the others.
const CLIENT: &str = "node-";
const SERVING: &str = "kubelet-";
const READER: &str = "reader-";
const DNS: &str = "dns-";
const PROVISIONER: &str = "provisioner-";
/// The network namespace of a process.
const NETWORK: &str = "/proc/self/ns/net";
/// Bytes of a host name that the kernel keeps.
const HOST_NAME_MAX: usize = 64;
/// The host's name servers.
const RESOLVER: &str = "/etc/resolv.conf";

/// Enters the node's network namespace, and one in which the machine has the node's name; the process must have no other thread yet. The
/// host's network is what it was in.
pub fn enter(command: &cli::Worker) -> anyhow::Result<File> {
    let cluster = Cluster::find(&command.name, Some(command.data_dir.as_path()))?;
    let host = File::open(NETWORK).with_context(|| format!("cannot open {NETWORK}"))?;
    network::worker::enter(&cluster.node(command.number).space()).with_context(|| format!("the network of node {}", command.number))?;
    // Pods with their host's network are told its name.
    let wish = wish(&cluster, command.number)?;
    let name = wish.name.get(..HOST_NAME_MAX).unwrap_or(&wish.name);
    unshare(CloneFlags::CLONE_NEWUTS).and_then(|()| sethostname(name)).with_context(|| format!("the host name of node {}", wish.name))?;
    Ok(host)
}

/// What is wished for under a number.
fn wish(cluster: &Cluster, number: u32) -> anyhow::Result<Wish> {
    cluster.wishes()?.into_iter().find(|wish| wish.number == number).context("nobody wishes for this node")
}

/// Runs until a signal, or until a part fails.
pub async fn run(command: &cli::Worker, host: File) -> anyhow::Result<()> {
    log();
    preflight::node()?;
    let cluster = Cluster::find(&command.name, Some(command.data_dir.as_path()))?;
    let plan = cluster.kept().context("the cluster's addresses are not known: has it been started?")?;
    if plan.ranges() != command.range {
        anyhow::bail!("the cluster's ranges have changed since this was started");
    }
    let wish = wish(&cluster, command.number)?;
    let home = cluster.node(wish.number);
    // Who finds the lock may send one.
    let mut signals = Signals::listen()?;
    let _lock = home.lock(Work::Runs).await?;
    if !home.space().exists() {
        // A late child: the cluster was taken away before this one had its lock.
        let _ = std::fs::remove_file(home.run.join("lock")).and_then(|()| home.run.ancestors().take(3).try_for_each(std::fs::remove_dir));
        anyhow::bail!("node {} was taken away", command.number);
    }
    let (mut running, pki) = start(command, host, (&cluster, &home), &plan, &wish).await?;
    let ended = tokio::select! {
        told = signals.ended() => Ok(told),
        error = running.failed() => Err(error),
        error = old(&pki) => Err(error),
    };
    let how = *ended.as_ref().unwrap_or(&End::Terminate);
    tokio::select! {
        () = running.end(how) => {}
        // Who asks again does not want to wait.
        _ = signals.ended() => {}
    }
    ended.map(drop)
}

/// Returns when the certificates end soon.
async fn old(pki: &Pki) -> anyhow::Error {
    while !pki.ends_soon(SystemTime::now()) {
        tokio::time::sleep(LOOK).await;
    }
    anyhow!("certificates that end soon are made anew by another start")
}

/// What this process shows, and to whom.
struct Pki {
    ca: Ca,
    kubelet: Credential,
    serving: Credential,
    /// Who reads for proxy, DNS and provisioner, as beside the API server: one memory for all three.
    reader: Credential,
    dns: Credential,
    provisioner: Credential,
    server: String,
}

impl Pki {
    fn load(cluster: &Cluster, plan: &Plan, name: &str, ips: Vec<IpAddr>) -> anyhow::Result<Pki> {
        let ca = Ca::load_or_create(&cluster.data.join("pki"))?;
        let serving = Subject {
            common_name: format!("system:node:{name}"),
            organizations: vec!["system:nodes".into()],
            names: vec![name.to_owned()],
            ips,
            usage: Usage::Server,
        };
        let account = format!("system:serviceaccount:kube-system:{}", provision::ACCOUNT);
        Ok(Pki {
            kubelet: ca.client_cert(&format!("{CLIENT}{name}"), &format!("system:node:{name}"), &["system:nodes"])?,
            serving: ca.load_or_issue(&format!("{SERVING}{name}"), &serving)?,
            // Files of its own: two processes that make one anew at a time would spoil it.
            reader: ca.client_cert(&format!("{READER}{name}"), "system:kube-controller-manager", &[])?,
            dns: ca.client_cert(&format!("{DNS}{name}"), addons::DNS_USER, &[])?,
            provisioner: ca.client_cert(&format!("{PROVISIONER}{name}"), &account, &["system:serviceaccounts", "system:serviceaccounts:kube-system"])?,
            ca,
            server: format!("https://{}", SocketAddr::new(plan.node_ip(), plan.port)),
        })
    }

    fn ends_soon(&self, now: SystemTime) -> bool {
        let all = [&self.kubelet, &self.serving, &self.reader, &self.dns, &self.provisioner];
        all.iter().any(|own| pki::leaf(&own.cert_pem).is_ok_and(|leaf| leaf.not_after <= now + RENEW_BEFORE))
    }

    fn client(&self, own: &Credential) -> anyhow::Result<Client> {
        let credentials = Credentials { certificate: Some((vec![own.cert()?], own.key()?)), ..Credentials::default() };
        let endpoint = Endpoint { server: self.server.clone(), authorities: vec![self.ca.cert().clone()], server_name: None, insecure: false, credentials };
        Ok(Client::new(Arc::new(HttpTransport::new(endpoint)?)))
    }
}

/// Removes everything of a node of this machine, whose process has ended; what is not there is no error. Its data goes too, if it
/// is not to be kept. Called again, it goes on where a crash left it.
pub async fn discard(cluster: &Cluster, number: u32, keep_data: bool) -> anyhow::Result<()> {
    let home = cluster.node(number);
    let lock = home.lock(Work::Ends).await?;
    // Pods run also where somebody has removed the data below them.
    if [&home.data, &home.run].iter().any(|directory| directory.join("runtime").exists()) {
        let runtime = Runtime::open(cluster.node_runtime(&home, None)).await.context("the container runtime")?;
        runtime.purge().await.context("the pods")?;
    }
    let (mark, name) = (Mark::new(&cluster.name), cluster.wishes().unwrap_or_default().into_iter().find(|wish| wish.number == number).map(|wish| wish.name));
    let (pki, space) = (cluster.data.join("pki"), home.space());
    tokio::task::spawn_blocking(move || {
        network::worker::close(&mark, number, &space).context("the network")?;
        kubelet::purge(&home.data.join("kubelet")).context("the pods' volumes")?;
        kubelet::graceful::purge(&home.name).context("logind's settings")?;
        volume::disk::purge(&volumes::directory(&home.data)).context("the volumes' devices")?;
        if !keep_data {
            let kinds = [CLIENT, SERVING, READER, DNS, PROVISIONER];
            let files = name.iter().flat_map(|name| kinds.iter().flat_map(move |kind| [format!("{kind}{name}.crt"), format!("{kind}{name}.key")]));
            files.for_each(|file| drop(std::fs::remove_file(pki.join(file))));
            runtime::tree::remove(&home.data).with_context(|| format!("cannot remove {}", home.data.display()))?;
        }
        home.remove_run(lock)
    })
    .await?
}

async fn start(command: &cli::Worker, host: File, (cluster, home): (&Cluster, &Cluster), plan: &Plan, wish: &Wish) -> anyhow::Result<(Running, Pki)> {
    let has = |component| !command.disable.contains(&component);
    let parts = plan.parts(wish.number)?;
    let ips: Vec<IpAddr> = parts.iter().map(Part::node_ip).collect();
    let (ip, second) = (*ips.first().context("the node has no range of pods")?, ips.get(1).copied());
    let pki = Pki::load(cluster, plan, &wish.name, ips)?;
    let on_loopback = loopback_servers(&std::fs::read_to_string(RESOLVER).unwrap_or_default());
    let node = Node {
        plan,
        mark: Mark::new(&cluster.name),
        home,
        name: &wish.name,
        labels: command.node.labels(wish.labels.clone()),
        taints: Vec::new(),
        parts,
        mtu: command.mtu,
        // What leaves the machine leaves it by the first node.
        tunnel: None,
        lan: None,
        assigned: false,
        ip,
        address: ip,
        second,
        own_ports: node::own_ports(ip, second, has(Component::Proxy), has(Component::Proxy) && has(Component::Dns)).collect(),
        images: cluster.runtime(None).root,
        cluster_dns: vec![plan.dns_ip()],
        domain: DOMAIN.into(),
        settings: command.node.settings()?,
    };
    let member = Member {
        node,
        behind: true,
        mesh: None,
        follows_ranges: true,
        // Registries are where they are for the first node: on the host's loopback, too.
        runtime: runtime::Config { network: Some(Arc::new(host)), ..cluster.node_runtime(home, command.registries.as_deref()) },
        // Its images are the first node's.
        demo: None,
        disable: &command.disable,
        // At all addresses of its network namespace, which nobody else has.
        node_ports: NodePortAddresses::All,
        // Name servers on the host's loopback are not on this node's: then the first node passes on.
        upstream: match on_loopback.is_empty() {
            true => dns::Upstream::File(RESOLVER.into()),
            false => dns::Upstream::Servers(vec![(plan.node_ip(), dns::PORT).into()]),
        },
        // Who asks those, this process and the host's programs in the node's namespace, is answered where they would be.
        also_answers: on_loopback,
        api: Api {
            kubelet: pki.client(&pki.kubelet)?,
            reader: pki.client(&pki.reader)?,
            dns: Some(pki.client(&pki.dns)?),
            provisioner: Some(pki.client(&pki.provisioner)?),
            tls: kubelet::Tls::showing(pki::Renewable::new(&pki.serving)?, [pki.ca.cert().clone()])?,
        },
    };
    Ok((member.start().await?, pki))
}

/// The name servers of a resolver file that are nowhere but on the host's loopback.
fn loopback_servers(text: &str) -> BTreeSet<IpAddr> {
    dial::Conf::parse(text).servers.iter().map(SocketAddr::ip).filter(IpAddr::is_loopback).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_on_loopback_are_answered_for() {
        let text = "nameserver 127.0.0.53\nnameserver 192.0.2.1\nnameserver ::1\nnameserver 127.0.0.53\nsearch example.com\n";
        assert_eq!(loopback_servers(text), BTreeSet::from([IpAddr::from([127, 0, 0, 53]), IpAddr::from(std::net::Ipv6Addr::LOCALHOST)]));
        assert!(loopback_servers("").is_empty());
    }
}
