//! Pods reach each other, the host and the outside; addresses outlive a crash; everything can be removed.

use std::collections::HashSet;
use std::time::Instant;

use network::netlink::{self, Socket};
use network::pod::{self, HostPort, PodNetwork};
use network::{link, nft};

use crate::world::{HOST, NODE_IP, Node, OUTSIDE, Space, call, machine};

#[test]
fn pods_reach_each_other_the_host_and_the_outside() {
    machine(|outside| {
        let node = Node::new();
        let (a, ip_a) = node.pod("a");
        let (b, ip_b) = node.pod("b");
        assert_ne!(ip_a, ip_b);
        assert_eq!(a.call((ip_b, 8080)).unwrap(), format!("b {ip_a}"), "a pod is seen under its own address");
        assert_eq!(b.call((ip_a, 8080)).unwrap(), format!("a {ip_b}"));
        assert_eq!(a.call((ip_a, 8080)).unwrap(), format!("a {ip_a}"));
        assert_eq!(a.call(([127, 0, 0, 1].into(), 8080)).unwrap(), "a 127.0.0.1");
        assert_eq!(call((ip_a, 8080)).unwrap(), format!("a {NODE_IP}"), "the host speaks as the gateway");
        outside.serve(9000, "outside");
        assert_eq!(a.call((OUTSIDE, 9000)).unwrap(), format!("outside {HOST}"), "egress under the host's address");
        let gone = Instant::now();
        a.call(([10, 244, 9, 9].into(), 8080)).unwrap_err();
        assert!(gone.elapsed().as_millis() < 500, "an address that nobody has is refused at once");
    });
}

#[test]
fn the_first_packet_gets_through_both_ways() {
    machine(|_outside| {
        let node = Node::new();
        let host = std::net::UdpSocket::bind((NODE_IP, 7777)).unwrap();
        host.set_read_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
        for i in 0..30 {
            let space = Space::new();
            let pod = space.run(|| {
                let socket = std::net::UdpSocket::bind("0.0.0.0:7777").unwrap();
                socket.set_read_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
                socket
            });
            let address = node.attach(&format!("p{i}"), &space.path, Vec::new());
            host.send_to(b"down", (address, 7777)).unwrap();
            pod.recv(&mut [0; 8]).expect("from the host");
            pod.send_to(b"up", (NODE_IP, 7777)).unwrap();
            host.recv(&mut [0; 8]).expect("from the pod");
        }
    });
}

#[test]
fn attaching_is_quick_and_can_be_repeated() {
    machine(|_outside| {
        let node = Node::new();
        let spaces: Vec<Space> = (0..20).map(|_| Space::new()).collect();
        let mut times = Vec::new();
        for (i, space) in spaces.iter().enumerate() {
            let begun = Instant::now();
            let first = node.attach(&format!("s{i}"), &space.path, Vec::new());
            times.push(begun.elapsed());
            assert_eq!(node.attach(&format!("s{i}"), &space.path, Vec::new()), first);
        }
        times.sort();
        println!("attach: median {:?}, worst {:?}", times[10], times[19]);
        let mut gone = Vec::new();
        for i in 0..spaces.len() {
            let begun = Instant::now();
            node.detach(&format!("s{i}"));
            gone.push(begun.elapsed());
        }
        gone.sort();
        println!("detach: median {:?}, worst {:?}", gone[10], gone[19]);
        assert!(times[10].as_millis() < 20, "{times:?}");
    });
}

#[test]
fn a_new_process_finds_the_pods_and_gives_no_address_twice() {
    machine(|_outside| {
        let mut node = Node::new();
        let (a, ip_a) = node.pod("a");
        let (_b, ip_b) = node.pod("b");
        // As after kill -9: nothing was closed or told.
        node.network = PodNetwork::open(node.config.clone()).unwrap();
        assert_eq!(node.network.addresses("a").unwrap().ips, [ip_a]);
        assert_eq!(a.call((ip_b, 8080)).unwrap(), format!("b {ip_a}"), "the pods' links were not touched");
        let (_c, ip_c) = node.pod("c");
        assert!(ip_c != ip_a && ip_c != ip_b);
        let live: HashSet<String> = ["a".to_owned(), "c".to_owned()].into();
        node.runtime.block_on(node.network.adopt(&live)).unwrap();
        assert!(node.network.addresses("b").is_none());
        let (_d, ip_d) = node.pod("d");
        assert_ne!(ip_d, ip_b, "a freed address comes last");
        node.detach("d");
        node.detach("d");
    });
}

#[test]
fn a_lost_namespace_leaves_nothing() {
    machine(|_outside| {
        let node = Node::new();
        let request = pod::AttachRequest { sandbox_id: "x".into(), host_ports: Vec::new() };
        let gone = std::path::Path::new("/nonexistent");
        node.runtime.block_on(node.network.attach(gone, request)).unwrap_err();
        assert_eq!(std::fs::read_dir(node.config.run_dir.join("ipam")).unwrap().count(), 0);
        {
            let space = Space::new();
            node.attach("y", &space.path, Vec::new());
        }
        node.detach("y");
        let (_z, _) = node.pod("z");
    });
}

fn host_port(host_port: u16, protocol: &str) -> HostPort {
    HostPort { host_ip: None, host_port, container_port: 8080, protocol: protocol.into() }
}

#[test]
fn host_ports_lead_into_the_pod_from_everywhere() {
    machine(|outside| {
        let mut node = Node::new();
        let space = Space::new();
        let single = HostPort { host_ip: Some(HOST), ..host_port(7001, "TCP") };
        let ip = node.attach("a", &space.path, vec![host_port(7000, "TCP"), host_port(7000, "UDP"), single]);
        space.serve(8080, "a");
        let (other, ip_other) = node.pod("b");
        for _ in 0..2 {
            assert_eq!(outside.call((HOST, 7000)).unwrap(), format!("a {OUTSIDE}"), "the caller's address is kept");
            assert_eq!(outside.call((HOST, 7001)).unwrap(), format!("a {OUTSIDE}"));
            assert_eq!(other.call((NODE_IP, 7000)).unwrap(), format!("a {ip_other}"));
            assert!(other.call((NODE_IP, 7001)).is_err(), "only that address");
            assert_eq!(call(([127, 0, 0, 1].into(), 7000)).unwrap(), format!("a {NODE_IP}"));
            assert_eq!(space.call((NODE_IP, 7000)).unwrap(), format!("a {NODE_IP}"), "a pod reaches itself");
            // And again after a restart.
            node.network = PodNetwork::open(node.config.clone()).unwrap();
        }
        let _ = ip;
        node.detach("a");
        assert!(outside.call((HOST, 7000)).is_err());
    });
}

#[test]
fn pods_do_not_reach_the_hosts_loopback() {
    machine(|_outside| {
        let node = Node::new();
        let listener = std::net::UdpSocket::bind("127.0.0.1:5555").unwrap();
        listener.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
        let (a, _) = node.pod("a");
        // A pod that has the right to can send such packets; the host must not take them.
        a.run(|| {
            std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap();
            let mut socket = Socket::open(netlink::ROUTE).unwrap();
            let mut m = netlink::Messages::new();
            link::get(&mut m, "eth0");
            let index = link::index_of(&socket.call("eth0", &m).unwrap(), "eth0").unwrap();
            let mut m = netlink::Messages::new();
            let way = link::Way::Gateway { index, router: NODE_IP };
            link::add_route(&mut m, "127.9.0.0/16".parse().unwrap(), way);
            socket.call("route", &m).unwrap();
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            let _ = socket.send_to(b"x", "127.9.0.1:5555");
        });
        assert!(listener.recv(&mut [0; 8]).is_err());
    });
}

#[test]
fn purge_removes_everything_with_the_mark_and_nothing_else() {
    machine(|_outside| {
        let node = Node::new();
        let (_a, _) = node.pod("a");
        let mut other = node.config.clone();
        other.mark = network::Mark::new("tes");
        other.pod_cidr = "10.245.0.0/16".parse().unwrap();
        other.service_cidr = None;
        let _other = PodNetwork::open(other.clone()).unwrap();
        pod::purge(&node.config.mark).unwrap();
        pod::purge(&node.config.mark).unwrap();
        let mut route = Socket::open(netlink::ROUTE).unwrap();
        let names: HashSet<String> = link::list(&mut route).unwrap().into_iter().map(|l| l.name).collect();
        assert!(names.contains("knarr-tes") && !names.contains("knarr-test"), "{names:?}");
        assert!(!names.iter().any(|n| n.starts_with(&node.config.mark.link_prefix())), "{names:?}");
        let mut socket = Socket::open(netlink::NETFILTER).unwrap();
        assert_eq!(nft::tables(&mut socket).unwrap(), ["knarr-tes"]);
        let routes = std::fs::read_to_string("/proc/thread-self/net/route").unwrap();
        assert!(!routes.contains("0000F40A"), "10.244.0.0 is no route any more: {routes}");
    });
}

#[test]
fn a_firewall_that_forwards_nothing_lets_pods_through() {
    machine(|outside| {
        // As Docker and others leave it.
        let hook = nft::Hook { kind: "filter", at: nft::At::Forward, priority: 0 };
        let mut socket = Socket::open(netlink::NETFILTER).unwrap();
        let mut batch = nft::Batch::new("filter");
        batch.add_table().add_chain("FORWARD", Some(hook)).add_rule("FORWARD", &vec![nft::Expr::Counter]);
        batch.set_policy("FORWARD", true);
        batch.commit(&mut socket, "firewall").unwrap();
        let mut node = Node::new();
        let (a, ip_a) = node.pod("a");
        let (_b, ip_b) = node.pod("b");
        assert_eq!(a.call((ip_b, 8080)).unwrap(), format!("b {ip_a}"));
        outside.serve(9000, "outside");
        assert_eq!(a.call((OUTSIDE, 9000)).unwrap(), format!("outside {HOST}"));
        let ours = |socket: &mut Socket| nft::commented_rules(socket).unwrap().len();
        let before = ours(&mut socket);
        node.network = PodNetwork::open(node.config.clone()).unwrap();
        assert_eq!(ours(&mut socket), before, "not twice");
        pod::purge(&node.config.mark).unwrap();
        assert_eq!(ours(&mut socket), 0);
        assert_eq!(nft::tables(&mut socket).unwrap(), ["filter"]);
    });
}
