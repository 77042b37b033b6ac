//! The volumes of this node on its disk: `DATA/volumes/HANDLE/{image, meta.json}`, for root alone.
//!
//! A volume is there as a whole or not at all: it is made under another name, synced and renamed; it goes by another name too, and
//! is removed under that. What a crash leaves under such names is removed when the store is opened. All calls block and come one
//! at a time for a volume: the caller sees to it.
//!
//! Images are sparse: a claim takes what is written to it, and gives back what is deleted (`discard`). Setting all blocks aside at
//! once (`fallocate`) would refuse claims whose sum is more than the disk, as those of charts are, most of them for ever empty; a
//! claim is refused only if it alone could not be filled now. If the disk is full after all, writes to volumes fail as those to a
//! broken disk do: the pod sees an I/O error, its file system becomes read-only when that hits its journal, and nothing else is
//! harmed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::ext4::{self, BLOCK_BYTES, BYTES_MAX, BYTES_MIN, Geometry};
use crate::{Code, Failure, blank};

/// The file that is the volume; what its device is called by where the kernel lists them.
pub(super) const IMAGE: &str = "image";
const META: &str = "meta.json";
/// There when the volume's PersistentVolume has been made: from then on only its deletion removes the volume.
const KEPT: &str = "kept";
/// Changes of a file system that is being grown, until they are in their places.
const GROWING: &str = "growing.json";
/// Prefixes of volumes that are being made, and that are going.
const MAKING: &str = ".making-";
const GOING: &str = ".going-";
/// Bytes of a handle: it is a name of a directory, with a prefix.
const HANDLE_MAX: usize = 200;
/// The directory in a file system that pods get: its root has `lost+found`, which databases do not start beside.
pub(super) const DIRECTORY: &str = "volume";

/// For whom a volume is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// As what pods get a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "lowercase")]
pub enum Kind {
    /// A directory, in a file system that lies so.
    Filesystem(Geometry),
    /// A device.
    Block,
}

/// What is noted of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Its name.
    pub handle: String,
    /// Its claim.
    pub claim: Claim,
    /// The node whose it is.
    pub node: String,
    /// Bytes that it holds.
    pub bytes: u64,
    /// As what pods get it.
    #[serde(flatten)]
    pub kind: Kind,
}

/// A volume as it is found.
#[derive(Clone, Debug)]
pub struct Found {
    /// What is noted of it.
    pub meta: Meta,
    /// Where it is.
    pub path: PathBuf,
    /// Bytes that it takes on the disk.
    pub used: u64,
    /// Its PersistentVolume has been made.
    pub kept: bool,
}

/// What is asked of a new volume.
#[derive(Clone, Debug)]
pub struct New {
    /// Its name.
    pub handle: String,
    /// Its claim.
    pub claim: Claim,
    /// Bytes that it is to hold.
    pub bytes: u64,
    /// Whether pods get it as a device.
    pub block: bool,
}

/// The volumes of a node.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
    node: String,
}

fn broken(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Failure {
    let place = format!("{what} {}", path.display());
    move |error| match error.raw_os_error() {
        Some(libc_errno::ENOSPC | libc_errno::EDQUOT) => Failure::new(Code::ResourceExhausted, format!("{place}: {error}")),
        Some(libc_errno::EFBIG) => Failure::new(Code::OutOfRange, format!("{place}: {error}")),
        _ => Failure::new(Code::Internal, format!("{place}: {error}")),
    }
}

/// Numbers of errors that mean something here.
mod libc_errno {
    use nix::errno::Errno;
    pub(super) const ENOSPC: i32 = Errno::ENOSPC as i32;
    pub(super) const EDQUOT: i32 = Errno::EDQUOT as i32;
    pub(super) const EFBIG: i32 = Errno::EFBIG as i32;
}

fn out_of_range(bytes: u64) -> Failure {
    Failure::new(Code::OutOfRange, format!("a volume of {bytes} bytes is not possible: the largest has {BYTES_MAX}"))
}

/// A handle is a name of this store's and nothing else: no path.
fn check_handle(handle: &str) -> Result<(), Failure> {
    let fits = handle.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.' || b == b'_');
    if handle.is_empty() || handle.len() > HANDLE_MAX || handle.starts_with('.') || !fits {
        return Err(not_found(handle));
    }
    Ok(())
}

pub(super) fn not_found(handle: &str) -> Failure {
    Failure::new(Code::NotFound, format!("volume {handle:?} is not on this node"))
}

fn private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let tmp = path.with_extension("new");
    let _ = fs::remove_file(&tmp);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&tmp)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&tmp, path)
}

impl Meta {
    /// Bytes of the image.
    fn image_bytes(&self) -> u64 {
        match &self.kind {
            Kind::Filesystem(geometry) => geometry.bytes(),
            Kind::Block => self.bytes,
        }
    }

    fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Bytes that a volume has that is to hold so many: whole blocks.
fn rounded(bytes: u64) -> Result<u64, Failure> {
    let rounded = bytes.max(BYTES_MIN).checked_next_multiple_of(BLOCK_BYTES).filter(|b| *b <= BYTES_MAX);
    rounded.ok_or_else(|| out_of_range(bytes))
}

fn identity() -> Result<ext4::Identity, Failure> {
    blank::identity(DIRECTORY).map_err(|error| Failure::new(Code::Internal, error.to_string()))
}

impl Store {
    /// The store in this directory, which is made; what a crash left of volumes that were not whole is removed.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn open(dir: &Path, node: &str) -> io::Result<Store> {
        private_dir(dir)?;
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if [MAKING, GOING].iter().any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes())) {
                runtime::tree::remove(&entry.path())?;
            }
        }
        Ok(Store { dir: dir.to_owned(), node: node.to_owned() })
    }

    /// The same beside whoever has it open: nothing that is not whole is removed.
    pub(super) fn beside(dir: &Path, node: &str) -> Store {
        Store { dir: dir.to_owned(), node: node.to_owned() }
    }

    /// The node whose it is.
    pub(super) fn node(&self) -> &str {
        &self.node
    }

    /// The directory of a volume.
    pub(super) fn path(&self, handle: &str) -> PathBuf {
        self.dir.join(handle)
    }

    /// What is noted of a volume.
    pub(super) fn meta(&self, handle: &str) -> Result<Meta, Failure> {
        check_handle(handle)?;
        let path = self.path(handle).join(META);
        let text = fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => not_found(handle),
            _ => broken("cannot read", &path)(error),
        })?;
        serde_json::from_slice(&text).map_err(|error| Failure::new(Code::Internal, format!("{}: {error}", path.display())))
    }

    pub(super) fn image(&self, handle: &str) -> Result<File, Failure> {
        check_handle(handle)?;
        let path = self.path(handle).join(IMAGE);
        OpenOptions::new().read(true).write(true).open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Failure::new(Code::NotFound, format!("cannot open {}: {error}", path.display())),
            _ => broken("cannot open", &path)(error),
        })
    }

    /// A volume.
    pub(super) fn find(&self, handle: &str) -> Result<Found, Failure> {
        let (meta, path) = (self.meta(handle)?, self.path(handle));
        Ok(found(meta, path))
    }

    /// Volumes that are there, by their names.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(&self) -> io::Result<Vec<Found>> {
        listed(&self.dir, |note, error| {
            tracing::warn!(note = %note.display(), %error, "a volume is left alone");
            Ok(())
        })
    }

    /// Makes a volume; the one that is there, if it is for the same. Answers what it holds.
    pub(super) fn create(&self, new: &New) -> Result<Meta, Failure> {
        check_handle(&new.handle).map_err(|_| Failure::new(Code::InvalidArgument, format!("{:?} cannot be the name of a volume", new.handle)))?;
        match self.meta(&new.handle) {
            Ok(meta) => return self.again(new, meta),
            Err(failure) if failure.code == Code::NotFound => {}
            Err(failure) => return Err(failure),
        }
        let bytes = rounded(new.bytes)?;
        let kind = match new.block {
            true => Kind::Block,
            false => Kind::Filesystem(Geometry::holding(bytes).map_err(|_| out_of_range(new.bytes))?),
        };
        let meta = Meta { handle: new.handle.clone(), claim: new.claim.clone(), node: self.node.clone(), bytes, kind };
        self.room_for(meta.image_bytes())?;
        let making = self.dir.join(format!("{MAKING}{}", new.handle));
        let made = self.make(&making, &meta);
        if made.is_err() {
            let _ = runtime::tree::remove(&making);
        }
        made.map(|()| meta)
    }

    fn again(&self, new: &New, meta: Meta) -> Result<Meta, Failure> {
        if meta.claim.uid != new.claim.uid || matches!(meta.kind, Kind::Block) != new.block {
            // ALREADY_EXISTS
            return Err(Failure::new(Code::Other(6), format!("volume {:?} is there, for another claim or of another mode", new.handle)));
        }
        if meta.bytes < rounded(new.bytes)? { self.grow(&new.handle, new.bytes) } else { Ok(meta) }
    }

    fn make(&self, making: &Path, meta: &Meta) -> Result<(), Failure> {
        runtime::tree::remove(making).map_err(broken("cannot remove", making))?;
        private_dir(making).map_err(broken("cannot make", making))?;
        let note = making.join(META);
        write_whole(&note, &meta.encode()).map_err(broken("cannot write", &note))?;
        let image = making.join(IMAGE);
        let written = || {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&image)?;
            file.set_len(meta.image_bytes())?;
            Ok::<_, io::Error>(file).and_then(|mut file| match &meta.kind {
                Kind::Filesystem(geometry) => ext4::format(&mut file, geometry, &identity().map_err(io::Error::other)?).map(|()| file),
                Kind::Block => Ok(file),
            })
        };
        let file = written().map_err(broken("cannot write", &image))?;
        file.sync_all().and_then(|()| sync_dir(making)).map_err(broken("cannot write", &image))?;
        let place = self.path(&meta.handle);
        fs::rename(making, &place).and_then(|()| sync_dir(&self.dir)).map_err(broken("cannot make", &place))
    }

    /// Refuses what could not be filled now.
    fn room_for(&self, bytes: u64) -> Result<(), Failure> {
        let disk = nix::sys::statvfs::statvfs(&self.dir).map_err(|e| broken("cannot look at", &self.dir)(e.into()))?;
        let free = disk.blocks_available().saturating_mul(disk.fragment_size());
        if bytes > free {
            // Not how much is free: an Event that says the same again is counted, and not another.
            let text = format!("not enough space on node {} for {bytes} bytes", self.node);
            return Err(Failure::new(Code::ResourceExhausted, text));
        }
        Ok(())
    }

    /// Notes that a volume has its PersistentVolume.
    pub(super) fn keep(&self, handle: &str) -> Result<(), Failure> {
        check_handle(handle)?;
        let path = self.path(handle).join(KEPT);
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            // Also after a loss of power: what is not noted may be taken for an image that nobody came to have.
            made => made.and_then(|_| sync_dir(&self.path(handle))).map_err(broken("cannot make", &path)),
        }
    }

    /// Makes the image larger and notes it. What is in it is grown when it is staged, or by [`super::Disk`] where it is. A volume that
    /// holds as much is left as it is.
    pub(super) fn grow(&self, handle: &str, bytes: u64) -> Result<Meta, Failure> {
        let mut meta = self.meta(handle)?;
        let wanted = rounded(bytes)?;
        let image = self.path(handle).join(IMAGE);
        if wanted > meta.bytes {
            meta.bytes = wanted;
            if let Kind::Filesystem(geometry) = &mut meta.kind {
                *geometry = geometry.grown(wanted).map_err(|_| out_of_range(bytes))?;
            }
            let file = self.image(handle)?;
            let taken = file.metadata().map_err(broken("cannot look at", &image))?.blocks() * 512;
            self.room_for(meta.image_bytes().saturating_sub(taken))?;
            lengthen(&file, meta.image_bytes()).map_err(broken("cannot lengthen", &image))?;
            let note = self.path(handle).join(META);
            write_whole(&note, &meta.encode()).and_then(|()| sync_dir(&self.path(handle))).map_err(broken("cannot write", &note))?;
        }
        Ok(meta)
    }

    /// Grows the file system in an image that is nobody's device to what is noted. Whether it is smaller still: one whose journal is to
    /// be replayed must be mounted first.
    pub(super) fn settle(&self, meta: &Meta) -> Result<bool, Failure> {
        let Kind::Filesystem(geometry) = &meta.kind else { return Ok(false) };
        let (image, growing) = (self.path(&meta.handle).join(IMAGE), self.path(&meta.handle).join(GROWING));
        let mut file = self.image(&meta.handle)?;
        lengthen(&file, meta.image_bytes()).map_err(broken("cannot lengthen", &image))?;
        if let Some(changes) = unfinished(&growing).map_err(broken("cannot read", &growing))? {
            // A crash came before all were in their places.
            finish(&mut file, &changes, &growing).map_err(broken("cannot grow", &image))?;
        }
        let changes = ext4::plan(&mut file, geometry).map_err(broken("cannot read", &image))?;
        if changes != ext4::Changes::default() {
            let text = serde_json::to_vec(&changes).map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
            write_whole(&growing, &text).and_then(|()| sync_dir(&self.path(&meta.handle))).map_err(broken("cannot write", &growing))?;
            finish(&mut file, &changes, &growing).map_err(broken("cannot grow", &image))?;
        }
        self.is_smaller(meta)
    }

    /// Whether a file system is smaller than it is to be, or may be: its superblock does not say otherwise.
    pub(super) fn is_smaller(&self, meta: &Meta) -> Result<bool, Failure> {
        let Kind::Filesystem(geometry) = &meta.kind else { return Ok(false) };
        let image = self.path(&meta.handle).join(IMAGE);
        let state = ext4::state(&mut self.image(&meta.handle)?).map_err(broken("cannot read", &image))?;
        Ok(!matches!(state, ext4::State::Clean(blocks) | ext4::State::Unfinished(blocks) if blocks >= geometry.blocks))
    }

    /// Removes a volume; one that is not there is removed.
    pub(super) fn remove(&self, handle: &str) -> Result<(), Failure> {
        check_handle(handle)?;
        let (place, going) = (self.path(handle), self.dir.join(format!("{GOING}{handle}")));
        runtime::tree::remove(&going).map_err(broken("cannot remove", &going))?;
        match fs::rename(&place, &going) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            moved => moved.and_then(|()| sync_dir(&self.dir)).map_err(broken("cannot remove", &place))?,
        }
        runtime::tree::remove(&going).map_err(broken("cannot remove", &going))
    }
}

fn lengthen(file: &File, bytes: u64) -> io::Result<()> {
    if file.metadata()?.len() < bytes {
        file.set_len(bytes)?;
        file.sync_all()?;
    }
    Ok(())
}

/// Changes that a crash kept from their places; none where there is no note of any. A note that cannot be read may be of changes that
/// are half in their places: nothing is done over them.
fn unfinished(growing: &Path) -> io::Result<Option<ext4::Changes>> {
    match fs::read(growing) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        text => Ok(Some(serde_json::from_slice(&text?)?)),
    }
}

/// Brings changes to their places. Their note is gone for good before anybody mounts the file system: written once more, over what
/// became of it since, they would destroy it.
fn finish(file: &mut File, changes: &ext4::Changes, growing: &Path) -> io::Result<()> {
    changes.apply(file)?;
    file.sync_all()?;
    fs::remove_file(growing)?;
    growing.parent().map_or(Ok(()), sync_dir)
}

fn found(meta: Meta, path: PathBuf) -> Found {
    let used = path.join(IMAGE).metadata().map_or(0, |m| m.blocks() * 512);
    Found { used, kept: path.join(KEPT).exists(), meta, path }
}

/// Volumes in a store's directory, by their names; none where there is no directory. For those who have no store open.
///
/// # Errors
/// The directory, or what tells whose a volume is, cannot be read.
pub fn list(dir: &Path) -> io::Result<Vec<Found>> {
    listed(dir, |path, error| Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))))
}

/// The same; what becomes of a note that cannot be read, the caller says.
fn listed(dir: &Path, unreadable: impl Fn(&Path, io::Error) -> io::Result<()>) -> io::Result<Vec<Found>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut all = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let note = path.join(META);
        let text = match fs::read(&note) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
            Err(error) => {
                unreadable(&note, error)?;
                continue;
            }
        };
        // What has no note of ours, or another's, is none of ours.
        let meta = serde_json::from_slice::<Meta>(&text).ok();
        let Some(meta) = meta.filter(|m| path.file_name().is_some_and(|name| name == m.handle.as_str())) else { continue };
        all.push(found(meta, path));
    }
    all.sort_by(|a, b| a.meta.handle.cmp(&b.meta.handle));
    Ok(all)
}

/// Images in a store's directory, with the names of their volumes: also of those that are being made or are going.
pub(super) fn images(dir: &Path) -> io::Result<Vec<(String, File)>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut all = Vec::new();
    for entry in entries {
        let entry = entry?;
        if let Ok(file) = File::open(entry.path().join(IMAGE)) {
            all.push((entry.file_name().to_string_lossy().into_owned(), file));
        }
    }
    Ok(all)
}
