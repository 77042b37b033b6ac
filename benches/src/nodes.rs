//! Several nodes on one machine: from nothing to three that are Ready with DNS on each; a node added, and the first pod on it; what
//! each further idle node weighs; what goes between pods of two nodes, and of two machines; endpoints that change; a node that dies; many at once.

mod dead;
mod path;
mod services;
mod vxlan;
mod within;

use crate::{Options, process, stats::Samples};
use anyhow::Context as _;
use client::{Api, Client, Event, ListParams};
use cluster_tests::{Cluster, IMAGE, workers};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, PodCondition};
use serde_json::json;
use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
    process::Stdio,
    thread::sleep,
    time::{Duration, Instant},
};

/// Not the usual one, so that a user's cluster is not in the way.
const PORT: &str = "7443";
/// After a start or a change, until what it set off has ended.
const SETTLE: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs the program.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let asked = options.text("only").unwrap_or_default();
    let (rounds, many) = (options.number("rounds", 5_usize)?, options.number("many", 50_u32)?);
    let parts: [(&str, &dyn Fn() -> anyhow::Result<()>); 7] = [
        ("start", &|| started(rounds)),
        ("add", &|| added(options.number("adds", 5_u32)?)),
        ("path", &|| path::run(PORT, options.number("seconds", 2.0)?)),
        ("vxlan", &|| vxlan::run(options.number("seconds", 2.0)?)),
        ("services", &|| services::run(PORT, options.number("changes", 20)?, options.number("services", 1000)?)),
        ("dead", &|| dead::run(PORT)),
        ("many", &|| if many > 0 { crowd(many) } else { Ok(()) }),
    ];
    if let Some(unknown) = asked.split(',').find(|one| !one.is_empty() && !parts.iter().any(|(name, _)| name == one)) {
        anyhow::bail!("--only {unknown}: there is no such part");
    }
    parts.iter().filter(|(name, _)| asked.is_empty() || asked.split(',').any(|one| one == *name)).try_for_each(|(_, part)| part())
}

/// Three nodes from nothing.
fn started(rounds: usize) -> anyhow::Result<()> {
    println!("{}", Samples::head("from nothing, ms"));
    let (mut ready, mut dns) = (Samples::default(), Samples::default());
    for _ in 0..rounds {
        let mut cluster = Cluster::new("bench-nodes").with(&["--port", PORT, "--nodes", "3"]);
        let started = Instant::now();
        cluster.start(&[]).assert_ok();
        ready.add(started.elapsed());
        for number in [2, 3] {
            answers(&cluster, number)?;
        }
        dns.add(started.elapsed());
        cluster.down();
    }
    println!("{}", ready.line("`knarr up --nodes 3 --detach` returns"));
    println!("{}", dns.line("and DNS answers on each"));
    Ok(())
}

/// Waits until a node's DNS answers at the node's address.
fn answers(cluster: &Cluster, number: u32) -> anyhow::Result<()> {
    let plan: serde_json::Value = serde_json::from_slice(&fs::read(cluster.data().join("cluster.json"))?)?;
    let pods: Ipv4Addr = plan["pods"].as_str().context("a range of pods")?.parse()?;
    let server = Ipv4Addr::from(u32::from(pods) + ((number - 1) << 8) + 1);
    let begun = Instant::now();
    while !question(server).unwrap_or(false) {
        anyhow::ensure!(begun.elapsed() < PATIENCE, "DNS of node {number} does not answer");
        sleep(AGAIN);
    }
    Ok(())
}

/// Whether the server answers for the Service `kubernetes` (RFC 1035, 4.1).
fn question(server: Ipv4Addr) -> std::io::Result<bool> {
    const QUESTION: &[u8] = b"\x6b\x62\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x0akubernetes\x07default\x03svc\x07cluster\x05local\x00\x00\x01\x00\x01";
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    socket.send_to(QUESTION, (server, 53))?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    Ok(length > 12 && answer[..2] == QUESTION[..2] && answer[3] & 0x0f == 0)
}

/// A node added to a cluster that runs, and the first pod on it; then what each of them weighs.
fn added(adds: u32) -> anyhow::Result<()> {
    let mut cluster = Cluster::new("bench-added").with(&["--port", PORT]);
    cluster.start(&[]).assert_ok();
    let first = cluster.value("get nodes", "{.items[0].metadata.name}");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let client = {
        let _inside = runtime.enter();
        Client::from_kubeconfig(cluster.kubeconfig())?
    };
    let (mut ready, mut pod) = (Samples::default(), Samples::default());
    for number in 2..adds + 2 {
        let name = format!("{first}-{number}");
        let started = Instant::now();
        let mut child = cluster.knarr(&["node", "add"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        runtime.block_on(async {
            let seen = async {
                let nodes = client.all::<Node>();
                until(&nodes, &ListParams::fields(format!("metadata.name={name}")), |node: &Node| is_ready(node)).await?;
                ready.add(started.elapsed());
                // Who comes to it at once, without the scheduler's choice.
                let pods = client.namespaced::<Pod>("default");
                let own = format!("first-{number}");
                let wanted = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": own}, "spec": {
                    "nodeSelector": {"kubernetes.io/hostname": name}, "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
                    "containers": [{"name": "c", "image": IMAGE, "args": ["web"]}]}});
                pods.create(&client::typed(&wanted)?).await?;
                until(&pods, &ListParams::fields(format!("metadata.name={own}")), |pod: &Pod| pod_ready(pod)).await?;
                pod.add(started.elapsed());
                anyhow::Ok(())
            };
            tokio::time::timeout(PATIENCE, seen).await.context("the node did not come")?
        })?;
        child.wait()?;
    }
    println!("\n{}", Samples::head("a node added, ms"));
    println!("{}", ready.line("Ready"));
    println!("{}", pod.line("its first pod Ready"));
    cluster.kubectl("delete pods --all --wait");
    sleep(SETTLE);
    let pids: Vec<i32> = (2..adds + 2).map(|number| pid(&cluster, number)).collect::<Result<_, _>>()?;
    let before: Duration = pids.iter().map(|pid| process::cpu(*pid)).sum();
    sleep(SETTLE);
    let used = pids.iter().map(|pid| process::cpu(*pid)).sum::<Duration>().saturating_sub(before);
    let mut held = process::Memory::default();
    for pid in &pids {
        held += process::memory(*pid)?;
    }
    let count = u64::from(adds.max(1));
    println!("\neach of {adds} further idle nodes, KiB: RSS {}, PSS {}, anonymous {}", held.rss / count, held.pss / count, held.anonymous / count);
    println!("CPU of each over {} s: {:.3} % of a core\n", SETTLE.as_secs(), used.as_secs_f64() / SETTLE.as_secs_f64() * 100.0 / f64::from(adds.max(1)));
    cluster.down();
    Ok(())
}

/// Many nodes with one pod each.
fn crowd(nodes: u32) -> anyhow::Result<()> {
    let mut cluster = Cluster::new("bench-crowd").with(&["--port", PORT, "--nodes", &nodes.to_string()]);
    let started = Instant::now();
    cluster.start(&[]).assert_ok();
    println!("{nodes} nodes Ready after {:.1} s", started.elapsed().as_secs_f64());
    cluster.apply(&format!(
        "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: one}}\nspec:\n  selector: {{matchLabels: {{app: one}}}}\n  template:\n    metadata: {{labels: {{app: one}}}}\n    \
        spec: {{automountServiceAccountToken: false, containers: [{{name: c, image: '{IMAGE}', args: [web]}}]}}\n"
    ));
    cluster.kubectl("rollout status daemonset/one --timeout=55s");
    println!("and a pod on each after {:.1} s", started.elapsed().as_secs_f64());
    sleep(SETTLE);
    let mut all = process::memory(cluster.pid())?;
    for number in 2..=nodes {
        all += process::memory(pid(&cluster, number)?)?;
    }
    for shim in process::shims(&cluster.name) {
        all += process::memory(shim)?;
    }
    println!("all of it together, with the shims: {} MiB PSS", all.pss / 1024);
    cluster.down();
    Ok(())
}

/// The process of a further node.
fn pid(cluster: &Cluster, number: u32) -> anyhow::Result<i32> {
    workers::pid(cluster, number).with_context(|| format!("node {number} has no process"))
}

fn is_ready(node: &Node) -> bool {
    let is = |c: &NodeCondition| c.type_ == "Ready" && c.status == "True";
    node.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(is)
}

fn pod_ready(pod: &Pod) -> bool {
    let is = |c: &PodCondition| c.type_ == "Ready" && c.status == "True";
    pod.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(is)
}

/// Waits until one of the objects is so.
async fn until<T: client::Object>(api: &Api<T>, which: &ListParams, is: impl Fn(&T) -> bool) -> anyhow::Result<()> {
    loop {
        let mut events = api.watch(which, "").await?;
        while let Some(Ok(event)) = events.next().await {
            if let Event::Added(object) | Event::Modified(object) = event
                && is(&object)
            {
                return Ok(());
            }
        }
    }
}
