//! JSON Patch, RFC 6902, as the library understands it that upstream uses: where that is laxer than the RFC, so is this.
//! `replace` adds a key that an object has not; negative indices count from the end of a list, for `add` from behind it; what
//! stands before the first slash of a path is not looked at.

use crate::{
    Value,
    json::bounds::{DEPTH_MAX, depth},
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

/// An operation does not fit the document. Upstream tells nobody why.
struct Unfit;

/// What the operations so far have cost.
#[derive(Default)]
struct Work {
    copied_bytes: usize,
    shifts: usize,
}

impl Work {
    fn shift(&mut self, places: usize) -> Result<(), Unfit> {
        self.shifts = self.shifts.saturating_add(places);
        if self.shifts > SHIFTS_LIMIT { Err(Unfit) } else { Ok(()) }
    }
}

/// Applies a patch and returns the patched document; null is a patch without operations.
///
/// # Errors
/// 400 for what is no patch, 413 for too many operations, 422 for a patch that does not fit the document.
pub fn json_patch(doc: &Value, patch: &Value) -> Result<Value, Status> {
    let operations = match patch {
        Value::Null => &[][..],
        Value::Array(operations) => operations,
        other => return Err(no_patch(other, "jsonpatch.Patch")),
    };
    if let Some(other) = operations.iter().find(|o| !o.is_object() && !o.is_null()) {
        return Err(no_patch(other, "jsonpatch.Operation"));
    }
    if operations.len() > OPERATIONS_LIMIT {
        let found = operations.len();
        return Err(Status::too_large(format!("The allowed maximum operations in a JSON patch is {OPERATIONS_LIMIT}, got {found}")));
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
            return Err(super::unprocessable());
        }
        apply(&mut doc, operation, &mut work).map_err(|Unfit| super::unprocessable())?;
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
fn bounded(doc: &Value) -> Result<usize, Status> {
    Some(depth(doc)).filter(|depth| *depth <= DEPTH_MAX).ok_or_else(super::unprocessable)
}

fn no_patch(found: &Value, go_type: &str) -> Status {
    Status::bad_request(format!("json: cannot unmarshal {} into Go value of type {go_type}", super::json_type(found)))
}

fn apply(doc: &mut Value, operation: &Value, work: &mut Work) -> Result<(), Unfit> {
    let text = |key: &str| operation.get(key).and_then(Value::as_str);
    let path = || text("path").ok_or(Unfit);
    let from = || text("from").ok_or(Unfit);
    let value = || operation.get("value").cloned().unwrap_or(Value::Null);
    match text("op").unwrap_or_default() {
        "add" => add(doc, path()?, value(), work),
        "remove" => remove(doc, path()?, work).map(drop),
        "replace" => replace(doc, path()?, value()),
        "move" => {
            let moved = remove(doc, from()?, work)?;
            add(doc, path()?, moved, work)
        }
        "copy" => {
            let copied = find(doc, from()?)?.cloned().unwrap_or(Value::Null);
            work.copied_bytes += crate::json::encode(&copied).len();
            if work.copied_bytes > COPY_LIMIT_BYTES {
                return Err(Unfit);
            }
            add(doc, path()?, copied, work)
        }
        "test" => {
            let (path, value) = (path()?, value());
            let found = if path.is_empty() { Some(&*doc) } else { find(doc, path)? };
            // What is not there is as good as null.
            if *found.unwrap_or(&Value::Null) == value { Ok(()) } else { Err(Unfit) }
        }
        _ => Err(Unfit),
    }
}

/// The container that a path points into, and the unescaped last part.
fn container<'d>(doc: &'d mut Value, path: &str) -> Result<(&'d mut Value, String), Unfit> {
    let unescape = |part: &str| part.replace("~1", "/").replace("~0", "~");
    let mut parts: Vec<&str> = path.split('/').skip(1).collect();
    let last = parts.pop().ok_or(Unfit)?;
    let place = parts.iter().try_fold(doc, |place, part| match place {
        Value::Object(map) => map.get_mut(&unescape(part)),
        Value::Array(items) => {
            let at = index(&unescape(part), items.len())?;
            items.get_mut(at)
        }
        _ => None,
    });
    match place {
        Some(place @ (Value::Object(_) | Value::Array(_))) => Ok((place, unescape(last))),
        _ => Err(Unfit),
    }
}

/// A place in a list of a length, from its end if negative; `None` for what is none. It may be the length itself or beyond.
fn index(part: &str, length: usize) -> Option<usize> {
    let at: i64 = part.parse().ok()?;
    match u64::try_from(at) {
        Ok(at) => usize::try_from(at).ok(),
        Err(_) => length.checked_sub(usize::try_from(at.unsigned_abs()).ok()?),
    }
}

/// The value at a path; `None` if an object has it not.
fn find<'d>(doc: &'d mut Value, path: &str) -> Result<Option<&'d Value>, Unfit> {
    let (place, last) = container(doc, path)?;
    match place {
        Value::Object(map) => Ok(map.get(&last)),
        Value::Array(items) => index(&last, items.len()).and_then(|at| items.get(at)).map(Some).ok_or(Unfit),
        _ => Err(Unfit),
    }
}

fn add(doc: &mut Value, path: &str, value: Value, work: &mut Work) -> Result<(), Unfit> {
    let (place, last) = container(doc, path)?;
    match place {
        Value::Object(map) => drop(map.insert(last, value)),
        Value::Array(items) if last == "-" => items.push(value),
        Value::Array(items) => {
            // A negative place is counted in the list as it will be.
            let at = index(&last, items.len() + 1).filter(|at| *at <= items.len()).ok_or(Unfit)?;
            work.shift(items.len() - at)?;
            items.insert(at, value);
        }
        _ => return Err(Unfit),
    }
    Ok(())
}

fn replace(doc: &mut Value, path: &str, value: Value) -> Result<(), Unfit> {
    if path.is_empty() {
        if !value.is_object() && !value.is_array() {
            return Err(Unfit);
        }
        *doc = value;
        return Ok(());
    }
    let (place, last) = container(doc, path)?;
    match place {
        Value::Object(map) => drop(map.insert(last, value)),
        Value::Array(items) => {
            let at = index(&last, items.len()).ok_or(Unfit)?;
            *items.get_mut(at).ok_or(Unfit)? = value;
        }
        _ => return Err(Unfit),
    }
    Ok(())
}

fn remove(doc: &mut Value, path: &str, work: &mut Work) -> Result<Value, Unfit> {
    let (place, last) = container(doc, path)?;
    match place {
        Value::Object(map) => map.remove(&last).ok_or(Unfit),
        Value::Array(items) => {
            let at = index(&last, items.len()).filter(|at| *at < items.len()).ok_or(Unfit)?;
            work.shift(items.len() - at)?;
            Ok(items.remove(at))
        }
        _ => Err(Unfit),
    }
}
