//! What a cluster weighs while nothing happens: memory without pods and for each idle pod, CPU and disk writes.

use crate::{
    Options, pods,
    process::{self, Memory},
};
use cluster_tests::{Cluster, IMAGE};
use k8s_openapi::api::core::v1::Pod;
use std::{thread::sleep, time::Duration};

/// After a start or a change, until what it set off has ended.
const SETTLE: Duration = Duration::from_secs(10);

/// Runs the program.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let (count, seconds) = (options.number("pods", 20_u32)?, options.number("seconds", 60_u32)?);
    let mut cluster = Cluster::new("bench-weight").with(&["--port", "7443"]);
    cluster.start(&[]).assert_ok();
    let pid = cluster.pid();
    sleep(SETTLE);
    let empty = process::memory(pid)?;
    println!("{:<40} {:>9} {:>9} {:>9}", "memory, KiB", "RSS", "PSS", "anonymous");
    line("knarr, no pods (it is one process)", empty);
    idle("no pods", &[pid], seconds);

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let client = {
        let _inside = runtime.enter();
        client::Client::from_kubeconfig(cluster.kubeconfig())?
    };
    let names: Vec<String> = (0..count).map(|n| format!("idle-{n}")).collect();
    runtime.block_on(async {
        pods::account(&client).await;
        pods::create(&client.namespaced::<Pod>("default"), IMAGE, &names).await
    })?;
    sleep(SETTLE);
    let full = process::memory(pid)?;
    let shims = process::shims(&cluster.name);
    let mut held = Memory::default();
    for shim in &shims {
        held += process::memory(*shim)?;
    }
    println!("\n{:<40} {:>9} {:>9} {:>9}", format!("memory with {count} pods, KiB"), "RSS", "PSS", "anonymous");
    line("knarr", full);
    line(&format!("{} shims together", shims.len()), held);
    let share = |all: u64, before: u64| all.saturating_sub(before) / u64::from(count.max(1));
    let each = Memory {
        rss: share(full.rss + held.rss, empty.rss),
        pss: share(full.pss + held.pss, empty.pss),
        anonymous: share(full.anonymous + held.anonymous, empty.anonymous),
    };
    line("each pod: its shim and knarr's growth", each);
    let all: Vec<i32> = shims.iter().copied().chain([pid]).collect();
    idle(&format!("{count} idle pods, with their shims"), &all, seconds);
    cluster.down();
    Ok(())
}

fn line(name: &str, memory: Memory) {
    println!("{name:<40} {:>9} {:>9} {:>9}", memory.rss, memory.pss, memory.anonymous);
}

/// What these processes use together while nothing happens.
fn idle(with: &str, pids: &[i32], seconds: u32) {
    let used = || (pids.iter().map(|pid| process::cpu(*pid)).sum::<Duration>(), pids.iter().map(|pid| process::written(*pid)).sum::<u64>());
    let (cpu, written) = used();
    sleep(Duration::from_secs(seconds.into()));
    let (cpu_after, written_after) = used();
    let share = (cpu_after - cpu).as_secs_f64() / f64::from(seconds) * 100.0;
    let bytes = (written_after - written) as f64 / f64::from(seconds);
    println!("{:<40} {share:.3} % of a core", format!("CPU over {seconds} s, {with}"));
    println!("{:<40} {bytes:.0} bytes a second", format!("disk writes over {seconds} s, {with}"));
}
