//! [`KubeApi`] over the client and the informers.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Client, DeleteParams, Delta, Error, Event, EventType, Informer, Informers, ListParams, Meta, Patch, PatchParams, Recorder};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenReview};
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::certificates::v1::{ClusterTrustBundle, PodCertificateRequest};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Node, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, VolumeAttachment};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::api::{ApiError, KubeApi, PodChange, RefKind, RefObject, Severity};

/// Where nodes' leases are.
const LEASES: &str = "kube-node-lease";
/// How long a pod's volume waits for the first list of bundles or requests; after that the pod is tried again, and its event says why.
const LIST_WAIT: Duration = Duration::from_secs(10);

/// For an answer: what it takes longer is asked anew, on a connection that may be another. A little more than the server gives
/// itself (upstream's `--request-timeout`).
const CALL_MAX: Duration = Duration::from_secs(75);

/// For a sign of life, of which the next is due by then (upstream's heartbeat client has the status' period).
const HEARTBEAT_MAX: Duration = Duration::from_secs(10);

/// A call with an end: nothing of the kubelet waits for ever for a server that does not answer. (An exec probe, a set-up, a
/// status: each is tried again by whoever wanted it.)
async fn within<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, ApiError> {
    ends(CALL_MAX, call).await
}

/// The same for a sign of life.
async fn soon<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, ApiError> {
    ends(HEARTBEAT_MAX, call).await
}

async fn ends<T>(most: Duration, call: impl Future<Output = Result<T, Error>>) -> Result<T, ApiError> {
    match tokio::time::timeout(most, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(ApiError::Other(format!("the API server did not answer within {} s", most.as_secs()))),
    }
}

/// The API server through the client.
pub struct RealApi {
    client: Client,
    informers: Informers,
    services: Informer<Service>,
    recorder: Recorder,
    node_name: String,
}

impl From<Error> for ApiError {
    fn from(e: Error) -> Self {
        match e.status() {
            Some(s) if s.code == 403 => Self::Forbidden(e.to_string()),
            Some(s) if s.code == 404 => Self::NotFound(e.to_string()),
            Some(s) if s.code == 409 => Self::Conflict(e.to_string()),
            _ => Self::Other(e.to_string()),
        }
    }
}

impl RealApi {
    fn certificate_requests(&self) -> Informer<PodCertificateRequest> {
        self.informers.informer_with(ListParams::fields(format!("spec.nodeName={}", self.node_name)))
    }

    /// Reads services from the informers' memory, the rest through `client`.
    #[must_use]
    pub fn new(client: Client, informers: Informers, node_name: &str) -> Self {
        let recorder = Recorder::new(client.clone(), "kubelet", node_name);
        Self { services: informers.informer(), informers, recorder, client, node_name: node_name.to_owned() }
    }
}

/// This node's pods, from one watch: all that exist, [`PodChange::Synced`], and then the changes.
pub fn pod_changes(informers: &Informers, node_name: &str, stop: CancellationToken) -> mpsc::UnboundedReceiver<PodChange> {
    let informer = informers.informer_with::<Pod>(ListParams::fields(format!("spec.nodeName={node_name}")));
    let (to, changes) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        tokio::select! {
            () = informer.synced() => {}
            () = stop.cancelled() => return,
        }
        let mut deltas = informer.subscribe();
        // What is in memory now was put into the channel by the subscription itself.
        while let Ok(delta) = deltas.try_recv() {
            tell(&to, delta);
        }
        let _ = to.send(PodChange::Synced);
        loop {
            tokio::select! {
                delta = deltas.recv() => match delta {
                    Some(delta) => tell(&to, delta),
                    None => return,
                },
                () = stop.cancelled() => return,
            }
        }
    });
    changes
}

fn tell(to: &mpsc::UnboundedSender<PodChange>, delta: Delta<Pod>) {
    match delta {
        Delta::Added(pod) => {
            let _ = to.send(PodChange::Applied(pod));
        }
        Delta::Updated { old, new } => {
            // The name may have passed on to another pod while nobody watched.
            if old.uid() != new.uid() {
                let _ = to.send(PodChange::Removed(old));
            }
            let _ = to.send(PodChange::Applied(new));
        }
        Delta::Deleted(pod) => {
            let _ = to.send(PodChange::Removed(pod));
        }
    }
}

fn pulses<K: Send + 'static>(events: BoxStream<'static, client::Result<Event<K>>>) -> BoxStream<'static, ()> {
    events
        .take_while(|e| std::future::ready(e.is_ok()))
        .filter_map(|e| {
            std::future::ready(match e {
                Ok(Event::Bookmark { .. }) | Err(_) => None,
                Ok(_) => Some(()),
            })
        })
        .boxed()
}

fn severity(s: Severity) -> EventType {
    match s {
        Severity::Normal => EventType::Normal,
        Severity::Warning => EventType::Warning,
    }
}

#[async_trait]
impl KubeApi for RealApi {
    async fn get_ref(&self, kind: RefKind, namespace: &str, name: &str) -> Result<(Option<RefObject>, String), ApiError> {
        Ok(match kind {
            RefKind::ConfigMap => match within(self.client.namespaced::<ConfigMap>(namespace).get_opt(name)).await? {
                Some(m) => {
                    let revision = m.resource_version().to_owned();
                    (Some(RefObject::ConfigMap(Arc::new(m))), revision)
                }
                None => (None, String::new()),
            },
            RefKind::Secret => match within(self.client.namespaced::<Secret>(namespace).get_opt(name)).await? {
                Some(s) => {
                    let revision = s.resource_version().to_owned();
                    (Some(RefObject::Secret(Arc::new(s))), revision)
                }
                None => (None, String::new()),
            },
        })
    }

    async fn watch_ref(&self, kind: RefKind, namespace: &str, name: &str, revision: &str) -> Result<BoxStream<'static, ()>, ApiError> {
        let one = ListParams::fields(format!("metadata.name={name}"));
        Ok(match kind {
            RefKind::ConfigMap => pulses(within(self.client.namespaced::<ConfigMap>(namespace).watch(&one, revision)).await?),
            RefKind::Secret => pulses(within(self.client.namespaced::<Secret>(namespace).watch(&one, revision)).await?),
        })
    }

    async fn trust_bundles(&self) -> Result<Vec<Arc<ClusterTrustBundle>>, ApiError> {
        let bundles = self.informers.informer::<ClusterTrustBundle>();
        match tokio::time::timeout(LIST_WAIT, bundles.synced()).await {
            Ok(()) => Ok(bundles.list()),
            Err(_) => Err(ApiError::Other("ClusterTrustBundle informer has not yet synced".into())),
        }
    }

    fn trust_bundle_changes(&self) -> BoxStream<'static, ()> {
        let changes = self.informers.informer::<ClusterTrustBundle>().subscribe();
        futures_util::stream::unfold(changes, |mut changes| async move { changes.recv().await.map(|_| ((), changes)) }).boxed()
    }

    async fn certificate_request(&self, namespace: &str, name: &str) -> Result<Option<Arc<PodCertificateRequest>>, ApiError> {
        let requests = self.certificate_requests();
        match tokio::time::timeout(LIST_WAIT, requests.synced()).await {
            Ok(()) => Ok(requests.get(namespace, name)),
            Err(_) => Err(ApiError::Other("PodCertificateRequest informer has not yet synced".into())),
        }
    }

    fn certificate_request_changes(&self) -> BoxStream<'static, String> {
        let changes = self.certificate_requests().subscribe();
        let next = |mut changes: mpsc::UnboundedReceiver<Delta<PodCertificateRequest>>| async move {
            let delta = changes.recv().await?;
            Some((delta.object().spec.pod_uid.clone(), changes))
        };
        futures_util::stream::unfold(changes, next).boxed()
    }

    async fn create_certificate_request(&self, namespace: &str, request: &PodCertificateRequest) -> Result<PodCertificateRequest, ApiError> {
        within(self.client.namespaced::<PodCertificateRequest>(namespace).create(request)).await
    }

    async fn get_pod(&self, namespace: &str, name: &str) -> Result<Pod, ApiError> {
        within(self.client.namespaced::<Pod>(namespace).get(name)).await
    }

    async fn patch_pod_status(&self, namespace: &str, name: &str, patch: Value) -> Result<Pod, ApiError> {
        let api = self.client.namespaced::<Pod>(namespace);
        within(api.patch_status(name, &Patch::Strategic(patch), &PatchParams::default())).await
    }

    async fn create_pod(&self, pod: &Pod) -> Result<Pod, ApiError> {
        within(self.client.namespaced::<Pod>(crate::util::namespace(pod)).create(pod)).await
    }

    async fn delete_pod(&self, namespace: &str, name: &str, uid: &str) -> Result<(), ApiError> {
        within(self.client.namespaced::<Pod>(namespace).delete(name, &DeleteParams::now().uid(uid))).await
    }

    async fn create_token(&self, namespace: &str, account: &str, request: TokenRequest) -> Result<TokenRequest, ApiError> {
        within(self.client.namespaced::<ServiceAccount>(namespace).create_subresource(account, "token", &request)).await
    }

    async fn get_service_account(&self, namespace: &str, name: &str) -> Result<ServiceAccount, ApiError> {
        within(self.client.namespaced::<ServiceAccount>(namespace).get(name)).await
    }

    async fn get_claim(&self, namespace: &str, name: &str) -> Result<PersistentVolumeClaim, ApiError> {
        within(self.client.namespaced::<PersistentVolumeClaim>(namespace).get(name)).await
    }

    async fn get_volume(&self, name: &str) -> Result<PersistentVolume, ApiError> {
        within(self.client.all::<PersistentVolume>().get(name)).await
    }

    async fn patch_claim_status(&self, namespace: &str, name: &str, patch: Value) -> Result<PersistentVolumeClaim, ApiError> {
        let api = self.client.namespaced::<PersistentVolumeClaim>(namespace);
        within(api.patch_status(name, &Patch::Strategic(patch), &PatchParams::default())).await
    }

    async fn csi_driver(&self, name: &str) -> Result<Option<Arc<CSIDriver>>, ApiError> {
        let drivers = self.informers.informer::<CSIDriver>();
        match tokio::time::timeout(LIST_WAIT, drivers.synced()).await {
            Ok(()) => Ok(drivers.get("", name)),
            Err(_) => Err(ApiError::Other("CSIDriver informer has not yet synced".into())),
        }
    }

    async fn get_attachment(&self, name: &str) -> Result<VolumeAttachment, ApiError> {
        within(self.client.all::<VolumeAttachment>().get(name)).await
    }

    async fn volume_attached(&self, node: &str, volume: &str) {
        let nodes = self.informers.informer_with::<Node>(ListParams::fields(format!("metadata.name={node}")));
        let mut changes = nodes.subscribe();
        while let Some(change) = changes.recv().await {
            let attached = change.object().status.iter().flat_map(|s| s.volumes_attached.iter().flatten());
            if attached.into_iter().any(|a| a.name == volume) {
                return;
            }
        }
        // The informer ends with the kubelet.
        std::future::pending().await
    }

    async fn get_csi_node(&self, name: &str) -> Result<Option<CSINode>, ApiError> {
        within(self.client.all::<CSINode>().get_opt(name)).await
    }

    async fn create_csi_node(&self, node: &CSINode) -> Result<CSINode, ApiError> {
        within(self.client.all::<CSINode>().create(node)).await
    }

    async fn replace_csi_node(&self, node: &CSINode) -> Result<CSINode, ApiError> {
        within(self.client.all::<CSINode>().replace(node.metadata.name.as_deref().unwrap_or_default(), node)).await
    }

    async fn delete_csi_node(&self, name: &str) -> Result<(), ApiError> {
        within(self.client.all::<CSINode>().delete(name, &DeleteParams::default())).await
    }

    async fn get_resource_claim(&self, namespace: &str, name: &str) -> Result<ResourceClaim, ApiError> {
        within(self.client.namespaced::<ResourceClaim>(namespace).get(name)).await
    }

    async fn delete_slices(&self, node: &str, driver: &str) -> Result<(), ApiError> {
        let of_driver = if driver.is_empty() { String::new() } else { format!(",spec.driver={driver}") };
        let which = ListParams::fields(format!("spec.nodeName={node}{of_driver}"));
        within(self.client.all::<ResourceSlice>().delete_collection(&DeleteParams::default(), &which)).await
    }

    async fn runtime_handler(&self, class: &str) -> Result<String, ApiError> {
        Ok(within(self.client.all::<RuntimeClass>().get(class)).await?.handler)
    }

    async fn services(&self, namespace: &str, by_now: bool) -> Vec<Arc<Service>> {
        if !by_now {
            self.services.synced().await;
        }
        self.services.list_namespace(namespace)
    }

    async fn get_node(&self, name: &str) -> Result<Option<Node>, ApiError> {
        soon(self.client.all::<Node>().get_opt(name)).await
    }

    async fn create_node(&self, node: &Node) -> Result<Node, ApiError> {
        within(self.client.all::<Node>().create(node)).await
    }

    async fn patch_node(&self, name: &str, patch: Value, status: bool) -> Result<Node, ApiError> {
        let (api, patch) = (self.client.all::<Node>(), Patch::Strategic(patch));
        let params = PatchParams::default();
        if status { soon(api.patch_status(name, &patch, &params)).await } else { within(api.patch(name, &patch, &params)).await }
    }

    async fn renew_lease(&self, node: &Node, duration_s: i32) -> Result<(), ApiError> {
        let api = self.client.namespaced::<Lease>(LEASES);
        let renewal = Patch::Merge(json!({"spec": {"renewTime": client::now_micro()}}));
        // Nobody waits for an answer longer than the lease stands.
        let most = HEARTBEAT_MAX.min(Duration::from_secs(u64::try_from(duration_s).unwrap_or(0)));
        match ends(most, api.patch(&self.node_name, &renewal, &PatchParams::default())).await {
            Ok(_) => return Ok(()),
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e),
        }
        let owner = OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: self.node_name.clone(),
            uid: node.uid().to_owned(),
            ..OwnerReference::default()
        };
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.node_name.clone()),
                namespace: Some(LEASES.to_owned()),
                owner_references: Some(vec![owner]),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.node_name.clone()),
                lease_duration_seconds: Some(duration_s),
                renew_time: Some(client::now_micro()),
                ..LeaseSpec::default()
            }),
        };
        ends(most, api.create(&lease)).await?;
        Ok(())
    }

    async fn review_token(&self, review: TokenReview) -> Result<TokenReview, ApiError> {
        within(self.client.all::<TokenReview>().create(&review)).await
    }

    async fn review_access(&self, review: SubjectAccessReview) -> Result<SubjectAccessReview, ApiError> {
        within(self.client.all::<SubjectAccessReview>().create(&review)).await
    }

    fn pod_event(&self, pod: &Pod, field_path: Option<&str>, kind: Severity, reason: &str, message: &str) {
        let about = ObjectReference { field_path: field_path.map(str::to_owned), ..client::object_reference(pod) };
        self.recorder.event(&about, severity(kind), reason, message);
    }

    fn claim_event(&self, claim: &PersistentVolumeClaim, kind: Severity, reason: &str, message: &str) {
        self.recorder.event(&client::object_reference(claim), severity(kind), reason, message);
    }

    fn node_event(&self, kind: Severity, reason: &str, message: &str) {
        // Upstream names the node as its own UID here, and `kubectl describe node` looks for that.
        let about =
            ObjectReference { kind: Some("Node".into()), name: Some(self.node_name.clone()), uid: Some(self.node_name.clone()), ..ObjectReference::default() };
        self.recorder.event(&about, severity(kind), reason, message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that takes every request and answers none.
    struct Silent;

    impl client::Transport for Silent {
        fn send(&self, _: http::Request<bytes::Bytes>) -> futures_util::future::BoxFuture<'static, client::Result<http::Response<client::Body>>> {
            Box::pin(std::future::pending())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_call_waits_for_ever() {
        let client = Client::new(Arc::new(Silent));
        let stop = CancellationToken::new();
        let api = RealApi::new(client.clone(), Informers::new(client, stop.clone()), "n1");
        let node = Node::default();
        let calls = async {
            let ends = [
                api.get_pod("n", "p").await.is_err(),
                api.patch_pod_status("n", "p", json!({})).await.is_err(),
                api.delete_pod("n", "p", "u").await.is_err(),
                api.get_ref(RefKind::Secret, "n", "s").await.is_err(),
                api.watch_ref(RefKind::ConfigMap, "n", "s", "1").await.is_err(),
                api.create_token("n", "a", TokenRequest::default()).await.is_err(),
                api.get_claim("n", "c").await.is_err(),
                api.runtime_handler("c").await.is_err(),
                api.get_node("n1").await.is_err(),
                api.create_node(&node).await.is_err(),
                api.patch_node("n1", json!({}), true).await.is_err(),
                api.renew_lease(&node, 40).await.is_err(),
                api.review_token(TokenReview::default()).await.is_err(),
            ];
            assert!(ends.iter().all(|end| *end), "{ends:?}");
        };
        tokio::time::timeout(CALL_MAX * 14, calls).await.expect("each call has an end");
        stop.cancel();
    }
}
