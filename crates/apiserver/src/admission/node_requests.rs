//! NodeRestriction for what a kubelet asks for: certificates of its own and of its pods, and what it may say of a claim.

use super::{World, attributes::named, forbidden, items, text};
use crate::{Operation, Write};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use identity::Attributes;
use machinery::{Value, status::Status};

/// The signers of kubelets' own certificates.
const OWN_SIGNERS: [&str; 2] = ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];
/// What a kubelet tells of a claim that it grows.
const CLAIM_STATUS: [&str; 4] = ["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"];

/// A kubelet's certificate names that node and no other.
pub(super) fn signing(write: &Write<'_>, object: &Value, node: &str) -> Result<(), Status> {
    let spec = &object["spec"];
    if write.operation != Operation::Create || !write.subresource.is_empty() || !OWN_SIGNERS.contains(&text(spec, "signerName")) {
        return Ok(());
    }
    let request = STANDARD.decode(text(spec, "request")).unwrap_or_default();
    let (name, _) = identity::pki::request_subject(&request).map_err(|why| forbidden(write, object, format!("unable to parse csr: {why}")))?;
    match name.strip_prefix("system:node:") {
        Some(own) if own == node => Ok(()),
        _ => Err(forbidden(write, object, format!("can only create a node CSR with CN=system:node:{node}"))),
    }
}

/// A pod's certificate is asked for by the kubelet that runs it, for the account that it runs as, by a signer whose certificates it mounts.
///
/// What may be missing for a moment only is no refusal: whoever asks may try again.
pub(super) fn pod_certificate(world: &World, write: &Write<'_>, object: &Value, node: &str) -> Result<(), Status> {
    let no = |why: String| Err(forbidden(write, object, why));
    let yet = |why: String| Err(Status::new(500, "", why));
    if write.operation != Operation::Create {
        return no(format!("unexpected operation {}", named(write.operation)));
    }
    if !write.subresource.is_empty() {
        return no(format!("unexpected subresource {}", write.subresource));
    }
    let told = |field: &str| text(&object["spec"], field);
    if told("nodeName") != node {
        return no(format!("PodCertificateRequest.Spec.NodeName={:?}, which is not the requesting node {node:?}", told("nodeName")));
    }
    let (name, account) = (format!("{}/{}", write.namespace, told("podName")), told("serviceAccountName"));
    let uid = |object: &Value| text(&object["metadata"], "uid").to_owned();
    let Some(own) = world.get(("", "v1", "nodes"), "", node) else {
        return yet(format!("while retrieving node {node:?} named in the PodCertificateRequest: node {node:?} not found"));
    };
    if uid(&own) != told("nodeUID") {
        let asked = told("nodeUID");
        return yet(format!("PodCertificateRequest for pod {name:?} names node UID {asked:?}, inconsistent with the running node ({:?})", uid(&own)));
    }
    let Some(pod) = world.get(("", "v1", "pods"), write.namespace, told("podName")) else {
        return yet(format!("while retrieving pod {name:?} named in the PodCertificateRequest: pod {:?} not found", told("podName")));
    };
    if uid(&pod) != told("podUID") {
        let asked = told("podUID");
        return yet(format!("PodCertificateRequest for pod {name:?} contains pod UID ({asked:?}) which differs from running pod {:?}", uid(&pod)));
    }
    if text(&pod["spec"], "nodeName") != node {
        return no(format!("pod {name:?} is not running on node {node:?} named in the PodCertificateRequest"));
    }
    if pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string() {
        return no(format!("pod {name:?} is a mirror pod"));
    }
    let running = text(&pod["spec"], "serviceAccountName");
    if running != account {
        return no(format!("PodCertificateRequest for pod {name:?} contains serviceAccountName ({account:?}) that differs from running pod ({running:?})"));
    }
    let Some(found) = world.get(("", "v1", "serviceaccounts"), write.namespace, account) else {
        let whose = format!("{}/{account}", write.namespace);
        return yet(format!("while retrieving service account {whose:?} named in the PodCertificateRequest: serviceaccount {account:?} not found"));
    };
    if uid(&found) != told("serviceAccountUID") {
        let asked = told("serviceAccountUID");
        let why = format!("names service account UID {asked:?}, which differs from the running service account ({:?})", uid(&found));
        return yet(format!("PodCertificateRequest for pod {name:?} {why}"));
    }
    let signer = told("signerName");
    if mounts(&pod, signer) || may_ask(world, write, signer, account) {
        return Ok(());
    }
    no(format!("pod {name:?} does not mount a podCertificate projected volume for signer {signer:?}"))
}

/// Whether a pod mounts certificates of a signer.
fn mounts(pod: &Value, signer: &str) -> bool {
    let sources = items(&pod["spec"]["volumes"]).iter().flat_map(|volume| items(&volume["projected"]["sources"]));
    { sources }.any(|source| source["podCertificate"].is_object() && text(&source["podCertificate"], "signerName") == signer)
}

/// Whether the node may ask for any pod of an account. A resource's name has no slash: a signer's has a colon there.
fn may_ask(world: &World, write: &Write<'_>, signer: &str, account: &str) -> bool {
    world.identity().authorizer.allows(&Attributes {
        user: &write.cx.user,
        verb: "request-serviceaccounts-podcertificate-signer",
        group: &write.row.resource.group,
        version: &write.row.resource.version,
        resource: &signer.replace('/', ":"),
        subresource: "",
        namespace: write.namespace,
        name: account,
        path: "",
        is_resource: true,
        fields: None,
    })
}

/// Of a claim's status a kubelet writes what comes of growing it.
pub(super) fn claim_status(write: &Write<'_>, object: &Value, node: &str) -> Result<(), Status> {
    let Some(old) = write.old.filter(|_| write.operation == Operation::Update) else {
        return Err(forbidden(write, object, format!("unexpected operation {:?}", named(write.operation))));
    };
    let (now, before) = (beside_growth(object), beside_growth(old));
    if now == before {
        return Ok(());
    }
    let changed = kinds::difference("core.PersistentVolumeClaim", &before, &now);
    Err(forbidden(write, object, format!("node {node:?} is not allowed to update fields other than status.quantity and status.conditions: {changed}")))
}

/// A claim without what growing changes, and without what every write does.
fn beside_growth(claim: &Value) -> Value {
    let mut rest = claim.clone();
    for (part, fields) in [("metadata", &["resourceVersion", "managedFields"][..]), ("status", &CLAIM_STATUS[..])] {
        if let Some(part) = rest.get_mut(part).and_then(Value::as_object_mut) {
            part.retain(|field, _| !fields.contains(&field.as_str()));
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::{beside_growth, mounts};
    use serde_json::json;

    #[test]
    fn growth_alone_makes_no_other_claim() {
        let claim = json!({"metadata": {"name": "c", "resourceVersion": "1"}, "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}});
        let grown = json!({"metadata": {"name": "c", "resourceVersion": "2"}, "status": {"phase": "Bound", "capacity": {"storage": "2Gi"}, "conditions": []}});
        assert_eq!(beside_growth(&claim), beside_growth(&grown));
        assert_ne!(beside_growth(&claim), beside_growth(&json!({"metadata": {"name": "c"}, "status": {"phase": "Lost"}})));
    }

    #[test]
    fn a_signer_is_one_whose_certificates_are_mounted() {
        let pod = json!({"spec": {"volumes": [{"name": "e", "emptyDir": {}}, {"name": "p", "projected": {"sources": [
            {"configMap": {"name": "a/b"}}, {"podCertificate": {"signerName": "example.com/s"}}]}}]}});
        assert!(mounts(&pod, "example.com/s"));
        assert!(!mounts(&pod, "example.com/t") && !mounts(&pod, ""));
    }
}
