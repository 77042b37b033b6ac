//! What storage costs: from the requests that create a claim and a pod with it to a watch that shows the pod Ready on the new
//! volume, and from the request that creates a StatefulSet to the last of its pods Ready, which come one after another, each with
//! a claim of its own. Before each round the volumes of the one before are gone.

use crate::{
    Options,
    pods::{self, NAMESPACE, PATIENCE},
    stats::Samples,
};
use anyhow::Context as _;
use client::{Api, Client, DeleteParams, Event, ListParams};
use cluster_tests::{Cluster, IMAGE};
use futures_util::{StreamExt as _, future::try_join_all};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::StorageClass,
};
use serde_json::{Value, json};
use std::{
    cell::Cell,
    collections::HashSet,
    time::{Duration, Instant},
};

/// What the rounds work with.
struct Storage {
    claims: Api<PersistentVolumeClaim>,
    pods: Api<Pod>,
    sets: Api<StatefulSet>,
    volumes: Api<PersistentVolume>,
    image: String,
    size: String,
}

/// When things had come about, since the first request.
struct Times {
    scheduled: Duration,
    ready: Duration,
}

/// Runs the program.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let (rounds, sets, replicas): (usize, usize, usize) = (options.number("rounds", 20)?, options.number("sets", 5)?, options.number("replicas", 10)?);
    let (image, size) = (options.text("image").unwrap_or(IMAGE), options.text("size").unwrap_or("1Gi"));
    let mut cluster = Cluster::new("bench-volumes").with(&["--port", "7443"]);
    cluster.start(&[]).assert_ok();
    if let Some(archive) = options.text("import") {
        pods::import(&cluster, archive)?;
    }
    let client = cluster.client();
    let work = async {
        tokio::time::timeout(PATIENCE, pods::account(&client)).await.context("no service account")?;
        println!("volumes  of {size}, class {}; pods of {image}", classes(&client).await?);
        let storage = Storage::new(&client, image, size);
        storage.one_at_a_time(rounds).await?;
        storage.sets(sets, replicas).await
    };
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?.block_on(work)?;
    cluster.down();
    Ok(())
}

/// The classes of the cluster with what they bind: the claims name none of them.
async fn classes(client: &Client) -> anyhow::Result<String> {
    let list = client.all::<StorageClass>().list(&ListParams::default()).await?;
    let all = list.into_items().into_iter();
    let lines = all.map(|c| format!("{} ({}, {})", c.metadata.name.unwrap_or_default(), c.provisioner, c.volume_binding_mode.unwrap_or_default()));
    Ok(lines.collect::<Vec<_>>().join(", "))
}

impl Storage {
    fn new(client: &Client, image: &str, size: &str) -> Self {
        Self {
            claims: client.namespaced(NAMESPACE),
            pods: client.namespaced(NAMESPACE),
            sets: client.namespaced(NAMESPACE),
            volumes: client.all(),
            image: image.to_owned(),
            size: size.to_owned(),
        }
    }

    async fn one_at_a_time(&self, rounds: usize) -> anyhow::Result<()> {
        // What a cluster does for its first volume alone is shown apart.
        let first = self.one("first").await?;
        let (mut scheduled, mut ready) = (Samples::default(), Samples::default());
        for round in 0..rounds {
            let times = self.one(&format!("one-{round}")).await?;
            scheduled.add(times.scheduled);
            ready.add(times.ready);
        }
        println!("{}", Samples::head("claim and pod created to …, ms"));
        println!("{:<40} {:>9.1}", "Ready, the first volume of a cluster", first.ready.as_secs_f64() * 1000.0);
        println!("{}", scheduled.line("the pod has its node"));
        println!("{}\n", ready.line("Ready"));
        Ok(())
    }

    /// A claim and then a pod, as a manifest has them.
    async fn one(&self, name: &str) -> anyhow::Result<Times> {
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({"metadata": {"name": name}, "spec": self.claim()}))?;
        let mut spec = self.pod();
        spec["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": name}}]);
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}))?;
        let names = [name.to_owned()];
        let events = pods::watch(&self.pods).await?;
        let (started, scheduled) = (Instant::now(), Cell::new(None));
        let seen = pods::until(events, &names, |event| {
            let Event::Modified(pod) = event else { return false };
            if scheduled.get().is_none() && pod.spec.as_ref().is_some_and(|s| s.node_name.is_some()) {
                scheduled.set(Some(started.elapsed()));
            }
            pods::ready(pod)
        });
        self.claims.create(&claim).await?;
        let (created, seen) = tokio::join!(self.pods.create(&pod), seen);
        let ready = started.elapsed();
        created?;
        seen?;
        pods::delete(&self.pods, &names).await?;
        self.release().await?;
        Ok(Times { scheduled: scheduled.get().context("Ready without a node")?, ready })
    }

    async fn sets(&self, rounds: usize, replicas: usize) -> anyhow::Result<()> {
        let mut samples = Samples::default();
        for round in 0..rounds {
            samples.add(self.set(&format!("set-{round}"), replicas).await?);
        }
        println!("{}", Samples::head("StatefulSet created to …, ms"));
        println!("{}\n", samples.line(&format!("all Ready, {replicas} pods in order")));
        Ok(())
    }

    /// A StatefulSet, until all its pods are Ready.
    async fn set(&self, name: &str, replicas: usize) -> anyhow::Result<Duration> {
        let set: StatefulSet = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {
                "serviceName": name, "replicas": replicas, "podManagementPolicy": "OrderedReady",
                "selector": {"matchLabels": {"app": name}},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": self.claim()}],
                "template": {"metadata": {"labels": {"app": name}}, "spec": self.pod()},
            },
        }))?;
        let names: Vec<String> = (0..replicas).map(|n| format!("{name}-{n}")).collect();
        let events = pods::watch(&self.pods).await?;
        let started = Instant::now();
        let seen = pods::until(events, &names, |event| matches!(event, Event::Modified(pod) if pods::ready(pod)));
        let (created, seen) = tokio::join!(self.sets.create(&set), seen);
        let time = started.elapsed();
        created?;
        seen?;
        self.sets.delete(name, &DeleteParams { propagation: Some(client::Propagation::Orphan), ..DeleteParams::default() }).await?;
        pods::delete(&self.pods, &names).await?;
        self.release().await?;
        Ok(time)
    }

    /// Deletes all claims; returns when a watch has shown their volumes gone.
    async fn release(&self) -> anyhow::Result<()> {
        let (claims, volumes) = (self.claims.list(&ListParams::default()).await?, self.volumes.list(&ListParams::default()).await?);
        let mut events = self.volumes.watch(&ListParams::default(), volumes.resource_version()).await?;
        let mut there: HashSet<_> = volumes.into_items().into_iter().map(|v| v.metadata.name).collect();
        let (claims, now) = (claims.into_items(), DeleteParams::default());
        try_join_all(claims.iter().filter_map(|c| c.metadata.name.as_deref()).map(|name| self.claims.delete(name, &now))).await?;
        let all = async {
            while !there.is_empty() {
                if let Event::Deleted(volume) = events.next().await.context("the watch ended")?? {
                    there.remove(&volume.metadata.name);
                }
            }
            Ok(())
        };
        tokio::time::timeout(PATIENCE, all).await.context("volumes stay")?
    }

    fn claim(&self) -> Value {
        json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": self.size}}})
    }

    /// A pod that does nothing, with a volume named `data`.
    fn pod(&self) -> Value {
        json!({"containers": [{
            "name": "main", "image": self.image, "args": ["pause"], "imagePullPolicy": "IfNotPresent",
            "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}},
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        }]})
    }
}
