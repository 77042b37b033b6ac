//! WebSockets: the channels that Kubernetes puts into their messages.
//!
//! A message's first byte is a channel: 0 standard input, 1 output, 2 errors, 3 the end's status, 4 terminal sizes. Version 5
//! adds 255: the peer closes the channel named by the next byte. With `base64.` protocols messages are text: the channel as
//! a digit, then base64.
//!
//! What a process does not read holds back what its client sends after it, the close too; so while something waits the client is asked
//! whether he is there. Who has gone is found out by that, since his side refuses the question.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use dial::websocket;
pub use dial::websocket::wanted;
use futures_util::{SinkExt, StreamExt};
use http::Request;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Utf8Bytes, coding::CloseCode};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Answer;

/// Channels.
pub const STDIN: u8 = 0;
/// Standard output.
pub const STDOUT: u8 = 1;
/// Standard error.
pub const STDERR: u8 = 2;
/// The end's status.
pub const ERROR: u8 = 3;
/// Terminal sizes.
pub const RESIZE: u8 = 4;
/// The peer closes a channel (version 5).
const CLOSE: u8 = 255;
/// Bytes sent in one message.
const PART: usize = 32 << 10;
/// Messages that wait to be sent.
const QUEUE: usize = 32;
/// Seconds that a peer gets to answer the close.
const CLOSE_WAIT: Duration = Duration::from_secs(5);
/// Between two questions to a client whose words wait.
const ASK: Duration = Duration::from_secs(10);

/// Answers the handshake: the protocol chosen, the response, and the promise of the connection.
pub fn accept(request: &mut Request<Incoming>, known: &[&'static str]) -> Result<(&'static str, Answer, OnUpgrade), Answer> {
    let headers = request.headers();
    let chosen = websocket::accept(headers).and_then(|accepted| Ok((accepted, websocket::choose(headers, known)?)));
    let (accepted, protocol) = chosen.map_err(|refusal| refusal.answer().map(|why| Full::from(why).boxed_unsync()))?;
    Ok((protocol, accepted.answer(protocol).map(|()| Empty::new().boxed_unsync()), hyper::upgrade::on(request)))
}

/// The socket, once the upgrade is through.
pub async fn open(upgrade: OnUpgrade) -> Option<WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>> {
    let upgraded = upgrade.await.ok()?;
    Some(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await)
}

/// The end as a client takes it for one: without a code Go's clients report an error (1005).
pub fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() }))
}

/// Channels over a socket.
pub struct Channels {
    out: mpsc::Sender<Message>,
    base64: bool,
    sender: tokio::task::JoinHandle<()>,
    closed: CancellationToken,
}

impl Channels {
    /// Takes a socket: what comes on a channel is written to its pipe in `inputs`.
    pub fn start<S>(socket: WebSocketStream<S>, base64: bool, inputs: Vec<(u8, DuplexStream)>) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sink, mut source) = socket.split();
        let (out, mut queue) = mpsc::channel::<Message>(QUEUE);
        let pong = out.downgrade();
        let mut inputs = inputs;
        let closed = CancellationToken::new();
        let gone = closed.clone().drop_guard();
        let receiver = tokio::spawn(async move {
            let _gone = gone;
            while let Some(Ok(message)) = source.next().await {
                let data = match message {
                    Message::Binary(b) => Some(b),
                    Message::Text(t) if base64 => decode(t.as_str()),
                    Message::Text(t) => Some(Bytes::from(t)),
                    Message::Ping(p) => {
                        if let Some(out) = pong.upgrade() {
                            let _ = out.send(Message::Pong(p)).await;
                        }
                        None
                    }
                    Message::Close(_) => return,
                    _ => None,
                };
                if let Some(data) = data {
                    let delivered = deliver(&mut inputs, &data);
                    tokio::pin!(delivered);
                    while tokio::time::timeout(ASK, &mut delivered).await.is_err() {
                        // Where no room is to ask, words to him wait as well.
                        let Some(out) = pong.upgrade() else { return };
                        let _ = out.try_send(Message::Ping(Bytes::new()));
                    }
                }
            }
        });
        let mut receiver = AbortOnDropHandle::new(receiver);
        let sender = tokio::spawn(async move {
            let mut sink = sink;
            while let Some(message) = queue.recv().await {
                if sink.send(message).await.is_err() {
                    return;
                }
            }
            let _ = sink.send(goodbye()).await;
            let _ = tokio::time::timeout(CLOSE_WAIT, &mut receiver).await;
            let _ = sink.close().await;
        });
        Self { out, base64, sender, closed }
    }

    /// Cancelled when the client is gone.
    pub fn closed(&self) -> CancellationToken {
        self.closed.clone()
    }

    /// Sends bytes on a channel.
    pub async fn send(&self, channel: u8, data: &[u8]) -> Result<(), ()> {
        send(&self.out, self.base64, channel, data).await
    }

    /// Sends all that `from` gives on a channel.
    pub fn pump<R: AsyncRead + Unpin + Send + 'static>(&self, channel: u8, mut from: R) -> impl Future<Output = ()> + Send + use<R> {
        let (out, base64) = (self.out.clone(), self.base64);
        async move {
            let mut buffer = vec![0; PART];
            while let Ok(n @ 1..) = from.read(&mut buffer).await {
                if send(&out, base64, channel, &buffer[..n]).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Drops the socket of a client who is gone.
    pub fn hang_up(self) {
        self.sender.abort();
    }

    /// Closes the socket after all was sent.
    pub async fn close(self) {
        drop(self.out);
        let _ = self.sender.await;
    }
}

async fn send(out: &mpsc::Sender<Message>, base64: bool, channel: u8, data: &[u8]) -> Result<(), ()> {
    let message = if base64 {
        Message::Text(format!("{channel}{}", STANDARD.encode(data)).into())
    } else {
        let mut bytes = Vec::with_capacity(data.len() + 1);
        bytes.push(channel);
        bytes.extend_from_slice(data);
        Message::Binary(bytes.into())
    };
    out.send(message).await.map_err(|_| ())
}

fn decode(text: &str) -> Option<Bytes> {
    let channel = text.bytes().next()?.checked_sub(b'0').filter(|c| *c < 10)?;
    let mut out = vec![channel];
    out.extend(STANDARD.decode(text.get(1..)?).ok()?);
    Some(out.into())
}

async fn deliver(inputs: &mut Vec<(u8, DuplexStream)>, data: &[u8]) {
    match data {
        [CLOSE, channel] => {
            if let Some(i) = inputs.iter().position(|(c, _)| c == channel) {
                let (_, mut pipe) = inputs.swap_remove(i);
                let _ = pipe.shutdown().await;
            }
        }
        [channel, rest @ ..] if !rest.is_empty() => {
            if let Some((_, pipe)) = inputs.iter_mut().find(|(c, _)| c == channel) {
                let _ = pipe.write_all(rest).await;
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_go_to_their_channel_and_255_closes_one() {
        let (mut reader, writer) = tokio::io::duplex(64);
        let mut inputs = vec![(STDIN, writer)];
        deliver(&mut inputs, &[STDIN, b'h', b'i']).await;
        deliver(&mut inputs, &[7, b'x']).await;
        deliver(&mut inputs, &[CLOSE, STDIN]).await;
        let mut text = String::new();
        reader.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hi");
        assert_eq!(decode("1aGk=").unwrap(), Bytes::from_static(b"\x01hi"));
        assert_eq!(decode("x"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_who_goes_while_his_words_wait_is_found_out() {
        let (client, server) = tokio::io::duplex(1 << 20);
        let server = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        // Nobody reads what he says.
        let (_process, pipe) = tokio::io::duplex(8);
        let channels = Channels::start(server, false, vec![(STDIN, pipe)]);
        client.send(Message::Binary(vec![0; 64].into())).await.unwrap();
        let asked = tokio::time::timeout(2 * ASK, client.next()).await.expect("he is asked").unwrap().unwrap();
        assert!(matches!(asked, Message::Ping(_)), "{asked:?}");
        let closed = channels.closed();
        assert!(tokio::time::timeout(10 * ASK, closed.cancelled()).await.is_err(), "he may wait as long as he is there");
        drop(client);
        tokio::time::timeout(2 * ASK, closed.cancelled()).await.expect("he has gone");
    }
}
