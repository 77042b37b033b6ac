//! The rows of the built-in resources: names, scope, verbs, subresources, columns, where and as what they are stored.
//!
//! The rows are generated (`cargo xtask generate`) from the published discovery documents and tables; this module reads
//! them once. Their order is upstream's discovery order: groups by priority, a group's preferred version first.

use crate::{
    Value,
    gvk::{Gvk, Gvr},
    tree::texts,
};
use std::{collections::HashMap, sync::LazyLock};

/// A column of a table (`meta.k8s.io/v1 TableColumnDefinition`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Heading.
    pub name: String,
    /// OpenAPI type of the cells: `string`, `integer`, …
    pub column_type: String,
    /// OpenAPI format; `name` marks the primary identifier.
    pub format: String,
    /// Explanation, may be empty.
    pub description: String,
    /// 0: always shown; 1: with `-o wide`.
    pub priority: i32,
}

/// A subresource such as `status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subresource {
    /// The last part of the path.
    pub name: String,
    /// Verbs, sorted.
    pub verbs: Vec<String>,
    /// The kind that it takes and answers.
    pub kind: Gvk,
}

/// A resource in one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// API group; empty for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Plural name, as in paths.
    pub resource: String,
    /// The kind that it takes and answers.
    pub kind: Gvk,
    /// Singular name.
    pub singular: String,
    /// Abbreviations for the command line.
    pub short_names: Vec<String>,
    /// Groupings such as `all`.
    pub categories: Vec<String>,
    /// Lives in a namespace.
    pub namespaced: bool,
    /// Verbs, sorted.
    pub verbs: Vec<String>,
    /// Subresources, sorted by name.
    pub subresources: Vec<Subresource>,
    /// Served without `--runtime-config`.
    pub served_by_default: bool,
    /// Columns of its table; those of every custom resource if empty.
    pub columns: Vec<Column>,
    /// The version in which objects lie in the store.
    pub storage: Gvk,
    /// Where they lie: `/registry/PREFIX/[NAMESPACE/]NAME`.
    pub prefix: String,
}

impl Resource {
    /// Group, version and plural name.
    pub fn gvr(&self) -> Gvr {
        Gvr { group: self.group.clone(), version: self.version.clone(), resource: self.resource.clone() }
    }

    /// Whether the resource has a verb.
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    /// A subresource by name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// The group and version as in `apiVersion`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The key of all its objects, with a closing slash: `/registry/pods/`.
    pub fn root_key(&self) -> String {
        format!("/registry/{}/", self.prefix)
    }

    /// The key of one object. `namespace` is ignored for cluster-scoped resources.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        if self.namespaced { format!("/registry/{}/{namespace}/{name}", self.prefix) } else { format!("/registry/{}/{name}", self.prefix) }
    }
}

/// The rows, read once.
pub fn builtin() -> &'static [Resource] {
    &ROWS
}

/// The rows of `metrics.k8s.io`, which is no part of the original's API server but of an add-on of it (metrics-server).
pub fn metrics() -> &'static [Resource] {
    static METRICS: LazyLock<Vec<Resource>> = LazyLock::new(|| {
        let mut rows = read(include_str!("../data/metrics_resources.json"));
        // The add-on says something of its first column alone.
        rows.iter_mut().filter_map(|row| row.columns.first_mut()).for_each(|column| column.description = "Name of the resource".to_owned());
        rows
    });
    &METRICS
}

/// The row of a resource.
pub fn find(group: &str, version: &str, resource: &str) -> Option<&'static Resource> {
    static INDEX: LazyLock<HashMap<(&str, &str, &str), usize>> = LazyLock::new(|| {
        let rows = ROWS.iter().enumerate();
        rows.map(|(at, r)| ((r.group.as_str(), r.version.as_str(), r.resource.as_str()), at)).collect()
    });
    INDEX.get(&(group, version, resource)).and_then(|at| ROWS.get(*at))
}

/// The objects that the API makes by itself at start: namespaces, roles, flow schemas, …
pub fn bootstrap_objects() -> Vec<Value> {
    serde_json::from_str(include_str!("../data/bootstrap.json")).unwrap_or_default()
}

/// The paths that `/` lists.
pub fn roots() -> impl Iterator<Item = &'static str> {
    include_str!("../data/roots.txt").lines().filter(|l| !l.is_empty())
}

/// What `/version` answers for the original of this API.
pub fn version() -> Value {
    serde_json::from_str(include_str!("../data/version.json")).unwrap_or_default()
}

static ROWS: LazyLock<Vec<Resource>> = LazyLock::new(|| {
    let mut rows = read(include_str!("../data/resources.json"));
    describe_columns(&mut rows);
    // Versions that are not served by default are printed as the one that is.
    for at in 0..rows.len() {
        let like = |r: &&Resource| r.group == rows[at].group && r.resource == rows[at].resource && !r.columns.is_empty();
        if rows[at].columns.is_empty()
            && let Some(columns) = rows.iter().find(like).map(|r| r.columns.clone())
        {
            rows[at].columns = columns;
        }
    }
    rows
});

fn read(text: &str) -> Vec<Resource> {
    let rows: Vec<Value> = serde_json::from_str(text).unwrap_or_default();
    rows.iter().map(row).collect()
}

/// What columns say of themselves, as a server of this version was seen to answer; many say the same, so texts stand once.
fn describe_columns(rows: &mut [Resource]) {
    let known: Value = serde_json::from_str(include_str!("../data/column_descriptions.json")).unwrap_or_default();
    for row in rows {
        let Some(places) = known["columns"][format!("{}/{}", row.api_version(), row.resource)].as_array() else { continue };
        for (column, place) in row.columns.iter_mut().zip(places) {
            column.description = place.as_u64().map_or_else(String::new, |at| known["texts"][at as usize].as_str().unwrap_or_default().to_owned());
        }
    }
}

fn row(row: &Value) -> Resource {
    let (group, version) = (text(row, "group"), text(row, "version"));
    let own = |kind: &Value| Gvk {
        group: if text(kind, "version").is_empty() { group.clone() } else { text(kind, "group") },
        version: if text(kind, "version").is_empty() { version.clone() } else { text(kind, "version") },
        kind: text(kind, "kind"),
    };
    let kind = own(&row["responseKind"]);
    let subresources = row["subresources"].as_array().map_or(&[][..], Vec::as_slice).iter();
    let columns = row["columns"].as_array().map_or(&[][..], Vec::as_slice).iter();
    Resource {
        resource: text(row, "resource"),
        singular: text(row, "singularResource"),
        short_names: texts(&row["shortNames"]),
        categories: texts(&row["categories"]),
        namespaced: row["scope"] == "Namespaced",
        verbs: texts(&row["verbs"]),
        subresources: subresources.map(|s| Subresource { name: text(s, "subresource"), verbs: texts(&s["verbs"]), kind: own(&s["responseKind"]) }).collect(),
        served_by_default: row["servedByDefault"] == true,
        columns: columns
            .map(|c| Column {
                name: text(c, "name"),
                column_type: text(c, "type"),
                format: text(c, "format"),
                description: String::new(),
                priority: c["priority"].as_i64().and_then(|p| i32::try_from(p).ok()).unwrap_or(0),
            })
            .collect(),
        storage: Gvk {
            group: row["storage"][0].as_str().unwrap_or_default().into(),
            version: row["storage"][1].as_str().unwrap_or_default().into(),
            kind: kind.kind.clone(),
        },
        prefix: text(row, "prefix"),
        kind,
        group,
        version,
    }
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_resources_are_there() {
        assert_eq!(builtin().len(), 100);
        assert_eq!(builtin().iter().filter(|r| r.served_by_default).count(), 72);
    }

    #[test]
    fn every_column_that_is_served_says_what_it_is() {
        for row in builtin().iter().filter(|r| r.served_by_default && r.has_verb("list")) {
            let silent: Vec<&str> = row.columns.iter().filter(|c| c.description.is_empty()).map(|c| c.name.as_str()).collect();
            // The original's own have none there either.
            assert!(silent.is_empty() || silent == ["Handler"], "{} {silent:?}", row.resource);
        }
        let ready = find("", "v1", "pods").and_then(|r| r.columns.iter().find(|c| c.name == "Ready"));
        assert_eq!(ready.map(|c| c.description.as_str()), Some("The aggregate readiness state of this pod for accepting traffic."));
    }

    #[test]
    fn keys_are_those_of_upstream() {
        let key = |g, v, r| find(g, v, r).map(|r| r.key("ns", "x"));
        assert_eq!(key("", "v1", "pods").as_deref(), Some("/registry/pods/ns/x"));
        assert_eq!(key("", "v1", "services").as_deref(), Some("/registry/services/specs/ns/x"));
        assert_eq!(key("", "v1", "nodes").as_deref(), Some("/registry/minions/x"));
        assert_eq!(key("networking.k8s.io", "v1", "ingresses").as_deref(), Some("/registry/ingress/ns/x"));
        let crds = key("apiextensions.k8s.io", "v1", "customresourcedefinitions");
        assert_eq!(crds.as_deref(), Some("/registry/apiextensions.k8s.io/customresourcedefinitions/x"));
    }

    #[test]
    fn every_row_and_storage_kind_has_a_type() {
        assert_eq!(metrics().len(), 2);
        for row in builtin().iter().chain(metrics()) {
            assert!(crate::schema::builtin().kind(&row.kind).is_some(), "{:?}", row.kind);
            assert!(crate::schema::builtin().kind(&row.storage).is_some(), "{:?}", row.storage);
        }
    }
}
