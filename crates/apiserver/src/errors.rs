//! Errors of the path, named by rows: one place for how machinery's constructors are called.

use crate::rows::Row;
use kinds::Judged;
use machinery::{
    Value,
    field::{Error, ErrorList},
    json::Blanks,
    status::{Details, Status},
};
use std::{
    borrow::Cow,
    collections::{HashMap, HashSet, VecDeque},
};

/// 404 in upstream's words.
pub(crate) fn not_found(row: &Row, name: &str) -> Status {
    Status::not_found(&row.resource.group, &row.resource.resource, name)
}

/// 409 AlreadyExists; whether what is there is on its way out is told.
pub(crate) fn already_exists(row: &Row, name: &str, ends: bool) -> Status {
    let mut status = Status::already_exists(&row.resource.group, &row.resource.resource, name);
    if ends {
        status.message.insert_str(0, "object is being deleted: ");
    }
    status
}

/// 409 Conflict with a reason of its own.
pub(crate) fn conflict(row: &Row, name: &str, why: &str) -> Status {
    Status::conflict(&row.resource.group, &row.resource.resource, name, why)
}

/// 409 because somebody else has changed the object.
pub(crate) fn modified(row: &Row, name: &str) -> Status {
    conflict(row, name, "the object has been modified; please apply your changes to the latest version and try again")
}

/// 405 of a verb that a part of a custom resource has not.
pub(crate) fn unsupported(row: &Row, verb: &str) -> Status {
    let (group, kind) = (row.resource.group.clone(), row.resource.resource.clone());
    let mut status = Status::new(405, "MethodNotAllowed", format!("{verb} is not supported on resources of kind \"{kind}.{group}\""));
    status.details = Some(Box::new(Details { group, kind, ..Details::default() }));
    status
}

/// 422 with its causes.
pub(crate) fn invalid(row: &Row, name: &str, errors: ErrorList) -> Status {
    let group = row.resource.group.as_str();
    // Upstream's servers of definitions and of aggregation hold no declared rules against their own, which is where doubles go.
    let errors =
        if row.is_builtin() && !matches!(group, "apiextensions.k8s.io" | "apiregistration.k8s.io") { told(&row.resource.kind.kind, errors) } else { errors };
    // One strategy serves both groups of events in upstream, and it tells the older one.
    let group = if (group, row.resource.kind.kind.as_str()) == ("events.k8s.io", "Event") { "" } else { group };
    Status::invalid(group, &row.resource.kind.kind, name, errors)
}

/// What is said of an object: with what its body has that is empty, for kinds that are told of it. The others are judged without, and
/// only what errors show of the object is as it was sent.
pub(crate) fn judged(row: &Row, blanks: &Blanks, value: &Value, judge: impl Fn(&Value) -> Judged) -> Judged {
    if row.strategy.judges_blanks() {
        return judge(&blanks.restored(value));
    }
    let mut judged = judge(value);
    if !judged.errors.is_empty()
        && let Cow::Owned(whole) = blanks.restored(value)
    {
        show_whole(&mut judged.errors, judge(&whole).errors);
    }
    judged
}

/// The same errors, as they are told of the object as it was sent.
fn show_whole(errors: &mut ErrorList, whole: ErrorList) {
    // A difference of two objects stands below the words that say what is wrong.
    let key = |error: &Error| (error.kind, error.path.clone(), error.detail.lines().next().unwrap_or_default().to_owned());
    let mut shown = HashMap::<_, VecDeque<Error>>::new();
    for error in whole {
        shown.entry(key(&error)).or_default().push_back(error);
    }
    for error in errors {
        if let Some(other) = shown.get_mut(&key(error)).and_then(VecDeque::pop_front) {
            *error = other;
        }
    }
}

/// Shows what a body has that is empty, where the object goes without and an error would show that nothing is there.
pub(crate) fn show_blanks(errors: &mut ErrorList, blanks: &Blanks) {
    for error in errors.iter_mut().filter(|error| error.value.is_null() && error.shown.is_none()) {
        if let Some(blank) = blanks.at(error.path.as_str()) {
            error.value = blank;
        }
    }
}

/// The errors without those that say the same again, and in upstream's order.
fn told(kind: &str, mut errors: ErrorList) -> ErrorList {
    let mut seen = HashSet::new();
    errors.retain(|error| seen.insert((error.path.as_str().to_owned(), error.body())));
    errors.sort_by_cached_key(|error| kinds::is_late(kind, error));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinery::field::Path;

    #[test]
    fn an_error_shows_what_was_sent_and_says_what_is_wrong() {
        let wrong = |shown: &str, detail: &str| Error::invalid(&Path::root("a"), Value::Null, detail).shown_as(shown);
        let mut errors = vec![wrong("null", "fixed\n-x"), wrong("null", "odd"), wrong("null", "odd")];
        show_whole(&mut errors, vec![Error::required(&Path::root("b"), ""), wrong("1", "odd"), wrong("[]", "fixed\n-x\n+[]"), wrong("2", "other")]);
        assert_eq!(errors, [wrong("[]", "fixed\n-x\n+[]"), wrong("1", "odd"), wrong("null", "odd")]);
    }
}
