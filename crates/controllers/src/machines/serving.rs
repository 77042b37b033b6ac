//! Requests of kubelets for certificates as servers are approved if the node asks for itself, and for nothing but the names and
//! addresses that its Node tells and nobody else has. (The original approves none: an administrator does, or an add-on.)
//!
//! A node writes its own status, so what stands there is believed only as far as it takes nothing from others: no loopback, no name or
//! address of the API server, none of a Service's, and none that is another node's or one of its pods'. Of two nodes that tell the same
//! the older one has it. What does not fit is left to people, and told in the log: the node may tell its addresses a moment later.
//!
//! What holds it: requests are heard, and so are nodes; what is open is looked at again each minute, until the cleaner takes it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use client::{Client, Delta, EventType, Informer, Meta, Recorder, object_reference};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestStatus};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use parking_lot::Mutex;

use super::{Machines, Told, precedes, same_name};
use crate::certificates::{KUBELET_SERVING, NODE, Serving, condition, is, is_issued, kubelet_serving};
use crate::range::Range;
use crate::work::{Controller, Cx, Step};

/// Who approves: `system:controller:certificate-controller` may not, as with the original.
const ACCOUNT: &str = "knarr-kubelet-serving-approver";
/// For what is no event here.
const AGAIN: Duration = Duration::from_secs(60);
const MESSAGE: &str = "Auto approving kubelet serving certificate: the names and addresses are the node's own.";

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx, machines: Machines) {
    let informers = &cx.informers;
    let (requests, nodes, ranges) = (informers.informer(), informers.informer(), informers.informer());
    let client = cx.client(ACCOUNT);
    let recorder = cx.recorder(&client, ACCOUNT);
    let controller = Arc::new(Approving { client, recorder, requests, nodes, ranges, machines, told: Mutex::default() });
    cx.setup(&controller)
        .on(&controller.requests, |this, queue, change| match change {
            Delta::Deleted(request) => drop(this.told.lock().remove(request.name())),
            _ if is_open(change.object()) => queue.add(change.object().name().to_owned()),
            _ => {}
        })
        .on(&controller.nodes, |this, queue, change| {
            let user = format!("{NODE}{}", change.object().name());
            let asks = |request: &CertificateSigningRequest| is_open(request) && request.spec.username.as_deref() == Some(&user);
            this.requests.list().iter().filter(|request| asks(request)).for_each(|request| queue.add(request.name().to_owned()));
        })
        .reads(&controller.ranges)
        .work(1)
        .await;
}

struct Approving {
    client: Client,
    recorder: Recorder,
    requests: Informer<CertificateSigningRequest>,
    nodes: Informer<Node>,
    ranges: Informer<ServiceCIDR>,
    machines: Machines,
    /// What was told in the log of a request, so that it is told once.
    told: Mutex<BTreeMap<String, String>>,
}

/// Whether nobody has decided on a request for a kubelet's certificate as a server.
fn is_open(request: &CertificateSigningRequest) -> bool {
    request.spec.signer_name == KUBELET_SERVING && !is_issued(request) && !is(request, "Approved") && !is(request, "Denied")
}

/// Whether a request may be approved; else why not.
fn judge(request: &CertificateSigningRequest, nodes: &[Arc<Node>], machines: &Machines, services: &[Range]) -> Result<(), String> {
    let serving = kubelet_serving(request)?;
    let name = serving.name.strip_prefix(NODE).unwrap_or_default();
    let is_node = request.spec.groups.iter().flatten().any(|group| group == "system:nodes");
    if !is_node || request.spec.username.as_deref() != Some(&serving.name) {
        return Err(format!("{} asks for it, not {}", request.spec.username.as_deref().unwrap_or_default(), serving.name));
    }
    let node = nodes.iter().find(|node| node.name() == name).ok_or_else(|| format!("there is no node {name} yet"))?;
    let others = nodes.iter().filter(|other| other.name() != name);
    let others: Vec<(&str, bool, Told<'_>)> = others.map(|other| (other.name(), precedes(other, node), Told::of(other, machines))).collect();
    check(&serving, &Told::of(node, machines), &others, machines, services)
}

fn check(serving: &Serving, own: &Told<'_>, others: &[(&str, bool, Told<'_>)], machines: &Machines, services: &[Range]) -> Result<(), String> {
    for host in &serving.hosts {
        if !own.is_called(host) {
            return Err(format!("{host} is not in the status of its Node"));
        }
        if is_clusters(host, machines) {
            return Err(format!("{host} is a name of the cluster's"));
        }
        // A Node's own name is its own, whoever else tells it.
        if let Some((other, ..)) = others.iter().find(|(name, first, told)| same_name(host, name) || *first && told.is_called(host)) {
            return Err(format!("{host} is a name of the node {other}"));
        }
    }
    for ip in &serving.addresses {
        if !own.addresses.contains(ip) {
            return Err(format!("{ip} is not in the status of its Node"));
        }
        machines.allows(*ip, services)?;
        if let Some((other, ..)) = others.iter().find(|(_, first, told)| *first && told.has(*ip)) {
            return Err(format!("{ip} is an address of the node {other}, or of a pod there"));
        }
    }
    Ok(())
}

/// Whether a name leads to the API server, to a Service, or to whoever looks it up.
fn is_clusters(host: &str, machines: &Machines) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let below = |parent: &str| host == parent || host.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'));
    let own = machines.server.iter().any(|name| name.parse::<IpAddr>().is_err() && host.eq_ignore_ascii_case(name));
    own || host.contains('*') || ["localhost", "svc", machines.domain.as_str()].into_iter().any(below)
}

impl Controller for Approving {
    const QUEUE: &'static str = "knarr_machines_serving";
    type Key = String;

    async fn reconcile(&self, name: &String) -> Step {
        let Some(request) = self.requests.get("", name).filter(|request| is_open(request)) else { return Ok(None) };
        let services = self.machines.services(&self.ranges);
        if let Err(why) = judge(&request, &self.nodes.list(), &self.machines, &services) {
            if self.told.lock().insert(name.clone(), why.clone()).as_ref() != Some(&why) {
                tracing::warn!(request = name, why, "a kubelet's certificate as a server is not approved; `kubectl certificate approve` does it all the same");
                self.recorder.event(&object_reference(&*request), EventType::Warning, "NotApproved", format!("not approved by itself: {why}"));
            }
            return Ok(Some(AGAIN));
        }
        self.told.lock().remove(name);
        let mut approved = (*request).clone();
        let status = approved.status.get_or_insert_with(CertificateSigningRequestStatus::default);
        status.conditions.get_or_insert_default().push(condition("Approved", "AutoApproved", MESSAGE));
        match self.client.all::<CertificateSigningRequest>().replace_subresource(name, "approval", &approved).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{machines, node};
    use super::*;
    use crate::certificates::tests::serving;
    use crate::fake::Fake;
    use serde_json::json;

    const DAY: &str = "2026-01-02T00:00:00Z";

    fn nodes() -> Vec<Arc<Node>> {
        let mut first = node("first", "2026-01-01T00:00:00Z", &[("InternalIP", "10.244.0.1"), ("Hostname", "first")], "10.244.0.0/24", true);
        first.metadata.annotations = Some([(super::super::address::ANNOTATION.to_owned(), "192.0.2.1".to_owned())].into());
        let told = [
            ("InternalIP", "192.0.2.2"),
            ("Hostname", "a"),
            ("InternalDNS", "a.example.com"),
            ("ExternalIP", "127.0.0.1"),
            ("ExternalIP", "192.0.2.1"),
            ("ExternalIP", "10.96.3.4"),
            ("ExternalIP", "10.96.0.1"),
            ("ExternalIP", "10.244.0.9"),
            ("ExternalIP", "192.0.2.3"),
            ("ExternalIP", "192.0.2.4"),
            ("ExternalIP", "169.254.0.1"),
            ("ExternalIP", "::ffff:10.96.0.1"),
            ("ExternalIP", "::ffff:192.0.2.1"),
            ("Hostname", "FIRST"),
            ("Hostname", "first"),
            ("Hostname", "young"),
            ("Hostname", "shared"),
            ("ExternalDNS", "kubernetes"),
            ("ExternalDNS", "web.shop.svc"),
            ("ExternalDNS", "x.cluster.local"),
            ("ExternalDNS", "localhost"),
        ];
        let own = node("a", DAY, &told, "10.244.255.0/24", true);
        let old = node("old", "2026-01-01T00:00:00Z", &[("InternalIP", "192.0.2.3"), ("Hostname", "shared")], "10.244.254.0/24", true);
        let young = node("young", "2026-01-03T00:00:00Z", &[("InternalIP", "192.0.2.4"), ("InternalIP", "192.0.2.2"), ("Hostname", "a")], "", true);
        [first, own, old, young].map(Arc::new).to_vec()
    }

    fn verdict(request: &CertificateSigningRequest) -> Result<(), String> {
        judge(request, &nodes(), &machines(&[("first", "10.244.0.0/24")]), &[Range::parse("10.96.0.0/16").expect("a range")])
    }

    #[test]
    fn a_node_serves_under_what_is_its_own_and_nobody_elses() {
        assert_eq!(verdict(&serving("system:node:a", &["a", "a.example.com", "192.0.2.2", "192.0.2.4"])), Ok(()));
        let refused = [
            ("b", "b is not in the status of its Node"),
            ("192.0.2.9", "192.0.2.9 is not in the status of its Node"),
            ("127.0.0.1", "127.0.0.1 is no node's address"),
            ("169.254.0.1", "169.254.0.1 is no node's address"),
            ("192.0.2.1", "192.0.2.1 is an address of the API server"),
            ("10.96.0.1", "10.96.0.1 is an address of the API server"),
            ("10.96.3.4", "10.96.3.4 is a Service's"),
            ("::ffff:10.96.0.1", "an IP subjectAltName is no address"),
            ("::ffff:192.0.2.1", "an IP subjectAltName is no address"),
            ("FIRST", "FIRST is a name of the node first"),
            ("first.", "first. is a name of the node first"),
            ("10.244.0.9", "10.244.0.9 is an address of the node first, or of a pod there"),
            ("192.0.2.3", "192.0.2.3 is an address of the node old, or of a pod there"),
            ("first", "first is a name of the node first"),
            ("young", "young is a name of the node young"),
            ("shared", "shared is a name of the node old"),
            ("kubernetes", "kubernetes is a name of the cluster's"),
            ("web.shop.svc", "web.shop.svc is a name of the cluster's"),
            ("x.cluster.local", "x.cluster.local is a name of the cluster's"),
            ("localhost", "localhost is a name of the cluster's"),
        ];
        for (host, why) in refused {
            assert_eq!(verdict(&serving("system:node:a", &["a", host])), Err(why.to_owned()));
        }
    }

    #[test]
    fn no_node_keeps_others_from_their_own_by_a_range_that_is_no_pods() {
        let wide = node("wide", "2026-01-01T00:00:00Z", &[], "192.0.2.0/24", true);
        let all: Vec<Arc<Node>> = nodes().into_iter().chain([Arc::new(wide)]).collect();
        assert_eq!(judge(&serving("system:node:a", &["a", "192.0.2.2"]), &all, &machines(&[]), &[]), Ok(()));
    }

    #[test]
    fn a_node_asks_for_itself() {
        let mut request = serving("system:node:a", &["a"]);
        request.spec.username = Some("system:node:old".to_owned());
        assert_eq!(verdict(&request), Err("system:node:old asks for it, not system:node:a".to_owned()));
        request.spec.username = Some("system:node:a".to_owned());
        request.spec.groups = Some(vec!["system:authenticated".to_owned()]);
        assert_eq!(verdict(&request), Err("system:node:a asks for it, not system:node:a".to_owned()));
        assert_eq!(verdict(&serving("system:node:new", &["new"])), Err("there is no node new yet".to_owned()));
    }

    #[tokio::test]
    async fn what_fits_is_approved_and_what_does_not_waits() {
        let fake = Fake::new(|_, _| (200, json!({"spec": {"request": "", "signerName": ""}})));
        let mut other = serving("system:node:a", &["b"]);
        other.metadata.name = Some("waits".to_owned());
        let approving = Approving {
            client: fake.client(),
            recorder: Recorder::new(fake.client(), ACCOUNT, ""),
            requests: Informer::fixed([serving("system:node:a", &["a"]), other]),
            nodes: Informer::fixed(nodes().iter().map(|node| Node::clone(node))),
            ranges: Informer::fixed([]),
            machines: machines(&[]),
            told: Mutex::default(),
        };
        assert_eq!(approving.reconcile(&"waits".to_owned()).await.expect("a step"), Some(AGAIN));
        let decided = || fake.written().into_iter().filter(|w| w.starts_with("PUT")).collect::<Vec<_>>();
        assert_eq!(decided(), [""; 0]);
        assert_eq!(approving.reconcile(&"r".to_owned()).await.expect("a step"), None);
        let written = decided();
        assert!(written.len() == 1 && written[0].starts_with("PUT /apis/certificates.k8s.io/v1/certificatesigningrequests/r/approval"), "{written:?}");
        assert!(written[0].contains(r#""type":"Approved""#), "{written:?}");
    }
}
