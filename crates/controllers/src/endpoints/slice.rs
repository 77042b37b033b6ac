//! EndpointSlices of Services with a selector.

use std::sync::Arc;
use std::time::Duration;

use client::{Backoff, Client, DeleteParams, Delta, EventType, Informer, Meta, ObjectKey, Recorder, WorkQueue, object_reference};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use machinery::status::Status;

use super::metrics::{Metrics, Names, OF_SERVICES, Syncs};
use super::plan::{Desired, ENDPOINTS_MAX, Plan, Template};
use super::topology::{self, Topology};
use super::{Backends, HEADLESS, MANAGED_BY, SERVICE_NAME, Triggers, facts, selects};
use crate::claim::owner_reference;
use crate::meta::labels;
use crate::overlay::Overlay;
use crate::pods;
use crate::work::{Controller, Cx, Step};

const CONTROLLER: &str = "endpointslice-controller.k8s.io";
const WORKERS: usize = 5;
/// How many of the pods that serve nobody are told of: an Event has no room for more.
const TOLD_MAX: usize = 32;
/// The index of Services that ask for zones by annotation.
const BY_TOPOLOGY: &str = "topology";

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let client = cx.client("endpointslice-controller");
    let (services, pods) = (cx.informers.informer(), cx.informers.informer::<Pod>());
    let controller = Arc::new(Slices {
        recorder: cx.recorder(&client, "endpoint-slice-controller"),
        backends: Backends::new(&services, &pods),
        syncs: Syncs::new(cx.metrics(), &services),
        services,
        pods: pods.clone(),
        nodes: cx.informers.informer(),
        writer: Writer::new(&cx, client, &OF_SERVICES),
        triggers: Triggers::default(),
        topology: Topology::default(),
    });
    pods::index_node(&pods);
    controller.services.add_index(BY_TOPOLOGY, |service| topology::is_auto(service).then(String::new).into_iter().collect());
    cx.setup(&controller)
        .on(&controller.services, |c, queue, change| c.backends.heard_service(queue, change))
        .on(&pods, |c, queue, change| c.backends.heard_pod(queue, change))
        .on(&controller.writer.slices, |c, queue, change| c.writer.heard(CONTROLLER, queue, change))
        .on(&controller.nodes, Slices::heard_node)
        .work(WORKERS)
        .await;
}

/// The Service of a slice.
fn service_key(slice: &EndpointSlice) -> Option<ObjectKey> {
    slice.label(SERVICE_NAME).filter(|n| !n.is_empty()).map(|name| ObjectKey::new(slice.namespace(), name))
}

/// Reads and writes the slices of one controller.
pub(super) struct Writer {
    pub(super) client: Client,
    pub(super) slices: Informer<EndpointSlice>,
    pub(super) overlay: Overlay<EndpointSlice>,
    pub(super) metrics: Metrics,
}

impl Writer {
    pub(super) fn new(cx: &Cx, client: Client, names: &'static Names) -> Self {
        let slices = cx.informers.informer::<EndpointSlice>();
        slices.add_index("service", |slice| service_key(slice).map(|k| k.to_string()).into_iter().collect());
        Self { client, slices, overlay: Overlay::default(), metrics: Metrics::new(cx.metrics(), names) }
    }

    /// A slice of this controller changed: by itself, or by somebody who should not.
    pub(super) fn heard(&self, manager: &str, queue: &WorkQueue<ObjectKey>, change: &Delta<EndpointSlice>) {
        let slice = change.object();
        let was_own = matches!(change, Delta::Updated { old, .. } if old.label(MANAGED_BY) == Some(manager));
        if slice.label(MANAGED_BY) != Some(manager) && !was_own {
            return;
        }
        for key in service_key(slice).into_iter().chain(match change {
            Delta::Updated { old, .. } => service_key(old),
            _ => None,
        }) {
            if matches!(change, Delta::Deleted(_)) {
                self.overlay.gone(&key, slice.name());
            }
            queue.add(key);
        }
    }

    /// The slices that this controller keeps for a Service.
    pub(super) fn of(&self, key: &ObjectKey, manager: &str) -> Vec<Arc<EndpointSlice>> {
        let mut seen = self.slices.by_index("service", &key.to_string());
        seen.retain(|s| s.label(MANAGED_BY) == Some(manager));
        self.overlay.over(key, seen)
    }

    /// Writes a plan for an owner that has so many slices; created first, so that no endpoint is missing in between.
    pub(super) async fn write(&self, key: &ObjectKey, plan: Plan, existing: usize) -> client::Result<()> {
        self.metrics.planned(key, &plan, existing);
        let result = self.write_all(key, plan).await;
        if result.is_err() {
            self.overlay.forget(key);
        }
        result
    }

    async fn write_all(&self, key: &ObjectKey, plan: Plan) -> client::Result<()> {
        let api = self.client.namespaced::<EndpointSlice>(&key.namespace);
        for slice in &plan.create {
            match api.create(slice).await {
                Ok(slice) => {
                    self.metrics.changed("create");
                    self.overlay.wrote(key, slice);
                }
                Err(error) if error.is_namespace_terminating() => return Ok(()),
                Err(error) => return Err(failed("create", "", key, error)),
            }
        }
        for slice in &plan.update {
            let replaced = api.replace(slice.name(), slice).await;
            self.overlay.wrote(key, replaced.map_err(|error| failed("update", slice.name(), key, error))?);
            self.metrics.changed("update");
        }
        for slice in &plan.delete {
            match api.delete(slice.name(), &DeleteParams::default()).await {
                Err(error) if !error.is_not_found() => return Err(failed("delete", slice.name(), key, error)),
                _ => {
                    self.metrics.changed("delete");
                    self.overlay.deleted(key, slice.name());
                }
            }
        }
        Ok(())
    }
}

/// An error of the server that tells what was to be done (upstream's `finalize`); it stays what it is.
fn failed(verb: &str, slice: &str, service: &ObjectKey, error: client::Error) -> client::Error {
    let gap = if slice.is_empty() { "" } else { " " };
    match error {
        client::Error::Api(mut status) => {
            status.message = format!("failed to {verb}{gap}{slice} EndpointSlice for Service {service}: {}", status.message);
            client::Error::Api(status)
        }
        other => other,
    }
}

struct Slices {
    backends: Backends,
    services: Informer<Service>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    writer: Writer,
    recorder: Recorder,
    triggers: Triggers,
    topology: Topology,
    syncs: Syncs,
}

impl Controller for Slices {
    const QUEUE: &'static str = "endpoint_slice";
    /// `defaultSyncBackOff` and `maxSyncBackOff`.
    const BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(1000) };
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Step {
        let Some(service) = self.services.get_key(key) else {
            // The slices go by their owner reference.
            self.triggers.forget(key);
            self.topology.off(key);
            self.writer.overlay.forget(key);
            self.writer.metrics.forget(key);
            return Ok(None);
        };
        if !selects(&service) {
            return Ok(None);
        }
        let pods = self.backends.of(key);
        let trigger = self.triggers.next(&service, &pods);
        let mut existing = self.writer.of(key, CONTROLLER);
        // What would be put into one that is being deleted would go with it.
        existing.retain(|slice| !slice.is_deleting());
        let families = facts::families(&service);
        let (pods, homeless) = housed(&service, pods, |node| self.nodes.get("", node).is_some());
        let mut plan = Plan::default();
        let auto = topology::is_auto(&service);
        let shares = if auto { topology::shares(&self.nodes.list()) } else { None };
        let mut told = if auto { Vec::new() } else { self.topology.off(key) };
        for family in &families {
            let mine: Vec<_> = existing.iter().filter(|s| s.address_type == *family).cloned().collect();
            let mut endpoints = self.endpoints(&service, &pods, family);
            if auto {
                let mut all: Vec<&mut Endpoint> = endpoints.iter_mut().map(|(_, endpoint)| endpoint).collect();
                told.extend(self.topology.assign((key, family), shares.as_ref(), &mut all, &topology::former(&mine)));
            }
            let mut desired = Desired::default();
            endpoints.into_iter().for_each(|(ports, endpoint)| desired.add(ports, endpoint));
            plan.extend(super::plan::plan(&template(&service, family), desired, &mine, trigger));
        }
        for (is_bad, reason, message) in told {
            self.recorder.event(&object_reference(&*service), if is_bad { EventType::Warning } else { EventType::Normal }, reason, message);
        }
        // The Service no longer has that address family.
        self.topology.only(key, &families);
        let count = existing.len();
        plan.remove(existing.into_iter().filter(|s| !families.contains(&s.address_type.as_str())));
        let plan = lasting(&service, plan);
        let changes = plan.create.len() + plan.update.len() + plan.delete.len();
        let written = self.writer.write(key, plan, count).await;
        let distribution = service.spec.as_ref().filter(|_| !auto).and_then(|s| s.traffic_distribution.as_deref()).unwrap_or_default();
        if written.is_ok() {
            self.syncs.changed((if auto { "Auto" } else { "Disabled" }, distribution), changes);
        }
        // Those that were left out are looked at again: their nodes may only not be heard of yet.
        let written = written.and_then(|()| match homeless {
            None => Ok(()),
            Some(why) => Err(Status::new(500, "InternalError", why).into()),
        });
        self.syncs.ended(written.is_err());
        match written {
            Err(error) if !error.is_conflict() && !error.is_not_found() => {
                let message = format!("Error updating Endpoint Slices for Service {key}: {error}");
                self.recorder.event(&object_reference(&*service), EventType::Warning, "FailedToUpdateEndpointSlices", message);
                Err(error)
            }
            other => other.map(|()| self.writer.overlay.look_again(key)),
        }
    }
}

impl Slices {
    /// A node's zone is its endpoints' zone; without a node there is none.
    fn heard_node(&self, queue: &WorkQueue<ObjectKey>, change: &Delta<Node>) {
        let zone = |n: &Node| labels(n).get(facts::ZONE).cloned();
        let moved = match change {
            Delta::Updated { old, new } => zone(old) != zone(new),
            Delta::Added(node) => zone(node).is_some(),
            Delta::Deleted(_) => true,
        };
        let counts = match change {
            Delta::Updated { old, new } => topology::counted(old) != topology::counted(new),
            _ => true,
        };
        if counts {
            self.topology.overloaded(|| self.nodes.list()).into_iter().for_each(|key| queue.add(key));
        }
        // The pods of one that comes may have been heard of before it was.
        if moved || matches!(change, Delta::Added(_)) {
            let pods = pods::on_node(&self.pods, change.object().name());
            pods.iter().flat_map(|p| self.backends.members.heard(&p.key())).for_each(|key| queue.add(key));
        }
        if moved {
            // What one node lacks keeps the zones from all that ask for them, wherever their pods are.
            self.services.by_index(BY_TOPOLOGY, "").iter().for_each(|s| queue.add(s.key()));
        }
    }

    /// The pods' endpoints of a family, each with its ports.
    fn endpoints(&self, service: &Service, pods: &[Arc<Pod>], family: &str) -> Vec<(Vec<EndpointPort>, Endpoint)> {
        let of = |pod: &Arc<Pod>| {
            let node = self.nodes.get("", pods::node_name(pod));
            facts::endpoint(pod, node.as_deref(), service, family).map(|endpoint| (facts::ports(service, pod), endpoint))
        };
        pods.iter().filter_map(of).collect()
    }
}

/// What is written for a Service. One that goes may take its time (a load balancer is to be taken away first) and is called meanwhile: its slices
/// are kept in step, and it gets no new ones, which could outlive it.
fn lasting(service: &Service, mut plan: Plan) -> Plan {
    if service.is_deleting() {
        plan.create.clear();
    }
    plan
}

/// The pods whose nodes are there, and what is wrong with the others (as upstream's aggregated errors tell it): what ran on a node that is gone
/// serves nobody, and it may take its time until it is removed. A Service that publishes what is not ready publishes it.
pub(super) fn housed(service: &Service, pods: Vec<Arc<Pod>>, is_there: impl Fn(&str) -> bool) -> (Vec<Arc<Pod>>, Option<String>) {
    let there = |pod: &Pod| pods::node_name(pod).is_empty() || is_there(pods::node_name(pod));
    let (housed, homeless): (Vec<_>, Vec<_>) = pods.into_iter().partition(|p| facts::publishes_unready(service) || there(p));
    // One that would be no endpoint anyway is not missed.
    let missed = homeless.iter().filter(|p| !pods::is_terminal(p) && !facts::ips(p).is_empty());
    let told = |p: &Arc<Pod>| format!("skipping Pod {} for Service {}: Node {} Not Found", p.name(), service.key(), pods::node_name(p));
    let mut all: Vec<String> = missed.take(TOLD_MAX).map(told).collect();
    let why = if all.len() > 1 { Some(format!("[{}]", all.join(", "))) } else { all.pop() };
    (housed, why)
}

pub(super) fn template(service: &Service, family: &'static str) -> Template {
    let mut own = labels(service).clone();
    own.retain(|key, _| ![HEADLESS, SERVICE_NAME, MANAGED_BY].contains(&key.as_str()));
    if facts::is_headless(service) {
        own.insert(HEADLESS.to_owned(), String::new());
    }
    own.insert(SERVICE_NAME.to_owned(), service.name().to_owned());
    own.insert(MANAGED_BY.to_owned(), CONTROLLER.to_owned());
    Template {
        namespace: service.namespace().to_owned(),
        prefix: service.name().to_owned(),
        labels: own,
        annotations: None,
        owner: owner_reference(service),
        family,
        endpoints_max: ENDPOINTS_MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_goes_gets_no_new_slice() {
        let planned = |deleted: Option<&str>| {
            let service: Service =
                client::typed(&serde_json::json!({"metadata": {"name": "web", "namespace": "n", "deletionTimestamp": deleted}})).expect("a Service");
            let plan = lasting(&service, Plan { create: vec![EndpointSlice::default()], update: vec![EndpointSlice::default()], ..Plan::default() });
            (plan.create.len(), plan.update.len())
        };
        assert_eq!((planned(None), planned(Some("2026-01-01T00:00:00Z"))), ((1, 1), (0, 1)), "what is there is kept in step");
    }

    #[test]
    fn a_refusal_tells_what_was_to_be_done() {
        let refused = |verb, slice| failed(verb, slice, &ObjectKey::new("n", "web"), Status::new(409, "Conflict", "no").into());
        assert_eq!(refused("create", "").to_string(), "failed to create EndpointSlice for Service n/web: no");
        assert_eq!(refused("update", "web-1").to_string(), "failed to update web-1 EndpointSlice for Service n/web: no");
        assert!(refused("delete", "web-1").is_conflict());
    }
}
