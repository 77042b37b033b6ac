//! The table of what is served: one [`Row`] a resource and version, looked up once per request.
//!
//! The table is immutable and replaced as a whole, so that a request sees one state of it while definitions of custom
//! resources come and go. Rows stand in groups, and what is made of a group (its part of discovery, its OpenAPI) is kept
//! with it: a table that replaces another shares all groups but the one that changed.

use crate::{
    conversion::Reader,
    documents::{Aggregated, Documents},
    family::{Custom, Family},
    frames::Frames,
    stretches::Stretches,
    tallies::{Watched, Written},
};
use kinds::Strategy;
use machinery::apply::FieldSet;
use machinery::{
    Value,
    resources::Resource,
    schema::{Schema, TypeId, TypeRef},
};
use std::{
    collections::HashMap,
    fmt,
    ops::Deref,
    sync::{Arc, OnceLock},
};
use store::{Bucket, FieldsOf, Store};

/// The logic of a kind: part of the program, or made from a definition.
#[derive(Clone)]
pub enum Logic {
    /// A built-in kind's.
    Builtin(&'static dyn Strategy),
    /// A custom kind's.
    Custom(Arc<dyn Strategy>),
}

impl Logic {
    /// A custom kind's, to be shared with another row.
    pub(crate) fn shared(&self) -> Option<Arc<dyn Strategy>> {
        if let Logic::Custom(strategy) = self { Some(Arc::clone(strategy)) } else { None }
    }
}

impl Deref for Logic {
    type Target = dyn Strategy;

    fn deref(&self) -> &Self::Target {
        match self {
            Logic::Builtin(strategy) => *strategy,
            Logic::Custom(strategy) => &**strategy,
        }
    }
}

/// The arena that a row's type lives in.
#[derive(Clone)]
enum Arena {
    /// With the type that requests speak, and the one that lies in the store.
    Builtin(&'static Schema, TypeId, TypeId),
    /// What its types are is found out when an object is first looked at.
    Custom(Arc<Family>, OnceLock<TypeId>),
}

/// By what a resource is counted and told of; it outlives the rows of a definition that changes.
#[derive(Debug)]
pub(crate) struct Labels {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) resource: String,
    /// What watches of it were sent.
    pub(crate) watched: Watched,
    /// What the store was asked to write of it.
    pub(crate) written: Written,
}

impl Labels {
    fn of(resource: &Resource) -> Arc<Labels> {
        let (group, version, resource) = (resource.group.clone(), resource.version.clone(), resource.resource.clone());
        Arc::new(Labels { group, version, resource, watched: Watched::default(), written: Written::default() })
    }
}

/// A served resource with everything that its requests need.
pub struct Row {
    /// Names, scope, verbs, columns.
    pub resource: Resource,
    /// The logic of the kind.
    pub strategy: Logic,
    /// `group/version`, as in `apiVersion`.
    pub api_version: String,
    /// The key prefix of all objects, with a closing slash.
    pub root_key: String,
    /// The objects lie in the store in another version than this row's.
    pub converts: bool,
    /// The logic of the kind that lies in the store: the same but for Events, which two groups serve.
    pub(crate) storage_strategy: Logic,
    /// `kind` of the lists of this resource's objects.
    pub list_kind: String,
    /// What a custom kind has besides.
    pub(crate) custom: Option<Custom>,
    reader: Option<Arc<Reader>>,
    labels: Arc<Labels>,
    bucket: OnceLock<Bucket>,
    frames: Frames,
    stretches: Stretches,
    /// What a stored object of a built-in kind begins with, and an item of a list does not.
    item_prefix: Vec<u8>,
    fields: FieldsOf,
    resets: Vec<(String, FieldSet)>,
    no_resets: FieldSet,
    arena: Arena,
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Row").field("resource", &self.resource.resource).field("api_version", &self.api_version).finish()
    }
}

impl Row {
    /// The row of a built-in resource; `None` if the schema has no type of its kind.
    pub fn builtin(resource: &Resource) -> Option<Row> {
        let schema = machinery::schema::builtin();
        let id = schema.kind(&resource.kind)?.id;
        let storage_id = schema.kind(&resource.storage)?.id;
        let strategy = kinds::strategy(&resource.group, &resource.resource);
        let endpoints = std::iter::once("").chain(resource.subresources.iter().map(|s| s.name.as_str()));
        let storage_strategy = kinds::strategy(&resource.storage.group, &resource.resource);
        let (kind, api_version) = (&resource.kind.kind, resource.api_version());
        Some(Row {
            storage_strategy: Logic::Builtin(storage_strategy),
            list_kind: format!("{kind}List"),
            custom: None,
            reader: None,
            labels: Labels::of(resource),
            stretches: Stretches::default(),
            item_prefix: format!(r#"{{"kind":"{kind}","apiVersion":"{api_version}","#).into(),
            fields: Arc::new(move |value: &machinery::Value| storage_strategy.selectable_fields(value)),
            bucket: OnceLock::new(),
            frames: Frames::default(),
            resets: endpoints.map(|name| (name.to_owned(), FieldSet::from_paths(strategy.reset_fields(name)))).collect(),
            no_resets: FieldSet::new(),
            strategy: Logic::Builtin(strategy),
            api_version,
            root_key: resource.root_key(),
            converts: resource.storage.version != resource.kind.version || resource.storage.group != resource.kind.group,
            resource: resource.clone(),
            arena: Arena::Builtin(schema, id, storage_id),
        })
    }

    /// The row of one version of a custom kind. `labels` are those of the row that it takes the place of.
    pub(crate) fn custom(resource: Resource, list_kind: String, strategy: Arc<dyn Strategy>, custom: Custom, labels: Option<Arc<Labels>>) -> Row {
        let endpoints = std::iter::once("").chain(resource.subresources.iter().map(|s| s.name.as_str()));
        let of_fields = Arc::clone(&strategy);
        let reader = Reader::of(&custom.family, &resource.version, custom.shape, &strategy);
        Row {
            reader,
            storage_strategy: Logic::Custom(Arc::clone(&strategy)),
            list_kind,
            labels: labels.unwrap_or_else(|| Labels::of(&resource)),
            stretches: Stretches::default(),
            item_prefix: Vec::new(),
            fields: Arc::new(move |value: &Value| of_fields.selectable_fields(value)),
            bucket: OnceLock::new(),
            frames: Frames::default(),
            resets: endpoints.map(|name| (name.to_owned(), FieldSet::from_paths(strategy.reset_fields(name)))).collect(),
            no_resets: FieldSet::new(),
            strategy: Logic::Custom(strategy),
            api_version: resource.api_version(),
            root_key: resource.root_key(),
            converts: false,
            arena: Arena::Custom(Arc::clone(&custom.family), OnceLock::new()),
            custom: Some(custom),
            resource,
        }
    }

    /// The same with what another row of the version has converted.
    pub(crate) fn reading_as(mut self, other: &Row) -> Row {
        self.reader.clone_from(&other.reader);
        self
    }

    /// The type that requests speak.
    pub fn ty(&self) -> TypeRef<'_> {
        match &self.arena {
            Arena::Builtin(schema, id, _) => TypeRef { schema, id: *id },
            Arena::Custom(family, id) => {
                // Each version of the family has a type.
                let id = id.get_or_init(|| family.ty(&self.resource.version).map_or(TypeId::default(), |ty| ty.id));
                TypeRef { schema: family.schema(), id: *id }
            }
        }
    }

    /// The type that lies in the store.
    pub fn storage_ty(&self) -> TypeRef<'_> {
        match &self.arena {
            Arena::Builtin(schema, _, id) => TypeRef { schema, id: *id },
            Arena::Custom(..) => self.ty(),
        }
    }

    /// Whether the next look at an object takes longer than the later ones: what its definition says is compiled then.
    pub(crate) fn is_uncompiled(&self) -> bool {
        self.custom.as_ref().is_some_and(|custom| !custom.family.is_compiled())
    }

    /// The type by which objects are written: a custom one's keys are sorted whatever its schema says.
    pub(crate) fn written_ty(&self) -> Option<TypeRef<'_>> {
        self.is_builtin().then(|| self.ty())
    }

    pub(crate) fn labels(&self) -> &Arc<Labels> {
        &self.labels
    }

    /// The fields that a write by this endpoint never owns: those that the strategy resets.
    pub(crate) fn reset_fields(&self, subresource: &str) -> &FieldSet {
        self.resets.iter().find(|(name, _)| name == subresource).map_or(&self.no_resets, |(_, set)| set)
    }

    /// The objects of the row. A row belongs to one server and so to one store.
    pub(crate) fn bucket(&self, store: &Store) -> &Bucket {
        self.bucket.get_or_init(|| store.bucket(&self.root_key))
    }

    /// The encoded events of the row.
    pub(crate) fn frames(&self) -> &Frames {
        &self.frames
    }

    /// The compressed stretches of the row's lists.
    pub(crate) fn stretches(&self) -> &Stretches {
        &self.stretches
    }

    /// What a stored object of a built-in kind begins with, and an item of a list does not.
    pub(crate) fn item_prefix(&self) -> &[u8] {
        &self.item_prefix
    }

    /// Tells the selectable fields of an object that lies in the store.
    pub(crate) fn fields(&self) -> &FieldsOf {
        &self.fields
    }

    /// Whether objects of the type that requests speak have messages of protobuf.
    pub(crate) fn has_messages(&self) -> bool {
        self.is_builtin() && self.ty().object().is_some_and(|object| !object.proto.is_empty())
    }

    /// Whether the kind is the original's own, and not a custom resource's.
    pub(crate) fn is_builtin(&self) -> bool {
        matches!(self.arena, Arena::Builtin(..))
    }

    /// Whether a definition of this name has made it.
    fn is_of(&self, definition: &str) -> bool {
        self.custom.as_ref().is_some_and(|custom| custom.family.definition == definition)
    }

    /// Whether it holds Events, in either of their groups.
    pub(crate) fn holds_events(&self) -> bool {
        matches!((self.resource.group.as_str(), self.resource.resource.as_str()), ("" | "events.k8s.io", "events"))
    }

    /// Who reads what lies in another version, where a webhook converts.
    pub(crate) fn reader(&self) -> Option<&Arc<Reader>> {
        self.reader.as_ref()
    }
}

/// The rows of a group, and what was made of them.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) name: String,
    rows: Vec<Arc<Row>>,
    /// Its part of aggregated discovery.
    pub(crate) discovery: OnceLock<Vec<u8>>,
    /// Its OpenAPI documents.
    pub(crate) documents: Documents,
}

impl Group {
    /// The versions, the preferred one first.
    pub(crate) fn versions(&self) -> Vec<&str> {
        let mut versions: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !versions.contains(&row.resource.version.as_str()) {
                versions.push(&row.resource.version);
            }
        }
        versions
    }

    /// The rows of a version, in the order of their names.
    pub(crate) fn of_version(&self, version: &str) -> Vec<&Arc<Row>> {
        let mut found: Vec<&Arc<Row>> = self.rows.iter().filter(|r| r.resource.version == version).collect();
        found.sort_by(|a, b| a.resource.resource.cmp(&b.resource.resource));
        found
    }
}

/// All rows by group, version and resource.
#[derive(Debug, Default)]
pub struct Rows {
    /// In discovery order.
    groups: Vec<Arc<Group>>,
    index: HashMap<String, Arc<Row>>,
    /// The rows as they were last of versions that definitions serve no more, see [`Rows::past`].
    past: Vec<Arc<Row>>,
    /// The rows that are served and stand in no group, see [`Rows::untold`].
    untold: Vec<Arc<Row>>,
    aggregated: OnceLock<Aggregated>,
    openapi: Documents,
}

impl Rows {
    /// The built-in resources that `served` accepts, in discovery order.
    pub fn builtin(served: impl Fn(&Resource) -> bool) -> Rows {
        let mut groups: Vec<Group> = Vec::new();
        let mut index = HashMap::new();
        let all = machinery::resources::builtin().iter().chain(machinery::resources::metrics());
        for row in all.filter(|r| served(r)).filter_map(Row::builtin).map(Arc::new) {
            let resource = &row.resource;
            index.insert(index_key(&resource.group, &resource.version, &resource.resource), Arc::clone(&row));
            match groups.iter_mut().find(|group| group.name == resource.group) {
                Some(group) => group.rows.push(row),
                None => groups.push(Group { name: resource.group.clone(), rows: vec![row], ..Group::default() }),
            }
        }
        Rows { groups: groups.into_iter().map(Arc::new).collect(), index, ..Rows::default() }
    }

    /// The table in which a definition of this name has these rows, and no others.
    pub(crate) fn with_definition(&self, group: &str, definition: &str, rows: Vec<Arc<Row>>) -> Rows {
        self.with_definitions(&[(group.to_owned(), definition.to_owned(), rows)])
    }

    /// The table in which a definition of this name has no rows and had none.
    pub(crate) fn without_definition(&self, group: &str, definition: &str) -> Rows {
        let mut next = self.with_definition(group, definition, Vec::new());
        next.past.retain(|row| !row.is_of(definition));
        next
    }

    /// The table in which these definitions, each with its group, name and rows, have their rows and no others.
    pub(crate) fn with_definitions(&self, definitions: &[(String, String, Vec<Arc<Row>>)]) -> Rows {
        let mut next = Rows { groups: self.groups.clone(), index: self.index.clone(), past: self.past.clone(), untold: self.untold.clone(), ..Rows::default() };
        for (group, definition, rows) in definitions {
            next.define(group, definition, rows.clone());
        }
        next
    }

    /// Has a definition have these rows, and no others. A version that is built in stays as it is: what is served of it is not for
    /// definitions to add to.
    fn define(&mut self, group: &str, definition: &str, rows: Vec<Arc<Row>>) {
        let Rows { groups, index, past, untold, .. } = self;
        for row in untold.extract_if(.., |row| row.is_of(definition)) {
            index.remove(&index_key(group, &row.resource.version, &row.resource.resource));
        }
        let place = groups.iter().position(|known| known.name == group);
        let mut kept = Vec::new();
        for row in place.into_iter().flat_map(|at| &groups[at].rows) {
            if row.is_of(definition) {
                index.remove(&index_key(group, &row.resource.version, &row.resource.resource));
                past.push(Arc::clone(row));
            } else {
                kept.push(Arc::clone(row));
            }
        }
        let is_builtin = |version: &str| kept.iter().any(|row| row.is_builtin() && row.resource.version == version);
        let added: Vec<Arc<Row>> = rows.into_iter().filter(|row| !is_builtin(&row.resource.version)).collect();
        for row in &added {
            index.insert(index_key(group, &row.resource.version, &row.resource.resource), Arc::clone(row));
        }
        past.retain(|row| !row.is_of(definition) || added.iter().all(|added| added.resource.version != row.resource.version));
        let (told, waiting): (Vec<_>, Vec<_>) = added.into_iter().partition(|row| row.custom.as_ref().is_none_or(|custom| custom.is_told));
        untold.extend(waiting);
        kept.extend(told);
        // A stable sort: what is built in keeps its order.
        kept.sort_by(|a, b| match (a.is_builtin(), b.is_builtin()) {
            (false, false) => by_priority(&a.resource.version, &b.resource.version),
            (a, b) => b.cmp(&a),
        });
        match (place, kept.is_empty()) {
            (Some(at), true) => drop(groups.remove(at)),
            (Some(at), false) => groups[at] = Arc::new(Group { name: group.to_owned(), rows: kept, ..Group::default() }),
            (None, true) => {}
            (None, false) => {
                let first = groups.iter().position(|known| known.rows.iter().all(|row| !row.is_builtin()) && known.name.as_str() > group);
                groups.insert(first.unwrap_or(groups.len()), Arc::new(Group { name: group.to_owned(), rows: kept, ..Group::default() }));
            }
        }
    }

    /// The rows of versions that their definitions serve no more. They answer nothing and are told of nowhere but in OpenAPI v3: upstream's
    /// controller of it (`apiextensions-apiserver/pkg/controller/openapiv3`) forgets what a version was with its definition.
    pub(crate) fn past(&self) -> &[Arc<Row>] {
        &self.past
    }

    /// The rows of definitions that are not established and are served all the same: their names are accepted, and they wait for the
    /// authorities of their webhooks. Upstream's handler of custom resources asks for no more; its controllers of discovery and OpenAPI do.
    pub(crate) fn untold(&self) -> &[Arc<Row>] {
        &self.untold
    }

    /// The row of a resource.
    pub fn get(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<Row>> {
        self.index.get(&index_key(group, version, resource))
    }

    /// The groups in discovery order.
    pub(crate) fn groups(&self) -> &[Arc<Group>] {
        &self.groups
    }

    /// A group by its name.
    pub(crate) fn group(&self, name: &str) -> Option<&Arc<Group>> {
        self.groups.iter().find(|group| group.name == name)
    }

    /// The aggregated discovery documents, made when first asked for.
    pub(crate) fn aggregated(&self, make: impl FnOnce(&Rows) -> Aggregated) -> &Aggregated {
        self.aggregated.get_or_init(|| make(self))
    }

    /// The OpenAPI documents of this table.
    pub(crate) fn openapi(&self) -> &Documents {
        &self.openapi
    }

    /// All rows in discovery order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Row>> {
        self.groups.iter().flat_map(|group| &group.rows)
    }

    /// Whether a group and version is one of the program's own.
    pub(crate) fn is_builtin_version(&self, group: &str, version: &str) -> bool {
        self.group(group).is_some_and(|group| group.rows.iter().any(|r| r.is_builtin() && r.resource.version == version))
    }

    /// Whether any version of a group is the program's own.
    pub(crate) fn is_builtin_group(&self, group: &str) -> bool {
        self.group(group).is_some_and(|group| group.rows.iter().any(|row| row.is_builtin()))
    }

    /// Whether a group and version is served at all.
    pub fn has_version(&self, group: &str, version: &str) -> bool {
        self.group(group).is_some_and(|group| group.rows.iter().any(|r| r.resource.version == version))
    }
}

/// The order of a group's versions: `v2`, `v1`, `v1beta1`, `v1alpha1`, then all others by name (upstream's kube-aware order).
pub(crate) fn by_priority(a: &str, b: &str) -> std::cmp::Ordering {
    /// Major version, stage (stable, beta, alpha), version of the stage.
    fn parts(version: &str) -> Option<(i64, i64, i64)> {
        let rest = version.strip_prefix('v')?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (major, stage) = rest.split_at(end);
        let number = |text: &str| text.parse::<i64>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
        let (stage, minor) = match (stage, stage.strip_prefix("beta"), stage.strip_prefix("alpha")) {
            ("", ..) => (3, 0),
            (_, Some(minor), _) => (2, number(minor)?),
            (_, _, Some(minor)) => (1, number(minor)?),
            _ => return None,
        };
        Some((stage, number(major)?, minor))
    }
    match (parts(a), parts(b)) {
        (Some(a), Some(b)) => b.cmp(&a),
        (Some(_), None) => std::cmp::Ordering::Less,
        (None, Some(_)) => std::cmp::Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

fn index_key(group: &str, version: &str, resource: &str) -> String {
    let mut key = String::with_capacity(group.len() + version.len() + resource.len() + 2);
    for part in [group, "/", version, "/", resource] {
        key.push_str(part);
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_in_the_original_s_order() {
        // The example of the original's documentation of definitions.
        let mut versions = ["v1", "foo10", "v11alpha2", "v10", "v12alpha1", "v3beta1", "v11beta2", "v2", "foo1", "v10beta3"];
        versions.sort_by(|a, b| by_priority(a, b));
        assert_eq!(by_priority("v01", "a"), std::cmp::Ordering::Less, "a number may begin with a zero");
        assert_eq!(versions, ["v10", "v2", "v1", "v11beta2", "v10beta3", "v3beta1", "v12alpha1", "v11alpha2", "foo1", "foo10"]);
    }
}
