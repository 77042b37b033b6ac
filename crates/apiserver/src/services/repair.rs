//! What is taken, compared with what the stored Services have: upstream's repair loops of addresses and ports.
//!
//! A write takes before it commits, so what is taken and not stored may be on its way. It is freed when it was found so
//! twice in a row by the same owner: rounds are further apart than a request may last.

use super::{Allocators, Owner, addresses, fields, objects};
use crate::{storage, world::World};
use machinery::Value;
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

/// What the last round found taken though no Service has it.
#[derive(Debug, Default)]
pub(crate) struct Suspects {
    ips: HashSet<(IpAddr, Owner)>,
    ports: HashSet<(u16, String, Owner)>,
    /// IPAddress objects of no Service.
    objects: HashSet<String>,
}

impl Suspects {
    /// What two rounds at the start look for, however soon after each other: an IPAddress is written after its Service, so one
    /// that no later look finds a Service for is left over. What is taken may belong to a write that is under way, since the
    /// server is asked before it is ready; and a crash leaves nothing in memory.
    pub(crate) fn of_a_crash(self) -> Suspects {
        Suspects { objects: self.objects, ..Suspects::default() }
    }

    /// How many addresses.
    #[cfg(test)]
    pub(super) fn count_ips(&self) -> usize {
        self.ips.len()
    }
}

/// One round.
pub(crate) async fn repair(world: &World, last: Suspects) -> Suspects {
    let services = world.list(("", "v1", "services"), "");
    for service in &services {
        let others = world.services().adopt(service);
        if !others.is_empty() {
            let meta = &service["metadata"];
            tracing::warn!(namespace = %meta["namespace"], name = %meta["name"], ?others, "a Service has what belongs to another; it must be made again");
        }
    }
    let mut suspects = world.services().unused(&services);
    let freed = world.services().free_again(&mut suspects, &last);
    if freed > 0 {
        tracing::warn!(freed, "addresses and ports were taken by no Service; they are free again");
    }
    suspects.objects = show(world, &services, &last).await;
    suspects
}

/// Has the IPAddress objects agree with the Services; returns those that are suspect.
async fn show(world: &World, services: &[Arc<Value>], last: &Suspects) -> HashSet<String> {
    let (Some(row), Some(own)) = (objects::row(world), world.row("", "v1", "services")) else { return HashSet::new() };
    let text = |value: &Value, field: &str| value["metadata"][field].as_str().unwrap_or_default().to_owned();
    let mut wanted = BTreeSet::new();
    for service in services {
        let (namespace, name) = (text(service, "namespace"), text(service, "name"));
        for ip in addresses(service) {
            wanted.insert(ip.to_string());
            let there = storage::get(world.store(), &row, &row.resource.key("", &ip.to_string()));
            if there.is_some_and(|entry| objects::is_of(&storage::value(&row, &entry), &namespace, &name)) {
                continue;
            }
            // The Service may have gone since it was read; its IPAddress must not come back.
            let present = storage::get(world.store(), &own, &own.resource.key(&namespace, &name));
            if present.is_some_and(|entry| addresses(&storage::value(&own, &entry)).contains(&ip)) {
                objects::show(world, ip, &namespace, &name).await;
            }
        }
    }
    let Some(snapshot) = storage::snapshot(world.store(), &row, None) else { return HashSet::new() };
    let mut suspects = HashSet::new();
    let lost: Vec<Arc<Value>> =
        snapshot.range(&row.root_key, "").map(|entry| storage::value(&row, entry)).filter(|o| !wanted.contains(&text(o, "name"))).collect();
    for object in lost.iter().filter(|o| o["metadata"]["labels"][objects::MANAGED_BY.0] == objects::MANAGED_BY.1) {
        let name = text(object, "name");
        if !last.objects.contains(&name) {
            suspects.insert(name);
            continue;
        }
        let parent = &object["spec"]["parentRef"];
        let (space, of) = (parent["namespace"].as_str().unwrap_or_default(), parent["name"].as_str().unwrap_or_default());
        if let Ok(ip) = name.parse() {
            objects::hide(world, &[ip], space, of).await;
        }
    }
    suspects
}

impl Allocators {
    /// What is taken and no Service has.
    pub(super) fn unused(&self, services: &[Arc<Value>]) -> Suspects {
        let mut used: HashMap<Owner, &Value> = HashMap::new();
        for service in services {
            used.insert(super::owner(service), service);
        }
        let taken = self.taken.lock();
        let has_ip = |owner: &Owner, ip: &IpAddr| used.get(owner).is_some_and(|s| addresses(s).contains(ip));
        let has_port =
            |owner: &Owner, port: u16, protocol: &str| used.get(owner).is_some_and(|s| fields::node_ports(s).iter().any(|(n, p)| *n == port && p == protocol));
        let ips = taken.ips.iter().filter(|(ip, owner)| !has_ip(owner, ip)).map(|(ip, owner)| (*ip, owner.clone())).collect();
        let ports = taken.ports.iter().flat_map(|(port, (owner, protocols))| protocols.iter().map(move |p| (*port, p.clone(), owner.clone())));
        let ports = ports.filter(|(port, protocol, owner)| !has_port(owner, *port, protocol)).collect();
        Suspects { ips, ports, objects: HashSet::new() }
    }

    /// Frees what was suspect before as well; returns how much.
    pub(super) fn free_again(&self, suspects: &mut Suspects, last: &Suspects) -> usize {
        let ips: Vec<_> = suspects.ips.extract_if(|one| last.ips.contains(one)).collect();
        let ports: Vec<_> = suspects.ports.extract_if(|one| last.ports.contains(one)).collect();
        for (ip, owner) in &ips {
            self.free(owner, &[*ip], &[]);
        }
        for (port, protocol, owner) in &ports {
            self.free(owner, &[], &[(*port, protocol.clone())]);
        }
        ips.len() + ports.len()
    }
}
