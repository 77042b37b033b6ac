//! Answers that are there before the request's body is.

use crate::kubelet::World;
use apiserver::BoxError;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use serde_json::Value;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const PIECE_BYTES: usize = 64 * 1024;
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A body of so many pieces; it never ends if told so.
fn body(pieces: usize, ends: bool) -> http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError> {
    let piece = Bytes::from(vec![b' '; PIECE_BYTES]);
    let pieces = futures_util::stream::iter((0..pieces).map(move |_| Ok::<_, BoxError>(Frame::data(piece.clone()))));
    let rest = futures_util::stream::poll_fn(move |_| if ends { std::task::Poll::Ready(None) } else { std::task::Poll::Pending });
    StreamBody::new(futures_util::StreamExt::chain(pieces, rest)).boxed_unsync()
}

async fn answer(
    world: &World,
    http2: bool,
    request: Request<http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>>,
    as_admin: bool,
) -> (StatusCode, Value) {
    let mut config = world.keys.ca.client_config(as_admin.then_some(&world.keys.admin)).expect("TLS");
    config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    let stream = TcpStream::connect(world.api).await.expect("connected");
    let stream = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").expect("a name"), stream).await.expect("TLS");
    let asked = request.uri().to_string();
    let response = if http2 {
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
        tokio::spawn(connection);
        let response = sender.send_request(request).await.unwrap_or_else(|e| panic!("{asked}: {e:?}"));
        let (parts, body) = response.into_parts();
        (parts.status, body.collect().await.unwrap_or_else(|e| panic!("{asked}: {e:?}")).to_bytes())
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        let response = sender.send_request(request).await.unwrap_or_else(|e| panic!("{asked}: {e:?}"));
        let (parts, body) = response.into_parts();
        (parts.status, body.collect().await.unwrap_or_else(|e| panic!("{asked}: {e:?}")).to_bytes())
    };
    (response.0, serde_json::from_slice(&response.1).unwrap_or_else(|_| String::from_utf8_lossy(&response.1).into_owned().into()))
}

#[tokio::test]
async fn every_early_answer_arrives() {
    let world = World::start("early").await;
    let post = |uri: &str, media: &str, token: &str| {
        let request = Request::post(format!("https://localhost{uri}")).header("host", "localhost").header("content-type", media);
        if token.is_empty() { request } else { request.header("authorization", format!("Bearer {token}")) }
    };
    // 16 MiB and a body without an end: more than is read, and more than any window.
    for (pieces, ends) in [(256, true), (4096, true), (8, false)] {
        for http2 in [true, false] {
            let told = format!("{pieces} pieces, HTTP/2: {http2}");
            let ask = async |uri: &str, media: &str, token: &str, admin: bool| {
                answer(&world, http2, post(uri, media, token).body(body(pieces, ends)).expect("a request"), admin).await
            };
            if ends {
                let (code, status) = ask(MAPS, "application/json", "", true).await;
                assert_eq!((code.as_u16(), status["reason"].as_str()), (413, Some("RequestEntityTooLarge")), "{told}");
            }
            assert_eq!(ask(MAPS, "text/plain", "", true).await.0, 415, "{told}");
            assert_eq!(ask(MAPS, "application/json", "nobody's", false).await.0, 401, "{told}");
            assert_eq!(ask(MAPS, "application/json", "", false).await.0, 403, "{told}");
            assert_eq!(ask("/api/v1/nothing", "application/json", "", true).await.0, 404, "{told}");
            assert_eq!(ask(&format!("{MAPS}/a"), "application/json", "", true).await.0, 405, "{told}");
        }
    }
}
