//! What every kind's requests do: get, list, watch, create, update, patch, delete, deletecollection.
//!
//! A write never holds a lock: it reads the present entry, computes the next object, and commits on the condition that
//! the entry is still the same; if it is not, it starts again from the new one ([`ATTEMPTS_MAX`] times at most).

mod admin_access;
mod apply;
mod claim_rights;
mod collection;
mod create;
mod cursor;
mod declared;
mod delete;
mod list;
mod options;
pub(crate) mod patch;
mod update;
pub(crate) mod watch;

pub(crate) use crate::{meta, own::ATTEMPTS_MAX};
pub(crate) use apply::check_name;
pub(crate) use collection::delete_collection;
pub(crate) use create::{Made, check_kind, create, create_value, place};
pub(crate) use declared::{UNVERSIONED, package};
pub(crate) use delete::{DeleteOptions, check_preconditions, delete, delete_named};
pub(crate) use list::{get, list, memory};
pub(crate) use options::WriteOptions;
pub(crate) use update::{Change, Part, change, change_part, check_revision, check_uid, uid_mismatch, update};
pub(crate) use watch::watch;

use crate::{astray, context::Context, conversion::Memory, negotiate::Accepted, query::Query, rows::Row, storage, world::World};
use bytes::Bytes;
use http::HeaderMap;
use machinery::{
    Map, Value,
    fields::FieldSelector,
    gvk::Gvk,
    json::{self, Texts, Validation},
    labels::Selector,
    proto,
    quote::Quoted,
    status::Status,
    yaml,
};
use std::sync::Arc;
use store::Entry;

/// One request for a resource.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) world: &'a World,
    pub(crate) cx: &'a Context,
    pub(crate) row: &'a Arc<Row>,
    pub(crate) query: &'a Query<'a>,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) accepted: Accepted,
}

impl<'a> Call<'a> {
    /// The namespace of the path.
    pub(crate) fn namespace(&self) -> &'a str {
        if self.row.resource.namespaced { &self.cx.info.namespace } else { "" }
    }

    /// The name of the path.
    pub(crate) fn name(&self) -> &'a str {
        &self.cx.info.name
    }

    /// The key of the object that the path names.
    pub(crate) fn key(&self) -> String {
        self.row.resource.key(self.namespace(), self.name())
    }

    /// The entry that the path names, or 404.
    pub(crate) async fn entry(&self, memory: Memory) -> Result<Arc<Entry>, Status> {
        placed(self.row, self.namespace(), self.name())?;
        let present = storage::present(self.world.store(), self.row, &self.key(), memory).await.map_err(|unread| storage::unread(&unread))?;
        present.ok_or_else(|| crate::errors::not_found(self.row, self.name()))
    }

    /// Decodes a body of the row's kind; what a lenient mode tolerates becomes a warning.
    pub(crate) fn decode(&self, bytes: &Bytes, validation: Validation) -> Result<Value, Status> {
        self.decode_as(bytes, self.row.ty(), validation)
    }

    /// Decodes a body of some kind; one of the program's own must say that it is of this kind, if it says anything.
    pub(crate) fn decode_as(&self, bytes: &Bytes, ty: machinery::schema::TypeRef<'_>, validation: Validation) -> Result<Value, Status> {
        // What nobody reads says nothing of what it is.
        let encoding = crate::negotiate::content(self.headers)?;
        let read = self.read(bytes, ty, validation);
        let decoded = match ty.gvk().filter(|_| !ty.schema.is_lenient()) {
            None if encoding == crate::negotiate::Encoding::Protobuf => read?,
            None => return declared::custom(ty.gvk(), bytes, self.as_it_says(bytes, read, validation).map(|decoded| self.told(decoded))),
            Some(expected) => {
                // Nor does a message say it as JSON does.
                let otherwise = |status| match encoding {
                    crate::negotiate::Encoding::Protobuf => status,
                    _ => declared::otherwise(expected, bytes, status, validation, &|told| self.cx.warn(told)),
                };
                let decoded = read.map_err(otherwise)?;
                declared::check(expected, &decoded.value).map_err(otherwise)?;
                decoded
            }
        };
        Ok(self.told(decoded))
    }

    /// A custom body as what it says that it is: one that names another version of its kind has the fields of that version, and one of another
    /// kind has all (upstream's `unstructuredSchemaCoercer`). Both are refused for that later.
    fn as_it_says(&self, bytes: &Bytes, read: Result<json::Decoded, Status>, validation: Validation) -> Result<json::Decoded, Status> {
        let own = &self.row.resource.kind;
        let Some(custom) = &self.row.custom else { return read };
        let text = |tree: &Value, field: &str| tree[field].as_str().unwrap_or_default().to_owned();
        let said = match &read {
            Ok(decoded) => Some((text(&decoded.value, "apiVersion"), text(&decoded.value, "kind"))),
            Err(_) => self.said(bytes),
        };
        let Some((api_version, kind)) = said else { return read };
        if api_version.matches('/').count() > 1 {
            return Err(json::unrecognized(own, &format!("unexpected GroupVersion string: {api_version}"), bytes));
        }
        let said = Gvk::parse(&api_version, &kind);
        if said == *own {
            return read;
        }
        if (&said.group, &said.kind) != (&own.group, &own.kind) {
            return self.of_another_kind(bytes, &said, validation);
        }
        match custom.family.ty(&said.version) {
            Some(ty) => self.read(bytes, ty, validation),
            None => self.without_schema(bytes, &said, validation),
        }
    }

    /// Reads a custom body that says that it is something else, which shows in what is wrong with it.
    fn read_as_said(&self, bytes: &Bytes, said: &Gvk, validation: Validation) -> Result<json::Decoded, Status> {
        self.read(bytes, self.row.ty(), validation).map_err(|refused| declared::as_said(said, &self.row.resource.kind, refused))
    }

    /// A custom body of another kind: what is there twice is told, and what metadata does not know; of the rest nothing is known.
    fn of_another_kind(&self, bytes: &Bytes, said: &Gvk, validation: Validation) -> Result<json::Decoded, Status> {
        if validation == Validation::Ignore {
            return self.read_as_said(bytes, said, validation);
        }
        let mut decoded = self.read_as_said(bytes, said, Validation::Warn)?;
        decoded.warnings.retain(|told| !told.starts_with("unknown field \"") || told.starts_with("unknown field \"metadata."));
        match validation {
            Validation::Strict if !decoded.warnings.is_empty() => Err(json::strictly(Some(said), &decoded.warnings)),
            _ => Ok(decoded),
        }
    }

    /// A custom body of a version that its definition does not have: it has no field but what every object has.
    fn without_schema(&self, bytes: &Bytes, said: &Gvk, validation: Validation) -> Result<json::Decoded, Status> {
        if validation == Validation::Ignore {
            return self.read_as_said(bytes, said, validation);
        }
        let mut decoded = self.read_as_said(bytes, said, Validation::Warn)?;
        let field = |problem: &str| problem.strip_prefix("unknown field \"").and_then(|rest| rest.strip_suffix('"')).map(str::to_owned);
        let (unknown, mut problems): (Vec<_>, Vec<_>) =
            decoded.warnings.into_iter().partition(|told| field(told).is_some_and(|field| !field.starts_with("metadata.")));
        let own = decoded.value.as_object().into_iter().flat_map(Map::keys).filter(|key| !matches!(key.as_str(), "apiVersion" | "kind" | "metadata"));
        // Those that this version has, and those that it has not either; what lies deeper is gone with them.
        let mut fields: Vec<String> = own.cloned().chain(unknown.iter().filter_map(|told| field(told)).filter(|field| !field.contains(['.', '[']))).collect();
        fields.sort();
        problems.extend(fields.iter().map(|field| format!("unknown field \"{field}\"")));
        if validation == Validation::Strict && !problems.is_empty() {
            return Err(json::strictly(Some(said), &problems));
        }
        decoded.warnings = problems;
        Ok(decoded)
    }

    /// What was decoded; the client hears what was tolerated.
    pub(crate) fn told(&self, decoded: json::Decoded) -> Value {
        decoded.warnings.into_iter().for_each(|warning| self.cx.warn(warning));
        let mut value = decoded.value;
        decoded.blanks.put_back(&mut value, self.row.strategy.told_blanks());
        self.cx.note_blanks(decoded.blanks);
        self.cx.note_labelled(value["metadata"]["labels"].as_object().is_some_and(|labels| !labels.is_empty()));
        value
    }

    /// The apiVersion and kind that a body says, where that can be read.
    pub(crate) fn said(&self, body: &Bytes) -> Option<(String, String)> {
        use crate::negotiate::Encoding;
        match crate::negotiate::content(self.headers).ok()? {
            Encoding::Json => json::peek(body).ok(),
            Encoding::Yaml => yaml::decode(body, None, Validation::Ignore).ok().map(|read| {
                let text = |key: &str| read.value[key].as_str().unwrap_or_default().to_owned();
                (text("apiVersion"), text("kind"))
            }),
            Encoding::Protobuf => None,
        }
    }

    /// Decodes a body as a type, whatever it says that it is.
    pub(crate) fn read_as(&self, bytes: &Bytes, ty: machinery::schema::TypeRef<'_>, validation: Validation) -> Result<Value, Status> {
        Ok(self.told(self.read(bytes, ty, validation)?))
    }

    fn read(&self, bytes: &Bytes, ty: machinery::schema::TypeRef<'_>, validation: Validation) -> Result<json::Decoded, Status> {
        use crate::negotiate::Encoding;
        let encoding = crate::negotiate::content(self.headers)?;
        let decoded = match encoding {
            Encoding::Json => json::decode(bytes, Some(ty), validation)?,
            Encoding::Yaml => yaml::decode(bytes, Some(ty), validation)?,
            // Upstream has no strict reader of messages of custom objects.
            Encoding::Protobuf if ty.schema.is_lenient() && validation != Validation::Ignore => {
                return Err(Status::unsupported_media_type(&crate::negotiate::ALL));
            }
            Encoding::Protobuf => json::Decoded { value: declared::message(ty, bytes)?, warnings: Vec::new(), blanks: json::Blanks::default() },
        };
        if Texts::are_kept(ty) {
            self.cx.note_texts(match encoding {
                Encoding::Json => Texts::read(ty, bytes),
                // It has become JSON by way of maps.
                Encoding::Yaml => Texts::of_tree(ty, &decoded.value),
                Encoding::Protobuf => proto::texts(ty, bytes),
            });
        }
        Ok(decoded)
    }
}

/// 400 where an object is named of a kind whose objects are in namespaces, and no namespace is, or where no object can have its name
/// (upstream's `NamespaceKeyFunc`); 500 where nothing can be in its namespace.
pub(crate) fn placed(row: &Row, namespace: &str, name: &str) -> Result<(), Status> {
    if row.resource.namespaced && namespace.is_empty() {
        return Err(Status::bad_request("Namespace parameter required."));
    }
    astray::check_segment(name)?;
    astray::check_key(row, namespace, name)
}

/// The selectors of a list, a watch or a deletecollection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selectors {
    pub(crate) labels: Option<Selector>,
    pub(crate) fields: Option<FieldSelector>,
}

impl Selectors {
    /// Reads `labelSelector` and `fieldSelector`; 400 in upstream's words if one is wrong or names an unknown field. What else is wrong with
    /// the options of a list is told in upstream's order: numbers, selectors, what does not go together, fields.
    pub(crate) fn of(query: &Query<'_>, row: &Row) -> Result<Selectors, Status> {
        query.int("timeoutSeconds")?;
        query.int("limit")?;
        let labels = match query.text("labelSelector") {
            "" => None,
            text => Some(Selector::parse(text).map_err(|e| Status::bad_request(&e))?),
        };
        let mut fields = match query.text("fieldSelector") {
            "" => None,
            text => Some(FieldSelector::parse(text).map_err(|e| Status::bad_request(&e))?),
        };
        let misused = if query.flag("watch") { watch::misused(query) } else { list::misused(query) };
        if !misused.is_empty() {
            return Err(Status::invalid("meta.k8s.io", "ListOptions", "", misused));
        }
        if let Some(fields) = &mut fields {
            fields.rename(|field| row.strategy.field_alias(field));
            let known = row.strategy.selectable_fields(&Value::Null);
            for requirement in fields.requirements() {
                let field = requirement.field.as_str();
                let no_namespace_but_no_fields = known.is_empty() && row.is_builtin();
                let general = field == "metadata.name" || (field == "metadata.namespace" && (row.resource.namespaced || no_namespace_but_no_fields));
                if !general && !known.iter().any(|(name, _)| name.as_ref() == field) {
                    return Err(Status::bad_request(match known.is_empty() && row.is_builtin() {
                        true => format!(r#"{} is not a known field selector: only "metadata.name", "metadata.namespace""#, Quoted(field)),
                        false if row.is_builtin() && row.resource.kind.kind == "Job" => format!("field label {} not supported for Job", Quoted(field)),
                        false if row.is_builtin() && row.resource.kind.kind == "ResourceSlice" => {
                            let (api_version, kind) = (&row.api_version, &row.resource.kind.kind);
                            format!("field label not supported for {api_version}, Kind={kind}: {field}")
                        }
                        false => format!("field label not supported: {field}"),
                    }));
                }
            }
        }
        Ok(Selectors { labels, fields })
    }

    /// Whether everything is selected.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_none() && self.fields.is_none()
    }

    /// Whether an entry is selected.
    pub(crate) fn matches(&self, row: &Row, entry: &Arc<Entry>) -> bool {
        self.labels.as_ref().is_none_or(|s| storage::matches_labels(row, entry, s))
            && self.fields.as_ref().is_none_or(|s| storage::matches_fields(row, entry, s))
    }
}
