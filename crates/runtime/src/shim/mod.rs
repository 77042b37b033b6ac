//! The process that stands behind a sandbox: `knarr shim DIRECTORY MARK`, with its listening socket as standard input.
//!
//! It holds the pod's namespaces, starts, joins and reaps the containers' processes, writes their logs, and keeps in
//! `state.json` what became of them. It has one thread and waits in one poll(2): that makes it small, and forking from it
//! sound. It never waits for anything else: starts and execs are followed by descriptors like all the rest. It outlives the
//! process that started it and serves any number of connections; when it is killed, its containers die with it.

mod child;
mod container;
mod dev;
mod hooks;
mod log;
mod mounts;
mod requests;
mod restrict;
mod rootfs;
mod users;
mod volume;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use self::container::Container;
use self::users::Users;
use crate::proto::{self, Packet, Record, Reply, Request, SandboxFile};
use crate::types::{ContainerState, SandboxConfig};
use crate::{cgroup, files, process, sys};

/// What a step of the shim or its children gives; the error is for a person.
type Step<T> = Result<T, String>;

/// Bytes read from a stream at once.
const READ_BYTES: usize = 32 * 1024;
/// The size of a pod's shared memory unless it is configured, as Docker has it.
const SHM_BYTES: u64 = 64 << 20;
/// After so much quiet the pages of the program that were used last are given back.
const QUIET_MS: i32 = 3000;
/// A connection that does not read is dropped with this many packets waiting.
const QUEUE_MAX: usize = 10_000;

/// Runs a shim. `args` are those after `shim`: the sandbox's directory and the cluster's mark (for who looks at the list
/// of processes). To be called before anything else of the program starts: no thread, no runtime.
pub fn shim_main(args: Vec<OsString>) -> ! {
    let Some(dir) = args.first() else {
        eprintln!("usage: shim DIRECTORY MARK");
        process::exit_now(2);
    };
    let code = match Shim::new(PathBuf::from(dir)) {
        Ok(mut shim) => {
            shim.serve();
            0
        }
        Err(text) => {
            eprintln!("{text}");
            1
        }
    };
    process::exit_now(code)
}

/// The namespaces among which children are made.
struct Host {
    dir: PathBuf,
    sandbox: SandboxConfig,
    /// The mount namespace of the host.
    host_ns: OwnedFd,
    /// A mount namespace that has nothing but the pod's shared memory, as its root.
    pod_ns: OwnedFd,
    /// The process namespace that its containers share, if they do.
    shared_pids: Option<SharedPids>,
    /// The pod's own users, if it has any.
    users: Option<Users>,
}

/// A process namespace for all containers of a pod.
struct SharedPids {
    namespace: OwnedFd,
    /// Its first process.
    first: i32,
    /// A mount namespace that has nothing but its `/proc`, as its root.
    proc: OwnedFd,
}

/// A client.
struct Client {
    id: u64,
    fd: OwnedFd,
    subscribed: bool,
    queue: VecDeque<Vec<u8>>,
}

/// A process between clone and exec.
struct Launch {
    /// The process that is to become the program, or that makes it.
    pid: i32,
    /// It is the former.
    known: bool,
    channel: OwnedFd,
    terminal: Option<OwnedFd>,
    failure: Option<String>,
    /// Who waits for the answer.
    client: u64,
    container: String,
    exec: bool,
    held: Held,
}

/// Whether a container's process stops before its program.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    /// Nobody wants it, or it has not come that far.
    No,
    /// Its file system is made, and it waits for hooks.
    Made,
    /// All is made, and it waits.
    Waiting,
    /// It was let go.
    Released,
}

impl Held {
    fn waits(self) -> bool {
        matches!(self, Held::Made | Held::Waiting)
    }
}

/// A connection to a port of the pod that is not made yet: its listener is slow to take it.
struct Connecting {
    fd: OwnedFd,
    port: u16,
    client: u64,
}

/// A further process of a container.
struct Exec {
    pid: i32,
    client: u64,
}

struct Shim {
    host: Host,
    signals: OwnedFd,
    listener: OwnedFd,
    /// There was no descriptor left for who came: others must go first, or a while must pass.
    full: bool,
    clients: Vec<Client>,
    last_client: u64,
    containers: Vec<Container>,
    launches: Vec<Launch>,
    execs: Vec<Exec>,
    connecting: Vec<Connecting>,
    stopping: bool,
    buffer: Vec<u8>,
}

/// What a descriptor in the poll list belongs to.
#[derive(Clone, Copy)]
enum Source {
    Signals,
    Listener,
    Client(u64),
    Launch(i32),
    Connecting(u64),
    /// Container and output, by position; both lists only change after all events of a round were seen.
    Output(usize, usize),
    /// Container and listener, by position.
    Attached(usize, usize),
}

impl Shim {
    fn new(dir: PathBuf) -> Step<Shim> {
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGPIPE] {
            process::ignore_signal(signal);
        }
        let signals = process::signal_fd(&[libc::SIGCHLD]).map_err(|e| format!("signalfd: {e}"))?;
        // Whatever directory knarr was started in stays free.
        process::chdir(c"/").map_err(|e| format!("chdir: {e}"))?;
        process::new_session();
        process::leave_keyring().map_err(|e| format!("new session keyring: {e}"))?;
        process::set_umask(0o022);
        process::set_name(c"knarr-shim");
        // Containers' processes cannot look into ours, nor into a child that has not become their program yet.
        let set = |option, value| process::prctl(option, value).map_err(|e| format!("prctl: {e}"));
        set(libc::PR_SET_DUMPABLE, 0)?;
        set(libc::PR_SET_CHILD_SUBREAPER, 1)?;
        // Lowering it may be refused; then the shim is as mortal as its containers.
        let _ = std::fs::write("/proc/self/oom_score_adj", "-998");
        let file: SandboxFile = files::read_json(&dir.join(proto::SANDBOX_FILE)).ok_or("no sandbox configuration")?;
        let host = namespaces(dir, file)?;
        // SAFETY: the runtime gave the listening socket as standard input; nothing else uses that number.
        #[allow(unsafe_code)]
        let listener = unsafe { OwnedFd::from_raw_fd(0) };
        Ok(Shim {
            host,
            signals,
            listener,
            full: false,
            clients: Vec::new(),
            last_client: 0,
            containers: Vec::new(),
            launches: Vec::new(),
            execs: Vec::new(),
            connecting: Vec::new(),
            stopping: false,
            buffer: vec![0; READ_BYTES],
        })
    }

    /// Until it is told to end and nothing is left.
    fn serve(&mut self) {
        let mut fds: Vec<libc::pollfd> = Vec::new();
        let mut sources: Vec<Source> = Vec::new();
        let mut lean = false;
        while !(self.stopping && self.idle()) {
            fds.clear();
            sources.clear();
            self.watch(|source, fd, events| {
                sources.push(source);
                fds.push(libc::pollfd { fd, events, revents: 0 });
            });
            process::poll(&mut fds, if lean && !self.full { -1 } else { QUIET_MS });
            self.full = false;
            lean = fds.iter().all(|fd| fd.revents == 0);
            if lean {
                slim();
                continue;
            }
            let ready = fds.iter().zip(&sources).filter(|(fd, _)| fd.revents != 0);
            // Streams first: what a process wrote before it ended is read before its end is told.
            let mut ready: Vec<(Source, i16)> = ready.map(|(fd, source)| (*source, fd.revents)).collect();
            ready.sort_by_key(|(source, _)| match source {
                Source::Output(..) | Source::Attached(..) => 0,
                Source::Launch(_) | Source::Connecting(_) => 1,
                Source::Signals => 2,
                Source::Client(_) | Source::Listener => 3,
            });
            for (source, events) in ready {
                self.handle(source, events);
            }
            self.containers.iter_mut().for_each(Container::tidy);
        }
        if let Some(shared) = &self.host.shared_pids {
            sys::kill(shared.first, libc::SIGKILL);
        }
    }

    fn idle(&self) -> bool {
        self.launches.is_empty() && self.containers.iter().all(|c| c.record.state != ContainerState::Running)
    }

    /// Everything that is waited for.
    fn watch(&self, mut add: impl FnMut(Source, i32, i16)) {
        add(Source::Signals, self.signals.as_raw_fd(), libc::POLLIN);
        if !self.full {
            add(Source::Listener, self.listener.as_raw_fd(), libc::POLLIN);
        }
        for client in &self.clients {
            let more = if client.queue.is_empty() { 0 } else { libc::POLLOUT };
            add(Source::Client(client.id), client.fd.as_raw_fd(), libc::POLLIN | more);
        }
        for launch in &self.launches {
            add(Source::Launch(launch.pid), launch.channel.as_raw_fd(), libc::POLLIN);
        }
        for connecting in &self.connecting {
            add(Source::Connecting(connecting.client), connecting.fd.as_raw_fd(), libc::POLLOUT);
        }
        for (at, container) in self.containers.iter().enumerate() {
            if !container.held_back() {
                for (n, output) in container.outputs.iter().enumerate() {
                    add(Source::Output(at, n), output.fd.as_raw_fd(), libc::POLLIN);
                }
            }
            // That nobody reads any more is told unasked: a silent container would keep who has left for ever.
            for (n, attached) in container.attached.iter().enumerate() {
                add(Source::Attached(at, n), attached.fd.as_raw_fd(), if attached.pending.is_empty() { 0 } else { libc::POLLOUT });
            }
        }
    }

    fn handle(&mut self, source: Source, events: i16) {
        match source {
            Source::Signals => {
                let _ = sys::read(&self.signals, &mut self.buffer);
                while let Some((pid, code, signal)) = process::reap() {
                    self.ended(pid, code, signal);
                }
            }
            Source::Listener => {
                match sys::accept(&self.listener) {
                    Ok(fd) => {
                        self.last_client += 1;
                        self.clients.push(Client { id: self.last_client, fd, subscribed: false, queue: VecDeque::new() });
                    }
                    // Who waits is still there, and would wake it again and again.
                    Err(e) => self.full = matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS)),
                }
            }
            Source::Client(id) => self.client_ready(id, events),
            Source::Launch(pid) => self.launch_ready(pid, false),
            Source::Connecting(client) => self.connection_ready(client),
            Source::Output(at, n) => {
                if let Some(container) = self.containers.get_mut(at) {
                    container.read(n, &mut self.buffer);
                }
            }
            Source::Attached(at, n) => {
                if let Some(container) = self.containers.get_mut(at) {
                    container.listener_ready(n, events & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0);
                }
            }
        }
    }

    // ---- clients

    fn client_ready(&mut self, id: u64, events: i16) {
        let Some(client) = self.clients.iter_mut().find(|c| c.id == id) else { return };
        if events & libc::POLLOUT != 0 {
            while let Some(packet) = client.queue.front() {
                match sys::send_packet(&client.fd, packet, &[]) {
                    Ok(()) => drop(client.queue.pop_front()),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => return self.drop_client(id),
                }
            }
        }
        if events & !libc::POLLOUT == 0 {
            return;
        }
        match sys::receive_packet(&client.fd) {
            Ok((bytes, fds)) if !bytes.is_empty() => match serde_json::from_slice::<Packet<Request>>(&bytes) {
                Ok(packet) => self.request(id, packet.body, fds),
                Err(e) => {
                    let message = format!("this shim (protocol {}) does not understand: {e}", proto::VERSION);
                    self.reply(id, &Reply::Failed { not_found: false, start: false, message }, &[]);
                }
            },
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            _ => self.drop_client(id),
        }
    }

    /// Who started an exec, or runs hooks for a container, and leaves does not want it any more.
    fn drop_client(&mut self, id: u64) {
        self.clients.retain(|c| c.id != id);
        self.connecting.retain(|c| c.client != id);
        for exec in self.execs.iter().filter(|e| e.client == id) {
            // The exec leads its own session and process group.
            sys::kill(-exec.pid, libc::SIGKILL);
            sys::kill(exec.pid, libc::SIGKILL);
        }
        for launch in self.launches.iter().filter(|l| l.client == id && l.exec) {
            sys::kill(launch.pid, libc::SIGKILL);
        }
        self.launches.iter().filter(|l| l.client == id && l.held == Held::Made).for_each(|l| self.end_start(l, libc::SIGKILL));
    }

    fn reply(&mut self, id: u64, reply: &Reply, fds: &[OwnedFd]) {
        let Some(client) = self.clients.iter_mut().find(|c| c.id == id) else { return };
        let packet = Packet { version: proto::VERSION, body: reply };
        let Ok(bytes) = serde_json::to_vec(&packet) else { return };
        if !client.queue.is_empty() && fds.is_empty() {
            client.queue.push_back(bytes);
        } else {
            match sys::send_packet(&client.fd, &bytes, fds) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && fds.is_empty() => client.queue.push_back(bytes),
                Err(_) => return self.drop_client(id),
            }
        }
        if client.queue.len() > QUEUE_MAX {
            self.drop_client(id);
        }
    }

    /// Tells every subscriber of a container's new state, after it is on disk.
    fn publish(&mut self, container: &str) {
        self.save();
        let Some(record) = self.container(container).map(|c| c.record.clone()) else { return };
        let reply = Reply::Changed { container: record };
        let ids: Vec<u64> = self.clients.iter().filter(|c| c.subscribed).map(|c| c.id).collect();
        for id in ids {
            self.reply(id, &reply, &[]);
        }
    }

    fn save(&self) {
        let records: Vec<&Record> = self.containers.iter().map(|c| &c.record).collect();
        if let Err(e) = files::write_json(&self.host.dir.join(proto::STATE_FILE), &records) {
            eprintln!("state not written: {e}");
        }
    }

    fn container(&mut self, id: &str) -> Option<&mut Container> {
        self.containers.iter_mut().find(|c| c.record.id == id)
    }

    // ---- processes

    /// A child (or what a container left behind without a parent) has ended.
    fn ended(&mut self, pid: i32, code: i32, signal: Option<i32>) {
        // It may have ended before its start was noticed: then the channels hold all that is to know, its number first.
        let launches: Vec<i32> = self.launches.iter().map(|l| l.pid).collect();
        launches.into_iter().for_each(|launch| self.launch_ready(launch, launch == pid));
        self.launch_ready(pid, true);
        if let Some(at) = self.execs.iter().position(|e| e.pid == pid) {
            let exec = self.execs.swap_remove(at);
            return self.reply(exec.client, &Reply::ExecExited { code }, &[]);
        }
        let shared = self.host.sandbox.host_pid || self.host.sandbox.share_pid;
        let found = self.containers.iter_mut().find(|c| c.record.pid == pid as u32 && c.record.state == ContainerState::Running);
        let Some(container) = found else { return };
        if shared || container.spec.config.pid_target.is_some() {
            // No process namespace ends with its first process: what that left behind ends now.
            cgroup::kill_all(&container.spec.cgroup);
        }
        container.drain(&mut self.buffer);
        let record = &mut container.record;
        record.state = ContainerState::Exited;
        record.finished_ns = sys::now_ns();
        record.exit_code = code;
        record.signal = signal;
        record.pid = 0;
        record.oom_killed = cgroup::oom_kills(&container.spec.cgroup) > 0;
        let id = record.id.clone();
        self.publish(&id);
    }

    /// A process that was cloned became its program, or could not. `ended`: it is no more, whoever still holds the channel.
    fn launch_ready(&mut self, pid: i32, ended: bool) {
        let Some(at) = self.launches.iter().position(|l| l.pid == pid) else { return };
        let stopping = self.stopping;
        loop {
            let launch = &mut self.launches[at];
            match sys::receive_packet(&launch.channel) {
                Ok((bytes, fds)) => match bytes.first() {
                    Some(&child::TERMINAL) => launch.terminal = fds.into_iter().next(),
                    Some(&child::PROCESS) => {
                        let (before, container) = (launch.pid, launch.container.clone());
                        launch.pid = bytes[1..].try_into().map_or(launch.pid, i32::from_le_bytes);
                        launch.known = true;
                        // Who waited for hooks ends now, and its number may become another's.
                        let told = self.containers.iter_mut().find(|c| c.record.id == container && c.record.pid == before as u32);
                        if let Some(told) = told {
                            told.record.pid = launch.pid as u32;
                        }
                        // Who was killed when all were is the one that made it.
                        if stopping {
                            sys::kill(launch.pid, libc::SIGKILL);
                        }
                    }
                    Some(&so_far @ (child::HELD | child::MADE)) => {
                        launch.held = if so_far == child::MADE { Held::Made } else { Held::Waiting };
                        let (pid, client, container) = (launch.pid, launch.client, launch.container.clone());
                        self.held(pid, client, &container);
                    }
                    Some(_) => launch.failure = Some(String::from_utf8_lossy(&bytes[1..]).into_owned()),
                    None => break,
                },
                // The one that made it has ended, it has not.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && !(ended && launch.pid == pid) => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        let mut launch = self.launches.swap_remove(at);
        if (!launch.known || launch.held.waits()) && launch.failure.is_none() {
            launch.failure = Some("the process was killed before it became the program".to_owned());
        }
        if launch.exec {
            return self.exec_launched(launch);
        }
        let Some(container) = self.container(&launch.container) else { return };
        let reply = match launch.failure {
            None => {
                container.running(launch.pid, launch.terminal);
                Reply::Changed { container: container.record.clone() }
            }
            Some(message) => {
                container.not_started(message.clone());
                Reply::Failed { not_found: false, start: true, message }
            }
        };
        self.publish(&launch.container);
        self.reply(launch.client, &reply, &[]);
    }

    /// A container has come as far as it was to come, and waits for its release.
    fn held(&mut self, pid: i32, client: u64, id: &str) {
        let Some(container) = self.container(id) else { return };
        container.record.pid = pid as u32;
        let reply = Reply::Changed { container: container.record.clone() };
        self.publish(id);
        self.reply(client, &reply, &[]);
    }

    fn exec_launched(&mut self, launch: Launch) {
        if let Some(message) = launch.failure {
            return self.reply(launch.client, &Reply::Failed { not_found: false, start: true, message }, &[]);
        }
        self.execs.push(Exec { pid: launch.pid, client: launch.client });
        let fds: Vec<OwnedFd> = launch.terminal.into_iter().collect();
        self.reply(launch.client, &Reply::ExecStarted { pid: launch.pid as u32 }, &fds);
        if !self.clients.iter().any(|c| c.id == launch.client) {
            sys::kill(launch.pid, libc::SIGKILL);
        }
    }
}

/// Drops the program's own pages from this process: an idle shim needs none of them, and the page cache keeps them. Only
/// what lies below the end of the code is dropped: behind it there are pages that the loader wrote to.
fn slim() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(range), Some(rights), path) = (words.next(), words.next(), words.nth(3)) else { continue };
        let Some((start, end)) = range.split_once('-') else { continue };
        let (Ok(start), Ok(end)) = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16)) else { continue };
        if !path.is_some_and(|p| p.starts_with('/')) || !matches!(rights, "r--p" | "r-xp") {
            break;
        }
        ranges.push((start, end - start));
        if rights == "r-xp" {
            ranges.iter().for_each(|&(start, length)| sys::forget_pages(start, length));
            break;
        }
    }
}

/// Makes the sandbox's namespaces; all but the mounts and the users become this process's own.
fn namespaces(dir: PathBuf, file: SandboxFile) -> Step<Host> {
    let sandbox = file.config;
    let open = |name: &str| File::open(format!("/proc/self/ns/{name}")).map(OwnedFd::from).map_err(|e| format!("namespace {name}: {e}"));
    let host_ns = open("mnt")?;
    let mut new = 0;
    if !sandbox.host_network {
        new |= libc::CLONE_NEWNET | libc::CLONE_NEWUTS;
    }
    if !sandbox.host_ipc {
        new |= libc::CLONE_NEWIPC;
    }
    let users = match file.users {
        Some(mapping) => Some(Users::make(mapping)?),
        None => {
            process::unshare(new).map_err(|e| format!("cannot make namespaces: {e}"))?;
            None
        }
    };
    if !sandbox.host_network {
        process::set_hostname(&sandbox.hostname).map_err(|e| format!("cannot set hostname {:?}: {e}", sandbox.hostname))?;
        process::loopback_up().map_err(|e| format!("cannot bring the loopback up: {e}"))?;
    }
    set_sysctls(&sandbox)?;
    let pod_ns = shared_memory(&dir, &sandbox, &host_ns, Users::on_host(users.as_ref(), 0, 0)).map_err(|e| format!("cannot make the shared memory: {e}"))?;
    let mut host = Host { dir, sandbox, host_ns, pod_ns, shared_pids: None, users };
    if host.sandbox.share_pid && !host.sandbox.host_pid {
        host.shared_pids = Some(shared_pids(&host)?);
    }
    Ok(host)
}

/// A process namespace of the pod's users: its first process, and its `/proc`, which is mounted while nobody else is in it.
fn shared_pids(host: &Host) -> Step<SharedPids> {
    let fail = |e: io::Error| format!("cannot make a process namespace: {e}");
    let (ours, theirs) = process::packet_pair().map_err(fail)?;
    if process::clone(0).map_err(fail)? == 0 {
        child::run(&theirs, || {
            process::set_name(c"pause");
            // Where the empty root will be mounted; the working directory is taken along.
            process::chdir(&sys::c_path(&host.dir).map_err(fail)?).map_err(fail)?;
            if let Some(users) = &host.users {
                users.enter()?;
            }
            process::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWPID).map_err(fail)?;
            sys::mount(c"", c"/", c"", libc::MS_REC | libc::MS_PRIVATE, c"").map_err(fail)?;
            child::pass_on(&theirs)?;
            let proc = sys::new_mount(c"proc", &[], mounts::NO_ALL).map_err(fail)?;
            let empty = sys::new_mount(c"tmpfs", &[(c"size", Some(c"0k"))], mounts::NO_ALL).map_err(fail)?;
            // By no name: the pod's users may not look into that directory.
            sys::move_mount(&empty, &libc::AT_FDCWD).and_then(|()| process::fchdir(&empty)).and_then(|()| process::pivot_here()).map_err(fail)?;
            sys::send_packet(&theirs, &[child::PROC], &[proc]).map_err(fail)?;
            slim();
            child::init()
        });
    }
    drop(theirs);
    let mut pid = None;
    loop {
        let mut one = [libc::pollfd { fd: ours.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
        process::poll(&mut one, -1);
        let (bytes, fds) = sys::receive_packet(&ours).map_err(fail)?;
        match (bytes.split_first(), fds.into_iter().next(), pid) {
            (Some((&child::PROCESS, number)), ..) => pid = number.try_into().ok().map(i32::from_le_bytes),
            (Some((&child::PROC, _)), Some(mount), Some(pid)) => {
                let pids = File::open(format!("/proc/{pid}/ns/pid")).map_err(|e| format!("process namespace: {e}"))?;
                let proc = mounts_of(&host.dir, &host.host_ns, || Ok(mount)).map_err(fail)?;
                return Ok(SharedPids { namespace: OwnedFd::from(pids), first: pid, proc });
            }
            (Some((_, text)), ..) => return Err(String::from_utf8_lossy(text).into_owned()),
            (None, ..) => return Err("cannot make a process namespace: its first process ended".to_owned()),
        }
    }
}

fn set_sysctls(sandbox: &SandboxConfig) -> Step<()> {
    let write = |name: &str, value: &str| std::fs::write(format!("/proc/sys/{}", name.replace('.', "/")), value);
    if !sandbox.host_network {
        // As containerd does since 2.0: low ports and ping without capabilities, within the pod's own network.
        let _ = write("net.ipv4.ip_unprivileged_port_start", "0");
        let _ = write("net.ipv4.ping_group_range", "0 2147483647");
    }
    for (name, value) in &sandbox.sysctls {
        write(name, value).map_err(|e| format!("cannot set sysctl {name} to {value:?}: {e}"))?;
    }
    Ok(())
}

/// The pod's shared memory.
fn shared_memory(dir: &Path, sandbox: &SandboxConfig, host_ns: &OwnedFd, owner: (u32, u32)) -> io::Result<OwnedFd> {
    let bytes = if sandbox.shm_bytes == 0 { SHM_BYTES } else { sandbox.shm_bytes };
    let [size, uid, gid] = [bytes, owner.0.into(), owner.1.into()].map(|n| sys::c_str(&n.to_string()));
    let (size, uid, gid) = (size?, uid?, gid?);
    let options =
        [(c"source", Some(c"shm")), (c"mode", Some(c"1777")), (c"size", Some(size.as_c_str())), (c"uid", Some(uid.as_c_str())), (c"gid", Some(gid.as_c_str()))];
    mounts_of(dir, host_ns, || sys::new_mount(c"tmpfs", &options, mounts::NO_ALL))
}

/// A mount namespace that holds nothing but one mount, as its root: there it stays, and can be copied from.
fn mounts_of(dir: &Path, host_ns: &OwnedFd, mount: impl FnOnce() -> io::Result<OwnedFd>) -> io::Result<OwnedFd> {
    process::unshare(libc::CLONE_NEWNS)?;
    let made = || -> io::Result<OwnedFd> {
        let own = OwnedFd::from(File::open("/proc/self/ns/mnt")?);
        sys::mount(c"", c"/", c"", libc::MS_REC | libc::MS_PRIVATE, c"")?;
        let (mount, at, path) = (mount()?, libc::AT_FDCWD, sys::c_path(dir)?);
        sys::move_mount(&mount, &process::openat(&at, &path, libc::O_PATH | libc::O_DIRECTORY, 0)?)?;
        process::fchdir(&mount)?;
        process::pivot_here()?;
        Ok(own)
    };
    let made = made();
    process::setns(host_ns, libc::CLONE_NEWNS)?;
    made
}
