//! Optional values (`cel-go/cel`, `OptionalTypes`). Selection, `or` and `orValue` are the evaluator's own.

use super::{global, member};
use crate::decl::{Binding, Function, Library, Overload};
use crate::error::EvalError;
use crate::macros;
use crate::types::Type;
use crate::value::{Value, shown};
use crate::version::Version;
use crate::work;

pub fn library() -> Library {
    let special = |overload: Overload| overload.bound(Binding::Unguarded);
    let index = |row: &'static str| global(row, own).bound(Binding::Singleton);
    let mut library = Library::new("cel.lib.optional", Version(28));
    library.macros = macros::optional();
    library.types = vec![(crate::types::OPTIONAL, Type::optional(Type::Dyn))];
    library.functions = vec![
        Function { name: "optional.of", overloads: vec![global("optional_of V -> optional(V)", |args| Ok(Value::some(args[0].clone())))] },
        Function {
            name: "optional.ofNonZeroValue",
            overloads: vec![global("optional_ofNonZeroValue V -> optional(V)", |args| {
                Ok(if args[0].is_zero() { Value::NONE } else { Value::some(args[0].clone()) })
            })],
        },
        Function { name: "optional.none", overloads: vec![global("optional_none -> optional(V)", |_| Ok(Value::NONE))] },
        Function {
            name: "value",
            overloads: vec![member("optional_value optional(V) -> V", |args| match &args[0] {
                Value::Optional(Some(value)) => Ok((**value).clone()),
                Value::Optional(None) => Err(EvalError::of("optional.none() dereference")),
                _ => Err(EvalError::no_such_overload()),
            })],
        },
        Function {
            name: "hasValue",
            overloads: vec![member("optional_hasValue optional(V) -> bool", |args| Ok(Value::Bool(matches!(&args[0], Value::Optional(Some(_))))))],
        },
        Function { name: "or", overloads: vec![special(member("optional_or_optional optional(V) optional(V) -> optional(V)", own))] },
        Function { name: "orValue", overloads: vec![special(member("optional_orValue_value optional(V) V -> V", own))] },
        Function { name: "_?._", overloads: vec![special(global("select_optional_field dyn string -> optional(V)", own))] },
        Function {
            name: "_[?_]",
            overloads: vec![
                index("list_optindex_optional_int list(V) int -> optional(V)"),
                index("optional_list_optindex_optional_int optional(list(V)) int -> optional(V)"),
                index("map_optindex_optional_value map(K,V) K -> optional(V)"),
                index("optional_map_optindex_optional_value optional(map(K,V)) K -> optional(V)"),
            ],
        },
        Function {
            name: "_[_]",
            overloads: vec![
                index("optional_list_index_int optional(list(V)) int -> optional(V)"),
                index("optional_map_index_value optional(map(K,V)) K -> optional(V)"),
            ],
        },
        Function { name: "last", overloads: vec![member("list_last list(V) -> optional(V)", |args| end(args, true))] },
        Function { name: "first", overloads: vec![member("list_first list(V) -> optional(V)", |args| end(args, false))] },
        Function { name: "optional.unwrap", overloads: vec![global("optional_unwrap list(optional(V)) -> list(V)", unwrap)] },
        Function { name: "unwrapOpt", overloads: vec![member("optional_unwrapOpt list(optional(V)) -> list(V)", unwrap)] },
    ];
    library
}

/// What the evaluator does itself.
fn own<'v>(_args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    Err(EvalError::no_such_overload())
}

fn end<'v>(args: &[Value<'v>], last: bool) -> Result<Value<'v>, EvalError> {
    let Value::List(list) = &args[0] else { return Err(EvalError::no_such_overload()) };
    if list.is_empty() {
        return Ok(Value::NONE);
    }
    list.at(if last { list.len() - 1 } else { 0 }).map(Value::some)
}

fn unwrap<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    let Value::List(list) = &args[0] else { return Err(EvalError::no_such_overload()) };
    work::take(list.len() as u64)?;
    let mut values = Vec::new();
    for element in list.iter() {
        match element? {
            Value::Optional(None) => {}
            Value::Optional(Some(value)) => values.push((*value).clone()),
            other => return Err(EvalError::of(format!("value {} is not optional", shown(&other)))),
        }
    }
    Ok(Value::list(values))
}
