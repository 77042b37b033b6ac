//! The whole scheduler against an API server made of a map: it lists, watches, binds, patches and remembers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use client::{Body, Client, Informers, Transport};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::Config;

mod devices;

/// Objects by path, and who watches which collection.
#[derive(Default)]
struct State {
    version: u64,
    objects: BTreeMap<String, Value>,
    watches: Vec<(String, mpsc::UnboundedSender<Bytes>)>,
    refuse_bindings: usize,
    /// An object whose deletion takes a minute.
    lasting: Option<String>,
}

struct Fake {
    state: Mutex<State>,
    /// Told of every write.
    written: watch::Sender<u64>,
}

/// The collection over all namespaces, to which an object's path belongs.
fn collection(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').collect();
    let parts = match parts.iter().position(|p| *p == "namespaces") {
        Some(at) if parts.len() > at + 2 => [&parts[..at], &parts[at + 2..]].concat(),
        _ => parts,
    };
    parts[..parts.len() - 1].join("/")
}

impl Fake {
    fn put(&self, path: &str, mut object: Value) {
        let mut state = self.state.lock();
        state.version += 1;
        object["metadata"]["resourceVersion"] = state.version.to_string().into();
        let kind = if state.objects.contains_key(path) { "MODIFIED" } else { "ADDED" };
        state.objects.insert(path.to_owned(), object.clone());
        self.tell(&mut state, path, kind, &object);
    }

    fn remove(&self, path: &str) {
        let mut state = self.state.lock();
        state.version += 1;
        let Some(mut object) = state.objects.remove(path) else {
            return;
        };
        object["metadata"]["resourceVersion"] = state.version.to_string().into();
        self.tell(&mut state, path, "DELETED", &object);
    }

    fn tell(&self, state: &mut State, path: &str, kind: &str, object: &Value) {
        let frame = Bytes::from(format!("{}\n", json!({"type": kind, "object": object})));
        let to = collection(path);
        state.watches.retain(|(collection, sender)| *collection != to || sender.send(frame.clone()).is_ok());
        self.written.send_modify(|n| *n += 1);
    }

    fn get(&self, path: &str) -> Value {
        self.state.lock().objects.get(path).cloned().unwrap_or_default()
    }

    fn answer(&self, request: &Request<Bytes>) -> (u16, Body) {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default();
        let body: Value = serde_json::from_slice(request.body()).unwrap_or_default();
        match *request.method() {
            Method::GET if query.contains("watch=true") => {
                let (sender, receiver) = mpsc::unbounded_channel();
                self.state.lock().watches.push((path, sender));
                let frames = futures_util::stream::unfold(receiver, |mut r| async { r.recv().await.map(|b| (Ok(Frame::data(b)), r)) });
                (200, StreamBody::new(frames.boxed()).boxed_unsync())
            }
            Method::GET => {
                let state = self.state.lock();
                let items: Vec<&Value> = state.objects.iter().filter(|(p, _)| collection(p) == path).map(|(_, o)| o).collect();
                (200, full(&json!({"metadata": {"resourceVersion": state.version.to_string()}, "items": items})))
            }
            Method::POST if path.ends_with("/binding") => {
                let pod = path.trim_end_matches("/binding");
                let refused = std::mem::replace(&mut self.state.lock().refuse_bindings, 0);
                if refused > 0 {
                    return (500, full(&json!({"kind": "Status", "status": "Failure", "reason": "InternalError", "message": "no", "code": 500})));
                }
                let mut object = self.get(pod);
                object["spec"]["nodeName"] = body["target"]["name"].clone();
                self.put(pod, object);
                (201, full(&json!({"kind": "Status", "status": "Success"})))
            }
            Method::POST => {
                self.put(&format!("{path}/{}", body["metadata"]["name"].as_str().unwrap_or_default()), body.clone());
                (201, full(&body))
            }
            Method::PATCH if !path.ends_with("/status") => {
                let mut object = self.get(&path);
                merge(&mut object, &body);
                self.put(&path, object);
                (200, full(&self.get(&path)))
            }
            Method::PATCH => {
                let path = path.trim_end_matches("/status");
                let mut object = self.get(path);
                object["status"]["conditions"] = body["status"]["conditions"].clone();
                if let Some(node) = body["status"].get("nominatedNodeName") {
                    object["status"]["nominatedNodeName"] = node.clone();
                }
                self.put(path, object.clone());
                (200, full(&object))
            }
            Method::PUT => {
                let path = path.trim_end_matches("/status");
                self.put(path, body.clone());
                (200, full(&self.get(path)))
            }
            Method::DELETE => {
                self.remove(&path);
                (200, full(&json!({"kind": "Status", "status": "Success"})))
            }
            _ => (405, full(&json!({}))),
        }
    }

    fn respond(&self, request: &Request<Bytes>) -> Response<Body> {
        let (code, body) = self.answer(request);
        let mut response = Response::new(body);
        *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
        response
    }

    /// Waits until `what` yields something.
    async fn until<T>(&self, mut what: impl FnMut(&State) -> Option<T>) -> T {
        let mut written = self.written.subscribe();
        loop {
            if let Some(found) = what(&self.state.lock()) {
                return found;
            }
            tokio::time::timeout(Duration::from_secs(3600), written.changed()).await.expect("nothing more is written").unwrap();
        }
    }

    async fn on_node(&self, pod: &str) -> String {
        let path = path_of(pod);
        self.until(|s| s.objects.get(&path)?["spec"]["nodeName"].as_str().map(str::to_owned)).await
    }

    /// The message of the event with this reason about a pod.
    async fn event(&self, pod: &str, reason: &str) -> String {
        let about = |e: &Value| e["regarding"]["name"] == pod && e["reason"] == reason;
        self.until(|s| s.objects.values().find(|e| about(e)).and_then(|e| e["note"].as_str().map(str::to_owned))).await
    }
}

fn full(value: &Value) -> Body {
    Full::new(Bytes::from(value.to_string())).map_err(|never| match never {}).boxed_unsync()
}

#[derive(Clone)]
struct Wire(Arc<Fake>);

impl Transport for Wire {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'static, client::Result<Response<Body>>> {
        if *request.method() == Method::DELETE && self.0.state.lock().lasting.as_deref() == Some(request.uri().path()) {
            let fake = self.0.clone();
            return Box::pin(async move {
                tokio::time::sleep(Duration::from_secs(60)).await;
                Ok(fake.respond(&request))
            });
        }
        Box::pin(std::future::ready(Ok(self.0.respond(&request))))
    }
}

fn path_of(pod: &str) -> String {
    format!("/api/v1/namespaces/shop/pods/{pod}")
}

fn node(cpu: &str) -> Value {
    json!({"metadata": {"name": "n1", "uid": "n1"}, "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "10"}}})
}

fn pod(name: &str, cpu: &str, priority: i32) -> Value {
    json!({"metadata": {"namespace": "shop", "name": name, "uid": name, "generation": 1}, "spec": {"priority": priority,
        "schedulerName": "default-scheduler", "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}, "status": {"phase": "Pending"}})
}

/// A merge patch (RFC 7396).
fn merge(object: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *object = patch.clone();
        return;
    };
    for (name, value) in fields {
        if value.is_null() {
            object.as_object_mut().map(|o| o.remove(name));
        } else {
            merge(&mut object[name.as_str()], value);
        }
    }
}

fn start() -> (Arc<Fake>, CancellationToken) {
    start_with(Config::default())
}

fn start_with(config: Config) -> (Arc<Fake>, CancellationToken) {
    let fake = Arc::new(Fake { state: Mutex::default(), written: watch::Sender::new(0) });
    let client = Client::new(Arc::new(Wire(fake.clone())));
    let token = CancellationToken::new();
    let informers = Informers::new(client.clone(), token.clone());
    tokio::spawn(crate::run(config, client, informers, token.clone()));
    (fake, token)
}

/// A node that the pod `a` has to itself, and the pod `b`, for which there is no room.
async fn start_full() -> (Arc<Fake>, CancellationToken) {
    let (fake, token) = start();
    fake.put("/api/v1/nodes/n1", node("2"));
    fake.put(&path_of("a"), pod("a", "2", 0));
    fake.on_node("a").await;
    fake.put(&path_of("b"), pod("b", "1", 0));
    (fake, token)
}

#[tokio::test(start_paused = true)]
async fn a_pod_gets_its_node_without_a_moment_passing() {
    let (fake, _token) = start();
    fake.put("/api/v1/nodes/n1", node("4"));
    fake.put(&path_of("other"), {
        let mut it = pod("other", "1", 0);
        it["spec"]["schedulerName"] = "mine".into();
        it
    });
    let began = tokio::time::Instant::now();
    fake.put(&path_of("web"), pod("web", "1", 0));
    assert_eq!(fake.on_node("web").await, "n1");
    assert_eq!(tokio::time::Instant::now(), began, "no timer was waited for");
    assert_eq!(fake.event("web", "Scheduled").await, "Successfully assigned shop/web to n1");
    assert!(fake.get(&path_of("other"))["spec"]["nodeName"].is_null());
}

#[tokio::test(start_paused = true)]
async fn a_pod_without_room_is_told_why_and_goes_when_there_is_some() {
    let (fake, _token) = start_full().await;
    let told = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    assert_eq!(fake.event("b", "FailedScheduling").await, told);
    let path = path_of("b");
    let condition = fake.until(|s| s.objects[&path]["status"]["conditions"].get(0).cloned()).await;
    assert_eq!((&condition["type"], &condition["status"], &condition["reason"]), (&"PodScheduled".into(), &"False".into(), &"Unschedulable".into()));
    assert_eq!((&condition["message"], &condition["observedGeneration"]), (&told.into(), &1.into()));
    let began = tokio::time::Instant::now();
    fake.remove(&path_of("a"));
    fake.on_node("b").await;
    assert_eq!(tokio::time::Instant::now(), began, "no back-off while nobody else waits");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_fails_again_and_again_has_a_series() {
    let (fake, _token) = start_full().await;
    fake.event("b", "FailedScheduling").await;
    for times in 2..=25 {
        // Longer than it is held back.
        tokio::time::sleep(Duration::from_secs(20)).await;
        let mut it = node("2");
        it["status"]["allocatable"]["pods"] = (10 + times).to_string().into();
        fake.put("/api/v1/nodes/n1", it);
    }
    tokio::time::sleep(Duration::from_secs(20)).await;
    let about = |e: &&Value| e["regarding"]["name"] == "b" && e["reason"] == "FailedScheduling";
    let told: Vec<Value> = fake.state.lock().objects.values().filter(about).cloned().collect();
    // The first is of the pod before its condition was written.
    assert!(told.len() <= 2, "{told:?}");
    assert!(told.iter().any(|e| e["series"]["count"].as_i64() >= Some(2)), "{told:?}");
    assert_eq!((&told[0]["action"], &told[0]["reportingController"]), (&"Scheduling".into(), &"default-scheduler".into()));
    fake.remove(&path_of("a"));
    assert_eq!(fake.event("b", "Scheduled").await, "Successfully assigned shop/b to n1");
}

#[tokio::test(start_paused = true)]
async fn no_node_then_one() {
    let (fake, _token) = start();
    fake.put(&path_of("web"), pod("web", "1", 0));
    assert_eq!(fake.event("web", "FailedScheduling").await, "no nodes available to schedule pods");
    fake.put("/api/v1/nodes/n1", node("4"));
    fake.on_node("web").await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_binding_gives_the_room_back_and_is_tried_again() {
    let (fake, _token) = start();
    fake.state.lock().refuse_bindings = 1;
    fake.put("/api/v1/nodes/n1", node("1"));
    fake.put(&path_of("web"), pod("web", "1", 0));
    assert_eq!(fake.event("web", "FailedScheduling").await, "running Bind plugin \"DefaultBinder\": no");
    let began = tokio::time::Instant::now();
    fake.on_node("web").await;
    assert_eq!(tokio::time::Instant::now().duration_since(began).as_millis() / 100, 10, "after a second");
}

#[tokio::test(start_paused = true)]
async fn the_important_pushes_the_lesser_out() {
    let (fake, _token) = start();
    fake.put("/api/v1/nodes/n1", node("2"));
    fake.put(&path_of("low"), pod("low", "2", 1));
    fake.on_node("low").await;
    fake.put(&path_of("high"), pod("high", "2", 100));
    assert_eq!(fake.on_node("high").await, "n1");
    assert_eq!(fake.event("low", "Preempted").await, "Preempted by pod high on node n1");
    assert!(fake.get(&path_of("low")).is_null());
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_not_tried_before_all_its_victims_are_told() {
    let (fake, _token) = start();
    fake.put("/api/v1/nodes/n1", node("4"));
    for low in ["low1", "low2"] {
        fake.put(&path_of(low), pod(low, "2", 1));
        fake.on_node(low).await;
    }
    fake.state.lock().lasting = Some(path_of("low2"));
    fake.put(&path_of("high"), pod("high", "4", 100));
    assert_eq!(fake.on_node("high").await, "n1");
    let told = |e: &&Value| e["regarding"]["name"] == "high" && e["reason"] == "FailedScheduling";
    assert_eq!(fake.state.lock().objects.values().filter(told).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_crowd_is_placed_within_the_room_there_is() {
    let (fake, _token) = start();
    fake.put("/api/v1/nodes/n1", node("4"));
    for i in 0..9 {
        fake.put(&path_of(&format!("p{i}")), pod(&format!("p{i}"), "500m", 0));
    }
    let placed = |s: &State| s.objects.values().filter(|o| o["spec"]["nodeName"] == "n1").count();
    fake.until(|s| (placed(s) == 8).then_some(())).await;
    fake.event("p8", "FailedScheduling").await;
    assert_eq!(placed(&fake.state.lock()), 8);
}

#[tokio::test(start_paused = true)]
async fn the_room_of_a_pod_that_waited_for_a_node_is_free_when_it_goes() {
    let (fake, _token) = start();
    fake.put("/api/v1/nodes/n1", node("2"));
    let mut high = pod("high", "2", 100);
    high["spec"]["schedulingGates"] = json!([{"name": "wait"}]);
    high["status"]["nominatedNodeName"] = "n1".into();
    fake.put(&path_of("high"), high);
    fake.put(&path_of("low"), pod("low", "1", 0));
    fake.event("low", "FailedScheduling").await;
    let began = tokio::time::Instant::now();
    fake.remove(&path_of("high"));
    assert_eq!(fake.on_node("low").await, "n1");
    assert_eq!(tokio::time::Instant::now(), began, "it was told, and did not wait for its five minutes");
}

#[tokio::test(start_paused = true)]
async fn the_room_that_somebody_else_names_for_a_pod_is_kept_for_it() {
    let (fake, _token) = start();
    fake.put("/api/v1/nodes/n1", node("2"));
    fake.put(&path_of("first"), pod("first", "500m", 0));
    fake.on_node("first").await;
    let mut high = pod("high", "1500m", 100);
    high["spec"]["schedulingGates"] = json!([{"name": "wait"}]);
    fake.put(&path_of("high"), high.clone());
    high["status"]["nominatedNodeName"] = "n1".into();
    fake.put(&path_of("high"), high.clone());
    fake.put(&path_of("low"), pod("low", "1", 0));
    fake.event("low", "FailedScheduling").await;
    let began = tokio::time::Instant::now();
    high["status"]["nominatedNodeName"] = Value::Null;
    fake.put(&path_of("high"), high);
    assert_eq!(fake.on_node("low").await, "n1");
    assert_eq!(tokio::time::Instant::now(), began, "it was told, and did not wait for its five minutes");
}

const CLAIM: &str = "/api/v1/namespaces/shop/persistentvolumeclaims/data";

/// A pod with a claim whose class waits for it.
fn with_claim(fake: &Fake) {
    fake.put(
        "/apis/storage.k8s.io/v1/storageclasses/fast",
        json!({"metadata": {"name": "fast"}, "provisioner": "p", "volumeBindingMode": "WaitForFirstConsumer"}),
    );
    fake.put(
        CLAIM,
        json!({"metadata": {"namespace": "shop", "name": "data", "uid": "data", "annotations": {"a": "b"}},
        "spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}}}),
    );
    fake.put("/api/v1/nodes/n1", node("4"));
    let mut it = pod("web", "1", 1);
    it["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]);
    fake.put(&path_of("web"), it);
}

async fn selected(fake: &Fake) {
    fake.until(|s| (s.objects.get(CLAIM)?["metadata"]["annotations"]["volume.kubernetes.io/selected-node"] == "n1").then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_waits_for_its_volume_with_its_node_told() {
    let (fake, _token) = start();
    with_claim(&fake);
    selected(&fake).await;
    let path = path_of("web");
    let nominated = fake.until(|s| s.objects[&path]["status"]["nominatedNodeName"].as_str().map(str::to_owned)).await;
    assert_eq!(nominated, "n1");
    assert!(fake.get(&path)["spec"]["nodeName"].is_null());
    let began = tokio::time::Instant::now();
    fake.put("/api/v1/persistentvolumes/v", json!({"metadata": {"name": "v"}, "spec": {}}));
    let mut bound = fake.get(CLAIM);
    bound["metadata"]["annotations"]["pv.kubernetes.io/bind-completed"] = "yes".into();
    bound["spec"]["volumeName"] = "v".into();
    fake.put(CLAIM, bound);
    assert_eq!(fake.on_node("web").await, "n1");
    assert_eq!(tokio::time::Instant::now(), began, "no timer was waited for");
}

#[tokio::test(start_paused = true)]
async fn a_provisioner_that_gives_a_node_back_lets_the_pod_look_again() {
    let (fake, _token) = start();
    with_claim(&fake);
    selected(&fake).await;
    let mut refused = fake.get(CLAIM);
    refused["metadata"]["annotations"] = json!({"a": "b"});
    fake.put(CLAIM, refused);
    let told = "running PreBind plugin \"VolumeBinding\": binding volumes: provisioning failed for PVC \"data\"";
    assert_eq!(fake.event("web", "FailedScheduling").await, told);
    let path = path_of("web");
    fake.until(|s| s.objects[&path]["status"]["nominatedNodeName"].is_null().then_some(())).await;
    // After its rest it is decided again, and the provisioner asked again.
    selected(&fake).await;
}

#[tokio::test(start_paused = true)]
async fn the_room_of_one_who_waits_for_a_volume_is_taken_without_a_deletion() {
    let (fake, _token) = start();
    with_claim(&fake);
    selected(&fake).await;
    fake.put(&path_of("high"), pod("high", "4", 100));
    assert_eq!(fake.event("web", "Preempted").await, "Preempted by pod high on node n1 (in kube-scheduler memory).");
    assert_eq!(fake.on_node("high").await, "n1");
    assert!(!fake.get(&path_of("web")).is_null(), "it was not deleted");
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_node_goes_does_not_wait_for_its_volume_there() {
    let (fake, _token) = start();
    fake.put("/api/v1/nodes/n2", {
        let mut small = node("500m");
        small["metadata"] = json!({"name": "n2", "uid": "n2"});
        small
    });
    with_claim(&fake);
    selected(&fake).await;
    let path = path_of("web");
    let nominated = |s: &State, node: Value| (s.objects[&path]["status"]["nominatedNodeName"] == node).then_some(());
    fake.until(|s| nominated(s, "n1".into())).await;
    fake.remove("/api/v1/nodes/n2");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(nominated(&fake.state.lock(), "n1".into()).is_some(), "another node is nothing to it");
    let began = tokio::time::Instant::now();
    fake.remove("/api/v1/nodes/n1");
    let told = r#"running PreBind plugin "VolumeBinding": binding volumes: failed to get node "n1": node "n1" not found"#;
    assert_eq!(fake.event("web", "FailedScheduling").await, told);
    assert_eq!(tokio::time::Instant::now(), began, "no timer was waited for");
    fake.until(|s| nominated(s, Value::Null)).await;
}

/// What an extender was asked.
type Asked = Arc<Mutex<Vec<(String, Value)>>>;

/// A scheduler with an extender that answers so; and what it was asked, as `VERB BODY`.
fn extended(raw: Value, answer: impl Fn(&str, &Value) -> (u16, Value) + Send + Sync + 'static) -> (Arc<Fake>, CancellationToken, Asked) {
    let asked: Asked = Arc::default();
    let noted = asked.clone();
    let transport = move |request: Request<Bytes>| {
        let verb = request.uri().path().trim_start_matches("/x/").to_owned();
        let body: Value = serde_json::from_slice(request.body()).unwrap_or_default();
        let (code, answer) = answer(&verb, &body);
        noted.lock().push((verb, body));
        let answer = Response::builder().status(code).body(full(&answer)).unwrap();
        let answered: BoxFuture<'static, client::Result<Response<Body>>> = Box::pin(std::future::ready(Ok(answer)));
        answered
    };
    let mut raw = raw;
    raw["urlPrefix"] = "http://extender/x/".into();
    let raw = serde_json::from_value(raw).unwrap();
    let extender = crate::extender::Extender::over(&raw, "/x/", Arc::new(transport)).unwrap();
    let config = Config { extenders: vec![Arc::new(extender)], ..Config::default() };
    let (fake, token) = start_with(config);
    for name in ["n1", "n2"] {
        fake.put(&format!("/api/v1/nodes/{name}"), {
            let mut it = node("4");
            it["metadata"]["name"] = name.into();
            it
        });
    }
    (fake, token, asked)
}

#[tokio::test(start_paused = true)]
async fn an_extender_filters_scores_and_binds() {
    let verbs = json!({"filterVerb": "filter", "prioritizeVerb": "score", "bindVerb": "bind", "weight": 3, "nodeCacheCapable": true});
    let (fake, _token, asked) = extended(verbs, |verb, body| match verb {
        // As a server that is not written in Go may spell it.
        "filter" => (200, json!({"nodenames": body["NodeNames"], "error": ""})),
        "score" => (200, json!([{"Host": "n1", "Score": 0}, {"Host": "n2", "Score": 10}])),
        _ => (200, json!({"Error": ""})),
    });
    fake.put(&path_of("web"), pod("web", "1", 0));
    assert_eq!(fake.event("web", "Scheduled").await, "Successfully assigned shop/web to n2");
    let asked = asked.lock().clone();
    let verbs: Vec<&str> = asked.iter().map(|(verb, _)| verb.as_str()).collect();
    assert_eq!(verbs, ["filter", "score", "bind"]);
    assert_eq!(asked[2].1, json!({"PodName": "web", "PodNamespace": "shop", "PodUID": "web", "Node": "n2"}));
    assert_eq!((&asked[0].1["Nodes"], &asked[0].1["Pod"]["metadata"]["name"]), (&Value::Null, &json!("web")));
    assert!(fake.get(&path_of("web"))["spec"]["nodeName"].is_null(), "we do not bind beside it");
}

#[tokio::test(start_paused = true)]
async fn what_an_extender_turns_away_is_looked_at_again_after_any_change() {
    let open = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let opened = open.clone();
    let (fake, _token, _asked) = extended(json!({"filterVerb": "filter"}), move |_, body| {
        let nodes = if opened.load(std::sync::atomic::Ordering::Relaxed) { body["Nodes"].clone() } else { json!({"items": []}) };
        (200, json!({"Nodes": nodes, "FailedNodes": {"n1": "too warm"}, "FailedAndUnresolvableNodes": {"n1": "on fire", "n2": "on fire"}}))
    });
    fake.put(&path_of("web"), pod("web", "1", 0));
    let told = "0/2 nodes are available: 2 on fire. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
    assert_eq!(fake.event("web", "FailedScheduling").await, told);
    open.store(true, std::sync::atomic::Ordering::Relaxed);
    fake.put("/api/v1/namespaces/any", json!({"metadata": {"name": "any"}}));
    fake.on_node("web").await;
}

#[tokio::test(start_paused = true)]
async fn an_extender_that_fails_is_an_error_unless_it_may_be_left_out() {
    for (verb, ignorable) in [("filter", false), ("filter", true), ("bind", false), ("bind", true)] {
        let mut raw = json!({"ignorable": ignorable});
        raw[format!("{verb}Verb")] = verb.into();
        let (fake, _token, _asked) = extended(raw, |_, _| (500, json!({})));
        fake.put(&path_of("web"), pod("web", "1", 0));
        if ignorable {
            fake.on_node("web").await;
        } else {
            assert_eq!(fake.event("web", "FailedScheduling").await, format!("failed {verb} with extender at URL http://extender/x/{verb}, code 500"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn where_an_extender_turns_the_nominated_node_away_all_are_asked() {
    let (fake, _token, asked) = extended(json!({"filterVerb": "filter", "nodeCacheCapable": true}), |_, body| {
        let names: Vec<&Value> = body["NodeNames"].as_array().into_iter().flatten().filter(|name| name.as_str() != Some("n1")).collect();
        (200, json!({"NodeNames": names}))
    });
    let mut web = pod("web", "1", 0);
    web["status"]["nominatedNodeName"] = "n1".into();
    fake.put(&path_of("web"), web);
    assert_eq!(fake.on_node("web").await, "n2");
    let asked: Vec<usize> = asked.lock().iter().map(|(_, body)| body["NodeNames"].as_array().map_or(0, Vec::len)).collect();
    assert_eq!(asked, [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn an_extender_is_asked_about_what_it_manages_and_who_has_to_go() {
    let raw = json!({"preemptVerb": "preempt", "nodeCacheCapable": true, "managedResources": [{"name": "example.com/card"}]});
    let (fake, _token, asked) = extended(raw, |_, body| {
        let kept = body["NodeNameToMetaVictims"]["n2"].clone();
        (200, json!({"NodeNameToMetaVictims": {"n2": kept}}))
    });
    for (name, on) in [("low1", "n1"), ("low2", "n2")] {
        let mut it = pod(name, "4", 1);
        it["spec"]["nodeName"] = on.into();
        fake.put(&path_of(name), it);
    }
    for node in ["n1", "n2"] {
        let path = format!("/api/v1/nodes/{node}");
        let mut it = fake.get(&path);
        it["status"]["allocatable"]["example.com/card"] = "1".into();
        fake.put(&path, it);
    }
    let mut high = pod("high", "4", 100);
    high["spec"]["containers"][0]["resources"]["requests"]["example.com/card"] = "1".into();
    fake.put(&path_of("high"), high);
    assert_eq!(fake.on_node("high").await, "n2");
    assert!(fake.get(&path_of("low2")).is_null() && !fake.get(&path_of("low1")).is_null());
    let asked = asked.lock().clone();
    assert_eq!((asked[0].0.as_str(), &asked[0].1["NodeNameToMetaVictims"]["n1"]["Pods"]), ("preempt", &json!([{"UID": "low1"}])));
    fake.put(&path_of("plain"), pod("plain", "1", 0));
    fake.event("plain", "FailedScheduling").await;
    assert!(asked.len() < 3, "it is not asked about pods that want nothing of it");
}

#[tokio::test(start_paused = true)]
async fn profiles_have_pods_of_their_own() {
    let yaml = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nprofiles:\n- schedulerName: mine\n- schedulerName: free\n  plugins:\n    filter:\n      disabled: [{name: NodeResourcesFit}]\n";
    let (fake, _token) = start_with(Config::parse(yaml.as_bytes()).unwrap());
    fake.put("/api/v1/nodes/n1", node("1"));
    for (name, by) in [("one", "default-scheduler"), ("two", "mine"), ("three", "free")] {
        fake.put(&path_of(name), {
            let mut it = pod(name, "2", 0);
            it["spec"]["schedulerName"] = by.into();
            it
        });
    }
    fake.on_node("three").await;
    assert!(fake.event("two", "FailedScheduling").await.contains("Insufficient cpu"));
    assert!(fake.get(&path_of("one"))["spec"]["nodeName"].is_null());
}
