//! API, control plane and node stand in rooms of their own: whoever is busy in one of them does not keep the others waiting.
//! That threads are not shared is shown beside the rooms themselves (`rooms.rs`); this is how it looks from outside.

use client::{Client, ListParams, Patch, PatchParams};
use cluster_tests::{Cluster, PATIENCE};
use http::Request;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Pod},
};
use serde_json::json;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// What a probe or a small write may take while others are busy.
const SOON: Duration = Duration::from_millis(50);
/// What a controller or the node may take to see and to answer a change while others are busy.
const MOVED: Duration = Duration::from_millis(500);
/// A machine that is busy with other things is slow at rest as well: so many times its own reading is granted.
const SLOWER_MAX: u32 = 20;
/// A machine may be taken away for a while in the middle of a reading; whoever starves does so every time.
const TRIES: usize = 4;
const READINGS: usize = 40;

/// One thing that is to go on, whoever is busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    /// `/readyz`.
    Ready,
    /// A small write.
    Write,
    /// A controller sees a Deployment's change and says so.
    Controllers,
    /// The API reaches the kubelet, and it answers.
    Node,
}

impl Probe {
    fn limit(self) -> Duration {
        match self {
            Probe::Ready | Probe::Write => SOON,
            Probe::Controllers | Probe::Node => MOVED,
        }
    }

    fn readings(self) -> usize {
        match self {
            Probe::Ready | Probe::Write => READINGS,
            Probe::Controllers | Probe::Node => READINGS / 4,
        }
    }

    async fn once(self, client: &Client, node: &str) {
        match self {
            Probe::Ready => get(client, "/readyz").await,
            Probe::Node => get(client, &format!("/api/v1/nodes/{node}/proxy/healthz")).await,
            Probe::Write => {
                let stamp = Patch::Merge(json!({"data": {"at": format!("{:?}", Instant::now())}}));
                client.namespaced::<ConfigMap>("default").patch("probe", &stamp, &PatchParams::default()).await.expect("a write");
            }
            Probe::Controllers => {
                let api = client.namespaced::<Deployment>("default");
                let change = Patch::Merge(json!({"spec": {"minReadySeconds": Instant::now().elapsed().subsec_nanos() % 500, "paused": null,
                    "template": {"metadata": {"annotations": {"at": format!("{:?}", Instant::now())}}}}}));
                let wanted = api.patch("probe", &change, &PatchParams::default()).await.expect("a change").metadata.generation;
                let params = ListParams { field_selector: "metadata.name=probe".into(), ..ListParams::default() };
                let observed = |event: &client::Event<Deployment>| match event {
                    client::Event::Added(d) | client::Event::Modified(d) => d.status.as_ref().and_then(|s| s.observed_generation) >= wanted,
                    _ => false,
                };
                cluster_tests::watching::until(&api, &params, observed).await;
            }
        }
    }

    /// What nine of ten take no longer than.
    async fn reading(self, client: &Client, node: &str) -> Duration {
        let mut all = Vec::new();
        for _ in 0..self.readings() {
            let begun = Instant::now();
            self.once(client, node).await;
            all.push(begun.elapsed());
        }
        all.sort_unstable();
        all[all.len() * 9 / 10 - 1]
    }
}

async fn get(client: &Client, path: &str) {
    client.raw(Request::get(path).body(bytes::Bytes::new()).expect("a request")).await.unwrap_or_else(|e| panic!("{path}: {e}"));
}

/// Asserts that the probes go on while `busy` says that somebody is kept busy; `begin` keeps him so.
fn go_on(cluster: &Cluster, who: &str, probes: &[Probe], node: &str, begin: impl Fn() -> Busy) {
    let client = cluster.client();
    for probe in probes {
        let mut told = Vec::new();
        let soon = (0..TRIES).any(|_| {
            let idle = cluster.block_on("a reading at rest", probe.reading(&client, node));
            let busy = begin();
            let reading = cluster.block_on("a reading", probe.reading(&client, node));
            drop(busy);
            told.push((idle, reading));
            reading < probe.limit().max(idle * SLOWER_MAX)
        });
        eprintln!("{who} busy, {probe:?} at rest and then: {told:?}");
        assert!(soon, "{probe:?} waits for {who}: {told:?}");
    }
}

/// Somebody is busy until this is dropped.
struct Busy(Box<dyn FnMut()>);

impl Drop for Busy {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[test]
fn nobody_waits_for_the_others_work() {
    let cluster = Cluster::up("starve", &[]);
    let node = cluster.value("get nodes", "{.items[0].metadata.name}");
    cluster.kubectl("create configmap probe");
    cluster.kubectl("create deployment probe --image=none --replicas=0");

    // The API: as many as it has threads, and more, ask for everything there is, in the form that costs most.
    let list = "/apis/rbac.authorization.k8s.io/v1/clusterroles?pretty=1";
    go_on(&cluster, "the API", &[Probe::Controllers, Probe::Node], &node, || {
        let stop = Arc::new(AtomicBool::new(false));
        let all: Vec<_> = (0..16)
            .map(|_| {
                let (client, stop) = (cluster.client(), stop.clone());
                cluster.spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        get(&client, list).await;
                    }
                })
            })
            .collect();
        Busy(Box::new(move || {
            stop.store(true, Ordering::Relaxed);
            all.iter().for_each(tokio::task::JoinHandle::abort);
        }))
    });

    // The control plane: pods by the hundred that fit nowhere.
    let pods = cluster.client().namespaced::<Pod>("default");
    let made = AtomicUsize::new(0);
    let many = |replicas: u32, spec: &str| {
        let n = made.fetch_add(1, Ordering::Relaxed);
        let name = format!("many-{n}");
        let template = format!("{{metadata: {{labels: {{many: '{n}'}}}}, spec: {{terminationGracePeriodSeconds: 0, {spec}}}}}");
        cluster.apply(&format!(
            "apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {{name: {name}}}\nspec: {{replicas: {replicas}, selector: {{matchLabels: {{many: '{n}'}}}}, template: {template}}}\n"
        ));
        let params = ListParams { label_selector: format!("many={n}"), ..ListParams::default() };
        cluster.until(&pods, &params, "the first of many", |_| true);
        name
    };
    go_on(&cluster, "the control plane", &[Probe::Ready, Probe::Write, Probe::Node], &node, || {
        let name = many(400, "nodeSelector: {no: where}, containers: [{name: c, image: none}]");
        let command = cluster.kubectl_command(&["delete", "replicaset", &name, "--cascade=foreground", "--wait=false"]);
        gone_at_end(command)
    });

    // The node: more pods at once than it has processors.
    go_on(&cluster, "the node", &[Probe::Ready, Probe::Write, Probe::Controllers], &node, || {
        let name = many(12, &format!("containers: [{{name: c, image: '{}', args: [sleep, '600']}}]", cluster_tests::IMAGE));
        let command = cluster.kubectl_command(&["delete", "replicaset", &name, "--cascade=foreground", "--wait=false"]);
        gone_at_end(command)
    });
    cluster.kubectl("delete replicasets,deployments --all --cascade=foreground --timeout=55s");
}

fn gone_at_end(mut command: std::process::Command) -> Busy {
    Busy(Box::new(move || drop(cluster_tests::process::run(&mut command, &[], PATIENCE).assert_ok())))
}
