//! What an expression of admission sees, and what its evaluation may cost.
//!
//! Variables of a policy are evaluated when they are first read, once for each run of expressions, and count for the expression
//! that reads them. A budget is shared by all expressions of a run; where it ends, all of the policy fails. Where the request
//! ends, the evaluation does, and the write does not go on whatever the policy makes of failures.

use super::super::attributes::{Attributes, Version};
use crate::{Context, gate::policies::Expression};
use kubecel::{
    Value as Cel,
    eval::{Activation, Cause, EvalError, Limits, Outcome, Plan},
    library::authorizer::{self, Authorizer, Check, Resource, Target, Verdict},
};
use machinery::Value;
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    sync::Arc,
};

/// What the expressions of a policy may cost for one binding and parameter (upstream's `RuntimeCELCostBudget`).
pub(super) const BUDGET: u64 = 10_000_000;
/// What the conditions may (upstream's `RuntimeCELCostBudgetMatchConditions`).
pub(super) const CONDITIONS_BUDGET: u64 = 2_500_000;
const SPENT: &str = "validation failed due to running out of cost budget, no further validation rules will be run";

/// The objects of a write in the version that is looked at; null for what is not there.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) object: &'a Value,
    pub(super) old: &'a Value,
}

/// What expressions see.
pub(super) struct Scope<'v> {
    cx: &'v Context,
    subject: Subject<'v>,
    request: &'v Value,
    namespace: Option<&'v Value>,
    params: Option<&'v Value>,
    authorizer: Option<(Arc<dyn Authorizer>, Resource)>,
    variables: &'v [(String, Expression)],
    known: RefCell<HashMap<&'v str, Result<Cel<'v>, EvalError>>>,
    /// What variables have cost since it was last asked.
    spent: Cell<u64>,
}

/// Why expressions are not evaluated any further.
#[derive(Debug)]
pub(super) struct Spent(pub(super) String);

impl<'v> Scope<'v> {
    pub(super) fn new(cx: &'v Context, subject: Subject<'v>, request: &'v Value) -> Scope<'v> {
        Scope { cx, subject, request, namespace: None, params: None, authorizer: None, variables: &[], known: RefCell::default(), spent: Cell::new(0) }
    }

    pub(super) fn with_namespace(mut self, namespace: Option<&'v Value>) -> Self {
        self.namespace = namespace;
        self
    }

    pub(super) fn with_params(mut self, params: Option<&'v Value>) -> Self {
        self.params = params;
        self
    }

    pub(super) fn with_authorizer(mut self, asked: &Attributes<'_>) -> Self {
        self.authorizer = Some((asker(asked), resource(asked)));
        self
    }

    pub(super) fn with_variables(mut self, variables: &'v [(String, Expression)]) -> Self {
        self.variables = variables;
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
        let outcome = self.run(plan);
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

    fn compute(&self, name: &'v str, expression: &'v Expression) -> Result<Cel<'v>, EvalError> {
        let plan = expression.plan.as_ref().map_err(|why| EvalError::of(format!("composited variable {name:?} fails to compile: {why}")))?;
        let outcome = self.run(plan);
        self.spent.set(self.spent.get().saturating_add(outcome.cost));
        outcome.value.map_err(|error| EvalError::of(format!("composited variable {name:?} fails to evaluate: {error}")))
    }
}

impl<'v> Activation<'v> for Scope<'v> {
    fn find(&self, name: &str) -> Option<Cel<'v>> {
        let or_null = |value: Option<&'v Value>| Some(value.map_or(Cel::Null, Cel::json));
        match name {
            "object" => or_null(Some(self.subject.object)),
            "oldObject" => or_null(Some(self.subject.old)),
            "request" => or_null(Some(self.request)),
            "namespaceObject" => or_null(self.namespace),
            "params" => or_null(self.params),
            "authorizer" => self.authorizer.as_ref().map(|(own, _)| authorizer::authorizer(Arc::clone(own))),
            "authorizer.requestResource" => self.authorizer.as_ref().map(|(own, resource)| authorizer::request_resource(Arc::clone(own), resource.clone())),
            "variables" => Some(Cel::Lazy),
            _ => None,
        }
    }

    fn member(&self, _variable: &str, field: &str) -> Result<Option<Cel<'v>>, EvalError> {
        let Some((name, expression)) = self.variables.iter().find(|(name, _)| name == field) else { return Ok(None) };
        if let Some(known) = self.known.borrow().get(name.as_str()) {
            return known.clone().map(Some);
        }
        let value = self.compute(name, expression);
        self.known.borrow_mut().insert(name, value.clone());
        value.map(Some)
    }
}

/// `request`: the review without its objects.
pub(super) fn request(asked: &Attributes<'_>, version: &Version) -> Value {
    asked.request(version)
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
        };
        let (decision, reason) = self.authorizer.authorize(&asked);
        Verdict { allowed: decision == identity::Decision::Allow, reason, error: None }
    }
}
