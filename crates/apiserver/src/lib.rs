//! A request to an object and back: authentication, authorisation, admission, registry, watch, subresources, discovery.
//!
//! There is one path, `pipeline`, and every kind takes it. [`ApiServer::handle`] is that path for callers in the same
//! process; [`ApiServer::serve`] puts TLS and HTTP before it and adds nothing else.

mod access;
mod admission;
mod aggregation;
mod aside;
mod astray;
mod body;
mod bootstrap;
mod components;
mod conditions;
mod config;
mod consumption;
mod context;
mod conversion;
mod debug;
mod definitions;
mod discovery;
mod documents;
mod errors;
mod family;
mod frames;
mod gate;
mod gather;
mod gzip;
mod heads;
mod health;
mod hooks;
mod housekeeping;
mod impersonation;
mod impersonators;
mod ledger;
mod legacy_tokens;
mod listing;
mod local;
mod malformed;
mod media_type;
mod meta;
mod metrics;
#[cfg(test)]
#[path = "../../runtime/src/fuzz.rs"]
mod mutations;
mod negotiate;
mod news;
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
mod tallies;
mod turns;
mod websocket;
mod windows;
mod world;
mod writer;
mod zpages;

pub use body::{Body, BoxError, empty, full};
pub use config::{Config, Identity};
pub use context::{Context, Operation, Write};
pub use gate::settings::{AdmissionOptions, AdmissionSettings};
pub use path::RequestInfo;
pub use rows::{Row, Rows};
pub use server::PeerCertificate;

use aggregation::Aggregation;
use aside::Stand;
use machinery::{Value, status::Status};
use parking_lot::Mutex;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use store::Store;
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use world::World;
use writer::Writer;

/// Requests of the server to itself at once; more wait. A hook that leads to what asks it again would have no end but that of its time.
const OWN_REQUESTS_MAX: usize = 64;

/// The API server. Cheap to clone; all clones are one server.
#[derive(Clone)]
pub struct ApiServer(Arc<Inner>);

struct Inner {
    world: World,
    given_up: offload::GivenUp,
    bootstrapped: AtomicBool,
    /// Keeps the rows of definitions, as long as nothing runs.
    keeper: Mutex<Option<definitions::Keeper>>,
    aggregation: Arc<Aggregation>,
    verbosity: debug::Verbosity,
    /// The look at the manifests of admission.
    rereading: aside::Aside,
}

impl ApiServer {
    /// A server over a store. Nothing runs yet; requests are answered from here on.
    ///
    /// # Errors
    /// A resource's objects cannot be loaded from the store.
    pub fn new(config: Config, store: Store, identity: Identity) -> Result<ApiServer, Status> {
        let aggregation = Arc::new(Aggregation::new(&store, identity.authenticator.trust().front_proxy_client.clone()));
        let world = World::new(config, store, identity);
        let keeper = Mutex::new(definitions::Keeper::load(&world));
        let (given_up, bootstrapped) = (offload::GivenUp::default(), AtomicBool::new(false));
        let (verbosity, rereading) = (debug::Verbosity::default(), aside::Aside::default());
        let server = ApiServer(Arc::new(Inner { world, given_up, bootstrapped, keeper, aggregation, verbosity, rereading }));
        // Every bucket takes its objects now: authorisation reads them without asking for a row.
        for row in server.rows().iter() {
            row.bucket(server.store());
        }
        server.adopt_services();
        server.answer_itself();
        Ok(server)
    }

    /// Says how the server is asked by itself: as its own user, by a task of its own, since that may ask again, and where the network is,
    /// which heavy threads have not. It ends with whoever waits for its answer.
    fn answer_itself(&self) {
        let (server, places) = (Arc::downgrade(&self.0), Arc::new(Semaphore::new(OWN_REQUESTS_MAX)));
        self.world().itself().answer(Box::new(move |mut request: http::Request<Body>| {
            let server = server.upgrade().map(ApiServer)?;
            let places = Arc::clone(&places);
            request.extensions_mut().insert(server.world().own_user());
            let answer: hooks::OwnAnswer = Box::pin(async move {
                let work = async move {
                    // The semaphore is never closed. Whoever asks waits no longer than his time.
                    let _place = places.acquire_owned().await;
                    server.handle(request).await
                };
                let asked = Box::pin(offload::at_home(async move { AbortOnDropHandle::new(tokio::spawn(work)).await }));
                asked.await.map_err(|error| error.to_string())
            });
            Some(answer)
        }));
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
        let keeper = self.0.keeper.lock().take();
        if let Some(keeper) = keeper {
            tokio::spawn(keeper.run());
        }
        let found = services::repair(self.world(), services::Suspects::default()).await;
        bootstrap::run(self.world()).await?;
        // What a crash has left behind is put right at once.
        services::repair(self.world(), found.of_a_crash()).await;
        if !self.0.bootstrapped.swap(true, Ordering::AcqRel) {
            tokio::spawn(bootstrap::follow(self.world().clone()));
            tokio::spawn(aggregation::keeper::run(self.world().clone(), Arc::clone(&self.0.aggregation)));
        }
        Ok(())
    }

    /// Makes again what somebody has taken of the objects that the API keeps, and what is gone is no longer remembered.
    /// [`Self::serve`] does it every minute.
    pub async fn keep(&self) {
        bootstrap::keep(self.world(), bootstrap::Round::Long).await;
        admission::tidy(self.world());
        self.reread().await;
    }

    /// Looks at the manifests of admission again, where there are some. Their directory may be one that hangs: nothing else waits for it.
    pub(crate) async fn reread(&self) {
        if !self.world().gate().has_manifests() {
            return;
        }
        let world = self.world().clone();
        match self.0.rereading.run("manifests", move || world.gate().reread()).await {
            Ok(Stand::Done | Stand::Busy) => {}
            Ok(Stand::Hangs) => tracing::error!("the directories of admission manifests do not answer; what they said last holds until they do"),
            Err(error) => tracing::error!(%error, "the directories of admission manifests cannot be looked at"),
        }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        self.world().store()
    }

    /// Who is who and who may what.
    pub fn identity(&self) -> &Identity {
        self.world().identity()
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        self.world().config()
    }

    /// The resources that are served now.
    pub fn rows(&self) -> Arc<Rows> {
        self.world().rows()
    }

    /// A served resource.
    pub fn row(&self, group: &str, version: &str, resource: &str) -> Option<Arc<Row>> {
        self.world().row(group, version, resource)
    }

    /// An object, read by the server itself: no authorisation.
    ///
    /// # Errors
    /// 404.
    pub fn read(&self, resource: &(&str, &str, &str), namespace: &str, name: &str) -> Result<Arc<Value>, Status> {
        self.world().read(*resource, namespace, name)
    }

    /// Creates an object as the server itself (`system:apiserver`), with defaults, admission and validation.
    ///
    /// # Errors
    /// As a create by anybody.
    pub async fn create(&self, resource: &(&str, &str, &str), namespace: &str, value: Value) -> Result<Value, Status> {
        Writer::new(self.world()).create(*resource, namespace, value).await
    }

    /// Replaces an object as the server itself; `value` names the resourceVersion that it stems from, or none.
    ///
    /// # Errors
    /// As an update by anybody.
    pub async fn update(&self, resource: &(&str, &str, &str), namespace: &str, name: &str, value: Value) -> Result<Value, Status> {
        Writer::new(self.world()).update(*resource, namespace, name, value).await
    }

    /// Deletes an object as the server itself.
    ///
    /// # Errors
    /// As a delete by anybody.
    pub async fn delete(&self, resource: &(&str, &str, &str), namespace: &str, name: &str) -> Result<(), Status> {
        Writer::new(self.world()).delete(*resource, namespace, name).await
    }

    fn adopt_services(&self) {
        for service in self.world().list(("", "v1", "services"), "") {
            self.world().services().adopt(&service);
        }
    }

    pub(crate) fn world(&self) -> &World {
        &self.0.world
    }

    /// What other servers serve behind this one.
    pub(crate) fn aggregation(&self) -> &Aggregation {
        &self.0.aggregation
    }

    /// How much is logged.
    pub(crate) fn verbosity(&self) -> &debug::Verbosity {
        &self.0.verbosity
    }

    /// The writes that go on though their clients are gone.
    pub(crate) fn given_up(&self) -> &offload::GivenUp {
        &self.0.given_up
    }

    pub(crate) fn is_bootstrapped(&self) -> bool {
        self.0.bootstrapped.load(Ordering::Acquire)
    }
}
