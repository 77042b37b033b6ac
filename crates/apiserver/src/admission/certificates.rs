//! CertificateApproval, CertificateSigning and CertificateSubjectRestriction: who may approve and sign for a signer, and
//! what no signer of client certificates is asked for. Before them what of a CertificateSigningRequest can only be said by reading
//! keys: whether it is signed by its own. The rest is checked by the kind (upstream does all of it there).

use super::{Plugin, World, creates, forbidden, is, text};
use crate::{Operation, Write, errors};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use identity::Attributes;
use machinery::{
    Value,
    field::{Error, Path},
    quote::Quoted,
    status::Status,
};

/// Whoever asks for a certificate has its key.
pub(super) struct SignedRequests;

impl Plugin for SignedRequests {
    fn name(&self) -> &'static str {
        "CertificateSigningRequests"
    }

    fn validate(&self, _world: &World, write: &Write<'_>, object: &Value) -> Result<(), Status> {
        if !creates(write, "certificates.k8s.io", "certificatesigningrequests") {
            return Ok(());
        }
        let request = text(&object["spec"], "request");
        let pem = STANDARD.decode(request).unwrap_or_default();
        identity::pki::request_is_signed(&pem).map_err(|why| {
            let error = Error::invalid(&Path::root("spec").child("request"), request, why);
            errors::invalid(write.row, text(&object["metadata"], "name"), vec![error])
        })
    }
}

/// Both CertificateApproval and CertificateSigning: they differ in a verb and a subresource.
pub(super) enum CertificateRight {
    Approval,
    Signing,
}

impl Plugin for CertificateRight {
    fn name(&self) -> &'static str {
        match self {
            CertificateRight::Approval => "CertificateApproval",
            CertificateRight::Signing => "CertificateSigning",
        }
    }

    fn validate(&self, world: &World, write: &Write<'_>, object: &Value) -> Result<(), Status> {
        let Some(old) = write.old else { return Ok(()) };
        if !is(write, "certificates.k8s.io", "certificatesigningrequests") || write.operation != Operation::Update {
            return Ok(());
        }
        let verb = match (self, write.subresource) {
            (CertificateRight::Approval, "approval") => "approve",
            (CertificateRight::Signing, "status") if ["certificate", "conditions"].iter().any(|field| object["status"][field] != old["status"][field]) => {
                "sign"
            }
            _ => return Ok(()),
        };
        let signer = text(&old["spec"], "signerName");
        if may(world, write, verb, signer) {
            return Ok(());
        }
        Err(forbidden(write, object, format!("user not permitted to {verb} requests with signerName {}", Quoted(signer))))
    }
}

/// On the signer itself, or on all of its domain.
pub(super) fn may(world: &World, write: &Write<'_>, verb: &str, signer: &str) -> bool {
    let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
    [signer.to_owned(), format!("{domain}/*")].iter().any(|name| {
        world.identity().authorizer.allows(&Attributes {
            user: &write.cx.user,
            verb,
            group: "certificates.k8s.io",
            version: "*",
            resource: "signers",
            subresource: "",
            namespace: "",
            name,
            path: "",
            is_resource: true,
            fields: None,
        })
    })
}

/// ClusterTrustBundleAttest: who may say whom a signer's certificates are to be believed by.
pub(super) struct ClusterTrustBundleAttest;

impl Plugin for ClusterTrustBundleAttest {
    fn name(&self) -> &'static str {
        "ClusterTrustBundleAttest"
    }

    fn validate(&self, world: &World, write: &Write<'_>, object: &Value) -> Result<(), Status> {
        let signer = text(&object["spec"], "signerName");
        let concerned = is(write, "certificates.k8s.io", "clustertrustbundles") && matches!(write.operation, Operation::Create | Operation::Update);
        // The semantics of one that stays the same are not attested again: storage migration and garbage collection touch it.
        let same = write.old.is_some_and(|old| old["spec"] == object["spec"] && without_owners(old) == without_owners(object));
        if !concerned || signer.is_empty() || same || may(world, write, "attest", signer) {
            return Ok(());
        }
        Err(forbidden(write, object, format!("user not permitted to attest for signerName {}", Quoted(signer))))
    }
}

/// The metadata that tells neither owners nor who has written it.
fn without_owners(object: &Value) -> Value {
    let mut meta = object["metadata"].clone();
    for field in ["ownerReferences", "finalizers", "managedFields", "resourceVersion", "generation"] {
        meta.as_object_mut().and_then(|meta| meta.remove(field));
    }
    meta
}

pub(super) struct CertificateSubjectRestriction;

impl Plugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn validate(&self, _world: &World, write: &Write<'_>, object: &Value) -> Result<(), Status> {
        if !creates(write, "certificates.k8s.io", "certificatesigningrequests") || text(&object["spec"], "signerName") != "kubernetes.io/kube-apiserver-client"
        {
            return Ok(());
        }
        let Ok(pem) = STANDARD.decode(text(&object["spec"], "request")) else { return Ok(()) };
        let (_, groups) = identity::pki::request_subject(&pem).map_err(|why| forbidden(write, object, format!("failed to parse CSR: {why}")))?;
        if groups.iter().any(|g| g == "system:masters") {
            let why = "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed";
            return Err(forbidden(write, object, why));
        }
        Ok(())
    }
}
