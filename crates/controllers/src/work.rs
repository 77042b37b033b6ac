//! The loop that all controllers share: keys come from changes, each is worked on by one task at a time, a failure comes
//! back later.
//!
//! A controller is level-triggered: [`Controller::reconcile`] gets a key, reads the world from the informers and moves it
//! one step closer to what is wished. It may run twice or after a crash at any point. Idle, a controller costs one waiting
//! task and one for each kind that it listens to.

use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use client::{Client, Delta, Informer, Informers, Object, ObjectKey, Recorder, WorkQueue};
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::Config;

/// The result of one step: when to look again if nothing changes before.
pub(crate) type Step = client::Result<Option<Duration>>;

/// Moves the world, one key at a time.
pub(crate) trait Controller: Send + Sync + 'static {
    /// What is worked on: most often an object's key.
    type Key: Clone + Eq + Hash + Debug + Send + Sync + 'static;

    /// Moves what the key names one step closer to what is wished.
    fn reconcile(&self, key: &Self::Key) -> impl Future<Output = Step> + Send;
}

/// What a controller is started with.
#[derive(Clone)]
pub(crate) struct Cx {
    pub(crate) config: Arc<Config>,
    pub(crate) informers: Informers,
    pub(crate) shutdown: CancellationToken,
    pub(crate) client_for: Arc<dyn Fn(&str) -> Client + Send + Sync>,
}

impl Cx {
    /// The client of a controller's service account.
    pub(crate) fn client(&self, account: &str) -> Client {
        (self.client_for)(account)
    }

    /// Events as this component tells them.
    pub(crate) fn recorder(&self, client: &Client, component: &str) -> Recorder {
        Recorder::new(client.clone(), component, "")
    }

    /// Tells `heard` of every change until the end, the present state first.
    pub(crate) fn listen<K: Object>(&self, informer: &Informer<K>, mut heard: impl FnMut(Delta<K>) + Send + 'static) {
        let mut changes = informer.subscribe();
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            let hear = async {
                while let Some(change) = changes.recv().await {
                    heard(change);
                }
            };
            shutdown.run_until_cancelled(hear).await;
        });
    }

    /// Begins to set a controller up.
    pub(crate) fn setup<C: Controller>(&self, controller: &Arc<C>) -> Setup<C> {
        self.setup_with(WorkQueue::default(), controller)
    }

    /// Begins to set a controller up that queues keys by itself, too.
    pub(crate) fn setup_with<C: Controller>(&self, queue: WorkQueue<C::Key>, controller: &Arc<C>) -> Setup<C> {
        Setup { cx: self.clone(), controller: controller.clone(), queue, first_lists: Vec::new() }
    }

    /// Works on keys of the queue, at most `workers` at once, until the end.
    pub(crate) async fn work<C: Controller>(&self, controller: Arc<C>, queue: WorkQueue<C::Key>, workers: usize) {
        let permits = Arc::new(Semaphore::new(workers));
        while let Some(Some(key)) = self.shutdown.run_until_cancelled(queue.get()).await {
            let Ok(permit) = permits.clone().acquire_owned().await else { break };
            let (controller, queue, shutdown) = (controller.clone(), queue.clone(), self.shutdown.clone());
            tokio::spawn(async move {
                let _permit = permit;
                // Also if the work panics: else the key would never be worked on again.
                let given = Given { queue: &queue, key };
                match shutdown.run_until_cancelled(Box::pin(controller.reconcile(&given.key))).await {
                    None => {}
                    Some(Ok(again)) => {
                        queue.forget(&given.key);
                        if let Some(after) = again {
                            queue.add_after(given.key.clone(), after);
                        }
                    }
                    Some(Err(error)) => {
                        let name = std::any::type_name::<C>().rsplit("::").next().unwrap_or_default();
                        tracing::debug!(controller = name, key = ?given.key, %error, "will be tried again");
                        queue.add_rate_limited(given.key.clone());
                    }
                }
            });
        }
        queue.shut_down();
    }
}

/// A key that is worked on; dropping gives it back.
struct Given<'q, T: Clone + Eq + Hash> {
    queue: &'q WorkQueue<T>,
    key: T,
}

impl<T: Clone + Eq + Hash> Drop for Given<'_, T> {
    fn drop(&mut self) {
        self.queue.done(&self.key);
    }
}

/// A controller that is being set up: what it hears of, and what it must have read before its first step.
pub(crate) struct Setup<C: Controller> {
    cx: Cx,
    controller: Arc<C>,
    queue: WorkQueue<C::Key>,
    first_lists: Vec<BoxFuture<'static, ()>>,
}

impl<C: Controller> Setup<C> {
    /// Tells `heard` of every change, the present state first.
    pub(crate) fn on<K: Object>(self, informer: &Informer<K>, heard: impl Fn(&C, &WorkQueue<C::Key>, &Delta<K>) + Send + 'static) -> Self {
        let (controller, queue) = (self.controller.clone(), self.queue.clone());
        self.cx.listen(informer, move |change| heard(&controller, &queue, &change));
        self.reads(informer)
    }

    /// Waits for what the controller reads without hearing of its changes.
    pub(crate) fn reads<K: Object>(mut self, informer: &Informer<K>) -> Self {
        let informer = informer.clone();
        self.first_lists.push(Box::pin(async move { informer.synced().await }));
        self
    }

    /// Works on keys, at most `workers` at once, until the end; first waits until all informers hold their first list.
    pub(crate) async fn work(self, workers: usize) {
        for first_list in self.first_lists {
            first_list.await;
        }
        self.cx.work(self.controller, self.queue, workers).await;
    }
}

/// What changed is what is worked on.
pub(crate) fn itself<C: Controller<Key = ObjectKey>, K: Object>(_: &C, queue: &WorkQueue<ObjectKey>, change: &Delta<K>) {
    queue.add(change.object().key());
}
