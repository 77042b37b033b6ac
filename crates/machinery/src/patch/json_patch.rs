//! JSON Patch, RFC 6902, with the errors of the library that upstream uses.

use crate::{Value, status::Status};

/// The most operations that upstream accepts in one patch.
const OPERATIONS_LIMIT: usize = 10_000;

/// How much the `copy` operations of a patch may add, in bytes of JSON: as the limit of a request's body, so that a small
/// patch cannot blow an object up.
const COPY_LIMIT_BYTES: usize = 3 << 20;

/// Applies a patch and returns the patched document.
///
/// # Errors
/// 400 for what is no patch, 413 for too many operations, 422 for a patch that does not fit the document.
pub fn json_patch(doc: &Value, patch: &Value) -> Result<Value, Status> {
    let Value::Array(operations) = patch else {
        return Err(Status::bad_request("json: cannot unmarshal object into Go value of type jsonpatch.Patch"));
    };
    if operations.len() > OPERATIONS_LIMIT {
        let found = operations.len();
        return Err(Status::too_large(format!("The allowed maximum operations in a JSON patch is {OPERATIONS_LIMIT}, got {found}")));
    }
    let mut doc = doc.clone();
    let mut copied_bytes = 0;
    for operation in operations {
        apply(&mut doc, operation, &mut copied_bytes).map_err(|message| unprocessable(&message))?;
    }
    Ok(doc)
}

/// Upstream answers every patch that does not fit with this sentence and 422; the reason for it is added here.
fn unprocessable(message: &str) -> Status {
    let mut status = Status::bad_request(format!("the server rejected our request due to an error in our request: {message}"));
    status.code = 422;
    status.reason = "Invalid".into();
    status
}

fn apply(doc: &mut Value, operation: &Value, copied_bytes: &mut usize) -> Result<(), String> {
    let text = |key: &str| operation.get(key).and_then(Value::as_str);
    let name = text("op").unwrap_or("unknown");
    let path = || text("path").ok_or_else(|| format!("{name} operation failed to decode path: missing value"));
    let from = || text("from").ok_or_else(|| format!("{name} operation failed to decode from: missing value"));
    let value = || operation.get("value").cloned().unwrap_or(Value::Null);
    match name {
        "add" => add(doc, path()?, value(), name),
        "remove" => remove(doc, path()?, name).map(drop),
        "replace" => {
            let path = path()?;
            let place = find(doc, path).ok_or_else(|| format!("replace operation does not apply: doc is missing key: {path}: missing value"))?;
            *place = value();
            Ok(())
        }
        "move" => {
            let moved = remove(doc, from()?, name)?;
            add(doc, path()?, moved, name)
        }
        "copy" => {
            let from = from()?;
            let copied =
                find(doc, from).map(|v| v.clone()).ok_or_else(|| format!("copy operation does not apply: doc is missing from path: {from}: missing value"))?;
            *copied_bytes += crate::json::encode(&copied).len();
            if *copied_bytes > COPY_LIMIT_BYTES {
                return Err(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied_bytes}, exceeding the limit {COPY_LIMIT_BYTES}"
                ));
            }
            add(doc, path()?, copied, name)
        }
        "test" => {
            let path = path()?;
            match find(doc, path) {
                Some(found) if equal(found, &value()) => Ok(()),
                None if value().is_null() => Ok(()),
                _ => Err(format!("testing value {path} failed: test failed")),
            }
        }
        other => Err(format!("Unexpected kind: {other}")),
    }
}

/// JSON equality: 1 and 1.0 are the same number.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b))),
        _ => a == b,
    }
}

/// The unescaped parts of a JSON pointer; `None` for what is none.
fn parts(path: &str) -> Option<Vec<String>> {
    if path.is_empty() {
        return Some(Vec::new());
    }
    let path = path.strip_prefix('/')?;
    Some(path.split('/').map(|p| p.replace("~1", "/").replace("~0", "~")).collect())
}

fn find<'d>(doc: &'d mut Value, path: &str) -> Option<&'d mut Value> {
    parts(path)?.iter().try_fold(doc, |place, part| step(place, part))
}

fn step<'d>(place: &'d mut Value, part: &str) -> Option<&'d mut Value> {
    match place {
        Value::Object(map) => map.get_mut(part),
        Value::Array(items) => items.get_mut(part.parse::<usize>().ok()?),
        _ => None,
    }
}

/// The container that a path points into, and the last part.
fn container<'d>(doc: &'d mut Value, path: &str, operation: &str) -> Result<(&'d mut Value, String), String> {
    let missing = || format!("{operation} operation does not apply: doc is missing path: {path:?}: missing value");
    let mut parts = parts(path).ok_or_else(missing)?;
    let last = parts.pop().ok_or_else(missing)?;
    let place = parts.iter().try_fold(doc, |place, part| step(place, part)).ok_or_else(missing)?;
    Ok((place, last))
}

fn add(doc: &mut Value, path: &str, value: Value, operation: &str) -> Result<(), String> {
    if path.is_empty() {
        *doc = value;
        return Ok(());
    }
    let (place, last) = container(doc, path, operation)?;
    let wrong = |message: String| format!("error in {operation} for path: '{path}': {message}");
    match place {
        Value::Object(map) => {
            map.insert(last, value);
            Ok(())
        }
        Value::Array(items) if last == "-" => {
            items.push(value);
            Ok(())
        }
        Value::Array(items) => {
            let at: usize = last.parse().map_err(|_| wrong(format!("value was not a proper array index: '{last}': invalid syntax")))?;
            if at > items.len() {
                return Err(wrong(format!("Unable to access invalid index: {at}: invalid index referenced")));
            }
            items.insert(at, value);
            Ok(())
        }
        _ => Err(format!("{operation} operation does not apply: doc is missing path: {path:?}: missing value")),
    }
}

fn remove(doc: &mut Value, path: &str, operation: &str) -> Result<Value, String> {
    let (place, last) = container(doc, path, operation)?;
    let wrong = |message: String| format!("error in remove for path: '{path}': {message}");
    match place {
        Value::Object(map) => map.remove(&last).ok_or_else(|| wrong(format!("Unable to remove nonexistent key: {last}: missing value"))),
        Value::Array(items) => match last.parse::<usize>() {
            Ok(at) if at < items.len() => Ok(items.remove(at)),
            Ok(at) => Err(wrong(format!("Unable to access invalid index: {at}: invalid index referenced"))),
            Err(_) => Err(wrong(format!("value was not a proper array index: '{last}': invalid syntax"))),
        },
        _ => Err(format!("{operation} operation does not apply: doc is missing path: {path:?}: missing value")),
    }
}
