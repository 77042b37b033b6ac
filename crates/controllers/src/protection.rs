//! What holds storage stays while it is held: claims that scheduled pods use, volumes that are bound, classes of attributes that
//! a claim or a volume names.
//!
//! Admission gives each of them a finalizer; these controllers take it away when the object is to go and nobody uses it any
//! more, and give it to objects from before admission did.
//!
//! What holds it: whoever takes the finalizer from an object that is not to go is heard, and it gets it back. That a claim is in
//! use is believed of memory, and that it is not is asked of the server, too; that it no longer is comes with a pod's change or end,
//! each of which names its claims. Of volumes and classes the users are read from memory alone, which may be older than the world:
//! the finalizer is taken on the revision that was judged, and a use that comes later names an object that is being deleted, which
//! binds nothing.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use client::{Client, Delta, Informer, List, ListParams, Meta, Object, ObjectKey, WorkQueue};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;

use crate::meta::revision;
use crate::volume::{claim_names, index_claims, pods_of, unused};
use crate::work::{Controller, Cx, Step, itself};

const WORKERS: usize = 2;

/// Protects claims until the end, and tells whether they are used.
pub(crate) async fn claims(cx: Cx) {
    tokio::join!(protect(cx.clone()), unused::run(cx));
}

async fn protect(cx: Cx) {
    let users = Pods::new(cx.informers.informer());
    let pods = users.pods.clone();
    let controller = Arc::new(Protector {
        client: cx.client("pvc-protection-controller"),
        finalizer: "kubernetes.io/pvc-protection",
        objects: cx.informers.informer::<PersistentVolumeClaim>(),
        users,
    });
    cx.setup(&controller)
        .on(&controller.objects, itself)
        .on(&pods, |_, queue, change| {
            // A pod that ends frees nothing: its claims are in use until it is deleted.
            if let Delta::Deleted(pod) | Delta::Updated { new: pod, .. } = change {
                claim_names(pod).for_each(|name| queue.add(ObjectKey::new(pod.namespace(), &name)));
            }
        })
        .work(WORKERS)
        .await;
}

/// Protects volumes until the end.
pub(crate) async fn volumes(cx: Cx) {
    let controller = Arc::new(Protector {
        client: cx.client("pv-protection-controller"),
        finalizer: "kubernetes.io/pv-protection",
        objects: cx.informers.informer::<PersistentVolume>(),
        users: Binding,
    });
    cx.setup(&controller).on(&controller.objects, itself).work(WORKERS).await;
}

/// Protects classes of volume attributes until the end.
pub(crate) async fn attributes(cx: Cx) {
    let users = Named { claims: cx.informers.informer(), volumes: cx.informers.informer() };
    let (claims, volumes) = (users.claims.clone(), users.volumes.clone());
    let controller = Arc::new(Protector {
        client: cx.client("volumeattributesclass-protection-controller"),
        finalizer: "kubernetes.io/vac-protection",
        objects: cx.informers.informer::<VolumeAttributesClass>(),
        users,
    });
    cx.setup(&controller)
        .on(&controller.objects, itself)
        .on(&claims, |_, queue, change| heard(queue, change, claim_classes))
        .on(&volumes, |_, queue, change| heard(queue, change, volume_classes))
        .work(WORKERS)
        .await;
}

/// The classes that an object named and perhaps does not any more.
fn heard<K>(queue: &WorkQueue<ObjectKey>, change: &Delta<K>, classes: fn(&K) -> Vec<&str>) {
    if let Delta::Updated { old, .. } | Delta::Deleted(old) = change {
        classes(old).into_iter().for_each(|name| queue.add(ObjectKey::new("", name)));
    }
}

/// Who may use an object of a kind.
trait Users<K>: Send + Sync + 'static {
    /// The queue's name.
    const QUEUE: &'static str;

    /// Whether somebody does.
    fn use_it(&self, client: &Client, object: &K) -> impl Future<Output = client::Result<bool>> + Send;
}

/// The controller of one kind.
struct Protector<K: Object, U> {
    client: Client,
    finalizer: &'static str,
    objects: Informer<K>,
    users: U,
}

impl<K: Object + k8s_openapi::Resource, U: Users<K>> Controller for Protector<K, U> {
    const QUEUE: &'static str = U::QUEUE;
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Step {
        let Some(object) = self.objects.get(&key.namespace, &key.name) else { return Ok(None) };
        let mut next = (*object).clone();
        let finalizers = next.meta_mut().finalizers.get_or_insert_default();
        match (object.is_deleting(), object.has_finalizer(self.finalizer)) {
            (true, true) if !self.users.use_it(&self.client, &object).await? => finalizers.retain(|f| f != self.finalizer),
            (false, false) => finalizers.push(self.finalizer.to_owned()),
            _ => return Ok(None),
        }
        match self.client.scoped::<K>(&key.namespace).replace(&key.name, &next).await {
            Err(error) if error.is_not_found() => Ok(None),
            other => other.map(|_| None),
        }
    }
}

/// Claims are used by pods that have a node: the kubelet starts none whose claim is to go.
struct Pods {
    pods: Informer<Pod>,
    /// What the server said last; whoever asks holds it.
    asked: tokio::sync::Mutex<Asked>,
}

/// Who uses the claims of a namespace, as the server said at a revision.
#[derive(Default)]
struct Asked {
    namespace: String,
    revision: u64,
    /// By claim: see [`used`].
    users: HashMap<String, Vec<Option<String>>>,
}

impl Asked {
    fn of(namespace: &str, pods: &List<Pod>) -> Self {
        let mut users: HashMap<String, Vec<Option<String>>> = HashMap::new();
        for (claim, by) in pods.items().iter().flat_map(used) {
            users.entry(claim).or_default().push(by.map(str::to_owned));
        }
        Self { namespace: namespace.to_owned(), revision: pods.resource_version().parse().unwrap_or(0), users }
    }

    fn has(&self, claim: &PersistentVolumeClaim) -> bool {
        self.users.get(claim.name()).into_iter().flatten().any(|by| is_meant(claim, by.as_deref()))
    }

    /// Whether nobody used a claim after it was to go. (That somebody did may be over by now.)
    fn is_free(&self, claim: &PersistentVolumeClaim) -> bool {
        let since = revision(claim);
        since > 0 && since <= self.revision && self.namespace == claim.namespace() && !self.has(claim)
    }
}

impl Pods {
    fn new(pods: Informer<Pod>) -> Self {
        index_claims(&pods);
        Self { pods, asked: tokio::sync::Mutex::default() }
    }
}

impl Users<PersistentVolumeClaim> for Pods {
    const QUEUE: &'static str = "pvcprotection";

    async fn use_it(&self, client: &Client, claim: &PersistentVolumeClaim) -> client::Result<bool> {
        if pods_of(&self.pods, &claim.key()).iter().any(|pod| uses(pod, claim)) {
            return Ok(true);
        }
        // From the server: a pod that the informer has not seen yet must not lose its data. Of many claims that go at once the first asks
        // for all, as upstream's do.
        let mut asked = self.asked.lock().await;
        if !asked.is_free(claim) {
            let pods = client.namespaced::<Pod>(claim.namespace()).list(&ListParams::default()).await?;
            *asked = Asked::of(claim.namespace(), &pods);
        }
        Ok(asked.has(claim))
    }
}

/// Volumes are used by the claim to which they are bound.
struct Binding;

impl Users<PersistentVolume> for Binding {
    const QUEUE: &'static str = "pvprotection";

    async fn use_it(&self, _: &Client, volume: &PersistentVolume) -> client::Result<bool> {
        Ok(volume.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Bound")))
    }
}

/// Classes are used by the claims and volumes that name them.
struct Named {
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
}

impl Users<VolumeAttributesClass> for Named {
    const QUEUE: &'static str = "vacprotection";

    async fn use_it(&self, _: &Client, class: &VolumeAttributesClass) -> client::Result<bool> {
        let name = class.name();
        Ok(self.claims.list().iter().any(|claim| claim_classes(claim).contains(&name)) || self.volumes.list().iter().any(|v| volume_classes(v).contains(&name)))
    }
}

/// The claims that a pod that has a node uses: by name, or with its UID where only the one that was made for it is meant.
fn used(pod: &Pod) -> Vec<(String, Option<&str>)> {
    let Some(spec) = pod.spec.as_ref().filter(|s| s.node_name.as_ref().is_some_and(|n| !n.is_empty())) else { return Vec::new() };
    // The kubelet is done with it, or it was deleted by force.
    let ended = pod.is_deleting() && pod.meta().deletion_grace_period_seconds == Some(0);
    let claim = |volume: &Volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some((source.claim_name.clone(), None)),
        (None, Some(_)) if !ended => Some((client::own_claim(pod, &volume.name), Some(pod.uid()))),
        _ => None,
    };
    spec.volumes.iter().flatten().filter_map(claim).collect()
}

/// Whether a user of a claim's name means this claim.
fn is_meant(claim: &PersistentVolumeClaim, by: Option<&str>) -> bool {
    by.is_none_or(|uid| claim.is_controlled_by(uid))
}

fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    used(pod).into_iter().any(|(name, by)| name == claim.name() && is_meant(claim, by))
}

fn claim_classes(claim: &PersistentVolumeClaim) -> Vec<&str> {
    let wished = claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref());
    let status = claim.status.as_ref();
    let present = status.and_then(|s| s.current_volume_attributes_class_name.as_deref());
    let coming = status.and_then(|s| s.modify_volume_status.as_ref()?.target_volume_attributes_class_name.as_deref());
    [wished, present, coming].into_iter().flatten().filter(|name| !name.is_empty()).collect()
}

fn volume_classes(volume: &PersistentVolume) -> Vec<&str> {
    let name = volume.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref());
    name.filter(|name| !name.is_empty()).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;
    use serde_json::{Value, json};
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn pod(node: &str) -> Value {
        let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
        json!({"metadata": {"namespace": "n", "name": "p", "uid": "p"}, "spec": {"containers": [], "nodeName": node, "volumes": volumes}})
    }

    #[tokio::test]
    async fn that_a_claim_is_in_use_is_known_from_memory_and_that_it_is_not_is_asked() {
        let claim = client::typed(&json!({"metadata": {"namespace": "n", "name": "c", "uid": "c"}})).expect("a claim");
        for (known, live, used, asked) in [
            (Some(pod("a")), None, true, 0),
            (Some(pod("")), None, false, 1),
            (Some(pod("")), Some(pod("a")), true, 1),
            (None, Some(pod("a")), true, 1),
            (None, None, false, 1),
        ] {
            let case = format!("{known:?} {live:?}");
            let asks = Arc::new(AtomicUsize::new(0));
            let count = asks.clone();
            let fake = Fake::new(move |_, _| {
                count.fetch_add(1, Ordering::Relaxed);
                let items: Vec<_> = live.iter().collect();
                (200, json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}))
            });
            let pods = Pods::new(Informer::fixed(known.iter().map(|pod| client::typed(pod).expect("a pod"))));
            let told = pods.use_it(&fake.client(), &claim).await.expect("an answer");
            assert_eq!((told, asks.load(Ordering::Relaxed)), (used, asked), "{case}");
        }
    }

    #[tokio::test]
    async fn claims_that_go_at_once_ask_once() {
        let claim = |name: &str, revision: &str| -> PersistentVolumeClaim {
            client::typed(&json!({"metadata": {"namespace": "n", "name": name, "uid": name, "resourceVersion": revision}})).expect("a claim")
        };
        let asks = Arc::new(AtomicUsize::new(0));
        let count = asks.clone();
        let fake = Fake::new(move |_, _| {
            count.fetch_add(1, Ordering::Relaxed);
            (200, json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "6"}, "items": [pod("a")]}))
        });
        let (pods, client) = (Pods::new(Informer::fixed([])), fake.client());
        let mut told = Vec::new();
        for (name, revision) in [("x", "5"), ("y", "6"), ("z", "9"), ("c", "5"), ("c", "5"), ("y", "6")] {
            told.push((pods.use_it(&client, &claim(name, revision)).await.expect("an answer"), asks.load(Ordering::Relaxed)));
        }
        let after = "one that went later asks anew, and so does one that was in use";
        assert_eq!(told, [(false, 1), (false, 1), (false, 2), (true, 3), (true, 4), (false, 4)], "{after}");
    }
}
