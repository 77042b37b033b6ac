//! StatefulSets: pods with a number, a name and volumes that stay theirs.

mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use client::{Client, DeleteParams, Delta, EventType, Informer, Meta, ObjectKey, Patch, PatchParams, Recorder, WorkQueue, object_reference};
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use serde_json::json;

use crate::claim::{claim_if, controller_key};
use crate::history::{self, History, Owner};
use crate::meta::labels;
use crate::pods;
use crate::work::{Controller, Cx, Step, itself};
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
    });
    pods::index_controller(&controller.pods);
    cx.setup(&controller).on(&controller.sets, itself).on(&controller.pods, Sets::heard).reads(&controller.revisions).work(WORKERS).await;
}

struct Sets {
    client: Client,
    recorder: Recorder,
    sets: Informer<StatefulSet>,
    pods: Informer<Pod>,
    revisions: Informer<ControllerRevision>,
}

impl Sets {
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
            let matching = all.iter().filter(|s| plan::is_member(s, pod) && plan::pod_selector(s).matches_map(labels(&**pod)));
            matching.for_each(|s| queue.add(s.key()));
        }
    }

    async fn act(&self, set: &StatefulSet, action: Action) -> client::Result<()> {
        let about = object_reference(set);
        match action {
            Action::Create(pod) => {
                self.make_claims(set, pod.name()).await?;
                let created = self.client.namespaced::<Pod>(set.namespace()).create(&pod).await.map(drop);
                if !matches!(&created, Err(error) if error.is_already_exists() || error.is_namespace_terminating()) {
                    self.tell(&about, "Create", "create", "Pod", pod.name(), set.name(), created.as_ref().err());
                }
                match created {
                    Err(error) if error.is_namespace_terminating() => Ok(()),
                    other => other,
                }
            }
            Action::Delete { pod, scaled } => {
                if scaled && plan::retention(set).1 {
                    self.give_claims(set, &pod).await?;
                }
                let deleted = self.client.namespaced::<Pod>(set.namespace()).delete(pod.name(), &DeleteParams::default().uid(pod.uid())).await;
                match deleted {
                    Err(error) if error.is_not_found() => Ok(()),
                    other => {
                        self.tell(&about, "Delete", "delete", "Pod", pod.name(), set.name(), other.as_ref().err());
                        other
                    }
                }
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn tell(
        &self,
        about: &k8s_openapi::api::core::v1::ObjectReference,
        reason: &str,
        verb: &str,
        kind: &str,
        name: &str,
        set: &str,
        error: Option<&client::Error>,
    ) {
        match error {
            None => {
                let message = format!("{verb} {kind} {name} in StatefulSet {set} successful");
                self.recorder.event(about, EventType::Normal, &format!("Successful{reason}"), message);
            }
            Some(error) => {
                let message = format!("{verb} {kind} {name} in StatefulSet {set} failed error: {error}");
                self.recorder.event(about, EventType::Warning, &format!("Failed{reason}"), message);
            }
        }
    }

    /// The claims that a pod needs must be there before it.
    async fn make_claims(&self, set: &StatefulSet, pod: &str) -> client::Result<()> {
        for claim in plan::claims(set, pod) {
            let about = object_reference(set);
            match self.client.namespaced::<PersistentVolumeClaim>(set.namespace()).create(&claim).await {
                Ok(_) => {
                    let message = format!("create Claim {} Pod {pod} in StatefulSet {} success", claim.name(), set.name());
                    self.recorder.event(&about, EventType::Normal, "SuccessfulCreate", message);
                }
                Err(error) if error.is_already_exists() => {}
                Err(error) => {
                    let message = format!("create Claim {} for Pod {pod} in StatefulSet {} failed error: {error}", claim.name(), set.name());
                    self.recorder.event(&about, EventType::Warning, "FailedCreate", message);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// A pod that is one too many takes its claims with it.
    async fn give_claims(&self, set: &StatefulSet, pod: &Pod) -> client::Result<()> {
        let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": pod.name(), "uid": pod.uid()}]);
        let patch = Patch::Merge(json!({"metadata": {"ownerReferences": owner}}));
        for (_, claim) in plan::claim_names(set, pod.name()) {
            match self.client.namespaced::<PersistentVolumeClaim>(set.namespace()).patch(&claim, &patch, &PatchParams::default()).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
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

impl Controller for Sets {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Step {
        let Some(set) = self.sets.get_key(key) else { return Ok(None) };
        let selector = plan::pod_selector(&set);
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
            selector: selector.clone(),
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
            for action in plan::plan(&set, &pods, &current, &update, now) {
                result = self.act(&set, action).await;
                if result.is_err() {
                    break;
                }
            }
        }
        self.write_status(&set, plan::status(&set, &pods, &current.name, &update.name, history.collisions, now)).await?;
        result?;
        let in_use = |r: &ControllerRevision| r.name() == current.name || pods.iter().any(|p| p.label(history::HASH_LABEL) == Some(r.name()));
        history::truncate(&self.client, &history, set.spec.revision_history_limit.unwrap_or(10), in_use).await?;
        Ok(plan::look_again(&set, &pods, now))
    }
}
