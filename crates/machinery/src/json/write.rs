//! Writing JSON as the original does: Go's `encoding/json` over typed objects.
//!
//! A built-in type's keys stand in the order of its Go fields, those of a map or of a custom resource sorted, whether its schema
//! tells of them or not, its sets of fields included; `<`, `>`, `&`
//! and the line separators U+2028 and U+2029 are escaped, so that the text can stand in HTML; a float has the shortest
//! digits, with an exponent below 1e-6 and from 1e21 on. The keys of a set of fields (`FieldsV1`) are sorted as sets are:
//! names, then keys (numbers by their value), then values, then places.
//!
//! Source: `encoding/json/encode.go` of Go, `structured-merge-diff/fieldpath/serialize.go`.

use super::{
    scalar,
    texts::{Texts, compact},
};
use crate::{
    Map, Value,
    schema::{Object, Type, TypeRef},
};
use std::cmp::Ordering;

/// Encodes a value whose type is not known: keys sorted, otherwise as the original writes it.
pub fn encode(value: &Value) -> Vec<u8> {
    let mut writer = Writer::new(1024);
    writer.value(None, value);
    writer.finish()
}

/// Writes values into memory.
pub(super) struct Writer<'v> {
    out: Vec<u8>,
    /// The members of the objects that are being written, the innermost last.
    members: Vec<(u16, &'v str, &'v Value, Option<TypeRef<'v>>)>,
    for_yaml: bool,
    /// How free-form values are spelled.
    texts: &'v Texts,
    /// Whether they keep the spaces that they came with.
    spaced: bool,
}

impl<'v> Writer<'v> {
    pub(super) fn new(bytes: usize) -> Self {
        Writer { out: Vec::with_capacity(bytes), members: Vec::new(), for_yaml: false, texts: Texts::NONE, spaced: false }
    }

    pub(super) fn spelled(self, texts: &'v Texts) -> Self {
        Writer { texts, ..self }
    }

    /// The same, as it is stored.
    pub(super) fn sent(self, texts: &'v Texts) -> Self {
        Writer { texts, spaced: true, ..self }
    }

    pub(super) fn for_yaml() -> Self {
        Writer { for_yaml: true, ..Writer::new(1024) }
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.out
    }

    pub(super) fn value(&mut self, ty: Option<TypeRef<'v>>, value: &'v Value) {
        if !self.texts.is_empty()
            && ty.is_some_and(|ty| matches!(ty.get(), Type::RawExtension))
            && let Some(text) = self.texts.of(value)
        {
            if self.spaced {
                self.out.extend_from_slice(text);
            } else {
                self.out.extend_from_slice(&compact(text));
            }
            return;
        }
        match value {
            Value::Null => self.out.extend_from_slice(b"null"),
            Value::Bool(true) => self.out.extend_from_slice(b"true"),
            Value::Bool(false) => self.out.extend_from_slice(b"false"),
            Value::Number(number) => number_text(&mut self.out, number),
            Value::String(text) if scalar::is_no_time(ty, text) => self.out.extend_from_slice(b"null"),
            Value::String(text) => string(&mut self.out, text),
            Value::Array(items) => {
                let elem = ty.and_then(elem);
                self.out.push(b'[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        self.out.push(b',');
                    }
                    self.value(elem, item);
                }
                self.out.push(b']');
            }
            Value::Object(map) => self.map(ty, map),
        }
    }

    fn map(&mut self, ty: Option<TypeRef<'v>>, map: &'v Map<String, Value>) {
        self.object(ty, map, |writer, _, ty, value| writer.value(ty, value));
    }

    /// An object with room for its resourceVersion, which is left empty; where its digits go.
    pub(super) fn with_hole(&mut self, ty: Option<TypeRef<'v>>, map: &'v Map<String, Value>) -> usize {
        const VERSION: &str = "resourceVersion";
        let mut hole = 0;
        self.object(ty, map, |writer, key, ty, value| match value {
            Value::Object(metadata) if key == "metadata" => writer.object(ty, metadata, |writer, key, ty, value| {
                if key == VERSION {
                    hole = writer.out.len() + 1;
                    writer.out.extend_from_slice(br#""""#);
                } else {
                    writer.value(ty, value);
                }
            }),
            _ => writer.value(ty, value),
        });
        hole
    }

    /// An object whose values are written by `each`, which is told their keys and types.
    fn object(&mut self, ty: Option<TypeRef<'v>>, map: &'v Map<String, Value>, mut each: impl FnMut(&mut Self, &'v str, Option<TypeRef<'v>>, &'v Value)) {
        let first = self.gather(ty, map);
        self.out.push(b'{');
        for at in first..self.members.len() {
            let (_, key, value, ty) = self.members[at];
            if at > first {
                self.out.push(b',');
            }
            string(&mut self.out, key);
            self.out.push(b':');
            each(self, key, ty, value);
        }
        self.members.truncate(first);
        self.out.push(b'}');
    }

    /// Appends a map's members in the order in which they are written; where they begin.
    fn gather(&mut self, ty: Option<TypeRef<'v>>, map: &'v Map<String, Value>) -> usize {
        let first = self.members.len();
        match ty.map(|ty| (ty, ty.get())) {
            Some((ty, Type::Object(object))) => self.fields(ty, object, map),
            Some((ty, Type::Map { elem, .. })) => self.members.extend(map.iter().map(|(k, v)| (0, k.as_str(), v, Some(ty.to(*elem))))),
            Some((ty, Type::Fields)) => {
                self.members.extend(map.iter().map(|(k, v)| (0, k.as_str(), v, Some(ty))));
                if map.len() > 1 && !ty.schema.is_lenient() {
                    self.members[first..].sort_by(|a, b| in_a_set(a.1, b.1));
                }
            }
            Some((ty, Type::SchemaOrArray(schema) | Type::SchemaOrBool(schema) | Type::SchemaOrStrings(schema))) => {
                return self.gather(Some(ty.to(*schema)), map);
            }
            _ => {
                self.members.extend(map.iter().map(|(k, v)| (0, k.as_str(), v, None)));
                if self.for_yaml {
                    super::natural::sort(&mut self.members[first..], |member| member.1);
                }
            }
        }
        first
    }

    /// A merge: the map and the fields are both sorted by name.
    fn fields(&mut self, ty: TypeRef<'v>, object: &'v Object, map: &'v Map<String, Value>) {
        let first = self.members.len();
        let (mut at, mut newest, mut sorted) = (0, 0, true);
        let by_name = ty.schema.is_lenient();
        for (key, value) in map {
            while object.fields.get(at).is_some_and(|f| f.name.as_ref() < key.as_str()) {
                at += 1;
            }
            let field = object.fields.get(at).filter(|f| f.name == key.as_str());
            let rank = field.map_or(u16::MAX, |_| object.rank(at));
            sorted &= by_name || rank >= newest;
            newest = rank;
            self.members.push((rank, key, value, field.map(|f| ty.to(f.ty))));
        }
        if !sorted {
            self.members[first..].sort_by_key(|member| member.0);
        }
    }
}

/// The type of a list's elements.
fn elem(ty: TypeRef<'_>) -> Option<TypeRef<'_>> {
    match ty.get() {
        Type::List { elem, .. } | Type::SchemaOrArray(elem) => Some(ty.to(*elem)),
        _ => None,
    }
}

/// The order of a set's members: the set itself (`.`), fields, keys, values, places.
fn in_a_set(a: &str, b: &str) -> Ordering {
    const KINDS: [&str; 5] = [".", "f:", "k:", "v:", "i:"];
    let kind = |text: &str| KINDS.iter().position(|kind| text.starts_with(kind)).unwrap_or(KINDS.len());
    let parsed = |text: &str| serde_json::from_str::<Value>(text.get(2..).unwrap_or_default()).unwrap_or_default();
    kind(a).cmp(&kind(b)).then_with(|| match kind(a) {
        2..=4 => compare(&parsed(a), &parsed(b)),
        _ => a.cmp(b),
    })
}

/// The order of values: floats and integers, text, booleans, lists, maps, null.
fn compare(a: &Value, b: &Value) -> Ordering {
    let kind = |value: &Value| match value {
        Value::Number(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Array(_) => 3,
        Value::Object(_) => 4,
        Value::Null => 5,
    };
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => match (x.as_i64(), y.as_i64()) {
            (Some(x), Some(y)) => x.cmp(&y),
            _ => x.as_f64().unwrap_or(0.0).total_cmp(&y.as_f64().unwrap_or(0.0)),
        },
        (Value::String(x), Value::String(y)) => x.cmp(y),
        (Value::Bool(x), Value::Bool(y)) => x.cmp(y),
        (Value::Array(x), Value::Array(y)) => x.iter().zip(y).map(|(x, y)| compare(x, y)).find(|o| o.is_ne()).unwrap_or_else(|| x.len().cmp(&y.len())),
        (Value::Object(x), Value::Object(y)) => {
            let members = x.iter().zip(y).map(|((j, x), (k, y))| j.cmp(k).then_with(|| compare(x, y)));
            members.into_iter().find(|o| o.is_ne()).unwrap_or_else(|| x.len().cmp(&y.len()))
        }
        _ => kind(a).cmp(&kind(b)),
    }
}

fn number_text(out: &mut Vec<u8>, number: &serde_json::Number) {
    use std::io::Write as _;
    // Writing into memory cannot fail.
    let _ = match number.as_f64().filter(|_| number.is_f64()) {
        Some(float) => {
            let size = float.abs();
            if size != 0.0 && !(1e-6..1e21).contains(&size) {
                let text = format!("{float:e}");
                // Go writes the sign of a positive exponent.
                match text.split_once('e') {
                    Some((digits, exponent)) if !exponent.starts_with('-') => write!(out, "{digits}e+{exponent}"),
                    _ => out.write_all(text.as_bytes()),
                }
            } else {
                write!(out, "{float}")
            }
        }
        None => write!(out, "{number}"),
    };
}

/// Writes text between quotes.
pub(super) fn string(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut begun = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if PLAIN[usize::from(*byte)] {
            continue;
        }
        // U+2028 and U+2029 are e2 80 a8 and e2 80 a9.
        let separator = *byte == 0xe2 && matches!(bytes.get(at + 1..at + 3), Some([0x80, 0xa8 | 0xa9]));
        if *byte >= 0x80 && !separator {
            continue;
        }
        out.extend_from_slice(&bytes[begun..at]);
        begun = at + 1;
        match *byte {
            b'"' => out.extend_from_slice(br#"\""#),
            b'\\' => out.extend_from_slice(br"\\"),
            b'\n' => out.extend_from_slice(br"\n"),
            b'\r' => out.extend_from_slice(br"\r"),
            b'\t' => out.extend_from_slice(br"\t"),
            0x08 => out.extend_from_slice(br"\b"),
            0x0c => out.extend_from_slice(br"\f"),
            _ if separator => {
                out.extend_from_slice(if bytes[at + 2] == 0xa8 { br"\u2028" } else { br"\u2029" });
                begun = at + 3;
            }
            other => {
                out.extend_from_slice(br"\u00");
                out.extend_from_slice(&[HEX[usize::from(other >> 4)], HEX[usize::from(other & 15)]]);
            }
        }
    }
    out.extend_from_slice(&bytes[begun..]);
    out.push(b'"');
}

/// The bytes that stand for themselves in a string; of those above ASCII only one needs a second look.
const PLAIN: [bool; 256] = {
    let mut plain = [true; 256];
    let mut byte = 0;
    while byte < 0x20 {
        plain[byte] = false;
        byte += 1;
    }
    let special = [b'"', b'\\', b'<', b'>', b'&', 0xe2];
    let mut at = 0;
    while at < special.len() {
        plain[special[at] as usize] = false;
        at += 1;
    }
    plain
};

/// Indents JSON as it streams by, as Go's `MarshalIndent` with two spaces does: nothing is held but the place.
#[derive(Debug, Default)]
pub struct Indent {
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// An object or a list has just begun; if it ends at once it stays on its line.
    opened: bool,
}

impl Indent {
    /// The next bytes, indented, appended to `out`. They are compact JSON and may be cut anywhere.
    pub fn push(&mut self, compact: &[u8], out: &mut Vec<u8>) {
        out.reserve(compact.len() * 2);
        self.push_until(compact, usize::MAX, out);
    }

    /// As [`Self::push`], until there are `limit` bytes or a little more in `out`: what is nested deep is mostly indentation.
    /// How many of the bytes were taken.
    pub fn push_until(&mut self, compact: &[u8], limit: usize, out: &mut Vec<u8>) -> usize {
        let mut at = 0;
        while let Some(byte) = compact.get(at).filter(|_| out.len() < limit) {
            if self.in_string {
                let end = self.string_end(&compact[at..]);
                out.extend_from_slice(&compact[at..at + end]);
                at += end;
                continue;
            }
            at += 1;
            if self.opened && !matches!(byte, b'}' | b']') {
                self.opened = false;
                self.depth += 1;
                self.line(out);
            }
            match byte {
                b'"' => {
                    self.in_string = true;
                    out.push(b'"');
                }
                b'{' | b'[' => {
                    self.opened = true;
                    out.push(*byte);
                }
                b'}' | b']' => {
                    if !std::mem::take(&mut self.opened) {
                        self.depth = self.depth.saturating_sub(1);
                        self.line(out);
                    }
                    out.push(*byte);
                }
                b',' => {
                    out.push(b',');
                    self.line(out);
                }
                b':' => out.extend_from_slice(b": "),
                _ => out.push(*byte),
            }
        }
        at
    }

    /// How many of the bytes of a string belong to it, its closing quote included.
    fn string_end(&mut self, bytes: &[u8]) -> usize {
        for (at, byte) in bytes.iter().enumerate() {
            if std::mem::take(&mut self.escaped) {
                continue;
            }
            match byte {
                b'\\' => self.escaped = true,
                b'"' => {
                    self.in_string = false;
                    return at + 1;
                }
                _ => {}
            }
        }
        bytes.len()
    }

    fn line(&self, out: &mut Vec<u8>) {
        out.push(b'\n');
        out.resize(out.len() + 2 * self.depth, b' ');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{json, schema};
    use serde_json::json;

    fn text(ty: Option<&str>, value: &Value) -> String {
        let ty = ty.map(|name| schema::builtin().named(name).expect("a type"));
        String::from_utf8(json::encode_as(ty, value)).expect("UTF-8")
    }

    #[test]
    fn a_built_in_type_is_in_the_order_of_its_go_fields() {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
            "metadata": {"annotations": {"b": "2", "a": "1"}, "uid": "u", "name": "n", "resourceVersion": "7", "namespace": "d"},
            "spec": {"containers": [{"image": "i", "name": "c", "env": [{"value": "v", "name": "e"}]}], "nodeName": "x"},
        });
        assert_eq!(
            text(Some("io.k8s.api.core.v1.Pod"), &pod),
            r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"n","namespace":"d","uid":"u","resourceVersion":"7","annotations":{"a":"1","b":"2"}},"spec":{"containers":[{"name":"c","image":"i","env":[{"name":"e","value":"v"}]}],"nodeName":"x"},"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}"#
        );
        assert!(text(None, &pod).starts_with(r#"{"apiVersion":"v1","kind":"Pod","metadata":{"annotations":"#), "an unknown type is sorted");
    }

    #[test]
    fn a_schema_in_a_schema_is_in_order_wherever_it_stands() {
        let props = json!({"items": {"type": "object", "description": "d"}, "additionalProperties": {"type": "string", "format": "f"}, "type": "array"});
        assert_eq!(
            text(Some("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps"), &props),
            r#"{"type":"array","items":{"description":"d","type":"object"},"additionalProperties":{"type":"string","format":"f"}}"#
        );
    }

    #[test]
    fn strings_are_escaped_as_for_html() {
        let odd = "<a href=\"x\">&\u{2028}\u{2029}\u{7f}\u{1}\u{8}\u{c}\n\r\t\\é€\u{2027}😀";
        assert_eq!(text(None, &json!([odd])), "[\"\\u003ca href=\\\"x\\\"\\u003e\\u0026\\u2028\\u2029\u{7f}\\u0001\\b\\f\\n\\r\\t\\\\é€\u{2027}😀\"]");
        assert_eq!(text(None, &json!({"a<b": 1})), r#"{"a\u003cb":1}"#);
    }

    #[test]
    fn the_first_of_all_times_is_none() {
        let value = json!({"lastPhaseTransitionTime": "0001-01-01T00:00:00Z", "phase": "0001-01-01T00:00:00Z"});
        assert_eq!(text(Some("io.k8s.api.core.v1.PersistentVolumeStatus"), &value), r#"{"phase":"0001-01-01T00:00:00Z","lastPhaseTransitionTime":null}"#);
        let ty = schema::builtin().named("io.k8s.api.core.v1.Event").expect("a type");
        let event = br#"{"firstTimestamp":"0001-01-01T00:00:00Z","eventTime":"0001-01-01T00:00:00.000000Z","reason":"r"}"#;
        let read = json::decode(event, Some(ty), json::Validation::Strict).expect("an event").value;
        assert_eq!((read.get("firstTimestamp"), read.get("eventTime"), &read["reason"]), (None, None, &json!("r")), "{read}");
    }

    #[test]
    fn floats_are_written_as_go_writes_them() {
        let floats = json!([0.0, 1.0, 0.1, 1e20, 1e21, 1.5e300, 1e-6, 9e-7, -2.5e-9, 100.25, u64::MAX, i64::MIN]);
        assert_eq!(
            text(None, &floats),
            "[0,1,0.1,100000000000000000000,1e+21,1.5e+300,0.000001,9e-7,-2.5e-9,100.25,18446744073709551615,-9223372036854775808]"
        );
    }

    #[test]
    fn sets_of_fields_are_sorted_as_sets() {
        let set = json!({"v:\"b\"": {}, "k:{\"port\":443}": {}, "k:{\"port\":80}": {}, "i:1": {}, "f:z": {}, ".": {}, "f:a": {}});
        let entry = json!({"manager": "m", "fieldsV1": set, "fieldsType": "FieldsV1"});
        assert_eq!(
            text(Some("io.k8s.apimachinery.pkg.apis.meta.v1.ManagedFieldsEntry"), &entry),
            r#"{"manager":"m","fieldsType":"FieldsV1","fieldsV1":{".":{},"f:a":{},"f:z":{},"k:{\"port\":80}":{},"k:{\"port\":443}":{},"v:\"b\"":{},"i:1":{}}}"#
        );
    }

    #[test]
    fn a_custom_object_s_keys_are_sorted_whatever_its_schema_tells_of() {
        let template = json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true});
        let structural = json!({"type": "object", "properties": {"spec": template}});
        let gvk = crate::gvk::Gvk::parse("g.io/v1", "K");
        let custom = crate::structural::schema(&[(gvk.clone(), Some(&structural))]);
        let set = json!({"f:l": {"k:{\"id\":9}": {}, "k:{\"id\":10}": {}}});
        let value =
            json!({"metadata": {"managedFields": [{"fieldsV1": set}]}, "spec": {"kind": "Secret", "data": {}, "metadata": {"name": "s"}, "apiVersion": "v1"}});
        assert_eq!(
            String::from_utf8(json::encode_as(custom.kind(&gvk), &value)).expect("UTF-8"),
            r#"{"metadata":{"managedFields":[{"fieldsV1":{"f:l":{"k:{\"id\":10}":{},"k:{\"id\":9}":{}}}}]},"spec":{"apiVersion":"v1","data":{},"kind":"Secret","metadata":{"name":"s"}}}"#
        );
    }

    #[test]
    fn the_resource_version_s_place_is_known() {
        let ty = schema::builtin().named("io.k8s.api.core.v1.ConfigMap");
        for ty in [ty, None] {
            for metadata in [json!({"name": "a", "resourceVersion": "12", "uid": "u"}), json!({"resourceVersion": ""})] {
                let (mut bytes, hole) = json::encode_with_hole(ty, &json!({"metadata": metadata, "data": {"a": "b"}}), Texts::NONE);
                bytes.splice(hole..hole, *b"77");
                let read: Value = serde_json::from_slice(&bytes).expect("JSON");
                assert_eq!(read["metadata"]["resourceVersion"], "77");
            }
        }
    }

    #[test]
    fn indenting_a_stream_is_indenting_the_whole() {
        let value = json!({"a": {}, "b": [], "c": [1, {"d": "x\\\"{[,:"}, []], "e": {"f": null}, "g": [[]]});
        let (compact, pretty) = (json::encode(&value), serde_json::to_string_pretty(&value).expect("JSON"));
        for piece in [1, 2, 3, 7, 1000] {
            let (mut indent, mut out) = (Indent::default(), Vec::new());
            compact.chunks(piece).for_each(|bytes| indent.push(bytes, &mut out));
            assert_eq!(String::from_utf8(out).expect("UTF-8"), pretty);
        }
    }
}
