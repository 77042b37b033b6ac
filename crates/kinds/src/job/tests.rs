//! Jobs as users write them.

use super::*;
use serde_json::json;
use std::time::SystemTime;

fn cx() -> Context {
    Context::new(SystemTime::UNIX_EPOCH, "")
}

fn job(spec: Value) -> Value {
    let mut obj = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": "n", "uid": "u-1"}, "spec": spec, "status": {}});
    Jobs.default(&mut obj);
    Jobs.prepare_create(&cx(), &mut obj);
    obj
}

fn simple() -> Value {
    json!({"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x:1"}]}}})
}

fn texts(errors: &ErrorList) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn a_job_selects_its_own_pods() {
    let obj = job(simple());
    assert_eq!(texts(&Jobs.validate(&obj)), Vec::<String>::new());
    assert_eq!(obj["spec"]["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u-1"}}));
    assert_eq!(
        obj["spec"]["template"]["metadata"]["labels"],
        json!({"batch.kubernetes.io/controller-uid": "u-1", "batch.kubernetes.io/job-name": "j", "controller-uid": "u-1", "job-name": "j"})
    );
    let own = |key: &str| obj["spec"][key].clone();
    assert_eq!((own("completions"), own("parallelism"), own("backoffLimit")), (json!(1), json!(1), json!(6)));
    assert_eq!((own("completionMode"), own("suspend"), own("podReplacementPolicy")), (json!("NonIndexed"), json!(false), json!("TerminatingOrFailed")));
}

#[test]
fn wrong_jobs_are_told_so() {
    let mut always = simple();
    always["template"]["spec"]["restartPolicy"] = "Always".into();
    assert_eq!(texts(&Jobs.validate(&job(always))), ["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""]);
    let mut indexed = simple();
    indexed["completionMode"] = "Indexed".into();
    indexed["parallelism"] = 2.into();
    assert_eq!(texts(&Jobs.validate(&job(indexed))), ["spec.completions: Required value: when completion mode is Indexed"]);
    let mut other = simple();
    other["template"]["metadata"] = json!({"labels": {"job-name": "other"}});
    let found = texts(&Jobs.validate(&job(other)));
    assert!(found[0].starts_with("spec.template.metadata.labels[job-name]: Invalid value:") && found[0].ends_with("must be 'j'"), "{found:?}");
}

#[test]
fn a_job_changes_little() {
    let old = job(simple());
    let mut new = old.clone();
    new["spec"]["parallelism"] = 5.into();
    new["spec"]["suspend"] = true.into();
    assert_eq!(texts(&Jobs.validate_update(&new, &old)), Vec::<String>::new());
    new["spec"]["completions"] = 5.into();
    assert_eq!(texts(&Jobs.validate_update(&new, &old)), ["spec.completions: Invalid value: 5: field is immutable"]);
    let mut new = old.clone();
    new["spec"]["template"]["spec"]["containers"][0]["image"] = "y:1".into();
    let found = texts(&Jobs.validate_update(&new, &old));
    assert!(found[0].starts_with("spec.template: Invalid value:") && found[0].ends_with("field is immutable"), "{found:?}");
    // A suspended job that never began may be sent elsewhere.
    let mut old = old;
    old["spec"]["suspend"] = true.into();
    let mut new = old.clone();
    new["spec"]["template"]["spec"]["nodeSelector"] = json!({"a": "b"});
    assert_eq!(texts(&Jobs.validate_update(&new, &old)), Vec::<String>::new());
}

#[test]
fn the_end_is_the_end() {
    let mut old = job(simple());
    old["status"] = json!({"startTime": "2024-01-01T00:00:00Z", "active": 1});
    let mut new = old.clone();
    new["status"] = json!({"startTime": "2024-01-01T00:00:00Z", "completionTime": "2024-01-01T00:00:05Z", "succeeded": 1, "conditions": [
        {"type": "SuccessCriteriaMet", "status": "True"}, {"type": "Complete", "status": "True"}]});
    assert_eq!(texts(&Jobs.validate_status(&new, &old)), Vec::<String>::new());
    let mut back = new.clone();
    back["status"]["conditions"] = json!([]);
    let found = texts(&Jobs.validate_status(&back, &new));
    assert!(found.contains(&"status.conditions: Invalid value: cannot disable the terminal Complete=True condition".to_owned()), "{found:?}");
    let mut early = new.clone();
    early["status"]["active"] = 1.into();
    assert_eq!(texts(&Jobs.validate_status(&early, &old)), ["status.active: Invalid value: 1: active>0 is invalid for finished job"]);
}

#[test]
fn the_first_time_of_all_is_shown_as_none() {
    let mut old = job(simple());
    old["status"] = json!({"startTime": "2024-01-01T00:00:00Z", "active": 1});
    let mut new = old.clone();
    new["status"]["startTime"] = "0001-01-01T00:00:00Z".into();
    assert_eq!(texts(&Jobs.validate_status(&new, &old)), ["status.startTime: Invalid value: null: field is immutable for unsuspended job once set"]);
    new = old.clone();
    new["status"]["completionTime"] = "0001-01-01T00:00:00Z".into();
    assert_eq!(
        texts(&Jobs.validate_status(&new, &old)),
        [
            "status.completionTime: Invalid value: null: cannot set completionTime when there is no Complete=True condition",
            "status.completionTime: Invalid value: null: must be equal to or after `startTime`"
        ]
    );
}

#[test]
fn schedules_are_read_as_cron_reads_them() {
    for good in ["* * * * *", "*/5 0 1-31 jan,FEB sun-fri", "@daily", "@every 1h30m", "0 0 ? * 5/2"] {
        assert_eq!(schedule::check(good), Ok(()), "{good}");
    }
    for (bad, problem) in [
        ("foo", "expected exactly 5 fields, found 1: [foo]"),
        ("60 * * * *", "end of range (60) above maximum (59): 60"),
        ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
        ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
        ("*/0 * * * *", "step of range should be a positive number: */0"),
        ("a * * * *", "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax"),
        ("\u{1} * * * *", "failed to parse int from \u{1}: strconv.Atoi: parsing \"\\x01\": invalid syntax"),
        ("9999999999999999999 * * * *", "failed to parse int from 9999999999999999999: strconv.Atoi: parsing \"9999999999999999999\": value out of range"),
        ("@often", "unrecognized descriptor: @often"),
    ] {
        assert_eq!(schedule::check(bad), Err(problem.to_owned()), "{bad}");
    }
}

#[test]
fn a_cron_job_is_completed_and_checked() {
    let mut obj = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "c", "namespace": "n"},
        "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": simple()}}});
    CronJobs.default(&mut obj);
    assert_eq!(texts(&CronJobs.validate(&obj)), Vec::<String>::new());
    assert_eq!((&obj["spec"]["concurrencyPolicy"], &obj["spec"]["successfulJobsHistoryLimit"]), (&json!("Allow"), &json!(3)));
    assert!(obj["spec"]["jobTemplate"]["spec"]["backoffLimit"].is_null(), "a job's own defaults come with the job");
    obj["spec"]["schedule"] = "TZ=UTC * * * * *".into();
    assert_eq!(
        texts(&CronJobs.validate(&obj)),
        ["spec.schedule: Invalid value: \"TZ=UTC * * * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead"]
    );
}

#[test]
fn a_time_zone_is_one_of_the_database() {
    let check = |zone: &str| {
        let mut errors = ErrorList::new();
        schedule::check_zone(zone, &Path::root("timeZone"), &mut errors);
        texts(&errors)
    };
    for good in ["UTC", "Etc/UTC", "Europe/Paris", "America/Argentina/Buenos_Aires", "EST5EDT", "Etc/GMT+5", "GMT"] {
        assert_eq!(check(good), Vec::<String>::new(), "{good}");
    }
    for bad in ["Europe/Nowhere", "europe/paris", "../etc/passwd", "Etc/Unknown", "+01:00"] {
        assert_eq!(check(bad), [format!("timeZone: Invalid value: {bad:?}: unknown time zone {bad}")], "{bad}");
    }
    for (bad, shown) in [("\u{1}", "\\u0001"), ("\u{7f}", "\u{7f}"), ("\u{d7ff}", "\u{d7ff}")] {
        assert_eq!(check(bad), [format!("timeZone: Invalid value: \"{shown}\": unknown time zone {bad}")]);
    }
    let explicit = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
    assert_eq!(check("Local"), [format!("timeZone: Invalid value: \"Local\": {explicit}")]);
    assert_eq!(check("local").len(), 2);
    assert_eq!(schedule::check("TZ=Mars/Base * * * * *"), Err("provided bad location Mars/Base: unknown time zone Mars/Base".to_owned()));
}

#[test]
fn lists_of_indexes() {
    assert_eq!(indexes::count("0,2-4,7", 8), Ok(5));
    assert_eq!(indexes::count("3,1", 8), Err("non-increasing order, previous: 3, current: 1".to_owned()));
    assert_eq!(indexes::count("9", 8), Err("too large index: \"9\"".to_owned()));
    assert_eq!(indexes::overlap("0-3,6", "4,5-7", 8), Some(6));
    assert_eq!(indexes::overlap("0-3", "4", 8), None);
}

#[test]
fn a_job_without_labels_has_those_of_its_pods_when_its_status_is_written() {
    let old = json!({"metadata": {}, "spec": {"template": {"metadata": {"labels": {"a": "b"}}}}});
    let mut new = json!({"metadata": {}, "status": {"active": 1}});
    Jobs.prepare_status(&cx(), &mut new, &old);
    assert_eq!(new["metadata"]["labels"], json!({"a": "b"}));
}

#[test]
fn a_job_shares_the_labels_that_it_has_from_its_pods_alone() {
    let labels = json!({"app": "a"});
    let made = |said: Option<&Value>, template: &Value| {
        let mut spec = simple();
        spec["template"]["metadata"] = json!({"labels": template});
        let mut obj = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "uid": "u-1", "labels": said}, "spec": spec});
        Jobs.default(&mut obj);
        Jobs.prepare_create(&Context { labelled: said.is_some(), ..cx() }, &mut obj);
        obj
    };
    assert_eq!(made(Some(&labels), &labels)["metadata"]["labels"], labels);
    let shared = made(None, &labels);
    assert_eq!((&shared["metadata"]["labels"]["app"], &shared["metadata"]["labels"]["job-name"]), (&json!("a"), &json!("j")));
    let mut bare = made(None, &json!({}));
    assert!(tree::empty(&bare["metadata"]["labels"]), "it is judged without");
    Jobs.read_again(&mut bare);
    assert_eq!(bare["metadata"]["labels"]["job-name"], "j");
}

#[test]
fn a_selector_that_is_wrong_is_shown_in_the_order_of_its_type() {
    let mut spec = json!({"schedule": "* * * * *", "jobTemplate": {"spec": simple()}});
    spec["jobTemplate"]["spec"]["selector"] = json!({"matchExpressions": [{"key": "k", "operator": "Exists"}], "matchLabels": {"a": "b"}});
    let found = texts(&CronJobs.validate(&json!({"metadata": {"name": "c"}, "spec": spec})));
    let told = r#"spec.jobTemplate.spec.selector: Invalid value: {"matchLabels":{"a":"b"},"matchExpressions":[{"key":"k","operator":"Exists"}]}: `selector` will be auto-generated"#;
    assert!(found.iter().any(|line| line == told), "{found:?}");
}
