//! The validating webhooks: all that a write concerns are asked at once, and the first that refuses is heard.

use super::{
    call::{self, Problem},
    matching::{self, Invocation},
};
use crate::{admission::attributes::Attributes, offload};
use futures_util::stream::{FuturesUnordered, StreamExt};
use machinery::{Value, status::Status};

/// Asks all that the write concerns; `object` is as it would be stored, null for a deletion.
pub(in crate::admission) async fn validate(asked: &Attributes<'_>, object: &Value) -> Result<(), Status> {
    let hooks = asked.world.gate().validating.all().await;
    if hooks.is_empty() || asked.is_left_alone() {
        return Ok(());
    }
    let (object, old) = (asked.view(object), asked.old());
    let mut invocations = Vec::new();
    for hook in hooks.iter() {
        if let Some(invocation) = Box::pin(matching::find(asked, hook, &object, &old)).await? {
            invocations.push(invocation);
        }
    }
    let mut calls: FuturesUnordered<_> = invocations.iter().map(|invocation| one(asked, invocation, &object, &old)).collect();
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

async fn one(asked: &Attributes<'_>, invocation: &Invocation, object: &Value, old: &Value) -> Result<(), Status> {
    let version = &invocation.version;
    let (object, old) = (asked.to(version, object.clone()).await.map_err(Status::internal)?, asked.to(version, old.clone()).await.map_err(Status::internal)?);
    match Box::pin(call::ask(asked, invocation, &object, &old, false)).await {
        Ok(_) => Ok(()),
        Err(Problem::Rejected(status) | Problem::Refused(status)) => Err(status),
        Err(Problem::Calling(why)) => call::failed(asked, invocation, &why),
    }
}
