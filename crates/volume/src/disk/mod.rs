//! The driver that is built in: a volume is a sparse image on this node's disk, on a loop device; its size is a limit that the
//! kernel keeps.
//!
//! **What is where.** `DATA/volumes/HANDLE` has the image and a note (`store.rs`). Staged, a volume with a file system is mounted at
//! the kubelet's place, from a device that detaches itself when that mount and all that came of it are gone; one without is a device
//! that stays until it is unstaged. Published, the first is a bind mount of the directory `volume` in it, the second one of the
//! device's file. Nothing else knows of them: what is staged is read from the kernel, so a crash between any two steps leaves what
//! the next call finds, and a reboot leaves images alone.
//!
//! Calls of one volume come one after the other, whoever makes them, and go on when their future is dropped: each has its own lock
//! and works on a thread that may block. A device that pods may only read is given to them so by the kubelet, which says what they
//! may do with it: a bind mount of its file does not.
//!
//! **Growing.** The image is lengthened by the provisioner ([`Disk::grow`]); the file system by the kernel while it is mounted, or, where
//! this process may not ask for that (`CAP_SYS_RESOURCE`), by ourselves when it is staged the next time.

mod devices;
mod mounts;
mod purge;
mod store;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use nix::errno::Errno;
use nix::mount::mount;
use nix::sys::stat::{major, minor};
use parking_lot::Mutex;
use runtime::block::{self, Keep, LOOP_MAJOR, Loop};
use tokio::sync::watch;

use crate::{Abilities, Code, Driver, Expand, Failure, Info, Mode, Publish, Stage, Stats, Usage, Volume, mount_options};
use devices::Devices;
pub use purge::purge;
pub use store::{Claim, Found, Kind, Meta, New, Store, list};

/// The driver's name: in StorageClasses, PersistentVolumes and CSINodes.
pub const NAME: &str = "disk.knarr.local";
/// What tells nodes apart.
pub const TOPOLOGY: &str = "kubernetes.io/hostname";
/// What is written at once to a device below a file system, as its blocks are; other devices keep to the usual sectors.
const FILESYSTEM_SECTOR: u32 = 4096;
const DEVICE_SECTOR: u32 = 512;
/// The file of a device of which the host has none, beside its image.
const NODE: &str = "device";

/// The driver. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Disk(Arc<Inner>);

struct Inner {
    store: Store,
    node: String,
    devices: Devices,
    /// One for each volume that somebody works on.
    locks: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    /// Told when a volume is no longer in use.
    freed: watch::Sender<()>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Disk").field(&self.0.store).finish()
    }
}

/// What failed, in words.
trait Told<T> {
    fn told(self, what: impl fmt::Display) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Told<T> for Result<T, E> {
    fn told(self, what: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(Code::Internal, format!("{what}: {}", error.into())))
    }
}

fn delete(store: &Store, devices: &Devices, handle: &str) -> Result<(), Failure> {
    match store.image(handle) {
        Ok(image) if devices.find(&image).told("cannot ask of loop devices")?.is_some() => {
            Err(Failure::new(Code::FailedPrecondition, format!("volume {handle:?} is in use on node {}", store.node())))
        }
        // What failed otherwise may be in use.
        Err(failure) if failure.code != Code::NotFound => Err(failure),
        _ => store.remove(handle),
    }
}

/// Removes a volume and what is in it from a directory that another process may have open, as [`Disk::delete`] does: for whoever knows that
/// no PersistentVolume stands for it. Blocks.
///
/// # Errors
/// It is not there ([`Code::NotFound`]), it is in use ([`Code::FailedPrecondition`]), or the disk fails.
pub fn remove(dir: &Path, handle: &str) -> Result<(), Failure> {
    let store = Store::beside(dir, "");
    let node = store.meta(handle)?.node;
    delete(&Store::beside(dir, &node), &Devices::default(), handle)
}

impl Disk {
    /// The driver over this directory, which is made. What a crash left half made or half removed there is removed.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn open(dir: &Path, node: &str) -> io::Result<Disk> {
        let store = Store::open(dir, node)?;
        Ok(Disk(Arc::new(Inner { store, node: node.to_owned(), devices: Devices::default(), locks: Mutex::default(), freed: watch::Sender::new(()) })))
    }

    /// Told when a volume is no longer in use.
    #[must_use]
    pub fn freed(&self) -> watch::Receiver<()> {
        self.0.freed.subscribe()
    }

    /// Makes a volume (`CreateVolume`).
    ///
    /// # Errors
    /// It cannot be, or there is no room.
    pub async fn create(&self, new: New) -> Result<Meta, Failure> {
        let handle = new.handle.clone();
        self.work(&handle, move |disk| disk.store.create(&new)).await
    }

    /// Notes that a volume has its PersistentVolume: from now on only [`Disk::delete`] removes it.
    ///
    /// # Errors
    /// There is none.
    pub async fn keep(&self, handle: &str) -> Result<(), Failure> {
        let own = handle.to_owned();
        self.work(handle, move |disk| disk.store.keep(&own)).await
    }

    /// Removes a volume and what is in it (`DeleteVolume`); one that is not there is removed.
    ///
    /// # Errors
    /// It is in use ([`Code::FailedPrecondition`]), or the disk fails.
    pub async fn delete(&self, handle: &str) -> Result<(), Failure> {
        let own = handle.to_owned();
        self.work(handle, move |disk| delete(&disk.store, &disk.devices, &own)).await
    }

    /// Makes a volume's image larger (`ControllerExpandVolume`); answers what it holds, and whether the node has something to do too.
    ///
    /// # Errors
    /// It cannot be as large, or there is no room.
    pub async fn grow(&self, handle: &str, bytes: u64) -> Result<(u64, bool), Failure> {
        let own = handle.to_owned();
        self.work(handle, move |disk| {
            let meta = disk.store.grow(&own, bytes)?;
            let block = matches!(meta.kind, Kind::Block);
            if block {
                disk.take_size(&meta)?;
            }
            Ok((meta.bytes, !block))
        })
        .await
    }

    /// A volume, if it is there.
    ///
    /// # Errors
    /// The disk fails.
    pub async fn find(&self, handle: &str) -> Result<Option<Found>, Failure> {
        let own = handle.to_owned();
        match self.work(handle, move |disk| disk.store.find(&own)).await {
            Err(failure) if failure.code == Code::NotFound => Ok(None),
            found => found.map(Some),
        }
    }

    /// All volumes.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub async fn list(&self) -> Result<Vec<Found>, Failure> {
        let inner = self.0.clone();
        let listed = tokio::task::spawn_blocking(move || inner.store.list()).await;
        listed.map_err(|error| Failure::new(Code::Internal, error.to_string()))?.told("cannot list the volumes")
    }

    fn lock(&self, handle: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.locks.lock();
        if let Some(lock) = locks.get(handle).and_then(Weak::upgrade) {
            return lock;
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        locks.insert(handle.to_owned(), Arc::downgrade(&lock));
        lock
    }

    /// Works on a volume, after whoever does; to the end, whatever becomes of this future.
    async fn work<T: Send + 'static>(&self, handle: &str, work: impl FnOnce(&Inner) -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
        let alone = self.lock(handle).lock_owned().await;
        let inner = self.0.clone();
        let done = tokio::task::spawn_blocking(move || {
            let done = work(&inner);
            drop(alone);
            done
        });
        done.await.unwrap_or_else(|error| Err(Failure::new(Code::Internal, format!("the driver broke: {error}"))))
    }
}

impl Inner {
    /// What is noted of a volume, if it may be used so.
    fn fitting(&self, volume: &Volume) -> Result<Meta, Failure> {
        let meta = self.store.meta(&volume.handle)?;
        match (&volume.mode, &meta.kind) {
            (Mode::Block, Kind::Block) => Ok(meta),
            (Mode::Filesystem { fs_type, .. }, Kind::Filesystem(_)) if matches!(fs_type.as_str(), "" | "ext4") => Ok(meta),
            (Mode::Filesystem { fs_type, .. }, Kind::Filesystem(_)) => {
                Err(Failure::new(Code::InvalidArgument, format!("file system {fs_type:?} is not supported: volumes of {NAME} have ext4")))
            }
            // Who has the device writes what he likes to it: the kernel is not to read that as a file system.
            _ => Err(Failure::new(Code::InvalidArgument, format!("volume {:?} is of the other volume mode", meta.handle))),
        }
    }

    /// Whether what is mounted at a place is a device that is this image.
    fn is_at(&self, image: &File, at: &Path) -> Result<Option<bool>, Failure> {
        let Some(mounted) = mounts::at(at).told("cannot read the mounts")? else { return Ok(None) };
        let device = self.devices.find(image).told("cannot ask of loop devices")?;
        Ok(Some(device.is_some_and(|d| mounted.device == (LOOP_MAJOR, u64::from(d.number())))))
    }

    fn stage_filesystem(&self, meta: &Meta, options: &[String], at: &Path) -> Result<(), Failure> {
        let image = self.store.image(&meta.handle)?;
        match self.is_at(&image, at)? {
            // It is, if a crash came before it had grown; where it may not now, it is the next time.
            Some(true) => return if self.store.is_smaller(meta)? { self.expand_at(meta, &image, at).or(Ok(())) } else { Ok(()) },
            Some(false) => return Err(Failure::new(Code::Internal, format!("something else is mounted at {}", at.display()))),
            None => {}
        }
        let smaller = match self.devices.find(&image).told("cannot ask of loop devices")? {
            // A container that does not end holds it still.
            Some(_) => self.store.is_smaller(meta)?,
            None => self.store.settle(meta)?,
        };
        let device = self.mount(meta, &image, options, at)?;
        if smaller && self.grow_mounted(meta, &device, at).is_err() {
            // The journal has been replayed: now we can.
            drop(device);
            mounts::unmount(at).told("cannot unmount")?;
            if self.devices.find(&image).told("cannot ask of loop devices")?.is_none() {
                self.store.settle(meta)?;
            }
            self.mount(meta, &image, options, at)?;
        }
        Ok(())
    }

    fn mount(&self, meta: &Meta, image: &File, options: &[String], at: &Path) -> Result<Loop, Failure> {
        let device = self.devices.attach(image, Keep::WhileHeld, FILESYSTEM_SECTOR).told("cannot attach a loop device")?;
        let (flags, data) = mount_options(options, &["errors=remount-ro", "discard"]);
        mount(Some(&device.path()), at, Some("ext4"), flags, Some(data.as_str())).map_err(|error| {
            let path = self.store.path(&meta.handle);
            match error {
                Errno::EINVAL if !options.is_empty() => Failure::new(Code::InvalidArgument, format!("mount options {options:?} are refused: {error}")),
                _ => Failure::new(
                    Code::Internal,
                    format!("the file system of volume {:?} cannot be mounted ({error}); it is in {}: `e2fsck -f` may mend it", meta.handle, path.display()),
                ),
            }
        })?;
        if let Some(trouble) = errors_of(device.number()) {
            tracing::warn!(volume = meta.handle, claim = format!("{}/{}", meta.claim.namespace, meta.claim.name), "{trouble}");
        }
        Ok(device)
    }

    fn grow_mounted(&self, meta: &Meta, device: &Loop, inside: &Path) -> Result<(), Failure> {
        let Kind::Filesystem(geometry) = &meta.kind else { return Ok(()) };
        device.take_size().told("cannot make the device larger")?;
        let inside = File::open(inside).told("cannot open the file system")?;
        match block::grow_ext4(&inside, geometry.blocks) {
            Err(error) if error.raw_os_error() == Some(Errno::EPERM as i32) => Err(Failure::new(
                Code::FailedPrecondition,
                format!("volume {:?} cannot grow while it is in use: knarr lacks CAP_SYS_RESOURCE here, or the file system has errors", meta.handle),
            )),
            grown => grown.told("cannot grow the file system"),
        }
    }

    fn stage_block(&self, meta: &Meta) -> Result<(), Failure> {
        let image = self.store.image(&meta.handle)?;
        let device = self.devices.attach(&image, Keep::Always, DEVICE_SECTOR).told("cannot attach a loop device")?;
        // It may have grown since.
        device.take_size().told("cannot make the device larger")
    }

    fn take_size(&self, meta: &Meta) -> Result<(), Failure> {
        let image = self.store.image(&meta.handle)?;
        match self.devices.find(&image).told("cannot ask of loop devices")? {
            Some(device) => device.take_size().told("cannot make the device larger"),
            None => Ok(()),
        }
    }

    fn unstage(&self, handle: &str, at: &Path) -> Result<(), Failure> {
        if mounts::at(at).told("cannot read the mounts")?.is_some_and(|m| m.device.0 == LOOP_MAJOR) {
            // Unmounting would write, too, but gives not all back to the disk that was deleted just now (seen on Linux 6.18).
            let _ = File::open(at).map(nix::unistd::syncfs);
        }
        mounts::unmount(at).told(format!("cannot unmount {}", at.display()))?;
        // Of one that is gone the device is, too: it is not removed while it has one.
        let meta = match self.store.meta(handle) {
            Err(failure) if failure.code == Code::NotFound => return Ok(()),
            meta => meta?,
        };
        if let Kind::Block = meta.kind {
            let image = self.store.image(handle)?;
            if let Some(device) = self.devices.find(&image).told("cannot ask of loop devices")? {
                device.detach().told("cannot detach the loop device")?;
            }
            let _ = fs::remove_file(self.store.path(handle).join(NODE));
        }
        Ok(())
    }

    fn publish_filesystem(&self, meta: &Meta, staged: &Path, target: &Path, readonly: bool) -> Result<(), Failure> {
        let image = self.store.image(&meta.handle)?;
        if self.is_at(&image, staged)? != Some(true) {
            return Err(Failure::new(Code::FailedPrecondition, format!("volume {:?} is not staged at {}", meta.handle, staged.display())));
        }
        match self.is_at(&image, target)? {
            Some(true) => {}
            Some(false) => return Err(Failure::new(Code::Internal, format!("something else is mounted at {}", target.display()))),
            None => {
                let made = fs::DirBuilder::new().mode(0o750).create(target);
                made.or_else(there).told(format!("cannot make {}", target.display()))?;
                let from = staged.join(store::DIRECTORY);
                let is_directory = fs::symlink_metadata(&from).is_ok_and(|m| m.is_dir());
                if !is_directory {
                    return Err(Failure::new(
                        Code::Internal,
                        format!("the file system of volume {:?} has lost its directory {:?}", meta.handle, store::DIRECTORY),
                    ));
                }
                mounts::bind(&from, target, readonly).told(format!("cannot mount at {}", target.display()))?;
            }
        }
        // A crash may have come between the mount and its restriction.
        if readonly && mounts::at(target).told("cannot read the mounts")?.is_some_and(|m| !m.readonly) {
            mounts::restrict(target).told(format!("cannot make {} read-only", target.display()))?;
        }
        Ok(())
    }

    fn publish_block(&self, meta: &Meta, target: &Path) -> Result<(), Failure> {
        let image = self.store.image(&meta.handle)?;
        let Some(device) = self.devices.find(&image).told("cannot ask of loop devices")? else {
            return Err(Failure::new(Code::FailedPrecondition, format!("volume {:?} is not staged", meta.handle)));
        };
        if mounts::at(target).told("cannot read the mounts")?.is_some() {
            return match block::node_number(target) == Some(device.number()) {
                true => Ok(()),
                false => Err(Failure::new(Code::Internal, format!("something else is mounted at {}", target.display()))),
            };
        }
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(target).map(drop);
        made.or_else(there).told(format!("cannot make {}", target.display()))?;
        let node = self.node_of(meta, &device)?;
        mounts::bind(&node, target, false).told(format!("cannot mount at {}", target.display()))
    }

    /// The file of a device that stays.
    fn node_of(&self, meta: &Meta, device: &Loop) -> Result<PathBuf, Failure> {
        let usual = device.path();
        if block::node_number(&usual) == Some(device.number()) && !usual.starts_with("/proc") {
            return Ok(usual);
        }
        let own = self.store.path(&meta.handle).join(NODE);
        if block::node_number(&own) != Some(device.number()) {
            let _ = fs::remove_file(&own);
            block::make_node(&own, device.number()).told("cannot make the device's file")?;
        }
        Ok(own)
    }

    /// Makes what is in use as large as its image.
    fn expand_at(&self, meta: &Meta, image: &File, at: &Path) -> Result<(), Failure> {
        let Some(device) = self.devices.find(image).told("cannot ask of loop devices")? else {
            return Err(Failure::new(Code::FailedPrecondition, format!("volume {:?} is not staged", meta.handle)));
        };
        device.take_size().told("cannot make the device larger")?;
        if matches!(meta.kind, Kind::Block) || !self.store.is_smaller(meta)? {
            return Ok(());
        }
        if self.is_at(image, at)? != Some(true) {
            return Err(Failure::new(Code::FailedPrecondition, format!("volume {:?} is not at {}", meta.handle, at.display())));
        }
        self.grow_mounted(meta, &device, at)
    }
}

/// What is there already need not be made.
fn there(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
}

/// What the kernel has noted of a file system's errors, in words.
fn errors_of(device: u32) -> Option<String> {
    let note = |name: &str| fs::read_to_string(format!("/sys/fs/ext4/loop{device}/{name}")).map(|text| text.trim().to_owned());
    let count: u64 = note("errors_count").ok()?.parse().ok().filter(|count| *count > 0)?;
    let last = note("last_error_func").unwrap_or_default();
    Some(format!("its file system has had {count} errors, the last in {last}: it should be checked with e2fsck while no pod uses it"))
}

fn stats(at: &Path) -> Result<Stats, Failure> {
    let meta = match fs::metadata(at) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Failure::new(Code::NotFound, format!("nothing is at {}", at.display())));
        }
        meta => meta.told(format!("cannot look at {}", at.display()))?,
    };
    if meta.file_type().is_block_device() {
        let device = File::open(at).told("cannot open the device")?;
        let total = block::device_bytes(&device).told("cannot ask the device")?;
        return Ok(Stats { bytes: Some(Usage { total, ..Usage::default() }), ..Stats::default() });
    }
    let disk = nix::sys::statvfs::statvfs(at).told(format!("cannot look at {}", at.display()))?;
    let bytes = |blocks: u64| blocks.saturating_mul(disk.fragment_size());
    Ok(Stats {
        bytes: Some(Usage {
            total: bytes(disk.blocks()),
            used: bytes(disk.blocks().saturating_sub(disk.blocks_free())),
            available: bytes(disk.blocks_available()),
        }),
        inodes: Some(Usage { total: disk.files(), used: disk.files().saturating_sub(disk.files_free()), available: disk.files_available() }),
        abnormal: Some(meta.dev()).filter(|dev| major(*dev) == LOOP_MAJOR).and_then(|dev| errors_of(minor(dev) as u32)),
    })
}

#[async_trait]
impl Driver for Disk {
    fn abilities(&self) -> Abilities {
        Abilities { stage: true, stats: true, expand: true, condition: true, ..Abilities::default() }
    }

    async fn info(&self) -> Result<Info, Failure> {
        let topology = BTreeMap::from([(TOPOLOGY.to_owned(), self.0.node.clone())]);
        Ok(Info { node_id: self.0.node.clone(), max_volumes: 0, topology })
    }

    async fn stage(&self, stage: Stage<'_>) -> Result<(), Failure> {
        let (volume, at) = (stage.volume.clone(), stage.at.to_owned());
        self.work(&stage.volume.handle, move |disk| {
            let meta = disk.fitting(&volume)?;
            match &volume.mode {
                Mode::Filesystem { options, .. } => disk.stage_filesystem(&meta, options, &at),
                Mode::Block => disk.stage_block(&meta),
            }
        })
        .await
    }

    async fn unstage(&self, handle: &str, at: &Path) -> Result<(), Failure> {
        let (own, at) = (handle.to_owned(), at.to_owned());
        self.work(handle, move |disk| disk.unstage(&own, &at)).await?;
        self.0.freed.send_replace(());
        Ok(())
    }

    async fn publish(&self, publish: Publish<'_>) -> Result<(), Failure> {
        let (volume, target, readonly) = (publish.volume.clone(), publish.target.to_owned(), publish.readonly);
        let staged = publish.staged.map(Path::to_owned);
        self.work(&publish.volume.handle, move |disk| {
            let meta = disk.fitting(&volume)?;
            match (&volume.mode, staged) {
                (Mode::Block, _) => disk.publish_block(&meta, &target),
                (Mode::Filesystem { .. }, Some(staged)) => disk.publish_filesystem(&meta, &staged, &target, readonly),
                (Mode::Filesystem { .. }, None) => Err(Failure::new(Code::FailedPrecondition, format!("volume {:?} is not staged", volume.handle))),
            }
        })
        .await
    }

    async fn unpublish(&self, handle: &str, target: &Path) -> Result<(), Failure> {
        let target = target.to_owned();
        self.work(handle, move |_| {
            mounts::unmount(&target).told(format!("cannot unmount {}", target.display()))?;
            // What is left is the empty place of the mount. Anything else stays.
            let removed = match fs::symlink_metadata(&target) {
                Err(error) => Err(error),
                Ok(meta) if meta.is_dir() => fs::remove_dir(&target),
                Ok(meta) if meta.is_file() && meta.len() == 0 => fs::remove_file(&target),
                Ok(_) => Err(io::Error::other("it is not the empty place of a mount")),
            };
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).told(format!("cannot remove {}", target.display())),
                _ => Ok(()),
            }
        })
        .await
    }

    async fn expand(&self, expand: Expand<'_>) -> Result<u64, Failure> {
        // The staged place can be written to, whatever pods may do.
        let (volume, at, bytes) = (expand.volume.clone(), expand.staged.unwrap_or(expand.at).to_owned(), expand.bytes);
        self.work(&expand.volume.handle, move |disk| {
            disk.fitting(&volume)?;
            let meta = disk.store.grow(&volume.handle, bytes)?;
            disk.expand_at(&meta, &disk.store.image(&volume.handle)?, &at).map(|()| meta.bytes)
        })
        .await
    }

    async fn stats(&self, _: &str, at: &Path, _: Option<&Path>) -> Result<Stats, Failure> {
        let at = at.to_owned();
        let asked = tokio::task::spawn_blocking(move || stats(&at)).await;
        asked.unwrap_or_else(|error| Err(Failure::new(Code::Internal, format!("the driver broke: {error}"))))
    }
}
