//! A node in a process without an API server: runtime, pod network, kubelet, volumes, service proxy and DNS, put together. What makes
//! it one of this machine or one from elsewhere (its range and address, who it is to the API, where its images lie) it is told.

use crate::{
    cli::Component,
    image,
    node::{self, Node},
    parts::{self, KUBELET, Parts, spawn},
    progress::Steps,
    signals::End,
    volumes,
};
use anyhow::Context as _;
use client::{Client, Informers};
use network::{Mark, dns, mesh, pod::PodNetwork, proxy::NodePortAddresses};
use runtime::Runtime;
use std::{collections::BTreeSet, net::IpAddr, sync::Arc};
use tokio::{runtime::Handle, sync::watch};
use tokio_util::sync::CancellationToken;
use volume::{Drivers, provision};

/// What a node is made of.
pub struct Member<'a> {
    /// Its name, directories, addresses and settings.
    pub node: Node<'a>,
    /// Another translates what leaves the cluster.
    pub behind: bool,
    /// How it is joined to nodes of other machines, if it does that itself.
    pub mesh: Option<mesh::Config>,
    /// Whether it leads Services of ServiceCIDRs, too, which it must be let read.
    pub follows_ranges: bool,
    /// Settings of its runtime.
    pub runtime: runtime::Config,
    /// Whether it makes the demo images itself, telling these steps.
    pub demo: Option<&'a Steps>,
    /// Parts that are left out.
    pub disable: &'a [Component],
    /// Where node ports are served.
    pub node_ports: NodePortAddresses,
    /// Whom its DNS asks about the rest of the world.
    pub upstream: dns::Upstream,
    /// Addresses beside its own at which its DNS answers.
    pub also_answers: BTreeSet<IpAddr>,
    /// Its ways to the API server, and who it is to those that come to it.
    pub api: Api,
}

/// A node's ways to the API server.
pub struct Api {
    /// As `system:node:NAME`.
    pub kubelet: Client,
    /// What proxy, DNS, mesh and provisioner read, with one memory for all of them.
    pub reader: Client,
    /// Writes the Service of the cluster's DNS and its own addresses there; none: others do.
    pub dns: Option<Client>,
    /// Writes volumes; none: none are made here.
    pub provisioner: Option<Client>,
    /// What the kubelet's own API shows.
    pub tls: kubelet::Tls,
}

/// A node that runs in this process.
pub struct Running {
    runtime: Runtime,
    network: PodNetwork,
    ip: IpAddr,
    mark: Mark,
    dns: watch::Receiver<bool>,
    parts: Parts,
    stop: CancellationToken,
    kubelet_stop: CancellationToken,
}

impl Member<'_> {
    /// Starts it. Containers of a former process are found and kept.
    pub async fn start(self) -> anyhow::Result<Running> {
        let node = self.node;
        let has = |component| !self.disable.contains(&component);
        let runtime = Runtime::open(self.runtime);
        let settings = node.network(self.behind);
        let network = tokio::task::spawn_blocking(move || PodNetwork::open(settings));
        // Where nobody ever makes volumes there are none, and the scheduler is not told otherwise.
        let brings = self.api.provisioner.is_some();
        let disk = async {
            let (directory, name) = (volumes::directory(&node.home.data), node.name.to_owned());
            if brings { volumes::open(directory, name).await.map(Some) } else { Ok(None) }
        };
        let (runtime, network, disk) = tokio::join!(runtime, network, disk);
        let (runtime, network, disk) = (runtime.context("the container runtime")?, network?.context("the pod network")?, disk?);

        if let Some(steps) = self.demo {
            image::demo(&runtime, steps).await?;
        }
        let stop = CancellationToken::new();
        let kubelet_stop = stop.child_token();
        let (mut parts, room) = (Parts::new(), &Handle::current());
        let follows_ranges = self.follows_ranges;
        let informers = Informers::new(self.api.reader.user_agent("knarr-informers"), stop.clone());
        spawn(&mut parts, room, "pod network", {
            let (kept, informers, token) = (network.clone(), informers.clone(), stop.clone());
            async move {
                let lead = async {
                    if follows_ranges {
                        kept.lead_services(informers, token.clone()).await
                    }
                };
                tokio::join!(kept.keep(token.clone()), lead);
                anyhow::Ok(())
            }
        });
        let drivers = Drivers::default();
        if let Some(disk) = &disk {
            drivers.add(volume::disk::NAME, Arc::new(disk.clone()));
        }
        let client = self.api.kubelet.user_agent("kubelet");
        let of_node = Informers::new(client.clone(), kubelet_stop.clone());
        let mut config = node.kubelet(self.api.tls);
        config.apart = self.behind.then(|| node.home.name.clone());
        let kubelet = kubelet::run(config, client, of_node, runtime.clone(), network.clone(), drivers, kubelet_stop.clone());
        spawn(&mut parts, room, KUBELET, kubelet);
        if let Some((client, disk)) = self.api.provisioner.zip(disk).filter(|_| has(Component::Storage)) {
            let client = client.user_agent(provision::ACCOUNT);
            spawn(&mut parts, room, "volume provisioner", provision::run(node.name.to_owned(), disk, client, informers.clone(), stop.clone()));
        }
        if let Some(config) = self.mesh {
            spawn(&mut parts, room, "way to other nodes", mesh::run(config, informers.clone(), stop.clone()));
        }
        let (ready, _) = watch::channel(false);
        let (answers, dns) = watch::channel(false);
        if has(Component::Proxy) {
            let config = node.proxy(self.node_ports);
            spawn(&mut parts, room, "service proxy", network::proxy::run(config, informers.clone(), stop.clone(), ready.clone()));
        } else {
            // Those of a former start would go before those of whoever proxies now.
            node::remove_rules(node.mark.clone()).await;
        }
        if has(Component::Dns) {
            let config = node.dns(self.upstream, self.api.dns);
            for listen in self.also_answers {
                let config = dns::Config { listen, publish: None, ..config.clone() };
                spawn(&mut parts, room, "DNS", dns::run(config, informers.clone(), stop.clone(), ready.clone()));
            }
            spawn(&mut parts, room, "DNS", dns::run(config, informers.clone(), stop.clone(), answers));
        }
        Ok(Running { runtime, network, ip: node.address, mark: node.mark, dns, parts, stop, kubelet_stop })
    }
}

impl Running {
    /// Becomes true when its DNS answers; without one it never does.
    pub fn dns(&self) -> watch::Receiver<bool> {
        self.dns.clone()
    }

    /// Waits until a part ends, which none does by itself.
    pub async fn failed(&mut self) -> anyhow::Error {
        parts::failed(&mut self.parts).await
    }

    /// As at the first node: after an interrupt the pods end while what their hooks may ask is still there.
    pub async fn end(mut self, how: End) {
        if how == End::Interrupt {
            self.kubelet_stop.cancel();
            parts::kubelet_ended(&mut self.parts).await;
            node::end_pods(&self.runtime, Some(self.network.clone()), self.ip).await;
        }
        self.stop.cancel();
        parts::all_ended(&mut self.parts).await;
        if how == End::Interrupt {
            node::remove_rules(self.mark).await;
        }
    }
}
