//! Which pods have which devices, for those who watch devices on the node (the PodResources API; KEPs 606 and 2043): gRPC at
//! `pod-resources/kubelet.sock` below the kubelet's directory, versions `v1` and `v1alpha1`, by upstream's names and bounds.
//!
//! Told are the devices of claims. CPUs and memory of their own no pod has here (upstream's policies `None`), and there are no device plug-ins
//! of the kind before claims: their lists are empty, as those of upstream's kubelet are then.

mod serve;
pub(crate) mod wire;

pub use serve::{Counts, listen, serve};

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};
use prost::Message;

use crate::devices::Devices;
use crate::grpc;
use crate::pod::Context;
use crate::pod::manager::Pods;
use crate::util;
use wire::{Allocatable, CdiDevice, ClaimResource, ContainerResources, DynamicResource, GetRequest, GetResponse, ListResponse, PodResources};

/// The service, by its version.
const V1: &str = "v1.PodResourcesLister";
const V1ALPHA1: &str = "v1alpha1.PodResourcesLister";

/// A method, as it is counted: its service's version, and its name there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Method {
    List,
    ListAlpha,
    Get,
    GetAllocatable,
}

impl Method {
    /// By its name as it is called.
    ///
    /// # Errors
    /// There is none of the name: in gRPC's words.
    fn named(path: &str) -> Result<Self, String> {
        grpc::method(path, &[V1, V1ALPHA1], |service, name| match (service, name) {
            (V1, "List") => Some(Self::List),
            (V1, "Get") => Some(Self::Get),
            (V1, "GetAllocatableResources") => Some(Self::GetAllocatable),
            (V1ALPHA1, "List") => Some(Self::ListAlpha),
            _ => None,
        })
    }
}

/// Answers a method.
///
/// # Errors
/// The request cannot be read, or what it asks for is not there: why, for users.
fn answer(cx: &Context, pods: &Pods, method: Method, request: &[u8]) -> Result<Vec<u8>, String> {
    Ok(match method {
        Method::List => ListResponse { pods: active(pods).iter().map(|pod| told(&cx.devices, pod)).collect() }.encode_to_vec(),
        // It tells of pods that have ended as well, and of devices of device plug-ins alone.
        Method::ListAlpha => ListResponse { pods: pods.all().iter().map(|handle| bare(&handle.pod())).collect() }.encode_to_vec(),
        Method::GetAllocatable => Allocatable::default().encode_to_vec(),
        Method::Get => {
            let wanted = GetRequest::decode(request).map_err(|error| format!("grpc: error unmarshalling request: {error}"))?;
            let pod = pods.named(&wanted.namespace, &wanted.name).filter(|handle| !handle.ended()).map(|handle| handle.pod());
            let pod = pod.ok_or_else(|| format!("pod {} in namespace {} not found", wanted.name, wanted.namespace))?;
            GetResponse { pod: Some(told(&cx.devices, &pod)) }.encode_to_vec()
        }
    })
}

/// The pods that have not ended (upstream `GetActivePods`), in the order of their names.
fn active(pods: &Pods) -> Vec<Arc<Pod>> {
    let mut all: Vec<Arc<Pod>> = pods.all().into_iter().filter(|handle| !handle.ended()).map(|handle| handle.pod()).collect();
    all.sort_by(|a, b| (util::namespace(a), util::name(a)).cmp(&(util::namespace(b), util::name(b))));
    all
}

fn told(devices: &Devices, pod: &Pod) -> PodResources {
    let spec = pod.spec.as_ref();
    // Of those that initialise, the ones that stay have devices as long as the pod runs.
    let sidecars = spec.and_then(|spec| spec.init_containers.as_ref()).into_iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let containers = sidecars.chain(spec.into_iter().flat_map(|spec| &spec.containers));
    let containers = containers.map(|container| ContainerResources { name: container.name.clone(), dynamic: dynamic(devices, pod, container) }).collect();
    PodResources { name: util::name(pod).to_owned(), namespace: util::namespace(pod).to_owned(), containers }
}

/// A pod of which no devices are told.
fn bare(pod: &Pod) -> PodResources {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let containers = containers.map(|container| ContainerResources { name: container.name.clone(), dynamic: Vec::new() }).collect();
    PodResources { name: util::name(pod).to_owned(), namespace: util::namespace(pod).to_owned(), containers }
}

fn dynamic(devices: &Devices, pod: &Pod, container: &Container) -> Vec<DynamicResource> {
    let claims = devices.held(pod, container).into_iter();
    let resource = |(driver, given): (String, crate::devices::Given)| ClaimResource {
        cdi: given.cdi.into_iter().map(|name| CdiDevice { name }).collect(),
        driver,
        pool: given.pool,
        device: given.device,
        share: given.share,
    };
    claims.map(|held| DynamicResource { claim: held.name, namespace: held.namespace, resources: held.devices.into_iter().map(resource).collect() }).collect()
}

#[cfg(test)]
mod tests {
    use super::Method;

    #[test]
    fn methods_have_names() {
        assert_eq!(Method::named("/v1.PodResourcesLister/Get"), Ok(Method::Get));
        assert_eq!(Method::named("/v1alpha1.PodResourcesLister/List"), Ok(Method::ListAlpha));
        let why = |path: &str| Method::named(path).expect_err("there is none");
        assert_eq!(why("/v1alpha1.PodResourcesLister/Get"), "unknown method Get for service v1alpha1.PodResourcesLister");
        assert_eq!(why("/v2.PodResourcesLister/List"), "unknown service v2.PodResourcesLister");
        assert_eq!(why("/List"), "malformed method name: \"/List\"");
    }
}
