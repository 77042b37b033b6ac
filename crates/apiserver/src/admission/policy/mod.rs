//! ValidatingAdmissionPolicy and MutatingAdmissionPolicy: rules of the cluster's own, in expressions (upstream's
//! `admission/plugin/policy`).
//!
//! A policy counts where a binding says so; both say what they are about ([`matching`]), and a binding from which objects its
//! parameters come ([`params`]), of which whoever writes it must have the right to read them ([`rights`]). What an expression reads and what it may cost stands in [`scope`]. Expressions have no side
//! effects and a budget, so they are evaluated on the spot; what they look at is converted before, where a webhook does that.

mod conditions;
mod literal;
mod matching;
mod merge;
mod mutating;
mod params;
mod rights;
mod scope;
mod validating;
mod value;

pub(super) use conditions::meets;
pub(super) use mutating::admit;
pub(super) use rights::ParamRights;
pub(super) use validating::validate;

use super::attributes::{Attributes, Version};
use crate::gate::{
    policies::{Binding, Policy, with_bindings},
    source::Source,
};
use machinery::{Value, status::Status};
use scope::{Subject, Told};
use std::{
    borrow::Cow,
    sync::{Arc, OnceLock},
};

/// A policy that a write concerns by one of its bindings, with one of the objects that are its parameters.
struct Invocation {
    policy: Arc<Policy>,
    binding: Arc<Binding>,
    version: Arc<Version>,
    /// None: it has none.
    param: Option<Arc<Value>>,
}

/// The object and the one before it in a version that policies ask for, or why they are not had; and what is told of the request then.
struct Turned<'s> {
    version: Arc<Version>,
    both: Result<(Cow<'s, Value>, Cow<'s, Value>), String>,
    request: OnceLock<Value>,
}

impl Turned<'_> {
    /// `request` in expressions.
    fn request<'t>(&'t self, asked: &'t Attributes<'t>) -> Told<'t> {
        Told::of(asked, &self.version, &self.request)
    }
}

/// Why a policy could not be looked at.
struct Misconfigured {
    policy: Arc<Policy>,
    binding: Option<Arc<Binding>>,
    why: String,
}

impl Misconfigured {
    fn new(policy: &Arc<Policy>, binding: Option<&Arc<Binding>>, why: &str) -> Misconfigured {
        let why = format!("failed to configure {}: {why}", if binding.is_some() { "binding" } else { "policy" });
        Misconfigured { policy: Arc::clone(policy), binding: binding.cloned(), why }
    }
}

/// What a write meets.
#[derive(Default)]
struct Met<'s> {
    invocations: Vec<Invocation>,
    misconfigured: Vec<Misconfigured>,
    versions: Vec<Turned<'s>>,
}

impl<'s> Met<'s> {
    /// The object in a version that was asked for.
    fn turned(&self, version: &Arc<Version>) -> Option<&Turned<'s>> {
        self.versions.iter().find(|turned| Arc::ptr_eq(&turned.version, version) || turned.version.is_same(version))
    }

    async fn convert(&mut self, asked: &Attributes<'_>, version: &Arc<Version>, subject: &Subject<'s>) -> Result<(), String> {
        if self.turned(version).is_none() {
            let both = turn(asked, version, subject).await;
            self.versions.push(Turned { version: Arc::clone(version), both, request: OnceLock::new() });
        }
        match self.turned(version).map(|turned| &turned.both) {
            Some(Err(why)) => Err(why.clone()),
            _ => Ok(()),
        }
    }
}

async fn turn<'s>(asked: &Attributes<'_>, version: &Version, subject: &Subject<'s>) -> Result<(Cow<'s, Value>, Cow<'s, Value>), String> {
    if asked.is_as_asked(version) {
        return Ok((Cow::Borrowed(subject.object), Cow::Borrowed(subject.old)));
    }
    // In upstream's order: where both fail, the old one is told of.
    let (old, object) = (asked.to(version, subject.old.clone()).await?, asked.to(version, subject.object.clone()).await?);
    Ok((Cow::Owned(object), Cow::Owned(old)))
}

/// What policies do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aim {
    Validate,
    Mutate,
}

/// The policies that a write concerns, in the order of their names and those of their bindings.
async fn find<'s>(asked: &Attributes<'_>, aim: Aim, (policies, bindings): (&Source<Policy>, &Source<Binding>), subject: &Subject<'s>) -> Met<'s> {
    let mut met = Met::default();
    let all = asked.askers(policies).await;
    if all.is_empty() {
        return met;
    }
    let bound = asked.askers(bindings).await;
    let mut own = None;
    for (policy, theirs) in with_bindings(&all, &bound) {
        let version = match matching::of_policy(asked, policy, subject) {
            Ok(Some(fits)) => fits.version(asked, &mut own),
            Ok(None) => continue,
            Err(why) => {
                met.misconfigured.push(Misconfigured::new(policy, None, &why));
                continue;
            }
        };
        if let Err(why) = params::known(asked.world, policy) {
            met.misconfigured.push(Misconfigured::new(policy, None, &why));
            continue;
        }
        for binding in theirs {
            let taken = match matching::of_binding(asked, binding, subject) {
                // Those that mutate are converted for before parameters are looked for, and it is the policy that is told of.
                Ok(true) if aim == Aim::Mutate => match met.convert(asked, &version, subject).await {
                    Ok(()) => params::of(asked, policy, binding).await,
                    Err(why) => {
                        met.misconfigured.push(Misconfigured::new(policy, None, &why));
                        continue;
                    }
                },
                Ok(true) => match params::of(asked, policy, binding).await {
                    Ok(params) if !params.is_empty() => {
                        let converted = met.convert(asked, &version, subject).await;
                        converted.map(|()| params).map_err(|why| format!("failed to convert object version: {why}"))
                    }
                    other => other,
                },
                Ok(false) => Ok(Vec::new()),
                Err(why) => Err(why),
            };
            match taken {
                Ok(params) => met.invocations.extend(params.into_iter().map(|param| Invocation {
                    policy: Arc::clone(policy),
                    binding: Arc::clone(binding),
                    version: Arc::clone(&version),
                    param,
                })),
                Err(why) => met.misconfigured.push(Misconfigured::new(policy, Some(binding), &why)),
            }
        }
    }
    met
}

/// Expressions wait for nobody, so the end of a request's time is looked for between them.
fn in_time(asked: &Attributes<'_>) -> Result<(), Status> {
    match asked.write.cx.time_left().is_zero() {
        true => Err(Status::timeout("Timeout: request did not complete within requested timeout")),
        false => Ok(()),
    }
}

/// The namespace that expressions see; none for what lies in no namespace, and for a Namespace.
fn namespace_of(asked: &Attributes<'_>) -> Result<Option<Value>, Status> {
    if asked.is_namespace() || asked.write.namespace.is_empty() {
        return Ok(None);
    }
    let namespace = asked.world.read(("", "v1", "namespaces"), "", asked.write.namespace)?;
    let mut seen = (*namespace).clone();
    if let Some(metadata) = seen["metadata"].as_object_mut() {
        for hidden in ["managedFields", "ownerReferences", "selfLink"] {
            metadata.remove(hidden);
        }
    }
    Ok(Some(seen))
}
