//! Many autoscalers, each of a Deployment with one pod: what a period of them costs while nothing changes, and how long it takes until
//! all have scaled up when what pods use doubles. This program tells pods running, and serves what they use (`measured.rs`).

use super::{NAMESPACE, WORKERS, measured, node, soon};
use crate::{process, stats::Samples};
use client::{Client, DeleteParams, Event, ListParams, Meta as _, Patch, PatchParams};
use cluster_tests::watching;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::{apps::v1::Deployment, autoscaling::v2::HorizontalPodAutoscaler, core::v1::Pod};
use serde_json::json;
use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

/// The autoscalers' period.
const PERIOD: Duration = Duration::from_secs(15);
/// So many are measured, with autoscalers and without.
const PERIODS: u32 = 3;
/// Of what is made, until all that follows from it has happened.
const SETTLE: Duration = Duration::from_secs(10);
/// What a pod asks for and at first uses half of, as its autoscaler wants it.
const REQUEST_MILLI: u32 = 100;
/// The label of all that is made here.
const MARK: &str = "group=autoscaled";

/// What was measured.
pub(super) struct Figures {
    /// CPU in a period, the servers' included: before there were autoscalers, and with them.
    idle: Duration,
    busy: Duration,
    /// From when what pods use doubles until each Deployment is to have twice as many.
    scaled: Samples,
}

impl Figures {
    pub(super) fn print(&self, who: &str, count: usize) {
        let [idle, busy] = [self.idle, self.busy].map(|time| time.as_secs_f64() * 1e3);
        println!("{count} autoscalers, CPU in {PERIOD:?}: {who}: {:.0} ms ({busy:.0} less {idle:.0} without them)", busy - idle);
        println!("{}", self.scaled.line(&format!("load doubled → replicas doubled: {who}")));
    }
}

/// Measures so many.
pub(super) async fn measure(client: &Client, pids: &[i32], count: usize) -> anyhow::Result<Figures> {
    let deployments = client.namespaced::<Deployment>(NAMESPACE);
    let deployment = |n: usize| -> serde_json::Result<Deployment> {
        let labels = json!({"app": format!("scaled-{n}"), "group": "autoscaled"});
        let mut spec = node::pod_spec("Always");
        spec["containers"][0]["resources"]["requests"]["cpu"] = json!(format!("{REQUEST_MILLI}m"));
        let template = json!({"metadata": {"labels": labels}, "spec": spec});
        serde_json::from_value(json!({"metadata": {"name": format!("scaled-{n}"), "labels": labels},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": labels["app"]}}, "template": template}}))
    };
    let create = |n: usize| {
        let (deployments, deployment) = (&deployments, &deployment);
        async move {
            deployments.create(&deployment(n)?).await?;
            anyhow::Ok(())
        }
    };
    stream::iter(0..count).map(create).buffer_unordered(WORKERS).try_collect::<()>().await?;
    let pods = running(client, count).await?;
    let usage = Arc::new(measured::Usage { pods, milli: (REQUEST_MILLI / 2).into() });
    measured::serve(client, usage.clone()).await?;
    tokio::time::sleep(SETTLE).await;
    let idle = cpu(pids).await;
    let autoscalers = client.namespaced::<HorizontalPodAutoscaler>(NAMESPACE);
    let create = |n: usize| {
        let autoscalers = &autoscalers;
        async move {
            autoscalers.create(&autoscaler(n)?).await?;
            anyhow::Ok(())
        }
    };
    stream::iter(0..count).map(create).buffer_unordered(WORKERS).try_collect::<()>().await?;
    let marked = ListParams::labels(MARK);
    let mut active = HashSet::new();
    let work = watching::until(&autoscalers, &marked, |event| {
        if let Event::Added(one) | Event::Modified(one) = event
            && is_active(one)
        {
            active.insert(one.name().to_owned());
        }
        active.len() == count
    });
    soon("all autoscalers work", work).await?;
    tokio::time::sleep(PERIOD + SETTLE).await;
    let busy = cpu(pids).await;
    let scaled = doubled(client, &usage, count).await?;
    autoscalers.delete_collection(&DeleteParams::background(), &marked).await?;
    deployments.delete_collection(&DeleteParams::background(), &marked).await?;
    Ok(Figures { idle, busy, scaled })
}

/// CPU that processes use in a period: the least of some, since what was set off before only adds to it.
async fn cpu(pids: &[i32]) -> Duration {
    let used = || pids.iter().map(|pid| process::cpu(*pid)).sum::<Duration>();
    let mut least = Duration::MAX;
    for _ in 0..PERIODS {
        let before = used();
        tokio::time::sleep(PERIOD).await;
        least = least.min(used() - before);
    }
    least
}

/// Tells each pod that is made running for an hour; their names by the value of the label `app`.
async fn running(client: &Client, count: usize) -> anyhow::Result<BTreeMap<String, Vec<String>>> {
    let pods = client.namespaced::<Pod>(NAMESPACE);
    let hour_ago = k8s_openapi::jiff::Timestamp::now() - k8s_openapi::jiff::SignedDuration::from_hours(1);
    let since = hour_ago.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let condition = json!({"type": "Ready", "status": "True", "lastTransitionTime": since});
    let status = Patch::Merge(json!({"status": {"phase": "Running", "startTime": since, "conditions": [condition]}}));
    let mut names = BTreeMap::<String, Vec<String>>::new();
    let marked = ListParams::labels(MARK);
    let there = watching::until(&pods, &marked, |event| {
        if let Event::Added(pod) = event
            && let Some(app) = pod.metadata.labels.as_ref().and_then(|labels| labels.get("app"))
        {
            names.insert(app.clone(), vec![pod.name().to_owned()]);
        }
        names.len() == count
    });
    soon("the pods are there", there).await?;
    let tell = |name: &String| {
        let (pods, status, name) = (&pods, &status, name.clone());
        async move {
            pods.patch_status(&name, status, &PatchParams::default()).await?;
            anyhow::Ok(())
        }
    };
    stream::iter(names.values().flatten()).map(tell).buffer_unordered(WORKERS).try_collect::<()>().await?;
    Ok(names)
}

fn autoscaler(n: usize) -> serde_json::Result<HorizontalPodAutoscaler> {
    let name = format!("scaled-{n}");
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": name});
    let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}});
    serde_json::from_value(json!({"metadata": {"name": name, "labels": {"group": "autoscaled"}},
        "spec": {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 10, "metrics": [cpu]}}))
}

/// Whether an autoscaler has read its metric.
fn is_active(one: &HorizontalPodAutoscaler) -> bool {
    let conditions = one.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "ScalingActive" && c.status == "True")
}

/// What pods use doubles: how long until each Deployment is to have two.
async fn doubled(client: &Client, usage: &measured::Usage, count: usize) -> anyhow::Result<Samples> {
    let deployments = client.namespaced::<Deployment>(NAMESPACE);
    let (mut samples, mut seen) = (Samples::default(), HashSet::new());
    usage.milli.store(REQUEST_MILLI, Ordering::Relaxed);
    let begun = Instant::now();
    let marked = ListParams::labels(MARK);
    let twice = watching::until(&deployments, &marked, |event| {
        if let Event::Added(one) | Event::Modified(one) = event
            && one.spec.replicas == Some(2)
            && seen.insert(one.name().to_owned())
        {
            samples.add(begun.elapsed());
        }
        seen.len() == count
    });
    soon("all have twice as many", twice).await?;
    Ok(samples)
}
