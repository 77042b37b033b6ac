//! Directories and small files for root alone.

use anyhow::Context as _;
use std::{
    fs::{self, DirBuilder, Permissions},
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
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

/// Writes a small file for root alone, so that whoever reads it finds the old or the new one, after a crash of the machine too: the new one
/// from when this returns. One that is so already is left: a start on a full disk writes nothing.
pub(super) fn write(path: &Path, text: &[u8]) -> anyhow::Result<()> {
    let is_private = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file() && meta.mode() & 0o7777 == 0o600);
    if is_private && fs::read(path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let written = || {
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
    };
    written().with_context(|| format!("cannot write {}", path.display()))
}
