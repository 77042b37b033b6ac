//! From the request that creates a pod to a watch that shows it Ready, the image being there: one at a time, and many at
//! once. Measured by our own client, and by `podbench`, which uses the Go client and runs against any Kubernetes.

use crate::{Options, stats::Samples};
use anyhow::{Context as _, bail};
use client::{Api, Client, DeleteParams, Event, ListParams};
use cluster_tests::{Cluster, IMAGE, watching};
use futures_util::{StreamExt as _, future::try_join_all, stream::BoxStream};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use std::{
    collections::HashSet,
    process::Command,
    time::{Duration, Instant},
};

/// Where the benches' pods are.
pub const NAMESPACE: &str = "default";
const MANY: usize = 30;
/// For what a cluster does within a second or two.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a watch of pods tells.
pub type Events = BoxStream<'static, client::Result<Event<Pod>>>;

/// Runs the program.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let rounds = options.number("rounds", 50)?;
    let image = options.text("image").unwrap_or(IMAGE);
    let mut cluster = Cluster::new("bench-pods").with(&["--port", "7443"]);
    cluster.start(&[]).assert_ok();
    if let Some(archive) = options.text("import") {
        import(&cluster, archive)?;
    }
    let client = cluster.client();
    let ours = async {
        tokio::time::timeout(PATIENCE, account(&client)).await.context("no service account")?;
        measure(&client, image, rounds).await
    };
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?.block_on(ours)?;
    if let Some(podbench) = options.path("podbench") {
        for (mode, n) in [("seq", rounds), ("burst", MANY)] {
            println!("podbench -mode {mode}");
            let mut command = Command::new(&podbench);
            command.arg("-kubeconfig").arg(cluster.kubeconfig()).args(["-mode", mode, "-n", &n.to_string(), "-image", image]);
            if !command.status()?.success() {
                bail!("podbench failed");
            }
        }
    }
    cluster.down();
    Ok(())
}

/// Brings the images of an archive in.
pub fn import(cluster: &Cluster, archive: &str) -> anyhow::Result<()> {
    let mut import = Command::new(cluster_tests::knarr());
    import.args(["image", "import", archive, "--name", &cluster.name]).arg("--data-dir").arg(cluster.data());
    if !import.status()?.success() {
        bail!("{archive} cannot be imported");
    }
    Ok(())
}

/// Waits for the namespace's service account, without which no pod is admitted.
pub async fn account(client: &Client) {
    let only = ListParams::fields("metadata.name=default");
    watching::until(&client.namespaced::<ServiceAccount>(NAMESPACE), &only, |event| matches!(event, Event::Added(_))).await;
}

async fn measure(client: &Client, image: &str, rounds: usize) -> anyhow::Result<()> {
    let pods = client.namespaced::<Pod>(NAMESPACE);
    // The first one warms nothing that a user's first pod would find warm: it is shown apart.
    let first = one(&pods, image, "first").await?;
    let mut samples = Samples::default();
    for round in 0..rounds {
        samples.add(one(&pods, image, &format!("one-{round}")).await?);
    }
    println!("{}", Samples::head("created to Ready, ms"));
    println!("{:<40} {:>9.1}", "the first pod of a cluster", first.as_secs_f64() * 1000.0);
    println!("{}", samples.line("one at a time"));
    let started = Instant::now();
    let names: Vec<String> = (0..MANY).map(|n| format!("many-{n}")).collect();
    create(&pods, image, &names).await?;
    println!("{:<40} {:>9.1}", format!("{MANY} at once, the last of them"), started.elapsed().as_secs_f64() * 1000.0);
    let started = Instant::now();
    delete(&pods, &names).await?;
    println!("{:<40} {:>9.1}\n", format!("{MANY} deleted at once, the last is gone"), started.elapsed().as_secs_f64() * 1000.0);
    Ok(())
}

async fn one(pods: &Api<Pod>, image: &str, name: &str) -> anyhow::Result<Duration> {
    let names = [name.to_owned()];
    let time = create(pods, image, &names).await?;
    delete(pods, &names).await?;
    Ok(time)
}

/// Creates pods; returns when a watch, opened before, has shown all of them Ready, with the time from the first request.
pub async fn create(pods: &Api<Pod>, image: &str, names: &[String]) -> anyhow::Result<Duration> {
    let events = watch(pods).await?;
    let objects = names.iter().map(|n| pod(n, image)).collect::<Result<Vec<_>, _>>()?;
    let started = Instant::now();
    let created = try_join_all(objects.iter().map(|p| pods.create(p)));
    let seen = until(events, names, |event| matches!(event, Event::Modified(pod) if ready(pod)));
    let (created, seen) = tokio::join!(created, seen);
    created?;
    seen?;
    Ok(started.elapsed())
}

/// Deletes pods; returns when a watch has shown all of them gone.
pub async fn delete(pods: &Api<Pod>, names: &[String]) -> anyhow::Result<()> {
    let events = watch(pods).await?;
    let now = DeleteParams::now();
    try_join_all(names.iter().map(|n| pods.delete(n, &now))).await?;
    until(events, names, |event| matches!(event, Event::Deleted(_))).await
}

/// Waits until this many pods of the namespace are Ready.
pub async fn all_ready(pods: &Api<Pod>, count: usize) -> anyhow::Result<()> {
    let mut events = pods.watch(&ListParams::default(), "").await?;
    let mut seen = HashSet::new();
    let all = async {
        while seen.len() < count {
            let event = events.next().await.context("the watch ended")??;
            if let Event::Added(pod) | Event::Modified(pod) = &event
                && ready(pod)
            {
                seen.insert(pod.metadata.name.clone());
            }
        }
        Ok(())
    };
    tokio::time::timeout(10 * PATIENCE, all).await.context("not all pods came to it")?
}

/// A watch of all pods, from now on.
pub async fn watch(pods: &Api<Pod>) -> anyhow::Result<Events> {
    let list = pods.list(&ListParams { limit: 1, ..ListParams::default() }).await?;
    Ok(pods.watch(&ListParams::default(), list.resource_version()).await?)
}

/// Waits until an event that is wanted has come for each of the names.
pub async fn until(mut events: Events, names: &[String], wanted: impl Fn(&Event<Pod>) -> bool) -> anyhow::Result<()> {
    let mut missing: HashSet<&str> = names.iter().map(String::as_str).collect();
    let all = async {
        while !missing.is_empty() {
            let event = events.next().await.context("the watch ended")??;
            if let Event::Modified(pod) | Event::Deleted(pod) = &event
                && wanted(&event)
            {
                missing.remove(pod.metadata.name.as_deref().unwrap_or_default());
            }
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, all).await.context("not all pods came to it")?
}

/// Whether a pod is Ready.
pub fn ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// A pod that does nothing: both the cluster's own image and agnhost have a command for it.
fn pod(name: &str, image: &str) -> serde_json::Result<Pod> {
    serde_json::from_value(serde_json::json!({
        "metadata": {"name": name, "labels": {"app": "bench"}},
        "spec": {"containers": [{
            "name": "main", "image": image, "args": ["pause"], "imagePullPolicy": "IfNotPresent",
            "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}},
        }]},
    }))
}
