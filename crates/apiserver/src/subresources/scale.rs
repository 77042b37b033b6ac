//! `scale`: one view of replicas for Deployments, ReplicaSets, StatefulSets and ReplicationControllers, and for custom
//! resources whose definition says where they stand.

use crate::{
    Operation, Write, admission, errors,
    registry::{Call, Change, Part, WriteOptions, change_part, check_uid, memory, patch, uid_mismatch},
    respond::Answer,
    rows::Row,
    storage,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::StatusCode;
use kinds::custom::Scale;
use machinery::{
    Value,
    apply::{self, FieldSet, Scaled},
    field::{self, Path},
    gvk::Gvk,
    json,
    schema::TypeRef,
    status::Status,
    time,
};
use serde_json::json;

/// The version of a Scale.
const VERSION: &str = "autoscaling/v1";

fn ty() -> Result<TypeRef<'static>, Status> {
    let gvk = Gvk { group: "autoscaling".into(), version: "v1".into(), kind: "Scale".into() };
    machinery::schema::builtin().kind(&gvk).ok_or_else(|| Status::internal("the schema lacks Scale"))
}

/// What is said first of an applied Scale that does not become one.
const UNCONVERTED: &str = "failed to convert new object (";
/// Desired replicas that no scale asks for: a custom object tells none, and so must the writer.
const UNTOLD: i64 = i32::MIN as i64;

/// The scale of an object. Of a custom one that tells no desired replicas they are [`UNTOLD`].
fn of(row: &Row, object: &Value) -> Result<Value, Status> {
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if !object["metadata"][field].is_null() {
            metadata[field] = object["metadata"][field].clone();
        }
    }
    if let Some(places) = row.custom.as_ref().and_then(|custom| custom.scale.as_ref()) {
        return of_custom(places, metadata, object).map_err(|why| Status::new(500, "", why));
    }
    let mut status = json!({"replicas": object["status"]["replicas"].as_i64().unwrap_or(0)});
    let selector = &object["spec"]["selector"];
    // A ReplicationController's selector is a plain map; the others have a LabelSelector.
    let text = if object["kind"] == "ReplicationController" {
        let pairs = selector.as_object().into_iter().flatten();
        pairs.map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect::<Vec<_>>().join(",")
    } else {
        machinery::labels::Selector::from_label_selector(selector).map(|s| s.to_string()).unwrap_or_default()
    };
    if !text.is_empty() {
        status["selector"] = text.into();
    }
    Ok(scale(metadata, object["spec"]["replicas"].as_i64().unwrap_or(0), status))
}

/// A scale; no replicas are left out, as upstream's type has it.
fn scale(metadata: Value, replicas: i64, status: Value) -> Value {
    let spec = if replicas == 0 { json!({}) } else { json!({ "replicas": replicas }) };
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status})
}

fn of_custom(places: &Scale, metadata: Value, object: &Value) -> Result<Value, String> {
    let replicas = places.spec_replicas(object)?.unwrap_or(UNTOLD);
    let mut status = json!({"replicas": places.status_replicas(object)?.unwrap_or(0)});
    let selector = places.selector(object)?;
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    Ok(scale(metadata, replicas, status))
}

/// The scale that is answered to a write: what tells no replicas has none.
pub(crate) fn answered(row: &Row, object: &Value) -> Result<Value, Status> {
    let mut scale = of(row, object)?;
    if scale["spec"]["replicas"] == UNTOLD {
        scale["spec"] = json!({});
    }
    Ok(scale)
}

/// Answers a GET.
pub(crate) async fn get(call: &Call<'_>) -> Result<Answer, Status> {
    let entry = call.entry(memory(call)?).await?;
    let scale = of(call.row, &storage::value(call.row, &entry))?;
    if scale["spec"]["replicas"] == UNTOLD {
        let path = call.row.custom.as_ref().and_then(|custom| custom.scale.as_ref()).map_or("", |places| &places.spec_replicas);
        return Err(Status::internal(format!("the spec replicas field {path:?} does not exist")));
    }
    Ok(Answer::Other(StatusCode::OK, scale))
}

/// Answers a PUT.
pub(crate) async fn update(call: &Call<'_>, body: &Bytes) -> Result<Answer, Status> {
    let options = WriteOptions::of(call, "UpdateOptions")?;
    if call.row.custom.is_some() && says_otherwise(call, body) {
        return Err(unread());
    }
    let mut scale = call.decode_as(body, ty()?, options.validation).map_err(|status| match call.row.custom.is_some() && status.code == 400 {
        true => unread(),
        false => status,
    })?;
    check_place(call, &scale)?;
    if call.row.resource.namespaced {
        scale["metadata"]["namespace"] = call.namespace().into();
    }
    written(&mut scale);
    // A message is what it is read as; other bodies are what they say that they are.
    if call.row.custom.is_some() {
        scale["apiVersion"] = call.said(body).map_or_else(|| VERSION.to_owned(), |(version, _)| version).into();
    }
    set(call, &options, Told::Updated(&mut |_| Ok(scale.clone())), true).await
}

/// The scale of a custom resource that cannot be read, or that a strict reader has something against: upstream looks for words in a registry
/// that does not have it.
fn unread() -> Status {
    Status::bad_request("no kind is registered for the type v1.Scale in scheme \"pkg/runtime/scheme.go:111\"")
}

/// Whether a body says that it is something else.
fn says_otherwise(call: &Call<'_>, body: &Bytes) -> bool {
    call.said(body).is_some_and(|(version, kind)| !matches!(version.as_str(), "" | VERSION) || !matches!(kind.as_str(), "" | "Scale"))
}

/// A scale is called as what it is the scale of.
fn check_place(call: &Call<'_>, scale: &Value) -> Result<(), Status> {
    let text = |field: &str| scale["metadata"][field].as_str().unwrap_or_default();
    if !matches!(text("namespace"), "") && text("namespace") != call.namespace() {
        return Err(Status::bad_request("the namespace of the provided object does not match the namespace sent on the request"));
    }
    crate::registry::check_name(call, text("name"))
}

/// Answers a PATCH.
pub(crate) async fn patch(call: &Call<'_>, body: &Bytes) -> Result<Answer, Status> {
    let kind = patch::Kind::of(call.headers, call.row)?;
    let options = patch::options(call, kind)?;
    let ty = ty()?;
    if kind == patch::Kind::Apply {
        // To what there is not of a built-in kind nothing is applied; of a custom one it is, and what is wrong with it is told first. What is no
        // JSON is so whatever there is.
        let applied = match read_applied(body) {
            Err(wrong) if call.row.custom.is_some() || wrong.message.starts_with("error encoding patch") => return Err(wrong),
            applied => applied,
        };
        return set(call, &options, Told::Applied(applied), false).await;
    }
    let parsed = patch::parse(kind, body, &options)?;
    let parsed = if call.row.custom.is_some() { parsed.of_one_version() } else { parsed };
    let mut patched = |old: &Value| {
        let scale = patch::patched(call, ty, old, &parsed)?;
        check_place(call, &scale).map(|()| scale)
    };
    set(call, &options, Told::Updated(&mut patched), false).await
}

/// A Scale as it is applied.
fn read_applied(body: &Bytes) -> Result<Value, Status> {
    let applied = json::parse_applied(body)?.value;
    let text = |field: &str| applied[field].as_str().unwrap_or_default();
    if text("kind") != "Scale" || text("apiVersion") != VERSION {
        return Err(Status::bad_request(format!("invalid object type: {}, Kind={}", text("apiVersion"), text("kind"))));
    }
    Ok(applied)
}

/// What is told of a scale.
enum Told<'a> {
    /// All that is to be.
    Updated(&'a mut (dyn FnMut(&Value) -> Result<Value, Status> + Send)),
    /// What its applier wants, or what is wrong with it.
    Applied(Result<Value, Status>),
}

/// The next scale, with those whom its fields are.
fn next(call: &Call<'_>, options: &WriteOptions, told: &mut Told<'_>, old: &Value) -> Result<Value, Status> {
    let (ty, now, nothing) = (ty()?, time::rfc3339(call.cx.now), FieldSet::new());
    match told {
        Told::Updated(make) => {
            let mut scale = make(old)?;
            // A body without a version is of no group, and upstream has no way from there to a custom kind's Scale: its owners stay as they are.
            if call.row.custom.is_some() && scale["apiVersion"].as_str().is_none_or(str::is_empty) {
                scale["metadata"]["managedFields"] = old["metadata"]["managedFields"].clone();
                return Ok(scale);
            }
            apply::track_update(ty, Some(old), &mut scale, &options.manager, VERSION, "scale", &now, &nothing);
            Ok(scale)
        }
        Told::Applied(applied) => {
            let applied = applied.as_ref().map_err(Status::clone)?;
            let is_scale = applied["apiVersion"] == VERSION && applied["kind"] == "Scale";
            if call.row.custom.is_some() && is_scale && machinery::tree::items(&old["metadata"]["managedFields"]).is_empty() {
                // Who owns it before is noted in the versions of the custom kind, of which it is none.
                let why = format!(
                    "failed to create manager for existing fields: failed to convert live object (/; {VERSION}, Kind=Scale) to proper version: request to \
                     convert CR to an invalid group/version: {VERSION}"
                );
                return Err(Status::new(500, "", why));
            }
            // Upstream converts the Scale as if it were one of the custom objects, before it looks at what it holds.
            let unconverted = || {
                let text = |field: &str| applied["metadata"][field].as_str().unwrap_or_default();
                let why = format!(
                    "{UNCONVERTED}{}/{}; {VERSION}, Kind=Scale) to proper version: request to convert CR to an invalid group/version: {VERSION}",
                    text("namespace"),
                    text("name")
                );
                Status::new(500, "", why)
            };
            let custom = call.row.custom.is_some();
            let scale = apply::apply(ty, Some(old), applied, &options.manager, VERSION, "scale", options.force, &now, &nothing)
                .map_err(|status| if custom && status.message.starts_with(UNCONVERTED) { unconverted() } else { status })?;
            if custom && without_owners(&scale) != without_owners(old) {
                return Err(unconverted());
            }
            check_place(call, &scale).map(|()| scale)
        }
    }
}

/// A scale apart from whose its fields are.
fn without_owners(scale: &Value) -> Value {
    let mut scale = scale.clone();
    scale["metadata"].as_object_mut().map(|metadata| metadata.remove("managedFields"));
    scale
}

/// What a scale says of the UID behind its patch and those who were asked: of built-in kinds it is looked at, and the part is named.
fn check_admitted_uid(call: &Call<'_>, scale: &Value, old: &Value) -> Result<(), Status> {
    let (uid, own) = (scale["metadata"]["uid"].as_str().unwrap_or_default(), old["metadata"]["uid"].as_str().unwrap_or_default());
    if uid.is_empty() || uid == own {
        return Ok(());
    }
    let resource = &call.row.resource;
    let why = uid_mismatch(uid, own);
    Err(Status::conflict(&resource.group, &format!("{}/scale", resource.resource), call.name(), &why))
}

/// How a scale is written.
struct Setting<'a, 't> {
    options: &'a WriteOptions,
    told: Told<'t>,
    /// The UID of what replaces a scale is a condition of the store's.
    replaces: bool,
    scaled: Scaled<'a>,
}

impl Part for Setting<'_, '_> {
    fn next<'s>(&'s mut self, call: &'s Call<'_>, old: Option<&'s Value>) -> BoxFuture<'s, Result<Value, Status>> {
        Box::pin(async move {
            let old = old.ok_or_else(|| errors::not_found(call.row, call.name()))?;
            let mut present = of(call.row, old)?;
            self.scaled.tell(old, &mut present);
            let mut scale = next(call, self.options, &mut self.told, &present)?;
            if self.replaces {
                // The store looks at it before anybody is asked.
                check_uid(call.row, call.name(), &scale, old, self.options.dry_run)?;
            }
            admit(call, self.options, &present, &mut scale).await?;
            self.put(call, &scale, old)
        })
    }
}

impl Setting<'_, '_> {
    /// The object with a scale that those who may change it have left so.
    fn put(&self, call: &Call<'_>, scale: &Value, old: &Value) -> Result<Value, Status> {
        let places = call.row.custom.as_ref().and_then(|custom| custom.scale.as_ref());
        let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
        if let Some(places) = places.filter(|_| replicas == UNTOLD) {
            return Err(Status::bad_request(format!("the spec replicas field {:?} cannot be empty", places.spec_replicas)));
        }
        if replicas < 0 && places.is_none() {
            let path = Path::root("spec").child("replicas");
            let error = field::Error::invalid(&path, json!(replicas), "must be greater than or equal to 0");
            return Err(Status::invalid("autoscaling", "Scale", call.name(), vec![error]));
        }
        if places.is_none() {
            check_admitted_uid(call, scale, old)?;
        }
        let mut value = old.clone();
        match places {
            Some(places) => places.set_spec_replicas(&mut value, replicas).map_err(|why| Status::new(500, "", why))?,
            None => value["spec"]["replicas"] = replicas.into(),
        }
        if let Some(version) = scale["metadata"]["resourceVersion"].as_str().filter(|v| !v.is_empty()) {
            value["metadata"]["resourceVersion"] = version.into();
        }
        self.scaled.take(scale, &mut value);
        Ok(value)
    }
}

/// Asks those who may change a scale: they see it as it was sent, with whose its fields are.
async fn admit(call: &Call<'_>, options: &WriteOptions, present: &Value, scale: &mut Value) -> Result<(), Status> {
    let write = Write {
        cx: call.cx,
        row: call.row,
        operation: Operation::Update,
        subresource: "scale",
        namespace: call.namespace(),
        name: call.name(),
        dry_run: options.dry_run,
        old: Some(present),
        options: Some(options),
    };
    // It is one, whatever its body says.
    scale["apiVersion"] = VERSION.into();
    scale["kind"] = "Scale".into();
    admission::mutate(call.world, &write, scale).await
}

/// As Go writes a scale: without replicas that are none, and with a status.
fn written(scale: &mut Value) {
    if !scale["spec"].is_object() {
        scale["spec"] = json!({});
    }
    if scale["spec"]["replicas"].as_i64().unwrap_or(0) == 0 {
        scale["spec"] = json!({});
    }
    if !scale["status"]["replicas"].is_number() {
        scale["status"]["replicas"] = 0.into();
    }
}

/// `replaces`: what is told is all of it.
async fn set(call: &Call<'_>, options: &WriteOptions, told: Told<'_>, replaces: bool) -> Result<Answer, Status> {
    let places = call.row.custom.as_ref().and_then(|custom| custom.scale.as_ref());
    let path = places.map_or_else(|| vec!["spec", "replicas"], Scale::spec_path);
    let versions = call.row.custom.as_ref().map(|custom| &*custom.scales);
    let scaled = Scaled { api_version: &call.row.api_version, path: &path, versions };
    let target = Change {
        row: call.row,
        namespace: call.namespace(),
        name: call.name(),
        subresource: "scale",
        options,
        may_create: false,
        // Owners are those of the scale.
        applied: true,
        derived: true,
    };
    let answer = change_part(call, &target, &mut Setting { options, told, replaces, scaled }).await?;
    Ok(match answer {
        Answer::Stored(code, entry) => Answer::Other(code, answered(call.row, &storage::value(call.row, &entry))?),
        Answer::Object(code, value) => Answer::Other(code, answered(call.row, &value)?),
        other => other,
    })
}
