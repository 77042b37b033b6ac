//! From the start of the process to a cluster that can be used, as clients outside see it: `/readyz` answers `ok`, a watch
//! shows the node Ready, DNS answers over UDP. With data that is there already, and from nothing.
//!
//! The observer is there before the cluster, so it asks again every millisecond until it is answered for the first time:
//! this is how exact the figures are.

use crate::{Options, peer::Peer, stats::Samples};
use anyhow::{Context as _, bail};
use bytes::Bytes;
use client::{Client, Event, ListParams};
use cluster_tests::Cluster;
use futures_util::StreamExt as _;
use http::Request;
use k8s_openapi::{
    api::core::v1::{Node, NodeCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};
use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::{net::UdpSocket, runtime::Runtime, time::sleep};

const AGAIN: Duration = Duration::from_millis(1);
/// Not the usual one, so that a user's cluster is not in the way.
const PORT: &str = "7443";
const PATIENCE: Duration = Duration::from_secs(60);
/// The files with which the administrator is known; a cluster writes them before its API answers.
const FILES: [&str; 4] = ["cluster.json", "pki/ca.crt", "pki/admin.crt", "pki/admin.key"];

/// One start, each from the spawning of the process.
struct Times {
    api: Duration,
    node: Duration,
    dns: Duration,
    command: Duration,
}

impl Times {
    fn all(&self) -> Duration {
        self.api.max(self.node).max(self.dns)
    }
}

/// Runs the program.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let rounds = options.number("rounds", 20)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    for fresh in [false, true] {
        let mut cluster = Cluster::new("bench-start");
        let times = starts(&runtime, &mut cluster, rounds, fresh);
        if !fresh || times.is_err() {
            cluster.down();
        }
        let times = times?;
        table(if fresh { "from nothing, ms" } else { "data and images there, ms" }, &times);
    }
    if let Some(peer) = Peer::of(options)? {
        println!("the original, from nothing: etcd and kube-apiserver alone\n{}", peer.up()?.trim());
    }
    Ok(())
}

fn starts(runtime: &Runtime, cluster: &mut Cluster, rounds: usize, fresh: bool) -> anyhow::Result<Vec<Times>> {
    let mut times = Vec::new();
    // The first makes the data that the others find.
    let first = usize::from(!fresh);
    for round in 0..rounds + first {
        let time = one(runtime, cluster)?;
        if round >= first {
            times.push(time);
        }
        if fresh { cluster.down() } else { cluster.down_keeping_data() }
    }
    Ok(times)
}

fn table(title: &str, times: &[Times]) {
    println!("{}", Samples::head(title));
    let line = |name: &str, of: fn(&Times) -> Duration| {
        let mut samples = Samples::default();
        times.iter().for_each(|t| samples.add(of(t)));
        println!("{}", samples.line(name));
    };
    line("API ready (/readyz)", |t| t.api);
    line("node Ready (a watch)", |t| t.node);
    line("DNS answering (UDP)", |t| t.dns);
    line("all of them", Times::all);
    line("`knarr up --detach` returns", |t| t.command);
    println!();
}

fn one(runtime: &Runtime, cluster: &mut Cluster) -> anyhow::Result<Times> {
    let mut command = cluster.knarr(&["up", "--detach", "--port", PORT]);
    command.stdout(Stdio::null()).stdin(Stdio::null());
    let (data, config) = (cluster.data().to_owned(), cluster.folder.join("observer"));
    // Heartbeats are told in whole seconds: a start shares its second with nothing of the cluster before it.
    let second = client::now();
    while client::now() == second {
        std::thread::sleep(AGAIN);
    }
    let (since, started) = (client::now(), Instant::now());
    let mut child = command.spawn()?;
    let seen = runtime.block_on(async { tokio::time::timeout(PATIENCE, observe(&data, &config, started, since)).await });
    let (api, node, dns) = seen.context("the cluster did not start")??;
    if !child.wait()?.success() {
        bail!("knarr up failed");
    }
    Ok(Times { api, node, dns, command: started.elapsed() })
}

async fn observe(data: &Path, config: &Path, started: Instant, since: Time) -> anyhow::Result<(Duration, Duration, Duration)> {
    let paths = FILES.map(|f| data.join(f));
    while !paths.iter().all(|p| fs::metadata(p).is_ok_and(|m| m.len() > 0)) {
        sleep(AGAIN).await;
    }
    let plan: serde_json::Value = serde_json::from_slice(&fs::read(&paths[0])?)?;
    let services: Ipv4Addr = plan["services"].as_str().context("a range of services")?.parse()?;
    let [a, b, c, _] = services.octets();
    let client = client(config, &paths, plan["port"].as_u64().context("a port")?)?;
    let cluster = async {
        while !ready(&client).await {
            sleep(AGAIN).await;
        }
        let api = started.elapsed();
        node(&client, &since).await;
        (api, started.elapsed())
    };
    let dns = async {
        while !answers(Ipv4Addr::new(a, b, c, 10)).await.unwrap_or(false) {
            sleep(AGAIN).await;
        }
        started.elapsed()
    };
    let ((api, node), dns) = tokio::join!(cluster, dns);
    Ok((api, node, dns))
}

fn client(config: &Path, files: &[PathBuf; 4], port: u64) -> anyhow::Result<Client> {
    let [_, ca, certificate, key] = files.each_ref().map(|f| f.display().to_string());
    let text = serde_json::json!({
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": format!("https://127.0.0.1:{port}"), "certificate-authority": ca}}],
        "users": [{"name": "u", "user": {"client-certificate": certificate, "client-key": key}}],
    });
    fs::write(config, text.to_string())?;
    Ok(Client::from_kubeconfig(config)?)
}

async fn ready(client: &Client) -> bool {
    let Ok(request) = Request::get("/readyz").body(Bytes::new()) else { return false };
    client.raw(request).await.is_ok_and(|answer| answer.status().is_success())
}

/// Returns when a watch shows a node that is Ready and said so since a moment.
async fn node(client: &Client, since: &Time) {
    loop {
        if let Ok(mut events) = client.all::<Node>().watch(&ListParams::default(), "").await {
            while let Some(Ok(event)) = events.next().await {
                let (Event::Added(node) | Event::Modified(node)) = event else { continue };
                let conditions = node.status.and_then(|s| s.conditions).unwrap_or_default();
                // What the cluster before this one wrote does not count.
                let new = |c: &NodeCondition| c.last_heartbeat_time.as_ref().is_some_and(|t| t.0 >= since.0);
                if conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True" && new(c)) {
                    return;
                }
            }
        }
        sleep(AGAIN).await;
    }
}

/// Whether the server answers for the Service `kubernetes` (RFC 1035, 4.1).
async fn answers(server: Ipv4Addr) -> std::io::Result<bool> {
    const QUESTION: &[u8] = b"\x6b\x62\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x0akubernetes\x07default\x03svc\x07cluster\x05local\x00\x00\x01\x00\x01";
    const ANSWER: Duration = Duration::from_millis(20);
    let socket = UdpSocket::bind("0.0.0.0:0").await?;
    socket.connect((server, 53)).await?;
    socket.send(QUESTION).await?;
    let mut answer = [0; 512];
    let length = tokio::time::timeout(ANSWER, socket.recv(&mut answer)).await??;
    Ok(length > 12 && answer[..2] == QUESTION[..2] && answer[3] & 0x0f == 0 && (answer[6], answer[7]) != (0, 0))
}
