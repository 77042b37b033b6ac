//! Volumes: made before the first container, kept up to date while the pod runs, gone with it.
//!
//! Layout below a pod's directory is upstream's: `volumes/kubernetes.io~KIND/NAME`. Secrets and tokens never touch a disk:
//! they lie in one tmpfs of the kubelet (`ROOT/memory/UID/NAME`). What is on disk is the truth: mounting again is idempotent,
//! so a restarted kubelet needs no record. All directories on the way are root's alone: what a pod may see of them is bound
//! into it. Nothing here touches a disk on a worker that others run on; what may hang goes through [`looks`].

pub mod anchors;
pub mod atomic;
pub mod certificates;
mod empty;
mod host;
mod keys;
pub mod looks;
pub mod payload;
pub mod persistent;
mod removal;
pub mod subpath;
pub mod tokens;
pub mod watches;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use k8s_openapi::api::core::v1::{Container, HostPathVolumeSource, Pod, Volume, VolumeDevice};
use nix::mount::{MsFlags, mount};

use crate::cri::{Device, Mount, Propagation};
use crate::env::expand;
use crate::util;
use atomic::Ownership;
use payload::Source;
pub use removal::{is_mountpoint, mounts_below, purge, tear_down};

/// A volume that is ready to be mounted into containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// Where it is on the host; empty for an image.
    pub path: PathBuf,
    /// It may not be written to.
    pub readonly: bool,
    /// An image volume's image.
    pub image: Option<String>,
    /// It is a device, for `volumeDevices`.
    pub device: bool,
    /// A group that its users are to be of besides.
    pub group: Option<i64>,
    /// Whose it is, as metrics name it.
    pub plugin: String,
}

/// Why a volume is not ready, as an Event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct VolumeError {
    /// The reason.
    pub reason: &'static str,
    /// The message.
    pub message: String,
}

impl VolumeError {
    fn set_up(volume: &str, why: &str) -> Self {
        Self { reason: "FailedMount", message: format!("MountVolume.SetUp failed for volume {volume:?} : {why}") }
    }
}

/// Where a pod's volumes lie.
#[derive(Clone, Debug)]
pub struct Layout {
    /// `ROOT/pods/UID`.
    pub pod_dir: PathBuf,
    /// `ROOT/memory/UID`, in memory.
    pub memory_dir: PathBuf,
}

impl Layout {
    /// The layout of a pod below the kubelet's directory.
    #[must_use]
    pub fn new(root: &Path, uid: &str) -> Self {
        Self { pod_dir: root.join("pods").join(uid), memory_dir: root.join("memory").join(uid) }
    }

    fn volumes(&self) -> PathBuf {
        self.pod_dir.join("volumes")
    }

    fn of(&self, plugin: &str, name: &str) -> PathBuf {
        self.volumes().join(format!("kubernetes.io~{plugin}")).join(name)
    }
}

/// The directory of an emptyDir below `volumes`.
#[must_use]
pub fn empty_dir_path(volumes: &Path, name: &str) -> PathBuf {
    volumes.join("kubernetes.io~empty-dir").join(name)
}

/// Where a volume lies that is made by the kubelet itself; none for those of others.
#[must_use]
pub fn own_path(layout: &Layout, volume: &Volume) -> Option<PathBuf> {
    if volume.empty_dir.is_some() {
        return Some(layout.of("empty-dir", &volume.name));
    }
    let payload = volume.config_map.is_some() || volume.secret.is_some() || volume.downward_api.is_some() || volume.projected.is_some();
    payload.then(|| payload_dir(layout, volume))
}

/// Whose a volume is, as metrics name it; none while only its claim could tell.
#[must_use]
pub fn plugin(volume: &Volume) -> Option<String> {
    if let Some(csi) = &volume.csi {
        return Some(persistent::plugin_of_driver(&csi.driver));
    }
    let kinds = [
        (volume.empty_dir.is_some(), "kubernetes.io/empty-dir"),
        (volume.config_map.is_some(), "kubernetes.io/configmap"),
        (volume.secret.is_some(), "kubernetes.io/secret"),
        (volume.downward_api.is_some(), "kubernetes.io/downward-api"),
        (volume.projected.is_some(), "kubernetes.io/projected"),
        (volume.host_path.is_some(), "kubernetes.io/host-path"),
        (volume.image.is_some(), "kubernetes.io/image"),
        (volume.nfs.is_some(), "kubernetes.io/nfs"),
        (volume.iscsi.is_some(), "kubernetes.io/iscsi"),
    ];
    kinds.into_iter().find(|(is, _)| *is).map(|(_, name)| name.to_owned())
}

/// Mounts the tmpfs that secrets lie in, unless a former process did.
pub fn prepare_memory(root: &Path) -> io::Result<()> {
    let dir = root.join("memory");
    util::private_dir(&dir)?;
    if !removal::is_mountpoint(&dir) {
        mount(Some("tmpfs"), &dir, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0700"))?;
    }
    // Where a former version mounted it the mode was another.
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))
}

/// Makes every volume of the pod, or refreshes its content. Those that others bring (drivers) are brought all at once: one that takes its time
/// holds up no other.
pub async fn set_up(source: &Source<'_>, layout: &Layout) -> Result<BTreeMap<String, Ready>, Vec<VolumeError>> {
    let mut out = BTreeMap::new();
    let mut errors = Vec::new();
    let Some(spec) = &source.facts.pod.spec else { return Ok(out) };
    let (brought, own): (Vec<&Volume>, Vec<&Volume>) = spec.volumes.iter().flatten().partition(|v| persistent::is_persistent(v));
    for volume in own {
        let begun = Instant::now();
        let made = one(source, layout, volume).await;
        let plugin = plugin(volume).unwrap_or_default();
        source.persistent.counts().storage(&plugin, "volume_mount", begun.elapsed(), made.is_ok());
        match made {
            Ok(ready) => drop(out.insert(volume.name.clone(), Ready { plugin, ..ready })),
            Err(message) => errors.push(VolumeError::set_up(&volume.name, &message)),
        }
    }
    let brought = brought.into_iter().filter(|v| persistent::is_used(source.facts.pod, &v.name));
    let brought: Vec<_> =
        futures_util::future::join_all(brought.map(|v| async { (v.name.clone(), source.persistent.set_up(source.pod, v, source.node).await) })).await;
    let mut missing = Missing::default();
    for (name, made) in brought {
        match made {
            Ok(ready) => drop(out.insert(name, ready)),
            Err(trouble) => missing.add(name, trouble, &mut errors),
        }
    }
    errors.extend(missing.told());
    if errors.is_empty() { Ok(out) } else { Err(errors) }
}

/// The volumes that were not brought: what is told of all of them together (upstream's `WaitForAttachAndMount`).
#[derive(Default)]
struct Missing {
    all: Vec<String>,
    unprocessed: Vec<String>,
    why: Vec<String>,
    /// The node can have no more of them.
    exhausted: bool,
}

impl Missing {
    fn add(&mut self, name: String, trouble: persistent::Trouble, errors: &mut Vec<VolumeError>) {
        self.all.push(name.clone());
        self.exhausted |= trouble.reason == persistent::EXHAUSTED;
        if trouble.reason.is_empty() || trouble.reason == persistent::EXHAUSTED {
            self.unprocessed.push(name);
            self.why.push(trouble.message);
        } else {
            errors.push(VolumeError { reason: trouble.reason, message: trouble.message });
        }
    }

    fn told(mut self) -> Option<VolumeError> {
        if self.why.is_empty() {
            return None;
        }
        self.all.sort();
        self.unprocessed.sort();
        let late = self.why.iter().all(|w| w == persistent::LATE);
        let (unattached, unprocessed) = if late { (self.unprocessed.join(" "), String::new()) } else { (String::new(), self.unprocessed.join(" ")) };
        let (reason, what) = match self.exhausted {
            true => (persistent::EXHAUSTED, "Node has reached its volume attachment limit, rejecting pod."),
            false => ("FailedMount", "Unable to attach or mount volumes:"),
        };
        let message = format!(
            "{what} unmounted volumes=[{}], unattached volumes=[{unattached}], failed to process volumes=[{unprocessed}]: {}",
            self.all.join(" "),
            if late { persistent::LATE.to_owned() } else { self.why.join("; ") }
        );
        Some(VolumeError { reason, message })
    }
}

/// Refreshes the volumes that are made from objects; the others do not change. Each for itself: one that cannot be had holds
/// back no other.
pub async fn refresh(source: &Source<'_>, layout: &Layout) -> Vec<VolumeError> {
    let Some(spec) = &source.facts.pod.spec else { return Vec::new() };
    let mut errors = Vec::new();
    for volume in spec.volumes.iter().flatten() {
        if (volume.config_map.is_some() || volume.secret.is_some() || volume.downward_api.is_some() || volume.projected.is_some())
            && let Err(message) = one(source, layout, volume).await
        {
            errors.push(VolumeError::set_up(&volume.name, &message));
        }
        if persistent::is_persistent(volume)
            && persistent::is_used(source.facts.pod, &volume.name)
            && let Err(trouble) = source.persistent.look(source.pod, volume).await
        {
            // What cannot be read now is looked at again in a minute.
            if trouble.reason.is_empty() {
                tracing::debug!(volume = volume.name, error = %trouble, "a volume was not looked at");
            } else {
                errors.push(VolumeError { reason: trouble.reason, message: trouble.message });
            }
        }
    }
    errors
}

async fn one(source: &Source<'_>, layout: &Layout, volume: &Volume) -> Result<Ready, String> {
    let pod = source.facts.pod;
    let group = fs_group(pod);
    if let Some(made) = source.payload(volume).await {
        let files = made?;
        let (dir, memory) = (payload_dir(layout, volume), layout.memory_dir.clone());
        let path = dir.clone();
        let mode = payload_mode(volume);
        let shown = util::blocking(move || {
            if dir.starts_with(&memory) {
                util::private_dir(&memory)?;
            }
            shown(&dir, mode, &files, group)
        });
        return shown.await.map(|()| Ready { path, readonly: true, ..Ready::default() }).map_err(|e| e.to_string());
    }
    if let Some(v) = &volume.empty_dir {
        let (dir, v) = (layout.of("empty-dir", &volume.name), v.clone());
        let path = dir.clone();
        let medium = empty::Medium::of(&v, pod, source.facts.node_memory_bytes)?;
        util::blocking(move || empty::make(&dir, &v, &medium, group)).await.map_err(|e| e.to_string())?;
        return Ok(Ready { path, ..Ready::default() });
    }
    if let Some(v) = &volume.host_path {
        let path = source.persistent.host(Path::new(&v.path));
        let v = HostPathVolumeSource { path: path.display().to_string(), ..v.clone() };
        source.looks.look(util::uid(pod), move || host::host_path(&v)).await?;
        return Ok(Ready { path, ..Ready::default() });
    }
    if let Some(v) = &volume.image {
        let reference = v.reference.clone().unwrap_or_default();
        return Ok(Ready { readonly: true, image: Some(reference), ..Ready::default() });
    }
    Err("no volume plugin matched".into())
}

fn payload_dir(layout: &Layout, volume: &Volume) -> PathBuf {
    if volume.config_map.is_some() {
        layout.of("configmap", &volume.name)
    } else if volume.downward_api.is_some() {
        layout.of("downward-api", &volume.name)
    } else {
        layout.memory_dir.join(&volume.name)
    }
}

/// The mode of its directory: that of others than the ConfigMap's is in memory with the original, which leaves a tmpfs sticky.
fn payload_mode(volume: &Volume) -> u32 {
    if volume.config_map.is_some() { 0o777 } else { 0o1777 }
}

fn shown(dir: &Path, mode: u32, files: &atomic::Payload, group: Option<u32>) -> io::Result<()> {
    if !dir.is_dir() {
        fs::create_dir_all(dir)?;
        if let Some(g) = group {
            chown(dir, None, Some(g))?;
        }
        fs::set_permissions(dir, fs::Permissions::from_mode(if group.is_some() { mode | 0o2000 } else { mode }))?;
    }
    atomic::write(dir, files, Ownership { group }, SystemTime::now()).map(|_| ())
}

fn fs_group(pod: &Pod) -> Option<u32> {
    pod.spec.as_ref()?.security_context.as_ref()?.fs_group.and_then(|g| u32::try_from(g).ok())
}

/// The mounts of one container from the pod's volumes, in the order of its spec. `env` serves `subPathExpr`.
pub fn container_mounts(layout: &Layout, ready: &BTreeMap<String, Ready>, c: &Container, env: &[(String, String)]) -> Result<Vec<Mount>, String> {
    let mut out = Vec::new();
    for (i, m) in c.volume_mounts.iter().flatten().enumerate() {
        let volume = ready.get(&m.name).ok_or_else(|| format!("cannot find volume {:?} to mount into container {:?}", m.name, c.name))?;
        let mut host = volume.path.clone();
        let sub = match (m.sub_path_expr.as_deref().filter(|s| !s.is_empty()), m.sub_path.as_deref()) {
            (Some(e), _) => expand::expand_strict(e, env)?,
            (None, s) => s.unwrap_or_default().to_owned(),
        };
        if volume.image.is_some() {
            // The runtime opens it below the image's root.
            host = subpath::check(&sub)?;
        } else if !sub.is_empty() {
            let relative = subpath::check(&sub)?;
            let at = layout.pod_dir.join("volume-subpaths").join(&m.name).join(&c.name).join(i.to_string());
            subpath::bind(&volume.path, &relative, &at).map_err(|error| {
                tracing::warn!(volume = m.name, container = c.name, sub_path = sub, %error, "a part of a volume cannot be mounted");
                subpath::refusal(&volume.path.join(&relative), &m.name, &c.name)
            })?;
            host = at;
        }
        let readonly = m.read_only.unwrap_or(false) || volume.readonly;
        out.push(Mount {
            host,
            container: PathBuf::from("/").join(&m.mount_path),
            readonly,
            recursive_readonly: readonly && matches!(m.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible")),
            propagation: match m.mount_propagation.as_deref() {
                Some("Bidirectional") => Propagation::Bidirectional,
                Some("HostToContainer") => Propagation::HostToContainer,
                _ => Propagation::Private,
            },
            image: volume.image.clone(),
            ..Mount::default()
        });
    }
    Ok(out)
}

/// The devices of one container from the pod's volumes (upstream's `makeBlockVolumes`).
pub fn container_devices(ready: &BTreeMap<String, Ready>, c: &Container) -> Result<Vec<Device>, String> {
    let one = |d: &VolumeDevice| {
        let volume = ready.get(&d.name).filter(|r| r.device);
        let volume = volume.ok_or_else(|| format!("cannot find volume {:?} to pass into container {:?}", d.name, c.name))?;
        if !d.device_path.starts_with('/') {
            return Err(format!("error DevicePath {:?} must be an absolute path", d.device_path));
        }
        let permissions = if volume.readonly { "r" } else { "rwm" };
        Ok(Device { host: volume.path.clone(), container: PathBuf::from(&d.device_path), permissions: permissions.into(), ..Device::default() })
    };
    c.volume_devices.iter().flatten().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use persistent::{EXHAUSTED, LATE, Trouble};

    #[test]
    fn a_node_that_has_no_room_for_a_volume_is_told_apart_from_one_that_waits() {
        let told = |reason: &'static str| {
            let (mut missing, mut errors) = (Missing::default(), Vec::new());
            missing.add("data".into(), Trouble { reason, message: LATE.into() }, &mut errors);
            missing.told().map(|error| (error.reason, error.message)).unwrap()
        };
        let rest = "unmounted volumes=[data], unattached volumes=[data], failed to process volumes=[]: context deadline exceeded";
        assert_eq!(told(EXHAUSTED), ("VolumeAttachmentLimitExceeded", format!("Node has reached its volume attachment limit, rejecting pod. {rest}")));
        assert_eq!(told(""), ("FailedMount", format!("Unable to attach or mount volumes: {rest}")));
    }
}
