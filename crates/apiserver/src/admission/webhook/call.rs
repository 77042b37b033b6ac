//! One call of one webhook, and what its end means for the write.

use super::{
    super::attributes::Attributes,
    matching::Invocation,
    review::{self, Forms, Refused, Verdict},
};
use crate::{
    Body,
    hooks::{Failure, OwnAnswer, Services},
    meta,
    metrics::{Asked, Step},
    offload,
    world::World,
};
use http::Request;
use machinery::{
    Value,
    status::{Status, Theirs},
};
use serde_json::{Map, json};
use std::{sync::Arc, time::Instant};

/// What upstream answers where a webhook is not there.
const UNAVAILABLE: u16 = 503;

/// Why a call did not let the write pass.
pub(super) enum Problem {
    /// The webhook was not reached or answered nothing that counts; its failure policy decides. The code is what is counted.
    Calling(String, u16),
    /// It said no.
    Rejected(Status),
    /// The write cannot be: no policy is asked.
    Refused(Status),
}

impl Services for World {
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.read(("", "v1", "services"), namespace, name).ok()
    }

    fn itself(&self, request: Request<Body>) -> Option<OwnAnswer> {
        World::itself(self).ask(request)
    }
}

/// Asks. `object` and `old` are in the webhook's version, null for what is not there; `forms` are of both.
pub(super) async fn ask(
    asked: &Attributes<'_>,
    invocation: &Invocation,
    forms: &Forms,
    (object, old): (&Value, &Value),
    mutating: bool,
) -> Result<Verdict, Problem> {
    let (hook, cx) = (&invocation.hook, asked.write.cx);
    let calling = |why: String, code: u16| Problem::Calling(format!("failed calling webhook {:?}: {why}", hook.name), code);
    if asked.write.dry_run {
        match hook.dry_run {
            None => return Err(calling("Webhook SideEffects is nil".into(), 400)),
            Some(false) => return Err(Problem::Refused(Status::bad_request(format!("admission webhook {:?} does not support dry run", hook.name)))),
            Some(true) => {}
        }
    }
    let unknown = || calling("could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)".into(), 400);
    let spoken = hook.review.ok_or_else(unknown)?;
    let target = hook.address.target().await.map_err(|why| calling(format!("could not get REST client: {why}"), 500))?;
    let uid = meta::uuid();
    let body = forms.body(asked, &invocation.version, spoken, &uid, object, old);
    let within = hook.timeout.min(cx.time_left());
    let answer = target.post(asked.world, body, within).await.map_err(|why| calling(format!("failed to call webhook: {why}"), code_of(&why)))?;
    let verdict = offload::at_length(answer.len(), move || review::verdict(&answer, spoken, &uid, mutating)).await;
    let verdict = verdict.map_err(|refused| match refused {
        Refused::Unread(why) => calling(format!("failed to call webhook: {why}"), UNAVAILABLE),
        Refused::Invalid(why) => calling(format!("received invalid webhook response: {why}"), UNAVAILABLE),
    })?;
    for warning in &verdict.warnings {
        cx.warn(warning.clone());
    }
    if verdict.allowed { Ok(verdict) } else { Err(Problem::Rejected(denied(&hook.name, &verdict.result))) }
}

/// As what a call is counted that has no answer, or an error for one.
fn code_of(why: &Failure) -> u16 {
    match why {
        Failure::Transport(_) => UNAVAILABLE,
        Failure::Answer(status) => status.code,
    }
}

/// Counts what came of asking.
pub(super) fn counted<T>(asked: &Attributes<'_>, invocation: &Invocation, step: Step, begun: Instant, answered: &Result<T, Problem>) {
    let hook = &invocation.hook;
    let came = match answered {
        Ok(_) => Asked::Allowed,
        Err(Problem::Calling(_, code)) => Asked::Failed { code: *code, is_ignored: hook.ignore },
        Err(Problem::Rejected(status)) => Asked::Rejected { code: status.code },
        Err(Problem::Refused(_)) => Asked::Broken,
    };
    asked.world.metrics().admission().webhook(&hook.name, step, asked.operation(), came, begun.elapsed());
}

/// The write's answer when a webhook says no (upstream's `ToStatusErr`).
fn denied(webhook: &str, result: &Value) -> Status {
    let mut status = Status::from_value(result);
    status.code = status.code.max(400);
    let by = format!("admission webhook {webhook:?} denied the request");
    status.message = match (status.message.as_str(), status.reason.as_str()) {
        ("", "") => format!("{by} without explanation"),
        ("", reason) => format!("{by}: {reason}"),
        (message, _) => format!("{by}: {message}"),
    };
    let said = result["status"].as_str().filter(|said| !matches!(*said, "" | "Success")).unwrap_or("Failure");
    status.theirs = Some(Box::new(Theirs { metadata: list_metadata(&result["metadata"]), status: said.to_owned() }));
    status
}

/// What a list's metadata has that says something, in the order of Go's fields.
fn list_metadata(given: &Value) -> Value {
    let mut metadata = Map::new();
    for field in ["selfLink", "resourceVersion", "continue", "remainingItemCount", "shardInfo"] {
        let said = match &given[field] {
            Value::Object(shards) if field == "shardInfo" => json!({"selector": shards.get("selector").and_then(Value::as_str).unwrap_or_default()}),
            Value::Number(count) if field == "remainingItemCount" => Value::Number(count.clone()),
            Value::String(text) if !text.is_empty() => Value::String(text.clone()),
            _ => continue,
        };
        metadata.insert(field.to_owned(), said);
    }
    Value::Object(metadata)
}

/// The error of a webhook that failed, unless its failure is to be ignored.
pub(super) fn failed(asked: &Attributes<'_>, invocation: &Invocation, why: &str) -> Result<(), Status> {
    if !invocation.hook.ignore {
        return Err(Status::internal(why));
    }
    tracing::warn!(webhook = invocation.hook.name, why, "a webhook failed, which its policy ignores");
    if asked.write.cx.time_left().is_zero() {
        return Err(Status::timeout("Timeout: request did not complete within requested timeout"));
    }
    Ok(())
}
