//! Work in another network namespace.

use anyhow::{Context as _, anyhow};
use nix::sched::{CloneFlags, setns};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    thread::JoinHandle,
};

/// Starts a thread that works in a network namespace.
pub fn start<T: Send + 'static>(space: &Path, work: impl FnOnce() -> anyhow::Result<T> + Send + 'static) -> anyhow::Result<JoinHandle<anyhow::Result<T>>> {
    let (name, file) = (space.display().to_string(), File::open(space).with_context(|| space.display().to_string())?);
    Ok(std::thread::spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET).with_context(|| name)?;
        work()
    }))
}

/// What such a thread brings.
pub fn end<T>(thread: JoinHandle<anyhow::Result<T>>) -> anyhow::Result<T> {
    thread.join().map_err(|_| anyhow!("a thread in a network namespace panicked"))?
}

/// Network namespaces of the pods of a cluster's node.
pub fn of_pods(cluster: &str, node: u32) -> Vec<PathBuf> {
    // The first node's are beside those of the others.
    let group = if node == 1 { format!(":/{cluster}/kubepods") } else { format!(":/{cluster}/node-{node}/kubepods") };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let inside = |path: &PathBuf| fs::read_to_string(path.join("cgroup")).is_ok_and(|groups| groups.lines().any(|line| line.contains(&group)));
    processes.filter(inside).map(|path| path.join("ns/net")).collect()
}
