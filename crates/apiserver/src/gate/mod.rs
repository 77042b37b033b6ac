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

use event_limits::Limit;
use policies::{Binding, Policy};
use source::Source;
use std::sync::Arc;
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
    /// Whether policies may think about writes of a resource for longer than a moment.
    pub(crate) fn is_heavy(&self, group: &str, resource: &str) -> bool {
        let concerned = |policy: &Arc<Policy>| {
            policy.heavy && policy.constraints.as_ref().is_some_and(|about| about.rules.iter().any(|named| named.rule.names(group, resource)))
        };
        self.validating_policies.all().iter().any(concerned) || self.mutating_policies.all().iter().any(concerned)
    }

    /// Over the objects of a store, with who the server is at its hooks.
    pub(crate) fn new(store: &Store, settings: &settings::AdmissionSettings) -> Gate {
        let hooks = |resource: &str, mutating| {
            let credentials = settings.credentials(mutating);
            Source::new(store, &format!("/registry/{resource}/"), move |value| webhooks::compile(value, mutating, &credentials))
        };
        Gate {
            mutating: hooks("mutatingwebhookconfigurations", true),
            validating: hooks("validatingwebhookconfigurations", false),
            mutating_policies: Source::new(store, "/registry/mutatingadmissionpolicies/", policies::policy),
            mutating_bindings: Source::new(store, "/registry/mutatingadmissionpolicybindings/", policies::binding),
            validating_policies: Source::new(store, "/registry/validatingadmissionpolicies/", policies::policy),
            validating_bindings: Source::new(store, "/registry/validatingadmissionpolicybindings/", policies::binding),
            event_limits: settings.event_limits(),
        }
    }
}
