//! The node authoriser (upstream's `plugin/pkg/auth/authorizer/node`): a node may read what its own pods need, and
//! write what is its own.
//!
//! Upstream keeps a graph beside its caches. Here the question is answered by walking the few objects in between, in
//! the store's memory: the pods of one namespace, mostly. So there is nothing to keep in step.

#[cfg(test)]
mod tests;

use crate::{
    Attributes, Decision, Objects,
    objects::{items, text},
    rbac::Rule,
    user::node_of,
};
use machinery::Value;
use std::sync::{Arc, LazyLock};

const READ: [&str; 3] = ["get", "list", "watch"];

/// Authorises requests of nodes.
pub struct NodeAuthorizer {
    objects: Arc<dyn Objects>,
}

type Answer = Result<(), String>;

fn no(why: impl Into<String>) -> Answer {
    Err(why.into())
}

impl NodeAuthorizer {
    /// Over the objects of a store.
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        NodeAuthorizer { objects }
    }

    /// [`Decision::Allow`], or no opinion with the reason.
    pub fn authorize(&self, asked: &Attributes<'_>) -> (Decision, String) {
        let Some(node) = node_of(asked.user) else { return (Decision::NoOpinion, String::new()) };
        match self.answer(node, asked) {
            Ok(()) => (Decision::Allow, String::new()),
            Err(why) => (Decision::NoOpinion, why),
        }
    }

    fn answer(&self, node: &str, asked: &Attributes<'_>) -> Answer {
        if asked.is_resource {
            match (asked.group, asked.resource) {
                ("", "secrets") => return self.read_namespaced(asked, || self.secret(node, asked.namespace, asked.name)),
                ("", "configmaps") => {
                    return self.read_namespaced(asked, || self.any_pod(node, asked.namespace, |pod| uses_config_map(pod, asked.name)));
                }
                ("", "persistentvolumeclaims") if asked.subresource == "status" => {
                    if !matches!(asked.verb, "get" | "update" | "patch") {
                        return no("can only get/update/patch this type");
                    }
                    return self.related(asked, || self.any_pod(node, asked.namespace, |pod| uses_claim(pod, asked.name)));
                }
                ("", "persistentvolumeclaims") => return self.get(asked, || self.any_pod(node, asked.namespace, |pod| uses_claim(pod, asked.name))),
                ("", "persistentvolumes") => return self.get(asked, || self.volume(node, asked.name)),
                ("resource.k8s.io", "resourceclaims") => {
                    return self.get(asked, || self.any_pod(node, asked.namespace, |pod| uses_resource_claim(pod, asked.name)));
                }
                ("storage.k8s.io", "volumeattachments") => return self.get(asked, || self.attachment(node, asked.name)),
                ("", "serviceaccounts") if asked.subresource == "token" => return self.token(node, asked),
                ("", "serviceaccounts") => return self.get(asked, || self.any_pod(node, asked.namespace, |pod| account(pod) == asked.name)),
                ("", "nodes") => return own_node(node, asked),
                ("", "pods") if asked.verb == "get" && asked.subresource.is_empty() => {
                    return self.related(asked, || self.pod_on(node, asked.namespace, asked.name));
                }
                ("coordination.k8s.io", "leases") => return own_lease(node, asked),
                ("storage.k8s.io", "csinodes") => return own_csi_node(node, asked),
                _ => {}
            }
        }
        if RULES.iter().any(|rule| rule.allows(asked)) { Ok(()) } else { no("") }
    }

    fn read_namespaced(&self, asked: &Attributes<'_>, related: impl FnOnce() -> bool) -> Answer {
        if !READ.contains(&asked.verb) {
            return no("can only read resources of this type");
        }
        if !asked.subresource.is_empty() {
            return no("cannot read subresource");
        }
        if asked.namespace.is_empty() {
            return no("can only read namespaced object of this type");
        }
        self.related(asked, related)
    }

    fn get(&self, asked: &Attributes<'_>, related: impl FnOnce() -> bool) -> Answer {
        if asked.verb != "get" {
            return no("can only get individual resources of this type");
        }
        if !asked.subresource.is_empty() {
            return no("cannot get subresource");
        }
        self.related(asked, related)
    }

    fn related(&self, asked: &Attributes<'_>, related: impl FnOnce() -> bool) -> Answer {
        if asked.name.is_empty() {
            return no("No Object name found");
        }
        if related() { Ok(()) } else { no(format!("no relationship found between node '{}' and this object", node_of(asked.user).unwrap_or_default())) }
    }

    fn token(&self, node: &str, asked: &Attributes<'_>) -> Answer {
        if asked.verb != "create" || asked.name.is_empty() {
            return no("can only create tokens for individual service accounts");
        }
        self.related(asked, || self.any_pod(node, asked.namespace, |pod| account(pod) == asked.name))
    }

    fn any_pod(&self, node: &str, namespace: &str, uses: impl Fn(&Value) -> bool) -> bool {
        let pods = self.objects.list(&format!("/registry/pods/{namespace}/"));
        pods.iter().any(|pod| text(&pod["spec"], "nodeName") == node && uses(pod))
    }

    fn pod_on(&self, node: &str, namespace: &str, name: &str) -> bool {
        let pod = self.objects.get(&format!("/registry/pods/{namespace}/{name}"));
        // A pod that is gone may be asked for: the answer is 404, which tells the node to forget it.
        pod.is_none_or(|pod| text(&pod["spec"], "nodeName") == node)
    }

    /// Secrets: by a pod, by the volumes of its claims, or by its service account's pull secrets (which admission has
    /// written into the pod).
    fn secret(&self, node: &str, namespace: &str, name: &str) -> bool {
        if self.any_pod(node, namespace, |pod| uses_secret(pod, name)) {
            return true;
        }
        let volumes = self.objects.list("/registry/persistentvolumes/");
        volumes.iter().any(|volume| {
            let claim = &volume["spec"]["claimRef"];
            volume_secrets(volume).any(|(n, s)| s == name && (if n.is_empty() { text(claim, "namespace") } else { n }) == namespace)
                && self.volume_used(node, volume)
        })
    }

    fn volume(&self, node: &str, name: &str) -> bool {
        self.objects.get(&format!("/registry/persistentvolumes/{name}")).is_some_and(|volume| self.volume_used(node, &volume))
    }

    fn volume_used(&self, node: &str, volume: &Value) -> bool {
        let claim = &volume["spec"]["claimRef"];
        let name = text(claim, "name");
        !name.is_empty() && self.any_pod(node, text(claim, "namespace"), |pod| uses_claim(pod, name))
    }

    fn attachment(&self, node: &str, name: &str) -> bool {
        let found = self.objects.get(&format!("/registry/volumeattachments/{name}"));
        found.is_some_and(|attachment| text(&attachment["spec"], "nodeName") == node)
    }
}

fn account(pod: &Value) -> &str {
    text(&pod["spec"], "serviceAccountName")
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|list| items(&pod["spec"][list]))
}

/// Volumes, and the sources of projected ones.
fn sources(pod: &Value) -> impl Iterator<Item = &Value> {
    items(&pod["spec"]["volumes"]).iter().flat_map(|v| std::iter::once(v).chain(items(&v["projected"]["sources"])))
}

fn uses_env(pod: &Value, from: &str, key: &str, name: &str) -> bool {
    containers(pod).any(|c| {
        items(&c["envFrom"]).iter().any(|e| text(&e[from], "name") == name) || items(&c["env"]).iter().any(|e| text(&e["valueFrom"][key], "name") == name)
    })
}

fn uses_secret(pod: &Value, name: &str) -> bool {
    let direct = ["azureFile", "cephfs", "cinder", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos"];
    items(&pod["spec"]["imagePullSecrets"]).iter().any(|s| text(s, "name") == name)
        || uses_env(pod, "secretRef", "secretKeyRef", name)
        || sources(pod).any(|s| {
            text(&s["secret"], "secretName") == name
                || text(&s["secret"], "name") == name
                || text(&s["azureFile"], "secretName") == name
                || text(&s["csi"]["nodePublishSecretRef"], "name") == name
                || direct.iter().any(|d| text(&s[*d]["secretRef"], "name") == name)
        })
}

fn uses_config_map(pod: &Value, name: &str) -> bool {
    uses_env(pod, "configMapRef", "configMapKeyRef", name) || sources(pod).any(|s| text(&s["configMap"], "name") == name)
}

fn uses_claim(pod: &Value, name: &str) -> bool {
    items(&pod["spec"]["volumes"]).iter().any(|v| {
        let generic = v["ephemeral"].is_object() && name == format!("{}-{}", text(&pod["metadata"], "name"), text(v, "name"));
        generic || text(&v["persistentVolumeClaim"], "claimName") == name
    })
}

fn uses_resource_claim(pod: &Value, name: &str) -> bool {
    items(&pod["spec"]["resourceClaims"]).iter().any(|c| text(c, "resourceClaimName") == name)
        || items(&pod["status"]["resourceClaimStatuses"]).iter().any(|c| text(c, "resourceClaimName") == name)
        || text(&pod["status"]["extendedResourceClaimStatus"], "resourceClaimName") == name
}

/// Namespace (empty: the claim's) and name of the secrets that a volume needs.
fn volume_secrets(volume: &Value) -> impl Iterator<Item = (&str, &str)> {
    let spec = &volume["spec"];
    let csi = ["controllerPublishSecretRef", "nodePublishSecretRef", "nodeStageSecretRef", "controllerExpandSecretRef", "nodeExpandSecretRef"];
    let kinds = ["cephfs", "cinder", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos"];
    let refs = csi.into_iter().map(move |r| &spec["csi"][r]).chain(kinds.into_iter().map(move |k| &spec[k]["secretRef"]));
    let azure = (text(&spec["azureFile"], "secretNamespace"), text(&spec["azureFile"], "secretName"));
    refs.map(|r| (text(r, "namespace"), text(r, "name"))).chain(std::iter::once(azure)).filter(|(_, name)| !name.is_empty())
}

fn own_node(node: &str, asked: &Attributes<'_>) -> Answer {
    match (asked.verb, asked.subresource) {
        ("create", "") => Ok(()),
        ("get" | "list" | "watch" | "update" | "patch", "") | ("update" | "patch", "status") if asked.name == node => Ok(()),
        ("get" | "list" | "watch", "") => no(format!("node '{node}' cannot read '{}', only its own Node object", asked.name)),
        _ => no(format!("node '{node}' is not allowed to modify node '{}'", asked.name)),
    }
}

fn own_lease(node: &str, asked: &Attributes<'_>) -> Answer {
    if !matches!(asked.verb, "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a node lease");
    }
    if asked.namespace != "kube-node-lease" {
        return no("can only access leases in the \"kube-node-lease\" system namespace");
    }
    if asked.verb != "create" && asked.name != node { no("can only access node lease with the same name as the requesting node") } else { Ok(()) }
}

fn own_csi_node(node: &str, asked: &Attributes<'_>) -> Answer {
    if !matches!(asked.verb, "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a CSINode");
    }
    if !asked.subresource.is_empty() {
        return no("cannot authorize CSINode subresources");
    }
    if asked.verb != "create" && asked.name != node { no("can only access CSINode with the same name as the requesting node") } else { Ok(()) }
}

/// What every node may do besides: the rules of upstream's `system:node` role.
static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let rule = |group: &str, resources: &str, verbs: &str| Rule {
        groups: group.split(' ').map(|g| g.trim_matches('-').to_owned()).collect(),
        resources: resources.split(' ').map(str::to_owned).collect(),
        verbs: verbs.split(' ').map(str::to_owned).collect(),
        ..Rule::default()
    };
    vec![
        rule("authentication.k8s.io", "tokenreviews", "create"),
        rule("authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews", "create"),
        rule("-", "services", "get list watch"),
        rule("- events.k8s.io", "events", "create patch update"),
        rule("-", "pods", "list watch create delete"),
        rule("-", "pods/status", "patch update"),
        rule("-", "pods/eviction", "create"),
        rule("-", "endpoints", "get"),
        rule("certificates.k8s.io", "certificatesigningrequests", "create get list watch"),
        rule("certificates.k8s.io", "clustertrustbundles", "get list watch"),
        rule("certificates.k8s.io", "podcertificaterequests", "create get list watch"),
        rule("storage.k8s.io", "csidrivers", "get list watch"),
        rule("node.k8s.io", "runtimeclasses", "get list watch"),
        rule("resource.k8s.io", "resourceslices", "get list watch create update patch delete deletecollection"),
    ]
});
