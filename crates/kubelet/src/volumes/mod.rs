//! Volumes: made before the first container, kept up to date while the pod runs, gone with it.
//!
//! Layout below a pod's directory is upstream's: `volumes/kubernetes.io~KIND/NAME`. Secrets and tokens never touch a disk:
//! they lie in one tmpfs of the kubelet (`ROOT/memory/UID/NAME`). What is on disk is the truth: mounting again is idempotent,
//! so a restarted kubelet needs no record.

pub mod anchors;
pub mod atomic;
pub mod payload;
pub mod subpath;
pub mod tokens;
pub mod watches;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use k8s_openapi::api::core::v1::{Container, EmptyDirVolumeSource, HostPathVolumeSource, Pod, Volume};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::api::SharedApi;
use crate::cri::{Mount, Propagation};
use crate::env::expand;
use crate::resources;
use crate::util;
use atomic::Ownership;
use payload::Source;

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

/// Mounts the tmpfs that secrets lie in, unless a former process did.
pub fn prepare_memory(root: &Path) -> io::Result<()> {
    let dir = root.join("memory");
    fs::create_dir_all(&dir)?;
    if !is_mountpoint(&dir) {
        mount(Some("tmpfs"), &dir, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0755"))?;
    }
    Ok(())
}

fn is_mountpoint(dir: &Path) -> bool {
    let (Ok(here), Some(Ok(above))) = (fs::metadata(dir), dir.parent().map(fs::metadata)) else { return false };
    here.dev() != above.dev()
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

/// Refreshes the volumes that are made from objects; the others do not change.
pub async fn refresh(source: &Source<'_>, layout: &Layout) -> Result<(), VolumeError> {
    let Some(spec) = &source.facts.pod.spec else { return Ok(()) };
    for volume in spec.volumes.iter().flatten() {
        if volume.config_map.is_some() || volume.secret.is_some() || volume.downward_api.is_some() || volume.projected.is_some() {
            one(source, layout, volume).await.map_err(|message| VolumeError { volume: volume.name.clone(), message })?;
        }
    }
    Ok(())
}

async fn one(source: &Source<'_>, layout: &Layout, volume: &Volume) -> Result<Ready, String> {
    let group = fs_group(source.facts.pod);
    if let Some(made) = source.payload(volume).await {
        let files = made?;
        let dir = payload_dir(layout, volume);
        return shown(&dir, &files, group).map(|()| Ready { path: dir, readonly: true, image: None }).map_err(|e| e.to_string());
    }
    if let Some(v) = &volume.empty_dir {
        let dir = layout.of("empty-dir", &volume.name);
        empty_dir(&dir, v, group).map_err(|e| e.to_string())?;
        return Ok(Ready { path: dir, readonly: false, image: None });
    }
    if let Some(v) = &volume.host_path {
        host_path(v)?;
        return Ok(Ready { path: PathBuf::from(&v.path), readonly: false, image: None });
    }
    if let Some(v) = &volume.image {
        let reference = v.reference.clone().unwrap_or_default();
        return Ok(Ready { path: PathBuf::new(), readonly: true, image: Some(reference) });
    }
    let claim = match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(v), _) => Some((v.claim_name.clone(), v.read_only.unwrap_or(false))),
        (None, Some(_)) => Some((format!("{}-{}", util::name(source.facts.pod), volume.name), false)),
        (None, None) => None,
    };
    match claim {
        Some((claim, readonly)) => persistent(source.api, util::namespace(source.facts.pod), &claim, readonly, group).await,
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
    let existed = dir.is_dir();
    fs::create_dir_all(dir)?;
    let memory = v.medium.as_deref() == Some("Memory");
    if memory && !is_mountpoint(dir) {
        let size = v.size_limit.as_ref().map(resources::value).filter(|s| *s > 0);
        let options = size.map_or_else(|| "mode=0777".to_owned(), |s| format!("mode=0777,size={s}"));
        mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options.as_str()))?;
    } else if existed {
        return Ok(());
    }
    let mode = v.mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(0o777);
    if let Some(g) = group {
        chown(dir, None, Some(g))?;
        fs::set_permissions(dir, fs::Permissions::from_mode(mode | 0o2070))
    } else {
        fs::set_permissions(dir, fs::Permissions::from_mode(mode))
    }
}

fn host_path(v: &HostPathVolumeSource) -> Result<(), String> {
    let path = Path::new(&v.path);
    let kind = v.type_.as_deref().unwrap_or_default();
    let found = fs::metadata(path).ok();
    let is = |what: &str, ok: bool| if ok { Ok(()) } else { Err(format!("hostPath type check failed: {} is not {what}", v.path)) };
    match kind {
        "" => {
            // The original leaves the making to the runtime, which makes a directory.
            if found.is_none() {
                fs::create_dir_all(path).map_err(|e| e.to_string())?;
            }
            Ok(())
        }
        "DirectoryOrCreate" => match found {
            None => fs::create_dir_all(path).and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755))).map_err(|e| e.to_string()),
            Some(m) => is("a directory", m.is_dir()),
        },
        "Directory" => is("a directory", found.is_some_and(|m| m.is_dir())),
        "FileOrCreate" => match found {
            None => fs::File::create(path).map(|_| ()).map_err(|e| e.to_string()),
            Some(m) => is("a file", m.is_file()),
        },
        "File" => is("a file", found.is_some_and(|m| m.is_file())),
        "Socket" => is("a socket file", found.is_some_and(|m| m.file_type().is_socket())),
        "CharDevice" => is("a character device", found.is_some_and(|m| m.file_type().is_char_device())),
        "BlockDevice" => is("a block device", found.is_some_and(|m| m.file_type().is_block_device())),
        other => Err(format!("hostPath type {other} is not known")),
    }
}

async fn persistent(api: &SharedApi, namespace: &str, claim: &str, readonly: bool, group: Option<u32>) -> Result<Ready, String> {
    let pvc = api.get_claim(namespace, claim).await.map_err(|e| e.to_string())?;
    let bound = pvc.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    let name = pvc.spec.as_ref().and_then(|s| s.volume_name.clone()).filter(|n| bound && !n.is_empty());
    let name = name.ok_or("PersistentVolumeClaim is not bound")?;
    let volume = api.get_volume(&name).await.map_err(|e| e.to_string())?;
    let spec = volume.spec.ok_or("PersistentVolume has no spec")?;
    let path = match (&spec.host_path, &spec.local) {
        (Some(h), _) => {
            host_path(h)?;
            PathBuf::from(&h.path)
        }
        (None, Some(l)) => {
            let path = PathBuf::from(&l.path);
            let meta = fs::metadata(&path).map_err(|e| format!("path {:?} does not exist: {e}", l.path))?;
            // A local volume is given to the group, as upstream's local plugin does.
            if let (Some(g), true) = (group, meta.is_dir() && meta.gid() != group.unwrap_or(0)) {
                chown(&path, None, Some(g)).map_err(|e| e.to_string())?;
                fs::set_permissions(&path, fs::Permissions::from_mode(meta.permissions().mode() | 0o2070)).map_err(|e| e.to_string())?;
            }
            path
        }
        (None, None) => return Err(format!("no volume plugin matched for PersistentVolume {name:?}")),
    };
    let only_read = spec.access_modes.iter().flatten().all(|m| m == "ReadOnlyMany") && spec.access_modes.as_ref().is_some_and(|m| !m.is_empty());
    Ok(Ready { path, readonly: readonly || only_read, image: None })
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

/// Unmounts and removes all that a pod had on the host. Never follows a mount into foreign data: a mount that cannot be
/// taken away stops the removal.
pub fn tear_down(layout: &Layout) -> io::Result<()> {
    for dir in [&layout.pod_dir, &layout.memory_dir] {
        for at in mounts_below(dir)? {
            umount2(&at, MntFlags::MNT_DETACH)?;
        }
        match fs::remove_dir_all(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

/// Unmounts and removes all that a kubelet with this directory left on the host. No kubelet may be running on it.
pub fn purge(root: &Path) -> io::Result<()> {
    for at in mounts_below(root)? {
        umount2(&at, MntFlags::MNT_DETACH)?;
    }
    match fs::remove_dir_all(root) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Mount points below a directory, deepest and latest first.
pub fn mounts_below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let mut out: Vec<PathBuf> = text.lines().filter_map(|l| l.split(' ').nth(4)).map(unescape).filter(|p| p.starts_with(dir)).collect();
    out.reverse();
    Ok(out)
}

/// The octal escapes of mountinfo (proc(5)).
fn unescape(field: &str) -> PathBuf {
    let mut out = String::new();
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        match rest.get(at + 1..at + 4).and_then(|o| u8::from_str_radix(o, 8).ok()) {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    PathBuf::from(out)
}
