//! [`ContainerRuntime`] over the built-in runtime.
//!
//! Keeps which sandbox and container belongs to which pod, so that a pod's worker reads its own without walking through all
//! of the node's. The runtime stays the truth: the index is made from its labels, also after a restart.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ::runtime as rt;
use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::broadcast;
use tokio::task::{AbortHandle, JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::cri::{
    CgroupLimits, Container, ContainerId, ContainerRuntime, ContainerSpec, Credentials, CriError, Duplex, ExecResult, Image, Measure, Origin, PodUid, Reader,
    Reading, RuntimeEvent, Sandbox, SandboxId, SandboxSpec, SecuritySpec, Stats, Streams, Writer, label,
};
use crate::util;

/// Changes that a slow kubelet may be behind before it looks at everything.
const EVENTS: usize = 1024;
/// How long output is waited for after a process has ended: a child in the background may keep the pipe open for ever.
const DRAIN: Duration = Duration::from_millis(100);
/// Bytes copied at a time.
const BLOCK: usize = 32 << 10;
/// The annotation that keeps the image as the pod names it.
const IMAGE: &str = "io.kubernetes.container.image";

#[derive(Default)]
struct Index {
    sandboxes: HashMap<String, Sandbox>,
    pods: HashMap<PodUid, Mine>,
    /// Image ID to the name shown as `imageID`.
    image_names: HashMap<String, String>,
}

#[derive(Default)]
struct Mine {
    sandboxes: Vec<String>,
    containers: Vec<String>,
}

impl Index {
    fn add_sandbox(&mut self, s: Sandbox) {
        if let Some(uid) = s.labels.get(label::POD_UID) {
            let mine = self.pods.entry(PodUid(uid.clone())).or_default();
            if !mine.sandboxes.contains(&s.id.0) {
                mine.sandboxes.push(s.id.0.clone());
            }
        }
        self.sandboxes.insert(s.id.0.clone(), s);
    }

    fn uid_of(&self, sandbox: &str) -> Option<PodUid> {
        self.sandboxes.get(sandbox)?.labels.get(label::POD_UID).cloned().map(PodUid)
    }

    fn down(&mut self, sandbox: &str) {
        if let Some(s) = self.sandboxes.get_mut(sandbox) {
            s.ready = false;
        }
    }

    fn drop_empty(&mut self) {
        self.pods.retain(|_, m| !m.sandboxes.is_empty() || !m.containers.is_empty());
    }
}

/// The built-in runtime.
pub struct RealRuntime {
    inner: rt::Runtime,
    index: Arc<Mutex<Index>>,
    events: broadcast::Sender<RuntimeEvent>,
    follower: AbortHandle,
}

impl Drop for RealRuntime {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl RealRuntime {
    /// Over a runtime that is open. Must be called within a tokio runtime.
    #[must_use]
    pub fn new(inner: rt::Runtime) -> Self {
        let received = inner.events();
        let mut index = Index::default();
        for s in inner.sandboxes() {
            index.add_sandbox(sandbox(s));
        }
        for c in inner.containers() {
            if let Some(uid) = c.labels.get(label::POD_UID) {
                index.pods.entry(PodUid(uid.clone())).or_default().containers.push(c.id);
            }
        }
        let index = Arc::new(Mutex::new(index));
        let events = broadcast::Sender::new(EVENTS);
        let follower = tokio::spawn(follow(inner.clone(), received, Arc::clone(&index), events.clone())).abort_handle();
        Self { inner, index, events, follower }
    }

    fn container(&self, c: rt::ContainerStatus) -> Container {
        // It is resolved when the container is made: also of one whose process could not be started.
        let user = Some((i64::from(c.user.uid), i64::from(c.user.gid), c.user.groups.iter().map(|g| i64::from(*g)).collect()));
        let image_id = self.image_name(&c.image_id);
        Container {
            id: ContainerId(c.id),
            sandbox: SandboxId(c.sandbox),
            name: c.name,
            attempt: c.attempt,
            state: c.state,
            created: c.created,
            started: c.started,
            finished: c.finished,
            exit_code: c.exit_code,
            oom_killed: c.oom_killed,
            reason: c.reason,
            message: c.message,
            image: c.annotations.get(IMAGE).cloned().unwrap_or(c.image),
            image_id,
            labels: c.labels,
            annotations: c.annotations,
            log_path: c.log_path,
            user,
        }
    }

    /// What the status shows of an image: a digest reference, which a registry knows, before the bare ID.
    fn image_name(&self, id: &str) -> String {
        if let Some(known) = self.index.lock().image_names.get(id) {
            return known.clone();
        }
        let name = self.inner.image(id).and_then(|i| i.repo_digests.first().cloned()).unwrap_or_else(|| id.to_owned());
        self.index.lock().image_names.insert(id.to_owned(), name.clone());
        name
    }
}

async fn follow(inner: rt::Runtime, mut from: broadcast::Receiver<rt::Event>, index: Arc<Mutex<Index>>, to: broadcast::Sender<RuntimeEvent>) {
    loop {
        let pod = match from.recv().await {
            Ok(rt::Event::SandboxGone { sandbox }) => {
                let mut index = index.lock();
                index.down(&sandbox);
                index.uid_of(&sandbox)
            }
            Ok(rt::Event::Started { sandbox, .. } | rt::Event::Exited { sandbox, .. } | rt::Event::Oom { sandbox, .. }) => index.lock().uid_of(&sandbox),
            Err(broadcast::error::RecvError::Lagged(_)) => {
                for s in inner.sandboxes().into_iter().filter(|s| !s.ready) {
                    index.lock().down(&s.config.id);
                }
                None
            }
            Err(broadcast::error::RecvError::Closed) => return,
        };
        let _ = to.send(RuntimeEvent { pod });
    }
}

fn error(e: rt::Error) -> CriError {
    match e {
        e if e.is_not_found() => CriError::NotFound(e.to_string()),
        rt::Error::Timeout { .. } => CriError::DeadlineExceeded(e.to_string()),
        e => CriError::Other(e.to_string()),
    }
}

fn sandbox(s: rt::SandboxStatus) -> Sandbox {
    let netns = (!s.config.host_network).then_some(s.netns);
    Sandbox { id: SandboxId(s.config.id), ready: s.ready, attempt: s.config.attempt, created: s.created, netns, labels: s.config.labels }
}

fn resources(l: &CgroupLimits) -> rt::Resources {
    rt::Resources {
        cpu_shares: (l.cpu_shares > 0).then_some(l.cpu_shares),
        cpu_quota: (l.cpu_quota_us > 0).then_some(l.cpu_quota_us),
        cpu_period: (l.cpu_quota_us > 0).then_some(l.cpu_period_us),
        memory_limit: (l.memory_limit_bytes > 0).then_some(l.memory_limit_bytes),
        hugepages: l.huge_pages.clone(),
        ..rt::Resources::default()
    }
}

fn user(s: &SecuritySpec) -> Result<rt::User, CriError> {
    let id = |v: i64| u32::try_from(v).map_err(|_| CriError::Other(format!("id {v} is out of range")));
    Ok(rt::User {
        uid: s.uid.map(id).transpose()?,
        gid: s.gid.map(id).transpose()?,
        supplemental: s.supplemental_groups.iter().map(|g| id(*g)).collect::<Result<_, _>>()?,
        policy: if s.merge_groups { rt::SupplementalGroupsPolicy::Merge } else { rt::SupplementalGroupsPolicy::Strict },
    })
}

fn config(id: String, c: ContainerSpec) -> Result<rt::ContainerConfig, CriError> {
    let user = user(&c.security)?;
    let s = c.security;
    let unmasked = s.unmasked_proc.then(Vec::new);
    Ok(rt::ContainerConfig {
        // What only the OCI's own configuration can ask for.
        rootfs: None,
        capability_sets: None,
        rlimits: Vec::new(),
        id,
        name: c.name,
        attempt: c.attempt,
        image: c.image,
        command: c.command,
        args: c.args,
        env: c.env,
        working_dir: c.working_dir,
        mounts: c.mounts,
        devices: c.devices,
        hooks: c.hooks,
        user,
        capabilities_add: s.add_capabilities,
        capabilities_drop: s.drop_capabilities,
        privileged: s.privileged,
        readonly_rootfs: s.readonly_rootfs,
        no_new_privileges: s.no_new_privileges,
        seccomp: s.seccomp,
        masked_paths: unmasked.clone(),
        readonly_paths: unmasked,
        resources: rt::Resources { oom_score_adj: Some(c.limits.oom_score_adj), ..resources(&c.limits) },
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        tty: c.tty,
        log_path: c.log_path,
        labels: c.labels,
        annotations: c.annotations,
        stop_signal: c.stop_signal,
        pid_target: c.target.map(|t| t.0),
        apparmor: s.apparmor,
    })
}

/// Tasks that end with their owner: who is dropped in the middle leaves none behind.
#[derive(Default)]
struct Helpers(Vec<AbortHandle>);

impl Drop for Helpers {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

impl Helpers {
    fn new(inputs: [Option<AbortHandle>; 2], outputs: &[Option<JoinHandle<()>>; 2]) -> Self {
        Self(inputs.into_iter().flatten().chain(outputs.iter().flatten().map(JoinHandle::abort_handle)).collect())
    }
}

fn image(i: rt::Image) -> Image {
    Image { id: i.id, repo_tags: i.repo_tags, repo_digests: i.repo_digests, size_bytes: i.size, user: i.config.user, origin: i.origin }
}

/// Copies until the end of `from`, or until nothing comes any more after `ended`.
fn output(from: Option<rt::Stream>, to: Option<Writer>, ended: CancellationToken) -> Option<JoinHandle<()>> {
    let (mut from, mut to) = from.zip(to)?;
    Some(tokio::spawn(async move {
        let mut block = vec![0; BLOCK];
        loop {
            let got = tokio::select! {
                biased;
                got = from.read(&mut block) => got,
                () = async { ended.cancelled().await; tokio::time::sleep(DRAIN).await } => break,
            };
            let Ok(n @ 1..) = got else { break };
            if to.write_all(&block[..n]).await.is_err() || to.flush().await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    }))
}

fn input(from: Option<Reader>, to: Option<rt::Stream>) -> Option<JoinHandle<()>> {
    let (mut from, mut to) = from.zip(to)?;
    let ended = to.ended_by_others();
    let copy = async move {
        tokio::select! {
            _ = tokio::io::copy(&mut from, &mut to) => {
                let _ = to.shutdown().await;
            }
            () = ended.cancelled() => {
                drop(to);
                // What the client still types goes nowhere, and he learns of it then (containerd's `io.Copy` into what is closed).
                let _ = from.read(&mut [0; 1]).await;
            }
        }
    };
    Some(tokio::spawn(copy))
}

fn resizes(terminal: Option<rt::Terminal>, sizes: Option<tokio::sync::mpsc::Receiver<(u16, u16)>>) -> Option<AbortHandle> {
    let (terminal, mut sizes) = terminal.zip(sizes)?;
    let follow = async move {
        while let Some((columns, rows)) = sizes.recv().await {
            if let Err(e) = terminal.resize(columns, rows) {
                tracing::debug!(error = %e, "terminal not resized");
            }
        }
    };
    Some(tokio::spawn(follow).abort_handle())
}

#[async_trait]
impl ContainerRuntime for RealRuntime {
    fn version(&self) -> String {
        rt::Runtime::version()
    }

    fn user_namespaces(&self) -> Result<(), CriError> {
        self.inner.user_namespaces().map_err(error)
    }

    fn sandboxes(&self) -> Vec<Sandbox> {
        self.index.lock().sandboxes.values().cloned().collect()
    }

    fn containers(&self) -> Vec<Container> {
        self.inner.containers().into_iter().map(|c| self.container(c)).collect()
    }

    fn pod_sandboxes(&self, uid: &PodUid) -> Vec<Sandbox> {
        let index = self.index.lock();
        let mine = index.pods.get(uid).map(|m| m.sandboxes.as_slice()).unwrap_or_default();
        mine.iter().filter_map(|id| index.sandboxes.get(id).cloned()).collect()
    }

    fn pod_containers(&self, uid: &PodUid) -> Vec<Container> {
        let ids = self.index.lock().pods.get(uid).map(|m| m.containers.clone()).unwrap_or_default();
        ids.iter().filter_map(|id| self.inner.container(id)).map(|c| self.container(c)).collect()
    }

    fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.events.subscribe()
    }

    async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Sandbox, CriError> {
        let made = Sandbox {
            id: SandboxId(util::random_id()),
            ready: true,
            attempt: spec.attempt,
            created: std::time::SystemTime::now(),
            netns: None,
            labels: spec.labels.clone(),
        };
        let config = rt::SandboxConfig {
            id: made.id.0.clone(),
            name: spec.name,
            namespace: spec.namespace,
            uid: spec.uid,
            attempt: spec.attempt,
            hostname: spec.hostname,
            resolv_conf: spec.resolv_conf,
            cgroup_parent: spec.cgroup_parent,
            resources: resources(&spec.limits),
            host_network: spec.host_network,
            host_pid: spec.host_pid,
            host_ipc: spec.host_ipc,
            share_pid: spec.share_pid,
            sysctls: spec.sysctls,
            labels: spec.labels,
            annotations: spec.annotations,
            log_dir: spec.log_dir,
            shm_bytes: 0,
            user_namespace: spec.user_namespace,
        };
        // Known before it is up: its end, should it come at once, is news of a pod that has a name.
        self.index.lock().add_sandbox(Sandbox { ready: false, ..made.clone() });
        match self.inner.create_sandbox(config).await {
            Ok(up) => {
                let made = Sandbox { netns: (!spec.host_network).then_some(up.netns), ..made };
                self.index.lock().add_sandbox(made.clone());
                Ok(made)
            }
            Err(e) => {
                self.forget_sandbox(&made.id.0);
                Err(error(e))
            }
        }
    }

    async fn stop_sandbox(&self, id: &SandboxId) -> Result<(), CriError> {
        self.inner.stop_sandbox(&id.0).await.map_err(error)?;
        self.index.lock().down(&id.0);
        Ok(())
    }

    async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), CriError> {
        self.inner.remove_sandbox(&id.0).await.map_err(error)?;
        self.forget_sandbox(&id.0);
        Ok(())
    }

    async fn create_container(&self, sandbox: &SandboxId, spec: ContainerSpec) -> Result<ContainerId, CriError> {
        let id = util::random_id();
        let uid = spec.labels.get(label::POD_UID).cloned().map(PodUid);
        self.inner.create_container(&sandbox.0, config(id.clone(), spec)?).await.map_err(error)?;
        if let Some(uid) = uid {
            self.index.lock().pods.entry(uid).or_default().containers.push(id.clone());
        }
        Ok(ContainerId(id))
    }

    async fn start_container(&self, id: &ContainerId) -> Result<(), CriError> {
        self.inner.start_container(&id.0).await.map_err(error)
    }

    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<(), CriError> {
        self.inner.stop_container(&id.0, grace).await.map_err(error)
    }

    async fn remove_container(&self, id: &ContainerId) -> Result<(), CriError> {
        self.inner.remove_container(&id.0).await.map_err(error)?;
        let mut index = self.index.lock();
        for m in index.pods.values_mut() {
            m.containers.retain(|c| *c != id.0);
        }
        index.drop_empty();
        Ok(())
    }

    async fn exec_sync(&self, id: &ContainerId, command: Vec<String>, timeout: Option<Duration>) -> Result<ExecResult, CriError> {
        self.inner.exec_sync(&id.0, command, timeout).await.map_err(error)
    }

    async fn exec(&self, id: &ContainerId, command: Vec<String>, streams: Streams) -> Result<i32, CriError> {
        let wanted = rt::ExecConfig {
            cmd: command,
            tty: streams.tty,
            stdin: streams.stdin.is_some(),
            stdout: streams.stdout.is_some() || streams.tty,
            stderr: streams.stderr.is_some(),
        };
        let mut session = self.inner.exec(&id.0, wanted).await.map_err(error)?;
        let ended = CancellationToken::new();
        let typed = input(streams.stdin, session.stdin.take());
        let inputs = [typed.as_ref().map(JoinHandle::abort_handle), resizes(session.terminal.take(), streams.resize)];
        let outputs = [output(session.stdout.take(), streams.stdout, ended.clone()), output(session.stderr.take(), streams.stderr, ended.clone())];
        let _helpers = Helpers::new(inputs, &outputs);
        let code = session.wait().await.map_err(error);
        ended.cancel();
        for o in outputs.into_iter().flatten() {
            let _ = o.await;
        }
        code
    }

    async fn attach(&self, id: &ContainerId, streams: Streams) -> Result<(), CriError> {
        let (stdin, stdout, stderr) = (streams.stdin.is_some(), streams.stdout.is_some(), streams.stderr.is_some());
        let mut session = self.inner.attach(&id.0, stdin, stdout, stderr).await.map_err(error)?;
        let ended = CancellationToken::new();
        let typed = input(streams.stdin, session.stdin.take());
        let inputs = [typed.as_ref().map(JoinHandle::abort_handle), resizes(session.terminal.take(), streams.resize)];
        let outputs = [output(session.stdout.take(), streams.stdout, ended.clone()), output(session.stderr.take(), streams.stderr, ended.clone())];
        let _helpers = Helpers::new(inputs, &outputs);
        let is_heard = outputs.iter().any(Option::is_some);
        let mut heard = std::pin::pin!(async move {
            for o in outputs.into_iter().flatten() {
                let _ = o.await;
            }
        });
        match typed {
            // Who only types is attached until he ends.
            Some(typed) if !is_heard => {
                let _ = typed.await;
            }
            // Who ends only his own part of the input leaves, as with containerd.
            Some(typed) if !session.ends_input => {
                tokio::select! {
                    () = &mut heard => {}
                    _ = typed => {
                        let _ = tokio::time::timeout(DRAIN, heard).await;
                    }
                }
            }
            _ => heard.await,
        }
        Ok(())
    }

    async fn port_forward(&self, sandbox: &SandboxId, port: u16) -> Result<Box<dyn Duplex>, CriError> {
        Ok(Box::new(self.inner.port_forward(&sandbox.0, port).await.map_err(error)?))
    }

    async fn update_resources(&self, id: &ContainerId, limits: CgroupLimits) -> Result<(), CriError> {
        let new = rt::Resources { oom_score_adj: None, ..resources(&limits) };
        self.inner.update_resources(&id.0, new).await.map_err(error)
    }

    async fn reopen_log(&self, id: &ContainerId) -> Result<(), CriError> {
        self.inner.reopen_log(&id.0).await.map_err(error)
    }

    async fn disk_usage(&self, id: &ContainerId) -> Result<rt::DiskUsage, CriError> {
        self.inner.disk_usage(&id.0).await.map_err(error)
    }

    async fn stats(&self, id: &ContainerId) -> Result<Stats, CriError> {
        self.inner.stats(&id.0).map_err(error)
    }

    async fn readings(&self, of: Vec<Measure>, whole: bool) -> Vec<Option<Reading>> {
        let inner = self.inner.clone();
        let read = move |of: Measure| {
            let (stats, detail) = match &of {
                Measure::Container(id) => (inner.stats(&id.0).ok()?, whole.then(|| inner.detail(&id.0).unwrap_or_default())),
                Measure::Cgroup(path) => (inner.cgroup_stats(path).ok()?, whole.then(|| inner.cgroup_detail(path))),
            };
            Some(Reading { stats, detail })
        };
        crate::util::blocking(move || of.into_iter().map(read).collect()).await
    }

    fn image(&self, reference: &str) -> Option<Image> {
        self.inner.image(reference).map(image)
    }

    fn images(&self) -> Vec<Image> {
        self.inner.images().into_iter().map(image).collect()
    }

    fn settle_origins(&self, origin: &dyn Fn(&str) -> Origin) -> Result<(), CriError> {
        self.inner.settle_origins(&|image| origin(&image.id)).map_err(error)
    }

    async fn pull(&self, reference: &str, credentials: Option<Credentials>) -> Result<Image, CriError> {
        let pulled = self.inner.pull(reference, credentials, Arc::new(())).await.map_err(error)?;
        self.index.lock().image_names.remove(&pulled.id);
        Ok(image(pulled))
    }

    async fn remove_image(&self, reference: &str) -> Result<(), CriError> {
        self.inner.remove_image(reference).await.map_err(error)
    }
}

impl RealRuntime {
    fn forget_sandbox(&self, id: &str) {
        let mut index = self.index.lock();
        index.sandboxes.remove(id);
        for m in index.pods.values_mut() {
            m.sandboxes.retain(|s| s != id);
        }
        // The sandbox's containers went with it.
        for m in index.pods.values_mut().filter(|m| m.sandboxes.is_empty()) {
            m.containers.clear();
        }
        index.drop_empty();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_hangs_up_leaves_no_copy_behind() {
        let (from, _silent) = tokio::io::duplex(64);
        let copy = tokio::spawn(async move {
            let mut from = from;
            let _ = from.read_u8().await;
        });
        let watched = copy.abort_handle();
        // As an attach does whose client goes in the middle of it.
        let attach = async {
            let outputs = [Some(copy), None];
            let _helpers = Helpers::new([None, None], &outputs);
            std::future::pending::<()>().await;
        };
        assert!(tokio::time::timeout(Duration::from_millis(5), attach).await.is_err());
        while !watched.is_finished() {
            tokio::task::yield_now().await;
        }
    }
}
