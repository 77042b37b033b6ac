//! Namespaces that are being deleted: everything in them goes, the pods first, then the namespace itself.
//!
//! Everything is what discovery knows, custom resources as well. What cannot be deleted or does not go (finalizers) is told
//! in the namespace's conditions. In place of the original's resync of five minutes a namespace that is not empty yet is looked
//! at until it is.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use client::{Backoff, Client, DeleteParams, Delta, Informer, List, ListParams, Meta, PartialObject};
use futures_util::{FutureExt as _, StreamExt as _, stream};
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus, Pod};
use parking_lot::Mutex;

use crate::discovery::{self, Served};
use crate::meta::{between, secs, time};
use crate::work::{Controller, Cx, Step};

/// The finalizer in a namespace's spec that is this controller's.
const FINALIZER: &str = "kubernetes";
const WORKERS: usize = 10;
/// Resources whose objects are deleted at the same time: the objects of each are deleted one after the other, which keeps one core busy.
const SIDE_BY_SIDE: usize = 4;
/// Between two looks at content that does not tell of its end: doubling, at most upstream's estimate for finalizers.
const LOOK_MIN: Duration = Duration::from_millis(100);
const LOOK_MAX: Duration = Duration::from_secs(8);

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let client = cx.client("namespace-controller");
    let controller = Arc::new(Namespaces { client, namespaces: cx.informers.informer(), looks: Mutex::default() });
    cx.setup(&controller)
        .on(&controller.namespaces, |_, queue, change| match change {
            Delta::Added(ns) | Delta::Updated { new: ns, .. } if ns.is_deleting() => queue.add(ns.name().to_owned()),
            _ => {}
        })
        .on(&cx.informers.informer::<Pod>(), |c, queue, change| {
            if let Delta::Deleted(pod) = change
                && c.namespaces.get("", pod.namespace()).is_some_and(|ns| ns.is_deleting())
            {
                queue.add(pod.namespace().to_owned());
            }
        })
        .work(WORKERS)
        .await;
}

struct Namespaces {
    client: Client,
    namespaces: Informer<Namespace>,
    /// How often each namespace was looked at in vain.
    looks: Mutex<HashMap<String, u32>>,
}

/// What one pass found.
#[derive(Debug, Default)]
struct Found {
    /// Why not all is known that may be in it.
    discovery: Option<String>,
    failures: Vec<String>,
    /// Objects that are still there, by `RESOURCE.GROUP`.
    remaining: BTreeMap<String, usize>,
    finalizers: BTreeMap<String, usize>,
    /// Pods are waited for: the rest was not looked at.
    awaits_pods: bool,
}

impl Controller for Namespaces {
    const QUEUE: &'static str = "namespace";
    /// `nsControllerRateLimiter`: it is tried again at least once a minute.
    const BACKOFF: Backoff = Backoff { base: Duration::from_millis(5), max: Duration::from_secs(60) };
    type Key = String;

    async fn reconcile(&self, name: &String) -> Step {
        let Some(seen) = self.namespaces.get("", name).filter(|ns| ns.is_deleting()) else {
            self.looks.lock().remove(name);
            return Ok(None);
        };
        // As it is now: a finalize that this memory does not know of yet must not be taken back.
        let Some(mut ns) = self.client.all::<Namespace>().get_opt(name).await?.filter(|ns| ns.uid() == seen.uid() && ns.is_deleting()) else {
            return Ok(None);
        };
        if ns.spec.as_ref().and_then(|s| s.finalizers.as_ref()).is_none_or(Vec::is_empty) {
            return Ok(None);
        }
        if ns.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Terminating") {
            ns.status.get_or_insert_default().phase = Some("Terminating".to_owned());
            ns = self.client.all::<Namespace>().replace_status(name, &ns).await?;
        }
        let found = self.delete_content(name, between(time(ns.metadata.deletion_timestamp.as_ref()), client::timestamp())).await;
        let mut status = ns.status.clone().unwrap_or_default();
        if found.note(&mut status) {
            ns.status = Some(status);
            ns = self.client.all::<Namespace>().replace_status(name, &ns).await?;
        }
        if !found.is_empty() {
            return Ok(Some(self.wait(name)));
        }
        self.looks.lock().remove(name);
        if let Some(finalizers) = ns.spec.as_mut().and_then(|s| s.finalizers.as_mut()) {
            finalizers.retain(|f| f != FINALIZER);
        }
        match self.client.all::<Namespace>().replace_subresource(name, "finalize", &ns).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(None),
        }
    }
}

impl Namespaces {
    fn wait(&self, name: &str) -> Duration {
        let mut looks = self.looks.lock();
        let times = looks.entry(name.to_owned()).or_insert(0);
        let wait = LOOK_MIN.saturating_mul(2u32.saturating_pow(*times)).min(LOOK_MAX);
        *times += 1;
        wait
    }

    /// `since`: how long the namespace has been going.
    async fn delete_content(&self, namespace: &str, since: Duration) -> Found {
        let mut found = Found::default();
        let resources = match discovery::resources(&self.client).await {
            Ok((all, stale)) => {
                found.discovery = undiscovered(stale);
                all
            }
            Err(error) => {
                found.discovery = Some(error.to_string());
                return found;
            }
        };
        let (pods, others): (Vec<_>, Vec<_>) =
            resources.iter().filter(|r| r.namespaced && r.can("delete") && r.can("list")).partition(|r| r.group.is_empty() && r.resource == "pods");
        // The pods first, so that none runs without its Secrets or network policies.
        for resource in pods {
            found.add(self.delete_all(resource, namespace, since).await);
        }
        // Only pods that are there are waited for. That their deletion was refused (by a webhook) is told, and keeps nothing else here.
        found.awaits_pods = !found.remaining.is_empty();
        if !found.awaits_pods {
            // What is told of them keeps discovery's order.
            let others: Vec<_> = others.into_iter().map(|resource| self.delete_all(resource, namespace, since).boxed()).collect();
            let mut all = stream::iter(others).buffered(SIDE_BY_SIDE);
            while let Some(one) = all.next().await {
                found.add(one);
            }
        }
        found
    }

    /// Deletes the objects of a resource; what is left.
    async fn delete_all(&self, resource: &Served, namespace: &str, since: Duration) -> Found {
        let mut found = Found::default();
        if let Err(error) = self.try_delete_all(resource, namespace, since, &mut found).await
            && !error.is_not_found()
            && error.status().is_none_or(|s| s.code != 405)
        {
            found.failures.push(error.to_string());
        }
        found
    }

    async fn try_delete_all(&self, resource: &Served, namespace: &str, since: Duration, found: &mut Found) -> client::Result<()> {
        let api = self.client.at::<PartialObject>(resource.path_in(namespace));
        // Of most resources there is nothing, which one that is asked for tells as well as all.
        let first = ListParams { limit: 1, ..ListParams::default() };
        if is_all_of_nothing(&api.list(&first).await?) {
            return Ok(());
        }
        if resource.can("deletecollection") {
            api.delete_collection(&DeleteParams::background(), &ListParams::default()).await?;
        } else {
            for object in api.list(&ListParams::default()).await?.items() {
                match api.delete(object.name(), &DeleteParams::background()).await {
                    Err(error) if !error.is_not_found() => return Err(error),
                    _ => {}
                }
            }
        }
        let left = api.list(&ListParams::default()).await?;
        if !left.items().is_empty() {
            found.remaining.insert(format!("{}.{}", resource.resource, resource.group), left.items().len());
        }
        for finalizer in left.items().iter().flat_map(|o| o.metadata.finalizers.iter().flatten()) {
            *found.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
        if !is_expected(left.items(), since) {
            let Served { group, version, resource, .. } = resource;
            found.failures.push(format!("unexpected items still remain in namespace: {namespace} for gvr: {group}/{version}, Resource={resource}"));
        }
        Ok(())
    }
}

impl Found {
    fn add(&mut self, more: Self) {
        self.failures.extend(more.failures);
        self.remaining.extend(more.remaining);
        more.finalizers.into_iter().for_each(|(finalizer, count)| *self.finalizers.entry(finalizer).or_default() += count);
    }

    fn is_empty(&self) -> bool {
        self.discovery.is_none() && self.failures.is_empty() && self.remaining.is_empty()
    }

    /// Writes what was found into the conditions; whether they changed.
    fn note(&self, status: &mut NamespaceStatus) -> bool {
        let counted = |head: &str, of: &BTreeMap<String, usize>, mid: &str| {
            let parts: Vec<String> = of.iter().map(|(what, n)| format!("{what} {mid} {n} resource instances")).collect();
            format!("{head}{}", parts.join(", "))
        };
        let content = (!self.failures.is_empty()).then(|| {
            let mut sorted = self.failures.clone();
            sorted.sort();
            format!("Failed to delete all resource types, {} remaining: {}", sorted.len(), sorted.join(", "))
        });
        // While pods are waited for nothing is told of what remains (upstream's `deleteAllContent` returns before it counts).
        let whole = !self.awaits_pods;
        let remaining = (whole && !self.remaining.is_empty()).then(|| counted("Some resources are remaining: ", &self.remaining, "has"));
        let finalizers =
            (whole && !self.finalizers.is_empty()).then(|| counted("Some content in the namespace has finalizers remaining: ", &self.finalizers, "in"));
        let rows = [
            ("NamespaceDeletionDiscoveryFailure", self.discovery.clone(), "DiscoveryFailed", "ResourcesDiscovered", "All resources successfully discovered"),
            (
                "NamespaceDeletionGroupVersionParsingFailure",
                None,
                "GroupVersionParsingFailed",
                "ParsedGroupVersions",
                "All legacy kube types successfully parsed",
            ),
            (
                "NamespaceDeletionContentFailure",
                content,
                "ContentDeletionFailed",
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization",
            ),
            ("NamespaceContentRemaining", remaining, "SomeResourcesRemain", "ContentRemoved", "All content successfully removed"),
            ("NamespaceFinalizersRemaining", finalizers, "SomeFinalizersRemain", "ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ];
        let mut changed = false;
        for (kind, wrong, bad, good, fine) in rows {
            let (value, reason) = if wrong.is_some() { ("True", bad) } else { ("False", good) };
            changed |= set(status, kind, value, reason, wrong.unwrap_or_else(|| fine.to_owned()));
        }
        changed
    }
}

fn set(status: &mut NamespaceStatus, kind: &str, value: &str, reason: &str, message: String) -> bool {
    let all = status.conditions.get_or_insert_default();
    let mut next = NamespaceCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: Some(client::now()),
    };
    let Some(old) = all.iter_mut().find(|c| c.type_ == kind) else {
        all.push(next);
        return true;
    };
    if old.status == next.status && old.reason == next.reason && old.message == next.message {
        return false;
    }
    if old.status == next.status {
        next.last_transition_time.clone_from(&old.last_transition_time);
    }
    *old = next;
    true
}

/// What is told of groups whose resources are not known, as client-go tells it.
fn undiscovered(mut stale: Vec<String>) -> Option<String> {
    stale.sort();
    let each: Vec<String> = stale.iter().map(|group| format!("{group}: stale GroupVersion discovery: {group}")).collect();
    let (count, each) = (each.len(), each.join(", "));
    (count > 0).then(|| format!("Discovery failed for some groups, {count} failing: unable to retrieve the complete list of server APIs: {each}"))
}

/// Whether something says why objects are still there that were deleted: finalizers, or the time that pods have to end.
fn is_expected(left: &[PartialObject], since: Duration) -> bool {
    let graces = left.iter().filter_map(|o| o.metadata.deletion_grace_period_seconds);
    let held = left.iter().any(|o| o.metadata.finalizers.as_ref().is_some_and(|all| !all.is_empty()));
    left.is_empty() || held || graces.max().is_some_and(|grace_s| since < secs(grace_s))
}

/// Whether a first page tells that there is nothing: a server may give fewer than it was asked for, none too, and say where it goes on.
fn is_all_of_nothing<K>(page: &List<K>) -> bool {
    page.items().is_empty() && page.metadata.continue_.as_deref().is_none_or(str::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_page_that_no_other_follows_tells_of_nothing() {
        for (page, nothing) in [
            (r#"{"metadata": {}, "items": []}"#, true),
            (r#"{"metadata": {"continue": ""}, "items": null}"#, true),
            (r#"{"metadata": {"continue": "further"}, "items": []}"#, false),
            (r#"{"metadata": {}, "items": [{"metadata": {"name": "a"}}]}"#, false),
        ] {
            assert_eq!(is_all_of_nothing::<PartialObject>(&serde_json::from_str(page).expect("a list")), nothing, "{page}");
        }
    }

    #[test]
    fn conditions_tell_what_is_left() {
        let mut status = NamespaceStatus::default();
        let found = Found {
            remaining: BTreeMap::from([("pods.".to_owned(), 2), ("widgets.example.com".to_owned(), 1)]),
            finalizers: BTreeMap::from([("example.com/hold".to_owned(), 1)]),
            ..Found::default()
        };
        assert!(found.note(&mut status));
        assert!(!found.note(&mut status), "the same again is no change");
        assert!(Found::default().is_empty() && !found.is_empty());
        let message = |kind: &str| {
            let condition = status.conditions.iter().flatten().find(|c| c.type_ == kind);
            condition.map(|c| format!("{} {}", c.status, c.message.clone().unwrap_or_default())).unwrap_or_default()
        };
        assert_eq!(
            message("NamespaceContentRemaining"),
            "True Some resources are remaining: pods. has 2 resource instances, widgets.example.com has 1 resource instances"
        );
        assert_eq!(
            message("NamespaceFinalizersRemaining"),
            "True Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
        );
        assert_eq!(message("NamespaceDeletionDiscoveryFailure"), "False All resources successfully discovered");
        let mut status = NamespaceStatus::default();
        assert!(Found { awaits_pods: true, ..found }.note(&mut status));
        assert!(status.conditions.iter().flatten().all(|c| c.status == "False"), "the original tells it when the pods are gone");
    }

    #[test]
    fn what_failed_is_told_in_the_originals_words() {
        let mut status = NamespaceStatus::default();
        let stale = ["metrics.k8s.io/v1beta1".to_owned(), "custom.metrics.k8s.io/v1".to_owned()];
        let found = Found { discovery: undiscovered(stale.to_vec()), failures: vec!["two".to_owned(), "one".to_owned()], ..Found::default() };
        assert!(found.note(&mut status) && !found.is_empty());
        let told: Vec<&str> = status.conditions.iter().flatten().filter(|c| c.status == "True").map(|c| c.message.as_deref().unwrap_or_default()).collect();
        let discovery = "Discovery failed for some groups, 2 failing: unable to retrieve the complete list of server APIs: \
                         custom.metrics.k8s.io/v1: stale GroupVersion discovery: custom.metrics.k8s.io/v1, \
                         metrics.k8s.io/v1beta1: stale GroupVersion discovery: metrics.k8s.io/v1beta1";
        assert_eq!(told, [discovery, "Failed to delete all resource types, 2 remaining: one, two"]);
        assert_eq!(undiscovered(Vec::new()), None);
    }

    /// As a webhook's, which may never end.
    #[tokio::test]
    async fn a_refusal_to_delete_pods_keeps_nothing_else() {
        let server = crate::fake::Fake::new(|method, path| match (method, path) {
            ("GET", "/api") => {
                let row = |plural: &str, kind: &str| serde_json::json!({"resource": plural, "responseKind": {"kind": kind}, "scope": "Namespaced", "verbs": ["delete", "deletecollection", "list"]});
                let resources = [row("pods", "Pod"), row("configmaps", "ConfigMap")];
                (200, serde_json::json!({"items": [{"metadata": {"name": ""}, "versions": [{"version": "v1", "resources": resources}]}]}))
            }
            ("GET", "/apis") => (200, serde_json::json!({"items": []})),
            ("GET", _) => (200, serde_json::json!({"metadata": {}, "items": [{"metadata": {"name": "a", "namespace": "n", "finalizers": ["x/y"]}}]})),
            ("DELETE", "/api/v1/namespaces/n/pods") => crate::fake::refusal(403, "Forbidden"),
            _ => (200, serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})),
        });
        let namespaces = Namespaces { client: server.client(), namespaces: Informer::fixed([]), looks: Mutex::default() };
        let found = namespaces.delete_content("n", Duration::ZERO).await;
        let written: Vec<String> = server.written().iter().map(|w| w.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(written, ["DELETE /api/v1/namespaces/n/pods", "DELETE /api/v1/namespaces/n/configmaps"]);
        assert_eq!((found.failures.len(), found.awaits_pods, found.remaining.into_keys().collect::<Vec<_>>()), (1, false, vec!["configmaps.".to_owned()]));
    }

    #[test]
    fn what_stays_without_a_reason_is_no_matter_of_course() {
        let left = |grace_s: Option<i64>, finalizers: &[&str]| -> PartialObject {
            client::typed(&serde_json::json!({"metadata": {"deletionGracePeriodSeconds": grace_s, "finalizers": finalizers}})).expect("an object")
        };
        let since = Duration::from_secs(31);
        assert!(is_expected(&[], since) && is_expected(&[left(None, &["a/b"])], since) && is_expected(&[left(Some(30), &[]), left(Some(60), &[])], since));
        assert!(!is_expected(&[left(Some(30), &[])], since) && !is_expected(&[left(None, &[])], Duration::ZERO));
    }
}
