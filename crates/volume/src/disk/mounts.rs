//! The host's mounts, as the kernel lists them.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use runtime::mounts::{Mounted, all};

/// Mounts on one another at one place at most: each try adds one.
const STACKED_MAX: usize = 1000;

/// The kernel names places by their real paths. What is mounted there may not answer: only what is above is looked at.
fn real(path: &Path) -> io::Result<PathBuf> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
        _ => path.canonicalize(),
    }
}

/// What is mounted at a place, on top.
pub(super) fn at(path: &Path) -> io::Result<Option<Mounted>> {
    let path = match real(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        path => path?,
    };
    Ok(all()?.into_iter().rfind(|mounted| mounted.at == path))
}

/// Takes away all that is mounted at a place.
pub(super) fn unmount(path: &Path) -> io::Result<()> {
    for _ in 0..STACKED_MAX {
        match umount2(path, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // Nothing is mounted there, or nothing is there.
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Err(Errno::EBUSY.into())
}

/// Shows a directory or file at another place.
pub(super) fn bind(from: &Path, to: &Path, readonly: bool) -> io::Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    if readonly { restrict(to) } else { Ok(()) }
}

/// Makes what is mounted at a place read-only there.
pub(super) fn restrict(at: &Path) -> io::Result<()> {
    Ok(mount(None::<&str>, at, None::<&str>, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY, None::<&str>)?)
}

/// Mount options as mount(8) knows them, as flags and as what is left for the file system.
pub(super) fn options(options: &[String]) -> (MsFlags, String) {
    let (mut flags, mut rest) = (MsFlags::empty(), vec!["errors=remount-ro", "discard"]);
    for option in options.iter().flat_map(|o| o.split(',')).map(str::trim).filter(|o| !o.is_empty()) {
        let (flag, on) = match option {
            "ro" => (MsFlags::MS_RDONLY, true),
            "rw" => (MsFlags::MS_RDONLY, false),
            "nosuid" => (MsFlags::MS_NOSUID, true),
            "suid" => (MsFlags::MS_NOSUID, false),
            "nodev" => (MsFlags::MS_NODEV, true),
            "dev" => (MsFlags::MS_NODEV, false),
            "noexec" => (MsFlags::MS_NOEXEC, true),
            "exec" => (MsFlags::MS_NOEXEC, false),
            "sync" => (MsFlags::MS_SYNCHRONOUS, true),
            "async" => (MsFlags::MS_SYNCHRONOUS, false),
            "dirsync" => (MsFlags::MS_DIRSYNC, true),
            "noatime" => (MsFlags::MS_NOATIME, true),
            "atime" => (MsFlags::MS_NOATIME, false),
            "nodiratime" => (MsFlags::MS_NODIRATIME, true),
            "diratime" => (MsFlags::MS_NODIRATIME, false),
            "relatime" => (MsFlags::MS_RELATIME, true),
            "strictatime" => (MsFlags::MS_STRICTATIME, true),
            "lazytime" => (MsFlags::MS_LAZYTIME, true),
            "nolazytime" => (MsFlags::MS_LAZYTIME, false),
            "defaults" => continue,
            other => {
                rest.push(other);
                continue;
            }
        };
        flags.set(flag, on);
    }
    (flags, rest.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_flags_or_the_file_systems() {
        let own = |options_: &[&str]| options(&options_.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>());
        assert_eq!(own(&[]), (MsFlags::empty(), "errors=remount-ro,discard".to_owned()));
        let (flags, rest) = own(&["noatime,nodev", "data=journal", "ro", "rw", "nodiscard"]);
        assert_eq!(flags, MsFlags::MS_NOATIME | MsFlags::MS_NODEV);
        assert_eq!(rest, "errors=remount-ro,discard,data=journal,nodiscard", "what comes later counts");
    }
}
