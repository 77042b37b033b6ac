//! The variables by which a container finds services (`FOO_SERVICE_HOST`, and the names Docker links had).

use std::net::SocketAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;

fn screaming(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

/// The variables of the services of a namespace. `kubernetes` is the API's own service, given always; the others only with
/// `enableServiceLinks`. `fallback` stands in while the API's service does not exist yet.
#[must_use]
pub fn variables(namespace_services: &[Arc<Service>], kubernetes: Option<&Service>, links: bool, fallback: Option<SocketAddr>) -> Vec<(String, String)> {
    let mut out = Vec::new();
    if let Some(k) = kubernetes {
        add(&mut out, k);
    } else if let Some(at) = fallback {
        out.push(("KUBERNETES_SERVICE_HOST".into(), at.ip().to_string()));
        out.push(("KUBERNETES_SERVICE_PORT".into(), at.port().to_string()));
        out.push(("KUBERNETES_SERVICE_PORT_HTTPS".into(), at.port().to_string()));
    }
    if links {
        for s in namespace_services {
            add(&mut out, s);
        }
    }
    out
}

fn add(out: &mut Vec<(String, String)>, service: &Service) {
    let (Some(name), Some(spec)) = (service.metadata.name.as_deref(), &service.spec) else { return };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else { return };
    let Some(first) = ports.first() else { return };
    let prefix = screaming(name);
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    out.push((format!("{prefix}_SERVICE_HOST"), ip.to_owned()));
    out.push((format!("{prefix}_SERVICE_PORT"), first.port.to_string()));
    for p in ports {
        if let Some(n) = p.name.as_deref().filter(|n| !n.is_empty()) {
            out.push((format!("{prefix}_SERVICE_PORT_{}", screaming(n)), p.port.to_string()));
        }
    }
    for (i, p) in ports.iter().enumerate() {
        let protocol = p.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), p.port);
        if i == 0 {
            out.push((format!("{prefix}_PORT"), url.clone()));
        }
        let port = format!("{prefix}_PORT_{}_{}", p.port, protocol.to_uppercase());
        out.push((port.clone(), url));
        out.push((format!("{port}_PROTO"), protocol.to_lowercase()));
        out.push((format!("{port}_PORT"), p.port.to_string()));
        out.push((format!("{port}_ADDR"), ip.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headless_services_have_no_variables() {
        let s = |ip: &str| -> Arc<Service> {
            Arc::new(
                serde_json::from_value(serde_json::json!({"metadata": {"name": "my-db"},
                    "spec": {"clusterIP": ip, "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}]}}))
                .unwrap(),
            )
        };
        assert!(variables(&[s("None")], None, true, None).is_empty());
        let vars = variables(&[s("10.96.0.7")], None, true, None);
        let get = |n: &str| vars.iter().find(|(k, _)| k == n).map(|(_, v)| v.as_str());
        assert_eq!(get("MY_DB_SERVICE_HOST"), Some("10.96.0.7"));
        assert_eq!(get("MY_DB_SERVICE_PORT_SQL"), Some("5432"));
        assert_eq!(get("MY_DB_PORT_5432_TCP"), Some("tcp://10.96.0.7:5432"));
    }
}
