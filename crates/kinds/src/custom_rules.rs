//! Rules of custom objects (`x-kubernetes-validations`): an object is looked at node by node, beside its old one.
//!
//! A schema's rules are compiled once ([`CustomRules::compile`]). Each node's rules see the value there as `self` and what it was
//! as `oldSelf`: fields by their names, elements of keyed lists by their keys, others by nothing. A rule that asks for the old
//! value runs only where there is one, unless it takes it as an optional value. All rules of a request share one budget beside
//! what each may cost. What an unchanged part of an object breaks is a warning, unless the rule is about the change.
//!
//! Source: `apiextensions-apiserver/pkg/apiserver/schema/cel/validation.go`.

mod compile;
mod correlate;
#[cfg(test)]
mod tests;

use compile::{Rule, Validator};
use correlate::{Correlation, KeyedList, Ratchet};
use kubecel::{
    Value as Cel,
    eval::{Activation, Cause, EvalError, Limits, Plan},
    regex::Patterns,
    value::{Node, typed, view::Shape},
};
use machinery::{
    Value,
    field::{Error, ErrorKind, ErrorList, Path},
};
use std::sync::atomic::{AtomicBool, Ordering};

/// What all rules of one object may cost (`RuntimeCELCostBudget`).
pub(crate) const BUDGET: i64 = 10_000_000;
/// Errors that are told of one object at most, and as many warnings; and the bytes of either.
const TOLD_MAX: usize = 1_000;
const TOLD_BYTES_MAX: usize = 1 << 20;
/// Bytes of a message that an expression makes.
const MESSAGE_MAX: usize = 5 * 1024;

/// The compiled rules of a schema.
#[derive(Debug)]
pub struct CustomRules {
    /// The schema, by which old values are found.
    schema: Value,
    node: Node,
    root: Validator,
}

/// What the rules say of an object.
#[derive(Debug, Default)]
pub struct Verdict {
    /// What is wrong.
    pub errors: ErrorList,
    /// What unchanged parts break.
    pub warnings: Vec<String>,
}

impl CustomRules {
    /// Compiles the rules of a version's schema (`openAPIV3Schema`); none where it has none. What does not compile is an error of
    /// every object: it was compiled when it was defined. The definition's versions share their constant `patterns`.
    pub fn compile(schema: &Value, patterns: &Patterns) -> Option<CustomRules> {
        let root = Validator::of(schema, schema, patterns)?;
        Some(CustomRules { schema: schema.clone(), node: Node::root(schema), root })
    }

    /// What is wrong with an object, and with its change if there was one before. Where a `stop` is given, setting it ends
    /// the evaluation that runs; without one the rules' budget alone ends it.
    pub fn validate(&self, object: &Value, old: Option<&Value>, stop: Option<&AtomicBool>) -> Verdict {
        let mut walk = Walk { budget: BUDGET, stop, verdict: Verdict::default(), told: [0; 2] };
        let ratchet = Ratchet::root(old.map(|old| Correlation { new: object, old, schema: &self.schema }));
        let place = Place { validator: &self.root, node: &self.node, new: object, old };
        // The budget's end is told where it came; nothing else comes after it.
        let _ = walk.at(&Path::empty(), place, &ratchet);
        walk.verdict
    }
}

/// A node of the schema, with its rules.
#[derive(Clone, Copy)]
pub(crate) struct At<'r> {
    validator: &'r Validator,
    node: &'r Node,
}

impl CustomRules {
    /// The rules of the schema's root.
    pub(crate) fn root(&self) -> At<'_> {
        At { validator: &self.root, node: &self.node }
    }
}

impl<'r> At<'r> {
    /// The rules of a field; none where it has none.
    pub(crate) fn property(self, name: &str) -> Option<At<'r>> {
        let Shape::Object(nodes) = &self.node.shape else { return None };
        Some(At { validator: self.validator.properties.get(name)?, node: nodes.get(name)? })
    }

    /// The rules of a list's elements; none where they have none.
    pub(crate) fn items(self) -> Option<At<'r>> {
        let Shape::Array { items: Some(node), .. } = &self.node.shape else { return None };
        Some(At { validator: self.validator.items.as_deref()?, node })
    }

    /// What is wrong with a default there: neither where it was before may it break a rule, nor where it comes new. All defaults
    /// of a schema share a budget, which is below zero when it is spent.
    pub(crate) fn judge_default(self, default: &Value, path: &Path, budget: &mut i64) -> ErrorList {
        let run = |old: Option<&Value>| {
            let mut walk = Walk { budget: *budget, stop: None, verdict: Verdict::default(), told: [0; 2] };
            let place = Place { validator: self.validator, node: self.node, new: default, old };
            let spent = walk.at(path, place, &Ratchet::root(None)).is_err();
            (walk.verdict.errors, if spent { -1 } else { walk.budget })
        };
        let (mut errors, mut left) = run(Some(default));
        if errors.is_empty() {
            let (found, rest) = run(None);
            errors = found;
            left = left.min(rest);
        }
        *budget = left;
        errors
    }
}

/// A node of the schema with the values there.
#[derive(Clone, Copy)]
struct Place<'v> {
    validator: &'v Validator,
    node: &'v Node,
    new: &'v Value,
    old: Option<&'v Value>,
}

/// No further rules are run.
struct Spent;

struct Walk<'s> {
    budget: i64,
    stop: Option<&'s AtomicBool>,
    verdict: Verdict,
    /// Bytes of errors and of warnings.
    told: [usize; 2],
}

/// `self` and `oldSelf`.
struct Selves<'v> {
    new: Cel<'v>,
    old: Option<Cel<'v>>,
}

impl<'v> Activation<'v> for Selves<'v> {
    fn find(&self, name: &str) -> Option<Cel<'v>> {
        match name {
            "self" => Some(self.new.clone()),
            "oldSelf" => self.old.clone(),
            _ => None,
        }
    }
}

impl Walk<'_> {
    /// The rules of a node, of what narrows it, and of everything below.
    fn at(&mut self, path: &Path, place: Place<'_>, ratchet: &Ratchet<'_>) -> Result<(), Spent> {
        if place.new.is_null() {
            return Ok(());
        }
        self.rules(path, place, ratchet)?;
        for narrower in &place.validator.all_of {
            self.at(path, Place { validator: narrower, ..place }, &ratchet.of_all_of())?;
        }
        match place.new {
            Value::Array(elements) => self.elements(path, place, elements, ratchet),
            Value::Object(_) => self.fields(path, place, ratchet),
            _ => Ok(()),
        }
    }

    fn elements(&mut self, path: &Path, place: Place<'_>, elements: &[Value], ratchet: &Ratchet<'_>) -> Result<(), Spent> {
        let (Some(validator), Shape::Array { items: Some(node), .. }) = (place.validator.items.as_deref(), &place.node.shape) else { return Ok(()) };
        let old = place.old.and_then(Value::as_array).map(|old| KeyedList::of(old, place.validator.list_keys.clone()));
        let were = ratchet.elements();
        for (at, new) in elements.iter().enumerate() {
            let old = old.as_ref().and_then(|old| old.get(new));
            self.at(&path.index(at), Place { validator, node, new, old }, &were.of(new))?;
        }
        Ok(())
    }

    fn fields(&mut self, path: &Path, place: Place<'_>, ratchet: &Ratchet<'_>) -> Result<(), Spent> {
        let Some(fields) = place.new.as_object() else { return Ok(()) };
        for (name, new) in fields {
            let old = place.old.and_then(|old| old.get(name));
            let below = match &place.node.shape {
                Shape::Map(node) => place.validator.additional.as_deref().map(|validator| (path.key(name), validator, &**node)),
                Shape::Object(nodes) => {
                    let validator = place.validator.properties.get(name);
                    validator.and_then(|validator| nodes.get(name.as_str()).map(|node| (path.child(name), validator, node)))
                }
                _ => None,
            };
            if let Some((path, validator, node)) = below {
                self.at(&path, Place { validator, node, new, old }, &ratchet.key(name))?;
            }
        }
        Ok(())
    }

    /// The rules of one node.
    fn rules(&mut self, path: &Path, place: Place<'_>, ratchet: &Ratchet<'_>) -> Result<(), Spent> {
        let validator = place.validator;
        if let Some(error) = &validator.error {
            self.tell(path, validator, format!("rule compiler initialization error: {error}"));
            return Ok(());
        }
        if validator.rules.is_empty() {
            return Ok(());
        }
        if self.budget <= 0 {
            return Err(self.out_of_budget(path, validator));
        }
        let old = place.old.filter(|old| !old.is_null());
        for rule in &validator.rules {
            // A rule costs little and its message may be long: what a list of many items breaks is told for the first of them.
            if self.told[0] > TOLD_BYTES_MAX || self.verdict.errors.len() >= TOLD_MAX {
                return Err(Spent);
            }
            if self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                self.tell(path, validator, format!("operation interrupted evaluating rule: {}", rule.shown));
                return Err(Spent);
            }
            let plan = match &rule.plan {
                Ok(plan) => plan,
                Err(error) => {
                    self.tell(path, validator, format!("rule compile error: {error}"));
                    continue;
                }
            };
            // A rule about a change needs one.
            if rule.uses_old && old.is_none() && !rule.optional_old {
                continue;
            }
            self.rule(path, place, old, rule, plan, ratchet)?;
        }
        Ok(())
    }

    fn rule(&mut self, path: &Path, place: Place<'_>, old: Option<&Value>, rule: &Rule, plan: &Plan, ratchet: &Ratchet<'_>) -> Result<(), Spent> {
        let (value, cost) = match selves(place, old, rule.optional_old) {
            Ok(selves) => {
                let outcome = plan.run(&selves, self.limits());
                (outcome.value, outcome.cost)
            }
            Err(error) => (Err(error), 0),
        };
        if !self.spend(cost) {
            return Err(self.out_of_budget(path, place.validator));
        }
        match value {
            Ok(Cel::Bool(true)) => Ok(()),
            Ok(_) => self.broken(path, place, old, rule, ratchet),
            Err(error) => {
                let (shown, spent) = match error.cause {
                    Cause::CostLimit => {
                        (format!("'{error}': no further validation rules will be run due to call cost exceeds limit for rule: {}", rule.shown), true)
                    }
                    _ if error.message.starts_with("no such overload") => {
                        (format!("'{error}': call arguments did not match a supported operator, function or macro signature for rule: {}", rule.shown), false)
                    }
                    _ => (format!("{error} evaluating rule: {}", rule.shown), false),
                };
                self.tell(path, place.validator, shown);
                if spent { Err(Spent) } else { Ok(()) }
            }
        }
    }

    /// A rule that is not kept: its message, where it says so, and how the value is shown.
    fn broken(&mut self, path: &Path, place: Place<'_>, old: Option<&Value>, rule: &Rule, ratchet: &Ratchet<'_>) -> Result<(), Spent> {
        let validator = place.validator;
        let at = match &rule.field_path {
            Some(field) => path.child(field),
            None => path.clone(),
        };
        let detail = match &rule.message {
            None => None,
            Some((source, plan)) => match self.message(place, old, source, plan) {
                Ok(message) => message,
                Err(detail) => {
                    self.add(Error::invalid(&shown(&at), validator.ty.clone(), detail), rule, ratchet);
                    return Err(Spent);
                }
            },
        };
        let detail = detail.unwrap_or_else(|| rule.detail.clone());
        let bare = matches!(validator.ty.as_str(), "object" | "array");
        let (kind, value, detail) = match rule.reason.as_deref() {
            Some("FieldValueForbidden") => (ErrorKind::Forbidden, Value::Null, detail),
            Some("FieldValueRequired") => (ErrorKind::Required, Value::Null, detail),
            Some("FieldValueDuplicate") => (ErrorKind::Duplicate, place.new.clone(), String::new()),
            _ => (ErrorKind::Invalid, place.new.clone(), detail),
        };
        let value = if bare { Value::Null } else { value };
        self.add(Error { kind, path: shown(&at), value, detail, bare, shown: None }, rule, ratchet);
        Ok(())
    }

    /// The message that an expression makes; none where it makes none, and then the rule's own counts.
    ///
    /// # Errors
    /// The budget's end.
    fn message(&mut self, place: Place<'_>, old: Option<&Value>, source: &str, plan: &Plan) -> Result<Option<String>, String> {
        // The original gives the old value as it is, even to rules that take it as optional.
        let Ok(selves) = selves(place, old, false) else { return Ok(None) };
        let outcome = plan.run(&selves, self.limits());
        if !self.spend(outcome.cost) {
            return Err("messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run".to_owned());
        }
        match outcome.value {
            Err(error) if error.cause == Cause::CostLimit => {
                Err(format!("no further validation rules will be run due to call cost exceeds limit for messageExpression: {}", kubecel::gotext::quote(source)))
            }
            Ok(Cel::String(text)) => {
                let message = text.trim();
                Ok((!message.is_empty() && message.len() <= MESSAGE_MAX && !message.contains('\n')).then(|| message.to_owned()))
            }
            _ => Ok(None),
        }
    }

    fn limits(&self) -> Limits<'_> {
        Limits { stop: self.stop, ..Limits::default() }
    }

    /// Takes a cost from the budget, if it is there.
    fn spend(&mut self, cost: u64) -> bool {
        match i64::try_from(cost) {
            Ok(cost) if cost <= self.budget => {
                self.budget -= cost;
                true
            }
            _ => false,
        }
    }

    fn out_of_budget(&mut self, path: &Path, validator: &Validator) -> Spent {
        self.tell(path, validator, "validation failed due to running out of cost budget, no further validation rules will be run".to_owned());
        Spent
    }

    /// An error of the rules themselves: the value is shown by its type.
    fn tell(&mut self, path: &Path, validator: &Validator, detail: String) {
        self.told[0] += path.as_str().len() + detail.len();
        self.verdict.errors.push(Error::invalid(&shown(path), validator.ty.clone(), detail));
    }

    /// An error of the object; a warning if what breaks the rule is what it was.
    fn add(&mut self, error: Error, rule: &Rule, ratchet: &Ratchet<'_>) {
        let bytes = error.path.as_str().len() + error.detail.len() + error.value.as_str().map_or(0, str::len);
        if rule.uses_old || !ratchet.is_unchanged() {
            self.told[0] += bytes;
            self.verdict.errors.push(error);
        } else if self.told[1] <= TOLD_BYTES_MAX && self.verdict.warnings.len() < TOLD_MAX {
            // What is left out refuses nothing, so the walk goes on.
            self.told[1] += bytes;
            self.verdict.warnings.push(format!("{}: {}", error.path.as_str(), error.body()));
        }
    }
}

/// `self` and `oldSelf` at a node.
fn selves<'v>(place: Place<'v>, old: Option<&'v Value>, optional: bool) -> Result<Selves<'v>, EvalError> {
    let old = old.map(|old| typed(old, place.node)).transpose()?;
    let old = match (old, optional) {
        (None, true) => Some(Cel::NONE),
        (Some(old), true) => Some(Cel::some(old)),
        (old, false) => old,
    };
    Ok(Selves { new: typed(place.new, place.node)?, old })
}

/// The place as errors show it: the root has no name.
fn shown(path: &Path) -> Path {
    if path.as_str().is_empty() { Path::root("<nil>") } else { path.clone() }
}
