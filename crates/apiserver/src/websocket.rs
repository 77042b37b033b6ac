//! WebSockets on which only the server speaks: a log or a watch that is asked for with `Upgrade: websocket`.
//!
//! Browsers and the clients that live in them can read an endless answer in no other way. The answer is made as for
//! everybody; once it is there, its body leaves as messages instead of chunks, so what a socket tells cannot differ from
//! what a plain request is told, and an error is a plain answer. What the client says is heard for its end alone.

use crate::{Body, reply};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use dial::websocket::{Refusal, accept, choose, offered, origin, sole};
pub(crate) use dial::websocket::{upgrade_wanted, wanted};
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Response, header, request::Parts};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use machinery::status::Status;
use std::time::Duration;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{
            CloseFrame, Role, WebSocketConfig,
            frame::{Utf8Bytes, coding::CloseCode},
        },
    },
};

/// Bytes of a log that go into one message.
const PART_BYTES: usize = 32 * 1024;
/// Bytes of a message that a client may send, though nobody listens.
const HEARD_BYTES_MAX: usize = 64 * 1024;
/// How long a client may take to answer the end.
const CLOSE_WAIT: Duration = Duration::from_secs(5);
/// Before a token among the offered protocols: a browser cannot set `Authorization`.
const TOKEN_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";
/// The protocols of a log, each with what its messages are; upstream's default is the first.
const LOG_PROTOCOLS: [(&str, Framing); 3] = [("", Framing::Binary), ("binary.k8s.io", Framing::Binary), ("base64.binary.k8s.io", Framing::Base64)];

/// How the pieces of a body become messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// Bytes as they are.
    Binary,
    /// Text: base64 of the bytes.
    Base64,
    /// Text: each line, with its end, as upstream's encoder writes it.
    Lines,
    /// Bytes: each of the messages that have their length in front of them, without it.
    Delimited,
}

/// Takes a bearer token out of the protocols that a client offers, so that it gets no further than this server. One that is
/// malformed, doubled or without another protocol beside it is a token that nobody has, the empty one.
pub(crate) fn take_token(headers: &mut HeaderMap) -> Option<String> {
    if !headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) || !wanted(headers) {
        return None;
    }
    let (tokens, others): (Vec<String>, Vec<String>) = offered(headers).map(str::to_owned).partition(|p| p.starts_with(TOKEN_PROTOCOL));
    let first = tokens.first()?;
    headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
    if let Ok(rest) = HeaderValue::from_str(&others.join(", "))
        && !others.is_empty()
    {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, rest);
    }
    let decoded = URL_SAFE_NO_PAD.decode(&first[TOKEN_PROTOCOL.len()..]).ok().and_then(|b| String::from_utf8(b).ok());
    let alone = tokens.len() == 1 && !others.is_empty();
    Some(decoded.filter(|_| alone).unwrap_or_default())
}

/// Answers a log as messages. They begin with an empty one, which tells that the log was found.
pub(crate) fn log(parts: &mut Parts, response: Response<Body>) -> Result<Response<Body>, Status> {
    let protocol = match choose(&parts.headers, &LOG_PROTOCOLS.map(|(name, _)| name)) {
        Ok(protocol) => protocol,
        Err(refusal) => return Ok(refused(refusal)),
    };
    let framing = LOG_PROTOCOLS.into_iter().find(|(name, _)| *name == protocol).map_or(Framing::Binary, |(_, framing)| framing);
    answer(parts, response, protocol, framing, true)
}

/// Answers a watch as messages, one an event. Its client says by `Origin` from where it comes, whatever that is: upstream
/// serves watches by golang.org/x/net's plain handler, which wants one and does not judge it.
pub(crate) fn watch(parts: &mut Parts, response: Response<Body>) -> Result<Response<Body>, Status> {
    let headers = &parts.headers;
    // An answer that is none, and a handshake that is none, are told first.
    if response.status().is_success()
        && accept(headers).is_ok()
        && let Err(refusal) = origin(headers)
    {
        return Ok(refused(refusal));
    }
    let protocol = match sole(headers) {
        Ok(protocol) => protocol.to_owned(),
        Err(refusal) => return Ok(refused(refusal)),
    };
    let media = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let framing = if media.starts_with("application/json") { Framing::Lines } else { Framing::Delimited };
    answer(parts, response, &protocol, framing, false)
}

/// Finishes the handshake; a task of its own speaks for as long as the body goes on.
fn answer(parts: &mut Parts, response: Response<Body>, protocol: &str, framing: Framing, greet: bool) -> Result<Response<Body>, Status> {
    if !response.status().is_success() {
        return Ok(response);
    }
    let accepted = match accept(&parts.headers) {
        Ok(accepted) => accepted,
        Err(refusal) => return Ok(refused(refusal)),
    };
    let upgrade = parts.extensions.remove::<OnUpgrade>().ok_or_else(|| Status::internal("this connection cannot be upgraded"))?;
    let body = response.into_body();
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => speak(TokioIo::new(upgraded), body, framing, greet).await,
            Err(error) => tracing::debug!(%error, "an upgrade did not come about"),
        }
    });
    Ok(accepted.answer(protocol).map(|()| crate::empty()))
}

fn refused(refusal: Refusal) -> Response<Body> {
    let mut response = refusal.answer().map(crate::full);
    response.extensions_mut().insert(reply::Bare);
    response
}

/// Sends what the body has until it or the client ends.
async fn speak(connection: TokioIo<hyper::upgrade::Upgraded>, mut body: Body, framing: Framing, greet: bool) {
    let config = WebSocketConfig::default().max_message_size(Some(HEARD_BYTES_MAX)).max_frame_size(Some(HEARD_BYTES_MAX));
    let (mut sink, mut source) = WebSocketStream::from_raw_socket(connection, Role::Server, Some(config)).await.split();
    let told = async {
        if greet {
            sink.send(framing.message(Bytes::new())).await?;
        }
        while let Some(Ok(frame)) = body.frame().await {
            for message in frame.into_data().map(|piece| framing.messages(piece)).unwrap_or_default() {
                sink.send(message).await?;
            }
        }
        // Without a code Go's clients take the end for an error.
        sink.send(Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() }))).await
    };
    let said = tokio::select! {
        () = heard(&mut source) => return,
        said = told => said,
    };
    if said.is_ok() {
        // A connection that is closed before the client has read may lose the last messages.
        let _ = tokio::time::timeout(CLOSE_WAIT, heard(&mut source)).await;
    }
}

/// Reads until the client ends; pings are answered on the way.
async fn heard<S: StreamExt<Item = Result<Message, E>> + Unpin, E>(source: &mut S) {
    while let Some(Ok(_)) = source.next().await {}
}

impl Framing {
    /// The messages of a piece of a body. The pieces of a watch are whole events.
    fn messages(self, piece: Bytes) -> Vec<Message> {
        let mut rest = piece;
        let mut out = Vec::new();
        while !rest.is_empty() {
            let length = match self {
                Framing::Binary | Framing::Base64 => PART_BYTES,
                Framing::Lines => rest.iter().position(|b| *b == b'\n').map_or(rest.len(), |end| end + 1),
                Framing::Delimited => {
                    let Some(head) = rest.first_chunk::<4>() else { break };
                    let length = u32::from_be_bytes(*head) as usize;
                    rest = rest.slice(4..);
                    length
                }
            };
            out.push(self.message(rest.split_to(length.min(rest.len()))));
        }
        out
    }

    fn message(self, bytes: Bytes) -> Message {
        match self {
            Framing::Binary | Framing::Delimited => Message::Binary(bytes),
            Framing::Base64 => Message::Text(STANDARD.encode(&bytes).into()),
            Framing::Lines => Utf8Bytes::try_from(bytes.clone()).map_or(Message::Binary(bytes), Message::Text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    fn offer(protocols: &str) -> HeaderMap {
        let pairs = [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket"), ("sec-websocket-protocol", protocols)];
        pairs.into_iter().map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_str(v).expect("a value"))).collect()
    }

    #[test]
    fn pieces_become_messages() {
        let texts = |framing: Framing, piece: &'static [u8]| framing.messages(Bytes::from_static(piece));
        assert_eq!(texts(Framing::Lines, b"{1}\n{2}\n"), [Message::text("{1}\n"), Message::text("{2}\n")]);
        assert_eq!(texts(Framing::Delimited, b"\0\0\0\x02ab\0\0\0\x01c"), [Message::binary(&b"ab"[..]), Message::binary(&b"c"[..])]);
        assert_eq!(texts(Framing::Base64, b"hi\n"), [Message::text("aGkK")]);
        let long = Framing::Binary.messages(Bytes::from(vec![7; PART_BYTES + 1]));
        assert_eq!(long.iter().map(Message::len).collect::<Vec<_>>(), [PART_BYTES, 1]);
    }

    #[test]
    fn a_token_among_the_protocols_is_taken_out() {
        let mut headers = offer("base64url.bearer.authorization.k8s.io.c2VjcmV0, binary.k8s.io");
        assert_eq!(take_token(&mut headers).as_deref(), Some("secret"));
        assert_eq!(offered(&headers).collect::<Vec<_>>(), ["binary.k8s.io"]);
        assert_eq!(take_token(&mut headers), None, "there is one no more");
        for bad in ["base64url.bearer.authorization.k8s.io.c2VjcmV0", "base64url.bearer.authorization.k8s.io.!, binary.k8s.io"] {
            let mut headers = offer(bad);
            assert_eq!(take_token(&mut headers).as_deref(), Some(""), "{bad}");
            assert!(!offered(&headers).any(|p| p.contains("bearer")), "{bad}");
        }
        let mut plain = offer("base64url.bearer.authorization.k8s.io.c2VjcmV0, binary.k8s.io");
        plain.remove("upgrade");
        assert_eq!(take_token(&mut plain), None, "a request for no socket has no protocols");
    }
}
