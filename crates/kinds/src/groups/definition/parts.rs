//! The parts of a definition besides its schemas: names, deprecation, columns, scale, selectable fields.

use super::shown;
use crate::{
    groups::{checks, definition_paths},
    rules, tree,
};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    json, names,
    quote::is_print,
};
use std::collections::HashSet;

const COLUMN_TYPES: &str = "boolean,date,integer,number,string";
const COLUMN_FORMATS: &str = "byte,date,date-time,double,float,int32,int64,password";
const WARNING_MAX_BYTES: usize = 256;
const SELECTABLE_MAX: usize = 8;

/// Names, asked for or accepted.
pub(in crate::groups) fn check_names(given: &Value, path: &Path, errors: &mut ErrorList) {
    for (field, mixed) in [("plural", false), ("singular", false), ("kind", true), ("listKind", true)] {
        let value = tree::text(given, field);
        let problems = if mixed { names::dns1035_label(&names::lower(value)) } else { names::dns1035_label(value) };
        if !value.is_empty() && !problems.is_empty() {
            let prefix = if mixed { "may have mixed case, but should otherwise match: " } else { "" };
            errors.push(Error::invalid(&path.child(field), value, format!("{prefix}{}", problems.join(","))));
        }
    }
    let lists = |key: &'static str, errors: &mut ErrorList| {
        for (at, name) in checks::texts(given, key) {
            checks::joined(name, &path.child(key).index(at), &names::dns1035_label(name), errors);
        }
    };
    lists("shortNames", errors);
    let kind = tree::text(given, "kind");
    if !kind.is_empty() && given["listKind"] == kind {
        errors.push(Error::invalid(&path.child("listKind"), kind, "kind and listKind may not be the same"));
    }
    lists("categories", errors);
}

pub(super) fn check_deprecation(version: &Value, path: &Path, errors: &mut ErrorList) {
    let Some(warning) = version["deprecationWarning"].as_str() else { return };
    let text = String::from_utf8(json::encode(&version["deprecationWarning"])).unwrap_or_default();
    let mut bad = |detail: &str| errors.push(shown::invalid(path, &text, detail));
    if version["deprecated"] != true {
        bad("can only be set for deprecated versions");
        return;
    }
    if warning.len() > WARNING_MAX_BYTES {
        bad("must be <= 256 characters long");
    }
    if warning.is_empty() {
        bad("must not be an empty string");
    }
    if let Some((at, _)) = warning.char_indices().find(|(_, c)| !is_print(*c)) {
        bad(&format!("must only contain printable UTF-8 characters; non-printable character found at index {at}"));
    }
}

fn check_json_path(text: &str, path: &Path, errors: &mut ErrorList) -> bool {
    let simple = text.starts_with('.');
    if !simple {
        errors.push(Error::invalid(path, text, "must be a simple json path starting with ."));
    }
    simple
}

pub(super) fn check_columns(columns: &[Value], path: &Path, errors: &mut ErrorList) {
    for (at, column) in columns.iter().enumerate() {
        let path = path.index(at);
        rules::required(column, &path, "name", errors);
        let (kind, format, place) = (tree::text(column, "type"), tree::text(column, "format"), path.child("type"));
        if kind.is_empty() {
            errors.push(Error::required(&place, format!("must be one of {COLUMN_TYPES}")));
        } else if !COLUMN_TYPES.split(',').any(|t| t == kind) {
            errors.push(Error::invalid(&place, kind, format!("must be one of {COLUMN_TYPES}")));
        }
        if !format.is_empty() && !COLUMN_FORMATS.split(',').any(|f| f == format) {
            errors.push(Error::invalid(&path.child("format"), format, format!("must be one of {COLUMN_FORMATS}")));
        }
        let (text, place) = (tree::text(column, "jsonPath"), path.child("JSONPath"));
        if text.is_empty() {
            errors.push(Error::required(&place, ""));
        } else {
            check_json_path(text, &place, errors);
        }
    }
}

pub(super) fn check_scale(scale: &Value, path: &Path, errors: &mut ErrorList) {
    if scale.is_null() {
        return;
    }
    let paths: [(&str, &[&str], &str); 3] = [
        ("specReplicasPath", &[".spec."], "should be a json path under .spec"),
        ("statusReplicasPath", &[".status."], "should be a json path under .status"),
        ("labelSelectorPath", &[".spec.", ".status."], "should be a json path under either .spec or .status"),
    ];
    for (field, roots, detail) in paths {
        let (text, place) = (tree::text(scale, field), path.child("scale").child(field));
        if text.is_empty() {
            if field != "labelSelectorPath" {
                errors.push(Error::required(&place, ""));
            }
        } else if check_json_path(text, &place, errors) && !roots.iter().any(|root| text.starts_with(root)) {
            errors.push(match field {
                // What is held by a pointer is shown as JSON.
                "labelSelectorPath" => shown::invalid(&place, &String::from_utf8_lossy(&json::encode(&scale[field])), detail),
                _ => Error::invalid(&place, text, detail),
            });
        }
    }
}

pub(super) fn check_selectable(fields: &[Value], schema: &Value, path: &Path, errors: &mut ErrorList) {
    let mut known = HashSet::new();
    for (at, field) in fields.iter().enumerate() {
        let (text, place) = (tree::text(field, "jsonPath"), path.index(at).child("jsonPath"));
        if text.is_empty() {
            errors.push(Error::required(&place, ""));
            continue;
        }
        let (found, schema) = match definition_paths::resolve(text, schema, false) {
            Ok(found) => found,
            Err(why) => {
                errors.push(Error::invalid(&place, text, format!("is an invalid path: {why}")));
                continue;
            }
        };
        if found.as_str() == "metadata" || found.as_str().starts_with("metadata.") {
            errors.push(Error::invalid(&place, text, "must not point to fields in metadata"));
        }
        if !matches!(tree::text(schema, "type"), "string" | "boolean" | "integer") {
            let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            errors.push(Error::invalid(&place, text, detail));
        }
        if !known.insert(found.as_str().to_owned()) {
            errors.push(Error::duplicate(&place, text));
        }
    }
    if known.len() > SELECTABLE_MAX {
        errors.push(Error::too_many(path, known.len(), SELECTABLE_MAX));
    }
}
