//! The scheduler: which node a pod runs on.
//!
//! The core is pure: [`schedule::schedule`] takes a snapshot and a pod and returns a decision. Around it are the
//! [`queue`] of those who wait, the [`cache`] of nodes and pods, and the rim ([`run`]) that follows informers and sends
//! bindings. One task owns queue and cache, so there are no locks; bindings, events and conditions are written by other
//! tasks. There is no timer in the way of a pod: it is looked at as soon as the informer tells of it.

pub mod cache;
pub mod config;
pub mod constraint;
pub mod devices;
pub mod extender;
pub mod framework;
pub mod metrics;
pub mod node;
pub mod plugins;
pub mod pod;
pub mod preemption;
pub mod profile;
pub mod queue;
pub mod resources;
mod rim;
pub mod rules;
pub mod schedule;
pub mod world;

#[cfg(test)]
mod tests;

use client::{Client, Informers};
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use metrics::Metrics;

/// Why the scheduler ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing will be heard any more.
    #[error("the informers ended")]
    Ended,
}

/// Places pods until `shutdown`.
///
/// # Errors
/// The informers ended before.
pub async fn run(config: Config, client: Client, informers: Informers, shutdown: CancellationToken) -> Result<(), Error> {
    tokio::select! {
        biased;
        () = shutdown.cancelled() => Ok(()),
        result = Box::pin(rim::run(config, client, informers)) => result,
    }
}
