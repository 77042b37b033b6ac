//! A node that dies: how long until it is taken for dead, and from then on until its pods run elsewhere.

use anyhow::Context as _;
use client::{Client, Event, ListParams, Meta as _};
use cluster_tests::{Cluster, IMAGE, workers::Dead};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// The original's `--node-monitor-grace-period`, which the cluster is not told otherwise.
const GRACE: Duration = Duration::from_secs(50);
const PATIENCE: Duration = Duration::from_secs(180);
const REPLICAS: usize = 9;

/// Measures it once: the grace period is most of it.
pub fn run(port: &str) -> anyhow::Result<()> {
    let mut cluster = Cluster::new("bench-dead").with(&["--port", port, "--nodes", "3"]);
    cluster.start(&[]).assert_ok();
    let stay = |key: &str| json!({"key": format!("node.kubernetes.io/{key}"), "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0});
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {
        "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0, "tolerations": [stay("unreachable"), stay("not-ready")],
        "topologySpreadConstraints": [{"topologyKey": "kubernetes.io/hostname", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule",
            "nodeTaintsPolicy": "Honor", "labelSelector": {"matchLabels": {"app": "web"}}}],
        "containers": [{"name": "web", "image": IMAGE, "args": ["web"]}]}});
    cluster.apply(
        &json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": REPLICAS, "selector": {"matchLabels": {"app": "web"}}, "template": template}})
        .to_string(),
    );
    cluster.kubectl("rollout status deployment/web --timeout=55s");
    let last = cluster.value("get nodes", "{.items[2].metadata.name}");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let client = {
        let _inside = runtime.enter();
        Client::from_kubeconfig(cluster.kubeconfig())?
    };
    let begun = Instant::now();
    let dead = Dead::new(&cluster, 3);
    let (tainted, replaced) = runtime.block_on(async { tokio::time::timeout(PATIENCE, observe(&client, &last)).await.context("nobody replaced them")? })?;
    println!("a node dead, {REPLICAS} pods on three nodes, tolerationSeconds: 0, seconds");
    println!("its end → its taint (grace period {} s from its last sign of life)   {:.2}", GRACE.as_secs(), tainted.duration_since(begun).as_secs_f64());
    println!("its taint → all pods Ready elsewhere                                 {:.2}\n", replaced.duration_since(tainted).as_secs_f64());
    drop(dead);
    cluster.down();
    Ok(())
}

/// When the node had its taint, and when so many pods were Ready elsewhere.
async fn observe(client: &Client, lost: &str) -> anyhow::Result<(Instant, Instant)> {
    let mut nodes = client.all::<Node>().watch(&ListParams::fields(format!("metadata.name={lost}")), "").await?;
    let tainted = loop {
        let event = nodes.next().await.context("the watch ended")??;
        let (Event::Added(node) | Event::Modified(node)) = event else { continue };
        let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
        if taints.into_iter().any(|taint| taint.effect == "NoExecute") {
            break Instant::now();
        }
    };
    let mut pods = client.namespaced::<Pod>("default").watch(&ListParams::labels("app=web"), "").await?;
    let mut elsewhere = BTreeMap::new();
    loop {
        let event = pods.next().await.context("the watch ended")??;
        let (Event::Added(pod) | Event::Modified(pod)) = event else { continue };
        let there = !pod.is_deleting() && super::pod_ready(&pod) && pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) != Some(lost);
        elsewhere.insert(pod.name().to_owned(), there);
        if elsewhere.values().filter(|there| **there).count() == REPLICAS {
            return Ok((tainted, Instant::now()));
        }
    }
}
