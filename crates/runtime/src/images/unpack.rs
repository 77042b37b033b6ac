//! A layer's tar becomes a directory for overlayfs.
//!
//! The entries are written into an overlay of the layers below, mounted in a mount namespace of the unpacking thread
//! alone: so directories that an entry only passes through keep the attributes which they have below, deletions become
//! the kernel's own whiteouts, and nothing is left mounted even after a crash. Nothing is ever written outside the layer:
//! parents are walked component by component, symlinks among them are followed within the image's root, and `..` above
//! that root is an error that names the entry.

use std::collections::HashSet;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::AtFlags;
use sha2::{Digest, Sha256};

use crate::error::{Context, Error, Result};
use crate::{process, sys, tree};

/// Symlinks followed for one path, as the kernel limits them.
const LINKS_MAX: usize = 40;
const COPY_BYTES: usize = 128 * 1024;

/// A reader that hashes what passes, and counts.
pub(crate) struct Hashing<R> {
    inner: R,
    hash: Sha256,
    pub(crate) bytes: u64,
}

impl<R: Read> Hashing<R> {
    pub(crate) fn new(inner: R) -> Hashing<R> {
        Hashing { inner, hash: Sha256::new(), bytes: 0 }
    }

    /// Reads to the end and compares with what was promised.
    pub(crate) fn finish(mut self, expected: &str, what: &str) -> Result<()> {
        io::copy(&mut self, &mut io::sink()).context(&format!("cannot read {what}"))?;
        let found = format!("sha256:{}", hex(&self.hash.finalize()));
        if found == expected {
            return Ok(());
        }
        Err(Error::Image(format!("{what} is not what its digest says: expected {expected}, found {found}")))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hash.update(&buffer[..n]);
        self.bytes += n as u64;
        Ok(n)
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Undoes gzip or zstd, recognised by its first bytes.
pub(crate) fn decompressed<'a>(source: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut source = io::BufReader::with_capacity(COPY_BYTES, source);
    let start = io::BufRead::fill_buf(&mut source)?;
    Ok(match start {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::stream::read::Decoder::with_buffer(source)?),
        _ => Box::new(source),
    })
}

/// Where a layer is made.
pub(super) struct Place<'a> {
    /// The directory of all layers.
    pub(super) layers: &'a Path,
    /// Names of those below, lowest first.
    pub(super) lower: &'a [String],
    /// An empty directory on the same file system: `fs` in it becomes the layer.
    pub(super) work: &'a Path,
}

/// Unpacks a (compressed) tar of this diff id and answers the size of its files.
pub(super) fn layer_from(place: &Place, diff_id: &str, mut raw: impl Read + Send, what: &str) -> Result<u64> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("unpack".to_owned());
        let worker = thread.spawn_scoped(scope, move || {
            let root = mounted(place).context("cannot prepare the unpacking of a layer")?;
            let tar = decompressed(&mut raw).map_err(|e| Error::Image(format!("{what} cannot be decompressed: {e}")))?;
            let mut tar = Hashing::new(tar);
            let size = Unpacker::new(root, what).run(&mut tar)?;
            tar.finish(diff_id, what)?;
            // What follows the compressed stream belongs to the blob's digest, too.
            io::copy(&mut raw, &mut io::sink()).context(what)?;
            Ok(size)
        });
        let worker = worker.context("cannot start a thread")?;
        worker.join().unwrap_or_else(|_| Err(Error::Image(format!("{what}: internal error"))))
    })
}

/// The directory to write into, seen by this thread alone.
fn mounted(place: &Place) -> io::Result<PathBuf> {
    let files = place.work.join("fs");
    fs::create_dir(&files)?;
    if place.lower.is_empty() {
        return Ok(files);
    }
    let (work, merged) = (place.work.join("work"), place.work.join("merged"));
    fs::create_dir(&work)?;
    fs::create_dir(&merged)?;
    process::unshare(libc::CLONE_NEWNS)?;
    sys::mount(c"", c"/", c"", libc::MS_REC | libc::MS_PRIVATE, c"")?;
    process::chdir(&sys::c_path(place.layers)?)?;
    let lower = place.lower.iter().rev().map(String::as_str).collect::<Vec<_>>().join(":");
    let options = format!("lowerdir={lower},upperdir={},workdir={}", files.display(), work.display());
    let target = sys::c_path(&merged)?;
    let quick = CString::new(format!("{options},volatile"))?;
    match sys::mount(c"overlay", &target, c"overlay", 0, &quick) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            sys::mount(c"overlay", &target, c"overlay", 0, &CString::new(options)?)?;
        }
        done => done?,
    }
    Ok(merged)
}

/// Owner, permissions, attributes and time of an entry.
struct Attributes {
    uid: u32,
    gid: u32,
    mode: u32,
    mtime: i64,
    xattrs: Vec<(CString, Vec<u8>)>,
}

struct Unpacker<'a> {
    root: PathBuf,
    what: &'a str,
    /// The last parent used.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Paths of this layer: an opaque mark or whiteout does not hide its own layer's.
    own: HashSet<Vec<u8>>,
    /// Times of directories are set last: entries written into them change them.
    times: Vec<(Vec<u8>, i64)>,
    buffer: Vec<u8>,
    size: u64,
}

impl Unpacker<'_> {
    fn new(root: PathBuf, what: &str) -> Unpacker<'_> {
        Unpacker { root, what, parent: None, own: HashSet::new(), times: Vec::new(), buffer: vec![0; COPY_BYTES], size: 0 }
    }

    fn run(mut self, tar: &mut impl Read) -> Result<u64> {
        let bad = |what: &str, e: io::Error| Error::Image(format!("{what} cannot be read as a tar archive: {e}"));
        let mut archive = tar::Archive::new(tar);
        for entry in archive.entries().map_err(|e| bad(self.what, e))? {
            let mut entry = entry.map_err(|e| bad(self.what, e))?;
            let name = entry.path_bytes().into_owned();
            self.entry(&name, &mut entry).map_err(|e| {
                let name = String::from_utf8_lossy(&name).into_owned();
                Error::Image(format!("{}: cannot unpack entry {name:?}: {}", self.what, plain(&e)))
            })?;
        }
        for (path, mtime) in std::mem::take(&mut self.times).into_iter().rev() {
            if let Ok((dir, name)) = self.parent_of(&path, false) {
                let _ = sys::set_mtime(&dir, &name, mtime);
            }
        }
        Ok(self.size)
    }

    fn entry<R: Read>(&mut self, name: &[u8], entry: &mut tar::Entry<'_, R>) -> io::Result<()> {
        let path = clean(name)?;
        let header = entry.header().clone();
        let kind = header.entry_type();
        if path.is_empty() {
            if kind.is_dir() {
                return self.root_attributes(&attributes(entry, &header)?);
            }
            return Ok(());
        }
        if kind.is_pax_global_extensions() {
            return Ok(());
        }
        let last = path.rsplit(|b| *b == b'/').next().unwrap_or(&path);
        if let Some(hidden) = last.strip_prefix(b".wh.") {
            let above = path[..path.len() - last.len()].to_vec();
            return self.whiteout(above, hidden);
        }
        let attributes = attributes(entry, &header)?;
        let (dir, name) = self.parent_of(&path, true)?;
        self.own.insert(path.clone());
        self.size += header.size().unwrap_or(0);
        let device = || -> io::Result<u64> {
            let (major, minor) = (header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0));
            Ok(libc::makedev(major, minor))
        };
        use tar::EntryType as T;
        match kind {
            T::Directory => {
                self.replacing(&dir, &name, true, |dir, name| process::mkdirat(dir, name, 0o700))?;
                self.times.push((path, attributes.mtime));
                self.parent = None;
            }
            T::Symlink => {
                let target = entry.link_name_bytes().ok_or_else(|| invalid("a symlink without a target"))?;
                let target = CString::new(target.into_owned())?;
                self.replacing(&dir, &name, false, |dir, name| process::symlinkat(&target, dir, name))?;
            }
            T::Link => {
                let target = entry.link_name_bytes().ok_or_else(|| invalid("a hard link without a target"))?.into_owned();
                let target = clean(&target)?;
                let (from, old) = self.parent_of(&target, false)?;
                let link =
                    |dir: &OwnedFd, name: &CString| nix::unistd::linkat(&from, old.as_c_str(), dir, name.as_c_str(), AtFlags::empty()).map_err(io::Error::from);
                // The linked file has its attributes.
                return self.replacing(&dir, &name, false, link);
            }
            T::Char => {
                let device = device()?;
                self.replacing(&dir, &name, false, |dir, name| sys::mknodat(dir, name, libc::S_IFCHR | 0o600, device))?;
            }
            T::Block => {
                let device = device()?;
                self.replacing(&dir, &name, false, |dir, name| sys::mknodat(dir, name, libc::S_IFBLK | 0o600, device))?;
            }
            T::Fifo => self.replacing(&dir, &name, false, |dir, name| sys::mknodat(dir, name, libc::S_IFIFO | 0o600, 0))?,
            T::Regular | T::Continuous | T::GNUSparse => {
                return self.file(&dir, &name, entry, &attributes);
            }
            _ => return Ok(()),
        }
        set_attributes(&dir, &name, kind == T::Symlink, &attributes)
    }

    fn file<R: Read>(&mut self, dir: &OwnedFd, name: &CString, entry: &mut tar::Entry<'_, R>, attributes: &Attributes) -> io::Result<()> {
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
        let mut opened = None;
        self.replacing(dir, name, false, |dir, name| {
            opened = Some(process::openat(dir, name, flags, 0o600)?);
            Ok(())
        })?;
        let mut file = File::from(opened.ok_or(io::ErrorKind::NotFound)?);
        loop {
            let n = entry.read(&mut self.buffer)?;
            if n == 0 {
                break;
            }
            io::Write::write_all(&mut file, &self.buffer[..n])?;
        }
        sys::fchownat(&file, c"", attributes.uid, attributes.gid)?;
        fs::set_permissions(proc_path(&file), std::os::unix::fs::PermissionsExt::from_mode(attributes.mode))?;
        for (key, value) in &attributes.xattrs {
            tolerate(sys::fsetxattr(&file, key, value))?;
        }
        sys::set_mtime(dir, name, attributes.mtime)
    }

    fn root_attributes(&mut self, attributes: &Attributes) -> io::Result<()> {
        let root = File::open(&self.root)?;
        sys::fchownat(&root, c"", attributes.uid, attributes.gid)?;
        fs::set_permissions(&self.root, std::os::unix::fs::PermissionsExt::from_mode(attributes.mode))
    }

    /// Makes something in place of what is there; a directory stays when one is made.
    fn replacing(&mut self, dir: &OwnedFd, name: &CString, directory: bool, mut make: impl FnMut(&OwnedFd, &CString) -> io::Result<()>) -> io::Result<()> {
        match make(dir, name) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            done => return done,
        }
        let found = fs::symlink_metadata(in_dir(dir, name))?;
        if directory && found.is_dir() {
            return Ok(());
        }
        remove(dir, name)?;
        self.parent = None;
        make(dir, name)
    }

    /// Hides what lies below: one name, or (for an opaque directory) all.
    fn whiteout(&mut self, above: Vec<u8>, hidden: &[u8]) -> io::Result<()> {
        if hidden == b".wh..opq" {
            let mut inside = above.clone();
            inside.extend_from_slice(b"x");
            let (dir, _) = self.parent_of(&inside, true)?;
            for entry in fs::read_dir(proc_path(&dir))? {
                let entry = entry?.file_name();
                let mut path = above.clone();
                path.extend_from_slice(entry.as_bytes());
                if !self.own.contains(&path) {
                    remove(&dir, &CString::new(entry.as_bytes())?)?;
                }
            }
            self.parent = None;
            return Ok(());
        }
        if hidden.starts_with(b".wh.") || hidden.is_empty() || hidden == b"." || hidden == b".." {
            // Bookkeeping of another file system.
            return Ok(());
        }
        let mut path = above;
        path.extend_from_slice(hidden);
        if self.own.contains(&path) {
            return Ok(());
        }
        match self.parent_of(&path, false) {
            Ok((dir, name)) => {
                self.parent = None;
                remove(&dir, &name)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// The directory that holds the last component, and that component. Missing directories are made.
    fn parent_of(&mut self, path: &[u8], make: bool) -> io::Result<(OwnedFd, CString)> {
        let (parent, name) = match path.iter().rposition(|b| *b == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&path[..0], path),
        };
        let name = CString::new(name)?;
        if let Some((cached, fd)) = &self.parent
            && cached == parent
        {
            return Ok((fd.try_clone()?, name));
        }
        let fd = self.walk(parent, make)?;
        self.parent = Some((parent.to_vec(), fd.try_clone()?));
        Ok((fd, name))
    }

    fn walk(&self, path: &[u8], make: bool) -> io::Result<OwnedFd> {
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let root = || process::openat(&libc::AT_FDCWD, &sys::c_path(&self.root)?, flags, 0);
        let mut stack = vec![root()?];
        let mut todo: Vec<Vec<u8>> = components(path).rev().map(<[u8]>::to_vec).collect();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == b".." {
                if stack.len() == 1 {
                    return Err(invalid("its path leads out of the image"));
                }
                stack.pop();
                continue;
            }
            let (dir, name) = (&stack[stack.len() - 1], CString::new(part)?);
            match process::openat(dir, &name, flags, 0) {
                Ok(fd) => stack.push(fd),
                Err(e) if e.kind() == io::ErrorKind::NotFound && make => {
                    process::mkdirat(dir, &name, 0o755)?;
                    stack.push(process::openat(dir, &name, flags, 0)?);
                }
                Err(e) if matches!(e.raw_os_error(), Some(libc::ELOOP | libc::ENOTDIR)) => {
                    let Ok(target) = fs::read_link(in_dir(dir, &name)) else {
                        return Err(invalid("a part of its path is not a directory"));
                    };
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(invalid("too many symlinks in its path"));
                    }
                    let target = target.as_os_str().as_bytes();
                    if target.starts_with(b"/") {
                        stack.truncate(1);
                    }
                    todo.extend(components(target).rev().map(<[u8]>::to_vec));
                }
                Err(e) => return Err(e),
            }
        }
        stack.pop().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".")
}

/// Without leading `/` and `./`. A path that climbs is refused, even where it would come back.
fn clean(name: &[u8]) -> io::Result<Vec<u8>> {
    if components(name).any(|p| p == b"..") {
        return Err(invalid("its path leads out of the image"));
    }
    Ok(components(name).collect::<Vec<_>>().join(&b'/'))
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn plain(e: &io::Error) -> String {
    let text = e.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

fn proc_path(fd: &impl AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn in_dir(dir: &OwnedFd, name: &CString) -> PathBuf {
    proc_path(dir).join(std::ffi::OsStr::from_bytes(name.as_bytes()))
}

fn remove(dir: &OwnedFd, name: &CString) -> io::Result<()> {
    tree::remove_at(&dir.try_clone()?.into(), name)
}

fn attributes<R: Read>(entry: &mut tar::Entry<'_, R>, header: &tar::Header) -> io::Result<Attributes> {
    let mut xattrs = Vec::new();
    if let Some(extensions) = entry.pax_extensions()? {
        for extension in extensions {
            let extension = extension?;
            if let Some(key) = extension.key_bytes().strip_prefix(b"SCHILY.xattr.")
                && !key.starts_with(b"trusted.overlay.")
            {
                xattrs.push((CString::new(key)?, extension.value_bytes().to_vec()));
            }
        }
    }
    Ok(Attributes { uid: header.uid()? as u32, gid: header.gid()? as u32, mode: header.mode()? & 0o7777, mtime: header.mtime().unwrap_or(0) as i64, xattrs })
}

fn set_attributes(dir: &OwnedFd, name: &CString, symlink: bool, attributes: &Attributes) -> io::Result<()> {
    sys::fchownat(dir, name, attributes.uid, attributes.gid)?;
    if !symlink {
        fs::set_permissions(in_dir(dir, name), std::os::unix::fs::PermissionsExt::from_mode(attributes.mode))?;
    }
    let path = sys::c_path(&in_dir(dir, name))?;
    for (key, value) in &attributes.xattrs {
        tolerate(sys::lsetxattr(&path, key, value))?;
    }
    sys::set_mtime(dir, name, attributes.mtime)
}

/// Attributes that this file system does not keep are done without.
fn tolerate(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTSUP | libc::EPERM)) => Ok(()),
        done => done,
    }
}
