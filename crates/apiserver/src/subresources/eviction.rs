//! `eviction`: a delete of a pod that asks its PodDisruptionBudget first.
//!
//! The request passes admission before anything is taken. A pod that does not count for its budget (not running, or
//! already going) may always be evicted. Otherwise the budget's `disruptionsAllowed` is taken down by one before the pod is
//! deleted, so that two evictions never use the same allowance; upstream's rules and wording. An allowance whose pod is not
//! deleted after all stays with its pod in `disruptedPods`, and the disruption controller gives it back after two minutes.

use super::set_condition;
use crate::{
    Operation, Write, admission,
    conversion::Memory,
    errors, own,
    registry::{ATTEMPTS_MAX, Call, DeleteOptions, WriteOptions, check_preconditions, delete_named, meta, place},
    respond::Answer,
    rows::Row,
    storage,
};
use bytes::Bytes;
use http::StatusCode;
use machinery::{
    Value,
    apply::{self, FieldSet},
    field::{self, Path},
    gvk::Gvk,
    labels::Selector,
    schema::TypeRef,
    status::Status,
    time,
};
use serde_json::json;
use std::sync::Arc;
use store::Entry;

/// Disrupted pods that a budget notes at most, as upstream's `MaxDisruptedPodSize`.
const DISRUPTED_MAX: usize = 2000;

/// Answers a POST to `pods/NAME/eviction`.
pub(crate) async fn evict(call: &Call<'_>, body: &Bytes) -> Result<Answer, Status> {
    let gvk = Gvk { group: "policy".into(), version: "v1".into(), kind: "Eviction".into() };
    let ty = machinery::schema::builtin().kind(&gvk).ok_or_else(|| Status::internal("the schema lacks Eviction"))?;
    let written = WriteOptions::of(call, "CreateOptions")?;
    let mut eviction = call.decode_as(body, ty, written.validation)?;
    let asked = admit(call, ty, &written, &mut eviction).await?;
    for attempt_no in 0..ATTEMPTS_MAX {
        call.cx.may_try(attempt_no)?;
        if attempt(call, &asked).await? {
            return Ok(Answer::Other(StatusCode::CREATED, json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})));
        }
    }
    Err(errors::modified(call.row, call.name()))
}

/// Admission of the eviction itself: a node may evict its own pods alone, and nothing is taken from a budget before. Which pod goes
/// and how is read from what mutating admission has left.
async fn admit(call: &Call<'_>, ty: TypeRef<'_>, options: &WriteOptions, eviction: &mut Value) -> Result<Asked, Status> {
    let dry_run = options.dry_run;
    let write = Write {
        cx: call.cx,
        row: call.row,
        operation: Operation::Create,
        subresource: "eviction",
        namespace: call.namespace(),
        name: call.name(),
        dry_run,
        old: None,
        options: Some(options),
    };
    place(call.row, call.namespace(), eviction)?;
    // Who is asked about it sees whose its fields are.
    let now = time::rfc3339(call.cx.now);
    apply::track_update(ty, None, eviction, &options.manager, "policy/v1", "eviction", &now, &FieldSet::new());
    admission::mutate(call.world, &write, eviction).await?;
    if meta::text(eviction, "name") != call.name() {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    const UNREAD: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";
    if eviction["deleteOptions"][UNREAD] == true {
        let path = Path::root("deleteOptions").child(UNREAD);
        let error = field::Error::invalid(&path, json!(true), "can not be set for pod eviction, try after removing the option");
        return Err(Status::invalid("policy", "Eviction", call.name(), vec![error]));
    }
    // Those of the query and those of the content are the same, if both are there (upstream's `propagateDryRun`).
    let of_query: Vec<&str> = call.query.all("dryRun").collect();
    let of_content: Vec<&str> = machinery::tree::items(&eviction["deleteOptions"]["dryRun"]).iter().filter_map(Value::as_str).collect();
    if !of_query.is_empty() && !of_content.is_empty() && of_query != of_content {
        let why = format!("Non-matching dry-run options in request and content: [{}] and [{}]", of_query.join(" "), of_content.join(" "));
        return Err(Status::new(500, "", why));
    }
    let inherits = of_content.is_empty() && !of_query.is_empty() && eviction["deleteOptions"].is_object();
    if inherits {
        eviction["deleteOptions"]["dryRun"] = json!(of_query);
    }
    let (mut options, wrong) = DeleteOptions::judged(&eviction["deleteOptions"]);
    admission::validate(call.world, &write, eviction).await?;
    options.dry_run |= dry_run;
    Ok(Asked { options, wrong })
}

/// How a pod is to go.
struct Asked {
    options: DeleteOptions,
    /// What is wrong with that. It is the deletion that tells it, when the budget has been asked and the pod told.
    wrong: Option<Status>,
}

/// One try; `false` if the pod has changed since it was looked at and nothing was taken for it.
async fn attempt(call: &Call<'_>, asked: &Asked) -> Result<bool, Status> {
    let entry = call.entry(Memory::Anew).await?;
    let pod = storage::value(call.row, &entry);
    let seen = || Some(entry.revision.to_string());
    let mut options = asked.options.clone();
    // A version that the server added is not one that the caller is told of.
    let any_version = options.resource_version.is_none();
    if may_always_go(&pod) {
        // Another pod does not become the one that is meant, however often it is looked at.
        let is_meant = options.uid.as_deref().is_none_or(|uid| uid == meta::text(&pod, "uid"));
        // A pod that may yet become ready meanwhile would count for its budget.
        if !is_over(&pod) && any_version {
            options.resource_version = seen();
        }
        return match remove(call, asked, options).await {
            Err(status) if status.code == 409 && any_version && is_meant => Ok(false),
            told => told.map(|()| true),
        };
    }
    match allowance(call, &pod, options.dry_run).await? {
        Allowance::NotNeeded(budget) => {
            options.resource_version = seen();
            let removed = remove(call, asked, options).await;
            removed.map_err(|status| if status.code == 409 && any_version { being_processed(&budget) } else { status })?;
        }
        Allowance::Taken | Allowance::NoBudget => remove(call, asked, options).await?,
    }
    Ok(true)
}

fn being_processed(budget: &str) -> Status {
    denied(format!("The disruption budget {budget} is still being processed by the server."), 10)
}

/// `options`: those of `asked`, with the version that is meant.
async fn remove(call: &Call<'_>, asked: &Asked, mut options: DeleteOptions) -> Result<(), Status> {
    // Admission was asked about the eviction, before anything was taken for it.
    options.unadmitted = true;
    if !options.dry_run {
        tell_why(call, &mut options).await?;
    }
    if let Some(wrong) = &asked.wrong {
        return Err(wrong.clone());
    }
    delete_named(call, call.row, call.namespace(), call.name(), &options).await.map(drop)
}

/// Notes on the pod why it goes (KEP-3329), before the deletion, so that whoever sees its end knows.
async fn tell_why(call: &Call<'_>, options: &mut DeleteOptions) -> Result<(), Status> {
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"});
    let now = time::rfc3339(call.cx.now);
    let target = (call.namespace(), call.name());
    let (_, changed) = own::amend(call.world.store(), call.row, target, own::Owns::Nothing, call.cx.now, |present| {
        check_preconditions(call.row, call.name(), options, present)?;
        let mut pod = present.clone();
        set_condition(&mut pod, condition.clone(), &now);
        Ok((pod != *present).then_some(pod))
    })
    .await?;
    // The change is ours: it is not one that the caller wants to be told of.
    if let Some(version) = &mut options.resource_version {
        *version = changed.revision.to_string();
    }
    Ok(())
}

/// A pod that is over or already going.
fn is_over(pod: &Value) -> bool {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    matches!(phase, "Succeeded" | "Failed") || !meta::text(pod, "deletionTimestamp").is_empty()
}

/// A pod that is over, not yet running or already going takes nothing from anybody.
fn may_always_go(pod: &Value) -> bool {
    is_over(pod) || pod["status"]["phase"] == "Pending"
}

fn is_ready(pod: &Value) -> bool {
    pod["status"]["conditions"].as_array().into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// The budgets whose selector matches the pod.
fn budgets(call: &Call<'_>, row: &Arc<Row>, pod: &Value) -> Vec<Arc<Entry>> {
    let Some(snapshot) = storage::snapshot(call.world.store(), row, None) else { return Vec::new() };
    let prefix = format!("{}{}/", row.root_key, call.namespace());
    let labels = |selector: &Selector| {
        let pairs = pod["metadata"]["labels"].as_object();
        selector.matches(|key| pairs.and_then(|l| l.get(key)).and_then(Value::as_str))
    };
    let matching = snapshot.range(&prefix, "").filter(|entry| {
        let budget = storage::value(row, entry);
        Selector::from_label_selector(&budget["spec"]["selector"]).is_ok_and(|s| labels(&s))
    });
    matching.cloned().collect()
}

/// What a pod's budget says.
enum Allowance {
    /// No budget counts the pod.
    NoBudget,
    /// The pod is not ready and may go while it is not; the budget's name.
    NotNeeded(String),
    /// One disruption is used up.
    Taken,
}

async fn allowance(call: &Call<'_>, pod: &Value, dry_run: bool) -> Result<Allowance, Status> {
    let Some(row) = call.world.row("policy", "v1", "poddisruptionbudgets") else { return Ok(Allowance::NoBudget) };
    let found = budgets(call, &row, pod);
    let entry = match found.as_slice() {
        [] => return Ok(Allowance::NoBudget),
        [one] => one,
        // Upstream writes this status by hand, without a reason.
        _ => return Err(Status::new(500, "", "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.")),
    };
    let budget = storage::value(&row, entry);
    if !is_ready(pod) && unready_may_go(&budget) {
        return Ok(Allowance::NotNeeded(meta::text(&budget, "name").to_owned()));
    }
    let target = (call.namespace(), meta::text(&budget, "name"));
    let taken = own::amend(call.world.store(), &row, target, own::Owns::By("status"), call.cx.now, |present| {
        check(&row, present)?;
        Ok((!dry_run).then(|| one_less(present, call.name(), &time::rfc3339(call.cx.now))))
    });
    taken.await.map(|_| Allowance::Taken)
}

/// A budget after the disruption of a pod.
fn one_less(budget: &Value, pod: &str, now: &str) -> Value {
    let mut budget = budget.clone();
    let observed = budget["status"]["observedGeneration"].clone();
    let status = &mut budget["status"];
    let left = status["disruptionsAllowed"].as_i64().unwrap_or(0) - 1;
    status["disruptionsAllowed"] = left.into();
    if !status["disruptedPods"].is_object() {
        status["disruptedPods"] = json!({});
    }
    status["disruptedPods"][pod] = now.into();
    if left == 0 {
        let mut condition = json!({"type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "", "lastTransitionTime": now});
        if !observed.is_null() {
            condition["observedGeneration"] = observed;
        }
        if !status["conditions"].is_array() {
            status["conditions"] = json!([]);
        }
        let list = status["conditions"].as_array_mut().into_iter().flatten();
        match list.into_iter().find(|c| c["type"] == condition["type"]) {
            Some(have) => {
                if have["status"] == condition["status"] {
                    condition["lastTransitionTime"] = have["lastTransitionTime"].clone();
                }
                *have = condition;
            }
            None => status["conditions"].as_array_mut().into_iter().for_each(|list| list.push(condition.clone())),
        }
    }
    budget
}

/// A pod that is not ready does not serve: by default it may go while the healthy ones suffice, or always if asked.
fn unready_may_go(budget: &Value) -> bool {
    let status = &budget["status"];
    let (current, desired) = (status["currentHealthy"].as_i64().unwrap_or(0), status["desiredHealthy"].as_i64().unwrap_or(0));
    budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" || (current >= desired && desired > 0)
}

fn denied(cause: String, retry_s: i64) -> Status {
    let error = Status::too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.", retry_s);
    error.cause("DisruptionBudget", cause, "")
}

/// Whether a budget allows one more disruption.
fn check(row: &Row, budget: &Value) -> Result<(), Status> {
    let name = meta::text(budget, "name");
    let status = &budget["status"];
    let observed = status["observedGeneration"].as_i64().unwrap_or(0);
    if observed < meta::int(budget, "generation").unwrap_or(0) {
        return Err(being_processed(name));
    }
    let allowed = status["disruptionsAllowed"].as_i64().unwrap_or(0);
    let forbidden = |why: &str| Err(Status::forbidden(&row.resource.group, "poddisruptionbudget", name, why));
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    if status["disruptedPods"].as_object().is_some_and(|d| d.len() > DISRUPTED_MAX) {
        return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if allowed == 0 {
        let (desired, current) = (status["desiredHealthy"].as_i64().unwrap_or(0), status["currentHealthy"].as_i64().unwrap_or(0));
        return Err(denied(format!("The disruption budget {name} needs {desired} healthy pods and has {current} currently"), 0));
    }
    Ok(())
}
