//! What an extended API costs: objects of a custom kind with 200 fields and ten rules, writes under fifty policies and
//! webhooks, and five hundred definitions; on knarr and on the original kube-apiserver with etcd, in turn, in one run.
//!
//! CPU is that of the server's processes, its store included. knarr runs its API server alone, as the original does.

mod bodies;
mod hook;
mod load;

use crate::{Options, peer::Peer, process, stats::Samples};
use anyhow::{Context as _, bail};
use bytes::Bytes;
use client::Client;
use cluster_tests::Cluster;
use http::{Method, Request};
use http_body_util::BodyExt as _;
use load::{Figures, Load};
use serde_json::Value;
use std::{
    path::Path,
    time::{Duration, Instant},
};
use tokio::time::sleep;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";
const WIDGETS: &str = "/apis/bench.example.com/v1/namespaces/default/widgets";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PATIENCE: Duration = Duration::from_secs(120);
/// Of a run, by what `--only` calls them.
const PARTS: [&str; 5] = ["first", "life", "policies", "webhooks", "many"];
const AGAIN: Duration = Duration::from_millis(1);

/// What one server was measured at.
struct Measured {
    phases: Vec<Figures>,
    /// A definition created until its first object was accepted, it was in discovery, and in OpenAPI.
    served: [Samples; 3],
    /// CPU and wall time for the definitions, and what the server's memory grew by, in KiB.
    many: (Duration, Duration, u64),
}

/// What is to be measured.
struct Asked {
    objects: u32,
    definitions: u32,
    /// Names of parts, with commas between; all if there are none.
    only: Option<String>,
}

impl Asked {
    fn of(options: &Options) -> anyhow::Result<Asked> {
        let only = options.text("only").map(str::to_owned);
        if let Some(unknown) = only.iter().flat_map(|only| only.split(',')).find(|part| !PARTS.contains(part)) {
            bail!("--only {unknown}: there is no such part");
        }
        Ok(Asked { objects: options.number("objects", 2000)?, definitions: options.number("definitions", 500)?, only })
    }

    fn has(&self, part: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.split(',').any(|name| name == part))
    }
}

/// Runs the program.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let asked = Asked::of(options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let alone = ["--port", "7443", "--disable", "scheduler,controllers,kubelet,proxy,dns"];
    let mut cluster = Cluster::new("bench-custom").with(&alone);
    cluster.start(&[]).assert_ok();
    let ours = measure(&runtime, cluster.kubeconfig(), vec![cluster.pid()], &asked);
    let started = if ours.is_ok() && asked.has("many") { Some(again(&runtime, &mut cluster)) } else { None };
    cluster.down();
    let ours = ours?;
    let theirs = match Peer::of(options)? {
        Some(peer) => {
            peer.up()?;
            let pids = peer.processes()?;
            Some(measure(&runtime, &peer.kubeconfig(), pids, &asked)?)
        }
        None => None,
    };
    phases(&ours, theirs.as_ref());
    if asked.has("first") {
        served(&ours, theirs.as_ref());
    }
    if asked.has("many") {
        many_of(&ours, theirs.as_ref());
    }
    if let Some((time, rss)) = started.transpose()? {
        let definitions = asked.definitions;
        println!("\nknarr started again with {definitions} definitions stored: ready after {:.0} ms, {} KiB resident", time.as_secs_f64() * 1e3, rss);
    }
    Ok(())
}

/// A start with what is stored: until the API is ready, and what it then holds.
fn again(runtime: &tokio::runtime::Runtime, cluster: &mut Cluster) -> anyhow::Result<(Duration, u64)> {
    cluster.down_keeping_data();
    let begun = Instant::now();
    cluster.start(&[]).assert_ok();
    let client = connect(runtime, cluster.kubeconfig())?;
    runtime.block_on(async {
        while send(&client, Method::GET, "/readyz", "", String::new()).await.is_err() {
            sleep(AGAIN).await;
        }
    });
    let time = begun.elapsed();
    std::thread::sleep(Duration::from_secs(5));
    Ok((time, process::memory(cluster.pid())?.rss))
}

fn connect(runtime: &tokio::runtime::Runtime, kubeconfig: &Path) -> anyhow::Result<Client> {
    let _inside = runtime.enter();
    Ok(Client::from_kubeconfig(kubeconfig)?)
}

fn measure(runtime: &tokio::runtime::Runtime, kubeconfig: &Path, pids: Vec<i32>, asked: &Asked) -> anyhow::Result<Measured> {
    let client = connect(runtime, kubeconfig)?;
    let objects = asked.objects;
    runtime.block_on(async {
        let mut served = <[Samples; 3]>::default();
        if asked.has("first") {
            for round in 0..10 {
                first_object(&client, round, &mut served).await?;
            }
        }
        let load = Load { client: client.clone(), pids: pids.clone() };
        let mut phases = Vec::new();
        if asked.has("life") {
            define(&client, &bodies::wide()).await?;
            until(&client, WIDGETS).await?;
            phases.extend(life(&load, objects).await?);
        }
        if asked.has("policies") {
            phases.push(policies(&load, objects).await?);
        }
        if asked.has("webhooks") {
            let hook = hook::Hook::open().await?;
            phases.push(webhooks(&load, &hook, "no webhook", 0, objects).await?);
            phases.push(webhooks(&load, &hook, "1 webhook", 1, objects).await?);
            phases.push(webhooks(&load, &hook, "10 webhooks", 10, objects / 4).await?);
        }
        let many = if asked.has("many") { many(&client, &pids, asked.definitions).await? } else { Default::default() };
        Ok(Measured { phases, served, many })
    })
}

/// One definition, and how long until it is there.
async fn first_object(client: &Client, round: u32, served: &mut [Samples; 3]) -> anyhow::Result<()> {
    let group = format!("first{round}.example.com");
    let begun = Instant::now();
    define(client, &bodies::small(&group)).await?;
    let (path, object) = (format!("/apis/{group}/v1/namespaces/default/things"), bodies::thing(&group));
    while send(client, Method::POST, &path, "application/json", object.clone()).await.is_err() {
        sleep(AGAIN).await;
    }
    served[0].add(begun.elapsed());
    let listed = |text: &str| text.contains(&format!("{group}/v1"));
    for (at, path) in [(1, "/apis"), (2, "/openapi/v3")] {
        while !listed(&String::from_utf8_lossy(&send(client, Method::GET, path, "", String::new()).await?)) {
            if begun.elapsed() > PATIENCE {
                bail!("{group} is not in {path} after {PATIENCE:?}");
            }
            sleep(AGAIN).await;
        }
        served[at].add(begun.elapsed());
    }
    Ok(())
}

/// What is done with objects.
async fn life(load: &Load, objects: u32) -> anyhow::Result<Vec<Figures>> {
    let name = |i: u32| format!("{WIDGETS}/widget-{i}");
    let json = "application/json";
    let mut phases = vec![
        load.each("create", objects, |i| (Method::POST, WIDGETS.to_owned(), json, bodies::widget(i))).await?,
        load.each("get", objects, |i| (Method::GET, name(i), "", String::new())).await?,
        load.update("update", objects, name).await?,
        load.each("patch", objects, |i| (Method::PATCH, name(i), "application/merge-patch+json", format!(r#"{{"spec":{{"number0":{i}}}}}"#))).await?,
    ];
    let applied = |i: u32| {
        let body = format!(r#"{{"apiVersion":"bench.example.com/v1","kind":"Widget","spec":{{"number1":{i}}}}}"#);
        (Method::PATCH, format!("{}?fieldManager=bench&force=true", name(i)), "application/apply-patch+yaml", body)
    };
    phases.push(load.each("apply", objects / 5, applied).await?);
    phases.push(load.each("list_all", 20, |_| (Method::GET, WIDGETS.to_owned(), "", String::new())).await?);
    phases.push(load.each("list_page_500", 50, |_| (Method::GET, format!("{WIDGETS}?limit=500"), "", String::new())).await?);
    phases.push(load.watch(WIDGETS, 50, 200).await?);
    phases.push(load.each("delete", objects, |i| (Method::DELETE, name(i), "", String::new())).await?);
    Ok(phases)
}

/// Writes that pass fifty policies.
async fn policies(load: &Load, objects: u32) -> anyhow::Result<Figures> {
    for n in 0..50 {
        let (policy, binding) = bodies::policy(n);
        post(&load.client, &format!("{ADMISSION}/validatingadmissionpolicies"), policy).await?;
        post(&load.client, &format!("{ADMISSION}/validatingadmissionpolicybindings"), binding).await?;
    }
    // A policy counts as soon as it is refused for.
    let begun = Instant::now();
    while send(&load.client, Method::POST, &format!("{MAPS}?dryRun=All"), "application/json", bodies::forbidden()).await.is_ok() {
        if begun.elapsed() > PATIENCE {
            bail!("no policy refuses anything after {PATIENCE:?}");
        }
        sleep(Duration::from_millis(50)).await;
    }
    let figures = load.each("50 policies", objects, |i| (Method::POST, MAPS.to_owned(), "application/json", bodies::map("policed", i))).await?;
    for n in 0..50 {
        send(&load.client, Method::DELETE, &format!("{ADMISSION}/validatingadmissionpolicybindings/policy-{n}"), "", String::new()).await?;
        send(&load.client, Method::DELETE, &format!("{ADMISSION}/validatingadmissionpolicies/policy-{n}"), "", String::new()).await?;
    }
    Ok(figures)
}

/// Writes about which so many webhooks are asked.
async fn webhooks(load: &Load, hook: &hook::Hook, name: &'static str, count: u32, objects: u32) -> anyhow::Result<Figures> {
    let configurations = format!("{ADMISSION}/validatingwebhookconfigurations");
    if count > 0 {
        post(&load.client, &configurations, hook.configuration(count)).await?;
        // A configuration counts as soon as a write takes as long as the webhook.
        let begun = Instant::now();
        loop {
            let asked = Instant::now();
            post(&load.client, &format!("{MAPS}?dryRun=All"), bodies::map("probe", 0)).await?;
            if asked.elapsed() >= hook::THINKS {
                break;
            }
            if begun.elapsed() > PATIENCE {
                bail!("no webhook is asked after {PATIENCE:?}");
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
    let figures = load.each(name, objects, |i| (Method::POST, MAPS.to_owned(), "application/json", bodies::map(&format!("hooked-{count}"), i))).await?;
    if count > 0 {
        send(&load.client, Method::DELETE, &format!("{configurations}/hooks-{count}"), "", String::new()).await?;
        sleep(Duration::from_secs(2)).await;
    }
    Ok(figures)
}

/// Many definitions of an operator's size, until the last is served: CPU, time, memory.
async fn many(client: &Client, pids: &[i32], count: u32) -> anyhow::Result<(Duration, Duration, u64)> {
    let cpu = || pids.iter().map(|pid| process::cpu(*pid)).sum::<Duration>();
    let rss = || pids.iter().map(|pid| process::memory(*pid).map(|m| m.rss)).sum::<anyhow::Result<u64>>();
    let (cpu_before, rss_before, begun) = (cpu(), rss()?, Instant::now());
    for n in 0..count {
        define(client, &bodies::large(n)).await?;
    }
    for n in 0..count {
        until(client, &format!("/apis/large{n}.example.com/v1/larges")).await?;
    }
    let wall = begun.elapsed();
    // What is made afterwards counts too.
    sleep(Duration::from_secs(20)).await;
    Ok((cpu() - cpu_before, wall, rss()?.saturating_sub(rss_before)))
}

async fn define(client: &Client, definition: &Value) -> anyhow::Result<()> {
    post(client, DEFINITIONS, definition.to_string()).await
}

/// Creates an object.
pub async fn post(client: &Client, path: &str, body: String) -> anyhow::Result<()> {
    send(client, Method::POST, path, "application/json", body).await.with_context(|| format!("POST {path}"))?;
    Ok(())
}

async fn until(client: &Client, path: &str) -> anyhow::Result<()> {
    let begun = Instant::now();
    while let Err(error) = send(client, Method::GET, path, "", String::new()).await {
        if begun.elapsed() > PATIENCE {
            return Err(error.context(format!("GET {path}, after {PATIENCE:?}")));
        }
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

async fn send(client: &Client, method: Method, path: &str, kind: &str, body: String) -> anyhow::Result<Bytes> {
    let mut request = Request::builder().method(method).uri(path);
    if !kind.is_empty() {
        request = request.header("content-type", kind);
    }
    let response = client.raw(request.body(Bytes::from(body))?).await?;
    Ok(response.into_body().collect().await.map_err(|e| anyhow::anyhow!(e))?.to_bytes())
}

fn phases(ours: &Measured, theirs: Option<&Measured>) {
    println!("{:<15} {:>32} {:>27} {:>23}", "", "CPU a request, µs", "requests a second", "p99, ms");
    println!("{:<15} {:>9} {:>12} {:>9} {:>13} {:>13} {:>11} {:>11}", "phase", "knarr", "original", "ratio", "knarr", "original", "knarr", "original");
    for phase in &ours.phases {
        let other = theirs.and_then(|t| t.phases.iter().find(|p| p.name == phase.name));
        let of = |f: fn(&Figures) -> f64| other.map_or(f64::NAN, f);
        println!(
            "{:<15} {:>9.0} {:>12.0} {:>9.3} {:>13.0} {:>13.0} {:>11.1} {:>11.1}",
            phase.name,
            phase.cpu,
            of(|f| f.cpu),
            phase.cpu / of(|f| f.cpu),
            phase.per_second,
            of(|f| f.per_second),
            phase.p99,
            of(|f| f.p99),
        );
    }
    println!("each webhook thinks for {} ms", hook::THINKS.as_millis());
}

fn served(ours: &Measured, theirs: Option<&Measured>) {
    println!("\n{}", Samples::head("a definition created until …, ms"));
    for (who, measured) in [("knarr", Some(ours)), ("original", theirs)] {
        let Some(measured) = measured else { continue };
        for (what, samples) in ["its first object is accepted", "it is in /apis as well", "it is in /openapi/v3 as well"].iter().zip(&measured.served) {
            println!("{}", samples.line(&format!("{who}: {what}")));
        }
    }
}

fn many_of(ours: &Measured, theirs: Option<&Measured>) {
    println!("\n{:<40} {:>9} {:>9} {:>12}", "definitions of an operator's size", "CPU, s", "time, s", "memory, KiB");
    for (who, measured) in [("knarr", Some(ours)), ("original", theirs)] {
        let Some(measured) = measured else { continue };
        let (cpu, wall, memory) = measured.many;
        println!("{who:<40} {:>9.2} {:>9.2} {memory:>12}", cpu.as_secs_f64(), wall.as_secs_f64());
    }
}
