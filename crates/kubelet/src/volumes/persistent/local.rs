//! Volumes that are places of the node itself: `local` directories and devices, and `hostPath`.
//!
//! A directory is bound into the pod's own, as upstream's local plugin does, so that what is mounted on it later does not change under a
//! pod. The file system of a device is mounted once for all pods (`device`). What is mounted is the truth: nothing is remembered.
//!
//! A directory may lie on a server that is dead, and a device may never answer: only its own pods wait for it.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use k8s_openapi::api::core::v1::{HostPathVolumeSource, LocalVolumeSource, Pod};
use nix::mount::{MsFlags, mount};

use super::Persistent;
use super::call::Trouble;
use super::device::Locks;
use super::ownership::{self, Wanted};
use super::spec::Spec;
use super::{device, mounts, place};
use crate::api::Severity;
use crate::util;
use crate::volumes::{self, Ready, host};

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
        let missing = absent(&v.path);
        let failed = |e: String| match spec.block {
            true => Trouble::map("MapVolume.MapPodDevice", &spec.name, e),
            // Upstream asks what is there before it has anything to mount it with.
            false if e == missing => Trouble::mount("MountVolume.NewMounter initialization", &spec.name, e),
            false => Trouble::mount("MountVolume.SetUp", &spec.name, e),
        };
        let uid = util::uid(pod).to_owned();
        let (at, staged, pods) = (self.0.places.local(&uid, &spec.name), self.0.places.local_device(&spec.name), self.0.places.pods());
        let (work, all) = ((at.clone(), spec.clone(), v.clone()), self.clone());
        let works = Arc::<AtomicBool>::default();
        let tells = Arc::clone(&works);
        let looked = self.0.looks.work(&uid, &works, move || {
            let (at, spec, v) = work;
            show(&spec, &v, (&staged, &at), &pods, (&all.0.local, &tells))
        });
        match looked.await.map_err(failed)? {
            Shown::Device => return Ok(Ready { path: PathBuf::from(&v.path), readonly: spec.readonly, device: true, ..Ready::default() }),
            Shown::Bound { shared } => self.give_local(pod, spec, &at, shared).await.map_err(failed)?,
        }
        self.grow_local_at_mount(pod, spec, Path::new(&v.path)).await?;
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
}

/// What is told of a place where nothing is.
fn absent(path: &str) -> String {
    format!("path {path:?} does not exist")
}

/// Makes the volume what it is to be for this pod.
fn show(spec: &Spec, v: &LocalVolumeSource, (staged, at): (&Path, &Path), pods: &Path, (devices, works): (&Locks, &AtomicBool)) -> Result<Shown, String> {
    let path = Path::new(&v.path);
    if path.components().any(|c| c == Component::ParentDir) {
        return Err(format!("invalid path: {} must not contain '..'", v.path));
    }
    let meta = fs::metadata(path).map_err(|e| if e.kind() == std::io::ErrorKind::NotFound { absent(&v.path) } else { e.to_string() })?;
    let is_device = meta.file_type().is_block_device();
    if spec.block {
        return if is_device { Ok(Shown::Device) } else { Err(format!("path {:?} is not a block device", v.path)) };
    }
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let pod_dir = at.ancestors().nth(3).filter(|dir| dir.is_dir());
    // Nobody takes a device's file system away between its mount and the pod's.
    let lock = is_device.then(|| devices.of(&spec.name));
    let _alone = lock.as_ref().map(|lock| lock.lock());
    let source = if is_device {
        device::mount_at(spec, v, path, staged, works)?;
        staged
    } else if meta.is_dir() {
        path
    } else {
        return Err("only directory and block device are supported".into());
    };
    // Making a file system takes its time.
    if pod_dir.is_some_and(|dir| !dir.is_dir()) {
        return Err("the pod has gone meanwhile".into());
    }
    let known = mounts::is_mounted(at).map_err(|e| text(&e))?;
    let shared = mounts::of_tree(source, pods).map_err(|e| text(&e))?.iter().any(|m| m != at);
    if !known {
        place::make(at).map_err(|e| text(&e))?;
        mount(Some(source), at, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(|e| text(&e))?;
    }
    // Options of the mount itself; those of a file system are for who mounts it. A crash may have come before them.
    let (flags, _) = ::volume::mount_options(&spec.options, &[]);
    if !flags.is_empty() {
        ::runtime::mounts::remount(at, flags).map_err(|e| text(&e))?;
    }
    // The group gets its files once, when the volume has none of its pods yet.
    Ok(Shown::Bound { shared: shared || known })
}
