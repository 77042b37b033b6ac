//! Manifests: YAML or JSON files of any number of objects, applied in order with the server's own apply.

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use client::Client;
use http::{Method, Request, header};
use machinery::{
    Value,
    gvk::parse_api_version,
    json::{self, Validation},
    resources, schema, yaml,
};
use std::path::Path;

/// The field manager of what `up` applies.
const MANAGER: &str = "knarr";

/// An object of a manifest, and where it lives.
#[derive(Debug, Clone)]
pub struct Object {
    /// The object.
    pub value: Value,
    /// Its path in the API.
    pub path: String,
}

impl Object {
    /// `text` is the document: read anew with the kind's types, so that modes and truths are what YAML means by them.
    fn new(value: &Value, text: &str) -> anyhow::Result<Object> {
        let string = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (api_version, kind, name) = (string(&value["apiVersion"]), string(&value["kind"]), string(&value["metadata"]["name"]));
        if api_version.is_empty() || kind.is_empty() {
            bail!("an object has no apiVersion or no kind");
        }
        if name.is_empty() {
            bail!("{kind}: resource name may not be empty");
        }
        let (group, version) = parse_api_version(&api_version);
        let found = resources::builtin().iter().find(|r| r.group == group && r.version == version && r.kind.kind == kind);
        let Some(resource) = found else { bail!("no matches for kind {kind:?} in version {api_version:?}") };
        let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        let namespace = value["metadata"]["namespace"].as_str().unwrap_or("default");
        let place = if resource.namespaced { format!("/namespaces/{namespace}") } else { String::new() };
        let path = format!("{root}{place}/{}/{name}", resource.resource);
        let Some(ty) = schema::builtin().kind(&resource.kind) else { bail!("{kind}: the kind has no schema") };
        let told = |e: machinery::status::Status| anyhow!("{}", e.message);
        yaml::decode(text.as_bytes(), Some(ty), Validation::Strict).map_err(told)?;
        // What is applied is what was written, zeros among it.
        let applied = json::parse_applied(text.as_bytes()).map_err(told)?;
        Ok(Object { path, value: applied.value })
    }

    /// `Deployment shop/web`.
    pub fn title(&self) -> String {
        let metadata = &self.value["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match metadata["namespace"].as_str() {
            Some(namespace) => format!("{} {namespace}/{}", text(&self.value["kind"]), text(&metadata["name"])),
            None => format!("{} {}", text(&self.value["kind"]), text(&metadata["name"])),
        }
    }
}

/// Reads the objects of a file.
pub fn read(path: &Path) -> anyhow::Result<Vec<Object>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("the manifest {} cannot be read", path.display()))?;
    parse(&text).with_context(|| format!("the manifest {}", path.display()))
}

/// The objects of a text.
pub fn parse(text: &str) -> anyhow::Result<Vec<Object>> {
    let mut objects = Vec::new();
    for document in documents(text) {
        // Strict as to keys that are there twice; the fields are checked with the kind's types.
        let value = yaml::decode(document.as_bytes(), None, Validation::Strict).map_err(|e| anyhow!("{}", e.message))?.value;
        match value {
            Value::Null => {}
            Value::Object(mut map) if map.get("kind").and_then(Value::as_str) == Some("List") => {
                let items = map.remove("items").and_then(|v| if let Value::Array(items) = v { Some(items) } else { None });
                for item in items.unwrap_or_default() {
                    let text = serde_json::to_string(&item)?;
                    objects.push(Object::new(&item, &text)?);
                }
            }
            value => objects.push(Object::new(&value, &document)?),
        }
    }
    Ok(objects)
}

/// The documents of a YAML stream; JSON is one. Each begins with as many empty lines as come before it in the stream, so that
/// an error tells the line that a person finds it on.
fn documents(text: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if line.trim_end() == "---" || line.starts_with("--- ") {
            found.push("\n".repeat(number + 1));
        } else if let Some(document) = found.last_mut() {
            document.push_str(line);
        }
    }
    found.retain(|document| document.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#')));
    found
}

/// Applies one object; the answer is what the server made of it.
pub async fn apply(client: &Client, object: &Object) -> anyhow::Result<Value> {
    let uri = format!("{}?fieldManager={MANAGER}&force=true&fieldValidation=Strict", object.path);
    let request = Request::builder()
        .method(Method::PATCH)
        .uri(uri)
        .header(header::CONTENT_TYPE, "application/apply-patch+yaml")
        .body(Bytes::from(serde_json::to_vec(&object.value)?))?;
    send(client, request).await.with_context(|| object.title())
}

/// Reads the object at a path.
pub async fn get(client: &Client, path: &str) -> anyhow::Result<Value> {
    send(client, Request::builder().uri(path).body(Bytes::new())?).await
}

async fn send(client: &Client, request: Request<Bytes>) -> anyhow::Result<Value> {
    use http_body_util::BodyExt as _;
    let response = client.raw(request).await?;
    let body = response.into_body().collect().await.map_err(|e| anyhow::anyhow!("{e}"))?.to_bytes();
    Ok(serde_json::from_slice(&body)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_found_in_every_form_of_a_manifest() {
        let text = "# a comment\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\n---\napiVersion: v1\nkind: List\nitems:\n\
            - {apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: shop}}\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: c}}\n";
        let objects = parse(text).unwrap();
        let paths: Vec<&str> = objects.iter().map(|o| o.path.as_str()).collect();
        assert_eq!(paths, ["/api/v1/namespaces/shop", "/apis/apps/v1/namespaces/shop/deployments/web", "/api/v1/namespaces/default/configmaps/c"]);
        assert_eq!(objects[1].title(), "Deployment shop/web");
    }

    #[test]
    fn what_cannot_be_applied_is_told() {
        let error = |text: &str| parse(text).unwrap_err().to_string();
        assert_eq!(error("apiVersion: v1\nkind: Pod\nmetadata: {}"), "Pod: resource name may not be empty");
        assert_eq!(error("apiVersion: v1\nkind: Pot\nmetadata: {name: a}"), "no matches for kind \"Pot\" in version \"v1\"");
        assert_eq!(error("metadata: {name: a}"), "an object has no apiVersion or no kind");
        let twice = "kind: List\napiVersion: v1\n---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  name: b\n";
        assert_eq!(error(twice), "strict decoding error: yaml: unmarshal errors:\n  line 8: key \"name\" already set in map");
        let broken = error("a: {");
        assert!(broken.starts_with("error converting YAML to JSON: yaml: "), "{broken}");
    }
}
