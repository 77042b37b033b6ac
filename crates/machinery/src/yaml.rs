//! YAML bodies: read into a tree as go-yaml reads them (`compose`), and then decoded as JSON is.
//!
//! YAML reaches the API as `application/yaml` and as apply configurations; clients mostly turn their files into JSON
//! themselves. The work is linear in the body, whose size the caller bounds.

pub(crate) mod compose;
mod emit;
mod libyaml;
mod mend;
pub(crate) mod scalar;

pub use emit::Emitter;

use crate::{
    Value,
    json::{Decoded, Validation},
    schema::TypeRef,
    status::Status,
};

/// Decodes the first YAML document of a kind, or of any if `ty` is `None`; see [`crate::json::decode`].
///
/// # Errors
/// 400 in upstream's wording.
pub fn decode(bytes: &[u8], ty: Option<TypeRef<'_>>, validation: Validation) -> Result<Decoded, Status> {
    let refused = |why: &str| match ty {
        Some(ty) => crate::json::unrecognized_yaml(ty, why, bytes),
        None => Status::bad_request(format!("error converting YAML to JSON: {}", worded(why))),
    };
    let document = crate::json::document(bytes).map_err(|why| refused(&why))?;
    if let Some(ty) = ty.filter(|_| !document.value.is_object() && !document.value.is_null()) {
        return Err(crate::json::unrecognized_tree(ty, &document.value, bytes));
    }
    crate::json::decode_document(document, bytes, ty, validation)
}

/// The first YAML document as a tree.
///
/// # Errors
/// Why it is none, in go-yaml's words.
pub fn tree(bytes: &[u8]) -> Result<Value, String> {
    crate::json::document(bytes).map(|document| document.value).map_err(|why| worded(&why))
}

/// The text of a document that its first two bytes say is UTF-16, as Windows writes; none of any other. The error is go-yaml's.
pub(crate) fn utf16(bytes: &[u8]) -> Option<Result<String, &'static str>> {
    let (rest, unit): (_, fn([u8; 2]) -> u16) = match bytes {
        [0xff, 0xfe, rest @ ..] => (rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => (rest, u16::from_be_bytes),
        _ => return None,
    };
    let (pairs, odd) = rest.as_chunks::<2>();
    if !odd.is_empty() {
        return Some(Err("incomplete UTF-16 character"));
    }
    let text: Result<String, _> = char::decode_utf16(pairs.iter().map(|pair| unit(*pair))).collect();
    Some(text.map_err(|error| if error.unpaired_surrogate() < 0xdc00 { "expected low surrogate area" } else { "unexpected low surrogate area" }))
}

/// The error of a document; one of its conversion to JSON is no error of YAML.
pub(crate) fn worded(why: &str) -> String {
    if why.starts_with("json: ") || why.starts_with("unsupported map key") { why.to_owned() } else { format!("yaml: {why}") }
}

/// Encodes a value as a YAML document.
pub fn encode(value: &Value) -> String {
    let mut out = Vec::new();
    Emitter::new(value).window(usize::MAX, &mut out);
    String::from_utf8(out).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    #[test]
    fn utf_16_is_read_by_its_mark() {
        let of = |units: fn(u16) -> [u8; 2]| "\u{feff}a: é😀\n".encode_utf16().flat_map(units).collect::<Vec<u8>>();
        for bytes in [of(u16::to_le_bytes), of(u16::to_be_bytes)] {
            assert_eq!(tree(&bytes).unwrap(), serde_json::json!({"a": "é😀"}));
        }
        assert_eq!(tree(b"\xff\xfea").unwrap_err(), "yaml: incomplete UTF-16 character");
        assert_eq!(tree(b"\xff\xfe\x00\xdc").unwrap_err(), "yaml: unexpected low surrogate area");
    }

    #[test]
    fn yaml_is_decoded_as_strictly_as_json() {
        let ty = schema::builtin().named("io.k8s.api.core.v1.ConfigMap").unwrap();
        let body = b"metadata:\n  name: a\n  labels: {l: \"1\", l: \"2\"}\nfoo: 1\nfoo: 2\ndata:\n  k: |\n    text\n";
        let error = decode(body, Some(ty), Validation::Strict).unwrap_err();
        assert_eq!(
            error.message,
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: yaml: unmarshal errors:\n  \
             line 3: key \"l\" already set in map\n  line 5: key \"foo\" already set in map, unknown field \"foo\""
        );
        let warned = decode(body, Some(ty), Validation::Warn).unwrap();
        assert_eq!(warned.warnings, ["line 3: key \"l\" already set in map", "line 5: key \"foo\" already set in map", "unknown field \"foo\""]);
        assert_eq!(warned.value["metadata"]["labels"]["l"], "2");
        let value = decode(body, Some(ty), Validation::Ignore).unwrap().value;
        assert_eq!(value["data"]["k"], "text\n");
        let modes = b"spec: {volumes: [{name: a, secret: {defaultMode: 0440, optional: yes}}]}";
        let pod = decode(modes, schema::builtin().named("io.k8s.api.core.v1.Pod"), Validation::Strict).unwrap().value;
        assert_eq!((&pod["spec"]["volumes"][0]["secret"]["defaultMode"], &pod["spec"]["volumes"][0]["secret"]["optional"]), (&288.into(), &true.into()));
        let broken = decode(b"a: [", Some(ty), Validation::Strict).unwrap_err().message;
        assert!(broken.starts_with("the object provided is unrecognized (must be of type ConfigMap): yaml: line "), "{broken}");
        assert!(broken.ends_with(" (613a205b)"), "{broken}");
        let again = decode(encode(&value).as_bytes(), Some(ty), Validation::Strict).unwrap().value;
        assert_eq!(again, value);
    }
}
