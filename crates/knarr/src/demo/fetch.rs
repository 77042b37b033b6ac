//! One HTTP request, from the name to the body.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::address;

/// Bytes of an answer at most.
const BODY_MAX: usize = 256 * 1024;

/// GETs a text.
pub async fn get(url: &str, patience: Duration) -> Result<String, String> {
    request(Method::GET, url, patience).await
}

/// Sends a request without a body; the answer's body if it is a good one.
pub async fn request(method: Method, url: &str, patience: Duration) -> Result<String, String> {
    let work = Box::pin(exchange(method, url));
    tokio::time::timeout(patience, work).await.map_err(|_| format!("{url}: no answer within {patience:?}"))?
}

async fn exchange(method: Method, url: &str) -> Result<String, String> {
    let uri: Uri = url.parse().map_err(|e| format!("{url}: {e}"))?;
    let host = uri.host().ok_or_else(|| format!("{url} names no host"))?;
    let address = address(host).await?;
    let failed = |e: &dyn std::fmt::Display| format!("{url} ({address}): {e}");
    let stream = TcpStream::connect((address, uri.port_u16().unwrap_or(80))).await.map_err(|e| failed(&e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(&e))?;
    tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let request = Request::builder().method(method).uri(path).header(header::HOST, host).header(header::CONNECTION, "close");
    let request = request.body(Empty::<Bytes>::new()).map_err(|e| failed(&e))?;
    let response = sender.send_request(request).await.map_err(|e| failed(&e))?;
    let code = response.status();
    let body = Limited::new(response.into_body(), BODY_MAX).collect().await.map_err(|e| failed(&e))?.to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    if code.is_success() { Ok(text) } else { Err(format!("{url}: {code}: {}", text.trim())) }
}
