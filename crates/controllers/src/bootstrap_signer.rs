//! The ConfigMap `cluster-info` in `kube-public` is signed with every bootstrap token that may sign: who joins with such a token
//! and trusts nobody yet checks what it reads there by the token that it has (upstream `pkg/controller/bootstrap`, KEP 1314).
//!
//! A signature is a JWS of the key `kubeconfig` without its content (RFC 7515, appendix F). As with the original, the controller
//! runs when it is named alone, and makes no ConfigMap: who sets the cluster up does.
//!
//! What holds it: the ConfigMap and the tokens are heard, and the signature of a token whose time is over goes then, where the
//! original waits for another change; a write that failed is tried again, where the original waits for the next event.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use client::{Client, Informer, ListParams, Meta};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::token_cleaner::{self, left};
use crate::work::{Controller, Cx, Step};

const NAMESPACE: &str = "kube-public";
const NAME: &str = "cluster-info";
/// What is signed.
const CONTENT: &str = "kubeconfig";
/// Before a token's ID: its signature.
const SIGNATURE: &str = "jws-kubeconfig-";
/// Before a token's ID: the name of its Secret.
const TOKEN: &str = "bootstrap-token-";
/// Characters of a token's ID.
const ID_LEN: usize = 6;

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let controller = Arc::new(Signer {
        client: cx.client("bootstrap-signer"),
        maps: cx.informers.informer_in(NAMESPACE, ListParams::fields(format!("metadata.name={NAME}"))),
        tokens: token_cleaner::informer(&cx),
    });
    cx.setup(&controller).on(&controller.maps, |_, queue, _| queue.add(())).on(&controller.tokens, |_, queue, _| queue.add(())).work(1).await;
}

struct Signer {
    client: Client,
    maps: Informer<ConfigMap>,
    tokens: Informer<Secret>,
}

/// A token that signs: its ID, and its secret.
struct Token<'t> {
    id: &'t str,
    secret: &'t [u8],
    /// How long it still does; none: for ever.
    left: Option<Duration>,
}

/// What a Secret signs with, if it may: it must be named by its ID, its time not over, and signing one of its uses.
fn token(secret: &Secret) -> Option<Token<'_>> {
    let id = secret.name().strip_prefix(TOKEN)?;
    let is_id = id.len() == ID_LEN && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let text = |key: &str| secret.data.as_ref()?.get(key).map(|text| text.0.as_slice()).filter(|text| !text.is_empty());
    let may = is_id && secret.type_.as_deref() == Some(token_cleaner::TYPE) && text("token-id")? == id.as_bytes();
    let left = left(secret);
    let may = may && left != Some(Duration::ZERO) && text("usage-bootstrap-signing")? == b"true";
    may.then_some(Token { id, secret: text("token-secret")?, left })
}

/// HMAC of SHA-256 (RFC 2104).
fn hmac(key: &[u8], message: &[&[u8]]) -> [u8; 32] {
    const BLOCK: usize = 64;
    let mut block = [0; BLOCK];
    if key.len() > BLOCK {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = message.iter().fold(Sha256::new_with_prefix(block.map(|b| b ^ 0x36)), |hash, part| hash.chain_update(part));
    Sha256::new_with_prefix(block.map(|b| b ^ 0x5c)).chain_update(inner.finalize()).finalize().into()
}

/// A token's signature under a content, without the content (which is given in base64, URL-safe and without padding).
#[must_use]
pub fn signature(content: &str, id: &str, secret: &[u8]) -> String {
    let head = URL_SAFE_NO_PAD.encode(json!({"alg": "HS256", "kid": id}).to_string());
    let sum = hmac(secret, &[head.as_bytes(), b".", content.as_bytes()]);
    format!("{head}..{}", URL_SAFE_NO_PAD.encode(sum))
}

impl Controller for Signer {
    const QUEUE: &'static str = "bootstrap_signer_queue";
    type Key = ();

    async fn reconcile(&self, (): &()) -> Step {
        let Some(map) = self.maps.get(NAMESPACE, NAME) else { return Ok(None) };
        let data = map.data.as_ref();
        let Some(content) = data.and_then(|data| data.get(CONTENT)) else { return Ok(None) };
        let content = URL_SAFE_NO_PAD.encode(content);
        let mut signed: BTreeMap<String, String> = data.into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        signed.retain(|key, _| !key.starts_with(SIGNATURE));
        let mut again: Option<Duration> = None;
        for secret in self.tokens.list_namespace(token_cleaner::NAMESPACE) {
            let Some(token) = token(&secret) else { continue };
            signed.insert(format!("{SIGNATURE}{}", token.id), signature(&content, token.id, token.secret));
            again = again.into_iter().chain(token.left).min();
            // A content may have a megabyte, and tokens may be many.
            tokio::task::yield_now().await;
        }
        if data == Some(&signed) {
            return Ok(again);
        }
        let next = ConfigMap { data: Some(signed), ..(*map).clone() };
        match self.client.namespaced::<ConfigMap>(NAMESPACE).replace(NAME, &next).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(again),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, refusal};
    use k8s_openapi::ByteString;

    const SIGNS: &[(&str, &str)] = &[("token-id", "abcdef"), ("token-secret", "0123456789abcdef"), ("usage-bootstrap-signing", "true")];

    fn secret(name: &str, data: &[(&str, &str)]) -> Secret {
        let mut secret = Secret { metadata: crate::meta::new_meta("kube-system", name), type_: Some(token_cleaner::TYPE.to_owned()), ..Secret::default() };
        secret.data = Some(data.iter().map(|(k, v)| ((*k).to_owned(), ByteString(v.as_bytes().to_vec()))).collect());
        secret
    }

    fn with(key: &'static str, value: &'static str) -> Vec<(&'static str, &'static str)> {
        SIGNS.iter().copied().filter(|(k, _)| *k != key).chain([(key, value)]).collect()
    }

    fn info(data: &[(&str, &str)]) -> ConfigMap {
        let data = data.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        ConfigMap { metadata: crate::meta::new_meta(NAMESPACE, NAME), data: Some(data), ..ConfigMap::default() }
    }

    #[test]
    fn signatures_are_those_of_the_original() {
        // `k8s.io/cluster-bootstrap/token/jws`, its test's facts.
        let content = URL_SAFE_NO_PAD.encode("Hello from the other side. I must have called a thousand times.");
        let secret = b"my voice is my passcode".as_slice();
        for (content, secret, sum) in [
            (content.as_str(), secret, "VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8"),
            ("", secret, "7Ui1ALizW4jXphVUB7xUqC9vLYLL9RZeOFfVLoB7Tgk"),
            (content.as_str(), b"", "UfkqvDGiIFxrMnFseDj9LYJOLNrvjW8aHhF71mvvAs8"),
        ] {
            assert_eq!(signature(content, "joshua", secret), format!("eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..{sum}"));
        }
        // RFC 4231, case 6: a key longer than a block.
        let sum = hmac(&[0xaa; 131], &[b"Test Using Larger Than Block-Size Key", b" - Hash Key First"]);
        assert_eq!(sum[..4], [0x60, 0xe4, 0x31, 0x59]);
    }

    #[test]
    fn only_a_token_that_may_signs() {
        assert!(token(&secret("bootstrap-token-abcdef", SIGNS)).is_some_and(|t| t.id == "abcdef" && t.left.is_none()));
        assert!(token(&secret("bootstrap-token-abcdef", &with("expiration", "3000-01-01T00:00:00Z"))).is_some_and(|t| t.left.is_some()));
        let refused = [
            secret("bootstrap-token-abcdeg", SIGNS),
            secret("bootstrap-token-abcdefg", &with("token-id", "abcdefg")),
            secret("bootstrap-token-ABCDEF", &with("token-id", "ABCDEF")),
            secret("abcdef", SIGNS),
            secret("bootstrap-token-abcdef", &with("token-id", "")),
            secret("bootstrap-token-abcdef", &with("token-secret", "")),
            secret("bootstrap-token-abcdef", &with("usage-bootstrap-signing", "yes")),
            secret("bootstrap-token-abcdef", &SIGNS[..2]),
            secret("bootstrap-token-abcdef", &with("expiration", "2001-01-01T00:00:00Z")),
            secret("bootstrap-token-abcdef", &with("expiration", "soon")),
            Secret { type_: Some("Opaque".to_owned()), ..secret("bootstrap-token-abcdef", SIGNS) },
        ];
        for secret in refused {
            assert!(token(&secret).is_none(), "{secret:?}");
        }
    }

    #[tokio::test]
    async fn the_map_has_a_signature_of_each_token_and_no_other() {
        let answer = |_: &str, _: &str| (200, json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {}}));
        let fake = Fake::new(answer);
        let signer =
            |map: Option<ConfigMap>, tokens: &[Secret]| Signer { client: fake.client(), maps: Informer::fixed(map), tokens: Informer::fixed(tokens.to_vec()) };
        let kept = secret("bootstrap-token-abcdef", &with("expiration", "3000-01-01T00:00:00Z"));
        let right = signature(&URL_SAFE_NO_PAD.encode("c"), "abcdef", b"0123456789abcdef");
        let good = info(&[("kubeconfig", "c"), ("other", "o"), ("jws-kubeconfig-abcdef", &right)]);
        for idle in [None, Some(info(&[("jws-kubeconfig-gone12", "x")])), Some(ConfigMap { data: None, ..good.clone() })] {
            assert_eq!(signer(idle, std::slice::from_ref(&kept)).reconcile(&()).await.expect("a step"), None);
        }
        let again = signer(Some(good.clone()), std::slice::from_ref(&kept)).reconcile(&()).await.expect("a step");
        assert!(again.is_some_and(|left| left > Duration::from_secs(3_600)), "it looks again when the token ends: {again:?}");
        assert_eq!(fake.written(), [""; 0], "nothing was to do");

        let stale = info(&[("kubeconfig", "c"), ("other", "o"), ("jws-kubeconfig-abcdef", "old"), ("jws-kubeconfig-gone12", "x")]);
        signer(Some(stale), &[kept]).reconcile(&()).await.expect("a step");
        signer(Some(good), &[]).reconcile(&()).await.expect("a step");
        let written = fake.written();
        assert_eq!(written.len(), 2);
        assert!(written.iter().all(|w| w.starts_with("PUT /api/v1/namespaces/kube-public/configmaps/cluster-info ") && w.contains(r#""other":"o""#)));
        assert!(written[0].contains(&format!(r#""jws-kubeconfig-abcdef":"{right}""#)) && !written[0].contains("gone12"), "{}", written[0]);
        assert!(!written[1].contains("jws-"), "{}", written[1]);
    }

    #[tokio::test]
    async fn a_write_that_failed_is_tried_again_and_a_map_that_is_gone_is_not() {
        for (code, reason, fails) in [(409, "Conflict", true), (500, "InternalError", true), (404, "NotFound", false)] {
            let fake = Fake::new(move |_, _: &str| refusal(code, reason));
            let tokens = Informer::fixed([secret("bootstrap-token-abcdef", SIGNS)]);
            let signer = Signer { client: fake.client(), maps: Informer::fixed([info(&[("kubeconfig", "c")])]), tokens };
            assert_eq!(signer.reconcile(&()).await.is_err(), fails, "{reason}");
        }
    }
}
