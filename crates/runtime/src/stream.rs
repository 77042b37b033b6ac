//! The streams of exec, attach and port-forward: file descriptors that came over the shim's socket, so that the data
//! never passes through the shim's protocol.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::proto::Reply;
use crate::shimclient::Connection;
use crate::sys;

/// One end of a pipe, terminal or socket, readable and writable as far as its kind allows.
#[derive(Debug)]
pub struct Stream(Option<AsyncFd<OwnedFd>>, Option<InputEnd>);

impl Stream {
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Stream> {
        sys::set_nonblocking(&fd)?;
        Ok(Stream(Some(sys::watched(fd)?), None))
    }

    /// Cancelled when another client has ended the input that this one writes into as well: the process is told once nobody holds it any more.
    #[must_use]
    pub fn ended_by_others(&self) -> CancellationToken {
        self.1.as_ref().map_or_else(CancellationToken::new, |end| end.0.ended.clone())
    }
}

/// The input of a container that ends with the first of its clients. All write into the one pipe, and who comes to his end closes it for all.
#[derive(Debug)]
pub(crate) struct OnceInput {
    pipe: Mutex<Option<OwnedFd>>,
    ended: CancellationToken,
}

impl OnceInput {
    pub(crate) fn new(pipe: OwnedFd) -> Arc<OnceInput> {
        Arc::new(OnceInput { pipe: Mutex::new(Some(pipe)), ended: CancellationToken::new() })
    }

    /// The end of one more client; none when the input has ended.
    pub(crate) fn writer(self: &Arc<Self>) -> io::Result<Option<Stream>> {
        let Some(pipe) = self.pipe.lock().as_ref().map(OwnedFd::try_clone).transpose()? else { return Ok(None) };
        let Stream(fd, _) = Stream::new(pipe)?;
        Ok(Some(Stream(fd, Some(InputEnd(Arc::clone(self))))))
    }
}

/// A client of such an input: when it goes, the input ends.
#[derive(Debug)]
struct InputEnd(Arc<OnceInput>);

impl Drop for InputEnd {
    fn drop(&mut self) {
        drop(self.0.pipe.lock().take());
        self.0.ended.cancel();
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(fd) = &self.0 else { return Poll::Ready(Ok(())) };
        loop {
            let mut guard = ready!(fd.poll_read_ready(cx))?;
            let space = buf.initialize_unfilled();
            match guard.try_io(|fd| sys::read(fd.get_ref(), space)) {
                Ok(Ok(n)) => {
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                // The other side of a terminal is gone: its end of file.
                Ok(Err(e)) if e.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(e)) => return Poll::Ready(Err(e)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Some(fd) = &self.0 else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
        loop {
            let mut guard = ready!(fd.poll_write_ready(cx))?;
            match guard.try_io(|fd| sys::write(fd.get_ref(), buf)) {
                Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(done) => return Poll::Ready(done),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Closes a pipe; shuts down a socket's sending side.
    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(fd) = &self.0
            && sys::shutdown_write(fd.get_ref()).is_err()
        {
            self.0 = None;
            self.1 = None;
        }
        Poll::Ready(Ok(()))
    }
}

/// The controlling side of a terminal.
#[derive(Debug, Clone)]
pub struct Terminal(pub(crate) Arc<OwnedFd>);

impl Terminal {
    /// Tells the terminal's processes its new size in characters.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        sys::set_window_size(self.0.as_raw_fd(), columns, rows).map_err(|e| Error::io("cannot resize the terminal", e))
    }
}

/// A process that was started in a container. Dropping it kills the process, if it still runs.
#[derive(Debug)]
pub struct ExecSession {
    /// To the process's standard input; `shutdown` ends it.
    pub stdin: Option<Stream>,
    /// From the process (with a terminal: all output).
    pub stdout: Option<Stream>,
    /// From the process.
    pub stderr: Option<Stream>,
    /// The terminal, if one was asked for.
    pub terminal: Option<Terminal>,
    pub(crate) connection: Connection,
}

impl ExecSession {
    /// Waits for the process's end; 128 + signal when it was killed. Can be called while the streams are used by others.
    pub async fn wait(&mut self) -> Result<i32> {
        match self.connection.receive().await?.0 {
            Reply::ExecExited { code } => Ok(code),
            other => Err(self.connection.unexpected(&other)),
        }
    }
}

/// The streams of a running container's first process.
#[derive(Debug)]
pub struct AttachSession {
    /// To the process; `None` when the container has no standard input, or it has ended. With `ends_input` the first client who drops it or
    /// shuts it down ends it for all ([`Stream::ended_by_others`]).
    pub stdin: Option<Stream>,
    /// What the process writes from now on; ends with the container.
    pub stdout: Option<Stream>,
    /// As `stdout`; `None` with a terminal.
    pub stderr: Option<Stream>,
    /// The terminal, if the container has one.
    pub terminal: Option<Terminal>,
    /// The end of the input is the container's: what it answers to it is to come. Else it is only this client's.
    pub ends_input: bool,
}
