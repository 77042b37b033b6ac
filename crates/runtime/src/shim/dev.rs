//! A container's `/dev`: a file system of its own with the devices that it may have. Modes and owners are what they are meant to
//! be whatever the umask. It is made by the host's root, who alone may make device files; what is in it is placed by its
//! handle, never by a path that leads through the image.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::mounts::{MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, Terminal, attach_at, fresh};
use super::users::Users;
use super::{Step, process};
use crate::proto::Spec;
use crate::sys;
use crate::tree::{Links, Root};
use crate::types::{Device, DeviceOwner};

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
const DEPTH_MAX: usize = 4;

/// A device file beyond the standard ones: as the host has it, at a place below the container's root.
pub(super) struct Node {
    path: PathBuf,
    mode: u32,
    device: u64,
    owner: (u32, u32),
}

/// The file system with the standard devices, detached. `owner` is the container's root on the host.
pub(super) fn tree(owner: (u32, u32)) -> Step<OwnedFd> {
    let make = || -> io::Result<OwnedFd> {
        let dev = sys::new_mount(c"tmpfs", &[(c"mode", Some(c"755")), (c"size", Some(c"65536k"))], MOUNT_ATTR_NOSUID)?;
        for (name, major, minor) in DEVICES {
            node(&dev, name, libc::S_IFCHR | 0o666, libc::makedev(major, minor), owner)?;
        }
        for (target, name) in LINKS {
            process::symlinkat(target, &dev, name)?;
            sys::fchownat(&dev, name, owner.0, owner.1)?;
        }
        for name in [c"pts", c"shm", c"mqueue"] {
            process::mkdirat(&dev, name, 0o755)?;
            sys::fchownat(&dev, name, owner.0, owner.1)?;
        }
        sys::fchownat(&dev, c"", owner.0, owner.1)?;
        Ok(dev)
    };
    make().map_err(|e| format!("/dev: {e}"))
}

/// The bits that the umask took are given back.
fn node(dir: &OwnedFd, name: &CStr, mode: u32, device: u64, owner: (u32, u32)) -> io::Result<()> {
    sys::mknodat(dir, name, mode, device)?;
    sys::fchownat(dir, name, owner.0, owner.1)?;
    sys::fchmodat(dir, name, mode & 0o7777)
}

/// The devices that the container was given. Given ones are for everybody, as with containerd, where nothing else is said; a privileged
/// container's are the host's as they are.
pub(super) fn nodes(spec: &Spec, given: &[(Device, std::fs::Metadata)], users: Option<&Users>) -> Vec<Node> {
    let given = given.iter().map(|(device, meta)| Node {
        path: device.container.clone(),
        mode: meta.mode() & libc::S_IFMT | device.mode.map_or(0o666, |mode| mode & 0o7777),
        device: meta.rdev(),
        owner: match device.owner {
            DeviceOwner::Host => (meta.uid(), meta.gid()),
            DeviceOwner::Given { uid, gid } => Users::on_host(users, uid.unwrap_or(spec.user.uid), gid.unwrap_or(spec.user.gid)),
        },
    });
    let mut all: Vec<Node> = given.collect();
    if spec.config.privileged {
        host_devices(Path::new("/dev"), 0, &mut all);
    }
    all
}

/// All device files of the host.
fn host_devices(dir: &Path, depth: usize, list: &mut Vec<Node>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        let name = entry.file_name();
        if meta.is_dir() {
            let own = depth == 0 && ["pts", "shm", "mqueue", "fd"].iter().any(|n| name == *n);
            if depth < DEPTH_MAX && !own {
                host_devices(&entry.path(), depth + 1, list);
            }
        } else if matches!(meta.mode() & libc::S_IFMT, libc::S_IFCHR | libc::S_IFBLK) && name != "ptmx" && name != "console" {
            list.push(Node { path: entry.path(), mode: meta.mode(), device: meta.rdev(), owner: (meta.uid(), meta.gid()) });
        }
    }
}

/// The file system of a container's terminals.
pub(super) fn terminals() -> Step<OwnedFd> {
    let options = [(c"newinstance", None), (c"ptmxmode", Some(c"0666")), (c"mode", Some(c"0620")), (c"gid", Some(c"5"))];
    fresh(c"devpts", &options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, "/dev/pts")
}

/// Terminals; with `tty` the container's own is its `/dev/console`.
pub(super) fn furnish(dev: &OwnedFd, pts: &OwnedFd, spec: &Spec) -> Step<Option<Terminal>> {
    let fail = |e: io::Error| format!("new terminal: {e}");
    let place = process::openat(dev, c"pts", libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW, 0).map_err(fail)?;
    attach_at(pts, &place, "/dev/pts")?;
    if !spec.config.tty {
        return Ok(None);
    }
    let master = process::openat(pts, c"ptmx", libc::O_RDWR | libc::O_NOCTTY, 0).map_err(fail)?;
    let terminal = Terminal::of(master).map_err(fail)?;
    // The one that was opened, not what a path leads to (CVE-2025-52565).
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_WRONLY;
    drop(process::openat(dev, c"console", flags, 0o620).map_err(fail)?);
    let place = process::openat(dev, c"console", libc::O_PATH | libc::O_NOFOLLOW, 0).map_err(fail)?;
    let copy = sys::open_tree(terminal.peer.as_raw_fd(), c"", false).map_err(fail)?;
    attach_at(&copy, &place, "/dev/console")?;
    Ok(Some(terminal))
}

/// Makes the further device files: in this `/dev`, or wherever else the pod wants them below its root.
pub(super) fn place(root: &Root, dev: &OwnedFd, nodes: &[Node]) -> Step<()> {
    let dev = dev.try_clone().map(Root::from).map_err(|e| format!("/dev: {e}"))?;
    for Node { path, mode, device, owner } in nodes {
        let (base, path, links) = match path.strip_prefix("/dev") {
            Ok(below) => (&dev, below, Links::Refused),
            Err(_) => (root, path.as_path(), Links::Within),
        };
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(format!("device {path:?}: no name")) };
        let made = base.directory(parent, links, 0o755).and_then(|dir| node(&dir, &sys::c_path(Path::new(name))?, *mode, *device, *owner));
        match made {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(format!("device {path:?}: {e}")),
            _ => {}
        }
    }
    Ok(())
}
