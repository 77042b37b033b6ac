//! Tokens that live in Secrets of type `kubernetes.io/service-account-token`: no end, no audience, valid as long as
//! their Secret holds them.

use super::{Tokens, account_user};
use crate::{Error, User};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use machinery::Value;
use machinery::tree::{items, text};
use serde_json::json;

/// The issuer of these tokens (upstream's `LegacyIssuer`).
pub(super) const ISSUER: &str = "kubernetes/serviceaccount";

/// When such a token was used last, by its day.
pub const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// Since when it is not to be used any more: set by the cleaner of those that nobody uses.
pub const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

/// The Secret of a token that was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub secret: String,
    /// Its UID.
    pub uid: String,
    /// What its label says.
    pub last_used: String,
    /// It was not made by somebody but for an account, which lists it.
    pub is_generated: bool,
}

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

    /// The user and the Secret whose token it is. Only where both are there is anything said of the use.
    pub(super) fn verify_legacy(&self, claims: &Value, token: &str) -> Result<(User, Used), Error> {
        let gone = || Error::Token("Token has been invalidated".into());
        let (namespace, account, secret) = (text(claims, NAMESPACE), text(claims, ACCOUNT), text(claims, SECRET));
        let held = self.objects.get(&format!("/registry/secrets/{namespace}/{secret}")).ok_or_else(gone)?;
        if !held["metadata"]["deletionTimestamp"].is_null() {
            return Err(gone());
        }
        if !STANDARD.decode(text(&held["data"], "token")).is_ok_and(|held| held == token.as_bytes()) {
            return Err(Error::Token("Token does not match server's copy".into()));
        }
        let found = self.objects.get(&format!("/registry/serviceaccounts/{namespace}/{account}"));
        let Some(found) = found else { return Err(Error::Token(format!("serviceaccounts {account:?} not found"))) };
        let meta = &found["metadata"];
        if !meta["deletionTimestamp"].is_null() {
            return Err(Error::Token(format!("ServiceAccount {namespace}/{account} has been deleted")));
        }
        let (there, claimed) = (text(meta, "uid"), text(claims, UID));
        if there != claimed {
            return Err(Error::Token(format!("ServiceAccount UID ({there}) does not match claim ({claimed})")));
        }
        let labels = &held["metadata"]["labels"];
        let used = Used {
            namespace: namespace.to_owned(),
            secret: secret.to_owned(),
            uid: text(&held["metadata"], "uid").to_owned(),
            last_used: text(labels, LAST_USED).to_owned(),
            is_generated: items(&found["secrets"]).iter().any(|one| text(one, "name") == secret),
        };
        if !text(labels, INVALID_SINCE).is_empty() {
            return Err(Error::Invalidated(
                format!(
                    "the token in secret {namespace}/{secret} for service account {namespace}/{account} has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '{INVALID_SINCE}' label from the secret to temporarily allow use of this token"
                ),
                Box::new(used),
            ));
        }
        Ok((account_user(namespace, account, text(claims, UID), std::collections::BTreeMap::new()), used))
    }
}
