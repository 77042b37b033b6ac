//! `binding`: the scheduler's word where a pod runs. Sets `spec.nodeName` once, with the condition `PodScheduled`.

use super::set_condition;
use crate::{
    Operation, Write, admission, errors,
    registry::{Call, Change, WriteOptions, change, check_revision, check_uid, meta},
    respond::Answer,
    rows::Row,
};
use bytes::Bytes;
use http::StatusCode;
use machinery::{
    Value,
    apply::{self, FieldSet},
    field::{self, ErrorList, Path},
    gvk::Gvk,
    names,
    status::Status,
    time,
};
use serde_json::json;
use std::sync::Arc;

/// Answers a POST to `pods/NAME/binding` (`name` given) or to `bindings`.
pub(crate) async fn bind(call: &Call<'_>, pods: &Arc<Row>, body: &Bytes) -> Result<Answer, Status> {
    let options = WriteOptions::of(call, "CreateOptions")?;
    let gvk = Gvk { group: String::new(), version: "v1".into(), kind: "Binding".into() };
    let ty = machinery::schema::builtin().kind(&gvk).ok_or_else(|| Status::internal("the schema lacks Binding"))?;
    let mut binding = call.decode_as(body, ty, options.validation)?;
    let name = match call.name() {
        "" => meta::text(&binding, "name").to_owned(),
        name => name.to_owned(),
    };
    let namespace = meta::text(&binding, "namespace");
    if !namespace.is_empty() && namespace != call.cx.info.namespace {
        return Err(Status::bad_request("the namespace of the provided object does not match the namespace sent on the request"));
    }
    // Who is asked about it sees where it goes, and whose its fields are.
    meta::set(&mut binding, "namespace", call.cx.info.namespace.as_str().into());
    let (subresource, created) = (call.cx.info.subresource.as_str(), time::rfc3339(call.cx.now));
    apply::track_update(ty, None, &mut binding, &options.manager, "v1", subresource, &created, &FieldSet::new());
    admit(call, &name, &options, &mut binding).await?;
    check(&binding, &name)?;
    if name.is_empty() {
        return Err(Status::bad_request("Name parameter required."));
    }
    let target = Change {
        row: pods,
        namespace: &call.cx.info.namespace,
        name: &name,
        subresource: "binding",
        options: &options,
        may_create: false,
        // What it changes of the pod is nobody's: upstream's `assignPod` writes below the place where owners are noted.
        applied: true,
        derived: true,
    };
    change(call, &target, |old| {
        let old = old.ok_or_else(|| errors::not_found(pods, &name))?;
        // Through the kind's own path nobody asks for the UID.
        if !call.name().is_empty() {
            check_uid(pods, &name, &binding, old, options.dry_run)?;
        }
        check_revision(pods, &name, &binding, old, options.dry_run)?;
        bound(pods, &name, old, &binding, &created)
    })
    .await?;
    Ok(Answer::Other(StatusCode::CREATED, json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})))
}

/// Admission of the Binding itself: the pod is changed by nothing else.
async fn admit(call: &Call<'_>, name: &str, options: &WriteOptions, binding: &mut Value) -> Result<(), Status> {
    let info = &call.cx.info;
    let write = Write {
        cx: call.cx,
        row: call.row,
        operation: Operation::Create,
        subresource: &info.subresource,
        namespace: &info.namespace,
        name,
        dry_run: options.dry_run,
        old: None,
        options: Some(options),
    };
    admission::mutate(call.world, &write, binding).await?;
    admission::validate(call.world, &write, binding).await
}

fn check(binding: &Value, name: &str) -> Result<(), Status> {
    let mut errors = ErrorList::new();
    let own = meta::text(binding, "name");
    if own != name {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    let target = &binding["target"];
    let path = Path::root("target");
    let kind = target["kind"].as_str().unwrap_or_default();
    if !kind.is_empty() && kind != "Node" {
        errors.push(field::Error::not_supported(&path.child("kind"), json!(kind), &["Node", "<empty>"]));
    }
    let name = target["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        errors.push(field::Error::required(&path.child("name"), ""));
    } else if matches!(kind, "" | "Node") {
        errors.extend(names::dns1123_subdomain(name).into_iter().map(|why| field::Error::invalid(&path.child("name"), json!(name), why)));
    }
    // Upstream answers with the list itself, which is no Status.
    match errors.as_slice() {
        [] => Ok(()),
        [error] => Err(Status::new(500, "", error.to_string())),
        many => Err(Status::new(500, "", format!("[{}]", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")))),
    }
}

fn bound(row: &Row, name: &str, old: &Value, binding: &Value, now: &str) -> Result<Value, Status> {
    // Upstream names the part here.
    let conflict = |why: &str| Status::conflict(&row.resource.group, &format!("{}/binding", row.resource.resource), name, why);
    let node = binding["target"]["name"].as_str().unwrap_or_default();
    if !meta::text(old, "deletionTimestamp").is_empty() {
        return Err(conflict(&format!("pod {name} is being deleted, cannot be assigned to a host")));
    }
    if let Some(present) = old["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
        return Err(conflict(&format!("pod {name} is already assigned to node {present:?}")));
    }
    if old["spec"]["schedulingGates"].as_array().is_some_and(|g| !g.is_empty()) {
        return Err(conflict(&format!("pod {name} has non-empty .spec.schedulingGates")));
    }
    let mut value = old.clone();
    value["spec"]["nodeName"] = node.into();
    for part in ["annotations", "labels"] {
        for (key, text) in binding["metadata"][part].as_object().into_iter().flatten() {
            value["metadata"][part][key.as_str()] = text.clone();
        }
    }
    set_condition(&mut value, json!({"type": "PodScheduled", "status": "True"}), now);
    // It is where it was to be (KEP-5278).
    if let Some(status) = value["status"].as_object_mut() {
        status.remove("nominatedNodeName");
    }
    Ok(value)
}
