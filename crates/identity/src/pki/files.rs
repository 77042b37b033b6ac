//! Files with secrets: whole or absent, readable by their owner alone.

use crate::Error;
use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
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
/// if it is synced.
pub(crate) fn write_secret(path: &Path, bytes: &[u8], durability: Durability) -> Result<(), Error> {
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
        fs::rename(new, path)
    };
    write().map_err(Error::file(path))
}
