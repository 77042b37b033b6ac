//! Tokens that live in Secrets of type `kubernetes.io/service-account-token`: no end, no audience, valid as long as
//! their Secret holds them.

use super::{Tokens, account_user};
use crate::{Error, User};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use machinery::Value;
use machinery::tree::text;
use serde_json::json;

/// The issuer of these tokens (upstream's `LegacyIssuer`).
pub(super) const ISSUER: &str = "kubernetes/serviceaccount";

const NAMESPACE: &str = "kubernetes.io/serviceaccount/namespace";
const SECRET: &str = "kubernetes.io/serviceaccount/secret.name";
const ACCOUNT: &str = "kubernetes.io/serviceaccount/service-account.name";
const UID: &str = "kubernetes.io/serviceaccount/service-account.uid";

impl Tokens {
    /// The token of a Secret.
    ///
    /// # Errors
    /// The signature fails.
    pub fn issue_legacy(&self, namespace: &str, account: &str, account_uid: &str, secret: &str) -> Result<String, Error> {
        self.key.sign(&json!({
            "iss": ISSUER,
            NAMESPACE: namespace,
            SECRET: secret,
            ACCOUNT: account,
            UID: account_uid,
            "sub": format!("{}{namespace}:{account}", crate::user::SERVICE_ACCOUNT_PREFIX),
        }))
    }

    pub(super) fn verify_legacy(&self, claims: &Value, token: &str) -> Result<User, Error> {
        let gone = || Error::Token("Token has been invalidated".into());
        let (namespace, account, secret) = (text(claims, NAMESPACE), text(claims, ACCOUNT), text(claims, SECRET));
        let held = self.objects.get(&format!("/registry/secrets/{namespace}/{secret}")).ok_or_else(gone)?;
        let same = STANDARD.decode(text(&held["data"], "token")).is_ok_and(|held| held == token.as_bytes());
        if !same || !held["metadata"]["deletionTimestamp"].is_null() {
            return Err(gone());
        }
        let found = self.objects.get(&format!("/registry/serviceaccounts/{namespace}/{account}")).ok_or_else(gone)?;
        let meta = &found["metadata"];
        if text(meta, "uid") != text(claims, UID) || !meta["deletionTimestamp"].is_null() {
            return Err(gone());
        }
        Ok(account_user(namespace, account, text(claims, UID), std::collections::BTreeMap::new()))
    }
}
