//! Directories and files for their owner alone, whole or not there, and locks on them.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Context, Error, Result};

/// Makes a directory, with those above it, that nobody but its owner may enter, whatever the umask; one that is there becomes so.
/// What lies in it are Secrets in the clear, and programs of images that would be root's for whoever starts them.
pub(crate) fn private_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).at("cannot make", path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).at("cannot close", path)
}

/// Writes a file so that it is there as a whole or not at all, for its owner alone.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let bytes = serde_json::to_vec(value).map_err(|e| Error::Invalid(e.to_string()))?;
    let tmp = path.with_extension("tmp");
    // One that a crash left has the mode of then.
    let _ = fs::remove_file(&tmp);
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&tmp);
    file.and_then(|mut file| file.write_all(&bytes)).at("cannot write", &tmp)?;
    fs::rename(&tmp, path).at("cannot write", path)
}

/// Reads a file of [`write_json`].
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Whether nobody holds the lock of a file or directory.
pub(crate) fn is_free(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok())
}
