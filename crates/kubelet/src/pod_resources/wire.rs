//! The messages of the PodResources API (`k8s.io/kubelet/pkg/apis/podresources`), as far as this kubelet fills them: numbers are upstream's.

use prost::Message;

/// All pods.
#[derive(Clone, PartialEq, Message)]
pub struct ListResponse {
    #[prost(message, repeated, tag = "1")]
    pub pods: Vec<PodResources>,
}

/// Asks for one pod.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct GetRequest {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub namespace: String,
}

/// One pod.
#[derive(Clone, PartialEq, Message)]
pub struct GetResponse {
    #[prost(message, optional, tag = "1")]
    pub pod: Option<PodResources>,
}

/// What device plug-ins, and the managers of CPUs and memory, could give: none of them is here.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Allocatable {}

/// What a pod has.
#[derive(Clone, PartialEq, Message)]
pub struct PodResources {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub namespace: String,
    #[prost(message, repeated, tag = "3")]
    pub containers: Vec<ContainerResources>,
}

/// What a container has.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerResources {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, repeated, tag = "5")]
    pub dynamic: Vec<DynamicResource>,
}

/// What a container has of a claim.
#[derive(Clone, PartialEq, Message)]
pub struct DynamicResource {
    #[prost(string, tag = "2")]
    pub claim: String,
    #[prost(string, tag = "3")]
    pub namespace: String,
    #[prost(message, repeated, tag = "4")]
    pub resources: Vec<ClaimResource>,
}

/// A device of a claim.
#[derive(Clone, PartialEq, Message)]
pub struct ClaimResource {
    #[prost(message, repeated, tag = "1")]
    pub cdi: Vec<CdiDevice>,
    #[prost(string, tag = "2")]
    pub driver: String,
    #[prost(string, tag = "3")]
    pub pool: String,
    #[prost(string, tag = "4")]
    pub device: String,
    #[prost(string, optional, tag = "5")]
    pub share: Option<String>,
}

/// What containers get of it (Container Device Interface).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CdiDevice {
    #[prost(string, tag = "1")]
    pub name: String,
}
