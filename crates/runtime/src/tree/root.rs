//! The root of a foreign tree.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::{process, sys};

/// Links followed for one path, as the kernel limits them.
const LINKS_MAX: usize = 40;

/// What to do about symbolic links in a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// They lead to where they would lead after a chroot into the tree.
    Within,
    /// A path with one is refused with `ELOOP`, also when it is the last component.
    Refused,
}

impl Links {
    fn resolve(self) -> u64 {
        match self {
            Links::Within => sys::RESOLVE_IN_ROOT,
            Links::Refused => sys::RESOLVE_IN_ROOT | sys::RESOLVE_NO_SYMLINKS,
        }
    }
}

/// An opened directory below which paths are looked up as if it were `/`: `..` stops there, absolute links begin there, and
/// nothing outside is reached, whatever is renamed meanwhile. Mounts below it are entered.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl Root {
    /// The directory at this path of the host, which is believed.
    pub fn open(path: &Path) -> io::Result<Root> {
        process::openat(&libc::AT_FDCWD, &sys::c_path(path)?, libc::O_PATH | libc::O_DIRECTORY, 0).map(Root)
    }

    /// What is there, for use as a place (`O_PATH`). `flags` may ask for more: `O_DIRECTORY`, `O_NOFOLLOW`.
    pub fn find(&self, path: impl AsRef<Path>, links: Links, flags: i32) -> io::Result<OwnedFd> {
        self.open_at(path.as_ref(), links, libc::O_PATH | flags)
    }

    fn open_at(&self, path: &Path, links: Links, flags: i32) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        sys::openat2(&self.0, &sys::c_path(path)?, flags, 0, links.resolve())
    }

    /// The directory there, made (with those above it) where there is none, also at the end of a link to what does not
    /// exist. `mode` of what is made does not depend on the process's umask.
    pub fn directory(&self, path: impl AsRef<Path>, links: Links, mode: u32) -> io::Result<OwnedFd> {
        let path = path.as_ref();
        match self.find(path, links, libc::O_DIRECTORY) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.make(path, links, mode),
            found => found,
        }
    }

    /// The file there, made empty where there is none, also at the end of a link to what does not exist. What is there is
    /// answered whatever it is.
    pub fn file(&self, path: impl AsRef<Path>, links: Links, mode: u32) -> io::Result<OwnedFd> {
        let mut path = path.as_ref().to_owned();
        for _ in 0..LINKS_MAX {
            match self.find(&path, links, 0) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                found => return found,
            }
            let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
            let above = path.parent().unwrap_or(Path::new("")).to_owned();
            let parent = self.directory(&above, links, 0o755)?;
            let flags = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_WRONLY;
            match process::openat(&parent, &CString::new(name.as_bytes())?, flags, mode) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    // A link to what does not exist, or somebody was faster.
                    match read_link(&parent, Path::new(&name)) {
                        Ok(target) if links == Links::Within => path = above.join(target),
                        Ok(_) => return Err(io::Error::from_raw_os_error(libc::ELOOP)),
                        Err(_) => {}
                    }
                }
                made => {
                    let made = File::from(made?);
                    made.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
                    return process::openat(&parent, &CString::new(name.as_bytes())?, libc::O_PATH | libc::O_NOFOLLOW, 0);
                }
            }
        }
        Err(io::Error::from_raw_os_error(libc::ELOOP))
    }

    /// A small regular file's content; one of more than `max` bytes is refused ([`io::ErrorKind::FileTooLarge`]), and what
    /// is no regular file is not opened.
    pub fn read(&self, path: impl AsRef<Path>, links: Links, max: u64) -> io::Result<Vec<u8>> {
        let place = File::from(self.find(path, links, 0)?);
        if !place.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let file = File::open(format!("/proc/self/fd/{}", place.as_raw_fd()))?;
        let mut bytes = Vec::new();
        file.take(max + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(bytes)
    }

    /// Component by component, making what is missing. The present directory alone is open; the way up is by its path
    /// from the root, which has no links in it.
    fn make(&self, path: &Path, links: Links, mode: u32) -> io::Result<OwnedFd> {
        let mut here = self.find(".", links, libc::O_DIRECTORY)?;
        let mut way = PathBuf::new();
        let mut todo = parts(path);
        let mut followed = 0;
        while let Some(name) = todo.pop() {
            if name.as_os_str() == ".." {
                way.pop();
                here = self.find(&way, Links::Refused, libc::O_DIRECTORY)?;
                continue;
            }
            let next = || process::openat(&here, &sys::c_path(&name)?, libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW, 0);
            match next() {
                Ok(next) => here = next,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    // One that somebody else made meanwhile is as good, and keeps its mode.
                    match process::mkdirat(&here, &sys::c_path(&name)?, mode) {
                        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => here = next()?,
                        made => {
                            made?;
                            let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
                            let made = File::from(process::openat(&here, &sys::c_path(&name)?, flags, 0)?);
                            made.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
                            here = made.into();
                        }
                    }
                }
                Err(e) if matches!(e.raw_os_error(), Some(libc::ELOOP | libc::ENOTDIR)) => {
                    let Ok(target) = read_link(&here, &name) else { return Err(e) };
                    followed += 1;
                    if links == Links::Refused || followed > LINKS_MAX {
                        return Err(io::Error::from_raw_os_error(libc::ELOOP));
                    }
                    if target.is_absolute() {
                        way.clear();
                        here = self.find(".", links, libc::O_DIRECTORY)?;
                    }
                    todo.extend(parts(&target));
                    continue;
                }
                Err(e) => return Err(e),
            }
            way.push(&name);
        }
        Ok(here)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Root {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A directory that is already open becomes a root.
impl From<OwnedFd> for Root {
    fn from(dir: OwnedFd) -> Root {
        Root(dir)
    }
}

/// The names of a path, last first: without `/` and `.`.
fn parts(path: &Path) -> Vec<PathBuf> {
    let names = path.components().filter(|c| matches!(c, std::path::Component::Normal(_) | std::path::Component::ParentDir));
    let mut names: Vec<PathBuf> = names.map(|c| PathBuf::from(c.as_os_str())).collect();
    names.reverse();
    names
}

fn read_link(dir: &impl AsFd, name: &Path) -> io::Result<PathBuf> {
    Ok(nix::fcntl::readlinkat(dir, name)?.into())
}
