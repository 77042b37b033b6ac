//! Requests for certificates: approved where a rule allows it, signed, and removed when nobody needs them any more;
//! and the authority of the API server's own, published.

pub(crate) mod approving;
pub(crate) mod cleaner;
pub(crate) mod signing;
pub(crate) mod trust_bundle;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use client::Backoff;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension, X509Extension};
use x509_parser::prelude::FromDer;

use crate::meta::seconds;

/// The signer of kubelets' certificates as clients.
pub(crate) const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// The signer of kubelets' certificates as servers.
pub(crate) const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// How long a request waits that could not be seen to (`certificate_controller.go`).
pub(crate) const BACKOFF: Backoff = Backoff { base: Duration::from_millis(200), max: Duration::from_secs(1000) };
/// What the name of a node's user begins with.
pub(crate) const NODE: &str = "system:node:";

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

/// What a request asks for, as far as a kubelet's is judged by it.
#[derive(Debug, Default)]
struct Asked {
    /// The common name; of several the last counts, as for Go.
    name: String,
    /// One that cannot be read here (T.61, UCS-2) is signed all the same: it is an organization like the others.
    organizations: Vec<Option<String>>,
    hosts: Vec<String>,
    addresses: Vec<IpAddr>,
    has_email: bool,
    has_uri: bool,
}

impl Asked {
    fn of(request: &CertificateSigningRequest) -> Result<Asked, String> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(&request.spec.request.0).map_err(|error| error.to_string())?;
        let (_, parsed) = X509CertificationRequest::from_der(&pem.contents).map_err(|error| error.to_string())?;
        let subject = &parsed.certification_request_info.subject;
        let mut asked = Asked {
            name: subject.iter_common_name().last().and_then(|c| c.as_str().ok()).unwrap_or_default().to_owned(),
            organizations: subject.iter_organization().map(|o| o.as_str().ok().map(str::to_owned)).collect(),
            ..Asked::default()
        };
        // By all attributes that ask for some.
        let extensions = parsed.certification_request_info.iter_attributes().filter_map(|part| match part.parsed_attribute() {
            ParsedCriAttribute::ExtensionRequest(asked) => Some(&asked.extensions),
            _ => None,
        });
        for extension in extensions.flatten().map(X509Extension::parsed_extension) {
            let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(host) => asked.hosts.push((*host).to_owned()),
                    GeneralName::IPAddress(octets) => asked.addresses.push(address(octets).ok_or("an IP subjectAltName is no address")?),
                    GeneralName::RFC822Name(_) => asked.has_email = true,
                    GeneralName::URI(_) => asked.has_uri = true,
                    _ => {}
                }
            }
        }
        Ok(asked)
    }

    fn is_of_nodes(&self) -> Result<(), String> {
        let is = matches!(&self.organizations[..], [Some(one)] if one == "system:nodes");
        if is { Ok(()) } else { Err("subject organization is not system:nodes".to_owned()) }
    }

    fn is_named_as_node(&self) -> Result<(), String> {
        if self.name.starts_with(NODE) { Ok(()) } else { Err("subject common name does not begin with system:node:".to_owned()) }
    }
}

/// An address of IPv4 in the dress of one of IPv6 is none here: Go's clients take it for what it leads to, and so every rule would have
/// to look twice.
fn address(octets: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    let ip = four.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()?;
    (ip.to_canonical() == ip).then_some(ip)
}

/// Whether the usages of a request are these; keys that are not RSA's encipher nothing, so that one may be left out.
fn uses(request: &CertificateSigningRequest, wanted: &str) -> Result<(), String> {
    let mut usages: BTreeSet<&str> = request.spec.usages.iter().flatten().map(String::as_str).collect();
    usages.remove("key encipherment");
    if usages == BTreeSet::from([wanted, "digital signature"]) {
        return Ok(());
    }
    let all = BTreeSet::from([wanted, "digital signature", "key encipherment"]);
    Err(format!("usages did not match [{}]", all.into_iter().collect::<Vec<_>>().join(" ")))
}

/// The common name of a request for a kubelet's certificate as a client; else why it is none, in upstream's words
/// (`ValidateKubeletClientCSR`).
pub(crate) fn kubelet_client(request: &CertificateSigningRequest) -> Result<String, String> {
    let asked = Asked::of(request)?;
    asked.is_of_nodes()?;
    for (found, what) in [(!asked.hosts.is_empty(), "DNS"), (asked.has_email, "Email"), (!asked.addresses.is_empty(), "IP"), (asked.has_uri, "URI")] {
        if found {
            return Err(format!("{what} subjectAltNames are not allowed"));
        }
    }
    asked.is_named_as_node()?;
    uses(request, "client auth")?;
    Ok(asked.name)
}

/// What a kubelet's certificate as a server is to be good for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Serving {
    /// `system:node:NAME`.
    pub(crate) name: String,
    /// Its names.
    pub(crate) hosts: Vec<String>,
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
}

/// The same of a kubelet's certificate as a server (`ValidateKubeletServingCSR`).
pub(crate) fn kubelet_serving(request: &CertificateSigningRequest) -> Result<Serving, String> {
    let asked = Asked::of(request)?;
    asked.is_of_nodes()?;
    if asked.hosts.is_empty() && asked.addresses.is_empty() {
        return Err("DNS or IP subjectAltName is required".to_owned());
    }
    for (found, what) in [(asked.has_email, "Email"), (asked.has_uri, "URI")] {
        if found {
            return Err(format!("{what} subjectAltNames are not allowed"));
        }
    }
    uses(request, "server auth")?;
    asked.is_named_as_node()?;
    Ok(Serving { name: asked.name, hosts: asked.hosts, addresses: asked.addresses })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair};

    /// A request for this common name and organization, with this name beside them.
    pub(crate) fn request(name: &str, organization: &str, host: Option<&str>) -> CertificateSigningRequest {
        of(&params(name, organization, &Vec::from_iter(host)), name)
    }

    fn params(name: &str, organization: &str, hosts: &[&str]) -> CertificateParams {
        let mut params = CertificateParams::new(hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>()).expect("names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params
    }

    /// A node's request for its certificate as a server, with these names and addresses.
    pub(crate) fn serving(name: &str, hosts: &[&str]) -> CertificateSigningRequest {
        let mut request = of(&params(name, "system:nodes", hosts), name);
        request.spec.signer_name = KUBELET_SERVING.to_owned();
        request.spec.groups = Some(["system:nodes", "system:authenticated"].map(str::to_owned).to_vec());
        request.spec.usages = Some(["digital signature", "server auth"].map(str::to_owned).to_vec());
        request
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

    #[test]
    fn a_kubelet_serves_under_names_and_addresses() {
        let good = serving("system:node:a", &["a", "192.0.2.1", "2001:db8::1"]);
        let addresses = ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().expect("an address")).to_vec();
        assert_eq!(kubelet_serving(&good), Ok(Serving { name: "system:node:a".to_owned(), hosts: vec!["a".to_owned()], addresses }));
        let why = |r: &CertificateSigningRequest| kubelet_serving(r).expect_err("it is none");
        assert_eq!(why(&serving("system:node:a", &[])), "DNS or IP subjectAltName is required");
        assert_eq!(why(&serving("a", &["a"])), "subject common name does not begin with system:node:");
        assert_eq!(why(&request("system:node:a", "system:masters", Some("a"))), "subject organization is not system:nodes");
        let mut other = good.clone();
        other.spec.usages.get_or_insert_default().push("client auth".to_owned());
        assert_eq!(why(&other), "usages did not match [digital signature key encipherment server auth]");
        assert_eq!(why(&serving("system:node:a", &["a", "::ffff:10.96.0.1"])), "an IP subjectAltName is no address");
        let mut mail = params("system:node:a", "system:nodes", &["a"]);
        mail.subject_alt_names.push(rcgen::SanType::Rfc822Name("a@b.c".try_into().expect("a text")));
        let mut mail = of(&mail, "system:node:a");
        mail.spec.usages = good.spec.usages;
        assert_eq!(why(&mail), "Email subjectAltNames are not allowed");
    }
}
