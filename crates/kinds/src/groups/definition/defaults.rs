//! Defaults fit their schema and its rules, and say nothing that is not in it (`apiserver/schema/defaulting`).

use super::{embedded, structural};
use crate::{
    custom_rules::{At, BUDGET, CustomRules},
    tree,
};
use kubecel::regex::Patterns;
use machinery::{
    Map, Value,
    field::{Error, ErrorList, Path},
    structural::{Node, Purpose},
};

/// One step from an embedded resource to a default within its metadata.
#[derive(Clone, Copy)]
enum Step<'a> {
    Field(&'a str),
    Item,
}

/// Where in a resource a schema is.
struct Within<'a> {
    resource: &'a Node,
    steps: Vec<Step<'a>>,
    in_meta: bool,
}

/// The schema, its root an embedded resource as every object is one.
fn as_resource(schema: &Value) -> Value {
    let mut clone = schema.clone();
    if let Some(fields) = clone.as_object_mut() {
        fields.insert("x-kubernetes-embedded-resource".into(), true.into());
    }
    clone
}

fn has_defaults(schema: &Value) -> bool {
    structural::any(schema, &|schema| !schema["default"].is_null())
}

/// Whether a schema has defaults of which something is not in it.
pub(super) fn has_unpruned(schema: &Value) -> bool {
    if schema.is_null() || !has_defaults(schema) || !structural::is_structural(schema) {
        return false;
    }
    let mut errors = ErrorList::new();
    check_by(schema, None, true, &Path::empty(), &mut errors);
    errors.iter().any(|error| error.detail == UNKNOWN)
}

const UNKNOWN: &str = "must not have unknown fields";

/// Checks the defaults of a structural schema.
pub(super) fn check(schema: &Value, pruned: bool, path: &Path, errors: &mut ErrorList) {
    if has_defaults(schema) {
        // Most defaults stand where no rule looks at them: then nothing is compiled for them.
        let is_judged = |schema: &Value| !schema["default"].is_null() && structural::any(schema, &has_rules);
        let rules = if structural::any(schema, &is_judged) { CustomRules::compile(schema, &Patterns::default()) } else { None };
        check_by(schema, rules.as_ref(), pruned, path, errors);
    }
}

fn has_rules(schema: &Value) -> bool {
    schema["x-kubernetes-validations"].as_array().is_some_and(|rules| !rules.is_empty())
}

fn check_by(schema: &Value, rules: Option<&CustomRules>, pruned: bool, path: &Path, errors: &mut ErrorList) {
    let whole = as_resource(schema);
    let root = Node::compile(&whole, Purpose::Defaults);
    let mut within = Within { resource: &root, steps: Vec::new(), in_meta: false };
    let place = Place { schema: &whole, node: &root, rules: rules.map(CustomRules::root) };
    Check { pruned, budget: BUDGET, errors }.place(place, &mut within, path);
}

/// A part of a schema.
#[derive(Clone, Copy)]
struct Place<'a> {
    schema: &'a Value,
    node: &'a Node,
    /// The rules there and below; none where there are none.
    rules: Option<At<'a>>,
}

struct Check<'e> {
    pruned: bool,
    /// What the rules may still cost; nothing more is looked at when it is spent.
    budget: i64,
    errors: &'e mut ErrorList,
}

impl Check<'_> {
    fn place<'a>(&mut self, place: Place<'a>, within: &mut Within<'a>, path: &Path) {
        let is_resource = place.schema["x-kubernetes-embedded-resource"] == true;
        if is_resource {
            let mut within = Within { resource: place.node, steps: Vec::new(), in_meta: false };
            self.below(place, &mut within, path);
        } else {
            self.below(place, within, path);
        }
    }

    fn below<'a>(&mut self, place: Place<'a>, within: &mut Within<'a>, path: &Path) {
        let Place { schema, node, rules } = place;
        let is_resource = schema["x-kubernetes-embedded-resource"] == true;
        let default = &schema["default"];
        if !default.is_null() {
            self.default(default, place, within, &path.child("default"));
        }
        if let (true, Some(items)) = (schema["items"].is_object() && self.budget >= 0, node.items()) {
            within.steps.push(Step::Item);
            let place = Place { schema: &schema["items"], node: items, rules: rules.and_then(At::items) };
            self.place(place, within, &path.child("items"));
            within.steps.pop();
        }
        for (name, property) in tree::entries(schema, "properties") {
            let Some(node) = node.property(name).filter(|_| self.budget >= 0) else { continue };
            let before = within.in_meta;
            within.in_meta |= is_resource && matches!(name, "metadata" | "apiVersion" | "kind");
            within.steps.push(Step::Field(name));
            let place = Place { schema: property, node, rules: rules.and_then(|rules| rules.property(name)) };
            self.place(place, within, &path.child("properties").key(name));
            within.steps.pop();
            within.in_meta = before;
        }
    }

    fn default(&mut self, default: &Value, place: Place<'_>, within: &Within<'_>, path: &Path) {
        let node = place.node;
        let found = if within.in_meta {
            match bad_metadata(default, within) {
                Some(why) => vec![Error::invalid(path, default.clone(), format!("must result in valid metadata: {why}"))],
                None => node.validate(default, path),
            }
        } else {
            if self.pruned && node.has_unknown(default) {
                self.errors.push(Error::invalid(path, default.clone(), UNKNOWN));
            }
            let mut unreadable = None;
            node.embedded(default, path, &mut |path, object| unreadable = unreadable.take().or_else(|| uncoercible(path, object)));
            match unreadable {
                Some(error) => vec![error],
                None => Some(embedded::check(node, default, path)).filter(|found| !found.is_empty()).unwrap_or_else(|| node.validate(default, path)),
            }
        };
        match place.rules.filter(|_| found.is_empty()) {
            Some(rules) => self.errors.extend(rules.judge_default(default, path, &mut self.budget)),
            None => self.errors.extend(found),
        }
    }
}

/// What of an embedded resource cannot be read at all.
fn uncoercible(path: &Path, object: &Map<String, Value>) -> Option<Error> {
    for key in ["apiVersion", "kind"] {
        if let Some(value) = object.get(key).filter(|value| !value.is_string()) {
            return Some(Error::invalid(&path.child(key), value.clone(), "must be a string"));
        }
    }
    let metadata = object.get("metadata")?;
    embedded::unreadable(metadata).map(|why| Error::invalid(&path.child("metadata"), metadata.clone(), why))
}

/// What is wrong with a resource that has nothing but this default in its metadata.
fn bad_metadata(default: &Value, within: &Within<'_>) -> Option<String> {
    let mut object = default.clone();
    for step in within.steps.iter().rev() {
        object = match step {
            Step::Field(name) => Value::Object(Map::from_iter([((*name).to_owned(), object)])),
            Step::Item => Value::Array(vec![object]),
        };
    }
    let fields = object.as_object_mut()?;
    fields.entry("kind").or_insert_with(|| "Validation".into());
    fields.entry("apiVersion").or_insert_with(|| "validation/v1".into());
    if let Some(error) = uncoercible(&Path::empty(), fields) {
        return Some(error.to_string());
    }
    let found = embedded::check(within.resource, &object, &Path::empty());
    match found.as_slice() {
        [] => None,
        [one] => Some(one.to_string()),
        many => Some(format!("[{}]", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))),
    }
}
