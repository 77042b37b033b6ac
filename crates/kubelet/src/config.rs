//! How a kubelet is set up.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use instruments::Registry;
use network::pod::OwnPort;
use rustls::server::ResolvesServerCert;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::graceful::Source;
use crate::settings::Settings;

/// Where a kubelet's API listens.
pub const PORT: u16 = 10250;
/// The directory of the containers' logs below the kubelet's.
pub(crate) const LOGS_DIR: &str = "logs";

/// What a kubelet needs to know; every value is checked and final.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the Node object.
    pub node_name: String,
    /// What tells this node from others of its machine, where it is not the machine's first: it has a `machineID` of its own then.
    pub apart: Option<String>,
    /// The node's InternalIP; the address of `hostNetwork` pods.
    pub node_ip: IpAddr,
    /// All of the node's addresses, that one first.
    pub node_ips: Vec<IpAddr>,
    /// Labels for the Node object besides the well-known ones.
    pub labels: BTreeMap<String, String>,
    /// Taints to register with, as `key=value:Effect`.
    pub taints: Vec<String>,
    /// Persistent directory: pods, logs. Usually `DATA/kubelet`.
    pub root_dir: PathBuf,
    /// Directory of the containers' logs (the original's `/var/log/pods`).
    pub pod_logs_dir: PathBuf,
    /// The mark in names on the host; the cgroup root below which `kubepods` lies.
    pub cgroup_root: String,
    /// Addresses of the cluster's DNS.
    pub cluster_dns: Vec<IpAddr>,
    /// Domain of the cluster, `cluster.local`.
    pub cluster_domain: String,
    /// The range of pod addresses for the Node's spec, if this kubelet registers it.
    pub pod_cidrs: Vec<String>,
    /// Those ranges are but asked for: where another node has them by now the node is made without them, and is given others.
    pub pod_cidr_is_asked_for: bool,
    /// Pods that fit on the node (default 250).
    pub max_pods: u32,
    /// Where the kubelet's API listens.
    pub listen: SocketAddr,
    /// Its TLS; none: the API is not served.
    pub tls: Option<Tls>,
    /// The API server's address as pods see it, for `KUBERNETES_SERVICE_HOST` before the Service exists.
    pub api_service: Option<SocketAddr>,
    /// Ports of the host at which the node itself listens: no pod gets them.
    pub own_ports: Vec<OwnPort>,
    /// The host's resolver file for `dnsPolicy: Default`.
    pub resolv_conf: PathBuf,
    /// Where images and containers' layers lie; usually on the file system of `root_dir`.
    pub image_dir: PathBuf,
    /// What the node's flags say.
    pub settings: Settings,
    /// How logind is reached, which tells that the machine goes down.
    pub logind: Source,
    /// Where what it counts is told.
    pub metrics: Registry,
    /// What the time is.
    pub clock: Clock,
    /// Version shown as kubelet version, `v1.37.…`.
    pub version: String,
}

/// Tells the time of day; another one than the system's where time is played.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Clock {
    /// A clock that asks this.
    pub fn new(ask: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(ask))
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new(SystemTime::now)
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

/// Certificates of the kubelet's own API.
#[derive(Clone)]
pub struct Tls {
    /// Server configuration: the serving certificate, and client certificates asked for, neither required nor verified.
    pub(crate) server: Arc<rustls::ServerConfig>,
    /// Knows those whom the cluster's CA vouches for.
    pub(crate) clients: Arc<dyn ClientCertVerifier>,
}

impl Tls {
    /// A serving certificate with its chain and key, and the authority by which client certificates are verified where a client
    /// shows one.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>, client_ca: CertificateDer<'static>) -> Result<Self, rustls::Error> {
        let own = CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider())?;
        Self::showing(Arc::new(SingleCertAndKey::from(own)), [client_ca])
    }

    /// The same with a certificate that may be replaced, and clients of each of these authorities.
    pub fn showing(own: Arc<dyn ResolvesServerCert>, client_cas: impl IntoIterator<Item = CertificateDer<'static>>) -> Result<Self, rustls::Error> {
        let provider = Arc::new(dial::server_provider());
        let mut roots = rustls::RootCertStore::empty();
        for authority in client_cas {
            roots.add(authority)?;
        }
        let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?;
        let builder = rustls::ServerConfig::builder_with_provider(provider).with_protocol_versions(rustls::ALL_VERSIONS)?;
        let mut server = builder.with_client_cert_verifier(dial::requested(Arc::clone(&clients))).with_cert_resolver(own);
        server.ignore_client_order = true;
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { server: Arc::new(server), clients })
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Config {
    /// A configuration with the defaults of a single node.
    #[must_use]
    pub fn new(node_name: impl Into<String>, node_ip: IpAddr, root_dir: impl Into<PathBuf>) -> Self {
        let root_dir = root_dir.into();
        Self {
            node_name: node_name.into(),
            apart: None,
            node_ip,
            node_ips: vec![node_ip],
            labels: BTreeMap::new(),
            taints: Vec::new(),
            pod_logs_dir: root_dir.join(LOGS_DIR),
            image_dir: root_dir.clone(),
            root_dir,
            cgroup_root: String::new(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            pod_cidrs: Vec::new(),
            pod_cidr_is_asked_for: false,
            max_pods: 250,
            listen: SocketAddr::new(node_ip, PORT),
            tls: None,
            api_service: None,
            own_ports: Vec::new(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            settings: Settings::default(),
            logind: Source::default(),
            metrics: Registry::default(),
            clock: Clock::default(),
            version: "v1.37.2".into(),
        }
    }

    /// The directory of a pod.
    #[must_use]
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root_dir.join("pods").join(uid)
    }

    /// The directory of a pod's logs, named as the original names it.
    #[must_use]
    pub fn pod_log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.pod_logs_dir.join(format!("{namespace}_{name}_{uid}"))
    }
}

/// Why the kubelet stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address of its API is taken or not allowed.
    #[error("kubelet API cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Its directory cannot be used.
    #[error("kubelet directory {path}: {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What the flags say does not fit this machine.
    #[error("{0}")]
    Settings(String),
    /// The API server refused what the kubelet cannot do without.
    #[error("API: {0}")]
    Api(String),
}
