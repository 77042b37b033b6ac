//! What the scheduler tells about pods that have to wait, and the removal of those that have to make room.
//!
//! Conditions and events of waiting pods are written by one task, in order, and of several words about a pod only the last: a
//! later word is never overtaken by an earlier one. A binding is written by another task; so a word is written only on the
//! revision at which the pod had no node.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use client::{Client, Deed, Error, EventType, Informer, Meta, Patch, PatchParams, SeriesRecorder};
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use serde_json::{Value, json};
use tokio::sync::mpsc::{self, UnboundedSender};

use super::Recorders;
use crate::pod::{self, PodInfo};

/// A pod got its node.
pub(super) const SCHEDULED: Deed = Deed { reason: "Scheduled", action: "Binding" };
/// A pod got none.
pub(super) const FAILED: Deed = Deed { reason: "FailedScheduling", action: "Scheduling" };
/// A pod's devices are not bound yet.
pub(super) const PENDING: Deed = Deed { reason: "BindingConditionsPending", action: "Scheduling" };
/// A pod had to make way.
const PREEMPTED: Deed = Deed { reason: "Preempted", action: "Preempting" };
/// Bytes of an event's message at most (upstream `NoteLengthLimit`).
const MESSAGE_MAX: usize = 1024;
/// How often a note is tried that meets other writers.
const TRIES: usize = 3;

/// What becomes of a pod's `nominatedNodeName`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Nomination {
    Keep,
    Clear,
    Set(String),
}

/// A word about a pod.
#[derive(Debug)]
pub(super) struct Note {
    pub pod: Arc<Pod>,
    /// The condition's reason, and the message.
    pub failure: Option<(&'static str, String)>,
    pub nomination: Nomination,
}

impl Note {
    pub(super) fn nomination(pod: Arc<Pod>, nomination: Nomination) -> Self {
        Self { pod, failure: None, nomination }
    }
}

/// Notes that are still to be written, one for each pod, the longest waiting first.
#[derive(Default)]
struct Pending {
    order: VecDeque<String>,
    notes: HashMap<String, Note>,
}

impl Pending {
    /// A later word about a pod takes an earlier one's place; a nomination stands until there is another.
    fn push(&mut self, mut note: Note) {
        let uid = note.pod.uid().to_owned();
        match self.notes.remove(&uid) {
            Some(earlier) => {
                note.failure = note.failure.or(earlier.failure);
                if note.nomination == Nomination::Keep {
                    note.nomination = earlier.nomination;
                }
            }
            None => self.order.push_back(uid.clone()),
        }
        self.notes.insert(uid, note);
    }

    fn pop(&mut self) -> Option<Note> {
        self.order.pop_front().and_then(|uid| self.notes.remove(&uid))
    }
}

/// Starts the task that writes notes; it ends when nobody can send it any.
pub(super) fn start(client: Client, recorders: Recorders, pods: Informer<Pod>) -> UnboundedSender<Note> {
    let (sender, mut receiver) = mpsc::unbounded_channel::<Note>();
    tokio::spawn(async move {
        let mut pending = Pending::default();
        while let Some(note) = receiver.recv().await {
            pending.push(note);
            loop {
                while let Ok(later) = receiver.try_recv() {
                    pending.push(later);
                }
                let Some(note) = pending.pop() else { break };
                write(&client, recorders.of(&note.pod), &pods, &note).await;
            }
        }
    });
    sender
}

/// Writes a note, if it still is true: the pod is there and has no node.
async fn write(client: &Client, recorder: &SeriesRecorder, pods: &Informer<Pod>, note: &Note) {
    let waits = |p: &Pod| p.uid() == note.pod.uid() && pod::node_name(p).is_empty();
    let Some(known) = pods.get(note.pod.namespace(), note.pod.name()).filter(|p| waits(p)) else { return };
    if let Some((_, message)) = &note.failure {
        recorder.event(&client::object_reference(&*note.pod), EventType::Warning, FAILED, truncated(message));
    }
    let mut pod = known;
    for _ in 0..TRIES {
        let Some(status) = status_patch(&pod, note) else { return };
        let error = match patch_status(client, &pod, status, Some(pod.resource_version())).await {
            Ok(()) => return,
            Err(error) => error,
        };
        if error.is_not_found() {
            return;
        }
        if !error.is_conflict() {
            return tracing::warn!(%error, pod = %pod.key(), "the pod's condition could not be written");
        }
        // It changed meanwhile: perhaps it got its node.
        match client.namespaced::<Pod>(pod.namespace()).get_opt(pod.name()).await {
            Ok(Some(live)) if waits(&live) => pod = Arc::new(live),
            _ => return,
        }
    }
}

fn truncated(message: &str) -> String {
    const SUFFIX: &str = " ...";
    if message.len() <= MESSAGE_MAX {
        return message.to_owned();
    }
    format!("{}{SUFFIX}", &message[..message.floor_char_boundary(MESSAGE_MAX - SUFFIX.len())])
}

/// `version`: only if the pod is as it was at this revision.
pub(super) async fn patch_status(client: &Client, pod: &Pod, status: Value, version: Option<&str>) -> Result<(), Error> {
    let mut patch = json!({"metadata": {"uid": pod.uid()}, "status": status});
    if let Some(version) = version {
        patch["metadata"]["resourceVersion"] = version.into();
    }
    client.namespaced::<Pod>(pod.namespace()).patch_status(pod.name(), &Patch::Strategic(patch), &PatchParams::default()).await.map(drop)
}

/// What of the status has to change; none if nothing.
fn status_patch(pod: &Pod, note: &Note) -> Option<Value> {
    let mut status = json!({});
    if let Some((reason, message)) = &note.failure
        && let Some(condition) = condition(pod, "PodScheduled", "False", reason, message)
    {
        set_condition(&mut status, pod, condition);
    }
    let nominated = pod.status.as_ref().and_then(|s| s.nominated_node_name.as_deref()).unwrap_or_default();
    match &note.nomination {
        Nomination::Set(node) if nominated != node => status["nominatedNodeName"] = node.as_str().into(),
        Nomination::Clear if !nominated.is_empty() => status["nominatedNodeName"] = Value::Null,
        _ => {}
    }
    status.as_object().is_some_and(|s| !s.is_empty()).then_some(status)
}

/// Puts a condition into a patch; a new one comes last, as lists of conditions grow.
fn set_condition(status: &mut Value, pod: &Pod, condition: Value) {
    let all = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let mut order: Vec<Value> = all.iter().map(|c| json!({"type": c.type_})).collect();
    if all.iter().all(|c| condition["type"] != c.type_.as_str()) {
        order.push(json!({"type": condition["type"]}));
    }
    status["$setElementOrder/conditions"] = order.into();
    status["conditions"] = json!([condition]);
}

/// A condition, if the pod does not have it so.
fn condition(pod: &Pod, kind: &str, value: &str, reason: &str, message: &str) -> Option<Value> {
    let all = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let old = all.iter().find(|c| c.type_ == kind);
    let generation = pod.metadata.generation;
    let same = |c: &PodCondition| {
        c.status == value && c.reason.as_deref() == Some(reason) && c.message.as_deref() == Some(message) && c.observed_generation == generation
    };
    if old.is_some_and(same) {
        return None;
    }
    let since = old.filter(|c| c.status == value).and_then(|c| c.last_transition_time.clone()).unwrap_or_else(client::now);
    let mut out = json!({"type": kind, "status": value, "reason": reason, "message": message, "lastTransitionTime": since});
    if let Some(generation) = generation {
        out["observedGeneration"] = generation.into();
    }
    Some(out)
}

/// Tells that a pod has to make way. The original means to name the other as `related`, but its type is none of the API's, so it does not.
pub(super) fn preempted(recorder: &SeriesRecorder, victim: &Pod, text: &str) {
    recorder.event(&client::object_reference(victim), EventType::Normal, PREEMPTED, text);
}

/// Tells pods to go, so that another finds room.
pub(super) async fn evict(client: &Client, recorder: &SeriesRecorder, victims: &[Arc<PodInfo>], by: &str, text: &str) -> Result<(), Error> {
    for victim in victims.iter().map(|v| &v.pod).filter(|p| !p.is_deleting()) {
        let message = format!("{by}: preempting to accommodate a higher priority pod");
        let result = async {
            if let Some(condition) = condition(victim, "DisruptionTarget", "True", "PreemptionByScheduler", &message) {
                let mut status = json!({});
                set_condition(&mut status, victim, condition);
                patch_status(client, victim, status, None).await?;
            }
            let params = client::DeleteParams::default().uid(victim.uid());
            client.namespaced::<Pod>(victim.namespace()).delete(victim.name(), &params).await
        };
        match result.await {
            Ok(()) => preempted(recorder, victim, text),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_words_about_a_pod_the_last_is_written() {
        let pod = |uid: &str| Arc::new(serde_json::from_value::<Pod>(json!({"metadata": {"name": uid, "uid": uid}})).unwrap_or_default());
        let failed = |uid: &str, why: &str, nomination| Note { pod: pod(uid), failure: Some(("Unschedulable", why.to_owned())), nomination };
        let mut pending = Pending::default();
        pending.push(failed("a", "first", Nomination::Set("n1".into())));
        pending.push(failed("b", "other", Nomination::Keep));
        pending.push(failed("a", "second", Nomination::Keep));
        pending.push(Note::nomination(pod("b"), Nomination::Clear));
        let told: Vec<_> = std::iter::from_fn(|| pending.pop()).map(|n| (n.pod.uid().to_owned(), n.failure.unwrap_or_default().1, n.nomination)).collect();
        assert_eq!(told, [("a".into(), "second".into(), Nomination::Set("n1".into())), ("b".to_owned(), "other".to_owned(), Nomination::Clear)]);
    }
}
