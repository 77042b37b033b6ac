//! Values as errors show them: the original's own form of a definition, all fields of its Go types by their names.

use super::Versions;

use machinery::{
    Value,
    field::{Error, Path},
    json,
};

/// How a field is written.
#[derive(Clone, Copy)]
enum As {
    /// A text; empty if it is not there.
    Text,
    /// True or false; false if it is not there.
    Flag,
    /// What is there, or null.
    Same,
    Schema,
    Schemas,
    Named,
    Items,
    Or,
    OrTexts,
    Docs,
    Rules,
}

const SCHEMA: [(&str, &str, As); 43] = [
    ("ID", "id", As::Text),
    ("Schema", "$schema", As::Text),
    ("Ref", "$ref", As::Same),
    ("Description", "description", As::Text),
    ("Type", "type", As::Text),
    ("Nullable", "nullable", As::Flag),
    ("Format", "format", As::Text),
    ("Title", "title", As::Text),
    ("Default", "default", As::Same),
    ("Maximum", "maximum", As::Same),
    ("ExclusiveMaximum", "exclusiveMaximum", As::Flag),
    ("Minimum", "minimum", As::Same),
    ("ExclusiveMinimum", "exclusiveMinimum", As::Flag),
    ("MaxLength", "maxLength", As::Same),
    ("MinLength", "minLength", As::Same),
    ("Pattern", "pattern", As::Text),
    ("MaxItems", "maxItems", As::Same),
    ("MinItems", "minItems", As::Same),
    ("UniqueItems", "uniqueItems", As::Flag),
    ("MultipleOf", "multipleOf", As::Same),
    ("Enum", "enum", As::Same),
    ("MaxProperties", "maxProperties", As::Same),
    ("MinProperties", "minProperties", As::Same),
    ("Required", "required", As::Same),
    ("Items", "items", As::Items),
    ("AllOf", "allOf", As::Schemas),
    ("OneOf", "oneOf", As::Schemas),
    ("AnyOf", "anyOf", As::Schemas),
    ("Not", "not", As::Schema),
    ("Properties", "properties", As::Named),
    ("AdditionalProperties", "additionalProperties", As::Or),
    ("PatternProperties", "patternProperties", As::Named),
    ("Dependencies", "dependencies", As::OrTexts),
    ("AdditionalItems", "additionalItems", As::Or),
    ("Definitions", "definitions", As::Named),
    ("ExternalDocs", "externalDocs", As::Docs),
    ("Example", "example", As::Same),
    ("XPreserveUnknownFields", "x-kubernetes-preserve-unknown-fields", As::Same),
    ("XEmbeddedResource", "x-kubernetes-embedded-resource", As::Flag),
    ("XIntOrString", "x-kubernetes-int-or-string", As::Flag),
    ("XListMapKeys", "x-kubernetes-list-map-keys", As::Same),
    ("XListType", "x-kubernetes-list-type", As::Same),
    ("XMapType", "x-kubernetes-map-type", As::Same),
];
const RULES: (&str, &str, As) = ("XValidations", "x-kubernetes-validations", As::Rules);
const RULE: [(&str, &str, As); 6] = [
    ("Rule", "rule", As::Text),
    ("Message", "message", As::Text),
    ("MessageExpression", "messageExpression", As::Text),
    ("Reason", "reason", As::Same),
    ("FieldPath", "fieldPath", As::Text),
    ("OptionalOldSelf", "optionalOldSelf", As::Same),
];
const COLUMN: [(&str, &str, As); 4] =
    [("Name", "name", As::Text), ("Type", "type", As::Text), ("Format", "format", As::Text), ("Description", "description", As::Text)];

/// An error of a value that is shown in the original's form.
pub(super) fn invalid(path: &Path, shown: &str, detail: &str) -> Error {
    Error::invalid_unshown(path, format!("{shown}: {detail}"))
}

/// A schema.
pub(super) fn schema(schema: &Value) -> String {
    let mut out = String::new();
    write_schema(&mut out, schema);
    out
}

/// The items of a list.
pub(super) fn items(items: &Value) -> String {
    let mut out = String::new();
    write_field(&mut out, items, As::Items);
    out
}

/// The versions of a definition, without what they have in common.
pub(super) fn versions(versions: &Versions<'_>) -> String {
    if !versions.given {
        return "null".into();
    }
    let mut out = String::new();
    list(&mut out, versions.list, |out, version| write_version(out, version, versions));
    out
}

fn json(out: &mut String, value: &Value) {
    out.push_str(&String::from_utf8_lossy(&json::encode(value)));
}

fn list<'v>(out: &mut String, items: impl IntoIterator<Item = &'v Value>, mut write: impl FnMut(&mut String, &'v Value)) {
    out.push('[');
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        write(out, item);
    }
    out.push(']');
}

/// Fields by their names in Go.
fn fields(out: &mut String, value: &Value, known: &[(&str, &str, As)]) {
    for (at, (name, key, form)) in known.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        json(out, &(*name).into());
        out.push(':');
        write_field(out, &value[*key], *form);
    }
}

fn write_schema(out: &mut String, schema: &Value) {
    out.push('{');
    fields(out, schema, &SCHEMA);
    out.push(',');
    fields(out, schema, &[RULES]);
    out.push('}');
}

fn write_field(out: &mut String, value: &Value, form: As) {
    match (form, value) {
        (As::Text, value) => json(out, &value.as_str().unwrap_or_default().into()),
        (As::Flag, value) => json(out, &(value == true).into()),
        (_, Value::Null) => out.push_str("null"),
        (As::Same, value) => json(out, value),
        (As::Schema, value) => write_schema(out, value),
        (As::Schemas, value) => list(out, value.as_array().into_iter().flatten(), write_schema),
        (As::Rules, value) => list(out, value.as_array().into_iter().flatten(), |out, rule| {
            out.push('{');
            fields(out, rule, &RULE);
            out.push('}');
        }),
        (As::Named, value) => named(out, value, write_schema),
        (As::Items, Value::Array(_)) => {
            out.push_str("{\"Schema\":null,\"JSONSchemas\":");
            write_field(out, value, As::Schemas);
            out.push('}');
        }
        (As::Items, value) => {
            out.push_str("{\"Schema\":");
            write_schema(out, value);
            out.push_str(",\"JSONSchemas\":null}");
        }
        (As::Or, value) => {
            out.push_str(if value == false { "{\"Allows\":false,\"Schema\":" } else { "{\"Allows\":true,\"Schema\":" });
            if value.is_object() {
                write_schema(out, value)
            } else {
                out.push_str("null")
            }
            out.push('}');
        }
        (As::OrTexts, value) => named(out, value, |out, value| match value {
            Value::Array(_) => {
                out.push_str("{\"Schema\":null,\"Property\":");
                json(out, value);
                out.push('}');
            }
            value => {
                out.push_str("{\"Schema\":");
                write_schema(out, value);
                out.push_str(",\"Property\":null}");
            }
        }),
        (As::Docs, value) => {
            out.push('{');
            fields(out, value, &[("Description", "description", As::Text), ("URL", "url", As::Text)]);
            out.push('}');
        }
    }
}

fn named(out: &mut String, value: &Value, write: impl Fn(&mut String, &Value)) {
    out.push('{');
    for (at, (name, value)) in value.as_object().into_iter().flatten().enumerate() {
        if at > 0 {
            out.push(',');
        }
        json(out, &name.as_str().into());
        out.push(':');
        write(out, value);
    }
    out.push('}');
}

fn write_version(out: &mut String, version: &Value, shared: &Versions<'_>) {
    out.push('{');
    let flags = [("Served", "served", As::Flag), ("Storage", "storage", As::Flag), ("Deprecated", "deprecated", As::Flag)];
    fields(out, version, &[("Name", "name", As::Text)]);
    out.push(',');
    fields(out, version, &flags);
    out.push(',');
    fields(out, version, &[("DeprecationWarning", "deprecationWarning", As::Same)]);
    let own = |is_shared: bool, key: &str| if is_shared { &Value::Null } else { &version[key] };
    out.push_str(",\"Schema\":");
    match own(shared.schemas, "schema") {
        Value::Null => out.push_str("null"),
        validation => {
            out.push('{');
            fields(out, validation, &[("OpenAPIV3Schema", "openAPIV3Schema", As::Schema)]);
            out.push('}');
        }
    }
    out.push_str(",\"Subresources\":");
    write_subresources(out, own(shared.subresources, "subresources"));
    out.push_str(",\"AdditionalPrinterColumns\":");
    write_list(out, own(shared.columns, "additionalPrinterColumns"), |out, column| {
        fields(out, column, &COLUMN);
        out.push_str(&format!(",\"Priority\":{},", column["priority"].as_i64().unwrap_or(0)));
        fields(out, column, &[("JSONPath", "jsonPath", As::Text)]);
    });
    out.push_str(",\"SelectableFields\":");
    write_list(out, own(shared.selectable, "selectableFields"), |out, field| fields(out, field, &[("JSONPath", "jsonPath", As::Text)]));
    out.push('}');
}

fn write_list(out: &mut String, value: &Value, write: impl Fn(&mut String, &Value)) {
    match value {
        Value::Null => out.push_str("null"),
        value => list(out, value.as_array().into_iter().flatten(), |out, item| {
            out.push('{');
            write(out, item);
            out.push('}');
        }),
    }
}

fn write_subresources(out: &mut String, subresources: &Value) {
    if subresources.is_null() {
        out.push_str("null");
        return;
    }
    out.push_str(if subresources["status"].is_null() { "{\"Status\":null,\"Scale\":" } else { "{\"Status\":{},\"Scale\":" });
    let scale = &subresources["scale"];
    if scale.is_null() {
        out.push_str("null}");
        return;
    }
    out.push('{');
    let known = [
        ("SpecReplicasPath", "specReplicasPath", As::Text),
        ("StatusReplicasPath", "statusReplicasPath", As::Text),
        ("LabelSelectorPath", "labelSelectorPath", As::Same),
    ];
    fields(out, scale, &known);
    out.push_str("}}");
}
