//! Delete: at once, after a grace period (pods), or after finalizers, by upstream's rules (`rest.BeforeDelete` and the
//! store's `Delete`).
//!
//! An object that may not go yet gets a `deletionTimestamp`; the change that removes its last finalizer, or a delete
//! with grace 0, removes it.
//!
//! An object that cannot be read (its webhook does not convert it) cannot go that way. Who has a right of its own for it may ask for
//! its removal all the same, whatever holds it (`remove_unreadable`).

use super::{ATTEMPTS_MAX, Call, UNVERSIONED, meta, options, placed};
use crate::{Operation, Write, access, admission, context::Options, conversion::Memory, errors, hooks::words, respond::Answer, rows::Row, services, storage};
use bytes::Bytes;
use http::StatusCode;
use kinds::{Propagation, Strategy};
use machinery::{
    Value, defaulting,
    field::{self, ErrorList, Path},
    status::Status,
    time,
};
use serde_json::json;
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
use store::Entry;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// The option by which an object goes that the store has and cannot read.
pub(super) const UNREADABLE: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";

/// Kinds that upstream knows in whatever version beside [`UNVERSIONED`] (`metainternalversion.AddToScheme`): what says that it is one is read,
/// and is no options then.
const KNOWN_EVERYWHERE: [&str; 2] = ["CreateOptions", "UpdateOptions"];
/// Those that it knows beside them in `meta.k8s.io/v1`.
const KNOWN: [&str; 7] = ["ListOptions", "GetOptions", "PatchOptions", "Table", "TableOptions", "PartialObjectMetadata", "PartialObjectMetadataList"];

/// `DeleteOptions`, from body or query.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) dry_run: bool,
    pub(crate) grace_s: Option<i64>,
    /// There are preconditions, if only in name.
    pub(crate) conditional: bool,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) orphan_dependents: Option<bool>,
    pub(crate) propagation: Option<Propagation>,
    /// Only what cannot be read is meant.
    pub(crate) unreadable: bool,
    /// No admission is asked: the instances of a definition that goes, and pods whose eviction was admitted as such.
    pub(crate) unadmitted: bool,
}

impl DeleteOptions {
    /// Reads the body; without one, the query.
    pub(crate) fn read(call: &Call<'_>, body: &Bytes) -> Result<DeleteOptions, Status> {
        let value = if body.is_empty() { from_query(call)? } else { from_body(call, body)? };
        DeleteOptions::of(&value)
    }

    /// Checks `DeleteOptions`; 422 in upstream's words.
    fn of(value: &Value) -> Result<DeleteOptions, Status> {
        let (options, wrong) = DeleteOptions::judged(value);
        wrong.map_or(Ok(options), Err)
    }

    /// `DeleteOptions` as far as they can be read, and what is wrong with them.
    pub(crate) fn judged(value: &Value) -> (DeleteOptions, Option<Status>) {
        let mut errors = ErrorList::new();
        let orphan_dependents = value["orphanDependents"].as_bool();
        if orphan_dependents.is_some() && !value["propagationPolicy"].is_null() {
            let detail = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(field::Error::invalid(&Path::root("propagationPolicy"), value["propagationPolicy"].clone(), detail));
        }
        let propagation = match value["propagationPolicy"].as_str() {
            None => None,
            Some("Orphan") => Some(Propagation::Orphan),
            Some("Background") => Some(Propagation::Background),
            Some("Foreground") => Some(Propagation::Foreground),
            Some(other) => {
                let allowed = ["Foreground", "Background", "Orphan", "nil"];
                errors.push(kinds::not_supported(&Path::root("propagationPolicy"), other, &allowed));
                None
            }
        };
        let dry_run = value["dryRun"].as_array().map_or(&[][..], Vec::as_slice).iter().filter_map(Value::as_str);
        let dry_run = options::dry_run(dry_run, &mut errors);
        let whatever_is_read = value[UNREADABLE].as_bool().unwrap_or(false);
        for other in ["propagationPolicy", "orphanDependents", "gracePeriodSeconds", "preconditions"] {
            if whatever_is_read && !value[other].is_null() {
                errors.push(field::Error::invalid(&Path::root(UNREADABLE), json!(true), format!("cannot be set together with .{other}")));
            }
        }
        let wrong = (!errors.is_empty()).then(|| Status::invalid("meta.k8s.io", "DeleteOptions", "", errors));
        let text = |field: &str| value["preconditions"][field].as_str().map(str::to_owned);
        let options = DeleteOptions {
            dry_run,
            grace_s: value["gracePeriodSeconds"].as_i64(),
            conditional: value["preconditions"].is_object(),
            uid: text("uid"),
            resource_version: text("resourceVersion"),
            orphan_dependents,
            propagation,
            unreadable: whatever_is_read,
            unadmitted: false,
        };
        (options, wrong)
    }
}

impl Options for DeleteOptions {
    fn to_value(&self, _operation: Operation) -> Value {
        let mut out = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
        if let Some(grace) = self.grace_s {
            out["gracePeriodSeconds"] = grace.into();
        }
        if self.conditional {
            out["preconditions"] = json!({});
        }
        for (field, told) in [("uid", &self.uid), ("resourceVersion", &self.resource_version)] {
            if let Some(told) = told {
                out["preconditions"][field] = told.as_str().into();
            }
        }
        if let Some(orphan) = self.orphan_dependents {
            out["orphanDependents"] = orphan.into();
        }
        if let Some(policy) = self.propagation {
            out["propagationPolicy"] = match policy {
                Propagation::Orphan => "Orphan",
                Propagation::Background => "Background",
                Propagation::Foreground => "Foreground",
            }
            .into();
        }
        if self.unreadable {
            out[UNREADABLE] = true.into();
        }
        if self.dry_run {
            out["dryRun"] = json!(["All"]);
        }
        out
    }
}

fn from_body(call: &Call<'_>, bytes: &Bytes) -> Result<Value, Status> {
    let gvk = machinery::gvk::Gvk { group: String::new(), version: "v1".into(), kind: "DeleteOptions".into() };
    let ty = machinery::schema::builtin().kind(&gvk).ok_or_else(|| Status::internal("the schema lacks DeleteOptions"))?;
    let other = |version: &str, kind: &str| {
        let is_known = UNVERSIONED.contains(&kind) || KNOWN_EVERYWHERE.contains(&kind) || version == "meta.k8s.io/v1" && KNOWN.contains(&kind);
        Status::bad_request(match is_known {
            true => format!("converting (v1.{kind}) to (v1.DeleteOptions): unknown conversion"),
            false => words::unregistered(kind, version),
        })
    };
    let is_other = |kind: &str| !matches!(kind, "" | "DeleteOptions");
    // What it is comes before what it holds.
    if let Some((version, kind)) = call.said(bytes) {
        if version.matches('/').count() > 1 {
            return Err(Status::bad_request(format!("unexpected GroupVersion string: {version}")));
        }
        if version.len() > 1 && version.ends_with('/') {
            return Err(Status::bad_request(format!("Object 'apiVersion' is missing in '{}'", String::from_utf8_lossy(bytes))));
        }
        if is_other(&kind) {
            // A group without letters is none; who says no version means that of the options.
            let version = if version.is_empty() { "meta.k8s.io/v1" } else { version.as_str() };
            return Err(other(version.strip_prefix('/').unwrap_or(version), &kind));
        }
    }
    let value = call.read_as(bytes, ty, machinery::json::Validation::Ignore).map_err(bare)?;
    let text = |field: &str| value[field].as_str().unwrap_or_default();
    match is_other(text("kind")) {
        true => Err(other(text("apiVersion"), text("kind"))),
        false => Ok(value),
    }
}

/// Why a body cannot be read and no more: upstream does not say here what it was to be.
fn bare(mut status: Status) -> Status {
    let heads =
        [r#"DeleteOptions in version "v1" cannot be handled as a DeleteOptions: "#, "the object provided is unrecognized (must be of type DeleteOptions): "];
    for (head, summed) in heads.into_iter().zip([false, true]) {
        if let Some(why) = status.message.strip_prefix(head) {
            let why = if summed { why.rsplit_once(" (").map_or(why, |(why, _)| why) } else { why };
            status.message = why.to_owned();
            break;
        }
    }
    status
}

fn from_query(call: &Call<'_>) -> Result<Value, Status> {
    let mut value = json!({});
    let dry_run: Vec<&str> = call.query.all("dryRun").collect();
    if !dry_run.is_empty() {
        value["dryRun"] = json!(dry_run);
    }
    if let Some(grace) = call.query.int("gracePeriodSeconds")? {
        value["gracePeriodSeconds"] = grace.into();
    }
    if let Some(orphan) = call.query.flag_opt("orphanDependents") {
        value["orphanDependents"] = orphan.into();
    }
    if let Some(policy) = call.query.get("propagationPolicy") {
        value["propagationPolicy"] = policy.into();
    }
    if let Some(whatever) = call.query.flag_opt(UNREADABLE) {
        value[UNREADABLE] = whatever.into();
    }
    // Which object is meant, as upstream's `Convert_url_Values_To_v1_DeleteOptions` takes it besides.
    for field in ["uid", "resourceVersion"] {
        if let Some(told) = call.query.get(field).filter(|told| !told.is_empty()) {
            value["preconditions"][field] = told.into();
        }
    }
    Ok(value)
}

/// Answers a DELETE of one object.
pub(crate) async fn delete(call: &Call<'_>, body: &Bytes) -> Result<Answer, Status> {
    let options = DeleteOptions::read(call, body)?;
    if options.unreadable {
        return remove_unreadable(call, options.dry_run).await;
    }
    warn(call, &options);
    // Upstream holds it against the request for the one object alone, before it looks for it.
    if let Some(why) = call.row.strategy.keeps(call.name()) {
        return Err(Status::forbidden(&call.row.resource.group, &call.row.resource.resource, call.name(), why));
    }
    delete_named(call, call.row, call.namespace(), call.name(), &options).await
}

/// Removes an object that the store has and cannot read (upstream's `corruptObjectDeleter`): finalizers do not hold it and no admission
/// is asked, as nobody knows what it says. One that can be read stays.
async fn remove_unreadable(call: &Call<'_>, dry_run: bool) -> Result<Answer, Status> {
    let (row, name) = (call.row, call.name());
    let resource = &row.resource;
    // Upstream wraps the stores of these, and what wraps them cannot do it.
    if matches!((resource.group.as_str(), resource.resource.as_str()), ("", "namespaces") | ("rbac.authorization.k8s.io", _)) {
        return Err(Status::internal(format!("no unsafe deleter provided, can not honor {UNREADABLE}")));
    }
    access::authorize_unreadable(call.world, call.cx, row, call.namespace(), name)?;
    let key = resource.key(call.namespace(), name);
    for attempt in 0..ATTEMPTS_MAX {
        call.cx.may_try(attempt)?;
        // Taken before it is read: what is removed is what was found to be unreadable.
        let entry = storage::get(call.world.store(), row, &key).ok_or_else(|| errors::not_found(row, name))?;
        if let Ok(present) = storage::present(call.world.store(), row, &key, Memory::Anew).await {
            // It may have gone since it was looked for.
            present.ok_or_else(|| errors::not_found(row, name))?;
            let why = format!(
                "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: unsafe deletion is not allowed because \
                 the object is decodable from storage"
            );
            return Err(errors::conflict(row, name, &why));
        }
        if dry_run || storage::delete(call.world.store(), row, &key, &entry).await?.is_some() {
            let details = json!({"name": name, "kind": resource.kind.kind});
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details, "code": 200});
            return Ok(Answer::Other(StatusCode::OK, status));
        }
    }
    Err(errors::modified(row, name))
}

/// Tells a deleter what is done since it did not say otherwise.
pub(crate) fn warn(call: &Call<'_>, options: &DeleteOptions) {
    let said = options.propagation.is_some() || options.orphan_dependents.is_some();
    if let Some(warning) = call.row.strategy.deletion_warning().filter(|_| !said) {
        call.cx.warn(warning);
    }
}

/// Deletes one object.
pub(crate) async fn delete_named(call: &Call<'_>, row: &Arc<Row>, namespace: &str, name: &str, options: &DeleteOptions) -> Result<Answer, Status> {
    placed(row, namespace, name)?;
    let key = row.resource.key(namespace, name);
    for attempt in 0..ATTEMPTS_MAX {
        call.cx.may_try(attempt)?;
        let present = storage::present(call.world.store(), row, &key, Memory::Anew).await.map_err(|unread| storage::unread(&unread))?;
        let entry = present.ok_or_else(|| errors::not_found(row, name))?;
        let old = storage::value(row, &entry);
        check_preconditions(row, name, options, &old)?;
        let Some(mut settled) = begun(&*row.strategy, options, &old) else { return Ok(Answer::Stored(code(options), entry)) };
        // Upstream's stores of these mean the one that they have found.
        if is_namespace(row) || is_definition(row) {
            settled.uid.get_or_insert_with(|| meta::text(&old, "uid").to_owned());
        }
        // Those who are asked of each of many are told the options of them all, as they were sent.
        let told = if call.cx.info.verb == "deletecollection" { options } else { &settled };
        let (cx, operation) = (call.cx, Operation::Delete);
        let write = Write { cx, row, operation, subresource: "", namespace, name, dry_run: options.dry_run, old: Some(&old), options: Some(told) };
        if !options.unadmitted {
            admission::remove(call.world, &write).await?;
        }
        let answer = match plan(call, row, &settled, &old) {
            Plan::Nothing => Some(Answer::Stored(code(options), entry)),
            Plan::Mark(value) if options.dry_run => Some(Answer::Object(code(options), *value)),
            Plan::Mark(value) => {
                let ready = storage::ready(call.world.store(), row, *value).await?.staying(row.strategy.stays("deletion"));
                storage::replace(call.world.store(), row, &key, &entry, ready).await?.map(|e| Answer::Stored(code(options), e))
            }
            // What was only tried stays as the change of its finalizers has left it, where it ends by steps; of others upstream has nothing
            // to show by then, and shows that.
            Plan::Remove(last) if options.dry_run && meta::finalizers(&last) != meta::finalizers(&old) => {
                Some(Answer::Object(StatusCode::OK, if row.strategy.ends_gracefully() { *last } else { nothing(row) }))
            }
            Plan::Remove(last) if options.dry_run => Some(removed(row, name, *last)),
            Plan::Remove(mut last) => {
                // Upstream changes what ends by steps before it removes it, and asks about both.
                if !options.unadmitted && *last != *old {
                    Box::pin(admission::remove(call.world, &Write { old: Some(&last), ..write })).await?;
                }
                remove(call, row, &key, &entry, &old).await?.map(|revision| {
                    // Who is answered with the object sees the revision that watchers see.
                    meta::set(&mut last, "resourceVersion", revision.to_string().into());
                    removed(row, name, *last)
                })
            }
        };
        if let Some(answer) = answer {
            return Ok(answer);
        }
    }
    Err(errors::modified(row, name))
}

/// An object of a kind of which nothing is said.
pub(super) fn nothing(row: &Row) -> Value {
    let mut value = json!({"kind": row.resource.kind.kind, "apiVersion": row.api_version});
    if row.is_builtin() {
        value["metadata"] = json!({});
        defaulting::apply(row.ty(), &mut value);
    }
    value
}

/// 202 if the deletion is not over and its dependents are to go as well, as upstream keeps it for old clients.
fn code(options: &DeleteOptions) -> StatusCode {
    if options.orphan_dependents == Some(false) { StatusCode::ACCEPTED } else { StatusCode::OK }
}

/// 409 if the object is another than the one that is meant.
pub(crate) fn check_preconditions(row: &Row, name: &str, options: &DeleteOptions, old: &Value) -> Result<(), Status> {
    let (uid, version) = (meta::text(old, "uid"), meta::text(old, "resourceVersion"));
    // Upstream names the kind here, not the resource.
    let conflict = |why: &str| Status::conflict(errors::kind_group(row), &row.resource.kind.kind, name, why);
    // What ends in steps of its own is looked at before the others are, in other words.
    let defines = is_definition(row);
    if defines || row.strategy.lingers(old) {
        let head = if defines { "precondition failed" } else { "Precondition failed" };
        let sides = [("UID", options.uid.as_deref(), uid), ("ResourceVersion", options.resource_version.as_deref(), version)];
        for (what, wanted, found) in sides {
            if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
                let why = format!("{head}: {what} in precondition: {wanted}, {what} in object meta: {found}");
                return Err(errors::conflict(row, name, &why));
            }
        }
    }
    if let Some(wanted) = options.uid.as_deref().filter(|w| *w != uid) {
        let why =
            format!("the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The object might have been deleted and then recreated");
        return Err(conflict(&why));
    }
    if let Some(wanted) = options.resource_version.as_deref().filter(|w| *w != version) {
        let why = format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({version}). The object might have been modified"
        );
        return Err(conflict(&why));
    }
    Ok(())
}

/// The options as upstream has made them by the time that anybody is asked (`rest.BeforeDelete`): with the period that the object ends in.
/// None if it is ending already and need not end sooner; then nobody is asked.
fn begun(strategy: &dyn Strategy, options: &DeleteOptions, old: &Value) -> Option<DeleteOptions> {
    let mut told = options.clone();
    // No period is negative: of one that is upstream makes the shortest that is one.
    told.grace_s = options.grace_s.map(|wanted| if wanted < 0 { 1 } else { wanted });
    if !strategy.ends_gracefully() {
        return Some(told);
    }
    if meta::text(old, "deletionTimestamp").is_empty() {
        told.grace_s = Some(strategy.grace_period(old, told.grace_s));
        return Some(told);
    }
    let left_s = meta::int(old, "deletionGracePeriodSeconds").filter(|left_s| *left_s > 0);
    let sooner = left_s.is_none_or(|left_s| told.grace_s.is_some_and(|wanted| wanted < left_s));
    sooner.then_some(told)
}

/// What a delete does.
enum Plan {
    /// The deletion is already going on, and this one asks for nothing sooner.
    Nothing,
    /// The object stays with its deletion noted.
    Mark(Box<Value>),
    /// The object goes; as it is told of.
    Remove(Box<Value>),
}

/// `options`: as [`begun`] has settled them.
fn plan(call: &Call<'_>, row: &Row, options: &DeleteOptions, old: &Value) -> Plan {
    let deleting = !meta::text(old, "deletionTimestamp").is_empty();
    // Its controller is at work: nothing that is asked for meanwhile changes how it ends.
    if deleting && row.strategy.lingers(old) {
        return Plan::Nothing;
    }
    if !deleting && let Some(marked) = row.strategy.mark_deleted(old, call.cx.now) {
        return Plan::Mark(Box::new(marked));
    }
    let old_grace_s = meta::int(old, "deletionGracePeriodSeconds");
    let mut value = old.clone();
    let mut grace_s = 0;
    let mut graceful = false;
    if let (true, Some(old_grace_s)) = (deleting, old_grace_s) {
        match options.grace_s {
            // Only a shorter period may be asked for.
            Some(wanted) if wanted < old_grace_s => {
                graceful = true;
                grace_s = shorten(&mut value, old_grace_s, wanted, call.cx.now);
            }
            _ if old_grace_s > 0 => return Plan::Nothing,
            _ => {}
        }
    } else if !deleting {
        grace_s = row.strategy.grace_period(old, options.grace_s).max(0);
        if grace_s > 0 {
            graceful = true;
            mark(&mut value, later(call.cx.now, grace_s), grace_s);
        } else if row.strategy.ends_gracefully() {
            graceful = true;
            mark(&mut value, call.cx.now, 0);
        }
    }
    let finalizers = finalizers(row, options, old);
    let changed = finalizers != meta::finalizers(old);
    if !finalizers.is_empty() || changed {
        meta::set(&mut value, "finalizers", if finalizers.is_empty() { Value::Null } else { json!(finalizers) });
    }
    // The first delete of a namespace notes its end and no more, also where nothing holds it (upstream's `REST.Delete` of namespaces).
    let held = row.strategy.lingers(old) || is_namespace(row) && !deleting;
    if finalizers.is_empty() && !held && (!graceful || grace_s == 0) {
        return Plan::Remove(Box::new(value));
    }
    if held {
        row.strategy.begin_end(&mut value);
    }
    if !graceful && !deleting {
        mark(&mut value, call.cx.now, 0);
        if held {
            // It is not the store that marks it, and nothing is counted.
            meta::set(&mut value, "deletionGracePeriodSeconds", Value::Null);
            meta::set(&mut value, "generation", old["metadata"]["generation"].clone());
        }
    }
    // What is ending without a period, and is held by its finalizers alone, has one of nothing from now on (`markAsDeleting`).
    if !graceful && deleting && old_grace_s.is_none() && !finalizers.is_empty() {
        meta::set(&mut value, "deletionGracePeriodSeconds", 0.into());
    }
    if value == *old { Plan::Nothing } else { Plan::Mark(Box::new(value)) }
}

/// Notes the deletion. The generation grows, since controllers must look at the object anew.
fn mark(value: &mut Value, at: SystemTime, grace_s: i64) {
    meta::set(value, "deletionTimestamp", time::rfc3339(at).into());
    meta::set(value, "deletionGracePeriodSeconds", grace_s.into());
    if let Some(generation) = meta::int(value, "generation").filter(|g| *g > 0) {
        meta::set(value, "generation", (generation + 1).into());
    }
}

/// A time so many seconds on. Go counts a duration in nanoseconds of 64 bits, which wrap: a grace period of 2^63 - 1 seconds
/// ends a second ago, as in upstream, and none reaches further than 292 years.
fn later(at: SystemTime, seconds: i64) -> SystemTime {
    let nanos = seconds.wrapping_mul(1_000_000_000);
    let span = Duration::from_nanos(nanos.unsigned_abs());
    let moved = if nanos < 0 { at.checked_sub(span) } else { at.checked_add(span) };
    moved.unwrap_or(at)
}

/// Brings the end of a deletion forward; the period that is left. The end is never in the past: what would be over is over now, after a
/// period of a second unless none at all was asked for.
fn shorten(value: &mut Value, old_grace_s: i64, wanted_s: i64, now: SystemTime) -> i64 {
    let mut grace_s = wanted_s;
    if let Ok(end) = time::parse(meta::text(value, "deletionTimestamp")) {
        let mut end = later(end, grace_s.wrapping_sub(old_grace_s));
        if end < now {
            end = now;
            grace_s = grace_s.min(1);
        }
        meta::set(value, "deletionTimestamp", time::rfc3339(end).into());
    }
    meta::set(value, "deletionGracePeriodSeconds", grace_s.into());
    grace_s
}

fn is_namespace(row: &Row) -> bool {
    row.resource.group.is_empty() && row.resource.resource == "namespaces"
}

fn is_definition(row: &Row) -> bool {
    row.resource.group == "apiextensions.k8s.io" && row.resource.resource == "customresourcedefinitions"
}

/// The finalizers that the wished propagation leaves: one of `orphan` and `foregroundDeletion`, or neither.
fn finalizers(row: &Row, options: &DeleteOptions, old: &Value) -> Vec<String> {
    let have = meta::finalizers(old);
    let wanted = match (options.orphan_dependents, options.propagation) {
        // Nothing depends on an Event (upstream's policy for them is `Unsupported`), whatever is asked for.
        _ if row.holds_events() => Some(Propagation::Background),
        (Some(true), _) => Some(Propagation::Orphan),
        // When a namespace begins to end, this is taken for the wish that what depends on it goes first.
        (Some(false), _) if is_namespace(row) && meta::text(old, "deletionTimestamp").is_empty() => Some(Propagation::Foreground),
        (Some(false), _) => Some(Propagation::Background),
        (None, wanted) => wanted,
    };
    let policy = wanted.unwrap_or_else(|| {
        if have.contains(&ORPHAN) {
            Propagation::Orphan
        } else if have.contains(&FOREGROUND) {
            Propagation::Foreground
        } else {
            row.strategy.default_propagation()
        }
    });
    let mut all: Vec<String> = have.iter().filter(|f| !matches!(**f, ORPHAN | FOREGROUND)).map(|f| (*f).to_owned()).collect();
    match policy {
        Propagation::Orphan => all.push(ORPHAN.into()),
        Propagation::Foreground => all.push(FOREGROUND.into()),
        Propagation::Background => {}
    }
    // The order of what was there stays, so that an unchanged list is no change.
    if all.len() == have.len() && have.iter().all(|f| all.iter().any(|a| a == f)) {
        return have.iter().map(|f| (*f).to_owned()).collect();
    }
    all
}

/// Whether a change has taken the last reason why a deleted object was still there.
pub(crate) fn is_finished(row: &Row, value: &Value) -> bool {
    !meta::text(value, "deletionTimestamp").is_empty()
        && meta::finalizers(value).is_empty()
        && meta::int(value, "deletionGracePeriodSeconds").unwrap_or(0) == 0
        && !row.strategy.lingers(value)
}

/// Removes an entry if it is still the same, and tells the revision of that; none if somebody was faster.
pub(crate) async fn remove(call: &Call<'_>, row: &Arc<Row>, key: &str, entry: &Arc<Entry>, old: &Value) -> Result<Option<u64>, Status> {
    let removed = storage::delete(call.world.store(), row, key, entry).await?;
    if removed.is_some() && row.strategy.takes_addresses() {
        services::gone(call.world, old).await;
    }
    Ok(removed)
}

fn removed(row: &Row, name: &str, old: Value) -> Answer {
    if row.strategy.answers_deleted() {
        return Answer::Object(StatusCode::OK, old);
    }
    let mut details = json!({"name": name, "kind": row.resource.resource, "uid": meta::text(&old, "uid")});
    if !row.resource.group.is_empty() {
        details["group"] = row.resource.group.clone().into();
    }
    Answer::Other(StatusCode::OK, json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_asked_is_told_the_period_in_which_a_pod_ends() {
        let pods = kinds::strategy("", "pods");
        let told = |grace_s: Option<i64>, metadata: Value| {
            let pod = json!({"metadata": metadata, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}});
            begun(pods, &DeleteOptions { grace_s, ..DeleteOptions::default() }, &pod).map(|told| told.grace_s)
        };
        assert_eq!(told(None, json!({})), Some(Some(30)));
        assert_eq!(told(Some(-5), json!({})), Some(Some(1)));
        let ending = || json!({"deletionTimestamp": "2026-11-30T10:00:30Z", "deletionGracePeriodSeconds": 30});
        assert_eq!(told(Some(0), ending()), Some(Some(0)));
        assert_eq!(told(None, ending()), None, "nobody is asked");
        assert_eq!(told(Some(30), ending()), None);
        let plain = begun(kinds::strategy("", "configmaps"), &DeleteOptions::default(), &json!({"metadata": {}}));
        assert_eq!(plain.map(|told| told.grace_s), Some(None));
    }

    #[test]
    fn preconditions_are_told_as_they_are_given() {
        let told = |given: Value| DeleteOptions::of(&given).expect("options").to_value(Operation::Delete).get("preconditions").cloned();
        for given in [json!({}), json!({"uid": "u"}), json!({"uid": "", "resourceVersion": "1"})] {
            assert_eq!(told(json!({"preconditions": given})), Some(given));
        }
        assert_eq!((told(json!({})), told(json!({"preconditions": null}))), (None, None));
    }

    #[test]
    fn a_deletion_is_never_over_before_it_is() {
        let begun = time::parse("2026-11-30T10:00:00Z").expect("a time");
        let ending = || json!({"metadata": {"deletionTimestamp": "2026-11-30T10:00:30Z", "deletionGracePeriodSeconds": 30}});
        let shortened = |wanted_s: i64, after_s: u64| {
            let mut value = ending();
            let left_s = shorten(&mut value, 30, wanted_s, begun + Duration::from_secs(after_s));
            assert_eq!(meta::int(&value, "deletionGracePeriodSeconds"), Some(left_s));
            (left_s, meta::text(&value, "deletionTimestamp").to_owned())
        };
        assert_eq!(shortened(20, 10), (20, "2026-11-30T10:00:20Z".to_owned()));
        assert_eq!(shortened(5, 10), (1, "2026-11-30T10:00:10Z".to_owned()));
        assert_eq!(shortened(0, 10), (0, "2026-11-30T10:00:10Z".to_owned()));
    }
}
