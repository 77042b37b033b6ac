//! EventRateLimit: how many Events are written, in all, by a namespace, a user, or of one thing.

use super::{Plugin, World, is, joined, text};
use crate::{
    Operation, Write,
    gate::event_limits::{By, Limit},
};
use machinery::{Value, status::Status};
use std::time::Instant;

pub(super) struct EventRateLimit;

impl Plugin for EventRateLimit {
    fn name(&self) -> &'static str {
        "EventRateLimit"
    }

    fn validate(&self, world: &World, write: &Write<'_>, object: &Value) -> Result<(), Status> {
        // Upstream limits the core group's alone.
        if !is(write, "", "events") || write.dry_run || !matches!(write.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        let now = Instant::now();
        let full = |limit: &&Limit| !limit.take(&key(limit.by, write, object), now);
        let refused: Vec<String> = { world.gate().event_limits.iter().filter(full) }
            .map(|limit| format!("limit reached on type {} for key {}", limit.by.name(), key(limit.by, write, object)))
            .collect();
        match refused.as_slice() {
            [] => Ok(()),
            some => Err(Status::new(429, "TooManyRequests", format!("Too many requests: {}", joined(some)))),
        }
    }
}

fn key(by: By, write: &Write<'_>, event: &Value) -> String {
    match by {
        By::Server => String::new(),
        By::Namespace => write.namespace.to_owned(),
        By::User => write.cx.user.name.clone(),
        By::SourceAndObject => {
            let (source, object) = (&event["source"], &event["involvedObject"]);
            let parts =
                [(source, "component"), (source, "host"), (object, "kind"), (object, "namespace"), (object, "name"), (object, "uid"), (object, "apiVersion")];
            parts.map(|(owner, field)| text(owner, field)).concat()
        }
    }
}
