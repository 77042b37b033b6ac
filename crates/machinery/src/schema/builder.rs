//! Builds a schema type by type: the loader's tool, and the one for custom resources.

use super::{Field, GoFlags, ListType, Object, Schema, Text, Type, TypeId};
use crate::gvk::Gvk;
use std::collections::HashMap;

/// Scalars and unstructured types that need no name.
const PLAIN: [Type; 15] = [
    Type::Any,
    Type::String,
    Type::Bool,
    Type::Int32,
    Type::Int64,
    Type::Double,
    Type::Bytes,
    Type::IntOrString,
    Type::Quantity,
    Type::Time,
    Type::MicroTime,
    Type::RawExtension,
    Type::RawJson,
    Type::Fields,
    Type::List { elem: TypeId(0), list_type: ListType::Atomic, wrapped: false },
];

/// Whether the type is a scalar or unstructured one.
pub(super) fn is_plain(id: TypeId) -> bool {
    (id.0 as usize) < PLAIN.len()
}

/// A schema in the making. Object types may be declared before they are defined, since types refer to each other.
#[derive(Debug)]
pub struct Builder {
    schema: Schema,
    lists: HashMap<(TypeId, ListType, bool), TypeId>,
    maps: HashMap<(TypeId, bool, bool), TypeId>,
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// An empty schema with the scalar types.
    pub fn new() -> Self {
        let schema = Schema { types: PLAIN.to_vec(), ..Schema::default() };
        Self { schema, lists: HashMap::new(), maps: HashMap::new() }
    }

    /// A schema for custom resources: see [`Schema::is_lenient`].
    pub fn lenient() -> Self {
        let mut builder = Self::new();
        builder.schema.lenient = true;
        builder
    }

    /// The id of a scalar or unstructured type; [`Type::Any`] for what is neither.
    pub fn plain(&self, ty: &Type) -> TypeId {
        let at = PLAIN.iter().position(|p| p == ty).unwrap_or(0);
        TypeId(u32::try_from(at).unwrap_or(0))
    }

    /// A list of `elem`.
    pub fn list(&mut self, elem: TypeId, list_type: ListType, wrapped: bool) -> TypeId {
        let key = (elem, list_type, wrapped);
        if let Some(id) = self.lists.get(&key) {
            return *id;
        }
        let id = self.push(Type::List { elem, list_type: key.1.clone(), wrapped });
        self.lists.insert(key, id);
        id
    }

    /// A map to `elem`.
    pub fn map(&mut self, elem: TypeId, atomic: bool) -> TypeId {
        self.map_to(elem, atomic, false)
    }

    /// A map to `elem` whose values may be null.
    pub fn map_to_nullable(&mut self, elem: TypeId, atomic: bool) -> TypeId {
        self.map_to(elem, atomic, true)
    }

    fn map_to(&mut self, elem: TypeId, atomic: bool, nullable: bool) -> TypeId {
        let key = (elem, atomic, nullable);
        if let Some(id) = self.maps.get(&key) {
            return *id;
        }
        let id = self.push(Type::Map { elem, atomic, nullable });
        self.maps.insert(key, id);
        id
    }

    /// The id that a name has or will have; until it is defined the type is [`Type::Any`].
    pub fn declare(&mut self, name: impl Into<Text>) -> TypeId {
        let name = name.into();
        if let Some(id) = self.schema.names.get(&name) {
            return *id;
        }
        let id = self.push(Type::Any);
        self.schema.names.insert(name, id);
        id
    }

    /// Defines a named type.
    pub fn define(&mut self, name: impl Into<Text>, ty: Type) -> TypeId {
        let id = self.declare(name);
        if let Some(slot) = self.schema.types.get_mut(id.0 as usize) {
            *slot = ty;
        }
        id
    }

    /// Defines an object, by its name if it has one, and by its kind if it is one.
    pub fn object(&mut self, mut object: Object) -> TypeId {
        object.seal();
        let gvk: Option<Gvk> = object.gvk.clone();
        let name = object.name.clone();
        let ty = Type::Object(Box::new(object));
        let id = if name.is_empty() { self.push(ty) } else { self.define(name, ty) };
        if let Some(gvk) = gvk {
            self.schema.kinds.insert(gvk, id);
        }
        id
    }

    /// Copies a type and all that it refers to from another schema (a custom resource takes `ObjectMeta` from the
    /// built-in one).
    pub fn import(&mut self, from: super::TypeRef<'_>) -> TypeId {
        match from.get() {
            Type::Object(object) => {
                if let Some(id) = self.schema.names.get(&object.name) {
                    return *id;
                }
                self.declare(object.name.clone());
                let mut copy = (**object).clone();
                for field in &mut copy.fields {
                    field.ty = self.import(from.to(field.ty));
                }
                for (_, id) in &mut copy.embedded {
                    *id = self.import(from.to(*id));
                }
                self.object(copy)
            }
            Type::List { elem, list_type, wrapped } => {
                let elem = self.import(from.to(*elem));
                self.list(elem, list_type.clone(), *wrapped)
            }
            Type::Map { elem, atomic, nullable } => {
                let elem = self.import(from.to(*elem));
                self.map_to(elem, *atomic, *nullable)
            }
            other => self.plain(other),
        }
    }

    /// The finished schema.
    pub fn build(self) -> Schema {
        self.schema
    }

    fn push(&mut self, ty: Type) -> TypeId {
        let id = TypeId(u32::try_from(self.schema.types.len()).unwrap_or(u32::MAX));
        self.schema.types.push(ty);
        id
    }
}

impl Field {
    /// A field with nothing but a name and a type: optional, behind a pointer, left out when absent.
    pub fn new(name: impl Into<Text>, ty: TypeId) -> Self {
        Self {
            name: name.into(),
            ty,
            required: false,
            default: None,
            enum_values: Vec::new(),
            patch_strategy: Text::default(),
            patch_merge_key: Text::default(),
            atomic: false,
            map_type: None,
            list_type_said: false,
            tag: 0,
            go: GoFlags { pointer: true, omit_empty: true, omit_zero: false },
            go_type: Text::default(),
            nullable: false,
        }
    }
}
