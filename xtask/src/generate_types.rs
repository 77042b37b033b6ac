//! The schema file. Its grammar, one tab-separated line each:
//!
//! ```text
//! T name proto shape group/version/kind atomic       a type; `-` for what it has not
//! F name tag type flags go-type key=value…           a field of the type above
//! ```
//! Shapes are `object` or one of the special encodings of [`SHAPES`]. Flags: `r` required, `p` behind a pointer in Go,
//! `e` omitempty, `z` omitzero, `i` a field that only the wire has (an embedded struct, its JSON fields inlined),
//! `n` a JSON field that the wire carries inside such a struct. Keys: `d` default (JSON), `e` enum, `l` list type, `k`
//! its keys, `m` map type, `s` patch strategy, `g` patch merge key. The fields stand in the order in which the original
//! writes them as JSON.

use anyhow::{Context, Result, anyhow};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;

/// Types with an encoding of their own, by the last part of their name.
const SHAPES: &[(&str, &str)] = &[
    ("JSON", "raw-json"),
    ("JSONSchemaPropsOrArray", "schema-or-array"),
    ("JSONSchemaPropsOrBool", "schema-or-bool"),
    ("JSONSchemaPropsOrStringArray", "schema-or-strings"),
    ("Quantity", "quantity"),
    ("FieldsV1", "fields"),
    ("MicroTime", "micro-time"),
    ("Time", "time"),
    ("RawExtension", "raw-extension"),
    ("IntOrString", "int-or-string"),
];

/// Messages that no OpenAPI type names but that travel on the wire or lie in the store.
const WIRE_KINDS: &[(&str, &str)] = &[
    ("k8s.io.apimachinery.pkg.apis.meta.v1.PartialObjectMetadata", "meta.k8s.io/v1"),
    ("k8s.io.apimachinery.pkg.apis.meta.v1.PartialObjectMetadataList", "meta.k8s.io/v1"),
    ("k8s.io.apimachinery.pkg.apis.meta.v1.CreateOptions", "/v1"),
    ("k8s.io.apimachinery.pkg.apis.meta.v1.UpdateOptions", "/v1"),
    ("k8s.io.apimachinery.pkg.apis.meta.v1.PatchOptions", "/v1"),
    ("k8s.io.apimachinery.pkg.apis.meta.v1.GetOptions", "/v1"),
    ("k8s.io.apimachinery.pkg.apis.meta.v1.ListOptions", "/v1"),
    ("k8s.io.api.core.v1.RangeAllocation", "/v1"),
    ("k8s.io.api.core.v1.SerializedReference", "/v1"),
];

/// Go zero values: as a published default they only say that Go always writes the field.
fn is_go_zero(default: &Value) -> bool {
    match default {
        Value::String(s) => s.is_empty(),
        Value::Object(o) => o.is_empty(),
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::Bool(b) => !b,
        _ => true,
    }
}

struct Facts<'a> {
    messages: &'a Value,
    /// Protobuf message to OpenAPI name.
    names: HashMap<&'a str, &'a str>,
    /// (type, field) to (flags, Go type).
    go: HashMap<(&'a str, &'a str), (&'a str, &'a str)>,
}

struct Field<'a> {
    name: String,
    tag: u64,
    ty: String,
    flags: String,
    go: String,
    facts: Option<&'a Value>,
}

/// The order of a type that `field_order.json` leaves out.
const VERSION_INFO: (&str, &[&str]) = (
    "io.k8s.apimachinery.pkg.version.Info",
    &[
        "major",
        "minor",
        "emulationMajor",
        "emulationMinor",
        "minCompatibilityMajor",
        "minCompatibilityMinor",
        "gitVersion",
        "gitCommit",
        "gitTreeState",
        "buildDate",
        "goVersion",
        "compiler",
        "platform",
    ],
);

pub(crate) fn schema(types: &Value, messages: &Value, order: &Value, go: &str) -> Result<String> {
    let types = types.as_object().context("types.json is an object")?;
    let mut facts = Facts { messages, names: HashMap::new(), go: HashMap::new() };
    for (name, ty) in types {
        if let Some(proto) = ty["proto"].as_str() {
            facts.names.insert(proto, name);
        }
    }
    for line in go.lines() {
        let mut parts = line.split('\t');
        if let (Some(ty), Some(field), Some(flags), Some(go)) = (parts.next(), parts.next(), parts.next(), parts.next()) {
            facts.go.insert((ty, field), (flags, go));
        }
    }
    let mut out = String::new();
    let mut embedded: BTreeMap<String, Vec<Field>> = BTreeMap::new();
    for (name, ty) in types {
        let mut fields = facts.fields(name, ty, &mut embedded)?;
        put_in_order(&mut fields, order, name);
        let gvk = match &ty["gvk"] {
            Value::Null => "-".to_owned(),
            gvk => format!("{}/{}/{}", text(gvk, "group"), text(gvk, "version"), text(gvk, "kind")),
        };
        let shape = shape(name, ty);
        line(&mut out, name, ty["proto"].as_str().unwrap_or("-"), shape, &gvk, text(ty, "map-type"));
        lines(&mut out, &fields);
    }
    for (proto, mut fields) in embedded {
        put_in_order(&mut fields, order, &openapi(&proto));
        let (proto, fields) = (&proto, &fields);
        line(&mut out, &openapi(proto), proto, "object", "-", "");
        lines(&mut out, fields);
    }
    for (proto, api_version) in WIRE_KINDS {
        let kind = proto.rsplit('.').next().unwrap_or_default();
        let (group, version) = api_version.split_once('/').context("an apiVersion")?;
        let name = openapi(proto);
        line(&mut out, &name, proto, "object", &format!("{group}/{version}/{kind}"), "");
        let mut fields = facts.wire_fields(&name, proto)?;
        put_in_order(&mut fields, order, &name);
        lines(&mut out, &fields);
    }
    Ok(out)
}

/// Puts a type's fields into the order in which the original writes them; a type without a known one begins with its kind
/// and apiVersion.
fn put_in_order(fields: &mut [Field], order: &Value, ty: &str) {
    let known: Vec<&str> = match order[ty].as_array() {
        Some(names) => names.iter().filter_map(Value::as_str).collect(),
        None if ty == VERSION_INFO.0 => VERSION_INFO.1.to_vec(),
        None => vec!["kind", "apiVersion", "metadata"],
    };
    fields.sort_by_key(|field| known.iter().position(|name| *name == field.name).unwrap_or(known.len()));
}

impl<'a> Facts<'a> {
    /// A type's fields; what the wire nests in an embedded struct also goes into `embedded`, by message.
    fn fields(&self, name: &str, ty: &'a Value, embedded: &mut BTreeMap<String, Vec<Field<'a>>>) -> Result<Vec<Field<'a>>> {
        let mut fields = Vec::new();
        let special = shape(name, ty) != "object";
        let wire_only = ty["wire_only"].as_array().map_or(&[][..], Vec::as_slice);
        for field in ty["fields"].as_array().into_iter().flatten() {
            let json = text(field, "name");
            let (mut go_flags, go_type) = self.go_field(name, json);
            if go_type == "-" && field["required"] == true {
                // A Go type that only renames another one: its required fields are always written.
                go_flags = "-";
            }
            let mut flags = go_flags.replace('-', "");
            let mut tag = field["tag"].as_u64().unwrap_or(0);
            if field["required"] == true {
                flags.push('r');
            }
            if tag == 0
                && let Some(renamed) = wire_only.iter().find(|w| renames(text(w, "name"), json))
            {
                tag = renamed["tag"].as_u64().unwrap_or(0);
            }
            if tag == 0 && json != "apiVersion" && json != "kind" && !wire_only.is_empty() {
                flags.push('n');
            }
            let ty = field_type(text(field, "type"), text(field, "wire"));
            fields.push(Field { name: json.to_owned(), tag, ty, flags, go: go_type.to_owned(), facts: Some(field) });
        }
        for inline in wire_only {
            let proto = text(inline, "inline");
            if special || !proto.starts_with("k8s.io") || proto.ends_with(".ValidationRule") {
                continue;
            }
            let tag = inline["tag"].as_u64().unwrap_or(0);
            if !self.names.contains_key(proto) && !embedded.contains_key(proto) {
                let inner = self.embedded_fields(proto, &fields)?;
                embedded.insert(proto.to_owned(), inner);
            }
            let ty = self.names.get(proto).map_or_else(|| openapi(proto), |n| (*n).to_owned());
            fields.push(Field { name: format!("#{tag}"), tag, ty, flags: "i".into(), go: "-".into(), facts: None });
        }
        Ok(fields)
    }

    /// The fields of a message that types.json knows only as part of its outer types.
    fn embedded_fields(&self, proto: &str, outer: &[Field<'a>]) -> Result<Vec<Field<'a>>> {
        let mut fields = Vec::new();
        for wire in self.message(proto)? {
            let name = text(wire, "name");
            let own = outer.iter().find(|f| f.name == name).ok_or_else(|| anyhow!("{proto}.{name} is no field of its outer type"))?;
            fields.push(Field {
                name: name.to_owned(),
                tag: wire["tag"].as_u64().unwrap_or(0),
                ty: own.ty.clone(),
                flags: own.flags.replace('n', ""),
                go: own.go.clone(),
                facts: own.facts,
            });
        }
        Ok(fields)
    }

    /// The fields of a kind that is only known as a message, plus its apiVersion and kind.
    fn wire_fields(&self, name: &str, proto: &str) -> Result<Vec<Field<'a>>> {
        let mut fields: Vec<Field> = ["apiVersion", "kind"]
            .iter()
            .map(|n| Field { name: (*n).into(), tag: 0, ty: "string".into(), flags: "e".into(), go: "string".into(), facts: None })
            .collect();
        for wire in self.message(proto)? {
            let json = text(wire, "name");
            let base = match text(wire, "type") {
                "bool" => "boolean".to_owned(),
                m if m.starts_with("k8s.io") => self.names.get(m).map_or_else(|| openapi(m), |n| (*n).to_owned()),
                other => other.to_owned(),
            };
            let ty = if wire["label"] == "repeated" { format!("[]{base}") } else { base };
            let (flags, go) = self.go_field(name, json);
            let tag = wire["tag"].as_u64().unwrap_or(0);
            fields.push(Field { name: json.to_owned(), tag, ty, flags: flags.replace('-', ""), go: go.to_owned(), facts: None });
        }
        Ok(fields)
    }

    fn message(&self, proto: &str) -> Result<&'a Vec<Value>> {
        self.messages[proto].as_array().ok_or_else(|| anyhow!("no message {proto}"))
    }

    /// How Go holds a field, looking through the structs that it embeds.
    fn go_field(&self, ty: &str, field: &str) -> (&'a str, &'a str) {
        if let Some(found) = self.go.get(&(ty, field)) {
            return *found;
        }
        let mut inner = BTreeSet::new();
        for ((owner, _), (flags, go)) in &self.go {
            if *owner == ty && flags.contains('i') {
                inner.insert(*go);
            }
        }
        let package = ty.rsplit_once('.').map_or("", |p| p.0);
        for go in inner {
            let base = go.rsplit('.').next().unwrap_or(go);
            for package in [package, "io.k8s.api.admissionregistration.v1", "io.k8s.api.core.v1"] {
                let found = self.go_field(&format!("{package}.{base}"), field);
                if found.1 != "-" {
                    return found;
                }
            }
        }
        // Embedded structs without a tag of their own are inlined by Go as well.
        ("e", "-")
    }
}

/// `schema` on the wire is `$schema` in JSON, `xKubernetesListType` is `x-kubernetes-list-type`.
fn renames(wire: &str, json: &str) -> bool {
    let plain: String = json.chars().filter(char::is_ascii_alphanumeric).collect();
    json.starts_with(['$', 'x']) && plain.eq_ignore_ascii_case(wire)
}

/// The type expression; lists that the wire wraps into a message of their own say so.
fn field_type(ty: &str, wire: &str) -> String {
    let wrapped = wire.ends_with("ExtraValue>") || wire.ends_with("AttestationValue>") || wire.ends_with(".Verbs");
    if wrapped { ty.replace("[]string", "wrapped[]string") } else { ty.to_owned() }
}

fn shape(name: &str, ty: &Value) -> &'static str {
    let last = name.rsplit('.').next().unwrap_or_default();
    let special = ty["fields"].is_null() && (name.contains("apimachinery") || name.contains("apiextensions"));
    SHAPES.iter().find(|(n, _)| special && *n == last).map_or("object", |(_, s)| s)
}

/// `k8s.io.api.core.v1.X` as `io.k8s.api.core.v1.X`.
fn openapi(proto: &str) -> String {
    proto.replacen("k8s.io", "io.k8s", 1).replace('_', "-")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn line(out: &mut String, name: &str, proto: &str, shape: &str, gvk: &str, map_type: &str) {
    let map_type = if map_type.is_empty() { "-" } else { map_type };
    let _ = writeln!(out, "T\t{name}\t{proto}\t{shape}\t{gvk}\t{map_type}");
}

fn lines(out: &mut String, fields: &[Field]) {
    for field in fields {
        let flags = if field.flags.is_empty() { "-" } else { &field.flags };
        let _ = write!(out, "F\t{}\t{}\t{}\t{flags}\t{}", field.name, field.tag, field.ty, field.go);
        if let Some(facts) = field.facts {
            if let Some(default) = facts.get("default").filter(|d| !is_go_zero(d)) {
                let _ = write!(out, "\td={default}");
            }
            for (key, fact) in [("e", "enum"), ("k", "list-map-keys")] {
                if let Some(values) = facts[fact].as_array() {
                    let values: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
                    let _ = write!(out, "\t{key}={}", values.join(","));
                }
            }
            for (key, fact) in [("l", "list-type"), ("m", "map-type"), ("s", "patch-strategy"), ("g", "patch-merge-key")] {
                if let Some(value) = facts[fact].as_str() {
                    let _ = write!(out, "\t{key}={value}");
                }
            }
        }
        out.push('\n');
    }
}

/// The kinds as k8s-openapi names them, for `xtask/descriptions`: a Rust file.
pub(crate) fn roots(types: &Value) -> Result<String> {
    let mut out = String::from(
        "//! The kinds to describe. Written by `cargo xtask generate`.\n\nuse super::root;\nuse k8s_openapi as k;\nuse schemars::SchemaGenerator;\n\npub(crate) fn all(g: &mut SchemaGenerator) {\n",
    );
    for (name, ty) in types.as_object().context("types.json is an object")? {
        let is_kind = !ty["gvk"].is_null() && !name.ends_with("List") && !ty["fields"].is_null();
        let path = name.strip_prefix("io.k8s.").filter(|_| is_kind && !NOT_IN_K8S_OPENAPI.iter().any(|n| name.ends_with(n)));
        if let Some(path) = path {
            let _ = writeln!(out, "    root::<k::{}>(g);", path.replace('-', "_").replace('.', "::"));
        }
    }
    out.push_str("}\n");
    Ok(out)
}

/// Kinds that k8s-openapi folds into its client types.
const NOT_IN_K8S_OPENAPI: &[&str] = &[".WatchEvent"];
