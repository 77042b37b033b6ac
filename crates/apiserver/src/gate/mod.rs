//! What admission is told, below the path that uses it: the plug-ins that are on with their settings, and the webhooks that are
//! registered, compiled once for each state of their configuration.
//!
//! Nothing runs to keep this up to date. Whoever asks compares the revision of what is registered with the one that was compiled
//! last ([`source::Source`]), so a configuration counts for the very next request, and a request that meets none pays one look
//! at a number. What files say ([`manifests`]) is looked at every ten seconds.

pub(crate) mod event_limits;
mod flow_counts;
pub(crate) mod flows;
pub(crate) mod image_reviews;
pub(crate) mod manifests;
pub(crate) mod order;
pub(crate) mod policies;
pub(crate) mod rules;
pub(crate) mod settings;
pub(crate) mod source;
pub(crate) mod webhooks;

use crate::hooks::Pools;
use event_limits::Limit;
use flows::Flows;
use manifests::{Found, Manifests, Plugin};
use parking_lot::Mutex;
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
    pub(crate) flows: Flows,
    /// The directories of manifests, and what each said last.
    manifests: Mutex<Vec<Manifests>>,
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

    /// Whether webhooks or policies may refuse to have objects of a resource deleted.
    pub(crate) async fn hears_deletions(&self, resource: &str) -> bool {
        let (policies, bindings) = (self.validating_policies.all().await, self.validating_bindings.all().await);
        let by_policy = policies::with_bindings(&policies, &bindings)
            .any(|(policy, _)| policy.constraints.as_ref().is_some_and(|about| about.rules.iter().any(|named| named.rule.hears_deletions(resource))));
        let hears = |hook: &Webhook| hook.rules.iter().any(|rule| rule.hears_deletions(resource));
        by_policy || self.validating.all().await.iter().any(|hook| hears(hook)) || self.mutating.all().await.iter().any(|hook| hears(hook))
    }

    /// Over the objects of a store, with who the server is at its hooks.
    pub(crate) fn new(store: &Store, settings: &settings::AdmissionSettings) -> Gate {
        let hooks = |resource: &str, mutating| {
            let (credentials, pools) = (settings.credentials(mutating), Pools::default());
            Source::new(store, &format!("/registry/{resource}/"), move |value| webhooks::compile(value, mutating, &credentials, &pools))
        };
        let gate = Gate {
            mutating: hooks("mutatingwebhookconfigurations", true),
            validating: hooks("validatingwebhookconfigurations", false),
            mutating_policies: Source::arranged(store, "/registry/mutatingadmissionpolicies/", policies::policy, policies::by_place),
            mutating_bindings: Source::arranged(store, "/registry/mutatingadmissionpolicybindings/", policies::binding, policies::by_policy),
            validating_policies: Source::arranged(store, "/registry/validatingadmissionpolicies/", policies::policy, policies::by_place),
            validating_bindings: Source::arranged(store, "/registry/validatingadmissionpolicybindings/", policies::binding, policies::by_policy),
            event_limits: settings.event_limits(),
            flows: Flows::new(store),
            manifests: Mutex::new(settings.manifests.clone()),
        };
        settings.manifests.iter().for_each(|manifests| gate.give(manifests.plugin, &manifests.found));
        gate
    }

    fn give(&self, plugin: Plugin, found: &Found) {
        let owners = found.owners.clone();
        match plugin {
            Plugin::ValidatingWebhooks => self.validating.give(owners),
            Plugin::MutatingWebhooks => self.mutating.give(owners),
            Plugin::ValidatingPolicies => {
                self.validating_bindings.give(found.bindings.clone());
                self.validating_policies.give(owners);
            }
            Plugin::MutatingPolicies => {
                self.mutating_bindings.give(found.bindings.clone());
                self.mutating_policies.give(owners);
            }
        }
    }

    /// What is told of the manifests at `/metrics`.
    pub(crate) fn manifest_metrics(&self) -> String {
        manifests::metrics(&self.manifests.lock())
    }

    /// Whether files say anything of admission.
    pub(crate) fn has_manifests(&self) -> bool {
        !self.manifests.lock().is_empty()
    }

    /// Looks at the directories of manifests again: what has changed counts, unless it is wrong.
    pub(crate) fn reread(&self) {
        let all = self.manifests.lock().clone();
        for (at, mut manifests) in all.into_iter().enumerate() {
            match manifests.reread() {
                Ok(true) => {
                    self.give(manifests.plugin, &manifests.found);
                    tracing::info!(plugin = ?manifests.plugin, "reloaded manifest config");
                }
                Ok(false) => {}
                Err(why) => tracing::error!(plugin = ?manifests.plugin, %why, "reloading manifest config"),
            }
            // Held for no longer: whoever reads metrics does not wait for files.
            self.manifests.lock()[at] = manifests;
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
