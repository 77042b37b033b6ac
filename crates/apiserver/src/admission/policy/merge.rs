//! What the expression of a mutation gives, made of an object (upstream's `policy/mutating/patch`).

use super::{
    literal,
    value::{Full, Room, Typed, Wrong, plain, unmade},
};
use crate::{admission::remade, gate::policies::Mutation};
use kubecel::Value as Cel;
use machinery::{
    Value, apply,
    gvk::Gvk,
    numerals, patch,
    schema::{self, TypeRef},
    status::Status,
    tree::text,
};
use serde_json::json;

/// The greatest whole number that a float holds as every one below it.
const EXACT_MAX: u64 = (1 << 53) - 1;

/// How it is told that something is no object of its schema.
const NO_OBJECT: &str = "failed to convert patch object to typed object";

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
pub(super) fn mutated(mutation: &Mutation, value: &Cel<'_>, (ty, described): (TypeRef<'_>, bool), object: &Value, typed: Typed<'_>) -> Result<Value, Unfit> {
    let told = |wrong: Wrong| match wrong {
        Wrong::Text(why) => why,
        // As if the expression itself had made so much.
        Wrong::Full => format!("expression '{}' resulted in error: operation cancelled: actual cost limit exceeded", mutation.expression.text),
    };
    if !mutation.patch {
        let next = configured(value, described.then_some(ty), object).map_err(told)?;
        return Ok(decoded(next, ty).map_err(|why| unconverted(object, &why))?);
    }
    let Some(next) = patched(value, object, typed).map_err(told)? else { return Ok(object.clone()) };
    decoded(next, ty).map_err(|why| Unfit::Write(Status::internal(why)))
}

fn decoded(next: Value, ty: TypeRef<'_>) -> Result<Value, String> {
    let decoded = remade(next, ty)?;
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
fn patched(value: &Cel<'_>, object: &Value, typed: Typed<'_>) -> Result<Option<Value>, Wrong> {
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
                let mut written = plain(value, &mut room)?;
                if !matches!(value, Cel::Struct(_)) {
                    if let Some(name) = typed.within(value) {
                        return Err(unmade(&format!("type conversion error from {name}")));
                    }
                    exact(&mut written);
                }
                numerals::reread_all(&mut written);
                out[&**field] = written;
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

/// Whole numbers that a float cannot hold are texts in a patch, as protobuf's JSON has them.
fn exact(value: &mut Value) {
    match value {
        Value::Number(number) if number.as_i64().map_or(number.is_u64(), |number| number.unsigned_abs() > EXACT_MAX) => {
            *value = number.to_string().into();
        }
        Value::Array(items) => items.iter_mut().for_each(exact),
        Value::Object(fields) => fields.values_mut().for_each(exact),
        _ => {}
    }
}

/// By an `Object`.
fn configured(value: &Cel<'_>, ty: Option<TypeRef<'_>>, object: &Value) -> Result<Value, Wrong> {
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
    let mut configuration = of_kind(plain(value, &mut Room::default())?);
    let wrong = |why: String| Wrong::Text(format!("error applying patch: {why}"));
    let Some(ty) = ty else {
        let kind = Gvk::parse(text(object, "apiVersion"), text(object, "kind"));
        let kind = format!("{}/{}, Kind={}", kind.group, kind.version, kind.kind);
        return Err(wrong(format!("failed to convert patch object to typed object: no corresponding type for {kind}")));
    };
    if let Some(why) = literal::unfit(ty, value) {
        return Err(wrong(format!("{NO_OBJECT}: {why}")));
    }
    let merged = |configuration: &Value| apply::merge_unowned(ty, object, configuration);
    let handed = of_kind(literal::handed(value, &mut Room::default())?);
    if handed != configuration
        && let Err(why) = merged(&handed)
        && why.starts_with(NO_OBJECT)
    {
        return Err(wrong(why));
    }
    // Go takes a float without a fraction for the whole number that it is.
    numerals::reread_all(&mut configuration);
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

#[cfg(test)]
mod tests {
    use super::{super::value::tests::given, *};
    use machinery::structural;
    use std::time::Instant;

    fn written(text: &str) -> Result<Option<Value>, String> {
        patched(&given(text), &json!({"data": {}}), Typed::default()).map_err(|wrong| match wrong {
            Wrong::Text(why) => why,
            Wrong::Full => "full".to_owned(),
        })
    }

    #[test]
    fn numbers_beyond_floats_are_texts_in_a_patch() {
        let patch = |value: &str| written(&format!("[JSONPatch{{op: 'add', path: '/data/a', value: {value}}}]"));
        let given = |value: Value| Ok(Some(json!({"data": {"a": value}})));
        assert_eq!(patch("[9223372036854775807, 1]"), given(json!(["9223372036854775807", 1])));
        assert_eq!(patch("-9007199254740991"), given(json!(-9_007_199_254_740_991_i64)));
        assert_eq!(patch("[7.0, 7.5]"), given(json!([7, 7.5])));
    }

    #[test]
    fn a_null_in_a_custom_object_is_left_for_validation() {
        let structural = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"s": {"type": "string"}}}}});
        let kind = Gvk::parse("example.org/v1", "Val");
        let schema = structural::schema(&[(kind.clone(), Some(&structural))]);
        let ty = schema.kind(&kind).expect("the kind");
        let next = json!({"apiVersion": "example.org/v1", "kind": "Val", "metadata": {"name": "a"}, "spec": {"s": null}});
        assert_eq!(decoded(next, ty).map(|read| read["spec"].clone()), Ok(json!({"s": null})));
    }

    #[test]
    fn what_no_document_describes_is_not_merged() {
        let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "spec": {"replicas": 1}});
        let told = configured(&given("Object{spec: Object.spec{replicas: 2}}"), None, &scale);
        let why = "error applying patch: failed to convert patch object to typed object: no corresponding type for autoscaling/v1, Kind=Scale";
        assert!(matches!(told, Err(Wrong::Text(told)) if told == why));
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
