//! One part alone, against any API server: the proof that the parts meet only at the API.

use crate::{
    accounts::Accounts,
    agent::cluster_info,
    certificates,
    cli::{CONTROLLERS_PORT, Controllers, Dns, Kubelet, Leader, Part, Proxy, SCHEDULER_PORT, Scheduler, Serving},
    cluster::Cluster,
    host, image,
    log::log,
    node,
    port::{self, About, Check, Flags, Pages},
    preflight,
    progress::Steps,
    signals, volumes,
};
use anyhow::Context as _;
use client::lease::{self, LeaderElector, Term};
use client::{Client, Delegated, Endpoint, HttpTransport, Informers, Reports, RequestMetrics};
use http::Uri;
use identity::pki::Ca;
use instruments::{Family, Gauge, Kind, Registry};
use k8s_openapi::api::core::v1::Pod;
use network::{Net, Part as OfFamily, pod::OwnPort, proxy};
use std::{
    future::Future,
    hash::{BuildHasher, RandomState},
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::SystemTime,
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use volume::Drivers;

/// The port of the API server, if it is one of this host's: nobody else gets it here.
async fn api_port(server: &str) -> Option<OwnPort> {
    let uri: Uri = server.parse().ok()?;
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 });
    let found = dial::addresses(uri.host()?, dial::ANSWER_MAX).await.unwrap_or_default();
    let own = host::addresses().unwrap_or_default();
    // At which of the host's addresses it listens is not told.
    found.iter().any(|ip| ip.is_loopback() || own.contains(ip)).then_some(OwnPort { ip: None, port, protocol: "TCP" })
}

/// Ports of this host at which a node and, if it is here, the API server listen.
async fn own_ports(part: &Part, node: IpAddr, has_proxy: bool) -> anyhow::Result<Vec<OwnPort>> {
    let api = api_port(&Endpoint::from_kubeconfig(&part.kubeconfig)?.server).await;
    Ok(node::own_ports(node, None, has_proxy, true).chain(api).collect())
}

struct Ready {
    client: Client,
    informers: Informers,
    /// Where what the server refuses is told.
    reports: Reports,
    stop: CancellationToken,
    requests: RequestMetrics,
}

/// Connects to the part's server; requests are counted there.
fn connect(part: &Part, registry: &Registry) -> anyhow::Result<Ready> {
    log();
    let endpoint = Endpoint::from_kubeconfig(&part.kubeconfig)?;
    let reports = Reports::new(&part.kubeconfig, &endpoint);
    let requests = RequestMetrics::new(registry, &host(&endpoint.server));
    let client = Client::new(reports.over(HttpTransport::new(endpoint)?)).counted(&requests);
    let stop = CancellationToken::new();
    Ok(Ready { informers: Informers::new(client.clone(), stop.clone()), client, reports, stop, requests })
}

/// Name and port of a server, without what else may stand in its address.
fn host(server: &str) -> String {
    let Ok(uri) = server.parse::<Uri>() else { return String::new() };
    let port = uri.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}{port}", uri.host().unwrap_or_default())
}

/// Runs a part until a signal; the part then has the time that it needs.
async fn until_signal<E: Into<anyhow::Error>>(name: &str, stop: CancellationToken, part: impl Future<Output = Result<(), E>>) -> anyhow::Result<()> {
    tokio::pin!(part);
    tokio::select! {
        ended = &mut part => return ended.map_err(|e| e.into().context(format!("the {name} failed"))),
        told = signals::ended() => { told?; }
    }
    stop.cancel();
    part.await.map_err(Into::into)
}

const LEADS: Family = Family::new(
    "leader_election_master_status",
    Kind::Gauge,
    "[ALPHA] Gauge of if the reporting system is master of the relevant lease, 0 indicates backup, 1 indicates master. 'name' is the string used to identify the lease. Please make sure to group by name.",
);

/// Whether the part leads by this lease: told in the registry.
pub fn leads(registry: &Registry, lease: &str) -> Arc<Gauge> {
    registry.gauges(&LEADS, ["name"]).with([lease])
}

/// Runs a part only while it leads, so that several may stand by: the original's names of the leases, so that it may be one of
/// them. Whether it leads is told in the registry.
async fn elected<E, F>(
    leader: &Leader,
    lease: &str,
    (client, registry): (&Client, &Registry),
    stop: CancellationToken,
    part: impl FnOnce(CancellationToken) -> F,
) -> anyhow::Result<()>
where
    E: Into<anyhow::Error>,
    F: Future<Output = Result<(), E>>,
{
    if !leader.leader_elect {
        return part(stop).await.map_err(Into::into);
    }
    let leads = leads(registry, lease);
    let part = |term| async move {
        let _leads = leads.hold();
        part(term).await
    };
    // Unique among those who compete, also after a restart under the same process number; it need not be secret.
    let random = (u128::from(RandomState::new().hash_one(std::process::id())) << 64) | u128::from(RandomState::new().hash_one(std::process::id()));
    let identity = format!("{}_{}", host::name(), machinery::names::uuid(random.to_be_bytes()));
    let elector = LeaderElector::new(client.clone(), lease::Config::new("kube-system", lease, &identity));
    match elector.run(stop, part).await {
        Term::Ended(result) => result.map_err(Into::into),
        Term::Lost(result) => result.map_err(Into::into).and_then(|()| Err(anyhow::anyhow!("leaderelection lost"))),
        Term::NeverLed => Ok(()),
    }
}

/// What the scheduler is told.
pub fn scheduler_config(file: Option<&Path>) -> anyhow::Result<scheduler::Config> {
    file.map_or_else(|| Ok(scheduler::Config::default()), |file| scheduler::Config::from_file(file).map_err(anyhow::Error::msg))
}

/// The scheduler alone.
pub async fn scheduler(command: &Scheduler) -> anyhow::Result<()> {
    let config = scheduler_config(command.config.as_deref())?;
    let registry = config.metrics.registry().clone();
    let Ready { client, informers, stop, .. } = connect(&command.part, &registry)?;
    let client = client.user_agent("kube-scheduler");
    let flags = served(&command.serving, SCHEDULER_PORT, &command.leader, &command.part);
    let pages = scheduler_pages((&config, command.config.as_deref()), &informers, flags);
    let _served = serve_port(&command.serving, ("scheduler", SCHEDULER_PORT), &client, pages, &stop).await?;
    let run = |term| scheduler::run(config, client.clone(), informers, term);
    let part = elected(&command.leader, "kube-scheduler", (&client, &registry), stop.clone(), run);
    until_signal("scheduler", stop, Box::pin(part)).await
}

/// A file as flags show it.
fn shown(file: Option<&Path>) -> String {
    file.map(|file| file.display().to_string()).unwrap_or_default()
}

/// The flags of a part that runs alone that say where it is served and by what it works.
fn served(serving: &Serving, usual: u16, leader: &Leader, part: &Part) -> Flags {
    let mut flags = port::served(SocketAddr::new(serving.bind_address, serving.secure_port.unwrap_or(usual)));
    flags.extend([
        ("client-ca-file", shown(serving.client_ca_file.as_deref())),
        ("kubeconfig", shown(Some(&part.kubeconfig))),
        ("leader-elect", leader.leader_elect.to_string()),
        ("tls-cert-file", shown(serving.tls_cert_file.as_deref())),
        ("tls-private-key-file", shown(serving.tls_private_key_file.as_deref())),
    ]);
    flags
}

/// What the port of a scheduler shows that has its configuration from this file.
pub fn scheduler_pages((config, file): (&scheduler::Config, Option<&Path>), informers: &Informers, mut flags: Flags) -> Pages {
    flags.insert("config", shown(file));
    let about = About {
        component: "kube-scheduler",
        paths: &["/configz", "/flagz", "/healthz", "/livez", "/metrics", "/readyz"],
        config: ("componentconfig", config.shown.as_ref().clone()),
        flags,
        started: SystemTime::now(),
    };
    let (has_read, informers) = (config.has_read.clone(), informers.clone());
    let check = Check::of_readiness("sched-handler-sync", move || has_read.load(Ordering::Acquire));
    let has_read = config.has_read.clone();
    Pages::new(config.metrics.registry().clone(), vec![check], about).with_resources(move |out| {
        // One that does not lead has read nothing, and has nothing to tell.
        if has_read.load(Ordering::Acquire) {
            let pods = informers.informer::<Pod>().list();
            scheduler::metrics::pods::tell(pods.iter().map(AsRef::as_ref), out);
        }
    })
}

/// What the controllers' port shows. A controller that ends ends them all: as long as somebody answers, each is well.
pub fn controllers_pages(config: &controllers::Config, mut flags: Flags) -> Pages {
    flags.extend(config.flags());
    let about = About {
        component: "kube-controller-manager",
        paths: &["/configz", "/flagz", "/healthz", "/metrics"],
        config: ("kubecontrollermanager.config.k8s.io", config.shown()),
        flags,
        started: SystemTime::now(),
    };
    Pages::new(config.metrics.clone(), config.running().map(|name| Check::new(name, || true)).collect(), about)
}

/// Serves a part's own port, if it is to have one, until that is dropped.
async fn serve_port(
    serving: &Serving,
    (part, usual): (&str, u16),
    client: &Client,
    pages: Pages,
    stop: &CancellationToken,
) -> anyhow::Result<Option<AbortOnDropHandle<()>>> {
    let (ip, number) = (serving.bind_address, serving.secure_port.unwrap_or(usual));
    if number == 0 {
        return Ok(None);
    }
    let listener = port::listen(part, "--secure-port", ip, number)?;
    let files = port::Files { cert: serving.tls_cert_file.clone(), key: serving.tls_private_key_file.clone() };
    let tls = match &serving.client_ca_file {
        Some(file) => {
            let authority = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
            port::fixed(port::own(&files, ip, Some(&authority))?)
        }
        None => port::of_server(files, ip, client.clone()).await?,
    };
    let port = port::Port::new(listener, tls, Delegated::new(client.clone()), pages);
    Ok(Some(AbortOnDropHandle::new(tokio::spawn(port.serve(stop.clone())))))
}

/// The controllers alone. The kubeconfig's identity reads; each controller writes as its service account.
pub async fn controllers(command: &Controllers) -> anyhow::Result<()> {
    let registry = Registry::default();
    let Ready { client, informers, reports, stop, requests } = connect(&command.part, &registry)?;
    let accounts = Accounts::new(&command.part.kubeconfig, reports)?;
    let root_ca = match &command.root_ca_file {
        Some(file) => std::fs::read_to_string(file).with_context(|| file.display().to_string())?,
        None => {
            let endpoint = Endpoint::from_kubeconfig(&command.part.kubeconfig)?;
            endpoint.authorities.iter().map(|der| certificates::pem(der)).collect()
        }
    };
    let config = controllers::Config {
        enabled: command.controllers.clone(),
        cluster_cidr: command.cluster_cidr.clone(),
        node_monitor_grace: command.node_monitor_grace_period,
        node_cidr_mask: command.node_cidr_mask_size_ipv4,
        node_cidr_mask_v6: command.node_cidr_mask_size_ipv6,
        root_ca,
        signer: command.cluster_signing_cert_file.as_deref().zip(command.cluster_signing_key_file.as_deref()).map(signer).transpose()?,
        signing_life: command.cluster_signing_duration,
        metrics: registry.clone(),
        ..controllers::Config::default()
    };
    let flags = served(&command.serving, CONTROLLERS_PORT, &command.leader, &command.part);
    let _served = serve_port(&command.serving, ("controllers", CONTROLLERS_PORT), &client, controllers_pages(&config, flags), &stop).await?;
    let client_for = move |name: &str| accounts.client(name).counted(&requests);
    let run = |term| controllers::run(config, client_for, informers, term);
    let part = elected(&command.leader, "kube-controller-manager", (&client, &registry), stop.clone(), run);
    until_signal("controllers", stop, Box::pin(part)).await
}

/// Signs with an authority in files, which are read anew each time: it is seldom asked.
fn signer((cert, key): (&Path, &Path)) -> anyhow::Result<controllers::Signer> {
    // What is wrong with them is told now, and not by the first request.
    Ca::given(cert, key).context("the authority that signs requests for certificates")?;
    let (cert, key) = (cert.to_owned(), key.to_owned());
    Ok(controllers::Signer::new(move |request, usages, life| {
        let authority = Ca::given(&cert, &key).map_err(|error| error.to_string())?;
        Ok(authority.sign_request(request, usages, life, SystemTime::now()).map_err(|error| error.to_string()))
    }))
}

/// The kubelet alone, with its runtime and its pod network.
pub async fn kubelet(command: &Kubelet) -> anyhow::Result<()> {
    let settings = command.node.settings()?;
    preflight::node()?;
    let Ready { client, informers, stop, .. } = connect(&command.part, &Registry::default())?;
    let cluster = Cluster::find(&command.name, command.data_dir.as_deref())?;
    let _lock = cluster.enter().await?.stay();
    let runtime = open_runtime(&cluster, command.registries.as_deref()).await?;
    let parts = parts(&command.pod_cidr, &command.cluster_cidr, &command.service_cidr)?;
    let node_ips: Vec<IpAddr> = parts.iter().map(OfFamily::node_ip).collect();
    let node_ip = *node_ips.first().context("the node has no range of pods")?;
    let own_ports = own_ports(&command.part, node_ip, false).await?;
    let network = network::pod::Config {
        mark: network::Mark::new(&cluster.name),
        run_dir: cluster.run.join("network"),
        bridge: None,
        parts,
        mtu: None,
        own_ports: own_ports.clone(),
        behind: false,
        tunnel: None,
        lan: None,
    };
    let network = tokio::task::spawn_blocking(move || network::pod::PodNetwork::open(network)).await?.context("the pod network")?;
    let mut config = kubelet::Config::new(command.node_name.clone().unwrap_or_else(host::name), node_ip, cluster.data.join("kubelet"));
    config.labels = command.node.labels([]);
    config.cgroup_root = cluster.name.clone();
    config.cluster_dns = vec![command.cluster_dns];
    config.cluster_domain = command.cluster_domain.clone();
    config.node_ips = node_ips;
    config.pod_cidrs = command.pod_cidr.iter().map(ToString::to_string).collect();
    config.tls = kubelet_tls(command)?;
    config.own_ports = own_ports;
    config.image_dir = cluster.runtime(None).root;
    config.settings = settings;
    let kept = network.clone();
    let keep = kept.keep(stop.clone());
    // Volumes are provisioned beside an API server of knarr's; this node brings those that it has to pods.
    let drivers = Drivers::default();
    let disk = volumes::open(volumes::directory(&cluster.data), config.node_name.clone()).await?;
    drivers.add(volume::disk::NAME, Arc::new(disk));
    let kubelet = kubelet::run(config, client.user_agent("kubelet"), informers, runtime, network, drivers, stop.clone());
    let keep = async {
        keep.await;
        Ok(())
    };
    let both = async { tokio::try_join!(async { kubelet.await.map_err(anyhow::Error::from) }, keep).map(drop) };
    until_signal("kubelet", stop, Box::pin(both)).await
}

/// A node's runtime, with the demo images that every node of `knarr up` has: a cluster of parts runs the same manifests.
async fn open_runtime(cluster: &Cluster, registries: Option<&Path>) -> anyhow::Result<runtime::Runtime> {
    let runtime = runtime::Runtime::open(cluster.runtime(registries)).await.context("the container runtime")?;
    image::demo(&runtime, &Steps::new()).await?;
    Ok(runtime)
}

/// Refuses lists of a node's that are not of the same families, in the same order.
fn same_families<T>(what: [(&str, &[T]); 2], is_ipv4: impl Fn(&T) -> bool) -> anyhow::Result<()> {
    let [of, others] = what.map(|(_, all)| all.iter().map(&is_ipv4).collect::<Vec<_>>());
    if of == others && (of.len() == 1 || of.len() == 2 && of[0] != of[1]) {
        return Ok(());
    }
    anyhow::bail!("{} and {} take one each, or one of each family, in the same order", what[0].0, what[1].0)
}

/// What a node has of each family.
fn parts(own: &[Net], cluster: &[Net], services: &[Net]) -> anyhow::Result<Vec<OfFamily>> {
    same_families([("--pod-cidr", own), ("--cluster-cidr", cluster)], |range| range.is_ipv4())?;
    same_families([("--pod-cidr", own), ("--service-cidr", services)], |range| range.is_ipv4())?;
    let all = own.iter().zip(cluster).zip(services);
    Ok(all.map(|((pod, cluster), service)| OfFamily { pod_cidr: *pod, cluster_cidr: *cluster, service_cidr: *service }).collect())
}

fn kubelet_tls(command: &Kubelet) -> anyhow::Result<Option<kubelet::Tls>> {
    let (Some(cert), Some(key), Some(ca)) = (&command.tls_cert, &command.tls_key, &command.client_ca) else { return Ok(None) };
    let read = |path: &Path| std::fs::read_to_string(path).with_context(|| path.display().to_string());
    let own = identity::pki::Credential { cert_pem: read(cert)?, key_pem: read(key)? };
    let authorities = cluster_info::authorities(&read(ca)?).with_context(|| ca.display().to_string())?;
    Ok(Some(kubelet::Tls::showing(identity::pki::Renewable::new(&own)?, authorities)?))
}

/// The service proxy alone.
pub async fn proxy(command: &Proxy) -> anyhow::Result<()> {
    preflight::node()?;
    let ranges: Vec<Net> = command.node_ip.iter().copied().map(Net::one).collect();
    same_families([("--node-ip", &ranges), ("--cluster-cidr", &command.cluster_cidr)], |range| range.is_ipv4())?;
    same_families([("--node-ip", &ranges), ("--service-cidr", &command.service_cidr)], |range| range.is_ipv4())?;
    let Ready { informers, stop, .. } = connect(&command.part, &Registry::default())?;
    let all = command.node_ip.iter().zip(&command.cluster_cidr).zip(&command.service_cidr);
    let mut own = Vec::new();
    for ip in &command.node_ip {
        own.extend(own_ports(&command.part, *ip, true).await?);
    }
    let node_ports = node::node_ports(&command.node_ip, None, &command.node_port_addresses);
    let config = proxy::Config {
        health: node::health_addresses(&command.node_ip, &node_ports),
        mark: network::Mark::new(&command.name),
        node_name: command.node_name.clone().unwrap_or_else(host::name),
        sides: all.map(|((ip, cluster), service)| proxy::Side { node_ip: *ip, cluster_cidr: *cluster, service_cidr: *service }).collect(),
        node_ports,
        own_ports: own,
    };
    let (ready, _) = watch::channel(false);
    until_signal("service proxy", stop.clone(), network::proxy::run(config, informers, stop, ready)).await
}

/// The cluster's DNS alone.
pub async fn dns(command: &Dns) -> anyhow::Result<()> {
    preflight::root()?;
    let Ready { client, informers, stop, .. } = connect(&command.part, &Registry::default())?;
    let config = network::dns::Config {
        node_name: command.node_name.clone().unwrap_or_else(host::name),
        listen: command.listen,
        cluster_ip: command.cluster_dns,
        domain: command.cluster_domain.clone(),
        own_ranges: [&command.cluster_cidr[..], &command.service_cidr].concat(),
        upstream: network::dns::Upstream::File("/etc/resolv.conf".into()),
        publish: Some(client.user_agent("knarr-dns")),
    };
    let (ready, _) = watch::channel(false);
    until_signal("DNS", stop.clone(), Box::pin(network::dns::run(config, informers, stop, ready))).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_alone_has_one_family_or_both_in_one_order() {
        let of = |pods: &[&str], cluster: &[&str], services: &[&str]| {
            let [pods, cluster, services] = [pods, cluster, services].map(|all| all.iter().map(|text| text.parse().unwrap()).collect::<Vec<Net>>());
            parts(&pods, &cluster, &services)
        };
        assert_eq!(of(&["fd00:1::/64"], &["fd00:1::/56"], &["fd00:2::/112"]).unwrap()[0].node_ip(), "fd00:1::1".parse::<IpAddr>().unwrap());
        let both = of(&["10.1.0.0/24", "fd00:1::/64"], &["10.1.0.0/16", "fd00:1::/56"], &["10.2.0.0/16", "fd00:2::/112"]).unwrap();
        assert_eq!(both.len(), 2);
        assert!(of(&["10.1.0.0/24", "fd00:1::/64"], &["10.1.0.0/16"], &["10.2.0.0/16"]).unwrap_err().to_string().contains("--pod-cidr and --cluster-cidr"));
        assert!(of(&["10.1.0.0/24"], &["10.1.0.0/16"], &["fd00:2::/112"]).is_err() && of(&[], &[], &[]).is_err());
        assert!(of(&["10.1.0.0/24"; 2], &["10.1.0.0/16"; 2], &["10.2.0.0/16"; 2]).is_err());
    }

    #[tokio::test]
    async fn a_node_of_its_own_has_the_demo_images() {
        let directory = std::env::temp_dir().join(format!("knarr-part-{}", std::process::id()));
        let cluster = Cluster { name: "knarr-part-test".into(), data: directory.join("data"), run: directory.join("run") };
        cluster.claim().unwrap();
        let runtime = open_runtime(&cluster, None).await.unwrap();
        let has = ["v1", "v2"].map(|version| runtime.image(&format!("{}:{version}", image::DEMO)).is_some());
        drop(runtime);
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(has, [true, true]);
    }

    #[test]
    fn a_server_is_known_by_name_and_port_alone() {
        assert_eq!(host("https://me:secret@[::1]:6443/path"), "[::1]:6443");
        assert_eq!(host("https://api.example.com"), "api.example.com");
    }

    #[tokio::test]
    async fn the_api_server_keeps_its_port_where_it_is_on_this_host() {
        let own = |port| Some(OwnPort { ip: None, port, protocol: "TCP" });
        assert_eq!(api_port("https://127.0.0.1:7443").await, own(7443));
        assert_eq!(api_port("https://[::1]:7443/path").await, own(7443));
        assert_eq!(api_port("https://localhost").await, own(443));
        if let Some(ip) = host::addresses().unwrap().into_iter().find(IpAddr::is_ipv4) {
            assert_eq!(api_port(&format!("https://{ip}:6443")).await, own(6443));
        }
        for away in ["https://192.0.2.1:6443", "https://nobody.invalid:6443", "no address"] {
            assert_eq!(api_port(away).await, None, "{away}");
        }
    }
}
