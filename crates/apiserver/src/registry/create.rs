//! Create: a body becomes an object with a name, a UID and an owner of its fields, passes admission and validation,
//! and is stored if its key is free. Also the second half of create-on-update and create-on-apply.

use super::{Call, admin_access, meta, options::WriteOptions};
use crate::{
    Context, Operation, Write, access, admission,
    conversion::Memory,
    errors, offload,
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
    quote::Quoted,
    status::Status,
    time,
};
use std::{borrow::Cow, sync::Arc};
use store::Entry;

/// How often a generated name is tried, as upstream since KEP-4420.
const NAMES_MAX: usize = 8;

/// Answers a POST.
pub(crate) async fn create(call: &Call<'_>, body: &Bytes) -> Result<Answer, Status> {
    let options = WriteOptions::of(call, "CreateOptions")?;
    let mut value = call.decode(body, options.validation)?;
    check_kind(call.row, &value)?;
    default(call.row, &mut value);
    call.row.strategy.default_times(call.cx.now, &mut value);
    create_value(call, call.row, call.namespace(), &options, value, Made::Created).await
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
    let kind = &row.resource.kind;
    super::declared::check(kind, value)?;
    match row.strategy.inconvertible(value) {
        None => Ok(()),
        Some(why) => Err(Status::bad_request(format!("{0} in version {1} cannot be handled as a {0}: {why}", kind.kind, Quoted(&kind.version)))),
    }
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

/// How an object comes to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Made {
    /// By a create.
    Created,
    /// By an update of what was not there.
    Updated,
    /// By an apply, which has written its managers already.
    Applied,
}

impl Made {
    /// The subresource by which it came to be; upstream's stores of statuses make what is not there as well, and all who are asked about it
    /// see it come through them.
    fn part(self, cx: &Context) -> &str {
        if self == Made::Created { "" } else { &cx.info.subresource }
    }
}

/// Creates a decoded, defaulted object.
pub(crate) async fn create_value(
    call: &Call<'_>,
    row: &Arc<Row>,
    namespace: &str,
    options: &WriteOptions,
    mut value: Value,
    made: Made,
) -> Result<Answer, Status> {
    place(row, namespace, &mut value)?;
    if made == Made::Created {
        own::wipe(&mut value);
    }
    own::owners_once(&mut value, call.cx, false);
    if made != Made::Applied {
        let (now, part) = (time::rfc3339(call.cx.now), made.part(call.cx));
        track(row, &call.cx.blanks(), &mut value, |value| {
            apply::track_update(row.ty(), None, value, &options.manager, &row.api_version, part, &now, row.reset_fields(part));
        });
    }
    // Once, whatever name is found for it: who is asked about it sees it without one, and who judges it hears the one that was sent.
    let name = meta::text(&value, "name").to_owned();
    if row.custom.as_ref().is_some_and(|custom| custom.terminating) {
        return Err(terminating(row, &name));
    }
    admission::mutate(call.world, &write(call, row, (namespace, &name), options, made), &mut value).await?;
    // What is no create is found to be one when its owners are noted and it has been admitted: upstream's store takes it away then.
    if made != Made::Created {
        own::wipe(&mut value);
    }
    // Whoever changed it may have left out what the path says.
    place(row, namespace, &mut value)?;
    let base = meta::text(&value, "generateName").to_owned();
    if base.is_empty() && meta::text(&value, "name").is_empty() && row.strategy.is_named() {
        meta::set(&mut value, "name", meta::uuid().into());
    }
    if !meta::text(&value, "name").is_empty() || base.is_empty() {
        // Who says both is told as if the name had been made (upstream's `CheckGeneratedNameError`).
        let tried = attempt(call, row, (namespace, &name), options, (value, made)).await;
        return tried.map_err(|status| match status.reason == "AlreadyExists" && !base.is_empty() {
            true => no_unique_name(status),
            false => status,
        });
    }
    let mut last = None;
    for _ in 0..NAMES_MAX {
        let mut named = value.clone();
        let own = if row.strategy.makes_names() { meta::generate_name(&base) } else { base.clone() };
        meta::set(&mut named, "name", own.into());
        match attempt(call, row, (namespace, &name), options, (named, made)).await {
            Err(status) if status.reason == "AlreadyExists" => last = Some(status),
            other => return other,
        }
    }
    Err(no_unique_name(last.unwrap_or_else(|| Status::internal("no name was tried"))))
}

/// That a name is taken which was to be made, as upstream tells it: another may be free a moment later.
fn no_unique_name(mut status: Status) -> Status {
    status.message.push_str(", the server was not able to generate a unique name for the object");
    status.retry_after(1)
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
        // A path that names none takes that of the body away.
        _ if namespace.is_empty() => meta::set(value, "namespace", Value::Null),
        _ => return Err(Status::bad_request("the namespace of the provided object does not match the namespace sent on the request")),
    }
    Ok(())
}

fn write<'w>(call: &'w Call<'_>, row: &'w Row, (namespace, name): (&'w str, &'w str), options: &'w WriteOptions, made: Made) -> Write<'w> {
    let (operation, subresource) = (Operation::Create, made.part(call.cx));
    Write { cx: call.cx, row, operation, subresource, namespace, name, dry_run: options.dry_run, old: None, options: Some(options) }
}

/// `sent`: the name that the object had before anybody changed it. Of what has none those who judge hear the one that was found for it
/// (upstream's `AdmissionToValidateObjectFunc`).
async fn attempt(
    call: &Call<'_>,
    row: &Arc<Row>,
    (namespace, sent): (&str, &str),
    options: &WriteOptions,
    (mut value, made): (Value, Made),
) -> Result<Answer, Status> {
    let cx = call.cx;
    let name = meta::text(&value, "name").to_owned();
    let told = if sent.is_empty() { name.as_str() } else { sent };
    let write = write(call, row, (namespace, told), options, made);
    // Only what the store's versioner can read is a revision; all else goes with the rest that a new object may not bring along.
    let said = meta::text(&value, "resourceVersion");
    let versioned = !said.starts_with('+') && said.parse::<u64>().is_ok_and(|version| version != 0);
    own::stamp(cx.now, &mut value);
    kinds::withhold(&row.resource.group, &row.resource.kind.kind, &mut value, None);
    row.strategy.preparing(&value).into_iter().for_each(|warning| cx.warn(warning));
    row.strategy.prepare_create(&cx.strategy(), &mut value);
    // Upstream gives before it judges (`BeginCreate`): what cannot be given is told alone, and what is given is judged with the rest.
    // Who writes a status that is not there is given nothing, and nothing of what he says is completed.
    let gives = row.strategy.takes_addresses() && cx.info.subresource.is_empty();
    if gives {
        row.strategy.name_addresses(&mut value);
        let stops = row.strategy.stops(&value);
        if !stops.is_empty() {
            return Err(errors::invalid(row, &name, stops));
        }
    }
    let hold = match gives {
        true => Some(
            call.world
                .services()
                .create(&mut value, &services::Offer::of(call.world).rehearsed(options.dry_run))
                .map_err(|refused| services::refusal(row, &name, refused))?,
        ),
        false => None,
    };
    if row.resource.namespaced && namespace.is_empty() {
        return Err(errors::invalid(row, &name, vec![field::Error::required(&Path::root("metadata.namespace"), "")]));
    }
    for warning in validate(call.world, row, cx, &name, &value)? {
        cx.warn(warning);
    }
    storage::readable(&value)?;
    if made != Made::Created {
        // By the name of the path, whatever those who changed the object have called it.
        access::authorize_create(call.world, cx, row, (namespace, told, write.subresource))?;
    }
    admission::validate(call.world, &write, &value).await?;
    row.strategy.read_again(&mut value);
    // It is the store that refuses this in upstream, which a dry run does not reach.
    if versioned && !options.dry_run {
        return Err(Status::new(500, "", "resourceVersion should not be set on objects to be created"));
    }
    let key = row.resource.key(namespace, &name);
    // Before anything is charged for it: whoever is not charged here is not stored either, though the object may go meanwhile. Upstream
    // charges first, and tells of the quota that has no room for another.
    let present = match options.dry_run {
        // It reads what is there, and what cannot be read is not there for it.
        true => Box::pin(storage::present(call.world.store(), row, &key, Memory::Anew)).await.ok().flatten(),
        false => storage::get(call.world.store(), row, &key),
    };
    if let Some(present) = present {
        admission::charge(call.world, &Write { dry_run: true, ..write }, &value).await.map(drop)?;
        let ends = !meta::text(&storage::value(row, &present), "deletionTimestamp").is_empty();
        // Upstream's store turns what is new into the version in which it is stored before it finds the key taken.
        if row.reader().is_some() && !options.dry_run {
            storage::ready(call.world.store(), row, value).await.map(drop)?;
        }
        return Err(errors::already_exists(row, &name, ends));
    }
    let charges = admission::charge(call.world, &write, &value).await?;
    if options.dry_run {
        return Ok(Answer::Object(StatusCode::CREATED, storage::rehearsed(call.world.store(), row, value).await?));
    }
    commit(call, row, (namespace, &name, &key), value, (hold, charges)).await
}

/// Stores a new object to which all who are asked have agreed. What keeps it from the store gives back what was taken for it.
async fn commit(
    call: &Call<'_>,
    row: &Arc<Row>,
    (namespace, name, key): (&str, &str, &str),
    value: Value,
    (hold, charges): (Option<services::Hold<'_>>, admission::Charges),
) -> Result<Answer, Status> {
    let ready = match storage::ready(call.world.store(), row, value).await {
        Ok(ready) => ready.spelled(call.cx.texts()),
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
                return Err(terminating(row, name));
            }
        },
    };
    let created = storage::place(call.world.store(), row, key, ready).await;
    // It is stored: whoever waits for those inside need not wait for how it is shown.
    drop(inside);
    let created = match created {
        Ok(Some(entry)) => storage::told(call.world.store(), row, entry).await.map(Some).map_err(storage::Failed::Unknown),
        other => other,
    };
    match settle(call.world, (namespace, name), (hold, charges), created).await? {
        Some(entry) => Ok(Answer::Stored(StatusCode::CREATED, entry)),
        None => Err(errors::already_exists(row, name, false)),
    }
}

/// What came of a write: what was taken for it is the object's then, or given back, or stays until it is known whether it is stored.
pub(super) async fn settle(
    world: &World,
    (namespace, name): (&str, &str),
    (hold, charges): (Option<services::Hold<'_>>, admission::Charges),
    written: Result<Option<Arc<Entry>>, storage::Failed>,
) -> Result<Option<Arc<Entry>>, Status> {
    match written {
        Ok(Some(entry)) => {
            if let Some(hold) = hold {
                services::settle(world, hold.keep(), namespace, name).await;
            }
            Ok(Some(entry))
        }
        Ok(None) => {
            charges.refund(world).await;
            Ok(None)
        }
        Err(storage::Failed::Refused(error)) => {
            charges.refund(world).await;
            Err(error)
        }
        Err(storage::Failed::Unknown(error)) => {
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
    if errors.is_empty() { Ok(judged.warnings) } else { Err(invalid(row, name, value, errors)) }
}

/// 422 with its causes. Of a custom kind it is told of the kind that the object says.
pub(crate) fn invalid(row: &Row, name: &str, value: &Value, errors: field::ErrorList) -> Status {
    if row.custom.is_none() {
        return errors::invalid(row, name, errors);
    }
    let text = |field: &str| value[field].as_str().unwrap_or_default();
    let kind = machinery::gvk::Gvk::parse(text("apiVersion"), text("kind"));
    Status::invalid(&kind.group, &kind.kind, name, errors)
}
