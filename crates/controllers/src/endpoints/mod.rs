//! Who serves a Service: EndpointSlices and Endpoints from pods, and EndpointSlices from Endpoints that users write.
//!
//! `facts.rs` says what a pod is to a Service, `plan.rs` how endpoints are laid out in slices; the three controllers only
//! read and write. No request is lost in a rolling update because a pod's change is in the slices a moment later:
//! nothing here waits, and a controller's own writes count before their echo (`overlay.rs`).
//!
//! What holds it: changes of slices and Endpoints are heard, so what somebody writes into those that a controller manages, or
//! deletes of them, is put right; one that is given another manager or another Service is let go and made anew. An echo that
//! never comes is waited for a minute and no longer. Endpoints that a Service leaves behind are deleted when they are seen without
//! it, slices go by their owner. Deletion of a Service while nobody looked is told by the first list after it.

mod facts;
pub(crate) mod legacy;
mod metrics;
pub(crate) mod mirroring;
mod plan;
pub(crate) mod slice;
#[cfg(test)]
mod tests;
mod topology;

use std::collections::HashMap;
use std::sync::Arc;

use client::{Delta, Informer, Meta, ObjectKey, WorkQueue};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;

use crate::members::Members;
use crate::meta::{created, equality, labels, time};
use crate::pods;

/// When what led to an endpoint's change happened, for those who measure how long it takes to be programmed.
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// The label by which a slice finds its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label that says who keeps a slice.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The label of what belongs to a headless Service.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// Which pods are a Service's.
struct Backends {
    services: Informer<Service>,
    members: Members,
}

impl Backends {
    fn new(services: &Informer<Service>, pods: &Informer<Pod>) -> Self {
        Self { services: services.clone(), members: Members::new(pods) }
    }

    /// A Service changed: it is worked on, with the pods that it selects now.
    fn heard_service(&self, queue: &WorkQueue<ObjectKey>, change: &Delta<Service>) {
        let key = change.object().key();
        let now = self.services.get_key(&key).filter(|s| selects(s));
        self.members.set(&key, now.map(|s| equality(s.spec.as_ref().and_then(|s| s.selector.as_ref()))));
        queue.add(key);
    }

    /// Queues the Services that a pod's change concerns.
    fn heard_pod(&self, queue: &WorkQueue<ObjectKey>, change: &Delta<Pod>) {
        if let Delta::Updated { old, new } = change
            && labels(&**old) == labels(&**new)
            && facts::Facts::of(old) == facts::Facts::of(new)
        {
            return;
        }
        self.members.heard(&change.object().key()).into_iter().for_each(|key| queue.add(key));
    }

    /// The pods that a Service selects.
    fn of(&self, service: &ObjectKey) -> Vec<Arc<Pod>> {
        self.members.of(service)
    }
}

/// Whether a Service has endpoints by its selector at all.
fn selects(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.is_some_and(|s| s.type_.as_deref() != Some("ExternalName") && s.selector.as_ref().is_some_and(|s| !s.is_empty()))
}

/// What moved a Service last (upstream `TriggerTimeTracker`): its own creation and its pods' turns of readiness.
#[derive(Debug, Default)]
struct Triggers {
    services: Mutex<HashMap<ObjectKey, Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    service: Option<Timestamp>,
    pods: HashMap<String, Timestamp>,
}

impl Triggers {
    /// The earliest of what is new since the last time.
    fn next(&self, service: &Service, pods: &[Arc<Pod>]) -> Option<Timestamp> {
        let mut services = self.services.lock();
        let seen = services.entry(service.key()).or_default();
        let mut earliest: Option<Timestamp> = None;
        let mut note = |at: Timestamp| earliest = Some(earliest.map_or(at, |e| e.min(at)));
        let mut now = HashMap::with_capacity(pods.len());
        for pod in pods {
            let Some(at) = pods::condition(pod, "Ready").and_then(|c| c.last_transition_time.as_ref()) else { continue };
            if seen.pods.get(pod.uid()).is_none_or(|former| *former < at.0) {
                note(at.0);
            }
            now.insert(pod.uid().to_owned(), at.0);
        }
        let born = created(service);
        if seen.service.is_none_or(|former| former < born) {
            note(born);
        }
        *seen = Seen { service: Some(born), pods: now };
        earliest.filter(|e| *e != time(None))
    }

    fn forget(&self, service: &ObjectKey) {
        self.services.lock().remove(service);
    }
}

/// The annotation's text.
fn trigger_text(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Sets, or removes, the annotation.
fn set_trigger(object: &mut impl Meta, at: Option<Timestamp>) {
    match at {
        Some(at) => {
            crate::meta::annotations_mut(object).insert(TRIGGER_TIME.to_owned(), trigger_text(at));
        }
        None => {
            if let Some(all) = &mut object.meta_mut().annotations {
                all.remove(TRIGGER_TIME);
            }
        }
    }
}
