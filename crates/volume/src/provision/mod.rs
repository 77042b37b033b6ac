//! Volumes for claims of the class whose provisioner is [`disk::NAME`], on this node: what external-provisioner (v6, with
//! `--node-deployment`) and external-resizer (v2) do beside a CSI driver, in one.
//!
//! A claim is this node's when the scheduler has chosen it for its pod (`volume.kubernetes.io/selected-node`); one that need not wait
//! for a pod is taken by whichever node says so first. The image is made before the PersistentVolume, under a name that follows from
//! the claim's UID, so that each step can come again. `claims.rs` provisions, `volumes.rs` deletes, `growth.rs` lets grow, and
//! `request.rs` says, without input or output, what is asked for.
//!
//! **What holds it.** A step that failed comes again, later and later ([`BACKOFF`]), and all is heard anew when an informer lists
//! anew. An image whose PersistentVolume was never made goes when its claim does: told by the claim's end, and looked for at start,
//! when everything has been read ([`Provisioner::look_back`]); the server itself is asked before. One whose PersistentVolume was made
//! goes only when that is deleted as its policy says: a store that was lost or put back takes no data with it.

mod claims;
mod growth;
mod request;
#[cfg(test)]
mod tests;
mod volumes;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use client::storage::{PROVISIONED_BY, claim_class};
use client::{Backoff, Client, Delta, EventType, Informer, Informers, Meta, ObjectKey, Recorder, WorkQueue, object_reference};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use machinery::placement::{NodeSelector, Place};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::disk::{self, Disk};
use crate::{Code, Failure};

/// The service account of `kube-system` that this acts as.
pub const ACCOUNT: &str = "knarr-volume-provisioner";

/// As the original's `--retry-interval-start` and `--retry-interval-max`.
const BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(300) };
/// Until what cannot be done is tried again (the same `--retry-interval-max`).
const INFEASIBLE: Duration = Duration::from_secs(300);
/// Volumes that are worked on at once (the original's `--worker-threads` is 100: it waits for others, this for one disk).
const WORKERS: usize = 8;

const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const BETA_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
const FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";

/// Something to work on. Of one volume it is one thing at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// A claim, and what is left of it if that is gone.
    Claim(ObjectKey, String),
    /// A PersistentVolume.
    Volume(String),
    /// A claim that may be too small.
    Growth(ObjectKey),
}

/// What becomes of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// There is nothing more to do.
    Done,
    /// It failed.
    Again,
    /// There is no sense in trying before.
    After(Duration),
}

/// Why a step ended early.
impl From<client::Error> for Step {
    fn from(error: client::Error) -> Self {
        tracing::debug!(%error, "will be tried again");
        Step::Again
    }
}

/// A failure of the driver as its words reach users: as gRPC's.
fn words(failure: &Failure) -> String {
    let code = match failure.code {
        Code::Other(6) => "AlreadyExists".to_owned(),
        Code::Other(number) => format!("Code({number})"),
        code => format!("{code:?}"),
    };
    format!("rpc error: code = {code} desc = {}", failure.message)
}

struct Provisioner {
    node: String,
    /// What PersistentVolumes say who has made them.
    identity: String,
    disk: Disk,
    client: Client,
    events: Recorder,
    growth_events: Recorder,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    nodes: Informer<Node>,
    /// Claims whose growth failed for good: a smaller size may be tried.
    failed_growths: Mutex<HashSet<String>>,
    /// Claims whose growth cannot be, and since when.
    infeasible: Mutex<HashMap<String, Instant>>,
}

/// Provisions volumes of this node until `shutdown`. The informers may be shared; `client` acts as [`ACCOUNT`].
///
/// # Errors
/// None: it ends when it is told to.
pub async fn run(node: String, disk: Disk, client: Client, informers: Informers, shutdown: CancellationToken) -> Result<(), Infallible> {
    let provisioner = Arc::new(Provisioner::new(node, disk, client, &informers));
    let work = Box::pin(provisioner.work());
    shutdown.run_until_cancelled(work).await;
    Ok(())
}

impl Provisioner {
    fn new(node: String, disk: Disk, client: Client, informers: &Informers) -> Self {
        let mut random = [0; 16];
        // It need not be unique: it tells one start from another.
        let _ = getrandom::fill(&mut random);
        let instance = random.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        let component = format!("{}_{node}_{instance}", disk::NAME);
        Self {
            identity: format!("{}-{}-{}-{node}", client::timestamp().as_millisecond(), u16::from_le_bytes([random[0], random[1]]) % 10_000, disk::NAME),
            events: Recorder::new(client.clone(), &component, ""),
            growth_events: Recorder::new(client.clone(), &format!("external-resizer {}", disk::NAME), ""),
            node,
            disk,
            client,
            claims: informers.informer(),
            volumes: informers.informer(),
            classes: informers.informer(),
            nodes: informers.informer(),
            failed_growths: Mutex::default(),
            infeasible: Mutex::default(),
        }
    }

    async fn work(self: Arc<Self>) {
        self.claims.synced().await;
        self.volumes.synced().await;
        self.classes.synced().await;
        self.nodes.synced().await;
        let queue = WorkQueue::new(BACKOFF);
        self.look_back(&queue).await;
        let hear = self.clone().hear(queue.clone());
        let act = self.act(queue);
        tokio::join!(hear, act);
    }

    async fn hear(self: Arc<Self>, queue: WorkQueue<Key>) {
        let (mut claims, mut volumes, mut classes) = (self.claims.subscribe(), self.volumes.subscribe(), self.classes.subscribe());
        let mut freed = self.disk.freed();
        loop {
            tokio::select! {
                Some(change) = claims.recv() => self.heard_claim(&queue, &change),
                Some(change) = volumes.recv() => {
                    let volume = change.object();
                    if is_ours(volume) && !matches!(change, Delta::Deleted(_)) {
                        queue.add(Key::Volume(volume.name().to_owned()));
                        // It may have come after its claim was heard.
                        self.claim_of(volume).iter().for_each(|key| queue.add(Key::Growth(key.clone())));
                    }
                }
                // Claims wait for their class without knowing.
                Some(change) = classes.recv() => if !matches!(change, Delta::Deleted(_)) {
                    let of_class = self.claims.list().into_iter().filter(|c| claim_class(c) == change.object().name());
                    of_class.for_each(|claim| self.heard_claim(&queue, &Delta::Added(claim)));
                },
                Ok(()) = freed.changed() => {
                    let released = self.volumes.list().into_iter().filter(|v| is_ours(v) && volumes::is_to_go(v));
                    released.for_each(|volume| queue.add(Key::Volume(volume.name().to_owned())));
                }
                else => return,
            }
        }
    }

    fn heard_claim(&self, queue: &WorkQueue<Key>, change: &Delta<PersistentVolumeClaim>) {
        let claim = change.object();
        if provisioner_of(claim) == Some(disk::NAME) {
            queue.add(Key::Claim(claim.key(), claim.uid().to_owned()));
        }
        let volume = claim.spec.as_ref().and_then(|s| self.volumes.get("", s.volume_name.as_deref()?));
        match change {
            Delta::Deleted(_) => self.forget_growth(claim.uid()),
            _ if !is_aside(change) && volume.is_some_and(|volume| is_ours(&volume)) => queue.add(Key::Growth(claim.key())),
            _ => {}
        }
    }

    async fn act(self: Arc<Self>, queue: WorkQueue<Key>) {
        let places = Arc::new(Semaphore::new(WORKERS));
        while let Some(key) = queue.get().await {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let (this, given) = (self.clone(), Given { queue: queue.clone(), key });
            tokio::spawn(async move {
                let _place = place;
                let step = Box::pin(this.step(&given.key)).await;
                given.finish(step);
            });
        }
    }

    async fn step(&self, key: &Key) -> Step {
        match key {
            Key::Claim(key, uid) => self.claim(key, uid).await,
            Key::Volume(name) => self.volume(name).await,
            Key::Growth(key) => self.growth(key).await,
        }
    }

    /// Images from before that are to be kept, and those of which nobody may know any more.
    async fn look_back(&self, queue: &WorkQueue<Key>) {
        let found = match self.disk.list().await {
            Ok(found) => found,
            Err(failure) => return tracing::warn!(%failure, "volumes of a former start are not looked after"),
        };
        for volume in found.into_iter().filter(|v| !v.kept) {
            let claim = &volume.meta.claim;
            queue.add(Key::Claim(ObjectKey::new(&claim.namespace, &claim.name), claim.uid.clone()));
        }
    }

    /// Labels of this node; before it is registered, that by which its volumes are found.
    fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.nodes.get("", &self.node).and_then(|node| node.meta().labels.clone()).unwrap_or_default();
        labels.entry(disk::TOPOLOGY.to_owned()).or_insert_with(|| self.node.clone());
        labels
    }

    /// Whether a volume is to be had on this node (`VolumeIsAccessible`).
    fn is_here(&self, volume: &PersistentVolume) -> bool {
        let required = volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref()?.required.as_ref());
        let labels = self.labels();
        required.is_none_or(|terms| NodeSelector::new(terms).matches(Place::new(&self.node, Some(&labels))))
    }

    fn claim_of(&self, volume: &PersistentVolume) -> Option<ObjectKey> {
        let claim = volume.spec.as_ref()?.claim_ref.as_ref()?;
        Some(ObjectKey::new(claim.namespace.as_deref()?, claim.name.as_deref()?))
    }

    fn event<K: Meta + k8s_openapi::Resource>(&self, about: &K, kind: EventType, reason: &str, message: impl Into<String>) {
        self.events.event(&object_reference(about), kind, reason, message);
    }
}

/// A key that is worked on; it is given back whatever happens.
struct Given {
    queue: WorkQueue<Key>,
    key: Key,
}

impl Given {
    fn finish(self, step: Step) {
        match step {
            Step::Done => self.queue.forget(&self.key),
            Step::Again => self.queue.add_rate_limited(self.key.clone()),
            Step::After(time) => {
                self.queue.forget(&self.key);
                self.queue.add_after(self.key.clone(), time);
            }
        }
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.queue.add_rate_limited(self.key.clone());
        }
        self.queue.done(&self.key);
    }
}

/// Whether a volume is one of this driver's.
fn is_ours(volume: &PersistentVolume) -> bool {
    let driver = volume.spec.as_ref().and_then(|s| s.csi.as_ref()).is_some_and(|csi| csi.driver == disk::NAME);
    driver && volume.annotation(PROVISIONED_BY).is_none_or(|by| by == disk::NAME)
}

/// Whether an update says nothing of a claim's size: what growing itself writes is not to call it again before its pause is over
/// (external-resizer, `updatePVC`).
fn is_aside(change: &Delta<PersistentVolumeClaim>) -> bool {
    let Delta::Updated { old, new } = change else { return false };
    let of = |claim: &PersistentVolumeClaim| {
        (claim.spec.clone(), claim.status.as_ref().map(|s| (s.phase.clone(), s.capacity.clone(), s.allocated_resource_statuses.clone())))
    };
    old.resource_version() != new.resource_version() && of(old) == of(new)
}

/// Who is to provision a claim, as the binder noted it.
fn provisioner_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.annotation(PROVISIONER).or_else(|| claim.annotation(BETA_PROVISIONER))
}
