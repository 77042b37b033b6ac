//! Where a hook is, and one call of it.
//!
//! Connections of HTTP/1.1 are kept for the next call, as many as Go keeps for a host. Upstream speaks HTTP/1.1 to all but this
//! host, since a connection of HTTP/2 would have all calls reach one backend of a Service; so it is here. One of HTTP/2 is shared by
//! all calls from the moment that it stands.

use super::{
    Failure, Services, answer, connect,
    connect::{Place, Sender},
    credentials::Credentials,
    trust, words,
};
use crate::offload;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header, response::Parts};
use http_body_util::Full;
use machinery::Value;
use parking_lot::Mutex;
use rustls::ClientConfig as Tls;
use rustls_pki_types::ServerName;
use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

/// Idle connections that are kept to one target, as client-go's transport does.
const IDLE_MAX: usize = 25;
/// How long a connection is kept idle, as Go's default transport does.
const IDLE_LIFE: Duration = Duration::from_secs(90);
const PORT: u16 = 443;
/// How often somebody who asks for it is asked again.
const RETRIES_MAX: usize = 10;
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
}

/// Where a hook is reached.
pub(crate) struct Target {
    /// What errors name and what is asked: scheme, host, port as given, path.
    base: String,
    uri: Uri,
    place: Place,
    server_name: ServerName<'static>,
    tls: Arc<Tls>,
    authorization: Option<HeaderValue>,
    idle: Mutex<Vec<(Instant, Sender)>>,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Target {
    /// A target that nobody has been at yet.
    ///
    /// # Errors
    /// The configuration cannot be used; in upstream's words.
    pub(crate) fn new(config: &ClientConfig, credentials: &Credentials) -> Result<Target, String> {
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
        let who = credentials.of(&format!("{host}:{port}"))?;
        let server_name = ServerName::try_from(named).map_err(|error| format!("parse {base:?}: {error}"))?;
        let local = matches!(&place, Place::Host { host, .. } if is_local(host));
        let tls = trust::config(&config.ca_bundle, who.certificate, local)?;
        let uri = base.parse().map_err(|error| format!("parse {base:?}: {error}"))?;
        Ok(Target { uri, base, place, server_name, tls: Arc::new(tls), authorization: who.authorization, idle: Mutex::default() })
    }

    /// Asks, with a body of JSON, and gives the body of a good answer. `within` is what is told to the other side (`timeout=`) and
    /// what is waited for.
    ///
    /// # Errors
    /// There is no answer by then, or it tells an error.
    pub(crate) async fn post(&self, services: &dyn Services, body: Bytes, within: Duration) -> Result<Bytes, Failure> {
        let query = format!("?timeout={}s", within.as_secs() + u64::from(within.subsec_nanos() > 0));
        let until = tokio::time::Instant::now() + within;
        for _ in 0..RETRIES_MAX {
            let (parts, body) = self.once(services, &query, body.clone(), until).await?;
            match wait(&parts) {
                // Not added to the time: what the other side asks for may be more than there is.
                Some(wait) if wait < until.saturating_duration_since(tokio::time::Instant::now()) => tokio::time::sleep(wait).await,
                Some(_) => {
                    tokio::time::sleep_until(until).await;
                    return Err(Failure::Transport(format!("Post {:?}: context deadline exceeded", format!("{}{query}", self.base))));
                }
                None => return answer::judge(&parts, body),
            }
        }
        let (parts, body) = self.once(services, &query, body, until).await?;
        answer::judge(&parts, body)
    }

    /// One exchange, with its whole body.
    async fn once(&self, services: &dyn Services, query: &str, body: Bytes, until: tokio::time::Instant) -> Result<(Parts, Bytes), Failure> {
        let shown = |why: String| Failure::Transport(format!("Post {:?}: {why}", format!("{}{query}", self.base)));
        let answered = tokio::time::timeout_at(until, self.exchange(services, query, body)).await;
        let late = || "context deadline exceeded".to_owned();
        let response = answered.unwrap_or_else(|_| Err(late())).map_err(shown)?;
        let (response, sender) = response;
        let unread = |why: String| Failure::Transport(format!("unexpected error when reading response body. Please retry. Original error: {why}"));
        let (parts, body) = response.into_parts();
        let read = tokio::time::timeout_at(until, answer::read(body)).await.unwrap_or_else(|_| Err(late())).map_err(unread)?;
        self.keep(sender);
        Ok((parts, read))
    }

    async fn exchange(&self, services: &dyn Services, query: &str, body: Bytes) -> Result<(http::Response<hyper::body::Incoming>, Sender), String> {
        // A kept connection may be closed just now: hyper then gives the request back, unsent.
        loop {
            let (mut sender, kept) = match self.kept() {
                Some(sender) => (sender, true),
                None => {
                    let made = self.connect(services).await?;
                    self.share(&made);
                    (made, false)
                }
            };
            match sender.send(self.request(query, body.clone(), sender.is_two())?).await {
                Ok(response) => return Ok((response, sender)),
                Err(unsent) if kept && unsent.is_unsent() => {}
                Err(error) => return Err(words::of_http(&error.into_error())),
            }
        }
    }

    async fn connect(&self, services: &dyn Services) -> Result<Sender, String> {
        let (host, port) = connect::locate(&self.place, services)?;
        let (name, tls) = (self.server_name.clone(), Arc::clone(&self.tls));
        offload::at_home(async move { connect::connect(&host, port, name, tls).await }).await
    }

    fn request(&self, query: &str, body: Bytes, two: bool) -> Result<Request<Full<Bytes>>, String> {
        let path = format!("{}{query}", self.uri.path());
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        let uri: Uri = match two {
            true => format!("https://{authority}{path}").parse(),
            false => path.parse(),
        }
        .map_err(|error| format!("parse {path:?}: {error}"))?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, JSON);
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, */*"));
        headers.insert(header::USER_AGENT, AGENT);
        if !two {
            headers.insert(header::HOST, HeaderValue::from_str(authority).map_err(|error| error.to_string())?);
        }
        if let Some(authorization) = &self.authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        Ok(request)
    }

    fn kept(&self) -> Option<Sender> {
        let mut idle = self.idle.lock();
        idle.retain(|(since, sender)| since.elapsed() < IDLE_LIFE && !sender.is_closed());
        if let Some((since, shared)) = idle.iter_mut().find_map(|(since, sender)| Some((since, sender.shared()?))) {
            *since = Instant::now();
            return Some(shared);
        }
        idle.pop().map(|(_, sender)| sender)
    }

    /// Lets others use what several may use at a time.
    fn share(&self, sender: &Sender) {
        let Some(shared) = sender.shared() else { return };
        let mut idle = self.idle.lock();
        if !idle.iter().any(|(_, kept)| kept.is_two() && !kept.is_closed()) {
            idle.push((Instant::now(), shared));
        }
    }

    /// Keeps what one call at a time may use, for the next.
    fn keep(&self, sender: Sender) {
        let mut idle = self.idle.lock();
        if !sender.is_two() && idle.len() < IDLE_MAX && !sender.is_closed() {
            idle.push((Instant::now(), sender));
        }
    }
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

/// Base, place and name of a URL. Its user, query and fragment are refused where configurations are written.
fn of_url(url: &str) -> Result<(String, Place, String), String> {
    let parsed: Uri = url.parse().map_err(|error| format!("Unparsable URL: parse {url:?}: {error}"))?;
    let host = parsed.host().unwrap_or_default();
    let bare = host.trim_matches(['[', ']']).to_owned();
    let port = parsed.port_u16().unwrap_or(PORT);
    let authority = parsed.authority().map_or(host, |authority| authority.as_str());
    Ok((format!("https://{authority}{}", joined(parsed.path())), Place::Host { host: bare.clone(), port }, bare))
}

fn is_local(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_as_by_go() {
        for (given, joint) in [("", "/"), ("/", "/"), ("a", "/a"), ("/a//b/", "/a/b"), ("/a/../../b/./c", "/b/c")] {
            assert_eq!(joined(given), joint, "{given}");
        }
    }
}
