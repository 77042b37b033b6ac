//! What a pod and its containers say of security in the same words, and whose words they are.

use super::sources;
use crate::{internal, rules, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
};

/// Bytes of the path of an AppArmor profile.
const PROFILE_BYTES_MAX: usize = 4095;

/// Whose spec it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Users {
    /// A new pod's.
    Pod,
    /// An existing pod's, which may have ephemeral containers.
    ExistingPod,
    /// A template's.
    Template,
}

/// A group or user ID.
pub(super) fn id(value: &Value, path: &Path, errors: &mut ErrorList) {
    if let Some(number) = value.as_i64().filter(|n| !(0..=i64::from(i32::MAX)).contains(n)) {
        errors.push(Error::invalid(path, number, format!("must be between 0 and {}, inclusive", i32::MAX)));
    }
}

/// Checks a seccomp profile.
pub(super) fn seccomp(profile: &Value, path: &Path, errors: &mut ErrorList) {
    if !profile.is_object() {
        return;
    }
    let (kind, local) = (tree::text(profile, "type"), &profile["localhostProfile"]);
    match kind {
        "" => errors.push(Error::required(&path.child("type"), "type is required when seccompProfile is set")),
        _ => rules::one_of(&profile["type"], &path.child("type"), &["Localhost", "RuntimeDefault", "Unconfined"], errors),
    }
    if kind == "Localhost" {
        match local.as_str() {
            None => errors.push(Error::required(&path.child("localhostProfile"), "must be set when seccomp type is Localhost")),
            Some(local) => sources::relative(local, &path.child("localhostProfile"), errors),
        }
    } else if !local.is_null() {
        let error = Error::invalid(&path.child("localhostProfile"), profile.clone(), "can only be set when seccomp type is Localhost");
        errors.push(error.shown_as(internal::text("core.SeccompProfile", profile)));
    }
}

/// Checks an AppArmor profile.
pub(super) fn app_armor(profile: &Value, path: &Path, errors: &mut ErrorList) {
    if !profile.is_object() {
        return;
    }
    let (local, place) = (&profile["localhostProfile"], path.child("localhostProfile"));
    match tree::text(profile, "type") {
        "Localhost" => {
            match local.as_str() {
                None | Some("") => errors.push(Error::required(&place, "must be set when AppArmor type is Localhost")),
                Some(text) if text.trim() != text => errors.push(Error::invalid(&place, text, "must not be padded with whitespace")),
                Some(_) => {}
            }
            if local.as_str().is_some_and(|text| text.len() > PROFILE_BYTES_MAX) {
                errors.push(Error::too_long(&place, PROFILE_BYTES_MAX));
            }
        }
        "RuntimeDefault" | "Unconfined" if !local.is_null() => {
            errors.push(Error::invalid(&place, local.clone(), "can only be set when AppArmor type is Localhost"));
        }
        "RuntimeDefault" | "Unconfined" => {}
        "" => errors.push(Error::required(&path.child("type"), "type is required when appArmorProfile is set")),
        other => errors.push(rules::not_supported(&path.child("type"), other, &["Localhost", "RuntimeDefault", "Unconfined"])),
    }
}
