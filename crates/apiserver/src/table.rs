//! Tables (`meta.k8s.io/v1 Table`) and bare metadata (`PartialObjectMetadata`): what `kubectl get` and metadata
//! informers ask for instead of the objects.

use crate::{negotiate::Form, query::Query, rows::Row};
use machinery::{
    Value, json,
    schema::{self, TypeRef},
    status::Status,
};
use serde_json::json;
use std::{borrow::Cow, sync::LazyLock, time::SystemTime};

/// What a table's rows carry of their objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Include {
    /// Nothing.
    None,
    /// Their metadata.
    #[default]
    Metadata,
    /// All of them.
    Object,
}

impl Include {
    /// What is asked for, where a table is: of nothing else is it read.
    pub(crate) fn of_form(form: Form, query: &Query<'_>) -> Result<Include, Status> {
        if matches!(form, Form::Table(_)) { Include::of(query) } else { Ok(Include::default()) }
    }

    /// Reads `includeObject`.
    fn of(query: &Query<'_>) -> Result<Include, Status> {
        match query.text("includeObject") {
            "" | "Metadata" => Ok(Include::Metadata),
            "None" => Ok(Include::None),
            "Object" => Ok(Include::Object),
            other => {
                // Go shows a text of a type of its own as JSON.
                let (shown, allowed) = (String::from_utf8_lossy(&json::encode(&json!(other))).into_owned(), "must be 'Metadata', 'Object', 'None', or empty");
                Err(Status::bad_request(format!("Unable to convert to Table as requested: includeObject: Invalid value: {shown}: {allowed}")))
            }
        }
    }
}

/// A list's or a table's metadata as JSON.
pub(crate) fn list_metadata(metadata: &Value) -> Vec<u8> {
    let mut metadata = metadata.clone();
    // What is shown and not stored has no revision.
    metadata.as_object_mut().into_iter().for_each(|fields| fields.retain(|_, value| !value.is_null()));
    json::encode_as(schema::builtin().named("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"), &metadata)
}

/// What stands before the rows of a table. With its columns, which a watch sends only once.
pub(crate) fn head(row: &Row, metadata: &str, version: &str, with_columns: bool) -> String {
    frame(metadata, version, if with_columns { column_text(&columns(row)) } else { "null".into() })
}

fn frame(metadata: &str, version: &str, columns: String) -> String {
    format!(r#"{{"kind":"Table","apiVersion":"{version}","metadata":{metadata},"columnDefinitions":{columns},"rows":["#)
}

/// Columns in the order of their Go fields.
fn column_text(columns: &Value) -> String {
    let part = |column: &Value, key: &str| String::from_utf8(json::encode(&column[key])).unwrap_or_default();
    let texts = columns.as_array().into_iter().flatten().map(|column| {
        let fields = ["name", "type", "format", "description", "priority"].map(|key| format!("{key:?}:{}", part(column, key)));
        format!("{{{}}}", fields.join(","))
    });
    format!("[{}]", texts.collect::<Vec<_>>().join(","))
}

/// What stands before a table's rows.
pub(crate) struct Head<'a> {
    pub(crate) metadata: &'a Value,
    /// The version of `meta.k8s.io`.
    pub(crate) version: &'static str,
    pub(crate) with_columns: bool,
}

/// A table of one object as JSON.
pub(crate) fn one(row: &Row, object: &Value, told: &Head<'_>, include: Include, now: SystemTime) -> Vec<u8> {
    let mut out = head(row, &String::from_utf8_lossy(&list_metadata(told.metadata)), told.version, told.with_columns).into_bytes();
    write_row(row, object, told.version, include, now, Among::Alone, &mut out);
    out.extend_from_slice(b"]}");
    out
}

/// The table of a `scale`, which has columns of its own.
pub(crate) fn scale(row: &Row, scale: &Value, version: &str, include: Include, now: SystemTime) -> Vec<u8> {
    let replicas = |part: &str| scale[part]["replicas"].as_i64().unwrap_or(0);
    // Of custom resources it is looked for by its path, and none are not there.
    let desired = if row.is_builtin() { replicas("spec").into() } else { scale["spec"]["replicas"].clone() };
    let cells = json!([scale["metadata"]["name"], desired, replicas("status"), kinds::print::age(scale, now)]);
    let columns = scale_columns(row);
    let metadata = json!({ "resourceVersion": scale["metadata"]["resourceVersion"] });
    let mut out = frame(&String::from_utf8_lossy(&list_metadata(&metadata)), version, column_text(&columns)).into_bytes();
    write_cells(&cells, None, crate::storage::type_of(scale), scale, (version, include), &mut out);
    out.extend_from_slice(b"]}");
    out
}

fn scale_columns(row: &Row) -> Value {
    let (name, created) = &*OBJECT_DOCS;
    if row.is_builtin() {
        let (desired, available) = &*SCALE_DOCS;
        return json!([
            column("Name", "string", "", name, 0),
            column("Desired", "integer", "", desired, 0),
            column("Available", "integer", "", available, 0),
            column("Age", "string", "", created, 0),
        ]);
    }
    json!([
        column("Name", "string", "name", name, 0),
        column("Desired", "integer", "", "Number of desired replicas", 0),
        column("Available", "integer", "", "Number of actual replicas", 0),
        column("Age", "date", "", created, 0),
    ])
}

/// What the original says of a name and of a time of creation.
pub(crate) static OBJECT_DOCS: LazyLock<(String, String)> = LazyLock::new(|| {
    let [name, created] = machinery::openapi::descriptions("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", ["name", "creationTimestamp"]);
    (name, created)
});

/// What it says of the replicas of a scale.
static SCALE_DOCS: LazyLock<(String, String)> = LazyLock::new(|| {
    let [desired] = machinery::openapi::descriptions("io.k8s.api.autoscaling.v1.ScaleSpec", ["replicas"]);
    let [available] = machinery::openapi::descriptions("io.k8s.api.autoscaling.v1.ScaleStatus", ["replicas"]);
    (desired, available)
});

/// What an object is among those of its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Among {
    /// Nothing more than it is alone.
    Alone,
    /// The default one, as its name tells.
    Default,
}

/// Appends the row of an object.
pub(crate) fn write_row(row: &Row, object: &Value, version: &str, include: Include, now: SystemTime, among: Among, out: &mut Vec<u8>) {
    let mut cells = if row.resource.columns.is_empty() {
        vec![object["metadata"]["name"].clone(), object["metadata"]["creationTimestamp"].clone()]
    } else {
        row.strategy.row(object, now)
    };
    if among == Among::Default
        && let Some(Value::String(name)) = cells.first_mut()
    {
        name.push_str(" (default)");
    }
    let completed = row.strategy.row_completed(object);
    write_cells(&Value::Array(cells), completed, row.written_ty(), object, (version, include), out);
}

/// Appends a row of these cells. `completed`: the reason and the message by which its object has come to its end.
fn write_cells(
    cells: &Value,
    completed: Option<(&str, &str)>,
    ty: Option<TypeRef<'_>>,
    object: &Value,
    (version, include): (&str, Include),
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(br#"{"cells":"#);
    out.extend_from_slice(&json::encode(cells));
    if let Some((reason, message)) = completed {
        let condition = format!(r#","conditions":[{{"type":"Completed","status":"True","reason":"{reason}","message":"{message}"}}]"#);
        out.extend_from_slice(condition.as_bytes());
    }
    match include {
        // A RawExtension is a struct, which `omitempty` does not leave out.
        Include::None => out.extend_from_slice(br#","object":null"#),
        Include::Metadata => {
            out.extend_from_slice(br#","object":"#);
            out.extend_from_slice(&partial_json(object, version));
        }
        Include::Object => {
            out.extend_from_slice(br#","object":"#);
            out.extend_from_slice(&json::encode_as(ty, object));
        }
    }
    out.push(b'}');
}

fn column(name: &str, kind: &str, format: &str, description: &str, priority: i32) -> Value {
    json!({"name": name, "type": kind, "format": format, "description": description, "priority": priority})
}

pub(crate) fn columns(row: &Row) -> Value {
    if row.resource.columns.is_empty() {
        return json!([column("Name", "string", "name", "", 0), column("Created At", "date", "", "", 0)]);
    }
    row.resource.columns.iter().map(|c| column(&c.name, &c.column_type, &c.format, &c.description, c.priority)).collect()
}

/// An object's metadata alone.
pub(crate) fn partial(object: &Value, version: &str) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": version, "metadata": *metadata(object)})
}

/// An object's metadata as upstream holds it inside: what a version keeps in annotations, as it has no fields for it, are fields there.
fn metadata(object: &Value) -> Cow<'_, Value> {
    const GENERATION: &str = "deprecated.daemonset.template.generation";
    const ROLLBACK: &str = "deprecated.deployment.rollback.to";
    const AUTOSCALING: &str = "autoscaling.alpha.kubernetes.io/";
    let metadata = &object["metadata"];
    let is_field = |name: &str| match (object["apiVersion"].as_str(), object["kind"].as_str()) {
        (Some("apps/v1"), Some("DaemonSet")) => name == GENERATION,
        (Some("apps/v1"), Some("Deployment")) => name == ROLLBACK,
        (Some("autoscaling/v1"), Some("HorizontalPodAutoscaler")) => name.starts_with(AUTOSCALING),
        _ => false,
    };
    if !metadata["annotations"].as_object().is_some_and(|annotations| annotations.keys().any(|name| is_field(name))) {
        return Cow::Borrowed(metadata);
    }
    let mut metadata = metadata.clone();
    if let Some(annotations) = metadata["annotations"].as_object_mut() {
        annotations.retain(|name, _| !is_field(name));
        if annotations.is_empty() {
            metadata.as_object_mut().map(|fields| fields.remove("annotations"));
        }
    }
    Cow::Owned(metadata)
}

/// Its type, which is the same in each version.
pub(crate) fn partial_type() -> Option<TypeRef<'static>> {
    schema::builtin().named("io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadata")
}

/// The metadata of an object alone, as JSON.
pub(crate) fn partial_json(object: &Value, version: &str) -> Vec<u8> {
    let ty = schema::builtin().named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
    let mut out = format!(r#"{{"kind":"PartialObjectMetadata","apiVersion":"{version}","metadata":"#).into_bytes();
    out.extend_from_slice(&json::encode_as(ty, &metadata(object)));
    out.push(b'}');
    out
}
