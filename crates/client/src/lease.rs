//! One of several: leadership by a Lease, as `client-go/tools/leaderelection` plays it. Parts that run alone use it, so that of
//! two schedulers or two sets of controllers one acts and the other waits.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::Client;
use crate::error::{Error, Result};
use crate::now_micro;
use crate::object::{Meta, object_reference};
use crate::recorder::{EventType, Recorder};

/// Who holds a lease, and for how long.
#[derive(Clone, Debug)]
pub struct Config {
    /// The lease's namespace.
    pub namespace: String,
    /// The lease's name.
    pub name: String,
    /// Who asks: unique among those who do.
    pub identity: String,
    /// A holder that has not renewed for this long has lost it.
    pub lease_duration: Duration,
    /// The holder gives up if it could not renew for this long; shorter than the lease.
    pub renew_deadline: Duration,
    /// Between two tries.
    pub retry_period: Duration,
}

impl Config {
    /// Upstream's periods: 15, 10 and 2 seconds.
    #[must_use]
    pub fn new(namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// How the work of a leader ended.
#[derive(Debug)]
pub enum Term<T> {
    /// By itself, or because it was to stop; the lease was given back.
    Ended(T),
    /// The lease could not be renewed in time.
    Lost(T),
    /// It never began: it was to stop before.
    NeverLed,
}

/// How long giving the lease back may take.
const GIVE_BACK_MAX: Duration = Duration::from_secs(2);

/// Competes for a lease.
#[derive(Debug)]
pub struct LeaderElector {
    client: Client,
    config: Config,
    recorder: Recorder,
    /// The lease's revision as last seen, and when by this process' own clock: others' clocks are not trusted.
    seen: Option<(String, Instant)>,
    /// The lease that is held.
    held: Option<ObjectReference>,
}

impl LeaderElector {
    /// Does not ask yet.
    #[must_use]
    pub fn new(client: Client, config: Config) -> Self {
        let recorder = Recorder::new(client.clone(), &config.name, "");
        Self { client, config, recorder, seen: None, held: None }
    }

    /// Tells at the lease who leads.
    fn tell(&self, what: &str) {
        if let Some(lease) = &self.held {
            self.recorder.event(lease, EventType::Normal, "LeaderElection", format!("{} {what}", self.config.identity));
        }
    }

    /// The lease is held, as the server has it now.
    fn hold(&mut self, lease: &Lease) {
        self.seen = Some((lease.resource_version().to_owned(), Instant::now()));
        self.held = Some(object_reference(lease));
    }

    /// Waits until this process leads, then works until the work ends. The token that the work gets is cancelled when `stop`
    /// is, and when leadership is lost: somebody else may lead from then on. The lease is given back when the work has ended,
    /// not before.
    pub async fn run<T, F: Future<Output = T>>(mut self, stop: CancellationToken, work: impl FnOnce(CancellationToken) -> F) -> Term<T> {
        if !self.acquire(&stop).await {
            return Term::NeverLed;
        }
        self.tell("became leader");
        let term = stop.child_token();
        let lost = {
            let work = work(term.clone());
            tokio::pin!(work);
            tokio::select! {
                ended = &mut work => Ok(ended),
                () = self.renew() => {
                    self.tell("stopped leading");
                    term.cancel();
                    Err(work.await)
                }
            }
        };
        match lost {
            Ok(ended) => {
                self.give_back().await;
                Term::Ended(ended)
            }
            Err(ended) => Term::Lost(ended),
        }
    }

    /// Whether the lease is held; not if it was to stop before.
    async fn acquire(&mut self, stop: &CancellationToken) -> bool {
        loop {
            let tried = tokio::select! {
                () = stop.cancelled() => None,
                tried = self.try_once() => Some(tried),
            };
            match tried {
                Some(Ok(true)) => return true,
                Some(Ok(false)) => {}
                Some(Err(error)) => tracing::debug!(%error, lease = self.config.name, "leader election"),
                None => {
                    // The request may have reached the server.
                    self.give_back().await;
                    return false;
                }
            }
            tokio::select! { () = stop.cancelled() => return false, () = tokio::time::sleep(self.config.retry_period) => {} }
        }
    }

    /// Renews until that did not succeed in time.
    async fn renew(&mut self) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(self.config.retry_period).await;
            let deadline = renewed + self.config.renew_deadline;
            match tokio::time::timeout_at(deadline, self.try_once()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => return,
                Ok(Err(_)) if Instant::now() < deadline => {}
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }

    /// Takes or renews the lease; whether it is held now.
    async fn try_once(&mut self) -> Result<bool> {
        let api = self.client.namespaced::<Lease>(&self.config.namespace);
        let Some(mut lease) = api.get_opt(&self.config.name).await? else {
            let meta = ObjectMeta { name: Some(self.config.name.clone()), namespace: Some(self.config.namespace.clone()), ..ObjectMeta::default() };
            let spec = self.spec(0, true, None);
            return match api.create(&Lease { metadata: meta, spec: Some(spec) }).await {
                Ok(lease) => {
                    self.hold(&lease);
                    Ok(true)
                }
                Err(error) if error.is_already_exists() => Ok(false),
                Err(error) => Err(error),
            };
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        let mine = holder == self.config.identity;
        if self.seen.as_ref().is_none_or(|(version, _)| version != lease.resource_version()) {
            self.seen = Some((lease.resource_version().to_owned(), Instant::now()));
        }
        let lasts = Duration::from_secs(u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0));
        let stands = self.seen.as_ref().is_some_and(|(_, at)| at.elapsed() < lasts);
        if !mine && !holder.is_empty() && stands {
            return Ok(false);
        }
        let former = if mine { Some(spec.clone()) } else { None };
        lease.spec = Some(self.spec(spec.lease_transitions.unwrap_or(0), mine, former));
        match api.replace(&self.config.name, &lease).await {
            Ok(lease) => {
                self.hold(&lease);
                Ok(true)
            }
            Err(error) if error.is_conflict() => {
                if mine {
                    Err(Error::Transport("the lease changed while it was renewed".to_owned()))
                } else {
                    Ok(false)
                }
            }
            Err(error) => Err(error),
        }
    }

    fn spec(&self, transitions: i32, mine: bool, former: Option<LeaseSpec>) -> LeaseSpec {
        let now = now_micro();
        LeaseSpec {
            holder_identity: Some(self.config.identity.clone()),
            lease_duration_seconds: i32::try_from(self.config.lease_duration.as_secs()).ok(),
            acquire_time: former.and_then(|f| f.acquire_time).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if mine { transitions } else { transitions.saturating_add(1) }),
            ..LeaseSpec::default()
        }
    }

    /// Gives the lease back, if it is this process', so that the next need not wait. Does not wait for a server that is silent.
    async fn give_back(&mut self) {
        if tokio::time::timeout(GIVE_BACK_MAX, self.release()).await.is_err() {
            tracing::debug!(lease = self.config.name, "lease not given back in time");
        }
    }

    async fn release(&mut self) {
        let api = self.client.namespaced::<Lease>(&self.config.namespace);
        let Ok(mut lease) = api.get(&self.config.name).await else { return };
        let Some(spec) = lease.spec.as_mut().filter(|s| s.holder_identity.as_deref() == Some(&self.config.identity)) else { return };
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        if let Err(error) = api.replace(&self.config.name, &lease).await {
            tracing::debug!(%error, "lease not given back");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use futures_util::future::BoxFuture;
    use http::{Method, Request, Response};
    use http_body_util::{BodyExt, Full};
    use parking_lot::Mutex;
    use serde_json::{Value, json};

    use super::*;
    use crate::transport::{Body, Transport};

    /// A server that keeps one lease and what it was told of it, and can be silent.
    #[derive(Default)]
    struct Server {
        lease: Mutex<Option<(u64, Value)>>,
        events: Mutex<Vec<String>>,
        silent: Mutex<bool>,
    }

    impl Server {
        fn holder(&self) -> String {
            self.lease.lock().as_ref().and_then(|(_, l)| l["spec"]["holderIdentity"].as_str().map(str::to_owned)).unwrap_or_default()
        }

        fn answer(&self, request: &Request<Bytes>) -> (u16, Value) {
            let refuse = |code: u16, reason: &str| (code, json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason}));
            if request.uri().path().ends_with("/events") {
                let event: Value = serde_json::from_slice(request.body()).unwrap_or_default();
                let text = |part: &Value| part.as_str().unwrap_or_default().to_owned();
                self.events.lock().push(format!("{}: {}", text(&event["involvedObject"]["kind"]), text(&event["message"])));
                return (201, event);
            }
            let mut kept = self.lease.lock();
            if request.method() == Method::GET {
                return kept.as_ref().map_or_else(|| refuse(404, "NotFound"), |(_, l)| (200, l.clone()));
            }
            let mut sent: Value = serde_json::from_slice(request.body()).unwrap_or_default();
            let version = kept.as_ref().map_or(0, |(v, _)| *v);
            if request.method() == Method::POST && version > 0 {
                return refuse(409, "AlreadyExists");
            }
            if request.method() == Method::PUT && sent["metadata"]["resourceVersion"].as_str() != Some(&*version.to_string()) {
                return refuse(409, "Conflict");
            }
            sent["metadata"]["resourceVersion"] = (version + 1).to_string().into();
            *kept = Some((version + 1, sent.clone()));
            (200, sent)
        }
    }

    struct Wire(Arc<Server>);

    impl Transport for Wire {
        fn send(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Response<Body>>> {
            let server = self.0.clone();
            Box::pin(async move {
                if *server.silent.lock() {
                    return std::future::pending().await;
                }
                let (code, body) = server.answer(&request);
                let mut response = Response::new(Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed_unsync());
                *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
                Ok(response)
            })
        }
    }

    fn elector(server: &Arc<Server>, identity: &str) -> LeaderElector {
        LeaderElector::new(Client::new(Arc::new(Wire(server.clone()))), Config::new("kube-system", "part", identity))
    }

    /// Tells when it begins and works until it is to stop.
    async fn work(name: &'static str, told: Arc<Mutex<Vec<String>>>, stop: CancellationToken) -> &'static str {
        told.lock().push(format!("+{name}"));
        stop.cancelled().await;
        told.lock().push(format!("-{name}"));
        name
    }

    #[tokio::test(start_paused = true)]
    async fn one_leads_and_the_next_when_it_has_given_back() {
        let (server, told) = (Arc::new(Server::default()), Arc::<Mutex<Vec<String>>>::default());
        let start = |name: &'static str| {
            let (stop, elector, told) = (CancellationToken::new(), elector(&server, name), told.clone());
            (stop.clone(), tokio::spawn(elector.run(stop, move |term| work(name, told, term))))
        };
        let (stop_a, a) = start("a");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (stop_b, b) = start("b");
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_eq!(*told.lock(), ["+a"], "it renews, so the other waits");
        stop_a.cancel();
        assert!(matches!(a.await, Ok(Term::Ended("a"))));
        assert_eq!(server.holder(), "");
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(*told.lock(), ["+a", "-a", "+b"], "the second need not wait for the lease to run out");
        stop_b.cancel();
        assert!(matches!(b.await, Ok(Term::Ended("b"))));
        assert_eq!(*server.events.lock(), ["Lease: a became leader", "Lease: b became leader"]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_renew_stops_before_another_may_begin() {
        let (server, told) = (Arc::new(Server::default()), Arc::<Mutex<Vec<String>>>::default());
        let leading = {
            let told = told.clone();
            elector(&server, "a").run(CancellationToken::new(), move |term| work("a", told, term))
        };
        let leading = tokio::spawn(leading);
        tokio::time::sleep(Duration::from_secs(1)).await;
        *server.silent.lock() = true;
        let began = Instant::now();
        assert!(matches!(leading.await, Ok(Term::Lost("a"))));
        assert!(began.elapsed() <= Duration::from_secs(12) && began.elapsed() >= Duration::from_secs(8), "{:?}", began.elapsed());
        *server.silent.lock() = false;
        // The next has to see the lease unchanged for its whole time by its own clock.
        let (began, stop) = (Instant::now(), CancellationToken::new());
        let took = elector(&server, "b").run(stop, |_| async { Instant::now() }).await;
        assert!(matches!(took, Term::Ended(at) if at - began >= Duration::from_secs(15) && at - began <= Duration::from_secs(18)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_silent_server_can_be_stopped() {
        let server = Arc::new(Server::default());
        *server.silent.lock() = true;
        let stop = CancellationToken::new();
        let waiting = tokio::spawn(elector(&server, "a").run(stop.clone(), |_| async {}));
        tokio::time::sleep(Duration::from_secs(1)).await;
        stop.cancel();
        let began = Instant::now();
        assert!(matches!(waiting.await, Ok(Term::NeverLed)));
        assert!(began.elapsed() <= GIVE_BACK_MAX);
    }
}
