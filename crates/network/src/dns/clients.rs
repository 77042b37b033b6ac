//! Who may ask.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::cidr::Net;
use crate::host;

/// The host's addresses are looked up again, for a stranger, after this.
const RELOAD: Duration = Duration::from_secs(5);

/// Whom the server is for: the cluster's pods and nodes, and the host itself.
pub(super) struct Own {
    ranges: Vec<Net>,
    host: Mutex<(Option<Instant>, BTreeSet<IpAddr>)>,
}

impl Own {
    pub(super) fn new(ranges: Vec<Net>) -> Self {
        Self { ranges, host: Mutex::default() }
    }

    /// Whether this address is one of them.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        if address.is_loopback() || self.ranges.iter().any(|range| range.contains(address)) {
            return true;
        }
        let mut host = self.host.lock();
        let now = Instant::now();
        if !host.1.contains(&address) && host.0.is_none_or(|looked| now - looked >= RELOAD) {
            *host = (Some(now), host::addresses().unwrap_or_default());
        }
        host.1.contains(&address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_known() {
        let own = Own::new(vec!["10.244.0.0/16".parse().unwrap()]);
        assert!(own.has([10, 244, 7, 1].into()) && own.has([127, 0, 0, 1].into()));
        assert!(!own.has([203, 0, 113, 9].into()));
    }
}
