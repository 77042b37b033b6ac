//! PersistentVolumes and the claims that want them (upstream `persistentvolume/pv_controller.go`): each names the other, the volume
//! first; what was there before or was made for a claim is bound to it, and what its claim has left is released.
//!
//! `claims.rs` and `volumes.rs` say what is due, from memory alone (`shelf.rs`); `bind.rs` makes the four states that a binding
//! writes. Every step may end after any of its writes, or a `kill -9` may: the next one finds what is left to do, since each
//! looks at both sides. A write goes out on the revision that was judged, so of two binders (the scheduler, another controller)
//! one gets a conflict and looks again. A claim or volume used again under its name has another UID: a volume whose claim is not there
//! under its UID is released only when the server says so, too.
//!
//! The original looks at everything every 15 seconds, and leans on it. Here the same comes from what is heard:
//! - a volume becomes free or changes while it is, or a claim waits no more for which one may have been meant: the claims of the class are
//!   matched in one pass (`Key::Class`), and each that finds a volume is looked at;
//! - a volume that was held for a claim was not given to it, because a write failed: the claims of its class are matched again, but only
//!   [`LOOK`] later, since the claim that failed is among them and its rests are longer each time;
//! - a class comes, goes, changes or becomes the default: the claims that wait for it are looked at;
//! - a volume or claim comes, changes or goes: so are those that name it, and the one that it names;
//! - a pod that uses a waiting claim comes or goes: the claim is looked at [`LOOK`] later, which is when the original would say
//!   for whom it waits (a pod that is scheduled before then says nothing);
//! - what a claim waits for is told again every [`TELL_AGAIN`], so that its Event does not expire while it is true;
//! - a recycler's pod changes: its volume is looked at.

mod bind;
mod claims;
mod modes;
mod recycle;
mod shelf;
#[cfg(test)]
mod steps;
#[cfg(test)]
mod tests;
mod volumes;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::storage::{claim_class, claim_phase, is_bound_to, volume_class, volume_name, volume_phase};
use client::{Client, Delta, EventType, Informer, Meta, Object, ObjectKey, Recorder, WorkQueue, object_reference};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use machinery::status::Status;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{claim_names, counts, index_claims};
use crate::pods::node_name;
use crate::work::{Controller, Cx, Step};
use claims::{Sight, is_default};
use shelf::Shelf;
use volumes::Reclaim;

/// On a claim: who is to make its volume. Both names are written, the first is read.
const PROVISIONERS: [&str; 2] = ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];
/// On a volume that is being grown: what its claim had before.
const SIZE_BEFORE: &str = "volume.alpha.kubernetes.io/pre-resize-capacity";

/// After this long the original would have looked again (upstream `--pvclaimbinder-sync-period`).
const LOOK: Duration = Duration::from_secs(15);
/// What is still true is told again after this long: as often as the original's recorder lets an Event through in the long run.
const TELL_AGAIN: Duration = Duration::from_secs(300);
/// Free volumes that come at once are matched in one pass.
const GATHER: Duration = Duration::from_millis(10);
/// Steps at a time; the original takes one claim and one volume. A volume that a step has chosen is held for it.
const WORKERS: usize = 8;

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let (client, queue) = (cx.client("persistent-volume-binder"), WorkQueue::default());
    let (volumes, claims) = (cx.informers.informer(), cx.informers.informer());
    counts::register(cx.metrics(), &volumes, &claims);
    let controller =
        Binder::new(&client, cx.recorder(&client, "persistentvolume-controller"), queue.clone(), &cx.informers.informer(), &cx.informers.informer());
    let controller = Arc::new(Binder { adoptions: counts::Adoptions::new(cx.metrics()), ..controller });
    cx.setup_with(queue, &controller)
        .on(&volumes, |c: &Binder, _, change| c.heard_volume(change))
        .on(&claims, |c, _, change| c.heard_claim(change))
        .on(&controller.classes, |c, _, change| c.heard_class(change))
        .on(&controller.pods, |c, _, change| c.heard_pod(change))
        .work(WORKERS)
        .await;
}

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Claim(ObjectKey),
    Volume(String),
    /// The claims of a class that wait, when there are free volumes of it.
    Class(String),
}

/// An Event.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Note {
    kind: EventType,
    reason: &'static str,
    message: String,
}

impl Note {
    fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind: EventType::Normal, reason, message: message.into() }
    }

    fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind: EventType::Warning, reason, message: message.into() }
    }
}

/// What was told of a claim last, and when.
struct Told {
    uid: String,
    note: Note,
    at: Instant,
}

struct Binder {
    client: Client,
    recorder: Recorder,
    queue: WorkQueue<Key>,
    shelf: Shelf,
    classes: Informer<StorageClass>,
    pods: Informer<Pod>,
    /// Of claims that wait.
    told: Mutex<HashMap<ObjectKey, Told>>,
    recycling: recycle::Made,
    adoptions: counts::Adoptions,
}

/// Whether both are devices, or both file systems.
fn has_same_mode(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let is_block = |mode: Option<&String>| mode.is_some_and(|m| m == "Block");
    let (has, wants) = (volume.spec.as_ref(), claim.spec.as_ref());
    is_block(has.and_then(|s| s.volume_mode.as_ref())) == is_block(wants.and_then(|s| s.volume_mode.as_ref()))
}

/// Whether volumes of a class are bound in this mode.
fn has_mode(class: &StorageClass, mode: &str) -> bool {
    class.volume_binding_mode.as_deref() == Some(mode)
}

/// An answer that somebody has removed or replaced the object meanwhile: it is heard of.
fn unless_gone<T>(result: client::Result<T>) -> client::Result<Option<T>> {
    match result {
        Err(error) if error.is_not_found() => Ok(None),
        other => other.map(Some),
    }
}

/// What is heard.
impl Binder {
    fn new(client: &Client, recorder: Recorder, queue: WorkQueue<Key>, classes: &Informer<StorageClass>, pods: &Informer<Pod>) -> Self {
        index_claims(pods);
        let (classes, pods) = (classes.clone(), pods.clone());
        Self {
            client: client.clone(),
            recorder,
            queue,
            shelf: Shelf::default(),
            classes,
            pods,
            told: Mutex::default(),
            recycling: recycle::Made::default(),
            adoptions: counts::Adoptions::default(),
        }
    }

    fn heard_volume(&self, change: &Delta<PersistentVolume>) {
        let volume = change.object();
        self.freed(self.shelf.heard_volume(change), volume);
        self.forget_recycling(change);
        let mut claims = self.shelf.asking(volume.name());
        claims.extend(shelf::given_to(volume));
        if let Delta::Updated { old, .. } = change {
            claims.extend(shelf::given_to(old));
        }
        self.queue.add(Key::Volume(volume.name().to_owned()));
        claims.into_iter().for_each(|claim| self.queue.add(Key::Claim(claim)));
    }

    /// A volume that is free now may suit one of its class.
    fn freed(&self, freed: bool, volume: &PersistentVolume) {
        self.match_again(freed.then(|| volume_class(volume).to_owned()));
    }

    fn match_again(&self, class: Option<String>) {
        if let Some(class) = class {
            self.queue.add_after(Key::Class(class), GATHER);
        }
    }

    fn heard_claim(&self, change: &Delta<PersistentVolumeClaim>) {
        let claim = change.object();
        self.match_again(self.shelf.heard_claim(change));
        let mut volumes = self.shelf.given(&claim.key());
        volumes.push(volume_name(claim).to_owned());
        if let Delta::Updated { old, .. } = change {
            volumes.push(volume_name(old).to_owned());
        }
        self.queue.add(Key::Claim(claim.key()));
        volumes.into_iter().filter(|name| !name.is_empty()).for_each(|name| self.queue.add(Key::Volume(name)));
    }

    fn heard_class(&self, change: &Delta<StorageClass>) {
        let class = change.object();
        let mut claims = self.shelf.waiting(class.name());
        if !matches!(change, Delta::Deleted(_)) && is_default(class) {
            claims.extend(self.shelf.waiting(""));
        }
        claims.into_iter().for_each(|claim| self.queue.add(Key::Claim(claim)));
    }

    fn heard_pod(&self, change: &Delta<Pod>) {
        let pod = change.object();
        if let Some(volume) = recycle::volume_of(pod) {
            self.queue.add(Key::Volume(volume.to_owned()));
        }
        let waits_for_it = match change {
            Delta::Updated { old, new } => node_name(old) != node_name(new) || super::is_through(old) != super::is_through(new),
            Delta::Added(_) | Delta::Deleted(_) => true,
        };
        for name in claim_names(pod).filter(|_| waits_for_it) {
            let claim = ObjectKey::new(pod.namespace(), &name);
            if self.shelf.is_waiting(&claim) {
                self.queue.add_after(Key::Claim(claim.clone()), LOOK);
            }
            // A volume is not recycled while a pod that outlived its claim uses it.
            self.shelf.given(&claim).into_iter().for_each(|volume| self.queue.add(Key::Volume(volume)));
        }
    }
}

/// What is told, and what is written.
impl Binder {
    /// Tells what a claim waits for, unless that was told already; when to look again.
    fn tell(&self, claim: &PersistentVolumeClaim, note: Note) -> Option<Duration> {
        let mut told = self.told.lock();
        if let Some(last) = told.get(&claim.key()).filter(|last| last.uid == claim.uid() && last.note == note && last.at.elapsed() < TELL_AGAIN) {
            return Some(TELL_AGAIN.saturating_sub(last.at.elapsed()));
        }
        self.record(claim, &note);
        told.insert(claim.key(), Told { uid: claim.uid().to_owned(), note, at: Instant::now() });
        Some(TELL_AGAIN)
    }

    fn record<K: Object + k8s_openapi::Resource>(&self, about: &K, note: &Note) {
        self.recorder.event(&object_reference(about), note.kind, note.reason, note.message.clone());
    }

    fn wrote_volume(&self, volume: PersistentVolume) -> Arc<PersistentVolume> {
        let volume = Arc::new(volume);
        self.freed(self.shelf.wrote_volume(&volume), &volume);
        volume
    }

    async fn write_volume(&self, volume: &PersistentVolume) -> client::Result<Arc<PersistentVolume>> {
        let written = self.client.all::<PersistentVolume>().replace(volume.name(), volume).await?;
        Ok(self.wrote_volume(written))
    }

    /// Gives a volume its phase.
    async fn write_phase(&self, volume: &Arc<PersistentVolume>, phase: &str, message: &str) -> client::Result<Arc<PersistentVolume>> {
        let Some(next) = bind::with_phase(volume, phase, message) else { return Ok(volume.clone()) };
        let written = self.client.all::<PersistentVolume>().replace_status(next.name(), &next).await?;
        Ok(self.wrote_volume(written))
    }

    async fn write_claim(&self, claim: &PersistentVolumeClaim) -> client::Result<Arc<PersistentVolumeClaim>> {
        let written = Arc::new(self.client.namespaced::<PersistentVolumeClaim>(claim.namespace()).replace(claim.name(), claim).await?);
        self.match_again(self.shelf.wrote_claim(&written));
        Ok(written)
    }

    /// Gives a claim its phase, and what follows from the volume; none: it had all that.
    async fn write_claim_phase(
        &self,
        claim: &PersistentVolumeClaim,
        phase: &str,
        volume: Option<&PersistentVolume>,
    ) -> client::Result<Option<Arc<PersistentVolumeClaim>>> {
        let next = bind::with_status(claim, phase, volume).map_err(Status::internal)?;
        let Some(next) = next else { return Ok(None) };
        let written = Arc::new(self.client.namespaced::<PersistentVolumeClaim>(claim.namespace()).replace_status(claim.name(), &next).await?);
        self.match_again(self.shelf.wrote_claim(&written));
        Ok(Some(written))
    }

    /// Volume and claim name each other and are told as bound, in this order.
    async fn bind(&self, volume: &Arc<PersistentVolume>, claim: &Arc<PersistentVolumeClaim>) -> client::Result<()> {
        let volume = match bind::volume_to_claim(volume, claim) {
            Some(next) => self.write_volume(&next).await?,
            None => volume.clone(),
        };
        let volume = self.write_phase(&volume, "Bound", "").await?;
        let claim = match bind::claim_to_volume(claim, &volume) {
            Some(next) => self.write_claim(&next).await?,
            None => claim.clone(),
        };
        self.write_claim_phase(&claim, "Bound", Some(&volume)).await?;
        self.told.lock().remove(&claim.key());
        Ok(())
    }
}

/// The steps.
impl Binder {
    async fn step_of_claim(&self, key: &ObjectKey) -> Step {
        let Some(claim) = self.shelf.claim(key) else {
            self.told.lock().remove(key);
            return Ok(None);
        };
        let claim = match bind::annealed_claim(&claim) {
            Some(next) => self.write_claim(&next).await?,
            None => claim,
        };
        let sight = Sight { shelf: &self.shelf, classes: &self.classes, pods: &self.pods };
        match sight.due(&claim) {
            claims::Due::Bind(chosen) => {
                let done = self.bind(chosen.volume(), &claim).await;
                let was_held = matches!(chosen, claims::Chosen::Held(_));
                drop(chosen);
                if done.is_err() && was_held {
                    // Who looked meanwhile did not see it.
                    self.queue.add_after(Key::Class(claim_class(&claim).to_owned()), LOOK);
                }
                done.map(|()| None)
            }
            claims::Due::Adopt(class) => {
                let mut next = (*claim).clone();
                next.spec.get_or_insert_default().storage_class_name = Some(class);
                let written = self.write_claim(&next).await;
                self.adoptions.count(written.is_ok());
                written.map(|_| None)
            }
            claims::Due::Wait(note) => {
                let again = note.and_then(|note| self.tell(&claim, note));
                self.write_claim_phase(&claim, "Pending", None).await.map(|_| again)
            }
            claims::Due::Provision { provisioner, note } => {
                if let Some(next) = bind::with_provisioner(&claim, &provisioner)
                    && let Err(error) = self.write_claim(&next).await
                {
                    if !error.is_conflict() {
                        self.tell(&claim, Note::warning("ProvisioningFailed", format!("Error saving claim: {error}")));
                    }
                    return Err(error);
                }
                Ok(self.tell(&claim, note))
            }
            claims::Due::Refuse(note) => Ok(self.tell(&claim, note)),
            claims::Due::Misbound { note, why } => {
                self.tell(&claim, note);
                Err(Status::internal(why).into())
            }
            claims::Due::Lost { reason, message } => Box::pin(self.lose(&claim, reason, message)).await,
        }
    }

    /// A claim has lost its volume. Volumes are heard of by another watch than claims: the server is asked first. One that is there and
    /// names nobody is bound again, as one in memory would be.
    async fn lose(&self, claim: &Arc<PersistentVolumeClaim>, reason: &'static str, message: &'static str) -> Step {
        if claim_phase(claim) == "Lost" {
            return Ok(None);
        }
        let name = volume_name(claim);
        if !name.is_empty()
            && let Some(live) = unless_gone(self.client.all::<PersistentVolume>().get(name).await)?
            && (live.spec.as_ref().is_none_or(|s| s.claim_ref.is_none()) || is_bound_to(&live, claim))
        {
            return self.bind(&Arc::new(live), claim).await.map(|()| None);
        }
        if let Some(lost) = self.write_claim_phase(claim, "Lost", None).await? {
            self.record(&*lost, &Note::warning(reason, message));
        }
        Ok(None)
    }

    async fn step_of_volume(&self, name: &str) -> Step {
        let Some(volume) = self.shelf.volume(name) else { return Ok(None) };
        let volume = match volumes::annealed(&volume) {
            Some(next) => self.write_volume(&next).await?,
            None => volume,
        };
        let claim = self.claim_of(&volume).await?;
        match volumes::due(&volume, claim.as_deref()) {
            volumes::Due::Phase(phase) => self.write_phase(&volume, phase, "").await.map(|_| None),
            volumes::Due::Claim => {
                self.queue.add(Key::Claim(shelf::given_to(&volume).unwrap_or_default()));
                Ok(None)
            }
            volumes::Due::Mismatch { volume: of_volume, claim: of_claim } => {
                if let Some(claim) = claim {
                    self.record(&*volume, &Note::warning("VolumeMismatch", of_volume));
                    self.record(&*claim, &Note::warning("VolumeMismatch", of_claim));
                }
                Ok(None)
            }
            volumes::Due::Release => self.release(volume).await,
            volumes::Due::Unbind => self.unbind(&volume).await.map(|_| None),
        }
    }

    /// The claim that a volume names under its UID. One that is not in memory, or has another UID there, is asked for: it may be newer
    /// than what was heard. What was released once stays so.
    async fn claim_of(&self, volume: &PersistentVolume) -> client::Result<Option<Arc<PersistentVolumeClaim>>> {
        let Some(key) = shelf::given_to(volume) else { return Ok(None) };
        let uid = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()?.uid.as_deref()).unwrap_or_default();
        let known = self.shelf.claim(&key);
        if uid.is_empty() || known.as_ref().is_some_and(|c| c.uid() == uid) || known.is_none() && matches!(volume_phase(volume), "Released" | "Failed") {
            return Ok(known);
        }
        let live = unless_gone(self.client.namespaced::<PersistentVolumeClaim>(&key.namespace).get(&key.name).await)?;
        Ok(live.filter(|c| c.uid() == uid).map(Arc::new))
    }

    /// The claim of a volume is gone. That it failed to be removed stays told.
    async fn release(&self, volume: Arc<PersistentVolume>) -> Step {
        let volume = match volume_phase(&volume) {
            "Released" | "Failed" => volume,
            _ => self.write_phase(&volume, "Released", "").await?,
        };
        match volumes::reclaim(&volume) {
            Reclaim::Nothing => Ok(None),
            Reclaim::Recycle => self.recycle(&volume).await,
            Reclaim::Fail(note) => self.fail(&volume, &note).await,
        }
    }

    async fn fail(&self, volume: &Arc<PersistentVolume>, note: &Note) -> Step {
        if volume_phase(volume) != "Failed" {
            let failed = self.write_phase(volume, "Failed", &note.message).await?;
            self.record(&*failed, note);
        }
        Ok(None)
    }

    async fn unbind(&self, volume: &PersistentVolume) -> client::Result<Arc<PersistentVolume>> {
        let volume = self.write_volume(&bind::unbound(volume)).await?;
        self.write_phase(&volume, "Available", "").await
    }
}

impl Controller for Binder {
    const QUEUE: &'static str = "claims";
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Step {
        let step = match key {
            Key::Claim(claim) => Box::pin(self.step_of_claim(claim)).await,
            Key::Volume(name) => Box::pin(self.step_of_volume(name)).await,
            Key::Class(class) => {
                // A class whose volumes are chosen with the pod's node leaves them to the scheduler.
                let to_scheduler = self.classes.get("", class).is_some_and(|c| has_mode(&c, "WaitForFirstConsumer"));
                let claims = if to_scheduler { Vec::new() } else { self.shelf.matches(class) };
                claims.into_iter().for_each(|claim| self.queue.add(Key::Claim(claim)));
                Ok(None)
            }
        };
        match step {
            // What is gone is heard of.
            Err(error) if error.is_not_found() => Ok(None),
            other => other,
        }
    }
}
