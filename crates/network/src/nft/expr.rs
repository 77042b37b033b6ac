//! What a rule is made of: expressions that load registers, compare them and decide.

use super::numbers::{EXPR_DATA, EXPR_NAME, LIST_ELEM};
use super::{Data, Family, value, write_data};
use crate::netlink::Messages;

/// The `n`th of the sixteen four-byte registers. Values longer than four bytes take the registers that follow.
pub const fn reg(n: u32) -> u32 {
    8 + n
}

/// The expressions of a rule, one after the other.
pub type Rule = Vec<Expr>;

/// What happens to a packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Gone.
    Drop,
    /// Done with this hook's chain.
    Accept,
    /// Back to the chain that jumped here.
    Return,
    /// To another chain, and back.
    Jump(String),
    /// To another chain.
    Goto(String),
}

impl Verdict {
    pub(super) fn code(&self) -> i32 {
        match self {
            Self::Drop => 0,
            Self::Accept => 1,
            Self::Return => -5,
            Self::Jump(_) => -3,
            Self::Goto(_) => -4,
        }
    }

    pub(super) fn chain(&self) -> Option<&str> {
        match self {
            Self::Jump(chain) | Self::Goto(chain) => Some(chain),
            _ => None,
        }
    }
}

/// Where a payload's offset counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Base {
    /// The IP header.
    Network = 1,
    /// The header after it.
    Transport = 2,
}

/// How to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Cmp {
    /// Equal.
    Eq = 0,
    /// Not equal.
    Ne = 1,
}

/// Whose address type to look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Fib {
    /// The source's.
    Source = 1,
    /// The destination's.
    Destination = 2,
}

/// One step of a rule. `to`, `from` and the like are registers ([`reg`]).
#[allow(missing_docs, reason = "the fields are said by their variant")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// Loads bytes of the packet.
    Payload { to: u32, base: Base, offset: u32, length: u32 },
    /// Loads a fact about the packet (`NFT_META_*`).
    Meta { to: u32, key: u32 },
    /// Sets the packet's mark.
    SetMark { from: u32 },
    /// Loads a fact about the connection (`NFT_CT_*`).
    Ct { to: u32, key: u32 },
    /// Loads the type of an address in the routing tables (`RTN_*`).
    FibType { to: u32, of: Fib },
    /// Loads the number of the link by which the source is reached, if that is the one by which the packet came; else 0.
    FibBack { to: u32 },
    /// Goes on only if the comparison holds.
    Cmp { from: u32, op: Cmp, value: Vec<u8> },
    /// `to = (from & mask) ^ xor`.
    Bits { from: u32, to: u32, mask: Vec<u8>, xor: Vec<u8> },
    /// Loads a value.
    Load { to: u32, value: Vec<u8> },
    /// Decides.
    Verdict(Verdict),
    /// Goes on only if the key is in the set (or not in it).
    In { set: String, from: u32, not: bool },
    /// Loads from a map; goes on only if the key is in it. `to` 0: it is a verdict.
    Map { set: String, from: u32, to: u32 },
    /// Loads a random number below `modulus`.
    Random { to: u32, modulus: u32 },
    /// Changes the destination; port 0: only the address.
    Dnat { family: Family, address: u32, port: u32 },
    /// Changes the source; the port is chosen at random, so that two packets at a time do not choose the same.
    Snat { family: Family, address: u32 },
    /// Changes the source to the outgoing link's address.
    Masquerade,
    /// Tells the sender that nobody listens: ICMP port unreachable.
    Reject { family: Family },
    /// The same for TCP, in its own words: a reset. (A rule with it says the protocol first.)
    Reset,
    /// Remembers a key in a set for a while, or for a while more.
    Remember { set: String, key: u32, timeout_s: u32 },
    /// Counts packets.
    Counter,
    /// Not followed by connection tracking.
    Notrack,
}

/// `NFT_META_MARK`.
const META_MARK: u32 = 3;
const NAT_SNAT: u32 = 0;
const NAT_DNAT: u32 = 1;
/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
const RANDOM_FULLY: u32 = 16;
const DYNSET_UPDATE: u32 = 1;
const FIB_ADDRESS_TYPE: u32 = 3;
const FIB_LINK: u32 = 1;
/// The look-up is bound to the link by which the packet came.
const FIB_SAME_LINK: u32 = 8;
/// `NFT_REJECT_ICMP_UNREACH`.
const REJECT_BY_ICMP: u32 = 0;
/// `NFT_REJECT_TCP_RST`.
const REJECT_BY_RESET: u32 = 1;
/// Of ICMP and ICMPv6: that a port is not reached.
const PORT_UNREACHABLE: u8 = 3;
const PORT_UNREACHABLE6: u8 = 4;

impl Expr {
    fn name(&self) -> &'static str {
        match self {
            Self::Payload { .. } => "payload",
            Self::Meta { .. } | Self::SetMark { .. } => "meta",
            Self::Ct { .. } => "ct",
            Self::FibType { .. } | Self::FibBack { .. } => "fib",
            Self::Cmp { .. } => "cmp",
            Self::Bits { .. } => "bitwise",
            Self::Load { .. } | Self::Verdict(_) => "immediate",
            Self::In { .. } | Self::Map { .. } => "lookup",
            Self::Random { .. } => "numgen",
            Self::Dnat { .. } | Self::Snat { .. } => "nat",
            Self::Masquerade => "masq",
            Self::Reject { .. } | Self::Reset => "reject",
            Self::Remember { .. } => "dynset",
            Self::Counter => "counter",
            Self::Notrack => "notrack",
        }
    }

    pub(super) fn write(&self, m: &mut Messages) {
        let element = m.nest(LIST_ELEM);
        m.text(EXPR_NAME, self.name());
        let data = m.nest(EXPR_DATA);
        self.write_data(m);
        m.end(data).end(element);
    }

    fn write_data(&self, m: &mut Messages) {
        match self {
            Self::Payload { to, base, offset, length } => {
                m.be32(1, *to).be32(2, *base as u32).be32(3, *offset).be32(4, *length);
            }
            Self::Meta { to, key } => {
                m.be32(1, *to).be32(2, *key);
            }
            Self::SetMark { from } => {
                m.be32(2, META_MARK).be32(3, *from);
            }
            Self::Ct { to, key } => {
                m.be32(1, *to).be32(2, *key);
            }
            Self::FibType { to, of } => {
                m.be32(1, *to).be32(2, FIB_ADDRESS_TYPE).be32(3, *of as u32);
            }
            Self::FibBack { to } => {
                m.be32(1, *to).be32(2, FIB_LINK).be32(3, Fib::Source as u32 | FIB_SAME_LINK);
            }
            Self::Cmp { from, op, value: v } => {
                m.be32(1, *from).be32(2, *op as u32);
                value(m, 3, v);
            }
            Self::Bits { from, to, mask, xor } => {
                m.be32(1, *from).be32(2, *to).be32(3, mask.len() as u32);
                value(m, 4, mask);
                value(m, 5, xor);
            }
            Self::Load { to, value: v } => {
                m.be32(1, *to);
                value(m, 2, v);
            }
            Self::Verdict(verdict) => {
                m.be32(1, 0);
                write_data(m, 2, &Data::Verdict(verdict.clone()));
            }
            Self::In { set, from, not } => {
                m.text(1, set).be32(2, *from);
                if *not {
                    m.be32(5, 1);
                }
            }
            Self::Map { set, from, to } => {
                m.text(1, set).be32(2, *from).be32(3, *to);
            }
            Self::Random { to, modulus } => {
                m.be32(1, *to).be32(2, *modulus).be32(3, 1);
            }
            Self::Dnat { family, address, port } => {
                m.be32(1, NAT_DNAT).be32(2, u32::from(family.number())).be32(3, *address);
                if *port != 0 {
                    m.be32(5, *port);
                }
            }
            Self::Snat { family, address } => {
                m.be32(1, NAT_SNAT).be32(2, u32::from(family.number())).be32(3, *address).be32(7, RANDOM_FULLY);
            }
            Self::Masquerade => {
                m.be32(1, RANDOM_FULLY);
            }
            Self::Reject { family } => {
                let code = if *family == Family::V4 { PORT_UNREACHABLE } else { PORT_UNREACHABLE6 };
                m.be32(1, REJECT_BY_ICMP).attr(2, &[code]);
            }
            Self::Reset => {
                m.be32(1, REJECT_BY_RESET);
            }
            Self::Remember { set, key, timeout_s } => {
                m.text(1, set).be32(3, DYNSET_UPDATE).be32(4, *key).be64(6, u64::from(*timeout_s) * 1000);
            }
            Self::Counter => {
                m.be64(1, 0).be64(2, 0);
            }
            Self::Notrack => {}
        }
    }
}

/// Steps that rules are often made of.
pub mod step {
    use std::net::{IpAddr, Ipv6Addr};

    use super::super::{Family, octets};
    use super::{Base, Cmp, Expr, Fib, Verdict, reg};
    use crate::cidr::Net;

    /// `NFT_META_NFPROTO`.
    const META_NFPROTO: u32 = 15;
    /// `NFT_META_L4PROTO`.
    const META_L4PROTO: u32 = 16;
    /// `NFT_META_IIF`.
    const META_IIF: u32 = 4;
    /// `NFT_META_IIFNAME`.
    const META_IIFNAME: u32 = 6;
    /// `NFT_META_OIFNAME`.
    const META_OIFNAME: u32 = 7;
    /// `RTN_LOCAL`.
    const LOCAL: u32 = 2;

    /// Loads the source address.
    pub fn source(family: Family, n: u32) -> Expr {
        Expr::Payload { to: reg(n), base: Base::Network, offset: family.source(), length: family.bytes() }
    }

    /// Loads the destination address.
    pub fn destination(family: Family, n: u32) -> Expr {
        Expr::Payload { to: reg(n), base: Base::Network, offset: family.destination(), length: family.bytes() }
    }

    /// Loads protocol and destination port.
    pub fn protocol_port(n: u32) -> [Expr; 2] {
        [Expr::Meta { to: reg(n), key: META_L4PROTO }, Expr::Payload { to: reg(n + 1), base: Base::Transport, offset: 2, length: 2 }]
    }

    /// Goes on only for this protocol.
    pub fn protocol_is(number: u8) -> [Expr; 2] {
        [Expr::Meta { to: reg(0), key: META_L4PROTO }, Expr::Cmp { from: reg(0), op: Cmp::Eq, value: vec![number] }]
    }

    /// Goes on only for datagrams (UDP) to this port.
    pub fn datagrams_to(port: u16) -> Vec<Expr> {
        let load = Expr::Payload { to: reg(0), base: Base::Transport, offset: 2, length: 2 };
        let is = Expr::Cmp { from: reg(0), op: Cmp::Eq, value: port.to_be_bytes().to_vec() };
        [&protocol_is(libc::IPPROTO_UDP as u8)[..], &[load, is]].concat()
    }

    fn in_range(load: Expr, range: Net, op: Cmp) -> Vec<Expr> {
        let (mask, value) = (octets(range.mask()), octets(range.base()));
        let xor = vec![0; mask.len()];
        vec![load, Expr::Bits { from: reg(0), to: reg(0), mask, xor }, Expr::Cmp { from: reg(0), op, value }]
    }

    /// Goes on only if the source is in the range (or is not).
    pub fn source_in(range: Net, op: Cmp) -> Vec<Expr> {
        in_range(source(range.family(), 0), range, op)
    }

    /// Goes on only if the destination is in the range (or is not).
    pub fn destination_in(range: Net, op: Cmp) -> Vec<Expr> {
        in_range(destination(range.family(), 0), range, op)
    }

    /// Goes on only if the source is not IPv6's loopback.
    pub fn not_from_loopback6() -> Vec<Expr> {
        source_in(Net::one(Ipv6Addr::LOCALHOST), Cmp::Ne)
    }

    /// Goes on only if the destination is not IPv6's loopback.
    pub fn not_to_loopback6() -> Vec<Expr> {
        destination_in(Net::one(Ipv6Addr::LOCALHOST), Cmp::Ne)
    }

    /// Goes on only if the destination is this address.
    pub fn destination_is(address: IpAddr) -> [Expr; 2] {
        [destination(Family::of(address), 0), Expr::Cmp { from: reg(0), op: Cmp::Eq, value: octets(address) }]
    }

    /// Goes on only if the source is this address.
    pub fn source_is(address: IpAddr) -> [Expr; 2] {
        [source(Family::of(address), 0), Expr::Cmp { from: reg(0), op: Cmp::Eq, value: octets(address) }]
    }

    /// Goes on only if that address is one of this host's.
    pub fn is_local(of: Fib) -> [Expr; 2] {
        [Expr::FibType { to: reg(0), of }, Expr::Cmp { from: reg(0), op: Cmp::Eq, value: LOCAL.to_ne_bytes().to_vec() }]
    }

    /// Goes on only if the packet came by a link whose name begins so.
    pub fn came_by(prefix: &str) -> [Expr; 2] {
        [Expr::Meta { to: reg(0), key: META_IIFNAME }, Expr::Cmp { from: reg(0), op: Cmp::Eq, value: prefix.as_bytes().to_vec() }]
    }

    /// Goes on only if the packet came by the link of this number.
    pub fn came_by_number(index: u32) -> [Expr; 2] {
        [Expr::Meta { to: reg(0), key: META_IIF }, Expr::Cmp { from: reg(0), op: Cmp::Eq, value: index.to_ne_bytes().to_vec() }]
    }

    /// Goes on only if the source is not reached by the link by which the packet came.
    pub fn comes_astray() -> [Expr; 2] {
        [Expr::FibBack { to: reg(0) }, Expr::Cmp { from: reg(0), op: Cmp::Eq, value: vec![0; 4] }]
    }

    /// Goes on only for one family, in a table that has both.
    pub fn is(family: Family) -> [Expr; 2] {
        [Expr::Meta { to: reg(0), key: META_NFPROTO }, Expr::Cmp { from: reg(0), op: Cmp::Eq, value: vec![family.number()] }]
    }

    /// Goes on only if the packet leaves by a link whose name begins so.
    pub fn leaves_by(prefix: &str) -> [Expr; 2] {
        [Expr::Meta { to: reg(0), key: META_OIFNAME }, Expr::Cmp { from: reg(0), op: Cmp::Eq, value: prefix.as_bytes().to_vec() }]
    }

    /// Goes on only if any of these bits is set in a loaded number.
    pub fn any_bit(load: Expr, bits: u32) -> [Expr; 3] {
        let (mask, xor) = (bits.to_ne_bytes().to_vec(), vec![0; 4]);
        [load, Expr::Bits { from: reg(0), to: reg(0), mask, xor }, Expr::Cmp { from: reg(0), op: Cmp::Ne, value: vec![0; 4] }]
    }

    /// Goes on only for the first packet of a connection.
    pub fn new_connection() -> [Expr; 3] {
        any_bit(Expr::Ct { to: reg(0), key: 0 }, 8)
    }

    /// To another chain, and back.
    pub fn jump(chain: &str) -> Expr {
        Expr::Verdict(Verdict::Jump(chain.to_owned()))
    }

    /// To another chain.
    pub fn goto(chain: &str) -> Expr {
        Expr::Verdict(Verdict::Goto(chain.to_owned()))
    }

    /// The source becomes this address.
    pub fn snat(address: IpAddr) -> [Expr; 2] {
        [Expr::Load { to: reg(0), value: octets(address) }, Expr::Snat { family: Family::of(address), address: reg(0) }]
    }
}
