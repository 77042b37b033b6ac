//! Services on a real kernel: who answers, under which address the caller is seen, and what changes under load.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use network::conntrack;
use network::link;
use network::netlink::{self, Messages, Socket};
use network::nft::{self, Family};
use network::pod::OwnPort;
use network::proxy::{self, NodePortAddresses};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::{NODES, SERVICE_CIDRS, SERVICES, SLICES, Server};
use crate::world::{DEADLINE, HOST, NODE_IP, Node, OUTSIDE, Space, ask, call, dial, machine};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 20);
const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// A node with pods, an API and a proxy.
pub struct Cluster {
    pub node: Node,
    pub api: Server,
    stop: CancellationToken,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Cluster {
    fn new(node_ports: NodePortAddresses) -> Self {
        Self::on(Node::new(), node_ports)
    }

    pub fn on(node: Node, node_ports: NodePortAddresses) -> Self {
        let this = Self { node, api: Server::default(), stop: CancellationToken::new() };
        this.start(node_ports);
        this
    }

    fn start(&self, node_ports: NodePortAddresses) {
        let mut health = vec![self.node.config.parts[0].node_ip()];
        if node_ports == NodePortAddresses::All {
            health.push(LOCALHOST.into());
        }
        let config = proxy::Config {
            mark: self.node.config.mark.clone(),
            node_name: "n1".into(),
            sides: self.node.config.parts.iter().copied().map(Into::into).collect(),
            node_ports,
            own_ports: self.node.config.own_ports.clone(),
            health,
        };
        let (ready, mut told) = watch::channel(false);
        let (api, stop) = (self.api.clone(), self.stop.clone());
        self.node.runtime.spawn(async move { proxy::run(config, api.informers(), stop, ready).await.unwrap() });
        self.node.runtime.block_on(async { told.wait_for(|r| *r).await.map(drop) }).unwrap();
    }

    fn service(&self, name: &str, spec: Value) {
        let spec =
            merge(json!({"clusterIP": VIP, "ports": [{"name": "p", "port": 80, "protocol": "TCP"}, {"name": "u", "port": 80, "protocol": "UDP"}]}), spec);
        self.api.put(SERVICES, json!({"metadata": {"namespace": "default", "name": name}, "spec": spec}));
    }

    fn endpoints(&self, name: &str, endpoints: &[Value]) {
        self.api.put(
            SLICES,
            json!({"metadata": {"namespace": "default", "name": format!("{name}-x"), "labels": {"kubernetes.io/service-name": name}},
                "addressType": "IPv4", "endpoints": endpoints,
                "ports": [{"name": "p", "port": 8080, "protocol": "TCP"}, {"name": "u", "port": 8080, "protocol": "UDP"}]}),
        );
    }
}

fn merge(mut base: Value, over: Value) -> Value {
    let Value::Object(over) = over else { return base };
    for (key, value) in over {
        base[key] = value;
    }
    base
}

fn ready(ip: Ipv4Addr) -> Value {
    json!({"addresses": [ip], "conditions": {"ready": true, "serving": true, "terminating": false}, "nodeName": "n1"})
}

fn terminating(ip: Ipv4Addr) -> Value {
    json!({"addresses": [ip], "conditions": {"ready": false, "serving": true, "terminating": true}, "nodeName": "n1"})
}

fn elsewhere(ip: Ipv4Addr) -> Value {
    json!({"addresses": [ip], "conditions": {"ready": true}, "nodeName": "n2"})
}

/// Waits until an answer is as wanted.
pub fn until<T: std::fmt::Debug>(what: &str, ask: impl Fn() -> T, good: impl Fn(&T) -> bool) {
    drop(settle(what, ask, good));
}

/// Asks until the answer is as wanted: changes take effect within a moment, not at once.
fn settle<T: std::fmt::Debug>(what: &str, ask: impl Fn() -> T, good: impl Fn(&T) -> bool) -> T {
    let begun = Instant::now();
    loop {
        let answer = ask();
        if good(&answer) {
            return answer;
        }
        assert!(begun.elapsed() < DEADLINE, "{what}: {answer:?}");
        std::thread::yield_now();
    }
}

fn served(answer: &std::io::Result<String>, by: &str) -> bool {
    answer.as_ref().is_ok_and(|a| a.starts_with(by))
}

/// Refused at once, and not by silence.
fn refused(answer: &std::io::Result<String>) -> bool {
    answer.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
}

#[test]
fn a_service_is_reached_from_pods_the_host_and_the_outside() {
    machine(|outside| {
        let cluster = Cluster::new(NodePortAddresses::All);
        let (a, ip_a) = cluster.node.pod("a");
        let (b, ip_b) = cluster.node.pod("b");
        let external = Ipv4Addr::new(203, 0, 113, 7);
        cluster.service("web", json!({"type": "NodePort", "externalIPs": [external], "ports": [{"name": "p", "port": 80, "nodePort": 30080}]}));
        cluster.endpoints("web", &[ready(ip_a)]);
        let answer = settle("from a pod", || b.call((VIP, 80)), |a| a.is_ok());
        assert_eq!(answer.unwrap(), format!("a {ip_b}"), "a pod keeps its address");
        assert_eq!(a.call((VIP, 80)).unwrap(), format!("a {NODE_IP}"), "a pod reaches itself");
        assert_eq!(call((VIP, 80)).unwrap(), format!("a {NODE_IP}"));
        for address in [NODE_IP, HOST, LOCALHOST] {
            assert_eq!(call((address, 30080)).unwrap(), format!("a {NODE_IP}"), "{address}");
        }
        assert_eq!(outside.call((HOST, 30080)).unwrap(), format!("a {NODE_IP}"));
        assert_eq!(b.call((HOST, 30080)).unwrap(), format!("a {NODE_IP}"));
        assert_eq!(outside.call((external, 80)).unwrap(), format!("a {NODE_IP}"), "an external address");
        assert!(refused(&b.call((VIP, 81))), "a port that the Service does not have");

        cluster.endpoints("web", &[]);
        until("refused without endpoints", || b.call((VIP, 80)), refused);
        // Each time, and at once: an attempt ends before a caller would say again what it asked.
        for from in [&b, &outside].into_iter().cycle().take(20) {
            let answer = from.call((VIP, 80));
            assert!(refused(&answer), "{answer:?}");
        }
        assert!(refused(&call((VIP, 80))));
        assert!(refused(&call((LOCALHOST, 30080))));
        assert!(refused(&outside.call((HOST, 30080))));
        assert!(refused(&outside.call((external, 80))));

        cluster.endpoints("web", &[ready(ip_a), ready(ip_b)]);
        until("endpoints are back", || b.call((VIP, 80)), |a| a.is_ok());
        let mut count: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..200 {
            let answer = outside.call((HOST, 30080)).unwrap();
            *count.entry(answer[..1].to_owned()).or_default() += 1;
        }
        assert!(count["a"] > 50 && count["b"] > 50, "{count:?}");
        cluster.api.remove(SERVICES, "default/web");
        until("removed", || call((NODE_IP, 30080)), refused);
    });
}

#[test]
fn node_ports_only_at_the_nodes_own_addresses() {
    machine(|outside| {
        let cluster = Cluster::new(NodePortAddresses::Only(vec![NODE_IP.into(), LOCALHOST.into()]));
        let (_a, ip_a) = cluster.node.pod("a");
        cluster.service("web", json!({"type": "NodePort", "ports": [{"name": "p", "port": 80, "nodePort": 30080}]}));
        cluster.endpoints("web", &[ready(ip_a)]);
        until("at the node's address", || outside.call((NODE_IP, 30080)), |a| served(a, "a"));
        assert!(served(&call((LOCALHOST, 30080)), "a"));
        assert!(refused(&outside.call((HOST, 30080))), "another's address");
    });
}

#[test]
fn affinity_keeps_a_client_with_its_endpoint_while_it_lives() {
    machine(|_outside| {
        let cluster = Cluster::new(NodePortAddresses::All);
        let pods: Vec<(Space, Ipv4Addr)> = ["a", "b", "c", "d"].iter().map(|n| cluster.node.pod(n)).collect();
        let all: Vec<Value> = pods.iter().map(|(_, ip)| ready(*ip)).collect();
        cluster.service("web", json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 100}}}));
        cluster.endpoints("web", &all);
        let clients: Vec<(Space, Ipv4Addr)> = (0..12).map(|i| cluster.node.pod(&format!("client-{i}"))).collect();
        until("served", || clients[0].0.call((VIP, 80)), |a| a.is_ok());
        let who = |space: &Space| space.call((VIP, 80)).unwrap().split(' ').next().unwrap().to_owned();
        let first: Vec<String> = clients.iter().map(|(c, _)| who(c)).collect();
        for _ in 0..10 {
            assert_eq!(clients.iter().map(|(c, _)| who(c)).collect::<Vec<_>>(), first);
        }
        let distinct: std::collections::HashSet<_> = first.iter().collect();
        assert!(distinct.len() > 1, "clients are spread: {first:?}");
        // One endpoint goes: its clients move once and stay; the others do not notice.
        let gone = first[0].clone();
        let index = ["a", "b", "c", "d"].iter().position(|n| *n == gone).unwrap();
        let rest: Vec<Value> = all.iter().enumerate().filter(|(i, _)| *i != index).map(|(_, v)| v.clone()).collect();
        cluster.endpoints("web", &rest);
        let moved = settle("moved", || who(&clients[0].0), |w| *w != gone);
        for _ in 0..10 {
            assert_eq!(who(&clients[0].0), moved);
        }
        for ((client, _), before) in clients.iter().zip(&first).filter(|(_, before)| **before != gone) {
            assert_eq!(who(client), *before);
        }
        // It is back within a moment: it has new clients, and whoever has moved stays.
        cluster.endpoints("web", &all);
        let late = std::cell::Cell::new(0);
        let new = || {
            late.set(late.get() + 1);
            who(&cluster.node.pod(&format!("late-{}", late.get())).0)
        };
        until("it is back", new, |w| *w == gone);
        assert_eq!(who(&clients[0].0), moved);
        // Whoever lists all rules of the machine can read these.
        if let Ok(listed) = std::process::Command::new("nft").args(["list", "ruleset"]).output() {
            assert!(listed.status.success() && String::from_utf8_lossy(&listed.stdout).contains("aff-100/"), "{listed:?}");
        }
        // The time changes: other sets, and all goes on.
        cluster.service("web", json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 50}}}));
        cluster.service("web", json!({"sessionAffinity": "None"}));
        until("served", || (0..20).map(|_| who(&clients[0].0)).collect::<std::collections::HashSet<_>>().len(), |n| *n > 1);
    });
}

#[test]
fn policies_choose_local_and_terminating_endpoints() {
    machine(|outside| {
        let cluster = Cluster::new(NodePortAddresses::All);
        let (_a, ip_a) = cluster.node.pod("a");
        let (b, ip_b) = cluster.node.pod("b");
        let node_port = json!({"type": "NodePort", "externalTrafficPolicy": "Local", "ports": [{"name": "p", "port": 80, "nodePort": 30080}]});
        cluster.service("web", node_port.clone());
        cluster.endpoints("web", &[ready(ip_a), elsewhere(ip_b)]);
        let answer = settle("local", || outside.call((HOST, 30080)), |a| a.is_ok());
        assert_eq!(answer.unwrap(), format!("a {OUTSIDE}"), "the caller's address is kept");
        for _ in 0..10 {
            assert!(served(&outside.call((HOST, 30080)), "a"), "never the other node's");
        }
        // Only the other node has one: from outside silence, so that a balancer goes there; from inside all is well.
        // (The silence comes first: from inside the other node's endpoint was among the chosen before as well.)
        cluster.endpoints("web", &[elsewhere(ip_b)]);
        let silent = || outside.run(|| std::net::TcpStream::connect_timeout(&(HOST, 30080).into(), Duration::from_millis(300)).is_err());
        until("from outside", silent, |s| *s);
        for _ in 0..10 {
            assert!(served(&call((HOST, 30080)), "b"), "the only one there is");
        }

        // An endpoint that finishes serves on if there is no other, and takes nothing if there is.
        cluster.service("web", merge(node_port, json!({"externalTrafficPolicy": "Cluster"})));
        cluster.endpoints("web", &[terminating(ip_a)]);
        until("terminating", || call((VIP, 80)), |a| served(a, "a"));
        cluster.endpoints("web", &[terminating(ip_a), ready(ip_b)]);
        until("ready", || call((VIP, 80)), |a| served(a, "b"));
        for _ in 0..20 {
            assert!(served(&call((VIP, 80)), "b"));
        }
        // Inside, the local policy drops what has no endpoint here.
        cluster.service("web", json!({"internalTrafficPolicy": "Local"}));
        cluster.endpoints("web", &[ready(ip_a), elsewhere(ip_b)]);
        until("internal", || (0..10).map(|_| b.call((VIP, 80)).unwrap_or_default()).collect::<Vec<_>>(), |all| all.iter().all(|a| a.starts_with('a')));
    });
}

/// What a server of HTTP says.
fn get(to: (Ipv4Addr, u16), path: &str) -> std::io::Result<String> {
    let mut stream = dial(to)?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())?;
    let mut out = String::new();
    stream.read_to_string(&mut out).map(|_| out)
}

/// As kube-proxy at its own port, for balancers of Services whose traffic any node may take.
#[test]
fn a_node_tells_whether_it_takes_new_connections() {
    machine(|_outside| {
        let cluster = Cluster::new(NodePortAddresses::All);
        let node = |taints: Value| json!({"metadata": {"name": "n1"}, "spec": {"taints": taints}});
        cluster.api.put(NODES, node(json!([])));
        let told = |path: &'static str| move || get((NODE_IP, 10256), path);
        let begins = |with: &'static str| move |answer: &std::io::Result<String>| answer.as_ref().is_ok_and(|a| a.starts_with(with));
        until("it is there", told("/healthz"), begins("HTTP/1.1 200"));
        cluster.api.put(NODES, node(json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}])));
        until("it is about to go", told("/healthz"), begins("HTTP/1.1 503"));
        let alive = told("/livez")().unwrap();
        assert!(alive.starts_with("HTTP/1.1 200") && alive.contains("\"healthy\":true") && !alive.contains("nodeEligible"), "{alive}");
        cluster.api.put(NODES, node(json!([])));
        until("it stays", told("/healthz"), begins("HTTP/1.1 200"));
        cluster.api.remove(NODES, "/n1");
        until("it has gone", told("/healthz"), begins("HTTP/1.1 503"));
        // What it counts is told on loopback alone.
        cluster.service("web", json!({}));
        let counts = |path: &'static str| move || get((LOCALHOST, 10249), path);
        let has = |line: &'static str| move |answer: &std::io::Result<String>| answer.as_ref().is_ok_and(|a| a.contains(line));
        until("its counts", counts("/metrics"), has("kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}"));
        until("its mode", counts("/proxyMode"), has("\r\n\r\nnftables"));
        assert!(refused(&call((NODE_IP, 10249))));
    });
}

#[test]
fn load_balancers_have_sources_and_health_checks() {
    machine(|outside| {
        let cluster = Cluster::new(NodePortAddresses::All);
        let (_a, ip_a) = cluster.node.pod("a");
        let balancer = Ipv4Addr::new(203, 0, 113, 9);
        let put = |ranges: Value| {
            cluster.api.put(
                SERVICES,
                json!({"metadata": {"namespace": "default", "name": "web"},
                "spec": {"type": "LoadBalancer", "clusterIP": VIP, "externalTrafficPolicy": "Local", "healthCheckNodePort": 32100,
                    "loadBalancerSourceRanges": ranges, "ports": [{"name": "p", "port": 80, "nodePort": 30080}]},
                "status": {"loadBalancer": {"ingress": [{"ip": balancer}]}}}),
            );
        };
        put(json!(["192.168.77.0/24"]));
        cluster.endpoints("web", &[ready(ip_a)]);
        until("the Service is there", || call((VIP, 80)), |a| served(a, "a"));
        until("allowed", || outside.call((balancer, 80)), |a| served(a, "a"));
        let health = || get((NODE_IP, 32100), "/healthz");
        let healthy = settle("health", health, |a| a.is_ok()).unwrap();
        assert!(healthy.starts_with("HTTP/1.1 200") && healthy.contains("\"localEndpoints\": 1"), "{healthy}");
        assert!(outside.run(move || dial((HOST, 32100))).is_ok(), "a balancer outside asks at the host's address");
        cluster.endpoints("web", &[terminating(ip_a)]);
        until("finishing", health, |a| a.as_ref().is_ok_and(|a| a.starts_with("HTTP/1.1 503")));
        assert!(served(&outside.call((balancer, 80)), "a"), "it serves on meanwhile");
        cluster.endpoints("web", &[]);
        until("unhealthy", health, |a| a.as_ref().is_ok_and(|a| a.starts_with("HTTP/1.1 503")));
        cluster.endpoints("web", &[ready(ip_a)]);
        put(json!(["198.51.100.0/24"]));
        let silent = || outside.run(move || std::net::TcpStream::connect_timeout(&(balancer, 80).into(), Duration::from_millis(200)).is_err());
        until("not allowed", silent, |s| *s);
    });
}

#[test]
fn endpoints_are_swapped_under_load_without_a_failed_request() {
    machine(|outside| {
        let cluster = Cluster::new(NodePortAddresses::All);
        let pods: Vec<(Space, Ipv4Addr)> = (0..6).map(|i| cluster.node.pod(&format!("p{i}"))).collect();
        cluster.service("web", json!({"type": "NodePort", "ports": [{"name": "p", "port": 80, "nodePort": 30080}]}));
        cluster.endpoints("web", &[ready(pods[0].1)]);
        until("served", || outside.call((HOST, 30080)), |a| a.is_ok());
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicUsize::new(0));
        let load = |kept: bool, to: (Ipv4Addr, u16), from: &Space| {
            let (stop, done) = (stop.clone(), done.clone());
            from.go(move || -> std::io::Result<()> {
                let mut open = dial(to)?;
                while !stop.load(Ordering::Relaxed) {
                    if kept {
                        ask(&mut open)?;
                    } else {
                        ask(&mut dial(to)?)?;
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        };
        let inside = Space::new();
        cluster.node.attach("load", &inside.path, Vec::new());
        let loads =
            [load(false, (HOST, 30080), &outside), load(true, (HOST, 30080), &outside), load(false, (VIP, 80), &inside), load(true, (VIP, 80), &inside)];
        let (mut slowest, mut turns) = (Duration::ZERO, 0);
        while turns < 300 {
            let (one, two) = (&pods[turns % 6], &pods[(turns * 5 + 1) % 6]);
            cluster.endpoints("web", &[ready(one.1), ready(two.1), terminating(pods[(turns + 3) % 6].1)]);
            if turns % 10 == 0 {
                let target = &pods[(turns + 2) % 6];
                cluster.endpoints("web", &[ready(target.1)]);
                let begun = Instant::now();
                let name = format!("p{} ", (turns + 2) % 6);
                until("swapped", || call((VIP, 80)), |a| served(a, &name));
                slowest = slowest.max(begun.elapsed());
            }
            turns += 1;
        }
        stop.store(true, Ordering::Relaxed);
        for load in loads {
            load.join().unwrap().expect("no request fails");
        }
        println!("{} requests over {turns} swaps, the slowest change took {slowest:?}", done.load(Ordering::Relaxed));
        assert!(done.load(Ordering::Relaxed) > 500);
    });
}

/// Asks by UDP over one socket, as a client does that never closes it.
fn datagram(socket: &UdpSocket, to: (Ipv4Addr, u16)) -> std::io::Result<String> {
    let mut buffer = [0; 64];
    socket.send_to(b"?", to)?;
    let (n, _) = socket.recv_from(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())
}

#[test]
fn udp_flows_follow_the_endpoints() {
    machine(|outside| {
        let cluster = Cluster::new(NodePortAddresses::All);
        let (_a, ip_a) = cluster.node.pod("a");
        let (_b, ip_b) = cluster.node.pod("b");
        cluster.service("dns", json!({"type": "NodePort", "ports": [{"name": "u", "port": 80, "protocol": "UDP", "nodePort": 30053}]}));
        let [early, socket] = [(); 2].map(|()| UdpSocket::bind("0.0.0.0:0").unwrap());
        for client in [&early, &socket] {
            client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        }
        datagram(&early, (HOST, 30053)).expect_err("nobody is there");
        cluster.endpoints("dns", &[ready(ip_a)]);
        until("a, for who called on the host before", || datagram(&early, (HOST, 30053)), |x| served(x, "a"));
        let far = Arc::new(outside.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            socket
        }));
        until("a", || datagram(&socket, (VIP, 80)), |x| served(x, "a"));
        until("a from outside", || datagram(&far, (HOST, 30053)), |x| served(x, "a"));
        cluster.endpoints("dns", &[ready(ip_b)]);
        until("b", || datagram(&socket, (VIP, 80)), |x| served(x, "b"));
        until("b from outside", || datagram(&far, (HOST, 30053)), |x| served(x, "b"));
        cluster.endpoints("dns", &[]);
        until("none", || datagram(&socket, (VIP, 80)), |x| x.is_err());
        cluster.endpoints("dns", &[ready(ip_a)]);
        until("a again", || datagram(&socket, (VIP, 80)), |x| served(x, "a"));
        // One that finishes its work keeps its flows until it goes, which changes no rule.
        cluster.endpoints("dns", &[terminating(ip_a), ready(ip_b)]);
        let fresh = || {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            datagram(&socket, (VIP, 80))
        };
        until("b has what is new", fresh, |x| served(x, "b"));
        until("a keeps its own", || datagram(&socket, (VIP, 80)), |x| served(x, "a"));
        cluster.endpoints("dns", &[ready(ip_b)]);
        until("b has all", || datagram(&socket, (VIP, 80)), |x| served(x, "b"));
    });
}

/// What a dead node's pods leave behind: a client that called one of them waits, and tries again.
#[test]
fn a_connection_that_nobody_answers_is_led_to_who_is_there_when_its_endpoint_goes() {
    machine(|outside| {
        let cluster = Cluster::new(NodePortAddresses::All);
        let (silent, ip_silent) = cluster.node.pod("silent");
        let (_b, ip_b) = cluster.node.pod("b");
        silent.run(move || {
            let mut route = Socket::open(netlink::ROUTE).unwrap();
            let index = link::find(&mut route, "eth0").unwrap().unwrap().index;
            link::remove_address(&mut route, index, ip_silent).unwrap();
        });
        cluster.service("web", json!({"type": "NodePort", "ports": [{"name": "p", "port": 80, "nodePort": 30080}]}));
        cluster.endpoints("web", &[ready(ip_silent)]);
        until("nobody answers", || outside.call((HOST, 30080)), |a| a.is_err() && !refused(a));
        let waits = outside.go(|| dial((HOST, 30080)));
        let tracked = RefCell::new(Socket::open(netlink::NETFILTER).unwrap());
        let called = || conntrack::unanswered(&mut tracked.borrow_mut(), Family::V4, |flow| flow.answers.0 == ip_silent).unwrap().len();
        until("it is called by both", called, |n| *n > 1);
        assert!(!waits.is_finished());
        cluster.endpoints("web", &[ready(ip_b)]);
        let mut stream = waits.join().unwrap().expect("what is sent again is answered");
        assert!(ask(&mut stream).unwrap().starts_with('b'));
        until("none is known any more", called, |n| *n == 0);
    });
}

#[test]
fn a_new_proxy_takes_over_without_breaking_connections() {
    machine(|outside| {
        let mut cluster = Cluster::new(NodePortAddresses::All);
        let (_a, ip_a) = cluster.node.pod("a");
        cluster.service("web", json!({"type": "NodePort", "ports": [{"name": "p", "port": 80, "nodePort": 30080}]}));
        cluster.endpoints("web", &[ready(ip_a)]);
        until("served", || outside.call((HOST, 30080)), |a| a.is_ok());
        let mut open = outside.run(|| dial((HOST, 30080)).unwrap());
        ask(&mut open).unwrap();
        cluster.stop.cancel();
        cluster.stop = CancellationToken::new();
        assert!(served(&outside.call((HOST, 30080)), "a"), "rules stay while nobody runs");
        cluster.start(NodePortAddresses::All);
        ask(&mut open).unwrap();
        assert!(served(&outside.call((HOST, 30080)), "a"));
    });
}

#[test]
fn two_services_may_claim_one_external_address() {
    machine(|outside| {
        let cluster = Cluster::new(NodePortAddresses::All);
        let (_a, ip_a) = cluster.node.pod("a");
        let (_b, ip_b) = cluster.node.pod("b");
        let external = Ipv4Addr::new(203, 0, 113, 7);
        cluster.service("one", json!({"externalIPs": [external]}));
        cluster.endpoints("one", &[ready(ip_a)]);
        until("one by itself", || call((VIP, 80)), |a| served(a, "a"));
        until("the first", || outside.call((external, 80)), |a| served(a, "a"));
        cluster.service("two", json!({"externalIPs": [external], "clusterIP": "10.96.0.21"}));
        cluster.endpoints("two", &[ready(ip_b)]);
        until("two by itself", || call(([10, 96, 0, 21].into(), 80)), |a| served(a, "b"));
        assert!(served(&outside.call((external, 80)), "a"), "the first keeps it");
        cluster.api.remove(SERVICES, "default/one");
        until("the second has it now", || outside.call((external, 80)), |a| served(a, "b"));
    });
}

/// What a user who may do nothing but make Services can do to the node's own ports and to another's cluster address.
#[test]
fn a_service_takes_neither_the_nodes_own_ports_nor_a_cluster_address() {
    machine(|outside| {
        let mut node = Node::new();
        let own = |port, protocol| OwnPort { ip: Some(NODE_IP.into()), port, protocol };
        node.config.own_ports = vec![own(6443, "TCP"), own(10250, "TCP"), own(53, "TCP"), own(53, "UDP")];
        let mut cluster = Cluster::on(node, NodePortAddresses::All);
        let (_a, ip_a) = cluster.node.pod("a");
        let (b, _) = cluster.node.pod("b");
        cluster.service("web", json!({}));
        cluster.endpoints("web", &[ready(ip_a)]);
        until("the Service", || b.call((VIP, 80)), |a| served(a, "a"));
        let listens = |port| {
            let listener = std::net::TcpListener::bind((NODE_IP, port)).unwrap();
            std::thread::spawn(move || while listener.accept().is_ok() {});
        };
        for port in [6443, 10250, 53] {
            listens(port);
        }
        let reached = |port: u16| {
            let answer = b.call((NODE_IP, port));
            // Who listens there says nothing, and a pod would have said its name.
            !served(&answer, "a") && !refused(&answer)
        };
        assert!([6443, 10250, 53].into_iter().all(reached));
        let ports: Vec<Value> = [6443, 10250, 53, 80, 81].map(|port| json!({"name": format!("p{port}"), "port": port, "protocol": "TCP"})).into();
        let spec = json!({"clusterIP": "10.96.0.66", "externalIPs": [NODE_IP, VIP], "ports": ports});
        cluster.api.put(SERVICES, json!({"metadata": {"namespace": "aaa", "name": "thief"}, "spec": spec}));
        let slice = |endpoints: &[Value]| {
            let ports: Vec<Value> = [6443, 10250, 53, 80, 81].map(|port| json!({"name": format!("p{port}"), "port": 8080, "protocol": "TCP"})).into();
            json!({"metadata": {"namespace": "aaa", "name": "thief-x", "labels": {"kubernetes.io/service-name": "thief"}},
                "addressType": "IPv4", "endpoints": endpoints, "ports": ports})
        };
        // With no endpoint it would refuse in their place.
        until("the thief's own address", || b.call(([10, 96, 0, 66].into(), 81)), refused);
        let nobodys = b.call((NODE_IP, 81));
        assert!(refused(&nobodys), "a port that is nobody's is its own: {nobodys:?}");
        assert!([6443, 10250, 53].into_iter().all(reached));
        assert!(served(&b.call((VIP, 80)), "a"));
        let (_c, ip_c) = cluster.node.pod("c");
        cluster.api.put(SLICES, slice(&[ready(ip_c)]));
        until("the thief's pod", || b.call(([10, 96, 0, 66].into(), 81)), |a| served(a, "c"));
        assert!(served(&outside.call((NODE_IP, 81)), "c") && served(&b.call((NODE_IP, 81)), "c"));
        assert!([6443, 10250, 53].into_iter().all(|port| !served(&b.call((NODE_IP, port)), "c") && reached(port)));
        // And after a restart, when Services are read in the order of their names.
        cluster.stop.cancel();
        cluster.stop = CancellationToken::new();
        cluster.start(NodePortAddresses::All);
        assert!(served(&b.call((VIP, 80)), "a") && [6443, 10250, 53].into_iter().all(reached));
    });
}

#[test]
fn many_services_start_and_change_quickly() {
    machine(|_outside| {
        let cluster = Cluster { node: Node::new(), api: Server::default(), stop: CancellationToken::new() };
        let (_a, ip_a) = cluster.node.pod("a");
        let (_b, ip_b) = cluster.node.pod("b");
        for i in 0..2000_u32 {
            let vip = Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 1, 0).to_bits() + i);
            cluster.service(&format!("s{i}"), json!({"clusterIP": vip}));
            cluster.endpoints(&format!("s{i}"), &[ready(ip_a), ready(ip_b)]);
        }
        let begun = Instant::now();
        cluster.start(NodePortAddresses::All);
        let start = begun.elapsed();
        cluster.service("web", json!({}));
        let mut times: Vec<Duration> = Vec::new();
        let mut names: HashMap<bool, &str> = HashMap::new();
        names.insert(true, "a");
        names.insert(false, "b");
        for i in 0..20 {
            let which = i % 2 == 0;
            let begun = Instant::now();
            cluster.endpoints("web", &[ready(if which { ip_a } else { ip_b })]);
            until("changed", || call((VIP, 80)), |a| served(a, names[&which]));
            times.push(begun.elapsed());
        }
        times.sort();
        println!("2000 Services: start {start:?}; a change is in effect after {:?} (median), {:?} (worst)", times[10], times[19]);
        // Some milliseconds, but the machine may have other work; writing all of them for each change takes longer than this.
        assert!(times[10] < Duration::from_secs(10), "{times:?}");
    });
}

#[test]
fn clusters_beside_each_other_do_not_touch() {
    machine(|outside| {
        let second = Ipv4Addr::new(10, 245, 0, 1);
        let one = Cluster::new(NodePortAddresses::All);
        let two = Cluster::on(Node::named("two", "10.245.0.0/16", "10.97.0.0/16"), NodePortAddresses::Only(vec![second.into()]));
        let (a, ip_a) = one.node.pod("a");
        let (b, ip_b) = two.node.pod("b");
        let vip = Ipv4Addr::new(10, 97, 0, 20);
        let spec = |vip: Ipv4Addr| json!({"type": "NodePort", "clusterIP": vip, "ports": [{"name": "p", "port": 80, "nodePort": 30080}]});
        one.service("web", spec(VIP));
        two.service("web", spec(vip));
        one.endpoints("web", &[ready(ip_a)]);
        two.endpoints("web", &[ready(ip_b)]);
        until("one", || a.call((VIP, 80)), |x| served(x, "a"));
        until("two", || b.call((vip, 80)), |x| served(x, "b"));
        assert!(served(&outside.call((NODE_IP, 30080)), "a"));
        assert!(served(&outside.call((second, 30080)), "b"), "the same port at the other's address");
        network::pod::purge(&two.node.config.mark).unwrap();
        assert!(served(&outside.call((NODE_IP, 30080)), "a"));
        assert!(served(&a.call((VIP, 80)), "a"));
    });
}

#[test]
fn at_an_address_of_two_clusters_a_node_port_is_the_first_ones() {
    machine(|outside| {
        let second = Ipv4Addr::new(10, 245, 0, 1);
        let one = Cluster::new(NodePortAddresses::All);
        let shared = NodePortAddresses::Shared { own: vec![second.into()], with_others: vec![HOST.into()] };
        let two = Cluster::on(Node::named("two", "10.245.0.0/16", "10.97.0.0/16"), shared);
        let ((_a, ip_a), (_b, ip_b)) = (one.node.pod("a"), two.node.pod("b"));
        let spec = |vip: Ipv4Addr| json!({"type": "NodePort", "clusterIP": vip, "ports": [{"name": "p", "port": 80, "nodePort": 30080}]});
        two.service("web", spec(Ipv4Addr::new(10, 97, 0, 20)));
        two.endpoints("web", &[ready(ip_b)]);
        until("nobody else has it", || outside.call((HOST, 30080)), |x| served(x, "b"));
        assert!(served(&call((HOST, 30080)), "b"), "from the machine itself");
        assert!(refused(&call((LOCALHOST, 30080))), "an address of the first one alone");
        one.service("web", spec(VIP));
        until("the first one has it, though nobody answers", || outside.call((HOST, 30080)), refused);
        assert!(refused(&call((HOST, 30080))));
        one.endpoints("web", &[ready(ip_a)]);
        until("it answers", || outside.call((HOST, 30080)), |x| served(x, "a"));
        assert!(served(&outside.call((second, 30080)), "b"), "its own");
        two.endpoints("web", &[]);
        until("nor does the first one answer there", || outside.call((second, 30080)), refused);
        two.endpoints("web", &[ready(ip_b)]);
        one.api.remove(SERVICES, "default/web");
        until("it is left to the other", || outside.call((HOST, 30080)), |x| served(x, "b"));
    });
}

#[test]
fn who_ends_leaves_what_he_has_answered_to_others() {
    machine(|_outside| {
        let own = OwnPort { ip: Some(NODE_IP.into()), port: 8080, protocol: "TCP" };
        let node = Node::with(|config| network::pod::Config { own_ports: vec![own], ..config }, "10.244.0.0/16".parse().unwrap());
        let cluster = Cluster::on(node, NodePortAddresses::All);
        let ((_a, ip_a), (b, _)) = (cluster.node.pod("a"), cluster.node.pod("b"));
        let hinted =
            |ip: Ipv4Addr, node: &str| json!({"addresses": [ip], "conditions": {"ready": true}, "nodeName": node, "hints": {"forNodes": [{"name": node}]}});
        cluster.service("web", json!({}));
        cluster.endpoints("web", &[hinted(NODE_IP, "n1"), hinted(ip_a, "n2")]);
        let later = Ipv4Addr::new(10, 96, 0, 21);
        cluster.service("later", json!({"clusterIP": later}));
        cluster.endpoints("later", &[ready(ip_a)]);
        until("both are served", || b.call((later, 80)), |x| served(x, "a"));
        assert!(refused(&b.call((VIP, 80))), "the node's own, where nobody listens");
        cluster.stop.cancel();
        until("another's", || b.call((VIP, 80)), |x| served(x, "a"));
    });
}

#[test]
fn a_full_memory_of_clients_costs_only_the_memory() {
    machine(|outside| {
        let cluster = Cluster::new(NodePortAddresses::All);
        let (_a, ip_a) = cluster.node.pod("a");
        let (b, _) = cluster.node.pod("b");
        cluster.service("web", json!({"sessionAffinity": "ClientIP"}));
        cluster.endpoints("web", &[ready(ip_a)]);
        until("served", || outside.call((VIP, 80)), |a| a.is_ok());
        // As many clients as there is room for, without their packets: what they would leave.
        let table = cluster.node.config.mark.proxy_table();
        let mut socket = Socket::open(netlink::NETFILTER).unwrap();
        let sets = nft::sets(&mut socket, Family::V4, &table).unwrap();
        let memory = sets.iter().find(|s| s.starts_with("aff-") && s.contains("/p/")).unwrap();
        let element = |n: u32| (Ipv4Addr::from_bits(Ipv4Addr::new(100, 64, 0, 0).to_bits() + n).octets().to_vec(), None);
        let room = 65_535 - u32::try_from(nft::keys(&mut socket, Family::V4, &table, memory).unwrap().len()).unwrap();
        let mut batch = nft::Batch::new(Family::V4, &table);
        batch.add_elements(memory, &(0..room).map(element).collect::<Vec<_>>());
        batch.commit(&mut socket, "clients").unwrap();
        let mut one_more = nft::Batch::new(Family::V4, &table);
        one_more.add_elements(memory, &[element(room)]);
        assert!(one_more.commit(&mut socket, "one more").is_err(), "it is full");
        for _ in 0..5 {
            assert!(served(&b.call((VIP, 80)), "a"), "who is not remembered is served");
        }
    });
}

#[test]
fn clients_are_remembered_over_a_new_process_and_a_flush() {
    machine(|_outside| {
        let mut cluster = Cluster::new(NodePortAddresses::All);
        let pods: Vec<(Space, Ipv4Addr)> = ["a", "b", "c", "d"].iter().map(|n| cluster.node.pod(n)).collect();
        cluster.service("web", json!({"sessionAffinity": "ClientIP"}));
        cluster.service("other", json!({"clusterIP": "10.96.0.21"}));
        cluster.endpoints("web", &pods.iter().map(|(_, ip)| ready(*ip)).collect::<Vec<_>>());
        cluster.endpoints("other", &[ready(pods[0].1)]);
        let clients: Vec<(Space, Ipv4Addr)> = (0..8).map(|i| cluster.node.pod(&format!("client-{i}"))).collect();
        until("served", || clients[0].0.call((VIP, 80)), |a| a.is_ok());
        let who = || clients.iter().map(|(c, _)| c.call((VIP, 80)).unwrap()).collect::<Vec<_>>();
        let first = who();
        cluster.stop.cancel();
        cluster.stop = CancellationToken::new();
        // What went meanwhile is taken away by the next, and what a former version had.
        cluster.api.remove(SERVICES, "default/other");
        let table = cluster.node.config.mark.proxy_table();
        let mut former = nft::Batch::new(Family::V4, &table);
        former.add_chain("filter/other/prerouting", Some(nft::Hook { kind: "filter", at: nft::At::Prerouting, priority: -110 }));
        former.commit(&mut Socket::open(netlink::NETFILTER).unwrap(), "a chain that the kernel enters").unwrap();
        cluster.start(NodePortAddresses::All);
        assert_eq!(who(), first, "after a restart");
        let left = || {
            let mut socket = Socket::open(netlink::NETFILTER).unwrap();
            nft::chains(&mut socket, Family::V4, &table).unwrap().into_iter().filter(|name| name.contains("/other/")).count()
        };
        until("nothing of it is left", left, |n| *n == 0);
        // Somebody flushes the rules, and then everything.
        for what in ["flush", "delete"] {
            let program = std::env::current_exe().unwrap();
            let mut other = std::process::Command::new(program);
            other.args(["--exact", "pods::as_somebody_else", "--ignored"]).env("KNARR_TEST_FLUSH", format!("{what} {table}"));
            assert!(other.output().unwrap().status.success());
            until(what, || clients[0].0.call((VIP, 80)), |a| a.is_ok());
            if what == "flush" {
                assert_eq!(who(), first, "the rules went, the memory did not");
            }
        }
    });
}

#[test]
fn every_range_of_services_is_the_services_alone() {
    machine(|outside| {
        let cluster = Cluster::new(NodePortAddresses::All);
        let (a, ip_a) = cluster.node.pod("a");
        let (b, _) = cluster.node.pod("b");
        let (claimed, nobodys, given) = (Ipv4Addr::new(10, 97, 0, 66), Ipv4Addr::new(10, 97, 0, 99), Ipv4Addr::new(10, 97, 0, 20));
        outside.run(move || {
            let mut m = Messages::new();
            link::add_address(&mut m, 1, nobodys);
            Socket::open(netlink::ROUTE).unwrap().call("an address", &m).unwrap();
        });
        outside.serve(9000, "outside");
        cluster.service("thief", json!({"externalIPs": [claimed], "ports": [{"name": "p", "port": 80}]}));
        cluster.endpoints("thief", &[ready(ip_a)]);
        until("an address of no range may be claimed", || b.call((claimed, 80)), |a| served(a, "a"));
        until("and leads wherever the host leads it", || b.call((nobodys, 9000)), |a| served(a, "outside"));
        // Not ready, and about to go: Services may have its addresses still.
        cluster.api.put(SERVICE_CIDRS, json!({"metadata": {"name": "more", "deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"cidrs": ["10.97.0.0/24"]}}));
        until("it is the Services' now", || b.call((claimed, 80)), |a| a.is_err());
        until("from the host, too", || call((claimed, 80)), |a| a.is_err());
        until("nobody's address leaves for nowhere", || b.call((nobodys, 9000)), |a| a.is_err());
        cluster.service("owner", json!({"clusterIP": given, "ports": [{"name": "p", "port": 80}]}));
        cluster.endpoints("owner", &[ready(ip_a)]);
        until("a Service has one of its addresses", || b.call((given, 80)), |a| served(a, "a"));
        assert!(served(&a.call((VIP, 80)), "a"), "the first range is as before");
        cluster.api.remove(SERVICE_CIDRS, "/more");
        until("the range is gone", || b.call((claimed, 80)), |a| served(a, "a"));
        until("and its addresses are others'", || b.call((nobodys, 9000)), |a| served(a, "outside"));
    });
}
