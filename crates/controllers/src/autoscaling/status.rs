//! What an autoscaler tells of itself.

use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus, MetricStatus};

use crate::meta::generation;

pub(super) const ABLE: &str = "AbleToScale";
pub(super) const ACTIVE: &str = "ScalingActive";
pub(super) const LIMITED: &str = "ScalingLimited";
/// The autoscaler itself has scaled its target to nothing, and so may scale it up again (KEP-2021).
pub(super) const TO_ZERO: &str = "ScaledToZero";

/// The status that is being made.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) status: HorizontalPodAutoscalerStatus,
    generation: i64,
}

impl Report {
    pub(super) fn of(autoscaler: &HorizontalPodAutoscaler) -> Self {
        Self { status: autoscaler.status.clone().unwrap_or_default(), generation: generation(autoscaler) }
    }

    /// Tells a condition; its time is that of its last turn.
    pub(super) fn set(&mut self, kind: &str, holds: bool, reason: &str, message: impl Into<String>) {
        let all = self.status.conditions.get_or_insert_default();
        let at = all.iter().position(|c| c.type_ == kind).unwrap_or_else(|| {
            all.push(HorizontalPodAutoscalerCondition { type_: kind.to_owned(), ..HorizontalPodAutoscalerCondition::default() });
            all.len() - 1
        });
        let (one, status) = (&mut all[at], if holds { "True" } else { "False" });
        if one.status != status {
            status.clone_into(&mut one.status);
            one.last_transition_time = Some(client::now());
        }
        one.reason = Some(reason.to_owned());
        one.message = Some(message.into()).filter(|m| !m.is_empty());
    }

    pub(super) fn holds(&self, kind: &str) -> bool {
        self.status.conditions.iter().flatten().any(|c| c.type_ == kind && c.status == "True")
    }

    /// Tells of the target and the metrics; `desired`: none if nothing was decided.
    pub(super) fn tell(&mut self, current: i32, desired: Option<i32>, metrics: Vec<MetricStatus>) {
        self.status.current_replicas = Some(current);
        self.status.desired_replicas = desired.unwrap_or(self.status.desired_replicas);
        self.status.current_metrics = Some(metrics).filter(|m| !m.is_empty());
        self.status.observed_generation = Some(self.generation);
    }

    /// Whether there is anything new to tell.
    pub(super) fn differs_from(&self, autoscaler: &HorizontalPodAutoscaler) -> bool {
        let HorizontalPodAutoscalerStatus { conditions, current_metrics, current_replicas, desired_replicas, last_scale_time, observed_generation } =
            &self.status;
        let none = HorizontalPodAutoscalerStatus::default();
        let old = autoscaler.status.as_ref().unwrap_or(&none);
        // A list that is not there says what an empty one says.
        conditions.as_deref().unwrap_or_default() != old.conditions.as_deref().unwrap_or_default()
            || current_metrics.as_deref().unwrap_or_default() != old.current_metrics.as_deref().unwrap_or_default()
            || current_replicas.unwrap_or(0) != old.current_replicas.unwrap_or(0)
            || (desired_replicas, last_scale_time, observed_generation) != (&old.desired_replicas, &old.last_scale_time, &old.observed_generation)
    }
}
