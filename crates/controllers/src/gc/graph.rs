//! Who owns whom: a graph of all objects by UID, and what a change in it asks for (upstream `graph_builder.go`). Pure.
//!
//! An owner that is only known from its dependents is a *virtual* node until it is seen, or found absent. Its dependents may
//! refer to it in different ways (another kind, name or namespace with the same UID), of which one at most is right: each way
//! is looked for in turn, and who had it wrong is looked at when it turns real. Nothing is deleted on the graph's word alone:
//! it only says what is worth looking at.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use client::Meta;

pub(super) type Uid = Arc<str>;

/// A kind whatever its version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    pub(super) group: String,
    pub(super) kind: String,
}

/// Where an object is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) kind: Arc<Kind>,
    pub(super) namespace: Box<str>,
    pub(super) name: Box<str>,
}

/// A reference to an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) uid: Uid,
    pub(super) kind: Arc<Kind>,
    pub(super) api_version: Arc<str>,
    pub(super) name: Box<str>,
    /// Foreground deletion of the owner waits for this dependent.
    pub(super) blocks: bool,
}

/// What the graph keeps of an object.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) uid: Uid,
    pub(super) place: Place,
    pub(super) owners: Vec<Owner>,
    pub(super) deleting: bool,
    /// It is being deleted, and waits for its dependents.
    pub(super) foreground: bool,
    /// It is being deleted, and its dependents are to be set free first.
    pub(super) orphan: bool,
}

impl Owner {
    /// Where the reference says that the owner is, in a dependent of this namespace.
    pub(super) fn place(&self, namespace: &str) -> Place {
        Place { kind: self.kind.clone(), namespace: namespace.into(), name: self.name.clone() }
    }
}

impl Seen {
    pub(super) fn of(kind: &Arc<Kind>, object: &impl Meta) -> Self {
        let deleting = object.is_deleting();
        let owner = |o: &k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference| Owner {
            uid: o.uid.as_str().into(),
            kind: Arc::new(Kind { group: crate::claim::group(&o.api_version).to_owned(), kind: o.kind.clone() }),
            api_version: o.api_version.as_str().into(),
            name: o.name.as_str().into(),
            blocks: o.block_owner_deletion == Some(true),
        };
        Self {
            uid: object.uid().into(),
            place: Place { kind: kind.clone(), namespace: object.namespace().into(), name: object.name().into() },
            owners: object.meta().owner_references.iter().flatten().map(owner).collect(),
            deleting,
            foreground: deleting && object.has_finalizer("foregroundDeletion"),
            orphan: deleting && object.has_finalizer("orphan"),
        }
    }
}

/// What is to be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Work {
    /// Whether the object is to be deleted, or its deletion can go on.
    Delete(Uid),
    /// The object's dependents are to be set free.
    Orphan(Uid),
}

/// A reference that cannot hold: its owner is in another namespace.
#[derive(Debug, PartialEq)]
pub(super) struct Invalid {
    pub(super) dependent: Uid,
    pub(super) owner: Owner,
    pub(super) namespace: String,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) owners: Vec<Owner>,
    pub(super) dependents: HashSet<Uid>,
    pub(super) deleting: bool,
    pub(super) foreground: bool,
    orphan: bool,
    pub(super) virtual_: bool,
}

#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: HashMap<Uid, Node>,
    /// Owners that were looked for in vain; forgotten when they become many.
    absent: HashSet<(Uid, Place)>,
}

/// Absent owners that are remembered (upstream's cache has 500).
const ABSENT_MAX: usize = 500;

impl Graph {
    pub(super) fn node(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    pub(super) fn is_absent(&self, owner: &Owner, namespace: &str) -> bool {
        self.absent.contains(&(owner.uid.clone(), owner.place(namespace)))
    }

    pub(super) fn note_absent(&mut self, uid: &Uid, place: Place) {
        if self.absent.len() >= ABSENT_MAX {
            self.absent.clear();
        }
        self.absent.insert((uid.clone(), place));
    }

    /// An object that was looked at lives on: those that hold it are in the graph again, if they were taken for absent. Not those
    /// that it lost: each would be looked for and lead back to the object, without a pause, until the object has let go of it.
    pub(super) fn relink(&mut self, uid: &Uid, solid: &[Uid], work: &mut Vec<Work>) {
        let owners = self.nodes.get(uid).map(|n| n.owners.clone()).unwrap_or_default();
        for owner in owners.iter().filter(|o| solid.contains(&o.uid)) {
            if self.nodes.get(&owner.uid).is_none_or(|n| !n.dependents.contains(uid)) {
                self.join(uid, owner, work, &mut Vec::new());
            }
        }
    }

    /// Whether a live look is not worth it: all owners are in the graph as their references say, and none waits for its
    /// dependents.
    pub(super) fn is_settled(&self, node: &Node) -> bool {
        let holds = |o: &Owner| {
            self.nodes
                .get(&o.uid)
                .is_some_and(|n| !n.virtual_ && !n.foreground && n.place.kind == o.kind && n.place.name == o.name && in_reach(&n.place, &node.place))
        };
        !node.virtual_ && !node.foreground && node.owners.iter().all(holds)
    }

    /// Dependents that an object's foreground deletion waits for.
    pub(super) fn blocking(&self, uid: &Uid) -> Vec<Uid> {
        let Some(node) = self.nodes.get(uid) else { return Vec::new() };
        let blocks = |d: &&Uid| self.nodes.get(*d).is_some_and(|n| n.owners.iter().any(|o| o.uid == *uid && o.blocks));
        node.dependents.iter().filter(blocks).cloned().collect()
    }

    /// An object as it is now.
    pub(super) fn see(&mut self, seen: Seen, work: &mut Vec<Work>, invalid: &mut Vec<Invalid>) {
        let uid = seen.uid.clone();
        self.mistaken(&seen, work);
        let (old_owners, was_foreground, was_orphan) = match self.nodes.get_mut(&uid) {
            Some(node) => {
                let known = !node.virtual_;
                let old = (std::mem::take(&mut node.owners), known && node.foreground, known && node.orphan);
                node.place = seen.place;
                node.virtual_ = false;
                node.deleting = seen.deleting;
                node.foreground = seen.foreground;
                node.orphan = seen.orphan;
                old
            }
            None => {
                let node = Node {
                    place: seen.place,
                    owners: Vec::new(),
                    dependents: HashSet::new(),
                    deleting: seen.deleting,
                    foreground: seen.foreground,
                    orphan: seen.orphan,
                    virtual_: false,
                };
                self.nodes.insert(uid.clone(), node);
                (Vec::new(), false, false)
            }
        };
        self.change_owners(&uid, old_owners, seen.owners, work, invalid);
        if seen.orphan && !was_orphan {
            work.push(Work::Orphan(uid));
        } else if seen.foreground && !was_foreground {
            let dependents = self.nodes.get(&uid).map(|n| n.dependents.iter().cloned().collect::<Vec<_>>()).unwrap_or_default();
            work.extend(dependents.into_iter().map(Work::Delete));
            work.push(Work::Delete(uid));
        }
    }

    /// A virtual owner turns real: dependents that meant another are to be looked at (upstream `partitionDependents`).
    fn mistaken(&self, seen: &Seen, work: &mut Vec<Work>) {
        let Some(node) = self.nodes.get(&seen.uid).filter(|n| n.virtual_) else { return };
        let mistaken = node.dependents.iter().filter(|d| {
            let refers = |n: &Node| n.owners.iter().any(|o| o.uid == seen.uid && o.kind == seen.place.kind && o.name == seen.place.name);
            self.nodes.get(*d).is_some_and(|n| !refers(n) || !in_reach(&seen.place, &n.place))
        });
        work.extend(mistaken.cloned().map(Work::Delete));
    }

    fn change_owners(&mut self, uid: &Uid, old: Vec<Owner>, new: Vec<Owner>, work: &mut Vec<Work>, invalid: &mut Vec<Invalid>) {
        for former in &old {
            let now = new.iter().find(|o| o.uid == former.uid);
            // The owner may have waited for this one alone.
            if former.blocks && now.is_none_or(|o| !o.blocks) && self.nodes.contains_key(&former.uid) {
                work.push(Work::Delete(former.uid.clone()));
            }
            if now.is_none() {
                self.leave(uid, &former.uid);
            }
        }
        for owner in new.iter().filter(|o| !old.iter().any(|f| f.uid == o.uid)) {
            self.join(uid, owner, work, invalid);
        }
        if let Some(node) = self.nodes.get_mut(uid) {
            node.owners = new;
        }
    }

    fn join(&mut self, uid: &Uid, owner: &Owner, work: &mut Vec<Work>, invalid: &mut Vec<Invalid>) {
        let Some(place) = self.nodes.get(uid).map(|n| n.place.clone()) else { return };
        if let Some(node) = self.nodes.get_mut(&owner.uid) {
            node.dependents.insert(uid.clone());
            if !node.virtual_ {
                let reach = in_reach(&node.place, &place);
                if !reach {
                    invalid.push(Invalid { dependent: uid.clone(), owner: owner.clone(), namespace: place.namespace.to_string() });
                }
                if !reach || node.place.kind != owner.kind || node.place.name != owner.name || node.foreground {
                    work.push(Work::Delete(uid.clone()));
                }
            }
            return;
        }
        let node = Node {
            place: owner.place(&place.namespace),
            owners: Vec::new(),
            dependents: HashSet::from([uid.clone()]),
            deleting: false,
            foreground: false,
            orphan: false,
            virtual_: true,
        };
        self.nodes.insert(owner.uid.clone(), node);
        work.push(Work::Delete(owner.uid.clone()));
    }

    fn leave(&mut self, uid: &Uid, owner: &Uid) {
        if let Some(node) = self.nodes.get_mut(owner) {
            node.dependents.remove(uid);
            if node.virtual_ && node.dependents.is_empty() {
                self.nodes.remove(owner);
            }
        }
    }

    /// An object is gone, or was found not to be there.
    pub(super) fn gone(&mut self, uid: &Uid, work: &mut Vec<Work>) {
        let Some(mut node) = self.nodes.remove(uid) else { return };
        if !node.dependents.is_empty() {
            self.note_absent(uid, node.place.clone());
        }
        if node.virtual_
            && let Some(other) = self.elsewhere(uid, &node)
        {
            // Those that referred to it there have lost it; the others may have meant what is elsewhere.
            let lost = node.dependents.iter().filter(|d| self.meant(d, uid).any(|p| p == node.place));
            work.extend(lost.cloned().map(Work::Delete));
            node.place = other;
            self.nodes.insert(uid.clone(), node);
            work.push(Work::Delete(uid.clone()));
            return;
        }
        work.extend(node.dependents.into_iter().map(Work::Delete));
        for owner in &node.owners {
            self.leave(uid, &owner.uid);
            if self.nodes.get(&owner.uid).is_some_and(|n| n.foreground) {
                work.push(Work::Delete(owner.uid.clone()));
            }
        }
    }

    /// Where a dependent says that its owner is.
    fn meant<'s>(&'s self, dependent: &Uid, owner: &'s Uid) -> impl Iterator<Item = Place> + use<'s> {
        let node = self.nodes.get(dependent);
        node.into_iter().flat_map(move |n| n.owners.iter().filter(move |o| o.uid == *owner).map(|o| o.place(&n.place.namespace)))
    }

    /// The first place where some dependent says that a virtual owner is and where it was not looked for yet.
    fn elsewhere(&self, uid: &Uid, node: &Node) -> Option<Place> {
        let places = node.dependents.iter().flat_map(|d| self.meant(d, uid));
        let open = places.filter(|p| !self.absent.contains(&(uid.clone(), p.clone())));
        open.min_by(|a, b| (&a.namespace, &a.name, &a.kind.group, &a.kind.kind).cmp(&(&b.namespace, &b.name, &b.kind.group, &b.kind.kind)))
    }
}

/// Whether an owner may own: it is in the dependent's namespace, or in none.
fn in_reach(owner: &Place, dependent: &Place) -> bool {
    owner.namespace.is_empty() || owner.namespace == dependent.namespace
}
