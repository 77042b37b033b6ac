//! A name's address, as a C library would find it in a container: `/etc/hosts`, then the servers and search domains of
//! `/etc/resolv.conf`. No libc is asked, since a static binary's would want shared objects for it.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::net::UdpSocket;

/// For one answer of one server.
const PATIENCE: Duration = Duration::from_secs(2);
/// Rounds over the servers.
const ROUNDS: usize = 2;
/// Bytes of an answer at most; without EDNS servers send no more than 512.
const ANSWER_MAX: usize = 4096;

/// What `/etc/resolv.conf` says.
#[derive(Debug, PartialEq, Eq)]
struct Config {
    servers: Vec<IpAddr>,
    search: Vec<String>,
    ndots: usize,
}

impl Config {
    fn parse(text: &str) -> Self {
        let mut out = Self { servers: Vec::new(), search: Vec::new(), ndots: 1 };
        for line in text.lines() {
            let mut words = line.split(['#', ';']).next().unwrap_or_default().split_whitespace();
            match words.next() {
                Some("nameserver") => out.servers.extend(words.next().and_then(|w| w.parse::<IpAddr>().ok())),
                Some("search" | "domain") => out.search = words.map(str::to_owned).collect(),
                Some("options") => {
                    let ndots = words.filter_map(|w| w.strip_prefix("ndots:")?.parse().ok()).next_back();
                    out.ndots = ndots.unwrap_or(out.ndots);
                }
                _ => {}
            }
        }
        out
    }

    /// The full names that a name may stand for, in the order to try.
    fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(full) = name.strip_suffix('.') {
            return vec![full.to_owned()];
        }
        let mut all: Vec<String> = self.search.iter().map(|domain| format!("{name}.{}", domain.trim_end_matches('.'))).collect();
        let dots = name.matches('.').count();
        all.insert(if dots >= self.ndots { 0 } else { all.len() }, name.to_owned());
        all
    }
}

/// The address of a host.
pub async fn lookup(host: &str) -> Result<IpAddr, String> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse() {
        return Ok(address);
    }
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    if let Some(address) = in_hosts(&hosts, bare) {
        return Ok(address);
    }
    let text = std::fs::read_to_string("/etc/resolv.conf").map_err(|e| format!("/etc/resolv.conf: {e}"))?;
    let config = Config::parse(&text);
    let mut last = "no server is known".to_owned();
    for name in config.candidates(bare) {
        for kind in [RecordType::A, RecordType::AAAA] {
            match ask_all(&config.servers, &name, kind).await {
                Ok(Some(address)) => return Ok(address),
                Ok(None) => last = "no such host".into(),
                Err(error) => last = error,
            }
        }
    }
    Err(format!("{bare}: {last}"))
}

fn in_hosts(text: &str, name: &str) -> Option<IpAddr> {
    text.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|w| w.eq_ignore_ascii_case(name)).then_some(address)
    })
}

/// Asks one server after the other until one knows.
async fn ask_all(servers: &[IpAddr], name: &str, kind: RecordType) -> Result<Option<IpAddr>, String> {
    let mut last = "no server is known".to_owned();
    for _ in 0..ROUNDS {
        for server in servers {
            match tokio::time::timeout(PATIENCE, ask(*server, name, kind)).await {
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(error)) => last = format!("{server}: {error}"),
                Err(_) => last = format!("{server} does not answer"),
            }
        }
    }
    Err(last)
}

async fn ask(server: IpAddr, name: &str, kind: RecordType) -> Result<Option<IpAddr>, String> {
    // Unforeseeable enough for a demo: the standard library's hasher is seeded by the kernel.
    let id = u16::try_from(RandomState::new().hash_one(name) & 0xffff).unwrap_or_default();
    let question = question(id, name, kind)?;
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await.map_err(|e| e.to_string())?;
    socket.connect((server, 53)).await.map_err(|e| e.to_string())?;
    socket.send(&question).await.map_err(|e| e.to_string())?;
    let mut buffer = vec![0; ANSWER_MAX];
    loop {
        let length = socket.recv(&mut buffer).await.map_err(|e| e.to_string())?;
        let Ok(answer) = Message::from_vec(&buffer[..length]) else { continue };
        if answer.metadata.id == id {
            return read(&answer);
        }
    }
}

fn question(id: u16, name: &str, kind: RecordType) -> Result<Vec<u8>, String> {
    let mut name = Name::from_ascii(name).map_err(|e| e.to_string())?;
    name.set_fqdn(true);
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, kind));
    message.to_vec().map_err(|e| e.to_string())
}

fn read(answer: &Message) -> Result<Option<IpAddr>, String> {
    match answer.metadata.response_code {
        ResponseCode::NoError => {}
        ResponseCode::NXDomain => return Ok(None),
        code => return Err(code.to_string()),
    }
    Ok(answer.answers.iter().find_map(|record| match &record.data {
        RData::A(a) => Some(a.0.into()),
        RData::AAAA(a) => Some(a.0.into()),
        _ => None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::Record;
    use hickory_proto::rr::rdata::A;

    const POD: &str = "search shop.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5 timeout:1\n";

    #[test]
    fn a_pods_file() {
        let config = Config::parse(POD);
        assert_eq!((config.servers.as_slice(), config.ndots), (&["10.96.0.10".parse::<IpAddr>().unwrap()][..], 5));
        let all = ["backend.shop.svc.cluster.local", "backend.svc.cluster.local", "backend.cluster.local", "backend"];
        assert_eq!(config.candidates("backend"), all);
        assert_eq!(config.candidates("backend."), ["backend"]);
        assert_eq!(Config::parse("search a\n").candidates("x.y"), ["x.y", "x.y.a"]);
    }

    #[test]
    fn the_hosts_file() {
        let text = "127.0.0.1 localhost # here\n10.0.0.7\tweb-1 web-1.shop\n";
        assert_eq!(in_hosts(text, "WEB-1.shop"), "10.0.0.7".parse().ok());
        assert_eq!(in_hosts(text, "here"), None);
    }

    #[test]
    fn questions_and_answers() {
        let asked = Message::from_vec(&question(7, "a.b", RecordType::A).unwrap()).unwrap();
        assert_eq!((asked.metadata.id, asked.queries[0].name().to_string().as_str()), (7, "a.b."));
        let mut answer = Message::new(7, MessageType::Response, OpCode::Query);
        assert_eq!(read(&answer), Ok(None));
        answer.add_answer(Record::from_rdata(Name::from_ascii("a.b.").unwrap(), 5, RData::A(A("10.1.2.3".parse().unwrap()))));
        assert_eq!(read(&answer), Ok("10.1.2.3".parse().ok()));
        answer.metadata.response_code = ResponseCode::NXDomain;
        assert_eq!(read(&answer), Ok(None));
        answer.metadata.response_code = ResponseCode::ServFail;
        assert!(read(&answer).is_err());
    }
}
