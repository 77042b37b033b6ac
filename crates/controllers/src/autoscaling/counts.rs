//! What is counted of autoscalers (upstream `podautoscaler/monitor`).

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use client::{Informer, Meta};
use instruments::{Counter, Declared, Family, Histogram, Kind, Labelled, Registry, SERIES_MAX, exponential};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;

use super::status::{ABLE, ACTIVE, Report};

const NUMBER: Family =
    Family::new("horizontal_pod_autoscaler_controller_num_horizontal_pod_autoscalers", Kind::Gauge, "[ALPHA] Current number of controlled HPA objects.");
const DESIRED: Family =
    Family::new("horizontal_pod_autoscaler_controller_desired_replicas", Kind::Gauge, "[ALPHA] Current desired replica count for HPA objects.");
const LOOKS: Family = Family::new(
    "horizontal_pod_autoscaler_controller_reconciliations_total",
    Kind::Counter,
    "[BETA] Number of reconciliations of HPA controller. The label 'action' should be either 'scale_down', 'scale_up', or 'none'. Also, the label 'error' should be either 'spec', 'internal', or 'none'. Note that if both spec and internal errors happen during a reconciliation, the first one to occur is reported in `error` label.",
);
const LOOK: Family = Family::new(
    "horizontal_pod_autoscaler_controller_reconciliation_duration_seconds",
    Kind::Histogram,
    "[BETA] The time(seconds) that the HPA controller takes to reconcile once. The label 'action' should be either 'scale_down', 'scale_up', or 'none'. Also, the label 'error' should be either 'spec', 'internal', or 'none'. Note that if both spec and internal errors happen during a reconciliation, the first one to occur is reported in `error` label.",
);
const COMPUTATIONS: Family = Family::new(
    "horizontal_pod_autoscaler_controller_metric_computation_total",
    Kind::Counter,
    "[BETA] Number of metric computations. The label 'action' should be either 'scale_down', 'scale_up', or 'none'. Also, the label 'error' should be either 'spec', 'internal', or 'none'. The label 'metric_type' corresponds to HPA.spec.metrics[*].type",
);
const COMPUTATION: Family = Family::new(
    "horizontal_pod_autoscaler_controller_metric_computation_duration_seconds",
    Kind::Histogram,
    "[BETA] The time(seconds) that the HPA controller takes to calculate one metric. The label 'action' should be either 'scale_down', 'scale_up', or 'none'. The label 'error' should be either 'spec', 'internal', or 'none'. The label 'metric_type' corresponds to HPA.spec.metrics[*].type",
);
const DECLARED: &[Declared] = &[(&NUMBER, &[]), (&DESIRED, &["hpa_name", "namespace"])];

static LOOK_S: [f64; 15] = exponential(0.001, 2.0);

/// Reasons of a condition that are the autoscaler's own fault.
const OF_SPEC: [&str; 3] = ["InvalidSelector", "AmbiguousSelector", "InvalidMetricSourceType"];
/// A condition that does not hold for this reason is no error.
const OFF: &str = "ScalingDisabled";

/// What is counted of autoscalers.
pub(super) struct Counts {
    looks: Arc<Labelled<2, Counter>>,
    look: Arc<Labelled<2, Histogram>>,
    computations: Arc<Labelled<3, Counter>>,
    computation: Arc<Labelled<3, Histogram>>,
}

impl Counts {
    pub(super) fn new(registry: &Registry, autoscalers: &Informer<HorizontalPodAutoscaler>) -> Self {
        let autoscalers = autoscalers.clone();
        registry.collect(DECLARED, move |out| {
            let all = autoscalers.list();
            out.add(&NUMBER, &[], all.len() as f64, None);
            for one in all.iter().take(SERIES_MAX) {
                let desired = one.status.as_ref().map_or(0, |status| status.desired_replicas);
                out.add(&DESIRED, &[("hpa_name", one.name()), ("namespace", one.namespace())], f64::from(desired), None);
            }
        });
        Self {
            looks: registry.counters(&LOOKS, ["action", "error"]),
            look: registry.histograms(&LOOK, ["action", "error"], &LOOK_S),
            computations: registry.counters(&COMPUTATIONS, ["action", "error", "metric_type"]),
            computation: registry.histograms(&COMPUTATION, ["action", "error", "metric_type"], &LOOK_S),
        }
    }

    /// One metric was worked out so after so long, where there were so many replicas: it proposes as many, or failed for this reason.
    pub(super) fn computed(&self, kind: &str, current: i32, found: Result<i32, &str>, took: Duration) {
        let (action, error) = match found {
            Ok(proposed) => (action(current, proposed), "none"),
            Err(reason) => ("none", if OF_SPEC.contains(&reason) { "spec" } else { "internal" }),
        };
        self.computations.with([action, error, kind]).inc();
        self.computation.with([action, error, kind]).took(took);
    }

    /// A look at an autoscaler ended so after so long.
    pub(super) fn looked(&self, report: &Report, took: Duration) {
        let error = error(report);
        let (current, desired) = (report.status.current_replicas.unwrap_or(0), report.status.desired_replicas);
        let action = if error == "none" { action(current, desired) } else { "none" };
        self.looks.with([action, error]).inc();
        self.look.with([action, error]).took(took);
    }
}

fn action(current: i32, desired: i32) -> &'static str {
    match desired.cmp(&current) {
        Ordering::Greater => "scale_up",
        Ordering::Less => "scale_down",
        Ordering::Equal => "none",
    }
}

fn error(report: &Report) -> &'static str {
    let conditions = report.status.conditions.iter().flatten();
    let failed = conditions.filter(|c| [ABLE, ACTIVE].contains(&c.type_.as_str()) && c.status != "True");
    match failed.filter_map(|c| c.reason.as_deref()).find(|reason| *reason != OFF) {
        Some(reason) if OF_SPEC.contains(&reason) => "spec",
        Some(_) => "internal",
        None => "none",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn looks_are_counted_by_what_they_did_and_what_went_wrong() {
        let autoscaler = json!({"metadata": {"namespace": "n", "name": "a"}, "spec": {"maxReplicas": 5, "scaleTargetRef": {"kind": "x", "name": "x"}},
            "status": {"desiredReplicas": 3, "currentReplicas": 2}});
        let autoscaler: HorizontalPodAutoscaler = client::typed(&autoscaler).unwrap();
        let registry = Registry::default();
        let counts = Counts::new(&registry, &Informer::fixed([autoscaler.clone()]));
        let mut report = Report::of(&autoscaler);
        report.set(ABLE, true, "SucceededGetScale", "");
        report.set(ACTIVE, false, OFF, "");
        counts.looked(&report, Duration::from_secs(1));
        report.set(ACTIVE, false, "FailedGetResourceMetric", "");
        counts.looked(&report, Duration::from_secs(1));
        report.set(ACTIVE, false, "AmbiguousSelector", "");
        counts.looked(&report, Duration::from_secs(1));
        let text = registry.text();
        let of = |line: &&str| !line.starts_with('#') && !line.contains("duration");
        let samples: Vec<&str> = text.lines().filter(of).map(|line| line.trim_start_matches("horizontal_pod_autoscaler_controller_")).collect();
        assert_eq!(
            samples,
            [
                r#"desired_replicas{hpa_name="a",namespace="n"} 3"#,
                "num_horizontal_pod_autoscalers 1",
                r#"reconciliations_total{action="none",error="internal"} 1"#,
                r#"reconciliations_total{action="none",error="spec"} 1"#,
                r#"reconciliations_total{action="scale_up",error="none"} 1"#,
            ]
        );
    }
}
