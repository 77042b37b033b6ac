//! How much of a body is read, JSON or YAML: levels of nesting, and problems.

use crate::Value;

/// The most strict-decoding problems that are reported; a body may hold many more.
pub(crate) const PROBLEMS_LIMIT: usize = 100;

/// Levels of nesting that are read, as Go's decoders for JSON and YAML count them.
pub const DEPTH_MAX: usize = 10_000;

/// Levels that an answer puts around an object, which may itself be as deep as any: those of a list, an event, a table's row.
pub(crate) const AROUND_MAX: usize = 8;

/// go-yaml's error of what is nested too deep.
pub(crate) fn too_deep() -> String {
    format!("exceeded max depth of {DEPTH_MAX}")
}

/// How many containers stand in each other at the deepest place.
pub(crate) fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Whether a value has no more than so many containers in each other; no deeper does it look.
pub(crate) fn fits(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => levels > 0 && items.iter().all(|item| fits(item, levels - 1)),
        Value::Object(map) => levels > 0 && map.values().all(|item| fits(item, levels - 1)),
        _ => true,
    }
}
