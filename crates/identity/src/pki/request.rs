//! What a certificate request becomes when it is signed (upstream `authority.Sign`): of its subject what Go's `pkix.Name` keeps, in that
//! order, its names and addresses, and its key; no other extension that it asks for.
//!
//! The library that makes certificates keeps one value of each type of a subject, and a user may have many groups; nor does it take
//! every key. So it makes the certificate for nobody, subject and key are put in their places, and the whole is signed once more.

use super::given::tlv;
use super::{Ca, armoured, base_params, end_of, possession, usages};
use crate::Error;
use rcgen::{CustomExtension, DnType, IsCa, SanType, SigningKey as _};
use std::{
    borrow::Cow,
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, SystemTime},
};
use x509_parser::{
    certification_request::X509CertificationRequest,
    cri_attributes::ParsedCriAttribute,
    extensions::{ParsedExtension, X509Extension},
    oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME,
    prelude::{FromDer, GeneralName, X509Certificate},
    x509::X509Name,
};

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const BITS: u8 = 0x03;
const PRINTABLE: u8 = 0x13;
const UTF8: u8 = 0x0c;
/// The types of a subject below 2.5.4 of which all values are kept, in this order: country, province, locality, street, postal code, organisation,
/// its unit (`ToRDNSequence` of Go 1.26, with which the original is built).
const LISTS: [u8; 7] = [6, 8, 7, 9, 17, 10, 11];
/// Those of which the last is kept, after the others: the common name, the serial number.
const SINGLE: [u8; 2] = [3, 5];
/// `basicConstraints` of what is no authority (RFC 5280, 4.2.1.9).
const CONSTRAINTS: [u64; 4] = [2, 5, 29, 19];
const NO_AUTHORITY: [u8; 2] = [SEQUENCE, 0];
/// Where subject and key stand in a certificate that has a version and extensions (RFC 5280, 4.1), and how many fields it has.
const SUBJECT: usize = 5;
const KEY: usize = 6;
const FIELDS: usize = 8;

impl Ca {
    /// Signs a certificate request (PEM, PKCS #10): what the signers of certificates.k8s.io do once it is approved. Usages are named
    /// as in `spec.usages`.
    ///
    /// # Errors
    /// The request is no request, its signature is not its key's, or a usage is unknown.
    pub fn sign_request(&self, request_pem: &str, usages: &[String], life: Duration, now: SystemTime) -> Result<String, Error> {
        let (key_usages, extended_key_usages) = usages::purposes(usages)?;
        let unread = |why: String| Error::Key(format!("unable to parse certificate request: {why}"));
        let (_, pem) = x509_parser::pem::parse_x509_pem(request_pem.as_bytes()).map_err(|e| unread(e.to_string()))?;
        let (_, request) = X509CertificationRequest::from_der(&pem.contents).map_err(|e| unread(e.to_string()))?;
        if let Some(why) = malformed(&request) {
            return Err(unread(why.into_owned()));
        }
        let unverified = |why: &str| Error::Key(format!("unable to verify certificate request signature: {why}"));
        if !possession::verified(&request).map_err(|why| unverified(&why))? {
            return Err(unverified("its signature is of a kind that is not verified here"));
        }
        let info = &request.certification_request_info;
        let (_, authority) = X509Certificate::from_der(&self.cert).map_err(|e| Error::Key(e.to_string()))?;
        // Nothing outlives its authority.
        let left = end_of(&authority).duration_since(now).map_err(|_| Error::Key("refusing to sign a certificate that expired in the past".to_owned()))?;
        let mut params = base_params(now, life.min(left))?;
        params.subject_alt_names = names(&request)?;
        let subject = subject(&info.subject);
        if subject != [SEQUENCE, 0] {
            // Names are critical where there is no other subject alone (RFC 5280, 4.2.1.6); this one is put in the place of it.
            params.distinguished_name.push(DnType::CommonName, "-");
        }
        params.is_ca = IsCa::NoCa;
        let mut constraints = CustomExtension::from_oid_content(&CONSTRAINTS, NO_AUTHORITY.to_vec());
        constraints.set_criticality(true);
        params.custom_extensions = vec![constraints];
        (params.key_usages, params.extended_key_usages) = (key_usages, extended_key_usages);
        let key = self.issuer.key();
        let made = params.signed_by(key, &self.issuer)?;
        let odd = || Error::Key("the certificate that was made cannot be read".to_owned());
        let (content, algorithm) = put(made.der(), &subject, info.subject_pki.raw).ok_or_else(odd)?;
        let signature = key.sign(&content)?;
        let bits = tlv(BITS, &[&[0][..], &signature[..]].concat());
        Ok(armoured("CERTIFICATE", &tlv(SEQUENCE, &[&content[..], &algorithm[..], &bits[..]].concat())))
    }
}

/// The extensions that a request asks for, by one attribute or by several.
fn asked<'r>(request: &'r X509CertificationRequest<'r>) -> impl Iterator<Item = &'r X509Extension<'r>> {
    let of = request.certification_request_info.iter_attributes().filter_map(|part| match part.parsed_attribute() {
        ParsedCriAttribute::ExtensionRequest(asked) => Some(&asked.extensions),
        _ => None,
    });
    of.flatten()
}

/// What is wrong with what a request asks for, in the words of Go's `ParseCertificateRequest`.
pub(super) fn malformed(request: &X509CertificationRequest<'_>) -> Option<Cow<'static, str>> {
    let mut kinds = BTreeSet::new();
    if !asked(request).all(|extension| kinds.insert(extension.oid.as_bytes())) {
        return Some("x509: certificate request contains duplicate requested extensions".into());
    }
    let names = asked(request).find(|extension| extension.oid == OID_X509_EXT_SUBJECT_ALT_NAME)?;
    match names.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => names.general_names.iter().find_map(unnameable),
        _ => Some("x509: invalid subject alternative names".into()),
    }
}

fn unnameable(name: &GeneralName<'_>) -> Option<Cow<'static, str>> {
    let kind = match name {
        GeneralName::IPAddress(bytes) if !matches!(bytes.len(), 4 | 16) => {
            return Some(format!("x509: cannot parse IP address of length {}", bytes.len()).into());
        }
        GeneralName::RFC822Name(text) if !text.is_ascii() => 1,
        GeneralName::DNSName(text) if !text.is_ascii() => 2,
        GeneralName::URI(text) if !text.is_ascii() => 6,
        GeneralName::Invalid(tag, _) => tag.0,
        _ => 0,
    };
    match kind {
        1 => Some("x509: SAN rfc822Name is malformed".into()),
        2 => Some("x509: SAN dNSName is malformed".into()),
        6 => Some("x509: SAN uniformResourceIdentifier is malformed".into()),
        _ => None,
    }
}

/// The names that a request asks for, in Go's order.
fn names(request: &X509CertificationRequest<'_>) -> Result<Vec<SanType>, Error> {
    let asked: Vec<&GeneralName<'_>> = asked(request)
        .filter_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => Some(names.general_names.iter()),
            _ => None,
        })
        .flatten()
        .collect();
    let (mut hosts, mut mails, mut ips, mut uris) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for name in asked {
        match name {
            GeneralName::DNSName(name) => hosts.push(SanType::DnsName((*name).try_into()?)),
            GeneralName::RFC822Name(name) => mails.push(SanType::Rfc822Name((*name).try_into()?)),
            GeneralName::IPAddress(bytes) => {
                let ip = <[u8; 4]>::try_from(*bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
                ips.push(SanType::IpAddress(ip.map_err(|_| Error::Key("x509: cannot parse IP address".to_owned()))?));
            }
            GeneralName::URI(name) => uris.push(SanType::URI((*name).try_into()?)),
            _ => {}
        }
    }
    Ok([hosts, mails, ips, uris].concat())
}

/// A subject (DER) as Go writes it anew: each type once, with all its values.
fn subject(asked: &X509Name<'_>) -> Vec<u8> {
    let values = |kind: u8| {
        // By its bytes, as whoever judges a request reads it: a number that is not written at its shortest prints like one that is.
        let all = asked.iter_attributes().filter(|part| part.attr_type().as_bytes() == [0x55, 0x04, kind]);
        all.filter_map(|part| part.as_str().ok()).collect::<Vec<&str>>()
    };
    let lists = LISTS.iter().map(|kind| (*kind, values(*kind)));
    let single = SINGLE.iter().map(|kind| (*kind, values(*kind).pop().filter(|value| !value.is_empty()).into_iter().collect::<Vec<_>>()));
    let parts: Vec<Vec<u8>> = lists.chain(single).filter(|(_, values)| !values.is_empty()).map(|(kind, values)| part(kind, &values)).collect();
    tlv(SEQUENCE, &parts.concat())
}

/// The values of one type, in the order of their encodings, as a set has them.
fn part(kind: u8, values: &[&str]) -> Vec<u8> {
    let oid = [0x06, 0x03, 0x55, 0x04, kind];
    let one = |value: &&str| tlv(SEQUENCE, &[&oid[..], &text(value)[..]].concat());
    let mut all: Vec<Vec<u8>> = values.iter().map(one).collect();
    all.sort_unstable();
    tlv(SET, &all.concat())
}

fn text(value: &str) -> Vec<u8> {
    let is_printable = |b: u8| b.is_ascii_alphanumeric() || b" '()+,-./:=?".contains(&b);
    tlv(if value.bytes().all(is_printable) { PRINTABLE } else { UTF8 }, value.as_bytes())
}

/// What is to be signed of a certificate (DER) with this subject and key, and how it is signed.
fn put(made: &[u8], subject: &[u8], key: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (head, certificate, _) = element(made)?;
    let (start, content, rest) = element(certificate.get(head..)?)?;
    let (_, algorithm, _) = element(rest)?;
    let (mut fields, mut left) = (Vec::new(), content.get(start..)?);
    while !left.is_empty() {
        let (_, field, rest) = element(left)?;
        fields.push(field);
        left = rest;
    }
    if fields.len() != FIELDS {
        return None;
    }
    (fields[SUBJECT], fields[KEY]) = (subject, key);
    Some((tlv(SEQUENCE, &fields.concat()), algorithm.to_vec()))
}

/// The first element of some DER: how long its head is, all of it, and what follows it.
fn element(der: &[u8]) -> Option<(usize, &[u8], &[u8])> {
    let (length, rest) = der.get(1..)?.split_first()?;
    let (head, length) = if *length < 0x80 {
        (2, usize::from(*length))
    } else {
        let bytes = rest.get(..usize::from(*length & 0x7f)).filter(|bytes| (1..=4).contains(&bytes.len()))?;
        (2 + bytes.len(), bytes.iter().fold(0, |sum, byte| (sum << 8) | usize::from(*byte)))
    };
    let (whole, after) = der.split_at_checked(head.checked_add(length)?)?;
    Some((head, whole, after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls_pki_types::{CertificateDer, pem::PemObject};

    /// As openssl makes it: `CN=jane`, `O=dev`, `O=admins`, `emailAddress`; `basicConstraints`, `keyUsage`, and four names.
    const REQUEST: &str = "-----BEGIN CERTIFICATE REQUEST-----
MIIBUjCB+gIBADBEMQ0wCwYDVQQDDARqYW5lMQwwCgYDVQQKDANkZXYxDzANBgNV
BAoMBmFkbWluczEUMBIGCSqGSIb3DQEJARYFYUBiLmMwWTATBgcqhkjOPQIBBggq
hkjOPQMBBwNCAASKTk3IjvpmkX5hdPboF51APBmkW0VisTZZZfauYjWEgj+2IEaE
Uel9PtBUgYnlsRT93WaJVagBdEZd8yFVW8qhoFQwUgYJKoZIhvcNAQkOMUUwQzAJ
BgNVHRMEAjAAMAsGA1UdDwQEAwIHgDApBgNVHREEIjAgggNhLmKHBAoAAAGBBXhA
eS56hgxzcGlmZmU6Ly9hL2IwCgYIKoZIzj0EAwIDRwAwRAIgeYroVRdl2lciPUz3
QDPwmlC0LPeHapGq53t1vrj2PAQCIEyu7YWt5DDYpQTMqZq9XF1A5Vy5sBVfxXxQ
/GG4D16c
-----END CERTIFICATE REQUEST-----
";

    #[test]
    fn a_user_keeps_all_groups_that_were_asked_for() {
        let directory = std::env::temp_dir().join(format!("identity-request-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        let ca = Ca::load_or_create(&directory).expect("an authority");
        let usages = ["client auth".to_owned()];
        let signed = ca.sign_request(REQUEST, &usages, Duration::from_secs(3600), SystemTime::now()).expect("a certificate");
        let der = CertificateDer::from_pem_slice(signed.as_bytes()).expect("PEM");
        let (_, cert) = X509Certificate::from_der(&der).expect("a certificate");
        let groups: Vec<&str> = cert.subject().iter_organization().filter_map(|group| group.as_str().ok()).collect();
        assert_eq!(groups, ["dev", "admins"]);
        let kinds: Vec<String> = cert.subject().iter_attributes().map(|part| part.attr_type().to_id_string()).collect();
        assert_eq!(kinds, ["2.5.4.10", "2.5.4.10", "2.5.4.3"], "and nothing that Go does not keep");
        let (_, authority) = X509Certificate::from_der(ca.cert()).expect("the authority's");
        assert!(cert.verify_signature(Some(authority.public_key())).is_ok(), "signed as it is now");
        assert!(!cert.is_ca());
        let names = cert.subject_alternative_name().ok().flatten().map(|names| (names.critical, names.value.general_names.len()));
        assert_eq!(names, Some((false, 4)), "critical only of who has no other name");
        let (_, pem) = x509_parser::pem::parse_x509_pem(REQUEST.as_bytes()).expect("PEM");
        let (_, request) = X509CertificationRequest::from_der(&pem.contents).expect("a request");
        assert_eq!(cert.public_key().raw, request.certification_request_info.subject_pki.raw);
        let of_another = REQUEST.replace("XF1A5Vy5", "XF1A5Vy6");
        assert!(ca.sign_request(&of_another, &usages, Duration::from_secs(3600), SystemTime::now()).is_err(), "not its key's");
        let _ = std::fs::remove_dir_all(&directory);
    }

    #[test]
    fn texts_are_of_the_types_that_go_gives_them() {
        assert_eq!(text("system:node:a"), [&[PRINTABLE, 13][..], &b"system:node:a"[..]].concat());
        assert_eq!((text("a*b")[0], text("a_b")[0], text("\u{fc}")[0]), (UTF8, UTF8, UTF8));
        assert_eq!(part(10, &["b", "a"]), part(10, &["a", "b"]));
    }

    #[test]
    fn the_parts_of_a_subject_are_in_go_s_order() {
        let parts: Vec<Vec<u8>> = [3, 5, 6, 7, 8, 9, 10, 11, 17].map(|kind| part(kind, &["x"])).to_vec();
        let asked = tlv(SEQUENCE, &parts.concat());
        let made = subject(&X509Name::from_der(&asked).expect("a name").1);
        let (_, made) = X509Name::from_der(&made).expect("a name");
        let kinds: Vec<u8> = made.iter_attributes().filter_map(|part| part.attr_type().as_bytes().last().copied()).collect();
        assert_eq!(kinds, [6, 8, 7, 9, 17, 10, 11, 3, 5]);
    }

    #[test]
    fn a_type_that_is_not_written_at_its_shortest_is_none() {
        let of = |oid: &[u8]| tlv(SEQUENCE, &tlv(SET, &tlv(SEQUENCE, &[&tlv(6, oid)[..], &text("system:masters")[..]].concat())));
        let kept = |name: &[u8]| subject(&X509Name::from_der(name).expect("a name").1);
        let group = of(&[0x55, 4, 10]);
        assert_eq!(kept(&group), group);
        assert_eq!(kept(&of(&[0x55, 4, 0x80, 10])), [SEQUENCE, 0]);
    }

    #[test]
    fn what_go_does_not_read_of_a_request_is_told_in_its_words() {
        const ALTERNATIVE: [u8; 5] = [0x06, 0x03, 0x55, 0x1d, 0x11];
        const ASKED: [u8; 11] = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e];
        let extension = |content: &[u8]| tlv(SEQUENCE, &[&ALTERNATIVE[..], &tlv(4, content)[..]].concat());
        let attribute = |extensions: &[Vec<u8>]| tlv(SEQUENCE, &[&ASKED[..], &tlv(SET, &tlv(SEQUENCE, &extensions.concat()))[..]].concat());
        let (_, pem) = x509_parser::pem::parse_x509_pem(REQUEST.as_bytes()).expect("PEM");
        let (_, plain) = X509CertificationRequest::from_der(&pem.contents).expect("a request");
        let info = &plain.certification_request_info;
        // The signature is not looked at.
        let request = |attributes: &[Vec<u8>]| {
            let asked = tlv(SEQUENCE, &[&[2, 1, 0, SEQUENCE, 0][..], info.subject_pki.raw, &tlv(0xa0, &attributes.concat())[..]].concat());
            let signature = [&[SEQUENCE, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2][..], &[BITS, 2, 0, 0][..]].concat();
            tlv(SEQUENCE, &[asked, signature].concat())
        };
        let told = |attributes: &[Vec<u8>]| {
            let der = request(attributes);
            malformed(&X509CertificationRequest::from_der(&der).expect("a request").1).unwrap_or_default().into_owned()
        };
        let of = |name: &[u8]| told(&[attribute(&[extension(&tlv(SEQUENCE, name))])]);
        assert_eq!(of(&[0x82, 3, b'a', b'.', b'b', 0x87, 4, 10, 0, 0, 1]), "");
        assert_eq!(of(&[0x87, 5, 10, 0, 0, 1, 2]), "x509: cannot parse IP address of length 5");
        assert_eq!(of(&[0x82, 2, 0xc3, 0xbc]), "x509: SAN dNSName is malformed");
        assert_eq!(of(&[0x81, 1, 0xff]), "x509: SAN rfc822Name is malformed");
        assert_eq!(told(&[attribute(&[extension(&[0xff, 0xff])])]), "x509: invalid subject alternative names");
        let name = |host: u8| extension(&tlv(SEQUENCE, &[0x82, 1, host]));
        let twice = "x509: certificate request contains duplicate requested extensions";
        assert_eq!(
            (told(&[attribute(&[name(b'a'), name(b'b')])]).as_str(), told(&[attribute(&[name(b'a')]), attribute(&[name(b'b')])]).as_str()),
            (twice, twice)
        );
        let unread = possession::request_key(&request(&[attribute(&[name(b'a'), name(b'b')])]));
        assert_eq!(unread.map_err(|unfit| unfit.why), Err("must be a valid PKCS#10 CSR"));
        let second = request(&[attribute(&[]), attribute(&[name(b'a')])]);
        let (_, second) = X509CertificationRequest::from_der(&second).expect("a request");
        assert_eq!((malformed(&second), names(&second).expect("names").len()), (None, 1), "what a second attribute asks for counts as well");
    }

    #[test]
    fn elements_are_read_with_their_lengths() {
        let long = tlv(4, &[7; 300]);
        assert_eq!(element(&[long.clone(), vec![5, 0]].concat()), Some((4, long.as_slice(), [5, 0].as_slice())));
        let short: [&[u8]; 6] = [&[], &[4], &[4, 3, 1], &[4, 0x80], &[4, 0x85, 0, 0, 0, 0, 1, 7], &[4, 0x84, 255, 255, 255, 255]];
        for bad in short {
            assert_eq!(element(bad), None, "{bad:?}");
        }
    }
}
