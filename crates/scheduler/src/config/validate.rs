//! What a configuration may say, in the original's words.

use std::collections::{BTreeMap, BTreeSet};

use machinery::extended::is_extended;
use machinery::field::{Error, Path};
use machinery::names::qualified_name;
use machinery::time::parse_go_duration;
use serde_json::{Value, json};

use super::raw::{Args, PluginConfig, PluginSet, Raw, RawExtender, RawPlugins, RawProfile, ShapePoint, WeighedResource};

/// Plugins of former versions.
const GONE: [&str; 4] = ["AzureDiskLimits", "CinderLimits", "EBSLimits", "GCEPDLimits"];

/// Judges a configuration that has its defaults.
pub(super) fn check(raw: &Raw, args: &[Args]) -> Result<(), String> {
    let mut errors = Vec::new();
    if raw.client_connection.burst < 0 {
        errors.push(Error::invalid(&Path::root("clientConnection").child("burst"), raw.client_connection.burst, "must be non-negative"));
    }
    leader_election(raw, &mut errors)?;
    if let Some(parallelism) = raw.parallelism.filter(|p| *p <= 0) {
        errors.push(Error::invalid(&Path::root("parallelism"), parallelism, "should be an integer value greater than zero"));
    }
    profiles(raw, args, &mut errors);
    percentage(&Path::root("percentageOfNodesToScore"), raw.percentage_of_nodes_to_score, &mut errors);
    let (first, most) = (raw.pod_initial_backoff_seconds.unwrap_or_default(), raw.pod_max_backoff_seconds.unwrap_or_default());
    if first <= 0 {
        errors.push(Error::invalid(&Path::root("podInitialBackoffSeconds"), first, "must be greater than 0"));
    }
    if most < first {
        errors.push(Error::invalid(&Path::root("podMaxBackoffSeconds"), most, "must be greater than or equal to PodInitialBackoffSeconds"));
    }
    extenders(&raw.extenders, &mut errors);
    aggregate(&errors)
}

/// Several errors as Go's aggregate prints them: each once, in brackets if there is more than one.
fn aggregate(errors: &[Error]) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    let texts: Vec<String> = errors.iter().map(ToString::to_string).filter(|text| seen.insert(text.clone())).collect();
    match texts.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        several => Err(format!("[{}]", several.join(", "))),
    }
}

fn leader_election(raw: &Raw, errors: &mut Vec<Error>) -> Result<(), String> {
    let election = &raw.leader_election;
    if election.leader_elect != Some(true) {
        return Ok(());
    }
    let path = Path::root("leaderElection");
    let mut times = BTreeMap::new();
    for (field, text, default) in
        [("leaseDuration", &election.lease_duration, "15s"), ("renewDeadline", &election.renew_deadline, "10s"), ("retryPeriod", &election.retry_period, "2s")]
    {
        let text = text.as_deref().filter(|t| parse_go_duration(t) != Ok(0)).unwrap_or(default);
        let time = parse_go_duration(text)?;
        if time <= 0 {
            errors.push(Error::invalid(&path.child(field), text, "must be greater than zero"));
        }
        times.insert(field, (time, text.to_owned()));
    }
    if times["leaseDuration"].0 <= times["renewDeadline"].0 {
        errors.push(Error::invalid(&path.child("leaseDuration"), times["renewDeadline"].1.as_str(), "must be greater than `RenewDeadline`"));
    }
    if election.resource_lock != "leases" {
        errors.push(Error::invalid(&path.child("resourceLock"), election.resource_lock.as_str(), "resourceLock value must be \"leases\""));
    }
    Ok(())
}

fn percentage(path: &Path, value: Option<i32>, errors: &mut Vec<Error>) {
    if let Some(value) = value.filter(|v| !(0..=100).contains(v)) {
        errors.push(Error::invalid(path, value, "not in valid range [0-100]"));
    }
}

fn profiles(raw: &Raw, args: &[Args], errors: &mut Vec<Error>) {
    let path = Path::root("profiles");
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, (profile, args)) in raw.profiles.iter().zip(args).enumerate() {
        let path = path.index(at);
        let name = profile.scheduler_name.as_deref().unwrap_or_default();
        if name.is_empty() {
            errors.push(Error::required(&path.child("schedulerName"), ""));
        }
        percentage(&path.child("percentageOfNodesToScore"), profile.percentage_of_nodes_to_score, errors);
        plugins(&path, profile, &raw.api_version, errors);
        plugin_config(&path, &profile.plugin_config, args, &raw.api_version, errors);
        if names.insert(name, at).is_some() {
            // The original shows its own type for a place, which has nothing to show.
            errors.push(Error::duplicate(&path.child("schedulerName"), name).shown_as("{}"));
        }
    }
    one_order(&path, &raw.profiles, errors);
}

/// The queue is one, so there is one order in it.
fn one_order(path: &Path, profiles: &[RawProfile], errors: &mut Vec<Error>) {
    let order = |profile: &RawProfile| profile.plugins.as_ref().map(|p| p.queue_sort.clone()).unwrap_or_default();
    let Some(first) = profiles.first().map(order) else { return };
    if first.enabled.len() > 1 {
        errors.push(Error::invalid(
            &path.index(0).child("plugins").child("queueSort").child("Enabled"),
            first.enabled.len(),
            "only one queue sort plugin can be enabled",
        ));
    }
    for (at, profile) in profiles.iter().enumerate().skip(1) {
        if order(profile) != first {
            let shown = as_internal(&order(profile));
            errors.push(Error::invalid(&path.index(at).child("plugins").child("queueSort"), shown, "must be the same for all profiles"));
        }
    }
}

/// A set in the original's own type, which has its fields in Go's spelling.
fn as_internal(set: &PluginSet) -> Value {
    let list = |plugins: &[super::raw::RawPlugin]| match plugins {
        [] => Value::Null,
        plugins => plugins.iter().map(|p| json!({"Name": p.name, "Weight": p.weight.unwrap_or_default()})).collect(),
    };
    json!({"Enabled": list(&set.enabled), "Disabled": list(&set.disabled)})
}

fn plugins(path: &Path, profile: &RawProfile, version: &str, errors: &mut Vec<Error>) {
    let Some(plugins) = &profile.plugins else { return };
    for (point, set) in sets(plugins) {
        for (at, plugin) in set.enabled.iter().enumerate().filter(|(_, p)| GONE.contains(&p.name.as_str())) {
            errors.push(Error::invalid(&path.child("plugins").child(point).child("enabled").index(at), plugin.name.as_str(), gone(version)));
        }
    }
}

fn gone(version: &str) -> String {
    format!("was invalid in version \"v1\" (KubeSchedulerConfiguration is version {version:?})")
}

fn sets(p: &RawPlugins) -> [(&'static str, &PluginSet); 13] {
    [
        ("preEnqueue", &p.pre_enqueue),
        ("queueSort", &p.queue_sort),
        ("preFilter", &p.pre_filter),
        ("filter", &p.filter),
        ("postFilter", &p.post_filter),
        ("preScore", &p.pre_score),
        ("score", &p.score),
        ("reserve", &p.reserve),
        ("permit", &p.permit),
        ("preBind", &p.pre_bind),
        ("bind", &p.bind),
        ("postBind", &p.post_bind),
        ("podGroupPostFilter", &p.pod_group_post_filter),
    ]
}

fn plugin_config(path: &Path, config: &[PluginConfig], args: &Args, version: &str, errors: &mut Vec<Error>) {
    let mut seen = BTreeSet::new();
    for (at, plugin) in config.iter().enumerate() {
        let path = path.child("pluginConfig").index(at);
        if !seen.insert(&plugin.name) {
            errors.push(Error::duplicate(&path, plugin.name.as_str()));
        }
        if GONE.contains(&plugin.name.as_str()) {
            errors.push(Error::invalid(&path, plugin.name.as_str(), gone(version)));
            continue;
        }
        of_plugin(&plugin.name, &path.child("args"), args, errors);
    }
}

fn of_plugin(name: &str, path: &Path, args: &Args, errors: &mut Vec<Error>) {
    match name {
        "DefaultPreemption" => preemption(path, args, errors),
        "InterPodAffinity" => {
            let weight = args.interpod.hard_pod_affinity_weight.unwrap_or(1);
            if !(0..=100).contains(&weight) {
                errors.push(Error::invalid(&path.child("hardPodAffinityWeight"), weight, "not in valid range [0, 100]"));
            }
        }
        "NodeResourcesBalancedAllocation" => balanced(path, &args.balanced.resources, errors),
        "PodTopologySpread" => spread(path, args, errors),
        "VolumeBinding" => {
            let seconds = args.volumes.bind_timeout_seconds.unwrap_or_default();
            if seconds < 0 {
                errors.push(Error::invalid(&path.child("bindTimeoutSeconds"), seconds, "invalid BindTimeoutSeconds, should not be a negative value"));
            }
            shape(&path.child("shape"), &args.volumes.shape, errors);
        }
        "DynamicResources" => {
            let below = |text: &Option<String>, least_ns: i64| text.clone().filter(|text| parse_go_duration(text).is_ok_and(|ns| ns < least_ns));
            if let Some(text) = below(&args.devices.filter_timeout, 0) {
                errors.push(Error::invalid(&path.child("filterTimeout"), text, "must be zero or positive"));
            }
            if let Some(text) = below(&args.devices.binding_timeout, 1_000_000_000) {
                errors.push(Error::invalid(&path.child("bindingTimeout"), text, "must be at least 1 second"));
            }
        }
        _ => {}
    }
}

fn preemption(path: &Path, args: &Args, errors: &mut Vec<Error>) {
    let (percent, absolute) = (path.child("minCandidateNodesPercentage"), path.child("minCandidateNodesAbsolute"));
    let (of_all, at_least) = (args.preemption.min_candidate_nodes_percentage.unwrap_or(10), args.preemption.min_candidate_nodes_absolute.unwrap_or(100));
    if !(0..=100).contains(&of_all) {
        errors.push(Error::invalid(&percent, of_all, "not in valid range [0, 100]"));
    }
    if at_least < 0 {
        errors.push(Error::invalid(&absolute, at_least, "not in valid range [0, inf)"));
    }
    if of_all == 0 && at_least == 0 {
        errors.push(Error::invalid(&percent, of_all, "cannot be zero at the same time as minCandidateNodesAbsolute"));
        errors.push(Error::invalid(&absolute, at_least, "cannot be zero at the same time as minCandidateNodesPercentage"));
    }
}

fn balanced(path: &Path, resources: &[WeighedResource], errors: &mut Vec<Error>) {
    let mut seen = BTreeSet::new();
    for (at, resource) in resources.iter().enumerate() {
        let path = path.child("resources").index(at);
        if !seen.insert(&resource.name) {
            errors.push(Error::duplicate(&path.child("name"), resource.name.as_str()));
        }
        if resource.weight != 1 {
            errors.push(Error::invalid(&path.child("weight"), resource.weight, "must be 1"));
        }
    }
}

fn label(path: &Path, name: &str, errors: &mut Vec<Error>) {
    errors.extend(qualified_name(name).into_iter().map(|why| Error::invalid(path, name, why)));
}

/// The settings of `NodeResourcesFit`, which the original judges when it makes the plugin and not with the others.
pub(crate) fn fit(args: &Args) -> Result<(), String> {
    let (path, mut errors) = (Path::empty(), Vec::new());
    of_fit(&path, args, &mut errors);
    aggregate(&errors)
}

fn of_fit(path: &Path, args: &Args, errors: &mut Vec<Error>) {
    for (at, name) in args.fit.ignored_resources.iter().enumerate() {
        label(&path.child("ignoredResources").index(at), name, errors);
    }
    for (at, group) in args.fit.ignored_resource_groups.iter().enumerate() {
        let path = path.child("ignoredResourceGroups").index(at);
        if group.contains('/') {
            errors.push(Error::invalid(&path, group.as_str(), "resource group name can't contain '/'"));
        }
        label(&path, group, errors);
    }
    let path = path.child("scoringStrategy");
    let Some(strategy) = &args.fit.scoring_strategy else {
        return errors.push(Error::required(&path, "ScoringStrategy field is required"));
    };
    let known = ["LeastAllocated", "MostAllocated", "RequestedToCapacityRatio"];
    if !known.contains(&strategy.kind.as_str()) {
        errors.push(Error::not_supported(&path.child("type"), strategy.kind.as_str(), &known));
    }
    for (at, resource) in strategy.resources.iter().enumerate().filter(|(_, r)| !(1..=100).contains(&r.weight)) {
        let why = format!("resource weight of {} not in valid range (0, 100]", resource.name);
        errors.push(Error::invalid(&path.child("resources").index(at).child("weight"), resource.weight, why));
    }
    let ratio = path.child("requestedToCapacityRatio");
    match (&strategy.requested_to_capacity_ratio, strategy.kind == "RequestedToCapacityRatio") {
        (None, true) => errors.push(Error::required(&ratio, "must be specified when type is RequestedToCapacityRatio")),
        (Some(param), true) => shape(&ratio.child("shape"), &param.shape, errors),
        (Some(_), false) => errors.push(Error::forbidden(&ratio, "must be nil when type is not RequestedToCapacityRatio")),
        (None, false) => {}
    }
}

fn shape(path: &Path, shape: &[ShapePoint], errors: &mut Vec<Error>) {
    if shape.is_empty() {
        return errors.push(Error::required(path, "at least one point must be specified"));
    }
    if let Some(at) = (1..shape.len()).find(|at| shape[at - 1].utilization >= shape[*at].utilization) {
        errors.push(Error::invalid(&path.index(at).child("utilization"), shape[at].utilization, "values must be sorted in increasing order"));
    }
    for (at, point) in shape.iter().enumerate() {
        if !(0..=100).contains(&point.utilization) {
            errors.push(Error::invalid(&path.index(at).child("utilization"), point.utilization, "not in valid range [0, 100]"));
        }
        if !(0..=10).contains(&point.score) {
            errors.push(Error::invalid(&path.index(at).child("score"), point.score, "not in valid range [0, 10]"));
        }
    }
}

fn spread(path: &Path, args: &Args, errors: &mut Vec<Error>) {
    let (kind, constraints) = (args.spread.defaulting_type.as_str(), &args.spread.default_constraints);
    let at = path.child("defaultingType");
    if !["System", "List"].contains(&kind) {
        errors.push(Error::not_supported(&at, kind, &["System", "List"]));
    } else if kind == "System" && !constraints.is_empty() {
        errors.push(Error::invalid(&at, kind, "when .defaultConstraints are not empty"));
    }
    let list = path.child("defaultConstraints");
    for (at, constraint) in constraints.iter().enumerate() {
        let path = list.index(at);
        if constraint.max_skew <= 0 {
            errors.push(Error::invalid(&path.child("maxSkew"), constraint.max_skew, "not in valid range (0, inf)"));
        }
        match constraint.topology_key.as_str() {
            "" => errors.push(Error::required(&path.child("topologyKey"), "can not be empty")),
            key => label(&path.child("topologyKey"), key, errors),
        }
        let actions = ["DoNotSchedule", "ScheduleAnyway"];
        match constraint.when_unsatisfiable.as_str() {
            "" => errors.push(Error::required(&path.child("whenUnsatisfiable"), "can not be empty")),
            action if !actions.contains(&action) => errors.push(Error::not_supported(&path.child("whenUnsatisfiable"), action, &actions)),
            _ => {}
        }
        if constraint.label_selector.is_some() {
            errors.push(Error::forbidden(&path.child("labelSelector"), "constraint must not define a selector, as they deduced for each pod"));
        }
        let same = |other: &&k8s_openapi::api::core::v1::TopologySpreadConstraint| {
            other.topology_key == constraint.topology_key && other.when_unsatisfiable == constraint.when_unsatisfiable
        };
        if constraints[..at].iter().any(|other| same(&other)) {
            errors.push(Error::duplicate(&path, format!("{{{}, {}}}", constraint.topology_key, constraint.when_unsatisfiable)));
        }
    }
}

fn extenders(extenders: &[RawExtender], errors: &mut Vec<Error>) {
    let list = Path::root("extenders");
    let mut managed = BTreeSet::new();
    for (at, extender) in extenders.iter().enumerate() {
        let path = list.index(at);
        if !extender.prioritize_verb.is_empty() && extender.weight <= 0 {
            errors.push(Error::invalid(&path.child("weight"), extender.weight, "must have a positive weight applied to it"));
        }
        for (at, resource) in extender.managed_resources.iter().enumerate() {
            let path = path.child("managedResources").index(at).child("name");
            let name = resource.name.as_str();
            let wrong = qualified_name(name);
            if wrong.is_empty() && !is_extended(name) {
                errors.push(Error::invalid(&path, name, "is an invalid extended resource name"));
            }
            errors.extend(wrong.into_iter().map(|why| Error::invalid(&path, name, why)));
            if !managed.insert(name) {
                errors.push(Error::invalid(&path, name, "duplicate extender managed resource name"));
            }
        }
    }
    let binders = extenders.iter().filter(|e| !e.bind_verb.is_empty()).count();
    if binders > 1 {
        errors.push(Error::invalid(&list, format!("found {binders} extenders implementing bind"), "only one extender can implement bind"));
    }
}
