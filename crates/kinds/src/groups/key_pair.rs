//! Whether a private key is that of a certificate, in the words of Go's `tls.X509KeyPair`.
//!
//! Nothing is computed: a private key that does not say its public one (Ed25519's, a few of elliptic curves) is taken for the right one.

use super::x509::{self, BIT_STRING, Block, INTEGER, OBJECT_ID, OCTET_STRING, SEQUENCE};

/// Where a private key of an elliptic curve says its public one.
const PUBLIC: u8 = 0xa1;

#[derive(Clone, Copy, PartialEq)]
enum Algorithm {
    Rsa,
    Elliptic,
    Edwards,
}

/// A public key in parts; none where it is not said.
type Parts<'k> = Option<Vec<&'k [u8]>>;

fn algorithm(id: &[u8]) -> Option<Algorithm> {
    match id {
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1] => Some(Algorithm::Rsa),
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1] => Some(Algorithm::Elliptic),
        [0x2b, 0x65, 0x70] => Some(Algorithm::Edwards),
        _ => None,
    }
}

/// What is wrong with a certificate and its key; none if they are a pair.
pub(crate) fn problem(certificate: &str, key: &str) -> Option<String> {
    let (certificates, others): (Vec<_>, Vec<_>) = x509::blocks(certificate).into_iter().partition(|block| block.kind == "CERTIFICATE");
    let Some(leaf) = certificates.first() else { return Some(no_certificate(&others)) };
    let keys = x509::blocks(key);
    let Some(key) = keys.iter().find(|block| block.kind == "PRIVATE KEY" || block.kind.ends_with(" PRIVATE KEY")) else { return Some(no_key(&keys)) };
    let told = match x509::public_key(&leaf.bytes) {
        None => "x509: malformed certificate",
        Some((id, bits)) => match (algorithm(id), private(&key.bytes)) {
            (_, None) => "tls: failed to parse private key",
            (None, _) => "tls: unknown public key algorithm",
            (Some(wanted), Some((found, _))) if wanted != found => "tls: private key type does not match public key type",
            (Some(wanted), Some((_, Some(parts)))) if public(wanted, bits).as_ref() != Some(&parts) => "tls: private key does not match public key",
            _ => return None,
        },
    };
    Some(told.to_owned())
}

fn no_certificate(others: &[Block<'_>]) -> String {
    match others {
        [] => "tls: failed to find any PEM data in certificate input".to_owned(),
        [one] if one.kind.ends_with("PRIVATE KEY") => "tls: failed to find certificate PEM data in certificate input, but did find a private key; \
             PEM inputs may have been switched"
            .to_owned(),
        _ => {
            format!("tls: failed to find \"CERTIFICATE\" PEM block in certificate input after skipping PEM blocks of the following types: [{}]", kinds(others))
        }
    }
}

fn no_key(others: &[Block<'_>]) -> String {
    match others {
        [] => "tls: failed to find any PEM data in key input".to_owned(),
        [one] if one.kind == "CERTIFICATE" => "tls: found a certificate rather than a key in the PEM for the private key".to_owned(),
        _ => format!(
            "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after skipping PEM blocks of the following types: [{}]",
            kinds(others)
        ),
    }
}

fn kinds(blocks: &[Block<'_>]) -> String {
    blocks.iter().map(|block| block.kind).collect::<Vec<_>>().join(" ")
}

/// The parts of a public key by which it is compared.
fn public(algorithm: Algorithm, bits: &[u8]) -> Parts<'_> {
    match algorithm {
        Algorithm::Rsa => Some(x509::values(x509::whole(SEQUENCE, bits)?)?.into_iter().map(|(_, number)| number).collect()),
        Algorithm::Elliptic | Algorithm::Edwards => Some(vec![bits]),
    }
}

/// A private key's algorithm and what it says of its public key: PKCS#1, PKCS#8 or SEC 1.
fn private(bytes: &[u8]) -> Option<(Algorithm, Parts<'_>)> {
    if let Some(parts) = rsa(bytes) {
        return Some((Algorithm::Rsa, Some(parts)));
    }
    let fields = x509::values(x509::whole(SEQUENCE, bytes)?)?;
    let [(INTEGER, _), (SEQUENCE, named), (OCTET_STRING, inner), ..] = fields.as_slice() else {
        return elliptic(bytes).map(|parts| (Algorithm::Elliptic, parts));
    };
    let named = x509::values(named)?;
    let (OBJECT_ID, id) = named.first()? else { return None };
    match algorithm(id)? {
        Algorithm::Rsa => Some((Algorithm::Rsa, Some(rsa(inner)?))),
        Algorithm::Elliptic => Some((Algorithm::Elliptic, elliptic(inner)?)),
        Algorithm::Edwards => Some((Algorithm::Edwards, None)),
    }
}

fn rsa(bytes: &[u8]) -> Parts<'_> {
    match x509::values(x509::whole(SEQUENCE, bytes)?)?.as_slice() {
        [(INTEGER, _), (INTEGER, modulus), (INTEGER, exponent), ..] => Some(vec![*modulus, *exponent]),
        _ => None,
    }
}

fn elliptic(bytes: &[u8]) -> Option<Parts<'_>> {
    match x509::values(x509::whole(SEQUENCE, bytes)?)?.as_slice() {
        [(INTEGER, _), (OCTET_STRING, _), rest @ ..] => {
            let said = rest.iter().find(|(tag, _)| *tag == PUBLIC).and_then(|(_, said)| x509::whole(BIT_STRING, said));
            Some(said.and_then(|bits| bits.get(1..)).map(|bits| vec![bits]))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag, u8::try_from(content.len()).unwrap_or_default()];
        bytes.extend(content);
        bytes
    }

    fn pem(kind: &str, bytes: &[u8]) -> String {
        format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", STANDARD.encode(bytes))
    }

    /// A certificate of an elliptic key, which is `point`.
    fn certificate(point: &[u8]) -> String {
        let named = der(SEQUENCE, &der(OBJECT_ID, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1]));
        let key = der(SEQUENCE, &[named, der(BIT_STRING, &[&[0][..], point].concat())].concat());
        let mut fields = der(INTEGER, &[1]);
        fields.extend((0..4).flat_map(|_| der(SEQUENCE, &[])));
        fields.extend(key);
        pem("CERTIFICATE", &der(SEQUENCE, &[der(SEQUENCE, &fields), der(SEQUENCE, &[]), der(BIT_STRING, &[0])].concat()))
    }

    fn key(point: &[u8]) -> String {
        let said = der(PUBLIC, &der(BIT_STRING, &[&[0][..], point].concat()));
        pem("EC PRIVATE KEY", &der(SEQUENCE, &[der(INTEGER, &[1]), der(OCTET_STRING, &[7]), said].concat()))
    }

    #[test]
    fn a_key_is_compared_with_its_certificate() {
        assert_eq!(problem(&certificate(b"a"), &key(b"a")), None);
        let rsa = pem("RSA PRIVATE KEY", &der(SEQUENCE, &[0, 1, 2].map(|number| der(INTEGER, &[number])).concat()));
        for (certificate, key, told) in [
            (certificate(b"a"), key(b"b"), "tls: private key does not match public key"),
            (certificate(b"a"), rsa, "tls: private key type does not match public key type"),
            (certificate(b"a"), pem("PRIVATE KEY", b"x"), "tls: failed to parse private key"),
            (certificate(b"a"), certificate(b"a"), "tls: found a certificate rather than a key in the PEM for the private key"),
            (certificate(b"a"), "x".to_owned(), "tls: failed to find any PEM data in key input"),
            (pem("CERTIFICATE", b"x"), key(b"a"), "x509: malformed certificate"),
            ("x".to_owned(), key(b"a"), "tls: failed to find any PEM data in certificate input"),
        ] {
            assert_eq!(problem(&certificate, &key).as_deref(), Some(told));
        }
        assert!(problem(&key(b"a"), &key(b"a")).is_some_and(|told| told.ends_with("PEM inputs may have been switched")));
    }
}
