//! When a pod must go, and its going.

use std::sync::Arc;

use client::devices::{self, results, tolerates};
use client::{EventType, Meta, ObjectKey, object_reference};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::api::resource::v1::{DeviceRequestAllocationResult, DeviceTaint, DeviceTaintRule, ResourceClaim, ResourceSlice};
use k8s_openapi::jiff::Timestamp;

use super::{BY_POOL, Key, STATUS_PERIOD, Taints, pool};
use crate::meta::{between, plus, secs};
use crate::node::eviction::delete_as_target;
use crate::pods;
use crate::work::Step;

/// That a pod must go.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// When.
    pub at: Timestamp,
    /// The rules that are among the reasons: name and UID.
    pub rules: Vec<(String, String)>,
}

impl Taints {
    /// Looks at a pod.
    pub(super) async fn judge(&self, key: &ObjectKey) -> Step {
        let Some(pod) = self.pods.get_key(key) else { return Ok(None) };
        if pod.is_deleting() {
            self.due.lock().remove(pod.uid());
            return Ok(None);
        }
        let Some(due) = self.due(&pod, None) else {
            if self.due.lock().remove(pod.uid()) {
                self.recorder.event(&about(&pod), EventType::Normal, "DeviceTaintManagerEviction", "Cancelling deletion");
            }
            return Ok(None);
        };
        if self.due.lock().insert(pod.uid().to_owned()) {
            self.tell_later(&due);
        }
        let left = between(client::timestamp(), due.at);
        if !left.is_zero() {
            return Ok(Some(left));
        }
        if self.evict(&pod).await? {
            self.deletions.inc();
            self.latency.took(between(due.at, client::timestamp()));
            let mut evicted = self.evicted.lock();
            due.rules.iter().for_each(|(_, uid)| *evicted.entry(uid.clone()).or_default() += 1);
            drop(evicted);
            self.tell_later(&due);
        }
        Ok(None)
    }

    fn tell_later(&self, due: &Due) {
        due.rules.iter().for_each(|(name, _)| self.queue.add_after(Key::Rule(name.clone()), STATUS_PERIOD));
    }

    /// When a pod must go, if it must. With `only` by that rule alone, and as if it were one that makes pods go.
    pub(super) fn due(&self, pod: &Pod, only: Option<&DeviceTaintRule>) -> Option<Due> {
        if pods::node_name(pod).is_empty() {
            return None;
        }
        let mut due: Option<Due> = None;
        for named in devices::claims_there(pod) {
            let Some(claim) = self.claims.get(pod.namespace(), named.name) else { continue };
            if (named.own && devices::made_for(pod, &claim).is_err()) || !devices::is_reserved_for(&claim, pod.uid()) {
                continue;
            }
            self.add(&claim, only, &mut due);
        }
        due
    }

    /// Adds what the devices of a claim say.
    fn add(&self, claim: &ResourceClaim, only: Option<&DeviceTaintRule>, due: &mut Option<Due>) {
        let evicting = self.rules.list();
        for result in results(claim) {
            let selected = |rule: &DeviceTaintRule| devices::selects(rule, &result.driver, &result.pool, &result.device);
            match only {
                Some(rule) if selected(rule) => {
                    let taint = DeviceTaint { effect: devices::NO_EXECUTE.to_owned(), ..rule.spec.taint.clone() };
                    note(due, ends(result, &taint), Some(rule));
                }
                Some(_) => {}
                None => {
                    for taint in self.own_taints(result) {
                        note(due, ends(result, &taint), None);
                    }
                    for rule in evicting.iter().filter(|rule| rule.spec.taint.effect == devices::NO_EXECUTE && selected(rule)) {
                        note(due, ends(result, &rule.spec.taint), Some(rule));
                    }
                }
            }
        }
    }

    /// A pool's slices, of its newest generation.
    pub(super) fn current(&self, driver: &str, name: &str) -> Vec<Arc<ResourceSlice>> {
        let mut slices = self.slices.by_index(BY_POOL, &pool(driver, name));
        let newest = slices.iter().map(|slice| slice.spec.pool.generation).max();
        slices.retain(|slice| Some(slice.spec.pool.generation) == newest);
        slices
    }

    /// The taints of a device by which pods must go, as the newest generation of its pool has them.
    fn own_taints(&self, result: &DeviceRequestAllocationResult) -> Vec<DeviceTaint> {
        let slices = self.current(&result.driver, &result.pool);
        let device = slices.iter().flat_map(|slice| slice.spec.devices.iter().flatten()).find(|device| device.name == result.device);
        let taints = device.into_iter().flat_map(|device| device.taints.iter().flatten());
        taints.filter(|taint| taint.effect == devices::NO_EXECUTE).cloned().collect()
    }

    /// Deletes a pod; whether it was there and had not been deleted before.
    async fn evict(&self, pod: &Pod) -> client::Result<bool> {
        let api = self.client.namespaced::<Pod>(pod.namespace());
        let live = api.get_opt(pod.name()).await?.filter(|live| live.uid() == pod.uid() && !live.is_deleting());
        let Some(live) = live else { return Ok(false) };
        self.recorder.event(&about(&live), EventType::Normal, "DeviceTaintManagerEviction", "Marking for deletion");
        delete_as_target(&self.client, &live, "DeletionByDeviceTaintManager", "Device Taint manager: deleting due to NoExecute taint").await
    }
}

/// A pod as the original's events name it.
fn about(pod: &Pod) -> ObjectReference {
    ObjectReference { resource_version: None, ..object_reference(pod) }
}

/// When the time of a device's user is over by a taint; none: never.
fn ends(result: &DeviceRequestAllocationResult, taint: &DeviceTaint) -> Option<Timestamp> {
    let added = taint.time_added.as_ref()?.0;
    let tolerations = result.tolerations.iter().flatten();
    let mut borne_s: Option<i64> = None;
    for toleration in tolerations.filter(|t| t.effect.as_deref() == Some(devices::NO_EXECUTE) && tolerates(t, taint)) {
        let seconds = toleration.toleration_seconds?.max(0);
        borne_s = Some(borne_s.map_or(seconds, |least| least.min(seconds)));
    }
    Some(plus(added, secs(borne_s.unwrap_or(0))))
}

/// The earliest end counts, and every reason.
fn note(due: &mut Option<Due>, ends: Option<Timestamp>, rule: Option<&DeviceTaintRule>) {
    let Some(at) = ends else { return };
    let due = due.get_or_insert(Due { at, rules: Vec::new() });
    due.at = due.at.min(at);
    if let Some(rule) = rule
        && !due.rules.iter().any(|(_, uid)| uid == rule.uid())
    {
        due.rules.push((rule.name().to_owned(), rule.uid().to_owned()));
    }
}
