//! MutatingAdmissionPolicy: what policies make of an object, one after the other, and again where it has changed after them.

use super::{
    super::{again::Again, attributes::Attributes, forbidden, keep_managers, readable_as_said, same_kind},
    Aim, Invocation, Misconfigured, conditions, find, in_time,
    merge::{self, Unfit},
    namespace_of,
    scope::{BUDGET, Scope, Subject, Told},
    value::Typed,
};
use crate::{
    metrics::{Step, Whose},
    own,
};
use machinery::{Value, status::Status};
use std::{borrow::Cow, time::Instant};

/// Changes the object.
pub(in crate::admission) async fn admit(asked: &Attributes<'_>, object: &mut Value, again: &mut Again) -> Result<(), Status> {
    let gate = asked.world.gate();
    if gate.mutating_policies.all().await.is_empty() {
        return Ok(());
    }
    let old = asked.old();
    let begun = asked.view(object).into_owned();
    let mut met = Box::pin(find(asked, Aim::Mutate, (&gate.mutating_policies, &gate.mutating_bindings), &Subject { object: &begun, old: &old })).await;
    let mut viewed = Cow::Borrowed(&begun);
    again.begin(object);
    let namespace = if met.invocations.is_empty() { None } else { namespace_of(asked)? };
    let mut wrong = std::mem::take(&mut met.misconfigured);
    let mut dirty = false;
    for invocation in &met.invocations {
        in_time(asked)?;
        let key = key(invocation);
        let version = &invocation.version;
        // The old object is what it was; the new one is converted again once a policy has changed it.
        let Some(turned) = met.turned(version) else { continue };
        let Ok((first, old)) = &turned.both else { continue };
        let before = match dirty {
            false => Cow::Borrowed(&**first),
            true => Cow::Owned(asked.to(version, viewed.clone().into_owned()).await.map_err(Status::internal)?),
        };
        let outcome = one(asked, invocation, (&before, old), turned.request(asked), namespace.as_ref(), again.leaves_out(&key))?;
        let Some((next, problems)) = outcome else { continue };
        wrong.extend(problems.into_iter().map(|why| Misconfigured { policy: invocation.policy.clone(), binding: Some(invocation.binding.clone()), why }));
        if next != *before {
            viewed = Cow::Owned(asked.from(version, next).await.map_err(|why| unconverted(&why))?);
            dirty = true;
            again.changed();
        }
        if invocation.policy.reinvoked {
            again.invoked(key);
        }
    }
    if dirty {
        // Whoever was asked after the last change, or made it, is asked once more as well.
        again.changed();
        asked.put(viewed.into_owned(), object);
    }
    again.end(object);
    let told: Vec<Misconfigured> = wrong.into_iter().filter(|wrong| !wrong.policy.ignore).collect();
    if told.is_empty() { Ok(()) } else { Err(refusal(asked, object, &told)) }
}

/// What tells one invocation from another.
fn key(invocation: &Invocation) -> String {
    let meta = |field: &str| invocation.param.as_ref().and_then(|param| param["metadata"][field].as_str()).unwrap_or_default().to_owned();
    format!("{}/{}/{}/{}", invocation.policy.name, invocation.binding.name, meta("namespace"), meta("name"))
}

/// An object that a policy has changed, and what went wrong meanwhile.
type Changed = (Value, Vec<String>);

/// The object after one policy; none if its conditions do not hold, or this round leaves it out: upstream looks at conditions first.
fn one(
    asked: &Attributes<'_>,
    invocation: &Invocation,
    (object, old): (&Value, &Value),
    request: Told<'_>,
    namespace: Option<&Value>,
    left_out: bool,
) -> Result<Option<Changed>, Status> {
    let (policy, version) = (&*invocation.policy, &invocation.version);
    {
        let subject = Subject { object, old };
        let scope =
            Scope::new(asked.write.cx, subject, request).with_params(invocation.param.as_deref()).with_variables(&policy.variables).with_authorizer(asked);
        // Of policies that change upstream says the other step here, too.
        let whose = Whose { kind: "policy", name: &policy.name, step: Step::Validate, operation: asked.operation() };
        match conditions::all(&scope, &policy.conditions, policy.ignore, (asked.world.metrics(), whose)) {
            Ok(true) if !left_out => {}
            Ok(_) => return Ok(None),
            Err(why) => return Ok(Some((object.clone(), vec![why]))),
        }
    }
    let mut current = object.clone();
    let mut problems = Vec::new();
    for mutation in &policy.mutations {
        // Nothing is there to be changed.
        if current.is_null() {
            break;
        }
        let Some(ty) = asked.ty(version) else {
            let kind = format!("{}, Kind={}", version.kind.api_version(), version.kind.kind);
            let why =
                format!("Resource kind {kind} not found. There can be a delay between when CustomResourceDefinitions are created and when they are available.");
            return Err(Status::service_unavailable(why));
        };
        let begun = Instant::now();
        let next = {
            let subject = Subject { object: &current, old };
            let scope = Scope::new(asked.write.cx, subject, request).with_params(invocation.param.as_deref()).with_variables(&policy.variables);
            let scope = scope.with_authorizer(asked).with_namespace(namespace);
            let mut budget = BUDGET;
            // What does not compile is told as it is.
            let compiled = mutation.expression.plan.as_ref().map(drop).map_err(Clone::clone);
            let value = compiled.and_then(|()| scope.evaluate(&mutation.expression, &mut budget).map_err(|spent| spent.0)).and_then(|value| value);
            let typed = Typed { request: request.known(), namespace };
            value.map_err(Unfit::Policy).and_then(|value| merge::mutated(mutation, &value, (ty, version.is_described()), &current, typed))
        };
        let next = next.and_then(|mut next| {
            // A custom object is converted by what it says when all is done.
            if asked.row(version).is_some_and(|row| row.custom.is_none()) {
                readable_as_said(&current, &next).map_err(|why| Unfit::Write(Status::internal(why)))?;
                same_kind(&current, &mut next).map_err(|why| Unfit::Write(unconverted(&why)))?;
            }
            Ok(next)
        });
        let failed = next.as_ref().err().map(|unfit| match unfit {
            Unfit::Policy(why) => why.as_str(),
            Unfit::Write(status) => status.message.as_str(),
        });
        asked.world.metrics().admission().mutation(&policy.name, &invocation.binding.name, failed, begun.elapsed());
        match next {
            Ok(mut next) => {
                keep_managers(asked.write, &current, &mut next);
                if let Some(row) = asked.row(version) {
                    own::default(row, &mut next);
                }
                current = next;
            }
            Err(Unfit::Policy(why)) => problems.push(why),
            Err(Unfit::Write(status)) => return Err(status),
        }
    }
    Ok(Some((current, problems)))
}

/// An object that is of no kind any more that could be stored.
fn unconverted(why: &str) -> Status {
    Status::internal(format!("failed to convert object: {why}"))
}

fn refusal(asked: &Attributes<'_>, object: &Value, wrong: &[Misconfigured]) -> Status {
    let message = |wrong: &Misconfigured| match &wrong.binding {
        Some(binding) => format!("policy '{}' with binding '{}' denied request: {}", wrong.policy.name, binding.name, wrong.why),
        None => format!("policy {:?} denied request: {}", wrong.policy.name, wrong.why),
    };
    let mut status = forbidden(asked.write, object, "admission request denied by policy");
    if let Some(first) = wrong.first() {
        status.message = message(first);
        if !first.why.starts_with("failed to configure ") {
            status.reason = "Invalid".into();
        }
    }
    wrong.iter().fold(status, |status, wrong| status.cause("", message(wrong), ""))
}
