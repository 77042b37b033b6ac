//! Operations, and the paths that they stand on: a path takes what all of its operations have in common.

use super::{
    Version,
    custom::gvk_value,
    parameters::{self, Parameter},
    schemas::Schemas,
};
use crate::{Map, Value, gvk::Gvk};
use serde_json::json;

/// One operation.
pub(super) struct Operation<'a> {
    /// The method, in lower case.
    pub(super) method: &'static str,
    /// Upstream's word for what it does; discovery has none.
    pub(super) action: Option<&'static str>,
    pub(super) id: String,
    pub(super) description: String,
    pub(super) kind: Option<&'a Gvk>,
    pub(super) parameters: Vec<Parameter<'a>>,
    pub(super) body: Option<Body>,
    /// The schema of its answers.
    pub(super) answer: Value,
    /// What it answers beside 200.
    pub(super) codes: &'static [(&'static str, &'static str)],
    /// Media types of its answers.
    pub(super) produces: &'a [&'a str],
    /// Media types of bodies.
    pub(super) consumes: &'a [&'a str],
}

/// What an operation reads.
pub(super) struct Body {
    pub(super) schema: Value,
    pub(super) required: bool,
}

pub(super) const JSON: &str = "application/json";
pub(super) const YAML: &str = "application/yaml";
/// What objects are written in; custom ones in the first two.
pub(super) const OBJECTS: [&str; 3] = [JSON, YAML, "application/vnd.kubernetes.protobuf"];
/// What lists that can be watched are written in.
pub(super) const STREAMS: [&str; 5] = [JSON, YAML, OBJECTS[2], "application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];
pub(super) const ANY: [&str; 1] = ["*/*"];

/// The paths of a document, and what they keep for all.
pub(super) struct Paths {
    pub(super) version: Version,
    pub(super) out: Map<String, Value>,
    pub(super) parameters: Map<String, Value>,
}

impl Paths {
    /// Adds a path, unless it would hold no operation. `own` are parameters of the path itself.
    pub(super) fn add(&mut self, path: String, tag: &str, own: &[Parameter<'_>], mut operations: Vec<Operation<'_>>) {
        let Some(first) = operations.first() else { return };
        let common: Vec<Parameter<'_>> =
            first.parameters.iter().filter(|parameter| operations.iter().all(|operation| operation.parameters.contains(parameter))).copied().collect();
        operations.iter_mut().for_each(|operation| operation.parameters.retain(|parameter| !common.contains(parameter)));
        let shared = parameters::told([own, &common].concat(), self.version, &mut self.parameters);
        let mut item = Map::new();
        if !shared.is_empty() {
            item.insert("parameters".into(), shared.into());
        }
        for operation in operations {
            item.insert(operation.method.to_owned(), self.operation(tag, operation));
        }
        self.out.insert(path, Value::Object(item));
    }

    fn operation(&mut self, tag: &str, operation: Operation<'_>) -> Value {
        let mut out = json!({"operationId": operation.id, "description": operation.description, "tags": [tag]});
        if let (Some(action), Some(kind)) = (operation.action, operation.kind) {
            out["x-kubernetes-action"] = action.into();
            out["x-kubernetes-group-version-kind"] = gvk_value(kind);
        }
        let codes = [("200", "OK")].into_iter().chain(operation.codes.iter().copied());
        let answered = codes.map(|(code, text)| {
            let answer = match self.version {
                Version::V2 => json!({"description": text, "schema": operation.answer}),
                Version::V3 => json!({"description": text, "content": by_media(operation.produces, &operation.answer)}),
            };
            (code.to_owned(), answer)
        });
        let mut responses: Map<String, Value> = answered.collect();
        responses.insert("401".into(), json!({"description": "Unauthorized"}));
        out["responses"] = Value::Object(responses);
        let mut told = parameters::told(operation.parameters, self.version, &mut self.parameters);
        if self.version == Version::V2 {
            if !operation.consumes.is_empty() {
                out["consumes"] = json!(operation.consumes);
            }
            out["produces"] = json!(operation.produces);
            out["schemes"] = json!(["https"]);
        }
        match (self.version, operation.body) {
            (Version::V2, Some(body)) => told.insert(0, self.body(body)),
            (Version::V3, Some(body)) => {
                out["requestBody"] = json!({"content": by_media(operation.consumes, &body.schema)});
                if body.required {
                    out["requestBody"]["required"] = true.into();
                }
            }
            (_, None) => {}
        }
        if !told.is_empty() {
            out["parameters"] = told.into();
        }
        out
    }

    /// A body in version 2; the two that do not speak of their kind are kept for all.
    fn body(&mut self, body: Body) -> Value {
        let mut out = json!({"name": "body", "in": "body", "schema": body.schema});
        if body.required {
            out["required"] = true.into();
        }
        let shared = match body.schema["$ref"].as_str().and_then(|name| name.rsplit('.').next()) {
            Some("DeleteOptions") => "body-2Y1dVQaQ",
            Some("Patch") => "body-78PwaGsr",
            _ => return out,
        };
        parameters::keep(&mut self.parameters, shared.to_owned(), out)
    }
}

fn by_media(media: &[&str], schema: &Value) -> Value {
    media.iter().map(|m| ((*m).to_owned(), json!({"schema": schema}))).collect::<Map<_, _>>().into()
}

/// A path that is read and has no kind: of discovery, and of what the server tells of itself.
pub(super) struct Told<'a> {
    pub(super) path: String,
    pub(super) tag: &'a str,
    pub(super) id: String,
    pub(super) description: &'a str,
    /// The type of the answer; a text without.
    pub(super) ty: Option<&'a str>,
    pub(super) produces: &'a [&'a str],
    pub(super) consumes: &'a [&'a str],
}

impl Told<'_> {
    pub(super) fn add(self, schemas: &mut Schemas<'_>, paths: &mut Paths) {
        let answer = self.ty.map_or_else(|| json!({"type": "string"}), |ty| schemas.add(ty));
        let operation = Operation {
            method: "get",
            action: None,
            id: self.id,
            description: self.description.to_owned(),
            kind: None,
            parameters: Vec::new(),
            body: None,
            answer,
            codes: &[],
            produces: self.produces,
            consumes: self.consumes,
        };
        paths.add(self.path, self.tag, &[], vec![operation]);
    }
}
