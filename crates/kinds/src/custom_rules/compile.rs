//! The rules of a schema, compiled node by node.

use std::{collections::BTreeMap, sync::OnceLock};

use kubecel::{
    Env, Type, Version,
    declared::Declared,
    eval::{EvalError, Plan},
    regex::Patterns,
};
use machinery::Value;

use crate::{groups::definition_paths, tree};

const RULES: &str = "x-kubernetes-validations";
/// The name of the type of `self`: no expression can rely on it, since the original's has a number of the moment.
const SELF_TYPE: &str = "selfType1";
/// Schemas nest as deep as their definition was allowed to.
const DEPTH_MAX: usize = 100;

/// The rules of a node, and of what is below it.
#[derive(Debug, Default)]
pub(super) struct Validator {
    /// The schema's type, by which errors show values.
    pub(super) ty: String,
    /// Why there are no rules although the schema has them.
    pub(super) error: Option<String>,
    pub(super) rules: Vec<Rule>,
    pub(super) items: Option<Box<Validator>>,
    pub(super) additional: Option<Box<Validator>>,
    pub(super) properties: BTreeMap<String, Validator>,
    /// The rules of `allOf`, which are about the same value.
    pub(super) all_of: Vec<Validator>,
    /// The keys of a keyed list; none of others.
    pub(super) list_keys: Vec<String>,
}

/// One rule.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) plan: Result<Plan, String>,
    /// The rule as errors name it: its message, or itself.
    pub(super) shown: String,
    /// What is told if it is not kept.
    pub(super) detail: String,
    /// The expression that makes the message, with its text.
    pub(super) message: Option<(String, Plan)>,
    pub(super) reason: Option<String>,
    /// Where it is told, from the node on.
    pub(super) field_path: Option<String>,
    pub(super) uses_old: bool,
    pub(super) optional_old: bool,
}

impl Validator {
    /// The rules that `rules` (a schema, or a part of it that only narrows) has for values of the schema `node`; none where there are
    /// none.
    pub(super) fn of(rules: &Value, node: &Value, patterns: &Patterns) -> Option<Validator> {
        // The original looks for them everywhere but in `allOf`, and only then there too.
        if !has_rules(rules, false, 0) {
            return None;
        }
        Some(Validator::make(rules, node, true, patterns, 0)).filter(Validator::has_any)
    }

    fn has_any(&self) -> bool {
        let below = self.items.is_some() || self.additional.is_some() || !self.properties.is_empty() || !self.all_of.is_empty();
        below || self.error.is_some() || !self.rules.is_empty()
    }

    fn make(rules: &Value, node: &Value, root: bool, patterns: &Patterns, depth: usize) -> Validator {
        let mut made = Validator { ty: tree::text(node, "type").to_owned(), list_keys: list_keys(node), ..Validator::default() };
        if depth > DEPTH_MAX {
            return made;
        }
        let texts = tree::list(rules, RULES);
        if !texts.is_empty() {
            match Declared::of_schema(node, root) {
                Some(declared) => {
                    let envs = Envs::of(&declared, patterns);
                    // An empty rule has nothing to keep.
                    let given = texts.iter().filter(|rule| !tree::text(rule, "rule").trim().is_empty());
                    made.rules = given.map(|rule| envs.rule(rule, node)).collect();
                }
                None => made.error = Some("failed to convert to declType for CEL validation rules".to_owned()),
            }
        }
        let below = |rules: &Value, node: &Value| {
            let wanted = has_rules(rules, true, depth) && rules.is_object() && node.is_object();
            let made = wanted.then(|| Validator::make(rules, node, node["x-kubernetes-embedded-resource"] == true, patterns, depth + 1));
            made.filter(Validator::has_any)
        };
        made.items = below(&rules["items"], &node["items"]).map(Box::new);
        made.additional = below(&rules["additionalProperties"], &node["additionalProperties"]).map(Box::new);
        for (name, property) in tree::entries(rules, "properties") {
            let node = &node["properties"][name];
            // What expressions cannot see has no rules.
            if has_rules(property, true, depth)
                && Declared::of_schema(node, false).is_some()
                && let Some(validator) = below(property, node)
            {
                made.properties.insert(name.to_owned(), validator);
            }
        }
        let narrower = tree::list(rules, "allOf").iter().filter(|narrower| has_rules(narrower, true, depth));
        made.all_of = narrower.map(|narrower| Validator::make(narrower, node, root, patterns, depth + 1)).filter(Validator::has_any).collect();
        made
    }
}

/// Whether a schema has rules anywhere; `all_of`: also in what narrows it.
fn has_rules(schema: &Value, all_of: bool, depth: usize) -> bool {
    if depth > DEPTH_MAX || !schema.is_object() {
        return false;
    }
    let below = |part: &Value| has_rules(part, all_of, depth + 1);
    !tree::list(schema, RULES).is_empty()
        || below(&schema["items"])
        || below(&schema["additionalProperties"])
        || tree::entries(schema, "properties").any(|(_, property)| below(property))
        || (all_of && tree::list(schema, "allOf").iter().any(below))
}

/// The keys by which elements of a list are found again.
fn list_keys(schema: &Value) -> Vec<String> {
    if schema["type"] != "array" || schema["x-kubernetes-list-type"] != "map" {
        return Vec::new();
    }
    tree::list(schema, "x-kubernetes-list-map-keys").iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The environments of a node's rules: with the old value as it is, and as an optional one.
struct Envs<'p> {
    plain: Env,
    optional: Env,
    patterns: &'p Patterns,
}

impl<'p> Envs<'p> {
    fn of(declared: &Declared, patterns: &'p Patterns) -> Envs<'p> {
        static STORED: OnceLock<Env> = OnceLock::new();
        let named = declared.named(SELF_TYPE);
        let base = STORED.get_or_init(|| Env::new(Version::STORED)).clone().with_declared(&[&named]).with_variable("self", named.cel_type());
        Envs {
            plain: base.clone().with_variable("oldSelf", named.cel_type()),
            optional: base.with_variable("oldSelf", Type::optional(named.cel_type())),
            patterns,
        }
    }

    fn rule(&self, rule: &Value, schema: &Value) -> Rule {
        let optional_old = rule["optionalOldSelf"] == true;
        let env = if optional_old { &self.optional } else { &self.plain };
        let message = tree::text(rule, "message");
        let text = tree::text(rule, "rule");
        let shown = if message.is_empty() { text.trim() } else { message.trim() }.to_owned();
        let mut uses_old = false;
        let plan = compile(
            (env, self.patterns),
            text,
            &Type::Bool,
            ["compilation failed: ", "cel expression must evaluate to a bool", "program instantiation failed: "],
            |program| {
                uses_old = program.uses("oldSelf");
            },
        );
        let source = tree::text(rule, "messageExpression");
        let words = ["messageExpression compilation failed: ", "messageExpression must evaluate to a string", "messageExpression instantiation failed: "];
        // A message that does not compile is none: the definition was refused, or is older than the rule.
        let made = (!source.is_empty() && plan.is_ok()).then(|| compile((env, self.patterns), source, &Type::String, words, |_| {}).ok()).flatten();
        let field = tree::text(rule, "fieldPath");
        let field_path = (!field.is_empty()).then(|| definition_paths::resolve(field, schema, true).ok()).flatten();
        Rule {
            plan,
            detail: if message.is_empty() { format!("failed rule: {shown}") } else { shown.clone() },
            shown,
            message: made.map(|plan| (source.to_owned(), plan)),
            reason: rule["reason"].as_str().map(str::to_owned),
            field_path: field_path.map(|(path, _)| path.as_str().to_owned()).filter(|path| !path.is_empty()),
            uses_old,
            optional_old,
        }
    }
}

/// Compiles one expression; `words` say what is wrong if it does not compile, is of another type, or cannot be made ready to run.
fn compile((env, patterns): (&Env, &Patterns), text: &str, ty: &Type, words: [&str; 3], look: impl FnOnce(&kubecel::Program)) -> Result<Plan, String> {
    let [not_compiled, wrong_type, not_instantiated] = words;
    let program = env.compile(text).map_err(|issues| format!("{not_compiled}{issues}"))?;
    if program.output != *ty {
        return Err(wrong_type.to_owned());
    }
    look(&program);
    Plan::sharing(&program, patterns).map_err(|error: EvalError| format!("{not_instantiated}{error}"))
}
