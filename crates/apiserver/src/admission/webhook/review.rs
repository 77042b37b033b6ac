//! The AdmissionReview: what a webhook is told, and what of its answer counts (upstream's `webhook/request`).

use super::{
    super::attributes::{Attributes, Version},
    plain,
};
use crate::{gate::webhooks::Review, hooks::words, registry::UNVERSIONED};
use bytes::Bytes;
use machinery::{Value, json, quote::Quoted, tree::json_type};
use parking_lot::Mutex;
use std::{ops::Range, sync::Arc};

const GROUP: &str = "admission.k8s.io";
/// Bytes of a review beside its objects, for most.
const HEAD_BYTES: usize = 1024;

/// What a webhook has answered.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) allowed: bool,
    /// A JSON patch; empty for none.
    pub(super) patch: Vec<u8>,
    pub(super) patch_type: String,
    /// A Status, or null.
    pub(super) result: Value,
    pub(super) warnings: Vec<String>,
}

fn name_of(review: Review) -> &'static str {
    match review {
        Review::V1 => "admission.k8s.io/v1",
        Review::V1beta1 => "admission.k8s.io/v1beta1",
    }
}

/// The bodies of requests about one state of a write's objects. Two of them differ by their UID alone where webhooks want the same
/// review and version, so the rest is written once.
#[derive(Default)]
pub(super) struct Forms(Mutex<Vec<Form>>);

struct Form {
    review: Review,
    version: Arc<Version>,
    /// The body of the first request, and where its UID stands.
    first: Bytes,
    uid: Range<usize>,
}

impl Forms {
    /// A request's body.
    pub(super) fn body(&self, asked: &Attributes<'_>, version: &Arc<Version>, review: Review, uid: &str, object: &Value, old: &Value) -> Bytes {
        let mut forms = self.0.lock();
        let same = |other: &Arc<Version>| Arc::ptr_eq(other, version) || other.is_same(version);
        if let Some(form) = forms.iter().find(|form| form.review == review && same(&form.version)) {
            return [&form.first[..form.uid.start], uid.as_bytes(), &form.first[form.uid.end..]].concat().into();
        }
        let (body, at) = request(asked, version, review, uid, object, old);
        let body = Bytes::from(body);
        forms.push(Form { review, version: Arc::clone(version), first: body.clone(), uid: at..at + uid.len() });
        body
    }
}

/// The request's body, and where in it the UID stands. Objects are written as they are answered, in the order of Go's fields.
fn request(asked: &Attributes<'_>, version: &Version, review: Review, uid: &str, object: &Value, old: &Value) -> (Vec<u8>, usize) {
    let ty = asked.ty(version);
    let objects = [("object", object), ("oldObject", old)].map(|(field, value)| (field, json::encode_as(ty.filter(|_| !value.is_null()), value)));
    let mut out = Vec::with_capacity(HEAD_BYTES + objects.iter().map(|(_, text)| text.len()).sum::<usize>());
    out.extend_from_slice(b"{\"kind\":\"AdmissionReview\",\"apiVersion\":\"");
    out.extend_from_slice(name_of(review).as_bytes());
    out.extend_from_slice(b"\",\"request\":{\"uid\":\"");
    let at = out.len();
    out.extend_from_slice(uid.as_bytes());
    out.extend_from_slice(b"\",");
    let head = asked.request(version).to_json();
    // What is between its braces.
    out.extend_from_slice(head.get(1..head.len().saturating_sub(1)).unwrap_or_default());
    for (field, text) in objects {
        out.extend_from_slice(b",\"");
        out.extend_from_slice(field.as_bytes());
        out.extend_from_slice(b"\":");
        out.extend_from_slice(&text);
    }
    out.extend_from_slice(b"}}");
    (out, at)
}

/// What an answer says, if it is one to this question; else why it does not count.
pub(super) fn verdict(body: &[u8], review: Review, uid: &str, mutating: bool) -> Result<Verdict, Refused> {
    let plain = if review == Review::V1 { plain::yes(body, uid, mutating) } else { None };
    plain.map_or_else(|| judged(body, review, uid, mutating), Ok)
}

/// The same of any answer, by its tree.
pub(super) fn judged(body: &[u8], review: Review, uid: &str, mutating: bool) -> Result<Verdict, Refused> {
    let value = words::tree(body).map_err(Refused::Unread)?;
    kind_of(&value, review)?;
    let response = &value["response"];
    if response.is_null() {
        return Err(Refused::Invalid("webhook response was absent".into()));
    }
    check_types(&value, short(name_of(review)))?;
    let text = |field: &str| response[field].as_str().unwrap_or_default();
    if review == Review::V1 {
        if text("uid") != uid {
            return Err(Refused::Invalid(format!("expected response.uid={uid:?}, got {}", Quoted(text("uid")))));
        }
        let (version, kind) = (value["apiVersion"].as_str().unwrap_or_default(), value["kind"].as_str().unwrap_or_default());
        if version != name_of(review) || kind != "AdmissionReview" {
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            return Err(Refused::Invalid(format!("expected webhook response of {GROUP}/v1, Kind=AdmissionReview, got {group}/{version}, Kind={kind}")));
        }
    }
    let patch = json::base64(text("patch")).map_err(Refused::Unread)?;
    let patch_type = response["patchType"].as_str();
    let patch_type = match (review, mutating) {
        (Review::V1, true) => paired(&patch, patch_type).map_err(Refused::Invalid)?,
        (Review::V1, false) if !patch.is_empty() => return Err(Refused::Invalid("validating webhook may not return response.patch".into())),
        (Review::V1, false) if patch_type.is_some() => return Err(Refused::Invalid("validating webhook may not return response.patchType".into())),
        (Review::V1, false) => "",
        // The older review pins what it does not check.
        (Review::V1beta1, _) => "JSONPatch",
    };
    let warnings = response["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    Ok(Verdict {
        allowed: response["allowed"] == true,
        patch_type: patch_type.to_owned(),
        patch: if mutating { patch } else { Vec::new() },
        result: response["status"].clone(),
        warnings,
    })
}

/// Why an answer does not count.
#[derive(Debug, PartialEq)]
pub(super) enum Refused {
    /// It cannot be read at all.
    Unread(String),
    /// It is no answer to the question.
    Invalid(String),
}

fn paired<'t>(patch: &[u8], patch_type: Option<&'t str>) -> Result<&'t str, String> {
    match (patch.is_empty(), patch_type) {
        (false, None) => Err("webhook returned response.patch but not response.patchType".into()),
        (true, Some(_)) => Err("webhook returned response.patchType but not response.patch".into()),
        (false, Some("")) => Err("webhook returned invalid response.patchType of \"\"".into()),
        (_, found) => Ok(found.unwrap_or_default()),
    }
}

/// The kinds that an answer may be read as.
fn kind_of(value: &Value, review: Review) -> Result<(), Refused> {
    let unread = |why: String| Err(Refused::Unread(why));
    if value.is_null() {
        return Ok(());
    }
    if !value.is_object() {
        return unread(words::no_object(value));
    }
    if let Some(why) = words::untold(value) {
        return unread(why);
    }
    let (version, kind) = (value["apiVersion"].as_str().unwrap_or_default(), value["kind"].as_str().unwrap_or_default());
    if (version.is_empty() || version == name_of(review)) && (kind.is_empty() || kind == "AdmissionReview") {
        return Ok(());
    }
    if UNVERSIONED.contains(&kind) {
        return unread(format!("converting (v1.{kind}) to ({}.AdmissionReview): unknown conversion", short(name_of(review))));
    }
    let other = [Review::V1, Review::V1beta1].into_iter().find(|other| *other != review).map_or("", name_of);
    if version == other && kind == "AdmissionReview" {
        return unread(format!("converting ({}.AdmissionReview) to ({}.AdmissionReview): unknown conversion", short(other), short(name_of(review))));
    }
    let version = if version.is_empty() { name_of(review) } else { version };
    let kind = if kind.is_empty() { "AdmissionReview" } else { kind };
    unread(words::unregistered(kind, version))
}

/// The version of an apiVersion.
fn short(api_version: &str) -> &str {
    api_version.rsplit('/').next().unwrap_or_default()
}

/// Fields of the wrong type are told as Go's decoder tells them.
fn check_types(value: &Value, version: &str) -> Result<(), Refused> {
    const FIELDS: [(&str, &str); 7] = [
        ("uid", "string"),
        ("allowed", "bool"),
        ("patch", "[]uint8"),
        ("patchType", "string"),
        ("status", "v1.Status"),
        ("auditAnnotations", "map[string]string"),
        ("warnings", "[]string"),
    ];
    let (request, response) = (&value["request"], &value["response"]);
    let wrong = |found: &Value, place: &str, ty: &str| {
        Err(Refused::Unread(format!("json: cannot unmarshal {} into Go struct field {place} of type {ty}", json_type(found))))
    };
    if !request.is_object() && !request.is_null() {
        return wrong(request, "AdmissionReview.request", &format!("{version}.AdmissionRequest"));
    }
    if !response.is_object() {
        return wrong(response, "AdmissionReview.response", &format!("{version}.AdmissionResponse"));
    }
    for (field, ty) in FIELDS {
        let found = &response[field];
        let fits = match ty {
            "bool" => found.is_boolean(),
            "[]string" => found.is_array(),
            "v1.Status" | "map[string]string" => found.is_object(),
            _ => found.is_string(),
        };
        if !fits && !found.is_null() {
            let ty = match field {
                "uid" => "types.UID".to_owned(),
                "patchType" => format!("{version}.PatchType"),
                _ => ty.to_owned(),
            };
            return wrong(found, &format!("AdmissionResponse.response.{field}"), &ty);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_an_answer_is_not_is_told() {
        let told = |answer: Value| match verdict(&json::encode(&answer), Review::V1, "u", true) {
            Err(Refused::Unread(why) | Refused::Invalid(why)) => why,
            Ok(_) => String::new(),
        };
        let of = |field: &str, value: Value| {
            let mut answer = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {"uid": "u", "allowed": true}});
            answer[field] = value;
            told(answer)
        };
        assert_eq!(of("request", json!({"uid": "u"})), "");
        assert_eq!(of("request", json!(1)), "json: cannot unmarshal number into Go struct field AdmissionReview.request of type v1.AdmissionRequest");
        assert_eq!(
            of("kind", json!([])),
            "couldn't get version/kind; json parse error: json: cannot unmarshal array into Go struct field .kind of type string"
        );
        assert_eq!(
            of("response", json!({"patchType": 1})),
            "json: cannot unmarshal number into Go struct field AdmissionResponse.response.patchType of type v1.PatchType"
        );
        assert_eq!(of("kind", json!("Status")), "converting (v1.Status) to (v1.AdmissionReview): unknown conversion");
        assert_eq!(of("kind", json!("Pod")), "no kind \"Pod\" is registered for version \"admission.k8s.io/v1\" in scheme \"pkg/runtime/scheme.go:111\"");
    }
}
