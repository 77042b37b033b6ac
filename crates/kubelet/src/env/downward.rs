//! The downward API: fields of the pod and resources of a container as text.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use machinery::quote::Quoted;

use crate::resources;
use crate::util;

/// What the downward API tells about.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its node.
    pub node_name: &'a str,
    /// The node's addresses.
    pub host_ips: &'a [IpAddr],
    /// The pod's addresses.
    pub pod_ips: &'a [IpAddr],
    /// Thousandths of a CPU that the node can give: the limit of a container without one.
    pub node_cpu_milli: i64,
    /// Bytes of memory that the node can give.
    pub node_memory_bytes: i64,
    /// Bytes of its disk that the node can give.
    pub node_storage_bytes: i64,
}

/// A container of the pod by name, init containers included.
#[must_use]
pub fn container<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|c| c.name == name)
}

/// A `fieldRef` by its path.
pub fn field(facts: &Facts<'_>, path: &str) -> Result<String, String> {
    let meta = &facts.pod.metadata;
    let spec = facts.pod.spec.as_ref();
    let join = |ips: &[IpAddr]| ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
    let first = |ips: &[IpAddr]| ips.first().map(IpAddr::to_string).unwrap_or_default();
    if let Some((of, key)) = path.split_once("['").and_then(|(of, rest)| Some((of, rest.strip_suffix("']")?))) {
        let map = match of {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => return Err(format!("fieldPath {path:?} does not support subscript")),
        };
        return Ok(map.and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => util::name(facts.pod).to_owned(),
        "metadata.namespace" => util::namespace(facts.pod).to_owned(),
        "metadata.uid" => util::uid(facts.pod).to_owned(),
        "metadata.labels" => map_text(meta.labels.as_ref()),
        "metadata.annotations" => map_text(meta.annotations.as_ref()),
        "spec.nodeName" => facts.node_name.to_owned(),
        "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
        "status.hostIP" => first(facts.host_ips),
        "status.hostIPs" => join(facts.host_ips),
        "status.podIP" => first(facts.pod_ips),
        "status.podIPs" => join(facts.pod_ips),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// A map as the downward API writes it: `key="value"` a line, sorted, quoted as Go quotes.
fn map_text(map: Option<&BTreeMap<String, String>>) -> String {
    map.into_iter().flatten().map(|(k, v)| format!("{k}={}", Quoted(v))).collect::<Vec<_>>().join("\n")
}

/// A `resourceFieldRef`: rounded up to whole divisors.
pub fn resource(facts: &Facts<'_>, c: &Container, name: &str, divisor: Option<&ApiQuantity>) -> Result<String, String> {
    let (side, what) = name.split_once('.').ok_or_else(|| format!("unsupported container resource : {name}"))?;
    let r = c.resources.as_ref();
    let amount = match side {
        "limits" => resources::limit(r, what).filter(|v| *v > 0).unwrap_or_else(|| default_limit(facts, what)),
        "requests" => resources::request(r, what).unwrap_or(0),
        _ => return Err(format!("unsupported container resource : {name}")),
    };
    let divisor = divisor.filter(|d| !d.0.is_empty() && d.0 != "0");
    let unit = match (what, divisor) {
        ("cpu", d) => d.map_or(1000, resources::milli),
        (_, d) => d.map_or(1, resources::value),
    }
    .max(1);
    // Rounded up, for any number.
    let whole = amount.div_euclid(unit);
    Ok(whole.saturating_add(i64::from(amount.rem_euclid(unit) != 0)).to_string())
}

/// The limit of a container that has none: its pod's, or what the node can give (upstream's `defaultPodLimitsForDownwardAPI`).
fn default_limit(facts: &Facts<'_>, what: &str) -> i64 {
    let level = facts.pod.spec.as_ref().and_then(|s| s.resources.as_ref());
    let of_pod = resources::limit(level, what).filter(|v| *v > 0);
    match what {
        "cpu" => of_pod.unwrap_or(facts.node_cpu_milli),
        "memory" => of_pod.unwrap_or(facts.node_memory_bytes),
        "ephemeral-storage" => facts.node_storage_bytes,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_and_resources() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "labels": {"b": "2", "a": "x\ny\"z"}, "annotations": {"k": "\u{7}\u{200b}é"}},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}}}]}}))
        .unwrap();
        let ips = ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let node = Facts {
            pod: &pod,
            node_name: "node",
            host_ips: &ips,
            pod_ips: &ips,
            node_cpu_milli: 4000,
            node_memory_bytes: 1 << 30,
            node_storage_bytes: 1 << 40,
        };
        let facts = node;
        assert_eq!(field(&facts, "metadata.labels").unwrap(), "a=\"x\\ny\\\"z\"\nb=\"2\"");
        assert_eq!(field(&facts, "metadata.annotations").unwrap(), r#"k="\a\u200bé""#);
        assert_eq!(field(&facts, "metadata.labels['b']").unwrap(), "2");
        assert_eq!(field(&facts, "status.podIPs").unwrap(), "10.0.0.1,fd00::1");
        assert!(field(&facts, "spec.hostname").is_err());
        let c = container(&pod, "c").unwrap();
        assert_eq!(resource(&facts, c, "limits.cpu", None).unwrap(), "2");
        assert_eq!(resource(&facts, c, "limits.cpu", Some(&ApiQuantity("1m".into()))).unwrap(), "1500");
        assert_eq!(resource(&facts, c, "limits.memory", Some(&ApiQuantity("1Mi".into()))).unwrap(), "64");
        assert_eq!(resource(&facts, c, "requests.memory", Some(&ApiQuantity("1Mi".into()))).unwrap(), "64");
        // Without a limit of its own it is the pod's, or what the node has.
        let level = json!({"limits": {"cpu": "3"}});
        let whole: Pod = serde_json::from_value(json!({"spec": {"resources": level, "containers": [{"name": "c"}]}})).unwrap();
        let (facts, c) = (Facts { pod: &whole, ..node }, container(&whole, "c").unwrap());
        let limits = ["cpu", "memory", "ephemeral-storage", "hugepages-2Mi"].map(|what| resource(&facts, c, &format!("limits.{what}"), None).unwrap());
        assert_eq!(limits, ["3", "1073741824", "1099511627776", "0"]);
    }
}
