//! Maps and lists that the expression of an apply configuration writes within others of its own.
//!
//! Upstream hands the fields of an `Object` to its schema one step deep (`convertField` of `cel/mutation/dynamic`): a map or list that the
//! expression itself writes within another one stays a value of CEL, which is nothing that a schema knows. What is told of it shows it as
//! Go prints it, so it stands here as that text, where the schema wants a map or a list.

use super::value::{Room, Wrong, plain};
use kubecel::{
    Value as Cel,
    value::{List, Map},
};
use machinery::{
    Value,
    quote::Quoted,
    schema::{ListType, Text, Type, TypeRef},
};

/// The most errors that are told of one value.
const ERRORS_MAX: usize = 100;

/// Months as Go's source spells them.
const MONTHS: [&str; 12] = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];

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

/// What the schema is told of times, durations, bytes and numbers without a sign, which it is handed as Go has them and not as JSON would:
/// they fit no field of it. None if there are none, or what holds them is free in form. The value is one that [`plain`] has found small
/// enough.
pub(super) fn unfit(ty: TypeRef<'_>, value: &Cel<'_>) -> Option<String> {
    let mut errors = Vec::new();
    look(ty, value, &mut Vec::new(), &mut errors);
    match errors.as_slice() {
        [] => None,
        [error] => Some(error.clone()),
        errors => Some(format!("errors:\n  {}", errors.join("\n  "))),
    }
}

fn look(ty: TypeRef<'_>, value: &Cel<'_>, path: &mut Vec<String>, errors: &mut Vec<String>) {
    let is_free = match ty.get() {
        Type::Object(object) => object.preserve_unknown,
        of => matches!(of, Type::Any),
    };
    let mut below = |ty: Option<TypeRef<'_>>, value: &Cel<'_>, element: String, within: bool| {
        path.push(element);
        match ty {
            Some(ty) => look(ty, value, path, errors),
            None if is_free => unknown(value, within, path, errors),
            None => {}
        }
        path.pop();
    };
    match value {
        Cel::Struct(object) => {
            for (name, value) in &object.fields {
                below(ty.child(name), value, format!(".{name}"), false);
            }
        }
        Cel::Map(map @ Map::Owned(..)) => {
            for (name, value) in &entries(map) {
                below(ty.child(name), value, format!(".{name}"), true);
            }
        }
        Cel::List(List::Owned(elements, _)) => {
            for (at, element) in elements.iter().enumerate() {
                let name = match ty.list_type() {
                    Some(ListType::Atomic) => Some(format!("[{at}]")),
                    Some(ListType::Map(keys)) => keyed(element, keys, ty.elem()),
                    // Values that are their own names are none of these.
                    _ => None,
                };
                if let Some(name) = name {
                    below(ty.elem(), element, name, true);
                }
            }
        }
        Cel::Timestamp(_) | Cel::Duration(_) | Cel::Bytes(_) | Cel::Uint(_) if errors.len() < ERRORS_MAX => {
            errors.extend(misfit(ty, value).map(|why| format!("{}: {why}", path.concat())));
        }
        _ => {}
    }
}

/// What is told of a value in a place of which the schema knows nothing: what is no value of JSON is taken for a map there, and is none.
fn unknown(value: &Cel<'_>, within: bool, path: &mut Vec<String>, errors: &mut Vec<String>) {
    let mut below = |value: &Cel<'_>, element: String, within: bool| {
        path.push(element);
        unknown(value, within, path, errors);
        path.pop();
    };
    match value {
        Cel::List(List::Owned(..)) | Cel::Map(Map::Owned(..)) if within => {
            let more = (errors.len() < ERRORS_MAX).then(|| format!("{}: expected map, got &{{{}}}", path.concat(), printed(value, true)));
            errors.extend(more);
        }
        Cel::Struct(object) => object.fields.iter().for_each(|(name, value)| below(value, format!(".{name}"), false)),
        Cel::Map(map @ Map::Owned(..)) => entries(map).iter().for_each(|(name, value)| below(value, format!(".{name}"), true)),
        Cel::List(List::Owned(elements, _)) => elements.iter().enumerate().for_each(|(at, element)| below(element, format!("[{at}]"), true)),
        _ => {}
    }
}

/// The name of an element that is told from others by its keys, as the schema prints it; none where a key is nothing that names.
fn keyed(element: &Cel<'_>, keys: &[Text], ty: Option<TypeRef<'_>>) -> Option<String> {
    let Cel::Struct(object) = element else { return None };
    let mut named = Vec::new();
    for key in keys {
        let default = ty.and_then(|ty| ty.field(key)).and_then(|field| field.default.as_ref());
        let shown = match (object.fields.get(&**key), default) {
            (Some(Cel::String(text)), _) => Quoted(text).to_string(),
            (Some(Cel::Int(number)), _) => number.to_string(),
            (Some(_), _) => return None,
            (None, Some(Value::String(text))) => Quoted(text).to_string(),
            (None, Some(other)) => other.to_string(),
            (None, None) => continue,
        };
        named.push(format!("{key}={shown}"));
    }
    named.sort_unstable();
    (!named.is_empty()).then(|| format!("[{}]", named.join(",")))
}

/// What is told of a time, a duration, bytes or a number without a sign in a place of a type.
fn misfit(ty: TypeRef<'_>, value: &Cel<'_>) -> Option<String> {
    // As Go's `%v`, `%#v` and `%T` show it.
    let (plain, syntax, of) = match value {
        Cel::Timestamp(time) => (time.go_text(), go_date(&time.to_string()), "time.Time"),
        Cel::Duration(nanos) => (kubecel::gotext::duration(*nanos), nanos.to_string(), "time.Duration"),
        Cel::Bytes(bytes) => {
            let listed = |one: fn(&u8) -> String, between: &str| bytes.iter().map(one).collect::<Vec<_>>().join(between);
            (format!("[{}]", listed(u8::to_string, " ")), format!("[]uint8{{{}}}", listed(|byte| format!("{byte:#x}"), ", ")), "[]uint8")
        }
        Cel::Uint(number) => (number.to_string(), format!("{number:#x}"), "uint64"),
        _ => return None,
    };
    match ty.get() {
        Type::Object(object) if object.untyped => None,
        Type::Object(_) | Type::Map { .. } | Type::Fields => Some(format!("expected map, got &{{{plain}}}")),
        Type::List { .. } => Some(format!("expected list, got &{{{plain}}}")),
        Type::String | Type::Bytes => Some(format!("expected string, got &value.valueUnstructured{{Value:{syntax}}}")),
        Type::Int32 | Type::Int64 | Type::Double => Some(format!("expected numeric (int or float), got {of}")),
        Type::Bool => Some(format!("expected boolean, got &{{{plain}}}")),
        Type::Quantity | Type::Time | Type::MicroTime | Type::IntOrString => Some(format!("expected any scalar, got &{{{plain}}}")),
        _ => None,
    }
}

/// A time of RFC 3339 as Go's source makes it.
fn go_date(text: &str) -> String {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse::<usize>().unwrap_or_default());
    let mut next = || numbers.next().unwrap_or_default();
    let (year, month, day, hour, minute, second) = (next(), next(), next(), next(), next(), next());
    let month = MONTHS.get(month.wrapping_sub(1)).copied().unwrap_or_default();
    let fraction = text.split_once('.').map_or("", |(_, rest)| rest);
    let nanos: String = fraction.chars().take_while(char::is_ascii_digit).chain("000000000".chars()).take(9).collect();
    let nanos = if fraction.is_empty() { 0 } else { nanos.parse::<u32>().unwrap_or_default() };
    let zone = if text.ends_with('Z') { "time.UTC" } else { "time.Location(\"\")" };
    format!("time.Date({year}, time.{month}, {day}, {hour}, {minute}, {second}, {nanos}, {zone})")
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
    use machinery::{gvk::Gvk, schema};
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

    #[test]
    fn times_and_bytes_fit_no_field() {
        let kind = Gvk::parse("v1", "Pod");
        let ty = schema::builtin().kind(&kind).expect("pods");
        let told = |text: &str| {
            let env = Env::admission(Version::STORED, Optional { patches: true, ..Optional::default() });
            let program = env.compile(text).unwrap_or_else(|issues| panic!("{issues}"));
            let plan = Plan::new(&program).expect("a plan");
            unfit(ty, &plan.run(&[], Limits::default()).value.expect("a value"))
        };
        assert_eq!(told("Object{metadata: Object.metadata{annotations: {'a': 'b'}}}"), None);
        let why = ".metadata.annotations.a: expected string, got &value.valueUnstructured{Value:time.Date(2020, time.January, 2, 3, 4, 5, 0, time.UTC)}";
        assert_eq!(told("Object{metadata: Object.metadata{annotations: {'a': timestamp('2020-01-02T03:04:05Z')}}}").as_deref(), Some(why));
        let why = ".metadata.deletionTimestamp: expected any scalar, got &{2020-01-02 00:00:00 +0000 UTC}";
        assert_eq!(told("Object{metadata: Object.metadata{deletionTimestamp: timestamp('2020-01-02T00:00:00Z')}}").as_deref(), Some(why));
        let why = ".spec.hostname: expected string, got &value.valueUnstructured{Value:[]uint8{0x78, 0x79}}";
        assert_eq!(told("Object{spec: Object.spec{hostname: b'xy'}}").as_deref(), Some(why));
        let why = ".spec.priority: expected numeric (int or float), got uint64";
        assert_eq!(told("Object{spec: Object.spec{priority: 7u}}").as_deref(), Some(why));
        let why = ".spec.containers[name=\"c\"].resources.limits.cpu: expected any scalar, got &{7}";
        let limits = "resources: Object.spec.containers.resources{limits: {'cpu': 7u}}";
        assert_eq!(told(&format!("Object{{spec: Object.spec{{containers: [Object.spec.containers{{name: 'c', {limits}}}]}}}}")).as_deref(), Some(why));
    }

    #[test]
    fn what_is_written_within_what_nobody_knows_is_taken_for_a_map() {
        let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let structural = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"any": any}}}});
        let kind = Gvk::parse("example.org/v1", "Val");
        let schema = machinery::structural::schema(&[(kind.clone(), Some(&structural))]);
        let ty = schema.kind(&kind).expect("the kind");
        let told = |any: &str| {
            let env = Env::admission(Version::STORED, Optional { patches: true, ..Optional::default() });
            let program = env.compile(&format!("Object{{spec: Object.spec{{any: {any}}}}}")).unwrap_or_else(|issues| panic!("{issues}"));
            let plan = Plan::new(&program).expect("a plan");
            unfit(ty, &plan.run(&[], Limits::default()).value.expect("a value"))
        };
        assert_eq!(told("{'q': 1}"), None);
        assert_eq!(told("Object.spec.any{q: Object.spec.any.q{s: {'a': 2}}}"), None);
        assert_eq!(told("{'q': {'s': 2}}").as_deref(), Some(".spec.any.q: expected map, got &{map[s:2]}"));
        assert_eq!(told("{'l': [1, 2]}").as_deref(), Some(".spec.any.l: expected map, got &{[1 2]}"));
    }
}
