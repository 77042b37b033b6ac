//! Tables (`meta.k8s.io/v1 Table`) and bare metadata (`PartialObjectMetadata`): what `kubectl get` and metadata
//! informers ask for instead of the objects.

use crate::{query::Query, rows::Row};
use machinery::{Map, Value, status::Status};
use serde_json::json;
use std::time::SystemTime;

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
    /// Reads `includeObject`.
    pub(crate) fn of(query: &Query<'_>) -> Result<Include, Status> {
        match query.text("includeObject") {
            "" | "Metadata" => Ok(Include::Metadata),
            "None" => Ok(Include::None),
            "Object" => Ok(Include::Object),
            other => Err(Status::bad_request(format!("includeObject must be one of 'None', 'Metadata', or 'Object': {other:?}"))),
        }
    }
}

/// A table of objects. `head`: with the columns, which a watch sends only once.
pub(crate) fn table<'a>(row: &Row, objects: impl Iterator<Item = &'a Value>, metadata: Value, include: Include, head: bool, now: SystemTime) -> Value {
    let rows: Vec<Value> = objects.map(|object| table_row(row, object, include, now)).collect();
    let columns = if head { columns(row) } else { Value::Null };
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": columns, "rows": rows})
}

/// The table of a `scale`, which has columns of its own.
pub(crate) fn scale(scale: &Value, include: Include, now: SystemTime) -> Value {
    let replicas = |part: &str| scale[part]["replicas"].as_i64().unwrap_or(0);
    let cells = json!([scale["metadata"]["name"], replicas("spec"), replicas("status"), kinds::print::age(scale, now)]);
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1",
        "metadata": { "resourceVersion": scale["metadata"]["resourceVersion"] },
        "columnDefinitions": [
            column("Name", "string", "", "", 0),
            column("Desired", "integer", "", "", 0),
            column("Available", "integer", "", "", 0),
            column("Age", "string", "", "", 0),
        ],
        "rows": [with_object(json!({ "cells": cells }), scale, include)],
    })
}

fn table_row(row: &Row, object: &Value, include: Include, now: SystemTime) -> Value {
    let cells = if row.resource.columns.is_empty() {
        vec![object["metadata"]["name"].clone(), object["metadata"]["creationTimestamp"].clone()]
    } else {
        row.strategy.row(object, now)
    };
    with_object(json!({ "cells": cells }), object, include)
}

fn with_object(mut row: Value, object: &Value, include: Include) -> Value {
    match include {
        Include::None => {}
        Include::Metadata => row["object"] = partial(object),
        Include::Object => row["object"] = object.clone(),
    }
    row
}

fn column(name: &str, kind: &str, format: &str, description: &str, priority: i32) -> Value {
    json!({"name": name, "type": kind, "format": format, "description": description, "priority": priority})
}

fn columns(row: &Row) -> Value {
    if row.resource.columns.is_empty() {
        return json!([column("Name", "string", "name", "", 0), column("Created At", "date", "", "", 0)]);
    }
    row.resource.columns.iter().map(|c| column(&c.name, &c.column_type, &c.format, &c.description, c.priority)).collect()
}

/// An object's metadata alone.
pub(crate) fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

/// The metadata of many.
pub(crate) fn partial_list<'a>(objects: impl Iterator<Item = &'a Value>, metadata: Value) -> Value {
    let items: Vec<Value> = objects
        .map(|object| {
            let mut item = Map::new();
            item.insert("kind".into(), "PartialObjectMetadata".into());
            item.insert("apiVersion".into(), "meta.k8s.io/v1".into());
            item.insert("metadata".into(), object["metadata"].clone());
            Value::Object(item)
        })
        .collect();
    json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "items": items})
}
