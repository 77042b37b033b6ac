//! The controllers: each makes one part of the world what its objects say.
//!
//! They are siblings of one shape: a module has a `run(Cx)` that makes its informers and a queue, listens, and hands a
//! [`work::Controller`] to the loop that all share (`work.rs`). What can be decided without input and output stands in
//! pure functions beside it (`plan.rs`, `sets.rs`, …) with tests of their own. Controllers know the API's client and nothing
//! else of the cluster: each asks as its own service account, so that it can do what upstream's may and no more.
//!
//! Nothing is polled: a key is worked on when something that it depends on changed, when its last step failed, or when the
//! API's own time for it has come. Where the original leans on its resync, the head of the module says what takes that place:
//! what happens if an event is lost, a write fails, or somebody else changes or removes what the controller made. Three things
//! hold for all of them and stand in no head: an informer that has lost its watch lists anew and tells what differs (`client`),
//! a step that failed is tried again until it succeeds, and within a day everything is heard once more (`work.rs`).

mod affinity;
mod autoscaling;
pub mod bootstrap_signer;
mod burst;
mod certificates;
mod claim;
mod cluster_role;
mod compiled;
mod cronjob;
mod daemonset;
mod deployment;
mod device_taints;
mod discovery;
mod disruption;
mod endpoints;
mod expectations;
#[cfg(test)]
mod fake;
mod gc;
mod hash;
mod history;
mod job;
mod legacy_token_cleaner;
#[cfg(test)]
mod listed;
mod machines;
mod members;
mod meta;
mod migration;
mod namespace;
mod node;
mod overlay;
mod pod_gc;
mod pods;
mod policy_types;
mod protection;
mod quota;
mod range;
mod replication;
mod resource_claim;
mod root_ca;
mod service_account;
mod service_cidr;
mod shown;
mod statefulset;
mod synced;
mod token_cleaner;
mod token_secrets;
mod ttl;
mod volume;
mod work;

use std::sync::Arc;
use std::time::Duration;

use client::{Client, Informers, QueueMetrics};
use futures_util::future::{BoxFuture, FutureExt};
use instruments::{Family, Kind, Registry};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::ReplicationController;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use work::Cx;

pub use certificates::signing::Signer;
pub use machines::{Held, Machines};

/// What the controllers need to know of the cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which to run, by upstream's names: `*` for all that run by default, `NAME` for one more, `-NAME` for one less.
    pub enabled: Vec<String>,
    /// The range from which nodes get theirs for pods (`10.244.0.0/16`); none: nodes have theirs from elsewhere.
    pub cluster_cidr: Option<String>,
    /// Bits of the mask of a node's range (upstream `--node-cidr-mask-size-ipv4`).
    pub node_cidr_mask: u8,
    /// The same of IPv6 (upstream `--node-cidr-mask-size-ipv6`).
    pub node_cidr_mask_v6: u8,
    /// The authority's certificate in PEM, published to every namespace.
    pub root_ca: String,
    /// Without a sign of life for so long a node is unknown (upstream `--node-monitor-grace-period`).
    pub node_monitor_grace: Duration,
    /// Ended pods that are kept (upstream `--terminated-pod-gc-threshold`); 0 keeps all.
    pub terminated_pods_max: usize,
    /// Who signs approved requests for certificates; none: they are left to others.
    pub signer: Option<Signer>,
    /// The life of what it signs where none is asked for, and the longest (upstream `--cluster-signing-duration`).
    pub signing_life: Duration,
    /// The control plane's machine, where nodes of other machines join it: what they need is then done, too.
    pub machines: Option<Machines>,
    /// Where what the controllers count is told.
    pub metrics: Registry,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: vec!["*".to_owned()],
            cluster_cidr: None,
            node_cidr_mask: 24,
            node_cidr_mask_v6: 64,
            root_ca: String::new(),
            node_monitor_grace: Duration::from_secs(50),
            terminated_pods_max: 12_500,
            signer: None,
            signing_life: Duration::from_secs(365 * 24 * 60 * 60),
            machines: None,
            metrics: Registry::default(),
        }
    }
}

/// Why the controllers ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be used.
    #[error("configuration: {0}")]
    Config(String),
    /// A controller ended by itself.
    #[error("the {0} ended: {1}")]
    Ended(String, String),
}

const MANAGED: Family = Family::new("running_managed_controllers", Kind::Gauge, "[ALPHA] Indicates where instances of a controller are currently running");

type Start = fn(Cx) -> BoxFuture<'static, ()>;

/// Those that `*` does not stand for, as upstream's does not.
const OFF: [&str; 3] = ["bootstrap-signer-controller", "selinux-warning-controller", "token-cleaner-controller"];

/// Every controller by upstream's name.
const ALL: &[(&str, Start)] = &[
    ("replicaset-controller", |cx| replication::run::<ReplicaSet>(cx).boxed()),
    ("replicationcontroller-controller", |cx| replication::run::<ReplicationController>(cx).boxed()),
    ("deployment-controller", |cx| deployment::run(cx).boxed()),
    ("endpointslice-controller", |cx| endpoints::slice::run(cx).boxed()),
    ("endpoints-controller", |cx| endpoints::legacy::run(cx).boxed()),
    ("endpointslice-mirroring-controller", |cx| endpoints::mirroring::run(cx).boxed()),
    ("namespace-controller", |cx| namespace::run(cx).boxed()),
    ("serviceaccount-controller", |cx| service_account::run(cx).boxed()),
    ("serviceaccount-token-controller", |cx| token_secrets::run(cx).boxed()),
    ("root-ca-certificate-publisher-controller", |cx| root_ca::run(cx).boxed()),
    ("garbage-collector-controller", |cx| gc::run(cx).boxed()),
    ("node-lifecycle-controller", |cx| node::lifecycle::run(cx).boxed()),
    ("taint-eviction-controller", |cx| node::eviction::run(cx).boxed()),
    ("node-ipam-controller", |cx| node::ipam::run(cx).boxed()),
    ("pod-garbage-collector-controller", |cx| pod_gc::run(cx).boxed()),
    ("statefulset-controller", |cx| statefulset::run(cx).boxed()),
    ("daemonset-controller", |cx| daemonset::run(cx).boxed()),
    ("job-controller", |cx| job::run(cx).boxed()),
    ("cronjob-controller", |cx| cronjob::run(cx).boxed()),
    ("horizontal-pod-autoscaler-controller", |cx| autoscaling::run(cx).boxed()),
    ("disruption-controller", |cx| disruption::run(cx).boxed()),
    ("resourcequota-controller", |cx| quota::run(cx).boxed()),
    ("ttl-after-finished-controller", |cx| ttl::run(cx).boxed()),
    ("certificatesigningrequest-approving-controller", |cx| certificates::approving::run(cx).boxed()),
    ("certificatesigningrequest-signing-controller", |cx| certificates::signing::run(cx).boxed()),
    ("certificatesigningrequest-cleaner-controller", |cx| certificates::cleaner::run(cx).boxed()),
    ("podcertificaterequest-cleaner-controller", |cx| certificates::cleaner::of_pods(cx).boxed()),
    ("validatingadmissionpolicy-status-controller", |cx| policy_types::run(cx).boxed()),
    ("legacy-serviceaccount-token-cleaner-controller", |cx| legacy_token_cleaner::run(cx).boxed()),
    ("ttl-controller", |cx| node::ttl::run(cx).boxed()),
    ("bootstrap-signer-controller", |cx| bootstrap_signer::run(cx).boxed()),
    ("resourceclaim-controller", |cx| resource_claim::run(cx).boxed()),
    ("device-taint-eviction-controller", |cx| device_taints::run(cx).boxed()),
    ("service-cidr-controller", |cx| service_cidr::run(cx).boxed()),
    ("kube-apiserver-serving-clustertrustbundle-publisher-controller", |cx| certificates::trust_bundle::run(cx).boxed()),
    ("token-cleaner-controller", |cx| token_cleaner::run(cx).boxed()),
    ("persistentvolume-binder-controller", |cx| volume::binder::run(cx).boxed()),
    ("persistentvolume-expander-controller", |cx| volume::expand::run(cx).boxed()),
    ("selinux-warning-controller", |cx| volume::selinux::run(cx).boxed()),
    ("ephemeral-volume-controller", |cx| volume::ephemeral::run(cx).boxed()),
    ("persistentvolume-attach-detach-controller", |cx| volume::attach::run(cx).boxed()),
    ("persistentvolumeclaim-protection-controller", |cx| protection::claims(cx).boxed()),
    ("persistentvolume-protection-controller", |cx| protection::volumes(cx).boxed()),
    ("volumeattributesclass-protection-controller", |cx| protection::attributes(cx).boxed()),
    ("storage-version-migrator-controller", |cx| migration::run(cx).boxed()),
    ("clusterrole-aggregation-controller", |cx| cluster_role::run(cx).boxed()),
];

/// The names that `Config::enabled` may name.
pub fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|(name, _)| *name)
}

impl Config {
    /// Whether a controller is to run; what stands first decides.
    fn runs(&self, name: &str) -> bool {
        let word = self.enabled.iter().find_map(|e| match e.strip_prefix('-') {
            Some(off) if off == name => Some(false),
            None if e == name => Some(true),
            _ => None,
        });
        word.unwrap_or_else(|| !OFF.contains(&name) && self.enabled.iter().any(|e| e == "*"))
    }

    /// The names of those that are to run.
    pub fn running(&self) -> impl Iterator<Item = &'static str> {
        names().filter(|name| self.runs(name))
    }

    fn check(&self) -> Result<(), Error> {
        let known = |e: &&String| e.as_str() == "*" || names().any(|n| n == e.strip_prefix('-').unwrap_or(e));
        match self.enabled.iter().find(|e| !known(e)) {
            Some(unknown) => Err(Error::Config(format!("{unknown:?} is not in the list of known controllers"))),
            None => Ok(()),
        }
    }
}

/// Runs the controllers until `shutdown`, or until one of them ends by itself.
///
/// `client_for` gives the client of a service account in `kube-system`; `informers` may be shared with other components.
///
/// # Errors
/// The configuration cannot be used, or a controller ended.
pub async fn run(
    config: Config,
    client_for: impl Fn(&str) -> Client + Send + Sync + 'static,
    informers: Informers,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    config.check()?;
    let (fatal, mut broken) = mpsc::unbounded_channel();
    let queues = QueueMetrics::new(&config.metrics);
    let cx = Cx { config: Arc::new(config), informers, shutdown: shutdown.child_token(), client_for: Arc::new(client_for), fatal, queues };
    let managed = cx.config.metrics.gauges(&MANAGED, ["manager", "name"]);
    let _end_all = cx.shutdown.clone().drop_guard();
    let mut running = JoinSet::new();
    if let Some(machines) = &cx.config.machines {
        let (address, serving, dns) = (machines.clone(), machines.clone(), machines.clone());
        let own = [
            ("controller of machines' addresses", machines::address::run(cx.clone(), address).boxed()),
            ("approver of kubelets' certificates", machines::serving::run(cx.clone(), serving).boxed()),
            ("controller of machines' DNS", machines::dns::run(cx.clone(), dns).boxed()),
        ];
        for (name, work) in own {
            running.spawn(async move {
                work.await;
                name
            });
        }
    }
    for (name, start) in ALL.iter().filter(|(name, _)| cx.config.runs(name)) {
        let (work, counted) = (start(cx.clone()), managed.with(["kube-controller-manager", name]).hold());
        running.spawn(async move {
            let _counted = counted;
            work.await;
            *name
        });
    }
    tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        Some(why) = broken.recv() => Err(Error::Ended("controllers".to_owned(), why)),
        Some(ended) = running.join_next() => Err(match ended {
            Ok(name) => Error::Ended(name.to_owned(), "it had nothing left to wait for".to_owned()),
            Err(panic) => Error::Ended("controllers".to_owned(), panic.to_string()),
        }),
        else => { shutdown.cancelled().await; Ok(()) }
    }
}
