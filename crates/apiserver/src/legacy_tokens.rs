//! The use of service accounts' tokens without an end is noted at the Secrets that hold them, by the day (upstream's
//! `serviceaccount/legacy.go`): what nobody has used for a year is taken away by a controller.
//!
//! The label is written before the request goes on, once a day for each Secret; what cannot be written is told, and tried at the
//! next use.

use crate::{errors, meta, world::World, writer::Writer};
use identity::{
    Error, Review,
    legacy::{LAST_USED, Used},
};
use machinery::time;
use std::time::{Duration, SystemTime};

/// What the bearer of one is told that was made for an account.
pub(crate) const GENERATED: &str =
    "Use tokens from the TokenRequest API or manually created secret-based tokens instead of auto-generated secret-based tokens.";

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Notes that a token was shown, if it is one of these.
pub(crate) async fn note(world: &World, shown: &Result<Review, Error>, now: SystemTime) {
    let used = match shown {
        Ok(Review { used: Some(used), .. }) => used,
        Err(Error::Invalidated(_, used)) => used,
        _ => return,
    };
    let day = |at: SystemTime| time::rfc3339(at).get(..10).unwrap_or_default().to_owned();
    let today = day(now);
    // Another server's clock may be in the next day.
    if used.last_used == today || used.last_used == day(now + DAY) {
        return;
    }
    Box::pin(label(world, used, &today)).await;
}

async fn label(world: &World, used: &Used, today: &str) {
    let Some(row) = world.row("", "v1", "secrets") else { return };
    let writer = Writer::new(world);
    let written = writer.change(&row, (&used.namespace, &used.secret), "", |old| {
        let mut secret = old.cloned().ok_or_else(|| errors::not_found(&row, &used.secret))?;
        if meta::text(&secret, "uid") != used.uid {
            return Err(errors::not_found(&row, &used.secret));
        }
        let labels = meta::of(&mut secret).entry("labels").or_insert_with(|| serde_json::json!({}));
        labels[LAST_USED] = today.into();
        Ok(secret)
    });
    if let Err(error) = written.await {
        tracing::warn!(namespace = used.namespace, secret = used.secret, %error, "that a token was used could not be noted");
    }
}
