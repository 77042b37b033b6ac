//! The health checks of load balancers: how many ready endpoints of a Service are on this node. Those that finish their work
//! serve on, but are not counted (KEP-1669), so that a balancer goes elsewhere meanwhile.
//!
//! Only Services of type LoadBalancer with `externalTrafficPolicy: Local` have one. Each listens by itself and answers from a
//! number, at the addresses where node ports are; without such Services nothing listens.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use client::ObjectKey;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::NodePortAddresses;
use super::answers;
use super::healthz::Progress;
use crate::nft::Family;

struct Check {
    port: u16,
    endpoints: Arc<AtomicUsize>,
    /// Whoever listens: they end with this.
    _tasks: JoinSet<()>,
}

/// The checks that are answered.
pub(super) struct Checks {
    addresses: Vec<IpAddr>,
    checks: HashMap<ObjectKey, Check>,
    /// How far the proxy itself is.
    progress: Progress,
}

impl Checks {
    /// Those at a family's addresses.
    pub(super) fn new(at: &NodePortAddresses, family: Family, progress: Progress) -> Self {
        let addresses = match at.own() {
            None => vec![family.unspecified()],
            Some(own) => own.iter().chain(at.with_others()).copied().filter(|ip| Family::of(*ip) == family).collect(),
        };
        Self { addresses, checks: HashMap::new(), progress }
    }

    /// Port and local endpoints of a Service; none: it has no check.
    pub(super) fn set(&mut self, service: &ObjectKey, health: Option<(u16, usize)>) {
        let Some((port, endpoints)) = health else {
            self.checks.remove(service);
            return;
        };
        if let Some(check) = self.checks.get(service).filter(|c| c.port == port) {
            check.endpoints.store(endpoints, Ordering::Relaxed);
            return;
        }
        let count = Arc::new(AtomicUsize::new(endpoints));
        let say = {
            let (service, count, progress) = (service.clone(), count.clone(), self.progress.clone());
            move |_: &str| answer(&service, count.load(Ordering::Relaxed), progress.is_healthy(Instant::now()))
        };
        let tasks = answers::serve_all(self.addresses.iter().copied(), port, &service.to_string(), say);
        self.checks.insert(service.clone(), Check { port, endpoints: count, _tasks: tasks });
    }
}

/// As upstream's (`hcHandler`), to the last space.
fn answer(service: &ObjectKey, endpoints: usize, is_healthy: bool) -> String {
    let (namespace, name) = (&service.namespace, &service.name);
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": {namespace:?},\n\t\t\"name\": {name:?}\n\t}},\n\t\"localEndpoints\": {endpoints},\n\t\"serviceProxyHealthy\": {is_healthy}\n}}"
    );
    answers::json(endpoints > 0 && is_healthy, &format!("X-Load-Balancing-Endpoint-Weight: {endpoints}\r\n"), &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_balancer_goes_elsewhere_where_there_is_no_endpoint_or_the_rules_are_late() {
        let of = |endpoints, is_healthy| answer(&ObjectKey::new("ns", "web"), endpoints, is_healthy);
        assert!(of(2, true).starts_with("HTTP/1.1 200 OK\r\n"));
        assert!(of(2, true).ends_with(
            "\r\n\r\n{\n\t\"service\": {\n\t\t\"namespace\": \"ns\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}"
        ));
        for (endpoints, is_healthy) in [(0, true), (2, false)] {
            assert!(of(endpoints, is_healthy).starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{endpoints} {is_healthy}");
        }
    }
}
