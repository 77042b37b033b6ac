//! Volumes that are paths of the host (`hostPath`).
//!
//! Everything here may hang with the file system below: it is called through [`super::looks`].

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use k8s_openapi::api::core::v1::HostPathVolumeSource;

use crate::util;

/// Checks a `hostPath`, and makes what its type asks for.
pub fn host_path(v: &HostPathVolumeSource) -> Result<(), String> {
    let path = Path::new(&v.path);
    let kind = v.type_.as_deref().unwrap_or_default();
    let found = fs::metadata(path);
    let is = |wanted: &str, what: &str| match told_kind(path, &found) {
        Ok(kind) if kind == wanted => Ok(()),
        Ok(kind) => Err(format!("hostPath type check failed: {} is not a {what}, it's a {kind}", v.path)),
        Err(why) => Err(format!("hostPath type check failed, {} is not a {what}, unable to determine its type: {why}", v.path)),
    };
    let absent = found.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
    match kind {
        "" => {
            // The original leaves the making to the runtime, which makes a directory.
            if found.is_err() {
                fs::create_dir_all(path).map_err(|e| e.to_string())?;
            }
            Ok(())
        }
        "DirectoryOrCreate" if absent => {
            fs::create_dir_all(path).and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755))).map_err(|e| e.to_string())
        }
        "DirectoryOrCreate" | "Directory" => is("Directory", "directory"),
        "FileOrCreate" if absent => {
            let made = fs::File::create(path).and_then(|f| f.set_permissions(fs::Permissions::from_mode(0o644)));
            made.map_err(|e| e.to_string())
        }
        "FileOrCreate" | "File" => is("File", "file"),
        "Socket" => is("Socket", "socket file"),
        "CharDevice" => is("CharDevice", "character device"),
        "BlockDevice" => is("BlockDevice", "block device"),
        other => Err(format!("{other} is an invalid volume type")),
    }
}

/// What is there, as types of `hostPath` are named (upstream's `getFileType`), or why that is not known.
fn told_kind(path: &Path, found: &io::Result<fs::Metadata>) -> Result<&'static str, String> {
    let kind = match found {
        Ok(metadata) => metadata.file_type(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(format!("path {:?} does not exist", path.display().to_string())),
        Err(e) => return Err(format!("stat {}: {}", path.display(), util::words(e))),
    };
    let kinds = [
        (kind.is_dir(), "Directory"),
        (kind.is_file(), "File"),
        (kind.is_socket(), "Socket"),
        (kind.is_char_device(), "CharDevice"),
        (kind.is_block_device(), "BlockDevice"),
    ];
    let known = kinds.into_iter().find(|(is, _)| *is).map(|(_, name)| name);
    known.ok_or_else(|| "only recognise file, directory, socket, block device and character device".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn what_is_of_another_type_is_told_with_its_own() {
        let dir = TempDir::new("host-types");
        let (file, absent, made) = (dir.path().join("f"), dir.path().join("absent"), dir.path().join("d/e"));
        fs::write(&file, "").unwrap();
        let ask = |path: &Path, kind: &str| host_path(&HostPathVolumeSource { path: path.display().to_string(), type_: Some(kind.into()) });
        let (f, d) = (file.display(), dir.path().display());
        let wrong = |path: &Path, kind: &str| ask(path, kind).unwrap_err();
        assert_eq!(wrong(&file, "Directory"), format!("hostPath type check failed: {f} is not a directory, it's a File"));
        assert_eq!(wrong(dir.path(), "Socket"), format!("hostPath type check failed: {d} is not a socket file, it's a Directory"));
        assert_eq!(
            wrong(&absent, "File"),
            format!("hostPath type check failed, {a} is not a file, unable to determine its type: path {a:?} does not exist", a = absent.display().to_string())
        );
        assert_eq!(
            wrong(&file.join("x"), "FileOrCreate"),
            format!("hostPath type check failed, {f}/x is not a file, unable to determine its type: stat {f}/x: not a directory")
        );
        assert_eq!((ask(&made, "DirectoryOrCreate"), ask(&made, "Directory"), ask(&file, "File")), (Ok(()), Ok(()), Ok(())));
    }
}
