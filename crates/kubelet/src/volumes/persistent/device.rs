//! The file systems of `local` devices: each is mounted once for all pods of the node, made where the device has none, and goes with the
//! last of them.
//!
//! Whoever mounts and whoever unmounts one device does it alone ([`Locks`]); the lock of a device that does not answer holds nobody but
//! its own pods.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::LocalVolumeSource;
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use parking_lot::Mutex;

use super::spec::Spec;
use super::{Persistent, mounts, place};

/// The file system that a device is taken to have, and gets.
const FS_TYPE: &str = "ext4";
/// What statfs(2) calls it.
const EXT4_MAGIC: i64 = 0xef53;

/// How long a device that is being mounted is waited for by who takes away. What was not taken is tried again.
const LOCK_MAX: Duration = Duration::from_secs(10);

/// A lock for each volume that is a device, while somebody is at it.
#[derive(Default)]
pub(super) struct Locks(Mutex<HashMap<String, Arc<Mutex<()>>>>);

impl Locks {
    pub(super) fn of(&self, name: &str) -> Arc<Mutex<()>> {
        let mut all = self.0.lock();
        all.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(all.entry(name.to_owned()).or_default())
    }
}

impl Persistent {
    /// Takes away a pod's local volumes and exports, and the file systems of devices that no pod has any more. Blocks.
    pub fn drop_local(&self, uid: &str) -> std::io::Result<()> {
        let names = self.0.places.locals(uid);
        if !names.is_empty() || !self.0.places.exports(uid).is_empty() {
            // What containers saw of them by a path of its own.
            mounts::unmount_below(&self.0.places.pods().join(uid).join("volume-subpaths"))?;
        }
        self.drop_exports(uid)?;
        for name in &names {
            let at = self.0.places.local(uid, name);
            while mounts::is_mounted(&at)? {
                umount2(&at, MntFlags::MNT_DETACH)?;
            }
        }
        for name in self.0.places.local_devices() {
            let lock = self.0.local.of(&name);
            // Those of other pods are looked at, too, since what they left may have been in use then; not while a mount is under way.
            let alone = if names.contains(&name) {
                let late = || std::io::Error::other(format!("local device {name} does not answer"));
                Some(lock.try_lock_for(LOCK_MAX).ok_or_else(late)?)
            } else {
                lock.try_lock()
            };
            if alone.is_some() {
                self.drop_device(&name)?;
            }
        }
        Ok(())
    }

    /// Unmounts the file system of a device if no pod has it. Whoever calls is alone with it.
    fn drop_device(&self, name: &str) -> std::io::Result<()> {
        let at = self.0.places.local_device(name);
        if mounts::is_mounted(&at)? {
            if !mounts::others(&at, &self.0.places.pods())?.is_empty() {
                return Ok(());
            }
            if let Err(error) = umount2(&at, MntFlags::empty()) {
                tracing::warn!(volume = name, %error, "the file system of a local device stays mounted; will be tried again");
                return Ok(());
            }
        }
        place::absent(fs::remove_dir(&at))
    }
}

/// Mounts a device's file system (upstream `FormatAndMount`). Whoever calls is alone with it, and is told when one is being made.
pub(super) fn mount_at(spec: &Spec, v: &LocalVolumeSource, device: &Path, at: &Path, works: &AtomicBool) -> Result<(), String> {
    if mounts::is_mounted(at).map_err(|e| e.to_string())? {
        return Ok(());
    }
    let kind = v.fs_type.as_deref().filter(|t| !t.is_empty()).unwrap_or(FS_TYPE);
    let failed = |e: String| format!("local: failed to mount device {} at {} (fstype: {kind}), error {e}", device.display(), at.display());
    let (mut flags, data) = ::volume::mount_options(&spec.options, &[]);
    flags.set(MsFlags::MS_RDONLY, flags.contains(MsFlags::MS_RDONLY) || spec.readonly);
    format_if_blank(device, at, kind, flags.contains(MsFlags::MS_RDONLY), works).map_err(failed)?;
    place::make(at).map_err(|e| e.to_string())?;
    let data = Some(data.as_str()).filter(|o| !o.is_empty());
    mount(Some(device), at, Some(kind), flags, data).map_err(|e| {
        let _ = fs::remove_dir(at);
        failed(e.to_string())
    })
}

/// Makes a file system where there is nothing. Whoever has the device open for himself alone, mounts included, keeps it as it is.
fn format_if_blank(device: &Path, at: &Path, kind: &str, readonly: bool, works: &AtomicBool) -> Result<(), String> {
    let disk = OpenOptions::new().read(true).open(device).map_err(|e| e.to_string())?;
    if !::volume::is_blank(&disk).map_err(|e| e.to_string())? {
        return Ok(());
    }
    if readonly {
        return Err(format!("cannot mount unformatted disk {} as we are manipulating it in read-only mode", device.display()));
    }
    let failed = |e: &dyn std::fmt::Display| {
        let (device, at) = (device.display().to_string(), at.display().to_string());
        format!("format of disk {device:?} failed: type:({kind:?}) target:({at:?}) options:(\"defaults\") errcode:({e}) output:() ")
    };
    if kind != FS_TYPE {
        return Err(failed(&format!("exec: \"mkfs.{kind}\": executable file not found in $PATH")));
    }
    let disk = OpenOptions::new().read(true).write(true).custom_flags(libc::O_EXCL).open(device).map_err(|e| failed(&e))?;
    // Now that it is held alone: somebody may have written to it meanwhile.
    if !::volume::is_blank(&disk).map_err(|e| failed(&e))? {
        return Ok(());
    }
    works.store(true, Ordering::Release);
    ::volume::make_ext4(&disk).map_err(|e| failed(&e))
}

/// Grows the file system of a local device, which is mounted there, to the device's end; a directory has no size (upstream's local plugin,
/// `NodeExpand`).
pub(super) fn grow(path: &Path, at: &Path) -> Result<(), String> {
    let text = |e: std::io::Error| e.to_string();
    let meta = fs::metadata(path).map_err(text)?;
    if meta.is_dir() {
        return Ok(());
    }
    if !meta.file_type().is_block_device() {
        return Err("only directory and block device are supported".to_owned());
    }
    let inside = fs::File::open(at).map_err(text)?;
    let known = nix::sys::statfs::fstatfs(&inside).map_err(|e| e.to_string())?;
    let block_bytes = u64::try_from(known.block_size()).unwrap_or(0);
    if known.filesystem_type().0 != EXT4_MAGIC || block_bytes == 0 {
        return Err(format!(
            "ResizeFS.Resize - resize of another format than {FS_TYPE} is not supported for device {} mounted at {}",
            path.display(),
            at.display()
        ));
    }
    let device = fs::File::open(path).map_err(text)?;
    let bytes = ::runtime::block::device_bytes(&device).map_err(text)?;
    ::runtime::block::grow_ext4(&inside, bytes / block_bytes).map_err(|e| {
        let refused = if e.raw_os_error() == Some(libc::EPERM) { ": the kubelet lacks CAP_SYS_RESOURCE, or the file system has errors" } else { "" };
        format!("resize of device {} failed: {e}{refused}", path.display())
    })
}
