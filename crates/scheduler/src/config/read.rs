//! From text to raw types, refusing fields that nobody knows.

use std::sync::LazyLock;

use machinery::Value;
use machinery::json::Validation;
use machinery::schema::{self, Builder, Field, ListType, Object, Schema, Type, TypeId};
use serde::de::DeserializeOwned;

use super::raw::Raw;

pub(super) const VERSION: &str = "kubescheduler.config.k8s.io/v1";
pub(super) const KIND: &str = "KubeSchedulerConfiguration";

/// The types of the configuration, by name.
static SCHEMA: LazyLock<Schema> = LazyLock::new(types);

/// Fields as `NAME TYPE`, where a type is a scalar, a type of this list, `[TYPE]` or a type of the API.
const TYPES: &[(&str, &str)] = &[
    (
        "LeaderElection",
        "leaderElect bool, leaseDuration string, renewDeadline string, retryPeriod string, resourceLock string, resourceName string, resourceNamespace string",
    ),
    ("ClientConnection", "kubeconfig string, acceptContentTypes string, contentType string, qps double, burst int32"),
    ("Plugin", "name string, weight int32"),
    ("PluginSet", "enabled [Plugin], disabled [Plugin]"),
    (
        "Plugins",
        "preEnqueue PluginSet, queueSort PluginSet, preFilter PluginSet, filter PluginSet, postFilter PluginSet, preScore PluginSet, score PluginSet, \
         reserve PluginSet, permit PluginSet, preBind PluginSet, bind PluginSet, postBind PluginSet, multiPoint PluginSet, placementGenerate PluginSet, \
         placementScore PluginSet, podGroupPostFilter PluginSet",
    ),
    ("PluginConfig", "name string, args any"),
    ("KubeSchedulerProfile", "schedulerName string, percentageOfNodesToScore int32, plugins Plugins, pluginConfig [PluginConfig]"),
    ("ExtenderManagedResource", "name string, ignoredByScheduler bool"),
    ("ExtenderTLSConfig", "insecure bool, serverName string, certFile string, keyFile string, caFile string, certData bytes, keyData bytes, caData bytes"),
    (
        "Extender",
        "urlPrefix string, filterVerb string, preemptVerb string, prioritizeVerb string, weight int64, bindVerb string, enableHTTPS bool, \
         tlsConfig ExtenderTLSConfig, httpTimeout string, nodeCacheCapable bool, managedResources [ExtenderManagedResource], ignorable bool",
    ),
    (
        KIND,
        "apiVersion string, kind string, parallelism int32, leaderElection LeaderElection, clientConnection ClientConnection, enableProfiling bool, \
         enableContentionProfiling bool, percentageOfNodesToScore int32, podInitialBackoffSeconds int64, podMaxBackoffSeconds int64, \
         profiles [KubeSchedulerProfile], extenders [Extender], delayCacheUntilActive bool",
    ),
    ("ResourceSpec", "name string, weight int64"),
    ("UtilizationShapePoint", "utilization int32, score int32"),
    ("RequestedToCapacityRatioParam", "shape [UtilizationShapePoint]"),
    ("ScoringStrategy", "type string, resources [ResourceSpec], requestedToCapacityRatio RequestedToCapacityRatioParam"),
    ("DefaultPreemptionArgs", "apiVersion string, kind string, minCandidateNodesPercentage int32, minCandidateNodesAbsolute int32"),
    ("DynamicResourcesArgs", "apiVersion string, kind string, filterTimeout string, bindingTimeout string"),
    ("InterPodAffinityArgs", "apiVersion string, kind string, hardPodAffinityWeight int32, ignorePreferredTermsOfExistingPods bool"),
    ("NodeAffinityArgs", "apiVersion string, kind string, addedAffinity io.k8s.api.core.v1.NodeAffinity"),
    ("NodeResourcesBalancedAllocationArgs", "apiVersion string, kind string, resources [ResourceSpec]"),
    ("NodeResourcesFitArgs", "apiVersion string, kind string, ignoredResources [string], ignoredResourceGroups [string], scoringStrategy ScoringStrategy"),
    ("PodTopologySpreadArgs", "apiVersion string, kind string, defaultConstraints [io.k8s.api.core.v1.TopologySpreadConstraint], defaultingType string"),
    ("VolumeBindingArgs", "apiVersion string, kind string, bindTimeoutSeconds int64, shape [UtilizationShapePoint]"),
];

fn types() -> Schema {
    let mut builder = Builder::new();
    for (name, fields) in TYPES {
        let mut object = Object::anonymous(false, false);
        object.name = (*name).into();
        for field in fields.split(", ") {
            let (field, ty) = field.split_once(' ').unwrap_or((field, "any"));
            let ty = type_of(&mut builder, ty);
            object.fields.push(Field::new(field.to_owned(), ty));
        }
        builder.object(object);
    }
    builder.build()
}

fn type_of(builder: &mut Builder, name: &str) -> TypeId {
    if let Some(elem) = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')) {
        let elem = type_of(builder, elem);
        return builder.list(elem, ListType::Atomic, false);
    }
    let plain = match name {
        "string" => Type::String,
        "bool" => Type::Bool,
        "int32" => Type::Int32,
        "int64" => Type::Int64,
        "double" => Type::Double,
        "bytes" => Type::Bytes,
        "any" => Type::Any,
        _ => {
            return match schema::builtin().named(name) {
                Some(of_the_api) => builder.import(of_the_api),
                None => builder.declare(name.to_owned()),
            };
        }
    };
    builder.plain(&plain)
}

/// A configuration from its text.
pub(super) fn read(bytes: &[u8]) -> Result<Raw, String> {
    let named = machinery::yaml::decode(bytes, None, Validation::Ignore).map_err(|status| status.message)?.value;
    let (version, kind) = (named["apiVersion"].as_str().unwrap_or_default(), named["kind"].as_str().unwrap_or_default());
    if kind.is_empty() {
        return Err(format!("Object 'Kind' is missing in '{}'", String::from_utf8_lossy(bytes)));
    }
    if version.is_empty() {
        return Err(format!("Object 'apiVersion' is missing in '{}'", String::from_utf8_lossy(bytes)));
    }
    if version != VERSION {
        let hint = format!("no kind {kind:?} is registered for version {version:?} in scheme \"pkg/runtime/scheme.go:111\"");
        return Err(hint);
    }
    if kind != KIND {
        if SCHEMA.named(kind).is_some() && kind.ends_with("Args") {
            return Err(format!("couldn't decode as KubeSchedulerConfiguration, got {VERSION}, Kind={kind}: "));
        }
        return Err(format!("no kind {kind:?} is registered for version {version:?} in scheme \"pkg/runtime/scheme.go:111\""));
    }
    let tree = machinery::yaml::decode(bytes, SCHEMA.named(KIND), Validation::Strict).map_err(|status| status.message)?.value;
    typed(tree)
}

/// The settings of a plugin. `at`: where they stand.
pub(super) fn args<T: DeserializeOwned + Default>(plugin: &str, args: &Value, at: (usize, usize)) -> Result<T, String> {
    let kind = format!("{plugin}Args");
    if args.is_null() {
        return Ok(T::default());
    }
    let place = format!("decoding .profiles[{}].pluginConfig[{}]", at.0, at.1);
    if let Some(other) = args["kind"].as_str().filter(|k| *k != kind) {
        return Err(format!("{place}: args for plugin {plugin} were not of type {kind}.kubescheduler.config.k8s.io, got {other}.kubescheduler.config.k8s.io"));
    }
    let bytes = serde_json::to_vec(args).map_err(|error| error.to_string())?;
    let decoded = machinery::json::decode(&bytes, SCHEMA.named(&kind), Validation::Strict);
    let tree = decoded.map_err(|status| match status.message.split_once("strict decoding error: ") {
        Some((_, why)) => format!("strict decoding error: {place}: strict decoding error: decoding args for plugin {plugin}: strict decoding error: {why}"),
        None => format!("{place}: decoding args for plugin {plugin}: {}", status.message),
    })?;
    typed(tree.value)
}

/// Whether a plugin has settings.
pub(super) fn has_args(plugin: &str) -> bool {
    SCHEMA.named(&format!("{plugin}Args")).is_some()
}

fn typed<T: DeserializeOwned>(mut tree: Value) -> Result<T, String> {
    forget_nulls(&mut tree);
    serde_json::from_value(tree).map_err(|error| error.to_string())
}

/// What is null is not there, as Go has it. No deeper than the schema that the tree was read by.
fn forget_nulls(tree: &mut Value) {
    match tree {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(forget_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(forget_nulls),
        _ => {}
    }
}
