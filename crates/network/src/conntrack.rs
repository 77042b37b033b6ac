//! Connection tracking over netlink: entries whose backend is gone must go too, and all entries of a cluster that goes.
//!
//! A UDP flow has no end that the kernel sees; as long as a client goes on sending, its packets follow the translation that
//! the flow began with, also to a pod that no longer exists. A TCP connection that nobody has answered is known for two minutes: what its
//! client sends again, and who uses its address and port after it, would be led to the same backend, however long that is gone. All other
//! TCP connections end by themselves: the client notices and dials anew. After a cluster the kernel would lead clients of the next to its
//! pods.

use std::net::IpAddr;

use crate::cidr::Net;
use crate::link;
use crate::netlink::{ACK, DUMP, Messages, Socket, attribute};
use crate::nft::{Family, header};
use crate::{Error, Result};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const ID: u16 = 12;
/// What a dump is to be about: parts of the tuple that are given must be the same.
const FILTER: u16 = 25;
const STATUS_MASK: u16 = 26;
/// Of a status: somebody has answered (`IPS_SEEN_REPLY`).
const ANSWERED: u32 = 1 << 1;
const FILTER_ORIGINAL: u16 = 1;
const FILTER_PROTOCOL: u32 = 1 << 3;
/// Of a tuple: the part about the protocol, and its number there.
const TUPLE_PROTOCOL: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
/// Of a tuple's part about addresses: source and destination, of IPv4 and of IPv6.
const ADDRESSES: [[u16; 2]; 2] = [[1, 2], [3, 4]];

/// One end of a flow's first packet or of its answer.
pub type Side = (IpAddr, u16);

/// A tracked UDP flow, or TCP connection that nobody has answered: whom the client called and who answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The client.
    pub client: Side,
    /// Whom it called.
    pub called: Side,
    /// Who answers.
    pub answers: Side,
    original: Vec<u8>,
    id: Vec<u8>,
}

/// Source and destination of a tuple.
fn ends(bytes: &[u8]) -> Option<[IpAddr; 2]> {
    let ip = attribute(bytes, 1)?;
    let address = |which: usize| ADDRESSES.iter().find_map(|kinds| attribute(ip, kinds[which])).and_then(link::address);
    Some([address(0)?, address(1)?])
}

fn tuple(bytes: &[u8]) -> Option<(u8, Side, Side)> {
    let [source, destination] = ends(bytes)?;
    let proto = attribute(bytes, 2)?;
    let port = |kind| attribute(proto, kind).and_then(|b| b.try_into().ok()).map(u16::from_be_bytes);
    Some((*attribute(proto, 1)?.first()?, (source, port(2)?), (destination, port(3)?)))
}

/// Of a message about a connection: its first packet's tuple and its number, if it has an address that is wanted at any end.
fn with_address(body: &[u8], wanted: impl Fn(&IpAddr) -> bool) -> Option<(Vec<u8>, Vec<u8>)> {
    let attributes = body.get(4..)?;
    let original = attribute(attributes, TUPLE_ORIGINAL)?;
    let both = [ends(original), attribute(attributes, TUPLE_REPLY).and_then(ends)];
    let is_wanted = both.iter().flatten().flatten().any(wanted);
    is_wanted.then(|| Some((original.to_vec(), attribute(attributes, ID)?.to_vec())))?
}

fn parse(body: &[u8], of: i32) -> Option<Flow> {
    let attributes = body.get(4..)?;
    let original = attribute(attributes, TUPLE_ORIGINAL)?;
    let (protocol, client, called) = tuple(original)?;
    let (_, answers, _) = tuple(attribute(attributes, TUPLE_REPLY)?)?;
    let id = attribute(attributes, ID)?.to_vec();
    (i32::from(protocol) == of).then(|| Flow { client, called, answers, original: original.to_vec(), id })
}

/// Whether somebody has answered; what does not say so is taken for answered.
fn is_answered(body: &[u8]) -> bool {
    let status = body.get(4..).and_then(|attributes| attribute(attributes, STATUS)).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
    status.is_none_or(|status| status & ANSWERED != 0)
}

/// The tracked UDP flows that are wanted.
pub fn udp_flows(socket: &mut Socket, family: Family, wanted: impl Fn(&Flow) -> bool) -> Result<Vec<Flow>> {
    list(socket, family, libc::IPPROTO_UDP, |_| {}, |body| parse(body, libc::IPPROTO_UDP).filter(&wanted))
}

/// The TCP connections that are wanted of those which nobody has answered.
pub fn unanswered(socket: &mut Socket, family: Family, wanted: impl Fn(&Flow) -> bool) -> Result<Vec<Flow>> {
    // The kernel leaves out the others; one that does not hear it is read itself.
    let ask = |m: &mut Messages| {
        m.attr(STATUS, &[0; 4]).attr(STATUS_MASK, &ANSWERED.to_be_bytes());
    };
    let take = |body: &[u8]| parse(body, libc::IPPROTO_TCP).filter(|flow| !is_answered(body) && wanted(flow));
    list(socket, family, libc::IPPROTO_TCP, ask, take)
}

/// What is taken of a protocol's entries: a machine may track hundreds of thousands, so the kernel is told to leave out the
/// others (before Linux 5.8 it does not hear it), and none is kept that is not wanted.
fn list(socket: &mut Socket, family: Family, protocol: i32, ask: impl FnOnce(&mut Messages), take: impl Fn(&[u8]) -> Option<Flow>) -> Result<Vec<Flow>> {
    let mut m = Messages::new();
    m.begin(GET, DUMP, &header(family.number(), 0));
    let tuple = m.nest(TUPLE_ORIGINAL);
    let part = m.nest(TUPLE_PROTOCOL);
    m.attr(PROTOCOL_NUMBER, &[protocol as u8]);
    m.end(part).end(tuple);
    let filter = m.nest(FILTER);
    m.attr(FILTER_ORIGINAL, &FILTER_PROTOCOL.to_ne_bytes());
    m.end(filter);
    ask(&mut m);
    let mut flows = Vec::new();
    socket.each("list tracked connections", &m, &mut |_, body| flows.extend(take(body)))?;
    Ok(flows)
}

/// Forgets every UDP flow that `stale` says so of; how many there were.
pub fn forget_udp(socket: &mut Socket, family: Family, stale: impl Fn(&Flow) -> bool) -> Result<usize> {
    let flows = udp_flows(socket, family, stale)?;
    forget_all(socket, family, &flows)
}

/// Forgets every TCP connection that nobody has answered and that `stale` says so of; how many there were.
pub fn forget_unanswered(socket: &mut Socket, family: Family, stale: impl Fn(&Flow) -> bool) -> Result<usize> {
    let flows = unanswered(socket, family, stale)?;
    forget_all(socket, family, &flows)
}

fn forget_all(socket: &mut Socket, family: Family, flows: &[Flow]) -> Result<usize> {
    flows.iter().try_for_each(|flow| forget(socket, family, &flow.original, &flow.id))?;
    Ok(flows.len())
}

/// Forgets every connection, of whatever protocol, that has an address of these ranges at any end; how many there were.
pub fn forget_ranges(socket: &mut Socket, ranges: &[Net]) -> Result<usize> {
    let mut forgotten = 0;
    for family in Family::ALL.into_iter().filter(|family| ranges.iter().any(|range| range.family() == *family)) {
        let mut m = Messages::new();
        m.begin(GET, DUMP, &header(family.number(), 0));
        let mut found = Vec::new();
        let wanted = |ip: &IpAddr| ranges.iter().any(|range| range.contains(*ip));
        socket.each("list tracked connections", &m, &mut |_, body| found.extend(with_address(body, wanted)))?;
        found.iter().try_for_each(|(original, id)| forget(socket, family, original, id))?;
        forgotten += found.len();
    }
    Ok(forgotten)
}

/// Forgets a connection; one that is gone already is no error.
fn forget(socket: &mut Socket, family: Family, original: &[u8], id: &[u8]) -> Result<()> {
    let mut m = Messages::new();
    m.begin(DELETE, ACK, &header(family.number(), 0));
    let nest = m.nest(TUPLE_ORIGINAL);
    m.raw(original);
    m.end(nest).attr(ID, id);
    match socket.call("forget a tracked connection", &m) {
        Err(Error::Kernel { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other.map(drop),
    }
}
