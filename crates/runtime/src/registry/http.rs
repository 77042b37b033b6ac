//! HTTP as a registry's client needs it: one request, its redirects, and the body as a stream.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::config::Tls;
use crate::error::{Error, Result};

/// A server that takes no connection within this is not there.
const CONNECT_MAX: Duration = Duration::from_secs(15);
/// The head of an answer comes within this.
const ANSWER_MAX: Duration = Duration::from_secs(60);
const REDIRECTS_MAX: usize = 8;
/// The certificates that this host trusts; where there are none, Mozilla's are built in.
const SYSTEM_CERTIFICATES: [&str; 3] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Asks hosts with one configuration of TLS.
pub(super) struct Http {
    tls: Tls,
    built: tokio::sync::OnceCell<Arc<rustls::ClientConfig>>,
}

/// A failed request: whether another try may help, and what to say.
pub(super) fn unreachable(method: &Method, url: &str, e: &dyn std::fmt::Display) -> Error {
    let verb = method.as_str();
    let verb = format!("{}{}", &verb[..1], verb[1..].to_ascii_lowercase());
    Error::Image(format!("failed to do request: {verb} \"{url}\": {e}"))
}

impl Http {
    pub(super) fn new(tls: Tls) -> Http {
        Http { tls, built: tokio::sync::OnceCell::new() }
    }

    /// Sends a request and follows redirects; another host does not get to see the authorisation.
    pub(super) async fn send(&self, method: Method, url: &str, headers: &HeaderMap, body: Bytes) -> Result<Response<Incoming>> {
        let mut url = url.to_owned();
        let mut headers = headers.clone();
        for _ in 0..=REDIRECTS_MAX {
            let answer = tokio::time::timeout(ANSWER_MAX, self.once(&method, &url, &headers, body.clone())).await;
            let response = answer.unwrap_or_else(|_| Err("timeout awaiting response headers".to_owned()));
            let response = response.map_err(|e| unreachable(&method, &url, &e))?;
            let redirected = matches!(
                response.status(),
                StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER | StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT
            );
            let location = response.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
            let Some(location) = location.filter(|_| redirected) else { return Ok(response) };
            let next = join(&url, location);
            if authority(&next) != authority(&url) {
                headers.remove(header::AUTHORIZATION);
            }
            url = next;
        }
        Err(unreachable(&method, &url, &"too many redirects"))
    }

    async fn once(&self, method: &Method, url: &str, headers: &HeaderMap, body: Bytes) -> Result<Response<Incoming>, String> {
        let uri: Uri = url.parse().map_err(|e| format!("invalid URL: {e}"))?;
        let host = uri.host().ok_or("no host in the URL")?.to_owned();
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = connect(&host, port).await?;
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let mut request = Request::builder().method(method).uri(path).body(Full::new(body)).map_err(|e| e.to_string())?;
        *request.headers_mut() = headers.clone();
        let authority = uri.authority().map_or(host.as_str(), |a| a.as_str());
        request.headers_mut().insert(header::HOST, HeaderValue::from_str(authority).map_err(|e| e.to_string())?);
        request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static(concat!("knarr/", env!("CARGO_PKG_VERSION"))));
        if !secure {
            return exchange(stream, request).await;
        }
        let config = self.built.get_or_try_init(|| async { build(&self.tls) }).await?;
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|e| e.to_string())?;
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
        exchange(connector.connect(name, stream).await.map_err(|e| format!("tls: {e}"))?, request).await
    }
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let addresses = dial::addresses(host, dial::ANSWER_MAX).await.map_err(|e| format!("dial tcp: {e}"))?;
    let mut last = format!("dial tcp: lookup {host}: no such host");
    for address in addresses {
        match tokio::time::timeout(CONNECT_MAX, TcpStream::connect((address, port))).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(e)) => {
                let text = e.to_string().to_ascii_lowercase();
                last = format!("dial tcp {address}:{port}: connect: {}", text.split(" (os error").next().unwrap_or_default());
            }
            Err(_) => last = format!("dial tcp {address}:{port}: i/o timeout"),
        }
    }
    Err(last)
}

async fn exchange(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, String> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    // Ends with the body of this one exchange.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(|e| e.to_string())
}

fn authority(url: &str) -> Option<String> {
    url.parse::<Uri>().ok()?.authority().map(ToString::to_string)
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
    use super::join;

    #[test]
    fn redirects_may_be_relative() {
        let base = "https://r.example/v2/a/blobs/x?y=1";
        assert_eq!(join(base, "http://cdn.example/z"), "http://cdn.example/z");
        assert_eq!(join(base, "/z?q"), "https://r.example/z?q");
        assert_eq!(join(base, "//cdn.example/z"), "https://cdn.example/z");
        assert_eq!(join(base, "z"), "https://r.example/v2/a/blobs/z");
    }
}
