//! Who asks, and whether they may.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::Asker;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use parking_lot::Mutex;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};

use super::{Answer, text};
use crate::api::SharedApi;

/// How long answers of the API server are believed (upstream's webhook defaults).
const TOKEN_TTL: Duration = Duration::from_secs(120);
const ALLOWED_TTL: Duration = Duration::from_secs(300);
const DENIED_TTL: Duration = Duration::from_secs(30);
/// Answers kept; when there are more all are asked for anew.
const MAX_CACHED: usize = 4096;

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Identity {
    /// User name.
    pub name: String,
    /// UID.
    pub uid: Option<String>,
    /// Groups.
    pub groups: Vec<String>,
}

/// Who has shown a certificate. The handshake has only seen that he has its key.
pub struct Peer {
    named: Identity,
    own: CertificateDer<'static>,
    /// Those between it and its authority.
    between: Vec<CertificateDer<'static>>,
    clients: Arc<dyn ClientCertVerifier>,
    /// When it was last found out whether somebody vouches for it, in seconds, and what was found.
    judged: Mutex<Option<(u64, bool)>>,
}

impl Peer {
    /// Of the certificates of a handshake; none if they name nobody.
    #[must_use]
    pub fn shown(chain: &[CertificateDer<'_>], clients: Arc<dyn ClientCertVerifier>) -> Option<Self> {
        let (own, between) = chain.split_first()?;
        let between = between.iter().map(|der| der.clone().into_owned()).collect();
        Some(Self { named: from_certificate(own)?, own: own.clone().into_owned(), between, clients, judged: Mutex::default() })
    }

    /// Whom the certificate names, if the cluster's authority vouches for it now: a connection may outlive it.
    #[must_use]
    pub fn known(&self) -> Option<&Identity> {
        self.known_at(UnixTime::now())
    }

    /// The verifier counts whole seconds. To say no may cost much more than to ask, which anybody may: it is believed for longer.
    fn known_at(&self, now: UnixTime) -> Option<&Identity> {
        let mut judged = self.judged.lock();
        let holds = |(at, vouched): &(u64, bool)| {
            let long = if *vouched { 1 } else { DENIED_TTL.as_secs() };
            now.as_secs().checked_sub(*at).is_some_and(|passed| passed < long)
        };
        let judge = || (now.as_secs(), self.clients.verify_client_cert(&self.own, &self.between, now).is_ok());
        let (at, vouched) = judged.filter(holds).unwrap_or_else(judge);
        *judged = Some((at, vouched));
        vouched.then_some(&self.named)
    }
}

/// Whom a client certificate names, as at the other parts' ports.
fn from_certificate(der: &CertificateDer<'_>) -> Option<Identity> {
    let Asker { name, uid, groups, .. } = Asker::of_certificate(der)?;
    Some(Identity { name, uid, groups })
}

type Cache<K, V> = Mutex<HashMap<K, (Instant, V)>>;

/// Authentication and authorisation by the API server, with memory.
pub struct Auth {
    api: SharedApi,
    node: String,
    tokens: Cache<String, Option<Identity>>,
    verdicts: Cache<(Identity, String, String), bool>,
}

fn cached<K: std::hash::Hash + Eq, V: Clone>(cache: &Cache<K, V>, key: &K) -> Option<V> {
    cache.lock().get(key).filter(|(until, _)| *until > Instant::now()).map(|(_, v)| v.clone())
}

fn keep<K: std::hash::Hash + Eq, V>(cache: &Cache<K, V>, key: K, value: V, ttl: Duration) {
    let mut held = cache.lock();
    if held.len() >= MAX_CACHED {
        held.clear();
    }
    held.insert(key, (Instant::now() + ttl, value));
}

/// By what of a node an area of the API is allowed: the finer name first, then the one that allows everything (KEP-2862).
fn subresources(area: &str) -> &'static [&'static str] {
    match area {
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        "checkpoint" => &["checkpoint"],
        "pods" | "runningpods" => &["pods", "proxy"],
        "configz" => &["configz", "proxy"],
        "statusz" => &["statusz"],
        "flagz" => &["configz"],
        _ => &["proxy"],
    }
}

impl Auth {
    /// Nothing known yet.
    #[must_use]
    pub fn new(api: SharedApi, node: &str) -> Self {
        Self { api, node: node.to_owned(), tokens: Mutex::default(), verdicts: Mutex::default() }
    }

    /// Lets a request through, or answers why not. `area` is the path's first element.
    pub async fn check(&self, request: &Request<Incoming>, peer: Option<&Identity>, area: &str) -> Result<(), Answer> {
        let who = match peer {
            Some(p) => p.clone(),
            None => self.by_token(request).await.ok_or_else(|| text(StatusCode::UNAUTHORIZED, "Unauthorized"))?,
        };
        let verb = match *request.method() {
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "get",
        };
        let fine = subresources(area);
        for subresource in fine {
            match self.allowed(&who, verb, subresource).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(e) => return Err(text(StatusCode::INTERNAL_SERVER_ERROR, format!("Authorization error (user={}): {e}", who.name))),
            }
        }
        let asked = fine.join(" ");
        Err(text(StatusCode::FORBIDDEN, format!("Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{asked}])\n", who.name)))
    }

    async fn by_token(&self, request: &Request<Incoming>) -> Option<Identity> {
        let value = request.headers().get("authorization")?.to_str().ok()?;
        let token = value.strip_prefix("Bearer ").or_else(|| value.strip_prefix("bearer "))?.trim();
        let key = crate::util::stable_hash(&token);
        if let Some(known) = cached(&self.tokens, &key) {
            return known;
        }
        let spec = TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() };
        let status = self.api.review_token(TokenReview { spec, ..TokenReview::default() }).await.ok()?.status?;
        let user = status.user.filter(|_| status.authenticated == Some(true)).map(|u| Identity {
            name: u.username.unwrap_or_default(),
            uid: u.uid,
            groups: u.groups.unwrap_or_default(),
        });
        keep(&self.tokens, key, user.clone(), TOKEN_TTL);
        user
    }

    async fn allowed(&self, who: &Identity, verb: &str, subresource: &str) -> Result<bool, String> {
        let key = (who.clone(), verb.to_owned(), subresource.to_owned());
        if let Some(known) = cached(&self.verdicts, &key) {
            return Ok(known);
        }
        let spec = SubjectAccessReviewSpec {
            user: Some(who.name.clone()),
            uid: who.uid.clone(),
            groups: Some(who.groups.clone()),
            resource_attributes: Some(ResourceAttributes {
                verb: Some(verb.to_owned()),
                version: Some("v1".into()),
                resource: Some("nodes".into()),
                subresource: Some(subresource.to_owned()),
                name: Some(self.node.clone()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let answer = self.api.review_access(review).await.map_err(|e| e.to_string())?;
        let allowed = answer.status.is_some_and(|s| s.allowed);
        keep(&self.verdicts, key, allowed, if allowed { ALLOWED_TTL } else { DENIED_TTL });
        Ok(allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_names_somebody_as_long_as_an_authority_vouches_for_it() {
        use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
        let key = || KeyPair::generate().unwrap();
        let authority = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params
        };
        let (ca, ca_key, other_key) = (authority("ca"), key(), key());
        let trusted = ca.self_signed(&ca_key).unwrap().der().clone();
        let own = rustls::sign::CertifiedKey::from_der(
            vec![trusted.clone()],
            rustls_pki_types::PrivatePkcs8KeyDer::from(ca_key.serialize_der()).into(),
            &rustls::crypto::ring::default_provider(),
        );
        let own = rustls::sign::SingleCertAndKey::from(own.unwrap());
        let tls = crate::config::Tls::showing(Arc::new(own), [trusted]).unwrap();
        let known = |name: &str, signer: &KeyPair, ends_in: i64| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            let now = std::time::SystemTime::now();
            let span = Duration::from_secs(ends_in.unsigned_abs());
            let end = if ends_in < 0 { now - span } else { now + span };
            params.not_after = end.into();
            let der = params.signed_by(&key(), &Issuer::from_params(&ca, signer)).unwrap().der().clone();
            Peer::shown(&[der], Arc::clone(&tls.clients)).and_then(|peer| peer.known().map(|who| (who.name.clone(), who.groups.len())))
        };
        assert_eq!(known("ann", &ca_key, 100), Some(("ann".to_owned(), 1)));
        assert_eq!(known("system:anonymous", &ca_key, 100), Some(("system:anonymous".to_owned(), 0)), "nobody's name is in no group");
        assert_eq!(known("ann", &other_key, 100), None, "another authority of the same name");
        assert_eq!(known("ann", &ca_key, -100), None, "it has ended");
        assert_eq!(known("", &ca_key, 100), None, "it names nobody");

        // It is looked at anew in each second, where it is not good some time later.
        let begin = 2_000_000_000;
        let moment = |s: u64| std::time::UNIX_EPOCH + Duration::from_secs(s);
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "ann");
        (params.not_before, params.not_after) = (moment(begin).into(), moment(begin + 100).into());
        let der = params.signed_by(&key(), &Issuer::from_params(&ca, &ca_key)).unwrap().der().clone();
        let peer = Peer::shown(&[der], tls.clients).unwrap();
        let known = |s: u64| peer.known_at(UnixTime::since_unix_epoch(Duration::from_secs(s))).is_some();
        let asked = [begin - 10, begin, begin + 19, begin + 20, begin + 100, begin + 101, begin + 100];
        assert_eq!(asked.map(known), [false, false, false, true, true, false, true]);
    }

    #[test]
    fn the_finer_name_comes_before_the_one_that_allows_everything() {
        let of = |area: &str| subresources(area).join(" ");
        assert_eq!([of("pods"), of("configz"), of("metrics"), of("logs")], ["pods proxy", "configz proxy", "metrics", "log"]);
        assert_eq!([of("exec"), of("")], ["proxy", "proxy"]);
    }
}
