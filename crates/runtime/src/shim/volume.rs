//! The volumes that an image declares for itself (`VOLUME`): what its processes write there is to lie on the host's file system
//! and not on overlayfs, and can be written also where the root file system cannot. Each is a directory of the container's
//! own, filled from the image, and goes with the container.
//!
//! The image is read by handle and nothing in it runs yet; the copy's place is reached by nobody else. A tree that is deeper
//! than a path is long is refused: its container does not start.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use super::mounts::{AT_FDCWD, make_dir};
use super::{Step, process};
use crate::proto::Spec;
use crate::sys;
use crate::tree::{Links, Root};

/// Makes and fills the image's volumes; detached, by their paths in the container.
pub(super) fn fill(spec: &Spec, root: &Root) -> Step<Vec<(String, OwnedFd)>> {
    let base = spec.container_dir.join("volumes");
    let one = |(at, path): (usize, &String)| -> io::Result<(String, OwnedFd)> {
        let to = base.join(at.to_string());
        make_dir(&base)?;
        copy(root, path, &to)?;
        Ok((path.clone(), sys::open_tree(AT_FDCWD, &sys::c_path(&to)?, false)?))
    };
    spec.volumes.iter().enumerate().map(|v| one(v).map_err(|e| format!("volume {:?} of the image: {e}", v.1))).collect()
}

fn copy(root: &Root, from: &str, to: &Path) -> io::Result<()> {
    let mut todo = vec![PathBuf::new()];
    while let Some(below) = todo.pop() {
        let place = if below.as_os_str().is_empty() { to.to_owned() } else { to.join(&below) };
        let source = match root.find(Path::new(from).join(&below), Links::Within, libc::O_DIRECTORY) {
            // Of what the image only declares there is nothing to copy.
            Err(e) if below.as_os_str().is_empty() && e.kind() == io::ErrorKind::NotFound => {
                return fs::DirBuilder::new().mode(0o755).create(to);
            }
            found => found?,
        };
        fs::DirBuilder::new().mode(0o700).create(&place)?;
        for entry in fs::read_dir(format!("/proc/self/fd/{}", source.as_raw_fd()))? {
            let (entry, below) = (entry?, &below);
            let (meta, name) = (entry.metadata()?, entry.file_name());
            if meta.is_dir() {
                todo.push(below.join(name));
            } else {
                entry_of(&source, Path::new(&name), &meta, &place.join(&name))?;
            }
        }
        let meta = File::from(source.try_clone()?).metadata()?;
        let made = File::open(&place)?;
        like(&made, &meta)?;
        attributes(&process::openat(&source, c".", libc::O_RDONLY | libc::O_DIRECTORY, 0)?, &made);
    }
    Ok(())
}

/// Anything but a directory.
fn entry_of(dir: &OwnedFd, name: &Path, meta: &fs::Metadata, to: &Path) -> io::Result<()> {
    let kind = meta.file_type();
    let name = sys::c_path(name)?;
    if kind.is_symlink() {
        let target = nix::fcntl::readlinkat(dir, name.as_c_str())?;
        std::os::unix::fs::symlink(target, to)?;
        return lchown(to, Some(meta.uid()), Some(meta.gid()));
    }
    if !kind.is_file() {
        // A socket that nobody listens on is worth nothing.
        if kind.is_socket() {
            return Ok(());
        }
        sys::mknodat(&AT_FDCWD, &sys::c_path(to)?, meta.mode(), meta.rdev())?;
        lchown(to, Some(meta.uid()), Some(meta.gid()))?;
        return fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777));
    }
    let mut source = File::from(process::openat(dir, &name, libc::O_RDONLY | libc::O_NOFOLLOW, 0)?);
    let mut made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    io::copy(&mut source, &mut made)?;
    like(&made, meta)?;
    attributes(&source, &made);
    made.set_modified(meta.modified()?)
}

/// Owner and mode; a change of owner takes the set-user-id bit, so it comes first.
fn like(made: &File, meta: &fs::Metadata) -> io::Result<()> {
    std::os::unix::fs::fchown(made, Some(meta.uid()), Some(meta.gid()))?;
    made.set_permissions(fs::Permissions::from_mode(meta.mode() & 0o7777))
}

/// Capabilities of programs and the like, as far as the file system takes them.
fn attributes(from: &impl AsRawFd, to: &File) {
    for (name, value) in sys::xattrs(from) {
        let _ = sys::fsetxattr(to, &name, &value);
    }
}
