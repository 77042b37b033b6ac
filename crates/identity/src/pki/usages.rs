//! What a certificate may be used for, by the names of certificates.k8s.io (`spec.usages`).

use crate::Error;
use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose};

/// IPsec's three and the two of old browsers have no name of their own in the library (RFC 4945 says of the former: not to be used).
const IPSEC_END_SYSTEM: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 5];
const IPSEC_TUNNEL: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 6];
const IPSEC_USER: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 7];
const MICROSOFT_SGC: [u64; 10] = [1, 3, 6, 1, 4, 1, 311, 10, 3, 3];
const NETSCAPE_SGC: [u64; 7] = [2, 16, 840, 1, 113730, 4, 1];

/// Both kinds of usages, each once, in the order of their names.
pub(super) fn purposes(names: &[String]) -> Result<(Vec<KeyUsagePurpose>, Vec<ExtendedKeyUsagePurpose>), Error> {
    let (mut keys, mut extended) = (Vec::new(), Vec::new());
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.sort_unstable();
    for name in names {
        match (key(name), extension(name)) {
            (Some(key), _) if !keys.contains(&key) => keys.push(key),
            (_, Some(usage)) if !extended.contains(&usage) => extended.push(usage),
            (None, None) => return Err(Error::Key(format!("unrecognized usage values: [{name:?}]"))),
            _ => {}
        }
    }
    Ok((keys, extended))
}

fn key(name: &str) -> Option<KeyUsagePurpose> {
    Some(match name {
        "signing" | "digital signature" => KeyUsagePurpose::DigitalSignature,
        "content commitment" => KeyUsagePurpose::ContentCommitment,
        "key encipherment" => KeyUsagePurpose::KeyEncipherment,
        "key agreement" => KeyUsagePurpose::KeyAgreement,
        "data encipherment" => KeyUsagePurpose::DataEncipherment,
        "cert sign" => KeyUsagePurpose::KeyCertSign,
        "crl sign" => KeyUsagePurpose::CrlSign,
        "encipher only" => KeyUsagePurpose::EncipherOnly,
        "decipher only" => KeyUsagePurpose::DecipherOnly,
        _ => return None,
    })
}

fn extension(name: &str) -> Option<ExtendedKeyUsagePurpose> {
    let other = |oid: &[u64]| ExtendedKeyUsagePurpose::Other(oid.to_vec());
    Some(match name {
        "any" => ExtendedKeyUsagePurpose::Any,
        "server auth" => ExtendedKeyUsagePurpose::ServerAuth,
        "client auth" => ExtendedKeyUsagePurpose::ClientAuth,
        "code signing" => ExtendedKeyUsagePurpose::CodeSigning,
        "email protection" | "s/mime" => ExtendedKeyUsagePurpose::EmailProtection,
        "ipsec end system" => other(&IPSEC_END_SYSTEM),
        "ipsec tunnel" => other(&IPSEC_TUNNEL),
        "ipsec user" => other(&IPSEC_USER),
        "timestamping" => ExtendedKeyUsagePurpose::TimeStamping,
        "ocsp signing" => ExtendedKeyUsagePurpose::OcspSigning,
        "microsoft sgc" => other(&MICROSOFT_SGC),
        "netscape sgc" => other(&NETSCAPE_SGC),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usages_are_told_apart() {
        let of = |names: &[&str]| purposes(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        let (keys, extended) = of(&["server auth", "digital signature", "key encipherment", "server auth", "signing"]).expect("usages");
        assert_eq!(keys, [KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment]);
        assert_eq!(extended, [ExtendedKeyUsagePurpose::ServerAuth]);
        assert_eq!(of(&["s/mime", "email protection"]).expect("usages").1, [ExtendedKeyUsagePurpose::EmailProtection]);
        assert_eq!(of(&["flying"]).expect_err("none").to_string(), "unrecognized usage values: [\"flying\"]");
    }
}
