//! Whose a directory is.
//!
//! `mark.json` is the first thing in a data directory and the last to be removed: it names the cluster and says whether the
//! directory was there before. One that was made and is not marked yet is known by its mode. Removal takes what knarr makes there by name, follows no link and crosses no mount
//! (`runtime::tree`); what else lies there is told and stays, and so does a directory that was there.

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, Permissions},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Component, Path, PathBuf},
};

use super::{
    LOG, agent,
    files::{self, private},
    nodes, plan,
};

/// Names the cluster whose directory it is in.
const MARK: &str = "mark.json";
/// What knarr makes in a data directory; the mark goes last.
const ENTRIES: [&str; 18] = [
    "pki",
    "store",
    nodes::DIRECTORY,
    "runtime",
    "kubelet",
    "volumes",
    "kubeconfig",
    LOG,
    nodes::FILE,
    "nodes.json.new",
    plan::FILE,
    "cluster.json.new",
    agent::FILE,
    "agent.json.new",
    agent::MACHINE,
    "machine.new",
    "mark.json.new",
    MARK,
];
/// What its owner may put there before the first start, and keeps.
const USERS: [&str; 1] = ["registries.yaml"];

/// The mode of a directory that knarr has made and not marked yet: nobody else sets the sticky bit where only one may write. (A group's bit
/// may come from the directory above.)
const HALF_MADE: u32 = 0o1700;

/// What the mark says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// The cluster's name.
    pub cluster: String,
    /// The mode of the directory if it was there before the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<u32>,
    /// It is being removed: what is in it is not whole.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub going: bool,
}

/// A path without links and dots, as the kernel tells mounts; what is not there yet is taken as it is written.
pub fn real(path: &Path) -> anyhow::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let mut missing = Vec::new();
    let mut there = path.as_path();
    loop {
        match fs::canonicalize(there) {
            Ok(found) => return Ok(missing.into_iter().rev().fold(found, |at: PathBuf, name| at.join(name))),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot look for {}", path.display())),
        }
        // A link that leads nowhere would be followed by whoever makes the directory.
        if there.is_symlink() {
            bail!("{} is a link that leads nowhere", there.display());
        }
        let Some(Component::Normal(name)) = there.components().next_back() else { bail!("{} is no path to a directory", path.display()) };
        missing.push(name.to_owned());
        there = there.parent().context("the root is there")?;
    }
}

/// What is in a directory: nothing if it is not there.
fn names(path: &Path) -> anyhow::Result<Option<Vec<String>>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot look into {}", path.display())),
    };
    let mut names = entries.map(|e| Ok(e?.file_name().to_string_lossy().into_owned())).collect::<std::io::Result<Vec<_>>>()?;
    names.sort();
    Ok(Some(names))
}

/// Whether a directory is this cluster's. False: there is none, or nothing in it and not half-made by knarr. `default`: it is the place that is knarr's
/// own, where a version before the mark may have left data.
pub fn owned(path: &Path, cluster: &str, default: bool) -> anyhow::Result<bool> {
    let Some(names) = names(path)? else { return Ok(false) };
    if names.iter().all(|n| USERS.contains(&n.as_str()) || n.ends_with(".json.new")) {
        return Ok(fs::symlink_metadata(path).is_ok_and(|found| found.mode() & 0o5777 == HALF_MADE && found.uid() == nix::unistd::geteuid().as_raw()));
    }
    let whose = match fs::read(path.join(MARK)) {
        Ok(text) => serde_json::from_slice::<Made>(&text).ok().map(|m| m.cluster),
        Err(_) => plan::read(&path.join(plan::FILE)).map(|p| p.name),
    };
    match whose {
        Some(name) if name == cluster => Ok(true),
        Some(name) => bail!("{} holds the data of the cluster {name:?}, not of {cluster:?}: choose another --data-dir or --name", path.display()),
        None if names.iter().all(|n| ENTRIES.contains(&n.as_str()) || USERS.contains(&n.as_str())) => {
            if default {
                return Ok(true);
            }
            // As a part alone left it before there were marks; a name is no mark, so its owner says that it is his.
            let mark = serde_json::to_string(&Made { cluster: cluster.to_owned(), was: None, going: false })?;
            bail!(
                "{} has no mark of the cluster whose data it is; if it is {cluster:?}'s, of a version before marks, take it by: echo '{mark}' > '{}'",
                path.display(),
                path.join(MARK).display().to_string().replace('\'', r"'\''")
            )
        }
        None => bail!(
            "{} is not empty and not the data of a cluster ({} is in it): nothing was changed; choose another --data-dir, such as {}",
            path.display(),
            names.first().map_or("something", String::as_str),
            path.join(cluster).display()
        ),
    }
}

/// Makes a directory the cluster's: makes it, or takes an empty one.
pub fn claim(path: &Path, cluster: &str, default: bool) -> anyhow::Result<()> {
    let mark = path.join(MARK);
    let ours = owned(path, cluster, default)?;
    let before = match fs::symlink_metadata(path) {
        Ok(found) => Some(found),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("cannot look for {}", path.display())),
    };
    let mode = before.as_ref().map(|b| b.mode() & 0o7777);
    if let (false, Some(found), Some(mode)) = (ours, &before, mode)
        && (found.uid() != nix::unistd::geteuid().as_raw() || mode & 0o022 != 0)
    {
        bail!("{} is not root's alone (owner {}, mode {mode:04o}): choose another --data-dir", path.display(), found.uid());
    }
    // The mark first: it keeps the mode that is changed next.
    if before.is_none() {
        half_make(path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    if !mark.exists() {
        let was = mode.filter(|_| !ours && !default);
        files::write(&mark, &serde_json::to_vec(&Made { cluster: cluster.to_owned(), was, going: false })?)?;
    }
    private(path).with_context(|| format!("cannot make {} private", path.display()))
}

/// Makes a directory that a start after a crash knows for knarr's own, before there is a mark in it.
pub(super) fn half_make(path: &Path) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), |parent| fs::DirBuilder::new().recursive(true).mode(0o700).create(parent))?;
    fs::DirBuilder::new().mode(HALF_MADE).create(path)
}

fn made(path: &Path) -> Option<Made> {
    serde_json::from_slice(&fs::read(path.join(MARK)).ok()?).ok()
}

/// Refuses a directory that somebody has begun to remove.
pub fn is_whole(path: &Path, cluster: &str) -> anyhow::Result<()> {
    if made(path).is_some_and(|made| made.going) {
        bail!("the data in {} is not whole: a `knarr down` was cut off while it removed it; run `knarr down --name {cluster}` again", path.display());
    }
    Ok(())
}

/// Says that what is in a directory is not whole from here on, before the first of it is removed: whoever starts before another has come to
/// the end of it is to know. On a full disk he finds out by himself.
pub fn begin_removal(path: &Path) {
    let Some(made) = made(path) else { return };
    let text = serde_json::to_vec(&Made { going: true, ..made }).map_err(anyhow::Error::from);
    let told = text.and_then(|text| files::write(&path.join(MARK), &text));
    told.unwrap_or_else(|error| tracing::debug!("{error:#}"));
}

/// Removes what knarr made in a directory that is the cluster's, and the directory if knarr made that too. The names of what
/// is left.
pub fn remove_known(path: &Path) -> anyhow::Result<Vec<String>> {
    let was = made(path).and_then(|made| made.was);
    begin_removal(path);
    for entry in ENTRIES.into_iter().filter(|entry| *entry != MARK) {
        let entry = path.join(entry);
        runtime::tree::remove(&entry).with_context(|| format!("cannot remove {}", entry.display()))?;
    }
    unmark(path, was)?;
    let left = names(path)?.unwrap_or_default();
    if was.is_none() {
        let stays = match left.is_empty().then(|| fs::remove_dir(path)) {
            // Where a file system is mounted the directory is the machine's.
            Some(Err(error)) if error.kind() == ErrorKind::ResourceBusy => true,
            Some(Err(error)) if error.kind() != ErrorKind::NotFound => return Err(error).with_context(|| format!("cannot remove {}", path.display())),
            Some(_) => false,
            None => true,
        };
        if stays {
            private(path)?;
        }
    }
    Ok(left)
}

/// Takes the mark away, last of all. Before that the directory becomes what tells without it whose it is: as it was, or half-made, so that a
/// `down` that is killed in between has left nothing, or the next one goes on.
pub(super) fn unmark(path: &Path, was: Option<u32>) -> anyhow::Result<()> {
    match fs::set_permissions(path, Permissions::from_mode(was.unwrap_or(HALF_MADE))) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).with_context(|| format!("cannot change the mode of {}", path.display())),
        _ => {}
    }
    let mark = path.join(MARK);
    runtime::tree::remove(&mark).with_context(|| format!("cannot remove {}", mark.display()))
}
