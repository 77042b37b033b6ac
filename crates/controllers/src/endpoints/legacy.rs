//! Endpoints (core/v1) of Services with a selector: the same as the slices, in the older form.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use client::{Client, DeleteParams, Delta, EventType, Informer, Meta, ObjectKey, Recorder, object_reference};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};

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
    });
    cx.setup(&controller)
        .on(&controller.services, |c, queue, change| c.backends.heard_service(queue, change))
        .on(&pods, |c, queue, change| c.backends.heard_pod(queue, change))
        .on(&controller.endpoints, |_, queue, change| match change {
            // What is left of Services that went while nobody looked, and what was deleted by hand.
            Delta::Added(e) | Delta::Deleted(e) if e.label(MANAGED_BY) == Some(MANAGER) => queue.add(e.key()),
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
}

impl Controller for Legacy {
    const QUEUE: &'static str = "endpoint";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Step {
        let api = self.client.namespaced::<Endpoints>(&key.namespace);
        let existing = self.endpoints.get_key(key);
        let Some(service) = self.services.get_key(key) else {
            self.triggers.forget(key);
            if existing.is_some_and(|e| e.label(MANAGED_BY) == Some(MANAGER)) {
                match api.delete(&key.name, &DeleteParams::default()).await {
                    Err(error) if !error.is_not_found() => return Err(error),
                    _ => {}
                }
            }
            return Ok(None);
        };
        if !selects(&service) || service.is_deleting() {
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
                    let (reason, what) =
                        if made.resource_version().is_empty() { ("FailedToCreateEndpoint", "create") } else { ("FailedToUpdateEndpoint", "update") };
                    let message = format!("Failed to {what} endpoint {key}: {error}");
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
