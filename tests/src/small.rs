//! A disk that is soon full.

use crate::{PATIENCE, process, words};
use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

/// A file system of its own, so small that it can be filled.
pub struct Small(pub PathBuf);

impl Small {
    /// Mounts it.
    #[must_use]
    pub fn new(at: &Path, megabytes: u32) -> Self {
        fs::create_dir_all(at).expect("the test's folder");
        let line = format!("-t tmpfs -o size={megabytes}m knarr-test {}", at.display());
        process::run(Command::new("mount").args(words(&line)), &[], PATIENCE).assert_ok();
        Self(at.to_owned())
    }

    /// Writes until there is no room.
    #[must_use]
    pub fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = File::create(&path).expect("room for a name");
        for size in [1 << 20, 4096, 1] {
            let block = vec![7; size];
            while file.write_all(&block).is_ok() {}
        }
        path
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Also where somebody is still about to leave it.
        process::run(Command::new("umount").arg("--lazy").arg(&self.0), &[], PATIENCE);
        let _ = fs::remove_dir(&self.0);
    }
}
