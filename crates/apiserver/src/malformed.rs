//! Requests of HTTP/1 that Go's server does not take: they are answered as there, before anything of the API's looks at them.
//!
//! Those that hyper takes are found here ([`refusal`]). Those that hyper cannot read it refuses by itself, without a word, and ends the
//! connection with its error: what Go says to them is said in place of that ([`unread`]). The limits are hyper's: a head has at most
//! 100 headers and some 400 KiB, where Go takes 1 MiB.

use crate::{Body, BoxError, body, query, reply};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Version, header};

/// The answer to a request that is none, or that asks for nothing but what the server can do at all.
pub(crate) fn refusal<B>(request: &Request<B>) -> Option<Response<Body>> {
    let (uri, headers) = (request.uri(), request.headers());
    if request.version() > Version::HTTP_11 {
        return None;
    }
    // A part of an address is no path; of the host alone a tunnel is asked for.
    let is_partial = uri.scheme().is_none() && uri.authority().is_some() && request.method() != Method::CONNECT;
    if is_partial || !query::is_escaped_well(uri.path()) {
        return Some(reply::plain_bad_request(""));
    }
    if request.version() == Version::HTTP_11 && is_encoded_otherwise(headers) {
        return Some(reply::unsupported_encoding());
    }
    if let Some(why) = wrong_host(headers, request.version()) {
        return Some(reply::plain_bad_request(why));
    }
    if headers.get(header::EXPECT).is_some_and(|wanted| !wanted.is_empty() && !wanted.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Some(reply::expectation_failed());
    }
    (request.method() == Method::OPTIONS && uri.path() == "*").then(|| Response::new(body::empty()))
}

/// What is said to a request that hyper could not read, as Go's server writes it on the connection; `None` where it has ended otherwise.
/// `head` is how it began.
pub(crate) fn unread(error: &BoxError, head: &[u8]) -> Option<Bytes> {
    let error = error.downcast_ref::<hyper::Error>().filter(|error| error.is_parse())?;
    let (line, text) = match error.to_string().as_str() {
        _ if error.is_parse_too_large() => ("431 Request Header Fields Too Large", "431 Request Header Fields Too Large"),
        "invalid transfer-encoding parsed" => ("501 Not Implemented", "Unsupported transfer encoding"),
        _ => {
            let told = wrong(&String::from_utf8_lossy(head));
            (told, told)
        }
    };
    Some(format!("HTTP/1.1 {line}\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n{text}").into())
}

/// What is wrong with a head that is none, where Go says it.
fn wrong(head: &str) -> &'static str {
    const WRONG: &str = "400 Bad Request";
    let mut lines = head.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    let version = lines.next().and_then(|line| line.split_once(' ')?.1.split_once(' ')).map_or("", |(_, version)| version);
    let digits = version.strip_prefix("HTTP/").and_then(|numbers| numbers.split_once('.'));
    let (Some((major, minor)), true) = (digits, version.len() == "HTTP/1.1".len()) else { return WRONG };
    if !major.bytes().chain(minor.bytes()).all(|byte| byte.is_ascii_digit()) {
        return WRONG;
    }
    for line in lines.take_while(|line| !line.is_empty()) {
        let Some((name, _)) = line.split_once(':') else { return WRONG };
        // Of the letters that are none of a name's, Go's reader lets a space alone pass; behind one a line goes on with that before it.
        if name.contains(' ') && !line.starts_with([' ', '\t']) {
            return "400 Bad Request: invalid header name";
        }
    }
    if major == "1" { WRONG } else { "505 HTTP Version Not Supported: unsupported protocol version" }
}

/// Whether a body comes in another transfer encoding than `chunked` alone, which is all that Go's server knows.
fn is_encoded_otherwise(headers: &HeaderMap) -> bool {
    let mut encodings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (encodings.next(), encodings.next()) {
        (None, _) => false,
        (Some(encoding), None) => !encoding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => true,
    }
}

/// What is wrong with the header `Host`; nothing more is said where there are several.
fn wrong_host(headers: &HeaderMap, version: Version) -> Option<&'static str> {
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if version == Version::HTTP_11 => Some("missing required Host header"),
        (Some(host), None) if !host.as_bytes().iter().all(|byte| is_of_host(*byte)) => Some("malformed Host header"),
        (Some(_), Some(_)) => Some(""),
        _ => None,
    }
}

/// Whether a byte may stand in a host as Go's `httpguts` takes it.
fn is_of_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!$%&()*+,-.:;='[]_~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;
    use hyper::{body::Incoming, server::conn::http1, service::service_fn};
    use hyper_util::rt::TokioIo;
    use std::convert::Infallible;
    use tokio::io::AsyncWriteExt as _;

    fn code(method: &str, uri: &str, headers: &[(&str, &str)]) -> Option<StatusCode> {
        let request = headers.iter().fold(Request::builder().method(method).uri(uri), |request, (name, value)| request.header(*name, *value));
        refusal(&request.body(()).expect("a request")).map(|response| response.status())
    }

    #[test]
    fn a_request_names_one_host() {
        assert_eq!(code("GET", "/api", &[("host", "a.b:6443")]), None);
        for hosts in [&[][..], &[("host", "a b")], &[("host", "a"), ("host", "b")]] {
            assert_eq!(code("GET", "/api", hosts), Some(StatusCode::BAD_REQUEST), "{hosts:?}");
        }
    }

    #[test]
    fn what_is_no_path_and_what_is_expected_in_vain_is_refused() {
        let host = ("host", "a");
        assert_eq!(code("GET", "api", &[host]), Some(StatusCode::BAD_REQUEST));
        assert_eq!(code("GET", "/api/%zz", &[host]), Some(StatusCode::BAD_REQUEST));
        assert_eq!(code("GET", "/api/%7a?%zz", &[host]), None);
        assert_eq!(code("CONNECT", "api:80", &[host]), None);
        assert_eq!(code("POST", "/api", &[host, ("expect", "100-Continue")]), None);
        assert_eq!(code("POST", "/api", &[host, ("expect", "200-ok")]), Some(StatusCode::EXPECTATION_FAILED));
        assert_eq!(code("OPTIONS", "*", &[host]), Some(StatusCode::OK));
        assert_eq!(code("POST", "/api", &[host, ("transfer-encoding", "Chunked")]), None);
        assert_eq!(code("POST", "/api", &[host, ("transfer-encoding", "gzip, chunked")]), Some(StatusCode::NOT_IMPLEMENTED));
        assert_eq!(code("GET", "*", &[host]), None);
    }

    /// What is said to who sends this.
    async fn said(head: &str) -> String {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        far.write_all(head.as_bytes()).await.unwrap();
        let service = service_fn(|_: Request<Incoming>| async { Ok::<_, Infallible>(Response::new(body::empty())) });
        let error: BoxError = http1::Builder::new().serve_connection(TokioIo::new(near), service).await.unwrap_err().into();
        String::from_utf8(unread(&error, head.as_bytes()).expect("words").to_vec()).unwrap()
    }

    #[tokio::test]
    async fn what_nobody_can_read_is_told_so_in_the_words_of_go() {
        let head = "Content-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n";
        for (sent, line, text) in [
            ("GET /healthz HTTP/2.0\r\nHost: a\r\n\r\n", "505 HTTP Version Not Supported: unsupported protocol version", ""),
            ("GET /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", "501 Not Implemented", "Unsupported transfer encoding"),
            ("GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", "400 Bad Request", ""),
            ("GET /healthz HTTP/1.1\r\nHost: a\r\nNo colon\r\n\r\n", "400 Bad Request", ""),
            ("hello\r\n\r\n", "400 Bad Request", ""),
            ("GET /healthz http/1.1\r\nHost: a\r\n\r\n", "400 Bad Request", ""),
            ("GET /healthz HTTP/1.1\r\nHost: a\r\nBad Header: x\r\n\r\n", "400 Bad Request: invalid header name", ""),
            ("GET /healthz HTTP/1.1\r\nHost: a\r\nX@: x\r\n\r\n", "400 Bad Request", ""),
        ] {
            let text = if text.is_empty() { line } else { text };
            assert_eq!(said(sent).await, format!("HTTP/1.1 {line}\r\n{head}{text}"), "{sent}");
        }
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(200));
        assert!(said(&many).await.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\n"));
    }
}
