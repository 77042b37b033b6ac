//! How aggregated servers describe what they serve, beside what is described here.
//!
//! Version 3 is passed on: the index has the servers' own entries with their hashes, and who asks for one gets it from its server.
//! Version 2 is one document for all, so what a server says of its version is put into ours: its paths, and the definitions that
//! they use, under another name where ours has another of the same. A server that says nothing new costs a question a minute.

use super::{
    ask::{self, Question},
    remote::Remote,
};
use crate::{
    Body,
    documents::{Documents, Packed},
    hooks::Services,
    negotiate::Accept,
    openapi,
    rows::Rows,
};
use http::{HeaderMap, Response, header};
use machinery::Value;
use serde_json::Map;
use sha2::{Digest, Sha256, Sha512};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
    time::Duration,
};

/// How long a description may take (upstream's `specDownloadTimeout`).
const ASK_MAX: Duration = Duration::from_secs(60);
/// How long after its APIService came a server is asked first.
pub(super) const FIRST: Duration = Duration::from_secs(1);
/// How often it is asked.
pub(super) const EVERY: Duration = Duration::from_secs(60);
/// The longest wait after failures.
pub(super) const RETRY_MAX: Duration = Duration::from_secs(3600);
const USER: &str = "system:aggregator";
const DEFINITIONS: &str = "#/definitions/";

/// What a server says.
#[derive(Debug, Clone, Default)]
pub(super) struct Description {
    /// The documents of version 3, by their paths, as its index has them.
    paths: Map<String, Value>,
    /// What version 2 has of the server's version.
    two: Option<Arc<Two>>,
}

#[derive(Debug)]
struct Two {
    tag: String,
    /// The server's own tag, by which it is asked again.
    known: Option<String>,
    document: Value,
}

/// What was said last.
pub(super) type Known = Description;

/// Asks a server.
///
/// # Errors
/// It did not say, or not in a way that can be read.
pub(super) async fn ask(services: &dyn Services, remote: &Arc<Remote>, known: &Known) -> Result<Description, String> {
    let question = Question { path: "/openapi/v3", user: USER, groups: &[], accept: "", known: None };
    let answer = ask::get(services, remote, question, ASK_MAX).await?;
    let paths = match answer.code {
        200 => match machinery::json::read(&answer.body).map_err(|error| error.to_string())?["paths"].take() {
            Value::Object(paths) => paths,
            _ => Map::new(),
        },
        404 => Map::new(),
        code => return Err(format!("could not get list of group versions for APIService: code {code}")),
    };
    Ok(Description { paths, two: two(services, remote, known).await? })
}

async fn two(services: &dyn Services, remote: &Arc<Remote>, known: &Known) -> Result<Option<Arc<Two>>, String> {
    let tag = known.two.as_ref().and_then(|two| two.known.as_deref());
    let question = Question { path: "/openapi/v2", user: USER, groups: &[], accept: "application/json", known: tag };
    let answer = ask::get(services, remote, question, ASK_MAX).await?;
    match answer.code {
        304 if tag.is_some() => Ok(known.two.clone()),
        404 => Ok(None),
        200 => {
            let tag = answer.header(header::ETAG).to_owned();
            let own = Sha512::digest(&answer.body).iter().fold(String::new(), |mut out, byte| {
                let _ = write!(out, "{byte:02X}");
                out
            });
            let root = format!("{}/", remote.root());
            let body = answer.body;
            let document = crate::offload::call(move || machinery::json::read(&body).map(|document| filtered(document, &root)));
            let document = document.await.map_err(|error| error.to_string())?;
            Ok(Some(Arc::new(Two { known: Some(tag).filter(|tag| !tag.is_empty()), tag: own, document })))
        }
        code => Err(format!("failed to retrieve openAPI spec, http error: code {code}")),
    }
}

/// The paths below a root, the parameters that are kept for all, and the definitions: but those that only other paths used.
fn filtered(mut document: Value, root: &str) -> Value {
    let mut paths = take(&mut document, "paths");
    let parameters = take(&mut document, "parameters");
    let mut all = take(&mut document, "definitions");
    let before = used(paths.values().chain(parameters.values()), &all);
    paths.retain(|path, _| path.starts_with(root));
    let now = used(paths.values().chain(parameters.values()), &all);
    all.retain(|name, _| now.contains(name) || !before.contains(name));
    serde_json::json!({"paths": paths, "parameters": parameters, "definitions": all})
}

/// The definitions that values use, by others that they use.
fn used<'v>(values: impl Iterator<Item = &'v Value>, all: &Map<String, Value>) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    let mut open: Vec<String> = Vec::new();
    values.for_each(|value| references(value, &mut open));
    while let Some(name) = open.pop() {
        if let Some(definition) = all.get(&name)
            && used.insert(name)
        {
            references(definition, &mut open);
        }
    }
    used
}

fn take(document: &mut Value, field: &str) -> Map<String, Value> {
    match document[field].take() {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// The definitions that a value names.
fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value.as_str().filter(|_| key == "$ref").and_then(|text| text.strip_prefix(DEFINITIONS)) {
                    Some(name) => found.push(name.to_owned()),
                    None => references(value, found),
                }
            }
        }
        Value::Array(all) => all.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

fn rename(value: &mut Value, names: &BTreeMap<String, String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let renamed = value.as_str().filter(|_| key == "$ref").and_then(|text| names.get(text.strip_prefix(DEFINITIONS)?));
                match renamed {
                    Some(name) => *value = format!("{DEFINITIONS}{name}").into(),
                    None => rename(value, names),
                }
            }
        }
        Value::Array(all) => all.iter_mut().for_each(|value| rename(value, names)),
        _ => {}
    }
}

/// Puts a server's part into the document. A path that is there stays; a definition that is there in another form is added under
/// another name, as upstream numbers them.
fn merge(document: &mut Value, part: &Value) {
    let mut part = part.clone();
    let names: BTreeMap<String, String> = {
        let have = &document["definitions"];
        let clashes = part["definitions"].as_object().into_iter().flatten().filter(|(name, wanted)| have.get(*name).is_some_and(|have| have != *wanted));
        let free = |name: &str, wanted: &Value| {
            let mut numbered = (2..).map(|number: u32| format!("{name}_v{number}"));
            numbered.find(|name| have.get(name).is_none_or(|have| have == wanted)).unwrap_or_default()
        };
        clashes.map(|(name, wanted)| (name.clone(), free(name, wanted))).collect()
    };
    rename(&mut part, &names);
    // Parameters are named by what they say.
    for (field, renamed) in [("paths", false), ("parameters", false), ("definitions", true)] {
        let added = take(&mut part, field);
        let Some(have) = document[field].as_object_mut() else { continue };
        for (name, value) in added {
            let name = if renamed { names.get(&name).cloned().unwrap_or(name) } else { name };
            have.entry(name).or_insert(value);
        }
    }
}

/// The descriptions of all servers, and what was last made of them and a table of rows.
#[derive(Debug, Default)]
pub(crate) struct Descriptions {
    said: parking_lot::Mutex<BTreeMap<String, (Arc<Remote>, Description)>>,
    made: arc_swap::ArcSwapOption<Made>,
}

#[derive(Debug)]
struct Made {
    hash: String,
    documents: Documents,
}

/// Who answers.
pub(crate) enum Answered {
    Here(Response<Body>),
    By(Arc<Remote>),
}

impl Descriptions {
    pub(super) fn set(&self, remote: &Arc<Remote>, said: Description) {
        self.said.lock().insert(remote.name.clone(), (Arc::clone(remote), said));
    }

    pub(super) fn forget(&self, name: &str) {
        self.said.lock().remove(name);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.said.lock().is_empty()
    }

    /// Answers an OpenAPI path with which another server has something to do.
    pub(crate) fn answer(&self, rows: &Rows, path: &str, headers: &HeaderMap) -> Option<Answered> {
        let accept = &Accept::read(headers);
        let path = path.strip_prefix("/openapi/")?;
        let mut said: Vec<(Arc<Remote>, Description)> = self.said.lock().values().cloned().collect();
        if said.is_empty() {
            return None;
        }
        match path.strip_prefix("v3/") {
            None if path == "v3" => {
                let mut index = openapi::index(rows);
                for (remote, description) in &said {
                    for (path, item) in &description.paths {
                        if is_its(rows, remote, path) {
                            index["paths"][path.as_str()] = item.clone();
                        }
                    }
                }
                Some(Answered::Here(openapi::respond_index(&Packed::new(index.to_string().as_bytes()), headers)))
            }
            Some(wanted) => {
                let found = said.into_iter().find(|(remote, description)| description.paths.contains_key(wanted) && is_its(rows, remote, wanted));
                found.map(|(remote, _)| Answered::By(remote))
            }
            None if path == "v2" => {
                said.retain(|(_, description)| description.two.is_some());
                (!said.is_empty()).then(|| Answered::Here(self.whole(rows, &mut said, headers, accept)))
            }
            None => None,
        }
    }

    /// The one document of version 2.
    fn whole(&self, rows: &Rows, said: &mut [(Arc<Remote>, Description)], headers: &HeaderMap, accept: &Accept<'_>) -> Response<Body> {
        said.sort_by(|(a, _), (b, _)| b.group_priority.cmp(&a.group_priority).then_with(|| a.name.cmp(&b.name)));
        let parts: Vec<&Arc<Two>> = said.iter().filter_map(|(_, description)| description.two.as_ref()).collect();
        let mut digest = Sha256::new();
        digest.update(openapi::hash_of_all(rows));
        parts.iter().for_each(|two| digest.update(&two.tag));
        let hash = digest.finalize().iter().fold(String::new(), |mut out, byte| {
            let _ = write!(out, "{byte:02X}");
            out
        });
        let made = self.made.load_full().filter(|made| made.hash == hash).unwrap_or_else(|| {
            let made = Arc::new(Made { hash, documents: Documents::default() });
            self.made.store(Some(Arc::clone(&made)));
            made
        });
        let document = || {
            let mut document = openapi::whole(rows);
            parts.iter().for_each(|two| merge(&mut document, &two.document));
            document
        };
        openapi::second(&made.documents, &made.hash, document, headers, accept)
    }
}

/// Whether a document of version 3 is this server's to give: its own version's, or one that nobody here has.
fn is_its(rows: &Rows, remote: &Remote, path: &str) -> bool {
    remote.root().get(1..) == Some(path) || !openapi::has(rows, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn parts_are_put_together() {
        let theirs = json!({
            "paths": {"/apis/g/v1/": {"get": {"$ref": "#/definitions/A"}}, "/apis/g/v2/": {"$ref": "#/definitions/C"}, "/version/": {}},
            "definitions": {"A": {"b": {"$ref": "#/definitions/B"}, "$ref": "#/definitions/Meta"}, "B": {"x": 1}, "C": {}, "Free": {}, "Meta": {"m": 1}},
            "parameters": {"limit-x": {"name": "limit"}},
        });
        let part = filtered(theirs, "/apis/g/v1/");
        assert_eq!(part["paths"].as_object().map(Map::len), Some(1));
        assert_eq!(
            part["definitions"].as_object().map(|all| all.keys().cloned().collect::<Vec<_>>()),
            Some(vec!["A".into(), "B".into(), "Free".into(), "Meta".into()])
        );
        let mut ours = json!({"paths": {"/api/": {}}, "parameters": {}, "definitions": {"B": {"x": 2}, "B_v2": {"x": 3}, "Meta": {"m": 1}}});
        merge(&mut ours, &part);
        assert_eq!(ours["parameters"]["limit-x"]["name"], "limit");
        assert_eq!(ours["definitions"]["B_v3"], json!({"x": 1}), "the next free number");
        assert_eq!(ours["definitions"]["A"]["b"]["$ref"], "#/definitions/B_v3");
        assert_eq!(ours["definitions"]["A"]["$ref"], "#/definitions/Meta");
        assert_eq!((&ours["definitions"]["B"], ours["paths"].as_object().map(Map::len)), (&json!({"x": 2}), Some(2)));
    }
}
