//! The table of what is served: one [`Row`] a resource and version, looked up once per request.
//!
//! The table is immutable and replaced as a whole, so that a request sees one state of it and custom resources can
//! be added at run time.

use crate::{
    documents::{Aggregated, Documents},
    frames::Frames,
    stretches::Stretches,
};
use kinds::Strategy;
use machinery::apply::FieldSet;
use machinery::{
    resources::Resource,
    schema::{Schema, TypeId, TypeRef},
};
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, OnceLock},
};
use store::{Bucket, FieldsOf, Store};

/// The arena that a row's type lives in.
#[derive(Clone)]
enum Arena {
    Builtin(&'static Schema),
    #[allow(dead_code, reason = "custom resources build their own arenas")]
    Own(Arc<Schema>),
}

/// A served resource with everything that its requests need.
pub struct Row {
    /// Names, scope, verbs, columns.
    pub resource: Resource,
    /// The logic of the kind.
    pub strategy: &'static dyn Strategy,
    /// `group/version`, as in `apiVersion`.
    pub api_version: String,
    /// The key prefix of all objects, with a closing slash.
    pub root_key: String,
    /// The objects lie in the store in another version than this row's.
    pub converts: bool,
    /// The logic of the kind that lies in the store: the same but for Events, which two groups serve.
    pub(crate) storage_strategy: &'static dyn Strategy,
    bucket: OnceLock<Bucket>,
    frames: Frames,
    stretches: Stretches,
    /// What a stored object of a built-in kind begins with, and an item of a list does not.
    item_prefix: Vec<u8>,
    fields: FieldsOf,
    resets: Vec<(String, FieldSet)>,
    no_resets: FieldSet,
    arena: Arena,
    id: TypeId,
    storage_id: TypeId,
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
            storage_strategy,
            stretches: Stretches::default(),
            item_prefix: format!(r#"{{"kind":"{kind}","apiVersion":"{api_version}","#).into(),
            fields: Arc::new(move |value: &machinery::Value| storage_strategy.selectable_fields(value)),
            bucket: OnceLock::new(),
            frames: Frames::default(),
            resets: endpoints.map(|name| (name.to_owned(), FieldSet::from_paths(strategy.reset_fields(name)))).collect(),
            no_resets: FieldSet::new(),
            strategy,
            api_version,
            root_key: resource.root_key(),
            converts: resource.storage.version != resource.kind.version || resource.storage.group != resource.kind.group,
            resource: resource.clone(),
            arena: Arena::Builtin(schema),
            id,
            storage_id,
        })
    }

    /// The type that requests speak.
    pub fn ty(&self) -> TypeRef<'_> {
        TypeRef { schema: self.schema(), id: self.id }
    }

    /// The type that lies in the store.
    pub fn storage_ty(&self) -> TypeRef<'_> {
        TypeRef { schema: self.schema(), id: self.storage_id }
    }

    /// `kind` of the list of this resource's objects.
    pub fn list_kind(&self) -> String {
        format!("{}List", self.resource.kind.kind)
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

    /// Whether the kind is the original's own, and not a custom resource's.
    pub(crate) fn is_builtin(&self) -> bool {
        matches!(self.arena, Arena::Builtin(_))
    }

    fn schema(&self) -> &Schema {
        match &self.arena {
            Arena::Builtin(schema) => schema,
            Arena::Own(schema) => schema,
        }
    }
}

/// All rows by group, version and resource.
#[derive(Debug, Default)]
pub struct Rows {
    rows: Vec<Arc<Row>>,
    index: HashMap<String, usize>,
    aggregated: OnceLock<Aggregated>,
    openapi: Documents,
}

impl Rows {
    /// The built-in resources that `served` accepts, in discovery order.
    pub fn builtin(served: impl Fn(&Resource) -> bool) -> Rows {
        let mut rows = Rows::default();
        for resource in machinery::resources::builtin().iter().filter(|r| served(r)) {
            if let Some(row) = Row::builtin(resource) {
                rows.add(Arc::new(row));
            }
        }
        rows
    }

    /// Adds or replaces a row.
    pub fn add(&mut self, row: Arc<Row>) {
        let key = index_key(&row.resource.group, &row.resource.version, &row.resource.resource);
        match self.index.get(&key) {
            Some(at) => self.rows[*at] = row,
            None => {
                self.index.insert(key, self.rows.len());
                self.rows.push(row);
            }
        }
    }

    /// The row of a resource.
    pub fn get(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<Row>> {
        self.index.get(&index_key(group, version, resource)).and_then(|at| self.rows.get(*at))
    }

    /// The first served version of a resource.
    pub fn any_version(&self, group: &str, resource: &str) -> Option<&Arc<Row>> {
        self.rows.iter().find(|r| r.resource.group == group && r.resource.resource == resource)
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
        self.rows.iter()
    }

    /// Whether a group and version is served at all.
    pub fn has_version(&self, group: &str, version: &str) -> bool {
        self.rows.iter().any(|r| r.resource.group == group && r.resource.version == version)
    }
}

fn index_key(group: &str, version: &str, resource: &str) -> String {
    let mut key = String::with_capacity(group.len() + version.len() + resource.len() + 2);
    for part in [group, "/", version, "/", resource] {
        key.push_str(part);
    }
    key
}
