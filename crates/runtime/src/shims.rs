//! The life of shims as [`Runtime`] sees it: started, followed, found again by the next process, and ended.
//!
//! A shim is one thread that can hang (stopped, or its log lies on a disk that does not answer), so every question has an
//! end. One that does not answer what it can answer at once is killed: the containers die with it, which is told like
//! every other end, and a pod is never half there. Nobody takes a shim for dead that may still run: its containers are called
//! lost only when its process is gone.

use std::collections::HashSet;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::cgroup::{self, Level};
use crate::error::{Context, Error, Result};
use crate::prepare::SHIM_KILL_MAX;
use crate::proto::{self, Record, Reply, Request, SandboxFile};
use crate::runtime::{ContainerEntry, Inner, Runtime, SandboxEntry, SharedInput, State, blocking, netns_of, remove_tree};
use crate::shimclient::Connection;
use crate::types::*;
use crate::{files, prepare, sys};

/// A shim answers its first message within this, or is taken for dead.
const SHIM_START_MAX: Duration = Duration::from_secs(10);
/// A shim answers what it need not wait for within this, or hangs and is killed.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Between two subscriptions to one shim.
const ASK_AGAIN: Duration = Duration::from_millis(100);

impl Runtime {
    /// Makes a sandbox. What has been made of it is undone when anything fails: the shim is killed first, then waited for.
    pub(crate) async fn spawn_shim(&self, config: SandboxConfig) -> Result<Sandbox> {
        let (this, id) = (self.clone(), config.id.clone());
        let mut file = SandboxFile { config, created_ns: sys::now_ns(), users: None };
        let dir = self.sandbox_dir(&id);
        let (file, started) = blocking(move || {
            let started = this.start_shim(&mut file);
            Ok((file, started))
        })
        .await?;
        let greeted = match started {
            Ok(child) => greet(&dir, &id, child).await,
            Err(e) => Err(e),
        };
        let (pid, connection, child) = match greeted {
            Ok(greeted) => greeted,
            Err(e) => {
                let this = self.clone();
                let _ = blocking(move || {
                    let _ = remove_tree(&dir);
                    this.release(&file);
                    Ok(())
                })
                .await;
                return Err(e);
            }
        };
        self.insert_sandbox(file, pid, true);
        tokio::spawn(follow(Arc::clone(&self.0), id.clone(), connection, Some(child)));
        Ok(Sandbox { id, netns: netns_of(pid), shim_pid: pid })
    }

    fn start_shim(&self, file: &mut SandboxFile) -> Result<Child> {
        let dir = self.sandbox_dir(&file.config.id);
        files::private_dir(&dir)?;
        if file.config.user_namespace {
            file.users = Some(self.0.ranges.take(&file.config.id)?);
        }
        let SandboxConfig { cgroup_parent, resources, .. } = &file.config;
        if !cgroup_parent.is_empty() {
            let plan = self.0.cgroups.create(cgroup_parent, resources)?;
            self.0.cgroups.apply(&plan, resources, Level::Pod)?;
        }
        files::write_json(&dir.join(proto::SANDBOX_FILE), file)?;
        let listener = sys::seqpacket_listen(&dir.join(proto::SOCKET)).at("cannot listen in", &dir)?;
        let program = match &self.0.sealed {
            Some(fd) => PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())),
            None => self.0.config.shim.clone(),
        };
        let mut command = Command::new(program);
        // Without a directory of its own, which the shim chooses itself, the C library starts it without copying this process's
        // page tables (`posix_spawn`): a fork costs milliseconds, and page faults in every thread, when knarr holds much.
        command.arg0("knarr").arg("shim").arg(&dir).arg(&self.0.config.mark).env_clear();
        let errors = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(dir.join("shim.log"));
        command.stdin(Stdio::from(listener)).stdout(Stdio::null()).stderr(errors.at("cannot write in", &dir)?);
        command.spawn().context("cannot start the shim")
    }

    /// Gives back what a sandbox holds beside its directory. Its processes are gone.
    pub(crate) fn release(&self, file: &SandboxFile) {
        if !file.config.cgroup_parent.is_empty() {
            self.0.cgroups.remove(&file.config.cgroup_parent);
        }
        if let Some(users) = file.users {
            self.0.ranges.free(&file.config.id, users);
        }
    }

    fn insert_sandbox(&self, file: SandboxFile, shim_pid: u32, ready: bool) {
        let id = file.config.id.clone();
        self.0.state.lock().sandboxes.insert(id, SandboxEntry { file, shim_pid, ready, stopping: false });
    }

    /// Kills all of a sandbox and frees its namespaces. The sandbox and its containers can still be listed.
    pub async fn stop_sandbox(&self, id: &str) -> Result<()> {
        self.end_sandbox(id).await?;
        // Also where its shim died by itself: who hears that it is stopped gives its devices to others.
        self.settle(id).await
    }

    async fn end_sandbox(&self, id: &str) -> Result<()> {
        {
            let mut state = self.0.state.lock();
            let Some(sandbox) = state.sandboxes.get_mut(id) else { return Ok(()) };
            if !sandbox.ready {
                return Ok(());
            }
            sandbox.stopping = true;
        }
        let connection = Connection::open(&self.sandbox_dir(id), id);
        if let Ok(connection) = connection {
            // The answer is the end of the connection, which the follower sees too.
            let _ = tokio::time::timeout(ANSWER_MAX, connection.send(&Request::Shutdown, &[])).await;
        }
        let gone = |state: &State| state.sandboxes.get(id).is_none_or(|s| !s.ready);
        if self.wait_until(ANSWER_MAX, gone).await {
            return Ok(());
        }
        self.kill_shim(id).await;
        if self.wait_until(SHIM_KILL_MAX, gone).await {
            return Ok(());
        }
        Err(Error::Shim { sandbox: id.to_owned(), message: "does not end: the kernel holds it in a system call".to_owned() })
    }

    /// Ends a shim that hangs, and its containers with it.
    async fn kill_shim(&self, sandbox: &str) -> bool {
        tracing::warn!(sandbox, "its shim does not answer and is killed");
        let dir = self.sandbox_dir(sandbox);
        blocking(move || Ok(prepare::kill_shim(&dir, SHIM_KILL_MAX))).await.unwrap_or(false)
    }

    // ---- questions

    pub(crate) fn sandbox_dir(&self, id: &str) -> PathBuf {
        self.0.config.run.join("sandboxes").join(id)
    }

    pub(crate) fn connect(&self, sandbox: &str) -> Result<Connection> {
        Connection::open(&self.sandbox_dir(sandbox), sandbox)
    }

    pub(crate) fn sandbox_of(&self, container: &str) -> Result<String> {
        let sandbox = self.0.state.lock().containers.get(container).map(|c| c.sandbox.clone());
        sandbox.ok_or_else(|| Error::container(container))
    }

    pub(crate) fn connect_container(&self, id: &str) -> Result<Connection> {
        self.connect(&self.sandbox_of(id)?)
    }

    /// Asks the shim of a container for what it does at once. One that gives no answer is killed.
    pub(crate) async fn ask(&self, container: &str, request: &Request, fds: &[std::os::fd::OwnedFd]) -> Result<(Reply, Vec<std::os::fd::OwnedFd>)> {
        let sandbox = self.sandbox_of(container)?;
        match self.connect(&sandbox)?.call(request, fds, ANSWER_MAX).await {
            Err(Error::Timeout { .. }) => {
                self.kill_shim(&sandbox).await;
                Err(Error::Shim { sandbox, message: "gave no answer and was killed".to_owned() })
            }
            done => done,
        }
    }

    /// Waits until the state is as wanted; false when it was not in time.
    pub(crate) async fn wait_until(&self, limit: Duration, wanted: impl Fn(&State) -> bool) -> bool {
        let mut changes = self.0.changes.subscribe();
        let wait = async {
            while !wanted(&self.0.state.lock()) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(limit, wait).await.is_ok()
    }

    // ---- what a former process left

    /// Finds sandboxes: with living shims they are followed again, others are not ready.
    pub(crate) async fn adopt(&self) -> Result<()> {
        let base = self.0.config.run.join("sandboxes");
        let mut all = JoinSet::new();
        for entry in std::fs::read_dir(&base).at("cannot list", &base)?.flatten() {
            let dir = entry.path();
            let Some(file) = files::read_json::<SandboxFile>(&dir.join(proto::SANDBOX_FILE)) else {
                // Died between making the directory and writing the file: no shim can have been started.
                let _ = remove_tree(&dir);
                continue;
            };
            let this = self.clone();
            all.spawn(async move { this.adopt_sandbox(&dir, file).await });
        }
        all.join_all().await;
        let known: HashSet<String> = self.0.state.lock().sandboxes.keys().cloned().collect();
        self.0.ranges.keep(&known);
        self.remove_orphans();
        Ok(())
    }

    /// Writable layers whose containers nobody knows: of before a reboot, which empties the volatile directory, or of a
    /// creation that broke off.
    fn remove_orphans(&self) {
        let base = self.0.config.root.join("containers");
        for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
            let known = entry.file_name().to_str().is_some_and(|id| self.0.state.lock().containers.contains_key(id));
            if !known && let Err(e) = remove_tree(&entry.path()) {
                tracing::warn!(error = %e, "a writable layer stays");
            }
        }
    }

    async fn adopt_sandbox(&self, dir: &Path, file: SandboxFile) {
        let id = file.config.id.clone();
        let mut records: Vec<Record> = files::read_json(&dir.join(proto::STATE_FILE)).unwrap_or_default();
        let mut alive = None;
        if let Ok(connection) = Connection::open(dir, &id) {
            let greeted = tokio::time::timeout(SHIM_START_MAX, async {
                connection.send(&Request::Subscribe, &[]).await?;
                connection.receive().await
            });
            match greeted.await {
                Ok(Ok((Reply::States { pid, containers }, _))) => {
                    // As many as fit into one packet; of the others the file knows, and the follower hears at once.
                    records.retain(|r| !containers.iter().any(|c| c.id == r.id));
                    records.extend(containers);
                    alive = Some((pid, connection));
                }
                // It may run all the same, and its containers with it: a pod is not made twice.
                _ => drop(self.kill_shim(&id).await),
            }
        }
        for spec in prepare::specs(dir) {
            let known = records.iter().find(|r| r.id == spec.config.id).cloned();
            let mut record = known.unwrap_or_else(|| Record { id: spec.config.id.clone(), ..Record::default() });
            if alive.is_none() && record.state != ContainerState::Exited {
                cgroup::kill_all(&spec.cgroup);
                lose(&mut record);
            }
            let entry = ContainerEntry { sandbox: id.clone(), spec: Arc::new(spec), record, input: SharedInput::default() };
            self.0.state.lock().containers.insert(entry.spec.config.id.clone(), entry);
        }
        self.insert_sandbox(file, alive.as_ref().map_or(0, |(pid, _)| *pid), alive.is_some());
        if let Some((_, connection)) = alive {
            tokio::spawn(follow(Arc::clone(&self.0), id, connection, None));
        }
    }
}

/// Waits for a new shim's first answer. Without it the shim is killed and waited for.
async fn greet(dir: &Path, sandbox: &str, mut child: Child) -> Result<(u32, Connection, Child)> {
    let ask = async {
        let connection = Connection::open(dir, sandbox)?;
        connection.send(&Request::Subscribe, &[]).await?;
        match connection.receive().await?.0 {
            Reply::States { pid, .. } => Ok((pid, connection)),
            other => Err(connection.unexpected(&other)),
        }
    };
    let no_answer = || Err(Error::Shim { sandbox: sandbox.to_owned(), message: "no answer".to_owned() });
    match tokio::time::timeout(SHIM_START_MAX, ask).await.unwrap_or_else(|_| no_answer()) {
        Ok((pid, connection)) => Ok((pid, connection, child)),
        Err(e) => {
            let _ = child.kill();
            reap(child).await;
            let said = std::fs::read_to_string(dir.join("shim.log")).unwrap_or_default();
            Err(if said.is_empty() { e } else { Error::State(said.trim().to_owned()) })
        }
    }
}

/// Follows a shim's messages until it ends. That the connection does is not enough: a shim drops one that is slow to listen, and
/// goes on with its containers.
async fn follow(inner: Arc<Inner>, sandbox: String, mut connection: Connection, child: Option<Child>) {
    loop {
        match connection.receive().await {
            Ok((Reply::Changed { container }, _)) => inner.record(container),
            Ok((Reply::States { containers, .. }, _)) => containers.into_iter().for_each(|record| inner.record(record)),
            Ok(_) => {}
            Err(_) if connection.ended() => match subscribe_anew(&inner, &sandbox).await {
                Some(again) => connection = again,
                None => break,
            },
            // A message of a version that is not understood: the state will be asked for again by the next process.
            Err(e) => tracing::warn!(sandbox, error = %e, "a message of a shim is passed over"),
        }
    }
    if let Some(child) = child {
        reap(child).await;
    }
    inner.shim_gone(&sandbox).await;
}

/// Another connection to a shim that lives; its first answer, all states, is still to be read. One that does not listen any more
/// has ended, or is ending; that this process cannot ask (it has no descriptor left) says nothing of the shim.
async fn subscribe_anew(inner: &Arc<Inner>, sandbox: &str) -> Option<Connection> {
    let dir = Runtime(Arc::clone(inner)).sandbox_dir(sandbox);
    loop {
        let subscribed = match Connection::connect(&dir, sandbox) {
            Ok(connection) => connection.send(&Request::Subscribe, &[]).await.is_ok().then_some(connection),
            Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => return None,
            Err(error) => {
                tracing::warn!(sandbox, %error, "a shim cannot be asked just now");
                None
            }
        };
        // Also before what was asked is read: a shim that drops each of its listeners is not asked without a pause.
        tokio::time::sleep(ASK_AGAIN).await;
        if subscribed.is_some() {
            return subscribed;
        }
    }
}

/// Takes the exit status of a shim that has ended, so that no zombie stays.
async fn reap(mut child: Child) {
    let _ = tokio::task::spawn_blocking(move || child.wait()).await;
}

fn lose(record: &mut Record) {
    record.state = ContainerState::Exited;
    record.pid = 0;
    record.finished_ns = sys::now_ns();
    record.exit_code = 137;
    record.message = "the container's state was lost with its shim".to_owned();
}

impl Inner {
    /// Takes over a container's new state, unless a newer one is known, and tells the listeners.
    pub(crate) fn record(&self, record: Record) {
        let order = |s: ContainerState| match s {
            ContainerState::Created => 0,
            ContainerState::Running => 1,
            ContainerState::Exited => 2,
        };
        let (event, oom) = {
            let mut state = self.state.lock();
            let Some(entry) = state.containers.get_mut(&record.id) else { return };
            if order(record.state) <= order(entry.record.state) {
                // One that waits for its release has got its process: that is no event.
                if record.state == ContainerState::Created && entry.record.state == ContainerState::Created {
                    entry.record = record;
                }
                return;
            }
            entry.record = record;
            let (sandbox, container) = (entry.sandbox.clone(), entry.record.id.clone());
            let oom = entry.record.oom_killed.then(|| Event::Oom { sandbox: sandbox.clone(), container: container.clone() });
            let event =
                if entry.record.state == ContainerState::Running { Event::Started { sandbox, container } } else { Event::Exited { sandbox, container } };
            (event, oom)
        };
        self.changes.send_modify(|n| *n += 1);
        for event in oom.into_iter().chain([event]) {
            let _ = self.events.send(event);
        }
    }

    /// The shim is gone: what had not ended before is lost. Its containers' first processes die with it; what else they made
    /// (in the host's process namespace nothing ends with its first process) is killed here.
    async fn shim_gone(&self, sandbox: &str) {
        let left: Vec<_> = self.state.lock().containers.values().filter(|c| c.sandbox == sandbox).map(|c| Arc::clone(&c.spec)).collect();
        let kill = move || left.iter().filter(|spec| cgroup::kill_all(&spec.cgroup)).count();
        let _ = tokio::task::spawn_blocking(kill).await;
        let mut lost = Vec::new();
        let expected = {
            let mut state = self.state.lock();
            for entry in state.containers.values_mut().filter(|c| c.sandbox == sandbox) {
                if entry.record.state != ContainerState::Exited {
                    lose(&mut entry.record);
                    lost.push(entry.record.id.clone());
                }
            }
            let Some(entry) = state.sandboxes.get_mut(sandbox) else { return };
            entry.ready = false;
            entry.stopping
        };
        self.changes.send_modify(|n| *n += 1);
        for container in lost {
            let _ = self.events.send(Event::Exited { sandbox: sandbox.to_owned(), container });
        }
        if !expected {
            let _ = self.events.send(Event::SandboxGone { sandbox: sandbox.to_owned() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Packet;

    /// Answers one subscription; the connection is the caller's to drop.
    fn greeted(listener: &std::os::fd::OwnedFd, containers: Vec<Record>) -> std::os::fd::OwnedFd {
        let mut one = [libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
        crate::process::poll(&mut one, 10_000);
        let client = sys::accept(listener).unwrap();
        let body = Reply::States { pid: 1, containers };
        sys::send_packet(&client, &serde_json::to_vec(&Packet { version: proto::VERSION, body }).unwrap(), &[]).unwrap();
        client
    }

    /// A shim drops who is slow to listen, and goes on: what it says then is heard, and its containers are not called lost.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_shim_that_drops_its_listener_is_not_gone() {
        let base = std::env::temp_dir().join(format!("knarr-follow-{}", std::process::id()));
        // Of a run with the same number that was killed.
        let _ = std::fs::remove_dir_all(&base);
        let config = Config {
            root: base.join("root"),
            store: None,
            run: base.join("run"),
            cgroup_root: "/sys/fs/cgroup".into(),
            mark: format!("knarr-follow-{}", std::process::id()),
            registries: None,
            network: None,
            shim: "/bin/false".into(),
        };
        let rt = Runtime::open(config).await.unwrap();
        let dir = rt.sandbox_dir("s");
        files::private_dir(&dir).unwrap();
        let listener = sys::seqpacket_listen(&dir.join(proto::SOCKET)).unwrap();
        rt.insert_sandbox(SandboxFile { config: SandboxConfig { id: "s".into(), ..SandboxConfig::default() }, created_ns: 0, users: None }, 1, true);
        let spec = crate::proto::Spec { config: ContainerConfig { id: "c".into(), ..ContainerConfig::default() }, ..Default::default() };
        let running = Record { id: "c".into(), state: ContainerState::Running, pid: 7, ..Record::default() };
        let entry =
            ContainerEntry { sandbox: "s".into(), spec: Arc::new(spec), record: Record { id: "c".into(), ..Record::default() }, input: SharedInput::default() };
        rt.0.state.lock().containers.insert("c".into(), entry);
        let connection = rt.connect("s").unwrap();
        connection.send(&Request::Subscribe, &[]).await.unwrap();
        tokio::spawn(follow(Arc::clone(&rt.0), "s".into(), connection, None));
        let (listener, first) = tokio::task::spawn_blocking(move || {
            let first = greeted(&listener, Vec::new());
            (listener, first)
        })
        .await
        .unwrap();
        drop(first);
        let (listener, second) = tokio::task::spawn_blocking(move || {
            let second = greeted(&listener, vec![running]);
            (listener, second)
        })
        .await
        .unwrap();
        assert!(rt.wait_until(SHIM_START_MAX, |state| state.containers["c"].record.state == ContainerState::Running).await, "what it says is heard");
        assert!(rt.0.state.lock().sandboxes["s"].ready);
        drop((listener, second));
        assert!(rt.wait_until(SHIM_START_MAX, |state| !state.sandboxes["s"].ready).await, "now it is gone");
        assert_eq!(rt.container("c").unwrap().state, ContainerState::Exited);
        std::fs::remove_dir_all(&base).unwrap();
    }
}
