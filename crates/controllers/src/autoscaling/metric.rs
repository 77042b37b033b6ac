//! One metric of an autoscaler: what is read for it, and what it proposes.

use std::sync::Arc;

use client::ObjectKey;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricSource, ExternalMetricStatus, MetricIdentifier, MetricSpec, MetricStatus, MetricTarget, MetricValueStatus,
    ObjectMetricSource, ObjectMetricStatus, PodsMetricStatus, ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use machinery::labels::Selector;
use machinery::quantity::{Format, Quantity};

use super::metrics::{self, Metrics, PodMetrics};
use super::replicas::{self, Samples, Scene, milli};
use super::target::Targets;
use crate::meta::selector_text as told;

/// What was read for a metric.
pub(super) enum Reading {
    /// Of each pod.
    Pods(Samples),
    /// Of one object.
    One(i64),
    /// From outside.
    Many(Vec<i64>),
}

/// What a metric asks for.
#[derive(Debug, PartialEq)]
pub(super) struct Proposal {
    pub(super) replicas: i32,
    /// What it is called where a reason is told.
    pub(super) name: String,
    pub(super) status: MetricStatus,
}

/// Why a metric proposes nothing.
#[derive(Debug, PartialEq)]
pub(super) struct Failure {
    /// Of the condition and of the Event.
    pub(super) reason: &'static str,
    /// In the condition and in the Event.
    pub(super) told: String,
    /// In the Event about all metrics.
    pub(super) error: String,
}

/// Reads metrics for one step of one autoscaler; what pods use is asked for once, however many metrics are about it.
pub(super) struct Reader<'s> {
    pub(super) metrics: &'s Metrics,
    pub(super) targets: &'s Targets,
    pub(super) key: &'s ObjectKey,
    pub(super) selector: &'s Selector,
    /// The pods that it selects.
    pub(super) pods: &'s [Arc<Pod>],
    pub(super) used: Option<Result<Arc<Vec<Arc<PodMetrics>>>, String>>,
}

impl Reader<'_> {
    async fn used(&mut self) -> Result<Arc<Vec<Arc<PodMetrics>>>, String> {
        if let Some(used) = &self.used {
            return used.clone();
        }
        let used = self.metrics.of_resources(&self.key.namespace, self.selector, self.pods).await.map(Arc::new);
        self.used.insert(used).clone()
    }

    /// What a metric is judged by.
    pub(super) async fn read(&mut self, spec: &MetricSpec) -> Result<Reading, String> {
        let namespace = self.key.namespace.clone();
        if let Some(own) = &spec.resource {
            let used = self.used().await.map_err(|e| format!("unable to get metrics for resource {}: {e}", own.name))?;
            return Ok(Reading::Pods(metrics::samples(&used, &own.name, "")));
        }
        if let Some(own) = &spec.container_resource {
            let used = self.used().await.map_err(|e| format!("unable to get metrics for resource {}: {e}", own.name))?;
            return Ok(Reading::Pods(metrics::samples(&used, &own.name, &own.container)));
        }
        if let Some(own) = &spec.pods {
            let samples = self.metrics.of_pods(&namespace, self.selector, &own.metric).await;
            return samples.map(Reading::Pods).map_err(|e| format!("unable to get metric {}: {e}", own.metric.name));
        }
        if let Some(own) = &spec.object {
            let about = &own.described_object;
            let value = self.metrics.of_object(self.targets, &namespace, about, &own.metric).await;
            return value.map(Reading::One).map_err(|e| format!("unable to get metric {} on {} {namespace}/{}: {e}", own.metric.name, about.kind, about.name));
        }
        if let Some(own) = &spec.external {
            let values = self.metrics.of_outside(&namespace, &own.metric).await;
            let selector = told(own.metric.selector.as_ref());
            return values.map(Reading::Many).map_err(|e| format!("unable to get external metric {namespace}/{}/{selector}: {e}", own.metric.name));
        }
        Err(format!("unknown metric source type {:?}", spec.type_))
    }
}

/// What a metric proposes by what was read for it.
pub(super) fn propose(spec: &MetricSpec, read: Result<Reading, String>, scene: &Scene<'_>) -> Result<Proposal, Failure> {
    if let Some(own) = &spec.resource {
        let (kind, reason) = ("resource", "FailedGetResourceMetric");
        let (replicas, name, current) = of_resource(&own.name, "", &own.target, kind, read, scene).map_err(|e| Failure {
            reason,
            error: format!("failed to get {} resource metric value: {e}", own.name),
            told: e,
        })?;
        let status = ResourceMetricStatus { name: own.name.clone(), current };
        return Ok(Proposal { replicas, name, status: MetricStatus { resource: Some(status), ..typed(spec) } });
    }
    if let Some(own) = &spec.container_resource {
        let (kind, reason) = ("container resource", "FailedGetContainerResourceMetric");
        let (replicas, name, current) = of_resource(&own.name, &own.container, &own.target, kind, read, scene).map_err(|e| Failure {
            reason,
            error: format!("failed to get {} container metric value: {e}", own.container),
            told: e,
        })?;
        let status = ContainerResourceMetricStatus { name: own.name.clone(), container: own.container.clone(), current };
        return Ok(Proposal { replicas, name, status: MetricStatus { container_resource: Some(status), ..typed(spec) } });
    }
    if let Some(own) = &spec.pods {
        let (replicas, average) = read
            .and_then(|read| replicas::for_average(scene, read.pods(), "", own.target.average_value.as_ref().map_or(0, milli)))
            .map_err(|e| Failure { reason: "FailedGetPodsMetric", error: format!("failed to get pods metric value: {e}"), told: e })?;
        let status = PodsMetricStatus { metric: own.metric.clone(), current: average_of(average, Format::Decimal) };
        let name = format!("pods metric {}", own.metric.name);
        return Ok(Proposal { replicas, name, status: MetricStatus { pods: Some(status), ..typed(spec) } });
    }
    if let Some(own) = &spec.object {
        let (replicas, name, current) = of_object(own, read, scene)?;
        let status = ObjectMetricStatus { metric: own.metric.clone(), described_object: own.described_object.clone(), current };
        return Ok(Proposal { replicas, name, status: MetricStatus { object: Some(status), ..typed(spec) } });
    }
    if let Some(own) = &spec.external {
        let (replicas, current) = of_external(own, read, scene)?;
        let (status, name) = (ExternalMetricStatus { metric: own.metric.clone(), current }, outside(&own.metric));
        return Ok(Proposal { replicas, name, status: MetricStatus { external: Some(status), ..typed(spec) } });
    }
    let error = format!("unknown metric source type {:?}", spec.type_);
    Err(Failure { reason: "InvalidMetricSourceType", told: error.clone(), error })
}

impl Reading {
    fn pods(self) -> Samples {
        match self {
            Self::Pods(samples) => samples,
            Self::One(_) | Self::Many(_) => Samples::new(),
        }
    }

    fn one(self) -> i64 {
        match self {
            Self::One(value) => value,
            Self::Pods(_) | Self::Many(_) => 0,
        }
    }

    fn many(self) -> Vec<i64> {
        match self {
            Self::Many(values) => values,
            Self::Pods(_) | Self::One(_) => Vec::new(),
        }
    }
}

fn typed(spec: &MetricSpec) -> MetricStatus {
    MetricStatus { type_: spec.type_.clone(), ..MetricStatus::default() }
}

fn text(milli: i64, format: Format) -> Option<Text> {
    Some(Text(Quantity::from_milli(milli, format).to_string()))
}

fn average_of(milli: i64, format: Format) -> MetricValueStatus {
    MetricValueStatus { average_value: text(milli, format), ..MetricValueStatus::default() }
}

fn value_of(milli: i64) -> MetricValueStatus {
    MetricValueStatus { value: text(milli, Format::Decimal), ..MetricValueStatus::default() }
}

/// An external metric's name as upstream tells it, which is an object's too if it is shared among pods.
fn outside(metric: &MetricIdentifier) -> String {
    format!("external metric {}({})", metric.name, told(metric.selector.as_ref()))
}

fn of_resource(
    name: &str,
    container: &str,
    target: &MetricTarget,
    kind: &str,
    read: Result<Reading, String>,
    scene: &Scene<'_>,
) -> Result<(i32, String, MetricValueStatus), String> {
    // Memory is written as metrics-server writes it, all else in decimals.
    let format = if name == "memory" { Format::Binary } else { Format::Decimal };
    if let Some(aim) = &target.average_value {
        let (replicas, average) =
            read.and_then(|read| replicas::for_average(scene, read.pods(), name, milli(aim))).map_err(|e| format!("failed to get {name} usage: {e}"))?;
        return Ok((replicas, format!("{name} resource"), average_of(average, format)));
    }
    let Some(aim) = target.average_utilization else {
        return Err("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set".to_owned());
    };
    let found = read
        .and_then(|read| replicas::for_utilization(scene, read.pods(), name, container, aim))
        .map_err(|e| format!("failed to get {name} utilization: {e}"))?;
    let current = MetricValueStatus { average_utilization: Some(found.percent), ..average_of(found.average_milli, format) };
    Ok((found.replicas, format!("{name} {kind} utilization (percentage of request)"), current))
}

fn of_object(own: &ObjectMetricSource, read: Result<Reading, String>, scene: &Scene<'_>) -> Result<(i32, String, MetricValueStatus), Failure> {
    let failure = |told: String, why: String| Failure { reason: "FailedGetObjectMetric", error: format!("failed to get object metric value: {why}"), told };
    match (own.target.type_.as_str(), &own.target.value, &own.target.average_value) {
        ("Value", Some(aim), _) => {
            let found = read.map(Reading::one).and_then(|usage| Ok((replicas::for_value(scene, usage, milli(aim))?, usage)));
            let (replicas, usage) = found.map_err(|e| failure(e.clone(), e))?;
            Ok((replicas, format!("{} metric {}", own.described_object.kind, own.metric.name), value_of(usage)))
        }
        ("AverageValue", _, Some(aim)) => {
            let usage = read.map(Reading::one).map_err(|e| failure(e.clone(), format!("failed to get {} object metric: {e}", own.metric.name)))?;
            let (replicas, part) = replicas::for_part(scene, usage, milli(aim));
            Ok((replicas, outside(&own.metric), average_of(part, Format::Decimal)))
        }
        _ => {
            let why = "invalid object metric source: neither a value target nor an average value target was set".to_owned();
            Err(failure(why.clone(), why))
        }
    }
}

fn of_external(own: &ExternalMetricSource, read: Result<Reading, String>, scene: &Scene<'_>) -> Result<(i32, MetricValueStatus), Failure> {
    let name = &own.metric.name;
    let failure =
        |told: String, why: String| Failure { reason: "FailedGetExternalMetric", error: format!("failed to get {name} external metric value: {why}"), told };
    if let Some(aim) = &own.target.average_value {
        let values = read.map(Reading::many).map_err(|e| failure(e.clone(), format!("failed to get {name} external metric: {e}")))?;
        let (replicas, part) = replicas::for_part(scene, replicas::sum_of_parts(&values), milli(aim));
        return Ok((replicas, average_of(part, Format::Decimal)));
    }
    if let Some(aim) = &own.target.value {
        let usage = read.map(|read| replicas::sum_of_values(&read.many()));
        let found = usage.and_then(|usage| Ok((replicas::for_value(scene, usage, milli(aim))?, usage)));
        let (replicas, usage) = found.map_err(|e| failure(e.clone(), format!("failed to get external metric {name}: {e}")))?;
        return Ok((replicas, value_of(usage)));
    }
    let why = "invalid external metric source: neither a value target nor an average value target was set".to_owned();
    Err(failure(why.clone(), why))
}
