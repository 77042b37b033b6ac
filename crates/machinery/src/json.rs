//! JSON: decoding guided by the schema, in one pass, with upstream's strictness and wording; and encoding.
//!
//! Decoding does to a value what Go's decoding into a typed object and encoding it again would do: unknown fields are
//! dropped (and reported), `null` is absent, zero values that Go leaves out (`omitempty` without a pointer) are left out,
//! quantities and times are written in canonical form, base64 is checked, and a wrong JSON type is an error that names the
//! Go type. So two spellings of the same object are equal values afterwards.
//!
//! The path of the present value is a chain of stack frames ([`path::Node`]), so that a well-formed body costs no path at all.

mod errors;
mod path;
mod scalar;
mod seed;
#[cfg(test)]
mod tests;

use crate::{Map, Value, schema::TypeRef, status::Status, yaml::duplicates};
use path::Node;
use seed::{Context, Seed};
use serde::{Deserialize, Deserializer, de::DeserializeSeed};

/// What happens with unknown and duplicate fields (`fieldValidation`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validation {
    /// They are an error.
    Strict,
    /// They are dropped and reported as warnings.
    Warn,
    /// They are dropped.
    Ignore,
}

/// A decoded body.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The object.
    pub value: Value,
    /// With [`Validation::Warn`]: what a strict decoding would refuse, for `Warning` headers.
    pub warnings: Vec<String>,
}

/// The most strict-decoding problems that are reported; a body may hold many more.
pub(crate) const PROBLEMS_LIMIT: usize = 100;

/// Decodes a body of a kind, or any JSON if `ty` is `None`. The nesting is limited to 128 levels by the parser.
///
/// # Errors
/// 400 in upstream's wording: bad syntax, a wrong type, or (strict) unknown and duplicate fields.
pub fn decode(bytes: &[u8], ty: Option<TypeRef<'_>>, validation: Validation) -> Result<Decoded, Status> {
    let cx = Context::new(validation != Validation::Ignore, PROBLEMS_LIMIT);
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    let outcome = match ty {
        Some(ty) => Seed::root(ty, &Node::ROOT, &cx).deserialize(&mut parser).map(|v| v.unwrap_or_else(|| Value::Object(Map::new()))),
        None => seed::AnySeed { at: &Node::ROOT, cx: &cx }.deserialize(&mut parser),
    };
    let kind = ty.and_then(TypeRef::gvk);
    let mut value = outcome.and_then(|v| parser.end().map(|()| v)).map_err(|e| match cx.take_failure() {
        Some(failure) => errors::cannot_be_handled(kind, &failure),
        None => errors::unrecognized(kind, &errors::syntax(bytes, &e), bytes),
    })?;
    fill_kind(ty, &mut value);
    finish(value, cx.take_problems(), kind, validation)
}

/// Sets apiVersion and kind where the body left them out and the type has them: the request's path has named them.
fn fill_kind(ty: Option<TypeRef<'_>>, value: &mut Value) {
    if let (Some(ty), Value::Object(map)) = (ty, value)
        && let (Some(gvk), Some(_)) = (ty.gvk(), ty.field("kind"))
    {
        map.entry("kind").or_insert_with(|| Value::String(gvk.kind.clone()));
        map.entry("apiVersion").or_insert_with(|| Value::String(gvk.api_version()));
    }
}

/// Applies the validation mode to what was found.
fn finish(value: Value, problems: Vec<String>, kind: Option<&crate::gvk::Gvk>, validation: Validation) -> Result<Decoded, Status> {
    match validation {
        Validation::Strict if !problems.is_empty() => Err(errors::cannot_be_handled(kind, &format!("strict decoding error: {}", problems.join(", ")))),
        Validation::Warn => Ok(Decoded { value, warnings: problems }),
        _ => Ok(Decoded { value, warnings: Vec::new() }),
    }
}

/// Runs a parsed tree through the same decoding: for what a patch has made.
///
/// # Errors
/// As [`decode`].
pub fn normalize(value: Value, ty: TypeRef<'_>, validation: Validation) -> Result<Decoded, Status> {
    decode_with(value, Some(ty), validation, None, |error| errors::cannot_be_handled(ty.gvk(), &error))
}

/// Decodes an apply configuration, YAML or JSON. Zeros and nulls stay in it: naming a field is owning it. A key that is there
/// twice is told as YAML's, by its line, in JSON too: upstream reads both with one parser.
///
/// # Errors
/// As [`decode`].
pub fn decode_applied(bytes: &[u8], ty: TypeRef<'_>, validation: Validation) -> Result<Decoded, Status> {
    let cx = || Context::new(validation != Validation::Ignore, PROBLEMS_LIMIT).keeping();
    let is_json = bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{');
    if is_json {
        let mut parser = serde_json::Deserializer::from_slice(bytes);
        let cx = cx();
        let outcome = Seed::root(ty, &Node::ROOT, &cx).deserialize(&mut parser).and_then(|v| parser.end().map(|()| v));
        match outcome {
            // YAML's flow style looks like JSON.
            Err(error) if error.is_syntax() => {}
            outcome => {
                let decoded = complete(outcome, &cx, Some(ty), validation, |e| errors::cannot_be_handled(ty.gvk(), &e))?;
                return if cx.repeats() { add_duplicates(decoded, &String::from_utf8_lossy(bytes), validation) } else { Ok(decoded) };
            }
        }
    }
    let refused = |why: &str| Status::bad_request(format!("error decoding patch: error converting YAML to JSON: yaml: {why}"));
    let text = std::str::from_utf8(bytes).map_err(|_| refused("invalid UTF-8"))?;
    let cx = cx().of_yaml();
    let outcome = Seed::root(ty, &Node::ROOT, &cx).deserialize(serde_yaml_ng::Deserializer::from_str(text));
    let decoded = complete(outcome, &cx, Some(ty), validation, |e| refused(&e))?;
    add_duplicates(decoded, text, validation)
}

/// Tells the duplicates of an apply configuration.
fn add_duplicates(mut decoded: Decoded, text: &str, validation: Validation) -> Result<Decoded, Status> {
    let lines = if validation == Validation::Ignore { Vec::new() } else { duplicates::told(text) };
    if validation == Validation::Strict && !lines.is_empty() {
        let why = duplicates::error(&lines);
        return Err(Status::bad_request(format!("error strict decoding patch: error converting YAML to JSON: {why}")));
    }
    decoded.warnings.splice(0..0, lines);
    Ok(decoded)
}

/// The same decoding from any format that serde reads; `yaml` is the text if that is one of YAML, and `syntax` words what the
/// format's parser refuses.
pub(crate) fn decode_with<'de, D: Deserializer<'de>>(
    deserializer: D,
    ty: Option<TypeRef<'_>>,
    validation: Validation,
    yaml: Option<&str>,
    syntax: impl FnOnce(String) -> Status,
) -> Result<Decoded, Status> {
    let cx = Context::new(validation != Validation::Ignore, PROBLEMS_LIMIT);
    let cx = match (yaml, validation) {
        (None, _) => cx,
        (Some(_), Validation::Ignore) => cx.of_yaml(),
        (Some(text), Validation::Warn) => cx.of_yaml().knowing(duplicates::told(text)),
        (Some(text), Validation::Strict) => {
            let lines = duplicates::told(text);
            cx.of_yaml().knowing(if lines.is_empty() { lines } else { vec![duplicates::error(&lines)] })
        }
    };
    let outcome = match ty {
        Some(ty) => Seed::root(ty, &Node::ROOT, &cx).deserialize(deserializer),
        None => seed::AnySeed { at: &Node::ROOT, cx: &cx }.deserialize(deserializer).map(Some),
    };
    complete(outcome, &cx, ty, validation, syntax)
}

/// From a seed's outcome to the caller's.
fn complete<E: std::fmt::Display>(
    outcome: Result<Option<Value>, E>,
    cx: &Context,
    ty: Option<TypeRef<'_>>,
    validation: Validation,
    syntax: impl FnOnce(String) -> Status,
) -> Result<Decoded, Status> {
    let kind = ty.and_then(TypeRef::gvk);
    let value = outcome.map_err(|e| match cx.take_failure() {
        Some(failure) => errors::cannot_be_handled(kind, &failure),
        None => syntax(e.to_string()),
    })?;
    let mut value = value.unwrap_or_else(|| Value::Object(Map::new()));
    fill_kind(ty, &mut value);
    finish(value, cx.take_problems(), kind, validation)
}

/// The apiVersion and kind of a body, empty where absent, without decoding the rest.
///
/// # Errors
/// 400 if the body is no JSON object.
pub fn peek(bytes: &[u8]) -> Result<(String, String), Status> {
    #[derive(Deserialize)]
    struct Meta {
        #[serde(rename = "apiVersion", default)]
        api_version: Option<String>,
        #[serde(default)]
        kind: Option<String>,
    }
    let meta: Meta = serde_json::from_slice(bytes).map_err(|e| errors::unrecognized(None, &errors::syntax(bytes, &e), bytes))?;
    Ok((meta.api_version.unwrap_or_default(), meta.kind.unwrap_or_default()))
}

/// Encodes a value.
pub fn encode(value: &Value) -> Vec<u8> {
    // A tree with string keys cannot fail to encode.
    serde_json::to_vec(value).unwrap_or_default()
}
