//! A patch from its bytes to the patched object, with what `fieldValidation` has to say of both.

use super::{document, json_patch, merge, strategic::strategic_leaving};
use crate::{
    Value,
    convert::convert,
    field::{Error, Path},
    gvk::Gvk,
    json::{
        self, TYPE_META, Texts, Validation,
        bounds::{PROBLEMS_LIMIT, depth},
    },
    past,
    printed::plain,
    quote::Quoted,
    schema::TypeRef,
    status::Status,
    tree::json_type,
};
use serde::de::IgnoredAny;
use serde_json::Map;

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
    /// Why it is no patch of its kind, though it is JSON: upstream reads it so once it has the object.
    refusal: Option<Status>,
    /// Whether an object that says no version is of its own.
    knows_version: bool,
}

/// Where upstream's registry of kinds is made, by which it calls it.
const SCHEME: &str = "pkg/runtime/scheme.go:111";

/// The fields of an operation of a JSON patch, each with whether it must be a text.
const OPERATION_FIELDS: [(&str, bool); 4] = [("op", true), ("path", true), ("from", true), ("value", false)];

/// Reads a patch. What is JSON and no patch of the kind is refused where it is applied: to what there is not, nothing is.
///
/// # Errors
/// 400 for what is no JSON.
pub fn parse(kind: Kind, bytes: &[u8], validation: Validation) -> Result<Patch, Status> {
    let mut patch = Patch { kind, value: Value::Null, problems: Vec::new(), validation, bytes: bytes.to_vec(), refusal: None, knows_version: false };
    let (value, warnings, number) = if let Ok(decoded) = json::decode(bytes, None, Validation::Warn) {
        (decoded.value, decoded.warnings, None)
    } else {
        let number = json::out_of_range(bytes).filter(|_| serde_json::from_slice::<IgnoredAny>(bytes).is_ok());
        let (value, number) = before_number(kind, bytes, number.ok_or_else(|| Status::bad_request("invalid JSON patch"))?);
        (value, Vec::new(), number)
    };
    match problems(kind, &value, warnings, validation) {
        Ok(problems) => {
            patch.problems = problems;
            patch.refusal = number.map(|number| out_of_range(kind, &number));
        }
        Err(refusal) => patch.refusal = Some(refusal),
    }
    patch.value = value;
    Ok(patch)
}

/// A patch that has a number beyond all floats, as far as it is read before one is met, and that number. Numbers are read in the values of
/// operations, and in objects that are merged: what has the wrong type is told without a look into it, and so are fields that there are not.
fn before_number(kind: Kind, bytes: &[u8], number: String) -> (Value, Option<String>) {
    match (kind, outline(bytes)) {
        (Kind::Json, Value::Array(_)) => operations_before_number(bytes),
        (Kind::Merge | Kind::Strategic, whole @ Value::Object(_)) => (whole, Some(number)),
        (_, other) => (other, None),
    }
}

fn operations_before_number(bytes: &[u8]) -> (Value, Option<String>) {
    let mut operations = Vec::new();
    for (_, operation) in json::members(bytes) {
        let mut read = outline(operation);
        for (name, text) in json::members(operation) {
            if name.as_deref() == Some("value")
                && let Some(number) = json::out_of_range(text)
            {
                operations.push(read);
                return (operations.into(), Some(number));
            }
            if let (Value::Object(fields), Some(name)) = (&mut read, name) {
                fields.insert(name, json::decode(text, None, Validation::Ignore).map_or_else(|_| outline(text), |decoded| decoded.value));
            }
        }
        operations.push(read);
    }
    (operations.into(), None)
}

/// Of what type a text is: an object and a list without what is in them, and zero for a number that is none.
fn outline(text: &[u8]) -> Value {
    match text.trim_ascii_start().first() {
        Some(b'{') => Value::Object(Map::new()),
        Some(b'[') => Value::Array(Vec::new()),
        _ => serde_json::from_slice(text).unwrap_or_else(|_| 0.into()),
    }
}

/// What is said of a number beyond all floats.
fn out_of_range(kind: Kind, number: &str) -> Status {
    let place = if kind == Kind::Json { "struct field jsonPatchOp.value" } else { "value" };
    let why = format!("json: cannot unmarshal number {number} into Go {place} of type float64");
    Status::bad_request(if kind == Kind::Strategic { why } else { format!("error decoding patch: {why}") })
}

/// What a strict decoding of a patch would refuse, of which some is known; an error for what is no patch of the kind.
fn problems(kind: Kind, value: &Value, mut problems: Vec<String>, validation: Validation) -> Result<Vec<String>, Status> {
    let strict = validation != Validation::Ignore;
    let refused = |found: &Value, into: &str| format!("json: cannot unmarshal {} into Go {into}", json_type(found));
    match (kind, value) {
        (Kind::Json, _) if strict => {
            problems.extend(operations(value).map_err(|why| Status::bad_request(format!("error decoding patch: {why}")))?);
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
    Ok(if strict { problems } else { Vec::new() })
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
    if found.kind == "List" && found.api_version() == "v1" && crate::schema::same_scheme(&own.group, "") {
        return format!("converting (v1.List) to ({}.{}): unknown conversion", package(own), own.kind);
    }
    let Some(ty) = crate::schema::known_beside(own, found) else {
        return format!("no kind {} is registered for version {} in scheme {SCHEME:?}", Quoted(&found.kind), Quoted(&found.api_version()));
    };
    let nowhere = || format!("converting ({}.{}) to ({}.{}): unknown conversion", found.version, found.kind, package(own), own.kind);
    match json::canonical_text(text, ty) {
        Some(Err(why)) => why,
        _ => nowhere(),
    }
}

/// The types of a custom kind by its versions.
pub type Versions<'t> = dyn Fn(&str) -> Option<TypeRef<'t>> + 't;

/// As what a patched object is read.
enum Said<'t> {
    /// What it says that it is.
    Type(TypeRef<'t>),
    /// Another version of its kind, from which it becomes what it was.
    Version(TypeRef<'t>, Gvk),
    /// It says a version that its kind does not have.
    NoVersion,
    /// It says another kind or group, of which nothing is known.
    OtherKind,
}

/// The type in which an object of a kind is read that says that it is another, if the one can be made of the other.
fn convertible<'t>(ty: TypeRef<'t>, own: &Gvk, found: &Gvk, object: &Value) -> Option<TypeRef<'t>> {
    if found.kind != own.kind {
        return None;
    }
    if past::is_read(&found.kind, &found.api_version()) {
        return Some(ty).filter(|_| past::is_as_today(found, object));
    }
    let among = |group: &str| matches!(group, "" | "events.k8s.io");
    let related = found.group == own.group || found.kind == "Event" && among(&found.group) && among(&own.group);
    crate::schema::builtin().kind(found).filter(|_| related)
}

/// A custom object is read as the version that it says (upstream's `unstructuredSchemaCoercer`); that it must be another is told later.
fn said<'t>(ty: TypeRef<'t>, versions: &Versions<'t>, value: &Value) -> Said<'t> {
    let text = |key: &str| value[key].as_str().unwrap_or_default();
    let Some(own) = ty.gvk().filter(|_| ty.schema.is_lenient()) else { return Said::Type(ty) };
    let given = Gvk::parse(text("apiVersion"), text("kind"));
    if (&given.group, &given.kind) != (&own.group, &own.kind) {
        return Said::OtherKind;
    }
    if given.version.is_empty() || given.version == own.version {
        return Said::Type(ty);
    }
    versions(&given.version).map_or(Said::NoVersion, Said::Type)
}

/// What is told of an object of which nothing is known but what every object has.
fn unknown_kind(mut decoded: json::Decoded) -> json::Decoded {
    decoded.warnings.retain(|told| told.strip_prefix("unknown field \"").is_none_or(|field| field.starts_with("metadata.")));
    decoded
}

/// What is told of an object of a version without a schema: it has no field but what every object has.
fn without_schema(decoded: json::Decoded, value: &Value) -> json::Decoded {
    let mut decoded = unknown_kind(decoded);
    let all = value.as_object().into_iter().flatten().map(|(field, _)| field.as_str());
    let unknown = all.filter(|field| !matches!(*field, "apiVersion" | "kind" | "metadata"));
    let room = PROBLEMS_LIMIT.saturating_sub(decoded.warnings.len());
    decoded.warnings.extend(unknown.take(room).map(|field| format!("unknown field {}", Quoted(field))));
    decoded
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

    /// Reads the patched tree as what it is. What is wrong with it is told as upstream meets it in the text; where nothing is, no text is made.
    fn read(&self, ty: TypeRef<'_>, said: Said<'_>, old: &Value, texts: &Texts, patched: &Value) -> Result<json::Decoded, String> {
        let (said, found) = match said {
            Said::Type(said) => (said, None),
            Said::Version(said, found) => (said, Some(found)),
            Said::NoVersion => return json::canonical(patched.clone(), ty).map(|decoded| without_schema(decoded, patched)),
            Said::OtherKind => return json::canonical(patched.clone(), ty).map(unknown_kind),
        };
        let mut outcome = json::canonical(patched.clone(), said);
        let is_strict = self.validation != Validation::Ignore;
        if !outcome.as_ref().is_ok_and(|decoded| !is_strict || decoded.warnings.is_empty() && self.problems.is_empty()) {
            outcome = match (outcome, json::canonical_text(&self.text(ty, old, texts, patched), said)) {
                (Ok(decoded), Some(Ok(warnings))) => Ok(json::Decoded { warnings, ..decoded }),
                (Err(_), Some(Err(why))) => Err(why),
                (outcome, _) => outcome,
            };
        }
        let mut decoded = outcome?;
        if json::amounts::are_spelled(&self.bytes)
            && let Some(text) = self.document(ty, old, texts, patched)
        {
            json::amounts::respell(&text, said, &mut decoded.value);
        }
        Ok(match (found, ty.gvk()) {
            (Some(found), Some(own)) => {
                past::default(&found, &mut decoded.value);
                json::Decoded { value: convert(decoded.value, &found, own), ..decoded }
            }
            _ => decoded,
        })
    }

    /// The patched object, decoded as a body of its type. `told`: of what was refused, what its sender hears all the same.
    ///
    /// # Errors
    /// What the kinds of patch answer; 400 for what is no patch of its kind; 422 for a patched object that cannot be decoded, or not strictly.
    pub fn apply(&self, ty: TypeRef<'_>, old: &Value, told: &mut Vec<String>) -> Result<json::Decoded, Status> {
        self.apply_spelled(ty, &|_| None, old, Texts::NONE, told)
    }

    /// As [`Patch::apply`], of an object whose free-form values are spelled as `texts` say, and whose kind, if it is a custom one, has
    /// other versions.
    ///
    /// # Errors
    /// As [`Patch::apply`].
    pub fn apply_spelled<'t>(
        &self,
        ty: TypeRef<'t>,
        versions: &Versions<'t>,
        old: &Value,
        texts: &Texts,
        told: &mut Vec<String>,
    ) -> Result<json::Decoded, Status> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
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
        if value.is_array() {
            let why = format!("couldn't get version/kind; json parse error: json: cannot unmarshal array into Go value of type {TYPE_META}");
            return Err(invalid(written(&value), why));
        }
        let strange = ["apiVersion", "kind"].into_iter().find_map(|key| value.get(key).filter(|v| !v.is_string() && !v.is_null()).map(|v| (key, v)));
        if let Some((key, found)) = strange.filter(|_| self.kind != Kind::Strategic) {
            let found = json_type(found);
            let why = format!("couldn't get version/kind; json parse error: json: cannot unmarshal {found} into Go struct field .{key} of type string");
            return Err(invalid(written(&value), why));
        }
        let is_custom = self.kind != Kind::Strategic && ty.schema.is_lenient() && ty.gvk().is_some();
        let version = value["apiVersion"].as_str().filter(|version| is_custom && version.matches('/').count() > 1);
        if let Some(version) = version {
            return Err(invalid(written(&value), format!("unexpected GroupVersion string: {version}")));
        }
        if is_custom && value["kind"].as_str().unwrap_or_default().is_empty() {
            let text = written(&value);
            let why = format!("Object 'Kind' is missing in '{text}'");
            return Err(invalid(text, why));
        }
        let mut other = None;
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
                let found = Gvk::parse(version, if kind.is_empty() { &own.kind } else { kind });
                let Some(ty) = convertible(ty, own, &found, &value) else {
                    let text = self.text(ty, old, texts, &value);
                    return Err(invalid(String::from_utf8_lossy(&text).into_owned(), other_kind(own, &found, &text)));
                };
                other = Some((ty, found));
            }
            if given("apiVersion").starts_with('/') {
                value["apiVersion"] = own.api_version().into();
            }
        }
        let outcome = match self.kind {
            Kind::Strategic => json::from_maps(&value, ty),
            Kind::Json | Kind::Merge => {
                let said = other.map_or_else(|| said(ty, versions, &value), |(ty, found)| Said::Version(ty, found));
                self.read(ty, said, old, texts, &value)
            }
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
