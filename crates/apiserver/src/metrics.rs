//! What the API server counts, under upstream's names, in Prometheus' text form.
//!
//! A request costs one lock and one lookup by small numbers; names are put together only when `/metrics` is read.

use crate::{
    path::RequestInfo,
    rows::{Labels, Row},
};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Upper bounds of the duration histogram, in seconds, as upstream's.
const BOUNDS_S: [f64; 23] = [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0];
/// Series that are kept: resources × verbs × codes stays far below.
const SERIES_MAX: usize = 8192;

#[derive(PartialEq, Eq, PartialOrd, Ord, Clone)]
struct Key {
    row: usize,
    verb: &'static str,
    code: u16,
    subresource: String,
}

struct Series {
    row: Option<Arc<Labels>>,
    count: u64,
    sum_s: f64,
    buckets: [u64; BOUNDS_S.len()],
}

/// All counters of one server.
pub(crate) struct Metrics {
    series: Mutex<BTreeMap<Key, Series>>,
    in_flight_reading: AtomicI64,
    in_flight_mutating: AtomicI64,
    long_running: AtomicI64,
    watch_events: AtomicU64,
    checks: Mutex<BTreeMap<(&'static str, &'static str), Checked>>,
    started: SystemTime,
}

/// How often a check of health held, and did not.
#[derive(Default)]
struct Checked {
    held: u64,
    failed: u64,
    last: bool,
}

/// A request that is being counted; one that is dropped unanswered leaves the gauges right.
pub(crate) struct Ongoing<'a> {
    gauge: &'a AtomicI64,
}

impl Drop for Ongoing<'_> {
    fn drop(&mut self) {
        self.gauge.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    pub(crate) fn new(started: SystemTime) -> Self {
        Metrics {
            series: Mutex::default(),
            in_flight_reading: AtomicI64::new(0),
            in_flight_mutating: AtomicI64::new(0),
            long_running: AtomicI64::new(0),
            watch_events: AtomicU64::new(0),
            checks: Mutex::default(),
            started,
        }
    }

    /// Counts a request in.
    pub(crate) fn begin(&self, info: &RequestInfo) -> Ongoing<'_> {
        let gauge = if info.is_long_running() {
            &self.long_running
        } else if matches!(info.verb, "get" | "list" | "head") {
            &self.in_flight_reading
        } else {
            &self.in_flight_mutating
        };
        gauge.fetch_add(1, Ordering::Relaxed);
        Ongoing { gauge }
    }

    /// Requests that are being answered now, the long-running ones not counted.
    pub(crate) fn in_flight(&self) -> i64 {
        self.in_flight_reading.load(Ordering::Relaxed) + self.in_flight_mutating.load(Ordering::Relaxed)
    }

    /// Counts an answer.
    pub(crate) fn end(&self, row: Option<&Arc<Row>>, verb: &'static str, subresource: String, code: u16, took: Duration) {
        let key = Key { row: row.map_or(0, |r| Arc::as_ptr(r.labels()) as usize), verb, code, subresource };
        let mut series = self.series.lock();
        if series.len() >= SERIES_MAX && !series.contains_key(&key) {
            return;
        }
        let one = series.entry(key).or_insert_with(|| Series { row: row.map(|r| Arc::clone(r.labels())), count: 0, sum_s: 0.0, buckets: [0; BOUNDS_S.len()] });
        one.count += 1;
        one.sum_s += took.as_secs_f64();
        if let Some(at) = BOUNDS_S.iter().position(|bound| took.as_secs_f64() <= *bound) {
            one.buckets[at] += 1;
        }
    }

    /// Counts events sent to watchers.
    pub(crate) fn watched(&self, events: u64) {
        self.watch_events.fetch_add(events, Ordering::Relaxed);
    }

    /// Counts what a check of health has found, at which path.
    pub(crate) fn checked(&self, name: &'static str, path: &'static str, held: bool) {
        let mut checks = self.checks.lock();
        let one = checks.entry((name, path)).or_default();
        *(if held { &mut one.held } else { &mut one.failed }) += 1;
        one.last = held;
    }

    /// What was found by the checks of health, which `/metrics/slis` tells.
    pub(crate) fn checks(&self) -> String {
        let mut out = String::new();
        let checks = self.checks.lock();
        head(&mut out, "kubernetes_healthcheck", "gauge", "This metric records the result of a single healthcheck.");
        for ((name, path), one) in checks.iter() {
            let _ = writeln!(out, "kubernetes_healthcheck{{name=\"{name}\",type=\"{path}\"}} {}", u8::from(one.last));
        }
        head(&mut out, "kubernetes_healthchecks_total", "counter", "This metric records the results of all healthcheck.");
        for ((name, path), one) in checks.iter() {
            for (status, count) in [("error", one.failed), ("success", one.held)].into_iter().filter(|(_, count)| *count > 0) {
                let _ = writeln!(out, "kubernetes_healthchecks_total{{name=\"{name}\",status=\"{status}\",type=\"{path}\"}} {count}");
            }
        }
        out
    }

    /// The whole text. `objects`: resource name to number of stored objects; `given_up`: writes that nobody waits for; `reserve`: what the
    /// store can write when its disk is full.
    pub(crate) fn render(&self, objects: &[(String, usize)], given_up: i64, reserve: &store::Gauge) -> String {
        let mut out = String::with_capacity(64 * 1024);
        self.requests(&mut out);
        self.gauges(&mut out);
        head(&mut out, "apiserver_resource_objects", "gauge", "Number of stored objects.");
        for (resource, count) in objects {
            let _ = writeln!(out, "apiserver_resource_objects{{resource=\"{resource}\"}} {count}");
        }
        head(&mut out, "knarr_apiserver_writes_given_up", "gauge", "Writes that go on though their clients are gone.");
        let _ = writeln!(out, "knarr_apiserver_writes_given_up {given_up}");
        head(&mut out, "knarr_store_reserve_bytes", "gauge", "What the store can write when its disk is full.");
        let _ = writeln!(out, "knarr_store_reserve_bytes {}", reserve.bytes());
        head(&mut out, "knarr_store_reserve_used_bytes", "gauge", "What it has written so; zero while the disk has room.");
        let _ = writeln!(out, "knarr_store_reserve_used_bytes {}", reserve.used_bytes());
        self.process(&mut out);
        out
    }

    fn requests(&self, out: &mut String) {
        let series = self.series.lock();
        head(out, "apiserver_request_total", "counter", "Counter of apiserver requests.");
        for (key, one) in series.iter() {
            let _ = writeln!(out, "apiserver_request_total{{code=\"{}\",{}}} {}", key.code, labels(key, one), one.count);
        }
        let name = "apiserver_request_duration_seconds";
        head(out, name, "histogram", "Response latency distribution in seconds.");
        for (key, one) in series.iter() {
            let labels = labels(key, one);
            let mut sum = 0;
            for (bound, count) in BOUNDS_S.iter().zip(one.buckets) {
                sum += count;
                let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {sum}");
            }
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", one.count);
            let _ = writeln!(out, "{name}_sum{{{labels}}} {}", one.sum_s);
            let _ = writeln!(out, "{name}_count{{{labels}}} {}", one.count);
        }
    }

    fn gauges(&self, out: &mut String) {
        head(out, "apiserver_current_inflight_requests", "gauge", "Requests that are being answered.");
        for (kind, gauge) in [("readOnly", &self.in_flight_reading), ("mutating", &self.in_flight_mutating)] {
            let _ = writeln!(out, "apiserver_current_inflight_requests{{request_kind=\"{kind}\"}} {}", gauge.load(Ordering::Relaxed));
        }
        head(out, "apiserver_longrunning_requests", "gauge", "Watches and streams that are open.");
        let _ = writeln!(out, "apiserver_longrunning_requests {}", self.long_running.load(Ordering::Relaxed));
        head(out, "apiserver_watch_events_total", "counter", "Events sent to watchers.");
        let _ = writeln!(out, "apiserver_watch_events_total {}", self.watch_events.load(Ordering::Relaxed));
    }

    fn process(&self, out: &mut String) {
        let since = self.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        head(out, "process_start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds.");
        let _ = writeln!(out, "process_start_time_seconds {since}");
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The second field is the program's name in brackets and may hold spaces.
        let fields: Vec<&str> = stat.rsplit_once(')').map_or(Vec::new(), |(_, rest)| rest.split_whitespace().collect());
        let field = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
        head(out, "process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.");
        let _ = writeln!(out, "process_cpu_seconds_total {}", (field(11) + field(12)) as f64 / 100.0);
        head(out, "process_resident_memory_bytes", "gauge", "Resident memory size in bytes.");
        let _ = writeln!(out, "process_resident_memory_bytes {}", field(21) * 4096);
        let fds = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        head(out, "process_open_fds", "gauge", "Number of open file descriptors.");
        let _ = writeln!(out, "process_open_fds {fds}");
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}");
}

fn labels(key: &Key, series: &Series) -> String {
    let (group, version, resource, scope) = match &series.row {
        Some(row) => {
            let scope = if key.verb == "list" || key.verb == "watch" { "cluster" } else { "resource" };
            (row.group.as_str(), row.version.as_str(), row.resource.as_str(), scope)
        }
        None => ("", "", "", ""),
    };
    let verb = match key.verb {
        "create" => "POST".to_owned(),
        "update" => "PUT".to_owned(),
        verb => verb.to_ascii_uppercase(),
    };
    format!(
        "component=\"apiserver\",dry_run=\"\",group=\"{group}\",resource=\"{resource}\",scope=\"{scope}\",subresource=\"{}\",verb=\"{verb}\",version=\"{version}\"",
        key.subresource
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_of_health_are_told_by_name_and_path() {
        let metrics = Metrics::new(UNIX_EPOCH);
        for held in [true, true, false] {
            metrics.checked("etcd", "readyz", held);
        }
        metrics.checked("ping", "livez", true);
        let text = metrics.checks();
        for line in [
            "# HELP kubernetes_healthcheck [STABLE] This metric records the result of a single healthcheck.",
            r#"kubernetes_healthcheck{name="etcd",type="readyz"} 0"#,
            r#"kubernetes_healthchecks_total{name="etcd",status="error",type="readyz"} 1"#,
            r#"kubernetes_healthchecks_total{name="etcd",status="success",type="readyz"} 2"#,
            r#"kubernetes_healthcheck{name="ping",type="livez"} 1"#,
        ] {
            assert!(text.lines().any(|told| told == line), "{line} in\n{text}");
        }
        assert!(!text.contains(r#"name="ping",status="error""#));
    }
}
