//! `knarr agent`: this machine as a node of a cluster whose control plane is elsewhere.
//!
//! A machine joins once, by a token ([`join`]), and keeps what it has learned: from then on its own certificate says who it is, also
//! after a restart and a reboot, and is renewed before it ends. It reads and writes as `system:node:NAME` and nobody else; what its
//! proxy, its DNS and its way to other nodes read, a node may read.
//!
//! The control plane gives it the range of its pods, and says what else it must know ([`settings`], [`told`]). Both are kept, so that a start
//! without an API server runs the node as it was. When either changes, or the machine's address does, the node is put together anew in
//! this process; its pods stay.
//!
//! Killed, or ended by SIGTERM, it leaves its pods, and the next start takes them over; after an interrupt it ends them first.

mod access;
pub mod cluster_info;
mod discovery;
mod join;
mod listed;
mod manifest;
mod server;
mod settings;
mod told;
mod unit;

pub use server::Server;

use crate::{
    cli::{Agent, Component, Down, Which},
    cluster::{Cluster, Joined, Plan},
    down,
    log::log,
    machines,
    member::{Api, Member, Running},
    node::{self, Node},
    node_rights::{NAME, NAMESPACE},
    preflight,
    progress::Steps,
    signals::{End, Signals},
    token::Token,
};
use access::Access;
use anyhow::{Context as _, bail};
use client::{Delta, Informers, ListParams};
use k8s_openapi::api::core::v1::{self, ConfigMap};
use kubelet::certificates::{Pair, Rotation, Shown, Wanted};
use network::{
    Mark, Net, Part, dns,
    mesh::{self, Kind},
    pod::PodNetwork,
};
use runtime::Runtime;
use settings::{Data, Settings};
use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio_util::sync::CancellationToken;

/// An API server that has not answered by then is away, and what was kept is used.
const ANSWERS: Duration = Duration::from_secs(5);
/// Between two tries of a machine that cannot start without an answer.
const AGAIN_MIN: Duration = Duration::from_millis(200);
const AGAIN_MAX: Duration = Duration::from_secs(10);
/// Between two looks at the machine's address: links come and go, and the news of a way to the server would be many.
const LOOK: Duration = Duration::from_secs(30);

/// Tries of what a start waits for, with longer and longer pauses between them.
struct Tries {
    pause: Duration,
    last: String,
}

impl Tries {
    fn new() -> Tries {
        Tries { pause: AGAIN_MIN, last: String::new() }
    }

    /// Whether this one has failed by something else than the last.
    fn is_news(&mut self, why: &str) -> bool {
        let is_news = self.last != why;
        why.clone_into(&mut self.last);
        is_news
    }

    async fn pause(&mut self) {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(AGAIN_MAX);
    }
}

/// Runs until a signal, or until a part fails.
pub async fn run(command: Agent) -> anyhow::Result<()> {
    if command.print_unit {
        print!("{}", unit::text(&command)?);
        return Ok(());
    }
    if command.print_manifest {
        print!("{}", manifest::text(&command)?);
        return Ok(());
    }
    if command.reset {
        return reset(&command).await;
    }
    let ended = stay(command).await;
    if ended.is_err() {
        tokio::time::sleep(unit::rest()).await;
    }
    ended
}

/// Runs the node.
async fn stay(command: Agent) -> anyhow::Result<()> {
    log();
    preflight::node()?;
    command.node.settings()?;
    let cluster = Cluster::find(&command.name, command.data_dir.as_deref())?;
    cluster.exists()?;
    let mut signals = Signals::listen()?;
    let entered = cluster.enter().await?;
    if cluster.has_control_plane() {
        bail!("{} is the place of a cluster that has its control plane on this machine: choose another --name, or --data-dir", cluster.data.display());
    }
    let steps = Steps::new();
    let mut agent = tokio::select! {
        _ = signals.ended() => return Ok(()),
        agent = Begun::new(command, cluster, &steps) => agent?,
    };
    let _lock = entered.stay();
    loop {
        match agent.node(&mut signals, &steps).await? {
            Outcome::Ended => return Ok(()),
            Outcome::Taken => bail!(taken(&agent.joined.node)),
            Outcome::Anew(Anew::Range) => {
                tracing::warn!("the range of the node's pods has changed: its pods are made anew");
                let mark = Mark::new(&agent.cluster.name);
                tokio::task::spawn_blocking(move || network::pod::purge(&mark)).await?.context("the former range's links and rules")?;
            }
            Outcome::Anew(what) => tracing::warn!(?what, "the node is put together anew, since that has changed; its pods run on"),
        }
    }
}

/// `--reset`: the same as `knarr down`, and what is left to do elsewhere.
async fn reset(command: &Agent) -> anyhow::Result<()> {
    preflight::root()?;
    let cluster = Cluster::find(&command.name, command.data_dir.as_deref())?;
    if let Some((process, unit)) = cluster.running().and_then(|process| Some((process, unit::of(process)?))) {
        bail!("process {process} is started by {unit}, which would start it again: `systemctl disable --now {unit}` first");
    }
    let joined = cluster.joined().ok().flatten();
    // As long as there is a certificate to ask with.
    let has_node = match &joined {
        Some(joined) => has_node(&cluster, joined).await,
        None => Some(false),
    };
    if joined.is_none() && cluster.has_control_plane() {
        bail!("{} is the place of a cluster that has its control plane on this machine: `knarr down` takes that away", cluster.data.display());
    }
    let which = Which { name: command.name.clone(), data_dir: command.data_dir.clone(), kubeconfig: None };
    down::run(&Down { which, keep_data: false }).await?;
    if let Some(joined) = joined {
        match has_node {
            Some(true) => println!("The cluster has the Node object still: `kubectl delete node {}`", joined.node),
            Some(false) => {}
            None => println!("Whether the cluster has the Node object still was not to be found out; if so: `kubectl delete node {}`", joined.node),
        }
    }
    Ok(())
}

/// Whether the cluster has this machine's Node; none: it does not say.
async fn has_node(cluster: &Cluster, joined: &Joined) -> Option<bool> {
    let pair = Pair::load(&join::file(cluster, join::CLIENT)).ok().flatten()?;
    let nodes = Access::new(joined, &pair).ok()?.client().all::<v1::Node>();
    let node = tokio::time::timeout(ANSWERS, nodes.get_opt(&joined.node)).await.ok()?.ok()?;
    Some(node.is_some_and(|node| !joined.is_of_another(&node)))
}

fn token(command: &Agent) -> anyhow::Result<Option<Token>> {
    let variable = std::env::var(unit::TOKEN).ok().filter(|text| !text.is_empty());
    let by_variable = || variable.map(|text| text.trim().parse().map_err(|why: String| anyhow::anyhow!("${}: {why}", unit::TOKEN))).transpose();
    command.token.clone().map_or_else(by_variable, |token| Ok(Some(token)))
}

fn taken(node: &str) -> String {
    format!(
        "another machine has joined as {node:?} since (the Node's annotation {} is not this one's), and two machines cannot be one node: `knarr agent --reset`, \
         and join by another --node-name. If the other one is gone, `kubectl annotate node {node} {}-` lets this one go on",
        join::MACHINE,
        join::MACHINE
    )
}

/// Why the API server was not heard, with what may be the matter where another answers in its place.
fn anothers(why: String) -> String {
    if ["invalid peer certificate: BadSignature", "invalid peer certificate: UnknownIssuer"].iter().any(|told| why.contains(told)) {
        return format!(
            "{why}: whoever answers is not the cluster that this machine has joined. Has it been made anew? Then `knarr agent --reset`, and join again"
        );
    }
    why
}

/// How a node's run has ended.
enum Outcome {
    /// By a signal.
    Ended,
    /// Another machine has become this node.
    Taken,
    /// Something that it is made of has changed.
    Anew(Anew),
}

/// Why a node is put together anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Anew {
    /// Its pods have another range: they are made anew, too, since nobody would find them by their addresses.
    Range,
    /// It has a range of a further family, which its next pods have an address of.
    Family,
    /// What nodes must know of the cluster.
    Settings,
    /// The machine's address.
    Address,
}

/// A machine that has joined.
struct Begun {
    command: Agent,
    cluster: Cluster,
    joined: Joined,
    access: Access,
    /// Keeps the node's certificate from ending, as long as this runs.
    _rotation: tokio_util::task::AbortOnDropHandle<()>,
}

impl Begun {
    async fn new(command: Agent, cluster: Cluster, steps: &Steps) -> anyhow::Result<Begun> {
        // A wrong one keeps nobody from starting who has joined.
        let token = || token(&command);
        let (joined, pair) = match cluster.joined()? {
            None => join::first(&command, &cluster, token()?.as_ref(), steps).await?,
            Some(kept) => {
                let joined = join::resumed(&command, kept)?;
                let pair = match Pair::load(&join::file(&cluster, join::CLIENT)) {
                    Ok(Some(pair)) if pair.ends() > SystemTime::now() => pair,
                    Ok(Some(_)) => join::again(&joined, &cluster, token()?.as_ref(), "the node's certificate has ended").await?,
                    Ok(None) => join::again(&joined, &cluster, token()?.as_ref(), "the node's certificate is not there").await?,
                    Err(error) => join::again(&joined, &cluster, token()?.as_ref(), &error.to_string()).await?,
                };
                cluster.keep_joined(&joined)?;
                (joined, pair)
            }
        };
        let access = Access::new(&joined, &pair)?;
        let rotation = Rotation {
            wanted: Wanted::client(&joined.node),
            file: join::file(&cluster, join::CLIENT),
            client: access.client().user_agent("kubelet"),
            clock: kubelet::Clock::default(),
        };
        let shows = access.clone();
        let rotation = tokio::spawn(async move {
            let show = |pair: &Pair| {
                if let Err(error) = shows.renew(pair) {
                    tracing::error!("the node's new certificate cannot be used: {error:#}");
                }
            };
            match rotation.keep(Some(pair), show).await {}
        });
        Ok(Begun { command, cluster, joined, access, _rotation: tokio_util::task::AbortOnDropHandle::new(rotation) })
    }

    /// Runs the node as it is to be now.
    async fn node(&mut self, signals: &mut Signals, steps: &Steps) -> anyhow::Result<Outcome> {
        let stop = CancellationToken::new();
        let _stop = stop.clone().drop_guard();
        let informers = Informers::new(self.access.client().user_agent("knarr-agent"), stop.clone());
        let (mut running, made) = tokio::select! {
            _ = signals.ended() => return Ok(Outcome::Ended),
            started = self.start(&informers, steps) => started?,
        };
        let dns = made.dns.map(|address| listed::Answers { address, domain: made.settings.domain.clone(), ready: running.dns() });
        let listed = listed::keep(self.access.client(), &informers, &self.joined.node, dns);
        let serving = serving(&self.cluster, &self.joined, &self.access, &made, informers.clone());
        let ready = async {
            of_node(&informers, &self.joined.node, |node| node::is_ready(node).then_some(())).await;
            steps.done(&format!("node {} Ready", self.joined.node));
            std::future::pending::<std::convert::Infallible>().await
        };
        unit::ready();
        let ended = tokio::select! {
            how = signals.ended() => Ok((how, Outcome::Ended)),
            error = running.failed() => Err(error),
            anew = self.changed(&made, &informers) => Ok((if anew == Anew::Range { End::Interrupt } else { End::Terminate }, Outcome::Anew(anew))),
            // The node's pods are the other's now, which starts them itself: nothing runs twice.
            () = of_node(&informers, &self.joined.node, |node| self.joined.is_of_another(node).then_some(())) => Ok((End::Interrupt, Outcome::Taken)),
            never = serving => match never {},
            never = listed => match never {},
            never = ready => match never {},
        };
        let how = ended.as_ref().map_or(End::Terminate, |(how, _)| *how);
        tokio::select! {
            () = running.end(how) => ended.map(|(_, outcome)| outcome),
            // Who asks again does not want to wait, and who asks while it ends to be made anew does not want it any more.
            _ = signals.ended() => ended.map(|_| Outcome::Ended),
        }
    }

    /// Starts the parts.
    async fn start(&mut self, informers: &Informers, steps: &Steps) -> anyhow::Result<(Running, Made)> {
        let data = self.settings(steps).await?;
        let settings = Settings::read(&data)?;
        let cluster_ip = settings.dns.iter().find(|ip| settings.pods.first().is_some_and(|first| ip.is_ipv4() == first.is_ipv4()));
        let servers = self.servers()?;
        let ips = self.addresses(&servers, &settings).await?;
        let plan = settings.plan(&self.cluster, servers.first().map_or(6443, Server::port))?;
        if self.joined.ranges.is_empty() {
            self.cluster.has_room_for(&plan)?;
        }
        let Some(ranges) = self.ranges(informers, steps).await? else {
            if let Err(error) = Box::pin(self.end_former(&plan, &ips, settings.kind)).await {
                tracing::warn!("what a former start has left running stays: {error:#}");
            }
            bail!(taken(&self.joined.node))
        };
        let parts = plan.parts_of(&ranges)?;
        let (Some(gateway), Some(ip)) = (parts.first().map(Part::node_ip), ips.first().copied()) else { bail!("the node has no address") };
        if parts.len() < settings.pods.len() {
            tracing::warn!("the cluster's pods have both families, and this node has a range of but one yet");
        }
        self.cluster.keep(&plan)?;
        let disable: Vec<Component> = self.command.disable.iter().chain(&settings.disabled).copied().collect();
        let has = |component| !disable.contains(&component) && (component != Component::Dns || cluster_ip.is_some());
        let disable: Vec<Component> = Component::OF_NODES.into_iter().map(|(component, _)| component).filter(|component| !has(*component)).collect();
        let shown = Arc::new(Shown::default());
        let authorities = cluster_info::authorities(&self.joined.ca)?;
        let client = self.access.client();
        let dns_ports = node::own_ports(gateway, None, false, has(Component::Proxy) && has(Component::Dns)).filter(|own| own.port == dns::PORT);
        let second = ips.get(1).copied();
        let tunnel = Some(ip).filter(|_| settings.kind == Kind::Vxlan);
        let node_ports = node::node_ports(&ips, None, &self.command.node_port_addresses);
        let node = Node {
            plan: &plan,
            mark: Mark::new(&self.cluster.name),
            home: &self.cluster,
            name: &self.joined.node,
            labels: self.command.node.labels(self.command.labels.iter().cloned()),
            taints: self.command.taints.clone(),
            parts: parts.clone(),
            mtu: Some(mesh::mtu(settings.kind, ip)?),
            tunnel,
            lan: machines::lan(settings.kind, &ips, Some(&node_ports).filter(|_| has(Component::Proxy))),
            assigned: true,
            ip: gateway,
            address: ip,
            second,
            own_ports: node::own_ports(ip, second, has(Component::Proxy), false).chain(dns_ports).chain(machines::tunnel_port(tunnel)).collect(),
            images: self.cluster.runtime(None).root,
            cluster_dns: settings.dns.clone(),
            domain: settings.domain.clone(),
            settings: self.command.node.settings()?,
        };
        let own = mesh::Own { node: self.joined.node.clone(), kind: settings.kind, addresses: ips.clone(), cluster: settings.pods.clone() };
        let member = Member {
            node,
            behind: false,
            mesh: settings.reads_all.then(|| mesh::Config { mark: Mark::new(&self.cluster.name), own, gateways: parts.iter().map(Part::node_ip).collect() }),
            follows_ranges: settings.reads_all,
            runtime: self.cluster.runtime(self.command.registries.as_deref()),
            demo: Some(steps),
            disable: &disable,
            node_ports,
            upstream: dns::Upstream::File("/etc/resolv.conf".into()),
            also_answers: Default::default(),
            api: Api {
                reader: client.clone(),
                dns: None,
                // A volume is written by who may write those of all nodes: a node of another machine may not.
                provisioner: None,
                tls: kubelet::Tls::showing(Arc::clone(&shown) as Arc<_>, authorities)?,
                kubelet: client,
            },
        };
        let running = member.start().await?;
        let ranges = parts.iter().map(|part| part.pod_cidr.to_string()).collect::<Vec<_>>().join(",");
        steps.done(&format!("node {} runs at {ip}, its pods in {ranges}", self.joined.node));
        if !settings.reads_all {
            let theirs = "service proxy, DNS and the way to other nodes are for pods of the cluster's, as on its other nodes";
            steps.say(&format!(
                "the cluster has nothing for nodes of knarr's: {theirs} (`knarr agent --print-manifest` gives this one its own proxy and routes)"
            ));
        }
        let dns = Some(gateway).filter(|_| has(Component::Dns));
        Ok((running, Made { data, settings, ips, parts, dns, shown }))
    }

    fn servers(&self) -> anyhow::Result<Vec<Server>> {
        self.joined.servers.iter().map(|text| text.parse().map_err(|why: String| anyhow::anyhow!(why))).collect()
    }

    /// What nodes must know of the cluster: as it is told, or as it was told last; the command's flags come before both.
    async fn settings(&mut self, steps: &Steps) -> anyhow::Result<Data> {
        let client = self.access.client();
        let mut tries = Tries::new();
        loop {
            let is_kept = !self.joined.settings.is_empty();
            let why = match tokio::time::timeout(ANSWERS, told::told(&client)).await {
                Ok(Ok(told)) => {
                    let is_told = told.is_some();
                    let told = told.unwrap_or_else(told::nothing);
                    let data = self.command.cluster.over(&told);
                    match Settings::read(&data) {
                        // Of what is told no more the last is kept, but for flags.
                        Ok(_) if is_told || !is_kept || self.joined.settings == told => {
                            self.joined.settings = told;
                            self.cluster.keep_joined(&self.joined)?;
                            return Ok(data);
                        }
                        // What makes no sense is not kept, so that it can be mended there.
                        Err(error) if is_told && !is_kept => return Err(error),
                        Err(error) if is_told => format!("{error:#}"),
                        _ => format!(
                            "the cluster does not say what its nodes must know, neither by ConfigMap {NAMESPACE}/{NAME} (is it started with `knarr up \
                             --advertise-address`?) nor by kubeadm's; --cluster-cidr and --service-cidr say it here"
                        ),
                    }
                }
                Ok(Err(error)) => {
                    let of_api = error.downcast_ref::<client::Error>();
                    if of_api.and_then(client::Error::status).is_some_and(|status| status.code == 401) {
                        bail!(
                            "the cluster does not know this node's certificate any more ({error}): has it been made anew? `knarr agent --reset`, and join again"
                        )
                    }
                    anothers(format!("{error:#}"))
                }
                Err(_) => "the API server does not answer".to_owned(),
            };
            if is_kept {
                tracing::warn!(why, "the node starts as it was");
                return Ok(self.command.cluster.over(&self.joined.settings));
            }
            if tries.is_news(&why) {
                steps.say(&format!("waiting for the cluster: {why}"));
            }
            tries.pause().await;
        }
    }

    /// Where others reach this machine: of the first family, and where it is told of the second.
    async fn addresses(&self, servers: &[Server], settings: &Settings) -> anyhow::Result<Vec<IpAddr>> {
        let mut tries = Tries::new();
        let mut ips = match &self.command.node_ip[..] {
            // After a reboot the machine's own network may come later than this.
            [] => loop {
                match server::own_address(servers).await {
                    Ok(ip) => break vec![ip],
                    Err(error) if tries.is_news(&error.to_string()) => tracing::warn!("waiting for the machine's network: {error}"),
                    Err(_) => {}
                }
                tries.pause().await;
            },
            told => told.to_vec(),
        };
        server::check_all(&ips, &server::addresses()?, &settings.ranges())?;
        if let Some(first) = settings.pods.first() {
            server::put_in_order(&mut ips, *first, settings.kind)?;
        }
        Ok(ips)
    }

    /// The ranges of the node's pods: as they are given, or as they were given last; none: the node is another machine's.
    async fn ranges(&mut self, informers: &Informers, steps: &Steps) -> anyhow::Result<Option<Vec<Net>>> {
        let (client, joined) = (self.access.client(), self.joined.clone());
        let name = &joined.node;
        let given = async {
            let mut tries = Tries::new();
            while let Err(error) = join::announced(&client, &self.command, &self.cluster, &joined).await {
                let error = anothers(error.to_string());
                if tries.is_news(&error) {
                    tracing::warn!(error, "the node's object is not there yet; trying again");
                }
                tries.pause().await;
            }
            of_node(informers, name, |node| if joined.is_of_another(node) { Some(None) } else { ranges(node).map(Some) }).await
        };
        let kept = async {
            tokio::time::sleep(ANSWERS).await;
            if self.joined.ranges.is_empty() {
                steps.say(&format!("waiting for the range of node {name}'s pods (spec.podCIDR), which the control plane gives"));
                std::future::pending::<()>().await;
            }
        };
        let ranges = tokio::select! {
            ranges = given => ranges,
            () = kept => Some(self.joined.ranges.clone()),
        };
        let Some(ranges) = ranges else { return Ok(None) };
        if ranges != self.joined.ranges {
            self.joined.ranges = ranges;
            self.cluster.keep_joined(&self.joined)?;
        }
        Ok(Some(nets(&self.joined.ranges)))
    }

    /// Ends what a former start has left running: it is another machine's now, which starts it itself.
    async fn end_former(&self, plan: &Plan, ips: &[IpAddr], kind: Kind) -> anyhow::Result<()> {
        let (Ok(parts), Some(ip)) = (plan.parts_of(&nets(&self.joined.ranges)), ips.first()) else { return Ok(()) };
        let mark = Mark::new(&self.cluster.name);
        let runtime = Runtime::open(self.cluster.runtime(self.command.registries.as_deref())).await.context("the container runtime")?;
        let run_dir = self.cluster.run.join("network");
        // The pods are kept from the way between machines to their end.
        let tunnel = Some(*ip).filter(|_| kind == Kind::Vxlan);
        // By it hooks are sent to pods' own addresses.
        let settings =
            network::pod::Config { mark: mark.clone(), run_dir, bridge: None, parts, mtu: None, own_ports: Vec::new(), behind: false, tunnel, lan: None };
        let network = tokio::task::spawn_blocking(move || PodNetwork::open(settings)).await?.context("the pod network")?;
        node::end_pods(&runtime, Some(network), *ip).await;
        node::remove_rules(mark).await;
        Ok(())
    }

    /// Waits until the node must be made otherwise; says why.
    async fn changed(&self, made: &Made, informers: &Informers) -> Anew {
        let other = of_node(informers, &self.joined.node, |node| made.others(&nets(&ranges(node)?)));
        let told = async {
            if !made.settings.reads_all {
                // Until somebody gives the cluster what `--print-manifest` prints.
                loop {
                    tokio::time::sleep(LOOK).await;
                    let told = told::of_knarr(&self.access.client()).await.ok().flatten();
                    if told.is_some_and(|told| Settings::read(&self.command.cluster.over(&told)).is_ok_and(|settings| settings.reads_all)) {
                        return;
                    }
                }
            }
            let mut changes = informers.informer_in::<ConfigMap>(NAMESPACE, ListParams::fields(format!("metadata.name={NAME}"))).subscribe();
            while let Some(change) = changes.recv().await {
                let told = change.object().data.clone().unwrap_or_default().into_iter().collect();
                let data = self.command.cluster.over(&told);
                // One that makes no sense is not followed; a start would fail by it.
                if !matches!(change, Delta::Deleted(_)) && data != made.data && Settings::read(&data).is_ok() {
                    return;
                }
            }
            std::future::pending().await
        };
        let moved = async {
            loop {
                tokio::time::sleep(LOOK).await;
                let now = match self.servers() {
                    Ok(servers) if self.command.node_ip.is_empty() => server::own_address(&servers).await,
                    _ => continue,
                };
                let was = made.ips.first().copied();
                if was.is_some_and(|was| server::addresses().is_ok_and(|own| server::has_moved(was, now.ok(), &own))) {
                    return;
                }
            }
        };
        tokio::select! {
            what = other => what,
            () = told => Anew::Settings,
            () = moved => Anew::Address,
        }
    }
}

/// What a node was put together of.
struct Made {
    data: Data,
    settings: Settings,
    ips: Vec<IpAddr>,
    parts: Vec<Part>,
    /// Where its DNS answers.
    dns: Option<IpAddr>,
    shown: Arc<Shown>,
}

impl Made {
    /// What is otherwise with these ranges of the node's pods.
    fn others(&self, ranges: &[Net]) -> Option<Anew> {
        if !self.parts.iter().all(|part| ranges.contains(&part.pod_cidr)) {
            return Some(Anew::Range);
        }
        let gained = self.settings.pods.iter().filter(|pods| ranges.iter().any(|range| pods.holds(*range))).count() > self.parts.len();
        gained.then_some(Anew::Family)
    }
}

/// Ranges by their texts; what is no range is none.
fn nets(texts: &[String]) -> Vec<Net> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

/// What `pick` finds in a node's object, once it finds something.
async fn of_node<T>(informers: &Informers, name: &str, pick: impl Fn(&v1::Node) -> Option<T>) -> T {
    let mut changes = informers.informer_with::<v1::Node>(ListParams::fields(format!("metadata.name={name}"))).subscribe();
    while let Some(change) = changes.recv().await {
        if let Delta::Added(node) | Delta::Updated { new: node, .. } = &change
            && let Some(found) = pick(node)
        {
            return found;
        }
    }
    // The informers have ended, and with them whoever asks.
    std::future::pending().await
}

/// The ranges of a node's pods, if it has some.
fn ranges(node: &v1::Node) -> Option<Vec<String>> {
    let spec = node.spec.as_ref()?;
    let all = spec.pod_cidrs.clone().filter(|all| !all.is_empty());
    all.or_else(|| spec.pod_cidr.clone().filter(|range| !range.is_empty()).map(|range| vec![range]))
}

fn has_addresses(node: &v1::Node, ips: &[IpAddr]) -> bool {
    let has = |ip: &IpAddr| node.status.iter().flat_map(|s| s.addresses.iter().flatten()).any(|a| a.type_ == "InternalIP" && a.address == ip.to_string());
    ips.iter().all(has)
}

/// Keeps the certificate of the kubelet's own API. Who approves it looks at the addresses of the Node object, which come with its status.
async fn serving(cluster: &Cluster, joined: &Joined, access: &Access, made: &Made, informers: Informers) -> std::convert::Infallible {
    let rotation = Rotation {
        wanted: Wanted::serving(&joined.node, &made.ips),
        file: join::file(cluster, join::SERVING),
        client: access.client().user_agent("kubelet"),
        clock: kubelet::Clock::default(),
    };
    if !made.settings.is_signed_for {
        return by_itself(&rotation.wanted, &made.shown).await;
    }
    let have = Pair::load(&rotation.file).inspect_err(|error| tracing::warn!(%error, "another certificate is asked for")).ok().flatten();
    let have = have.filter(|pair| pair.ends() > SystemTime::now() && rotation.wanted.is(pair));
    match &have {
        Some(pair) => made.shown.show(pair),
        None => of_node(&informers, &joined.node, |node| has_addresses(node, &made.ips).then_some(())).await,
    }
    rotation.keep(have, |pair| made.shown.show(pair)).await
}

/// Shows a certificate of the kubelet's own, as the original's kubelet does in a cluster where nobody signs for it. It is made anew long
/// before it ends.
async fn by_itself(wanted: &Wanted, shown: &Shown) -> std::convert::Infallible {
    loop {
        let life = match wanted.self_signed(SystemTime::now()) {
            Ok(pair) => {
                shown.show(&pair);
                pair.ends().duration_since(pair.begins()).unwrap_or_default()
            }
            Err(error) => {
                tracing::error!(%error, "the kubelet's own API has no certificate; trying again");
                AGAIN_MAX
            }
        };
        tokio::time::sleep(life / 2).await;
    }
}
