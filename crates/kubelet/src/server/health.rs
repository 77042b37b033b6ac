//! `/healthz`, each of its checks below it, and what they came to (`/metrics/slis`), under the original's names.
//!
//! Whether the kubelet lives is told to whoever asks: the original has a port for that on loopback (10248), of which several nodes of one
//! machine would have one. That there is an answer is what all the checks say: one who does not get on serves nothing.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::StatusCode;
use instruments::{Families, Family, Kind};

use super::{Answer, Call, text};

const CHECK: Family = Family::new("kubernetes_healthcheck", Kind::Gauge, "[STABLE] This metric records the result of a single healthcheck.");
const RESULTS: Family = Family::new("kubernetes_healthchecks_total", Kind::Counter, "[STABLE] This metric records the results of all healthcheck.");
/// The original's checks, in its order.
const NAMES: [&str; 4] = ["ping", "log", "syncloop", "device-plugin"];

/// How often each check was asked for by `/healthz`.
#[derive(Debug, Default)]
pub(super) struct Health([AtomicU64; NAMES.len()]);

impl Health {
    /// The answer to a request below `/healthz`.
    pub(super) fn answer(&self, call: &Call) -> Answer {
        self.told(&call.parts[1..], &call.all("exclude"), call.param("verbose").is_some())
    }

    fn told(&self, below: &[String], excluded: &[String], verbose: bool) -> Answer {
        if let Some(name) = below.first() {
            let is_known = below.len() == 1 && NAMES.contains(&name.as_str());
            return if is_known { text(StatusCode::OK, "ok") } else { text(StatusCode::NOT_FOUND, "404 page not found\n") };
        }
        let mut lines = String::new();
        for (&name, asked) in NAMES.iter().zip(&self.0) {
            if excluded.iter().any(|e| e == name) {
                lines.push_str(&format!("[+]{name} excluded: ok\n"));
            } else {
                asked.fetch_add(1, Relaxed);
                lines.push_str(&format!("[+]{name} ok\n"));
            }
        }
        let unknown: Vec<String> = excluded.iter().filter(|e| !NAMES.contains(&e.as_str())).map(|e| format!("{e:?}")).collect();
        if !unknown.is_empty() {
            lines.push_str(&format!("warn: some health checks cannot be excluded: no matches for {}\n", unknown.join(",")));
        }
        if verbose { text(StatusCode::OK, format!("{lines}healthz check passed\n")) } else { text(StatusCode::OK, "ok") }
    }

    /// What the checks came to; what nobody has asked for yet is not told.
    pub(super) fn slis(&self) -> Families {
        let mut out = Families::default();
        for (&name, asked) in NAMES.iter().zip(&self.0) {
            let asked = asked.load(Relaxed);
            if asked > 0 {
                out.add(&CHECK, &[("name", name), ("type", "healthz")], 1.0, None);
                out.add(&RESULTS, &[("name", name), ("status", "success"), ("type", "healthz")], asked as f64, None);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    async fn body(answer: Answer) -> (u16, String) {
        let code = answer.status().as_u16();
        let bytes = answer.into_body().collect().await.expect("a body").to_bytes();
        (code, String::from_utf8_lossy(&bytes).into_owned())
    }

    #[tokio::test]
    async fn checks_are_told_one_by_one_and_counted() {
        let (health, none) = (Health::default(), Vec::<String>::new());
        let names = |all: &[&str]| all.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>();
        assert_eq!(health.slis().finish(), "");
        assert_eq!(body(health.told(&none, &none, false)).await, (200, "ok".to_owned()));
        let told = body(health.told(&none, &names(&["log", "x"]), true)).await.1;
        let warning = "warn: some health checks cannot be excluded: no matches for \"x\"\n";
        assert_eq!(told, format!("[+]ping ok\n[+]log excluded: ok\n[+]syncloop ok\n[+]device-plugin ok\n{warning}healthz check passed\n"));
        assert_eq!(body(health.told(&names(&["syncloop"]), &none, false)).await, (200, "ok".to_owned()));
        assert_eq!(body(health.told(&names(&["etcd"]), &none, false)).await.0, 404);
        let slis = health.slis().finish();
        for line in [
            r#"kubernetes_healthcheck{name="ping",type="healthz"} 1"#,
            r#"kubernetes_healthchecks_total{name="ping",status="success",type="healthz"} 2"#,
            r#"kubernetes_healthchecks_total{name="log",status="success",type="healthz"} 1"#,
        ] {
            assert!(slis.lines().any(|l| l == line), "{line} in\n{slis}");
        }
    }
}
