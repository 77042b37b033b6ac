//! Errors of the path, named by rows: one place for how machinery's constructors are called.

use crate::rows::Row;
use kinds::Judged;
use machinery::{
    Value,
    field::{Error, ErrorKind, ErrorList},
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

/// 405 of a verb that a resource behind a path has not.
pub(crate) fn unsupported(row: &Row, verb: &str) -> Status {
    let (group, kind) = (row.resource.group.clone(), row.resource.resource.clone());
    let dot = if group.is_empty() { "" } else { "." };
    let mut status = Status::new(405, "MethodNotAllowed", format!("{verb} is not supported on resources of kind \"{kind}{dot}{group}\""));
    status.details = Some(Box::new(Details { group, kind, ..Details::default() }));
    status
}

/// 422 with its causes.
pub(crate) fn invalid(row: &Row, name: &str, errors: ErrorList) -> Status {
    let group = row.resource.group.as_str();
    // Upstream's servers of definitions and of aggregation hold no declared rules against their own, which is where doubles go.
    let errors =
        if row.is_builtin() && !matches!(group, "apiextensions.k8s.io" | "apiregistration.k8s.io") { told(&row.resource.kind.kind, errors) } else { errors };
    Status::invalid(kind_group(row), &row.resource.kind.kind, name, errors)
}

/// The group with which the kind of a resource is told. One strategy serves both groups of events in upstream, and it tells the older one.
pub(crate) fn kind_group(row: &Row) -> &str {
    match row.resource.group.as_str() {
        "events.k8s.io" if row.resource.kind.kind == "Event" => "",
        group => group,
    }
}

/// What is said of an object: with what its body has that is empty, for kinds that are told of it. The others are judged without; what
/// errors show of the object is as it was sent, and what may not be said at all may not be said of nothing either.
pub(crate) fn judged(row: &Row, blanks: &Blanks, value: &Value, judge: impl Fn(&Value) -> Judged) -> Judged {
    if row.strategy.judges_blanks() {
        return judge(&blanks.restored(value));
    }
    let mut judged = judge(value);
    let forbids = || kinds::holds_pod(&row.resource.group, &row.resource.kind.kind);
    if (!judged.errors.is_empty() || forbids())
        && let Cow::Owned(mut whole) = blanks.restored(value)
    {
        // What was taken from the object stays away.
        kinds::withhold(&row.resource.group, &row.resource.kind.kind, &mut whole, Some(value));
        row.strategy.complete(&mut whole);
        let is_nothing = |path: &str| blanks.at(path).is_some() || (path.contains('[') && blanks.lie_in(path));
        let is_forbidden = |error: &Error| error.kind == ErrorKind::Forbidden && is_nothing(error.path.as_str());
        judged.errors = shown_whole(judged.errors, judge(&whole).errors, is_forbidden);
    }
    judged
}

/// The same errors as they are told of the object as it was sent, and those of that which count by themselves.
fn shown_whole(errors: ErrorList, whole: ErrorList, counts: impl Fn(&Error) -> bool) -> ErrorList {
    // A difference of two objects stands below the words that say what is wrong.
    let key = |error: &Error| (error.kind, error.path.clone(), error.detail.lines().next().unwrap_or_default().to_owned());
    let mut known = HashMap::<_, VecDeque<Error>>::new();
    let keys: Vec<_> = errors.iter().map(key).collect();
    keys.iter().zip(errors).for_each(|(key, error)| known.entry(key.clone()).or_default().push_back(error));
    let mut told = ErrorList::new();
    for mut error in whole {
        match known.get_mut(&key(&error)).and_then(VecDeque::pop_front) {
            // What is written as JSON by its published names leaves out what is empty.
            Some(own) if error.shown.is_none() => error.value = own.value,
            Some(_) => {}
            None if counts(&error) => {}
            None => continue,
        }
        told.push(error);
    }
    // What is not said of the object as it was sent is said last.
    told.extend(keys.iter().rev().filter_map(|key| known.get_mut(key)?.pop_back()));
    told
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
        let forbidden = |at: &str| Error::forbidden(&Path::root(at), "");
        let errors = vec![wrong("null", "fixed\n-x"), wrong("null", "odd"), wrong("null", "odd")];
        let whole =
            vec![Error::required(&Path::root("b"), ""), wrong("1", "odd"), forbidden("c"), forbidden("d"), wrong("[]", "fixed\n-x\n+[]"), wrong("2", "other")];
        let told = shown_whole(errors, whole, |error| error.path.as_str() == "c");
        assert_eq!(told, [wrong("1", "odd"), forbidden("c"), wrong("[]", "fixed\n-x\n+[]"), wrong("null", "odd")]);
    }

    #[test]
    fn what_is_shown_by_its_published_names_leaves_out_what_is_empty() {
        let wrong = |value: Value| vec![Error::invalid(&Path::root("selector"), value, "fixed")];
        let told = shown_whole(wrong(serde_json::json!({})), wrong(serde_json::json!({"matchExpressions": []})), |_| false);
        assert_eq!(told, wrong(serde_json::json!({})));
    }
}
