//! The addresses and ports of Services: which are taken, and what a Service is given on its way to the store.
//!
//! The state is in memory and comes from the stored Services at start. A write takes what it needs before it commits
//! and holds it by a [`Hold`]; a hold that is not kept gives everything back, so a refused write leaks nothing and two
//! writes never get the same address. That holds because a write is never cut between its hold and its commit
//! ([`crate::offload::Finish`]); where the store cannot say whether it has committed, the hold is left as it is, and
//! [`repair`] finds out. What is taken belongs to a UID, so a name that is used again takes nothing over.
//!
//! Upstream's rules: addresses come from the ranges that are ready ([`range`]), dynamic ones from the upper band of a range
//! (KEP-3070), so that chosen ones in the lower band seldom collide; one node port may be shared by the protocols of one Service. Its
//! repair loops for addresses and ports, every three minutes, are [`repair`] here: at start and by [`crate::housekeeping`].

mod families;
mod fields;
mod objects;
mod ports;
mod range;
mod repair;
#[cfg(test)]
mod tests;

pub(crate) use objects::{gone, settle};
pub(crate) use range::{Offer, Range};
pub(crate) use repair::{Suspects, repair};

use crate::rows::Row;
use families::Family;
use machinery::{
    Value,
    field::{self, Path},
    quote::Quoted,
    status::Status,
};
use parking_lot::Mutex;
use serde_json::json;
use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

/// Before the first node port that a rehearsal shows (upstream's guess).
const PORT_GUESSED: u16 = 32_768;

/// What a write is told that is not given what it asks for: upstream has room for all that is asked for or has failed itself.
pub(crate) fn refusal(row: &Row, name: &str, errors: field::ErrorList) -> Status {
    match errors.iter().find(|error| error.kind == field::ErrorKind::Internal) {
        Some(failed) if failed.bare => Status::new(500, "", &failed.detail),
        Some(failed) => Status::internal(&failed.detail),
        None => crate::errors::invalid(row, name, errors),
    }
}

/// Who holds an address or a port: the UID of the Service.
type Owner = String;

/// What is taken.
#[derive(Debug, Default)]
struct Taken {
    ips: HashMap<IpAddr, Owner>,
    ports: BTreeMap<u16, (Owner, Vec<String>)>,
    /// Where the next search in a range starts; it is walked round.
    next_ip: HashMap<Range, u128>,
    next_port: u16,
}

/// The allocators of one cluster.
#[derive(Debug)]
pub(crate) struct Allocators {
    own: Vec<Range>,
    ports: (u16, u16),
    taken: Mutex<Taken>,
}

/// How much is taken, and how much is left.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// Addresses, of each of the server's own ranges.
    pub(crate) ips: Vec<(String, u128, u128)>,
    /// Ports of nodes.
    pub(crate) ports: (usize, usize),
}

/// What one write has taken; given back unless [`Hold::keep`] is called.
#[derive(Debug)]
pub(crate) struct Hold<'a> {
    allocators: &'a Allocators,
    ips: Vec<IpAddr>,
    ports: Vec<(u16, String)>,
    /// Freed when the write has committed: what the Service no longer uses.
    free_ips: Vec<IpAddr>,
    free_ports: Vec<(u16, String)>,
    owner: Owner,
    /// What a rehearsal shows instead of taking it (see [`Offer::rehearsed`]); nothing without one.
    guesses: Option<Vec<u16>>,
}

impl Taken {
    /// An address of a range that nobody has.
    fn free_ip(&self, range: Range, offer: &Offer<'_>) -> Option<IpAddr> {
        let size = range.size();
        let last = if range.is_ipv6() { size - 1 } else { size.checked_sub(2)? };
        let band = band(size);
        let upper = last.saturating_sub(band);
        let start = self.next_ip.get(&range).copied().unwrap_or(0) % upper.max(1);
        // The search is bounded by what is taken: so many misses, and one more is a hit.
        let bound = (self.ips.len() as u128 + offer.shown() + 1).min(upper);
        let upper_offsets = (0..bound).map(|i| band + 1 + (start + i) % upper.max(1));
        let is_free = |ip: &IpAddr| !self.ips.contains_key(ip) && !offer.is_shown(*ip);
        upper_offsets.chain(1..=band.min(last)).filter(|o| *o <= last).map(|o| range.at(o)).find(is_free)
    }
}

/// The lower band of a range, which is left to chosen addresses while there are others: min(max(16, size / 16), 256).
fn band(size: u128) -> u128 {
    if size > 32 { (size / 16).clamp(16, 256) } else { 0 }
}

impl<'a> Hold<'a> {
    fn new(allocators: &'a Allocators, owner: Owner, rehearsed: bool) -> Self {
        let guesses = rehearsed.then(Vec::new);
        Hold { allocators, ips: Vec::new(), ports: Vec::new(), free_ips: Vec::new(), free_ports: Vec::new(), owner, guesses }
    }

    /// The write has committed: what was taken stays taken. What is no longer used is free once it is [`Kept::free`]d, after
    /// its IPAddress is gone, so that nobody's new one is taken for it.
    pub(crate) fn keep(mut self) -> Kept<'a> {
        self.ports.clear();
        Kept {
            allocators: self.allocators,
            owner: std::mem::take(&mut self.owner),
            taken: std::mem::take(&mut self.ips),
            freed: std::mem::take(&mut self.free_ips),
            free_ports: std::mem::take(&mut self.free_ports),
        }
    }

    /// It is not known whether the write has committed: everything stays as it is until it is repaired.
    pub(crate) fn leave(mut self) {
        self.ips.clear();
        self.ports.clear();
    }
}

/// What a committed write has changed.
pub(crate) struct Kept<'a> {
    allocators: &'a Allocators,
    owner: Owner,
    taken: Vec<IpAddr>,
    freed: Vec<IpAddr>,
    free_ports: Vec<(u16, String)>,
}

impl Kept<'_> {
    /// What the Service no longer uses is free.
    pub(crate) fn free(self) {
        self.allocators.free(&self.owner, &self.freed, &self.free_ports);
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.allocators.free(&self.owner, &self.ips, &self.ports);
    }
}

impl Allocators {
    /// Allocators of the server's own ranges of addresses, of each family at most one, and a range of ports, with nothing taken.
    pub(crate) fn new(own: Vec<Range>, ports: (u16, u16)) -> Self {
        Allocators { own, ports, taken: Mutex::default() }
    }

    /// The server's own ranges: which families the cluster has, and which is its first.
    pub(crate) fn own(&self) -> &[Range] {
        &self.own
    }

    /// How much of them is taken now.
    pub(crate) fn room(&self) -> Room {
        let taken = self.taken.lock();
        let ips = self.own.iter().map(|range| {
            let count = taken.ips.keys().filter(|ip| range.gives(**ip)).count() as u128;
            // The first address is the network's, and so is the last of IPv4.
            let all = range.size().saturating_sub(if range.is_ipv6() { 1 } else { 2 });
            (range.to_string(), count, all.saturating_sub(count))
        });
        let (first, last) = self.ports;
        let all = usize::from(last.saturating_sub(first)) + 1;
        Room { ips: ips.collect(), ports: (taken.ports.len(), all.saturating_sub(taken.ports.len())) }
    }

    /// Takes what a stored Service has and is not taken; used at start and to repair. Returns what another has.
    pub(crate) fn adopt(&self, service: &Value) -> Vec<String> {
        let owner = owner(service);
        let mut taken = self.taken.lock();
        let mut others = Vec::new();
        for ip in addresses(service) {
            if *taken.ips.entry(ip).or_insert_with(|| owner.clone()) != owner {
                others.push(ip.to_string());
            }
        }
        for (port, protocol) in fields::node_ports(service) {
            let entry = taken.ports.entry(port).or_insert_with(|| (owner.clone(), Vec::new()));
            if entry.0 != owner {
                others.push(format!("{port}/{protocol}"));
            } else if !entry.1.contains(&protocol) {
                entry.1.push(protocol);
            }
        }
        others
    }

    /// Gives a new Service its addresses and ports.
    pub(crate) fn create(&self, service: &mut Value, offer: &Offer<'_>) -> Result<Hold<'_>, field::ErrorList> {
        let mut hold = Hold::new(self, owner(service), offer.rehearsed);
        self.complete(service, None, offer, &mut hold)?;
        Ok(hold)
    }

    /// Gives a changed Service what it lacks and notes what it no longer uses.
    pub(crate) fn update(&self, service: &mut Value, old: &Value, offer: &Offer<'_>) -> Result<Hold<'_>, field::ErrorList> {
        let mut hold = Hold::new(self, owner(old), offer.rehearsed);
        fields::carry_over(service, old);
        self.complete(service, Some(old), offer, &mut hold)?;
        let (new_ips, new_ports) = (fields::cluster_ips(service), fields::node_ports(service));
        hold.free_ips = fields::cluster_ips(old).iter().filter(|ip| !new_ips.contains(ip)).filter_map(|ip| ip.parse().ok()).collect();
        hold.free_ports = fields::node_ports(old).into_iter().filter(|p| !new_ports.contains(p)).collect();
        Ok(hold)
    }

    /// Frees all that a removed Service had.
    pub(crate) fn removed(&self, service: &Value) {
        self.free(&owner(service), &addresses(service), &fields::node_ports(service));
    }

    fn complete(&self, service: &mut Value, old: Option<&Value>, offer: &Offer<'_>, hold: &mut Hold<'_>) -> Result<(), field::ErrorList> {
        if !families::are_sound(service) {
            return Ok(());
        }
        let configured: Vec<Family> = self.own.iter().map(Range::family).collect();
        families::settle(service, old, &configured)?;
        if fields::needs_cluster_ip(service) {
            self.cluster_ips(service, old, offer, hold)?;
        }
        if fields::needs_node_ports(service) {
            self.node_ports(service, old, hold)?;
        }
        self.health_check_port(service, old, hold)
    }

    fn cluster_ips(&self, service: &mut Value, old: Option<&Value>, offer: &Offer<'_>, hold: &mut Hold<'_>) -> Result<(), field::ErrorList> {
        let wanted = fields::cluster_ips(service);
        if fields::is_headless(service) {
            service["spec"]["clusterIP"] = "None".into();
            service["spec"]["clusterIPs"] = json!(["None"]);
            return Ok(());
        }
        // An update gives all of them to what had no use for any, else the address of a second family alone; what else it changes is for
        // validation to tell.
        let families = families::of(service);
        let from = match old.filter(|old| fields::needs_cluster_ip(old)) {
            None => 0,
            Some(old) if families::of(old).len() == 1 && families.len() == 2 && !fields::is_headless(old) => 1,
            Some(_) => return Ok(()),
        };
        let path = Path::root("spec").child("clusterIPs");
        for ip in wanted.iter().skip(from).filter_map(|text| text.parse::<IpAddr>().ok()) {
            let refused = |why: String| vec![field::Error::invalid(&path, json!(wanted), format!("failed to allocate IP {ip}: {why}"))];
            if offer.rehearsed {
                self.is_given(ip).map_err(refused)?;
                continue;
            }
            let is_given = offer.ranges.iter().any(|range| range.gives(ip));
            if let Some(why) = objects::unshowable(ip, service).filter(|_| is_given) {
                return Err(refused(why));
            }
            self.take_ip(ip, offer, &hold.owner).map_err(|why| refused(why.to_owned()))?;
            hold.ips.push(ip);
        }
        let mut all = wanted.clone();
        let count = families.len();
        for family in families.into_iter().skip(wanted.len()) {
            if offer.rehearsed {
                // Upstream does not look for a free one, and shows where the range begins.
                all.extend(self.own.iter().find(|range| range.family() == family).map(|range| range.at(0).to_string()));
                continue;
            }
            let ip = self.next_ip(family, offer, &hold.owner);
            let name = service["metadata"]["name"].as_str().unwrap_or_default();
            let full = || format!("failed to allocate a serviceIP for Service {}: range is full", Quoted(name));
            let ip = ip.ok_or_else(|| vec![field::Error::internal(&path, full())])?;
            hold.ips.push(ip);
            if let Some(why) = objects::unshowable(ip, service) {
                // Upstream has noted which are still to come.
                let mut noted = wanted;
                noted.resize(count, String::new());
                return Err(vec![field::Error::invalid(&path, json!(noted), format!("failed to allocate IP: {why}"))]);
            }
            all.push(ip.to_string());
        }
        if let Some(first) = all.first() {
            service["spec"]["clusterIP"] = first.clone().into();
            service["spec"]["clusterIPs"] = json!(all);
        }
        Ok(())
    }

    fn free(&self, owner: &str, ips: &[IpAddr], ports: &[(u16, String)]) {
        if ips.is_empty() && ports.is_empty() {
            return;
        }
        let mut taken = self.taken.lock();
        for ip in ips {
            if taken.ips.get(ip).is_some_and(|o| o == owner) {
                taken.ips.remove(ip);
            }
        }
        for (port, protocol) in ports {
            if let Some((who, protocols)) = taken.ports.get_mut(port)
                && who == owner
            {
                protocols.retain(|p| p != protocol);
                if protocols.is_empty() {
                    taken.ports.remove(port);
                }
            }
        }
    }

    /// Whether an address is one that the server's own range gives: all that is asked of one that is only tried.
    fn is_given(&self, ip: IpAddr) -> Result<(), String> {
        match self.own.iter().find(|range| range.is_ipv6() == ip.is_ipv6()) {
            Some(range) if !range.gives(ip) => Err(format!("the provided IP ({ip}) is not in the valid range. The range of valid IPs is {range}")),
            Some(_) => Ok(()),
            None => Err("the provided network does not match the current range".to_owned()),
        }
    }

    fn take_ip(&self, ip: IpAddr, offer: &Offer<'_>, owner: &str) -> Result<(), &'static str> {
        if !offer.ranges.iter().any(|range| range.gives(ip)) {
            return Err("the provided network does not match the current range");
        }
        let mut taken = self.taken.lock();
        if taken.ips.contains_key(&ip) || offer.is_shown(ip) {
            return Err("provided IP is already allocated");
        }
        taken.ips.insert(ip, owner.to_owned());
        Ok(())
    }

    fn next_ip(&self, family: Family, offer: &Offer<'_>, owner: &str) -> Option<IpAddr> {
        let mut taken = self.taken.lock();
        taken.next_ip.retain(|range, _| offer.ranges.contains(range));
        let (range, ip) = offer.ranges.iter().filter(|range| range.family() == family).find_map(|range| Some((*range, taken.free_ip(*range, offer)?)))?;
        let band = band(range.size());
        taken.next_ip.insert(range, range.offset(ip).unwrap_or(0).saturating_sub(band));
        taken.ips.insert(ip, owner.to_owned());
        Some(ip)
    }
}

fn owner(service: &Value) -> Owner {
    service["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
}

/// The cluster addresses; a headless Service has none.
fn addresses(service: &Value) -> Vec<IpAddr> {
    fields::cluster_ips(service).iter().filter_map(|ip| ip.parse().ok()).collect()
}
