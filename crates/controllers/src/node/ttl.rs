//! How many seconds a node may keep what it has read of Secrets and ConfigMaps before it asks again: an annotation that grows
//! with the cluster (upstream `pkg/controller/ttl`).
//!
//! The steps overlap, so that a cluster whose size goes up and down around a boundary does not have all nodes written again and
//! again. Which step it is on depends on where it comes from: a start begins at the first one.
//!
//! What holds it: when the step changes every node is looked at, where the original leans on each node's own status to bring it
//! back; an annotation that somebody changes is heard and put right.

use std::sync::Arc;

use client::{Client, Delta, Informer, Meta, Patch, PatchParams, WorkQueue};
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use serde_json::json;

use crate::meta::annotations;
use crate::work::{Controller, Cx, Step};

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

/// One size of a cluster: the least and the most nodes with which it stays of that size, and the seconds that it gives.
struct Size {
    nodes_min: usize,
    nodes_max: usize,
    ttl_s: i64,
}

/// Upstream's `ttlBoundaries`.
const SIZES: [Size; 5] = [
    Size { nodes_min: 0, nodes_max: 100, ttl_s: 0 },
    Size { nodes_min: 90, nodes_max: 500, ttl_s: 15 },
    Size { nodes_min: 450, nodes_max: 1_000, ttl_s: 30 },
    Size { nodes_min: 900, nodes_max: 2_000, ttl_s: 60 },
    Size { nodes_min: 1_800, nodes_max: usize::MAX, ttl_s: 300 },
];

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let controller = Arc::new(Ttl { client: cx.client("ttl-controller"), nodes: cx.informers.informer(), count: Mutex::default() });
    cx.setup(&controller).on(&controller.nodes, Ttl::heard).work(5).await;
}

/// How many nodes were heard of, and the size that they make.
#[derive(Default)]
struct Count {
    nodes: usize,
    size: usize,
}

impl Count {
    /// Counts a change; whether the size is another one now.
    fn note<K>(&mut self, change: &Delta<K>) -> bool {
        match change {
            Delta::Added(_) => self.nodes += 1,
            Delta::Deleted(_) => self.nodes = self.nodes.saturating_sub(1),
            Delta::Updated { .. } => return false,
        }
        let before = self.size;
        if self.nodes > SIZES[before].nodes_max {
            self.size += 1;
        } else if self.nodes < SIZES[before].nodes_min {
            self.size -= 1;
        }
        self.size != before
    }
}

struct Ttl {
    client: Client,
    nodes: Informer<Node>,
    count: Mutex<Count>,
}

impl Ttl {
    fn heard(&self, queue: &WorkQueue<String>, change: &Delta<Node>) {
        let resized = self.count.lock().note(change);
        if resized {
            self.nodes.list().iter().for_each(|node| queue.add(node.name().to_owned()));
        } else if !matches!(change, Delta::Deleted(_)) {
            queue.add(change.object().name().to_owned());
        }
    }
}

impl Controller for Ttl {
    const QUEUE: &'static str = "ttlcontroller";
    type Key = String;

    async fn reconcile(&self, name: &String) -> Step {
        let Some(node) = self.nodes.get("", name) else { return Ok(None) };
        let ttl_s = SIZES[self.count.lock().size].ttl_s;
        if annotations(&*node).get(ANNOTATION).is_some_and(|text| text.parse() == Ok(ttl_s)) {
            return Ok(None);
        }
        let patch = json!({"metadata": {"uid": node.uid(), "annotations": {ANNOTATION: ttl_s.to_string()}}});
        match self.client.all::<Node>().patch(name, &Patch::Strategic(patch), &PatchParams::default()).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, refusal};

    fn node(name: &str, ttl: Option<&str>) -> Node {
        let mut node = Node { metadata: crate::meta::new_meta("", name), ..Node::default() };
        node.metadata.uid = Some(format!("uid-{name}"));
        node.metadata.annotations = ttl.map(|ttl| [(ANNOTATION.to_owned(), ttl.to_owned())].into());
        node
    }

    #[test]
    fn the_size_goes_up_above_its_most_and_down_below_its_least() {
        let (mut count, mut changes) = (Count::default(), Vec::new());
        let any = Arc::new(());
        for change in std::iter::repeat_n(Delta::Added(any.clone()), 2_001).chain(std::iter::repeat_n(Delta::Deleted(any.clone()), 2_001)) {
            if count.note(&change) {
                changes.push((count.nodes, SIZES[count.size].ttl_s));
            }
        }
        assert_eq!(changes, [(101, 15), (501, 30), (1_001, 60), (2_001, 300), (1_799, 60), (899, 30), (449, 15), (89, 0)]);
        assert!(!count.note(&Delta::Deleted(any.clone())) && count.nodes == 0, "one that was never counted");
        assert!(!count.note(&Delta::Updated { old: any.clone(), new: any }) && count.nodes == 0);
    }

    #[tokio::test]
    async fn what_a_node_tells_is_what_the_size_gives() {
        let nodes = [node("none", None), node("right", Some("15")), node("same", Some("+15")), node("old", Some("0")), node("odd", Some("soon"))];
        let fake = Fake::new(|_, path: &str| match path.ends_with("/odd") {
            true => refusal(404, "NotFound"),
            false => (200, json!({"kind": "Node", "apiVersion": "v1", "metadata": {}})),
        });
        let names = nodes.each_ref().map(|n| n.name().to_owned());
        let ttl = Ttl { client: fake.client(), nodes: Informer::fixed(nodes), count: Mutex::new(Count { nodes: 101, size: 1 }) };
        for name in names.iter().chain([&"gone".to_owned()]) {
            assert_eq!(ttl.reconcile(name).await.expect("a step"), None);
        }
        let patch = |name| format!(r#"PATCH /api/v1/nodes/{name} {{"metadata":{{"annotations":{{"{ANNOTATION}":"15"}},"uid":"uid-{name}"}}}}"#);
        assert_eq!(fake.written(), ["none", "old", "odd"].map(patch));
    }

    #[tokio::test]
    async fn another_size_looks_at_every_node() {
        let ttl = |nodes| {
            let all = Informer::fixed((0..100).map(|n| node(&n.to_string(), None)));
            Ttl { client: Fake::new(|_, _: &str| refusal(500, "")).client(), nodes: all, count: Mutex::new(Count { nodes, size: 0 }) }
        };
        let (queue, new) = (WorkQueue::default(), Arc::new(node("new", None)));
        ttl(99).heard(&queue, &Delta::Added(new.clone()));
        assert_eq!(queue.len(), 1, "itself");
        ttl(99).heard(&queue, &Delta::Deleted(Arc::new(node("gone", None))));
        assert_eq!(queue.len(), 1, "nobody");
        ttl(100).heard(&queue, &Delta::Added(new));
        assert_eq!(queue.len(), 101);
        assert!(ttl(0).reconcile(&"1".to_owned()).await.is_err(), "it is tried again");
    }
}
