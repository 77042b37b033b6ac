//! `knarr down`: ends a cluster and takes away everything that it made on this machine, also after a crash.

use crate::{cli::Down, cluster::Cluster, kubeconfig, preflight, progress::Steps, up};
use anyhow::{Context as _, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::time::{Duration, Instant};

/// For the running process to end by itself.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between two looks at whether it has: its lock is the sign, and a lock cannot be awaited with a limit.
const LOOK: Duration = Duration::from_millis(20);

/// Runs the command.
pub async fn run(down: &Down) -> anyhow::Result<()> {
    up::log();
    preflight::root()?;
    let steps = Steps::new();
    let cluster = Cluster::find(&down.which.name, down.which.data_dir.as_deref())?;
    if !cluster.data.exists() && !cluster.run.exists() {
        bail!("there is no cluster {:?}: nothing in {} and {}", cluster.name, cluster.data.display(), cluster.run.display());
    }
    end(&cluster, &steps).await?;
    cluster.make_directories()?;
    let lock = cluster.lock()?;

    let runtime = runtime::Runtime::open(cluster.runtime(None)).await.context("the container runtime")?;
    let (pods, images) = (runtime.sandboxes().len(), runtime.images().len());
    runtime.purge().await.context("the pods")?;
    steps.done(&format!("{pods} pods removed"));
    let mark = network::Mark::new(&cluster.name);
    tokio::task::spawn_blocking(move || network::pod::purge(&mark)).await?.context("the pod network")?;
    steps.done("links, addresses and rules removed");
    kubelet::purge(&cluster.data.join("kubelet")).context("the pods' volumes")?;
    if !down.keep_data {
        remove(&cluster.data)?;
        steps.done(&format!("data removed from {}, {images} images with it", cluster.data.display()));
    }
    drop(lock);
    remove(&cluster.run)?;
    kubeconfig::remove(&kubeconfig::path(down.which.kubeconfig.as_deref())?, &cluster.name)?;
    steps.done(&format!("the cluster {:?} is gone", cluster.name));
    Ok(())
}

/// Ends the process that runs the cluster.
async fn end(cluster: &Cluster, steps: &Steps) -> anyhow::Result<()> {
    let Some(pid) = cluster.running() else { return Ok(()) };
    let pid = Pid::from_raw(pid);
    for (signal, patience) in [(Signal::SIGTERM, PATIENCE), (Signal::SIGKILL, PATIENCE)] {
        steps.now(&format!("ending process {pid}"));
        match kill(pid, signal) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
            Err(error) => bail!("process {pid}, which runs the cluster, cannot be ended: {error}"),
        }
        let started = Instant::now();
        while started.elapsed() < patience {
            if cluster.running().is_none() {
                steps.done(&format!("process {pid} ended"));
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    bail!("process {pid}, which runs the cluster, does not end")
}

fn remove(directory: &std::path::Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).with_context(|| format!("cannot remove {}", directory.display())),
        _ => Ok(()),
    }
}
