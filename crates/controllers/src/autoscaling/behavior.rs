//! How fast and how far an autoscaler may go: what was recommended lately holds it back, what it did lately counts against its
//! policies, and the number of replicas stays between its limits.
//!
//! Without `behavior` the rules are those of the first version of the API: at most twice as many (or four) at once, and down to
//! the highest recommendation of five minutes.

#[cfg(test)]
mod tests;

use std::time::Duration;

use k8s_openapi::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior};
use tokio::time::Instant;

use crate::meta::secs;

/// How long a higher recommendation holds against scaling down, if nothing is said (upstream
/// `--horizontal-pod-autoscaler-downscale-stabilization`).
const DOWN_WINDOW: Duration = Duration::from_secs(300);
/// The longest period that a policy may have (`MaxPeriodSeconds` of the API's validation).
const PERIOD_MAX: Duration = Duration::from_secs(1800);
/// Without behavior it grows by this factor at once, and to so many in any case.
const UP_FACTOR: i32 = 2;
const UP_LEAST: i32 = 4;

/// What is remembered of one autoscaler; lost with the process, as the original's is: the first recommendation of a new one is
/// what there is.
#[derive(Debug, Default)]
pub(super) struct Memory {
    recommended: Vec<(Instant, i32)>,
    ups: Vec<(Instant, i32)>,
    downs: Vec<(Instant, i32)>,
}

/// How many replicas there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) min: i32,
    pub(super) max: i32,
}

/// A reason and a message, as conditions tell them.
pub(super) type Words = (&'static str, &'static str);

/// What becomes of a recommendation.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) replicas: i32,
    /// Of `AbleToScale`, which is true.
    pub(super) able: Words,
    /// Of `ScalingLimited`.
    pub(super) is_limited: bool,
    pub(super) limit: Words,
}

const READY: Words = ("ReadyForNewScale", "recommended size matches current size");
const LOWEST: Words = ("ScaleUpStabilized", "recent recommendations were lower than current one, applying the lowest recent recommendation");
const HIGHEST: Words = ("ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation");
const WITHIN: Words = ("DesiredWithinRange", "the desired count is within the acceptable range");
const TOO_MANY: Words = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: Words = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const TOO_FAST_UP: Words = ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const TOO_FAST_DOWN: Words = ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");

/// One direction's rules, whole.
#[derive(Clone, Debug)]
struct Rules {
    window: Duration,
    select: Select,
    policies: Vec<HPAScalingPolicy>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Select {
    Most,
    Least,
    Disabled,
}

impl Rules {
    /// The API fills what is left out, but an object may be older than that.
    fn of(rules: Option<&HPAScalingRules>, window: Duration, policies: &[(&str, i32)]) -> Self {
        let select = match rules.and_then(|r| r.select_policy.as_deref()) {
            Some("Disabled") => Select::Disabled,
            Some("Min") => Select::Least,
            _ => Select::Most,
        };
        let usual = || policies.iter().map(|(kind, value)| HPAScalingPolicy { type_: (*kind).to_owned(), value: *value, period_seconds: 15 }).collect();
        Self {
            window: rules.and_then(|r| r.stabilization_window_seconds).map_or(window, secs),
            select,
            policies: rules.and_then(|r| r.policies.clone()).unwrap_or_else(usual),
        }
    }

    fn up(behavior: &HorizontalPodAutoscalerBehavior) -> Self {
        Self::of(behavior.scale_up.as_ref(), Duration::ZERO, &[("Pods", 4), ("Percent", 100)])
    }

    fn down(behavior: &HorizontalPodAutoscalerBehavior) -> Self {
        Self::of(behavior.scale_down.as_ref(), DOWN_WINDOW, &[("Percent", 100)])
    }
}

/// Whether a moment is within a time before now.
fn is_within(at: Instant, window: Duration, now: Instant) -> bool {
    now.duration_since(at) < window
}

fn sum(changes: &[(Instant, i32)], period: Duration, now: Instant) -> i32 {
    changes.iter().filter(|(at, _)| is_within(*at, period, now)).fold(0, |sum: i32, (_, by)| sum.saturating_add(*by))
}

impl Memory {
    /// The first that is heard of a target recommends what it has.
    pub(super) fn begin(&mut self, current: i32, now: Instant) {
        if self.recommended.is_empty() {
            self.recommended.push((now, current));
        }
    }

    /// It was scaled.
    pub(super) fn scaled(&mut self, from: i32, to: i32, now: Instant) {
        let changes = if to > from { &mut self.ups } else { &mut self.downs };
        changes.retain(|(at, _)| is_within(*at, PERIOD_MAX, now));
        changes.push((now, to.abs_diff(from).try_into().unwrap_or(i32::MAX)));
    }

    fn note(&mut self, desired: i32, window: Duration, now: Instant) {
        self.recommended.retain(|(at, _)| now.duration_since(*at) <= window);
        self.recommended.push((now, desired));
    }

    /// Replicas at the start of a policy's period.
    fn before(&self, current: i32, period_s: i32, now: Instant) -> i32 {
        let period = secs(period_s);
        current.saturating_sub(sum(&self.ups, period, now)).saturating_add(sum(&self.downs, period, now))
    }

    /// What a recommendation comes to.
    pub(super) fn normalize(
        &mut self,
        behavior: Option<&HorizontalPodAutoscalerBehavior>,
        bounds: Bounds,
        current: i32,
        desired: i32,
        now: Instant,
    ) -> Verdict {
        let (stable, words, (replicas, limit)) = match behavior {
            None => {
                let stable = self.highest(desired, now);
                (stable, HIGHEST, limited(bounds, current, stable))
            }
            Some(behavior) => {
                let (up, down) = (Rules::up(behavior), Rules::down(behavior));
                let stable = self.stabilize(&up, &down, current, desired, now);
                let words = if desired >= current { LOWEST } else { HIGHEST };
                (stable, words, self.paced(&up, &down, bounds, current, stable, now))
            }
        };
        Verdict { replicas, able: if stable == desired { READY } else { words }, is_limited: replicas != stable, limit }
    }

    /// The highest recommendation of late. One that is just as old as the window counts no more: the original's looks are a little
    /// more than their period apart.
    fn highest(&mut self, desired: i32, now: Instant) -> i32 {
        let recent = self.recommended.iter().filter(|(at, _)| is_within(*at, DOWN_WINDOW, now));
        let highest = recent.fold(desired, |most, (_, recommended)| most.max(*recommended));
        self.note(desired, DOWN_WINDOW, now);
        highest
    }

    /// What is there, moved only as far as all recommendations of a direction's window agree.
    fn stabilize(&mut self, up: &Rules, down: &Rules, current: i32, desired: i32, now: Instant) -> i32 {
        let (mut lowest, mut highest) = (desired, desired);
        for (at, recommended) in &self.recommended {
            if is_within(*at, up.window, now) {
                lowest = lowest.min(*recommended);
            }
            if is_within(*at, down.window, now) {
                highest = highest.max(*recommended);
            }
        }
        self.note(desired, up.window.max(down.window), now);
        current.max(lowest).min(highest)
    }

    /// Within the policies and the limits.
    fn paced(&self, up: &Rules, down: &Rules, bounds: Bounds, current: i32, desired: i32, now: Instant) -> (i32, Words) {
        if desired > current {
            let pace = self.up_limit(up, current, now).max(current);
            let (most, words) = if bounds.max > pace { (pace, TOO_FAST_UP) } else { (bounds.max, TOO_MANY) };
            if desired > most {
                return (most, words);
            }
        } else if desired < current {
            let pace = self.down_limit(down, current, now).min(current);
            let (least, words) = if bounds.min < pace { (pace, TOO_FAST_DOWN) } else { (bounds.min, TOO_FEW) };
            if desired < least {
                return (least, words);
            }
        }
        (desired, WITHIN)
    }

    fn up_limit(&self, rules: &Rules, current: i32, now: Instant) -> i32 {
        let allowed = rules.policies.iter().map(|policy| {
            let start = self.before(current, policy.period_seconds, now);
            if policy.type_ == "Pods" {
                start.saturating_add(policy.value)
            } else {
                // Rounded up: else a small target would never grow.
                (f64::from(start) * (1.0 + f64::from(policy.value) / 100.0)).ceil() as i32
            }
        });
        match rules.select {
            Select::Disabled => current,
            Select::Least => allowed.min().unwrap_or(i32::MAX),
            Select::Most => allowed.max().unwrap_or(i32::MIN),
        }
    }

    fn down_limit(&self, rules: &Rules, current: i32, now: Instant) -> i32 {
        let allowed = rules.policies.iter().map(|policy| {
            let start = self.before(current, policy.period_seconds, now);
            if policy.type_ == "Pods" { start.saturating_sub(policy.value) } else { (f64::from(start) * (1.0 - f64::from(policy.value) / 100.0)) as i32 }
        });
        match rules.select {
            Select::Disabled => current,
            // The least change leaves the most.
            Select::Least => allowed.max().unwrap_or(i32::MIN),
            Select::Most => allowed.min().unwrap_or(i32::MAX),
        }
    }
}

/// Within the limits, without policies.
fn limited(bounds: Bounds, current: i32, desired: i32) -> (i32, Words) {
    let pace = current.saturating_mul(UP_FACTOR).max(UP_LEAST);
    let (most, words) = if bounds.max > pace { (pace, TOO_FAST_UP) } else { (bounds.max, TOO_MANY) };
    if desired < bounds.min {
        (bounds.min, TOO_FEW)
    } else if desired > most {
        (most, words)
    } else {
        (desired, WITHIN)
    }
}
