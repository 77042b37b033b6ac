//! Who may ask, and how much at a time.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::cidr::Cidr;

/// The host's addresses are looked up again, for a stranger, after this.
const RELOAD: Duration = Duration::from_secs(5);

/// Whom the server is for: the cluster's pods and nodes, and the host itself.
pub(super) struct Own {
    ranges: Vec<Cidr>,
    host: Mutex<(Option<Instant>, HashSet<IpAddr>)>,
}

impl Own {
    pub(super) fn new(ranges: Vec<Cidr>) -> Self {
        Self { ranges, host: Mutex::default() }
    }

    /// Whether this address is one of them.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        if address.is_loopback() || matches!(address, IpAddr::V4(ip) if self.ranges.iter().any(|range| range.contains(ip))) {
            return true;
        }
        let mut host = self.host.lock();
        let now = Instant::now();
        if !host.1.contains(&address) && host.0.is_none_or(|looked| now - looked >= RELOAD) {
            *host = (Some(now), host_addresses());
        }
        host.1.contains(&address)
    }
}

fn host_addresses() -> HashSet<IpAddr> {
    let all = nix::ifaddrs::getifaddrs().into_iter().flatten();
    all.filter_map(|i| Some(IpAddr::V4(i.address?.as_sockaddr_in()?.ip()))).collect()
}

/// Places for clients: so many for all, and fewer for each.
#[derive(Clone)]
pub(super) struct Clients(Arc<Places>);

struct Places {
    all: usize,
    each: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    of: HashMap<IpAddr, usize>,
}

/// A place that is given back when it is dropped.
pub(super) struct Place {
    places: Arc<Places>,
    client: IpAddr,
}

impl Clients {
    pub(super) fn new(all: usize, each: usize) -> Self {
        Self(Arc::new(Places { all, each, taken: Mutex::default() }))
    }

    /// A place for a client, if there is one for him.
    pub(super) fn enter(&self, client: IpAddr) -> Option<Place> {
        let mut taken = self.0.taken.lock();
        if taken.all >= self.0.all || taken.of.get(&client).is_some_and(|n| *n >= self.0.each) {
            return None;
        }
        taken.all += 1;
        *taken.of.entry(client).or_default() += 1;
        Some(Place { places: self.0.clone(), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        taken.all -= 1;
        if let Some(count) = taken.of.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                taken.of.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_more_than_his_share() {
        let clients = Clients::new(3, 2);
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let first = clients.enter(a);
        let second = clients.enter(a);
        assert!(first.is_some() && second.is_some() && clients.enter(a).is_none());
        let third = clients.enter(b);
        assert!(third.is_some() && clients.enter(b).is_none(), "there are three in all");
        drop(first);
        assert!(clients.enter(b).is_some());
        drop((second, third));
        assert!(clients.0.taken.lock().of.is_empty() && clients.0.taken.lock().all == 0);
    }

    #[test]
    fn strangers_are_known() {
        let own = Own::new(vec!["10.244.0.0/16".parse().unwrap()]);
        assert!(own.has([10, 244, 7, 1].into()) && own.has([127, 0, 0, 1].into()));
        assert!(!own.has([203, 0, 113, 9].into()));
    }
}
