//! Pods and Services of IPv6 on a real kernel: beside IPv4, before it, and alone.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use network::link::{self, Way};
use network::netlink::{self, Messages, Socket};
use network::nft::{self, Family};
use network::pod::{self, HostPort, PodNetwork};
use network::proxy::NodePortAddresses;
use network::{Net, Part, Result, conntrack};
use serde_json::{Value, json};

use crate::api::{SERVICE_CIDRS, SERVICES, SLICES};
use crate::services::{Cluster, until};
use crate::world::{DEADLINE, NODE_IP, Node, Space, machine};

const POD_NETWORK: &str = "fd00:10:244::/64";
const CLUSTER: &str = "fd00:10:244::/56";
const SERVICE_RANGE: &str = "fd00:10:96::/112";
const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 1);
const HOST: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 1);
const OUTSIDE: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 2);
const VIP: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x20);

fn ipv6() -> Part {
    Part { pod_cidr: POD_NETWORK.parse().unwrap(), cluster_cidr: CLUSTER.parse().unwrap(), service_cidr: SERVICE_RANGE.parse().unwrap() }
}

/// Which families a node has, and in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Families {
    FourSix,
    SixFour,
    Six,
}

impl Families {
    const ALL: [Self; 3] = [Self::FourSix, Self::SixFour, Self::Six];

    fn node(self) -> Node {
        let parts = |four: Part| match self {
            Self::FourSix => vec![four, ipv6()],
            Self::SixFour => vec![ipv6(), four],
            Self::Six => vec![ipv6()],
        };
        Node::with(|config| pod::Config { parts: parts(config.parts[0]), ..config }, "10.244.0.0/16".parse().unwrap())
    }

    fn has_four(self) -> bool {
        self != Self::Six
    }
}

fn node() -> Node {
    Families::FourSix.node()
}

/// An address beside those that a link has, and the way to everywhere.
fn configure(name: &str, own: Ipv6Addr, other: Ipv6Addr) -> Result<()> {
    let mut socket = Socket::open(netlink::ROUTE)?;
    let index = link::find(&mut socket, name)?.unwrap().index;
    let mut m = Messages::new();
    link::add_address(&mut m, index, own);
    link::add_route(&mut m, Net::one(other), Way::Link { index, source: Some(own.into()) });
    link::add_route(&mut m, "::/0".parse::<Net>().unwrap(), Way::Gateway { index, router: other.into(), source: None });
    socket.call("an address of IPv6", &m).map(drop)
}

/// A machine as the others', with IPv6 on its link.
fn machine_of_both(test: impl FnOnce(Space) + Send) {
    if !link::has_ipv6() {
        return eprintln!("needs a kernel with IPv6");
    }
    machine(|outside| {
        configure("up0", HOST, OUTSIDE).unwrap();
        outside.run(|| configure("eth0", OUTSIDE, HOST)).unwrap();
        test(outside);
    });
}

/// Answers with a name and the caller's address, over TCP and UDP of IPv6 (and of IPv4 where there is that).
pub fn serve(space: &Space, port: u16, name: &str) {
    let (tcp, udp) = space.run(move || (TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap(), UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap()));
    let told = name.to_owned();
    std::thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            let from = stream.peer_addr().map(|a| a.ip().to_canonical().to_string()).unwrap_or_default();
            let _ = stream.write_all(format!("{told} {from}").as_bytes());
        }
    });
    let told = name.to_owned();
    std::thread::spawn(move || {
        while let Ok((_, from)) = udp.recv_from(&mut [0; 64]) {
            let _ = udp.send_to(told.as_bytes(), from);
        }
    });
}

/// For a first answer. What a refusal says to the very first packet is not heard by who still sends it: the second comes after a second.
const PATIENCE: Duration = Duration::from_secs(3);

pub fn call(to: impl Into<SocketAddr>) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to.into(), PATIENCE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map(|_| answer)
}

/// Calls with a source of one's own.
fn call_as(source: Ipv6Addr, to: (Ipv6Addr, u16)) -> std::io::Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v6()?;
        socket.bind((source, 0).into())?;
        let mut answer = String::new();
        let mut stream = tokio::time::timeout(PATIENCE, socket.connect(to.into())).await??;
        tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.map(|_| answer)
    })
}

pub fn from(space: &Space, to: impl Into<SocketAddr>) -> std::io::Result<String> {
    let to = to.into();
    space.run(move || call(to))
}

fn ask(space: &Space, to: (Ipv6Addr, u16)) -> std::io::Result<String> {
    space.run(move || {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        socket.send_to(b"?", to)?;
        let mut buffer = [0; 64];
        let (length, _) = socket.recv_from(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    })
}

/// A pod that answers at port 8080 of both families.
fn pod(node: &Node, name: &str) -> (Space, Ipv6Addr) {
    let space = Space::new();
    node.join(name, &space.path, Vec::new());
    serve(&space, 8080, name);
    (space, six(node, name).unwrap())
}

/// A pod's address of IPv6.
fn six(node: &Node, name: &str) -> Option<Ipv6Addr> {
    node.network.addresses(name).unwrap().ips.into_iter().find_map(|ip| if let IpAddr::V6(ip) = ip { Some(ip) } else { None })
}

#[test]
fn pods_have_addresses_of_their_nodes_families() {
    Families::ALL.into_iter().for_each(pods_of);
}

fn pods_of(families: Families) {
    machine_of_both(move |outside| {
        let node = families.node();
        let (a, ip_a) = pod(&node, "a");
        let (b, ip_b) = pod(&node, "b");
        let all: Vec<bool> = node.network.addresses("a").unwrap().ips.iter().map(IpAddr::is_ipv4).collect();
        let expected: &[bool] = match families {
            Families::FourSix => &[true, false],
            Families::SixFour => &[false, true],
            Families::Six => &[false],
        };
        assert_eq!(all, expected, "the first family's first");
        assert_eq!(node.network.gateway().is_ipv4(), expected[0]);
        let passage = node.runtime.block_on(node.network.probe()).unwrap();
        assert!(passage.pods && passage.node, "{families:?}: {passage:?}");
        assert_eq!(from(&a, (ip_b, 8080)).unwrap(), format!("b {ip_a}"), "a pod is seen under its own address");
        assert_eq!(from(&a, (ip_a, 8080)).unwrap(), format!("a {ip_a}"));
        assert_eq!(from(&a, (Ipv6Addr::LOCALHOST, 8080)).unwrap(), "a ::1");
        assert_eq!(call((ip_a, 8080)).unwrap(), format!("a {GATEWAY}"), "the host speaks as the gateway");
        serve(&outside, 9000, "outside");
        assert_eq!(from(&b, (OUTSIDE, 9000)).unwrap(), format!("outside {HOST}"), "egress under the host's address");
        let begun = Instant::now();
        let nobodys: Ipv6Addr = "fd00:10:244::dead".parse().unwrap();
        from(&a, (nobodys, 8080)).unwrap_err();
        assert!(begun.elapsed() < PATIENCE, "an address that nobody has is told to be none");
        // Nobody speaks for another, nor hears for him.
        let claimed: Ipv6Addr = "fd00:10:244::bad".parse().unwrap();
        a.run(move || {
            let mut socket = Socket::open(netlink::ROUTE).unwrap();
            let index = link::find(&mut socket, "eth0").unwrap().unwrap().index;
            let mut m = Messages::new();
            link::add_address(&mut m, index, claimed);
            socket.call("another's address", &m).unwrap();
        });
        let heard = b.run(move || {
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 7777)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            socket
        });
        let say = |own: Ipv6Addr| a.run(move || UdpSocket::bind((own, 0)).unwrap().send_to(b"!", (ip_b, 7777)).unwrap());
        say(claimed);
        assert!(heard.recv_from(&mut [0; 8]).is_err(), "its source is not reached by its link");
        say(ip_a);
        heard.set_read_timeout(Some(DEADLINE)).unwrap();
        assert_eq!(heard.recv_from(&mut [0; 8]).unwrap().1.ip(), IpAddr::V6(ip_a));
        node.detach("a");
        assert!(from(&b, (ip_a, 8080)).is_err());
        let (_c, ip_c) = pod(&node, "c");
        assert_ne!(ip_c, ip_a, "what was freed comes last");
        assert_eq!(from(&b, (ip_c, 8080)).unwrap(), format!("c {ip_b}"));
    });
}

#[test]
fn a_second_family_comes_with_a_start_and_those_who_are_there_stay() {
    machine_of_both(|outside| {
        std::fs::write("/proc/sys/net/ipv6/conf/up0/accept_ra", "1").unwrap();
        let mut node = Node::new();
        let (a, ip_a) = node.pod("a");
        assert_eq!(six(&node, "a"), None);
        node.config.parts.push(ipv6());
        node.network = PodNetwork::open(node.config.clone()).unwrap();
        let (b, ip_b) = pod(&node, "b");
        assert_eq!(six(&node, "a"), None, "a pod keeps what it has");
        assert_eq!(crate::world::call((ip_a, 8080)).unwrap(), format!("a {NODE_IP}"));
        assert!(a.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap().send_to(b"?", (GATEWAY, 9))).is_err(), "it has no IPv6");
        serve(&outside, 9000, "outside");
        assert_eq!(from(&b, (OUTSIDE, 9000)).unwrap(), format!("outside {HOST}"));
        let accepts = std::fs::read_to_string("/proc/sys/net/ipv6/conf/up0/accept_ra").unwrap();
        assert_eq!(accepts.trim(), "2", "what the machine has of its routers stays");
        assert_ne!(std::fs::read_to_string("/proc/sys/net/ipv6/conf/default/accept_ra").unwrap().trim(), "2", "who comes later is told by who brings him");
        // A new process finds both kinds.
        node.network = PodNetwork::open(node.config.clone()).unwrap();
        assert_eq!((six(&node, "a"), six(&node, "b")), (None, Some(ip_b)));
        assert_eq!(call((ip_b, 8080)).unwrap(), format!("b {GATEWAY}"));
        assert!(pod::purge(&node.config.mark).unwrap() > 0);
        let mut socket = Socket::open(netlink::NETFILTER).unwrap();
        assert!(Family::ALL.iter().all(|family| nft::tables(&mut socket, *family).unwrap().is_empty()));
        assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv6/conf/all/forwarding").unwrap().trim(), "0", "it was off");
        assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv6/conf/up0/accept_ra").unwrap().trim(), "1", "a host that is no router takes advice");
        assert!(call((ip_b, 8080)).is_err());
    });
}

#[test]
fn a_cluster_of_ipv6_gains_ipv4_and_pods_beyond_its_range_have_none() {
    machine_of_both(|_outside| {
        let mut node = Families::Six.node();
        let (_a, ip_a) = pod(&node, "a");
        let four =
            Part { pod_cidr: "10.244.0.0/29".parse().unwrap(), cluster_cidr: "10.244.0.0/16".parse().unwrap(), service_cidr: "10.96.0.0/16".parse().unwrap() };
        node.config.parts.push(four);
        node.network = PodNetwork::open(node.config.clone()).unwrap();
        assert_eq!(node.network.addresses("a").unwrap().ips, [IpAddr::V6(ip_a)], "a pod keeps what it has");
        let spaces: Vec<Space> = (0..4).map(|_| Space::new()).collect();
        for (at, space) in spaces.iter().enumerate() {
            assert_eq!(node.join(&format!("p{at}"), &space.path, Vec::new()).len(), 2);
        }
        let full = Space::new();
        let request = pod::AttachRequest { sandbox_id: "full".into(), host_ports: Vec::new() };
        let why = node.runtime.block_on(node.network.attach(&full.path, request)).unwrap_err().to_string();
        assert_eq!(why, format!("no free address in the pod range {POD_NETWORK}"), "each place is in both");
        assert_eq!(call((ip_a, 8080)).unwrap(), format!("a {GATEWAY}"));
    });
}

#[test]
fn what_the_kernel_knows_of_connections_goes_with_the_cluster() {
    machine_of_both(|outside| {
        let node = node();
        let (a, ip_a) = pod(&node, "a");
        let own = [ipv6().pod_cidr];
        serve(&outside, 9000, "outside");
        let known = || {
            assert!(call((ip_a, 8080)).is_ok() && from(&a, (OUTSIDE, 9000)).is_ok());
            Socket::open(netlink::NETFILTER).unwrap()
        };
        let mut socket = known();
        assert!(conntrack::forget_ranges(&mut socket, &["fd00:99::/64".parse().unwrap()]).unwrap() == 0, "others' are known on");
        assert!(conntrack::forget_ranges(&mut socket, &own).unwrap() >= 2);
        drop(known());
        pod::purge(&node.config.mark).unwrap();
        assert_eq!(conntrack::forget_ranges(&mut socket, &own).unwrap(), 0);
    });
}

#[test]
fn host_ports_are_of_the_nodes_families() {
    Families::ALL.into_iter().for_each(host_ports_of);
}

fn host_ports_of(families: Families) {
    machine_of_both(move |outside| {
        let node = families.node();
        let port = |host_port: u16, host_ip: Option<IpAddr>| HostPort { host_ip, host_port, container_port: 8080, protocol: "TCP".into() };
        let space = Space::new();
        serve(&space, 8080, "a");
        node.join("a", &space.path, vec![port(7000, None), port(7001, Some(HOST.into())), port(7002, Some(crate::world::HOST.into()))]);
        assert_eq!(from(&outside, (HOST, 7000)).unwrap(), format!("a {OUTSIDE}"));
        assert_eq!(from(&outside, (HOST, 7001)).unwrap(), format!("a {OUTSIDE}"));
        assert!(from(&outside, (HOST, 7002)).is_err(), "that is at an address of the other family");
        assert!(from(&outside, (GATEWAY, 7001)).is_err());
        let begun = Instant::now();
        assert!(call((Ipv6Addr::LOCALHOST, 7000)).is_err() && begun.elapsed() < PATIENCE, "nor is one at IPv6's loopback, for who speaks from there");
        assert_eq!(call_as(GATEWAY, (Ipv6Addr::LOCALHOST, 7000)).unwrap(), format!("a {GATEWAY}"), "who speaks from another address is answered");
        assert_eq!(from(&space, (HOST, 7000)).unwrap(), format!("a {GATEWAY}"), "a pod calls itself");
        assert_eq!(outside.run(|| call((crate::world::HOST, 7002))).is_ok(), families.has_four());
        node.detach("a");
        assert!(from(&outside, (HOST, 7000)).is_err());
    });
}

fn service(cluster: &Cluster, name: &str, ip: Ipv6Addr, more: Value) {
    let mut spec = json!({"clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv6"],
        "ports": [{"name": "p", "port": 80, "protocol": "TCP"}, {"name": "u", "port": 80, "protocol": "UDP"}]});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    cluster.api.put(SERVICES, json!({"metadata": {"namespace": "default", "name": name}, "spec": spec}));
}

fn endpoints(cluster: &Cluster, name: &str, ips: &[Ipv6Addr]) {
    let endpoints: Vec<Value> = ips.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}, "nodeName": "n1"})).collect();
    cluster.api.put(
        SLICES,
        json!({"metadata": {"namespace": "default", "name": format!("{name}-6"), "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv6", "endpoints": endpoints,
            "ports": [{"name": "p", "port": 8080, "protocol": "TCP"}, {"name": "u", "port": 8080, "protocol": "UDP"}]}),
    );
}

fn is_by(answer: &std::io::Result<String>, who: &str) -> bool {
    answer.as_ref().is_ok_and(|a| a.starts_with(who))
}

#[test]
fn services_of_ipv6_are_served_as_those_of_ipv4() {
    [Families::FourSix, Families::Six].into_iter().for_each(services_of);
}

fn services_of(families: Families) {
    machine_of_both(move |outside| {
        let cluster = Cluster::on(families.node(), NodePortAddresses::All);
        let (a, ip_a) = pod(&cluster.node, "a");
        let (b, ip_b) = pod(&cluster.node, "b");
        service(
            &cluster,
            "web",
            VIP,
            json!({"type": "NodePort", "ports": [{"name": "p", "port": 80, "nodePort": 30080}, {"name": "u", "port": 80, "protocol": "UDP"}]}),
        );
        until("nobody is behind it", || from(&b, (VIP, 80)), |e| e.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused));
        endpoints(&cluster, "web", &[ip_a]);
        until("from a pod", || from(&b, (VIP, 80)), |answer| answer.as_ref().is_ok_and(|a| *a == format!("a {ip_b}")));
        assert_eq!(from(&a, (VIP, 80)).unwrap(), format!("a {GATEWAY}"), "a pod reaches itself");
        assert_eq!(call((VIP, 80)).unwrap(), format!("a {GATEWAY}"));
        assert_eq!(from(&outside, (HOST, 30080)).unwrap(), format!("a {GATEWAY}"));
        assert_eq!(from(&b, (GATEWAY, 30080)).unwrap(), format!("a {GATEWAY}"));
        let begun = Instant::now();
        assert!(call((Ipv6Addr::LOCALHOST, 30080)).is_err() && begun.elapsed() < PATIENCE, "no node port is at IPv6's loopback, and that is told");
        until("UDP", || ask(&b, (VIP, 80)), |answer| is_by(answer, "a"));
        // An endpoint of the other family is none of this Service's.
        cluster.api.put(
            SLICES,
            json!({"metadata": {"namespace": "default", "name": "web-4", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": [{"addresses": ["10.244.0.99"], "conditions": {"ready": true}}], "ports": [{"name": "p", "port": 8080, "protocol": "TCP"}]}),
        );
        endpoints(&cluster, "web", &[ip_b]);
        until("another endpoint", || from(&outside, (HOST, 30080)), |answer| is_by(answer, "b"));
        until("whom UDP follows", || ask(&a, (VIP, 80)), |answer| is_by(answer, "b"));
        assert!((0..20).all(|_| is_by(&from(&a, (VIP, 80)), "b")));
        let nobodys: Ipv6Addr = "fd00:10:96::99".parse().unwrap();
        outside.run(move || {
            let mut m = Messages::new();
            link::add_address(&mut m, 1, nobodys);
            Socket::open(netlink::ROUTE).unwrap().call("an address", &m).unwrap();
        });
        serve(&outside, 9000, "outside");
        assert!(from(&b, (nobodys, 9000)).is_err(), "nobody's address leads nowhere");
    });
}

#[test]
fn clients_of_ipv6_are_remembered_and_claims_withheld() {
    machine_of_both(|outside| {
        let cluster = Cluster::on(node(), NodePortAddresses::Only(vec![NODE_IP.into(), GATEWAY.into()]));
        let (_a, ip_a) = pod(&cluster.node, "a");
        let (b, ip_b) = pod(&cluster.node, "b");
        let (claimed, external): (Ipv6Addr, Ipv6Addr) = ("fd00:97::66".parse().unwrap(), "fd00:aaaa::7".parse().unwrap());
        let more = json!({"sessionAffinity": "ClientIP", "type": "NodePort", "externalIPs": [claimed, external], "ports": [{"name": "p", "port": 80, "nodePort": 30081}]});
        service(&cluster, "web", VIP, more);
        endpoints(&cluster, "web", &[ip_a, ip_b]);
        until("it is served", || from(&b, (VIP, 80)), |answer| answer.is_ok());
        let first = from(&b, (VIP, 80)).unwrap();
        assert!((0..20).all(|_| from(&b, (VIP, 80)).unwrap() == first), "a client stays with its endpoint");
        assert!(from(&b, (claimed, 80)).is_ok() && from(&outside, (external, 80)).is_ok());
        assert!(from(&outside, (GATEWAY, 30081)).is_ok() && from(&outside, (HOST, 30081)).is_err(), "node ports are at the node's own address");
        cluster.api.put(SERVICE_CIDRS, json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["fd00:97::/112"]}}));
        until("an address of the Services is none to claim", || from(&b, (claimed, 80)), |answer| answer.is_err());
        assert!(from(&outside, (external, 80)).is_ok());
        cluster.api.remove(SERVICES, "default/web");
        until("it is gone", || from(&b, (VIP, 80)), |answer| answer.is_err());
    });
}

#[test]
fn firewalls_that_refuse_let_both_families_through() {
    for family in [nft::INET, Family::V6.number()] {
        machine_of_both(move |_outside| {
            let mut socket = Socket::open(netlink::NETFILTER).unwrap();
            let mut batch = nft::Batch::of_family(family, "firewall");
            let hook = |at| Some(nft::Hook { kind: "filter", at, priority: 0 });
            batch.add_table().add_chain("FORWARD", hook(nft::At::Forward)).add_chain("INPUT", hook(nft::At::Input));
            batch.set_policy("FORWARD", true).set_policy("INPUT", true);
            batch.commit(&mut socket, "a firewall").unwrap();
            let node = node();
            let (a, _) = pod(&node, "a");
            let (_b, ip_b) = pod(&node, "b");
            let host = UdpSocket::bind((GATEWAY, 7777)).unwrap();
            std::thread::spawn(move || {
                while let Ok((_, from)) = host.recv_from(&mut [0; 8]) {
                    let _ = host.send_to(b"node", from);
                }
            });
            assert!(is_by(&from(&a, (ip_b, 8080)), "b"), "pods reach each other");
            until("and the node", || ask(&a, (GATEWAY, 7777)), |answer| is_by(answer, "node"));
            let rules = |socket: &mut Socket| nft::commented_rules(socket).unwrap().iter().filter(|r| !r.comment.is_empty()).count();
            let of_each = 3;
            assert_eq!(rules(&mut socket), if family == nft::INET { 2 * of_each } else { of_each });
            pod::purge(&node.config.mark).unwrap();
            assert_eq!(rules(&mut socket), 0);
        });
    }
}
