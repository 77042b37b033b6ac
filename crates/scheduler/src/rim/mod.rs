//! The rim: informers in, requests out. One task owns all state; what it decides is carried out by others (`write.rs`,
//! `bind.rs`), which report back.

mod bind;
mod devices;
mod extended;
mod write;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use client::{Client, Delta, Informer, Informers, Meta, ObjectKey, SeriesRecorder};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::resource::v1::ResourceClaim;
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cache::Cache;
use crate::framework::{Change, Nominated, Snapshot, Turn};
use crate::metrics::{Attempt, Stage, Status};
use crate::plugins::{dynamic_resources, volume_binding};
use crate::pod::{self, PodInfo};
use crate::preemption::Outcome;
use crate::profile::Profile;
use crate::queue::Queue;
use crate::schedule::{self, Decision, Failure};
use crate::world::World;
use crate::{Config, Error};
use bind::{NotBound, Undertaking};
use write::{Nomination, Note};

/// Decisions in a row before other tasks of this thread have their turn.
const TURN: usize = 32;

/// What other tasks report.
pub(crate) enum Report {
    /// A pod was not bound after all.
    NotBound(String, NotBound),
    /// A pod was bound.
    Bound(String),
    /// The victims of a preemption were told to go, or could not be.
    Preempted(String, bool),
    /// A claim got its devices: its name, UID, and revision then.
    Devices(ObjectKey, String, u64),
    /// A claim of a pod could not be given back: the pod's UID.
    NotFreed(String),
    /// A claim for which devices are chosen was made: the UID that stood for it, and its own.
    Claimed(String, String),
    /// Something other than a pod or node changed.
    Other(Other),
}

/// A change of something other than a pod or node.
pub(crate) enum Other {
    Claim(Delta<PersistentVolumeClaim>),
    Volume(Delta<PersistentVolume>),
    Class(Delta<StorageClass>),
    CsiNode(Delta<CSINode>),
    Driver(Delta<CSIDriver>),
    Capacity(Delta<CSIStorageCapacity>),
    Attachment(Delta<VolumeAttachment>),
    ResourceClaim(Delta<ResourceClaim>),
    DeviceClass,
    Devices,
    Namespace,
}

/// Each profile tells events under its own name.
#[derive(Clone)]
struct Recorders(Arc<HashMap<String, SeriesRecorder>>, SeriesRecorder);

impl Recorders {
    fn new(client: &Client, config: &Config) -> Self {
        let one = |name: &str| SeriesRecorder::new(client.clone(), name);
        Self(Arc::new(config.profiles.iter().map(|p| (p.name.clone(), one(&p.name))).collect()), one("default-scheduler"))
    }

    /// The one of a pod's profile.
    fn of(&self, pod: &Pod) -> &SeriesRecorder {
        self.0.get(pod::scheduler_name(pod)).unwrap_or(&self.1)
    }
}

/// An order to go that is being given.
struct Order {
    /// On this node.
    node: String,
    /// To whom.
    victims: Vec<String>,
    /// Whether something was to have the pod tried meanwhile.
    is_wanted: bool,
}

struct Scheduler {
    config: Config,
    client: Client,
    recorders: Recorders,
    world: World,
    cache: Cache,
    queue: Queue,
    nominated: Nominated,
    /// Pods whose victims are being told to go.
    preempting: HashMap<String, Order>,
    reports: UnboundedSender<Report>,
    notes: UnboundedSender<Note>,
    /// Placements that are being carried out and wait for volumes or devices.
    under_way: HashMap<String, Arc<Undertaking>>,
    /// Told of every change of a claim, of whatever kind, or a volume.
    changes: watch::Sender<()>,
    /// Where to begin looking in large clusters.
    start: usize,
    chance: u64,
}

pub(crate) async fn run(config: Config, client: Client, informers: Informers) -> Result<(), Error> {
    let world = World::new(&informers);
    let (pods, nodes) = (informers.informer::<Pod>(), informers.informer::<Node>());
    world.synced().await;
    pods.synced().await;
    nodes.synced().await;
    config.has_read.store(true, Ordering::Release);
    let (reports, receiver) = mpsc::unbounded_channel();
    let changes = watch::Sender::new(());
    follow_others(&world, &reports, &changes);
    let recorders = Recorders::new(&client, &config);
    let notes = write::start(client.clone(), recorders.clone(), pods.clone());
    let scheduler = Scheduler {
        queue: Queue::new(&config),
        config,
        client,
        recorders,
        world,
        cache: Cache::default(),
        nominated: Nominated::new(),
        preempting: HashMap::new(),
        reports,
        notes,
        under_way: HashMap::new(),
        changes,
        start: 0,
        chance: RandomState::new().hash_one(0) | 1,
    };
    scheduler.run(nodes.subscribe(), pods.subscribe(), receiver).await
}

/// Tells of changes to what may let in pods that wait for volumes, devices or namespaces.
fn follow_others(world: &World, reports: &UnboundedSender<Report>, changes: &watch::Sender<()>) {
    let (claims, volumes, device_claims) = (changes.clone(), changes.clone(), changes.clone());
    follow(&world.claims, reports, move |delta| {
        claims.send_replace(());
        Other::Claim(delta)
    });
    follow(&world.volumes, reports, move |delta| {
        volumes.send_replace(());
        Other::Volume(delta)
    });
    follow(&world.classes, reports, Other::Class);
    follow(&world.csi_nodes, reports, Other::CsiNode);
    follow(&world.drivers, reports, Other::Driver);
    follow(&world.capacities, reports, Other::Capacity);
    follow(&world.attachments, reports, Other::Attachment);
    follow(&world.resource_claims, reports, move |delta| {
        device_claims.send_replace(());
        Other::ResourceClaim(delta)
    });
    follow(&world.device_classes, reports, |_| Other::DeviceClass);
    follow(&world.slices, reports, |_| Other::Devices);
    follow(&world.taint_rules, reports, |_| Other::Devices);
    follow(&world.namespaces, reports, |_| Other::Namespace);
}

fn follow<K: client::Object>(informer: &Informer<K>, reports: &UnboundedSender<Report>, tell: impl Fn(Delta<K>) -> Other + Send + 'static) {
    let (mut changes, reports) = (informer.subscribe(), reports.clone());
    tokio::spawn(async move {
        while let Some(delta) = changes.recv().await {
            if reports.send(Report::Other(tell(delta))).is_err() {
                return;
            }
        }
    });
}

/// An object that came or changed; none: it went.
fn turn<K>(delta: &Delta<K>) -> Option<Turn<'_, K>> {
    match delta {
        Delta::Added(new) => Some(Turn { old: None, new }),
        Delta::Updated { old, new } => Some(Turn { old: Some(old), new }),
        Delta::Deleted(_) => None,
    }
}

/// The name of an event: something came, changed or went.
fn told<K>(delta: &Delta<K>, [added, updated, deleted]: [&'static str; 3]) -> &'static str {
    match delta {
        Delta::Added(_) => added,
        Delta::Updated { .. } => updated,
        Delta::Deleted(_) => deleted,
    }
}

impl Scheduler {
    async fn run(
        mut self,
        mut nodes: UnboundedReceiver<Delta<Node>>,
        mut pods: UnboundedReceiver<Delta<Pod>>,
        mut reports: UnboundedReceiver<Report>,
    ) -> Result<(), Error> {
        let mut turns = 0;
        loop {
            while let Ok(delta) = nodes.try_recv() {
                self.on_node(&delta);
            }
            while let Ok(delta) = pods.try_recv() {
                self.on_pod(&delta);
            }
            while let Ok(report) = reports.try_recv() {
                self.on_report(report);
            }
            self.count_cache();
            if let Some(pod) = self.queue.pop(Instant::now()) {
                self.place(&pod).await;
                turns += 1;
                if turns % TURN == 0 {
                    tokio::task::yield_now().await;
                }
                continue;
            }
            let deadline = self.queue.deadline();
            let sleep = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                delta = nodes.recv() => self.on_node(&delta.ok_or(Error::Ended)?),
                delta = pods.recv() => self.on_pod(&delta.ok_or(Error::Ended)?),
                report = reports.recv() => if let Some(report) = report { self.on_report(report) },
                () = sleep => {}
            }
        }
    }

    fn change(&mut self, change: &Change<'_>) {
        self.queue.change(change, Instant::now());
    }

    fn count_cache(&self) {
        let (cache, (pods, assumed)) = (&self.config.metrics.cache, self.cache.pods());
        for (gauge, count) in [(&cache.nodes, self.cache.nodes().len()), (&cache.pods, pods), (&cache.assumed, assumed)] {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Counts how long was worked on an event that came then.
    fn handled(&self, event: &'static str, since: Instant) {
        self.config.metrics.events.with([event]).took(since.elapsed());
    }

    fn on_node(&mut self, delta: &Delta<Node>) {
        let now = Instant::now();
        self.take_node(delta, now);
        self.handled(told(delta, ["NodeAdd", "NodeUpdate", "NodeDelete"]), now);
    }

    fn take_node(&mut self, delta: &Delta<Node>, now: Instant) {
        let (Delta::Added(node) | Delta::Updated { new: node, .. }) = delta else {
            let node = delta.object();
            self.call_off_on(node.name());
            self.cache.remove_node(node.name());
            return self.queue.change(&Change::NodeRemoved(node), now);
        };
        let old = self.cache.set_node(node.clone());
        let Some(info) = self.cache.node(node.name()) else {
            return;
        };
        match &old {
            Some(old) => self.queue.change(&Change::NodeUpdated { old, new: info }, now),
            None => self.queue.change(&Change::NodeAdded(info), now),
        }
    }

    /// A node is gone: who waits for volumes there waits in vain (upstream `checkBindings`).
    fn call_off_on(&self, node: &str) {
        let why = format!("binding volumes: failed to get node {node:?}: node {node:?} not found");
        for pod in self.cache.node(node).into_iter().flat_map(|n| &n.pods) {
            if let Some(undertaking) = self.under_way.get(pod.pod.uid()) {
                undertaking.call_off(&why);
            }
        }
    }

    fn on_pod(&mut self, delta: &Delta<Pod>) {
        let (since, is_placed) = (Instant::now(), !pod::node_name(delta.object()).is_empty());
        self.take_pod(delta);
        let events = match is_placed {
            true => ["AssignedPodAdd", "AssignedPodUpdate", "AssignedPodDelete"],
            false => ["UnscheduledPodAdd", "UnscheduledPodUpdate", "UnscheduledPodDelete"],
        };
        self.handled(told(delta, events), since);
    }

    fn take_pod(&mut self, delta: &Delta<Pod>) {
        let pod = delta.object();
        let gone = matches!(delta, Delta::Deleted(_)) || pod::is_finished(pod);
        let node = pod::node_name(pod);
        if gone || !node.is_empty() {
            self.queue.remove(pod.uid());
            self.give_back(pod.uid(), node);
        }
        if gone {
            self.preempting.remove(pod.uid());
            if let Some(undertaking) = self.under_way.remove(pod.uid()) {
                undertaking.call_off(&format!("binding volumes: pod does not exist any more: pod {:?} not found", pod.name()));
            }
            if let Some(last) = self.cache.remove(pod.uid()) {
                self.change(&Change::PodGone(&last));
            }
        } else if !node.is_empty() {
            let info = Self::info(self.cache.pod(pod.uid()), pod);
            match self.cache.place(info.clone(), node) {
                Some(old) => self.change(&Change::PodUpdated { old: &old, new: &info }),
                None => self.change(&Change::PodPlaced(&info)),
            }
        } else if self.config.profiles.get(pod::scheduler_name(pod)).is_some() {
            let known = self.queue.get(pod.uid());
            let before = known.map(|known| known.nominated().to_owned()).unwrap_or_default();
            let info = Self::info(known, pod);
            // By a former process, or by somebody who knows where it is to go; what is about to be bound has its node.
            if info.nominated() != before && !self.cache.contains(pod.uid()) {
                self.give_back(pod.uid(), info.nominated());
                if !info.nominated().is_empty() {
                    self.nominate(pod.uid(), Some((info.nominated().to_owned(), info.clone())));
                }
            }
            let held = self.waits_for_claims(&info);
            self.queue.upsert(info, held, Instant::now());
        }
    }

    /// A pod's state; what it has in common with the one before is taken over.
    fn info(before: Option<&Arc<PodInfo>>, pod: &Arc<Pod>) -> Arc<PodInfo> {
        Arc::new(before.map_or_else(|| PodInfo::new(pod.clone()), |known| known.next(pod.clone())))
    }

    fn on_report(&mut self, report: Report) {
        match report {
            Report::NotBound(uid, why) => self.not_bound(&uid, why),
            Report::Bound(uid) => drop(self.under_way.remove(&uid)),
            Report::Devices(key, uid, revision) => {
                let now = self.world.resource_claims.get_key(&key);
                self.world.assumed.wrote_devices(&uid, revision, now.as_deref());
            }
            Report::NotFreed(uid) => self.queue.retry(&uid, Instant::now()),
            Report::Claimed(before, uid) => self.world.assumed.made_claim(&before, &uid),
            Report::Preempted(uid, done) => self.preempted(&uid, done),
            Report::Other(other) => self.on_other(&other),
        }
    }

    fn on_other(&mut self, other: &Other) {
        let since = Instant::now();
        let change = match other {
            Other::Claim(delta) => {
                let claim = delta.object();
                self.world.assumed.heard_claim(&claim.key(), self.world.claims.get_key(&claim.key()).as_ref().map(|c| c.resource_version()));
                turn(delta).map(Change::Claim)
            }
            Other::Volume(delta) => {
                let name = delta.object().name();
                self.world.assumed.heard_volume(name, self.world.volumes.get("", name).as_ref().map(|v| v.resource_version()));
                turn(delta).map(Change::Volume)
            }
            Other::Class(delta) => turn(delta).map(Change::Class),
            Other::CsiNode(delta) => turn(delta).map(Change::CsiNode),
            Other::Driver(delta) => turn(delta).map(Change::Driver),
            Other::Capacity(delta) => turn(delta).map(Change::Capacity),
            Other::Attachment(Delta::Deleted(attachment)) => Some(Change::AttachmentGone(attachment)),
            Other::Attachment(_) => None,
            Other::ResourceClaim(delta) => {
                self.heard_devices(delta.object());
                Some(turn(delta).map_or(Change::ResourceClaimGone(delta.object()), Change::ResourceClaim))
            }
            Other::DeviceClass => Some(Change::DeviceClass),
            Other::Devices => Some(Change::Devices),
            Other::Namespace => Some(Change::Namespace),
        };
        // What concerns nobody who waits is no event.
        if let Some(change) = change {
            self.queue.change(&change, since);
            self.handled(change.event(), since);
        }
    }

    /// Whether a pod's claims of devices are not all made yet, where that counts.
    fn waits_for_claims(&self, pod: &PodInfo) -> bool {
        self.config.profiles.get(pod.scheduler_name()).is_some_and(|profile| profile.waits_for_claims) && dynamic_resources::waits(pod, &self.world)
    }

    /// A claim of devices came, changed or went: what was chosen for it may be seen, and who was held back for it may be let in.
    fn heard_devices(&mut self, claim: &ResourceClaim) {
        let now = self.world.resource_claims.get_key(&claim.key());
        self.world.assumed.heard_devices(claim.uid(), now.as_deref());
        for pod in self.queue.held(|pod| dynamic_resources::names(pod, claim)) {
            if !self.waits_for_claims(&pod) {
                self.queue.upsert(pod, false, Instant::now());
            }
        }
    }

    /// Decides about a pod, and has the decision carried out.
    async fn place(&mut self, pod: &Arc<PodInfo>) {
        let uid = pod.pod.uid();
        if pod.pod.is_deleting() {
            // It will be gone soon; nothing more is heard of it until then.
            let text = format!("skip schedule deleting pod: {}/{}", pod.pod.namespace(), pod.pod.name());
            self.recorders.of(&pod.pod).event(&client::object_reference(&*pod.pod), client::EventType::Warning, write::FAILED, text);
            return;
        }
        let Some(profile) = self.config.profiles.get(pod.scheduler_name()).cloned() else { return };
        if self.cache.contains(uid) {
            return;
        }
        if let Some(order) = self.preempting.get_mut(uid) {
            // Not before all its victims are told: each that goes would have it tried in vain (upstream `DefaultPreemption.PreEnqueue`).
            order.is_wanted = true;
            return self.queue.put_back(uid, Instant::now());
        }
        let begun = Instant::now();
        let mut chance = self.chance;
        let mut pick = |bound: usize| {
            // xorshift: the tie break needs to be fair, not secret.
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^= chance << 17;
            usize::try_from(chance % (bound.max(1) as u64)).unwrap_or_default()
        };
        self.cache.settle();
        let snapshot = Snapshot { nodes: self.cache.nodes(), world: &self.world, nominated: &self.nominated };
        let interested: Vec<_> = self.config.extenders.iter().filter(|e| e.is_interested(pod)).cloned().collect();
        let decision = if interested.is_empty() {
            schedule::schedule(&profile, snapshot, pod, &mut self.start, &mut pick)
        } else {
            Box::pin(extended::schedule(&profile, snapshot, pod, &mut self.start, &interested, &mut pick)).await
        };
        self.config.metrics.algorithm.took(begun.elapsed());
        self.chance = chance;
        match decision {
            Ok(Decision::Bind(node)) => self.bind(pod, &profile, &node, begun),
            Ok(Decision::Wait(failure)) => {
                profile.metrics.attempt(Attempt::Unschedulable, begun.elapsed());
                if profile.preemption.is_some() && !self.cache.nodes().is_empty() && !matches!(failure.preemption, Outcome::NotAsked) {
                    self.config.metrics.preemptions.inc();
                }
                self.wait(pod, *failure);
            }
            Err(error) => {
                profile.metrics.attempt(Attempt::Error, begun.elapsed());
                self.queue.fail(uid, Instant::now());
                self.give_back(uid, "");
                self.note(pod, "SchedulerError", error, Nomination::Clear);
            }
        }
    }

    /// Has a pod put on a node; its cycle began then.
    fn bind(&mut self, pod: &Arc<PodInfo>, profile: &Profile, name: &str, begun: Instant) {
        let (uid, reserve) = (pod.pod.uid().to_owned(), Instant::now());
        let Some(found) = self.cache.node(name) else { return };
        let node = found.node.clone();
        let steps = profile.volumes.map(|_| volume_binding::plan(pod, &node, &self.world)).unwrap_or_default();
        let grants = match profile.devices.map(|_| dynamic_resources::plan(pod, found, &self.world)).transpose() {
            Ok(grants) => grants.unwrap_or_default(),
            Err(why) => {
                profile.metrics.stage(Stage::Reserve, Status::Error, reserve);
                profile.metrics.attempt(Attempt::Error, begun.elapsed());
                self.queue.fail(&uid, Instant::now());
                self.give_back(&uid, "");
                return self.note(pod, "SchedulerError", format!("running Reserve plugin {:?}: {why}", dynamic_resources::NAME), Nomination::Clear);
            }
        };
        steps.iter().for_each(|step| step.assume(&mut self.world));
        for grant in &grants {
            grant.allocation.iter().for_each(|given| self.world.assumed.pend(&grant.claim, given.clone()));
        }
        self.cache.assume(pod.clone(), name);
        profile.metrics.stage(Stage::Reserve, Status::Success, reserve);
        // It is there now, and no longer one that waits for the node.
        self.give_back(&uid, name);
        let undertaking = Arc::new(Undertaking::default());
        if !steps.is_empty() || !grants.is_empty() {
            self.under_way.insert(uid.clone(), undertaking.clone());
        }
        let binders = self.config.extenders.iter().filter(|e| e.binds() && e.is_interested(pod)).cloned().collect();
        let work = bind::Work {
            client: self.client.clone(),
            recorder: self.recorders.of(&pod.pod).clone(),
            claims: self.world.claims.clone(),
            volumes: self.world.volumes.clone(),
            device_claims: self.world.resource_claims.clone(),
            changes: self.changes.subscribe(),
            reports: self.reports.clone(),
            pod: pod.pod.clone(),
            node,
            steps,
            grants,
            patience: profile.volumes.unwrap_or_default(),
            device_patience: profile.devices.unwrap_or_default(),
            undertaking,
            binders,
            metrics: self.config.metrics.clone(),
            profile: profile.name.clone(),
            stages: profile.metrics.clone(),
        };
        let (reports, metrics, stages, tries) = (self.reports.clone(), self.config.metrics.clone(), profile.metrics.clone(), self.queue.tries(&uid));
        tokio::spawn(async move {
            let _counted = metrics.binding.hold();
            let waited = !work.steps.is_empty() || !work.grants.is_empty();
            // That it was taken the informer tells. The scheduler may have ended: then nobody needs to know.
            match Box::pin(work.run()).await {
                Err(why) => {
                    stages.attempt(Attempt::Error, begun.elapsed());
                    drop(reports.send(Report::NotBound(uid, why)));
                }
                Ok(()) => {
                    stages.attempt(Attempt::Scheduled, begun.elapsed());
                    tries.into_iter().for_each(|tries| metrics.placed(tries));
                    if waited {
                        drop(reports.send(Report::Bound(uid)));
                    }
                }
            }
        });
    }

    fn not_bound(&mut self, uid: &str, why: NotBound) {
        self.under_way.remove(uid);
        why.steps.iter().for_each(|step| step.revert(&mut self.world));
        // What was written is the claim's, and will be seen there.
        let open: Vec<_> = why.grants.iter().filter(|grant| grant.allocation.is_some() && !grant.is_written).collect();
        open.iter().for_each(|grant| self.world.assumed.forget_devices(grant.claim.uid()));
        if !open.is_empty() {
            // Others were turned away because of them.
            self.change(&Change::Devices);
        }
        if let Some(last) = self.cache.forget(uid) {
            self.change(&Change::PodGone(&last));
        }
        let Some(pod) = self.queue.get(uid).cloned() else {
            return;
        };
        self.queue.fail(uid, Instant::now());
        if let Some(message) = why.message {
            self.note(&pod, "SchedulerError", message, Nomination::Clear);
        }
    }

    fn wait(&mut self, pod: &Arc<PodInfo>, mut failure: Failure) {
        let uid = pod.pod.uid();
        self.free_devices(pod, &mut failure);
        self.queue.park(uid, failure.plugins, Instant::now());
        let nomination = match failure.preemption {
            Outcome::Nothing | Outcome::NotAsked => Nomination::Keep,
            Outcome::Hopeless => {
                self.give_back(uid, "");
                Nomination::Clear
            }
            Outcome::Evict { node, victims } => {
                self.make_way(pod, &node);
                self.nominate(uid, Some((node.clone(), pod.clone())));
                self.evict(pod, &node, victims);
                Nomination::Set(node)
            }
        };
        self.note(pod, "Unschedulable", failure.message, nomination);
    }

    /// Gives back what a claim has if that is of no use to its only pod; it is looked at again when that is done.
    fn free_devices(&self, pod: &Arc<PodInfo>, failure: &mut Failure) {
        let Some(patience) = self.config.profiles.get(pod.scheduler_name()).and_then(|profile| profile.devices) else { return };
        let said = failure.rejected.iter().filter(|(_, rejection)| dynamic_resources::may_help(rejection));
        let nodes: Vec<_> = said.filter_map(|(at, _)| self.cache.nodes().get(*at)).collect();
        let Some(claim) = dynamic_resources::to_free(pod, &nodes, &self.world, patience) else { return };
        let is_extended = client::devices::is_extended(&pod.pod, &claim);
        let what = if is_extended { "deletion" } else { "deallocation" };
        failure.message = failure.message.replacen(" preemption:", &format!(" {what} of ResourceClaim completed, preemption:"), 1);
        let (client, reports, uid) = (self.client.clone(), self.reports.clone(), pod.pod.uid().to_owned());
        tokio::spawn(async move {
            if !Box::pin(devices::free(&client, &claim, is_extended)).await {
                // No event tells of it. The scheduler may have ended: then nobody needs to know.
                let _ = reports.send(Report::NotFreed(uid));
            }
        });
    }

    /// Pods of lower priority that wait for the same node have to look elsewhere.
    fn make_way(&mut self, pod: &PodInfo, node: &str) {
        let waiting = self.nominated.get(node).cloned().unwrap_or_default();
        for lower in waiting.iter().filter(|p| p.priority() < pod.priority()) {
            let uid = lower.pod.uid();
            self.nominate(uid, None);
            // A failure means that nothing is written any more.
            let _ = self.notes.send(Note::nomination(lower.pod.clone(), Nomination::Clear));
            self.queue.activate(uid);
        }
    }

    fn evict(&mut self, pod: &Arc<PodInfo>, node: &str, victims: Vec<Arc<PodInfo>>) {
        let uid = pod.pod.uid().to_owned();
        let order = Order { node: node.to_owned(), victims: victims.iter().map(|victim| victim.pod.uid().to_owned()).collect(), is_wanted: false };
        self.preempting.insert(uid.clone(), order);
        self.config.metrics.victims.observe(victims.len() as f64);
        let text = format!("Preempted by pod {uid} on node {node}");
        // Those that are not there yet need not go: their placement is called off, and they look elsewhere.
        let (called_off, victims): (Vec<_>, Vec<_>) = victims.into_iter().partition(|victim| {
            let undertaking = self.under_way.get(victim.pod.uid());
            undertaking.is_some_and(|u| u.call_off("preempted by DefaultPreemption"))
        });
        for victim in called_off {
            let text = format!("{text} (in kube-scheduler memory).");
            write::preempted(self.recorders.of(&pod.pod), &victim.pod, &text);
        }
        let (client, recorder, reports) = (self.client.clone(), self.recorders.of(&pod.pod).clone(), self.reports.clone());
        let (by, metrics) = (pod.scheduler_name().to_owned(), self.config.metrics.clone());
        tokio::spawn(async move {
            let begun = Instant::now();
            let done = Box::pin(write::evict(&client, &recorder, &victims, &by, &text)).await;
            metrics.evicted(done.is_ok(), begun.elapsed());
            if let Err(error) = &done {
                tracing::warn!(%error, "a pod could not be preempted");
            }
            // The scheduler may have ended: then nobody needs to know.
            let _ = reports.send(Report::Preempted(uid, done.is_ok()));
        });
    }

    /// A pod's victims are told to go, or could not be. What was to have it tried meanwhile does so now, unless one of them still will when it goes.
    fn preempted(&mut self, uid: &str, done: bool) {
        let Some(order) = self.preempting.remove(uid) else { return };
        let mut there = self.cache.node(&order.node).into_iter().flat_map(|node| &node.pods);
        let still_goes = there.any(|pod| order.victims.iter().any(|victim| victim == pod.pod.uid()));
        if !done || (order.is_wanted && !still_goes) {
            self.queue.activate(uid);
        }
    }

    /// Gives a pod the room of a node that it waits for, or none; what it had before.
    fn nominate(&mut self, uid: &str, to: Option<(String, Arc<PodInfo>)>) -> Option<(String, Arc<PodInfo>)> {
        let mut had = None;
        self.nominated.retain(|node, pods| {
            if let Some(at) = pods.iter().position(|p| p.pod.uid() == uid) {
                had = Some((node.clone(), pods.swap_remove(at)));
            }
            !pods.is_empty()
        });
        if let Some((node, pod)) = to {
            self.nominated.entry(node).or_default().push(pod);
        }
        had
    }

    /// A pod waits for no node any more. The room that was kept for it is free, unless it took it itself: those who were turned
    /// away because of it are told (upstream `deletePodFromSchedulingQueue`).
    fn give_back(&mut self, uid: &str, taken: &str) {
        if let Some((node, pod)) = self.nominate(uid, None)
            && node != taken
        {
            self.change(&Change::PodGone(&pod));
        }
    }

    fn note(&self, pod: &Arc<PodInfo>, reason: &'static str, message: String, nomination: Nomination) {
        // A failure means that nothing is written any more.
        let _ = self.notes.send(Note { pod: pod.pod.clone(), failure: Some((reason, message)), nomination });
    }
}
