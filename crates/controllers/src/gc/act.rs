//! What the garbage collector does about an object that is worth looking at (upstream `garbagecollector.go`).

use std::time::Duration;

use client::{DeleteParams, Error, Meta, PartialObject, Patch, PatchParams, Preconditions, Propagation};
use serde_json::json;

use super::graph::{Owner, Place, Seen, Uid, Work};
use super::{Collector, Known};
use crate::claim::release_patch;
use crate::discovery::Served;
use crate::work::Step;

/// An owner that exists but of whose kind nothing is told: looked at again after this.
const UNSEEN: Duration = Duration::from_secs(30);
/// The dependents of what is to set them free are not all known yet: looked at again after this.
const NOT_ALL_KNOWN: Duration = Duration::from_secs(1);
const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// What became of the owners that an object names.
#[derive(Default)]
struct Owners {
    /// Those that are there, and hold it.
    solid: Vec<Uid>,
    dangling: Vec<Uid>,
    /// Deleted in the foreground: they wait for this object, among others.
    waiting: Vec<Uid>,
    /// Gone, and their dependents were set free before this one was known.
    freed: Vec<Uid>,
}

impl Collector {
    pub(super) async fn attempt_delete(&self, uid: &Uid) -> Step {
        let (place, was_virtual, foreground) = {
            let graph = self.graph.lock();
            let Some(node) = graph.node(uid) else { return Ok(None) };
            if (node.deleting && !node.foreground) || graph.is_settled(node) {
                return Ok(None);
            }
            (node.place.clone(), node.virtual_, node.foreground)
        };
        let served = self.served(&place.kind).ok_or_else(|| unknown(&place))?;
        // For the virtual node of a cluster-wide kind the namespace is its dependent's.
        let latest = match self.get(&served, &place).await? {
            Some(latest) if latest.uid() == &**uid => latest,
            _ => {
                self.gone(uid);
                return Ok(None);
            }
        };
        if was_virtual {
            let still = self.graph.lock().node(uid).is_some_and(|n| n.virtual_);
            return Ok(still.then_some(UNSEEN));
        }
        if foreground {
            return self.go_on(uid, &served, &place).await;
        }
        let seen = Seen::of(&place.kind, &latest);
        if seen.owners.is_empty() {
            return Ok(None);
        }
        let Some(owners) = self.classify(&seen).await? else { return Ok(None) };
        if !owners.freed.is_empty() {
            // Whether anybody else holds it is asked when it has let go of them, which is a change of it.
            return self.drop_owners(&served, &latest, &owners.freed).await.map(|()| None);
        }
        if !owners.solid.is_empty() {
            let mut work = Vec::new();
            self.graph.lock().relink(uid, &owners.solid, &mut work);
            work.into_iter().for_each(|w| self.queue.add(w));
            let lost: Vec<Uid> = owners.dangling.into_iter().chain(owners.waiting).collect();
            return if lost.is_empty() { Ok(None) } else { self.drop_owners(&served, &latest, &lost).await.map(|()| None) };
        }
        let propagation = if !owners.waiting.is_empty() && self.has_dependents(uid) {
            if self.is_in_circle(uid) {
                self.unblock(&served, &latest).await?;
            }
            Propagation::Foreground
        } else if latest.has_finalizer(ORPHAN) {
            Propagation::Orphan
        } else if latest.has_finalizer(FOREGROUND) {
            Propagation::Foreground
        } else {
            Propagation::Background
        };
        self.delete(&served, &latest, propagation).await.map(|()| None)
    }

    /// An object in foreground deletion: when nothing blocks it any more it may go.
    async fn go_on(&self, uid: &Uid, served: &Served, place: &Place) -> Step {
        let blocking = self.graph.lock().blocking(uid);
        if blocking.is_empty() {
            self.remove_finalizer(served, place, uid, FOREGROUND).await?;
            return Ok(None);
        }
        for dependent in blocking {
            let waits = self.graph.lock().node(&dependent).is_some_and(|n| n.foreground);
            if !waits {
                self.queue.add(Work::Delete(dependent));
            }
        }
        Ok(None)
    }

    /// None: an owner that can never hold, which is an error of whoever wrote it and nothing to try again.
    async fn classify(&self, item: &Seen) -> client::Result<Option<Owners>> {
        let mut owners = Owners::default();
        for owner in &item.owners {
            if self.is_freed(&owner.uid) {
                owners.freed.push(owner.uid.clone());
                continue;
            }
            let served = self.served(&owner.kind);
            let namespaced = served.as_ref().is_some_and(|s| s.namespaced);
            let namespace = if namespaced { &*item.place.namespace } else { "" };
            if self.graph.lock().is_absent(owner, namespace) {
                owners.dangling.push(owner.uid.clone());
                continue;
            }
            let Some(served) = served else {
                return Err(unknown(&Place { kind: owner.kind.clone(), namespace: "".into(), name: owner.name.clone() }));
            };
            if served.namespaced && item.place.namespace.is_empty() {
                return Ok(None);
            }
            match self.look_for(owner, &served, namespace).await? {
                None => {
                    self.graph.lock().note_absent(&owner.uid, owner.place(namespace));
                    owners.dangling.push(owner.uid.clone());
                }
                Some(live) if live.is_deleting() && live.has_finalizer(FOREGROUND) => owners.waiting.push(owner.uid.clone()),
                Some(_) => owners.solid.push(owner.uid.clone()),
            }
        }
        Ok(Some(owners))
    }

    async fn look_for(&self, owner: &Owner, served: &Served, namespace: &str) -> client::Result<Option<PartialObject>> {
        let live = self.client.at::<PartialObject>(served.path_in(namespace)).get_opt(&owner.name).await?;
        Ok(live.filter(|l| l.uid() == &*owner.uid))
    }

    async fn get(&self, served: &Served, place: &Place) -> client::Result<Option<PartialObject>> {
        let namespace = if served.namespaced { &*place.namespace } else { "" };
        self.client.at::<PartialObject>(served.path_in(namespace)).get_opt(&place.name).await
    }

    fn has_dependents(&self, uid: &Uid) -> bool {
        self.graph.lock().node(uid).is_some_and(|n| !n.dependents.is_empty())
    }

    /// Whether a dependent waits itself: then nobody in the circle would ever go.
    fn is_in_circle(&self, uid: &Uid) -> bool {
        let graph = self.graph.lock();
        graph.node(uid).is_some_and(|n| n.dependents.iter().any(|d| graph.node(d).is_some_and(|d| d.foreground)))
    }

    async fn delete(&self, served: &Served, latest: &PartialObject, propagation: Propagation) -> client::Result<()> {
        let api = self.client.at::<PartialObject>(served.path_in(latest.namespace()));
        // Only as it was just seen: somebody may have given it an owner since.
        let preconditions = Preconditions { uid: Some(latest.uid().to_owned()), resource_version: Some(latest.resource_version().to_owned()) };
        let params = DeleteParams { propagation: Some(propagation), preconditions, ..DeleteParams::default() };
        let deleted = match api.delete(latest.name(), &params).await {
            Err(error) if error.is_conflict() => {
                let Some(live) = api.get_opt(latest.name()).await? else { return Ok(()) };
                if live.uid() != latest.uid() || live.metadata.owner_references != latest.metadata.owner_references {
                    return Err(error);
                }
                // What is written all the time, but by nobody who would own it, would never go.
                api.delete(latest.name(), &DeleteParams { propagation: Some(propagation), ..DeleteParams::default() }.uid(latest.uid())).await
            }
            other => other,
        };
        match deleted {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    async fn patch(&self, served: &Served, object: &PartialObject, patch: Patch) -> client::Result<()> {
        let api = self.client.at::<PartialObject>(served.path_in(object.namespace()));
        match api.patch(object.name(), &patch, &PatchParams::default()).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Takes owners from an object that has others. A merge patch on the revision seen: custom resources know no other.
    async fn drop_owners(&self, served: &Served, latest: &PartialObject, lost: &[Uid]) -> client::Result<()> {
        let kept: Vec<_> = latest.metadata.owner_references.iter().flatten().filter(|o| !lost.iter().any(|l| **l == *o.uid)).collect();
        let patch = json!({"metadata": {"ownerReferences": kept, "resourceVersion": latest.resource_version(), "uid": latest.uid()}});
        self.patch(served, latest, Patch::Merge(patch)).await
    }

    async fn unblock(&self, served: &Served, latest: &PartialObject) -> client::Result<()> {
        let mut owners = latest.metadata.owner_references.clone().unwrap_or_default();
        owners.iter_mut().filter(|o| o.block_owner_deletion == Some(true)).for_each(|o| o.block_owner_deletion = Some(false));
        let patch = json!({"metadata": {"ownerReferences": owners, "uid": latest.uid()}});
        self.patch(served, latest, Patch::Merge(patch)).await
    }

    async fn remove_finalizer(&self, served: &Served, place: &Place, uid: &Uid, finalizer: &str) -> client::Result<()> {
        let Some(latest) = self.get(served, place).await?.filter(|l| l.uid() == &**uid && l.has_finalizer(finalizer)) else { return Ok(()) };
        let kept: Vec<_> = latest.metadata.finalizers.iter().flatten().filter(|f| *f != finalizer).collect();
        let patch = json!({"metadata": {"finalizers": kept, "resourceVersion": latest.resource_version(), "uid": latest.uid()}});
        self.patch(served, &latest, Patch::Merge(patch)).await
    }

    /// Sets an object's dependents free, then lets it go.
    pub(super) async fn orphan(&self, uid: &Uid) -> Step {
        match self.knows() {
            Known::All => {}
            Known::NotYet => return Ok(Some(NOT_ALL_KNOWN)),
            Known::AllThatCanBe if self.note_freed(uid) => {}
            Known::AllThatCanBe => return Ok(Some(NOT_ALL_KNOWN)),
        }
        let (place, dependents) = {
            let graph = self.graph.lock();
            let Some(node) = graph.node(uid) else { return Ok(None) };
            let dependents: Vec<_> = node.dependents.iter().filter_map(|d| Some((d.clone(), graph.node(d)?.place.clone()))).collect();
            (node.place.clone(), dependents)
        };
        let served = self.served(&place.kind).ok_or_else(|| unknown(&place))?;
        for (dependent, at) in dependents {
            self.set_free(uid, &dependent, &at).await?;
        }
        self.remove_finalizer(&served, &place, uid, ORPHAN).await?;
        Ok(None)
    }

    async fn set_free(&self, owner: &Uid, dependent: &Uid, place: &Place) -> client::Result<()> {
        let served = self.served(&place.kind).ok_or_else(|| unknown(place))?;
        let api = self.client.at::<PartialObject>(served.path_in(&place.namespace));
        match api.patch(&place.name, &Patch::Strategic(release_patch(owner, dependent)), &PatchParams::default()).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_not_found() => return Ok(()),
            // A custom resource has no strategic merge.
            Err(error) if error.status().is_some_and(|s| s.code == 415) => {}
            Err(error) => return Err(error),
        }
        match self.get(&served, place).await?.filter(|l| l.uid() == &**dependent) {
            Some(latest) => self.drop_owners(&served, &latest, std::slice::from_ref(owner)).await,
            None => Ok(()),
        }
    }
}

fn unknown(place: &Place) -> Error {
    let Place { kind, name, .. } = place;
    Error::Decode(format!("unable to get REST mapping for {}/{} ({name})", kind.group, kind.kind))
}
