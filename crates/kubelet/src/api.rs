//! What the kubelet asks of the API server: one narrow trait, implemented over the client in `real.rs` and by fakes.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenReview};
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::certificates::v1::{ClusterTrustBundle, PodCertificateRequest};
use k8s_openapi::api::core::v1::{ConfigMap, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::resource::v1::ResourceClaim;
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, VolumeAttachment};
use serde_json::Value;

/// Why a request failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ApiError {
    /// 404.
    #[error("{0}")]
    NotFound(String),
    /// 403.
    #[error("{0}")]
    Forbidden(String),
    /// 409.
    #[error("{0}")]
    Conflict(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl ApiError {
    /// Whether the object does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound(_))
    }
}

/// An object that pods refer to by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RefKind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

/// A ConfigMap or a Secret.
#[derive(Clone, Debug)]
pub enum RefObject {
    /// A ConfigMap.
    ConfigMap(Arc<ConfigMap>),
    /// A Secret.
    Secret(Arc<Secret>),
}

/// What the API tells of this node's pods.
#[derive(Clone, Debug)]
pub enum PodChange {
    /// New or changed.
    Applied(Arc<Pod>),
    /// Gone.
    Removed(Arc<Pod>),
    /// All that exist now were told.
    Synced,
}

/// Severity of an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// `Normal`.
    Normal,
    /// `Warning`.
    Warning,
}

/// The API server, as the kubelet needs it.
#[async_trait]
pub trait KubeApi: Send + Sync {
    /// One object by name, and the revision at which it was read; none if it does not exist.
    async fn get_ref(&self, kind: RefKind, namespace: &str, name: &str) -> Result<(Option<RefObject>, String), ApiError>;
    /// Pulses whenever the named object changes after `revision`; ends when the server ends the watch.
    async fn watch_ref(&self, kind: RefKind, namespace: &str, name: &str, revision: &str) -> Result<BoxStream<'static, ()>, ApiError>;
    /// All bundles of trust anchors, from the memory of an informer that begins with the first call.
    async fn trust_bundles(&self) -> Result<Vec<Arc<ClusterTrustBundle>>, ApiError>;
    /// Pulses whenever a bundle changes, and at once for those that there are. Never ends while the kubelet runs.
    fn trust_bundle_changes(&self) -> BoxStream<'static, ()>;
    /// A request for a certificate of a pod of this node, from the memory of an informer that begins with the first call; none if it is not
    /// there, or not heard of yet.
    async fn certificate_request(&self, namespace: &str, name: &str) -> Result<Option<Arc<PodCertificateRequest>>, ApiError>;
    /// The UID of a pod of this node whenever one of its requests changes, and at once for those that there are. Never ends while the kubelet
    /// runs.
    fn certificate_request_changes(&self) -> BoxStream<'static, String>;
    /// Makes such a request.
    async fn create_certificate_request(&self, namespace: &str, request: &PodCertificateRequest) -> Result<PodCertificateRequest, ApiError>;
    /// The pod as the server has it now.
    async fn get_pod(&self, namespace: &str, name: &str) -> Result<Pod, ApiError>;
    /// A strategic merge patch of the pod's status.
    async fn patch_pod_status(&self, namespace: &str, name: &str, patch: Value) -> Result<Pod, ApiError>;
    /// Makes a pod: the mirror of a static one.
    async fn create_pod(&self, pod: &Pod) -> Result<Pod, ApiError>;
    /// Deletes with grace 0 if the UID is still this.
    async fn delete_pod(&self, namespace: &str, name: &str, uid: &str) -> Result<(), ApiError>;
    /// A token of a service account.
    async fn create_token(&self, namespace: &str, account: &str, request: TokenRequest) -> Result<TokenRequest, ApiError>;
    /// A service account.
    async fn get_service_account(&self, namespace: &str, name: &str) -> Result<ServiceAccount, ApiError>;
    /// A claim.
    async fn get_claim(&self, namespace: &str, name: &str) -> Result<PersistentVolumeClaim, ApiError>;
    /// A volume.
    async fn get_volume(&self, name: &str) -> Result<PersistentVolume, ApiError>;
    /// A strategic merge patch of a claim's status.
    async fn patch_claim_status(&self, namespace: &str, name: &str, patch: Value) -> Result<PersistentVolumeClaim, ApiError>;
    /// What the cluster knows of a driver of volumes, from the memory of an informer that begins with the first call.
    async fn csi_driver(&self, name: &str) -> Result<Option<Arc<CSIDriver>>, ApiError>;
    /// The attachment of a volume.
    async fn get_attachment(&self, name: &str) -> Result<VolumeAttachment, ApiError>;
    /// Waits until the node's status says that a volume is attached, from the memory of an informer that begins with the first call.
    async fn volume_attached(&self, node: &str, volume: &str);
    /// The drivers of this node, as the cluster knows them.
    async fn get_csi_node(&self, name: &str) -> Result<Option<CSINode>, ApiError>;
    /// Makes that object.
    async fn create_csi_node(&self, node: &CSINode) -> Result<CSINode, ApiError>;
    /// Replaces that object, if it is still what was read.
    async fn replace_csi_node(&self, node: &CSINode) -> Result<CSINode, ApiError>;
    /// Deletes that object.
    async fn delete_csi_node(&self, name: &str) -> Result<(), ApiError>;
    /// A claim of devices.
    async fn get_resource_claim(&self, namespace: &str, name: &str) -> Result<ResourceClaim, ApiError>;
    /// Deletes the slices of this node and a driver; of all drivers if it has no name.
    async fn delete_slices(&self, node: &str, driver: &str) -> Result<(), ApiError>;
    /// The handler that a RuntimeClass names.
    async fn runtime_handler(&self, class: &str) -> Result<String, ApiError>;
    /// The services of a namespace, from the informer's memory; when it is whole, or what there is of it by now.
    async fn services(&self, namespace: &str, by_now: bool) -> Vec<Arc<Service>>;
    /// This node's object.
    async fn get_node(&self, name: &str) -> Result<Option<Node>, ApiError>;
    /// Registers this node.
    async fn create_node(&self, node: &Node) -> Result<Node, ApiError>;
    /// A strategic merge patch of the node; `status` for its status.
    async fn patch_node(&self, name: &str, patch: Value, status: bool) -> Result<Node, ApiError>;
    /// Renews (or creates) the node's lease; `duration_s` is how long it stands.
    async fn renew_lease(&self, node: &Node, duration_s: i32) -> Result<(), ApiError>;
    /// Who has this token.
    async fn review_token(&self, review: TokenReview) -> Result<TokenReview, ApiError>;
    /// Whether somebody may do this.
    async fn review_access(&self, review: SubjectAccessReview) -> Result<SubjectAccessReview, ApiError>;
    /// An Event about a pod, or about one container of it (`field_path`, as `spec.containers{name}`). Never blocks.
    fn pod_event(&self, pod: &Pod, field_path: Option<&str>, severity: Severity, reason: &str, message: &str);
    /// An Event about a claim.
    fn claim_event(&self, claim: &PersistentVolumeClaim, severity: Severity, reason: &str, message: &str);
    /// An Event about the node.
    fn node_event(&self, severity: Severity, reason: &str, message: &str);
}

/// Shared handle.
pub type SharedApi = Arc<dyn KubeApi>;
