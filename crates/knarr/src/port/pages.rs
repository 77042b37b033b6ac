//! What a part's port shows.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::SystemTime,
};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use instruments::{Families, Family, Kind, Registry, process};

use super::zpages::About;

/// What of the original is here, as `/metrics` and the kubelet tell it.
pub(super) const VERSION: &str = "v1.37.2";
pub(super) const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

const CHECK: Family = Family::new("kubernetes_healthcheck", Kind::Gauge, "[STABLE] This metric records the result of a single healthcheck.");
const CHECKS: Family = Family::new("kubernetes_healthchecks_total", Kind::Counter, "[STABLE] This metric records the results of all healthcheck.");

pub(super) type Answer = Response<Full<Bytes>>;

/// The families that every port tells, beside those of its part.
#[cfg(test)]
pub(super) fn declared() -> [(&'static str, Kind, Vec<&'static str>); 3] {
    [
        (CHECK.name, Kind::Gauge, vec!["name", "type"]),
        (CHECKS.name, Kind::Counter, vec!["name", "status", "type"]),
        ("kubernetes_build_info", Kind::Gauge, vec!["git_version", "major", "minor", "platform"]),
    ]
}

/// Something that must hold for a part to be well.
pub struct Check {
    name: &'static str,
    /// Whether only `/readyz` asks: a part that does not work yet need not be started again.
    only_ready: bool,
    holds: Box<dyn Fn() -> bool + Send + Sync>,
    counts: [Counts; 3],
}

/// How often a check held, and did not.
#[derive(Default)]
struct Counts {
    held: AtomicU64,
    failed: AtomicU64,
    /// Whether it held the last time: 0 or 1.
    last: AtomicU64,
}

/// The paths of health, as they are counted.
const HEALTH: [&str; 3] = ["healthz", "livez", "readyz"];

impl Check {
    /// Asked by all paths of health.
    pub fn new(name: &'static str, holds: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { name, only_ready: false, holds: Box::new(holds), counts: Default::default() }
    }

    /// Asked by `/readyz` alone.
    pub fn of_readiness(name: &'static str, holds: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { only_ready: true, ..Self::new(name, holds) }
    }

    fn ask(&self, of: usize) -> bool {
        let (holds, counts) = ((self.holds)(), &self.counts[of]);
        if holds { &counts.held } else { &counts.failed }.fetch_add(1, Relaxed);
        counts.last.store(u64::from(holds), Relaxed);
        holds
    }
}

/// Tells what is worked out when somebody asks.
type Tell = dyn Fn(&mut Families) + Send + Sync;

/// What a part's port shows.
pub struct Pages {
    registry: Registry,
    checks: Vec<Check>,
    /// `/metrics/resources`, of the scheduler.
    resources: Option<Box<Tell>>,
    about: About,
}

impl Pages {
    /// Shows what is counted there, whether all is well, and what the part is.
    pub fn new(registry: Registry, mut checks: Vec<Check>, about: About) -> Self {
        checks.insert(0, Check::new("ping", || true));
        Self { registry, checks, resources: None, about }
    }

    /// Tells of the resources of pods, too.
    pub fn with_resources(mut self, tell: impl Fn(&mut Families) + Send + Sync + 'static) -> Self {
        self.resources = Some(Box::new(tell));
        self
    }

    /// The answer to a GET of somebody who accepts that.
    pub fn answer(&self, path: &str, query: &str, accept: &str) -> Answer {
        let path = path.trim_start_matches('/');
        if let Some(answer) = self.about.answer(path, accept, SystemTime::now()) {
            return answer;
        }
        match path {
            "metrics" => page(METRICS, self.metrics()),
            "metrics/slis" => page(METRICS, self.slis()),
            "metrics/resources" if self.resources.is_some() => {
                let mut out = Families::default();
                self.resources.iter().for_each(|tell| tell(&mut out));
                page(METRICS, out.finish())
            }
            other => self.health(other, query).unwrap_or_else(|| failure(StatusCode::NOT_FOUND, "404 page not found\n".to_owned())),
        }
    }

    fn metrics(&self) -> String {
        let mut out = Families::default();
        self.registry.tell(&mut out);
        process::tell(&mut out);
        process::tell_build(&mut out, VERSION);
        out.finish()
    }

    fn slis(&self) -> String {
        let mut out = Families::default();
        for check in &self.checks {
            for (kind, counts) in HEALTH.iter().zip(&check.counts) {
                let [held, failed, last] = [&counts.held, &counts.failed, &counts.last].map(|count| count.load(Relaxed) as f64);
                let labels = [("name", check.name), ("type", *kind)];
                if held + failed > 0.0 {
                    out.add(&CHECK, &labels, last, None);
                }
                for (status, number) in [("error", failed), ("success", held)] {
                    if number > 0.0 {
                        out.add(&CHECKS, &[labels[0], ("status", status), labels[1]], number, None);
                    }
                }
            }
        }
        out.finish()
    }

    /// One of the paths of health, or a single check below one.
    fn health(&self, path: &str, query: &str) -> Option<Answer> {
        let (kind, single) = path.split_once('/').map_or((path, None), |(kind, check)| (kind, Some(check)));
        let of = HEALTH.iter().position(|known| *known == kind)?;
        let asked = |check: &&Check| !check.only_ready || kind == "readyz";
        if let Some(name) = single {
            let check = self.checks.iter().filter(asked).find(|check| check.name == name)?;
            let why = || failure(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {name} does not hold\n"));
            return Some(if check.ask(of) { page(TEXT, "ok".to_owned()) } else { why() });
        }
        let excluded: Vec<&str> = query.split('&').filter_map(|pair| pair.strip_prefix("exclude=")).collect();
        let (mut told, mut all) = (String::new(), true);
        for check in self.checks.iter().filter(asked) {
            let line = match excluded.contains(&check.name) {
                true => format!("[+]{} excluded: ok\n", check.name),
                false if check.ask(of) => format!("[+]{} ok\n", check.name),
                false => {
                    all = false;
                    format!("[-]{} failed: reason withheld\n", check.name)
                }
            };
            told.push_str(&line);
        }
        let unknown: Vec<String> = excluded.iter().filter(|name| self.checks.iter().all(|c| c.name != **name)).map(|name| format!("{name:?}")).collect();
        if !unknown.is_empty() {
            told.push_str(&format!("warn: some health checks cannot be excluded: no matches for {}\n", unknown.join(",")));
        }
        let verbose = query.split('&').any(|pair| pair == "verbose" || pair.starts_with("verbose="));
        Some(match (all, verbose) {
            (false, _) => failure(StatusCode::INTERNAL_SERVER_ERROR, format!("{told}{kind} check failed\n")),
            (true, false) => page(TEXT, "ok".to_owned()),
            (true, true) => page(TEXT, format!("{told}{kind} check passed\n")),
        })
    }
}

pub(super) fn page(kind: &'static str, text: String) -> Answer {
    let mut answer = Response::new(Full::from(text));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    answer
}

pub(super) fn failure(code: StatusCode, text: String) -> Answer {
    let mut answer = page(TEXT, text);
    *answer.status_mut() = code;
    answer
}
