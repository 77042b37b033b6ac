//! Requests for certificates: approved where a rule allows it, signed, and removed when nobody needs them any more;
//! and the authority of the API server's own, published.

pub(crate) mod approving;
pub(crate) mod cleaner;
pub(crate) mod signing;
pub(crate) mod trust_bundle;

use std::collections::BTreeSet;

use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use crate::meta::seconds;

/// The signer of kubelets' certificates as clients.
pub(crate) const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";

/// Whether a condition of this type is true.
pub(crate) fn is(request: &CertificateSigningRequest, kind: &str) -> bool {
    request.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.type_ == kind && c.status == "True")
}

/// Whether a certificate was made.
pub(crate) fn is_issued(request: &CertificateSigningRequest) -> bool {
    request.status.as_ref().and_then(|s| s.certificate.as_ref()).is_some_and(|certificate| !certificate.0.is_empty())
}

/// A condition that is true from now on.
pub(crate) fn condition(kind: &str, reason: &str, message: impl Into<String>) -> CertificateSigningRequestCondition {
    let now = Some(seconds(client::timestamp()));
    CertificateSigningRequestCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.into()),
        last_transition_time: now.clone(),
        last_update_time: now,
    }
}

/// The common name of a request for a kubelet's certificate as a client; else why it is none, in upstream's words
/// (`ValidateKubeletClientCSR`).
pub(crate) fn kubelet_client(request: &CertificateSigningRequest) -> Result<String, String> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(&request.spec.request.0).map_err(|error| error.to_string())?;
    let (_, parsed) = X509CertificationRequest::from_der(&pem.contents).map_err(|error| error.to_string())?;
    let subject = &parsed.certification_request_info.subject;
    // One that cannot be read here (T.61, UCS-2) is signed all the same: it is an organization like the others.
    let organizations: Vec<Option<&str>> = subject.iter_organization().map(|o| o.as_str().ok()).collect();
    if organizations != [Some("system:nodes")] {
        return Err("subject organization is not system:nodes".to_owned());
    }
    for extension in parsed.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        let has = |is: fn(&GeneralName<'_>) -> bool| names.general_names.iter().any(is);
        for (found, what) in [
            (has(|n| matches!(n, GeneralName::DNSName(_))), "DNS"),
            (has(|n| matches!(n, GeneralName::RFC822Name(_))), "Email"),
            (has(|n| matches!(n, GeneralName::IPAddress(_))), "IP"),
            (has(|n| matches!(n, GeneralName::URI(_))), "URI"),
        ] {
            if found {
                return Err(format!("{what} subjectAltNames are not allowed"));
            }
        }
    }
    let name = subject.iter_common_name().last().and_then(|c| c.as_str().ok()).unwrap_or_default();
    if !name.starts_with("system:node:") {
        return Err("subject common name does not begin with system:node:".to_owned());
    }
    let mut usages: BTreeSet<&str> = request.spec.usages.iter().flatten().map(String::as_str).collect();
    // Keys that are not RSA's encipher nothing.
    usages.remove("key encipherment");
    if usages != BTreeSet::from(["client auth", "digital signature"]) {
        return Err("usages did not match [client auth digital signature key encipherment]".to_owned());
    }
    Ok(name.to_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair};

    /// A request for this common name and organization, with this name beside them.
    pub(crate) fn request(name: &str, organization: &str, host: Option<&str>) -> CertificateSigningRequest {
        let mut params = CertificateParams::new(host.into_iter().map(str::to_owned).collect::<Vec<_>>()).expect("names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, organization);
        of(&params, name)
    }

    fn of(params: &CertificateParams, name: &str) -> CertificateSigningRequest {
        let key = KeyPair::generate().expect("a key");
        let mut request = CertificateSigningRequest::default();
        request.metadata.name = Some("r".to_owned());
        request.spec.signer_name = KUBELET_CLIENT.to_owned();
        request.spec.username = Some(name.to_owned());
        request.spec.usages = Some(["digital signature", "client auth"].map(str::to_owned).to_vec());
        request.spec.request = ByteString(params.serialize_request(&key).and_then(|r| r.pem()).expect("a request").into_bytes());
        request
    }

    #[test]
    fn no_string_of_another_type_slips_through() {
        const COMMON_NAME: &[u64] = &[2, 5, 4, 3];
        const ORGANIZATION: &[u64] = &[2, 5, 4, 10];
        let hidden = |kind: &[u64], text: DnValue| {
            let mut params = CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, "system:node:a");
            params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
            // Under its number it is another entry to rcgen, and the same to whoever reads the request.
            params.distinguished_name.push(DnType::CustomDnType(kind.to_vec()), text);
            kubelet_client(&of(&params, "system:node:a"))
        };
        let t61 = |text: &str| DnValue::TeletexString(text.try_into().expect("a text"));
        let ucs2 = |text: &str| DnValue::BmpString(text.try_into().expect("a text"));
        let organization = Err("subject organization is not system:nodes".to_owned());
        assert_eq!(hidden(ORGANIZATION, t61("system:masters")), organization);
        assert_eq!(hidden(ORGANIZATION, ucs2("system:masters")), organization);
        assert_eq!(hidden(COMMON_NAME, t61("admin")), Err("subject common name does not begin with system:node:".to_owned()));
        assert_eq!(hidden(&[2, 5, 4, 11], t61("a unit")), Ok("system:node:a".to_owned()), "what names nobody is nobody's");
    }

    #[test]
    fn a_kubelet_asks_for_its_own_name_and_nothing_beside_it() {
        assert_eq!(kubelet_client(&request("system:node:a", "system:nodes", None)), Ok("system:node:a".to_owned()));
        let why = |r: CertificateSigningRequest| kubelet_client(&r).expect_err("it is none");
        assert_eq!(why(request("system:node:a", "system:masters", None)), "subject organization is not system:nodes");
        assert_eq!(why(request("a", "system:nodes", None)), "subject common name does not begin with system:node:");
        assert_eq!(why(request("system:node:a", "system:nodes", Some("a.b"))), "DNS subjectAltNames are not allowed");
        assert_eq!(why(request("system:node:a", "system:nodes", Some("10.0.0.1"))), "IP subjectAltNames are not allowed");
        let mut other = request("system:node:a", "system:nodes", None);
        other.spec.usages.get_or_insert_default().push("key encipherment".to_owned());
        assert!(kubelet_client(&other).is_ok(), "an RSA key may be for that, too");
        other.spec.usages.get_or_insert_default().push("server auth".to_owned());
        assert_eq!(why(other), "usages did not match [client auth digital signature key encipherment]");
    }
}
