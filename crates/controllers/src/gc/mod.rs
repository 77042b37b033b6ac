//! The garbage collector: what has lost its owners goes, what is deleted in the foreground waits for its dependents, what
//! is deleted with `Orphan` sets them free first.
//!
//! The graph (`graph.rs`) is fed by an informer of every resource that can be listed, watched and deleted: those that other
//! controllers have anyway as they are, of all others the metadata alone (`monitors.rs`). Before anything is deleted the
//! server is asked (`act.rs`), so that a stale graph costs a request and never an object.
//!
//! In place of the original's resync and its discovery every thirty seconds: a change of what is served is heard, a discovery that
//! failed is tried again, and so is every step. A kind that cannot be listed holds the others back for half a minute only, as
//! there; what was set free meanwhile is remembered until the end of the process, so that its dependents of that kind are not deleted
//! when they are seen.

mod act;
mod graph;
mod monitors;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use client::{Client, Recorder, WorkQueue};
use parking_lot::{Mutex, RwLock};

use crate::discovery::Served;
use crate::work::{Controller, Cx, Step};
use graph::{Graph, Invalid, Kind, Seen, Uid, Work};
use monitors::First;

const WORKERS: usize = 20;
/// Owners that are remembered in [`Collector::freed`]; further ones wait until all kinds can be listed.
const FREED_MAX: usize = 10_000;

/// How much of the world is in the graph.
#[derive(Debug, PartialEq, Eq)]
enum Known {
    All,
    /// A first list is on its way.
    NotYet,
    /// A kind cannot be listed, and nobody knows whether it ever can (its conversion fails, its server is down).
    AllThatCanBe,
}

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let client = cx.client("generic-garbage-collector");
    let recorder = cx.recorder(&client, "garbage-collector-controller");
    let queue = WorkQueue::default();
    queue.measure(&cx.queues, Collector::QUEUE);
    let collector = Arc::new(Collector {
        client,
        recorder,
        graph: Mutex::default(),
        kinds: RwLock::default(),
        first_lists: Mutex::default(),
        freed: Mutex::default(),
        queue: queue.clone(),
    });
    if monitors::start(&cx, &collector).await {
        cx.work(collector, queue, WORKERS).await;
    }
}

struct Collector {
    client: Client,
    recorder: Recorder,
    graph: Mutex<Graph>,
    /// Where objects of a kind are served.
    kinds: RwLock<HashMap<Kind, Arc<Served>>>,
    /// Of monitors whose objects the graph may not know yet.
    first_lists: Mutex<Vec<First>>,
    /// Owners whose dependents were set free while a kind could not be listed: those of that kind are free, too, when they are
    /// seen at last.
    freed: Mutex<HashSet<Uid>>,
    queue: WorkQueue<Work>,
}

impl Collector {
    fn see(&self, seen: Seen) {
        let (mut work, mut invalid) = (Vec::new(), Vec::new());
        self.graph.lock().see(seen, &mut work, &mut invalid);
        work.into_iter().for_each(|w| self.queue.add(w));
        invalid.iter().for_each(|i| self.tell_invalid(i));
    }

    fn gone(&self, uid: &Uid) {
        let mut work = Vec::new();
        self.graph.lock().gone(uid, &mut work);
        work.into_iter().for_each(|w| self.queue.add(w));
    }

    fn tell_invalid(&self, invalid: &Invalid) {
        let Some(place) = self.graph.lock().node(&invalid.dependent).map(|n| n.place.clone()) else { return };
        let about = k8s_openapi::api::core::v1::ObjectReference {
            api_version: self.served(&place.kind).map(|s| s.api_version()),
            kind: Some(place.kind.kind.clone()),
            namespace: Some(place.namespace.to_string()).filter(|n| !n.is_empty()),
            name: Some(place.name.to_string()),
            uid: Some(invalid.dependent.to_string()),
            ..Default::default()
        };
        let (o, namespace) = (&invalid.owner, &invalid.namespace);
        let owner = format!("[{}/{}, namespace: {namespace}, name: {}, uid: {}]", o.api_version, o.kind.kind, o.name, o.uid);
        let message = format!("ownerRef {owner} does not exist in namespace {namespace:?}");
        self.recorder.event(&about, client::EventType::Warning, "OwnerRefInvalidNamespace", message);
    }

    /// Whether the graph knows the objects of every kind that is served. While it does not, an owner's dependents are not all
    /// known, and letting the owner go would delete those that are seen later.
    fn knows(&self) -> Known {
        let mut first = self.first_lists.lock();
        first.retain(|f| !f.of.is_cancelled() && !f.heard.is_complete());
        match first.iter().map(|f| f.since.elapsed()).min() {
            None => Known::All,
            Some(youngest) if youngest < monitors::SYNC_MAX => Known::NotYet,
            Some(_) => Known::AllThatCanBe,
        }
    }

    /// Notes that what refers to an owner is free, whenever it is seen. False if no more can be noted: then the owner must stay.
    fn note_freed(&self, owner: &Uid) -> bool {
        let mut freed = self.freed.lock();
        let noted = freed.len() < FREED_MAX || freed.contains(owner);
        if noted {
            freed.insert(owner.clone());
        }
        noted
    }

    fn is_freed(&self, owner: &Uid) -> bool {
        self.freed.lock().contains(owner)
    }

    fn served(&self, kind: &Kind) -> Option<Arc<Served>> {
        self.kinds.read().get(kind).cloned()
    }
}

impl Controller for Collector {
    const QUEUE: &'static str = "garbage_collector_attempt_to_delete";
    type Key = Work;

    async fn reconcile(&self, work: &Work) -> Step {
        match work {
            Work::Delete(uid) => self.attempt_delete(uid).await,
            Work::Orphan(uid) => self.orphan(uid).await,
        }
    }
}
