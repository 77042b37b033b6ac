//! What the scheduler is told: a `KubeSchedulerConfiguration` v1, read as kube-scheduler reads it (`--config`).
//!
//! The file's text becomes a tree by a schema that refuses what it does not know (`read.rs`), the tree raw types (`raw.rs`), which get
//! their defaults (`defaults.rs`) and are judged (`validate.rs`); the profiles are then made of plugins (`crate::profile`), which
//! has words of its own for what cannot be. Errors are the original's.
//!
//! What the original's process has and this one has not is read and judged, and else of no account: `parallelism` (one task
//! decides), `clientConnection`, profiling, `leaderElection` beside `--leader-elect`, `delayCacheUntilActive`.

mod defaults;
pub mod raw;
mod read;
mod shown;
#[cfg(test)]
mod tests;
pub(crate) mod validate;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use machinery::Value;

use crate::extender::Extender;
use crate::metrics::Metrics;
use crate::profile::{Profile, Profiles};
use raw::Raw;

/// A configuration that can be worked by.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who is placed, and by which rules.
    pub profiles: Arc<Profiles>,
    /// Others who are asked.
    pub extenders: Vec<Arc<Extender>>,
    /// After a pod's first failure.
    pub backoff_min: Duration,
    /// At most.
    pub backoff_max: Duration,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Set when the first lists are read: from then on pods are placed.
    pub has_read: Arc<AtomicBool>,
    /// All of it as a `KubeSchedulerConfiguration` v1, with what is not said filled in: what `/configz` shows.
    pub shown: Arc<Value>,
}

impl Default for Config {
    fn default() -> Self {
        // The defaults are right, which a test holds.
        Self::of(Raw::default()).unwrap_or_else(|why| unreachable!("the default configuration: {why}"))
    }
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or is not right: in the original's words.
    pub fn from_file(path: &Path) -> Result<Self, String> {
        let bytes = std::fs::read(path).map_err(|error| format!("open {}: {error}", path.display()))?;
        Self::parse(&bytes)
    }

    /// Reads a configuration from its text, YAML or JSON.
    ///
    /// # Errors
    /// It is not right: in the original's words.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        Self::of(read::read(bytes)?)
    }

    fn of(mut raw: Raw) -> Result<Self, String> {
        let args = defaults::apply(&mut raw)?;
        validate::check(&raw, &args)?;
        let shown = Arc::new(shown::whole(&raw, &args));
        let ignored = raw.extenders.iter().flat_map(|e| &e.managed_resources).filter(|r| r.ignored_by_scheduler).map(|r| r.name.clone()).collect();
        let mut profiles = raw.profiles.iter().zip(&args).map(|(profile, args)| Profile::new(profile, args, &ignored)).collect::<Result<Vec<_>, _>>()?;
        for profile in &mut profiles {
            profile.percentage_of_nodes = profile.percentage_of_nodes.or(raw.percentage_of_nodes_to_score);
        }
        let extenders = raw.extenders.iter().map(|extender| Extender::new(extender).map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
        let seconds = |n: i64| Duration::from_secs(n.unsigned_abs());
        let profiles = Profiles::new(profiles);
        Ok(Self {
            metrics: Arc::new(Metrics::new(&profiles)),
            has_read: Arc::default(),
            shown,
            profiles: Arc::new(profiles),
            extenders,
            backoff_min: seconds(raw.pod_initial_backoff_seconds.unwrap_or(1)),
            backoff_max: seconds(raw.pod_max_backoff_seconds.unwrap_or(10)),
        })
    }
}
