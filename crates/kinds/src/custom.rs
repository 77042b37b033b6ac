//! Custom resources: the strategy of one version of a kind that a definition describes.
//!
//! Built once for a definition; it knows nothing of where the definition came from. What is wrong with an object is told by
//! its schema (`machinery::structural`), by the schema's rules ([`crate::custom_rules`]) and by where its replicas stand.
//!
//! Source: `apiextensions-apiserver/pkg/registry/customresource`.

use crate::{Context, Judged, NameRule, Selectable, Strategy, custom_rules::CustomRules, groups::definition::embedded, meta, print, tree};
use bytes::Bytes;
use kubecel::regex::Patterns;
use machinery::{
    Map, Value,
    field::{Error, ErrorKind, ErrorList, Path},
    gvk::Gvk,
    json,
    json_path::JsonPath,
    names, numerals,
    printed::plain,
    quote::Quoted,
    schema::Text,
    structural::{Node, Purpose},
    time,
    tree::go_type,
};
use std::{
    sync::{Arc, OnceLock, atomic::AtomicBool},
    time::SystemTime,
};

/// Replicas at most: Go's largest `int32`.
const REPLICAS_MAX: i64 = i32::MAX as i64;

/// Where the parts of a `scale` stand in an object: the paths as the definition writes them, with their leading dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scale {
    /// Desired replicas.
    pub spec_replicas: String,
    /// Replicas that there are.
    pub status_replicas: String,
    /// The selector of the pods, as text; empty where there is none.
    pub selector: String,
}

/// What a column shows.
#[derive(Debug, Clone)]
pub struct Cell {
    /// Where it stands; `None` for a path that cannot be read.
    pub path: Option<JsonPath>,
    /// OpenAPI type of the column.
    pub column_type: String,
}

/// One version of a custom kind.
#[derive(Debug, Clone, Default)]
pub struct Custom {
    /// What its objects say that they are.
    pub kind: Gvk,
    /// The version as the definition describes it.
    pub version: Arc<Described>,
    /// Objects have a namespace.
    pub namespaced: bool,
    /// What is asked of objects, compiled when the first one is looked at; nothing where the version has no schema.
    pub node: Arc<OnceLock<Option<Node>>>,
    /// Has the subresource `status`.
    pub has_status: bool,
    /// Has the subresource `scale`.
    pub scale: Option<Scale>,
    /// Selectable fields: names without their leading dot.
    pub selectable: Vec<(Text, JsonPath)>,
    /// What the columns behind the name show.
    pub cells: Vec<Cell>,
    /// The schema's rules: compiled when an object is first judged by them.
    pub rules: LazyRules,
    /// The rules' constant patterns, which all versions of the definition have together.
    pub patterns: Patterns,
}

/// A version as its definition describes it. It is kept as text, a part of the definition's: the tree is eight times as large, and of
/// most of the definitions that operators bring few are ever asked for.
#[derive(Debug, Default)]
pub struct Described(Bytes);

impl Described {
    /// A version by its tree.
    pub fn new(version: &Value) -> Arc<Described> {
        Described::by(json::encode(version).into())
    }

    /// A version by its text.
    pub fn by(text: Bytes) -> Arc<Described> {
        Arc::new(Described(text))
    }

    /// The text of the version.
    pub fn text(&self) -> &[u8] {
        &self.0
    }

    /// The version as a tree.
    pub fn tree(&self) -> Value {
        json::read(&self.0).unwrap_or_default()
    }

    /// Whether rules stand anywhere in its schema: at most one property too many that bears their name is taken for some.
    fn has_rules(&self) -> bool {
        std::str::from_utf8(&self.0).is_ok_and(|text| text.contains(r#""x-kubernetes-validations""#))
    }
}

/// The schema in the tree of a version.
pub fn schema_of(version: &Value) -> Option<&Value> {
    version.get("schema")?.get("openAPIV3Schema").filter(|schema| schema.is_object())
}

/// Rules that are compiled once, by whoever needs them first; none where the schema has none.
pub type LazyRules = Arc<OnceLock<Option<CustomRules>>>;

impl Strategy for Custom {
    fn has_generation(&self) -> bool {
        true
    }

    fn prepare_create(&self, _cx: &Context, obj: &mut Value) {
        if let (true, Some(fields)) = (self.has_status, obj.as_object_mut()) {
            fields.remove("status");
        }
        tree::set_meta(obj, "generation", 1.into());
    }

    fn prepare_update(&self, _cx: &Context, obj: &mut Value, old: &Value) {
        if self.has_status {
            tree::keep(obj, old, "status");
        }
        let body = |object: &Value| -> Option<Map<String, Value>> {
            let mut fields = object.as_object()?.clone();
            fields.remove("metadata");
            Some(fields)
        };
        if body(obj) != body(old) {
            tree::bump_generation(obj, old);
        }
    }

    fn prepare_status(&self, _cx: &Context, obj: &mut Value, old: &Value) {
        tree::keep_all_but(obj, old, &["status"]);
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        self.whole(obj, None, None).errors
    }

    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        self.whole(obj, Some(old), None).errors
    }

    fn validate_status(&self, obj: &Value, old: &Value) -> ErrorList {
        self.status(obj, old, None).errors
    }

    fn judge(&self, obj: &Value, stop: &AtomicBool) -> Judged {
        Judged { warnings: self.warnings(obj, None), ..self.whole(obj, None, Some(stop)) }
    }

    /// The rules are asked once, through every subresource: what an unchanged part breaks is told, and not refused.
    fn judge_through(&self, part: &str, obj: &Value, old: &Value, stop: &AtomicBool) -> Judged {
        match part {
            "status" => self.status(obj, old, Some(stop)),
            "" => Judged { warnings: self.warnings(obj, Some(old)), ..self.whole(obj, Some(old), Some(stop)) },
            _ => self.whole(obj, Some(old), Some(stop)),
        }
    }

    fn selectable_fields(&self, obj: &Value) -> Selectable {
        let of = |path: &JsonPath| match path.find(obj).as_deref() {
            Ok([Value::String(text)]) => text.clone(),
            Ok([value]) if !value.is_null() => value.to_string(),
            _ => String::new(),
        };
        self.selectable.iter().map(|(name, path)| (name.clone(), of(path))).collect()
    }

    fn judges_metadata(&self) -> bool {
        true
    }

    fn judges_at_length(&self) -> bool {
        self.rules.get().is_none_or(Option::is_some) || self.node.get().is_none_or(|node| node.as_ref().is_some_and(Node::has_dear_pattern_ahead))
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let had: &[Value] = old.map_or(&[], |old| tree::list(&old["metadata"], "finalizers"));
        let mut added: Vec<&str> = tree::list(&obj["metadata"], "finalizers").iter().filter(|f| !had.contains(f)).filter_map(Value::as_str).collect();
        added.sort_unstable();
        added.dedup();
        added.into_iter().flat_map(finalizer_warnings).collect()
    }

    fn row(&self, obj: &Value, now: SystemTime) -> Vec<Value> {
        let mut cells = vec![print::name(obj)];
        cells.extend(self.cells.iter().map(|cell| cell.of(obj, now)));
        cells
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Subdomain
    }

    fn any_finalizer(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn reset_fields(&self, subresource: &str) -> &'static [&'static [&'static str]] {
        match subresource {
            "" if self.has_status => &[&["status"]],
            "status" => &[&["metadata"], &["spec"]],
            _ => &[],
        }
    }
}

impl Custom {
    /// What an object says that it is, if that is not what it is taken for. Then neither metadata nor the schema's own words are asked, as
    /// upstream's validator ends there (`ValidateTypeMeta`); what its strategy asks besides is asked all the same.
    fn another(&self, obj: &Value) -> ErrorList {
        let api_version = self.kind.api_version();
        let mut errors = ErrorList::new();
        for (field, wanted) in [("kind", &self.kind.kind), ("apiVersion", &api_version)] {
            if obj[field] != wanted.as_str() {
                errors.push(Error::invalid(&Path::root(field), obj[field].clone(), format!("must be {wanted}")));
            }
        }
        errors
    }

    /// An object as a whole.
    fn whole(&self, obj: &Value, old: Option<&Value>, stop: Option<&AtomicBool>) -> Judged {
        let root = Path::empty();
        let mut errors = self.another(obj);
        if errors.is_empty() {
            errors.extend(old.map_or_else(|| meta::created(obj, self.namespaced, self), |old| meta::changed(obj, old)));
            if let Some(schema) = self.schema() {
                errors.extend(old.map_or_else(|| schema.validate(obj, &root), |old| schema.validate_update(obj, old, &root)));
            }
            self.check_spec_replicas(obj, &mut errors);
            self.check_scale_status(obj, &mut errors);
        }
        if let Some(schema) = self.schema() {
            errors.extend(embedded::check(schema, obj, &root));
            errors.extend(old.map_or_else(|| schema.repeated(obj, &root), |old| newly_repeated(schema, obj, old)));
        }
        let let_pass = self.check_rules(obj, old, stop, &mut errors);
        Judged { errors, warnings: Vec::new(), let_pass }
    }

    /// An object whose status is new.
    fn status(&self, obj: &Value, old: &Value, stop: Option<&AtomicBool>) -> Judged {
        let mut errors = self.another(obj);
        if errors.is_empty() {
            errors.extend(meta::changed(obj, old));
            if let (Some(schema), Some(status)) = (self.schema().and_then(|schema| schema.property("status")), obj.get("status")) {
                errors.extend(schema.validate_update(status, &old["status"], &Path::root("status")));
            }
            self.check_scale_status(obj, &mut errors);
        }
        if let Some(schema) = self.schema() {
            errors.extend(newly_repeated(schema, obj, old));
        }
        let let_pass = self.check_rules(obj, Some(old), stop, &mut errors);
        Judged { errors, warnings: Vec::new(), let_pass }
    }

    fn rules(&self) -> Option<&CustomRules> {
        let rules = || if self.version.has_rules() { CustomRules::compile(schema_of(&self.version.tree())?, &self.patterns) } else { None };
        self.rules.get_or_init(rules).as_ref()
    }

    fn schema(&self) -> Option<&Node> {
        self.node.get_or_init(|| Some(Node::compile(schema_of(&self.version.tree())?, Purpose::Objects))).as_ref()
    }

    /// What the rules say of an object, unless it is not even what they are made for; and what they warn of.
    fn check_rules(&self, obj: &Value, old: Option<&Value>, stop: Option<&AtomicBool>, errors: &mut ErrorList) -> Vec<String> {
        use ErrorKind::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
        let Some(rules) = self.rules() else { return Vec::new() };
        if errors.iter().any(|error| matches!(error.kind, NotSupported | Required | TooLong | TooMany | TypeInvalid)) {
            let detail = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
            errors.push(Error::invalid(&Path::root("<nil>"), Value::Null, detail));
            return Vec::new();
        }
        let verdict = rules.validate(obj, old, stop);
        errors.extend(verdict.errors);
        verdict.warnings
    }

    fn check_spec_replicas(&self, obj: &Value, errors: &mut ErrorList) {
        if let Some(scale) = &self.scale {
            check_replicas(obj, &scale.spec_replicas, errors);
        }
    }

    fn check_scale_status(&self, obj: &Value, errors: &mut ErrorList) {
        let Some(scale) = &self.scale else { return };
        check_replicas(obj, &scale.status_replicas, errors);
        if !scale.selector.is_empty()
            && let Err(why) = nested(obj, &scale.selector, "string", Value::is_string)
        {
            errors.push(Error::invalid(&Path::root(&scale.selector), "", why));
        }
    }
}

/// Elements that are there twice, if none was before.
fn newly_repeated(schema: &Node, obj: &Value, old: &Value) -> ErrorList {
    let found = schema.repeated(obj, &Path::empty());
    if found.is_empty() || schema.repeated(old, &Path::empty()).is_empty() { found } else { ErrorList::new() }
}

impl Scale {
    /// Desired replicas, if the object tells them.
    ///
    /// # Errors
    /// What stands there is no number, in upstream's words.
    pub fn spec_replicas(&self, obj: &Value) -> Result<Option<i64>, String> {
        replicas(obj, &self.spec_replicas)
    }

    /// The names that lead to the desired replicas.
    pub fn spec_path(&self) -> Vec<&str> {
        names_of(&self.spec_replicas).collect()
    }

    /// Replicas that there are, if the object tells them.
    ///
    /// # Errors
    /// As [`Self::spec_replicas`].
    pub fn status_replicas(&self, obj: &Value) -> Result<Option<i64>, String> {
        replicas(obj, &self.status_replicas)
    }

    /// The selector, as text.
    ///
    /// # Errors
    /// What stands there is no text, in upstream's words.
    pub fn selector<'v>(&self, obj: &'v Value) -> Result<&'v str, String> {
        if self.selector.is_empty() {
            return Ok("");
        }
        Ok(nested(obj, &self.selector, "string", Value::is_string)?.and_then(Value::as_str).unwrap_or_default())
    }

    /// Sets the desired replicas, making what is on the way to them.
    ///
    /// # Errors
    /// Something else is in the way, in upstream's words.
    pub fn set_spec_replicas(&self, obj: &mut Value, replicas: i64) -> Result<(), String> {
        let names = self.spec_path();
        let Some((last, way)) = names.split_last() else { return Ok(()) };
        let mut place = obj;
        for (at, name) in way.iter().enumerate() {
            let Some(map) = place.as_object_mut() else { return Err(in_the_way(&names[..at])) };
            place = map.entry(*name).or_insert_with(|| Value::Object(Map::new()));
        }
        match place.as_object_mut() {
            Some(map) => drop(map.insert((*last).to_owned(), replicas.into())),
            None => return Err(in_the_way(way)),
        }
        Ok(())
    }
}

fn in_the_way(names: &[&str]) -> String {
    format!("value cannot be set because .{} is not a map[string]interface{{}}", names.join("."))
}

fn names_of(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('.').unwrap_or(path).split('.')
}

/// What stands at a path of names; `None` if it is not there.
fn nested<'v>(obj: &'v Value, path: &str, wanted: &str, fits: impl Fn(&Value) -> bool) -> Result<Option<&'v Value>, String> {
    let names: Vec<&str> = names_of(path).collect();
    let mut value = obj;
    for name in &names {
        let Some(map) = value.as_object() else {
            if value.is_null() {
                return Ok(None);
            }
            return Err(format!(".{} accessor error: {} is of the type {}, expected map[string]interface{{}}", names.join("."), plain(value), go_type(value)));
        };
        match map.get(*name) {
            Some(found) => value = found,
            None => return Ok(None),
        }
    }
    if fits(value) {
        return Ok(Some(value));
    }
    Err(format!(".{} accessor error: {} is of the type {}, expected {wanted}", names.join("."), plain(value), go_type(value)))
}

fn replicas(obj: &Value, path: &str) -> Result<Option<i64>, String> {
    Ok(nested(obj, path, "int64", Value::is_i64)?.and_then(Value::as_i64))
}

fn check_replicas(obj: &Value, path: &str, errors: &mut ErrorList) {
    let place = Path::root(path);
    match replicas(obj, path) {
        Err(why) => errors.push(Error::invalid(&place, 0, why)),
        Ok(Some(number)) if number < 0 => errors.push(Error::invalid(&place, number, "should be a non-negative integer")),
        Ok(Some(number)) if number > REPLICAS_MAX => {
            errors.push(Error::invalid(&place, number, format!("should be less than or equal to {REPLICAS_MAX}")));
        }
        Ok(_) => {}
    }
}

fn finalizer_warnings(name: &str) -> Vec<String> {
    let say = |what: &str| format!("metadata.finalizers: {}: {what}", Quoted(name));
    let mut warnings: Vec<String> = names::qualified_name(name).iter().map(|what| say(what)).collect();
    if !name.contains('/') && !meta::STANDARD_FINALIZERS.contains(&name) {
        warnings.push(say(match name.contains('.') {
            true => "prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers",
            false => "prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers",
        }));
    }
    warnings
}

/// How long ago, as people read it.
fn date(value: &Value, text: &str, now: SystemTime) -> Value {
    let readable = text.is_empty() || time::parse(text).is_ok();
    if readable { print::since(value, now).into() } else { "<invalid>".into() }
}

/// A number as Go prints it: one without a fraction has been stored and read as a whole one.
fn shown(number: &serde_json::Number) -> String {
    match number.as_f64().filter(|_| number.is_f64()) {
        Some(float) => numerals::reread(float).map_or_else(|| numerals::float(float), |whole| whole.to_string()),
        None => number.to_string(),
    }
}

impl Cell {
    fn of(&self, obj: &Value, now: SystemTime) -> Value {
        let Some(Ok(found)) = self.path.as_ref().map(|path| path.find(obj)) else { return Value::Null };
        let Some(value) = found.first() else { return Value::Null };
        match (self.column_type.as_str(), value) {
            ("string", Value::Null) => "<no value>".into(),
            ("string", Value::String(text)) => text.as_str().into(),
            ("string", Value::Array(_) | Value::Object(_)) => String::from_utf8(machinery::json::encode(value)).unwrap_or_default().into(),
            ("string", Value::Number(number)) => shown(number).into(),
            ("string", other) => other.to_string().into(),
            ("integer", Value::Number(number)) => number.as_i64().or_else(|| number.as_f64().map(numerals::go_int)).map_or(Value::Null, Value::from),
            ("number", Value::Number(number)) => number.as_f64().map_or(Value::Null, Value::from),
            ("boolean", Value::Bool(truth)) => (*truth).into(),
            ("date", Value::String(text)) => date(value, text, now),
            _ => Value::Null,
        }
    }
}
