//! What admission is told, below the path that uses it: the plug-ins that are on with their settings, and the webhooks that are
//! registered, compiled once for each state of their configuration.
//!
//! Nothing runs to keep this up to date. Whoever asks compares the revision of what is registered with the one that was compiled
//! last ([`source::Source`]), so a configuration counts for the very next request, and a request that meets none pays one look
//! at a number.

pub(crate) mod event_limits;
pub(crate) mod image_reviews;
pub(crate) mod order;
pub(crate) mod policies;
pub(crate) mod rules;
pub(crate) mod settings;
pub(crate) mod source;
pub(crate) mod webhooks;

use crate::hooks::Pools;
use event_limits::Limit;
use policies::{Binding, Policy};
use source::Source;
use store::Store;
use webhooks::Webhook;

/// What is registered for admission.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) mutating: Source<Webhook>,
    pub(crate) validating: Source<Webhook>,
    pub(crate) mutating_policies: Source<Policy>,
    pub(crate) mutating_bindings: Source<Binding>,
    pub(crate) validating_policies: Source<Policy>,
    pub(crate) validating_bindings: Source<Binding>,
    pub(crate) event_limits: Vec<Limit>,
}

impl Gate {
    /// Whether policies, or the conditions of webhooks, may be thought about for longer than a moment when an object of a resource is
    /// written that is small, or of which that is not known.
    pub(crate) async fn is_heavy(&self, resource: &str, small: bool) -> bool {
        are_heavy(&self.validating_policies, &self.validating_bindings, resource, small).await
            || are_heavy(&self.mutating_policies, &self.mutating_bindings, resource, small).await
            || ask_at_length(&self.mutating, resource, small).await
            || ask_at_length(&self.validating, resource, small).await
    }

    /// Over the objects of a store, with who the server is at its hooks.
    pub(crate) fn new(store: &Store, settings: &settings::AdmissionSettings) -> Gate {
        let hooks = |resource: &str, mutating| {
            let (credentials, pools) = (settings.credentials(mutating), Pools::default());
            Source::new(store, &format!("/registry/{resource}/"), move |value| webhooks::compile(value, mutating, &credentials, &pools))
        };
        Gate {
            mutating: hooks("mutatingwebhookconfigurations", true),
            validating: hooks("validatingwebhookconfigurations", false),
            mutating_policies: Source::new(store, "/registry/mutatingadmissionpolicies/", policies::policy),
            mutating_bindings: Source::arranged(store, "/registry/mutatingadmissionpolicybindings/", policies::binding, policies::by_policy),
            validating_policies: Source::new(store, "/registry/validatingadmissionpolicies/", policies::policy),
            validating_bindings: Source::arranged(store, "/registry/validatingadmissionpolicybindings/", policies::binding, policies::by_policy),
            event_limits: settings.event_limits(),
        }
    }
}

async fn are_heavy(policies: &Source<Policy>, bindings: &Source<Binding>, resource: &str, small: bool) -> bool {
    let (policies, bindings) = (policies.all().await, bindings.all().await);
    policies::with_bindings(&policies, &bindings).any(|(policy, bindings)| {
        let concerned = || policy.constraints.as_ref().is_some_and(|about| about.rules.iter().any(|named| named.rule.names(resource)));
        // Once for each of its parameters, which may be many.
        let many = || bindings.iter().any(|binding| binding.selects());
        (policy.heavy.counts(small) || many()) && concerned()
    })
}

async fn ask_at_length(hooks: &Source<Webhook>, resource: &str, small: bool) -> bool {
    hooks.all().await.iter().any(|hook| hook.heavy.counts(small) && hook.rules.iter().any(|rule| rule.names(resource)))
}
