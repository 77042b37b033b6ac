//! Whether an aggregated server is there: its Service, a port of it, endpoints that are ready, and an answer to five questions that
//! are asked at once, one good one being enough (upstream's `RemoteAvailabilityController`).
//!
//! A check reads the world and says one condition. It is made again at each change of the Service and its EndpointSlices, every
//! thirty seconds, and after a failure sooner ([`Pause`]); who writes the condition looks first whether the object is still the
//! one that was checked.

use super::{ask, connect::Place, headers, remote::Remote};
use crate::{
    own::{self, Owns},
    read::text,
    world::World,
};
use futures_util::stream::{FuturesUnordered, StreamExt};
use machinery::{Value, status::Status, time};
use serde_json::json;
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

const SERVICES: (&str, &str, &str) = ("", "v1", "services");
const SLICES: (&str, &str, &str) = ("discovery.k8s.io", "v1", "endpointslices");
pub(super) const API_SERVICES: (&str, &str, &str) = ("apiregistration.k8s.io", "v1", "apiservices");
/// The label by which a slice names its Service.
pub(super) const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// How many questions are asked at once.
const TRIES: usize = 5;
/// How long each may take.
const TRY_MAX: Duration = Duration::from_secs(5);
/// How often all is looked at though nothing has changed: what is between us and the server tells nobody.
pub(super) const EVERY: Duration = Duration::from_secs(30);

/// Why and in which words; `True` is said of nothing but an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl Found {
    fn not(reason: &'static str, message: String) -> Found {
        Found { status: "False", reason, message }
    }

    pub(super) fn local() -> Found {
        Found { status: "True", reason: "Local", message: "Local APIServices are always available".into() }
    }

    /// Whether the server was available before, and is not any more.
    fn ends(&self, before: &Value) -> bool {
        let mut conditions = before["status"]["conditions"].as_array().into_iter().flatten();
        self.status != "True" && conditions.any(|condition| condition["type"] == "Available" && condition["status"] == "True")
    }

    /// Whether it is looked at again before long: only what the network says may change without news.
    pub(super) fn is_failure(&self) -> bool {
        self.reason == "FailedDiscoveryCheck"
    }
}

/// Looks at everything.
pub(super) async fn check(world: &World, remote: &Arc<Remote>) -> Found {
    if let Some(found) = objects(world, remote) {
        return found;
    }
    let mut tries: FuturesUnordered<_> = (0..TRIES).map(|_| attempt(world, remote)).collect();
    let mut last = String::new();
    while let Some(tried) = tries.next().await {
        match tried {
            Ok(()) => return Found { status: "True", reason: "Passed", message: "all checks passed".into() },
            Err(why) => last = why,
        }
    }
    Found::not("FailedDiscoveryCheck", last)
}

/// What the objects say; none if they say nothing against it.
fn objects(world: &World, remote: &Remote) -> Option<Found> {
    let backend = &remote.backend;
    let (namespace, name, port) = (&backend.namespace, &backend.service, backend.port);
    let Some(service) = world.get(SERVICES, namespace, name) else {
        return Some(Found::not("ServiceNotFound", format!("service/{name} in {namespace:?} is not present")));
    };
    if service["spec"]["type"] != "ClusterIP" {
        return None;
    }
    let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let Some(found) = ports.find(|known| known["port"].as_u64() == Some(u64::from(port))) else {
        return Some(Found::not("ServicePortError", format!("service/{name} in {namespace:?} is not listening on port {port}")));
    };
    let port_name = text(found, "name");
    let slices: Vec<Arc<Value>> =
        world.list(SLICES, namespace).into_iter().filter(|slice| slice["metadata"]["labels"][SERVICE_LABEL] == name.as_str()).collect();
    if slices.is_empty() {
        return Some(Found::not("EndpointsNotFound", format!("cannot find endpointslices for service/{name} in {namespace:?}")));
    }
    if !slices.iter().any(|slice| serves(slice, port_name)) {
        let message = format!("endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}");
        return Some(Found::not("MissingEndpoints", message));
    }
    None
}

fn serves(slice: &Value, port_name: &str) -> bool {
    let list = |field: &str| slice[field].as_array().into_iter().flatten();
    list("endpoints").any(|endpoint| endpoint["conditions"]["ready"].as_bool().unwrap_or(true))
        && list("ports").any(|port| port["name"].as_str() == Some(port_name) && port["port"].is_u64())
}

/// One question.
async fn attempt(world: &World, remote: &Arc<Remote>) -> Result<(), String> {
    let place: Place = remote.backend.place(world)?;
    let url = format!("https://{}{}", headers::joined(&place), remote.root());
    let question = ask::Question { path: &remote.root(), user: "system:kube-aggregator", groups: &["system:masters"], accept: "", known: None };
    let told = |why: String| format!("failing or missing response from {url}: {why}");
    let asked = tokio::time::timeout(TRY_MAX, ask::head(remote, &place, question)).await;
    let late = |_| Err("context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned());
    let response = asked.unwrap_or_else(late).map_err(|why| told(format!("Get {url:?}: {why}")))?;
    match response.status().as_u16() {
        200..300 => Ok(()),
        code => Err(told(format!("bad status from {url}: {code}"))),
    }
}

/// The condition that an object has, if it has it already.
fn is_said(object: &Value, found: &Found) -> bool {
    let said = object["status"]["conditions"].as_array().into_iter().flatten().find(|condition| condition["type"] == "Available");
    said.is_some_and(|said| said["status"] == found.status && said["reason"] == found.reason && said["message"] == found.message.as_str())
}

/// Says it of the object of this name and uid, if it is still there and was not said before. It passes no admission ([`own`]): a
/// webhook that hangs must not hold up what is said of all others.
///
/// # Errors
/// It could not be written.
pub(super) async fn say(world: &World, name: &str, uid: &str, found: &Found) -> Result<(), Status> {
    let (row, now) = (world.expect_row(API_SERVICES)?, SystemTime::now());
    let said = own::amend(world.store(), &row, ("", name), Owns::By("status"), now, |present| {
        if present["metadata"]["uid"] != uid || is_said(present, found) {
            return Ok(None);
        }
        let mut next = present.clone();
        set(&mut next, found, &time::rfc3339(now));
        Ok(Some(next))
    });
    match said.await {
        Ok((old, new)) => {
            if !Arc::ptr_eq(&old, &new) && found.ends(&old.value()) {
                world.metrics().unavailable(name, found.reason);
            }
            Ok(())
        }
        Err(error) if error.code != 404 => Err(error),
        Err(_) => Ok(()),
    }
}

/// Sets the condition in its place; its time is that of the last change of its status.
fn set(object: &mut Value, found: &Found, now: &str) {
    if !object["status"]["conditions"].is_array() {
        object["status"]["conditions"] = json!([]);
    }
    let Some(conditions) = object["status"]["conditions"].as_array_mut() else { return };
    let place = conditions.iter().position(|condition| condition["type"] == "Available");
    let place = place.unwrap_or_else(|| {
        conditions.push(json!({"type": "Available"}));
        conditions.len() - 1
    });
    let condition = &mut conditions[place];
    if condition["status"] != found.status {
        condition["lastTransitionTime"] = now.into();
    }
    condition["status"] = found.status.into();
    condition["reason"] = found.reason.into();
    condition["message"] = found.message.as_str().into();
}

/// How long to wait after a failure: longer each time, no longer than between two looks.
#[derive(Debug, Default)]
pub(super) struct Pause(u32);

impl Pause {
    const FIRST: Duration = Duration::from_millis(5);

    pub(super) fn next(&mut self) -> Duration {
        let pause = Self::FIRST.saturating_mul(1 << self.0.min(16)).min(EVERY);
        self.0 += 1;
        pause
    }

    pub(super) fn forget(&mut self) {
        self.0 = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_available_ends_once() {
        let (gone, local) = (Found::not("EndpointsNotFound", String::new()), Found::local());
        let before = |status: &str| json!({"status": {"conditions": [{"type": "Other", "status": "True"}, {"type": "Available", "status": status}]}});
        assert!(gone.ends(&before("True")));
        assert!(!gone.ends(&before("False")) && !gone.ends(&json!({})), "it was not available");
        assert!(!local.ends(&before("True")), "it still is");
    }
}
