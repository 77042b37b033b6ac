//! EndpointSlices of Endpoints that users write for Services without a selector.

use std::sync::Arc;
use std::time::Duration;

use client::{Backoff, EventType, Informer, Meta, ObjectKey, Recorder, object_reference};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};
use tokio::time::Instant;

use super::metrics::{Mirrored, OF_ENDPOINTS};
use super::plan::{Desired, Plan, Template};
use super::slice::Writer;
use super::{MANAGED_BY, SERVICE_NAME, TRIGGER_TIME, facts};
use crate::claim::owner_reference;
use crate::meta::{annotations, labels};
use crate::work::{Controller, Cx, Step, itself};

const CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints that are a lock and no endpoints.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Addresses of a subset that are mirrored (upstream `--mirroring-max-endpoints-per-subset`).
const ADDRESSES_MAX: usize = 1000;
const WORKERS: usize = 2;

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let client = cx.client("endpointslicemirroring-controller");
    let controller = Arc::new(Mirroring {
        services: cx.informers.informer(),
        endpoints: cx.informers.informer(),
        recorder: cx.recorder(&client, "endpoint-slice-mirroring-controller"),
        writer: Writer::new(&cx, client, &OF_ENDPOINTS),
        mirrored: Mirrored::new(cx.metrics()),
    });
    cx.setup(&controller)
        .on(&controller.services, itself)
        .on(&controller.endpoints, itself)
        .on(&controller.writer.slices, |c, queue, change| c.writer.heard(CONTROLLER, queue, change))
        .work(WORKERS)
        .await;
}

struct Mirroring {
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    recorder: Recorder,
    writer: Writer,
    mirrored: Mirrored,
}

impl Controller for Mirroring {
    const QUEUE: &'static str = "endpoint_slice_mirroring";
    /// `defaultSyncBackOff` and `maxSyncBackOff`.
    const BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(100) };
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Step {
        let begun = Instant::now();
        let existing = self.writer.of(key, CONTROLLER);
        let mirrored = self.endpoints.get_key(key).filter(|e| is_mirrored(e));
        let wanted = mirrored.filter(|_| {
            let service = self.services.get_key(key);
            service.is_some_and(|s| s.spec.as_ref().is_none_or(|s| s.selector.as_ref().is_none_or(|s| s.is_empty())))
        });
        let skipped = wanted.as_deref().map_or(0, skipped);
        if let Some(endpoints) = wanted.as_ref().filter(|_| skipped > 0) {
            let message =
                format!("A max of {ADDRESSES_MAX} addresses can be mirrored to EndpointSlices per Endpoints subset. {skipped} addresses were skipped");
            self.recorder.event(&object_reference(&**endpoints), EventType::Warning, "TooManyAddressesToMirror", message);
        }
        let mut plan = Plan::default();
        for family in ["IPv4", "IPv6"] {
            let mine: Vec<_> = existing.iter().filter(|s| s.address_type == family).cloned().collect();
            let desired = wanted.as_ref().map(|e| desired(e, family)).filter(|(_, any)| *any);
            match (desired, &wanted) {
                (Some((desired, _)), Some(endpoints)) => {
                    plan.extend(super::plan::plan(&template(endpoints, family), desired, &mine, None));
                }
                _ => plan.remove(mine),
            }
        }
        if wanted.is_none() && existing.is_empty() {
            self.writer.metrics.forget(key);
            return Ok(self.writer.overlay.look_again(key));
        }
        let written = self.writer.write(key, plan, existing.len()).await;
        self.mirrored.ended(skipped, begun.elapsed());
        written?;
        Ok(self.writer.overlay.look_again(key))
    }
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    !endpoints.is_deleting() && endpoints.label(SKIP) != Some("true") && endpoints.annotation(LEADER).is_none()
}

/// The addresses of a subset that are mirrored, and whether they are ready: the ready ones come first, and of one that is said to
/// be both they count.
fn mirrored(subset: &EndpointSubset) -> impl Iterator<Item = (&EndpointAddress, bool)> {
    let ready = subset.addresses.iter().flatten().map(|a| (a, true));
    let others = subset.not_ready_addresses.iter().flatten().map(|a| (a, false));
    ready.chain(others).take(ADDRESSES_MAX)
}

/// How many addresses are left out, since their subsets have too many.
pub(super) fn skipped(endpoints: &Endpoints) -> usize {
    let all = |s: &EndpointSubset| s.addresses.as_ref().map_or(0, Vec::len) + s.not_ready_addresses.as_ref().map_or(0, Vec::len);
    endpoints.subsets.iter().flatten().map(|s| all(s).saturating_sub(ADDRESSES_MAX)).sum()
}

/// The endpoints of one family, and whether there are any.
pub(super) fn desired(endpoints: &Endpoints, family: &str) -> (Desired, bool) {
    let (mut desired, mut any) = (Desired::default(), false);
    for subset in endpoints.subsets.iter().flatten() {
        let ports: Vec<EndpointPort> = subset
            .ports
            .iter()
            .flatten()
            .map(|p| EndpointPort {
                name: Some(p.name.clone().unwrap_or_default()),
                port: Some(p.port),
                protocol: Some(p.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: p.app_protocol.clone(),
            })
            .collect();
        // What comes later is kept by the plan.
        let mut all: Vec<_> = mirrored(subset).filter(|(a, _)| facts::is_family(&a.ip, family)).collect();
        all.reverse();
        for (address, ready) in all {
            desired.add(ports.clone(), endpoint(address, ready));
            any = true;
        }
    }
    (desired, any)
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

pub(super) fn template(endpoints: &Endpoints, family: &'static str) -> Template {
    let mut own = labels(endpoints).clone();
    own.insert(SERVICE_NAME.to_owned(), endpoints.name().to_owned());
    own.insert(MANAGED_BY.to_owned(), CONTROLLER.to_owned());
    let mut notes = annotations(endpoints).clone();
    notes.retain(|k, _| k != TRIGGER_TIME && k != "kubectl.kubernetes.io/last-applied-configuration");
    Template {
        namespace: endpoints.namespace().to_owned(),
        prefix: endpoints.name().to_owned(),
        labels: own,
        annotations: Some(notes),
        owner: owner_reference(endpoints),
        family,
        // So that a subset is one slice.
        endpoints_max: ADDRESSES_MAX,
    }
}
