//! The node authoriser (upstream's `plugin/pkg/auth/authorizer/node`): a node may read what its own pods need, and
//! write what is its own.
//!
//! Upstream keeps a graph beside its caches. Here the question is answered by walking the few objects in between, in
//! the store's memory: the node's own pods of one namespace. So there is nothing to keep in step; what each pod names is
//! remembered with the pod's revision ([`Remembered`]), so that a question decodes only what has changed since the last.

mod refs;
#[cfg(test)]
mod tests;

use crate::{
    Attributes, Decision, Objects,
    rbac::Rule,
    user::{NODE_PREFIX, NODES, node_of},
};
use machinery::tree::text;
use refs::{Refs, Remembered};
use std::{
    ops::ControlFlow,
    sync::{Arc, LazyLock},
};

const PODS: &str = "/registry/pods/";
const READ: [&str; 3] = ["get", "list", "watch"];

/// Authorises requests of nodes.
pub struct NodeAuthorizer {
    objects: Arc<dyn Objects>,
    remembered: Remembered,
}

type Answer = Result<(), String>;

fn no(why: impl Into<String>) -> Answer {
    Err(why.into())
}

impl NodeAuthorizer {
    /// Over the objects of a store.
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        NodeAuthorizer { objects, remembered: Remembered::default() }
    }

    /// [`Decision::Allow`], or no opinion with the reason.
    pub fn authorize(&self, asked: &Attributes<'_>) -> (Decision, String) {
        let Some(node) = node_of(asked.user) else {
            let nameless = asked.user.name == NODE_PREFIX && asked.user.is_in(NODES);
            return (Decision::NoOpinion, if nameless { format!("unknown node for user {NODE_PREFIX:?}") } else { String::new() });
        };
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
                    return self.read_namespaced(asked, || self.any_pod(node, asked.namespace, |pod| pod.config_maps.has(asked.name)));
                }
                ("", "persistentvolumeclaims") if asked.subresource == "status" => {
                    // Its words name a verb more.
                    if !matches!(asked.verb, "update" | "patch") {
                        return no("can only get/update/patch this type");
                    }
                    return self.related(asked, || self.any_pod(node, asked.namespace, |pod| pod.claims.has(asked.name)));
                }
                ("", "persistentvolumeclaims") => return self.get(asked, || self.any_pod(node, asked.namespace, |pod| pod.claims.has(asked.name))),
                ("", "persistentvolumes") => return self.get(asked, || self.volume(node, asked.name)),
                ("resource.k8s.io", "resourceclaims") => {
                    return self.get(asked, || self.any_pod(node, asked.namespace, |pod| pod.resource_claims.has(asked.name)));
                }
                ("storage.k8s.io", "volumeattachments") => return self.get(asked, || self.attachment(node, asked.name)),
                ("", "serviceaccounts") if asked.verb == "get" && asked.subresource.is_empty() => {
                    return self.read_namespaced(asked, || self.any_pod(node, asked.namespace, |pod| *pod.account == *asked.name));
                }
                ("", "serviceaccounts") => return self.token(node, asked),
                ("", "nodes") => return own_node(node, asked),
                ("", "pods") => return self.own_pods(node, asked),
                ("coordination.k8s.io", "leases") => return own_lease(node, asked),
                ("storage.k8s.io", "csinodes") => return own_csi_node(node, asked),
                ("resource.k8s.io", "resourceslices") => return self.own_slices(node, asked),
                ("certificates.k8s.io", "podcertificaterequests") => return self.own_certificate_requests(node, asked),
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
        if asked.subresource != "token" {
            return no("can only create token subresource of serviceaccount");
        }
        self.related(asked, || self.any_pod(node, asked.namespace, |pod| *pod.account == *asked.name))
    }

    /// Whether a pod of the node in a namespace names something.
    fn any_pod(&self, node: &str, namespace: &str, uses: impl Fn(&Refs) -> bool) -> bool {
        let mut found = false;
        self.pods(node, namespace, |refs| {
            found = uses(refs);
            if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        found
    }

    fn pods(&self, node: &str, namespace: &str, mut visit: impl FnMut(&Refs) -> ControlFlow<()>) {
        self.objects.on_node(&format!("{PODS}{namespace}/"), node, &mut |pod| visit(&self.remembered.of(&pod)));
    }

    fn pod_on(&self, node: &str, namespace: &str, name: &str) -> bool {
        let pod = self.objects.get(&format!("{PODS}{namespace}/{name}"));
        // A pod that is gone may be asked for: the answer is 404, which tells the node to forget it.
        pod.is_none_or(|pod| text(&pod["spec"], "nodeName") == node)
    }

    /// Secrets: by a pod (its account's pull secrets, too, which admission has written into the pod), or by the volumes of its
    /// claims. Those may name secrets of another namespace than the claim's, so that the claims of all the node's pods count.
    fn secret(&self, node: &str, namespace: &str, name: &str) -> bool {
        if self.any_pod(node, namespace, |pod| pod.secrets.has(name)) {
            return true;
        }
        let mut found = false;
        self.pods_everywhere(node, |place, refs| {
            found = refs.claims.iter().any(|claim| self.claim_needs(place, claim, namespace, name));
            if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        found
    }

    fn pods_everywhere(&self, node: &str, mut visit: impl FnMut(&str, &Refs) -> ControlFlow<()>) {
        self.objects.on_node(PODS, node, &mut |pod| {
            let place = pod.key.strip_prefix(PODS).and_then(|rest| rest.split_once('/')).map_or("", |(namespace, _)| namespace);
            visit(place, &self.remembered.of(&pod))
        });
    }

    /// Whether the volume of a claim needs a secret.
    fn claim_needs(&self, place: &str, claim: &str, namespace: &str, name: &str) -> bool {
        let Some(found) = self.objects.get(&format!("/registry/persistentvolumeclaims/{place}/{claim}")) else { return false };
        let Some(volume) = self.objects.get(&format!("/registry/persistentvolumes/{}", text(&found["spec"], "volumeName"))) else { return false };
        let back = &volume["spec"]["claimRef"];
        text(back, "namespace") == place
            && text(back, "name") == claim
            && refs::volume_secrets(&volume).any(|(n, s)| s == name && (if n.is_empty() { place } else { n }) == namespace)
    }

    fn volume(&self, node: &str, name: &str) -> bool {
        let Some(volume) = self.objects.get(&format!("/registry/persistentvolumes/{name}")) else { return false };
        let claim = &volume["spec"]["claimRef"];
        let name = text(claim, "name");
        !name.is_empty() && self.any_pod(node, text(claim, "namespace"), |pod| pod.claims.has(name))
    }

    /// The pods on a node: many at once only where the request says that it wants this node's alone. Which of them it may write,
    /// admission sees.
    fn own_pods(&self, node: &str, asked: &Attributes<'_>) -> Answer {
        let on_node = || self.pod_on(node, asked.namespace, asked.name);
        match (asked.verb, asked.subresource) {
            ("get", "") => self.related(asked, on_node),
            ("list" | "watch", "") if wants_own(node, asked) => Ok(()),
            ("list" | "watch", "") if !asked.name.is_empty() => {
                // Who waits for one that is not there would get one that comes, whosever it is.
                self.related(asked, || self.objects.get(&format!("{PODS}{}/{}", asked.namespace, asked.name)).is_some() && on_node())
            }
            ("list" | "watch", "") => no("can only list/watch pods with spec.nodeName field selector"),
            ("create" | "delete", "") | ("update" | "patch", "status") | ("create", "eviction") => Ok(()),
            _ => no(""),
        }
    }

    /// What a node offers of devices: many at once only where the request says that it wants this node's alone.
    fn own_slices(&self, node: &str, asked: &Attributes<'_>) -> Answer {
        if !asked.subresource.is_empty() {
            return no("cannot authorize ResourceSlice subresources");
        }
        match asked.verb {
            // Whose it is, admission sees.
            "create" => Ok(()),
            "get" | "update" | "patch" | "delete" => self.related(asked, || {
                let slice = self.objects.get(&format!("/registry/resourceslices/{}", asked.name));
                slice.is_some_and(|slice| text(&slice["spec"], "nodeName") == node)
            }),
            "watch" | "list" | "deletecollection" if wants_own(node, asked) => Ok(()),
            "watch" | "list" | "deletecollection" => no("can only list/watch/deletecollection resourceslices with nodeName field selector"),
            _ => no("only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection"),
        }
    }

    /// Certificates that it asks for in its pods' names.
    fn own_certificate_requests(&self, node: &str, asked: &Attributes<'_>) -> Answer {
        if !asked.subresource.is_empty() {
            return no("nodes may not access the status subresource of PodCertificateRequests");
        }
        match asked.verb {
            // For which pod, admission sees.
            "create" => Ok(()),
            "get" => self.related(asked, || {
                let request = self.objects.get(&format!("/registry/podcertificaterequests/{}/{}", asked.namespace, asked.name));
                request.is_some_and(|request| text(&request["spec"], "nodeName") == node)
            }),
            "list" | "watch" if wants_own(node, asked) => Ok(()),
            "list" | "watch" => no("can only list/watch podcertificaterequests with nodeName field selector"),
            verb => no(format!("nodes may not {verb} podcertificaterequests")),
        }
    }

    fn attachment(&self, node: &str, name: &str) -> bool {
        let found = self.objects.get(&format!("/registry/volumeattachments/{name}"));
        found.is_some_and(|attachment| text(&attachment["spec"], "nodeName") == node)
    }
}

/// Whether a request says that it wants what is on this node alone.
fn wants_own(node: &str, asked: &Attributes<'_>) -> bool {
    asked.fields.is_some_and(|fields| fields.exact("spec.nodeName") == Some(node))
}

/// Which Node a node writes, admission sees.
fn own_node(node: &str, asked: &Attributes<'_>) -> Answer {
    match (asked.verb, asked.subresource) {
        ("create" | "update" | "patch", "") | ("update" | "patch", "status") => Ok(()),
        // The name itself: a node looks for its object before there is one.
        ("get" | "list" | "watch", "") if asked.name == node => Ok(()),
        ("get" | "list" | "watch", "") if asked.name.is_empty() => no(format!("node '{node}' cannot read all nodes, only its own Node object")),
        ("get" | "list" | "watch", "") => no(format!("node '{node}' cannot read '{}', only its own Node object", asked.name)),
        _ => no(""),
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
    match asked.subresource {
        "" if matches!(asked.verb, "get" | "create" | "update" | "patch" | "delete") => {}
        "" => return no("can only get, create, update, patch, or delete a CSINode"),
        "status" => return no("CSINode status access requires CSIVolumeHealth feature"),
        _ => return no("cannot authorize CSINode subresources"),
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
        rule("-", "endpoints", "get"),
        rule("certificates.k8s.io", "certificatesigningrequests", "create get list watch"),
        rule("certificates.k8s.io", "clustertrustbundles", "get list watch"),
        rule("storage.k8s.io", "csidrivers", "get list watch"),
        rule("node.k8s.io", "runtimeclasses", "get list watch"),
    ]
});
