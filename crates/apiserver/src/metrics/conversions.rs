//! What the webhooks are told by that convert custom objects (upstream's `apiextensions-apiserver/pkg/apiserver/conversion/metrics.go`).

use instruments::{Counter, Family, Histogram, Kind, Labelled, Registry, exponential};
use std::{sync::Arc, time::Duration};

const DEFINITIONS: Family = Family::new(
    "apiserver_crd_conversion_webhook_duration_seconds",
    Kind::Histogram,
    "[ALPHA] How long objects of a definition took to be converted by its webhook, in seconds.",
);
const REQUESTS: Family = Family::new("apiserver_conversion_webhook_request_total", Kind::Counter, "[ALPHA] Questions to webhooks that convert.");
const TOOK: Family = Family::new("apiserver_conversion_webhook_duration_seconds", Kind::Histogram, "[ALPHA] How long webhooks that convert took, in seconds.");

static DEFINITION_S: [f64; 15] = exponential(0.001, 2.0);
static TOOK_S: [f64; 15] = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0];

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Conversions {
    registry: Registry,
    definitions: Arc<Labelled<4, Histogram>>,
    requests: Arc<Labelled<2, Counter>>,
    took: Arc<Labelled<2, Histogram>>,
}

impl Default for Conversions {
    fn default() -> Self {
        const RESULT: [&str; 2] = ["failure_type", "result"];
        let registry = Registry::default();
        Conversions {
            definitions: registry.histograms(&DEFINITIONS, ["crd_name", "from_version", "succeeded", "to_version"], &DEFINITION_S),
            requests: registry.counters(&REQUESTS, RESULT),
            took: registry.histograms(&TOOK, RESULT, &TOOK_S),
            registry,
        }
    }
}

impl Conversions {
    /// The webhook of a definition was asked to make one version of another; `failure`: of what sort it was, if it was one.
    pub(crate) fn asked(&self, definition: &str, (from, to): (&str, &str), failure: Option<&'static str>, took: Duration) {
        let (succeeded, result) = if failure.is_none() { ("true", "success") } else { ("false", "failure") };
        let labels = [failure.unwrap_or_default(), result];
        self.requests.with(labels).inc();
        self.took.with(labels).took(took);
        self.definitions.with([definition, from, succeeded, to]).took(took);
    }

    /// All of it, as text.
    pub(super) fn text(&self) -> String {
        self.registry.text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_are_told_by_definition_and_by_what_came_of_them() {
        let conversions = Conversions::default();
        conversions.asked("as.g.io", ("v1", "v2"), None, Duration::from_millis(3));
        conversions.asked("as.g.io", ("v1", "v2"), Some("conversion_webhook_call_failure"), Duration::from_secs(30));
        let text = conversions.text();
        for line in [
            r#"apiserver_conversion_webhook_request_total{failure_type="",result="success"} 1"#,
            r#"apiserver_conversion_webhook_request_total{failure_type="conversion_webhook_call_failure",result="failure"} 1"#,
            r#"apiserver_conversion_webhook_duration_seconds_bucket{failure_type="conversion_webhook_call_failure",result="failure",le="20"} 0"#,
            r#"apiserver_crd_conversion_webhook_duration_seconds_bucket{crd_name="as.g.io",from_version="v1",succeeded="true",to_version="v2",le="0.004"} 1"#,
            r#"apiserver_crd_conversion_webhook_duration_seconds_count{crd_name="as.g.io",from_version="v1",succeeded="false",to_version="v2"} 1"#,
        ] {
            assert!(text.lines().any(|told| told == line), "{line} in\n{text}");
        }
    }
}
