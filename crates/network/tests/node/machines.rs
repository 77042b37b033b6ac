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
use crate::services::until;
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
            let lan = if let (Kind::Routes, IpAddr::V4(ip)) = (kind, ip) { Some(ip) } else { None };
            let node = Node::with(|config| pod::Config { mtu: Some(mtu), parts: vec![part], tunnel, lan, ..config }, part.pod_cidr);
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
        // Somebody's wide route, a VPN's for one, is not in the way.
        let wide = |change: fn(&mut Socket, Net, u32)| {
            for machine in [&first, &second] {
                machine.space.run(move || {
                    let mut socket = Socket::open(netlink::ROUTE).unwrap();
                    let index = link::find(&mut socket, "up0").unwrap().unwrap().index;
                    change(&mut socket, "fd00::/8".parse().unwrap(), index);
                });
            }
        };
        wide(|socket, range, index| {
            let mut m = Messages::new();
            link::add_route(&mut m, range, link::Way::Link { index, source: None });
            socket.call("a wide route", &m).unwrap();
        });
        assert_eq!((first.put(of.nodes()), second.put(of.nodes())), (0, 0));
        let reach = || {
            assert_eq!(from(&a, (ip_b, 8080)).unwrap(), format!("b {ip_a}"), "a pod is seen under its own address");
            assert_eq!(from(&b, (ip_a, 8080)).unwrap(), format!("a {ip_b}"));
            assert_eq!(from(&first.space, (ip_b, 8080)).unwrap(), format!("b {}", first.node.network.gateway()), "the machine speaks as its gateway");
        };
        reach();
        wide(|socket, range, index| link::delete_route_by(socket, range, index).unwrap());
        let overlay = first.links().into_iter().find(|(name, _)| *name == Mark::new("test").overlay());
        assert_eq!(overlay, (kind == Kind::Vxlan).then(|| (Mark::new("test").overlay(), 1500 - overhead)));
        if kind == Kind::Vxlan {
            let joins = || {
                let link = link::find(&mut Socket::open(netlink::ROUTE).unwrap(), &Mark::new("test").overlay()).unwrap().unwrap();
                ethtool::joins(link.index).unwrap()
            };
            assert!(!first.space.run(joins), "packets were joined before");
        }
        if ip_b.is_ipv4() {
            called_from_loopback(&first, ip_b);
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

/// As a node port is that leads to a pod of another machine.
fn called_from_loopback(machine: &Machine, pod: IpAddr) {
    let (loopback, gateway) = (IpAddr::from([127, 0, 0, 1]), machine.node.network.gateway());
    machine.space.run(move || {
        let mut batch = nft::Batch::new(Family::V4, "loopback");
        let hook = |at, priority| Some(nft::Hook { kind: "nat", at, priority });
        batch.add_table().add_chain("lead", hook(nft::At::Output, -99)).add_chain("back", hook(nft::At::Postrouting, 99));
        let mut lead = nft::step::destination_is(loopback).to_vec();
        let load = |n, value: &[u8]| nft::Expr::Load { to: nft::reg(n), value: value.to_vec() };
        lead.extend([load(0, &nft::octets(pod)), load(1, &8080_u16.to_be_bytes())]);
        lead.push(nft::Expr::Dnat { family: Family::V4, address: nft::reg(0), port: nft::reg(1) });
        batch.add_rule("lead", &lead);
        let mut back = [&nft::step::source_is(loopback)[..], &nft::step::destination_is(pod)[..]].concat();
        back.extend(nft::step::snat(gateway));
        batch.add_rule("back", &back);
        batch.commit(&mut Socket::open(netlink::NETFILTER).unwrap(), "a node port").unwrap();
    });
    assert_eq!(from(&machine.space, (loopback, 7777)).unwrap(), format!("b {gateway}"));
}

/// Puts a datagram on the link between the machines that no kernel would send.
#[allow(unsafe_code)]
fn put_on_the_link(from: &Machine, (source, to): ([u8; 4], [u8; 4]), text: &'static str) {
    let packet = datagram((source, to), text.as_bytes());
    from.space.run(move || {
        let index = link::find(&mut Socket::open(netlink::ROUTE).unwrap(), "up0").unwrap().unwrap().index;
        // SAFETY: zeros are a valid address of this kind, and the pointers are to what lives until the call ends.
        let sent = unsafe {
            let mut at: libc::sockaddr_ll = std::mem::zeroed();
            (at.sll_family, at.sll_protocol, at.sll_ifindex) = (libc::AF_PACKET as u16, (libc::ETH_P_IP as u16).to_be(), index as i32);
            (at.sll_halen, at.sll_addr) = (6, [2, 0, 0, 0, 0, 1, 0, 0]);
            let socket = libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
            let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            let sent = libc::sendto(socket, packet.as_ptr().cast(), packet.len(), 0, (&raw const at).cast(), length);
            libc::close(socket);
            sent
        };
        assert_eq!(sent, packet.len() as isize);
    });
}

/// A packet for UDP port 9999.
fn datagram((source, to): ([u8; 4], [u8; 4]), text: &[u8]) -> Vec<u8> {
    let length = text.len() as u16;
    let mut ip = vec![0x45, 0];
    ip.extend((28 + length).to_be_bytes());
    ip.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    ip.extend(source);
    ip.extend(to);
    let sum: u32 = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let check = !(((sum & 0xffff) + (sum >> 16)) as u16);
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    for word in [9999, 9999, 8 + length, 0] {
        ip.extend(word.to_be_bytes());
    }
    ip.extend(text);
    ip
}

#[test]
fn a_link_that_calls_from_the_loopback_leave_by_lets_nobody_in_there() {
    netns::fresh(|| {
        let [first, second] = machines(Kind::Routes, V4);
        let localnet = |machine: &Machine| machine.localnet("up0");
        assert!(localnet(&first));
        let (own, loopback) = ([192, 168, 88, 1], [127, 0, 0, 1]);
        let bind = |at: [u8; 4]| first.space.run(move || std::net::UdpSocket::bind((IpAddr::from(at), 9999)).unwrap());
        let (at_own, at_loopback) = (bind(own), bind(loopback));
        let heard = |socket: &std::net::UdpSocket| {
            let mut text = [0; 64];
            let length = socket.recv(&mut text).unwrap();
            String::from_utf8_lossy(&text[..length]).into_owned()
        };
        for socket in [&at_own, &at_loopback] {
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
        }
        let called = || {
            put_on_the_link(&second, ([192, 168, 88, 2], loopback), "to the loopback");
            put_on_the_link(&second, ([127, 0, 0, 9], own), "as from the loopback");
            put_on_the_link(&second, ([192, 168, 88, 2], own), "from outside");
        };
        called();
        assert_eq!(heard(&at_own), "from outside");
        at_loopback.set_nonblocking(true).unwrap();
        at_loopback.recv(&mut [0; 8]).expect_err("the guard drops it");
        // Without the guard it is heard.
        first.space.run(|| nft::delete_table(&mut Socket::open(netlink::NETFILTER).unwrap(), Family::V4, &Mark::new("test").table()).unwrap());
        at_loopback.set_nonblocking(false).unwrap();
        called();
        assert_eq!(heard(&at_loopback), "to the loopback");
        // A start by another way takes it back, and whoever has had it before keeps it.
        let open = |machine: &Machine, lan| {
            let config = pod::Config { lan, ..machine.node.config.clone() };
            machine.space.run(move || drop(pod::PodNetwork::open(config).unwrap()));
        };
        open(&first, None);
        assert!(!localnet(&first));
        first.space.run(|| std::fs::write("/proc/sys/net/ipv4/conf/up0/route_localnet", "1").unwrap());
        open(&first, Some(own.into()));
        for machine in [&first, &second] {
            machine.space.run(|| pod::purge(&Mark::new("test")).unwrap());
        }
        assert_eq!((localnet(&first), localnet(&second)), (true, false));
        Ok(())
    })
    .unwrap();
}

impl Machine {
    /// Takes the bridge away, and has it made again with all else that is to be there.
    fn repair(&self) {
        let (stop, network) = (CancellationToken::new(), self.node.network.clone());
        let (token, bridge) = (stop.clone(), network.bridge().to_owned());
        let gone = bridge.clone();
        self.space.run(move || link::remove(&mut Socket::open(netlink::ROUTE).unwrap(), &gone).unwrap());
        let keeper = self.node.runtime.spawn(async move { network.keep(token).await });
        let at_news = || {
            self.space.run(|| {
                // News, at which it looks.
                let mut other = std::process::Command::new(std::env::current_exe().unwrap());
                other.args(["--exact", "pods::as_somebody_else", "--ignored"]).env("KNARR_TEST_FLUSH", "forwards filter");
                assert!(other.output().unwrap().status.success());
            });
            self.links().into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        until("the bridge is made again", at_news, |names| names.contains(&bridge));
        stop.cancel();
        self.node.runtime.block_on(keeper).unwrap();
    }

    /// Whether a link leads to the loopback and from it.
    fn localnet(&self, link: &'static str) -> bool {
        self.space.run(move || std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{link}/route_localnet")).unwrap().trim() == "1")
    }
}

#[test]
fn a_link_is_opened_and_closed_by_its_number_even_if_the_bridge_goes_that_tells_of_it() {
    netns::fresh(|| {
        let [first, _second] = machines(Kind::Routes, V4);
        let own = V4.machine(0);
        // Another link of the same name, which has not the address yet: no rule guards it.
        first.space.run(|| {
            let mut socket = Socket::open(netlink::ROUTE).unwrap();
            link::remove(&mut socket, "up0").unwrap();
            let mut m = Messages::new();
            link::add_bridge(&mut m, "up0");
            socket.call("another link", &m).unwrap();
        });
        first.repair();
        assert!(!first.localnet("up0"));
        first.space.run(move || address(&mut Socket::open(netlink::ROUTE).unwrap(), "up0", own, V4.machine(1)));
        first.repair();
        assert!(first.localnet("up0"));
        // What was told is known without the bridge.
        first.repair();
        assert!(first.localnet("up0"));
        first.space.run(|| pod::purge(&Mark::new("test")).unwrap());
        assert!(!first.localnet("up0"));
        // An address of the loopback's own link: nobody is kept from there.
        first.space.run(move || {
            let mut socket = Socket::open(netlink::ROUTE).unwrap();
            link::remove(&mut socket, "up0").unwrap();
            let mut m = Messages::new();
            link::add_address(&mut m, 1, own);
            socket.call("an address of the loopback", &m).unwrap();
        });
        let config = first.node.config.clone();
        first.space.run(move || drop(pod::PodNetwork::open(config).unwrap()));
        assert!(!first.localnet("lo"));
        first.space.serve(9000, "itself");
        assert_eq!(first.space.call((std::net::Ipv4Addr::LOCALHOST, 9000)).unwrap(), "itself 127.0.0.1");
        Ok(())
    })
    .unwrap();
}

/// A datagram as machines send them, with a packet in it that says it is of a pod, for another pod's UDP port 9999.
fn forged(to: IpAddr, text: &[u8]) -> Vec<u8> {
    let IpAddr::V4(to) = to else { unreachable!("machines of IPv4") };
    // The number of the cluster's VXLAN, and the hardware addresses of both machines' devices, as they follow from V4.
    let mut frame = vec![8, 0, 0, 0, 10, 244, 0, 0];
    frame.extend([0x0a, 0x5a, 192, 168, 88, 1, 0x0a, 0x5a, 192, 168, 88, 2, 8, 0]);
    frame.extend(datagram(([10, 244, 1, 77], to.octets()), text));
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
        // The device leads to the loopback, since calls from there go by it; no machine calls what is there.
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let inside = first.space.run(move || std::net::UdpSocket::bind((loopback, 9999)).unwrap());
        let call_loopback = || {
            let datagram = forged(loopback, b"x");
            second.space.run(move || drop(std::net::UdpSocket::bind("0.0.0.0:0").unwrap().send_to(&datagram, (V4.machine(0), mesh::VXLAN_PORT))));
        };
        call_loopback();
        send(&second.space, "after it");
        assert_eq!(hears(), "after it");
        inside.set_nonblocking(true).unwrap();
        inside.recv(&mut [0; 8]).expect_err("the guard drops it");
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
        // Without the guard it is heard: it is the guard that kept it off.
        first.space.run(|| nft::delete_table(&mut Socket::open(netlink::NETFILTER).unwrap(), Family::V4, &Mark::new("test").table()).unwrap());
        inside.set_nonblocking(false).unwrap();
        inside.set_read_timeout(Some(DEADLINE)).unwrap();
        call_loopback();
        assert_eq!(inside.recv(&mut [0; 8]).unwrap(), 1);
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
fn a_second_family_that_comes_later_goes_by_the_device_that_stands() {
    if !link::has_ipv6() {
        return eprintln!("needs a kernel with IPv6");
    }
    netns::fresh(|| {
        let [first, _second] = machines(Kind::Vxlan, V4);
        first.put(V4.nodes());
        let mut nodes = V4.nodes();
        for (number, node) in (0_u32..).zip(&mut nodes) {
            node.spec.get_or_insert_default().pod_cidrs = Some([V4, V6].map(|of| of.part(number).pod_cidr.to_string()).to_vec());
        }
        let cluster = [V4, V6].map(|of| of.part(0).cluster_cidr).to_vec();
        let own = Own { node: "first".into(), kind: Kind::Vxlan, addresses: vec![V4.machine(0)], cluster };
        let left_out = first.space.run(move || {
            let mesh = Mesh::open(mesh::Config { mark: Mark::new("test"), own, gateways: Vec::new() }).unwrap();
            mesh.put(nodes.iter()).unwrap().len()
        });
        assert_eq!(left_out, 0);
        Ok(())
    })
    .unwrap();
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
