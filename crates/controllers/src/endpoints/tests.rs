//! What pods are to Services, and how endpoints lie in slices.

use std::sync::Arc;

use client::Meta;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::plan::{Desired, ENDPOINTS_MAX, Plan, plan};
use super::{facts, legacy, mirroring, slice};

fn service(change: Value) -> Service {
    let mut spec = json!({"clusterIP": "10.96.0.7", "ipFamilies": ["IPv4"], "selector": {"app": "a"},
        "ports": [{"name": "http", "port": 80, "targetPort": "web"}]});
    for (key, value) in change.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "n", "uid": "su", "labels": {"l": "1"}}, "spec": spec})).unwrap_or_default()
}

fn pod(n: usize, ready: bool) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": format!("p{n}"), "namespace": "n", "uid": format!("u{n}"), "labels": {"app": "a"}},
        "spec": {"nodeName": "node", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": format!("10.0.{}.{}", n / 250, n % 250 + 1),
                   "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
    }))
    .unwrap_or_default()
}

fn deleting(mut pod: Pod) -> Pod {
    pod.meta_mut().deletion_timestamp = Some(client::now());
    pod
}

/// The slices after the plan, as a server would have them.
fn step(existing: &mut Vec<Arc<EndpointSlice>>, service: &Service, pods: &[Pod]) -> Plan {
    let mut desired = Desired::default();
    for pod in pods {
        if let Some(endpoint) = facts::endpoint(pod, None, service, "IPv4") {
            desired.add(facts::ports(service, pod), endpoint);
        }
    }
    let plan = plan(&slice::template(service, "IPv4"), desired, existing, None);
    existing.retain(|s| !plan.delete.iter().any(|d| d.name() == s.name()));
    for update in &plan.update {
        let at = existing.iter().position(|s| s.name() == update.name()).unwrap_or_else(|| panic!("an update of nothing"));
        existing[at] = Arc::new(update.clone());
    }
    for (n, create) in plan.create.iter().enumerate() {
        let mut slice = create.clone();
        slice.meta_mut().name = Some(format!("s-{}-{n}", existing.len()));
        existing.push(Arc::new(slice));
    }
    plan
}

fn conditions(slices: &[Arc<EndpointSlice>]) -> Vec<String> {
    let endpoints = slices.iter().flat_map(|s| s.endpoints.iter().flatten());
    let mut told: Vec<String> = endpoints
        .map(|e| {
            let c = e.conditions.clone().unwrap_or_default();
            let flag = |f: Option<bool>, name: &str| if f == Some(true) { name.to_owned() } else { "-".to_owned() };
            format!("{} {}{}{}", e.addresses[0], flag(c.ready, "r"), flag(c.serving, "s"), flag(c.terminating, "t"))
        })
        .collect();
    told.sort();
    told
}

#[test]
fn a_pod_in_its_life_as_a_service_sees_it() {
    let (service, mut slices) = (service(json!({})), Vec::new());
    let first = step(&mut slices, &service, &[]);
    assert_eq!((first.create.len(), slices[0].ports.as_deref()), (1, Some(&[][..])), "an empty slice tells that nobody serves");
    let filled = step(&mut slices, &service, &[pod(1, false)]);
    assert_eq!(conditions(&slices), ["10.0.0.2 ---"]);
    assert_eq!((filled.create.len(), filled.update.len(), filled.delete.len()), (0, 1, 0), "into the slice that was empty");
    step(&mut slices, &service, &[pod(1, true)]);
    assert_eq!(conditions(&slices), ["10.0.0.2 rs-"]);
    let port = &slices[0].ports.as_deref().unwrap_or_default()[0];
    assert_eq!((port.name.as_deref(), port.port, port.protocol.as_deref()), (Some("http"), Some(8080), Some("TCP")));
    step(&mut slices, &service, &[deleting(pod(1, true))]);
    assert_eq!(conditions(&slices), ["10.0.0.2 -st"], "it serves while it ends");
    assert!(step(&mut slices, &service, &[deleting(pod(1, true))]).update.is_empty(), "nothing new, nothing written");
    let emptied = step(&mut slices, &service, &[]);
    assert_eq!((emptied.create.len(), emptied.update.len(), emptied.delete.len()), (0, 1, 0), "it stays where it is");
    assert_eq!(conditions(&slices), [""; 0]);
    assert_eq!((slices.len(), slices[0].ports.as_deref()), (1, Some(&[][..])));
}

#[test]
fn unready_addresses_are_published_on_demand() {
    let service = service(json!({"publishNotReadyAddresses": true, "clusterIP": "None"}));
    let mut slices = Vec::new();
    step(&mut slices, &service, &[pod(1, false), deleting(pod(2, true))]);
    assert_eq!(conditions(&slices), ["10.0.0.2 r--", "10.0.0.3 rst"]);
    assert_eq!(slices[0].label("service.kubernetes.io/headless"), Some(""));
    assert_eq!(slices[0].label("l"), Some("1"));
}

#[test]
fn changes_touch_as_few_slices_as_can_be() {
    let (service, mut slices) = (service(json!({})), Vec::new());
    let all: Vec<Pod> = (0..250).map(|n| pod(n, true)).collect();
    let first = step(&mut slices, &service, &all);
    assert_eq!(first.create.iter().map(|s| s.endpoints.as_ref().map_or(0, Vec::len)).collect::<Vec<_>>(), [100, 100, 50]);
    let one = step(&mut slices, &service, &all[..249]);
    assert_eq!((one.create.len(), one.update.len(), one.delete.len()), (0, 1, 0));
    let mut more = all.clone();
    more.extend((250..280).map(|n| pod(n, true)));
    let grown = step(&mut slices, &service, &more);
    assert_eq!((grown.create.len(), grown.update.len()), (0, 1), "there is room in one slice");
    assert!(slices.iter().all(|s| s.endpoints.as_ref().is_some_and(|e| e.len() <= ENDPOINTS_MAX)));
    assert_eq!(conditions(&slices).len(), 280);
    step(&mut slices, &service, &more[..3]);
    assert_eq!(conditions(&slices).len(), 3);
    assert!(slices.len() <= 3 && slices.iter().all(|s| s.endpoints.as_ref().is_some_and(|e| !e.is_empty())));
}

#[test]
fn pods_with_other_numbers_behind_a_named_port_lie_apart() {
    let (service, mut slices) = (service(json!({})), Vec::new());
    let mut other = pod(2, true);
    if let Some(spec) = &mut other.spec {
        spec.containers[0].ports.get_or_insert_default()[0].container_port = 9090;
    }
    step(&mut slices, &service, &[pod(1, true), other]);
    let mut ports: Vec<_> = slices.iter().map(|s| s.ports.as_deref().unwrap_or_default()[0].port).collect();
    ports.sort();
    assert_eq!(ports, [Some(8080), Some(9090)]);
}

#[test]
fn endpoints_tell_the_same_in_the_older_form() {
    let service = service(json!({}));
    let pods: Vec<Arc<Pod>> = [pod(1, true), pod(2, false), deleting(pod(3, true))].into_iter().map(Arc::new).collect();
    let made = legacy::endpoints(&service, &pods, None);
    let subset = &made.subsets.as_deref().unwrap_or_default()[0];
    let ips = |list: &Option<Vec<k8s_openapi::api::core::v1::EndpointAddress>>| list.iter().flatten().map(|a| a.ip.clone()).collect::<Vec<_>>();
    assert_eq!((ips(&subset.addresses), ips(&subset.not_ready_addresses)), (vec!["10.0.0.2".to_owned()], vec!["10.0.0.3".to_owned()]));
    assert_eq!(subset.ports.as_deref().map(|p| (p[0].name.clone(), p[0].port)), Some((Some("http".to_owned()), 8080)));
    assert_eq!(made.label("endpoints.kubernetes.io/managed-by"), Some("endpoint-controller"));
    assert!(legacy::endpoints(&service, &[], None).subsets.is_none());
}

/// A name that is used again: the slices of the one before go with it, unless they are given to the new one.
#[test]
fn a_service_that_was_made_anew_takes_over_its_slices() {
    let (mut service, pods) = (service(json!({})), [pod(1, true)]);
    let mut slices = Vec::new();
    step(&mut slices, &service, &pods);
    assert!(step(&mut slices, &service, &pods).update.is_empty());
    service.meta_mut().uid = Some("another".into());
    let plan = step(&mut slices, &service, &pods);
    assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 0));
    let owners = slices[0].metadata.owner_references.clone().unwrap_or_default();
    assert_eq!(owners.iter().map(|o| o.uid.as_str()).collect::<Vec<_>>(), ["another"]);
    assert!(step(&mut slices, &service, &pods).update.is_empty());
}

#[test]
fn a_subset_is_mirrored_to_one_slice_as_far_as_it_goes() {
    let address = |n: usize| json!({"ip": format!("10.1.{}.{}", n / 250, n % 250 + 1)});
    let some = |from: usize, to: usize| (from..to).map(address).collect::<Vec<_>>();
    let subset = json!({"addresses": some(0, 700), "notReadyAddresses": some(699, 1200), "ports": [{"port": 80}]});
    let endpoints: k8s_openapi::api::core::v1::Endpoints =
        serde_json::from_value(json!({"metadata": {"name": "e", "namespace": "n", "uid": "eu"}, "subsets": [subset]})).unwrap_or_default();
    let (desired, any) = mirroring::desired(&endpoints, "IPv4");
    let plan = plan(&mirroring::template(&endpoints, "IPv4"), desired, &[], None);
    assert!(any && !mirroring::desired(&endpoints, "IPv6").1);
    let lengths: Vec<usize> = plan.create.iter().map(|s| s.endpoints.as_ref().map_or(0, Vec::len)).collect();
    assert_eq!(lengths, [999], "1000 addresses are taken, of which one is twice there");
    let ready = plan.create[0].endpoints.iter().flatten().filter(|e| e.conditions.as_ref().and_then(|c| c.ready) == Some(true)).count();
    assert_eq!(ready, 700, "who is ready is ready");
    assert_eq!(mirroring::skipped(&endpoints), 201);
}

#[test]
fn what_ran_on_a_node_that_is_gone_serves_nobody() {
    let on = |n: usize, node: &str| {
        let mut pod = pod(n, true);
        if let Some(spec) = &mut pod.spec {
            spec.node_name = Some(node.to_owned());
        }
        Arc::new(pod)
    };
    let pods = || vec![on(1, "here"), on(2, "gone")];
    let names = |pods: &[Arc<Pod>]| pods.iter().map(|p| p.name().to_owned()).collect::<Vec<_>>();
    let (housed, missed) = slice::housed(&service(json!({})), pods(), |node| node == "here");
    assert_eq!(names(&housed), ["p1"]);
    assert_eq!(missed.as_deref(), Some("skipping Pod p2 for Service n/s: Node gone Not Found"), "it is looked at again");
    let two = slice::housed(&service(json!({})), vec![on(1, "gone"), on(2, "gone")], |_| false).1;
    let each = |n: usize| format!("skipping Pod p{n} for Service n/s: Node gone Not Found");
    assert_eq!(two, Some(format!("[{}, {}]", each(1), each(2))));
    let many = slice::housed(&service(json!({})), (1..=40).map(|n| on(n, "gone")).collect(), |_| false).1;
    assert_eq!(many.map(|why| why.matches("Not Found").count()), Some(32), "an Event has no room for more");
    let all = service(json!({"publishNotReadyAddresses": true}));
    assert_eq!(slice::housed(&all, pods(), |node| node == "here").0.len(), 2);
}
