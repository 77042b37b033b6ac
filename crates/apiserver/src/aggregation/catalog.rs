//! What aggregated servers say they serve, and how it stands in discovery beside what is served here.
//!
//! One version of a group is one entry, as `apidiscovery.k8s.io` tells it: taken from the server's own aggregated discovery, or made
//! of its older lists where it has none. It is copied field by field, so that what a server makes up gets no further. An entry
//! whose server could not be asked is there without resources and marked `Stale`; clients then tell their users of that group
//! alone. Of a version that is served here too the aggregated one is told, since it is the one that answers.

use super::{
    ask::{self, Question},
    remote::Remote,
};
use crate::{
    bootstrap, discovery,
    documents::Aggregated,
    hooks::Services,
    negotiate::Accept,
    read::{items, text},
    rows::{Group, Rows, by_priority},
};
use machinery::Value;
use serde_json::json;
use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

/// How long a server may take to say what it serves.
const ASK_MAX: Duration = Duration::from_secs(5);
/// How often it is asked, and the longest wait after a failure (upstream's `discoveryRefreshInterval`).
pub(super) const EVERY: Duration = Duration::from_secs(60);
/// The first wait after a failure.
pub(super) const RETRY_MIN: Duration = Duration::from_millis(500);
const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
/// The priority of the group that APIServices are of: it stands before all others.
const OWN_PRIORITY: i64 = 20_001;
/// The priorities of definitions' groups and versions.
const CUSTOM_PRIORITIES: (i64, i64) = (1000, 100);

/// A version of a group that another server serves.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) priorities: (i64, i64),
    /// As aggregated discovery has it.
    pub(super) value: Value,
}

impl Entry {
    pub(super) fn new(remote: &Remote, said: Result<&Value, &str>) -> Entry {
        let mut value = said.cloned().unwrap_or_else(|_| json!({}));
        value["version"] = remote.version.as_str().into();
        value["freshness"] = if said.is_ok() { "Current" } else { "Stale" }.into();
        let priorities = (remote.group_priority, remote.version_priority);
        Entry { group: remote.group.clone(), version: remote.version.clone(), priorities, value }
    }
}

/// What a server has said, with the tag by which it says whether that has changed.
#[derive(Debug, Default)]
pub(super) struct Known {
    tag: String,
    entry: Value,
}

/// Asks a server what it serves of its version.
///
/// # Errors
/// It did not say, or not in a way that can be read.
pub(super) async fn ask(services: &dyn Services, remote: &Arc<Remote>, known: &mut Known) -> Result<Value, String> {
    let tag = Some(known.tag.as_str()).filter(|tag| !tag.is_empty());
    let question = Question { path: "/apis", user: "system:kube-aggregator", groups: &["system:masters"], accept: ACCEPT, known: tag };
    let answer = ask::get(services, remote, question, ASK_MAX).await?;
    let media = answer.header(http::header::CONTENT_TYPE);
    let is_aggregated = ["g=apidiscovery.k8s.io", "v=v2", "as=APIGroupDiscoveryList"].iter().all(|part| media.split(';').any(|told| told.trim() == *part));
    match answer.code {
        304 if tag.is_some() => Ok(known.entry.clone()),
        503 => Err(format!("the server answered with code {}", answer.code)),
        200 if is_aggregated => {
            let list = machinery::json::read(&answer.body).map_err(|error| error.to_string())?;
            let group = items(&list["items"]).iter().find(|group| text(&group["metadata"], "name") == remote.group);
            let entry = group.and_then(|group| items(&group["versions"]).iter().find(|version| text(version, "version") == remote.version));
            let entry = entry.map_or_else(|| Ok(json!({})), copied)?;
            *known = Known { tag: answer.header(http::header::ETAG).to_owned(), entry: entry.clone() };
            Ok(entry)
        }
        _ => legacy(services, remote).await,
    }
}

/// From the list of a version's resources, as older servers have it.
async fn legacy(services: &dyn Services, remote: &Arc<Remote>) -> Result<Value, String> {
    let question = Question { path: &remote.root(), user: "system:kube-aggregator", groups: &[], accept: "application/json", known: None };
    let answer = ask::get(services, remote, question, ASK_MAX).await?;
    if answer.code != 200 {
        return Err(format!("failed to download legacy discovery for {}: code {}", remote.root(), answer.code));
    }
    let told = machinery::json::read(&answer.body).map_err(|error| error.to_string())?;
    if !matches!((text(&told, "apiVersion"), text(&told, "kind")), ("" | "v1", "" | "APIResourceList")) {
        return Err(format!("what {} is answered with is no list of resources", remote.root()));
    }
    converted(&told)
}

fn wrong(field: &str) -> String {
    format!("{field} is not what it should be")
}

/// The texts of a list.
fn texts(value: &Value, field: &str) -> Result<Vec<String>, String> {
    match &value[field] {
        Value::Null => Ok(Vec::new()),
        Value::Array(all) => all.iter().map(|one| one.as_str().map(str::to_owned).ok_or_else(|| wrong(field))).collect(),
        _ => Err(wrong(field)),
    }
}

fn own_text(value: &Value, field: &str) -> Result<String, String> {
    match &value[field] {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text.clone()),
        _ => Err(wrong(field)),
    }
}

fn list<'v>(value: &'v Value, field: &str) -> Result<&'v [Value], String> {
    match &value[field] {
        Value::Null => Ok(&[]),
        Value::Array(all) => Ok(all),
        _ => Err(wrong(field)),
    }
}

/// A kind; an empty one where there is none, which old clients want.
fn kind(value: &Value) -> Result<Value, String> {
    Ok(json!({"group": own_text(value, "group")?, "version": own_text(value, "version")?, "kind": own_text(value, "kind")?}))
}

/// A version as it was told, with the fields that it may have.
fn copied(version: &Value) -> Result<Value, String> {
    let resources = list(version, "resources")?.iter().map(resource).collect::<Result<Vec<Value>, String>>()?;
    Ok(with(json!({}), "resources", resources))
}

fn resource(told: &Value) -> Result<Value, String> {
    let value = json!({
        "resource": own_text(told, "resource")?,
        "responseKind": kind(&told["responseKind"])?,
        "scope": own_text(told, "scope")?,
        "singularResource": own_text(told, "singularResource")?,
        "verbs": texts(told, "verbs")?,
    });
    let value = with(with(value, "shortNames", texts(told, "shortNames")?), "categories", texts(told, "categories")?);
    let subresources = list(told, "subresources")?.iter().map(|told| {
        let value = json!({"subresource": own_text(told, "subresource")?, "responseKind": kind(&told["responseKind"])?, "verbs": texts(told, "verbs")?});
        let accepted = list(told, "acceptedTypes")?.iter().map(kind).collect::<Result<Vec<Value>, String>>()?;
        Ok(with(value, "acceptedTypes", accepted))
    });
    Ok(with(value, "subresources", subresources.collect::<Result<Vec<Value>, String>>()?))
}

/// A list that is left out if it is empty.
fn with<T: Into<Value>>(mut value: Value, field: &str, all: Vec<T>) -> Value {
    if !all.is_empty() {
        value[field] = all.into_iter().map(Into::into).collect::<Vec<Value>>().into();
    }
    value
}

/// A version made of an `APIResourceList` (upstream's `ConvertGroupVersionIntoToDiscovery`).
fn converted(told: &Value) -> Result<Value, String> {
    let mut resources: Vec<Value> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    let scope = |told: &Value| if told["namespaced"].as_bool().unwrap_or_default() { "Namespaced" } else { "Cluster" };
    for told in list(told, "resources")? {
        let name = own_text(told, "name")?;
        if name.contains('/') {
            continue;
        }
        let value = json!({
            "resource": name, "responseKind": kind(told)?, "scope": scope(told),
            "singularResource": own_text(told, "singularName")?, "verbs": texts(told, "verbs")?,
        });
        places.insert(name, resources.len());
        resources.push(with(with(value, "shortNames", texts(told, "shortNames")?), "categories", texts(told, "categories")?));
    }
    for told in list(told, "resources")? {
        let name = own_text(told, "name")?;
        let Some((parent, part)) = name.split_once('/') else { continue };
        let place = *places.entry(parent.to_owned()).or_insert_with(|| {
            let kind = json!({"group": "", "version": "", "kind": ""});
            resources.push(json!({"resource": parent, "responseKind": kind, "scope": scope(told), "singularResource": "", "verbs": []}));
            resources.len() - 1
        });
        let above = &mut resources[place];
        if above["scope"] != scope(told) {
            return Err(format!("Error: parent {parent} and subresource {part} scope do not match"));
        }
        if above["subresources"].is_null() {
            above["subresources"] = json!([]);
        }
        if let Some(parts) = above["subresources"].as_array_mut() {
            parts.push(json!({"subresource": part, "responseKind": kind(told)?, "verbs": texts(told, "verbs")?}));
        }
    }
    Ok(with(json!({}), "resources", resources))
}

/// The entries of all servers, and the documents that were last made of them and a table of rows.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    entries: parking_lot::Mutex<BTreeMap<String, Arc<Entry>>>,
    made: arc_swap::ArcSwapOption<Made>,
}

#[derive(Debug)]
struct Made {
    rows: Arc<Rows>,
    entries: Vec<Arc<Entry>>,
    documents: Aggregated,
}

impl Catalog {
    /// Puts an entry in, or takes it out.
    pub(super) fn set(&self, name: &str, entry: Option<Entry>) {
        let mut entries = self.entries.lock();
        match entry {
            None => drop(entries.remove(name)),
            Some(entry) if entries.get(name).is_some_and(|known| **known == entry) => {}
            Some(entry) => drop(entries.insert(name.to_owned(), Arc::new(entry))),
        }
    }

    /// Answers a path of aggregated discovery; none if nothing is to be said of other servers.
    pub(crate) fn answer(&self, rows: &Arc<Rows>, path: &str, headers: &http::HeaderMap, accept: &Accept<'_>) -> Option<http::Response<crate::Body>> {
        let entries: Vec<Arc<Entry>> = self.entries.lock().values().cloned().collect();
        if entries.is_empty() {
            return None;
        }
        let encoding = discovery::aggregated_encoding(accept)?;
        let made = self.made.load_full().filter(|made| Arc::ptr_eq(&made.rows, rows) && same(&made.entries, &entries));
        let made = made.unwrap_or_else(|| {
            let made = Arc::new(Made { rows: Arc::clone(rows), documents: documents(rows, &entries), entries });
            self.made.store(Some(Arc::clone(&made)));
            made
        });
        match path.trim_matches('/') {
            "api" => Some(discovery::aggregated(&made.documents.core, encoding, headers)),
            "apis" => Some(discovery::aggregated(&made.documents.groups, encoding, headers)),
            _ => None,
        }
    }
}

fn same(a: &[Arc<Entry>], b: &[Arc<Entry>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

/// A group in the order of discovery.
struct Place<'a, T> {
    name: &'a str,
    priority: i64,
    here: Option<&'a Arc<Group>>,
    elsewhere: Vec<&'a T>,
}

/// Priorities of a group's version that is served here.
fn priorities(group: &str, version: &str) -> (i64, i64) {
    match bootstrap::priorities(group, version) {
        Some(known) => known,
        None if group == "apiregistration.k8s.io" => (OWN_PRIORITY, 0),
        None => CUSTOM_PRIORITIES,
    }
}

/// All groups, those of higher priority first, then by name.
fn places<'a, T>(rows: &'a Rows, others: &'a [T], of: impl Fn(&'a T) -> (&'a str, i64)) -> Vec<Place<'a, T>> {
    let mut places: Vec<Place<'a, T>> = Vec::new();
    for group in rows.groups() {
        let name = group.name.as_str();
        let priority = group.versions().iter().map(|version| priorities(name, version).0).max().unwrap_or_default();
        places.push(Place { name, priority, here: Some(group), elsewhere: Vec::new() });
    }
    for other in others {
        let (name, priority) = of(other);
        match places.iter_mut().find(|place| place.name == name) {
            Some(place) => {
                place.priority = place.priority.max(priority);
                place.elsewhere.push(other);
            }
            None => places.push(Place { name, priority, here: None, elsewhere: vec![other] }),
        }
    }
    places.sort_by(|a, b| b.priority.cmp(&a.priority).then_with(|| a.name.cmp(b.name)));
    places
}

/// Versions of a higher priority first, then in Kubernetes' own order.
fn version_order((a_priority, a): (i64, &str), (b_priority, b): (i64, &str)) -> Ordering {
    b_priority.cmp(&a_priority).then_with(|| by_priority(a, b))
}

/// The aggregated documents of a table of rows and of other servers' versions.
fn documents(rows: &Rows, entries: &[Arc<Entry>]) -> Aggregated {
    let places = places(rows, entries, |entry| (&entry.group, entry.priorities.0));
    let (core, groups): (Vec<_>, Vec<_>) = places.into_iter().partition(|place| place.name.is_empty());
    let document = |places: Vec<Place<'_, Arc<Entry>>>| {
        let parts: Vec<Vec<u8>> = places.iter().map(part).collect();
        discovery::document(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
    };
    Aggregated { core: document(core), groups: document(groups) }
}

fn part(place: &Place<'_, Arc<Entry>>) -> Vec<u8> {
    let nothing = || json!({"metadata": {"name": place.name}, "versions": []});
    let mut value = match place.here {
        Some(group) if place.elsewhere.is_empty() => return discovery::part(group).to_vec(),
        here => here.map_or_else(nothing, |group| discovery::aggregated_group(group)),
    };
    if let Some(versions) = value["versions"].as_array_mut() {
        versions.retain(|version| !place.elsewhere.iter().any(|entry| version["version"] == entry.version.as_str()));
        versions.extend(place.elsewhere.iter().map(|entry| entry.value.clone()));
        let priority = |version: &str| {
            let other = place.elsewhere.iter().find(|entry| entry.version == version);
            other.map_or_else(|| priorities(place.name, version).1, |entry| entry.priorities.1)
        };
        versions.sort_by(|a, b| version_order((priority(text(a, "version")), text(a, "version")), (priority(text(b, "version")), text(b, "version"))));
    }
    discovery::told::in_order(&value)
}

/// `/apis`, or `/apis/GROUP`, in their older form; none if no other server has anything to do with it.
pub(crate) fn plain(rows: &Rows, remotes: &[Arc<Remote>], path: &str) -> Option<Value> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let places = || places(rows, remotes, |remote| (&remote.group, remote.group_priority));
    match parts.as_slice() {
        ["apis"] if !remotes.is_empty() => {
            let groups: Vec<Value> = places().iter().filter(|place| !place.name.is_empty()).map(group).collect();
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        ["apis", name] if remotes.iter().any(|remote| remote.group == *name) => {
            let mut value = group(places().iter().find(|place| place.name == *name)?);
            value["kind"] = "APIGroup".into();
            value["apiVersion"] = "v1".into();
            Some(value)
        }
        _ => None,
    }
}

fn group(place: &Place<'_, Arc<Remote>>) -> Value {
    let name = place.name;
    let here = place.here.into_iter().flat_map(|group| group.versions()).filter(|version| !place.elsewhere.iter().any(|remote| remote.version == *version));
    let here = here.map(|version| (priorities(name, version).1, version));
    let mut versions: Vec<(i64, &str)> = here.chain(place.elsewhere.iter().map(|remote| (remote.version_priority, remote.version.as_str()))).collect();
    versions.sort_by(|a, b| version_order(*a, *b));
    let versions: Vec<Value> = versions.into_iter().map(|(_, version)| json!({"groupVersion": format!("{name}/{version}"), "version": version})).collect();
    json!({"name": name, "preferredVersion": versions.first(), "versions": versions})
}
