//! Create: a body becomes an object with a name, a UID and an owner of its fields, passes admission and validation,
//! and is stored if its key is free. Also the second half of create-on-update and create-on-apply.

use super::{Call, admin_access, meta, options::WriteOptions};
use crate::{
    Context, Operation, Write, admission, errors, offload,
    own::{self, default},
    respond::Answer,
    rows::Row,
    services, storage,
    world::World,
};
use bytes::Bytes;
use http::StatusCode;
use machinery::{
    Value, apply,
    field::{self, Path},
    json::Blanks,
    status::Status,
    time,
};
use std::{borrow::Cow, sync::Arc};

/// How often a generated name is tried, as upstream since KEP-4420.
const NAMES_MAX: usize = 8;

/// Answers a POST.
pub(crate) async fn create(call: &Call<'_>, body: &Bytes) -> Result<Answer, Status> {
    let options = WriteOptions::of(call, "CreateOptions")?;
    let mut value = call.decode(body, options.validation)?;
    check_kind(call.row, &value)?;
    default(call.row, &mut value);
    call.row.strategy.default_times(call.cx.now, &mut value);
    create_value(call, call.row, call.namespace(), &options, value, false).await
}

/// The apiVersion and kind of a body must be the endpoint's.
pub(crate) fn check_kind(row: &Row, value: &Value) -> Result<(), Status> {
    let api_version = value["apiVersion"].as_str().unwrap_or_default();
    if row.custom.is_some() {
        // The kind is left to validation, as upstream does.
        return match api_version == row.api_version {
            true => Ok(()),
            false => {
                Err(Status::bad_request(format!("the API version in the data ({api_version}) does not match the expected API version ({})", row.api_version)))
            }
        };
    }
    super::declared::check(&row.resource.kind, value)
}

/// Writes down whose the fields are. What is empty is nobody's, though the strategy is told of it: it is not written. In a list that is
/// owned as a whole it is a change, though.
pub(crate) fn track(row: &Row, blanks: &Blanks, value: &mut Value, track: impl FnOnce(&mut Value)) {
    let owned = |value: Cow<'_, Value>| match value {
        Cow::Owned(value) => Some(value),
        Cow::Borrowed(_) => None,
    };
    let plain = owned(kinds::as_written(&*row.strategy, value));
    let whole = owned(blanks.restored_in_lists(row.ty(), plain.as_ref().unwrap_or(&*value)));
    match whole.or(plain) {
        None => track(value),
        Some(mut tracked) => {
            track(&mut tracked);
            meta::set(value, "managedFields", tracked["metadata"]["managedFields"].take());
        }
    }
}

/// Creates a decoded, defaulted object. `applied`: its managers are already written (server-side apply).
pub(crate) async fn create_value(
    call: &Call<'_>,
    row: &Arc<Row>,
    namespace: &str,
    options: &WriteOptions,
    mut value: Value,
    applied: bool,
) -> Result<Answer, Status> {
    place(row, namespace, &mut value)?;
    own::wipe(&mut value);
    own::owners_once(&mut value, call.cx, false);
    if !applied {
        let now = time::rfc3339(call.cx.now);
        track(row, &call.cx.blanks(), &mut value, |value| {
            apply::track_update(row.ty(), None, value, &options.manager, &row.api_version, "", &now, row.reset_fields(""));
        });
    }
    // Once, whatever name is found for it: who is asked about it sees it without one.
    let name = meta::text(&value, "name").to_owned();
    if row.custom.as_ref().is_some_and(|custom| custom.terminating) {
        return Err(terminating(row, &name));
    }
    admission::mutate(call.world, &write(call, row, namespace, &name, options), &mut value).await?;
    // Whoever changed it may have left out what the path says.
    place(row, namespace, &mut value)?;
    let base = meta::text(&value, "generateName").to_owned();
    if base.is_empty() && meta::text(&value, "name").is_empty() && row.strategy.is_named() {
        meta::set(&mut value, "name", meta::uuid().into());
    }
    if !meta::text(&value, "name").is_empty() || base.is_empty() {
        return attempt(call, row, namespace, options, value).await;
    }
    let mut last = None;
    for _ in 0..NAMES_MAX {
        let mut named = value.clone();
        let name = if row.strategy.makes_names() { meta::generate_name(&base) } else { base.clone() };
        meta::set(&mut named, "name", name.into());
        match attempt(call, row, namespace, options, named).await {
            Err(status) if status.reason == "AlreadyExists" => last = Some(status),
            other => return other,
        }
    }
    let mut status = last.unwrap_or_else(|| Status::internal("no name was tried"));
    status.message.push_str(", the server was not able to generate a unique name for the object");
    Err(status)
}

/// The namespace of the body must be that of the path; cluster-scoped objects have none.
pub(crate) fn place(row: &Row, namespace: &str, value: &mut Value) -> Result<(), Status> {
    if !row.resource.namespaced {
        meta::set(value, "namespace", Value::Null);
        return Ok(());
    }
    match meta::text(value, "namespace") {
        own if own == namespace => {}
        "" => meta::set(value, "namespace", namespace.into()),
        _ => return Err(Status::bad_request("the namespace of the provided object does not match the namespace sent on the request")),
    }
    Ok(())
}

fn write<'w>(call: &'w Call<'_>, row: &'w Row, namespace: &'w str, name: &'w str, options: &'w WriteOptions) -> Write<'w> {
    let operation = Operation::Create;
    Write { cx: call.cx, row, operation, subresource: "", namespace, name, dry_run: options.dry_run, old: None, options: Some(options) }
}

async fn attempt(call: &Call<'_>, row: &Arc<Row>, namespace: &str, options: &WriteOptions, mut value: Value) -> Result<Answer, Status> {
    let cx = call.cx;
    let name = meta::text(&value, "name").to_owned();
    let write = write(call, row, namespace, &name, options);
    let versioned = !matches!(meta::text(&value, "resourceVersion"), "" | "0");
    own::stamp(cx.now, &mut value);
    kinds::withhold(&row.resource.group, &row.resource.kind.kind, &mut value, None);
    row.strategy.prepare_create(&cx.strategy(), &mut value);
    let stops = row.strategy.stops(&value);
    if !stops.is_empty() {
        return Err(errors::invalid(row, &name, stops));
    }
    // Upstream gives before it judges (`BeginCreate`): what cannot be given is told alone, and what is given is judged with the rest.
    let hold = match row.strategy.takes_addresses() {
        true => Some(
            call.world
                .services()
                .create(&mut value, &services::Offer::of(call.world).rehearsed(options.dry_run))
                .map_err(|refused| services::refusal(row, &name, refused))?,
        ),
        false => None,
    };
    for warning in validate(call.world, row, cx, &name, &value)? {
        cx.warn(warning);
    }
    storage::readable(&value)?;
    admission::validate(call.world, &write, &value).await?;
    row.strategy.read_again(&mut value);
    // It is the store that refuses this in upstream, which a dry run does not reach.
    if versioned && !options.dry_run {
        return Err(Status::new(500, "", "resourceVersion should not be set on objects to be created"));
    }
    let key = row.resource.key(namespace, &name);
    // Before anything is charged for it: whoever is not charged here is not stored either, though the object may go meanwhile.
    if let Some(present) = storage::get(call.world.store(), row, &key) {
        let ends = !meta::text(&storage::value(row, &present), "deletionTimestamp").is_empty();
        return Err(errors::already_exists(row, &name, ends));
    }
    let charges = admission::charge(call.world, &write, &value).await?;
    if options.dry_run {
        return Ok(Answer::Object(StatusCode::CREATED, storage::rehearsed(call.world.store(), row, value).await?));
    }
    let ready = match storage::ready(call.world.store(), row, value).await {
        Ok(ready) => ready.spelled(cx.texts()),
        Err(error) => {
            charges.refund(call.world).await;
            return Err(error);
        }
    };
    // Who was asked about it may have taken long: what is stored when its definition is gone would be there for ever.
    let inside = match &row.custom {
        None => None,
        // Who waits at the door holds nothing that those inside may need.
        Some(custom) => match offload::resting(custom.family.entrance.enter()).await {
            Some(inside) => Some(inside),
            None => {
                charges.refund(call.world).await;
                return Err(terminating(row, &name));
            }
        },
    };
    let created = storage::place(call.world.store(), row, &key, ready).await;
    // It is stored: whoever waits for those inside need not wait for how it is shown.
    drop(inside);
    let created = match created {
        Ok(Some(entry)) => storage::told(call.world.store(), row, entry).await.map(Some),
        other => other,
    };
    match created {
        Ok(Some(entry)) => {
            if let Some(hold) = hold {
                services::settle(call.world, hold.keep(), namespace, &name).await;
            }
            Ok(Answer::Stored(StatusCode::CREATED, entry))
        }
        Ok(None) => {
            charges.refund(call.world).await;
            Err(errors::already_exists(row, &name, false))
        }
        // It may be stored all the same: what was taken for it stays until that is known.
        Err(error) => {
            if let Some(hold) = hold {
                hold.leave();
            }
            Err(error)
        }
    }
}

fn terminating(row: &Row, name: &str) -> Status {
    let why = "create not allowed while custom resource definition is terminating";
    Status::forbidden(&row.resource.group, &row.resource.resource, name, why)
}

/// Refuses what is wrong; else what the client should be told.
fn validate(world: &World, row: &Row, cx: &Context, name: &str, value: &Value) -> Result<Vec<String>, Status> {
    check_type(row, name, value)?;
    let mut errors = admin_access::check(world, row, value);
    let metadata = |errors: &mut field::ErrorList| {
        if name.is_empty() {
            errors.push(field::Error::required(&Path::root("metadata").child("name"), "name or generateName is required"));
        }
        errors.extend(kinds::validate_meta(value, row.resource.namespaced, &*row.strategy));
    };
    if !row.strategy.judges_metadata() && !row.strategy.metadata_last() {
        metadata(&mut errors);
    }
    let judged = errors::judged(row, &cx.blanks(), value, |value| row.strategy.judge(value, cx.stop()));
    errors.extend(judged.errors);
    if row.strategy.metadata_last() && errors.is_empty() {
        metadata(&mut errors);
    }
    errors::show_blanks(&mut errors, &cx.blanks());
    judged.let_pass.into_iter().for_each(|warning| cx.warn(warning));
    if errors.is_empty() { Ok(judged.warnings) } else { Err(errors::invalid(row, name, errors)) }
}

/// What an object says that it is, of a custom kind: 422 alone, and of the kind that it says.
pub(crate) fn check_type(row: &Row, name: &str, value: &Value) -> Result<(), Status> {
    if row.custom.is_none() {
        return Ok(());
    }
    let mut errors = field::ErrorList::new();
    let kind = value["kind"].as_str().unwrap_or_default();
    for (field, wanted) in [("kind", &row.resource.kind.kind), ("apiVersion", &row.api_version)] {
        if value[field] != wanted.as_str() {
            errors.push(field::Error::invalid(&Path::root(field), value[field].clone(), format!("must be {wanted}")));
        }
    }
    let group = machinery::gvk::Gvk::parse(value["apiVersion"].as_str().unwrap_or_default(), kind).group;
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid(&group, kind, name, errors)) }
}
