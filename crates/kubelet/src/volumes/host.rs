//! Volumes that are paths of the host (`hostPath`).
//!
//! Everything here may hang with the file system below: it is called through [`super::looks`].

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use k8s_openapi::api::core::v1::HostPathVolumeSource;

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
