//! Validation against a structural schema.

use crate::{
    Value,
    field::{Error, ErrorKind, ErrorList, Path},
};
use regex_lite::Regex;
use std::collections::HashSet;

/// The most errors that are reported for one object.
const ERRORS_LIMIT: usize = 100;

/// What is wrong with an object, or a part of one at `path`.
pub fn validate(structural: &Value, value: &Value, path: &Path) -> ErrorList {
    let mut errors = Vec::new();
    check(structural, value, path.as_str(), &mut errors);
    errors.truncate(ERRORS_LIMIT);
    errors
}

fn name_of(path: &str) -> &str {
    if path.is_empty() { "<nil>" } else { path }
}

fn error(kind: ErrorKind, path: &str, value: Value, detail: String) -> Error {
    Error { kind, path: Path::root(path), value, detail, bare: false }
}

/// An error of the sort that speaks of a value "in body".
fn invalid(path: &str, value: Value, detail: &str) -> Error {
    error(ErrorKind::Invalid, path, value, format!("{} in body {detail}", name_of(path)))
}

/// The JSON type as OpenAPI names it.
fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_i64() || n.is_u64() => "integer",
        Value::Number(n) if n.as_f64().is_some_and(|n| n.fract() == 0.0) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn check(schema: &Value, value: &Value, path: &str, errors: &mut ErrorList) {
    if errors.len() >= ERRORS_LIMIT || value.is_null() && schema.get("nullable") == Some(&Value::Bool(true)) {
        return;
    }
    let found = type_name(value);
    let either = schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true));
    let wanted = schema.get("type").and_then(Value::as_str).unwrap_or_default();
    let fits = match wanted {
        _ if either => matches!(found, "integer" | "string"),
        "" => true,
        "number" => matches!(found, "number" | "integer"),
        wanted => wanted == found,
    };
    if !fits {
        let wanted = if either { "integer,string" } else { wanted };
        let detail = format!("{} in body must be of type {wanted}: {found:?}", name_of(path));
        errors.push(error(ErrorKind::TypeInvalid, path, found.into(), detail));
        return;
    }
    allowed(schema, value, path, errors);
    match value {
        Value::Object(_) => object(schema, value, path, errors),
        Value::Array(items) => array(schema, items, path, errors),
        Value::String(text) => string(schema, text, path, errors),
        Value::Number(_) => number(schema, value, path, errors),
        _ => {}
    }
    combined(schema, value, path, errors);
}

fn allowed(schema: &Value, value: &Value, path: &str, errors: &mut ErrorList) {
    if let Some(values) = schema.get("enum").and_then(Value::as_array)
        && !values.contains(value)
    {
        let shown: Vec<String> = values.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect();
        errors.push(Error::not_supported(&Path::root(path), value.clone(), &shown));
    }
}

fn child(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn object(schema: &Value, value: &Value, path: &str, errors: &mut ErrorList) {
    let Some(map) = value.as_object() else { return };
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        if !map.contains_key(name) {
            errors.push(error(ErrorKind::Required, &child(path, name), Value::Null, String::new()));
        }
    }
    let count = |key: &str| schema.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    if let Some(max) = count("maxProperties").filter(|max| map.len() > *max) {
        errors.push(Error::too_many(&Path::root(path), map.len(), max));
    }
    if let Some(min) = count("minProperties").filter(|min| map.len() < *min) {
        errors.push(invalid(path, map.len().into(), &format!("should have at least {min} properties")));
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    let additional = schema.get("additionalProperties").filter(|a| a.is_object());
    for (name, value) in map {
        // Every object's own fields are validated elsewhere.
        if path.is_empty() && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
            continue;
        }
        if let Some(schema) = properties.and_then(|p| p.get(name)).or(additional) {
            check(schema, value, &child(path, name), errors);
        }
    }
}

fn array(schema: &Value, items: &[Value], path: &str, errors: &mut ErrorList) {
    let count = |key: &str| schema.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    if let Some(max) = count("maxItems").filter(|max| items.len() > *max) {
        errors.push(Error::too_many(&Path::root(path), items.len(), max));
    }
    if let Some(min) = count("minItems").filter(|min| items.len() < *min) {
        errors.push(invalid(path, items.len().into(), &format!("should have at least {min} items")));
    }
    if let Some(schema) = schema.get("items").filter(|s| s.is_object()) {
        for (at, item) in items.iter().enumerate() {
            check(schema, item, &format!("{path}[{at}]"), errors);
        }
    }
    let keys: Vec<&str> = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let unique = match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
        Some("set") => true,
        Some("map") => !keys.is_empty(),
        _ => schema.get("uniqueItems") == Some(&Value::Bool(true)),
    };
    let mut seen = HashSet::new();
    for (at, item) in items.iter().enumerate().filter(|_| unique) {
        let own: Value = match keys.is_empty() {
            true => item.clone(),
            false => keys.iter().map(|k| ((*k).to_owned(), item.get(*k).cloned().unwrap_or_default())).collect(),
        };
        if !seen.insert(own.to_string()) {
            errors.push(Error::duplicate(&Path::root(path).index(at), own));
        }
    }
}

fn string(schema: &Value, text: &str, path: &str, errors: &mut ErrorList) {
    let count = |key: &str| schema.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    let length = text.chars().count();
    if let Some(max) = count("maxLength").filter(|max| length > *max) {
        errors.push(Error::too_long(&Path::root(path), max));
    }
    if let Some(min) = count("minLength").filter(|min| length < *min) {
        errors.push(invalid(path, text.into(), &format!("should be at least {min} chars long")));
    }
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str) {
        // A pattern that cannot be compiled is an error of the definition, not of the object.
        if Regex::new(pattern).is_ok_and(|regex| !regex.is_match(text)) {
            errors.push(invalid(path, text.into(), &format!("should match '{pattern}'")));
        }
    }
    let format = schema.get("format").and_then(Value::as_str).unwrap_or_default();
    let good = match format {
        "date-time" => crate::unix::parse(text).is_some(),
        "date" => crate::unix::parse(&format!("{text}T00:00:00Z")).is_some(),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "byte" => base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text).is_ok(),
        _ => true,
    };
    if !good {
        let detail = format!("{} in body must be of type {format}: {text:?}", name_of(path));
        errors.push(error(ErrorKind::TypeInvalid, path, text.into(), detail));
    }
}

fn number(schema: &Value, value: &Value, path: &str, errors: &mut ErrorList) {
    let Some(n) = value.as_f64() else { return };
    let limit = |key: &str| schema.get(key).filter(|l| l.is_number());
    let exclusive = |key: &str| schema.get(key) == Some(&Value::Bool(true));
    if let Some((shown, max)) = limit("maximum").and_then(|l| Some((l, l.as_f64()?))) {
        if exclusive("exclusiveMaximum") && n >= max {
            errors.push(invalid(path, value.clone(), &format!("should be less than {shown}")));
        } else if n > max {
            errors.push(invalid(path, value.clone(), &format!("should be less than or equal to {shown}")));
        }
    }
    if let Some((shown, min)) = limit("minimum").and_then(|l| Some((l, l.as_f64()?))) {
        if exclusive("exclusiveMinimum") && n <= min {
            errors.push(invalid(path, value.clone(), &format!("should be greater than {shown}")));
        } else if n < min {
            errors.push(invalid(path, value.clone(), &format!("should be greater than or equal to {shown}")));
        }
    }
    if let Some((shown, step)) = limit("multipleOf").and_then(|l| Some((l, l.as_f64()?)))
        && step > 0.0
        && (n / step).fract() != 0.0
    {
        errors.push(invalid(path, value.clone(), &format!("should be a multiple of {shown}")));
    }
}

/// `allOf`, `anyOf`, `oneOf` and `not`.
fn combined(schema: &Value, value: &Value, path: &str, errors: &mut ErrorList) {
    let passing = |schemas: &[Value]| {
        let fits = |schema: &&Value| {
            let mut inner = Vec::new();
            check(schema, value, path, &mut inner);
            inner.is_empty()
        };
        schemas.iter().filter(fits).count()
    };
    let list = |key: &str| schema.get(key).and_then(Value::as_array);
    for schema in list("allOf").into_iter().flatten() {
        check(schema, value, path, errors);
    }
    if list("anyOf").is_some_and(|schemas| passing(schemas) == 0) {
        errors.push(invalid(path, "".into(), "must validate at least one schema (anyOf)"));
    }
    if list("oneOf").is_some_and(|schemas| passing(schemas) != 1) {
        errors.push(invalid(path, "".into(), "must validate one and only one schema (oneOf)"));
    }
    if schema.get("not").is_some_and(|schema| passing(std::slice::from_ref(schema)) == 1) {
        errors.push(invalid(path, "".into(), "must not validate the schema (not)"));
    }
}
