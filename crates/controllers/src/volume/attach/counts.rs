//! What is told of attachable volumes (upstream `attachdetach/metrics`): where they are wanted and where they are, counted when somebody
//! asks; and how often one was taken from a node that had not let go of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use instruments::{Counter, Declared, Families, Family, Kind, Labelled, Registry};

use super::facts::Facts;
use super::names::Volume;
use super::plan::Forced;

const FORCED: Family = Family::new(
    "attach_detach_controller_attachdetach_controller_forced_detaches",
    Kind::Counter,
    "[ALPHA] Number of times the A/D Controller performed a forced detach",
);
const TOTAL: Family = Family::new("attachdetach_controller_total_volumes", Kind::Gauge, "[ALPHA] Number of volumes in A/D Controller");
const IN_USE: Family = Family::new("storage_count_attachable_volumes_in_use", Kind::Gauge, "[ALPHA] Measure number of volumes in use");

/// The families of [`tell`].
pub(super) const DECLARED: &[Declared] = &[(&TOTAL, &["plugin_name", "state"]), (&IN_USE, &["node", "volume_plugin"])];

/// Counts what is taken by force.
pub(super) fn forced(registry: &Registry) -> Arc<Labelled<1, Counter>> {
    registry.counters(&FORCED, ["reason"])
}

/// A volume was taken from a node, by force for this reason.
pub(super) fn note(counter: &Labelled<1, Counter>, why: Option<Forced>) {
    let Some(why) = why else { return };
    let reason = match why {
        Forced::Timeout => "timeout",
        Forced::OutOfService => "out-of-service",
    };
    counter.with([reason]).inc();
}

/// Tells where volumes are wanted, are, and are used.
pub(super) fn tell(facts: &Facts, out: &mut Families) {
    let plugin = |volume: &Volume| format!("kubernetes.io/csi:{}", volume.driver);
    let (mut total, mut in_use) = (BTreeMap::<(String, &str), usize>::new(), BTreeMap::<(String, String), usize>::new());
    let all: BTreeSet<Volume> = facts.volumes.list().iter().filter_map(|v| Volume::of(v)).collect();
    for volume in &all {
        let wanted = facts.wanted(volume).pods;
        *total.entry((plugin(volume), "desired_state_of_world")).or_default() += wanted.len();
        for (node, pods) in wanted {
            *in_use.entry((node, plugin(volume))).or_default() += pods.len();
        }
    }
    for volume in facts.nodes.list().iter().flat_map(|node| facts.attached(client::Meta::name(&**node))) {
        *total.entry((plugin(&volume), "actual_state_of_world")).or_default() += 1;
    }
    for ((plugin, state), count) in total.into_iter().filter(|(_, count)| *count > 0) {
        out.add(&TOTAL, &[("plugin_name", &plugin), ("state", state)], count as f64, None);
    }
    for ((node, plugin), count) in in_use {
        out.add(&IN_USE, &[("node", &node), ("volume_plugin", &plugin)], count as f64, None);
    }
}
