//! What is done for a container before its shim hears of it: the image's wishes and the pod's become one specification.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cgroup::{Cgroups, Level};
use crate::error::{Context, Error, Result};
use crate::files::{private_dir, read_json};
use crate::images::{Images, Pins};
use crate::proto::{SandboxFile, Sets, Spec};
use crate::seccomp::Filter;
use crate::types::*;
use crate::{apparmor, caps, devices, layers, mounts, process, seccomp, sys, user};

/// The search path of a container whose image gives none (that of containerd and Docker).
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// `/etc/passwd` and `/etc/group` are read up to this size.
const ACCOUNTS_BYTES_MAX: u64 = 4 << 20;
/// Volumes that an image may declare for itself.
const VOLUMES_MAX: usize = 128;
/// A killed shim is gone within this, unless the kernel holds it in a system call.
pub(crate) const SHIM_KILL_MAX: Duration = Duration::from_secs(5);

/// What this host must have; the words say what to do.
pub fn check_host(cgroup_root: &Path) -> Result<()> {
    let missing = |text: String| Err(Error::State(text));
    if !nix::unistd::geteuid().is_root() {
        return missing("running containers needs root: namespaces, mounts and cgroups cannot be made otherwise".to_owned());
    }
    let unified = cgroup_root.join("cgroup.controllers");
    let absent: Vec<&str> = match fs::read_to_string(&unified) {
        Ok(list) => ["cpu", "memory", "pids"].into_iter().filter(|c| !list.split_whitespace().any(|l| l == *c)).collect(),
        Err(_) => ["cpu", "devices", "memory", "pids"].into_iter().filter(|c| !cgroup_root.join(c).is_dir()).collect(),
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

/// The containers' specifications in a sandbox's directory.
pub(crate) fn specs(dir: &Path) -> Vec<Spec> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let files = entries.filter(|e| {
        let name = e.file_name();
        name.to_str().is_some_and(|n| n.starts_with("c-") && n.ends_with(".json"))
    });
    files.filter_map(|e| read_json(&e.path())).collect()
}

/// The layers that containers of runtimes are made of, by their volatile directories and the specifications there: also of other
/// processes'.
pub(crate) fn layers_in_use(runs: Vec<PathBuf>) -> HashSet<String> {
    specs_of(&runs).flat_map(|spec| spec.image_mounts.into_iter().flat_map(|(_, layers)| layers).chain(spec.layers)).collect()
}

/// The uppermost layers of what they are made of: those tell the images.
pub(crate) fn tops_in_use(runs: Vec<PathBuf>) -> HashSet<String> {
    let tops = |spec: Spec| spec.image_mounts.into_iter().filter_map(|(_, mut layers)| layers.pop()).chain(spec.layers.last().cloned()).collect::<Vec<_>>();
    specs_of(&runs).flat_map(tops).collect()
}

fn specs_of(runs: &[PathBuf]) -> impl Iterator<Item = Spec> {
    let sandboxes = runs.iter().flat_map(|run| fs::read_dir(run.join("sandboxes")).into_iter().flatten().flatten());
    sandboxes.flat_map(|dir| specs(&dir.path()))
}

/// Overlays the limits that are given.
pub(crate) fn merge_resources(old: &mut Resources, new: Resources) {
    macro_rules! over { ($($field:ident)*) => { $(if new.$field.is_some() { old.$field = new.$field; })* } }
    over!(cpu_shares cpu_quota cpu_period memory_limit pids_limit cpuset_cpus cpuset_mems oom_score_adj);
    old.hugepages.extend(new.hugepages);
    old.unified.extend(new.unified);
}

/// The specification of a container, and what keeps its image's layers until it is written; its directories and cgroup are
/// made.
pub(crate) fn container(images: &Images, cgroups: &Cgroups, root: &Path, sandbox: &SandboxFile, mut config: ContainerConfig) -> Result<(Spec, Pins)> {
    let SandboxFile { config: sandbox, users, .. } = sandbox;
    let (image, pins) = image_of(images, &config)?;
    let of_image = &image.config;
    let argv = argv(&config, of_image)?;
    let layers_dir = images.layers_dir();
    // A directory counts like an image's only layer: an absolute path is itself, whatever stands before it.
    let of_rootfs = config.rootfs.iter().map(|dir| dir.to_string_lossy().into_owned());
    let whole: Vec<String> = image.layers.iter().cloned().chain(of_rootfs).collect();
    let file = |path: &str| layers::read(&layers_dir, &whole, path, ACCOUNTS_BYTES_MAX).map(Option::unwrap_or_default).context(path);
    let (user, home) = user::resolve(&of_image.user, &config.user, &file("etc/passwd")?, &file("etc/group")?)?;
    let cwd = [&config.working_dir, &of_image.working_dir].into_iter().find(|d| !d.is_empty());
    let cwd = cwd.map_or("/", |d| d.as_str()).to_owned();
    let (capabilities, capability_sets) = capabilities(&config);
    let filter = match &config.seccomp {
        _ if config.privileged => Filter::default(),
        Seccomp::Unconfined => Filter::default(),
        Seccomp::RuntimeDefault => seccomp::runtime_default(capabilities)?,
        Seccomp::Localhost(path) => seccomp::from_file(path, capabilities)?,
    };
    let apparmor = if config.privileged { None } else { apparmor::resolve(config.apparmor.as_deref())? };
    let stop = config.stop_signal.as_deref().filter(|s| !s.is_empty()).unwrap_or(&of_image.stop_signal);
    let stop_signal = signal_number(stop)?;
    let mut image_mounts = Vec::new();
    config.mounts.sort_by_key(|m| m.container.components().count());
    for (index, mount) in config.mounts.iter().enumerate() {
        if let Some(name) = &mount.image {
            let of = images.find(name).ok_or_else(|| Error::NotFound { kind: "image", name: name.clone() })?;
            // Told before the container is made, as by the original's runtime: nothing of it has failed to start then.
            if !layers::has(&layers_dir, &of.layers, &mount.host).context("image volume")? {
                return Err(Error::Invalid(format!(
                    "failed to mount image volume: ImageVolumeMountFailed: failed to ensure image subpath {:?} in {:?}: openat {}: no such file or directory",
                    mount.host,
                    mount.container,
                    mount.host.display()
                )));
            }
            image_mounts.push((index, of.layers));
        } else if !mount.host.exists() {
            return Err(Error::Invalid(format!(
                "failed to generate container {:?} spec: failed to stat {:?}: no such file or directory",
                config.id, mount.host
            )));
        }
    }
    let container_dir = root.join("containers").join(&config.id);
    directories(&container_dir, image.layers.last().map(|layer| layers_dir.join(layer)), *users)?;
    let parent = sandbox.cgroup_parent.trim_end_matches('/');
    let path = format!("{parent}/{}", config.id);
    let plan = cgroups.create(&path, &config.resources)?;
    cgroups.apply(&plan, &config.resources, Level::Container)?;
    cgroups.forbid_swap(&plan)?;
    if !config.privileged {
        devices::restrict(&plan, &device_rules(&config.devices)?)?;
    }
    let spec = Spec {
        argv,
        env: environment(&config, of_image, &home, &sandbox.hostname),
        cwd,
        user,
        capabilities,
        capability_sets,
        rlimits: config.rlimits.iter().map(rlimit).collect::<Result<_>>()?,
        filter: filter.program,
        filter_flags: filter.flags,
        apparmor,
        volumes: own_volumes(&config, of_image)?,
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
    };
    Ok((spec, pins))
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

/// The image's own volumes that the pod does not mount over, as plain absolute paths.
fn own_volumes(config: &ContainerConfig, image: &ImageConfig) -> Result<Vec<String>> {
    let plain = |path: &Path| -> PathBuf { Path::new("/").join(path.components().filter(|c| matches!(c, Component::Normal(_))).collect::<PathBuf>()) };
    let taken: HashSet<PathBuf> = config.mounts.iter().map(|m| plain(&m.container)).collect();
    let all: BTreeSet<PathBuf> = image.volumes.keys().map(|v| plain(Path::new(v))).filter(|v| v != Path::new("/") && !taken.contains(v)).collect();
    if all.len() > VOLUMES_MAX {
        return Err(Error::Invalid(format!("the image declares {} volumes, more than {VOLUMES_MAX}", all.len())));
    }
    let text = |path: PathBuf| path.into_os_string().into_string().map_err(|p| Error::Invalid(format!("volume {p:?} of the image")));
    all.into_iter().map(text).collect()
}

/// The container's directories on the host. Its `/` has the owner of the image's (of the highest layer's, as overlayfs shows
/// it), shifted to the ids of the sandbox's users. Its mode is 0755 whatever the umask and whatever the image says, as with
/// containerd's snapshots: images made of a private directory (`./` 0700) are common, and run as anybody there.
fn directories(dir: &Path, top: Option<PathBuf>, users: Option<IdMapping>) -> Result<()> {
    private_dir(dir)?;
    for name in ["upper", "work", "rootfs"] {
        private_dir(&dir.join(name))?;
    }
    let of_image = top.map(|layer| fs::metadata(&layer).at("cannot look at", &layer)).transpose()?;
    let (uid, gid) = of_image.map_or((0, 0), |m| (m.uid(), m.gid()));
    let first = users.map_or(0, |u| u.host_first);
    let upper = dir.join("upper");
    std::os::unix::fs::chown(&upper, Some(first.saturating_add(uid)), Some(first.saturating_add(gid))).at("cannot give away", &upper)?;
    fs::set_permissions(&upper, fs::Permissions::from_mode(0o755)).at("cannot open", &upper)
}

/// The image, and what keeps its layers until the specification, which names them, is written: who removes the image meanwhile
/// leaves them. A container with a directory for its root has none.
fn image_of(images: &Images, config: &ContainerConfig) -> Result<(Image, Pins)> {
    let of_volumes = || config.mounts.iter().filter_map(|mount| images.find(mount.image.as_deref()?)).flat_map(|image| image.layers);
    if config.rootfs.is_some() {
        return Ok((Image::default(), images.pin(&of_volumes().collect::<Vec<_>>())?));
    }
    let missing = || Error::NotFound { kind: "image", name: config.image.clone() };
    let layers: Vec<String> = images.find(&config.image).ok_or_else(missing)?.layers.into_iter().chain(of_volumes()).collect();
    let pins = images.pin(&layers)?;
    Ok((images.find(&config.image).ok_or_else(missing)?, pins))
}

/// The bounding set, and the others where they are told one by one.
fn capabilities(config: &ContainerConfig) -> (u64, Option<Sets>) {
    let Some(given) = &config.capability_sets else {
        return (caps::resolve(&config.capabilities_add, &config.capabilities_drop, config.privileged), None);
    };
    let [effective, permitted, inheritable, ambient] = [&given.effective, &given.permitted, &given.inheritable, &given.ambient].map(|names| caps::set(names));
    (caps::set(&given.bounding), Some(Sets { effective, permitted, inheritable, ambient }))
}

/// The kernel's number of a limit (setrlimit(2)), with its values.
fn rlimit(limit: &Rlimit) -> Result<(u32, u64, u64)> {
    const NAMES: [(&str, libc::__rlimit_resource_t); 16] = [
        ("CPU", libc::RLIMIT_CPU),
        ("FSIZE", libc::RLIMIT_FSIZE),
        ("DATA", libc::RLIMIT_DATA),
        ("STACK", libc::RLIMIT_STACK),
        ("CORE", libc::RLIMIT_CORE),
        ("RSS", libc::RLIMIT_RSS),
        ("NPROC", libc::RLIMIT_NPROC),
        ("NOFILE", libc::RLIMIT_NOFILE),
        ("MEMLOCK", libc::RLIMIT_MEMLOCK),
        ("AS", libc::RLIMIT_AS),
        ("LOCKS", libc::RLIMIT_LOCKS),
        ("SIGPENDING", libc::RLIMIT_SIGPENDING),
        ("MSGQUEUE", libc::RLIMIT_MSGQUEUE),
        ("NICE", libc::RLIMIT_NICE),
        ("RTPRIO", libc::RLIMIT_RTPRIO),
        ("RTTIME", libc::RLIMIT_RTTIME),
    ];
    let invalid = |what: &str| Error::Invalid(format!("{what} limit {:?}", limit.name));
    let found = NAMES.iter().find(|(name, _)| limit.name.strip_prefix("RLIMIT_") == Some(name));
    let (_, number) = found.ok_or_else(|| invalid("unknown"))?;
    if limit.soft > limit.hard { Err(invalid("the soft value is above the hard one of")) } else { Ok((*number, limit.soft, limit.hard)) }
}

fn device_rules(devices: &[Device]) -> Result<Vec<String>> {
    let rule = |d: &Device| {
        let meta = fs::metadata(&d.host).at("cannot look at device", &d.host)?;
        let kind = if meta.mode() & libc::S_IFMT == libc::S_IFBLK { 'b' } else { 'c' };
        let permissions = if d.permissions.is_empty() { "rwm" } else { &d.permissions };
        Ok(format!("{kind} {}:{} {permissions}", libc::major(meta.rdev()), libc::minor(meta.rdev())))
    };
    // CDI's word for a device that is shown and no more.
    devices.iter().filter(|device| device.permissions != "none").map(rule).collect()
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
    for mounted in mounts::all().unwrap_or_default().iter().rev().filter(|mounted| mounted.at.starts_with(dir)) {
        if let Err(e) = nix::mount::umount2(&mounted.at, nix::mount::MntFlags::MNT_DETACH) {
            tracing::warn!(point = %mounted.at.display(), error = %e, "not unmounted");
        }
    }
}

/// A path without links; as it is where nothing is there any more.
fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Kills every shim that serves a directory below `run`.
pub(crate) fn kill_shims(run: &Path) {
    let base = run.join("sandboxes");
    let ways = [real(&base), base];
    for shim in shims(&|dir| dir.parent().is_some_and(|above| ways.iter().any(|way| way == above))) {
        let _ = sys::pidfd_signal(&shim, libc::SIGKILL);
    }
}

/// Kills the shim of a sandbox's directory, and waits until it is gone. False when it is not.
pub(crate) fn kill_shim(dir: &Path, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    let ways = [real(dir), dir.to_owned()];
    shims(&|served| ways.iter().any(|way| way == served)).iter().all(|shim| {
        let _ = sys::pidfd_signal(shim, libc::SIGKILL);
        // A process's handle is readable when it has ended.
        let mut one = [libc::pollfd { fd: shim.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        process::poll(&mut one, i32::try_from(left).unwrap_or(i32::MAX));
        one[0].revents != 0
    })
}

/// Handles of the shims that serve such directories, found by their command lines. (A socket's other end would tell who made
/// it: a former knarr.) The handle is taken first, so that a number that is used again is seen for what it is.
///
/// A directory counts as what it is, whatever links lead to it: the one that started a shim may have come by another way. Only a
/// process with this one's mounts, as shims are, is believed so far: a container's may name a path that answers nobody.
fn shims(serves: &dyn Fn(&Path) -> bool) -> Vec<OwnedFd> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let Ok(handle) = sys::pidfd(pid) else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let mut args = line.split(|b| *b == 0);
        let (_, verb, dir) = (args.next(), args.next(), args.next());
        let dir = dir.and_then(|d| std::str::from_utf8(d).ok()).map(Path::new);
        if verb == Some(b"shim") && dir.is_some_and(|dir| serves(dir) || has_our_mounts(&entry.path()) && serves(&real(dir))) {
            found.push(handle);
        }
    }
    found
}

fn has_our_mounts(process: &Path) -> bool {
    let of = |process: &Path| fs::read_link(process.join("ns/mnt")).ok();
    of(process).is_some_and(|theirs| Some(theirs) == of(Path::new("/proc/self")))
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
    fn the_root_is_the_image_owners_and_open_whatever_the_image_says() {
        let base = std::env::temp_dir().join(format!("knarr-prepare-{}", std::process::id()));
        // Of a run with the same number that was killed.
        let _ = std::fs::remove_dir_all(&base);
        let (layer, container) = (base.join("layer"), base.join("container"));
        fs::create_dir_all(&layer).unwrap();
        fs::set_permissions(&layer, fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(&layer, Some(5), Some(6)).unwrap();
        directories(&container, Some(layer), None).unwrap();
        let upper = fs::metadata(container.join("upper")).unwrap();
        assert_eq!((upper.mode() & 0o7777, upper.uid(), upper.gid()), (0o755, 5, 6));
        assert_eq!(fs::metadata(&container).unwrap().mode() & 0o7777, 0o700, "on the host it is root's alone");
        fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn a_shim_is_found_whichever_way_leads_to_its_directory() {
        use std::os::unix::process::ExitStatusExt;
        let base = std::env::temp_dir().join(format!("knarr-linked-{}", std::process::id()));
        // Of a run with the same number that was killed.
        let _ = std::fs::remove_dir_all(&base);
        fs::create_dir_all(base.join("real/sandboxes/s")).unwrap();
        std::os::unix::fs::symlink("real", base.join("link")).unwrap();
        fs::write(base.join("shim"), "read x").unwrap();
        let started = || {
            let mut command = std::process::Command::new("sh");
            command.current_dir(&base).arg("shim").arg(base.join("link/sandboxes/s")).stdin(std::process::Stdio::piped()).spawn().unwrap()
        };
        let mut other = started();
        assert!(kill_shim(&base.join("real/sandboxes/t"), Duration::from_secs(5)), "there is none");
        assert_eq!(other.wait().unwrap().signal(), None, "who serves another directory is left alone");
        let mut child = started();
        assert!(kill_shim(&base.join("real/sandboxes/s"), Duration::from_secs(5)));
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        // A container's process may say what it likes.
        let mut stranger = std::process::Command::new("unshare");
        stranger.current_dir(&base).args(["--mount", "sh", "shim"]).arg(base.join("link/sandboxes/s"));
        let mut stranger = stranger.stdin(std::process::Stdio::piped()).spawn().unwrap();
        while !fs::read(format!("/proc/{}/cmdline", stranger.id())).unwrap().starts_with(b"sh\0") {
            assert_eq!(stranger.try_wait().unwrap(), None);
            std::thread::yield_now();
        }
        assert!(kill_shim(&base.join("real/sandboxes/s"), Duration::from_secs(5)));
        assert_eq!(stranger.wait().unwrap().signal(), None, "its path is not followed");
        let mut child = started();
        kill_shims(&base.join("real"));
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn ids_cannot_leave_their_directory() {
        assert!(check_id("a.b-c_1").is_ok());
        assert!(["", "..", ".a", "a/b", "a\0"].iter().all(|id| check_id(id).is_err()));
    }
}
