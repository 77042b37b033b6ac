//! Plain HTTP requests to containers: probes and hooks.
//!
//! Certificates are not verified, as the API says of `scheme: HTTPS`: a probe asks whether something answers, not who it is.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container as Spec, HTTPGetAction};
use rustls_pki_types::ServerName;

use crate::util;

/// What Go says when TLS is answered by plain HTTP.
pub const NOT_TLS: &str = "server gave HTTP response to HTTPS client";
/// Who asks when a probe does.
const PROBE_AGENT: &str = "kube-probe/1.37";
/// Most bytes read of an answer (upstream's limit).
const MAX_BODY: usize = 10 * 1024;
/// Requests made while redirected on the same host (the Go client's limit).
const MAX_REDIRECTS: usize = 10;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// TLS or not.
    pub tls: bool,
    /// Host to connect to.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path with query.
    pub path: String,
    /// Headers in order.
    pub headers: Vec<(String, String)>,
    /// Who asks, where the headers do not say it.
    pub agent: &'static str,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// The beginning of the body.
    pub body: String,
    /// Where a redirect leads.
    pub location: Option<String>,
}

/// The host an action names, or the pod's address.
pub fn host(named: Option<&str>, pod_ip: Option<IpAddr>) -> Result<String, String> {
    match named.filter(|h| !h.is_empty()) {
        Some(h) => Ok(h.to_owned()),
        None => pod_ip.map(|ip| ip.to_string()).ok_or_else(|| "pod has no address".to_owned()),
    }
}

/// Host and port as in a URL.
#[must_use]
pub fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// A connection error in Go's words, which people match on.
#[must_use]
pub fn go_error(e: &std::io::Error) -> String {
    use std::io::ErrorKind as K;
    match e.kind() {
        K::ConnectionRefused => "connect: connection refused".into(),
        K::HostUnreachable => "connect: no route to host".into(),
        K::NetworkUnreachable => "connect: network is unreachable".into(),
        K::ConnectionReset => "read: connection reset by peer".into(),
        K::UnexpectedEof => "EOF".into(),
        _ => e.to_string(),
    }
}

/// A path as it goes over the wire: what may not stand in one is escaped, as Go's URL does.
fn encoded(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for b in path.bytes() {
        match b {
            0..=0x20 | 0x7f.. | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' => out.push_str(&format!("%{b:02X}")),
            b => out.push(char::from(b)),
        }
    }
    out
}

impl Request {
    /// The request of an `httpGet` action.
    pub fn from_action(h: &HTTPGetAction, spec: &Spec, pod_ip: Option<IpAddr>) -> Result<Self, String> {
        let path = h.path.clone().unwrap_or_default();
        Ok(Self {
            tls: h.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https")),
            host: host(h.host.as_deref(), pod_ip)?,
            port: util::port(&h.port, spec)?,
            path: encoded(&if path.starts_with('/') { path } else { format!("/{path}") }),
            headers: h.http_headers.iter().flatten().map(|x| (x.name.clone(), x.value.clone())).collect(),
            agent: PROBE_AGENT,
        })
    }

    fn url(&self) -> String {
        format!("{}://{}{}", if self.tls { "https" } else { "http" }, authority(&self.host, self.port), self.path)
    }
}

/// One probe: a text is a warning beside the success (a redirect that is not followed), an error the text of the failure.
pub async fn probe(request: &Request, timeout: Duration) -> Result<Option<String>, String> {
    let url = request.url();
    let asked = tokio::time::timeout(timeout, follow(request.clone())).await;
    let answer = match asked {
        Err(_) => return Err(format!("Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)")),
        Ok(Err(e)) => return Err(format!("Get {url:?}: {e}")),
        Ok(Ok(a)) => a,
    };
    match answer.status {
        200..300 => Ok(None),
        300..400 => Ok(Some(format!("Probe terminated redirects, Response body: {}", answer.body))),
        status => Err(format!("HTTP probe failed with statuscode: {status}")),
    }
}

/// Follows redirects on the same host; one to another host is an answer (upstream's `RedirectChecker(false)`).
async fn follow(mut request: Request) -> Result<Answer, String> {
    for _ in 0..MAX_REDIRECTS {
        let answer = send(&request).await?;
        let Some(to) = answer.location.as_deref().filter(|_| matches!(answer.status, 301 | 302 | 303 | 307 | 308)) else { return Ok(answer) };
        if let Some((scheme, rest)) = to.split_once("://") {
            let Ok(uri) = encoded(&format!("{scheme}://{rest}")).parse::<::http::Uri>() else { return Ok(answer) };
            if uri.host().is_some_and(|h| h.trim_matches(['[', ']']) != request.host) {
                return Ok(answer);
            }
            request.tls = scheme.eq_ignore_ascii_case("https");
            request.port = uri.port_u16().unwrap_or(if request.tls { 443 } else { 80 });
            request.path = uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
        } else if to.starts_with("//") {
            // Another host, without a scheme.
            return Ok(answer);
        } else if to.starts_with('/') {
            request.path = encoded(to);
        } else {
            // Relative to the directory of what was asked for.
            let path = request.path.split(['?', '#']).next().unwrap_or("/");
            let dir = path.rfind('/').map_or("/", |at| &path[..=at]);
            request.path = encoded(&format!("{dir}{to}"));
        }
    }
    Err(format!("stopped after {MAX_REDIRECTS} redirects"))
}

/// One request, with no limit but the caller's.
pub async fn get(request: &Request) -> Result<Answer, String> {
    follow(request.clone()).await.map_err(|e| format!("Get {:?}: {e}", request.url()))
}

async fn send(request: &Request) -> Result<Answer, String> {
    let at = authority(&request.host, request.port);
    let tcp = util::connect(&request.host, request.port).await.map_err(|e| format!("dial tcp {at}: {}", go_error(&e)))?;
    if request.tls {
        let name = ServerName::try_from(request.host.clone()).map_err(|e| e.to_string())?;
        let tls = tokio_rustls::TlsConnector::from(insecure()).connect(name, tcp).await;
        let tls = tls.map_err(|e| if is_plain(&e) { format!("http: {NOT_TLS}") } else { e.to_string() })?;
        exchange(request, TokioIo::new(tls)).await
    } else {
        exchange(request, TokioIo::new(tcp)).await
    }
}

/// Whether the peer answered a TLS greeting with something else than TLS.
fn is_plain(e: &std::io::Error) -> bool {
    let inner = e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidMessage(_)))
}

async fn exchange<T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static>(request: &Request, io: T) -> Result<Answer, String> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(io).await.map_err(|e| e.to_string())?;
    let driver = tokio::spawn(connection);
    let given = |n: &str| request.headers.iter().any(|(k, _)| k.eq_ignore_ascii_case(n));
    let mut builder = ::http::Request::get(&request.path);
    if !given("host") {
        builder = builder.header("host", authority(&request.host, request.port));
    }
    if !given("user-agent") {
        builder = builder.header("user-agent", request.agent);
    }
    if !given("accept") {
        builder = builder.header("accept", "*/*");
    }
    for (k, v) in &request.headers {
        // An empty value takes a default header away, as in upstream's prober.
        if !v.is_empty() {
            builder = builder.header(k, v);
        }
    }
    let asked = builder.header("connection", "close").body(Empty::new()).map_err(|e| e.to_string())?;
    let answer = sender.send_request(asked).await.map_err(|e| if e.is_incomplete_message() { "EOF".to_owned() } else { e.to_string() })?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    driver.abort();
    Ok(Answer {
        status: head.status.as_u16(),
        body: String::from_utf8_lossy(&body).into_owned(),
        location: head.headers.get("location").and_then(|l| l.to_str().ok()).map(str::to_owned),
    })
}

/// TLS without verification, made once.
fn insecure() -> Arc<rustls::ClientConfig> {
    static CONFIG: OnceLock<Arc<rustls::ClientConfig>> = OnceLock::new();
    Arc::clone(CONFIG.get_or_init(|| {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = dial::unverified(Arc::clone(&provider));
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(rustls::ALL_VERSIONS);
        // The provider's own versions are always fit for it.
        #[allow(clippy::expect_used)]
        let builder = builder.expect("the provider supports its own versions");
        Arc::new(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// For an answer that comes at once.
    const LIMIT: Duration = Duration::from_secs(60);

    async fn serve(answers: Vec<&'static str>) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for a in answers {
                let (mut s, _) = listener.accept().await.unwrap();
                let mut buf = [0; 1024];
                let _ = s.read(&mut buf).await;
                s.write_all(a.as_bytes()).await.unwrap();
            }
        });
        port
    }

    fn request(port: u16) -> Request {
        Request { tls: false, host: "127.0.0.1".into(), port, path: "/".into(), headers: Vec::new(), agent: PROBE_AGENT }
    }

    #[tokio::test]
    async fn redirects_on_the_same_host_are_followed() {
        let port = serve(vec!["HTTP/1.1 302 Found\r\nlocation: /ok\r\ncontent-length: 0\r\n\r\n", "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n"]).await;
        let e = probe(&request(port), LIMIT).await.unwrap_err();
        assert_eq!(e, "HTTP probe failed with statuscode: 500");
    }

    #[tokio::test]
    async fn whatever_a_hook_is_answered_is_an_answer() {
        let port = serve(vec!["HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n"]).await;
        assert_eq!(get(&request(port)).await.unwrap().status, 404);
        // TLS is asked for and plain HTTP is spoken: the hook asks again without.
        let port = serve(vec!["HTTP/1.1 400 No\r\ncontent-length: 0\r\n\r\n"]).await;
        let e = get(&Request { tls: true, ..request(port) }).await.unwrap_err();
        assert!(e.contains(NOT_TLS), "{e}");
    }

    #[tokio::test]
    async fn a_relative_redirect_is_followed_and_a_path_is_escaped() {
        let port = serve(vec!["HTTP/1.1 302 Found\r\nlocation: ok\r\ncontent-length: 0\r\n\r\n", "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n"]).await;
        let e = probe(&Request { path: encoded("/a b/c"), ..request(port) }, LIMIT).await.unwrap_err();
        assert_eq!(e, "HTTP probe failed with statuscode: 500");
        assert_eq!(encoded("/a b/ü?x={1}"), "/a%20b/%C3%BC?x=%7B1%7D");
    }

    #[tokio::test]
    async fn a_redirect_elsewhere_is_a_success_with_a_warning_and_a_closed_port_a_failure() {
        let port = serve(vec!["HTTP/1.1 302 Found\r\nlocation: http://example.org/\r\ncontent-length: 4\r\n\r\naway"]).await;
        let warned = probe(&request(port), LIMIT).await.unwrap();
        assert_eq!(warned.as_deref(), Some("Probe terminated redirects, Response body: away"));
        let port = serve(vec!["HTTP/1.1 204 No Content\r\n\r\n"]).await;
        assert_eq!(probe(&request(port), LIMIT).await, Ok(None));
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let e = probe(&request(closed), LIMIT).await.unwrap_err();
        assert!(e.ends_with("connect: connection refused"), "{e}");
    }
}
