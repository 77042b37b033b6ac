//! Patch: JSON patch, merge patch, strategic merge patch, and server-side apply.
//!
//! A patch is computed on the object in the version of the request and its result decoded like a body, so defaults are
//! treated as in an update; what is wrong with the result is told as wrong with the patch. It starts again on a concurrent
//! change unless it names a resourceVersion. A UID that differs is no precondition here but a change that validation
//! refuses, so that nobody tries again for ever.

use super::{
    Call,
    apply::{Apply, check_identity},
    options::WriteOptions,
    update::{Change, Make, change, change_by, may_create},
};
use crate::{errors, negotiate, own, respond::Answer, rows::Row};
use bytes::Bytes;
use http::{HeaderMap, header};
use machinery::{
    Value,
    field::{self, Path},
    json::{self, Texts},
    patch::{self as patches, Patch},
    schema::TypeRef,
    status::{Details, Status},
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
    /// Reads the media type; 415 in the words of the router that upstream asks first.
    pub(crate) fn of(headers: &HeaderMap, row: &Row) -> Result<Kind, Status> {
        let media = negotiate::media(headers, header::CONTENT_TYPE).unwrap_or_default();
        if row.custom.is_some() {
            let known: Vec<&str> = MEDIA.iter().filter(|(_, kind)| *kind != Kind::Strategic).map(|(name, _)| *name).collect();
            let found = MEDIA.iter().find(|(name, kind)| *name == media && *kind != Kind::Strategic);
            return found.map(|(_, kind)| *kind).ok_or_else(|| Status::unsupported_media_type(&known));
        }
        if let Some((_, kind)) = MEDIA.iter().find(|(name, _)| *name == media) {
            return Ok(*kind);
        }
        // The router takes a list of types for each of them; the handler then knows none of that name.
        let listed = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let named = |part: &str| MEDIA.iter().any(|(name, _)| *name == part.split(';').next().unwrap_or_default().trim());
        Err(if listed.split(',').any(named) {
            Status::unsupported_media_type(&MEDIA.map(|(name, _)| name))
        } else {
            let mut status = Status::new(415, "UnsupportedMediaType", "415: Unsupported Media Type");
            status.details = Some(Box::<Details>::default());
            status
        })
    }

    /// The kind among those that are no apply.
    fn plain(self) -> patches::Kind {
        match self {
            Kind::Json => patches::Kind::Json,
            Kind::Merge => patches::Kind::Merge,
            Kind::Strategic | Kind::Apply => patches::Kind::Strategic,
        }
    }
}

/// Answers a PATCH of an object or of one of its generic subresources.
pub(crate) async fn patch(call: &Call<'_>, subresource: &str, body: &Bytes) -> Result<Answer, Status> {
    let kind = Kind::of(call.headers, call.row)?;
    let options = options(call, kind)?;
    let target = Change {
        row: call.row,
        namespace: call.namespace(),
        name: call.name(),
        subresource,
        options: &options,
        may_create: kind == Kind::Apply && (subresource.is_empty() || may_create(call.row, subresource)),
        applied: kind == Kind::Apply,
        derived: true,
    };
    if kind == Kind::Apply {
        super::placed(call.row, call.namespace(), call.name())?;
        let applied = json::parse_applied(body)?;
        return change_by(call, &target, Make::Apply(&Apply { options: &options, subresource, applied: &applied })).await;
    }
    let parsed = parse(kind, body, &options)?;
    change(call, &target, |old| {
        let old = old.ok_or_else(|| errors::not_found(call.row, call.name()))?;
        let mut value = patched(call, call.row.ty(), old, &parsed)?;
        if Texts::are_kept(call.row.ty()) {
            call.cx.note_texts(spelled(call, kind, body, (old, &parsed, &value)));
        }
        own::default(call.row, &mut value);
        call.row.strategy.default_times(call.cx.now, &mut value);
        check_identity(call, &mut value)?;
        if call.row.custom.is_some() && value["apiVersion"].as_str().unwrap_or_default().is_empty() {
            return Err(Status::internal("Object 'apiVersion' is missing in 'object has no apiVersion field'"));
        }
        Ok(value)
    })
    .await
}

/// How the free-form values are spelled that a patch of an object leaves.
fn spelled(call: &Call<'_>, kind: Kind, body: &[u8], (old, patch, value): (&Value, &Patch, &Value)) -> Texts {
    let ty = call.row.ty();
    let of_document = || patch.texts(ty, old, &call.cx.present_texts(), value);
    match kind {
        Kind::Json => of_document().unwrap_or_else(|| Texts::of_patch(ty, body)),
        Kind::Merge => of_document().unwrap_or_else(|| Texts::of_merge(ty, body)),
        // Upstream makes the object anew from maps, so that all of its free-form values are sorted.
        Kind::Strategic | Kind::Apply => Texts::of_tree(ty, value),
    }
}

/// The options of a patch: `force` is for apply alone, and apply must say who applies.
pub(crate) fn options(call: &Call<'_>, kind: Kind) -> Result<WriteOptions, Status> {
    let error = match (kind, call.query.text("fieldManager").is_empty(), call.query.get("force").is_some()) {
        (Kind::Apply, true, _) => Some(field::Error::required(&Path::root("fieldManager"), "is required for apply patch")),
        (Kind::Apply, ..) | (_, _, false) => None,
        (_, _, true) => Some(field::Error::forbidden(&Path::root("force"), "may not be specified for non-apply patch")),
    };
    WriteOptions::with(call, "PatchOptions", error.into_iter().collect())
}

/// Reads a patch that is no apply.
pub(crate) fn parse(kind: Kind, bytes: &Bytes, options: &WriteOptions) -> Result<Patch, Status> {
    patches::parse(kind.plain(), bytes, options.validation)
}

/// The patched object, decoded as a body of its type.
pub(crate) fn patched(call: &Call<'_>, ty: TypeRef<'_>, old: &Value, patch: &Patch) -> Result<Value, Status> {
    let mut told = Vec::new();
    let versions = |version: &str| call.row.custom.as_ref().and_then(|custom| custom.family.ty(version));
    let patched = patch.apply_spelled(ty, &versions, old, &call.cx.present_texts(), &mut told);
    told.into_iter().for_each(|warning| call.cx.warn(warning));
    Ok(call.told(patched?))
}
