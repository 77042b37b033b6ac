//! What a rule's status says of how far it has come.

use std::collections::HashSet;

use client::devices::{NO_EXECUTE, results, selects};
use client::{Meta, Patch, PatchParams};
use k8s_openapi::api::resource::v1::{DeviceTaintRule, ResourceSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::json;

use super::{NAME, STATUS_PERIOD, Taints};
use crate::meta::between;
use crate::work::Step;

/// The condition's type.
const IN_PROGRESS: &str = "EvictionInProgress";

impl Taints {
    /// Writes what is to be told of a rule, not more often than [`STATUS_PERIOD`].
    pub(super) async fn tell(&self, name: &str) -> Step {
        let Some(rule) = self.rules.get("", name) else { return Ok(None) };
        let known = rule.status.iter().flat_map(|s| s.conditions.iter().flatten()).find(|condition| condition.type_ == IN_PROGRESS);
        if let Some(known) = known.filter(|known| known.observed_generation == rule.metadata.generation) {
            let since = between(known.last_transition_time.0, client::timestamp());
            if since < STATUS_PERIOD {
                return Ok(Some(STATUS_PERIOD - since));
            }
        }
        let (status, reason, message) = self.progress(&rule);
        let same = |known: &Condition| {
            known.observed_generation == rule.metadata.generation && known.status == status && known.reason == reason && known.message == message
        };
        if known.is_some_and(same) {
            return Ok(None);
        }
        let applied = json!({
            "apiVersion": "resource.k8s.io/v1",
            "kind": "DeviceTaintRule",
            "metadata": {"name": name, "uid": rule.uid()},
            "status": {"conditions": [{
                "type": IN_PROGRESS, "status": status, "reason": reason, "message": message,
                "observedGeneration": rule.metadata.generation, "lastTransitionTime": client::now(),
            }]},
        });
        let params = PatchParams { field_manager: NAME.to_owned(), force: true, ..PatchParams::default() };
        match self.client.all::<DeviceTaintRule>().patch_status(name, &Patch::Apply(applied), &params).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(None),
        }
    }

    /// The condition's status, reason and message.
    pub(super) fn progress(&self, rule: &DeviceTaintRule) -> (&'static str, &'static str, String) {
        let evicted = self.evicted.lock().get(rule.uid()).copied().unwrap_or(0);
        let (status, reason, mut message) = match rule.spec.taint.effect.as_str() {
            NO_EXECUTE => match self.pending(rule) {
                (0, _) if evicted > 0 => ("False", "Completed", String::new()),
                (0, _) => ("False", "NotStarted", String::new()),
                (pods, namespaces) => {
                    let pods = counted(pods, "1 pod needs", "pods need");
                    ("True", "PodsPendingEviction", format!("{pods} to be evicted in {}.", counted(namespaces, "1 namespace", "different namespaces")))
                }
            },
            "None" => ("False", "NoEffect", self.foretold(rule)),
            _ => ("False", "OtherEffect", "Eviction only happens for the NoExecute effect.".to_owned()),
        };
        if evicted > 0 {
            let space = if message.is_empty() { "" } else { " " };
            message.push_str(&format!("{space}{} evicted since starting the controller.", counted(evicted, "1 pod", "pods")));
        }
        (status, reason, message)
    }

    /// What a rule without an effect would do.
    fn foretold(&self, rule: &DeviceTaintRule) -> String {
        let slices = self.slices.list();
        let pools: HashSet<(&str, &str)> = slices.iter().map(|slice| (slice.spec.driver.as_str(), slice.spec.pool.name.as_str())).collect();
        let selected = |slice: &ResourceSlice, device: &str| selects(rule, &slice.spec.driver, &slice.spec.pool.name, device);
        let of_slice = |slice: &ResourceSlice| slice.spec.devices.iter().flatten().filter(|device| selected(slice, &device.name)).count();
        let of_pool = |(driver, name)| self.current(driver, name).iter().map(|slice| of_slice(slice)).sum::<usize>();
        let published: usize = pools.into_iter().map(of_pool).sum();
        let claims = self.claims.list();
        let allocated = claims.iter().flat_map(|claim| results(claim)).filter(|one| selects(rule, &one.driver, &one.pool, &one.device)).count();
        let (pods, namespaces) = self.pending(rule);
        format!(
            "{} selected. {} selected. {} would be evicted in {} if the effect was NoExecute. This information will not be updated again. \
             Recreate the DeviceTaintRule to trigger an update.",
            counted(published as u64, "1 published device", "published devices"),
            counted(allocated as u64, "1 allocated device", "allocated devices"),
            counted(pods, "1 pod", "pods"),
            counted(namespaces, "1 namespace", "different namespaces"),
        )
    }

    /// The pods that must go by a rule, if it is one that makes pods go, and their namespaces.
    fn pending(&self, rule: &DeviceTaintRule) -> (u64, u64) {
        let (mut pods, mut namespaces) = (0, HashSet::new());
        for pod in self.pods.list().iter().filter(|pod| !pod.is_deleting()) {
            if self.due(pod, Some(rule)).is_some() {
                pods += 1;
                namespaces.insert(pod.namespace().to_owned());
            }
        }
        (pods, namespaces.len() as u64)
    }
}

fn counted(count: u64, one: &str, more: &str) -> String {
    if count == 1 { one.to_owned() } else { format!("{count} {more}") }
}
