//! What nodes of knarr's may beside what the original lets its own: a node's own rights (the Node authoriser) end at its own Node and its
//! own pods; these objects are what their proxy, DNS and mesh answer from, and tell nothing of pods but addresses.

/// Where a node's settings are.
pub const NAMESPACE: &str = "kube-system";
/// The ConfigMap's name.
pub const NAME: &str = "knarr-node";

/// The rights, as YAML.
pub const RIGHTS: &str = r#"apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: knarr-node, namespace: kube-system}
rules: [{apiGroups: [""], resources: [configmaps], resourceNames: [knarr-node], verbs: [get, list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: knarr-node, namespace: kube-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: knarr-node}
subjects:
- {apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:nodes"}
- {apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:bootstrappers:kubeadm:default-node-token"}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: "system:knarr-node"}
rules:
- {apiGroups: [""], resources: [services, nodes, namespaces], verbs: [get, list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [get, list, watch]}
- {apiGroups: [networking.k8s.io], resources: [servicecidrs], verbs: [get, list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "system:knarr-node"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:knarr-node"}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:nodes"}]
"#;
