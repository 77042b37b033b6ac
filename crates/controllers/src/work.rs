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

use client::{Client, Delta, Informer, Informers, Object, Recorder, WorkQueue};
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

    /// Tells `heard` of the object of every change, whatever the change.
    pub(crate) fn listen_any<K: Object>(&self, informer: &Informer<K>, mut heard: impl FnMut(&Arc<K>) + Send + 'static) {
        self.listen(informer, move |change| heard(change.object()));
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

/// Waits until all these informers hold their first list.
macro_rules! synced {
    ($($informer:expr),+ $(,)?) => {{ $($informer.synced().await;)+ }};
}
pub(crate) use synced;
