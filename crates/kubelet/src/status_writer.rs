//! Statuses on their way to the API: one writer a pod, in order, the newest only.
//!
//! While one patch is under way newer statuses replace each other, so a slow API server gets few writes and never an old one
//! after a new one. What only tells that a pod is coming up waits a moment for what follows: a pod that is ready at once costs
//! one write. A patch carries only what changed since the last answer, and the pod's UID, so that it cannot hit a later
//! pod of the same name. Conditions are merged by type, and fields of other writers are left alone. Where somebody else changed
//! what the kubelet alone may say, any of it, it is said again: at once, and from then on no sooner than after ten seconds
//! (upstream's reconciliation), so that two who do not agree cost nobody anything.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::api::{ApiError, SharedApi};
use crate::pod::status::OWN;

/// First and longest wait before a failed write is tried again.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// How long a status of a pod that is coming up waits for the next.
const COMING_UP: Duration = Duration::from_millis(100);
/// How soon what others overwrite is said once more.
const SAY_AGAIN: Duration = Duration::from_secs(10);
/// The fields that the kubelet says; the others are another's.
const FIELDS: [&str; 16] = [
    "phase",
    "message",
    "reason",
    "startTime",
    "hostIP",
    "hostIPs",
    "podIP",
    "podIPs",
    "qosClass",
    "initContainerStatuses",
    "containerStatuses",
    "ephemeralContainerStatuses",
    "observedGeneration",
    "allocatedResources",
    "resources",
    "conditions",
];
/// Lists whose elements strategic merge would merge by key, though they are to be replaced.
const MERGED_LISTS: [&str; 2] = ["podIPs", "hostIPs"];
/// Those of them that go again.
const PASSING: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];
/// Those of them that others set too: theirs stand.
const SHARED: [&str; 2] = ["PodScheduled", "DisruptionTarget"];

#[derive(Default)]
struct Wanted {
    version: u64,
    status: Option<PodStatus>,
    /// Somebody waits for it.
    flushing: bool,
    observed: Option<Arc<Pod>>,
    closed: bool,
}

struct Shared {
    wanted: Mutex<Wanted>,
    changed: Notify,
}

/// Ends the writer's task with the last handle.
struct Guard(Arc<Shared>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.wanted.lock().closed = true;
        self.0.changed.notify_one();
    }
}

/// The writer of one pod's status.
#[derive(Clone)]
pub struct StatusWriter {
    guard: Arc<Guard>,
    written: watch::Receiver<u64>,
}

impl StatusWriter {
    /// Starts the writer's task; it ends with the last handle.
    #[must_use]
    pub fn spawn(api: SharedApi, pod: &Arc<Pod>) -> Self {
        let shared = Arc::new(Shared { wanted: Mutex::default(), changed: Notify::new() });
        let (done, written) = watch::channel(0);
        let status = pod.status.clone().unwrap_or_default();
        let task = Task {
            api,
            meta: pod.metadata.clone(),
            shared: Arc::clone(&shared),
            facet: facet(&status),
            last: status,
            revision: revision(pod),
            overwritten: false,
            said_again: None,
            pause: RETRY_MIN,
            done,
        };
        tokio::spawn(task.run());
        Self { guard: Arc::new(Guard(shared)), written }
    }

    /// A writer of a pod that the API does not know: it writes nothing.
    #[must_use]
    pub fn idle() -> Self {
        let shared = Arc::new(Shared { wanted: Mutex::default(), changed: Notify::new() });
        // All of it is written.
        let (_, written) = watch::channel(u64::MAX);
        Self { guard: Arc::new(Guard(shared)), written }
    }

    /// Wants this status in the API.
    pub fn publish(&self, status: PodStatus) {
        let mut wanted = self.guard.0.wanted.lock();
        if wanted.status.as_ref() == Some(&status) {
            return;
        }
        wanted.version += 1;
        wanted.status = Some(status);
        drop(wanted);
        self.guard.0.changed.notify_one();
    }

    /// The API has the pod like this.
    pub fn observe(&self, pod: &Arc<Pod>) {
        let mut wanted = self.guard.0.wanted.lock();
        if wanted.observed.as_ref().is_some_and(|o| Arc::ptr_eq(o, pod)) {
            return;
        }
        wanted.observed = Some(Arc::clone(pod));
        drop(wanted);
        self.guard.0.changed.notify_one();
    }

    /// Waits until the API has what was published last, or will never have it.
    pub async fn flush(&self) {
        let version = {
            let mut wanted = self.guard.0.wanted.lock();
            wanted.flushing = true;
            wanted.version
        };
        self.guard.0.changed.notify_one();
        let mut written = self.written.clone();
        let _ = written.wait_for(|w| *w >= version).await;
    }
}

fn revision(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|r| r.parse().ok()).unwrap_or(0)
}

/// What nobody but the kubelet says of a pod.
fn facet(s: &PodStatus) -> Map<String, Value> {
    let Ok(Value::Object(mut all)) = serde_json::to_value(s) else { return Map::new() };
    all.retain(|key, _| FIELDS.contains(&key.as_str()));
    if let Some(Value::Array(list)) = all.get_mut("conditions") {
        let type_ = |c: &Value| c.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        list.retain(|c| OWN.contains(&type_(c).as_str()) && !SHARED.contains(&type_(c).as_str()));
        list.sort_by_key(type_);
    }
    all
}

fn ready(s: &PodStatus) -> bool {
    s.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Whether a status only tells that a pod is on its way, after one that told no more.
fn coming_up(old: &PodStatus, new: &PodStatus) -> bool {
    let early = |s: &PodStatus| !ready(s) && matches!(s.phase.as_deref(), None | Some("Pending" | "Running"));
    let on_its_way = |c: &ContainerStatus| {
        c.restart_count == 0
            && c.state.as_ref().is_none_or(|s| match (&s.waiting, &s.terminated) {
                (Some(w), _) => matches!(w.reason.as_deref(), Some("ContainerCreating" | "PodInitializing")),
                (None, Some(t)) => t.exit_code == 0,
                (None, None) => true,
            })
    };
    let containers = new.init_container_statuses.iter().chain(&new.container_statuses).chain(&new.ephemeral_container_statuses);
    early(old) && early(new) && containers.flatten().all(on_its_way)
}

struct Task {
    api: SharedApi,
    meta: ObjectMeta,
    shared: Arc<Shared>,
    /// What the API has, as far as this writer wrote it.
    last: PodStatus,
    /// The part of it that others may not change, and the revision at which it stood.
    facet: Map<String, Value>,
    revision: u64,
    /// Somebody changed it since; and when it was said again last.
    overwritten: bool,
    said_again: Option<Instant>,
    /// After a write that failed, whatever is to be written next.
    pause: Duration,
    done: watch::Sender<u64>,
}

/// What to do next.
enum Next {
    Write(u64, Box<PodStatus>, Value),
    Wait(Option<Instant>),
    End,
}

impl Task {
    async fn run(mut self) {
        let mut due = None;
        loop {
            let (version, status, change) = match self.next(&mut due) {
                Next::Write(version, status, change) => (version, status, change),
                Next::End => return,
                Next::Wait(until) => {
                    let timer = async {
                        match until {
                            Some(at) => tokio::time::sleep_until(at).await,
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        () = self.shared.changed.notified() => {}
                        () = timer => {}
                    }
                    continue;
                }
            };
            due = None;
            if !self.write(version, *status, change).await {
                // The pod is gone, or another has its name: there is nobody to tell.
                let _ = self.done.send(u64::MAX);
                return;
            }
        }
    }

    fn next(&mut self, due: &mut Option<Instant>) -> Next {
        let (version, status, hurry, observed, closed) = {
            let mut w = self.shared.wanted.lock();
            let hurry = std::mem::take(&mut w.flushing) || w.closed;
            (w.version, w.status.clone(), hurry, w.observed.clone(), w.closed)
        };
        if let Some(pod) = observed.filter(|p| revision(p) > self.revision) {
            let status = pod.status.clone().unwrap_or_default();
            let now = facet(&status);
            if now != self.facet {
                self.last = status;
                self.overwritten = true;
            }
            (self.facet, self.revision) = (now, revision(&pod));
        }
        let change = status.as_ref().and_then(|s| difference(&self.last, s));
        let (Some(status), Some(change)) = (status, change) else {
            self.overwritten = false;
            self.done.send_replace(version);
            return if closed { Next::End } else { Next::Wait(None) };
        };
        if !hurry && coming_up(&self.last, &status) {
            let at = *due.get_or_insert_with(|| Instant::now() + COMING_UP);
            if at > Instant::now() {
                return Next::Wait(Some(at));
            }
        }
        // Nothing of our own is new: it is only said again.
        if self.overwritten && !hurry && *self.done.borrow() >= version {
            let at = self.said_again.map_or_else(Instant::now, |last| last + SAY_AGAIN);
            if at > Instant::now() {
                return Next::Wait(Some(at));
            }
            self.said_again = Some(Instant::now());
        }
        self.overwritten = false;
        Next::Write(version, Box::new(status), change)
    }

    /// One write, or one try; false if the pod is gone.
    async fn write(&mut self, version: u64, status: PodStatus, change: Value) -> bool {
        let part = |p: &Option<String>| p.clone().unwrap_or_default();
        let (ns, name, uid) = (part(&self.meta.namespace), part(&self.meta.name), part(&self.meta.uid));
        let patch = json!({"metadata": {"uid": uid}, "status": change});
        loop {
            match self.api.patch_pod_status(&ns, &name, patch.clone()).await {
                Ok(answer) => {
                    self.revision = self.revision.max(revision(&answer));
                    self.facet = facet(answer.status.as_ref().unwrap_or(&status));
                    self.last = status;
                    self.pause = RETRY_MIN;
                    self.done.send_replace(version);
                    return true;
                }
                Err(ApiError::NotFound(_)) => return false,
                Err(ApiError::Conflict(_)) if self.replaced(&ns, &name, &uid).await => return false,
                Err(e) => {
                    tracing::debug!(pod = %format!("{ns}/{name}"), error = %e, "status not written; will be tried again");
                    tokio::time::sleep(self.pause).await;
                    self.pause = (self.pause * 2).min(RETRY_MAX);
                    // What is wanted by then may be another: the caller looks again.
                    if self.shared.wanted.lock().version != version {
                        return true;
                    }
                }
            }
        }
    }

    async fn replaced(&self, ns: &str, name: &str, uid: &str) -> bool {
        match self.api.get_pod(ns, name).await {
            Ok(p) => p.metadata.uid.as_deref() != Some(uid),
            Err(e) => e.is_not_found(),
        }
    }
}

/// The strategic merge patch from one status to another; none if they are the same.
#[must_use]
pub fn difference(old: &PodStatus, new: &PodStatus) -> Option<Value> {
    let (Ok(Value::Object(old)), Ok(Value::Object(new))) = (serde_json::to_value(old), serde_json::to_value(new)) else { return None };
    let mut out = Map::new();
    for (key, value) in new.iter().filter(|(key, _)| FIELDS.contains(&key.as_str())) {
        let before = old.get(key);
        if before == Some(value) {
            continue;
        }
        let change = match (key.as_str(), value) {
            ("conditions", Value::Array(list)) => match conditions(before, list) {
                Some(c) => c,
                None => continue,
            },
            (k, Value::Array(list)) if MERGED_LISTS.contains(&k) && before.is_some() => {
                let mut list = list.clone();
                list.push(json!({"$patch": "replace"}));
                Value::Array(list)
            }
            _ => merged(before, value),
        };
        out.insert(key.clone(), change);
    }
    for key in old.keys().filter(|k| !new.contains_key(*k) && FIELDS.contains(&k.as_str())) {
        out.insert(key.clone(), Value::Null);
    }
    (!out.is_empty()).then_some(Value::Object(out))
}

/// A value in the place of another: what went away in it is named as null, since maps are merged.
fn merged(before: Option<&Value>, now: &Value) -> Value {
    let (Some(Value::Object(before)), Value::Object(now)) = (before, now) else { return now.clone() };
    let mut out: Map<String, Value> = now.iter().map(|(key, value)| (key.clone(), merged(before.get(key), value))).collect();
    for key in before.keys() {
        out.entry(key.clone()).or_insert(Value::Null);
    }
    Value::Object(out)
}

/// The kubelet's own conditions that changed; fields that went away are named as null.
fn conditions(before: Option<&Value>, now: &[Value]) -> Option<Value> {
    let find = |t: &Value| before.and_then(Value::as_array).into_iter().flatten().find(|c| c.get("type") == Some(t));
    let mut out = Vec::new();
    for c in now {
        let Some(type_) = c.get("type").filter(|t| t.as_str().is_some_and(|t| OWN.contains(&t))) else { continue };
        let old = find(type_);
        if old == Some(c) {
            continue;
        }
        // The scheduler writes that a pod is scheduled; it is added only where nobody did, and else the generation that is seen.
        if let (true, Some(old)) = (type_ == "PodScheduled", old) {
            if let Some(seen) = c.get("observedGeneration").filter(|seen| old.get("observedGeneration") != Some(seen)) {
                out.push(json!({"type": type_, "observedGeneration": seen}));
            }
            continue;
        }
        let mut c = c.clone();
        if let (Some(Value::Object(old)), Value::Object(new)) = (old, &mut c) {
            for key in old.keys() {
                new.entry(key.clone()).or_insert(Value::Null);
            }
        }
        out.push(c);
    }
    for c in before.and_then(Value::as_array).into_iter().flatten() {
        let Some(type_) = c.get("type").filter(|t| t.as_str().is_some_and(|t| PASSING.contains(&t))) else { continue };
        if !now.iter().any(|n| n.get("type") == Some(type_)) {
            out.push(json!({"$patch": "delete", "type": type_}));
        }
    }
    (!out.is_empty()).then_some(Value::Array(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeApi;

    fn status(v: Value) -> PodStatus {
        serde_json::from_value(v).unwrap()
    }

    #[test]
    fn what_went_away_in_a_map_is_null() {
        let old = status(json!({"allocatedResources": {"cpu": "1", "memory": "1Gi"}, "resources": {"requests": {"cpu": "1"}, "limits": {"x/y": "1"}}}));
        let new = status(json!({"allocatedResources": {"cpu": "2"}, "resources": {"requests": {"cpu": "2"}}}));
        let change = difference(&old, &new).unwrap();
        assert_eq!(change, json!({"allocatedResources": {"cpu": "2", "memory": null}, "resources": {"requests": {"cpu": "2"}, "limits": null}}));
    }

    #[test]
    fn only_what_changed_is_written_and_what_went_away_is_null() {
        let old = status(json!({"phase": "Pending", "message": "m", "podIPs": [{"ip": "10.0.0.1"}], "conditions": [
            {"type": "Ready", "status": "False", "reason": "ContainersNotReady"},
            {"type": "Other", "status": "True"}]}));
        let new = status(json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.2"}], "conditions": [{"type": "Ready", "status": "True"}]}));
        let d = difference(&old, &new).unwrap();
        assert_eq!(d["phase"], "Running");
        assert_eq!(d["message"], Value::Null);
        assert_eq!(d["podIPs"], json!([{"ip": "10.0.0.2"}, {"$patch": "replace"}]));
        assert_eq!(d["conditions"], json!([{"type": "Ready", "status": "True", "reason": null}]));
        assert_eq!(difference(&new, &new), None);
        let scheduled = |generation: Value, time: &str| {
            status(json!({"conditions": [{"type": "PodScheduled", "status": "True", "reason": time, "observedGeneration": generation}]}))
        };
        let seen = difference(&scheduled(Value::Null, "theirs"), &scheduled(2.into(), "ours")).unwrap();
        assert_eq!(seen["conditions"], json!([{"type": "PodScheduled", "observedGeneration": 2}]), "the rest is the scheduler's");
        assert_eq!(difference(&scheduled(2.into(), "theirs"), &scheduled(2.into(), "ours")), None);
        let pending = status(json!({"conditions": [{"type": "PodResizePending", "status": "True"}]}));
        assert_eq!(difference(&pending, &status(json!({"conditions": []}))).unwrap()["conditions"], json!([{"$patch": "delete", "type": "PodResizePending"}]));
    }

    fn pod(revision: &str, ready: &str) -> Arc<Pod> {
        let v = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "resourceVersion": revision},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}});
        Arc::new(serde_json::from_value(v).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_is_ready_at_once_costs_one_write() {
        let api = Arc::new(FakeApi::default());
        let new: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "status": {"phase": "Pending"}})).unwrap();
        api.put_pod(&new);
        let writer = StatusWriter::spawn(api.clone(), &Arc::new(new));
        let not = json!([{"type": "Ready", "status": "False"}]);
        writer.publish(status(json!({"phase": "Pending", "qosClass": "BestEffort", "conditions": not})));
        tokio::time::sleep(Duration::from_millis(20)).await;
        writer.publish(status(json!({"phase": "Running", "podIP": "10.0.0.1", "conditions": not})));
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(api.patches().len(), 0);
        writer.publish(status(json!({"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]})));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(api.patches().len(), 1);
        assert_eq!(api.pod("n", "p").unwrap().status.unwrap().pod_ip.as_deref(), Some("10.0.0.1"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_takes_its_time_is_told_after_a_moment() {
        let api = Arc::new(FakeApi::default());
        let new: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "status": {"phase": "Pending"}})).unwrap();
        api.put_pod(&new);
        let writer = StatusWriter::spawn(api.clone(), &Arc::new(new));
        writer.publish(status(json!({"phase": "Pending", "qosClass": "BestEffort"})));
        tokio::time::sleep(COMING_UP + Duration::from_millis(1)).await;
        assert_eq!(api.patches().len(), 1);
        writer.publish(status(json!({"phase": "Pending", "qosClass": "BestEffort", "containerStatuses": [
            {"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": {"reason": "ErrImagePull"}}}]})));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(api.patches().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_that_is_away_is_asked_less_and_less_also_for_a_pod_that_changes_or_is_done_with() {
        for closed in [false, true] {
            let api = Arc::new(FakeApi::default());
            let known = pod("5", "True");
            api.put_pod(&known);
            *api.away.lock() = true;
            let writer = StatusWriter::spawn(api.clone(), &known);
            let told = |n: u64| status(json!({"phase": "Running", "message": n.to_string()}));
            writer.publish(told(0));
            let writer = (!closed).then_some(writer);
            for n in 1..600 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                writer.iter().for_each(|w| w.publish(told(n)));
            }
            let asked = api.asked();
            assert!((8..=16).contains(&asked), "closed: {closed}: {asked} times in a minute");
            *api.away.lock() = false;
            tokio::time::sleep(RETRY_MAX + Duration::from_secs(1)).await;
            let message = api.pod("n", "p").unwrap().status.unwrap().message;
            assert_eq!(message.as_deref(), Some(if closed { "0" } else { "599" }), "what was wanted is told in the end");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_overwrite_is_said_again() {
        let api = Arc::new(FakeApi::default());
        let known = pod("5", "True");
        api.put_pod(&known);
        let writer = StatusWriter::spawn(api.clone(), &known);
        writer.publish(known.status.clone().unwrap());
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(api.patches().len(), 0);
        writer.observe(&pod("9", "False"));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(api.patches().len(), 1);
        assert_eq!(api.patches()[0]["status"]["conditions"][0]["status"], "True");
        // The same news, or older, changes nothing more.
        writer.observe(&pod("7", "False"));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(api.patches().len(), 1);
        // Who says otherwise all the time is answered every ten seconds.
        for i in 0..350_u64 {
            writer.observe(&pod(&(2000 + i).to_string(), "False"));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!((4..=5).contains(&api.patches().len()), "{}", api.patches().len());
    }

    #[tokio::test(start_paused = true)]
    async fn all_that_the_kubelet_says_is_looked_after_and_nothing_of_others() {
        let api = Arc::new(FakeApi::default());
        let own = json!({"phase": "Running", "qosClass": "BestEffort", "containerStatuses": [
            {"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0}]});
        let with = |revision: &str, status: Value| -> Arc<Pod> {
            Arc::new(
                serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "resourceVersion": revision}, "status": status}))
                    .unwrap(),
            )
        };
        let known = with("5", own.clone());
        api.put_pod(&known);
        let writer = StatusWriter::spawn(api.clone(), &known);
        writer.publish(status(own));
        // Another's fields and conditions are another's.
        let claims = json!([{"name": "gpu", "resourceClaimName": "gpu-x"}]);
        let theirs = json!({"phase": "Running", "qosClass": "BestEffort", "resourceClaimStatuses": claims, "nominatedNodeName": "x",
            "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0}]});
        writer.observe(&with("6", theirs));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(api.patches().len(), 0);
        // The containers' statuses are not.
        writer.observe(&with("7", json!({"phase": "Running", "qosClass": "BestEffort", "resourceClaimStatuses": claims})));
        tokio::time::sleep(COMING_UP + Duration::from_millis(1)).await;
        let patches = api.patches();
        assert_eq!(patches.len(), 1, "{patches:?}");
        assert_eq!(patches[0]["status"]["containerStatuses"][0]["name"], "c");
        assert!(patches[0]["status"].get("resourceClaimStatuses").is_none());
    }
}
