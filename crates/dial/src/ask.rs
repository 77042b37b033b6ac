//! Questions to name servers (RFC 1035): by UDP, and by TCP where an answer was cut.
//!
//! Each question has a socket and a number of its own, neither of which can be guessed, so that an answer from elsewhere is
//! not taken for the server's.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::conf::Conf;

/// Rounds over the servers, as resolv.conf(5).
const ROUNDS: usize = 2;
/// Name servers of resolv.conf(5) that count.
const SERVERS_MAX: usize = 3;
/// Bytes of an answer by UDP: a question that is passed on may allow as many as there can be.
const UDP_MAX: usize = 65_535;
/// Bytes of a message's head.
const HEAD: usize = 12;

/// The addresses that DNS has for a name or for the first of its full names that has any, IPv4 first.
pub(crate) async fn addresses(host: &str, conf: &Conf, answer_max: Duration) -> io::Result<Vec<IpAddr>> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("lookup {host}: no such host"));
    if conf.servers.is_empty() {
        return Err(last);
    }
    for name in conf.candidates(host) {
        let of = |kind| ask_all(&name, kind, &conf.servers, answer_max);
        match tokio::join!(of(RecordType::A), of(RecordType::AAAA)) {
            (Err(e), Err(_)) => last = unanswered(host, &e),
            (four, six) => {
                let found: Vec<IpAddr> = four.unwrap_or_default().into_iter().chain(six.unwrap_or_default()).collect();
                if !found.is_empty() {
                    return Ok(found);
                }
            }
        }
    }
    Err(last)
}

/// Why nobody has said where a host is. How the network fails is told by the same kind, but who refuses is the server: it is no refusal of the
/// host's.
fn unanswered(host: &str, why: &io::Error) -> io::Error {
    let kind = match why.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => io::ErrorKind::Other,
        kind => kind,
    };
    io::Error::new(kind, format!("lookup {host}: {why}"))
}

/// Asks one server after the other until one knows.
async fn ask_all(name: &str, kind: RecordType, servers: &[SocketAddr], answer_max: Duration) -> io::Result<Vec<IpAddr>> {
    let mut last = io::ErrorKind::TimedOut.into();
    for _ in 0..ROUNDS {
        for server in servers.iter().take(SERVERS_MAX) {
            match timeout(answer_max, ask(name, kind, *server)).await {
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(e)) => last = e,
                Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, format!("no answer from {server}")),
            }
        }
    }
    Err(last)
}

/// One question to one server.
async fn ask(name: &str, kind: RecordType, server: SocketAddr) -> io::Result<Vec<IpAddr>> {
    let question = question(name, kind).map_err(invalid)?;
    let mut answer = Message::from_vec(&ask_udp(server, &question).await?).map_err(invalid)?;
    if answer.metadata.truncation {
        answer = Message::from_vec(&ask_tcp(server, &question).await?).map_err(invalid)?;
    }
    read(&answer).map_err(|code| io::Error::other(format!("{server} answers {code}")))
}

fn invalid(e: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e.to_string())
}

fn question(name: &str, kind: RecordType) -> Result<Vec<u8>, hickory_proto::ProtoError> {
    let mut name = Name::from_ascii(name)?;
    name.set_fqdn(true);
    let mut message = Message::new(0, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, kind));
    message.to_vec()
}

/// The addresses of an answer. A name that does not exist has none; other refusals are errors.
fn read(answer: &Message) -> Result<Vec<IpAddr>, ResponseCode> {
    match answer.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => {}
        code => return Err(code),
    }
    // Aliases are followed by the server: every address in the answer is one of the name asked for.
    let address = |data: &RData| match data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(a) => Some(IpAddr::V6(a.0)),
        _ => None,
    };
    Ok(answer.answers.iter().filter_map(|record| address(&record.data)).collect())
}

/// Sends a question in wire form by UDP and waits for its answer, for ever if none comes: the caller knows how long it may
/// take. On the way the question has a random number; the answer has the question's own again.
///
/// # Errors
///
/// The server is not to be reached.
pub async fn ask_udp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let id = random_id();
    socket.send(&with_id(question.to_vec(), id)).await?;
    let mut answer = vec![0; UDP_MAX];
    loop {
        let length = socket.recv(&mut answer).await?;
        // An answer to another question is not ours to believe.
        if is_answer(&answer[..length], id) {
            answer.truncate(length);
            return Ok(with_id(answer, number(question)));
        }
    }
}

/// As [`ask_udp`], by TCP, where an answer of any length has room.
///
/// # Errors
///
/// The server is not to be reached, or sends something else; the question is longer than DNS allows.
pub async fn ask_tcp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let id = random_id();
    let mut framed = u16::try_from(question.len()).map_err(invalid)?.to_be_bytes().to_vec();
    framed.extend(with_id(question.to_vec(), id));
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(&framed).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    if !is_answer(&answer, id) {
        return Err(invalid("not an answer to the question"));
    }
    Ok(with_id(answer, number(question)))
}

fn is_answer(message: &[u8], id: [u8; 2]) -> bool {
    const RESPONSE: u8 = 0x80;
    message.len() >= HEAD && message[..2] == id && message[2] & RESPONSE != 0
}

fn number(message: &[u8]) -> [u8; 2] {
    message.first_chunk().copied().unwrap_or_default()
}

fn with_id(mut message: Vec<u8>, id: [u8; 2]) -> Vec<u8> {
    if let Some(number) = message.first_chunk_mut() {
        *number = id;
    }
    message
}

/// A number that cannot be guessed. Should the kernel not give one, the connected socket's random port still guards the answer.
fn random_id() -> [u8; 2] {
    let mut id = [0; 2];
    let _ = getrandom::fill(&mut id);
    id
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::Record;
    use hickory_proto::rr::rdata::A;
    use tokio::net::TcpListener;

    use super::*;

    const HOST: [u8; 4] = [192, 0, 2, 7];

    fn answered(question: &[u8]) -> Message {
        let mut message = Message::from_vec(question).unwrap().into_response();
        let query = message.queries[0].clone();
        if query.query_type() == RecordType::A && query.name().to_string() == "host.b.example." {
            message.add_answer(Record::from_rdata(query.name().clone(), 5, RData::A(A(HOST.into()))));
        }
        message
    }

    #[tokio::test]
    async fn servers_are_asked_for_every_name_that_may_be_meant() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let conf = Conf { servers: vec![socket.local_addr().unwrap()], search: vec!["a.example".into(), "b.example".into()], ndots: 1 };
        let answers = async {
            let mut buffer = [0; 512];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                let right = answered(&buffer[..length]).to_vec().unwrap();
                // What somebody else might send: another number, and no answer at all.
                let wrong = with_id(right.clone(), number(&right).map(|byte| !byte));
                for message in [&wrong, &buffer[..length].to_vec(), &right] {
                    socket.send_to(message, from).await.unwrap();
                }
            }
        };
        let asked = async {
            let found = addresses("host", &conf, Duration::from_secs(60)).await.unwrap();
            assert_eq!(found, [IpAddr::from(HOST)]);
            let error = addresses("other.example", &conf, Duration::from_secs(60)).await.unwrap_err();
            assert_eq!((error.kind(), error.to_string().as_str()), (io::ErrorKind::NotFound, "lookup other.example: no such host"));
        };
        tokio::select! {
            () = asked => {}
            () = answers => {}
        }
    }

    #[test]
    fn a_server_that_is_not_reached_says_how_and_refuses_for_itself_alone() {
        for (kind, told) in [
            (io::ErrorKind::NetworkUnreachable, io::ErrorKind::NetworkUnreachable),
            (io::ErrorKind::TimedOut, io::ErrorKind::TimedOut),
            (io::ErrorKind::ConnectionRefused, io::ErrorKind::Other),
        ] {
            let error = unanswered("host", &io::Error::new(kind, "why"));
            assert_eq!((error.kind(), error.to_string().as_str()), (told, "lookup host: why"));
        }
    }

    #[tokio::test]
    async fn a_cut_answer_is_asked_for_by_tcp() {
        // A port that is free for both.
        let (listener, socket) = loop {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            match UdpSocket::bind(listener.local_addr().unwrap()).await {
                Ok(socket) => break (listener, socket),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::AddrInUse),
            }
        };
        let server = listener.local_addr().unwrap();
        let serve = tokio::spawn(async move {
            let mut buffer = [0; 512];
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let mut cut = Message::from_vec(&buffer[..length]).unwrap().into_response();
            cut.metadata.truncation = true;
            socket.send_to(&cut.to_vec().unwrap(), from).await.unwrap();
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut question = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut question).await.unwrap();
            let answer = answered(&question).to_vec().unwrap();
            stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        });
        assert_eq!(ask("host.b.example", RecordType::A, server).await.unwrap(), [IpAddr::from(HOST)]);
        serve.await.unwrap();
    }

    #[tokio::test]
    async fn refusals_and_silence_are_told() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = socket.local_addr().unwrap();
        let silent = ask_all("a.example", RecordType::A, &[server], Duration::from_millis(1)).await.unwrap_err();
        assert_eq!((silent.kind(), silent.to_string()), (io::ErrorKind::TimedOut, format!("no answer from {server}")));
        let mut answer = Message::new(7, MessageType::Response, OpCode::Query);
        answer.metadata.response_code = ResponseCode::ServFail;
        assert_eq!(read(&answer), Err(ResponseCode::ServFail));
    }
}
