//! How objects are read where they are trees: what is absent is empty.

use machinery::Value;

/// A text; empty if it is absent or none.
pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// The elements of a list; none if it is absent or none.
pub(crate) fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
