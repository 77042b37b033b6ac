//! The kinds that are read and written as types, and their JSON.
//!
//! A type's decoder is generic over what it reads from, so each crate that decodes it, and each source that it decodes from,
//! makes a copy of all of it (a pod's has a thousand functions). So objects are read from bytes and from nothing else, and by
//! functions that belong to the kind: they are compiled here, once for the whole program. A kind that is not in the list is
//! read as a `Value` ([`crate::Client::get_json`]).

use std::fmt;
use std::marker::PhantomData;

use k8s_openapi::api::{
    admissionregistration::v1::ValidatingAdmissionPolicy,
    apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet},
    authentication::v1::TokenReview,
    authorization::v1::SubjectAccessReview,
    autoscaling::{v1::Scale, v2::HorizontalPodAutoscaler},
    batch::v1::{CronJob, Job},
    certificates::v1::{CertificateSigningRequest, ClusterTrustBundle, PodCertificateRequest},
    coordination::v1::Lease,
    core::v1::{
        ConfigMap, Endpoints, Event as CoreEvent, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController, ResourceQuota, Secret,
        Service, ServiceAccount,
    },
    discovery::v1::EndpointSlice,
    events::v1::Event,
    networking::v1::{IPAddress, ServiceCIDR},
    node::v1::RuntimeClass,
    policy::v1::PodDisruptionBudget,
    rbac::v1::ClusterRole,
    resource::v1::{DeviceClass, DeviceTaintRule, ResourceClaim, ResourceClaimTemplate, ResourceSlice},
    scheduling::v1::PriorityClass,
    storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment, VolumeAttributesClass},
};
use serde::de::{Deserialize, DeserializeOwned, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use crate::list::List;
use crate::partial::PartialObject;

/// What a tree says, as a type: by the one decoder that the type has.
///
/// # Errors
/// The type refuses it.
pub fn typed<T: DeserializeOwned>(value: &Value) -> serde_json::Result<T> {
    serde_json::from_slice(&serde_json::to_vec(value)?)
}

/// A kind of which the JSON is known.
pub trait Coded: Sized {
    /// One object.
    ///
    /// # Errors
    /// The type refuses it.
    fn decode(bytes: &[u8]) -> serde_json::Result<Self>;
    /// A page of objects.
    ///
    /// # Errors
    /// The type refuses one of them.
    fn decode_list(bytes: &[u8]) -> serde_json::Result<List<Self>>;
    /// A frame of a watch.
    ///
    /// # Errors
    /// It is none, or the type refuses its object.
    fn decode_frame(bytes: &[u8]) -> serde_json::Result<Frame<Self>>;
    /// The object's JSON.
    ///
    /// # Errors
    /// A number in it is none in JSON.
    fn encode(&self) -> serde_json::Result<Vec<u8>>;
}

macro_rules! coded {
    ($($kind:ty),* $(,)?) => {$(
        impl Coded for $kind {
            fn decode(bytes: &[u8]) -> serde_json::Result<Self> {
                serde_json::from_slice(bytes)
            }
            fn decode_list(bytes: &[u8]) -> serde_json::Result<List<Self>> {
                serde_json::from_slice(bytes)
            }
            fn decode_frame(bytes: &[u8]) -> serde_json::Result<Frame<Self>> {
                serde_json::from_slice(bytes)
            }
            fn encode(&self) -> serde_json::Result<Vec<u8>> {
                serde_json::to_vec(self)
            }
        }
    )*};
}

coded!(
    CSIDriver,
    CSINode,
    CSIStorageCapacity,
    CertificateSigningRequest,
    ClusterRole,
    ClusterTrustBundle,
    ConfigMap,
    ControllerRevision,
    CoreEvent,
    CronJob,
    DaemonSet,
    Deployment,
    DeviceClass,
    DeviceTaintRule,
    EndpointSlice,
    Endpoints,
    Event,
    HorizontalPodAutoscaler,
    IPAddress,
    Job,
    Lease,
    Namespace,
    Node,
    PartialObject,
    PersistentVolume,
    PersistentVolumeClaim,
    Pod,
    PodCertificateRequest,
    PodDisruptionBudget,
    PriorityClass,
    ReplicaSet,
    ReplicationController,
    ResourceClaim,
    ResourceClaimTemplate,
    ResourceQuota,
    ResourceSlice,
    RuntimeClass,
    Scale,
    Secret,
    Service,
    ServiceAccount,
    ServiceCIDR,
    StatefulSet,
    StorageClass,
    SubjectAccessReview,
    TokenReview,
    ValidatingAdmissionPolicy,
    VolumeAttachment,
    VolumeAttributesClass,
);

/// A frame of a watch.
#[derive(Debug)]
pub struct Frame<K> {
    /// `ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK`, `ERROR`.
    pub change: String,
    /// What it is about.
    pub object: Told<K>,
}

/// What a frame is about.
#[derive(Debug)]
pub enum Told<K> {
    /// An object of the kind that is watched.
    Object(K),
    /// A bookmark, an error, or what came before its `type`.
    Other(Value),
}

/// Whether frames of this type hold an object of the kind that is watched.
pub(crate) fn holds_object(change: &str) -> bool {
    matches!(change, "ADDED" | "MODIFIED" | "DELETED")
}

impl<'de, K: Deserialize<'de>> Deserialize<'de> for Frame<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Read(PhantomData))
    }
}

struct Read<K>(PhantomData<K>);

impl<'de, K: Deserialize<'de>> Visitor<'de> for Read<K> {
    type Value = Frame<K>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a frame of a watch")
    }

    /// Servers write the type first, so the object need not be kept as a tree.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut change, mut object) = (String::new(), Told::Other(Value::Null));
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "type" => change = map.next_value()?,
                "object" if holds_object(&change) => object = Told::Object(map.next_value()?),
                "object" => object = Told::Other(map.next_value()?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Frame { change, object })
    }
}
