//! The operations of a row.

use super::{
    Served, Version,
    schemas::{Schemas, gvk_value},
};
use crate::{Map, Value, gvk::Gvk, resources::Resource};
use serde_json::json;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// Query parameters: name, type, description.
type Parameter = (&'static str, &'static str, &'static str);

const WRITE: &[Parameter] = &[
    ("dryRun", "string", "When present, indicates that modifications should not be persisted. Valid values are: All."),
    ("fieldManager", "string", "The name of the actor or entity that is making these changes."),
    ("fieldValidation", "string", "What to do with unknown or duplicate fields: Ignore, Warn or Strict."),
];
const FORCE: &[Parameter] = &[("force", "boolean", "Apply even if other managers own fields with other values. Only for apply patches.")];
const DELETE: &[Parameter] = &[
    ("dryRun", "string", "When present, indicates that modifications should not be persisted. Valid values are: All."),
    ("gracePeriodSeconds", "integer", "The seconds before the object is deleted; zero deletes at once."),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean", "Deletes an object even if it cannot be read from the store."),
    ("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
    ("propagationPolicy", "string", "Whether and how dependents are deleted: Orphan, Background or Foreground."),
];
const SELECT: &[Parameter] = &[
    ("continue", "string", "Where a list with a limit goes on; the server's answer to the request before."),
    ("fieldSelector", "string", "Selects objects by their fields."),
    ("labelSelector", "string", "Selects objects by their labels."),
    ("limit", "integer", "The most objects in an answer."),
    ("resourceVersion", "string", "Which state to answer from."),
    ("resourceVersionMatch", "string", "How resourceVersion is meant."),
    ("sendInitialEvents", "boolean", "Begins a watch with the present objects and a bookmark."),
    ("shardSelector", "string", "Selects objects by the hash of a field."),
    ("timeoutSeconds", "integer", "How long the call may take."),
];
const WATCH: &[Parameter] =
    &[("allowWatchBookmarks", "boolean", "Asks for BOOKMARK events."), ("watch", "boolean", "Answers changes as events instead of a list.")];

/// The media types of patches; the last is for built-in kinds alone.
const PATCHES: [&str; 4] =
    ["application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json"];

/// What the operations of one row share.
struct Row<'a> {
    resource: &'a Resource,
    version: Version,
    custom: bool,
    kind: Value,
    list: Value,
}

/// Adds the paths of a resource and the schemas that they use.
pub(super) fn add(served: &Served<'_>, version: Version, schemas: &mut Schemas, out: &mut Map<String, Value>) {
    let resource = served.resource;
    let list_kind = Gvk { kind: format!("{}List", resource.kind.kind), ..resource.kind.clone() };
    let (kind, list) = match served.schema {
        Some(schema) => schemas.add_custom(&resource.kind, schema),
        None => {
            let kind = schemas.add_kind(&resource.kind).unwrap_or_else(|| json!({"type": "object"}));
            let list = if resource.has_verb("list") { schemas.add_kind(&list_kind) } else { None };
            (kind.clone(), list.unwrap_or(kind))
        }
    };
    let row = Row { resource, version, custom: served.schema.is_some(), kind, list };
    let root = if resource.group.is_empty() { "/api" } else { "/apis" };
    let base = format!("{root}/{}", resource.api_version());
    let collection = match resource.namespaced {
        true => format!("{base}/namespaces/{{namespace}}/{}", resource.resource),
        false => format!("{base}/{}", resource.resource),
    };
    row.collection(schemas, out, &collection);
    if resource.namespaced && resource.has_verb("list") {
        let mut item = row.item(&[]);
        item["get"] = row.operation(schemas, "list", "", &resource.kind, &row.list, &[SELECT, WATCH], None);
        put(out, format!("{base}/{}", resource.resource), item);
    }
    let item = format!("{collection}/{{name}}");
    row.object(schemas, out, &item);
    for sub in &resource.subresources {
        let body = match served.schema {
            Some(_) if sub.name == "status" => row.kind.clone(),
            _ => schemas.add_kind(&sub.kind).unwrap_or_else(|| json!({"type": "string"})),
        };
        let mut operations = row.item(&["name"]);
        for verb in &sub.verbs {
            let (method, parameters, takes_body): (&str, &[&[Parameter]], bool) = match verb.as_str() {
                "get" => ("get", &[], false),
                "update" => ("put", &[WRITE], true),
                "patch" => ("patch", &[WRITE, FORCE], true),
                "create" => ("post", &[WRITE], true),
                "delete" => ("delete", &[], false),
                _ => continue,
            };
            let body_schema = takes_body.then_some(&body);
            operations[method] = row.operation(schemas, method, &sub.name, &sub.kind, &body, parameters, body_schema);
        }
        put(out, format!("{item}/{}", sub.name), operations);
    }
}

/// Adds a path unless it would hold no operation.
fn put(out: &mut Map<String, Value>, path: String, item: Value) {
    let methods = ["get", "put", "post", "delete", "patch"];
    if methods.iter().any(|m| item.get(m).is_some()) {
        out.insert(path, item);
    }
}

impl Row<'_> {
    /// A path item with the parameters of its path.
    fn item(&self, names: &[&str]) -> Value {
        let mut parameters = Vec::new();
        if names.contains(&"name") {
            parameters.push(self.parameter("name", "string", &format!("name of the {}", self.resource.kind.kind), "path"));
        }
        if self.resource.namespaced && !names.is_empty() {
            parameters.push(self.parameter("namespace", "string", "object name and auth scope, such as for teams and projects", "path"));
        }
        parameters.push(self.parameter("pretty", "string", "If 'true', then the output is pretty printed.", "query"));
        json!({"parameters": parameters})
    }

    fn parameter(&self, name: &str, ty: &str, text: &str, place: &str) -> Value {
        let mut out = json!({"name": name, "in": place, "description": text});
        if place == "path" {
            out["required"] = true.into();
        }
        match self.version {
            Version::V2 => out["type"] = ty.into(),
            Version::V3 => out["schema"] = json!({"type": ty}),
        }
        out["uniqueItems"] = true.into();
        if self.version == Version::V3 {
            out.as_object_mut().map(|o| o.remove("uniqueItems"));
            out["schema"]["uniqueItems"] = true.into();
        }
        out
    }

    fn collection(&self, schemas: &mut Schemas, out: &mut Map<String, Value>, path: &str) {
        let resource = self.resource;
        let mut item = self.item(if resource.namespaced { &["namespace"] } else { &[] });
        if resource.has_verb("list") {
            item["get"] = self.operation(schemas, "list", "", &resource.kind, &self.list, &[SELECT, WATCH], None);
        }
        if resource.has_verb("create") {
            item["post"] = self.operation(schemas, "post", "", &resource.kind, &self.kind, &[WRITE], Some(&self.kind));
        }
        if resource.has_verb("deletecollection") {
            let status = schemas.add(&format!("{META}.Status"));
            let options = schemas.add(&format!("{META}.DeleteOptions"));
            item["delete"] = self.operation(schemas, "deletecollection", "", &resource.kind, &status, &[SELECT, DELETE], Some(&options));
        }
        put(out, path.to_owned(), item);
    }

    fn object(&self, schemas: &mut Schemas, out: &mut Map<String, Value>, path: &str) {
        let resource = self.resource;
        let mut item = self.item(&["name"]);
        if resource.has_verb("get") {
            item["get"] = self.operation(schemas, "get", "", &resource.kind, &self.kind, &[], None);
        }
        if resource.has_verb("update") {
            item["put"] = self.operation(schemas, "put", "", &resource.kind, &self.kind, &[WRITE], Some(&self.kind));
        }
        if resource.has_verb("patch") {
            item["patch"] = self.operation(schemas, "patch", "", &resource.kind, &self.kind, &[WRITE, FORCE], Some(&self.kind));
        }
        if resource.has_verb("delete") {
            let status = schemas.add(&format!("{META}.Status"));
            let options = schemas.add(&format!("{META}.DeleteOptions"));
            item["delete"] = self.operation(schemas, "delete", "", &resource.kind, &status, &[DELETE], Some(&options));
        }
        put(out, path.to_owned(), item);
    }

    /// One operation; `action` is upstream's word for it.
    #[allow(clippy::too_many_arguments, reason = "an operation has that many parts, and this is where they meet")]
    fn operation(
        &self,
        schemas: &mut Schemas,
        action: &str,
        subresource: &str,
        kind: &Gvk,
        answer: &Value,
        parameters: &[&[Parameter]],
        body: Option<&Value>,
    ) -> Value {
        let mut query: Vec<Value> = parameters.iter().flat_map(|group| group.iter()).map(|(name, ty, text)| self.parameter(name, ty, text, "query")).collect();
        query.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
        let mut out = json!({
            "operationId": self.operation_id(action, subresource),
            "description": format!("{} {}", self.words(action), self.resource.kind.kind),
            "tags": [self.tag()],
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": gvk_value(kind),
        });
        let patch = schemas.add(&format!("{META}.Patch"));
        let protobuf = if self.custom { None } else { Some("application/vnd.kubernetes.protobuf") };
        let media: Vec<&str> = ["application/json", "application/yaml"].into_iter().chain(protobuf).collect();
        let codes: &[(&str, &str)] = match action {
            "post" => &[("200", "OK"), ("201", "Created"), ("202", "Accepted")],
            "put" | "patch" => &[("200", "OK"), ("201", "Created")],
            "delete" => &[("200", "OK"), ("202", "Accepted")],
            _ => &[("200", "OK")],
        };
        let mut responses = Map::new();
        for (code, text) in codes {
            let response = match self.version {
                Version::V2 => json!({"description": text, "schema": answer}),
                Version::V3 => json!({"description": text, "content": by_media(&media, answer)}),
            };
            responses.insert((*code).to_owned(), response);
        }
        responses.insert("401".into(), json!({"description": "Unauthorized"}));
        out["responses"] = Value::Object(responses);
        let body = body.map(|own| if action == "patch" { patch } else { own.clone() });
        let patches = if self.custom { &PATCHES[..3] } else { &PATCHES[..] };
        match (self.version, body) {
            (Version::V2, body) => {
                out["consumes"] = if action == "patch" { json!(patches) } else { json!(["*/*"]) };
                out["produces"] = json!(media);
                out["schemes"] = json!(["https"]);
                if let Some(body) = body {
                    query.insert(0, json!({"name": "body", "in": "body", "required": true, "schema": body}));
                }
            }
            (Version::V3, Some(body)) => {
                let media: &[&str] = if action == "patch" { patches } else { &["*/*"] };
                out["requestBody"] = json!({"required": true, "content": by_media(media, &body)});
            }
            (Version::V3, None) => {}
        }
        if !query.is_empty() {
            out["parameters"] = Value::Array(query);
        }
        out
    }

    fn words(&self, action: &str) -> &'static str {
        match action {
            "list" => "list or watch objects of kind",
            "post" => "create a",
            "put" => "replace the specified",
            "patch" => "partially update the specified",
            "delete" => "delete a",
            "deletecollection" => "delete collection of",
            _ => "read the specified",
        }
    }

    /// `apps_v1`, `core_v1`.
    fn tag(&self) -> String {
        let group = if self.resource.group.is_empty() { "core" } else { self.resource.group.split('.').next().unwrap_or_default() };
        format!("{group}_{}", self.resource.version)
    }

    /// `patchAppsV1NamespacedDeploymentScale`.
    fn operation_id(&self, action: &str, subresource: &str) -> String {
        let verb = match action {
            "post" => "create",
            "put" => "replace",
            "get" => "read",
            "deletecollection" => "deleteCollection",
            other => other,
        };
        let upper = |text: &str| -> String {
            let mut chars = text.chars();
            chars.next().map(|c| c.to_ascii_uppercase()).into_iter().chain(chars).collect()
        };
        let tag: String = self.tag().split('_').map(upper).collect();
        let scope = if self.resource.namespaced { "Namespaced" } else { "" };
        format!("{verb}{tag}{scope}{}{}", self.resource.kind.kind, upper(subresource))
    }
}

fn by_media(media: &[&str], schema: &Value) -> Value {
    media.iter().map(|m| ((*m).to_owned(), json!({"schema": schema}))).collect::<Map<_, _>>().into()
}
