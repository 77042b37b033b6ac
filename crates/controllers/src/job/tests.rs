//! A Job's course, as a table of its pods.

use std::sync::Arc;

use client::Meta;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::indexes;
use super::plan::{self, Attempt, FINALIZER, Plan, plan};

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
    let plan = plan(&job(change.clone(), status), &pods(state), true, client::timestamp());
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
    let ignored = plan(&job(change.clone(), &JobStatus::default()), &[disrupted], true, client::timestamp());
    assert!(plan::condition(&ignored.status, "FailureTarget").is_none() && ignored.release.len() == 1);
    let state = json!({"terminated": {"exitCode": 42}});
    let bad = pod(json!({"containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]}));
    let failed = plan(&job(change, &JobStatus::default()), &[bad], true, client::timestamp());
    let told = plan::condition(&failed.status, "FailureTarget").and_then(|c| c.message.clone());
    assert_eq!(told.as_deref(), Some("Container c for pod n/p failed with exit code 42 matching FailJob rule at index 1"));
    let enough = json!({"completionMode": "Indexed", "completions": 4, "successPolicy": {"rules": [{"succeededIndexes": "1"}]}});
    let mut status = JobStatus::default();
    let over = step(&enough, &mut status, "a:1+ b:0");
    assert_eq!(names(&over.delete), "b");
    assert!(plan::condition(&status, "SuccessCriteriaMet").is_some_and(|c| c.reason.as_deref() == Some("SuccessPolicy")));
}

#[test]
fn suspended_jobs_have_no_pods() {
    let mut status = JobStatus::default();
    let held = step(&json!({"suspend": true}), &mut status, "a b");
    assert_eq!((names(&held.delete), held.create.len()), ("a b".to_owned(), 0));
    assert!(plan::condition(&status, "Suspended").is_some() && status.start_time.is_none());
    let resumed = step(&json!({}), &mut status, "");
    assert_eq!(resumed.create.len(), 2);
    assert!(plan::condition(&status, "Suspended").is_none() && status.start_time.is_some());
}

/// A pod of an index that failed some seconds ago, after so many failures before.
fn failed(name: &str, index: u32, before: i32, ago_s: i64) -> Arc<Pod> {
    let at = k8s_openapi::jiff::Timestamp::from_second(client::timestamp().as_second() - ago_s).unwrap_or_default();
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
    let plan = plan(&job, &state, true, now);
    let made: Vec<_> = plan.create.iter().map(|a| (a.index.unwrap_or(9), a.failures)).collect();
    assert_eq!(made, [(1, 1), (2, 0), (3, 0)]);
    assert!(plan.again.is_some_and(|a| (33..=36).contains(&a.as_secs())), "{:?}", plan.again);
    assert!(plan.release.is_empty(), "how often they failed stands on them alone");
}

#[test]
fn a_failed_pod_is_let_go_when_its_index_has_the_next_one() {
    let change = json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2, "backoffLimit": null, "backoffLimitPerIndex": 9});
    let mut status = JobStatus::default();
    let mut state = pods("next:0");
    state.push(failed("a", 0, 0, 5));
    state.push(failed("b", 1, 0, 5));
    let first = plan(&job(change.clone(), &status), &state, true, client::timestamp());
    assert_eq!(names(&first.release), "a");
    status = first.status;
    assert_eq!(status.uncounted_terminated_pods.clone().and_then(|u| u.failed), Some(vec!["a".to_owned()]));
    // Beyond the limit the index is over and nothing need be remembered.
    let over = json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2, "backoffLimit": null, "backoffLimitPerIndex": 0});
    let last = plan(&job(over, &JobStatus::default()), &[failed("b", 1, 0, 5)], true, client::timestamp());
    assert_eq!((names(&last.release), last.status.failed_indexes.as_deref()), ("b".to_owned(), Some("1")));
}
