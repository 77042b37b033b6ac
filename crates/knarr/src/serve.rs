//! The start of a cluster, in order, and its end. Each part gets its identity, its way to the API and a token that ends
//! it; a part that fails ends the cluster's process with its error, and leaves the containers alone.

use crate::{
    addons, certificates,
    cli::{self, Component, Up},
    cluster::{self, Cluster, DOMAIN, LOG, Plan},
    dns_probe,
    local::{self, Door},
    machines,
    node::{self, Node},
    nodes, part,
    parts::{self, KUBELET, Parts, spawn},
    port::{self, Port},
    preflight,
    progress::Steps,
    rooms::Room,
    signals::End,
    supervisor::Supervisor,
    volumes,
};
use anyhow::{Context as _, anyhow};
use apiserver::{AdmissionOptions, AdmissionSettings, ApiServer, Config};
use client::{Client, Delegated, Informers, RequestMetrics};
use identity::{
    Trust,
    pki::{Ca, ClusterNames, ClusterPki, NodePki},
};
use network::{
    Mark, dns,
    pod::{OwnPort, PodNetwork},
    proxy::{self, NodePortAddresses},
};
use runtime::Runtime;
use std::{
    collections::BTreeSet,
    ffi::OsString,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::{net::TcpListener, runtime::Handle, sync::watch};
use tokio_util::sync::CancellationToken;
use volume::{Drivers, disk::Disk, provision};

/// Seconds of a node's lease interval are 10; a first registration that takes this long will not come.
const READY_PATIENCE: Duration = Duration::from_secs(60);
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A cluster that runs in this process.
pub struct Running {
    /// The administrator's way in.
    pub admin: Client,
    /// The runtime of the node, if this process has one.
    pub runtime: Option<Runtime>,
    informers: Informers,
    certificates: certificates::Keeper,
    network: Option<PodNetwork>,
    /// Who keeps the further nodes.
    workers: Option<Supervisor>,
    node_ip: IpAddr,
    parts: Parts,
    stop: CancellationToken,
    /// Of those who start pods and delete them, the kubelet, the scheduler and the controllers: they end before the others. (A node
    /// whose kubelet has ended is soon taken for dead, and its pods would be deleted while they end.)
    pods_stop: CancellationToken,
    _rooms: Rooms,
}

/// The rooms beside the API's.
struct Rooms {
    control: Room,
    node: Room,
}

/// What a start is told.
pub struct Setup<'a> {
    /// Which cluster.
    pub cluster: &'a Cluster,
    /// Its addresses.
    pub plan: &'a Plan,
    /// The command line.
    pub up: &'a Up,
    /// The node's name.
    pub node_name: String,
    /// What pods' links may carry, where they lead to other machines.
    pub mtu: Option<u32>,
    /// What the node's flags say.
    pub settings: kubelet::Settings,
    /// The user's kubeconfig.
    pub kubeconfig: &'a Path,
}

impl Setup<'_> {
    fn has(&self, component: Component) -> bool {
        !self.up.disable.contains(&component)
    }

    /// Where the API server listens besides loopback and the node's own address.
    fn listen(&self) -> BTreeSet<IpAddr> {
        self.up.listen.iter().chain(&self.plan.advertise).copied().collect()
    }

    /// At which addresses the first node serves node ports.
    fn node_ports(&self) -> NodePortAddresses {
        node::node_ports(&self.plan.node_ips(), self.plan.shared(), &self.up.node_port_addresses)
    }

    /// Where balancers outside ask after the first node's health, beside its own addresses: where other machines reach this one, as they ask
    /// agents, if no other cluster's proxy may be there.
    fn health_outside(&self) -> impl Iterator<Item = IpAddr> {
        let is_alone = self.has(Component::Proxy) && self.node_ports() == NodePortAddresses::All;
        self.plan.advertise.iter().copied().filter(move |_| is_alone)
    }

    /// The first node.
    fn node(&self) -> Node<'_> {
        Node {
            plan: self.plan,
            mark: Mark::new(&self.cluster.name),
            home: self.cluster,
            name: &self.node_name,
            labels: self.up.node.labels([]),
            taints: Vec::new(),
            parts: self.plan.first(),
            mtu: self.mtu,
            tunnel: machines::tunnel(self.plan),
            lan: machines::lan(self.plan.pod_network, &self.plan.advertise, self.has(Component::Proxy).then(|| self.node_ports()).as_ref()),
            assigned: false,
            ip: self.plan.node_ip(),
            address: self.plan.node_ip(),
            second: self.plan.node_ips().get(1).copied(),
            own_ports: own_ports(self),
            images: self.cluster.runtime(None).root,
            cluster_dns: vec![self.plan.dns_ip()],
            domain: DOMAIN.into(),
            settings: self.settings.clone(),
        }
    }
}

/// Starts everything; returns when the API is ready. What follows by itself [`Running::ready`] waits for.
pub async fn start(setup: &Setup<'_>, steps: &Steps) -> anyhow::Result<Running> {
    let plan = setup.plan;
    let stop = CancellationToken::new();
    let pods_stop = stop.child_token();
    let mut parts = Parts::new();
    let rooms = Rooms { control: Room::open("control")?, node: Room::open("node")? };

    // The node's network first: the API server listens on its address. Keys, objects and images load beside it.
    let names = certificates::names(plan, &Vec::from_iter(setup.listen()), &setup.up.tls_san)?;
    let loading = tokio::task::spawn_blocking({
        let (cluster, names, accept_data_loss) = (setup.cluster.clone(), names.clone(), setup.up.accept_data_loss);
        move || load(&cluster, &names, accept_data_loss)
    });
    let node = match setup.has(Component::Kubelet) {
        true => Some(open_node(setup, &rooms.node).await?),
        false => None,
    };
    let (store, pki) = loading.await??;
    steps.done(&format!("store opened at revision {}, keys and certificates there", store.revision()));

    let mut trust = pki.trust()?;
    setup.up.front_proxy.apply(&mut trust)?;
    if let Some(known) = &trust.kubelets
        && let Some(more) = machines::kubelets(setup.up, known)?
    {
        trust.kubelets = Some(Arc::new(more));
    }
    let tls = pki.server_config_trusting(&trust.front_proxy_ca_pem)?;
    let server = api_server(setup, store, (&pki, trust), node.is_some())?;
    let listeners = listeners(setup, node.is_some())?;
    spawn(&mut parts, &Handle::current(), "API server", {
        let (server, stop) = (server.clone(), stop.clone());
        async move {
            server.serve(listeners, tls, stop).await;
            Ok::<_, std::convert::Infallible>(())
        }
    });
    server.bootstrap().await.map_err(|e| anyhow!("the API's own objects cannot be made: {e}"))?;
    steps.done(&format!("API ready on https://127.0.0.1:{}", plan.port));

    let door = Door::new(&server);
    let admin = door.client(local::user("kubernetes-admin", &["system:masters"]));
    let informers = informers(&door, &rooms.control, &stop);
    control_plane(setup, &door, (&pki, &names), (&informers, &rooms.control), &pods_stop, (&mut parts, steps))?;
    let node_pki = match node.clone() {
        Some((runtime, network)) => Some(start_node(setup, (&door, &pki, &informers), (runtime, network, &rooms.node), (&stop, &pods_stop), &mut parts).await?),
        None => None,
    };
    let (runtime, network) = node.unzip();
    addons::apply(&admin, setup.has(Component::Storage)).await?;
    machines::apply(&admin, setup.cluster, plan, &pki, &setup.up.disable).await?;
    services(setup, door.client(addons::dns_user()), (&informers, &rooms.node), &stop, &mut parts).await?;
    if (!setup.has(Component::Kubelet) || !setup.has(Component::Dns))
        && let Err(error) = dns::withdraw(&admin, &setup.node_name).await
    {
        // A webhook or a policy may refuse it: that is no reason to end the cluster.
        tracing::warn!(node = setup.node_name, %error, "the cluster's DNS leads to this node, which has none any more");
    }
    credentials(setup, &pki)?;

    let certificates = certificates::Keeper::new(setup.cluster, plan, setup.kubeconfig, pki, node_pki.map(|own| (setup.node_name.clone(), own)), names);
    let node_ip = plan.node_ip();
    let workers = network.is_some().then(|| Supervisor::start(setup.cluster, plan, (worker_options(setup), setup.has(Component::Dns)), admin.clone()));
    Ok(Running { admin, runtime, informers, certificates, network, workers, node_ip, parts, stop, pods_stop, _rooms: rooms })
}

/// Starts the first node's parts: its network, the way to other machines, the kubelet and the provisioner of its volumes.
async fn start_node(
    setup: &Setup<'_>,
    (door, pki, informers): (&Door, &ClusterPki, &Informers),
    (runtime, network, room): (Runtime, PodNetwork, &Room),
    (stop, pods_stop): (&CancellationToken, &CancellationToken),
    parts: &mut Parts,
) -> anyhow::Result<NodePki> {
    let own = pki.node(&setup.node_name, &setup.node().ips())?;
    let (kept, of_services, token) = (network.clone(), informers.clone(), stop.clone());
    spawn(parts, &room.handle, "pod network", async move {
        tokio::join!(kept.keep(token.clone()), kept.lead_services(of_services, token));
        Ok::<_, std::convert::Infallible>(())
    });
    if let Some(config) = machines::mesh(setup.cluster, setup.plan, &setup.node_name) {
        spawn(parts, &room.handle, "way to other machines", network::mesh::run(config, informers.clone(), stop.clone()));
    }
    let (disk, drivers) = (open_disk(setup).await?, Drivers::default());
    if let Some(disk) = &disk {
        drivers.add(volume::disk::NAME, Arc::new(disk.clone()));
    }
    let tls = kubelet::Tls::showing(own.shown(), [pki.ca.cert().clone()])?;
    start_kubelet(setup, door, tls, (runtime, network, drivers, room), pods_stop, parts);
    if let Some(disk) = disk.filter(|_| setup.has(Component::Storage)) {
        let client = door.client(local::service_account(provision::ACCOUNT)).user_agent(provision::ACCOUNT);
        let provisioner = provision::run(setup.node_name.clone(), disk, client, informers.clone(), stop.clone());
        spawn(parts, &room.handle, "volume provisioner", provisioner);
    }
    Ok(own)
}

/// What the processes of the further nodes are told.
fn worker_options(setup: &Setup<'_>) -> Vec<OsString> {
    let mut options = setup.up.node.arguments();
    for (component, name) in Component::OF_NODES {
        if !setup.has(component) {
            options.extend(["--disable", name].map(OsString::from));
        }
    }
    if let Some(mtu) = setup.mtu {
        options.extend(["--mtu".to_owned(), mtu.to_string()].map(OsString::from));
    }
    if let Some(registries) = setup.up.registries.as_deref().and_then(|file| std::path::absolute(file).ok()) {
        options.extend([OsString::from("--registries"), registries.into()]);
    }
    options
}

fn load(cluster: &Cluster, names: &ClusterNames, accept_data_loss: bool) -> anyhow::Result<(store::Store, ClusterPki)> {
    let directory = cluster.data.join("pki");
    let (store, pki) = std::thread::scope(|scope| {
        let pki = scope.spawn(|| ClusterPki::load_or_create(&directory, names));
        let options = store::Options { accept_data_loss, ..store::Options::default() };
        let store = store::Store::open(&cluster.data.join("store"), &options);
        (store, pki.join())
    });
    let pki = pki.map_err(|_| anyhow!("making the keys panicked"))?;
    Ok((store?, pki.with_context(|| format!("the keys in {}", directory.display()))?))
}

/// The node's runtime, which finds the containers of a former process, and its network.
async fn open_node(setup: &Setup<'_>, room: &Room) -> anyhow::Result<(Runtime, PodNetwork)> {
    let runtime = room.handle.spawn(Runtime::open(setup.cluster.runtime(setup.up.registries.as_deref())));
    let config = setup.node().network(false);
    let network = room.handle.spawn_blocking(move || PodNetwork::open(config));
    let (runtime, network) = tokio::join!(runtime, network);
    Ok((runtime?.context("the container runtime")?, network?.context("the pod network")?))
}

/// Ports of this host at which the cluster itself listens: the API's, the scheduler's and the controllers', the kubelet's, the
/// proxy's, those of DNS, and the kernel's own for VXLAN.
fn own_ports(setup: &Setup<'_>) -> Vec<OwnPort> {
    let (node, second) = (setup.plan.node_ip(), setup.plan.node_ips().get(1).copied());
    let api = [LOOPBACK, node].into_iter().chain(setup.listen());
    let api = api.map(|ip| OwnPort { ip: Some(ip).filter(|ip| !ip.is_unspecified()), port: setup.plan.port, protocol: "TCP" });
    // As `port` chooses them.
    let at = if setup.plan.is_first() { LOOPBACK } else { node };
    let parts = [setup.up.scheduler_secure_port, setup.up.controllers_secure_port].into_iter().filter(|port| *port != 0);
    let parts = parts.map(|port| OwnPort { ip: Some(at), port, protocol: "TCP" });
    let tunnel = machines::tunnel_port(machines::tunnel(setup.plan));
    let has_proxy = setup.has(Component::Proxy);
    let health = setup.health_outside().map(|ip| OwnPort { ip: Some(ip), port: proxy::HEALTH_PORT, protocol: "TCP" });
    api.chain(parts).chain(health).chain(tunnel).chain(node::own_ports(node, second, has_proxy, has_proxy && setup.has(Component::Dns))).collect()
}

/// The admission plug-ins that are asked for, with their settings.
pub fn admission(up: &Up) -> anyhow::Result<AdmissionSettings> {
    let options = AdmissionOptions {
        enable: up.enable_admission_plugins.clone(),
        disable: up.disable_admission_plugins.clone(),
        config_file: up.admission_control_config_file.clone(),
    };
    options.check().map_err(|errors| anyhow!("{}", errors.join("\n")))
}

fn api_server(setup: &Setup<'_>, store: store::Store, (pki, trust): (&ClusterPki, Trust), has_node: bool) -> anyhow::Result<ApiServer> {
    let plan = setup.plan;
    let identity = apiserver::Identity::new(&store, Some(pki.directory()), ISSUER, trust)?;
    let config = Config {
        service_cidrs: plan.service_cidrs().iter().map(|range| (range.base(), range.prefix())).collect(),
        runtime_config: setup.up.runtime_config.clone(),
        advertise_address: plan.advertise.first().copied().or(Some(if has_node { plan.node_ip() } else { LOOPBACK })),
        advertise_port: plan.port,
        node_ranges: machines::node_ranges(plan),
        admission: admission(setup.up)?,
        resident: [(Component::Scheduler, "scheduler"), (Component::Controllers, "controller-manager")]
            .into_iter()
            .filter_map(|(component, name)| setup.has(component).then_some(name))
            .collect(),
        resource_metrics: setup.has(Component::Metrics),
        ..Config::default()
    };
    ApiServer::new(config, store, identity).map_err(|e| anyhow!("the API server cannot start: {e}"))
}

fn listeners(setup: &Setup<'_>, has_node: bool) -> anyhow::Result<Vec<TcpListener>> {
    let node = has_node.then(|| setup.plan.node_ip());
    let listen = setup.listen();
    // One listener on all addresses is enough where one was asked for.
    let any = listen.iter().copied().find(IpAddr::is_unspecified);
    let ips: BTreeSet<IpAddr> = [LOOPBACK].into_iter().chain(node).chain(listen).collect();
    let Some(any) = any else { return ips.into_iter().map(|ip| preflight::listen(ip, setup.plan.port)).collect() };
    let mut all = vec![preflight::listen(any, setup.plan.port)?];
    // Where IPv6's all addresses are not IPv4's as well.
    if any.is_ipv6() && std::fs::read_to_string("/proc/sys/net/ipv6/bindv6only").is_ok_and(|v| v.trim() == "1") {
        all.push(preflight::listen(Ipv4Addr::UNSPECIFIED.into(), setup.plan.port)?);
    }
    Ok(all)
}

/// What the parts of the control plane and the node's services read: one memory of the cluster for all of them, read as
/// the controllers may, and kept up in their room.
fn informers(door: &Door, room: &Room, stop: &CancellationToken) -> Informers {
    let reader = door.client(local::user("system:kube-controller-manager", &[])).user_agent("knarr-informers");
    let _inside = room.handle.enter();
    Informers::new(reader, stop.clone())
}

/// Signs certificates with the cluster's authority, which is read anew each time: it is seldom asked.
fn signer(pki: &ClusterPki) -> controllers::Signer {
    let directory = pki.directory().to_owned();
    controllers::Signer::new(move |request, usages, life| {
        let authority = Ca::load_or_create(&directory).map_err(|error| error.to_string())?;
        Ok(authority.sign_request(request, usages, life, SystemTime::now()).map_err(|error| error.to_string()))
    })
}

fn control_plane(
    setup: &Setup<'_>,
    door: &Door,
    (pki, names): (&ClusterPki, &ClusterNames),
    (informers, room): (&Informers, &Room),
    stop: &CancellationToken,
    (parts, steps): (&mut Parts, &Steps),
) -> anyhow::Result<()> {
    let host = format!("{LOOPBACK}:{}", setup.plan.port);
    let _inside = room.handle.enter();
    if setup.has(Component::Controllers) {
        let config = controllers::Config {
            root_ca: pki.ca.cert_pem().to_owned(),
            cluster_cidr: Some(cluster::list(&setup.plan.pod_cidrs())),
            node_cidr_mask: setup.plan.node_prefix,
            node_cidr_mask_v6: setup.plan.node_prefix6,
            signer: Some(signer(pki)),
            signing_life: setup.up.cluster_signing_duration,
            node_monitor_grace: setup.up.node_monitor_grace_period,
            ..Default::default()
        };
        let config = machines::controllers(config, setup.cluster, setup.plan, names);
        let requests = RequestMetrics::new(&config.metrics, &host);
        if let Some(listener) = port_of(setup, "controllers", setup.up.controllers_secure_port, steps)? {
            let reviewer = door.client(local::user("system:kube-controller-manager", &[])).user_agent("kube-controller-manager").counted(&requests);
            let tls = port_tls(pki, &listener)?;
            let flags = port::served(listener.local_addr()?);
            let port = Port::new(listener, tls, Delegated::new(reviewer), part::controllers_pages(&config, flags));
            spawn_port(parts, &room.handle, "controllers' port", port, stop);
        }
        let door = door.clone();
        let client_for = move |name: &str| door.client(local::service_account(name)).counted(&requests);
        spawn(parts, &room.handle, "controllers", controllers::run(config, client_for, informers.clone(), stop.clone()));
    }
    if setup.has(Component::Scheduler) {
        let config = part::scheduler_config(setup.up.scheduler_config.as_deref())?;
        let requests = RequestMetrics::new(config.metrics.registry(), &host);
        let client = door.client(local::user("system:kube-scheduler", &[])).user_agent("kube-scheduler").counted(&requests);
        if let Some(listener) = port_of(setup, "scheduler", setup.up.scheduler_secure_port, steps)? {
            let tls = port_tls(pki, &listener)?;
            let flags = port::served(listener.local_addr()?);
            let pages = part::scheduler_pages((&config, setup.up.scheduler_config.as_deref()), informers, flags);
            let port = Port::new(listener, tls, Delegated::new(client.clone()), pages);
            spawn_port(parts, &room.handle, "scheduler's port", port, stop);
        }
        spawn(parts, &room.handle, "scheduler", scheduler::run(config, client, informers.clone(), stop.clone()));
    }
    Ok(())
}

/// Where a part of the control plane serves its own health and metrics: on loopback, a further cluster's at its node's address, as its
/// node ports are. That the usual port is taken keeps no cluster from starting; one that was asked for must be free.
fn port_of(setup: &Setup<'_>, part: &str, number: u16, steps: &Steps) -> anyhow::Result<Option<TcpListener>> {
    let (flag, usual) = (format!("--{part}-secure-port"), [cli::SCHEDULER_PORT, cli::CONTROLLERS_PORT].contains(&number));
    let ip = if setup.plan.is_first() { Some(LOOPBACK) } else { setup.node().ips().first().copied().filter(|_| setup.has(Component::Kubelet)) };
    let ip = match ip {
        _ if number == 0 => return Ok(None),
        Some(ip) => ip,
        None if usual => return Ok(None),
        None => return Err(anyhow!("{flag} {number}: a further cluster serves that at its node's address, and this one has no node here (--disable kubelet)")),
    };
    match port::listen(part, &flag, ip, number) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if usual => {
            steps.say(&format!("knarr: no health and metrics of the {part}: {error:#}"));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Its certificate is one that it signs itself, as the originals' is; clients show the cluster's.
fn port_tls(pki: &ClusterPki, listener: &TcpListener) -> anyhow::Result<watch::Receiver<Arc<rustls::ServerConfig>>> {
    Ok(port::fixed(port::own(&port::Files::default(), listener.local_addr()?.ip(), Some(pki.ca.cert_pem()))?))
}

fn spawn_port(parts: &mut Parts, room: &Handle, name: &'static str, port: Port, stop: &CancellationToken) {
    let stop = stop.clone();
    spawn(parts, room, name, async move {
        port.serve(stop).await;
        Ok::<_, std::convert::Infallible>(())
    });
}

fn start_kubelet(
    setup: &Setup<'_>,
    door: &Door,
    tls: kubelet::Tls,
    (runtime, network, drivers, room): (Runtime, PodNetwork, Drivers, &Room),
    stop: &CancellationToken,
    parts: &mut Parts,
) {
    let name = setup.node_name.as_str();
    let config = setup.node().kubelet(tls);
    let client = door.client(local::user(&format!("system:node:{name}"), &["system:nodes"])).user_agent("kubelet");
    let _inside = room.handle.enter();
    let informers = Informers::new(client.clone(), stop.clone());
    spawn(parts, &room.handle, KUBELET, kubelet::run(config, client, informers, runtime, network, drivers, stop.clone()));
}

/// The driver of volumes on this node's disk: also where nothing new is provisioned, for the volumes that are there.
async fn open_disk(setup: &Setup<'_>) -> anyhow::Result<Option<Disk>> {
    let directory = volumes::directory(&setup.cluster.data);
    if !setup.has(Component::Storage) && !directory.exists() {
        return Ok(None);
    }
    volumes::open(directory, setup.node_name.clone()).await.map(Some)
}

/// The node's services: proxy and DNS. They belong to a node, so without one there are none.
async fn services(
    setup: &Setup<'_>,
    publisher: Client,
    (informers, room): (&Informers, &Room),
    stop: &CancellationToken,
    parts: &mut Parts,
) -> anyhow::Result<()> {
    if !setup.has(Component::Kubelet) || !setup.has(Component::Proxy) {
        // Rules of a former start would go before those of whoever proxies now.
        let mark = Mark::new(&setup.cluster.name);
        tokio::task::spawn_blocking(move || proxy::remove(&mark)).await?.context("the rules of a former start")?;
    }
    if !setup.has(Component::Kubelet) {
        return Ok(());
    }
    let (ready, _) = watch::channel(false);
    let node = setup.node();
    if setup.has(Component::Proxy) {
        let mut config = node.proxy(setup.node_ports());
        config.health.extend(setup.health_outside());
        spawn(parts, &room.handle, "service proxy", proxy::run(config, informers.clone(), stop.clone(), ready.clone()));
    }
    if setup.has(Component::Dns) {
        let config = node.dns(dns::Upstream::File("/etc/resolv.conf".into()), publisher);
        spawn(parts, &room.handle, "DNS", dns::run(config, informers.clone(), stop.clone(), ready));
    }
    Ok(())
}

/// Kubeconfigs for the parts that are left out: whatever takes their place needs their identities.
fn credentials(setup: &Setup<'_>, pki: &ClusterPki) -> anyhow::Result<()> {
    let directory = setup.cluster.data.join("kubeconfig");
    let server = format!("https://127.0.0.1:{}", setup.plan.port);
    for component in &setup.up.disable {
        let (name, own) = match component {
            Component::Scheduler => ("scheduler", pki.scheduler.clone()),
            Component::Controllers => ("controllers", pki.controller_manager.clone()),
            Component::Kubelet => ("kubelet", pki.node(&setup.node_name, &setup.node().ips())?.client),
            Component::Proxy => ("proxy", pki.proxy.clone()),
            Component::Dns => ("dns", pki.ca.client_cert("dns", addons::DNS_USER, &[])?),
            // Others that provision or measure have service accounts of their own.
            Component::Storage | Component::Metrics => continue,
        };
        ClusterPki::write_kubeconfig(&directory.join(format!("{name}.conf")), &pki.kubeconfig(name, &server, &own))?;
    }
    Ok(())
}

impl Running {
    /// Waits until, as far as they run here, the node is Ready, DNS answers, and the further nodes are Ready.
    pub async fn ready(&mut self, setup: &Setup<'_>, steps: &Steps) -> anyhow::Result<()> {
        let informers = self.informers.clone();
        self.until_ready(setup, &informers, steps).await?;
        self.workers_ready(setup, &informers, steps).await
    }

    async fn until_ready(&mut self, setup: &Setup<'_>, informers: &Informers, steps: &Steps) -> anyhow::Result<()> {
        let node = async {
            if setup.has(Component::Kubelet) && setup.has(Component::Controllers) {
                node::ready(informers, &setup.node_name).await;
                steps.done(&format!("node {} Ready", setup.node_name));
            }
        };
        let admin = self.admin.clone();
        let role = async {
            if !setup.has(Component::Kubelet) {
                return;
            }
            // A webhook or a policy may refuse it: that is no reason to end the cluster.
            if let Err(error) = nodes::control_plane(&admin, informers, &setup.node_name, setup.up.control_plane).await {
                steps.say(&format!("knarr: node {} has no role: {error:#}", setup.node_name));
            }
        };
        let dns = async {
            if setup.has(Component::Kubelet) && setup.has(Component::Proxy) && setup.has(Component::Dns) {
                tokio::select! {
                    () = dns_probe::answering(setup.plan.dns_ip(), DOMAIN) => steps.done("DNS answers"),
                    // Pods that are somebody else's to start, which this cluster may have to run for it.
                    () = addons::dns_is_anothers(informers) => {}
                }
            }
        };
        tokio::select! {
            ready = tokio::time::timeout(READY_PATIENCE, async { tokio::join!(node, dns, role); }) => {
                ready.map_err(|_| anyhow!("the node was not ready after {} s", READY_PATIENCE.as_secs()))
            }
            ended = parts::failed(&mut self.parts) => Err(ended),
        }
    }

    /// Waits for the further nodes, but takes nothing down for one of them.
    async fn workers_ready(&mut self, setup: &Setup<'_>, informers: &Informers, steps: &Steps) -> anyhow::Result<()> {
        if !setup.has(Component::Kubelet) || !setup.has(Component::Controllers) {
            return Ok(());
        }
        let wishes = setup.cluster.wishes()?.into_iter().filter(|wish| !wish.leaving);
        let ready = wishes.map(|wish| async move {
            match tokio::time::timeout(READY_PATIENCE, node::ready(informers, &wish.name)).await {
                Ok(()) => steps.done(&format!("node {} Ready", wish.name)),
                Err(_) => {
                    steps.say(&format!("knarr: node {} is not ready yet; {} tells why", wish.name, setup.cluster.node(wish.number).data.join(LOG).display()))
                }
            }
        });
        tokio::select! {
            _ = futures_util::future::join_all(ready) => Ok(()),
            ended = parts::failed(&mut self.parts) => Err(ended),
        }
    }

    /// Writes the administrator's kubeconfig beside the cluster's data and its context into the user's.
    pub fn write_contexts(&mut self, user: &Path, steps: &Steps) {
        match self.certificates.write_contexts() {
            Ok(()) => steps.done(&format!("context {:?} written to {}", self.certificates.name(), user.display())),
            // The cluster is none the worse for it.
            Err(error) => steps.say(&format!("knarr: {error:#}\n{}", self.certificates.otherwise())),
        }
    }

    /// Waits until a part ends, which none does by itself; until then certificates are kept from ending.
    pub async fn failed(&mut self) -> anyhow::Error {
        tokio::select! {
            error = parts::failed(&mut self.parts) => error,
            never = self.certificates.keep() => match never {},
        }
    }

    /// Ends everything: after an interrupt the pods, as if each were deleted, while what their hooks may ask is still there;
    /// then the parts. Pods' objects are kept.
    pub async fn end(mut self, how: End, steps: &Steps) {
        // They begin at once, beside the pods here.
        let workers = self.workers.take().map(|workers| workers.end(how));
        let nodes = async {
            if let Some(workers) = workers {
                workers.await;
            }
        };
        if let (End::Interrupt, Some(runtime)) = (how, self.runtime.clone()) {
            self.pods_stop.cancel();
            parts::kubelet_ended(&mut self.parts).await;
            tokio::join!(self.end_pods(&runtime, steps), nodes);
        } else {
            nodes.await;
        }
        self.stop.cancel();
        parts::all_ended(&mut self.parts).await;
        if how == End::Interrupt {
            node::remove_rules(Mark::new(self.certificates.name())).await;
        }
    }

    async fn end_pods(&self, runtime: &Runtime, steps: &Steps) {
        steps.now(&format!("ending {} pods, each in its grace period (Ctrl-C again leaves them)", runtime.sandboxes().len()));
        let started = Instant::now();
        let ended = node::end_pods(runtime, self.network.clone(), self.node_ip).await;
        steps.done(&format!("{ended} pods ended in {:.1} s; their objects are kept", started.elapsed().as_secs_f64()));
    }
}
