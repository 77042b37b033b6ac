//! Reaching a backend: a TCP connection to an address, TLS if wanted, HTTP/1.1 on top.

use super::location::proxyable;
use crate::Body;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::{
    fmt,
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// How long a backend has to take a connection, and then to greet (upstream's dialer: 30 s for both).
const DIAL_MAX: Duration = Duration::from_secs(10);

/// A host: by its address, or, of a node that tells no address, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host {
    Ip(IpAddr),
    Name(String),
}

/// A host's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: Host,
    pub(super) port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address { host: Host::Ip(address.ip()), port: address.port() }
    }
}

/// Where a backend is and how it is spoken to.
#[derive(Clone)]
pub(super) struct Backend {
    pub(super) address: Address,
    /// Plain TCP if absent.
    pub(super) tls: Option<Arc<ClientConfig>>,
}

/// A connection to a backend, ready for one request. It lives as long as the request, its answer, or the tunnel.
pub(super) async fn connect(backend: &Backend) -> Result<SendRequest<Body>, String> {
    let address = &backend.address;
    let told = |error: io::Error| format!("dial tcp {address}: {}", reason(&error));
    let (ip, name) = match &address.host {
        Host::Ip(ip) => (*ip, ServerName::IpAddress((*ip).into())),
        Host::Name(name) => {
            let server = ServerName::try_from(name.clone()).map_err(|error| format!("dial tcp: lookup {name}: {error}"))?;
            (look_up(name).await.map_err(|error| format!("dial tcp: lookup {name}: {error}"))?, server)
        }
    };
    let stream = within(TcpStream::connect((ip, address.port))).await.map_err(told)?;
    stream.set_nodelay(true).map_err(told)?;
    let Some(tls) = &backend.tls else { return speak(stream).await };
    let connector = TlsConnector::from(Arc::clone(tls));
    let stream = within(connector.connect(name, stream)).await.map_err(|e| format!("tls: {}", refusal(&e)))?;
    speak(stream).await
}

/// The address of a name, if it is one that may be reached: whoever writes a name must not lead to this host by it.
async fn look_up(name: &str) -> Result<IpAddr, String> {
    let all = ::dial::addresses(name, DIAL_MAX).await.map_err(|error| error.to_string())?;
    all.into_iter().find_map(|ip| proxyable(ip).ok()).ok_or_else(|| "address not allowed".to_owned())
}

/// Why a handshake has failed: what one of our own verifiers says, as it says it.
fn refusal(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::General(why)) => why.clone(),
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)) => {
            "failed to verify certificate: x509: certificate signed by unknown authority".to_owned()
        }
        Some(rustls::Error::InvalidMessage(_)) => "first record does not look like a TLS handshake".to_owned(),
        _ => error.to_string(),
    }
}

async fn within<T>(future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(DIAL_MAX, future).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}

async fn speak<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(stream: S) -> Result<SendRequest<Body>, String> {
    let (sender, connection) = http1::Builder::new().handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(async move {
        // What went wrong is also told to whoever waits for the answer or reads its body.
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to a backend ended");
        }
    });
    Ok(sender)
}

/// The words in which Go tells an error of `connect`.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "connect: connection refused".into(),
        ErrorKind::HostUnreachable => "connect: no route to host".into(),
        ErrorKind::NetworkUnreachable => "connect: network is unreachable".into(),
        ErrorKind::TimedOut => "i/o timeout".into(),
        _ => error.to_string(),
    }
}

/// TLS to a workload: nobody vouches for its certificate, as with upstream's proxies. What is sent there is what the
/// caller chose to send there; credentials of the caller are never among it.
pub(super) fn unverified() -> Result<Arc<ClientConfig>, String> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(Arc::clone(config));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(::dial::unverified(provider))
        .with_no_client_auth();
    Ok(Arc::clone(CONFIG.get_or_init(|| Arc::new(config))))
}
