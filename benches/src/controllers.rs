//! What controllers do with many objects where nothing runs pods: a Deployment that is to have a thousand, a Job of a thousand
//! completions whose pods this program tells done as soon as it sees them, a Namespace of ten thousand objects that is deleted, a thousand
//! autoscalers (`autoscalers.rs`); beside the original's kube-apiserver, etcd and kube-controller-manager (its client's limits raised), in turn, in one run.
//!
//! With `--kills N` the Job is done once more while knarr is killed with SIGKILL N times, each time just after it has counted some
//! more pods: each that ended must have been counted once.

mod autoscalers;
mod measured;
mod node;

use crate::{
    Options,
    peer::Peer,
    pods::{self, NAMESPACE},
    stats::Samples,
};
use anyhow::{Context as _, bail};
use client::{Api, Client, DeleteParams, Event, ListParams, Meta as _, Patch, PatchParams};
use cluster_tests::{Cluster, watching};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::{
    apps::v1::Deployment,
    batch::v1::Job,
    core::v1::{ConfigMap, Namespace, Pod, Secret},
};
use serde_json::json;
use std::{
    collections::HashSet,
    path::Path,
    time::{Duration, Instant},
};

/// For the slowest of it on the slower side.
const PATIENCE: Duration = Duration::from_secs(300);
/// Requests under way at once, to make what is to be deleted.
const WORKERS: usize = 32;
/// At most so long after a count the process is killed, so that the moments differ.
const JITTER_MS: u64 = 37;

/// How many of everything.
#[derive(Clone, Copy)]
struct Sizes {
    rounds: usize,
    replicas: usize,
    completions: usize,
    parallelism: usize,
    objects: usize,
    autoscalers: usize,
}

/// What one side was measured at.
#[derive(Default)]
struct Measured {
    deployment: Samples,
    job: Samples,
    namespace: Samples,
    autoscalers: Option<autoscalers::Figures>,
}

/// Runs the program.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let sizes = Sizes {
        rounds: options.number("rounds", 3)?,
        replicas: options.number("replicas", 1000)?,
        completions: options.number("completions", 1000)?,
        parallelism: options.number("parallelism", 100)?,
        objects: options.number("objects", 10_000)?,
        autoscalers: options.number("autoscalers", 1000)?,
    };
    let kills: usize = options.number("kills", 0)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut cluster = Cluster::new("bench-controllers").with(&["--port", "7443", "--disable", "scheduler,kubelet,proxy,dns,storage,metrics"]);
    cluster.start(&[]).assert_ok();
    let ours = measure(&runtime, cluster.kubeconfig(), &[cluster.pid()], sizes);
    let killed = if ours.is_ok() && kills > 0 { Some(through_kills(&runtime, &mut cluster, sizes, kills)) } else { None };
    cluster.down();
    let ours = ours?;
    let theirs = match Peer::of(options)? {
        Some(peer) => {
            peer.up_controllers()?;
            Some(measure(&runtime, &peer.kubeconfig(), &peer.processes()?, sizes)?)
        }
        None => None,
    };
    table(sizes, &ours, theirs.as_ref());
    if let Some(time) = killed.transpose()? {
        println!("\na Job of {} completions through {kills} SIGKILLs of knarr: each counted once, after {:.1} s", sizes.completions, time.as_secs_f64());
    }
    Ok(())
}

fn table(sizes: Sizes, ours: &Measured, theirs: Option<&Measured>) {
    let Sizes { replicas, completions, parallelism, objects, .. } = sizes;
    let rows = [
        (format!("Deployment 0 to {replicas}: all pods created"), &ours.deployment, theirs.map(|t| &t.deployment)),
        (format!("Job, {completions} completions, {parallelism} at once"), &ours.job, theirs.map(|t| &t.job)),
        (format!("Namespace of {objects} objects deleted"), &ours.namespace, theirs.map(|t| &t.namespace)),
    ];
    println!("{}", Samples::head("ms"));
    let measured = if sizes.rounds > 0 { rows.as_slice() } else { &[] };
    for (what, knarr, original) in measured {
        println!("{}", knarr.line(&format!("{what}: knarr")));
        if let Some(original) = original {
            println!("{}", original.line(&format!("{what}: the original")));
            println!("{what}: {:.3} of it", knarr.at(0.5) / original.at(0.5));
        }
    }
    for (who, figures) in [("knarr", &ours.autoscalers), ("the original", theirs.map_or(&None, |t| &t.autoscalers))] {
        if let Some(figures) = figures {
            figures.print(who, sizes.autoscalers);
        }
    }
}

fn measure(runtime: &tokio::runtime::Runtime, kubeconfig: &Path, pids: &[i32], sizes: Sizes) -> anyhow::Result<Measured> {
    let client = {
        let _inside = runtime.enter();
        Client::from_kubeconfig(kubeconfig)?
    };
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE, pods::account(&client)).await.context("no service account")?;
        let mut measured = Measured::default();
        for round in 0..sizes.rounds {
            measured.deployment.add(deployment(&client, &format!("web-{round}"), sizes.replicas).await?);
            measured.job.add(job(&client, &format!("work-{round}"), sizes).await?);
            measured.namespace.add(namespace(&client, &format!("many-{round}"), sizes.objects).await?);
        }
        if sizes.autoscalers > 0 {
            measured.autoscalers = Some(autoscalers::measure(&client, pids, sizes.autoscalers).await?);
        }
        Ok(measured)
    })
}

/// Awaits what may take long.
async fn soon<T>(what: &str, work: impl Future<Output = T>) -> anyhow::Result<T> {
    tokio::time::timeout(PATIENCE, work).await.with_context(|| format!("{what}: not within {PATIENCE:?}"))
}

/// From the request that scales a Deployment of no pods to the last of its pods created.
async fn deployment(client: &Client, name: &str, replicas: usize) -> anyhow::Result<Duration> {
    let (deployments, pods) = (client.namespaced::<Deployment>(NAMESPACE), client.namespaced::<Pod>(NAMESPACE));
    let object: Deployment = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": name}}, "template": {"metadata": {"labels": {"app": name}}, "spec": node::pod_spec("Always")}},
    }))?;
    deployments.create(&object).await?;
    let only = ListParams::fields(format!("metadata.name={name}"));
    let seen = |event: &Event<Deployment>| matches!(event, Event::Added(d) | Event::Modified(d) if d.status.as_ref().is_some_and(|s| s.observed_generation == Some(1)));
    soon("the Deployment is seen", watching::until(&deployments, &only, seen)).await?;
    let own = ListParams::labels(format!("app={name}"));
    let mut names = HashSet::new();
    // A server may end the watch of who is slow to read it, and then it begins anew with all that are there.
    let created = watching::until(&pods, &own, |event| {
        if let Event::Added(pod) = event {
            names.insert(pod.name().to_owned());
        }
        names.len() == replicas
    });
    let (scaled, params) = (Patch::Merge(json!({"spec": {"replicas": replicas}})), PatchParams::default());
    let started = Instant::now();
    let (patched, created) = tokio::join!(deployments.patch(name, &scaled, &params), soon("the pods are created", created));
    let time = started.elapsed();
    patched?;
    created?;
    deployments.delete(name, &DeleteParams::background()).await?;
    gone(&pods, &own).await?;
    Ok(time)
}

/// Awaits that no pods are there any more.
async fn gone(pods: &Api<Pod>, which: &ListParams) -> anyhow::Result<()> {
    let (begun, first) = (Instant::now(), ListParams { limit: 1, ..which.clone() });
    while !pods.list(&first).await?.items().is_empty() {
        if begun.elapsed() > PATIENCE {
            bail!("pods of {} stay", which.label_selector);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

fn job_object(name: &str, sizes: Sizes) -> serde_json::Result<Job> {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"completions": sizes.completions, "parallelism": sizes.parallelism, "template": {"spec": node::pod_spec("Never")}},
    }))
}

fn succeeded(job: &Job) -> usize {
    job.status.as_ref().and_then(|s| s.succeeded).and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
}

fn is_complete(job: &Job) -> bool {
    let conditions = job.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Complete" && c.status == "True")
}

/// Waits until a Job is as it is wanted, also while its server comes and goes.
async fn until_job(jobs: &Api<Job>, name: &str, what: &str, wanted: impl Fn(&Job) -> bool) -> anyhow::Result<()> {
    let only = ListParams::fields(format!("metadata.name={name}"));
    soon(what, watching::until(jobs, &only, |event| matches!(event, Event::Added(job) | Event::Modified(job) if wanted(job)))).await
}

/// From the request that creates a Job until it is complete.
async fn job(client: &Client, name: &str, sizes: Sizes) -> anyhow::Result<Duration> {
    let jobs = client.namespaced::<Job>(NAMESPACE);
    let node = tokio::spawn(node::run(client.clone(), name.to_owned()));
    let started = Instant::now();
    jobs.create(&job_object(name, sizes)?).await?;
    until_job(&jobs, name, "the Job is complete", is_complete).await?;
    let time = started.elapsed();
    node.abort();
    check(client, name, sizes).await?;
    remove(client, name).await?;
    Ok(time)
}

/// Whether each pod that ended was counted, and once.
async fn check(client: &Client, name: &str, sizes: Sizes) -> anyhow::Result<()> {
    let job = client.namespaced::<Job>(NAMESPACE).get(name).await?;
    let pods = client.namespaced::<Pod>(NAMESPACE).list(&ListParams::labels(format!("job-name={name}"))).await?.into_items();
    let phase = |pod: &Pod| pod.status.as_ref().and_then(|s| s.phase.clone()).unwrap_or_default();
    let ended = pods.iter().filter(|p| phase(p) == "Succeeded").count();
    let held = pods.iter().filter(|p| p.metadata.finalizers.iter().flatten().any(|f| f == "batch.kubernetes.io/job-tracking")).count();
    if (succeeded(&job), ended, held) != (sizes.completions, sizes.completions, 0) {
        bail!("{name}: {} counted of {ended} pods that ended, {held} of {} hold on; {:?}", succeeded(&job), pods.len(), job.status);
    }
    Ok(())
}

async fn remove(client: &Client, name: &str) -> anyhow::Result<()> {
    client.namespaced::<Job>(NAMESPACE).delete(name, &DeleteParams::background()).await?;
    gone(&client.namespaced(NAMESPACE), &ListParams::labels(format!("job-name={name}"))).await
}

/// A Job while knarr is killed and started again.
fn through_kills(runtime: &tokio::runtime::Runtime, cluster: &mut Cluster, sizes: Sizes, kills: usize) -> anyhow::Result<Duration> {
    let name = "killed";
    let client = {
        let _inside = runtime.enter();
        Client::from_kubeconfig(cluster.kubeconfig())?
    };
    let jobs = client.namespaced::<Job>(NAMESPACE);
    let node = runtime.spawn(node::run(client.clone(), name.to_owned()));
    let started = Instant::now();
    runtime.block_on(jobs.create(&job_object(name, sizes)?))?;
    for kill in 0..kills {
        let least = sizes.completions * kill / (kills + 1);
        runtime.block_on(until_job(&jobs, name, "more pods are counted", |job| succeeded(job) >= least))?;
        std::thread::sleep(Duration::from_millis(kill as u64 * 11 % JITTER_MS));
        cluster.kill();
        cluster.start(&[]).assert_ok();
    }
    runtime.block_on(async {
        until_job(&jobs, name, "the Job is complete", is_complete).await?;
        let time = started.elapsed();
        node.abort();
        check(&client, name, sizes).await?;
        Ok(time)
    })
}

/// From the request that deletes a Namespace full of objects until it is gone.
async fn namespace(client: &Client, name: &str, objects: usize) -> anyhow::Result<Duration> {
    let namespaces = client.all::<Namespace>();
    namespaces.create(&serde_json::from_value(json!({"metadata": {"name": name}}))?).await?;
    let (maps, secrets) = (client.namespaced::<ConfigMap>(name), client.namespaced::<Secret>(name));
    let fill = |n: usize| {
        let (maps, secrets, value) = (&maps, &secrets, "x".repeat(100));
        async move {
            let metadata = json!({"name": format!("object-{n}"), "labels": {"app": "bench"}});
            if n.is_multiple_of(2) {
                maps.create(&serde_json::from_value(json!({"metadata": metadata, "data": {"key": value}}))?).await?;
            } else {
                secrets.create(&serde_json::from_value(json!({"metadata": metadata, "stringData": {"key": value}}))?).await?;
            }
            anyhow::Ok(())
        }
    };
    stream::iter(0..objects).map(fill).buffer_unordered(WORKERS).try_collect::<()>().await?;
    let only = ListParams::fields(format!("metadata.name={name}"));
    let started = Instant::now();
    namespaces.delete(name, &DeleteParams::default()).await?;
    let gone = async {
        loop {
            // As it is now, then each change.
            let mut events = namespaces.watch(&only, "").await?;
            if namespaces.get_opt(name).await?.is_none() {
                return anyhow::Ok(started.elapsed());
            }
            while let Some(Ok(event)) = events.next().await {
                if matches!(event, Event::Deleted(_)) {
                    return Ok(started.elapsed());
                }
            }
        }
    };
    soon("the Namespace is gone", gone).await?
}
