//! A definition without its schemas: all that its names, its rows and its status follow from.
//!
//! Operators bring megabytes of schemas, and of most of them no object is asked for while the process lives. So a definition is
//! looked at by its text: what it says of itself is read, its versions stay text (a part of what lies in the store), and whoever
//! needs a schema reads that one then.

use bytes::Bytes;
use machinery::{Value, json};
use store::Entry;

/// Where schemas stand in a definition, and how far down this path the parts stand that are kept as text.
const SCHEMAS: [&str; 4] = ["spec", "versions", "*", "schema"];
const SPEC: usize = 1;
const VERSION: usize = 3;
const SCHEMA: usize = 4;

/// See the module's head.
#[derive(Debug, Clone, Default)]
pub(super) struct Outline {
    /// The definition, with `null` for each version's schema.
    pub(super) value: Value,
    /// The text of its `spec`, which tells whether another is the same.
    pub(super) spec: Bytes,
    /// The text of each version.
    pub(super) versions: Vec<Bytes>,
}

impl Outline {
    /// The outline of what lies in the store; none of what cannot be decoded.
    pub(super) fn of(entry: &Entry) -> Option<Outline> {
        Outline::read(&entry.json).inspect_err(|error| tracing::error!(key = %entry.key, %error, "a definition cannot be decoded")).ok()
    }

    fn read(json: &Bytes) -> Result<Outline, serde_json::Error> {
        let (mut outline, mut lean, mut done) = (Outline::default(), Vec::with_capacity(4096), 0);
        for (depth, span) in json::spans(json, &SCHEMAS) {
            match depth {
                SPEC => outline.spec = json.slice(span),
                VERSION => outline.versions.push(json.slice(span)),
                SCHEMA => {
                    lean.extend_from_slice(json.get(done..span.start).unwrap_or_default());
                    lean.extend_from_slice(b"null");
                    done = span.end;
                }
                _ => {}
            }
        }
        lean.extend_from_slice(json.get(done..).unwrap_or_default());
        outline.value = json::read(&lean)?;
        Ok(outline)
    }

    /// The same definition in another state of its status.
    pub(super) fn with(&self, value: Value) -> Outline {
        Outline { value, ..self.clone() }
    }

    /// The definition's name.
    pub(super) fn name(&self) -> &str {
        super::text(&self.value["metadata"], "name")
    }

    /// Its group.
    pub(super) fn group(&self) -> &str {
        super::text(&self.value["spec"], "group")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_are_left_out_and_kept_as_text() {
        let read = |json: &str| Outline::read(&Bytes::copy_from_slice(json.as_bytes()));
        let text = r#"{"metadata":{"name":"a"},"spec":{"group":"g","versions":[{"name":"v1","schema":{"a":[{"schema":1}]}},{"name":"v2"},{"schema":5}]},"status":{"spec":1}}"#;
        let outline = read(text).expect("a definition");
        let lean =
            r#"{"metadata":{"name":"a"},"spec":{"group":"g","versions":[{"name":"v1","schema":null},{"name":"v2"},{"schema":null}]},"status":{"spec":1}}"#;
        assert_eq!(outline.value, json::read(lean.as_bytes()).expect("JSON"));
        assert_eq!((outline.name(), outline.group(), outline.versions.len()), ("a", "g", 3));
        assert_eq!(outline.versions[0], r#"{"name":"v1","schema":{"a":[{"schema":1}]}}"#);
        assert!(text.contains(std::str::from_utf8(&outline.spec).expect("text")) && outline.spec.ends_with(b"5}]}"));

        // Nothing is there of what no version is, and what is cut off or no JSON is no definition.
        for odd in [r#"{"spec":{"versions":{"*":{"schema":1}}}}"#, r#"{"spec":7}"#, "{}", "[]", r#"{"spec":{"versions":[]}}"#] {
            assert!(read(odd).is_ok_and(|outline| outline.versions.len() <= 1 && outline.name().is_empty()), "{odd}");
        }
        for wrong in ["", "{", r#"{"spec":{"versions":[{"schema":{"a":"#, r#"{"spec":{"versions":[{"schema""#, "\u{0}\u{0}"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
