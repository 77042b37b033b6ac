//! Removing what pods had on the host, and never anything else.
//!
//! Below a pod's directory the host's own data may be mounted (`subPath` of a hostPath). Everything is unmounted first, then
//! looked at again, and only then removed, by a walk that follows no link and crosses no mount.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};

use super::Layout;

/// Unmounts and removes all that a pod had on the host.
pub fn tear_down(layout: &Layout) -> io::Result<()> {
    for dir in [&layout.pod_dir, &layout.memory_dir] {
        remove(dir)?;
    }
    Ok(())
}

/// Unmounts and removes all that a kubelet with this directory left on the host. No kubelet may be running on it.
pub fn purge(root: &Path) -> io::Result<()> {
    remove(root)
}

fn remove(dir: &Path) -> io::Result<()> {
    // The kernel names mounts by their real paths, and the directory may have been reached by a link.
    let real = match dir.canonicalize() {
        Ok(real) => real,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for at in mounts_below(&real)? {
        umount2(&at, MntFlags::MNT_DETACH)?;
    }
    if let Some(at) = mounts_below(&real)?.first() {
        return Err(io::Error::other(format!("{} is mounted still; nothing is removed", at.display())));
    }
    remove_tree(&real)
}

/// Removes a tree without following a link or crossing a mount, whatever its depth: what pods make is as deep as they like.
fn remove_tree(dir: &Path) -> io::Result<()> {
    runtime::tree::remove(dir)
}

/// Mount points at and below a directory, deepest and latest first. The directory is named by its real path.
pub fn mounts_below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut out: Vec<PathBuf> = runtime::mounts::all()?.into_iter().map(|m| m.at).filter(|p| p.starts_with(dir)).collect();
    out.reverse();
    Ok(out)
}

/// Whether a directory is the root of a mount.
pub fn is_mountpoint(dir: &Path) -> bool {
    let (Ok(here), Some(Ok(above))) = (fs::metadata(dir), dir.parent().map(fs::metadata)) else { return false };
    here.dev() != above.dev()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use nix::mount::{MsFlags, mount};

    #[test]
    fn what_is_mounted_below_a_link_is_left_whole() {
        let dir = TempDir::new("purge");
        let (data, host, link) = (dir.path().join("disk/k"), dir.path().join("host"), dir.path().join("link"));
        let sub = data.join("pods/u/volume-subpaths/v/c/0");
        fs::create_dir_all(&sub).unwrap();
        fs::create_dir_all(&host).unwrap();
        fs::write(host.join("db"), "precious").unwrap();
        std::os::unix::fs::symlink(dir.path().join("disk"), &link).unwrap();
        mount(Some(&host), &sub, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        purge(&link.join("k")).unwrap();
        assert_eq!(fs::read_to_string(host.join("db")).unwrap(), "precious");
        assert!(!data.exists());
        purge(&link.join("k")).unwrap();
    }
}
