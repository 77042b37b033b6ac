//! A link's features, in the kernel's generic netlink (`ethtool`, Linux 5.6).

use crate::netlink::{ACK, GENERIC, Messages, Socket, attribute, attributes, text};
use crate::{Error, Result};

/// The family that tells the numbers of others (`GENL_ID_CTRL`).
const CONTROL: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// `ETHTOOL_MSG_FEATURES_GET` and `_SET`.
const FEATURES_GET: u8 = 11;
const FEATURES_SET: u8 = 12;
/// Of both: which link is meant, what is wanted of it, and what it does.
const HEADER: u16 = 1;
const WANTED: u16 = 3;
const ACTIVE: u16 = 4;
/// Of a header.
const LINK: u16 = 1;
const FLAGS: u16 = 3;
/// The change is not told back.
const OMIT_REPLY: u32 = 2;
/// Of a set of bits: a list of them, each of which has a name, and is on if it says so.
const BITS: u16 = 3;
const BIT: u16 = 1;
const BIT_NAME: u16 = 2;
/// Packets that come in are joined to larger ones (GRO).
const JOINING: &str = "rx-gro";

fn header(command: u8) -> [u8; 4] {
    [command, 1, 0, 0]
}

/// The number of the family, which each boot may give another.
fn family(socket: &mut Socket) -> Result<u16> {
    let mut m = Messages::new();
    m.begin(CONTROL, ACK, &header(GET_FAMILY)).text(FAMILY_NAME, "ethtool");
    let answers = socket.call("ask for ethtool", &m)?;
    let number = answers.iter().find_map(|(_, body)| attribute(body.get(4..)?, FAMILY_ID)?.try_into().ok());
    number.map(u16::from_ne_bytes).ok_or_else(|| Error::Config("this kernel has no ethtool in its netlink".into()))
}

fn ask(m: &mut Messages, family: u16, command: u8, index: u32) {
    m.begin(family, ACK, &header(command));
    let link = m.nest(HEADER);
    m.u32(LINK, index).u32(FLAGS, if command == FEATURES_SET { OMIT_REPLY } else { 0 });
    m.end(link);
}

/// Whether packets that come in by a link are joined to larger ones there.
pub fn joins(index: u32) -> Result<bool> {
    let mut socket = Socket::open(GENERIC)?;
    let mut m = Messages::new();
    ask(&mut m, family(&mut socket)?, FEATURES_GET, index);
    let answers = socket.call("ask for a link's features", &m)?;
    let bits = answers.iter().filter_map(|(_, body)| attribute(attribute(body.get(4..)?, ACTIVE)?, BITS));
    Ok(bits.flat_map(attributes).any(|(_, bit)| attribute(bit, BIT_NAME).is_some_and(|name| text(name) == JOINING)))
}

/// Has packets that come in by a link passed on as they are.
pub fn leave_apart(index: u32) -> Result<()> {
    let mut socket = Socket::open(GENERIC)?;
    let mut m = Messages::new();
    ask(&mut m, family(&mut socket)?, FEATURES_SET, index);
    let wanted = m.nest(WANTED);
    let bits = m.nest(BITS);
    let bit = m.nest(BIT);
    m.text(BIT_NAME, JOINING);
    m.end(bit).end(bits).end(wanted);
    socket.call("set a link's features", &m).map(drop)
}
