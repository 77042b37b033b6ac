//! Server-side apply: the next object is the present one with a configuration merged into it. Whose fields are whose is compared in
//! the versions in which their owners wrote, which a webhook may have to be asked for ([`replayed`]).

use super::{Call, create, meta, options::WriteOptions};
use crate::{conversion::replayed, errors, own};
use machinery::{
    Value, apply,
    json::{self, Blanks, Texts, Validation},
    status::Status,
    time,
};

/// A configuration that is applied.
pub(super) struct Apply<'a> {
    pub(super) options: &'a WriteOptions,
    pub(super) subresource: &'a str,
    pub(super) applied: &'a json::Applied,
}

impl Apply<'_> {
    /// The next object.
    pub(super) async fn next(&self, call: &Call<'_>, old: Option<&Value>) -> Result<Value, Status> {
        let (row, options, applied) = (call.row, self.options, self.applied);
        let now = time::rfc3339(call.cx.now);
        let exclude = row.reset_fields(self.subresource);
        let apply = |kind: apply::Written<'_>| {
            apply::apply(kind, old, &applied.value, &options.manager, &row.api_version, self.subresource, options.force, &now, exclude)
        };
        let replayed = replayed(call.world, row, old, apply).await;
        let value = replayed.map_err(|(why, _)| Status::new(500, "", why))??;
        match options.validation {
            Validation::Strict => applied.refuse_repeats()?,
            Validation::Warn => applied.repeats.iter().for_each(|line| call.cx.warn(line.clone())),
            Validation::Ignore => {}
        }
        let uid = meta::text(&value, "uid");
        if old.is_none() && !uid.is_empty() {
            let why = format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
            return Err(errors::conflict(row, call.name(), &why));
        }
        // What changes nothing leaves the object as it is, and its free-form values as they are spelled.
        let kept = Texts::are_kept(row.ty()) && old.is_some_and(|old| is_as_before(old, &value));
        if !kept {
            call.cx.note_texts(Texts::of_tree(row.ty(), &value));
        }
        let blanks = Blanks::of(row.ty(), &applied.value, &value);
        let mut value = call.told(json::Decoded { value, warnings: Vec::new(), blanks });
        check_identity(call, &mut value)?;
        own::default(row, &mut value);
        Ok(value)
    }
}

/// Whether nothing but its managers tells an object from what it was.
fn is_as_before(old: &Value, new: &Value) -> bool {
    let bare = |value: &Value| {
        let mut value = value.clone();
        meta::of(&mut value).remove("managedFields");
        value
    };
    bare(old) == bare(new)
}

/// A patch does not change what the object is called. What the result leaves out of its place, the request says.
pub(super) fn check_identity(call: &Call<'_>, value: &mut Value) -> Result<(), Status> {
    if call.row.is_builtin() {
        create::check_kind(call.row, value)?;
    }
    create::place(call.row, call.namespace(), value)?;
    check_name(call, meta::text(value, "name"))
}

/// The name of a body is that of the path.
pub(crate) fn check_name(call: &Call<'_>, name: &str) -> Result<(), Status> {
    match name {
        "" => Err(Status::bad_request(format!("the name of the object ({} based on URL) was undeterminable: name must be provided", call.name()))),
        name if name != call.name() => {
            Err(Status::bad_request(format!("the name of the object ({name}) does not match the name on the URL ({})", call.name())))
        }
        _ => Ok(()),
    }
}
