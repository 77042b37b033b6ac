//! Patch: JSON patch, merge patch, strategic merge patch, and server-side apply.
//!
//! A patch is computed on the object in the version of the request and its result decoded like a body, so unknown
//! fields, wrong types and defaults are treated as in an update. It starts again on a concurrent change unless it
//! names a resourceVersion.

use super::{
    Call, create, meta,
    options::WriteOptions,
    update::{Change, change},
};
use crate::{errors, negotiate, own, respond::Answer};
use bytes::Bytes;
use http::{HeaderMap, header};
use machinery::{
    Value, apply,
    field::{self, Path},
    json, patch as patches,
    schema::TypeRef,
    status::Status,
    time,
};

/// The kinds of patch, by their media types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' merge by list keys.
    Strategic,
    /// Server-side apply.
    Apply,
}

const MEDIA: [(&str, Kind); 4] = [
    ("application/json-patch+json", Kind::Json),
    ("application/merge-patch+json", Kind::Merge),
    ("application/strategic-merge-patch+json", Kind::Strategic),
    ("application/apply-patch+yaml", Kind::Apply),
];

impl Kind {
    /// Reads the media type; 415 with the list of those that there are.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Kind, Status> {
        let media = negotiate::media(headers, header::CONTENT_TYPE).unwrap_or_default();
        let found = MEDIA.iter().find(|(name, _)| *name == media).map(|(_, kind)| *kind);
        found.ok_or_else(|| Status::unsupported_media_type(&MEDIA.map(|(name, _)| name)))
    }
}

/// Answers a PATCH of an object or of one of its generic subresources.
pub(crate) async fn patch(call: &Call<'_>, subresource: &str, body: &Bytes) -> Result<Answer, Status> {
    let kind = Kind::of(call.headers)?;
    let options = options(call, kind)?;
    let target = Change {
        row: call.row,
        namespace: call.namespace(),
        name: call.name(),
        subresource,
        options: &options,
        may_create: kind == Kind::Apply && subresource.is_empty(),
        applied: kind == Kind::Apply,
        derived: true,
    };
    if kind == Kind::Apply {
        let applied = applied(call, &options, body)?;
        return change(call, &target, |old| apply_to(call, &options, subresource, old, &applied)).await;
    }
    let parsed = parse(body)?;
    change(call, &target, |old| {
        let old = old.ok_or_else(|| errors::not_found(call.row, call.name()))?;
        let mut value = patched(call, kind, call.row.ty(), &options, old, &parsed)?;
        own::default(call.row, &mut value);
        check_identity(call, &value)?;
        Ok(value)
    })
    .await
}

/// The options of a patch: `force` is for apply alone, and apply must say who applies.
pub(crate) fn options(call: &Call<'_>, kind: Kind) -> Result<WriteOptions, Status> {
    let options = WriteOptions::of(call, "PatchOptions")?;
    let error = match (kind, options.manager_given, call.query.get("force").is_some()) {
        (Kind::Apply, false, _) => field::Error::required(&Path::root("fieldManager"), "is required for apply patch"),
        (Kind::Apply, ..) | (_, _, false) => return Ok(options),
        (_, _, true) => field::Error::forbidden(&Path::root("force"), "may not be specified for non-apply patch"),
    };
    Err(Status::invalid("meta.k8s.io", "PatchOptions", "", vec![error]))
}

/// Parses a patch as JSON.
pub(crate) fn parse(bytes: &Bytes) -> Result<Value, Status> {
    serde_json::from_slice(bytes).map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))
}

/// The patched object, decoded as a body of its type.
pub(crate) fn patched(call: &Call<'_>, kind: Kind, ty: TypeRef<'_>, options: &WriteOptions, old: &Value, patch: &Value) -> Result<Value, Status> {
    let value = match kind {
        Kind::Json => patches::json_patch(old, patch)?,
        Kind::Merge => {
            need_object(patch)?;
            let mut value = old.clone();
            patches::merge(&mut value, patch);
            value
        }
        Kind::Strategic | Kind::Apply => {
            need_object(patch)?;
            let mut value = old.clone();
            patches::strategic(ty, &mut value, patch)?;
            value
        }
    };
    let decoded = json::normalize(value, ty, options.validation)?;
    for warning in decoded.warnings {
        call.cx.warn(warning);
    }
    Ok(decoded.value)
}

fn need_object(patch: &Value) -> Result<(), Status> {
    if patch.is_object() { Ok(()) } else { Err(Status::bad_request("error decoding patch: the patch must be a JSON object")) }
}

/// A patch changes neither what the object is nor what it is called.
fn check_identity(call: &Call<'_>, value: &Value) -> Result<(), Status> {
    create::check_kind(call.row, value)?;
    let name = meta::text(value, "name");
    if name != call.name() {
        return Err(Status::bad_request(format!("the name of the object ({name}) does not match the name on the URL ({})", call.name())));
    }
    if call.row.resource.namespaced && meta::text(value, "namespace") != call.namespace() {
        return Err(Status::bad_request("the namespace of the object does not match the namespace on the request"));
    }
    Ok(())
}

/// Decodes what is applied: YAML, of which JSON is a part.
fn applied(call: &Call<'_>, options: &WriteOptions, bytes: &Bytes) -> Result<Value, Status> {
    let decoded = json::decode_applied(bytes, call.row.ty(), options.validation)?;
    for warning in decoded.warnings {
        call.cx.warn(warning);
    }
    let mut value = decoded.value;
    create::check_kind(call.row, &value)?;
    if value["metadata"].get("managedFields").is_some_and(|m| !m.is_null()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    match meta::text(&value, "name") {
        "" => meta::set(&mut value, "name", call.name().into()),
        name if name != call.name() => {
            return Err(Status::bad_request(format!("the name of the object ({name}) does not match the name on the URL ({})", call.name())));
        }
        _ => {}
    }
    create::place(call.row, call.namespace(), &mut value)?;
    Ok(value)
}

fn apply_to(call: &Call<'_>, options: &WriteOptions, subresource: &str, old: Option<&Value>, applied: &Value) -> Result<Value, Status> {
    let row = call.row;
    let now = time::rfc3339(call.cx.now);
    let exclude = row.reset_fields(subresource);
    let mut value = apply::apply(row.ty(), old, applied, &options.manager, &row.api_version, subresource, options.force, &now, exclude)?;
    if old.is_none() && !meta::text(&value, "uid").is_empty() {
        let uid = meta::text(&value, "uid");
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: ");
        return Err(errors::conflict(row, call.name(), &why));
    }
    own::default(row, &mut value);
    Ok(value)
}
