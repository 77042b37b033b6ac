//! The objects by which clients inside the cluster find and trust the API server: the Service `kubernetes` with its
//! endpoints, the range of Service addresses, and what extension API servers read to know their callers.

use super::{Gvr, Policy, Wanted};
use crate::world::World;
use machinery::{Value, time};
use serde_json::json;
use std::{net::IpAddr, time::SystemTime};

pub(super) const SERVICE_CIDRS: Gvr = ("networking.k8s.io", "v1", "servicecidrs");
pub(super) const NAME: &str = "kubernetes";

/// The objects of this server's settings.
pub(super) fn wanted(world: &World, now: SystemTime) -> Vec<Wanted> {
    let config = world.config();
    let ranges: Vec<String> = config.service_cidrs.iter().map(|(network, prefix)| format!("{network}/{prefix}")).collect();
    let mut out = vec![
        Wanted {
            resource: SERVICE_CIDRS,
            // One range becomes two with the server's flag, as upstream's controller of this object does it; nothing else changes it.
            policy: Policy::Longer,
            value: json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
                "metadata": {"name": NAME},
                "spec": {"cidrs": ranges},
            }),
        },
        authentication(world),
        Wanted {
            resource: ("", "v1", "configmaps"),
            policy: Policy::Keep,
            value: json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": "kube-apiserver-legacy-service-account-token-tracking", "namespace": "kube-system"},
                "data": {"since": time::rfc3339(now).get(..10)},
            }),
        },
    ];
    out.extend(config.service_cidrs.first().map(|(network, _)| service(first_address(*network), config.advertise_port)));
    // Nothing is reached at a loopback address from a pod.
    let reachable = config.advertise_address.filter(|ip| !ip.is_loopback());
    out.extend(reachable.into_iter().flat_map(|ip| endpoints(ip, config.advertise_port)));
    out
}

/// The first address of a range behind the network's own.
fn first_address(network: IpAddr) -> IpAddr {
    match network {
        IpAddr::V4(ip) => IpAddr::from((u32::from(ip).wrapping_add(1)).to_be_bytes()),
        IpAddr::V6(ip) => IpAddr::from((u128::from(ip).wrapping_add(1)).to_be_bytes()),
    }
}

fn service(ip: IpAddr, port: u16) -> Wanted {
    // What follows from its address is filled in as for every Service, and nobody's.
    let value = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": NAME, "namespace": "default", "labels": {"component": "apiserver", "provider": NAME}},
        "spec": {
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": port}],
            "clusterIP": ip.to_string(), "type": "ClusterIP", "sessionAffinity": "None", "ipFamilyPolicy": "SingleStack",
        },
    });
    // Only the ports follow the settings: a Service that has another address keeps it, since its clients know it.
    Wanted { resource: ("", "v1", "services"), policy: Policy::Ports, value }
}

fn endpoints(ip: IpAddr, port: u16) -> [Wanted; 2] {
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    [
        Wanted {
            resource: ("", "v1", "endpoints"),
            policy: Policy::Set(&["subsets"]),
            value: json!({
                "apiVersion": "v1", "kind": "Endpoints",
                "metadata": {"name": NAME, "namespace": "default", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
                "subsets": [{"addresses": [{"ip": ip.to_string()}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}],
            }),
        },
        Wanted {
            resource: ("discovery.k8s.io", "v1", "endpointslices"),
            policy: Policy::Set(&["endpoints", "ports"]),
            value: json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {"name": NAME, "namespace": "default", "labels": {"kubernetes.io/service-name": NAME}},
                "addressType": family,
                "endpoints": [{"addresses": [ip.to_string()], "conditions": {"ready": true}}],
                "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
            }),
        },
    ]
}

/// What an extension API server reads to know who its callers are.
fn authentication(world: &World) -> Wanted {
    let trust = world.identity().authenticator.trust();
    let mut data = json!({});
    if !trust.client_ca_pem.is_empty() {
        data["client-ca-file"] = trust.client_ca_pem.as_str().into();
    }
    if !trust.front_proxy_ca_pem.is_empty() {
        data["requestheader-client-ca-file"] = trust.front_proxy_ca_pem.as_str().into();
        let headers = &trust.request_headers;
        for (key, texts) in [
            ("allowed-names", &headers.allowed_names),
            ("extra-headers-prefix", &headers.extra_prefix),
            ("group-headers", &headers.group),
            ("uid-headers", &headers.uid),
            ("username-headers", &headers.username),
        ] {
            // UIDs came later: who reads this may not know of them.
            if key == "uid-headers" && texts.is_empty() {
                continue;
            }
            let text = Value::from(texts.clone()).to_string();
            data[format!("requestheader-{key}")] = text.into();
        }
    }
    Wanted {
        resource: ("", "v1", "configmaps"),
        policy: Policy::Set(&["data"]),
        value: json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
            "data": data,
        }),
    }
}
