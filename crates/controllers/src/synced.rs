//! What the two controllers count that publish certificates: their passes by the code of their answers (upstream
//! `rootcacertpublisher/metrics.go` and `clustertrustbundlepublisher/metrics.go`).

use std::sync::Arc;

use instruments::{Counter, Family, Histogram, Labelled, Registry, exponential};
use tokio::time::Instant;

use crate::work::Step;

static ENDS_S: [f64; 15] = exponential(0.001, 2.0);

/// Passes by code.
pub(crate) struct Synced {
    total: Arc<Labelled<1, Counter>>,
    duration: Arc<Labelled<1, Histogram>>,
}

impl Synced {
    pub(crate) fn new(registry: &Registry, total: &'static Family, duration: &'static Family) -> Self {
        Self { total: registry.counters(total, ["code"]), duration: registry.histograms(duration, ["code"], &ENDS_S) }
    }

    /// Counts a pass.
    pub(crate) async fn count(&self, pass: impl Future<Output = Step>) -> Step {
        let begun = Instant::now();
        let step = pass.await;
        let code = match &step {
            Ok(_) => "200".to_owned(),
            Err(client::Error::Api(status)) if status.code != 0 => status.code.to_string(),
            Err(_) => "500".to_owned(),
        };
        self.total.with([&code]).inc();
        self.duration.with([&code]).took(begun.elapsed());
        step
    }
}
