//! Volumes and claims as they were last heard of or written, and who may have which: the binder's memory.
//!
//! Invariants: an object is never replaced by an older one of the same UID, and never put back once it was heard to be gone, so
//! the answer to an own write may come at any time. What is derived (free volumes by class, modes and size, waiting claims by
//! class and age, who names whom) is changed together with the object that it follows from. A volume that one step is about to bind
//! is held for it until the step ends: steps of several claims run at once and never choose the same one.
//!
//! A match costs the same with ten volumes and with ten thousand, as long as those that are large enough also suit: free ones lie by
//! class, set of modes and size, and once more so by each of their labels, for claims that ask for one.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use client::storage::{BIND_COMPLETED, capacity, claim_class, is_bound_to, requested, volume_class, volume_name, volume_phase};
use client::{Delta, Meta, Object, ObjectKey};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::jiff::Timestamp;
use machinery::labels::{Operator, Selector};
use machinery::quantity::Quantity;
use parking_lot::{Mutex, MutexGuard};

use super::modes::Modes;
use crate::meta::{created, labels, revision};

/// Free volumes of one class and one set of modes, the smallest first.
type BySize = BTreeSet<(Quantity, String)>;
/// Free volumes of one class.
type Free = BTreeMap<Modes, BySize>;
/// Free volumes by class and one of their labels.
type Labelled = HashMap<(String, String, String), Free>;

#[derive(Default)]
pub(super) struct Shelf {
    all: Mutex<All>,
}

#[derive(Default)]
struct All {
    volumes: HashMap<String, Arc<PersistentVolume>>,
    claims: HashMap<ObjectKey, Arc<PersistentVolumeClaim>>,
    /// Volumes that anybody may have, by class.
    free: HashMap<String, Free>,
    labelled: Labelled,
    /// Volumes by the claim that they name.
    given: HashMap<ObjectKey, BTreeSet<String>>,
    /// Claims by the volume that they name.
    asking: HashMap<String, BTreeSet<ObjectKey>>,
    /// Claims that name no volume and have not had one, by class, the oldest first.
    waiting: HashMap<String, BTreeSet<(Timestamp, ObjectKey)>>,
    /// Volumes that a step is about to bind, and for which claim.
    held: HashMap<String, ObjectKey>,
}

/// A volume that nobody else chooses until this is dropped.
pub(super) struct Hold<'s> {
    shelf: &'s Shelf,
    pub(super) volume: Arc<PersistentVolume>,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.shelf.all.lock().held.remove(self.volume.name());
    }
}

/// What a claim asks of a volume, its class and its modes aside.
struct Wish {
    size: Quantity,
    block: bool,
    attributes: String,
    selector: Option<Selector>,
}

fn is_block(mode: Option<&String>) -> bool {
    mode.is_some_and(|m| m == "Block")
}

impl Wish {
    fn of(claim: &PersistentVolumeClaim) -> Self {
        let spec = claim.spec.as_ref();
        Self {
            size: requested(claim),
            block: is_block(spec.and_then(|s| s.volume_mode.as_ref())),
            attributes: spec.and_then(|s| s.volume_attributes_class_name.clone()).unwrap_or_default(),
            selector: spec.and_then(|s| s.selector.as_ref()).map(|s| Selector::of(Some(s))),
        }
    }

    /// Whether a volume that was made or set aside for the claim can be used.
    fn fits(&self, volume: &PersistentVolume) -> bool {
        let Some(spec) = volume.spec.as_ref() else { return false };
        capacity(volume) >= self.size
            && is_block(spec.volume_mode.as_ref()) == self.block
            && spec.volume_attributes_class_name.as_deref().unwrap_or_default() == self.attributes
            && !volume.is_deleting()
    }

    /// A label that a volume must have one of these values of.
    fn label(&self) -> Option<(&str, &[String])> {
        let asked = self.selector.as_ref()?.requirements().iter().find(|r| r.operator == Operator::In)?;
        Some((&asked.key, &asked.values))
    }

    /// Whether a volume that was there before can be used.
    fn chooses(&self, volume: &PersistentVolume) -> bool {
        self.fits(volume) && self.selector.as_ref().is_none_or(|s| s.matches_map(labels(volume)))
    }
}

fn modes_of(volume: &PersistentVolume) -> Modes {
    Modes::of(volume.spec.as_ref().and_then(|s| s.access_modes.as_ref()))
}

/// The claim that a volume names.
pub(super) fn given_to(volume: &PersistentVolume) -> Option<ObjectKey> {
    let claim = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some(ObjectKey::new(claim.namespace.as_deref().unwrap_or_default(), claim.name.as_deref().unwrap_or_default()))
}

/// Where a free volume lies; none if it is not free.
fn place(volume: &PersistentVolume) -> Option<(&str, Modes, Quantity)> {
    let free = volume.spec.as_ref()?.claim_ref.is_none() && volume_phase(volume) == "Available" && !volume.is_deleting();
    free.then(|| (volume_class(volume), modes_of(volume), capacity(volume)))
}

/// Whether a claim has neither a volume nor the name of one.
fn waits(claim: &PersistentVolumeClaim) -> bool {
    volume_name(claim).is_empty() && claim.annotation(BIND_COMPLETED).is_none()
}

/// Takes one from a set among others; a set without any goes.
fn drop_from<K: Hash + Eq, V: Ord>(sets: &mut HashMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(set) = sets.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}

/// Takes a volume from among free ones; a place without any goes.
fn drop_free<K: Hash + Eq>(all: &mut HashMap<K, Free>, key: &K, modes: Modes, at: &(Quantity, String)) {
    let Some(free) = all.get_mut(key) else { return };
    if let Some(by_size) = free.get_mut(&modes) {
        by_size.remove(at);
    }
    free.retain(|_, by_size| !by_size.is_empty());
    if free.is_empty() {
        all.remove(key);
    }
}

fn with_label(class: &str, (key, value): (&String, &String)) -> (String, String, String) {
    (class.to_owned(), key.clone(), value.clone())
}

/// Whether what is known is newer than what comes.
fn is_newer<K: Object>(known: Option<&Arc<K>>, than: &K) -> bool {
    known.is_some_and(|k| k.uid() == than.uid() && revision(&**k) > revision(than))
}

impl All {
    /// Returns whether the volume is free, and was not or was another kind of volume.
    fn put_volume(&mut self, volume: Arc<PersistentVolume>) -> bool {
        let same = |old: &PersistentVolume| old.uid() == volume.uid() && old.spec == volume.spec && old.metadata.labels == volume.metadata.labels;
        let was_free = self.remove_volume(volume.name()).is_some_and(|old| same(&old) && place(&old).is_some());
        let name = volume.name().to_owned();
        if let Some(claim) = given_to(&volume) {
            self.given.entry(claim).or_default().insert(name.clone());
        }
        let place = place(&volume);
        if let Some((class, modes, size)) = place {
            self.free.entry(class.to_owned()).or_default().entry(modes).or_default().insert((size, name.clone()));
            for label in labels(&*volume) {
                let of_label = self.labelled.entry(with_label(class, label)).or_default();
                of_label.entry(modes).or_default().insert((size, name.clone()));
            }
        }
        let is_free = place.is_some();
        self.volumes.insert(name, volume);
        is_free && !was_free
    }

    fn remove_volume(&mut self, name: &str) -> Option<Arc<PersistentVolume>> {
        let volume = self.volumes.remove(name)?;
        if let Some(claim) = given_to(&volume) {
            drop_from(&mut self.given, &claim, &name.to_owned());
        }
        if let Some((class, modes, size)) = place(&volume) {
            let at = (size, name.to_owned());
            drop_free(&mut self.free, &class.to_owned(), modes, &at);
            for label in labels(&*volume) {
                drop_free(&mut self.labelled, &with_label(class, label), modes, &at);
            }
        }
        Some(volume)
    }

    fn put_claim(&mut self, claim: Arc<PersistentVolumeClaim>) {
        let key = claim.key();
        self.remove_claim(&key);
        if waits(&claim) {
            self.waiting.entry(claim_class(&claim).to_owned()).or_default().insert((created(&*claim), key.clone()));
        } else if !volume_name(&claim).is_empty() {
            self.asking.entry(volume_name(&claim).to_owned()).or_default().insert(key.clone());
        }
        self.claims.insert(key, claim);
    }

    fn remove_claim(&mut self, key: &ObjectKey) {
        let Some(claim) = self.claims.remove(key) else { return };
        if waits(&claim) {
            drop_from(&mut self.waiting, &claim_class(&claim).to_owned(), &(created(&*claim), key.clone()));
        } else {
            drop_from(&mut self.asking, &volume_name(&claim).to_owned(), key);
        }
    }

    /// The best volume for a claim (upstream `findByClaim`): by sets of modes from the smallest, of each first one that names the
    /// claim, then the smallest of those that are free.
    fn best(&self, claim: &PersistentVolumeClaim, free: Option<&Free>) -> Option<Arc<PersistentVolume>> {
        let (wish, wanted) = (Wish::of(claim), Modes::of(claim.spec.as_ref().and_then(|s| s.access_modes.as_ref())));
        let of_claim = self.given.get(&claim.key()).into_iter().flatten().filter_map(|name| self.volumes.get(name));
        let own: Vec<(Modes, &Arc<PersistentVolume>)> = of_claim.filter(|v| is_bound_to(v, claim) && wish.fits(v)).map(|v| (modes_of(v), v)).collect();
        let sets: BTreeSet<Modes> = own.iter().map(|(m, _)| *m).chain(free.into_iter().flat_map(BTreeMap::keys).copied()).collect();
        sets.into_iter().filter(|modes| modes.hold(wanted)).find_map(|modes| {
            let of_claim = own.iter().find(|(m, _)| *m == modes).map(|(_, v)| (*v).clone());
            of_claim.or_else(|| self.smallest(&wish, claim_class(claim), modes, free?.get(&modes)?))
        })
    }

    /// The smallest of free volumes that suits.
    fn smallest(&self, wish: &Wish, class: &str, modes: Modes, free: &BySize) -> Option<Arc<PersistentVolume>> {
        let suits = |at: &&(Quantity, String)| !self.held.contains_key(&at.1) && self.volumes.get(&at.1).is_some_and(|v| wish.chooses(v));
        let least = (wish.size, String::new());
        let at = match wish.label() {
            None => free.range(least..).find(suits),
            Some((key, values)) => {
                let of_label = |value: &String| self.labelled.get(&(class.to_owned(), key.to_owned(), value.clone()))?.get(&modes);
                let large_enough = values.iter().filter_map(of_label).map(|by_size| by_size.range(least.clone()..));
                large_enough.filter_map(|mut sizes| sizes.find(|at| free.contains(*at) && suits(at))).min()
            }
        };
        self.volumes.get(&at?.1).cloned()
    }

    /// The class of a claim that waited, if others of it wait while volumes are free.
    fn left_behind(&self, waited: Option<Arc<PersistentVolumeClaim>>) -> Option<String> {
        let class = claim_class(waited.as_deref()?);
        (self.free.contains_key(class) && self.waiting.contains_key(class)).then(|| class.to_owned())
    }

    /// The claim, if it waits.
    fn if_waiting(&self, key: &ObjectKey) -> Option<Arc<PersistentVolumeClaim>> {
        self.claims.get(key).filter(|c| waits(c)).cloned()
    }
}

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, All> {
        self.all.lock()
    }

    /// What the informer told; returns whether the volume is free, and was not or was another kind of volume.
    pub(super) fn heard_volume(&self, change: &Delta<PersistentVolume>) -> bool {
        let mut all = self.lock();
        match change {
            Delta::Deleted(volume) => {
                all.remove_volume(volume.name());
                false
            }
            Delta::Added(volume) | Delta::Updated { new: volume, .. } => !is_newer(all.volumes.get(volume.name()), &**volume) && all.put_volume(volume.clone()),
        }
    }

    /// What the informer told; returns the class whose claims are to be matched again: one that waited does not any more, and perhaps
    /// what was free was meant for it.
    pub(super) fn heard_claim(&self, change: &Delta<PersistentVolumeClaim>) -> Option<String> {
        let mut all = self.lock();
        let claim = change.object();
        let waited = all.if_waiting(&claim.key());
        match change {
            Delta::Deleted(_) => all.remove_claim(&claim.key()),
            Delta::Added(_) | Delta::Updated { .. } if is_newer(all.claims.get(&claim.key()), &**claim) => return None,
            Delta::Added(_) | Delta::Updated { .. } => all.put_claim(claim.clone()),
        }
        if all.if_waiting(&claim.key()).is_some() { None } else { all.left_behind(waited) }
    }

    /// The answer to an own write; returns what [`Self::heard_volume`] does.
    pub(super) fn wrote_volume(&self, volume: &Arc<PersistentVolume>) -> bool {
        let mut all = self.lock();
        let known = all.volumes.get(volume.name()).is_some_and(|k| k.uid() == volume.uid() && revision(&**k) <= revision(&**volume));
        known && all.put_volume(volume.clone())
    }

    /// The answer to an own write; returns what [`Self::heard_claim`] does.
    pub(super) fn wrote_claim(&self, claim: &Arc<PersistentVolumeClaim>) -> Option<String> {
        let mut all = self.lock();
        if all.claims.get(&claim.key()).is_none_or(|k| k.uid() != claim.uid() || revision(&**k) > revision(&**claim)) {
            return None;
        }
        let waited = all.if_waiting(&claim.key());
        all.put_claim(claim.clone());
        if waits(claim) { None } else { all.left_behind(waited) }
    }

    pub(super) fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.lock().volumes.get(name).cloned()
    }

    pub(super) fn claim(&self, key: &ObjectKey) -> Option<Arc<PersistentVolumeClaim>> {
        self.lock().claims.get(key).cloned()
    }

    /// Volumes that name a claim.
    pub(super) fn given(&self, claim: &ObjectKey) -> Vec<String> {
        self.lock().given.get(claim).into_iter().flatten().cloned().collect()
    }

    /// Claims that name a volume.
    pub(super) fn asking(&self, volume: &str) -> Vec<ObjectKey> {
        self.lock().asking.get(volume).into_iter().flatten().cloned().collect()
    }

    /// Claims of a class that name no volume and have had none, the oldest first.
    pub(super) fn waiting(&self, class: &str) -> Vec<ObjectKey> {
        self.lock().waiting.get(class).into_iter().flatten().map(|(_, key)| key.clone()).collect()
    }

    /// Whether a claim has neither a volume nor the name of one.
    pub(super) fn is_waiting(&self, claim: &ObjectKey) -> bool {
        self.lock().claims.get(claim).is_some_and(|c| waits(c))
    }

    /// The best volume for a claim, held for the caller. A class that waits for a pod leaves the free ones to the scheduler.
    pub(super) fn choose(&self, claim: &PersistentVolumeClaim, waits_for_pod: bool) -> Option<Hold<'_>> {
        let mut all = self.lock();
        let free = all.free.get(claim_class(claim)).filter(|_| !waits_for_pod);
        let volume = all.best(claim, free)?;
        // One that names the claim is held as well, perhaps twice: it is nobody else's.
        all.held.insert(volume.name().to_owned(), claim.key());
        Some(Hold { shelf: self, volume })
    }

    /// The claims of a class that would find a volume now, each another one. A claim that holds one already is none of them.
    pub(super) fn matches(&self, class: &str) -> Vec<ObjectKey> {
        let all = self.lock();
        let (Some(mut free), Some(waiting)) = (all.free.get(class).cloned(), all.waiting.get(class)) else { return Vec::new() };
        let holding: HashSet<&ObjectKey> = all.held.values().collect();
        let mut found = Vec::new();
        for (_, key) in waiting.iter().filter(|(_, key)| !holding.contains(key)) {
            let Some(volume) = all.claims.get(key).and_then(|claim| all.best(claim, Some(&free))) else { continue };
            let (modes, place) = (modes_of(&volume), (capacity(&volume), volume.name().to_owned()));
            if let Some(by_size) = free.get_mut(&modes) {
                by_size.remove(&place);
                free.retain(|_, by_size| !by_size.is_empty());
            }
            found.push(key.clone());
            if free.is_empty() {
                break;
            }
        }
        found
    }
}
