//! What is not said: the original's defaults, and the plugins that a profile has without naming them.

use std::collections::{BTreeMap, BTreeSet};

use machinery::time::parse_go_duration;

use super::raw::{Args, PluginConfig, PluginSet, Raw, RawPlugin, RawPlugins, RawProfile, ShapePoint, WeighedResource};
use super::read;

/// The plugins of a profile that says nothing, with their weights, in order (upstream `getDefaultPlugins`).
pub(super) const PLUGINS: [(&str, Option<i32>); 20] = [
    ("SchedulingGates", None),
    ("PrioritySort", None),
    ("NodeName", None),
    ("NodeUnschedulable", None),
    ("TaintToleration", Some(3)),
    ("NodeAffinity", Some(2)),
    ("NodePorts", None),
    ("NodeResourcesFit", Some(1)),
    ("VolumeRestrictions", None),
    ("NodeVolumeLimits", None),
    ("VolumeBinding", None),
    ("VolumeZone", None),
    ("PodTopologySpread", Some(2)),
    ("InterPodAffinity", Some(2)),
    ("DynamicResources", Some(2)),
    ("DefaultPreemption", None),
    ("NodeResourcesBalancedAllocation", Some(1)),
    ("ImageLocality", Some(1)),
    ("DefaultBinder", None),
    ("NodeDeclaredFeatures", None),
];

/// Fills in the defaults; the settings of each profile's plugins.
pub(super) fn apply(raw: &mut Raw) -> Result<Vec<Args>, String> {
    raw.parallelism.get_or_insert(16);
    if raw.profiles.is_empty() {
        raw.profiles.push(RawProfile::default());
    }
    if let [only] = raw.profiles.as_mut_slice() {
        only.scheduler_name.get_or_insert_with(|| "default-scheduler".to_owned());
    }
    for profile in &mut raw.profiles {
        profile.plugins = Some(merged(profile.plugins.take()));
    }
    raw.percentage_of_nodes_to_score.get_or_insert(0);
    raw.pod_initial_backoff_seconds.get_or_insert(1);
    raw.pod_max_backoff_seconds.get_or_insert(10);
    raw.leader_election.leader_elect.get_or_insert(true);
    if raw.leader_election.resource_lock.is_empty() {
        raw.leader_election.resource_lock = "leases".to_owned();
    }
    raw.profiles.iter().enumerate().map(|(at, profile)| args(at, &profile.plugin_config)).collect()
}

fn merged(own: Option<RawPlugins>) -> RawPlugins {
    let all = PLUGINS.iter().map(|(name, weight)| RawPlugin { name: (*name).to_owned(), weight: *weight }).collect();
    let mut out = RawPlugins { multi_point: PluginSet { enabled: all, disabled: Vec::new() }, ..RawPlugins::default() };
    if let Some(own) = own {
        let multi_point = std::mem::take(&mut out.multi_point);
        out = own;
        out.multi_point = merged_set(multi_point, out.multi_point);
    }
    out
}

/// A set of the defaults with somebody's own: what he switches off is off, what he names anew keeps its place.
fn merged_set(default: PluginSet, own: PluginSet) -> PluginSet {
    let off: BTreeSet<&str> = own.disabled.iter().map(|p| p.name.as_str()).collect();
    // Of a plugin that is named twice the last counts here; the other is left over, and found to be there twice.
    let named: BTreeMap<&str, usize> = own.enabled.iter().enumerate().map(|(at, p)| (p.name.as_str(), at)).collect();
    let mut replaced = BTreeSet::new();
    let mut enabled = Vec::new();
    for plugin in default.enabled.into_iter().filter(|p| !off.contains("*") && !off.contains(p.name.as_str())) {
        match named.get(plugin.name.as_str()) {
            Some(at) => {
                replaced.insert(*at);
                enabled.push(own.enabled[*at].clone());
            }
            None => enabled.push(plugin),
        }
    }
    enabled.extend(own.enabled.iter().enumerate().filter(|(at, _)| !replaced.contains(at)).map(|(_, plugin)| plugin.clone()));
    PluginSet { enabled, disabled: own.disabled }
}

fn args(profile: usize, config: &[PluginConfig]) -> Result<Args, String> {
    let mut args = Args::default();
    for (at, plugin) in config.iter().enumerate().filter(|(_, p)| read::has_args(&p.name)) {
        let at = (profile, at);
        match plugin.name.as_str() {
            "DefaultPreemption" => args.preemption = read::args(&plugin.name, &plugin.args, at)?,
            "InterPodAffinity" => args.interpod = read::args(&plugin.name, &plugin.args, at)?,
            "NodeResourcesFit" => args.fit = read::args(&plugin.name, &plugin.args, at)?,
            "NodeResourcesBalancedAllocation" => args.balanced = read::args(&plugin.name, &plugin.args, at)?,
            "PodTopologySpread" => args.spread = read::args(&plugin.name, &plugin.args, at)?,
            "VolumeBinding" => args.volumes = read::args(&plugin.name, &plugin.args, at)?,
            "DynamicResources" => {
                args.devices = read::args(&plugin.name, &plugin.args, at)?;
                for text in [&args.devices.filter_timeout, &args.devices.binding_timeout].into_iter().flatten() {
                    parse_go_duration(text)
                        .map_err(|why| format!("decoding .profiles[{}].pluginConfig[{}]: decoding args for plugin {}: {why}", at.0, at.1, plugin.name))?;
                }
            }
            "NodeAffinity" => args.affinity = read::args(&plugin.name, &plugin.args, at)?,
            // Its settings are read, so that mistakes are found; the plugin itself is not here.
            _ => drop(read::args::<serde_json::Value>(&plugin.name, &plugin.args, at)?),
        }
    }
    fill(&mut args);
    Ok(args)
}

fn fill(args: &mut Args) {
    args.preemption.min_candidate_nodes_percentage.get_or_insert(10);
    args.preemption.min_candidate_nodes_absolute.get_or_insert(100);
    args.interpod.hard_pod_affinity_weight.get_or_insert(1);
    args.volumes.bind_timeout_seconds.get_or_insert(600);
    if args.volumes.shape.is_empty() {
        args.volumes.shape = vec![ShapePoint { utilization: 0, score: 10 }, ShapePoint { utilization: 100, score: 0 }];
    }
    if args.spread.defaulting_type.is_empty() {
        args.spread.defaulting_type = "System".to_owned();
    }
    weigh(&mut args.balanced.resources);
    let strategy = args.fit.scoring_strategy.get_or_insert_with(|| super::raw::ScoringStrategy { kind: "LeastAllocated".to_owned(), ..Default::default() });
    weigh(&mut strategy.resources);
}

fn weigh(resources: &mut Vec<WeighedResource>) {
    if resources.is_empty() {
        resources.extend(["cpu", "memory"].map(|name| WeighedResource { name: name.to_owned(), weight: 1 }));
    }
    for resource in resources.iter_mut().filter(|r| r.weight == 0) {
        resource.weight = 1;
    }
}
