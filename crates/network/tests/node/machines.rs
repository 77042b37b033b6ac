//! Two machines with a node each: pods reach each other over VXLAN and over routes, also after somebody has taken that away.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1;
use network::link::{self, End, Settings};
use network::mesh::{self, Kind, Mesh, Own};
use network::netlink::{self, Messages, Socket};
use network::{Cidr, Mark, netns, pod};

use crate::world::{Node, Space};

/// A machine and its node.
struct Machine {
    space: Space,
    node: Arc<Node>,
    mesh: Arc<Mesh>,
}

const FIRST: Ipv4Addr = Ipv4Addr::new(192, 168, 88, 1);
const SECOND: Ipv4Addr = Ipv4Addr::new(192, 168, 88, 2);
const CLUSTER: &str = "10.244.0.0/16";

fn range(number: u8) -> Cidr {
    Cidr::new(Ipv4Addr::new(10, 244, number, 0), 24)
}

/// The Node objects of both.
fn nodes(second: Ipv4Addr) -> Vec<v1::Node> {
    let node = |name: &str, number: u8, ip: Ipv4Addr| {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"podCIDRs": [range(number).to_string()]},
            "status": {"addresses": [{"type": "InternalIP", "address": ip}]}
        }))
        .unwrap()
    };
    vec![node("first", 0, FIRST), node("second", 1, second)]
}

fn address(socket: &mut Socket, name: &str, own: Ipv4Addr, other: Ipv4Addr) {
    let mut m = Messages::new();
    link::up(&mut m, 1);
    link::set(&mut m, name, &Settings { up: true, ..Settings::default() });
    link::get(&mut m, name);
    let index = link::index_of(&socket.call("up", &m).unwrap(), name).unwrap();
    let mut m = Messages::new();
    link::add_address(&mut m, index, own);
    link::add_route(&mut m, Cidr::new(other, 32), link::Way::Link { index, source: Some(own.into()) });
    socket.call("address", &m).unwrap();
}

/// Two machines with a link between them.
fn machines(kind: Kind) -> [Machine; 2] {
    let spaces = [Space::new(), Space::new()];
    let there = std::fs::File::open(&spaces[1].path).unwrap();
    spaces[0].run(move || {
        let mut socket = Socket::open(netlink::ROUTE).unwrap();
        let mut m = Messages::new();
        let (near, far) = (End { name: "up0", mac: [2, 0, 0, 0, 0, 1] }, End { name: "up0", mac: [2, 0, 0, 0, 0, 2] });
        link::add_veth(&mut m, near, far, there.as_raw_fd(), 1500);
        socket.call("link", &m).unwrap();
        address(&mut socket, "up0", FIRST, SECOND);
    });
    spaces[1].run(|| address(&mut Socket::open(netlink::ROUTE).unwrap(), "up0", SECOND, FIRST));
    let mut number = 0;
    spaces.map(|space| {
        let (name, ip) = [("first", FIRST), ("second", SECOND)][usize::from(number)];
        let (node, mesh) = space.run(move || {
            let mtu = mesh::mtu(kind, ip.into()).unwrap();
            let node = Node::with(|config| pod::Config { mtu: Some(mtu), cluster_cidr: Some(CLUSTER.parse().unwrap()), ..config }, range(number));
            let own = Own { node: name.into(), kind, addresses: vec![ip.into()], cluster: vec![CLUSTER.parse().unwrap()] };
            let mesh = Mesh::open(mesh::Config { mark: Mark::new("test"), own, gateways: vec![IpAddr::V4(node.network.gateway())] }).unwrap();
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

    fn pod(&self, name: &'static str) -> (Space, Ipv4Addr) {
        let (pod, node) = (Space::new(), self.node.clone());
        let path = pod.path.clone();
        let address = self.space.run(move || node.attach(name, Path::new(&path), Vec::new()));
        pod.serve(8080, name);
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

fn pods_reach_each_other(kind: Kind) {
    netns::fresh(|| {
        let [first, second] = machines(kind);
        let ((a, ip_a), (b, ip_b)) = (first.pod("a"), second.pod("b"));
        a.call((ip_b, 8080)).unwrap_err();
        assert_eq!((first.put(nodes(SECOND)), second.put(nodes(SECOND))), (0, 0));
        let reach = || {
            assert_eq!(a.call((ip_b, 8080)).unwrap(), format!("b {ip_a}"), "a pod is seen under its own address");
            assert_eq!(b.call((ip_a, 8080)).unwrap(), format!("a {ip_b}"));
            assert_eq!(first.space.call((ip_b, 8080)).unwrap(), format!("b {}", first.node.network.gateway()), "the machine speaks as its gateway");
        };
        reach();
        let overlay = first.links().into_iter().find(|(name, _)| *name == Mark::new("test").overlay());
        assert_eq!(overlay, (kind == Kind::Vxlan).then(|| (Mark::new("test").overlay(), 1450)));

        // Again changes nothing, and what somebody took away is there again.
        first.put(nodes(SECOND));
        reach();
        first.space.run(move || {
            let mut socket = Socket::open(netlink::ROUTE).unwrap();
            match kind {
                Kind::Vxlan => link::remove(&mut socket, &Mark::new("test").overlay()).unwrap(),
                _ => address(&mut socket, "up0", FIRST, SECOND),
            }
        });
        first.put(nodes(SECOND));
        reach();

        // A sweep of pods' links is none of this.
        let node = first.node.clone();
        first.space.run(move || node.runtime.block_on(node.network.adopt(&["a".to_owned()].into())).unwrap());
        reach();

        // The node goes, and comes with another address where nobody is.
        first.put(nodes(SECOND).into_iter().take(1).collect());
        a.call((ip_b, 8080)).unwrap_err();
        first.put(nodes(SECOND));
        reach();

        // Nothing of it stays.
        first.space.run(|| pod::purge(&Mark::new("test")).unwrap());
        assert_eq!(first.space.run(|| std::fs::read_to_string("/proc/thread-self/net/route").unwrap().matches("0001F40A").count()), 0);
        assert!(first.links().iter().all(|(name, _)| !name.starts_with("kn")), "nothing of the mark's");
        Ok(())
    })
    .unwrap();
}

#[test]
fn over_vxlan() {
    pods_reach_each_other(Kind::Vxlan);
}

#[test]
fn over_routes() {
    pods_reach_each_other(Kind::Routes);
}

#[test]
fn a_machine_that_is_on_no_link_is_told_of_and_keeps_nobody_out() {
    netns::fresh(|| {
        let [first, second] = machines(Kind::Routes);
        let ((a, ip_a), (_b, ip_b)) = (first.pod("a"), second.pod("b"));
        second.put(nodes(SECOND));
        let mut all = nodes(SECOND);
        let mut far = nodes("203.0.113.9".parse().unwrap()).remove(1);
        far.metadata.name = Some("far".into());
        far.spec.get_or_insert_default().pod_cidrs = Some(vec!["10.244.0.0/25".into(), "10.244.9.0/24".into()]);
        all.insert(0, far);
        let mesh = first.mesh.clone();
        let refused = first.space.run(move || mesh.put(all.iter()).unwrap_err().to_string());
        assert_eq!(refused, "10.244.9.0/24 is not reached: 203.0.113.9 is on no link of this machine; --pod-network vxlan needs none");
        assert_eq!(a.call((ip_b, 8080)).unwrap(), format!("b {ip_a}"));
        Ok(())
    })
    .unwrap();
}
