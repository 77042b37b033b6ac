//! Where a hook is, and one call of it.

use super::{
    Failure, Services,
    answer::{self, Answer},
    connect::Place,
    credentials::Credentials,
    line::Unanswered,
    pool::{Pool, Pools},
};
use crate::full;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header, response::Parts};
use machinery::Value;
use parking_lot::Mutex;
use rustls_pki_types::ServerName;
use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, Sleep};

const PORT: u16 = 443;
/// How often somebody who asks for it is asked again.
const RETRIES_MAX: usize = 10;
/// How often a call is sent again that the server has refused to look at, after pauses that double.
const REFUSALS_MAX: u32 = 6;
const REFUSED_PAUSE: Duration = Duration::from_millis(5);
/// To how many other places a call is led, as by Go's client.
const REDIRECTS_MAX: usize = 10;
/// What Go says when a call's time is over.
const LATE: &str = "context deadline exceeded";
/// How much later than the time that is left a call is over: timers are exact to a millisecond.
const AFTER_THE_REQUEST: Duration = Duration::from_millis(10);
const AGENT: HeaderValue = HeaderValue::from_static("kube-apiserver-admission");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A hook's `clientConfig`: where it is, and who signs for it. The same shape in webhooks and in conversions.
#[derive(Debug, Clone)]
pub(crate) struct ClientConfig {
    pub(crate) url: Option<String>,
    pub(crate) service: Option<Service>,
    /// PEM; none means that the host's authorities are believed.
    pub(crate) ca_bundle: Vec<u8>,
}

#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) port: u16,
}

impl ClientConfig {
    /// From the field of an object.
    pub(crate) fn of(value: &Value) -> ClientConfig {
        use base64::Engine as _;
        let text = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
        let service = &value["service"];
        let port = service["port"].as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
        ClientConfig {
            url: value["url"].as_str().map(str::to_owned),
            service: service.is_object().then(|| Service {
                namespace: text(service, "namespace"),
                name: text(service, "name"),
                path: text(service, "path"),
                port: port.unwrap_or(PORT),
            }),
            ca_bundle: base64::engine::general_purpose::STANDARD.decode(text(value, "caBundle")).unwrap_or_default(),
        }
    }

    /// Whether it names the server itself, which asks itself as its own user and over no network (upstream: over its loopback address).
    pub(crate) fn is_itself(&self) -> bool {
        self.service.as_ref().is_some_and(|service| (service.namespace.as_str(), service.name.as_str(), service.port) == ("default", "kubernetes", PORT))
    }
}

/// Where a hook is reached.
pub(crate) struct Target {
    /// What errors name and what is asked: scheme, host, port as given, path.
    base: String,
    uri: Uri,
    pool: Arc<Pool>,
    is_itself: bool,
    authorization: Option<HeaderValue>,
    /// The head of the last call: those of most are the same.
    last: Mutex<Option<Head>>,
}

/// What a call begins with.
struct Head {
    /// What the other side is told that it has.
    seconds: u64,
    two: bool,
    request: Request<()>,
}

/// One exchange of a call.
struct Step {
    /// What the other side is told that it has.
    seconds: u64,
    body: Bytes,
    /// Where the server itself has led.
    led: Option<Led>,
}

impl Step {
    fn posts(&self) -> bool {
        self.led.as_ref().is_none_or(|led| led.posts)
    }
}

#[derive(Debug, PartialEq)]
struct Led {
    /// The body goes along.
    posts: bool,
    path: String,
    /// As the server has said it.
    location: String,
}

/// Where an answer leads, if it leads somewhere on the same server.
fn led(parts: &Parts, authority: &str, posted: bool) -> Option<Led> {
    let keeps = match parts.status.as_u16() {
        301..=303 => false,
        307 | 308 => true,
        _ => return None,
    };
    let location = parts.headers.get(header::LOCATION)?.to_str().ok()?;
    let path = match location.strip_prefix("https://") {
        Some(rest) => rest.strip_prefix(authority)?,
        None => location,
    };
    let path = path.split('#').next().unwrap_or_default();
    let is_path = path.starts_with('/') && !path.starts_with("//");
    is_path.then(|| Led { posts: keeps && posted, path: path.to_owned(), location: location.to_owned() })
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Target {
    /// A target that nobody has been at yet, with its server's connections among these.
    ///
    /// # Errors
    /// The configuration cannot be used; in upstream's words.
    pub(crate) fn new(config: &ClientConfig, credentials: &Credentials, pools: &Pools) -> Result<Target, String> {
        let (base, place, named) = match (&config.service, &config.url) {
            (Some(service), _) => {
                let host = format!("{}.{}.svc", service.name, service.namespace);
                let base = format!("https://{host}:{}{}", service.port, joined(&service.path));
                (base, Place::Service { namespace: service.namespace.clone(), name: service.name.clone(), port: service.port }, host)
            }
            (None, Some(url)) => of_url(url)?,
            (None, None) => return Err("webhook configuration must have either service or URL".into()),
        };
        let (host, port) = match &place {
            Place::Service { port, .. } => (named.clone(), *port),
            Place::Host { host, port } => (host.clone(), *port),
        };
        let is_itself = config.is_itself();
        let who = credentials.of(&format!("{host}:{port}"))?;
        let server_name = ServerName::try_from(named).map_err(|error| format!("parse {base:?}: {error}"))?;
        // It believes itself whatever the bundle is: upstream adds that to its own authority.
        let bundle: &[u8] = if is_itself { &[] } else { &config.ca_bundle };
        let pool = pools.get(place, server_name, bundle, who.certificate)?;
        let uri = base.parse().map_err(|error| format!("parse {base:?}: {error}"))?;
        Ok(Target { uri, base, pool, is_itself, authorization: who.authorization, last: Mutex::default() })
    }

    /// Asks, with a body of JSON, and gives the body of a good answer. `within` is what is told to the other side (`timeout=`) and
    /// what is waited for.
    ///
    /// # Errors
    /// There is no answer by then, or it tells an error.
    pub(crate) async fn post(&self, services: &dyn Services, body: Bytes, within: Duration) -> Result<Bytes, Failure> {
        let first = Step { seconds: within.as_secs() + u64::from(within.subsec_nanos() > 0), body, led: None };
        // Where it is the request's own time that ends here, the request is answered so first (as by upstream's filter), and not by us.
        let until = Instant::now() + within + AFTER_THE_REQUEST;
        let mut over = pin!(tokio::time::sleep_until(until));
        for _ in 0..RETRIES_MAX {
            let (parts, body) = self.followed(services, &first, over.as_mut()).await?;
            match wait(&parts) {
                // Not added to the time: what the other side asks for may be more than there is.
                Some(wait) if wait < until.saturating_duration_since(Instant::now()) => tokio::time::sleep(wait).await,
                Some(_) => {
                    over.await;
                    return Err(self.failed(&first, LATE));
                }
                None => return judged(&parts, body).await,
            }
        }
        let (parts, body) = self.followed(services, &first, over).await?;
        judged(&parts, body).await
    }

    fn authority(&self) -> &str {
        self.uri.authority().map_or("", |authority| authority.as_str())
    }

    /// The answer at the end of where the server leads: to other paths of its own, as Go's client follows them. What is elsewhere is
    /// another server, which nobody has configured: it is not spoken to.
    async fn followed(&self, services: &dyn Services, first: &Step, mut over: Pin<&mut Sleep>) -> Result<(Parts, Bytes), Failure> {
        let mut answer = self.once(services, first, over.as_mut()).await?;
        let mut last: Option<Step> = None;
        for followed in 1.. {
            let step = last.as_ref().unwrap_or(first);
            let Some(led) = led(&answer.0, self.authority(), step.posts()) else { break };
            if followed == REDIRECTS_MAX {
                return Err(Failure::Transport(format!("Post {:?}: stopped after {REDIRECTS_MAX} redirects", led.location)));
            }
            let body = if led.posts { step.body.clone() } else { Bytes::new() };
            let next = Step { seconds: first.seconds, body, led: Some(led) };
            answer = self.once(services, &next, over.as_mut()).await?;
            last = Some(next);
        }
        Ok(answer)
    }

    /// One exchange, with its whole body, until it is over.
    async fn once(&self, services: &dyn Services, step: &Step, over: Pin<&mut Sleep>) -> Result<(Parts, Bytes), Failure> {
        let answered = Arc::new(AtomicBool::new(false));
        let (parts, body) = tokio::select! {
            biased;
            outcome = self.exchange(services, step, &answered) => outcome.map_err(|why| self.failed(step, &why))?,
            () = over => return Err(if answered.load(Ordering::Relaxed) { unread(LATE.into()) } else { self.failed(step, LATE) }),
        };
        Ok((parts, body.map_err(unread)?))
    }

    /// A call without an answer, as Go's client tells it.
    fn failed(&self, step: &Step, why: &str) -> Failure {
        let place = match &step.led {
            None => format!("{}?timeout={}s", self.base, step.seconds),
            Some(led) => format!("https://{}{}", self.authority(), led.path),
        };
        Failure::Transport(format!("Post {place:?}: {why}"))
    }

    async fn exchange(&self, services: &dyn Services, step: &Step, answered: &Arc<AtomicBool>) -> Result<Answer, String> {
        if self.is_itself
            && let Some(answer) = Box::pin(self.ask_itself(services, step, answered)).await
        {
            return answer;
        }
        // A kept connection may be closed just now: then the call is unsent.
        let mut refused = 0;
        loop {
            let (mut sender, kept) = self.pool.take(services).await?;
            let head = self.head_of(step, sender.is_two())?;
            match sender.call(head, step.body.clone(), answered).await {
                Ok(answer) => {
                    if answer.1.is_ok() {
                        self.pool.keep(sender);
                    }
                    return Ok(answer);
                }
                Err(Unanswered::Unsent(_)) if kept => {}
                Err(Unanswered::Refused(_)) if refused < REFUSALS_MAX => {
                    refused += 1;
                    tokio::time::sleep(REFUSED_PAUSE * (1 << refused)).await;
                }
                Err(Unanswered::Unsent(why) | Unanswered::Refused(why) | Unanswered::Failed(why)) => return Err(why),
            }
        }
    }

    async fn ask_itself(&self, services: &dyn Services, step: &Step, answered: &AtomicBool) -> Option<Result<Answer, String>> {
        let mut head = match self.head_of(step, false) {
            Ok(head) => head,
            Err(why) => return Some(Err(why)),
        };
        head.headers_mut().remove(header::ACCEPT_ENCODING);
        let asked = services.itself(head.map(|()| full(step.body.clone())))?;
        let (parts, body) = match asked.await {
            Ok(answer) => answer.into_parts(),
            Err(why) => return Some(Err(why)),
        };
        answered.store(true, Ordering::Relaxed);
        Some(Ok((parts, answer::read_own(body).await)))
    }

    fn head_of(&self, step: &Step, two: bool) -> Result<Request<()>, String> {
        match &step.led {
            None => self.head(step.seconds, two),
            Some(led) => self.request(if led.posts { Method::POST } else { Method::GET }, &led.path, two),
        }
    }

    fn head(&self, seconds: u64, two: bool) -> Result<Request<()>, String> {
        let mut last = self.last.lock();
        if let Some(head) = last.as_ref().filter(|head| (head.seconds, head.two) == (seconds, two)) {
            return Ok(head.request.clone());
        }
        let request = self.request(Method::POST, &format!("{}?timeout={seconds}s", self.uri.path()), two)?;
        *last = Some(Head { seconds, two, request: request.clone() });
        Ok(request)
    }

    fn request(&self, method: Method, path: &str, two: bool) -> Result<Request<()>, String> {
        let authority = self.authority();
        let uri: Uri = match two {
            true => format!("https://{authority}{path}").parse(),
            false => path.parse(),
        }
        .map_err(|error| format!("parse {path:?}: {error}"))?;
        let mut request = Request::new(());
        let posts = method == Method::POST;
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        if posts {
            headers.insert(header::CONTENT_TYPE, JSON);
        }
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, */*"));
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(header::USER_AGENT, AGENT);
        if !two {
            headers.insert(header::HOST, HeaderValue::from_str(authority).map_err(|error| error.to_string())?);
        }
        if let Some(authorization) = &self.authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        Ok(request)
    }
}

/// What the answer says at the end.
async fn judged(parts: &Parts, body: Bytes) -> Result<Bytes, Failure> {
    let body = answer::unpacked(&parts.headers, body).await.map_err(unread)?;
    answer::judge(parts, body)
}

/// A body that did not come to its end.
fn unread(why: String) -> Failure {
    Failure::Transport(format!("unexpected error when reading response body. Please retry. Original error: {why}"))
}

/// How long somebody who is busy asks to wait before he is asked again.
fn wait(parts: &Parts) -> Option<Duration> {
    let busy = parts.status == StatusCode::TOO_MANY_REQUESTS || parts.status.is_server_error();
    let seconds = parts.headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    busy.then(|| Duration::from_secs(seconds))
}

/// A path as Go joins it with the root: each slash once, none at the end, no dots.
fn joined(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The same, but that a slash at the end stays.
pub(crate) fn joined_whole(path: &str) -> String {
    let joined = joined(path);
    if path.ends_with('/') && joined != "/" { joined + "/" } else { joined }
}

/// Base, place and name of a URL. Its user, query and fragment are refused where configurations are written.
fn of_url(url: &str) -> Result<(String, Place, String), String> {
    let parsed: Uri = url.parse().map_err(|error| format!("Unparsable URL: parse {url:?}: {error}"))?;
    let host = parsed.host().unwrap_or_default();
    let bare = host.trim_matches(['[', ']']).to_owned();
    let port = parsed.port_u16().unwrap_or(PORT);
    let authority = parsed.authority().map_or(host, |authority| authority.as_str());
    Ok((format!("https://{authority}{}", joined(parsed.path())), Place::Host { host: bare.clone(), port }, bare))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_as_by_go() {
        for (given, joint) in [("", "/"), ("/", "/"), ("a", "/a"), ("/a//b/", "/a/b"), ("/a/../../b/./c", "/b/c")] {
            assert_eq!(joined(given), joint, "{given}");
        }
        assert_eq!(["/", "/a//b", "/a/./b/"].map(joined_whole), ["/", "/a/b", "/a/b/"]);
    }

    #[test]
    fn a_server_leads_to_itself_alone() {
        let to = |code: u16, location: &str| {
            let parts = http::Response::builder().status(code).header("location", location).body(()).expect("an answer").into_parts().0;
            led(&parts, "a.example:8443", true).map(|led| (led.posts, led.path))
        };
        assert_eq!(to(302, "/b?c=d#e"), Some((false, "/b?c=d".to_owned())));
        assert_eq!(to(308, "https://a.example:8443/b"), Some((true, "/b".to_owned())));
        for (code, location) in [(200, "/b"), (304, "/b"), (301, "https://b.example/b"), (301, "//b.example/b"), (307, "http://a.example:8443/b"), (302, "")] {
            assert_eq!(to(code, location), None, "{code} {location}");
        }
    }
}
