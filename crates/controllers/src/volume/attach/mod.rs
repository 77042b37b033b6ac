//! Attaching: a volume of a CSI driver is attached to the nodes whose pods use it, and to no others.
//!
//! A node and a driver are told what to do by the API alone: a VolumeAttachment asks the driver's attacher, whose status answers;
//! `Node.status.volumesAttached` tells the kubelet what it may mount, `volumesInUse` tells us what it has mounted. A volume is
//! taken from a node in four steps, each of which may be the last before a crash: it goes from `volumesAttached`, the node is
//! asked whether it has it in use, the VolumeAttachment is deleted, and the driver lets it go. A volume that serves one node waits
//! until no other node has it.
//!
//! The original looks at everything every 100 ms, at all pods every three minutes, and once a minute whether what it holds for attached
//! still is. Here what is attached is read from the VolumeAttachments, so that a foreign change of one is an event; pods, claims, volumes,
//! nodes and drivers tell of their changes, each of which queues the volumes that it concerns. Four things no event tells, and each names its
//! time: the six minutes after which a node that is not ready loses a volume that it does not let go, the two minutes that an
//! attacher is waited for, the rest after a failure, and a write of our own that failed. After a restart everything is looked at
//! once: attachments that nobody wants go, a node that does not exist any more counts as having its volumes in use for the six minutes.
//!
//! Drivers in the tree that were translated to CSI (`csi-translation-lib`) are not: their volumes are no CSI volumes here.

mod act;
mod counts;
mod facts;
mod names;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use client::{Client, Delta, Meta, ObjectKey, Recorder, WorkQueue};
use instruments::{Counter, Labelled, Registry};
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use parking_lot::Mutex;

use crate::pods;
use crate::volume::is_through;
use crate::work::{Controller, Cx, Step};
use facts::Facts;
use names::Volume;
use plan::Link;

const WORKERS: usize = 10;

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let client = cx.client("attachdetach-controller");
    let recorder = cx.recorder(&client, "attachdetach-controller");
    let queue = WorkQueue::default();
    let controller = Attaching::new(client, recorder, Facts::new(&cx.informers), queue.clone());
    let controller = Arc::new(Attaching { forced: counts::forced(cx.metrics()), ..controller });
    let facts = &controller.facts;
    cx.metrics().collect(counts::DECLARED, {
        let controller = Arc::downgrade(&controller);
        move |out| controller.upgrade().into_iter().for_each(|controller| counts::tell(&controller.facts, out))
    });
    cx.setup_with(queue, &controller)
        .on(&facts.nodes, Attaching::heard_node)
        .on(&facts.pods, Attaching::heard_pod)
        .on(&facts.claims, Attaching::heard_claim)
        .on(&facts.volumes, |c, queue, change| {
            for volume in states(change).into_iter().filter_map(Volume::of) {
                queue.add(Key::Volume(volume));
            }
            // Its attachments may have been heard of before it was.
            for node in c.facts.attached_to(change.object()) {
                queue.add(Key::Node(node));
            }
        })
        .on(&facts.drivers, Attaching::heard_driver)
        .on(&facts.attachments, Attaching::heard_attachment)
        .work(WORKERS)
        .await;
}

/// The states of an object that a change is about.
fn states<K>(change: &Delta<K>) -> Vec<&K> {
    match change {
        Delta::Added(object) | Delta::Deleted(object) => vec![object],
        Delta::Updated { old, new } => vec![old, new],
    }
}

/// What is worked on: where a volume is, or what a node reports.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Volume(Volume),
    Node(String),
}

struct Attaching {
    client: Client,
    recorder: Recorder,
    facts: Facts,
    queue: WorkQueue<Key>,
    links: Mutex<HashMap<Volume, HashMap<String, Link>>>,
    /// What nodes that are gone had in use when they went.
    gone: Mutex<HashMap<String, HashSet<String>>>,
    /// One writer of a node's report at a time: else one that began before a volume was hidden could show it again.
    reports: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Volumes that were taken from nodes that had not let go of them.
    forced: Arc<Labelled<1, Counter>>,
}

impl Attaching {
    fn new(client: Client, recorder: Recorder, facts: Facts, queue: WorkQueue<Key>) -> Self {
        // Told nowhere until it is said where.
        let forced = counts::forced(&Registry::default());
        Self { client, recorder, facts, queue, links: Mutex::default(), gone: Mutex::default(), reports: Mutex::default(), forced }
    }

    fn heard_node(&self, queue: &WorkQueue<Key>, change: &Delta<Node>) {
        let node = change.object();
        match change {
            Delta::Updated { old, new } if facts::is_same(old, new) && !Arc::ptr_eq(old, new) => return,
            Delta::Updated { old, .. } => self.facts.around(old).into_iter().for_each(|v| queue.add(Key::Volume(v))),
            Delta::Deleted(node) if self.linked_to(node.name()).is_empty() => {}
            Delta::Deleted(node) => {
                self.gone.lock().insert(node.name().to_owned(), facts::in_use(node).map(str::to_owned).collect());
            }
            Delta::Added(node) => drop(self.gone.lock().remove(node.name())),
        }
        self.facts.around(node).into_iter().for_each(|v| queue.add(Key::Volume(v)));
        self.linked_to(node.name()).into_iter().for_each(|v| queue.add(Key::Volume(v)));
        queue.add(Key::Node(node.name().to_owned()));
        let manages = |old: Option<&Node>| old.is_none_or(|old| facts::is_managed(old) != facts::is_managed(node));
        if manages(if let Delta::Updated { old, .. } = change { Some(old) } else { None }) {
            // Pods may be heard of before their node is.
            pods::on_node(&self.facts.pods, node.name()).iter().for_each(|pod| self.queue_of(queue, pod));
        }
    }

    fn heard_pod(&self, queue: &WorkQueue<Key>, change: &Delta<Pod>) {
        if let Delta::Updated { old, new } = change
            && pods::node_name(old) == pods::node_name(new)
            && is_through(old) == is_through(new)
            && !Arc::ptr_eq(old, new)
        {
            return;
        }
        self.queue_of(queue, change.object());
    }

    /// The volumes of a pod that is on a node.
    fn queue_of(&self, queue: &WorkQueue<Key>, pod: &Pod) {
        if pods::node_name(pod).is_empty() {
            return;
        }
        let claims = names::claim_names(pod).map(|(name, _)| ObjectKey::new(pod.namespace(), &name));
        claims.filter_map(|claim| self.facts.bound_to(&claim)).for_each(|volume| queue.add(Key::Volume(volume)));
    }

    fn heard_claim(&self, queue: &WorkQueue<Key>, change: &Delta<PersistentVolumeClaim>) {
        let bound = |claim: &PersistentVolumeClaim| {
            let phase = claim.status.as_ref().and_then(|s| s.phase.clone());
            (phase, claim.spec.as_ref().and_then(|s| s.volume_name.clone()))
        };
        if let Delta::Updated { old, new } = change
            && bound(old) == bound(new)
            && !Arc::ptr_eq(old, new)
        {
            return;
        }
        for claim in states(change) {
            let name = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
            if let Some(volume) = self.facts.volumes.get("", name).and_then(|v| Volume::of(&v)) {
                queue.add(Key::Volume(volume));
            }
        }
    }

    /// A driver may begin to attach, or cease to.
    fn heard_driver(&self, queue: &WorkQueue<Key>, change: &Delta<CSIDriver>) {
        if let Delta::Updated { old, new } = change
            && old.spec.attach_required == new.spec.attach_required
            && !Arc::ptr_eq(old, new)
        {
            return;
        }
        let driver = change.object().name();
        for volume in self.facts.volumes.list().iter().filter_map(|v| Volume::of(v)).filter(|v| v.driver == driver) {
            queue.add(Key::Volume(volume));
        }
    }

    fn heard_attachment(&self, queue: &WorkQueue<Key>, change: &Delta<VolumeAttachment>) {
        let attachment = change.object();
        let node = &attachment.spec.node_name;
        match self.facts.volume_of(attachment) {
            Some(volume) => queue.add(Key::Volume(volume)),
            // Its PersistentVolume may be gone.
            None => self.linked_to(node).into_iter().for_each(|v| queue.add(Key::Volume(v))),
        }
        queue.add(Key::Node(node.clone()));
    }

    /// The volumes of which something is remembered on a node.
    fn linked_to(&self, node: &str) -> Vec<Volume> {
        self.links.lock().iter().filter(|(_, nodes)| nodes.contains_key(node)).map(|(volume, _)| volume.clone()).collect()
    }
}

impl Controller for Attaching {
    const QUEUE: &'static str = "pvcs";
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Step {
        match key {
            Key::Volume(volume) => Ok(self.settle(volume).await),
            Key::Node(node) => self.report(node, None).await.map(|_| None),
        }
    }
}
