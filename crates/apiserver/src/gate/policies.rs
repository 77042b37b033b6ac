//! Admission policies and their bindings, compiled; and the conditions of webhooks, which are the same expressions.
//!
//! What does not compile is kept with the reason: whoever is asked for it says so, and the failure policy decides.

use super::{manifests, rules::Rule};
use crate::read::{items, text, texts};
use kinds::expressions::{Compiler, Declared, Gives};
use kubecel::{
    Program, Type,
    cost::{Size, Sizes, Unsized},
    eval::Plan,
    regex::Patterns,
    types::Str,
};
use machinery::{Value, labels::Selector};
use std::{collections::HashMap, sync::Arc};

/// What may cost more is not evaluated on the threads that answer at once: a million is about a tenth of a second.
const INLINE_COST_MAX: u64 = 50_000;
/// Bytes of JSON of a small object. What goes through the elements of such a one is done in a moment, which nobody knows of others.
pub(crate) const SMALL_BYTES: usize = 4 * 1024;

/// The sizes of what lies in a small object.
struct Small;

impl Sizes for Small {
    fn size(&self, path: &[Str], _ty: &Type) -> Option<Size> {
        let is_within = path.first().is_some_and(|root| matches!(&**root, "object" | "oldObject"));
        is_within.then(|| Size::new(0, SMALL_BYTES as u64))
    }
}

/// An expression, with its text for errors.
#[derive(Debug)]
pub(crate) struct Expression {
    pub(crate) text: String,
    pub(crate) plan: Result<Plan, String>,
    /// What it may cost at most: of any object, and of a small one.
    cost_max: [u64; 2],
    /// How deep its own evaluation goes on the stack, in nodes.
    pub(crate) height: u32,
    /// The same with the variables that it reads, and those that they read.
    pub(crate) stack: u32,
    /// The places of the variables that it reads.
    reads: Vec<usize>,
}

/// Whether what is evaluated may take longer than a moment: of any object, and of a small one.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Heavy {
    pub(crate) any: bool,
    pub(crate) small: bool,
}

impl Heavy {
    /// Of expressions together.
    pub(super) fn of<'e>(expressions: impl Iterator<Item = &'e Expression>) -> Heavy {
        let sums = expressions.fold([0_u64; 2], |[any, small], expression| {
            let [own, own_small] = expression.cost_max;
            [any.saturating_add(own), small.saturating_add(own_small)]
        });
        let [any, small] = sums.map(|sum| sum > INLINE_COST_MAX);
        Heavy { any, small }
    }

    /// Of an object of which it is known whether it is small.
    pub(super) fn counts(self, small: bool) -> bool {
        if small { self.small } else { self.any }
    }
}

impl Expression {
    fn of(text: &str, compiled: Result<Program, String>, variables: &Variables, patterns: &Patterns) -> Expression {
        let cost_max = compiled.as_ref().map_or([0; 2], |program| [program.estimate(&Unsized).max, program.estimate(&Small).max]);
        let height = compiled.as_ref().map_or(0, Program::height);
        let fields = compiled.as_ref().map(|program| program.fields_of("variables")).unwrap_or_default();
        let reads: Vec<usize> = fields.iter().filter_map(|name| variables.places.get(&**name).copied()).collect();
        let below = reads.iter().filter_map(|at| variables.list.get(*at)).map(|variable| variable.expression.stack).max();
        let plan = compiled.and_then(|program| Plan::sharing(&program, patterns).map_err(|error| format!("program instantiation failed: {error}")));
        Expression { text: text.to_owned(), plan, cost_max, height, stack: height.saturating_add(below.unwrap_or(0)), reads }
    }
}

/// A variable of a policy.
#[derive(Debug)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) expression: Expression,
}

/// The variables of a policy: each may read those before it.
#[derive(Debug, Default)]
pub(crate) struct Variables {
    list: Vec<Variable>,
    places: HashMap<String, usize>,
}

impl Variables {
    /// The variable of a name, and its place.
    pub(crate) fn find(&self, name: &str) -> Option<(usize, &Variable)> {
        let at = *self.places.get(name)?;
        Some((at, self.list.get(at)?))
    }

    /// All that an expression reads, and what that reads, in an order in which each comes behind what it reads.
    pub(crate) fn below(&self, expression: &Expression) -> impl Iterator<Item = (usize, &Variable)> {
        let mut is_read = vec![false; self.list.len()];
        let mut open = expression.reads.clone();
        while let Some(at) = open.pop() {
            if let (Some(known @ false), Some(variable)) = (is_read.get_mut(at), self.list.get(at)) {
                *known = true;
                open.extend(&variable.expression.reads);
            }
        }
        self.list.iter().enumerate().filter(move |(at, _)| is_read.get(*at) == Some(&true))
    }

    fn push(&mut self, variable: Variable) {
        // Of two with the same name the last is meant, by those before it too.
        self.places.insert(variable.name.clone(), self.list.len());
        self.list.push(variable);
    }
}

/// A condition, with its name.
#[derive(Debug)]
pub(crate) struct Condition {
    pub(crate) name: String,
    pub(crate) expression: Expression,
}

/// The conditions of a webhook, whose configuration has these patterns.
pub(crate) fn conditions(owner: &Value, patterns: &Patterns) -> Vec<Condition> {
    let (compiler, variables) = (Compiler::new(false), Variables::default());
    let compile = |text: &str| {
        let compiled = compiler.compile(text, Declared { authorizer: true, ..Declared::default() }, Gives::Bool, true);
        Expression::of(text, compiled, &variables, patterns)
    };
    compile_conditions(owner, &compile)
}

fn compile_conditions(owner: &Value, compile: &dyn Fn(&str) -> Expression) -> Vec<Condition> {
    let one = |condition: &Value| Condition { name: text(condition, "name").to_owned(), expression: compile(text(condition, "expression")) };
    items(&owner["matchConditions"]).iter().map(one).collect()
}

/// What a policy or a binding is about.
#[derive(Debug)]
pub(crate) struct Match {
    pub(crate) namespaces: Result<Selector, String>,
    pub(crate) objects: Result<Selector, String>,
    pub(crate) rules: Vec<Named>,
    pub(crate) exclude: Vec<Named>,
    /// `matchPolicy: Equivalent`.
    pub(crate) equivalent: bool,
}

/// A rule for objects of these names, or of all.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) rule: Rule,
    pub(crate) names: Vec<String>,
}

impl Match {
    fn of(value: &Value) -> Match {
        let selector = |field: &str, what: &str| match &value[field] {
            Value::Null => Err(format!("a nil {what} selector was passed, please ensure selectors are initialized properly")),
            own => Selector::from_label_selector(own),
        };
        let named = |field: &str| items(&value[field]).iter().map(|rule| Named { rule: Rule::of(rule), names: texts(&rule["resourceNames"]) }).collect();
        Match {
            namespaces: selector("namespaceSelector", "namespace"),
            objects: selector("objectSelector", "object"),
            rules: named("resourceRules"),
            exclude: named("excludeResourceRules"),
            equivalent: value["matchPolicy"] == "Equivalent",
        }
    }
}

/// A validation of a policy.
#[derive(Debug)]
pub(crate) struct Validation {
    pub(crate) expression: Expression,
    pub(crate) message: String,
    pub(crate) message_expression: Option<Expression>,
    pub(crate) reason: String,
}

/// A mutation of a policy.
#[derive(Debug)]
pub(crate) struct Mutation {
    /// A JSON patch; else an apply configuration.
    pub(crate) patch: bool,
    pub(crate) expression: Expression,
}

/// A policy.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) name: String,
    /// `failurePolicy: Ignore`.
    pub(crate) ignore: bool,
    pub(crate) constraints: Option<Match>,
    /// apiVersion and kind of its parameters.
    pub(crate) params: Option<(String, String)>,
    pub(crate) variables: Variables,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) validations: Vec<Validation>,
    /// Keys and values of audit annotations.
    pub(crate) audits: Vec<Expression>,
    pub(crate) mutations: Vec<Mutation>,
    /// `reinvocationPolicy: IfNeeded`.
    pub(crate) reinvoked: bool,
    /// Whether its expressions may take longer than a moment.
    pub(crate) heavy: Heavy,
}

/// Compiles a policy of either kind.
pub(crate) fn policy(object: &Value) -> Vec<Policy> {
    let spec = &object["spec"];
    let params = !spec["paramKind"].is_null();
    let declared = Declared { params, authorizer: true, patches: false };
    let (mut compiler, mut variables, patterns) = (Compiler::new(true), Variables::default(), Patterns::default());
    for variable in items(&spec["variables"]) {
        let (name, own) = (text(variable, "name"), text(variable, "expression"));
        let expression = compiler.define(name, own, declared, true, |compiled| Expression::of(own, compiled, &variables, &patterns));
        variables.push(Variable { name: name.to_owned(), expression });
    }
    let compile = |text: &str, declared: Declared, gives: Gives| Expression::of(text, compiler.compile(text, declared, gives, true), &variables, &patterns);
    let validation = |validation: &Value| {
        let message = text(validation, "messageExpression");
        Validation {
            expression: compile(text(validation, "expression"), declared, Gives::Bool),
            message: text(validation, "message").to_owned(),
            message_expression: (!message.is_empty()).then(|| compile(message, Declared { authorizer: false, ..declared }, Gives::Text)),
            reason: text(validation, "reason").to_owned(),
        }
    };
    let mutation = |mutation: &Value| {
        let patch = mutation["patchType"] == "JSONPatch";
        let (own, gives) = if patch { ("jsonPatch", Gives::Patch) } else { ("applyConfiguration", Gives::Configuration) };
        Mutation { patch, expression: compile(text(&mutation[own], "expression"), Declared { patches: true, ..declared }, gives) }
    };
    let mut made = Policy {
        name: text(&object["metadata"], "name").to_owned(),
        ignore: spec["failurePolicy"] == "Ignore",
        constraints: spec["matchConstraints"].is_object().then(|| Match::of(&spec["matchConstraints"])),
        params: params.then(|| (text(&spec["paramKind"], "apiVersion").to_owned(), text(&spec["paramKind"], "kind").to_owned())),
        conditions: compile_conditions(spec, &|text| compile(text, declared, Gives::Bool)),
        validations: items(&spec["validations"]).iter().map(validation).collect(),
        audits: items(&spec["auditAnnotations"]).iter().map(|audit| compile(text(audit, "valueExpression"), declared, Gives::TextOrNull)).collect(),
        mutations: items(&spec["mutations"]).iter().map(mutation).collect(),
        variables: Variables::default(),
        reinvoked: spec["reinvocationPolicy"] == "IfNeeded",
        heavy: Heavy::default(),
    };
    let conditions = made.conditions.iter().map(|condition| &condition.expression);
    let validations = made.validations.iter().flat_map(|validation| [Some(&validation.expression), validation.message_expression.as_ref()]).flatten();
    let mutations = made.mutations.iter().map(|mutation| &mutation.expression);
    let all = conditions.chain(validations).chain(mutations).chain(&made.audits).chain(variables.list.iter().map(|variable| &variable.expression));
    made.heavy = Heavy::of(all);
    made.variables = variables;
    vec![made]
}

/// Which objects a binding takes its parameters from.
#[derive(Debug)]
pub(crate) struct Params {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) selector: Option<Result<Selector, String>>,
    /// `parameterNotFoundAction: Deny`.
    pub(crate) required: bool,
}

/// A binding.
#[derive(Debug)]
pub(crate) struct Binding {
    pub(crate) name: String,
    pub(crate) policy: String,
    pub(crate) resources: Option<Match>,
    pub(crate) params: Option<Params>,
    pub(crate) denies: bool,
    /// Nobody writes an audit log here; it is counted.
    pub(crate) audits: bool,
    pub(crate) warns: bool,
}

impl Binding {
    /// Whether it takes its parameters by their labels, however many they are.
    pub(crate) fn selects(&self) -> bool {
        self.params.as_ref().is_some_and(|params| params.selector.is_some())
    }
}

/// Compiles a binding of either kind. Of a policy of files only those of files are some.
pub(crate) fn binding(object: &Value) -> Vec<Binding> {
    let spec = &object["spec"];
    if text(spec, "policyName").ends_with(manifests::SUFFIX) && !text(&object["metadata"], "name").ends_with(manifests::SUFFIX) {
        return Vec::new();
    }
    let acts = |action: &str| items(&spec["validationActions"]).iter().any(|own| own == action);
    let params = &spec["paramRef"];
    vec![Binding {
        name: text(&object["metadata"], "name").to_owned(),
        policy: text(spec, "policyName").to_owned(),
        resources: spec["matchResources"].is_object().then(|| Match::of(&spec["matchResources"])),
        params: params.is_object().then(|| Params {
            name: text(params, "name").to_owned(),
            namespace: text(params, "namespace").to_owned(),
            selector: (!params["selector"].is_null()).then(|| Selector::from_label_selector(&params["selector"])),
            required: params["parameterNotFoundAction"] == "Deny",
        }),
        denies: acts("Deny"),
        audits: acts("Audit"),
        warns: acts("Warn"),
    }]
}

/// Where a policy stands: those of files come before those of the API.
fn place(policy: &str) -> (bool, &str) {
    (!policy.ends_with(manifests::SUFFIX), policy)
}

/// Puts policies in their order.
pub(super) fn by_place(policies: &mut [Arc<Policy>]) {
    policies.sort_by(|one, other| place(&one.name).cmp(&place(&other.name)));
}

/// Puts bindings in the order of their policies, those of one in the order that they have: they are looked up by it.
pub(super) fn by_policy(bindings: &mut [Arc<Binding>]) {
    bindings.sort_by(|one, other| place(&one.policy).cmp(&place(&other.policy)));
}

/// The policies that have bindings, with these; both are in the order of the policies.
pub(crate) fn with_bindings<'p>(policies: &'p [Arc<Policy>], bindings: &'p [Arc<Binding>]) -> impl Iterator<Item = (&'p Arc<Policy>, &'p [Arc<Binding>])> {
    let mut rest = bindings;
    policies.iter().filter_map(move |policy| {
        // Of bindings to what is no policy nobody asks.
        let before = rest.iter().take_while(|binding| place(&binding.policy) < place(&policy.name)).count();
        let own = rest[before..].iter().take_while(|binding| binding.policy == policy.name).count();
        let (theirs, others) = rest[before..].split_at(own);
        rest = others;
        (own > 0).then_some((policy, theirs))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_policy_is_met_with_its_own_bindings() {
        let named = ["a", "b", "c", "e", "z.static.k8s.io"].iter();
        let mut policies: Vec<Arc<Policy>> = named.flat_map(|name| policy(&json!({"metadata": {"name": name}}))).map(Arc::new).collect();
        by_place(&mut policies);
        let suffix = |at: usize| if at == 7 { manifests::SUFFIX } else { "" };
        let bound = |at: usize, name: &str| binding(&json!({"metadata": {"name": format!("x{at}{}", suffix(at))}, "spec": {"policyName": name}}));
        let names = ["e", "c", "aa", "", "c", "zz", "a", "z.static.k8s.io", "z.static.k8s.io"];
        let mut bindings: Vec<Arc<Binding>> = names.iter().enumerate().flat_map(|(at, name)| bound(at, name)).map(Arc::new).collect();
        by_policy(&mut bindings);
        let met = with_bindings(&policies, &bindings);
        let met: Vec<(&str, Vec<&str>)> = met.map(|(policy, bindings)| (&*policy.name, bindings.iter().map(|binding| &*binding.name).collect())).collect();
        let expected = [("z.static.k8s.io", vec!["x7.static.k8s.io"]), ("a", vec!["x6"]), ("c", vec!["x1", "x4"]), ("e", vec!["x0"])];
        assert_eq!(met, expected, "not the one to \"aa\", which is none, nor \"b\", which has none");
    }

    #[test]
    fn of_variables_with_one_name_the_last_is_meant() {
        let variables = json!([{"name": "x", "expression": "1"}, {"name": "x", "expression": "2"}]);
        let policies = policy(&json!({"metadata": {"name": "a"}, "spec": {"variables": variables}}));
        let found = policies.first().and_then(|policy| policy.variables.find("x"));
        assert_eq!(found.map(|(at, variable)| (at, &*variable.expression.text)), Some((1, "2")));
    }
}
