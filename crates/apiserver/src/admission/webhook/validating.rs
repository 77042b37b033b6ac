//! The validating webhooks: all that a write concerns are asked at once, and the first that refuses is heard.

use super::{
    call::{self, Problem},
    matching::{self, Invocation, Turned},
    review::Forms,
};
use crate::{admission::attributes::Attributes, metrics::Step, offload};
use futures_util::stream::{FuturesUnordered, StreamExt};
use machinery::{Value, status::Status};
use std::time::Instant;

/// Asks all that the write concerns; `object` is as it would be stored, null for a deletion.
pub(in crate::admission) async fn validate(asked: &Attributes<'_>, object: &Value) -> Result<(), Status> {
    let hooks = asked.askers(&asked.world.gate().validating).await;
    if hooks.is_empty() {
        return Ok(());
    }
    let (object, old) = (asked.view(object), asked.old());
    let (mut invocations, mut turned) = (Vec::new(), Turned::default());
    for hook in hooks.iter() {
        if let Some(invocation) = Box::pin(matching::find(asked, hook, Step::Validate, (&object, &old), &mut turned)).await? {
            let both = Box::pin(turned.of(asked, &invocation.version, &object, &old)).await.map_err(Status::internal)?;
            invocations.push((invocation, both));
        }
    }
    let forms = Forms::default();
    if let [(invocation, (object, old))] = invocations.as_slice() {
        return offload::resting(one(asked, invocation, &forms, (object, old))).await;
    }
    let mut calls: FuturesUnordered<_> = invocations.iter().map(|(invocation, (object, old))| one(asked, invocation, &forms, (object, old))).collect();
    if calls.is_empty() {
        return Ok(());
    }
    let mut first = Ok(());
    // All are waited for, as upstream does: what one of them is told of is over when the write is answered.
    let all = async {
        while let Some(result) = calls.next().await {
            first = std::mem::replace(&mut first, Ok(())).and(result);
        }
    };
    offload::resting(all).await;
    first
}

async fn one(asked: &Attributes<'_>, invocation: &Invocation, forms: &Forms, both: (&Value, &Value)) -> Result<(), Status> {
    let begun = Instant::now();
    let answered = Box::pin(call::ask(asked, invocation, forms, both, false)).await;
    call::counted(asked, invocation, Step::Validate, begun, &answered);
    match answered {
        Ok(_) => Ok(()),
        Err(Problem::Rejected(status) | Problem::Refused(status)) => Err(status),
        Err(Problem::Calling(why, _)) => call::failed(asked, invocation, &why),
    }
}
