//! Volumes that are places of the node itself: `local` directories and devices, and `hostPath`.
//!
//! A directory is bound into the pod's own, as upstream's local plugin does, so that what is mounted on it later does not change under a
//! pod. The file system of a device is mounted once for all pods. What is mounted is the truth: nothing is remembered.
//!
//! A directory may lie on a server that is dead: only its own pod waits for it. What all pods share is held for file systems of devices alone.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{HostPathVolumeSource, LocalVolumeSource, Pod};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use parking_lot::Mutex;

use super::Persistent;
use super::call::Trouble;
use super::ownership::{self, Wanted};
use super::spec::Spec;
use super::{mounts, place};
use crate::api::Severity;
use crate::util;
use crate::volumes::{self, Ready, host};

/// The file system that a device is taken to have.
const FS_TYPE: &str = "ext4";

/// What a local volume turned out to be.
enum Shown {
    /// It is bound into the pod's directory; whether another pod has it already.
    Bound { shared: bool },
    /// It is a device, given as such.
    Device,
}

impl Persistent {
    /// A `hostPath` volume: the path, made or checked as its type asks.
    pub(super) async fn host_path(&self, pod: &Pod, spec: &Spec, v: &HostPathVolumeSource) -> Result<Ready, Trouble> {
        let path = self.host(Path::new(&v.path));
        let v = HostPathVolumeSource { path: path.display().to_string(), ..v.clone() };
        let looked = self.0.looks.look(util::uid(pod), move || host::host_path(&v)).await;
        looked.map_err(|e| Trouble::mount("MountVolume.SetUp", &spec.name, e))?;
        Ok(Ready { path, readonly: spec.readonly, ..Ready::default() })
    }

    /// A `local` volume.
    pub(super) async fn local(&self, pod: &Arc<Pod>, spec: &Spec, v: &LocalVolumeSource) -> Result<Ready, Trouble> {
        let failed =
            |e: String| if spec.block { Trouble::map("MapVolume.MapPodDevice", &spec.name, e) } else { Trouble::mount("MountVolume.SetUp", &spec.name, e) };
        let uid = util::uid(pod).to_owned();
        let (at, staged, pods) = (self.0.places.local(&uid, &spec.name), self.0.places.local_device(&spec.name), self.0.places.pods());
        let (work, all) = ((at.clone(), spec.clone(), v.clone()), self.clone());
        let looked = self.0.looks.look(&uid, move || {
            let (at, spec, v) = work;
            show(&spec, &v, &staged, &at, &pods, &all.0.local)
        });
        match looked.await.map_err(failed)? {
            Shown::Device => return Ok(Ready { path: PathBuf::from(&v.path), readonly: spec.readonly, device: true, ..Ready::default() }),
            Shown::Bound { shared } => self.give_local(pod, spec, &at, shared).await.map_err(failed)?,
        }
        Ok(Ready { path: at, readonly: spec.readonly, ..Ready::default() })
    }

    /// The files become the group's when the first pod gets them; a further pod is told if it cannot share them.
    async fn give_local(&self, pod: &Pod, spec: &Spec, at: &Path, shared: bool) -> Result<(), String> {
        let Some(group) = volumes::fs_group(pod).filter(|_| !spec.readonly) else { return Ok(()) };
        if shared {
            let place = at.to_owned();
            let has = self.0.looks.look(util::uid(pod), move || fs::metadata(&place).map(|m| m.gid()).map_err(|e| e.to_string())).await?;
            if has != group {
                let message = format!("The requested fsGroup is {group}, but the volume {} has GID {has}. The volume may not be shareable.", spec.name);
                self.0.api.pod_event(pod, None, Severity::Warning, "AlreadyMountedVolume", &message);
            }
            return Ok(());
        }
        let wanted = Wanted { at: at.to_owned(), group, only_on_mismatch: ownership::only_on_mismatch(pod), stop: Arc::default() };
        ownership::give(&self.0.api, pod, wanted).await
    }

    /// Takes away a pod's local volumes, and the file systems of devices that no pod has any more. Blocks.
    pub fn drop_local(&self, uid: &str) -> std::io::Result<()> {
        let names = self.0.places.locals(uid);
        if !names.is_empty() {
            // What containers saw of them by a path of its own.
            mounts::unmount_below(&self.0.places.pods().join(uid).join("volume-subpaths"))?;
        }
        for name in &names {
            let at = self.0.places.local(uid, name);
            while mounts::is_mounted(&at)? {
                umount2(&at, MntFlags::MNT_DETACH)?;
            }
        }
        if self.0.places.local_devices().is_empty() {
            return Ok(());
        }
        // Whoever had none looks only after what others left; not while a mount is under way.
        let alone = if names.is_empty() { self.0.local.try_lock() } else { Some(self.0.local.lock()) };
        alone.map_or(Ok(()), |_alone| self.drop_devices())
    }

    /// Unmounts the file systems of devices that no pod has. Whoever calls is alone.
    fn drop_devices(&self) -> std::io::Result<()> {
        let pods = self.0.places.pods();
        for name in self.0.places.local_devices() {
            let at = self.0.places.local_device(&name);
            if mounts::is_mounted(&at)? {
                if !mounts::others(&at, &pods)?.is_empty() {
                    continue;
                }
                if let Err(error) = umount2(&at, MntFlags::empty()) {
                    tracing::warn!(volume = name, %error, "the file system of a local device stays mounted; will be tried again");
                    continue;
                }
            }
            place::absent(fs::remove_dir(&at))?;
        }
        Ok(())
    }
}

/// Makes the volume what it is to be for this pod.
fn show(spec: &Spec, v: &LocalVolumeSource, staged: &Path, at: &Path, pods: &Path, devices: &Mutex<()>) -> Result<Shown, String> {
    let path = Path::new(&v.path);
    if path.components().any(|c| c == Component::ParentDir) {
        return Err(format!("invalid path: {} must not contain '..'", v.path));
    }
    let meta =
        fs::metadata(path).map_err(|e| if e.kind() == std::io::ErrorKind::NotFound { format!("path {:?} does not exist", v.path) } else { e.to_string() })?;
    let device = meta.file_type().is_block_device();
    if spec.block {
        return if device { Ok(Shown::Device) } else { Err(format!("path {:?} is not a block device", v.path)) };
    }
    let text = |e: &dyn std::fmt::Display| e.to_string();
    // Nobody takes a device's file system away between its mount and the pod's.
    let _alone = device.then(|| devices.lock());
    let source = if device {
        mount_device(spec, v, path, staged)?;
        staged
    } else if meta.is_dir() {
        path
    } else {
        return Err("only directory and block device are supported".into());
    };
    let known = mounts::is_mounted(at).map_err(|e| text(&e))?;
    let shared = mounts::of_tree(source, pods).map_err(|e| text(&e))?.iter().any(|m| m != at);
    if !known {
        place::make(at).map_err(|e| text(&e))?;
        mount(Some(source), at, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(|e| text(&e))?;
    }
    // The group gets its files once, when the volume has none of its pods yet.
    Ok(Shown::Bound { shared: shared || known })
}

fn mount_device(spec: &Spec, v: &LocalVolumeSource, device: &Path, at: &Path) -> Result<(), String> {
    if mounts::is_mounted(at).map_err(|e| e.to_string())? {
        return Ok(());
    }
    place::make(at).map_err(|e| e.to_string())?;
    let kind = v.fs_type.as_deref().filter(|t| !t.is_empty()).unwrap_or(FS_TYPE);
    let flags = if spec.readonly { MsFlags::MS_RDONLY } else { MsFlags::empty() };
    let options = Some(spec.options.join(",")).filter(|o| !o.is_empty());
    mount(Some(device), at, Some(kind), flags, options.as_deref()).map_err(|e| {
        let _ = fs::remove_dir(at);
        format!("local: failed to mount device {} at {} (fstype: {kind}), error {e}", device.display(), at.display())
    })
}
