//! What a Job is to do next (upstream `job_controller.go`): no input, no output.
//!
//! A pod that ended is counted in three steps, so that none is lost or counted twice whenever a crash comes: its UID is
//! noted in the status, its finalizer is removed, its UID becomes a number.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use client::Meta;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use k8s_openapi::jiff::Timestamp;

use super::indexes::{self, Indexes};
use super::policy::{self, Verdict};
use crate::claim::owner_reference;
use crate::meta::{between, created, plus, seconds, secs};
use crate::pods::{self, phase};

pub(super) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const INDEX_IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// UIDs that are noted at once (upstream `MaxUncountedPods`).
const UNCOUNTED_MAX: usize = 500;
/// Pods that are made, or deleted, at once (upstream `MaxPodCreateDeletePerSync`).
const AT_ONCE_MAX: usize = 500;
/// Characters of a generated name's beginning that the API server keeps (upstream `names.MaxGeneratedNameLength`).
const PREFIX_MAX: usize = 58;
const BACKOFF_MIN_S: u64 = 10;
const BACKOFF_MAX_S: u64 = 600;

/// The steps of one pass.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The status as it is to be written, before anything else.
    pub(super) status: JobStatus,
    /// The pods to make.
    pub(super) create: Vec<Attempt>,
    pub(super) delete: Vec<Arc<Pod>>,
    /// Pods that were counted, or need not be.
    pub(super) release: Vec<Arc<Pod>>,
    pub(super) again: Option<Duration>,
    /// Failures so far, to be remembered once the status is written.
    pub(super) failures: Failures,
    /// Why pods are made, as it is counted (upstream `recordJobPodsCreationTotal`).
    pub(super) reason: &'static str,
    /// What rules said of the failed pods that are noted now.
    pub(super) judged: Vec<&'static str>,
    /// Events: whether a warning, reason, message.
    pub(super) tell: Vec<(bool, String, String)>,
}

/// How often a job's pods failed since one succeeded, and when the last did (upstream `backoffRecord`). It stands in memory alone: the
/// pods themselves may be gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Failures {
    pub(super) count: usize,
    pub(super) last: Option<Timestamp>,
}

/// A pod to make: its index, if it has one, and how often that failed before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) index: Option<u32>,
    pub(super) failures: i32,
    /// Failures that a policy said are none; they count for the back-off alone.
    pub(super) ignored: i32,
}

pub(super) fn condition<'s>(status: &'s JobStatus, kind: &str) -> Option<&'s JobCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == "True")
}

pub(super) fn is_finished(job: &Job) -> bool {
    job.status.as_ref().is_some_and(|s| condition(s, "Complete").is_some() || condition(s, "Failed").is_some())
}

fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

fn replaces_failed_only(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed") || (spec.pod_replacement_policy.is_none() && spec.pod_failure_policy.is_some())
}

fn index_of(pod: &Pod) -> Option<u32> {
    pod.annotation(INDEX)?.parse().ok()
}

fn number(pod: &Pod, annotation: &str) -> i32 {
    pod.annotation(annotation).and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn has_failed(spec: &JobSpec, pod: &Pod) -> bool {
    match phase(pod) {
        "Failed" => true,
        "Succeeded" => false,
        // One that is deleted under way will not succeed.
        _ => pod.is_deleting() && !replaces_failed_only(spec),
    }
}

fn set(status: &mut JobStatus, kind: &str, value: &str, reason: &str, message: &str, now: Timestamp) -> bool {
    let all = status.conditions.get_or_insert_default();
    let new = JobCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(seconds(now)),
        last_transition_time: Some(seconds(now)),
    };
    match all.iter_mut().find(|c| c.type_ == kind) {
        Some(old) if old.status == value && old.reason.as_deref() == Some(reason) => return false,
        Some(old) => *old = new,
        None => all.push(new),
    }
    true
}

/// What is known of a Job's pods.
struct Tally<'j> {
    job: &'j Job,
    spec: &'j JobSpec,
    pods: &'j [Arc<Pod>],
    completions: u32,
    completed: Indexes,
    failed_indexes: Indexes,
    failed: i32,
    succeeded: i32,
    /// UIDs that are noted and not yet numbers.
    noted: HashSet<String>,
    fail_job: Option<String>,
    /// Where each index has its own limit: the last failed pod of an index that nobody works on. How often the index failed
    /// stands nowhere else, so it keeps its finalizer, and is not counted for good, until there is the next one.
    last_failed: BTreeMap<u32, Arc<Pod>>,
    /// How many of those are failures.
    kept: i32,
}

impl Tally<'_> {
    /// What the pods that failed mean for the job and their indexes, before any of them is let go.
    fn judge_indexes(&mut self) {
        let (pods, spec) = (self.pods, self.spec);
        let done = pods.iter().filter(|p| p.has_finalizer(FINALIZER) && phase(p) == "Succeeded").filter_map(|p| index_of(p));
        let done: Indexes = done.filter(|_| is_indexed(spec)).collect();
        for pod in pods.iter().filter(|p| p.has_finalizer(FINALIZER) && has_failed(spec, p)) {
            let verdict = policy::judge(self.job, pod);
            if let Verdict::FailJob(why) = &verdict {
                self.fail_job.get_or_insert_with(|| why.clone());
            }
            if let (Some(limit), Some(index)) = (spec.backoff_limit_per_index, index_of(pod))
                && (verdict == Verdict::FailIndex || (verdict != Verdict::Ignore && number(pod, INDEX_FAILURES) >= limit))
            {
                self.failed_indexes.insert(index);
            }
        }
        if spec.backoff_limit_per_index.is_none() {
            return;
        }
        let active: Indexes = pods.iter().filter(|p| pods::is_active(p)).filter_map(|p| index_of(p)).collect();
        for pod in pods.iter().filter(|p| has_failed(spec, p)) {
            let open = |i: &u32| *i < self.completions && ![&done, &self.completed, &self.failed_indexes, &active].iter().any(|s| s.contains(i));
            let Some(index) = index_of(pod).filter(open) else { continue };
            let rank = |p: &Pod| (number(p, INDEX_FAILURES) + number(p, INDEX_IGNORED), finished(p));
            if self.last_failed.get(&index).is_none_or(|last| rank(last) <= rank(pod)) {
                self.last_failed.insert(index, pod.clone());
            }
        }
    }

    /// Whether a failed pod is kept as its index' memory. Not when the job is over or going.
    fn is_kept(&self, pod: &Pod) -> bool {
        let over = self.fail_job.is_some() || self.job.is_deleting();
        let status = self.job.status.as_ref();
        let ending = status.is_some_and(|s| condition(s, "FailureTarget").is_some() || condition(s, "SuccessCriteriaMet").is_some());
        !over && !ending && index_of(pod).and_then(|i| self.last_failed.get(&i)).is_some_and(|last| last.uid() == pod.uid())
    }
}

/// The next steps; `act`: what was done before has been seen, so pods may be made and deleted, and the job may end. Until then it may
/// have pods that nobody sees, which would outlive it.
pub(super) fn plan(job: &Job, pods: &[Arc<Pod>], failures: Failures, act: bool, now: Timestamp) -> Plan {
    let Some(spec) = &job.spec else { return Plan::default() };
    let mut plan = Plan { status: job.status.clone().unwrap_or_default(), ..Plan::default() };
    plan.failures = since_success(job, spec, pods, failures);
    let mut tally = count(job, spec, pods, &mut plan);
    let active: Vec<Arc<Pod>> = pods.iter().filter(|p| pods::is_active(p)).cloned().collect();
    let terminating = pods.iter().filter(|p| pods::is_terminating(p)).count();
    plan.reason = match tally.failed > 0 {
        true if spec.pod_replacement_policy.as_deref() == Some("Failed") => "recreate_failed",
        failed if failed || terminating > 0 => "recreate_terminating_or_failed",
        _ => "new",
    };
    let suspended = spec.suspend == Some(true);
    if plan.status.start_time.is_none() && !suspended {
        plan.status.start_time = Some(seconds(now));
    }
    let conditions = plan.status.conditions.clone();
    let ends = end(&tally, &mut plan, active.len(), now);
    let is_over = ends && act;
    if is_over {
        plan.delete.clone_from(&active);
        if condition(&plan.status, "SuccessCriteriaMet").is_some_and(|c| c.reason.as_deref() == Some("CompletionsReached")) {
            let_go(&mut plan);
        }
    } else if ends {
        plan.status.conditions = conditions;
    } else if act && !job.is_deleting() {
        manage(&mut tally, &mut plan, &active, terminating, suspended, now);
        note_suspension(spec, &mut plan, now);
    }
    let ready = active.iter().filter(|p| pods::is_ready(p)).count();
    let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    plan.status.active = Some(number(if is_over { 0 } else { active.len() })).filter(|n| *n > 0);
    plan.status.ready = Some(number(if is_over { 0 } else { ready }));
    plan.status.terminating = Some(number(terminating + if is_over { active.len() } else { 0 }));
    if is_over && active.is_empty() && terminating == 0 && tally.noted.is_empty() && tally.kept == 0 {
        finish(&mut plan, &tally, now);
    }
    if let (Some(deadline_s), Some(start), false) = (spec.active_deadline_seconds, &plan.status.start_time, ends || suspended) {
        let left = between(now, plus(start.0, secs(deadline_s)));
        plan.again = Some(plan.again.map_or(left, |a| a.min(left)));
    }
    plan
}

/// What is deleted because it is one too many is no failure: it is let go before.
fn let_go(plan: &mut Plan) {
    plan.release.extend(plan.delete.iter().filter(|p| p.has_finalizer(FINALIZER)).cloned());
}

/// The failures since the last success, with those pods that are seen to have ended now.
fn since_success(job: &Job, spec: &JobSpec, pods: &[Arc<Pod>], before: Failures) -> Failures {
    if spec.backoff_limit_per_index.is_some() {
        // There each index has its own memory.
        return Failures::default();
    }
    let noted = job.status.as_ref().and_then(|s| s.uncounted_terminated_pods.clone()).unwrap_or_default();
    let is_noted = |p: &Pod| noted.failed.iter().chain(&noted.succeeded).flatten().any(|uid| uid == p.uid());
    let new: Vec<_> = pods.iter().filter(|p| p.has_finalizer(FINALIZER) && !is_noted(p) && counts(spec, p)).collect();
    let succeeded = new.iter().filter(|p| phase(p) == "Succeeded").map(|p| finished(p)).max();
    let failed = new.iter().filter(|p| has_failed(spec, p)).map(|p| finished(p));
    let failed: Vec<Timestamp> = failed.filter(|at| succeeded.is_none_or(|s| *at > s)).collect();
    let before = if succeeded.is_some() { Failures::default() } else { before };
    Failures { count: before.count + failed.len(), last: failed.into_iter().max().max(before.last) }
}

/// Whether the end of a pod is one of the job's: in an indexed job that of one of its indexes.
fn counts(spec: &JobSpec, pod: &Pod) -> bool {
    let completions = u32::try_from(spec.completions.unwrap_or(0)).unwrap_or(0);
    !is_indexed(spec) || index_of(pod).is_some_and(|i| i < completions)
}

/// Counts what ended: notes new UIDs, and turns those that were let go into numbers.
fn count<'j>(job: &'j Job, spec: &'j JobSpec, pods: &'j [Arc<Pod>], plan: &mut Plan) -> Tally<'j> {
    let status = &mut plan.status;
    let completions = u32::try_from(spec.completions.unwrap_or(0)).unwrap_or(0);
    let mut tally = Tally {
        job,
        spec,
        pods,
        completions,
        completed: indexes::parse(status.completed_indexes.as_deref().unwrap_or_default(), completions),
        failed_indexes: indexes::parse(status.failed_indexes.as_deref().unwrap_or_default(), completions),
        failed: 0,
        succeeded: 0,
        noted: HashSet::new(),
        fail_job: None,
        last_failed: BTreeMap::new(),
        kept: 0,
    };
    tally.judge_indexes();
    let held: HashSet<&str> = pods.iter().filter(|p| p.has_finalizer(FINALIZER)).map(|p| p.uid()).collect();
    let mut noted = status.uncounted_terminated_pods.take().unwrap_or_default();
    let settle = |list: &mut Option<Vec<String>>| {
        let all = list.take().unwrap_or_default();
        let (kept, done): (Vec<_>, Vec<_>) = all.into_iter().partition(|uid| held.contains(uid.as_str()));
        *list = Some(kept);
        i32::try_from(done.len()).unwrap_or(0)
    };
    let (failed, succeeded) = (settle(&mut noted.failed), settle(&mut noted.succeeded));
    status.failed = Some(status.failed.unwrap_or(0) + failed).filter(|n| *n > 0);
    status.succeeded = Some(status.succeeded.unwrap_or(0) + succeeded).filter(|n| *n > 0);
    let known: HashSet<String> = noted.failed.iter().chain(&noted.succeeded).flatten().cloned().collect();
    for pod in pods.iter().filter(|p| p.has_finalizer(FINALIZER)) {
        if known.contains(pod.uid()) {
            plan.release.push(pod.clone());
        } else if tally.is_kept(pod) {
            tally.kept += i32::from(policy::judge(job, pod) != Verdict::Ignore);
        } else if noted.failed.iter().chain(&noted.succeeded).flatten().count() < UNCOUNTED_MAX {
            note(&mut tally, &mut plan.release, &mut noted, pod);
            plan.judged.extend(Some(pod).filter(|p| has_failed(spec, p) && counts(spec, p)).and_then(|p| policy::judge(job, p).action()));
        }
        if job.is_deleting() && plan.release.last().is_none_or(|last| last.uid() != pod.uid()) {
            // Nobody will count it any more.
            plan.release.push(pod.clone());
        }
    }
    let length = |list: &Option<Vec<String>>| i32::try_from(list.as_ref().map_or(0, Vec::len)).unwrap_or(0);
    let status = &mut plan.status;
    tally.failed = status.failed.unwrap_or(0) + length(&noted.failed) + tally.kept;
    if is_indexed(spec) {
        tally.succeeded = i32::try_from(tally.completed.len()).unwrap_or(i32::MAX);
        status.succeeded = Some(tally.succeeded).filter(|n| *n > 0);
        status.completed_indexes = Some(indexes::text(&tally.completed)).filter(|t| !t.is_empty());
        if spec.backoff_limit_per_index.is_some() {
            status.failed_indexes = Some(indexes::text(&tally.failed_indexes));
        }
    } else {
        tally.succeeded = status.succeeded.unwrap_or(0) + length(&noted.succeeded);
    }
    tally.noted = noted.failed.iter().chain(&noted.succeeded).flatten().cloned().collect();
    noted.failed = noted.failed.filter(|l| !l.is_empty());
    noted.succeeded = noted.succeeded.filter(|l| !l.is_empty());
    status.uncounted_terminated_pods = Some(noted);
    tally
}

/// One pod that ended since the last time.
fn note(tally: &mut Tally<'_>, release: &mut Vec<Arc<Pod>>, noted: &mut UncountedTerminatedPods, pod: &Arc<Pod>) {
    let (spec, index) = (tally.spec, index_of(pod));
    if phase(pod) == "Succeeded" {
        if is_indexed(spec) {
            // An index is done once, however many pods did it.
            tally.completed.extend(index.filter(|i| *i < tally.completions));
        } else {
            noted.succeeded.get_or_insert_default().push(pod.uid().to_owned());
        }
        release.push(pod.clone());
    } else if has_failed(spec, pod) {
        if counts(spec, pod) && policy::judge(tally.job, pod) != Verdict::Ignore {
            noted.failed.get_or_insert_default().push(pod.uid().to_owned());
        }
        release.push(pod.clone());
    }
}

/// Whether the job ends now, or is ending; the condition that says so is set.
fn end(tally: &Tally<'_>, plan: &mut Plan, active: usize, now: Timestamp) -> bool {
    let status = &mut plan.status;
    if condition(status, "FailureTarget").is_some() || condition(status, "SuccessCriteriaMet").is_some() {
        return true;
    }
    let spec = tally.spec;
    let fail = |status: &mut JobStatus, reason: &str, message: &str| set(status, "FailureTarget", "True", reason, message, now);
    if let Some(why) = &tally.fail_job {
        return fail(status, "PodFailurePolicy", why);
    }
    let limit = spec.backoff_limit.unwrap_or(6);
    let restarts = || {
        let on_failure = spec.template.spec.as_ref().is_some_and(|s| s.restart_policy.as_deref() == Some("OnFailure"));
        on_failure && limit_by_restarts(tally.pods, limit)
    };
    if tally.failed > limit || restarts() {
        return fail(status, "BackoffLimitExceeded", "Job has reached the specified backoff limit");
    }
    if let (Some(deadline_s), Some(start)) = (spec.active_deadline_seconds, &status.start_time)
        && spec.suspend != Some(true)
        && plus(start.0, secs(deadline_s)) <= now
    {
        return fail(status, "DeadlineExceeded", "Job was active longer than specified deadline");
    }
    if let Some(most) = spec.max_failed_indexes
        && tally.failed_indexes.len() > usize::try_from(most).unwrap_or(0)
    {
        return fail(status, "MaxFailedIndexesExceeded", "Job has exceeded the specified maximal number of failed indexes");
    }
    let all_failed_or_done = tally.completed.union(&tally.failed_indexes).count() >= usize::try_from(tally.completions).unwrap_or(usize::MAX);
    if !tally.failed_indexes.is_empty() && all_failed_or_done {
        return fail(status, "FailedIndexes", "Job has failed indexes");
    }
    let succeed = |status: &mut JobStatus, reason: &str, message: &str| set(status, "SuccessCriteriaMet", "True", reason, message, now);
    if is_indexed(spec)
        && let Some(rule) = policy::succeeded_by(tally.job, &tally.completed)
    {
        return succeed(status, "SuccessPolicy", &format!("Matched rules at index {rule}"));
    }
    let complete = match spec.completions {
        None => tally.succeeded > 0 && active == 0,
        Some(completions) => tally.succeeded >= completions && (completions > 0 || active == 0),
    };
    if complete && (active == 0 || spec.suspend != Some(true)) {
        return succeed(status, "CompletionsReached", "Reached expected number of succeeded pods");
    }
    false
}

/// Pods that restart by themselves fail the job by their restarts.
fn limit_by_restarts(pods: &[Arc<Pod>], limit: i32) -> bool {
    let restarts = |pod: &Pod| {
        let status = pod.status.as_ref();
        let inits = status.and_then(|s| s.init_container_statuses.as_ref()).into_iter().flatten();
        let all = inits.chain(status.and_then(|s| s.container_statuses.as_ref()).into_iter().flatten());
        all.map(|c| c.restart_count).sum::<i32>()
    };
    let sum: i32 = pods.iter().filter(|p| matches!(phase(p), "Running" | "Pending")).map(|p| restarts(p)).sum();
    if limit == 0 { sum > 0 } else { sum >= limit }
}

/// Nothing runs and everything is counted: the end is told.
fn finish(plan: &mut Plan, tally: &Tally<'_>, now: Timestamp) {
    let target = |kind: &str| condition(&plan.status, kind).map(|c| (c.reason.clone().unwrap_or_default(), c.message.clone().unwrap_or_default()));
    if let Some((reason, message)) = target("FailureTarget") {
        set(&mut plan.status, "Failed", "True", &reason, &message, now);
        plan.tell.push((true, reason, message));
    } else if let Some((reason, message)) = target("SuccessCriteriaMet") {
        set(&mut plan.status, "Complete", "True", &reason, &message, now);
        plan.status.completion_time = Some(seconds(now));
        if tally.spec.completions.is_some_and(|wanted| plan.status.succeeded.unwrap_or(0) > wanted) {
            let why = "Too many succeeded pods running after completion count reached";
            plan.tell.push((true, "TooManySucceededPods".to_owned(), why.to_owned()));
        }
        plan.tell.push((false, "Completed".to_owned(), "Job completed".to_owned()));
    }
    // What is left of its pods is nobody's count any more.
    plan.release = tally.pods.iter().filter(|p| p.has_finalizer(FINALIZER)).cloned().collect();
}

fn note_suspension(spec: &JobSpec, plan: &mut Plan, now: Timestamp) {
    let noted = condition(&plan.status, "Suspended").is_some();
    let known = plan.status.conditions.iter().flatten().any(|c| c.type_ == "Suspended");
    if spec.suspend == Some(true) {
        if set(&mut plan.status, "Suspended", "True", "JobSuspended", "Job suspended", now) {
            plan.tell.push((false, "Suspended".to_owned(), "Job suspended".to_owned()));
            // It may be changed as one that has not begun (MutableSchedulingDirectivesForSuspendedJobs).
            plan.status.start_time = None;
        }
    } else if known && noted {
        set(&mut plan.status, "Suspended", "False", "JobResumed", "Job resumed", now);
        plan.tell.push((false, "Resumed".to_owned(), "Job resumed".to_owned()));
        // The deadline counts from now.
        plan.status.start_time = Some(seconds(now));
    }
}

/// As many active pods as are wanted now.
fn manage(tally: &mut Tally<'_>, plan: &mut Plan, active: &[Arc<Pod>], terminating: usize, suspended: bool, now: Timestamp) {
    let spec = tally.spec;
    let wanted = if suspended { 0 } else { wanted(tally, active.len()) };
    plan.delete = too_many(tally, active, wanted, now);
    if suspended || !plan.delete.is_empty() {
        let_go(plan);
        return;
    }
    let waiting = if replaces_failed_only(spec) { terminating } else { 0 };
    let missing = wanted.saturating_sub(active.len() + waiting).min(AT_ONCE_MAX);
    if missing == 0 {
        return;
    }
    if spec.backoff_limit_per_index.is_some() && is_indexed(spec) {
        // Each index has its own back-off; none is held up by another's.
        let mut waits = Vec::new();
        for attempt in next_indexes(tally, active, missing) {
            match attempt.index.and_then(|i| tally.last_failed.get(&i)).and_then(|last| index_backoff(last, now)) {
                Some(wait) => waits.push(wait),
                None => plan.create.push(attempt),
            }
        }
        plan.again = waits.into_iter().min();
        return;
    }
    if let Some(wait) = backoff(tally, plan.failures, now) {
        plan.again = Some(wait);
        return;
    }
    plan.create = if is_indexed(spec) { next_indexes(tally, active, missing) } else { vec![Attempt::default(); missing] };
}

/// How many pods are to be active.
fn wanted(tally: &Tally<'_>, active: usize) -> usize {
    let parallelism = usize::try_from(tally.spec.parallelism.unwrap_or(1)).unwrap_or(0);
    let succeeded = usize::try_from(tally.succeeded).unwrap_or(0);
    match tally.spec.completions {
        None if succeeded > 0 => active,
        None => parallelism,
        Some(completions) => {
            let done = succeeded + tally.failed_indexes.difference(&tally.completed).count();
            usize::try_from(completions).unwrap_or(0).saturating_sub(done).min(parallelism)
        }
    }
}

/// The active pods that go (upstream `activePodsForRemoval`): of an indexed job those that nobody needs, whose index is gone, done or
/// another's too, of which the one stays that is furthest; then as many more as are beyond what is wanted.
fn too_many(tally: &Tally<'_>, active: &[Arc<Pod>], wanted: usize, now: Timestamp) -> Vec<Arc<Pod>> {
    let mut sorted = active.to_vec();
    sorted.sort_by(|a, b| pods::deletion_order((a, 0), (b, 0), now));
    let (mut go, mut stay) = (Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    for pod in sorted.into_iter().rev() {
        let open = |i: u32| i < tally.completions && !tally.completed.contains(&i) && !tally.failed_indexes.contains(&i);
        let needed = !is_indexed(tally.spec) || index_of(&pod).is_some_and(|i| open(i) && seen.insert(i));
        if needed { stay.push(pod) } else { go.push(pod) }
    }
    let more = active.len().saturating_sub(wanted).saturating_sub(go.len());
    go.extend(stay.into_iter().rev().take(more));
    go.truncate(AT_ONCE_MAX);
    go
}

/// The lowest indexes that nobody works on, each with its failures so far.
fn next_indexes(tally: &Tally<'_>, active: &[Arc<Pod>], count: usize) -> Vec<Attempt> {
    let mut busy: Indexes = active.iter().filter_map(|p| index_of(p)).collect();
    if replaces_failed_only(tally.spec) {
        busy.extend(tally.pods.iter().filter(|p| pods::is_terminating(p)).filter_map(|p| index_of(p)));
    }
    let attempt = |index: u32| {
        let Some(last) = tally.last_failed.get(&index) else { return Attempt { index: Some(index), ..Attempt::default() } };
        let ignored = i32::from(policy::judge(tally.job, last) == Verdict::Ignore);
        Attempt { index: Some(index), failures: number(last, INDEX_FAILURES) + 1 - ignored, ignored: number(last, INDEX_IGNORED) + ignored }
    };
    (0..tally.completions).filter(|i| !busy.contains(i) && !tally.completed.contains(i) && !tally.failed_indexes.contains(i)).take(count).map(attempt).collect()
}

/// When a pod ended (upstream `getFinishedTime`): its last container or sidecar, else its last turn to not ready, else its deletion.
fn finished(pod: &Pod) -> Timestamp {
    let status = pod.status.as_ref();
    let inits = pod.spec.as_ref().and_then(|s| s.init_containers.as_deref()).unwrap_or_default();
    let is_sidecar = |name: &str| inits.iter().any(|c| c.name == name && c.restart_policy.as_deref() == Some("Always"));
    let sidecars = status.and_then(|s| s.init_container_statuses.as_deref()).unwrap_or_default().iter().filter(|c| is_sidecar(&c.name));
    let containers = status.and_then(|s| s.container_statuses.as_deref()).unwrap_or_default();
    let all = containers.iter().chain(sidecars);
    let ends: Option<Vec<Timestamp>> = all.map(|c| Some(c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0)).collect();
    let unready = || pods::condition(pod, "Ready").filter(|c| c.status == "False").and_then(|c| c.last_transition_time.as_ref()).map(|t| t.0);
    let deleted = || {
        let at = pod.meta().deletion_timestamp.as_ref()?.0;
        at.checked_sub(secs(pod.meta().deletion_grace_period_seconds.unwrap_or(0))).ok()
    };
    ends.and_then(|all| all.into_iter().max()).or_else(unready).or_else(deleted).unwrap_or_else(|| created(pod))
}

/// How long to wait after failures in a row: ten seconds, doubling, since the last pod ended. Those that are remembered, or those that
/// the pods tell which are still there: after a start nothing is remembered.
fn backoff(tally: &Tally<'_>, remembered: Failures, now: Timestamp) -> Option<Duration> {
    // One that is deleted and was let go may have been one too many, which is no failure.
    let failed = tally.pods.iter().filter(|p| phase(p) == "Failed" || (has_failed(tally.spec, p) && p.has_finalizer(FINALIZER)));
    let mut failed: Vec<Timestamp> = failed.map(|p| finished(p)).collect();
    let succeeded = tally.pods.iter().filter(|p| phase(p) == "Succeeded").map(|p| finished(p)).max();
    failed.retain(|at| succeeded.is_none_or(|s| *at > s));
    let told = Failures { count: failed.len(), last: failed.into_iter().max() };
    [remembered, told].into_iter().filter_map(|f| remaining(f.count, f.last?, now)).max()
}

/// The same for an index by its last failed pod, which knows how often the index failed.
fn index_backoff(last: &Pod, now: Timestamp) -> Option<Duration> {
    let before = number(last, INDEX_FAILURES) + number(last, INDEX_IGNORED);
    remaining(usize::try_from(before).unwrap_or(0) + 1, finished(last), now)
}

fn remaining(failures: usize, last: Timestamp, now: Timestamp) -> Option<Duration> {
    let doublings = u32::try_from(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    let doubled = BACKOFF_MIN_S.saturating_mul(1u64.checked_shl(doublings).unwrap_or(u64::MAX));
    let left = between(now, plus(last, Duration::from_secs(doubled.min(BACKOFF_MAX_S))));
    (!left.is_zero()).then_some(left)
}

/// A pod of the job.
pub(super) fn pod(job: &Job, Attempt { index, failures, ignored }: Attempt) -> Pod {
    let Some(spec) = &job.spec else { return Pod::default() };
    let prefix = index.map_or_else(|| job.name().to_owned(), |i| format!("{}-{i}", job.name()));
    let mut pod = pods::from_template(&spec.template, &prefix, job.namespace(), owner_reference(job));
    if let Some(index) = index {
        // Of a long name the index stays.
        let end = format!("-{index}-");
        let kept = job.name().len().min(PREFIX_MAX - end.len());
        pod.meta_mut().generate_name = Some(format!("{}{end}", &job.name()[..kept]));
    }
    if !pod.has_finalizer(FINALIZER) {
        pod.meta_mut().finalizers.get_or_insert_default().push(FINALIZER.to_owned());
    }
    let Some(index) = index else { return pod };
    let meta = pod.meta_mut();
    meta.annotations.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    if spec.backoff_limit_per_index.is_some() {
        meta.annotations.get_or_insert_default().insert(INDEX_FAILURES.to_owned(), failures.to_string());
        if ignored > 0 {
            meta.annotations.get_or_insert_default().insert(INDEX_IGNORED.to_owned(), ignored.to_string());
        }
    }
    meta.labels.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    let own = pod.spec.get_or_insert_default();
    own.hostname = Some(prefix);
    let source = EnvVarSource {
        field_ref: Some(ObjectFieldSelector { api_version: None, field_path: format!("metadata.labels['{INDEX}']") }),
        ..EnvVarSource::default()
    };
    for container in own.init_containers.iter_mut().flatten().chain(&mut own.containers) {
        let env = container.env.get_or_insert_default();
        if !env.iter().any(|e| e.name == "JOB_COMPLETION_INDEX") {
            env.push(EnvVar { name: "JOB_COMPLETION_INDEX".to_owned(), value: None, value_from: Some(source.clone()) });
        }
    }
    pod
}

/// When a job ended. Another controller than ours may not have said it (`managedBy`): then nobody knows.
pub(crate) fn finished_at(job: &Job) -> Option<Timestamp> {
    let status = job.status.as_ref()?;
    let ended = condition(status, "Complete").or_else(|| condition(status, "Failed"))?;
    Some(ended.last_transition_time.as_ref()?.0)
}
