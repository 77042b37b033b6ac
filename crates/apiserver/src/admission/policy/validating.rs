//! ValidatingAdmissionPolicy: what its validations say of a write, and what its bindings make of that.

use super::{
    super::{attributes::Attributes, forbidden},
    Aim, Invocation, conditions, find, in_time, namespace_of,
    scope::{BUDGET, Scope, Subject},
};
use crate::{
    gate::policies::{Binding, Policy, Validation},
    metrics::{Step, Whose, error_type},
};
use kubecel::Value as Cel;
use machinery::{Value, status::Status};
use std::time::{Duration, Instant};

/// After so much cost whoever else waits for this thread has his turn: each of the policies takes a moment, all of them may not.
const TURN_COST: u64 = 20_000;
/// Bytes of a message that an expression gives.
const MESSAGE_MAX: usize = 5 * 1024;

/// A validation that failed.
struct Denial {
    message: String,
    reason: String,
    took: Duration,
}

impl Denial {
    /// What could not be evaluated.
    fn error(message: String, took: Duration) -> Denial {
        Denial { message, reason: String::new(), took }
    }
}

/// Refuses what a policy refuses; `object` is as it would be stored, null for a deletion.
pub(in crate::admission) async fn validate(asked: &Attributes<'_>, object: &Value) -> Result<(), Status> {
    let gate = asked.world.gate();
    if gate.validating_policies.all().await.is_empty() {
        return Ok(());
    }
    let (viewed, old) = (asked.view(object), asked.old());
    let met = Box::pin(find(asked, Aim::Validate, (&gate.validating_policies, &gate.validating_bindings), &Subject { object: &viewed, old: &old })).await;
    let mut denied = Vec::new();
    for wrong in met.misconfigured.iter().filter(|wrong| !wrong.policy.ignore) {
        denied.push((wrong.policy.name.clone(), wrong.binding.as_ref().map(|binding| binding.name.clone()), Denial::error(wrong.why.clone(), Duration::ZERO)));
    }
    let namespace = if met.invocations.is_empty() { None } else { namespace_of(asked)? };
    let mut spent = 0;
    for invocation in &met.invocations {
        if spent > TURN_COST {
            spent = 0;
            tokio::task::yield_now().await;
        }
        in_time(asked)?;
        // Who is not converted is among the misconfigured.
        let Some(turned) = met.turned(&invocation.version) else { continue };
        let Ok((object, old)) = &turned.both else { continue };
        let base = || Scope::new(asked.write.cx, Subject { object, old }, turned.request(asked)).with_params(invocation.param.as_deref());
        let outcome = run(asked, invocation, namespace.as_ref(), base);
        spent += outcome.spent;
        let binding = &invocation.binding;
        count(asked, &invocation.policy, binding, &outcome);
        for denial in outcome.denials {
            if binding.warns {
                let text =
                    format!("Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}", invocation.policy.name, binding.name, denial.message);
                asked.write.cx.warn(text);
            }
            if binding.denies {
                denied.push((invocation.policy.name.clone(), Some(binding.name.clone()), denial));
            }
        }
        denied.extend(outcome.unaudited.into_iter().map(|denial| (invocation.policy.name.clone(), Some(binding.name.clone()), denial)));
    }
    denied.into_iter().next().map_or(Ok(()), |first| Err(refusal(asked, &viewed, first)))
}

/// Counts what did not hold, once for each thing that the binding makes of it.
fn count(asked: &Attributes<'_>, policy: &Policy, binding: &Binding, outcome: &Outcome) {
    let counts = asked.world.metrics().admission();
    let one = |denial: &Denial, action| counts.check(&policy.name, &binding.name, action, error_type(&denial.message), denial.took);
    for denial in &outcome.denials {
        for (acts, action) in [(binding.denies, "deny"), (binding.audits, "audit"), (binding.warns, "warn")] {
            if acts {
                one(denial, action);
            }
        }
    }
    outcome.ignored.iter().for_each(|denial| one(denial, "allow"));
    outcome.unaudited.iter().for_each(|denial| one(denial, "deny"));
}

fn refusal(asked: &Attributes<'_>, object: &Value, (policy, binding, denial): (String, Option<String>, Denial)) -> Status {
    let by = binding.map(|binding| format!(" with binding '{binding}'")).unwrap_or_default();
    let message = format!("ValidatingAdmissionPolicy '{policy}'{by} denied request: {}", denial.message);
    let mut status = forbidden(asked.write, object, &message);
    let (code, reason) = match denial.reason.as_str() {
        "Forbidden" => (403, "Forbidden"),
        "Unauthorized" => (401, "Unauthorized"),
        "RequestEntityTooLarge" => (413, "RequestEntityTooLarge"),
        "" => (422, "Invalid"),
        other => (422, other),
    };
    status.code = code;
    status.reason = reason.to_owned();
    status.cause("", message, "")
}

/// What a policy says.
#[derive(Default)]
struct Outcome {
    denials: Vec<Denial>,
    /// What could not be evaluated, which the failure policy ignores.
    ignored: Vec<Denial>,
    /// Audit annotations that cannot be evaluated: they deny whatever the actions are.
    unaudited: Vec<Denial>,
    /// What its expressions have cost.
    spent: u64,
}

fn run<'v>(asked: &'v Attributes<'v>, invocation: &'v Invocation, namespace: Option<&'v Value>, base: impl Fn() -> Scope<'v>) -> Outcome {
    let policy = &*invocation.policy;
    let failed = |why: String| {
        let failed = vec![Denial::error(why, Duration::ZERO)];
        let (denials, ignored) = if policy.ignore { (Vec::new(), failed) } else { (failed, Vec::new()) };
        Outcome { denials, ignored, unaudited: Vec::new(), spent: BUDGET }
    };
    let scope = || base().with_variables(&policy.variables);
    // A condition sees no namespace.
    if !policy.conditions.is_empty() {
        let whose = Whose { kind: "policy", name: &policy.name, step: Step::Validate, operation: asked.operation() };
        match conditions::all(&scope().with_authorizer(asked), &policy.conditions, policy.ignore, (asked.world.metrics(), whose)) {
            Ok(true) => {}
            Ok(false) => return Outcome::default(),
            Err(why) => return failed(why),
        }
    }
    let mut budget = BUDGET;
    let main = scope().with_namespace(namespace).with_authorizer(asked);
    let mut results = Vec::new();
    for validation in &policy.validations {
        let begun = Instant::now();
        match main.evaluate(&validation.expression, &mut budget) {
            Ok(result) => results.push((result, begun.elapsed())),
            Err(spent) => return failed(spent.0),
        }
    }
    let messages = messages(policy, || scope().with_namespace(namespace), &mut budget);
    let (mut denials, mut ignored) = (Vec::new(), Vec::new());
    for (at, (validation, (result, took))) in policy.validations.iter().zip(results).enumerate() {
        let why = match (result, &messages) {
            (Err(why), _) => why,
            (Ok(_), Err(why)) => format!("failed messageExpression: {why}"),
            (Ok(Cel::Bool(true)), _) => continue,
            (Ok(_), Ok(messages)) => {
                let message = message(validation, messages.get(at).and_then(Option::as_deref));
                denials.push(Denial { message, reason: validation.reason.clone(), took });
                continue;
            }
        };
        let failures = if policy.ignore { &mut ignored } else { &mut denials };
        failures.push(Denial::error(why, took));
    }
    match audits(policy, || scope().with_namespace(namespace)) {
        Ok(unaudited) => Outcome { denials, ignored, unaudited, spent: BUDGET - budget },
        // Upstream forgets what the validations said then.
        Err(why) => failed(why),
    }
}

/// The texts that message expressions give; none where there is none or it failed. Most policies have none at all.
fn messages<'v>(policy: &'v Policy, scope: impl FnOnce() -> Scope<'v>, budget: &mut u64) -> Result<Vec<Option<String>>, String> {
    if policy.validations.iter().all(|validation| validation.message_expression.is_none()) {
        return Ok(Vec::new());
    }
    let scope = scope();
    let one = |validation: &'v Validation, budget: &mut u64| {
        let Some(expression) = &validation.message_expression else { return Ok(None) };
        let value = scope.evaluate(expression, budget).map_err(|spent| spent.0)?;
        Ok(value.ok().and_then(|value| value.as_str().map(str::to_owned)))
    };
    policy.validations.iter().map(|validation| one(validation, budget)).collect()
}

/// The message of a validation that failed.
fn message(validation: &Validation, computed: Option<&str>) -> String {
    let computed = computed.map(str::trim).filter(|text| text.len() <= MESSAGE_MAX && !text.contains('\n'));
    let own = [computed.unwrap_or_default(), validation.message.trim()].into_iter().find(|text| !text.is_empty());
    own.map_or_else(|| format!("failed expression: {}", validation.expression.text.trim()), str::to_owned)
}

/// Why audit annotations have no value: nobody writes an audit log here, but who counts on one is told that it would lack them.
///
/// # Errors
/// Their budget is spent.
fn audits<'v>(policy: &'v Policy, scope: impl FnOnce() -> Scope<'v>) -> Result<Vec<Denial>, String> {
    if policy.audits.is_empty() {
        return Ok(Vec::new());
    }
    let scope = scope();
    let mut budget = BUDGET;
    let mut out = Vec::new();
    for audit in &policy.audits {
        let begun = Instant::now();
        let value = scope.evaluate(audit, &mut budget).map_err(|spent| spent.0)?;
        out.extend(value.err().map(|why| Denial::error(why, begun.elapsed())));
    }
    Ok(if policy.ignore { Vec::new() } else { out })
}
