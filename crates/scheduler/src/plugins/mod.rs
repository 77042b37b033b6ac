//! The rules of placement, one module each, in upstream's order: the first that turns a node away gives the reason.

mod balanced;
mod declared_features;
mod fit;
mod image_locality;
mod interpod;
mod node_affinity;
mod node_name;
mod node_ports;
mod spread;
mod taints;
mod unschedulable;
pub mod volume_binding;
mod volume_restrictions;

use crate::framework::Plugin;

/// All of them.
pub static ALL: [&dyn Plugin; 13] = [
    &node_name::NodeName,
    &unschedulable::NodeUnschedulable,
    &taints::TaintToleration,
    &node_affinity::NodeAffinity,
    &node_ports::NodePorts,
    &fit::Fit,
    &volume_restrictions::VolumeRestrictions,
    &volume_binding::VolumeBinding,
    &spread::PodTopologySpread,
    &interpod::InterPodAffinity,
    &balanced::BalancedAllocation,
    &image_locality::ImageLocality,
    &declared_features::NodeDeclaredFeatures,
];

/// The plugin of this name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static dyn Plugin> {
    ALL.iter().copied().find(|p| p.name() == name)
}

#[cfg(test)]
mod tests;
