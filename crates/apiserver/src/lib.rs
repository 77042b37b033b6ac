//! A request to an object and back: authentication, authorisation, admission, registry, watch, subresources, discovery.
//!
//! There is one path, `pipeline`, and every kind takes it. [`ApiServer::handle`] is that path for callers in the same
//! process; [`ApiServer::serve`] puts TLS and HTTP before it and adds nothing else.

mod access;
mod admission;
mod body;
mod bootstrap;
mod components;
mod config;
mod context;
mod discovery;
mod documents;
mod errors;
mod frames;
mod gather;
mod gzip;
mod health;
mod housekeeping;
mod listing;
mod meta;
mod metrics;
mod negotiate;
mod offload;
mod openapi;
mod own;
mod path;
mod pipeline;
mod proxy;
mod query;
mod read;
mod registry;
mod reply;
mod respond;
mod reviews;
mod rows;
mod server;
mod services;
mod storage;
mod stretches;
mod subresources;
mod table;
mod websocket;
mod windows;

pub use body::{Body, BoxError, empty, full};
pub use config::{Config, Identity};
pub use context::{Context, Operation, Write};
pub use path::RequestInfo;
pub use rows::{Row, Rows};
pub use server::PeerCertificate;

use arc_swap::ArcSwap;
use identity::User;
use machinery::{Value, status::Status};
use registry::{Call, DeleteOptions, WriteOptions};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};
use store::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The API server. Cheap to clone; all clones are one server.
#[derive(Clone)]
pub struct ApiServer(Arc<Inner>);

struct Inner {
    config: Config,
    store: Store,
    identity: Identity,
    rows: ArcSwap<Rows>,
    metrics: metrics::Metrics,
    services: services::Allocators,
    anonymous: Arc<User>,
    own: Arc<User>,
    given_up: offload::GivenUp,
    ledger: admission::Ledger,
    bootstrapped: AtomicBool,
    ending: CancellationToken,
}

impl ApiServer {
    /// A server over a store. Nothing runs yet; requests are answered from here on.
    ///
    /// # Errors
    /// A resource's objects cannot be loaded from the store.
    pub fn new(config: Config, store: Store, identity: Identity) -> Result<ApiServer, Status> {
        let rows = Rows::builtin(|resource| config.serves(resource));
        let (network, prefix) = config.service_cidr;
        let user = |name: &str, group: &str| Arc::new(User { name: name.into(), uid: String::new(), groups: vec![group.into()], extra: Default::default() });
        let server = ApiServer(Arc::new(Inner {
            services: services::Allocators::new(network, prefix, config.node_ports),
            rows: ArcSwap::from_pointee(rows),
            metrics: metrics::Metrics::new(SystemTime::now()),
            anonymous: user("system:anonymous", "system:unauthenticated"),
            own: user("system:apiserver", "system:masters"),
            given_up: offload::GivenUp::default(),
            ledger: admission::Ledger::default(),
            bootstrapped: AtomicBool::new(false),
            ending: CancellationToken::new(),
            config,
            store,
            identity,
        }));
        // Every bucket takes its objects now: authorisation reads them without asking for a row.
        for row in server.rows().iter() {
            row.bucket(server.store());
        }
        server.adopt_services();
        Ok(server)
    }

    /// Answers one request: everything but TLS and HTTP. An in-process caller puts its [`User`] (or an `Arc` of it)
    /// into the extensions and passes authorisation and admission like everyone.
    pub async fn handle(&self, request: http::Request<Body>) -> http::Response<Body> {
        pipeline::handle(self, request).await
    }

    /// Serves TLS, HTTP/1.1 and HTTP/2 on these listeners until `shutdown`, and keeps house meanwhile (Events end by age).
    pub async fn serve(&self, listeners: Vec<TcpListener>, tls: Arc<rustls::ServerConfig>, shutdown: CancellationToken) {
        let clients = server::Clients::new();
        let all = listeners.into_iter().map(|listener| server::serve(self.clone(), listener, Arc::clone(&tls), clients.clone(), shutdown.clone()));
        tokio::join!(futures_util::future::join_all(all), housekeeping::run(self.clone(), shutdown.clone()));
    }

    /// Makes the objects that the API makes by itself; `/readyz` fails until it is done.
    ///
    /// # Errors
    /// An object cannot be written.
    pub async fn bootstrap(&self) -> Result<(), Status> {
        let found = services::repair(self, services::Suspects::default()).await;
        bootstrap::run(self).await?;
        // What a crash has left behind is put right at once.
        services::repair(self, found.of_a_crash()).await;
        self.0.bootstrapped.store(true, Ordering::Release);
        Ok(())
    }

    /// Makes again what somebody has taken of the objects that the API keeps, and what is gone is no longer remembered.
    /// [`Self::serve`] does it every minute.
    pub async fn keep(&self) {
        bootstrap::keep(self, bootstrap::Round::Long).await;
        admission::tidy(self);
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Who is who and who may what.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// The resources that are served now.
    pub fn rows(&self) -> Arc<Rows> {
        self.0.rows.load_full()
    }

    /// A served resource.
    pub fn row(&self, group: &str, version: &str, resource: &str) -> Option<Arc<Row>> {
        self.0.rows.load().get(group, version, resource).cloned()
    }

    /// An object, read by the server itself: no authorisation.
    ///
    /// # Errors
    /// 404.
    pub fn read(&self, resource: &(&str, &str, &str), namespace: &str, name: &str) -> Result<Arc<Value>, Status> {
        let row = self.own_row(resource)?;
        let key = row.resource.key(namespace, name);
        let entry = storage::get(self, &row, &key).ok_or_else(|| errors::not_found(&row, name))?;
        Ok(storage::value(&row, &entry))
    }

    /// Creates an object as the server itself (`system:apiserver`), with defaults, admission and validation.
    ///
    /// # Errors
    /// As a create by anybody.
    pub async fn create(&self, resource: &(&str, &str, &str), namespace: &str, mut value: Value) -> Result<Value, Status> {
        let row = self.own_row(resource)?;
        let cx = self.own_context(&row, "create", namespace);
        own::default(&row, &mut value);
        let options = WriteOptions::internal();
        let (query, headers) = (query::Query::default(), http::HeaderMap::new());
        let call = Call { server: self, cx: &cx, row: &row, query: &query, headers: &headers, accepted: Default::default() };
        // Boxed: a Service's create writes its IPAddress by this same function.
        let answer = Box::pin(registry::create_value(&call, &row, namespace, &options, value, false)).await?;
        Ok(answer.into_value(&row))
    }

    /// Replaces an object as the server itself; `value` names the resourceVersion that it stems from, or none.
    ///
    /// # Errors
    /// As an update by anybody.
    pub async fn update(&self, resource: &(&str, &str, &str), namespace: &str, name: &str, value: Value) -> Result<Value, Status> {
        let row = self.own_row(resource)?;
        let cx = self.own_context(&row, "update", namespace);
        let options = WriteOptions::internal();
        let (query, headers) = (query::Query::default(), http::HeaderMap::new());
        let call = Call { server: self, cx: &cx, row: &row, query: &query, headers: &headers, accepted: Default::default() };
        let change = registry::Change { row: &row, namespace, name, subresource: "", options: &options, may_create: false, applied: false, derived: true };
        let answer = Box::pin(registry::change(&call, &change, |_| {
            let mut value = value.clone();
            own::default(&row, &mut value);
            Ok(value)
        }))
        .await?;
        Ok(answer.into_value(&row))
    }

    /// Deletes an object as the server itself.
    ///
    /// # Errors
    /// As a delete by anybody.
    pub async fn delete(&self, resource: &(&str, &str, &str), namespace: &str, name: &str) -> Result<(), Status> {
        let row = self.own_row(resource)?;
        let cx = self.own_context(&row, "delete", namespace);
        let (query, headers) = (query::Query::default(), http::HeaderMap::new());
        let call = Call { server: self, cx: &cx, row: &row, query: &query, headers: &headers, accepted: Default::default() };
        Box::pin(registry::delete_named(&call, &row, namespace, name, &DeleteOptions::default())).await?;
        Ok(())
    }

    fn own_row(&self, (group, version, resource): &(&str, &str, &str)) -> Result<Arc<Row>, Status> {
        self.row(group, version, resource).ok_or_else(|| Status::internal(format!("{resource}.{group}/{version} is not served")))
    }

    fn own_context(&self, row: &Row, verb: &'static str, namespace: &str) -> Context {
        let info = RequestInfo {
            is_resource: true,
            verb,
            group: row.resource.group.clone(),
            version: row.resource.version.clone(),
            resource: row.resource.resource.clone(),
            namespace: namespace.to_owned(),
            ..RequestInfo::default()
        };
        Context::new(Arc::clone(&self.0.own), info, "kube-apiserver".into(), SystemTime::now())
    }

    fn adopt_services(&self) {
        let Some(row) = self.row("", "v1", "services") else { return };
        let Some(snapshot) = storage::snapshot(self, &row, None) else { return };
        for entry in snapshot.range(&row.root_key, "") {
            self.0.services.adopt(&storage::value(&row, entry));
        }
    }

    pub(crate) fn metrics(&self) -> &metrics::Metrics {
        &self.0.metrics
    }

    /// The writes that go on though their clients are gone.
    pub(crate) fn given_up(&self) -> &offload::GivenUp {
        &self.0.given_up
    }

    /// What quotas were charged.
    pub(crate) fn ledger(&self) -> &admission::Ledger {
        &self.0.ledger
    }

    pub(crate) fn services(&self) -> &services::Allocators {
        &self.0.services
    }

    pub(crate) fn anonymous(&self) -> Arc<User> {
        Arc::clone(&self.0.anonymous)
    }

    pub(crate) fn own_user(&self) -> Arc<User> {
        Arc::clone(&self.0.own)
    }

    pub(crate) fn is_bootstrapped(&self) -> bool {
        self.0.bootstrapped.load(Ordering::Acquire)
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.0.ending.is_cancelled()
    }

    /// Ends every watch: the clients come back to whoever serves next.
    pub(crate) fn end_watches(&self) {
        self.0.ending.cancel();
    }

    pub(crate) fn ending(&self) -> &CancellationToken {
        &self.0.ending
    }

    /// `host:port` by which clients reach this server.
    pub(crate) fn address(&self) -> String {
        let config = &self.0.config;
        config
            .advertise_address
            .map_or_else(|| format!("localhost:{}", config.advertise_port), |ip| std::net::SocketAddr::new(ip, config.advertise_port).to_string())
    }

    pub(crate) fn render_metrics(&self) -> String {
        let rows = self.rows();
        let objects = rows.iter().filter(|r| r.resource.has_verb("list")).map(|row| {
            let count = storage::count(self, row);
            let name = &row.resource;
            (if name.group.is_empty() { name.resource.clone() } else { format!("{}.{}", name.resource, name.group) }, count)
        });
        self.0.metrics.render(&objects.collect::<Vec<_>>(), self.given_up().count())
    }
}
