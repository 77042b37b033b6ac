//! Migrations of stored versions: every object of a resource is written anew, so that it lies in the version in which the server
//! stores it now (upstream's `storageversionmigrator`).
//!
//! Two work on them. The runner (`runner.rs`) lets one migration of each resource run at a time, the oldest first, and tells the
//! resource's definition, whose `storedVersions` it reduces at the end. The migrator (`migrator.rs`) notes a revision in a
//! migration that runs and writes what is not younger than that: what is younger was written in the version of today.
//!
//! All that is known of a migration stands in its status, so one that was broken off goes on where it was: what has been written is
//! younger than the noted revision. In place of the original's cache of the garbage collector, and of its waiting until that is
//! fresh, the objects are listed by the server when they are to be written; so resources that the collector does not watch (events)
//! are migrated, too. A list or a write that failed as a server fails is tried again as long as it takes.

mod kind;
mod migrator;
mod runner;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use client::{Delta, Meta};

use crate::work::Cx;
pub(crate) use kind::Migration;
use migrator::Migrator;
use runner::Runner;

/// Migrations that are worked on at once, each of another resource.
const WORKERS: usize = 5;

/// Runs the controllers until the end.
pub(crate) async fn run(cx: Cx) {
    let client = cx.client("storage-version-migrator-controller");
    let migrations = cx.informers.informer::<Migration>();
    let runner = Arc::new(Runner { client: client.clone() });
    let migrator = Arc::new(Migrator { client, migrations: migrations.clone() });
    // One that goes makes room for the next of its resource.
    let runs = cx.setup(&runner).on(&migrations, |_, queue, change| queue.add(change.object().spec.resource.clone())).work(1);
    let migrates = cx.setup(&migrator).on(&migrations, |_, queue, change| {
        if !matches!(change, Delta::Deleted(_)) {
            queue.add(change.object().name().to_owned());
        }
    });
    futures_util::future::join(runs, migrates.work(WORKERS)).await;
}
