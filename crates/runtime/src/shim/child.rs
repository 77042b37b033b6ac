//! What a container's process does between clone and exec. Errors are told over a packet socket whose end of file means
//! that the program runs.
//!
//! Order matters and is that of the OCI runtimes: what needs the host's view (cgroups, sources of mounts, the OOM score)
//! first; then the file system; then the terminal; then identity and rights, each step giving something up; the filter of
//! system calls last when privileges cannot be gained any more, else while CAP_SYS_ADMIN is still there.
//!
//! **Nothing of the host is in sight of a container.** Who joins a process namespace where others live already (an exec, a
//! container that shares one) becomes visible there only when it has nothing that they lack: with a capability such as
//! SYS_PTRACE they can look through its root and its descriptors, and into its memory (CVE-2016-9962). So a middle process,
//! which they cannot see, joins the mounts, gives up the rights, closes every other descriptor, and only then makes the one
//! that they see ([`pass_on`]): a child of the shim, whose number the middle process tells before it ends.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use super::mounts::Terminal;
use super::rootfs::{self, Ground, Sources};
use super::users::Users;
use super::{Host, Step, process};
use crate::proto::{Sets, Spec};
use crate::types::HookMoment;
use crate::{apparmor, caps, cgroup, hooks, seccomp, sys};

/// As many descriptors as the usual container runtimes allow.
const OPEN_FILES: u64 = 1 << 20;
/// First byte of a packet with the terminal beside it.
pub(super) const TERMINAL: u8 = b'T';
/// First byte of a packet with the reason for which nothing runs.
pub(super) const FAILED: u8 = b'E';
/// First byte of a packet with the number of the process that becomes the program, four bytes.
pub(super) const PROCESS: u8 = b'P';
/// A packet that says that all is made, and that the program waits for [`GO`].
pub(super) const HELD: u8 = b'H';
/// A packet that says that the file system is made and not yet the root, and that hooks may run until [`GO`].
pub(super) const MADE: u8 = b'R';
/// What the shim answers to either.
pub(super) const GO: u8 = b'G';
/// First byte of a packet with the file system of processes of a new namespace beside it.
pub(super) const PROC: u8 = b'M';

/// Standard input, output and error as the shim made them. Absent input is `/dev/null`; with a terminal all are absent.
#[derive(Default)]
pub(super) struct Stdio(pub(super) [Option<OwnedFd>; 3]);

/// What is executed, and whether on a terminal.
pub(super) struct Command<'a> {
    pub(super) argv: &'a [String],
    pub(super) tty: bool,
    /// Not before the shim says so.
    pub(super) hold: bool,
    /// It is a container's first, before which hooks run.
    pub(super) first: bool,
}

/// The process namespace of a container.
pub(super) enum Pids {
    /// The one this process was cloned into: one of its own, of which it is the first, or the host's.
    Here,
    /// One where others live.
    Join(OwnedFd),
    /// A new one, which belongs to the pod's users: it can be made only by who is one of them.
    New,
}

/// How a container's first process begins.
pub(super) struct Start {
    /// It is in its cgroup already.
    pub(super) joined: bool,
    pub(super) pids: Pids,
    pub(super) hold: bool,
    /// It waits for hooks of the runtime.
    pub(super) hooks: bool,
}

/// Runs `work` in the child and never returns: either it has become the program, or its error is told.
pub(super) fn run(channel: &OwnedFd, work: impl FnOnce() -> Step<()>) -> ! {
    let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    let text = match worked {
        Ok(Ok(())) => "the program did not start".to_owned(),
        Ok(Err(text)) => text,
        Err(_) => "internal error".to_owned(),
    };
    let mut packet = vec![FAILED];
    packet.extend_from_slice(text.as_bytes());
    packet.truncate(8192);
    let _ = sys::send_packet(channel, &packet, &[]);
    process::exit_now(1)
}

/// Becomes a container's first process.
pub(super) fn container(host: &Host, spec: &Spec, start: Start, stdio: Stdio, channel: &OwnedFd) -> Step<()> {
    let Start { joined, pids, hold, hooks } = start;
    prologue(host, spec, joined, None, &stdio)?;
    let others = if let Pids::Join(pids) = &pids { Some(pids) } else { None };
    let sources = Sources::open(spec, host, others)?;
    process::unshare(libc::CLONE_NEWNS).map_err(|e| format!("new mount namespace: {e}"))?;
    // Nothing that was opened with a umask is cut.
    process::set_umask(0);
    let ground = Ground::lay(spec, host, sources)?;
    if let Some(users) = &host.users {
        users.enter()?;
        // Of one more, which belongs to the pod's users, so that they may mount in it what they may.
        process::unshare(libc::CLONE_NEWNS).map_err(|e| format!("new mount namespace: {e}"))?;
    }
    if spec.cgroup.unified && !rootfs::sees_all_cgroups(spec, host) {
        process::unshare(libc::CLONE_NEWCGROUP).map_err(|e| format!("new cgroup namespace: {e}"))?;
    }
    let pids = match pids {
        Pids::Here => None,
        Pids::Join(pids) => Some(pids),
        Pids::New => {
            process::unshare(libc::CLONE_NEWPID).map_err(|e| format!("new process namespace: {e}"))?;
            // Alone in it until its program runs.
            pass_on(channel)?;
            None
        }
    };
    let terminal = rootfs::build(spec, ground, pids.as_ref(), || if hooks { wait_for_go(channel, MADE) } else { Ok(()) });
    let terminal = terminal.map_err(|e| format!("{}error during container init: {e}", Wording::START.0))?;
    become_program(spec, &Command { argv: &spec.argv, tty: spec.config.tty, hold, first: true }, Streams { stdio, terminal, channel }, pids, &Wording::START)
}

/// Becomes a further process of a running container, whose first process is `pid`.
pub(super) fn exec(host: &Host, spec: &Spec, pid: u32, joined: bool, command: &Command<'_>, stdio: Stdio, channel: &OwnedFd) -> Step<()> {
    prologue(host, spec, joined, Some(pid), &stdio)?;
    let open = |name: &str| std::fs::File::open(format!("/proc/{pid}/ns/{name}")).map(OwnedFd::from).map_err(|e| format!("namespace {name}: {e}"));
    let pids = open("pid")?;
    let mut join = vec![("mount", open("mnt")?, libc::CLONE_NEWNS)];
    if spec.cgroup.unified {
        join.push(("cgroup", open("cgroup")?, libc::CLONE_NEWCGROUP));
    }
    for (name, fd, kind) in join {
        process::setns(&fd, kind).map_err(|e| format!("enter the {name} namespace: {e}"))?;
    }
    if let Some(users) = &host.users {
        users.enter()?;
    }
    become_program(spec, command, Streams { stdio, terminal: None, channel }, Some(pids), &Wording::EXEC)
}

/// What needs the host's view and rights, whatever comes then.
fn prologue(host: &Host, spec: &Spec, joined: bool, beside: Option<u32>, stdio: &Stdio) -> Step<()> {
    process::reset_signals();
    process::new_session();
    process::set_umask(0o022);
    process::set_open_files(OPEN_FILES);
    process::leave_keyring().map_err(|e| format!("new session keyring: {e}"))?;
    if !joined {
        cgroup::join(&spec.cgroup, beside).map_err(|e| format!("cannot join the cgroup: {e}"))?;
    }
    // Lowering it is refused where the runtime itself is confined: the container runs all the same. One that wants nothing has
    // not the shim's, which the kernel spares.
    let _ = std::fs::write("/proc/self/oom_score_adj", spec.config.resources.oom_score_adj.unwrap_or(0).to_string());
    if let Some(profile) = &spec.apparmor {
        apparmor::at_next_program(profile).map_err(|e| format!("apply apparmor profile {profile:?}: {e}"))?;
    }
    // Owned by the container's user, so that it can open them anew by `/dev/stdout`.
    let (uid, gid) = Users::on_host(host.users.as_ref(), spec.user.uid, spec.user.gid);
    stdio.0.iter().flatten().for_each(|fd| process::fchown(fd.as_raw_fd(), uid, gid));
    Ok(())
}

/// How the well-known runtimes begin their messages, by which users (and kubectl's own tests) know them.
struct Wording(&'static str);

impl Wording {
    const START: Wording = Wording(
        "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: \
         unable to start container process: ",
    );
    const EXEC: Wording = Wording("OCI runtime exec failed: exec failed: unable to start container process: ");
}

/// Where a program's streams come from.
struct Streams<'a> {
    stdio: Stdio,
    /// The user's side of a terminal that was made with the file system.
    terminal: Option<Terminal>,
    channel: &'a OwnedFd,
}

/// The last part of the way, in the container's file system. With `pids` it leads through a process that joins them.
fn become_program(spec: &Spec, command: &Command<'_>, streams: Streams<'_>, pids: Option<OwnedFd>, wording: &Wording) -> Step<()> {
    let &Command { argv, tty, hold, first } = command;
    let channel = streams.channel;
    let stdio = standard_streams(spec, tty, streams)?;
    // Nothing of the host stays open: neither to be seen nor to be the working directory (CVE-2024-21626).
    let mut keep = vec![stdio[0].as_raw_fd(), stdio[1].as_raw_fd(), stdio[2].as_raw_fd(), channel.as_raw_fd()];
    keep.extend(pids.as_ref().map(AsRawFd::as_raw_fd));
    process::close_all_but(&keep);
    process::set_umask(0o022);
    let told =
        if first && hooks::has(spec, &[HookMoment::StartContainer]) { Some(hooks::Told::new().map_err(|e| format!("state for hooks: {e}"))?) } else { None };
    let cwd = sys::c_str(&spec.cwd).map_err(|e| e.to_string())?;
    let in_cwd = process::chdir(&cwd);
    let filter: Vec<libc::sock_filter> = spec.filter.iter().map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k }).collect();
    let no_new_privileges = spec.config.no_new_privileges;
    // The filter goes along into what is cloned under it, unless it is the last thing of all; most let clone through.
    let unseen = pids.is_some() && (no_new_privileges || lets_clone(spec));
    if let Some(pids) = pids {
        process::setns(&pids, libc::CLONE_NEWPID).map_err(|e| format!("enter the process namespace: {e}"))?;
        drop(pids);
        if unseen {
            drop_privileges(spec, &filter)?;
        }
        pass_on(channel)?;
    }
    if hold {
        wait_for_go(channel, HELD)?;
    }
    if tty {
        process::control_terminal(&stdio[0]).map_err(|e| format!("take the terminal: {e}"))?;
    }
    if !unseen {
        drop_privileges(spec, &filter)?;
    }
    // A directory that only its user may enter is tried once more.
    let in_cwd = in_cwd.or_else(|_| process::chdir(&cwd));
    in_cwd.map_err(|e| format!("{}chdir to cwd ({:?}) set in config.json failed: {}", wording.0, spec.cwd, sys::words(&e)))?;
    for (at, fd) in stdio.iter().enumerate() {
        process::place_fd(fd.as_raw_fd(), at as i32).map_err(|e| format!("standard streams: {e}"))?;
    }
    process::close_on_exec_from(3);
    // Dies with its shim; the kernel forgets this at every change of identity, so it comes last.
    let _ = process::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64);
    let all = |list: &[String]| -> io::Result<Vec<CString>> { list.iter().map(|t| sys::c_str(t)).collect() };
    let words = all(argv).map_err(|e| e.to_string())?;
    let mut env = environment(&spec.env).map_err(|e| format!("{}{e}", wording.0))?;
    if tty && !spec.env.iter().any(|e| e.starts_with("TERM=")) {
        env.push(c"TERM=xterm".to_owned());
    }
    let search = spec.env.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or("");
    if no_new_privileges {
        // A strict profile need allow nothing but what the program itself does.
        install(&filter, spec)?;
    }
    if let Some(mut told) = told {
        // Programs of the image: they get no right that the container's own has not, and come after its filter.
        told.state(spec, "created", std::process::id()).map_err(|e| format!("state for hooks: {e}"))?;
        hooks::run(spec, HookMoment::StartContainer, &mut told)?;
    }
    Err(format!("{}{}", wording.0, execute(&argv[0], &words, &env, search)))
}

/// The variables for the program. One whose value a NUL byte would cut off is named; what it held is nobody's business.
fn environment(list: &[String]) -> Step<Vec<CString>> {
    let refusal = |pair: &str| {
        let name = pair.split('=').next().unwrap_or_default();
        format!("error during container init: environment variable value can't contain null(\\x00): {name:?}")
    };
    list.iter().map(|pair| sys::c_str(pair).map_err(|_| refusal(pair))).collect()
}

/// So far it has come, and does not go on until the shim says so.
fn wait_for_go(channel: &OwnedFd, so_far: u8) -> Step<()> {
    let fail = |e: io::Error| format!("wait for the start: {e}");
    sys::send_packet(channel, &[so_far], &[]).map_err(fail)?;
    loop {
        match sys::receive_packet(channel) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Ok((bytes, _)) if bytes == [GO] => return Ok(()),
            // The shim is gone, and nobody will start it.
            Ok(_) => process::exit_now(1),
            Err(e) => return Err(fail(e)),
        }
    }
}

/// Whether a process under the container's filter can still make the one that becomes the program.
fn lets_clone(spec: &Spec) -> bool {
    let flags = (libc::CLONE_PARENT | libc::SIGCHLD) as u64;
    let needed = [libc::SYS_pipe2, libc::SYS_sendmsg, libc::SYS_read, libc::SYS_setsid, libc::SYS_ioctl];
    seccomp::allows(&spec.filter, libc::SYS_clone, [flags, 0, 0, 0, 0, 0]) && needed.iter().all(|call| seccomp::allows(&spec.filter, *call, [0; 6]))
}

/// Goes on in a new child of the shim, in the process namespace that this one has chosen for its children. Its number is told
/// first: before that the new process does nothing, so its end is never news of a process that the shim does not know.
pub(super) fn pass_on(channel: &OwnedFd) -> Step<()> {
    let fail = |e: io::Error| format!("cannot make a process: {e}");
    let (wait, go) = sys::pipe().map_err(fail)?;
    let pid = process::clone(libc::CLONE_PARENT).map_err(fail)?;
    if pid != 0 {
        let mut packet = vec![PROCESS];
        packet.extend_from_slice(&pid.to_le_bytes());
        if sys::send_packet(channel, &packet, &[]).is_ok() {
            let _ = sys::write(&go, &[1]);
        }
        process::exit_now(0);
    }
    drop(go);
    let mut byte = [0];
    let told = loop {
        match sys::read(&wait, &mut byte) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            read => break read.is_ok_and(|n| n == 1),
        }
    };
    if !told {
        process::exit_now(1);
    }
    process::new_session();
    Ok(())
}

/// The three streams, out of the way of the numbers that they get in the end.
fn standard_streams(spec: &Spec, tty: bool, streams: Streams<'_>) -> Step<[OwnedFd; 3]> {
    let high = process::copy_high;
    let fail = |e: io::Error| format!("standard streams: {e}");
    if tty {
        let terminal = match streams.terminal {
            Some(terminal) => terminal,
            None => {
                // Whatever lies there: only a terminal answers what it is asked then.
                let master = process::openat(&libc::AT_FDCWD, c"/dev/ptmx", libc::O_RDWR | libc::O_NOCTTY | libc::O_NONBLOCK, 0);
                master.and_then(Terminal::of).map_err(|e| format!("new terminal: {e}"))?
            }
        };
        let Terminal { master, peer } = terminal;
        sys::send_packet(streams.channel, &[TERMINAL], &[master]).map_err(|e| format!("hand over the terminal: {e}"))?;
        process::fchown(peer.as_raw_fd(), spec.user.uid, 5);
        return Ok([high(&peer).map_err(fail)?, high(&peer).map_err(fail)?, high(&peer).map_err(fail)?]);
    }
    let mut list = Vec::with_capacity(3);
    for given in streams.stdio.0 {
        list.push(match given {
            Some(fd) => high(&fd).map_err(fail)?,
            None => high(&null()?).map_err(fail)?,
        });
    }
    list.try_into().map_err(|_| "standard streams".to_owned())
}

/// The container's `/dev/null`: what else lies at that place is refused, and not waited for.
fn null() -> Step<OwnedFd> {
    let fail = |e: io::Error| format!("/dev/null: {e}");
    let fd = process::openat(&libc::AT_FDCWD, c"/dev/null", libc::O_RDWR | libc::O_NONBLOCK | libc::O_NOFOLLOW, 0).map_err(fail)?;
    let file = std::fs::File::from(fd);
    let meta = file.metadata().map_err(fail)?;
    if !meta.file_type().is_char_device() || meta.rdev() != libc::makedev(1, 3) {
        return Err("/dev/null: not the null device".to_owned());
    }
    let fd = OwnedFd::from(file);
    process::set_blocking(&fd).map_err(fail)?;
    Ok(fd)
}

/// Takes identity and rights of the container. The filter comes first where only CAP_SYS_ADMIN can install it.
fn drop_privileges(spec: &Spec, filter: &[libc::sock_filter]) -> Step<()> {
    let user = &spec.user;
    if spec.config.no_new_privileges {
        process::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map_err(|e| format!("no_new_privs: {e}"))?;
    } else {
        install(filter, spec)?;
    }
    if spec.capabilities != caps::ALL {
        process::bound_capabilities(spec.capabilities).map_err(|e| format!("bounding set: {e}"))?;
    }
    for &(limit, soft, hard) in &spec.rlimits {
        process::set_limit(limit, soft, hard).map_err(|e| format!("limit {limit}: {e}"))?;
    }
    let given = spec.capability_sets;
    if given.is_some() {
        // Else the kernel takes all away with root's number, and what it has taken nobody can give.
        process::prctl(libc::PR_SET_KEEPCAPS, 1).map_err(|e| format!("keep capabilities: {e}"))?;
    }
    process::become_user(user.uid, user.gid, &user.groups).map_err(|e| format!("set user and groups: {e}"))?;
    let own = given.unwrap_or_else(|| Sets::own(if user.uid == 0 { spec.capabilities } else { 0 }));
    process::set_capabilities(own).map_err(|e| format!("capabilities: {e}"))?;
    // The kernel allows looking into a process again when its identity changes.
    process::prctl(libc::PR_SET_DUMPABLE, 0).map_err(|e| format!("dumpable: {e}"))
}

fn install(filter: &[libc::sock_filter], spec: &Spec) -> Step<()> {
    if filter.is_empty() {
        return Ok(());
    }
    process::set_filter(filter, spec.filter_flags).map_err(|e| format!("seccomp: {e}"))
}
/// Searches the program as execvp(3) does, and executes it. Returns what to say when that fails.
fn execute(program: &str, argv: &[CString], env: &[CString], search: &str) -> String {
    let attempt = |path: &str| match sys::c_str(path) {
        Ok(path) => process::execute(&path, argv, env),
        Err(e) => e,
    };
    if program.contains('/') {
        let e = attempt(program);
        return match e.kind() {
            // The file is there, but its interpreter is not, or the other way round.
            io::ErrorKind::NotFound if std::fs::metadata(program).is_err() => {
                format!("exec: {program:?}: stat {program}: no such file or directory")
            }
            io::ErrorKind::PermissionDenied if std::fs::metadata(program).is_ok_and(|m| m.is_dir()) => {
                format!("exec: {program:?}: is a directory")
            }
            _ => format!("exec: {program:?}: {}", sys::words(&e)),
        };
    }
    let mut denied = false;
    for dir in search.split(':').filter(|d| d.starts_with('/')) {
        let e = attempt(&format!("{}/{program}", dir.trim_end_matches('/')));
        match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {}
            io::ErrorKind::PermissionDenied => denied = true,
            _ => return format!("exec: {program:?}: {}", sys::words(&e)),
        }
    }
    if denied { format!("exec: {program:?}: permission denied") } else { format!("exec: {program:?}: executable file not found in $PATH") }
}

/// The first process of a process namespace that a pod's containers share: reaps what they leave, holds nothing. It sees
/// an empty root and has no rights.
pub(super) fn init() -> ! {
    let confined = process::bound_capabilities(0)
        .and_then(|()| process::become_user(65535, 65535, &[]))
        .and_then(|()| process::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64))
        .and_then(|()| process::prctl(libc::PR_SET_NO_NEW_PRIVS, 1))
        .and_then(|()| process::prctl(libc::PR_SET_DUMPABLE, 0));
    if confined.is_err() {
        process::exit_now(1);
    }
    process::reset_signals();
    let Ok(signals) = process::signal_fd(&[libc::SIGCHLD]) else { process::exit_now(1) };
    let at = signals.as_raw_fd();
    // The descriptor moves to 0; all others, the host's namespaces among them, are closed.
    if process::place_fd(at, 0).is_err() {
        process::exit_now(1);
    }
    std::mem::forget(signals);
    process::close_from(1);
    let mut one = [libc::pollfd { fd: 0, events: libc::POLLIN, revents: 0 }];
    let mut buffer = [0_u8; 128];
    loop {
        process::poll(&mut one, -1);
        let _ = sys::read(&0, &mut buffer);
        while process::reap().is_some() {}
    }
}
