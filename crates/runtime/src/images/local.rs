//! An image made of files of this host, without a tar: the demo's, whose only file is knarr itself.
//!
//! Such an image is known by the files' identity (device, inode, size, times) and not by their content, so that finding it
//! unchanged costs nothing at start.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use super::{Images, manifest, reference::Reference, short};
use crate::error::{Context, Error, Result};
use crate::types::{Image, ImageConfig, LocalFile, Origin};

/// `FICLONE` of linux/fs.h: a copy that shares its blocks.
const FICLONE: u64 = 0x4004_9409;

pub(super) fn add(images: &Images, name: &str, files: &[LocalFile], config: ImageConfig) -> Result<Image> {
    let reference = Reference::parse(name)?;
    let mut identity = String::new();
    for file in files {
        let meta = fs::metadata(&file.host).at("cannot look at", &file.host)?;
        identity += &format!("{} {} {} {}.{} {:o} {:?}\n", meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec(), file.mode, file.path);
    }
    let layer = short(&format!("local\n{identity}"));
    let text = serde_json::to_string(&config).map_err(|e| Error::Invalid(e.to_string()))?;
    let id = manifest::digest_of(format!("{layer}\n{text}").as_bytes());
    let tags: Vec<String> = reference.tagged().into_iter().collect();
    if let Some(found) = images.find(&id)
        && tags.iter().all(|t| found.repo_tags.contains(t))
    {
        return Ok(found);
    }
    let chain = vec![layer];
    let _pins = images.pin(&chain)?;
    images.make_layer(&chain[0], |work| {
        let root = images.layers.dir.join(work).join("fs");
        let mut size = 0;
        for dir in [root.clone(), root.join("tmp"), root.join("etc")] {
            fs::create_dir_all(&dir).at("cannot make", &dir)?;
        }
        for (dir, mode) in [("", 0o755), ("etc", 0o755), ("tmp", 0o1777)] {
            fs::set_permissions(root.join(dir), fs::Permissions::from_mode(mode)).at("cannot set the mode of", &root)?;
        }
        for file in files {
            let target = root.join(inside(&file.path)?);
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).at("cannot make", parent)?;
                // Whatever the umask is. Those that were there already have this mode, too, but for `tmp`.
                for dir in parent.ancestors().take_while(|dir| *dir != root && !dir.ends_with("tmp")) {
                    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).at("cannot set the mode of", dir)?;
                }
            }
            size += place(file, &target).at("cannot copy", &file.host)?;
        }
        Ok(size)
    })?;
    images.record(id, config, chain, (tags, Vec::new()), &Origin::imported())
}

fn inside(path: &Path) -> Result<PathBuf> {
    if path.components().any(|c| c == Component::ParentDir) {
        return Err(Error::Invalid(format!("{path:?} leads out of the image")));
    }
    Ok(path.components().filter(|c| matches!(c, Component::Normal(_))).collect())
}

/// Shares the blocks, else the file itself, else copies.
fn place(file: &LocalFile, target: &Path) -> io::Result<u64> {
    let source = fs::File::open(&file.host)?;
    let meta = source.metadata()?;
    if !shared_blocks(&source, target)? {
        let same = meta.uid() == 0 && meta.gid() == 0 && meta.mode() & 0o7777 == file.mode;
        // A program's file is replaced, never rewritten in place: sharing the inode is safe.
        if same && fs::hard_link(fs::canonicalize(&file.host)?, target).is_ok() {
            return Ok(meta.size());
        }
        fs::copy(&file.host, target)?;
    }
    std::os::unix::fs::chown(target, Some(0), Some(0))?;
    fs::set_permissions(target, fs::Permissions::from_mode(file.mode))?;
    Ok(meta.size())
}

fn shared_blocks(source: &fs::File, target: &Path) -> io::Result<bool> {
    let copy = fs::File::create(target)?;
    // SAFETY: plain integers; both descriptors are open.
    #[allow(unsafe_code)]
    let done = unsafe { libc::ioctl(copy.as_raw_fd(), FICLONE as libc::Ioctl, source.as_raw_fd()) };
    if done != 0 {
        fs::remove_file(target)?;
    }
    Ok(done == 0)
}
