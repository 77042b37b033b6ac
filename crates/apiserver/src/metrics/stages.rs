//! What is counted on a request's way to its answer: who asks and how long that took to find out, whether he may, how much he sends
//! (upstream's `endpoints/filters/metrics.go`, `request/x509`, `endpoints/handlers/metrics`), and handshakes that never became a request.

use instruments::{Counter, Family, Histogram, Kind, Labelled, Registry, exponential};
use std::{
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

const USERS: Family = Family::new("authenticated_user_requests", Kind::Counter, "[ALPHA] Counter of authenticated requests broken out by username.");
const ATTEMPTS: Family = Family::new("authentication_attempts", Kind::Counter, "[ALPHA] Counter of authenticated attempts.");
const FOUND_OUT: Family = Family::new("authentication_duration_seconds", Kind::Histogram, "[ALPHA] Authentication duration in seconds broken out by result.");
const DECISIONS: Family = Family::new(
    "authorization_attempts_total",
    Kind::Counter,
    "[ALPHA] Counter of authorization attempts broken down by result. It can be either 'allowed', 'denied', 'no-opinion' or 'error'.",
);
const DECIDED: Family = Family::new("authorization_duration_seconds", Kind::Histogram, "[ALPHA] Authorization duration in seconds broken out by result.");
const CERTIFICATES: Family = Family::new(
    "apiserver_client_certificate_expiration_seconds",
    Kind::Histogram,
    "[ALPHA] Distribution of the remaining lifetime on the certificate used to authenticate a request.",
);
const HANDSHAKES: Family =
    Family::new("apiserver_tls_handshake_errors_total", Kind::Counter, "[ALPHA] Number of requests dropped with 'TLS handshake error from' error");
const BODIES: Family =
    Family::new("apiserver_request_body_size_bytes", Kind::Histogram, "[ALPHA] Apiserver request body size in bytes broken out by resource and verb.");

static STAGE_S: [f64; 15] = exponential(0.001, 2.0);
/// From half an hour to a year.
static LEFT_S: [f64; 14] =
    [0.0, 1800.0, 3600.0, 7200.0, 21_600.0, 43_200.0, 86_400.0, 172_800.0, 345_600.0, 604_800.0, 2_592_000.0, 7_776_000.0, 15_552_000.0, 31_104_000.0];
static BODY_BYTES: [f64; 31] = steps(50_000.0, 100_000.0);
/// The users that upstream tells by their names.
const NAMED: [&str; 5] = ["admin", "client", "kube_proxy", "kubelet", "system:serviceaccount:kube-system:default"];

/// So many ends of buckets, each by a step behind the one before.
const fn steps<const N: usize>(start: f64, step: f64) -> [f64; N] {
    let (mut ends, mut end, mut at) = ([0.0; N], start, 0);
    while at < N {
        ends[at] = end;
        end += step;
        at += 1;
    }
    ends
}

/// As what all other users are told.
const OTHER: &str = "other";

/// How often a stage has come to a result, and how long that took.
struct Results {
    counts: Arc<Labelled<1, Counter>>,
    times: Arc<Labelled<1, Histogram>>,
    /// Of the two results that there are; every request passes here, and looks nothing up.
    known: [OnceLock<(Arc<Counter>, Arc<Histogram>)>; 2],
}

impl Results {
    fn note(&self, (at, result): (usize, &'static str), took: Duration) {
        let of = || (self.counts.with([result]), self.times.with([result]));
        let (count, time) = self.known[at].get_or_init(of);
        count.inc();
        time.took(took);
    }
}

/// See the module's head.
pub(crate) struct Stages {
    registry: Registry,
    users: Arc<Labelled<1, Counter>>,
    others: OnceLock<Arc<Counter>>,
    attempts: Results,
    decisions: Results,
    certificates: Arc<Histogram>,
    handshakes: Arc<Counter>,
    bodies: Arc<Labelled<3, Histogram>>,
}

impl Default for Stages {
    fn default() -> Self {
        let registry = Registry::default();
        let results = |counted: &'static Family, timed: &'static Family| Results {
            counts: registry.counters(counted, ["result"]),
            times: registry.histograms(timed, ["result"], &STAGE_S),
            known: Default::default(),
        };
        Stages {
            users: registry.counters(&USERS, ["username"]),
            others: OnceLock::new(),
            attempts: results(&ATTEMPTS, &FOUND_OUT),
            decisions: results(&DECISIONS, &DECIDED),
            certificates: registry.histogram(&CERTIFICATES, &LEFT_S),
            handshakes: registry.counter(&HANDSHAKES),
            bodies: registry.histograms(&BODIES, ["group", "resource", "verb"], &BODY_BYTES),
            registry,
        }
    }
}

impl Stages {
    /// It is known who asks, or that he shows what nobody knows.
    pub(crate) fn authenticated(&self, name: Option<&str>, took: Duration) {
        match name.map(class) {
            Some(OTHER) => self.others.get_or_init(|| self.users.with([OTHER])).inc(),
            Some(named) => self.users.with([named]).inc(),
            None => {}
        }
        self.attempts.note(if name.is_some() { (0, "success") } else { (1, "error") }, took);
    }

    /// He may, or nobody says that he may.
    pub(crate) fn authorized(&self, may: bool, took: Duration) {
        self.decisions.note(if may { (0, "allowed") } else { (1, "no-opinion") }, took);
    }

    /// Somebody shows a certificate that ends then.
    pub(crate) fn certificate(&self, ends: SystemTime, now: SystemTime) {
        let left = ends.duration_since(now).map_or_else(|since| -since.duration().as_secs_f64(), |left| left.as_secs_f64());
        self.certificates.observe(left);
    }

    /// A connection has ended before it was one.
    pub(crate) fn handshake_failed(&self) {
        self.handshakes.inc();
    }

    /// What is sent with a request.
    pub(crate) fn body(&self, group: &str, resource: &str, verb: &str, bytes: usize) {
        self.bodies.with([group, resource, verb]).observe(bytes as f64);
    }

    /// All of it, as text.
    pub(crate) fn text(&self) -> String {
        self.registry.text()
    }
}

/// As what a user is counted (upstream's `compressUsername`): names would be many, and nobody's business.
fn class(name: &str) -> &str {
    match name {
        _ if NAMED.contains(&name) => name,
        _ if name.contains('@') => "email_id",
        _ => OTHER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_what_became_of_each_stage() {
        let stages = Stages::default();
        let took = Duration::from_millis(3);
        for name in [Some("admin"), Some("jane@example.com"), Some("system:node:a"), None] {
            stages.authenticated(name, took);
        }
        stages.authorized(true, took);
        stages.authorized(false, took);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        stages.certificate(now + Duration::from_secs(3600), now);
        stages.certificate(now - Duration::from_secs(1), now);
        stages.handshake_failed();
        stages.body("apps", "deployments", "create", 60_000);
        let text = stages.text();
        for line in [
            r#"authenticated_user_requests{username="admin"} 1"#,
            r#"authenticated_user_requests{username="email_id"} 1"#,
            r#"authenticated_user_requests{username="other"} 1"#,
            r#"authentication_attempts{result="error"} 1"#,
            r#"authentication_attempts{result="success"} 3"#,
            r#"authentication_duration_seconds_bucket{result="success",le="0.004"} 3"#,
            r#"authorization_attempts_total{result="no-opinion"} 1"#,
            r#"apiserver_client_certificate_expiration_seconds_bucket{le="0"} 1"#,
            r#"apiserver_client_certificate_expiration_seconds_bucket{le="3600"} 2"#,
            "apiserver_tls_handshake_errors_total 1",
            r#"apiserver_request_body_size_bytes_bucket{group="apps",resource="deployments",verb="create",le="50000"} 0"#,
            r#"apiserver_request_body_size_bytes_bucket{group="apps",resource="deployments",verb="create",le="150000"} 1"#,
            r#"apiserver_request_body_size_bytes_bucket{group="apps",resource="deployments",verb="create",le="3.05e+06"} 1"#,
        ] {
            assert!(text.lines().any(|told| told == line), "{line} in\n{text}");
        }
    }
}
