//! Errors of the network, and of answers that are not what they should be, in the words of Go's standard library.

use machinery::{Value, quote::Quoted, tree::json_type};
use rustls::{AlertDescription, Error as Tls, InvalidMessage};
use std::{
    error::Error as _,
    fmt::Write as _,
    io::{self, ErrorKind},
    net::SocketAddr,
};

/// An end where something was waited for.
pub(crate) const EOF: &str = "EOF";
/// An end before the announced one.
pub(crate) const EARLY_EOF: &str = "unexpected EOF";
/// A connection of HTTP/2 whose other side was silent for too long.
pub(crate) const LOST: &str = "http2: client connection lost";

/// A name that has no address.
pub(crate) fn of_lookup(host: &str, error: &io::Error) -> String {
    let server = std::fs::read_to_string("/etc/resolv.conf").ok().and_then(|text| dial::Conf::parse(&text).servers.first().copied());
    let mut out = format!("dial tcp: lookup {host}");
    if let Some(server) = server {
        let _ = write!(out, " on {server}");
    }
    match error.kind() {
        ErrorKind::NotFound => out.push_str(": no such host"),
        ErrorKind::TimedOut => out.push_str(": i/o timeout"),
        // It is the server of names that is not reached then.
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => {
            let why = if error.kind() == ErrorKind::HostUnreachable { "no route to host" } else { "network is unreachable" };
            if let Some(server) = server {
                let _ = write!(out, ": dial udp {server}");
            }
            let _ = write!(out, ": connect: {why}");
        }
        _ => {
            let _ = write!(out, ": {error}");
        }
    }
    out
}

/// An address that takes no connection.
pub(crate) fn of_dial(address: SocketAddr, error: &io::Error) -> String {
    let why = match error.kind() {
        ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        ErrorKind::ConnectionReset => "connect: connection reset by peer".to_owned(),
        ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => format!("connect: {error}"),
    };
    format!("dial tcp {address}: {why}")
}

/// A handshake that failed.
pub(crate) fn of_tls(error: &io::Error) -> String {
    let Some(inner) = error.get_ref().and_then(|inner| inner.downcast_ref::<Tls>()) else { return of_io(error) };
    match inner {
        // What this server's own verifier says of a certificate.
        Tls::General(why) => format!("tls: failed to verify certificate: {why}"),
        Tls::InvalidMessage(InvalidMessage::InvalidContentType) => "http: server gave HTTP response to HTTPS client".to_owned(),
        Tls::AlertReceived(alert) => format!("remote error: tls: {}", alert_text(*alert)),
        Tls::InvalidMessage(_) => "tls: first record does not look like a TLS handshake".to_owned(),
        other => format!("tls: {other}"),
    }
}

fn alert_text(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::BadCertificate => "bad certificate".into(),
        AlertDescription::CertificateExpired => "expired certificate".into(),
        AlertDescription::CertificateRequired => "certificate required".into(),
        AlertDescription::CertificateRevoked => "revoked certificate".into(),
        AlertDescription::CertificateUnknown => "unknown certificate".into(),
        AlertDescription::HandshakeFailure => "handshake failure".into(),
        AlertDescription::InternalError => "internal error".into(),
        AlertDescription::NoApplicationProtocol => "no application protocol".into(),
        AlertDescription::ProtocolVersion => "protocol version not supported".into(),
        AlertDescription::UnknownCA => "unknown certificate authority".into(),
        AlertDescription::UnrecognisedName => "unrecognized name".into(),
        AlertDescription::UnsupportedCertificate => "unsupported certificate".into(),
        other => format!("alert({})", u8::from(other)),
    }
}

fn of_io(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::UnexpectedEof => EOF.into(),
        ErrorKind::ConnectionReset => "read: connection reset by peer".into(),
        ErrorKind::BrokenPipe => "write: broken pipe".into(),
        _ => error.to_string(),
    }
}

/// An exchange of HTTP that failed.
pub(crate) fn of_http(error: &hyper::Error) -> String {
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        return EOF.into();
    }
    if let Some(io) = error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
        return match io.get_ref().and_then(|inner| inner.downcast_ref::<Tls>()) {
            Some(_) => of_tls(io),
            None => of_io(io),
        };
    }
    if error.is_parse() { "net/http: HTTP/1.x transport connection broken: malformed HTTP response".into() } else { error.to_string() }
}

/// A call of HTTP/2 that failed; `id` is its stream's.
pub(crate) fn of_two(error: &h2::Error, id: Option<h2::StreamId>) -> String {
    if let Some(io) = error.get_io() {
        return match io.get_ref().and_then(|inner| inner.downcast_ref::<Tls>()) {
            Some(_) => of_tls(io),
            // The library's own word for an end is a broken pipe.
            None if matches!(io.kind(), ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe) => EARLY_EOF.into(),
            None => of_io(io),
        };
    }
    match (error.reason(), id) {
        (Some(reason), Some(id)) if error.is_reset() => {
            let by = if error.is_remote() { "; received from peer" } else { "" };
            format!("stream error: stream ID {}; {reason:?}{by}", id.as_u32())
        }
        (Some(reason), _) if error.is_go_away() && error.is_remote() => format!("http2: server sent GOAWAY and closed the connection; ErrCode={reason:?}"),
        _ => error.to_string(),
    }
}

/// The tree of an answer. Client-go's readers try it as JSON if it begins as an object does, and as YAML otherwise.
pub(crate) fn tree(body: &[u8]) -> Result<Value, String> {
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return machinery::yaml::tree(body);
    }
    machinery::json::read(body).map_err(|error| {
        let why = machinery::json::syntax_error(body).unwrap_or_else(|| error.to_string());
        format!("couldn't get version/kind; json parse error: {why}")
    })
}

/// A kind that upstream's readers do not know.
pub(crate) fn unregistered(kind: &str, version: &str) -> String {
    format!("no kind {} is registered for version {} in scheme \"pkg/runtime/scheme.go:111\"", Quoted(kind), Quoted(version))
}

/// What does not say what it is by texts, where a kind was looked for.
pub(crate) fn untold(object: &Value) -> Option<String> {
    ["apiVersion", "kind"].into_iter().find_map(|field| match &object[field] {
        Value::Null | Value::String(_) => None,
        found => {
            let found = json_type(found);
            Some(format!("couldn't get version/kind; json parse error: json: cannot unmarshal {found} into Go struct field .{field} of type string"))
        }
    })
}

/// An answer that is no object, where a kind was looked for.
pub(crate) fn no_object(found: &Value) -> String {
    format!(
        "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}",
        json_type(found)
    )
}
