//! Who has a port of the host, where several pods claim it: the first, until he goes; then the next.
//!
//! The scheduler and the kubelet let no two pods of a node claim the same, but a pod that was deleted by force is gone for them while it
//! still ends here, and its successor is not to wait for that. What the node itself answers nobody gets: a port that leads into a pod
//! is taken before the node's own processes hear of it, also from the administrator.

use std::collections::HashMap;
use std::net::IpAddr;

use super::{HostPort, OwnPort};

type Port = (Option<IpAddr>, u16, String);

fn key(port: &HostPort) -> Port {
    (port.host_ip, port.host_port, port.protocol.clone())
}

/// Whether two pods' ports are the same one of the host.
pub(super) fn same(a: &HostPort, b: &HostPort) -> bool {
    key(a) == key(b)
}

/// Ports of the host with the pods that have them.
#[derive(Debug, Default)]
pub(super) struct Holders {
    held: HashMap<Port, IpAddr>,
    own: Vec<OwnPort>,
}

impl Holders {
    /// Nobody has any, and nobody gets these.
    pub(super) fn but_for(own: Vec<OwnPort>) -> Self {
        Self { held: HashMap::new(), own }
    }

    /// Takes those of the ports that nobody has; which the pod has now.
    pub(super) fn take(&mut self, pod: IpAddr, ports: &[HostPort]) -> Vec<HostPort> {
        let (held, own) = (&mut self.held, &self.own);
        let free = ports.iter().filter(|p| !own.iter().any(|o| o.meets(p.host_ip, p.host_port, &p.protocol)));
        free.filter(|p| *held.entry(key(p)).or_insert(pod) == pod).cloned().collect()
    }

    /// Which of its ports a pod has.
    pub(super) fn of(&self, pod: IpAddr, ports: &[HostPort]) -> Vec<HostPort> {
        ports.iter().filter(|p| self.held.get(&key(p)) == Some(&pod)).cloned().collect()
    }

    /// A pod has no ports any more.
    pub(super) fn give(&mut self, pod: IpAddr) {
        self.held.retain(|_, holder| *holder != pod);
    }

    /// A pod has these ports no more.
    pub(super) fn give_back(&mut self, pod: IpAddr, ports: &[HostPort]) {
        for port in ports {
            if self.held.get(&key(port)) == Some(&pod) {
                self.held.remove(&key(port));
            }
        }
    }

    /// These are all the pods: what each has. Who has a port keeps it.
    pub(super) fn settle<'a>(&mut self, pods: impl Iterator<Item = (IpAddr, &'a [HostPort])>) -> Vec<(IpAddr, Vec<HostPort>)> {
        let pods: Vec<_> = pods.collect();
        let before = Self { held: std::mem::take(&mut self.held), own: Vec::new() };
        for (pod, ports) in &pods {
            self.take(*pod, &before.of(*pod, ports));
        }
        pods.into_iter().map(|(pod, ports)| (pod, self.take(pod, ports))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(number: u16, protocol: &str) -> HostPort {
        HostPort { host_ip: None, host_port: number, container_port: number, protocol: protocol.into() }
    }

    #[test]
    fn the_first_has_a_port_until_he_goes() {
        let mut holders = Holders::default();
        let (a, b) = (IpAddr::from([10, 0, 0, 9]), IpAddr::from([10, 0, 0, 2]));
        let (ports, udp) = ([port(80, "TCP"), port(81, "TCP")], [port(80, "UDP")]);
        assert_eq!(holders.take(a, &ports), ports);
        assert_eq!(holders.take(b, &[&ports[..1], &udp].concat()), udp, "another protocol's is another port");
        // A table that is written anew changes nothing about it, whatever the order of addresses.
        let wanted = [(b, &ports[..1]), (a, &ports[..])];
        assert_eq!(holders.settle(wanted.into_iter()), [(b, Vec::new()), (a, ports.to_vec())]);
        holders.give_back(b, &ports);
        holders.give_back(a, &ports[1..]);
        assert_eq!(holders.of(a, &ports), ports[..1], "nobody gives another's, nor more than he is asked to");
        holders.give(a);
        assert_eq!(holders.of(a, &ports), []);
        assert_eq!(holders.take(b, &ports[..1]), ports[..1]);
    }

    #[test]
    fn nobody_gets_the_nodes_own() {
        let [node, host, pod] = [[10, 0, 0, 1], [192, 168, 0, 1], [10, 0, 0, 9]].map(IpAddr::from);
        let mut holders = Holders::but_for(vec![OwnPort { ip: Some(node), port: 6443, protocol: "TCP" }, OwnPort { ip: None, port: 22, protocol: "TCP" }]);
        let at = |ip: IpAddr, number| HostPort { host_ip: Some(ip), ..port(number, "TCP") };
        let given = [port(80, "TCP"), port(6443, "UDP"), at(host, 6443)];
        let refused = [port(6443, "TCP"), at(node, 6443), port(22, "TCP"), at(host, 22)];
        let all = [&refused[..], &given].concat();
        assert_eq!(holders.take(pod, &all), given, "an address where the node does not listen is not its own");
        assert_eq!(holders.settle([(pod, &all[..])].into_iter()), [(pod, given.to_vec())], "nor does it with a table that is written anew");
        assert_eq!(holders.of(pod, &refused), []);
    }
}
