//! Programs of the host that run in a container's namespaces when its file system is made and not yet its root (OCI runtime
//! specification, hooks `createContainer`): the tools of devices' drivers link and cache libraries there.
//!
//! They have the host's root before them and all rights, and find the container by the state on their standard input: its bundle
//! is a directory with a `config.json`, of which such tools read where the root is.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Step, process};
use crate::apparmor;
use crate::proto::Spec;
use crate::types::Hook;

const OCI_VERSION: &str = "1.2.0";
/// For a hook that names no time of its own: somewhat less than a container is waited for (upstream's `runtimeRequestTimeout`, two
/// minutes), so that its own words are told.
const TIMEOUT_MAX: Duration = Duration::from_secs(110);
/// Between two looks at a hook.
const LOOK: Duration = Duration::from_millis(2);
/// What is told of the words of one that failed.
const WORDS_BYTES_MAX: u64 = 1_024;

/// Runs them in order, up to the first that fails. `rootfs` is where the container's root is mounted.
pub(super) fn create_container(spec: &Spec, rootfs: &Path) -> Step<()> {
    if spec.config.hooks.is_empty() {
        return Ok(());
    }
    bundle(spec, rootfs).map_err(|e| format!("config.json for hooks: {e}"))?;
    // As the container's own process namespace numbers it, as runc tells it; where that is another's (a pod's, the host's), as that does.
    let state = json!({"ociVersion": OCI_VERSION, "id": spec.config.id, "status": "creating", "pid": std::process::id(), "bundle": spec.container_dir,
        "annotations": spec.config.annotations})
    .to_string();
    process::set_umask(0o022);
    process::close_on_exec_from(3);
    // They are the host's programs: what confines the container's next one is not for them.
    confine(spec, apparmor::UNCONFINED)?;
    let words = spec.container_dir.join("hook.log");
    // A file: a pipe would be waited for where a hook does not read, and kill us where one has ended.
    let told = spec.container_dir.join("state.json");
    private(&told).and_then(|mut file| file.write_all(state.as_bytes())).map_err(|e| format!("state for hooks: {e}"))?;
    for (index, hook) in spec.config.hooks.iter().enumerate() {
        one(hook, &told, &words).map_err(|e| format!("error running createContainer hook #{index}: {e}"))?;
    }
    process::set_umask(0);
    spec.apparmor.as_deref().map_or(Ok(()), |profile| confine(spec, profile))
}

/// By which profile the next program is confined, if the container has one at all.
fn confine(spec: &Spec, profile: &str) -> Step<()> {
    if spec.apparmor.is_none() {
        return Ok(());
    }
    apparmor::at_next_program(profile).map_err(|e| format!("apply apparmor profile {profile:?}: {e}"))
}

/// What there is of a bundle.
fn bundle(spec: &Spec, rootfs: &Path) -> io::Result<()> {
    let process = json!({"args": spec.argv, "env": spec.env, "cwd": spec.cwd, "user": {"uid": spec.user.uid, "gid": spec.user.gid}});
    let root = json!({"path": rootfs, "readonly": spec.config.readonly_rootfs});
    let config = json!({"ociVersion": OCI_VERSION, "root": root, "process": process, "annotations": spec.config.annotations, "linux": {}});
    private(&spec.container_dir.join("config.json"))?.write_all(config.to_string().as_bytes())
}

/// A file of root's alone: the environment may hold secrets.
fn private(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn one(hook: &Hook, state: &Path, words: &Path) -> Step<()> {
    let mut command = Command::new(&hook.path);
    if let Some((name, args)) = hook.args.split_first() {
        command.arg0(name).args(args);
    }
    let stderr = private(words).map_err(|e| format!("{}: {e}", words.display()))?;
    command.env_clear().envs(hook.env.iter().filter_map(|entry| entry.split_once('=')));
    let state = File::open(state).map_err(|e| format!("{}: {e}", state.display()))?;
    let mut child = command.stdin(state).stdout(Stdio::null()).stderr(stderr).spawn().map_err(|e| format!("{}: {e}", hook.path.display()))?;
    let timeout = hook.timeout_s.map_or(TIMEOUT_MAX, |seconds| Duration::from_secs(seconds.into()));
    let begun = Instant::now();
    let status = loop {
        match child.try_wait().map_err(|e| e.to_string())? {
            Some(status) => break status,
            None if begun.elapsed() > timeout => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("{}: hook ran past specified timeout of {:.1}s", hook.path.display(), timeout.as_secs_f64()));
            }
            None => std::thread::sleep(LOOK),
        }
    };
    if status.success() {
        return Ok(());
    }
    Err(format!("{}: {status}, stderr: {}", hook.path.display(), last_words(words).trim()))
}

/// The end of a file: there programs tell why they failed.
fn last_words(path: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let from = file.metadata()?.len().saturating_sub(WORDS_BYTES_MAX);
        file.seek(SeekFrom::Start(from))?;
        let mut told = Vec::new();
        file.take(WORDS_BYTES_MAX).read_to_end(&mut told)?;
        Ok(told)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}
