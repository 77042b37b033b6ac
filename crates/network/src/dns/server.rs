//! Questions come in, answers go out: UDP and TCP, sizes, and what is to be said to those who ask wrongly.
//!
//! The server answers its cluster and its host, nobody else: the node's address may well be reached from a neighbour's. No
//! client has more than its share of connections and of questions that wait, and no error of a socket ends the
//! server: it rests, and in the end opens its sockets anew.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dial::guests::{Door, Guest, Places};
use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::timeout;

use super::clients::Own;
use super::forward::Forwarder;
use super::zone::{Found, Outcome, Zone};

/// Without EDNS an answer over UDP has at most this.
const PLAIN_UDP: usize = 512;
/// Nor more than this, whatever the client says.
const MAX_UDP: usize = 4096;
const MAX_QUESTION: usize = 4096;
/// TCP connections, of all clients and of one.
const MAX_CONNECTIONS: usize = 256;
const MAX_CONNECTIONS_OF_ONE: usize = 16;
/// Questions that wait for servers elsewhere, of all clients and of one.
const MAX_WAITING: usize = 512;
const MAX_WAITING_OF_ONE: usize = 64;
/// The smallest record: a name that was said before, type, class, time, length, an address.
const RECORD_MIN: usize = 16;
/// A connection on which nothing is asked.
const IDLE: Duration = Duration::from_secs(10);
/// Longer chains of aliases are a loop.
const MAX_ALIASES: usize = 8;
/// An error of a single datagram (an ICMP answer to a former one) is not the socket's end; many in a row are.
const MAX_ERRORS: usize = 64;

/// The two sockets, on one port.
pub(super) struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
    port: u16,
}

impl Sockets {
    /// Binds the port, or any that is free if it is taken.
    pub(super) async fn bind(address: IpAddr, port: u16) -> io::Result<Self> {
        match Self::at(address, port).await {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && port != 0 => {
                tracing::warn!(%address, port, "the port is taken; DNS listens on another");
                Self::at(address, 0).await
            }
            other => other,
        }
    }

    /// Binds exactly this port.
    pub(super) async fn at(address: IpAddr, port: u16) -> io::Result<Self> {
        let tcp = TcpListener::bind((address, port)).await?;
        let port = tcp.local_addr()?.port();
        Ok(Self { udp: UdpSocket::bind((address, port)).await?, tcp, port })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

/// Answers questions. Cheap to clone.
#[derive(Clone)]
pub(super) struct Answerer {
    zone: Zone,
    forwarder: Forwarder,
    turn: Arc<AtomicUsize>,
    own: Arc<Own>,
    waiting: Places,
    connections: Places,
}

/// What is to be done about a question.
enum Step {
    /// It is answered.
    Done(Vec<u8>),
    /// Others must be asked.
    Wait(Box<Message>),
    /// It deserves no answer.
    Ignore,
}

/// Answers until a socket fails for good.
pub(super) async fn serve(sockets: &Sockets, answerer: Answerer) -> io::Result<()> {
    tokio::select! {
        result = serve_udp(&sockets.udp, &answerer) => result,
        never = serve_tcp(&sockets.tcp, &answerer) => match never {},
    }
}

async fn serve_udp(socket: &UdpSocket, answerer: &Answerer) -> io::Result<()> {
    let mut buffer = vec![0; MAX_QUESTION];
    let mut errors = 0;
    // Answers that had to wait come back here, so that one socket sends them all.
    let (sender, mut waiting) = tokio::sync::mpsc::channel::<(Vec<u8>, SocketAddr)>(MAX_WAITING);
    loop {
        let received = tokio::select! {
            Some((answer, to)) = waiting.recv() => {
                let _ = socket.send_to(&answer, to).await;
                continue;
            }
            received = socket.recv_from(&mut buffer) => received,
        };
        let (length, from) = match received {
            Ok(received) => received,
            Err(e) if errors >= MAX_ERRORS => return Err(e),
            Err(_) => {
                errors += 1;
                continue;
            }
        };
        errors = 0;
        if !answerer.own.has(from.ip()) {
            continue;
        }
        let bytes = &buffer[..length];
        match answerer.begin(bytes, false) {
            // A client that is gone has nobody to tell.
            Step::Done(answer) => drop(socket.send_to(&answer, from).await),
            Step::Ignore => {}
            Step::Wait(question) => {
                let Some(place) = answerer.waiting.enter(from.ip()) else {
                    let _ = socket.send_to(&failure(&question, ResponseCode::ServFail, false), from).await;
                    continue;
                };
                let (answerer, bytes, sender) = (answerer.clone(), bytes.to_vec(), sender.clone());
                tokio::spawn(async move {
                    let answer = answerer.finish(*question, &bytes, false).await;
                    let _ = sender.send((answer, from)).await;
                    drop(place);
                });
            }
        }
    }
}

async fn serve_tcp(listener: &TcpListener, answerer: &Answerer) -> Infallible {
    let mut door = Door::new("DNS", listener, answerer.connections.clone());
    loop {
        let guest = door.next().await;
        if answerer.own.has(guest.address().ip()) {
            tokio::spawn(converse(guest, answerer.clone()));
        }
    }
}

async fn converse(mut stream: Guest, answerer: Answerer) -> io::Result<()> {
    loop {
        let question = async {
            let length = stream.read_u16().await?;
            let mut bytes = vec![0; usize::from(length)];
            stream.read_exact(&mut bytes).await.map(|_| bytes)
        };
        let bytes = timeout(IDLE, question).await??;
        let answer = match answerer.begin(&bytes, true) {
            Step::Done(answer) => answer,
            Step::Wait(question) => answerer.finish(*question, &bytes, true).await,
            Step::Ignore => return Ok(()),
        };
        let Ok(length) = u16::try_from(answer.len()) else { return Ok(()) };
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(&answer);
        timeout(IDLE, stream.write_all(&framed)).await??;
    }
}

/// An answer's frame: number, question and options of the question.
fn frame(question: &Message) -> Message {
    let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
    answer.metadata = Metadata::response_from_request(&question.metadata);
    answer.metadata.recursion_available = true;
    answer.add_queries(question.queries.iter().cloned());
    if question.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_UDP as u16);
        answer.set_edns(edns);
    }
    answer
}

/// Bytes that the client takes.
fn limit(question: &Message, tcp: bool) -> usize {
    match &question.edns {
        _ if tcp => usize::from(u16::MAX),
        Some(edns) => usize::from(edns.max_payload()).clamp(PLAIN_UDP, MAX_UDP),
        None => PLAIN_UDP,
    }
}

/// The wire form within the client's bounds; what does not fit is left out and said to be.
fn fit(mut answer: Message, question: &Message, tcp: bool) -> Vec<u8> {
    let limit = limit(question, tcp);
    // What cannot fit is not written first: a Service may have thousands of endpoints.
    let most = limit / RECORD_MIN + 1;
    answer.answers.truncate(most);
    answer.additionals.truncate(most);
    loop {
        let bytes = answer.to_vec().unwrap_or_default();
        if bytes.len() <= limit {
            return bytes;
        }
        if !answer.additionals.is_empty() {
            // Nobody has asked for these: without them an answer is whole.
            answer.additionals.clear();
            continue;
        }
        answer.metadata.truncation = true;
        answer.authorities.clear();
        let keep = answer.answers.len() * limit / bytes.len();
        let keep = keep.min(answer.answers.len().saturating_sub(1));
        if answer.answers.is_empty() {
            return answer.truncate().to_vec().unwrap_or_default();
        }
        answer.answers.truncate(keep);
    }
}

fn failure(question: &Message, code: ResponseCode, tcp: bool) -> Vec<u8> {
    let mut answer = frame(question);
    answer.metadata.response_code = code;
    fit(answer, question, tcp)
}

/// Says that a question cannot be read, if it is one.
fn unreadable(bytes: &[u8]) -> Step {
    const HEADER: usize = 12;
    const RESPONSE: u8 = 0x80;
    match bytes {
        [a, b, flags, ..] if bytes.len() >= HEADER && flags & RESPONSE == 0 => {
            let message = Message::error_msg(u16::from_be_bytes([*a, *b]), OpCode::Query, ResponseCode::FormErr);
            message.to_vec().map_or(Step::Ignore, Step::Done)
        }
        _ => Step::Ignore,
    }
}

/// Why a question is refused before its name is looked at.
fn refusal(question: &Message) -> Option<ResponseCode> {
    if question.metadata.op_code != OpCode::Query {
        return Some(ResponseCode::NotImp);
    }
    if question.edns.as_ref().is_some_and(|e| e.version() > 0) {
        return Some(ResponseCode::BADVERS);
    }
    let [query] = question.queries.as_slice() else { return Some(ResponseCode::FormErr) };
    let transfer = matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR);
    (query.query_class() != DNSClass::IN || transfer).then_some(ResponseCode::Refused)
}

impl Answerer {
    pub(super) fn new(zone: Zone, forwarder: Forwarder, own: Own) -> Self {
        let waiting = Places::new(MAX_WAITING, MAX_WAITING_OF_ONE);
        let connections = Places::new(MAX_CONNECTIONS, MAX_CONNECTIONS_OF_ONE);
        Self { zone, forwarder, turn: Arc::default(), own: Arc::new(own), waiting, connections }
    }

    /// What can be said from memory alone.
    fn begin(&self, bytes: &[u8], tcp: bool) -> Step {
        let question = match Message::from_vec(bytes) {
            Ok(message) if message.metadata.message_type == MessageType::Query => message,
            Ok(_) => return Step::Ignore,
            Err(_) => return unreadable(bytes),
        };
        if let Some(code) = refusal(&question) {
            return Step::Done(failure(&question, code, tcp));
        }
        let Some(query) = question.queries.first() else { return Step::Ignore };
        match self.zone.look_up(query.name(), query.query_type()) {
            Outcome::Elsewhere => Step::Wait(Box::new(question)),
            Outcome::Exists(found) if found.alias.is_some() && query.query_type() != RecordType::CNAME => Step::Wait(Box::new(question)),
            Outcome::Exists(found) => Step::Done(self.known(&question, found, ResponseCode::NoError, tcp)),
            Outcome::Missing => Step::Done(self.known(&question, Found::default(), ResponseCode::NXDomain, tcp)),
        }
    }

    /// An answer about a name of the cluster.
    fn known(&self, question: &Message, mut found: Found, code: ResponseCode, tcp: bool) -> Vec<u8> {
        let mut answer = frame(question);
        answer.metadata.authoritative = true;
        answer.metadata.response_code = code;
        answer.metadata.truncation = found.cut && !tcp;
        let asked = question.queries.first().map(|q| q.name());
        if found.answers.is_empty() || (code == ResponseCode::NXDomain && found.authorities.is_empty()) {
            // What an alias leads to and is not there is missing from the same zone, or from another whose authority said so.
            answer.add_authority(self.zone.soa(asked.unwrap_or(&Name::root()), super::serial()));
        } else if found.alias.is_none() {
            // Clients mostly take the first.
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % found.answers.len();
            found.answers.rotate_left(turn);
        }
        answer.insert_answers(found.answers);
        answer.add_authorities(found.authorities);
        answer.insert_additionals(found.additionals);
        fit(answer, question, tcp)
    }

    /// What others must be asked for.
    async fn finish(&self, question: Message, bytes: &[u8], tcp: bool) -> Vec<u8> {
        let Some(query) = question.queries.first() else { return Vec::new() };
        if let Outcome::Exists(found) = self.zone.look_up(query.name(), query.query_type()) {
            let (found, code) = self.follow(found, query.query_type(), tcp).await;
            return self.known(&question, found, code, tcp);
        }
        match self.forwarder.ask(&question, bytes, tcp).await {
            Some(answer) => answer,
            None => failure(&question, ResponseCode::ServFail, tcp),
        }
    }

    /// Follows an alias, through the cluster's names and others'.
    async fn follow(&self, mut found: Found, kind: RecordType, tcp: bool) -> (Found, ResponseCode) {
        for _ in 0..MAX_ALIASES {
            let Some(target) = found.alias.clone() else { break };
            match self.zone.look_up(&target, kind) {
                Outcome::Exists(next) => {
                    found.answers.extend(next.answers);
                    found.alias = next.alias;
                    if found.alias.is_none() {
                        found.alias = Some(target);
                        return (found, ResponseCode::NoError);
                    }
                }
                Outcome::Missing => return (found, ResponseCode::NXDomain),
                Outcome::Elsewhere => {
                    let code = self.abroad(&mut found, target, kind, tcp).await;
                    return (found, code);
                }
            }
        }
        (found, ResponseCode::NoError)
    }

    async fn abroad(&self, found: &mut Found, target: Name, kind: RecordType, tcp: bool) -> ResponseCode {
        let mut question = Message::query();
        question.metadata.recursion_desired = true;
        question.add_query(Query::query(target, kind));
        let Ok(bytes) = question.to_vec() else { return ResponseCode::ServFail };
        let answer = self.forwarder.ask(&question, &bytes, tcp).await.and_then(|a| Message::from_vec(&a).ok());
        // The alias itself is known, whatever becomes of what it leads to.
        let Some(answer) = answer else { return ResponseCode::NoError };
        found.cut = answer.metadata.truncation;
        found.answers.extend(answer.answers);
        found.authorities = answer.authorities.into_iter().filter(|r| r.record_type() == RecordType::SOA).collect();
        answer.metadata.response_code
    }
}

/// For tests: the answer to what may be a question.
#[cfg(test)]
pub(super) async fn answer(answerer: &Answerer, bytes: &[u8], tcp: bool) -> Option<Vec<u8>> {
    match answerer.begin(bytes, tcp) {
        Step::Done(answer) => Some(answer),
        Step::Wait(question) => Some(answerer.finish(*question, bytes, tcp).await),
        Step::Ignore => None,
    }
}

/// For tests: the answer to a question.
#[cfg(test)]
pub(super) async fn ask(answerer: &Answerer, question: &Message, tcp: bool) -> Message {
    let answer = answer(answerer, &question.to_vec().unwrap(), tcp).await.expect("an answer");
    Message::from_vec(&answer).unwrap()
}
