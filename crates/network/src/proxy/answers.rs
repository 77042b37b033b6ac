//! Answers to the small questions that balancers ask by HTTP: a request's head is read, its path is answered, and the connection closed.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dial::guests::{Door, Guest, Places};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Ipv6V6Only;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;

/// Bytes of a request's head.
const MAX_HEAD: usize = 4096;
/// Requests at a time, per listener: of all balancers, and of one.
const MAX_CONNECTIONS: usize = 64;
const MAX_CONNECTIONS_OF_ONE: usize = 16;
const DEADLINE: Duration = Duration::from_secs(5);
/// After an address that is taken.
const RETRY: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Listens at an address alone: all of IPv6's are not IPv4's as well, for which somebody else listens.
fn bind(at: SocketAddr) -> std::io::Result<TcpListener> {
    const BACKLOG: u32 = 128;
    let socket = if at.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    if at.is_ipv6() {
        setsockopt(&socket, Ipv6V6Only, &true)?;
    }
    socket.bind(at)?;
    socket.listen(BACKLOG)
}

/// Answers at a port of each of these addresses with what `say` has for a path, until what is given back is dropped. `whose`: for the log.
pub(super) fn serve_all<S>(addresses: impl IntoIterator<Item = IpAddr>, port: u16, whose: &str, say: S) -> JoinSet<()>
where
    S: Fn(&str) -> String + Clone + Send + 'static,
{
    addresses.into_iter().map(|ip| serve(SocketAddr::new(ip, port), whose.to_owned(), say.clone())).collect()
}

/// Answers at an address, as soon as it is to be had. Never ends.
async fn serve<S>(at: SocketAddr, whose: String, say: S)
where
    S: Fn(&str) -> String + Clone + Send + 'static,
{
    let (mut pause, mut told) = (RETRY, String::new());
    let listener = loop {
        match bind(at) {
            Ok(listener) => break listener,
            // Perhaps a former one's, whose task is just ending; or somebody else's, for good.
            Err(error) => {
                let why = error.to_string();
                if pause > RETRY && why != told {
                    tracing::warn!(%whose, %at, %error, "a health check cannot be answered; trying again");
                    told = why;
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    };
    let mut door = Door::new("health check", listener, Places::new(MAX_CONNECTIONS, MAX_CONNECTIONS_OF_ONE));
    loop {
        let guest = door.next().await;
        tokio::spawn(tokio::time::timeout(DEADLINE, respond(guest, say.clone())));
    }
}

async fn respond<S: Fn(&str) -> String>(mut stream: Guest, say: S) -> std::io::Result<()> {
    let mut head = Vec::with_capacity(512);
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        if head.len() > MAX_HEAD || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let answer = say(path(&String::from_utf8_lossy(&head)));
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// What a request asks for.
fn path(head: &str) -> &str {
    let target = head.split_whitespace().nth(1).unwrap_or_default();
    target.split_once('?').map_or(target, |(path, _)| path)
}

/// A whole answer of JSON. `more`: further fields of its head, each with the end of its line.
pub(super) fn json(is_good: bool, more: &str, body: &str) -> String {
    whole(if is_good { "200 OK" } else { "503 Service Unavailable" }, "application/json", more, body)
}

/// A whole answer of this type of content.
pub(super) fn good(content: &str, body: &str) -> String {
    whole("200 OK", content, "", body)
}

/// The answer to what there is not, in the words of Go's server.
pub(super) fn not_found() -> String {
    whole("404 Not Found", "text/plain; charset=utf-8", "", "404 page not found\n")
}

fn whole(status: &str, content: &str, more: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content}\r\nX-Content-Type-Options: nosniff\r\n{more}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_told_without_its_query() {
        for (head, wanted) in
            [("GET /healthz HTTP/1.1\r\n\r\n", "/healthz"), ("GET /livez?a=/b HTTP/1.0\r\n\r\n", "/livez"), ("\r\n\r\n", ""), ("GET\r\n\r\n", "")]
        {
            assert_eq!(path(head), wanted, "{head}");
        }
    }
}
