//! The list of plugins against the original's, and the document that users read against the list.

use std::collections::BTreeSet;

use super::{Here, Point, REGISTRY};

/// The original's plugins, as `pkg/scheduler/framework/plugins/names/names.go` of v1.37.2 has them.
const ORIGINAL: [&str; 24] = [
    "PrioritySort",
    "DefaultBinder",
    "DefaultPreemption",
    "DynamicResources",
    "GangScheduling",
    "ImageLocality",
    "InterPodAffinity",
    "NodeAffinity",
    "NodeDeclaredFeatures",
    "NodeName",
    "NodePorts",
    "NodeResourcesBalancedAllocation",
    "NodeResourcesFit",
    "NodeUnschedulable",
    "NodeVolumeLimits",
    "PodTopologySpread",
    "DeferredPodScheduling",
    "SchedulingGates",
    "TaintToleration",
    "VolumeBinding",
    "VolumeRestrictions",
    "VolumeZone",
    "TopologyPlacementGenerator",
    "PodGroupPodsCount",
];

/// Those that are not here. It only ever gets shorter.
const ABSENT: [&str; 4] = ["DeferredPodScheduling", "GangScheduling", "PodGroupPodsCount", "TopologyPlacementGenerator"];

const DOCUMENT: &str = include_str!("../../../../docs/scheduler.md");

#[test]
fn every_plugin_of_the_original_is_listed_and_few_are_absent() {
    let listed: BTreeSet<&str> = REGISTRY.iter().map(|(name, ..)| *name).collect();
    assert_eq!(listed, ORIGINAL.into_iter().collect());
    let absent: BTreeSet<&str> = REGISTRY.iter().filter(|(.., here)| matches!(here, Here::Absent(_))).map(|(name, ..)| *name).collect();
    assert_eq!(absent, ABSENT.into_iter().collect());
    for name in ORIGINAL.iter().filter(|name| !ABSENT.contains(name)) {
        assert_eq!(super::absent(name), None);
    }
}

#[test]
fn the_document_says_what_the_list_says() {
    let row = |name: &str| DOCUMENT.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
    for (name, points, here) in REGISTRY {
        let row = row(name).unwrap_or_else(|| panic!("docs/scheduler.md has no row for {name}"));
        let columns: Vec<&str> = row.split('|').map(str::trim).collect();
        let points: Vec<String> = points.iter().map(|p| field(*p)).collect();
        assert_eq!(columns[2], points.join(", "), "{name}");
        match here {
            Here::Absent(why) => assert_eq!(columns[3], format!("not here: {why}"), "{name}"),
            _ => assert!(columns[3].starts_with("here"), "{name}: {}", columns[3]),
        }
    }
    let rows = DOCUMENT.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, REGISTRY.len(), "no row but of a plugin");
}

/// A point as a configuration names it.
fn field(point: Point) -> String {
    let name = format!("{point:?}");
    name[..1].to_lowercase() + &name[1..]
}
