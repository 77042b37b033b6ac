//! What an expression of admission sees, and what its evaluation may cost.
//!
//! Variables of a policy are evaluated when they are first read, once for each run of expressions, and count for the expression
//! that reads them. One that reads another goes deeper on the stack; where it could come too deep ([`STACK_MAX`]), what an
//! expression reads is evaluated before it, in order. A budget is shared by all expressions of a run; where it ends, all of the policy fails. Where the request
//! ends, the evaluation does, and the write does not go on whatever the policy makes of failures.

use super::super::attributes::{Attributes, Version};
use crate::{
    Context,
    gate::policies::{Expression, Variable, Variables},
};
use kubecel::{
    Value as Cel,
    eval::{Activation, Cause, EvalError, Limits, Outcome, Plan},
    library::authorizer::{self, Authorizer, Check, Resource, Target, Verdict},
};
use machinery::Value;
use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::HashMap,
    sync::{Arc, OnceLock},
};

/// What the expressions of a policy may cost for one binding and parameter (upstream's `RuntimeCELCostBudget`).
pub(super) const BUDGET: u64 = 10_000_000;
/// What the conditions may (upstream's `RuntimeCELCostBudgetMatchConditions`).
pub(super) const CONDITIONS_BUDGET: u64 = 2_500_000;
const SPENT: &str = "validation failed due to running out of cost budget, no further validation rules will be run";

/// How many nodes of expressions may be evaluated within one another: variables nest without a bound of their own. A node takes
/// some thousand bytes of the stack without optimisation, and a thread has `machinery::json::STACK_BYTES`.
const STACK_MAX: u32 = 4_000;

/// The objects of a write in the version that is looked at; null for what is not there.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) object: &'a Value,
    pub(super) old: &'a Value,
}

/// `request`: the review without its objects. Few expressions read it, so it is made for the first that does.
#[derive(Clone, Copy)]
pub(super) struct Told<'v> {
    made: &'v OnceLock<Value>,
    of: Option<(&'v Attributes<'v>, &'v Version)>,
}

impl<'v> Told<'v> {
    /// What is told of a write in a version, to be kept here.
    pub(super) fn of(asked: &'v Attributes<'v>, version: &'v Version, made: &'v OnceLock<Value>) -> Told<'v> {
        Told { made, of: Some((asked, version)) }
    }

    /// What was made before.
    #[cfg(test)]
    fn made(made: &'v OnceLock<Value>) -> Told<'v> {
        Told { made, of: None }
    }

    /// What was made of it, if an expression has read it.
    pub(super) fn known(self) -> Option<&'v Value> {
        self.made.get()
    }

    fn value(self) -> &'v Value {
        self.made.get_or_init(|| self.of.map_or(Value::Null, |(asked, version)| asked.request(version).to_value()))
    }
}

/// What expressions see.
pub(super) struct Scope<'v> {
    cx: &'v Context,
    subject: Subject<'v>,
    request: Told<'v>,
    namespace: Option<&'v Value>,
    params: Option<&'v Value>,
    /// Whose rights are asked for, and who answers: made when an expression first reads it.
    asked: Option<&'v Attributes<'v>>,
    authorizer: OnceCell<(Arc<dyn Authorizer>, Resource)>,
    variables: Option<&'v Variables>,
    /// What variables gave, by their places.
    known: RefCell<HashMap<usize, Result<Cel<'v>, EvalError>>>,
    /// What variables have cost since it was last asked, and what they may until the budget is spent.
    spent: Cell<u64>,
    left: Cell<u64>,
    /// How many nodes are evaluated within one another, and whether that, or the budget, was the end of it all.
    depth: Cell<u32>,
    is_over: Cell<bool>,
}

/// Why expressions are not evaluated any further.
#[derive(Debug)]
pub(super) struct Spent(pub(super) String);

impl<'v> Scope<'v> {
    pub(super) fn new(cx: &'v Context, subject: Subject<'v>, request: Told<'v>) -> Scope<'v> {
        Scope {
            cx,
            subject,
            request,
            namespace: None,
            params: None,
            asked: None,
            authorizer: OnceCell::new(),
            variables: None,
            known: RefCell::default(),
            spent: Cell::new(0),
            left: Cell::new(0),
            depth: Cell::new(0),
            is_over: Cell::new(false),
        }
    }

    pub(super) fn with_namespace(mut self, namespace: Option<&'v Value>) -> Self {
        self.namespace = namespace;
        self
    }

    pub(super) fn with_params(mut self, params: Option<&'v Value>) -> Self {
        self.params = params;
        self
    }

    pub(super) fn with_authorizer(mut self, asked: &'v Attributes<'v>) -> Self {
        self.asked = Some(asked);
        self
    }

    fn authorizer(&self) -> Option<&(Arc<dyn Authorizer>, Resource)> {
        let asked = self.asked?;
        Some(self.authorizer.get_or_init(|| (asker(asked), resource(asked))))
    }

    pub(super) fn with_variables(mut self, variables: &'v Variables) -> Self {
        self.variables = Some(variables);
        self
    }

    /// The value of an expression, and what is left of a budget.
    ///
    /// # Errors
    /// The budget is spent; what is wrong with the expression itself is the value.
    pub(super) fn evaluate(&self, expression: &'v Expression, budget: &mut u64) -> Result<Result<Cel<'v>, String>, Spent> {
        let plan = match &expression.plan {
            Ok(plan) => plan,
            Err(why) => return Ok(Err(format!("compilation error: {why}"))),
        };
        self.left.set(*budget);
        self.prepare(expression);
        self.is_over.set(false);
        self.depth.set(expression.height);
        let outcome = self.run(plan);
        self.depth.set(0);
        for cost in [self.spent.take(), outcome.cost] {
            if cost > *budget {
                return Err(Spent(SPENT.into()));
            }
            *budget -= cost;
        }
        Ok(outcome.value.map_err(|error| format!("expression '{}' resulted in error: {error}", expression.text)))
    }

    /// Runs a plan until nobody waits for it any more.
    fn run(&self, plan: &'v Plan) -> Outcome<'v> {
        let outcome = plan.run(self, Limits { stop: Some(self.cx.stop()), ..Limits::default() });
        if outcome.value.as_ref().is_err_and(|error| error.cause == Cause::Interrupted) {
            self.cx.cut_short();
        }
        outcome
    }

    /// Evaluates what an expression reads before it, where evaluating it within could come too deep.
    fn prepare(&self, expression: &'v Expression) {
        let Some(variables) = self.variables.filter(|_| expression.stack > STACK_MAX) else { return };
        for (at, variable) in variables.below(expression) {
            // What ends all of it is found again by whoever reads it.
            if self.variable(at, variable).is_err_and(|error| error.is_final()) {
                return;
            }
        }
    }

    /// The value of a variable.
    fn variable(&self, at: usize, variable: &'v Variable) -> Result<Cel<'v>, EvalError> {
        if let Some(known) = self.known.borrow().get(&at) {
            return known.clone();
        }
        let value = self.compute(variable);
        if !value.as_ref().is_err_and(EvalError::is_final) {
            self.known.borrow_mut().insert(at, value.clone());
        }
        value
    }

    fn compute(&self, variable: &'v Variable) -> Result<Cel<'v>, EvalError> {
        let (name, expression) = (&variable.name, &variable.expression);
        let plan = expression.plan.as_ref().map_err(|why| EvalError::of(format!("composited variable {name:?} fails to compile: {why}")))?;
        let around = self.depth.get();
        let depth = around.saturating_add(expression.height);
        // A variable can even read itself: one whose value is `variables` is read like those.
        if depth > STACK_MAX || self.spent.get() > self.left.get() {
            self.is_over.set(true);
            return Err(EvalError { message: "operation cancelled: actual cost limit exceeded".into(), cause: Cause::CostLimit });
        }
        self.depth.set(depth);
        let outcome = self.run(plan);
        self.depth.set(around);
        self.spent.set(self.spent.get().saturating_add(outcome.cost));
        outcome.value.map_err(|error| match error.cause {
            Cause::Interrupted => error,
            // Its own limit is its own failure; the end of all is that of all.
            Cause::CostLimit if self.is_over.get() => error,
            _ => EvalError::of(format!("composited variable {name:?} fails to evaluate: {error}")),
        })
    }
}

impl<'v> Activation<'v> for Scope<'v> {
    fn find(&self, name: &str) -> Option<Cel<'v>> {
        let or_null = |value: Option<&'v Value>| Some(value.map_or(Cel::Null, Cel::json));
        match name {
            "object" => or_null(Some(self.subject.object)),
            "oldObject" => or_null(Some(self.subject.old)),
            "request" => or_null(Some(self.request.value())),
            "namespaceObject" => or_null(self.namespace),
            "params" => or_null(self.params),
            "authorizer" => self.authorizer().map(|(own, _)| authorizer::authorizer(Arc::clone(own))),
            "authorizer.requestResource" => self.authorizer().map(|(own, resource)| authorizer::request_resource(Arc::clone(own), resource.clone())),
            "variables" => Some(Cel::Lazy),
            _ => None,
        }
    }

    fn member(&self, _variable: &str, field: &str) -> Result<Option<Cel<'v>>, EvalError> {
        let found = self.variables.and_then(|variables| variables.find(field));
        found.map(|(at, variable)| self.variable(at, variable)).transpose()
    }
}

/// Who answers what expressions ask of rights, as whoever sent the request.
fn asker(asked: &Attributes<'_>) -> Arc<dyn Authorizer> {
    Arc::new(Asker { authorizer: Arc::clone(&asked.world.identity().authorizer), user: Arc::clone(&asked.write.cx.user) })
}

fn resource(asked: &Attributes<'_>) -> Resource {
    let own = &asked.write.row.resource;
    Resource {
        group: own.group.clone(),
        resource: own.resource.clone(),
        subresource: asked.write.subresource.to_owned(),
        namespace: asked.namespace().to_owned(),
        name: asked.name().to_owned(),
        ..Resource::default()
    }
}

struct Asker {
    authorizer: Arc<identity::Authorizer>,
    user: Arc<identity::User>,
}

impl Authorizer for Asker {
    fn authorize(&self, check: &Check) -> Verdict {
        let account;
        let user = match &check.service_account {
            None => &*self.user,
            Some((namespace, name)) => {
                let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}"), "system:authenticated".to_owned()];
                let named = format!("system:serviceaccount:{namespace}:{name}");
                account = identity::User { name: named, uid: String::new(), groups: groups.into(), extra: Default::default() };
                &account
            }
        };
        let blank = Resource::default();
        let (on, path) = match &check.on {
            Target::Resource(on) => (on, ""),
            Target::Path(path) => (&blank, path.as_str()),
        };
        let asked = identity::Attributes {
            user,
            verb: &check.verb,
            group: &on.group,
            version: "*",
            resource: &on.resource,
            subresource: &on.subresource,
            namespace: &on.namespace,
            name: &on.name,
            path,
            is_resource: path.is_empty(),
            fields: None,
        };
        let (decision, reason) = self.authorizer.authorize(&asked);
        Verdict { allowed: decision == identity::Decision::Allow, reason, error: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{gate::policies, path::RequestInfo};
    use serde_json::json;
    use std::time::{Instant, SystemTime};

    /// What the validation of a policy with these variables gives, on a thread with half of the stack that there is.
    fn evaluated(variables: Vec<Value>, validation: &str) -> Result<Result<String, String>, String> {
        let validation = validation.to_owned();
        let run = move || {
            let spec = json!({"variables": variables, "validations": [{"expression": validation}]});
            let policy = policies::policy(&json!({"metadata": {"name": "p"}, "spec": spec})).remove(0);
            let cx = Context::new(Arc::default(), RequestInfo::default(), String::new(), SystemTime::now());
            let object = json!({"data": {"a": "1"}});
            let made = OnceLock::from(json!({}));
            let scope = Scope::new(&cx, Subject { object: &object, old: &Value::Null }, Told::made(&made)).with_variables(&policy.variables);
            let mut budget = BUDGET;
            let value = scope.evaluate(&policy.validations[0].expression, &mut budget).map_err(|spent| spent.0)?;
            Ok(value.map(|value| format!("{value:?}")))
        };
        std::thread::Builder::new().stack_size(machinery::json::STACK_BYTES / 2).spawn(run).expect("a thread").join().expect("it holds")
    }

    fn chain(first: &str, count: usize, next: impl Fn(&str) -> String) -> Vec<Value> {
        let one = |at: usize| {
            let text = if at == 0 { first.to_owned() } else { next(&format!("variables.a{}", at - 1)) };
            json!({"name": format!("a{at}"), "expression": text})
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn variables_that_read_one_another_do_not_exhaust_the_stack() {
        let deep = |at: &str| format!("{}{at}{}", "int(".repeat(200), ")".repeat(200));
        assert_eq!(evaluated(chain("1", 19, deep), "variables.a18 == 1"), Ok(Ok("Bool(true)".into())), "one within the other");
        assert_eq!(evaluated(chain("1", 1_000, deep), "variables.a999 == 1"), Ok(Ok("Bool(true)".into())), "one after the other");
        let loops = |at: &str| format!("{}{at}{}.size()", "[1].map(x, ".repeat(40), ")".repeat(40));
        assert_eq!(evaluated(chain("1", 400, loops), "variables.a30 == 1"), Ok(Ok("Bool(true)".into())));
        assert_eq!(evaluated(chain("1", 400, loops), "variables.a399 == 1"), Ok(Ok("Bool(true)".into())));
        // What is not read is not evaluated, as long as it is usual.
        let fails = |count| chain("1 / int(object.data.b)", count, |at| format!("{at} + 1"));
        assert_eq!(evaluated(fails(100), "true || variables.a99 == 1"), Ok(Ok("Bool(true)".into())));
        assert!(evaluated(fails(100), "variables.a99 == 1").is_ok_and(|value| value.is_err_and(|why| why.ends_with("no such key: b"))));
    }

    #[test]
    fn a_variable_that_reads_itself_ends() {
        let variables = vec![json!({"name": "own", "expression": "variables"}), json!({"name": "a", "expression": "variables.own.a"})];
        let limit = "expression 'variables.a == 1' resulted in error: operation cancelled: actual cost limit exceeded";
        assert_eq!(evaluated(variables, "variables.a == 1"), Ok(Err(limit.into())));
    }

    /// A policy's budget is over as soon as its variables have cost so much, however many of them an expression reads.
    #[test]
    fn variables_end_with_the_budget() {
        let costly = |at: usize| json!({"name": format!("a{at}"), "expression": "lists.range(400).all(x, lists.range(400).all(y, x + y >= 0))"});
        let reads: Vec<String> = (0..300).map(|at| format!("variables.a{at}")).collect();
        let began = Instant::now();
        let all = evaluated((0..300).map(costly).collect(), &reads.join(" && "));
        assert_eq!(all, Err(SPENT.into()));
        assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
    }
}
