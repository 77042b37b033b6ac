//! JSON Patch, RFC 6902, as the library understands it that upstream uses: where that is laxer than the RFC, so is this.
//! `replace` adds a key that an object has not; negative indices count from the end of a list, for `add` from behind it; what
//! stands before the first slash of a path is not looked at.

use crate::{
    Value,
    json::bounds::{DEPTH_MAX, depth},
    numerals,
    status::Status,
};

/// The most operations that upstream accepts in one patch.
const OPERATIONS_LIMIT: usize = 10_000;

/// How much the `copy` operations of a patch may add, in bytes of JSON: as the limit of a request's body, so that a small
/// patch cannot blow an object up.
const COPY_LIMIT_BYTES: usize = 3 << 20;

/// How deep a document may become between two operations, which put values into each other, before it is looked at.
const DEPTH_BETWEEN_MAX: usize = 2 * DEPTH_MAX;

/// How many places the elements of lists may be shifted by all operations: ten thousand of them, each at the beginning of a
/// list of a hundred thousand, would keep a core for many seconds.
const SHIFTS_LIMIT: usize = 200_000_000;

/// Why a patch is not applied, in the words of upstream's library. A PATCH request is told none of them, whoever has sent a
/// webhook's patch is.
#[derive(Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It is no patch.
    NoPatch(String),
    /// An operation does not fit the document.
    Operation(String),
}

const MISSING: &str = "missing value";
const INVALID_INDEX: &str = "invalid index referenced";

/// The error of an operation.
fn unfit<T>(why: String) -> Result<T, Unfit> {
    Err(Unfit::Operation(why))
}

fn too_much() -> Unfit {
    Unfit::Operation("the patch is larger than what may come of it".into())
}

/// What the operations so far have cost.
#[derive(Default)]
struct Work {
    copied_bytes: usize,
    shifts: usize,
}

impl Work {
    fn shift(&mut self, places: usize) -> Result<(), Unfit> {
        self.shifts = self.shifts.saturating_add(places);
        if self.shifts > SHIFTS_LIMIT { Err(too_much()) } else { Ok(()) }
    }
}

/// Applies a patch and returns the patched document; null is a patch without operations.
///
/// # Errors
/// 400 for what is no patch, 413 for too many operations, 422 for a patch that does not fit the document.
pub fn json_patch(doc: &Value, patch: &Value) -> Result<Value, Status> {
    if let Value::Array(operations) = patch
        && operations.len() > OPERATIONS_LIMIT
        && operations.iter().all(|o| o.is_object() || o.is_null())
    {
        let found = operations.len();
        return Err(Status::too_large(format!("The allowed maximum operations in a JSON patch is {OPERATIONS_LIMIT}, got {found}")));
    }
    json_patch_told(doc, patch).map_err(|why| match why {
        Unfit::NoPatch(why) => Status::bad_request(why),
        Unfit::Operation(_) => super::unprocessable(),
    })
}

/// Applies a patch, and tells why it does not fit.
///
/// # Errors
/// It is none, or it does not fit the document.
pub fn json_patch_told(doc: &Value, patch: &Value) -> Result<Value, Unfit> {
    let operations = match patch {
        Value::Null => &[][..],
        Value::Array(operations) => operations,
        other => return Err(no_patch(other, "jsonpatch.Patch")),
    };
    if let Some(other) = operations.iter().find(|o| !o.is_object() && !o.is_null()) {
        return Err(no_patch(other, "jsonpatch.Operation"));
    }
    if operations.len() > OPERATIONS_LIMIT {
        return Err(too_much());
    }
    let mut doc = doc.clone();
    let mut work = Work::default();
    let mut deepest = depth(&doc);
    for operation in operations {
        if may_be_as_deep_as(operation, deepest) > DEPTH_BETWEEN_MAX {
            deepest = bounded(&doc)?;
        }
        deepest = deepest.max(may_be_as_deep_as(operation, deepest));
        if deepest > DEPTH_BETWEEN_MAX {
            return Err(too_much());
        }
        apply(&mut doc, operation, &mut work)?;
    }
    bounded(&doc)?;
    Ok(doc)
}

/// How deep the document may be after an operation upon one of a depth: of the document nothing is walked for it.
fn may_be_as_deep_as(operation: &Value, deepest: usize) -> usize {
    let text = |key: &str| operation.get(key).and_then(Value::as_str).unwrap_or_default();
    let place = text("path").matches('/').count();
    match text("op") {
        "add" | "replace" => place + operation.get("value").map_or(0, depth),
        "move" | "copy" => place + deepest,
        _ => 0,
    }
}

/// The depth of a document. One that is nested deeper than any body may be could not even be dropped.
fn bounded(doc: &Value) -> Result<usize, Unfit> {
    Some(depth(doc)).filter(|depth| *depth <= DEPTH_MAX).ok_or_else(too_much)
}

fn no_patch(found: &Value, go_type: &str) -> Unfit {
    Unfit::NoPatch(format!("json: cannot unmarshal {} into Go value of type {go_type}", crate::tree::json_type(found)))
}

fn apply(doc: &mut Value, operation: &Value, work: &mut Work) -> Result<(), Unfit> {
    let text = |key: &str| operation.get(key).and_then(Value::as_str);
    let kind = text("op").unwrap_or_default();
    let undecoded = |what: &str, why: &str| Unfit::Operation(format!("{kind} operation failed to decode {what}: {why}"));
    let path = || {
        // Two of them do not say what is missing.
        let why = if matches!(kind, "replace" | "move" | "test") { "operation missing path field: missing value" } else { MISSING };
        text("path").ok_or_else(|| undecoded("path", why))
    };
    let from = || text("from").ok_or_else(|| undecoded("from", "operation, missing from field: missing value"));
    let value = || operation.get("value").cloned().unwrap_or(Value::Null);
    match kind {
        "add" => {
            let path = path()?;
            let place = container(doc, path).ok_or_else(|| nowhere(format!("add operation does not apply: doc is missing path: \"{path}\"")))?;
            add(place, value(), work).or_else(|why| unfit(format!("error in add for path: '{path}': {why}")))
        }
        "remove" => {
            let path = path()?;
            let place = container(doc, path).ok_or_else(|| nowhere(format!("remove operation does not apply: doc is missing path: \"{path}\"")))?;
            remove(place, work).map(drop).or_else(|why| unfit(format!("error in remove for path: '{path}': {why}")))
        }
        "replace" => replace(doc, path()?, value()),
        "move" => {
            let from = from()?;
            let (place, key) = container(doc, from).ok_or_else(|| nowhere(format!("move operation does not apply: doc is missing from path: {from}")))?;
            let moved = remove((place, key.clone()), work).or_else(|why| unfit(format!("error in move for path: '{key}': {why}")))?;
            let path = path()?;
            let place = container(doc, path).ok_or_else(|| nowhere(format!("move operation does not apply: doc is missing destination path: {path}")))?;
            add(place, moved, work).or_else(|why| unfit(format!("error in move for path: '{path}': {why}")))
        }
        "copy" => {
            let from = from()?;
            let place = container(doc, from).ok_or_else(|| nowhere(format!("copy operation does not apply: doc is missing from path: {from}")))?;
            let copied = get(&place).or_else(|why| unfit(format!("error in copy for from: '{from}': {why}")))?.cloned().unwrap_or(Value::Null);
            let path = path()?;
            let place = container(doc, path).ok_or_else(|| nowhere(format!("copy operation does not apply: doc is missing destination path: {path}")))?;
            work.copied_bytes += crate::json::encode(&copied).len();
            if work.copied_bytes > COPY_LIMIT_BYTES {
                let size = work.copied_bytes;
                return unfit(format!("Unable to complete the copy, the accumulated size increase of copy is {size}, exceeding the limit {COPY_LIMIT_BYTES}"));
            }
            add(place, copied, work).or_else(|why| unfit(format!("error while adding value during copy: {why}")))
        }
        "test" => {
            let (path, value) = (path()?, value());
            let found = if path.is_empty() {
                Some(&*doc)
            } else {
                let place = container(doc, path).ok_or_else(|| nowhere(format!("test operation does not apply: is missing path: {path}")))?;
                // What the place borrows ends here.
                return match get(&place) {
                    Err(why) => unfit(format!("error in test for path: '{path}': {why}")),
                    Ok(found) => tested(path, found, &value),
                };
            };
            tested(path, found, &value)
        }
        _ => unfit(format!("Unexpected kind: {}", text("op").unwrap_or("unknown"))),
    }
}

fn nowhere(why: String) -> Unfit {
    Unfit::Operation(format!("{why}: {MISSING}"))
}

/// What is not there is as good as null.
fn tested(path: &str, found: Option<&Value>, value: &Value) -> Result<(), Unfit> {
    if is_same(found.unwrap_or(&Value::Null), value) { Ok(()) } else { unfit(format!("testing value {path} failed: test failed")) }
}

/// Upstream compares scalars by their texts, and its document's are Go's: a whole float has no fraction there.
fn is_same(found: &Value, tested: &Value) -> bool {
    match (found, tested) {
        (Value::Number(_), Value::Number(number)) => {
            let spelled_whole = !number.is_f64() || number.as_f64().is_some_and(|float| float.trunc() != float || float.abs() >= WHOLE_MAX);
            spelled_whole && crate::json::encode(found) == crate::json::encode(tested)
        }
        (Value::Array(found), Value::Array(tested)) => found.len() == tested.len() && found.iter().zip(tested).all(|(a, b)| is_same(a, b)),
        (Value::Object(found), Value::Object(tested)) => {
            found.len() == tested.len() && found.iter().all(|(key, value)| tested.get(key).is_some_and(|other| is_same(value, other)))
        }
        _ => found == tested,
    }
}

/// From here on Go writes floats with an exponent.
const WHOLE_MAX: f64 = 1e21;

/// An object or a list, and the unescaped name of a place in it.
type Place<'d> = (&'d mut Value, String);

/// The container that a path points into, and the unescaped last part.
fn container<'d>(doc: &'d mut Value, path: &str) -> Option<Place<'d>> {
    let unescape = |part: &str| part.replace("~1", "/").replace("~0", "~");
    let mut parts: Vec<&str> = path.split('/').skip(1).collect();
    let last = parts.pop()?;
    let place = parts.iter().try_fold(doc, |place, part| match place {
        Value::Object(map) => map.get_mut(&unescape(part)),
        Value::Array(items) => {
            let at = index(&unescape(part), items.len())?;
            items.get_mut(at)
        }
        _ => None,
    });
    match place {
        Some(place @ (Value::Object(_) | Value::Array(_))) => Some((place, unescape(last))),
        _ => None,
    }
}

/// A place in a list of a length, from its end if negative; `None` for what is none. It may be the length itself or beyond.
pub(super) fn index(part: &str, length: usize) -> Option<usize> {
    let at: i64 = part.parse().ok()?;
    match u64::try_from(at) {
        Ok(at) => usize::try_from(at).ok(),
        Err(_) => length.checked_sub(usize::try_from(at.unsigned_abs()).ok()?),
    }
}

/// Why a list has not the place that a part of a path names.
fn misplaced(part: &str) -> String {
    match numerals::whole("Atoi", part) {
        Ok(at) => format!("Unable to access invalid index: {at}: {INVALID_INDEX}"),
        Err(why) => format!("value was not a proper array index: '{part}': {why}"),
    }
}

/// The value at a place; `None` if an object has it not.
fn get<'p>((place, last): &'p Place<'_>) -> Result<Option<&'p Value>, String> {
    match &**place {
        Value::Object(map) => Ok(map.get(last)),
        Value::Array(items) => {
            let plain = numerals::whole("Atoi", last);
            plain.and_then(|_| index(last, items.len()).and_then(|at| items.get(at)).map(Some).ok_or_else(|| misplaced(last)))
        }
        _ => Err(MISSING.into()),
    }
}

fn add((place, last): Place<'_>, value: Value, work: &mut Work) -> Result<(), String> {
    match place {
        Value::Object(map) => drop(map.insert(last, value)),
        Value::Array(items) if last == "-" => items.push(value),
        Value::Array(items) => {
            // A negative place is counted in the list as it will be.
            let at = index(&last, items.len() + 1).filter(|at| *at <= items.len()).ok_or_else(|| misplaced(&last))?;
            work.shift(items.len() - at).map_err(|_| MISSING.to_owned())?;
            items.insert(at, value);
        }
        _ => return Err(MISSING.into()),
    }
    Ok(())
}

fn replace(doc: &mut Value, path: &str, value: Value) -> Result<(), Unfit> {
    if path.is_empty() {
        if !value.is_object() && !value.is_array() {
            return unfit("replace operation value must be object or array: %!w(<nil>)".into());
        }
        *doc = value;
        return Ok(());
    }
    let missing = |what: &str| format!("replace operation does not apply: doc is missing {what}: {path}");
    let (place, last) = container(doc, path).ok_or_else(|| nowhere(missing("path")))?;
    match place {
        Value::Object(map) => drop(map.insert(last, value)),
        Value::Array(items) => {
            let at = index(&last, items.len()).ok_or_else(|| nowhere(missing("key")))?;
            *items.get_mut(at).ok_or_else(|| nowhere(missing("key")))? = value;
        }
        _ => return Err(nowhere(missing("path"))),
    }
    Ok(())
}

fn remove((place, last): Place<'_>, work: &mut Work) -> Result<Value, String> {
    match place {
        Value::Object(map) => map.remove(&last).ok_or_else(|| format!("Unable to remove nonexistent key: {last}: {MISSING}")),
        Value::Array(items) => {
            let at = index(&last, items.len()).filter(|at| *at < items.len()).ok_or_else(|| misplaced(&last))?;
            work.shift(items.len() - at).map_err(|_| MISSING.to_owned())?;
            Ok(items.remove(at))
        }
        _ => Err(MISSING.into()),
    }
}
