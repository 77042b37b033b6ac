//! The two kinds.

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus};
use machinery::labels::Selector;

use super::{Condition, Counts, Replicated};
use crate::meta;

impl Replicated for ReplicaSet {
    const ACCOUNT: &'static str = "replicaset-controller";
    const QUEUE: &'static str = "replicaset";
    const COMPONENT: &'static str = "replicaset-controller";
    const TERMINATING: bool = true;
    const TELLS_AGES: bool = true;

    fn replicas(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }
    fn min_ready_s(&self) -> i32 {
        self.spec.min_ready_seconds.unwrap_or(0)
    }
    fn selector(&self) -> Selector {
        meta::selector(&self.spec.selector)
    }
    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.template.as_ref()
    }

    fn counts(&self) -> Counts {
        let s = self.status.clone().unwrap_or_default();
        let condition = |c: ReplicaSetCondition| Condition {
            kind: c.type_.unwrap_or_default(),
            status: c.status.unwrap_or_default(),
            reason: c.reason,
            message: c.message,
            since: c.last_transition_time,
        };
        Counts {
            replicas: s.replicas,
            fully_labeled: s.fully_labeled_replicas.unwrap_or(0),
            ready: s.ready_replicas.unwrap_or(0),
            available: s.available_replicas.unwrap_or(0),
            terminating: s.terminating_replicas,
            observed_generation: s.observed_generation.unwrap_or(0),
            conditions: s.conditions.into_iter().flatten().map(condition).collect(),
        }
    }

    fn set_counts(&mut self, c: Counts) {
        let condition = |c: Condition| ReplicaSetCondition {
            type_: Some(c.kind),
            status: Some(c.status),
            reason: c.reason,
            message: c.message,
            last_transition_time: c.since,
        };
        self.status = Some(ReplicaSetStatus {
            replicas: c.replicas,
            fully_labeled_replicas: Some(c.fully_labeled),
            ready_replicas: Some(c.ready),
            available_replicas: Some(c.available),
            terminating_replicas: c.terminating,
            observed_generation: Some(c.observed_generation),
            conditions: Some(c.conditions.into_iter().map(condition).collect::<Vec<_>>()).filter(|c| !c.is_empty()),
        });
    }
}

impl Replicated for ReplicationController {
    const ACCOUNT: &'static str = "replication-controller";
    const QUEUE: &'static str = "replicationmanager";
    const COMPONENT: &'static str = "replication-controller";
    const TERMINATING: bool = false;
    const TELLS_AGES: bool = false;

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }
    fn min_ready_s(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
    }
    fn selector(&self) -> Selector {
        match self.spec.as_ref().and_then(|s| s.selector.as_ref()).filter(|s| !s.is_empty()) {
            Some(set) => meta::equality(Some(set)),
            None => Selector::nothing(),
        }
    }
    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn counts(&self) -> Counts {
        let s = self.status.clone().unwrap_or_default();
        let condition = |c: ReplicationControllerCondition| Condition {
            kind: c.type_,
            status: c.status,
            reason: c.reason,
            message: c.message,
            since: c.last_transition_time,
        };
        Counts {
            replicas: s.replicas,
            fully_labeled: s.fully_labeled_replicas.unwrap_or(0),
            ready: s.ready_replicas.unwrap_or(0),
            available: s.available_replicas.unwrap_or(0),
            terminating: None,
            observed_generation: s.observed_generation.unwrap_or(0),
            conditions: s.conditions.into_iter().flatten().map(condition).collect(),
        }
    }

    fn set_counts(&mut self, c: Counts) {
        let condition = |c: Condition| ReplicationControllerCondition {
            type_: c.kind,
            status: c.status,
            reason: c.reason,
            message: c.message,
            last_transition_time: c.since,
        };
        self.status = Some(ReplicationControllerStatus {
            replicas: c.replicas,
            fully_labeled_replicas: Some(c.fully_labeled),
            ready_replicas: Some(c.ready),
            available_replicas: Some(c.available),
            observed_generation: Some(c.observed_generation),
            conditions: Some(c.conditions.into_iter().map(condition).collect::<Vec<_>>()).filter(|c| !c.is_empty()),
        });
    }
}
