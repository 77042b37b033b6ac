//! Pods: one worker each, which plans, acts, and tells the API.

pub mod backoff;
mod begun;
pub mod cleanup;
pub mod duties;
mod grow;
pub mod kill;
pub mod lost;
pub mod manager;
pub mod messages;
pub mod ops;
pub mod plan;
pub(crate) mod refusals;
pub mod remains;
pub mod resize;
pub mod setup;
pub mod status;
mod work;
pub mod worker;

#[cfg(test)]
mod device_lives;
#[cfg(test)]
mod evict_lives;
#[cfg(test)]
mod lives;
#[cfg(test)]
mod resize_lives;
#[cfg(test)]
mod shutdown_lives;
#[cfg(test)]
mod static_lives;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use k8s_openapi::api::core::v1::{Node, Pod, PodStatus};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, broadcast, watch};

use crate::api::SharedApi;
use crate::cgroups::Cgroups;
use crate::config::Config;
use crate::cri::{ContainerId, PodUid, SharedNet, SharedRuntime};
use crate::devices::Devices;
use crate::env::downward::Facts;
use crate::graceful::Ending;
use crate::images::Images;
use crate::machine::Machine;
use crate::pod_resources;
use crate::pods_api::wire::EventType;
use crate::pods_api::{self, Change};
use crate::probes::counts::Counts;
use crate::probes::results::Results;
use crate::reserve;
use crate::resources;
use crate::shortage::Pressure;
use crate::util;
use crate::volumes::looks::Looks;
use crate::volumes::persistent::Persistent;
use crate::volumes::watches::Watches;
use crate::walks::Walks;

/// Answers the pods that have not ended, but for one.
pub type Others = dyn Fn(&PodUid) -> Vec<Arc<Pod>> + Send + Sync;

/// What all workers share.
pub struct Context {
    /// Configuration.
    pub config: Config,
    /// The API server.
    pub api: SharedApi,
    /// The runtime.
    pub runtime: SharedRuntime,
    /// The pod network.
    pub net: SharedNet,
    /// Watches on referenced objects.
    pub watches: Watches,
    /// Looks at places of the host that may hang.
    pub looks: Looks,
    /// Volumes that drivers bring.
    pub persistent: Persistent,
    /// Devices that claims bring.
    pub devices: Devices,
    /// What pods take of the node's disk.
    pub walks: Walks,
    /// Image pulls.
    pub images: Images,
    /// Cgroups of pods.
    pub cgroups: Cgroups,
    /// What the machine has.
    pub machine: Machine,
    /// Scheme of container IDs in statuses (`knarr`).
    pub scheme: String,
    /// When this process's kubelet started: what ran before is adopted.
    pub started: SystemTime,
    /// The pods of this node that have not ended, but for one.
    pub others: Box<Others>,
    /// The node's object as last seen: labels, taints, what it can give.
    pub node: RwLock<Option<Arc<Node>>>,
    /// Held by who judges whether something fits on the node, until it counts there.
    pub judging: Mutex<()>,
    /// Whether all pods of this node are known: after a start some may have taken what another asks for.
    pub all_known: watch::Sender<bool>,
    /// What the node runs short of.
    pub pressure: Pressure,
    /// That the machine goes down.
    pub ending: Ending,
    /// What probes came to.
    pub probed: Counts,
    /// What else is counted.
    pub counts: crate::counts::Counts,
    /// How often pods' devices were asked for.
    pub pod_resources: pod_resources::Counts,
}

impl Context {
    /// What it takes to stop a container, and to tell of it.
    #[must_use]
    pub fn hands(&self) -> kill::Hands {
        kill::Hands { runtime: Arc::clone(&self.runtime), api: Some(Arc::clone(&self.api)) }
    }

    /// Now, by the kubelet's clock.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        self.config.clock.now()
    }

    /// Weighs the pods' classes anew; one that goes counts no more. Blocks on the kernel's files.
    pub fn balance(&self, going: Option<&Pod>) {
        let nobody = PodUid(going.map(|p| util::uid(p).to_owned()).unwrap_or_default());
        let whole = reserve::pods_shares(&self.config.settings, self.machine.cpu_milli);
        self.cgroups.balance(&(self.others)(&nobody), whole);
    }

    /// What pods can ask for of CPU (in thousandths) or memory. What stands by for those who ask for huge pages is nobody's memory.
    #[must_use]
    pub fn allocatable(&self, name: &str) -> i64 {
        let settings = &self.config.settings;
        match name {
            "cpu" => reserve::allocatable(settings, name, self.machine.cpu_milli),
            _ => {
                let pages = self.machine.huge_pages.values().fold(0_i64, |sum, n| sum.saturating_add(*n));
                reserve::allocatable(settings, name, self.machine.memory_bytes).saturating_sub(pages).max(0)
            }
        }
    }

    /// Bytes of the node's disk that pods can ask for, as its object tells.
    fn allocatable_storage(&self) -> i64 {
        let node = self.node.read();
        let told = node.as_ref().and_then(|n| n.status.as_ref()?.allocatable.as_ref()?.get("ephemeral-storage"));
        told.map_or(0, resources::value)
    }

    /// What the downward API tells about a pod.
    #[must_use]
    pub fn facts<'a>(&'a self, pod: &'a Pod, pod_ips: &'a [IpAddr]) -> Facts<'a> {
        Facts {
            pod,
            node_name: &self.config.node_name,
            host_ips: &self.machine.host_ips,
            pod_ips,
            node_cpu_milli: self.allocatable("cpu"),
            node_memory_bytes: self.allocatable("memory"),
            node_storage_bytes: self.allocatable_storage(),
        }
    }
}

/// Why a pod must go though it did nothing, and how soon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// The reason in its status and Event.
    pub reason: String,
    /// The message there.
    pub message: String,
    /// The message of its condition `DisruptionTarget`, if it is to have one.
    pub condition: Option<String>,
    /// What it gets between its stop signal and the end.
    pub grace: std::time::Duration,
    /// Whether it makes room: an Event tells of it, and what it wrote goes at once.
    pub for_room: bool,
}

/// One pod, as the manager, the probes and the server share it with its worker.
pub struct Handle {
    /// The pod's UID.
    pub uid: PodUid,
    pod: RwLock<Arc<Pod>>,
    gone: AtomicBool,
    /// Not let in: it takes nothing of the node, also while its status does not tell so yet.
    refused: AtomicBool,
    emptied: watch::Sender<bool>,
    stale: AtomicBool,
    evicted: Mutex<Option<Eviction>>,
    leaving: AtomicBool,
    notify: Notify,
    results: Mutex<HashMap<ContainerId, Results>>,
    /// Of a static pod: what shows it in the API.
    mirror: RwLock<Option<Arc<Pod>>>,
    status: Mutex<PodStatus>,
    ips: Mutex<Vec<IpAddr>>,
    /// Whose volumes it has: the plugin of each.
    mounted: Mutex<Vec<String>>,
    /// Who watches the node's pods, and whether they could have heard of this one.
    watched: OnceLock<broadcast::Sender<Change>>,
    seen: AtomicBool,
}

impl Handle {
    /// A handle for a pod just seen.
    #[must_use]
    pub fn new(pod: Arc<Pod>) -> Self {
        Self {
            uid: PodUid(util::uid(&pod).to_owned()),
            status: Mutex::new(pod.status.clone().unwrap_or_default()),
            pod: RwLock::new(pod),
            gone: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            emptied: watch::Sender::new(false),
            stale: AtomicBool::new(false),
            evicted: Mutex::default(),
            leaving: AtomicBool::new(false),
            notify: Notify::new(),
            results: Mutex::default(),
            mirror: RwLock::default(),
            ips: Mutex::default(),
            mounted: Mutex::default(),
            watched: OnceLock::new(),
            seen: AtomicBool::new(false),
        }
    }

    /// Who is to hear of it. The first stays.
    fn watched_by(&self, told: broadcast::Sender<Change>) {
        let _ = self.watched.set(told);
    }

    /// Sets what is known of it, and tells who watches the node's pods if that is news.
    fn set_status(&self, status: &PodStatus) {
        let is_news = {
            let mut held = self.status.lock();
            let is_news = *held != *status;
            held.clone_from(status);
            is_news
        };
        let first = !self.seen.swap(true, Ordering::AcqRel);
        if is_news || first {
            self.tell(if first { EventType::Added } else { EventType::Modified }, |handle| handle.pod_with_status());
        }
    }

    /// Tells who watches that nothing of it is left.
    fn tell_gone(&self) {
        self.tell(EventType::Deleted, |handle| pods_api::gone(&handle.pod()));
    }

    fn tell(&self, what: EventType, pod: impl FnOnce(&Self) -> Pod) {
        if let Some(told) = self.watched.get().filter(|told| told.receiver_count() > 0) {
            // Whoever listened may have left since.
            let _ = told.send(Change { what, pod: Arc::new(pod(self)) });
        }
    }

    /// The pod as the API has it.
    #[must_use]
    pub fn pod(&self) -> Arc<Pod> {
        Arc::clone(&self.pod.read())
    }

    /// The pod as it counts for the node: with what it has, while it asks for more than there is.
    #[must_use]
    pub fn granted(&self) -> Arc<Pod> {
        let pod = self.pod();
        let status = self.status.lock();
        if resize::is_pending(&status) { Arc::new(resize::as_told(&pod, &status)) } else { pod }
    }

    /// What the pod waited for is granted: it counts from now on, though its status tells it later.
    fn grant(&self) {
        let mut status = self.status.lock();
        if let Some(told) = &mut status.conditions {
            told.retain(|c| c.type_ != "PodResizePending");
        }
    }

    /// The pod changed in the API.
    pub fn update(&self, pod: Arc<Pod>) {
        let before = std::mem::replace(&mut *self.pod.write(), Arc::clone(&pod));
        // Labels, annotations and resources are shown by downward API volumes.
        let given = |p: &Pod| {
            let of_containers = p.spec.iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten())).map(|c| c.resources.clone());
            of_containers.chain(p.spec.iter().map(|s| s.resources.clone())).collect::<Vec<_>>()
        };
        if before.metadata.labels != pod.metadata.labels || before.metadata.annotations != pod.metadata.annotations || given(&before) != given(&pod) {
            self.stale.store(true, Ordering::Release);
        }
        self.wake();
    }

    /// The pod of the API that shows this one, which is static; its worker hears of it.
    pub fn set_mirror(&self, mirror: Option<Arc<Pod>>) {
        let key = |m: &Option<Arc<Pod>>| m.as_ref().map(Arc::as_ptr);
        let before = std::mem::replace(&mut *self.mirror.write(), mirror.clone());
        if key(&before) != key(&mirror) {
            self.wake();
        }
    }

    /// The pod of the API that shows this one, if it is static and shown.
    #[must_use]
    pub fn mirror(&self) -> Option<Arc<Pod>> {
        self.mirror.read().clone()
    }

    /// The pod was removed from the API, or its file from the node.
    pub fn remove(&self, last: Option<Arc<Pod>>) {
        if let Some(p) = last {
            *self.pod.write() = p;
        }
        self.gone.store(true, Ordering::Release);
        self.wake();
    }

    /// The pod must make room, or the machine ends: it is to end.
    pub fn evict(&self, eviction: Eviction) {
        self.leaving.store(true, Ordering::Release);
        *self.evicted.lock() = Some(eviction);
        self.wake();
    }

    /// Whether it is to end so, or does.
    #[must_use]
    pub fn is_evicted(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// Why it is to end so. That stays: a worker that is begun anew must know it as well.
    pub fn eviction(&self) -> Option<Eviction> {
        self.evicted.lock().clone()
    }

    /// Whether it was removed from the API.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// It was not let in.
    fn refuse(&self) {
        self.refused.store(true, Ordering::Release);
    }

    /// Whether it was not let in.
    fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Acquire)
    }

    /// Whose volumes it has: the plugin of each, as metrics name them.
    #[must_use]
    pub fn mounted(&self) -> Vec<String> {
        self.mounted.lock().clone()
    }

    /// Nothing of it is left on the host but what tells of it.
    fn set_emptied(&self) {
        self.mounted.lock().clear();
        self.emptied.send_replace(true);
    }

    /// Whether it has given back what it had on the host.
    #[must_use]
    pub fn is_emptied(&self) -> bool {
        *self.emptied.borrow()
    }

    /// Waits until it has.
    pub async fn emptied(&self) {
        // The sender is this handle's.
        let _ = self.emptied.subscribe().wait_for(|emptied| *emptied).await;
    }

    /// Volumes must be refreshed.
    pub fn mark_stale(&self) {
        self.stale.store(true, Ordering::Release);
        self.wake();
    }

    fn take_stale(&self) -> bool {
        self.stale.swap(false, Ordering::AcqRel)
    }

    /// Something changed; the worker looks.
    pub fn wake(&self) {
        self.notify.notify_one();
    }

    /// The pod with its newest status, which the API may not have yet.
    #[must_use]
    pub fn pod_with_status(&self) -> Pod {
        let mut pod = (*self.pod()).clone();
        pod.status = Some(self.status.lock().clone());
        pod
    }

    /// Whether it has ended for good.
    #[must_use]
    pub fn ended(&self) -> bool {
        matches!(self.status.lock().phase.as_deref(), Some("Succeeded" | "Failed"))
    }

    /// The pod's addresses.
    #[must_use]
    pub fn ips(&self) -> Vec<IpAddr> {
        self.ips.lock().clone()
    }

    /// A probe's finding; wakes the worker if it is news.
    pub fn set_result(&self, id: &ContainerId, change: impl FnOnce(&mut Results)) {
        let changed = {
            let mut all = self.results.lock();
            let slot = all.entry(id.clone()).or_default();
            let before = *slot;
            change(slot);
            before != *slot
        };
        if changed {
            self.wake();
        }
    }

    /// Findings of all probes.
    #[must_use]
    pub fn results(&self) -> HashMap<ContainerId, Results> {
        self.results.lock().clone()
    }

    fn keep_results(&self, keep: impl Fn(&ContainerId) -> bool) {
        self.results.lock().retain(|id, _| keep(id));
    }
}
