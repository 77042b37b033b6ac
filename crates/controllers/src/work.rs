//! The loop that all controllers share: keys come from changes, each is worked on by one task at a time, a failure comes
//! back later.
//!
//! A controller is level-triggered: [`Controller::reconcile`] gets a key, reads the world from the informers and moves it
//! one step closer to what is wished. It may run twice or after a crash at any point. Idle, a controller costs one waiting
//! task and one for each kind that it listens to.
//!
//! The first step comes when every listener has *heard* the first list of its kind, not only when that is in memory: what a
//! controller keeps from what it heard (a graph, zones, expectations) is whole by then. A listener that panics would leave
//! its controller deaf for half a day: it ends all controllers, and their supervisor begins anew. A step that panics is a
//! failed step.
//!
//! **The last net.** Once or twice a day each listener hears all objects of its kind as changed to what they are ([`RESYNC`]),
//! as the original's informers have it: what a listener should have made of an event and did not is made up for then, unless it
//! asks what has changed and hears that nothing has. No controller relies on it for what can happen while everything works as
//! it is meant to; where one relied on a shorter period of the original's, its own head says what takes that place.

use std::fmt::Debug;
use std::future::Future;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;
use std::time::Duration;

use client::{Backoff, Client, Delta, Informer, Informers, Object, ObjectKey, QueueMetrics, Recorder, WorkQueue};
use futures_util::future::{BoxFuture, FutureExt};
use instruments::Registry;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Config;

/// The least time after which all objects of a kind are heard again (upstream `--min-resync-period`); each listener takes up to
/// twice as long, so that they do not all come at once.
const RESYNC: Duration = Duration::from_secs(12 * 60 * 60);

/// A listener's own period.
fn resync() -> Duration {
    // Every state of hashing is seeded anew.
    let spread = RandomState::new().hash_one(()) % RESYNC.as_secs();
    RESYNC + Duration::from_secs(spread)
}

/// The result of one step: when to look again if nothing changes before.
pub(crate) type Step = client::Result<Option<Duration>>;

/// Moves the world, one key at a time.
pub(crate) trait Controller: Send + Sync + 'static {
    /// The queue's name in metrics: the original's, where it has such a queue.
    const QUEUE: &'static str;
    /// How long a key waits after a failure, where the original's is not the usual.
    const BACKOFF: Backoff = Backoff::USUAL;
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
    /// Told of what must not be lived on with.
    pub(crate) fatal: mpsc::UnboundedSender<String>,
    /// What is counted of all queues.
    pub(crate) queues: QueueMetrics,
}

/// What a controller's requests say that they come from: the part before the first slash is the manager of fields.
pub(crate) fn user_agent(account: &str) -> String {
    format!("kube-controller-manager/knarr/system:serviceaccount:kube-system:{account}")
}

impl Cx {
    /// The client of a controller's service account. It says of itself what the original's says, so what it writes has the manager
    /// that others name when they leave such fields alone, or read in a conflict.
    pub(crate) fn client(&self, account: &str) -> Client {
        (self.client_for)(account).user_agent(&user_agent(account))
    }

    /// Where what a controller counts is told.
    pub(crate) fn metrics(&self) -> &Registry {
        &self.config.metrics
    }

    /// Events as this component tells them.
    pub(crate) fn recorder(&self, client: &Client, component: &str) -> Recorder {
        Recorder::new(client.clone(), component, "")
    }

    /// Tells `heard` of every change until the end, the present state first. What is returned waits until all of the first
    /// list was heard.
    pub(crate) fn listen<K: Object>(&self, informer: &Informer<K>, heard: impl FnMut(Delta<K>) + Send + 'static) -> Heard {
        let (first, done) = watch::channel(false);
        self.attend(hear(informer.clone(), Box::new(heard), first).boxed(), std::any::type_name::<K>());
        Heard(done)
    }

    /// Runs a listener until the end. Boxed: a task of its own type for each of a hundred listeners is a megabyte of program.
    fn attend(&self, hear: BoxFuture<'static, ()>, kind: &'static str) {
        let (shutdown, fatal) = (self.shutdown.clone(), self.fatal.clone());
        let hear = tokio::spawn(async move {
            shutdown.run_until_cancelled(hear).await;
        });
        tokio::spawn(async move {
            if let Err(error) = hear.await
                && error.is_panic()
            {
                // Nobody hears it any more: then all is ending anyway.
                let _ = fatal.send(format!("what listens to {kind} panicked"));
            }
        });
    }

    /// Begins to set a controller up.
    pub(crate) fn setup<C: Controller>(&self, controller: &Arc<C>) -> Setup<C> {
        self.setup_with(WorkQueue::new(C::BACKOFF), controller)
    }

    /// Begins to set a controller up that queues keys by itself, too.
    pub(crate) fn setup_with<C: Controller>(&self, queue: WorkQueue<C::Key>, controller: &Arc<C>) -> Setup<C> {
        queue.measure(&self.queues, C::QUEUE);
        Setup { cx: self.clone(), controller: controller.clone(), queue, first_lists: Vec::new() }
    }

    /// Works on keys of the queue, at most `workers` at once, until the end.
    pub(crate) async fn work<C: Controller>(&self, controller: Arc<C>, queue: WorkQueue<C::Key>, workers: usize) {
        let permits = Arc::new(Semaphore::new(workers));
        while let Some(Some(key)) = self.shutdown.run_until_cancelled(queue.get()).await {
            let Ok(permit) = permits.clone().acquire_owned().await else { break };
            let (controller, queue, shutdown) = (controller.clone(), queue.clone(), self.shutdown.clone());
            let step = async move {
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
            };
            tokio::spawn(step.boxed());
        }
        queue.shut_down();
    }
}

/// Tells `heard` of the present state, then of every change, and now and then of all again.
async fn hear<K: Object>(informer: Informer<K>, mut heard: Box<dyn FnMut(Delta<K>) + Send>, first: watch::Sender<bool>) {
    tokio::select! { () = informer.synced() => {}, () = informer.ended() => return }
    let mut changes = informer.subscribe();
    for _ in 0..changes.len() {
        if let Some(change) = changes.recv().await {
            heard(change);
        }
    }
    first.send_replace(true);
    let every = resync();
    let mut again = tokio::time::interval_at(Instant::now() + every, every);
    loop {
        tokio::select! {
            biased;
            change = changes.recv() => match change {
                Some(change) => heard(change),
                None => return,
            },
            () = informer.ended() => return,
            _ = again.tick() => for object in informer.list() {
                heard(Delta::Updated { old: object.clone(), new: object });
                // A hundred thousand are not heard in one piece: others have the same threads.
                tokio::task::coop::consume_budget().await;
            },
        }
    }
}

/// A key that is worked on; dropping gives it back.
struct Given<'q, T: Clone + Eq + Hash> {
    queue: &'q WorkQueue<T>,
    key: T,
}

impl<T: Clone + Eq + Hash> Drop for Given<'_, T> {
    fn drop(&mut self) {
        // It is not told why it failed, but it is not forgotten either.
        if std::thread::panicking() {
            self.queue.add_rate_limited(self.key.clone());
        }
        self.queue.done(&self.key);
    }
}

/// Waits until a listener has heard the whole first list.
#[derive(Clone)]
pub(crate) struct Heard(watch::Receiver<bool>);

impl Heard {
    pub(crate) fn is_complete(&self) -> bool {
        *self.0.borrow()
    }

    /// One of a list that is heard when the sender says so.
    #[cfg(test)]
    pub(crate) fn fake() -> (watch::Sender<bool>, Self) {
        let (sender, heard) = watch::channel(false);
        (sender, Heard(heard))
    }

    pub(crate) async fn complete(&mut self) {
        // An error means that the listener ended: nothing more will be heard, and the caller's own token says so too.
        if self.0.wait_for(|heard| *heard).await.is_err() {
            std::future::pending::<()>().await;
        }
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
    pub(crate) fn on<K: Object>(mut self, informer: &Informer<K>, heard: impl Fn(&C, &WorkQueue<C::Key>, &Delta<K>) + Send + 'static) -> Self {
        let (controller, queue) = (self.controller.clone(), self.queue.clone());
        let mut heard = self.cx.listen(informer, move |change| heard(&controller, &queue, &change));
        self.first_lists.push(Box::pin(async move { heard.complete().await }));
        self
    }

    /// Waits for what the controller reads without hearing of its changes.
    pub(crate) fn reads<K: Object>(mut self, informer: &Informer<K>) -> Self {
        let informer = informer.clone();
        self.first_lists.push(Box::pin(async move { informer.synced().await }));
        self
    }

    /// Works on keys, at most `workers` at once, until the end; first waits until all first lists were heard or are in memory.
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use client::{Body, Transport};
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    /// A server that never answers.
    struct Silent;

    impl Transport for Silent {
        fn send(&self, _: http::Request<Bytes>) -> BoxFuture<'static, client::Result<http::Response<Body>>> {
            Box::pin(std::future::pending())
        }
    }

    fn cx() -> (Cx, mpsc::UnboundedReceiver<String>) {
        let (fatal, told) = mpsc::unbounded_channel();
        let client = Client::new(Arc::new(Silent));
        let shutdown = CancellationToken::new();
        let informers = Informers::new(client.clone(), shutdown.clone());
        let queues = QueueMetrics::new(&instruments::Registry::default());
        (Cx { config: Arc::default(), informers, shutdown, client_for: Arc::new(move |_| client.clone()), fatal, queues }, told)
    }

    fn maps(count: usize) -> Informer<ConfigMap> {
        let map = |n: usize| ConfigMap { metadata: crate::meta::new_meta("n", &n.to_string()), ..ConfigMap::default() };
        Informer::fixed((0..count).map(map))
    }

    #[tokio::test]
    async fn a_first_list_is_complete_when_it_was_heard() {
        let (cx, _told) = cx();
        let count = Arc::new(AtomicUsize::new(0));
        let heard = count.clone();
        let mut first = cx.listen(&maps(50), move |_| {
            heard.fetch_add(1, Ordering::Relaxed);
        });
        assert!(!first.is_complete(), "it is in memory, but nobody has heard it");
        first.complete().await;
        assert_eq!(count.load(Ordering::Relaxed), 50);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_heard_is_heard_again_within_a_day() {
        let (cx, _told) = cx();
        let (heard, mut told) = mpsc::unbounded_channel();
        let mut first = cx.listen(&maps(1), move |change| {
            let _ = heard.send(matches!(change, Delta::Updated { old, new } if Arc::ptr_eq(&old, &new)));
        });
        first.complete().await;
        assert_eq!(told.recv().await, Some(false), "it was added");
        let before = Instant::now();
        assert_eq!(told.recv().await, Some(true));
        assert!((RESYNC..2 * RESYNC).contains(&before.elapsed()), "{:?}", before.elapsed());
        assert_eq!(told.recv().await, Some(true), "and again");
        cx.shutdown.cancel();
        assert_eq!(told.recv().await, None);
    }

    #[tokio::test]
    async fn a_listener_that_panics_is_told() {
        let (cx, mut told) = cx();
        cx.listen(&maps(1), |_| panic!("on purpose"));
        assert!(told.recv().await.is_some_and(|t| t.contains("ConfigMap")));
    }

    struct Falls {
        steps: AtomicUsize,
        done: tokio::sync::Notify,
    }

    impl Controller for Falls {
        const QUEUE: &'static str = "falls";
        const BACKOFF: Backoff = Backoff { base: Duration::from_secs(3), max: Duration::from_secs(30) };
        type Key = u32;

        async fn reconcile(&self, _: &u32) -> Step {
            assert!(self.steps.fetch_add(1, Ordering::Relaxed) > 0, "the first time, on purpose");
            self.done.notify_one();
            Ok(None)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_that_panics_is_tried_again_after_its_controllers_pause() {
        let (cx, _told) = cx();
        let falls = Arc::new(Falls { steps: AtomicUsize::new(0), done: tokio::sync::Notify::new() });
        let setup = cx.setup(&falls);
        setup.queue.add(7);
        let began = Instant::now();
        let work = tokio::spawn(setup.work(1));
        falls.done.notified().await;
        assert!(began.elapsed() >= Falls::BACKOFF.base, "after the pause of its controller");
        assert_eq!(falls.steps.load(Ordering::Relaxed), 2);
        cx.shutdown.cancel();
        assert!(work.await.is_ok());
    }
}
