//! A connection to the system's bus: one socket, authentication by who owns this process, calls one after the other, and the signals
//! that were asked for.
//!
//! A call that is dropped half-way leaves a connection of which nobody knows what comes next: whoever drops one drops the connection.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;

use super::Error;
use super::wire::{self, Arg, Call, Kind, Message};

/// How long an answer is waited for (D-Bus' own usual limit).
const ANSWER_MAX: Duration = Duration::from_secs(25);
/// What is read at once, and how many handles may come with it.
const READ: usize = 4096;
const HANDLES_MAX: usize = 4;
/// The longest line of the authentication.
const LINE_MAX: usize = 1024;
/// How many signals wait while an answer is waited for.
const SIGNALS_MAX: usize = 64;

/// A handle that came over the bus; closed when it is dropped.
#[derive(Debug)]
pub(super) struct Handle(RawFd);

impl Drop for Handle {
    fn drop(&mut self) {
        let _ = nix::unistd::close(self.0);
    }
}

/// A connection.
pub(super) struct Bus {
    stream: UnixStream,
    read: Vec<u8>,
    handles: VecDeque<Handle>,
    signals: VecDeque<Message>,
    serial: u32,
    /// What is still to come of a message that is passed over.
    skip: usize,
}

fn invalid(why: &str) -> Error {
    Error::Io(io::Error::new(io::ErrorKind::InvalidData, why))
}

impl Bus {
    /// Connects and says who calls.
    pub(super) async fn connect(socket: &Path) -> Result<Self, Error> {
        let stream = UnixStream::connect(socket).await?;
        let mut bus = Self { stream, read: Vec::new(), handles: VecDeque::new(), signals: VecDeque::new(), serial: 0, skip: 0 };
        tokio::time::timeout(ANSWER_MAX, bus.authenticate()).await.map_err(|_| Error::Timeout)??;
        let hello = Call { to: "org.freedesktop.DBus", path: "/org/freedesktop/DBus", interface: "org.freedesktop.DBus", member: "Hello", args: &[] };
        bus.call(&hello).await?;
        Ok(bus)
    }

    async fn authenticate(&mut self) -> Result<(), Error> {
        let uid: String = nix::unistd::geteuid().to_string().bytes().map(|b| format!("{b:02x}")).collect();
        self.stream.write_all(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes()).await?;
        self.line("OK").await?;
        self.stream.write_all(b"NEGOTIATE_UNIX_FD\r\n").await?;
        self.line("AGREE_UNIX_FD").await?;
        Ok(self.stream.write_all(b"BEGIN\r\n").await?)
    }

    async fn line(&mut self, wanted: &str) -> Result<(), Error> {
        loop {
            if let Some(end) = self.read.windows(2).position(|w| w == b"\r\n") {
                let line: Vec<u8> = self.read.drain(..end + 2).collect();
                return if line.starts_with(wanted.as_bytes()) { Ok(()) } else { Err(invalid("the bus does not let this process in")) };
            }
            if self.read.len() > LINE_MAX {
                return Err(invalid("no bus"));
            }
            self.more().await?;
        }
    }

    /// Reads what there is, handles too.
    async fn more(&mut self) -> Result<(), Error> {
        let mut buffer = [0_u8; READ];
        let mut space = nix::cmsg_space!([RawFd; HANDLES_MAX]);
        loop {
            self.stream.readable().await?;
            let handles = &mut self.handles;
            let done = self.stream.try_io(Interest::READABLE, || {
                let mut slices = [IoSliceMut::new(&mut buffer)];
                let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
                let message = recvmsg::<()>(self.stream.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
                for rights in message.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(fds) = rights {
                        handles.extend(fds.into_iter().map(Handle));
                    }
                }
                Ok(message.bytes)
            });
            match done {
                Ok(0) => return Err(Error::Io(io::ErrorKind::UnexpectedEof.into())),
                Ok(len) => {
                    self.read.extend_from_slice(&buffer[..len]);
                    return Ok(());
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// The next message, and its handles. One that is too long to be of any use is passed over.
    async fn message(&mut self) -> Result<(Message, Vec<Handle>), Error> {
        let len = loop {
            if self.skip > 0 {
                let here = self.skip.min(self.read.len());
                self.read.drain(..here);
                self.skip -= here;
                if self.skip > 0 {
                    // Handles come with a message's first bytes: what has come so far is not the next one's.
                    self.handles.clear();
                    self.more().await?;
                }
                continue;
            }
            match wire::length(&self.read).map_err(invalid)? {
                Some(len) if len > wire::MESSAGE_MAX => self.skip = len,
                Some(len) if self.read.len() >= len => break len,
                _ => self.more().await?,
            }
        };
        let bytes: Vec<u8> = self.read.drain(..len).collect();
        let message = Message::decode(&bytes).ok_or_else(|| invalid("a message of the bus cannot be read"))?;
        let own = message.handles();
        if own > self.handles.len() {
            return Err(invalid("a handle of a message is missing"));
        }
        Ok((message, self.handles.drain(..own).collect()))
    }

    /// Makes a call and waits for its answer.
    pub(super) async fn call(&mut self, call: &Call<'_>) -> Result<(Message, Vec<Handle>), Error> {
        self.serial += 1;
        let serial = self.serial;
        let answer = async {
            self.stream.write_all(&call.encode(serial)).await?;
            loop {
                let (message, handles) = self.message().await?;
                if message.answers() == Some(serial) {
                    return message.error().map_or(Ok((message, handles)), |told| Err(Error::Refused(told)));
                }
                if message.kind == Kind::Signal && self.signals.len() < SIGNALS_MAX {
                    self.signals.push_back(message);
                }
            }
        };
        tokio::time::timeout(ANSWER_MAX, answer).await.map_err(|_| Error::Timeout)?
    }

    /// Has the bus pass on the signals of this rule.
    pub(super) async fn follow(&mut self, rule: &str) -> Result<(), Error> {
        let (to, path) = ("org.freedesktop.DBus", "/org/freedesktop/DBus");
        self.call(&Call { to, path, interface: to, member: "AddMatch", args: &[Arg::Text(rule)] }).await.map(drop)
    }

    /// The next signal. What was read of one stays when the wait is given up.
    pub(super) async fn signal(&mut self) -> Result<Message, Error> {
        loop {
            if let Some(signal) = self.signals.pop_front() {
                return Ok(signal);
            }
            let (message, _) = self.message().await?;
            if message.kind == Kind::Signal {
                return Ok(message);
            }
        }
    }
}
