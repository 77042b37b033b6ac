//! YAML bodies: the same decoding as JSON, fed by a YAML parser.
//!
//! YAML reaches the API only as `application/yaml`; clients turn their files into JSON themselves. The parser bounds the
//! expansion of aliases, and the caller the size of the body.

pub(crate) mod duplicates;

use crate::{
    Value,
    json::{Decoded, Validation},
    schema::TypeRef,
    status::Status,
};

/// Decodes one YAML document of a kind, or any if `ty` is `None`; see [`crate::json::decode`].
///
/// # Errors
/// 400 in upstream's wording.
pub fn decode(bytes: &[u8], ty: Option<TypeRef<'_>>, validation: Validation) -> Result<Decoded, Status> {
    let text = std::str::from_utf8(bytes).map_err(|_| Status::bad_request("error converting YAML to JSON: yaml: invalid UTF-8"))?;
    crate::json::decode_with(serde_yaml_ng::Deserializer::from_str(text), ty, validation, Some(text), |error| {
        Status::bad_request(format!("error converting YAML to JSON: yaml: {error}"))
    })
}

/// Encodes a value as a YAML document.
pub fn encode(value: &Value) -> String {
    // A tree with string keys cannot fail to encode.
    serde_yaml_ng::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    #[test]
    fn yaml_is_decoded_as_strictly_as_json() {
        let ty = schema::builtin().named("io.k8s.api.core.v1.ConfigMap").unwrap();
        let body = b"metadata:\n  name: a\n  labels: {n: \"1\", n: \"2\"}\nfoo: 1\nfoo: 2\ndata:\n  k: |\n    text\n";
        let error = decode(body, Some(ty), Validation::Strict).unwrap_err();
        assert_eq!(
            error.message,
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: yaml: unmarshal errors:\n  \
             line 3: key \"n\" already set in map\n  line 5: key \"foo\" already set in map, unknown field \"foo\""
        );
        let warned = decode(body, Some(ty), Validation::Warn).unwrap();
        assert_eq!(warned.warnings, ["line 3: key \"n\" already set in map", "line 5: key \"foo\" already set in map", "unknown field \"foo\""]);
        assert_eq!(warned.value["metadata"]["labels"]["n"], "2");
        let value = decode(body, Some(ty), Validation::Ignore).unwrap().value;
        assert_eq!(value["data"]["k"], "text\n");
        let modes = b"spec: {volumes: [{name: a, secret: {defaultMode: 0440, optional: yes}}]}";
        let pod = decode(modes, schema::builtin().named("io.k8s.api.core.v1.Pod"), Validation::Strict).unwrap().value;
        assert_eq!((&pod["spec"]["volumes"][0]["secret"]["defaultMode"], &pod["spec"]["volumes"][0]["secret"]["optional"]), (&288.into(), &true.into()));
        assert!(decode(b"a: [", Some(ty), Validation::Strict).is_err());
        let again = decode(encode(&value).as_bytes(), Some(ty), Validation::Strict).unwrap().value;
        assert_eq!(again, value);
    }
}
