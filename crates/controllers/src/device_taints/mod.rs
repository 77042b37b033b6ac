//! Pods that have a device with a `NoExecute` taint that their claim does not bear, or no longer, are deleted (KEP 5055; upstream
//! `devicetainteviction`). Taints are a slice's own, or those of a DeviceTaintRule, in whose status it is told how far that has come.
//!
//! When a pod must go is worked out of memory each time that it, its claim, a slice of the device's pool or a rule changes; a time in the
//! future is waited for, and it counts from when the taint was added, so a restart forgets nothing. Before a pod is deleted the server is
//! asked whether it is still this one. How many pods a rule has cost is counted since the process started, as the original says.

mod evict;
mod status;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use client::devices::{self, results};
use client::{Client, Delta, Informer, Meta, ObjectKey, Recorder, WorkQueue};
use instruments::{Counter, Family, Histogram, Kind};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{DeviceTaintRule, ResourceClaim, ResourceSlice};
use parking_lot::Mutex;

use crate::node::eviction::LATENCY_S;
use crate::work::{Controller, Cx, Step};

/// Upstream `--concurrent-device-taint-eviction-syncs`.
const WORKERS: usize = 8;
/// A rule's status is not written more often than this (upstream `ruleStatusPeriod`).
const STATUS_PERIOD: Duration = Duration::from_secs(10);
/// The controller's name: in events, and as the owner of fields.
const NAME: &str = "device-taint-eviction-controller";

const DELETIONS: Family = Family::new(
    "device_taint_eviction_controller_pod_deletions_total",
    Kind::Counter,
    "[ALPHA] Total number of Pods deleted by DeviceTaintEvictionController since its start.",
);
const LATENCY: Family = Family::new(
    "device_taint_eviction_controller_pod_deletion_duration_seconds",
    Kind::Histogram,
    "[ALPHA] Latency, in seconds, between the time when a device taint effect has been activated and a Pod's deletion via DeviceTaintEvictionController.",
);

/// The index of claims and slices by the pools of their devices.
const BY_POOL: &str = "devices/pool";

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let client = cx.client(NAME);
    let recorder = cx.recorder(&client, NAME);
    let queue = WorkQueue::default();
    let controller = Arc::new(Taints {
        client,
        recorder,
        queue: queue.clone(),
        pods: cx.informers.informer(),
        claims: cx.informers.informer(),
        slices: cx.informers.informer(),
        rules: cx.informers.informer(),
        due: Mutex::default(),
        evicted: Mutex::default(),
        deletions: cx.metrics().counter(&DELETIONS),
        latency: cx.metrics().histogram(&LATENCY, &LATENCY_S),
    });
    controller.index();
    cx.setup_with(queue, &controller)
        .on(&controller.pods, |c: &Taints, _, change| c.heard_pod(change))
        .on(&controller.claims, |c, _, change| {
            if let Delta::Updated { old, .. } = change {
                c.look_at_users(old);
            }
            c.look_at_users(change.object());
        })
        .on(&controller.slices, |c, _, change| c.heard_slice(change.object()))
        .on(&controller.rules, |c, _, change| c.heard_rule(change))
        .work(WORKERS)
        .await;
}

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Pod(ObjectKey),
    /// A rule, by its name.
    Rule(String),
}

struct Taints {
    client: Client,
    recorder: Recorder,
    queue: WorkQueue<Key>,
    pods: Informer<Pod>,
    claims: Informer<ResourceClaim>,
    slices: Informer<ResourceSlice>,
    rules: Informer<DeviceTaintRule>,
    /// The UIDs of pods that are to go.
    due: Mutex<HashSet<String>>,
    /// How many pods a rule has cost, by its UID.
    evicted: Mutex<HashMap<String, u64>>,
    deletions: Arc<Counter>,
    latency: Arc<Histogram>,
}

impl Controller for Taints {
    const QUEUE: &'static str = "device-taint-eviction-controller";
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Step {
        match key {
            Key::Pod(key) => self.judge(key).await,
            Key::Rule(name) => self.tell(name).await,
        }
    }
}

/// The name of a pool in [`BY_POOL`]: a driver's name has no slash.
fn pool(driver: &str, pool: &str) -> String {
    format!("{driver}/{pool}")
}

impl Taints {
    fn index(&self) {
        self.claims.add_index(BY_POOL, |claim| {
            let pools: HashSet<String> = results(claim).map(|result| pool(&result.driver, &result.pool)).collect();
            pools.into_iter().collect()
        });
        self.slices.add_index(BY_POOL, |slice| vec![pool(&slice.spec.driver, &slice.spec.pool.name)]);
    }

    fn heard_pod(&self, change: &Delta<Pod>) {
        let pod = change.object();
        if matches!(change, Delta::Deleted(_)) {
            self.due.lock().remove(pod.uid());
        } else if devices::claims_there(pod).next().is_some() {
            self.queue.add(Key::Pod(pod.key()));
        }
    }

    /// Looks at the pods that have a claim.
    fn look_at_users(&self, claim: &ResourceClaim) {
        let reserved = claim.status.iter().flat_map(|s| s.reserved_for.iter().flatten());
        let pods = reserved.filter(|user| user.resource == "pods" && user.api_group.as_deref().unwrap_or_default().is_empty());
        pods.for_each(|user| self.queue.add(Key::Pod(ObjectKey::new(claim.namespace(), &user.name))));
    }

    fn heard_slice(&self, slice: &ResourceSlice) {
        let users = self.claims.by_index(BY_POOL, &pool(&slice.spec.driver, &slice.spec.pool.name));
        users.iter().for_each(|claim| self.look_at_users(claim));
    }

    fn heard_rule(&self, change: &Delta<DeviceTaintRule>) {
        let (before, now) = match change {
            Delta::Added(new) => (None, Some(new)),
            Delta::Updated { old, new } if old.uid() == new.uid() && old.spec == new.spec => return,
            Delta::Updated { old, new } => (Some(old), Some(new)),
            Delta::Deleted(old) => (Some(old), None),
        };
        if let Some(old) = before.filter(|old| now.is_none_or(|new| new.uid() != old.uid())) {
            self.evicted.lock().remove(old.uid());
        }
        if let Some(rule) = now {
            self.queue.add(Key::Rule(rule.name().to_owned()));
        }
        let rules: Vec<_> = before.into_iter().chain(now).filter(|rule| rule.spec.taint.effect == devices::NO_EXECUTE).collect();
        if rules.is_empty() {
            return;
        }
        for claim in self.claims.list() {
            if results(&claim).any(|result| rules.iter().any(|rule| devices::selects(rule, &result.driver, &result.pool, &result.device))) {
                self.look_at_users(&claim);
            }
        }
    }
}
