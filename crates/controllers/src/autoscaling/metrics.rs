//! The three APIs of metrics, as ordinary requests to the API server: `metrics.k8s.io`, `custom.metrics.k8s.io` and
//! `external.metrics.k8s.io`, whoever serves them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Client, Error, Meta, escape};
use k8s_openapi::api::autoscaling::v2::{CrossVersionObjectReference, MetricIdentifier};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use machinery::labels::Selector;
use parking_lot::Mutex;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::replicas::{Sample, Samples, milli};
use super::shared::Shared;
use super::target::Targets;

const RESOURCE_API: &str = "resource metrics API";
/// What is asked for, as client-go tells it.
const PODS: &str = "pods.metrics.k8s.io";
const CUSTOM_API: &str = "custom metrics API";
const EXTERNAL_API: &str = "external metrics API";
const CUSTOM_GROUP: &str = "custom.metrics.k8s.io";
/// The versions of the custom API that are understood; the server's preference decides between them.
const CUSTOM_VERSIONS: [&str; 2] = ["v1beta2", "v1beta1"];
/// It is asked for anew after this (upstream forgets it with each of its periods).
const VERSION_KEPT: Duration = Duration::from_secs(15);

#[derive(Debug, Deserialize)]
struct List<T> {
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

/// What the pods of a target use, as the resource API tells it.
#[derive(Debug, Deserialize)]
pub(super) struct PodMetrics {
    metadata: Named,
    timestamp: Option<String>,
    window: Option<String>,
    #[serde(default)]
    containers: Vec<ContainerMetrics>,
}

#[derive(Debug, Default, Deserialize)]
struct Named {
    #[serde(default)]
    name: String,
}

#[derive(Debug, Deserialize)]
struct ContainerMetrics {
    name: String,
    #[serde(default)]
    usage: BTreeMap<String, Text>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetricValue {
    #[serde(default)]
    described_object: Named,
    value: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    #[serde(default)]
    versions: Vec<GroupVersion>,
    preferred_version: Option<GroupVersion>,
}

#[derive(Debug, Deserialize)]
struct GroupVersion {
    version: String,
}

/// Asks the APIs of metrics.
pub(super) struct Metrics {
    client: Client,
    /// The version of the custom API, and when it was asked for.
    version: Mutex<Option<(Instant, &'static str)>>,
    shared: Shared,
}

impl Metrics {
    pub(super) fn new(client: Client) -> Self {
        Self { client, version: Mutex::default(), shared: Shared::default() }
    }

    /// What the selected pods use of all resources.
    pub(super) async fn of_resources(&self, namespace: &str, selector: &Selector, pods: &[Arc<Pod>]) -> Result<Vec<Arc<PodMetrics>>, String> {
        let root = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods");
        let all = || async {
            let list: List<PodMetrics> = self.get(&root, RESOURCE_API, PODS).await?;
            Ok(Arc::new(list.items.into_iter().map(|pod| (pod.metadata.name.clone(), Arc::new(pod))).collect()))
        };
        let used = match self.shared.of(namespace, all).await {
            Some(all) => {
                let all = all?;
                pods.iter().filter_map(|pod| all.get(pod.name()).cloned()).collect()
            }
            None => {
                let list: List<PodMetrics> = self.get(&format!("{root}{}", query(&[("labelSelector", selector)])), RESOURCE_API, PODS).await?;
                list.items.into_iter().map(Arc::new).collect()
            }
        };
        some(used, RESOURCE_API)
    }

    /// A metric of each of the selected pods.
    pub(super) async fn of_pods(&self, namespace: &str, selector: &Selector, metric: &MetricIdentifier) -> Result<Samples, String> {
        let root = self.custom(namespace).await?;
        let options = query(&[("labelSelector", selector), ("metricLabelSelector", &chosen(metric)?)]);
        let list: List<MetricValue> =
            self.get(&format!("{root}/pods/*/{}{options}", escape(&metric.name)), CUSTOM_API, &format!("pods.{CUSTOM_GROUP} *")).await?;
        let samples = |v: MetricValue| (v.described_object.name, Sample { milli: milli(&v.value), ..Sample::default() });
        Ok(some(list.items, CUSTOM_API)?.into_iter().map(samples).collect())
    }

    /// A metric of one object.
    pub(super) async fn of_object(
        &self,
        targets: &Targets,
        namespace: &str,
        about: &CrossVersionObjectReference,
        metric: &MetricIdentifier,
    ) -> Result<i64, String> {
        let root = self.custom(namespace).await?;
        let (group, _) = about.api_version.as_deref().unwrap_or_default().split_once('/').unwrap_or_default();
        let (path, what) = if group.is_empty() && about.kind == "Namespace" {
            // Its name is not asked: nobody looks out of an autoscaler's own namespace.
            ("metrics".to_owned(), format!("metrics.{CUSTOM_GROUP} {}", metric.name))
        } else {
            let kind = if group.is_empty() { about.kind.clone() } else { format!("{}.{group}", about.kind) };
            let unmapped = |e| format!("unable to fetch metrics from {CUSTOM_API}: unable to map kind {kind} to resource: {e}");
            let served = targets.find(group, &about.kind).await.map_err(unmapped)?;
            let resource = if group.is_empty() { served.resource.clone() } else { format!("{}.{group}", served.resource) };
            (format!("{}/{}", escape(&resource), escape(&about.name)), format!("{resource}.{CUSTOM_GROUP} {}", about.name))
        };
        let uri = format!("{root}/{path}/{}{}", escape(&metric.name), query(&[("metricLabelSelector", &chosen(metric)?)]));
        let list: List<MetricValue> = self.get(&uri, CUSTOM_API, &what).await?;
        match list.items.as_slice() {
            [one] => Ok(milli(&one.value)),
            more => {
                let count = more.len();
                Err(format!("unable to fetch metrics from {CUSTOM_API}: the {CUSTOM_API} server returned {count} results when we asked for exactly one"))
            }
        }
    }

    /// All values of a metric from outside.
    pub(super) async fn of_outside(&self, namespace: &str, metric: &MetricIdentifier) -> Result<Vec<i64>, String> {
        let options = query(&[("labelSelector", &chosen(metric)?)]);
        let uri = format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{}{options}", escape(&metric.name));
        let list: List<MetricValue> = self.get(&uri, EXTERNAL_API, &format!("{}.external.metrics.k8s.io", metric.name)).await?;
        Ok(some(list.items, EXTERNAL_API)?.iter().map(|v| milli(&v.value)).collect())
    }

    /// Where the custom API is served, in the version that the server prefers.
    async fn custom(&self, namespace: &str) -> Result<String, String> {
        let known = (*self.version.lock()).filter(|(at, _)| at.elapsed() < VERSION_KEPT);
        let version = match known {
            Some((_, version)) => version,
            None => self.custom_version().await?,
        };
        Ok(format!("/apis/{CUSTOM_GROUP}/{version}/namespaces/{namespace}"))
    }

    async fn custom_version(&self) -> Result<&'static str, String> {
        let group: Group = match self.client.get_json(&format!("/apis/{CUSTOM_GROUP}")).await {
            Ok(group) => group,
            Err(error) if error.is_not_found() => {
                return Err(format!("unable to fetch metrics from {CUSTOM_API}: no {CUSTOM_API} ({CUSTOM_GROUP}) registered"));
            }
            Err(error) => return Err(format!("unable to fetch metrics from {CUSTOM_API}: {error}")),
        };
        let mut offered = group.preferred_version.iter().chain(&group.versions);
        let version = offered.find_map(|offered| CUSTOM_VERSIONS.into_iter().find(|known| *known == offered.version));
        let version = version.ok_or_else(|| format!("unable to fetch metrics from {CUSTOM_API}: no known available metric versions found"))?;
        *self.version.lock() = Some((Instant::now(), version));
        Ok(version)
    }

    async fn get<T: DeserializeOwned>(&self, uri: &str, api: &str, what: &str) -> Result<T, String> {
        self.client.get_json(uri).await.map_err(|e| format!("unable to fetch metrics from {api}: {}", refusal(&e, what)))
    }
}

/// What client-go makes of an answer: one that is no `Status` (of a server that knows no such path, or of a proxy) has the words
/// of its code, and what was asked.
fn refusal(error: &Error, what: &str) -> String {
    match error.status() {
        Some(status) if status.code == 404 && (status.message == "404 page not found" || status.message.starts_with("the server answered")) => {
            format!("the server could not find the requested resource (get {what})")
        }
        Some(status) if status.code == 503 && status.reason == "Unknown" => format!("the server is currently unable to handle the request (get {what})"),
        _ => error.to_string(),
    }
}

fn some<T>(items: Vec<T>, api: &str) -> Result<Vec<T>, String> {
    if items.is_empty() { Err(format!("no metrics returned from {api}")) } else { Ok(items) }
}

/// Which series of a metric; without a selector all.
fn chosen(metric: &MetricIdentifier) -> Result<Selector, String> {
    let tree = metric.selector.as_ref().map(|s: &LabelSelector| serde_json::to_value(s).unwrap_or_default());
    Selector::from_label_selector(&tree.unwrap_or_default())
}

/// What a resource's samples are: of whole pods, or of one container of each. A pod of which a part was not measured was not.
pub(super) fn samples(metrics: &[Arc<PodMetrics>], resource: &str, container: &str) -> Samples {
    let of = |pod: &PodMetrics| -> Option<i64> {
        let used = |c: &ContainerMetrics| c.usage.get(resource).map(milli);
        if !container.is_empty() {
            return pod.containers.iter().find(|c| c.name == container).and_then(used);
        }
        let all: Option<Vec<i64>> = pod.containers.iter().map(used).collect();
        all.filter(|all| !all.is_empty()).map(|all| all.into_iter().fold(0, i64::saturating_add))
    };
    let sample = |pod: &Arc<PodMetrics>| {
        let at = pod.timestamp.as_deref().and_then(|t| t.parse().ok()).unwrap_or(Timestamp::UNIX_EPOCH);
        let window = pod.window.as_deref().and_then(|w| w.parse::<SignedDuration>().ok()).and_then(|w| Duration::try_from(w).ok()).unwrap_or_default();
        Some((pod.metadata.name.clone(), Sample { milli: of(pod)?, at, window }))
    };
    metrics.iter().filter_map(sample).collect()
}

/// A query of selectors; those that say nothing are left out.
fn query(options: &[(&str, &Selector)]) -> String {
    let told = options.iter().map(|(key, selector)| (key, selector.to_string())).filter(|(_, text)| !text.is_empty());
    let mut all = String::new();
    for (key, text) in told {
        all.push(if all.is_empty() { '?' } else { '&' });
        all.push_str(&format!("{key}={}", escape(&text)));
    }
    all
}
