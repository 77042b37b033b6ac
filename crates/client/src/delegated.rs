//! Who asks a part, and whether they may: the API server is asked (TokenReview, SubjectAccessReview), and its word is believed for a while.
//! So kube-scheduler and kube-controller-manager guard their own ports (`--authentication-kubeconfig`, `--authorization-kubeconfig`).

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hash, RandomState};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use tokio::time::Instant;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::api::Client;
use crate::error::{Error, Result};

/// How long an answer is waited for (the originals' time limit of reviews).
const REVIEW_MAX: Duration = Duration::from_secs(10);
/// How long answers are believed (the originals' defaults for parts that delegate).
const BELIEVED: Duration = Duration::from_secs(10);
/// Answers kept; when there are more all are asked for anew.
const ANSWERS_MAX: usize = 1024;
/// Bytes of what is asked about beyond which an answer is not kept.
const KEPT_MAX: usize = 10_000;
/// Who is in it may do everything, and nobody is asked.
const MASTERS: &str = "system:masters";

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Asker {
    /// User name.
    pub name: String,
    /// UID, if it is known.
    pub uid: Option<String>,
    /// Groups.
    pub groups: Vec<String>,
    /// What else who vouches for him says, which an authoriser may look at.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Asker {
    /// Nobody in particular.
    #[must_use]
    pub fn anonymous() -> Self {
        Self { name: "system:anonymous".to_owned(), groups: vec!["system:unauthenticated".to_owned()], ..Self::default() }
    }

    /// Whom a client certificate that TLS has verified names: common name and organisations.
    #[must_use]
    pub fn of_certificate(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().last()?.as_str().ok().filter(|name| !name.is_empty())?.to_owned();
        let mut groups: Vec<String> = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
        // As the API server has it: nobody's name, and who is said to be in one of these groups, is not put in the other.
        if name != "system:anonymous" && !groups.iter().any(|group| matches!(group.as_str(), "system:authenticated" | "system:unauthenticated")) {
            groups.push("system:authenticated".to_owned());
        }
        Some(Self { name, groups, ..Self::default() })
    }
}

struct Believed<K, V>(Mutex<HashMap<K, (Instant, V)>>);

impl<K: Hash + Eq, V: Clone> Believed<K, V> {
    fn get(&self, key: &K) -> Option<V> {
        self.0.lock().get(key).filter(|(until, _)| *until > Instant::now()).map(|(_, answer)| answer.clone())
    }

    fn keep(&self, key: K, answer: V) {
        let mut held = self.0.lock();
        if held.len() >= ANSWERS_MAX {
            held.retain(|_, (until, _)| *until > Instant::now());
        }
        if held.len() >= ANSWERS_MAX {
            held.clear();
        }
        held.insert(key, (Instant::now() + BELIEVED, answer));
    }
}

/// Asks the API server who somebody is and what he may. What it says is believed for ten seconds.
pub struct Delegated {
    client: Client,
    /// Tokens are known by these hashes: none is kept.
    hashes: [RandomState; 2],
    tokens: Believed<[u64; 2], Option<Asker>>,
    verdicts: Believed<(Asker, String, String), bool>,
}

impl Delegated {
    /// Asks by this client, which must be allowed to create reviews.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, hashes: Default::default(), tokens: Believed(Mutex::default()), verdicts: Believed(Mutex::default()) }
    }

    /// Whose token this is; none: it is nobody's.
    ///
    /// # Errors
    /// The API server gave no answer.
    pub async fn token(&self, token: &str) -> Result<Option<Asker>> {
        let key = [self.hashes[0].hash_one(token), self.hashes[1].hash_one(token)];
        if let Some(known) = self.tokens.get(&key) {
            return Ok(known);
        }
        let spec = TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() };
        let review: TokenReview = in_time(self.client.all().create(&TokenReview { spec, ..TokenReview::default() })).await?;
        let status = review.status.unwrap_or_default();
        let asker = status.user.filter(|_| status.authenticated == Some(true)).map(|user| Asker {
            name: user.username.unwrap_or_default(),
            uid: user.uid,
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
        });
        self.tokens.keep(key, asker.clone());
        Ok(asker)
    }

    /// Whether somebody may do this with a path that is no resource.
    ///
    /// # Errors
    /// The API server gave no answer.
    pub async fn may(&self, who: &Asker, verb: &str, path: &str) -> Result<bool> {
        if who.groups.iter().any(|group| group == MASTERS) {
            return Ok(true);
        }
        let key = (who.clone(), verb.to_owned(), path.to_owned());
        if let Some(known) = self.verdicts.get(&key) {
            return Ok(known);
        }
        let spec = SubjectAccessReviewSpec {
            user: Some(who.name.clone()),
            uid: who.uid.clone(),
            groups: Some(who.groups.clone()),
            extra: Some(who.extra.clone()),
            non_resource_attributes: Some(NonResourceAttributes { verb: Some(verb.to_owned()), path: Some(path.to_owned()) }),
            ..SubjectAccessReviewSpec::default()
        };
        let review: SubjectAccessReview = in_time(self.client.all().create(&SubjectAccessReview { spec, ..SubjectAccessReview::default() })).await?;
        let allowed = review.status.is_some_and(|status| status.allowed);
        // Nobody fills the memory with paths that lead nowhere (the original has the same bound).
        if verb.len() + path.len() < KEPT_MAX {
            self.verdicts.keep(key, allowed);
        }
        Ok(allowed)
    }
}

/// An answer, if it comes in time.
async fn in_time<T>(answer: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Err(Error::Transport(format!("no answer within {REVIEW_MAX:?}")));
    tokio::time::timeout(REVIEW_MAX, answer).await.unwrap_or_else(late)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use futures_util::future::BoxFuture;
    use http_body_util::{BodyExt, Full};
    use serde_json::{Value, json};

    use super::*;
    use crate::transport::Body;

    /// A server that knows one token, lets its owner read `/metrics`, and counts what it is asked.
    fn delegated() -> (Delegated, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let server = move |request: http::Request<Bytes>| -> BoxFuture<'static, Result<http::Response<Body>>> {
            count.fetch_add(1, Ordering::Relaxed);
            let mut object: Value = serde_json::from_slice(request.body()).unwrap_or_default();
            object["status"] = match request.uri().path() {
                path if path.ends_with("/tokenreviews") && object["spec"]["token"] == "good" => {
                    json!({"authenticated": true, "user": {"username": "ann", "groups": ["watchers"], "extra": {"scopes": ["metrics"]}}})
                }
                path if path.ends_with("/tokenreviews") => json!({"authenticated": false}),
                _ => {
                    let spec = &object["spec"];
                    json!({"allowed": spec["user"] == "ann" && spec["extra"] == json!({"scopes": ["metrics"]}) && spec["nonResourceAttributes"] == json!({"path": "/metrics", "verb": "get"})})
                }
            };
            let body = Full::new(Bytes::from(object.to_string())).map_err(|never| match never {}).boxed_unsync();
            Box::pin(async { Ok(http::Response::builder().status(201).header("content-type", "application/json").body(body).expect("an answer")) })
        };
        (Delegated::new(Client::new(Arc::new(server))), asked)
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_server_says_is_believed_for_a_while() {
        let (delegated, asked) = delegated();
        let ann = delegated.token("good").await.expect("an answer").expect("she is known");
        assert_eq!((ann.name.as_str(), &ann.groups[..]), ("ann", &["watchers".to_owned()][..]));
        assert_eq!(delegated.token("bad").await.expect("an answer"), None);
        assert!(delegated.may(&ann, "get", "/metrics").await.expect("an answer"));
        assert!(!delegated.may(&ann, "get", "/configz").await.expect("an answer"));
        assert!(!delegated.may(&Asker::anonymous(), "get", "/metrics").await.expect("an answer"));
        assert_eq!(asked.load(Ordering::Relaxed), 5);
        assert!(delegated.token("good").await.expect("an answer").is_some() && delegated.may(&ann, "get", "/metrics").await.expect("an answer"));
        assert_eq!(asked.load(Ordering::Relaxed), 5, "nothing is asked twice");
        tokio::time::advance(BELIEVED).await;
        assert!(delegated.may(&ann, "get", "/metrics").await.expect("an answer"));
        assert_eq!(asked.load(Ordering::Relaxed), 6, "but not for ever");
        let root = Asker { name: "root".into(), groups: vec![MASTERS.into()], ..Asker::default() };
        assert!(delegated.may(&root, "get", "/configz").await.expect("an answer"));
        assert_eq!(asked.load(Ordering::Relaxed), 6, "who may do everything is not asked about");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_silent_is_not_waited_for() {
        let silent = |_: http::Request<Bytes>| -> BoxFuture<'static, Result<http::Response<Body>>> { Box::pin(std::future::pending()) };
        let (delegated, begun) = (Delegated::new(Client::new(Arc::new(silent))), Instant::now());
        assert!(matches!(delegated.token("good").await, Err(Error::Transport(_))));
        assert!(matches!(delegated.may(&Asker::anonymous(), "get", "/metrics").await, Err(Error::Transport(_))));
        assert!((2 * REVIEW_MAX..3 * REVIEW_MAX).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    }
}
