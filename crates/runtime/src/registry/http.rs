//! HTTP as a registry's client needs it: one request, its redirects, and the body as a stream.
//!
//! Connections are kept for the next request to the same host, each wait has an end, and a host's settings (TLS, proxies) are
//! its own: where a registry redirects to is spoken to as if it had been named.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use nix::sched::{CloneFlags, setns};
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use super::config::Tls;
use super::proxy::{Proxies, Proxy};
use crate::error::{Error, Result};
use crate::sys;

/// A server that takes no connection within this is not there.
const CONNECT_MAX: Duration = Duration::from_secs(15);
/// The head of an answer comes within this.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// A body that brings nothing for so long has broken.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// A small body is there, whole, within this.
const SMALL_MAX: Duration = Duration::from_secs(120);
/// A big one brings at least so much in each of such times: less is a server that holds a place of the node's for nothing.
const PROGRESS_BYTES_MIN: u64 = 64 << 10;
const PROGRESS_TIME: Duration = Duration::from_secs(300);
const REDIRECTS_MAX: usize = 8;
/// Bytes of a proxy's answer before the connection through it.
const PROXY_HEAD_BYTES_MAX: usize = 16 << 10;
/// Connections kept for each host: as many as there are transfers at a time, and one for documents.
const IDLE_MAX: usize = 4;
/// The certificates that this host trusts; where there are none, Mozilla's are built in.
const SYSTEM_CERTIFICATES: [&str; 3] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

type Sender = SendRequest<Full<Bytes>>;

/// Asks hosts. Ends its connections when it goes.
pub(super) struct Http {
    /// By host with port, as URLs name it.
    tls: BTreeMap<String, Tls>,
    proxies: Proxies,
    /// The network namespace of its connections; none: the process's own.
    network: Option<Arc<File>>,
    built: Mutex<BTreeMap<String, Arc<rustls::ClientConfig>>>,
    /// By scheme and host.
    idle: Mutex<BTreeMap<String, Vec<Sender>>>,
}

/// What a server answered.
pub(super) struct Answer {
    pub(super) response: Response<Incoming>,
    /// Whose answer it is, after redirects: `https://host:port`.
    pub(super) origin: String,
}

/// Why there is no answer.
struct Failure {
    /// The connection stood before: another one may serve.
    broken: bool,
    text: String,
}

impl Failure {
    fn connect(text: impl Into<String>) -> Failure {
        Failure { broken: false, text: text.into() }
    }
}

/// A failed request: whether another try may help, and what to say.
pub(super) fn unreachable(method: &Method, url: &str, e: &dyn std::fmt::Display) -> Error {
    let verb = method.as_str();
    let verb = format!("{}{}", &verb[..1], verb[1..].to_ascii_lowercase());
    Error::Image(format!("failed to do request: {verb} \"{url}\": {e}"))
}

impl Http {
    pub(super) fn new(tls: BTreeMap<String, Tls>, proxies: Proxies, network: Option<Arc<File>>) -> Http {
        Http { tls, proxies, network, built: Mutex::default(), idle: Mutex::default() }
    }

    /// Sends a request and follows redirects. Another host, or the same one without TLS, does not get to see the
    /// authorisation; a body is sent to nobody but who was asked.
    pub(super) async fn send(&self, method: Method, url: &str, headers: &HeaderMap, body: Bytes) -> Result<Answer> {
        let mut url = url.to_owned();
        let mut headers = headers.clone();
        for _ in 0..=REDIRECTS_MAX {
            let answer = tokio::time::timeout(ANSWER_MAX, self.patient(&method, &url, &headers, body.clone())).await;
            let response = answer.unwrap_or_else(|_| Err(Failure::connect("timeout awaiting response headers")));
            let response = response.map_err(|e| unreachable(&method, &url, &e.text))?;
            let redirected = matches!(
                response.status(),
                StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER | StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT
            );
            let location = response.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
            let location = location.filter(|_| redirected && body.is_empty());
            let Some(location) = location else { return Ok(Answer { origin: origin(&url), response }) };
            let next = join(&url, location);
            if origin(&next) != origin(&url) {
                headers.remove(header::AUTHORIZATION);
            }
            url = next;
        }
        Err(unreachable(&method, &url, &"too many redirects"))
    }

    /// Once more when the connection breaks: servers close those that were idle, and balancers those of a server that goes.
    async fn patient(&self, method: &Method, url: &str, headers: &HeaderMap, body: Bytes) -> Result<Response<Incoming>, Failure> {
        match self.once(method, url, headers, body.clone()).await {
            Err(e) if e.broken && body.is_empty() => {
                tracing::debug!(url, error = e.text, "the connection broke");
                self.idle.lock().clear();
                self.once(method, url, headers, body).await
            }
            done => done,
        }
    }

    async fn once(&self, method: &Method, url: &str, headers: &HeaderMap, body: Bytes) -> Result<Response<Incoming>, Failure> {
        let uri: Uri = url.parse().map_err(|e| Failure::connect(format!("invalid URL: {e}")))?;
        let host = uri.host().ok_or_else(|| Failure::connect("no host in the URL"))?.to_owned();
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(Failure::connect("unsupported protocol scheme")),
        };
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let authority = uri.authority().map_or(host.as_str(), |a| a.as_str());
        let proxy = self.proxies.choose(secure, &host, port);
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        // A proxy is told the whole of it, unless it only carries what is enciphered.
        let target = if proxy.is_some() && !secure { url } else { path };
        let bad = |e: http::Error| Failure::connect(e.to_string());
        let mut request = Request::builder().method(method).uri(target).body(Full::new(body)).map_err(bad)?;
        *request.headers_mut() = headers.clone();
        let value = HeaderValue::from_str(authority).map_err(|e| bad(e.into()))?;
        request.headers_mut().insert(header::HOST, value);
        request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static(concat!("knarr/", env!("CARGO_PKG_VERSION"))));
        if let Some(authorization) = proxy.filter(|_| !secure).and_then(|p| p.authorization.clone()) {
            request.headers_mut().insert(header::PROXY_AUTHORIZATION, authorization);
        }
        let key = origin(url);
        let kept = self.kept(&key);
        let mut sender = match kept {
            Some(sender) => sender,
            None => self.connect(authority, &host, port, secure, proxy).await.map_err(Failure::connect)?,
        };
        let response = sender.send_request(request).await.map_err(|e| Failure { broken: true, text: e.to_string() })?;
        // It is ready again when the body has been read to its end; if it never is, its connection ends with the body.
        let mut idle = self.idle.lock();
        let senders = idle.entry(key).or_default();
        senders.retain(|s| !s.is_closed());
        if senders.len() < IDLE_MAX {
            senders.push(sender);
        }
        Ok(response)
    }

    fn kept(&self, key: &str) -> Option<Sender> {
        let mut idle = self.idle.lock();
        let senders = idle.get_mut(key)?;
        let at = senders.iter().position(Sender::is_ready)?;
        Some(senders.swap_remove(at))
    }

    async fn connect(&self, authority: &str, host: &str, port: u16, secure: bool, proxy: Option<&Proxy>) -> Result<Sender, String> {
        let mut stream: Box<dyn Wire> = match proxy {
            None => Box::new(reach(host, port, self.network.as_ref()).await?),
            Some(proxy) => {
                let stream = reach(&proxy.host, proxy.port, self.network.as_ref()).await.map_err(|e| format!("proxyconnect: {e}"))?;
                if proxy.secure { Box::new(self.enciphered(stream, &proxy.host, &proxy.host).await?) } else { Box::new(stream) }
            }
        };
        if !secure {
            return handshake(stream).await;
        }
        if let Some(proxy) = proxy {
            tunnel(&mut stream, host, port, proxy).await.map_err(|e| format!("proxyconnect: {e}"))?;
        }
        handshake(self.enciphered(stream, authority, host).await?).await
    }

    async fn enciphered<S: Wire>(&self, stream: S, authority: &str, host: &str) -> Result<tokio_rustls::client::TlsStream<S>, String> {
        let known = self.built.lock().get(authority).cloned();
        let config = match known {
            Some(config) => config,
            None => {
                // Files are read, and parsed for milliseconds.
                let settings = self.tls.get(authority).cloned().unwrap_or_default();
                let built = tokio::task::spawn_blocking(move || build(&settings)).await.map_err(|e| e.to_string())??;
                self.built.lock().insert(authority.to_owned(), Arc::clone(&built));
                built
            }
        };
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|e| e.to_string())?;
        tokio_rustls::TlsConnector::from(config).connect(name, stream).await.map_err(|e| format!("tls: {e}"))
    }
}

/// What bytes go through.
trait Wire: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Wire for T {}

/// A connection, made in a network namespace.
async fn connect(address: SocketAddr, network: Option<&Arc<File>>) -> io::Result<TcpStream> {
    let Some(network) = network else { return TcpStream::connect(address).await };
    let (network, (give, given)) = (Arc::clone(network), tokio::sync::oneshot::channel());
    // A socket stays in the namespace where it was made; so does the thread, which ends.
    std::thread::Builder::new().name("netns".into()).spawn(move || {
        let entered = setns(&*network, CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
        let made = entered.and_then(|()| if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() });
        drop(give.send(made));
    })?;
    given.await.map_err(io::Error::other)??.connect(address).await
}

async fn reach(host: &str, port: u16, network: Option<&Arc<File>>) -> Result<TcpStream, String> {
    let addresses = dial::addresses(host, dial::ANSWER_MAX).await.map_err(|e| format!("dial tcp: {}", sys::plain(&e)))?;
    let mut last = format!("dial tcp: lookup {host}: no such host");
    for address in addresses {
        match tokio::time::timeout(CONNECT_MAX, connect((address, port).into(), network)).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(e)) => last = format!("dial tcp {address}:{port}: connect: {}", sys::words(&e)),
            Err(_) => last = format!("dial tcp {address}:{port}: i/o timeout"),
        }
    }
    Err(last)
}

/// Asks a proxy to carry bytes to a host.
async fn tunnel(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), host: &str, port: u16, proxy: &Proxy) -> Result<(), String> {
    let authorization = proxy.authorization.as_ref().and_then(|v| v.to_str().ok()).map(|v| format!("Proxy-Authorization: {v}\r\n"));
    let text = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{}\r\n", authorization.unwrap_or_default());
    stream.write_all(text.as_bytes()).await.map_err(|e| e.to_string())?;
    let mut head = Vec::new();
    // Byte by byte: what follows the head belongs to the host.
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.map_err(|e| e.to_string())?);
        if head.len() > PROXY_HEAD_BYTES_MAX {
            return Err("its answer has no end".to_owned());
        }
    }
    let line = head.split(|b| *b == b'\r').next().map(String::from_utf8_lossy).unwrap_or_default().into_owned();
    let status = line.split(' ').nth(1).unwrap_or_default();
    if status.starts_with('2') { Ok(()) } else { Err(line.split_once(' ').map_or(line.as_str(), |(_, rest)| rest).to_owned()) }
}

async fn handshake(stream: impl Wire) -> Result<Sender, String> {
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    // Ends when its sender is dropped and the last body read, or with either's connection.
    tokio::spawn(connection);
    Ok(sender)
}

/// Reads a body of a limited size, in a limited time.
pub(super) async fn read(response: Response<Incoming>, max: usize) -> Result<Bytes, String> {
    let body = http_body_util::Limited::new(response.into_body(), max).collect();
    let read = tokio::time::timeout(SMALL_MAX, body).await.map_err(|_| "timeout reading the response".to_owned())?;
    read.map(http_body_util::Collected::to_bytes).map_err(|e| e.to_string())
}

/// A body as it comes, given up when too little comes.
pub(super) struct Stream {
    body: Incoming,
    /// When the present time of [`PROGRESS_TIME`] began, and what came since.
    since: Instant,
    bytes: u64,
}

impl Stream {
    pub(super) fn new(response: Response<Incoming>) -> Stream {
        Stream { body: response.into_body(), since: Instant::now(), bytes: 0 }
    }

    /// The next piece; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            let frame = tokio::time::timeout(SILENCE_MAX, self.body.frame()).await;
            let frame = frame.map_err(|_| "nothing comes any more".to_owned())?;
            let Some(frame) = frame else { return Ok(None) };
            let Ok(data) = frame.map_err(|e| e.to_string())?.into_data() else { continue };
            self.bytes += data.len() as u64;
            if self.since.elapsed() > PROGRESS_TIME {
                if self.bytes < PROGRESS_BYTES_MIN {
                    return Err("too little comes".to_owned());
                }
                (self.since, self.bytes) = (Instant::now(), 0);
            }
            return Ok(Some(data));
        }
    }
}

/// Scheme and authority, in small letters.
pub(super) fn origin(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    format!("{scheme}://{authority}").to_ascii_lowercase()
}

/// A redirect's target, which may be relative.
fn join(base: &str, location: &str) -> String {
    if location.contains("://") {
        return location.to_owned();
    }
    let (scheme, rest) = base.split_once("://").unwrap_or(("https", base));
    if let Some(with_host) = location.strip_prefix("//") {
        return format!("{scheme}://{with_host}");
    }
    let host = rest.split('/').next().unwrap_or(rest);
    if location.starts_with('/') {
        return format!("{scheme}://{host}{location}");
    }
    let directory = base.split('?').next().and_then(|b| b.rsplit_once('/')).map_or(base, |(d, _)| d);
    format!("{directory}/{location}")
}

fn build(tls: &Tls) -> Result<Arc<rustls::ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
    let builder = if tls.insecure_skip_verify {
        builder.dangerous().with_custom_certificate_verifier(dial::unverified(provider))
    } else {
        builder.with_root_certificates(roots(tls)?)
    };
    let config = match (&tls.cert_file, &tls.key_file) {
        (Some(certificate), Some(key)) => {
            let bad = |e: rustls::pki_types::pem::Error| format!("client certificate: {e:?}");
            let chain = CertificateDer::pem_file_iter(certificate).map_err(bad)?.collect::<Result<Vec<_>, _>>().map_err(bad)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(bad)?;
            builder.with_client_auth_cert(chain, key).map_err(|e| e.to_string())?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn roots(tls: &Tls) -> Result<rustls::RootCertStore, String> {
    let mut store = rustls::RootCertStore::empty();
    for path in SYSTEM_CERTIFICATES {
        if let Ok(list) = CertificateDer::pem_file_iter(path) {
            store.add_parsable_certificates(list.flatten());
            break;
        }
    }
    if store.is_empty() {
        store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    if let Some(path) = &tls.ca_file {
        let bad = |e: rustls::pki_types::pem::Error| format!("{}: {e:?}", path.display());
        for certificate in CertificateDer::pem_file_iter(path).map_err(bad)? {
            store.add(certificate.map_err(bad)?).map_err(|e| e.to_string())?;
        }
    }
    Ok(store)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer of a server that says `head`, then `piece` each time that `pause` has passed.
    async fn slow(head: &'static str, piece: &'static [u8], pause: Duration) -> Response<Incoming> {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        tokio::spawn(async move {
            // Not before it was asked.
            while far.read_u8().await.is_ok_and(|b| b != b'\n') {}
            let _ = far.write_all(head.as_bytes()).await;
            loop {
                tokio::time::sleep(pause).await;
                if far.write_all(piece).await.is_err() {
                    return;
                }
            }
        });
        let mut sender = handshake(near).await.unwrap();
        sender.send_request(Request::new(Full::default())).await.unwrap()
    }

    const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n";

    #[tokio::test(start_paused = true)]
    async fn a_small_body_that_stalls_or_trickles_is_given_up() {
        for pause in [Duration::from_secs(3600), Duration::from_secs(5)] {
            let begun = Instant::now();
            let error = read(slow(HEAD, b"x", pause).await, 200_000_000).await.unwrap_err();
            assert_eq!((error.as_str(), begun.elapsed() <= SMALL_MAX + pause), ("timeout reading the response", true));
        }
        let whole = read(slow("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", b"abc", Duration::from_secs(100)).await, 10).await;
        assert_eq!(whole.unwrap(), "abc");
        assert!(read(slow(HEAD, b"x", Duration::from_secs(1)).await, 10).await.is_err(), "longer than allowed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_must_go_on() {
        let end = async |piece: &'static [u8], seconds| {
            let mut stream = Stream::new(slow(HEAD, piece, Duration::from_secs(seconds)).await);
            let begun = Instant::now();
            loop {
                match stream.next().await {
                    Err(e) => return e,
                    Ok(_) if begun.elapsed() > Duration::from_secs(7200) => return "goes on".to_owned(),
                    Ok(_) => {}
                }
            }
        };
        assert_eq!(end(b"x", 3600).await, "nothing comes any more");
        assert_eq!(end(b"x", 20).await, "too little comes");
        assert_eq!(end(&[0; 10_000], 20).await, "goes on");
    }

    #[test]
    fn a_registry_on_the_hosts_loopback_is_reached_from_another_namespace() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("needs root");
            return;
        }
        let host = Arc::new(File::open("/proc/thread-self/ns/net").unwrap());
        let registry = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = registry.local_addr().unwrap().port();
        let elsewhere = move || {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                assert!(reach("127.0.0.1", port, None).await.is_err(), "its own loopback");
                reach("127.0.0.1", port, Some(&host)).await.map(drop)
            })
        };
        assert_eq!(std::thread::spawn(elsewhere).join().unwrap(), Ok(()));
        registry.accept().unwrap();
    }

    #[test]
    fn redirects_may_be_relative() {
        let base = "https://r.example/v2/a/blobs/x?y=1";
        assert_eq!(join(base, "http://cdn.example/z"), "http://cdn.example/z");
        assert_eq!(join(base, "/z?q"), "https://r.example/z?q");
        assert_eq!(join(base, "//cdn.example/z"), "https://cdn.example/z");
        assert_eq!(join(base, "z"), "https://r.example/v2/a/blobs/z");
    }

    #[test]
    fn the_same_host_without_tls_is_another_origin() {
        assert_eq!(origin("https://R.example/v2?x"), "https://r.example");
        assert_ne!(origin("https://r.example/v2"), origin("http://r.example/v2"));
        assert_ne!(origin("https://r.example/v2"), origin("https://r.example:444/v2"));
    }
}
