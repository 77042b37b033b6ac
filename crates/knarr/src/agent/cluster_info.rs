//! The ConfigMap `cluster-info` in `kube-public`: where a cluster is reached and by which authority its API server is known, for those
//! who trust nobody yet (upstream's KEP 1314; kubeadm's `discovery/token`).

use anyhow::{Context as _, anyhow, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE_NO_PAD};
use controllers::bootstrap_signer;
use k8s_openapi::api::core::v1::ConfigMap;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde_yaml_ng::Value;

use crate::{certificates, token::Token};

/// Where it is.
pub const NAMESPACE: &str = "kube-public";
/// Its name.
pub const NAME: &str = "cluster-info";
/// The key of what is signed.
const CONTENT: &str = "kubeconfig";
/// Before a token's ID: the key of its signature.
const SIGNATURE: &str = "jws-kubeconfig-";

/// What it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterInfo {
    /// The API server's address, `https://HOST:PORT`.
    pub server: String,
    /// The authorities of its certificate, as PEM.
    pub ca: String,
}

/// The part that is signed: a kubeconfig without a user.
pub fn content(map: &ConfigMap) -> anyhow::Result<&str> {
    let content = map.data.as_ref().and_then(|data| data.get(CONTENT)).filter(|content| !content.is_empty());
    content.map(String::as_str).with_context(|| format!("the ConfigMap {NAMESPACE}/{NAME} has no {CONTENT}"))
}

/// Whether a token has signed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signed {
    /// It has.
    Yes,
    /// There is no signature of this token: it is not known, has ended, or is new.
    Unknown,
    /// There is one, with another secret.
    Otherwise,
}

/// Whether this token has signed it.
pub fn signed(map: &ConfigMap, token: &Token) -> anyhow::Result<Signed> {
    let content = URL_SAFE_NO_PAD.encode(content(map)?);
    let there = map.data.as_ref().and_then(|data| data.get(&format!("{SIGNATURE}{}", token.id)));
    let own = bootstrap_signer::signature(&content, &token.id, token.secret.as_bytes());
    Ok(match there {
        None => Signed::Unknown,
        Some(there) if *there == own => Signed::Yes,
        Some(_) => Signed::Otherwise,
    })
}

impl ClusterInfo {
    /// Reads the content.
    pub fn read(content: &str) -> anyhow::Result<ClusterInfo> {
        let file: Value = serde_yaml_ng::from_str(content).with_context(|| format!("{NAMESPACE}/{NAME} is no kubeconfig"))?;
        let cluster = file.get("clusters").and_then(|all| all.get(0)).and_then(|first| first.get("cluster"));
        let text = |key: &str| cluster.and_then(|c| c.get(key)).and_then(Value::as_str).filter(|text| !text.is_empty());
        let server = text("server").with_context(|| format!("{NAMESPACE}/{NAME} names no server"))?;
        let data = text("certificate-authority-data").with_context(|| format!("{NAMESPACE}/{NAME} names no authority"))?;
        let ca = STANDARD
            .decode(data)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .with_context(|| format!("the authority in {NAMESPACE}/{NAME} is no text in base64"))?;
        let info = ClusterInfo { server: server.to_owned(), ca };
        info.authorities()?;
        Ok(info)
    }

    /// The authorities of the API server's certificate; at least one.
    pub fn authorities(&self) -> anyhow::Result<Vec<CertificateDer<'static>>> {
        authorities(&self.ca)
    }

    /// Hashes of their keys.
    pub fn pins(&self) -> anyhow::Result<Vec<String>> {
        self.authorities()?.iter().map(|ca| Ok(identity::pki::pin(ca)?)).collect()
    }

    /// The same with those of its authorities alone that have one of these hashes: who is beside them is trusted by nobody. Refused if
    /// there is none.
    pub fn pinned(self, hashes: &[String]) -> anyhow::Result<ClusterInfo> {
        let own = self.pins()?;
        let known = own.iter().map(|pin| hashes.iter().any(|hash| hash.eq_ignore_ascii_case(pin)));
        let ca: String = self.authorities()?.iter().zip(known).filter(|(_, known)| *known).map(|(ca, _)| certificates::pem(ca)).collect();
        if !ca.is_empty() {
            return Ok(ClusterInfo { ca, ..self });
        }
        bail!(
            "whoever answers at {} is not the cluster of this token: its authority has the hash {}, not {} (`knarr token create` prints the right command)",
            self.server,
            own.join(", "),
            hashes.join(", ")
        )
    }
}

/// Certificates of a text; at least one.
pub fn authorities(pem: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let all =
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>().map_err(|e| anyhow!("the cluster's authority is no certificate: {e}"))?;
    if all.is_empty() { bail!("the cluster's authority is no certificate") } else { Ok(all) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn map(data: &[(&str, &str)]) -> ConfigMap {
        let data: BTreeMap<_, _> = data.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        ConfigMap { data: Some(data), ..ConfigMap::default() }
    }

    #[test]
    fn a_token_knows_its_own_signature() {
        let token: Token = "abcdef.0123456789abcdef".parse().unwrap();
        let signature = |content: &str, token: &Token| bootstrap_signer::signature(&URL_SAFE_NO_PAD.encode(content), &token.id, token.secret.as_bytes());
        let right = signature("c", &token);
        let of = |sum: &str| signed(&map(&[(CONTENT, "c"), ("jws-kubeconfig-abcdef", sum), ("jws-kubeconfig-zzzzzz", "x")]), &token).unwrap();
        assert_eq!((of(&right), of("x"), of(&signature("other", &token))), (Signed::Yes, Signed::Otherwise, Signed::Otherwise));
        assert_eq!(signed(&map(&[(CONTENT, "c")]), &token).unwrap(), Signed::Unknown);
        assert!(signed(&map(&[("jws-kubeconfig-abcdef", &right)]), &token).is_err(), "nothing is signed");
    }

    #[test]
    fn what_it_says_is_read_and_another_authority_is_refused() {
        let folder = std::env::temp_dir().join(format!("knarr-info-{}", std::process::id()));
        let ca = identity::pki::Ca::load_or_create(&folder).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        // As kubeadm writes it: no context, and null for what is empty.
        let content = format!(
            "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {}\n    server: https://192.0.2.1:6443\n  name: \"\"\ncontexts: null\ncurrent-context: \"\"\nkind: Config\nusers: null\n",
            STANDARD.encode(ca.cert_pem())
        );
        let info = ClusterInfo::read(&content).unwrap();
        assert_eq!(info, ClusterInfo { server: "https://192.0.2.1:6443".into(), ca: ca.cert_pem().into() });
        let pin = identity::pki::pin(ca.cert()).unwrap();
        let text = |info: &ClusterInfo| info.authorities().unwrap();
        assert_eq!(text(&info.clone().pinned(&["sha256:00".to_owned(), pin.to_uppercase()]).unwrap()), text(&info));
        let why = info.clone().pinned(&["sha256:00".to_owned()]).unwrap_err().to_string();
        assert!(why.contains(&pin) && why.contains("sha256:00"), "{why}");
        // Who stands beside the one that is meant is not believed by the way.
        let other = identity::pki::Ca::load_or_create(&folder).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        let both = ClusterInfo { ca: format!("{}{}", other.cert_pem(), ca.cert_pem()), ..info.clone() };
        assert_eq!((text(&both).len(), text(&both.pinned(std::slice::from_ref(&pin)).unwrap())), (2, text(&info)));
        for wrong in ["", "{", "clusters: [{cluster: {server: 'https://a'}}]", "clusters: [{cluster: {server: 'https://a', certificate-authority-data: QQ==}}]"]
        {
            assert!(ClusterInfo::read(wrong).is_err(), "{wrong}");
        }
    }
}
