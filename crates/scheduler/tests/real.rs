//! The scheduler against the real API server, in one process: its identity's rights, the binding, conditions as they are
//! stored, preemption through deletion, and how fast a pod gets its node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use apiserver::{ApiServer, Identity};
use bytes::Bytes;
use client::{Client, DeleteParams, Informer, Informers, Meta, Object, Patch, PatchParams};
use futures_util::FutureExt as _;
use http::Request;
use identity::User;
use k8s_openapi::api::core::v1::{Event, Namespace, Node, Pod, PodCondition, ServiceAccount};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// How long something awaited may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(60);

fn local(api: &ApiServer, name: &str, group: &str) -> Client {
    let groups = vec![group.to_owned(), "system:authenticated".to_owned()];
    let user = User { name: name.to_owned(), uid: String::new(), groups, extra: Default::default() };
    let (api, user) = (api.clone(), Arc::new(user));
    let carry = move |request: Request<Bytes>| {
        let (api, user) = (api.clone(), user.clone());
        async move {
            let mut request = request.map(apiserver::full);
            request.extensions_mut().insert(user);
            Ok(api.handle(request).await)
        }
        .boxed()
    };
    Client::new(Arc::new(carry)).user_agent(name)
}

fn typed<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

struct Cluster {
    admin: Client,
    pods: Informer<Pod>,
    events: Informer<Event>,
    stop: CancellationToken,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Waits until an informer shows something.
async fn until<K: Object, T>(informer: &Informer<K>, mut what: impl FnMut(&[Arc<K>]) -> Option<T>) -> T {
    let mut changes = informer.subscribe();
    let work = async {
        loop {
            if let Some(found) = what(&informer.list()) {
                return found;
            }
            changes.recv().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, work).await.expect("it never came")
}

impl Cluster {
    async fn start() -> Self {
        let store = store::Store::in_memory(&store::Options::default()).unwrap();
        let identity = Identity::new(&store, None, "https://kubernetes.default.svc", Default::default()).unwrap();
        let api = ApiServer::new(apiserver::Config::default(), store, identity).unwrap();
        api.bootstrap().await.unwrap();
        let admin = local(&api, "admin", "system:masters");
        admin.all::<Namespace>().create(&typed(json!({"metadata": {"name": "shop"}}))).await.unwrap();
        admin.namespaced::<ServiceAccount>("shop").create(&typed(json!({"metadata": {"name": "default"}}))).await.unwrap();
        let stop = CancellationToken::new();
        let scheduler = local(&api, "system:kube-scheduler", "system:unauthenticated-not");
        let informers = Informers::new(scheduler.clone(), stop.clone());
        tokio::spawn(scheduler::run(scheduler::Config::default(), scheduler, informers, stop.clone()));
        let own = Informers::new(admin.clone(), stop.clone());
        let (pods, events) = (own.informer::<Pod>(), own.informer::<Event>());
        pods.synced().await;
        events.synced().await;
        Self { admin, pods, events, stop }
    }

    async fn node(&self, name: &str, cpu: &str) {
        let nodes = self.admin.all::<Node>();
        nodes.create(&typed(json!({"metadata": {"name": name}}))).await.unwrap();
        let resources = json!({"cpu": cpu, "memory": "8Gi", "pods": "200"});
        let status = json!({"status": {"capacity": resources, "allocatable": resources}});
        nodes.patch_status(name, &Patch::Strategic(status), &PatchParams::default()).await.unwrap();
        // New nodes are tainted until they are ready, as upstream's admission does.
        let ready = json!({"spec": {"taints": null}});
        nodes.patch(name, &Patch::Merge(ready), &PatchParams::default()).await.unwrap();
    }

    async fn pod(&self, name: &str, cpu: &str, class: Option<&str>) -> Pod {
        let container = json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}});
        let pod = json!({"metadata": {"name": name}, "spec": {"priorityClassName": class, "containers": [container]}});
        self.admin.namespaced::<Pod>("shop").create(&typed(pod)).await.unwrap()
    }

    async fn on_node(&self, name: &str) -> Arc<Pod> {
        let placed = |p: &&Arc<Pod>| p.name() == name && p.spec.as_ref().is_some_and(|s| s.node_name.is_some());
        until(&self.pods, |all| all.iter().find(placed).cloned()).await
    }

    async fn condition(&self, name: &str, wanted: impl Fn(&PodCondition) -> bool) -> PodCondition {
        let of = |p: &Arc<Pod>| p.status.as_ref()?.conditions.as_ref()?.iter().find(|c| wanted(c)).cloned();
        until(&self.pods, |all| all.iter().find(|p| p.name() == name).and_then(of)).await
    }

    async fn event(&self, name: &str, reason: &str) -> Event {
        let about = |e: &&Arc<Event>| e.involved_object.name.as_deref() == Some(name) && e.reason.as_deref() == Some(reason);
        until(&self.events, |all| all.iter().find(about).map(|e| (**e).clone())).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_bound_within_its_rights_and_soon() {
    let cluster = Cluster::start().await;
    cluster.node("n1", "100").await;
    let mut times = Vec::new();
    for i in 0..20 {
        let name = format!("web-{i}");
        cluster.pod(&name, "100m", None).await;
        let began = Instant::now();
        cluster.on_node(&name).await;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    eprintln!("created → bound, as a watch sees it: p50 {:?}, max {:?}", times[10], times[19]);
    let condition = cluster.condition("web-0", |c| c.type_ == "PodScheduled").await;
    assert_eq!(condition.status, "True");
    let event = cluster.event("web-0", "Scheduled").await;
    assert_eq!(event.message.as_deref(), Some("Successfully assigned shop/web-0 to n1"));
    assert_eq!((event.reporting_component.as_deref(), event.action.as_deref()), (Some("default-scheduler"), Some("Binding")));
    assert!(event.event_time.is_some() && event.count.is_none_or(|count| count == 0), "it is one of events.k8s.io");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_without_room_says_so_until_there_is_some() {
    let cluster = Cluster::start().await;
    cluster.node("n1", "1").await;
    cluster.pod("a", "1", None).await;
    cluster.on_node("a").await;
    cluster.pod("b", "1", None).await;
    let condition = cluster.condition("b", |c| c.type_ == "PodScheduled" && c.status == "False").await;
    let told = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    assert_eq!((condition.reason.as_deref(), condition.message.as_deref()), (Some("Unschedulable"), Some(told)));
    assert_eq!(condition.observed_generation, Some(1));
    assert_eq!(cluster.event("b", "FailedScheduling").await.message.as_deref(), Some(told));
    cluster.admin.namespaced::<Pod>("shop").delete("a", &DeleteParams::now()).await.unwrap();
    cluster.on_node("b").await;
    let placed = cluster.condition("b", |c| c.type_ == "PodScheduled" && c.status == "True").await;
    assert_eq!((placed.reason, placed.message), (None, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gated_pod_waits_for_its_gate() {
    let cluster = Cluster::start().await;
    cluster.node("n1", "1").await;
    let pods = cluster.admin.namespaced::<Pod>("shop");
    let gated = json!({"metadata": {"name": "g"}, "spec": {"schedulingGates": [{"name": "example.com/wait"}], "containers": [{"name": "c", "image": "i"}]}});
    pods.create(&typed(gated)).await.unwrap();
    let condition = cluster.condition("g", |c| c.type_ == "PodScheduled").await;
    assert_eq!((condition.status.as_str(), condition.reason.as_deref()), ("False", Some("SchedulingGated")));
    cluster.pod("other", "100m", None).await;
    cluster.on_node("other").await;
    assert!(cluster.pods.get("shop", "g").unwrap().spec.as_ref().unwrap().node_name.is_none());
    pods.patch("g", &Patch::Json(json!([{"op": "remove", "path": "/spec/schedulingGates"}])), &PatchParams::default()).await.unwrap();
    cluster.on_node("g").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_important_pushes_the_lesser_out() {
    let cluster = Cluster::start().await;
    let class = |name: &str, value: i32| typed::<PriorityClass>(json!({"metadata": {"name": name}, "value": value}));
    for (name, value) in [("low", 1), ("high", 1000)] {
        cluster.admin.all::<PriorityClass>().create(&class(name, value)).await.unwrap();
    }
    cluster.node("n1", "1").await;
    cluster.pod("low", "1", Some("low")).await;
    cluster.on_node("low").await;
    let high = cluster.pod("high", "1", Some("high")).await;
    let disrupted = cluster.condition("low", |c| c.type_ == "DisruptionTarget").await;
    assert_eq!(disrupted.message.as_deref(), Some("default-scheduler: preempting to accommodate a higher priority pod"));
    let waits = |p: &&Arc<Pod>| p.name() == "high" && p.status.as_ref().is_some_and(|s| s.nominated_node_name.as_deref() == Some("n1"));
    until(&cluster.pods, |all| all.iter().find(waits).cloned()).await;
    let preempted = cluster.event("low", "Preempted").await;
    assert_eq!(preempted.message, Some(format!("Preempted by pod {} on node n1", high.uid())));
    assert_eq!((preempted.action.as_deref(), preempted.related), (Some("Preempting"), None));
    // There is no kubelet: its last word is ours.
    until(&cluster.pods, |all| all.iter().find(|p| p.name() == "low" && p.is_deleting()).cloned()).await;
    cluster.admin.namespaced::<Pod>("shop").delete("low", &DeleteParams::now()).await.unwrap();
    cluster.on_node("high").await;
}
