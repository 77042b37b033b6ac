//! Host names to addresses without the C library, which cannot be linked statically: `/etc/hosts`, then the name servers
//! of `/etc/resolv.conf` by UDP, and by TCP where an answer was cut.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// As resolv.conf(5): five seconds, two attempts.
const ANSWER_MAX: Duration = Duration::from_secs(5);
const ATTEMPTS: usize = 2;
/// Name servers of resolv.conf(5) that count.
const SERVERS_MAX: usize = 3;
const DATAGRAM_BYTES: usize = 4096;

/// The addresses of a host, IPv4 first.
pub(crate) async fn resolve(host: &str) -> io::Result<Vec<IpAddr>> {
    let bare = host.trim_matches(['[', ']']);
    if let Ok(address) = bare.parse() {
        return Ok(vec![address]);
    }
    let hosts = tokio::fs::read_to_string("/etc/hosts").await.unwrap_or_default();
    let found = in_hosts(&hosts, bare);
    if !found.is_empty() {
        return Ok(found);
    }
    if bare.eq_ignore_ascii_case("localhost") {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let conf = tokio::fs::read_to_string("/etc/resolv.conf").await.unwrap_or_default();
    let (servers, search) = parse_conf(&conf);
    lookup(bare, &servers, &search).await
}

fn in_hosts(hosts: &str, name: &str) -> Vec<IpAddr> {
    let entries = hosts.lines().filter_map(|line| {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let address: IpAddr = words.next()?.parse().ok()?;
        words.any(|word| word.eq_ignore_ascii_case(name)).then_some(address)
    });
    entries.collect()
}

fn parse_conf(text: &str) -> (Vec<SocketAddr>, Vec<String>) {
    let (mut servers, mut search) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => servers.extend(words.next().and_then(|w| w.parse::<IpAddr>().ok()).map(|ip| SocketAddr::new(ip, 53))),
            Some("search") => search = words.map(str::to_owned).collect(),
            Some("domain") => search = words.take(1).map(str::to_owned).collect(),
            _ => {}
        }
    }
    servers.truncate(SERVERS_MAX);
    (servers, search)
}

async fn lookup(host: &str, servers: &[SocketAddr], search: &[String]) -> io::Result<Vec<IpAddr>> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, format!("lookup {host}: no such host"));
    if servers.is_empty() {
        return Err(missing());
    }
    let mut names: Vec<String> = vec![format!("{}.", host.trim_end_matches('.'))];
    if !host.contains('.') {
        names.splice(0..0, search.iter().map(|domain| format!("{host}.{domain}.")));
    }
    let mut last = missing();
    for name in names {
        match one_name(&name, servers).await {
            Ok(list) if !list.is_empty() => return Ok(list),
            Ok(_) => {}
            Err(e) => last = io::Error::new(e.kind(), format!("lookup {host}: {e}")),
        }
    }
    Err(last)
}

async fn one_name(name: &str, servers: &[SocketAddr]) -> io::Result<Vec<IpAddr>> {
    let (four, six) = tokio::join!(ask_all(name, RecordType::A, servers), ask_all(name, RecordType::AAAA, servers));
    match (four, six) {
        (Err(e), Err(_)) => Err(e),
        (four, six) => Ok(four.unwrap_or_default().into_iter().chain(six.unwrap_or_default()).collect()),
    }
}

async fn ask_all(name: &str, kind: RecordType, servers: &[SocketAddr]) -> io::Result<Vec<IpAddr>> {
    let mut last = io::ErrorKind::TimedOut.into();
    for _ in 0..ATTEMPTS {
        for server in servers {
            match tokio::time::timeout(ANSWER_MAX, ask(name, kind, *server)).await {
                Ok(Ok(list)) => return Ok(list),
                Ok(Err(e)) => last = e,
                Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, format!("no answer from {server}")),
            }
        }
    }
    Err(last)
}

/// One question to one server. A name that does not exist has no addresses; other refusals are errors.
async fn ask(name: &str, kind: RecordType, server: SocketAddr) -> io::Result<Vec<IpAddr>> {
    let bad = |e: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, e.to_string());
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(|e| bad(&e))?;
    let id = u16::from_ne_bytes(id);
    let mut question = Message::new(id, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(Name::from_ascii(name).map_err(|e| bad(&e))?, kind));
    let question = question.to_vec().map_err(|e| bad(&e))?;
    let local: SocketAddr = if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    socket.send(&question).await?;
    let mut buffer = vec![0; DATAGRAM_BYTES];
    let mut answer = loop {
        let n = socket.recv(&mut buffer).await?;
        // An answer to another question is not ours to believe.
        if let Ok(message) = Message::from_vec(&buffer[..n])
            && message.metadata.id == id
            && message.metadata.message_type == MessageType::Response
        {
            break message;
        }
    };
    if answer.metadata.truncation {
        let mut stream = TcpStream::connect(server).await?;
        stream.write_all(&(question.len() as u16).to_be_bytes()).await?;
        stream.write_all(&question).await?;
        let length = stream.read_u16().await?;
        let mut whole = vec![0; usize::from(length)];
        stream.read_exact(&mut whole).await?;
        answer = Message::from_vec(&whole).map_err(|e| bad(&e))?;
    }
    match answer.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => {}
        code => return Err(io::Error::other(format!("{server} answers {code}"))),
    }
    // Aliases are followed by the server: every address in the answer is one of the name asked for.
    let address = |data: &RData| match data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(a) => Some(IpAddr::V6(a.0)),
        _ => None,
    };
    Ok(answer.answers.iter().filter_map(|r| address(&r.data)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_files_are_read() {
        assert_eq!(in_hosts("127.0.0.1 a b # c\n::1 B\n", "b").len(), 2);
        assert!(in_hosts("127.0.0.1 a # c\n", "c").is_empty());
        let (servers, search) = parse_conf("# x\nnameserver 10.0.0.1\nsearch a.example b.example\nnameserver fd00::1\n");
        assert_eq!((servers.len(), search.len()), (2, 2));
    }

    #[tokio::test]
    async fn a_server_is_asked() {
        use hickory_proto::rr::{Record, rdata};
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = socket.local_addr().unwrap();
        let answers = tokio::spawn(async move {
            let mut buffer = [0; 512];
            for _ in 0..2 {
                let (n, from) = socket.recv_from(&mut buffer).await.unwrap();
                let mut message = Message::from_vec(&buffer[..n]).unwrap().into_response();
                let query = message.queries[0].clone();
                if query.query_type() == RecordType::A {
                    message.add_answer(Record::from_rdata(query.name().clone(), 5, RData::A(rdata::A::new(192, 0, 2, 7))));
                }
                socket.send_to(&message.to_vec().unwrap(), from).await.unwrap();
            }
        });
        assert_eq!(lookup("host.example", &[server], &[]).await.unwrap(), [IpAddr::from([192, 0, 2, 7])]);
        answers.await.unwrap();
    }
}
