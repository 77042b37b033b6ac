//! gRPC over a unix socket: one request, one answer or several in a row (github.com/grpc/grpc, `PROTOCOL-HTTP2.md`).
//!
//! Every call has a connection of its own, as upstream's client of drivers: the socket's owner comes and goes, and what he leaves
//! unanswered is not in the way of the next. What comes from there is bounded: an answer's size, the length of what an error says, and,
//! of a call with one answer, the time of all of it.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE, USER_AGENT};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::UnixStream;
use tokio_util::task::AbortOnDropHandle;

use crate::driver::{Code, Failure};

/// The largest answer that is taken (gRPC's own default).
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// What is told of a driver's words.
const WORDS_BYTES_MAX: usize = 4 << 10;
/// Of an answer's headers.
const HEADERS_BYTES_MAX: u32 = 64 << 10;
/// The longest path that a socket's address holds.
const ADDRESS_BYTES_MAX: usize = 107;
/// Flag and length before each message.
const PREFIX_BYTES: usize = 5;

type Sender = hyper::client::conn::http2::SendRequest<Full<Bytes>>;
type Connection = hyper::client::conn::http2::Connection<TokioIo<UnixStream>, Full<Bytes>, TokioExecutor>;

/// The way to a socket. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Channel {
    socket: PathBuf,
}

impl Channel {
    /// The way to this socket; nobody need be there yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// Calls a method, by its full name (`csi.v1.Node/NodeGetInfo`).
    pub async fn call<Q: Message, A: Message + Default>(&self, method: &str, request: &Q, within: Duration) -> Result<A, Failure> {
        let late = || Failure::new(Code::DeadlineExceeded, "context deadline exceeded");
        tokio::time::timeout(within, self.ask(method, request, within)).await.unwrap_or_else(|_| Err(late()))
    }

    /// Connects, says so, and waits until the other side ends the connection. Nothing is asked; whatever HTTP/2 wants of us meanwhile is answered.
    ///
    /// # Errors
    /// Nobody is there.
    pub async fn hold(&self, connected: impl FnOnce() + Send) -> Result<(), Failure> {
        let (sender, connection) = self.dial().await?;
        connected();
        let _ = connection.await;
        drop(sender);
        Ok(())
    }

    /// Calls a method that answers with message after message, and hands each on. It takes as long as the other side likes.
    ///
    /// # Errors
    /// It ended otherwise than well.
    pub async fn follow<Q: Message, A: Message + Default>(&self, method: &str, request: &Q, mut each: impl FnMut(A) + Send) -> Result<(), Failure> {
        let (mut sender, connection) = self.dial().await?;
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let answer = sender.send_request(head(method, None, Full::new(framed(request)))?).await.map_err(|e| lost(&e))?;
        is_grpc(&answer)?;
        let (mut body, mut bytes) = (answer.into_body(), BytesMut::new());
        let mut end = None;
        while let Some(frame) = body.frame().await {
            match frame.map_err(|e| lost(&e))?.into_data() {
                Ok(data) => bytes.extend_from_slice(&data),
                Err(frame) => end = frame.into_trailers().ok().and_then(|trailers| status(&trailers)),
            }
            while let Some(length) = bytes.get(1..PREFIX_BYTES).map(|mut length| length.get_u32() as usize) {
                if length > ANSWER_BYTES_MAX {
                    return Err(too_large(length as u64));
                }
                if bytes.len() < PREFIX_BYTES + length {
                    break;
                }
                each(unframed(bytes.split_to(PREFIX_BYTES + length).freeze())?);
            }
        }
        end.unwrap_or_else(|| Err(unended()))
    }

    async fn dial(&self) -> Result<(Sender, Connection), Failure> {
        let unreachable = |e: &dyn std::fmt::Display| {
            Failure::new(Code::Unavailable, format!("connection error: desc = \"transport: Error while dialing: dial unix {}: {e}\"", self.socket.display()))
        };
        let stream = connect(&self.socket).await.map_err(|e| unreachable(&plain(&e)))?;
        let mut settings = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        settings.max_header_list_size(HEADERS_BYTES_MAX);
        settings.handshake(TokioIo::new(stream)).await.map_err(|e| unreachable(&e))
    }

    async fn ask<Q: Message, A: Message + Default>(&self, method: &str, request: &Q, within: Duration) -> Result<A, Failure> {
        let (mut sender, connection) = self.dial().await?;
        // It ends with the call: whoever goes away in between takes it along.
        let connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let request = head(method, Some(within), Full::new(framed(request)))?;
        let answer = sender.send_request(request).await.map_err(|e| lost(&e))?;
        let answer = read(answer).await;
        drop(connection);
        answer
    }
}

fn lost(e: &hyper::Error) -> Failure {
    Failure::new(Code::Unavailable, format!("error reading from server: {e}"))
}

fn unended() -> Failure {
    Failure::new(Code::Internal, "server closed the stream without sending trailers")
}

/// An error of the system as Go words it.
fn plain(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::NotFound => "connect: no such file or directory".into(),
        io::ErrorKind::ConnectionRefused => "connect: connection refused".into(),
        _ => e.to_string(),
    }
}

/// Connects, however long the path is: an address holds few bytes, a handle of the directory is short.
async fn connect(socket: &Path) -> io::Result<UnixStream> {
    if socket.as_os_str().len() <= ADDRESS_BYTES_MAX {
        return UnixStream::connect(socket).await;
    }
    let (Some(dir), Some(name)) = (socket.parent(), socket.file_name()) else { return Err(io::ErrorKind::InvalidInput.into()) };
    let dir = std::fs::File::open(dir)?;
    UnixStream::connect(Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name)).await
}

fn head<B>(method: &str, within: Option<Duration>, body: B) -> Result<Request<B>, Failure> {
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://localhost/{method}"))
        .header(TE, "trailers")
        .header(CONTENT_TYPE, "application/grpc")
        .header(USER_AGENT, "grpc-knarr");
    if let Some(within) = within {
        request = request.header("grpc-timeout", format!("{}m", within.as_millis().min(99_999_999)));
    }
    request.body(body).map_err(|e| Failure::new(Code::Internal, e.to_string()))
}

fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + length);
    out.put_u8(0);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // A buffer that grows has room for all.
    let _ = message.encode(&mut out);
    out.freeze()
}

/// Whether an answer is one of gRPC, with messages in it.
fn is_grpc(answer: &Response<Incoming>) -> Result<(), Failure> {
    // An error may be all that there is: then it stands in the headers.
    if let Some(failure) = status(answer.headers()) {
        failure?;
    }
    let kind = answer.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if answer.status() != http::StatusCode::OK || !kind.starts_with("application/grpc") {
        let words = format!("unexpected HTTP status code received from server: {} ({kind:?})", answer.status().as_u16());
        return Err(Failure::new(Code::Other(2), words));
    }
    Ok(())
}

async fn read<A: Message + Default>(answer: Response<Incoming>) -> Result<A, Failure> {
    is_grpc(&answer)?;
    let mut body = answer.into_body();
    let mut bytes = BytesMut::new();
    let mut trailers = HeaderMap::new();
    if body.size_hint().lower() > (ANSWER_BYTES_MAX + PREFIX_BYTES) as u64 {
        return Err(too_large(body.size_hint().lower()));
    }
    while let Some(frame) = body.frame().await {
        match frame.map_err(|e| lost(&e))?.into_data() {
            Ok(data) if bytes.len() + data.len() > ANSWER_BYTES_MAX + PREFIX_BYTES => return Err(too_large((bytes.len() + data.len()) as u64)),
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => {
                if let Ok(more) = frame.into_trailers() {
                    trailers = more;
                }
            }
        }
    }
    match status(&trailers) {
        Some(told) => told?,
        None => return Err(unended()),
    }
    unframed(bytes.freeze())
}

fn too_large(has: u64) -> Failure {
    Failure::new(Code::ResourceExhausted, format!("grpc: received message larger than max ({has} vs. {ANSWER_BYTES_MAX})"))
}

fn unframed<A: Message + Default>(mut bytes: Bytes) -> Result<A, Failure> {
    let bad = |why: &str| Failure::new(Code::Internal, format!("grpc: failed to unmarshal the received message: {why}"));
    if bytes.len() < PREFIX_BYTES {
        return Err(bad("there is none"));
    }
    let (packed, length) = (bytes.get_u8(), bytes.get_u32() as usize);
    if packed != 0 {
        return Err(bad("it is compressed, which nobody asked for"));
    }
    if bytes.len() != length {
        return Err(bad("it has another length than it says"));
    }
    A::decode(bytes).map_err(|e| bad(&e.to_string()))
}

/// What headers say of the call's end; none if they say nothing.
fn status(headers: &HeaderMap) -> Option<Result<(), Failure>> {
    let number = headers.get("grpc-status")?.to_str().ok().and_then(|v| v.parse().ok()).unwrap_or(2);
    if number == 0 {
        return Some(Ok(()));
    }
    let words = headers.get("grpc-message").map(words).unwrap_or_default();
    Some(Err(Failure::new(code(number), words)))
}

/// The percent-encoded words of an error.
fn words(value: &HeaderValue) -> String {
    let (bytes, mut out, mut i) = (value.as_bytes(), Vec::new(), 0);
    while i < bytes.len() && out.len() < WORDS_BYTES_MAX {
        let hex = bytes.get(i + 1..i + 3).filter(|_| bytes[i] == b'%').and_then(|h| std::str::from_utf8(h).ok()).and_then(|h| u8::from_str_radix(h, 16).ok());
        out.push(hex.unwrap_or(bytes[i]));
        i += if hex.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn code(number: u32) -> Code {
    match number {
        1 => Code::Canceled,
        3 => Code::InvalidArgument,
        4 => Code::DeadlineExceeded,
        5 => Code::NotFound,
        8 => Code::ResourceExhausted,
        9 => Code::FailedPrecondition,
        10 => Code::Aborted,
        11 => Code::OutOfRange,
        12 => Code::Unimplemented,
        13 => Code::Internal,
        14 => Code::Unavailable,
        other => Code::Other(other),
    }
}
