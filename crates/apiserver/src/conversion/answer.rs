//! What an answer to a ConversionReview says: pure, and told what is wrong in the words of upstream and of Go's decoders.

use crate::{hooks::words, meta};
use machinery::{
    Value,
    field::{ErrorList, Path},
    gvk::Gvk,
    json,
    quote::Quoted,
    tree::{go_type, json_type},
};
use serde_json::json;
use std::{cell::LazyCell, collections::HashSet, ops::Range};

const KIND: &str = "ConversionReview";
/// What is wrong with an object's labels or annotations is told so often at most.
const ERRORS_MAX: usize = 100;

/// The versions of a review.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Review {
    V1,
    V1beta1,
}

impl Review {
    pub(super) fn named(version: &str) -> Option<Review> {
        [Review::V1, Review::V1beta1].into_iter().find(|review| review.short() == version)
    }

    fn short(self) -> &'static str {
        match self {
            Review::V1 => "v1",
            Review::V1beta1 => "v1beta1",
        }
    }

    pub(super) fn api_version(self) -> &'static str {
        match self {
            Review::V1 => "apiextensions.k8s.io/v1",
            Review::V1beta1 => "apiextensions.k8s.io/v1beta1",
        }
    }
}

/// The objects of a review in their order, each with why it does not count; or why none does.
pub(super) type Answered = Result<Vec<Result<Value, String>>, String>;

/// Why none counts, as upstream sorts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// There is no answer that could be read.
    Call,
    /// It is none to the question.
    Malformed,
    /// It holds more or less than was asked for.
    Partial,
}

/// The objects of an answer in their order, or why none counts.
pub(super) type Read = Result<Vec<Result<Value, String>>, (Fault, String)>;

/// What an answer makes of the objects that were sent: each that counts with the metadata of its original.
pub(super) fn read(body: &[u8], review: Review, uid: &str, to: &str, sent: &[Value]) -> Read {
    let about = sent.first().map(kind_of).unwrap_or_default();
    let answer = words::tree(body).map_err(|why| (Fault::Call, why));
    let converted = answer.and_then(|answer| objects(answer, review, uid));
    let converted = converted.map_err(|(fault, why)| (fault, format!("conversion webhook for {about} failed: {why}")))?;
    if converted.len() != sent.len() {
        return Err((Fault::Partial, format!("conversion webhook for {about} returned {} objects, expected {}", converted.len(), sent.len())));
    }
    // Looked for once, whichever of them lack a kind.
    let places = LazyCell::new(|| places(body));
    let checked = sent.iter().zip(converted).enumerate().map(|(at, (original, converted))| {
        checked(original, converted, to).map_err(|wrong| {
            let about = format!("conversion webhook for {} returned invalid", kind_of(original));
            match wrong {
                Wrong::Unread(why) => why,
                Wrong::NoKind(read) => format!("Object 'Kind' is missing in '{}'", places.get(at).and_then(|place| spelled(body, place)).unwrap_or(read)),
                Wrong::Version(why) => format!("{about} object at index 0: {why}"),
                Wrong::Object(why) => format!("{about} object: {why}"),
                Wrong::Metadata(why) => format!("{about} metadata: {why}"),
            }
        })
    });
    Ok(checked.collect())
}

/// Where the objects stand in an answer of JSON.
fn places(body: &[u8]) -> Vec<Range<usize>> {
    const PLACE: [&str; 3] = ["response", "convertedObjects", "*"];
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Vec::new();
    }
    json::spans(body, &PLACE).into_iter().filter(|(depth, _)| *depth == PLACE.len()).map(|(_, place)| place).collect()
}

/// An object as its answer spells it.
fn spelled(body: &[u8], place: &Range<usize>) -> Option<String> {
    Some(String::from_utf8_lossy(body.get(place.clone())?).into_owned())
}

/// The objects that an answer holds. An answer of `v1beta1` is not asked what it is nor to what, as ever.
fn objects(mut answer: Value, review: Review, uid: &str) -> Result<Vec<Value>, (Fault, String)> {
    let malformed = |why: String| Err((Fault::Malformed, why));
    readable_as(&answer, review).map_err(|why| (Fault::Call, why))?;
    let (version, kind) = (answer["apiVersion"].as_str().unwrap_or_default(), answer["kind"].as_str().unwrap_or_default());
    if review == Review::V1 && (version, kind) != (review.api_version(), KIND) {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        return malformed(format!("expected webhook response of {}, Kind={KIND}, got {group}/{version}, Kind={kind}", review.api_version()));
    }
    let Some(response) = answer.get_mut("response").filter(|response| !response.is_null()) else { return malformed("no response provided".into()) };
    let got = response["uid"].as_str().unwrap_or_default();
    if review == Review::V1 && got != uid {
        return malformed(format!("expected response.uid={}, got {}", Quoted(uid), Quoted(got)));
    }
    let result = &response["result"];
    let status = result["status"].as_str().unwrap_or_default();
    if status != "Success" {
        return malformed(match result["message"].as_str() {
            Some(message) if !message.is_empty() => message.to_owned(),
            _ => format!("response.result.status was '{status}', not 'Success'"),
        });
    }
    match response["convertedObjects"].take() {
        Value::Array(objects) => Ok(objects),
        _ => Ok(Vec::new()),
    }
}

/// Whether Go's decoder reads an answer as a review of a version.
fn readable_as(answer: &Value, review: Review) -> Result<(), String> {
    if answer.is_null() {
        return Ok(());
    }
    if !answer.is_object() {
        return Err(words::no_object(answer));
    }
    let (version, kind) = (answer["apiVersion"].as_str().unwrap_or_default(), answer["kind"].as_str().unwrap_or_default());
    let (version, kind) = (if version.is_empty() { review.api_version() } else { version }, if kind.is_empty() { KIND } else { kind });
    let other = [Review::V1, Review::V1beta1].into_iter().find(|known| *known != review && known.api_version() == version);
    let found = match other {
        Some(other) if kind == KIND => Some(format!("{}.{KIND}", other.short())),
        _ if (version, kind) == ("v1", "Status") => Some("v1.Status".to_owned()),
        _ => None,
    };
    if let Some(found) = found {
        return Err(format!("converting ({found}) to ({}.{KIND}): unknown conversion", review.short()));
    }
    if (version, kind) != (review.api_version(), KIND) {
        return Err(words::unregistered(kind, version));
    }
    typed(&answer["response"], review)
}

/// Fields of the wrong type are told as Go's decoder tells them.
fn typed(response: &Value, review: Review) -> Result<(), String> {
    let wrong = |found: &Value, place: &str, ty: &str| Err(format!("json: cannot unmarshal {} into Go struct field {place} of type {ty}", json_type(found)));
    if response.is_null() {
        return Ok(());
    }
    if !response.is_object() {
        return wrong(response, "ConversionReview.response", &format!("{}.ConversionResponse", review.short()));
    }
    for (field, ty) in [("uid", "types.UID"), ("convertedObjects", "[]runtime.RawExtension"), ("result", "v1.Status")] {
        let found = &response[field];
        let fits = match field {
            "uid" => found.is_string(),
            "result" => found.is_object(),
            _ => found.is_array(),
        };
        if !found.is_null() && !fits {
            return wrong(found, &format!("ConversionResponse.response.{field}"), ty);
        }
    }
    Ok(())
}

/// What is wrong with a converted object.
#[derive(Debug, PartialEq)]
enum Wrong {
    Unread(String),
    /// As it was read.
    NoKind(String),
    Version(String),
    Object(String),
    Metadata(String),
}

/// A converted object with the metadata of its original, if it is that object in the version that was asked for.
fn checked(original: &Value, mut converted: Value, to: &str) -> Result<Value, Wrong> {
    if converted.is_null() {
        return Err(Wrong::Unread("unexpected end of JSON input".into()));
    }
    if !converted.is_object() {
        return Err(Wrong::Unread(format!("json: cannot unmarshal {} into Go value of type map[string]interface {{}}", json_type(&converted))));
    }
    let kind = converted["kind"].as_str().unwrap_or_default();
    if kind.is_empty() {
        return Err(Wrong::NoKind(converted.to_string()));
    }
    let got = converted["apiVersion"].as_str().unwrap_or_default();
    if got != to {
        return Err(Wrong::Version(format!("invalid groupVersion (expected {to}, received {got})")));
    }
    let wanted = original["kind"].as_str().unwrap_or_default();
    if kind != wanted {
        return Err(Wrong::Version(format!("invalid kind (expected {wanted}, received {kind})")));
    }
    for (field, called) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
        let (wanted, got) = (meta::text(original, field), meta::text(&converted, field));
        if wanted != got {
            return Err(Wrong::Object(format!("must have the same {called}: {wanted} != {got}")));
        }
    }
    restore(original, &mut converted).map_err(Wrong::Metadata)?;
    Ok(converted)
}

/// Gives a converted object all metadata of its original but labels and annotations.
fn restore(original: &Value, converted: &mut Value) -> Result<(), String> {
    let told = converted.get("metadata").ok_or("missing metadata in converted object")?;
    if !told.is_object() {
        return Err(format!("invalid metadata of type {} in converted object", go_type(told)));
    }
    let mut metadata = match &original["metadata"] {
        present @ Value::Object(_) => present.clone(),
        _ => json!({}),
    };
    for field in ["labels", "annotations"] {
        let texts = match &told[field] {
            Value::Null => {
                if let Some(metadata) = metadata.as_object_mut() {
                    metadata.remove(field);
                }
                continue;
            }
            Value::Object(texts) => texts,
            other => return Err(format!("invalid metadata.{field} of type {} in converted object", go_type(other))),
        };
        if let Some((key, other)) = texts.iter().find(|(_, text)| !text.is_string()) {
            return Err(format!("metadata.{field}[{key}] must be a string, but is {} in converted object", go_type(other)));
        }
        if metadata[field] != told[field] {
            valid(field, &told[field])?;
        }
        metadata[field] = told[field].clone();
    }
    converted["metadata"] = metadata;
    Ok(())
}

/// What is changed must be what a client may write.
fn valid(field: &str, texts: &Value) -> Result<(), String> {
    let (mut errors, path) = (ErrorList::new(), Path::root("metadata"));
    match field {
        "labels" => kinds::validate_labels(texts, &path.child("labels"), &mut errors),
        // Upstream's path names it so.
        _ => kinds::validate_annotations(texts, &path.child("annotation"), &mut errors),
    }
    // Each once, as upstream's aggregate tells them; the webhook chooses how many there are.
    let mut known = HashSet::new();
    let all: Vec<String> = errors.iter().map(ToString::to_string).filter(|error| known.insert(error.clone())).take(ERRORS_MAX).collect();
    match all.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

/// Version and kind as errors name them.
pub(super) fn kind_of(object: &Value) -> String {
    Gvk::parse(object["apiVersion"].as_str().unwrap_or_default(), object["kind"].as_str().unwrap_or_default()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(version: &str) -> Value {
        json!({"apiVersion": format!("a.b/{version}"), "kind": "K", "metadata": {"name": "n", "namespace": "ns", "uid": "u", "generation": 3, "labels": {"a": "b"}}})
    }

    #[test]
    fn only_labels_and_annotations_are_taken_of_the_metadata() {
        let original = object("v1");
        let mut told = object("v2");
        told["metadata"]["generation"] = 9.into();
        told["metadata"]["labels"] = json!({"c": "d"});
        told["metadata"]["annotations"] = json!({"e": "f"});
        let got = checked(&original, told.clone(), "a.b/v2").unwrap();
        assert_eq!(got["metadata"], json!({"name": "n", "namespace": "ns", "uid": "u", "generation": 3, "labels": {"c": "d"}, "annotations": {"e": "f"}}));
        told["metadata"].as_object_mut().unwrap().remove("labels");
        assert!(checked(&original, told, "a.b/v2").unwrap()["metadata"].get("labels").is_none());
    }

    /// As the original told it of the same answers.
    #[test]
    fn an_object_that_is_not_the_one_that_was_sent_does_not_count() {
        let about = "conversion webhook for a.b/v1, Kind=K returned invalid";
        let label = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
        let key = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
        let cases = [
            ("/apiVersion", json!("a.b/v3"), format!("{about} object at index 0: invalid groupVersion (expected a.b/v2, received a.b/v3)")),
            ("/kind", json!("L"), format!("{about} object at index 0: invalid kind (expected K, received L)")),
            ("/metadata/name", json!("m"), format!("{about} object: must have the same name: n != m")),
            ("/metadata/namespace", json!(""), format!("{about} object: must have the same namespace: ns != ")),
            ("/metadata/uid", json!("v"), format!("{about} object: must have the same UID: u != v")),
            ("/metadata", json!("x"), format!("{about} object: must have the same name: n != ")),
            ("/metadata/labels", json!("x"), format!("{about} metadata: invalid metadata.labels of type string in converted object")),
            ("/metadata/labels", json!({"a": 1}), format!("{about} metadata: metadata.labels[a] must be a string, but is int64 in converted object")),
            ("/metadata/labels", json!({"a": "not a value"}), format!("{about} metadata: metadata.labels: Invalid value: \"not a value\": {label}")),
            (
                "/metadata/labels",
                json!({"a b": "not a value"}),
                format!("{about} metadata: [metadata.labels: Invalid value: \"a b\": {key}, metadata.labels: Invalid value: \"not a value\": {label}]"),
            ),
            ("/metadata/annotations", json!({"a b": "x"}), format!("{about} metadata: metadata.annotation: Invalid value: \"a b\": {key}")),
            ("", json!(null), "unexpected end of JSON input".to_owned()),
            ("", json!("x"), "json: cannot unmarshal string into Go value of type map[string]interface {}".to_owned()),
            ("", json!({}), "Object 'Kind' is missing in '{}'".to_owned()),
        ];
        for (place, change, expected) in cases {
            let mut told = object("v2");
            told["metadata"]["annotations"] = Value::Null;
            *told.pointer_mut(place).unwrap() = change;
            let answer = json!({"kind": KIND, "apiVersion": "apiextensions.k8s.io/v1", "response": {"uid": "u", "result": {"status": "Success"}, "convertedObjects": [told]}});
            let got = read(answer.to_string().as_bytes(), Review::V1, "u", "a.b/v2", &[object("v1")]);
            assert_eq!(got, Ok(vec![Err(expected)]), "{place}");
        }
        let answer = format!(
            r#" {{"kind": "{KIND}", "apiVersion": "apiextensions.k8s.io/v1", "response": {{"convertedObjects": [{}, {{ "b": 1.0,"a":[] }}], "uid": "u", "result": {{"status": "Success"}}}}}}"#,
            object("v2")
        );
        let got = read(answer.as_bytes(), Review::V1, "u", "a.b/v2", &[object("v1"), object("v1")]).expect("an answer");
        assert_eq!(got.into_iter().nth(1), Some(Err(r#"Object 'Kind' is missing in '{ "b": 1.0,"a":[] }'"#.to_owned())), "as the webhook spells it");
    }

    /// As the original told it of the same answers.
    #[test]
    fn an_answer_is_to_the_question() {
        let good = json!({"kind": KIND, "apiVersion": "apiextensions.k8s.io/v1", "response": {"uid": "u", "result": {"status": "Success"}, "convertedObjects": [object("v2")]}});
        let read = |answer: &str, review| read(answer.as_bytes(), review, "u", "a.b/v2", &[object("v1")]);
        let got = |answer: &str, review| read(answer, review).map_err(|(_, why)| why);
        let fault = |answer: &str| read(answer, Review::V1).err().map(|(fault, _)| fault);
        assert_eq!(got(&good.to_string(), Review::V1), Ok(vec![Ok(object("v2"))]));
        let expected = "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got /, Kind=";
        let no_object = |found: &str| {
            format!(
                "couldn't get version/kind; json parse error: json: cannot unmarshal {found} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}"
            )
        };
        let with = |place: &str, change: Value| {
            let mut answer = good.clone();
            *answer.pointer_mut(place).unwrap() = change;
            answer.to_string()
        };
        let failed = [
            (with("/response", Value::Null), "no response provided".to_owned()),
            (
                with("/response", json!("x")),
                "json: cannot unmarshal string into Go struct field ConversionReview.response of type v1.ConversionResponse".into(),
            ),
            (with("/response", json!({})), r#"expected response.uid="u", got """#.into()),
            (with("/response/uid", json!("another")), r#"expected response.uid="u", got "another""#.into()),
            (with("/response/uid", json!(1)), "json: cannot unmarshal number into Go struct field ConversionResponse.response.uid of type types.UID".into()),
            (
                with("/response/result", json!("x")),
                "json: cannot unmarshal string into Go struct field ConversionResponse.response.result of type v1.Status".into(),
            ),
            (
                with("/response/convertedObjects", json!({})),
                "json: cannot unmarshal object into Go struct field ConversionResponse.response.convertedObjects of type []runtime.RawExtension".into(),
            ),
            (with("/response/result", json!({"status": "Failed", "message": "no"})), "no".into()),
            (with("/response/result", json!({"status": "Failed"})), "response.result.status was 'Failed', not 'Success'".into()),
            (with("/response/result", Value::Null), "response.result.status was '', not 'Success'".into()),
            (
                with("/apiVersion", json!("apiextensions.k8s.io/v1beta1")),
                "converting (v1beta1.ConversionReview) to (v1.ConversionReview): unknown conversion".into(),
            ),
            (
                with("/apiVersion", json!("apiextensions.k8s.io/v2")),
                "no kind \"ConversionReview\" is registered for version \"apiextensions.k8s.io/v2\" in scheme \"pkg/runtime/scheme.go:111\"".into(),
            ),
            (r#"{"kind":"Pod","apiVersion":"v1"}"#.into(), "no kind \"Pod\" is registered for version \"v1\" in scheme \"pkg/runtime/scheme.go:111\"".into()),
            (
                r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"m"}"#.into(),
                "converting (v1.Status) to (v1.ConversionReview): unknown conversion".into(),
            ),
            ("{}".into(), expected.into()),
            ("null".into(), expected.into()),
            ("[]".into(), no_object("array")),
            ("hello".into(), no_object("string")),
            (good.to_string().trim_end_matches('}').into(), "couldn't get version/kind; json parse error: unexpected end of JSON input".into()),
        ];
        for (answer, why) in failed {
            assert_eq!(got(&answer, Review::V1), Err(format!("conversion webhook for a.b/v1, Kind=K failed: {why}")), "{answer}");
        }
        assert_eq!((fault("hello"), fault(&with("/response", Value::Null))), (Some(Fault::Call), Some(Fault::Malformed)));
        assert_eq!(fault(&with("/response/uid", json!(1))), Some(Fault::Call), "it cannot be read");
        let none = with("/response/convertedObjects", json!([]));
        assert_eq!(fault(&none), Some(Fault::Partial));
        assert_eq!(got(&none, Review::V1), Err("conversion webhook for a.b/v1, Kind=K returned 0 objects, expected 1".into()));
        for answer in [with("/response/uid", json!("another")), good.to_string()] {
            let answer = answer.replace("apiextensions.k8s.io/v1", "apiextensions.k8s.io/v1beta1");
            assert_eq!(got(&answer, Review::V1beta1), Ok(vec![Ok(object("v2"))]), "not asked in v1beta1");
        }
    }
}
