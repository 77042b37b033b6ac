//! What the parts of the server stand on: the store, the rows that are served, who is who, the settings, and what is remembered
//! between requests.
//!
//! Everything here can be read without asking anybody: no authorisation, no admission, no request. Nothing here knows of the
//! path above it, so whoever is called from the path is given the world and not the server. What it writes by the path as the
//! server itself stands in [`crate::writer`], what it writes below it in [`crate::own`].

use crate::{
    config::{Config, Identity},
    consumption::Meter,
    errors,
    gate::Gate,
    hooks::Itself,
    impersonators::Impersonators,
    ledger::Ledger,
    metrics::Metrics,
    own,
    rows::{Row, Rows},
    services::{Allocators, Range},
    storage,
};
use arc_swap::ArcSwap;
use identity::User;
use machinery::{Value, status::Status};
use std::{collections::BTreeMap, sync::Arc, time::SystemTime};
use store::Store;
use tokio_util::sync::CancellationToken;

/// Group, version and plural name of a resource.
pub(crate) type Gvr<'a> = (&'a str, &'a str, &'a str);

/// See the module's head. Cheap to clone; all clones are one world.
#[derive(Clone)]
pub(crate) struct World(Arc<Inner>);

struct Inner {
    config: Config,
    store: Store,
    identity: Identity,
    rows: ArcSwap<Rows>,
    metrics: Metrics,
    services: Allocators,
    anonymous: Arc<User>,
    own: Arc<User>,
    ledger: Ledger,
    gate: Gate,
    meter: Arc<Meter>,
    impersonators: Impersonators,
    ending: CancellationToken,
    itself: Itself,
}

impl World {
    pub(crate) fn new(config: Config, store: Store, identity: Identity) -> World {
        let rows = Rows::builtin(|resource| config.serves(resource));
        let user = |name: &str, group: &str| Arc::new(User { name: name.into(), uid: String::new(), groups: vec![group.into()], extra: Default::default() });
        World(Arc::new(Inner {
            services: Allocators::new(config.service_cidrs.iter().map(|(network, prefix)| Range::new(*network, *prefix)).collect(), config.node_ports),
            rows: ArcSwap::from_pointee(rows),
            metrics: Metrics::new(SystemTime::now()),
            anonymous: user("system:anonymous", "system:unauthenticated"),
            own: user(own::OWN_USER, "system:masters"),
            ledger: Ledger::default(),
            gate: Gate::new(&store, &config.admission),
            meter: Meter::new(),
            impersonators: Impersonators::default(),
            ending: CancellationToken::new(),
            itself: Itself::default(),
            config,
            store,
            identity,
        }))
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.0.identity
    }

    pub(crate) fn config(&self) -> &Config {
        &self.0.config
    }

    /// The resources that are served now.
    pub(crate) fn rows(&self) -> Arc<Rows> {
        self.0.rows.load_full()
    }

    /// Puts another table in the place of the present one.
    pub(crate) fn replace_rows(&self, next: impl Fn(&Rows) -> Rows) {
        self.0.rows.rcu(|rows| next(rows));
    }

    /// A served resource.
    pub(crate) fn row(&self, group: &str, version: &str, resource: &str) -> Option<Arc<Row>> {
        self.0.rows.load().get(group, version, resource).cloned()
    }

    /// An object in the version that is asked for.
    ///
    /// # Errors
    /// 404.
    pub(crate) fn read(&self, resource: Gvr<'_>, namespace: &str, name: &str) -> Result<Arc<Value>, Status> {
        let row = self.expect_row(resource)?;
        let key = row.resource.key(namespace, name);
        let entry = storage::get(self.store(), &row, &key).ok_or_else(|| errors::not_found(&row, name))?;
        Ok(storage::value(&row, &entry))
    }

    /// An object, if it is there.
    pub(crate) fn get(&self, resource: Gvr<'_>, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.read(resource, namespace, name).ok()
    }

    /// All objects of a namespace (empty: of the cluster), in order of their names.
    pub(crate) fn list(&self, (group, version, resource): Gvr<'_>, namespace: &str) -> Vec<Arc<Value>> {
        let Some(row) = self.row(group, version, resource) else { return Vec::new() };
        let prefix = if namespace.is_empty() { row.root_key.clone() } else { format!("{}{namespace}/", row.root_key) };
        let Some(snapshot) = storage::snapshot(self.store(), &row, None) else { return Vec::new() };
        snapshot.range(&prefix, "").map(|entry| storage::value(&row, entry)).collect()
    }

    /// A resource that the server itself needs.
    ///
    /// # Errors
    /// 500 if it is not served.
    pub(crate) fn expect_row(&self, (group, version, resource): Gvr<'_>) -> Result<Arc<Row>, Status> {
        self.row(group, version, resource).ok_or_else(|| Status::internal(format!("{resource}.{group}/{version} is not served")))
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// What Services have taken.
    pub(crate) fn services(&self) -> &Allocators {
        &self.0.services
    }

    /// What quotas were charged.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.0.ledger
    }

    /// What is registered for admission.
    pub(crate) fn gate(&self) -> &Gate {
        &self.0.gate
    }

    /// What nodes and pods use.
    pub(crate) fn meter(&self) -> &Arc<Meter> {
        &self.0.meter
    }

    /// How users have last acted as others.
    pub(crate) fn impersonators(&self) -> &Impersonators {
        &self.0.impersonators
    }

    pub(crate) fn anonymous(&self) -> Arc<User> {
        Arc::clone(&self.0.anonymous)
    }

    pub(crate) fn own_user(&self) -> Arc<User> {
        Arc::clone(&self.0.own)
    }

    /// The server as it is asked by itself.
    pub(crate) fn itself(&self) -> &Itself {
        &self.0.itself
    }

    /// Cancelled when the server ends: every watch ends with it.
    pub(crate) fn ending(&self) -> &CancellationToken {
        &self.0.ending
    }

    /// `host:port` by which clients reach this server.
    pub(crate) fn address(&self) -> String {
        let config = self.config();
        config
            .advertise_address
            .map_or_else(|| format!("localhost:{}", config.advertise_port), |ip| std::net::SocketAddr::new(ip, config.advertise_port).to_string())
    }

    pub(crate) fn render_metrics(&self, given_up: i64) -> String {
        let rows = self.rows();
        // By name: the versions of a kind are rows of the same objects.
        let mut objects = BTreeMap::new();
        for row in rows.iter().filter(|r| r.resource.has_verb("list")) {
            let name = (row.resource.group.as_str(), row.resource.resource.as_str());
            objects.entry(name).or_insert_with(|| storage::stored(self.store(), row));
        }
        let served: Vec<_> = rows.iter().map(|row| row.labels()).collect();
        let services = self.list(("apiregistration.k8s.io", "v1", "apiservices"), "");
        let services = services.iter().map(|service| {
            let mut conditions = service["status"]["conditions"].as_array().into_iter().flatten();
            let available = conditions.any(|one| one["type"] == "Available" && one["status"] == "True");
            (service["metadata"]["name"].as_str().unwrap_or_default().to_owned(), available)
        });
        let services: Vec<_> = services.collect();
        let text = self.metrics().render((&objects, self.store().size_bytes()), &served, &services, &self.services().room(), given_up, self.store().reserve());
        text + &self.gate().flows.text() + &self.gate().manifest_metrics()
    }
}
