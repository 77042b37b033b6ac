//! Every namespace has a ServiceAccount `default`.
//!
//! What holds it: its deletion is heard and answered by a new one (of another UID, so that tokens of the old one are void), and
//! every change of a namespace looks whether it is there. What else stands in the account is its owner's: nobody takes it back.

use std::sync::Arc;

use client::{Client, Delta, Informer, Meta, WorkQueue};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};

use crate::meta::new_meta;
use crate::work::{Controller, Cx, Step};

const NAME: &str = "default";

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let client = cx.client("service-account-controller");
    let controller = Arc::new(Accounts { client, namespaces: cx.informers.informer(), accounts: cx.informers.informer() });
    cx.setup(&controller)
        .on(&controller.namespaces, |_, queue, change| heard_namespace(queue, change))
        .on(&controller.accounts, |_, queue, change| match change {
            Delta::Deleted(account) if account.name() == NAME => queue.add(account.namespace().to_owned()),
            _ => {}
        })
        .work(5)
        .await;
}

struct Accounts {
    client: Client,
    namespaces: Informer<Namespace>,
    accounts: Informer<ServiceAccount>,
}

impl Controller for Accounts {
    const QUEUE: &'static str = "serviceaccount";
    type Key = String;

    async fn reconcile(&self, namespace: &String) -> Step {
        let active = self.namespaces.get("", namespace).is_some_and(|ns| is_active(&ns));
        if !active || self.accounts.get(namespace, NAME).is_some() {
            return Ok(None);
        }
        let account = ServiceAccount { metadata: new_meta(namespace, NAME), ..ServiceAccount::default() };
        match self.client.namespaced::<ServiceAccount>(namespace).create(&account).await {
            Err(error) if !error.is_already_exists() && !error.is_namespace_terminating() => Err(error),
            _ => Ok(None),
        }
    }
}

/// A namespace that is there is looked at.
pub(crate) fn heard_namespace(queue: &WorkQueue<String>, change: &Delta<Namespace>) {
    if let Delta::Added(ns) | Delta::Updated { new: ns, .. } = change {
        queue.add(ns.name().to_owned());
    }
}

/// Whether a namespace takes new objects.
pub(crate) fn is_active(ns: &Namespace) -> bool {
    !ns.is_deleting() && ns.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Terminating")
}
