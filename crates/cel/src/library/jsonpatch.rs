//! Keys in the paths of JSON patches: for the policies that write such.

use super::{costs, global};
use crate::decl::{Function, Library};
use crate::value::Value;
use crate::version::Version;

/// Not among [`super::all`]: an environment of mutations takes it by itself.
pub fn library() -> Library {
    let mut library = Library::new("kubernetes.jsonpatch", Version::FIRST);
    library.functions = vec![Function {
        name: "jsonpatch.escapeKey",
        overloads: vec![
            global("string_jsonpatch_escapeKey_string string -> string", |args| {
                Ok(Value::text(args[0].as_str().unwrap_or_default().replace('~', "~0").replace('/', "~1")))
            })
            .costs(costs::read_first, costs::read_first_sized),
        ],
    }];
    library
}
