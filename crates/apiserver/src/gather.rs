//! What an HTTP/2 connection writes while its task runs leaves together when the task rests.
//!
//! The h2 crate flushes after every frame of data. Without this layer an event that a hundred watches of one connection
//! get is a hundred TLS records and as many system calls; with it, a few of each. HTTP/1 passes through: its flushes are
//! few, and its stream may be handed on to another task.
//!
//! One thing of HTTP/1 is held as well: the head of a refusal, until its turn is over. It may be hyper's answer to what it
//! cannot read, and that is known only when the connection ends with the error: then [`Rest::end`] says what Go says instead.

use crate::heads::{Bodies, Heads};
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are held at most, beside those of one write; then they leave at once.
const HELD_MAX: usize = 64 * 1024;
/// How a refusal's head begins.
const REFUSAL: &[u8] = b"HTTP/1.1 4";
/// What has been asked already is read to its end for so long, so that the answer is not lost with the connection.
const DRAIN_MAX: Duration = Duration::from_millis(500);

/// The connection's side: a stream whose flushes, if it gathers, wait for [`Rest::poll`].
pub(crate) struct Gather<S>(Arc<Mutex<State<S>>>);

/// The task's side.
pub(crate) struct Rest<S>(Arc<Mutex<State<S>>>);

struct State<S> {
    stream: S,
    gathers: bool,
    held: Vec<u8>,
    /// Of HTTP/1: where requests begin.
    heads: Heads,
    /// How many of the held bytes have left.
    sent: usize,
    /// Where among them the last refusal of HTTP/1 begins.
    refusal: Option<usize>,
    /// The end was asked for while a refusal was held.
    shut: bool,
    /// The connection is over; what is written from here on is another protocol's.
    over: bool,
    /// Who waits on the connection's side for what is held to leave: the stream itself wakes whoever asked it last.
    waiting: Option<Waker>,
}

/// Splits a stream into both sides.
pub(crate) fn gather<S>(stream: S, gathers: bool) -> (Gather<S>, Rest<S>) {
    let state =
        Arc::new(Mutex::new(State { stream, gathers, held: Vec::new(), heads: Heads::new(), sent: 0, refusal: None, shut: false, over: false, waiting: None }));
    (Gather(Arc::clone(&state)), Rest(state))
}

impl<S: AsyncWrite + Unpin> Rest<S> {
    /// Sends what is held. Pending as long as the stream takes no more; the task is woken when it does.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        let sent = state.send(cx);
        if sent.is_ready()
            && let Some(waiting) = state.waiting.take()
        {
            waiting.wake();
        }
        sent
    }

    /// What is told of HTTP/1 when a request has come.
    pub(crate) fn bodies(&self) -> Bodies {
        self.0.lock().heads.bodies()
    }

    /// How the last request of HTTP/1 began: what nobody could read, if the connection ended with it.
    pub(crate) fn head(&self) -> Vec<u8> {
        self.0.lock().heads.last().to_vec()
    }

    /// Ends a turn that was the last: what is held leaves, in place of the last refusal the `answer` to what nobody could read.
    pub(crate) async fn end(&self, answer: Option<Bytes>) -> io::Result<()>
    where
        S: AsyncRead,
    {
        let (shut, answered) = {
            let mut state = self.0.lock();
            state.over = true;
            let refusal = state.refusal.take();
            let answered = match (answer, refusal) {
                (Some(answer), Some(at)) if state.sent <= at => {
                    state.held.truncate(at);
                    state.held.extend_from_slice(&answer);
                    true
                }
                _ => false,
            };
            (state.shut, answered)
        };
        if !self.0.lock().is_holding() && !shut {
            return Ok(());
        }
        poll_fn(|cx| self.poll(cx)).await?;
        if answered {
            let mut buffer = vec![0; 4096];
            let drained = poll_fn(|cx| {
                let mut state = self.0.lock();
                loop {
                    let mut read = ReadBuf::new(&mut buffer);
                    ready!(Pin::new(&mut state.stream).poll_read(cx, &mut read))?;
                    if read.filled().is_empty() {
                        return Poll::Ready(io::Result::Ok(()));
                    }
                }
            });
            // Who goes on writing has had his answer.
            let _ = tokio::time::timeout(DRAIN_MAX, drained).await;
        }
        poll_fn(|cx| Pin::new(&mut self.0.lock().stream).poll_shutdown(cx)).await
    }
}

impl<S> State<S> {
    fn is_holding(&self) -> bool {
        self.sent < self.held.len()
    }

    /// Whether what is written is held: all of HTTP/2, and of HTTP/1 a refusal and what follows it in its turn.
    fn holds(&mut self, bytes: &[u8]) -> bool {
        if self.gathers {
            return true;
        }
        if self.over {
            return self.is_holding();
        }
        self.heads.answered(bytes);
        if bytes.starts_with(REFUSAL) {
            self.refusal = Some(self.held.len());
            return true;
        }
        self.is_holding()
    }
}

impl<S: AsyncWrite + Unpin> State<S> {
    fn send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.held.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.sent += written,
            }
        }
        self.held.clear();
        self.sent = 0;
        self.refusal = None;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Makes room for a write; pending while the stream takes nothing.
    fn room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held.len() < HELD_MAX {
            return Poll::Ready(Ok(()));
        }
        let sent = self.send(cx);
        self.wait(cx, sent)
    }

    fn shut(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.send(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    /// Remembers who waits.
    fn wait<T>(&mut self, cx: &Context<'_>, outcome: Poll<T>) -> Poll<T> {
        if outcome.is_pending() {
            self.waiting = Some(cx.waker().clone());
        }
        outcome
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gather<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        let State { stream, gathers, heads, .. } = &mut *state;
        if *gathers { Pin::new(stream).poll_read(cx, buffer) } else { heads.poll_read(stream, cx, buffer) }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock();
        if !state.holds(bytes) {
            return Pin::new(&mut state.stream).poll_write(cx, bytes);
        }
        ready!(state.room(cx))?;
        state.held.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock();
        if !state.holds(slices.first().map_or(&[][..], |slice| &slice[..])) {
            return Pin::new(&mut state.stream).poll_write_vectored(cx, slices);
        }
        ready!(state.room(cx))?;
        slices.iter().for_each(|slice| state.held.extend_from_slice(slice));
        Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        if state.gathers || state.is_holding() { Poll::Ready(Ok(())) } else { Pin::new(&mut state.stream).poll_flush(cx) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        if state.refusal.is_some() && !state.over {
            state.shut = true;
            return Poll::Ready(Ok(()));
        }
        let shut = state.shut(cx);
        state.wait(cx, shut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        future::poll_fn,
        sync::atomic::{AtomicBool, Ordering},
        task::Wake,
    };
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn writes_leave_when_the_task_rests() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let (mut stream, rest) = gather(near, true);
        for frame in [b"one".as_slice(), b"two", b"three"] {
            stream.write_all(frame).await.unwrap();
            stream.flush().await.unwrap();
        }
        let mut buffer = [0; 64];
        let early = tokio::select! {
            biased;
            _ = far.read(&mut buffer) => true,
            () = std::future::ready(()) => false,
        };
        assert!(!early, "nothing leaves before");
        poll_fn(|cx| rest.poll(cx)).await.unwrap();
        let read = far.read(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..read], b"onetwothree");
    }

    #[tokio::test]
    async fn a_slow_reader_bounds_what_is_held_and_loses_nothing() {
        let (near, mut far) = tokio::io::duplex(1000);
        let (mut stream, rest) = gather(near, true);
        let whole: Vec<u8> = (0..400_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let sent = whole.clone();
        let writing = tokio::spawn(async move {
            for piece in sent.chunks(16_384) {
                stream.write_all(piece).await.unwrap();
                assert!(stream.0.lock().held.len() < HELD_MAX + 16_384);
            }
            stream.shutdown().await.unwrap();
        });
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        writing.await.unwrap();
        assert_eq!(got, whole);
        drop(rest);
    }

    /// Both sides wait for one stream, which wakes the last alone that has asked.
    #[tokio::test]
    async fn who_waits_on_the_other_side_is_woken() {
        let (near, mut far) = tokio::io::duplex(10_000);
        let (mut stream, rest) = gather(near, true);
        let woken = Arc::new(Woken::default());
        let (waker, other) = (Waker::from(Arc::clone(&woken)), Waker::noop());
        let mut write = |bytes: &[u8]| Pin::new(&mut stream).poll_write(&mut Context::from_waker(&waker), bytes);
        while write(&[7; 16_384]).is_ready() {}
        let send = || rest.poll(&mut Context::from_waker(other)).map(Result::unwrap);
        assert!(send().is_pending());
        let mut buffer = [0; 10_000];
        while send().is_pending() {
            assert!(!woken.0.load(Ordering::Relaxed), "there is no room yet");
            far.read_exact(&mut buffer).await.unwrap();
        }
        assert!(woken.0.load(Ordering::Relaxed));
        assert!(write(&[7]).is_ready());
    }

    /// What two writes of HTTP/1 come to, with this said at the end.
    async fn came(writes: [&[u8]; 2], answer: Option<&'static [u8]>) -> String {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let (mut stream, rest) = gather(near, false);
        stream.write_all(writes[0]).await.unwrap();
        poll_fn(|cx| rest.poll(cx)).await.unwrap();
        stream.write_all(writes[1]).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut got = Vec::new();
        let ended = async {
            rest.end(answer.map(Bytes::from_static)).await.unwrap();
            drop((stream, rest));
        };
        let (read, ()) = tokio::join!(
            async {
                let read = far.read_to_end(&mut got).await;
                drop(far);
                read
            },
            ended
        );
        read.unwrap();
        String::from_utf8(got).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_said_in_other_words_where_its_connection_could_not_be_read() {
        let (fine, refusal) = (b"HTTP/1.1 200 OK\r\n".as_slice(), b"HTTP/1.1 400 Bad Request\r\n".as_slice());
        assert_eq!(came([fine, refusal], Some(b"no")).await, "HTTP/1.1 200 OK\r\nno");
        assert_eq!(came([fine, refusal], None).await, "HTTP/1.1 200 OK\r\nHTTP/1.1 400 Bad Request\r\n");
        assert_eq!(came([refusal, refusal], Some(b"no")).await, "HTTP/1.1 400 Bad Request\r\nno", "the first was an answer");
        assert_eq!(came([refusal, fine], None).await, "HTTP/1.1 400 Bad Request\r\nHTTP/1.1 200 OK\r\n");
    }

    #[tokio::test]
    async fn what_is_said_behind_the_end_of_http_is_no_request() {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let (mut stream, rest) = gather(near, false);
        let (came, meant) = ("GET /a>b HTTP/1.1\r\n\r\n", "GET /a%3Eb HTTP/1.1\r\n\r\n");
        far.write_all(came.as_bytes()).await.unwrap();
        let mut read = vec![0; meant.len()];
        stream.read_exact(&mut read).await.unwrap();
        assert_eq!(read, meant.as_bytes());
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").await.unwrap();
        rest.end(None).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        far.write_all(came.as_bytes()).await.unwrap();
        let mut read = vec![0; came.len()];
        stream.read_exact(&mut read).await.unwrap();
        assert_eq!(read, came.as_bytes());
    }

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}
