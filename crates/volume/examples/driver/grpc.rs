//! gRPC at a unix socket, for services whose every answer is one message.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::UnixListener;

/// Flag and length before each message.
const PREFIX_BYTES: usize = 5;

/// A message, or a code of gRPC and words.
pub(crate) type Answer = Result<Vec<u8>, (u32, String)>;

pub(crate) fn message(message: &impl Message) -> Answer {
    Ok(message.encode_to_vec())
}

/// An answer that says nothing.
pub(crate) fn done() -> Answer {
    Ok(Vec::new())
}

pub(crate) fn internal(e: impl std::fmt::Display) -> (u32, String) {
    (13, e.to_string())
}

/// Answers calls by their full names (`csi.v1.Node/NodeGetInfo`).
pub(crate) trait Service: Send + Sync + 'static {
    fn answer(&self, method: &str, body: Bytes) -> impl Future<Output = Answer> + Send;
}

async fn answer(service: &impl Service, request: Request<Incoming>) -> Response<BoxBody<Bytes, Infallible>> {
    let method = request.uri().path().trim_start_matches('/').to_owned();
    let body = request.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let answer = service.answer(&method, body.slice(body.len().min(PREFIX_BYTES)..)).await;
    println!("{method}: {:?}", answer.as_ref().map(Vec::len));
    let (mut trailers, mut bytes) = (HeaderMap::new(), BytesMut::new());
    match answer {
        Ok(message) => {
            bytes.put_u8(0);
            bytes.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
            bytes.extend_from_slice(&message);
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
        }
        Err((code, words)) => {
            trailers.insert("grpc-status", code.into());
            trailers.insert("grpc-message", HeaderValue::from_str(&words).unwrap_or(HeaderValue::from_static("?")));
        }
    }
    let body = Full::new(bytes.freeze()).with_trailers(std::future::ready(Some(Ok(trailers)))).boxed();
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

/// Listens where a former process may have left its socket.
pub(crate) fn listen(at: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = at.parent() {
        fs::create_dir_all(dir)?;
    }
    let _ = fs::remove_file(at);
    UnixListener::bind(at)
}

/// Serves until something breaks.
pub(crate) async fn serve(service: impl Service, at: &Path) -> io::Result<()> {
    let (service, listener) = (Arc::new(service), listen(at)?);
    loop {
        let (stream, _) = listener.accept().await?;
        let service = Arc::clone(&service);
        tokio::spawn(async move {
            let calls = service_fn(move |request| {
                let service = Arc::clone(&service);
                async move { Ok::<_, Infallible>(answer(&*service, request).await) }
            });
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), calls).await;
        });
    }
}
