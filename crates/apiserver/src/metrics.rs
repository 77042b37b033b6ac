//! What the API server counts, under upstream's names, in Prometheus' text form.
//!
//! An answer costs one lock and one lookup by small numbers; names are put together only when `/metrics` is read. What is counted on the
//! way to it is in [`stages`] and [`admission`], what the process is in [`process`].

mod admission;
mod conversions;
mod process;
mod stages;

pub(crate) use admission::{Asked, Step, Whose, error_type};
pub(crate) use conversions::Conversions;

use crate::{
    path::{RequestInfo, STREAMS},
    query::Query,
    rows::{Labels, Row},
    services::Room,
    tallies::{BOUNDS_S, Done, EVENT_BOUNDS, Writes},
};
use admission::Admission;
use http::{HeaderMap, header};
use instruments::{Counter, Family, Kind, Labelled, Registry};
use parking_lot::Mutex;
use stages::Stages;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{Display, Write as _},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

/// Of what is promised nothing is told below 50 ms.
const PROMISED_FROM: usize = 2;
/// Upper bounds of the sizes of answers, in bytes.
const SIZE_BOUNDS: [u64; 7] = [1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000];
/// What is no resource is told apart where it is one of these.
const DOCUMENTS: [(&str, &str, &str); 7] = [
    ("/healthz", "", "/healthz"),
    ("/livez", "", "/livez"),
    ("/readyz", "", "/readyz"),
    ("/api", COMPONENT, "/api"),
    ("/apis", COMPONENT, "/apis"),
    ("/openapi/v3", "", "openapi/v3"),
    ("/openapi/v3/", "", "openapi/v3/"),
];
const COMPONENT: &str = "apiserver";
/// The media type of a patch that applies.
const APPLY: &[u8] = b"application/apply-patch+yaml";
/// Series that are kept: resources × verbs × codes stays far below.
const SERIES_MAX: usize = 8192;

#[derive(PartialEq, Eq, PartialOrd, Ord, Clone)]
struct Key {
    row: usize,
    counted: Counted,
    code: u16,
}

/// By what a request is counted beside its resource.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone)]
pub(crate) struct Counted {
    verb: &'static str,
    subresource: String,
    scope: &'static str,
    component: &'static str,
    dry_run: &'static str,
}

/// What became of a request, as it is counted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Became {
    pub(crate) code: u16,
    pub(crate) took: Duration,
    /// How many bytes the answer has, where that is known.
    pub(crate) bytes: Option<u64>,
    /// The server has ended it for its own sake.
    pub(crate) is_ended: bool,
    /// What is asked for is told to be going away.
    pub(crate) is_deprecated: bool,
}

impl Counted {
    /// Of what is asked for. The scopes are upstream's (`CleanScope`), and a patch that applies is told
    /// apart. A subresource that nobody serves is none: whoever asks says what it is called, in whatever letters, and how many there are.
    pub(crate) fn of(info: &RequestInfo, row: Option<&Arc<Row>>, query: &Query<'_>, headers: &HeaderMap) -> Counted {
        let scope = match () {
            () if !info.name.is_empty() || info.verb == "create" => "resource",
            () if !info.namespace.is_empty() => "namespace",
            () if info.is_resource => "cluster",
            () => "",
        };
        let applies = || headers.get(header::CONTENT_TYPE).is_some_and(|media| media.as_bytes() == APPLY);
        let verb = if info.verb == "patch" && applies() { "apply" } else { info.verb };
        if !info.is_resource {
            let document = DOCUMENTS.iter().find(|(path, ..)| if path.ends_with('/') { info.path.starts_with(*path) } else { info.path == *path });
            let (component, subresource) = document.map_or((COMPONENT, ""), |(_, component, told)| (*component, *told));
            return Counted { verb, subresource: subresource.to_owned(), scope, component, dry_run: "" };
        }
        let known = row.and_then(|row| row.resource.subresource(&info.subresource));
        let subresource = known.map(|known| known.name.clone()).unwrap_or_default();
        Counted { verb, subresource, scope, component: COMPONENT, dry_run: dry_run(query) }
    }

    /// Whether answers are told of by their size.
    pub(crate) fn is_read(&self) -> bool {
        matches!(self.verb, "get" | "list")
    }

    /// The verb as upstream names it (`cleanVerb`): by its method, where nothing else is said of it.
    fn verb(&self) -> String {
        match self.verb {
            "create" => "POST".to_owned(),
            "update" => "PUT".to_owned(),
            "head" => "GET".to_owned(),
            "deletecollection" => "DELETE".to_owned(),
            "options" | "trace" | "" => "OTHER".to_owned(),
            verb => verb.to_ascii_uppercase(),
        }
    }
}

struct Series {
    row: Option<Arc<Labels>>,
    timed: Timed,
    sized: Sizes,
    ended: u64,
    is_deprecated: bool,
}

/// How large answers were.
#[derive(Debug, Default)]
struct Sizes {
    count: u64,
    sum: u64,
    buckets: [u64; SIZE_BOUNDS.len()],
}

impl Sizes {
    fn note(&mut self, bytes: u64) {
        self.count += 1;
        self.sum += bytes;
        if let Some(at) = SIZE_BOUNDS.iter().position(|bound| bytes <= *bound) {
            self.buckets[at] += 1;
        }
    }

    fn add(&mut self, other: &Sizes) {
        self.count += other.count;
        self.sum += other.sum;
        self.buckets.iter_mut().zip(other.buckets).for_each(|(own, count)| *own += count);
    }
}

/// How long answers took.
#[derive(Default)]
struct Timed {
    count: u64,
    sum_s: f64,
    buckets: [u64; BOUNDS_S.len()],
}

impl Timed {
    fn note(&mut self, took: Duration) {
        self.count += 1;
        self.sum_s += took.as_secs_f64();
        if let Some(at) = BOUNDS_S.iter().position(|bound| took.as_secs_f64() <= *bound) {
            self.buckets[at] += 1;
        }
    }

    fn add(&mut self, other: &Timed) {
        self.count += other.count;
        self.sum_s += other.sum_s;
        self.buckets.iter_mut().zip(other.buckets).for_each(|(own, count)| *own += count);
    }
}

const UNAVAILABLE: Family = Family::new(
    "aggregator_unavailable_apiservice_total",
    Kind::Counter,
    "[ALPHA] How often an APIService was found to be unavailable that was available before.",
);

/// What is known of a resource: how many objects it has, and the revision of its last change.
pub(crate) type Stored = (usize, u64);

impl From<Writes> for Timed {
    fn from(writes: Writes) -> Timed {
        Timed { count: writes.count, sum_s: writes.sum_s, buckets: writes.buckets }
    }
}

/// An APIService by its name, and whether it is available.
pub(crate) type Service = (String, bool);

/// All counters of one server.
pub(crate) struct Metrics {
    series: Mutex<BTreeMap<Key, Series>>,
    in_flight_reading: AtomicI64,
    in_flight_mutating: AtomicI64,
    long_running: Arc<Mutex<Lasting>>,
    checks: Mutex<BTreeMap<(&'static str, &'static str), Checked>>,
    stages: Stages,
    admission: Admission,
    conversions: Arc<Conversions>,
    registry: Registry,
    unavailable: Arc<Labelled<2, Counter>>,
    started: SystemTime,
}

/// How often a check of health held, and did not.
#[derive(Default)]
struct Checked {
    held: u64,
    failed: u64,
    last: bool,
}

/// The requests that last, such as watches, by what they are counted by.
type Lasting = BTreeMap<(usize, Counted), Open>;

/// How many of them are open.
struct Open {
    row: Option<Arc<Labels>>,
    count: u64,
}

/// A request that lasts, until its answer is at its end.
pub(crate) struct Last {
    all: Arc<Mutex<Lasting>>,
    key: (usize, Counted),
}

impl Drop for Last {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        if let Some(open) = all.get_mut(&self.key) {
            open.count -= 1;
            if open.count == 0 {
                all.remove(&self.key);
            }
        }
    }
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
        let registry = Registry::default();
        Metrics {
            series: Mutex::default(),
            in_flight_reading: AtomicI64::new(0),
            in_flight_mutating: AtomicI64::new(0),
            long_running: Arc::default(),
            checks: Mutex::default(),
            stages: Stages::default(),
            admission: Admission::default(),
            conversions: Arc::default(),
            unavailable: registry.counters(&UNAVAILABLE, ["name", "reason"]),
            registry,
            started,
        }
    }

    /// What is counted before there is an answer.
    pub(crate) fn stages(&self) -> &Stages {
        &self.stages
    }

    /// What is counted of webhooks that convert.
    pub(crate) fn conversions(&self) -> &Arc<Conversions> {
        &self.conversions
    }

    /// An APIService was available until now.
    pub(crate) fn unavailable(&self, service: &str, reason: &str) {
        self.unavailable.with([service, reason]).inc();
    }

    /// What is counted of admission.
    pub(crate) fn admission(&self) -> &Admission {
        &self.admission
    }

    /// Forgets what was counted of answers, and of checks of health.
    pub(crate) fn reset(&self) {
        self.series.lock().clear();
        self.checks.lock().clear();
    }

    /// When the server began.
    pub(crate) fn started(&self) -> SystemTime {
        self.started
    }

    /// Counts a request in that lasts.
    pub(crate) fn last(&self, row: Option<&Arc<Row>>, counted: Counted) -> Last {
        let key = (address(row), counted);
        let open = || Open { row: row.map(|row| Arc::clone(row.labels())), count: 0 };
        self.long_running.lock().entry(key.clone()).or_insert_with(open).count += 1;
        Last { all: Arc::clone(&self.long_running), key }
    }

    /// Counts a request in that does not.
    pub(crate) fn begin(&self, info: &RequestInfo) -> Ongoing<'_> {
        let gauge = if matches!(info.verb, "get" | "list" | "head") { &self.in_flight_reading } else { &self.in_flight_mutating };
        gauge.fetch_add(1, Ordering::Relaxed);
        Ongoing { gauge }
    }

    /// Requests that are being answered now, the long-running ones not counted.
    pub(crate) fn in_flight(&self) -> i64 {
        self.in_flight_reading.load(Ordering::Relaxed) + self.in_flight_mutating.load(Ordering::Relaxed)
    }

    /// Counts an answer of a resource, or of a document that is told of.
    pub(crate) fn end(&self, row: Option<&Arc<Row>>, counted: Counted, became: Became) {
        if row.is_none() && counted.subresource.is_empty() {
            return;
        }
        let key = Key { row: address(row), counted, code: became.code };
        let mut series = self.series.lock();
        if series.len() >= SERIES_MAX && !series.contains_key(&key) {
            return;
        }
        let one = series.entry(key).or_insert_with(|| Series {
            row: row.map(|r| Arc::clone(r.labels())),
            timed: Timed::default(),
            sized: Sizes::default(),
            ended: 0,
            is_deprecated: false,
        });
        one.timed.note(became.took);
        became.bytes.into_iter().for_each(|bytes| one.sized.note(bytes));
        one.ended += u64::from(became.is_ended);
        // A definition may say so later, of a resource that was asked for before.
        one.is_deprecated |= became.is_deprecated;
    }

    /// Counts how large an answer was that was counted before that was known.
    pub(crate) fn sized(&self, row: Option<&Arc<Row>>, counted: Counted, code: u16, bytes: u64) {
        if let Some(one) = self.series.lock().get_mut(&Key { row: address(row), counted, code }) {
            one.sized.note(bytes);
        }
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

    /// The whole text. `objects`: group and resource to what is stored; `size`: how much room the store takes on its disk; `served`: the resources that may be watched; `services`: the APIServices; `room`: what Services have taken; `given_up`: writes that nobody waits for; `reserve`: what the
    /// store can write when its disk is full.
    pub(crate) fn render(
        &self,
        (objects, size): (&BTreeMap<(&str, &str), Stored>, Option<u64>),
        served: &[&Arc<Labels>],
        services: &[Service],
        room: &Room,
        given_up: i64,
        reserve: &store::Gauge,
    ) -> String {
        let mut out = String::with_capacity(64 * 1024);
        self.requests(&mut out);
        self.gauges(&mut out);
        watched(&mut out, served);
        left_behind(&mut out, served);
        alpha(&mut out, "apiserver_resource_objects", "Number of stored objects.");
        for ((group, resource), (count, _)) in objects {
            let _ = writeln!(out, "apiserver_resource_objects{{group=\"{group}\",resource=\"{resource}\"}} {count}");
        }
        alpha(&mut out, "apiserver_watch_cache_resource_version", "The revision of the last change of a resource.");
        for ((group, resource), (_, revision)) in objects.iter().filter(|(_, (_, revision))| *revision > 0) {
            let _ = writeln!(out, "apiserver_watch_cache_resource_version{{group=\"{group}\",resource=\"{resource}\"}} {revision}");
        }
        if let Some(size) = size {
            head(&mut out, "apiserver_storage_size_bytes", "gauge", "How much room the store takes on its disk, in bytes.");
            let _ = writeln!(out, "apiserver_storage_size_bytes{{storage_cluster_id=\"etcd-0\"}} {size}");
        }
        written(&mut out, served);
        alpha(&mut out, "aggregator_unavailable_apiservice", "Whether an APIService is unavailable.");
        for (name, available) in services {
            let _ = writeln!(out, "aggregator_unavailable_apiservice{{name=\"{name}\"}} {}", u8::from(!available));
        }
        allocated(&mut out, room);
        build(&mut out);
        head(&mut out, "knarr_apiserver_writes_given_up", "gauge", "Writes that go on though their clients are gone.");
        let _ = writeln!(out, "knarr_apiserver_writes_given_up {given_up}");
        head(&mut out, "knarr_store_reserve_bytes", "gauge", "What the store can write when its disk is full.");
        let _ = writeln!(out, "knarr_store_reserve_bytes {}", reserve.bytes());
        head(&mut out, "knarr_store_reserve_used_bytes", "gauge", "What it has written so; zero while the disk has room.");
        let _ = writeln!(out, "knarr_store_reserve_used_bytes {}", reserve.used_bytes());
        out.push_str(&process::text());
        out.push_str(&self.stages.text());
        out.push_str(&self.admission.text());
        out.push_str(&self.conversions.text());
        out.push_str(&self.registry.text());
        out
    }

    fn requests(&self, out: &mut String) {
        let series = self.series.lock();
        // By what is told of them: a definition that was made again has the names of the one that was there before.
        let mut answers: BTreeMap<String, u64> = BTreeMap::new();
        // Of how an answer has ended these say nothing, so those that ended otherwise are counted together.
        let mut all: BTreeMap<String, Timed> = BTreeMap::new();
        let mut promised: BTreeMap<String, Timed> = BTreeMap::new();
        let mut sizes: BTreeMap<String, Sizes> = BTreeMap::new();
        let mut ended: BTreeMap<String, u64> = BTreeMap::new();
        let mut deprecated: BTreeSet<String> = BTreeSet::new();
        for (key, one) in series.iter() {
            let counted = &key.counted;
            let told = labels(counted, one.row.as_deref(), true);
            *answers.entry(format!("code=\"{}\",{told}", key.code)).or_default() += one.timed.count;
            all.entry(told).or_default().add(&one.timed);
            let of = labels(counted, one.row.as_deref(), false);
            if counted.verb != "watch" && counted.dry_run.is_empty() && !STREAMS.contains(&counted.subresource.as_str()) {
                promised.entry(of.clone()).or_default().add(&one.timed);
            }
            if one.sized.count > 0 {
                sizes.entry(of.clone()).or_default().add(&one.sized);
            }
            if one.ended > 0 {
                *ended.entry(format!("code=\"{}\",{of}", key.code)).or_default() += one.ended;
            }
            if let Some(row) = one.row.as_deref().filter(|_| one.is_deprecated) {
                let Labels { group, version, resource, .. } = row;
                let subresource = &counted.subresource;
                deprecated
                    .insert(format!("group=\"{group}\",removed_release=\"\",resource=\"{resource}\",subresource=\"{subresource}\",version=\"{version}\""));
            }
        }
        // Every request that ends waits for it.
        drop(series);
        head(out, "apiserver_request_total", "counter", "Counter of apiserver requests.");
        for (labels, count) in &answers {
            let _ = writeln!(out, "apiserver_request_total{{{labels}}} {count}");
        }
        histogram(out, "apiserver_request_duration_seconds", "[STABLE] Response latency distribution in seconds.", &all, 0);
        histogram(out, "apiserver_request_sli_duration_seconds", "[ALPHA] The same without what lasts, such as watches.", &promised, PROMISED_FROM);
        sized(out, &sizes);
        if !ended.is_empty() {
            marked(out, "apiserver_request_terminations_total", "counter", "[ALPHA] Number of requests which apiserver terminated in self-defense.");
        }
        for (labels, count) in &ended {
            let _ = writeln!(out, "apiserver_request_terminations_total{{{labels}}} {count}");
        }
        if !deprecated.is_empty() {
            head(out, "apiserver_requested_deprecated_apis", "gauge", "Deprecated APIs that have been requested.");
        }
        for labels in &deprecated {
            let _ = writeln!(out, "apiserver_requested_deprecated_apis{{{labels}}} 1");
        }
    }

    fn gauges(&self, out: &mut String) {
        head(out, "apiserver_current_inflight_requests", "gauge", "Requests that are being answered.");
        for (kind, gauge) in [("readOnly", &self.in_flight_reading), ("mutating", &self.in_flight_mutating)] {
            let _ = writeln!(out, "apiserver_current_inflight_requests{{request_kind=\"{kind}\"}} {}", gauge.load(Ordering::Relaxed));
        }
        marked(out, "apiserver_current_inqueue_requests", "gauge", "[ALPHA] Requests that wait for their turn, of which there are none.");
        for kind in ["readOnly", "mutating"] {
            let _ = writeln!(out, "apiserver_current_inqueue_requests{{request_kind=\"{kind}\"}} 0");
        }
        head(out, "apiserver_longrunning_requests", "gauge", "Watches and streams that are open.");
        let mut all: BTreeMap<String, u64> = BTreeMap::new();
        for ((_, counted), open) in self.long_running.lock().iter() {
            *all.entry(labels(counted, open.row.as_deref(), false)).or_default() += open.count;
        }
        for (labels, count) in &all {
            let _ = writeln!(out, "apiserver_longrunning_requests{{{labels}}} {count}");
        }
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    marked(out, name, kind, &format!("[STABLE] {help}"));
}

/// The same for gauges that upstream does not promise to keep.
fn alpha(out: &mut String, name: &str, help: &str) {
    marked(out, name, "gauge", &format!("[ALPHA] {help}"));
}

/// The same with what upstream promises of it, if it is its own.
fn marked(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// The events that watches were sent, and how large they were.
fn watched(out: &mut String, served: &[&Arc<Labels>]) {
    const SIZES: &str = "apiserver_watch_events_sizes";
    let told = served
        .iter()
        .map(|labels| (format!("group=\"{}\",resource=\"{}\",version=\"{}\"", labels.group, labels.resource, labels.version), labels.watched.told()));
    let told: Vec<_> = told.filter(|(_, (buckets, _))| buckets.iter().any(|count| *count > 0)).collect();
    marked(out, "apiserver_watch_events_total", "counter", "[BETA] Events sent to watchers.");
    for (labels, (buckets, _)) in &told {
        let _ = writeln!(out, "apiserver_watch_events_total{{{labels}}} {}", buckets.iter().sum::<u64>());
    }
    marked(out, SIZES, "histogram", "[BETA] How large those events were, in bytes.");
    for (labels, (buckets, bytes)) in &told {
        spread(out, (SIZES, labels), EVENT_BOUNDS.iter().zip(*buckets), 0, (buckets.iter().sum::<u64>(), bytes));
    }
}

/// The watches that ended because their clients were too slow, of all versions of a resource together.
fn left_behind(out: &mut String, served: &[&Arc<Labels>]) {
    const NAME: &str = "apiserver_terminated_watchers_total";
    let mut all: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for labels in served {
        *all.entry((labels.group.as_str(), labels.resource.as_str())).or_default() += labels.watched.left_behind();
    }
    all.retain(|_, count| *count > 0);
    if !all.is_empty() {
        marked(out, NAME, "counter", "[ALPHA] Watches that ended because their clients were too slow.");
    }
    for ((group, resource), count) in all {
        let _ = writeln!(out, "{NAME}{{group=\"{group}\",resource=\"{resource}\"}} {count}");
    }
}

/// What the store was asked to write, of all versions of a resource together: under the names of requests to etcd, which dashboards know.
fn written(out: &mut String, served: &[&Arc<Labels>]) {
    let (mut timed, mut failed, mut changes) = (BTreeMap::<String, Timed>::new(), BTreeMap::<String, u64>::new(), BTreeMap::<String, u64>::new());
    for labels in served {
        let (group, resource) = (&labels.group, &labels.resource);
        for (done, writes) in Done::ALL.into_iter().filter_map(|done| Some((done, labels.written.of(done)?))) {
            let of = format!("group=\"{group}\",operation=\"{}\",resource=\"{resource}\"", done.name());
            *failed.entry(of.clone()).or_default() += writes.failed;
            *changes.entry(format!("group=\"{group}\",resource=\"{resource}\"")).or_default() += writes.changes;
            timed.entry(of).or_default().add(&writes.into());
        }
    }
    histogram(out, "etcd_request_duration_seconds", "[ALPHA] How long the store took to write, in seconds.", &timed, 0);
    let counts: BTreeMap<String, u64> = timed.iter().map(|(labels, one)| (labels.clone(), one.count)).collect();
    failed.retain(|_, count| *count > 0);
    for (name, help, all) in [
        ("etcd_requests_total", "[ALPHA] Writes that the store was asked for.", &counts),
        ("etcd_request_errors_total", "[ALPHA] Writes that the store could not make.", &failed),
        ("apiserver_storage_events_received_total", "[BETA] Changes of what is stored.", &changes),
        ("apiserver_watch_cache_events_received_total", "[ALPHA] Changes that watches could be told.", &changes),
    ] {
        if !all.is_empty() {
            marked(out, name, "counter", help);
        }
        for (labels, count) in all {
            let _ = writeln!(out, "{name}{{{labels}}} {count}");
        }
    }
}

/// `from`: the first bound that is told.
fn histogram(out: &mut String, name: &str, help: &str, all: &BTreeMap<String, Timed>, from: usize) {
    marked(out, name, "histogram", help);
    for (labels, one) in all {
        spread(out, (name, labels), BOUNDS_S.iter().zip(one.buckets), from, (one.count, &one.sum_s));
    }
}

/// One series of a histogram: its buckets with their bounds, of which those from `from` on are told, how many values there were, and their sum.
fn spread(out: &mut String, (name, labels): (&str, &str), buckets: impl Iterator<Item = (impl Display, u64)>, from: usize, (count, sum): (u64, &dyn Display)) {
    let mut below = 0;
    for (at, (bound, more)) in buckets.enumerate() {
        below += more;
        if at >= from {
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {below}");
        }
    }
    let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}\n{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {count}");
}

/// How large answers were, of those that were read.
fn sized(out: &mut String, all: &BTreeMap<String, Sizes>) {
    const NAME: &str = "apiserver_response_sizes";
    // As Go spells them.
    const BOUNDS: [&str; SIZE_BOUNDS.len()] = ["1000", "10000", "100000", "1e+06", "1e+07", "1e+08", "1e+09"];
    head(out, NAME, "histogram", "Response size distribution in bytes.");
    for (labels, one) in all {
        spread(out, (NAME, labels), BOUNDS.iter().zip(one.buckets), 0, (one.count, &one.sum));
    }
}

/// What Services have taken of addresses and ports, and what is left.
fn allocated(out: &mut String, room: &Room) {
    for (name, help, of) in [
        ("kube_apiserver_clusterip_allocator_allocated_ips", "Gauge measuring the number of allocated IPs for Services", 0),
        ("kube_apiserver_clusterip_allocator_available_ips", "Gauge measuring the number of available IPs for Services", 1),
    ] {
        alpha(out, name, help);
        for (cidr, taken, free) in &room.ips {
            let _ = writeln!(out, "{name}{{cidr=\"{cidr}\"}} {}", [*taken, *free][of]);
        }
    }
    for (name, help, count) in [
        ("kube_apiserver_nodeport_allocator_allocated_ports", "Gauge measuring the number of allocated NodePorts for Services", room.ports.0),
        ("kube_apiserver_nodeport_allocator_available_ports", "Gauge measuring the number of available NodePorts for Services", room.ports.1),
    ] {
        alpha(out, name, help);
        let _ = writeln!(out, "{name} {count}");
    }
}

/// Of what version the server is.
fn build(out: &mut String) {
    marked(out, "kubernetes_build_info", "gauge", "[BETA] A constant 1 with the version as labels.");
    let version = machinery::resources::version();
    let told = |name: &str| version[name].as_str().unwrap_or_default().to_owned();
    let labels = [
        ("build_date", "buildDate"),
        ("compiler", "compiler"),
        ("git_commit", "gitCommit"),
        ("git_tree_state", "gitTreeState"),
        ("git_version", "gitVersion"),
        ("go_version", "goVersion"),
        ("major", "major"),
        ("minor", "minor"),
        ("platform", "platform"),
    ];
    let labels = labels.map(|(label, name)| format!("{label}=\"{}\"", told(name)));
    let _ = writeln!(out, "kubernetes_build_info{{{}}} 1", labels.join(","));
}

/// A row by a small number: what it is counted by outlives it.
fn address(row: Option<&Arc<Row>>) -> usize {
    row.map_or(0, |row| Arc::as_ptr(row.labels()) as usize)
}

/// `tried`: whether those that were only tried are told apart.
fn labels(counted: &Counted, row: Option<&Labels>, tried: bool) -> String {
    let (group, version, resource) = row.map_or(("", "", ""), |row| (row.group.as_str(), row.version.as_str(), row.resource.as_str()));
    let Counted { subresource, scope, component, dry_run, .. } = counted;
    let dry_run = if tried { format!("dry_run=\"{dry_run}\",") } else { String::new() };
    let verb = counted.verb();
    format!(
        "component=\"{component}\",{dry_run}group=\"{group}\",resource=\"{resource}\",scope=\"{scope}\",subresource=\"{subresource}\",verb=\"{verb}\",version=\"{version}\""
    )
}

/// Those families of a text that a query asks for by their names (`name[]`), or all of it.
pub(crate) fn only(text: String, query: &Query<'_>) -> String {
    let names: Vec<&str> = query.all("name[]").collect();
    if names.is_empty() {
        return text;
    }
    let mut is_asked = false;
    let lines = text.lines().filter(|line| {
        if let Some(family) = line.strip_prefix("# HELP ") {
            is_asked = family.split(' ').next().is_some_and(|name| names.contains(&name));
        }
        is_asked
    });
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// As what the text is told that a client gets: in this version, with names as what it accepts first would have them (upstream's
/// `expfmt.Negotiate`). All names here are so in each of these ways; `dots`, which nobody asks for, would double their underscores and is
/// taken for no wish.
pub(crate) fn media(headers: &HeaderMap) -> &'static str {
    const UNDERSCORES: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let mut ranges: Vec<Range<'_>> = accept.split(',').map(Range::of).collect();
    ranges.sort_by(|one, other| other.quality.total_cmp(&one.quality));
    let mut media = UNDERSCORES;
    for range in ranges {
        media = match range.param("escaping") {
            "underscores" => UNDERSCORES,
            "allow-utf-8" => "text/plain; version=0.0.4; charset=utf-8; escaping=allow-utf-8",
            "values" => "text/plain; version=0.0.4; charset=utf-8; escaping=values",
            _ => media,
        };
        if range.media == "text/plain" && matches!(range.param("version"), "" | "0.0.4") {
            break;
        }
    }
    media
}

/// One of the media types that are accepted.
struct Range<'h> {
    media: &'h str,
    params: Vec<(&'h str, &'h str)>,
    quality: f64,
}

impl<'h> Range<'h> {
    fn of(text: &'h str) -> Range<'h> {
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let params: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).map(|(name, value)| (name.trim(), value.trim())).collect();
        let quality = params.iter().find(|(name, _)| *name == "q").map_or(1.0, |(_, quality)| quality.parse().unwrap_or_default());
        Range { media, params, quality }
    }

    fn param(&self, name: &str) -> &'h str {
        self.params.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| *value)
    }
}

/// What a query says of being tried alone, as it is counted.
fn dry_run(query: &Query<'_>) -> &'static str {
    let said: Vec<&str> = query.all("dryRun").collect();
    match said.iter().all(|one| *one == "All") {
        true if said.is_empty() => "",
        true => "All",
        false => "invalid",
    }
}

#[cfg(test)]
mod tests;
