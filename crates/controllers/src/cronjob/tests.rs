//! Schedules and what is due.

use k8s_openapi::jiff::Timestamp;

use super::due;
use super::schedule::Schedule;

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
    ] {
        assert_eq!(schedule(text).after(at(from)), Some(at(want)), "{text}");
    }
    assert_eq!(schedule("0 0 30 2 *").after(at("2026-03-01T00:00")), None);
    for bad in ["", "* * * *", "60 * * * *", "* * * * 7-9", "*/0 * * * *", "5-1 * * * *", "@never"] {
        assert!(Schedule::parse(bad).is_none(), "{bad}");
    }
}

#[test]
fn only_the_last_missed_time_counts() {
    let hourly = schedule("0 * * * *");
    assert_eq!(due(&hourly, at("2026-03-01T10:00"), at("2026-03-01T10:30")), (None, Some(at("2026-03-01T11:00")), 0));
    let (last, next, missed) = due(&hourly, at("2026-03-01T10:00"), at("2026-03-01T13:05"));
    assert_eq!((last, next, missed), (Some(at("2026-03-01T13:00")), Some(at("2026-03-01T14:00")), 3));
    let (last, _, missed) = due(&schedule("* * * * *"), at("2025-03-01T10:00"), at("2026-03-01T13:05"));
    assert_eq!(last, Some(at("2026-03-01T13:05")));
    assert!(missed > 100 && missed < 200, "{missed}: a year is not walked through minute by minute");
}
