//! What is done for APIServices as time goes: one task for each that names a Service, which asks its server whether it is there,
//! what it serves, and how that is described; and one that starts and ends these, and keeps those that need nobody.
//!
//! Each task waits for its own server alone, so one that hangs costs nobody else anything. A task belongs to one object in one
//! specification: when that changes, is deleted, or another object takes the name, it is ended where it waits (a write that it
//! has begun it ends itself) and what it has said of the server goes with it. Nothing rests on an event alone: availability is
//! looked at every thirty seconds, what is served every minute, and local APIServices every minute.

use super::{
    Aggregation,
    availability::{self, API_SERVICES, Found, Pause, SERVICE_LABEL},
    catalog::{self, Known},
    openapi,
    remote::Remote,
};
use crate::{news::News, read::text, world::World};
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc, time::Duration};
use store::{Entry, Scope};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// How often all is looked at.
const EVERY: Duration = Duration::from_secs(60);

/// The task of one server.
struct Kept {
    remote: Arc<Remote>,
    /// It is another object's, or in another state: what it serves may have changed.
    changed: Arc<Notify>,
    stop: CancellationToken,
    /// Held while something is said of the server, and while the task is ended: what was ended says nothing any more.
    saying: Arc<Mutex<()>>,
}

impl Kept {
    fn end(&self) {
        let _saying = self.saying.lock();
        self.stop.cancel();
    }
}

/// Runs until the server ends.
pub(crate) async fn run(world: World, aggregation: Arc<Aggregation>) {
    let ending = world.ending().clone();
    let mut kept: HashMap<String, Kept> = HashMap::new();
    let work = async {
        loop {
            let mut services = News::new(&world, API_SERVICES, Scope::Bucket);
            settle(&world, &aggregation, &mut kept).await;
            let until = Instant::now() + EVERY;
            loop {
                tokio::select! {
                    _ = services.next() => {}
                    () = sleep_until(until) => break,
                }
                services.drain();
                settle(&world, &aggregation, &mut kept).await;
            }
        }
    };
    tokio::select! {
        () = ending.cancelled() => {}
        () = work => {}
    }
}

/// Starts and ends tasks, and says of those that need no server that they are there.
async fn settle(world: &World, aggregation: &Arc<Aggregation>, kept: &mut HashMap<String, Kept>) {
    let remotes = aggregation.remotes.at_once();
    kept.retain(|name, old| {
        let same = remotes.iter().any(|new| new.name == *name && new.is_same(&old.remote));
        if !same {
            old.end();
            aggregation.forget(name);
        }
        same
    });
    for remote in remotes.iter() {
        match kept.get_mut(&remote.name) {
            Some(old) => {
                if old.remote.available != remote.available {
                    old.changed.notify_waiters();
                }
                old.remote = Arc::clone(remote);
            }
            None => drop(kept.insert(remote.name.clone(), start(world, aggregation, remote))),
        }
    }
    for object in world.list(API_SERVICES, "").iter().filter(|object| object["spec"]["service"].is_null()) {
        let metadata = &object["metadata"];
        if let Err(error) = availability::say(world, text(metadata, "name"), text(metadata, "uid"), &Found::local()).await {
            tracing::warn!(name = text(metadata, "name"), %error, "the condition of an APIService could not be written");
        }
    }
}

fn start(world: &World, aggregation: &Arc<Aggregation>, remote: &Arc<Remote>) -> Kept {
    let kept = Kept { remote: Arc::clone(remote), changed: Arc::default(), stop: world.ending().child_token(), saying: Arc::default() };
    let task = Task {
        world: world.clone(),
        aggregation: Arc::clone(aggregation),
        remote: Arc::clone(remote),
        changed: Arc::clone(&kept.changed),
        stop: kept.stop.clone(),
        saying: Arc::clone(&kept.saying),
    };
    tokio::spawn(async move {
        tokio::join!(task.availability(), task.discovery(), task.documents());
    });
    kept
}

/// See [`Kept`].
struct Task {
    world: World,
    aggregation: Arc<Aggregation>,
    remote: Arc<Remote>,
    changed: Arc<Notify>,
    stop: CancellationToken,
    saying: Arc<Mutex<()>>,
}

impl Task {
    /// What is waited for, unless the task ends before that.
    async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            done = work => Some(done),
        }
    }

    async fn availability(&self) {
        let (remote, world) = (&self.remote, &self.world);
        let backend = &remote.backend;
        let service = world.expect_row(("", "v1", "services")).map(|row| row.resource.key(&backend.namespace, &backend.service));
        let slices = world.expect_row(("discovery.k8s.io", "v1", "endpointslices")).map(|row| format!("{}{}/", row.root_key, backend.namespace));
        let (Ok(service), Ok(slices)) = (service, slices) else { return };
        let mut services = News::new(world, ("", "v1", "services"), Scope::Object(service));
        let mut slices = News::new(world, ("discovery.k8s.io", "v1", "endpointslices"), Scope::Namespace(slices));
        let mut pause = Pause::default();
        loop {
            // Whoever has changed what was said of it is told again at once.
            let changed = self.changed.notified();
            services.drain();
            slices.drain();
            let Some(found) = self.unless_stopped(availability::check(world, remote)).await else { return };
            let said = availability::say(world, &remote.name, &remote.uid, &found).await;
            if let Err(error) = &said {
                tracing::warn!(name = remote.name, %error, "the condition of an APIService could not be written");
            }
            let wait = if said.is_err() || found.is_failure() {
                pause.next()
            } else {
                pause.forget();
                availability::EVERY
            };
            let news = async {
                tokio::select! {
                    _ = services.next() => {}
                    () = slices.of_service(&backend.service) => {}
                    () = changed => {}
                    () = sleep(wait) => {}
                }
            };
            if self.unless_stopped(news).await.is_none() {
                return;
            }
        }
    }

    async fn discovery(&self) {
        let mut known = Known::default();
        let mut wait = catalog::RETRY_MIN;
        // Until it has been asked, that there is such a version is all that is known.
        let unasked = catalog::Entry::new(&self.remote, Err(""));
        self.unless_forgotten(|| self.aggregation.catalog.set(&self.remote.name, Some(unasked)));
        loop {
            let changed = self.changed.notified();
            let Some(said) = self.unless_stopped(catalog::ask(&self.world, &self.remote, &mut known)).await else { return };
            if let Err(why) = &said {
                tracing::debug!(name = self.remote.name, why, "an aggregated server does not say what it serves");
            }
            let entry = catalog::Entry::new(&self.remote, said.as_ref().map_err(String::as_str));
            self.unless_forgotten(|| self.aggregation.catalog.set(&self.remote.name, Some(entry)));
            let (pause, after) = match said {
                Ok(_) => (catalog::EVERY, catalog::RETRY_MIN),
                Err(_) => (wait, (wait * 2).min(catalog::EVERY)),
            };
            wait = after;
            let next = async {
                tokio::select! {
                    () = changed => true,
                    () = sleep(pause) => false,
                }
            };
            match self.unless_stopped(next).await {
                None => return,
                Some(true) => wait = catalog::RETRY_MIN,
                Some(false) => {}
            }
        }
    }

    async fn documents(&self) {
        let mut known = openapi::Known::default();
        let mut wait = openapi::FIRST;
        let mut failing = true;
        loop {
            // One that failed is asked again soon after something has changed.
            let due = async {
                tokio::select! {
                    () = sleep(wait) => {}
                    () = self.changed.notified(), if failing => sleep(openapi::FIRST).await,
                }
            };
            if self.unless_stopped(due).await.is_none() {
                return;
            }
            let Some(said) = self.unless_stopped(openapi::ask(&self.world, &self.remote, &known)).await else { return };
            failing = said.is_err();
            match said {
                Ok(said) => {
                    known = said.clone();
                    self.unless_forgotten(|| self.aggregation.descriptions.set(&self.remote, said));
                    wait = openapi::EVERY;
                }
                Err(why) => {
                    tracing::debug!(name = self.remote.name, why, "an aggregated server does not describe what it serves");
                    wait = (wait * 2).clamp(openapi::EVERY, openapi::RETRY_MAX);
                }
            }
        }
    }

    /// Says something of the server, unless it has been forgotten.
    fn unless_forgotten(&self, say: impl FnOnce()) {
        let _saying = self.saying.lock();
        if !self.stop.is_cancelled() {
            say();
        }
    }
}

impl News {
    /// The next change of a slice that is of this Service.
    async fn of_service(&mut self, service: &str) {
        loop {
            let Some(event) = self.next().await else { return };
            let states = [&event.new, &event.old];
            let Some(row) = self.row() else { return };
            let is_its = |entry: &Arc<Entry>| entry.attributes(|value| row.fields()(value)).label(SERVICE_LABEL) == Some(service);
            if states.into_iter().flatten().any(is_its) {
                return;
            }
        }
    }
}
