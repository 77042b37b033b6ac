//! What a plugin is, and what it is shown.
//!
//! A plugin is stateless. For one pod it prepares a [`Filter`] and a [`Score`], which hold what was worked out for that
//! pod (upstream keeps it in `CycleState`); a filter can be forked and told of pods that come and go, so that preemption
//! asks "what if". Nothing here does input or output.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use client::Meta;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::resource::v1::ResourceClaim;
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use tokio::time::Instant;

use crate::metrics::{ProfileMetrics, Stage, Status};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::profile::Profile;
use crate::world::World;

/// The best score of a node.
pub const SCORE_MAX: i64 = 100;

/// Chooses below a bound: the tie break between equal nodes.
pub type Pick<'p> = &'p mut (dyn FnMut(usize) -> usize + Send);

/// Pods that wait on a node for others to go, by node.
pub type Nominated = HashMap<String, Vec<Arc<PodInfo>>>;

/// The state of the cluster at the moment of a decision.
#[derive(Clone, Copy)]
pub struct Snapshot<'a> {
    /// All nodes.
    pub nodes: &'a [NodeInfo],
    /// Everything else.
    pub world: &'a World,
    /// Pods that wait on a node for others to go.
    pub nominated: &'a Nominated,
}

impl<'a> Snapshot<'a> {
    /// The node for which a pod waits, by this scheduler's own word: the one in the pod's status may not be written yet.
    #[must_use]
    pub fn nominated_node(&self, uid: &str) -> Option<&'a str> {
        self.nominated.iter().find(|(_, pods)| pods.iter().any(|p| p.pod.uid() == uid)).map(|(node, _)| node.as_str())
    }
}

/// One pod to be placed, and what is known.
#[derive(Clone, Copy)]
pub struct Cycle<'a> {
    /// The pod.
    pub pod: &'a PodInfo,
    /// The rules for it.
    pub profile: &'a Profile,
    /// The state of the cluster.
    pub snapshot: Snapshot<'a>,
    /// Whether single plugins are timed in it.
    pub is_sample: bool,
}

impl<'a> Cycle<'a> {
    /// A cycle that begins now.
    #[must_use]
    pub fn new(pod: &'a PodInfo, profile: &'a Profile, snapshot: Snapshot<'a>) -> Self {
        Self { pod, profile, snapshot, is_sample: profile.metrics.samples() }
    }

    /// Times what a plugin does, in a cycle that is a sample.
    pub(crate) fn timed<T>(&self, stage: Stage, plugin: &str, work: impl FnOnce() -> T, status: impl FnOnce(&T) -> Status) -> T {
        if !self.is_sample {
            return work();
        }
        let begun = Instant::now();
        let done = work();
        self.profile.metrics.plugin(stage, plugin, status(&done), begun.elapsed());
        done
    }
}

/// Why a node does not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Whether it might if pods were taken off it (upstream `Unschedulable`, not `UnschedulableAndUnresolvable`).
    pub resolvable: bool,
    /// Whether the question could not be answered: no node has the pod then, and it is tried again by itself (upstream `Error`).
    pub is_error: bool,
    /// The reasons, in upstream's words.
    pub reasons: Vec<Cow<'static, str>>,
}

impl Rejection {
    /// Taking pods off may help.
    pub fn resolvable(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { resolvable: true, is_error: false, reasons: vec![reason.into()] }
    }

    /// No pod's going helps.
    pub fn unresolvable(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { resolvable: false, is_error: false, reasons: vec![reason.into()] }
    }

    /// There is something wrong with what the pod asks for.
    pub fn error(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { resolvable: false, is_error: true, reasons: vec![reason.into()] }
    }
}

/// Whether a node does.
pub type Verdict = Result<(), Rejection>;

/// What a plugin has to say before nodes are looked at.
pub enum Prepared<'a> {
    /// Nothing: it does not concern this pod.
    Skip,
    /// No node at all does.
    Reject(Rejection),
    /// Look at the nodes.
    Filter(Box<dyn Filter<'a> + 'a>),
    /// Look at these nodes only.
    Nodes(BTreeSet<String>, Box<dyn Filter<'a> + 'a>),
}

impl<'a> Prepared<'a> {
    /// Look at the nodes with this filter.
    pub fn filter(filter: impl Filter<'a> + 'a) -> Self {
        Self::Filter(Box::new(filter))
    }

    /// How it is counted.
    pub(crate) fn status(&self) -> Status {
        match self {
            Self::Skip => Status::Skip,
            Self::Reject(rejection) => Status::rejected(rejection),
            Self::Filter(_) | Self::Nodes(..) => Status::Success,
        }
    }
}

/// Says of a node whether it does for the pod it was prepared for.
pub trait Filter<'a>: Fork<'a> + Send + Sync {
    /// The verdict.
    fn check(&self, node: &NodeInfo) -> Verdict;
    /// What if this pod were on that node too.
    fn pod_added(&mut self, _pod: &PodInfo, _node: &NodeInfo) {}
    /// What if this pod were not on that node.
    fn pod_removed(&mut self, _pod: &PodInfo, _node: &NodeInfo) {}
}

/// A copy to play with.
pub trait Fork<'a> {
    /// The copy.
    fn fork(&self) -> Box<dyn Filter<'a> + 'a>;
}

impl<'a, T: Filter<'a> + Clone + 'a> Fork<'a> for T {
    fn fork(&self) -> Box<dyn Filter<'a> + 'a> {
        Box::new(self.clone())
    }
}

/// Says of a node how well it does.
pub trait Score {
    /// The raw score.
    fn score(&self, node: &NodeInfo) -> i64;
    /// Brings the raw scores of all nodes between 0 and [`SCORE_MAX`].
    fn normalize(&self, _scores: &mut [i64]) {}
}

/// A rule of placement.
pub trait Plugin: Send + Sync {
    /// Upstream's name of it.
    fn name(&self) -> &'static str;

    /// Prepares to look at nodes.
    fn prepare<'a>(&self, _cycle: &Cycle<'a>) -> Prepared<'a> {
        Prepared::Skip
    }

    /// Prepares to score the nodes that do; none if all would score the same.
    fn prepare_score<'a>(&self, _cycle: &Cycle<'a>, _feasible: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        None
    }

    /// Whether a change may let in a pod that this plugin turned away (upstream's queueing hint).
    fn wakes(&self, change: &Change<'_>, pod: &PodInfo) -> bool;
}

/// A change of the cluster, told to the plugins that turned a pod away.
pub enum Change<'a> {
    /// A node came.
    NodeAdded(&'a NodeInfo),
    /// A node changed.
    NodeUpdated {
        /// As it was.
        old: &'a Node,
        /// As it is.
        new: &'a NodeInfo,
    },
    /// A node went, which matters to those who count places.
    NodeRemoved(&'a Node),
    /// A pod was put on a node.
    PodPlaced(&'a PodInfo),
    /// A pod on a node changed.
    PodUpdated {
        /// As it was.
        old: &'a PodInfo,
        /// As it is.
        new: &'a PodInfo,
    },
    /// A pod left its node: ended, deleted, or never arrived.
    PodGone(&'a PodInfo),
    /// The waiting pod itself changed.
    Own {
        /// As it was.
        old: &'a PodInfo,
    },
    /// A claim came or changed.
    Claim(Turn<'a, PersistentVolumeClaim>),
    /// A volume came or changed.
    Volume(Turn<'a, PersistentVolume>),
    /// A class came or changed.
    Class(Turn<'a, StorageClass>),
    /// What a node's drivers say came or changed.
    CsiNode(Turn<'a, CSINode>),
    /// A driver came or changed.
    Driver(Turn<'a, CSIDriver>),
    /// What room a driver has came or changed.
    Capacity(Turn<'a, CSIStorageCapacity>),
    /// A volume was detached.
    AttachmentGone(&'a VolumeAttachment),
    /// A claim of devices came or changed.
    ResourceClaim(Turn<'a, ResourceClaim>),
    /// A claim of devices went.
    ResourceClaimGone(&'a ResourceClaim),
    /// A class of devices came or changed.
    DeviceClass,
    /// Devices came or changed: a slice, or a rule of taints.
    Devices,
    /// A namespace's labels changed.
    Namespace,
}

impl Change<'_> {
    /// Its name among the original's events. Those tell further what of a node or a pod has changed; here it is an update.
    #[must_use]
    pub fn event(&self) -> &'static str {
        match self {
            Self::NodeAdded(_) => "NodeAdd",
            Self::NodeUpdated { .. } => "NodeUpdate",
            Self::NodeRemoved(_) => "NodeDelete",
            Self::PodPlaced(_) => "AssignedPodAdd",
            Self::PodUpdated { .. } => "AssignedPodUpdate",
            Self::PodGone(_) => "AssignedPodDelete",
            Self::Own { .. } => "UnscheduledPodUpdate",
            Self::Claim(turn) => turn.event("PersistentVolumeClaimAdd", "PersistentVolumeClaimUpdate"),
            Self::Volume(turn) => turn.event("PersistentVolumeAdd", "PersistentVolumeUpdate"),
            Self::Class(turn) => turn.event("storage.k8s.io/StorageClassAdd", "storage.k8s.io/StorageClassUpdate"),
            Self::CsiNode(turn) => turn.event("storage.k8s.io/CSINodeAdd", "storage.k8s.io/CSINodeUpdate"),
            Self::Driver(turn) => turn.event("storage.k8s.io/CSIDriverAdd", "storage.k8s.io/CSIDriverUpdate"),
            Self::Capacity(turn) => turn.event("storage.k8s.io/CSIStorageCapacityAdd", "storage.k8s.io/CSIStorageCapacityUpdate"),
            Self::AttachmentGone(_) => "storage.k8s.io/VolumeAttachmentDelete",
            Self::ResourceClaim(turn) => turn.event("resource.k8s.io/ResourceClaimAdd", "resource.k8s.io/ResourceClaimUpdate"),
            Self::ResourceClaimGone(_) => "resource.k8s.io/ResourceClaimDelete",
            Self::DeviceClass => "resource.k8s.io/DeviceClassUpdate",
            Self::Devices => "resource.k8s.io/ResourceSliceUpdate",
            Self::Namespace => "NamespaceUpdate",
        }
    }
}

/// An object that came or changed.
#[derive(Clone, Copy)]
pub struct Turn<'a, K> {
    /// As it was; none: it came.
    pub old: Option<&'a K>,
    /// As it is.
    pub new: &'a K,
}

impl<K> Turn<'_, K> {
    fn event(&self, came: &'static str, changed: &'static str) -> &'static str {
        if self.old.is_none() { came } else { changed }
    }
}

/// Filters prepared for a pod, in the plugins' order.
pub struct Filters<'a> {
    list: Vec<(&'static str, Box<dyn Filter<'a> + 'a>)>,
    /// Where each is timed, in a cycle that is a sample.
    timed: Option<Arc<ProfileMetrics>>,
}

impl<'a> Filters<'a> {
    pub(crate) fn new(list: Vec<(&'static str, Box<dyn Filter<'a> + 'a>)>, timed: Option<Arc<ProfileMetrics>>) -> Self {
        Self { list, timed }
    }

    /// Whose they are, in order.
    pub(crate) fn names(&self) -> impl ExactSizeIterator<Item = &'static str> {
        self.list.iter().map(|(name, _)| *name)
    }

    /// The first rejection, and who spoke it.
    ///
    /// # Errors
    /// The node does not do.
    pub fn check(&self, node: &NodeInfo) -> Result<(), (&'static str, Rejection)> {
        let Some(timed) = &self.timed else {
            return self.list.iter().try_for_each(|(name, filter)| filter.check(node).map_err(|r| (*name, r)));
        };
        self.list.iter().try_for_each(|(name, filter)| {
            let begun = Instant::now();
            let verdict = filter.check(node);
            timed.plugin(Stage::Filter, name, Status::of(&verdict), begun.elapsed());
            verdict.map_err(|r| (*name, r))
        })
    }

    /// A copy to play with.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { list: self.list.iter().map(|(name, filter)| (*name, filter.fork())).collect(), timed: self.timed.clone() }
    }

    /// Puts a pod on a node, in thought.
    pub fn add(&mut self, node: &mut NodeInfo, pod: Arc<PodInfo>) {
        node.add(pod.clone());
        for (_, filter) in &mut self.list {
            filter.pod_added(&pod, node);
        }
    }

    /// Takes a pod off a node, in thought.
    pub fn remove(&mut self, node: &mut NodeInfo, pod: &PodInfo) {
        node.remove(pod.pod.uid());
        for (_, filter) in &mut self.list {
            filter.pod_removed(pod, node);
        }
    }

    /// As [`Self::check`], but the pod must also fit beside those of at least its priority that wait for this node.
    ///
    /// # Errors
    /// The node does not do.
    pub fn check_with_nominated(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), (&'static str, Rejection)> {
        let waiting = cycle.snapshot.nominated.get(node.name()).map(Vec::as_slice).unwrap_or_default();
        let mut rivals = waiting.iter().filter(|p| p.priority() >= cycle.pod.priority() && p.pod.uid() != cycle.pod.pod.uid()).peekable();
        if rivals.peek().is_some() {
            let (mut filters, mut crowded) = (self.fork(), node.clone());
            for rival in rivals {
                filters.add(&mut crowded, rival.clone());
            }
            filters.check(&crowded)?;
        }
        // They may also never come: what the pod needs of others (affinity) must hold without them.
        self.check(node)
    }
}

/// What the nodes said.
#[derive(Debug, Default)]
pub struct Diagnosis {
    /// Number of nodes of the cluster.
    pub nodes: usize,
    /// The rejections, by the node's place in the snapshot.
    pub rejected: BTreeMap<usize, Rejection>,
    /// What holds for the nodes that were not looked at.
    pub others: Option<Rejection>,
    /// The message of a plugin that turned all nodes away at once.
    pub before: Option<String>,
    /// The plugins that turned nodes away.
    pub plugins: BTreeSet<&'static str>,
    /// What preemption had to say.
    pub after: String,
    /// Why no node can be had, whatever the others said: a plugin could not answer.
    pub error: Option<String>,
}

impl Diagnosis {
    /// The message for users (upstream `FitError`).
    #[must_use]
    pub fn message(&self) -> String {
        let mut text = format!("0/{} nodes are available:", self.nodes);
        if let Some(before) = &self.before {
            text.push_str(&format!(" {before}."));
        } else {
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            for reason in self.rejected.values().flat_map(|r| &r.reasons) {
                *counts.entry(reason).or_default() += 1;
            }
            let absent = self.nodes.saturating_sub(self.rejected.len());
            if let Some(others) = self.others.as_ref().filter(|_| absent > 0) {
                for reason in &others.reasons {
                    *counts.entry(reason).or_default() += absent;
                }
            }
            let mut lines: Vec<String> = counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
            lines.sort();
            if !lines.is_empty() {
                text.push_str(&format!(" {}.", lines.join(", ")));
            }
        }
        if !self.after.is_empty() {
            text.push_str(&format!(" {}", self.after));
        }
        text
    }
}

/// Scales to [`SCORE_MAX`] by the largest; `reverse` makes the least the best (upstream `DefaultNormalizeScore`).
pub fn normalize(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or_default();
    for score in scores {
        let scaled = if max == 0 { 0 } else { SCORE_MAX * *score / max };
        *score = if reverse { SCORE_MAX - scaled } else { scaled };
    }
}
