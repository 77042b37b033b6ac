//! The messages of CSI's identity and controller services, as far as they are used: names and numbers are the specification's. Those of
//! the node service are `volume`'s own.

use std::collections::BTreeMap;

use prost::Message;
pub(crate) use volume::csi::wire::*;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PluginInfo {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) vendor_version: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Kind {
    #[prost(int32, tag = "1")]
    pub(crate) kind: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PluginCapability {
    #[prost(message, optional, tag = "1")]
    pub(crate) service: Option<Kind>,
    #[prost(message, optional, tag = "2")]
    pub(crate) expansion: Option<Kind>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PluginCapabilities {
    #[prost(message, repeated, tag = "1")]
    pub(crate) capabilities: Vec<PluginCapability>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Yes {
    #[prost(bool, tag = "1")]
    pub(crate) value: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Probed {
    #[prost(message, optional, tag = "1")]
    pub(crate) ready: Option<Yes>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct VolumeSource {
    #[prost(string, tag = "1")]
    pub(crate) volume_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ContentSource {
    #[prost(message, optional, tag = "1")]
    pub(crate) snapshot: Option<Empty>,
    #[prost(message, optional, tag = "2")]
    pub(crate) volume: Option<VolumeSource>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CreateVolumeRequest {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) capacity_range: Option<CapacityRange>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) volume_capabilities: Vec<VolumeCapability>,
    #[prost(message, optional, tag = "6")]
    pub(crate) content_source: Option<ContentSource>,
    #[prost(btree_map = "string, string", tag = "8")]
    pub(crate) mutable_parameters: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Volume {
    #[prost(int64, tag = "1")]
    pub(crate) capacity_bytes: i64,
    #[prost(string, tag = "2")]
    pub(crate) volume_id: String,
    #[prost(btree_map = "string, string", tag = "3")]
    pub(crate) volume_context: BTreeMap<String, String>,
    #[prost(message, optional, tag = "4")]
    pub(crate) content_source: Option<ContentSource>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) accessible_topology: Vec<Topology>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CreateVolumeResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) volume: Option<Volume>,
}

/// Deleting and modifying a volume, and both ways of attaching it: the numbers that are used here are the same.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct OfVolume {
    #[prost(string, tag = "1")]
    pub(crate) volume_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct OfNode {
    #[prost(string, tag = "1")]
    pub(crate) volume_id: String,
    #[prost(string, tag = "2")]
    pub(crate) node_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Attached {
    #[prost(btree_map = "string, string", tag = "1")]
    pub(crate) publish_context: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ExpandRequest {
    #[prost(string, tag = "1")]
    pub(crate) volume_id: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) capacity_range: Option<CapacityRange>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Expanded {
    #[prost(int64, tag = "1")]
    pub(crate) capacity_bytes: i64,
    #[prost(bool, tag = "2")]
    pub(crate) node_expansion_required: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ModifyRequest {
    #[prost(string, tag = "1")]
    pub(crate) volume_id: String,
    #[prost(btree_map = "string, string", tag = "3")]
    pub(crate) mutable_parameters: BTreeMap<String, String>,
}
