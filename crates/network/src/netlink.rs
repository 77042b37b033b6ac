//! Netlink as a request/answer channel: one kept socket, messages written by hand, answers with the kernel's words.
//!
//! Blocking by design: the kernel answers within the system call, and each socket belongs to one thread at a time.
//! Invariant: after every call the socket holds no unread answer; a call that fails half-way drains by sequence number.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::{Error, Result};

/// `NETLINK_ROUTE`.
pub const ROUTE: i32 = libc::NETLINK_ROUTE;
/// `NETLINK_NETFILTER`.
pub const NETFILTER: i32 = libc::NETLINK_NETFILTER;
/// `NETLINK_GENERIC`.
pub const GENERIC: i32 = libc::NETLINK_GENERIC;

/// `NLM_F_REQUEST`.
pub const REQUEST: u16 = 1;
/// `NLM_F_ACK`.
pub const ACK: u16 = 4;
/// `NLM_F_DUMP`.
pub const DUMP: u16 = 0x300;
/// `NLM_F_REPLACE`.
pub const REPLACE: u16 = 0x100;
/// `NLM_F_EXCL`.
pub const EXCL: u16 = 0x200;
/// `NLM_F_CREATE`.
pub const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`.
pub const APPEND: u16 = 0x800;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NFNL_MSG_BATCH_BEGIN`: a refusal of this message is the whole batch's, and nothing else may follow it.
pub(crate) const BATCH_BEGIN: u16 = 0x10;
const HEADER: usize = 16;
const NESTED: u16 = 0x8000;
/// An answer to one message is at most this: the kernel's dump buffers are 32 KiB at most.
const RECEIVE_BYTES: usize = 128 * 1024;
/// A batch of a full resynchronisation of tens of thousands of elements fits.
const SOCKET_BUFFER_BYTES: libc::c_int = 32 * 1024 * 1024;
/// The kernel answers within the system call; an answer that does not come will not.
const ANSWER_MAX: libc::timeval = libc::timeval { tv_sec: 10, tv_usec: 0 };
/// `NLM_F_DUMP_INTR`: what is listed changed meanwhile, and something may be missing.
const INTERRUPTED: u16 = 0x10;
/// A list that changes each time that it is read is taken as it comes after so many times.
const DUMP_ATTEMPTS: u32 = 20;
/// Messages of news that are thrown away at once.
const DRAIN_MAX: u32 = 10_000;

/// A buffer of messages: header, fixed part, attributes.
#[derive(Default, Debug, Clone)]
pub struct Messages {
    bytes: Vec<u8>,
    start: usize,
    count: u32,
}

/// An open nested attribute; closed by [`Messages::end`].
#[must_use]
pub struct Nest(usize);

impl Messages {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a message of a type with flags (`NLM_F_REQUEST` is added) and its fixed part.
    pub fn begin(&mut self, kind: u16, flags: u16, fixed: &[u8]) -> &mut Self {
        self.start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&self.count.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(fixed);
        self.count += 1;
        self.pad();
        self.close();
        self
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    fn close(&mut self) {
        let length = (self.bytes.len() - self.start) as u32;
        self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// An attribute of bytes.
    pub fn attr(&mut self, kind: u16, data: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(&((data.len() + 4) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(data);
        self.pad();
        self.close();
        self
    }

    /// An attribute with a NUL-terminated text.
    pub fn text(&mut self, kind: u16, text: &str) -> &mut Self {
        let mut data = text.as_bytes().to_vec();
        data.push(0);
        self.attr(kind, &data)
    }

    /// An attribute with a number in the machine's order.
    pub fn u32(&mut self, kind: u16, n: u32) -> &mut Self {
        self.attr(kind, &n.to_ne_bytes())
    }

    /// An attribute with a number in the network's order (all of nf_tables).
    pub fn be32(&mut self, kind: u16, n: u32) -> &mut Self {
        self.attr(kind, &n.to_be_bytes())
    }

    /// An attribute with a number in the network's order.
    pub fn be64(&mut self, kind: u16, n: u64) -> &mut Self {
        self.attr(kind, &n.to_be_bytes())
    }

    /// Opens a nested attribute.
    pub fn nest(&mut self, kind: u16) -> Nest {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        Nest(at)
    }

    /// Raw bytes inside a nest: the fixed part that some nests have.
    pub fn raw(&mut self, data: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(data);
        self.pad();
        self.close();
        self
    }

    /// Closes a nested attribute.
    pub fn end(&mut self, nest: Nest) -> &mut Self {
        let length = (self.bytes.len() - nest.0) as u16;
        self.bytes[nest.0..nest.0 + 2].copy_from_slice(&length.to_ne_bytes());
        self.close();
        self
    }

    /// Bytes written inside an open nest; a nest holds at most 65,535.
    pub fn nested_bytes(&self, nest: &Nest) -> usize {
        self.bytes.len() - nest.0
    }

    /// Adds flags to the message begun last.
    pub fn flag(&mut self, flags: u16) -> &mut Self {
        let at = self.start + 6;
        let old = u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]);
        self.bytes[at..at + 2].copy_from_slice(&(old | flags).to_ne_bytes());
        self
    }

    /// How many messages there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The bytes as they go out (sequence numbers from 0).
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// The attributes in a buffer: type (without the nested bit) and value.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get((length + 3) & !3..).unwrap_or(&[]);
        Some((kind, value))
    })
}

/// The value of one attribute.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(k, _)| *k == kind).map(|(_, v)| v)
}

/// A text value without its NUL.
pub fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

/// A connected netlink socket.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    family: i32,
    sequence: u32,
    buffer: Vec<u8>,
}

/// One answer: message type and body after the header.
pub type Answer = (u16, Vec<u8>);

#[allow(unsafe_code)]
fn set_option<T>(fd: &OwnedFd, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer is to a live value of the length given; the call keeps no reference.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A netlink socket of a family in the network namespace of the calling thread.
#[allow(unsafe_code)]
fn socket(family: i32, flags: i32) -> Result<OwnedFd> {
    // SAFETY: plain system call; the descriptor is owned at once.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC | flags, family) };
    if fd < 0 {
        return Err(Error::io("netlink socket", io::Error::last_os_error()));
    }
    // SAFETY: `fd` was just made and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[allow(unsafe_code)]
fn receive(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        // SAFETY: the buffer is live and of the length given.
        let n = unsafe { libc::recv(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        match usize::try_from(n) {
            Ok(n) => return Ok(n),
            Err(_) => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => {}
                e => return Err(e),
            },
        }
    }
}

impl Socket {
    /// Opens a socket of a family in the network namespace of the calling thread.
    pub fn open(family: i32) -> Result<Self> {
        let fd = socket(family, 0)?;
        // Failure is harmless: these options only widen buffers and error texts, and bound a wait.
        let _ = set_option(&fd, libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, &1);
        let _ = set_option(&fd, libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, &1);
        let _ = set_option(&fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &SOCKET_BUFFER_BYTES);
        let _ = set_option(&fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &SOCKET_BUFFER_BYTES);
        let _ = set_option(&fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &ANSWER_MAX);
        Ok(Self { fd, family, sequence: 1, buffer: vec![0; RECEIVE_BYTES] })
    }

    #[allow(unsafe_code)]
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        // SAFETY: the buffer is live for the call. An unconnected netlink socket sends to the kernel (port 0).
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Sends messages; every one that asks for an acknowledgement must get one, the first refusal is the error.
    /// Returns the other answers. `what` names the step in errors.
    pub fn call(&mut self, what: &str, messages: &Messages) -> Result<Vec<Answer>> {
        let mut answers = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            answers.clear();
            if self.each(what, messages, &mut |kind, body| answers.push((kind, body.to_vec())))? {
                break;
            }
        }
        Ok(answers)
    }

    /// The same with the answers given as they come, kept nowhere. False: what was listed changed meanwhile.
    pub fn each(&mut self, what: &str, messages: &Messages, take: &mut dyn FnMut(u16, &[u8])) -> Result<bool> {
        if messages.is_empty() {
            return Ok(true);
        }
        let base = self.sequence;
        self.sequence = self.sequence.wrapping_add(messages.count);
        let mut bytes = messages.bytes.clone();
        let mut last = None;
        let mut at = 0;
        while at + HEADER <= bytes.len() {
            let length = u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize;
            let flags = u16::from_ne_bytes([bytes[at + 6], bytes[at + 7]]);
            let number = u32::from_ne_bytes([bytes[at + 8], bytes[at + 9], bytes[at + 10], bytes[at + 11]]);
            let sequence = base.wrapping_add(number);
            bytes[at + 8..at + 12].copy_from_slice(&sequence.to_ne_bytes());
            if flags & ACK != 0 || flags & DUMP == DUMP {
                last = Some(sequence);
            }
            at += (length + 3) & !3;
        }
        self.send(&bytes).map_err(|e| Error::io(what, e))?;
        match last {
            Some(last) => {
                let batch = self.family == NETFILTER && u16::from_ne_bytes([bytes[4], bytes[5]]) == BATCH_BEGIN;
                self.collect(what, (base, last), batch, take)
            }
            None => Ok(true),
        }
    }

    /// Reads until the acknowledgement (or the end of the dump) of `last`; keeps the first refusal.
    fn collect(&mut self, what: &str, (base, last): (u32, u32), batch: bool, take: &mut dyn FnMut(u16, &[u8])) -> Result<bool> {
        let mut refusal = None;
        let mut whole = true;
        loop {
            let n = receive(&self.fd, &mut self.buffer).map_err(|e| Error::io(what, e))?;
            for (kind, flags, sequence, body) in messages(&self.buffer[..n]) {
                let ours = sequence.wrapping_sub(base) <= last.wrapping_sub(base);
                whole &= !ours || flags & INTERRUPTED == 0 || kind == NLMSG_ERROR;
                if ours && matches!(kind, NLMSG_ERROR | NLMSG_DONE) {
                    let code = body.get(..4).and_then(|b| b.try_into().ok()).map_or(0, i32::from_ne_bytes);
                    if code < 0 && refusal.is_none() {
                        refusal = Some(refused(what, sequence.wrapping_sub(base), code, flags, body));
                    }
                    if sequence == last || (batch && code < 0 && sequence == base) {
                        return refusal.map_or(Ok(whole), Err);
                    }
                } else if ours {
                    take(kind, body);
                }
            }
        }
    }
}

/// The messages in a buffer: type, flags, number, body.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = (u16, u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let head = rest.get(..HEADER)?;
        let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let (kind, flags) = (u16::from_ne_bytes([head[4], head[5]]), u16::from_ne_bytes([head[6], head[7]]));
        let sequence = u32::from_ne_bytes([head[8], head[9], head[10], head[11]]);
        let body = rest.get(HEADER..length)?;
        rest = rest.get((length + 3) & !3..).unwrap_or(&[]);
        Some((kind, flags, sequence, body))
    })
}

/// The kernel's news of one kind, from whoever changed something.
#[derive(Debug)]
pub struct News {
    fd: tokio::io::unix::AsyncFd<OwnedFd>,
    kind: u16,
    buffer: Vec<u8>,
}

impl News {
    /// Joins a group of a family, for messages of one type: the kernel throws away all others before they are queued. Called
    /// within a runtime.
    #[allow(unsafe_code)]
    pub fn join(family: i32, group: u32, kind: u16) -> Result<Self> {
        let fd = socket(family, libc::SOCK_NONBLOCK)?;
        // Load the type (big-endian, as filters read), and keep the message only if it is this one.
        let wanted = u32::from(kind.to_ne_bytes()[0]) << 8 | u32::from(kind.to_ne_bytes()[1]);
        let step = |code: u32, jf, k| libc::sock_filter { code: code as u16, jt: 0, jf, k };
        let mut program = [
            step(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 4),
            step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, wanted),
            step(libc::BPF_RET | libc::BPF_K, 0, u32::MAX),
            step(libc::BPF_RET | libc::BPF_K, 0, 0),
        ];
        let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        let failed = |what: &str| format!("{what} of netlink group {group}");
        set_option(&fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program).map_err(|e| Error::io(failed("filter"), e))?;
        // SAFETY: all-zero is a valid address of netlink: the kernel chooses the port.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as u16;
        let length = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        // SAFETY: the address lives through the call and is of the length given.
        if unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) } < 0 {
            return Err(Error::io(failed("bind"), io::Error::last_os_error()));
        }
        set_option(&fd, libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, &group).map_err(|e| Error::io(failed("join"), e))?;
        // SAFETY: the descriptor is owned by what is registered, which hands out the same number all its life.
        let fd = unsafe { tokio::io::unix::AsyncFd::register(fd) }.map_err(|e| Error::io("watch a netlink socket", e.into()))?;
        Ok(Self { fd, kind, buffer: vec![0; 8192] })
    }

    /// Throws away what is queued, up to a bound: news may come faster than it is read.
    pub fn drain(&mut self) {
        for _ in 0..DRAIN_MAX {
            match receive(self.fd.get_ref(), &mut self.buffer) {
                Ok(_) => {}
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(_) => return,
            }
        }
    }

    /// Waits for news that `concerns` says so of, by its body. News that was lost concerns everybody.
    pub async fn next(&mut self, concerns: impl Fn(&[u8]) -> bool) -> Result<()> {
        loop {
            let mut ready = self.fd.readable().await.map_err(|e| Error::io("hear the kernel's news", e))?;
            match ready.try_io(|fd| receive(fd.get_ref(), &mut self.buffer)) {
                Err(_would_block) => {}
                Ok(Ok(n)) => {
                    if messages(&self.buffer[..n]).any(|(kind, _, _, body)| kind == self.kind && concerns(body)) {
                        return Ok(());
                    }
                }
                Ok(Err(e)) if e.raw_os_error() == Some(libc::ENOBUFS) => return Ok(()),
                Ok(Err(e)) => return Err(Error::io("hear the kernel's news", e)),
            }
        }
    }
}

/// The error of a refusal, with the kernel's extended acknowledgement (`NLM_F_CAPPED`: only the header is echoed).
fn refused(what: &str, number: u32, code: i32, flags: u16, body: &[u8]) -> Error {
    const CAPPED: u16 = 0x100;
    const TLVS: u16 = 0x200;
    let mut kernel = String::new();
    if flags & TLVS != 0 {
        let echoed = body.get(4..8).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes) as usize;
        let at = 4 + if flags & CAPPED != 0 { HEADER } else { (echoed + 3) & !3 };
        let tlvs = body.get(at..).unwrap_or(&[]);
        kernel = attribute(tlvs, 1).map(text).unwrap_or_default();
        if let Some(offset) = attribute(tlvs, 2).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes) {
            kernel = format!("{kernel} at byte {offset}").trim_start().to_owned();
        }
    }
    Error::Kernel { what: format!("{what}: message {number}"), source: io::Error::from_raw_os_error(-code), kernel }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_read_back() {
        let mut m = Messages::new();
        m.begin(16, ACK, &[1, 2, 3, 4]).text(3, "eth0").attr(1, &[9; 6]);
        let nest = m.nest(18);
        m.u32(4, 7);
        m.end(nest);
        let body = &m.bytes()[20..];
        assert_eq!(u32::from_ne_bytes(m.bytes()[..4].try_into().unwrap()) as usize, m.bytes().len());
        assert_eq!(attribute(body, 3).map(text).as_deref(), Some("eth0"));
        assert_eq!(attribute(body, 1), Some(&[9u8; 6][..]));
        let nested = attribute(body, 18).unwrap();
        assert_eq!(attribute(nested, 4), Some(&7u32.to_ne_bytes()[..]));
    }

    #[test]
    fn cut_attributes_end_the_reading() {
        assert_eq!(attributes(&[200, 0, 1, 0, 1]).count(), 0);
        assert_eq!(attributes(&[2]).count(), 0);
    }
}
