//! DNS as pods see it: through the Service, over UDP and TCP, from the first moment that it says it is ready.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, UdpSocket};

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use network::dns::{self, Upstream};
use network::proxy::{self, NodePortAddresses};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::{SERVICES, SLICES, Server};
use crate::world::{DEADLINE, NODE_IP, Node, dial, machine};

const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

fn question(name: &str) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

fn first(answer: &[u8]) -> String {
    Message::from_vec(answer).unwrap().answers.first().map(|r| r.data.to_string()).unwrap_or_default()
}

fn by_udp(name: &str) -> String {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.send_to(&question(name), (DNS, 53)).unwrap();
    let mut buffer = [0; 1500];
    let (n, from) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!(from.to_string(), "10.96.0.10:53", "who was asked answers");
    first(&buffer[..n])
}

fn by_tcp(name: &str) -> String {
    let mut stream = dial((DNS, 53)).unwrap();
    let question = question(name);
    let mut framed = (question.len() as u16).to_be_bytes().to_vec();
    framed.extend(question);
    stream.write_all(&framed).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).unwrap();
    first(&answer)
}

#[test]
fn pods_and_the_host_resolve_names_through_the_service() {
    for taken in [false, true] {
        machine(move |_outside| {
            let node = Node::new();
            // Somebody may have the port already.
            let _other = taken.then(|| std::net::TcpListener::bind((NODE_IP, 53)).unwrap());
            let api = Server::default();
            api.put(SERVICES, json!({"metadata": {"namespace": "default", "name": "web"}, "spec": {"clusterIP": "10.96.0.20", "ports": [{"port": 80}]}}));
            let stop = CancellationToken::new();
            let (proxied, mut proxy_ready) = watch::channel(false);
            let (answered, mut dns_ready) = watch::channel(false);
            let ranges = vec![node.config.parts[0].pod_cidr];
            let proxy = proxy::Config {
                mark: node.config.mark.clone(),
                node_name: "n1".into(),
                sides: node.config.parts.iter().copied().map(Into::into).collect(),
                node_ports: NodePortAddresses::All,
                own_ports: Vec::new(),
                health: Vec::new(),
            };
            let informers = node.runtime.block_on(async { api.informers() });
            let dns = dns::Config {
                node_name: "n1".into(),
                listen: NODE_IP.into(),
                cluster_ip: DNS.into(),
                domain: "cluster.local".into(),
                own_ranges: ranges,
                upstream: Upstream::Servers(Vec::new()),
                publish: Some(informers.client().clone()),
            };
            let names = node.runtime.spawn(dns::run(dns, informers.clone(), stop.clone(), answered));
            let services = node.runtime.spawn(proxy::run(proxy, informers, stop.clone(), proxied));
            node.runtime.block_on(async {
                tokio::time::timeout(DEADLINE, async {
                    dns_ready.wait_for(|r| *r).await.unwrap();
                    proxy_ready.wait_for(|r| *r).await.unwrap();
                })
                .await
                .unwrap();
            });
            let slice = api.get(SLICES, "kube-system/kube-dns-n1").unwrap();
            assert_eq!(slice["endpoints"][0]["addresses"], json!([NODE_IP]));
            assert_eq!(slice["ports"][0]["port"] == json!(53), !taken);
            assert_eq!(slice["metadata"]["ownerReferences"][0]["name"], "kube-dns");
            let (a, _) = node.pod("a");
            let web = "web.default.svc.cluster.local.";
            assert_eq!(a.run(move || by_udp(web)), "10.96.0.20");
            assert_eq!(a.run(move || by_tcp(web)), "10.96.0.20");
            assert_eq!(by_udp(web), "10.96.0.20");
            assert_eq!(by_tcp("kube-dns.kube-system.svc.cluster.local."), "10.96.0.10");
            // Somebody clears up; what leads here is made again.
            api.remove(SLICES, "kube-system/kube-dns-n1");
            api.remove(SERVICES, "kube-system/kube-dns");
            let begun = std::time::Instant::now();
            while api.get(SLICES, "kube-system/kube-dns-n1").is_none() || api.get(SERVICES, "kube-system/kube-dns").is_none() {
                assert!(begun.elapsed() < DEADLINE, "kube-dns is not made again");
                std::thread::yield_now();
            }
            // Somebody else's name server takes the Service over.
            let mut service = api.get(SERVICES, "kube-system/kube-dns").unwrap();
            service["spec"]["selector"] = json!({"k8s-app": "kube-dns"});
            api.put(SERVICES, service);
            while api.get(SLICES, "kube-system/kube-dns-n1").is_some_and(|slice| slice["endpoints"] != json!([])) {
                assert!(begun.elapsed() < DEADLINE, "this one stands back");
                std::thread::yield_now();
            }
            stop.cancel();
            node.runtime.block_on(async { (names.await.unwrap().unwrap(), services.await.unwrap().unwrap()) });
        });
    }
}
