//! Topology spread constraints, compiled: a pod's own, or the cluster's defaults.

use k8s_openapi::api::core::v1::{Pod, TopologySpreadConstraint};
use machinery::labels::Selector;

use crate::rules::{self, Labels};

/// How many more of a pod's like one place may have than another.
#[derive(Clone, Debug)]
pub struct Constraint {
    /// The node label whose value is the place.
    pub key: String,
    /// How many more.
    pub max_skew: i64,
    /// With fewer places than this the emptiest counts as having none.
    pub min_domains: usize,
    /// All must select.
    pub selectors: Vec<Selector>,
    /// Only nodes that the pod's node affinity allows are counted.
    pub honor_affinity: bool,
    /// Only nodes whose taints the pod bears are counted.
    pub honor_taints: bool,
}

impl Constraint {
    /// The constraints that a pod has itself and that ask for this action.
    #[must_use]
    pub fn own(pod: &Pod, action: &str) -> Vec<Self> {
        let constraints = pod.spec.iter().flat_map(|s| s.topology_spread_constraints.iter().flatten());
        Self::of(constraints, pod, action)
    }

    /// Those of these that ask for this action, for a pod.
    pub fn of<'c>(constraints: impl Iterator<Item = &'c TopologySpreadConstraint>, pod: &Pod, action: &str) -> Vec<Self> {
        let all = constraints.filter(|c| c.when_unsatisfiable == action);
        all.map(|c| {
            let mut selectors = vec![Selector::of(c.label_selector.as_ref())];
            let keys = c.match_label_keys.iter().flatten();
            let labels = pod.metadata.labels.as_ref();
            let same: Vec<(&str, &str)> = keys.filter_map(|k| Some((k.as_str(), labels?.get(k)?.as_str()))).collect();
            if !same.is_empty() {
                selectors.push(Selector::from_set(same));
            }
            Self {
                key: c.topology_key.clone(),
                max_skew: i64::from(c.max_skew),
                min_domains: usize::try_from(c.min_domains.unwrap_or(1)).unwrap_or(1),
                selectors,
                honor_affinity: c.node_affinity_policy.as_deref() != Some("Ignore"),
                honor_taints: c.node_taints_policy.as_deref() == Some("Honor"),
            }
        })
        .collect()
    }

    /// Whether a pod with these labels is one of those that are spread.
    #[must_use]
    pub fn selects(&self, labels: Option<&Labels>) -> bool {
        self.selectors.iter().all(|s| rules::selects(s, labels))
    }
}
