//! The server's side of a WebSocket's handshake (RFC 6455, section 4.2), with the answers of the original, which are those
//! of golang.org/x/net. It reads and writes headers only: who takes the connection over, and what is spoken on it, is the
//! caller's.

use http::header::{CONNECTION, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The only version that there is.
const VERSION: HeaderValue = HeaderValue::from_static("13");

/// Whether a request asks for another protocol on its connection.
#[must_use]
pub fn upgrade_wanted(headers: &HeaderMap) -> bool {
    listed(headers.get_all(CONNECTION).iter()).any(|option| option.eq_ignore_ascii_case("upgrade"))
}

/// Whether a request asks for a WebSocket.
#[must_use]
pub fn wanted(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket")) && upgrade_wanted(headers)
}

/// The protocols that a client offers, in its order.
pub fn offered(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    listed(headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter()).filter(|protocol| !protocol.is_empty())
}

fn listed<'h>(values: impl Iterator<Item = &'h HeaderValue>) -> impl Iterator<Item = &'h str> {
    values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim)
}

/// The first of the known protocols that a client offers. One that offers none gets "", if that is known.
///
/// # Errors
///
/// Those that it offers are others.
pub fn choose(headers: &HeaderMap, known: &[&'static str]) -> Result<&'static str, Refusal> {
    let find = |wanted: &str| known.iter().find(|k| **k == wanted).copied();
    let mut offered = offered(headers).peekable();
    if offered.peek().is_none() { find("") } else { offered.find_map(find) }.ok_or(Refusal::Protocol)
}

/// The protocol where there are none to choose by: the one that is offered, whatever it is, or "".
///
/// # Errors
///
/// Several are offered.
pub fn sole(headers: &HeaderMap) -> Result<&str, Refusal> {
    let mut offered = offered(headers);
    match (offered.next(), offered.next()) {
        (protocol, None) => Ok(protocol.unwrap_or_default()),
        _ => Err(Refusal::Protocols),
    }
}

/// Asks for an `Origin` without judging it: it must only be a URI.
///
/// # Errors
///
/// There is none, or it is something else.
pub fn origin(headers: &HeaderMap) -> Result<(), Refusal> {
    let named = headers.get(ORIGIN).is_some_and(|origin| origin.to_str().is_ok_and(is_uri));
    if named { Ok(()) } else { Err(Refusal::Origin) }
}

/// What Go's `ParseRequestURI` takes: a path, or a scheme and what follows it.
fn is_uri(text: &str) -> bool {
    let scheme = text.split_once(':').map(|(scheme, _)| scheme).unwrap_or_default();
    let named = scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    match named {
        true if &text[scheme.len()..] == "://" => true,
        true if text[scheme.len()..].starts_with("://") => text.parse::<Uri>().is_ok_and(|uri| {
            let authority = uri.authority().map_or("", |a| a.as_str());
            let port = authority.rsplit_once(':').filter(|(host, _)| !host.contains('[') || host.ends_with(']')).map_or("", |(_, port)| port);
            port.chars().all(|c| c.is_ascii_digit())
        }),
        named => named || text.starts_with('/') || text == "*",
    }
}

/// A handshake that may be answered.
#[derive(Debug)]
pub struct Accepted {
    key: String,
}

/// Looks at what every handshake must have.
///
/// # Errors
///
/// The key is missing, or it is another version's.
pub fn accept(headers: &HeaderMap) -> Result<Accepted, Refusal> {
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|key| !key.is_empty()).map(|key| derive_accept_key(key.as_bytes())).ok_or(Refusal::Key)?;
    if headers.get(SEC_WEBSOCKET_VERSION) == Some(&VERSION) { Ok(Accepted { key }) } else { Err(Refusal::Version) }
}

impl Accepted {
    /// The answer, after which the connection is a WebSocket; a protocol "" is not named.
    #[must_use]
    pub fn answer(&self, protocol: &str) -> Response<()> {
        let mut answer = Response::new(());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = answer.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        for (name, text) in [(SEC_WEBSOCKET_ACCEPT, self.key.as_str()), (SEC_WEBSOCKET_PROTOCOL, protocol)] {
            if let Ok(value) = HeaderValue::from_str(text)
                && !text.is_empty()
            {
                headers.insert(name, value);
            }
        }
        answer
    }
}

/// Why a handshake is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It has no key.
    Key,
    /// It has another version, or none.
    Version,
    /// None of the protocols that it offers is known.
    Protocol,
    /// It offers several where one is wanted.
    Protocols,
    /// It does not say from where it comes.
    Origin,
}

impl Refusal {
    /// The answer.
    #[must_use]
    pub fn answer(self) -> Response<&'static str> {
        let (code, why) = match self {
            Refusal::Key => (StatusCode::BAD_REQUEST, "mismatch challenge/response"),
            Refusal::Version => (StatusCode::BAD_REQUEST, "missing or bad WebSocket Version"),
            Refusal::Protocols => (StatusCode::BAD_REQUEST, ""),
            Refusal::Protocol | Refusal::Origin => (StatusCode::FORBIDDEN, ""),
        };
        let mut answer = Response::new(why);
        *answer.status_mut() = code;
        if self == Refusal::Version {
            answer.headers_mut().insert(SEC_WEBSOCKET_VERSION, VERSION);
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn a_handshake_is_answered_or_told_why_not() {
        // The key and its answer are those of RFC 6455, section 1.3.
        let (key, version) = ((SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="), (SEC_WEBSOCKET_VERSION, "13"));
        let answer = accept(&headers(&[key.clone(), version.clone()])).unwrap().answer("v5.channel.k8s.io");
        assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(answer.headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(answer.headers()[SEC_WEBSOCKET_PROTOCOL], "v5.channel.k8s.io");
        assert!(wanted(answer.headers()), "it answers with what was asked for");
        assert!(!accept(&headers(&[key.clone(), version.clone()])).unwrap().answer("").headers().contains_key(SEC_WEBSOCKET_PROTOCOL));

        for none in [headers(std::slice::from_ref(&version)), headers(&[(SEC_WEBSOCKET_KEY, ""), version])] {
            let refusal = accept(&none).unwrap_err();
            assert_eq!((refusal, *refusal.answer().body()), (Refusal::Key, "mismatch challenge/response"));
        }
        let refusal = accept(&headers(&[key, (SEC_WEBSOCKET_VERSION, "8")])).unwrap_err().answer();
        assert_eq!((refusal.status(), &refusal.headers()[SEC_WEBSOCKET_VERSION]), (StatusCode::BAD_REQUEST, &VERSION));
    }

    #[test]
    fn requests_ask_among_other_things() {
        assert!(wanted(&headers(&[(CONNECTION, "keep-alive, Upgrade"), (UPGRADE, "WebSocket")])));
        assert!(!wanted(&headers(&[(UPGRADE, "websocket")])));
        assert!(!wanted(&headers(&[(CONNECTION, "upgrade"), (UPGRADE, "SPDY/3.1")])));
    }

    #[test]
    fn the_clients_order_of_protocols_counts() {
        let offer = |protocols: &str| headers(&[(SEC_WEBSOCKET_PROTOCOL, protocols)]);
        assert_eq!(choose(&offer("new, b,a"), &["", "a", "b"]), Ok("b"));
        assert_eq!(choose(&offer("new"), &["", "a"]), Err(Refusal::Protocol));
        assert_eq!(choose(&offer(" "), &["", "a"]), Ok(""));
        assert_eq!(choose(&HeaderMap::new(), &["a"]), Err(Refusal::Protocol));
        assert_eq!(sole(&offer("any")), Ok("any"));
        assert_eq!(sole(&HeaderMap::new()), Ok(""));
        assert_eq!(sole(&offer("a, b")), Err(Refusal::Protocols));
    }

    #[test]
    fn origins_are_uris() {
        for good in ["http://localhost:8001", "https://example.com", "/", "chrome-extension:abc", "file://", "http://"] {
            assert_eq!(origin(&headers(&[(ORIGIN, good)])), Ok(()), "{good}");
        }
        for bad in ["", "null", "localhost", "http://a:b", "1:2"] {
            assert_eq!(origin(&headers(&[(ORIGIN, bad)])), Err(Refusal::Origin), "{bad}");
        }
        assert_eq!(origin(&HeaderMap::new()), Err(Refusal::Origin));
    }
}
