//! Which labels a kubelet may give its own node.
//!
//! Source: `pkg/kubelet/apis/well_known_labels.go`, which both the kubelet's `--node-labels` and the admission plug-in NodeRestriction
//! ask. Everything below the reserved domains is the administrator's (and `node-restriction.kubernetes.io` is his for this very reason),
//! but for what a kubelet knows of its machine.

/// Those of the reserved domains, the old names among them.
const KUBELETS: [&str; 11] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];
/// The domains that are the kubelet's own.
const OWN: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
const RESERVED: [&str; 2] = ["kubernetes.io", "k8s.io"];

/// Whether a label is of no reserved domain, or one of the kubelet's.
pub fn node_may_label(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    let below = |parent: &&str| domain == *parent || domain.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'));
    !RESERVED.iter().any(below) || KUBELETS.contains(&label) || OWN.iter().any(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_is_the_administrators_but_for_what_kubelets_know() {
        let own = ["zone", "example.com/zone", "notkubernetes.io/x", "a.node.kubernetes.io/x", "kubelet.kubernetes.io/x"];
        assert!(own.iter().chain(&KUBELETS).all(|label| node_may_label(label)));
        let others = ["kubernetes.io/role", "node-role.kubernetes.io/worker", "a.node-restriction.kubernetes.io/x", "beta.kubernetes.io/zone", "k8s.io/x"];
        assert!(!others.iter().any(|label| node_may_label(label)));
    }
}
