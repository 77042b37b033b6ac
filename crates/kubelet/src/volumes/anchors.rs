//! Trust anchors of `ClusterTrustBundle`s for projected volumes: which bundles, and what of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::certificates::v1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::ClusterTrustBundleProjection;
use machinery::labels::Selector;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// Characters of a line of PEM (RFC 7468).
const LINE: usize = 64;

/// The bundles that a source means: the one of its name, or those of its signer that its selector selects, where none selects
/// nothing and an empty one everything. Missing ones are an error unless they are optional.
pub fn select<'a>(all: &'a [Arc<ClusterTrustBundle>], source: &ClusterTrustBundleProjection) -> Result<Vec<&'a ClusterTrustBundle>, String> {
    let optional = source.optional.unwrap_or(false);
    if let Some(name) = &source.name {
        let found = all.iter().find(|b| b.metadata.name.as_ref() == Some(name));
        return match found {
            Some(bundle) => Ok(vec![bundle]),
            None if optional => Ok(Vec::new()),
            None => Err(format!("while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io {name:?} not found")),
        };
    }
    let Some(signer) = &source.signer_name else {
        return Err("ClusterTrustBundle projection requires either name or signerName to be set".into());
    };
    let selector = serde_json::to_value(&source.label_selector).map_err(|e| e.to_string())?;
    let selector = Selector::from_label_selector(&selector).map_err(|e| format!("while parsing label selector: {e}"))?;
    let selected = |b: &ClusterTrustBundle| {
        let label = |key: &str| b.metadata.labels.as_ref()?.get(key).map(String::as_str);
        b.spec.signer_name.as_ref() == Some(signer) && selector.matches(label)
    };
    let found: Vec<_> = all.iter().map(Arc::as_ref).filter(|b| selected(b)).collect();
    if found.is_empty() && !optional {
        return Err("combination of signerName and labelSelector matched zero ClusterTrustBundles".into());
    }
    Ok(found)
}

/// The anchors of these bundles, each once, without what stands around them. The order is that of the bytes: the same as
/// long as the anchors are, and nobody's wish.
pub fn pem(bundles: &[&ClusterTrustBundle]) -> Result<Vec<u8>, String> {
    let mut anchors = BTreeSet::new();
    for bundle in bundles {
        for anchor in CertificateDer::pem_slice_iter(bundle.spec.trust_bundle.as_bytes()) {
            anchors.insert(anchor.map_err(|e| format!("while normalizing trust anchors: {e}"))?.to_vec());
        }
    }
    Ok(blocks(anchors.iter().map(Vec::as_slice)).into_bytes())
}

/// A chain of certificates, in its order, without what stands around them.
pub fn clean_chain(chain: &str) -> Result<String, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
    Ok(blocks(found.map_err(|e| format!("while reading the certificate chain: {e}"))?.iter().map(AsRef::as_ref)))
}

fn blocks<'a>(certificates: impl Iterator<Item = &'a [u8]>) -> String {
    let mut out = String::new();
    for certificate in certificates {
        out.push_str("-----BEGIN CERTIFICATE-----\n");
        let mut text = STANDARD.encode(certificate);
        while !text.is_empty() {
            let rest = text.split_off(text.len().min(LINE));
            out.push_str(&text);
            out.push('\n');
            text = rest;
        }
        out.push_str("-----END CERTIFICATE-----\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::PodUid;
    use crate::testing::FakeApi;
    use crate::volumes::watches::Watches;
    use serde_json::json;
    use tokio::sync::mpsc;

    fn block(bytes: &[u8]) -> String {
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(bytes))
    }

    fn bundle(name: &str, signer: Option<&str>, color: &str, anchors: &[&[u8]]) -> Arc<ClusterTrustBundle> {
        let text = anchors.iter().map(|a| format!("around\n{}", block(a))).collect::<String>();
        let value = json!({"metadata": {"name": name, "labels": {"color": color}}, "spec": {"signerName": signer, "trustBundle": text}});
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn source(value: serde_json::Value) -> ClusterTrustBundleProjection {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_source_means_one_bundle_or_those_of_a_signer() {
        let all = [bundle("a", None, "red", &[b"x"]), bundle("s:1", Some("e.com/s"), "red", &[b"x"]), bundle("s:2", Some("e.com/s"), "blue", &[b"y"])];
        let found = |value| select(&all, &source(value)).map(|b| b.iter().filter_map(|b| b.metadata.name.clone()).collect::<Vec<_>>());
        assert_eq!(found(json!({"name": "a", "path": "p"})).unwrap(), ["a"]);
        assert_eq!(
            found(json!({"name": "z", "path": "p"})).unwrap_err(),
            "while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io \"z\" not found"
        );
        assert_eq!(found(json!({"name": "z", "path": "p", "optional": true})).unwrap(), [""; 0]);
        assert_eq!(found(json!({"signerName": "e.com/s", "labelSelector": {}, "path": "p"})).unwrap(), ["s:1", "s:2"]);
        assert_eq!(found(json!({"signerName": "e.com/s", "labelSelector": {"matchLabels": {"color": "blue"}}, "path": "p"})).unwrap(), ["s:2"]);
        let none = "combination of signerName and labelSelector matched zero ClusterTrustBundles";
        assert_eq!(found(json!({"signerName": "e.com/s", "path": "p"})).unwrap_err(), none, "no selector selects nothing");
        assert_eq!(found(json!({"signerName": "e.com/t", "labelSelector": {}, "path": "p", "optional": true})).unwrap(), [""; 0]);
    }

    #[test]
    fn anchors_come_once_and_in_one_order() {
        let (a, b) = (bundle("a", None, "", &[b"two", b"one"]), bundle("b", None, "", &[b"one", b"three"]));
        let wanted = [&b"one"[..], b"three", b"two"].map(block).concat();
        assert_eq!(pem(&[&a, &b]).unwrap(), wanted.as_bytes());
        assert_eq!(pem(&[&b, &a]).unwrap(), wanted.as_bytes());
        let long = bundle("c", None, "", &[&[7; 100]]);
        let text = String::from_utf8(pem(&[&long]).unwrap()).unwrap();
        assert!(text.lines().all(|line| line.len() <= LINE), "{text}");
    }

    #[tokio::test]
    async fn changes_are_followed_by_the_pods_that_show_them() {
        let api = Arc::new(FakeApi::default());
        let (told, mut stale) = mpsc::unbounded_channel();
        let watches = Watches::new(api.clone(), Arc::new(move |uid: &PodUid| drop(told.send(uid.clone()))));
        watches.watch_trust_bundles(PodUid("u1".into()));
        tokio::task::yield_now().await;
        api.bundles.send_replace(vec![bundle("a", None, "", &[b"x"])]);
        assert_eq!(stale.recv().await, Some(PodUid("u1".into())));
        watches.release(&PodUid("u1".into()));
        tokio::task::yield_now().await;
        assert_eq!(api.bundles.receiver_count(), 0, "the last user ends the watch");
    }
}
