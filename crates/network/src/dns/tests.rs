//! The cluster's names against the specification, without a network: questions in wire form, answers in wire form.

use std::net::{Ipv4Addr, SocketAddr};

use client::Informer;
use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use serde_json::{Value, json};
use tokio::net::UdpSocket;

use super::clients::Own;
use super::forward::{Forwarder, Upstream};
use super::server::{Answerer, ask};
use super::zone::Zone;
use crate::ranges::ServiceRanges;

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn service(name: &str, spec: Value) -> Service {
    from(json!({"metadata": {"namespace": "default", "name": name}, "spec": spec}))
}

fn slice(service: &str, endpoints: Value) -> EndpointSlice {
    from(json!({"metadata": {"namespace": "default", "name": format!("{service}-1"), "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]}))
}

fn answerer(upstream: Vec<SocketAddr>) -> Answerer {
    let http = json!([{"name": "http", "port": 80, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    let services = [
        service("web", json!({"clusterIP": "10.96.0.20", "clusterIPs": ["10.96.0.20"], "ports": http})),
        service("both", json!({"clusterIP": "10.96.0.40", "clusterIPs": ["10.96.0.40", "fd00:97:0::28"], "ports": http})),
        service("db", json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]})),
        service("empty", json!({"clusterIP": "None", "clusterIPs": ["None"]})),
        service("inner", json!({"type": "ExternalName", "externalName": "web.default.svc.cluster.local"})),
        service("outer", json!({"type": "ExternalName", "externalName": "example.com"})),
        service("loop", json!({"type": "ExternalName", "externalName": "loop.default.svc.cluster.local"})),
        service("portless", json!({"clusterIP": "None", "clusterIPs": ["None"]})),
    ];
    let many: Vec<Value> = (0..120).map(|i| json!({"addresses": [format!("10.244.9.{i}")], "conditions": {"ready": true}})).collect();
    let slices = [
        slice(
            "db",
            json!([
                {"addresses": ["10.244.0.5"], "hostname": "db-0", "conditions": {"ready": true}},
                {"addresses": ["10.244.0.6"], "conditions": {"ready": true}},
                {"addresses": ["10.244.0.7"], "hostname": "db-2", "conditions": {"ready": false}},
            ]),
        ),
        slice("many", Value::Array(many)),
        slice("empty", json!([])),
        // Of the time before it was an alias.
        slice("inner", json!([{"addresses": ["10.244.0.9"], "hostname": "old", "conditions": {"ready": true}}])),
        EndpointSlice { ports: None, ..slice("portless", json!([{"addresses": ["10.244.0.8"], "conditions": {"ready": true}}])) },
    ];
    let services = services.into_iter().chain([service("many", json!({"clusterIP": "None", "clusterIPs": ["None"]}))]);
    let namespaces: [Namespace; 1] = [from(json!({"metadata": {"name": "default"}}))];
    let more: ServiceCIDR = from(json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.97.0.0/24", "fd00:97::/112"]}}));
    let own = ServiceRanges::new(["10.244.0.0/16", "10.96.0.0/16"].map(|range| range.parse().unwrap()), Informer::fixed([more]));
    let dns = [10, 96, 0, 10].into();
    let zone = Zone::new("cluster.local", dns, own, Informer::fixed(services), Informer::fixed(slices), Informer::fixed(namespaces));
    Answerer::new(zone.unwrap(), Forwarder::new(Upstream::Servers(upstream), Vec::new()), Own::new(Vec::new()))
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.id = 4711;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn texts(answer: &Message) -> Vec<String> {
    let mut out: Vec<String> = answer.answers.iter().map(|r| r.data.to_string()).collect();
    out.sort();
    out
}

/// The answers' data, sorted; `NXDOMAIN` or `NODATA` if there are none, which both must bring the zone's SOA.
async fn say(answerer: &Answerer, name: &str, kind: RecordType) -> Vec<String> {
    let answer = ask(answerer, &question(name, kind), false).await;
    assert_eq!(answer.metadata.id, 4711);
    assert!(answer.metadata.authoritative && answer.metadata.recursion_available, "{name}");
    if answer.answers.is_empty() {
        assert!(matches!(answer.authorities[0].data, RData::SOA(_)), "{name}");
        let zone = ["in-addr.arpa.", "ip6.arpa."].into_iter().find(|zone| name.ends_with(zone)).unwrap_or("cluster.local.");
        assert_eq!(answer.authorities[0].name, Name::from_ascii(zone).unwrap());
        return vec![if answer.metadata.response_code == ResponseCode::NXDomain { "NXDOMAIN" } else { "NODATA" }.to_owned()];
    }
    texts(&answer)
}

/// Of `fd00:97::28`, which a Service has, and of `fd00:97::29`, which none has.
const REVERSE: &str = "8.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.7.9.0.0.0.0.d.f.ip6.arpa.";
const REVERSE_OF_NOBODY: &str = "9.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.7.9.0.0.0.0.d.f.ip6.arpa.";

#[tokio::test]
async fn names_of_services_and_pods() {
    use RecordType::{A, AAAA, ANY, CNAME, NS, PTR, SRV, TXT};
    let a = answerer(Vec::new());
    for (name, kind, wanted) in [
        ("web.default.svc.cluster.local.", A, &["10.96.0.20"][..]),
        ("WEB.Default.svc.CLUSTER.local.", A, &["10.96.0.20"]),
        ("web.default.svc.cluster.local.", AAAA, &["NODATA"]),
        ("web.default.svc.cluster.local.", ANY, &["NODATA"]),
        ("nope.default.svc.cluster.local.", ANY, &["NXDOMAIN"]),
        ("_http._tcp.web.default.svc.cluster.local.", SRV, &["0 100 80 web.default.svc.cluster.local."]),
        ("_http._tcp.web.default.svc.cluster.local.", A, &["10.96.0.20"]),
        ("_http._tcp.web.default.svc.cluster.local.", AAAA, &["NODATA"]),
        ("_http._tcp.both.default.svc.cluster.local.", AAAA, &["fd00:97::28"]),
        ("_http._tcp.both.default.svc.cluster.local.", SRV, &["0 50 80 both.default.svc.cluster.local."]),
        ("_http._tcp.db.default.svc.cluster.local.", A, &["10.244.0.5", "10.244.0.6"]),
        ("_tcp.web.default.svc.cluster.local.", A, &["NODATA"]),
        ("_dns._udp.web.default.svc.cluster.local.", SRV, &["0 100 53 web.default.svc.cluster.local."]),
        ("_http._udp.web.default.svc.cluster.local.", SRV, &["NXDOMAIN"]),
        // Without underscores they mean the same, and not any port: `www.example.web` is no name of this cluster's.
        ("http.tcp.web.default.svc.cluster.local.", SRV, &["0 100 80 web.default.svc.cluster.local."]),
        ("www.example.web.default.svc.cluster.local.", A, &["NXDOMAIN"]),
        ("www.example.web.default.svc.cluster.local.", SRV, &["NXDOMAIN"]),
        ("web.other.svc.cluster.local.", A, &["NXDOMAIN"]),
        ("nope.default.svc.cluster.local.", A, &["NXDOMAIN"]),
        ("example.com.default.svc.cluster.local.", A, &["NXDOMAIN"]),
        ("example.com.cluster.local.", A, &["NXDOMAIN"]),
        ("default.svc.cluster.local.", A, &["NODATA"]),
        ("other.svc.cluster.local.", A, &["NXDOMAIN"]),
        ("svc.cluster.local.", A, &["NODATA"]),
        ("cluster.local.", A, &["NODATA"]),
        ("cluster.local.", NS, &["ns.dns.cluster.local."]),
        ("ns.dns.cluster.local.", A, &["10.96.0.10"]),
        ("db.default.svc.cluster.local.", A, &["10.244.0.5", "10.244.0.6"]),
        ("db-0.db.default.svc.cluster.local.", A, &["10.244.0.5"]),
        ("10-244-0-6.db.default.svc.cluster.local.", A, &["10.244.0.6"]),
        ("10-244-0-5.db.default.svc.cluster.local.", A, &["NXDOMAIN"]),
        ("db-2.db.default.svc.cluster.local.", A, &["NXDOMAIN"]),
        (
            "_http._tcp.db.default.svc.cluster.local.",
            SRV,
            &["0 50 8080 10-244-0-6.db.default.svc.cluster.local.", "0 50 8080 db-0.db.default.svc.cluster.local."],
        ),
        ("db-0.db.default.svc.cluster.local.", SRV, &["0 100 8080 db-0.db.default.svc.cluster.local."]),
        ("db-2.db.default.svc.cluster.local.", SRV, &["NXDOMAIN"]),
        ("empty.default.svc.cluster.local.", A, &["NXDOMAIN"]),
        ("empty.default.svc.cluster.local.", SRV, &["NXDOMAIN"]),
        // No port, and no name that is missing: who has asked for that once would not find its addresses for a while.
        ("portless.default.svc.cluster.local.", SRV, &["NODATA"]),
        ("portless.default.svc.cluster.local.", A, &["10.244.0.8"]),
        ("1-2-3-4.default.pod.cluster.local.", A, &["1.2.3.4"]),
        ("1-2-3-4.default.pod.cluster.local.", AAAA, &["NODATA"]),
        ("1-2-3-4.other.pod.cluster.local.", A, &["NXDOMAIN"]),
        ("1-2-3.default.pod.cluster.local.", A, &["NXDOMAIN"]),
        ("dns-version.cluster.local.", TXT, &["1.1.0"]),
        ("both.default.svc.cluster.local.", A, &["10.96.0.40"]),
        ("both.default.svc.cluster.local.", AAAA, &["fd00:97::28"]),
        (REVERSE, PTR, &["both.default.svc.cluster.local."]),
        (REVERSE_OF_NOBODY, PTR, &["NXDOMAIN"]),
        ("20.0.96.10.in-addr.arpa.", PTR, &["web.default.svc.cluster.local."]),
        ("5.0.244.10.in-addr.arpa.", PTR, &["db-0.db.default.svc.cluster.local."]),
        ("6.0.244.10.in-addr.arpa.", PTR, &["10-244-0-6.db.default.svc.cluster.local."]),
        ("99.0.244.10.in-addr.arpa.", PTR, &["NXDOMAIN"]),
        ("7.0.244.10.in-addr.arpa.", PTR, &["NXDOMAIN"]),
        ("7.0.97.10.in-addr.arpa.", PTR, &["NXDOMAIN"]),
        ("inner.default.svc.cluster.local.", CNAME, &["web.default.svc.cluster.local."]),
        ("inner.default.svc.cluster.local.", A, &["10.96.0.20", "web.default.svc.cluster.local."]),
        ("_http._tcp.inner.default.svc.cluster.local.", SRV, &["NXDOMAIN"]),
        ("old.inner.default.svc.cluster.local.", A, &["NXDOMAIN"]),
        ("www.example.inner.default.svc.cluster.local.", A, &["NXDOMAIN"]),
    ] {
        assert_eq!(say(&a, name, kind).await, wanted, "{name} {kind}");
    }
    let endless = ask(&a, &question("loop.default.svc.cluster.local.", A), false).await;
    assert!(endless.answers.len() < 20);
    let srv = ask(&a, &question("_http._tcp.db.default.svc.cluster.local.", SRV), false).await;
    assert_eq!(srv.additionals.len(), 2, "the targets' addresses come along");
}

#[tokio::test]
async fn large_answers_are_cut_to_what_the_client_takes() {
    let a = answerer(Vec::new());
    let mut asked = question("many.default.svc.cluster.local.", RecordType::A);
    let plain = ask(&a, &asked, false).await;
    assert!(plain.metadata.truncation && plain.answers.len() > 5 && plain.to_vec().unwrap().len() <= 512);
    let tcp = ask(&a, &asked, true).await;
    assert!(!tcp.metadata.truncation && tcp.answers.len() == 120);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    asked.set_edns(edns);
    let wide = ask(&a, &asked, false).await;
    assert!(!wide.metadata.truncation && wide.answers.len() == 120 && wide.edns.is_some());
}

#[tokio::test]
async fn bad_questions_get_their_answer() {
    let a = answerer(Vec::new());
    let mut two = question("web.default.svc.cluster.local.", RecordType::A);
    two.add_query(two.queries[0].clone());
    assert_eq!(ask(&a, &two, false).await.metadata.response_code, ResponseCode::FormErr);
    let transfer = question("cluster.local.", RecordType::AXFR);
    assert_eq!(ask(&a, &transfer, true).await.metadata.response_code, ResponseCode::Refused);
    let mut chaos = question("web.default.svc.cluster.local.", RecordType::A);
    chaos.queries[0].set_query_class(hickory_proto::rr::DNSClass::CH);
    assert_eq!(ask(&a, &chaos, false).await.metadata.response_code, ResponseCode::Refused);
    let elsewhere = question("example.com.", RecordType::A);
    assert_eq!(ask(&a, &elsewhere, false).await.metadata.response_code, ResponseCode::ServFail, "nobody to ask");
}

/// A server elsewhere that knows one address and counts its questions.
async fn upstream() -> (SocketAddr, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        loop {
            let (n, from) = socket.recv_from(&mut buffer).await.unwrap();
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let asked = Message::from_vec(&buffer[..n]).unwrap();
            let mut answer = asked.clone().into_response();
            let name = asked.queries[0].name().clone();
            if name == Name::from_ascii("example.com.").unwrap() {
                let data = RData::A(hickory_proto::rr::rdata::A([93, 184, 216, 34].into()));
                answer.add_answer(hickory_proto::rr::Record::from_rdata(name, 20, data));
            } else {
                answer.metadata.response_code = ResponseCode::NXDomain;
            }
            // What is not an answer to the question must be passed over.
            socket.send_to(b"\0\0\x80\0\0\0\0\0\0\0\0\0", from).await.unwrap();
            socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
        }
    });
    (address, count)
}

#[tokio::test]
async fn other_names_are_asked_elsewhere_and_remembered() {
    let (address, count) = upstream().await;
    let a = answerer(vec![address]);
    for _ in 0..3 {
        let answer = ask(&a, &question("example.com.", RecordType::A), false).await;
        assert_eq!(texts(&answer), ["93.184.216.34"]);
        assert_eq!(answer.metadata.id, 4711);
    }
    assert_eq!(count.load(std::sync::atomic::Ordering::Relaxed), 1, "the answer is remembered for its time");
    let alias = ask(&a, &question("outer.default.svc.cluster.local.", RecordType::A), false).await;
    assert_eq!(texts(&alias), ["93.184.216.34", "example.com."]);
    let missing = ask(&a, &question("nope.example.com.", RecordType::A), false).await;
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn a_missing_name_behind_an_alias_brings_its_authority() {
    let (address, _) = upstream().await;
    let a = answerer(vec![address]);
    let services = [service("away", json!({"type": "ExternalName", "externalName": "nope.default.svc.cluster.local"}))];
    let zone = Zone::new(
        "cluster.local",
        [10, 96, 0, 10].into(),
        ServiceRanges::new([], Informer::fixed([])),
        Informer::fixed(services),
        Informer::fixed([]),
        Informer::fixed([]),
    );
    let away = Answerer::new(zone.unwrap(), Forwarder::new(Upstream::Servers(Vec::new()), Vec::new()), Own::new(Vec::new()));
    let answer = ask(&away, &question("away.default.svc.cluster.local.", RecordType::A), false).await;
    assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NXDomain, 1));
    assert!(matches!(answer.authorities[0].data, RData::SOA(_)));
    let there = ask(&a, &question("outer.default.svc.cluster.local.", RecordType::A), false).await;
    assert!(there.authorities.is_empty());
}

#[tokio::test]
async fn thousands_of_endpoints_cost_no_more_than_an_answer() {
    let count = 5000_u32;
    let endpoint =
        |n: u32| json!({"addresses": [Ipv4Addr::from_bits(Ipv4Addr::new(10, 244, 0, 0).to_bits() + n)], "hostname": format!("db-{n}"), "conditions": {}});
    let slices: Vec<EndpointSlice> = (0..count / 100)
        .map(|at| {
            let mut slice = slice("db", (0..100).map(|n| endpoint(at * 100 + n)).collect());
            slice.metadata.name = Some(format!("db-{at}"));
            slice
        })
        .collect();
    let services = [service("db", json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"name": "http", "port": 80}]}))];
    let zone = Zone::new(
        "cluster.local",
        [10, 96, 0, 10].into(),
        ServiceRanges::new([], Informer::fixed([])),
        Informer::fixed(services),
        Informer::fixed(slices),
        Informer::fixed([]),
    );
    let a = Answerer::new(zone.unwrap(), Forwarder::new(Upstream::Servers(Vec::new()), Vec::new()), Own::new(Vec::new()));
    let begun = std::time::Instant::now();
    for (name, kind) in [("db.default.svc.cluster.local.", RecordType::A), ("_http._tcp.db.default.svc.cluster.local.", RecordType::SRV)] {
        let cut = ask(&a, &question(name, kind), false).await;
        assert!(cut.metadata.truncation && cut.answers.len() > 3 && cut.to_vec().unwrap().len() <= 512, "{name}");
        let whole = ask(&a, &question(name, kind), true).await;
        assert!(whole.answers.len() > 500, "{name}: {}", whole.answers.len());
    }
    let one = ask(&a, &question("db-4999.db.default.svc.cluster.local.", RecordType::A), false).await;
    assert_eq!(texts(&one), ["10.244.19.135"]);
    // Two seconds for each when every record was compared with every other, and many times that without optimisation; the
    // limit is for a busy machine.
    assert!(begun.elapsed() < std::time::Duration::from_secs(60), "{:?}", begun.elapsed());
}

/// Numbers that look random and are the same each time (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % n as u64).unwrap()
    }
}

/// Questions as they come, one a line in hexadecimal.
fn corpus() -> Vec<Vec<u8>> {
    let lines = include_str!("../../tests/corpus/dns.txt").lines().filter(|l| !l.starts_with('#') && !l.is_empty());
    let bytes = |line: &str| (0..line.len()).step_by(2).map(|at| u8::from_str_radix(&line[at..at + 2], 16).unwrap()).collect();
    lines.map(bytes).collect()
}

fn mutate(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len().max(1));
        match random.below(6) {
            0 => bytes.truncate(at),
            1 if !bytes.is_empty() => bytes[at] = u8::try_from(random.below(256)).unwrap(),
            // A pointer to anywhere, also to itself.
            2 if bytes.len() > at + 1 => {
                bytes[at] = 0xc0;
                bytes[at + 1] = u8::try_from(random.below(256)).unwrap();
            }
            3 => bytes.insert(at, [0, 0xff, 63, 0x80][random.below(4)]),
            4 => {
                let other = &corpus[random.below(corpus.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(&other[random.below(other.len())..]);
            }
            _ if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            _ => {}
        }
    }
    bytes
}

/// The short form of a search for questions that hurt; `KNARR_FUZZ_SECONDS` makes it long.
#[tokio::test]
async fn no_bytes_hurt_the_name_server() {
    let a = answerer(Vec::new());
    let corpus = corpus();
    assert!(corpus.iter().filter(|bytes| Message::from_vec(bytes).is_ok()).count() > 8, "most of the corpus are questions");
    let seconds = std::env::var("KNARR_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut asked, mut answered) = (0_u64, 0_u64);
    while asked < 20_000 || std::time::Instant::now() < end {
        let bytes = mutate(&mut random, &corpus);
        for tcp in [false, true] {
            let Some(answer) = super::server::answer(&a, &bytes, tcp).await else { continue };
            answered += 1;
            assert_eq!(answer[..2], bytes[..2], "{bytes:02x?}");
            assert!(answer[2] & 0x80 != 0 && answer.len() <= if tcp { 65_535 } else { 4096 }, "{bytes:02x?}");
            assert!(Message::from_vec(&answer).is_ok(), "{bytes:02x?} -> {answer:02x?}");
        }
        asked += 1;
    }
    assert!(answered > 1000, "{answered} of {asked} were questions");
}
