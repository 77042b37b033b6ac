//! What a kind's objects say to admission, compiled once and known at once.

use arc_swap::ArcSwap;
use machinery::Value;
use parking_lot::Mutex;
use std::{collections::HashMap, fmt, sync::Arc};
use store::{Bucket, Store};

type Compile<T> = dyn Fn(&Value) -> Vec<T> + Send + Sync;

/// The compiled form of all objects of a bucket.
pub(crate) struct Source<T> {
    store: Store,
    bucket: Bucket,
    compile: Box<Compile<T>>,
    state: ArcSwap<State<T>>,
    /// Held while a new state is made, so that many requests make one.
    making: Mutex<()>,
}

/// What an object says, with the revision that says it.
type Said<T> = (u64, Arc<Vec<Arc<T>>>);

struct State<T> {
    /// The bucket's last revision when this was made.
    mark: u64,
    objects: HashMap<Arc<str>, Said<T>>,
    all: Arc<Vec<Arc<T>>>,
}

impl<T> fmt::Debug for Source<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("bucket", &self.bucket.prefix()).finish_non_exhaustive()
    }
}

impl<T> Source<T> {
    pub(crate) fn new(store: &Store, prefix: &str, compile: impl Fn(&Value) -> Vec<T> + Send + Sync + 'static) -> Source<T> {
        Source {
            bucket: store.bucket(prefix),
            store: store.clone(),
            compile: Box::new(compile),
            state: ArcSwap::from_pointee(State { mark: 0, objects: HashMap::new(), all: Arc::default() }),
            making: Mutex::new(()),
        }
    }

    /// What all objects say now, in the order of their names.
    pub(crate) fn all(&self) -> Arc<Vec<Arc<T>>> {
        let state = self.state.load();
        if state.mark == self.bucket.last_revision() {
            return Arc::clone(&state.all);
        }
        drop(state);
        let _making = self.making.lock();
        let old = self.state.load_full();
        // Before the objects are read: what changes meanwhile is seen next time.
        let mark = self.bucket.last_revision();
        if old.mark == mark {
            return Arc::clone(&old.all);
        }
        let Some(snapshot) = self.store.snapshot(&self.bucket, None) else { return Arc::clone(&old.all) };
        let mut objects = HashMap::new();
        let mut all = Vec::new();
        for entry in snapshot.range(self.bucket.prefix(), "") {
            let kept = old.objects.get(&entry.key).filter(|(revision, _)| *revision == entry.revision);
            let compiled = kept
                .map_or_else(|| Arc::new((self.compile)(&entry.value()).into_iter().map(Arc::new).collect::<Vec<_>>()), |(_, compiled)| Arc::clone(compiled));
            all.extend(compiled.iter().cloned());
            objects.insert(Arc::clone(&entry.key), (entry.revision, compiled));
        }
        let all = Arc::new(all);
        self.state.store(Arc::new(State { mark, objects, all: Arc::clone(&all) }));
        all
    }
}
