//! What the API server is told at start.

use crate::{consumption, gate::settings::AdmissionSettings, storage::StoredObjects};
use identity::{Tokens, Trust};
use std::{net::IpAddr, path::Path, sync::Arc, time::Duration};
use store::Store;

/// The API server's settings, already checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The addresses of Services: first address and prefix length, of each family at most one; the first is the one that Services have
    /// if they do not ask for another.
    pub service_cidrs: Vec<(IpAddr, u8)>,
    /// The ports of Services of type NodePort: first and last.
    pub node_ports: (u16, u16),
    /// `--runtime-config`: `group/version`, `group/version/resource`, `api/all`, … to whether it is served.
    pub runtime_config: Vec<(String, bool)>,
    /// How long a request may take that is not long-running (upstream: one minute).
    pub request_timeout: Duration,
    /// The least time that a watch lives; each lives up to twice as long (upstream: thirty minutes).
    pub watch_timeout_min: Duration,
    /// How long an Event lives (upstream: one hour).
    pub event_ttl: Duration,
    /// Address by which clients reach this server, for the `kubernetes` Service's endpoints.
    pub advertise_address: Option<IpAddr>,
    /// Port by which clients reach this server.
    pub advertise_port: u16,
    /// The ranges of pods, each with the bits of a node's part: a node that brings a range of its own along (NodeRestriction) takes one part
    /// of them. Empty: of any, as upstream.
    pub node_ranges: Vec<(String, u8)>,
    /// Which admission plug-ins are on, and their settings.
    pub admission: AdmissionSettings,
    /// The parts that run in this process, by the names that componentstatuses have: `scheduler`, `controller-manager`.
    pub resident: Vec<&'static str>,
    /// Whether `metrics.k8s.io` is served here, which the original leaves to an add-on.
    pub resource_metrics: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            service_cidrs: vec![(IpAddr::from([10, 96, 0, 0]), 16)],
            node_ports: (30_000, 32_767),
            runtime_config: Vec::new(),
            request_timeout: Duration::from_secs(60),
            watch_timeout_min: Duration::from_secs(30 * 60),
            event_ttl: Duration::from_secs(60 * 60),
            advertise_address: None,
            advertise_port: 6443,
            node_ranges: Vec::new(),
            admission: AdmissionSettings::default(),
            resident: Vec::new(),
            resource_metrics: false,
        }
    }
}

impl Config {
    /// Whether `runtime_config` or the default serves a resource; the most specific entry counts.
    pub fn serves(&self, resource: &machinery::resources::Resource) -> bool {
        if resource.group == consumption::GROUP {
            return self.resource_metrics;
        }
        let version = if resource.group.is_empty() { "v1".to_owned() } else { resource.api_version() };
        let own = format!("{version}/{}", resource.resource);
        let stage = if resource.version.contains("alpha") {
            "api/alpha"
        } else if resource.version.contains("beta") {
            "api/beta"
        } else {
            "api/ga"
        };
        let told = |key: &str| self.runtime_config.iter().rev().find(|(k, _)| k == key).map(|(_, v)| *v);
        let keys = [own.as_str(), version.as_str(), stage, "api/all"];
        keys.into_iter().find_map(told).unwrap_or(resource.served_by_default)
    }
}

/// Who is who and who may what.
#[derive(Clone)]
pub struct Identity {
    /// Certificates and tokens to users.
    pub authenticator: Arc<identity::Authenticator>,
    /// Users to permissions.
    pub authorizer: Arc<identity::Authorizer>,
    /// Service-account tokens.
    pub tokens: Arc<identity::Tokens>,
}

impl Identity {
    /// Over the objects of a store, with the keys of service-account tokens in `keys`; without a directory they last as
    /// long as the process. `issuer` is the URL that tokens name; `trust` is what the server shows and trusts
    /// (`ClusterPki::trust`).
    ///
    /// # Errors
    /// The keys cannot be read or made.
    pub fn new(store: &Store, keys: Option<&Path>, issuer: &str, trust: Trust) -> Result<Identity, identity::Error> {
        let objects: Arc<dyn identity::Objects> = Arc::new(StoredObjects(store.clone()));
        let tokens = match keys {
            Some(directory) => Tokens::load_or_create(directory, issuer, Arc::clone(&objects))?,
            None => Tokens::ephemeral(issuer, Arc::clone(&objects))?,
        };
        let tokens = Arc::new(tokens);
        Ok(Identity {
            authenticator: Arc::new(identity::Authenticator::new(Arc::clone(&tokens), trust)),
            authorizer: Arc::new(identity::Authorizer::new(objects)),
            tokens,
        })
    }
}
