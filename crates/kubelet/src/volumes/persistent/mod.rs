//! Persistent volumes, and whatever else drivers bring to pods: found by a pod's claim, waited for, staged, published, grown, measured and
//! taken away.
//!
//! `spec` finds what is behind a pod's volume, `attach` waits for the cluster, `make` brings it, `undo` takes it away, `grow` makes it
//! larger, `local` and `device` know the volumes that are places of the node, `nfs` those of a file server. What happens to one volume happens one after the other (`slot`); nothing
//! that a driver does, or does not do, holds up another volume or another pod. What is on the host is the truth (`place`): a new process
//! looks there first ([`Persistent::adopt`]), and when it knows all pods it undoes what nobody has ([`Persistent::sweep`]).
//!
//! Where upstream's reconciler looks ten times a second, here stand: the pod's own set-up, which is tried again after a pause; a task for
//! each volume that is left; and the look at every pod once a minute, which publishes again what asks for it and grows what has become larger.

mod attach;
mod call;
mod device;
mod grow;
mod local;
mod make;
mod mounts;
mod nfs;
mod ownership;
mod place;
mod policy;
mod shared;
mod slot;
mod spec;
mod stats;
mod undo;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::volume::Drivers;
use k8s_openapi::api::core::v1::{Node, Pod, Volume};
use machinery::placement::{NodeSelector, Place};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use attach::{EXHAUSTED, LATE};
pub use call::Trouble;
pub use shared::share;
pub use spec::plugin_of_driver;
pub use stats::VolumeStats;

use super::Ready;
use super::looks::Looks;
use crate::api::SharedApi;
use crate::counts::Counts;
use crate::cri::PodUid;
use crate::util;
use make::Job;
use place::Places;
use policy::Policy;
use slot::{Slot, Slots, Step, Use};
use spec::{Csi, Kind, Spec};

/// The persistent volumes of this node. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Persistent(Arc<Inner>);

struct Inner {
    root: PathBuf,
    places: Places,
    node_name: String,
    api: SharedApi,
    drivers: Drivers,
    looks: Looks,
    /// Those for figures alone: whatever hangs of them, pods are set up.
    figures: Looks,
    slots: Slots,
    /// Told when what the node has in use may have changed.
    changed: watch::Sender<()>,
    /// What the node's status says is in use.
    reported: watch::Sender<BTreeSet<String>>,
    /// Held while the file system of a local device is mounted or unmounted; never over anything of a directory, which may hang.
    local: device::Locks,
    /// Drivers that did not tell in time how full their volumes are, and when.
    slow: Mutex<HashMap<String, tokio::time::Instant>>,
    /// How full pods' volumes were, and when.
    measured: Mutex<HashMap<PodUid, (tokio::time::Instant, Vec<VolumeStats>)>>,
    /// Local volumes that are to grow, by name.
    growing: Mutex<HashMap<String, Arc<Slot>>>,
    counts: Counts,
    stop: CancellationToken,
}

/// Whether a volume of a pod is for this module.
#[must_use]
pub fn is_persistent(volume: &Volume) -> bool {
    volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() || volume.csi.is_some() || volume.nfs.is_some() || volume.iscsi.is_some()
}

/// What the original tells where the host has not the program that logs in to such a disk.
fn unreached(found: &Spec) -> Trouble {
    let (step, why) = ("WaitForAttach", "exec: \"iscsiadm\": executable file not found in $PATH");
    if found.block { Trouble::map(&format!("MapVolume.{step}"), &found.name, why) } else { Trouble::mount(&format!("MountVolume.{step}"), &found.name, why) }
}

/// Whether a container of the pod uses a volume: others are not made.
#[must_use]
pub fn is_used(pod: &Pod, volume: &str) -> bool {
    let (mounts, devices) = spec::used(pod);
    mounts.contains(volume) || devices.contains(volume)
}

impl Persistent {
    /// No volumes yet.
    #[must_use]
    pub fn new(root: &Path, node_name: &str, api: SharedApi, drivers: Drivers, looks: Looks, counts: Counts, stop: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            root: root.to_owned(),
            places: Places::new(root),
            node_name: node_name.to_owned(),
            api,
            drivers,
            looks,
            figures: Looks::default(),
            slots: Slots::default(),
            changed: watch::Sender::new(()),
            reported: watch::Sender::default(),
            local: device::Locks::default(),
            slow: Mutex::default(),
            measured: Mutex::default(),
            growing: Mutex::default(),
            counts,
            stop,
        }))
    }

    /// Where work with volumes is counted.
    pub(super) fn counts(&self) -> &Counts {
        &self.0.counts
    }

    /// The drivers of this node.
    #[must_use]
    pub fn drivers(&self) -> &Drivers {
        &self.0.drivers
    }

    /// Takes note of what a former process left on the host. Blocks on the disk.
    pub fn adopt(&self) {
        for found in self.0.places.found() {
            let ephemeral = found.data.get("volumeLifecycleMode") == "Ephemeral";
            let csi = Csi { driver: found.data.get("driverName").to_owned(), handle: found.data.get("volumeHandle").to_owned(), ephemeral, ..Csi::default() };
            let mine = Use { name: found.name.clone(), block: found.block, published: Step::Perhaps, found: true, ..Use::default() };
            self.0.slots.find(&csi.key(&found.uid, &found.name), |state| {
                (state.driver, state.handle, state.ephemeral) = (csi.driver.clone(), csi.handle.clone(), ephemeral);
                // Whether it is one that is attached is not known before its driver's object is.
                state.attaches = !ephemeral;
                if found.block {
                    state.device = Some(found.name.clone());
                }
                state.pods.insert(PodUid(found.uid.clone()), mine);
            });
        }
        for found in self.0.places.found_staged() {
            let csi = Csi { driver: found.data.get("driverName").to_owned(), handle: found.data.get("volumeHandle").to_owned(), ..Csi::default() };
            self.0.slots.find(&csi.key("", ""), |state| {
                (state.driver, state.handle) = (csi.driver.clone(), csi.handle.clone());
                (state.staged, state.attaches) = (Step::Perhaps, true);
                if found.device.is_some() {
                    state.device = found.device;
                }
            });
        }
    }

    /// All pods of this node are known: what no pod has is undone.
    pub async fn sweep(&self) {
        for slot in self.0.slots.all() {
            let driver = slot.state.lock().driver.clone();
            if let Ok(policy) = Policy::of(&self.0.api, &driver).await {
                let mut state = slot.state.lock();
                state.attaches = policy.attaches() && !state.ephemeral;
            }
            self.undo_if_left(&slot);
        }
        self.0.changed.send_replace(());
    }

    /// The volumes that may be attached for this node, for its status.
    #[must_use]
    pub fn in_use(&self) -> Vec<String> {
        self.0.slots.attached()
    }

    /// Told when that changes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// The node's status says so now.
    pub fn reported(&self, in_use: &[String]) {
        self.0.reported.send_if_modified(|told| {
            let new: BTreeSet<String> = in_use.iter().cloned().collect();
            let changed = *told != new;
            *told = new;
            changed
        });
    }

    /// Brings a volume to a pod; what is there already is used. Whoever stops waiting does not stop the driver.
    pub async fn set_up(&self, pod: &Arc<Pod>, volume: &Volume, node: Option<&Node>) -> Result<Ready, Trouble> {
        let found = spec::find(&self.0.api, pod, volume).await.map_err(Trouble::unprocessed)?;
        let begun = tokio::time::Instant::now();
        let brought = self.by_kind(pod, &found, node).await;
        let (plugin, what) = (found.plugin(), if found.block { "map_volume" } else { "volume_mount" });
        self.0.counts.storage(&plugin, what, begun.elapsed(), brought.is_ok());
        brought.map(|ready| Ready { group: found.group(), plugin, ..ready })
    }

    async fn by_kind(&self, pod: &Arc<Pod>, found: &Spec, node: Option<&Node>) -> Result<Ready, Trouble> {
        self.check(found, node).await?;
        match &found.kind {
            Kind::Host(v) => self.host_path(pod, found, v).await,
            Kind::Local(v) => self.local(pod, found, v).await,
            Kind::Nfs(v) => self.nfs(pod, found, v).await,
            Kind::Iscsi => Err(unreached(found)),
            Kind::Csi(csi) => self.csi(pod, found, csi).await,
        }
    }

    /// The volume is one of this node's.
    async fn check(&self, found: &Spec, node: Option<&Node>) -> Result<(), Trouble> {
        let required = found.volume.as_ref().and_then(|v| v.spec.as_ref()?.node_affinity.as_ref()?.required.as_ref());
        let Some(required) = required else { return Ok(()) };
        let step = if found.block { "MapVolume.NodeAffinity check" } else { "MountVolume.NodeAffinity check" };
        // Just after a start nobody has read the node yet, and pods run already: they are told of no trouble that is none.
        let read = match node {
            Some(_) => None,
            None => self.0.api.get_node(&self.0.node_name).await.ok().flatten(),
        };
        // Whose labels are not known may be another's: it is tried again.
        let Some(node) = node.or(read.as_ref()) else { return Err(Trouble::mount(step, &found.name, "error getting node labels")) };
        if NodeSelector::new(required).matches(Place::new(&self.0.node_name, node.metadata.labels.as_ref())) {
            return Ok(());
        }
        Err(Trouble::mount(step, &found.name, "no matching NodeSelectorTerms"))
    }

    async fn csi(&self, pod: &Arc<Pod>, found: &Spec, csi: &Csi) -> Result<Ready, Trouble> {
        let policy = Policy::of(&self.0.api, &csi.driver).await.map_err(|e| Trouble::mount("MountVolume.SetUp", &found.name, e))?;
        let (slot, attaches) = (self.want(pod, found, csi, &policy), policy.attaches() && !csi.ephemeral);
        let uid = PodUid(util::uid(pod).to_owned());
        let ready = |path| Ready { path, readonly: found.readonly, device: found.block, ..Ready::default() };
        let attached = if attaches { self.wait_attached(&slot.key, found, csi, &policy).await? } else { std::collections::BTreeMap::new() };
        self.pause(&slot).await;
        let job = Job { pod: Arc::clone(pod), uid, spec: found.clone(), csi: csi.clone(), policy, slot, attached, again: false };
        match tokio::spawn(self.clone().make(job)).await {
            Ok(made) => made.map(ready),
            Err(e) => Err(Trouble::mount("MountVolume.SetUp", &found.name, format!("the driver's call failed: {e}"))),
        }
    }

    /// Notes that a pod wants a volume, before anything is done for it.
    fn want(&self, pod: &Pod, found: &Spec, csi: &Csi, policy: &Policy) -> Arc<Slot> {
        let uid = PodUid(util::uid(pod).to_owned());
        let wanted = Use { name: found.name.clone(), outer: BTreeSet::from([found.outer.clone()]), block: found.block, ..Use::default() };
        let slot = self.0.slots.want(&csi.key(&uid.0, &found.name), &uid, wanted, |state| {
            (state.driver, state.handle, state.ephemeral) = (csi.driver.clone(), csi.handle.clone(), csi.ephemeral);
            state.attaches = policy.attaches() && !csi.ephemeral;
        });
        self.0.changed.send_replace(());
        slot
    }

    async fn wait_attached(&self, key: &str, found: &Spec, csi: &Csi, policy: &Policy) -> Result<std::collections::BTreeMap<String, String>, Trouble> {
        let mut reported = self.0.reported.subscribe();
        let attached = async {
            let _ = reported.wait_for(|told| told.contains(key)).await;
            self.attached(key, csi).await
        };
        let step = if found.block { "MapVolume.WaitForAttach" } else { "MountVolume.WaitForAttach" };
        match tokio::time::timeout(attach::WAIT_MAX, attached).await {
            Ok(told) => told.map_err(|e| if found.block { Trouble::map(step, &found.name, e) } else { Trouble::mount(step, &found.name, e) }),
            Err(_) if policy.counts_again() && self.is_exhausted(csi).await => Err(Trouble { reason: EXHAUSTED, message: LATE.into() }),
            Err(_) => Err(Trouble::unprocessed(LATE.into())),
        }
    }

    /// After a call that failed, the next waits; not for a driver that has just come.
    async fn pause(&self, slot: &Slot) {
        let waits = slot.state.lock().not_before();
        let Some(until) = waits else { return };
        let mut drivers = self.0.drivers.changes();
        tokio::select! {
            () = tokio::time::sleep_until(until) => {}
            Ok(()) = drivers.changed() => {}
        }
    }

    /// The look at a volume that a pod uses: published again where its driver asks for that, grown where it has become larger.
    pub async fn look(&self, pod: &Arc<Pod>, volume: &Volume) -> Result<(), Trouble> {
        let found = spec::find(&self.0.api, pod, volume).await.map_err(Trouble::unprocessed)?;
        let csi = match &found.kind {
            Kind::Csi(csi) => csi,
            Kind::Local(v) => return self.grow_local_in_use(pod, &found, Path::new(&v.path)).await,
            Kind::Host(_) | Kind::Nfs(_) | Kind::Iscsi => return Ok(()),
        };
        let uid = PodUid(util::uid(pod).to_owned());
        let Some(slot) = self.0.slots.get(&csi.key(&uid.0, &found.name)) else { return Ok(()) };
        let policy = Policy::of(&self.0.api, &csi.driver).await.map_err(Trouble::unprocessed)?;
        let published = slot.state.lock().pods.get(&uid).is_some_and(|mine| mine.published == Step::Done);
        if published && !found.block && policy.republishes() {
            self.pause(&slot).await;
            let attached = match policy.attaches() && !csi.ephemeral {
                // Without what it tells, the driver would publish another volume than before.
                true => self.attachment(csi).await.map_err(Trouble::unprocessed)?,
                false => std::collections::BTreeMap::new(),
            };
            let job = Job { pod: Arc::clone(pod), uid, spec: found.clone(), csi: csi.clone(), policy, slot: Arc::clone(&slot), attached, again: true };
            let made = tokio::spawn(self.clone().make(job)).await;
            made.unwrap_or_else(|e| Err(Trouble::mount("MountVolume.SetUp", &found.name, e)))?;
        }
        let (all, pod) = (self.clone(), Arc::clone(pod));
        // As every call of a driver, in a task of its own.
        let grown = tokio::spawn(async move { all.grow_in_use(&pod, &found, &slot).await });
        grown.await.unwrap_or_else(|e| Err(Trouble::unprocessed(e.to_string())))
    }
}
