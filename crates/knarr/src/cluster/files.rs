//! Directories and small files for root alone.

use anyhow::Context as _;
use std::{
    fs::{self, DirBuilder, Permissions},
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

/// Where the volatile directories are.
pub(super) const RUN_ROOT: &str = "/run/knarr";
/// For root alone.
const PRIVATE: u32 = 0o700;

/// Makes a directory and its parents, or takes one that is there, for root alone.
pub(super) fn private(path: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(PRIVATE).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(PRIVATE))
}

/// Writes a small file for root alone, so that whoever reads it finds the old or the new one.
pub(super) fn write(path: &Path, text: &[u8]) -> anyhow::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let written = || {
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(text)?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    written().with_context(|| format!("cannot write {}", path.display()))
}
