//! How long pods have when the machine goes down, as the original's file of settings has it.

use std::time::Duration;

use super::{Options, ShutdownPeriod, duration};
use crate::flags::pairs;

/// Where pods begin that the cluster cannot be without.
const SYSTEM_CRITICAL: i32 = 2_000_000_000;
const SECOND_NS: i64 = 1_000_000_000;

/// A span of time in Go's writing, negative ones too.
fn written(nanos: i64) -> String {
    let text = machinery::time::go_duration(Duration::from_nanos(nanos.unsigned_abs()));
    if nanos < 0 { format!("-{text}") } else { text }
}

/// The periods, lowest priority first (upstream's `migrateConfig` and its checks).
pub(super) fn periods(options: &Options, errors: &mut Vec<String>) -> Vec<ShutdownPeriod> {
    let mut span = |text: &Option<String>| {
        text.as_deref().map_or(Ok(0), duration).unwrap_or_else(|e| {
            errors.push(e);
            0
        })
    };
    let (all, critical) = (span(&options.shutdown_grace_period), span(&options.shutdown_grace_period_critical_pods));
    if critical > all {
        errors.push(format!("invalid configuration: shutdownGracePeriodCriticalPods {} must be <= shutdownGracePeriod {}", written(critical), written(all)));
    }
    for (field, span) in [("shutdownGracePeriod", all), ("shutdownGracePeriodCriticalPods", critical)] {
        if span != 0 && span < SECOND_NS {
            errors.push(format!("invalid configuration: {field} {} must be either zero or otherwise >= 1 sec", written(span)));
        }
    }
    let named = by_priority(&options.shutdown_grace_period_by_pod_priority, errors);
    if !named.is_empty() && (all > 0 || critical > 0) {
        errors.push("invalid configuration: Cannot specify both shutdownGracePeriodByPodPriority and shutdownGracePeriod at the same time".into());
    }
    if !named.is_empty() || all <= 0 {
        return named;
    }
    [(0, all - critical), (SYSTEM_CRITICAL, critical)].map(|(priority, span)| ShutdownPeriod { priority, seconds: span / SECOND_NS }).into()
}

/// What `PRIORITY=SECONDS,…` says.
fn by_priority(texts: &[String], errors: &mut Vec<String>) -> Vec<ShutdownPeriod> {
    let named = pairs(texts, '=').unwrap_or_else(|e| {
        errors.push(e);
        Default::default()
    });
    let mut periods = Vec::new();
    for (priority, seconds) in named {
        match (priority.parse(), seconds.parse::<i64>()) {
            (Ok(priority), Ok(seconds)) if seconds >= 0 => periods.push(ShutdownPeriod { priority, seconds }),
            _ => errors.push(format!("invalid configuration: shutdownGracePeriodByPodPriority: {priority}={seconds} is no priority and its seconds")),
        }
    }
    periods.sort_by_key(|p| p.priority);
    periods
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(all: &str, critical: &str, by: &[&str]) -> Result<Vec<(i32, i64)>, Vec<String>> {
        let some = |text: &str| Some(text.to_owned()).filter(|t| !t.is_empty());
        let options = Options {
            shutdown_grace_period: some(all),
            shutdown_grace_period_critical_pods: some(critical),
            shutdown_grace_period_by_pod_priority: by.iter().map(|t| (*t).to_owned()).collect(),
            ..Options::default()
        };
        options.check().map(|s| s.shutdown.iter().map(|p| (p.priority, p.seconds)).collect())
    }

    #[test]
    fn two_periods_or_one_for_each_priority() {
        assert_eq!(of("", "", &[]), Ok(vec![]));
        assert_eq!(of("30s", "10s", &[]), Ok(vec![(0, 20), (SYSTEM_CRITICAL, 10)]));
        assert_eq!(of("1m30s", "", &[]), Ok(vec![(0, 90), (SYSTEM_CRITICAL, 0)]));
        assert_eq!(of("", "", &["10000=20,-5=1", "0=10"]), Ok(vec![(-5, 1), (0, 10), (10_000, 20)]));
    }

    #[test]
    fn what_is_wrong_is_told_in_the_originals_words() {
        let told = |all: &str, critical: &str, by: &[&str]| of(all, critical, by).expect_err("wrong").join("\n");
        assert_eq!(told("10s", "20s", &[]), "invalid configuration: shutdownGracePeriodCriticalPods 20s must be <= shutdownGracePeriod 10s");
        assert_eq!(told("500ms", "", &[]), "invalid configuration: shutdownGracePeriod 500ms must be either zero or otherwise >= 1 sec");
        assert_eq!(told("30s", "-1s", &[]), "invalid configuration: shutdownGracePeriodCriticalPods -1s must be either zero or otherwise >= 1 sec");
        assert_eq!(
            told("30s", "", &["0=1"]),
            "invalid configuration: Cannot specify both shutdownGracePeriodByPodPriority and shutdownGracePeriod at the same time"
        );
        assert_eq!(told("x", "", &[]), "time: invalid duration \"x\"");
        assert_eq!(told("", "", &["high=1"]), "invalid configuration: shutdownGracePeriodByPodPriority: high=1 is no priority and its seconds");
    }
}
