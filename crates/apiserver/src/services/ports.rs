//! Ports of nodes: those that a Service asks for, and those that it is given.
//!
//! Upstream counts a port once, whatever protocols use it. Of a new Service all ports of one number have one (`initNodePorts`); a changed
//! one keeps what it had, and each of its ports that has none is given one of its own (`updateNodePorts`). A rehearsal takes nothing: it
//! is refused what others have, wherever that lies, and shown guesses.

use super::{Allocators, Hold, PORT_GUESSED, fields};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
};
use std::collections::{HashMap, HashSet};

const ALLOCATED: &str = "provided port is already allocated";
/// The protocols that there are.
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

impl Hold<'_> {
    /// Takes a port that is asked for.
    fn claim(&mut self, port: u16, protocol: &str) -> Result<(), String> {
        if let Some(guesses) = &mut self.guesses {
            if guesses.contains(&port) || self.allocators.taken.lock().ports.contains_key(&port) {
                return Err(ALLOCATED.to_owned());
            }
            guesses.push(port);
            return Ok(());
        }
        self.allocators.take_port(port, protocol, &self.owner)?;
        self.ports.push((port, protocol.to_owned()));
        Ok(())
    }

    /// Another protocol uses a port that the Service has. One that there is not is refused by validation: nothing is noted for it, of
    /// whose number its sender decides.
    fn share(&mut self, port: u16, protocol: &str) {
        if self.guesses.is_none() && PROTOCOLS.contains(&protocol) && self.allocators.share_port(port, protocol, &self.owner) {
            self.ports.push((port, protocol.to_owned()));
        }
    }

    /// Takes a port that nobody has; a rehearsal takes none and guesses as upstream does, beyond those of this write.
    fn next_port(&mut self, protocol: &str) -> Option<u16> {
        let Some(guesses) = &mut self.guesses else {
            let found = self.allocators.next_port(protocol, &self.owner)?;
            self.ports.push((found, protocol.to_owned()));
            return Some(found);
        };
        let guess = guesses.iter().copied().max().unwrap_or(PORT_GUESSED).checked_add(1)?;
        guesses.push(guess);
        Some(guess)
    }
}

impl Allocators {
    pub(super) fn node_ports(&self, service: &mut Value, old: Option<&Value>, hold: &mut Hold<'_>) -> Result<(), ErrorList> {
        let dynamic = fields::allocates_node_ports(service);
        let Some(ports) = service["spec"]["ports"].as_array_mut() else { return Ok(()) };
        // A rehearsal leaves what is no port at all to validation.
        let odd = ports.iter().enumerate().find_map(|(at, port)| Some((at, fields::no_port(&port["nodePort"])?)));
        if let Some((at, number)) = odd.filter(|_| hold.guesses.is_none()) {
            return Err(refused(at, number, self.out_of_range()));
        }
        match old {
            None => new_ports(ports, dynamic, hold),
            Some(old) => changed_ports(ports, &fields::port_numbers(old), dynamic, hold),
        }
    }

    pub(super) fn health_check_port(&self, service: &mut Value, old: Option<&Value>, hold: &mut Hold<'_>) -> Result<(), ErrorList> {
        if !fields::needs_health_check_port(service) {
            return Ok(());
        }
        // One that has it keeps it, whatever is said of it: validation looks at that.
        if old.is_some_and(fields::needs_health_check_port) {
            return Ok(());
        }
        let failed = |detail: String| vec![Error::internal(&Path::root("spec").child("healthCheckNodePort"), detail)];
        // A rehearsal leaves what is no port at all to validation.
        if let Some(number) = fields::no_port(&service["spec"]["healthCheckNodePort"]) {
            let why = format!("failed to allocate requested HealthCheck NodePort {number}: {}", self.out_of_range());
            return if hold.guesses.is_some() { Ok(()) } else { Err(failed(why)) };
        }
        let found = match fields::health_check_port(service) {
            Some(port) => {
                hold.claim(port, "TCP").map_err(|why| failed(format!("failed to allocate requested HealthCheck NodePort {port}: {why}")))?;
                port
            }
            None => hold.next_port("TCP").ok_or_else(|| failed("failed to allocate a HealthCheck NodePort 0: range is full".to_owned()))?,
        };
        service["spec"]["healthCheckNodePort"] = found.into();
        Ok(())
    }

    fn out_of_range(&self) -> String {
        let (first, last) = self.ports;
        format!("provided port is not in the valid range. The range of valid ports is {first}-{last}")
    }

    fn take_port(&self, port: u16, protocol: &str, owner: &str) -> Result<(), String> {
        let (first, last) = self.ports;
        if !(first..=last).contains(&port) {
            return Err(self.out_of_range());
        }
        let mut taken = self.taken.lock();
        if taken.ports.contains_key(&port) {
            return Err(ALLOCATED.to_owned());
        }
        taken.ports.insert(port, (owner.to_owned(), vec![protocol.to_owned()]));
        Ok(())
    }

    /// Whether that is new.
    fn share_port(&self, port: u16, protocol: &str, owner: &str) -> bool {
        let mut taken = self.taken.lock();
        let (who, protocols) = taken.ports.entry(port).or_insert_with(|| (owner.to_owned(), Vec::new()));
        let is_new = who == owner && !protocols.iter().any(|known| known == protocol);
        if is_new {
            protocols.push(protocol.to_owned());
        }
        is_new
    }

    fn next_port(&self, protocol: &str, owner: &str) -> Option<u16> {
        let (first, last) = self.ports;
        let mut taken = self.taken.lock();
        let count = u32::from(last.checked_sub(first)?) + 1;
        // A stride that shares no factor with the range's size visits every port and does not look sequential.
        let start = u32::from(taken.next_port);
        let candidates = (1..=count).map(|i| first + ((start + i * 977) % count) as u16);
        let found = candidates.into_iter().find(|p| !taken.ports.contains_key(p)).or_else(|| (first..=last).find(|p| !taken.ports.contains_key(p)))?;
        taken.next_port = found - first;
        taken.ports.insert(found, (owner.to_owned(), vec![protocol.to_owned()]));
        Some(found)
    }
}

fn number(port: &Value) -> i64 {
    port["port"].as_i64().unwrap_or(0)
}

fn refused(at: usize, port: impl Into<Value>, why: String) -> ErrorList {
    vec![Error::invalid(&Path::root("spec").child("ports").index(at).child("nodePort"), port, why)]
}

fn full() -> ErrorList {
    vec![Error::internal(&Path::root("spec").child("ports"), "failed to allocate a nodePort: range is full")]
}

fn new_ports(ports: &mut [Value], dynamic: bool, hold: &mut Hold<'_>) -> Result<(), ErrorList> {
    // Of each number the first that is asked for.
    let asked: HashMap<i64, u16> = ports.iter().rev().filter_map(|port| Some((number(port), fields::node_port(port)?))).collect();
    let mut given: HashMap<i64, u16> = HashMap::new();
    for (at, port) in ports.iter_mut().enumerate() {
        let (own, protocol, number) = (fields::node_port(port), fields::protocol(port), number(port));
        if fields::no_port(&port["nodePort"]).is_some() || (own.is_none() && !dynamic) {
            continue;
        }
        let found = match (given.get(&number).copied(), own) {
            (Some(shared), own) if own.is_none_or(|own| own == shared) => {
                hold.share(shared, &protocol);
                shared
            }
            (Some(_), Some(own)) => {
                hold.claim(own, &protocol).map_err(|why| refused(at, own, why))?;
                own
            }
            (_, _) => {
                let found = match asked.get(&number).copied() {
                    Some(asked) => hold.claim(asked, &protocol).map(|()| asked).map_err(|why| refused(at, asked, why))?,
                    None => hold.next_port(&protocol).ok_or_else(full)?,
                };
                given.insert(number, found);
                found
            }
        };
        port["nodePort"] = found.into();
    }
    Ok(())
}

fn changed_ports(ports: &mut [Value], had: &HashSet<u16>, dynamic: bool, hold: &mut Hold<'_>) -> Result<(), ErrorList> {
    let (mut claimed, mut seen) = (HashSet::new(), HashSet::new());
    for (at, port) in ports.iter_mut().enumerate() {
        if fields::no_port(&port["nodePort"]).is_some() {
            continue;
        }
        let protocol = fields::protocol(port);
        let found = match fields::node_port(port) {
            None if !dynamic => continue,
            None => hold.next_port(&protocol).ok_or_else(full)?,
            Some(own) if had.contains(&own) || claimed.contains(&own) => {
                hold.share(own, &protocol);
                own
            }
            Some(own) => {
                hold.claim(own, &protocol).map_err(|why| refused(at, own, why))?;
                claimed.insert(own);
                own
            }
        };
        port["nodePort"] = found.into();
        let detail = format!("duplicate nodePort: {{{protocol} {found}}}");
        if !seen.insert((protocol, found)) {
            // Upstream gives no more than the words.
            return Err(vec![Error { bare: true, ..Error::internal(&Path::root("spec").child("ports"), detail) }]);
        }
    }
    Ok(())
}
