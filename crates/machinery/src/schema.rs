//! The schema: what every API type looks like in JSON, on the protobuf wire, and to patches and field ownership.
//!
//! One arena, [`Schema`], holds types by [`TypeId`]; [`TypeRef`] is a type with its arena. The built-in schema comes from
//! the generated `data/schema.txt` (862 published types); a custom resource's schema is built with [`Builder`] and is the
//! same type, so codecs, patches and server-side apply do not know the difference.
//!
//! The original writes a built-in type's JSON in the order of its Go fields; that order is carried by the file's lines and
//! kept as a rank ([`crate::json::encode_as`]). What a [`Builder`] makes of a custom resource is in the order of its names.
//!
//! Invariants: the fields of an [`Object`] are sorted by name, so that a walk over a value's map (which is sorted, too)
//! and the fields is a merge, not a search; the ids inside an arena point into it.

mod builder;
mod load;
#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;

pub use builder::Builder;

use crate::{Value, gvk::Gvk};
use std::{borrow::Cow, collections::HashMap, sync::LazyLock};

/// Text that is either part of the program or owned.
pub type Text = Cow<'static, str>;

/// The place of a type in its [`Schema`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TypeId(pub(crate) u32);

/// All types of one API surface.
#[derive(Debug, Default)]
pub struct Schema {
    types: Vec<Type>,
    names: HashMap<Text, TypeId>,
    kinds: HashMap<Gvk, TypeId>,
    lenient: bool,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    /// Named fields.
    Object(Box<Object>),
    /// A list; `wrapped` lists are a message of their own on the wire (`ExtraValue`, `Verbs`).
    List {
        /// The type of the elements.
        elem: TypeId,
        /// How apply merges the list.
        list_type: ListType,
        /// Nested in a message on the wire.
        wrapped: bool,
    },
    /// String keys to values of one type.
    Map {
        /// The type of the values.
        elem: TypeId,
        /// Owned as a whole by apply.
        atomic: bool,
        /// A value may be null.
        nullable: bool,
    },
    /// UTF-8 text.
    String,
    /// `true` or `false`.
    Bool,
    /// 32-bit signed integer.
    Int32,
    /// 64-bit signed integer.
    Int64,
    /// 64-bit float.
    Double,
    /// Base64 text in JSON, plain bytes on the wire.
    Bytes,
    /// Number or string (`IntOrString`).
    IntOrString,
    /// A resource quantity: text in JSON (numbers are accepted).
    Quantity,
    /// RFC 3339 time in whole seconds.
    Time,
    /// RFC 3339 time in microseconds.
    MicroTime,
    /// Any object, travelling as its own encoding (`RawExtension`).
    RawExtension,
    /// Any JSON (`apiextensions.v1.JSON`).
    RawJson,
    /// A set of fields of managedFields (`FieldsV1`).
    Fields,
    /// `JSONSchemaPropsOrArray`: a schema or a list of them.
    SchemaOrArray(TypeId),
    /// `JSONSchemaPropsOrBool`: a schema or a boolean.
    SchemaOrBool(TypeId),
    /// `JSONSchemaPropsOrStringArray`: a schema or a list of strings.
    SchemaOrStrings(TypeId),
    /// Anything; JSON only (custom resources).
    Any,
}

/// An object type.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Object {
    /// OpenAPI name, e.g. `io.k8s.api.core.v1.Pod`.
    pub name: Text,
    /// Protobuf message; empty for JSON-only types.
    pub proto: Text,
    /// The kind, if the type is one.
    pub gvk: Option<Gvk>,
    /// JSON fields, sorted by name.
    pub fields: Vec<Field>,
    /// Embedded structs that only the wire nests: tag and type. Their JSON fields are this object's own.
    pub embedded: Vec<(u32, TypeId)>,
    /// Owned as a whole by apply.
    pub atomic: bool,
    /// Unknown fields are kept (`x-kubernetes-preserve-unknown-fields`).
    pub preserve_unknown: bool,
    /// What is no object may stand there, too: a schema that has fields and no `type`.
    pub untyped: bool,
    by_tag: Vec<u16>,
    /// The place of each field among those that the original writes.
    ranks: Vec<u16>,
    /// Fields that defaulting may have to add.
    fill: Vec<u16>,
}

/// How apply merges a list (`x-kubernetes-list-type`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListType {
    /// As a whole.
    Atomic,
    /// By value.
    Set,
    /// By these keys.
    Map(Vec<Text>),
}

/// How Go holds and writes a field; see `xtask/gotypes`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GoFlags {
    /// Behind a pointer: absent and zero differ.
    pub pointer: bool,
    /// Left out when zero, empty or nil.
    pub omit_empty: bool,
    /// Left out when zero, structs included.
    pub omit_zero: bool,
}

/// A field of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// JSON name.
    pub name: Text,
    /// Type.
    pub ty: TypeId,
    /// Marked required by the published schema.
    pub required: bool,
    /// A default to be set when absent; Go zero values are not among them.
    pub default: Option<Value>,
    /// Allowed values, if limited.
    pub enum_values: Vec<Text>,
    /// Strategic merge: `merge`, `replace`, `retainKeys`, comma-separated; empty for none.
    pub patch_strategy: Text,
    /// Strategic merge: the key that pairs list elements; empty for none.
    pub patch_merge_key: Text,
    /// The field overrides its type's map type to atomic.
    pub atomic: bool,
    /// The map type that is published for the field, if one is.
    pub map_type: Option<&'static str>,
    /// A list type is published for the field.
    pub list_type_said: bool,
    /// Protobuf tag; 0 where the wire has the field in an embedded struct or not at all.
    pub tag: u32,
    /// How Go holds it.
    pub go: GoFlags,
    /// The name of the Go type, for decoding errors.
    pub go_type: Text,
    /// `null` is a value of its own (custom resources).
    pub nullable: bool,
}

/// A type together with its arena.
#[derive(Clone, Copy, Debug)]
pub struct TypeRef<'a> {
    /// The arena.
    pub schema: &'a Schema,
    /// The place in it.
    pub id: TypeId,
}

/// The schema of the built-in API, read once.
pub fn builtin() -> &'static Schema {
    static BUILTIN: LazyLock<Schema> = LazyLock::new(|| load::load(concat!(include_str!("../data/schema.txt"), include_str!("../data/metrics_schema.txt"))));
    &BUILTIN
}

/// Whether the kinds of two groups are of one scheme: upstream's servers of definitions, of APIServices and of metrics know each their own.
pub fn same_scheme(group: &str, other: &str) -> bool {
    let of = |group: &str| ["apiextensions.k8s.io", "apiregistration.k8s.io", "metrics.k8s.io"].into_iter().find(|own| *own == group);
    of(group) == of(other)
}

/// The type of a kind, if the server knows of it that serves another.
pub fn known_beside(own: &Gvk, found: &Gvk) -> Option<TypeRef<'static>> {
    builtin().kind(found).filter(|_| same_scheme(&own.group, &found.group) || is_everywhere(&found.kind))
}

/// Whether a kind is one of every group.
fn is_everywhere(kind: &str) -> bool {
    kind.ends_with("Options") || kind == "WatchEvent"
}

impl Schema {
    /// The type of a kind. Options kinds (`DeleteOptions`, …) answer for every group, as upstream registers them in each.
    pub fn kind(&self, gvk: &Gvk) -> Option<TypeRef<'_>> {
        if let Some(id) = self.kinds.get(gvk) {
            return Some(self.at(*id));
        }
        let core = Gvk { group: String::new(), version: "v1".into(), kind: gvk.kind.clone() };
        let id = if is_everywhere(&gvk.kind) { self.kinds.get(&core) } else { None };
        id.map(|id| self.at(*id))
    }

    /// The type with an OpenAPI name.
    pub fn named(&self, name: &str) -> Option<TypeRef<'_>> {
        self.names.get(name).map(|id| self.at(*id))
    }

    /// All object types, in arena order.
    pub fn objects(&self) -> impl Iterator<Item = (TypeRef<'_>, &Object)> {
        let ids = 0..u32::try_from(self.types.len()).unwrap_or(u32::MAX);
        ids.filter_map(|id| {
            let ty = self.at(TypeId(id));
            ty.object().map(|o| (ty, o))
        })
    }

    /// All kinds.
    pub fn kinds(&self) -> impl Iterator<Item = (&Gvk, TypeRef<'_>)> {
        self.kinds.iter().map(|(gvk, id)| (gvk, self.at(*id)))
    }

    /// The named types, with their names, special encodings included.
    pub fn names(&self) -> impl Iterator<Item = (&str, TypeRef<'_>)> {
        self.names.iter().map(|(name, id)| (name.as_ref(), self.at(*id)))
    }

    /// A wrong JSON type is left for validation instead of failing the decoding: custom resources, whose structural
    /// schema is validated with a 422 rather than a 400.
    pub fn is_lenient(&self) -> bool {
        self.lenient
    }

    fn at(&self, id: TypeId) -> TypeRef<'_> {
        TypeRef { schema: self, id }
    }
}

impl<'a> TypeRef<'a> {
    /// What the type is.
    pub fn get(self) -> &'a Type {
        static ANY: Type = Type::Any;
        self.schema.types.get(self.id.0 as usize).unwrap_or(&ANY)
    }

    /// The same arena, another type.
    pub fn to(self, id: TypeId) -> TypeRef<'a> {
        TypeRef { schema: self.schema, id }
    }

    /// The object, if it is one.
    pub fn object(self) -> Option<&'a Object> {
        match self.get() {
            Type::Object(object) => Some(object),
            _ => None,
        }
    }

    /// A field of the object.
    pub fn field(self, name: &str) -> Option<&'a Field> {
        self.object()?.field(name)
    }

    /// The type below a map key or field.
    pub fn child(self, name: &str) -> Option<TypeRef<'a>> {
        match self.get() {
            Type::Object(object) => object.field(name).map(|f| self.to(f.ty)),
            Type::Map { elem, .. } => Some(self.to(*elem)),
            _ => None,
        }
    }

    /// The type of a list's or map's elements.
    pub fn elem(self) -> Option<TypeRef<'a>> {
        match self.get() {
            Type::List { elem, .. } | Type::Map { elem, .. } => Some(self.to(*elem)),
            _ => None,
        }
    }

    /// The kind, if the type is one.
    pub fn gvk(self) -> Option<&'a Gvk> {
        self.object()?.gvk.as_ref()
    }

    /// Whether Go leaves this value of one of the object's fields out: a zero of an `omitempty` field that is no pointer.
    pub fn leaves_out(self, field: &Field, value: &Value) -> bool {
        if field.go.pointer || !field.go.omit_empty {
            return false;
        }
        match value {
            Value::String(s) => s.is_empty(),
            Value::Bool(b) => !b,
            Value::Number(n) => n.as_i64() == Some(0) && !matches!(self.to(field.ty).get(), Type::IntOrString),
            Value::Array(a) => a.is_empty(),
            // Structs by value are always written, empty maps are not.
            Value::Object(o) => o.is_empty() && matches!(self.to(field.ty).get(), Type::Map { .. }),
            Value::Null => true,
        }
    }

    /// How apply merges the list; `None` for what is no list.
    pub fn list_type(self) -> Option<&'a ListType> {
        match self.get() {
            Type::List { list_type, .. } => Some(list_type),
            _ => None,
        }
    }
}

impl Object {
    /// An object without fields or a name, for custom resources.
    pub fn anonymous(preserve_unknown: bool, atomic: bool) -> Self {
        Self { preserve_unknown, atomic, ..Self::default() }
    }

    /// The field of a JSON name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        let at = self.fields.binary_search_by(|f| f.name.as_ref().cmp(name)).ok()?;
        self.fields.get(at)
    }

    /// The field of a protobuf tag.
    pub fn by_tag(&self, tag: u32) -> Option<&Field> {
        let at = *self.by_tag.get(tag as usize)?;
        self.fields.get(usize::from(at))
    }

    /// The place of the field at `at` among those that the original writes as JSON; what is no field comes last.
    pub(crate) fn rank(&self, at: usize) -> u16 {
        self.ranks.get(at).copied().unwrap_or(u16::MAX)
    }

    /// The fields that defaulting may have to add to a value.
    pub(crate) fn fillable(&self) -> impl Iterator<Item = &Field> {
        self.fill.iter().filter_map(|at| self.fields.get(usize::from(*at)))
    }

    /// The Go name of the struct: the last part of the OpenAPI name.
    pub fn go_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }

    /// Sorts the fields and fills the index of tags. The order in which they stood is the one in which they are written.
    fn seal(&mut self) {
        let mut order: Vec<u16> = (0..self.fields.len()).map(|at| u16::try_from(at).unwrap_or(u16::MAX)).collect();
        order.sort_by(|a, b| self.fields[usize::from(*a)].name.cmp(&self.fields[usize::from(*b)].name));
        self.ranks = order;
        self.fields.sort_by(|a, b| a.name.cmp(&b.name));
        let highest = self.fields.iter().map(|f| f.tag).max().unwrap_or(0);
        self.by_tag = vec![u16::MAX; highest as usize + 1];
        for (at, field) in self.fields.iter().enumerate().filter(|(_, f)| f.tag > 0) {
            self.by_tag[field.tag as usize] = u16::try_from(at).unwrap_or(u16::MAX);
        }
        let may_be_filled = |f: &Field| f.default.is_some() || (!f.go.omit_zero && (!f.go.omit_empty || !f.go.pointer && !builder::is_plain(f.ty)));
        let filled = self.fields.iter().enumerate().filter(|(_, f)| may_be_filled(f));
        self.fill = filled.map(|(at, _)| u16::try_from(at).unwrap_or(u16::MAX)).collect();
    }
}
