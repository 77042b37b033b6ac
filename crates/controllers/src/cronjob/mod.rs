//! CronJobs: a Job at every time of a schedule. Each step names the next time; a change of the clock is seen then.

mod schedule;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use client::{Client, DeleteParams, Delta, EventType, Informer, Meta, ObjectKey, Recorder, WorkQueue, object_reference};
use instruments::{Family, Histogram, Kind, exponential};
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::jiff::tz::TimeZone;

use crate::claim::{controller_key, owner_reference};
use crate::job::{is_complete, is_finished};
use crate::meta::{between, created, new_meta, plus, seconds, secs};
use crate::work::{Controller, Cx, Step};
use schedule::Schedule;

const WORKERS: usize = 5;
/// What a step comes later than the time that it is for, so that clocks that differ a little do not make it come too early (upstream
/// `nextScheduleDelta`).
const LATER: Duration = Duration::from_millis(100);
/// If more times than these were missed, the clock has jumped or the schedule was long suspended, which is told.
const MISSED_MAX: i64 = 100;
const SKEW: Family = Family::new(
    "cronjob_controller_job_creation_skew_duration_seconds",
    Kind::Histogram,
    "[STABLE] Time between when a cronjob is scheduled to be run, and when the corresponding job is created",
);
static SKEW_S: [f64; 10] = exponential(1.0, 2.0);
const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let client = cx.client("cronjob-controller");
    let recorder = cx.recorder(&client, "cronjob-controller");
    let controller =
        Arc::new(Crons { client, recorder, crons: cx.informers.informer(), jobs: cx.informers.informer(), skew: cx.metrics().histogram(&SKEW, &SKEW_S) });
    controller.jobs.add_index("controller", |job| job.controller().map(|o| o.uid.clone()).into_iter().collect());
    cx.setup(&controller)
        .on(&controller.crons, Crons::heard)
        .on(&controller.jobs, |_, queue, change| {
            if let Some((key, _)) = controller_key::<CronJob>(&**change.object()) {
                queue.add(key);
            }
        })
        .work(WORKERS)
        .await;
}

struct Crons {
    client: Client,
    recorder: Recorder,
    crons: Informer<CronJob>,
    jobs: Informer<Job>,
    /// How much later than their times jobs are made.
    skew: Arc<Histogram>,
}

/// What a clock asks for.
#[derive(Debug, PartialEq)]
struct Due {
    /// The last time that has come and was not taken.
    last: Option<Timestamp>,
    /// The next one to come.
    next: Option<Timestamp>,
    /// More than [`MISSED_MAX`] times have come.
    many: bool,
}

/// What has come since `from`. Of what was missed only the last counts, and it is reckoned as upstream does it (`mostRecentScheduleTime`): as if
/// all times lay as far apart as the first two. Of a schedule whose times do not (`*/5 9-10 * * *`) what was missed is so passed over once
/// the next time is further away than that, and no job is made for it.
fn due(schedule: &Schedule, zone: &TimeZone, from: Timestamp, now: Timestamp) -> Due {
    let Some(first) = schedule.after(from, zone) else { return Due { last: None, next: None, many: false } };
    if now < first {
        return Due { last: None, next: Some(first), many: false };
    }
    let second = schedule.after(first, zone);
    let Some(second) = second.filter(|second| *second <= now) else { return Due { last: Some(first), next: second, many: false } };
    let gap_s = (second.as_second() - first.as_second()).max(1);
    let missed = (now.as_second() - first.as_second()) / gap_s + 1;
    let near = Timestamp::from_second(first.as_second() + (missed - 2) * gap_s).unwrap_or(first);
    let last = std::iter::successors(schedule.after(near, zone), |at| schedule.after(*at, zone)).take_while(|at| *at <= now).last();
    Due { last, next: schedule.after(last.unwrap_or(now), zone), many: last.is_some() && missed > MISSED_MAX }
}

/// The zone of a schedule, UTC unless it says another; none if there is no such zone.
fn zone(cron: &CronJob) -> Option<TimeZone> {
    match cron.spec.time_zone.as_deref() {
        None => Some(TimeZone::UTC),
        Some(name) => named_zone(name),
    }
}

fn named_zone(name: &str) -> Option<TimeZone> {
    TimeZone::tzif(name, machinery::time::zone(name)?).ok()
}

/// A schedule and the clock that it goes by, if both can be read. One that was stored before there was a field for zones may name its
/// own.
fn clock(cron: &CronJob) -> Option<(Schedule, TimeZone)> {
    let text = cron.spec.schedule.trim();
    let own = text.strip_prefix("CRON_TZ=").or_else(|| text.strip_prefix("TZ=")).and_then(|rest| rest.split_once(' '));
    match own {
        Some((name, rest)) => Some((Schedule::parse(rest)?, named_zone(name)?)),
        None => Some((Schedule::parse(text)?, zone(cron)?)),
    }
}

/// The last time that was taken; before the first the creation.
fn last_taken(cron: &CronJob, status: Option<&CronJobStatus>) -> Timestamp {
    status.and_then(|s| s.last_schedule_time.as_ref()).map_or_else(|| created(cron), |t| t.0)
}

/// A moment as RFC 3339 by the clocks of a zone.
fn by_clock(at: Timestamp, zone: &TimeZone) -> String {
    let offset = zone.to_offset(at);
    let format = if offset.is_zero() { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S%:z" };
    at.to_zoned(zone.clone()).strftime(format).to_string()
}

impl Crons {
    fn tell(&self, cron: &CronJob, kind: EventType, reason: &str, message: String) {
        self.recorder.event(&object_reference(cron), kind, reason, message);
    }

    /// A schedule that was changed begins with its next time: what it would have missed is not made up for.
    fn heard(&self, queue: &WorkQueue<ObjectKey>, change: &Delta<CronJob>) {
        let key = change.object().key();
        let Delta::Updated { old, new } = change else { return queue.add(key) };
        if old.spec.schedule == new.spec.schedule && old.spec.time_zone == new.spec.time_zone {
            return queue.add(key);
        }
        let Some((schedule, zone)) = clock(new) else { return queue.add(key) };
        let (from, now) = (last_taken(new, new.status.as_ref()), client::timestamp());
        if let Some(next) = due(&schedule, &zone, from, now).next {
            queue.add_after(key, between(now, next) + LATER);
        }
    }

    /// Takes ended jobs from the active ones, and those that are gone.
    async fn note_jobs(&self, cron: &CronJob, status: &mut CronJobStatus, jobs: &[Arc<Job>]) -> client::Result<()> {
        let active = status.active.get_or_insert_default();
        for job in jobs {
            let listed = active.iter().position(|a| a.uid.as_deref() == Some(job.uid()));
            match (listed, is_finished(job)) {
                (Some(at), true) => {
                    active.remove(at);
                    let condition = if is_complete(job) { "Complete" } else { "Failed" };
                    self.tell(cron, EventType::Normal, "SawCompletedJob", format!("Saw completed job: {}, condition: {condition}", job.name()));
                }
                // Somebody made it by hand: it is no run of the schedule's.
                (None, false) => {
                    let message = format!("Saw a job that the controller did not create or forgot: {}", job.name());
                    self.tell(cron, EventType::Warning, "UnexpectedJob", message);
                }
                _ => {}
            }
            if let Some(at) = job.status.as_ref().and_then(|s| s.completion_time.as_ref()).filter(|_| is_complete(job))
                && status.last_successful_time.as_ref().is_none_or(|t| t.0 < at.0)
            {
                status.last_successful_time = Some(at.clone());
            }
        }
        let unseen: Vec<_> = active.iter().filter(|a| !jobs.iter().any(|j| Some(j.uid()) == a.uid.as_deref())).cloned().collect();
        for reference in unseen {
            let name = reference.name.as_deref().unwrap_or_default();
            let live = self.client.namespaced::<Job>(cron.namespace()).get_opt(name).await?;
            // One that somebody made again under the name is no run: the original waits for its removal, and a `Forbid` for ever.
            if live.is_none_or(|live| reference.uid.as_deref().is_some_and(|uid| uid != live.uid())) {
                self.tell(cron, EventType::Normal, "MissingJob", format!("Active job went missing: {name}"));
                active.retain(|a| a.uid != reference.uid);
            }
        }
        Ok(())
    }

    /// The CronJob as it is known, or as the server has it if a job is under way that is none of the active ones: it may have been made
    /// here, and not be heard of yet.
    async fn newest(&self, cron: Arc<CronJob>, jobs: &[Arc<Job>]) -> client::Result<Option<Arc<CronJob>>> {
        let is_active = |job: &Job| cron.status.iter().flat_map(|s| s.active.iter().flatten()).any(|a| a.uid.as_deref() == Some(job.uid()));
        if jobs.iter().all(|j| is_finished(j) || is_active(j)) {
            return Ok(Some(cron));
        }
        let live = self.client.namespaced::<CronJob>(cron.namespace()).get_opt(cron.name()).await?;
        Ok(live.filter(|l| l.uid() == cron.uid()).map(Arc::new))
    }

    /// Ended jobs beyond the limits go, the oldest first.
    async fn clean_up(&self, cron: &CronJob, jobs: &[Arc<Job>]) -> client::Result<()> {
        let limits = [(true, cron.spec.successful_jobs_history_limit.unwrap_or(3)), (false, cron.spec.failed_jobs_history_limit.unwrap_or(1))];
        for (good, limit) in limits {
            let mut ended: Vec<_> = jobs.iter().filter(|j| is_finished(j) && is_complete(j) == good && !j.is_deleting()).collect();
            let begun = |job: &Job| job.status.as_ref().and_then(|s| s.start_time.as_ref()).map_or(Timestamp::MAX, |t| t.0);
            ended.sort_by(|a, b| begun(a).cmp(&begun(b)).then_with(|| a.name().cmp(b.name())));
            let surplus = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
            for job in &ended[..surplus] {
                self.delete(cron, job).await?;
            }
        }
        Ok(())
    }

    async fn delete(&self, cron: &CronJob, job: &Job) -> client::Result<()> {
        match self.client.namespaced::<Job>(job.namespace()).delete(job.name(), &DeleteParams::background().uid(job.uid())).await {
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => {
                self.tell(cron, EventType::Warning, "FailedDelete", format!("Deleted job: {error}"));
                Err(error)
            }
            Ok(()) => {
                self.tell(cron, EventType::Normal, "SuccessfulDelete", format!("Deleted job {}", job.name()));
                Ok(())
            }
        }
    }

    /// Starts the job of a time, if the policy lets it.
    async fn start(&self, cron: &CronJob, status: &mut CronJobStatus, at: Timestamp) -> client::Result<()> {
        let active = status.active.clone().unwrap_or_default();
        match cron.spec.concurrency_policy.as_deref() {
            Some("Forbid") if !active.is_empty() => {
                let why = "Not starting job because prior execution is running and concurrency policy is Forbid";
                self.tell(cron, EventType::Normal, "JobAlreadyActive", why.to_owned());
                return Ok(());
            }
            Some("Replace") => {
                for name in active.iter().filter_map(|a| a.name.as_deref()) {
                    let job = self.client.namespaced::<Job>(cron.namespace()).get(name).await;
                    if let Err(error) = &job {
                        self.tell(cron, EventType::Warning, "FailedGet", format!("Get job: {error}"));
                    }
                    self.delete(cron, &job?).await?;
                }
                status.active = Some(Vec::new());
            }
            _ => {}
        }
        let made = job(cron, at);
        match self.client.namespaced::<Job>(cron.namespace()).create(&made).await {
            Ok(job) => {
                self.skew.took(between(at, client::timestamp()));
                self.tell(cron, EventType::Normal, "SuccessfulCreate", format!("Created job {}", job.name()));
                status.active.get_or_insert_default().push(reference(&job));
            }
            Err(error) if error.is_already_exists() => {
                let there = self.client.namespaced::<Job>(cron.namespace()).get(made.name()).await?;
                let is_listed = active.iter().any(|a| a.uid.as_deref() == Some(there.uid()));
                if is_listed || !there.is_controlled_by(cron.uid()) {
                    // Its time is not taken: what stands in its way is somebody else's.
                    return Ok(());
                }
                // It was made before a crash.
                status.active.get_or_insert_default().push(reference(&there));
            }
            Err(error) if error.is_namespace_terminating() => return Ok(()),
            Err(error) => {
                self.tell(cron, EventType::Warning, "FailedCreate", format!("Error creating job: {error}"));
                return Err(error);
            }
        }
        status.last_schedule_time = Some(seconds(at));
        Ok(())
    }

    /// What the clock asks for; how long until it asks again.
    async fn keep_time(&self, cron: &CronJob, status: &mut CronJobStatus, now: Timestamp) -> Step {
        if cron.is_deleting() {
            return Ok(None);
        }
        if zone(cron).is_none() {
            let name = cron.spec.time_zone.as_deref().unwrap_or_default();
            self.tell(cron, EventType::Warning, "UnknownTimeZone", format!("invalid timeZone: {name:?}: unknown time zone {name}"));
            return Ok(None);
        }
        if cron.spec.suspend == Some(true) {
            return Ok(None);
        }
        if cron.spec.schedule.contains("TZ") {
            let message = format!(
                "CRON_TZ or TZ used in schedule {:?} is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details",
                cron.spec.schedule
            );
            self.tell(cron, EventType::Warning, "UnsupportedSchedule", message);
        }
        let Some((schedule, zone)) = clock(cron) else {
            self.tell(cron, EventType::Warning, "UnparseableSchedule", format!("unparseable schedule: {:?}", cron.spec.schedule));
            return Ok(None);
        };
        let mut from = last_taken(cron, Some(status));
        if let Some(deadline_s) = cron.spec.starting_deadline_seconds {
            from = from.max(Timestamp::from_second(now.as_second() - deadline_s).unwrap_or(from));
        }
        let Due { last, next, many } = due(&schedule, &zone, from, now);
        if (last, next) == (None, None) {
            let message = format!("invalid schedule: {} : time difference between two schedules is less than 1 second", cron.spec.schedule);
            self.tell(cron, EventType::Warning, "InvalidSchedule", message);
        }
        if many {
            let why = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.tell(cron, EventType::Warning, "TooManyMissedTimes", why.to_owned());
        }
        if let Some(at) = last {
            let late = cron.spec.starting_deadline_seconds.is_some_and(|s| plus(at, secs(s)) < now);
            if late {
                let message = format!("Missed scheduled time to start a job: {}", at.strftime("%a, %d %b %Y %H:%M:%S +0000"));
                self.tell(cron, EventType::Warning, "MissSchedule", message);
            } else if status.active.iter().flatten().all(|a| a.name.as_deref() != Some(&*job_name(cron, at))) {
                self.start(cron, status, at).await?;
            }
        }
        Ok(next.map(|at| between(now, at) + LATER))
    }
}

impl Controller for Crons {
    const QUEUE: &'static str = "cronjob";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Step {
        let Some(cron) = self.crons.get_key(key) else { return Ok(None) };
        let jobs = self.jobs.by_index("controller", cron.uid());
        let Some(cron) = self.newest(cron, &jobs).await? else { return Ok(None) };
        let old = cron.status.clone().unwrap_or_default();
        let mut status = old.clone();
        self.note_jobs(&cron, &mut status, &jobs).await?;
        let step = self.keep_time(&cron, &mut status, client::timestamp()).await;
        status.active = status.active.filter(|a| !a.is_empty());
        if status != old {
            let mut changed = (*cron).clone();
            changed.status = Some(status);
            match self.client.namespaced::<CronJob>(&key.namespace).replace_status(&key.name, &changed).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        self.clean_up(&cron, &jobs).await?;
        step
    }
}

fn reference(job: &Job) -> ObjectReference {
    object_reference(job)
}

/// The name of a time's job: it tells the minute.
fn job_name(cron: &CronJob, at: Timestamp) -> String {
    format!("{}-{}", cron.name(), at.as_second() / 60)
}

/// The job of a time: its name tells it, so that a time has one job.
fn job(cron: &CronJob, at: Timestamp) -> Job {
    let template = &cron.spec.job_template;
    let meta = template.metadata.clone().unwrap_or_default();
    let mut metadata = new_meta(cron.namespace(), &job_name(cron, at));
    metadata.labels = meta.labels;
    let mut notes = meta.annotations.unwrap_or_default();
    notes.insert(SCHEDULED_AT.to_owned(), by_clock(at, &zone(cron).unwrap_or(TimeZone::UTC)));
    metadata.annotations = Some(notes);
    metadata.owner_references = Some(vec![owner_reference(cron)]);
    Job { metadata, spec: template.spec.clone(), status: None }
}
