//! HorizontalPodAutoscalers: as many replicas as metrics ask for, of anything that has a `scale`.
//!
//! Time is the API's own here: what pods use is known by asking, so each autoscaler is looked at every fifteen seconds
//! ([`PERIOD`], on a beat that all of them share: [`BEAT`]), whatever its last step came to, and at once when its spec changes. That is all of the original's resync, too: a
//! step reads target and metrics anew, so a write that failed, or that somebody else took back, is made up for by the next. What
//! it wrote itself it waits to see: a status that is older than that is no ground to decide on (upstream's consistency store).
//!
//! A step reads the target's `scale` (of the kinds that are watched anyway from memory: `workloads.rs`), then what pods use (once for all metrics about it, and where many ask once for the namespace: `shared.rs`) and each other metric; `metric.rs` and
//! `replicas.rs` make proposals of that, `behavior.rs` holds them back, and then the scale and the status are written, if they
//! change. What was recommended and done lately is in memory only, by the UID: a new one of the same name begins anew. It is of the
//! beat in which it was ([`Autoscalers::beat`]): a policy's period is often as long as that of the looks, and what the look before
//! did, a moment after its beat, would still count against the next one on its own; every other step would be lost.

mod behavior;
mod counts;
mod metric;
mod metrics;
mod replicas;
mod shared;
mod status;
pub(crate) mod target;
#[cfg(test)]
mod tests;
mod workloads;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Client, Delta, EventType, Informer, Meta, ObjectKey, Recorder, WorkQueue, object_reference};
use instruments::Registry;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscaler, HorizontalPodAutoscalerBehavior, MetricStatus};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use machinery::labels::Selector;
use machinery::quantity::Quantity;
use parking_lot::Mutex;
use tokio::time::Instant;

use behavior::{Bounds, Memory};
use counts::Counts;
use metric::{Reader, propose};
use metrics::Metrics;
use replicas::{Scene, TOLERANCE, Tolerances};
use status::{ABLE, ACTIVE, LIMITED, Report, TO_ZERO};
use target::Targets;
use workloads::Workloads;

use crate::discovery::Served;
use crate::members::Members;
use crate::meta::{generation, revision};
use crate::work::{Controller, Cx, Step};

/// What the original's client of scales says of one whose selector cannot be read.
const UNREADABLE: &str = "received an object from a /scale endpoint which was not convertible to autoscaling Scale: failed to parse target selector";
/// Between two looks at an autoscaler (upstream `--horizontal-pod-autoscaler-sync-period`).
const PERIOD: Duration = Duration::from_secs(15);
/// A thousand that are each looked at in a moment of their own wake the process a thousand times, and share few of their questions: so
/// a period ends with the beat that is before its end.
const BEAT: Duration = Duration::from_secs(5);
/// What was written and is not seen yet is looked for again after this …
const UNSEEN: Duration = Duration::from_secs(1);
/// … until it will not be seen any more: an informer that has lost its watch lists anew within it.
const UNSEEN_MAX: Duration = Duration::from_secs(60);
/// Upstream `--concurrent-horizontal-pod-autoscaler-syncs`.
const WORKERS: usize = 5;

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let client = cx.client("horizontal-pod-autoscaler");
    let (recorder, workloads) = (cx.recorder(&client, "horizontal-pod-autoscaler"), Workloads::of(&cx.informers));
    let mut controller = Autoscalers::new(&client, recorder, cx.informers.informer(), &cx.informers.informer(), workloads);
    controller.counts = Counts::new(cx.metrics(), &controller.autoscalers);
    let controller = Arc::new(controller);
    cx.setup(&controller)
        .on(&controller.autoscalers, Autoscalers::heard)
        .on(&cx.informers.informer::<Pod>(), |c, _, change| drop(c.members.heard(&change.object().key())))
        .work(WORKERS)
        .await;
}

struct Autoscalers {
    client: Client,
    recorder: Recorder,
    autoscalers: Informer<HorizontalPodAutoscaler>,
    /// The pods of each autoscaler's target, by the selector that its last step read.
    members: Members,
    targets: Targets,
    workloads: Workloads,
    metrics: Metrics,
    counts: Counts,
    kept: Mutex<HashMap<ObjectKey, Kept>>,
    /// Since when the beat is counted.
    begun: Instant,
}

/// What is remembered of an autoscaler.
#[derive(Default)]
struct Kept {
    uid: String,
    memory: Memory,
    /// The revision of its own last write, and when that was.
    written: Option<(u64, Instant)>,
    /// The revision of the scale that it wrote last.
    scaled: u64,
}

/// What a step found out about its target.
struct Found {
    served: Arc<Served>,
    scale: Scale,
    /// The scale's, which selects everything if there is none.
    selector: Selector,
    current: i32,
}

/// What is to be done.
struct Decision {
    desired: i32,
    /// Why; told if there is a change.
    reason: String,
    metrics: Vec<MetricStatus>,
}

/// What all metrics come to.
struct Proposed {
    replicas: i32,
    name: String,
}

impl Autoscalers {
    fn new(client: &Client, recorder: Recorder, autoscalers: Informer<HorizontalPodAutoscaler>, pods: &Informer<Pod>, workloads: Workloads) -> Self {
        Self {
            client: client.clone(),
            recorder,
            // Told nowhere until it is said where.
            counts: Counts::new(&Registry::default(), &autoscalers),
            autoscalers,
            members: Members::new(pods),
            targets: Targets::new(client.clone()),
            workloads,
            metrics: Metrics::new(client.clone()),
            kept: Mutex::default(),
            begun: Instant::now(),
        }
    }

    /// Until an autoscaler is looked at again.
    fn period(&self) -> Duration {
        let past = self.begun.elapsed().as_nanos() % BEAT.as_nanos();
        PERIOD.saturating_sub(Duration::from_nanos(u64::try_from(past).unwrap_or_default()))
    }

    /// The beat that this moment is in, by its beginning: what a look does is remembered as of then.
    fn beat(&self) -> Instant {
        let past = self.begun.elapsed().as_nanos() / BEAT.as_nanos();
        self.begun + BEAT * u32::try_from(past).unwrap_or(u32::MAX)
    }

    fn heard(&self, queue: &WorkQueue<ObjectKey>, change: &Delta<HorizontalPodAutoscaler>) {
        let key = change.object().key();
        match change {
            // Its own status is no reason to look again at once.
            Delta::Updated { old, new } if generation(&**old) == generation(&**new) && old.uid() == new.uid() => queue.add_after(key, self.period()),
            _ => queue.add(key),
        }
    }

    /// Works with what is remembered of an autoscaler.
    fn kept<R>(&self, of: &HorizontalPodAutoscaler, work: impl FnOnce(&mut Kept) -> R) -> R {
        let mut all = self.kept.lock();
        let kept = all.entry(of.key()).or_default();
        if kept.uid != of.uid() {
            *kept = Kept { uid: of.uid().to_owned(), ..Kept::default() };
        }
        work(kept)
    }

    fn warn(&self, about: &ObjectReference, reason: &str, message: impl Into<String>) {
        self.recorder.event(about, EventType::Warning, reason, message);
    }

    /// One look at an autoscaler: its target scaled, its status made.
    async fn look(&self, autoscaler: &HorizontalPodAutoscaler, report: &mut Report) {
        let about = object_reference(autoscaler);
        let found = match self.find(autoscaler).await {
            Ok(found) => found,
            Err(why) => {
                report.set(ABLE, false, "FailedGetScale", format!("the HPA controller was unable to get the target's current scale: {why}"));
                return self.warn(&about, "FailedGetScale", why);
            }
        };
        report.set(ABLE, true, "SucceededGetScale", "the HPA controller was able to get the target's current scale");
        let (current, at) = (found.current, self.beat());
        self.kept(autoscaler, |kept| kept.memory.begin(current, at));
        match self.decide(autoscaler, &found, report, &about, at).await {
            Err(metrics) => report.tell(current, None, metrics),
            Ok(decision) if decision.desired == current => report.tell(current, Some(current), decision.metrics),
            Ok(decision) => self.rescale(autoscaler, found, decision, report, &about, at).await,
        }
    }

    async fn find(&self, autoscaler: &HorizontalPodAutoscaler) -> Result<Found, String> {
        let of = &autoscaler.spec.scale_target_ref;
        let group = target::group_of(of.api_version.as_deref().unwrap_or_default())?;
        let served = self.targets.find(group, &of.kind).await?;
        let scaled = self.kept(autoscaler, |kept| kept.scaled);
        let known = self.workloads.scale(group, &of.kind, &ObjectKey::new(autoscaler.namespace(), &of.name)).filter(|scale| revision(scale) >= scaled);
        let scale = match known {
            Some(scale) => scale,
            None => self.targets.scale(&served, autoscaler.namespace(), &of.name).await.map_err(|e| e.to_string())?,
        };
        let selector = scale.status.as_ref().and_then(|s| s.selector.as_deref()).unwrap_or_default();
        let selector = Selector::parse(selector).map_err(|e| format!("{UNREADABLE}: couldn't parse the selector string {selector:?}: {e}"))?;
        let current = scale.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
        Ok(Found { served, scale, selector, current })
    }

    /// How many there are to be; the metrics' status alone if that cannot be said.
    async fn decide(
        &self,
        autoscaler: &HorizontalPodAutoscaler,
        found: &Found,
        report: &mut Report,
        about: &ObjectReference,
        at: Instant,
    ) -> Result<Decision, Vec<MetricStatus>> {
        let (spec, current) = (&autoscaler.spec, found.current);
        let bounds = Bounds { min: spec.min_replicas.unwrap_or(1), max: spec.max_replicas };
        let by_limit = |desired, reason: &str| Decision { desired, reason: reason.to_owned(), metrics: Vec::new() };
        let was_scaled_to_zero = report.holds(TO_ZERO);
        if current == 0 {
            if !(was_scaled_to_zero && (bounds.min != 0 || can_be_zero(autoscaler))) {
                report.set(ACTIVE, false, "ScalingDisabled", "scaling is disabled since the replica count of the target is zero");
                return Ok(by_limit(0, ""));
            }
        } else if current > bounds.max {
            return Ok(by_limit(bounds.max, "Current number of replicas above Spec.MaxReplicas"));
        } else if current < bounds.min {
            return Ok(by_limit(bounds.min, "Current number of replicas below Spec.MinReplicas"));
        }
        let (proposed, metrics) = self.proposed(autoscaler, found, report, about).await?;
        let desired = proposed.replicas.max(0);
        let mut reason = match desired {
            more if more > current => format!("{} above target", proposed.name),
            less if less < current => "All metrics below target".to_owned(),
            _ => String::new(),
        };
        let verdict = self.kept(autoscaler, |kept| kept.memory.normalize(spec.behavior.as_ref(), bounds, current, desired, at));
        report.set(ABLE, true, verdict.able.0, verdict.able.1);
        report.set(LIMITED, verdict.is_limited, verdict.limit.0, verdict.limit.1);
        let mut desired = verdict.replicas;
        if current == 0 && desired < bounds.min {
            // It was scaled to zero while it might be, and may not any more.
            desired = bounds.min;
            if reason.is_empty() {
                reason = "Current number of replicas below Spec.MinReplicas".to_owned();
            }
        }
        Ok(Decision { desired, reason, metrics })
    }

    /// The most that a metric asks for. If some cannot be read, the others may let it grow and not shrink.
    async fn proposed(
        &self,
        autoscaler: &HorizontalPodAutoscaler,
        found: &Found,
        report: &mut Report,
        about: &ObjectReference,
    ) -> Result<(Proposed, Vec<MetricStatus>), Vec<MetricStatus>> {
        let key = autoscaler.key();
        let selector = match self.selector(&key, found, report, about) {
            Ok(selector) => selector,
            Err(why) => {
                self.warn(about, "FailedComputeMetricsReplicas", why);
                return Err(Vec::new());
            }
        };
        let pods = self.members.of(&key);
        let scene = Scene {
            pods: &pods,
            replicas: found.current,
            status_replicas: found.scale.status.as_ref().map_or(0, |s| s.replicas),
            tolerances: tolerances(autoscaler.spec.behavior.as_ref()),
            now: client::timestamp(),
        };
        let mut reader = Reader { metrics: &self.metrics, targets: &self.targets, key: &key, selector: &selector, pods: &pods, used: None };
        let specs = autoscaler.spec.metrics.as_deref().unwrap_or_default();
        let (mut best, mut statuses, mut failures) = (Proposed { replicas: 0, name: String::new() }, Vec::new(), Vec::new());
        for spec in specs {
            let begun = Instant::now();
            let found = propose(spec, reader.read(spec).await, &scene);
            self.counts.computed(&spec.type_, scene.replicas, found.as_ref().map(|p| p.replicas).map_err(|f| f.reason), begun.elapsed());
            match found {
                Ok(proposal) => {
                    if best.replicas == 0 || proposal.replicas > best.replicas {
                        best = Proposed { replicas: proposal.replicas, name: proposal.name };
                    }
                    statuses.push(proposal.status);
                }
                Err(failure) => {
                    self.warn(about, failure.reason, failure.told.as_str());
                    failures.push(failure);
                    statuses.push(MetricStatus::default());
                }
            }
        }
        match failures.first() {
            Some(first) if failures.len() == specs.len() || best.replicas < found.current => {
                report.set(ACTIVE, false, first.reason, format!("the HPA was unable to compute the replica count: {}", first.told));
                let (invalid, all) = (failures.len(), specs.len());
                let message = format!("invalid metrics ({invalid} invalid out of {all}), first error is: {}", first.error);
                self.warn(about, "FailedComputeMetricsReplicas", message);
                Err(statuses)
            }
            _ => {
                let message = format!("the HPA was able to successfully calculate a replica count from {}", best.name);
                report.set(ACTIVE, true, "ValidMetricFound", message);
                Ok((best, statuses))
            }
        }
    }

    /// The selector of the target's pods, which no other autoscaler selects.
    fn selector(&self, key: &ObjectKey, found: &Found, report: &mut Report, about: &ObjectReference) -> Result<Selector, String> {
        let text = found.scale.status.as_ref().and_then(|s| s.selector.as_deref()).unwrap_or_default();
        if text.is_empty() {
            let why = "selector is required";
            self.warn(about, "SelectorRequired", why);
            report.set(ACTIVE, false, "InvalidSelector", "the HPA target's scale is missing a selector");
            return Err(why.to_owned());
        }
        self.members.set(key, Some(found.selector.clone()));
        if self.autoscalers.get_key(key).is_none() {
            // Its deletion was heard before the line above.
            self.members.set(key, None);
            return Err(format!("HPA {key} was deleted during reconciliation"));
        }
        if let Some(rival) = self.members.rival(key) {
            let mut both = [key, &rival].map(ToString::to_string);
            both.sort();
            let why = format!("pods by selector {text} are controlled by more than one HPA (e.g. [{}])", both.join(" "));
            self.warn(about, "AmbiguousSelector", why.as_str());
            report.set(ACTIVE, false, "AmbiguousSelector", why.as_str());
            return Err(why);
        }
        Ok(found.selector.clone())
    }

    async fn rescale(&self, autoscaler: &HorizontalPodAutoscaler, found: Found, decision: Decision, report: &mut Report, about: &ObjectReference, at: Instant) {
        let Decision { desired, reason, metrics } = decision;
        let (current, name) = (found.current, &autoscaler.spec.scale_target_ref.name);
        match self.targets.rescale(&found.served, autoscaler.namespace(), name, found.scale, desired).await {
            Ok(written) => self.kept(autoscaler, |kept| kept.scaled = revision(&written)),
            Err(error) => {
                self.warn(about, "FailedRescale", format!("New size: {desired}; reason: {reason}; error: {error}"));
                report.set(ABLE, false, "FailedUpdateScale", format!("the HPA controller was unable to update the target scale: {error}"));
                return report.tell(current, None, metrics);
            }
        }
        report.set(ABLE, true, "SucceededRescale", format!("the HPA controller was able to update the target scale to {desired}"));
        self.recorder.event(about, EventType::Normal, "SuccessfulRescale", format!("New size: {desired}; reason: {reason}"));
        if autoscaler.spec.behavior.is_some() {
            self.kept(autoscaler, |kept| kept.memory.scaled(current, desired, at));
        }
        if current > 0 && desired == 0 && autoscaler.spec.min_replicas == Some(0) && can_be_zero(autoscaler) {
            report.set(TO_ZERO, true, "ScaledToZero", "the HPA controller scaled the workload to zero");
        } else {
            report.set(TO_ZERO, false, "NotScaledToZero", "the HPA controller did not scale the workload to zero");
        }
        report.tell(current, Some(desired), metrics);
        report.status.last_scale_time = Some(client::now());
    }

    /// Writes the status, if there is anything new in it.
    async fn tell(&self, autoscaler: &HorizontalPodAutoscaler, report: Report) {
        if !report.differs_from(autoscaler) {
            return;
        }
        let (key, mut changed) = (autoscaler.key(), autoscaler.clone());
        changed.status = Some(report.status);
        match self.client.namespaced::<HorizontalPodAutoscaler>(&key.namespace).replace_status(&key.name, &changed).await {
            Ok(stored) => self.kept(autoscaler, |kept| kept.written = Some((revision(&stored), Instant::now()))),
            Err(error) => self.warn(&object_reference(autoscaler), "FailedUpdateStatus", error.to_string()),
        }
    }
}

/// Whether it looks at anything that is there without pods.
fn can_be_zero(autoscaler: &HorizontalPodAutoscaler) -> bool {
    autoscaler.spec.metrics.iter().flatten().any(|m| m.object.is_some() || m.external.is_some())
}

fn tolerances(behavior: Option<&HorizontalPodAutoscalerBehavior>) -> Tolerances {
    let of = |rules: Option<&HPAScalingRules>| {
        let own = rules.and_then(|r| r.tolerance.as_ref()).and_then(|t| t.0.parse::<Quantity>().ok());
        own.map_or(TOLERANCE, Quantity::as_f64)
    };
    Tolerances { down: of(behavior.and_then(|b| b.scale_down.as_ref())), up: of(behavior.and_then(|b| b.scale_up.as_ref())) }
}

impl Controller for Autoscalers {
    const QUEUE: &'static str = "horizontalpodautoscaler";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Step {
        let Some(autoscaler) = self.autoscalers.get_key(key) else {
            self.kept.lock().remove(key);
            self.members.set(key, None);
            return Ok(None);
        };
        let seen = revision(&*autoscaler);
        if self.kept(&autoscaler, |kept| kept.written).is_some_and(|(written, at)| written > seen && at.elapsed() < UNSEEN_MAX) {
            return Ok(Some(UNSEEN));
        }
        let (begun, mut report) = (Instant::now(), Report::of(&autoscaler));
        self.look(&autoscaler, &mut report).await;
        self.counts.looked(&report, begun.elapsed());
        self.tell(&autoscaler, report).await;
        Ok(Some(self.period()))
    }
}
