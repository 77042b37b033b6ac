//! From a definition to the rows of its served versions: names, scope, subresources, columns, strategy. Their schemas are read when an
//! object is first looked at.

use super::outline::Outline;
use crate::{
    conversion::{Setting, Webhook},
    family::{Custom, Digest, Entrance, Family, next_shape},
    rows::{Row, Rows, by_priority},
    table::OBJECT_DOCS,
};
use bytes::Bytes;
use kinds::{
    custom::{self, Cell, Described},
    definitions::{holds, waits_for_trust},
};
use kubecel::regex::Patterns;
use machinery::{
    Value,
    apply::FieldSet,
    gvk::{self, Gvk},
    json_path::JsonPath,
    resources::{Column, Resource, Subresource},
};
use serde_json::json;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

const VERBS: [&str; 8] = ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
/// The verbs of a subresource.
const PART_VERBS: [&str; 3] = ["get", "patch", "update"];
/// A definition that is served: by what its rows are known, and they.
pub(super) struct Compiled {
    group: String,
    state: State,
    terminating: bool,
    pub(super) rows: Vec<Arc<Row>>,
    /// The row of the version in which instances are stored, served or not.
    pub(super) instances: Arc<Row>,
}

/// What rows are made of: the definition's UID, spec and accepted names, and whether others are told of it.
#[derive(Debug, Clone, PartialEq)]
struct State {
    uid: String,
    spec: Bytes,
    accepted: Value,
    is_told: bool,
}

impl State {
    fn of(definition: &Outline) -> State {
        let Outline { value, spec, .. } = definition;
        let (uid, accepted) = (text(&value["metadata"], "uid").to_owned(), value["status"]["acceptedNames"].clone());
        State { uid, spec: spec.clone(), accepted, is_told: !waits_for_trust(value) }
    }
}

impl Compiled {
    /// The definition's group.
    pub(super) fn group(&self) -> &str {
        &self.group
    }

    /// Whether its rows are those of another state of the definition, too.
    pub(super) fn is_of(&self, definition: &Outline) -> bool {
        self.state == State::of(definition)
    }

    /// Whether its rows say of the definition's end what it says of it.
    pub(super) fn is_as_final(&self, definition: &Value) -> bool {
        self.terminating == is_terminating(definition)
    }

    /// Its rows with what the definition's end changes. Watches go on, and so does what is known of its objects.
    pub(super) fn ending(&self, definition: &Value) -> Compiled {
        let terminating = is_terminating(definition);
        let rows = self.rows.iter().filter_map(|row| {
            let custom = Custom { terminating, ..row.custom.clone()? };
            let strategy = row.strategy.shared()?;
            let next = Row::custom(row.resource.clone(), row.list_kind.clone(), strategy, custom, Some(Arc::clone(row.labels())));
            Some(Arc::new(next.reading_as(row)))
        });
        Compiled { rows: rows.collect(), group: self.group.clone(), state: self.state.clone(), terminating, instances: Arc::clone(&self.instances) }
    }

    /// Ends what goes on with its rows.
    pub(super) fn end(&self) {
        self.rows.iter().filter_map(|row| row.custom.as_ref()).for_each(|custom| custom.ended.cancel());
    }
}

/// Whether the definition is to go.
fn is_terminating(definition: &Value) -> bool {
    !definition["metadata"]["deletionTimestamp"].is_null() || holds(definition, "Terminating")
}

/// Compiles a definition whose names are accepted. `present` is the table that its rows will come into, `entrance` the way in for its
/// objects, `setting` what its webhook is made with.
pub(super) fn compile(outline: &Outline, present: &Rows, entrance: Arc<Entrance>, setting: Setting<'_>) -> Option<Compiled> {
    let definition = &outline.value;
    let spec = &definition["spec"];
    let names = &definition["status"]["acceptedNames"];
    let (group, kind) = (text(spec, "group"), text(names, "kind"));
    let versions = spec["versions"].as_array().map_or(&[][..], Vec::as_slice);
    let gvk = |version: &str| Gvk::new(group, version, kind);
    let storage = versions.iter().find(|v| v["storage"] == true).map_or("", |v| text(v, "name"));
    let texts = versions.iter().zip(&outline.versions);
    let described: Vec<(String, Arc<Described>)> = texts.map(|(v, said)| (text(v, "name").to_owned(), Described::by(said.clone()))).collect();
    let named = json!([names, &spec["scope"]]).to_string().into_bytes();
    let name = text(&definition["metadata"], "name").to_owned();
    let webhook = Webhook::of(&spec["conversion"], &name, setting);
    let family = Arc::new(Family::new(name, &gvk(storage), described.clone(), webhook, entrance));
    let ended = CancellationToken::new();
    let patterns = Patterns::default();
    let scales: Arc<[(String, FieldSet)]> = versions.iter().map(|version| (gvk::api_version(group, text(version, "name")), replicas(version))).collect();
    let row = |version: &Value| {
        let name = text(version, "name");
        let resource = resource(definition, version, gvk(storage));
        let described = described.iter().find(|(known, _)| known == name).map(|(_, described)| Arc::clone(described))?;
        let custom = Custom {
            shape: next_shape(),
            scale: scale(version),
            scales: Arc::clone(&scales),
            deprecation: deprecation(spec, version),
            is_told: !waits_for_trust(definition),
            terminating: is_terminating(definition),
            digest: Digest::new(Arc::clone(&described), named.clone()),
            ended: ended.clone(),
            described: Arc::clone(&described),
            family: Arc::clone(&family),
        };
        let before = present.get(group, name, &resource.resource).filter(|row| row.custom.is_some());
        let labels = before.map(|row| Arc::clone(row.labels()));
        let strategy = Arc::new(strategy(version, &resource, described, patterns.clone()));
        Some(Arc::new(Row::custom(resource, text(names, "listKind").to_owned(), strategy, custom, labels)))
    };
    let rows: Vec<Arc<Row>> = versions.iter().filter(|version| version["served"] == true).filter_map(row).collect();
    let stored = rows.iter().find(|row| row.resource.version == storage).cloned();
    let instances = stored.or_else(|| row(versions.iter().find(|version| version["storage"] == true)?))?;
    Some(Compiled { group: group.to_owned(), state: State::of(outline), terminating: is_terminating(definition), rows, instances })
}

fn resource(definition: &Value, version: &Value, storage: Gvk) -> Resource {
    let (spec, names) = (&definition["spec"], &definition["status"]["acceptedNames"]);
    let (group, plural) = (text(spec, "group").to_owned(), text(names, "plural").to_owned());
    let kind = Gvk::new(group.as_str(), text(version, "name"), text(names, "kind"));
    let mut subresources = Vec::new();
    let verbs = |verbs: &[&str]| verbs.iter().map(|verb| (*verb).to_owned()).collect::<Vec<_>>();
    let mut part = |name: &str, kind: Gvk| subresources.push(Subresource { name: name.to_owned(), verbs: verbs(&PART_VERBS), kind });
    if version["subresources"]["status"].is_object() {
        part("status", kind.clone());
    }
    if version["subresources"]["scale"].is_object() {
        part("scale", Gvk::new("autoscaling", "v1", "Scale"));
    }
    Resource {
        prefix: format!("{group}/{plural}"),
        version: kind.version.clone(),
        singular: text(names, "singular").to_owned(),
        short_names: texts(names, "shortNames"),
        categories: texts(names, "categories"),
        namespaced: spec["scope"] == "Namespaced",
        verbs: verbs(&VERBS),
        served_by_default: true,
        columns: columns(version),
        resource: plural,
        subresources,
        storage,
        kind,
        group,
    }
}

/// The columns that the definition asks for; the age alone if it asks for none.
fn wanted_columns(version: &Value) -> Vec<(Column, String)> {
    let of = |column: &Value| {
        let path = text(column, "jsonPath").to_owned();
        let description = match text(column, "description") {
            "" => format!("Custom resource definition column (in JSONPath format): {path}"),
            said => said.to_owned(),
        };
        let priority = column["priority"].as_i64().and_then(|p| i32::try_from(p).ok()).unwrap_or(0);
        let (name, column_type, format) = (text(column, "name").to_owned(), text(column, "type").to_owned(), text(column, "format").to_owned());
        (Column { name, column_type, format, description, priority }, path)
    };
    match version["additionalPrinterColumns"].as_array() {
        // Upstream's Table ends before the first column whose path it cannot read.
        Some(columns) if !columns.is_empty() => columns.iter().map(of).take_while(|(_, path)| JsonPath::parse(path).is_some()).collect(),
        _ => {
            let age = Column { name: "Age".into(), column_type: "date".into(), format: String::new(), description: OBJECT_DOCS.1.clone(), priority: 0 };
            vec![(age, ".metadata.creationTimestamp".to_owned())]
        }
    }
}

fn columns(version: &Value) -> Vec<Column> {
    let name = Column { name: "Name".into(), column_type: "string".into(), format: "name".into(), description: OBJECT_DOCS.0.clone(), priority: 0 };
    std::iter::once(name).chain(wanted_columns(version).into_iter().map(|(column, _)| column)).collect()
}

fn strategy(version: &Value, resource: &Resource, described: Arc<Described>, patterns: Patterns) -> custom::Custom {
    let selectable = version["selectableFields"].as_array().into_iter().flatten().filter_map(|field| {
        let path = text(field, "jsonPath");
        Some((path.strip_prefix('.').unwrap_or(path).to_owned().into(), JsonPath::parse(path)?))
    });
    let cells = wanted_columns(version).into_iter();
    custom::Custom {
        kind: resource.kind.clone(),
        namespaced: resource.namespaced,
        has_status: version["subresources"]["status"].is_object(),
        scale: scale(version),
        selectable: selectable.collect(),
        cells: cells.map(|(column, path)| Cell { path: JsonPath::parse(&path), column_type: column.column_type }).collect(),
        rules: custom::LazyRules::default(),
        patterns,
        node: Arc::default(),
        version: described,
    }
}

fn scale(version: &Value) -> Option<custom::Scale> {
    let scale = version.get("subresources")?.get("scale").filter(|scale| scale.is_object())?;
    Some(custom::Scale {
        spec_replicas: text(scale, "specReplicasPath").to_owned(),
        status_replicas: text(scale, "statusReplicasPath").to_owned(),
        selector: text(scale, "labelSelectorPath").to_owned(),
    })
}

/// The replicas of a version's objects; nothing if it has no `scale`.
fn replicas(version: &Value) -> FieldSet {
    let Some(scale) = scale(version) else { return FieldSet::new() };
    FieldSet::from_paths(&[scale.spec_path().as_slice()])
}

/// What the clients of a deprecated version are told: the definition's own words, or upstream's.
fn deprecation(spec: &Value, version: &Value) -> Option<String> {
    if version["deprecated"] != true {
        return None;
    }
    if let Some(warning) = version["deprecationWarning"].as_str() {
        return Some(warning.to_owned());
    }
    let (group, kind, name) = (text(spec, "group"), text(&spec["names"], "kind"), text(version, "name"));
    let versions = spec["versions"].as_array().into_iter().flatten();
    let mut better: Vec<&str> = versions.filter(|v| v["served"] == true && v["deprecated"] != true).map(|v| text(v, "name")).collect();
    better.retain(|other| by_priority(other, name).is_lt());
    better.sort_by(|a, b| by_priority(a, b));
    let instead = better.first().map(|best| format!("; use {group}/{best} {kind}")).unwrap_or_default();
    Some(format!("{group}/{name} {kind} is deprecated{instead}"))
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

fn texts(value: &Value, key: &str) -> Vec<String> {
    value[key].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{hooks::Itself, openapi};

    /// The rows of a definition that serves these of its versions.
    fn rows(served: &[&str], present: &Rows) -> Vec<Arc<Row>> {
        rows_of(served, &json!([]), present)
    }

    fn rows_of(served: &[&str], conditions: &Value, present: &Rows) -> Vec<Arc<Row>> {
        let version = |name: &&str| json!({"name": name, "served": served.contains(name), "storage": *name == "v2"});
        let versions: Vec<Value> = ["v1", "v2"].iter().map(version).collect();
        let names = json!({"plural": "as", "singular": "a", "kind": "A", "listKind": "AList"});
        let spec = json!({"group": "g.io", "scope": "Cluster", "names": names, "versions": versions});
        let value = json!({"metadata": {"name": "as.g.io", "uid": "u"}, "spec": spec, "status": {"acceptedNames": names, "conditions": conditions}});
        let texts = versions.iter().map(|version| Bytes::from(version.to_string())).collect();
        let outline = Outline { value, spec: Bytes::from(spec.to_string()), versions: texts };
        let setting = Setting { itself: &Itself::default(), now: 0, counts: &Arc::default() };
        compile(&outline, present, Entrance::new(), setting).map(|compiled| compiled.rows).expect("rows")
    }

    #[test]
    fn a_table_ends_before_a_column_that_cannot_be_read() {
        let column = |name: &str, path: &str| json!({"name": name, "type": "string", "jsonPath": path});
        let named = |paths: &[&str]| {
            let all: Vec<Value> = paths.iter().map(|path| column(path, path)).collect();
            columns(&json!({"additionalPrinterColumns": all})).into_iter().map(|column| column.name).collect::<Vec<_>>()
        };
        assert_eq!(named(&[".a", ".b[", ".c"]), ["Name", ".a"]);
        assert_eq!(named(&[".a", ".c"]), ["Name", ".a", ".c"]);
        assert_eq!(named(&[]), ["Name", "Age"]);
    }

    #[test]
    fn a_version_that_is_served_no_more_is_described_until_the_definition_goes() {
        let with = |table: &Rows, served: &[&str]| table.with_definition("g.io", "as.g.io", rows(served, table));
        let both = with(&Rows::default(), &["v1", "v2"]);
        let one = with(&both, &["v2"]);
        assert!(both.past().is_empty() && one.get("g.io", "v1", "as").is_none() && openapi::has(&one, "apis/g.io/v1"));
        let none = with(&one, &[]);
        assert!(none.groups().is_empty() && openapi::has(&none, "apis/g.io/v1") && openapi::has(&none, "apis/g.io/v2"));
        let back = with(&none, &["v1", "v2"]);
        assert!(back.past().is_empty() && back.get("g.io", "v1", "as").is_some());
        assert!(!openapi::has(&none.without_definition("g.io", "as.g.io"), "apis/g.io/v1"));
    }

    #[test]
    fn who_waits_for_a_bundle_is_served_and_not_told_of() {
        let waits = json!([{"type": "Established", "status": "False", "reason": "InvalidCABundle"}]);
        let table = Rows::default();
        let waiting = table.with_definition("g.io", "as.g.io", rows_of(&["v1"], &waits, &table));
        assert!(waiting.get("g.io", "v1", "as").is_some() && waiting.groups().is_empty() && !openapi::has(&waiting, "apis/g.io/v1"));
        assert!(waiting.without_definition("g.io", "as.g.io").get("g.io", "v1", "as").is_none());
        let established = waiting.with_definition("g.io", "as.g.io", rows(&["v1"], &waiting));
        assert!(established.untold().is_empty() && established.past().is_empty() && openapi::has(&established, "apis/g.io/v1"));
    }
}
