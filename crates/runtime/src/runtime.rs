//! [`Runtime`]: the calls of the kubelet, and what is known of sandboxes and containers.
//!
//! The truth about a container is with its shim; this side keeps a copy that follows the shim's messages, so that reads
//! cost nothing and nobody polls. All directories below `run` and `root` are named by ids that the caller chose.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::sync::{broadcast, watch};

use crate::cgroup::Cgroups;
use crate::error::{Context, Error, Result};
use crate::images::Images;
use crate::proto::{self, Record, Reply, Request, Spec};
use crate::shimclient::Connection;
use crate::stream::{AttachSession, ExecSession, Stream, Terminal};
use crate::types::*;
use crate::{prepare, sys};

/// Events a slow listener may be behind before it is told that it missed some.
const EVENTS_MAX: usize = 4096;
/// Most bytes kept of each output of a short command, as containerd's CRI plugin limits it.
const EXEC_OUTPUT_BYTES_MAX: u64 = 16 << 20;
/// A shim answers its first message within this, or is taken for dead.
const SHIM_START_MAX: Duration = Duration::from_secs(10);
/// Killed processes are gone within this, unless the kernel holds them in a system call.
const KILL_MAX: Duration = Duration::from_secs(30);

/// The container runtime. Clones are the same runtime.
#[derive(Clone)]
pub struct Runtime(Arc<Inner>);

pub(crate) struct Inner {
    config: Config,
    images: Arc<Images>,
    cgroups: Cgroups,
    state: Mutex<State>,
    events: broadcast::Sender<Event>,
    /// Counts changes: who waits for a state looks again at each.
    changes: watch::Sender<u64>,
    /// The shim's program on a read-only mount of its own, see [`seal`].
    sealed: Option<OwnedFd>,
}

/// A detached read-only mount of the program. A container whose command is `/proc/self/exe` makes its shim execute the
/// host's program inside; by this mount it cannot be opened for writing from there.
fn seal(program: &Path) -> Option<OwnedFd> {
    const READ_ONLY: u64 = sys::MOUNT_ATTR_RDONLY;
    let sealed = sys::c_path(program).and_then(|path| sys::open_tree(libc::AT_FDCWD, &path, false));
    let sealed = sealed.and_then(|tree| sys::mount_setattr(&tree, false, READ_ONLY, 0).map(|()| tree));
    sealed.map_err(|e| tracing::debug!(error = %e, "the shim runs from the program's own place")).ok()
}

#[derive(Default)]
struct State {
    sandboxes: HashMap<String, SandboxEntry>,
    containers: HashMap<String, ContainerEntry>,
}

struct SandboxEntry {
    file: SandboxFile,
    shim_pid: u32,
    ready: bool,
    /// The shim was told to end: its end is no news.
    stopping: bool,
}

struct ContainerEntry {
    sandbox: String,
    spec: Arc<Spec>,
    record: Record,
}

/// `sandbox.json`.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct SandboxFile {
    pub(crate) config: SandboxConfig,
    pub(crate) created_ns: u64,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("mark", &self.0.config.mark).finish_non_exhaustive()
    }
}

impl Runtime {
    /// Opens the runtime's directories and adopts the shims of a former process. Must be called within a tokio runtime.
    pub async fn open(config: Config) -> Result<Runtime> {
        prepare::check_id(&config.mark)?;
        prepare::check_host(&config.cgroup_root)?;
        prepare::check_overlay()?;
        for dir in [config.root.join("containers"), config.run.join("sandboxes")] {
            std::fs::create_dir_all(&dir).at("cannot make", &dir)?;
        }
        let inner = Inner {
            images: Arc::new(Images::open(&config.root, config.registries.as_deref())?),
            cgroups: Cgroups::new(&config.cgroup_root),
            state: Mutex::default(),
            events: broadcast::channel(EVENTS_MAX).0,
            changes: watch::channel(0).0,
            sealed: seal(&config.shim),
            config,
        };
        let runtime = Runtime(Arc::new(inner));
        runtime.adopt().await?;
        let this = runtime.clone();
        // What a crash left unfinished; nothing waits for it.
        tokio::task::spawn_blocking(move || this.0.images.collect(&prepare::layers_in_use(&this.0.config.run)));
        Ok(runtime)
    }

    /// Name and version, as `status.nodeInfo.containerRuntimeVersion` shows them.
    pub fn version() -> String {
        format!("knarr://{}", env!("CARGO_PKG_VERSION"))
    }

    // ---- images

    /// Fetches an image, unless a pull of the same one is under way: then it waits for that one.
    pub async fn pull(&self, reference: &str, credentials: Option<Credentials>, progress: Arc<dyn Progress>) -> Result<Image> {
        self.0.images.pull(reference, credentials, progress).await
    }

    /// An image by reference (as users write it) or id.
    pub fn image(&self, reference: &str) -> Option<Image> {
        self.0.images.find(reference)
    }

    /// All images.
    pub fn images(&self) -> Vec<Image> {
        self.0.images.all()
    }

    /// Imports an OCI layout (directory or tar) or a docker archive; gzip and zstd are recognised.
    pub async fn import(&self, path: &Path, progress: Arc<dyn Progress>) -> Result<Vec<Image>> {
        let (this, path) = (self.clone(), path.to_owned());
        blocking(move || this.0.images.import(&path, &*progress)).await
    }

    /// Takes a reference away, and the image with its last one. An id takes all. Layers in use by containers stay.
    pub async fn remove_image(&self, reference: &str) -> Result<()> {
        let (this, reference) = (self.clone(), reference.to_owned());
        blocking(move || this.0.images.remove(&reference, &prepare::layers_in_use(&this.0.config.run))).await
    }

    /// Registers an image made of local files as one layer, hard-linked where possible.
    pub async fn add_layer_image(&self, reference: &str, files: Vec<LocalFile>, config: ImageConfig) -> Result<Image> {
        let (this, reference) = (self.clone(), reference.to_owned());
        blocking(move || this.0.images.add_local(&reference, &files, config)).await
    }

    // ---- sandboxes

    /// Makes a sandbox: when this returns its namespaces exist and its loopback is up.
    pub async fn create_sandbox(&self, config: SandboxConfig) -> Result<Sandbox> {
        prepare::check_id(&config.id)?;
        let id = config.id.clone();
        if self.0.state.lock().sandboxes.contains_key(&id) {
            return Err(Error::State(format!("sandbox {id:?} exists already")));
        }
        let dir = self.sandbox_dir(&id);
        let made = self.spawn_shim(&dir, config).await;
        if made.is_err() {
            let _ = remove_tree(&dir);
        }
        made
    }

    async fn spawn_shim(&self, dir: &Path, config: SandboxConfig) -> Result<Sandbox> {
        let id = config.id.clone();
        std::fs::create_dir_all(dir).at("cannot make", dir)?;
        if !config.cgroup_parent.is_empty() {
            let plan = self.0.cgroups.create(&config.cgroup_parent, &config.resources)?;
            self.0.cgroups.apply(&plan, &config.resources)?;
        }
        let file = SandboxFile { config, created_ns: sys::now_ns() };
        prepare::write_json(&dir.join(proto::SANDBOX_FILE), &file)?;
        let listener = sys::seqpacket_listen(&dir.join(proto::SOCKET)).at("cannot listen in", dir)?;
        let program = match &self.0.sealed {
            Some(fd) => PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())),
            None => self.0.config.shim.clone(),
        };
        let mut command = Command::new(program);
        // Without a directory of its own, which the shim chooses itself, the C library starts it without copying this process's
        // page tables (`posix_spawn`): a fork costs milliseconds, and page faults in every thread, when knarr holds much.
        command.arg0("knarr").arg("shim").arg(dir).arg(&self.0.config.mark).env_clear();
        let errors = std::fs::File::create(dir.join("shim.log")).at("cannot write in", dir)?;
        command.stdin(Stdio::from(listener)).stdout(Stdio::null()).stderr(errors);
        let child = blocking(move || command.spawn().context("cannot start the shim")).await?;
        let connection = Connection::open(dir, &id)?;
        connection.send(&Request::Subscribe, &[]).await?;
        let first = tokio::time::timeout(SHIM_START_MAX, connection.receive()).await;
        let (pid, _) = match first.unwrap_or_else(|_| Err(Error::Shim { sandbox: id.clone(), message: "no answer".to_owned() })) {
            Ok((Reply::States { pid, containers }, _)) => (pid, containers),
            Ok((other, _)) => return Err(connection.unexpected(&other)),
            Err(e) => {
                let said = std::fs::read_to_string(dir.join("shim.log")).unwrap_or_default();
                reap(child).await;
                return Err(if said.is_empty() { e } else { Error::State(said.trim().to_owned()) });
            }
        };
        self.insert_sandbox(file, pid, true);
        tokio::spawn(follow(Arc::clone(&self.0), id.clone(), connection, Some(child)));
        Ok(Sandbox { id, netns: netns_of(pid), shim_pid: pid })
    }

    fn insert_sandbox(&self, file: SandboxFile, shim_pid: u32, ready: bool) {
        let id = file.config.id.clone();
        self.0.state.lock().sandboxes.insert(id, SandboxEntry { file, shim_pid, ready, stopping: false });
    }

    /// Kills all of a sandbox and frees its namespaces. The sandbox and its containers can still be listed.
    pub async fn stop_sandbox(&self, id: &str) -> Result<()> {
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
            let _ = connection.send(&Request::Shutdown, &[]).await;
        }
        let gone = self.wait_until(KILL_MAX, |state| state.sandboxes.get(id).is_none_or(|s| !s.ready)).await;
        if gone { Ok(()) } else { Err(Error::Shim { sandbox: id.to_owned(), message: "does not end".to_owned() }) }
    }

    /// Forgets a sandbox with all its containers, stopping it first if need be.
    pub async fn remove_sandbox(&self, id: &str) -> Result<()> {
        self.stop_sandbox(id).await?;
        let (file, containers) = {
            let state = self.0.state.lock();
            let Some(sandbox) = state.sandboxes.get(id) else { return Ok(()) };
            let of: Vec<String> = state.containers.iter().filter(|(_, c)| c.sandbox == id).map(|(id, _)| id.clone()).collect();
            (sandbox.file.clone(), of)
        };
        for container in containers {
            self.remove_container(&container).await?;
        }
        let dir = self.sandbox_dir(id);
        prepare::detach_mounts_below(&dir);
        remove_tree(&dir)?;
        if !file.config.cgroup_parent.is_empty() {
            self.0.cgroups.remove(&file.config.cgroup_parent);
        }
        self.0.state.lock().sandboxes.remove(id);
        Ok(())
    }

    /// All sandboxes, also stopped ones.
    pub fn sandboxes(&self) -> Vec<SandboxStatus> {
        let state = self.0.state.lock();
        let status = |s: &SandboxEntry| SandboxStatus {
            config: s.file.config.clone(),
            ready: s.ready,
            netns: netns_of(s.shim_pid),
            shim_pid: s.shim_pid,
            created: from_ns(s.file.created_ns),
        };
        state.sandboxes.values().map(status).collect()
    }

    /// Connects to a port on the loopback address of the sandbox's network.
    pub async fn port_forward(&self, sandbox: &str, port: u16) -> Result<Stream> {
        let connection = self.connect(sandbox)?;
        let (_, fds) = connection.call(&Request::PortForward { port }, &[]).await?;
        let fd = fds.into_iter().next().ok_or_else(|| connection.unexpected(&Reply::Connected))?;
        Stream::new(fd).context("cannot use the connection")
    }

    // ---- containers

    /// Prepares a container: everything that can be refused before its start is refused here.
    pub async fn create_container(&self, sandbox: &str, config: ContainerConfig) -> Result<()> {
        prepare::check_id(&config.id)?;
        let sandbox_config = {
            let state = self.0.state.lock();
            let found = state.sandboxes.get(sandbox).filter(|s| s.ready && !s.stopping);
            let found = found.ok_or_else(|| Error::NotFound { kind: "sandbox", name: sandbox.to_owned() })?;
            if state.containers.contains_key(&config.id) {
                return Err(Error::State(format!("container {:?} exists already", config.id)));
            }
            found.file.config.clone()
        };
        let id = config.id.clone();
        let (this, dir) = (self.clone(), self.sandbox_dir(sandbox));
        let spec = blocking(move || {
            let Inner { images, cgroups, config: host, .. } = &*this.0;
            let spec = prepare::container(images, cgroups, &host.root, &sandbox_config, config)?;
            prepare::write_json(&spec_file(&dir, &spec.config.id), &spec)?;
            Ok(spec)
        })
        .await?;
        let record = Record { id: id.clone(), ..Record::default() };
        let entry = ContainerEntry { sandbox: sandbox.to_owned(), spec: Arc::new(spec), record };
        self.0.state.lock().containers.insert(id, entry);
        Ok(())
    }

    /// Starts a prepared container: when this returns its program runs.
    pub async fn start_container(&self, id: &str) -> Result<()> {
        let connection = self.connect_container(id)?;
        match connection.call(&Request::Start { container: id.to_owned() }, &[]).await?.0 {
            Reply::Changed { container } => {
                self.0.record(container);
                Ok(())
            }
            other => Err(connection.unexpected(&other)),
        }
    }

    /// Sends the stop signal, waits, then kills. Returns when the container has ended; at once if it has before.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        let Some(status) = self.container(id) else { return Ok(()) };
        if status.state != ContainerState::Running {
            return Ok(());
        }
        let ended = |state: &State| state.containers.get(id).is_none_or(|c| c.record.state == ContainerState::Exited);
        if !grace.is_zero() {
            self.kill(id, status.stop_signal).await?;
            if self.wait_until(grace, ended).await {
                return Ok(());
            }
        }
        self.signal(id, libc::SIGKILL, true).await?;
        if self.wait_until(KILL_MAX, ended).await {
            return Ok(());
        }
        Err(Error::State(format!("container {id:?} does not end: its processes hang in the kernel")))
    }

    /// Signals the container's first process.
    pub async fn kill(&self, id: &str, signal: i32) -> Result<()> {
        self.signal(id, signal, false).await
    }

    async fn signal(&self, id: &str, signal: i32, all: bool) -> Result<()> {
        let connection = self.connect_container(id)?;
        connection.call(&Request::Kill { container: id.to_owned(), signal, all }, &[]).await.map(drop)
    }

    /// Forgets a container and its writable layer; kills it first if it runs.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        self.stop_container(id, Duration::ZERO).await?;
        let (sandbox, spec) = {
            let state = self.0.state.lock();
            let Some(entry) = state.containers.get(id) else { return Ok(()) };
            (entry.sandbox.clone(), Arc::clone(&entry.spec))
        };
        if let Ok(connection) = self.connect(&sandbox) {
            let _ = connection.call(&Request::Forget { container: id.to_owned() }, &[]).await;
        }
        let (this, dir, name) = (self.clone(), self.sandbox_dir(&sandbox), id.to_owned());
        blocking(move || {
            this.0.cgroups.remove_plan(&spec.cgroup);
            remove_tree(&spec.container_dir)?;
            let _ = std::fs::remove_file(spec_file(&dir, &name));
            Ok(())
        })
        .await?;
        self.0.state.lock().containers.remove(id);
        Ok(())
    }

    /// All containers.
    pub fn containers(&self) -> Vec<ContainerStatus> {
        self.0.state.lock().containers.values().map(status).collect()
    }

    /// One container.
    pub fn container(&self, id: &str) -> Option<ContainerStatus> {
        self.0.state.lock().containers.get(id).map(status)
    }

    /// Runs a command to its end. `None` waits as long as it takes.
    pub async fn exec_sync(&self, id: &str, cmd: Vec<String>, timeout: Option<Duration>) -> Result<ExecResult> {
        let command = cmd.join(" ");
        let config = ExecConfig { cmd, stdout: true, stderr: true, ..ExecConfig::default() };
        let mut session = self.exec(id, config).await?;
        let (stdout, stderr) = (session.stdout.take(), session.stderr.take());
        let all = async {
            // The exit is awaited first: a background child that keeps the pipe open must not hold the answer back.
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let code = {
                let read = async { tokio::join!(drain(stdout, &mut out), drain(stderr, &mut err)) };
                tokio::pin!(read);
                tokio::select! {
                    _ = &mut read => session.wait().await?,
                    code = session.wait() => {
                        let _ = tokio::time::timeout(Duration::from_millis(100), read).await;
                        code?
                    }
                }
            };
            Ok(ExecResult { stdout: out, stderr: err, exit_code: code })
        };
        match timeout {
            None => all.await,
            Some(limit) => tokio::time::timeout(limit, all).await.unwrap_or(Err(Error::Timeout { command })),
        }
    }

    /// Starts a command with streams.
    pub async fn exec(&self, id: &str, config: ExecConfig) -> Result<ExecSession> {
        let ExecConfig { cmd, tty, stdin, stdout, stderr } = config;
        if cmd.is_empty() {
            return Err(Error::Invalid("no command given".to_owned()));
        }
        let connection = self.connect_container(id)?;
        let mut theirs = Vec::new();
        let mut session = ExecSession { stdin: None, stdout: None, stderr: None, terminal: None, connection };
        if !tty {
            if stdin {
                let (read, write) = sys::pipe().context("cannot make a pipe")?;
                theirs.push(read);
                session.stdin = Some(Stream::new(write).context("cannot use a pipe")?);
            }
            for (wanted, slot) in [(stdout, &mut session.stdout), (stderr, &mut session.stderr)] {
                if wanted {
                    let (read, write) = sys::pipe().context("cannot make a pipe")?;
                    theirs.push(write);
                    *slot = Some(Stream::new(read).context("cannot use a pipe")?);
                }
            }
        }
        let request = Request::Exec { container: id.to_owned(), cmd, tty, stdin, stdout, stderr };
        let (_, fds) = session.connection.call(&request, &theirs).await?;
        if let Some(master) = fds.into_iter().next() {
            let (reader, writer, terminal) = terminal_ends(master)?;
            session.stdin = stdin.then_some(writer);
            session.stdout = Some(reader);
            session.terminal = Some(terminal);
        }
        Ok(session)
    }

    /// Joins the streams of a running container.
    pub async fn attach(&self, id: &str, stdin: bool, stdout: bool, stderr: bool) -> Result<AttachSession> {
        let connection = self.connect_container(id)?;
        let mut theirs = Vec::new();
        let mut session = AttachSession { stdin: None, stdout: None, stderr: None, terminal: None };
        let tty = self.0.state.lock().containers.get(id).is_some_and(|c| c.spec.config.tty);
        let stderr = stderr && !tty;
        for (wanted, slot) in [(stdout, &mut session.stdout), (stderr, &mut session.stderr)] {
            if wanted {
                let (read, write) = sys::pipe().context("cannot make a pipe")?;
                theirs.push(write);
                *slot = Some(Stream::new(read).context("cannot use a pipe")?);
            }
        }
        let request = Request::Attach { container: id.to_owned(), stdin, stdout, stderr };
        let (reply, fds) = connection.call(&request, &theirs).await?;
        if let (Reply::Attached { terminal, stdin }, Some(fd)) = (&reply, fds.into_iter().next()) {
            if *terminal {
                let (_, writer, handle) = terminal_ends(fd)?;
                session.terminal = Some(handle);
                session.stdin = stdin.then_some(writer);
            } else {
                session.stdin = Some(Stream::new(fd).context("cannot use the container's input")?);
            }
        }
        Ok(session)
    }

    /// Applies new limits to a container that exists.
    pub async fn update_resources(&self, id: &str, resources: Resources) -> Result<()> {
        let (sandbox, mut spec) = {
            let state = self.0.state.lock();
            let entry = state.containers.get(id).ok_or_else(|| Error::container(id))?;
            (entry.sandbox.clone(), (*entry.spec).clone())
        };
        self.0.cgroups.apply(&spec.cgroup, &resources)?;
        prepare::merge_resources(&mut spec.config.resources, resources);
        prepare::write_json(&spec_file(&self.sandbox_dir(&sandbox), id), &spec)?;
        if let Some(entry) = self.0.state.lock().containers.get_mut(id) {
            entry.spec = Arc::new(spec);
        }
        Ok(())
    }

    /// Makes the shim open the container's log anew, after it was renamed.
    pub async fn reopen_log(&self, id: &str) -> Result<()> {
        let connection = self.connect_container(id)?;
        connection.call(&Request::ReopenLog { container: id.to_owned() }, &[]).await.map(drop)
    }

    /// A reading of the container's cgroup.
    pub fn stats(&self, id: &str) -> Result<Stats> {
        let spec = self.0.state.lock().containers.get(id).map(|c| Arc::clone(&c.spec));
        self.0.cgroups.stats(&spec.ok_or_else(|| Error::container(id))?.cgroup)
    }

    /// A reading of any cgroup below the cgroup root, such as a pod's.
    pub fn cgroup_stats(&self, cgroup: &str) -> Result<Stats> {
        self.0.cgroups.stats(&self.0.cgroups.plan(cgroup, &Resources::default()))
    }

    /// The space that the container's writable layer takes. Walks it: not for every second.
    pub async fn disk_usage(&self, id: &str) -> Result<DiskUsage> {
        let spec = self.0.state.lock().containers.get(id).map(|c| Arc::clone(&c.spec));
        let dir = spec.ok_or_else(|| Error::container(id))?.container_dir.join("upper");
        blocking(move || Ok(crate::tree::usage(&dir))).await
    }

    /// What happens from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.0.events.subscribe()
    }

    /// Removes every process, mount, cgroup and directory of this mark; images stay. Works without shims that answer.
    pub async fn purge(&self) -> Result<()> {
        let ids: Vec<String> = self.0.state.lock().sandboxes.keys().cloned().collect();
        for id in ids {
            if let Err(e) = self.remove_sandbox(&id).await {
                tracing::warn!(sandbox = id, error = %e, "not removed in order");
            }
        }
        let this = self.clone();
        blocking(move || {
            let Config { root, run, mark, .. } = &this.0.config;
            prepare::kill_shims(run);
            this.0.cgroups.purge(mark);
            prepare::detach_mounts_below(run);
            prepare::detach_mounts_below(&root.join("containers"));
            remove_tree(&root.join("containers"))?;
            remove_tree(&run.join("sandboxes"))
        })
        .await?;
        *self.0.state.lock() = State::default();
        Ok(())
    }

    // ---- shims

    fn sandbox_dir(&self, id: &str) -> PathBuf {
        self.0.config.run.join("sandboxes").join(id)
    }

    fn connect(&self, sandbox: &str) -> Result<Connection> {
        Connection::open(&self.sandbox_dir(sandbox), sandbox)
    }

    fn connect_container(&self, id: &str) -> Result<Connection> {
        let sandbox = self.0.state.lock().containers.get(id).map(|c| c.sandbox.clone());
        self.connect(&sandbox.ok_or_else(|| Error::container(id))?)
    }

    /// Waits until the state is as wanted; false when it was not in time.
    async fn wait_until(&self, limit: Duration, wanted: impl Fn(&State) -> bool) -> bool {
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

    /// Finds what a former process left: sandboxes with living shims are followed again, others are not ready.
    async fn adopt(&self) -> Result<()> {
        let base = self.0.config.run.join("sandboxes");
        for entry in std::fs::read_dir(&base).at("cannot list", &base)?.flatten() {
            let dir = entry.path();
            let Some(file) = prepare::read_json::<SandboxFile>(&dir.join(proto::SANDBOX_FILE)) else {
                // Died between making the directory and writing the file: no shim can have been started.
                let _ = remove_tree(&dir);
                continue;
            };
            self.adopt_sandbox(&dir, file).await;
        }
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
        let mut records: Vec<Record> = prepare::read_json(&dir.join(proto::STATE_FILE)).unwrap_or_default();
        let mut alive = None;
        if let Ok(connection) = Connection::open(dir, &id)
            && connection.send(&Request::Subscribe, &[]).await.is_ok()
            && let Ok(Ok((Reply::States { pid, containers }, _))) = tokio::time::timeout(SHIM_START_MAX, connection.receive()).await
        {
            records = containers;
            alive = Some((pid, connection));
        }
        for spec in prepare::specs(dir) {
            let known = records.iter().find(|r| r.id == spec.config.id).cloned();
            let mut record = known.unwrap_or_else(|| Record { id: spec.config.id.clone(), ..Record::default() });
            if alive.is_none() && record.state != ContainerState::Exited {
                lose(&mut record);
            }
            let entry = ContainerEntry { sandbox: id.clone(), spec: Arc::new(spec), record };
            self.0.state.lock().containers.insert(entry.spec.config.id.clone(), entry);
        }
        self.insert_sandbox(file, alive.as_ref().map_or(0, |(pid, _)| *pid), alive.is_some());
        if let Some((_, connection)) = alive {
            tokio::spawn(follow(Arc::clone(&self.0), id, connection, None));
        }
    }
}

impl Inner {
    /// Takes over a container's new state, unless a newer one is known, and tells the listeners.
    fn record(&self, record: Record) {
        let order = |s: ContainerState| match s {
            ContainerState::Created => 0,
            ContainerState::Running => 1,
            ContainerState::Exited => 2,
        };
        let (event, oom) = {
            let mut state = self.state.lock();
            let Some(entry) = state.containers.get_mut(&record.id) else { return };
            if order(record.state) <= order(entry.record.state) {
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

    /// The shim is gone: what had not ended before is lost.
    fn shim_gone(&self, sandbox: &str) {
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

/// Follows a shim's messages until it ends.
async fn follow(inner: Arc<Inner>, sandbox: String, connection: Connection, child: Option<Child>) {
    loop {
        match connection.receive().await {
            Ok((Reply::Changed { container }, _)) => inner.record(container),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    if let Some(child) = child {
        reap(child).await;
    }
    inner.shim_gone(&sandbox);
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

fn status(entry: &ContainerEntry) -> ContainerStatus {
    let ContainerEntry { sandbox, spec, record } = entry;
    let config = &spec.config;
    let reason = match record {
        Record { state: ContainerState::Created | ContainerState::Running, .. } => "",
        Record { start_failed: true, .. } => "StartError",
        Record { oom_killed: true, .. } => "OOMKilled",
        Record { message, .. } if !message.is_empty() => "ContainerStatusUnknown",
        Record { exit_code: 0, .. } => "Completed",
        _ => "Error",
    };
    ContainerStatus {
        id: config.id.clone(),
        sandbox: sandbox.clone(),
        name: config.name.clone(),
        attempt: config.attempt,
        state: record.state,
        pid: record.pid,
        created: from_ns(spec.created_ns),
        started: (record.started_ns > 0).then(|| from_ns(record.started_ns)),
        finished: (record.finished_ns > 0).then(|| from_ns(record.finished_ns)),
        exit_code: record.exit_code,
        signal: record.signal,
        oom_killed: record.oom_killed,
        reason: reason.to_owned(),
        message: record.message.clone(),
        image: config.image.clone(),
        image_id: spec.image_id.clone(),
        log_path: spec.log_path.clone(),
        user: spec.user.clone(),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        mounts: config.mounts.clone(),
        resources: config.resources.clone(),
        stop_signal: spec.stop_signal,
    }
}

/// Reading end, writing end and size of a terminal whose controlling side this is.
fn terminal_ends(master: OwnedFd) -> Result<(Stream, Stream, Terminal)> {
    let copy = |fd: &OwnedFd| fd.try_clone().and_then(Stream::new).context("cannot use the terminal");
    let (reader, writer) = (copy(&master)?, copy(&master)?);
    Ok((reader, writer, Terminal(Arc::new(master))))
}

async fn drain(stream: Option<Stream>, to: &mut Vec<u8>) {
    if let Some(stream) = stream {
        let _ = stream.take(EXEC_OUTPUT_BYTES_MAX).read_to_end(to).await;
    }
}

fn netns_of(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/net"))
}

fn spec_file(sandbox_dir: &Path, container: &str) -> PathBuf {
    sandbox_dir.join(format!("c-{container}.json"))
}

fn from_ns(ns: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(ns)
}

fn remove_tree(dir: &Path) -> Result<()> {
    crate::tree::remove(dir).context("cannot remove")
}

/// Runs blocking work off the executor's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) => Err(Error::State(format!("a worker failed: {e}"))),
    }
}
