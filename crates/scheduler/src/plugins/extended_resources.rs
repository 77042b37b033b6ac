//! Resources of containers that devices stand for (KEP 5004): a class names the resource that its devices are, or is named by it
//! (`deviceclass.resource.kubernetes.io/CLASS`). On a node that has none of the resource by a device plugin a pod that asks for it gets devices
//! by a claim of its own, which the scheduler makes when it has chosen the node ([`crate::rim`]).
//!
//! The claim is different from node to node: it asks for what that one has only as devices. One that is there already was made for another
//! decision: it is deleted, and then the pod is looked at anew ([`stale`]).

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use client::Meta;
use client::devices::{self, EXTENDED};
use k8s_openapi::api::core::v1::{Container, ContainerExtendedResourceRequest as Mapping, Pod};
use k8s_openapi::api::resource::v1::{DeviceClaim, DeviceClass, DeviceRequest, ExactDeviceRequest, ResourceClaim, ResourceClaimSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use machinery::extended::{BY_CLASS, is_extended, may_be_devices};
use machinery::quantity::Quantity;

use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::world::World;

/// The class whose devices stand for a resource.
pub(super) fn class_for(world: &World, name: &str) -> Option<Arc<DeviceClass>> {
    if let Some(class) = name.strip_prefix(BY_CLASS) {
        return world.device_classes.get("", class);
    }
    if !is_extended(name) {
        return None;
    }
    // While one class takes another's place both may name it: the newer counts, then the lower name.
    let made = |class: &DeviceClass| class.metadata.creation_timestamp.as_ref().map(|time| time.0);
    world.classes_of_resource(name).into_iter().max_by(|a, b| made(a).cmp(&made(b)).then_with(|| b.name().cmp(a.name())))
}

/// A claim for a pod's extended resources that another decision has left.
pub(super) fn stale(pod: &PodInfo, world: &World) -> Option<Arc<ResourceClaim>> {
    world.resource_claims.list_namespace(pod.pod.namespace()).into_iter().find(|claim| devices::is_extended(&pod.pod, claim))
}

/// What a pod asks for that devices may stand for, with the class of what there is one for.
#[derive(Clone)]
pub(super) struct Wanted {
    resources: Vec<(String, Option<Arc<DeviceClass>>)>,
}

impl Wanted {
    /// None: no class stands for anything that the pod asks for.
    pub(super) fn new(pod: &PodInfo, world: &World) -> Option<Self> {
        let asked = pod.requested.scalar.iter().filter(|(name, amount)| **amount != 0 && may_be_devices(name));
        let resources: Vec<_> = asked.map(|(name, _)| (name.clone(), class_for(world, name))).collect();
        resources.iter().any(|(_, class)| class.is_some()).then_some(Self { resources })
    }

    /// What a node has only as devices, by the class.
    ///
    /// # Errors
    /// It has one of the resources in no way.
    pub(super) fn on(&self, node: &NodeInfo) -> Result<BTreeMap<String, String>, &'static str> {
        let mut needed = BTreeMap::new();
        for (name, class) in &self.resources {
            let has = node.allocatable.scalar.get(name).copied();
            match class {
                Some(class) if has.unwrap_or_default() == 0 => drop(needed.insert(name.clone(), class.name().to_owned())),
                _ if has.is_none() => return Err("cannot fit resource"),
                _ => {}
            }
        }
        Ok(needed)
    }
}

/// The claim for what a pod gets as devices on a node, and which request of it is for which container. It has no name, and stands for itself in
/// memory by a UID that nobody else has.
pub(super) fn claim(pod: &Pod, needed: &BTreeMap<String, String>) -> (ResourceClaim, Vec<Mapping>) {
    let (requests, mappings) = requests(pod, needed);
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: pod.name().to_owned(),
        uid: pod.uid().to_owned(),
        controller: Some(true),
        block_owner_deletion: None,
    };
    let metadata = ObjectMeta {
        namespace: Some(pod.namespace().to_owned()),
        generate_name: Some(format!("{}-extended-resources-", pod.name())),
        uid: Some(format!("extended-resources-of-{}", pod.uid())),
        owner_references: Some(vec![owner]),
        annotations: Some([(EXTENDED.to_owned(), "true".to_owned())].into()),
        ..ObjectMeta::default()
    };
    let devices = DeviceClaim { requests: Some(requests), ..DeviceClaim::default() };
    (ResourceClaim { metadata, spec: Some(ResourceClaimSpec { devices: Some(devices) }), status: None }, mappings)
}

/// A request for devices of one container.
#[derive(Clone, Debug, PartialEq)]
struct Wish {
    name: String,
    count: i64,
}

/// The requests for what is needed. Containers that run one after the other share: an init container takes what containers after it have,
/// and of what init containers need beyond that the largest counts.
fn requests(pod: &Pod, needed: &BTreeMap<String, String>) -> (Vec<DeviceRequest>, Vec<Mapping>) {
    let Some(spec) = &pod.spec else { return Default::default() };
    let init = spec.init_containers.iter().flatten();
    let first: usize = init.clone().count();
    let containers: Vec<&Container> = init.chain(&spec.containers).collect();
    let is_short = |at: usize| at < first && containers[at].restart_policy.as_deref() != Some("Always");
    let (mut all, mut mappings) = (Vec::new(), Vec::new());
    for (resource, class) in needed {
        let mut long: Vec<Option<Wish>> = vec![None; containers.len()];
        for at in (0..containers.len()).filter(|at| !is_short(*at)) {
            let (wish, told) = wish(at, containers[at], resource, &[]);
            long[at] = wish;
            mappings.extend(told);
        }
        let (mut most, mut names, mut told_of_short) = (None::<Wish>, HashSet::new(), Vec::new());
        for at in (0..containers.len()).filter(|at| is_short(*at)) {
            let (wish, told) = wish(at, containers[at], resource, &long[at..]);
            if let Some(wish) = wish {
                names.insert(wish.name.clone());
                if most.as_ref().is_none_or(|most| most.count < wish.count) {
                    most = Some(wish);
                }
            }
            told_of_short.extend(told);
        }
        if let Some(most) = &most {
            told_of_short.iter_mut().filter(|told| names.contains(&told.request_name)).for_each(|told| told.request_name.clone_from(&most.name));
        }
        mappings.extend(told_of_short);
        all.extend(most.into_iter().chain(long.into_iter().flatten()).map(|wish| request(wish, class)));
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    (all, mappings)
}

fn request(wish: Wish, class: &str) -> DeviceRequest {
    let exactly = ExactDeviceRequest {
        device_class_name: class.to_owned(),
        allocation_mode: Some("ExactCount".to_owned()),
        count: Some(wish.count),
        ..ExactDeviceRequest::default()
    };
    DeviceRequest { name: wish.name, exactly: Some(exactly), ..DeviceRequest::default() }
}

/// What a container asks for of a resource beyond what it can take of others, and which requests are for it.
fn wish(at: usize, container: &Container, resource: &str, others: &[Option<Wish>]) -> (Option<Wish>, Vec<Mapping>) {
    let nothing = (None, Vec::new());
    let Some(asked) = container.resources.as_ref().and_then(|r| r.requests.as_ref()) else { return nothing };
    let Some(place) = asked.keys().position(|name| name == resource) else { return nothing };
    let count = asked[resource].0.parse::<Quantity>().map(|q| q.value()).unwrap_or_default();
    if count == 0 {
        return nothing;
    }
    let mapping = |request: &str| Mapping { container_name: container.name.clone(), resource_name: resource.to_owned(), request_name: request.to_owned() };
    let (mut sum, mut mappings) = (0, Vec::new());
    for other in others.iter().flatten() {
        sum += other.count;
        mappings.push(mapping(&other.name));
        if sum >= count {
            return (None, mappings);
        }
    }
    let name = format!("container-{at}-request-{place}");
    mappings.push(mapping(&name));
    (Some(Wish { name, count: count - sum }), mappings)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn made(init: &Value, containers: &Value) -> (Vec<(String, i64)>, Vec<String>) {
        let pod = json!({"metadata": {"namespace": "n", "name": "p", "uid": "P"}, "spec": {"initContainers": init, "containers": containers}});
        let pod: Pod = client::typed(&pod).expect("a pod");
        let (claim, mappings) = claim(&pod, &[("d.io/gpu".to_owned(), "gpu".to_owned())].into());
        assert_eq!(claim.metadata.generate_name.as_deref(), Some("p-extended-resources-"));
        assert!(claim.is_controlled_by("P"));
        let requests = client::devices::requests(&claim).map(|r| (r.name.clone(), r.exactly.as_ref().and_then(|e| e.count).unwrap_or_default()));
        (requests.collect(), mappings.iter().map(|m| format!("{} {}", m.container_name, m.request_name)).collect())
    }

    fn container(name: &str, count: i64, always: bool) -> Value {
        let requests = json!({"cpu": "1", "d.io/gpu": count.to_string()});
        let mut all = json!({"name": name, "resources": {"requests": requests}});
        if always {
            all["restartPolicy"] = "Always".into();
        }
        all
    }

    #[test]
    fn each_container_has_a_request_and_init_containers_share() {
        let named = |all: &[(&str, i64)]| all.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect::<Vec<_>>();
        let (requests, mappings) = made(&json!([]), &json!([container("a", 2, false), container("none", 0, false), container("b", 1, false)]));
        assert_eq!(requests, named(&[("container-0-request-1", 2), ("container-2-request-1", 1)]));
        assert_eq!(mappings, ["a container-0-request-1", "b container-2-request-1"]);
        // The first needs one more than what comes after it, the second two more: two are asked for, for both.
        let init = json!([container("i", 4, false), container("side", 1, true), container("j", 4, false)]);
        let (requests, mappings) = made(&init, &json!([container("a", 2, false)]));
        assert_eq!(requests, named(&[("container-1-request-1", 1), ("container-2-request-1", 2), ("container-3-request-1", 2)]));
        assert_eq!(
            mappings,
            [
                "side container-1-request-1",
                "a container-3-request-1",
                "i container-1-request-1",
                "i container-3-request-1",
                "i container-2-request-1",
                "j container-3-request-1",
                "j container-2-request-1"
            ]
        );
        // One that has enough of others asks for nothing.
        let (requests, _) = made(&json!([container("i", 2, false)]), &json!([container("a", 2, false)]));
        assert_eq!(requests, named(&[("container-1-request-1", 2)]));
    }
}
