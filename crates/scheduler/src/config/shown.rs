//! The configuration that holds, as a `KubeSchedulerConfiguration` v1 again: what was said, with the defaults for the rest. Tools read it at
//! `/configz`. What is of no account here (`clientConnection`, profiling) has the original's defaults.

use std::collections::BTreeSet;
use std::time::Duration;

use machinery::Value;
use machinery::time::{go_duration, parse_go_duration};
use serde::Serialize;
use serde_json::json;

use super::raw::{Args, DeviceArgs, PluginSet, Raw, RawExtender, RawPlugins, RawProfile};
use super::read;

/// All of it.
pub(super) fn whole(raw: &Raw, args: &[Args]) -> Value {
    let leader = &raw.leader_election;
    let mut all = json!({
        "kind": read::KIND,
        "apiVersion": read::VERSION,
        "parallelism": raw.parallelism,
        "leaderElection": {
            "leaderElect": leader.leader_elect,
            "leaseDuration": duration(leader.lease_duration.as_deref(), 15),
            "renewDeadline": duration(leader.renew_deadline.as_deref(), 10),
            "retryPeriod": duration(leader.retry_period.as_deref(), 2),
            "resourceLock": leader.resource_lock,
            "resourceName": "kube-scheduler",
            "resourceNamespace": "kube-system",
        },
        "clientConnection": {"kubeconfig": "", "acceptContentTypes": "", "contentType": "application/vnd.kubernetes.protobuf", "qps": 50, "burst": 100},
        "enableProfiling": true,
        "enableContentionProfiling": true,
        "percentageOfNodesToScore": raw.percentage_of_nodes_to_score,
        "podInitialBackoffSeconds": raw.pod_initial_backoff_seconds,
        "podMaxBackoffSeconds": raw.pod_max_backoff_seconds,
        "profiles": raw.profiles.iter().zip(args).map(|(p, args)| profile(p, args)).collect::<Value>(),
    });
    if !raw.extenders.is_empty() {
        all["extenders"] = raw.extenders.iter().map(extender).collect();
    }
    all
}

fn extender(extender: &RawExtender) -> Value {
    let mut told = tree(extender);
    told["httpTimeout"] = duration(extender.http_timeout.as_deref(), 0).into();
    told
}

fn profile(profile: &RawProfile, args: &Args) -> Value {
    let mut out = json!({"schedulerName": profile.scheduler_name});
    if let Some(percentage) = profile.percentage_of_nodes_to_score {
        out["percentageOfNodesToScore"] = percentage.into();
    }
    let mut names: Vec<&str> = profile.plugin_config.iter().map(|config| config.name.as_str()).collect();
    if let Some(plugins) = &profile.plugins {
        let points = points(plugins);
        out["plugins"] = points.iter().map(|&(name, point)| (name.to_owned(), set(point))).collect();
        // Those that are on and of which nothing was said come after the others, by name.
        let on: BTreeSet<&str> = points.iter().flat_map(|&(_, point)| &point.enabled).map(|plugin| plugin.name.as_str()).collect();
        let more: Vec<&str> = on.into_iter().filter(|name| read::has_args(name) && !names.contains(name)).collect();
        names.extend(more);
    }
    out["pluginConfig"] = names.iter().map(|name| json!({"name": name, "args": settings(name, profile, args)})).collect();
    out
}

fn points(plugins: &RawPlugins) -> [(&'static str, &PluginSet); 16] {
    [
        ("preEnqueue", &plugins.pre_enqueue),
        ("queueSort", &plugins.queue_sort),
        ("preFilter", &plugins.pre_filter),
        ("filter", &plugins.filter),
        ("postFilter", &plugins.post_filter),
        ("preScore", &plugins.pre_score),
        ("score", &plugins.score),
        ("reserve", &plugins.reserve),
        ("permit", &plugins.permit),
        ("preBind", &plugins.pre_bind),
        ("bind", &plugins.bind),
        ("postBind", &plugins.post_bind),
        ("multiPoint", &plugins.multi_point),
        ("placementGenerate", &plugins.placement_generate),
        ("placementScore", &plugins.placement_score),
        ("podGroupPostFilter", &plugins.pod_group_post_filter),
    ]
}

fn set(set: &PluginSet) -> Value {
    let mut out = json!({});
    for (name, plugins) in [("enabled", &set.enabled), ("disabled", &set.disabled)] {
        if !plugins.is_empty() {
            out[name] = plugins.iter().map(|plugin| json!({"name": plugin.name, "weight": plugin.weight.unwrap_or(0)})).collect();
        }
    }
    out
}

/// A plugin's settings. Of one that is not here: what was said.
fn settings(plugin: &str, profile: &RawProfile, args: &Args) -> Value {
    let mut told = match plugin {
        "DefaultPreemption" => tree(&args.preemption),
        "InterPodAffinity" => tree(&args.interpod),
        "NodeResourcesFit" => tree(&args.fit),
        "NodeResourcesBalancedAllocation" => tree(&args.balanced),
        "PodTopologySpread" => tree(&args.spread),
        "VolumeBinding" => tree(&args.volumes),
        "DynamicResources" => devices(&args.devices),
        "NodeAffinity" => tree(&args.affinity),
        _ => return profile.plugin_config.iter().find(|config| config.name == plugin).map(|config| config.args.clone()).unwrap_or_default(),
    };
    told["kind"] = format!("{plugin}Args").into();
    told["apiVersion"] = read::VERSION.into();
    told
}

fn devices(args: &DeviceArgs) -> Value {
    json!({"filterTimeout": duration(args.filter_timeout.as_deref(), 10), "bindingTimeout": go_duration(args.patience())})
}

/// A duration that was said, as Go writes it; or so many seconds.
fn duration(said: Option<&str>, default_s: u64) -> String {
    let said = said.and_then(|text| parse_go_duration(text).ok()).and_then(|ns| u64::try_from(ns).ok());
    go_duration(said.map_or(Duration::from_secs(default_s), Duration::from_nanos))
}

/// What serde cannot write is nothing: all of it was read by serde.
fn tree(part: &impl Serialize) -> Value {
    serde_json::to_value(part).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    #[test]
    fn what_is_not_said_is_the_originals() {
        let shown = &*Config::default().shown;
        assert_eq!(shown["leaderElection"]["leaseDuration"], "15s");
        let profile = &shown["profiles"][0];
        assert_eq!((&profile["schedulerName"], &profile["plugins"]["filter"]), (&json!("default-scheduler"), &json!({})));
        assert_eq!(profile["plugins"]["multiPoint"]["enabled"][4], json!({"name": "TaintToleration", "weight": 3}));
        let names: Vec<&str> = profile["pluginConfig"].as_array().expect("a list").iter().filter_map(|config| config["name"].as_str()).collect();
        let all = [
            "DefaultPreemption",
            "DynamicResources",
            "InterPodAffinity",
            "NodeAffinity",
            "NodeResourcesBalancedAllocation",
            "NodeResourcesFit",
            "PodTopologySpread",
            "VolumeBinding",
        ];
        assert_eq!(names, all);
        let fit = json!({"type": "LeastAllocated", "resources": [{"name": "cpu", "weight": 1}, {"name": "memory", "weight": 1}]});
        assert_eq!(profile["pluginConfig"][5]["args"]["scoringStrategy"], fit);
        let devices = json!({"kind": "DynamicResourcesArgs", "apiVersion": read::VERSION, "filterTimeout": "10s", "bindingTimeout": "10m0s"});
        assert_eq!(profile["pluginConfig"][1]["args"], devices);
    }

    #[test]
    fn an_extenders_time_is_told_as_go_writes_it() {
        let of = |said: Option<&str>| extender(&RawExtender { http_timeout: said.map(str::to_owned), ..RawExtender::default() })["httpTimeout"].clone();
        assert_eq!((of(Some("5000ms")), of(None)), (json!("5s"), json!("0s")));
    }

    #[test]
    fn what_is_said_comes_first() {
        let own = json!({
            "apiVersion": read::VERSION,
            "kind": read::KIND,
            "podMaxBackoffSeconds": 20,
            "profiles": [{
                "schedulerName": "mine",
                "plugins": {"score": {"disabled": [{"name": "ImageLocality"}]}},
                "pluginConfig": [{"name": "VolumeBinding", "args": {"bindTimeoutSeconds": 7}}],
            }],
        });
        let shown = Config::parse(own.to_string().as_bytes()).expect("a configuration").shown;
        let profile = &shown["profiles"][0];
        assert_eq!((&shown["podMaxBackoffSeconds"], &profile["schedulerName"]), (&json!(20), &json!("mine")));
        assert_eq!(profile["plugins"]["score"], json!({"disabled": [{"name": "ImageLocality", "weight": 0}]}));
        assert_eq!(profile["pluginConfig"][0]["args"]["bindTimeoutSeconds"], 7);
        assert_eq!(profile["pluginConfig"][1]["name"], "DefaultPreemption");
    }
}
