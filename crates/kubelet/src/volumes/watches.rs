//! Watches on what running pods show: ConfigMaps and Secrets, each by its name alone, the bundles of trust anchors, and the requests for
//! this node's pods' certificates.
//!
//! One watch per object (one for all bundles, one for all requests), however many pods use it, ended with the last of them. A pulse tells the pods that their volumes are
//! stale; they read the object themselves, so a lost or doubled pulse does no harm.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use parking_lot::Mutex;

use crate::api::{RefKind, SharedApi};
use crate::cri::PodUid;

/// A watch that stood so long was none that failed: the next begins without a wait.
const STOOD: Duration = Duration::from_secs(10);
/// First and longest wait before a broken watch is begun anew.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(30);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Object(RefKind, String, String),
    TrustBundles,
    CertificateRequests,
}

/// Told which pod's volumes are stale.
pub type Stale = Arc<dyn Fn(&PodUid) + Send + Sync>;

struct Watch {
    users: HashSet<PodUid>,
    task: tokio::task::AbortHandle,
}

/// All watches of this kubelet.
#[derive(Clone)]
pub struct Watches {
    api: SharedApi,
    stale: Stale,
    open: Arc<Mutex<HashMap<Key, Watch>>>,
}

impl Watches {
    /// No watches yet; `stale` is called from the watch's task.
    #[must_use]
    pub fn new(api: SharedApi, stale: Stale) -> Self {
        Self { api, stale, open: Arc::default() }
    }

    /// Has `pod` told of the object's changes too, if it is watched; false if it is not.
    #[must_use]
    pub fn join(&self, pod: &PodUid, kind: RefKind, namespace: &str, name: &str) -> bool {
        let key = Key::Object(kind, namespace.to_owned(), name.to_owned());
        match self.open.lock().get_mut(&key) {
            Some(w) => {
                w.users.insert(pod.clone());
                true
            }
            None => false,
        }
    }

    /// Sees to it that `pod` is told of changes of the object after `revision`. Another pod may have begun the watch in the
    /// meantime, from a later revision: then `pod` looks once more.
    pub fn watch(&self, pod: PodUid, kind: RefKind, namespace: &str, name: &str, revision: &str) {
        let key = Key::Object(kind, namespace.to_owned(), name.to_owned());
        self.open(pod, key, || follow(self.clone(), kind, namespace.to_owned(), name.to_owned(), revision.to_owned()));
    }

    /// Sees to it that `pod` is told of changes of the bundles of trust anchors.
    pub fn watch_trust_bundles(&self, pod: PodUid) {
        self.open(pod, Key::TrustBundles, || follow_trust_bundles(self.clone()));
    }

    /// Sees to it that `pod` is told of changes of its own requests for certificates.
    pub fn watch_certificate_requests(&self, pod: PodUid) {
        self.open(pod, Key::CertificateRequests, || follow_certificate_requests(self.clone()));
    }

    fn open<F: Future<Output = ()> + Send + 'static>(&self, pod: PodUid, key: Key, task: impl FnOnce() -> F) {
        let mut open = self.open.lock();
        if let Some(w) = open.get_mut(&key) {
            let new = w.users.insert(pod.clone());
            drop(open);
            if new {
                (self.stale)(&pod);
            }
            return;
        }
        let task = tokio::spawn(task()).abort_handle();
        open.insert(key, Watch { users: HashSet::from([pod]), task });
    }

    /// The pod is gone.
    pub fn release(&self, pod: &PodUid) {
        self.open.lock().retain(|_, w| {
            w.users.remove(pod);
            if w.users.is_empty() {
                w.task.abort();
            }
            !w.users.is_empty()
        });
    }

    fn pulse(&self, key: &Key) {
        let users: Vec<PodUid> = self.open.lock().get(key).map(|w| w.users.iter().cloned().collect()).unwrap_or_default();
        for u in users {
            (self.stale)(&u);
        }
    }
}

async fn follow_trust_bundles(all: Watches) {
    let mut changes = all.api.trust_bundle_changes();
    while changes.next().await.is_some() {
        // What came together, the present state at first, is one change.
        while let Some(Some(())) = changes.next().now_or_never() {}
        all.pulse(&Key::TrustBundles);
    }
}

async fn follow_certificate_requests(all: Watches) {
    let mut changes = all.api.certificate_request_changes();
    while let Some(pod) = changes.next().await {
        let pod = PodUid(pod);
        let uses = all.open.lock().get(&Key::CertificateRequests).is_some_and(|w| w.users.contains(&pod));
        if uses {
            (all.stale)(&pod);
        }
    }
}

async fn follow(all: Watches, kind: RefKind, namespace: String, name: String, mut revision: String) {
    let key = Key::Object(kind, namespace.clone(), name.clone());
    let mut wait = RETRY_MIN;
    loop {
        let begun = tokio::time::Instant::now();
        if let Ok(mut pulses) = all.api.watch_ref(kind, &namespace, &name, &revision).await {
            while pulses.next().await.is_some() {
                wait = RETRY_MIN;
                all.pulse(&key);
            }
        }
        if begun.elapsed() >= STOOD {
            wait = RETRY_MIN;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
        // What happened in between is not known: read on from now, and let the pods look.
        if let Ok((_, now)) = all.api.get_ref(kind, &namespace, &name).await {
            if now != revision {
                all.pulse(&key);
            }
            revision = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeApi;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn who_comes_to_a_watch_that_another_began_looks_once_more() {
        let (told, mut stale) = mpsc::unbounded_channel();
        let watches = Watches::new(Arc::new(FakeApi::default()), Arc::new(move |uid: &PodUid| drop(told.send(uid.clone()))));
        let (first, second) = (PodUid("u1".into()), PodUid("u2".into()));
        let watch = |pod: &PodUid| watches.watch(pod.clone(), RefKind::Secret, "n", "s", "7");
        assert!(!watches.join(&first, RefKind::Secret, "n", "s"));
        watch(&first);
        assert!(stale.try_recv().is_err(), "who begins it has read what it begins from");
        // The second read the object before the first began to watch it from a later revision.
        watch(&second);
        assert_eq!(stale.try_recv().unwrap(), second);
        watch(&second);
        assert!(watches.join(&second, RefKind::Secret, "n", "s"));
        assert!(stale.try_recv().is_err(), "it is told once");
    }
}
