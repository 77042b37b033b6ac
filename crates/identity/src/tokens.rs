//! Service-account tokens: issued for an audience and a time, bound to a pod, node or secret, and verified against the
//! objects that they name (KEP-1205, KEP-2799, KEP-4193).
//!
//! Invariant: a token is only as good as its objects. What is remembered is that a signature verified, which cannot
//! change; times, audiences and the existence of the account, pod, node and secret are looked at on every use.

pub mod legacy;
#[cfg(test)]
mod tests;

use crate::{
    Error, Objects, User,
    jwt::Key,
    user::{AUTHENTICATED, SERVICE_ACCOUNT_PREFIX},
};
use machinery::Value;
use machinery::quote::Quoted;
use machinery::tree::{items, text};
use parking_lot::Mutex;
use serde_json::json;
use std::{
    collections::HashMap,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Tokens whose signature is remembered, in each of two generations: some megabytes at most.
const REMEMBERED_MAX: usize = 4096;
/// A deleted object's token is good for this long after the deletion was asked for, so that it can say good-bye
/// (upstream's leeway).
const DELETION_LEEWAY: Duration = Duration::from_secs(60);
/// What clocks may differ (go-jose's leeway is a minute).
const CLOCK_LEEWAY_S: i64 = 60;
/// Tokens of pods are given a year in place of this, because old clients do not reload them; `warnafter` says when the
/// real end was (upstream's `WarnOnlyBoundTokenExpirationPeriod`).
const EXTENDABLE_S: i64 = 60 * 60 + 7;
const EXTENDED_S: i64 = 365 * 24 * 60 * 60;

/// An object that a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// Name.
    pub name: String,
    /// Unique id.
    pub uid: String,
}

/// A token to be.
#[derive(Debug, Clone, Default)]
pub struct TokenSpec {
    /// Namespace of the service account.
    pub namespace: String,
    /// Its name.
    pub account: String,
    /// Its uid.
    pub account_uid: String,
    /// Whom it is for; the API server itself if empty.
    pub audiences: Vec<String>,
    /// How long it is asked to live, in seconds.
    pub expiration_seconds: i64,
    /// Whether the API server may let it live for a year when it is of the kind that every pod has.
    pub may_extend: bool,
    /// The pod that it dies with.
    pub pod: Option<Bound>,
    /// The node that it dies with; of a pod's token, the pod's node, which it does not die with.
    pub node: Option<Bound>,
    /// The secret that it dies with.
    pub secret: Option<Bound>,
}

/// What a good token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Review {
    /// Whose it is.
    pub user: User,
    /// Those of the wanted audiences that it is for.
    pub audiences: Vec<String>,
    /// The Secret that holds it, of one without an end.
    pub used: Option<legacy::Used>,
}

#[derive(Default)]
struct Remembered {
    new: HashMap<[u8; 32], Arc<Value>>,
    old: HashMap<[u8; 32], Arc<Value>>,
}

/// Issues and verifies the tokens of service accounts.
pub struct Tokens {
    key: Key,
    issuer: String,
    audiences: Vec<String>,
    objects: Arc<dyn Objects>,
    remembered: Mutex<Remembered>,
}

impl Tokens {
    /// With the key in a directory (made if it is not there), for an issuer (`https://kubernetes.default.svc.DOMAIN`).
    ///
    /// # Errors
    /// The key cannot be read or made.
    pub fn load_or_create(directory: &Path, issuer: &str, objects: Arc<dyn Objects>) -> Result<Tokens, Error> {
        Ok(Tokens::new(Key::load_or_create(&directory.join("sa.key"))?, issuer, objects))
    }

    /// With a key that ends with the process.
    ///
    /// # Errors
    /// No randomness.
    pub fn ephemeral(issuer: &str, objects: Arc<dyn Objects>) -> Result<Tokens, Error> {
        Ok(Tokens::new(Key::ephemeral()?, issuer, objects))
    }

    fn new(key: Key, issuer: &str, objects: Arc<dyn Objects>) -> Tokens {
        Tokens { key, issuer: issuer.to_owned(), audiences: vec![issuer.to_owned()], objects, remembered: Mutex::default() }
    }

    pub(crate) fn objects(&self) -> &dyn Objects {
        &*self.objects
    }

    /// Of the wanted audiences (none: the API server's own) those that are the API server's, for what is good for no other.
    ///
    /// # Errors
    /// There are none.
    pub(crate) fn own_audiences(&self, wanted: &[String]) -> Result<Vec<String>, Error> {
        let wanted = if wanted.is_empty() { &self.audiences } else { wanted };
        let matching: Vec<String> = wanted.iter().filter(|audience| self.audiences.contains(audience)).cloned().collect();
        if matching.is_empty() { Err(not_for(&self.audiences, wanted)) } else { Ok(matching) }
    }

    /// The audiences of the API server itself.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// Issues a token; also its end, which is the one that was asked for even where the token itself lives longer.
    ///
    /// # Errors
    /// The signature fails.
    pub fn issue(&self, spec: &TokenSpec, now: SystemTime) -> Result<(String, SystemTime), Error> {
        let issued = seconds(now);
        let asked = spec.expiration_seconds.max(1);
        let audiences = if spec.audiences.is_empty() { &self.audiences } else { &spec.audiences };
        let mut own = json!({
            "namespace": spec.namespace,
            "serviceaccount": {"name": spec.account, "uid": spec.account_uid},
        });
        for (key, bound) in [("pod", &spec.pod), ("node", &spec.node), ("secret", &spec.secret)] {
            if let Some(bound) = bound {
                own[key] = json!({"name": bound.name, "uid": bound.uid});
            }
        }
        let mut lives_s = asked;
        if spec.may_extend && spec.pod.is_some() && asked == EXTENDABLE_S && *audiences == self.audiences {
            lives_s = EXTENDED_S;
            own["warnafter"] = json!(issued + asked);
        }
        let claims = json!({
            "aud": audiences,
            "exp": issued + lives_s,
            "iat": issued,
            "iss": self.issuer,
            "jti": uuid()?,
            "kubernetes.io": own,
            "nbf": issued,
            "sub": format!("{SERVICE_ACCOUNT_PREFIX}{}:{}", spec.namespace, spec.account),
        });
        Ok((self.key.sign(&claims)?, now + Duration::from_secs(asked.unsigned_abs())))
    }

    /// Whose token it is, if it is good now, for one of the audiences (empty: the API server's own).
    ///
    /// # Errors
    /// [`Error::Token`] with the reason.
    pub fn verify(&self, token: &str, audiences: &[String], now: SystemTime) -> Result<Review, Error> {
        let claims = self.claims(token)?;
        let wanted = if audiences.is_empty() { &self.audiences } else { audiences };
        if claims["iss"] == legacy::ISSUER {
            let (user, used) = self.verify_legacy(&claims, token)?;
            return Ok(Review { user, audiences: self.own_audiences(wanted)?, used: Some(used) });
        }
        let own: Vec<String> = match &claims["aud"] {
            Value::String(one) => vec![one.clone()],
            list => items(list).iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        };
        let matching: Vec<String> = wanted.iter().filter(|w| own.contains(w)).cloned().collect();
        if matching.is_empty() {
            return Err(not_for(&own, wanted));
        }
        check_times(&claims, now)?;
        Ok(Review { user: self.bound_user(&claims, now)?, audiences: matching, used: None })
    }

    /// The user, if everything that the token names is still there.
    fn bound_user(&self, claims: &Value, now: SystemTime) -> Result<User, Error> {
        let own = &claims["kubernetes.io"];
        let (namespace, account) = (text(own, "namespace"), text(&own["serviceaccount"], "name"));
        self.account(namespace, &own["serviceaccount"], now)?;
        let mut extra = std::collections::BTreeMap::new();
        let mut note = |key: &str, value: &str| {
            if !value.is_empty() {
                extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
            }
        };
        let (pod, node, secret) = (&own["pod"], &own["node"], &own["secret"]);
        if secret.is_object() {
            self.alive(&format!("/registry/secrets/{namespace}/{}", text(secret, "name")), "secret", secret, now)?;
        }
        if pod.is_object() {
            self.alive(&format!("/registry/pods/{namespace}/{}", text(pod, "name")), "pod", pod, now)?;
            note("pod-name", text(pod, "name"));
            note("pod-uid", text(pod, "uid"));
        } else if node.is_object() {
            self.alive(&format!("/registry/minions/{}", text(node, "name")), "node", node, now)?;
        }
        if node.is_object() {
            note("node-name", text(node, "name"));
            note("node-uid", text(node, "uid"));
        }
        if let Some(id) = claims["jti"].as_str() {
            note("credential-id", &format!("JTI={id}"));
        }
        Ok(account_user(namespace, account, text(&own["serviceaccount"], "uid"), extra))
    }

    /// Whether the account is there still.
    fn account(&self, namespace: &str, named: &Value, now: SystemTime) -> Result<(), Error> {
        let (name, uid) = (text(named, "name"), text(named, "uid"));
        let found = self.objects.get(&format!("/registry/serviceaccounts/{namespace}/{name}"));
        let Some(found) = found else { return Err(Error::Token(format!("serviceaccounts {name:?} not found"))) };
        let there = text(&found["metadata"], "uid");
        if there != uid {
            return Err(Error::Token(format!("service account UID ({there}) does not match claim ({uid})")));
        }
        if is_gone(&found["metadata"], now) {
            return Err(Error::Token(format!("service account {namespace}/{name} has been deleted")));
        }
        Ok(())
    }

    /// Whether something is there still that a token is bound to.
    fn alive(&self, key: &str, what: &str, named: &Value, now: SystemTime) -> Result<(), Error> {
        let gone = || Error::Token("service account token has been invalidated".into());
        let found = self.objects.get(key).ok_or_else(gone)?;
        let (there, uid) = (text(&found["metadata"], "uid"), text(named, "uid"));
        if there != uid {
            return Err(Error::Token(format!("{what} UID ({there}) does not match service account {what} ref claim ({uid})")));
        }
        if is_gone(&found["metadata"], now) { Err(gone()) } else { Ok(()) }
    }

    /// The claims of a token with a good signature, remembered by the token's hash.
    fn claims(&self, token: &str) -> Result<Arc<Value>, Error> {
        let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
        let hash: [u8; 32] = digest.as_ref().try_into().map_err(|_| Error::Key("a digest of another size".into()))?;
        {
            let remembered = self.remembered.lock();
            if let Some(claims) = remembered.new.get(&hash).or_else(|| remembered.old.get(&hash)) {
                return Ok(Arc::clone(claims));
            }
        }
        let claims = Arc::new(self.key.open(token, &[self.issuer.as_str(), legacy::ISSUER])?);
        let mut remembered = self.remembered.lock();
        if remembered.new.len() >= REMEMBERED_MAX {
            remembered.old = std::mem::take(&mut remembered.new);
        }
        remembered.new.insert(hash, Arc::clone(&claims));
        Ok(claims)
    }

    /// The public keys (`/openid/v1/jwks`).
    pub fn jwks(&self) -> Value {
        json!({ "keys": [self.key.jwk()] })
    }

    /// The discovery document (`/.well-known/openid-configuration`). The keys are where the server is reached, which is at `address`
    /// (`host:port`): whoever checks tokens from outside of the cluster does not know the issuer's name (upstream's default of
    /// `--service-account-jwks-uri`).
    pub fn openid_configuration(&self, address: &str) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": format!("https://{address}/openid/v1/jwks"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }
}

/// Whether claims are good now, by upstream's order and leeway (`jwt.Claims.Validate`).
fn check_times(claims: &Value, now: SystemTime) -> Result<(), Error> {
    let now = seconds(now);
    let at = |key: &str| claims[key].as_i64();
    let why = if at("nbf").is_some_and(|nbf| now + CLOCK_LEEWAY_S < nbf) {
        "service account token is not valid yet"
    } else if at("exp").is_none_or(|exp| now - CLOCK_LEEWAY_S > exp) {
        "service account token has expired"
    } else if at("iat").is_some_and(|iat| now + CLOCK_LEEWAY_S < iat) {
        "service account token is issued in the future"
    } else {
        return Ok(());
    };
    Err(Error::Token(why.into()))
}

fn not_for(own: &[String], wanted: &[String]) -> Error {
    let list = |l: &[String]| l.iter().map(|a| Quoted(a).to_string()).collect::<Vec<_>>().join(" ");
    Error::Token(format!("token audiences [{}] is invalid for the target audiences [{}]", list(own), list(wanted)))
}

/// Whether an object was deleted longer ago than its token may say good-bye.
fn is_gone(meta: &Value, now: SystemTime) -> bool {
    let deleted = meta["deletionTimestamp"].as_str().and_then(|t| machinery::time::parse(t).ok());
    deleted.is_some_and(|at| at + DELETION_LEEWAY < now)
}

fn account_user(namespace: &str, account: &str, uid: &str, extra: std::collections::BTreeMap<String, Vec<String>>) -> User {
    User {
        name: format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{account}"),
        uid: uid.to_owned(),
        groups: vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}"), AUTHENTICATED.into()],
        extra,
    }
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).ok().and_then(|d| i64::try_from(d.as_secs()).ok()).unwrap_or(0)
}

/// A random (version 4) UUID.
fn uuid() -> Result<String, Error> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(|e| Error::Key(e.to_string()))?;
    Ok(machinery::names::uuid(bytes))
}
