//! What the expression of a mutation gives, made of an object (upstream's `policy/mutating/patch`).
//!
//! A value shares its parts, and is a tree when it is written out: a few lists of lists are millions. So that has a budget
//! ([`Room`]), of no more than an object may have.

use super::literal;
use crate::gate::policies::Mutation;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use kubecel::Value as Cel;
use machinery::{
    Map, Value, apply,
    gvk::Gvk,
    json, patch,
    schema::{self, TypeRef},
    status::Status,
    tree::text,
};
use serde_json::json;

/// Bytes of what a mutation gives, as for a request's body.
const BYTES_MAX: usize = 3 << 20;
/// Of how many values it is made.
const NODES_MAX: usize = 300_000;

/// How it is told that something is no object of its schema.
const NO_OBJECT: &str = "failed to convert patch object to typed object";

/// What a mutation's value may still take.
pub(super) struct Room {
    nodes: usize,
    bytes: usize,
}

/// There is none left.
pub(super) struct Full;

impl Default for Room {
    fn default() -> Self {
        Room { nodes: NODES_MAX, bytes: BYTES_MAX }
    }
}

impl Room {
    /// Takes a value with a text of so many bytes.
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), Full> {
        self.nodes = self.nodes.checked_sub(1).ok_or(Full)?;
        self.bytes = self.bytes.checked_sub(bytes).ok_or(Full)?;
        Ok(())
    }
}

/// What is wrong with a value.
pub(super) enum Wrong {
    Text(String),
    Full,
}

impl From<String> for Wrong {
    fn from(why: String) -> Wrong {
        Wrong::Text(why)
    }
}

impl From<Full> for Wrong {
    fn from(_: Full) -> Wrong {
        Wrong::Full
    }
}

/// Why there is no object after a mutation.
pub(super) enum Unfit {
    /// The policy is wrong; its failure policy decides.
    Policy(String),
    /// The write is refused, whatever the policy says of failures.
    Write(Status),
}

impl From<String> for Unfit {
    fn from(why: String) -> Unfit {
        Unfit::Policy(why)
    }
}

/// The object after a mutation whose expression gave this value.
///
/// # Errors
/// It fits neither the object nor its schema; in upstream's words.
pub(super) fn mutated(mutation: &Mutation, value: &Cel<'_>, ty: TypeRef<'_>, object: &Value) -> Result<Value, Unfit> {
    let told = |wrong: Wrong| match wrong {
        Wrong::Text(why) => why,
        // As if the expression itself had made so much.
        Wrong::Full => format!("expression '{}' resulted in error: operation cancelled: actual cost limit exceeded", mutation.expression.text),
    };
    if !mutation.patch {
        let next = configured(value, ty, object).map_err(told)?;
        return Ok(decoded(next, ty).map_err(|why| unconverted(object, &why))?);
    }
    let Some(next) = patched(value, object).map_err(told)? else { return Ok(object.clone()) };
    decoded(next, ty).map_err(|why| Unfit::Write(Status::internal(why)))
}

fn decoded(next: Value, ty: TypeRef<'_>) -> Result<Value, String> {
    let decoded = json::canonical(next, ty)?;
    match decoded.warnings.as_slice() {
        [] => Ok(decoded.value),
        // A custom object is cut to its schema, whoever has written it.
        _ if ty.schema.is_lenient() => Ok(decoded.value),
        unknown => Err(format!("strict decoding error: {}", unknown.join(", "))),
    }
}

/// What a tree that is no object of its kind is told as: upstream makes one of the server's own kinds of it by a conversion.
fn unconverted(object: &Value, why: &str) -> String {
    let kind = Gvk::parse(text(object, "apiVersion"), text(object, "kind"));
    if schema::builtin().kind(&kind).is_none() {
        return why.to_owned();
    }
    let why = match why.rsplit_once(" of type ") {
        Some((number, ty)) if number.starts_with("json: cannot unmarshal number ") => format!("cannot convert float64 to {ty}"),
        _ if why.starts_with("illegal base64 data") => format!("error decoding from json: {why}"),
        _ => why.to_owned(),
    };
    format!("unable to convert unstructured object to {}/{}, Kind={}: {why}", kind.group, kind.version, kind.kind)
}

/// By a list of `JSONPatch`; none if one of its tests fails.
fn patched(value: &Cel<'_>, object: &Value) -> Result<Option<Value>, Wrong> {
    let mismatch = |of: &str| Wrong::Text(format!("type mismatch: JSONPatchType.expression should evaluate to array{of}"));
    let Cel::List(list) = value else { return Err(mismatch("")) };
    let mut operations = Vec::new();
    let mut room = Room::default();
    for element in list.iter() {
        room.take(0)?;
        let Ok(Cel::Struct(operation)) = element else { return Err(mismatch(" of JSONPatch")) };
        let mut out = json!({"op": "", "path": ""});
        for (field, value) in &operation.fields {
            // What stands in a list or a map is not looked at.
            if &**field == "value" && matches!(value, Cel::Struct(_)) {
                names(value, &mut Room::default())?;
            }
            if &**field != "from" || value.as_str() != Some("") {
                out[&**field] = plain(value, &mut room)?;
            }
        }
        operations.push(out);
    }
    match patch::json_patch_told(object, &Value::Array(operations)) {
        Ok(next) => Ok(Some(next)),
        // A patch whose test fails is not for this object.
        Err(patch::Unfit::Operation(why)) if why.ends_with(": test failed") => Ok(None),
        Err(patch::Unfit::Operation(why) | patch::Unfit::NoPatch(why)) => Err(Wrong::Text(format!("JSON Patch: {why}"))),
    }
}

/// By an `Object`.
fn configured(value: &Cel<'_>, ty: TypeRef<'_>, object: &Value) -> Result<Value, Wrong> {
    let Cel::Struct(_) = value else {
        return Err(Wrong::Text(format!("unsupported return type from ApplyConfiguration expression: {}", value.type_name())));
    };
    names(value, &mut Room::default())?;
    let of_kind = |mut configuration: Value| {
        for field in ["apiVersion", "kind"] {
            configuration[field] = object[field].clone();
        }
        configuration
    };
    let configuration = of_kind(plain(value, &mut Room::default())?);
    let merged = |configuration: &Value| apply::merge_unowned(ty, object, configuration);
    let handed = of_kind(literal::handed(value, &mut Room::default())?);
    let wrong = |why: String| Wrong::Text(format!("error applying patch: {why}"));
    if handed != configuration
        && let Err(why) = merged(&handed)
        && why.starts_with(NO_OBJECT)
    {
        return Err(wrong(why));
    }
    merged(&configuration).map_err(wrong)
}

/// Whether each part is of the type that its place says: `Object.spec` only at `spec`. A value of a patch begins anywhere.
fn names(value: &Cel<'_>, room: &mut Room) -> Result<(), Wrong> {
    let mut path = vec!["Object".to_owned()];
    if let Cel::Struct(object) = value {
        path = object.name.split('.').map(str::to_owned).collect();
    }
    let mut wrong = Vec::new();
    check_names(value, &mut path, &mut wrong, room)?;
    if wrong.is_empty() { Ok(()) } else { Err(Wrong::Text(format!("type mismatch: {}", wrong.join("\n")))) }
}

fn check_names(value: &Cel<'_>, path: &mut Vec<String>, wrong: &mut Vec<String>, room: &mut Room) -> Result<(), Full> {
    room.take(0)?;
    match value {
        Cel::Struct(object) => {
            let expected = path.join(".");
            // Both names stand in what is told.
            room.take(expected.len() + object.name.len())?;
            if *object.name != *expected {
                wrong.push(format!("unexpected type name {:?}, expected {expected:?}, which matches field name path from root Object type", &*object.name));
            }
            for (field, value) in &object.fields {
                path.push(field.to_string());
                check_names(value, path, wrong, room)?;
                path.pop();
            }
        }
        Cel::List(list) => {
            for element in list.iter() {
                room.take(0)?;
                if let Ok(element) = element {
                    check_names(&element, path, wrong, room)?;
                }
            }
        }
        Cel::Map(map) => {
            for value in map.keys().iter().filter_map(|key| map.find(key).ok().flatten()) {
                check_names(&value, path, wrong, room)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// A value as JSON.
pub(super) fn plain(value: &Cel<'_>, room: &mut Room) -> Result<Value, Wrong> {
    let unfit = |why: &str| Wrong::Text(format!("JSONPath valueExpression evaluated to a type that could not marshal to JSON: {why}"));
    room.take(value.as_str().map_or(0, str::len))?;
    Ok(match value {
        Cel::Null => Value::Null,
        Cel::Bool(value) => (*value).into(),
        Cel::Int(value) => (*value).into(),
        Cel::Uint(value) => (*value).into(),
        Cel::Double(value) => json!(value),
        Cel::String(text) => (**text).into(),
        Cel::List(list) => {
            let one = |element: Result<Cel<'_>, kubecel::eval::EvalError>| plain(&element.map_err(|error| unfit(&error.message))?, room);
            list.iter().map(one).collect::<Result<Vec<Value>, Wrong>>()?.into()
        }
        Cel::Map(map) => {
            let mut out = Map::new();
            for key in map.keys() {
                let Some(name) = key.as_str().map(str::to_owned) else { return Err(unfit("map keys must be strings")) };
                let value = map.find(&key).map_err(|error| unfit(&error.message))?.unwrap_or(Cel::Null);
                room.take(name.len())?;
                out.insert(name, plain(&value, room)?);
            }
            out.into()
        }
        Cel::Struct(object) => {
            let mut out = Map::new();
            for (name, value) in &object.fields {
                room.take(name.len())?;
                out.insert(name.to_string(), plain(value, room)?);
            }
            out.into()
        }
        Cel::Optional(Some(value)) => plain(value, room)?,
        // As protobuf's JSON has them.
        Cel::Bytes(bytes) => {
            room.take(bytes.len())?;
            STANDARD.encode(&**bytes).into()
        }
        Cel::Timestamp(time) => time.utc().to_string().into(),
        Cel::Duration(nanos) => kubecel::gotext::seconds(*nanos).into(),
        Cel::Type(_) => return Err(unfit("type conversion not supported for 'type'")),
        other => return Err(unfit(&format!("unsupported type {}", other.type_name()))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubecel::{
        Env, Version,
        declared::admission::Optional,
        eval::{Limits, Plan},
    };
    use std::time::Instant;

    fn given(text: &str) -> Cel<'static> {
        let env = Env::admission(Version::STORED, Optional { patches: true, ..Optional::default() });
        let program = env.compile(text).unwrap_or_else(|issues| panic!("{issues}"));
        // It lives as long as the test.
        let plan: &'static Plan = Box::leak(Box::new(Plan::new(&program).expect("a plan")));
        plan.run(&[], Limits::default()).value.expect("a value")
    }

    fn written(text: &str) -> Result<Option<Value>, String> {
        patched(&given(text), &json!({"data": {}})).map_err(|wrong| match wrong {
            Wrong::Text(why) => why,
            Wrong::Full => "full".to_owned(),
        })
    }

    #[test]
    fn what_is_shared_is_written_out_within_a_budget() {
        let patch = |value: &str| format!("[JSONPatch{{op: 'add', path: '/data/a', value: {value}}}]");
        let doubled = |times: usize| format!("{{'a': [[0]]{}[0]}}", ".map(a, [a, a])".repeat(times));
        assert!(written(&patch(&doubled(10))).is_ok_and(|next| next.is_some_and(|next| next["data"]["a"]["a"].is_array())));
        let began = Instant::now();
        assert_eq!(written(&patch(&doubled(40))), Err("full".into()));
        assert_eq!(written(&patch("[lists.range(10000)].map(all, lists.range(50).map(x, all))")), Err("full".into()));
        let long = format!("'{}'", "x".repeat(40_000));
        assert_eq!(written(&patch(&format!("lists.range(100).map(x, {long})"))), Err("full".into()));
        assert_eq!(written(&format!("lists.range(100).map(x, {})[0] + lists.range(100).map(x, {}[0])", patch("1"), patch(&long))), Err("full".into()));
        assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
    }

    #[test]
    fn names_are_looked_at_within_a_budget() {
        let shared = format!("[[Object.spec{{}}]]{}[0]", ".map(a, [a, a])".repeat(40));
        assert_eq!(written(&format!("[JSONPatch{{op: 'add', path: '/data/a', value: {shared}}}]")), Err("full".into()));
    }
}
