//! Manifests: YAML or JSON files of any number of objects, applied in order with the server's own apply.

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use client::Client;
use http::{Method, Request, header};
use machinery::{
    Map, Value,
    gvk::parse_api_version,
    json::{self, Validation},
    resources, schema, yaml,
};
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// The field manager of what `up` applies.
const MANAGER: &str = "knarr";

/// How long a definition may take to be served.
const SERVED_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks at whether it is.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// An object of a manifest, and where it lives.
#[derive(Debug, Clone)]
pub struct Object {
    /// The object.
    pub value: Value,
    /// Its path in the API; not known yet for a custom kind, whose definition may come before it in the same manifest.
    path: Option<String>,
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
        let Some(resource) = found else {
            if resources::builtin().iter().any(|r| r.group == group) {
                bail!("no matches for kind {kind:?} in version {api_version:?}");
            }
            let applied = json::parse_applied(text.as_bytes()).map_err(|e| anyhow!("{}", e.message))?;
            return Ok(Object { path: None, value: applied.value });
        };
        let path = Some(path(value, &resource.resource, resource.namespaced));
        let Some(ty) = schema::builtin().kind(&resource.kind) else { bail!("{kind}: the kind has no schema") };
        let told = |e: machinery::status::Status| anyhow!("{}", e.message);
        yaml::decode(text.as_bytes(), Some(ty), Validation::Strict).map_err(told)?;
        // What is applied is what was written, zeros among it.
        let applied = json::parse_applied(text.as_bytes()).map_err(told)?;
        Ok(Object { path, value: applied.value })
    }

    /// Its path in the API. A custom kind is looked for in discovery, for as long as it takes to serve a definition that was
    /// applied just now.
    ///
    /// # Errors
    /// Nobody serves the kind.
    async fn path(&self, client: &Client) -> anyhow::Result<String> {
        if let Some(path) = &self.path {
            return Ok(path.clone());
        }
        let text = |key: &str| self.value[key].as_str().unwrap_or_default();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        let asked = Instant::now();
        loop {
            let served = get(client, &format!("/apis/{api_version}")).await.unwrap_or_default();
            let mut resources = served["resources"].as_array().into_iter().flatten();
            // Subresources have kinds too.
            let found = resources.find(|r| r["kind"] == kind && r["name"].as_str().is_some_and(|name| !name.contains('/')));
            if let Some(resource) = found {
                return Ok(path(&self.value, resource["name"].as_str().unwrap_or_default(), resource["namespaced"] == true));
            }
            if asked.elapsed() > SERVED_WITHIN {
                bail!("no matches for kind {kind:?} in version {api_version:?}: no definition of it is in the cluster; give the manifest that has it before");
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
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

/// The path of an object of a resource.
fn path(value: &Value, resource: &str, namespaced: bool) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (group, version) = parse_api_version(value["apiVersion"].as_str().unwrap_or_default());
    let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    let namespace = value["metadata"]["namespace"].as_str().unwrap_or("default");
    let place = if namespaced { format!("/namespaces/{namespace}") } else { String::new() };
    format!("{root}{place}/{resource}/{}", text(&value["metadata"]["name"]))
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
            Value::Object(mut map) if is_list(&map) => {
                let text = |map: &Map<String, Value>, key: &str| map.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
                let (version, kind) = (text(&map, "apiVersion"), text(&map, "kind"));
                let items = map.remove("items").and_then(|v| if let Value::Array(items) = v { Some(items) } else { None });
                for mut item in items.unwrap_or_default() {
                    // Of a list of one kind the items need not say which.
                    if let (Value::Object(own), Some(of)) = (&mut item, kind.strip_suffix("List").filter(|of| !of.is_empty())) {
                        own.entry("apiVersion".to_owned()).or_insert_with(|| version.clone().into());
                        own.entry("kind".to_owned()).or_insert_with(|| of.into());
                    }
                    let text = serde_json::to_string(&item)?;
                    objects.push(Object::new(&item, &text)?);
                }
            }
            value => objects.push(Object::new(&value, &document)?),
        }
    }
    Ok(objects)
}

/// Whether a document is a list of objects: of any kind, or of one.
fn is_list(map: &Map<String, Value>) -> bool {
    let kind = map.get("kind").and_then(Value::as_str).unwrap_or_default();
    kind == "List" || kind.ends_with("List") && map.get("items").is_some_and(Value::is_array)
}

/// The documents of a YAML stream; JSON is one. Each begins with as many empty lines as come before it in the stream, so that
/// an error tells the line that a person finds it on.
fn documents(text: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    for (number, line) in text.trim_start_matches('\u{feff}').split_inclusive('\n').enumerate() {
        // Behind the marker of a beginning the document may begin at once; behind that of an end nothing is.
        let marker = |marker: &str| line.strip_prefix(marker).filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if let Some(rest) = marker("---") {
            found.push("\n".repeat(number));
            if let Some(document) = found.last_mut() {
                // YAML lets a tab be behind the marker; libyaml, as which documents are read, does not.
                let blank = rest.len() - rest.trim_start_matches([' ', '\t']).len();
                document.push_str(&" ".repeat("---".len() + blank));
                document.push_str(&rest[blank..]);
            }
        } else if marker("...").is_some() {
            found.push("\n".repeat(number + 1));
        } else if let Some(document) = found.last_mut() {
            document.push_str(line);
        }
    }
    // Comments and directives (`%YAML 1.2`) say nothing by themselves.
    found.retain(|document| document.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#') && !line.starts_with('%')));
    found
}

/// Applies one object: what the server made of it, and, if it had fields of other managers, what the server said of that. A
/// manifest that is given to `up` is what its user wants, so such fields are taken.
pub async fn apply(client: &Client, object: &Object) -> anyhow::Result<(Value, Option<String>)> {
    let body = Bytes::from(serde_json::to_vec(&object.value)?);
    let path = object.path(client).await.with_context(|| object.title())?;
    let apply = async |force: bool| {
        let uri = format!("{path}?fieldManager={MANAGER}&force={force}&fieldValidation=Strict");
        let request = Request::builder().method(Method::PATCH).uri(uri).header(header::CONTENT_TYPE, "application/apply-patch+yaml");
        send(client, request.body(body.clone())?).await
    };
    let (made, taken) = match apply(false).await {
        Err(error) if error.downcast_ref::<client::Error>().is_some_and(client::Error::is_conflict) => (apply(true).await, Some(error.to_string())),
        other => (other, None),
    };
    Ok((made.with_context(|| object.title())?, taken))
}

/// Makes an object that is not there; one that is there stays as it is.
pub async fn make(client: &Client, object: &Object) -> anyhow::Result<()> {
    match read_now(client, object).await {
        Err(error) if error.downcast_ref::<client::Error>().is_some_and(client::Error::is_not_found) => apply(client, object).await.map(drop),
        other => other.map(drop),
    }
}

/// Reads an object as it is now.
pub async fn read_now(client: &Client, object: &Object) -> anyhow::Result<Value> {
    get(client, &object.path(client).await?).await
}

async fn get(client: &Client, path: &str) -> anyhow::Result<Value> {
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
        let paths: Vec<&str> = objects.iter().filter_map(|o| o.path.as_deref()).collect();
        assert_eq!(paths, ["/api/v1/namespaces/shop", "/apis/apps/v1/namespaces/shop/deployments/web", "/api/v1/namespaces/default/configmaps/c"]);
        assert_eq!(objects[1].title(), "Deployment shop/web");
    }

    #[test]
    fn documents_begin_and_end_as_yaml_says() {
        let text = "\u{feff}%YAML 1.2\n--- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n---\t# the second\napiVersion: v1\nkind: ConfigMap\n\
            metadata: {name: b}\ndata:\n  text: |\n    --- not a marker\n...\n# nothing\n---\n...\n---\napiVersion: v1\nkind: ConfigMapList\nmetadata: {}\nitems:\n\
            - metadata: {name: c}\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: d}}\n";
        let objects = parse(text).unwrap();
        let names: Vec<String> = objects.iter().map(Object::title).collect();
        assert_eq!(names, ["ConfigMap a", "ConfigMap b", "ConfigMap c", "ConfigMap d"]);
        assert_eq!(objects[1].value["data"]["text"], "--- not a marker\n");
        let late = parse("--- {apiVersion: v1}\n--- {apiVersion: v1,\n  kind: Pod, metadata: {name: a, name: b}}\n").unwrap_err().to_string();
        assert!(late.starts_with("an object has no"), "{late}");
    }

    #[test]
    fn what_cannot_be_applied_is_told() {
        let error = |text: &str| parse(text).unwrap_err().to_string();
        assert_eq!(error("apiVersion: v1\nkind: Pod\nmetadata: {}"), "Pod: resource name may not be empty");
        assert_eq!(error("apiVersion: v1\nkind: Pot\nmetadata: {name: a}"), "no matches for kind \"Pot\" in version \"v1\"");
        let unknown = parse("apiVersion: example.com/v1\nkind: Pot\nmetadata: {name: a}").unwrap();
        assert_eq!((unknown.len(), &unknown[0].path), (1, &None), "a custom kind is looked for when it is applied");
        assert_eq!(error("metadata: {name: a}"), "an object has no apiVersion or no kind");
        let twice = "kind: List\napiVersion: v1\n---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  name: b\n";
        assert_eq!(error(twice), "strict decoding error: yaml: unmarshal errors:\n  line 8: key \"name\" already set in map");
        let broken = error("a: {");
        assert!(broken.starts_with("error converting YAML to JSON: yaml: "), "{broken}");
    }
}
