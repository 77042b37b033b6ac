//! IP addresses and networks (`kubernetes.net.ip`, `kubernetes.net.cidr`), read by the rules and with the errors of Go's `net/netip`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{costs, global, member};
use crate::cost::{CallEstimate, Cost, EstimatedCall, Range, STRING_TRAVERSAL, by_factor};
use crate::decl::{CallCost, Run};
use crate::decl::{Function, Library, Overload};
use crate::error::EvalError;
use crate::eval::standard::counted_plain;
use crate::gotext::quote;
use crate::types::Type;
use crate::value::{Opaque, Value};
use crate::version::Version;

/// The names of the types.
const IP: &str = "net.IP";
const CIDR: &str = "net.CIDR";
/// The bytes of an address: of version 4, of version 6.
const ADDRESS: Range = Range::new(4, 16);

/// An address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ip(IpAddr);

/// A network: an address, which may have bits behind the prefix, and the prefix's length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cidr {
    address: IpAddr,
    bits: u8,
}

impl Opaque for Ip {
    fn type_name(&self) -> &'static str {
        IP
    }

    fn equals(&self, other: &Value<'_>) -> Result<bool, EvalError> {
        other.as_opaque::<Ip>().map(|other| self == other).ok_or_else(EvalError::no_such_overload)
    }

    fn size(&self) -> Option<u64> {
        Some(if self.0.is_ipv4() { 4 } else { 16 })
    }

    fn text(&self) -> Option<String> {
        Some(self.0.to_string())
    }
}

impl Opaque for Cidr {
    fn type_name(&self) -> &'static str {
        CIDR
    }

    fn equals(&self, other: &Value<'_>) -> Result<bool, EvalError> {
        other.as_opaque::<Cidr>().map(|other| self == other).ok_or_else(EvalError::no_such_overload)
    }

    fn size(&self) -> Option<u64> {
        Some(u64::from(self.bits.div_ceil(8)))
    }

    fn text(&self) -> Option<String> {
        Some(format!("{}/{}", self.address, self.bits))
    }
}

pub fn addresses() -> Library {
    let one = |name, row: &'static str, run: Run| Function { name, overloads: vec![member(row, run).costs(costs::nominal, costs::nominal_estimate)] };
    let read = |overload: Overload| overload.costs(ip_cost, ip_estimate);
    let mut library = Library::new("kubernetes.net.ip", Version(30));
    library.types = vec![(IP, Type::opaque(IP))];
    library.functions = vec![
        Function { name: "ip", overloads: vec![read(global("string_to_ip string -> net.IP", |args| parsed(args).map(|ip| Value::opaque(Ip(ip)))))] },
        one("family", "ip_family net.IP -> int", |args| Ok(Value::Int(if ip(args, 0)?.is_ipv4() { 4 } else { 6 }))),
        Function {
            name: "ip.isCanonical",
            overloads: vec![
                global("ip_is_canonical string -> bool", |args| Ok(Value::Bool(args[0].as_str() == Some(parsed(args)?.to_string().as_str())))).costs(
                    |args, _| by_factor(counted_plain(&args[0]), 2.0 * STRING_TRAVERSAL),
                    |call| Some(CallEstimate::cost(call.size(call.args.first()?).by_factor(2.0 * STRING_TRAVERSAL))),
                ),
            ],
        },
        one("isUnspecified", "ip_is_unspecified net.IP -> bool", |args| Ok(Value::Bool(ip(args, 0)?.is_unspecified()))),
        one("isLoopback", "ip_is_loopback net.IP -> bool", |args| Ok(Value::Bool(ip(args, 0)?.is_loopback()))),
        one("isLinkLocalMulticast", "ip_is_link_local_multicast net.IP -> bool", |args| Ok(Value::Bool(is_link_local_multicast(ip(args, 0)?)))),
        one("isLinkLocalUnicast", "ip_is_link_local_unicast net.IP -> bool", |args| Ok(Value::Bool(is_link_local_unicast(ip(args, 0)?)))),
        one("isGlobalUnicast", "ip_is_global_unicast net.IP -> bool", |args| Ok(Value::Bool(is_global_unicast(ip(args, 0)?)))),
        Function {
            name: "isIP",
            overloads: vec![global("is_ip string -> bool", |args| Ok(Value::Bool(parsed(args).is_ok()))).costs(costs::read_first, costs::read_first_estimate)],
        },
        Function { name: "string", overloads: vec![global("ip_to_string net.IP -> string", |args| Ok(Value::text(ip(args, 0)?.to_string())))] },
    ];
    library
}

pub fn networks() -> Library {
    let one = |name, row: &'static str, run: Run| Function { name, overloads: vec![member(row, run).costs(costs::nominal, costs::nominal_estimate)] };
    let within: CallCost = |args, _| by_factor(counted_plain(&args[0]).saturating_mul(2), STRING_TRAVERSAL);
    let mut library = Library::new("kubernetes.net.cidr", Version(30));
    library.types = vec![(CIDR, Type::opaque(CIDR))];
    library.functions = vec![
        Function {
            name: "cidr",
            overloads: vec![
                global("string_to_cidr string -> net.CIDR", |args| parsed_cidr(&args[0]).map(Value::opaque))
                    .costs(costs::read_first, costs::read_first_estimate),
            ],
        },
        Function {
            name: "containsIP",
            overloads: vec![
                member("cidr_contains_ip_string net.CIDR string -> bool", |args| {
                    contains_ip(args, parsed(&args[1..]).map_err(|_| EvalError::no_such_overload())?)
                })
                .costs(
                    |args, _| within_cost(args).saturating_add(by_factor(counted_plain(&args[1]), STRING_TRAVERSAL)),
                    |call| Some(CallEstimate::cost(within_estimate().plus(call.size(call.args.first()?).by_factor(STRING_TRAVERSAL)))),
                ),
                member("cidr_contains_ip_ip net.CIDR net.IP -> bool", |args| contains_ip(args, ip(args, 1)?))
                    .costs(within, |_| Some(CallEstimate::cost(within_estimate()))),
            ],
        },
        Function {
            name: "containsCIDR",
            overloads: vec![
                member("cidr_contains_cidr_string net.CIDR string -> bool", |args| contains_cidr(args, parsed_cidr(&args[1])?)).costs(
                    |args, _| masked_cost(args).saturating_add(by_factor(counted_plain(&args[1]), STRING_TRAVERSAL)),
                    |call| Some(CallEstimate::cost(masked_estimate().plus(call.size(call.args.first()?).by_factor(STRING_TRAVERSAL)))),
                ),
                member("cidr_contains_cidr net.CIDR net.CIDR -> bool", |args| contains_cidr(args, cidr(args, 1)?))
                    .costs(|args, _| masked_cost(args), |_| Some(CallEstimate::cost(masked_estimate()))),
            ],
        },
        Function {
            name: "ip",
            overloads: vec![member("cidr_ip net.CIDR -> net.IP", |args| Ok(Value::opaque(Ip(cidr(args, 0)?.address)))).costs(ip_cost, costs::nominal_estimate)],
        },
        one("prefixLength", "cidr_prefix_length net.CIDR -> int", |args| Ok(Value::Int(cidr(args, 0)?.bits.into()))),
        one("masked", "cidr_masked net.CIDR -> net.CIDR", |args| {
            let Cidr { address, bits } = cidr(args, 0)?;
            Ok(Value::opaque(Cidr { address: masked(address, bits), bits }))
        }),
        Function {
            name: "isCIDR",
            overloads: vec![
                global("is_cidr string -> bool", |args| Ok(Value::Bool(parsed_cidr(&args[0]).is_ok()))).costs(costs::read_first, costs::read_first_estimate),
            ],
        },
        Function {
            name: "string",
            overloads: vec![global("cidr_to_string net.CIDR -> string", |args| Ok(cidr(args, 0)?.text().map_or(Value::Null, Value::text)))],
        },
    ];
    library
}

/// `ip`: reading a text, or a field of a network.
fn ip_cost(args: &[Value<'_>], _result: &Value<'_>) -> u64 {
    if matches!(&args[0], Value::Opaque(_)) { 1 } else { by_factor(counted_plain(&args[0]), STRING_TRAVERSAL) }
}

fn ip_estimate(call: &EstimatedCall<'_>) -> Option<CallEstimate> {
    costs::read_first_estimate(call)
}

/// The prefix compared.
fn within_cost(args: &[Value<'_>]) -> u64 {
    by_factor(counted_plain(&args[0]).saturating_mul(2), STRING_TRAVERSAL)
}

fn within_estimate() -> Cost {
    ADDRESS.plus(ADDRESS).by_factor(STRING_TRAVERSAL)
}

/// The prefix compared, and masked before.
fn masked_cost(args: &[Value<'_>]) -> u64 {
    within_cost(args).saturating_add(by_factor(counted_plain(&args[0]), STRING_TRAVERSAL)).saturating_add(1)
}

fn masked_estimate() -> Cost {
    within_estimate().plus(ADDRESS.by_factor(STRING_TRAVERSAL)).plus(Cost::fixed(1))
}

fn ip(args: &[Value<'_>], at: usize) -> Result<IpAddr, EvalError> {
    args.get(at).and_then(|arg| arg.as_opaque::<Ip>()).map(|ip| ip.0).ok_or_else(EvalError::no_such_overload)
}

fn cidr(args: &[Value<'_>], at: usize) -> Result<Cidr, EvalError> {
    args.get(at).and_then(|arg| arg.as_opaque::<Cidr>()).copied().ok_or_else(EvalError::no_such_overload)
}

/// The first argument as an address.
fn parsed(args: &[Value<'_>]) -> Result<IpAddr, EvalError> {
    let text = args.first().and_then(Value::as_str).ok_or_else(EvalError::no_such_overload)?;
    let (address, zone) =
        parse(text).map_err(|error| EvalError::of(format!("IP Address {} parse error during conversion from string: {error}", quote(text))))?;
    if zone {
        return Err(EvalError::of(format!("IP address {} with zone value is not allowed", quote(text))));
    }
    if is_mapped(address) {
        return Err(EvalError::of(format!("IPv4-mapped IPv6 address {} is not allowed", quote(text))));
    }
    Ok(address)
}

fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some())
}

fn parsed_cidr(value: &Value<'_>) -> Result<Cidr, EvalError> {
    let text = value.as_str().ok_or_else(EvalError::no_such_overload)?;
    let wrong = |error: String| EvalError::of(format!("network address parse error during conversion from string: {error}"));
    let prefix = |what: &str| wrong(format!("network address parse error during conversion from string: netip.ParsePrefix({}): {what}", quote(text)));
    let (address, bits) = text.rsplit_once('/').ok_or_else(|| prefix("no '/'"))?;
    let (address, zone) = parse(address).map_err(|error| prefix(&error))?;
    if zone {
        return Err(prefix("IPv6 zones cannot be present in a prefix"));
    }
    let bad = || prefix(&format!("bad bits after slash: {}", quote(bits)));
    if bits.len() > 1 && !matches!(bits.as_bytes()[0], b'1'..=b'9') {
        return Err(bad());
    }
    let length: u64 = bits.parse().map_err(|_| bad())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = u8::try_from(length).ok().filter(|bits| *bits <= most).ok_or_else(|| prefix("prefix length out of range"))?;
    if is_mapped(address) {
        return Err(wrong(format!("IPv4-mapped IPv6 address {} is not allowed", quote(text))));
    }
    Ok(Cidr { address, bits })
}

fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from(u32::from(address) & u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0))),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) & u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0))),
    }
}

fn contains_ip<'v>(args: &[Value<'v>], address: IpAddr) -> Result<Value<'v>, EvalError> {
    let network = cidr(args, 0)?;
    let same = network.address.is_ipv4() == address.is_ipv4() && masked(network.address, network.bits) == masked(address, network.bits);
    Ok(Value::Bool(same))
}

fn contains_cidr<'v>(args: &[Value<'v>], inner: Cidr) -> Result<Value<'v>, EvalError> {
    let outer = cidr(args, 0)?;
    let same = outer.address.is_ipv4() == inner.address.is_ipv4() && outer.bits <= inner.bits;
    Ok(Value::Bool(same && masked(outer.address, outer.bits) == masked(inner.address, outer.bits)))
}

fn is_link_local_multicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[..3] == [224, 0, 0],
        IpAddr::V6(address) => address.segments()[0] & 0xff0f == 0xff02,
    }
}

fn is_link_local_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.segments()[0] & 0xffc0 == 0xfe80,
    }
}

fn is_global_unicast(address: IpAddr) -> bool {
    let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    !broadcast && !address.is_unspecified() && !address.is_loopback() && !address.is_multicast() && !is_link_local_unicast(address)
}

/// `netip.ParseAddr`: the address, and whether it has a zone.
pub(super) fn parse(text: &str) -> Result<(IpAddr, bool), String> {
    let wrong = |what: &str| format!("ParseAddr({}): {what}", quote(text));
    match text.find(['.', ':', '%']).map(|at| text.as_bytes()[at]) {
        Some(b'.') => v4(text, text).map(|address| (IpAddr::V4(address), false)),
        Some(b':') => {
            let (address, zone) = text.split_once('%').map_or((text, None), |(address, zone)| (address, Some(zone)));
            if zone == Some("") {
                return Err(wrong("zone must be a non-empty string"));
            }
            v6(text, address).map(|address| (IpAddr::V6(address), zone.is_some()))
        }
        Some(_) => Err(wrong("missing IPv6 address")),
        None => Err(wrong("unable to parse IP")),
    }
}

/// An address of version 4, which is a part of the text that errors show.
fn v4(whole: &str, text: &str) -> Result<Ipv4Addr, String> {
    let wrong = |what: &str, at: &str| {
        let place = if at.is_empty() { String::new() } else { format!(" (at {})", quote(at)) };
        Err(format!("ParseAddr({}): {what}{place}", quote(whole)))
    };
    let mut fields = [0u8; 4];
    let (mut field, mut value, mut digits) = (0, 0u32, 0);
    let bytes = text.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'0'..=b'9' => {
                if digits == 1 && value == 0 {
                    return wrong("IPv4 field has octet with leading zero", "");
                }
                value = value * 10 + u32::from(byte - b'0');
                digits += 1;
                if value > 255 {
                    return wrong("IPv4 field has value >255", "");
                }
            }
            b'.' => {
                if at == 0 || at + 1 == bytes.len() || bytes[at - 1] == b'.' {
                    return wrong("IPv4 field must have at least one digit", &text[at..]);
                }
                if field == 3 {
                    return wrong("IPv4 address too long", "");
                }
                fields[field] = value as u8;
                (field, value, digits) = (field + 1, 0, 0);
            }
            _ => return wrong("unexpected character", text.get(at..).unwrap_or_default()),
        }
    }
    if field < 3 {
        return wrong("IPv4 address too short", "");
    }
    fields[3] = value as u8;
    Ok(Ipv4Addr::from(fields))
}

fn v6(whole: &str, text: &str) -> Result<Ipv6Addr, String> {
    let wrong = |what: &str, at: &str| {
        let place = if at.is_empty() { String::new() } else { format!(" (at {})", quote(at)) };
        Err(format!("ParseAddr({}): {what}{place}", quote(whole)))
    };
    let mut groups: Vec<u8> = Vec::with_capacity(16);
    let mut ellipsis = None;
    let mut rest = text;
    if let Some(after) = rest.strip_prefix("::") {
        ellipsis = Some(0);
        rest = after;
        if rest.is_empty() {
            return Ok(Ipv6Addr::UNSPECIFIED);
        }
    }
    while groups.len() < 16 {
        let digits = rest.bytes().take_while(u8::is_ascii_hexdigit).count();
        match digits {
            0 => return wrong("each colon-separated field must have at least one digit", rest),
            1..=4 => {}
            _ => return wrong("each group must have 4 or less digits", rest),
        }
        if rest[digits..].starts_with('.') {
            if ellipsis.is_none() && groups.len() != 12 {
                return wrong("embedded IPv4 address must replace the final 2 fields of the address", rest);
            }
            if groups.len() + 4 > 16 {
                return wrong("too many hex fields to fit an embedded IPv4 at the end of the address", rest);
            }
            groups.extend(v4(whole, rest)?.octets());
            rest = "";
            break;
        }
        let group = u16::from_str_radix(&rest[..digits], 16).unwrap_or_default();
        groups.extend(group.to_be_bytes());
        rest = &rest[digits..];
        if rest.is_empty() {
            break;
        }
        match rest.strip_prefix(':') {
            None => return wrong("unexpected character, want colon", rest),
            Some("") => return wrong("colon must be followed by more characters", rest),
            Some(after) => rest = after,
        }
        if let Some(after) = rest.strip_prefix(':') {
            if ellipsis.is_some() {
                return wrong("multiple :: in address", rest);
            }
            ellipsis = Some(groups.len());
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
    }
    if !rest.is_empty() {
        return wrong("trailing garbage after address", rest);
    }
    match (ellipsis, 16 - groups.len()) {
        (None, 0) => {}
        (None, _) => return wrong("address string too short", ""),
        (Some(_), 0) => return wrong("the :: must expand to at least one field of zeros", ""),
        (Some(at), missing) => _ = groups.splice(at..at, std::iter::repeat_n(0, missing)),
    }
    let octets: [u8; 16] = groups.try_into().unwrap_or_default();
    Ok(Ipv6Addr::from(octets))
}
