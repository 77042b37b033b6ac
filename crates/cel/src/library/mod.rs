//! The libraries, one file each.

mod standard;

use crate::decl::Library;
use crate::types::Type;

/// Every library, with the versions that may use it.
pub fn all() -> Vec<Library> {
    vec![standard::library()]
}

/// A type as signatures write it: `int`, `list(A)`, `map(A,B)`; a capital letter is a parameter.
pub fn signature(text: &str) -> Type {
    let (name, inside) = text.split_once('(').map_or((text, ""), |(name, rest)| (name, rest.strip_suffix(')').unwrap_or(rest)));
    match name {
        "dyn" => Type::Dyn,
        "null" => Type::Null,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        "list" => Type::list(signature(inside)),
        "map" => {
            let (key, value) = inside.split_once(',').unwrap_or((inside, "dyn"));
            Type::map(signature(key), signature(value))
        }
        "type" => Type::type_of(signature(inside)),
        "optional" => Type::optional(signature(inside)),
        _ if name.len() == 1 => Type::param(name),
        _ if name.starts_with("kubernetes.") => Type::object(name),
        _ => Type::opaque(name),
    }
}
