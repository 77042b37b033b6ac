//! ResourceQuota: what a namespace may hold and use in all. A write is measured, charged to every quota that counts it,
//! and refused if one of them would be exceeded.
//!
//! The charge is a change of the quota's status, on the condition that it is still the one that was looked at; so two
//! writes never use the same remainder. A write that fails afterwards leaves a charge that the quota controller takes
//! back, as upstream's does.

mod usage;

use super::{
    World,
    amounts::{self, Amounts},
    forbidden, is, text,
};
use crate::{
    ApiServer, Operation, Write,
    context::Context,
    path::RequestInfo,
    query::Query,
    registry::{Call, Change, WriteOptions, change},
    storage,
};
use machinery::{Value, quantity::Quantity, status::Status};
use serde_json::json;
use std::sync::Arc;

const QUOTAS: (&str, &str, &str) = ("", "v1", "resourcequotas");

/// Measures a write and charges it.
pub(super) async fn charge(server: &ApiServer, write: &Write<'_>, object: &Value) -> Result<(), Status> {
    let counted = write.subresource.is_empty() || (is(write, "", "pods") && write.subresource == "resize");
    if write.namespace.is_empty() || !counted || is(write, "", "namespaces") || is(write, "", "resourcequotas") && write.operation == Operation::Update {
        return Ok(());
    }
    let quotas = World { server }.list(QUOTAS, write.namespace);
    if quotas.is_empty() {
        return Ok(());
    }
    let resource = &write.row.resource;
    // What is there already is not made, so it is not charged again.
    let key = resource.key(write.namespace, write.name);
    if write.operation == Operation::Create && storage::get(server, write.row, &key).is_some() {
        return Ok(());
    }
    let new = amounts::measure(&resource.group, &resource.resource, object);
    let old = write.old.map(|old| amounts::measure(&resource.group, &resource.resource, old)).unwrap_or_default();
    let delta: Amounts = new.iter().map(|(name, amount)| (name.clone(), *amount - old.get(name).copied().unwrap_or_default())).collect();
    let matching: Vec<&Arc<Value>> = quotas.iter().filter(|q| amounts::selects(q, &resource.group, &resource.resource, object)).collect();
    // First everything is looked at, so that a quota is not charged for what another refuses.
    for quota in &matching {
        examine(write, object, quota, &delta)?;
    }
    let grows = |quota: &Value| masked(&delta, quota).values().any(|amount| *amount > Quantity::ZERO);
    if write.dry_run {
        return Ok(());
    }
    for quota in matching.into_iter().filter(|q| grows(q)) {
        commit(server, write, object, quota, &delta).await?;
    }
    Ok(())
}

/// Those of the amounts that a quota bounds.
fn masked(amounts: &Amounts, quota: &Value) -> Amounts {
    let hard = &quota["status"]["hard"];
    amounts.iter().filter(|(name, _)| !hard[name.as_str()].is_null()).map(|(n, a)| (n.clone(), *a)).collect()
}

/// Whether a quota has room for a write; 403 in upstream's words.
fn examine(write: &Write<'_>, object: &Value, quota: &Value, delta: &Amounts) -> Result<(), Status> {
    let name = text(&quota["metadata"], "name");
    let (hard, used) = (amounts::of(&quota["status"]["hard"]), amounts::of(&quota["status"]["used"]));
    if write.operation == Operation::Create && is(write, "", "pods") {
        usage::said(object, &hard).map_err(|why| forbidden(write, object, format!("failed quota: {name}: {why}")))?;
    }
    let asked = masked(delta, quota);
    let unknown: Vec<&str> = asked.keys().filter(|n| !used.contains_key(*n)).map(String::as_str).collect();
    if !unknown.is_empty() {
        return Err(forbidden(write, object, format!("status unknown for quota: {name}, resources: {}", unknown.join(","))));
    }
    let exceeded: Vec<&String> = asked
        .iter()
        .filter(|(n, amount)| **amount > Quantity::ZERO && used.get(*n).copied().unwrap_or_default() + **amount > hard.get(*n).copied().unwrap_or_default())
        .map(|(n, _)| n)
        .collect();
    if exceeded.is_empty() {
        return Ok(());
    }
    let print = |amounts: &Amounts| {
        let list: Vec<String> = exceeded.iter().map(|n| format!("{n}={}", amounts.get(*n).copied().unwrap_or_default())).collect();
        list.join(",")
    };
    let why = format!("exceeded quota: {name}, requested: {}, used: {}, limited: {}", print(&asked), print(&used), print(&hard));
    Err(forbidden(write, object, why))
}

/// Adds a write's usage to a quota's status.
async fn commit(server: &ApiServer, write: &Write<'_>, object: &Value, quota: &Value, delta: &Amounts) -> Result<(), Status> {
    let (group, version, resource) = QUOTAS;
    let Some(row) = server.row(group, version, resource) else { return Ok(()) };
    let name = text(&quota["metadata"], "name");
    let info = RequestInfo {
        is_resource: true,
        verb: "update",
        version: version.into(),
        resource: resource.into(),
        subresource: "status".into(),
        namespace: write.namespace.to_owned(),
        name: name.to_owned(),
        ..RequestInfo::default()
    };
    let cx = Context::new(server.own_user(), info, "kube-apiserver".into(), write.cx.now);
    let options = WriteOptions::internal();
    let (query, headers) = (Query::default(), http::HeaderMap::new());
    let call = Call { server, cx: &cx, row: &row, query: &query, headers: &headers, accepted: Default::default() };
    let what =
        Change { row: &row, namespace: write.namespace, name, subresource: "status", options: &options, may_create: false, applied: false, derived: true };
    // Boxed: the quota's own change goes through admission as well.
    let outcome = Box::pin(change(&call, &what, |present| {
        let mut value = present.cloned().unwrap_or_default();
        examine(write, object, &value, delta)?;
        for (name, amount) in masked(delta, &value) {
            let used = amounts::parse(&value["status"]["used"][name.as_str()]).unwrap_or_default();
            value["status"]["used"][name.as_str()] = json!((used + amount).to_string());
        }
        Ok(value)
    }))
    .await;
    match outcome {
        // A quota that is gone bounds nothing.
        Err(error) if error.code == 404 => Ok(()),
        other => other.map(drop),
    }
}
