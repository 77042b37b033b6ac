//! `eviction`: a delete of a pod that asks its PodDisruptionBudget first.
//!
//! A pod that does not count for its budget (not running, or already going) may always be evicted. Otherwise the
//! budget's `disruptionsAllowed` is taken down by one before the pod is deleted, so that two evictions never use the
//! same allowance; upstream's rules and wording.

use super::set_condition;
use crate::{
    errors,
    registry::{ATTEMPTS_MAX, Call, DeleteOptions, check_preconditions, delete_named, meta, read_body},
    respond::Answer,
    rows::Row,
    storage,
};
use http::StatusCode;
use machinery::{Value, gvk::Gvk, json::Validation, labels::Selector, status::Status, time};
use serde_json::json;
use std::sync::Arc;
use store::Entry;

/// Disrupted pods that a budget notes at most, as upstream's `MaxDisruptedPodSize`.
const DISRUPTED_MAX: usize = 2000;

/// Answers a POST to `pods/NAME/eviction`.
pub(crate) async fn evict(call: &Call<'_>, body: crate::Body) -> Result<Answer, Status> {
    let bytes = read_body(body).await?;
    let gvk = Gvk { group: "policy".into(), version: "v1".into(), kind: "Eviction".into() };
    let ty = machinery::schema::builtin().kind(&gvk).ok_or_else(|| Status::internal("the schema lacks Eviction"))?;
    let eviction = call.decode_as(&bytes, ty, Validation::Warn)?;
    let own = meta::text(&eviction, "name");
    if !own.is_empty() && own != call.name() {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let mut options = DeleteOptions::of(&eviction["deleteOptions"])?;
    options.dry_run |= call.query.text("dryRun") == "All";
    let entry = call.entry()?;
    let pod = storage::value(call.row, &entry);
    if !may_always_go(&pod) {
        take_allowance(call, &pod, options.dry_run).await?;
    }
    if !options.dry_run {
        tell_why(call, &mut options).await?;
    }
    delete_named(call, call.row, call.namespace(), call.name(), &options).await?;
    Ok(Answer::Other(StatusCode::CREATED, json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})))
}

/// Notes on the pod why it goes (KEP-3329), before the deletion, so that whoever sees its end knows.
async fn tell_why(call: &Call<'_>, options: &mut DeleteOptions) -> Result<(), Status> {
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"});
    let now = time::rfc3339(call.cx.now);
    for _ in 0..ATTEMPTS_MAX {
        let entry = call.entry()?;
        let mut pod = (*storage::value(call.row, &entry)).clone();
        check_preconditions(call.row, call.name(), options, &pod)?;
        set_condition(&mut pod, condition.clone(), &now);
        let Some(changed) = storage::replace(call.server, call.row, &call.key(), &entry, pod).await? else { continue };
        // The change is ours: it is not one that the caller wants to be told of.
        if let Some(version) = &mut options.resource_version {
            *version = changed.revision.to_string();
        }
        return Ok(());
    }
    Err(errors::modified(call.row, call.name()))
}

/// A pod that is over, not yet running or already going takes nothing from anybody.
fn may_always_go(pod: &Value) -> bool {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    matches!(phase, "Succeeded" | "Failed" | "Pending") || !meta::text(pod, "deletionTimestamp").is_empty()
}

fn is_ready(pod: &Value) -> bool {
    pod["status"]["conditions"].as_array().into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// The budgets whose selector matches the pod.
fn budgets(call: &Call<'_>, row: &Arc<Row>, pod: &Value) -> Vec<Arc<Entry>> {
    let Some(snapshot) = storage::snapshot(call.server, row, None) else { return Vec::new() };
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

async fn take_allowance(call: &Call<'_>, pod: &Value, dry_run: bool) -> Result<(), Status> {
    let Some(row) = call.server.row("policy", "v1", "poddisruptionbudgets") else { return Ok(()) };
    for _ in 0..ATTEMPTS_MAX {
        let found = budgets(call, &row, pod);
        let entry = match found.as_slice() {
            [] => return Ok(()),
            [one] => one,
            _ => {
                return Err(Status::internal("This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."));
            }
        };
        let mut budget = (*storage::value(&row, entry)).clone();
        if !is_ready(pod) && unready_may_go(&budget) {
            return Ok(());
        }
        check(call, &budget)?;
        if dry_run {
            return Ok(());
        }
        let status = &mut budget["status"];
        status["disruptionsAllowed"] = (status["disruptionsAllowed"].as_i64().unwrap_or(0) - 1).into();
        if !status["disruptedPods"].is_object() {
            status["disruptedPods"] = json!({});
        }
        status["disruptedPods"][call.name()] = time::rfc3339(call.cx.now).into();
        let key = storage::key(entry).to_owned();
        if storage::replace(call.server, &row, &key, entry, budget).await?.is_some() {
            return Ok(());
        }
    }
    Err(errors::modified(&row, ""))
}

/// A pod that is not ready does not serve: by default it may go while the healthy ones suffice, or always if asked.
fn unready_may_go(budget: &Value) -> bool {
    let status = &budget["status"];
    let (current, desired) = (status["currentHealthy"].as_i64().unwrap_or(0), status["desiredHealthy"].as_i64().unwrap_or(0));
    budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" || (current >= desired && desired > 0)
}

fn check(call: &Call<'_>, budget: &Value) -> Result<(), Status> {
    let name = meta::text(budget, "name");
    let status = &budget["status"];
    let denied = |cause: String, retry_s: i64| {
        let error = Status::too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.", retry_s);
        error.cause("DisruptionBudget", cause, "")
    };
    let observed = status["observedGeneration"].as_i64().unwrap_or(0);
    if observed < meta::int(budget, "generation").unwrap_or(0) {
        return Err(denied(format!("The disruption budget {name} is still being processed by the server."), 10));
    }
    let allowed = status["disruptionsAllowed"].as_i64().unwrap_or(0);
    if allowed < 0 {
        return Err(errors::conflict(call.row, call.name(), "pdb disruptions allowed is negative"));
    }
    if status["disruptedPods"].as_object().is_some_and(|d| d.len() > DISRUPTED_MAX) {
        return Err(errors::conflict(call.row, call.name(), "DisruptedPods map too big - too many evictions not confirmed by PDB controller"));
    }
    if allowed == 0 {
        let (desired, current) = (status["desiredHealthy"].as_i64().unwrap_or(0), status["currentHealthy"].as_i64().unwrap_or(0));
        return Err(denied(format!("The disruption budget {name} needs {desired} healthy pods and has {current} currently"), 0));
    }
    Ok(())
}
