//! What is counted of the queue: how many pods wait where, and what brought them there.

use std::sync::Arc;

use instruments::{Counter, Families, Family, Gauge, Kind, Labelled, Registry};

const PENDING: Family = Family::new(
    "scheduler_pending_pods",
    Kind::Gauge,
    "[STABLE] Number of pending pods, by the queue type. 'active' means number of pods in activeQ; 'backoff' means number of pods in backoffQ; 'unschedulable' means number of pods in unschedulableEntities that the scheduler attempted to schedule and failed; 'gated' is the number of unschedulable pods that the scheduler never attempted to schedule because they are gated; 'incomplete' means number of pods in incompletePodGroupPods; 'pending' means number of pods in pendingPodGroupPods.",
);
const ENTITIES: Family = Family::new(
    "scheduler_queued_entities",
    Kind::Gauge,
    "[ALPHA] Number of queued scheduling entities ('pod' or 'podgroup'; 'pod' stands for individual pods that are not members of any podgroup) by the queue type. 'active' means number of entities in activeQ; 'backoff' means number of entities in backoffQ; 'unschedulable' means number of entities in unschedulableEntities that the scheduler attempted to schedule and failed; 'gated' is the number of unschedulable entities that the scheduler never attempted to schedule because they are gated.",
);
const INCOMING: Family =
    Family::new("scheduler_queue_incoming_pods_total", Kind::Counter, "[STABLE] Number of pods added to scheduling queues by event and queue type.");
const INCOMING_ENTITIES: Family = Family::new(
    "scheduler_queue_incoming_entities_total",
    Kind::Counter,
    "[ALPHA] Number of scheduling entities added to scheduling queues by event, queue type, and entity type. Entity types are either 'pod' (for individual pods that are not members of any podgroup) or 'podgroup'.",
);
const REASONS: Family = Family::new(
    "scheduler_unschedulable_pods",
    Kind::Gauge,
    "[BETA] The number of unschedulable pods broken down by plugin name. A pod will increment the gauge for all plugins that caused it to not schedule and so this metric have meaning only when broken down by plugin.",
);

/// Where pods wait, by the original's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Active,
    Backoff,
    Unschedulable,
    Gated,
}

const PARTS: [(Part, &str); 4] = [(Part::Active, "active"), (Part::Backoff, "backoff"), (Part::Unschedulable, "unschedulable"), (Part::Gated, "gated")];

/// What is counted of the queue. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct QueueMetrics {
    pending: [Arc<Gauge>; 4],
    incoming: Arc<Labelled<2, Counter>>,
    /// The way that nearly all pods take: new, and at once active.
    new: Arc<Counter>,
    reasons: Arc<Labelled<2, Gauge>>,
}

/// The event of a pod that is new.
pub(crate) const NEW: &str = "UnscheduledPodAdd";

impl QueueMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let (pending, incoming) = (registry.gauges(&PENDING, ["queue"]), registry.counters(&INCOMING, ["event", "queue"]));
        // Workloads are not scheduled as groups here: each entity is a pod.
        registry.collect(&[(&ENTITIES, &["queue", "type"]), (&INCOMING_ENTITIES, &["event", "queue", "type"])], {
            let (pending, incoming) = (pending.clone(), incoming.clone());
            move |out: &mut Families| {
                pending.each(|[queue], pods| out.add(&ENTITIES, &[("queue", queue), ("type", "pod")], pods.get() as f64, None));
                incoming.each(|[event, queue], pods| {
                    out.add(&INCOMING_ENTITIES, &[("event", event), ("queue", queue), ("type", "pod")], pods.get() as f64, None);
                });
            }
        });
        Self {
            pending: PARTS.map(|(_, name)| pending.with([name])),
            new: incoming.with([NEW, "active"]),
            incoming,
            reasons: registry.gauges(&REASONS, ["plugin", "profile"]),
        }
    }

    /// A pod comes here, because of this event.
    pub(crate) fn enter(&self, part: Part, event: &'static str) {
        self.pending[part as usize].add(1);
        // Gated pods are among the unschedulable there, though they are pending apart.
        let queue = if part == Part::Gated { Part::Unschedulable } else { part };
        if (part, event) == (Part::Active, NEW) {
            self.new.inc();
        } else {
            self.incoming.with([event, PARTS[queue as usize].1]).inc();
        }
    }

    /// A pod leaves.
    pub(crate) fn leave(&self, part: Part) {
        self.pending[part as usize].add(-1);
    }

    /// These plugins hold a pod of this profile back, or (`by` is negative) do not any more.
    pub(crate) fn held(&self, plugins: impl Iterator<Item = &'static str>, profile: &str, by: i64) {
        plugins.for_each(|plugin| self.reasons.with([plugin, profile]).add(by));
    }
}
