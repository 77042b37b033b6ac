//! A Service of 1,000 endpoints all of which change: how long until a connection on each node comes to the new ones. What a node knows is
//! seen by what it does: one port of a program beside the cluster stands for the old endpoints, another for the new ones.

use super::within;
use crate::stats::Samples;
use anyhow::Context as _;
use client::{Client, Patch, PatchParams};
use cluster_tests::{Cluster, netns::Beside};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use serde_json::{Value, json};
use std::{
    io::Read as _,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

const ENDPOINTS: u32 = 1000;
/// Their ports before and after, and what is said there.
const PORTS: [(u16, u8); 2] = [(8081, b'a'), (8082, b'b')];
/// The endpoints' addresses, all of one program.
const RANGE: &str = "198.18.128.0/18";
const BASE: Ipv4Addr = Ipv4Addr::new(198, 18, 128, 1);
const LIMIT: Duration = Duration::from_secs(20);

/// Measures it with none and with many other Services.
pub fn run(port: &str, rounds: usize, others: u32) -> anyhow::Result<()> {
    let mut cluster = Cluster::new("bench-services").with(&["--port", port, "--nodes", "3"]);
    cluster.start(&[]).assert_ok();
    let beside = Beside::new();
    let route = |line: &str| {
        anyhow::ensure!(Command::new("ip").args(line.split(' ')).status()?.success(), "ip {line}");
        Ok(())
    };
    // Which the program takes for its own, and the host for its.
    route(&format!("-n {} route add local {RANGE} dev lo", beside.path().file_name().context("a name")?.display()))?;
    route(&format!("route add {RANGE} via {}", beside.own()))?;
    let stop = Arc::new(AtomicBool::new(false));
    let servers = PORTS.map(|(port, word)| {
        let stop = Arc::clone(&stop);
        within::start(&beside.path(), move || {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
            while !stop.load(Ordering::Relaxed) {
                let (mut stream, _) = listener.accept()?;
                // Who has asked may be gone.
                let _ = std::io::Write::write_all(&mut stream, &[word]);
            }
            Ok(())
        })
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let client = {
        let _inside = runtime.enter();
        Client::from_kubeconfig(cluster.kubeconfig())?
    };
    runtime.block_on(make(&client, "many", 0))?;
    let ip: Ipv4Addr = cluster.value("get service many", "{.spec.clusterIP}").parse()?;
    println!("{}", Samples::head("1,000 endpoints changed, ms"));
    for more in [0, others] {
        runtime.block_on(async {
            for number in 0..more {
                make_other(&client, number).await?;
            }
            anyhow::Ok(())
        })?;
        let mut samples: [Samples; 3] = std::array::from_fn(|_| Samples::default());
        for round in 0..rounds {
            let (_, word) = PORTS[(round + 1) % 2];
            let seekers = (1..=3).map(|node| seek(&cluster, node, ip, word)).collect::<Result<Vec<_>, _>>()?;
            let begun = Instant::now();
            runtime.block_on(change(&client, round + 1))?;
            let written = begun.elapsed();
            for (seeker, samples) in seekers.into_iter().zip(&mut samples) {
                samples.add(within::end(seeker)?.duration_since(begun).saturating_sub(written));
            }
        }
        for (node, samples) in (1..).zip(&samples) {
            println!("{}", samples.line(&format!("node {node}, {more} other Services")));
        }
    }
    println!("(from the answer to the write until the first connection that came to a new endpoint)\n");
    stop.store(true, Ordering::Relaxed);
    // Each waits for one more.
    for (server, (port, _)) in servers.into_iter().zip(PORTS) {
        within::end(within::start(&beside.path(), move || Ok(TcpStream::connect((BASE, port))?))?)?;
        within::end(server?)?;
    }
    let _ = route(&format!("route del {RANGE}"));
    cluster.down();
    Ok(())
}

/// Connects from a node again and again, until a new endpoint answers.
fn seek(cluster: &Cluster, node: u32, ip: Ipv4Addr, word: u8) -> anyhow::Result<std::thread::JoinHandle<anyhow::Result<Instant>>> {
    let space = match node {
        1 => PathBuf::from("/proc/self/ns/net"),
        _ => cluster.run_folder().join(format!("nodes/{node}/netns")),
    };
    within::start(&space, move || {
        let begun = Instant::now();
        loop {
            let mut said = [0];
            let answer = TcpStream::connect_timeout(&SocketAddr::from((ip, 80)), LIMIT).and_then(|mut stream| stream.read_exact(&mut said));
            if answer.is_ok() && said == [word] {
                return Ok(Instant::now());
            }
            anyhow::ensure!(begun.elapsed() < LIMIT, "node {node} never comes to a new endpoint: {answer:?}");
        }
    })
}

fn slice(name: &str, endpoints: u32, turn: usize) -> Value {
    let (port, _) = PORTS[turn % 2];
    let addresses = (0..endpoints).map(|n| json!({"addresses": [Ipv4Addr::from(u32::from(BASE) + n)], "conditions": {"ready": true}}));
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "endpoints": addresses.collect::<Vec<_>>(), "ports": [{"port": port, "protocol": "TCP"}]})
}

fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}})
}

async fn make(client: &Client, name: &str, turn: usize) -> anyhow::Result<()> {
    client.namespaced::<Service>("default").create(&client::typed(&service(name))?).await?;
    client.namespaced::<EndpointSlice>("default").create(&client::typed(&slice(name, ENDPOINTS, turn))?).await?;
    Ok(())
}

async fn make_other(client: &Client, number: u32) -> anyhow::Result<()> {
    let name = format!("other-{number}");
    client.namespaced::<Service>("default").create(&client::typed(&service(&name))?).await?;
    client.namespaced::<EndpointSlice>("default").create(&client::typed(&slice(&name, 1, 0))?).await?;
    Ok(())
}

async fn change(client: &Client, turn: usize) -> anyhow::Result<()> {
    let ports = json!({"ports": slice("many", 0, turn)["ports"]});
    client.namespaced::<EndpointSlice>("default").patch("many", &Patch::Merge(ports), &PatchParams::default()).await?;
    Ok(())
}
