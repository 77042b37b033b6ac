//! Workloads: `apps`, `batch`, and their forerunners in the core group.

use super::{Cells, condition, count, text};
use crate::{print, tree};
use machinery::{Value, gvk, time};
use std::time::SystemTime;

pub(super) fn find(kind: &str) -> Option<Cells> {
    Some(match kind {
        "Deployment" => deployment,
        "ReplicaSet" => replica_set,
        "ReplicationController" => replication_controller,
        "StatefulSet" => stateful_set,
        "DaemonSet" => daemon_set,
        "Job" => job,
        "CronJob" => cron_job,
        "ControllerRevision" => controller_revision,
        "PodTemplate" => pod_template,
        _ => return None,
    })
}

fn number(owner: &Value, key: &str) -> i64 {
    owner[key].as_i64().unwrap_or(0)
}

fn deployment(obj: &Value, now: SystemTime) -> Vec<Value> {
    let (spec, status) = (&obj["spec"], &obj["status"]);
    let [names, images] = print::containers(&spec["template"]["spec"]);
    vec![
        print::name(obj),
        format!("{}/{}", number(status, "readyReplicas"), number(spec, "replicas")).into(),
        number(status, "updatedReplicas").into(),
        number(status, "availableReplicas").into(),
        print::age(obj, now),
        names,
        images,
        print::plain_selector(&spec["selector"]).into(),
    ]
}

fn replica_set(obj: &Value, now: SystemTime) -> Vec<Value> {
    replicas(obj, now, print::selector(&obj["spec"]["selector"]))
}

fn replication_controller(obj: &Value, now: SystemTime) -> Vec<Value> {
    replicas(obj, now, print::label_set(&obj["spec"]["selector"]))
}

fn replicas(obj: &Value, now: SystemTime, selector: String) -> Vec<Value> {
    let [names, images] = print::containers(&obj["spec"]["template"]["spec"]);
    vec![
        print::name(obj),
        number(&obj["spec"], "replicas").into(),
        number(&obj["status"], "replicas").into(),
        number(&obj["status"], "readyReplicas").into(),
        print::age(obj, now),
        names,
        images,
        selector.into(),
    ]
}

fn stateful_set(obj: &Value, now: SystemTime) -> Vec<Value> {
    let [names, images] = print::containers(&obj["spec"]["template"]["spec"]);
    let ready = format!("{}/{}", number(&obj["status"], "readyReplicas"), number(&obj["spec"], "replicas"));
    vec![print::name(obj), ready.into(), print::age(obj, now), names, images]
}

fn daemon_set(obj: &Value, now: SystemTime) -> Vec<Value> {
    let (spec, status) = (&obj["spec"], &obj["status"]);
    let [names, images] = print::containers(&spec["template"]["spec"]);
    vec![
        print::name(obj),
        number(status, "desiredNumberScheduled").into(),
        number(status, "currentNumberScheduled").into(),
        number(status, "numberReady").into(),
        number(status, "updatedNumberScheduled").into(),
        number(status, "numberAvailable").into(),
        print::label_set(&spec["template"]["spec"]["nodeSelector"]).into(),
        print::age(obj, now),
        names,
        images,
        print::selector(&spec["selector"]).into(),
    ]
}

fn job(obj: &Value, now: SystemTime) -> Vec<Value> {
    let (spec, status) = (&obj["spec"], &obj["status"]);
    let [names, images] = print::containers(&spec["template"]["spec"]);
    let succeeded = number(status, "succeeded");
    let completions = match (spec["completions"].as_i64(), number(spec, "parallelism")) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallel) if parallel > 1 => format!("{succeeded}/1 of {parallel}"),
        (None, _) => format!("{succeeded}/1"),
    };
    let at = |key: &str| time::parse(tree::text(status, key)).ok();
    let duration = at("startTime").map(|start| print::human_duration(print::seconds_between(start, at("completionTime").unwrap_or(now))));
    vec![
        print::name(obj),
        job_status(obj).into(),
        completions.into(),
        duration.unwrap_or_default().into(),
        print::age(obj, now),
        names,
        images,
        print::selector(&spec["selector"]).into(),
    ]
}

/// The first of the job's conditions that says most.
fn job_status(obj: &Value) -> &'static str {
    let is = |kind: &str| condition(&obj["status"], kind).is_some_and(|c| c["status"] == "True");
    if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if !obj["metadata"]["deletionTimestamp"].is_null() {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else if is("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

fn cron_job(obj: &Value, now: SystemTime) -> Vec<Value> {
    let (spec, status) = (&obj["spec"], &obj["status"]);
    let job = &spec["jobTemplate"]["spec"];
    let [names, images] = print::containers(&job["template"]["spec"]);
    let last = &status["lastScheduleTime"];
    vec![
        print::name(obj),
        text(spec, "schedule"),
        spec["timeZone"].as_str().unwrap_or(print::NONE).into(),
        match spec["suspend"].as_bool() {
            None => print::UNSET,
            Some(true) => "True",
            Some(false) => "False",
        }
        .into(),
        count(status, "active"),
        if last.is_null() { print::NONE.into() } else { print::since(last, now).into() },
        print::age(obj, now),
        names,
        images,
        print::selector(&job["selector"]).into(),
    ]
}

fn controller_revision(obj: &Value, now: SystemTime) -> Vec<Value> {
    let owner = tree::list(&obj["metadata"], "ownerReferences").iter().find(|o| o["controller"] == true);
    let controller = owner.map_or(print::NONE.to_owned(), |owner| {
        let (group, _) = gvk::parse_api_version(tree::text(owner, "apiVersion"));
        let kind = tree::text(owner, "kind");
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        format!("{}/{}", qualified.to_lowercase(), tree::text(owner, "name"))
    });
    vec![print::name(obj), controller.into(), number(obj, "revision").into(), print::age(obj, now)]
}

fn pod_template(obj: &Value, _now: SystemTime) -> Vec<Value> {
    let [names, images] = print::containers(&obj["template"]["spec"]);
    vec![print::name(obj), names, images, print::label_set(&obj["template"]["metadata"]["labels"]).into()]
}
