//! Waiting for what a manifest asks for: every Deployment of it is rolled out when its pods are updated and available.
//! While it waits it tells how far things are; if it waits in vain, it tells what the pods say.

use crate::{
    manifest::{self, Object},
    progress::Steps,
};
use anyhow::bail;
use client::{Client, Delta, Informer, Informers};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use machinery::Value;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Applies the objects in order and waits until the Deployments among them are rolled out.
pub async fn apply(client: &Client, objects: &[Object], steps: &Steps, patience: Duration) -> anyhow::Result<()> {
    let mut wanted = Vec::new();
    for object in objects {
        steps.now(&format!("applying {}", object.title()));
        let applied = manifest::apply(client, object).await?;
        if applied["kind"] == "Deployment" {
            wanted.push(applied);
        }
    }
    steps.done(&format!("{} objects applied", objects.len()));
    if wanted.is_empty() {
        return Ok(());
    }
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let informers = Informers::new(client.clone(), stop);
    let waiting = rolled_out(&informers, &wanted, steps);
    if tokio::time::timeout(patience, waiting).await.is_err() {
        let reasons = reasons(&informers, &wanted).await;
        bail!("the roll-out is not finished after {} s:\n{}", patience.as_secs(), reasons.join("\n"));
    }
    Ok(())
}

async fn rolled_out(informers: &Informers, wanted: &[Value], steps: &Steps) {
    let deployments: Informer<Deployment> = informers.informer();
    let pods: Informer<Pod> = informers.informer();
    let (mut changes, mut pod_changes) = (deployments.subscribe(), pods.subscribe());
    let mut finished: Vec<bool> = vec![false; wanted.len()];
    loop {
        let mut now = Vec::new();
        for (at, object) in wanted.iter().enumerate() {
            let (namespace, name) = names(object);
            let Some(deployment) = deployments.get(namespace, name) else { continue };
            let (done, of) = state(&deployment, object);
            if done == of && !finished[at] {
                finished[at] = true;
                steps.done(&format!("{namespace}/{name}: {of} of {of} pods ready"));
            } else if done != of {
                now.push(format!("{namespace}/{name} {done}/{of}"));
            }
        }
        if finished.iter().all(|f| *f) {
            return;
        }
        steps.now(&now.join(", "));
        let more = tokio::select! {
            change = changes.recv() => change.is_some(),
            change = pod_changes.recv() => { if let Some(change) = change { tell(&change, wanted, steps); } true }
        };
        if !more {
            return;
        }
    }
}

/// On the passing line: what a pod is waiting for.
fn tell(change: &Delta<Pod>, wanted: &[Value], steps: &Steps) {
    let pod = change.object();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if wanted.iter().any(|o| names(o).0 == namespace)
        && let Some(why) = waiting(pod)
    {
        steps.now(&why);
    }
}

fn names(object: &Value) -> (&str, &str) {
    let metadata = &object["metadata"];
    (metadata["namespace"].as_str().unwrap_or("default"), metadata["name"].as_str().unwrap_or_default())
}

/// Pods that are updated and available, of those wanted.
fn state(deployment: &Arc<Deployment>, applied: &Value) -> (i32, i32) {
    let of = deployment.spec.replicas.unwrap_or(1);
    let status = deployment.status.clone().unwrap_or_default();
    if status.observed_generation < applied["metadata"]["generation"].as_i64() {
        return (0, of.max(1));
    }
    let (updated, available) = (status.updated_replicas.unwrap_or(0), status.available_replicas.unwrap_or(0));
    let old = status.replicas.unwrap_or(0) - updated;
    (if old > 0 { updated.min(available).min(of - 1) } else { updated.min(available) }, of)
}

/// Why a pod is not ready, in the words of its status.
fn waiting(pod: &Pod) -> Option<String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let status = pod.status.as_ref()?;
    let conditions = status.conditions.iter().flatten();
    let unscheduled = conditions.clone().find(|c| c.type_ == "PodScheduled" && c.status == "False");
    if let Some(condition) = unscheduled {
        return Some(format!("{name}: {}", condition.message.as_deref().unwrap_or("is not scheduled")));
    }
    let containers = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    for container in containers.filter(|c| !c.ready) {
        let state = container.state.as_ref()?;
        if let Some(waiting) = &state.waiting {
            let message = waiting.message.as_deref().unwrap_or_default();
            return Some(format!("{name}/{}: {} {message}", container.name, waiting.reason.as_deref().unwrap_or("waiting")));
        }
        if let Some(ended) = &state.terminated {
            return Some(format!("{name}/{}: ended with {} ({})", container.name, ended.exit_code, ended.reason.as_deref().unwrap_or("no reason")));
        }
    }
    let ready = conditions.clone().find(|c| c.type_ == "Ready" && c.status != "True")?;
    Some(format!("{name}: {}", ready.message.as_deref().unwrap_or("is not ready")))
}

/// What the pods of the wanted namespaces that are not ready say.
async fn reasons(informers: &Informers, wanted: &[Value]) -> Vec<String> {
    let pods: Informer<Pod> = informers.informer();
    let mut all: Vec<String> = wanted.iter().flat_map(|o| pods.list_namespace(names(o).0)).filter_map(|p| waiting(&p)).map(|why| format!("  {why}")).collect();
    all.sort();
    all.dedup();
    if all.is_empty() {
        all.push("  no pod says why; `kubectl get events -A` may".to_owned());
    }
    all
}
