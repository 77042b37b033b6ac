//! How many replicas a metric asks for: a function of what was measured, the pods, and what is aimed at.
//!
//! All amounts are thousandths. Where upstream's conversions of floats beyond an integer's range are left to the processor, the
//! end of the range is taken here.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use client::Meta;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use k8s_openapi::jiff::Timestamp;
use kinds::usage;
use machinery::quantity::Quantity;

use crate::meta::{plus, time};
use crate::pods;

/// After its start a pod's CPU is no measure while it is not ready (upstream
/// `--horizontal-pod-autoscaler-cpu-initialization-period`).
const CPU_INITIALIZATION: Duration = Duration::from_secs(300);
/// A pod that is not ready and changed last within this after its start was never ready (upstream
/// `--horizontal-pod-autoscaler-initial-readiness-delay`).
const INITIAL_READINESS: Duration = Duration::from_secs(30);
/// The difference from the aim that is none, if nothing is said (upstream `--horizontal-pod-autoscaler-tolerance`).
pub(super) const TOLERANCE: f64 = 0.1;

const NO_PODS: &str = "no pods returned by selector while calculating replica count";

/// By how much usage may differ from what is aimed at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tolerances {
    pub(super) down: f64,
    pub(super) up: f64,
}

impl Tolerances {
    fn hold(self, ratio: f64) -> bool {
        1.0 - self.down <= ratio && ratio <= 1.0 + self.up
    }
}

/// What was measured of a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sample {
    pub(super) milli: i64,
    pub(super) at: Timestamp,
    pub(super) window: Duration,
}

/// By pod.
pub(super) type Samples = BTreeMap<String, Sample>;

/// What a metric is looked at with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scene<'s> {
    /// The target's pods.
    pub(super) pods: &'s [Arc<Pod>],
    /// The replicas that it is to have now.
    pub(super) replicas: i32,
    /// The replicas that it has.
    pub(super) status_replicas: i32,
    pub(super) tolerances: Tolerances,
    pub(super) now: Timestamp,
}

/// Pods by what their samples are worth.
struct Groups {
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
}

/// What a share of the requests comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Utilization {
    pub(super) replicas: i32,
    pub(super) percent: i32,
    pub(super) average_milli: i64,
}

/// A pod's amount in thousandths; nothing if it cannot be read.
pub(super) fn milli(amount: &Text) -> i64 {
    amount.0.parse().map_or(0, Quantity::milli_value)
}

/// The replicas for an average share of what pods request.
pub(super) fn for_utilization(scene: &Scene<'_>, mut samples: Samples, resource: &str, container: &str, target: i32) -> Result<Utilization, String> {
    let groups = group(scene, &mut samples, resource)?;
    let requests = requests(scene.pods, resource, container)?;
    let (ratio, percent, average_milli) = utilization(&samples, &requests, target)?;
    let replicas = if groups.is_whole(ratio) {
        scene.scaled(ratio, groups.ready)
    } else {
        // What is missing uses all that it may if it would be scaled down.
        let share = i64::from(target.max(100));
        groups.fill(&mut samples, ratio, |pod| requests.get(pod).map_or(0, |r| r.saturating_mul(share) / 100));
        let filled = utilization(&samples, &requests, target)?.0;
        scene.scaled_again(ratio, filled, samples.len())
    };
    Ok(Utilization { replicas, percent, average_milli })
}

/// The replicas for an average amount of each pod, and the average that there is.
pub(super) fn for_average(scene: &Scene<'_>, mut samples: Samples, resource: &str, target_milli: i64) -> Result<(i32, i64), String> {
    let groups = group(scene, &mut samples, resource)?;
    let (ratio, average) = usage_ratio(&samples, target_milli);
    if groups.is_whole(ratio) {
        return Ok((scene.scaled(ratio, groups.ready), average));
    }
    groups.fill(&mut samples, ratio, |_| target_milli);
    let filled = usage_ratio(&samples, target_milli).0;
    Ok((scene.scaled_again(ratio, filled, samples.len()), average))
}

/// The replicas for one amount of the whole.
pub(super) fn for_value(scene: &Scene<'_>, usage_milli: i64, target_milli: i64) -> Result<i32, String> {
    let ratio = usage_milli as f64 / target_milli as f64;
    if scene.replicas == 0 {
        return Ok(ratio.ceil() as i32);
    }
    if scene.tolerances.hold(ratio) {
        return Ok(scene.replicas);
    }
    if scene.pods.is_empty() {
        return Err(format!("unable to calculate ready pods: {NO_PODS}"));
    }
    let ready = scene.pods.iter().filter(|p| pods::phase(p) == "Running" && pods::is_ready(p)).count();
    Ok((ratio * ready as f64).ceil() as i32)
}

/// The replicas for each one's part of an amount, and the part that each has now.
pub(super) fn for_part(scene: &Scene<'_>, usage_milli: i64, target_milli: i64) -> (i32, i64) {
    let (usage, target, now) = (usage_milli as f64, target_milli as f64, f64::from(scene.status_replicas));
    let part = if usage_milli == i64::MAX { i64::MAX } else { (usage / now).ceil() as i64 };
    if scene.tolerances.hold(usage / (target * now)) {
        return (scene.status_replicas, part);
    }
    ((usage / target).ceil() as i32, part)
}

/// The sum of what an external metric has, at most the end of the range.
pub(super) fn sum_of_values(values: &[i64]) -> i64 {
    values.iter().fold(0, |sum: i64, value| sum.saturating_add(*value))
}

/// The same for parts; upstream takes a sum below zero for an overflow.
pub(super) fn sum_of_parts(values: &[i64]) -> i64 {
    let sum = values.iter().try_fold(0_i64, |sum, value| sum.checked_add(*value).filter(|s| *s >= 0));
    sum.unwrap_or(i64::MAX)
}

impl Scene<'_> {
    /// The replicas at which each would have what is aimed at.
    fn scaled(&self, ratio: f64, ready: usize) -> i32 {
        if self.tolerances.hold(ratio) { self.replicas } else { (ratio * ready as f64).ceil() as i32 }
    }

    /// The same after pods were filled in: nothing happens if they turn the direction.
    fn scaled_again(&self, first: f64, ratio: f64, count: usize) -> i32 {
        let turns = (first < 1.0 && ratio > 1.0) || (first > 1.0 && ratio < 1.0);
        if turns || self.tolerances.hold(ratio) {
            return self.replicas;
        }
        let replicas = (ratio * count as f64).ceil() as i32;
        let turns = (ratio < 1.0 && replicas > self.replicas) || (ratio > 1.0 && replicas < self.replicas);
        if turns { self.replicas } else { replicas }
    }
}

impl Groups {
    /// Whether all that counts was measured.
    fn is_whole(&self, ratio: f64) -> bool {
        self.missing.is_empty() && (self.unready.is_empty() || ratio <= 1.0)
    }

    /// Takes what was not measured against the direction: nothing if it would grow, `most` if it would shrink.
    fn fill(&self, samples: &mut Samples, ratio: f64, most: impl Fn(&str) -> i64) {
        let mut put = |pod: &str, milli| {
            samples.insert(pod.to_owned(), Sample { milli, ..Sample::default() });
        };
        for pod in &self.missing {
            if ratio < 1.0 {
                put(pod, most(pod));
            } else if ratio > 1.0 {
                put(pod, 0);
            }
        }
        if ratio > 1.0 {
            self.unready.iter().for_each(|pod| put(pod, 0));
        }
    }
}

/// Sorts the pods, and takes the samples of those out that do not count.
fn group(scene: &Scene<'_>, samples: &mut Samples, resource: &str) -> Result<Groups, String> {
    if scene.pods.is_empty() {
        return Err(NO_PODS.to_owned());
    }
    let mut groups = Groups { ready: 0, unready: BTreeSet::new(), missing: BTreeSet::new() };
    for pod in scene.pods {
        let name = pod.name();
        if pod.is_deleting() || pods::phase(pod) == "Failed" {
            samples.remove(name);
        } else if pods::phase(pod) == "Pending" {
            samples.remove(name);
            groups.unready.insert(name.to_owned());
        } else if let Some(sample) = samples.get(name) {
            if resource == "cpu" && is_warming_up(pod, sample, scene.now) {
                samples.remove(name);
                groups.unready.insert(name.to_owned());
            } else {
                groups.ready += 1;
            }
        } else {
            groups.missing.insert(name.to_owned());
        }
    }
    if samples.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    Ok(groups)
}

/// Whether what a pod uses of the CPU says nothing yet.
fn is_warming_up(pod: &Pod, sample: &Sample, now: Timestamp) -> bool {
    let started = pod.status.as_ref().and_then(|s| s.start_time.as_ref());
    let (Some(started), Some(ready)) = (started, pods::condition(pod, "Ready")) else { return true };
    let changed = time(ready.last_transition_time.as_ref());
    if plus(started.0, CPU_INITIALIZATION) > now {
        // Not ready, or not a whole window measured since it is.
        ready.status == "False" || sample.at < plus(changed, sample.window)
    } else {
        ready.status == "False" && plus(started.0, INITIAL_READINESS) > changed
    }
}

/// What each pod requests.
fn requests(pods: &[Arc<Pod>], resource: &str, container: &str) -> Result<BTreeMap<String, i64>, String> {
    pods.iter().map(|pod| Ok((pod.name().to_owned(), request(pod, resource, container)?))).collect()
}

fn request(pod: &Pod, resource: &str, container: &str) -> Result<i64, String> {
    let Some(spec) = &pod.spec else { return Ok(0) };
    let own = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
    let supported = |name: &String| name == "cpu" || name == "memory" || name.starts_with("hugepages-");
    // A pod's own requests go before its containers' (KEP-2837), unless one container is asked for.
    if container.is_empty() && own.is_some_and(|r| r.keys().any(supported)) {
        let pod_tree = serde_json::to_value(pod).unwrap_or_default();
        let amounts = usage::of_pod(&pod_tree, "requests");
        return amounts.get(resource).map(|a| a.milli_value()).ok_or_else(|| format!("missing pod-level request for {resource} in Pod {}", pod.name()));
    }
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let of = |c: &Container| {
        let amount = c.resources.as_ref().and_then(|r| r.requests.as_ref()?.get(resource));
        amount.map(milli).ok_or_else(|| format!("missing request for {resource} in container {} of Pod {}", c.name, pod.name()))
    };
    let mut all = spec.containers.iter().chain(sidecars);
    if container.is_empty() {
        return all.try_fold(0_i64, |sum, c| Ok(sum.saturating_add(of(c)?)));
    }
    all.find(|c| c.name == container).map_or_else(|| Err(format!("container {container} not found in Pod {}", pod.name())), of)
}

/// How much more is used than is aimed at, the share in use, and the average.
fn utilization(samples: &Samples, requests: &BTreeMap<String, i64>, target: i32) -> Result<(f64, i32, i64), String> {
    let (mut used, mut requested, mut count) = (0_i64, 0_i64, 0_i64);
    for (pod, sample) in samples {
        if let Some(request) = requests.get(pod) {
            used = used.saturating_add(sample.milli);
            requested = requested.saturating_add(*request);
            count += 1;
        }
    }
    if requested == 0 {
        return Err("no metrics returned matched known pods".to_owned());
    }
    let percent = i32::try_from(i128::from(used) * 100 / i128::from(requested)).unwrap_or(i32::MAX);
    Ok((f64::from(percent) / f64::from(target), percent, used / count))
}

/// How much more is used than is aimed at, and the average; there are samples.
fn usage_ratio(samples: &Samples, target_milli: i64) -> (f64, i64) {
    let sum: i128 = samples.values().map(|s| i128::from(s.milli)).sum();
    let average = i64::try_from(sum / i128::try_from(samples.len().max(1)).unwrap_or(1)).unwrap_or(i64::MAX);
    (average as f64 / target_milli as f64, average)
}
