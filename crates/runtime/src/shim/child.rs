//! What a container's process does between clone and exec. Errors are told over a packet socket whose end of file means
//! that the program runs.
//!
//! Order matters and is that of the OCI runtimes: what needs the host's view (cgroups, sources of mounts, the OOM score)
//! first; then the file system; then the terminal; then identity and rights, each step giving something up; the filter of
//! system calls last when privileges cannot be gained any more, else while CAP_SYS_ADMIN is still there.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use super::rootfs::{self, Sources};
use super::{Host, Step, process};
use crate::proto::Spec;
use crate::{caps, cgroup, sys};

/// As many descriptors as the usual container runtimes allow.
const OPEN_FILES: u64 = 1 << 20;
/// First byte of a packet with the terminal beside it.
pub(super) const TERMINAL: u8 = b'T';
/// First byte of a packet with the reason for which nothing runs.
pub(super) const FAILED: u8 = b'E';

/// Standard input, output and error as the shim made them. Absent input is `/dev/null`; with a terminal all are absent.
#[derive(Default)]
pub(super) struct Stdio(pub(super) [Option<OwnedFd>; 3]);

/// What is executed, and whether on a terminal.
pub(super) struct Command<'a> {
    pub(super) argv: &'a [String],
    pub(super) tty: bool,
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
pub(super) fn container(host: &Host, spec: &Spec, joined: bool, stdio: Stdio, channel: &OwnedFd) -> Step<()> {
    prologue();
    let sandbox = host.sandbox();
    if !joined {
        cgroup::join(&spec.cgroup).map_err(|e| format!("cannot join the cgroup: {e}"))?;
    }
    if let Some(score) = spec.config.resources.oom_score_adj {
        // Lowering it is refused where the runtime itself is confined: the container runs all the same.
        let _ = std::fs::write("/proc/self/oom_score_adj", score.to_string());
    }
    let sources = Sources::open(spec, sandbox, &host.pod_ns, &host.host_ns)?;
    let mut new = libc::CLONE_NEWNS;
    if spec.cgroup.unified {
        new |= libc::CLONE_NEWCGROUP;
    }
    process::unshare(new).map_err(|e| format!("new mount namespace: {e}"))?;
    rootfs::build(spec, sources)?;
    become_program(spec, &Command { argv: &spec.argv, tty: spec.config.tty }, stdio, channel, &Wording::START)
}

/// Becomes a further process of a running container, whose first process is `pid`. The process namespace was entered
/// by the clone already.
pub(super) fn exec(spec: &Spec, pid: u32, joined: bool, command: &Command<'_>, stdio: Stdio, channel: &OwnedFd) -> Step<()> {
    prologue();
    let open = |name: &str| std::fs::File::open(format!("/proc/{pid}/ns/{name}")).map_err(|e| format!("namespace {name}: {e}"));
    let mounts = open("mnt")?;
    let cgroups = if spec.cgroup.unified { Some(open("cgroup")?) } else { None };
    if !joined {
        cgroup::join(&spec.cgroup).map_err(|e| format!("cannot join the cgroup: {e}"))?;
    }
    if let Some(score) = spec.config.resources.oom_score_adj {
        let _ = std::fs::write("/proc/self/oom_score_adj", score.to_string());
    }
    if let Some(cgroups) = cgroups {
        process::setns(&cgroups, libc::CLONE_NEWCGROUP).map_err(|e| format!("enter the cgroup namespace: {e}"))?;
    }
    process::setns(&mounts, libc::CLONE_NEWNS).map_err(|e| format!("enter the mount namespace: {e}"))?;
    become_program(spec, command, stdio, channel, &Wording::EXEC)
}

fn prologue() {
    process::reset_signals();
    process::new_session();
    process::set_umask(0o022);
    process::set_open_files(OPEN_FILES);
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

fn become_program(spec: &Spec, command: &Command<'_>, stdio: Stdio, channel: &OwnedFd, wording: &Wording) -> Step<()> {
    let &Command { argv, tty } = command;
    let stdio = standard_streams(spec, tty, stdio, channel)?;
    let cwd = sys::c_str(&spec.cwd).map_err(|e| e.to_string())?;
    let mut in_cwd = process::chdir(&cwd);
    drop_privileges(spec)?;
    if in_cwd.is_err() {
        // A directory that only its user may enter.
        in_cwd = process::chdir(&cwd);
    }
    in_cwd.map_err(|e| format!("{}chdir to cwd ({:?}) set in config.json failed: {}", wording.0, spec.cwd, words(&e)))?;
    for (at, fd) in stdio.iter().enumerate() {
        process::place_fd(fd.as_raw_fd(), at as i32).map_err(|e| format!("standard streams: {e}"))?;
    }
    process::close_on_exec_from(3);
    // Dies with its shim; the kernel forgets this at every change of identity, so it comes last.
    let _ = process::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64);
    let all = |list: &[String]| -> io::Result<Vec<CString>> { list.iter().map(|t| sys::c_str(t)).collect() };
    let (words, env) = (all(argv).map_err(|e| e.to_string())?, all(&spec.env).map_err(|e| e.to_string())?);
    let search = spec.env.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or("");
    Err(format!("{}{}", wording.0, execute(&argv[0], &words, &env, search)))
}

/// The three streams, owned by the container's user so that it can open them anew by `/dev/stdout`.
fn standard_streams(spec: &Spec, tty: bool, stdio: Stdio, channel: &OwnedFd) -> Step<[OwnedFd; 3]> {
    let high = process::copy_high;
    let fail = |e: io::Error| format!("standard streams: {e}");
    if tty {
        let flags = libc::O_RDWR | libc::O_NOCTTY;
        let at = libc::AT_FDCWD;
        let master = process::openat(&at, c"/dev/ptmx", flags, 0).map_err(|e| format!("new terminal: {e}"))?;
        let peer = process::terminal_peer(&master).map_err(|e| format!("new terminal: {e}"))?;
        sys::send_packet(channel, &[TERMINAL], &[master]).map_err(|e| format!("hand over the terminal: {e}"))?;
        process::control_terminal(&peer).map_err(|e| format!("take the terminal: {e}"))?;
        process::fchown(peer.as_raw_fd(), spec.user.uid, 5);
        return Ok([high(&peer).map_err(fail)?, high(&peer).map_err(fail)?, high(&peer).map_err(fail)?]);
    }
    let null = || process::openat(&libc::AT_FDCWD, c"/dev/null", libc::O_RDWR, 0).map_err(|e| format!("/dev/null: {e}"));
    let mut list = Vec::with_capacity(3);
    for given in stdio.0 {
        list.push(match given {
            Some(fd) => {
                process::fchown(fd.as_raw_fd(), spec.user.uid, spec.user.gid);
                high(&fd).map_err(fail)?
            }
            None => high(&null()?).map_err(fail)?,
        });
    }
    list.try_into().map_err(|_| "standard streams".to_owned())
}

fn drop_privileges(spec: &Spec) -> Step<()> {
    let filter = || -> Step<()> {
        if spec.filter.is_empty() {
            return Ok(());
        }
        let program: Vec<libc::sock_filter> = spec.filter.iter().map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k }).collect();
        process::set_filter(&program).map_err(|e| format!("seccomp: {e}"))
    };
    let user = &spec.user;
    if spec.config.no_new_privileges {
        process::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map_err(|e| format!("no_new_privs: {e}"))?;
    } else {
        // Without no_new_privs the kernel takes a filter only from who has CAP_SYS_ADMIN.
        filter()?;
    }
    if spec.capabilities != caps::ALL {
        process::bound_capabilities(spec.capabilities).map_err(|e| format!("bounding set: {e}"))?;
    }
    process::become_user(user.uid, user.gid, &user.groups).map_err(|e| format!("set user and groups: {e}"))?;
    if user.uid == 0 {
        process::set_capabilities(spec.capabilities).map_err(|e| format!("capabilities: {e}"))?;
    }
    if spec.config.no_new_privileges {
        filter()?;
    }
    Ok(())
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
            _ => format!("exec: {program:?}: {}", words(&e)),
        };
    }
    let mut denied = false;
    for dir in search.split(':').filter(|d| d.starts_with('/')) {
        let e = attempt(&format!("{}/{program}", dir.trim_end_matches('/')));
        match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {}
            io::ErrorKind::PermissionDenied => denied = true,
            _ => return format!("exec: {program:?}: {}", words(&e)),
        }
    }
    if denied { format!("exec: {program:?}: permission denied") } else { format!("exec: {program:?}: executable file not found in $PATH") }
}

/// The kernel's error in the words of other runtimes: lower case, without the number.
fn words(e: &io::Error) -> String {
    let text = e.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    text.to_ascii_lowercase()
}

/// The first process of a process namespace that a pod's containers share: reaps what they leave, holds nothing. It sees
/// only the pod's (empty or shared-memory) root and has no rights.
pub(super) fn init(host: &Host) -> ! {
    process::reset_signals();
    process::new_session();
    process::set_name(c"pause");
    super::slim();
    let confined = process::setns(&host.pod_ns, libc::CLONE_NEWNS)
        .and_then(|()| process::bound_capabilities(0))
        .and_then(|()| process::become_user(65535, 65535, &[]))
        .and_then(|()| process::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64))
        .and_then(|()| process::prctl(libc::PR_SET_NO_NEW_PRIVS, 1))
        .and_then(|()| process::prctl(libc::PR_SET_DUMPABLE, 0));
    if confined.is_err() {
        process::exit_now(1);
    }
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
