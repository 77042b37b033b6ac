//! A driver of devices in a test: it speaks by hand what drivers speak, over a real socket.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;

/// A field of a message of protobuf: text, bytes or a message.
fn field(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut all = vec![(tag << 3) | 2, u8::try_from(content.len()).expect("a short one")];
    all.extend_from_slice(content);
    all
}

/// A message as gRPC sends it.
fn framed(message: &[u8]) -> Bytes {
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(message.len()).expect("a short one").to_be_bytes());
    bytes.extend(message);
    bytes.into()
}

/// A driver `d.io` at a socket, where it registers as well, and what it was asked.
#[derive(Default)]
pub(crate) struct Driven {
    asked: tokio::sync::watch::Sender<Vec<String>>,
    /// What it says of each claim, if it is not content.
    pub(crate) refuses: Mutex<&'static str>,
    /// How the device of claim `a` is: 1 well, 2 not well.
    pub(crate) health: tokio::sync::watch::Sender<u8>,
}

type Answer = http::Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>;

impl Driven {
    pub(crate) fn new(at: &Path) -> Arc<Self> {
        let (driven, listener) = (Arc::<Self>::default(), tokio::net::UnixListener::bind(at).expect("a socket"));
        let serving = driven.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let driven = serving.clone();
                let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let driven = driven.clone();
                    async move { Ok::<_, Infallible>(driven.answer(request).await) }
                });
                tokio::spawn(async move {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        driven
    }

    async fn answer(&self, request: hyper::Request<hyper::body::Incoming>) -> Answer {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let body = request.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let head = http::Response::builder().header("content-type", "application/grpc");
        if method == "NodeWatchResources" {
            return head.body(http_body_util::BodyExt::boxed(http_body_util::StreamBody::new(reports(self.health.subscribe())))).expect("an answer");
        }
        let uids: Vec<&str> = ["uid-a", "uid-b"].into_iter().filter(|uid| body.windows(uid.len()).any(|w| w == uid.as_bytes())).collect();
        let trailers: http::HeaderMap = [(http::HeaderName::from_static("grpc-status"), http::HeaderValue::from_static("0"))].into_iter().collect();
        let whole = |message: &[u8]| {
            let body = Full::new(framed(message)).with_trailers(std::future::ready(Some(Ok::<_, Infallible>(trailers))));
            head.body(body.boxed()).expect("an answer")
        };
        match method.as_str() {
            "GetInfo" => return whole(&[field(1, b"DRAPlugin"), field(2, b"d.io"), field(4, b"v1.DRAPlugin")].concat()),
            "NotifyRegistrationStatus" => return whole(&[]),
            _ => self.asked.send_modify(|all| all.push(format!("{method} {}", uids.join(",")))),
        }
        let device = |uid: &str| [field(1, b"r"), field(2, b"p"), field(3, uid.as_bytes()), field(4, format!("d.io/gpu={uid}").as_bytes())].concat();
        let refusal = *self.refuses.lock();
        let of_claim = |uid: &str| match (method.as_str(), refusal) {
            ("NodePrepareResources", "") => field(1, &device(uid)),
            ("NodePrepareResources", why) => field(2, why.as_bytes()),
            (_, why) => field(1, why.as_bytes()),
        };
        let entry = |uid: &&str| field(1, &[field(1, uid.as_bytes()), field(2, &of_claim(uid))].concat());
        let message: Vec<u8> = uids.iter().flat_map(entry).collect();
        whole(&message)
    }

    /// What it was asked.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.borrow().clone()
    }

    /// Waits until it was asked this so many times.
    pub(crate) async fn was_asked(&self, what: &str, times: usize) {
        let mut asked = self.asked.subscribe();
        let _ = asked.wait_for(|all| all.iter().filter(|one| *one == what).count() >= times).await;
    }
}

/// A report at once, and one for each change of how the device of claim `a` is.
fn reports(health: tokio::sync::watch::Receiver<u8>) -> impl futures_util::Stream<Item = Result<hyper::body::Frame<Bytes>, Infallible>> {
    futures_util::stream::unfold((health, true), |(mut health, first)| async move {
        if !first {
            health.changed().await.ok()?;
        }
        let now = *health.borrow_and_update();
        let device = [field(1, &[field(1, b"p"), field(2, b"uid-a")].concat()), vec![2 << 3, now], field(5, b"hot")].concat();
        Some((Ok(hyper::body::Frame::data(framed(&field(1, &device)))), (health, false)))
    })
}
