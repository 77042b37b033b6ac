//! Files with secrets: whole or absent, readable by their owner alone.

use crate::Error;
use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

/// Makes a directory with mode 0700 and its parents.
pub(crate) fn make_directory(path: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Error::file(path))
}

/// The text of a file; what `make` says if there is none.
pub(crate) fn read_or_make(path: &Path, make: impl FnOnce() -> Result<String, Error>) -> Result<String, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == ErrorKind::NotFound => make(),
        Err(error) => Err(Error::file(path)(error)),
    }
}

/// Whether a file must be there after a power failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// It must.
    Synced,
    /// It can be made again.
    Lazy,
}

/// Writes a file with mode 0600 so that a crash of the process leaves the old one or the new one; of the machine as well
/// if it is synced. One that is so already is left: a start on a full disk writes nothing.
pub(crate) fn write_secret(path: &Path, bytes: &[u8], durability: Durability) -> Result<(), Error> {
    // Another's is replaced: he could change it later.
    let is_own = |meta: &fs::Metadata| fs::metadata("/proc/self").is_ok_and(|own| own.uid() == meta.uid());
    let is_private = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file() && meta.mode() & 0o7777 == 0o600 && is_own(&meta));
    if is_private && fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    if let Some(directory) = path.parent() {
        make_directory(directory)?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = Path::new(&name);
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(new)?;
        file.write_all(bytes)?;
        if durability == Durability::Synced {
            file.sync_all()?;
        }
        fs::rename(new, path)?;
        // Not every file system keeps the order of two names: a certificate would be there, and its key not.
        match path.parent().filter(|_| durability == Durability::Synced) {
            Some(directory) => fs::File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(Error::file(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_written_unless_it_is_so_already() {
        let folder = std::env::temp_dir().join(format!("knarr-secret-{}", std::process::id()));
        let path = folder.join("key");
        let written = |text: &str| {
            write_secret(&path, text.as_bytes(), Durability::Lazy).unwrap();
            let meta = fs::symlink_metadata(&path).unwrap();
            assert_eq!((fs::read_to_string(&path).unwrap().as_str(), meta.mode() & 0o7777, meta.is_file()), (text, 0o600, true));
            meta.ino()
        };
        let first = written("a");
        assert_eq!(written("a"), first, "nothing is written");
        assert_ne!(written("b"), first);
        let open = written("b");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_ne!(written("b"), open, "what others may read is none");
        fs::rename(&path, folder.join("other")).unwrap();
        std::os::unix::fs::symlink("other", &path).unwrap();
        written("b");
        fs::remove_dir_all(folder).unwrap();
    }
}
