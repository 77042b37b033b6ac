//! `scale`: one view of replicas for Deployments, ReplicaSets, StatefulSets and ReplicationControllers.

use crate::{
    errors,
    registry::{Call, Change, WriteOptions, change, check_uid, patch},
    respond::Answer,
    storage,
};
use bytes::Bytes;
use http::StatusCode;
use machinery::{
    Value,
    field::{self, Path},
    gvk::Gvk,
    schema::TypeRef,
    status::Status,
};
use serde_json::json;

fn ty() -> Result<TypeRef<'static>, Status> {
    let gvk = Gvk { group: "autoscaling".into(), version: "v1".into(), kind: "Scale".into() };
    machinery::schema::builtin().kind(&gvk).ok_or_else(|| Status::internal("the schema lacks Scale"))
}

/// The scale of an object.
pub(crate) fn of(object: &Value) -> Value {
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if !object["metadata"][field].is_null() {
            metadata[field] = object["metadata"][field].clone();
        }
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
    let replicas = object["spec"]["replicas"].as_i64().unwrap_or(0);
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": {"replicas": replicas}, "status": status})
}

/// Answers a GET.
pub(crate) fn get(call: &Call<'_>) -> Result<Answer, Status> {
    let entry = call.entry()?;
    Ok(Answer::Other(StatusCode::OK, of(&storage::value(call.row, &entry))))
}

/// Answers a PUT.
pub(crate) async fn update(call: &Call<'_>, body: &Bytes) -> Result<Answer, Status> {
    let options = WriteOptions::of(call, "UpdateOptions")?;
    let scale = call.decode_as(body, ty()?, options.validation)?;
    if scale["metadata"]["name"].as_str() != Some(call.name()) {
        let name = scale["metadata"]["name"].as_str().unwrap_or_default();
        return Err(Status::bad_request(format!("the name of the object ({name}) does not match the name on the URL ({})", call.name())));
    }
    set(call, &options, |_| Ok(scale.clone())).await
}

/// Answers a PATCH.
pub(crate) async fn patch(call: &Call<'_>, body: &Bytes) -> Result<Answer, Status> {
    let kind = patch::Kind::of(call.headers)?;
    let options = patch::options(call, kind)?;
    let ty = ty()?;
    if kind == patch::Kind::Apply {
        let applied = machinery::yaml::decode(body, Some(ty), options.validation)?.value;
        return set(call, &options, |old| {
            let mut scale = of(old);
            scale["spec"]["replicas"] = applied["spec"]["replicas"].clone();
            Ok(scale)
        })
        .await;
    }
    let parsed = patch::parse(kind, body, &options)?;
    set(call, &options, |old| patch::patched(call, ty, &of(old), &parsed)).await
}

async fn set<F>(call: &Call<'_>, options: &WriteOptions, mut scale_of: F) -> Result<Answer, Status>
where
    F: FnMut(&Value) -> Result<Value, Status>,
{
    let target = Change {
        row: call.row,
        namespace: call.namespace(),
        name: call.name(),
        subresource: "scale",
        options,
        may_create: false,
        applied: false,
        derived: true,
    };
    let answer = change(call, &target, |old| {
        let old = old.ok_or_else(|| errors::not_found(call.row, call.name()))?;
        let scale = scale_of(old)?;
        check_uid(call.row, call.name(), &scale, old)?;
        let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
        if replicas < 0 {
            let path = Path::root("spec").child("replicas");
            let error = field::Error::invalid(&path, json!(replicas), "must be greater than or equal to 0");
            return Err(Status::invalid("autoscaling", "Scale", call.name(), vec![error]));
        }
        let mut value = old.clone();
        value["spec"]["replicas"] = replicas.into();
        if let Some(version) = scale["metadata"]["resourceVersion"].as_str().filter(|v| !v.is_empty()) {
            value["metadata"]["resourceVersion"] = version.into();
        }
        Ok(value)
    })
    .await?;
    Ok(match answer {
        Answer::Stored(code, entry) => Answer::Other(code, of(&storage::value(call.row, &entry))),
        Answer::Object(code, value) => Answer::Other(code, of(&value)),
        other => other,
    })
}
