//! What the server does by itself as time goes: Events end by age, what Services have taken is repaired, the cluster's own
//! objects are kept as they should be, what files say of admission is looked at again, and what lists keep compressed is given back when
//! no list asks for it.
//!
//! Upstream gives each Event a lease of an hour from its last write; here the last time that an Event tells is the same.

use crate::{ApiServer, bootstrap, services, storage, world::World};
use machinery::{Value, time};
use std::time::{Duration, Instant, SystemTime};
use tokio_util::sync::CancellationToken;

/// How often what clients find the server by is looked at, as upstream's `EndpointInterval`.
const EVERY: Duration = Duration::from_secs(10);
/// Rounds between two looks for old Events, and at the other objects of the cluster's own: a minute. It is a 1/60 of how long
/// Events live, so none stays more than a minute too long.
const LONG_ROUNDS: u32 = 6;
/// Events removed in one round, so that a flood of them does not hold up other writes.
const ROUND_MAX: usize = 5000;

/// Rounds between two repairs of addresses and ports: three minutes, as upstream's repair loops.
const REPAIR_ROUNDS: u32 = 18;

/// Runs until `shutdown`.
pub(crate) async fn run(server: ApiServer, shutdown: CancellationToken) {
    let mut suspects = services::Suspects::default();
    for round in 1_u32.. {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        if !round.is_multiple_of(LONG_ROUNDS) {
            server.reread().await;
            bootstrap::keep(server.world(), bootstrap::Round::Short).await;
            continue;
        }
        server.keep().await;
        if round.is_multiple_of(REPAIR_ROUNDS) {
            suspects = services::repair(server.world(), suspects).await;
        }
        let now = Instant::now();
        server.rows().iter().for_each(|row| row.stretches().forget(now));
        let removed = end_events(server.world(), SystemTime::now()).await;
        if removed > 0 {
            tracing::debug!(removed, "events have ended by age");
        }
    }
}

/// Removes the Events that are older than the configured age; returns how many.
pub(crate) async fn end_events(world: &World, now: SystemTime) -> usize {
    let Some(row) = world.row("", "v1", "events") else { return 0 };
    let Some(snapshot) = storage::snapshot(world.store(), &row, None) else { return 0 };
    let Some(limit) = now.checked_sub(world.config().event_ttl) else { return 0 };
    let old: Vec<_> =
        snapshot.range(&row.root_key, "").filter(|e| last_seen(&storage::value(&row, e)).is_some_and(|t| t < limit)).take(ROUND_MAX).cloned().collect();
    let mut removed = 0;
    for entry in old {
        let key = storage::key(&entry).to_owned();
        match storage::delete(world.store(), &row, &key, &entry).await {
            Ok(Some(_)) => removed += 1,
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "an event could not be removed"),
        }
    }
    removed
}

/// The last time that an Event tells: of its series, its last occurrence, its making.
fn last_seen(event: &Value) -> Option<SystemTime> {
    let series = event["series"]["lastObservedTime"].as_str();
    let times = [series, event["lastTimestamp"].as_str(), event["eventTime"].as_str(), event["metadata"]["creationTimestamp"].as_str()];
    times.into_iter().flatten().filter_map(|t| time::parse(t).ok()).max()
}
