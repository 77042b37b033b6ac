//! What is done for a container before its shim hears of it: the image's wishes and the pod's become one specification.

use std::collections::HashSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cgroup::Cgroups;
use crate::error::{Context, Error, Result};
use crate::images::Images;
use crate::proto::Spec;
use crate::types::*;
use crate::{caps, devices, seccomp, sys, user};

/// The search path of a container whose image gives none (that of containerd and Docker).
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// `/etc/passwd` and `/etc/group` are read up to this size.
const ACCOUNTS_BYTES_MAX: u64 = 4 << 20;

/// What this host must have; the words say what to do.
pub(crate) fn check_host(cgroup_root: &Path) -> Result<()> {
    let missing = |text: String| Err(Error::State(text));
    if !nix::unistd::geteuid().is_root() {
        return missing("running containers needs root: namespaces, mounts and cgroups cannot be made otherwise".to_owned());
    }
    let unified = cgroup_root.join("cgroup.controllers");
    let absent: Vec<&str> = match fs::read_to_string(&unified) {
        Ok(list) => ["cpu", "memory", "pids"].into_iter().filter(|c| !list.split_whitespace().any(|l| l == *c)).collect(),
        Err(_) => ["cpu", "memory", "pids"].into_iter().filter(|c| !cgroup_root.join(c).is_dir()).collect(),
    };
    if !absent.is_empty() {
        let (absent, root) = (absent.join(", "), cgroup_root.display());
        return missing(format!("no cgroup controllers {absent} in {root}: mount cgroup2 there, or the controllers of version 1"));
    }
    Ok(())
}

/// Whether overlayfs can be mounted; loads the module where it is one.
pub(crate) fn check_overlay() -> Result<()> {
    let known = || fs::read_to_string("/proc/filesystems").unwrap_or_default().split_whitespace().any(|f| f == "overlay");
    if known() {
        return Ok(());
    }
    // A module is loaded by the kernel itself at the first mount, whatever comes of that.
    let _ = sys::new_mount(c"overlay", &[], 0);
    if known() {
        return Ok(());
    }
    Err(Error::State("this kernel has no overlayfs (CONFIG_OVERLAY_FS; try `modprobe overlay`)".to_owned()))
}

/// Ids become names of directories: refuses what could leave one.
pub(crate) fn check_id(id: &str) -> Result<()> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if id.is_empty() || id.len() > 200 || id.starts_with('.') || !id.bytes().all(fine) {
        return Err(Error::Invalid(format!("{id:?} cannot be an id")));
    }
    Ok(())
}

/// Writes a file so that it is there as a whole or not at all.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let bytes = serde_json::to_vec(value).map_err(|e| Error::Invalid(e.to_string()))?;
    let tmp = path.with_extension("tmp");
    fs::write(&tmp, bytes).at("cannot write", &tmp)?;
    fs::rename(&tmp, path).at("cannot write", path)
}

/// Reads a file of [`write_json`].
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// The containers' specifications in a sandbox's directory.
pub(crate) fn specs(dir: &Path) -> Vec<Spec> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let files = entries.filter(|e| {
        let name = e.file_name();
        name.to_str().is_some_and(|n| n.starts_with("c-") && n.ends_with(".json"))
    });
    files.filter_map(|e| read_json(&e.path())).collect()
}

/// The layers that containers of this runtime are made of, by their specifications: also of another process's.
pub(crate) fn layers_in_use(run: &Path) -> HashSet<String> {
    let sandboxes = fs::read_dir(run.join("sandboxes")).into_iter().flatten().flatten();
    let all = sandboxes.flat_map(|dir| specs(&dir.path()));
    all.flat_map(|spec| spec.image_mounts.into_iter().flat_map(|(_, layers)| layers).chain(spec.layers)).collect()
}

/// Overlays the limits that are given.
pub(crate) fn merge_resources(old: &mut Resources, new: Resources) {
    macro_rules! over { ($($field:ident)*) => { $(if new.$field.is_some() { old.$field = new.$field; })* } }
    over!(cpu_shares cpu_quota cpu_period memory_limit pids_limit cpuset_cpus cpuset_mems oom_score_adj);
    old.hugepages.extend(new.hugepages);
    old.unified.extend(new.unified);
}

/// The specification of a container; its directories and cgroup are made.
pub(crate) fn container(images: &Images, cgroups: &Cgroups, root: &Path, sandbox: &SandboxConfig, mut config: ContainerConfig) -> Result<Spec> {
    let image = images.find(&config.image).ok_or_else(|| Error::NotFound { kind: "image", name: config.image.clone() })?;
    let of_image = &image.config;
    let argv = argv(&config, of_image)?;
    let layers_dir = images.layers_dir();
    let file = |path: &str| read_in_layers(&layers_dir, &image.layers, path);
    let (user, home) = user::resolve(&of_image.user, &config.user, &file("etc/passwd"), &file("etc/group"))?;
    let cwd = [&config.working_dir, &of_image.working_dir].into_iter().find(|d| !d.is_empty());
    let cwd = cwd.map_or("/", |d| d.as_str()).to_owned();
    let capabilities = caps::resolve(&config.capabilities_add, &config.capabilities_drop, config.privileged)?;
    let filter = match &config.seccomp {
        _ if config.privileged => Vec::new(),
        Seccomp::Unconfined => Vec::new(),
        Seccomp::RuntimeDefault => seccomp::runtime_default(capabilities)?,
        Seccomp::Localhost(path) => seccomp::from_file(path, capabilities)?,
    };
    let stop = config.stop_signal.as_deref().filter(|s| !s.is_empty()).unwrap_or(&of_image.stop_signal);
    let stop_signal = signal_number(stop)?;
    let mut image_mounts = Vec::new();
    config.mounts.sort_by_key(|m| m.container.components().count());
    for (index, mount) in config.mounts.iter().enumerate() {
        if let Some(name) = &mount.image {
            let of = images.find(name).ok_or_else(|| Error::NotFound { kind: "image", name: name.clone() })?;
            image_mounts.push((index, of.layers));
        } else if !mount.host.exists() {
            return Err(Error::Invalid(format!(
                "failed to generate container {:?} spec: failed to stat {:?}: no such file or directory",
                config.id, mount.host
            )));
        }
    }
    let container_dir = root.join("containers").join(&config.id);
    for name in ["upper", "work", "rootfs"] {
        fs::create_dir_all(container_dir.join(name)).at("cannot make", &container_dir)?;
    }
    let parent = sandbox.cgroup_parent.trim_end_matches('/');
    let path = format!("{parent}/{}", config.id);
    let plan = cgroups.create(&path, &config.resources)?;
    cgroups.apply(&plan, &config.resources)?;
    if !config.privileged {
        devices::restrict(&plan, &device_rules(&config.devices)?)?;
    }
    Ok(Spec {
        argv,
        env: environment(&config, of_image, &home, &sandbox.hostname),
        cwd,
        user,
        capabilities,
        filter,
        stop_signal,
        image_mounts,
        log_path: if config.log_path.as_os_str().is_empty() { config.log_path.clone() } else { sandbox.log_dir.join(&config.log_path) },
        image_id: image.id,
        created_ns: sys::now_ns(),
        layers: image.layers,
        layers_dir,
        container_dir,
        cgroup: plan,
        config,
    })
}

/// The command line: a given command replaces both parts of the image's, given arguments the second one alone.
fn argv(config: &ContainerConfig, image: &ImageConfig) -> Result<Vec<String>> {
    let mut argv = config.command.clone();
    if argv.is_empty() {
        argv.clone_from(&image.entrypoint);
        argv.extend(if config.args.is_empty() { image.cmd.clone() } else { config.args.clone() });
    } else {
        argv.extend(config.args.clone());
    }
    if argv.is_empty() {
        return Err(Error::Invalid("no command specified".to_owned()));
    }
    Ok(argv)
}

/// The image's environment, then the container's; a later one of the same name counts.
fn environment(config: &ContainerConfig, image: &ImageConfig, home: &str, hostname: &str) -> Vec<String> {
    let name_of = |entry: &str| entry.split('=').next().unwrap_or("").to_owned();
    let mut env: Vec<String> = Vec::new();
    let own = config.env.iter().map(|(name, value)| format!("{name}={value}"));
    for entry in image.env.iter().cloned().chain(own) {
        let name = name_of(&entry);
        match env.iter_mut().find(|e| name_of(e) == name) {
            Some(old) => *old = entry,
            None => env.push(entry),
        }
    }
    let mut default = |name: &str, entry: String| {
        if !env.iter().any(|e| name_of(e) == name) {
            env.push(entry);
        }
    };
    default("PATH", DEFAULT_PATH.to_owned());
    if !hostname.is_empty() {
        default("HOSTNAME", format!("HOSTNAME={hostname}"));
    }
    default("HOME", format!("HOME={home}"));
    if config.tty {
        default("TERM", "TERM=xterm".to_owned());
    }
    env
}

/// A file of an image, from the highest layer that has it; empty when none has. Symlinks resolve within their layer.
fn read_in_layers(layers_dir: &Path, layers: &[String], path: &str) -> String {
    use std::io::Read;
    let open = |layer: &String| {
        let dir = fs::File::open(layers_dir.join(layer)).ok()?;
        let fd: OwnedFd = sys::openat2(&dir, &sys::c_str(path).ok()?, libc::O_RDONLY | libc::O_NONBLOCK, 0, sys::RESOLVE_IN_ROOT).ok()?;
        let file = fs::File::from(fd);
        file.metadata().ok()?.is_file().then_some(file)
    };
    let mut text = String::new();
    if let Some(file) = layers.iter().rev().find_map(open) {
        let _ = file.take(ACCOUNTS_BYTES_MAX).read_to_string(&mut text);
    }
    text
}

fn device_rules(devices: &[Device]) -> Result<Vec<String>> {
    let rule = |d: &Device| {
        let meta = fs::metadata(&d.host).at("cannot look at device", &d.host)?;
        let kind = if meta.mode() & libc::S_IFMT == libc::S_IFBLK { 'b' } else { 'c' };
        let permissions = if d.permissions.is_empty() { "rwm" } else { &d.permissions };
        Ok(format!("{kind} {}:{} {permissions}", libc::major(meta.rdev()), libc::minor(meta.rdev())))
    };
    devices.iter().map(rule).collect()
}

/// `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3` as a number; nothing is SIGTERM.
pub(crate) fn signal_number(text: &str) -> Result<i32> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP",
        "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let upper = text.trim().to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    let named = NAMES.iter().position(|n| *n == short).map(|at| at as i32 + 1);
    let real_time = || {
        let (base, rest, sign) = match short.strip_prefix("RTMIN") {
            Some(rest) => (34, rest, 1),
            None => (64, short.strip_prefix("RTMAX")?, -1),
        };
        let offset: i32 = rest.trim_start_matches(['+', '-']).parse().or_else(|e| if rest.is_empty() { Ok(0) } else { Err(e) }).ok()?;
        Some(base + sign * offset)
    };
    let number = if short.is_empty() { Some(libc::SIGTERM) } else { named.or_else(|| short.parse().ok()).or_else(real_time) };
    number.filter(|n| (1..=64).contains(n)).ok_or_else(|| Error::Invalid(format!("unknown signal {text:?}")))
}

/// Unmounts what is mounted at or below a directory, last first.
pub(crate) fn detach_mounts_below(dir: &Path) {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let Some(prefix) = dir.to_str() else { return };
    let points = table.lines().filter_map(|l| l.split(' ').nth(4));
    let mut ours: Vec<&str> = points.filter(|p| p.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))).collect();
    ours.reverse();
    for point in ours {
        if let Err(e) = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH) {
            tracing::warn!(point, error = %e, "not unmounted");
        }
    }
}

/// Kills every shim that serves a directory below `run`, found by its command line.
pub(crate) fn kill_shims(run: &Path) {
    let base = run.join("sandboxes");
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let mut args = line.split(|b| *b == 0);
        let (_, verb, dir) = (args.next(), args.next(), args.next());
        let dir = dir.and_then(|d| std::str::from_utf8(d).ok()).map(Path::new);
        if verb == Some(b"shim") && dir.is_some_and(|d| d.parent() == Some(&base)) {
            sys::kill(pid, libc::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for (text, number) in [("", 15), ("SIGQUIT", 3), ("kill", 9), ("12", 12), ("SIGRTMIN+3", 37), ("RTMAX-1", 63)] {
            assert_eq!(signal_number(text).unwrap(), number, "{text}");
        }
        assert!(signal_number("SIGNOPE").is_err() && signal_number("0").is_err());
    }

    #[test]
    fn a_command_replaces_the_images_arguments_too() {
        let image = ImageConfig { entrypoint: vec!["e".into()], cmd: vec!["c".into()], ..ImageConfig::default() };
        let with = |command: &[&str], args: &[&str]| {
            let own = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
            argv(&ContainerConfig { command: own(command), args: own(args), ..ContainerConfig::default() }, &image).unwrap()
        };
        assert_eq!((with(&[], &[]), with(&["x"], &[]), with(&[], &["a"])), (vec!["e".into(), "c".into()], vec!["x".into()], vec!["e".to_owned(), "a".into()]));
    }

    #[test]
    fn ids_cannot_leave_their_directory() {
        assert!(check_id("a.b-c_1").is_ok());
        assert!(["", "..", ".a", "a/b", "a\0"].iter().all(|id| check_id(id).is_err()));
    }
}
