//! JSON: decoding guided by the schema, in one pass, with upstream's strictness and wording; and encoding.
//!
//! Decoding does to a value what Go's decoding into a typed object and encoding it again would do: unknown fields are
//! dropped (and reported), `null` is absent, zero values that Go leaves out (`omitempty` without a pointer) are left out,
//! quantities and times are written in canonical form, base64 is checked, and a wrong JSON type is an error that names the
//! Go type. So two spellings of the same object are equal values afterwards.
//!
//! What is nested deeper than `serde_json` reads is read by [`deep`]; [`read`] is the reader for all that holds objects.
//!
//! The path of the present value is a chain of stack frames ([`path::Node`]), so that a well-formed body costs no path at all.

pub(crate) mod amounts;
mod blanks;
pub(crate) mod bounds;
mod deep;
mod errors;
mod escapes;
mod natural;
mod path;
mod scalar;
mod seed;
#[cfg(test)]
mod tests;
mod texts;
pub(crate) mod write;

pub use blanks::Blanks;
pub use deep::spans;
pub(crate) use deep::{after_string, level_too_many, members};
pub(crate) use errors::TYPE_META;
pub use scalar::{base64, in_base64};
pub use texts::Texts;
pub(crate) use texts::compact;
pub use write::{Indent, encode};

use crate::{
    Map, Value,
    gvk::Gvk,
    schema::TypeRef,
    status::Status,
    yaml::compose::{self, Document, compose},
};
pub use bounds::DEPTH_MAX;
use bounds::{PROBLEMS_LIMIT, fits};
use path::Node;
use seed::{AnySeed, Context, Seed};
use serde::{Deserialize, Deserializer, de::DeserializeSeed};
use std::borrow::Cow;
use write::Writer;

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
    /// What it has that is empty, where the object goes without.
    pub blanks: Blanks,
}

/// Bytes of the stack of every thread that may hold a value, so that it can be walked and dropped at its deepest: a level
/// takes some hundred bytes to drop and up to some thousand to decode (without optimisation, where a test tries all walks).
/// It is address space; memory is what is used.
pub const STACK_BYTES: usize = 64 << 20;

/// How deep a value may be nested that is read by the fields of its types, which takes each level out of the one around it.
const BY_FIELDS_DEPTH_MAX: usize = 40;

/// Reads JSON that holds objects, as deep as any body may be, and what lists and events put around them.
///
/// # Errors
/// As `serde_json`.
pub fn read(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(bytes).or_else(|error| if deep::is_too_deep(&error) { deep::read(bytes) } else { Err(error) })
}

/// Whether a value is nested no deeper than is read again of what was written of it.
pub fn is_readable(value: &Value) -> bool {
    fits(value, DEPTH_MAX)
}

/// Decodes a body of a kind, or any JSON if `ty` is `None`. The nesting is limited to [`DEPTH_MAX`] levels.
///
/// # Errors
/// 400 in upstream's wording: bad syntax, a wrong type, or (strict) unknown and duplicate fields.
pub fn decode(bytes: &[u8], ty: Option<TypeRef<'_>>, validation: Validation) -> Result<Decoded, Status> {
    let kind = ty.and_then(TypeRef::gvk);
    let (mut cx, mut outcome) = parse_zeros(bytes, ty, validation != Validation::Ignore);
    // The levels of what was read past count as well.
    if outcome.is_ok()
        && cx.has_skipped()
        && let Some(bracket) = level_too_many(bytes, DEPTH_MAX).and_then(|at| bytes.get(at))
    {
        return Err(errors::unrecognized(kind, &errors::too_deep(char::from(*bracket)), bytes));
    }
    if let Err(error) = &outcome {
        let deep = deep::is_too_deep(error);
        // What is no JSON at all is told before what its type cannot hold.
        match deep::reader(bytes, DEPTH_MAX) {
            Ok(mut reader) if deep => {
                cx = Context::new(validation != Validation::Ignore, PROBLEMS_LIMIT);
                outcome = parse_with(&mut reader, ty, &cx);
            }
            Ok(_) => {}
            Err(deep::Wrong::Syntax(error)) => {
                if cx.take_failure().is_some() || deep {
                    outcome = Err(error);
                }
            }
            Err(deep::Wrong::Depth(bracket)) => return Err(errors::unrecognized(kind, &errors::too_deep(bracket), bytes)),
        }
    }
    let mut value = match outcome {
        Ok(value) => value,
        Err(error) => {
            let is_object = bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{');
            if let Some(met) = cx.take_failure() {
                if !is_object {
                    return Err(errors::unrecognized_type(kind, bytes));
                }
                // A custom object is read as one before its metadata is.
                let says = |tree: &Value| ["apiVersion", "kind"].iter().all(|key| tree[key].is_null() || tree[key].is_string());
                if ty.is_some_and(|ty| ty.schema.is_lenient())
                    && let Ok(tree) = read(bytes)
                    && says(&tree)
                {
                    expect_kind(kind, &tree, Sent { json: bytes.trim_ascii(), body: bytes }, validation)?;
                }
                return Err(errors::cannot_be_handled(kind, &first_wrong(bytes, ty, &cx, met)));
            }
            return match escapes::mended(bytes, &error) {
                Some(mended) => decode(&mended, ty, validation),
                None => Err(errors::unreadable(kind, bytes, &error)),
            };
        }
    };
    if ty.is_some_and(|ty| ty.schema.is_lenient()) {
        expect_kind(kind, &value, Sent { json: bytes.trim_ascii(), body: bytes }, validation)?;
    }
    fill_kind(ty, &mut value);
    finish(value, ty, &cx, validation)
}

/// What is told of a body in which a value of a wrong type was met: the first, and in a custom object's metadata the first by name.
fn first_wrong(bytes: &[u8], ty: Option<TypeRef<'_>>, cx: &Context, met: String) -> String {
    let again = Context::new(false, 0).by_names();
    let is_lenient = ty.is_some_and(|ty| ty.schema.is_lenient());
    let told = if is_lenient { parse(bytes, ty, &again).err().and_then(|_| again.take_failure()) } else { None };
    match told {
        Some(told) => errors::as_spelled(told, again.last_float(), bytes),
        None => errors::as_spelled(met, cx.last_float(), bytes),
    }
}

/// As [`parse`], with what was noted. The parser does not tell `-0`, which is a whole number, from `-0.0`, which is none: where that matters
/// it reads once more.
fn parse_zeros(bytes: &[u8], ty: Option<TypeRef<'_>>, notes: bool) -> (Context, Result<Value, serde_json::Error>) {
    let cx = Context::new(notes, PROBLEMS_LIMIT);
    let outcome = parse(bytes, ty, &cx);
    if outcome.is_err() || !cx.has_minus_zero() || !errors::has_float_zero(bytes) {
        return (cx, outcome);
    }
    let cx = Context::new(notes, PROBLEMS_LIMIT).refusing_minus_zero();
    let outcome = parse(bytes, ty, &cx);
    (cx, outcome)
}

fn parse(bytes: &[u8], ty: Option<TypeRef<'_>>, cx: &Context) -> Result<Value, serde_json::Error> {
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    let mut value = parse_with(&mut parser, ty, cx)?;
    parser.end()?;
    if let Some(ty) = ty.filter(|_| cx.last_float().is_some()) {
        amounts::respell(bytes, ty, &mut value);
    }
    Ok(value)
}

fn parse_with<'de, D: Deserializer<'de>>(parser: D, ty: Option<TypeRef<'_>>, cx: &Context) -> Result<Value, D::Error> {
    match ty {
        Some(ty) => Seed::read(ty, cx, parser).map(|v| v.unwrap_or_else(|| Value::Object(Map::new()))),
        None => AnySeed { at: &Node::ROOT, cx }.deserialize(parser),
    }
}

/// Sets apiVersion and kind where the body left them out and the type has them: the request's path has named them.
fn fill_kind(ty: Option<TypeRef<'_>>, value: &mut Value) {
    if let (Some(ty), Value::Object(map)) = (ty.filter(|ty| !ty.schema.is_lenient()), value)
        && let (Some(gvk), Some(_)) = (ty.gvk(), ty.field("kind"))
    {
        map.entry("kind").or_insert_with(|| Value::String(gvk.kind.clone()));
        map.entry("apiVersion").or_insert_with(|| Value::String(gvk.api_version()));
    }
}

/// A body as it was sent, and as JSON.
#[derive(Clone, Copy)]
struct Sent<'b> {
    json: &'b [u8],
    body: &'b [u8],
}

/// The body of a custom object says of what kind it is: the path does not say it for it.
fn expect_kind(kind: Option<&Gvk>, value: &Value, sent: Sent<'_>, validation: Validation) -> Result<(), Status> {
    if !value.is_object() && !value.is_null() {
        return Err(errors::unrecognized_type(kind, sent.body));
    }
    if !value["kind"].as_str().unwrap_or_default().is_empty() {
        return Ok(());
    }
    let missing = |shown: &[u8]| format!("Object 'Kind' is missing in '{}'", String::from_utf8_lossy(shown));
    if validation != Validation::Ignore {
        return Err(errors::no_object(kind, &missing(sent.body), sent.body));
    }
    // Upstream's lenient reader finds it in another place, where the path has already said what is not said.
    let said = Gvk::parse(value["apiVersion"].as_str().unwrap_or_default(), "");
    let version = if said.group.is_empty() && said.version.is_empty() { kind.map(|kind| kind.version.clone()).unwrap_or_default() } else { said.version };
    let told = kind.map(|kind| Gvk { version, ..kind.clone() });
    Err(errors::cannot_be_handled(told.as_ref(), &missing(sent.json)))
}

/// What was found in a custom object, as the original tells it: what is there twice, what metadata does not know, then all else, both
/// by name, the metadata of resources within it last. Of a built-in type it is told as it was met.
fn in_order(ty: Option<TypeRef<'_>>, mut problems: Vec<String>) -> Vec<String> {
    if ty.is_some_and(|ty| ty.schema.is_lenient()) {
        let rank = |problem: &str| match problem.strip_prefix("unknown field \"") {
            None => 0,
            Some(field) if field.starts_with("metadata.") => 1,
            // Of resources within it the metadata is looked at last.
            Some(field) if field.contains(".metadata.") => 3,
            Some(_) => 2,
        };
        problems.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| if rank(a) >= 1 { a.cmp(b) } else { std::cmp::Ordering::Equal }));
    }
    problems
}

/// Applies the validation mode to what was found.
fn finish(value: Value, ty: Option<TypeRef<'_>>, cx: &Context, validation: Validation) -> Result<Decoded, Status> {
    let problems = in_order(ty, cx.take_problems());
    let decoded = |warnings| Decoded { value, warnings, blanks: cx.take_blanks() };
    match validation {
        Validation::Strict if !problems.is_empty() => Err(strictly(ty.and_then(TypeRef::gvk), &problems)),
        Validation::Warn => Ok(decoded(problems)),
        _ => Ok(decoded(Vec::new())),
    }
}

/// The error of a body in which a strict reader has found something.
pub fn strictly(kind: Option<&crate::gvk::Gvk>, problems: &[String]) -> Status {
    errors::cannot_be_handled(kind, &format!("strict decoding error: {}", problems.join(", ")))
}

/// What is wrong with bytes that hold a number beyond all floats: that number.
pub(crate) fn out_of_range(bytes: &[u8]) -> Option<String> {
    let error = serde_json::from_slice::<Value>(bytes).err()?;
    errors::out_of_range(bytes, &error)
}

/// Runs a parsed tree through the same decoding: for what a patch has made.
///
/// # Errors
/// As [`decode`].
pub fn normalize(value: Value, ty: TypeRef<'_>, validation: Validation) -> Result<Decoded, Status> {
    decode_tree(value, Some(ty), validation, Vec::new())
}

/// The tree as Go would write it, without its unknown fields, and what a strict decoding would refuse.
///
/// # Errors
/// A value that its type cannot hold, as Go's decoder words it.
pub fn canonical(value: Value, ty: TypeRef<'_>) -> Result<Decoded, String> {
    canonical_by(value, ty, Context::new(true, PROBLEMS_LIMIT))
}

/// What [`canonical`] has to say of a tree, as it is told of a text of it: in the order of the text, with its numbers. None if the reader has
/// nothing to say but that it cannot read on.
pub(crate) fn canonical_text(bytes: &[u8], ty: TypeRef<'_>) -> Option<Result<Vec<String>, String>> {
    let (cx, outcome) = parse_zeros(bytes, Some(ty), true);
    match outcome {
        Ok(_) => Some(Ok(in_order(Some(ty), cx.take_problems()))),
        Err(_) => cx.take_failure().map(|why| Err(first_wrong(bytes, Some(ty), &cx, why))),
    }
}

/// As [`canonical`], of what upstream makes from maps and not from JSON: a whole number may be spelled as a float there, what is wrong first is
/// so in the order of Go's fields, and unknown fields are told in that of their names.
///
/// # Errors
/// A value that its type cannot hold, as Go's converter words it.
pub fn from_maps(value: &Value, ty: TypeRef<'_>) -> Result<Decoded, String> {
    let cx = || Context::new(true, PROBLEMS_LIMIT).of_maps();
    let is_lenient = ty.schema.is_lenient();
    let mut decoded = canonical_by(value.clone(), ty, cx()).map_err(|why| {
        if is_lenient || !fits(value, BY_FIELDS_DEPTH_MAX) {
            return why;
        }
        let cx = cx().by_fields();
        let first = Seed::read(ty, &cx, value.clone()).err().and_then(|_| cx.take_failure());
        first.unwrap_or(why)
    })?;
    if !is_lenient {
        decoded.warnings.sort();
    }
    Ok(decoded)
}

fn canonical_by(value: Value, ty: TypeRef<'_>, cx: Context) -> Result<Decoded, String> {
    let outcome = Seed::read(ty, &cx, value);
    let value = outcome.map_err(|e| cx.take_failure().unwrap_or_else(|| e.to_string()))?;
    let mut value = value.unwrap_or_else(|| Value::Object(Map::new()));
    fill_kind(Some(ty), &mut value);
    Ok(Decoded { value, warnings: cx.take_problems(), blanks: cx.take_blanks() })
}

/// An apply configuration as it was sent: zeros and nulls stay in it, and fields that there are not, since
/// [`crate::apply::apply`] judges it.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// The configuration.
    pub value: Value,
    /// Keys that are there twice, told as YAML's, by their lines, in JSON too: upstream reads both with one parser.
    pub repeats: Vec<String>,
}

impl Applied {
    /// The error of keys that are there twice. Upstream looks for them after the apply has succeeded.
    ///
    /// # Errors
    /// 400 if there are any.
    pub fn refuse_repeats(&self) -> Result<(), Status> {
        match self.repeats.as_slice() {
            [] => Ok(()),
            lines => Err(Status::bad_request(format!("error strict decoding patch: error converting YAML to JSON: {}", compose::repeats(lines)))),
        }
    }
}

/// Reads an apply configuration, YAML or JSON.
///
/// # Errors
/// 400 for what is neither, or no object.
pub fn parse_applied(bytes: &[u8]) -> Result<Applied, Status> {
    // What begins as JSON does is left as it is by the first of two readers, which makes JSON for the audit.
    let is_json = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    let where_ = if is_json { "error decoding patch: error converting YAML to JSON" } else { "error encoding patch" };
    let refused = |why: &str| Status::bad_request(format!("{where_}: {}", crate::yaml::worded(why)));
    let Document { value, repeats } = document(bytes).map_err(|why| refused(&why))?;
    match value {
        Value::Object(_) => Ok(Applied { value, repeats }),
        // Go leaves a map as it is for null.
        Value::Null => Ok(Applied { value: Value::Object(Map::new()), repeats }),
        other => {
            let found = crate::tree::json_type(&other);
            Err(Status::bad_request(format!(
                "error decoding patch: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {found} into Go value of type map[string]interface {{}}"
            )))
        }
    }
}

/// Reads the first document of YAML. Its flow style looks like JSON, and what is JSON is read as such, since that goes deeper; but
/// only YAML's parser tells the lines of keys that are there twice. The error is go-yaml's without its `yaml: `.
pub(crate) fn document(bytes: &[u8]) -> Result<Document, String> {
    let is_json = bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{');
    if is_json && let Some(mut value) = plain_tree(bytes).map_err(|()| bounds::too_deep())? {
        // As what is read by way of YAML.
        crate::numerals::reread_all(&mut value);
        return Ok(Document { value, repeats: Vec::new() });
    }
    let text = match crate::yaml::utf16(bytes) {
        Some(text) => Cow::Owned(text?),
        None => Cow::Borrowed(std::str::from_utf8(bytes).map_err(|error| not_utf8(bytes, &error))?),
    };
    // go-yaml's reader refuses them before its parser sees anything.
    if text.chars().any(|c| c.is_ascii_control() && !matches!(c, '\t' | '\n' | '\r')) {
        return Err("control characters are not allowed".to_owned());
    }
    compose(&text)
}

/// What is wrong with text in go-yaml's words.
fn not_utf8(bytes: &[u8], error: &std::str::Utf8Error) -> &'static str {
    match (error.error_len(), bytes.get(error.valid_up_to())) {
        (None, _) => "incomplete UTF-8 octet sequence",
        (Some(_), Some(0x80..=0xbf | 0xf8..)) => "invalid leading UTF-8 octet",
        _ => "invalid trailing UTF-8 octet",
    }
}

/// A tree without types from JSON in which no key is there twice; none if it is anything else. The error is that it is too deep.
fn plain_tree(bytes: &[u8]) -> Result<Option<Value>, ()> {
    let cx = Context::new(false, PROBLEMS_LIMIT);
    let mut outcome = parse(bytes, None, &cx);
    if outcome.as_ref().is_err_and(deep::is_too_deep) {
        outcome = match deep::reader(bytes, DEPTH_MAX) {
            Ok(mut reader) => parse_with(&mut reader, None, &cx),
            Err(deep::Wrong::Syntax(error)) => Err(error),
            Err(deep::Wrong::Depth(_)) => return Err(()),
        };
    }
    Ok(outcome.ok().filter(|_| !cx.repeats()))
}

/// The error of a body that is no YAML.
pub(crate) fn unrecognized_yaml(ty: TypeRef<'_>, why: &str, bytes: &[u8]) -> Status {
    errors::no_object(ty.gvk(), &crate::yaml::worded(why), bytes)
}

/// Why a text is no JSON, in the words of Go's decoder; none if it is some.
pub fn syntax_error(bytes: &[u8]) -> Option<String> {
    let error = serde_json::from_slice::<serde::de::IgnoredAny>(bytes).err()?;
    Some(errors::syntax(bytes, &error))
}

/// The error of a body of which cannot be told what it is.
pub fn unrecognized(kind: &crate::gvk::Gvk, why: &str, bytes: &[u8]) -> Status {
    errors::no_object(Some(kind), why, bytes)
}

/// The error of a body that is YAML and no object.
pub(crate) fn unrecognized_tree(ty: TypeRef<'_>, tree: &Value, bytes: &[u8]) -> Status {
    errors::unrecognized_as(ty.gvk(), crate::tree::json_type(tree), bytes)
}

/// Decodes what the YAML parser has read.
pub(crate) fn decode_document(document: Document, bytes: &[u8], ty: Option<TypeRef<'_>>, validation: Validation) -> Result<Decoded, Status> {
    let known = match validation {
        Validation::Ignore => Vec::new(),
        Validation::Warn => document.repeats,
        Validation::Strict if document.repeats.is_empty() => Vec::new(),
        Validation::Strict => vec![compose::repeats(&document.repeats)],
    };
    if let Some(ty) = ty.filter(|ty| ty.schema.is_lenient()) {
        expect_kind(ty.gvk(), &document.value, Sent { json: &encode(&document.value), body: bytes }, validation)?;
    }
    decode_tree(document.value, ty, validation, known)
}

/// Decodes a parsed tree; `known` is what is wrong with it already.
fn decode_tree(tree: Value, ty: Option<TypeRef<'_>>, validation: Validation, known: Vec<String>) -> Result<Decoded, Status> {
    let cx = Context::new(validation != Validation::Ignore, PROBLEMS_LIMIT).knowing(known);
    let kind = ty.and_then(TypeRef::gvk);
    let mut value = match ty {
        None => tree,
        Some(ty) => {
            let outcome = Seed::read(ty, &cx, tree);
            let value: Option<Value> = outcome.map_err(|e| errors::cannot_be_handled(kind, &cx.take_failure().unwrap_or_else(|| e.to_string())))?;
            value.unwrap_or_else(|| Value::Object(Map::new()))
        }
    };
    fill_kind(ty, &mut value);
    finish(value, ty, &cx, validation)
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
    let meta: Meta = match serde_json::from_slice(bytes) {
        Ok(meta) => meta,
        Err(error) => {
            return match escapes::mended(bytes, &error) {
                Some(mended) => peek(&mended),
                None => Err(errors::unrecognized(None, &errors::syntax(bytes, &error), bytes)),
            };
        }
    };
    Ok((meta.api_version.unwrap_or_default(), meta.kind.unwrap_or_default()))
}

/// Encodes a value as the original would: the fields of a built-in type in the order of its Go type, all else sorted.
pub fn encode_as(ty: Option<TypeRef<'_>>, value: &Value) -> Vec<u8> {
    encode_spelled(ty, value, Texts::NONE)
}

/// As [`encode_as`], with free-form values in their texts.
pub fn encode_spelled(ty: Option<TypeRef<'_>>, value: &Value, texts: &Texts) -> Vec<u8> {
    let mut writer = Writer::new(1024).spelled(texts);
    writer.value(ty, value);
    writer.finish()
}

/// Encodes a value with its keys as YAML sorts them.
pub(crate) fn encode_for_yaml(value: &Value) -> Vec<u8> {
    let mut writer = Writer::for_yaml();
    writer.value(None, value);
    writer.finish()
}

/// Encodes an object that has a resourceVersion with an empty one and free-form values in their texts, spaces and all, and tells
/// where the digits go.
pub fn encode_with_hole(ty: Option<TypeRef<'_>>, value: &Value, texts: &Texts) -> (Vec<u8>, usize) {
    let mut writer = Writer::new(1024).sent(texts);
    let empty = Map::new();
    let hole = writer.with_hole(ty, value.as_object().unwrap_or(&empty));
    (writer.finish(), hole)
}

/// Indents an encoded value.
pub fn indented(compact: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Indent::default().push(compact, &mut out);
    out
}
