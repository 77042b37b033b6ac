//! A SPDY connection, served: the peer opens streams, each a pair of pipes here.
//!
//! What comes for a stream waits in a queue of its own, so that one whose user does not read holds back nobody: not the other
//! streams, not their ends, not pings. Only when its queue is full it does, and is reset then: if others are open after a
//! moment, else after as long as the original lets a connection stand on which nothing moves.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::spdy::{Decoder, Encoder, Frame, Headers, MAX_DATA};

/// Frames that wait to be sent; a slow peer stops the senders.
const SEND_QUEUE: usize = 32;
/// Frames of one stream that wait for its user, besides what the pipe holds.
const STREAM_QUEUE: usize = 32;
/// How long one stream that nobody reads may hold back the others; the protocol as the peers speak it has no windows.
const STALL_MAX: Duration = Duration::from_secs(10);
/// The same where there is no other: the original's `streamingConnectionIdleTimeout`.
const IDLE_MAX: Duration = Duration::from_secs(4 * 60 * 60);
/// Nothing is read meanwhile, and so the peer's end is not seen: he is asked this often whether he is there, and where he is not the
/// question is refused.
const ASK: Duration = Duration::from_secs(10);
/// The number of our questions; who serves has even ones.
const PING: u32 = 2;
/// Bytes in the pipe between a stream and its user.
const PIPE: usize = 64 << 10;
/// Streams that wait to be taken.
const ACCEPT_QUEUE: usize = 64;
/// Streams open at the same time; a port-forward uses two for each connection.
const MAX_STREAMS: usize = 1024;

/// A stream that the peer opened.
pub struct Stream {
    /// Its number.
    pub id: u32,
    /// Its headers.
    pub headers: Headers,
    /// What the peer sends; ends when it closes its half.
    pub reader: tokio::io::ReadHalf<tokio::io::DuplexStream>,
    /// What is sent to the peer.
    pub writer: StreamWriter,
    /// Cancelled when the stream was reset, or its connection is gone.
    pub gone: CancellationToken,
}

impl Stream {
    /// A header by its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// Sends data of one stream.
#[derive(Clone)]
pub struct StreamWriter {
    id: u32,
    frames: mpsc::Sender<Frame>,
    /// The connection stands as long as somebody can send.
    _alive: Arc<DropGuard>,
}

impl StreamWriter {
    /// Sends bytes; an error means that the connection is gone.
    pub async fn send(&self, bytes: Bytes) -> Result<(), ()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let part = rest.split_to(rest.len().min(MAX_DATA));
            self.frames.send(Frame::Data { id: self.id, fin: false, bytes: part }).await.map_err(|_| ())?;
        }
        Ok(())
    }

    /// Closes this half of the stream.
    pub async fn close(&self) {
        let _ = self.frames.send(Frame::Data { id: self.id, fin: true, bytes: Bytes::new() }).await;
    }

    /// Ends the stream in both directions.
    pub async fn reset(&self) {
        // 5: CANCEL.
        let _ = self.frames.send(Frame::Reset { id: self.id, status: 5 }).await;
    }

    /// Sends all that `from` gives, then closes.
    pub async fn pump(self, mut from: impl AsyncRead + Unpin) {
        let mut buffer = BytesMut::with_capacity(MAX_DATA);
        while let Ok(1..) = from.read_buf(&mut buffer).await {
            if self.send(buffer.split().freeze()).await.is_err() {
                return;
            }
            buffer.reserve(MAX_DATA);
        }
        self.close().await;
    }
}

/// Serves a connection; streams come out of the receiver, which ends with the connection. The connection ends when the
/// receiver and all writers are dropped, after what was sent is out.
pub fn serve<T: AsyncRead + AsyncWrite + Send + 'static>(io: T) -> mpsc::Receiver<Stream> {
    let (read, write) = tokio::io::split(io);
    let (frames, queue) = mpsc::channel(SEND_QUEUE);
    let (streams, incoming) = mpsc::channel(ACCEPT_QUEUE);
    tokio::spawn(send(write, queue));
    let sending = CancellationToken::new();
    let alive = Arc::new(sending.clone().drop_guard());
    tokio::spawn(receive(read, frames, streams, alive, sending));
    incoming
}

async fn send<W: AsyncWrite>(write: W, mut queue: mpsc::Receiver<Frame>) {
    tokio::pin!(write);
    let mut encoder = Encoder::default();
    let mut out = BytesMut::new();
    while let Some(frame) = queue.recv().await {
        encoder.encode(&frame, &mut out);
        while let Ok(more) = queue.try_recv() {
            encoder.encode(&more, &mut out);
        }
        if write.write_all(&out).await.is_err() || write.flush().await.is_err() {
            return;
        }
        out.clear();
    }
    let _ = write.shutdown().await;
}

async fn receive<R: AsyncRead>(read: R, frames: mpsc::Sender<Frame>, streams: mpsc::Sender<Stream>, alive: Arc<DropGuard>, nobody_sends: CancellationToken) {
    tokio::pin!(read);
    let weak = frames.downgrade();
    let mut decoder = Decoder::default();
    let mut buffer = BytesMut::with_capacity(MAX_DATA);
    let mut open: HashMap<u32, Open> = HashMap::new();
    // All streams end with the connection.
    let connection = CancellationToken::new();
    let _end = connection.clone().drop_guard();
    // The reader must not keep the connection open by itself: it holds a sender only while streams may still come.
    let mut own = Some((frames, alive));
    loop {
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(frame)) => {
                    let Some(sender) = weak.upgrade() else { return };
                    let alive = own.as_ref().map(|(_, alive)| alive);
                    if handle(frame, &sender, alive, &streams, &mut open, &connection).await.is_err() {
                        own = None;
                    }
                }
                Ok(None) => break,
                Err(e) => {
                    tracing::debug!(error = %e, "peer does not speak SPDY");
                    return;
                }
            }
        }
        if buffer.capacity() - buffer.len() < 4096 {
            buffer.reserve(MAX_DATA);
        }
        tokio::select! {
            got = read.read_buf(&mut buffer) => if !matches!(got, Ok(1..)) { return },
            () = streams.closed(), if own.is_some() => own = None,
            () = nobody_sends.cancelled(), if own.is_none() => return,
        }
    }
}

/// A stream of which the peer's half is open.
struct Open {
    queue: mpsc::Sender<Bytes>,
    gone: CancellationToken,
}

/// Gives a stream's user what comes for it, until the peer has closed its half.
async fn feed(mut pipe: tokio::io::WriteHalf<tokio::io::DuplexStream>, mut queue: mpsc::Receiver<Bytes>, gone: CancellationToken) {
    let work = async {
        while let Some(bytes) = queue.recv().await {
            if pipe.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = pipe.shutdown().await;
    };
    tokio::select! {
        () = work => {}
        () = gone.cancelled() => {}
    }
}

async fn handle(
    frame: Frame,
    frames: &mpsc::Sender<Frame>,
    alive: Option<&Arc<DropGuard>>,
    streams: &mpsc::Sender<Stream>,
    open: &mut HashMap<u32, Open>,
    connection: &CancellationToken,
) -> Result<(), ()> {
    match frame {
        Frame::SynStream { id, fin, headers } => {
            let Some(alive) = alive.filter(|_| open.len() < MAX_STREAMS && !streams.is_closed()) else {
                // 3: REFUSED_STREAM.
                return frames.send(Frame::Reset { id, status: 3 }).await.map_err(|_| ());
            };
            let _ = frames.send(Frame::SynReply { id, fin: false, headers: Headers::new() }).await;
            let (ours, theirs) = tokio::io::duplex(PIPE);
            let (_, pipe) = tokio::io::split(ours);
            let (reader, _) = tokio::io::split(theirs);
            let gone = connection.child_token();
            let (queue, received) = mpsc::channel(STREAM_QUEUE);
            tokio::spawn(feed(pipe, received, gone.clone()));
            if !fin {
                open.insert(id, Open { queue, gone: gone.clone() });
            }
            let writer = StreamWriter { id, frames: frames.clone(), _alive: Arc::clone(alive) };
            streams.send(Stream { id, headers, reader, writer, gone }).await.map_err(|_| ())?;
        }
        Frame::Data { id, fin, bytes } => {
            if !bytes.is_empty() && !deliver(open, id, bytes, frames).await {
                open.remove(&id);
                // 5: CANCEL.
                let _ = frames.send(Frame::Reset { id, status: 5 }).await;
            }
            if fin {
                open.remove(&id);
            }
        }
        Frame::Headers { id, fin: true } => drop(open.remove(&id)),
        Frame::Reset { id, .. } => {
            if let Some(stream) = open.remove(&id) {
                stream.gone.cancel();
            }
        }
        // An even one answers ours.
        Frame::Ping { id } if id % 2 == 1 => {
            let _ = frames.send(Frame::Ping { id }).await;
        }
        _ => {}
    }
    Ok(())
}

/// Hands bytes to a stream; false if it must be reset, because it takes nothing and others wait.
async fn deliver(open: &HashMap<u32, Open>, id: u32, bytes: Bytes, frames: &mpsc::Sender<Frame>) -> bool {
    let Some(stream) = open.get(&id) else { return true };
    // A user who has gone is told of by his own half.
    let most = if open.len() < 2 { IDLE_MAX } else { STALL_MAX };
    let asking = async {
        loop {
            tokio::time::sleep(ASK).await;
            if let Err(mpsc::error::TrySendError::Closed(_)) = frames.try_send(Frame::Ping { id: PING }) {
                return;
            }
        }
    };
    tokio::select! {
        _ = stream.queue.send(bytes) => return true,
        () = asking => {}
        () = tokio::time::sleep(most) => {}
    }
    stream.gone.cancel();
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(id: u32, fin: bool, bytes: Bytes) -> Frame {
        Frame::Data { id, fin, bytes }
    }

    #[tokio::test]
    async fn a_stream_that_nobody_reads_holds_back_no_other() {
        let (client, server) = tokio::io::duplex(1 << 22);
        let mut incoming = serve(server);
        let (_read, mut write) = tokio::io::split(client);
        let (mut encoder, mut out) = (Encoder::default(), BytesMut::new());
        for id in [1, 3] {
            encoder.encode(&Frame::SynStream { id, fin: false, headers: Headers::new() }, &mut out);
        }
        // More than the pipe of the first holds.
        for _ in 0..8 {
            encoder.encode(&data(1, false, Bytes::from(vec![0; PIPE])), &mut out);
        }
        encoder.encode(&data(3, true, Bytes::from_static(b"through")), &mut out);
        write.write_all(&out).await.unwrap();
        let _first = incoming.recv().await.unwrap();
        let mut second = incoming.recv().await.unwrap();
        let mut text = String::new();
        second.reader.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "through");
    }

    #[tokio::test(start_paused = true)]
    async fn the_only_stream_is_waited_for_but_not_for_ever() {
        let (client, server) = tokio::io::duplex(1 << 22);
        let mut incoming = serve(server);
        let (_read, mut write) = tokio::io::split(client);
        let (mut encoder, mut out) = (Encoder::default(), BytesMut::new());
        encoder.encode(&Frame::SynStream { id: 1, fin: false, headers: Headers::new() }, &mut out);
        for _ in 0..STREAM_QUEUE + 4 {
            encoder.encode(&data(1, false, Bytes::from(vec![0; PIPE])), &mut out);
        }
        write.write_all(&out).await.unwrap();
        let only = incoming.recv().await.unwrap();
        assert!(tokio::time::timeout(IDLE_MAX / 2, only.gone.cancelled()).await.is_err(), "it may take its time");
        tokio::time::timeout(IDLE_MAX, only.gone.cancelled()).await.expect("given up in the end");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_who_goes_while_nobody_reads_him_is_found_out() {
        let (client, server) = tokio::io::duplex(1 << 22);
        let mut incoming = serve(server);
        let (mut read, mut write) = tokio::io::split(client);
        let (mut encoder, mut out) = (Encoder::default(), BytesMut::new());
        encoder.encode(&Frame::SynStream { id: 1, fin: false, headers: Headers::new() }, &mut out);
        for _ in 0..STREAM_QUEUE + 4 {
            encoder.encode(&data(1, false, Bytes::from(vec![0; PIPE])), &mut out);
        }
        write.write_all(&out).await.unwrap();
        let only = incoming.recv().await.unwrap();
        let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::new());
        let asked = async {
            loop {
                match decoder.decode(&mut buffer).unwrap() {
                    Some(Frame::Ping { id }) => return id,
                    Some(_) => {}
                    None => drop(read.read_buf(&mut buffer).await.unwrap()),
                }
            }
        };
        assert_eq!(tokio::time::timeout(2 * ASK, asked).await.expect("he is asked"), PING);
        drop((read, write));
        tokio::time::timeout(4 * ASK, only.gone.cancelled()).await.expect("he has gone");
    }

    #[tokio::test]
    async fn a_reset_and_the_end_of_the_connection_are_told() {
        let (client, server) = tokio::io::duplex(1 << 16);
        let mut incoming = serve(server);
        let (read, mut write) = tokio::io::split(client);
        let (mut encoder, mut out) = (Encoder::default(), BytesMut::new());
        for id in [1, 3] {
            encoder.encode(&Frame::SynStream { id, fin: false, headers: Headers::new() }, &mut out);
        }
        encoder.encode(&Frame::Reset { id: 1, status: 5 }, &mut out);
        write.write_all(&out).await.unwrap();
        let (first, second) = (incoming.recv().await.unwrap(), incoming.recv().await.unwrap());
        first.gone.cancelled().await;
        assert!(!second.gone.is_cancelled());
        drop((read, write));
        second.gone.cancelled().await;
    }

    #[tokio::test]
    async fn a_stream_is_two_pipes() {
        let (client, server) = tokio::io::duplex(1 << 16);
        let mut incoming = serve(server);
        let (mut read, mut write) = tokio::io::split(client);
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let mut out = BytesMut::new();
        encoder.encode(&Frame::SynStream { id: 1, fin: false, headers: vec![("streamtype".into(), "data".into())] }, &mut out);
        encoder.encode(&Frame::Data { id: 1, fin: true, bytes: Bytes::from_static(b"ping") }, &mut out);
        write.write_all(&out).await.unwrap();
        let mut s = incoming.recv().await.unwrap();
        assert_eq!(s.header("streamtype"), Some("data"));
        let mut text = String::new();
        s.reader.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "ping");
        s.writer.clone().pump(&b"pong"[..]).await;
        let mut buffer = BytesMut::new();
        let mut seen = Vec::new();
        while seen.len() < 3 {
            read.read_buf(&mut buffer).await.unwrap();
            while let Some(f) = decoder.decode(&mut buffer).unwrap() {
                seen.push(f);
            }
        }
        assert_eq!(seen[1], Frame::Data { id: 1, fin: false, bytes: Bytes::from_static(b"pong") });
        assert_eq!(seen[2], Frame::Data { id: 1, fin: true, bytes: Bytes::new() });
    }
}
