//! The types of CEL as the checker knows them.
//!
//! `Display` writes a type as the original's errors do (`map(string, int)`, `optional_type(dyn)`, `wrapper(int)`); [`Type::runtime_name`]
//! gives the name that `type(x)` has at run time.

use std::fmt;
use std::sync::Arc;

/// A shared text.
pub type Str = Arc<str>;

/// The name of the opaque type of optional values.
pub const OPTIONAL: &str = "optional_type";

/// A type.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Type {
    /// Known only when evaluated.
    Dyn,
    /// `google.protobuf.Any`: for the checker as good as `Dyn`, told apart in errors.
    Any,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    List(Arc<Type>),
    Map(Arc<Type>, Arc<Type>),
    /// A simple type or null: the wrappers of protobuf.
    Nullable(Arc<Type>),
    /// An object with fields, which the environment's provider knows by this name.
    Object(Str),
    /// A type without fields, with its parameters (`optional_type`, `net.IP`).
    Opaque(Str, Arc<[Type]>),
    /// A type parameter of a declaration, or a free variable of the checker.
    Param(Str),
    /// The type of a type: `Some` with what it is the type of.
    Type(Option<Arc<Type>>),
    /// What has no type: an error was reported already.
    Error,
}

impl Type {
    /// A list of these.
    pub fn list(element: Type) -> Type {
        Type::List(Arc::new(element))
    }

    /// A map from these to those.
    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new(key), Arc::new(value))
    }

    /// An optional value of this type.
    pub fn optional(of: Type) -> Type {
        Type::Opaque(OPTIONAL.into(), Arc::new([of]))
    }

    /// An object's type by its name.
    pub fn object(name: &str) -> Type {
        Type::Object(name.into())
    }

    /// An opaque type without parameters.
    pub fn opaque(name: &str) -> Type {
        Type::Opaque(name.into(), Arc::new([]))
    }

    /// A type parameter.
    pub fn param(name: &str) -> Type {
        Type::Param(name.into())
    }

    /// The type of this type.
    pub fn type_of(of: Type) -> Type {
        Type::Type(Some(Arc::new(of)))
    }

    /// Null or this.
    pub fn nullable(of: Type) -> Type {
        Type::Nullable(Arc::new(of))
    }

    /// What an optional type holds.
    pub fn optional_of(&self) -> Option<&Type> {
        match self {
            Type::Opaque(name, parameters) if &**name == OPTIONAL => parameters.first(),
            _ => None,
        }
    }

    /// The parameters of a type: of a list one, of a map two.
    pub fn parameters(&self) -> Vec<&Type> {
        match self {
            Type::List(element) => vec![element],
            Type::Map(key, value) => vec![key, value],
            Type::Opaque(_, parameters) => parameters.iter().collect(),
            Type::Type(Some(of)) => vec![of],
            _ => Vec::new(),
        }
    }

    /// Of how many types it is made, itself counted; no more than somewhat above the bound.
    pub(crate) fn parts(&self, bound: usize) -> usize {
        let mut parts = 1;
        for parameter in self.parameters() {
            if parts > bound {
                break;
            }
            parts += parameter.parts(bound - parts.min(bound));
        }
        parts
    }

    /// The name that the type has at run time, with its parameters.
    pub fn described(&self) -> String {
        if matches!(self, Type::Nullable(_)) {
            return self.to_string();
        }
        let parameters: Vec<String> = self.parameters().into_iter().map(Type::described).collect();
        let name = self.runtime_name();
        if parameters.is_empty() { name.to_owned() } else { format!("{name}({})", parameters.join(", ")) }
    }

    /// The name that the type has at run time, without its parameters.
    pub fn runtime_name(&self) -> &str {
        match self {
            Type::Dyn => "dyn",
            Type::Any => "google.protobuf.Any",
            Type::Null => "null_type",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Uint => "uint",
            Type::Double => "double",
            Type::String => "string",
            Type::Bytes => "bytes",
            Type::Timestamp => "google.protobuf.Timestamp",
            Type::Duration => "google.protobuf.Duration",
            Type::List(_) => "list",
            Type::Map(..) => "map",
            Type::Nullable(of) => of.runtime_name(),
            Type::Object(name) | Type::Opaque(name, _) | Type::Param(name) => name,
            Type::Type(_) => "type",
            Type::Error => "error",
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Any => return f.write_str("any"),
            Type::Duration => return f.write_str("duration"),
            Type::Timestamp => return f.write_str("timestamp"),
            Type::Null => return f.write_str("null"),
            Type::Error => return f.write_str("!error!"),
            Type::Nullable(of) => return write!(f, "wrapper({})", of.runtime_name()),
            _ => f.write_str(self.runtime_name())?,
        }
        let parameters = self.parameters();
        if parameters.is_empty() {
            return Ok(());
        }
        for (at, parameter) in parameters.into_iter().enumerate() {
            write!(f, "{}{parameter}", if at == 0 { "(" } else { ", " })?;
        }
        f.write_str(")")
    }
}
