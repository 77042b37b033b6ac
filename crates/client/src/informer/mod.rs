//! Shared informers: one list and watch per kind and selector, however many listen.
//!
//! [`Informers`] hands out [`Informer`]s; asking twice gives the same one. Each is fed by a reflector task
//! (`reflector.rs`) that lists once and then watches, and keeps every object in memory (`cache.rs`) as an `Arc` decoded
//! once. Listeners get the changes in the order of their revisions; one that comes late first gets the present state as
//! additions. Whatever is delivered is already in the memory.

mod cache;
mod reflector;
#[cfg(test)]
mod tests;

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::Resource;
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::api::Client;
use crate::object::{Object, ObjectKey, Plural};
use crate::params::ListParams;
use crate::partial::PartialObject;
use cache::Cache;

/// A change, as a listener sees it.
#[derive(Clone, Debug)]
pub enum Delta<K> {
    /// It exists now.
    Added(Arc<K>),
    /// It changed.
    Updated {
        /// As it was.
        old: Arc<K>,
        /// As it is.
        new: Arc<K>,
    },
    /// It is gone; its last known state.
    Deleted(Arc<K>),
}

impl<K> Delta<K> {
    /// The object in its newest known state.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Added(object) | Self::Updated { new: object, .. } | Self::Deleted(object) => object,
        }
    }
}

/// The informers of a process under one identity. Cheap to clone.
#[derive(Clone)]
pub struct Informers {
    inner: Arc<Inner>,
}

/// What an informer shows: its type, the collection's path, the selection.
type Source = (TypeId, String, ListParams);

struct Inner {
    client: Client,
    token: CancellationToken,
    /// Where the reflectors run: the runtime that these were made in, whoever asks for an informer.
    room: Option<Handle>,
    known: Mutex<HashMap<Source, Arc<dyn Any + Send + Sync>>>,
}

impl Informers {
    /// Informers that read through this client until the token is cancelled.
    #[must_use]
    pub fn new(client: Client, token: CancellationToken) -> Self {
        Self { inner: Arc::new(Inner { client, token, room: Handle::try_current().ok(), known: Mutex::default() }) }
    }

    /// The client that they read through.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.inner.client
    }

    /// All objects of a kind.
    #[must_use]
    pub fn informer<K: Object + Resource>(&self) -> Informer<K> {
        self.informer_with(ListParams::default())
    }

    /// The objects of a kind that the selectors select.
    #[must_use]
    pub fn informer_with<K: Object + Resource>(&self, params: ListParams) -> Informer<K> {
        self.at(format!("{}/{}", K::root(), K::URL_PATH_SEGMENT), params)
    }

    /// The objects of a kind in one namespace that the selectors select.
    #[must_use]
    pub fn informer_in<K: Object + Resource>(&self, namespace: &str, params: ListParams) -> Informer<K> {
        self.at(format!("{}/namespaces/{namespace}/{}", K::root(), K::URL_PATH_SEGMENT), params)
    }

    /// The metadata of all objects of a collection (`/apis/GROUP/VERSION/RESOURCE`), whatever their kind.
    #[must_use]
    pub fn metadata(&self, path: &str) -> Informer<PartialObject> {
        self.at(path.to_owned(), ListParams::default())
    }

    /// Stops the informer of a collection's metadata, whose kind is no longer served, and forgets it.
    pub fn forget_metadata(&self, path: &str) {
        let key = (TypeId::of::<PartialObject>(), path.to_owned(), ListParams::default());
        if let Some(informer) = self.inner.known.lock().remove(&key).and_then(|i| i.downcast::<Shared<PartialObject>>().ok()) {
            informer.token.cancel();
        }
    }

    /// Paths whose objects are all held more than once, as different types. For tests of those who share informers: each
    /// object costs memory, and each watch work.
    #[must_use]
    pub fn held_twice(&self) -> Vec<String> {
        let known = self.inner.known.lock();
        let whole = known.keys().filter(|(_, _, params)| *params == ListParams::default());
        let mut paths: Vec<&String> = whole.map(|(_, path, _)| path).collect();
        paths.sort();
        let mut twice: Vec<String> = paths.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0].clone()).collect();
        twice.dedup();
        twice
    }

    fn at<K: Object>(&self, path: String, params: ListParams) -> Informer<K> {
        let key = (TypeId::of::<K>(), path.clone(), params.clone());
        let mut known = self.inner.known.lock();
        if let Some(shared) = known.get(&key).cloned().and_then(|i| i.downcast::<Shared<K>>().ok()) {
            return Informer { shared };
        }
        let token = self.inner.token.child_token();
        let shared = Arc::new(Shared { cache: RwLock::new(Cache::default()), synced: watch::Sender::new(false), token: token.clone() });
        known.insert(key, shared.clone());
        let sink = Box::new(reflector::Memory::new(shared.clone()));
        self.reflect(reflector::Reflector::new(self.inner.client.at::<K>(path).untyped(), params, sink), token);
        Informer { shared }
    }

    fn reflect(&self, reflector: reflector::Reflector, token: CancellationToken) {
        let reflect = async move {
            let work = Box::pin(reflector.run());
            tokio::select! { () = token.cancelled() => {}, () = work => {} }
        };
        match &self.inner.room {
            Some(room) => drop(room.spawn(reflect)),
            None => drop(tokio::spawn(reflect)),
        }
    }
}

/// What an informer's handles and its reflector share.
pub(crate) struct Shared<K> {
    cache: RwLock<Cache<K>>,
    synced: watch::Sender<bool>,
    token: CancellationToken,
}

/// The objects of a kind in memory. Cheap to clone; all clones see the same.
pub struct Informer<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<K: Object> Informer<K> {
    /// One object; the namespace is empty for cluster-wide kinds.
    #[must_use]
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.shared.cache.read().get(namespace, name)
    }

    /// The object with this key.
    #[must_use]
    pub fn get_key(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.get(&key.namespace, &key.name)
    }

    /// All objects, by namespace and name.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<K>> {
        self.shared.cache.read().list()
    }

    /// All objects of a namespace, by name.
    #[must_use]
    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.shared.cache.read().list_namespace(namespace)
    }

    /// Keeps, from now on, which objects have which values by this function. A second index of the same name is the first.
    pub fn add_index(&self, name: &'static str, values: fn(&K) -> Vec<String>) {
        self.shared.cache.write().add_index(name, values);
    }

    /// The objects that have this value in an index.
    #[must_use]
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        self.shared.cache.read().by_index(name, value)
    }

    /// The changes from now on, after the present state as additions. Ends when the informer does.
    #[must_use]
    pub fn subscribe(&self) -> mpsc::UnboundedReceiver<Delta<K>> {
        self.shared.cache.write().subscribe()
    }

    /// Waits until the first list is in memory.
    pub async fn synced(&self) {
        let mut synced = self.shared.synced.subscribe();
        // An error means that the informers ended: nothing will come, and the caller's own token says so too.
        if synced.wait_for(|s| *s).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until nothing more will come: the informer was forgotten, or all of them ended.
    pub async fn ended(&self) {
        self.shared.token.cancelled().await;
    }

    /// Whether the first list is in memory.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }

    /// An informer without a server, for the tests of those who read from informers: what is given is what it holds.
    #[must_use]
    pub fn fixed(objects: impl IntoIterator<Item = K>) -> Self {
        let mut cache = Cache::default();
        for object in objects {
            cache.upsert(object);
        }
        Self { shared: Arc::new(Shared { cache: RwLock::new(cache), synced: watch::Sender::new(true), token: CancellationToken::new() }) }
    }
}
