//! Volumes: made before the first container, kept up to date while the pod runs, gone with it.
//!
//! Layout below a pod's directory is upstream's: `volumes/kubernetes.io~KIND/NAME`. Secrets and tokens never touch a disk:
//! they lie in one tmpfs of the kubelet (`ROOT/memory/UID/NAME`). What is on disk is the truth: mounting again is idempotent,
//! so a restarted kubelet needs no record. All directories on the way are root's alone: what a pod may see of them is bound
//! into it. Nothing here touches a disk on a worker that others run on; what may hang goes through [`looks`].

pub mod anchors;
pub mod atomic;
pub mod certificates;
mod host;
pub mod looks;
pub mod payload;
mod removal;
pub mod subpath;
pub mod tokens;
pub mod watches;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use k8s_openapi::api::core::v1::{Container, EmptyDirVolumeSource, Pod, Volume};
use nix::mount::{MsFlags, mount};

use crate::cri::{Mount, Propagation};
use crate::env::expand;
use crate::resources;
use crate::util;
use atomic::Ownership;
use payload::Source;
pub use removal::{is_mountpoint, mounts_below, purge, tear_down};

/// A volume that is ready to be mounted into containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Where it is on the host; empty for an image.
    pub path: PathBuf,
    /// It may not be written to.
    pub readonly: bool,
    /// An image volume's image.
    pub image: Option<String>,
}

/// Why a volume is not ready.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume {volume:?} : {message}")]
pub struct VolumeError {
    /// The volume's name.
    pub volume: String,
    /// Why.
    pub message: String,
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

/// Makes every volume that a container of the pod uses, or refreshes its content.
pub async fn set_up(source: &Source<'_>, layout: &Layout) -> Result<BTreeMap<String, Ready>, VolumeError> {
    let mut out = BTreeMap::new();
    let Some(spec) = &source.facts.pod.spec else { return Ok(out) };
    for volume in spec.volumes.iter().flatten() {
        let ready = one(source, layout, volume).await.map_err(|message| VolumeError { volume: volume.name.clone(), message })?;
        out.insert(volume.name.clone(), ready);
    }
    Ok(out)
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
            errors.push(VolumeError { volume: volume.name.clone(), message });
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
        let shown = util::blocking(move || {
            if dir.starts_with(&memory) {
                util::private_dir(&memory)?;
            }
            shown(&dir, &files, group)
        });
        return shown.await.map(|()| Ready { path, readonly: true, image: None }).map_err(|e| e.to_string());
    }
    if let Some(v) = &volume.empty_dir {
        let (dir, v) = (layout.of("empty-dir", &volume.name), v.clone());
        let path = dir.clone();
        util::blocking(move || empty_dir(&dir, &v, group)).await.map_err(|e| e.to_string())?;
        return Ok(Ready { path, readonly: false, image: None });
    }
    if let Some(v) = &volume.host_path {
        let v = v.clone();
        let path = PathBuf::from(&v.path);
        source.looks.look(util::uid(pod), move || host::host_path(&v)).await?;
        return Ok(Ready { path, readonly: false, image: None });
    }
    if let Some(v) = &volume.image {
        let reference = v.reference.clone().unwrap_or_default();
        return Ok(Ready { path: PathBuf::new(), readonly: true, image: Some(reference) });
    }
    let claim = match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(v), _) => Some((v.claim_name.clone(), v.read_only.unwrap_or(false))),
        (None, Some(_)) => Some((client::own_claim(pod, &volume.name), false)),
        (None, None) => None,
    };
    match claim {
        Some((claim, readonly)) => host::persistent(source.api, source.looks, util::uid(pod), (util::namespace(pod), &claim), readonly, group).await,
        None => Err("no volume plugin matched".into()),
    }
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

fn shown(dir: &Path, files: &atomic::Payload, group: Option<u32>) -> io::Result<()> {
    if !dir.is_dir() {
        fs::create_dir_all(dir)?;
        if let Some(g) = group {
            chown(dir, None, Some(g))?;
        }
        fs::set_permissions(dir, fs::Permissions::from_mode(if group.is_some() { 0o3777 } else { 0o1777 }))?;
    }
    atomic::write(dir, files, Ownership { group }, SystemTime::now()).map(|_| ())
}

fn fs_group(pod: &Pod) -> Option<u32> {
    pod.spec.as_ref()?.security_context.as_ref()?.fs_group.and_then(|g| u32::try_from(g).ok())
}

fn empty_dir(dir: &Path, v: &EmptyDirVolumeSource, group: Option<u32>) -> io::Result<()> {
    let mode = v.mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(0o777) | if group.is_some() { 0o2070 } else { 0 };
    if v.medium.as_deref() == Some("Memory") {
        fs::create_dir_all(dir)?;
        if removal::is_mountpoint(dir) {
            return Ok(());
        }
        // It is what it is to be from the first moment: what the pod makes of it later is the pod's, also after a restart.
        let mut options = format!("mode={mode:o}");
        if let Some(g) = group {
            options += &format!(",gid={g}");
        }
        if let Some(size) = v.size_limit.as_ref().map(resources::value).filter(|s| *s > 0) {
            options += &format!(",size={size}");
        }
        return Ok(mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options.as_str()))?);
    }
    if dir.is_dir() {
        return Ok(());
    }
    // It gets its name when it is what it is to be: a kubelet that is killed in between begins anew.
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name().and_then(|n| n.to_str())) else { return Ok(()) };
    let making = parent.join(format!(".{name}.making"));
    fs::create_dir_all(&making)?;
    if group.is_some() {
        chown(&making, None, group)?;
    }
    fs::set_permissions(&making, fs::Permissions::from_mode(mode))?;
    fs::rename(&making, dir)
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
            subpath::bind(&volume.path, &relative, &at)
                .map_err(|e| format!("failed to prepare subPath for volumeMount {:?} of container {:?}: {e}", m.name, c.name))?;
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
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn what_a_pod_makes_of_its_empty_dir_stays() {
        let dir = crate::testing::TempDir::new("empty-dir");
        for medium in ["", "Memory"] {
            let (at, v) = (dir.path().join(format!("v{medium}")), EmptyDirVolumeSource { medium: Some(medium.into()), ..EmptyDirVolumeSource::default() });
            let show = || fs::metadata(&at).map(|m| (m.mode() & 0o7777, m.gid())).unwrap();
            empty_dir(&at, &v, Some(4711)).unwrap();
            assert_eq!(show(), (0o2777, 4711), "{medium:?}");
            chown(&at, Some(99), Some(99)).unwrap();
            fs::set_permissions(&at, fs::Permissions::from_mode(0o700)).unwrap();
            // A kubelet that begins anew sets its pods up again.
            empty_dir(&at, &v, Some(4711)).unwrap();
            assert_eq!(show(), (0o700, 99), "{medium:?}");
        }
        purge(dir.path()).unwrap();
    }
}
