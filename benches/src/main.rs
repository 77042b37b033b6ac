//! `cargo xtask bench NAME`: the figures of docs/performance.md, each measured by one program that prints its conditions
//! and, where there is a peer, measures it in the same run.
//!
//! The program under test is the one that `KNARR` names (the task sets it to the release build). Clusters have names,
//! ports and folders of their own and are taken down at the end.

mod api;
mod conditions;
mod containers;
mod controllers;
mod custom;
mod engines;
mod footprint;
mod nodes;
mod peer;
mod pods;
mod probes;
mod process;
mod size;
mod start;
mod stats;
mod tls;
mod unpack;
mod volumes;

use anyhow::bail;
use std::{path::PathBuf, process::ExitCode, str::FromStr};

const USAGE: &str = "\
usage: KNARR=PROGRAM benches NAME [OPTION…]
  start      process start to API ready, node Ready, DNS answering     --rounds 20
  pods       pod created to Ready, one at a time and 30 at once        --rounds 50 --image IMAGE --podbench PROGRAM
             --import ARCHIVE
  volumes    claim and pod created to Ready on a new volume; a StatefulSet with claims, in order
             --rounds 20 --sets 5 --replicas 10 --size 1Gi --image IMAGE --import ARCHIVE
  footprint  memory, idle CPU and idle disk writes                     --pods 20 --seconds 60
  nodes      three nodes from nothing; a node added and its first pod, what an idle one weighs; pod to pod across nodes and machines; a Service of
             1,000 endpoints that change; a node that dies; many at once
             --rounds 5 --adds 5 --seconds 2 --changes 20 --services 1000 --many 50 --only start,add,path,vxlan,services,dead,many
  api        CPU of a request, requests a second, latency; beside the original kube-apiserver and etcd
             --apibench PROGRAM --peer SCRIPT --peer-bin FOLDER --rounds 2 --objects 2000 --content json --whole
  custom     custom objects, policies and definitions, beside the original kube-apiserver and etcd
             --peer SCRIPT --peer-bin FOLDER --objects 2000 --definitions 500 --only first,life,policies,webhooks,many
  controllers  a Deployment of 1,000 pods, a Job of 1,000 completions, a Namespace of 10,000 objects deleted, 1,000 autoscalers, beside
             the original
             --rounds 3 --replicas 1000 --completions 1000 --parallelism 100 --objects 10000 --autoscalers 1000 --kills 0
             --peer SCRIPT --peer-bin FOLDER
  engines    what a durable write costs on fjall and on redb           --seconds 3
  containers a container's whole life, beside runc                     --rounds 50 --runc PROGRAM
  unpack     an image of 1 GiB in ten layers, beside containerd        --rounds 3 --mebibytes 1024 --peer SCRIPT --peer-bin FOLDER
  probes     100 pods with an exec probe a second, beside the original --pods 100 --seconds 60 --image IMAGE --import ARCHIVE
             --peer SCRIPT --peer-bin FOLDER (KIT for its images)
  size       the release program";

/// Options of one program: `--name value` and `--name`.
pub struct Options(Vec<String>);

impl Options {
    /// What was given for a name, or the default.
    pub fn number<T: FromStr>(&self, name: &str, default: T) -> anyhow::Result<T> {
        match self.text(name) {
            Some(text) => text.parse().map_err(|_| anyhow::anyhow!("--{name} {text}: not a number")),
            None => Ok(default),
        }
    }

    /// What was given for a name.
    pub fn text(&self, name: &str) -> Option<&str> {
        let at = self.0.iter().position(|o| o.strip_prefix("--") == Some(name))?;
        self.0.get(at + 1).map(String::as_str)
    }

    /// The same as a path.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    /// Whether a name was given.
    pub fn flag(&self, name: &str) -> bool {
        self.0.iter().any(|o| o.strip_prefix("--") == Some(name))
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_default();
    let options = Options(arguments.collect());
    match run(&name, &options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(name: &str, options: &Options) -> anyhow::Result<()> {
    let program: fn(&Options) -> anyhow::Result<()> = match name {
        "start" => start::run,
        "pods" => pods::run,
        "volumes" => volumes::run,
        "footprint" => footprint::run,
        "nodes" => nodes::run,
        "api" => api::run,
        "containers" => containers::run,
        "controllers" => controllers::run,
        "custom" => custom::run,
        "unpack" => unpack::run,
        "probes" => probes::run,
        "engines" => engines::run,
        "size" => size::run,
        _ => bail!(USAGE),
    };
    if name != "engines" && std::env::var_os("KNARR").is_none() {
        bail!("KNARR names the program to measure; `cargo xtask bench {name}` builds it and sets it");
    }
    conditions::print(name);
    program(options)
}
