//! Deployments: ReplicaSets one after the other, so that a new template replaces the old one without an outage.
//!
//! A step claims the ReplicaSets, finds or makes the one of the present template, and resizes new and old by the rules of
//! `plan.rs`. How far it is tells `status.rs`; what the sets carry of the Deployment, `sets.rs`.
//!
//! What holds it: each change of a set is heard, whoever made it, so sizes, revision and the notes of a size that somebody writes
//! into a set are put right, and a set that is deleted is made anew. A set that loses its controller reference is adopted again,
//! one that loses its labels is let go and another made. Every write is on the revision that was read: a set or a Deployment that
//! changed meanwhile fails the step, which is tried again from what is there then. The end of the progress deadline is the only
//! thing that no event tells, and is waited for.

mod plan;
mod rollback;
mod sets;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use client::{Client, DeleteParams, Delta, EventType, Informer, Meta, ObjectKey, Recorder, WorkQueue, object_reference};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::Pod;
use machinery::labels::Selector;

use crate::claim::{claim, controller_key, owner_reference};
use crate::compiled::Compiled;
use crate::meta::{self, annotations, annotations_mut, generation, labels, map, selector};
use crate::pods;
use crate::work::{Controller, Cx, Step, itself};
use plan::Resize;
pub(crate) use sets::scaled;
use sets::{HASH_LABEL, REVISION, Set, size, wished};

const WORKERS: usize = 5;
/// Characters that a ReplicaSet's name may have.
const NAME_MAX: usize = 253;

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let client = cx.client("deployment-controller");
    let controller = Arc::new(Deployments {
        recorder: cx.recorder(&client, "deployment-controller"),
        client,
        deployments: cx.informers.informer(),
        sets: cx.informers.informer(),
        pods: cx.informers.informer(),
        selectors: Compiled::default(),
    });
    pods::index_controller(&controller.pods);
    cx.setup(&controller)
        .on(&controller.deployments, itself)
        .on(&controller.sets, Deployments::heard_set)
        .on(&controller.pods, Deployments::heard_pod)
        .work(WORKERS)
        .await;
}

struct Deployments {
    client: Client,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    recorder: Recorder,
    selectors: Compiled<Selector>,
}

/// A Deployment with its sets.
struct World {
    d: Deployment,
    new: Option<Set>,
    old: Vec<Set>,
}

impl World {
    fn all(&self) -> Vec<Set> {
        self.old.iter().chain(&self.new).cloned().collect()
    }
}

impl Deployments {
    fn owner(&self, set: &ReplicaSet) -> Option<Arc<Deployment>> {
        let (key, uid) = controller_key::<Deployment>(set)?;
        self.deployments.get_key(&key).filter(|d| d.uid() == uid)
    }

    fn selector(&self, d: &Deployment) -> Arc<Selector> {
        self.selectors.get(d, |d| selector(&d.spec.selector))
    }

    fn heard_set(&self, queue: &WorkQueue<ObjectKey>, change: &Delta<ReplicaSet>) {
        if let Delta::Updated { old, new } = change
            && old.controller() != new.controller()
            && let Some(former) = self.owner(old)
        {
            queue.add(former.key());
        }
        let set = change.object();
        if let Some(owner) = self.owner(set) {
            queue.add(owner.key());
        } else if set.controller().is_none() && !labels(&**set).is_empty() && !matches!(change, Delta::Deleted(_)) {
            let all = self.deployments.list_namespace(set.namespace());
            let matching = all.iter().filter(|d| self.selector(d).matches_map(labels(&**set)));
            matching.for_each(|d| queue.add(d.key()));
        }
    }

    /// A Recreate Deployment waits for the end of its last old pod.
    fn heard_pod(&self, queue: &WorkQueue<ObjectKey>, change: &Delta<Pod>) {
        let pod = match change {
            Delta::Deleted(pod) => pod,
            Delta::Updated { old, new } if pods::is_terminal(new) && !pods::is_terminal(old) => new,
            _ => return,
        };
        let set = controller_key::<ReplicaSet>(&**pod).and_then(|(key, uid)| self.sets.get_key(&key).filter(|s| s.uid() == uid));
        if let Some(d) = set.and_then(|s| self.owner(&s)).filter(|d| !sets::is_rolling(d)) {
            queue.add(d.key());
        }
    }

    async fn write_status(&self, d: &Deployment, status: DeploymentStatus) -> client::Result<()> {
        if d.status.as_ref() == Some(&status) && d.status.as_ref().and_then(|s| s.observed_generation) == Some(generation(d)) {
            return Ok(());
        }
        let mut changed = d.clone();
        changed.status = Some(status);
        self.client.namespaced::<Deployment>(d.namespace()).replace_status(d.name(), &changed).await.map(drop)
    }

    /// Sorts the sets into the new one and the others, and gives the new one what it must carry; makes it if there is none
    /// and `create` says so.
    async fn world(&self, d: &Deployment, all: Vec<Set>, create: bool) -> client::Result<World> {
        let new = sets::find_new(d, &all);
        let old: Vec<Set> = all.into_iter().filter(|rs| new.as_ref().is_none_or(|n| n.uid() != rs.uid())).collect();
        let revision = old.iter().map(|rs| sets::revision(&**rs)).max().unwrap_or(0) + 1;
        let mut world = World { d: d.clone(), new, old };
        match world.new.take() {
            Some(new) => self.keep_new(&mut world, new, revision).await?,
            None if create => self.make_new(&mut world, revision).await?,
            None => {}
        }
        Ok(world)
    }

    /// The set of the template is there: its annotations and the Deployment's must tell the revision.
    async fn keep_new(&self, world: &mut World, new: Set, revision: i64) -> client::Result<()> {
        let mut changed = (*new).clone();
        let mut differs = sets::annotate(&world.d, &mut changed, revision, true);
        if changed.spec.min_ready_seconds.unwrap_or(0) != sets::min_ready_s(&world.d) {
            changed.spec.min_ready_seconds = Some(sets::min_ready_s(&world.d)).filter(|s| *s != 0);
            differs = true;
        }
        let new = if differs { Arc::new(self.client.namespaced::<ReplicaSet>(new.namespace()).replace(new.name(), &changed).await?) } else { new };
        let told = annotations(&*new).get(REVISION).cloned().unwrap_or_default();
        let found = format!("Found new replica set {:?}", new.name());
        world.new = Some(new);
        self.note_revision(world, told, "FoundNewReplicaSet", found, false).await
    }

    /// Writes the revision into the Deployment, and the condition if it has none (or `always`).
    async fn note_revision(&self, world: &mut World, revision: String, reason: &str, message: String, always: bool) -> client::Result<()> {
        let d = &mut world.d;
        let mut differs = annotations(d).get(REVISION) != Some(&revision);
        if differs {
            annotations_mut(d).insert(REVISION.to_owned(), revision);
        }
        let mut status = d.status.clone().unwrap_or_default();
        if sets::deadline_s(d).is_some() && (always || status::condition(&status, status::PROGRESSING).is_none()) {
            status::set(&mut status, status::PROGRESSING, "True", reason, message, client::timestamp());
            differs |= d.status.as_ref() != Some(&status);
            d.status = Some(status);
        }
        if differs {
            *d = self.client.namespaced::<Deployment>(d.namespace()).replace_status(d.name(), d).await?;
        }
        Ok(())
    }

    async fn make_new(&self, world: &mut World, revision: i64) -> client::Result<()> {
        let mut made = new_set(&world.d);
        let initial = plan::new_size(&world.d, &world.old, 0);
        made.spec.replicas = Some(initial);
        sets::annotate(&world.d, &mut made, revision, false);
        let name = made.name().to_owned();
        let api = self.client.namespaced::<ReplicaSet>(world.d.namespace());
        let (new, existed) = match api.create(&made).await {
            Ok(new) => (new, false),
            Err(error) if error.is_already_exists() => (self.same_or_collision(&world.d, &name, error).await?, true),
            Err(error) if error.is_namespace_terminating() => return Ok(()),
            Err(error) => {
                let message = format!("Failed to create new replica set {name:?}: {error}");
                if sets::deadline_s(&world.d).is_some() {
                    let mut status = world.d.status.clone().unwrap_or_default();
                    status::set(&mut status, status::PROGRESSING, "False", "ReplicaSetCreateError", message.clone(), client::timestamp());
                    // That this could not be noted is the lesser trouble: the next try notes it.
                    drop(self.write_status(&world.d, status).await);
                }
                self.recorder.event(&object_reference(&world.d), EventType::Warning, "ReplicaSetCreateError", message);
                return Err(error);
            }
        };
        if !existed && initial > 0 {
            self.tell_scaled(&world.d, &new, 0, initial);
        }
        world.new = Some(Arc::new(new));
        let created = format!("Created new replica set {name:?}");
        self.note_revision(world, revision.to_string(), "NewReplicaSetCreated", created, !existed).await
    }

    /// A set of the name exists: it may be ours, which the informer has not told yet; else the hash collided, and the next
    /// try counts that in.
    async fn same_or_collision(&self, d: &Deployment, name: &str, error: client::Error) -> client::Result<ReplicaSet> {
        let existing = self.client.namespaced::<ReplicaSet>(d.namespace()).get(name).await?;
        if existing.is_controlled_by(d.uid()) && sets::find_new(d, &[Arc::new(existing.clone())]).is_some() {
            return Ok(existing);
        }
        let mut status = d.status.clone().unwrap_or_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        self.write_status(d, status).await?;
        Err(error)
    }

    fn tell_scaled(&self, d: &Deployment, rs: &ReplicaSet, from: i32, to: i32) {
        let way = if to > from { "up" } else { "down" };
        let message = format!("Scaled {way} replica set {} from {from} to {to}", rs.name());
        self.recorder.event(&object_reference(d), EventType::Normal, "ScalingReplicaSet", message);
    }

    /// Gives a set a size; whether that was a change of size.
    async fn resize(&self, d: &Deployment, rs: &Set, to: i32) -> client::Result<bool> {
        let from = size(rs);
        let mut changed = (**rs).clone();
        let noted = sets::set_sizes(&mut changed, wished(d), wished(d) + sets::max_surge(d));
        if from == to && !noted {
            return Ok(false);
        }
        changed.spec.replicas = Some(to);
        self.client.namespaced::<ReplicaSet>(rs.namespace()).replace(rs.name(), &changed).await?;
        if from != to {
            self.tell_scaled(d, rs, from, to);
        }
        Ok(from != to)
    }

    async fn resize_all(&self, d: &Deployment, sizes: Vec<Resize>) -> client::Result<bool> {
        let mut any = false;
        for (rs, to) in sizes {
            any |= self.resize(d, &rs, to).await?;
        }
        Ok(any)
    }

    /// Deletes old sets beyond the history.
    async fn clean_up(&self, world: &World) -> client::Result<()> {
        for rs in plan::surplus(&world.d, &world.old) {
            match self.client.namespaced::<ReplicaSet>(rs.namespace()).delete(rs.name(), &DeleteParams::default()).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    async fn roll_out_status(&self, world: &World) -> Step {
        let now = client::timestamp();
        let status = status::rolled(&world.d, &world.all(), world.new.as_ref(), now);
        let again = status::look_again(&world.d, &status, now);
        self.write_status(&world.d, status).await?;
        Ok(again)
    }

    async fn roll(&self, d: &Deployment, all: Vec<Set>) -> Step {
        let world = self.world(d, all, true).await?;
        let Some(new) = world.new.clone() else { return Ok(None) };
        let step: Vec<Resize> = plan::roll_new(&world.d, &world.all(), &new).into_iter().collect();
        if self.resize_all(&world.d, step).await? {
            return self.roll_out_status(&world).await;
        }
        let step = plan::roll_old(&world.d, &world.all(), &new, &world.old);
        if self.resize_all(&world.d, step).await? {
            return self.roll_out_status(&world).await;
        }
        if world.d.status.as_ref().is_some_and(|s| status::is_complete(&world.d, s)) {
            self.clean_up(&world).await?;
        }
        self.roll_out_status(&world).await
    }

    async fn recreate(&self, d: &Deployment, all: Vec<Set>) -> Step {
        let world = self.world(d, all.clone(), false).await?;
        let step = sets::active(&world.old).into_iter().map(|rs| (rs, 0)).collect();
        if self.resize_all(&world.d, step).await? || self.old_pods_run(&world) {
            return self.roll_out_status(&world).await;
        }
        let world = if world.new.is_none() { self.world(&world.d, all, true).await? } else { world };
        if let Some(new) = &world.new {
            self.resize(&world.d, new, wished(&world.d)).await?;
        }
        if world.d.status.as_ref().is_some_and(|s| status::is_complete(&world.d, s)) {
            self.clean_up(&world).await?;
        }
        self.roll_out_status(&world).await
    }

    /// Writes the template that is asked for; the change begins a roll-out as any other.
    async fn go_back(&self, d: &Deployment, all: Vec<Set>, revision: i64) -> Step {
        let world = self.world(d, all, true).await?;
        let (back, told) = rollback::back(&world.d, &world.all(), revision);
        let tell = |kind| self.recorder.event(&object_reference(d), kind, told.reason, told.message.clone());
        if told.warning {
            tell(EventType::Warning);
        }
        self.client.namespaced::<Deployment>(d.namespace()).replace(d.name(), &back).await?;
        if !told.warning {
            tell(EventType::Normal);
        }
        Ok(None)
    }

    fn old_pods_run(&self, world: &World) -> bool {
        let mut pods = world.old.iter().flat_map(|rs| pods::of_controller(&self.pods, rs.uid()));
        sets::sum(&world.old, sets::actual) > 0 || pods.any(|p| !pods::is_terminal(&p))
    }

    /// The Deployment's own size changed, or it is paused: sizes follow, templates do not.
    async fn keep_size(&self, d: &Deployment, all: Vec<Set>) -> Step {
        let world = self.world(d, all, false).await?;
        self.resize_all(&world.d, plan::scale(&world.d, world.new.as_ref(), &world.old)).await?;
        if plan::cleans_up_paused(&world.d) {
            self.clean_up(&world).await?;
        }
        let status = status::counts(&world.d, &world.all(), world.new.as_ref(), client::timestamp());
        self.write_status(&world.d, status).await?;
        Ok(None)
    }
}

impl Controller for Deployments {
    const QUEUE: &'static str = "deployment";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Step {
        let Some(d) = self.deployments.get_key(key) else {
            self.selectors.forget(key);
            return Ok(None);
        };
        let mut d = (*d).clone();
        let selector = self.selector(&d);
        if selector.is_everything() {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.recorder.event(&object_reference(&d), EventType::Warning, "SelectingAll", message);
            let mut status = d.status.clone().unwrap_or_default();
            if status.observed_generation.unwrap_or(0) < generation(&d) {
                status.observed_generation = Some(generation(&d));
                self.write_status(&d, status).await?;
            }
            return Ok(None);
        }
        let all = claim::<Deployment, ReplicaSet>(&self.client, &d, &selector, self.sets.list_namespace(&key.namespace)).await?;
        if d.is_deleting() {
            let world = World { new: sets::find_new(&d, &all), old: Vec::new(), d };
            let status = status::counts(&world.d, &all, world.new.as_ref(), client::timestamp());
            self.write_status(&world.d, status).await?;
            return Ok(None);
        }
        if let Some(status) = status::pause(&d, client::timestamp()) {
            d.status = Some(status);
            d = self.client.namespaced::<Deployment>(d.namespace()).replace_status(d.name(), &d).await?;
        }
        if let Some(revision) = rollback::wished(&d).filter(|_| !sets::is_paused(&d)) {
            return settle(Box::pin(self.go_back(&d, all, revision)).await);
        }
        let scaled = sets::active(&all).iter().any(|rs| sets::desired_size(rs).is_some_and(|n| n != wished(&d)));
        let step = if sets::is_paused(&d) || scaled {
            Box::pin(self.keep_size(&d, all)).await
        } else if sets::is_rolling(&d) {
            Box::pin(self.roll(&d, all)).await
        } else {
            Box::pin(self.recreate(&d, all)).await
        };
        settle(step)
    }
}

/// What went away in the meantime need not be tried again.
fn settle(step: Step) -> Result<Option<Duration>, client::Error> {
    match step {
        Err(error) if error.is_namespace_terminating() => Ok(None),
        other => other,
    }
}

/// The ReplicaSet of the present template, without its size and annotations.
fn new_set(d: &Deployment) -> ReplicaSet {
    let spec = d.spec.clone();
    let hash = sets::hash(&spec.template, d.status.as_ref().and_then(|s| s.collision_count));
    let mut template = spec.template;
    let mut template_labels = map(template.metadata.as_ref().and_then(|m| m.labels.as_ref())).clone();
    template_labels.insert(HASH_LABEL.to_owned(), hash.clone());
    template.metadata.get_or_insert_default().labels = Some(template_labels.clone());
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
    // Of a long name the hash stays (upstream `generateReplicaSetName`).
    let kept = d.name().len().min(NAME_MAX - 1 - hash.len());
    let mut metadata = meta::new_meta(d.namespace(), &format!("{}-{hash}", &d.name()[..kept]));
    metadata.labels = Some(template_labels);
    metadata.owner_references = Some(vec![owner_reference(d)]);
    ReplicaSet {
        metadata,
        spec: ReplicaSetSpec { min_ready_seconds: spec.min_ready_seconds, replicas: Some(0), selector, template: Some(template) },
        status: None,
    }
}
