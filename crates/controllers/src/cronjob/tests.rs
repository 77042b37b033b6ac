//! Schedules and what is due.

use client::{Informer, ObjectKey, Recorder};
use futures_util::future::LocalBoxFuture;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::schedule::Schedule;
use super::{Crons, Due, by_clock, clock, due};
use crate::fake::{Fake, refusal};
use crate::work::Controller as _;

fn at(text: &str) -> Timestamp {
    format!("{text}:00Z").parse().unwrap_or_else(|e| panic!("{e}"))
}

fn schedule(text: &str) -> Schedule {
    Schedule::parse(text).unwrap_or_else(|| panic!("{text}"))
}

#[test]
fn the_next_time_of_a_schedule() {
    for (text, from, want) in [
        ("*/15 * * * *", "2026-03-01T10:07", "2026-03-01T10:15"),
        ("0 0 * * *", "2026-12-31T23:59", "2027-01-01T00:00"),
        ("30 4 1,15 * *", "2026-03-02T00:00", "2026-03-15T04:30"),
        ("0 9-17/2 * * mon-fri", "2026-03-06T17:00", "2026-03-09T09:00"),
        ("0 0 13 * 5", "2026-03-01T00:00", "2026-03-06T00:00"),
        ("0 0 29 2 *", "2026-03-01T00:00", "2028-02-29T00:00"),
        ("@hourly", "2026-03-01T10:00", "2026-03-01T11:00"),
        ("5/20 * ? * *", "2026-03-01T10:30", "2026-03-01T10:45"),
        ("@every 1h30m", "2026-03-01T10:00", "2026-03-01T11:30"),
        ("@every 1.5h", "2026-03-01T10:00", "2026-03-01T11:30"),
    ] {
        assert_eq!(schedule(text).after(at(from), &TimeZone::UTC), Some(at(want)), "{text}");
    }
    assert_eq!(schedule("0 0 30 2 *").after(at("2026-03-01T00:00"), &TimeZone::UTC), None);
    for bad in ["", "* * * *", "60 * * * *", "* * * * 7-9", "*/0 * * * *", "5-1 * * * *", "@never", "@every 1d", "@every 9999999999h"] {
        assert!(Schedule::parse(bad).is_none(), "{bad}");
    }
}

fn zone(name: &str) -> TimeZone {
    TimeZone::tzif(name, machinery::time::zone(name).unwrap()).unwrap()
}

#[test]
fn a_schedule_goes_by_the_clocks_of_its_zone() {
    for (name, text, from, wanted) in [
        ("Asia/Kolkata", "0 9 * * *", "2026-03-01T00:00", vec!["2026-03-01T03:30", "2026-03-02T03:30"]),
        ("America/New_York", "0 9 * * *", "2026-03-07T12:00", vec!["2026-03-07T14:00", "2026-03-08T13:00"]),
        // 02:30 is left out on 8 March; 01:30 comes twice on 1 November.
        ("America/New_York", "30 2 * * *", "2026-03-07T12:00", vec!["2026-03-09T06:30"]),
        ("America/New_York", "30 1 * * *", "2026-10-31T12:00", vec!["2026-11-01T05:30", "2026-11-01T06:30", "2026-11-02T06:30"]),
        ("America/New_York", "@hourly", "2026-11-01T04:30", vec!["2026-11-01T05:00", "2026-11-01T06:00", "2026-11-01T07:00"]),
        // Midnight itself was left out; the clock was set back over midnight.
        ("America/Sao_Paulo", "0 0 * * *", "2018-11-03T12:00", vec!["2018-11-05T02:00"]),
        ("America/Sao_Paulo", "0 12 18 2 *", "2018-02-17T23:30", vec!["2018-02-18T15:00"]),
        ("Australia/Lord_Howe", "45 1 * * *", "2026-04-04T12:00", vec!["2026-04-04T14:45", "2026-04-04T15:15"]),
    ] {
        let mut from = at(from);
        for want in wanted {
            from = schedule(text).after(from, &zone(name)).unwrap();
            assert_eq!(from, at(want), "{name} {text}");
        }
    }
    assert_eq!(schedule("0 0 30 2 *").after(at("2026-03-01T00:00"), &zone("Europe/Paris")), None);
}

#[test]
fn the_time_of_a_job_is_told_by_the_clocks_of_its_zone() {
    assert_eq!(by_clock(at("2026-07-01T10:00"), &TimeZone::UTC), "2026-07-01T10:00:00Z");
    assert_eq!(by_clock(at("2026-07-01T10:00"), &zone("Europe/London")), "2026-07-01T11:00:00+01:00");
    assert_eq!(by_clock(at("2026-01-01T10:00"), &zone("Europe/London")), "2026-01-01T10:00:00Z");
}

#[test]
fn only_the_last_missed_time_counts() {
    let told = |text: &str, from: &str, now: &str| due(&schedule(text), &TimeZone::UTC, at(from), at(now));
    let none = Due { last: None, next: Some(at("2026-03-01T11:00")), many: false };
    assert_eq!(told("0 * * * *", "2026-03-01T10:00", "2026-03-01T10:30"), none);
    for (text, from, now, last, next, many) in [
        ("0 * * * *", "2026-03-01T10:00", "2026-03-01T13:05", "2026-03-01T13:00", "2026-03-01T14:00", false),
        ("* * * * *", "2025-03-01T10:00", "2026-03-01T13:05", "2026-03-01T13:05", "2026-03-01T13:06", true),
        // A daily one that was suspended for years has one job to start, and not one for each hundred days.
        ("30 4 * * *", "2022-03-01T10:00", "2026-03-01T13:05", "2026-03-01T04:30", "2026-03-02T04:30", true),
        ("0 0 * * 1", "2020-03-01T10:00", "2026-03-01T13:05", "2026-02-23T00:00", "2026-03-02T00:00", true),
        ("0 0 1 * *", "2000-03-01T10:00", "2026-03-15T13:05", "2026-03-01T00:00", "2026-04-01T00:00", true),
        // Its beat is kept.
        ("@every 7h", "2025-03-01T10:00", "2026-03-01T10:00", "2026-03-01T07:00", "2026-03-01T14:00", true),
    ] {
        assert_eq!(told(text, from, now), Due { last: Some(at(last)), next: Some(at(next)), many }, "{text}");
    }
}

#[test]
fn what_was_missed_is_reckoned_by_the_first_gap() {
    let told = |text: &str, from: &str, now: &str| due(&schedule(text), &TimeZone::UTC, at(from), at(now));
    // From ten to eleven, five minutes apart: at 12:00 the original takes 11:55 for the time before, and finds nothing after it today.
    let passed = |next: &str| Due { last: None, next: Some(at(next)), many: false };
    assert_eq!(told("*/5 9-10 * * *", "2026-03-01T10:40", "2026-03-01T12:00"), passed("2026-03-02T09:00"));
    assert_eq!(told("*/10 8-18 * * 1-5", "2026-03-06T12:00", "2026-03-09T07:00"), passed("2026-03-09T08:00"), "four hundred, of which nothing is said");
    // One alone, and the two last of a window, are made up for.
    let last = |last: &str, next: &str, many| Due { last: Some(at(last)), next: Some(at(next)), many };
    assert_eq!(told("*/5 9-10 * * *", "2026-03-01T10:50", "2026-03-01T12:00"), last("2026-03-01T10:55", "2026-03-02T09:00", false));
    assert_eq!(told("*/5 9-10 * * *", "2026-03-01T10:40", "2026-03-01T10:57"), last("2026-03-01T10:55", "2026-03-02T09:00", false));
    assert_eq!(told("*/5 9-10 * * *", "2026-03-01T10:40", "2026-03-02T09:01"), last("2026-03-02T09:00", "2026-03-02T09:05", true));
}

#[test]
fn a_star_with_a_step_does_not_leave_the_word_to_the_other_day() {
    for (text, from, want) in [
        // Odd days, or Mondays (2 March 2026 is one).
        ("0 0 */2 * 1", "2026-03-01T00:00", "2026-03-02T00:00"),
        ("0 0 1 * */3", "2026-03-02T00:00", "2026-03-04T00:00"),
        // A bare star in a list, or one with a step of one, does.
        ("0 0 *,5 * 1", "2026-03-03T00:00", "2026-03-09T00:00"),
        ("0 0 */1 * 1", "2026-03-03T00:00", "2026-03-09T00:00"),
        ("0 0 5,? * 1", "2026-03-03T00:00", "2026-03-09T00:00"),
    ] {
        assert_eq!(schedule(text).after(at(from), &TimeZone::UTC), Some(at(want)), "{text}");
    }
}

#[test]
fn a_schedule_of_old_may_name_its_zone() {
    let cron = |schedule: &str, zone: Value| -> CronJob {
        let spec = json!({"schedule": schedule, "timeZone": zone, "jobTemplate": {"spec": {"template": {}}}});
        serde_json::from_value(json!({"metadata": {"name": "c"}, "spec": spec})).unwrap_or_else(|e| panic!("{e}"))
    };
    let next = |cron: &CronJob| clock(cron).and_then(|(schedule, zone)| schedule.after(at("2026-03-01T00:00"), &zone));
    for (schedule, zone, want) in [
        ("0 9 * * *", Value::Null, Some("2026-03-01T09:00")),
        ("TZ=Asia/Kolkata 0 9 * * *", Value::Null, Some("2026-03-01T03:30")),
        ("CRON_TZ=Asia/Kolkata 0 9 * * *", Value::Null, Some("2026-03-01T03:30")),
        ("0 9 * * *", json!("Asia/Kolkata"), Some("2026-03-01T03:30")),
        ("TZ=No/Where 0 9 * * *", Value::Null, None),
    ] {
        assert_eq!(next(&cron(schedule, zone)), want.map(at), "{schedule}");
    }
}

/// A CronJob that is to start a job each minute, and whose last time was a minute ago.
fn every_minute(policy: &str, active: &[&str]) -> CronJob {
    let last = Timestamp::from_second((client::timestamp().as_second() / 60 - 1) * 60).unwrap_or_default();
    let active: Vec<Value> = active.iter().map(|name| json!({"name": name, "uid": name, "namespace": "n"})).collect();
    // As the API has it: a list without anything is none.
    let active = (!active.is_empty()).then_some(active);
    serde_json::from_value(json!({
        "apiVersion": "batch/v1", "kind": "CronJob",
        "metadata": {"name": "c", "namespace": "n", "uid": "u", "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"schedule": "* * * * *", "concurrencyPolicy": policy, "jobTemplate": {"spec": {"template": {}}}},
        "status": {"active": active, "lastScheduleTime": last.to_string()},
    }))
    .unwrap_or_else(|e| panic!("{e}"))
}

fn job(name: &str, owner: &str, status: Value) -> Job {
    let owner = json!([{"apiVersion": "batch/v1", "kind": "CronJob", "name": "c", "uid": owner, "controller": true}]);
    let value = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "namespace": "n", "uid": name, "ownerReferences": owner},
        "spec": {"template": {}}, "status": status});
    serde_json::from_value(value).unwrap_or_else(|e| panic!("{e}"))
}

/// What a step writes, but for events: method, last part of the path, and the active jobs of a status.
fn step(cron: CronJob, jobs: Vec<Job>, answer: impl Fn(&str, &str) -> Option<(u16, Value)> + Send + Sync + 'static) -> LocalBoxFuture<'static, Vec<String>> {
    Box::pin(stepped(cron, jobs, answer))
}

async fn stepped(cron: CronJob, jobs: Vec<Job>, answer: impl Fn(&str, &str) -> Option<(u16, Value)> + Send + Sync + 'static) -> Vec<String> {
    let live = serde_json::to_value(&cron).unwrap_or_default();
    let server = Fake::new(move |method, path| {
        let name = path.rsplit('/').next().unwrap_or_default().to_owned();
        answer(method, &name).unwrap_or_else(|| match (method, &*name) {
            ("POST", "jobs") => (201, json!({"metadata": {"name": "made", "namespace": "n", "uid": "made"}, "spec": {"template": {}}})),
            ("GET", "c") | ("PUT", _) => (200, live.clone()),
            ("GET", _) => refusal(404, "NotFound"),
            _ => (200, json!({"kind": "Status", "status": "Success"})),
        })
    });
    let client = server.client();
    let registry = instruments::Registry::default();
    let informer = Informer::fixed(jobs);
    informer.add_index("controller", |job: &Job| client::Meta::controller(job).map(|o| o.uid.clone()).into_iter().collect());
    let crons = Crons {
        recorder: Recorder::new(client.clone(), "c", ""),
        client,
        crons: Informer::fixed([cron]),
        jobs: informer,
        skew: registry.histogram(&super::SKEW, &super::SKEW_S),
    };
    let done = Box::pin(crons.reconcile(&ObjectKey::new("n", "c"))).await;
    assert!(done.is_ok(), "{done:?}");
    let told = |line: &String| {
        let mut parts = line.splitn(3, ' ');
        let (method, path, body) = (parts.next()?, parts.next()?, parts.next()?);
        let status: Value = serde_json::from_str(body).unwrap_or_default();
        let active = status["status"]["active"].as_array().map(|a| a.iter().filter_map(|j| j["name"].as_str()).collect::<Vec<_>>().join(","));
        let name = path.rsplit('/').next()?;
        (!path.contains("/events")).then(|| format!("{method} {name} {}", active.unwrap_or_default()).trim_end().to_owned())
    };
    server.written().iter().filter_map(told).collect()
}

#[tokio::test]
async fn a_job_that_somebody_made_is_no_run() {
    let by_hand = || vec![job("by-hand", "u", json!({"active": 1}))];
    assert_eq!(step(every_minute("Forbid", &[]), by_hand(), |_, _| None).await, ["POST jobs", "PUT status made"]);
    assert_eq!(step(every_minute("Replace", &[]), by_hand(), |_, _| None).await, ["POST jobs", "PUT status made"], "it is not replaced");
    assert_eq!(step(every_minute("Forbid", &["by-hand"]), by_hand(), |_, _| None).await, Vec::<String>::new(), "a run is waited for");
}

#[tokio::test]
async fn an_active_job_that_is_not_heard_of_is_asked_for() {
    // Gone: the next may begin.
    assert_eq!(step(every_minute("Forbid", &["gone"]), vec![], |_, _| None).await, ["POST jobs", "PUT status made"]);
    // There, and not heard of yet: it is waited for, and replaced.
    let there =
        |method: &str, name: &str| (method == "GET" && name == "new").then(|| (200, serde_json::to_value(job("new", "u", json!({}))).unwrap_or_default()));
    assert_eq!(step(every_minute("Forbid", &["new"]), vec![], there).await, Vec::<String>::new());
    assert_eq!(step(every_minute("Replace", &["new"]), vec![], there).await, ["DELETE new", "POST jobs", "PUT status made"]);
    // Another has its name: the run is gone.
    for policy in ["Forbid", "Replace"] {
        let again = |method: &str, name: &str| {
            let mut again = job("new", "u", json!({}));
            again.metadata.uid = Some("again".to_owned());
            (method == "GET" && name == "new").then(|| (200, serde_json::to_value(again).unwrap_or_default()))
        };
        assert_eq!(step(every_minute(policy, &["new"]), vec![], again).await, ["POST jobs", "PUT status made"], "{policy}");
    }
}

#[tokio::test]
async fn a_name_that_is_taken_is_a_run_if_it_is_its_own() {
    let taken = |owner: &'static str| {
        move |method: &str, name: &str| match (method, name) {
            ("POST", "jobs") => Some(refusal(409, "AlreadyExists")),
            ("GET", name) if name.starts_with("c-") => Some((200, serde_json::to_value(job("before", owner, json!({}))).unwrap_or_default())),
            _ => None,
        }
    };
    assert_eq!(step(every_minute("Allow", &[]), vec![], taken("u")).await, ["POST jobs", "PUT status before"], "made before a crash");
    assert_eq!(step(every_minute("Allow", &[]), vec![], taken("other")).await, ["POST jobs"], "its time is not said to be taken");
}
