//! What an HTTP/2 connection writes while its task runs leaves together when the task rests.
//!
//! The h2 crate flushes after every frame of data. Without this layer an event that a hundred watches of one connection
//! get is a hundred TLS records and as many system calls; with it, a few of each. HTTP/1 passes through: its flushes are
//! few, and its stream may be handed on to another task.

use parking_lot::Mutex;
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are held at most, beside those of one write; then they leave at once.
const HELD_MAX: usize = 64 * 1024;

/// The connection's side: a stream whose flushes, if it gathers, wait for [`Rest::poll`].
pub(crate) struct Gather<S>(Arc<Mutex<State<S>>>);

/// The task's side.
pub(crate) struct Rest<S>(Arc<Mutex<State<S>>>);

struct State<S> {
    stream: S,
    gathers: bool,
    held: Vec<u8>,
    /// How many of the held bytes have left.
    sent: usize,
    /// Who waits on the connection's side for what is held to leave: the stream itself wakes whoever asked it last.
    waiting: Option<Waker>,
}

/// Splits a stream into both sides.
pub(crate) fn gather<S>(stream: S, gathers: bool) -> (Gather<S>, Rest<S>) {
    let state = Arc::new(Mutex::new(State { stream, gathers, held: Vec::new(), sent: 0, waiting: None }));
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
        Pin::new(&mut self.0.lock().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock();
        if !state.gathers {
            return Pin::new(&mut state.stream).poll_write(cx, bytes);
        }
        ready!(state.room(cx))?;
        state.held.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock();
        if !state.gathers {
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
        if state.gathers { Poll::Ready(Ok(())) } else { Pin::new(&mut state.stream).poll_flush(cx) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
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

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}
