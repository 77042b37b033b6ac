//! The EndpointSlices of the cluster's DNS on nodes of other machines: one for each node that says where its DNS listens, kept from
//! the Node objects. Each is the node's own (a hint), so that pods ask the DNS beside them.
//!
//! A node says it by an annotation on its own Node, and is believed as far as the address is its own: one of its addresses or of its
//! ranges of pods, and nobody else's. A node that is not Ready keeps its slice, as not ready; what is left out loses it, and so does a
//! node that is deleted. Nodes of the control plane's machine write theirs themselves (`network::dns`).
//!
//! What holds it: nodes, slices, the Service and the ranges of Services are heard; a slice that somebody changed or deleted is put right.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use client::{Client, DeleteParams, Delta, Informer, ListParams, Meta};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{ACCOUNT, Machines, Told, precedes};
use crate::node::is_ready;
use crate::range::{Range, cidrs};
use crate::work::{Controller, Cx, Step};

/// Where a node's DNS listens.
const ANNOTATION: &str = "knarr.local/dns-address";
const NAMESPACE: &str = "kube-system";
/// The Service, which the first node's DNS keeps (`network::dns`).
const SERVICE: &str = "kube-dns";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The label's value of slices that are kept here.
const MANAGER: &str = "knarr-machines";
const PORT: u16 = 53;

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx, machines: Machines) {
    let informers = &cx.informers;
    let slices = informers.informer_in(NAMESPACE, ListParams::labels(format!("{MANAGED_BY}={MANAGER}")));
    let (nodes, services, ranges) = (informers.informer(), informers.informer(), informers.informer());
    let controller = Arc::new(Slices { client: cx.client(ACCOUNT), nodes, slices, services, ranges, machines, told: Mutex::default() });
    cx.setup(&controller)
        .on(&controller.nodes, |_, queue, change| {
            let same = matches!(change, Delta::Updated { old, new } if facts(old) == facts(new) && !Arc::ptr_eq(old, new));
            if !same {
                queue.add(());
            }
        })
        .on(&controller.slices, |_, queue, _| queue.add(()))
        .on(&controller.ranges, |_, queue, _| queue.add(()))
        .on(&controller.services, |_, queue, change| {
            let service = change.object();
            if (service.namespace(), service.name()) == (NAMESPACE, SERVICE) {
                queue.add(());
            }
        })
        .work(1)
        .await;
}

struct Slices {
    client: Client,
    nodes: Informer<Node>,
    slices: Informer<EndpointSlice>,
    services: Informer<Service>,
    ranges: Informer<ServiceCIDR>,
    machines: Machines,
    /// What was told in the log of a node, so that it is told once.
    told: Mutex<BTreeMap<String, String>>,
}

/// What a node's slice, and the others', depend on.
fn facts(node: &Node) -> (Option<&str>, Option<&str>, Vec<&str>, Vec<String>, bool) {
    let addresses = node.status.iter().flat_map(|s| s.addresses.iter().flatten()).map(|a| a.address.as_str()).collect();
    (node.annotation(ANNOTATION), node.annotation(super::address::ANNOTATION), addresses, cidrs(node), is_ready(node))
}

/// Where the DNS of a node is that says so; else why it is not believed.
fn place((node, own): &(&Node, Told<'_>), text: &str, all: &[(&Node, Told<'_>)], machines: &Machines, services: &[Range]) -> Result<IpAddr, String> {
    let ip: IpAddr = text.parse().map_err(|_| format!("{text:?} is no address"))?;
    if !own.addresses.contains(&ip) && !own.ranges.iter().any(|range| range.contains(ip)) {
        return Err(format!("{ip} is neither its address nor in its range of pods"));
    }
    machines.allows(ip, services)?;
    match all.iter().find(|(other, told)| other.name() != node.name() && precedes(other, node) && told.has(ip)) {
        Some((other, _)) => Err(format!("{ip} is an address of the node {}, or of a pod there", other.name())),
        None => Ok(ip),
    }
}

fn slice(node: &Node, ip: IpAddr, owner: &str) -> Value {
    let ready = is_ready(node);
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{SERVICE}-{}", node.name()),
            "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": SERVICE, MANAGED_BY: MANAGER, "k8s-app": SERVICE},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": SERVICE, "uid": owner, "controller": true, "blockOwnerDeletion": true}],
        },
        "addressType": if ip.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{
            "addresses": [ip.to_string()],
            "conditions": {"ready": ready, "serving": ready, "terminating": false},
            "nodeName": node.name(),
            "hints": {"forNodes": [{"name": node.name()}]},
        }],
        "ports": [
            {"name": "dns", "port": PORT, "protocol": "UDP"},
            {"name": "dns-tcp", "port": PORT, "protocol": "TCP"},
        ],
    })
}

impl Slices {
    /// The slices that there are to be, by name.
    fn wanted(&self) -> client::Result<BTreeMap<String, EndpointSlice>> {
        let selects = |service: &Service| service.spec.as_ref().and_then(|s| s.selector.as_ref()).is_some_and(|s| !s.is_empty());
        // One that selects pods is somebody else's name server.
        let Some(service) = self.services.get(NAMESPACE, SERVICE).filter(|s| !selects(s) && !s.is_deleting()) else { return Ok(BTreeMap::new()) };
        let nodes = self.nodes.list();
        let all: Vec<(&Node, Told<'_>)> = nodes.iter().map(|node| (&**node, Told::of(node, &self.machines))).collect();
        let services = self.machines.services(&self.ranges);
        let (mut wanted, mut left_out) = (BTreeMap::new(), BTreeMap::new());
        for one in &all {
            let (node, Some(text)) = (one.0, one.0.annotation(ANNOTATION)) else { continue };
            match place(one, text, &all, &self.machines, &services) {
                Ok(ip) => {
                    let slice: EndpointSlice = client::typed(&slice(node, ip, service.uid())).map_err(|e| client::Error::Decode(e.to_string()))?;
                    wanted.insert(slice.name().to_owned(), slice);
                }
                Err(why) => drop(left_out.insert(node.name().to_owned(), why)),
            }
        }
        let mut told = self.told.lock();
        for (node, why) in left_out.iter().filter(|(node, why)| told.get(*node) != Some(why)) {
            tracing::warn!(node, why, "the DNS that a node tells of is left out");
        }
        *told = left_out;
        Ok(wanted)
    }

    async fn put(&self, wanted: EndpointSlice) -> client::Result<()> {
        let (api, name) = (self.client.namespaced::<EndpointSlice>(NAMESPACE), wanted.name().to_owned());
        let is_labelled = |live: &EndpointSlice| wanted.metadata.labels.iter().flatten().all(|(key, value)| live.label(key) == Some(value.as_str()));
        let is_right = |live: &EndpointSlice| live.endpoints == wanted.endpoints && live.ports == wanted.ports && live.owner_uid() == wanted.owner_uid();
        let same = |live: &EndpointSlice| is_right(live) && is_labelled(live);
        match self.slices.get(NAMESPACE, &name) {
            None => match api.create(&wanted).await {
                // What was just made is heard of; one that is not of this manager is left alone.
                Err(error) if error.is_already_exists() => Ok(()),
                other => other.map(drop),
            },
            // The family of a slice stays: another is made when this one is gone.
            Some(live) if live.address_type != wanted.address_type => api.delete(&name, &DeleteParams::default().uid(live.uid())).await.map(drop),
            Some(live) if same(&live) => Ok(()),
            Some(live) => {
                let mut next = wanted.clone();
                next.metadata.resource_version = live.metadata.resource_version.clone();
                api.replace(&name, &next).await.map(drop)
            }
        }
    }
}

/// The Service that a slice is of.
trait Owned {
    fn owner_uid(&self) -> Option<&str>;
}

impl Owned for EndpointSlice {
    fn owner_uid(&self) -> Option<&str> {
        self.controller().map(|owner| owner.uid.as_str())
    }
}

impl Controller for Slices {
    const QUEUE: &'static str = "knarr_machines_dns";
    type Key = ();

    async fn reconcile(&self, (): &()) -> Step {
        let wanted = self.wanted()?;
        let mut failed = None;
        for live in self.slices.list() {
            if wanted.contains_key(live.name()) || live.is_deleting() {
                continue;
            }
            let deleted = self.client.namespaced::<EndpointSlice>(NAMESPACE).delete(live.name(), &DeleteParams::default().uid(live.uid())).await;
            failed = deleted.err().filter(|error| !error.is_not_found()).or(failed);
        }
        for slice in wanted.into_values() {
            // The others are written all the same.
            failed = self.put(slice).await.err().or(failed);
        }
        failed.map_or(Ok(None), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{machines, node};
    use super::*;
    use crate::fake::Fake;

    const DAY: &str = "2026-01-02T00:00:00Z";

    fn with(mut node: Node, dns: &str) -> Node {
        node.metadata.annotations = Some([(ANNOTATION.to_owned(), dns.to_owned())].into());
        node
    }

    fn service(selector: Value) -> Service {
        let meta = json!({"name": SERVICE, "namespace": NAMESPACE, "uid": "uid-dns"});
        client::typed(&json!({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"selector": selector}})).expect("a Service")
    }

    /// What is written for these nodes, the Service and the slices that there are.
    async fn written(nodes: Vec<Node>, service: Option<Service>, slices: Vec<EndpointSlice>) -> Vec<String> {
        let meta = json!({"metadata": {}, "addressType": "IPv4", "endpoints": []});
        let fake = Fake::new(move |_, _| (200, meta.clone()));
        let more: ServiceCIDR = client::typed(&json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.97.0.0/16"]}})).expect("a range");
        let slices = Slices {
            client: fake.client(),
            nodes: Informer::fixed(nodes),
            slices: Informer::fixed(slices),
            services: Informer::fixed(service),
            ranges: Informer::fixed([more]),
            machines: machines(&[]),
            told: Mutex::default(),
        };
        slices.reconcile(&()).await.expect("a step");
        fake.written()
    }

    #[tokio::test]
    async fn each_node_that_serves_dns_has_its_slice() {
        let first = node("first", "2026-01-01T00:00:00Z", &[("InternalIP", "10.244.0.1")], "10.244.0.0/24", true);
        let a = with(node("a", DAY, &[("InternalIP", "192.0.2.2")], "10.244.255.0/24", true), "10.244.255.1");
        let away = with(node("away", DAY, &[("InternalIP", "192.0.2.3")], "10.244.254.0/24", false), "192.0.2.3");
        let all = written(vec![first.clone(), a.clone(), away], Some(service(Value::Null)), vec![]).await;
        assert_eq!(all.len(), 2, "{all:?}");
        assert!(all[0].contains(r#""addresses":["10.244.255.1"]"#) && all[0].contains(r#""forNodes":[{"name":"a"}]"#), "{all:?}");
        assert!(all[0].contains(r#""ready":true"#) && all[1].contains(r#""ready":false"#), "{all:?}");
        assert!(all.iter().all(|w| w.starts_with("POST /apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices")), "{all:?}");

        let there: EndpointSlice = client::typed(&slice(&a, [10, 244, 255, 1].into(), "uid-dns")).expect("a slice");
        assert_eq!(written(vec![first.clone(), a.clone()], Some(service(Value::Null)), vec![there.clone()]).await, [""; 0]);
        let anew = written(vec![first.clone(), with(a.clone(), "192.0.2.2")], Some(service(Value::Null)), vec![there.clone()]).await;
        assert!(anew.len() == 1 && anew[0].starts_with("PUT ") && anew[0].contains("192.0.2.2"), "{anew:?}");
        let mut bare = there.clone();
        bare.metadata.labels.get_or_insert_default().remove("kubernetes.io/service-name");
        let labelled = written(vec![first.clone(), a.clone()], Some(service(Value::Null)), vec![bare]).await;
        assert!(labelled.len() == 1 && labelled[0].starts_with("PUT ") && labelled[0].contains("kubernetes.io/service-name"), "{labelled:?}");
        for (nodes, service) in [(vec![first], Some(service(Value::Null))), (vec![a.clone()], Some(service(json!({"app": "coredns"})))), (vec![a], None)] {
            let gone = written(nodes, service, vec![there.clone()]).await;
            assert!(gone.len() == 1 && gone[0].starts_with("DELETE "), "{gone:?}");
        }
    }

    #[tokio::test]
    async fn nobody_is_led_to_what_is_not_the_nodes_own() {
        let first = node("first", "2026-01-01T00:00:00Z", &[("InternalIP", "10.244.0.1"), ("InternalIP", "192.0.2.9")], "10.244.0.0/24", true);
        let told = ["192.0.2.2", "127.0.0.1", "192.0.2.1", "10.96.0.10", "10.97.0.3", "10.244.0.7", "192.0.2.9"].map(|ip| ("InternalIP", ip));
        for dns in ["127.0.0.1", "192.0.2.1", "10.96.0.10", "10.97.0.3", "10.244.0.7", "192.0.2.9", "192.0.2.3", "10.244.7.1", "here", ""] {
            let own = with(node("a", DAY, &told, "10.244.255.0/24", true), dns);
            assert_eq!(written(vec![first.clone(), own], Some(service(Value::Null)), vec![]).await, [""; 0], "{dns}");
        }
    }
}
