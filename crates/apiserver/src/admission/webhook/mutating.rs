//! The mutating webhooks: asked one after the other, each about the object that the one before has left.

use super::{
    call::{self, Problem},
    matching::{self, Invocation, Turned},
    review::{Forms, Verdict},
};
use crate::{
    admission::{again::Again, attributes::Attributes, keep_managers, readable_as_said, remade, same_kind},
    hooks::words,
    metrics::Step,
    offload, own,
};
use machinery::{Value, json, patch, quote::Quoted, status::Status, tree::json_type};
use std::time::Instant;

/// Asks all that the write concerns; `object` is null for a deletion.
pub(in crate::admission) async fn admit(asked: &Attributes<'_>, object: &mut Value, again: &mut Again) -> Result<(), Status> {
    let hooks = asked.askers(&asked.world.gate().mutating).await;
    if hooks.is_empty() {
        return Ok(());
    }
    again.begin(object);
    let old = asked.old();
    // The object as it is viewed, and what a webhook has made of it: most writes concern none of them, and are not copied.
    let view = asked.view(object);
    let mut made: Option<Value> = None;
    let mut turned = Turned::default();
    for hook in hooks.iter() {
        let viewed = made.as_ref().unwrap_or(&view);
        let Some(invocation) = Box::pin(matching::find(asked, hook, Step::Admit, (viewed, &old), &mut turned)).await? else { continue };
        if again.leaves_out(&hook.uid) {
            continue;
        }
        let outcome = {
            let (own, before) = Box::pin(turned.of(asked, &invocation.version, viewed, &old)).await.map_err(Status::internal)?;
            let begun = Instant::now();
            let answered = Box::pin(one(asked, &invocation, &own, &before)).await;
            call::counted(asked, &invocation, Step::Admit, begun, &answered);
            answered
        };
        let (changed, problem) = match outcome {
            Ok(None) => (false, None),
            Ok(Some(next)) => {
                let changed = next.changed;
                made = Some(next.object);
                turned.changed();
                (changed, None)
            }
            Err(problem) => (false, Some(problem)),
        };
        if changed {
            again.changed();
        }
        if hook.reinvoked {
            again.invoked(hook.uid.clone());
        }
        match problem {
            None => {}
            Some(Problem::Rejected(status) | Problem::Refused(status)) => return Err(status),
            Some(Problem::Calling(why, _)) => call::failed(asked, &invocation, &why)?,
        }
    }
    drop(view);
    if let Some(viewed) = made {
        asked.put(viewed, object);
    }
    again.end(object);
    Ok(())
}

/// An object after a patch.
struct Patched {
    object: Value,
    changed: bool,
}

/// Asks one about the object in the version that it wants; the patched object, if there is a patch.
async fn one(asked: &Attributes<'_>, invocation: &Invocation, own: &Value, old: &Value) -> Result<Option<Patched>, Problem> {
    let version = &invocation.version;
    let verdict = offload::resting(Box::pin(call::ask(asked, invocation, &Forms::default(), (own, old), true))).await?;
    let Some(mut next) = patched(asked, invocation, own, &verdict)? else { return Ok(None) };
    let changed = next != *own;
    keep_managers(asked.write, own, &mut next);
    if let Some(row) = asked.row(version) {
        own::default(row, &mut next);
    }
    let unconverted = |why: String| Problem::Refused(Status::new(500, "", why));
    Ok(Some(Patched { object: asked.from(version, next).await.map_err(unconverted)?, changed }))
}

fn patched(asked: &Attributes<'_>, invocation: &Invocation, object: &Value, verdict: &Verdict) -> Result<Option<Value>, Problem> {
    let (hook, version) = (&invocation.hook, &invocation.version);
    let calling = |why: String, code: u16| Problem::Calling(format!("failed calling webhook {:?}: {why}", hook.name), code);
    let refused = |why: String| Problem::Refused(Status::internal(why));
    if verdict.patch.is_empty() {
        return Ok(None);
    }
    let undecodable = |why: String| calling(format!("received undecodable patch in webhook response: {why}"), 503);
    let operations: Value = json::read(&verdict.patch).map_err(|error| undecodable(json::syntax_error(&verdict.patch).unwrap_or_else(|| error.to_string())))?;
    match &operations {
        Value::Null => return Ok(None),
        Value::Array(list) if list.is_empty() => return Ok(None),
        Value::Array(_) => {}
        // It is read before anybody looks at what kind of patch it is said to be.
        other => return Err(undecodable(format!("json: cannot unmarshal {} into Go value of type jsonpatch.Patch", json_type(other)))),
    }
    if object.is_null() {
        return Err(refused(format!("admission webhook {:?} attempted to modify the object, which is not supported for this operation", hook.name)));
    }
    if verdict.patch_type != "JSONPatch" {
        return Err(calling(format!("unsupported patch type {}", Quoted(&verdict.patch_type)), 400));
    }
    let next = patch::json_patch_told(object, &operations).map_err(|problem| match problem {
        patch::Unfit::NoPatch(why) => undecodable(why),
        patch::Unfit::Operation(why) => refused(why),
    })?;
    match asked.ty(version) {
        Some(ty) => {
            if !next.is_object() && !next.is_null() {
                return Err(refused(words::no_object(&next)));
            }
            if let Some(why) = words::untold(&next) {
                return Err(refused(why));
            }
            let is_own = asked.row(version).is_some_and(|row| row.custom.is_none());
            if is_own {
                readable_as_said(object, &next).map_err(refused)?;
            } else if asked.row(version).is_some() {
                says_its_kind(&next).map_err(refused)?;
            }
            let mut next = remade(next, ty).map_err(refused)?.value;
            if is_own {
                same_kind(object, &mut next).map_err(refused)?;
            }
            Ok(Some(next))
        }
        None => Ok(Some(next)),
    }
}

/// Whether a custom object says of which kind it is, which another decoder than that of the server's own kinds asks for.
fn says_its_kind(object: &Value) -> Result<(), String> {
    if !object.is_object() {
        return Err(words::no_object(object));
    }
    let says = object["kind"].as_str().is_some_and(|kind| !kind.is_empty());
    if says { Ok(()) } else { Err(format!("Object 'Kind' is missing in '{}'", String::from_utf8_lossy(&json::encode(object)))) }
}
