//! [`Runtime`]: the calls of the kubelet, and what is known of sandboxes and containers.
//!
//! The truth about a container is with its shim; this side keeps a copy that follows the shim's messages, so that reads
//! cost nothing and nobody polls. All directories below `run` and `root` are named by ids that the caller chose.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::sync::{broadcast, watch};

use crate::cgroup::{Cgroups, Level};
use crate::error::{Context, Error, Result};
use crate::images::Images;
use crate::prepare::SHIM_KILL_MAX;
use crate::proto::{Record, Reply, Request, SandboxFile, Spec};
use crate::stream::{AttachSession, ExecSession, OnceInput, Stream, Terminal};
use crate::types::*;
use crate::users::{self, Ranges};
use crate::{files, hooks, prepare, sys};

/// Events a slow listener may be behind before it is told that it missed some.
const EVENTS_MAX: usize = 4096;
/// Most bytes kept of each output of a short command: several times what probes (10 KiB) and hooks (1 KiB) tell, and little
/// enough for hundreds of probes at once.
const EXEC_OUTPUT_BYTES_MAX: u64 = 64 << 10;
/// A container's program runs within this, or its start has failed: the kubelet's own limit of a call (runtimeRequestTimeout).
pub(crate) const LAUNCH_MAX: Duration = Duration::from_secs(120);
/// Sandboxes are removed in order within this when everything is to go.
const PURGE_MAX: Duration = Duration::from_secs(10);
/// Killed processes are gone within this, unless the kernel holds them in a system call.
const KILL_MAX: Duration = Duration::from_secs(30);

/// The container runtime. Clones are the same runtime.
#[derive(Clone)]
pub struct Runtime(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) config: Config,
    images: Arc<Images>,
    pub(crate) cgroups: Cgroups,
    pub(crate) ranges: Ranges,
    pub(crate) state: Mutex<State>,
    pub(crate) events: broadcast::Sender<Event>,
    /// Counts changes: who waits for a state looks again at each.
    pub(crate) changes: watch::Sender<u64>,
    /// The shim's program on a read-only mount of its own, see [`seal`].
    pub(crate) sealed: Option<OwnedFd>,
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
pub(crate) struct State {
    pub(crate) sandboxes: HashMap<String, SandboxEntry>,
    pub(crate) containers: HashMap<String, ContainerEntry>,
}

pub(crate) struct SandboxEntry {
    pub(crate) file: SandboxFile,
    pub(crate) shim_pid: u32,
    pub(crate) ready: bool,
    /// The shim was told to end: its end is no news.
    pub(crate) stopping: bool,
}

pub(crate) struct ContainerEntry {
    pub(crate) sandbox: String,
    pub(crate) spec: Arc<Spec>,
    pub(crate) record: Record,
    /// The input that ends with the first client, once there was one. Who asks the shim for it holds the lock.
    pub(crate) input: SharedInput,
}

/// The input of a container for all its clients.
pub(crate) type SharedInput = Arc<tokio::sync::Mutex<Option<Arc<OnceInput>>>>;

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("mark", &self.0.config.mark).finish_non_exhaustive()
    }
}

impl Runtime {
    /// Opens the runtime's directories and adopts the shims of a former process. Must be called within a tokio runtime.
    pub async fn open(config: Config) -> Result<Runtime> {
        config.mark.split('/').try_for_each(prepare::check_id)?;
        prepare::check_host(&config.cgroup_root)?;
        prepare::check_overlay()?;
        let cgroups = Cgroups::new(&config.cgroup_root);
        cgroups.check_outside(&config.mark)?;
        for dir in [config.root.clone(), config.run.clone(), config.root.join("containers"), config.run.join("sandboxes")] {
            files::private_dir(&dir)?;
        }
        let inner = Inner {
            images: Arc::new(Images::open(&config)?),
            cgroups,
            ranges: Ranges::new(&config.mark),
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
        tokio::task::spawn_blocking(move || this.0.images.collect(&|| Ok(prepare::layers_in_use(this.0.images.users()?))));
        Ok(runtime)
    }

    /// Name and version, as `status.nodeInfo.containerRuntimeVersion` shows them.
    pub fn version() -> String {
        format!("knarr://{}", env!("CARGO_PKG_VERSION"))
    }

    /// Whether sandboxes with users of their own can be made here; the error says why not.
    pub fn user_namespaces(&self) -> Result<()> {
        users::check()
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

    /// Says how those images came that a version wrote down which did not say so. Blocks on the disk. Of images that are another
    /// runtime's nothing is known here: that one says it.
    pub fn settle_origins(&self, origin: &dyn Fn(&Image) -> Origin) -> Result<()> {
        if self.0.config.store.is_some() {
            return Ok(());
        }
        self.0.images.settle_origins(origin)
    }

    /// Imports an OCI layout (directory or tar) or a docker archive; gzip and zstd are recognised.
    pub async fn import(&self, path: &Path, progress: Arc<dyn Progress>) -> Result<Vec<Image>> {
        let (this, path) = (self.clone(), path.to_owned());
        blocking(move || this.0.images.import(&path, &*progress)).await
    }

    /// Takes a reference away, and the image with its last one. An id takes all. Layers in use by containers stay; an image that
    /// containers of another node of this host are made of is not this node's to remove.
    pub async fn remove_image(&self, reference: &str) -> Result<()> {
        let (this, reference) = (self.clone(), reference.to_owned());
        blocking(move || {
            let images = &this.0.images;
            let users = images.users().context("cannot tell who uses the images")?;
            let of_others = prepare::tops_in_use(users.into_iter().filter(|run| *run != this.0.config.run).collect());
            if images.find(&reference).is_some_and(|image| image.layers.last().is_some_and(|top| of_others.contains(top))) {
                return Err(Error::State(format!("image {reference:?} is used by containers of another node of this host")));
            }
            images.remove(&reference, &|| Ok(prepare::layers_in_use(images.users()?)))
        })
        .await
    }

    /// Registers an image made of local files as one layer, hard-linked where possible.
    pub async fn add_layer_image(&self, reference: &str, files: Vec<LocalFile>, config: ImageConfig) -> Result<Image> {
        let (this, reference) = (self.clone(), reference.to_owned());
        blocking(move || this.0.images.add_local(&reference, &files, config)).await
    }

    // ---- sandboxes

    /// Makes a sandbox: when this returns its namespaces exist and its loopback is up. Goes on when the caller leaves.
    pub async fn create_sandbox(&self, config: SandboxConfig) -> Result<Sandbox> {
        prepare::check_id(&config.id)?;
        let id = config.id.clone();
        if self.0.state.lock().sandboxes.contains_key(&id) {
            return Err(Error::State(format!("sandbox {id:?} exists already")));
        }
        if config.user_namespace {
            if config.host_network || config.host_pid || config.host_ipc {
                return Err(Error::Invalid("a sandbox with users of its own cannot share the host's namespaces".to_owned()));
            }
            users::check()?;
        }
        let this = self.clone();
        kept(async move { this.spawn_shim(config).await }).await
    }

    /// Forgets a sandbox with all its containers, stopping it first if need be.
    pub async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let (this, id) = (self.clone(), id.to_owned());
        kept(async move { this.forget_sandbox(&id).await }).await
    }

    async fn forget_sandbox(&self, id: &str) -> Result<()> {
        self.stop_sandbox(id).await?;
        let (file, containers) = {
            let state = self.0.state.lock();
            let Some(sandbox) = state.sandboxes.get(id) else { return Ok(()) };
            let of: Vec<String> = state.containers.iter().filter(|(_, c)| c.sandbox == id).map(|(id, _)| id.clone()).collect();
            (sandbox.file.clone(), of)
        };
        for container in containers {
            self.forget_container(&container).await?;
        }
        let (this, dir) = (self.clone(), self.sandbox_dir(id));
        blocking(move || {
            prepare::detach_mounts_below(&dir);
            remove_tree(&dir)?;
            this.release(&file);
            Ok(())
        })
        .await?;
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
        // How long it takes is the listener's affair.
        let (_, fds) = connection.call(&Request::PortForward { port }, &[], LAUNCH_MAX).await?;
        let fd = fds.into_iter().next().ok_or_else(|| connection.unexpected(&Reply::Connected))?;
        Stream::new(fd).context("cannot use the connection")
    }

    // ---- containers

    /// Prepares a container: everything that can be refused before its start is refused here.
    pub async fn create_container(&self, sandbox: &str, config: ContainerConfig) -> Result<()> {
        prepare::check_id(&config.id)?;
        let file = {
            let state = self.0.state.lock();
            let found = state.sandboxes.get(sandbox).filter(|s| s.ready && !s.stopping);
            let found = found.ok_or_else(|| Error::NotFound { kind: "sandbox", name: sandbox.to_owned() })?;
            if state.containers.contains_key(&config.id) {
                return Err(Error::State(format!("container {:?} exists already", config.id)));
            }
            found.file.clone()
        };
        let (this, sandbox) = (self.clone(), sandbox.to_owned());
        kept(async move { this.prepare_container(sandbox, file, config).await }).await
    }

    async fn prepare_container(&self, sandbox: String, file: SandboxFile, config: ContainerConfig) -> Result<()> {
        let id = config.id.clone();
        let (this, dir, name) = (self.clone(), self.sandbox_dir(&sandbox), id.clone());
        let spec = blocking(move || {
            let Inner { images, cgroups, config: host, .. } = &*this.0;
            let made = prepare::container(images, cgroups, &host.root, &file, config).and_then(|(spec, _pins)| {
                files::write_json(&spec_file(&dir, &name), &spec)?;
                Ok(spec)
            });
            if made.is_err() {
                cgroups.remove(&format!("{}/{name}", file.config.cgroup_parent.trim_end_matches('/')));
                let _ = remove_tree(&host.root.join("containers").join(&name));
            }
            made
        })
        .await?;
        let record = Record { id: id.clone(), ..Record::default() };
        let spec = Arc::new(spec);
        let entry = ContainerEntry { sandbox: sandbox.clone(), spec: Arc::clone(&spec), record, input: SharedInput::default() };
        {
            let mut state = self.0.state.lock();
            if state.sandboxes.get(&sandbox).is_some_and(|s| s.ready && !s.stopping) {
                state.containers.insert(id, entry);
                return Ok(());
            }
        }
        // It ended meanwhile, and whoever removes it may not see this container any more.
        let (this, file) = (self.clone(), spec_file(&self.sandbox_dir(&sandbox), &id));
        blocking(move || {
            this.0.cgroups.remove_plan(&spec.cgroup);
            let _ = std::fs::remove_file(file);
            remove_tree(&spec.container_dir)
        })
        .await?;
        Err(Error::NotFound { kind: "sandbox", name: sandbox })
    }

    /// Sends the stop signal, waits, then kills. Returns when the container has ended; at once if it has before.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        let Some(status) = self.container(id) else { return Ok(()) };
        // One that is held has a process too.
        if status.pid == 0 {
            return Ok(());
        }
        let ended = |state: &State| state.containers.get(id).is_none_or(|c| c.record.state == ContainerState::Exited);
        // A shim that did not answer has been killed, and its containers with it: that is what was wanted.
        let mut asked = Ok(());
        if !grace.is_zero() {
            asked = self.kill(id, status.stop_signal).await;
            if asked.is_ok() && self.wait_until(grace, ended).await {
                return Ok(());
            }
        }
        if asked.is_ok() {
            asked = self.signal(id, libc::SIGKILL, true).await;
        }
        if self.wait_until(if asked.is_ok() { KILL_MAX } else { SHIM_KILL_MAX }, ended).await {
            return Ok(());
        }
        asked?;
        Err(Error::State(format!("container {id:?} does not end: its processes hang in the kernel")))
    }

    /// Signals the container's first process.
    pub async fn kill(&self, id: &str, signal: i32) -> Result<()> {
        self.signal(id, signal, false).await
    }

    pub(crate) async fn signal(&self, id: &str, signal: i32, all: bool) -> Result<()> {
        self.ask(id, &Request::Kill { container: id.to_owned(), signal, all }, &[]).await.map(drop)
    }

    /// Forgets a container and its writable layer; kills it first if it runs.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        let (this, id) = (self.clone(), id.to_owned());
        kept(async move { this.forget_container(&id).await }).await
    }

    async fn forget_container(&self, id: &str) -> Result<()> {
        self.stop_container(id, Duration::ZERO).await?;
        let (sandbox, spec) = {
            let state = self.0.state.lock();
            let Some(entry) = state.containers.get(id) else { return Ok(()) };
            (entry.sandbox.clone(), Arc::clone(&entry.spec))
        };
        // A shim that is gone has forgotten it.
        let _ = self.ask(id, &Request::Forget { container: id.to_owned() }, &[]).await;
        let (this, dir, name) = (self.clone(), self.sandbox_dir(&sandbox), id.to_owned());
        blocking(move || {
            this.0.cgroups.remove_plan(&spec.cgroup);
            hooks::stopped(&spec);
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

    /// Runs a command to its end, within this time from now; `None` waits as long as it takes. What it says beyond
    /// [`ExecResult`]'s measure is read and forgotten.
    pub async fn exec_sync(&self, id: &str, cmd: Vec<String>, timeout: Option<Duration>) -> Result<ExecResult> {
        let command = cmd.join(" ");
        let config = ExecConfig { cmd, stdout: true, stderr: true, ..ExecConfig::default() };
        let all = async {
            let mut session = self.exec(id, config).await?;
            let (stdout, stderr) = (session.stdout.take(), session.stderr.take());
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
        let (_, fds) = session.connection.call(&request, &theirs, LAUNCH_MAX).await?;
        // The writing ends are the process's alone: their end is its.
        drop(theirs);
        if let Some(master) = fds.into_iter().next() {
            let (reader, writer, terminal) = terminal_ends(master)?;
            session.stdin = stdin.then_some(writer);
            session.stdout = Some(reader);
            session.terminal = Some(terminal);
        }
        Ok(session)
    }

    /// Joins the streams of a running container. All clients write into its one input; one that ends with the first of them comes from the
    /// shim once, and from here for the others.
    pub async fn attach(&self, id: &str, stdin: bool, stdout: bool, stderr: bool) -> Result<AttachSession> {
        let mut theirs = Vec::new();
        let known = self.0.state.lock().containers.get(id).map(|c| (c.spec.config.tty, c.spec.config.stdin_once, Arc::clone(&c.input)));
        let (tty, once, input) = known.unwrap_or_default();
        let ends_input = once && !tty;
        let mut session = AttachSession { stdin: None, stdout: None, stderr: None, terminal: None, ends_input };
        let stderr = stderr && !tty;
        for (wanted, slot) in [(stdout, &mut session.stdout), (stderr, &mut session.stderr)] {
            if wanted {
                let (read, write) = sys::pipe().context("cannot make a pipe")?;
                theirs.push(write);
                *slot = Some(Stream::new(read).context("cannot use a pipe")?);
            }
        }
        let request = Request::Attach { container: id.to_owned(), stdin, stdout, stderr };
        let mut shared = if ends_input && stdin { Some(input.lock().await) } else { None };
        let (reply, fds) = self.ask(id, &request, &theirs).await?;
        if let (Reply::Attached { terminal, stdin }, Some(fd)) = (&reply, fds.into_iter().next()) {
            if *terminal {
                let (_, writer, handle) = terminal_ends(fd)?;
                session.terminal = Some(handle);
                session.stdin = stdin.then_some(writer);
            } else if let Some(shared) = &mut shared {
                **shared = Some(OnceInput::new(fd));
            } else {
                session.stdin = Some(Stream::new(fd).context("cannot use the container's input")?);
            }
        }
        if let Some(once) = shared.as_ref().and_then(|shared| shared.as_ref()) {
            session.stdin = once.writer().context("cannot use the container's input")?;
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
        let (this, id) = (self.clone(), id.to_owned());
        blocking(move || {
            this.0.cgroups.apply(&spec.cgroup, &resources, Level::Container)?;
            prepare::merge_resources(&mut spec.config.resources, resources);
            files::write_json(&spec_file(&this.sandbox_dir(&sandbox), &id), &spec)?;
            if let Some(entry) = this.0.state.lock().containers.get_mut(&id) {
                entry.spec = Arc::new(spec);
            }
            Ok(())
        })
        .await
    }

    /// Makes the shim open the container's log anew, after it was renamed.
    pub async fn reopen_log(&self, id: &str) -> Result<()> {
        self.ask(id, &Request::ReopenLog { container: id.to_owned() }, &[]).await.map(drop)
    }

    /// A reading of the container's cgroup.
    pub fn stats(&self, id: &str) -> Result<Stats> {
        let spec = self.0.state.lock().containers.get(id).map(|c| Arc::clone(&c.spec));
        self.0.cgroups.stats(&spec.ok_or_else(|| Error::container(id))?.cgroup)
    }

    /// What the container's cgroup tells beside that: opens some twenty files, and looks at processes.
    pub fn detail(&self, id: &str) -> Result<Detail> {
        let spec = self.0.state.lock().containers.get(id).map(|c| Arc::clone(&c.spec));
        Ok(self.0.cgroups.detail(&spec.ok_or_else(|| Error::container(id))?.cgroup))
    }

    /// A reading of any cgroup below the cgroup root, such as a pod's.
    pub fn cgroup_stats(&self, cgroup: &str) -> Result<Stats> {
        self.0.cgroups.stats(&self.0.cgroups.plan(cgroup, &Resources::default()))
    }

    /// What such a cgroup tells beside that.
    pub fn cgroup_detail(&self, cgroup: &str) -> Detail {
        self.0.cgroups.detail(&self.0.cgroups.plan(cgroup, &Resources::default()))
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
        let mut removals = tokio::task::JoinSet::new();
        for id in ids {
            let this = self.clone();
            removals.spawn(async move {
                if let Err(e) = this.remove_sandbox(&id).await {
                    tracing::warn!(sandbox = id, error = %e, "not removed in order");
                }
            });
        }
        // All at once, and none for ever: what is not gone in order by then is killed below.
        let _ = tokio::time::timeout(PURGE_MAX, async { while removals.join_next().await.is_some() {} }).await;
        drop(removals);
        let this = self.clone();
        blocking(move || {
            let Config { root, run, mark, .. } = &this.0.config;
            prepare::kill_shims(run);
            for held in this.0.cgroups.purge(mark) {
                tracing::warn!("{held}");
            }
            prepare::detach_mounts_below(run);
            prepare::detach_mounts_below(&root.join("containers"));
            this.0.ranges.keep(&HashSet::new());
            remove_tree(&root.join("containers"))?;
            remove_tree(&run.join("sandboxes"))?;
            this.0.images.leave();
            Ok(())
        })
        .await?;
        *self.0.state.lock() = State::default();
        Ok(())
    }
}

fn status(entry: &ContainerEntry) -> ContainerStatus {
    let ContainerEntry { sandbox, spec, record, .. } = entry;
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

/// Reads to the end, and keeps the beginning: a process whose reader goes away dies of it.
async fn drain(stream: Option<Stream>, to: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let _ = (&mut stream).take(EXEC_OUTPUT_BYTES_MAX).read_to_end(to).await;
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
}

pub(crate) fn netns_of(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/net"))
}

fn spec_file(sandbox_dir: &Path, container: &str) -> PathBuf {
    sandbox_dir.join(format!("c-{container}.json"))
}

fn from_ns(ns: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(ns)
}

pub(crate) fn remove_tree(dir: &Path) -> Result<()> {
    crate::tree::remove(dir).context("cannot remove")
}

/// Work that belongs together and is not left half done when its caller goes away.
pub(crate) async fn kept<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(e) => Err(Error::State(format!("a worker failed: {e}"))),
    }
}

/// Runs blocking work off the executor's threads.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) => Err(Error::State(format!("a worker failed: {e}"))),
    }
}
