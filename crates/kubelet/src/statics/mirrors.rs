//! Mirrors: pods of the API that show this node's static ones.
//!
//! One task keeps them: it looks at all of them when a static pod or a mirror changed, when the node was registered, and once a minute, as
//! upstream's sync of each pod does. A mirror that is being deleted, or that shows what a file said before, is removed and made again; one
//! without a static pod is removed, once all pods of the API and all files are known and nothing of that name is still being ended. What
//! failed is tried again after a pause. (Upstream finds those that are left over in its housekeeping.)

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{FullName, HASH, MIRROR, annotation, full_name, is_static};
use crate::api::ApiError;
use crate::pod::Context;
use crate::pod::manager::Pods;
use crate::util;

/// How often all are looked at without news, give or take a half (upstream's `syncFrequency`).
const LOOK: Duration = Duration::from_secs(60);
/// How soon what failed is tried again (upstream's `backOffPeriod`).
const RETRY: Duration = Duration::from_secs(10);

/// The mirrors of this node.
pub struct Mirrors {
    cx: Arc<Context>,
    pods: Pods,
    known: Mutex<BTreeMap<FullName, Arc<Pod>>>,
    /// Static pods that have not begun: a former one of their name is being ended, or their admission waits for something.
    waiting: Mutex<BTreeSet<FullName>>,
    news: Notify,
}

/// Whether a mirror shows this static pod.
fn shows(mirror: &Pod, of: &Pod) -> bool {
    full_name(mirror) == full_name(of) && annotation(mirror, MIRROR).is_some_and(|hash| Some(hash) == annotation(of, HASH))
}

fn ends(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// The mirror of a static pod, to be made. Its owner is the node, as `NodeRestriction` wants it.
fn mirror_of(pod: &Pod, node: &Node) -> Option<Pod> {
    let uid = node.metadata.uid.clone().filter(|uid| !uid.is_empty() && node.metadata.deletion_timestamp.is_none())?;
    let mut mirror = pod.clone();
    mirror.metadata.uid = None;
    let hash = annotation(pod, HASH)?.to_owned();
    mirror.metadata.annotations.get_or_insert_default().insert(MIRROR.to_owned(), hash);
    mirror.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.metadata.name.clone().unwrap_or_default(),
        uid,
        controller: Some(true),
        ..OwnerReference::default()
    }]);
    Some(mirror)
}

impl Mirrors {
    /// None are known yet.
    #[must_use]
    pub fn new(cx: Arc<Context>, pods: Pods) -> Self {
        Self { cx, pods, known: Mutex::default(), waiting: Mutex::default(), news: Notify::new() }
    }

    /// The API has this mirror.
    pub fn apply(&self, mirror: Arc<Pod>) {
        self.known.lock().insert(full_name(&mirror), mirror);
        self.wake();
    }

    /// The API has it no more.
    pub fn remove(&self, mirror: &Pod) {
        self.forget(mirror);
        self.wake();
    }

    fn forget(&self, mirror: &Pod) {
        let mut known = self.known.lock();
        let name = full_name(mirror);
        // The name may be another's already.
        if known.get(&name).is_some_and(|k| util::uid(k) == util::uid(mirror)) {
            known.remove(&name);
        }
    }

    /// Something of the static pods changed; these have not begun.
    pub fn changed(&self, waiting: BTreeSet<FullName>) {
        *self.waiting.lock() = waiting;
        self.wake();
    }

    fn wake(&self) {
        self.news.notify_one();
    }

    /// Keeps them until the kubelet stops. `all`: whether all pods of the API and all files are known.
    pub async fn keep(self: Arc<Self>, mut registered: watch::Receiver<bool>, mut all: watch::Receiver<bool>, stop: CancellationToken) {
        let mut pauses: BTreeMap<FullName, Instant> = BTreeMap::new();
        loop {
            let told = *all.borrow_and_update();
            self.round(&mut pauses, told).await;
            let next = pauses.values().min().copied().unwrap_or_else(|| Instant::now() + util::jittered(LOOK));
            tokio::select! {
                () = self.news.notified() => {}
                Ok(()) = all.changed() => {}
                () = tokio::time::sleep_until(next) => {}
                // What failed for want of a node need not wait.
                Ok(()) = registered.changed() => pauses.clear(),
                () = stop.cancelled() => return,
            }
        }
    }

    async fn round(&self, pauses: &mut BTreeMap<FullName, Instant>, all: bool) {
        let now = Instant::now();
        pauses.retain(|_, until| *until > now);
        let known = self.known.lock().clone();
        let mut shown: BTreeSet<FullName> = self.waiting.lock().clone();
        let mut due = Vec::new();
        for handle in self.pods.all() {
            let pod = handle.pod();
            if !is_static(&pod) {
                continue;
            }
            let name = full_name(&pod);
            let mirror = known.get(&name);
            shown.insert(name.clone());
            handle.set_mirror(mirror.filter(|m| shows(m, &pod) && !ends(m)).cloned());
            if handle.is_gone() || pauses.contains_key(&name) || mirror.is_some_and(|m| shows(m, &pod) && !ends(m)) {
                continue;
            }
            due.push((name, pod, mirror));
        }
        // All at once: a call without an answer holds up no other's mirror.
        let mut calls = Vec::new();
        for (_, pod, wrong) in &due {
            calls.push(self.renew(pod, *wrong));
        }
        let done = join_all(calls).await;
        for ((name, pod, _), result) in due.into_iter().zip(done) {
            if let Err(error) = result {
                tracing::error!(pod = %util::describe(&pod), %error, "Failed creating a mirror pod");
                pauses.insert(name, Instant::now() + RETRY);
            }
        }
        for (name, mirror) in known.iter().filter(|(name, _)| all && !shown.contains(*name)) {
            if !pauses.contains_key(name)
                && let Err(error) = self.delete(mirror).await
            {
                tracing::error!(pod = %util::describe(mirror), %error, "Failed deleting a mirror pod");
                pauses.insert(name.clone(), Instant::now() + RETRY);
            }
        }
    }

    async fn delete(&self, mirror: &Pod) -> Result<(), ApiError> {
        match self.cx.api.delete_pod(util::namespace(mirror), util::name(mirror), util::uid(mirror)).await {
            // Another has its name: it is told of.
            Ok(()) | Err(ApiError::NotFound(_) | ApiError::Conflict(_)) => {
                self.forget(mirror);
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    /// Makes the mirror of a static pod, in place of one that does not show it.
    async fn renew(&self, pod: &Arc<Pod>, wrong: Option<&Arc<Pod>>) -> Result<(), ApiError> {
        if let Some(wrong) = wrong {
            self.delete(wrong).await?;
            tracing::info!(pod = %util::describe(wrong), "Deleted mirror pod as it didn't match the static Pod");
        }
        let node = self.cx.node.read().clone();
        // A node that nobody knows, or that is being removed, shows no pods; it is told when it is registered.
        let Some(mirror) = node.and_then(|node| mirror_of(pod, &node)) else { return Ok(()) };
        match self.cx.api.create_pod(&mirror).await {
            // The watch tells of it; whatever it told by now is newer than this answer.
            Ok(_) => Ok(()),
            Err(ApiError::Conflict(why)) => {
                // A former process made it and nobody has told yet, or it is another's.
                let there = self.cx.api.get_pod(util::namespace(pod), util::name(pod)).await?;
                if shows(&there, pod) { Ok(()) } else { Err(ApiError::Conflict(why)) }
            }
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn web() -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": "web-n", "namespace": "default", "uid": "h", "annotations": {HASH: "h"}}, "spec": {"containers": []}}),
        )
        .unwrap()
    }

    #[test]
    fn a_mirror_belongs_to_its_node_and_shows_one_text() {
        let node = |v: serde_json::Value| serde_json::from_value::<Node>(json!({"metadata": v})).unwrap();
        let mirror = mirror_of(&web(), &node(json!({"name": "n", "uid": "node-uid"}))).unwrap();
        assert!(shows(&mirror, &web()) && super::super::is_mirror(&mirror) && mirror.metadata.uid.is_none());
        let owner = serde_json::to_value(&mirror.metadata.owner_references).unwrap();
        assert_eq!(owner, json!([{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "node-uid", "controller": true}]));
        assert!(mirror_of(&web(), &node(json!({"name": "n"}))).is_none(), "a node that is not registered");
        assert!(mirror_of(&web(), &node(json!({"name": "n", "uid": "u", "deletionTimestamp": "2026-01-01T00:00:00Z"}))).is_none());
        let mut other = web();
        other.metadata.annotations.as_mut().unwrap().insert(HASH.into(), "h2".into());
        assert!(!shows(&mirror, &other), "of another text");
    }
}
