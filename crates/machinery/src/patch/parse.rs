//! A patch from its bytes to the patched object, with what `fieldValidation` has to say of both.

use super::{document, json_patch, merge, strategic::strategic_leaving};
use crate::{
    Value,
    apply::typed::plain,
    field::{Error, Path},
    gvk::Gvk,
    json::{self, Texts, Validation, bounds::depth},
    quote::Quoted,
    schema::TypeRef,
    status::Status,
    tree::json_type,
};

/// The kinds of patch but server-side apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' merge by list keys.
    Strategic,
}

/// A patch that was read.
#[derive(Debug, Clone)]
pub struct Patch {
    kind: Kind,
    value: Value,
    /// What a strict decoding of the patch itself would refuse.
    problems: Vec<String>,
    validation: Validation,
    bytes: Vec<u8>,
    /// Whether an object that says no version is of its own.
    knows_version: bool,
}

/// Where upstream's registry of kinds is made, by which it calls it.
const SCHEME: &str = "pkg/runtime/scheme.go:111";

/// The fields of an operation of a JSON patch, each with whether it must be a text.
const OPERATION_FIELDS: [(&str, bool); 4] = [("op", true), ("path", true), ("from", true), ("value", false)];

/// Reads a patch.
///
/// # Errors
/// 400 for what is no JSON or no patch of the kind.
pub fn parse(kind: Kind, bytes: &[u8], validation: Validation) -> Result<Patch, Status> {
    let decoded = json::decode(bytes, None, Validation::Warn).map_err(|_| match json::out_of_range(bytes) {
        Some(number) => {
            let place = if kind == Kind::Json { "struct field jsonPatchOp.value" } else { "value" };
            let why = format!("json: cannot unmarshal number {number} into Go {place} of type float64");
            Status::bad_request(if kind == Kind::Strategic { why } else { format!("error decoding patch: {why}") })
        }
        None => Status::bad_request("invalid JSON patch"),
    })?;
    let (value, mut problems) = (decoded.value, decoded.warnings);
    let strict = validation != Validation::Ignore;
    let refused = |found: &Value, into: &str| format!("json: cannot unmarshal {} into Go {into}", json_type(found));
    match (kind, &value) {
        (Kind::Json, _) if strict => {
            problems.extend(operations(&value).map_err(|why| Status::bad_request(format!("error decoding patch: {why}")))?);
            problems.iter_mut().for_each(|problem| problem.insert_str(0, "json patch "));
        }
        (Kind::Json, _) | (_, Value::Object(_)) | (Kind::Strategic, Value::Null) => {}
        (Kind::Merge, Value::Null) => return Err(Status::bad_request("Invalid JSON Patch")),
        (Kind::Merge, other) if strict => {
            let why = refused(other, "value of type map[string]interface {}");
            return Err(Status::bad_request(format!("error decoding patch: {why}")));
        }
        (Kind::Merge, Value::Array(_)) => {}
        (Kind::Merge, _) => return Err(Status::bad_request("Invalid JSON Patch")),
        (Kind::Strategic, other) => return Err(Status::bad_request(refused(other, "value of type map[string]interface {}"))),
    }
    Ok(Patch { kind, value, problems: if strict { problems } else { Vec::new() }, validation, bytes: bytes.to_vec(), knows_version: false })
}

/// What is wrong with the operations of a JSON patch: an error, or fields that there are not.
fn operations(patch: &Value) -> Result<Vec<String>, String> {
    let refused = |found: &Value, into: &str| format!("json: cannot unmarshal {} into Go {into}", json_type(found));
    let operations = match patch {
        Value::Null => return Ok(Vec::new()),
        Value::Array(operations) => operations,
        other => return Err(refused(other, "value of type []handlers.jsonPatchOp")),
    };
    let mut unknown = Vec::new();
    for (at, operation) in operations.iter().enumerate() {
        let fields = match operation {
            Value::Null => continue,
            Value::Object(fields) => fields,
            other => return Err(refused(other, "value of type handlers.jsonPatchOp")),
        };
        for (name, value) in fields {
            match OPERATION_FIELDS.iter().find(|(field, _)| field == name) {
                None => unknown.push(format!("unknown field \"[{at}].{name}\"")),
                Some((_, true)) if !value.is_string() && !value.is_null() => {
                    return Err(refused(value, &format!("struct field jsonPatchOp.{name} of type string")));
                }
                Some(_) => {}
            }
        }
    }
    Ok(unknown)
}

/// The Go package of a group's types without a version.
fn package(kind: &Gvk) -> &str {
    match kind.group.split('.').next().unwrap_or_default() {
        "" | "events" => "core",
        first => first,
    }
}

/// The kinds that upstream knows in every version of every group.
const UNVERSIONED: [&str; 5] = ["Status", "APIVersions", "APIGroupList", "APIGroup", "APIResourceList"];

/// Why an object that says that it is of one of these cannot be read as one of another kind.
fn unversioned(own: &Gvk, kind: &str, text: &[u8]) -> Option<String> {
    if !UNVERSIONED.contains(&kind) {
        return None;
    }
    match crate::schema::builtin().kind(&Gvk::parse("v1", kind)).and_then(|ty| json::canonical_text(text, ty)) {
        Some(Err(why)) => Some(why),
        _ => Some(format!("converting (v1.{kind}) to ({}.{}): unknown conversion", package(own), own.kind)),
    }
}

/// Why an object that says that it is of another kind, and of no version, cannot be read: upstream looks for the kind among the group's types
/// without a version.
fn other_kind_of_no_version(own: &Gvk, kind: &str, text: &str) -> String {
    if let Some(why) = unversioned(own, kind, text.as_bytes()) {
        return why;
    }
    let place = match (kind, own.group.as_str()) {
        ("Scale", "apps") => Some("autoscaling"),
        _ => crate::schema::builtin().kinds().any(|(known, _)| known.group == own.group && known.kind == kind).then(|| package(own)),
    };
    if let Some(place) = place {
        return format!("converting ({place}.{kind}) to ({}.{}): unknown conversion", package(own), own.kind);
    }
    format!("no kind {} is registered for the internal version of group {} in scheme {SCHEME:?}", Quoted(kind), Quoted(&own.group))
}

/// Why an object that says that it is of another kind cannot be read as one of its own.
fn other_kind(own: &Gvk, found: &Gvk, text: &[u8]) -> String {
    if let Some(why) = unversioned(own, &found.kind, text) {
        return why;
    }
    if found.kind == "List" && found.api_version() == "v1" {
        return format!("converting (v1.List) to ({}.{}): unknown conversion", package(own), own.kind);
    }
    let Some(ty) = crate::schema::builtin().kind(found) else {
        return format!("no kind {} is registered for version {} in scheme {SCHEME:?}", Quoted(&found.kind), Quoted(&found.api_version()));
    };
    let nowhere = || format!("converting ({}.{}) to ({}.{}): unknown conversion", found.version, found.kind, package(own), own.kind);
    match json::canonical_text(text, ty) {
        Some(Err(why)) => why,
        _ => nowhere(),
    }
}

impl Patch {
    /// The patch of what there is in one version alone (the scale of a custom object): one that takes the version away takes nothing.
    #[must_use]
    pub fn of_one_version(self) -> Self {
        Self { knows_version: true, ..self }
    }

    /// The patched object in the text that upstream makes of it. None where that is too much work, or no text is made.
    fn document(&self, ty: TypeRef<'_>, old: &Value, texts: &Texts, patched: &Value) -> Option<Vec<u8>> {
        let doc = json::encode_spelled(Some(ty), old, texts);
        let levels = depth(old) + depth(&self.value) + depth(patched);
        match self.kind {
            Kind::Json => document::after_json_patch(&doc, &self.bytes, levels).ok(),
            Kind::Merge => document::after_merge(&doc, &self.bytes, levels),
            Kind::Strategic => None,
        }
    }

    fn text(&self, ty: TypeRef<'_>, old: &Value, texts: &Texts, patched: &Value) -> Vec<u8> {
        self.document(ty, old, texts, patched).unwrap_or_else(|| json::encode_as(Some(ty), patched))
    }

    /// How free-form values of the patched object are spelled, where upstream patches a text, and the object's are spelled as `texts` say.
    pub fn texts(&self, ty: TypeRef<'_>, old: &Value, texts: &Texts, patched: &Value) -> Option<Texts> {
        self.document(ty, old, texts, patched).map(|text| Texts::read(ty, &text))
    }

    /// Whether a test of a JSON patch fails because of how something is spelled.
    fn is_spelled_otherwise(&self, ty: TypeRef<'_>, old: &Value, texts: &Texts) -> bool {
        let tests = self.value.as_array().is_some_and(|operations| operations.iter().any(|operation| operation["op"] == "test"));
        if !tests || Texts::are_kept(ty) && texts.is_empty() {
            return false;
        }
        let levels = depth(old) + 2 * depth(&self.value);
        document::after_json_patch(&json::encode_spelled(Some(ty), old, texts), &self.bytes, levels) == Err(document::NoText::Test)
    }

    /// What is wrong with the patched tree, as upstream meets it in the text. Where nothing is, no text is made.
    fn told_of_text(
        &self,
        ty: TypeRef<'_>,
        old: &Value,
        texts: &Texts,
        patched: &Value,
        outcome: Result<json::Decoded, String>,
    ) -> Result<json::Decoded, String> {
        let is_strict = self.validation != Validation::Ignore;
        if outcome.as_ref().is_ok_and(|decoded| !is_strict || decoded.warnings.is_empty() && self.problems.is_empty()) {
            return outcome;
        }
        match (outcome, json::canonical_text(&self.text(ty, old, texts, patched), ty)) {
            (Ok(decoded), Some(Ok(warnings))) => Ok(json::Decoded { warnings, ..decoded }),
            (Err(_), Some(Err(why))) => Err(why),
            (outcome, _) => outcome,
        }
    }

    /// The patched object, decoded as a body of its type. `told`: of what was refused, what its sender hears all the same.
    ///
    /// # Errors
    /// What the kinds of patch answer; 422 for a patched object that cannot be decoded, or not strictly.
    pub fn apply(&self, ty: TypeRef<'_>, old: &Value, told: &mut Vec<String>) -> Result<json::Decoded, Status> {
        self.apply_spelled(ty, old, Texts::NONE, told)
    }

    /// As [`Patch::apply`], of an object whose free-form values are spelled as `texts` say.
    ///
    /// # Errors
    /// As [`Patch::apply`].
    pub fn apply_spelled(&self, ty: TypeRef<'_>, old: &Value, texts: &Texts, told: &mut Vec<String>) -> Result<json::Decoded, Status> {
        let (mut value, mut left) = (old.clone(), Value::Null);
        match self.kind {
            Kind::Json => {
                value = json_patch(old, &self.value)?;
                if self.is_spelled_otherwise(ty, old, texts) {
                    return Err(super::unprocessable());
                }
            }
            Kind::Merge => merge(&mut value, &self.value),
            Kind::Strategic if self.value.is_null() => {}
            Kind::Strategic => {
                left = self.value.clone();
                strategic_leaving(ty, &mut value, &mut left)?;
                // Which kind it is, is not read from what was patched.
                for field in ["apiVersion", "kind"] {
                    value[field] = old[field].clone();
                }
            }
        }
        let written = |value: &Value| String::from_utf8_lossy(&self.text(ty, old, texts, value)).into_owned();
        let shown = |value: &Value| if self.kind == Kind::Strategic { plain(&left) } else { written(value) };
        let invalid = |shown: String, why: String| Status::invalid("", "", "", vec![Error::invalid(&Path::root("patch"), shown, why)]);
        let strange = ["apiVersion", "kind"].into_iter().find_map(|key| value.get(key).filter(|v| !v.is_string() && !v.is_null()).map(|v| (key, v)));
        if let Some((key, found)) = strange.filter(|_| self.kind != Kind::Strategic) {
            let found = json_type(found);
            let why = format!("couldn't get version/kind; json parse error: json: cannot unmarshal {found} into Go struct field .{key} of type string");
            return Err(invalid(written(&value), why));
        }
        if self.kind != Kind::Strategic && ty.schema.is_lenient() && ty.gvk().is_some() && value["kind"].as_str().unwrap_or_default().is_empty() {
            let text = written(&value);
            let why = format!("Object 'Kind' is missing in '{text}'");
            return Err(invalid(text, why));
        }
        // What a custom object says that it is, validation looks at.
        if let (false, Some(own)) = (self.kind == Kind::Strategic, ty.gvk().filter(|_| !ty.schema.is_lenient())) {
            let given = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
            let (version, kind, own_version) = (given("apiVersion"), given("kind"), own.api_version());
            let version = if version.is_empty() && self.knows_version { own_version.as_str() } else { version };
            if version.is_empty() && !kind.is_empty() && kind != own.kind {
                let text = written(&value);
                let why = other_kind_of_no_version(own, kind, &text);
                return Err(invalid(text, why));
            }
            if version.is_empty() && (!kind.is_empty() || old["apiVersion"].is_string()) {
                // Upstream reads it as the kind without a version, which has neither metadata nor anything else.
                let all = value.as_object().into_iter().flatten().map(|(field, _)| field.as_str()).filter(|field| !matches!(*field, "kind" | "apiVersion"));
                let unknown: Vec<String> = all.map(|field| format!("unknown field {}", Quoted(field))).collect();
                match self.validation {
                    Validation::Strict if !unknown.is_empty() => {
                        return Err(invalid(shown(&value), format!("strict decoding error: {}", unknown.join(", "))));
                    }
                    Validation::Warn => *told = unknown,
                    _ => {}
                }
                let name = old["metadata"]["name"].as_str().unwrap_or_default();
                return Err(Status::bad_request(format!("the name of the object ({name} based on URL) was undeterminable: name must be provided")));
            }
            if version.matches('/').count() > 1 {
                return Err(invalid(written(&value), format!("unexpected GroupVersion string: {version}")));
            }
            if version.len() > 1 && version.ends_with('/') {
                // A group has no kinds without one of its versions.
                let text = written(&value);
                let why = format!("Object 'apiVersion' is missing in '{text}'");
                return Err(invalid(text, why));
            }
            // A group without letters is none.
            let version = version.strip_prefix('/').unwrap_or(version);
            let other_version = !version.is_empty() && version != own.api_version();
            if other_version || !kind.is_empty() && kind != own.kind {
                let found = crate::gvk::Gvk::parse(version, if kind.is_empty() { &own.kind } else { kind });
                let text = self.text(ty, old, texts, &value);
                return Err(invalid(String::from_utf8_lossy(&text).into_owned(), other_kind(own, &found, &text)));
            }
            if given("apiVersion").starts_with('/') {
                value["apiVersion"] = own.api_version().into();
            }
        }
        let outcome = match self.kind {
            Kind::Strategic => json::from_maps(&value, ty),
            Kind::Json | Kind::Merge => self.told_of_text(ty, old, texts, &value, json::canonical(value.clone(), ty)),
        };
        let mut decoded = outcome.map_err(|why| invalid(shown(&value), why))?;
        let problems: Vec<String> = self.problems.iter().cloned().chain(std::mem::take(&mut decoded.warnings)).collect();
        match self.validation {
            Validation::Strict if !problems.is_empty() => Err(invalid(shown(&value), format!("strict decoding error: {}", problems.join(", ")))),
            Validation::Warn => Ok(json::Decoded { warnings: problems, ..decoded }),
            _ => Ok(decoded),
        }
    }
}
