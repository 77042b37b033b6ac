//! The rules of placement, one module each, and the list of all that the original has: at which points, and whether they are here.

mod balanced;
mod declared_features;
pub mod dynamic_resources;
mod extended_resources;
mod fit;
mod image_locality;
mod interpod;
mod limits;
mod node_affinity;
mod node_name;
mod node_ports;
mod shape;
mod spread;
mod taints;
mod unschedulable;
pub mod volume_binding;
mod volume_restrictions;
mod volume_zone;

use std::sync::Arc;

use crate::config::raw::{Args, PluginSet, RawPlugins};
use crate::framework::Plugin;
use crate::profile::Ignored;

/// An extension point: a moment in which plugins are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Point {
    PreFilter,
    Filter,
    PostFilter,
    Reserve,
    PreScore,
    Score,
    PreBind,
    Bind,
    PostBind,
    Permit,
    PreEnqueue,
    QueueSort,
    PlacementGenerate,
    PlacementScore,
    PodGroupPostFilter,
}

impl Point {
    /// All, in the order in which the original looks at them.
    pub const ALL: [Self; 15] = [
        Self::PreFilter,
        Self::Filter,
        Self::PostFilter,
        Self::Reserve,
        Self::PreScore,
        Self::Score,
        Self::PreBind,
        Self::Bind,
        Self::PostBind,
        Self::Permit,
        Self::PreEnqueue,
        Self::QueueSort,
        Self::PlacementGenerate,
        Self::PlacementScore,
        Self::PodGroupPostFilter,
    ];

    /// The name of Go's interface.
    #[must_use]
    pub fn interface(self) -> String {
        format!("{self:?}Plugin")
    }

    /// What a configuration says of it.
    #[must_use]
    pub fn of(self, sets: &RawPlugins) -> &PluginSet {
        match self {
            Self::PreFilter => &sets.pre_filter,
            Self::Filter => &sets.filter,
            Self::PostFilter => &sets.post_filter,
            Self::Reserve => &sets.reserve,
            Self::PreScore => &sets.pre_score,
            Self::Score => &sets.score,
            Self::PreBind => &sets.pre_bind,
            Self::Bind => &sets.bind,
            Self::PostBind => &sets.post_bind,
            Self::Permit => &sets.permit,
            Self::PreEnqueue => &sets.pre_enqueue,
            Self::QueueSort => &sets.queue_sort,
            Self::PlacementGenerate => &sets.placement_generate,
            Self::PlacementScore => &sets.placement_score,
            Self::PodGroupPostFilter => &sets.pod_group_post_filter,
        }
    }
}

/// Where a plugin of the original's is.
#[derive(Clone, Copy)]
enum Here {
    /// A module here.
    Plugin(fn(&Args, &Ignored) -> Arc<dyn Plugin>),
    /// Done by a part of the scheduler that is no plugin: the queue, preemption, the binding.
    Part,
    /// Not, for this reason.
    Absent(&'static str),
}

use Point::{
    Bind, Filter, Permit, PlacementGenerate, PlacementScore, PodGroupPostFilter, PostFilter, PreBind, PreEnqueue, PreFilter, PreScore, QueueSort, Reserve,
    Score,
};

const JUDGES: &[Point] = &[PreFilter, Filter];
const JUDGES_AND_SCORES: &[Point] = &[PreFilter, Filter, PreScore, Score];

/// The original's plugins (its `registry.go`), the points at which each is asked, and where each is here.
const REGISTRY: [(&str, &[Point], Here); 24] = [
    (
        "DynamicResources",
        &[PreEnqueue, PreFilter, Filter, PostFilter, PodGroupPostFilter, Score, Reserve, PreBind],
        Here::Plugin(|args, _| Arc::new(dynamic_resources::DynamicResources::new(args.devices.patience()))),
    ),
    ("NodeDeclaredFeatures", JUDGES, Here::Plugin(|_, _| Arc::new(declared_features::NodeDeclaredFeatures))),
    ("ImageLocality", &[Score], Here::Plugin(|_, _| Arc::new(image_locality::ImageLocality))),
    ("TaintToleration", JUDGES_AND_SCORES, Here::Plugin(|_, _| Arc::new(taints::TaintToleration))),
    ("NodeName", JUDGES, Here::Plugin(|_, _| Arc::new(node_name::NodeName))),
    ("NodePorts", JUDGES, Here::Plugin(|_, _| Arc::new(node_ports::NodePorts))),
    ("NodeAffinity", JUDGES_AND_SCORES, Here::Plugin(|args, _| Arc::new(node_affinity::NodeAffinity::new(&args.affinity)))),
    ("PodTopologySpread", JUDGES_AND_SCORES, Here::Plugin(|args, _| Arc::new(spread::PodTopologySpread::new(&args.spread)))),
    ("DeferredPodScheduling", &[PreFilter, Filter, Permit], Here::Absent("alpha, off by default (InPlacePodVerticalScalingSchedulerPreemption)")),
    ("NodeUnschedulable", JUDGES, Here::Plugin(|_, _| Arc::new(unschedulable::NodeUnschedulable))),
    ("NodeResourcesFit", &[PreFilter, Filter, PreScore, Score, PlacementScore], Here::Plugin(|args, ignored| Arc::new(fit::Fit::new(&args.fit, ignored)))),
    ("NodeResourcesBalancedAllocation", &[PreScore, Score], Here::Plugin(|args, _| Arc::new(balanced::BalancedAllocation::new(&args.balanced)))),
    (
        "VolumeBinding",
        &[PreFilter, Filter, Reserve, PreBind, PreScore, Score],
        Here::Plugin(|args, _| Arc::new(volume_binding::VolumeBinding::new(&args.volumes))),
    ),
    ("VolumeRestrictions", JUDGES, Here::Plugin(|_, _| Arc::new(volume_restrictions::VolumeRestrictions))),
    ("VolumeZone", JUDGES, Here::Plugin(|_, _| Arc::new(volume_zone::VolumeZone))),
    ("NodeVolumeLimits", JUDGES, Here::Plugin(|_, _| Arc::new(limits::NodeVolumeLimits))),
    ("InterPodAffinity", JUDGES_AND_SCORES, Here::Plugin(|args, _| Arc::new(interpod::InterPodAffinity::new(&args.interpod)))),
    ("PrioritySort", &[QueueSort], Here::Part),
    ("DefaultBinder", &[Bind], Here::Part),
    ("DefaultPreemption", &[PostFilter, PreEnqueue, PodGroupPostFilter], Here::Part),
    ("SchedulingGates", &[PreEnqueue], Here::Part),
    ("GangScheduling", &[PreEnqueue, Permit], Here::Absent("off by default (GenericWorkload)")),
    ("TopologyPlacementGenerator", &[PlacementGenerate], Here::Absent("alpha, off by default (TopologyAwareWorkloadScheduling)")),
    ("PodGroupPodsCount", &[PlacementScore], Here::Absent("alpha, off by default (TopologyAwareWorkloadScheduling)")),
];

fn known(name: &str) -> Option<&'static (&'static str, &'static [Point], Here)> {
    REGISTRY.iter().find(|(known, ..)| *known == name)
}

/// The points at which a plugin is asked; none: there is no such plugin.
#[must_use]
pub fn points(name: &str) -> Option<&'static [Point]> {
    known(name).map(|(_, points, _)| *points)
}

/// Why a plugin of the original's is not here.
#[must_use]
pub fn absent(name: &str) -> Option<&'static str> {
    match known(name)?.2 {
        Here::Absent(why) => Some(why),
        _ => None,
    }
}

/// The plugin of this name, set up; none if there is no such module.
pub(crate) fn make(name: &str, args: &Args, ignored: &Ignored) -> Option<Arc<dyn Plugin>> {
    match known(name)?.2 {
        Here::Plugin(make) => Some(make(args, ignored)),
        _ => None,
    }
}

#[cfg(test)]
mod registry_tests;
#[cfg(test)]
mod settings_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod volume_tests;
