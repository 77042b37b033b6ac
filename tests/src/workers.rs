//! The further nodes of a cluster on this machine, and what may happen to them.

use crate::{Cluster, PATIENCE, process, words};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// The process that runs a further node.
#[must_use]
pub fn pid(cluster: &Cluster, number: u32) -> Option<i32> {
    fs::read_to_string(cluster.run_folder().join(format!("nodes/{number}/lock"))).ok()?.trim().parse().ok()
}

/// The shims of its pods.
#[must_use]
pub fn shims(cluster: &Cluster, number: u32) -> Vec<i32> {
    let mark = format!("/run/knarr/{}/nodes/{number}/", cluster.name);
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let holds = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<_> = line.split(|b| *b == 0).map(String::from_utf8_lossy).collect();
        words.get(1).is_some_and(|word| word == "shim") && words.iter().any(|word| word.contains(&mark))
    };
    pids.filter(holds).collect()
}

/// A further node that is dead: its process and its shims were killed, and it does not come again until this value is dropped.
pub struct Dead {
    log: PathBuf,
}

impl Dead {
    /// Kills it.
    #[must_use]
    pub fn new(cluster: &Cluster, number: u32) -> Self {
        // Its supervisor starts it again, but for a log that cannot be written.
        let log = cluster.data().join(format!("nodes/{number}/knarr.log"));
        fs::rename(&log, log.with_extension("before")).expect("the node has a log");
        fs::create_dir(&log).expect("the node's folder");
        // Its process first, to its end: it may be about to start another shim.
        if let Some(pid) = pid(cluster, number) {
            let (begun, there) = (Instant::now(), PathBuf::from(format!("/proc/{pid}")));
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            while there.exists() {
                assert!(begun.elapsed() < PATIENCE, "process {pid} does not end");
                thread::sleep(Duration::from_millis(1));
            }
        }
        for pid in shims(cluster, number) {
            // Who has ended by the others' end is gone.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        Self { log }
    }
}

impl Drop for Dead {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.log);
    }
}

/// A further node from which nothing comes any more, by a rule in its network namespace; the node does not know.
pub struct Cut {
    space: PathBuf,
}

impl Cut {
    /// Cuts its link.
    #[must_use]
    pub fn new(cluster: &Cluster, number: u32) -> Self {
        let cut = Self { space: cluster.run_folder().join(format!("nodes/{number}/netns")) };
        // Tokens for one byte: no packet has enough.
        cut.tc("add dev knarr0 root tbf rate 1kbit burst 1 limit 1").assert_ok();
        // The lane to other further nodes, where the kernel has one.
        cut.tc("add dev knarr1 root tbf rate 1kbit burst 1 limit 1");
        cut
    }

    fn tc(&self, line: &str) -> process::Output {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.space.display())).args(["tc", "qdisc"]).args(words(line));
        process::run(&mut command, &[], PATIENCE)
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        let joined = self.tc("del dev knarr0 root");
        self.tc("del dev knarr1 root");
        if !std::thread::panicking() {
            joined.assert_ok();
        }
    }
}
