//! What pods ask for, as the scheduler reckons it: the original's `/metrics/resources`, told from memory when somebody asks.

use client::Meta;
use instruments::{Declared, Families, Family, Kind};
use k8s_openapi::api::core::v1::Pod;

use crate::pod;
use crate::resources::{self, Resources};

const REQUEST: Family = Family::new(
    "kube_pod_resource_request",
    Kind::Gauge,
    "[STABLE] Resources requested by workloads on the cluster, broken down by pod. This shows the resource usage the scheduler and kubelet expect per pod for resources along with the unit for the resource if any.",
);
const LIMIT: Family = Family::new(
    "kube_pod_resource_limit",
    Kind::Gauge,
    "[STABLE] Resources limit for workloads on the cluster, broken down by pod. This shows the resource usage the scheduler and kubelet expect per pod for resources along with the unit for the resource if any.",
);

const LABELS: &[&str] = &["namespace", "node", "pod", "priority", "resource", "scheduler", "unit"];
/// What is told.
pub const DECLARED: [Declared; 2] = [(&REQUEST, LABELS), (&LIMIT, LABELS)];

/// Tells what these pods ask for; those that have ended ask for nothing.
pub fn tell<'p>(pods: impl Iterator<Item = &'p Pod>, out: &mut Families) {
    for pod in pods.filter(|pod| pod::node_name(pod).is_empty() || !pod::is_finished(pod)) {
        tell_one(&REQUEST, pod, &resources::asked(pod), out);
        tell_one(&LIMIT, pod, &resources::limited(pod), out);
    }
}

fn tell_one(family: &Family, pod: &Pod, all: &Resources, out: &mut Families) {
    let priority = pod.spec.as_ref().and_then(|s| s.priority).map(|p| p.to_string()).unwrap_or_default();
    let plain = [("cpu", all.milli_cpu as f64 / 1000.0), ("ephemeral-storage", all.ephemeral_storage as f64), ("memory", all.memory as f64)];
    let scalar = all.scalar.iter().map(|(name, amount)| (name.as_str(), *amount as f64));
    for (resource, amount) in plain.into_iter().chain(scalar).filter(|(_, amount)| *amount != 0.0) {
        let labels = [
            ("namespace", pod.namespace()),
            ("node", pod::node_name(pod)),
            ("pod", pod.name()),
            ("priority", &priority),
            ("resource", resource),
            ("scheduler", pod::scheduler_name(pod)),
            ("unit", unit(resource)),
        ];
        out.add(family, &labels, amount, None);
    }
}

fn unit(resource: &str) -> &'static str {
    match resource {
        "cpu" => "cores",
        "memory" | "storage" | "ephemeral-storage" => "bytes",
        name if name.starts_with("hugepages-") => "bytes",
        name if name.starts_with("attachable-volumes-") => "integer",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_that_have_not_ended_are_told_with_units() {
        let pod = |name: &str, phase: &str| -> Pod {
            let resources = json!({"requests": {"cpu": "250m", "hugepages-2Mi": "2Mi", "example.com/x": "1"}, "limits": {"memory": "1Ki"}});
            let spec = json!({"nodeName": "n1", "priority": 7, "schedulerName": "s", "containers": [{"name": "c", "resources": resources}]});
            serde_json::from_value(json!({"metadata": {"namespace": "n", "name": name}, "spec": spec, "status": {"phase": phase}})).unwrap()
        };
        let (runs, ended) = (pod("runs", "Running"), pod("ended", "Succeeded"));
        let mut out = Families::default();
        tell([&runs, &ended].into_iter(), &mut out);
        let text = out.finish();
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let of = |kind: &str, resource: &str, unit: &str, amount: &str| {
            format!(r#"kube_pod_resource_{kind}{{namespace="n",node="n1",pod="runs",priority="7",resource="{resource}",scheduler="s",unit="{unit}"}} {amount}"#)
        };
        assert_eq!(
            samples,
            [
                of("limit", "memory", "bytes", "1024"),
                of("request", "cpu", "cores", "0.25"),
                of("request", "example.com/x", "", "1"),
                of("request", "hugepages-2Mi", "bytes", "2.097152e+06"),
            ]
        );
    }
}
