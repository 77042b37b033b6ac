//! Helpers of the unit tests: directories, and an API, a runtime and a network in memory.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenReview};
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::certificates::v1::{ClusterTrustBundle, PodCertificateRequest};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod, Service, ServiceAccount};
use k8s_openapi::api::resource::v1::ResourceClaim;
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, VolumeAttachment};
use machinery::gvk::Gvk;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::{broadcast, watch};

use crate::Clock;
use crate::api::{ApiError, KubeApi, RefKind, RefObject, Severity};
use crate::cri::{
    Container, ContainerId, ContainerRuntime, ContainerSpec, Credentials, CriError, Duplex, ExecResult, HostPort, Image, Measure, Origin, PodNet, PodUid,
    Reading, RuntimeEvent, Sandbox, SandboxId, SandboxSpec, State, Stats, Streams, label,
};

/// A directory that goes away with its owner.
pub struct TempDir(PathBuf);

impl TempDir {
    /// A fresh one.
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("knarr-kubelet-{name}-{}-{n}", std::process::id()));
        // Of a run with the same number that was killed.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Waits in paused time until something holds; nothing takes longer than ten minutes of it, so that a test that fails ends.
///
/// # Panics
/// When they are over.
pub async fn when(what: &str, holds: impl Fn() -> bool) {
    let begun = tokio::time::Instant::now();
    while !holds() {
        let passed = begun.elapsed();
        assert!(passed < Duration::from_secs(600), "not {what} within ten minutes");
        // Who is late need not be seen to the millisecond.
        tokio::time::sleep(if passed < Duration::from_secs(5) { Duration::from_millis(1) } else { Duration::from_millis(100) }).await;
    }
}

/// A clock that goes as tokio's does, so that paused time is the time of day too.
pub fn clock() -> Clock {
    let (base, start) = (SystemTime::now(), tokio::time::Instant::now());
    Clock::new(move || base + start.elapsed())
}

/// What a fake API server knows of storage, by name.
#[derive(Default)]
pub struct Storage {
    pub claims: BTreeMap<String, PersistentVolumeClaim>,
    pub volumes: BTreeMap<String, PersistentVolume>,
    pub drivers: BTreeMap<String, CSIDriver>,
    pub attachments: BTreeMap<String, VolumeAttachment>,
    pub csi_node: Option<CSINode>,
    /// Patches of the node.
    pub node_patches: Vec<Value>,
    /// Reason and message of the Events of the node.
    pub node_events: Vec<(String, String)>,
    /// Patches of claims' statuses.
    pub patches: Vec<Value>,
    /// Reason and message of Events about claims.
    pub claim_events: Vec<(String, String)>,
}

/// An API server of a few objects, which remembers what it was told.
#[derive(Default)]
pub struct FakeApi {
    pods: Mutex<BTreeMap<(String, String), Pod>>,
    patches: Mutex<Vec<Value>>,
    events: Mutex<Vec<(String, String)>>,
    revision: AtomicU64,
    /// How often ConfigMaps and Secrets were read.
    pub reads: AtomicU64,
    /// Statuses, nodes and pods cannot be written.
    pub away: Mutex<bool>,
    asked: AtomicU64,
    /// Who asks for the node gets no answer.
    pub silent: std::sync::atomic::AtomicBool,
    /// The bundles of trust anchors.
    pub bundles: tokio::sync::watch::Sender<Vec<Arc<ClusterTrustBundle>>>,
    /// Service accounts and nodes exist, by any name.
    pub peopled: std::sync::atomic::AtomicBool,
    /// Claims and volumes, and what is known of drivers.
    pub storage: Mutex<Storage>,
    /// The volumes that the cluster has attached to the node.
    pub attached: watch::Sender<std::collections::BTreeSet<String>>,
    /// Claims of devices.
    pub device_claims: Mutex<Vec<ResourceClaim>>,
    /// The drivers whose slices were deleted.
    pub wiped: watch::Sender<Vec<String>>,
    /// The requests for certificates.
    pub requests: tokio::sync::watch::Sender<Vec<Arc<PodCertificateRequest>>>,
}

impl FakeApi {
    fn key(pod: &Pod) -> (String, String) {
        (crate::util::namespace(pod).to_owned(), crate::util::name(pod).to_owned())
    }

    /// Stores a pod.
    pub fn put_pod(&self, pod: &Pod) {
        self.pods.lock().insert(Self::key(pod), pod.clone());
    }

    /// How often a status was to be written.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// A pod.
    pub fn pod(&self, ns: &str, name: &str) -> Option<Pod> {
        self.pods.lock().get(&(ns.to_owned(), name.to_owned())).cloned()
    }

    /// The status patches so far.
    pub fn patches(&self) -> Vec<Value> {
        self.patches.lock().clone()
    }

    /// Reason and message of the Events so far.
    pub fn events(&self) -> Vec<(String, String)> {
        self.events.lock().clone()
    }

    /// The reasons of the Events so far.
    pub fn reasons(&self) -> Vec<String> {
        self.events().into_iter().map(|(r, _)| r).collect()
    }
}

fn missing<T>(what: &str) -> Result<T, ApiError> {
    Err(ApiError::NotFound(format!("{what} not found")))
}

#[async_trait]
impl KubeApi for FakeApi {
    async fn get_ref(&self, _: RefKind, _: &str, _: &str) -> Result<(Option<RefObject>, String), ApiError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        Ok((None, String::new()))
    }
    async fn watch_ref(&self, _: RefKind, _: &str, _: &str, _: &str) -> Result<BoxStream<'static, ()>, ApiError> {
        Ok(futures_util::stream::pending().boxed())
    }
    async fn trust_bundles(&self) -> Result<Vec<Arc<ClusterTrustBundle>>, ApiError> {
        Ok(self.bundles.borrow().clone())
    }
    fn trust_bundle_changes(&self) -> BoxStream<'static, ()> {
        let changes = self.bundles.subscribe();
        futures_util::stream::unfold(changes, |mut changes| async move { changes.changed().await.ok().map(|()| ((), changes)) }).boxed()
    }
    async fn certificate_request(&self, _: &str, name: &str) -> Result<Option<Arc<PodCertificateRequest>>, ApiError> {
        Ok(self.requests.borrow().iter().find(|r| r.metadata.name.as_deref() == Some(name)).cloned())
    }
    fn certificate_request_changes(&self) -> BoxStream<'static, String> {
        let changes = self.requests.subscribe();
        futures_util::stream::unfold(changes, |mut changes| async move {
            changes.changed().await.ok()?;
            let newest = changes.borrow_and_update().last().map(|r| r.spec.pod_uid.clone()).unwrap_or_default();
            Some((newest, changes))
        })
        .boxed()
    }
    async fn create_certificate_request(&self, _: &str, request: &PodCertificateRequest) -> Result<PodCertificateRequest, ApiError> {
        let mut made = request.clone();
        made.metadata.name = Some(format!("req-{}", self.requests.borrow().len()));
        self.requests.send_modify(|all| all.push(Arc::new(made.clone())));
        Ok(made)
    }
    async fn get_pod(&self, namespace: &str, name: &str) -> Result<Pod, ApiError> {
        self.pod(namespace, name).map_or_else(|| missing(name), Ok)
    }
    async fn patch_pod_status(&self, namespace: &str, name: &str, patch: Value) -> Result<Pod, ApiError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if *self.away.lock() {
            return Err(ApiError::Other("away".into()));
        }
        let mut pods = self.pods.lock();
        let Some(pod) = pods.get_mut(&(namespace.to_owned(), name.to_owned())) else { return missing(name) };
        let mut value = serde_json::to_value(&*pod).unwrap();
        let ty = machinery::schema::builtin().kind(&Gvk::new("", "v1", "Pod")).unwrap();
        machinery::patch::strategic(ty, &mut value, &patch).unwrap();
        *pod = serde_json::from_value(value).unwrap();
        pod.metadata.resource_version = Some((1000 + self.revision.fetch_add(1, Ordering::Relaxed)).to_string());
        self.patches.lock().push(patch);
        Ok(pod.clone())
    }
    async fn create_pod(&self, pod: &Pod) -> Result<Pod, ApiError> {
        if *self.away.lock() {
            return Err(ApiError::Other("away".into()));
        }
        let mut pods = self.pods.lock();
        if pods.contains_key(&Self::key(pod)) {
            return Err(ApiError::Conflict("already exists".into()));
        }
        let mut made = pod.clone();
        let number = self.revision.fetch_add(1, Ordering::Relaxed);
        (made.metadata.uid, made.metadata.resource_version) = (Some(format!("made-{number}")), Some((1000 + number).to_string()));
        pods.insert(Self::key(pod), made.clone());
        Ok(made)
    }
    async fn delete_pod(&self, namespace: &str, name: &str, uid: &str) -> Result<(), ApiError> {
        if *self.away.lock() {
            return Err(ApiError::Other("away".into()));
        }
        let mut pods = self.pods.lock();
        let key = (namespace.to_owned(), name.to_owned());
        let Some(found) = pods.get(&key) else { return missing(name) };
        // Without one it is anybody's, as in the API.
        if !uid.is_empty() && crate::util::uid(found) != uid {
            return Err(ApiError::Conflict(format!("the UID in the precondition ({uid}) does not match the UID in record")));
        }
        pods.remove(&key);
        Ok(())
    }
    async fn create_token(&self, _: &str, _: &str, _: TokenRequest) -> Result<TokenRequest, ApiError> {
        missing("token")
    }
    async fn get_service_account(&self, _: &str, name: &str) -> Result<ServiceAccount, ApiError> {
        if !self.peopled.load(Ordering::Relaxed) {
            return missing(name);
        }
        Ok(serde_json::from_value(serde_json::json!({"metadata": {"name": name, "uid": "account-uid"}})).unwrap())
    }
    async fn get_claim(&self, _: &str, name: &str) -> Result<PersistentVolumeClaim, ApiError> {
        self.storage.lock().claims.get(name).cloned().map_or_else(|| missing(name), Ok)
    }
    async fn get_volume(&self, name: &str) -> Result<PersistentVolume, ApiError> {
        self.storage.lock().volumes.get(name).cloned().map_or_else(|| missing(name), Ok)
    }
    async fn patch_claim_status(&self, _: &str, name: &str, patch: Value) -> Result<PersistentVolumeClaim, ApiError> {
        let mut storage = self.storage.lock();
        storage.patches.push(patch.clone());
        let Some(claim) = storage.claims.get_mut(name) else { return missing(name) };
        let mut value = serde_json::to_value(&*claim).unwrap();
        let ty = machinery::schema::builtin().kind(&Gvk::new("", "v1", "PersistentVolumeClaim")).unwrap();
        machinery::patch::strategic(ty, &mut value, &patch).unwrap();
        *claim = serde_json::from_value(value).unwrap();
        Ok(claim.clone())
    }
    async fn csi_driver(&self, name: &str) -> Result<Option<Arc<CSIDriver>>, ApiError> {
        Ok(self.storage.lock().drivers.get(name).cloned().map(Arc::new))
    }
    async fn get_attachment(&self, name: &str) -> Result<VolumeAttachment, ApiError> {
        self.storage.lock().attachments.get(name).cloned().map_or_else(|| missing(name), Ok)
    }
    async fn volume_attached(&self, _: &str, volume: &str) {
        let _ = self.attached.subscribe().wait_for(|all| all.contains(volume)).await;
    }
    async fn get_csi_node(&self, _: &str) -> Result<Option<CSINode>, ApiError> {
        Ok(self.storage.lock().csi_node.clone())
    }
    async fn create_csi_node(&self, node: &CSINode) -> Result<CSINode, ApiError> {
        Ok(self.storage.lock().csi_node.insert(node.clone()).clone())
    }
    async fn replace_csi_node(&self, node: &CSINode) -> Result<CSINode, ApiError> {
        Ok(self.storage.lock().csi_node.insert(node.clone()).clone())
    }
    async fn delete_csi_node(&self, name: &str) -> Result<(), ApiError> {
        self.storage.lock().csi_node.take().map_or_else(|| missing(name), |_| Ok(()))
    }
    async fn get_resource_claim(&self, _: &str, name: &str) -> Result<ResourceClaim, ApiError> {
        self.device_claims.lock().iter().find(|claim| claim.metadata.name.as_deref() == Some(name)).cloned().map_or_else(|| missing(name), Ok)
    }
    async fn delete_slices(&self, _: &str, driver: &str) -> Result<(), ApiError> {
        self.wiped.send_modify(|wiped| wiped.push(driver.to_owned()));
        Ok(())
    }
    async fn runtime_handler(&self, class: &str) -> Result<String, ApiError> {
        missing(class)
    }
    async fn services(&self, _: &str, _: bool) -> Vec<Arc<Service>> {
        Vec::new()
    }
    async fn get_node(&self, name: &str) -> Result<Option<Node>, ApiError> {
        if *self.away.lock() {
            return Err(ApiError::Other("away".into()));
        }
        if self.silent.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let labels = serde_json::json!({"kubernetes.io/os": "linux", "kubernetes.io/arch": crate::machine::architecture()});
        let node = || serde_json::from_value(serde_json::json!({"metadata": {"name": name, "uid": "node-uid", "labels": labels}})).unwrap();
        Ok(self.peopled.load(Ordering::Relaxed).then(node))
    }
    async fn create_node(&self, node: &Node) -> Result<Node, ApiError> {
        Ok(node.clone())
    }
    async fn patch_node(&self, name: &str, patch: Value, _: bool) -> Result<Node, ApiError> {
        if !self.peopled.load(Ordering::Relaxed) {
            return missing(name);
        }
        self.storage.lock().node_patches.push(patch);
        self.get_node(name).await?.map_or_else(|| missing(name), Ok)
    }
    async fn renew_lease(&self, _: &Node, _: i32) -> Result<(), ApiError> {
        Ok(())
    }
    async fn review_token(&self, review: TokenReview) -> Result<TokenReview, ApiError> {
        Ok(review)
    }
    async fn review_access(&self, review: SubjectAccessReview) -> Result<SubjectAccessReview, ApiError> {
        Ok(review)
    }
    fn pod_event(&self, _: &Pod, _: Option<&str>, _: Severity, reason: &str, message: &str) {
        self.events.lock().push((reason.to_owned(), message.to_owned()));
    }
    fn claim_event(&self, _: &PersistentVolumeClaim, _: Severity, reason: &str, message: &str) {
        self.storage.lock().claim_events.push((reason.to_owned(), message.to_owned()));
    }
    fn node_event(&self, _: Severity, reason: &str, message: &str) {
        self.storage.lock().node_events.push((reason.to_owned(), message.to_owned()));
    }
}

/// A runtime whose containers do nothing until they are told to.
pub struct FakeRuntime {
    sandboxes: Mutex<Vec<Sandbox>>,
    containers: Mutex<Vec<Container>>,
    /// What was called, in order: `start NAME`, `stop NAME`, `exec …`.
    calls: Mutex<Vec<String>>,
    changes: watch::Sender<u64>,
    events: broadcast::Sender<RuntimeEvent>,
    /// Pulls never end.
    pub stalled: std::sync::atomic::AtomicBool,
    /// Containers cannot be stopped.
    pub stuck: std::sync::atomic::AtomicBool,
    /// Containers cannot be made.
    pub full: std::sync::atomic::AtomicBool,
    /// Programs cannot be run.
    pub unstartable: std::sync::atomic::AtomicBool,
    /// How much memory each container uses.
    pub memory_in_use: std::sync::atomic::AtomicU64,
    /// Commands cannot be run at all.
    pub broken: std::sync::atomic::AtomicBool,
    /// The next look at the sandboxes panics.
    pub trap: std::sync::atomic::AtomicBool,
    /// Exit code of commands, and whether they never end.
    exec: Mutex<(i32, bool)>,
    /// One more holder for each command that runs.
    running: Arc<()>,
    ids: AtomicU32,
    clock: Clock,
}

impl FakeRuntime {
    /// A runtime without anything.
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            sandboxes: Mutex::default(),
            containers: Mutex::default(),
            calls: Mutex::default(),
            changes: watch::Sender::new(0),
            events: broadcast::Sender::new(64),
            stalled: std::sync::atomic::AtomicBool::new(false),
            stuck: std::sync::atomic::AtomicBool::new(false),
            full: std::sync::atomic::AtomicBool::new(false),
            unstartable: std::sync::atomic::AtomicBool::new(false),
            memory_in_use: std::sync::atomic::AtomicU64::new(0),
            broken: std::sync::atomic::AtomicBool::new(false),
            trap: std::sync::atomic::AtomicBool::new(false),
            exec: Mutex::default(),
            running: Arc::default(),
            ids: AtomicU32::new(0),
        }
    }

    fn call(&self, text: String) {
        self.calls.lock().push(text);
        self.changes.send_modify(|n| *n += 1);
    }

    /// The calls so far.
    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().clone()
    }

    /// Waits until there were so many calls.
    pub async fn called(&self, call: &str, times: usize) {
        let mut changes = self.changes.subscribe();
        let enough = async {
            while self.calls().iter().filter(|c| *c == call).count() < times {
                changes.changed().await.unwrap();
            }
        };
        let within = tokio::time::timeout(Duration::from_secs(3600), enough).await;
        assert!(within.is_ok(), "not called {times} times within an hour: {call:?}; {:?}", self.calls());
    }

    /// What commands answer from now on.
    pub fn set_exec(&self, code: i32, hangs: bool) {
        *self.exec.lock() = (code, hangs);
    }

    /// Commands with streams that run.
    pub fn execs(&self) -> usize {
        Arc::strong_count(&self.running) - 1
    }

    /// Ends the newest container of this name.
    pub fn exit(&self, name: &str, code: i32) {
        let uid = {
            let mut all = self.containers.lock();
            let c = all.iter_mut().rev().find(|c| c.name == name).unwrap();
            c.state = State::Exited;
            c.exit_code = code;
            c.finished = Some(self.clock.now());
            c.pod_uid()
        };
        self.changes.send_modify(|n| *n += 1);
        let _ = self.events.send(RuntimeEvent { pod: uid });
    }

    /// Now, by the test's clock.
    pub fn now(&self) -> SystemTime {
        self.clock.now()
    }

    /// The logs of the containers of this name.
    pub fn logs_of(&self, name: &str) -> Vec<PathBuf> {
        self.containers.lock().iter().filter(|c| c.name == name).map(|c| c.log_path.clone()).collect()
    }

    /// How many containers of this name there are.
    pub fn pod_containers_named(&self, name: &str) -> usize {
        self.containers.lock().iter().filter(|c| c.name == name).count()
    }

    fn name(&self, id: &ContainerId) -> String {
        self.containers.lock().iter().find(|c| c.id == *id).map(|c| c.name.clone()).unwrap_or_default()
    }
}

#[async_trait]
impl ContainerRuntime for FakeRuntime {
    fn version(&self) -> String {
        "knarr://0".into()
    }
    fn sandboxes(&self) -> Vec<Sandbox> {
        assert!(!self.trap.swap(false, Ordering::Relaxed), "a defect, for the test");
        self.sandboxes.lock().clone()
    }
    fn containers(&self) -> Vec<Container> {
        self.containers.lock().clone()
    }
    fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.events.subscribe()
    }
    async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Sandbox, CriError> {
        let id = SandboxId(format!("s{}", self.ids.fetch_add(1, Ordering::Relaxed)));
        let netns = Some(PathBuf::from("/proc/1/ns/net"));
        let made = Sandbox { id, ready: true, attempt: spec.attempt, created: self.clock.now(), netns, labels: spec.labels };
        self.sandboxes.lock().push(made.clone());
        self.call("sandbox".into());
        Ok(made)
    }
    async fn stop_sandbox(&self, id: &SandboxId) -> Result<(), CriError> {
        for s in self.sandboxes.lock().iter_mut().filter(|s| s.id == *id) {
            s.ready = false;
        }
        Ok(())
    }
    async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), CriError> {
        self.sandboxes.lock().retain(|s| s.id != *id);
        self.containers.lock().retain(|c| c.sandbox != *id);
        Ok(())
    }
    async fn create_container(&self, sandbox: &SandboxId, spec: ContainerSpec) -> Result<ContainerId, CriError> {
        if self.full.load(Ordering::Relaxed) {
            return Err(CriError::Other("no space left on device".into()));
        }
        let id = ContainerId(format!("c{}", self.ids.fetch_add(1, Ordering::Relaxed)));
        self.containers.lock().push(Container {
            id: id.clone(),
            sandbox: sandbox.clone(),
            name: spec.name,
            attempt: spec.attempt,
            state: State::Created,
            created: self.clock.now(),
            started: None,
            finished: None,
            exit_code: 0,
            oom_killed: false,
            reason: String::new(),
            message: String::new(),
            image: spec.image.clone(),
            image_id: spec.image,
            labels: spec.labels,
            annotations: spec.annotations,
            log_path: spec.log_path,
            user: None,
        });
        Ok(id)
    }
    async fn start_container(&self, id: &ContainerId) -> Result<(), CriError> {
        if self.unstartable.load(Ordering::Relaxed) {
            self.exit(&self.name(id), 128);
            return Err(CriError::Other("no such file or directory".into()));
        }
        for c in self.containers.lock().iter_mut().filter(|c| c.id == *id) {
            c.state = State::Running;
            c.started = Some(self.clock.now());
        }
        self.call(format!("start {}", self.name(id)));
        Ok(())
    }
    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<(), CriError> {
        let name = self.name(id);
        self.call(format!("stop {name} {}s", grace.as_secs()));
        if self.stuck.load(Ordering::Relaxed) {
            return Err(CriError::Other("no shim".into()));
        }
        self.exit(&name, 143);
        Ok(())
    }
    async fn remove_container(&self, id: &ContainerId) -> Result<(), CriError> {
        self.containers.lock().retain(|c| c.id != *id);
        Ok(())
    }
    async fn exec_sync(&self, _: &ContainerId, command: Vec<String>, timeout: Option<Duration>) -> Result<ExecResult, CriError> {
        self.call(format!("exec {}", command.join(" ")));
        if self.broken.load(Ordering::Relaxed) {
            return Err(CriError::Other("no shim".into()));
        }
        let (exit_code, hangs) = *self.exec.lock();
        if hangs {
            match timeout {
                None => std::future::pending::<()>().await,
                Some(t) => tokio::time::sleep(t).await,
            }
            return Err(CriError::DeadlineExceeded("timed out".into()));
        }
        Ok(ExecResult { exit_code, ..ExecResult::default() })
    }
    async fn exec(&self, _: &ContainerId, _: Vec<String>, streams: Streams) -> Result<i32, CriError> {
        let _running = (self.running.clone(), streams);
        let (code, hangs) = *self.exec.lock();
        if hangs {
            std::future::pending::<()>().await;
        }
        Ok(code)
    }
    async fn attach(&self, _: &ContainerId, _: Streams) -> Result<(), CriError> {
        Ok(())
    }
    async fn port_forward(&self, _: &SandboxId, _: u16) -> Result<Box<dyn Duplex>, CriError> {
        Err(CriError::Other("none".into()))
    }
    async fn update_resources(&self, id: &ContainerId, limits: crate::cri::CgroupLimits) -> Result<(), CriError> {
        self.call(format!("update {} {}", self.name(id), limits.cpu_shares));
        Ok(())
    }
    async fn reopen_log(&self, _: &ContainerId) -> Result<(), CriError> {
        Ok(())
    }
    async fn disk_usage(&self, _: &ContainerId) -> Result<runtime::DiskUsage, CriError> {
        Ok(runtime::DiskUsage::default())
    }
    async fn stats(&self, _: &ContainerId) -> Result<Stats, CriError> {
        Ok(Stats { memory_usage_bytes: self.memory_in_use.load(Ordering::Relaxed), ..Stats::default() })
    }
    async fn readings(&self, of: Vec<Measure>, _: bool) -> Vec<Option<Reading>> {
        of.iter().map(|_| Some(Reading::default())).collect()
    }
    fn image(&self, reference: &str) -> Option<Image> {
        (!reference.starts_with("missing")).then(|| Image { id: reference.to_owned(), origin: Some(Origin::imported()), ..Image::default() })
    }
    fn images(&self) -> Vec<Image> {
        Vec::new()
    }
    fn settle_origins(&self, _: &dyn Fn(&str) -> Origin) -> Result<(), CriError> {
        Ok(())
    }
    async fn pull(&self, reference: &str, _: Option<Credentials>) -> Result<Image, CriError> {
        if self.stalled.load(Ordering::Relaxed) {
            self.call(format!("pull {reference}"));
            std::future::pending::<()>().await;
        }
        Err(CriError::Other(format!("{reference}: not found")))
    }
    async fn remove_image(&self, _: &str) -> Result<(), CriError> {
        Ok(())
    }
}

/// A network with one address.
pub struct FakeNet;

#[async_trait]
impl PodNet for FakeNet {
    async fn attach(&self, _: &SandboxId, _: &Path, _: Vec<HostPort>) -> Result<Vec<IpAddr>, CriError> {
        Ok(vec![IpAddr::from([127, 0, 0, 1])])
    }
    async fn detach(&self, _: &SandboxId) -> Result<(), CriError> {
        Ok(())
    }
    async fn adopt(&self, _: &std::collections::HashSet<SandboxId>) -> Result<(), CriError> {
        Ok(())
    }
}

/// A running container of a pod, for tables of the planner and the status.
pub fn container(name: &str, attempt: u32, state: State, exit_code: i32) -> Container {
    let at = |s| SystemTime::UNIX_EPOCH + Duration::from_secs(s);
    Container {
        id: ContainerId(format!("{name}-{attempt}")),
        sandbox: SandboxId("s".into()),
        name: name.into(),
        attempt,
        state,
        created: at(100),
        started: (state != State::Created).then(|| at(101)),
        finished: (state == State::Exited).then(|| at(200)),
        exit_code,
        oom_killed: false,
        reason: String::new(),
        message: String::new(),
        image: "img".into(),
        image_id: "sha256:x".into(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        log_path: PathBuf::new(),
        user: None,
    }
}

/// A sandbox that is up, named as [`container`] names it.
pub fn sandbox(uid: &str, ready: bool) -> Sandbox {
    let labels = BTreeMap::from([(label::POD_UID.to_owned(), PodUid(uid.to_owned()).0)]);
    Sandbox { id: SandboxId("s".into()), ready, attempt: 0, created: SystemTime::UNIX_EPOCH, netns: None, labels }
}
