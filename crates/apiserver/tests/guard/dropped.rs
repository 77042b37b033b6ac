//! Clients that hang up: the future of each kind of write is dropped at each of its awaits, and what belongs together must
//! still agree.

use crate::support::{Cluster, admin, pod};
use apiserver::{Config, full};
use http::{Method, Request};
use identity::Trust;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    future::{Future, poll_fn},
    path::PathBuf,
    sync::Arc,
    task::Poll,
    time::Duration,
};

pub(crate) const SERVICES: &str = "/api/v1/namespaces/default/services";
pub(crate) const PODS: &str = "/api/v1/namespaces/default/pods";
pub(crate) const QUOTA: &str = "/api/v1/namespaces/default/resourcequotas/q";
const BUDGET: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets/b";
/// No write has as many awaits as that.
const AWAITS_MAX: usize = 100;
/// So often in a row no write is answered without waiting that waits at all.
const AT_ONCE_MAX: usize = 20;

/// Polls a request so many times and drops it; whether it has been answered.
pub(crate) async fn hang_up(cluster: &Cluster, polls: usize, method: Method, uri: &str, media: &str, body: &Value) -> bool {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let request = Request::builder().method(method).uri(uri).header("content-type", media).extension(Arc::new(admin()));
    let mut answer = Box::pin(cluster.api.handle(request.body(full(body)).expect("a request")));
    let mut left = polls;
    poll_fn(|cx| {
        left -= 1;
        match answer.as_mut().poll(cx) {
            Poll::Ready(response) => {
                assert!(response.status().is_success(), "{uri}: {}", response.status());
                Poll::Ready(true)
            }
            Poll::Pending if left == 0 => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Waits until the writes whose clients are gone are over.
pub(crate) async fn settled(cluster: &Cluster) {
    let look = async {
        loop {
            let metrics = cluster.get("/metrics").await.expect(200);
            if metrics.as_str().is_some_and(|text| text.contains("\nknarr_apiserver_writes_given_up 0\n")) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), look).await.expect("the writes end");
}

/// Hangs up at the first await, the second, …, until a write is answered before; `uri` and `body` by the number of the try.
pub(crate) async fn at_every_await(cluster: &Cluster, method: Method, media: &str, ask: impl AsyncFn(usize) -> (String, Value)) {
    finished_at_every_await(cluster, method, media, ask, async |_| {}).await;
}

/// The same, and what has begun is done, whoever waits for it: `done` looks at what the try was to do.
pub(crate) async fn finished_at_every_await(
    cluster: &Cluster,
    method: Method,
    media: &str,
    ask: impl AsyncFn(usize) -> (String, Value),
    done: impl AsyncFn(usize),
) {
    let (mut polls, mut answered_at_once) = (1, 0);
    for n in 1..AWAITS_MAX {
        let (uri, body) = ask(n).await;
        let answered = hang_up(cluster, polls, method.clone(), &uri, media, &body).await;
        settled(cluster).await;
        agrees(cluster).await;
        done(n).await;
        match (answered, polls) {
            (false, _) => polls += 1,
            // The disk may be done before anybody waits for it, where others hold the processor meanwhile.
            (true, 1) => {
                answered_at_once += 1;
                assert!(answered_at_once < AT_ONCE_MAX, "{method} {uri} waits for nothing, so this shows nothing");
            }
            (true, _) => return,
        }
    }
    panic!("a {method} was never answered");
}

pub(crate) async fn items(cluster: &Cluster, uri: &str) -> Vec<Value> {
    cluster.get(uri).await.expect(200)["items"].as_array().cloned().unwrap_or_default()
}

/// A quantity of CPU in thousandths.
fn amount_m(value: &Value) -> u64 {
    let text = value.as_str().unwrap_or("0");
    match text.strip_suffix('m') {
        Some(thousandths) => thousandths.parse().expect("a number"),
        None => text.parse::<u64>().expect("a number") * 1000,
    }
}

fn cpu_m(pod: &Value) -> u64 {
    pod["spec"]["containers"].as_array().into_iter().flatten().map(|c| amount_m(&c["resources"]["requests"]["cpu"])).sum()
}

/// No address or port twice; the IPAddresses are those of the Services; the quota has used what is there; the budget has
/// allowed what was evicted.
async fn agrees(cluster: &Cluster) {
    let services = items(cluster, "/api/v1/services").await;
    let mut ips = BTreeMap::new();
    let mut ports = BTreeSet::new();
    for service in &services {
        let name = format!("{}/{}", service["metadata"]["namespace"], service["metadata"]["name"]).replace('"', "");
        for ip in service["spec"]["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str).filter(|ip| *ip != "None") {
            assert!(ips.insert(ip.to_owned(), name.clone()).is_none(), "{ip} twice");
        }
        for port in service["spec"]["ports"].as_array().into_iter().flatten().filter_map(|p| p["nodePort"].as_u64()) {
            assert!(ports.insert(port), "{port} twice");
        }
    }
    let shown: BTreeMap<String, String> = items(cluster, "/apis/networking.k8s.io/v1/ipaddresses")
        .await
        .iter()
        .map(|o| {
            let parent = &o["spec"]["parentRef"];
            let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
            (text(&o["metadata"]["name"]), format!("{}/{}", text(&parent["namespace"]), text(&parent["name"])))
        })
        .collect();
    assert_eq!(shown, ips, "the IPAddresses are those of the Services");
    let pods = items(cluster, PODS).await;
    let quota = cluster.get(QUOTA).await.expect(200);
    // Nothing deletes pods here but evictions, which the quota's controller would count.
    let cpu_m: u64 = pods.iter().map(cpu_m).sum();
    if !quota["status"]["used"]["requests.cpu"].is_null() {
        assert_eq!(amount_m(&quota["status"]["used"]["requests.cpu"]), cpu_m, "the quota has used what the pods ask for");
    }
    let budget = cluster.get(BUDGET).await.expect(200);
    let disrupted = budget["status"]["disruptedPods"].as_object().cloned().unwrap_or_default();
    assert_eq!(quota["status"]["used"]["pods"].as_str(), Some((pods.len() + disrupted.len()).to_string().as_str()), "the quota has used what is there");
    assert_eq!(budget["status"]["disruptionsAllowed"].as_u64(), Some(50 - disrupted.len() as u64));
    let there = |name: &str| pods.iter().any(|p| p["metadata"]["name"] == name && p["metadata"]["deletionTimestamp"].is_null());
    assert!(disrupted.keys().all(|name| !there(name)), "what was allowed to go has gone");
}

/// A cluster with a quota and a budget, on a disk: each commit is waited for.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    directory: PathBuf,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

pub(crate) async fn world(name: &str) -> World {
    let directory = std::env::temp_dir().join(format!("apiserver-dropped-{name}-{}", std::process::id()));
    // Of a run with the same number that was killed.
    let _ = std::fs::remove_dir_all(&directory);
    let cluster = Cluster::start_over(store::Store::open(&directory, &store::Options::default()).expect("a store")).await;
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"pods": "1000"}}});
    cluster.post(QUOTA.trim_end_matches("/q"), quota).await.expect(201);
    cluster.patch(&format!("{QUOTA}/status"), json!({"status": {"hard": {"pods": "1000"}, "used": {"pods": "0"}}})).await.expect(200);
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    cluster.post(BUDGET.trim_end_matches("/b"), budget).await.expect(201);
    let status = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 50, "currentHealthy": 51, "desiredHealthy": 1, "expectedPods": 51}});
    cluster.patch(&format!("{BUDGET}/status"), status).await.expect(200);
    World { cluster, directory }
}

fn service(name: &str, kind: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"type": kind, "selector": {"app": "web"}, "ports": [{"port": 80}]}})
}

#[tokio::test]
async fn the_writes_of_services_are_whole() {
    let world = world("services").await;
    let cluster = &world.cluster;
    let json = "application/json";
    at_every_await(cluster, Method::POST, json, async |n| (SERVICES.into(), service(&format!("made-{n}"), "NodePort"))).await;
    let there = async |name: String, kind: &str| {
        cluster.post(SERVICES, service(&name, kind)).await.expect(201);
        format!("{SERVICES}/{name}")
    };
    let external = json!({"spec": {"type": "ExternalName", "externalName": "example.com", "clusterIP": null, "clusterIPs": null}});
    at_every_await(cluster, Method::PATCH, "application/merge-patch+json", async |n| (there(format!("external-{n}"), "NodePort").await, external.clone()))
        .await;
    at_every_await(cluster, Method::PATCH, "application/merge-patch+json", async |n| {
        let uri = there(format!("internal-{n}"), "NodePort").await;
        cluster.patch(&uri, external.clone()).await.expect(200);
        (uri, json!({"spec": {"type": "NodePort", "externalName": null}}))
    })
    .await;
    at_every_await(cluster, Method::PATCH, "application/apply-patch+yaml", async |n| {
        let name = format!("applied-{n}");
        (format!("{SERVICES}/{name}?fieldManager=me"), service(&name, "ClusterIP"))
    })
    .await;
    at_every_await(cluster, Method::PUT, json, async |n| {
        let uri = there(format!("put-{n}"), "ClusterIP").await;
        let mut value = cluster.get(&uri).await.expect(200);
        value["spec"]["type"] = "NodePort".into();
        (uri, value)
    })
    .await;
    at_every_await(cluster, Method::DELETE, json, async |n| (there(format!("gone-{n}"), "NodePort").await, Value::Null)).await;
    at_every_await(cluster, Method::DELETE, json, async |n| {
        there(format!("all-{n}"), "NodePort").await;
        (format!("{SERVICES}?labelSelector=app%3Dweb"), Value::Null)
    })
    .await;
    // What was freed can be had again, and what is taken cannot.
    let taken = items(cluster, SERVICES).await;
    for ip in taken.iter().filter_map(|s| s["spec"]["clusterIP"].as_str()) {
        let mut again = service("again", "ClusterIP");
        again["spec"]["clusterIP"] = ip.into();
        cluster.post(SERVICES, again).await.expect(422);
    }
}

#[tokio::test]
async fn the_writes_of_pods_are_whole() {
    let world = world("pods").await;
    let cluster = &world.cluster;
    let json = "application/json";
    at_every_await(cluster, Method::POST, json, async |n| (PODS.into(), pod(&format!("made-{n}")))).await;
    let running = async |name: String| {
        let mut pod = pod(&name);
        pod["metadata"]["labels"] = json!({"app": "web"});
        cluster.post(PODS, pod).await.expect(201);
        let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        cluster.patch(&format!("{PODS}/{name}/status"), status).await.expect(200);
    };
    at_every_await(cluster, Method::POST, json, async |n| {
        let name = format!("evicted-{n}");
        running(name.clone()).await;
        (format!("{PODS}/{name}/eviction"), json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}))
    })
    .await;
    at_every_await(cluster, Method::POST, json, async |n| {
        let name = format!("bound-{n}");
        cluster.post(PODS, pod(&name)).await.expect(201);
        (format!("{PODS}/{name}/binding"), json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"kind": "Node", "name": "n"}}))
    })
    .await;
}

#[tokio::test]
async fn what_a_refused_write_was_charged_is_given_back() {
    let world = world("refused").await;
    let cluster = &world.cluster;
    let two = async |name: &str| {
        let one = cluster.post(PODS, pod(name));
        let other = cluster.post(PODS, pod(name));
        tokio::join!(one, other)
    };
    for n in 0..10 {
        // Both are charged before one of them is refused.
        let (one, other) = Box::pin(two(&format!("p{n}"))).await;
        let mut codes = [one.code, other.code];
        codes.sort_unstable();
        assert_eq!(codes, [201, 409]);
        agrees(cluster).await;
    }
}

/// What a change was charged that turned out to be the object's end stands for nothing, whether it won or lost its race.
#[tokio::test]
async fn the_change_that_is_the_end_leaves_no_charge() {
    let world = world("end").await;
    let cluster = &world.cluster;
    let spec = json!({"spec": {"hard": {"requests.storage": "100Gi"}}});
    cluster.patch(QUOTA, spec).await.expect(200);
    cluster.patch(&format!("{QUOTA}/status"), json!({"status": {"hard": {"requests.storage": "100Gi"}, "used": {"requests.storage": "0"}}})).await.expect(200);
    let classes = "/apis/storage.k8s.io/v1/storageclasses";
    let class =
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "s"}, "provisioner": "x/y", "allowVolumeExpansion": true});
    cluster.post(classes, class).await.expect(201);
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    for n in 0..10 {
        let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": format!("c{n}"), "finalizers": ["example.com/held"]},
            "spec": {"storageClassName": "s", "volumeName": "v", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        cluster.post(claims, claim).await.expect(201);
        let uri = format!("{claims}/c{n}");
        cluster.patch(&format!("{uri}/status"), json!({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}})).await.expect(200);
        cluster.delete(&uri).await.expect(200);
        let last = json!({"metadata": {"finalizers": null}, "spec": {"resources": {"requests": {"storage": "3Gi"}}}});
        let (one, other) = tokio::join!(cluster.patch(&uri, last.clone()), cluster.patch(&uri, last));
        let mut codes = [one.code, other.code];
        codes.sort_unstable();
        assert_eq!(codes, [200, 404], "one of them is the end");
    }
    // What the claims were charged when they were made is the quota's controller's matter, who hears that they are gone.
    let quota = cluster.get(QUOTA).await.expect(200);
    assert_eq!(quota["status"]["used"]["requests.storage"], "10Gi");
}

/// A create whose name is taken is refused before it is charged; it never is stored uncharged because the object goes meanwhile.
#[tokio::test]
async fn nothing_is_stored_that_was_not_charged() {
    let world = world("uncharged").await;
    let cluster = &world.cluster;
    for n in 0..20 {
        let name = format!("p{n}");
        cluster.post(PODS, pod(&name)).await.expect(201);
        let uri = format!("{PODS}/{name}?gracePeriodSeconds=0");
        // In this order the object is still there when the create looks for it, and gone when it would be stored.
        let (gone, made) = tokio::join!(cluster.delete(&uri), cluster.post(PODS, pod(&name)));
        gone.expect(200);
        let used = cluster.get(QUOTA).await.expect(200)["status"]["used"]["pods"].as_str().expect("used").to_owned();
        let there = items(cluster, PODS).await.len();
        assert_eq!(there, usize::from(made.code == 201), "{}", made.code);
        // Nobody counts here, so what is gone stays charged; each that is there has its charge.
        assert_eq!(used, (1 + there).to_string());
        cluster.delete(&format!("{PODS}?gracePeriodSeconds=0")).await.expect(200);
        cluster.patch(&format!("{QUOTA}/status"), json!({"status": {"used": {"pods": "0"}}})).await.expect(200);
    }
}

#[tokio::test]
async fn what_a_crash_has_left_is_put_right_at_start() {
    let cluster = Cluster::start().await;
    let addresses = "/apis/networking.k8s.io/v1/ipaddresses";
    let made = cluster.post(SERVICES, service("a", "NodePort")).await.expect(201);
    let ip = made["spec"]["clusterIP"].as_str().expect("an address");
    // As if the process had ended between a Service and its IPAddress, and between a Service's end and its IPAddress's.
    cluster.delete(&format!("{addresses}/{ip}")).await.expect(200);
    let stray = |name: &str, by: &str| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
            "metadata": {"name": name, "labels": {"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": by}},
            "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "gone"}}})
    };
    cluster.post(addresses, stray("10.96.7.7", "ipallocator.k8s.io")).await.expect(201);
    cluster.post(addresses, stray("10.96.8.8", "somebody")).await.expect(201);
    let again = Cluster::over(cluster.store.clone(), Config::default(), Trust::default());
    again.api.bootstrap().await.expect("bootstrap");
    let shown = again.get(&format!("{addresses}/{ip}")).await.expect(200);
    assert_eq!(shown["spec"]["parentRef"]["name"], "a");
    again.get(&format!("{addresses}/10.96.7.7")).await.expect(404);
    again.get(&format!("{addresses}/10.96.8.8")).await.expect(200);
    let mut other = service("b", "ClusterIP");
    other["spec"]["clusterIP"] = ip.into();
    again.post(SERVICES, other).await.expect(422);
}
