//! The libraries, one file each.

pub mod authorizer;
mod comprehensions;
mod costs;
pub(crate) mod format;
mod formats;
mod ip;
pub mod jsonpatch;
mod lists;
mod optional;
pub(crate) mod quantity;
pub(crate) mod regex;
pub(crate) mod semver;
mod sets;
mod standard;
mod strings;
pub mod urls;

use crate::decl::Run;
use crate::decl::{Library, Overload};
use crate::types::Type;

/// Every library, with the versions that may use it (`apiserver/pkg/cel/environment`).
pub fn all() -> Vec<Library> {
    vec![
        standard::library(),
        urls::library(),
        regex::library(),
        lists::library(),
        authorizer::library(),
        optional::library(),
        quantity::library(),
        strings::library(),
        strings::formatting(),
        sets::library(),
        ip::addresses(),
        ip::networks(),
        formats::library(),
        authorizer::selectors(),
        comprehensions::library(),
        semver::library(),
        lists::extended(),
        lists::includes(),
    ]
}

/// A function of arguments, as a row: `id type type -> type`.
fn global(row: &'static str, run: Run) -> Overload {
    let (left, result) = row.split_once(" -> ").unwrap_or((row, "dyn"));
    let mut words = left.split_ascii_whitespace();
    let id = words.next().unwrap_or_default();
    Overload::global(id, words.map(signature).collect::<Vec<_>>(), signature(result), run)
}

/// A function of a target and arguments, as such a row.
fn member(row: &'static str, run: Run) -> Overload {
    Overload { member: true, ..global(row, run) }
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
