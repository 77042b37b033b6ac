//! Keys of sets and maps in the form that the registers have: fields one after the other, each padded to four bytes.

use super::Family;

/// What a key or a value is: the type's number in `nft`'s listing, and its length as the kernel sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Type {
    /// `nft`'s number; the kernel only keeps it.
    pub id: u32,
    /// Bytes.
    pub length: u32,
}

const PROTOCOL: u32 = 12;
const PORT: u32 = 13;
/// Bits of a field's type in the number of a joined type.
const BITS: u32 = 6;

/// The number of an address's type.
const fn address(family: Family) -> u32 {
    match family {
        Family::V4 => 7,
        Family::V6 => 8,
    }
}

/// An address.
pub const fn ip(family: Family) -> Type {
    Type { id: address(family), length: family.bytes() }
}

/// Two addresses.
pub const fn ip_ip(family: Family) -> Type {
    Type { id: (address(family) << BITS) | address(family), length: 2 * family.bytes() }
}

/// Address and port.
pub const fn ip_port(family: Family) -> Type {
    Type { id: (address(family) << BITS) | PORT, length: family.bytes() + 4 }
}

/// Address, protocol and port.
pub const fn ip_proto_port(family: Family) -> Type {
    Type { id: (((address(family) << BITS) | PROTOCOL) << BITS) | PORT, length: family.bytes() + 8 }
}

/// Protocol and port.
pub const PROTO_PORT: Type = Type { id: (PROTOCOL << BITS) | PORT, length: 8 };
/// A number in the machine's order.
pub const NUMBER: Type = Type { id: 4, length: 4 };

/// Fields, each padded to four bytes.
pub fn join(fields: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(fields.len() * 4);
    for field in fields {
        out.extend_from_slice(field);
        while !out.len().is_multiple_of(4) {
            out.push(0);
        }
    }
    out
}
