//! What a request costs: `apibench` (which uses the Go client that users have) against knarr and against the original
//! kube-apiserver with etcd, in turn, in one run. Without `--whole` knarr runs its API server alone, as the original does.

use crate::{Options, peer::Peer, stats::median};
use anyhow::{Context as _, bail};
use cluster_tests::Cluster;
use serde_json::Value;
use std::{
    path::Path,
    process::{Command, Stdio},
};

/// One phase's figures of one round.
struct Phase {
    name: String,
    values: Value,
}

/// Runs the program.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let apibench = options.path("apibench").context("--apibench names the program that makes the requests")?;
    let rounds = options.number("rounds", 2_usize)?;
    let n = options.number("objects", 2000_usize)?.to_string();
    let content = options.text("content").unwrap_or("json");
    let whole = options.flag("whole");
    let alone = ["--port", "7443", "--disable", "scheduler,controllers,kubelet,proxy,dns"];
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    // Each round begins with nothing on both sides; only one of them runs at a time.
    for _ in 0..rounds {
        let mut cluster = Cluster::new("bench-api").with(if whole { &alone[..2] } else { &alone });
        cluster.start(&[]).assert_ok();
        let phases = bench(&apibench, cluster.kubeconfig(), &cluster.pid().to_string(), &n, content);
        cluster.down();
        ours.extend(phases?);
        if let Some(peer) = Peer::of(options)? {
            peer.up()?;
            theirs.extend(bench(&apibench, &peer.kubeconfig(), &peer.pids()?, &n, content)?);
        }
    }
    let parts = if whole { "with all its parts" } else { "its API server alone" };
    println!("{n} objects, {content}, {rounds} rounds in turn (medians); knarr runs {parts}\n");
    table(&ours, &theirs);
    Ok(())
}

fn bench(apibench: &Path, kubeconfig: &Path, pids: &str, n: &str, content: &str) -> anyhow::Result<Vec<Phase>> {
    let mut command = Command::new(apibench);
    command.arg("-kubeconfig").arg(kubeconfig).args(["-pids", pids, "-n", n, "-content", content]);
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("apibench failed");
    }
    let text = String::from_utf8(output.stdout)?;
    text.lines()
        .map(|line| {
            let values: Value = serde_json::from_str(line)?;
            let errors = values["errors"].as_u64().unwrap_or(0);
            // A server that refuses is quick: its figures say nothing.
            if errors > 0 {
                bail!("{} of {}: {errors} errors, first: {}", values["phase"], kubeconfig.display(), values["first_error"]);
            }
            Ok(Phase { name: values["phase"].as_str().unwrap_or_default().to_owned(), values })
        })
        .collect()
}

fn table(ours: &[Phase], theirs: &[Phase]) {
    println!("{:<15} {:>32} {:>27} {:>23}", "", "CPU a request, µs", "requests a second", "p99, ms");
    println!("{:<15} {:>9} {:>12} {:>9} {:>13} {:>13} {:>11} {:>11}", "phase", "knarr", "original", "ratio", "knarr", "original", "knarr", "original");
    let mut names: Vec<&str> = Vec::new();
    for phase in ours {
        if !names.contains(&phase.name.as_str()) {
            names.push(&phase.name);
        }
    }
    for name in names {
        let of = |phases: &[Phase], field: &str| median(phases.iter().filter(|p| p.name == name).filter_map(|p| p.values[field].as_f64()).collect());
        let (cpu, per_second, p99) = ("cpu_us_per_op", "per_second", "p99_ms");
        println!(
            "{name:<15} {:>9.0} {:>12.0} {:>9.2} {:>13.0} {:>13.0} {:>11.1} {:>11.1}",
            of(ours, cpu),
            of(theirs, cpu),
            of(ours, cpu) / of(theirs, cpu),
            of(ours, per_second),
            of(theirs, per_second),
            of(ours, p99),
            of(theirs, p99),
        );
    }
}
