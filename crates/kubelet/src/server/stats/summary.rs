//! `GET /stats/summary`: what node, pods and containers use, in the words of `stats/v1alpha1`.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::usage::{self, Taken};
use super::{Answer, Measured, MeasuredContainer, MeasuredPod, Rates, measure};
use crate::cri::{Pressure, Stall, Stats};
use crate::machine;
use crate::pod::Context;
use crate::pod::manager::Pods;
use crate::util;

/// How long the answer about the node waits for what pods take of the disk.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What is told where nothing but CPU and memory is asked for (`only_cpu_and_memory=true`), of the node and of pods.
const BRIEF: [&str; 9] = ["nodeName", "podRef", "name", "startTime", "cpu", "memory", "swap", "systemContainers", "containers"];

/// The answer; `brief`: no more than CPU and memory, for which no disk is looked at.
pub(crate) async fn summary(cx: &Arc<Context>, pods: &Pods, rates: &Rates, brief: bool) -> Answer {
    let (mut node, mut list) = if brief { measured_briefly(cx, pods, rates).await } else { measured_whole(cx, pods, rates).await };
    if brief {
        shorten(&mut node);
        list.iter_mut().for_each(shorten);
    }
    super::super::json(&json!({"node": node, "pods": list}))
}

/// Leaves what a brief answer has, of the containers as well.
fn shorten(told: &mut Value) {
    let Value::Object(fields) = told else { return };
    fields.retain(|name, _| BRIEF.contains(&name.as_str()));
    for part in ["containers", "systemContainers"] {
        fields.get_mut(part).and_then(Value::as_array_mut).into_iter().flatten().for_each(shorten);
    }
}

async fn measured_briefly(cx: &Arc<Context>, pods: &Pods, rates: &Rates) -> (Value, Vec<Value>) {
    let measured = measure(cx, pods, false).await;
    let taken: Vec<Taken> = measured.pods.iter().map(|_| Taken::default()).collect();
    told(cx, &measured, &taken, rates)
}

async fn measured_whole(cx: &Arc<Context>, pods: &Pods, rates: &Rates) -> (Value, Vec<Value>) {
    let until = Instant::now() + ANSWER_MAX;
    let measured = measure(cx, pods, false).await;
    // All are asked for at once: who takes long delays nobody but to the end of the time.
    let taken = future::join_all(measured.pods.iter().map(|of| usage::of(cx, &of.pod, until))).await;
    let (root, images) = (cx.config.root_dir.clone(), cx.config.image_dir.clone());
    let (fs, image_fs, links, max_pid) = util::blocking(move || (usage::whole(&root), usage::whole(&images), host_links(), machine::pids_max())).await;
    let (mut node, list) = told(cx, &measured, &taken, rates);
    let now = machinery::time::rfc3339(measured.at);
    node["fs"] = fs;
    node["runtime"] = json!({"imageFs": image_fs.clone(), "containerFs": image_fs});
    node["rlimit"] = json!({"time": now, "maxpid": max_pid, "curproc": measured.node.0.pids});
    if let Some(links) = links {
        node["network"] = links;
    }
    (node, list)
}

/// What was measured, as it is told: the node but for its disks and links, and the pods.
fn told(cx: &Context, measured: &Measured, taken: &[Taken], rates: &Rates) -> (Value, Vec<Value>) {
    let mut rates = rates.update(cpu_times(measured)).into_iter();
    let mut rate = || rates.next().flatten();
    let now = machinery::time::rfc3339(measured.at);
    let mut node = used(&measured.node.0, rate(), &now);
    node["nodeName"] = json!(cx.config.node_name);
    node["startTime"] = json!(machinery::time::rfc3339(machine::booted().unwrap_or(cx.started)));
    let classes = measured.classes.first().map(|(_, reading)| {
        let mut pods = used(&reading.stats, rate(), &now);
        pods["name"] = json!("pods");
        pods["startTime"] = json!(machinery::time::rfc3339(cx.started));
        pods
    });
    node["systemContainers"] = classes.into_iter().collect();
    let list = measured.pods.iter().zip(taken).map(|(of, taken)| pod(of, taken, &mut rate, &now)).collect();
    (node, list)
}

/// All that has used the CPU, in the order in which it is told.
fn cpu_times(measured: &Measured) -> Vec<(String, u64)> {
    let mut all = vec![(String::new(), measured.node.0.cpu_usage_ns)];
    all.extend(measured.classes.first().map(|(path, reading)| (path.clone(), reading.stats.cpu_usage_ns)));
    for of in &measured.pods {
        all.push((util::uid(&of.pod).to_owned(), of.stats().cpu_usage_ns));
        all.extend(of.containers.iter().map(|one| (one.container.id.0.clone(), one.reading.stats.cpu_usage_ns)));
    }
    all
}

impl MeasuredPod {
    /// Of its cgroup; where that cannot be read, the sum of its containers'.
    fn stats(&self) -> Stats {
        let sum = |a: Stats, b: &Stats| Stats {
            cpu_usage_ns: a.cpu_usage_ns.saturating_add(b.cpu_usage_ns),
            memory_usage_bytes: a.memory_usage_bytes.saturating_add(b.memory_usage_bytes),
            memory_working_set_bytes: a.memory_working_set_bytes.saturating_add(b.memory_working_set_bytes),
            memory_rss_bytes: a.memory_rss_bytes.saturating_add(b.memory_rss_bytes),
            page_faults: a.page_faults.saturating_add(b.page_faults),
            major_page_faults: a.major_page_faults.saturating_add(b.major_page_faults),
            pids: a.pids.saturating_add(b.pids),
            swap_usage_bytes: a.swap_usage_bytes.saturating_add(b.swap_usage_bytes),
            ..a
        };
        let of_containers = || self.containers.iter().map(|one| &one.reading.stats).fold(Stats::default(), sum);
        self.cgroup.as_ref().map_or_else(of_containers, |reading| reading.stats)
    }
}

fn pod(of: &MeasuredPod, taken: &Taken, rate: &mut impl FnMut() -> Option<u64>, now: &str) -> Value {
    let (pod, stats) = (&of.pod, of.stats());
    let mut v = used(&stats, rate(), now);
    v["podRef"] = json!({"name": util::name(pod), "namespace": util::namespace(pod), "uid": util::uid(pod)});
    v["startTime"] = match &of.sandbox {
        Some(sandbox) => json!(machinery::time::rfc3339(sandbox.created)),
        None => json!(pod.metadata.creation_timestamp),
    };
    v["process_stats"] = json!({"process_count": stats.pids});
    v["containers"] = of.containers.iter().map(|one| container(one, taken, rate(), now)).collect();
    if let Some(ephemeral) = &taken.ephemeral {
        v["ephemeral-storage"] = ephemeral.clone();
    }
    if !taken.volumes.is_empty() {
        v["volume"] = json!(taken.volumes);
    }
    if let Some(network) = &taken.network {
        v["network"] = network.clone();
    }
    v
}

fn container(one: &MeasuredContainer, taken: &Taken, rate: Option<u64>, now: &str) -> Value {
    let mut v = used(&one.reading.stats, rate, now);
    v["name"] = json!(one.container.name);
    v["startTime"] = json!(machinery::time::rfc3339(one.started()));
    if let Some((rootfs, logs)) = taken.containers.get(&one.container.name) {
        (v["rootfs"], v["logs"]) = (rootfs.clone(), logs.clone());
    }
    v
}

/// CPU, memory, swap and, where it is counted, how long was waited for them.
fn used(stats: &Stats, rate: Option<u64>, now: &str) -> Value {
    let mut cpu = json!({"time": now, "usageCoreNanoSeconds": stats.cpu_usage_ns});
    if let Some(rate) = rate {
        cpu["usageNanoCores"] = json!(rate);
    }
    let mut memory = json!({
        "time": now, "usageBytes": stats.memory_usage_bytes, "workingSetBytes": stats.memory_working_set_bytes,
        "rssBytes": stats.memory_rss_bytes, "pageFaults": stats.page_faults, "majorPageFaults": stats.major_page_faults,
    });
    if let Some(limit) = stats.memory_limit_bytes {
        memory["availableBytes"] = json!(limit.saturating_sub(stats.memory_working_set_bytes));
    }
    let mut swap = json!({"time": now, "swapUsageBytes": stats.swap_usage_bytes});
    if let Some(limit) = stats.swap_limit_bytes {
        swap["swapAvailableBytes"] = json!(limit.saturating_sub(stats.swap_usage_bytes));
    }
    let Some(pressures) = &stats.pressure else { return json!({"cpu": cpu, "memory": memory, "swap": swap}) };
    (cpu["psi"], memory["psi"]) = (psi(&pressures.cpu), psi(&pressures.memory));
    json!({"cpu": cpu, "memory": memory, "swap": swap, "io": {"time": now, "psi": psi(&pressures.io)}})
}

fn psi(stall: &Stall) -> Value {
    let of = |p: &Pressure| json!({"total": p.total_us, "avg10": p.avg10, "avg60": p.avg60, "avg300": p.avg300});
    json!({"full": of(&stall.full), "some": of(&stall.some)})
}

/// The node's own links; the default one's figures stand beside them, as those of pods do.
fn host_links() -> Option<Value> {
    let text = std::fs::read_to_string("/proc/net/dev").ok()?;
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    // INTERFACE DESTINATION …
    let default = routes.lines().map(|line| line.split_whitespace().take(2).collect::<Vec<_>>()).find(|line| line.get(1) == Some(&"00000000"));
    let default = default.and_then(|line| line.first().copied()).unwrap_or("eth0").to_owned();
    usage::network(&usage::links(&text), &default, usage::is_the_node_s)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::Pressures;

    #[test]
    fn a_brief_answer_has_cpu_and_memory_alone() {
        let part = || json!({"name": "c", "startTime": "T", "cpu": {}, "memory": {}, "swap": {}, "io": {}, "rootfs": {}, "logs": {}});
        let mut pod = json!({"podRef": {}, "startTime": "T", "cpu": {}, "network": {}, "volume": [], "process_stats": {}, "containers": [part()]});
        shorten(&mut pod);
        let left = json!({"name": "c", "startTime": "T", "cpu": {}, "memory": {}, "swap": {}});
        assert_eq!(pod, json!({"podRef": {}, "startTime": "T", "cpu": {}, "containers": [left]}));
    }

    #[test]
    fn what_is_known_is_told_and_no_more() {
        let stats = Stats { cpu_usage_ns: 7, memory_usage_bytes: 9000, memory_working_set_bytes: 8000, swap_usage_bytes: 5, ..Stats::default() };
        let told = used(&stats, None, "T");
        assert_eq!(told["cpu"], json!({"time": "T", "usageCoreNanoSeconds": 7}));
        assert_eq!((&told["memory"]["workingSetBytes"], &told["memory"]["availableBytes"], &told["io"]), (&json!(8000), &Value::Null, &Value::Null));
        assert_eq!(told["swap"], json!({"time": "T", "swapUsageBytes": 5}));
        let mut limited = Stats { memory_limit_bytes: Some(10_000), swap_limit_bytes: Some(4), pressure: Some(Pressures::default()), ..stats };
        limited.pressure.as_mut().unwrap().cpu.some = Pressure { total_us: 3, avg10: 1.5, avg60: 0.5, avg300: 0.25 };
        let told = used(&limited, Some(11), "T");
        assert_eq!(
            (&told["cpu"]["usageNanoCores"], &told["memory"]["availableBytes"], &told["swap"]["swapAvailableBytes"]),
            (&json!(11), &json!(2000), &json!(0))
        );
        assert_eq!(told["cpu"]["psi"]["some"], json!({"total": 3, "avg10": 1.5, "avg60": 0.5, "avg300": 0.25}));
        assert_eq!(told["io"]["psi"]["full"]["total"], 0);
    }
}
