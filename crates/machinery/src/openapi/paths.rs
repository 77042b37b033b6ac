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
/// Of a custom resource's read, as the original tells it there alone.
const READ: &[Parameter] = &[("resourceVersion", "string", "Which state to answer from.")];
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
    let (kind, list) = match &served.custom {
        Some(custom) => schemas.add_custom(&resource.kind, custom, &resource.resource),
        None => {
            let kind = schemas.add_kind(&resource.kind).unwrap_or_else(|| json!({"type": "object"}));
            let list = if resource.has_verb("list") { schemas.add_kind(&list_kind) } else { None };
            (kind.clone(), list.unwrap_or(kind))
        }
    };
    let row = Row { resource, version, custom: served.custom.is_some(), kind, list };
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
        if row.custom {
            item["get"]["operationId"] = format!("list{}{}ForAllNamespaces", row.group_words(), resource.kind.kind).into();
        }
        put(out, format!("{base}/{}", resource.resource), item);
    }
    let item = format!("{collection}/{{name}}");
    row.object(schemas, out, &item);
    for sub in &resource.subresources {
        let body = match served.custom {
            Some(_) if sub.name == "status" => row.kind.clone(),
            _ => schemas.add_kind(&sub.kind).unwrap_or_else(|| json!({"type": "string"})),
        };
        let mut operations = row.item(&["name"]);
        for verb in &sub.verbs {
            let (method, parameters, takes_body): (&str, &[&[Parameter]], bool) = match verb.as_str() {
                "get" => ("get", row.read(), false),
                "update" => ("put", &[WRITE], true),
                "patch" => ("patch", &[WRITE, FORCE], true),
                "create" => ("post", &[WRITE], true),
                "delete" => ("delete", &[], false),
                _ => continue,
            };
            let body_schema = takes_body.then_some(&body);
            let kind = if row.custom { &resource.kind } else { &sub.kind };
            operations[method] = row.operation(schemas, method, &sub.name, kind, &body, parameters, body_schema);
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
            item["delete"] = match self.custom {
                true => self.operation(schemas, "deletecollection", "", &resource.kind, &status, &[SELECT, WATCH], None),
                false => self.operation(schemas, "deletecollection", "", &resource.kind, &status, &[SELECT, DELETE], Some(&options)),
            };
        }
        put(out, path.to_owned(), item);
    }

    fn object(&self, schemas: &mut Schemas, out: &mut Map<String, Value>, path: &str) {
        let resource = self.resource;
        let mut item = self.item(&["name"]);
        if resource.has_verb("get") {
            item["get"] = self.operation(schemas, "get", "", &resource.kind, &self.kind, self.read(), None);
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
            "description": self.description(action, subresource),
            "tags": [self.tag()],
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": gvk_value(kind),
        });
        let patch = schemas.add(&format!("{META}.Patch"));
        let protobuf = if self.custom { None } else { Some("application/vnd.kubernetes.protobuf") };
        let media: Vec<&str> = ["application/json", "application/yaml"].into_iter().chain(protobuf).collect();
        let codes: &[(&str, &str)] = match action {
            "post" => &[("200", "OK"), ("201", "Created"), ("202", "Accepted")],
            "put" => &[("200", "OK"), ("201", "Created")],
            "patch" if !self.custom => &[("200", "OK"), ("201", "Created")],
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
                out["consumes"] = match action {
                    "patch" => json!(patches),
                    _ if self.custom => json!(media),
                    _ => json!(["*/*"]),
                };
                out["produces"] = json!(media);
                out["schemes"] = json!(["https"]);
                if let Some(body) = body {
                    let mut parameter = json!({"name": "body", "in": "body", "required": true, "schema": body});
                    if self.custom && action == "delete" {
                        parameter.as_object_mut().map(|parameter| parameter.remove("required"));
                    }
                    query.insert(0, parameter);
                }
            }
            (Version::V3, Some(body)) => {
                let taken: &[&str] = match action {
                    "patch" => patches,
                    _ if self.custom => &media,
                    _ => &["*/*"],
                };
                out["requestBody"] = json!({"content": by_media(taken, &body)});
                if !(self.custom && action == "delete") {
                    out["requestBody"]["required"] = true.into();
                }
            }
            (Version::V3, None) => {}
        }
        if !query.is_empty() {
            out["parameters"] = Value::Array(query);
        }
        out
    }

    /// The parameters of a read.
    fn read(&self) -> &'static [&'static [Parameter]] {
        if self.custom { &[READ] } else { &[] }
    }

    fn description(&self, action: &str, subresource: &str) -> String {
        let kind = &self.resource.kind.kind;
        if !self.custom {
            return format!("{} {kind}", self.words(action));
        }
        let of = if subresource.is_empty() { String::new() } else { format!(" {subresource} of") };
        let article = if kind.starts_with(['A', 'E', 'I', 'O', 'U', 'a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
        match action {
            "list" => format!("list objects of kind {kind}"),
            "post" => format!("create {article} {kind}"),
            "delete" => format!("delete {article} {kind}"),
            "deletecollection" => format!("delete collection of {kind}"),
            "put" => format!("replace{of} the specified {kind}"),
            "patch" => format!("partially update{of} the specified {kind}"),
            _ => format!("read{of} the specified {kind}"),
        }
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
        if self.custom {
            let words = self.group_words();
            let version = words.len() - self.resource.version.len();
            let mut chars = words[..version].chars();
            let lower: String = chars.next().map(|c| c.to_ascii_lowercase()).into_iter().chain(chars).collect();
            return format!("{lower}_{}", self.resource.version);
        }
        let group = if self.resource.group.is_empty() { "core" } else { self.resource.group.split('.').next().unwrap_or_default() };
        format!("{group}_{}", self.resource.version)
    }

    /// A custom group and its version as one word: `ExampleComV1`.
    fn group_words(&self) -> String {
        let parts = self.resource.group.split(['.', '-']).chain([self.resource.version.as_str()]);
        parts.map(|part| part.get(..1).unwrap_or_default().to_ascii_uppercase() + part.get(1..).unwrap_or_default()).collect()
    }

    /// `patchAppsV1NamespacedDeploymentScale`.
    fn operation_id(&self, action: &str, subresource: &str) -> String {
        if self.custom && action == "deletecollection" {
            let scope = if self.resource.namespaced { "Namespaced" } else { "" };
            return format!("delete{}Collection{scope}{}", self.group_words(), self.resource.kind.kind);
        }
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
        let tag: String = if self.custom { self.group_words() } else { self.tag().split('_').map(upper).collect() };
        let scope = if self.resource.namespaced { "Namespaced" } else { "" };
        format!("{verb}{tag}{scope}{}{}", self.resource.kind.kind, upper(subresource))
    }
}

fn by_media(media: &[&str], schema: &Value) -> Value {
    media.iter().map(|m| ((*m).to_owned(), json!({"schema": schema}))).collect::<Map<_, _>>().into()
}
