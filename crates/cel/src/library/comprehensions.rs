//! What the macros with two variables call. (Adding to an accumulator is the evaluator's own.)

use super::global;
use crate::decl::{Function, Library};
use crate::error::EvalError;
use crate::macros;
use crate::value::Value;
use crate::version::Version;

pub fn library() -> Library {
    let own = |_: &[Value<'_>]| Err(EvalError::no_such_overload());
    let mut library = Library::new("cel.lib.ext.comprev2", Version(32));
    library.macros = macros::two_variables();
    library.functions = vec![Function {
        name: macros::MAP_INSERT,
        overloads: vec![global("@mapInsert_map_key_value map(K,V) K V -> map(K,V)", own), global("@mapInsert_map_map map(K,V) map(K,V) -> map(K,V)", own)],
    }];
    library
}
