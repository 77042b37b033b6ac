//! `GET /metrics/resource`: what the Metrics API is made of (KEP-727), each with the time at which it was measured.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Answer, Families, Family, Kind, Measured, exposed, measure, seconds};
use crate::cri::Stats;
use crate::pod::Context;
use crate::pod::manager::Pods;
use crate::util;

const NODE_CPU: Family = Family::new("node_cpu_usage_seconds_total", Kind::Counter, "[STABLE] Cumulative cpu time consumed by the node in core-seconds");
const NODE_MEMORY: Family = Family::new("node_memory_working_set_bytes", Kind::Gauge, "[STABLE] Current working set of the node in bytes");
const NODE_SWAP: Family =
    Family::new("node_swap_usage_bytes", Kind::Gauge, "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems");
const POD_CPU: Family = Family::new("pod_cpu_usage_seconds_total", Kind::Counter, "[STABLE] Cumulative cpu time consumed by the pod in core-seconds");
const POD_MEMORY: Family = Family::new("pod_memory_working_set_bytes", Kind::Gauge, "[STABLE] Current working set of the pod in bytes");
const POD_SWAP: Family =
    Family::new("pod_swap_usage_bytes", Kind::Gauge, "[ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows systems");
const CPU: Family = Family::new("container_cpu_usage_seconds_total", Kind::Counter, "[STABLE] Cumulative cpu time consumed by the container in core-seconds");
const MEMORY: Family = Family::new("container_memory_working_set_bytes", Kind::Gauge, "[STABLE] Current working set of the container in bytes");
const SWAP: Family =
    Family::new("container_swap_usage_bytes", Kind::Gauge, "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems");
const SWAP_LIMIT: Family =
    Family::new("container_swap_limit_bytes", Kind::Gauge, "[ALPHA] Current amount of the container swap limit in bytes. Reported only on non-windows systems");
const START: Family = Family::new("container_start_time_seconds", Kind::Gauge, "[STABLE] Start time of the container since unix epoch in seconds");
const ERRORS: [Family; 2] = [
    Family::new("resource_scrape_error", Kind::Gauge, "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise"),
    Family::new("scrape_error", Kind::Gauge, "[ALPHA] (Deprecated since 1.29.0) 1 if there was an error while getting container metrics, 0 otherwise"),
];

pub(crate) async fn metrics(cx: &Arc<Context>, pods: &Pods) -> Answer {
    exposed(families(&measure(cx, pods, false).await))
}

fn families(measured: &Measured) -> Families {
    let (mut out, at) = (Families::default(), Some(measured.at));
    let mut three = |families: [&Family; 3], labels: &[(&str, &str)], stats: &Stats| {
        let values = [seconds(stats.cpu_usage_ns), stats.memory_working_set_bytes as f64, stats.swap_usage_bytes as f64];
        families.iter().zip(values).for_each(|(family, value)| out.add(family, labels, value, at));
    };
    three([&NODE_CPU, &NODE_MEMORY, &NODE_SWAP], &[], &measured.node.0);
    for of in &measured.pods {
        let (namespace, pod) = (("namespace", util::namespace(&of.pod)), ("pod", util::name(&of.pod)));
        if let Some(cgroup) = &of.cgroup {
            three([&POD_CPU, &POD_MEMORY, &POD_SWAP], &[namespace, pod], &cgroup.stats);
        }
        for one in &of.containers {
            three([&CPU, &MEMORY, &SWAP], &[("container", one.container.name.as_str()), namespace, pod], &one.reading.stats);
        }
    }
    for of in &measured.pods {
        for one in &of.containers {
            let labels = [("container", one.container.name.as_str()), ("namespace", util::namespace(&of.pod)), ("pod", util::name(&of.pod))];
            out.add(&START, &labels, since_epoch_s(one.started()), None);
            if let Some(limit) = one.reading.stats.swap_limit_bytes {
                out.add(&SWAP_LIMIT, &labels, limit as f64, at);
            }
        }
    }
    ERRORS.iter().for_each(|family| out.add(family, &[], 0.0, None));
    out
}

fn since_epoch_s(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::super::{MeasuredContainer, MeasuredPod};
    use super::*;
    use crate::cri::{Container, ContainerId, Reading, SandboxId, State};
    use serde_json::json;
    use std::time::Duration;

    fn container(name: &str, started: SystemTime) -> Container {
        Container {
            id: ContainerId(format!("id-{name}")),
            sandbox: SandboxId("s".into()),
            name: name.into(),
            attempt: 0,
            state: State::Running,
            created: started,
            started: Some(started),
            finished: None,
            exit_code: 0,
            oom_killed: false,
            reason: String::new(),
            message: String::new(),
            image: "app:1".into(),
            image_id: "app:1".into(),
            labels: std::collections::BTreeMap::default(),
            annotations: std::collections::BTreeMap::default(),
            log_path: std::path::PathBuf::default(),
            user: None,
        }
    }

    #[test]
    fn a_node_its_pods_and_their_containers_are_told_with_the_time_of_the_measure() {
        let stats = |cpu_usage_ns, memory_working_set_bytes| Stats { cpu_usage_ns, memory_working_set_bytes, ..Stats::default() };
        let reading = |cpu, memory| Reading { stats: Stats { swap_limit_bytes: Some(4096), ..stats(cpu, memory) }, detail: None };
        let pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}})).unwrap();
        let started = UNIX_EPOCH + Duration::from_millis(7_500);
        let one = MeasuredContainer { container: container("c", started), reading: reading(4_710_000_000, 12_582_912) };
        let measured = Measured {
            at: UNIX_EPOCH + Duration::from_millis(9_500),
            node: (stats(357_354_910_000, 1_616_273_408), crate::cri::Detail::default()),
            classes: Vec::new(),
            pods: vec![MeasuredPod { pod: std::sync::Arc::new(pod), sandbox: None, cgroup: Some(reading(5_000_000_000, 2048)), containers: vec![one] }],
        };
        let text = families(&measured).finish();
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                r#"container_cpu_usage_seconds_total{container="c",namespace="n",pod="p"} 4.71 9500"#,
                r#"container_memory_working_set_bytes{container="c",namespace="n",pod="p"} 1.2582912e+07 9500"#,
                r#"container_start_time_seconds{container="c",namespace="n",pod="p"} 7.5"#,
                r#"container_swap_limit_bytes{container="c",namespace="n",pod="p"} 4096 9500"#,
                r#"container_swap_usage_bytes{container="c",namespace="n",pod="p"} 0 9500"#,
                "node_cpu_usage_seconds_total 357.35491 9500",
                "node_memory_working_set_bytes 1.616273408e+09 9500",
                "node_swap_usage_bytes 0 9500",
                r#"pod_cpu_usage_seconds_total{namespace="n",pod="p"} 5 9500"#,
                r#"pod_memory_working_set_bytes{namespace="n",pod="p"} 2048 9500"#,
                r#"pod_swap_usage_bytes{namespace="n",pod="p"} 0 9500"#,
                "resource_scrape_error 0",
                "scrape_error 0",
            ]
        );
    }
}
