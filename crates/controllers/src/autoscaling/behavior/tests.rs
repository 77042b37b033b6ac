//! Figures of the original's own tables (`horizontal_test.go`): the same in, the same out.

use serde_json::{Value, json};

use super::*;

/// A moment with two hours before it.
fn now() -> Instant {
    Instant::now() + Duration::from_secs(7200)
}

/// `4@120`: four, two minutes ago.
fn log(text: &str, now: Instant) -> Vec<(Instant, i32)> {
    let one = |word: &str| {
        let (what, ago_s) = word.split_once('@').expect("AMOUNT@SECONDS");
        (now - Duration::from_secs(ago_s.parse().expect("seconds")), what.parse().expect("an amount"))
    };
    text.split_whitespace().map(one).collect()
}

/// Pods and percent, each with its period; 0: no such policy.
fn rules(pods: (i32, i32), percent: (i32, i32), window_s: i32, select: &str) -> Value {
    let one = |kind: &str, (value, period_s): (i32, i32)| json!({"type": kind, "value": value, "periodSeconds": period_s});
    let policies: Vec<Value> = [("Pods", pods), ("Percent", percent)].into_iter().filter(|(_, p)| p.0 != 0).map(|(kind, p)| one(kind, p)).collect();
    json!({"stabilizationWindowSeconds": window_s, "selectPolicy": select, "policies": policies})
}

fn behavior(up: Value, down: Value) -> HorizontalPodAutoscalerBehavior {
    serde_json::from_value(json!({"scaleUp": up, "scaleDown": down})).expect("a behavior")
}

#[test]
fn without_behavior_only_factor_and_limits_count() {
    for (current, desired, min, max, replicas, reason) in [
        (5, 7, 3, 8, 7, "DesiredWithinRange"),
        (3, 1, 2, 8, 2, "TooFewReplicas"),
        (1, 0, 0, 10, 0, "DesiredWithinRange"),
        (20, 1000, 1, 10, 10, "TooManyReplicas"),
        (3, 1000, 1, 2000, 6, "ScaleUpLimit"),
        (1, 1000, 1, 2000, 4, "ScaleUpLimit"),
    ] {
        let (found, words) = limited(Bounds { min, max }, current, desired);
        assert_eq!((found, words.0), (replicas, reason), "{current} to {desired}");
    }
}

#[test]
fn the_highest_recommendation_of_five_minutes_holds() {
    for (before, desired, stable, kept) in
        [("", 5, 5, 1), ("4@120 5@60", 3, 5, 3), ("1@120 2@60", 3, 3, 3), ("10@600 9@540", 3, 3, 1), ("10@600 4@60 5@120 9@540", 3, 5, 3)]
    {
        let now = now();
        let mut memory = Memory { recommended: log(before, now), ..Memory::default() };
        assert_eq!((memory.highest(desired, now), memory.recommended.len()), (stable, kept), "{before}");
    }
}

#[test]
fn recommendations_of_a_window_agree_or_nothing_moves() {
    for (before, current, desired, stable, up_s, down_s) in [
        ("", 100, 5, 5, 0, 0),
        ("4@120 5@60", 100, 3, 5, 0, 180),
        ("4@120 5@60", 1, 7, 4, 300, 0),
        ("1@120 2@60", 100, 3, 3, 300, 0),
        ("4@120 5@60", 1, 3, 3, 0, 300),
        ("10@600 9@540", 100, 3, 3, 0, 0),
        ("10@600 9@540", 1, 100, 100, 0, 0),
        ("10@600 4@60 5@120 9@540", 100, 3, 5, 0, 180),
        ("10@6000 6@60 5@120 9@180", 1, 100, 5, 300, 0),
        ("2@6000 3@180", 2, 1, 2, 300, 300),
        ("2@6000 1@180", 2, 3, 2, 300, 300),
    ] {
        let now = now();
        let behavior = behavior(rules((0, 0), (0, 0), up_s, "Max"), rules((0, 0), (0, 0), down_s, "Max"));
        let mut memory = Memory { recommended: log(before, now), ..Memory::default() };
        let found = memory.stabilize(&Rules::up(&behavior), &Rules::down(&behavior), current, desired, now);
        assert_eq!(found, stable, "{before}: {current} to {desired}");
        assert_eq!(memory.recommended.last(), Some(&(now, desired)), "what was wished is remembered, not what came of it");
    }
}

/// What goes up in the rows of the table below, by its rules and what was added and taken of late.
#[test]
fn policies_limit_the_way_up() {
    let (none, uniform) = ("", "1@100 5@60 9@20");
    for (pods, percent, ups, downs, max, current, desired, replicas, reason) in [
        ((0, 0), (1, 60), none, none, 2000, 3, 1000, 4, "ScaleUpLimit"),
        ((100, 60), (100, 60), none, none, 1000, 10, 500, 110, "ScaleUpLimit"),
        ((2, 60), (100, 60), none, none, 1000, 10, 500, 20, "ScaleUpLimit"),
        ((100, 60), (0, 0), none, none, 1000, 10, 50, 50, "DesiredWithinRange"),
        ((30, 60), (0, 0), none, none, 1000, 10, 50, 40, "ScaleUpLimit"),
        ((0, 0), (200, 60), none, none, 1000, 10, 50, 30, "ScaleUpLimit"),
        ((300, 60), (0, 0), uniform, none, 200, 100, 500, 200, "TooManyReplicas"),
        ((0, 0), (10000, 60), uniform, none, 200, 100, 500, 200, "TooManyReplicas"),
        ((5, 120), (0, 0), uniform, none, 1000, 100, 500, 100, "ScaleUpLimit"),
        ((150, 120), (0, 0), uniform, none, 1000, 100, 500, 235, "ScaleUpLimit"),
        ((0, 0), (200, 120), uniform, none, 1000, 100, 500, 255, "ScaleUpLimit"),
        ((0, 0), (300, 300), "4@60", "2@60", 1000, 6, 24, 16, "ScaleUpLimit"),
        ((1000, 60), (0, 0), "8@105 12@75 9@45 11@15", none, 1000, 100, 200, 200, "DesiredWithinRange"),
    ] {
        let now = now();
        let behavior = behavior(rules(pods, percent, 0, "Max"), json!(null));
        let memory = Memory { ups: log(ups, now), downs: log(downs, now), ..Memory::default() };
        let found = memory.paced(&Rules::up(&behavior), &Rules::down(&behavior), Bounds { min: 1, max }, current, desired, now);
        assert_eq!((found.0, found.1.0), (replicas, reason), "{pods:?} {percent:?}: {current} to {desired}");
    }
}

#[test]
fn policies_limit_the_way_down() {
    let (none, uniform) = ("", "1@100 5@60 9@20");
    for (pods, percent, ups, downs, min, current, desired, replicas, reason) in [
        ((20, 60), (1, 60), none, none, 1, 100, 2, 80, "ScaleDownLimit"),
        ((2, 60), (1, 60), none, none, 1, 100, 2, 98, "ScaleDownLimit"),
        ((100, 60), (0, 0), none, none, 1, 10, 0, 1, "TooFewReplicas"),
        ((0, 0), (100, 60), none, none, 5, 10, 2, 5, "TooFewReplicas"),
        ((5, 60), (0, 0), none, none, 1, 10, 2, 5, "ScaleDownLimit"),
        ((0, 0), (50, 60), none, none, 1, 10, 5, 5, "DesiredWithinRange"),
        ((115, 120), (0, 0), none, uniform, 1, 100, 0, 1, "TooFewReplicas"),
        ((130, 120), (0, 0), none, uniform, 5, 100, 0, 5, "TooFewReplicas"),
        ((0, 0), (100, 120), none, uniform, 5, 100, 2, 5, "TooFewReplicas"),
        ((5, 120), (0, 0), none, uniform, 1, 100, 2, 100, "ScaleDownLimit"),
        ((0, 0), (50, 180), "2@60", "4@60", 1, 10, 1, 6, "ScaleDownLimit"),
        ((0, 0), (10, 120), none, "10@100 10@60 10@20", 1, 100, 0, 100, "ScaleDownLimit"),
        ((0, 0), (1000, 120), none, "10@100 10@60 10@20", 1, 10, 5, 5, "DesiredWithinRange"),
        ((1000, 30), (100, 60), none, "8@105 12@75 9@45 11@15", 1, 100, 5, 5, "DesiredWithinRange"),
    ] {
        let now = now();
        let behavior = behavior(json!(null), rules(pods, percent, 300, "Max"));
        let memory = Memory { ups: log(ups, now), downs: log(downs, now), ..Memory::default() };
        let found = memory.paced(&Rules::up(&behavior), &Rules::down(&behavior), Bounds { min, max: 1000 }, current, desired, now);
        assert_eq!((found.0, found.1.0), (replicas, reason), "{pods:?} {percent:?}: {current} to {desired}");
    }
}

#[test]
fn what_is_left_out_is_the_usual_and_what_is_disabled_stays() {
    let (now, memory, bounds) = (now(), Memory::default(), Bounds { min: 1, max: 1000 });
    let usual = behavior(json!(null), json!(null));
    let paced = |behavior: &HorizontalPodAutoscalerBehavior, current, desired| {
        memory.paced(&Rules::up(behavior), &Rules::down(behavior), bounds, current, desired, now).0
    };
    assert_eq!((paced(&usual, 10, 50), paced(&usual, 1, 50), paced(&usual, 10, 5)), (20, 5, 5));
    assert_eq!((Rules::up(&usual).window, Rules::down(&usual).window), (Duration::ZERO, Duration::from_secs(300)));
    let least = behavior(rules((2, 60), (50, 60), 300, "Min"), rules((2, 60), (50, 60), 300, "Min"));
    assert_eq!((paced(&least, 1, 10), paced(&least, 5, 1)), (2, 3));
    let disabled = behavior(rules((2, 60), (0, 0), 0, "Disabled"), rules((2, 60), (0, 0), 0, "Disabled"));
    assert_eq!((paced(&disabled, 5, 10), paced(&disabled, 5, 1)), (5, 5));
}

#[test]
fn a_verdict_tells_why_it_waits() {
    let (now, bounds) = (now(), Bounds { min: 1, max: 10 });
    let mut memory = Memory::default();
    memory.begin(6, now - Duration::from_secs(30));
    memory.begin(9, now);
    let verdict = memory.normalize(None, bounds, 6, 2, now);
    assert_eq!((verdict.replicas, verdict.able.0, verdict.is_limited), (6, "ScaleDownStabilized", false), "the first is what there was");
    let verdict = memory.normalize(None, bounds, 6, 20, now);
    assert_eq!((verdict.replicas, verdict.able.0, verdict.is_limited, verdict.limit.0), (10, "ReadyForNewScale", true, "TooManyReplicas"));
    let slow = behavior(rules((1, 60), (0, 0), 0, "Max"), json!(null));
    let later = now + Duration::from_secs(3600);
    let verdict = memory.normalize(Some(&slow), bounds, 6, 9, later);
    assert_eq!((verdict.replicas, verdict.limit.0), (7, "ScaleUpLimit"));
    memory.scaled(6, 7, later);
    assert_eq!(memory.normalize(Some(&slow), bounds, 7, 9, later + Duration::from_secs(15)).replicas, 7, "one a minute");
    assert_eq!(memory.normalize(Some(&slow), bounds, 7, 9, later + Duration::from_secs(61)).replicas, 8);
}
