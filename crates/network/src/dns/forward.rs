//! Names that are not the cluster's: asked of the host's own name servers, with a small memory.
//!
//! A question is passed on as it came (with a new number), its answer as it came back: nothing that this program does not
//! know is lost. Each question has its own socket, so that an answer from elsewhere is not taken for the server's. The server
//! that answered last is asked first, and the next beside it when it takes long. What is remembered is an answer to the same
//! question in every bit that an answer depends on, and is looked at only when somebody asks; nothing runs by itself.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dial::{Conf, ask_tcp, ask_udp};
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// How long one server may take.
const SERVER_TIMEOUT: Duration = Duration::from_secs(2);
/// A server that has not answered within this is not waited for alone.
const NEXT: Duration = Duration::from_millis(300);
/// Rounds over all servers.
const ROUNDS: usize = 2;
/// As resolvers do.
const MAX_SERVERS: usize = 3;
/// Answers that are remembered.
const CACHE_ENTRIES: usize = 256;
/// Answers above this are not remembered.
const CACHE_BYTES: usize = 2048;
/// Nothing is remembered longer.
const CACHE_MAX: Duration = Duration::from_secs(30);
/// Nor is the name servers' file looked at more often.
const RELOAD: Duration = Duration::from_secs(5);
/// Without EDNS an answer over UDP has at most this.
const PLAIN_UDP: usize = 512;

/// Where names outside of the cluster are asked.
#[derive(Clone, Debug)]
pub enum Upstream {
    /// The name servers of this resolver file, read again when it changes.
    File(PathBuf),
    /// These.
    Servers(Vec<SocketAddr>),
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    name: Name,
    kind: RecordType,
    class: DNSClass,
    edns: bool,
    dnssec: bool,
    /// Recursion desired, checking disabled, authentic data.
    bits: (bool, bool, bool),
    tcp: bool,
}

struct Remembered {
    bytes: Vec<u8>,
    since: Instant,
    until: Instant,
}

struct Servers {
    list: Vec<SocketAddr>,
    changed: Option<SystemTime>,
    looked: Option<Instant>,
}

impl Key {
    /// None: an answer is for this question alone (its options may say who asks).
    fn of(question: &Message, query: &Query, tcp: bool) -> Option<Self> {
        let edns = question.edns.as_ref();
        if edns.is_some_and(|e| !e.options().as_ref().is_empty()) {
            return None;
        }
        let said = &question.metadata;
        Some(Self {
            name: query.name().to_lowercase(),
            kind: query.query_type(),
            class: query.query_class(),
            edns: edns.is_some(),
            dnssec: edns.is_some_and(|e| e.flags().dnssec_ok),
            bits: (said.recursion_desired, said.checking_disabled, said.authentic_data),
            tcp,
        })
    }
}

/// Passes questions on.
#[derive(Clone)]
pub(super) struct Forwarder {
    inner: Arc<Inner>,
}

struct Inner {
    upstream: Upstream,
    own: Vec<IpAddr>,
    servers: Mutex<Servers>,
    cache: Mutex<HashMap<Key, Remembered>>,
    /// Who answered last.
    good: Mutex<Option<SocketAddr>>,
}

impl Forwarder {
    /// `own` are the addresses at which this server answers: a resolver file that names them would be a loop.
    pub(super) fn new(upstream: Upstream, own: Vec<IpAddr>) -> Self {
        let servers = Mutex::new(Servers { list: Vec::new(), changed: None, looked: None });
        let inner = Inner { upstream, own, servers, cache: Mutex::default(), good: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    /// The answer to a question in wire form, with the question's number. None: no server answered.
    pub(super) async fn ask(&self, question: &Message, bytes: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let query = question.queries.first()?;
        let key = Key::of(question, query, tcp);
        if let Some(answer) = key.as_ref().and_then(|key| self.recall(key, question)) {
            return Some(answer);
        }
        let answer = self.ask_servers(bytes, tcp).await?;
        if let Some(key) = key {
            self.remember(key, &answer);
        }
        Some(answer)
    }

    /// Asks the servers, the good one first, the next when one is slow or fails; the first answer is the answer.
    async fn ask_servers(&self, bytes: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let mut servers = self.servers();
        if let Some(at) = self.inner.good.lock().and_then(|good| servers.iter().position(|s| *s == good)) {
            servers.rotate_left(at);
        }
        let bytes: Arc<[u8]> = bytes.into();
        // What is still under way ends with this set.
        let mut asked: JoinSet<(SocketAddr, Option<Vec<u8>>)> = JoinSet::new();
        let mut turns = (0..ROUNDS).flat_map(|_| servers.iter().copied());
        loop {
            let next = turns.next();
            if let Some(server) = next {
                let bytes = bytes.clone();
                asked.spawn(async move {
                    let ask = async { if tcp { ask_tcp(server, &bytes).await } else { ask_udp(server, &bytes).await } };
                    (server, timeout(SERVER_TIMEOUT, ask).await.ok().and_then(Result::ok))
                });
            } else if asked.is_empty() {
                return None;
            }
            let pause = if next.is_some() { NEXT } else { SERVER_TIMEOUT };
            if let Ok(Some(Ok((server, Some(answer))))) = timeout(pause, asked.join_next()).await {
                *self.inner.good.lock() = Some(server);
                return Some(answer);
            }
        }
    }

    /// What is remembered, as an answer to this question: its number, its spelling of the name, within its bounds.
    fn recall(&self, key: &Key, question: &Message) -> Option<Vec<u8>> {
        let mut message = {
            let cache = self.inner.cache.lock();
            let found = cache.get(key)?;
            let now = Instant::now();
            if found.until <= now {
                return None;
            }
            let age = u32::try_from((now - found.since).as_secs()).unwrap_or(u32::MAX);
            let mut message = Message::from_vec(&found.bytes).ok()?;
            for records in [&mut message.answers, &mut message.authorities, &mut message.additionals] {
                for record in records {
                    record.decrement_ttl(age);
                }
            }
            message
        };
        message.metadata.id = question.metadata.id;
        message.queries.clone_from(&question.queries);
        let limit = if key.tcp { usize::from(u16::MAX) } else { question.edns.as_ref().map_or(PLAIN_UDP, |e| usize::from(e.max_payload())) };
        message.to_vec().ok().filter(|bytes| bytes.len() <= limit)
    }

    fn remember(&self, key: Key, bytes: &[u8]) {
        if bytes.len() > CACHE_BYTES {
            return;
        }
        let Ok(message) = Message::from_vec(bytes) else { return };
        if message.metadata.truncation || !matches!(message.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain) {
            return;
        }
        // A negative answer without an authority's word on it is not to be believed for long, so not at all: a referral, too,
        // has no answer and names servers with a long time to live.
        if message.answers.is_empty() && !message.authorities.iter().any(|r| r.record_type() == RecordType::SOA) {
            return;
        }
        let ttl = message.answers.iter().chain(&message.authorities).map(|r| r.ttl).min().unwrap_or(0);
        let life = Duration::from_secs(u64::from(ttl)).min(CACHE_MAX);
        if life.is_zero() {
            return;
        }
        let now = Instant::now();
        let mut cache = self.inner.cache.lock();
        if cache.len() >= CACHE_ENTRIES {
            cache.retain(|_, e| e.until > now);
        }
        if cache.len() >= CACHE_ENTRIES {
            cache.clear();
        }
        cache.insert(key, Remembered { bytes: bytes.to_vec(), since: now, until: now + life });
    }

    fn servers(&self) -> Vec<SocketAddr> {
        let path = match &self.inner.upstream {
            Upstream::Servers(list) => return list.clone(),
            Upstream::File(path) => path,
        };
        let mut servers = self.inner.servers.lock();
        let now = Instant::now();
        if servers.looked.is_none_or(|at| now - at >= RELOAD) {
            servers.looked = Some(now);
            let changed = std::fs::metadata(path).and_then(|m| m.modified()).ok();
            if changed != servers.changed || changed.is_none() {
                servers.changed = changed;
                servers.list = read(path, &self.inner.own);
            }
        }
        servers.list.clone()
    }
}

/// The name servers of a resolver file.
fn read(path: &Path, own: &[IpAddr]) -> Vec<SocketAddr> {
    let conf = Conf::parse(&std::fs::read_to_string(path).unwrap_or_default());
    conf.servers.into_iter().filter(|server| !own.contains(&server.ip())).take(MAX_SERVERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_file_that_names_this_server_is_no_loop() {
        let path = std::env::temp_dir().join(format!("knarr-resolv-{}", std::process::id()));
        std::fs::write(&path, "search a b\nnameserver 10.244.0.1\n# nameserver 9.9.9.9\nnameserver 192.0.2.53\nnameserver ::1\n").unwrap();
        let own = [IpAddr::from([10, 244, 0, 1])];
        assert_eq!(read(&path, &own), ["192.0.2.53:53".parse().unwrap(), "[::1]:53".parse().unwrap()]);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_is_remembered_grows_old_and_is_forgotten() {
        use hickory_proto::rr::rdata::A;
        use hickory_proto::rr::{RData, Record};
        let forwarder = Forwarder::new(Upstream::Servers(Vec::new()), Vec::new());
        let name = Name::from_ascii("example.com.").unwrap();
        let mut question = Message::query();
        question.metadata.id = 7;
        question.add_query(Query::query(name.clone(), RecordType::A));
        let key = Key::of(&question, &question.queries[0], false).unwrap();
        let mut message = Message::query().into_response();
        message.add_answer(Record::from_rdata(name, 20, RData::A(A([192, 0, 2, 1].into()))));
        forwarder.remember(key.clone(), &message.to_vec().unwrap());
        let older = |seconds| {
            let mut cache = forwarder.inner.cache.lock();
            let entry = cache.get_mut(&key).unwrap();
            entry.since -= Duration::from_secs(seconds);
            entry.until -= Duration::from_secs(seconds);
        };
        let ttl = || Some(Message::from_vec(&forwarder.recall(&key, &question)?).unwrap()).map(|m| (m.metadata.id, m.answers[0].ttl));
        assert_eq!(ttl(), Some((7, 20)));
        older(15);
        assert_eq!(ttl(), Some((7, 5)));
        older(5);
        assert_eq!(ttl(), None);
    }

    #[test]
    fn what_depends_on_who_asks_or_how_is_not_shared() {
        use hickory_proto::op::Edns;
        use hickory_proto::rr::rdata::NS;
        use hickory_proto::rr::rdata::opt::EdnsOption;
        use hickory_proto::rr::{RData, Record};
        let name = Name::from_ascii("example.com.").unwrap();
        let mut plain = Message::query();
        plain.metadata.recursion_desired = true;
        plain.add_query(Query::query(name.clone(), RecordType::A));
        let key = |change: &dyn Fn(&mut Message)| {
            let mut question = plain.clone();
            change(&mut question);
            Key::of(&question, &question.queries[0], false)
        };
        let usual = key(&|_| {}).unwrap();
        assert!(key(&|q| q.metadata.recursion_desired = false).unwrap() != usual);
        assert!(key(&|q| q.metadata.checking_disabled = true).unwrap() != usual);
        let cookie = |q: &mut Message| {
            let mut edns = Edns::new();
            edns.options_mut().insert(EdnsOption::Unknown(10, vec![1; 8]));
            q.set_edns(edns);
        };
        assert!(key(&cookie).is_none());
        // A referral says nothing of whether there is data.
        let forwarder = Forwarder::new(Upstream::Servers(Vec::new()), Vec::new());
        let mut referral = Message::query().into_response();
        referral.add_authority(Record::from_rdata(name.clone(), 3600, RData::NS(NS(name))));
        forwarder.remember(usual.clone(), &referral.to_vec().unwrap());
        assert!(forwarder.recall(&usual, &plain).is_none());
    }

    #[tokio::test]
    async fn a_dead_server_costs_one_question_a_moment() {
        use tokio::net::UdpSocket;
        let dead = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let alive = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let servers = vec![dead.local_addr().unwrap(), alive.local_addr().unwrap()];
        let answers = async {
            let mut buffer = [0; 512];
            loop {
                let (length, from) = alive.recv_from(&mut buffer).await.unwrap();
                let answer = Message::from_vec(&buffer[..length]).unwrap().into_response();
                alive.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
            }
        };
        let asked = async {
            let forwarder = Forwarder::new(Upstream::Servers(servers), Vec::new());
            let mut question = Message::query();
            question.add_query(Query::query(Name::from_ascii("example.com.").unwrap(), RecordType::A));
            let bytes = question.to_vec().unwrap();
            let begun = Instant::now();
            assert!(forwarder.ask(&question, &bytes, false).await.is_some());
            assert!(begun.elapsed() >= NEXT);
            // From then on it is not asked first. (How long that takes is the machine's affair.)
            assert_eq!(*forwarder.inner.good.lock(), Some(alive.local_addr().unwrap()));
            assert!(forwarder.ask(&question, &bytes, false).await.is_some());
        };
        tokio::select! { () = answers => {}, () = asked => {} }
    }
}
