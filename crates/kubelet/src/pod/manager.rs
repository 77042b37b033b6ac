//! The pods of this node: a worker for each, told of what concerns it.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::worker::Worker;
use super::{Context, Handle};
use crate::admission;
use crate::cri::{Container, PodUid, RuntimeEvent, label};
use crate::util;

/// The pods by UID.
#[derive(Clone, Default)]
pub struct Pods {
    inner: Arc<Mutex<HashMap<PodUid, Arc<Handle>>>>,
}

impl Pods {
    /// A pod by UID.
    #[must_use]
    pub fn get(&self, uid: &PodUid) -> Option<Arc<Handle>> {
        self.inner.lock().get(uid).cloned()
    }

    /// A pod by namespace and name: the newest, should two overlap.
    #[must_use]
    pub fn named(&self, namespace: &str, name: &str) -> Option<Arc<Handle>> {
        let mut found: Vec<Arc<Handle>> = self
            .all()
            .into_iter()
            .filter(|h| {
                let pod = h.pod();
                util::namespace(&pod) == namespace && util::name(&pod) == name
            })
            .collect();
        found.sort_by_key(|h| h.pod().metadata.creation_timestamp.as_ref().map(|t| t.0));
        found.pop()
    }

    /// All pods.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Handle>> {
        self.inner.lock().values().cloned().collect()
    }

    /// The pods that have not ended, but for one.
    #[must_use]
    pub fn others(&self, than: &PodUid) -> Vec<Arc<Pod>> {
        self.inner.lock().values().filter(|h| h.uid != *than && !h.ended()).map(|h| h.pod()).collect()
    }

    /// The volumes of a pod must be refreshed.
    pub fn stale(&self, uid: &PodUid) {
        if let Some(h) = self.get(uid) {
            h.mark_stale();
        }
    }
}

/// Starts and ends workers.
pub struct Manager {
    cx: Arc<Context>,
    pods: Pods,
    workers: JoinSet<PodUid>,
    shutdown: CancellationToken,
}

impl Manager {
    /// No pods yet.
    #[must_use]
    pub fn new(cx: Arc<Context>, pods: Pods, shutdown: CancellationToken) -> Self {
        Self { cx, pods, workers: JoinSet::new(), shutdown }
    }

    /// The API has this pod, on this node.
    pub async fn apply(&mut self, pod: Arc<Pod>) {
        let uid = PodUid(util::uid(&pod).to_owned());
        if let Some(h) = self.pods.get(&uid) {
            h.update(pod);
            return;
        }
        // What runs already was admitted by a former process.
        let runs = !self.cx.runtime.pod_sandboxes(&uid).is_empty();
        let rejected = if runs || pod.metadata.deletion_timestamp.is_some() { None } else { admission::check(&self.cx, &pod, &self.pods.others(&uid)).await };
        let handle = Arc::new(Handle::new(pod));
        self.pods.inner.lock().insert(uid.clone(), Arc::clone(&handle));
        let (cx, shutdown) = (Arc::clone(&self.cx), self.shutdown.clone());
        self.workers.spawn(async move {
            let worker = Worker::new(cx, Arc::clone(&handle), rejected.map(|r| (r.reason, r.message)));
            worker.run(shutdown).await;
            uid
        });
    }

    /// The API no longer has this pod.
    pub fn remove(&self, pod: &Arc<Pod>) {
        if let Some(h) = self.pods.get(&PodUid(util::uid(pod).to_owned())) {
            h.remove(Some(Arc::clone(pod)));
        }
    }

    /// The runtime has news of a pod.
    pub fn runtime_event(&self, event: &RuntimeEvent) {
        match &event.pod {
            Some(uid) => {
                if let Some(h) = self.pods.get(uid) {
                    h.wake();
                }
            }
            None => self.wake_all(),
        }
    }

    /// Events were lost: everybody looks.
    pub fn wake_all(&self) {
        for h in self.pods.all() {
            h.wake();
        }
    }

    /// A worker has ended: its pod is gone. Pends while there is none.
    pub async fn reap(&mut self) {
        match self.workers.join_next().await {
            Some(Ok(uid)) => {
                if !self.shutdown.is_cancelled() {
                    self.pods.inner.lock().remove(&uid);
                }
            }
            Some(Err(e)) => tracing::error!(error = %e, "pod worker failed"),
            None => std::future::pending().await,
        }
    }

    /// Waits for all workers, once the kubelet is to stop.
    pub async fn drain(&mut self) {
        while self.workers.join_next().await.is_some() {}
    }

    /// Ends pods that the runtime still has but the API does not: they were deleted while no kubelet ran.
    pub async fn end_orphans(&mut self) {
        let containers: Vec<Container> = self.cx.runtime.containers();
        let mut orphans: HashMap<PodUid, Pod> = HashMap::new();
        let labels = containers.iter().map(|c| &c.labels);
        let sandboxes = self.cx.runtime.sandboxes();
        for l in labels.chain(sandboxes.iter().map(|s| &s.labels)) {
            let Some(uid) = l.get(label::POD_UID).map(|u| PodUid(u.clone())) else { continue };
            if self.pods.get(&uid).is_none() {
                orphans.entry(uid.clone()).or_insert_with(|| orphan(&uid, l));
            }
        }
        for (_, pod) in orphans {
            let pod = Arc::new(pod);
            tracing::info!(pod = %util::describe(&pod), "ending a pod that the API no longer has");
            self.apply(Arc::clone(&pod)).await;
            self.remove(&pod);
        }
    }
}

/// What is known of a pod whose object is gone: its names and its grace period.
fn orphan(uid: &PodUid, labels: &std::collections::BTreeMap<String, String>) -> Pod {
    let mut pod = Pod::default();
    pod.metadata.uid = Some(uid.0.clone());
    pod.metadata.name = labels.get(label::POD_NAME).cloned();
    pod.metadata.namespace = labels.get(label::POD_NAMESPACE).cloned();
    pod.metadata.deletion_timestamp = Some(util::time(std::time::SystemTime::now()));
    pod.metadata.deletion_grace_period_seconds = labels.get(label::POD_GRACE).and_then(|g| g.parse().ok());
    pod.spec = Some(k8s_openapi::api::core::v1::PodSpec::default());
    pod
}
