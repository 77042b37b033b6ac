//! A node as scheduling sees it: what it has, what is taken, who is there.

use std::collections::HashMap;
use std::sync::Arc;

use client::Meta;
use k8s_openapi::api::core::v1::Node;

use crate::pod::PodInfo;
use crate::resources::{self, Resources, Scored};

/// A node with its pods. Sums follow the pods: they change only by [`NodeInfo::add`] and [`NodeInfo::remove`].
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// The node.
    pub node: Arc<Node>,
    /// What it gives to pods.
    pub allocatable: Resources,
    /// How many pods it takes.
    pub allowed_pods: i64,
    /// What its pods ask for.
    pub requested: Resources,
    /// What its pods count as in scores.
    pub scored: Scored,
    /// Its pods, the assumed ones among them.
    pub pods: Vec<Arc<PodInfo>>,
    /// How many of them have wishes about other pods.
    pub with_affinity: usize,
    /// The images that it has, by every name, with their sizes.
    pub images: Arc<HashMap<String, i64>>,
}

impl NodeInfo {
    /// A node without pods.
    #[must_use]
    pub fn new(node: Arc<Node>) -> Self {
        let mut info = Self {
            node: Arc::default(),
            allocatable: Resources::default(),
            allowed_pods: 0,
            requested: Resources::default(),
            scored: Scored::default(),
            pods: Vec::new(),
            with_affinity: 0,
            images: Arc::default(),
        };
        info.set_node(node);
        info
    }

    /// Takes in the node's new state.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let status = node.status.as_ref();
        let allocatable = status.and_then(|s| s.allocatable.as_ref());
        self.allocatable = Resources::from_list(allocatable);
        self.allowed_pods = resources::allowed_pods(allocatable);
        let images = status.and_then(|s| s.images.as_deref()).unwrap_or_default();
        let known = self.node.status.as_ref().and_then(|s| s.images.as_deref()).unwrap_or_default();
        // A heartbeat brings the same images again.
        if images != known {
            let sizes = images.iter().flat_map(|i| i.names.iter().flatten().map(|n| (n.clone(), i.size_bytes.unwrap_or_default())));
            self.images = Arc::new(sizes.collect());
        }
        self.node = node;
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.node.name()
    }

    /// The value of a label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.node.label(key)
    }

    /// Puts a pod on it.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requested);
        self.scored.milli_cpu += pod.scored.milli_cpu;
        self.scored.memory += pod.scored.memory;
        self.with_affinity += usize::from(pod.wants.affinity.is_some());
        self.pods.push(pod);
    }

    /// Takes the pod with this UID off.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let at = self.pods.iter().position(|p| p.pod.uid() == uid)?;
        Some(self.take(at))
    }

    /// Takes this very state of a pod off, which is found without reading any pod.
    pub fn remove_this(&mut self, pod: &Arc<PodInfo>) {
        if let Some(at) = self.pods.iter().position(|p| Arc::ptr_eq(p, pod)) {
            self.take(at);
        }
    }

    fn take(&mut self, at: usize) -> Arc<PodInfo> {
        let pod = self.pods.swap_remove(at);
        self.requested.subtract(&pod.requested);
        self.scored.milli_cpu -= pod.scored.milli_cpu;
        self.scored.memory -= pod.scored.memory;
        self.with_affinity -= usize::from(pod.wants.affinity.is_some());
        pod
    }
}
