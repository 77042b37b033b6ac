//! Names that are not the cluster's: asked of the host's own name servers, with a small memory.
//!
//! A question is passed on as it came (with a new number), its answer as it came back: nothing that this program does not
//! know is lost. Each question has its own socket, so that an answer from elsewhere is not taken for the server's. What
//! is remembered is looked at only when somebody asks; nothing runs by itself.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dial::{Conf, ask_tcp, ask_udp};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

/// How long one server may take.
const SERVER_TIMEOUT: Duration = Duration::from_secs(2);
/// Rounds over all servers.
const ROUNDS: usize = 2;
/// As resolvers do.
const MAX_SERVERS: usize = 3;
/// Questions on their way at a time; more are refused.
const MAX_IN_FLIGHT: usize = 512;
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
    permits: Semaphore,
}

impl Forwarder {
    /// `own` are the addresses at which this server answers: a resolver file that names them would be a loop.
    pub(super) fn new(upstream: Upstream, own: Vec<IpAddr>) -> Self {
        let servers = Mutex::new(Servers { list: Vec::new(), changed: None, looked: None });
        let inner = Inner { upstream, own, servers, cache: Mutex::default(), permits: Semaphore::new(MAX_IN_FLIGHT) };
        Self { inner: Arc::new(inner) }
    }

    /// The answer to a question in wire form, with the question's number. None: no server answered.
    pub(super) async fn ask(&self, question: &Message, bytes: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let query = question.queries.first()?;
        let dnssec = question.edns.as_ref().is_some_and(|e| e.flags().dnssec_ok);
        let (kind, class, edns) = (query.query_type(), query.query_class(), question.edns.is_some());
        let key = Key { name: query.name().to_lowercase(), kind, class, edns, dnssec, tcp };
        if let Some(answer) = self.recall(&key, question) {
            return Some(answer);
        }
        let _permit = self.inner.permits.try_acquire().ok()?;
        let servers = self.servers();
        for _ in 0..ROUNDS {
            for server in &servers {
                let asked = async { if tcp { ask_tcp(*server, bytes).await } else { ask_udp(*server, bytes).await } };
                if let Ok(Ok(answer)) = timeout(SERVER_TIMEOUT, asked).await {
                    self.remember(key, &answer);
                    return Some(answer);
                }
            }
        }
        None
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
        // A negative answer without an authority's word on it is not to be believed for long, so not at all.
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
        let key = Key { name: name.clone(), kind: RecordType::A, class: DNSClass::IN, edns: false, dnssec: false, tcp: false };
        let mut message = Message::query().into_response();
        message.add_answer(Record::from_rdata(name, 20, RData::A(A([192, 0, 2, 1].into()))));
        forwarder.remember(key.clone(), &message.to_vec().unwrap());
        let older = |seconds| {
            let mut cache = forwarder.inner.cache.lock();
            let entry = cache.get_mut(&key).unwrap();
            entry.since -= Duration::from_secs(seconds);
            entry.until -= Duration::from_secs(seconds);
        };
        let mut question = Message::query();
        question.metadata.id = 7;
        let ttl = || Some(Message::from_vec(&forwarder.recall(&key, &question)?).unwrap()).map(|m| (m.metadata.id, m.answers[0].ttl));
        assert_eq!(ttl(), Some((7, 20)));
        older(15);
        assert_eq!(ttl(), Some((7, 5)));
        older(5);
        assert_eq!(ttl(), None);
    }
}
