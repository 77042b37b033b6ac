//! A container's view of the file system, built by its own process between clone and exec.
//!
//! In two steps. [`Sources::open`] runs in the host's mount namespace and takes a detached copy of everything that is to be
//! bind-mounted, so that mounts which the host made after the shim started are seen. [`build`] runs in the container's new
//! mount namespace and puts all in place. Targets are always resolved by the kernel as if the container's root were `/`
//! (openat2 with RESOLVE_IN_ROOT), so a symlink in an image or a volume leads nowhere else.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Step, process};
use crate::proto::Spec;
use crate::sys;
use crate::types::{Device, Propagation, SandboxConfig};

const AT_FDCWD: RawFd = libc::AT_FDCWD;
const MOUNT_ATTR_NOSUID: u64 = 2;
const MOUNT_ATTR_NODEV: u64 = 4;
const MOUNT_ATTR_NOEXEC: u64 = 8;
const NO_ALL: u64 = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;

/// Shown empty unless the configuration says otherwise (the lists of the OCI runtimes).
const MASKED: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/devices/system/cpu/cpu0/thermal_throttle",
];
/// Shown read-only unless the configuration says otherwise.
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// The devices that every container has: name, major, minor.
const DEVICES: [(&CStr, u32, u32); 6] = [(c"null", 1, 3), (c"zero", 1, 5), (c"full", 1, 7), (c"random", 1, 8), (c"urandom", 1, 9), (c"tty", 5, 0)];
const LINKS: [(&CStr, &CStr); 6] = [
    (c"/proc/self/fd", c"fd"),
    (c"/proc/self/fd/0", c"stdin"),
    (c"/proc/self/fd/1", c"stdout"),
    (c"/proc/self/fd/2", c"stderr"),
    (c"/proc/kcore", c"core"),
    (c"pts/ptmx", c"ptmx"),
];
/// How deep the host's `/dev` is searched for a privileged container.
const DEV_DEPTH_MAX: usize = 4;

/// Detached copies of what the host lends, in the order of the configuration's mounts.
pub(super) struct Sources {
    binds: Vec<Option<(OwnedFd, bool)>>,
    shm: OwnedFd,
    /// Version 1: name below `/sys/fs/cgroup` and the container's own directory.
    cgroups: Vec<(String, OwnedFd)>,
    devices: Vec<(Device, std::fs::Metadata)>,
}

impl Sources {
    /// Runs in the host's mount namespace. `pod_ns` is the mount namespace whose root is the pod's shared memory.
    pub(super) fn open(spec: &Spec, sandbox: &SandboxConfig, pod_ns: &OwnedFd, host_ns: &OwnedFd) -> Step<Sources> {
        let mut binds = Vec::new();
        for mount in &spec.config.mounts {
            if mount.image.is_some() {
                binds.push(None);
                continue;
            }
            let what = || format!("mount {:?}", mount.host);
            let path = sys::c_path(&mount.host).map_err(|e| format!("{}: {e}", what()))?;
            let tree = sys::open_tree(AT_FDCWD, &path, true).map_err(|e| format!("{}: {e}", what()))?;
            let directory = is_directory(&tree).map_err(|e| format!("{}: {e}", what()))?;
            let propagation = match mount.propagation {
                Propagation::Private => libc::MS_PRIVATE,
                Propagation::HostToContainer => libc::MS_SLAVE,
                Propagation::Bidirectional => libc::MS_SHARED,
            };
            let readonly = if mount.readonly { sys::MOUNT_ATTR_RDONLY } else { 0 };
            sys::mount_setattr(&tree, true, 0, propagation).map_err(|e| format!("{}: propagation: {e}", what()))?;
            let deep = mount.readonly && mount.recursive_readonly;
            sys::mount_setattr(&tree, deep, readonly, 0).map_err(|e| format!("{}: read-only: {e}", what()))?;
            binds.push(Some((tree, directory)));
        }
        let devices = spec.config.devices.iter().map(|d| {
            let meta = std::fs::metadata(&d.host).map_err(|e| format!("device {:?}: {e}", d.host))?;
            Ok((d.clone(), meta))
        });
        Ok(Sources {
            binds,
            shm: shared_memory(sandbox, pod_ns, host_ns).map_err(|e| format!("shared memory: {e}"))?,
            cgroups: own_cgroups(spec, sandbox).map_err(|e| format!("cgroups: {e}"))?,
            devices: devices.collect::<Step<_>>()?,
        })
    }
}

fn shared_memory(sandbox: &SandboxConfig, pod_ns: &OwnedFd, host_ns: &OwnedFd) -> io::Result<OwnedFd> {
    if sandbox.host_ipc {
        return sys::open_tree(AT_FDCWD, c"/dev/shm", false);
    }
    process::setns(pod_ns, libc::CLONE_NEWNS)?;
    let tree = sys::open_tree(AT_FDCWD, c"/", false);
    process::setns(host_ns, libc::CLONE_NEWNS)?;
    tree
}

/// Version 1: the container sees its own cgroup in each hierarchy, and nothing of the host's.
fn own_cgroups(spec: &Spec, sandbox: &SandboxConfig) -> io::Result<Vec<(String, OwnedFd)>> {
    if spec.cgroup.unified {
        return Ok(Vec::new());
    }
    let below = Path::new(&sandbox.cgroup_parent).join(&spec.config.id);
    let depth = below.components().filter(|c| matches!(c, std::path::Component::Normal(_))).count();
    let mut list = Vec::new();
    for dir in &spec.cgroup.dirs {
        let Some(name) = dir.ancestors().nth(depth).and_then(Path::file_name).and_then(|n| n.to_str()) else { continue };
        let tree = sys::open_tree(AT_FDCWD, &sys::c_path(dir)?, false)?;
        if !spec.config.privileged {
            sys::mount_setattr(&tree, false, sys::MOUNT_ATTR_RDONLY | NO_ALL, 0)?;
        }
        list.push((name.to_owned(), tree));
    }
    Ok(list)
}

/// Builds everything and makes it the root. Runs in the container's own mount, process and cgroup namespaces.
pub(super) fn build(spec: &Spec, sources: Sources) -> Step<()> {
    sys::mount(c"", c"/", c"", libc::MS_REC | libc::MS_PRIVATE, c"").map_err(|e| format!("private mounts: {e}"))?;
    let rootfs = spec.container_dir.join("rootfs");
    overlay(spec, &rootfs).map_err(|e| format!("failed to mount rootfs at {rootfs:?}: {e}"))?;
    let root = Root::open(&rootfs).map_err(|e| format!("rootfs: {e}"))?;
    let own: Vec<&Path> = spec.config.mounts.iter().map(|m| m.container.as_path()).collect();
    let default = |path: &str| !own.iter().any(|p| *p == Path::new(path));
    let Sources { binds, shm, cgroups, devices } = sources;
    if default("/proc") {
        fresh(&root, c"proc", &[], NO_ALL, "/proc")?;
    }
    if default("/dev") {
        device_tree(&root, spec, &devices)?;
        if default("/dev/shm") {
            attach(&root, &shm, "/dev/shm", true)?;
        }
        fresh(&root, c"mqueue", &[], NO_ALL, "/dev/mqueue")?;
    }
    if default("/sys") {
        let readonly = if spec.config.privileged { 0 } else { sys::MOUNT_ATTR_RDONLY };
        fresh(&root, c"sysfs", &[], NO_ALL | readonly, "/sys")?;
        if default("/sys/fs/cgroup") {
            cgroup_tree(&root, spec, &cgroups)?;
        }
    }
    for (index, bind) in binds.iter().enumerate() {
        let mount = &spec.config.mounts[index];
        let target = mount.container.to_string_lossy();
        match bind {
            Some((tree, directory)) => attach(&root, tree, &target, *directory)?,
            None => image_volume(spec, index, &root)?,
        }
    }
    restrict(&root, spec)?;
    working_directory(&root, spec)?;
    if spec.config.readonly_rootfs {
        sys::mount_setattr(&root.0, false, sys::MOUNT_ATTR_RDONLY, 0).map_err(|e| format!("read-only root: {e}"))?;
    }
    process::fchdir(&root.0).and_then(|()| process::pivot_here()).map_err(|e| format!("pivot_root: {e}"))
}

/// The container's root directory.
struct Root(OwnedFd);

impl Root {
    fn open(path: &Path) -> io::Result<Root> {
        process::openat(&AT_FDCWD, &sys::c_path(path)?, libc::O_PATH | libc::O_DIRECTORY, 0).map(Root)
    }

    fn find(&self, path: &str, flags: i32) -> io::Result<OwnedFd> {
        sys::openat2(&self.0, &sys::c_str(path)?, libc::O_PATH | flags, 0, sys::RESOLVE_IN_ROOT)
    }

    /// The directory at this path, made with those above it where absent.
    fn directory(&self, path: &str) -> io::Result<OwnedFd> {
        match self.find(path, libc::O_DIRECTORY) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            found => return found,
        }
        let (parent, name) = split(path)?;
        let parent = self.directory(parent)?;
        match process::mkdirat(&parent, &sys::c_str(name)?, 0o755) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        self.find(path, libc::O_DIRECTORY)
    }

    /// The file at this path, made empty where absent.
    fn file(&self, path: &str) -> io::Result<OwnedFd> {
        match self.find(path, 0) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            found => return found,
        }
        let (parent, name) = split(path)?;
        let parent = self.directory(parent)?;
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_WRONLY;
        match process::openat(&parent, &sys::c_str(name)?, flags, 0o644) {
            // A symlink to what does not exist: that is made.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let link = std::fs::read_link(format!("/proc/self/fd/{}/{name}", parent.as_raw_fd()))?;
                let target = Path::new(split(path)?.0).join(link);
                let parent = target.parent().and_then(Path::to_str).ok_or(io::ErrorKind::InvalidInput)?;
                let name = target.file_name().and_then(|n| n.to_str()).ok_or(io::ErrorKind::InvalidInput)?;
                drop(process::openat(&self.directory(parent)?, &sys::c_str(name)?, flags, 0o644)?);
            }
            made => drop(made?),
        }
        self.find(path, 0)
    }
}

fn split(path: &str) -> io::Result<(&str, &str)> {
    let path = path.trim_end_matches('/');
    let (parent, name) = path.rsplit_once('/').unwrap_or(("/", path));
    if name.is_empty() { Err(io::ErrorKind::InvalidInput.into()) } else { Ok((if parent.is_empty() { "/" } else { parent }, name)) }
}

fn is_directory(fd: &OwnedFd) -> io::Result<bool> {
    Ok(std::fs::metadata(format!("/proc/self/fd/{}", fd.as_raw_fd()))?.is_dir())
}

fn attach(root: &Root, tree: &OwnedFd, target: &str, directory: bool) -> Step<()> {
    let place = if directory { root.directory(target) } else { root.file(target) };
    let done = place.and_then(|place| sys::move_mount(tree, &place));
    done.map_err(|e| format!("error mounting to rootfs at {target:?}: {e}"))
}

fn fresh(root: &Root, kind: &CStr, options: &[(&CStr, Option<&CStr>)], flags: u64, target: &str) -> Step<()> {
    let mount = sys::new_mount(kind, options, flags).map_err(|e| format!("new {kind:?} for {target}: {e}"))?;
    attach(root, &mount, target, true)
}

/// The image's layers with a writable one above. By the old mount(2) with relative names: the new interface takes only
/// short values before Linux 6.5, and images have up to 127 layers.
fn overlay(spec: &Spec, target: &Path) -> io::Result<()> {
    let upper = spec.container_dir.display();
    let lower = lower_dirs(&spec.layers);
    let options = format!("lowerdir={lower},upperdir={upper}/upper,workdir={upper}/work");
    process::chdir(&sys::c_path(&spec.layers_dir)?)?;
    let target = sys::c_path(target)?;
    // `volatile`: the layer dies with its container, so nothing waits for the disk on its behalf. Linux before 5.10 lacks it.
    let quick = CString::new(format!("{options},volatile"))?;
    match sys::mount(c"overlay", &target, c"overlay", 0, &quick) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => sys::mount(c"overlay", &target, c"overlay", 0, &CString::new(options)?),
        done => done,
    }
}

/// Highest first, as overlayfs wants them. An image without any layer has the empty one.
fn lower_dirs(layers: &[String]) -> String {
    if layers.is_empty() {
        return crate::images::EMPTY_LAYER.to_owned();
    }
    layers.iter().rev().map(String::as_str).collect::<Vec<_>>().join(":")
}

/// An image's files as a read-only volume.
fn image_volume(spec: &Spec, index: usize, root: &Root) -> Step<()> {
    let mount = &spec.config.mounts[index];
    let layers = spec.image_mounts.iter().find(|(i, _)| *i == index).map_or(&[][..], |(_, layers)| layers);
    let fail = |e: io::Error| format!("image volume at {:?}: {e}", mount.container);
    let stage = spec.container_dir.join(format!("volume-{index}"));
    let make = || -> io::Result<OwnedFd> {
        std::fs::create_dir_all(&stage)?;
        let stage = sys::c_path(&stage)?;
        process::chdir(&sys::c_path(&spec.layers_dir)?)?;
        // Overlayfs without a writable layer wants two: the empty one helps out.
        let options = format!("lowerdir={}:{}", crate::images::EMPTY_LAYER, lower_dirs(layers));
        sys::mount(c"overlay", &stage, c"overlay", libc::MS_RDONLY, &CString::new(options)?)?;
        let within = Root::open(Path::new(std::ffi::OsStr::new(stage.to_str().unwrap_or_default())))?;
        let part = within.find(mount.host.to_str().filter(|p| !p.is_empty()).unwrap_or("/"), 0)?;
        let tree = sys::open_tree(part.as_raw_fd(), c"", false)?;
        sys::mount_setattr(&tree, false, sys::MOUNT_ATTR_RDONLY, 0)?;
        Ok(tree)
    };
    let tree = make().map_err(fail)?;
    let directory = is_directory(&tree).map_err(fail)?;
    attach(root, &tree, &mount.container.to_string_lossy(), directory)
}

fn device_tree(root: &Root, spec: &Spec, devices: &[(Device, std::fs::Metadata)]) -> Step<()> {
    let fail = |what: &str, e: io::Error| format!("/dev{what}: {e}");
    let options = [(c"mode", Some(c"755")), (c"size", Some(c"65536k"))];
    let dev = sys::new_mount(c"tmpfs", &options, MOUNT_ATTR_NOSUID).map_err(|e| fail("", e))?;
    let node = |name: &CStr, mode: u32, device: u64| sys::mknodat(&dev, name, mode, device);
    for (name, major, minor) in DEVICES {
        node(name, libc::S_IFCHR | 0o666, libc::makedev(major, minor)).map_err(|e| fail("/…", e))?;
    }
    for (target, name) in LINKS {
        process::symlinkat(target, &dev, name).map_err(|e| fail("/…", e))?;
    }
    for name in [c"pts", c"shm", c"mqueue"] {
        process::mkdirat(&dev, name, 0o755).map_err(|e| fail("/…", e))?;
    }
    attach(root, &dev, "/dev", true)?;
    let options = [(c"newinstance", None), (c"ptmxmode", Some(c"0666")), (c"mode", Some(c"0620")), (c"gid", Some(c"5"))];
    fresh(root, c"devpts", &options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, "/dev/pts")?;
    let mut all: Vec<(PathBuf, u32, u64)> = devices.iter().map(|(d, m)| (d.container.clone(), m.mode() & !0o777 | 0o666, m.rdev())).collect();
    if spec.config.privileged {
        host_devices(Path::new("/dev"), 0, &mut all);
    }
    for (path, mode, device) in all {
        let path = path.to_string_lossy().into_owned();
        let (parent, name) = split(&path).map_err(|e| fail(&path, e))?;
        let made = root.directory(parent).and_then(|dir| sys::mknodat(&dir, &sys::c_str(name)?, mode, device));
        if let Err(e) = made
            && e.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(format!("device {path}: {e}"));
        }
    }
    Ok(())
}

/// All device files of the host.
fn host_devices(dir: &Path, depth: usize, list: &mut Vec<(PathBuf, u32, u64)>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        let name = entry.file_name();
        if meta.is_dir() {
            let own = depth == 0 && ["pts", "shm", "mqueue", "fd"].iter().any(|n| name == *n);
            if depth < DEV_DEPTH_MAX && !own {
                host_devices(&entry.path(), depth + 1, list);
            }
        } else if matches!(meta.mode() & libc::S_IFMT, libc::S_IFCHR | libc::S_IFBLK) && name != "ptmx" && name != "console" {
            list.push((entry.path(), meta.mode(), meta.rdev()));
        }
    }
}

fn cgroup_tree(root: &Root, spec: &Spec, cgroups: &[(String, OwnedFd)]) -> Step<()> {
    const AT: &str = "/sys/fs/cgroup";
    let readonly = if spec.config.privileged { 0 } else { sys::MOUNT_ATTR_RDONLY };
    if spec.cgroup.unified {
        return fresh(root, c"cgroup2", &[], NO_ALL | readonly, AT);
    }
    let fail = |e: io::Error| format!("{AT}: {e}");
    let tmpfs = sys::new_mount(c"tmpfs", &[(c"mode", Some(c"755"))], NO_ALL).map_err(fail)?;
    for (name, _) in cgroups {
        process::mkdirat(&tmpfs, &sys::c_str(name).map_err(fail)?, 0o755).map_err(fail)?;
        for part in name.split(',').filter(|part| part != name) {
            let (part, name) = (sys::c_str(part).map_err(fail)?, sys::c_str(name).map_err(fail)?);
            process::symlinkat(&name, &tmpfs, &part).map_err(fail)?;
        }
    }
    attach(root, &tmpfs, AT, true)?;
    for (name, tree) in cgroups {
        attach(root, tree, &format!("{AT}/{name}"), true)?;
    }
    sys::mount_setattr(&tmpfs, false, readonly, 0).map_err(fail)
}

/// Hides what a container must not see and protects what it must not change.
fn restrict(root: &Root, spec: &Spec) -> Step<()> {
    let list = |given: &Option<Vec<String>>, default: &[&str]| -> Vec<String> {
        match given {
            _ if spec.config.privileged => Vec::new(),
            Some(paths) => paths.clone(),
            None => default.iter().map(|p| (*p).to_owned()).collect(),
        }
    };
    for path in list(&spec.config.readonly_paths, &READONLY) {
        let Ok(place) = root.find(&path, 0) else { continue };
        let done = sys::open_tree(place.as_raw_fd(), c"", true).and_then(|tree| {
            sys::mount_setattr(&tree, true, sys::MOUNT_ATTR_RDONLY, 0)?;
            sys::move_mount(&tree, &place)
        });
        done.map_err(|e| format!("read-only path {path}: {e}"))?;
    }
    for path in list(&spec.config.masked_paths, &MASKED) {
        let Ok(place) = root.find(&path, 0) else { continue };
        let mask = || -> io::Result<()> {
            let cover = if is_directory(&place)? {
                sys::new_mount(c"tmpfs", &[(c"size", Some(c"0k"))], sys::MOUNT_ATTR_RDONLY | NO_ALL)?
            } else {
                sys::open_tree(AT_FDCWD, c"/dev/null", false)?
            };
            sys::move_mount(&cover, &place)
        };
        mask().map_err(|e| format!("masked path {path}: {e}"))?;
    }
    Ok(())
}

/// Made if absent; one that cannot be made is told when the process changes to it.
fn working_directory(root: &Root, spec: &Spec) -> Step<()> {
    if let Err(e) = root.directory(&spec.cwd) {
        return Err(format!("chdir to cwd ({:?}) set in config.json failed: {e}", spec.cwd));
    }
    Ok(())
}
