//! What a hundred pods with an exec probe every second cost: busy time of the whole machine, less what it was busy before,
//! with knarr, and with the original's kubelet and containerd in the same run if `--peer` is given. The machine's time and not some
//! processes', since most of it is spent by processes that live for milliseconds (shims' children, runc, the probe itself).

use crate::{Options, peer::Peer, pods};
use anyhow::Context as _;
use client::{Client, DeleteParams};
use cluster_tests::Cluster;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use std::{fs, path::Path, thread::sleep, time::Duration};

const SETTLE: Duration = Duration::from_secs(15);
const NAMESPACE: &str = "default";

/// Runs the program.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let (count, seconds) = (options.number("pods", 100_u32)?, options.number("seconds", 60_u64)?);
    let image = options.text("image").context("--image names an image with /bin/true that both have, e.g. one of the conformance suite's")?;
    let before = busy(Duration::from_secs(10))?;
    println!("machine before: {before:.2} cores busy; {count} pods, one exec probe a second each, over {seconds} s\n");
    let mut cluster = Cluster::new("bench-probes").with(&["--port", "7443"]);
    cluster.start(&[]).assert_ok();
    if let Some(archive) = options.text("import") {
        pods::import(&cluster, archive)?;
    }
    let ours = measure(cluster.kubeconfig(), image, count, seconds);
    cluster.down();
    let ours = ours?;
    println!("{:<40} {:>9.3} cores", "knarr", ours - before);
    if let Some(peer) = Peer::of(options)? {
        peer.up_node()?;
        let theirs = measure(&peer.kubeconfig(), image, count, seconds)?;
        println!("{:<40} {:>9.3} cores", "the original, with containerd and runc", theirs - before);
        println!("{:<40} {:>9.2}", "ratio", (ours - before) / (theirs - before));
    }
    Ok(())
}

/// Cores busy while the pods are probed; they are gone afterwards.
fn measure(kubeconfig: &Path, image: &str, count: u32, seconds: u64) -> anyhow::Result<f64> {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let client = {
        let _inside = tokio.enter();
        Client::from_kubeconfig(kubeconfig)?
    };
    let api = client.namespaced::<Pod>(NAMESPACE);
    tokio.block_on(async {
        pods::account(&client).await;
        for n in 0..count {
            api.create(&pod(&format!("probed-{n}"), image)?).await?;
        }
        pods::all_ready(&api, count as usize).await
    })?;
    sleep(SETTLE);
    let busy = busy(Duration::from_secs(seconds))?;
    tokio.block_on(async {
        for n in 0..count {
            api.delete(&format!("probed-{n}"), &DeleteParams::now()).await?;
        }
        anyhow::Ok(())
    })?;
    Ok(busy)
}

/// How many cores were busy on average, from now on for this long.
fn busy(time: Duration) -> anyhow::Result<f64> {
    // user, nice, system, idle, iowait, irq, softirq: hundredths of a second of all cores (proc(5)).
    let read = || -> anyhow::Result<f64> {
        let text = fs::read_to_string("/proc/stat")?;
        let fields: Vec<f64> = text.lines().next().context("a line")?.split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
        Ok(fields[0] + fields[1] + fields[2] + fields[5] + fields[6])
    };
    let before = read()?;
    sleep(time);
    Ok((read()? - before) / 100.0 / time.as_secs_f64())
}

fn pod(name: &str, image: &str) -> serde_json::Result<Pod> {
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"app": "bench"}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
            "name": "main", "image": image, "args": ["pause"], "imagePullPolicy": "IfNotPresent",
            "readinessProbe": {"exec": {"command": ["/bin/true"]}, "periodSeconds": 1, "timeoutSeconds": 5},
            "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}},
        }]},
    }))
}
