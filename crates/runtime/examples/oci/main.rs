//! The built-in runtime as a command of the OCI runtime's kind, as root:
//!
//!     oci create [--bundle DIR] [--pid-file FILE] ID · start ID · state ID · kill ID [SIGNAL] · delete [--force] ID
//!
//! So that runtime-tools' validation suite, which knows only such commands, can be run on it (`conformance/oci`). Each
//! container has a runtime of its own below `OCI_ROOT` (default /run/knarr-oci), with one sandbox and one container in it.
#![allow(clippy::disallowed_methods)]

mod config;
mod hooks;
mod map;

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use runtime::{Config, ContainerState, ContainerStatus, Runtime};
use serde::{Deserialize, Serialize};

use crate::config::{Bundle, Hooks};
use crate::map::CONTAINER;

type Done<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// The mark of its cgroups.
const MARK: &str = "knarr-oci";
/// A killed container is gone within this.
const KILL_MAX: Duration = Duration::from_secs(10);

fn main() {
    let mut args: Vec<std::ffi::OsString> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|a| a == "shim") {
        args.remove(0);
        runtime::shim_main(args);
    }
    let args: Vec<String> = args.into_iter().filter_map(|a| a.into_string().ok()).collect();
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("an executor");
    if let Err(e) = tokio.block_on(command(&args)) {
        eprintln!("oci: {e}");
        std::process::exit(1);
    }
}

/// What is kept of a container beside what the runtime keeps.
#[derive(Serialize, Deserialize)]
struct Kept {
    id: String,
    oci_version: String,
    bundle: PathBuf,
    annotations: std::collections::BTreeMap<String, String>,
    hooks: Hooks,
}

/// The state of the specification, `runtime.md`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct State<'a> {
    oci_version: &'a str,
    id: &'a str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    bundle: &'a Path,
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    annotations: &'a std::collections::BTreeMap<String, String>,
}

impl Kept {
    fn state(&self, status: &ContainerStatus) -> String {
        let state = State {
            oci_version: &self.oci_version,
            id: &self.id,
            status: match status.state {
                ContainerState::Created => "created",
                ContainerState::Running => "running",
                ContainerState::Exited => "stopped",
            },
            pid: Some(status.pid).filter(|pid| *pid > 0),
            bundle: &self.bundle,
            annotations: &self.annotations,
        };
        serde_json::to_string(&state).expect("texts and numbers")
    }
}

/// Options with their values, and what is left.
type Options<'a> = (Vec<(&'a str, &'a str)>, Vec<&'a str>);

/// Sorts the arguments of a command.
fn options<'a>(args: &'a [String], known: &[&str], flags: &[&str]) -> Done<Options<'a>> {
    let (mut given, mut rest, mut args) = (Vec::new(), Vec::new(), args.iter().map(String::as_str));
    while let Some(arg) = args.next() {
        match arg.split_once('=').unwrap_or((arg, "")) {
            (name, "") if known.contains(&name) => given.push((name, args.next().ok_or_else(|| format!("{name} wants a value"))?)),
            (name, value) if known.contains(&name) => given.push((name, value)),
            (name, "") if flags.contains(&name) => given.push((name, "")),
            (name, _) if name.starts_with('-') => return Err(format!("unknown option {name}").into()),
            _ => rest.push(arg),
        }
    }
    Ok((given, rest))
}

async fn command(args: &[String]) -> Done {
    let (verb, args) = args.split_first().ok_or("create, start, state, kill or delete?")?;
    let (given, rest) = match verb.as_str() {
        "create" => options(args, &["--bundle", "-b", "--pid-file"], &[])?,
        "delete" => options(args, &[], &["--force", "-f"])?,
        _ => options(args, &[], &[])?,
    };
    let id = rest.first().filter(|id| !id.is_empty()).ok_or("the container's ID is missing")?;
    if id.contains('/') || id.starts_with('.') {
        return Err(format!("{id:?} cannot be an ID").into());
    }
    let option = |names: &[&str]| given.iter().find(|(name, _)| names.contains(name)).map(|(_, value)| *value);
    let base = std::env::var_os("OCI_ROOT").map_or_else(|| PathBuf::from("/run/knarr-oci"), PathBuf::from);
    let dir = base.join(id);
    if verb == "create" {
        let bundle = map::absolute(Path::new(option(&["--bundle", "-b"]).unwrap_or(".")))?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&base)?;
        fs::DirBuilder::new().mode(0o700).create(&dir).map_err(|e| format!("container {id:?}: {e}"))?;
        let created = create(&dir, id, &bundle, option(&["--pid-file"])).await;
        if created.is_err()
            && let Err(e) = clear(&dir).await
        {
            eprintln!("oci: warning: {e}");
        }
        return created;
    }
    if verb == "delete" && rest.len() == 1 && half_made(&dir).await? {
        return clear(&dir).await;
    }
    let kept: Kept = serde_json::from_slice(&fs::read(dir.join("kept.json")).map_err(|e| format!("container {id:?}: {e}"))?)?;
    let rt = open(&dir).await?;
    let status = rt.container(CONTAINER).ok_or_else(|| format!("container {id:?} is not there"))?;
    match (verb.as_str(), rest.get(1)) {
        ("state", None) => println!("{}", kept.state(&status)),
        ("start", None) => start(&rt, &kept, &status).await?,
        ("kill", signal) => {
            if status.pid == 0 {
                return Err("it is neither created nor running".into());
            }
            rt.kill(CONTAINER, number(signal.copied().unwrap_or("TERM"))?).await?;
        }
        ("delete", None) => {
            if status.pid != 0 && option(&["--force", "-f"]).is_none() {
                return Err("it is not stopped".into());
            }
            rt.remove_sandbox("bundle").await?;
            clear(&dir).await?;
            if let Err(e) = hooks::run(&kept.hooks.poststop, &kept.state(&ContainerStatus { pid: 0, state: ContainerState::Exited, ..status })) {
                eprintln!("oci: warning: {e}");
            }
        }
        (other, _) => return Err(format!("what is {other} {rest:?}?").into()),
    }
    Ok(())
}

async fn open(dir: &Path) -> Done<Runtime> {
    let config = Config {
        root: dir.join("root"),
        store: None,
        run: dir.join("run"),
        cgroup_root: "/sys/fs/cgroup".into(),
        mark: MARK.into(),
        registries: None,
        network: None,
        shim: "/proc/self/exe".into(),
    };
    Ok(Runtime::open(config).await?)
}

/// Whether a `create` was ended before there was a container: then there is nothing to be stopped, and no hook is owed.
async fn half_made(dir: &Path) -> Done<bool> {
    Ok(dir.is_dir() && (!dir.join("kept.json").exists() || open(dir).await?.container(CONTAINER).is_none()))
}

/// Makes everything of a container but its program. What the configuration says counts from here on.
async fn create(dir: &Path, id: &str, bundle_dir: &Path, pid_file: Option<&str>) -> Done {
    let text = fs::read(bundle_dir.join("config.json")).map_err(|e| format!("{}: {e}", bundle_dir.join("config.json").display()))?;
    let bundle: Bundle = serde_json::from_slice(&text).map_err(|e| format!("config.json: {e}"))?;
    map::check_version(&bundle.oci_version)?;
    let hooks = bundle.hooks.clone();
    if !hooks.start_container.is_empty() {
        return Err("hooks in the container's own root cannot be given by this runtime".into());
    }
    let sandbox = map::sandbox(id, MARK, &bundle)?;
    let container = map::container(bundle_dir, &bundle, &dir.join("seccomp.json"))?;
    let kept = Kept { id: id.into(), oci_version: bundle.oci_version, bundle: bundle_dir.into(), annotations: bundle.annotations, hooks };
    // Before anything is made: whoever ends this command in its middle can still delete what it made.
    fs::write(dir.join("kept.json"), serde_json::to_vec(&kept)?)?;
    let rt = open(dir).await?;
    rt.create_sandbox(sandbox).await?;
    rt.create_container("bundle", container).await?;
    let copy = |fd: std::os::fd::BorrowedFd<'_>| -> Done<OwnedFd> { Ok(fd.try_clone_to_owned()?) };
    let streams = [copy(std::io::stdin().as_fd())?, copy(std::io::stdout().as_fd())?, copy(std::io::stderr().as_fd())?];
    rt.hold_container(CONTAINER, streams).await?;
    let status = rt.container(CONTAINER).ok_or("the container is gone")?;
    let state = kept.state(&status);
    hooks::run(&kept.hooks.prestart, &state)?;
    hooks::run(&kept.hooks.create_runtime, &state)?;
    if let Some(file) = pid_file {
        fs::write(file, status.pid.to_string())?;
    }
    Ok(())
}

async fn start(rt: &Runtime, kept: &Kept, status: &ContainerStatus) -> Done {
    if status.state != ContainerState::Created {
        return Err("it is not created".into());
    }
    rt.release_container(CONTAINER).await?;
    let running = ContainerStatus { state: ContainerState::Running, ..status.clone() };
    if let Err(e) = hooks::run(&kept.hooks.poststart, &kept.state(&running)) {
        eprintln!("oci: warning: {e}");
    }
    Ok(())
}

/// Takes away everything of a container.
async fn clear(dir: &Path) -> Done {
    let rt = open(dir).await?;
    let began = Instant::now();
    while !rt.sandboxes().is_empty() {
        for sandbox in rt.sandboxes() {
            rt.remove_sandbox(&sandbox.config.id).await?;
        }
        if began.elapsed() > KILL_MAX {
            return Err("its sandbox stays".into());
        }
    }
    drop(rt);
    Ok(runtime::tree::remove(dir)?)
}

/// A signal by number or name.
fn number(text: &str) -> Done<i32> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let name = text.to_ascii_uppercase();
    let full = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    Ok(full.parse::<nix::sys::signal::Signal>().map_err(|_| format!("unknown signal {text:?}"))? as i32)
}
