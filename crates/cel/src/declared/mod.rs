//! Types that schemas declare: what expressions see of objects, with how large and how small their values may be.
//!
//! A schema becomes a tree of [`Declared`]. Its objects get names where it is used ([`Declared::named`]), and an environment knows
//! their fields by those ([`crate::Env::with_declared`]). The sizes bound what an expression may cost ([`DeclaredSizes`]) and how
//! often a rule below lists and maps may be evaluated in one request ([`max_cardinality`]).

pub mod admission;
pub mod devices;
pub(crate) mod escape;
mod schema;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cost::{Range, Size, Sizes};
use crate::decl::{ObjectType, Provider};
use crate::types::{Str, Type};

pub use escape::{RESERVED, escape, unescape};

/// Bytes of the largest request that holds an object.
pub const REQUEST_BYTES_MAX: i64 = 3 * 1024 * 1024;

/// A type as a schema declares it.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared {
    pub shape: Shape,
    /// The most characters, elements or entries; negative for no bound.
    pub elements_max: i64,
    /// The fewest bytes that a value takes in JSON.
    pub bytes_min: i64,
}

/// What a declared type is made of.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    Simple(Type),
    List(Arc<Declared>),
    Map(Arc<Declared>, Arc<Declared>),
    /// Fields by their names in expressions.
    Object(Str, BTreeMap<Str, Arc<Declared>>),
}

/// The name of an object that has none yet.
const UNNAMED: &str = "object";

impl Declared {
    /// A type without parts.
    pub fn simple(ty: Type, bytes_min: i64) -> Declared {
        Declared { shape: Shape::Simple(ty), elements_max: 0, bytes_min }
    }

    /// A string without a bound.
    pub fn string() -> Declared {
        Declared::simple(Type::String, 2)
    }

    /// A list of at most so many; an empty one is `[]`.
    pub fn list(element: Declared, elements_max: i64) -> Declared {
        Declared { shape: Shape::List(Arc::new(element)), elements_max, bytes_min: 2 }
    }

    /// A map from strings, of at most so many entries; an empty one is `{}`.
    pub fn map(value: Declared, elements_max: i64) -> Declared {
        Declared { shape: Shape::Map(Arc::new(Declared::string()), Arc::new(value)), elements_max, bytes_min: 2 }
    }

    /// An object with a name and fields.
    pub fn object(name: &str, fields: impl IntoIterator<Item = (&'static str, Declared)>) -> Declared {
        let fields = fields.into_iter().map(|(name, ty)| (name.into(), Arc::new(ty))).collect();
        Declared { shape: Shape::Object(name.into(), fields), elements_max: 0, bytes_min: 2 }
    }

    /// The type for the checker.
    pub fn cel_type(&self) -> Type {
        match &self.shape {
            Shape::Simple(ty) => ty.clone(),
            Shape::List(element) => Type::list(element.cel_type()),
            Shape::Map(key, value) => Type::map(key.cel_type(), value.cel_type()),
            Shape::Object(name, _) => Type::Object(name.clone()),
        }
    }

    /// The same with names for the objects that have none: this one's, and below it the way to them.
    pub fn named(&self, name: &str) -> Declared {
        let below = |declared: &Arc<Declared>, step: &str| Arc::new(declared.named(&format!("{name}.{step}")));
        let shape = match &self.shape {
            Shape::Simple(_) => return self.clone(),
            Shape::List(element) => Shape::List(below(element, "@idx")),
            Shape::Map(key, value) => Shape::Map(key.clone(), below(value, "@elem")),
            Shape::Object(own, fields) => {
                let name = if &**own == UNNAMED { name } else { own };
                let fields = fields.iter().map(|(field, ty)| (field.clone(), Arc::new(ty.named(&format!("{name}.{field}")))));
                Shape::Object(name.into(), fields.collect())
            }
        };
        Declared { shape, ..self.clone() }
    }

    /// What lies one step below.
    fn part(&self, step: &str) -> Option<&Declared> {
        match (&self.shape, step) {
            (Shape::List(element), "@items" | "@values") => Some(element),
            (Shape::Map(_, value), "@items" | "@values") => Some(value),
            (Shape::Map(key, _), "@keys") => Some(key),
            (Shape::Object(_, fields), field) => fields.get(field).map(Arc::as_ref),
            _ => None,
        }
    }

    fn size(&self) -> Size {
        Range::new(0, self.elements_max as u64)
    }

    /// Tells a provider all objects in here.
    pub(crate) fn register(&self, provider: &mut Provider) {
        match &self.shape {
            Shape::Simple(_) => {}
            Shape::List(element) => element.register(provider),
            Shape::Map(_, value) => value.register(provider),
            Shape::Object(name, fields) => {
                let types = fields.iter().map(|(field, ty)| (field.clone(), ty.cel_type())).collect();
                provider.objects.insert(name.clone(), Arc::new(ObjectType { fields: types }));
                for (field, ty) in fields {
                    // Lists and maps have names too: those of their fields.
                    if matches!(ty.shape, Shape::List(_) | Shape::Map(..)) {
                        provider.names.insert(format!("{name}.{field}").into(), ty.cel_type());
                    }
                    ty.register(provider);
                }
            }
        }
    }
}

/// The sizes of what lies below a variable of a declared type.
pub struct DeclaredSizes<'a>(pub &'a Declared);

impl Sizes for DeclaredSizes<'_> {
    fn size(&self, path: &[Str], _ty: &Type) -> Option<Size> {
        let (_, steps) = path.split_first()?;
        steps.iter().try_fold(self.0, |at, step| at.part(step)).map(Declared::size)
    }
}

/// How often something of at least so many bytes can stand in one request: each with a comma.
pub fn max_cardinality(bytes_min: i64) -> u64 {
    (REQUEST_BYTES_MAX / (bytes_min + 1)) as u64
}
