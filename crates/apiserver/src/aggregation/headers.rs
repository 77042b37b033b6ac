//! What a request that is passed on says of who asks and where it came from, and how its address is written (upstream:
//! `client-go/transport`, `apimachinery/util/proxy`, Go's `net/url`).

use crate::{hooks, meta, query, server::AUDIT_ID};
use http::{HeaderMap, HeaderName, HeaderValue, Response, Uri, header};
use identity::{RequestHeaders, User};
use std::{fmt::Write as _, net::IpAddr};

const USER: &str = "x-remote-user";
const UID: &str = "x-remote-uid";
const GROUP: &str = "x-remote-group";
const EXTRA: &str = "x-remote-extra-";

/// Takes away all that says who asks: what a client says of it is not to be believed behind this server.
pub(crate) fn strip(headers: &mut HeaderMap, known: &RequestHeaders) {
    let told: Vec<HeaderName> = headers.keys().filter(|name| known.says(name.as_str())).cloned().collect();
    for name in told {
        headers.remove(name);
    }
}

/// Says who asks, and nothing else of the kind.
pub(crate) fn tell(headers: &mut HeaderMap, known: &RequestHeaders, user: &User) {
    strip(headers, known);
    let mut add = |name: &str, text: &str| {
        // Neither a line's end nor anything else that is no part of a header can come from a user that somebody has proved to be.
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(text.as_bytes())) {
            headers.append(name, value);
        }
    };
    add(USER, &user.name);
    if !user.uid.is_empty() {
        add(UID, &user.uid);
    }
    for group in &user.groups {
        add(GROUP, group);
    }
    for (key, values) in &user.extra {
        let name = format!("{EXTRA}{}", escaped_key(key));
        for value in values {
            add(&name, value);
        }
    }
}

/// A key as part of a header's name.
fn escaped_key(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'!' | b'#' | b'$' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~' => out.push(byte as char),
            byte if byte.is_ascii_alphanumeric() => out.push(byte as char),
            byte => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

/// The user that the front proxy's headers name; none if they name nobody. Whether it is the front proxy who says so is for the
/// caller to know.
pub(crate) fn named(headers: &HeaderMap, known: &RequestHeaders) -> Option<User> {
    let said = headers.iter().filter(|(name, _)| known.says(name.as_str()));
    let said: Vec<(&str, String)> = said.map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect();
    known.user(&said, |key| query::percent_decode(key).into_owned())
}

/// Says by which way the request came.
pub(crate) fn forwarded(headers: &mut HeaderMap, client: Option<IpAddr>, host: &str, path: &str) {
    let mut set = |name: &'static str, text: &str| {
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(name, value);
        }
    };
    set("x-forwarded-uri", &hooks::joined_whole(path));
    set("x-forwarded-host", host);
    set("x-forwarded-proto", "https");
    came_from(headers, client);
}

/// Adds who is before us to those through whom the request came.
pub(crate) fn came_from(headers: &mut HeaderMap, client: Option<IpAddr>) {
    const FOR: &str = "x-forwarded-for";
    let Some(client) = client else { return };
    let before = headers.get_all(FOR).iter().filter_map(|value| value.to_str().ok());
    let all = before.map(str::to_owned).chain([client.to_string()]).collect::<Vec<_>>().join(", ");
    if let Ok(value) = HeaderValue::from_str(&all) {
        headers.insert(FOR, value);
    }
}

/// The answer's cache control: ours and the other server's.
pub(crate) fn cached(headers: &mut HeaderMap) {
    ours_first(headers, &header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
}

/// The name of a request, which the other server is told: the one that its sender gave it, or a new one.
pub(crate) fn identify(headers: &mut HeaderMap) -> Option<HeaderValue> {
    let given = headers.get(AUDIT_ID).filter(|id| !id.is_empty()).cloned();
    let id = given.or_else(|| HeaderValue::from_str(&meta::uuid()).ok())?;
    headers.insert(AUDIT_ID, id.clone());
    Some(id)
}

/// An answer with the name of its request. The other server may have named it, too.
pub(crate) fn identified<B>(mut response: Response<B>, id: Option<HeaderValue>) -> Response<B> {
    if let Some(id) = id {
        ours_first(response.headers_mut(), &AUDIT_ID, id);
    }
    response
}

/// A header of both: ours and the other server's, in the original's order.
fn ours_first(headers: &mut HeaderMap, name: &HeaderName, ours: HeaderValue) {
    let theirs: Vec<HeaderValue> = headers.get_all(name).iter().cloned().collect();
    headers.insert(name.clone(), ours);
    for value in theirs {
        headers.append(name.clone(), value);
    }
}

/// `HOST:PORT` as it is written in a URL.
pub(crate) fn joined((host, port): &(String, u16)) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Path and query as Go writes them anew: each byte of the path escaped or not by its own rule, the query sorted by its keys and
/// without what cannot be read.
pub(crate) fn target(uri: &Uri) -> String {
    let mut out = in_path(&unescaped(uri.path(), false).unwrap_or_else(|| uri.path().as_bytes().to_vec()));
    let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if let (Some(key), Some(value)) = (unescaped(key, true), unescaped(value, true)) {
            pairs.push((key, value));
        }
    }
    // A stable sort: the values of one key keep their order.
    pairs.sort_by(|a, b| a.0.cmp(&b.0));
    for (at, (key, value)) in pairs.iter().enumerate() {
        out.push(if at == 0 { '?' } else { '&' });
        in_query(&mut out, key);
        out.push('=');
        in_query(&mut out, value);
    }
    out
}

/// A path as Go's `URL.EscapedPath` writes it.
pub(crate) fn in_path(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 16);
    for byte in bytes {
        match byte {
            b'-' | b'_' | b'.' | b'~' | b'$' | b'&' | b'+' | b',' | b'/' | b':' | b';' | b'=' | b'@' => out.push(*byte as char),
            byte if byte.is_ascii_alphanumeric() => out.push(*byte as char),
            byte => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

fn in_query(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        match byte {
            b' ' => out.push('+'),
            b'-' | b'_' | b'.' | b'~' => out.push(*byte as char),
            byte if byte.is_ascii_alphanumeric() => out.push(*byte as char),
            byte => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
}

/// The bytes that an escaped text stands for; none if an escape is no such.
fn unescaped(text: &str, in_query: bool) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'%' => {
                let (digits, after) = rest.split_at_checked(2)?;
                let digit = |digit: u8| char::from(digit).to_digit(16);
                let value = digit(digits[0])? * 16 + digit(digits[1])?;
                out.push(u8::try_from(value).ok()?);
                rest = after;
            }
            b'+' if in_query => out.push(b' '),
            byte => out.push(*byte),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_told_and_named() {
        let mut headers = HeaderMap::new();
        for (name, value) in [(USER, "evil"), (GROUP, "system:masters"), ("x-remote-extra-a", "b"), (UID, "7")] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let mut user = User { name: "jane".into(), groups: vec!["a".into(), "b".into()], ..User::default() };
        user.extra.insert("example.org/scopes%".into(), vec!["x".into(), "y".into()]);
        tell(&mut headers, &RequestHeaders::default(), &user);
        assert!(!headers.contains_key(UID) && !headers.contains_key("x-remote-extra-a"));
        assert_eq!(headers.get_all("x-remote-extra-example.org%2fscopes%25").iter().count(), 2);
        assert_eq!(named(&headers, &RequestHeaders::default()), Some(user));
        headers.remove(USER);
        assert_eq!(named(&headers, &RequestHeaders::default()), None);
    }

    #[test]
    fn addresses_are_written_as_go_writes_them() {
        let cases = [
            ("/apis/g/v1/a%2Fb%20c?b=2&a=x%20y&b=1&c", "/apis/g/v1/a/b%20c?a=x+y&b=2&b=1&c="),
            ("/apis/g/v1/a:b@c~'", "/apis/g/v1/a:b@c~%27"),
            ("/apis/g/v1/%C3%A4?x=1;y=2&z=%zz&l=a%3Db", "/apis/g/v1/%C3%A4?l=a%3Db"),
        ];
        for (given, written) in cases {
            assert_eq!(target(&given.parse().expect("an address")), written, "{given}");
        }
    }
}
