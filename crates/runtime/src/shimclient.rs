//! The runtime's side of a shim's socket.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::unix::AsyncFd;

use crate::error::{Error, Result};
use crate::proto::{self, Packet, Reply, Request};
use crate::sys;

/// A connection to a shim.
#[derive(Debug)]
pub(crate) struct Connection {
    fd: AsyncFd<OwnedFd>,
    sandbox: String,
    ended: AtomicBool,
}

impl Connection {
    /// Connects to the shim of the sandbox whose directory this is.
    pub(crate) fn open(dir: &Path, sandbox: &str) -> Result<Connection> {
        Connection::connect(dir, sandbox).map_err(|e| gone(sandbox, &e))
    }

    /// The same, with the kernel's reason: nobody listens (`ConnectionRefused`, `NotFound`) is not that this process cannot ask.
    pub(crate) fn connect(dir: &Path, sandbox: &str) -> io::Result<Connection> {
        let fd = sys::seqpacket_connect(&dir.join(proto::SOCKET)).and_then(sys::watched)?;
        Ok(Connection { fd, sandbox: sandbox.to_owned(), ended: AtomicBool::new(false) })
    }

    /// Sends a request with descriptors beside it.
    pub(crate) async fn send(&self, request: &Request, fds: &[OwnedFd]) -> Result<()> {
        let packet = Packet { version: proto::VERSION, body: request };
        let bytes = serde_json::to_vec(&packet).map_err(|e| Error::Invalid(e.to_string()))?;
        if bytes.len() > proto::PACKET_BYTES_MAX {
            return Err(Error::Invalid("the command line is too long".to_owned()));
        }
        let sent = self.fd.async_io(tokio::io::Interest::WRITABLE, |fd| sys::send_packet(fd, &bytes, fds)).await;
        sent.map_err(|e| gone(&self.sandbox, &e))
    }

    /// The next packet. Cancel-safe.
    pub(crate) async fn receive(&self) -> Result<(Reply, Vec<OwnedFd>)> {
        let received = self.fd.async_io(tokio::io::Interest::READABLE, sys::receive_packet).await;
        let received = match received {
            Ok((bytes, _)) if bytes.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
            received => received,
        };
        let (bytes, fds) = received.map_err(|e| {
            // A packet that is too large is gone; the connection is not.
            self.ended.store(e.raw_os_error() != Some(libc::EMSGSIZE), Ordering::Relaxed);
            gone(&self.sandbox, &e)
        })?;
        let packet: Packet<Reply> =
            serde_json::from_slice(&bytes).map_err(|e| Error::Shim { sandbox: self.sandbox.clone(), message: format!("cannot read its answer: {e}") })?;
        Ok((packet.body, fds))
    }

    /// Whether the other side is gone: nothing more will be received.
    pub(crate) fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// A request and its answer; a refusal becomes an error. None within the limit is [`Error::Timeout`].
    pub(crate) async fn call(&self, request: &Request, fds: &[OwnedFd], limit: Duration) -> Result<(Reply, Vec<OwnedFd>)> {
        let answer = async {
            self.send(request, fds).await?;
            self.receive().await
        };
        let late = |_| Error::Timeout { command: format!("{} of sandbox {}", request.name(), self.sandbox) };
        match tokio::time::timeout(limit, answer).await.map_err(late)?? {
            (Reply::Failed { not_found: true, message, .. }, _) => Err(Error::NotFound { kind: "container", name: message }),
            (Reply::Failed { start: true, message, .. }, _) => Err(Error::Start(message)),
            (Reply::Failed { message, .. }, _) => Err(Error::State(message)),
            answer => Ok(answer),
        }
    }

    /// The error for an answer that does not belong to the question.
    pub(crate) fn unexpected(&self, reply: &Reply) -> Error {
        match reply {
            Reply::Failed { message, .. } => Error::State(message.clone()),
            other => Error::Shim { sandbox: self.sandbox.clone(), message: format!("unexpected answer {other:?}") },
        }
    }
}

fn gone(sandbox: &str, e: &io::Error) -> Error {
    Error::Shim { sandbox: sandbox.to_owned(), message: format!("not to be reached: {e}") }
}
