//! What the scheduler tells about pods that have to wait, and the removal of those that have to make room.
//!
//! Conditions and events of waiting pods are written by one task, in order: a later word about a pod is never
//! overtaken by an earlier one.

use std::sync::Arc;

use client::{Client, Error, EventType, Informer, Meta, Patch, PatchParams, Recorder};
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use serde_json::{Value, json};
use tokio::sync::mpsc::{self, UnboundedSender};

use crate::pod::PodInfo;

/// Bytes of an event's message at most (upstream `NoteLengthLimit`).
const MESSAGE_MAX: usize = 1024;

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

/// Starts the task that writes notes; it ends when nobody can send it any.
pub(super) fn start(client: Client, recorder: Recorder, pods: Informer<Pod>) -> UnboundedSender<Note> {
    let (sender, mut receiver) = mpsc::unbounded_channel::<Note>();
    tokio::spawn(async move {
        while let Some(note) = receiver.recv().await {
            if let Some((_, message)) = &note.failure {
                let text = truncated(message);
                recorder.event(&client::object_reference(&*note.pod), EventType::Warning, "FailedScheduling", text);
            }
            let Some(pod) = pods.get(note.pod.namespace(), note.pod.name()).filter(|p| p.uid() == note.pod.uid()) else {
                continue;
            };
            let Some(status) = status_patch(&pod, &note) else {
                continue;
            };
            if let Err(error) = patch_status(&client, &pod, status).await
                && !error.is_not_found()
            {
                tracing::warn!(%error, pod = %pod.key(), "the pod's condition could not be written");
            }
        }
    });
    sender
}

fn truncated(message: &str) -> String {
    const SUFFIX: &str = " ...";
    if message.len() <= MESSAGE_MAX {
        return message.to_owned();
    }
    let mut end = MESSAGE_MAX - SUFFIX.len();
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{SUFFIX}", &message[..end])
}

async fn patch_status(client: &Client, pod: &Pod, status: Value) -> Result<(), Error> {
    let patch = json!({"metadata": {"uid": pod.uid()}, "status": status});
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

/// Tells pods to go, so that another finds room.
pub(super) async fn evict(client: &Client, recorder: &Recorder, victims: &[Arc<PodInfo>], by: &str, text: &str) -> Result<(), Error> {
    for victim in victims.iter().map(|v| &v.pod).filter(|p| !p.is_deleting()) {
        let message = format!("{by}: preempting to accommodate a higher priority pod");
        let result = async {
            if let Some(condition) = condition(victim, "DisruptionTarget", "True", "PreemptionByScheduler", &message) {
                let mut status = json!({});
                set_condition(&mut status, victim, condition);
                patch_status(client, victim, status).await?;
            }
            let params = client::DeleteParams::default().uid(victim.uid());
            client.namespaced::<Pod>(victim.namespace()).delete(victim.name(), &params).await
        };
        match result.await {
            Ok(()) => recorder.event(&client::object_reference(&**victim), EventType::Normal, "Preempted", text),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
