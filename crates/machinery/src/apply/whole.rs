//! Whole numbers that a configuration spells as floats: upstream compares numbers by their values and converts them late, so
//! that `1.0` applied over `1` is no change.

use crate::{
    Value,
    schema::{Type, TypeRef},
};

/// The configuration with its whole numbers as such; `None` if they all are.
pub(super) fn whole(ty: TypeRef<'_>, value: &Value) -> Option<Value> {
    let mut found = false;
    walk(ty, value, &mut |_| found = true);
    found.then(|| {
        let mut value = value.clone();
        put(ty, &mut value);
        value
    })
}

/// The whole number that a value is, though it is a float.
fn of(ty: TypeRef<'_>, value: &Value) -> Option<i64> {
    let float = value.as_f64().filter(|_| value.is_f64() && matches!(ty.get(), Type::Int32 | Type::Int64))?;
    (float.trunc() == float && float.abs() < EXACT).then_some(float as i64)
}

/// Every whole number up to this one is a float.
const EXACT: f64 = 9_007_199_254_740_992.0;

fn walk(ty: TypeRef<'_>, value: &Value, found: &mut dyn FnMut(i64)) {
    match value {
        Value::Number(_) => of(ty, value).into_iter().for_each(found),
        Value::Array(items) => items.iter().for_each(|item| each(ty, "").into_iter().for_each(|ty| walk(ty, item, found))),
        Value::Object(map) => map.iter().for_each(|(key, value)| each(ty, key).into_iter().for_each(|ty| walk(ty, value, found))),
        _ => {}
    }
}

fn put(ty: TypeRef<'_>, value: &mut Value) {
    if let Some(whole) = of(ty, value) {
        *value = whole.into();
        return;
    }
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| each(ty, "").into_iter().for_each(|ty| put(ty, item))),
        Value::Object(map) => map.iter_mut().for_each(|(key, value)| each(ty, key).into_iter().for_each(|ty| put(ty, value))),
        _ => {}
    }
}

/// The type of what stands in a value: of its field, its elements or its values.
fn each<'t>(ty: TypeRef<'t>, key: &str) -> Option<TypeRef<'t>> {
    match ty.get() {
        Type::Object(_) => ty.field(key).map(|field| ty.to(field.ty)),
        Type::List { elem, .. } | Type::Map { elem, .. } => Some(ty.to(*elem)),
        _ => None,
    }
}
