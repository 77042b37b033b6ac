//! Server-side apply and the tracking of who owns which field (KEP-555).
//!
//! Every write leaves its mark in `metadata.managedFields`: [`apply`] for `PATCH` with an apply configuration,
//! [`track_update`] for everything else. The rules are those of `structured-merge-diff`:
//! - an update owns what it changed; what others owned of it they lose;
//! - an apply owns what its configuration names; a field that another owns with another value is a conflict, unless forced;
//!   equal values are owned together; what the manager applied before and does not name any more is removed, unless
//!   somebody else owns it.
//!
//! A set of fields is in the version of the kind in which its owner wrote; it is compared with, and cut out of, the object in
//! that version (`versions`); where others know how to convert, they are asked ([`Conversions`]). A configuration is checked against the schema before it is merged (`typed`): a field that does
//! not exist is an error, whatever `fieldValidation` says.
//!
//! Sets of fields are kept in the form in which they are stored, so that a plain update costs one walk over the old and the
//! new object, and nothing more if they are equal.

mod compare;
mod last_applied;
mod managers;
mod merge;
mod prune;
mod scale;
mod set;
mod shape;
#[cfg(test)]
mod tests;
mod typed;
mod versions;
mod whole;

pub use managers::{MANAGER_MAX_BYTES, manager_errors};
pub use scale::Scaled;
pub use set::FieldSet;
pub use typed::live_errors;
pub use versions::{Conversions, Written};

use crate::{
    Map, Value,
    gvk::Gvk,
    json,
    schema::{self, TypeRef},
    status::Status,
};
use compare::{Comparison, compare, fields_of};
use managers::{Entry, Managers};
use std::sync::LazyLock;
use versions::{Form, Versions};

/// Owner of everything that an object had when it was first applied to without anybody being recorded.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Fields that nobody owns: the server's own and the object's identity.
static UNOWNED: LazyLock<FieldSet> = LazyLock::new(|| {
    FieldSet::from_paths(&[
        &["apiVersion"],
        &["kind"],
        &["metadata"],
        &["metadata", "name"],
        &["metadata", "namespace"],
        &["metadata", "creationTimestamp"],
        &["metadata", "selfLink"],
        &["metadata", "uid"],
        &["metadata", "clusterName"],
        &["metadata", "generation"],
        &["metadata", "managedFields"],
        &["metadata", "resourceVersion"],
    ])
});

/// Who writes, through which subresource (empty for the object itself), when (RFC 3339 in whole seconds), and what this
/// endpoint does not write (a strategy's reset fields, with all below them).
#[derive(Debug, Clone, Copy)]
struct Manager<'a> {
    name: &'a str,
    api_version: &'a str,
    subresource: &'a str,
    now: &'a str,
    exclude: &'a FieldSet,
}

/// Merges an applied configuration into the live object (`None`: it does not exist yet) and returns the result with its
/// managedFields. The configuration is what [`crate::json::parse_applied`] read: nothing is left out of it, since naming a field is
/// owning it. Defaulting, validation and what the strategy resets are the caller's.
///
/// `manager` applies through `subresource` (empty for the object itself) in `api_version`, at `now` (RFC 3339, whole
/// seconds); `exclude` are the fields that this endpoint does not write, with all below them.
///
/// # Errors
/// 409 with a cause for every conflicting field if others own it with other values and `force` is false; 400 for a
/// configuration of another kind or with managedFields; 500, as upstream answers, for one that does not fit the schema.
#[allow(clippy::too_many_arguments, reason = "the seam: every one is a fact of the request, and there is one caller")]
pub fn apply<'w>(
    kind: impl Into<Written<'w>>,
    live: Option<&Value>,
    applied: &Value,
    manager: &str,
    api_version: &str,
    subresource: &str,
    force: bool,
    now: &str,
    exclude: &FieldSet,
) -> Result<Value, Status> {
    let kind = kind.into();
    let whole = whole::whole(kind.ty, applied);
    apply_as(kind, live, whole.as_ref().unwrap_or(applied), &Manager { name: manager, api_version, subresource, now, exclude }, force)
}

/// Merges a configuration into an object without noting whose its fields are: what a policy changes is nobody's.
///
/// # Errors
/// The configuration does not fit the schema, or has parts that would replace others as a whole; in upstream's words.
pub fn merge_unowned(ty: TypeRef<'_>, live: &Value, applied: &Value) -> Result<Value, String> {
    if let Some(why) = typed::errors(ty, applied, true) {
        return Err(format!("failed to convert patch object to typed object: {why}"));
    }
    let atomics = merge::atomics(ty, applied);
    if !atomics.is_empty() {
        return Err(format!("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}", atomics.join(", ")));
    }
    if let Some(why) = typed::live_errors(ty, live) {
        return Err(format!("failed to convert original object to typed object: {why}"));
    }
    let mut merged = live.clone();
    merge::merge(ty, &mut merged, applied);
    Ok(merged)
}

fn apply_as<'w>(kind: impl Into<Written<'w>>, live: Option<&Value>, applied: &Value, manager: &Manager<'_>, force: bool) -> Result<Value, Status> {
    let versions = Versions::new(kind.into());
    let ty = versions.ty();
    check(ty, applied)?;
    if let Some(live) = live
        && let Some(errors) = typed::live_errors(ty, live)
    {
        let title = title(live);
        // What is nobody's is given an owner before it is looked at.
        return Err(failed(if Managers::of(Some(live)).is_empty() {
            format!("failed to create manager for existing fields: failed to convert new object ({title}) to smd typed: {errors}")
        } else {
            format!("failed to create typed live object ({title}): {errors}")
        }));
    }
    let mut managers = Managers::of(live);
    versions.reconcile(&mut managers);
    let empty = Value::Object(Map::new());
    let mut old = live.cloned().unwrap_or_else(|| empty.clone());
    if let Some(metadata) = old.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    if managers.is_empty() && live.is_some() {
        // It is an update by way of the same endpoint: what that does not write is not its own.
        let before = Manager { name: BEFORE_FIRST_APPLY, ..*manager };
        update_managers(&versions, &empty, &old, &mut managers, &before).map_err(failed)?;
    }
    // Whose owners wrote in other versions is looked at as these have it, before anything is merged.
    if let Some(why) = managers.versions().find_map(|version| versions.misfit(&old, version)) {
        return Err(failed(why));
    }
    let mut own = Entry::new(manager, true);
    let former = managers.0.iter().position(|e| e.is_same_owner(&own)).map(|at| managers.0.remove(at));
    own.set = fields_of(ty, applied);
    own.set.subtract_below(manager.exclude);
    let mut new = old.clone();
    merge::merge(ty, &mut new, applied);
    if let Some(metadata) = new.get_mut("metadata").and_then(Value::as_object_mut) {
        // Owners of whom cannot be read who they are stay, and are told with the merged object.
        if metadata.get("managedFields").is_some_and(|owners| !owners.is_array()) {
            metadata.remove("managedFields");
        }
        if ty.schema.is_lenient() {
            keep_creation_time(metadata, &old);
        }
    }
    if let Some(former) = former.as_ref().filter(|former| !former.set.is_empty()) {
        if let Some(why) = versions.misfit(&new, &former.api_version) {
            return Err(failed(format!("failed to prune fields: failed to convert merged object to last applied version: {why}")));
        }
        if let Some((version, why)) = managers.versions().find_map(|version| Some((version, versions.misfit(&new, version)?))) {
            return Err(failed(format!("failed to prune fields: failed add back owned items: failed to convert merged object at version {version}: {why}")));
        }
        new = prune::prune(&versions, new, &managers, &own, former);
    }
    own.set.subtract(&UNOWNED);
    let unconverted = |why: &str| format!("unable to convert unstructured object to {}: {why}", ty.gvk().map(ToString::to_string).unwrap_or_default());
    // What Go would leave out of the merged object is no part of it.
    let converted = json::from_maps(&new, ty);
    // Whose owners wrote in other versions is converted before it is compared.
    if let Err(why) = &converted
        && !ty.schema.is_lenient()
        && managers.0.iter().any(|entry| entry.api_version != manager.api_version && versions.form(&entry.api_version) != Form::Unknown)
    {
        return Err(failed(format!("failed to convert new object: {}", unconverted(why))));
    }
    let changes = Changes::new(&versions, &old, &new, &mut managers, manager.exclude).map_err(failed)?;
    take_from_others(&versions, &mut managers, &changes, force, || last_applied::owned(ty, manager.name, &old))?;
    let unchanged = new == old;
    let converted = converted.map_err(|why| failed(format!("failed to convert new object ({}) to proper version: {}", title(applied), unconverted(&why))))?;
    let mut new = converted.value;
    if unchanged {
        // An entry whose apply changed nothing keeps its time, or has none.
        own.time = former.map(|f| f.time).unwrap_or_default();
    }
    last_applied::update(manager.name, &mut new, applied);
    managers.0.push(own);
    managers.write(&mut new);
    Ok(new)
}

/// What is applied must be of the kind, and must fit its schema.
fn check(ty: TypeRef<'_>, applied: &Value) -> Result<(), Status> {
    if let Some(kind) = ty.gvk() {
        let given = kind_of(applied);
        if given != *kind {
            return Err(Status::bad_request(format!("invalid object type: {given}")));
        }
    }
    if applied.get("metadata").and_then(|m| m.get("managedFields")?.as_array()).is_some_and(|owners| are_owners(owners)) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    match typed::errors(ty, applied, false) {
        Some(errors) => Err(failed(format!("failed to create typed patch object ({}): {errors}", title(applied)))),
        None => Ok(()),
    }
}

/// Whether owners can be read. Upstream takes a list in which one cannot for none.
fn are_owners(owners: &[Value]) -> bool {
    let entry = schema::builtin().named("io.k8s.apimachinery.pkg.apis.meta.v1.ManagedFieldsEntry");
    owners.iter().all(|owner| owner.is_object() && entry.is_none_or(|entry| json::from_maps(owner, entry).is_ok()))
}

/// When a custom object was made, nobody reads in what is applied: what is no time gives way to what is known.
fn keep_creation_time(metadata: &mut Map<String, Value>, old: &Value) {
    const FIELD: &str = "creationTimestamp";
    let is_time = |value: &Value| value.as_str().is_some_and(|text| crate::unix::parse(text).is_some());
    if metadata.get(FIELD).is_some_and(|value| !value.is_null() && !is_time(value)) {
        match old["metadata"].get(FIELD) {
            Some(known) => drop(metadata.insert(FIELD.to_owned(), known.clone())),
            None => drop(metadata.remove(FIELD)),
        }
    }
}

/// 500 without a reason, as upstream answers where its engine fails.
fn failed(message: String) -> Status {
    Status::new(500, "", message)
}

fn kind_of(applied: &Value) -> Gvk {
    let text = |key: &str| applied.get(key).and_then(Value::as_str).unwrap_or_default();
    // What cannot be a group with a version is none.
    let api_version = Some(text("apiVersion")).filter(|version| version.matches('/').count() < 2);
    Gvk::parse(api_version.unwrap_or_default(), text("kind"))
}

/// `NAMESPACE/NAME; GROUP/VERSION, Kind=KIND` of a configuration, as far as it says them.
fn title(applied: &Value) -> String {
    let text = |key: &str| applied.get("metadata").and_then(|m| m.get(key)).and_then(Value::as_str).unwrap_or_default();
    format!("{}/{}; {}", text("namespace"), text("name"), kind_of(applied))
}

/// What a write changes, in the form of the request and in every form that an owner has written in.
struct Changes {
    own: Comparison,
    foreign: Vec<(Form, Comparison)>,
}

impl Changes {
    /// Compares the objects. Owners in versions that there are no more are forgotten.
    ///
    /// # Errors
    /// They are not of the form in which one of the owners wrote.
    fn new(versions: &Versions<'_>, old: &Value, new: &Value, managers: &mut Managers, exclude: &FieldSet) -> Result<Self, String> {
        let compared = |form: &Form| {
            let (old, new) = (versions.convert(old, &Form::Same, form), versions.convert(new, &Form::Same, form));
            compare(versions.type_of(form), &old, &new).without(exclude)
        };
        let own = compare(versions.ty(), old, new).without(exclude);
        for version in managers.versions() {
            for (what, value) in [("old", old), ("new", new)] {
                if let Some(why) = versions.misfit(value, version) {
                    return Err(format!("failed to convert {what} object: {why}"));
                }
            }
        }
        managers.0.retain(|e| versions.form(&e.api_version) != Form::Unknown);
        let mut foreign: Vec<(Form, Comparison)> = Vec::new();
        for entry in &managers.0 {
            let form = versions.form(&entry.api_version);
            if form != Form::Same && !foreign.iter().any(|(known, _)| *known == form) {
                let comparison = compared(&form);
                foreign.push((form, comparison));
            }
        }
        Ok(Self { own, foreign })
    }

    /// The changes as an owner sees them.
    fn seen_by(&self, versions: &Versions<'_>, entry: &Entry) -> &Comparison {
        let form = versions.form(&entry.api_version);
        self.foreign.iter().find(|(known, _)| *known == form).map_or(&self.own, |(_, comparison)| comparison)
    }
}

/// Takes what has changed from those who owned it; without force that is a conflict, unless it is `excused`. What is gone is
/// nobody's.
fn take_from_others(
    versions: &Versions<'_>,
    managers: &mut Managers,
    changes: &Changes,
    force: bool,
    excused: impl FnOnce() -> Option<FieldSet>,
) -> Result<(), Status> {
    let conflicts: Vec<FieldSet> = managers.0.iter().map(|e| e.set.intersection(&changes.seen_by(versions, e).changed)).collect();
    if !force && conflicts.iter().any(|c| !c.is_empty()) {
        let excused = excused().unwrap_or_default();
        let left: Vec<FieldSet> = conflicts.iter().map(|c| c.without(&excused)).collect();
        if left.iter().any(|c| !c.is_empty()) {
            return Err(conflict(managers.0.iter().zip(&left)));
        }
    }
    for (entry, conflict) in managers.0.iter_mut().zip(&conflicts) {
        entry.set.subtract(conflict);
        let removed = &changes.seen_by(versions, entry).removed;
        entry.set.subtract(removed);
    }
    managers.0.retain(|e| !e.set.is_empty());
    Ok(())
}

/// 409 in upstream's wording.
fn conflict<'e>(conflicts: impl Iterator<Item = (&'e Entry, &'e FieldSet)>) -> Status {
    let mut by_manager: Vec<(String, Vec<String>)> = Vec::new();
    for (entry, set) in conflicts.filter(|(_, set)| !set.is_empty()) {
        let mut paths = Vec::new();
        set.for_each(&mut |path| paths.push(path.to_owned()));
        by_manager.push((entry.display(), paths));
    }
    by_manager.sort();
    let causes: Vec<(String, String)> =
        by_manager.iter().flat_map(|(who, paths)| paths.iter().map(move |p| (format!("conflict with {who}"), p.clone()))).collect();
    let message = match causes.as_slice() {
        [(what, path)] => format!("Apply failed with 1 conflict: {what}: {path}"),
        _ => {
            let lines = by_manager
                .iter()
                .flat_map(|(who, paths)| std::iter::once(format!("conflicts with {who}:")).chain(paths.iter().map(|path| format!("- {path}"))));
            format!("Apply failed with {} conflicts: {}", causes.len(), lines.collect::<Vec<_>>().join("\n"))
        }
    };
    Status::apply_conflict(&message, &causes)
}

/// What is wrong with an object's managedFields, if they cannot be read (upstream's `ValidateManagedFields`).
#[must_use]
pub fn unfit_managers(object: &Value) -> Option<String> {
    let entries = object["metadata"]["managedFields"].as_array()?;
    entries.iter().enumerate().find_map(|(at, entry)| managers::unfit(at, entry))
}

/// Records an update (create, replace, any patch but apply) from `old` (`None`: it did not exist) to `new` in the
/// managedFields of `new`.
///
/// A request may bring managedFields of its own; an empty list, or one of one empty entry, deletes them all (of a custom object an
/// empty list is as good as none). Through a subresource they are always those of `old`. The other arguments are as
/// in [`apply`].
#[allow(clippy::too_many_arguments, reason = "the seam: every one is a fact of the request, and there is one caller")]
pub fn track_update<'w>(
    kind: impl Into<Written<'w>>,
    old: Option<&Value>,
    new: &mut Value,
    manager: &str,
    api_version: &str,
    subresource: &str,
    now: &str,
    exclude: &FieldSet,
) {
    track(kind, old, new, &Manager { name: manager, api_version, subresource, now, exclude });
}

fn track<'w>(kind: impl Into<Written<'w>>, old: Option<&Value>, new: &mut Value, manager: &Manager<'_>) {
    let kind = kind.into();
    let typed = !kind.is_lenient();
    // Through a subresource nobody brings owners, nor takes them all away.
    let whole = manager.subresource.is_empty();
    let said = new.get("metadata").and_then(|m| m.get("managedFields")).and_then(Value::as_array).filter(|_| whole);
    let reset = said.is_some_and(|entries| match entries.as_slice() {
        [] => typed,
        [Value::Object(entry)] => entry.is_empty(),
        _ => false,
    });
    let brought = if whole { Managers::of(Some(new)) } else { Managers::default() };
    let mut managers = if brought.is_empty() && !reset { Managers::of(old) } else { brought };
    let brought_fields = new.get_mut("metadata").and_then(Value::as_object_mut).and_then(|m| m.remove("managedFields"));
    // An object that nobody is recorded for stays so until it is applied to.
    if managers.is_empty() && old.is_some() {
        return;
    }
    let as_before = old.and_then(|o| o.get("metadata")?.get("managedFields"));
    // Of an object that does not fit its type nobody can tell what has changed: its owners are left as they were.
    let fits = typed::fits(Some(kind.ty), new) && old.is_none_or(|old| typed::fits(Some(kind.ty), old));
    let empty = Value::Object(Map::new());
    let changed = fits.then(|| update_managers(&Versions::new(kind), old.unwrap_or(&empty), new, &mut managers, manager).ok()).flatten();
    let Some(changed) = changed else {
        if let (Some(metadata), Some(fields)) = (new.get_mut("metadata").and_then(Value::as_object_mut), as_before) {
            metadata.insert("managedFields".into(), fields.clone());
        }
        return;
    };
    match (changed, as_before) {
        // Nothing has changed, and the client brought what there was: no need to write it anew.
        (false, Some(fields)) if brought_fields.as_ref().is_none_or(|b| b == fields) => {
            if let Some(metadata) = new.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.insert("managedFields".into(), fields.clone());
            }
        }
        _ => managers.write(new),
    }
}

/// Gives `manager` what differs between the objects; false if nothing does.
///
/// # Errors
/// They are not of the form in which one of the owners wrote.
fn update_managers(versions: &Versions<'_>, old: &Value, new: &Value, managers: &mut Managers, manager: &Manager<'_>) -> Result<bool, String> {
    versions.reconcile(managers);
    let changes = Changes::new(versions, old, new, managers, manager.exclude)?;
    if changes.own.changed.is_empty() && changes.own.removed.is_empty() {
        return Ok(false);
    }
    for entry in &mut managers.0 {
        let seen = changes.seen_by(versions, entry);
        entry.set.subtract(&seen.changed);
        entry.set.subtract(&seen.removed);
    }
    if !changes.own.changed.is_empty() {
        managers.add(Entry { set: changes.own.changed, ..Entry::new(manager, false) });
    }
    Ok(true)
}
