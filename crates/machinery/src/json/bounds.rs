//! How much of a body is read, JSON or YAML: levels of nesting, and problems.

use crate::Value;

/// The most strict-decoding problems that are reported; a body may hold many more.
pub(crate) const PROBLEMS_LIMIT: usize = 100;

/// Levels of nesting that are read.
pub(crate) const DEPTH_MAX: usize = 128;

/// Whether a value has no more than so many containers in each other; no deeper does it look.
pub(crate) fn fits(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => levels > 0 && items.iter().all(|item| fits(item, levels - 1)),
        Value::Object(map) => levels > 0 && map.values().all(|item| fits(item, levels - 1)),
        _ => true,
    }
}
