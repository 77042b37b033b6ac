//! Statistics: `/stats/summary`, `/metrics` and `/metrics/resource`, measured when asked.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::usage::{self, Taken};
use super::{Answer, text};
use crate::cri::{Container, Usage, label};
use crate::machine;
use crate::pod::Context;
use crate::pod::manager::Pods;
use crate::util;

/// How long the answer about the node waits for what pods take of the disk.
const ANSWER_MAX: Duration = Duration::from_secs(5);

struct Measured {
    container: Container,
    usage: Usage,
}

async fn measure(cx: &Context) -> Vec<Measured> {
    let mut out = Vec::new();
    for container in cx.runtime.containers().into_iter().filter(Container::running) {
        if let Ok(usage) = cx.runtime.stats(&container.id).await {
            out.push(Measured { container, usage });
        }
    }
    out
}

fn usage(u: &Usage, now: &str) -> Value {
    json!({
        "cpu": {"time": now, "usageCoreNanoSeconds": u.cpu_ns},
        "memory": {"time": now, "usageBytes": u.memory_bytes, "workingSetBytes": u.working_set_bytes},
    })
}

/// `GET /stats/summary`.
pub(super) async fn summary(cx: &Arc<Context>, pods: &Pods) -> Answer {
    let until = Instant::now() + ANSWER_MAX;
    let now = machinery::time::rfc3339(SystemTime::now());
    let measured = measure(cx).await;
    let mut list = Vec::new();
    // All are asked for at once: who takes long delays nobody but to the end of the time.
    let all = pods.all().into_iter().map(|handle| async move {
        let pod = handle.pod();
        let taken = usage::of(cx, &pod, until).await;
        (pod, taken)
    });
    for (pod, taken) in future::join_all(all).await {
        let Taken { containers: disks, volumes, ephemeral, network } = taken;
        let mine: Vec<&Measured> = measured.iter().filter(|m| m.container.labels.get(label::POD_UID).map(String::as_str) == Some(util::uid(&pod))).collect();
        let containers: Vec<Value> = mine
            .iter()
            .map(|m| {
                let mut v = usage(&m.usage, &now);
                v["name"] = json!(m.container.name);
                v["startTime"] = json!(machinery::time::rfc3339(m.container.started.unwrap_or(m.container.created)));
                if let Some((rootfs, logs)) = disks.get(&m.container.name) {
                    (v["rootfs"], v["logs"]) = (rootfs.clone(), logs.clone());
                }
                v
            })
            .collect();
        let sum = mine.iter().fold(Usage::default(), |a, m| Usage {
            cpu_ns: a.cpu_ns + m.usage.cpu_ns,
            memory_bytes: a.memory_bytes + m.usage.memory_bytes,
            working_set_bytes: a.working_set_bytes + m.usage.working_set_bytes,
        });
        let mut v = usage(&sum, &now);
        v["podRef"] = json!({"name": util::name(&pod), "namespace": util::namespace(&pod), "uid": util::uid(&pod)});
        v["startTime"] = json!(pod.metadata.creation_timestamp);
        v["containers"] = json!(containers);
        if let Some(ephemeral) = ephemeral {
            v["ephemeral-storage"] = ephemeral;
        }
        if !volumes.is_empty() {
            v["volume"] = json!(volumes);
        }
        if let Some(network) = network {
            v["network"] = network;
        }
        list.push(v);
    }
    let (all, free) = machine::disk(&cx.config.root_dir);
    let available = machine::meminfo("MemAvailable");
    let used = cx.machine.memory_bytes - available;
    let fs = json!({"time": now, "availableBytes": free, "capacityBytes": all, "usedBytes": all.saturating_sub(free)});
    super::json(&json!({
        "node": {
            "nodeName": cx.config.node_name,
            "startTime": machinery::time::rfc3339(cx.started),
            "cpu": {"time": now, "usageCoreNanoSeconds": node_cpu_ns()},
            "memory": {"time": now, "availableBytes": available, "usageBytes": used, "workingSetBytes": used},
            "fs": fs.clone(),
            "runtime": {"imageFs": fs.clone(), "containerFs": fs},
        },
        "pods": list,
    }))
}

/// CPU time that the machine has used since it started, from `/proc/stat` in hundredths of a second.
fn node_cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: Vec<u64> = text.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    // user nice system (idle iowait) irq softirq steal
    let busy: u64 = ticks.iter().enumerate().filter(|(i, _)| !matches!(i, 3 | 4 | 8 | 9)).map(|(_, n)| n).sum();
    busy * 10_000_000
}

/// `GET /metrics`: what the kubelet itself counts.
pub(super) fn metrics(cx: &Arc<Context>, pods: &Pods, volumes: &str) -> Answer {
    let containers = cx.runtime.containers();
    let running = containers.iter().filter(|c| c.running()).count();
    let mut out = String::new();
    let mut gauge = |name: &str, help: &str, labels: &str, value: usize| {
        let _ = write!(out, "# HELP {name} [BETA] {help}\n# TYPE {name} gauge\n{name}{labels} {value}\n");
    };
    let version = format!("{{git_version=\"{}\",platform=\"linux/{}\"}}", cx.config.version, machine::architecture());
    gauge("kubernetes_build_info", "A metric with a constant '1' value labeled by version.", &version, 1);
    gauge("kubelet_node_name", "The node's name. The count is always 1.", &format!("{{node={:?}}}", cx.config.node_name), 1);
    gauge("kubelet_running_pods", "Number of pods that have a running pod sandbox", "", cx.runtime.sandboxes().iter().filter(|s| s.ready).count());
    gauge("kubelet_running_containers", "Number of containers currently running", "{container_state=\"running\"}", running);
    gauge("kubelet_desired_pods", "The number of pods the kubelet is being instructed to run.", "{static=\"\"}", pods.all().len());
    out.push_str(volumes);
    text(StatusCode::OK, out)
}

/// `GET /metrics/resource`: use of containers, pods and the node (KEP-727).
pub(super) async fn resource_metrics(cx: &Arc<Context>) -> Answer {
    let measured = measure(cx).await;
    let mut out = String::new();
    let named = |m: &Measured| {
        let get = |k: &str| m.container.labels.get(k).cloned().unwrap_or_default();
        format!("{{container={:?},namespace={:?},pod={:?}}}", m.container.name, get(label::POD_NAMESPACE), get(label::POD_NAME))
    };
    out.push_str("# HELP container_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the container in core-seconds\n# TYPE container_cpu_usage_seconds_total counter\n");
    for m in &measured {
        let _ = writeln!(out, "container_cpu_usage_seconds_total{} {}", named(m), seconds(m.usage.cpu_ns));
    }
    out.push_str(
        "# HELP container_memory_working_set_bytes [STABLE] Current working set of the container in bytes\n# TYPE container_memory_working_set_bytes gauge\n",
    );
    for m in &measured {
        let _ = writeln!(out, "container_memory_working_set_bytes{} {}", named(m), m.usage.working_set_bytes);
    }
    out.push_str(
        "# HELP container_start_time_seconds [STABLE] Start time of the container since unix epoch in seconds\n# TYPE container_start_time_seconds gauge\n",
    );
    for m in &measured {
        let started = m.container.started.unwrap_or(m.container.created).duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let _ = writeln!(out, "container_start_time_seconds{} {}", named(m), started.as_secs_f64());
    }
    let mut pods: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for m in &measured {
        let get = |k: &str| m.container.labels.get(k).cloned().unwrap_or_default();
        let sum = pods.entry(format!("{{namespace={:?},pod={:?}}}", get(label::POD_NAMESPACE), get(label::POD_NAME))).or_default();
        *sum = (sum.0.saturating_add(m.usage.cpu_ns), sum.1.saturating_add(m.usage.working_set_bytes));
    }
    out.push_str(
        "# HELP pod_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the pod in core-seconds\n# TYPE pod_cpu_usage_seconds_total counter\n",
    );
    for (pod, (cpu_ns, _)) in &pods {
        let _ = writeln!(out, "pod_cpu_usage_seconds_total{pod} {}", seconds(*cpu_ns));
    }
    out.push_str("# HELP pod_memory_working_set_bytes [STABLE] Current working set of the pod in bytes\n# TYPE pod_memory_working_set_bytes gauge\n");
    for (pod, (_, memory)) in &pods {
        let _ = writeln!(out, "pod_memory_working_set_bytes{pod} {memory}");
    }
    let used = cx.machine.memory_bytes - machine::meminfo("MemAvailable");
    let _ = write!(
        out,
        "# HELP node_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the node in core-seconds\n# TYPE node_cpu_usage_seconds_total counter\nnode_cpu_usage_seconds_total {}\n# HELP node_memory_working_set_bytes [STABLE] Current working set of the node in bytes\n# TYPE node_memory_working_set_bytes gauge\nnode_memory_working_set_bytes {used}\n# HELP resource_scrape_error [STABLE] 1 if there was an error while getting container metrics, 0 otherwise\n# TYPE resource_scrape_error gauge\nresource_scrape_error 0\n",
        seconds(node_cpu_ns())
    );
    text(StatusCode::OK, out)
}

fn seconds(ns: u64) -> String {
    format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000)
}
