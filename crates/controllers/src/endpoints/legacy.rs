//! Endpoints (core/v1) of Services with a selector: the same as the slices, in the older form.
//!
//! With a Service its Endpoints go, whoever wrote them: a later Service of the name would lead to where the former one did. Those of
//! a user without any Service stay, as they may have been written before it. (The original takes those away at its start, too.)

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use client::{Client, DeleteParams, Delta, EventType, Informer, Meta, ObjectKey, Recorder, WorkQueue, object_reference};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use parking_lot::Mutex;

use super::{Backends, HEADLESS, TRIGGER_TIME, Triggers, facts, selects, set_trigger};
use crate::meta::{annotations, annotations_mut, labels, new_meta};
use crate::pods;
use crate::work::{Controller, Cx, Step};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Addresses at most; the slices hold them all (upstream `maxCapacity`).
const CAPACITY: usize = 1000;
const WORKERS: usize = 5;

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let client = cx.client("endpoint-controller");
    let (services, pods) = (cx.informers.informer(), cx.informers.informer());
    let controller = Arc::new(Legacy {
        recorder: cx.recorder(&client, "endpoint-controller"),
        client,
        backends: Backends::new(&services, &pods),
        services,
        endpoints: cx.informers.informer(),
        triggers: Triggers::default(),
        gone: Mutex::default(),
    });
    cx.setup(&controller)
        .on(&controller.services, Legacy::heard_service)
        .on(&pods, |c, queue, change| c.backends.heard_pod(queue, change))
        .on(&controller.endpoints, |_, queue, change| match change {
            // What is left of Services that went while nobody looked, and what was deleted by hand.
            Delta::Added(e) if e.label(MANAGED_BY) == Some(MANAGER) => queue.add(e.key()),
            Delta::Deleted(e) => queue.add(e.key()),
            _ => {}
        })
        .work(WORKERS)
        .await;
}

struct Legacy {
    client: Client,
    backends: Backends,
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    recorder: Recorder,
    triggers: Triggers,
    /// Services whose end was heard, and whose Endpoints may still be there.
    gone: Mutex<HashSet<ObjectKey>>,
}

impl Legacy {
    fn heard_service(&self, queue: &WorkQueue<ObjectKey>, change: &Delta<Service>) {
        let key = change.object().key();
        match change {
            Delta::Deleted(_) => self.gone.lock().insert(key),
            Delta::Added(_) | Delta::Updated { .. } => self.gone.lock().remove(&key),
        };
        self.backends.heard_service(queue, change);
    }
}

impl Controller for Legacy {
    const QUEUE: &'static str = "endpoint";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Step {
        let api = self.client.namespaced::<Endpoints>(&key.namespace);
        let existing = self.endpoints.get_key(key);
        let Some(service) = self.services.get_key(key) else {
            self.triggers.forget(key);
            let is_left = self.gone.lock().contains(key);
            if existing.is_some_and(|e| is_left || e.label(MANAGED_BY) == Some(MANAGER)) {
                match api.delete(&key.name, &DeleteParams::default()).await {
                    Err(error) if !error.is_not_found() => return Err(error),
                    _ => {}
                }
            }
            self.gone.lock().remove(key);
            return Ok(None);
        };
        // One that goes may take its time, and is called meanwhile.
        if !selects(&service) || (service.is_deleting() && existing.is_none()) {
            return Ok(None);
        }
        let pods = self.backends.of(key);
        let trigger = self.triggers.next(&service, &pods);
        let made = endpoints(&service, &pods, existing.as_deref());
        if existing.as_ref().is_some_and(|old| same(old, &made)) {
            return Ok(None);
        }
        let mut made = made;
        set_trigger(&mut made, trigger);
        let written = match existing {
            Some(_) => api.replace(&key.name, &made).await,
            None => api.create(&made).await,
        };
        match written {
            Ok(_) => Ok(None),
            Err(error) if error.is_namespace_terminating() => Ok(None),
            Err(error) => {
                if !error.is_conflict() && !error.is_already_exists() {
                    let (reason, what) = match made.resource_version() {
                        "" => ("FailedToCreateEndpoint", "create endpoint for service"),
                        _ => ("FailedToUpdateEndpoint", "update endpoint"),
                    };
                    let message = format!("Failed to {what} {key}: {error}");
                    self.recorder.event(&object_reference(&made), EventType::Warning, reason, message);
                }
                Err(error)
            }
        }
    }
}

/// Whether nothing but the trigger's time differs.
fn same(old: &Endpoints, new: &Endpoints) -> bool {
    let notes = |e: &Endpoints| {
        let mut all = annotations(e).clone();
        all.remove(TRIGGER_TIME);
        all
    };
    old.subsets.as_deref().unwrap_or_default() == new.subsets.as_deref().unwrap_or_default() && labels(old) == labels(new) && notes(old) == notes(new)
}

/// The Endpoints of a Service with these pods.
pub(super) fn endpoints(service: &Service, pods: &[Arc<Pod>], old: Option<&Endpoints>) -> Endpoints {
    let mut made = old.cloned().unwrap_or_else(|| Endpoints { metadata: new_meta(service.namespace(), service.name()), subsets: None });
    let (subsets, truncated) = subsets(service, pods);
    made.subsets = Some(subsets).filter(|s| !s.is_empty());
    let mut own = labels(service).clone();
    own.remove(HEADLESS);
    if facts::is_headless(service) {
        own.insert(HEADLESS.to_owned(), String::new());
    }
    own.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    made.meta_mut().labels = Some(own);
    if truncated {
        annotations_mut(&mut made).insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else if let Some(all) = &mut made.meta_mut().annotations {
        all.remove(OVER_CAPACITY);
    }
    made
}

/// Addresses by the ports that they serve, ready ones and others apart; and whether there were too many.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let family = facts::families(service)[0];
    let unready = facts::publishes_unready(service);
    let has_ports = service.spec.as_ref().is_some_and(|s| s.ports.as_ref().is_some_and(|p| !p.is_empty()));
    // Ready addresses come first if there are too many.
    let mut rows: Vec<(bool, EndpointAddress, Vec<EndpointPort>)> = Vec::new();
    for pod in pods {
        let Some(ip) = facts::ips(pod).into_iter().find(|ip| facts::is_family(ip, family)) else { continue };
        if pods::is_terminal(pod) || (pod.is_deleting() && !unready) {
            continue;
        }
        let mut ports: Vec<EndpointPort> = facts::ports(service, pod)
            .into_iter()
            .map(|p| EndpointPort { name: p.name.filter(|n| !n.is_empty()), port: p.port.unwrap_or(0), protocol: p.protocol, app_protocol: p.app_protocol })
            .collect();
        if ports.is_empty() && has_ports {
            continue;
        }
        ports.sort_by_key(|p| (p.name.clone(), p.port, p.protocol.clone()));
        let address = EndpointAddress {
            ip: ip.to_owned(),
            hostname: facts::hostname(pod, service),
            node_name: Some(pods::node_name(pod).to_owned()).filter(|n| !n.is_empty()),
            target_ref: Some(facts::target(pod)),
        };
        rows.push((unready || pods::is_ready(pod), address, ports));
    }
    rows.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.ip.cmp(&b.1.ip)));
    let truncated = rows.len() > CAPACITY;
    rows.truncate(CAPACITY);
    let mut groups: BTreeMap<String, EndpointSubset> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (ready, address, ports) in rows {
        let key = serde_json::to_string(&ports).unwrap_or_default();
        if !seen.insert((key.clone(), address.ip.clone())) {
            continue;
        }
        let group = groups.entry(key).or_insert_with(|| EndpointSubset { ports: Some(ports).filter(|p| !p.is_empty()), ..EndpointSubset::default() });
        let list = if ready { &mut group.addresses } else { &mut group.not_ready_addresses };
        list.get_or_insert_default().push(address);
    }
    (groups.into_values().collect(), truncated)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fake::Fake;

    /// A load balancer is to be taken away first, which may last, and callers come meanwhile.
    #[tokio::test]
    async fn the_endpoints_of_a_service_that_goes_are_kept_in_step() {
        for (there, writes) in [(true, 1), (false, 0)] {
            let answer = json!({"kind": "Endpoints", "apiVersion": "v1", "metadata": {"name": "web", "namespace": "n", "resourceVersion": "2"}});
            let fake = Fake::new(move |_, _: &str| (200, answer.clone()));
            let client = fake.client();
            let service: Service =
                client::typed(&json!({"metadata": {"name": "web", "namespace": "n", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x/lb"]},
                "spec": {"selector": {"app": "web"}, "clusterIP": "10.96.0.9", "ports": [{"port": 80}]}}))
                .expect("a Service");
            // Of a pod that is gone.
            let stale = json!([{"addresses": [{"ip": "10.244.0.9"}], "ports": [{"port": 80}]}]);
            let old: Endpoints =
                client::typed(&json!({"metadata": {"name": "web", "namespace": "n", "resourceVersion": "1"}, "subsets": stale})).expect("Endpoints");
            let (services, pods) = (Informer::fixed([service]), Informer::fixed([]));
            let legacy = Legacy {
                recorder: Recorder::new(client.clone(), "endpoint-controller", ""),
                client,
                backends: Backends::new(&services, &pods),
                services,
                endpoints: Informer::fixed(there.then_some(old)),
                triggers: Triggers::default(),
                gone: Mutex::default(),
            };
            assert_eq!(legacy.reconcile(&ObjectKey::new("n", "web")).await.expect("a step"), None);
            let written = fake.written();
            assert_eq!(written.len(), writes, "{written:?}");
            assert!(written.iter().all(|w| w.starts_with("PUT ") && !w.contains("10.244.0.9")), "{written:?}");
        }
    }

    #[tokio::test]
    async fn with_a_service_its_endpoints_go_whoever_wrote_them() {
        let fake = Fake::new(|_, _: &str| (200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})));
        let client = fake.client();
        let endpoints = |name: &str, labels: serde_json::Value| -> Endpoints {
            client::typed(&json!({"metadata": {"name": name, "namespace": "n", "labels": labels}})).expect("Endpoints")
        };
        let service = |name: &str| -> Arc<Service> { Arc::new(client::typed(&json!({"metadata": {"name": name, "namespace": "n"}})).expect("a Service")) };
        let (services, pods) = (Informer::fixed([]), Informer::fixed([]));
        let legacy = Legacy {
            recorder: Recorder::new(client.clone(), "endpoint-controller", ""),
            client,
            backends: Backends::new(&services, &pods),
            services,
            endpoints: Informer::fixed([
                endpoints("by-hand", json!({})),
                endpoints("early", json!({})),
                endpoints("again", json!({})),
                endpoints("kept", json!({MANAGED_BY: MANAGER})),
            ]),
            triggers: Triggers::default(),
            gone: Mutex::default(),
        };
        let queue = WorkQueue::default();
        legacy.heard_service(&queue, &Delta::Deleted(service("by-hand")));
        legacy.heard_service(&queue, &Delta::Deleted(service("again")));
        legacy.heard_service(&queue, &Delta::Added(service("again")));
        for name in ["by-hand", "early", "again", "kept"] {
            assert_eq!(legacy.reconcile(&ObjectKey::new("n", name)).await.expect("a step"), None);
        }
        let gone: Vec<String> = fake.written().iter().map(|w| w.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(gone, ["by-hand", "kept"].map(|name| format!("DELETE /api/v1/namespaces/n/endpoints/{name}")));
        assert!(legacy.gone.lock().is_empty());
    }
}
