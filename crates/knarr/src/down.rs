//! `knarr down`: ends a cluster and takes away everything that it made on this machine, also after a crash; nothing else.

use crate::{
    cli::Down,
    cluster::{self, Cluster, Work},
    kubeconfig,
    log::log,
    preflight,
    progress::Steps,
    starting, supervisor, volumes, worker,
};
use anyhow::{Context as _, bail};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// For the running process to end by itself.
const PATIENCE: Duration = Duration::from_secs(15);
/// From taking the lock to saying what for.
const SAYS: Duration = Duration::from_secs(1);
/// Further nodes that are taken away at a time: each waits for the kernel most of the time.
const AT_ONCE: usize = 8;
/// Between two looks at whether it has: its lock is the sign, and a lock cannot be awaited with a limit.
const LOOK: Duration = Duration::from_millis(20);

/// Runs the command.
pub async fn run(down: &Down) -> anyhow::Result<()> {
    log();
    preflight::root()?;
    let steps = Steps::new();
    let find = || Cluster::find(&down.which.name, down.which.data_dir.as_deref());
    let mut cluster = find()?;
    let mark = network::Mark::new(&cluster.name);
    begun(&cluster, &steps).await?;
    if !cluster.exists()? {
        // A part that ran alone leaves rules and no directory.
        let left = tokio::task::spawn_blocking(move || network::pod::purge(&mark)).await?.context("the rules")?;
        if left == 0 {
            bail!("there is no cluster {:?}: nothing in {} and {}", cluster.name, cluster.data.display(), cluster.run.display());
        }
        steps.done("links, addresses and rules removed");
        return Ok(());
    }
    let lock = loop {
        end(&cluster, &steps).await?;
        // One that had just been started says since where its data is.
        cluster = find()?;
        if !cluster.exists()? {
            // By another.
            steps.done(&format!("the cluster {:?} is gone", cluster.name));
            return Ok(());
        }
        match cluster.lock(Work::Ends).await {
            // Somebody has started it since, or takes it away.
            Err(_) if cluster.running().is_some() => {}
            lock => break lock?,
        }
    };
    cluster.claim()?;
    let known = cluster.contexts();

    supervisor::end_all(&cluster).await?;
    let numbers = cluster.node_numbers();
    if !down.keep_data && !numbers.is_empty() {
        // Their volumes go first of all: a start would find its claims bound, and nothing behind them.
        cluster::begin_removal(&cluster.data);
    }
    let discards = numbers.into_iter().map(|number| {
        let (cluster, steps) = (&cluster, &steps);
        async move {
            worker::discard(cluster, number, down.keep_data).await.with_context(|| format!("node {number}"))?;
            steps.done(&format!("node {number} removed"));
            anyhow::Ok(())
        }
    });
    stream::iter(discards).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    let runtime = runtime::Runtime::open(cluster.runtime(None)).await.context("the container runtime")?;
    let (pods, images) = (runtime.sandboxes().len(), runtime.images().len());
    runtime.purge().await.context("the pods")?;
    steps.done(&format!("{pods} pods removed"));
    tokio::task::spawn_blocking(move || network::pod::purge(&mark)).await?.context("the pod network")?;
    steps.done("links, addresses and rules removed");
    kubelet::purge(&cluster.data.join("kubelet")).context("the pods' volumes")?;
    volume::disk::purge(&volumes::directory(&cluster.data)).context("the volumes' devices")?;
    kubelet::graceful::purge(&cluster.name).context("logind's settings")?;
    forget(&cluster, down.which.kubeconfig.as_deref(), &known);
    if !down.keep_data {
        let left = cluster::remove_known(&cluster.data)?;
        steps.done(&format!("data removed from {}, {images} images with it", cluster.data.display()));
        if !left.is_empty() {
            steps.say(&format!("          kept, since knarr did not make it: {} in {}", left.join(", "), cluster.data.display()));
        }
    }
    cluster.remove_run(lock)?;
    steps.done(&format!("the cluster {:?} is gone", cluster.name));
    Ok(())
}

/// Takes the cluster's context out of every kubeconfig that has it. One that cannot be changed keeps nothing alive.
fn forget(cluster: &Cluster, given: Option<&Path>, known: &[kubeconfig::Written]) {
    let usual = kubeconfig::path(given).ok().and_then(|p| std::path::absolute(p).ok());
    let mut files: Vec<_> = known.iter().map(|w| w.path.clone()).chain(usual).collect();
    files.sort();
    files.dedup();
    for file in files {
        if let Err(error) = kubeconfig::remove(&file, &cluster.name, known) {
            tracing::warn!("the context {:?} stays: {error:#}", cluster.name);
        }
    }
}

/// Waits until whoever is about to start the cluster has something of it, or has ended: then it can be ended in order.
async fn begun(cluster: &Cluster, steps: &Steps) -> anyhow::Result<()> {
    let since = Instant::now();
    while !cluster.exists()?
        && let Some(process) = starting::process(&cluster.name)
    {
        if since.elapsed() > PATIENCE {
            bail!("process {process} is about to start the cluster {:?} and does not begin: end it first", cluster.name);
        }
        steps.now(&format!("waiting for process {process}, which starts the cluster"));
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Ends the process that runs the cluster, or waits for the one that takes it away already: that may take its time, and ended in the
/// midst of it would leave half of it.
async fn end(cluster: &Cluster, steps: &Steps) -> anyhow::Result<()> {
    let begun = Instant::now();
    let number = loop {
        let Some(number) = cluster.running() else { return Ok(()) };
        match cluster.work(number) {
            Some(Work::Runs) => break number,
            Some(Work::Ends) => steps.now(&format!("waiting for process {number}, which takes the cluster away")),
            // It has the lock and is about to write what for.
            None if begun.elapsed() < SAYS => {}
            None => break number,
        }
        tokio::time::sleep(LOOK).await;
    };
    let pid = Pid::from_raw(number);
    for (signal, patience) in [(Signal::SIGTERM, PATIENCE), (Signal::SIGKILL, PATIENCE)] {
        steps.now(&format!("ending process {pid}"));
        // The kernel says that it is the holder; whoever has its number afterwards is not meant.
        if cluster.running() == Some(number) {
            match kill(pid, signal) {
                Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
                Err(error) => bail!("process {pid}, which runs the cluster, cannot be ended: {error}"),
            }
        }
        let started = Instant::now();
        while started.elapsed() < patience {
            if cluster.running() != Some(number) {
                steps.done(&format!("process {pid} ended"));
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    bail!("process {pid}, which runs the cluster, does not end")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_that_takes_the_cluster_away_is_waited_for() {
        let dir = std::env::temp_dir().join(format!("knarr-down-{}", std::process::id()));
        // Of a run with the same number that was killed.
        let _ = std::fs::remove_dir_all(&dir);
        let cluster = Cluster { name: "down".into(), data: dir.join("data"), run: dir.join("run") };
        std::fs::create_dir_all(&cluster.run).unwrap();
        // By this process, which a signal would end.
        let held = cluster.lock(Work::Ends).await.unwrap();
        let (other, steps) = (cluster.clone(), Steps::new());
        let waiting = tokio::spawn(async move { end(&other, &steps).await });
        tokio::time::sleep(10 * LOOK).await;
        assert!(!waiting.is_finished());
        drop(held);
        waiting.await.unwrap().unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
