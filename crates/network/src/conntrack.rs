//! Connection tracking over netlink: entries of UDP flows whose backend is gone must go too.
//!
//! A UDP flow has no end that the kernel sees; as long as a client goes on sending, its packets follow the translation that
//! the flow began with, also to a pod that no longer exists. TCP needs none of this: the client notices and dials anew.

use std::net::IpAddr;

use crate::link;
use crate::netlink::{ACK, DUMP, Messages, Socket, attribute};
use crate::nft::{Family, header};
use crate::{Error, Result};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
/// What a dump is to be about: parts of the tuple that are given must be the same.
const FILTER: u16 = 25;
const FILTER_ORIGINAL: u16 = 1;
const FILTER_PROTOCOL: u32 = 1 << 3;
/// Of a tuple: the part about the protocol, and its number there.
const TUPLE_PROTOCOL: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
/// Of a tuple's part about addresses: source and destination, of IPv4 and of IPv6.
const ADDRESSES: [[u16; 2]; 2] = [[1, 2], [3, 4]];

/// One end of a flow's first packet or of its answer.
pub type Side = (IpAddr, u16);

/// A tracked UDP flow: whom the client called and who answers.
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

fn tuple(bytes: &[u8]) -> Option<(u8, Side, Side)> {
    let ip = attribute(bytes, 1)?;
    let proto = attribute(bytes, 2)?;
    let address = |which: usize| ADDRESSES.iter().find_map(|kinds| attribute(ip, kinds[which])).and_then(link::address);
    let port = |kind| attribute(proto, kind).and_then(|b| b.try_into().ok()).map(u16::from_be_bytes);
    Some((*attribute(proto, 1)?.first()?, (address(0)?, port(2)?), (address(1)?, port(3)?)))
}

fn parse(body: &[u8]) -> Option<Flow> {
    let attributes = body.get(4..)?;
    let original = attribute(attributes, TUPLE_ORIGINAL)?;
    let (protocol, client, called) = tuple(original)?;
    let (_, answers, _) = tuple(attribute(attributes, TUPLE_REPLY)?)?;
    let id = attribute(attributes, ID)?.to_vec();
    (i32::from(protocol) == libc::IPPROTO_UDP).then(|| Flow { client, called, answers, original: original.to_vec(), id })
}

/// The tracked UDP flows that are wanted: a machine may track hundreds of thousands, so the kernel is told to leave out the
/// others (before Linux 5.8 it does not hear it), and none is kept that is not.
pub fn udp_flows(socket: &mut Socket, family: Family, wanted: impl Fn(&Flow) -> bool) -> Result<Vec<Flow>> {
    let mut m = Messages::new();
    m.begin(GET, DUMP, &header(family.number(), 0));
    let tuple = m.nest(TUPLE_ORIGINAL);
    let protocol = m.nest(TUPLE_PROTOCOL);
    m.attr(PROTOCOL_NUMBER, &[libc::IPPROTO_UDP as u8]);
    m.end(protocol).end(tuple);
    let filter = m.nest(FILTER);
    m.attr(FILTER_ORIGINAL, &FILTER_PROTOCOL.to_ne_bytes());
    m.end(filter);
    let mut flows = Vec::new();
    socket.each("list tracked connections", &m, &mut |_, body| flows.extend(parse(body).filter(&wanted)))?;
    Ok(flows)
}

/// Forgets every UDP flow that `stale` says so of; how many there were.
pub fn forget_udp(socket: &mut Socket, family: Family, stale: impl Fn(&Flow) -> bool) -> Result<usize> {
    let flows = udp_flows(socket, family, stale)?;
    for flow in &flows {
        let mut m = Messages::new();
        m.begin(DELETE, ACK, &header(family.number(), 0));
        let nest = m.nest(TUPLE_ORIGINAL);
        m.raw(&flow.original);
        m.end(nest).attr(ID, &flow.id);
        match socket.call("forget a tracked connection", &m) {
            Err(Error::Kernel { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => {}
            other => drop(other?),
        }
    }
    Ok(flows.len())
}
