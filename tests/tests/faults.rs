//! What happens to nodes: their processes are killed, their links cut, their disks full, their clocks wrong. What runs goes on where it
//! can, what cannot is replaced in the original's time, and nothing runs twice.

use client::{Event, ListParams, Meta as _, Patch, PatchParams};
use cluster_tests::{
    Cluster, IMAGE, PATIENCE, host, knarr,
    netns::Beside,
    process::{self, Running},
    small::Small,
    watching,
    workers::{Cut, Dead},
};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node, Pod},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

/// For a node to be silent, and for the lease that breaks the silence to stand; the original's are 50 s and 40.
const GRACE: Duration = Duration::from_secs(16);
const LEASE_S: u64 = 4;
/// For one request under load.
const LOAD_PATIENCE: Duration = Duration::from_secs(3);
/// How long the pods stay on a node that is silent.
const STAY_S: u64 = 1;

fn nodes(name: &str, grace: Duration, nodes: u32) -> Cluster {
    let (count, grace, lease) = (nodes.to_string(), format!("{}s", grace.as_secs()), LEASE_S.to_string());
    let mut cluster = Cluster::new(name).with(&[
        "--nodes",
        &count,
        "--node-monitor-grace-period",
        &grace,
        "--node-lease-duration-seconds",
        &lease,
        "--node-status-update-frequency=1s",
        "--eviction-pressure-transition-period=1s",
    ]);
    cluster.start(&[]).assert_ok();
    cluster
}

/// What pods of both kinds have in common: each node has as many as another.
fn template(app: &str) -> Value {
    let stay = |key: &str| json!({"key": format!("node.kubernetes.io/{key}"), "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": STAY_S});
    json!({"metadata": {"labels": {"app": app}}, "spec": {
        "automountServiceAccountToken": false,
        "tolerations": [stay("unreachable"), stay("not-ready")],
        "topologySpreadConstraints": [{"topologyKey": "kubernetes.io/hostname", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule",
            "nodeTaintsPolicy": "Honor", "labelSelector": {"matchLabels": {"app": app}}, "matchLabelKeys": ["pod-template-hash"]}],
        "containers": [{"name": "web", "image": IMAGE, "args": ["web"],
            "resources": {"requests": {"cpu": "1m"}},
            "readinessProbe": {"httpGet": {"port": 8080, "path": "/healthz"}, "periodSeconds": 1},
            "lifecycle": {"preStop": {"exec": {"command": ["/knarr", "demo", "drain", "3"]}}}}]}})
}

fn set(kind: &str, name: &str, replicas: usize) -> Value {
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template(name)}})
}

fn service() -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"type": "NodePort", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}})
}

/// The URL of the Service on each node.
fn urls(cluster: &Cluster) -> [String; 3] {
    let port = cluster.value("get service web", "{.spec.ports[0].nodePort}");
    let ips = cluster.value("get nodes", "{.items[*].status.addresses[?(@.type=='InternalIP')].address}");
    let urls: Vec<String> = ips.split_whitespace().map(|ip| format!("http://{ip}:{port}/whoami")).collect();
    urls.try_into().expect("three nodes")
}

/// Requests at all URLs in turn, on new connections and on kept ones, until it is told to end.
fn load(beside: &Beside, urls: &[String], rate: u32) -> Running {
    let mut command = Command::new(knarr());
    command.args(["demo", "load", "--quiet", "--seconds=0", "--connections=new,keepalive"]);
    command.arg(format!("--timeout-ms={}", LOAD_PATIENCE.as_millis()));
    command.args(urls.iter().map(|url| format!("--url={url}"))).arg(format!("--rate={rate}")).arg("--netns").arg(beside.path());
    Running::start(&mut command)
}

fn report(load: Running) -> Value {
    load.signal(Signal::SIGTERM);
    let (lines, _) = load.end(PATIENCE);
    serde_json::from_str(lines.last().expect("a report")).expect("the report is JSON")
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// Waits until the pods of a label are as wanted.
fn until_pods(cluster: &Cluster, limit: Duration, app: &str, what: &str, wanted: impl Fn(&BTreeMap<String, Pod>) -> bool) {
    cluster.until_all(limit, &cluster.client().namespaced::<Pod>("default"), &ListParams::labels(format!("app={app}")), what, wanted);
}

/// So many are ready elsewhere, and none that was there stays.
fn replaced(pods: &BTreeMap<String, Pod>, lost: &str, replicas: usize) -> bool {
    let there: Vec<_> = pods.values().filter(|pod| !pod.is_deleting()).collect();
    there.len() == replicas && there.iter().all(|pod| is_ready(pod) && node_of(pod) != lost)
}

/// So many are ready, and no other is left.
fn settled(pods: &BTreeMap<String, Pod>, replicas: usize) -> bool {
    pods.len() == replicas && pods.values().all(|pod| is_ready(pod) && !pod.is_deleting())
}

/// What must stay the same while nobody asks for anything else.
fn facts(cluster: &Cluster) -> BTreeMap<String, Value> {
    let list = cluster.json("get pods");
    let of = |pod: &Value| {
        let container = &pod["status"]["containerStatuses"][0];
        json!([pod["metadata"]["uid"], pod["spec"]["nodeName"], container["containerID"], container["restartCount"]])
    };
    list["items"].as_array().expect("pods").iter().map(|pod| (pod["metadata"]["name"].as_str().expect("a name").to_owned(), of(pod))).collect()
}

/// How many containers really run.
fn running(cluster: &Cluster) -> usize {
    host::containers(&cluster.name).values().filter(|line| line.contains("demo web")).count()
}

/// Whether a node is Ready, and since when.
fn ready(cluster: &Cluster, node: &str) -> String {
    cluster.value(&format!("get node {node}"), "{range .status.conditions[?(@.type=='Ready')]}{.status} {.lastTransitionTime}{end}")
}

/// Whether a node's condition says so.
fn says(event: &Event<Node>, condition: &str, wanted: &str) -> bool {
    let (Event::Added(node) | Event::Modified(node)) = event else { return false };
    node.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.type_ == condition && c.status == wanted)
}

/// Waits until a node's condition says so.
fn until_node(cluster: &Cluster, node: &str, condition: &str, wanted: &str) {
    let params = ListParams::fields(format!("metadata.name={node}"));
    cluster.until(&cluster.client().all::<Node>(), &params, &format!("{condition} of node {node} is {wanted}"), |event| says(event, condition, wanted));
}

/// Waits until a node's lease is renewed once more than it is now.
fn until_renewed(cluster: &Cluster, node: &str) {
    let mut first = None;
    let leases = cluster.client().namespaced::<Lease>("kube-node-lease");
    cluster.until(&leases, &ListParams::fields(format!("metadata.name={node}")), "the lease is renewed", |event| {
        let (Event::Added(lease) | Event::Modified(lease)) = event else { return false };
        let time = lease.spec.as_ref().and_then(|spec| spec.renew_time.clone());
        *first.get_or_insert_with(|| time.clone()) != time
    });
}

/// The name of the last of three nodes.
fn third(cluster: &Cluster) -> String {
    cluster.value("get nodes", "{.items[2].metadata.name}")
}

#[test]
fn a_node_cut_off_for_a_while_keeps_its_pods_and_for_long_has_them_replaced_but_not_run_twice() {
    // Longer than its lease stands. What it sends meanwhile is sent again after 3, 6 and 13 seconds: after the cut there is time for that.
    const SHORT: Duration = Duration::from_secs(5);
    let cluster = nodes("fault-cut", GRACE, 3);
    cluster.apply(&set("Deployment", "web", 3).to_string());
    cluster.apply(&set("StatefulSet", "db", 3).to_string());
    cluster.kubectl("rollout status deployment/web statefulset/db --timeout=55s");
    let (last, before, processes) = (third(&cluster), facts(&cluster), host::containers(&cluster.name));
    let since = ready(&cluster, &last);
    assert!(since.starts_with("True"), "{since}");

    let cut = Cut::new(&cluster, 3);
    std::thread::sleep(SHORT);
    drop(cut);
    until_renewed(&cluster, &last);
    assert_eq!((ready(&cluster, &last), facts(&cluster), host::containers(&cluster.name)), (since, before.clone(), processes.clone()));

    let (cut, begun) = (Cut::new(&cluster, 3), Instant::now());
    until_node(&cluster, &last, "Ready", "Unknown");
    assert!(begun.elapsed() + Duration::from_secs(LEASE_S) >= GRACE, "{:?} after the cut are too early", begun.elapsed());
    until_pods(&cluster, PATIENCE, "web", "pods of a silent node are replaced", |pods| replaced(pods, &last, 3));
    // On the other side of the cut they run on; and of a StatefulSet no second one is started as long as nobody knows of the first.
    until_pods(&cluster, PATIENCE, "db", "the set's pod is to go", |pods| pods.len() == 3 && pods.values().any(|pod| pod.is_deleting()));
    let told = facts(&cluster);
    assert!(before.iter().filter(|(name, _)| name.starts_with("db-")).all(|(name, own)| told.get(name) == Some(own)), "{told:#?}");
    let now = host::containers(&cluster.name);
    assert!(processes.keys().all(|process| now.contains_key(process)), "{processes:#?} and then {now:#?}");
    drop(cut);
    until_node(&cluster, &last, "Ready", "True");
    for app in ["web", "db"] {
        until_pods(&cluster, PATIENCE, app, "all are there once", |pods| settled(pods, 3));
    }
    assert_eq!(running(&cluster), 6, "{:#?}", host::containers(&cluster.name));
}

#[test]
fn pods_of_a_node_whose_kubelet_and_shims_were_killed_are_replaced_and_its_return_brings_none_twice() {
    let cluster = nodes("fault-dead", GRACE, 3);
    cluster.apply(&set("Deployment", "web", 6).to_string());
    cluster.kubectl("rollout status deployment/web --timeout=55s");
    let last = third(&cluster);
    let others: BTreeMap<_, _> = facts(&cluster).into_iter().filter(|(_, own)| own[1] != *last).collect();
    assert_eq!(others.len(), 4);

    let (dead, begun) = (Dead::new(&cluster, 3), Instant::now());
    until_pods(&cluster, PATIENCE, "web", "pods of a dead node are replaced", |pods| replaced(pods, &last, 6));
    let took = begun.elapsed();
    eprintln!(
        "replaced {:.1} s after the end of their node, of which it was waited {} s for the node and {STAY_S} s for them",
        took.as_secs_f64(),
        GRACE.as_secs()
    );
    assert!(took + Duration::from_secs(LEASE_S) >= GRACE + Duration::from_secs(STAY_S), "{took:?} are too early");
    let told = facts(&cluster);
    assert!(others.iter().all(|(name, own)| told.get(name) == Some(own)), "{others:#?} and then {told:#?}");
    assert_eq!(running(&cluster), 6);

    drop(dead);
    until_node(&cluster, &last, "Ready", "True");
    until_pods(&cluster, PATIENCE, "web", "all are there once", |pods| settled(pods, 6));
    assert_eq!(running(&cluster), 6, "{:#?}", host::containers(&cluster.name));
}

#[test]
fn workers_serve_while_nobody_rules_them_and_nothing_restarts_when_somebody_does() {
    let mut cluster = nodes("fault-plane", GRACE, 3);
    cluster.apply(&set("Deployment", "web", 6).to_string());
    cluster.apply(&service().to_string());
    cluster.kubectl("rollout status deployment/web --timeout=55s");
    let (before, processes, beside) = (facts(&cluster), host::containers(&cluster.name), Beside::new());
    let load = load(&beside, &urls(&cluster), 200);
    cluster.kill();
    // Longer than a node may be silent.
    std::thread::sleep(GRACE + Duration::from_secs(2));
    cluster.start(&[]).assert_ok();
    for node in cluster.value("get nodes", "{.items[*].metadata.name}").split_whitespace() {
        until_renewed(&cluster, node);
    }
    assert_eq!((facts(&cluster), host::containers(&cluster.name)), (before, processes));
    let report = report(load);
    assert!(report["ok"].as_u64() > Some(1000) && report["failed"] == 0, "{report}");
    assert_eq!(report["pods"].as_object().map(serde_json::Map::len), Some(6), "all of them serve: {report}");
}

#[test]
fn a_full_disk_of_one_node_moves_its_pods_and_concerns_no_other() {
    let mut cluster = nodes("fault-disk", GRACE, 2);
    let small = Small::new(&cluster.data().join("nodes/3"), 64);
    process::run(&mut cluster.knarr(&["node", "add"]), &[], PATIENCE).assert_ok();
    cluster.apply(&set("Deployment", "web", 6).to_string());
    cluster.kubectl("rollout status deployment/web --timeout=55s");
    let last = third(&cluster);
    let others: BTreeMap<_, _> = facts(&cluster).into_iter().filter(|(_, own)| own[1] != *last).collect();
    assert_eq!(others.len(), 4);

    let filler = small.fill();
    until_node(&cluster, &last, "DiskPressure", "True");
    let elsewhere = |pods: &BTreeMap<String, Pod>| pods.values().filter(|pod| is_ready(pod) && !pod.is_deleting() && node_of(pod) != last).count() == 6;
    until_pods(&cluster, PATIENCE, "web", "pods leave a full disk", elsewhere);
    let told = facts(&cluster);
    assert!(others.iter().all(|(name, own)| told.get(name) == Some(own)), "{others:#?} and then {told:#?}");
    std::fs::remove_file(filler).expect("it is there");
    until_node(&cluster, &last, "DiskPressure", "False");
    // It is used again.
    cluster.kubectl("scale deployment/web --replicas=9");
    until_pods(&cluster, PATIENCE, "web", "pods come again", |pods| pods.values().any(|pod| is_ready(pod) && !pod.is_deleting() && node_of(pod) == last));

    // Else the mount would be in the way of the end.
    cluster.kubectl("delete deployment/web --cascade=foreground --timeout=55s");
    cluster.kubectl("delete pods --all --timeout=55s");
    let pid = cluster.pid();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGTERM).expect("it runs");
    gone(pid);
    drop(small);
    cluster.down();
}

/// Waits until a process that is no child of ours has ended.
fn gone(pid: i32) {
    let begun = Instant::now();
    while Path::new(&format!("/proc/{pid}")).exists() {
        assert!(begun.elapsed() < PATIENCE, "process {pid} does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A kubelet whose clock is apart shows itself by its lease and its heartbeats, and by nothing else; so one that only writes these, with
/// times of its own, is such a node as far as anybody else can see.
#[test]
fn a_node_whose_clock_is_minutes_apart_lives_as_long_as_it_is_heard() {
    const SHORT: Duration = Duration::from_secs(5);
    let cluster = nodes("fault-clock", SHORT, 1);
    let client = cluster.client();
    let (all, leases) = (client.all::<Node>(), client.namespaced::<Lease>("kube-node-lease"));
    let clocks = [("late", -600_i64), ("early", 600)];
    for (name, offset_s) in clocks {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"unschedulable": true}});
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
            "spec": {"holderIdentity": name, "leaseDurationSeconds": LEASE_S, "renewTime": micros(offset_s)}});
        let told = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
            "lastHeartbeatTime": seconds(offset_s), "lastTransitionTime": seconds(offset_s)}]}});
        cluster.block_on("a node", async {
            all.create(&client::typed::<Node>(&node).expect("a node")).await.expect("a node");
            all.patch_status(name, &Patch::Merge(told), &PatchParams::default()).await.expect("its status");
            leases.create(&client::typed::<Lease>(&lease).expect("a lease")).await.expect("a lease");
        });
    }
    // Renewed for three times as long as a node may be silent, each second.
    let turned = |name: &str| ready(&cluster, name);
    let before = clocks.map(|(name, _)| turned(name));
    cluster.block_on("renewals", async {
        for _ in 0..3 * SHORT.as_secs() {
            for (name, offset_s) in clocks {
                let renewal = Patch::Merge(json!({"spec": {"renewTime": micros(offset_s)}}));
                leases.patch(name, &renewal, &PatchParams::default()).await.expect("a renewal");
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    assert_eq!(clocks.map(|(name, _)| turned(name)), before, "a clock that is apart is no silence");
    // And one that is ahead lives no longer.
    for (name, _) in clocks {
        until_node(&cluster, name, "Ready", "Unknown");
    }
}

fn seconds(offset_s: i64) -> Value {
    let mut time = client::now();
    time.0 += k8s_openapi::jiff::SignedDuration::from_secs(offset_s);
    json!(time)
}

fn micros(offset_s: i64) -> Value {
    let mut time = client::now_micro();
    time.0 += k8s_openapi::jiff::SignedDuration::from_secs(offset_s);
    json!(time)
}

#[test]
fn a_roll_out_while_a_node_dies_loses_nothing_but_what_went_to_that_node() {
    const REPLICAS: usize = 30;
    let cluster = nodes("fault-roll", GRACE, 3);
    cluster.apply(&set("Deployment", "web", REPLICAS).to_string());
    cluster.apply(&service().to_string());
    until_pods(&cluster, 2 * PATIENCE, "web", "all are ready", |pods| settled(pods, REPLICAS));
    let (last, beside) = (third(&cluster), Beside::new());
    // One for each node, so that it is known whose ports they came to.
    let (loads, began) = (urls(&cluster).map(|url| load(&beside, &[url], 50)), Instant::now());
    cluster.kubectl("set image deployment/web web=knarr.local/shop:v2");
    let image = |pod: &Pod| pod.spec.iter().flat_map(|spec| &spec.containers).any(|container| container.image.as_deref() == Some("knarr.local/shop:v2"));
    // In the midst of it.
    until_pods(&cluster, PATIENCE, "web", "some are new", |pods| pods.values().filter(|pod| image(pod) && is_ready(pod)).count() >= REPLICAS / 3);
    let lost: BTreeSet<String> = cluster
        .block_on("a list", cluster.client().namespaced::<Pod>("default").list(&ListParams::labels("app=web")))
        .expect("a list")
        .items()
        .iter()
        .filter(|pod| node_of(pod) == last)
        .map(|pod| pod.name().to_owned())
        .collect();
    let killed = began.elapsed();
    let _dead = Dead::new(&cluster, 3);
    let (all, dead) = (cluster.client().all::<Node>(), ListParams::fields(format!("metadata.name={last}")));
    let known = cluster.spawn(async move {
        watching::until(&all, &dead, |event| says(event, "Ready", "Unknown")).await;
        began.elapsed()
    });
    let done = |pods: &BTreeMap<String, Pod>| replaced(pods, &last, REPLICAS) && pods.values().filter(|pod| !pod.is_deleting()).all(image);
    until_pods(&cluster, 2 * PATIENCE, "web", "all are new, and elsewhere", done);
    let rolled = began.elapsed();
    // Until those that were replaced last have drained, and their proxies' turn is over.
    std::thread::sleep(Duration::from_secs(5));
    // What was on its way to it when that was told, and until each node's proxy has heard of it.
    let known = cluster.block_on("the node is taken for dead", known).expect("the watch") + LOAD_PATIENCE;
    eprintln!("node 3 killed after {killed:?}, known to be dead before {known:?}, rolled out after {rolled:?}");
    for (node, load) in (1..).zip(loads) {
        let report = report(load);
        eprintln!("node {node}: {report}");
        let time = |which: &str| report["failed_ms"][which].as_u64().map(Duration::from_millis);
        // What was on its way when the node died; a request counts from the moment at which it was due.
        assert!(time("first").is_none_or(|first| first + LOAD_PATIENCE >= killed), "before the node died: {report}");
        // To others' ports, what was sent on to its pods until it was taken for dead. Nobody keeps the rules of its own ports any more.
        assert!(node == 3 || time("last").is_none_or(|last| last <= known), "after it was known that the node is dead ({known:?}): {report}");
        // On kept connections the generator knows whose they were.
        let named: BTreeSet<String> = report["failed_pods"].as_object().expect("counts").keys().cloned().collect();
        assert!(node == 3 || named.is_subset(&lost), "others than those of the dead node failed: {named:?} of {lost:?}");
        let reasons: Vec<&String> = report["failures"].as_object().expect("counts").keys().collect();
        assert!(!reasons.iter().any(|reason| reason.starts_with("status") || reason.contains("body")), "an answer was wrong: {report}");
        assert!(report["versions"]["v1"].as_u64() > Some(0) && report["versions"]["v2"].as_u64() > Some(0), "{report}");
    }
}
