//! Configurations as users write them, and the original's words for those that are wrong: as kube-scheduler v1.37.2 said them.

use machinery::time::parse_go_duration;
use serde_json::{Value, json};

use super::*;
use crate::plugins::Point;

const HEAD: &str = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";

fn parse(body: &str) -> Result<Config, String> {
    Config::parse(format!("{HEAD}{body}").as_bytes())
}

fn wrong(body: &str) -> String {
    parse(body).map(drop).expect_err("it is wrong")
}

fn names(plugins: &[std::sync::Arc<dyn crate::framework::Plugin>]) -> Vec<&'static str> {
    plugins.iter().map(|p| p.name()).collect()
}

#[test]
fn what_is_not_said_is_as_the_original_has_it() {
    for config in [Config::default(), parse("").expect("it is right"), parse("profiles: null\nextenders: []\n").expect("it is right")] {
        let profile = config.profiles.get("default-scheduler").expect("the profile");
        let judges = [
            "NodeName",
            "NodeUnschedulable",
            "TaintToleration",
            "NodeAffinity",
            "NodePorts",
            "NodeResourcesFit",
            "VolumeRestrictions",
            "NodeVolumeLimits",
            "VolumeBinding",
            "VolumeZone",
            "PodTopologySpread",
            "InterPodAffinity",
            "DynamicResources",
            "NodeDeclaredFeatures",
        ];
        assert_eq!(names(&profile.filter), judges);
        assert_eq!(names(&profile.pre_filter), judges);
        let scores: Vec<(&str, i64)> = profile.score.iter().map(|(p, weight)| (p.name(), *weight)).collect();
        let weighed = [
            ("TaintToleration", 3),
            ("NodeAffinity", 2),
            ("NodeResourcesFit", 1),
            ("VolumeBinding", 1),
            ("PodTopologySpread", 2),
            ("InterPodAffinity", 2),
            ("DynamicResources", 2),
            ("NodeResourcesBalancedAllocation", 1),
            ("ImageLocality", 1),
        ];
        assert_eq!(scores, weighed);
        assert!(profile.gates && profile.preemption.is_some());
        assert_eq!(
            (profile.volumes, config.backoff_min, config.backoff_max),
            (Some(Duration::from_secs(600)), Duration::from_secs(1), Duration::from_secs(10))
        );
    }
}

#[test]
fn profiles_points_weights_and_settings() {
    let config = parse(
        "podInitialBackoffSeconds: 2\npodMaxBackoffSeconds: 20\npercentageOfNodesToScore: 30\nprofiles:\n\
         - schedulerName: packs\n  percentageOfNodesToScore: 100\n  plugins:\n    multiPoint:\n      enabled: [{name: InterPodAffinity, weight: 7}]\n      disabled: [{name: ImageLocality}]\n\
         \x20   score:\n      enabled: [{name: NodeResourcesFit, weight: 5}]\n      disabled: [{name: NodeAffinity}, {name: TaintToleration}]\n    postFilter:\n      disabled: [{name: '*'}]\n\
         \x20 pluginConfig:\n  - name: NodeResourcesFit\n    args:\n      apiVersion: kubescheduler.config.k8s.io/v1\n      kind: NodeResourcesFitArgs\n      scoringStrategy: {type: MostAllocated}\n\
         \x20 - name: VolumeBinding\n    args: {bindTimeoutSeconds: 5}\n\
         - schedulerName: bare\n  plugins:\n    score: {disabled: [{name: '*'}]}\n    preEnqueue: {disabled: [{name: SchedulingGates}]}\n",
    )
    .expect("it is right");
    let packs = config.profiles.get("packs").expect("a profile");
    let scores: Vec<(&str, i64)> = packs.score.iter().map(|(p, weight)| (p.name(), *weight)).collect();
    // What is named at the point comes first, then what is for all points.
    let weighed = [
        ("NodeResourcesFit", 5),
        ("VolumeBinding", 1),
        ("PodTopologySpread", 2),
        ("InterPodAffinity", 7),
        ("DynamicResources", 2),
        ("NodeResourcesBalancedAllocation", 1),
    ];
    assert_eq!(scores, weighed);
    assert!(names(&packs.filter).contains(&"NodeAffinity") && packs.preemption.is_none());
    assert_eq!((packs.percentage_of_nodes, packs.volumes), (Some(100), Some(Duration::from_secs(5))));
    let bare = config.profiles.get("bare").expect("a profile");
    assert!(bare.score.is_empty() && !bare.gates && bare.preemption.is_some());
    assert_eq!((bare.percentage_of_nodes, config.backoff_min, config.backoff_max), (Some(30), Duration::from_secs(2), Duration::from_secs(20)));
    assert!(config.profiles.get("default-scheduler").is_none());
}

#[test]
fn what_nobody_knows_is_refused() {
    assert_eq!(wrong("colour: red\n"), r#"strict decoding error: unknown field "colour""#);
    assert_eq!(
        wrong("profiles: [{plugins: {filter: {enabled: [{nmae: x}]}}}]\n"),
        r#"strict decoding error: unknown field "profiles[0].plugins.filter.enabled[0].nmae""#
    );
    assert_eq!(
        Config::parse(b"kind: KubeSchedulerConfiguration\n").expect_err("wrong"),
        "Object 'apiVersion' is missing in 'kind: KubeSchedulerConfiguration\n'"
    );
    let old = Config::parse(b"apiVersion: kubescheduler.config.k8s.io/v1beta3\nkind: KubeSchedulerConfiguration\n").expect_err("wrong");
    let told = r#"no kind "KubeSchedulerConfiguration" is registered for version "kubescheduler.config.k8s.io/v1beta3" in scheme "pkg/runtime/scheme.go:111""#;
    assert_eq!(old, told);
    let args = "profiles:\n- pluginConfig:\n  - name: InterPodAffinity\n    args: {hardWeight: 1}\n";
    let told = "strict decoding error: decoding .profiles[0].pluginConfig[0]: strict decoding error: decoding args for plugin InterPodAffinity: strict decoding error: unknown field \"hardWeight\"";
    assert_eq!(wrong(args), told);
    let kind = "profiles:\n- pluginConfig:\n  - name: InterPodAffinity\n    args: {apiVersion: kubescheduler.config.k8s.io/v1, kind: NodeAffinityArgs}\n";
    assert!(wrong(kind).ends_with(
        "args for plugin InterPodAffinity were not of type InterPodAffinityArgs.kubescheduler.config.k8s.io, got NodeAffinityArgs.kubescheduler.config.k8s.io"
    ));
}

#[test]
fn what_must_not_be_is_said_in_the_original_s_words() {
    for (body, told) in [
        ("parallelism: x\n", "json: cannot unmarshal string into Go struct field KubeSchedulerConfiguration.parallelism of type int32"),
        ("parallelism: 0\n", "parallelism: Invalid value: 0: should be an integer value greater than zero"),
        ("percentageOfNodesToScore: 101\n", "percentageOfNodesToScore: Invalid value: 101: not in valid range [0-100]"),
        ("podInitialBackoffSeconds: 0\n", "podInitialBackoffSeconds: Invalid value: 0: must be greater than 0"),
        ("podMaxBackoffSeconds: 0\n", "podMaxBackoffSeconds: Invalid value: 0: must be greater than or equal to PodInitialBackoffSeconds"),
        ("profiles: [{schedulerName: a}, {}]\n", "profiles[1].schedulerName: Required value"),
        ("profiles: [{schedulerName: a}, {schedulerName: a}]\n", "profiles[1].schedulerName: Duplicate value: {}"),
        ("leaderElection: {leaseDuration: 5s}\n", r#"leaderElection.leaseDuration: Invalid value: "10s": must be greater than `RenewDeadline`"#),
        (
            "leaderElection: {leaderElect: false, leaseDuration: 5s, resourceLock: endpoints}\nclientConnection: {burst: -1}\n",
            "clientConnection.burst: Invalid value: -1: must be non-negative",
        ),
        ("extenders: [{urlPrefix: 'http://x', prioritizeVerb: p}]\n", "extenders[0].weight: Invalid value: 0: must have a positive weight applied to it"),
        (
            "extenders: [{urlPrefix: 'http://x', bindVerb: b}, {urlPrefix: 'http://y', bindVerb: b}]\n",
            r#"extenders: Invalid value: "found 2 extenders implementing bind": only one extender can implement bind"#,
        ),
        (
            "extenders: [{urlPrefix: 'http://x', managedResources: [{name: cpu}]}]\n",
            r#"extenders[0].managedResources[0].name: Invalid value: "cpu": is an invalid extended resource name"#,
        ),
        (
            "profiles: [{plugins: {filter: {enabled: [{name: EBSLimits}]}}}]\n",
            r#"profiles[0].plugins.filter.enabled[0]: Invalid value: "EBSLimits": was invalid in version "v1" (KubeSchedulerConfiguration is version "kubescheduler.config.k8s.io/v1")"#,
        ),
    ] {
        assert_eq!(wrong(body), told);
    }
    let several = wrong("parallelism: 0\npercentageOfNodesToScore: -1\n");
    assert_eq!(
        several,
        "[parallelism: Invalid value: 0: should be an integer value greater than zero, percentageOfNodesToScore: Invalid value: -1: not in valid range [0-100]]"
    );
}

#[test]
fn settings_of_plugins_are_judged() {
    let of = |plugin: &str, args: Value| wrong(&format!("profiles: [{{pluginConfig: [{{name: {plugin}, args: {args}}}]}}]\n"));
    for (plugin, args, told) in [
        ("DefaultPreemption", json!({"minCandidateNodesPercentage": 101}), "minCandidateNodesPercentage: Invalid value: 101: not in valid range [0, 100]"),
        ("InterPodAffinity", json!({"hardPodAffinityWeight": 200}), "hardPodAffinityWeight: Invalid value: 200: not in valid range [0, 100]"),
        ("NodeResourcesBalancedAllocation", json!({"resources": [{"name": "cpu", "weight": 2}]}), "resources[0].weight: Invalid value: 2: must be 1"),
        ("PodTopologySpread", json!({"defaultingType": "Mine"}), r#"defaultingType: Unsupported value: "Mine": supported values: "System", "List""#),
        (
            "PodTopologySpread",
            json!({"defaultConstraints": [{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "ScheduleAnyway"}]}),
            r#"defaultingType: Invalid value: "System": when .defaultConstraints are not empty"#,
        ),
        (
            "VolumeBinding",
            json!({"bindTimeoutSeconds": -1}),
            "bindTimeoutSeconds: Invalid value: -1: invalid BindTimeoutSeconds, should not be a negative value",
        ),
        ("VolumeBinding", json!({"shape": [{"utilization": 0, "score": 11}]}), "shape[0].score: Invalid value: 11: not in valid range [0, 10]"),
    ] {
        assert_eq!(of(plugin, args), format!("profiles[0].pluginConfig[0].args.{told}"));
    }
    let made = "initializing profiles: creating profile for scheduler name default-scheduler: initializing plugin \"NodeResourcesFit\": ";
    let fit = |strategy: Value| of("NodeResourcesFit", json!({"scoringStrategy": strategy}));
    assert_eq!(
        fit(json!({"type": "Best"})),
        format!(
            "{made}scoringStrategy.type: Unsupported value: \"Best\": supported values: \"LeastAllocated\", \"MostAllocated\", \"RequestedToCapacityRatio\""
        )
    );
    assert_eq!(
        fit(json!({"type": "RequestedToCapacityRatio"})),
        format!("{made}scoringStrategy.requestedToCapacityRatio: Required value: must be specified when type is RequestedToCapacityRatio")
    );
}

#[test]
fn plugins_stand_where_they_can() {
    let at = "initializing profiles: creating profile for scheduler name default-scheduler: ";
    for (plugins, told) in [
        ("filter: {enabled: [{name: Mine}]}", r#"FilterPlugin "Mine" does not exist"#),
        ("multiPoint: {enabled: [{name: Mine}]}", r#"PreFilterPlugin "Mine" does not exist"#),
        ("filter: {enabled: [{name: ImageLocality}]}", r#"plugin "ImageLocality" does not extend FilterPlugin plugin"#),
        ("score: {enabled: [{name: NodeAffinity}, {name: NodeAffinity}]}", r#"plugin "NodeAffinity" already registered as "ScorePlugin""#),
        ("queueSort: {disabled: [{name: '*'}]}", r#"only one queue sort plugin required for profile with scheduler name "default-scheduler", but got 0"#),
        ("bind: {disabled: [{name: DefaultBinder}]}", r#"at least one bind plugin is needed for profile with scheduler name "default-scheduler""#),
    ] {
        assert_eq!(wrong(&format!("profiles: [{{plugins: {{{plugins}}}}}]\n")), format!("{at}{told}"));
    }
    // What is known and not here is no mistake.
    parse("profiles: [{plugins: {multiPoint: {enabled: [{name: GangScheduling}]}}}]\n").expect("it is right");
    assert_eq!(Point::ALL.len(), 15);
}

#[test]
fn durations_are_go_s() {
    for (text, nanos) in [("1m30s", 90_000_000_000), ("500ms", 500_000_000), ("-1.5s", -1_500_000_000), ("0", 0), ("1h", 3_600_000_000_000)] {
        assert_eq!(parse_go_duration(text), Ok(nanos), "{text}");
    }
    for (text, why) in
        [("", "time: invalid duration \"\""), ("5", "time: missing unit in duration \"5\""), ("5x", "time: unknown unit \"x\" in duration \"5x\"")]
    {
        assert_eq!(parse_go_duration(text), Err(why.to_owned()));
    }
}

#[test]
fn how_long_devices_are_waited_for_is_read() {
    let with = |args: &str| format!("profiles: [{{pluginConfig: [{{name: DynamicResources, args: {{{args}}}}}]}}]\n");
    let config = parse(&with("bindingTimeout: 90s")).expect("it is right");
    assert_eq!(config.profiles.get("default-scheduler").expect("the profile").devices, Some(std::time::Duration::from_secs(90)));
    assert!(wrong(&with("bindingTimeout: soon")).contains("time: invalid duration \"soon\""));
    assert!(wrong(&with("bindingTimeout: 500ms")).contains("must be at least 1 second"));
    assert!(wrong(&with("filterTimeout: -1s")).contains("must be zero or positive"));
}
