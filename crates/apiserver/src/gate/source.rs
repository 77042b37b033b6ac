//! What a kind's objects say to admission, and before them what files say ([`super::manifests`]), compiled once and known at once.
//!
//! Compiling takes as long as whoever wrote the objects wants: it runs on the threads for heavy work, once for each state of the
//! objects, whoever waits for it or ceases to. Requests that meet it wait as they wait for a webhook.

use crate::offload;
use arc_swap::ArcSwap;
use machinery::Value;
use parking_lot::Mutex;
use std::{collections::HashMap, fmt, sync::Arc};
use store::{Bucket, Store};

type Compile<T> = dyn Fn(&Value) -> Vec<T> + Send + Sync;

/// The compiled form of all objects of a bucket.
pub(crate) struct Source<T>(Arc<Inner<T>>);

struct Inner<T> {
    store: Store,
    bucket: Bucket,
    compile: Box<Compile<T>>,
    arrange: fn(&mut [Arc<T>]),
    /// What is told beside the objects, before them.
    manifests: ArcSwap<Vec<Value>>,
    state: ArcSwap<State<T>>,
    /// Held while a new state is made, so that many requests make one: by who waits for it to be made elsewhere, and by who makes it.
    waiting: tokio::sync::Mutex<()>,
    making: Mutex<()>,
}

/// What an object says, with the revision that says it.
type Said<T> = (u64, Arc<Vec<Arc<T>>>);

struct State<T> {
    /// The bucket's last revision when this was made.
    mark: u64,
    /// What was given, and what it says.
    manifests: Arc<Vec<Value>>,
    given: Arc<Vec<Arc<T>>>,
    objects: HashMap<Arc<str>, Said<T>>,
    all: Arc<Vec<Arc<T>>>,
}

impl<T> fmt::Debug for Source<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("bucket", &self.0.bucket.prefix()).finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> Source<T> {
    /// What is told in the order of the objects' names.
    pub(crate) fn new(store: &Store, prefix: &str, compile: impl Fn(&Value) -> Vec<T> + Send + Sync + 'static) -> Source<T> {
        Source::arranged(store, prefix, compile, |_| {})
    }

    /// What is told in an order that `arrange` makes of that of the objects' names.
    pub(crate) fn arranged(store: &Store, prefix: &str, compile: impl Fn(&Value) -> Vec<T> + Send + Sync + 'static, arrange: fn(&mut [Arc<T>])) -> Source<T> {
        let manifests: Arc<Vec<Value>> = Arc::default();
        let state = State { mark: 0, manifests: Arc::clone(&manifests), given: Arc::default(), objects: HashMap::new(), all: Arc::default() };
        Source(Arc::new(Inner {
            bucket: store.bucket(prefix),
            store: store.clone(),
            compile: Box::new(compile),
            arrange,
            manifests: ArcSwap::new(manifests),
            state: ArcSwap::from_pointee(state),
            waiting: tokio::sync::Mutex::new(()),
            making: Mutex::new(()),
        }))
    }

    /// What all say now, in their order: those that were given, and the objects.
    pub(crate) async fn all(&self) -> Arc<Vec<Arc<T>>> {
        self.settle().await;
        Arc::clone(&self.0.state.load().all)
    }

    /// The same of those alone that were given.
    pub(crate) async fn given(&self) -> Arc<Vec<Arc<T>>> {
        self.settle().await;
        Arc::clone(&self.0.state.load().given)
    }

    async fn settle(&self) {
        if self.0.is_known() {
            return;
        }
        let inner = Arc::clone(&self.0);
        // A task of its own: what is half made is needed by the next one, whether this one still waits or not.
        let made = tokio::spawn(async move {
            let _waiting = inner.waiting.lock().await;
            if !inner.is_known() {
                let inner = Arc::clone(&inner);
                offload::call(move || inner.make()).await;
            }
        });
        // Nobody aborts it: else the runtime ends, and with it whoever asks.
        if let Err(error) = offload::resting(made).await
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl<T> Source<T> {
    /// The same of objects of which each takes a moment: they are compiled here.
    pub(crate) fn at_once(&self) -> Arc<Vec<Arc<T>>> {
        self.0.make();
        Arc::clone(&self.0.state.load().all)
    }

    /// What is told before the objects from now on, in the place of what was given before.
    pub(crate) fn give(&self, manifests: Vec<Value>) {
        self.0.manifests.store(Arc::new(manifests));
    }
}

impl<T> Inner<T> {
    /// Whether what was made says what the objects say now.
    fn is_known(&self) -> bool {
        let state = self.state.load();
        state.mark == self.bucket.last_revision() && Arc::ptr_eq(&state.manifests, &self.manifests.load())
    }

    fn make(&self) {
        if self.is_known() {
            return;
        }
        let _making = self.making.lock();
        if self.is_known() {
            return;
        }
        let old = self.state.load_full();
        // Before the objects are read: what changes meanwhile is seen next time.
        let (mark, manifests) = (self.bucket.last_revision(), self.manifests.load_full());
        let Some(snapshot) = self.store.snapshot(&self.bucket, None) else { return };
        let given = match Arc::ptr_eq(&manifests, &old.manifests) {
            true => Arc::clone(&old.given),
            false => {
                let mut given: Vec<Arc<T>> = manifests.iter().flat_map(|value| (self.compile)(value)).map(Arc::new).collect();
                (self.arrange)(&mut given);
                Arc::new(given)
            }
        };
        let mut objects = HashMap::new();
        let mut all = given.to_vec();
        for entry in snapshot.range(self.bucket.prefix(), "") {
            let kept = old.objects.get(&entry.key).filter(|(revision, _)| *revision == entry.revision);
            let compiled = kept
                .map_or_else(|| Arc::new((self.compile)(&entry.value()).into_iter().map(Arc::new).collect::<Vec<_>>()), |(_, compiled)| Arc::clone(compiled));
            all.extend(compiled.iter().cloned());
            objects.insert(Arc::clone(&entry.key), (entry.revision, compiled));
        }
        (self.arrange)(&mut all);
        self.state.store(Arc::new(State { mark, manifests, given, objects, all: Arc::new(all) }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::{
        sync::{
            atomic::{AtomicUsize, Ordering},
            mpsc,
        },
        time::Duration,
    };
    use store::{Draft, Expect, Options};

    /// While one object is compiled at length, the only worker goes on, and however many wait for it: it is compiled once, and those
    /// that do not wait any more change nothing.
    #[tokio::test]
    async fn compiling_keeps_no_worker() {
        let store = Store::in_memory(&Options::default()).expect("a store");
        let (go, gone) = mpsc::channel::<()>();
        let (gone, times) = (Mutex::new(gone), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&times);
        let source = Arc::new(Source::new(&store, "/registry/things/", move |value| {
            counted.fetch_add(1, Ordering::Relaxed);
            let _ = gone.lock().recv();
            vec![value["spec"].as_u64()]
        }));
        assert!(source.all().await.is_empty());
        let bucket = store.bucket("/registry/things/");
        let thing = Draft::new(json!({"metadata": {"name": "a"}, "spec": 1}), None, Vec::new());
        store.put(&bucket, "/registry/things/a", Expect::Absent, thing).await.expect("stored");
        let waiting: Vec<_> = (0..20)
            .map(|_| {
                tokio::spawn({
                    let source = Arc::clone(&source);
                    async move { source.all().await }
                })
            })
            .collect();
        let impatient = tokio::time::timeout(Duration::from_millis(50), source.all()).await;
        assert!(impatient.is_err(), "the worker is free to see that the time is over");
        go.send(()).expect("it is compiled");
        drop(go);
        for one in waiting {
            assert_eq!(*one.await.expect("an answer")[0], Some(1));
        }
        assert_eq!(source.all().await.len(), 1);
        assert_eq!(times.load(Ordering::Relaxed), 1);
        // What is given comes before the objects, which are not compiled again for it.
        source.give(vec![json!({"spec": 7}), json!({"spec": 8})]);
        let told = |all: Arc<Vec<Arc<Option<u64>>>>| all.iter().filter_map(|one| **one).collect::<Vec<_>>();
        assert_eq!((told(source.all().await), told(source.given().await)), (vec![7, 8, 1], vec![7, 8]));
        assert_eq!(times.load(Ordering::Relaxed), 3);
    }
}
