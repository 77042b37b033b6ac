//! The original kube-apiserver and etcd, started by the script that keeps them for comparison.

use crate::Options;
use anyhow::{Context as _, bail};
use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

/// The two, stopped when this is dropped.
pub struct Peer {
    script: PathBuf,
    programs: PathBuf,
    folder: PathBuf,
}

impl Peer {
    /// What `--peer SCRIPT --peer-bin FOLDER` name, if they do.
    pub fn of(options: &Options) -> anyhow::Result<Option<Self>> {
        let Some(script) = options.path("peer") else { return Ok(None) };
        let programs = options.path("peer-bin").context("--peer needs --peer-bin, the folder of kube-apiserver and etcd")?;
        let folder = std::env::temp_dir().join(format!("knarr-bench-peer-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        Ok(Some(Self { script, programs, folder }))
    }

    fn call(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.script);
        command.arg(&self.folder).args(words).env("BIN", &self.programs).stdin(Stdio::null()).stderr(Stdio::inherit());
        command
    }

    /// Starts both; what the script says of how long it took.
    pub fn up(&self) -> anyhow::Result<String> {
        let output = self.call(&["up", "etcd", "apiserver"]).output()?;
        if !output.status.success() {
            bail!("the original does not start");
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Starts the controllers beside them, with a client whose limits hold nothing up.
    pub fn up_controllers(&self) -> anyhow::Result<()> {
        let mut command = self.call(&["up", "etcd", "apiserver", "cm"]);
        command.env("CM_ARGS", "--controllers=* --kube-api-qps=100000 --kube-api-burst=100000").stdout(Stdio::null());
        // Aggregated servers are reached by their Service, which may be a name.
        command.env("API_ARGS", "--enable-aggregator-routing=false");
        if !command.status()?.success() {
            bail!("the original does not start");
        }
        Ok(())
    }

    /// Starts a whole node beside them: containerd with runc, kubelet, scheduler and controllers. `KIT` is read by the script.
    pub fn up_node(&self) -> anyhow::Result<()> {
        let parts = ["up", "etcd", "apiserver", "cm", "sched", "containerd", "images", "kubelet"];
        if !self.call(&parts).stdout(Stdio::null()).status()?.success() {
            bail!("the original's node does not start");
        }
        Ok(())
    }

    /// Starts containerd alone; its socket and the folder of its programs.
    pub fn containerd(&self) -> anyhow::Result<[PathBuf; 2]> {
        if !self.call(&["up", "containerd"]).stdout(Stdio::null()).status()?.success() {
            bail!("containerd does not start");
        }
        Ok([self.folder.join("run/containerd.sock"), self.programs.clone()])
    }

    /// Their processes.
    pub fn processes(&self) -> anyhow::Result<Vec<i32>> {
        Ok(self.pids()?.split(',').map(str::parse).collect::<Result<_, _>>()?)
    }

    /// The same, with commas.
    pub fn pids(&self) -> anyhow::Result<String> {
        Ok(String::from_utf8(self.call(&["pids"]).output()?.stdout)?.trim().to_owned())
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let down = self.call(&["down"]).stdout(Stdio::null()).status();
        if let Err(error) = down.and_then(|_| std::fs::remove_dir_all(&self.folder)) {
            eprintln!("{}: {error}", self.folder.display());
        }
    }
}
