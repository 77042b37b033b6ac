//! The command line.

use crate::{
    agent::Server,
    cluster_flags::ClusterFlags,
    front_proxy::FrontProxyFlags,
    machine_flags::MachineFlags,
    node_flags::NodeFlags,
    token::{self, Token},
};
use clap::{Args, Parser, Subcommand, ValueEnum, builder::TypedValueParser as _};
use network::Net;
use std::{net::IpAddr, path::PathBuf, time::Duration};

/// The original's.
const NODE_MONITOR_GRACE: &str = "50s";
const SIGNING_LIFE: &str = "8760h0m0s";
/// Where the originals serve health and metrics.
pub const SCHEDULER_PORT: u16 = 10259;
pub const CONTROLLERS_PORT: u16 = 10257;

/// Kubernetes v1.37 in one program.
#[derive(Debug, Parser)]
#[command(name = "knarr", version, propagate_version = true, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a cluster on this machine, and apply manifests to it
    Up(Up),
    /// Stop a cluster and remove everything that it made on this machine
    Down(Down),
    /// Nodes of a cluster on this machine: list, add, remove
    #[command(subcommand)]
    Node(Node),
    /// Join this machine to a cluster whose control plane is elsewhere, as a node of it
    Agent(Box<Agent>),
    /// Tokens by which other machines join: create (prints the whole command), list, delete
    #[command(subcommand)]
    Token(TokenCommand),
    /// One further node of a cluster, as `up` starts it
    #[command(hide = true)]
    NodeProcess(Worker),
    /// Images of a cluster's node: import archives, list, remove
    #[command(subcommand)]
    Image(Image),
    /// Volumes of a cluster's nodes: list, rm
    #[command(subcommand)]
    Volume(Volume),
    /// Run the scheduler alone, against any API server
    Scheduler(Scheduler),
    /// Run the controllers alone, against any API server
    Controllers(Controllers),
    /// Run the kubelet alone, against any API server
    Kubelet(Kubelet),
    /// Run the service proxy alone, against any API server
    Proxy(Proxy),
    /// Run the cluster's DNS alone, against any API server
    Dns(Dns),
}

/// Which cluster is meant.
#[derive(Debug, Clone, Args)]
pub struct Which {
    /// Name of the cluster; several can stand side by side
    #[arg(long, default_value = "knarr", value_parser = name)]
    pub name: String,
    /// Where the cluster's data lies [default: /var/lib/knarr/NAME]
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// The kubeconfig that gets the cluster's context [default: $KUBECONFIG, or ~/.kube/config]
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
}

/// A part that can be left out, for another implementation to take its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Component {
    Scheduler,
    Controllers,
    Kubelet,
    Proxy,
    Dns,
    Storage,
    /// The Metrics API, which metrics-server serves where it is left out
    Metrics,
}

impl Component {
    /// Those that are on every node, by name: left out by `up`, they are left out on all of them.
    pub const OF_NODES: [(Component, &'static str); 3] = [(Component::Proxy, "proxy"), (Component::Dns, "dns"), (Component::Storage, "storage")];
}

#[derive(Debug, Args)]
pub struct Up {
    /// Manifests to apply when the cluster is there; their roll-out is waited for
    pub manifests: Vec<PathBuf>,
    #[command(flatten)]
    pub which: Which,
    /// Nodes on this machine, kept for the next start: the first has the control plane [default: as before, at first 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(crate::cluster::nodes::NODES_MAX)))]
    pub nodes: Option<u32>,
    /// Whether pods without a toleration for it come to the first node [default: as it is, at first they do]
    #[arg(long)]
    pub control_plane: Option<ControlPlane>,
    /// Return when everything runs, and leave it running
    #[arg(long)]
    pub detach: bool,
    /// Parts to leave out
    #[arg(long, value_delimiter = ',')]
    pub disable: Vec<Component>,
    /// Port of the API server [default: 6443, or the next free one for a further cluster]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Range of the pods' addresses, of IPv4 or IPv6, chosen at the first start [default: 10.244.0.0/16, or the next that is free]; with one
    /// of the other family behind it (A,B) pods have addresses of both, also from a later start on
    #[arg(long, visible_alias = "pod-cidr", value_delimiter = ',')]
    pub cluster_cidr: Vec<Net>,
    /// Range of the Services' addresses, chosen at the first start [default: 10.96.0.0/16, or the next that is free], of the same families as
    /// the pods'; Services that do not say otherwise have an address of the first
    #[arg(long, value_delimiter = ',')]
    pub service_cidr: Vec<Net>,
    /// Further names and addresses for the API server's certificate; with `--listen` on all addresses the host's own are in it
    #[arg(long, value_delimiter = ',')]
    pub tls_san: Vec<String>,
    /// Further addresses on which the API server listens, besides loopback and the node's own
    #[arg(long, value_delimiter = ',')]
    pub listen: Vec<IpAddr>,
    /// Addresses of this machine at which node ports are served; 0.0.0.0: all of them, but for IPv6's loopback [default: all, and for a
    /// further cluster its node's own, and with `--advertise-address` those, after the ports that the default cluster has there]
    #[arg(long, value_delimiter = ',')]
    pub node_port_addresses: Vec<IpAddr>,
    /// Serve more or fewer resources, as kube-apiserver does: `GROUP/VERSION=true`, `api/all=true`
    #[arg(long, value_delimiter = ',', value_parser = key_bool)]
    pub runtime_config: Vec<(String, bool)>,
    /// Admission plug-ins beside those that are on by themselves, as kube-apiserver names them
    #[arg(long, value_delimiter = ',')]
    pub enable_admission_plugins: Vec<String>,
    /// Admission plug-ins that are on by themselves, and are to be off
    #[arg(long, value_delimiter = ',')]
    pub disable_admission_plugins: Vec<String>,
    /// Settings of the admission plug-ins: an AdmissionConfiguration, as kube-apiserver reads it
    #[arg(long)]
    pub admission_control_config_file: Option<PathBuf>,
    /// Profiles, plugins and extenders of the scheduler: a KubeSchedulerConfiguration, as kube-scheduler reads it
    #[arg(long)]
    pub scheduler_config: Option<PathBuf>,
    /// Port of the scheduler's own health and metrics, on loopback, and for a further cluster at its node's address; 0: none
    #[arg(long, default_value_t = SCHEDULER_PORT)]
    pub scheduler_secure_port: u16,
    /// Port of the controllers' own health and metrics, likewise; 0: none
    #[arg(long, default_value_t = CONTROLLERS_PORT)]
    pub controllers_secure_port: u16,
    /// How long a node may give no sign of life before it is taken for dead, as kube-controller-manager has it
    #[arg(long, default_value = NODE_MONITOR_GRACE, value_parser = positive)]
    pub node_monitor_grace_period: Duration,
    /// How long certificates are good that nodes and others ask for by requests, if they ask for no shorter time, as
    /// kube-controller-manager has it
    #[arg(long, default_value = SIGNING_LIFE, value_parser = positive)]
    pub cluster_signing_duration: Duration,
    /// Where images come from: mirrors and credentials [default: DATA/registries.yaml, if it is there]
    #[arg(long)]
    pub registries: Option<PathBuf>,
    /// How long the roll-out of the manifests may take, in seconds
    #[arg(long, default_value_t = 300)]
    pub timeout: u64,
    /// Start with what is there of a damaged store, without what is lost
    #[arg(long)]
    pub accept_data_loss: bool,
    #[command(flatten)]
    pub machines: MachineFlags,
    #[command(flatten)]
    pub front_proxy: Box<FrontProxyFlags>,
    #[command(flatten)]
    pub node: NodeFlags,
}

#[derive(Debug, Args)]
pub struct Down {
    #[command(flatten)]
    pub which: Which,
    /// Keep the objects and the images: the next `up` goes on with them
    #[arg(long)]
    pub keep_data: bool,
}

/// What the node of the control plane is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ControlPlane {
    /// For all pods
    Schedule,
    /// For those that tolerate `node-role.kubernetes.io/control-plane:NoSchedule`
    Taint,
}

#[derive(Debug, Subcommand)]
pub enum Node {
    /// List the nodes of this machine
    #[command(alias = "ls")]
    List {
        #[command(flatten)]
        which: Which,
    },
    /// Add nodes, and wait until they are Ready
    Add {
        /// How many
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(crate::cluster::nodes::NODES_MAX)))]
        count: u32,
        /// Their labels, `topology.kubernetes.io/zone=a`
        #[arg(long, value_delimiter = ',', value_parser = label)]
        labels: Vec<(String, String)>,
        #[command(flatten)]
        which: Which,
    },
    /// Drain a node, and remove it with all that it has
    Rm {
        /// The node's name
        node: String,
        /// Do not drain it, and remove its volumes, too
        #[arg(long)]
        force: bool,
        /// How long the draining may take, in seconds
        #[arg(long, default_value_t = 300)]
        timeout: u64,
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Debug, Args)]
pub struct Agent {
    /// An API server of the cluster, https://HOST:6443; of several the next is asked when one is away. A machine that has joined knows them
    #[arg(long, value_name = "URL")]
    pub join: Vec<Server>,
    /// Who may join has it; of a machine that has joined it is not asked for [default: $KNARR_TOKEN]
    #[arg(long)]
    pub token: Option<Token>,
    /// Hash of the key of the cluster's authority, sha256:…, as `knarr token create` prints it
    #[arg(long = "discovery-token-ca-cert-hash", value_name = "HASH", value_parser = pin)]
    pub hashes: Vec<String>,
    /// Believe whoever knows the token to be the cluster
    #[arg(long = "discovery-token-unsafe-skip-ca-verification")]
    pub any_authority: bool,
    /// Name of the node [default: the host's]
    #[arg(long, value_parser = node_name)]
    pub node_name: Option<String>,
    /// Where other machines reach the node [default: the address by which this one reaches the API server]; with one of the other family
    /// behind it (A,B) by both
    #[arg(long, value_delimiter = ',')]
    pub node_ip: Vec<IpAddr>,
    /// Labels of the node, `topology.kubernetes.io/zone=a`
    #[arg(long, value_delimiter = ',', value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// Addresses of this machine, besides the node's, at which node ports are served; 0.0.0.0: all of them [default: all]
    #[arg(long, value_delimiter = ',')]
    pub node_port_addresses: Vec<IpAddr>,
    /// Taints that the node is made with, `KEY=VALUE:NoSchedule`
    #[arg(long, value_delimiter = ',', value_parser = taint)]
    pub taints: Vec<String>,
    /// Name for everything that is made on the host
    #[arg(long, default_value = "knarr", value_parser = name)]
    pub name: String,
    /// Where images, pods and what was learned of the cluster lie [default: /var/lib/knarr/NAME]
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// Where images come from: mirrors and credentials [default: DATA/registries.yaml, if it is there]
    #[arg(long)]
    pub registries: Option<PathBuf>,
    /// Parts to leave out: proxy, dns
    #[arg(long, value_delimiter = ',', value_parser = clap::builder::PossibleValuesParser::new(["proxy", "dns"]).map(|part| if part == "dns" { Component::Dns } else { Component::Proxy }))]
    pub disable: Vec<Component>,
    /// Print a unit of systemd for this command, and do nothing else
    #[arg(long)]
    pub print_unit: bool,
    /// Remove the node with everything that it has from this machine
    #[arg(long, conflicts_with = "print_unit")]
    pub reset: bool,
    /// Print a manifest for a cluster whose control plane is not knarr's, by which its nodes of knarr's have their own service proxy and
    /// routes, and do nothing else
    #[arg(long, conflicts_with_all = ["print_unit", "reset"])]
    pub print_manifest: bool,
    #[command(flatten)]
    pub cluster: ClusterFlags,
    #[command(flatten)]
    pub node: NodeFlags,
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token, and print what is to be run on the other machine
    Create {
        /// The token, ID.SECRET [default: a random one]
        token: Option<Token>,
        /// How long it is good; 0: until it is deleted
        #[arg(long, default_value = "24h", value_parser = token::life)]
        ttl: Duration,
        /// What it is for
        #[arg(long, default_value = "")]
        description: String,
        /// Groups of those who join with it
        #[arg(long, value_delimiter = ',', default_value = token::GROUP, value_parser = token::group)]
        groups: Vec<String>,
        /// Print the whole command for the other machine, as it is done in any case
        #[arg(long, hide = true)]
        print_join_command: bool,
        #[command(flatten)]
        which: Which,
    },
    /// List the tokens
    #[command(alias = "ls")]
    List {
        #[command(flatten)]
        which: Which,
    },
    /// Delete tokens; machines that have joined need none
    #[command(alias = "rm")]
    Delete {
        /// Tokens, or their IDs
        #[arg(required = true)]
        tokens: Vec<String>,
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Debug, Args)]
pub struct Worker {
    /// Name of the cluster
    #[arg(long, value_parser = name)]
    pub name: String,
    /// Where the cluster's data lies
    #[arg(long)]
    pub data_dir: PathBuf,
    /// Which of its nodes it is
    #[arg(long)]
    pub number: u32,
    /// The cluster's ranges, as its plan has them: one that was told others is replaced
    #[arg(long)]
    pub range: Vec<Net>,
    /// Parts to leave out
    #[arg(long, value_delimiter = ',')]
    pub disable: Vec<Component>,
    /// Where images come from: mirrors and credentials
    #[arg(long)]
    pub registries: Option<PathBuf>,
    /// What pods' links may carry, where they lead to other machines
    #[arg(long)]
    pub mtu: Option<u32>,
    #[command(flatten)]
    pub node: NodeFlags,
}

#[derive(Debug, Subcommand)]
pub enum Image {
    /// Import OCI or docker archives
    Import {
        /// The archives (`docker save`, `skopeo copy … oci-archive:`)
        #[arg(required = true)]
        archives: Vec<PathBuf>,
        #[command(flatten)]
        which: Which,
    },
    /// List the images
    #[command(alias = "ls")]
    List {
        #[command(flatten)]
        which: Which,
    },
    /// Remove images
    Rm {
        /// The images' names or IDs
        #[arg(required = true)]
        images: Vec<String>,
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Debug, Subcommand)]
pub enum Volume {
    /// List the volumes that were made for claims, also of a cluster that does not run
    #[command(alias = "ls")]
    List {
        #[command(flatten)]
        which: Which,
    },
    /// Remove volumes, and what is in them, that no PersistentVolume stands for any more
    #[command(alias = "remove")]
    Rm {
        /// The volume: the last part of its PATH in `knarr volume list`
        #[arg(required = true)]
        volumes: Vec<String>,
        /// Do not ask the cluster, which may not run, whether a PersistentVolume stands for it
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        which: Which,
    },
}

/// How a part alone reaches its API server.
#[derive(Debug, Clone, Args)]
pub struct Part {
    /// The kubeconfig whose current context names the server and the identity
    #[arg(long)]
    pub kubeconfig: PathBuf,
}

/// Whether a part that runs alone shares its work with others of its kind.
#[derive(Debug, Clone, Args)]
pub struct Leader {
    /// Work only while no other of its kind does
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub leader_elect: bool,
}

/// Where a part that runs alone serves its own health and metrics, and what it shows there.
#[derive(Debug, Clone, Args)]
pub struct Serving {
    /// Address of the part's own health and metrics
    #[arg(long, default_value = "127.0.0.1")]
    pub bind_address: IpAddr,
    /// Port of the part's own health and metrics, as the original's; 0: none [default: 10259 of the scheduler, 10257 of the controllers]
    #[arg(long)]
    pub secure_port: Option<u16>,
    /// Authority of the clients that show certificates there [default: the API server's, as it tells it]
    #[arg(long)]
    pub client_ca_file: Option<PathBuf>,
    /// Certificate that is shown there [default: one that the part signs itself]
    #[arg(long, requires = "tls_private_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, requires = "tls_cert_file")]
    pub tls_private_key_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Scheduler {
    #[command(flatten)]
    pub part: Part,
    #[command(flatten)]
    pub leader: Leader,
    #[command(flatten)]
    pub serving: Serving,
    /// Profiles, plugins and extenders: a KubeSchedulerConfiguration, as kube-scheduler reads it
    #[arg(long)]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Controllers {
    #[command(flatten)]
    pub part: Part,
    #[command(flatten)]
    pub leader: Leader,
    #[command(flatten)]
    pub serving: Serving,
    /// The controllers to run: `*` for all, `NAME`, `-NAME`
    #[arg(long, value_delimiter = ',', default_value = "*")]
    pub controllers: Vec<String>,
    /// The range from which nodes get theirs for pods
    #[arg(long)]
    pub cluster_cidr: Option<String>,
    /// How long a node may give no sign of life before it is taken for dead
    #[arg(long, default_value = NODE_MONITOR_GRACE, value_parser = positive)]
    pub node_monitor_grace_period: Duration,
    /// Bits of the prefix of a node's IPv4 range
    #[arg(long, alias = "node-cidr-mask-size", default_value_t = 24)]
    pub node_cidr_mask_size_ipv4: u8,
    /// Bits of the prefix of a node's IPv6 range
    #[arg(long, default_value_t = 64)]
    pub node_cidr_mask_size_ipv6: u8,
    /// Certificate of the cluster's authority [default: the kubeconfig's]
    #[arg(long)]
    pub root_ca_file: Option<PathBuf>,
    /// Certificate of the authority that signs approved requests for certificates, as kube-controller-manager has it
    /// [default: others sign them]
    #[arg(long, requires = "cluster_signing_key_file")]
    pub cluster_signing_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, requires = "cluster_signing_cert_file")]
    pub cluster_signing_key_file: Option<PathBuf>,
    /// How long certificates are good that are asked for by requests, if they ask for no shorter time
    #[arg(long, default_value = SIGNING_LIFE, value_parser = positive)]
    pub cluster_signing_duration: Duration,
}

#[derive(Debug, Args)]
pub struct Kubelet {
    #[command(flatten)]
    pub part: Part,
    /// Name of the node [default: the host's]
    #[arg(long)]
    pub node_name: Option<String>,
    /// Name for everything that is made on the host
    #[arg(long, default_value = "knarr-node", value_parser = name)]
    pub name: String,
    /// Where images, pods and logs lie [default: /var/lib/knarr/NAME]
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// The node's range of pod addresses, or one of each family, as of the cluster's
    #[arg(long, value_delimiter = ',', default_value = "10.244.0.0/24")]
    pub pod_cidr: Vec<Net>,
    /// The cluster's range of pod addresses: its nodes' pods know each other by their own
    #[arg(long, value_delimiter = ',', default_value = "10.244.0.0/16")]
    pub cluster_cidr: Vec<Net>,
    /// The cluster's range of Service addresses
    #[arg(long, value_delimiter = ',', default_value = "10.96.0.0/16")]
    pub service_cidr: Vec<Net>,
    /// Address of the cluster's DNS
    #[arg(long, default_value = "10.96.0.10")]
    pub cluster_dns: IpAddr,
    /// Domain of the cluster
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Mirrors and credentials of registries
    #[arg(long)]
    pub registries: Option<PathBuf>,
    /// Certificate and key of the kubelet's own API, and the authority of its clients; without them it is not served
    #[arg(long, requires_all = ["tls_key", "client_ca"])]
    pub tls_cert: Option<PathBuf>,
    #[arg(long)]
    pub tls_key: Option<PathBuf>,
    #[arg(long)]
    pub client_ca: Option<PathBuf>,
    #[command(flatten)]
    pub node: NodeFlags,
}

#[derive(Debug, Args)]
pub struct Proxy {
    #[command(flatten)]
    pub part: Part,
    /// Name of the node [default: the host's]
    #[arg(long)]
    pub node_name: Option<String>,
    /// Address of the node, or one of each family: the source of what it passes on for others
    #[arg(long, value_delimiter = ',', default_value = "10.244.0.1")]
    pub node_ip: Vec<IpAddr>,
    /// Name for everything that is made on the host
    #[arg(long, default_value = "knarr-node", value_parser = name)]
    pub name: String,
    /// The cluster's range of pod addresses
    #[arg(long, value_delimiter = ',', default_value = "10.244.0.0/16")]
    pub cluster_cidr: Vec<Net>,
    /// The cluster's range of Service addresses
    #[arg(long, value_delimiter = ',', default_value = "10.96.0.0/16")]
    pub service_cidr: Vec<Net>,
    /// Addresses of this machine, besides the node's, at which node ports are served; 0.0.0.0: all of them [default: all]
    #[arg(long, value_delimiter = ',')]
    pub node_port_addresses: Vec<IpAddr>,
}

#[derive(Debug, Args)]
pub struct Dns {
    #[command(flatten)]
    pub part: Part,
    /// Name of the node [default: the host's]
    #[arg(long)]
    pub node_name: Option<String>,
    /// Address of the node, where it listens
    #[arg(long, default_value = "10.244.0.1")]
    pub listen: IpAddr,
    /// Address of the Service
    #[arg(long, default_value = "10.96.0.10")]
    pub cluster_dns: IpAddr,
    /// Domain of the cluster
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// The cluster's range of pod addresses
    #[arg(long, value_delimiter = ',', default_value = "10.244.0.0/16")]
    pub cluster_cidr: Vec<Net>,
    /// The cluster's range of Service addresses
    #[arg(long, value_delimiter = ',', default_value = "10.96.0.0/16")]
    pub service_cidr: Vec<Net>,
}

/// A name that fits into names of links, cgroups, tables and directories.
fn name(text: &str) -> Result<String, String> {
    let fits = !text.is_empty() && text.len() <= 32 && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits && !text.starts_with('-') && !text.ends_with('-') {
        return Ok(text.to_owned());
    }
    Err("a cluster's name is 1 to 32 lower-case letters, digits and inner hyphens".to_owned())
}

/// A label that a kubelet may give its own node (the original's `--node-labels`).
pub fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not KEY=VALUE"))?;
    let wrong = [machinery::names::qualified_name(key), machinery::names::label_value(value)].concat();
    if let Some(why) = wrong.into_iter().next() {
        return Err(why);
    }
    if !identity::node_may_label(key) {
        return Err(format!("{key:?} is not a label that a node may have by itself: give it by `kubectl label`"));
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// A duration as Go writes them, which is longer than none.
fn positive(text: &str) -> Result<Duration, String> {
    let nanos = machinery::time::parse_go_duration(text)?;
    u64::try_from(nanos).ok().filter(|nanos| *nanos > 0).map(Duration::from_nanos).ok_or_else(|| format!("{text} is not longer than none"))
}

/// The name of a Node object.
fn node_name(text: &str) -> Result<String, String> {
    let text = text.to_lowercase();
    machinery::names::dns1123_subdomain(&text).into_iter().next().map_or(Ok(text), Err)
}

/// A taint that a node is made with.
fn taint(text: &str) -> Result<String, String> {
    let wrong = || format!("{text:?} is not KEY=VALUE:EFFECT with the effect NoSchedule, PreferNoSchedule or NoExecute");
    let (rest, effect) = text.rsplit_once(':').ok_or_else(wrong)?;
    let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
    if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
        return Err(wrong());
    }
    let why = [machinery::names::qualified_name(key), machinery::names::label_value(value)].concat();
    why.into_iter().next().map_or_else(|| Ok(text.to_owned()), Err)
}

/// The hash of a public key.
fn pin(text: &str) -> Result<String, String> {
    let digits = text.to_ascii_lowercase();
    let fits = digits.strip_prefix("sha256:").is_some_and(|hash| hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()));
    if fits { Ok(digits) } else { Err("a hash is sha256: and 64 hexadecimal digits".to_owned()) }
}

fn key_bool(text: &str) -> Result<(String, bool), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, "true"));
    match value {
        "true" | "1" => Ok((key.to_owned(), true)),
        "false" | "0" => Ok((key.to_owned(), false)),
        _ => Err(format!("{text:?} is not KEY=true or KEY=false")),
    }
}
