//! Claims of devices (KEP 4381; upstream `resourceclaim`): a pod with a template gets a claim of its own, whose name it is told in its
//! status; who has a claim reserved and is gone or done loses it; a claim that nobody uses any more is given back, and one that was made
//! for a pod goes with the pod's end.
//!
//! A claim that was made is remembered until memory shows it, so that a pod whose status could not be written gets no second one; after
//! a restart the claim is found by its owner. That a pod is gone is believed where its deletion was heard; else the server is asked before
//! a reservation is taken from it. A claim's status is written on the revision that was judged. Nothing rests on a resync: each claim is
//! looked at when the process starts, when it changes, and when a pod that names it changes or goes.

mod make;
mod metrics;
mod release;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use client::devices::{Created, claims_there, pod_claims};
use client::{Client, Delta, Informer, Meta, ObjectKey, Recorder, WorkQueue, devices};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimTemplate};
use parking_lot::Mutex;

use crate::pods;
use crate::work::{Controller, Cx, Step};

/// Upstream `--concurrent-resource-claim-syncs`.
const WORKERS: usize = 50;
/// Of so many pods it is remembered that they are gone (upstream `maxUIDCacheEntries`).
const GONE_MAX: usize = 500;

/// Indexes: pods by the claims and by the templates that they name, claims by the pod that owns them.
const BY_CLAIM: &str = "devices/claim";
const BY_TEMPLATE: &str = "devices/template";
const BY_OWNER: &str = "devices/owner";

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let client = cx.client("resource-claim-controller");
    let recorder = cx.recorder(&client, "resource_claim");
    let controller = Arc::new(Claims {
        client,
        recorder,
        pods: cx.informers.informer(),
        claims: cx.informers.informer(),
        templates: cx.informers.informer(),
        gone: Mutex::default(),
        made: Mutex::default(),
        created: Created::new(cx.metrics()),
    });
    cx.metrics().collect(metrics::TOLD, {
        let claims = controller.claims.clone();
        move |out| metrics::tell(&claims.list(), out)
    });
    controller.index();
    cx.setup(&controller)
        .on(&controller.pods, |c: &Claims, queue, change| c.heard_pod(queue, change.object(), matches!(change, Delta::Deleted(_))))
        .on(&controller.claims, Claims::heard_claim)
        .on(&controller.templates, |c, queue, change| {
            if !matches!(change, Delta::Deleted(_)) {
                c.pods.by_index(BY_TEMPLATE, &change.object().key().to_string()).iter().for_each(|pod| c.heard_pod(queue, pod, false));
            }
        })
        .work(WORKERS)
        .await;
}

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Pod(ObjectKey),
    Claim(ObjectKey),
}

struct Claims {
    client: Client,
    recorder: Recorder,
    pods: Informer<Pod>,
    claims: Informer<ResourceClaim>,
    templates: Informer<ResourceClaimTemplate>,
    gone: Mutex<Gone>,
    /// What was made and is not in memory yet, by the pod's UID and its name for it.
    made: Mutex<HashMap<(String, String), Arc<ResourceClaim>>>,
    created: Created,
}

/// The last pods that were deleted.
#[derive(Default)]
struct Gone {
    order: VecDeque<String>,
    uids: HashSet<String>,
}

impl Gone {
    fn add(&mut self, uid: &str) {
        if !self.uids.insert(uid.to_owned()) {
            return;
        }
        self.order.push_back(uid.to_owned());
        if self.order.len() > GONE_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.uids.remove(&oldest);
        }
    }
}

impl Controller for Claims {
    const QUEUE: &'static str = "resource_claim";
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Step {
        match key {
            Key::Pod(key) => self.provide(key).await,
            Key::Claim(key) => self.release(key).await,
        }
    }
}

impl Claims {
    fn index(&self) {
        self.pods.add_index(BY_CLAIM, |pod| {
            pod_claims(pod).filter_map(|claim| devices::claim_of(pod, claim).ok().flatten()).map(|claim| key(pod, claim.name).to_string()).collect()
        });
        self.pods.add_index(BY_TEMPLATE, |pod| {
            pod_claims(pod).filter_map(|claim| Some(key(pod, claim.resource_claim_template_name.as_deref()?).to_string())).collect()
        });
        self.claims.add_index(BY_OWNER, |claim| owner(claim).map(|(_, uid)| uid.to_owned()).into_iter().collect());
    }

    fn heard_pod(&self, queue: &WorkQueue<Key>, pod: &Pod, deleted: bool) {
        let named = pod_claims(pod).next().is_some();
        if !named && pod.status.as_ref().is_none_or(|s| s.extended_resource_claim_status.is_none()) {
            return;
        }
        if deleted {
            self.gone.lock().add(pod.uid());
            self.made.lock().retain(|(uid, _), _| uid != pod.uid());
        }
        if deleted || is_done(pod) {
            claims_there(pod).for_each(|claim| queue.add(Key::Claim(key(pod, claim.name))));
        }
        if named && !deleted && !pod.is_deleting() {
            queue.add(Key::Pod(pod.key()));
        }
    }

    fn heard_claim(&self, queue: &WorkQueue<Key>, change: &Delta<ResourceClaim>) {
        let claim = change.object();
        if let Some((name, (_, uid))) = claim.annotation(devices::POD_CLAIM).zip(owner(claim)) {
            self.made.lock().remove(&(uid.to_owned(), name.to_owned()));
        }
        if !matches!(change, Delta::Deleted(_)) {
            queue.add(Key::Claim(claim.key()));
        }
        self.pods.by_index(BY_CLAIM, &claim.key().to_string()).iter().for_each(|pod| self.heard_pod(queue, pod, false));
    }
}

/// A claim of a pod.
fn key(pod: &Pod, name: &str) -> ObjectKey {
    ObjectKey::new(pod.namespace(), name)
}

/// The pod for which a claim was made: its name and UID.
fn owner(claim: &ResourceClaim) -> Option<(&str, &str)> {
    let owner = claim.controller().filter(|o| o.api_version == "v1" && o.kind == "Pod")?;
    Some((&owner.name, &owner.uid))
}

/// Whether no container of a pod runs or ever will.
fn is_done(pod: &Pod) -> bool {
    pods::is_terminal(pod) || (pod.is_deleting() && pods::node_name(pod).is_empty())
}
