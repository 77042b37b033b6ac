//! Keys that a mapping of a YAML document has twice, each with the line of the later value, as go-yaml tells them.
//!
//! The parser tells a place only with an error. So a search visits the document and fails on purpose at the duplicate that it
//! looks for; each further duplicate costs one more search, and the work is bounded by the document's size.

use crate::json::PROBLEMS_LIMIT;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;

/// Bytes that are read at most, all searches of one document together; the first duplicate is found in any document.
const WORK_BYTES: usize = 16 * 1024 * 1024;

/// `line N: key "x" already set in map` for each duplicate in the order of the document. Nothing for what is no YAML.
pub(crate) fn told(text: &str) -> Vec<String> {
    let searches = (WORK_BYTES / text.len().max(1)).clamp(1, PROBLEMS_LIMIT);
    (0..searches).map_while(|passed| find(text, passed)).collect()
}

/// go-yaml's error of such lines.
pub(crate) fn error(lines: &[String]) -> String {
    format!("yaml: unmarshal errors:\n  {}", lines.join("\n  "))
}

/// The duplicate that comes after so many others.
fn find(text: &str, passed: usize) -> Option<String> {
    let search = Search { left: Cell::new(passed), found: RefCell::new(None) };
    let error = Visit { search: &search, at: None }.deserialize(serde_yaml_ng::Deserializer::from_str(text)).err()?;
    let key = search.found.take()?;
    Some(format!("line {}: key {key} already set in map", error.location().map_or(1, |place| place.line())))
}

struct Search {
    /// Duplicates that are passed by before the one that is looked for.
    left: Cell<usize>,
    /// Its key, as Go writes it.
    found: RefCell<Option<String>>,
}

/// Visits a value; `at` is its key if that is a duplicate.
struct Visit<'a> {
    search: &'a Search,
    at: Option<String>,
}

impl Visit<'_> {
    /// Fails if this is the value that is looked for.
    fn pass<E: Error>(self) -> Result<(), E> {
        let Some(key) = self.at else { return Ok(()) };
        match self.search.left.get() {
            0 => {
                self.search.found.replace(Some(key));
                Err(E::custom("a duplicate"))
            }
            left => {
                self.search.left.set(left - 1);
                Ok(())
            }
        }
    }
}

impl<'de> DeserializeSeed<'de> for Visit<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Visit<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.pass()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.pass()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.pass()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.pass()
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        self.pass()
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.pass()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let search = self.search;
        self.pass()?;
        while seq.next_element_seed(Visit { search, at: None })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let search = self.search;
        self.pass()?;
        let mut seen = BTreeSet::new();
        while let Some(key) = map.next_key_seed(Key)? {
            let at = seen.contains(&key).then(|| key.clone());
            map.next_value_seed(Visit { search, at })?;
            seen.insert(key);
        }
        Ok(())
    }
}

/// A key as Go's `%#v` writes it, so that `1` and `"1"` are two.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Key {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_bool<E: Error>(self, key: bool) -> Result<String, E> {
        Ok(key.to_string())
    }

    fn visit_i64<E: Error>(self, key: i64) -> Result<String, E> {
        Ok(key.to_string())
    }

    fn visit_u64<E: Error>(self, key: u64) -> Result<String, E> {
        Ok(key.to_string())
    }

    fn visit_f64<E: Error>(self, key: f64) -> Result<String, E> {
        Ok(key.to_string())
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<String, E> {
        Ok(format!("{key:?}"))
    }

    fn visit_unit<E: Error>(self) -> Result<String, E> {
        Ok("<nil>".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duplicate_is_told_with_the_line_of_its_value() {
        let text = "kind: A\nkind: B\nspec:\n  a: 1\n  b: [{c: 1, c: 2}]\n  a:\n    x: 1\n    1: y\n    \"1\": y\n    1: z\nspec: ~\n";
        let lines = [
            "line 2: key \"kind\" already set in map",
            "line 5: key \"c\" already set in map",
            "line 7: key \"a\" already set in map",
            "line 10: key 1 already set in map",
            "line 11: key \"spec\" already set in map",
        ];
        assert_eq!(told(text), lines);
        assert_eq!(told("{\"a\": 1, \"b\": {\"a\": 2}}"), [""; 0]);
        for other in ["a: [", "", "- a", "a: &x {b: 1}\nc: *x\n", "? [a]\n: b\n"] {
            assert_eq!(told(other), [""; 0], "{other}");
        }
        assert_eq!(told("a: &x {b: 1, b: 2}\n").len(), 1);
    }

    #[test]
    fn a_large_document_is_searched_a_few_times() {
        let text = format!("{}z: \"{}\"\n", "a: 1\n".repeat(500), "x".repeat(WORK_BYTES / 3));
        assert_eq!(told(&text).len(), 2);
        assert_eq!(told(&"a: 1\n".repeat(500)).len(), PROBLEMS_LIMIT);
    }
}
