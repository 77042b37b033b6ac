//! What is told of flows at `/metrics` (upstream's `flowcontrol/metrics`).
//!
//! Here nobody waits for a level: a request is executed at once, or refused because the server has too many of all levels. So what is
//! told of waiting is zero, a request has one seat, and what a level may have is all that there is. A request of a flow is counted
//! on what its FlowSchema keeps at hand, without a look-up.

use instruments::{Counter, Families, Family, Gauge, Held, Histogram, Kind, Labelled, Registry};
use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Instant,
};

const WAIT_ENDS: usize = 13;
const LABELS: [&str; 2] = ["flow_schema", "priority_level"];
const DISPATCHED: Family =
    Family::new("apiserver_flowcontrol_dispatched_requests_total", Kind::Counter, "[BETA] Requests that priority and fairness has let be executed.");
const REJECTED: Family =
    Family::new("apiserver_flowcontrol_rejected_requests_total", Kind::Counter, "[BETA] Requests that were refused because there are too many.");
const EXECUTING: Family =
    Family::new("apiserver_flowcontrol_current_executing_requests", Kind::Gauge, "[BETA] Requests that are executed now; of a watch, its beginning.");
const SEATS: Family =
    Family::new("apiserver_flowcontrol_current_executing_seats", Kind::Gauge, "[BETA] Seats of the requests that are executed now: one each.");
const TOOK: Family =
    Family::new("apiserver_flowcontrol_request_execution_seconds", Kind::Histogram, "[ALPHA] How long requests were executed; of a watch, its beginning.");
const WAITING: Family =
    Family::new("apiserver_flowcontrol_current_inqueue_requests", Kind::Gauge, "[BETA] Requests that wait in queues, of which there are none.");
const WAITED: Family =
    Family::new("apiserver_flowcontrol_request_wait_duration_seconds", Kind::Histogram, "[BETA] How long requests have waited in queues: not at all.");
const NOMINAL: Family = Family::new("apiserver_flowcontrol_nominal_limit_seats", Kind::Gauge, "[BETA] The seats of a level by its shares.");
const LOWER: Family = Family::new("apiserver_flowcontrol_lower_limit_seats", Kind::Gauge, "[ALPHA] Seats that are kept for a level: none.");
const UPPER: Family = Family::new("apiserver_flowcontrol_upper_limit_seats", Kind::Gauge, "[ALPHA] Seats that a level may have at most: all.");
const CURRENT: Family = Family::new("apiserver_flowcontrol_current_limit_seats", Kind::Gauge, "[ALPHA] Seats that a level may have now: all.");

/// Upper ends of the buckets, in seconds.
static WAIT_S: [f64; WAIT_ENDS] = [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];

/// What a level says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Level {
    pub(super) shares: i64,
    /// Who finds no seat would wait in the original.
    pub(super) queues: bool,
}

/// The counters of a FlowSchema's requests at a level.
#[derive(Debug)]
pub(super) struct Pair {
    level: String,
    schema: String,
    dispatched: Arc<Counter>,
    executing: Arc<Gauge>,
    took: Arc<Labelled<3, Histogram>>,
    watches: OnceLock<Arc<Histogram>>,
    others: OnceLock<Arc<Histogram>>,
}

/// A request that is executed.
#[derive(Debug)]
pub(super) struct Executing {
    pair: Arc<Pair>,
    is_watch: bool,
    begun: Instant,
    _held: Held,
}

impl Drop for Executing {
    fn drop(&mut self) {
        self.pair.of(self.is_watch).took(self.begun.elapsed());
    }
}

impl Pair {
    /// One is executed, until what is returned is dropped.
    pub(super) fn executing(self: &Arc<Self>, is_watch: bool) -> Executing {
        self.dispatched.inc();
        Executing { pair: Arc::clone(self), is_watch, begun: Instant::now(), _held: self.executing.hold() }
    }

    fn of(&self, is_watch: bool) -> &Histogram {
        let (known, kind) = if is_watch { (&self.watches, "watch") } else { (&self.others, "regular") };
        known.get_or_init(|| self.took.with([&self.schema, &self.level, kind]))
    }
}

/// See the module's head.
pub(super) struct Counts {
    registry: Registry,
    dispatched: Arc<Labelled<2, Counter>>,
    rejected: Arc<Labelled<3, Counter>>,
    executing: Arc<Labelled<2, Gauge>>,
    took: Arc<Labelled<3, Histogram>>,
}

impl fmt::Debug for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counts").finish_non_exhaustive()
    }
}

impl Default for Counts {
    fn default() -> Self {
        let registry = Registry::default();
        Counts {
            dispatched: registry.counters(&DISPATCHED, LABELS),
            rejected: registry.counters(&REJECTED, ["flow_schema", "priority_level", "reason"]),
            executing: registry.gauges(&EXECUTING, LABELS),
            took: registry.histograms(&TOOK, ["flow_schema", "priority_level", "type"], &WAIT_S),
            registry,
        }
    }
}

impl Counts {
    /// The counters of a FlowSchema at a level: those of the same names, which go on when it is written again.
    pub(super) fn pair(&self, level: &str, schema: &str) -> Arc<Pair> {
        let labels = [schema, level];
        Arc::new(Pair {
            level: level.to_owned(),
            schema: schema.to_owned(),
            dispatched: self.dispatched.with(labels),
            executing: self.executing.with(labels),
            took: Arc::clone(&self.took),
            watches: OnceLock::new(),
            others: OnceLock::new(),
        })
    }

    /// One was refused, as the server has too many.
    pub(super) fn refused(&self, pair: &Pair) {
        self.rejected.with([&pair.schema, &pair.level, "concurrency-limit"]).inc();
    }

    /// All of it, with what the levels that there are say, and how many requests there may be.
    pub(super) fn text<'l>(&self, levels: impl Iterator<Item = (&'l str, Level)>, most: i64) -> String {
        let levels: Vec<(&str, Level)> = levels.collect();
        let mut out = Families::default();
        self.registry.tell(&mut out);
        self.executing.each(|[schema, level], gauge| out.add(&SEATS, &[("flow_schema", schema), ("priority_level", level)], gauge.get() as f64, None));
        let queues = |level: &str| levels.iter().any(|(name, own)| *name == level && own.queues);
        self.dispatched.each(|[schema, level], count| {
            if !queues(level) {
                return;
            }
            out.add(&WAITING, &[("flow_schema", schema), ("priority_level", level)], 0.0, None);
            let mut buckets = [0; WAIT_ENDS + 1];
            buckets[0] = count.get();
            out.add_histogram(&WAITED, &[("execute", "true"), ("flow_schema", schema), ("priority_level", level)], &WAIT_S, &buckets, 0.0);
        });
        let shares: i64 = levels.iter().map(|(_, level)| level.shares).sum();
        for (name, level) in &levels {
            let nominal = (most as f64 * level.shares as f64 / shares.max(1) as f64).ceil();
            for (family, seats) in [(&NOMINAL, nominal), (&LOWER, 0.0), (&UPPER, most as f64), (&CURRENT, most as f64)] {
                out.add(family, &[("priority_level", *name)], seats, None);
            }
        }
        out.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_their_flow() {
        let counts = Counts::default();
        let levels =
            [("exempt", Level { shares: 0, queues: false }), ("low", Level { shares: 100, queues: true }), ("high", Level { shares: 40, queues: true })];
        let text = || counts.text(levels.into_iter(), 2000);
        let low = counts.pair("low", "service-accounts");
        // A schema that is written again goes on counting.
        drop(counts.pair("low", "service-accounts").executing(false));
        let watch = low.executing(true);
        counts.refused(&low);
        drop(counts.pair("exempt", "probes").executing(false));
        let of = r#"flow_schema="service-accounts",priority_level="low""#;
        let told = text();
        for line in [
            format!("apiserver_flowcontrol_dispatched_requests_total{{{of}}} 2"),
            format!(r#"apiserver_flowcontrol_rejected_requests_total{{{of},reason="concurrency-limit"}} 1"#),
            format!("apiserver_flowcontrol_current_executing_requests{{{of}}} 1"),
            format!("apiserver_flowcontrol_current_executing_seats{{{of}}} 1"),
            format!(r#"apiserver_flowcontrol_request_execution_seconds_count{{{of},type="regular"}} 1"#),
            format!("apiserver_flowcontrol_current_inqueue_requests{{{of}}} 0"),
            format!(r#"apiserver_flowcontrol_request_wait_duration_seconds_bucket{{execute="true",{of},le="0"}} 2"#),
            r#"apiserver_flowcontrol_nominal_limit_seats{priority_level="low"} 1429"#.to_owned(),
            r#"apiserver_flowcontrol_nominal_limit_seats{priority_level="exempt"} 0"#.to_owned(),
            r#"apiserver_flowcontrol_upper_limit_seats{priority_level="high"} 2000"#.to_owned(),
        ] {
            assert!(told.lines().any(|own| own == line), "{line} in\n{told}");
        }
        assert!(!told.contains(r#"inqueue_requests{flow_schema="probes""#), "what is exempt would not wait either");
        assert!(!told.contains(r#"type="watch""#), "none has begun wholly");
        drop(watch);
        let ended = [format!("current_executing_requests{{{of}}} 0"), format!(r#"request_execution_seconds_count{{{of},type="watch"}} 1"#)];
        assert!(ended.iter().all(|line| text().contains(line)), "{}", text());
    }
}
