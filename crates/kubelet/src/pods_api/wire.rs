//! The messages of the API of a node's pods (`k8s.io/kubelet/pkg/apis/pods/v1alpha1`): numbers are upstream's.

use prost::Message;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventType {
    Added = 1,
    Modified = 2,
    Deleted = 3,
    /// The first pods were told, all of them.
    InitialSyncComplete = 4,
}

/// Something that happened, and to which pod.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct WatchEvent {
    #[prost(int32, tag = "1")]
    pub what: i32,
    #[prost(bytes = "vec", tag = "2")]
    pub pod: Vec<u8>,
}

/// All pods.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct ListResponse {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub pods: Vec<Vec<u8>>,
}

/// Asks for one pod.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct GetRequest {
    #[prost(string, tag = "1")]
    pub uid: String,
}

/// One pod.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct GetResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub pod: Vec<u8>,
}
