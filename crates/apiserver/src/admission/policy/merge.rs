//! What the expression of a mutation gives, made of an object (upstream's `policy/mutating/patch`).

use crate::gate::policies::Mutation;
use kubecel::Value as Cel;
use machinery::{Map, Value, apply, json, patch, schema::TypeRef, status::Status};
use serde_json::json;

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
    if !mutation.patch {
        return Ok(decoded(configured(value, ty, object)?, ty)?);
    }
    let Some(next) = patched(value, object)? else { return Ok(object.clone()) };
    decoded(next, ty).map_err(|why| Unfit::Write(Status::internal(why)))
}

fn decoded(next: Value, ty: TypeRef<'_>) -> Result<Value, String> {
    let (decoded, unknown) = json::canonical(next, ty)?;
    match unknown.as_slice() {
        [] => Ok(decoded),
        unknown => Err(format!("strict decoding error: {}", unknown.join(", "))),
    }
}

/// By a list of `JSONPatch`; none if one of its tests fails.
fn patched(value: &Cel<'_>, object: &Value) -> Result<Option<Value>, String> {
    let Cel::List(list) = value else { return Err("type mismatch: JSONPatchType.expression should evaluate to array".into()) };
    let mut operations = Vec::new();
    for element in list.iter() {
        let Ok(Cel::Struct(operation)) = element else {
            return Err("type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch".into());
        };
        let mut out = json!({"path": ""});
        for (field, value) in &operation.fields {
            if &**field == "value" {
                names(value, &mut vec!["Object".to_owned()])?;
            }
            if &**field != "from" || value.as_str() != Some("") {
                out[&**field] = plain(value)?;
            }
        }
        operations.push(out);
    }
    match patch::json_patch_told(object, &Value::Array(operations)) {
        Ok(next) => Ok(Some(next)),
        // A patch whose test fails is not for this object.
        Err(patch::Unfit::Operation(why)) if why.ends_with(": test failed") => Ok(None),
        Err(patch::Unfit::Operation(why) | patch::Unfit::NoPatch(why)) => Err(format!("JSON Patch: {why}")),
    }
}

/// By an `Object`.
fn configured(value: &Cel<'_>, ty: TypeRef<'_>, object: &Value) -> Result<Value, String> {
    let Cel::Struct(_) = value else { return Err(format!("unsupported return type from ApplyConfiguration expression: {}", value.type_name())) };
    names(value, &mut vec!["Object".to_owned()])?;
    let mut configuration = plain(value)?;
    for field in ["apiVersion", "kind"] {
        configuration[field] = object[field].clone();
    }
    apply::merge_unowned(ty, object, &configuration).map_err(|why| format!("error applying patch: {why}"))
}

/// Whether each part is of the type that its place says: `Object.spec` only at `spec`. A value of a patch begins anywhere.
fn names(value: &Cel<'_>, path: &mut Vec<String>) -> Result<(), String> {
    if let Cel::Struct(object) = value
        && path.len() == 1
    {
        *path = object.name.split('.').map(str::to_owned).collect();
    }
    let mut wrong = Vec::new();
    check_names(value, path, &mut wrong);
    if wrong.is_empty() { Ok(()) } else { Err(format!("type mismatch: {}", wrong.join("\n"))) }
}

fn check_names(value: &Cel<'_>, path: &mut Vec<String>, wrong: &mut Vec<String>) {
    match value {
        Cel::Struct(object) => {
            let expected = path.join(".");
            if *object.name != *expected {
                wrong.push(format!("unexpected type name {:?}, expected {expected:?}, which matches field name path from root Object type", &*object.name));
            }
            for (field, value) in &object.fields {
                path.push(field.to_string());
                check_names(value, path, wrong);
                path.pop();
            }
        }
        Cel::List(list) => list.iter().flatten().for_each(|element| check_names(&element, path, wrong)),
        Cel::Map(map) => map.keys().iter().filter_map(|key| map.find(key).ok().flatten()).for_each(|value| check_names(&value, path, wrong)),
        _ => {}
    }
}

/// A value as JSON.
fn plain(value: &Cel<'_>) -> Result<Value, String> {
    let unfit = |why: &str| format!("JSONPath valueExpression evaluated to a type that could not marshal to JSON: {why}");
    Ok(match value {
        Cel::Null => Value::Null,
        Cel::Bool(value) => (*value).into(),
        Cel::Int(value) => (*value).into(),
        Cel::Uint(value) => (*value).into(),
        Cel::Double(value) => json!(value),
        Cel::String(text) => (**text).into(),
        Cel::List(list) => {
            let elements: Result<Vec<Value>, String> = list.iter().map(|element| plain(&element.map_err(|error| unfit(&error.message))?)).collect();
            elements?.into()
        }
        Cel::Map(map) => {
            let mut out = Map::new();
            for key in map.keys() {
                let Some(name) = key.as_str().map(str::to_owned) else { return Err(unfit("map keys must be strings")) };
                let value = map.find(&key).map_err(|error| unfit(&error.message))?.unwrap_or(Cel::Null);
                out.insert(name, plain(&value)?);
            }
            out.into()
        }
        Cel::Struct(object) => {
            let fields: Result<Map<String, Value>, String> = object.fields.iter().map(|(name, value)| Ok((name.to_string(), plain(value)?))).collect();
            fields?.into()
        }
        Cel::Optional(Some(value)) => plain(value)?,
        other => return Err(unfit(&format!("unsupported type {}", other.type_name()))),
    })
}
