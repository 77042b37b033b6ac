//! gRPC at a socket of this kubelet's (github.com/grpc/grpc, `PROTOCOL-HTTP2.md`): one request, and one answer or many.

use std::convert::Infallible;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use dial::guests::Told;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Calls a second, and at once (upstream `DefaultQPS`, `DefaultBurstTokens`).
const CALLS_PER_S: f64 = 100.0;
const CALLS_AT_ONCE: f64 = 10.0;
/// Connections, and calls under way on each: who watches a node's pods is one program or a few. One more is hung up on, so that a client hears of it.
const CONNECTIONS_MAX: usize = 32;
const STREAMS_MAX: u32 = 32;
/// The longest request is two names.
const REQUEST_BYTES_MAX: usize = 64 << 10;
/// Flag and length before each message.
const PREFIX_BYTES: usize = 5;
/// How often a silent peer is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Before the next is let in when the last could not be.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// gRPC's codes.
pub(crate) const UNKNOWN: u8 = 2;
pub(crate) const NOT_FOUND: u8 = 5;
pub(crate) const RESOURCE_EXHAUSTED: u8 = 8;
pub(crate) const FAILED_PRECONDITION: u8 = 9;
const UNIMPLEMENTED: u8 = 12;
pub(crate) const INTERNAL: u8 = 13;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Why a call ends without its answer: a code, and words.
pub(crate) type Refusal = (u8, String);

/// What a call is answered with.
pub(crate) enum Reply {
    /// One message.
    One(Vec<u8>),
    /// Messages until there are no more, or something goes wrong.
    Many(mpsc::Receiver<Result<Vec<u8>, Refusal>>),
}

/// What answers at a socket.
pub(crate) trait Service: Send + Sync + 'static {
    /// What can be called.
    type Method: Copy + Send;
    /// Who asks there, for the log.
    const ASKED: &'static str;

    /// A method by its name as it is called.
    ///
    /// # Errors
    /// There is none of the name: in gRPC's words.
    fn method(&self, path: &str) -> Result<Self::Method, String>;

    /// Answers a call.
    ///
    /// # Errors
    /// The request cannot be read, or what it asks for is not there.
    fn answer(&self, method: Self::Method, message: &[u8]) -> Result<Reply, Refusal>;
}

/// The method that is called by this path: what `find` has by its service and its name there.
///
/// # Errors
/// There is none, in gRPC's words: of one of these services, or of another.
pub(crate) fn method<M>(path: &str, services: &[&str], find: impl FnOnce(&str, &str) -> Option<M>) -> Result<M, String> {
    let (service, name) = path.strip_prefix('/').and_then(|path| path.rsplit_once('/')).ok_or_else(|| format!("malformed method name: {path:?}"))?;
    find(service, name)
        .ok_or_else(|| if services.contains(&service) { format!("unknown method {name} for service {service}") } else { format!("unknown service {service}") })
}

/// So many calls a second, and some more at once.
struct Rate(Mutex<(f64, Instant)>);

impl Rate {
    fn new() -> Self {
        Self(Mutex::new((CALLS_AT_ONCE, Instant::now())))
    }

    fn allows(&self) -> bool {
        let (left, last) = &mut *self.0.lock();
        let now = Instant::now();
        *left = (*left + now.duration_since(*last).as_secs_f64() * CALLS_PER_S).min(CALLS_AT_ONCE);
        *last = now;
        let allows = *left >= 1.0;
        if allows {
            *left -= 1.0;
        }
        allows
    }
}

/// Takes a socket's place in a directory: one that a former process left goes. Blocks on the disk.
///
/// # Errors
/// It cannot be had.
pub(crate) fn listen(directory: &Path, socket: &str) -> io::Result<UnixListener> {
    std::fs::DirBuilder::new().recursive(true).mode(0o750).create(directory)?;
    // An address holds few bytes; a handle of the directory is short, however long its path is.
    let handle = std::fs::File::open(directory)?;
    let socket = Path::new(&format!("/proc/self/fd/{}", handle.as_raw_fd())).join(socket);
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => UnixListener::bind(socket),
    }
}

struct Server<S> {
    service: S,
    rate: Rate,
}

/// Answers at the socket until `stop`.
pub(crate) async fn serve<S: Service>(listener: UnixListener, service: S, stop: CancellationToken) {
    let server = Arc::new(Server { service, rate: Rate::new() });
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let accept = async {
        let mut full = Told::default();
        loop {
            match next(&listener, &places, &mut full, S::ASKED).await {
                Ok((stream, place)) => {
                    let (server, stop) = (Arc::clone(&server), stop.clone());
                    tokio::spawn(async move {
                        stop.run_until_cancelled(connection(stream, server)).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "who asks for {} is not let in; will be tried again", S::ASKED);
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    };
    stop.run_until_cancelled(accept).await;
}

/// The next who has a place; who comes when there is none is hung up on.
async fn next(listener: &UnixListener, places: &Arc<Semaphore>, full: &mut Told, asked: &str) -> io::Result<(UnixStream, OwnedSemaphorePermit)> {
    loop {
        let (stream, _) = listener.accept().await?;
        if let Ok(place) = Arc::clone(places).try_acquire_owned() {
            return Ok((stream, place));
        }
        if full.due() {
            tracing::warn!("too many connections ask for {asked}; one is turned away");
        }
    }
}

async fn connection<S: Service>(stream: UnixStream, server: Arc<Server<S>>) {
    let service = hyper::service::service_fn(move |request| {
        let server = Arc::clone(&server);
        async move { Ok::<_, Infallible>(server.handle(request).await) }
    });
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).keep_alive_interval(KEEP_ALIVE).max_concurrent_streams(STREAMS_MAX);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection for {} ended", S::ASKED);
    }
}

impl<S: Service> Server<S> {
    async fn handle(&self, request: Request<Incoming>) -> Answer {
        let is_grpc = request.headers().get(http::header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        if request.method() != http::Method::POST || !is_grpc {
            let mut answer = Response::new(Full::default().boxed_unsync());
            *answer.status_mut() = if is_grpc { StatusCode::METHOD_NOT_ALLOWED } else { StatusCode::UNSUPPORTED_MEDIA_TYPE };
            return answer;
        }
        let method = match self.service.method(request.uri().path()) {
            Ok(method) => method,
            Err(why) => return refused(UNIMPLEMENTED, &why),
        };
        let Ok(body) = Limited::new(request.into_body(), REQUEST_BYTES_MAX + PREFIX_BYTES).collect().await else {
            return refused(RESOURCE_EXHAUSTED, &format!("grpc: received message larger than max ({REQUEST_BYTES_MAX} bytes), or it was cut off"));
        };
        if !self.rate.allows() {
            return refused(RESOURCE_EXHAUSTED, "rejected by rate limit");
        }
        let message = match unframed(body.to_bytes()) {
            Ok(message) => message,
            Err((code, why)) => return refused(code, why),
        };
        match self.service.answer(method, &message) {
            Ok(Reply::One(message)) => whole(&message),
            Ok(Reply::Many(messages)) => many(messages),
            Err((code, why)) => refused(code, &why),
        }
    }
}

/// The message of a call.
fn unframed(mut bytes: Bytes) -> Result<Bytes, (u8, &'static str)> {
    if bytes.len() < PREFIX_BYTES {
        return Err((INTERNAL, "the request has no message"));
    }
    let (packed, length) = (bytes.get_u8(), bytes.get_u32() as usize);
    match (packed, bytes.len() == length) {
        (0, true) => Ok(bytes),
        (0, false) => Err((INTERNAL, "the request has another length than it says")),
        _ => Err((UNIMPLEMENTED, "grpc: compressed messages are not taken")),
    }
}

/// A message as it stands in a call or in an answer.
pub(crate) fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}

/// How a call ended: what stands in its trailers.
fn end(code: u8, why: &str) -> HeaderMap {
    let mut words = String::new();
    for byte in why.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => words.push(byte as char),
            _ => words.push_str(&format!("%{byte:02X}")),
        }
    }
    let mut told = HeaderMap::new();
    told.insert("grpc-status", HeaderValue::from(u16::from(code)));
    if code != 0 {
        // It is printable now.
        told.insert("grpc-message", HeaderValue::from_str(&words).unwrap_or(HeaderValue::from_static("")));
    }
    told
}

fn grpc(mut answer: Answer) -> Answer {
    answer.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    answer
}

fn whole(message: &[u8]) -> Answer {
    let body = Full::new(framed(message)).with_trailers(std::future::ready(Some(Ok(end(0, "")))));
    grpc(Response::new(body.boxed_unsync()))
}

fn many(messages: mpsc::Receiver<Result<Vec<u8>, Refusal>>) -> Answer {
    let stream = futures_util::stream::unfold(Some(messages), |left| async move {
        let mut messages = left?;
        let (frame, left) = match messages.recv().await {
            Some(Ok(message)) => (Frame::data(framed(&message)), Some(messages)),
            Some(Err((code, why))) => (Frame::trailers(end(code, &why)), None),
            None => (Frame::trailers(end(0, "")), None),
        };
        Some((Ok::<_, Infallible>(frame), left))
    });
    grpc(Response::new(StreamBody::new(stream).boxed_unsync()))
}

/// An answer that is its end.
fn refused(code: u8, why: &str) -> Answer {
    let mut answer = grpc(Response::new(Full::default().boxed_unsync()));
    answer.headers_mut().extend(end(code, why));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;

    #[tokio::test(start_paused = true)]
    async fn calls_are_so_many_a_second() {
        let rate = Rate::new();
        assert_eq!((0..20).filter(|_| rate.allows()).count(), 10);
        tokio::time::advance(Duration::from_millis(35)).await;
        assert_eq!((0..20).filter(|_| rate.allows()).count(), 3);
    }

    #[tokio::test]
    async fn who_finds_no_place_hears_of_it() {
        let root = std::env::temp_dir().join(format!("knarr-grpc-{}", std::process::id()));
        let listener = listen(&root, "a.sock").unwrap();
        let (socket, places, mut full) = (root.join("a.sock"), Arc::new(Semaphore::new(1)), Told::default());
        let _first = UnixStream::connect(&socket).await.unwrap();
        let (_, place) = next(&listener, &places, &mut full, "it").await.unwrap();
        let (mut second, mut byte) = (UnixStream::connect(&socket).await.unwrap(), [0]);
        tokio::select! {
            _ = next(&listener, &places, &mut full, "it") => panic!("there is one place"),
            read = second.read(&mut byte) => assert_eq!(read.unwrap(), 0, "hung up on"),
        }
        drop(place);
        let _third = UnixStream::connect(&socket).await.unwrap();
        drop(next(&listener, &places, &mut full, "it").await.unwrap());
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn what_is_refused_is_told_in_printable_words() {
        let answer = refused(UNKNOWN, "pod ü 100% in namespace  not found");
        assert_eq!(answer.headers()["grpc-message"], "pod %C3%BC 100%25 in namespace  not found");
        assert_eq!(unframed(Bytes::from_static(&[1, 0, 0, 0, 0])), Err((UNIMPLEMENTED, "grpc: compressed messages are not taken")));
        assert_eq!(unframed(Bytes::from_static(&[0, 0, 0, 0, 2, 1])), Err((INTERNAL, "the request has another length than it says")));
        assert_eq!(unframed(Bytes::from_static(&[0, 0, 0, 0, 1, 7])), Ok(Bytes::from_static(&[7])));
    }

    #[tokio::test]
    async fn many_messages_end_with_how_they_ended() {
        let (sender, messages) = mpsc::channel(4);
        sender.send(Ok(vec![7])).await.unwrap();
        sender.send(Err((RESOURCE_EXHAUSTED, "too slow".to_owned()))).await.unwrap();
        let body = many(messages).into_body().collect().await.unwrap();
        assert_eq!(body.trailers().map(|told| told["grpc-message"].clone()), Some(HeaderValue::from_static("too slow")));
        assert_eq!(&body.to_bytes()[..], [0, 0, 0, 0, 1, 7]);
    }
}
