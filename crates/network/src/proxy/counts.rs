//! What the proxy counts, under kube-proxy's names (`pkg/proxy/metrics`), told where kube-proxy tells it: at port 10249 of loopback, to
//! whoever is on the machine. `docs/metrics.md` says which of the original's are not here.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use instruments::{Counter, Families, Family as Metric, Gauge, Histogram, Kind, Labelled, Registry, exponential, process};
use k8s_openapi::jiff::Timestamp;
use tokio::task::JoinSet;

use super::answers;
use crate::nft::Family;

/// Where kube-proxy tells its metrics.
const PORT: u16 = 10249;
/// What `/proxyMode` says.
const MODE: &str = "nftables";
const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

const SYNC: Metric = Metric::new("kubeproxy_sync_proxy_rules_duration_seconds", Kind::Histogram, "[ALPHA] SyncProxyRules latency in seconds");
const SYNC_FULL: Metric =
    Metric::new("kubeproxy_sync_full_proxy_rules_duration_seconds", Kind::Histogram, "[ALPHA] SyncProxyRules latency in seconds for full resyncs");
const SYNC_PARTIAL: Metric =
    Metric::new("kubeproxy_sync_partial_proxy_rules_duration_seconds", Kind::Histogram, "[ALPHA] SyncProxyRules latency in seconds for partial resyncs");
const LAST: Metric =
    Metric::new("kubeproxy_sync_proxy_rules_last_timestamp_seconds", Kind::Gauge, "[ALPHA] The last time proxy rules were successfully synced");
const LAST_QUEUED: Metric =
    Metric::new("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", Kind::Gauge, "[ALPHA] The last time a sync of proxy rules was queued");
const PROGRAMMING: Metric =
    Metric::new("kubeproxy_network_programming_duration_seconds", Kind::Histogram, "[ALPHA] In Cluster Network Programming Latency in seconds");
const SLICES: Metric = Metric::new("kubeproxy_sync_proxy_rules_endpoint_changes_total", Kind::Counter, "[ALPHA] Cumulative proxy rules Endpoint changes");
const SERVICES: Metric = Metric::new("kubeproxy_sync_proxy_rules_service_changes_total", Kind::Counter, "[ALPHA] Cumulative proxy rules Service changes");
const FAILURES: Metric =
    Metric::new("kubeproxy_sync_proxy_rules_nftables_sync_failures_total", Kind::Counter, "[ALPHA] Cumulative proxy nftables sync failures");
const HEALTHZ: Metric = Metric::new("kubeproxy_proxy_healthz_total", Kind::Counter, "[ALPHA] Cumulative proxy healthz HTTP status");
const LIVEZ: Metric = Metric::new("kubeproxy_proxy_livez_total", Kind::Counter, "[ALPHA] Cumulative proxy livez HTTP status");
const FLOWS: Metric =
    Metric::new("kubeproxy_conntrack_reconciler_deleted_entries_total", Kind::Counter, "[ALPHA] Cumulative conntrack flows deleted by conntrack reconciler");

static SYNC_S: [f64; 15] = exponential(0.001, 2.0);
static PROGRAMMING_S: [f64; 80] = programming();

/// A quarter and half a second; each second, then each fifth up to two minutes; and each half minute up to five.
const fn programming() -> [f64; 80] {
    let (mut ends, mut end, mut at) = ([0.0; 80], 0.0, 0);
    while at < ends.len() {
        end += match at {
            0 | 1 => 0.25,
            2 => 0.5,
            3..=61 => 1.0,
            62..=73 => 5.0,
            _ => 30.0,
        };
        ends[at] = end;
        at += 1;
    }
    ends
}

/// The counts of one proxy.
#[derive(Debug)]
pub(super) struct Counts {
    registry: Registry,
    sync: Arc<Labelled<1, Histogram>>,
    full: Arc<Labelled<1, Histogram>>,
    partial: Arc<Labelled<1, Histogram>>,
    last: Arc<Labelled<1, Gauge>>,
    queued: Arc<Labelled<1, Gauge>>,
    programming: Arc<Labelled<1, Histogram>>,
    /// EndpointSlices that have come, changed or gone.
    pub(super) slices: Arc<Counter>,
    /// The same of Services.
    pub(super) services: Arc<Counter>,
    failures: Arc<Labelled<1, Counter>>,
    healthz: Arc<Labelled<1, Counter>>,
    livez: Arc<Labelled<1, Counter>>,
    flows: Arc<Labelled<1, Counter>>,
}

impl Default for Counts {
    fn default() -> Self {
        let registry = Registry::default();
        let of_family = ["ip_family"];
        Self {
            sync: registry.histograms(&SYNC, of_family, &SYNC_S),
            full: registry.histograms(&SYNC_FULL, of_family, &SYNC_S),
            partial: registry.histograms(&SYNC_PARTIAL, of_family, &SYNC_S),
            last: registry.gauges(&LAST, of_family),
            queued: registry.gauges(&LAST_QUEUED, of_family),
            programming: registry.histograms(&PROGRAMMING, of_family, &PROGRAMMING_S),
            slices: registry.counter(&SLICES),
            services: registry.counter(&SERVICES),
            failures: registry.counters(&FAILURES, of_family),
            healthz: registry.counters(&HEALTHZ, ["code"]),
            livez: registry.counters(&LIVEZ, ["code"]),
            flows: registry.counters(&FLOWS, of_family),
            registry,
        }
    }
}

impl Counts {
    /// News has come.
    pub(super) fn queued(&self, family: Family) {
        self.queued.with([family.name()]).set(client::timestamp().as_second());
    }

    /// The kernel has what was heard.
    pub(super) fn synced(&self, family: Family) {
        self.last.with([family.name()]).set(client::timestamp().as_second());
    }

    /// What a change of some Services took.
    pub(super) fn partial(&self, family: Family, took: Duration) {
        self.sync.with([family.name()]).took(took);
        self.partial.with([family.name()]).took(took);
    }

    /// What the whole table took.
    pub(super) fn full(&self, family: Family, took: Duration) {
        self.sync.with([family.name()]).took(took);
        self.full.with([family.name()]).took(took);
    }

    /// What was to be told at this moment has become rules.
    pub(super) fn programmed(&self, family: Family, told: Timestamp) {
        let since = client::timestamp().duration_since(told).as_secs_f64();
        self.programming.with([family.name()]).observe(since.max(0.0));
    }

    /// The kernel has refused rules.
    pub(super) fn failed(&self, family: Family) {
        self.failures.with([family.name()]).inc();
    }

    /// So many flows were forgotten.
    pub(super) fn forgot(&self, family: Family, flows: u64) {
        self.flows.with([family.name()]).add(flows);
    }

    /// `/healthz` (or `/livez`) was asked for.
    pub(super) fn asked(&self, is_healthz: bool, is_good: bool) {
        let of = if is_healthz { &self.healthz } else { &self.livez };
        of.with([if is_good { "200" } else { "503" }]).inc();
    }

    fn text(&self) -> String {
        let mut out = Families::default();
        self.registry.tell(&mut out);
        process::tell(&mut out);
        out.finish()
    }

    fn answer(&self, path: &str) -> String {
        match path {
            "/metrics" => answers::good(METRICS, &self.text()),
            "/proxyMode" => answers::good(TEXT, MODE),
            "/healthz" => answers::good(TEXT, "ok"),
            _ => answers::not_found(),
        }
    }
}

/// Tells them at these addresses, until what is given back is dropped.
pub(super) fn serve(addresses: impl IntoIterator<Item = IpAddr>, counts: Arc<Counts>, node: &str) -> JoinSet<()> {
    answers::serve_all(addresses, PORT, node, move |path: &str| counts.answer(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_the_originals() {
        let ends = PROGRAMMING_S;
        assert_eq!(ends[..3], [0.25, 0.5, 1.0]);
        assert_eq!((ends[60], ends[61], ends[62], ends[72], ends[73], ends[79]), (59.0, 60.0, 65.0, 115.0, 120.0, 300.0));
    }

    #[test]
    fn what_was_counted_is_told_by_kube_proxys_names() {
        let counts = Counts::default();
        counts.partial(Family::V4, Duration::from_millis(3));
        counts.full(Family::V4, Duration::from_millis(30));
        counts.programmed(Family::V6, client::timestamp());
        counts.services.inc();
        counts.asked(true, false);
        counts.forgot(Family::V4, 2);
        let told = counts.answer("/metrics");
        for line in [
            "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 2",
            "kubeproxy_sync_full_proxy_rules_duration_seconds_bucket{ip_family=\"IPv4\",le=\"0.032\"} 1",
            "kubeproxy_network_programming_duration_seconds_bucket{ip_family=\"IPv6\",le=\"0.25\"} 1",
            "kubeproxy_sync_proxy_rules_service_changes_total 1",
            "kubeproxy_proxy_healthz_total{code=\"503\"} 1",
            "kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family=\"IPv4\"} 2",
        ] {
            assert!(told.lines().any(|of| of == line), "{line}: {told}");
        }
        let names: Vec<&str> = counts.registry.declared().iter().map(|(name, ..)| *name).collect();
        let wanted = [
            "conntrack_reconciler_deleted_entries_total",
            "network_programming_duration_seconds",
            "proxy_healthz_total",
            "proxy_livez_total",
            "sync_full_proxy_rules_duration_seconds",
            "sync_partial_proxy_rules_duration_seconds",
            "sync_proxy_rules_duration_seconds",
            "sync_proxy_rules_endpoint_changes_total",
            "sync_proxy_rules_last_queued_timestamp_seconds",
            "sync_proxy_rules_last_timestamp_seconds",
            "sync_proxy_rules_nftables_sync_failures_total",
            "sync_proxy_rules_service_changes_total",
        ];
        assert_eq!(names, wanted.map(|name| format!("kubeproxy_{name}")));
        assert!(counts.answer("/proxyMode").ends_with("\r\n\r\nnftables"));
        assert!(counts.answer("/").starts_with("HTTP/1.1 404 "));
    }
}
