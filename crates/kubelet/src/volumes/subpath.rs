//! Parts of volumes as mounts of their own, safe against symbolic links that a container plants.
//!
//! The kernel resolves the path with `RESOLVE_BENEATH`, so no link leads out of the volume, and what it found is bound by its
//! file descriptor, so nothing can be exchanged between the check and the mount. A link by the host's own path is resolved first,
//! as the original does, and what it leads to is then looked for below the volume like any other.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, mkdirat};

/// Somebody who renames all the time can hold up each try; so many in a row fail only by his intent.
const TRIES_MAX: usize = 10_000;

fn open_dir(path: &Path) -> io::Result<std::os::fd::OwnedFd> {
    Ok(open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
}

fn beneath(base: &impl std::os::fd::AsFd, path: &Path, flags: OFlag) -> nix::Result<std::os::fd::OwnedFd> {
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    // A look-up that is confined cannot be sure of a `..` while anything on the host is mounted or renamed, and then asks for another.
    let mut tries = 0..TRIES_MAX;
    loop {
        match openat2(base, path, how) {
            Err(Errno::EAGAIN | Errno::EINTR) if tries.next().is_some() => std::thread::yield_now(),
            done => return done,
        }
    }
}

/// The same where a link on the way may be absolute, and lead below `volume` nevertheless.
fn within(base: &impl std::os::fd::AsFd, volume: &Path, path: &Path, flags: OFlag) -> nix::Result<std::os::fd::OwnedFd> {
    let found = beneath(base, path, flags);
    if !matches!(found, Err(Errno::EXDEV)) {
        return found;
    }
    let real = || Some(fs::canonicalize(volume.join(path)).ok()?.strip_prefix(fs::canonicalize(volume).ok()?).ok()?.to_owned());
    match real() {
        Some(inside) if inside.as_os_str().is_empty() => beneath(base, Path::new("."), flags),
        Some(inside) => beneath(base, &inside, flags),
        None => found,
    }
}

/// Opens a file below `base` for reading; a link out of `base` is an error.
pub fn open_beneath(base: &Path, path: &Path) -> io::Result<File> {
    let base = open_dir(base)?;
    Ok(File::from(beneath(&base, path, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?))
}

/// A path that is relative and has no `..`, which a `subPathExpr` may come to; the words are upstream's (`makeMounts`).
pub fn check(sub_path: &str) -> Result<PathBuf, String> {
    let path = Path::new(sub_path);
    if path.is_absolute() {
        return Err(format!("error SubPath `{sub_path}` must not be an absolute path"));
    }
    if path.components().any(|c| c == Component::ParentDir) {
        return Err(format!("unable to provision SubPath `{sub_path}`: must not contain '..'"));
    }
    Ok(path.components().filter(|c| matches!(c, Component::Normal(_))).collect())
}

/// Binds `volume/sub_path` to `at` and answers `at`. A missing directory is made with the volume's own permissions.
pub fn bind(volume: &Path, sub_path: &Path, at: &Path) -> io::Result<()> {
    let base = open_dir(volume)?;
    let found = match within(&base, volume, sub_path, OFlag::O_PATH) {
        Err(Errno::ENOENT) => {
            make(&base, volume, sub_path)?;
            beneath(&base, sub_path, OFlag::O_PATH)?
        }
        other => other?,
    };
    let source = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
    let directory = fs::metadata(&source)?.is_dir();
    unbind(at);
    if let Some(parent) = at.parent() {
        fs::create_dir_all(parent)?;
    }
    if directory {
        fs::create_dir_all(at)?;
    } else {
        File::create(at)?;
    }
    mount(Some(&source), at, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
    Ok(())
}

/// What the pod's owner is told when that failed: not why. As upstream's, it tells whether something is there, also where a link leads out of the
/// volume.
pub fn refusal(wanted: &Path, volume_mount: &str, container: &str) -> String {
    let absent = fs::metadata(wanted).is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
    let what = if absent { "create subPath directory" } else { "prepare subPath" };
    format!("failed to {what} for volumeMount {volume_mount:?} of container {container:?}")
}

/// Makes the missing directories one by one, each beneath the volume.
fn make(base: &impl std::os::fd::AsFd, volume: &Path, sub_path: &Path) -> io::Result<()> {
    let perm = fs::metadata(volume)?.permissions().mode() & 0o7777;
    let mut so_far = PathBuf::new();
    for part in sub_path.components() {
        let parent = if so_far.as_os_str().is_empty() { PathBuf::from(".") } else { so_far.clone() };
        so_far.push(part);
        match beneath(base, &so_far, OFlag::O_PATH) {
            Ok(_) => continue,
            Err(Errno::ENOENT) => {}
            Err(e) => return Err(e.into()),
        }
        let dir = beneath(base, &parent, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        mkdirat(&dir, Path::new(part.as_os_str()), Mode::from_bits_truncate(0o700))?;
        let made = beneath(base, &so_far, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        File::from(made).set_permissions(fs::Permissions::from_mode(perm))?;
    }
    let _ = AT_FDCWD;
    Ok(())
}

/// Takes a binding away; nothing there is no error.
pub fn unbind(at: &Path) {
    while umount2(at, MntFlags::MNT_DETACH).is_ok() {}
    if at.is_dir() {
        let _ = fs::remove_dir(at);
    } else {
        let _ = fs::remove_file(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_out_of_the_volume_is_refused() {
        let dir = crate::testing::TempDir::new("subpath");
        std::os::unix::fs::symlink("/etc", dir.path().join("evil")).unwrap();
        fs::write(dir.path().join("good"), "x").unwrap();
        assert!(open_beneath(dir.path(), Path::new("good")).is_ok());
        assert!(open_beneath(dir.path(), Path::new("evil/hostname")).is_err());
        std::os::unix::fs::symlink(dir.path().join("good"), dir.path().join("own")).unwrap();
        let base = open_dir(dir.path()).unwrap();
        let at = |path: &str| within(&base, dir.path(), Path::new(path), OFlag::O_PATH);
        assert!(at("own").is_ok(), "an absolute link that stays within");
        assert_eq!(at("evil").unwrap_err(), Errno::EXDEV);
        assert_eq!(at("evil/hostname").unwrap_err(), Errno::EXDEV);
        let told = |path: &str| refusal(&dir.path().join(path), "data", "web");
        assert_eq!(told("evil/passwd"), r#"failed to prepare subPath for volumeMount "data" of container "web""#);
        assert_eq!(told("evil/absent"), r#"failed to create subPath directory for volumeMount "data" of container "web""#);
        assert_eq!(
            told("good/x"),
            r#"failed to prepare subPath for volumeMount "data" of container "web""#,
            "below a file is nothing, and nothing can be made"
        );
        assert_eq!(check("a/../x").unwrap_err(), "unable to provision SubPath `a/../x`: must not contain '..'");
        assert_eq!(check("/x").unwrap_err(), "error SubPath `/x` must not be an absolute path");
        assert_eq!(check("a/./b").unwrap(), PathBuf::from("a/b"));
    }
}
