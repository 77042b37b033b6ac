//! A layer's tar becomes a directory for overlayfs. All of this runs in the helper's process ([`super::helper`]).
//!
//! The entries are written into an overlay of the layers below, mounted in the helper's own mount namespace: so directories
//! that an entry only passes through keep the attributes which they have below, deletions become the kernel's own whiteouts,
//! and nothing is left mounted even after a crash. That overlay is the helper's root directory: a link in it, absolute or
//! with any number of `..`, ends within the image. An entry whose own name climbs out is an error that names it.
//!
//! What an entry costs is bounded: by the reader ([`super::tar`]), by the length of a path ([`PATH_BYTES_MAX`]), and by the
//! helper's memory.

use std::collections::HashSet;
use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::AtFlags;
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::space::Space;
use super::tar::{Kind, Member, Reader};
use crate::error::{Context, Error, Result};
use crate::tree::{self, Links, Root};
use crate::{process, sys};

pub(super) const COPY_BYTES: usize = 128 * 1024;
/// `PATH_MAX` of the kernel with its zero byte: a longer path could not be used by the container either.
const PATH_BYTES_MAX: usize = 4095;
/// Directories within each other. No tool can handle deeper ones with ease, and a path has room for twice as many.
const DEPTH_MAX: usize = 1000;
/// What an entry without content is counted as.
const ENTRY_BYTES: u64 = 4096;

/// A reader that hashes what passes.
pub(crate) struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Hashing<R> {
    pub(crate) fn new(inner: R) -> Hashing<R> {
        Hashing { inner, hash: Sha256::new() }
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
        Ok(n)
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Whether a stream that begins so is to be decompressed. A zstd stream may begin with a frame to be skipped (pzstd and the
/// seekable form write such).
pub(super) fn is_compressed(start: &[u8]) -> bool {
    start.starts_with(&[0x1f, 0x8b]) || is_zstd(start)
}

fn is_zstd(start: &[u8]) -> bool {
    matches!(start, [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// Undoes gzip or zstd, recognised by its first bytes.
pub(super) fn decompressed<'a>(source: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut source = io::BufReader::with_capacity(COPY_BYTES, source);
    let start = io::BufRead::fill_buf(&mut source)?;
    Ok(match start {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        start if is_zstd(start) => Box::new(zstd::stream::read::Decoder::with_buffer(source)?),
        _ => Box::new(source),
    })
}

/// A part of a file.
#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) file: File,
    pub(crate) at: u64,
    pub(crate) end: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX).min(buffer.len());
        let n = self.file.read_at(&mut buffer[..room], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// What to unpack where.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Job {
    /// The directory of all layers.
    pub(super) layers: PathBuf,
    /// Names of those below, lowest first.
    pub(super) lower: Vec<String>,
    /// The name of an empty directory beside them: `fs` in it becomes the layer.
    pub(super) work: String,
    /// The part of the input that counts.
    pub(super) at: u64,
    pub(super) end: u64,
    /// Of that part, compressed as it is; none where only the configuration vouches for the content.
    pub(super) digest: Option<String>,
    /// Of the tar.
    pub(super) diff_id: String,
    /// For errors.
    pub(super) what: String,
}

/// Mounts the directory to write into, and answers it.
pub(super) fn mounted(job: &Job) -> io::Result<PathBuf> {
    // All names are relative to it, so nothing in its own path has to be escaped among the options.
    nix::unistd::chdir(&job.layers)?;
    let work = Path::new(&job.work);
    let (files, merged) = (work.join("fs"), work.join("merged"));
    fs::create_dir(&files)?;
    // The upper directory's attributes are the image's `/`, unless the layer has an entry for it.
    match job.lower.last() {
        Some(below) => {
            let meta = fs::metadata(below)?;
            std::os::unix::fs::chown(&files, Some(meta.uid()), Some(meta.gid()))?;
            fs::set_permissions(&files, meta.permissions())?;
        }
        None => fs::set_permissions(&files, fs::Permissions::from_mode(0o755))?,
    }
    if job.lower.is_empty() {
        return Ok(files);
    }
    fs::create_dir(work.join("work"))?;
    fs::create_dir(&merged)?;
    let lower = job.lower.iter().rev().map(String::as_str).collect::<Vec<_>>().join(":");
    let options = format!("lowerdir={lower},upperdir={0}/fs,workdir={0}/work", job.work);
    sys::mount_overlay(&sys::c_path(&merged)?, &options)?;
    Ok(merged)
}

/// Unpacks a (compressed) tar into the root directory, and answers the size of its files.
pub(super) fn layer(job: &Job, input: File) -> Result<u64> {
    let what = job.what.as_str();
    let mut raw = Hashing::new(Section { file: input, at: job.at, end: job.end });
    let tar = decompressed(&mut raw).map_err(|e| Error::Image(format!("{what} cannot be decompressed: {e}")))?;
    let mut reader = Reader::new(Hashing::new(tar));
    let size = Unpacker::new(what).context("cannot look at the layer's root")?.run(&mut reader)?;
    reader.into_inner().finish(&job.diff_id, what)?;
    // What follows the compressed stream belongs to the blob's digest, too.
    match &job.digest {
        Some(digest) => raw.finish(digest, "the layer")?,
        None => drop(io::copy(&mut raw, &mut io::sink()).context(what)?),
    }
    Ok(size)
}

/// A directory that entries are written into.
struct Parent {
    /// As an entry names it.
    path: Vec<u8>,
    dir: File,
    /// Without links, from the image's root.
    real: Vec<u8>,
}

struct Unpacker<'a> {
    root: Root,
    what: &'a str,
    /// The last one used.
    parent: Option<Parent>,
    /// Hashes of this layer's real paths and of those above them: what hides what is below does not hide its own layer's.
    own: HashSet<u64>,
    hasher: RandomState,
    /// Times of directories are set last: entries written into them change them.
    times: Vec<(Vec<u8>, (i64, u32))>,
    buffer: Vec<u8>,
    size: u64,
    space: Space,
}

impl Unpacker<'_> {
    fn new(what: &str) -> io::Result<Unpacker<'_>> {
        let root = Root::open(Path::new("/"))?;
        let hasher = RandomState::new();
        Ok(Unpacker { root, what, parent: None, own: HashSet::new(), hasher, times: Vec::new(), buffer: vec![0; COPY_BYTES], size: 0, space: Space::default() })
    }

    fn run(mut self, tar: &mut Reader<impl Read>) -> Result<u64> {
        let bad = |what: &str, e: io::Error| Error::Image(format!("{what} cannot be read as a tar archive: {e}"));
        while let Some(member) = tar.next().map_err(|e| bad(self.what, e))? {
            // Every entry takes an inode, and perhaps a block.
            self.space.take(&self.root, ENTRY_BYTES).map_err(|e| Error::Image(format!("{}: {}", self.what, sys::plain(&e))))?;
            self.entry(&member, tar).map_err(|e| {
                let name = String::from_utf8_lossy(&member.path[..member.path.len().min(PATH_BYTES_MAX)]).into_owned();
                Error::Image(format!("{}: cannot unpack entry {name:?}: {}", self.what, sys::plain(&e)))
            })?;
        }
        for (path, mtime) in std::mem::take(&mut self.times).into_iter().rev() {
            if let Ok(dir) = self.root.find(OsStr::from_bytes(&path), Links::Within, libc::O_DIRECTORY | libc::O_NOFOLLOW) {
                let _ = sys::set_mtime(&dir, c".", mtime);
            }
        }
        Ok(self.size)
    }

    fn entry(&mut self, member: &Member, content: &mut impl Read) -> io::Result<()> {
        let path = clean(&member.path)?;
        if path.is_empty() {
            return if member.kind == Kind::Directory { self.root_attributes(member) } else { Ok(()) };
        }
        let last = path.rsplit(|b| *b == b'/').next().unwrap_or(&path);
        if let Some(hidden) = last.strip_prefix(b".wh.") {
            return self.whiteout(&path[..path.len() - last.len()], hidden);
        }
        if member.kind == Kind::Other {
            return Ok(());
        }
        let (dir, name) = self.parent_of(&path, true)?;
        self.claim(&name);
        self.size += member.stored;
        let node = |kind: u32| {
            let device = if kind == libc::S_IFIFO { 0 } else { libc::makedev(member.device.0, member.device.1) };
            move |dir: &File, name: &CString| sys::mknodat(dir, name, kind | 0o600, device)
        };
        match member.kind {
            Kind::Directory => {
                self.replacing(&dir, &name, true, |dir, name| process::mkdirat(dir, name, 0o700))?;
                self.parent = None;
                self.times.push((path, member.mtime));
            }
            Kind::Symlink => {
                let target = CString::new(member.link.as_slice())?;
                self.replacing(&dir, &name, false, |dir, name| process::symlinkat(&target, dir, name))?;
            }
            Kind::HardLink => return self.hard_link(&dir, &name, &member.link),
            Kind::Character => self.replacing(&dir, &name, false, node(libc::S_IFCHR))?,
            Kind::Block => self.replacing(&dir, &name, false, node(libc::S_IFBLK))?,
            Kind::Fifo => self.replacing(&dir, &name, false, node(libc::S_IFIFO))?,
            Kind::File | Kind::Other => return self.file(&dir, &name, member, content),
        }
        set_attributes(&dir, &name, member)
    }

    /// The linked file has its attributes already.
    fn hard_link(&mut self, dir: &File, name: &CString, target: &[u8]) -> io::Result<()> {
        let (from, old) = self.parent_of(&clean(target)?, false)?;
        self.replacing(dir, name, false, |dir, name| Ok(nix::unistd::linkat(&from, old.as_c_str(), dir, name.as_c_str(), AtFlags::empty())?))
    }

    fn file(&mut self, dir: &File, name: &CString, member: &Member, content: &mut impl Read) -> io::Result<()> {
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
        let mut opened = None;
        self.replacing(dir, name, false, |dir, name| {
            opened = Some(process::openat(dir, name, flags, 0o600)?);
            Ok(())
        })?;
        let mut file = File::from(opened.ok_or(io::ErrorKind::NotFound)?);
        match &member.sparse {
            None => copy(content, &mut file, &mut self.buffer, &mut self.space)?,
            Some((whole, ranges)) => {
                for (offset, length) in ranges {
                    file.seek(SeekFrom::Start(*offset))?;
                    copy(&mut (&mut *content).take(*length), &mut file, &mut self.buffer, &mut self.space)?;
                }
                file.set_len(*whole)?;
            }
        }
        sys::fchownat(&file, c"", member.uid, member.gid)?;
        file.set_permissions(fs::Permissions::from_mode(member.mode))?;
        for (key, value) in xattrs(member)? {
            tolerate(sys::fsetxattr(&file, &key, value))?;
        }
        sys::set_mtime(dir, name, member.mtime)
    }

    fn root_attributes(&mut self, member: &Member) -> io::Result<()> {
        std::os::unix::fs::chown("/", Some(member.uid), Some(member.gid))?;
        fs::set_permissions("/", fs::Permissions::from_mode(member.mode))?;
        for (key, value) in xattrs(member)? {
            tolerate(sys::lsetxattr(c"/", &key, value))?;
        }
        self.times.push((Vec::new(), member.mtime));
        Ok(())
    }

    /// Makes something in place of what is there; a directory stays when one is made.
    fn replacing(&mut self, dir: &File, name: &CString, directory: bool, mut make: impl FnMut(&File, &CString) -> io::Result<()>) -> io::Result<()> {
        match make(dir, name) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            done => return done,
        }
        if directory && is_directory(dir, name)? {
            return Ok(());
        }
        tree::remove_at(dir, name)?;
        self.parent = None;
        make(dir, name)
    }

    /// Hides what lies below: one name, or (for an opaque directory) all.
    fn whiteout(&mut self, above: &[u8], hidden: &[u8]) -> io::Result<()> {
        if hidden == b".wh..opq" {
            self.parent_of(&[above, b"x"].concat(), true)?;
            let real = self.parent.as_ref().map(|p| p.real.clone()).unwrap_or_default();
            self.hide_foreign(real)?;
            self.parent = None;
            return Ok(());
        }
        if hidden.starts_with(b".wh.") || hidden.is_empty() || hidden == b"." || hidden == b".." {
            // Bookkeeping of another file system.
            return Ok(());
        }
        match self.parent_of(&[above, hidden].concat(), false) {
            Ok((dir, name)) if !self.is_own(&name) => {
                self.parent = None;
                tree::remove_at(&dir, &name)
            }
            Ok(_) => Ok(()),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Takes away all that is not this layer's own, also within its own directories: one directory after the other, each opened
    /// anew, since its own may be nested deeper than a process may have descriptors.
    fn hide_foreign(&mut self, real: Vec<u8>) -> io::Result<()> {
        let mut todo = vec![real];
        while let Some(real) = todo.pop() {
            let dir = File::from(self.root.find(OsStr::from_bytes(&real), Links::Refused, libc::O_DIRECTORY)?);
            nix::unistd::fchdir(&dir)?;
            let names = fs::read_dir(".")?.map(|e| e.map(|e| e.file_name())).collect::<io::Result<Vec<_>>>()?;
            for name in names {
                let path = [&real, name.as_bytes()].join(&b'/');
                let name = CString::new(name.as_bytes())?;
                if !self.own.contains(&self.hasher.hash_one(&path)) {
                    tree::remove_at(&dir, &name)?;
                } else if is_directory(&dir, &name)? {
                    todo.push(path);
                }
            }
        }
        Ok(())
    }

    /// Remembers that a name in the present parent, and the way to it, are this layer's.
    fn claim(&mut self, name: &CString) {
        let Some(parent) = &self.parent else { return };
        let mut path = [&parent.real, name.as_bytes()].join(&b'/');
        while self.own.insert(self.hasher.hash_one(&path)) {
            match path.iter().rposition(|b| *b == b'/') {
                Some(at) if at > 0 => path.truncate(at),
                _ => break,
            }
        }
    }

    fn is_own(&self, name: &CString) -> bool {
        self.parent.as_ref().is_some_and(|parent| self.own.contains(&self.hasher.hash_one([&parent.real, name.as_bytes()].join(&b'/'))))
    }

    /// The directory that holds the last component, and that component. Missing directories are made.
    fn parent_of(&mut self, path: &[u8], make: bool) -> io::Result<(File, CString)> {
        let (parent, name) = match path.iter().rposition(|b| *b == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&path[..0], path),
        };
        let name = CString::new(name)?;
        if let Some(known) = &self.parent
            && known.path == parent
        {
            return Ok((known.dir.try_clone()?, name));
        }
        let place = OsStr::from_bytes(parent);
        // Not only a place: its names are listed, its attributes set.
        let found = match make {
            true => self.root.directory(place, Links::Within, 0o755)?,
            false => self.root.find(place, Links::Within, libc::O_DIRECTORY)?,
        };
        let dir = File::from(found);
        nix::unistd::fchdir(&dir)?;
        let real = std::env::current_dir()?.into_os_string();
        let real = real.as_bytes().strip_suffix(b"/").unwrap_or(real.as_bytes()).to_vec();
        self.parent = Some(Parent { path: parent.to_vec(), dir: dir.try_clone()?, real });
        Ok((dir, name))
    }
}

pub(super) fn copy(from: &mut impl Read, to: &mut File, buffer: &mut [u8], space: &mut Space) -> io::Result<()> {
    loop {
        match from.read(buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                space.take(to, n as u64)?;
                to.write_all(&buffer[..n])?;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Without leading `/`, `.` and `..`. A path that leads out is refused, and so is one that could not be used.
fn clean(name: &[u8]) -> io::Result<Vec<u8>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop().ok_or_else(|| invalid("its path leads out of the image"))?),
            part => parts.push(part),
        }
    }
    let path = parts.join(&b'/');
    if path.len() > PATH_BYTES_MAX || parts.len() > DEPTH_MAX {
        return Err(invalid("its path is too long"));
    }
    Ok(path)
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn is_directory(dir: &File, name: &CString) -> io::Result<bool> {
    let meta = nix::sys::stat::fstatat(dir, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    Ok(meta.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

/// The extended attributes, but those that would speak to overlayfs.
fn xattrs(member: &Member) -> io::Result<Vec<(CString, &[u8])>> {
    let own = member.xattrs.iter().filter(|(key, _)| !key.starts_with(b"trusted.overlay.") && !key.starts_with(b"user.overlay."));
    own.map(|(key, value)| Ok((CString::new(key.as_slice())?, value.as_slice()))).collect()
}

/// Of what is no regular file, and of no symlink's target.
fn set_attributes(dir: &File, name: &CString, member: &Member) -> io::Result<()> {
    sys::fchownat(dir, name, member.uid, member.gid)?;
    if member.kind != Kind::Symlink {
        fchmodat(dir, name.as_c_str(), Mode::from_bits_truncate(member.mode), FchmodatFlags::FollowSymlink)?;
    }
    let list = xattrs(member)?;
    if !list.is_empty() {
        nix::unistd::fchdir(dir)?;
    }
    for (key, value) in list {
        tolerate(sys::lsetxattr(name, &key, value))?;
    }
    sys::set_mtime(dir, name, member.mtime)
}

/// Attributes that this file system does not keep, or that the helper may not set, are done without.
fn tolerate(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTSUP | libc::EPERM)) => Ok(()),
        done => done,
    }
}
