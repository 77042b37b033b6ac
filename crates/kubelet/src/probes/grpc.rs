//! gRPC health checks (`grpc.health.v1.Health/Check`) over plain HTTP/2, with the two messages coded by hand.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};

use machinery::time::go_duration;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::http::authority;
use crate::grpc;

/// Between two calls of somebody who is not there: gRPC's first back-off.
const AGAIN: Duration = Duration::from_secs(1);
/// Most bytes of an answer; a health answer has seven.
const MAX_ANSWER: usize = 4096;
/// gRPC's status code of a method that does not exist.
const UNIMPLEMENTED: &str = "12";

/// Asks whether `service` (empty: the server) serves. Whoever is not there yet is called again until the time is over, as the
/// original's dialler does.
pub async fn check(host: &str, port: u16, service: &str, timeout: Duration) -> Result<(), String> {
    let (at, end) = (authority(host, port), Instant::now() + timeout);
    let connected = async {
        loop {
            match crate::util::connect(host, port).await {
                Ok(tcp) => return tcp,
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    };
    let within = go_duration(timeout);
    let tcp = tokio::time::timeout_at(end, connected).await;
    let tcp = tcp.map_err(|_| format!("timeout: failed to connect service {at:?} within {within}: context deadline exceeded"))?;
    let answer = tokio::time::timeout_at(end, ask(tcp, &at, service)).await;
    answer.unwrap_or_else(|_| Err(format!("timeout: health rpc did not complete within {within}")))
}

async fn ask(tcp: TcpStream, at: &str, service: &str) -> Result<(), String> {
    let lost = |e: hyper::Error| format!("error: health rpc probe failed: rpc error: code = Unavailable desc = {e}");
    let (mut sender, connection) = hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), TokioIo::new(tcp)).await.map_err(lost)?;
    let driver = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = http::Request::post(format!("http://{at}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.37 grpc-rust")
        .body(Full::new(encode(service)))
        .map_err(|e| e.to_string())?;
    let answer = sender.send_request(request).await.map_err(lost)?;
    let (head, body) = answer.into_parts();
    let collected = Limited::new(body, MAX_ANSWER).collect().await.map_err(|e| format!("error: health rpc probe failed: {e}"))?;
    let trailers = collected.trailers().cloned().unwrap_or_default();
    drop(driver);
    let code = trailers.get("grpc-status").or_else(|| head.headers.get("grpc-status")).and_then(|v| v.to_str().ok()).unwrap_or("0").to_owned();
    let text = trailers.get("grpc-message").or_else(|| head.headers.get("grpc-message")).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    match code.as_str() {
        "0" => {}
        UNIMPLEMENTED => return Err(format!("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {text}")),
        _ => return Err(format!("error: health rpc probe failed: rpc error: code = {} desc = {text}", code_name(&code))),
    }
    match decode(&collected.to_bytes()) {
        Some(1) => Ok(()),
        Some(s) => Err(format!("service unhealthy (responded with {:?})", name(s))),
        None => Err("error: health rpc probe failed: malformed answer".into()),
    }
}

/// The names of gRPC's codes, by their numbers.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

fn code_name(code: &str) -> String {
    let known = code.parse::<usize>().ok().and_then(|n| CODES.get(n));
    known.map_or_else(|| format!("Code({code})"), |name| (*name).to_owned())
}

fn name(status: u64) -> &'static str {
    match status {
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "UNKNOWN",
    }
}

/// A frame (uncompressed, length) with `HealthCheckRequest{service = 1}`.
fn encode(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut len = service.len();
        while len >= 0x80 {
            message.put_u8((len & 0x7f) as u8 | 0x80);
            len >>= 7;
        }
        message.put_u8(len as u8);
        message.put_slice(service.as_bytes());
    }
    grpc::framed(&message)
}

/// The status (field 1, varint) of a `HealthCheckResponse` in a frame; absent means 0.
fn decode(frame: &[u8]) -> Option<u64> {
    let (head, rest) = frame.split_at_checked(5)?;
    let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    let message = rest.get(..usize::try_from(len).ok()?)?;
    if head[0] != 0 {
        return None;
    }
    match message {
        [] => Some(0),
        [0x08, v, ..] => Some(u64::from(*v)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_is_not_there_and_who_says_nothing_are_told_apart() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let silent = check("127.0.0.1", port, "", Duration::from_secs(3)).await.unwrap_err();
        assert_eq!(silent, "timeout: health rpc did not complete within 3s");
        drop(listener);
        let begun = Instant::now();
        let absent = check("127.0.0.1", port, "", Duration::from_secs(3)).await.unwrap_err();
        assert_eq!(absent, format!("timeout: failed to connect service \"127.0.0.1:{port}\" within 3s: context deadline exceeded"));
        assert_eq!(begun.elapsed(), Duration::from_secs(3), "it was called again meanwhile");
        assert_eq!(["5", "14", "99"].map(code_name), ["NotFound", "Unavailable", "Code(99)"]);
    }

    #[test]
    fn frames() {
        assert_eq!(&encode("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&encode("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(encode(&"x".repeat(200))[5..8], [0x0a, 0xc8, 0x01]);
        assert_eq!(decode(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(decode(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(decode(&[0, 0, 0, 0, 9, 8]), None);
        assert_eq!(decode(&[1, 0, 0, 0, 2, 8, 1]), None);
    }
}
