//! A Job's course, as a table of its pods.

use std::sync::Arc;

use client::Meta;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::indexes;
use super::plan::{self, Attempt, FINALIZER, Failures, Plan, plan};

fn job(change: Value, status: &JobStatus) -> Job {
    let mut spec =
        json!({"parallelism": 2, "completions": 3, "backoffLimit": 1, "template": {"spec": {"containers": [{"name": "c"}], "restartPolicy": "Never"}}});
    for (key, value) in change.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    serde_json::from_value(json!({"metadata": {"name": "j", "namespace": "n", "uid": "u"}, "spec": spec, "status": status})).unwrap_or_else(|e| panic!("{e}"))
}

/// `a` runs, `b+` succeeded, `c!` failed; `_` after it: let go. `a:3` has an index.
fn pods(text: &str) -> Vec<Arc<Pod>> {
    let pod = |word: &str| {
        let (name, index) = word.trim_end_matches(['+', '!', '_']).split_once(':').unwrap_or((word.trim_end_matches(['+', '!', '_']), ""));
        let phase = if word.contains('+') {
            "Succeeded"
        } else if word.contains('!') {
            "Failed"
        } else {
            "Running"
        };
        let finalizers = if word.ends_with('_') { json!([]) } else { json!([FINALIZER]) };
        let notes = if index.is_empty() { json!({}) } else { json!({"batch.kubernetes.io/job-completion-index": index}) };
        // Long ago, so that no back-off holds up the next.
        let value = json!({"metadata": {"name": name, "uid": name, "finalizers": finalizers, "annotations": notes, "creationTimestamp": "2020-01-01T00:00:00Z"},
            "status": {"phase": phase}});
        Arc::new(serde_json::from_value::<Pod>(value).unwrap_or_default())
    };
    text.split_whitespace().map(pod).collect()
}

fn step(change: &Value, status: &mut JobStatus, state: &str) -> Plan {
    let plan = plan(&job(change.clone(), status), &pods(state), Failures::default(), true, client::timestamp());
    *status = plan.status.clone();
    plan
}

fn names(pods: &[Arc<Pod>]) -> String {
    pods.iter().map(|p| p.name().to_owned()).collect::<Vec<_>>().join(" ")
}

#[test]
fn ended_pods_are_noted_let_go_and_counted_once() {
    let (change, mut status) = (json!({}), JobStatus::default());
    assert_eq!(step(&change, &mut status, "").create.len(), 2);
    let ended = step(&change, &mut status, "a+ b");
    assert_eq!((names(&ended.release), ended.create.len()), ("a".to_owned(), 1), "noted, and the next begins");
    assert_eq!(status.uncounted_terminated_pods.clone().and_then(|u| u.succeeded), Some(vec!["a".to_owned()]));
    assert_eq!(status.succeeded, None);
    step(&change, &mut status, "a+_ b c");
    assert_eq!(status.succeeded, Some(1), "let go, so counted");
    step(&change, &mut status, "a+_ b c");
    assert_eq!(status.succeeded, Some(1), "once");
    let last = step(&change, &mut status, "b+ c+");
    assert!(plan::condition(&status, "SuccessCriteriaMet").is_some() && plan::condition(&status, "Complete").is_none());
    assert!(last.create.is_empty());
    let end = step(&change, &mut status, "b+_ c+_");
    assert_eq!((status.succeeded, status.active), (Some(3), None));
    assert!(plan::condition(&status, "Complete").is_some_and(|c| c.reason.as_deref() == Some("CompletionsReached")));
    assert_eq!(end.tell, [(false, "Completed".to_owned(), "Job completed".to_owned())]);
}

#[test]
fn failures_beyond_the_limit_end_it_and_what_runs_is_deleted() {
    let (change, mut status) = (json!({}), JobStatus::default());
    let one = step(&change, &mut status, "a! b");
    assert_eq!(one.create.len(), 1, "one failure is borne");
    let two = step(&change, &mut status, "a!_ c! b");
    assert_eq!((names(&two.delete), names(&two.release)), ("b".to_owned(), "c".to_owned()));
    assert!(plan::condition(&status, "FailureTarget").is_some() && plan::condition(&status, "Failed").is_none());
    step(&change, &mut status, "a!_ c!_");
    assert!(plan::condition(&status, "Failed").is_some_and(|c| c.reason.as_deref() == Some("BackoffLimitExceeded")));
    assert_eq!(status.failed, Some(2));
}

#[test]
fn indexes_are_done_one_by_one() {
    let (change, mut status) = (json!({"completionMode": "Indexed", "completions": 4, "parallelism": 3, "backoffLimit": 6}), JobStatus::default());
    let made = |p: &Plan| p.create.iter().filter_map(|a| a.index).collect::<Vec<_>>();
    assert_eq!(made(&step(&change, &mut status, "")), [0, 1, 2]);
    assert_eq!(made(&step(&change, &mut status, "a:0+ b:1! c:2")), [1, 3]);
    assert_eq!(status.completed_indexes.as_deref(), Some("0"));
    let twice = step(&change, &mut status, "c:2 d:1 e:1 f:3");
    assert_eq!(twice.delete.len(), 1);
    let pod = plan::pod(&job(change, &status), Attempt { index: Some(3), ..Attempt::default() });
    assert_eq!(pod.spec.as_ref().and_then(|s| s.hostname.as_deref()), Some("j-3"));
    assert_eq!(pod.metadata.generate_name.as_deref(), Some("j-3-"));
    assert_eq!(indexes::text(&indexes::parse("0-2,4,6-7,99", 9)), "0-2,4,6,7");
    assert!(indexes::parse("0-2,4", 0).is_empty());
}

#[test]
fn policies_decide_over_failures_and_success() {
    let rules = json!([{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}, {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}]);
    let change = json!({"podFailurePolicy": {"rules": rules}, "backoffLimit": 0});
    let pod = |status: Value| {
        let mut status = status;
        status["phase"] = "Failed".into();
        let value = json!({"metadata": {"name": "p", "namespace": "n", "uid": "p", "finalizers": [FINALIZER], "creationTimestamp": "2020-01-01T00:00:00Z"}, "status": status});
        Arc::new(serde_json::from_value::<Pod>(value).unwrap_or_else(|e| panic!("{e}")))
    };
    let disrupted = pod(json!({"conditions": [{"type": "DisruptionTarget", "status": "True"}]}));
    let ignored = plan(&job(change.clone(), &JobStatus::default()), &[disrupted], Failures::default(), true, client::timestamp());
    assert!(plan::condition(&ignored.status, "FailureTarget").is_none() && ignored.release.len() == 1);
    let state = json!({"terminated": {"exitCode": 42}});
    let bad = pod(json!({"containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]}));
    let failed = plan(&job(change, &JobStatus::default()), &[bad], Failures::default(), true, client::timestamp());
    let told = plan::condition(&failed.status, "FailureTarget").and_then(|c| c.message.clone());
    assert_eq!(told.as_deref(), Some("Container c for pod n/p failed with exit code 42 matching FailJob rule at index 1"));
    let enough = json!({"completionMode": "Indexed", "completions": 4, "successPolicy": {"rules": [{"succeededIndexes": "1"}]}});
    let mut status = JobStatus::default();
    let over = step(&enough, &mut status, "a:1+ b:0");
    assert_eq!(names(&over.delete), "b");
    let beyond = json!({"completionMode": "Indexed", "completions": 2, "successPolicy": {"rules": [{"succeededIndexes": "7"}]}});
    let mut never = JobStatus::default();
    step(&beyond, &mut never, "a:1+ b:0");
    assert!(plan::condition(&never, "SuccessCriteriaMet").is_none(), "indexes that are none are not enough");
    // More than there is memory for.
    let all = json!({"completionMode": "Indexed", "completions": i32::MAX, "successPolicy": {"rules": [{"succeededIndexes": "0-2147483646"}]}});
    let mut begun = JobStatus::default();
    step(&all, &mut begun, "a:1+ b:0");
    assert!(plan::condition(&begun, "SuccessCriteriaMet").is_none() && begun.succeeded == Some(1), "{begun:?}");
    assert!(plan::condition(&status, "SuccessCriteriaMet").is_some_and(|c| c.reason.as_deref() == Some("SuccessPolicy")));
}

#[test]
fn suspended_jobs_have_no_pods() {
    let mut status = JobStatus::default();
    let held = step(&json!({"suspend": true}), &mut status, "a b");
    assert_eq!((names(&held.delete), held.create.len()), ("a b".to_owned(), 0));
    assert!(plan::condition(&status, "Suspended").is_some() && status.start_time.is_none());
    status.start_time = Some(client::now());
    let resumed = step(&json!({}), &mut status, "");
    assert_eq!(resumed.create.len(), 2);
    let mut again = status.clone();
    step(&json!({"suspend": true}), &mut again, "");
    assert_eq!(again.start_time, None, "one that is held again has not begun");
    assert!(plan::condition(&status, "Suspended").is_none() && status.start_time.is_some());
}

#[test]
fn what_is_one_too_many_is_let_go_and_no_failure() {
    let mut status = JobStatus::default();
    let held = step(&json!({"suspend": true}), &mut status, "a b");
    assert_eq!(names(&held.release), "a b", "before they are deleted");
    let fewer = step(&json!({"parallelism": 1}), &mut JobStatus::default(), "a b");
    assert_eq!((fewer.delete.len(), names(&fewer.release) == names(&fewer.delete)), (1, true));
    // Of two of one index that one goes that is less far, before any other.
    let change = json!({"completionMode": "Indexed", "completions": 4, "parallelism": 2});
    let mut state = pods("a:0 b:0 c:1 d:2");
    let mut ready = (*state[0]).clone();
    ready.status.get_or_insert_default().conditions =
        serde_json::from_value(json!([{"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}])).ok();
    state[0] = Arc::new(ready);
    let plan = plan(&job(change, &JobStatus::default()), &state, Failures::default(), true, client::timestamp());
    assert_eq!((plan.delete.len(), plan.delete[0].name()), (2, "b"));
    // A queue of work without a number that had a success: who works on ends by itself.
    let queue = step(&json!({"completions": null, "parallelism": 1}), &mut JobStatus::default(), "a+ b c");
    assert_eq!((queue.delete.len(), queue.create.len()), (0, 0));
}

/// A pod that was made and is not seen yet would run on after the end.
#[test]
fn a_job_does_not_end_before_what_it_made_is_seen() {
    let change = json!({"activeDeadlineSeconds": 1});
    let status = JobStatus { start_time: Some(crate::meta::seconds(Timestamp::from_second(1).unwrap_or_default())), ..JobStatus::default() };
    let blind = plan(&job(change.clone(), &status), &[], Failures::default(), false, client::timestamp());
    assert!(blind.status.conditions.iter().flatten().next().is_none() && blind.delete.is_empty(), "{:?}", blind.status);
    let seen = plan(&job(change, &status), &pods("a"), Failures::default(), true, client::timestamp());
    assert!(plan::condition(&seen.status, "FailureTarget").is_some());
    assert_eq!(names(&seen.delete), "a");
}

/// The pods may be gone: the number of failures is remembered.
#[test]
fn failures_are_remembered_until_a_pod_succeeds() {
    let now = client::timestamp();
    let job = job(json!({"backoffLimit": 9}), &JobStatus::default());
    let first = plan(&job, &[failed("a", 0, 0, 5)], Failures::default(), true, now);
    assert_eq!(first.failures.count, 1);
    let second = plan(&job, &[failed("b", 0, 0, 3)], first.failures, true, now);
    assert_eq!((second.failures.count, second.create.len()), (2, 0));
    let gone = plan(&job, &[], second.failures, true, now);
    assert!(gone.create.is_empty() && gone.again.is_some_and(|a| (15..=30).contains(&a.as_secs())), "{:?}", gone.again);
    let good = plan(&job, &pods("c+"), second.failures, true, now);
    assert_eq!((good.failures, good.create.len()), (Failures::default(), 2));
}

#[test]
fn a_job_that_goes_keeps_nothing() {
    let mut job = job(json!({}), &JobStatus::default());
    job.metadata.deletion_timestamp = Some(client::now());
    let plan = plan(&job, &pods("a b+ c!"), Failures::default(), true, client::timestamp());
    assert_eq!(names(&plan.release), "a b c");
    assert!(plan.create.is_empty() && plan.delete.is_empty());
}

#[test]
fn a_job_that_ended_without_a_time_has_none() {
    let ended = |at: Option<&str>| {
        let status = json!({"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": at}]});
        plan::finished_at(&job(json!({}), &serde_json::from_value(status).unwrap_or_default()))
    };
    assert_eq!(ended(Some("2026-01-01T00:00:00Z")), "2026-01-01T00:00:00Z".parse().ok());
    assert_eq!(ended(None), None, "it is not one that ended in 1970, and whose time is long over");
}

#[test]
fn a_template_with_the_finalizer_has_it_once() {
    let template = json!({"metadata": {"finalizers": [FINALIZER, "x.com/y"]}, "spec": {"containers": [], "restartPolicy": "Never"}});
    let made = plan::pod(&job(json!({"template": template}), &JobStatus::default()), Attempt::default());
    assert_eq!(made.metadata.finalizers, Some(vec![FINALIZER.to_owned(), "x.com/y".to_owned()]));
}

#[test]
fn of_a_long_name_the_index_stays() {
    let mut job = job(json!({"completionMode": "Indexed"}), &JobStatus::default());
    job.metadata.name = Some("j".repeat(60));
    let pod = plan::pod(&job, Attempt { index: Some(12), ..Attempt::default() });
    assert_eq!(pod.metadata.generate_name, Some(format!("{}-12-", "j".repeat(54))));
}

#[test]
fn more_than_enough_is_told() {
    let done = JobStatus { succeeded: Some(4), start_time: Some(client::now()), ..JobStatus::default() };
    let plan = plan(&job(json!({}), &done), &[], Failures::default(), true, client::timestamp());
    let told: Vec<_> = plan.tell.iter().map(|(_, reason, _)| reason.as_str()).collect();
    assert_eq!(told, ["TooManySucceededPods", "Completed"]);
}

/// A pod of an index that failed some seconds ago, after so many failures before.
fn failed(name: &str, index: u32, before: i32, ago_s: i64) -> Arc<Pod> {
    let at = Timestamp::from_second(client::timestamp().as_second() - ago_s).unwrap_or_default();
    let notes = json!({"batch.kubernetes.io/job-completion-index": index.to_string(), "batch.kubernetes.io/job-index-failure-count": before.to_string()});
    let state = json!({"terminated": {"exitCode": 1, "finishedAt": at.to_string()}});
    let status =
        json!({"phase": "Failed", "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]});
    let value = json!({"metadata": {"name": name, "uid": name, "finalizers": [FINALIZER], "annotations": notes, "creationTimestamp": "2020-01-01T00:00:00Z"}, "status": status});
    Arc::new(serde_json::from_value::<Pod>(value).unwrap_or_else(|e| panic!("{e}")))
}

#[test]
fn an_index_that_fails_holds_up_no_other() {
    let change = json!({"completionMode": "Indexed", "completions": 4, "parallelism": 4, "backoffLimit": null, "backoffLimitPerIndex": 9});
    let job = job(change, &JobStatus::default());
    let now = client::timestamp();
    // The third failure of index 0 keeps it away for 40 s; the first of index 1, long ago, no more.
    let state = [failed("a", 0, 2, 5), failed("b", 1, 0, 60)];
    let plan = plan(&job, &state, Failures::default(), true, now);
    let made: Vec<_> = plan.create.iter().map(|a| (a.index.unwrap_or(9), a.failures)).collect();
    assert_eq!(made, [(1, 1), (2, 0), (3, 0)]);
    assert!(plan.again.is_some_and(|a| (33..=60).contains(&a.as_secs())), "{:?}", plan.again);
    assert!(plan.release.is_empty(), "how often they failed stands on them alone");
}

#[test]
fn a_failed_pod_is_let_go_when_its_index_has_the_next_one() {
    let change = json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2, "backoffLimit": null, "backoffLimitPerIndex": 9});
    let mut status = JobStatus::default();
    let mut state = pods("next:0");
    state.push(failed("a", 0, 0, 5));
    state.push(failed("b", 1, 0, 5));
    let first = plan(&job(change.clone(), &status), &state, Failures::default(), true, client::timestamp());
    assert_eq!(names(&first.release), "a");
    status = first.status;
    assert_eq!(status.uncounted_terminated_pods.clone().and_then(|u| u.failed), Some(vec!["a".to_owned()]));
    // Beyond the limit the index is over and nothing need be remembered.
    let over = json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2, "backoffLimit": null, "backoffLimitPerIndex": 0});
    let last = plan(&job(over, &JobStatus::default()), &[failed("b", 1, 0, 5)], Failures::default(), true, client::timestamp());
    assert_eq!((names(&last.release), last.status.failed_indexes.as_deref()), ("b".to_owned(), Some("1")));
}
