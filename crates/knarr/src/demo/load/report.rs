//! What came of the requests.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::Mode;

/// Failures that are told one by one, of the first and of the last.
const TOLD_MAX: usize = 20;
/// Latencies that are remembered at most; an hour at a thousand a second.
const LATENCIES_MAX: usize = 4_000_000;

/// An answer.
#[derive(Clone, Debug, Default)]
pub struct Answered {
    pub code: u16,
    /// Which version answered, if it said so.
    pub version: String,
    /// Which pod answered, if it said so.
    pub pod: String,
    /// Whether all of the body came.
    pub whole: bool,
}

/// To whom a request went that failed.
#[derive(Clone, Copy, Debug)]
pub enum Whom<'a> {
    /// A pod: that which answered, or whose connection it was.
    Pod(&'a str),
    /// Whoever is behind a URL.
    Url(&'a str),
}

#[derive(Default)]
struct PerMode {
    ok: u64,
    failed: u64,
    /// In microseconds.
    latencies: Vec<u32>,
}

/// All that is counted.
pub struct Report {
    began: Instant,
    /// How long requests were sent.
    pub fired: Duration,
    /// Requests that a server took on a kept connection and closed without an answer.
    pub retried: u64,
    modes: BTreeMap<&'static str, PerMode>,
    reasons: BTreeMap<String, u64>,
    told: Vec<Value>,
    /// Of those after them, the latest first.
    told_last: VecDeque<Value>,
    /// When the first and the last of them were due.
    failed: Option<(Duration, Duration)>,
    failed_pods: BTreeMap<String, u64>,
    versions: BTreeMap<String, u64>,
    pods: BTreeMap<String, u64>,
}

impl Report {
    pub fn new(began: Instant) -> Self {
        Self {
            began,
            fired: Duration::ZERO,
            retried: 0,
            modes: BTreeMap::new(),
            reasons: BTreeMap::new(),
            told: Vec::new(),
            told_last: VecDeque::new(),
            failed: None,
            failed_pods: BTreeMap::new(),
            versions: BTreeMap::new(),
            pods: BTreeMap::new(),
        }
    }

    /// An answer came; a bad one is a failure.
    pub fn succeed(&mut self, mode: Mode, due: Instant, answered: Answered) {
        if !(200..300).contains(&answered.code) {
            return self.fail(mode, Whom::Pod(&answered.pod), due, &format!("status {}", answered.code));
        }
        if !answered.whole {
            return self.fail(mode, Whom::Pod(&answered.pod), due, "the body was cut off");
        }
        let count = self.modes.entry(mode.name()).or_default();
        count.ok += 1;
        if count.latencies.len() < LATENCIES_MAX {
            count.latencies.push(u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX));
        }
        for (name, counts) in [(answered.version, &mut self.versions), (answered.pod, &mut self.pods)] {
            if !name.is_empty() {
                *counts.entry(name).or_default() += 1;
            }
        }
    }

    /// No good answer came.
    pub fn fail(&mut self, mode: Mode, whom: Whom<'_>, due: Instant, reason: &str) {
        self.modes.entry(mode.name()).or_default().failed += 1;
        *self.reasons.entry(reason.to_owned()).or_default() += 1;
        let after = due.saturating_duration_since(self.began);
        let (first, last) = self.failed.unwrap_or((after, after));
        self.failed = Some((first.min(after), last.max(after)));
        let name = match whom {
            Whom::Pod(pod) => {
                *self.failed_pods.entry(pod.to_owned()).or_default() += 1;
                pod
            }
            Whom::Url(url) => url,
        };
        let told = json!({"after_ms": millis(after), "connection": mode.name(), "whom": name, "reason": reason});
        if self.told.len() < TOLD_MAX {
            self.told.push(told);
        } else {
            self.told_last.truncate(TOLD_MAX - 1);
            self.told_last.push_front(told);
        }
    }

    fn ok(&self) -> u64 {
        self.modes.values().map(|m| m.ok).sum()
    }

    /// How many failed.
    pub fn failed(&self) -> u64 {
        self.modes.values().map(|m| m.failed).sum()
    }

    /// A line for people.
    pub fn line(&self) -> String {
        let versions: Vec<String> = self.versions.iter().map(|(v, n)| format!("{v}: {n}")).collect();
        let failed = self.failed();
        format!("{:>4} s  {} answered, {failed} failed  {}", self.began.elapsed().as_secs(), self.ok(), versions.join(", "))
    }

    /// Everything, on one line.
    pub fn json(&self) -> Value {
        let (ok, failed) = (self.ok(), self.failed());
        let all = latencies(self.modes.values().flat_map(|m| m.latencies.iter().copied()).collect());
        let by: serde_json::Map<String, Value> = self
            .modes
            .iter()
            .map(|(name, m)| ((*name).to_owned(), json!({"ok": m.ok, "failed": m.failed, "latency_ms": latencies(m.latencies.clone())})))
            .collect();
        let seconds = self.fired.as_secs_f64();
        json!({
            "requests": ok + failed, "ok": ok, "failed": failed, "retried": self.retried, "seconds": (seconds * 1000.0).round() / 1000.0,
            "rate": if seconds > 0.0 { ((ok + failed) as f64 / seconds).round() } else { 0.0 },
            "failures": self.reasons, "first_failures": self.told, "last_failures": self.told_last, "failed_pods": self.failed_pods,
            "failed_ms": self.failed.map(|(first, last)| json!({"first": millis(first), "last": millis(last)})), "latency_ms": all, "connections": by,
            "versions": self.versions, "pods": self.pods,
        })
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Percentiles in milliseconds.
fn latencies(mut all: Vec<u32>) -> Value {
    all.sort_unstable();
    // The smallest that so many per mille do not exceed.
    let at = |per_mille: usize| {
        let index = (all.len() * per_mille).div_ceil(1000).saturating_sub(1);
        all.get(index).map_or(Value::Null, |us| (f64::from(*us) / 1000.0).into())
    };
    json!({"p50": at(500), "p90": at(900), "p99": at(990), "p999": at(999), "max": at(1000)})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles() {
        let got = latencies((1..=1000).rev().map(|n| n * 1000).collect());
        assert_eq!(got, json!({"p50": 500.0, "p90": 900.0, "p99": 990.0, "p999": 999.0, "max": 1000.0}));
        assert_eq!(latencies(vec![7000])["p50"], 7.0);
        assert_eq!(latencies(Vec::new())["max"], Value::Null);
    }

    #[tokio::test]
    async fn a_bad_answer_is_a_failure() {
        let now = Instant::now();
        let mut report = Report::new(now);
        let answered = |code, whole| Answered { code, version: "v1".into(), pod: "p".into(), whole };
        report.succeed(Mode::New, now, answered(200, true));
        report.succeed(Mode::KeepAlive, now, answered(503, true));
        report.succeed(Mode::KeepAlive, now, answered(200, false));
        let json = report.json();
        assert_eq!((&json["requests"], &json["failed"], &json["versions"]["v1"]), (&3.into(), &2.into(), &1.into()));
        assert_eq!(json["failures"], json!({"status 503": 1, "the body was cut off": 1}));
        report.fail(Mode::New, Whom::Url("http://a"), now + Duration::from_millis(7), "timeout");
        let json = report.json();
        assert_eq!((&json["failed_pods"], &json["failed_ms"]), (&json!({"p": 2}), &json!({"first": 0, "last": 7})));
        (0..50).for_each(|n| report.fail(Mode::New, Whom::Url("http://a"), now + Duration::from_millis(n), "timeout"));
        let (first, last) = (&report.json()["first_failures"], &report.json()["last_failures"]);
        assert_eq!((first.as_array().map(Vec::len), last.as_array().map(Vec::len)), (Some(TOLD_MAX), Some(TOLD_MAX)));
        assert_eq!((&last[0]["after_ms"], &last[TOLD_MAX - 1]["after_ms"]), (&49.into(), &30.into()));
    }
}
