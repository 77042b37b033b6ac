//! The pods of this node: a worker for each, told of what concerns it.
//!
//! Admission happens here, one pod after the other, from what is known without asking. Where that does not suffice (the node's
//! labels may have changed, others must make room first) the pod is held while somebody asks, and everything else goes on. A
//! worker that panics is a defect; its pod gets a new one, after a pause that grows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

use super::worker::Worker;
use super::{Context, Eviction, Handle, remains};
use crate::admission::{self, Rejection, Verdict};
use crate::api::Severity;
use crate::cri::{Container, PodUid, RuntimeEvent, label};
use crate::pods_api::Change;
use crate::statics::{FullName, full_name, is_static, same};
use crate::util;

/// First and longest wait before a worker that panicked is begun anew.
const REVIVE_MIN: Duration = Duration::from_secs(1);
const REVIVE_MAX: Duration = Duration::from_secs(60);
/// Longest wait for the node's object before a pod is refused by what is known of it.
const NODE_MAX: Duration = Duration::from_secs(5);
/// Longest wait for pods that make room, and how often they are looked at.
const ROOM_MAX: Duration = Duration::from_secs(300);
const ROOM_LOOK: Duration = Duration::from_millis(100);

/// Changes that are kept for who watches the node's pods and is busy.
const CHANGES_MAX: usize = 1000;

/// The pods by UID.
#[derive(Clone)]
pub struct Pods {
    inner: Arc<Mutex<HashMap<PodUid, Arc<Handle>>>>,
    /// Told of what happens to them.
    told: broadcast::Sender<Change>,
}

impl Default for Pods {
    fn default() -> Self {
        Self { inner: Arc::default(), told: broadcast::Sender::new(CHANGES_MAX) }
    }
}

impl Pods {
    /// A pod by UID.
    #[must_use]
    pub fn get(&self, uid: &PodUid) -> Option<Arc<Handle>> {
        self.inner.lock().get(uid).cloned()
    }

    /// A pod by namespace and name: the one that the API has, else the newest, should two overlap.
    #[must_use]
    pub fn named(&self, namespace: &str, name: &str) -> Option<Arc<Handle>> {
        let of_name = |h: &Arc<Handle>| {
            let pod = h.pod();
            util::namespace(&pod) == namespace && util::name(&pod) == name
        };
        self.all().into_iter().filter(of_name).max_by_key(|h| (!h.is_gone(), h.pod().metadata.creation_timestamp.as_ref().map(|t| t.0)))
    }

    /// All pods.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Handle>> {
        self.inner.lock().values().cloned().collect()
    }

    /// What happens to them from now on.
    pub(crate) fn watch(&self) -> broadcast::Receiver<Change> {
        self.told.subscribe()
    }

    pub(super) fn insert(&self, handle: &Arc<Handle>) {
        handle.watched_by(self.told.clone());
        self.inner.lock().insert(handle.uid.clone(), Arc::clone(handle));
    }

    /// The pods that count for the node's resources, but for one: those that the API has, that were let in and that have not ended.
    #[must_use]
    pub fn others(&self, than: &PodUid) -> Vec<Arc<Pod>> {
        self.inner.lock().values().filter(|h| h.uid != *than && !h.is_refused() && !h.ended() && !h.is_gone()).map(|h| h.granted()).collect()
    }

    /// The volumes of a pod must be refreshed.
    pub fn stale(&self, uid: &PodUid) {
        if let Some(h) = self.get(uid) {
            h.mark_stale();
        }
    }
}

/// What must be known of a worker to begin it anew.
struct Work {
    handle: Arc<Handle>,
    rejected: Option<Rejection>,
    panics: u32,
}

/// A pod that waits for its admission, and for what it waited already.
struct Held {
    pod: Arc<Pod>,
    looked: bool,
    /// Who was put out for it.
    victims: Vec<PodUid>,
}

/// Starts and ends workers.
pub struct Manager {
    cx: Arc<Context>,
    pods: Pods,
    workers: JoinSet<PodUid>,
    of: HashMap<Id, Work>,
    held: HashMap<PodUid, Held>,
    /// Static pods whose name is that of one that is being ended (upstream's `waitingToStartStaticPodsByFullname`).
    waiting: BTreeMap<FullName, Arc<Pod>>,
    asking: JoinSet<PodUid>,
    shutdown: CancellationToken,
}

impl Manager {
    /// No pods yet.
    #[must_use]
    pub fn new(cx: Arc<Context>, pods: Pods, shutdown: CancellationToken) -> Self {
        Self { cx, pods, workers: JoinSet::new(), of: HashMap::new(), held: HashMap::new(), waiting: BTreeMap::new(), asking: JoinSet::new(), shutdown }
    }

    /// The API has this pod, on this node.
    pub fn apply(&mut self, pod: Arc<Pod>) {
        let uid = PodUid(util::uid(&pod).to_owned());
        if let Some(h) = self.pods.get(&uid) {
            h.update(pod);
        } else {
            match self.held.get_mut(&uid) {
                // Whoever is to end need not wait until he is let in.
                Some(_) if pod.metadata.deletion_timestamp.is_some() => {
                    self.held.remove(&uid);
                    self.begin(pod, None);
                }
                Some(held) => held.pod = pod,
                None => self.admit(uid, Held { pod, looked: false, victims: Vec::new() }),
            }
        }
    }

    /// These are the static pods, all of them: others end, and what is new begins, when nothing of its name is left.
    pub fn set_statics(&mut self, pods: &[Arc<Pod>]) {
        let told = |pod: &Pod| pods.iter().any(|p| util::uid(p) == util::uid(pod) && same(p, pod));
        for handle in self.pods.all() {
            let pod = handle.pod();
            if is_static(&pod) && !handle.is_gone() && !told(&pod) {
                handle.remove(None);
            }
        }
        self.held.retain(|_, held| !is_static(&held.pod) || told(&held.pod));
        self.waiting.clear();
        for pod in pods {
            let uid = PodUid(util::uid(pod).to_owned());
            let runs = self.pods.get(&uid).is_some_and(|h| !h.is_gone());
            if !runs && !self.held.contains_key(&uid) {
                self.begin_static(Arc::clone(pod));
            }
        }
    }

    fn begin_static(&mut self, pod: Arc<Pod>) {
        let (name, uid) = (full_name(&pod), PodUid(util::uid(&pod).to_owned()));
        let taken = |h: &Arc<Handle>| h.uid == uid || (is_static(&h.pod()) && full_name(&h.pod()) == name);
        if self.pods.all().iter().any(taken) {
            self.waiting.insert(name, pod);
        } else {
            self.admit(uid, Held { pod, looked: false, victims: Vec::new() });
        }
    }

    /// The static pods that have not begun.
    #[must_use]
    pub fn waiting_statics(&self) -> BTreeSet<FullName> {
        let held = self.held.values().filter(|h| is_static(&h.pod)).map(|h| full_name(&h.pod));
        self.waiting.keys().cloned().chain(held).collect()
    }

    /// The pods that wait for their admission.
    #[must_use]
    pub fn held(&self) -> Vec<PodUid> {
        self.held.keys().cloned().collect()
    }

    fn admit(&mut self, uid: PodUid, held: Held) {
        let pod = &held.pod;
        // What runs already was admitted by a former process, and what has ended takes no room: nobody makes any for it.
        let runs = !self.cx.runtime.pod_sandboxes(&uid).is_empty();
        if runs || pod.metadata.deletion_timestamp.is_some() || super::worker::has_ended(pod) {
            return self.begin(held.pod, None);
        }
        let cx = Arc::clone(&self.cx);
        let _alone = cx.judging.lock();
        let verdict = admission::check(&cx, pod, &self.pods.others(&uid));
        match verdict {
            Verdict::Admitted => self.begin(held.pod, None),
            Verdict::Refused(r) if r.by_node && !held.looked => {
                // The scheduler may have seen a node that this kubelet has not: it looks before it refuses.
                let cx = Arc::clone(&self.cx);
                let asked = uid.clone();
                self.asking.spawn(async move {
                    if let Ok(Ok(Some(node))) = tokio::time::timeout(NODE_MAX, cx.api.get_node(&cx.config.node_name)).await {
                        *cx.node.write() = Some(Arc::new(node));
                    }
                    asked
                });
                self.held.insert(uid, Held { looked: true, ..held });
            }
            // What they leave may be another's who came at the same time, and then more go: nobody is put out to no use, since the original lets in
            // one after the other.
            Verdict::MakeRoom { victims, otherwise } if victims.iter().any(|v| !held.victims.contains(v)) => {
                self.make_room(&uid, &victims, otherwise.reason.strip_prefix("OutOf").unwrap_or_default());
                self.held.insert(uid, Held { victims: held.victims.into_iter().chain(victims).collect(), ..held });
            }
            Verdict::Refused(r) | Verdict::MakeRoom { otherwise: r, .. } => self.begin(held.pod, Some(r)),
        }
    }

    /// Puts pods out for one that the cluster cannot be without (upstream's `CriticalPodAdmissionHandler`).
    fn make_room(&mut self, uid: &PodUid, victims: &[PodUid], resource: &str) {
        let victims: Vec<Arc<Handle>> = victims.iter().filter_map(|v| self.pods.get(v)).collect();
        // Who goes already is waited for alone: he was put out for another, or for why he is told.
        for v in victims.iter().filter(|v| !v.is_evicted()) {
            self.cx.counts.preempted(resource);
            let spec = v.pod().spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30);
            v.evict(Eviction {
                reason: "Preempting".into(),
                message: "Preempted in order to admit critical pod".into(),
                condition: Some("Pod was preempted by Kubelet to accommodate a critical pod.".into()),
                grace: super::worker::grace_period(spec),
                for_room: true,
            });
        }
        let uid = uid.clone();
        self.asking.spawn(async move {
            let gone = async {
                while victims.iter().any(|v| !v.ended() && !v.is_gone()) {
                    tokio::time::sleep(ROOM_LOOK).await;
                }
            };
            let _ = tokio::time::timeout(ROOM_MAX, gone).await;
            uid
        });
    }

    fn begin(&mut self, pod: Arc<Pod>, rejected: Option<Rejection>) {
        self.cx.counts.given(pod.spec.as_ref().map_or(0, |spec| spec.containers.len()));
        let handle = Arc::new(Handle::new(pod));
        if rejected.is_some() {
            handle.refuse();
        }
        self.pods.insert(&handle);
        self.run(Work { handle, rejected, panics: 0 });
    }

    fn run(&mut self, work: Work) {
        let (cx, shutdown, handle) = (Arc::clone(&self.cx), self.shutdown.clone(), Arc::clone(&work.handle));
        let rejected = work.rejected.clone().map(|r| (r.reason, r.message));
        let pause = match work.panics {
            0 => Duration::ZERO,
            n => REVIVE_MIN.saturating_mul(2_u32.saturating_pow(n - 1)).min(REVIVE_MAX),
        };
        let task = self.workers.spawn(async move {
            if !pause.is_zero() {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = shutdown.cancelled() => return handle.uid.clone(),
                }
            }
            Worker::new(cx, Arc::clone(&handle), rejected).run(shutdown).await;
            handle.uid.clone()
        });
        self.of.insert(task.id(), work);
    }

    /// The API no longer has this pod.
    pub fn remove(&mut self, pod: &Arc<Pod>) {
        let uid = PodUid(util::uid(pod).to_owned());
        self.held.remove(&uid);
        if let Some(h) = self.pods.get(&uid) {
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

    /// Takes in one end: of a worker, whose pod is gone, or of what a held pod waited for. Pends while there is none.
    pub async fn next(&mut self) {
        let (id, panicked) = tokio::select! {
            Some(done) = self.workers.join_next_with_id() => match done {
                Ok((id, _)) => (id, None),
                Err(e) => (e.id(), Some(e)),
            },
            Some(asked) = self.asking.join_next() => {
                if let Some((uid, held)) = asked.ok().and_then(|uid| self.held.remove_entry(&uid)) {
                    self.admit(uid, held);
                }
                return;
            }
            else => return std::future::pending().await,
        };
        let Some(work) = self.of.remove(&id) else { return };
        if self.shutdown.is_cancelled() {
            return;
        }
        match panicked {
            None => {
                self.pods.inner.lock().remove(&work.handle.uid);
                work.handle.tell_gone();
                // They wait for a name or for a UID; who still has to waits again.
                for next in std::mem::take(&mut self.waiting).into_values() {
                    self.begin_static(next);
                }
            }
            Some(e) => {
                tracing::error!(pod = %util::describe(&work.handle.pod()), error = %e, "pod worker failed; it is begun anew");
                let pod = work.handle.pod();
                self.cx.api.pod_event(&pod, None, Severity::Warning, "FailedSync", "error determining status: the pod's worker failed and is begun anew");
                self.run(Work { panics: work.panics.saturating_add(1), ..work });
            }
        }
    }

    /// Waits for all workers, once the kubelet is to stop.
    pub async fn drain(&mut self) {
        while self.workers.join_next().await.is_some() {}
    }

    /// Ends pods that the runtime still has but the API does not: they were deleted while no kubelet ran, or their removal failed.
    pub fn end_orphans(&mut self) {
        let mut containers: Vec<Container> = self.cx.runtime.containers();
        let mut orphans: HashMap<PodUid, Pod> = HashMap::new();
        let labels = containers.iter().map(|c| &c.labels);
        let sandboxes = self.cx.runtime.sandboxes();
        for l in labels.chain(sandboxes.iter().map(|s| &s.labels)) {
            let Some(uid) = l.get(label::POD_UID).map(|u| PodUid(u.clone())) else { continue };
            if self.pods.get(&uid).is_none() && !self.held.contains_key(&uid) {
                orphans.entry(uid.clone()).or_insert_with(|| remains::pod(&uid, l));
            }
        }
        containers.sort_by_key(|c| c.created);
        for c in containers.iter().filter(|c| c.running()) {
            if let Some(pod) = c.pod_uid().and_then(|uid| orphans.get_mut(&uid)) {
                remains::add(pod, c);
            }
        }
        for (_, pod) in orphans {
            let pod = Arc::new(pod);
            tracing::info!(pod = %util::describe(&pod), "ending a pod that the API no longer has");
            self.apply(Arc::clone(&pod));
            self.remove(&pod);
        }
    }
}
