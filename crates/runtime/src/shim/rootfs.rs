//! A container's view of the file system, built by its own process between clone and exec.
//!
//! In three steps. [`Sources::open`] runs in the host's mount namespace and takes a detached copy of everything that is to be
//! bind-mounted, so that mounts which the host made after the shim started are seen. [`Ground::lay`] makes what needs the
//! host's rights, in a mount namespace of the container's own. [`build`] runs with the pod's users (which are the host's, or
//! its own) and puts all in place.
//!
//! The image is hostile. Targets are resolved by the kernel as if the container's root were `/` ([`Root`]), so a link in an
//! image or a volume leads nowhere else; `/proc`, `/sys` and `/dev` must be directories, and what is below them is placed and
//! restricted by the handle of the mount itself, before anything else is mounted (CVE-2019-19921, CVE-2025-31133).

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::mounts::{AT_FDCWD, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, NO_ALL, Terminal, attach_at, fresh, is_directory, make_dir};
use super::users::Users;
use super::{Host, Step, dev, hooks, process, restrict, volume};
use crate::proto::Spec;
use crate::sys;
use crate::tree::{Links, Root};
use crate::types::{Device, Propagation, SandboxConfig};

/// `PROC_SUPER_MAGIC`
const PROC: i64 = 0x9fa0;
/// What may be mounted over below `/proc`: files about the machine, for which others know better (lxcfs). The list of runc.
const PROC_FILES: [&str; 11] =
    ["cpuinfo", "diskstats", "loadavg", "meminfo", "net/dev", "slabinfo", "stat", "swaps", "sys/crypto/fips_enabled", "sys/kernel/ns_last_pid", "uptime"];

/// Detached copies of what the host lends, in the order of the configuration's mounts.
pub(super) struct Sources {
    /// A directory of the host that is the container's root itself.
    own_root: Option<OwnedFd>,
    /// With whether it is a directory; none for an image volume.
    binds: Vec<Option<(OwnedFd, bool)>>,
    dev: OwnedFd,
    shm: OwnedFd,
    /// Of a process namespace that the pod's containers share.
    proc: Option<OwnedFd>,
    /// Not for a pod with users of its own, to whom these must belong.
    kernel: Option<Kernel>,
    /// Version 1: name below `/sys/fs/cgroup` and the container's own directory. Version 2: the host's tree, for who is to see it.
    cgroups: Vec<(String, OwnedFd)>,
    devices: Vec<(Device, std::fs::Metadata)>,
}

/// The kernel's own file systems, new ones, but `/proc`.
struct Kernel {
    pts: OwnedFd,
    mqueue: OwnedFd,
    sysfs: OwnedFd,
}

impl Kernel {
    fn make(spec: &Spec, pts: Option<OwnedFd>) -> Step<Kernel> {
        let readonly = if spec.config.privileged { 0 } else { sys::MOUNT_ATTR_RDONLY };
        Ok(Kernel {
            pts: pts.map_or_else(dev::terminals, Ok)?,
            mqueue: fresh(c"mqueue", &[], NO_ALL, "/dev/mqueue")?,
            sysfs: fresh(c"sysfs", &[], NO_ALL | readonly, "/sys")?,
        })
    }
}

impl Sources {
    /// Runs in the host's mount namespace, in the pod's other ones; `pids` as in [`build`]. The kernel's tables of mounts list
    /// them by when they were made: hence the order, in which every OCI configuration has them.
    pub(super) fn open(spec: &Spec, host: &Host, pids: Option<&OwnedFd>) -> Step<Sources> {
        let fail = |e: io::Error| format!("new proc for /proc: {e}");
        let proc = match shared_proc(spec, host).map_err(fail)? {
            None if host.users.is_none() => Some(proc_of(pids).map_err(fail)?),
            shared => shared,
        };
        let dev = dev::tree(Users::on_host(host.users.as_ref(), 0, 0))?;
        let pts = host.users.is_none().then(dev::terminals).transpose()?;
        let shm = shared_memory(&host.sandbox, &host.pod_ns, &host.host_ns).map_err(|e| format!("shared memory: {e}"))?;
        let kernel = host.users.is_none().then(|| Kernel::make(spec, pts)).transpose()?;
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
            let less = [(mount.noexec, MOUNT_ATTR_NOEXEC), (mount.nosuid, MOUNT_ATTR_NOSUID), (mount.nodev, MOUNT_ATTR_NODEV)];
            let less = less.into_iter().filter(|(is, _)| *is).fold(0, |all, (_, attribute)| all | attribute);
            sys::mount_setattr(&tree, true, 0, propagation).map_err(|e| format!("{}: propagation: {e}", what()))?;
            let deep = mount.readonly && mount.recursive_readonly;
            sys::mount_setattr(&tree, deep, readonly, 0).map_err(|e| format!("{}: read-only: {e}", what()))?;
            // As with runc these are the mount's own, and not those of what is mounted below it.
            sys::mount_setattr(&tree, false, less, 0).map_err(|e| format!("{}: attributes: {e}", what()))?;
            if let Some(users) = &host.users {
                users.show(&tree, true).map_err(|e| format!("{}: {e}", what()))?;
            }
            binds.push(Some((tree, directory)));
        }
        let devices = spec.config.devices.iter().map(|d| {
            let meta = std::fs::metadata(&d.host).map_err(|e| format!("device {:?}: {e}", d.host))?;
            Ok((d.clone(), meta))
        });
        Ok(Sources {
            own_root: own_root(spec, host)?,
            binds,
            dev,
            shm,
            proc,
            kernel,
            cgroups: own_cgroups(spec, host).map_err(|e| format!("cgroups: {e}"))?,
            devices: devices.collect::<Step<_>>()?,
        })
    }
}

fn own_root(spec: &Spec, host: &Host) -> Step<Option<OwnedFd>> {
    let Some(dir) = &spec.config.rootfs else { return Ok(None) };
    let copy = || -> io::Result<OwnedFd> {
        let tree = sys::open_tree(AT_FDCWD, &sys::c_path(dir)?, true)?;
        sys::mount_setattr(&tree, true, 0, libc::MS_PRIVATE)?;
        Ok(tree)
    };
    let tree = copy().map_err(|e| format!("rootfs {dir:?}: {e}"))?;
    if let Some(users) = &host.users {
        users.show(&tree, true).map_err(|e| format!("rootfs {dir:?}: {e}"))?;
    }
    Ok(Some(tree))
}

fn shared_memory(sandbox: &SandboxConfig, pod_ns: &OwnedFd, host_ns: &OwnedFd) -> io::Result<OwnedFd> {
    if sandbox.host_ipc {
        return sys::open_tree(AT_FDCWD, c"/dev/shm", false);
    }
    copy_of(pod_ns, host_ns)
}

/// Of who looks into another container alone, only that one's namespace has it.
fn shared_proc(spec: &Spec, host: &Host) -> io::Result<Option<OwnedFd>> {
    let shared = host.shared_pids.as_ref().filter(|_| spec.config.pid_target.is_none());
    shared.map(|shared| copy_of(&shared.proc, &host.host_ns)).transpose()
}

/// A copy of the root of another mount namespace.
fn copy_of(namespace: &OwnedFd, host_ns: &OwnedFd) -> io::Result<OwnedFd> {
    process::setns(namespace, libc::CLONE_NEWNS)?;
    let tree = sys::open_tree(AT_FDCWD, c"/", false);
    process::setns(host_ns, libc::CLONE_NEWNS)?;
    tree
}

/// Whether a container is shown the host's cgroups as they are: of version 2, where it is privileged and its users are the host's, as with
/// containerd. What looks after the node (an agent that reads what others use) finds them there.
pub(super) fn sees_all_cgroups(spec: &Spec, host: &Host) -> bool {
    spec.cgroup.unified && spec.config.privileged && host.users.is_none()
}

/// Version 1: the container sees its own cgroup in each hierarchy, and nothing of the host's. Version 2: a namespace sees to that; who is to see
/// all has none, and gets the host's own mount, since the kernel keeps the options of a new one for all (`nsdelegate` would be gone).
fn own_cgroups(spec: &Spec, host: &Host) -> io::Result<Vec<(String, OwnedFd)>> {
    let below = Path::new(&host.sandbox.cgroup_parent).join(&spec.config.id);
    let depth = below.components().filter(|c| matches!(c, std::path::Component::Normal(_))).count();
    if spec.cgroup.unified {
        let root = spec.cgroup.dirs.first().and_then(|dir| dir.ancestors().nth(depth)).filter(|_| sees_all_cgroups(spec, host));
        let Some(root) = root else { return Ok(Vec::new()) };
        let tree = sys::open_tree(AT_FDCWD, &sys::c_path(root)?, false)?;
        sys::mount_setattr(&tree, false, NO_ALL, libc::MS_PRIVATE)?;
        return Ok(vec![(String::new(), tree)]);
    }
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

/// What the host's root has made for a container: its root file system is mounted, all else waits detached.
pub(super) struct Ground {
    rootfs: PathBuf,
    own_users: bool,
    binds: Vec<(OwnedFd, bool)>,
    /// Anonymous volumes, by their paths.
    volumes: Vec<(String, OwnedFd)>,
    shm: OwnedFd,
    proc: Option<OwnedFd>,
    kernel: Option<Kernel>,
    cgroups: Vec<(String, OwnedFd)>,
    dev: OwnedFd,
}

impl Ground {
    /// Runs in a mount namespace of the container's own, with the host's rights.
    pub(super) fn lay(spec: &Spec, host: &Host, sources: Sources) -> Step<Ground> {
        sys::mount(c"", c"/", c"", libc::MS_REC | libc::MS_PRIVATE, c"").map_err(|e| format!("private mounts: {e}"))?;
        let Sources { own_root, binds, dev, shm, proc, kernel, cgroups, devices } = sources;
        let rootfs = spec.container_dir.join("rootfs");
        let layers = match &host.users {
            Some(users) => shifted_layers(spec, users)?,
            None => spec.layers_dir.clone(),
        };
        let mounted = match own_root {
            Some(own) => place(&own, &rootfs),
            None => overlay(spec, &layers, &rootfs),
        };
        mounted.map_err(|e| format!("failed to mount rootfs at {rootfs:?}: {e}"))?;
        let root = Root::open(&rootfs).map_err(|e| format!("rootfs: {e}"))?;
        let mut placed = Vec::new();
        for (index, bind) in binds.into_iter().enumerate() {
            placed.push(match bind {
                Some(bind) => bind,
                None => image_volume(spec, index, &layers)?,
            });
        }
        let volumes = volume::fill(spec, &root)?;
        dev::place(&root, &dev, &dev::nodes(spec, &devices, host.users.as_ref()))?;
        if host.users.is_some() {
            // The way down to it is closed to the pod's users; the working directory is taken along.
            process::chdir(&sys::c_path(&rootfs).map_err(|e| e.to_string())?).map_err(|e| format!("rootfs: {e}"))?;
        }
        Ok(Ground { rootfs, own_users: host.users.is_some(), binds: placed, volumes, shm, proc, kernel, cgroups, dev })
    }

    /// The container's root, as a mount of the present namespace that may be made its root.
    fn root(&self) -> io::Result<Root> {
        if !self.own_users {
            return Root::open(&self.rootfs);
        }
        // What a namespace has from one of other users is locked in its place; a copy is its own.
        let copy = sys::open_tree(AT_FDCWD, c".", true)?;
        sys::move_mount(&copy, &process::openat(&AT_FDCWD, c".", libc::O_PATH | libc::O_DIRECTORY, 0)?)?;
        Ok(Root::from(copy))
    }
}

/// Builds everything and makes it the root. Runs in the container's own mount and cgroup namespaces; `pids` is its process
/// namespace, if that is not the present one; `made` runs when all is in its place and nothing of it the root. Answers the
/// terminal, if the container has one.
pub(super) fn build(spec: &Spec, ground: Ground, pids: Option<&OwnedFd>, made: impl FnOnce() -> Step<()>) -> Step<Option<Terminal>> {
    let root = ground.root().map_err(|e| format!("rootfs: {e}"))?;
    let own: Vec<&Path> = spec.config.mounts.iter().map(|m| m.container.as_path()).collect();
    let default = |path: &str| !own.iter().any(|p| *p == Path::new(path));
    let Ground { rootfs, own_users, binds, volumes, shm, proc, kernel, cgroups, dev } = ground;
    let Kernel { pts, mqueue, sysfs } = kernel.map_or_else(|| Kernel::make(spec, None), Ok)?;
    let proc = if default("/proc") {
        let proc = proc.map_or_else(|| proc_of(pids), Ok).map_err(|e| format!("new proc for /proc: {e}"))?;
        attach_at(&proc, &ordinary(&root, "proc")?, "/proc")?;
        // Before anything else is mounted: what is found here is the kernel's own.
        restrict::below(&proc, "/proc/", spec)?;
        Some(proc)
    } else {
        None
    };
    // Whatever the runtimes look up below it must be the kernel's (runc: CVE-2019-16884, CVE-2025-52881).
    let mut covering = None;
    for (_, (tree, _)) in spec.config.mounts.iter().zip(&binds).filter(|(mount, _)| mount.container == Path::new("/proc")) {
        if sys::file_system_of(tree).map_err(|e| format!("/proc: {e}"))? != PROC {
            return Err("error mounting to rootfs at \"/proc\": \"/proc\" cannot be mounted because it is not of type proc".to_owned());
        }
        covering = Some(tree);
    }
    let proc = proc.as_ref().or(covering);
    let mut terminal = None;
    if default("/dev") {
        attach_at(&dev, &ordinary(&root, "dev")?, "/dev")?;
        terminal = dev::furnish(&dev, &pts, spec)?;
        if default("/dev/shm") {
            attach_at(&shm, &below(&dev, c"shm", "/dev/shm")?, "/dev/shm")?;
        }
        attach_at(&mqueue, &below(&dev, c"mqueue", "/dev/mqueue")?, "/dev/mqueue")?;
    }
    if default("/sys") {
        attach_at(&sysfs, &ordinary(&root, "sys")?, "/sys")?;
        restrict::below(&sysfs, "/sys/", spec)?;
        if default("/sys/fs/cgroup") {
            cgroup_tree(&below(&sysfs, c"fs/cgroup", "/sys/fs/cgroup")?, spec, &cgroups)?;
        }
    }
    // Whatever lies higher comes first; at the same height the pod's own.
    let binds = spec.config.mounts.iter().zip(&binds).map(|(mount, (tree, directory))| (mount.container.to_string_lossy(), tree, *directory));
    let mut all: Vec<_> = binds.chain(volumes.iter().map(|(path, tree)| (path.into(), tree, true))).collect();
    all.sort_by_key(|(path, ..)| Path::new(path.as_ref()).components().count());
    for (path, tree, directory) in all {
        attach(&root, tree, &path, directory, proc)?;
    }
    if own_users && !spec.config.hooks.is_empty() {
        return Err("hooks in a pod with users of its own are not supported by this runtime".to_owned());
    }
    made()?;
    hooks::create_container(spec, &rootfs)?;
    restrict::elsewhere(&root, spec, [("/proc/", default("/proc")), ("/sys/", default("/sys"))])?;
    working_directory(&root, spec)?;
    if spec.config.readonly_rootfs {
        sys::mount_setattr(&root, false, sys::MOUNT_ATTR_RDONLY, 0).map_err(|e| format!("read-only root: {e}"))?;
    }
    process::fchdir(&root).and_then(|()| process::pivot_here()).map_err(|e| format!("pivot_root: {e}"))?;
    Ok(terminal)
}

/// The file system of processes, of the namespace in which the container's will live.
fn proc_of(pids: Option<&OwnedFd>) -> io::Result<OwnedFd> {
    let Some(pids) = pids else { return sys::new_mount(c"proc", &[], NO_ALL) };
    match sys::new_proc(pids, NO_ALL) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => proc_by_helper(pids),
        made => made,
    }
}

/// Before Linux 6.17 only a process in the namespace can mount it. It is there for this one call, with nothing else open: the
/// one moment, on those kernels, in which who has SYS_PTRACE in a container that is debugged may meet rights it lacks.
fn proc_by_helper(pids: &OwnedFd) -> io::Result<OwnedFd> {
    let (ours, theirs) = process::packet_pair()?;
    process::setns(pids, libc::CLONE_NEWPID)?;
    if process::clone(0)? == 0 {
        process::close_all_but(&[theirs.as_raw_fd()]);
        if let Ok(mount) = sys::new_mount(c"proc", &[], NO_ALL) {
            let _ = sys::send_packet(&theirs, b"M", &[mount]);
        }
        process::exit_now(0);
    }
    drop(theirs);
    let mut one = [libc::pollfd { fd: ours.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
    process::poll(&mut one, -1);
    let (_, fds) = sys::receive_packet(&ours)?;
    fds.into_iter().next().ok_or_else(|| io::ErrorKind::PermissionDenied.into())
}

/// The place of one of the kernel's file systems: a directory of the root itself, in runc's words.
fn ordinary(root: &Root, name: &str) -> Step<OwnedFd> {
    root.directory(name, Links::Refused, 0o755).map_err(|e| match e.raw_os_error() {
        Some(libc::ELOOP | libc::ENOTDIR) => format!("filesystem {name:?} must be mounted on ordinary directory"),
        _ => format!("error mounting {name:?} to rootfs at \"/{name}\": {e}"),
    })
}

/// A directory of a mount that is the kernel's or our own.
fn below(mount: &OwnedFd, name: &CStr, path: &str) -> Step<OwnedFd> {
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    sys::openat2(mount, name, flags, 0, sys::RESOLVE_IN_ROOT | sys::RESOLVE_NO_SYMLINKS).map_err(|e| format!("error mounting to rootfs at {path:?}: {e}"))
}

/// Mounts where the configuration wants it. `proc` is the container's file system of processes, in which nothing may be
/// covered but a few files: what hides or replaces the rest deceives whoever looks into the container.
fn attach(root: &Root, tree: &OwnedFd, target: &str, directory: bool, proc: Option<&OwnedFd>) -> Step<()> {
    let fail = |e: io::Error| format!("error mounting to rootfs at {target:?}: {}", sys::words(&e));
    let place = if directory { root.directory(target, Links::Within, 0o755) } else { root.file(target, Links::Within, 0o644) }.map_err(fail)?;
    if let Some(proc) = proc
        && sys::file_system_of(&place).map_err(fail)? == PROC
        && !may_cover(&place, proc).map_err(fail)?
    {
        return Err(format!("error mounting to rootfs at {target:?}: {target:?} cannot be mounted because it is inside /proc"));
    }
    if is_directory(&place).map_err(fail)? != directory {
        // The kernel's own word for that is no help.
        return Err(format!("error mounting to rootfs at {target:?}: not a directory"));
    }
    attach_at(tree, &place, target)
}

fn may_cover(place: &OwnedFd, proc: &OwnedFd) -> io::Result<bool> {
    let identity = |fd: &OwnedFd| File::from(fd.try_clone()?).metadata().map(|m| (m.dev(), m.ino()));
    let place = identity(place)?;
    for name in PROC_FILES {
        // `net` is a link to what the reading process has.
        let found = sys::openat2(proc, &sys::c_str(name)?, libc::O_PATH, 0, sys::RESOLVE_IN_ROOT);
        if found.and_then(|fd| identity(&fd)).is_ok_and(|found| found == place) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The image store's layers, owned by the pod's users: overlayfs itself cannot be shown shifted, its layers can. The writable
/// layer above has their ids on disk.
fn shifted_layers(spec: &Spec, users: &Users) -> Step<PathBuf> {
    let at = spec.container_dir.join("layers");
    let make = || -> io::Result<OwnedFd> {
        make_dir(&at)?;
        sys::open_tree(AT_FDCWD, &sys::c_path(&spec.layers_dir)?, false)
    };
    let tree = make().map_err(|e| format!("layers: {e}"))?;
    users.show(&tree, false).map_err(|e| format!("layers: {e}"))?;
    place(&tree, &at).map_err(|e| format!("layers: {e}"))?;
    Ok(at)
}

/// Attaches a mount at a directory of the container's own on the host.
fn place(tree: &OwnedFd, at: &Path) -> io::Result<()> {
    sys::move_mount(tree, &process::openat(&AT_FDCWD, &sys::c_path(at)?, libc::O_PATH | libc::O_DIRECTORY, 0)?)
}

/// The image's layers with a writable one above, which dies with its container.
fn overlay(spec: &Spec, layers: &Path, target: &Path) -> io::Result<()> {
    let upper = escaped(&spec.container_dir.to_string_lossy());
    let lower = lower_dirs(&spec.layers);
    process::chdir(&sys::c_path(layers)?)?;
    sys::mount_overlay(&sys::c_path(target)?, &format!("lowerdir={lower},upperdir={upper}/upper,workdir={upper}/work"))
}

/// A path among the options of a mount, where some characters mean something.
fn escaped(path: &str) -> String {
    path.chars().flat_map(|c| matches!(c, '\\' | ',' | ':').then_some('\\').into_iter().chain([c])).collect()
}

/// Highest first, as overlayfs wants them. An image without any layer has the empty one.
fn lower_dirs(layers: &[String]) -> String {
    if layers.is_empty() {
        return crate::images::EMPTY_LAYER.to_owned();
    }
    layers.iter().rev().map(String::as_str).collect::<Vec<_>>().join(":")
}

/// An image's files as a read-only volume, detached; with whether it is a directory.
fn image_volume(spec: &Spec, index: usize, layers_dir: &Path) -> Step<(OwnedFd, bool)> {
    let mount = &spec.config.mounts[index];
    let layers = spec.image_mounts.iter().find(|(i, _)| *i == index).map_or(&[][..], |(_, layers)| layers);
    let stage = spec.container_dir.join(format!("volume-{index}"));
    let make = || -> io::Result<(OwnedFd, bool)> {
        make_dir(&stage)?;
        process::chdir(&sys::c_path(layers_dir)?)?;
        // Overlayfs without a writable layer wants two: the empty one helps out.
        let options = format!("lowerdir={}:{}", crate::images::EMPTY_LAYER, lower_dirs(layers));
        sys::mount(c"overlay", &sys::c_path(&stage)?, c"overlay", libc::MS_RDONLY, &CString::new(options)?)?;
        let part = Root::open(&stage)?.find(&mount.host, Links::Within, 0)?;
        let tree = sys::open_tree(part.as_raw_fd(), c"", false)?;
        sys::mount_setattr(&tree, false, sys::MOUNT_ATTR_RDONLY, 0)?;
        let directory = is_directory(&tree)?;
        Ok((tree, directory))
    };
    make().map_err(|e| format!("image volume at {:?}: {e}", mount.container))
}

fn cgroup_tree(place: &OwnedFd, spec: &Spec, cgroups: &[(String, OwnedFd)]) -> Step<()> {
    const AT: &str = "/sys/fs/cgroup";
    let readonly = if spec.config.privileged { 0 } else { sys::MOUNT_ATTR_RDONLY };
    if spec.cgroup.unified {
        return match cgroups.first() {
            Some((_, all)) => attach_at(all, place, AT),
            None => attach_at(&fresh(c"cgroup2", &[], NO_ALL | readonly, AT)?, place, AT),
        };
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
    attach_at(&tmpfs, place, AT)?;
    for (name, tree) in cgroups {
        attach_at(tree, &below(&tmpfs, &sys::c_str(name).map_err(fail)?, AT)?, AT)?;
    }
    sys::mount_setattr(&tmpfs, false, readonly, 0).map_err(fail)
}

/// Made if absent.
fn working_directory(root: &Root, spec: &Spec) -> Step<()> {
    if let Err(e) = root.directory(&spec.cwd, Links::Within, 0o755) {
        return Err(format!("mkdir {}: {}", spec.cwd, sys::words(&e)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_may_have_any_character() {
        assert_eq!(escaped("/data/a,b:c\\d"), "/data/a\\,b\\:c\\\\d");
    }
}
