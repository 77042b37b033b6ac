//! Maps and lists that the expression of an apply configuration writes within others of its own.
//!
//! Upstream hands the fields of an `Object` to its schema one step deep (`convertField` of `cel/mutation/dynamic`): a map or list that the
//! expression itself writes within another one stays a value of CEL, which is nothing that a schema knows. What is told of it shows it as
//! Go prints it, so it stands here as that text, where the schema wants a map or a list.

use super::merge::{Room, Wrong, plain};
use kubecel::{
    Value as Cel,
    value::{List, Map},
};
use machinery::Value;

/// A field's value as the schema is handed it.
pub(super) fn handed(value: &Cel<'_>, room: &mut Room) -> Result<Value, Wrong> {
    match value {
        Cel::Struct(object) => {
            let mut out = machinery::Map::new();
            for (name, value) in &object.fields {
                room.take(name.len())?;
                out.insert(name.to_string(), handed(value, room)?);
            }
            Ok(out.into())
        }
        Cel::List(List::Owned(elements, _)) => {
            room.take(0)?;
            elements.iter().map(|element| within(element, room)).collect::<Result<Vec<Value>, Wrong>>().map(Value::from)
        }
        Cel::Map(map @ Map::Owned(..)) => {
            let mut out = machinery::Map::new();
            for (key, value) in entries(map) {
                room.take(key.len())?;
                out.insert(key, within(&value, room)?);
            }
            Ok(out.into())
        }
        other => plain(other, room),
    }
}

/// An entry or element of what the expression has written.
fn within(value: &Cel<'_>, room: &mut Room) -> Result<Value, Wrong> {
    match value {
        Cel::List(List::Owned(..)) | Cel::Map(Map::Owned(..)) => {
            // What it is made of is bounded as any value is, before it is printed.
            plain(value, room)?;
            Ok(printed(value, true).into())
        }
        Cel::Struct(_) => handed(value, room),
        other => plain(other, room),
    }
}

/// The entries whose keys are texts, in their order.
fn entries<'v>(map: &Map<'v>) -> Vec<(String, Cel<'v>)> {
    let keys = map.keys().into_iter();
    keys.filter_map(|key| Some((key.as_str()?.to_owned(), map.find(&key).ok().flatten()?))).collect()
}

/// As Go prints it: the outermost is Go's own map or slice, what is within prints itself.
fn printed(value: &Cel<'_>, is_outermost: bool) -> String {
    match value {
        Cel::List(list) => {
            let all: Vec<String> = list.iter().flatten().map(|element| printed(&element, false)).collect();
            format!("[{}]", all.join(if is_outermost { " " } else { ", " }))
        }
        Cel::Map(map) => {
            let (between, colon) = if is_outermost { (" ", ":") } else { (", ", ": ") };
            let all: Vec<String> = entries(map).iter().map(|(key, value)| format!("{key}{colon}{}", printed(value, false))).collect();
            if is_outermost { format!("map[{}]", all.join(between)) } else { format!("{{{}}}", all.join(between)) }
        }
        Cel::String(text) => (**text).to_owned(),
        Cel::Bool(value) => value.to_string(),
        Cel::Int(value) => value.to_string(),
        Cel::Uint(value) => value.to_string(),
        Cel::Double(value) => value.to_string(),
        Cel::Null => "0".to_owned(),
        other => other.type_name().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubecel::{
        Env, Version,
        declared::admission::Optional,
        eval::{Limits, Plan},
    };
    use serde_json::json;

    fn given(text: &str) -> Value {
        let env = Env::admission(Version::STORED, Optional { patches: true, ..Optional::default() });
        let program = env.compile(text).unwrap_or_else(|issues| panic!("{issues}"));
        let plan = Plan::new(&program).expect("a plan");
        let value = plan.run(&[], Limits::default()).value.expect("a value");
        handed(&value, &mut Room::default()).unwrap_or_else(|_| panic!("no value"))
    }

    #[test]
    fn what_is_written_within_is_shown_as_go_prints_it() {
        assert_eq!(given("Object{data: {'a': 'b'}}"), json!({"data": {"a": "b"}}));
        assert_eq!(given("Object{spec: Object.spec{l: [Object.spec.l{m: {'a': 1}}]}}"), json!({"spec": {"l": [{"m": {"a": 1}}]}}));
        assert_eq!(given("Object{metadata: {'labels': {'c': 'd', 'a': 'b'}}}"), json!({"metadata": {"labels": "map[a:b c:d]"}}));
        assert_eq!(given("Object{spec: Object.spec{l: [{'a': 1}]}}"), json!({"spec": {"l": ["map[a:1]"]}}));
        assert_eq!(given("Object{spec: {'l': [{'name': 'x'}, {'name': 'y'}]}}"), json!({"spec": {"l": "[{name: x} {name: y}]"}}));
    }
}
