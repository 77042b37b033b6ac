//! What the server itself writes beside a request: a quota's charge, a budget's allowance, why a pod goes, the IPAddress of a
//! Service.
//!
//! These writes stand below the registry: nobody asks for them, so they pass no authorisation and no admission (upstream
//! makes them through its loopback client or straight to its storage), and what calls them may itself be a stage of a
//! request's path. What they have in common with every write stands here: a change is made from the present object and
//! starts again when somebody was faster, and owns the fields that it sets.

use crate::{Context, errors, meta, rows::Row, storage};
use machinery::{Value, apply, convert, defaulting, gvk::Gvk, status::Status, time};
use std::{collections::HashSet, sync::Arc, time::SystemTime};
use store::{Entry, Store};

/// How often a write starts again because others were faster. Upstream's patch tries five times; here a round costs
/// microseconds, and a writer that loses this often has met a fault.
pub(crate) const ATTEMPTS_MAX: usize = 64;
/// The manager of what the server writes.
pub(crate) const MANAGER: &str = "kube-apiserver";
/// The name of the server's own user.
pub(crate) const OWN_USER: &str = "system:apiserver";

/// Defaults from the schema, then those of the kind. What is stored in another version is as it comes out of that one: upstream reads
/// a body into it before anybody looks at it.
pub(crate) fn default(row: &Row, value: &mut Value) {
    // What says that it is something else has none of a definition's (upstream's `unstructuredDefaulter`).
    if row.custom.is_none() || is_its(row, value) {
        defaulting::apply(row.ty(), value);
    }
    row.strategy.default(value);
    // One that says another version is refused for it.
    if row.converts && value["apiVersion"] == row.api_version.as_str() {
        let (own, stored) = (&row.resource.kind, &row.resource.storage);
        *value = convert::convert(convert::convert(value.take(), own, stored), stored, own);
    }
}

/// Whether a value says that it is of a row's kind, in whichever version.
fn is_its(row: &Row, value: &Value) -> bool {
    let (own, text) = (&row.resource.kind, |field: &str| value[field].as_str().unwrap_or_default());
    let said = Gvk::parse(text("apiVersion"), text("kind"));
    (&said.group, &said.kind) == (&own.group, &own.kind)
}

/// Leaves each owner reference once, and tells that some stood twice. `admitted`: it was admission that wrote them.
pub(crate) fn owners_once(value: &mut Value, cx: &Context, admitted: bool) {
    let owners = value.get_mut("metadata").and_then(|metadata| metadata.get_mut("ownerReferences")).and_then(Value::as_array_mut);
    let Some(owners) = owners.filter(|owners| owners.len() > 1) else { return };
    let (mut seen, mut twice): (HashSet<String>, Vec<String>) = (HashSet::new(), Vec::new());
    owners.retain(|owner| {
        let first = seen.insert(String::from_utf8_lossy(&machinery::json::encode(owner)).into_owned());
        if !first {
            twice.push(owner["uid"].as_str().unwrap_or_default().to_owned());
        }
        first
    });
    if twice.is_empty() {
        return;
    }
    let when = if admitted { " after mutating admission happens" } else { "" };
    cx.warn(format!(
        ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and may reject such requests as \
         early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
        twice.join(", ")
    ));
}

/// Takes away what no new object has, and what only the server says of one.
pub(crate) fn wipe(value: &mut Value) {
    let metadata = meta::of(value);
    for field in ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "uid"] {
        metadata.remove(field);
    }
}

/// What the server sets on every new object, once. What admission has set besides is the object's, as upstream has it.
pub(crate) fn stamp(now: SystemTime, value: &mut Value) {
    let metadata = meta::of(value);
    metadata.insert("creationTimestamp".into(), time::rfc3339(now).into());
    metadata.insert("uid".into(), meta::uuid().into());
}

/// Whose fields a change sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owns {
    /// The server's, by this subresource.
    By(&'static str),
    /// Nobody's: upstream writes it below the place where owners are noted.
    Nothing,
}

/// Changes an object. `make` gives the next state, or none if there is nothing to change; it is asked again when somebody
/// was faster. Returns the state before and the one that is stored now.
///
/// # Errors
/// 404; what `make` says; the store cannot write, and then it is not known whether it has.
pub(crate) async fn amend(
    store: &Store,
    row: &Row,
    (namespace, name): (&str, &str),
    owns: Owns,
    now: SystemTime,
    mut make: impl FnMut(&Value) -> Result<Option<Value>, Status>,
) -> Result<(Arc<Entry>, Arc<Entry>), Status> {
    let key = row.resource.key(namespace, name);
    for _ in 0..ATTEMPTS_MAX {
        let entry = storage::get(store, row, &key).ok_or_else(|| errors::not_found(row, name))?;
        let old = storage::value(row, &entry);
        let Some(mut value) = make(&old)? else { return Ok((Arc::clone(&entry), entry)) };
        if let Owns::By(subresource) = owns {
            let exclude = row.reset_fields(subresource);
            apply::track_update(row.ty(), Some(&old), &mut value, MANAGER, &row.api_version, subresource, &time::rfc3339(now), exclude);
        }
        let ready = storage::ready(store, row, value).await?;
        if let Some(stored) = storage::replace(store, row, &key, &entry, ready).await? {
            return Ok((entry, stored));
        }
    }
    Err(errors::modified(row, name))
}

/// Makes a cluster-scoped object; `None` if its name is taken.
///
/// # Errors
/// The store cannot write.
pub(crate) async fn create(store: &Store, row: &Row, now: SystemTime, mut value: Value) -> Result<Option<Arc<Entry>>, Status> {
    default(row, &mut value);
    stamp(now, &mut value);
    apply::track_update(row.ty(), None, &mut value, MANAGER, &row.api_version, "", &time::rfc3339(now), row.reset_fields(""));
    row.strategy.prepare_create(&kinds::Context::new(now, OWN_USER), &mut value);
    let key = row.resource.key("", meta::text(&value, "name"));
    let ready = storage::ready(store, row, value).await?;
    storage::create(store, row, &key, ready).await
}

/// Removes an object if it is as `wanted` says; one that is not there is removed already.
///
/// # Errors
/// The store cannot write.
pub(crate) async fn remove(store: &Store, row: &Row, name: &str, wanted: impl Fn(&Value) -> bool) -> Result<(), Status> {
    let key = row.resource.key("", name);
    for _ in 0..ATTEMPTS_MAX {
        let Some(entry) = storage::get(store, row, &key).filter(|entry| wanted(&storage::value(row, entry))) else { return Ok(()) };
        if storage::delete(store, row, &key, &entry).await?.is_some() {
            return Ok(());
        }
    }
    Err(errors::modified(row, name))
}
