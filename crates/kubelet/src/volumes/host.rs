//! Volumes that are places of the host: `hostPath`, and persistent volumes of that kind or `local`.
//!
//! Everything here may hang with the file system below: it is called through [`super::looks`].

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{HostPathVolumeSource, LocalVolumeSource};

use super::Ready;
use super::looks::Looks;
use crate::api::SharedApi;

/// Checks a `hostPath`, and makes what its type asks for.
pub fn host_path(v: &HostPathVolumeSource) -> Result<(), String> {
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
            None => {
                let made = fs::File::create(path).and_then(|f| f.set_permissions(fs::Permissions::from_mode(0o644)));
                made.map_err(|e| e.to_string())
            }
            Some(m) => is("a file", m.is_file()),
        },
        "File" => is("a file", found.is_some_and(|m| m.is_file())),
        "Socket" => is("a socket file", found.is_some_and(|m| m.file_type().is_socket())),
        "CharDevice" => is("a character device", found.is_some_and(|m| m.file_type().is_char_device())),
        "BlockDevice" => is("a block device", found.is_some_and(|m| m.file_type().is_block_device())),
        other => Err(format!("hostPath type {other} is not known")),
    }
}

fn local(v: &LocalVolumeSource, group: Option<u32>) -> Result<(), String> {
    let path = Path::new(&v.path);
    let meta = fs::metadata(path).map_err(|e| format!("path {:?} does not exist: {e}", v.path))?;
    // A local volume is given to the group, as upstream's local plugin does.
    if let Some(g) = group.filter(|g| meta.is_dir() && meta.gid() != *g) {
        chown(path, None, Some(g)).map_err(|e| e.to_string())?;
        fs::set_permissions(path, fs::Permissions::from_mode(meta.permissions().mode() | 0o2070)).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// The place behind a claim.
pub async fn persistent(api: &SharedApi, looks: &Looks, uid: &str, at: (&str, &str), readonly: bool, group: Option<u32>) -> Result<Ready, String> {
    let (namespace, claim) = at;
    let pvc = api.get_claim(namespace, claim).await.map_err(|e| e.to_string())?;
    let bound = pvc.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    let name = pvc.spec.as_ref().and_then(|s| s.volume_name.clone()).filter(|n| bound && !n.is_empty());
    let name = name.ok_or("PersistentVolumeClaim is not bound")?;
    let volume = api.get_volume(&name).await.map_err(|e| e.to_string())?;
    let spec = volume.spec.ok_or("PersistentVolume has no spec")?;
    let path = match (spec.host_path, spec.local) {
        (Some(h), _) => {
            let path = PathBuf::from(&h.path);
            looks.look(uid, move || host_path(&h)).await.map(|()| path)?
        }
        (None, Some(l)) => {
            let path = PathBuf::from(&l.path);
            looks.look(uid, move || local(&l, group)).await.map(|()| path)?
        }
        (None, None) => return Err(format!("no volume plugin matched for PersistentVolume {name:?}")),
    };
    let only_read = spec.access_modes.iter().flatten().all(|m| m == "ReadOnlyMany") && spec.access_modes.as_ref().is_some_and(|m| !m.is_empty());
    Ok(Ready { path, readonly: readonly || only_read, image: None })
}
