//! A pod as scheduling sees it: everything that is asked again and again is worked out once.

use std::collections::BTreeSet;
use std::sync::Arc;

use client::Meta;
use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, PodSpec};
use machinery::labels::Selector;
use machinery::placement::{Preferred, Required, Tolerations};

use crate::constraint::Constraint;
use crate::resources::{self, Resources, Scored};
use crate::rules::{self, Labels};
use crate::world::World;

/// A port of the node that a pod wants for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    ip: String,
    protocol: String,
    port: i32,
}

impl HostPort {
    /// Whether the two cannot be on one node: the same port, and addresses that are equal or one of which is all.
    #[must_use]
    pub fn conflicts(&self, other: &Self) -> bool {
        let everywhere = |p: &Self| p.ip == "0.0.0.0";
        self.port == other.port && self.protocol == other.protocol && (self.ip == other.ip || everywhere(self) || everywhere(other))
    }
}

/// Which pods an affinity or anti-affinity is about, and what must be the same for both.
#[derive(Clone, Debug)]
pub struct Term {
    namespaces: BTreeSet<String>,
    namespace_selector: Option<Selector>,
    selector: Selector,
    /// The node label whose value is the place.
    pub topology_key: String,
}

impl Term {
    fn new(term: &PodAffinityTerm, own_namespace: &str) -> Self {
        let mut namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.insert(own_namespace.to_owned());
        }
        Self {
            namespaces,
            namespace_selector: term.namespace_selector.as_ref().map(|s| Selector::of(Some(s))),
            selector: Selector::of(term.label_selector.as_ref()),
            topology_key: term.topology_key.clone(),
        }
    }

    /// Whether it is about this pod.
    #[must_use]
    pub fn matches(&self, pod: &Pod, world: &World) -> bool {
        let by_label = |s: &Selector| rules::selects(s, world.namespace_labels(pod.namespace()).as_ref());
        if !self.namespaces.contains(pod.namespace()) && !self.namespace_selector.as_ref().is_some_and(by_label) {
            return false;
        }
        rules::selects(&self.selector, pod.metadata.labels.as_ref())
    }

    /// The same where nobody knows the labels of namespaces: they may be those that it selects.
    #[must_use]
    pub fn may_match(&self, pod: &Pod) -> bool {
        (self.namespaces.contains(pod.namespace()) || self.namespace_selector.is_some()) && rules::selects(&self.selector, pod.metadata.labels.as_ref())
    }
}

/// A pod's wishes about other pods.
#[derive(Clone, Debug, Default)]
pub struct Affinity {
    /// Must be near.
    pub required: Vec<Term>,
    /// Must be far.
    pub required_anti: Vec<Term>,
    /// Better near, with weights.
    pub preferred: Vec<(i64, Term)>,
    /// Better far, with weights.
    pub preferred_anti: Vec<(i64, Term)>,
}

impl Affinity {
    fn new(pod: &Pod) -> Option<Box<Self>> {
        let affinity = pod.spec.as_ref()?.affinity.as_ref()?;
        let namespace = pod.namespace();
        let term = |t: &PodAffinityTerm| Term::new(t, namespace);
        let mut out = Self::default();
        if let Some(near) = &affinity.pod_affinity {
            out.required = near.required_during_scheduling_ignored_during_execution.iter().flatten().map(term).collect();
            let weighted = near.preferred_during_scheduling_ignored_during_execution.iter().flatten();
            out.preferred = weighted.map(|w| (i64::from(w.weight), term(&w.pod_affinity_term))).collect();
        }
        if let Some(far) = &affinity.pod_anti_affinity {
            out.required_anti = far.required_during_scheduling_ignored_during_execution.iter().flatten().map(term).collect();
            let weighted = far.preferred_during_scheduling_ignored_during_execution.iter().flatten();
            out.preferred_anti = weighted.map(|w| (i64::from(w.weight), term(&w.pod_affinity_term))).collect();
        }
        let none = out.required.is_empty() && out.required_anti.is_empty() && out.preferred.is_empty() && out.preferred_anti.is_empty();
        (!none).then(|| Box::new(out))
    }
}

/// What a pod's specification asks for, compiled.
#[derive(Clone, Debug, Default)]
pub struct Wants {
    /// The ports of the node that it wants.
    pub ports: Vec<HostPort>,
    /// Its wishes about other pods, if it has any.
    pub affinity: Option<Box<Affinity>>,
    /// What it demands of its node.
    pub required: Required,
    /// What makes a node better.
    pub preferred: Preferred,
    /// What it bears.
    pub tolerations: Tolerations,
    /// Its spread constraints that must hold.
    pub spread: Vec<Constraint>,
    /// Its spread constraints that had better hold.
    pub spread_softly: Vec<Constraint>,
}

impl Wants {
    fn new(pod: &Pod) -> Self {
        let Some(spec) = &pod.spec else { return Self::default() };
        let node = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
        let required = node.and_then(|n| n.required_during_scheduling_ignored_during_execution.as_ref());
        let preferred = node.and_then(|n| n.preferred_during_scheduling_ignored_during_execution.as_ref());
        Self {
            ports: host_ports(spec),
            affinity: Affinity::new(pod),
            required: Required::new(spec.node_selector.as_ref(), required),
            preferred: preferred.map(Preferred::new).unwrap_or_default(),
            tolerations: spec.tolerations.as_ref().map(Tolerations::new).unwrap_or_default(),
            spread: Constraint::own(pod, "DoNotSchedule"),
            spread_softly: Constraint::own(pod, "ScheduleAnyway"),
        }
    }
}

/// A pod and what follows from it.
#[derive(Clone, Debug)]
pub struct PodInfo {
    /// The pod.
    pub pod: Arc<Pod>,
    /// What it takes from a node.
    pub requested: Resources,
    /// What it counts as in scores.
    pub scored: Scored,
    /// What it asks for; shared by its states, since a status does not change it.
    pub wants: Arc<Wants>,
}

impl PodInfo {
    /// Works it out.
    #[must_use]
    pub fn new(pod: Arc<Pod>) -> Self {
        let wants = Arc::new(Wants::new(&pod));
        Self::with(pod, wants)
    }

    /// The pod's next state: what its status does not change is not worked out anew.
    #[must_use]
    pub fn next(&self, pod: Arc<Pod>) -> Self {
        let same = pod.spec == self.pod.spec && pod.metadata.labels == self.pod.metadata.labels;
        let wants = if same { self.wants.clone() } else { Arc::new(Wants::new(&pod)) };
        Self::with(pod, wants)
    }

    fn with(pod: Arc<Pod>, wants: Arc<Wants>) -> Self {
        Self { requested: resources::requested(&pod), scored: resources::scored(&pod), wants, pod }
    }

    /// The pod's specification; empty if it has none, which the API does not let through.
    #[must_use]
    pub fn spec(&self) -> &PodSpec {
        static NONE: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
        self.pod.spec.as_ref().unwrap_or(&NONE)
    }

    /// Its priority; 0 if admission gave it none.
    #[must_use]
    pub fn priority(&self) -> i32 {
        self.spec().priority.unwrap_or_default()
    }

    /// Its labels.
    #[must_use]
    pub fn labels(&self) -> Option<&Labels> {
        self.pod.metadata.labels.as_ref()
    }

    /// The node on which it waits for others to go, by a former preemption; empty if none.
    #[must_use]
    pub fn nominated(&self) -> &str {
        self.pod.status.as_ref().and_then(|s| s.nominated_node_name.as_deref()).unwrap_or_default()
    }

    /// Who is to place it.
    #[must_use]
    pub fn scheduler_name(&self) -> &str {
        scheduler_name(&self.pod)
    }

    /// Whether a gate holds it back.
    #[must_use]
    pub fn is_gated(&self) -> bool {
        self.spec().scheduling_gates.as_ref().is_some_and(|g| !g.is_empty())
    }

    /// The claims that it uses: name, and whether it is made for this pod.
    pub fn claims(&self) -> impl Iterator<Item = (String, bool)> + '_ {
        self.spec().volumes.iter().flatten().filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(claim), _) => Some((claim.claim_name.clone(), false)),
            (None, Some(_)) => Some((client::own_claim(&*self.pod, &volume.name), true)),
            _ => None,
        })
    }

    /// The claims that it names itself.
    pub fn named_claims(&self) -> impl Iterator<Item = String> + '_ {
        self.claims().filter(|(_, own)| !own).map(|(name, _)| name)
    }
}

/// The node on which a pod is; empty if none.
#[must_use]
pub fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
}

/// Who is to place a pod.
#[must_use]
pub fn scheduler_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.scheduler_name.as_deref()).unwrap_or("default-scheduler")
}

/// Whether a pod has ended, so that it takes nothing any more.
#[must_use]
pub fn is_finished(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = port.host_port.filter(|p| *p > 0)?;
            let or = |text: &Option<String>, default: &str| text.clone().filter(|t| !t.is_empty()).unwrap_or_else(|| default.to_owned());
            Some(HostPort { ip: or(&port.host_ip, "0.0.0.0"), protocol: or(&port.protocol, "TCP"), port: number })
        })
        .collect()
}
