//! Programs at the moments of a container's life, by which the tools of devices' drivers take part in it (OCI runtime specification,
//! `config.md` and `runtime.md`). Where each runs and what its failure comes to:
//!
//! | moment | with the rights of | when it fails |
//! | --- | --- | --- |
//! | `prestart`, `createRuntime` | this process, whose view is the host's; the container's file system is made and not yet its root | the container does not start |
//! | `createContainer` | the container's process, which still has the host's root before it ([`crate::shim`]) | the container does not start |
//! | `startContainer` | the container's program, just before it: a program of the image, by its user, under its filter | the container does not start |
//! | `poststart` | this process, when the program runs | the container is stopped, and did not start |
//! | `poststop` | this process, once: when the container has ended, before the next of its pod begins and before the pod's devices are another's | is told in the log |
//!
//! Each reads the state as JSON from its standard input, which names a bundle: a directory with a `config.json`, of which such tools
//! read where the root is. What a hook of this process finds there leads through `/proc/PID/root`, since the container's file system
//! is mounted in its own namespace alone.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::json;

use crate::proto::Spec;
use crate::types::{Hook, HookMoment};
use crate::{process, sys};

const OCI_VERSION: &str = "1.2.0";
/// For a hook that names no time of its own: somewhat less than a container is waited for (upstream's `runtimeRequestTimeout`, two
/// minutes), so that its own words are told.
const TIMEOUT_MAX: Duration = Duration::from_secs(110);
/// Between two looks at a hook.
const LOOK: Duration = Duration::from_millis(2);
/// What is told of the words of one that failed.
const WORDS_BYTES_MAX: u64 = 1_024;
/// What there is of a bundle.
const BUNDLE: &str = "config.json";

/// Whether a container has hooks of any of these moments.
pub(crate) fn has(spec: &Spec, moments: &[HookMoment]) -> bool {
    spec.config.hooks.iter().any(|hook| moments.contains(&hook.moment))
}

/// What hooks are told and where they speak: two files in memory, so that they can be made before rights are given up, and are found
/// by no path. Not pipes: those would be waited for where a hook does not read, and kill who writes where one has ended.
pub(crate) struct Told {
    state: File,
    words: File,
    /// The process that waits for the hooks, if one does: they end with it.
    awaiting: Option<OwnedFd>,
}

impl Told {
    pub(crate) fn new() -> io::Result<Told> {
        // Out of the way of standard streams that are still to come.
        let file = |name| sys::memory_file(name).and_then(|fd| process::copy_high(&fd)).map(File::from);
        Ok(Told { state: file(c"hook-state")?, words: file(c"hook-words")?, awaiting: None })
    }

    /// The container's state; none has a process of the number 0.
    pub(crate) fn state(&mut self, spec: &Spec, status: &str, pid: u32) -> io::Result<()> {
        let mut state = json!({"ociVersion": OCI_VERSION, "id": spec.config.id, "status": status, "bundle": spec.container_dir,
            "annotations": spec.config.annotations});
        if pid != 0 {
            state["pid"] = pid.into();
        }
        self.state.rewind()?;
        self.state.set_len(0)?;
        self.state.write_all(state.to_string().as_bytes())
    }

    /// The next hook's standard input and error, and where in the latter its words will begin.
    fn streams(&mut self) -> io::Result<(File, File, u64)> {
        self.state.rewind()?;
        let since = self.words.seek(SeekFrom::End(0))?;
        Ok((self.state.try_clone()?, self.words.try_clone()?, since))
    }

    /// Whether who waited for the hooks has ended.
    fn forsaken(&self) -> bool {
        let Some(who) = &self.awaiting else { return false };
        let mut looked = [libc::pollfd { fd: who.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
        process::poll(&mut looked, 0);
        looked[0].revents != 0
    }

    /// The end of what the present hook has said, which began at this place: there programs tell why they failed.
    fn last_words(&mut self, since: u64) -> io::Result<String> {
        let from = self.words.seek(SeekFrom::End(0))?.saturating_sub(WORDS_BYTES_MAX).max(since);
        self.words.seek(SeekFrom::Start(from))?;
        let mut told = Vec::new();
        (&self.words).take(WORDS_BYTES_MAX).read_to_end(&mut told)?;
        Ok(String::from_utf8_lossy(&told).trim().to_owned())
    }
}

/// Runs a container's hooks of one moment in order, up to the first that fails. Blocks.
pub(crate) fn run(spec: &Spec, moment: HookMoment, told: &mut Told) -> Result<(), String> {
    all(spec, moment).try_for_each(|(index, hook)| one(hook, told).map_err(|why| failed(moment, index, &why)))
}

/// Runs what comes when a container's file system is made and this process waits with it. Blocks.
pub(crate) fn made(spec: &Spec, pid: u32) -> Result<(), String> {
    let rootfs = spec.container_dir.join("rootfs");
    let root = root_of(pid).join(rootfs.strip_prefix("/").unwrap_or(&rootfs));
    let awaiting = sys::pidfd(pid.cast_signed()).map_err(|e| format!("the process that waits for hooks: {e}"))?;
    let mut told = outside(spec, &root, "creating", pid)?;
    told.awaiting = Some(awaiting);
    run(spec, HookMoment::Prestart, &mut told)?;
    run(spec, HookMoment::CreateRuntime, &mut told)
}

/// Runs what comes when a container's program is this process. Blocks.
pub(crate) fn started(spec: &Spec, pid: u32) -> Result<(), String> {
    run(spec, HookMoment::Poststart, &mut outside(spec, &root_of(pid), "running", pid)?)
}

/// Runs what comes when a container is gone, if it had begun and they have not run yet. One that fails keeps no other from its
/// work. Blocks, also while somebody else runs them.
pub(crate) fn stopped(spec: &Spec) {
    const MOMENT: HookMoment = HookMoment::Poststop;
    let bundle = spec.container_dir.join(BUNDLE);
    if !has(spec, &[MOMENT]) {
        return;
    }
    // Held to the end.
    let alone = File::open(&spec.container_dir).and_then(|dir| dir.lock().map(|()| dir));
    if !bundle.exists() {
        return;
    }
    let warn = |why| tracing::warn!(container = spec.config.id, "{why}");
    if let Err(e) = &alone {
        // Rather twice than never.
        warn(format!("{MOMENT} hooks may run more than once: {e}"));
    }
    match outside(spec, &spec.container_dir.join("rootfs"), "stopped", 0) {
        Ok(mut told) => all(spec, MOMENT).for_each(|(index, hook)| one(hook, &mut told).unwrap_or_else(|why| warn(failed(MOMENT, index, &why)))),
        Err(why) => warn(why),
    }
    // Without it there is nothing more to run.
    let _ = fs::remove_file(bundle);
}

/// A process's root, as the host sees it.
fn root_of(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/root"))
}

/// Makes the bundle, and the state, for hooks of this process. Where it has been taken away the container's end is over.
fn outside(spec: &Spec, root: &Path, status: &str, pid: u32) -> Result<Told, String> {
    let make = || {
        bundle(spec, root, status == "creating")?;
        let mut told = Told::new()?;
        told.state(spec, status, pid).map(|()| told)
    };
    make().map_err(|e| format!("state for hooks: {e}"))
}

fn all(spec: &Spec, moment: HookMoment) -> impl Iterator<Item = (usize, &Hook)> {
    spec.config.hooks.iter().filter(move |hook| hook.moment == moment).enumerate()
}

fn failed(moment: HookMoment, index: usize, why: &str) -> String {
    format!("error running {moment} hook #{index}: {why}")
}

/// Writes what there is of a bundle, which may be the `first` time.
pub(crate) fn bundle(spec: &Spec, rootfs: &Path, first: bool) -> io::Result<()> {
    let process = json!({"args": spec.argv, "env": spec.env, "cwd": spec.cwd, "user": {"uid": spec.user.uid, "gid": spec.user.gid}});
    let root = json!({"path": rootfs, "readonly": spec.config.readonly_rootfs});
    let config = json!({"ociVersion": OCI_VERSION, "root": root, "process": process, "annotations": spec.config.annotations, "linux": {}});
    // Root's alone: the environment may hold secrets.
    let file = fs::OpenOptions::new().write(true).create(first).truncate(true).mode(0o600).open(spec.container_dir.join(BUNDLE));
    file?.write_all(config.to_string().as_bytes())
}

fn one(hook: &Hook, told: &mut Told) -> Result<(), String> {
    let path = hook.path.display();
    let (state, words, since) = told.streams().map_err(|e| format!("{path}: its streams: {e}"))?;
    let mut command = Command::new(&hook.path);
    if let Some((name, args)) = hook.args.split_first() {
        command.arg0(name).args(args);
    }
    command.env_clear().envs(hook.env.iter().filter_map(|entry| entry.split_once('=')));
    // On the host it has a group of its own, so that what it has begun ends with it; in a container that is the container's end.
    let on_host = !matches!(hook.moment, HookMoment::StartContainer);
    if on_host {
        command.process_group(0);
    }
    let mut child = command.stdin(state).stdout(Stdio::null()).stderr(words).spawn().map_err(|e| format!("{path}: {e}"))?;
    let timeout = hook.timeout_s.map_or(TIMEOUT_MAX, |seconds| Duration::from_secs(seconds.into()));
    let begun = Instant::now();
    let status = loop {
        let why = match child.try_wait().map_err(|e| e.to_string())? {
            Some(status) => break status,
            None if begun.elapsed() > timeout => format!("hook ran past specified timeout of {:.1}s", timeout.as_secs_f64()),
            None if told.forsaken() => "the container ended while its hook ran".to_owned(),
            None => {
                std::thread::sleep(LOOK);
                continue;
            }
        };
        if on_host {
            let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
        }
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!("{path}: {why}"));
    };
    if status.success() {
        return Ok(());
    }
    Err(format!("{path}: {status}, stderr: {}", told.last_words(since).unwrap_or_default()))
}
