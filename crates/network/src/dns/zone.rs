//! What the cluster's names mean: a pure look-up in the informers' memory.
//!
//! The rules are those of the "Kubernetes DNS-Based Service Discovery" specification, where it is silent those of CoreDNS's
//! `kubernetes` plugin: a headless Service without an endpoint does not exist as a name, an endpoint without a host name is
//! called by its address with dashes, any address in a pod's name is answered as long as the namespace exists.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use client::{Informer, Meta};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::ranges::ServiceRanges;
use crate::{BY_SERVICE, service_of_slice};

/// As the plugin's default: short, since pods come and go.
pub(super) const TTL_S: u32 = 5;
/// The version of the specification that the names follow.
const SPECIFICATION: &str = "1.1.0";
const BY_CLUSTER_IP: &str = "cluster-ip";
const BY_ADDRESS: &str = "address";
/// Shared among the targets of a service record.
const SRV_WEIGHT: u16 = 100;
/// Records that an answer begins with: no message holds more of the smallest (64 KiB, 16 bytes each), however many endpoints
/// a Service has.
const RECORDS_MAX: usize = 4096;
/// Whose name the negative answers of reverse names bear, as CoreDNS's zones have it.
const REVERSE: [&str; 2] = ["in-addr.arpa.", "ip6.arpa."];

/// What is known of a name and a type.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Found {
    pub(super) answers: Vec<Record>,
    pub(super) additionals: Vec<Record>,
    /// What an authority elsewhere says of what is missing.
    pub(super) authorities: Vec<Record>,
    /// Not all of it: it was cut on its way here.
    pub(super) cut: bool,
    /// Where an alias leads, to be looked up further.
    pub(super) alias: Option<Name>,
}

/// What a look-up gives.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    /// The name exists; without answers, only not with this type.
    Exists(Found),
    /// The name is the cluster's and does not exist.
    Missing,
    /// The name is not the cluster's.
    Elsewhere,
}

/// The cluster's zone.
#[derive(Clone)]
pub(super) struct Zone {
    domain: Vec<String>,
    origin: Name,
    address: IpAddr,
    own: ServiceRanges,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    namespaces: Informer<Namespace>,
}

fn cluster_ips(service: &Service) -> Vec<String> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let listed = spec.cluster_ips.iter().flatten();
    let mut out: Vec<String> = Vec::new();
    for ip in listed.chain(&spec.cluster_ip).filter(|ip| !ip.is_empty() && *ip != "None").map(|ip| spelled(ip)) {
        if !out.contains(&ip) {
            out.push(ip);
        }
    }
    out
}

/// An address as it is looked for: of IPv6 there are many spellings.
fn spelled(address: &str) -> String {
    address.parse::<IpAddr>().map_or_else(|_| address.to_owned(), |ip| ip.to_string())
}

fn slice_addresses(slice: &EndpointSlice) -> Vec<String> {
    slice.endpoints.iter().flatten().flat_map(|e| e.addresses.iter().map(|a| spelled(a))).collect()
}

fn exists() -> Outcome {
    Outcome::Exists(Found::default())
}

fn ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true)
}

/// The name of an endpoint below its Service.
fn endpoint_label(endpoint: &Endpoint, address: IpAddr) -> String {
    match endpoint.hostname.as_deref().filter(|h| !h.is_empty()) {
        Some(hostname) => hostname.to_ascii_lowercase(),
        None => address.to_string().replace(['.', ':'], "-"),
    }
}

impl Zone {
    /// The zone of a domain; `address` is where it is answered, `own` the ranges whose reverse names nobody else knows.
    pub(super) fn new(
        domain: &str,
        address: IpAddr,
        own: ServiceRanges,
        services: Informer<Service>,
        slices: Informer<EndpointSlice>,
        namespaces: Informer<Namespace>,
    ) -> crate::Result<Self> {
        services.add_index(BY_CLUSTER_IP, cluster_ips);
        slices.add_index(BY_SERVICE, service_of_slice);
        slices.add_index(BY_ADDRESS, slice_addresses);
        let domain = domain.trim_matches('.').to_ascii_lowercase();
        let wrong = |e| crate::Error::Config(format!("the cluster domain {domain:?} is not a name: {e}"));
        let origin = Name::from_ascii(format!("{domain}.")).map_err(wrong)?;
        let domain = domain.split('.').map(str::to_owned).collect();
        Ok(Self { domain, origin, address, own, services, slices, namespaces })
    }

    /// Waits until the memory has been filled once.
    pub(super) async fn synced(&self) {
        self.services.synced().await;
        self.slices.synced().await;
        self.namespaces.synced().await;
    }

    /// The record that says of a missing name, or of its zone, how long it may be believed to be missing.
    pub(super) fn soa(&self, of: &Name, serial: u32) -> Record {
        let (server, mailbox) = (self.name(&["ns", "dns"]), self.name(&["hostmaster"]));
        let data = SOA::new(server.unwrap_or_default(), mailbox.unwrap_or_default(), serial, 7200, 1800, 86_400, TTL_S);
        let reverse = REVERSE.iter().filter_map(|zone| Name::from_ascii(zone).ok()).find(|zone| zone.zone_of(of));
        Record::from_rdata(reverse.unwrap_or_else(|| self.origin.clone()), TTL_S, RData::SOA(data))
    }

    /// A name below the domain.
    fn name(&self, labels: &[&str]) -> Option<Name> {
        Name::from_labels(labels.iter().map(|l| l.as_bytes())).ok()?.append_domain(&self.origin).ok()
    }

    /// Looks a name up.
    pub(super) fn look_up(&self, name: &Name, kind: RecordType) -> Outcome {
        let labels: Vec<String> = name.iter().map(|l| String::from_utf8_lossy(l).to_ascii_lowercase()).collect();
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        if let Some(address) = reverse(&labels) {
            return self.reverse(name, address, kind);
        }
        let Some(below) = labels.len().checked_sub(self.domain.len()).filter(|n| labels[*n..] == self.domain[..]) else {
            return Outcome::Elsewhere;
        };
        match &labels[..below] {
            [] => self.apex(name, kind),
            ["svc"] | ["pod"] | ["dns"] => exists(),
            ["dns-version"] => found(name, kind, [RData::TXT(TXT::new(vec![SPECIFICATION.into()]))]),
            ["ns", "dns"] => found(name, kind, [address_data(self.address)]),
            [namespace, "svc" | "pod"] => self.in_namespace(namespace, exists),
            [dashed, namespace, "pod"] => self.in_namespace(namespace, || pod(name, kind, dashed)),
            [service, namespace, "svc"] => self.of_service(namespace, service, |s| self.service(name, kind, s)),
            [label, service, namespace, "svc"] => self.below_service(namespace, service, |s| self.member(name, kind, s, label)),
            [port, protocol, service, namespace, "svc"] => {
                self.below_service(namespace, service, |s| self.port(name, kind, s, Some(bare(port)), Some(bare(protocol))))
            }
            _ => Outcome::Missing,
        }
    }

    fn apex(&self, name: &Name, kind: RecordType) -> Outcome {
        match kind {
            RecordType::SOA => Outcome::Exists(Found { answers: vec![self.soa(name, super::serial())], ..Found::default() }),
            RecordType::NS => {
                let Some(server) = self.name(&["ns", "dns"]) else { return exists() };
                let additionals = vec![Record::from_rdata(server.clone(), TTL_S, address_data(self.address))];
                let answers = vec![Record::from_rdata(name.clone(), TTL_S, RData::NS(NS(server)))];
                Outcome::Exists(Found { answers, additionals, ..Found::default() })
            }
            _ => exists(),
        }
    }

    fn in_namespace(&self, namespace: &str, then: impl FnOnce() -> Outcome) -> Outcome {
        if self.namespaces.get("", namespace).is_some() { then() } else { Outcome::Missing }
    }

    fn of_service(&self, namespace: &str, service: &str, then: impl FnOnce(&Service) -> Outcome) -> Outcome {
        self.services.get(namespace, service).map_or(Outcome::Missing, |s| then(&s))
    }

    /// Of an alias there is nothing below its name, whatever slices it has left.
    fn below_service(&self, namespace: &str, service: &str, then: impl FnOnce(&Service) -> Outcome) -> Outcome {
        self.services.get(namespace, service).filter(|s| !is_alias(s)).map_or(Outcome::Missing, |s| then(&s))
    }

    /// The addresses of a Service's ready endpoints, each once. `label` chooses those of one name.
    fn addresses(&self, service: &Service, label: Option<&str>) -> BTreeSet<IpAddr> {
        let mut out = BTreeSet::new();
        for slice in self.slices.by_index(BY_SERVICE, &service.key().to_string()) {
            for endpoint in slice.endpoints.iter().flatten().filter(|e| ready(e)) {
                let addresses = endpoint.addresses.iter().filter_map(|a| a.parse().ok());
                out.extend(addresses.filter(|a| label.is_none_or(|label| endpoint_label(endpoint, *a) == label)));
            }
        }
        out
    }

    /// The ready endpoints' names and addresses, each once, with each of their ports that is wanted.
    fn targets(&self, service: &Service, wanted: impl Fn(&Option<String>, &Option<String>) -> bool) -> BTreeSet<(u16, String, IpAddr)> {
        let mut out = BTreeSet::new();
        for slice in self.slices.by_index(BY_SERVICE, &service.key().to_string()) {
            let ports = slice.ports.iter().flatten().filter(|p| wanted(&p.name, &p.protocol));
            let numbers: Vec<u16> = ports.filter_map(|p| u16::try_from(p.port?).ok()).collect();
            for endpoint in slice.endpoints.iter().flatten().filter(|e| ready(e)) {
                for address in endpoint.addresses.iter().filter_map(|a| a.parse().ok()) {
                    let label = endpoint_label(endpoint, address);
                    out.extend(numbers.iter().map(|port| (*port, label.clone(), address)));
                }
            }
        }
        out
    }

    /// `SERVICE.NAMESPACE.svc`.
    fn service(&self, name: &Name, kind: RecordType, service: &Service) -> Outcome {
        if let Some(outcome) = alias(name, service) {
            return outcome;
        }
        let ips: Vec<IpAddr> = cluster_ips(service).iter().filter_map(|ip| ip.parse().ok()).collect();
        let outcome =
            if ips.is_empty() { self.found_addresses(name, kind, self.addresses(service, None)) } else { found(name, kind, ips.into_iter().map(address_data)) };
        match (kind, outcome) {
            // Without ports the name is there all the same.
            (RecordType::SRV, Outcome::Exists(none)) => match self.port(name, kind, service, None, None) {
                Outcome::Missing => Outcome::Exists(none),
                ports => ports,
            },
            (_, outcome) => outcome,
        }
    }

    fn found_addresses(&self, name: &Name, kind: RecordType, addresses: BTreeSet<IpAddr>) -> Outcome {
        if addresses.is_empty() { Outcome::Missing } else { found(name, kind, addresses.into_iter().map(address_data)) }
    }

    /// `ENDPOINT.SERVICE.NAMESPACE.svc`, and the empty name between a protocol and its ports.
    fn member(&self, name: &Name, kind: RecordType, service: &Service, label: &str) -> Outcome {
        if let Some(protocol) = label.strip_prefix('_') {
            let ports = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
            let known = ports.into_iter().any(|p| p.protocol.as_deref().unwrap_or("TCP").eq_ignore_ascii_case(protocol));
            return if known { exists() } else { Outcome::Missing };
        }
        let outcome = self.found_addresses(name, kind, self.addresses(service, Some(label)));
        if kind != RecordType::SRV || outcome == Outcome::Missing {
            return outcome;
        }
        let Some(target) = self.name(&[label, service.name(), service.namespace(), "svc"]) else { return outcome };
        let own = self.targets(service, |_, _| true).into_iter().filter(|(_, of, _)| of == label);
        let targets: Vec<(u16, Name, IpAddr)> = own.take(RECORDS_MAX).map(|(port, _, address)| (port, target.clone(), address)).collect();
        if targets.is_empty() { outcome } else { Outcome::Exists(services_found(name, targets)) }
    }

    /// `_PORT._PROTOCOL.SERVICE.NAMESPACE.svc`; none: any. It has the addresses of its targets, too.
    fn port(&self, name: &Name, kind: RecordType, service: &Service, port: Option<&str>, protocol: Option<&str>) -> Outcome {
        let wanted = |n: &Option<String>, p: &Option<String>| {
            port.is_none_or(|want| n.as_deref().is_some_and(|n| n.eq_ignore_ascii_case(want)))
                && protocol.is_none_or(|want| p.as_deref().unwrap_or("TCP").eq_ignore_ascii_case(want))
        };
        let ips: Vec<IpAddr> = cluster_ips(service).iter().filter_map(|ip| ip.parse().ok()).collect();
        let (namespace, service_name) = (service.namespace().to_owned(), service.name().to_owned());
        let mut targets: Vec<(u16, Name, IpAddr)> = Vec::new();
        if ips.is_empty() {
            for (port, label, address) in self.targets(service, wanted).into_iter().take(RECORDS_MAX) {
                let Some(target) = self.name(&[&label, &service_name, &namespace, "svc"]) else { continue };
                targets.push((port, target, address));
            }
        } else if let Some(target) = self.name(&[&service_name, &namespace, "svc"]) {
            let ports = service.spec.iter().flat_map(|s| s.ports.iter().flatten()).filter(|p| wanted(&p.name, &p.protocol));
            for number in ports.filter_map(|p| u16::try_from(p.port).ok()) {
                targets.extend(ips.iter().map(|ip| (number, target.clone(), *ip)));
            }
        }
        if targets.is_empty() {
            return Outcome::Missing;
        }
        if kind != RecordType::SRV {
            return found(name, kind, targets.into_iter().map(|(_, _, address)| address).collect::<BTreeSet<_>>().into_iter().map(address_data));
        }
        Outcome::Exists(services_found(name, targets))
    }

    fn reverse(&self, name: &Name, address: IpAddr, kind: RecordType) -> Outcome {
        let text = address.to_string();
        let services = self.services.by_index(BY_CLUSTER_IP, &text);
        let mut names: Vec<Name> = services.iter().filter_map(|s| self.name(&[s.name(), s.namespace(), "svc"])).collect();
        if names.is_empty() {
            for slice in self.slices.by_index(BY_ADDRESS, &text) {
                let Some(service) = slice.label(crate::proxy::SERVICE_NAME) else { continue };
                for endpoint in slice.endpoints.iter().flatten().filter(|e| ready(e) && e.addresses.iter().any(|a| spelled(a) == text)) {
                    names.extend(self.name(&[&endpoint_label(endpoint, address), service, slice.namespace(), "svc"]));
                }
            }
        }
        names.sort();
        names.dedup();
        if !names.is_empty() {
            return found(name, kind, names.into_iter().map(|n| RData::PTR(PTR(n))));
        }
        if self.own.hold(address) { Outcome::Missing } else { Outcome::Elsewhere }
    }
}

fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    }
}

/// The records of this type among the data, which has none twice; the name exists in any case. Whoever asks for any type gets none, as
/// from CoreDNS (and RFC 8482 allows): a small question with a big answer serves reflection alone.
fn found(name: &Name, kind: RecordType, data: impl IntoIterator<Item = RData>) -> Outcome {
    let data = data.into_iter().filter(|d| d.record_type() == kind);
    let answers = data.take(RECORDS_MAX).map(|d| Record::from_rdata(name.clone(), TTL_S, d)).collect();
    Outcome::Exists(Found { answers, ..Found::default() })
}

/// A label of a port or protocol without its underscore, if it has one: without, it means the same, and not any.
fn bare(label: &str) -> &str {
    label.strip_prefix('_').unwrap_or(label)
}

fn is_alias(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some("ExternalName"))
}

/// An `ExternalName` Service is an alias, whatever was asked.
fn alias(name: &Name, service: &Service) -> Option<Outcome> {
    let spec = service.spec.as_ref().filter(|_| is_alias(service))?;
    let target = spec.external_name.as_deref()?.trim_end_matches('.');
    let Ok(target) = Name::from_ascii(format!("{target}.")) else { return Some(Outcome::Missing) };
    let answers = vec![Record::from_rdata(name.clone(), TTL_S, RData::CNAME(CNAME(target.clone())))];
    Some(Outcome::Exists(Found { answers, alias: Some(target), ..Found::default() }))
}

/// `1-2-3-4.NAMESPACE.pod`: what the name says is the answer.
fn pod(name: &Name, kind: RecordType, dashed: &str) -> Outcome {
    let v4 = dashed.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    match v4.or_else(|_| dashed.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6)) {
        Ok(address) => found(name, kind, [address_data(address)]),
        Err(_) => Outcome::Missing,
    }
}

/// SRV records, the weight shared among the targets, and the targets' addresses. The targets come sorted by port and name.
fn services_found(name: &Name, targets: Vec<(u16, Name, IpAddr)>) -> Found {
    let mut out = Found::default();
    let mut distinct: Vec<(u16, &Name)> = targets.iter().map(|(port, target, _)| (*port, target)).collect();
    distinct.dedup();
    // Of a target with addresses of both families each counts.
    let weight = (SRV_WEIGHT / u16::try_from(targets.len()).unwrap_or(SRV_WEIGHT).max(1)).max(1);
    for (port, target) in distinct {
        out.answers.push(Record::from_rdata(name.clone(), TTL_S, RData::SRV(SRV::new(0, weight, port, target.clone()))));
    }
    // A target with several ports has its addresses once.
    let mut known = BTreeSet::new();
    for (_, target, address) in targets {
        if known.insert((address, target.clone())) {
            out.additionals.push(Record::from_rdata(target, TTL_S, address_data(address)));
        }
    }
    out
}

/// The address that a reverse name stands for.
fn reverse(labels: &[&str]) -> Option<IpAddr> {
    match labels {
        [digits @ .., "in-addr", "arpa"] if digits.len() == 4 => {
            let text = digits.iter().rev().copied().collect::<Vec<_>>().join(".");
            text.parse().ok().map(IpAddr::V4)
        }
        [digits @ .., "ip6", "arpa"] if digits.len() == 32 => {
            let digits: String = digits.iter().rev().copied().collect();
            u128::from_str_radix(&digits, 16).ok().map(|n| IpAddr::V6(Ipv6Addr::from_bits(n)))
        }
        _ => None,
    }
}
