//! What is mounted where, as the kernel tells it.

use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};

use ::runtime::mounts::{self, Mounted};

use crate::volumes::removal;

/// Whether something is mounted at this very place. The kernel is asked and not the place: a file system that hangs answers nobody.
pub(super) fn is_mounted(at: &Path) -> io::Result<bool> {
    let real = real(at);
    Ok(mounts::all()?.iter().any(|m| m.at == real))
}

/// Where else what is mounted at a place is mounted, below a directory.
pub(super) fn others(at: &Path, below: &Path) -> io::Result<Vec<PathBuf>> {
    let (real, below) = (real(at), real(below));
    let all = mounts::all()?;
    let Some(own) = all.iter().rev().find(|m| m.at == real) else { return Ok(Vec::new()) };
    Ok(all.iter().filter(|m| m.device == own.device && m.root == own.root && m.at != real && m.at.starts_with(&below)).map(|m| m.at.clone()).collect())
}

/// Whether the file system that is mounted at a place is mounted nowhere else: force ends what all of its users have under way.
pub(super) fn is_alone(at: &Path) -> io::Result<bool> {
    let (real, all) = (real(at), mounts::all()?);
    let Some(own) = all.iter().rev().find(|m| m.at == real) else { return Ok(true) };
    Ok(all.iter().filter(|m| m.device == own.device).count() == 1)
}

/// The path as the kernel names it. Only the directories above a mount are looked at: they are the kubelet's.
fn real(at: &Path) -> PathBuf {
    let (Some(parent), Some(name)) = (at.parent(), at.file_name()) else { return at.to_owned() };
    parent.canonicalize().map_or_else(|_| at.to_owned(), |parent| parent.join(name))
}

/// The mount in which a path lies: the deepest, of these the latest.
fn over<'m>(all: &'m [Mounted], at: &Path) -> Option<&'m Mounted> {
    all.iter().enumerate().filter(|(_, m)| at.starts_with(&m.at)).max_by_key(|(i, m)| (m.at.components().count(), *i)).map(|(_, m)| m)
}

/// Whether what is mounted below a directory is seen elsewhere: whether the mount in which it lies is shared.
pub(super) fn is_shared(dir: &Path) -> io::Result<bool> {
    Ok(over(&mounts::all()?, dir).is_some_and(|m| m.shared))
}

/// What is mounted below a directory, itself not counted.
pub(super) fn below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(removal::mounts_below(dir)?.into_iter().filter(|at| at != dir).collect())
}

/// Takes away all that is mounted below a directory.
pub(super) fn unmount_below(dir: &Path) -> io::Result<()> {
    let real = real(dir);
    for at in removal::mounts_below(&real)? {
        umount2(&at, MntFlags::MNT_DETACH)?;
    }
    Ok(())
}

/// Where a directory, or what is mounted there, is mounted below another.
pub(super) fn of_tree(source: &Path, below: &Path) -> io::Result<Vec<PathBuf>> {
    let (source, below) = (source.canonicalize()?, real(below));
    let all = mounts::all()?;
    let Some(over) = over(&all, &source) else { return Ok(Vec::new()) };
    // The directory's path within its file system.
    let Ok(within) = source.strip_prefix(&over.at) else { return Ok(Vec::new()) };
    let root = if within.as_os_str().is_empty() { over.root.clone() } else { over.root.join(within) };
    Ok(all.iter().filter(|m| m.device == over.device && m.root == root && m.at.starts_with(&below)).map(|m| m.at.clone()).collect())
}
