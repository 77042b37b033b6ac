//! What the client needs to know of a kind, and the shorthands that every component wants.

use std::fmt;

use crate::codec::Coded;
use k8s_openapi::Metadata;
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// An object of the API: one of the types of `k8s-openapi` that `codec.rs` lists, or anything with the same metadata.
pub trait Object: Meta + Coded + Clone + fmt::Debug + Send + Sync + 'static {}

impl<T: Meta + Coded + Clone + fmt::Debug + Send + Sync + 'static> Object for T {}

/// Where a typed kind is served.
pub trait Plural: k8s_openapi::Resource {
    /// `/api/v1` or `/apis/GROUP/VERSION`.
    #[must_use]
    fn root() -> String {
        if Self::GROUP.is_empty() { format!("/api/{}", Self::VERSION) } else { format!("/apis/{}/{}", Self::GROUP, Self::VERSION) }
    }
}

impl<T: k8s_openapi::Resource> Plural for T {}

/// An object's metadata without its many `Option`s.
pub trait Meta {
    /// The metadata.
    fn meta(&self) -> &ObjectMeta;
    /// The metadata, to be changed.
    fn meta_mut(&mut self) -> &mut ObjectMeta;

    /// The name; empty before it is set.
    fn name(&self) -> &str {
        self.meta().name.as_deref().unwrap_or_default()
    }
    /// The namespace; empty for cluster-wide kinds.
    fn namespace(&self) -> &str {
        self.meta().namespace.as_deref().unwrap_or_default()
    }
    /// The UID.
    fn uid(&self) -> &str {
        self.meta().uid.as_deref().unwrap_or_default()
    }
    /// The revision at which it was last changed.
    fn resource_version(&self) -> &str {
        self.meta().resource_version.as_deref().unwrap_or_default()
    }
    /// A label's value.
    fn label(&self, key: &str) -> Option<&str> {
        self.meta().labels.as_ref()?.get(key).map(String::as_str)
    }
    /// An annotation's value.
    fn annotation(&self, key: &str) -> Option<&str> {
        self.meta().annotations.as_ref()?.get(key).map(String::as_str)
    }
    /// Whether somebody has asked for its deletion.
    fn is_deleting(&self) -> bool {
        self.meta().deletion_timestamp.is_some()
    }
    /// Whether it has this finalizer.
    fn has_finalizer(&self, finalizer: &str) -> bool {
        self.meta().finalizers.iter().flatten().any(|f| f == finalizer)
    }
    /// The owner that manages it.
    fn controller(&self) -> Option<&OwnerReference> {
        self.meta().owner_references.iter().flatten().find(|o| o.controller == Some(true))
    }
    /// Whether the owner with this UID manages it.
    fn is_controlled_by(&self, uid: &str) -> bool {
        self.controller().is_some_and(|o| o.uid == uid)
    }
    /// Namespace and name.
    fn key(&self) -> ObjectKey {
        ObjectKey::new(self.namespace(), self.name())
    }
}

impl<T: Metadata<Ty = ObjectMeta>> Meta for T {
    fn meta(&self) -> &ObjectMeta {
        self.metadata()
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.metadata_mut()
    }
}

/// Namespace and name; the namespace is empty for cluster-wide kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl ObjectKey {
    /// From its two parts.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// A reference to an object, as Events carry it.
pub fn object_reference<K: Meta + k8s_openapi::Resource>(object: &K) -> ObjectReference {
    ObjectReference {
        api_version: Some(K::API_VERSION.to_owned()),
        kind: Some(K::KIND.to_owned()),
        name: object.meta().name.clone(),
        namespace: object.meta().namespace.clone(),
        resource_version: object.meta().resource_version.clone(),
        uid: object.meta().uid.clone(),
        field_path: None,
    }
}

/// The name of the claim that is made for a pod's generic ephemeral volume (upstream's `ephemeral.VolumeClaimName`).
pub fn own_claim(pod: &impl Meta, volume: &str) -> String {
    format!("{}-{volume}", pod.name())
}

/// Where a node is: its region and zone, by the labels of today or else of old (upstream `GetZoneKey`, which asks for the old ones first).
#[must_use]
pub fn region_and_zone(node: &Node) -> (&str, &str) {
    let of = |key: &str, old: &str| node.label(key).or_else(|| node.label(old)).unwrap_or_default();
    (
        of("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"),
        of("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"),
    )
}
