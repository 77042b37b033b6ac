//! URLs (`kubernetes.urls`), read as Go's `net/url` reads them, with its errors.

use std::collections::BTreeMap;

use super::{costs, global, ip, member};
use crate::decl::Run;
use crate::decl::{Function, Library};
use crate::error::EvalError;
use crate::gotext::quote;
use crate::value::{Entries, Key, Map, Opaque, Text, Value};
use crate::version::Version;

const NAME: &str = "kubernetes.URL";

/// A URL. Paths and queries may hold any bytes once their escapes are read.
#[derive(Debug, Clone, Default)]
struct Url {
    scheme: String,
    /// What follows the scheme where that is no path.
    opaque: String,
    user: Option<String>,
    host: Vec<u8>,
    /// A path behind a scheme without a host.
    no_host: bool,
    path: Vec<u8>,
    /// The path as it was written, where that is not how it would be written.
    raw_path: String,
    has_query: bool,
    query: String,
    fragment: String,
}

/// What a part of a URL may hold as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    User,
    Host,
    Zone,
    Path,
    Query,
    Fragment,
}

impl Opaque for Url {
    fn type_name(&self) -> &'static str {
        NAME
    }

    fn equals(&self, other: &Value<'_>) -> Result<bool, EvalError> {
        other.as_opaque::<Url>().map(|other| self.whole() == other.whole()).ok_or_else(EvalError::no_such_overload)
    }
}

pub fn library() -> Library {
    let of = |name, row: &'static str, run: Run| Function { name, overloads: vec![member(row, run).costs(costs::nominal, costs::nominal_estimate)] };
    let mut library = Library::new("kubernetes.urls", Version::FIRST);
    library.functions = vec![
        Function {
            name: "url",
            overloads: vec![global("string_to_url string -> kubernetes.URL", from_text).costs(costs::read_first, costs::read_first_sized)],
        },
        of("getScheme", "url_get_scheme kubernetes.URL -> string", |args| Ok(Value::text(&*get(args)?.scheme))),
        of("getHost", "url_get_host kubernetes.URL -> string", |args| Ok(lossy(&get(args)?.host))),
        of("getHostname", "url_get_hostname kubernetes.URL -> string", |args| Ok(lossy(get(args)?.host_and_port().0))),
        of("getPort", "url_get_port kubernetes.URL -> string", |args| Ok(lossy(get(args)?.host_and_port().1))),
        of("getEscapedPath", "url_get_escaped_path kubernetes.URL -> string", |args| Ok(Value::text(get(args)?.escaped_path()))),
        of("getQuery", "url_get_query kubernetes.URL -> map(string,list(string))", |args| Ok(get(args)?.parameters())),
        Function {
            name: "isURL",
            overloads: vec![global("is_url_string string -> bool", |args| Ok(Value::Bool(parse(args[0].as_str().unwrap_or_default(), true).is_ok())))],
        },
    ];
    library
}

fn get<'a>(args: &'a [Value<'_>]) -> Result<&'a Url, EvalError> {
    args.first().and_then(|arg| arg.as_opaque()).ok_or_else(EvalError::no_such_overload)
}

fn lossy<'v>(bytes: &[u8]) -> Value<'v> {
    Value::text(String::from_utf8_lossy(bytes))
}

fn from_text<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    let text = args[0].as_str().unwrap_or_default();
    let wrong = |shown: &str, error: String| EvalError::of(format!("URL parse error during conversion from string: parse {}: {error}", quote(shown)));
    parse(text, true).map_err(|error| wrong(text, error))?;
    // Only now the fragment is told apart.
    let (before, fragment) = text.split_once('#').unwrap_or((text, ""));
    let mut url = parse(before, false).map_err(|error| wrong(before, error))?;
    unescape(fragment, Part::Fragment).map_err(|error| wrong(text, error))?;
    url.fragment = fragment.to_owned();
    Ok(Value::opaque(url))
}

/// Why a text is no URL (Go's `url.Parse`); none where it is one.
pub fn problem(text: &str) -> Option<String> {
    let (before, fragment) = text.split_once('#').unwrap_or((text, ""));
    let wrong = |shown: &str, error: String| format!("parse {}: {error}", quote(shown));
    if let Err(error) = parse(before, false) {
        return Some(wrong(before, error));
    }
    unescape(fragment, Part::Fragment).err().map(|error| wrong(text, error))
}

/// Why a text is no URI, as validation says it; none where it is one.
pub(super) fn request_uri_error(text: &str) -> Option<String> {
    parse(text, true).err().map(|error| format!("parse {}: {error}", quote(text)))
}

/// Reads a URL without a fragment; one of a request must be absolute.
fn parse(text: &str, request: bool) -> Result<Url, String> {
    if text.bytes().any(|c| c < b' ' || c == 0x7f) {
        return Err("net/url: invalid control character in URL".to_owned());
    }
    if text.is_empty() && request {
        return Err("empty url".to_owned());
    }
    let mut url = Url::default();
    if text == "*" {
        url.path = b"*".to_vec();
        return Ok(url);
    }
    let (scheme, mut rest) = scheme(text)?;
    url.scheme = scheme.to_lowercase();
    if let Some(path) = rest.strip_suffix('?')
        && !path.contains('?')
    {
        (url.has_query, rest) = (true, path);
    } else if let Some((path, query)) = rest.split_once('?') {
        (url.has_query, url.query, rest) = (!query.is_empty(), query.to_owned(), path);
    }
    if !rest.starts_with('/') {
        if !url.scheme.is_empty() {
            url.opaque = rest.to_owned();
            return Ok(url);
        }
        if request {
            return Err("invalid URI for request".to_owned());
        }
        if rest.split('/').next().is_some_and(|segment| segment.contains(':')) {
            return Err("first path segment in URL cannot contain colon".to_owned());
        }
    }
    match rest.strip_prefix("//") {
        Some(after) if !url.scheme.is_empty() || !request && !rest.starts_with("///") => {
            let end = after.find('/').unwrap_or(after.len());
            authority(&mut url, &after[..end])?;
            rest = &after[end..];
        }
        _ => url.no_host = !url.scheme.is_empty() && rest.starts_with('/'),
    }
    url.path = unescape(rest, Part::Path)?;
    if escape(&url.path, Part::Path) != rest {
        url.raw_path = rest.to_owned();
    }
    Ok(url)
}

/// The scheme, and what is behind its colon.
fn scheme(text: &str) -> Result<(&str, &str), String> {
    for (at, c) in text.bytes().enumerate() {
        match c {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return Err("missing protocol scheme".to_owned()),
            b':' => return Ok((&text[..at], &text[at + 1..])),
            _ => break,
        }
    }
    Ok(("", text))
}

fn authority(url: &mut Url, text: &str) -> Result<(), String> {
    let (user, host) = text.rsplit_once('@').map_or((None, text), |(user, host)| (Some(user), host));
    url.host = self::host(&url.scheme, host)?;
    let Some(user) = user else { return Ok(()) };
    if !user.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&c)) {
        return Err("net/url: invalid userinfo".to_owned());
    }
    let parts: Vec<String> = user.splitn(2, ':').map(|part| unescape(part, Part::User).map(|part| escape(&part, Part::User))).collect::<Result<_, _>>()?;
    url.user = Some(parts.join(":"));
    Ok(())
}

fn host(scheme: &str, text: &str) -> Result<Vec<u8>, String> {
    match text.rfind('[') {
        Some(at) if at > 0 => return Err("invalid IP-literal".to_owned()),
        Some(_) => {
            let end = text.rfind(']').ok_or("missing ']' in host")?;
            let port = &text[end + 1..];
            check_port(port)?;
            let name = &text[1..end];
            let mut address = match name.find("%25") {
                Some(zone) => [unescape(&name[..zone], Part::Host)?, unescape(&name[zone..], Part::Zone)?].concat(),
                None => unescape(name, Part::Host)?,
            };
            match ip::parse(&String::from_utf8_lossy(&address)) {
                Err(error) => return Err(format!("invalid host: {error}")),
                Ok((address, _)) if address.is_ipv4() => return Err("invalid IP-literal".to_owned()),
                Ok(_) => {}
            }
            address.insert(0, b'[');
            address.push(b']');
            address.extend(unescape(port, Part::Host)?);
            return Ok(address);
        }
        None => {}
    }
    if let Some(first) = text.find(':') {
        let last = text.rfind(':').unwrap_or(first);
        // More than one colon is taken for a name of other schemes alone.
        let port = if scheme == "http" || scheme == "https" { first } else { last };
        check_port(&text[port..])?;
    }
    unescape(text, Part::Host)
}

fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|digits| digits.bytes().all(|c| c.is_ascii_digit()))
}

fn check_port(text: &str) -> Result<(), String> {
    if is_port(text) { Ok(()) } else { Err(format!("invalid port {} after host", quote(text))) }
}

/// Whether a byte of a part must be escaped.
fn is_escaped(c: u8, part: Part) -> bool {
    if c.is_ascii_alphanumeric() || b"-_.~".contains(&c) {
        return false;
    }
    match part {
        Part::Host | Part::Zone => !b"!$&'()*+,;=:[]<>\"".contains(&c),
        Part::Path => !b"$&+,/:;=@".contains(&c),
        Part::User => !b"$&+,;=".contains(&c),
        Part::Query => true,
        Part::Fragment => !b"$&+,/:;=?@!()*".contains(&c),
    }
}

fn escape(bytes: &[u8], part: Part) -> String {
    let mut out = String::with_capacity(bytes.len());
    for byte in bytes {
        if is_escaped(*byte, part) {
            out.push_str(&format!("%{byte:02X}"));
        } else {
            out.push(char::from(*byte));
        }
    }
    out
}

fn unescape(text: &str, part: Part) -> Result<Vec<u8>, String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let digit = |at: usize| bytes.get(at).and_then(|c| char::from(*c).to_digit(16));
    let wrong = |from: usize| {
        let shown = bytes.get(from..bytes.len().min(from + 3)).unwrap_or_default();
        Err(format!("invalid URL escape {}", quote(&String::from_utf8_lossy(shown))))
    };
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let (Some(high), Some(low)) = (digit(at + 1), digit(at + 2)) else { return wrong(at) };
                let byte = (high * 16 + low) as u8;
                match part {
                    // Of a host only bytes beyond ASCII are escaped, and the sign before a zone.
                    Part::Host if high < 8 && byte != b'%' => return wrong(at),
                    Part::Zone if byte != b'%' && byte != b' ' && is_escaped(byte, Part::Host) => return wrong(at),
                    _ => {}
                }
                out.push(byte);
                at += 3;
                continue;
            }
            b'+' if part == Part::Query => out.push(b' '),
            c if matches!(part, Part::Host | Part::Zone) && c < 0x80 && is_escaped(c, part) => {
                return Err(format!("invalid character {} in host name", quote(&char::from(c).to_string())));
            }
            c => out.push(c),
        }
        at += 1;
    }
    Ok(out)
}

impl Url {
    fn escaped_path(&self) -> String {
        let written = |c: u8| b"!$&'()*+,;=:@[]%".contains(&c) || !is_escaped(c, Part::Path);
        if !self.raw_path.is_empty() && self.raw_path.bytes().all(written) {
            return self.raw_path.clone();
        }
        if self.path == b"*" { "*".to_owned() } else { escape(&self.path, Part::Path) }
    }

    fn host_and_port(&self) -> (&[u8], &[u8]) {
        let colon = self.host.iter().rposition(|c| *c == b':');
        let (host, port) = match colon {
            Some(at) if self.host[at + 1..].iter().all(u8::is_ascii_digit) => (&self.host[..at], &self.host[at + 1..]),
            _ => (self.host.as_slice(), &[][..]),
        };
        match host {
            [b'[', inner @ .., b']'] => (inner, port),
            _ => (host, port),
        }
    }

    /// The parameters of the query; what is none is left out.
    fn parameters<'v>(&self) -> Value<'v> {
        let mut all: BTreeMap<String, Vec<Value<'v>>> = BTreeMap::new();
        for pair in self.query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if let (Ok(key), Ok(value)) = (unescape(key, Part::Query), unescape(value, Part::Query)) {
                all.entry(String::from_utf8_lossy(&key).into_owned()).or_default().push(lossy(&value));
            }
        }
        let entries: Entries<'v> = all.into_iter().map(|(key, values)| (Key::String(Text::Shared(key.into())), Value::list(values))).collect();
        Value::Map(Map::of(entries))
    }

    /// The URL as a text: what equality compares.
    fn whole(&self) -> String {
        let mut out = String::new();
        if !self.scheme.is_empty() {
            out = format!("{}:", self.scheme);
        }
        if self.opaque.is_empty() {
            let path = self.escaped_path();
            let has_authority = !self.host.is_empty() || self.user.is_some();
            if has_authority || (!self.scheme.is_empty() && !self.no_host && !path.is_empty()) {
                out.push_str("//");
            }
            if let Some(user) = &self.user {
                out.push_str(user);
                out.push('@');
            }
            out.push_str(&escape(&self.host, Part::Host));
            if !path.is_empty() && !path.starts_with('/') && !self.host.is_empty() {
                out.push('/');
            }
            out.push_str(&path);
        } else {
            out.push_str(&self.opaque);
        }
        if self.has_query {
            out.push('?');
            out.push_str(&self.query);
        }
        if !self.fragment.is_empty() {
            out.push('#');
            out.push_str(&unescape(&self.fragment, Part::Fragment).map(|fragment| escape(&fragment, Part::Fragment)).unwrap_or_default());
        }
        out
    }
}
