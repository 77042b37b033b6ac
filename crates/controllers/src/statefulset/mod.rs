//! StatefulSets: pods with a number, a name and volumes that stay theirs.
//!
//! In place of the original's resync: a claim that goes is heard, so that what waited for it goes on; a pod that is not yet
//! available names its time; everything else that failed is tried again by the queue.

mod claims;
mod metrics;
mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use client::{Client, DeleteParams, Delta, EventType, Informer, Meta, ObjectKey, Recorder, WorkQueue, object_reference};
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use machinery::labels::Selector;
use machinery::status::Status;

use crate::claim::{claim_if, controller_key};
use crate::compiled::Compiled;
use crate::history::{self, History, Limit, Owner};
use crate::meta::labels;
use crate::pods;
use crate::work::{Controller, Cx, Step};
use plan::{Action, Version};

const WORKERS: usize = 5;
/// The label of a StatefulSet's revisions.
const LABEL: &str = "controller.kubernetes.io/hash";

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let client = cx.client("statefulset-controller");
    let controller = Arc::new(Sets {
        recorder: cx.recorder(&client, "statefulset-controller"),
        client,
        sets: cx.informers.informer(),
        pods: cx.informers.informer(),
        revisions: cx.informers.informer(),
        claims: cx.informers.informer(),
        selectors: Compiled::default(),
    });
    pods::index_controller(&controller.pods);
    cx.metrics().collect(metrics::DECLARED, {
        let (sets, pods) = (controller.sets.clone(), controller.pods.clone());
        move |out| metrics::tell(&sets.list(), |set| pods::of_controller(&pods, set.uid()), client::timestamp(), out)
    });
    cx.setup(&controller)
        .on(&controller.sets, Sets::heard_set)
        .on(&controller.pods, Sets::heard)
        .on(&controller.claims, Sets::heard_claim)
        .reads(&controller.revisions)
        .work(WORKERS)
        .await;
}

struct Sets {
    client: Client,
    recorder: Recorder,
    sets: Informer<StatefulSet>,
    pods: Informer<Pod>,
    revisions: Informer<ControllerRevision>,
    claims: Informer<PersistentVolumeClaim>,
    selectors: Compiled<Selector>,
}

impl Sets {
    fn selector(&self, set: &StatefulSet) -> Arc<Selector> {
        self.selectors.get(set, plan::pod_selector)
    }

    fn heard_set(&self, queue: &WorkQueue<ObjectKey>, change: &Delta<StatefulSet>) {
        if let Delta::Deleted(set) = change {
            self.selectors.forget(&set.key());
        }
        queue.add(change.object().key());
    }

    /// A claim that is gone may be what a pod waits for: a new one is to be made, or it was the one in the way.
    fn heard_claim(&self, queue: &WorkQueue<ObjectKey>, change: &Delta<PersistentVolumeClaim>) {
        let Delta::Deleted(claim) = change else { return };
        let all = self.sets.list_namespace(claim.namespace());
        all.iter().filter(|s| plan::has_claim(s, claim.name())).for_each(|s| queue.add(s.key()));
    }

    fn heard(&self, queue: &WorkQueue<ObjectKey>, change: &Delta<Pod>) {
        let pod = change.object();
        let owner = |pod: &Pod| controller_key::<StatefulSet>(pod).filter(|(key, uid)| self.sets.get_key(key).is_some_and(|s| s.uid() == uid));
        if let Delta::Updated { old, new } = change
            && old.controller() != new.controller()
            && let Some((key, _)) = owner(old)
        {
            queue.add(key);
        }
        if let Some((key, _)) = owner(pod) {
            queue.add(key);
        } else if pod.controller().is_none() && !matches!(change, Delta::Deleted(_)) {
            let all = self.sets.list_namespace(pod.namespace());
            let matching = all.iter().filter(|s| plan::is_member(s, pod) && self.selector(s).matches_map(labels(&**pod)));
            matching.for_each(|s| queue.add(s.key()));
        }
    }

    async fn act(&self, set: &StatefulSet, action: Action) -> client::Result<()> {
        let about = object_reference(set);
        match action {
            Action::Create(pod) => {
                if self.claims_of(set, &pod).any(|c| claims::is_left_over(set, &pod, &c)) {
                    return Ok(());
                }
                if let Err(error) = self.make_claims(set, pod.name()).await {
                    self.tell(&about, "Create", pod.name(), set.name(), Some(&error));
                    return Err(error);
                }
                let created = self.client.namespaced::<Pod>(set.namespace()).create(&pod).await.map(drop);
                if !matches!(&created, Err(error) if error.is_already_exists() || error.is_namespace_terminating()) {
                    self.tell(&about, "Create", pod.name(), set.name(), created.as_ref().err());
                }
                match created {
                    Err(error) if error.is_namespace_terminating() => Ok(()),
                    other => other,
                }
            }
            Action::Update(pod) => match self.client.namespaced::<Pod>(set.namespace()).replace(pod.name(), &pod).await {
                Err(error) if error.is_not_found() => Ok(()),
                // It has changed meanwhile: what it lacks now is asked then.
                Err(error) if error.is_conflict() => Err(error),
                updated => {
                    self.tell(&about, "Update", pod.name(), set.name(), updated.as_ref().err());
                    updated.map(drop)
                }
            },
            Action::Delete(pod) => {
                let deleted = self.client.namespaced::<Pod>(set.namespace()).delete(pod.name(), &DeleteParams::default().uid(pod.uid())).await;
                // That it was gone already is what was wished for, and told like it.
                let deleted = deleted.or_else(|error| if error.is_not_found() { Ok(()) } else { Err(error) });
                self.tell(&about, "Delete", pod.name(), set.name(), deleted.as_ref().err());
                deleted
            }
        }
    }

    fn tell(&self, about: &k8s_openapi::api::core::v1::ObjectReference, verb: &str, pod: &str, set: &str, error: Option<&client::Error>) {
        match error {
            None => {
                let message = format!("{verb} Pod {pod} in StatefulSet {set} successful");
                self.recorder.event(about, EventType::Normal, &format!("Successful{verb}"), message);
            }
            Some(error) => {
                let message = format!("{verb} Pod {pod} in StatefulSet {set} failed error: {error}");
                self.recorder.event(about, EventType::Warning, &format!("Failed{verb}"), message);
            }
        }
    }

    /// A pod's claims as far as they are there.
    fn claims_of(&self, set: &StatefulSet, pod: &Pod) -> impl Iterator<Item = Arc<PersistentVolumeClaim>> {
        let names = plan::claim_names(set, pod.name());
        names.into_iter().filter_map(|(_, name)| self.claims.get(set.namespace(), &name))
    }

    /// The claims that a pod needs must be there before it; one that is being deleted is none. What is wrong with one keeps no other
    /// from being made.
    async fn make_claims(&self, set: &StatefulSet, pod: &str) -> client::Result<()> {
        let about = object_reference(set);
        let mut wrong = Vec::new();
        for claim in claims::of_pod(set, pod) {
            match self.make_claim(set, &claim).await {
                Ok(Made::Now) => {
                    let message = format!("Create Claim {} Pod {pod} in StatefulSet {} success", claim.name(), set.name());
                    self.recorder.event(&about, EventType::Normal, "SuccessfulCreate", message);
                }
                Ok(Made::Before(there)) if there.is_deleting() => wrong.push(format!("pvc {} is being deleted", claim.name())),
                Ok(Made::Before(_)) => {}
                Err(error) => {
                    let message = format!("Create Claim {} for Pod {pod} in StatefulSet {} failed error: {error}", claim.name(), set.name());
                    self.recorder.event(&about, EventType::Warning, "FailedCreate", message);
                    wrong.push(format!("failed to create PVC {}: {error}", claim.name()));
                }
            }
        }
        match wrong.as_slice() {
            [] => Ok(()),
            [one] => Err(failure(one.clone())),
            all => Err(failure(format!("[{}]", all.join(", ")))),
        }
    }

    async fn make_claim(&self, set: &StatefulSet, claim: &PersistentVolumeClaim) -> client::Result<Made> {
        if let Some(there) = self.claims.get(set.namespace(), claim.name()) {
            return Ok(Made::Before(there));
        }
        let api = self.client.namespaced::<PersistentVolumeClaim>(set.namespace());
        match api.create(claim).await {
            Ok(_) => Ok(Made::Now),
            Err(error) if error.is_already_exists() => Ok(Made::Before(Arc::new(api.get(claim.name()).await?))),
            Err(error) => Err(error),
        }
    }

    /// The claims of the set's pods are owned as its policy says, before any pod is deleted. (A whole update, on the revision
    /// seen: the right to patch claims is not the controller's.)
    async fn own_claims(&self, set: &StatefulSet, pods: &[Arc<Pod>]) -> client::Result<()> {
        let api = self.client.namespaced::<PersistentVolumeClaim>(set.namespace());
        for pod in pods {
            let mut is_another = false;
            for claim in self.claims_of(set, pod) {
                let Some(owners) = claims::owners(set, pod, &claim) else { continue };
                let mut changed = (*claim).clone();
                changed.metadata.owner_references = Some(owners);
                match api.replace(claim.name(), &changed).await {
                    // Somebody else wrote it meanwhile, as the scheduler does: it is looked at again.
                    Err(error) if error.is_conflict() => return Err(error),
                    Err(error) if !error.is_not_found() => {
                        let error = failure(format!("could not update claim {} for delete policy ownerRefs: {error}", claim.name()));
                        self.tell(&object_reference(set), "Update", pod.name(), set.name(), Some(&error));
                        return Err(error);
                    }
                    replaced => is_another |= replaced.is_ok(),
                }
            }
            // The policy has changed: of a pod that has just been made nobody is told that.
            if is_another && plan::is_replica(set, pod) && pods::phase(pod) == "Running" {
                self.tell(&object_reference(set), "Update", pod.name(), set.name(), None);
            }
        }
        Ok(())
    }

    /// A pod that waits may wait for claims that were deleted.
    async fn renew_claims(&self, set: &StatefulSet, pods: &[Arc<Pod>]) -> client::Result<()> {
        let waiting = pods.iter().filter(|p| pods::phase(p) == "Pending" && !p.is_deleting() && plan::is_replica(set, p));
        for pod in waiting {
            self.make_claims(set, pod.name()).await?;
            for claim in self.claims_of(set, pod).filter(|c| claims::is_anothers(set, pod, c)) {
                let message = format!(
                    "PersistentVolumeClaim {} has a conflicting OwnerReference that acts as a manging controller, the retention policy is ignored for this claim",
                    claim.name()
                );
                self.recorder.event(&object_reference(set), EventType::Warning, "ConflictingController", message);
            }
        }
        Ok(())
    }

    async fn write_status(&self, set: &StatefulSet, status: StatefulSetStatus) -> client::Result<()> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let mut changed = set.clone();
        changed.status = Some(status);
        match self.client.namespaced::<StatefulSet>(set.namespace()).replace_status(set.name(), &changed).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// The two revisions between which the set is.
    fn versions(set: &StatefulSet, history: &History) -> (Version, Version) {
        let version =
            |r: &ControllerRevision| Version { name: r.name().to_owned(), template: history::template(r).unwrap_or_else(|| set.spec.template.clone()) };
        let update = Version { name: history.update.name().to_owned(), template: set.spec.template.clone() };
        let current = set.status.as_ref().and_then(|s| s.current_revision.as_deref()).unwrap_or_default();
        let current = history.all.iter().find(|r| r.name() == current).map_or_else(|| version(&history.update), |r| version(r));
        (current, update)
    }
}

/// Whether a claim was there already.
enum Made {
    Now,
    Before(Arc<PersistentVolumeClaim>),
}

/// A step that failed for more than one answer of the server.
fn failure(message: String) -> client::Error {
    client::Error::from(Status::new(500, "InternalError", message))
}

impl Controller for Sets {
    const QUEUE: &'static str = "statefulset";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Step {
        let Some(set) = self.sets.get_key(key) else { return Ok(None) };
        let selector = self.selector(&set);
        if selector.is_everything() {
            return Ok(None);
        }
        let all = pods::of_controller_and_orphans(&self.pods, set.uid(), set.namespace());
        let live = || async {
            let live = self.client.namespaced::<StatefulSet>(set.namespace()).get(set.name()).await?;
            if live.uid() == set.uid() && !live.is_deleting() { Ok(()) } else { Err(client::Error::Transport(format!("{key} has just been deleted"))) }
        };
        let pods = claim_if::<StatefulSet, Pod, _>(&self.client, &set, &selector, all, |p| plan::is_member(&set, p), live).await?;
        let owner = Owner {
            object: &*set,
            template: &set.spec.template,
            selector: (*selector).clone(),
            collisions: set.status.as_ref().and_then(|s| s.collision_count),
            label: LABEL,
        };
        let history = match history::keep(&self.client, &self.revisions, &owner).await {
            Err(error) if error.is_namespace_terminating() => return Ok(None),
            other => other?,
        };
        let (current, update) = Self::versions(&set, &history);
        let now = client::timestamp();
        let mut result = Ok(());
        if !set.is_deleting() {
            result = self.own_claims(&set, &pods).await;
            if result.is_ok() {
                result = self.renew_claims(&set, &pods).await;
            }
            let steps = if result.is_ok() { plan::plan(&set, &pods, &current, &update, now) } else { Vec::new() };
            for action in steps {
                result = self.act(&set, action).await;
                if result.is_err() {
                    break;
                }
            }
        }
        let told = self.write_status(&set, plan::status(&set, &pods, &current.name, &update.name, history.collisions, now)).await;
        // Also when a step failed: it may for days (a quota), while the template goes on changing.
        let in_use = |r: &ControllerRevision| r.name() == current.name || pods.iter().any(|p| p.label(history::HASH_LABEL) == Some(r.name()));
        let limit = set.spec.revision_history_limit.unwrap_or(10);
        let shortened = history::truncate(&self.client, &history, limit, Limit::Idle, in_use).await;
        result.and(told).and(shortened)?;
        Ok(plan::look_again(&set, &pods, now))
    }
}
