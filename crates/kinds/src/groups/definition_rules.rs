//! The CEL rules of a custom resource's schema (`x-kubernetes-validations`), as they are when it is defined: their form, whether
//! they compile against the schema, and what evaluating them for the largest request may cost.
//!
//! A rule below lists and maps costs as often as the bounds of those allow, or, where one has none, as often as what the rule is about
//! fits into a request. Expressions that the definition already had may use what new ones may not, so that a definition
//! from a newer server can still be changed (`apiextensions-apiserver/pkg/apis/apiextensions/validation`).

use std::{cell::LazyCell, collections::HashSet};

use kubecel::declared::{Declared, DeclaredSizes, max_cardinality};
use kubecel::{Env, Program, Type, Version};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
};

use super::{definition::structural, definition_paths};
use crate::{rules, tree};

/// What one expression may cost.
const EXPRESSION_COST_MAX: u64 = 10_000_000;
/// What all rules of a schema may cost together.
const TOTAL_COST_MAX: u64 = 100_000_000;
/// Of the most expensive rules so many are named when the total is too much.
const NAMED_MAX: usize = 4;
/// How deep a schema may be nested before it is no longer looked at.
const DEPTH_MAX: usize = 100;

/// The name of the type of `self`. The original adds a number of the moment, so that no expression can rely on it.
const SELF_TYPE: &str = "selfType1";
const RULES: &str = "x-kubernetes-validations";
const REASONS: [&str; 4] = ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// The expressions that a definition had before the change.
#[derive(Debug, Clone, Default)]
pub struct Preexisting {
    rules: HashSet<String>,
    messages: HashSet<String>,
}

impl Preexisting {
    /// Those of all versions of a definition's spec.
    pub fn of(spec: &Value) -> Preexisting {
        let mut found = Preexisting::default();
        for version in tree::list(spec, "versions") {
            found.collect(&version["schema"]["openAPIV3Schema"], 0);
        }
        found
    }

    fn collect(&mut self, schema: &Value, depth: usize) {
        if depth > DEPTH_MAX {
            return;
        }
        for rule in tree::list(schema, RULES) {
            self.rules.insert(tree::text(rule, "rule").to_string());
            self.messages.insert(tree::text(rule, "messageExpression").to_string());
        }
        below(schema, &Path::empty(), &mut |part, _, _| self.collect(part, depth + 1));
    }
}

/// How the rules of one version are looked at.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub preexisting: Preexisting,
    /// The version's schema is what it was: that one expression costs too much is not told again.
    pub schema_unchanged: bool,
}

/// The errors in the form of the rules that stand at one place.
pub(super) fn check_place(schema: &Value, path: &Path, errors: &mut ErrorList) {
    // Found out once at most: the schema may be large, and its rules many.
    let is_fit = LazyCell::new(|| structural::unfit(schema).is_none());
    for (at, rule) in tree::list(schema, RULES).iter().enumerate() {
        check_rule_form(schema, &|| *is_fit, rule, &path.child(RULES).index(at), errors);
    }
}

/// `is_fit`: whether the schema has a structural form.
fn check_rule_form(schema: &Value, is_fit: &dyn Fn() -> bool, rule: &Value, path: &Path, errors: &mut ErrorList) {
    let given = |field: &str| !tree::text(rule, field).is_empty();
    let trimmed = |field: &str| tree::text(rule, field).trim();
    let lines = |text: &str| text.contains(['\n', '\r']);
    let message = path.child("message");
    if trimmed("rule").is_empty() {
        errors.push(Error::required(&path.child("rule"), "rule is not specified"));
    } else if given("message") && trimmed("message").is_empty() {
        errors.push(Error::invalid(&message, rule["message"].clone(), "must be non-empty if specified"));
    } else if lines(trimmed("message")) {
        errors.push(Error::invalid(&message, rule["message"].clone(), "must not contain line breaks"));
    } else if lines(trimmed("rule")) && trimmed("message").is_empty() {
        errors.push(Error::required(&message, "message must be specified if rule contains line breaks"));
    }
    if given("messageExpression") && trimmed("messageExpression").is_empty() {
        errors.push(Error::required(&path.child("messageExpression"), "messageExpression must be non-empty if specified"));
    }
    if let Some(reason) = rule["reason"].as_str()
        && !REASONS.contains(&reason)
    {
        errors.push(rules::not_supported(&path.child("reason"), reason, &REASONS));
    }
    let (text, place) = (tree::text(rule, "fieldPath"), path.child("fieldPath"));
    if text.is_empty() {
        return;
    }
    if text.trim().is_empty() {
        errors.push(Error::invalid(&place, text, "must be non-empty if specified"));
    }
    if lines(text) {
        errors.push(Error::invalid(&place, text, "must not contain line breaks"));
    }
    // Where no structure is, upstream finds nothing wrong with a path.
    if definition_paths::resolve(text, schema, true).is_err() && is_fit() {
        errors.push(Error::invalid(&place, text, "must be a valid path"));
    }
}

/// What is wrong with the rules of a schema whose own errors are these (with those in form). `path` is the schema's.
pub fn check(schema: &Value, path: &Path, schema_errors: &[Error], options: &Options) -> ErrorList {
    let mut checker = Checker { schema_errors, options, errors: ErrorList::new(), total: 0, expensive: Vec::new() };
    checker.walk(Node { schema, path, root: true, times: Some(1), uncorrelated: None, depth: 0 });
    let Checker { mut errors, total, expensive, .. } = checker;
    if total > TOTAL_COST_MAX {
        let detail = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
        errors.extend(expensive.iter().map(|(place, _)| Error::forbidden(place, detail)));
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        errors.push(Error::forbidden(path, too_expensive(what, total, TOTAL_COST_MAX)));
    }
    errors
}

/// A schema within the schema.
struct Node<'a> {
    schema: &'a Value,
    path: &'a Path,
    root: bool,
    /// How often it may stand in one object; nothing if that has no bound.
    times: Option<u64>,
    /// The list above whose elements cannot be told apart from one change to the next.
    uncorrelated: Option<Path>,
    depth: usize,
}

struct Checker<'a> {
    schema_errors: &'a [Error],
    options: &'a Options,
    errors: ErrorList,
    total: u64,
    /// The most expensive first.
    expensive: Vec<(Path, u64)>,
}

impl Checker<'_> {
    fn walk(&mut self, node: Node<'_>) {
        if node.depth > DEPTH_MAX {
            return;
        }
        let times = match (node.times, elements_max(node.schema)) {
            (Some(times), Some(more)) => Some(times.saturating_mul(more)),
            _ => None,
        };
        // Upstream takes no offence below a map that changes as a whole.
        let lost = node.schema["x-kubernetes-list-type"] != "map";
        below_values(node.schema, node.path, &mut |schema, path, is_item| {
            let uncorrelated = node.uncorrelated.clone().or_else(|| (is_item && lost).then(|| node.path.clone()));
            self.walk(Node { schema, path, root: false, times, uncorrelated, depth: node.depth + 1 });
        });
        if !tree::list(node.schema, RULES).is_empty() && !self.is_broken(node.path) {
            self.rules(&node);
        }
    }

    /// Whether the schema has errors at a place or below.
    fn is_broken(&self, path: &Path) -> bool {
        let place = path.as_str();
        self.schema_errors.iter().any(|error| error.path.as_str().strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '['])))
    }

    fn rules(&mut self, node: &Node<'_>) {
        let path = node.path.child(RULES);
        let root = node.root || node.schema["x-kubernetes-embedded-resource"] == true;
        let Some(declared) = Declared::of_schema(node.schema, root) else {
            let detail = "internal error: failed to construct type information for x-kubernetes-validations rules: unable to convert structural schema to CEL declarations";
            return self.errors.push(Error::internal(&path, detail));
        };
        let envs = Envs::new(&declared);
        for (at, rule) in tree::list(node.schema, RULES).iter().enumerate() {
            self.rule(node, rule, &path.index(at), &declared, &envs);
        }
    }

    fn rule(&mut self, node: &Node<'_>, rule: &Value, path: &Path, declared: &Declared, envs: &Envs) {
        let place = path.child("rule");
        let text = tree::text(rule, "rule");
        let optional = rule["optionalOldSelf"] == true;
        let compiled = compile(envs.of(self.options.preexisting.rules.contains(text), optional), text, &Wanted::RULE);
        let (mut uses_old, mut message) = (false, None);
        match compiled {
            Ok(program) => {
                uses_old = program.uses("oldSelf");
                let once = program.estimate(&DeclaredSizes(declared)).max;
                let times = node.times.unwrap_or_else(|| max_cardinality(declared.bytes_min));
                self.observe("estimated rule cost", &place, once.saturating_mul(times));
                message = rule["messageExpression"].as_str().filter(|text| !text.is_empty());
            }
            Err(detail) => self.errors.push(with_rule(&place, rule, &detail)),
        }
        if let Some(text) = message {
            let place = path.child("messageExpression");
            match compile(envs.of(self.options.preexisting.messages.contains(text), optional), text, &Wanted::MESSAGE) {
                Ok(program) => self.observe("estimated messageExpression cost", &place, program.estimate(&DeclaredSizes(declared)).max),
                Err(detail) => self.errors.push(with_rule(&place, rule, &detail)),
            }
        }
        if uses_old {
            if let Some(list) = &node.uncorrelated {
                let detail = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {}", list.as_str());
                self.errors.push(Error::invalid(&place, text, detail));
            }
        } else if let Some(given) = rule["optionalOldSelf"].as_bool() {
            self.errors.push(Error::invalid(&path.child("optionalOldSelf"), given, "may not be set if oldSelf is not used in rule"));
        }
    }

    /// Adds a cost to the total, and tells it if it is too much by itself.
    fn observe(&mut self, what: &str, place: &Path, cost: u64) {
        if cost > EXPRESSION_COST_MAX && !self.options.schema_unchanged {
            self.errors.push(Error::forbidden(place, too_expensive(what, cost, EXPRESSION_COST_MAX)));
        }
        self.total = self.total.saturating_add(cost);
        // Less than a hundredth of what all may cost is not what makes it too much.
        if cost >= TOTAL_COST_MAX / 100 {
            self.expensive.push((place.clone(), cost));
            self.expensive.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
            self.expensive.truncate(NAMED_MAX);
        }
    }
}

/// The environments of the rules of one schema.
struct Envs {
    /// New and stored expressions, each without and with an optional old value.
    envs: [[Env; 2]; 2],
}

impl Envs {
    fn new(declared: &Declared) -> Envs {
        let named = declared.named(SELF_TYPE);
        let env = |version| {
            let base = Env::new(version).with_declared(&[&named]).with_variable("self", named.cel_type());
            [base.clone().with_variable("oldSelf", named.cel_type()), base.with_variable("oldSelf", Type::optional(named.cel_type()))]
        };
        Envs { envs: [env(Version::NEW), env(Version::STORED)] }
    }

    fn of(&self, stored: bool, optional: bool) -> &Env {
        &self.envs[usize::from(stored)][usize::from(optional)]
    }
}

/// What an expression must give, and how it is called if it does not.
struct Wanted {
    ty: Type,
    not_compiled: &'static str,
    wrong_type: &'static str,
    not_instantiated: &'static str,
}

impl Wanted {
    const RULE: Wanted = Wanted {
        ty: Type::Bool,
        not_compiled: "compilation failed",
        wrong_type: "cel expression must evaluate to a bool",
        not_instantiated: "program instantiation failed",
    };
    const MESSAGE: Wanted = Wanted {
        ty: Type::String,
        not_compiled: "messageExpression compilation failed",
        wrong_type: "messageExpression must evaluate to a string",
        not_instantiated: "messageExpression instantiation failed",
    };
}

fn compile(env: &Env, text: &str, wanted: &Wanted) -> Result<Program, String> {
    let program = env.compile(text).map_err(|issues| format!("{}: {issues}", wanted.not_compiled))?;
    if program.output != wanted.ty {
        return Err(wanted.wrong_type.to_string());
    }
    program.instantiate().map_err(|error| format!("{}: {error}", wanted.not_instantiated))?;
    Ok(program)
}

/// An error that shows the rule as the original's internal type is shown.
fn with_rule(path: &Path, rule: &Value, detail: &str) -> Error {
    let text = |field: &str| go_json(&Value::from(tree::text(rule, field)));
    let or_null = |field: &str| go_json(&rule[field]);
    let shown = format!(
        "{{\"Rule\":{},\"Message\":{},\"MessageExpression\":{},\"Reason\":{},\"FieldPath\":{},\"OptionalOldSelf\":{}}}",
        text("rule"),
        text("message"),
        text("messageExpression"),
        or_null("reason"),
        text("fieldPath"),
        or_null("optionalOldSelf"),
    );
    Error::invalid_unshown(path, format!("{shown}: {detail}"))
}

/// JSON as Go writes it, which is safe in HTML.
fn go_json(value: &Value) -> String {
    let text = value.to_string();
    text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

/// By how much something costs too much.
fn too_expensive(what: &str, cost: u64, max: u64) -> String {
    let factor = cost as f64 / max as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_string()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where \
         arrays, maps, and strings are declared)"
    )
}

/// How often a schema may hold each of its parts; nothing if that has no bound.
fn elements_max(schema: &Value) -> Option<u64> {
    let bound = |field: &str| schema[field].as_i64().map(|bound| bound.max(0) as u64);
    match tree::text(schema, "type") {
        "object" if !schema["additionalProperties"].is_null() => bound("maxProperties"),
        "array" => bound("maxItems"),
        _ => Some(1),
    }
}

/// Calls for the schemas of the values that a schema describes, with their paths, and whether they are elements of a list.
fn below_values<'a>(schema: &'a Value, path: &Path, call: &mut dyn FnMut(&'a Value, &Path, bool)) {
    let more = &schema["additionalProperties"];
    if more.is_object() {
        call(more, &path.child("additionalProperties"), false);
    }
    for (name, property) in tree::entries(schema, "properties") {
        call(property, &path.child("properties").key(name), false);
    }
    if schema["items"].is_object() {
        call(&schema["items"], &path.child("items"), true);
    }
}

/// The same, and for the schemas that only narrow it.
fn below<'a>(schema: &'a Value, path: &Path, call: &mut dyn FnMut(&'a Value, &Path, bool)) {
    below_values(schema, path, call);
    if schema["not"].is_object() {
        call(&schema["not"], &path.child("not"), false);
    }
    for field in ["allOf", "oneOf", "anyOf"] {
        for (at, part) in tree::list(schema, field).iter().enumerate() {
            call(part, &path.child(field).index(at), false);
        }
    }
}
