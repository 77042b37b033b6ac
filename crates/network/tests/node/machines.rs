//! Two machines with a node each, of either family: pods reach each other over VXLAN and over routes, also after somebody has taken
//! that away.

use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1;
use network::link::{self, End, Settings};
use network::mesh::{self, Kind, Mesh, Own};
use network::netlink::{self, Messages, Socket};
use network::nft::{self, Family};
use network::{Mark, Net, Part, conntrack, ethtool, netns, pod};
use tokio_util::sync::CancellationToken;

use crate::api::{NODES, Server};
use crate::dual::{from, serve};
use crate::world::{DEADLINE, Node, Space};

/// A machine and its node.
struct Machine {
    space: Space,
    node: Arc<Node>,
    mesh: Arc<Mesh>,
}

/// Which addresses machines and pods have.
#[derive(Clone, Copy, Debug)]
struct Addresses {
    machines: [&'static str; 2],
    cluster: &'static str,
    /// Bits of the prefix of a node's range.
    prefix: u8,
    services: &'static str,
}

const V4: Addresses = Addresses { machines: ["192.168.88.1", "192.168.88.2"], cluster: "10.244.0.0/16", prefix: 24, services: "10.96.0.0/16" };
const V6: Addresses = Addresses { machines: ["fd00:88::1", "fd00:88::2"], cluster: "fd00:10:244::/56", prefix: 64, services: "fd00:10:96::/112" };

impl Addresses {
    fn machine(self, number: usize) -> IpAddr {
        self.machines[number].parse().unwrap()
    }

    fn part(self, number: u32) -> Part {
        let cluster_cidr: Net = self.cluster.parse().unwrap();
        Part { pod_cidr: cluster_cidr.part(number, self.prefix).unwrap(), cluster_cidr, service_cidr: self.services.parse().unwrap() }
    }

    /// The Node objects of both.
    fn nodes(self) -> Vec<v1::Node> {
        self.nodes_with(self.machine(1))
    }

    /// The same with another address of the second.
    fn nodes_with(self, second: IpAddr) -> Vec<v1::Node> {
        let node = |name: &str, number: u32, ip: IpAddr| {
            serde_json::from_value(serde_json::json!({
                "metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"podCIDRs": [self.part(number).pod_cidr.to_string()]},
                "status": {"addresses": [{"type": "InternalIP", "address": ip}]}
            }))
            .unwrap()
        };
        vec![node("first", 0, self.machine(0)), node("second", 1, second)]
    }
}

fn address(socket: &mut Socket, name: &str, own: IpAddr, other: IpAddr) {
    let mut m = Messages::new();
    link::up(&mut m, 1);
    link::set(&mut m, name, &Settings { up: true, ..Settings::default() });
    link::get(&mut m, name);
    let index = link::index_of(&socket.call("up", &m).unwrap(), name).unwrap();
    let mut m = Messages::new();
    link::add_address(&mut m, index, own);
    link::add_route(&mut m, Net::one(other), link::Way::Link { index, source: Some(own) });
    socket.call("address", &m).unwrap();
}

/// Two machines with a link between them.
fn machines(kind: Kind, of: Addresses) -> [Machine; 2] {
    let [first, second] = [0, 1].map(|number| of.machine(number));
    let spaces = [Space::new(), Space::new()];
    let there = std::fs::File::open(&spaces[1].path).unwrap();
    spaces[0].run(move || {
        let mut socket = Socket::open(netlink::ROUTE).unwrap();
        let mut m = Messages::new();
        let (near, far) = (End { name: "up0", mac: [2, 0, 0, 0, 0, 1] }, End { name: "up0", mac: [2, 0, 0, 0, 0, 2] });
        link::add_veth(&mut m, near, far, there.as_raw_fd(), 1500);
        socket.call("link", &m).unwrap();
        address(&mut socket, "up0", first, second);
    });
    spaces[1].run(move || address(&mut Socket::open(netlink::ROUTE).unwrap(), "up0", second, first));
    let mut number = 0;
    spaces.map(|space| {
        let (name, ip, part) = (["first", "second"][number as usize], of.machine(number as usize), of.part(number));
        let (node, mesh) = space.run(move || {
            let mtu = mesh::mtu(kind, ip).unwrap();
            let tunnel = Some(ip).filter(|_| kind == Kind::Vxlan);
            let node = Node::with(|config| pod::Config { mtu: Some(mtu), parts: vec![part], tunnel, ..config }, part.pod_cidr);
            let own = Own { node: name.into(), kind, addresses: vec![ip], cluster: vec![part.cluster_cidr] };
            let mesh = Mesh::open(mesh::Config { mark: Mark::new("test"), own, gateways: vec![node.network.gateway()] }).unwrap();
            (node, mesh)
        });
        number += 1;
        Machine { space, node: Arc::new(node), mesh: Arc::new(mesh) }
    })
}

impl Machine {
    fn put(&self, nodes: Vec<v1::Node>) -> usize {
        let mesh = self.mesh.clone();
        self.space.run(move || mesh.put(nodes.iter()).unwrap().len())
    }

    fn pod(&self, name: &'static str) -> (Space, IpAddr) {
        let (pod, node) = (Space::new(), self.node.clone());
        let path = pod.path.clone();
        let address = self.space.run(move || node.join(name, Path::new(&path), Vec::new())[0]);
        serve(&pod, 8080, name);
        (pod, address)
    }

    /// What the kernel would send to an address, by name of link and MTU.
    fn links(&self) -> Vec<(String, u32)> {
        self.space.run(|| {
            let all = link::list(&mut Socket::open(netlink::ROUTE).unwrap()).unwrap();
            all.into_iter().map(|l| (l.name, l.mtu)).collect()
        })
    }
}

fn pods_reach_each_other(kind: Kind, of: Addresses, overhead: u32) {
    if !link::has_ipv6() {
        return eprintln!("needs a kernel with IPv6");
    }
    netns::fresh(|| {
        let [first, second] = machines(kind, of);
        let ((a, ip_a), (b, ip_b)) = (first.pod("a"), second.pod("b"));
        from(&a, (ip_b, 8080)).unwrap_err();
        assert_eq!((first.put(of.nodes()), second.put(of.nodes())), (0, 0));
        let reach = || {
            assert_eq!(from(&a, (ip_b, 8080)).unwrap(), format!("b {ip_a}"), "a pod is seen under its own address");
            assert_eq!(from(&b, (ip_a, 8080)).unwrap(), format!("a {ip_b}"));
            assert_eq!(from(&first.space, (ip_b, 8080)).unwrap(), format!("b {}", first.node.network.gateway()), "the machine speaks as its gateway");
        };
        reach();
        let overlay = first.links().into_iter().find(|(name, _)| *name == Mark::new("test").overlay());
        assert_eq!(overlay, (kind == Kind::Vxlan).then(|| (Mark::new("test").overlay(), 1500 - overhead)));
        if kind == Kind::Vxlan {
            let joins = || {
                let link = link::find(&mut Socket::open(netlink::ROUTE).unwrap(), &Mark::new("test").overlay()).unwrap().unwrap();
                ethtool::joins(link.index).unwrap()
            };
            assert!(!first.space.run(joins), "packets were joined before");
        }

        // Again changes nothing, and what somebody took away is there again.
        first.put(of.nodes());
        reach();
        first.space.run(move || {
            let mut socket = Socket::open(netlink::ROUTE).unwrap();
            match kind {
                Kind::Vxlan => link::remove(&mut socket, &Mark::new("test").overlay()).unwrap(),
                _ => address(&mut socket, "up0", of.machine(0), of.machine(1)),
            }
        });
        first.put(of.nodes());
        reach();

        // A sweep of pods' links is none of this.
        let node = first.node.clone();
        first.space.run(move || node.runtime.block_on(node.network.adopt(&["a".to_owned()].into())).unwrap());
        reach();

        // The node goes, and comes with another address where nobody is.
        first.put(of.nodes().into_iter().take(1).collect());
        from(&a, (ip_b, 8080)).unwrap_err();
        first.put(of.nodes());
        reach();

        // Nothing of it stays.
        first.space.run(|| pod::purge(&Mark::new("test")).unwrap());
        let left = first.space.run(|| ["route", "ipv6_route"].map(|file| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap()).concat());
        assert!(!left.contains("0001F40A") && !left.contains("fd00001002440001"), "{left}");
        assert!(first.links().iter().all(|(name, _)| !name.starts_with("kn")), "nothing of the mark's");
        Ok(())
    })
    .unwrap();
}

/// A datagram as machines send them, with a packet in it that says it is of a pod, for another pod's UDP port 9999.
fn forged(to: IpAddr, text: &[u8]) -> Vec<u8> {
    let (IpAddr::V4(to), length) = (to, text.len() as u16) else { unreachable!("machines of IPv4") };
    let mut ip = vec![0x45, 0];
    ip.extend((28 + length).to_be_bytes());
    ip.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 244, 1, 77]);
    ip.extend(to.octets());
    let sum: u32 = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let check = !(((sum & 0xffff) + (sum >> 16)) as u16);
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    // The number of the cluster's VXLAN, and the hardware addresses of both machines' devices, as they follow from V4.
    let mut frame = vec![8, 0, 0, 0, 10, 244, 0, 0];
    frame.extend([0x0a, 0x5a, 192, 168, 88, 1, 0x0a, 0x5a, 192, 168, 88, 2, 8, 0]);
    frame.extend(ip);
    for word in [9999, 9999, 8 + length, 0] {
        frame.extend(word.to_be_bytes());
    }
    frame.extend(text);
    frame
}

#[test]
fn the_way_between_machines_is_not_tracked_and_no_pod_speaks_on_it() {
    netns::fresh(|| {
        let [first, second] = machines(Kind::Vxlan, V4);
        let ((a, ip_a), (b, ip_b)) = (first.pod("a"), second.pod("b"));
        // The machines are known as in a cluster, by the Nodes.
        let api = Server::default();
        for node in V4.nodes() {
            api.put(NODES, serde_json::to_value(node).unwrap());
        }
        let stop = CancellationToken::new();
        for machine in [&first, &second] {
            machine.put(V4.nodes());
            let (node, informers, stop) = (machine.node.clone(), machine.node.runtime.block_on(async { api.informers() }), stop.clone());
            let network = node.network.clone();
            node.runtime.spawn(async move { network.lead_services(informers, stop).await });
        }
        assert_eq!(from(&a, (ip_b, 8080)).unwrap(), format!("b {ip_a}"));
        let tracked = |machine: &Machine| {
            let all = |socket: &mut Socket| conntrack::udp_flows(socket, Family::V4, |flow| flow.called.1 == mesh::VXLAN_PORT).unwrap().len();
            machine.space.run(move || all(&mut Socket::open(netlink::NETFILTER).unwrap()))
        };
        assert_eq!((tracked(&first), tracked(&second)), (0, 0), "of no datagram between the machines");

        // What a machine sends is believed. What a pod sends is not, neither by its own machine nor by another's.
        let heard = a.run(|| std::net::UdpSocket::bind("0.0.0.0:9999").unwrap());
        heard.set_read_timeout(Some(DEADLINE)).unwrap();
        let send = |space: &Space, text: &'static str| {
            let datagram = forged(ip_a, text.as_bytes());
            space.run(move || drop(std::net::UdpSocket::bind("0.0.0.0:0").unwrap().send_to(&datagram, (V4.machine(0), mesh::VXLAN_PORT))));
        };
        let hears = || {
            let mut text = [0; 64];
            let length = heard.recv(&mut text).expect("what a machine has sent");
            String::from_utf8_lossy(&text[..length]).into_owned()
        };
        let knows = |machine: &Machine| {
            let keys = |socket: &mut Socket| nft::keys(socket, Family::V4, &Mark::new("test").table(), "machines").unwrap().len();
            machine.space.run(move || keys(&mut Socket::open(netlink::NETFILTER).unwrap()))
        };
        let begun = std::time::Instant::now();
        while knows(&second) < 2 {
            assert!(begun.elapsed() < DEADLINE, "the machines are known");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        send(&second.space, "a machine");
        assert_eq!(hears(), "a machine", "the datagram is one that is believed");
        send(&a, "its own pod");
        send(&b, "another's pod");
        // Nor by a Service whose endpoint is a machine.
        for machine in [&first, &second] {
            machine.space.run(|| {
                let mut batch = nft::Batch::new(Family::V4, "service");
                batch.add_table().add_chain("lead", Some(nft::Hook { kind: "nat", at: nft::At::Prerouting, priority: -99 }));
                let load = |n, value: &[u8]| nft::Expr::Load { to: nft::reg(n), value: value.to_vec() };
                let mut rule = nft::step::datagrams_to(7777);
                rule.extend([load(0, &nft::octets(V4.machine(0))), load(1, &mesh::VXLAN_PORT.to_be_bytes())]);
                rule.push(nft::Expr::Dnat { family: Family::V4, address: nft::reg(0), port: nft::reg(1) });
                batch.add_rule("lead", &rule);
                batch.commit(&mut Socket::open(netlink::NETFILTER).unwrap(), "a Service").unwrap();
            });
        }
        let called = |space: &Space, to: IpAddr, text: &'static str| {
            let datagram = forged(ip_a, text.as_bytes());
            space.run(move || drop(std::net::UdpSocket::bind("0.0.0.0:0").unwrap().send_to(&datagram, (to, 7777))));
        };
        called(&second.space, V4.machine(0), "a machine by a Service");
        assert_eq!(hears(), "a machine by a Service", "it leads there");
        let vip = [10, 96, 0, 9].into();
        called(&a, vip, "its own pod by a Service");
        called(&b, vip, "another's pod by a Service");
        // Nor at another address of the machine, at all of which the kernel listens.
        let further: IpAddr = [192, 168, 88, 9].into();
        for (machine, has_it) in [(&first, true), (&second, false)] {
            machine.space.run(move || {
                let mut route = Socket::open(netlink::ROUTE).unwrap();
                let index = link::find(&mut route, "up0").unwrap().unwrap().index;
                let mut m = Messages::new();
                if has_it {
                    link::add_address(&mut m, index, further);
                } else {
                    // Known beforehand: what is sent waits for no answer, and comes before what is sent after it.
                    link::add_neighbour(&mut m, index, further, [2, 0, 0, 0, 0, 1]);
                    link::add_route(&mut m, Net::one(further), link::Way::Link { index, source: None });
                }
                route.call("a further address", &m).unwrap();
            });
        }
        let datagram = forged(ip_a, b"another's pod at a further address");
        b.run(move || drop(std::net::UdpSocket::bind("0.0.0.0:0").unwrap().send_to(&datagram, (further, mesh::VXLAN_PORT))));
        send(&second.space, "the end");
        assert_eq!(hears(), "the end");
        // Who starts again knows the machines before the Nodes.
        let config = second.node.config.clone();
        second.space.run(move || drop(pod::PodNetwork::open(config).unwrap()));
        assert_eq!(knows(&second), 2);
        stop.cancel();
        Ok(())
    })
    .unwrap();
}

#[test]
fn over_vxlan() {
    pods_reach_each_other(Kind::Vxlan, V4, 50);
}

#[test]
fn over_routes() {
    pods_reach_each_other(Kind::Routes, V4, 0);
}

#[test]
fn over_vxlan_between_machines_of_ipv6() {
    pods_reach_each_other(Kind::Vxlan, V6, 70);
    // What is carried need not be of the family that carries it.
    pods_reach_each_other(Kind::Vxlan, Addresses { machines: V6.machines, ..V4 }, 70);
    pods_reach_each_other(Kind::Vxlan, Addresses { machines: V4.machines, ..V6 }, 50);
}

#[test]
fn over_routes_of_ipv6() {
    pods_reach_each_other(Kind::Routes, V6, 0);
}

#[test]
fn a_machine_that_is_on_no_link_is_told_of_and_keeps_nobody_out() {
    netns::fresh(|| {
        let [first, second] = machines(Kind::Routes, V4);
        let ((a, ip_a), (_b, ip_b)) = (first.pod("a"), second.pod("b"));
        second.put(V4.nodes());
        let mut all = V4.nodes();
        let mut far = V4.nodes_with([203, 0, 113, 9].into()).remove(1);
        far.metadata.name = Some("far".into());
        far.spec.get_or_insert_default().pod_cidrs = Some(vec!["10.244.0.0/25".into(), "10.244.9.0/24".into()]);
        all.insert(0, far);
        let mesh = first.mesh.clone();
        let refused = first.space.run(move || mesh.put(all.iter()).unwrap_err().to_string());
        assert_eq!(refused, "10.244.9.0/24 is not reached: 203.0.113.9 is on no link of this machine; --pod-network vxlan needs none");
        assert_eq!(from(&a, (ip_b, 8080)).unwrap(), format!("b {ip_a}"));
        Ok(())
    })
    .unwrap();
}
