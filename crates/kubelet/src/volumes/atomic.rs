//! Directories whose whole content changes at once.
//!
//! Layout and promise are upstream's (`pkg/volume/util/atomic_writer.go`), since programs in pods rely on them: the files lie
//! in a directory named by time, `..data` is a symbolic link to it, and every first path element is a symbolic link through
//! `..data`. A new content is written beside the old one and `..data` is replaced by a rename: a reader sees the old content
//! or the new, never a mixture, and a watch on the directory sees one event.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Longest path inside a volume, the kernel's `PATH_MAX`.
const MAX_PATH: usize = 4096;

/// One file to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its bytes.
    pub data: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner, if not root.
    pub user: Option<u32>,
}

/// Relative path to file.
pub type Payload = BTreeMap<String, File>;

/// Ownership of everything in a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ownership {
    /// The pod's `fsGroup`: group of every file, with read rights.
    pub group: Option<u32>,
}

/// Shows `payload` in `dir`, atomically. Answers whether anything changed. `now` names the new directory.
pub fn write(dir: &Path, payload: &Payload, ownership: Ownership, now: SystemTime) -> io::Result<bool> {
    for path in payload.keys() {
        check(path)?;
    }
    let link = dir.join("..data");
    let old = fs::read_link(&link).ok();
    if let Some(old) = &old
        && same(&dir.join(old), payload, ownership)
    {
        // A crash may have come between the swap and the links: they are made again here.
        link_names(dir, payload)?;
        return Ok(false);
    }
    // What a failed write or a crash has left takes the room that this one may lack.
    sweep_contents(dir, old.as_deref().and_then(Path::to_str))?;
    let mut stamp = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    // A clock that stands still gives the name of what is shown.
    while fs::symlink_metadata(dir.join(format!("..{stamp}"))).is_ok() {
        stamp += 1;
    }
    let fresh = format!("..{stamp}");
    let target = dir.join(&fresh);
    let shown = fill(&target, payload, ownership).and_then(|()| {
        let tmp = dir.join("..data_tmp");
        let _ = fs::remove_file(&tmp);
        symlink(&fresh, &tmp)?;
        fs::rename(&tmp, &link)
    });
    if let Err(error) = shown {
        let _ = runtime::tree::remove(&target);
        return Err(error);
    }
    link_names(dir, payload)?;
    sweep(dir, payload, &fresh)?;
    Ok(true)
}

fn fill(target: &Path, payload: &Payload, ownership: Ownership) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o755).create(target)?;
    fs::set_permissions(target, fs::Permissions::from_mode(0o755))?;
    own(target, None, ownership)?;
    payload.iter().try_for_each(|(path, file)| write_file(target, path, file, ownership))
}

/// A path of a payload must stay inside the volume and away from the names that the writer itself uses.
fn check(path: &str) -> io::Result<()> {
    let bad = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path {path:?}: {why}")));
    if path.is_empty() || path.len() > MAX_PATH {
        return bad("must have 1 to 4096 bytes");
    }
    if Path::new(path).components().any(|c| !matches!(c, Component::Normal(_))) {
        return bad("must be relative and must not contain '..'");
    }
    if path.starts_with("..") {
        return bad("must not start with '..'");
    }
    Ok(())
}

fn effective_mode(file: &File, ownership: Ownership) -> u32 {
    if ownership.group.is_some() { file.mode | 0o440 } else { file.mode }
}

fn same(dir: &Path, payload: &Payload, ownership: Ownership) -> bool {
    use std::os::unix::fs::MetadataExt;
    let mut found = BTreeSet::new();
    if files(dir, Path::new(""), &mut found).is_err() || found.len() != payload.len() {
        return false;
    }
    payload.iter().all(|(path, file)| {
        let at = dir.join(path);
        let Ok(meta) = fs::metadata(&at) else { return false };
        found.contains(Path::new(path))
            && meta.len() == file.data.len() as u64
            && meta.permissions().mode() & 0o7777 == effective_mode(file, ownership)
            && file.user.is_none_or(|u| meta.uid() == u)
            && ownership.group.is_none_or(|g| meta.gid() == g)
            && fs::read(&at).is_ok_and(|d| d == file.data)
    })
}

fn files(root: &Path, below: &Path, into: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            files(root, &path, into)?;
        } else {
            into.insert(path);
        }
    }
    Ok(())
}

fn write_file(root: &Path, path: &str, file: &File, ownership: Ownership) -> io::Result<()> {
    let mut parent = root.to_path_buf();
    for part in Path::new(path).parent().into_iter().flat_map(Path::components) {
        parent.push(part);
        if !parent.is_dir() {
            fs::create_dir(&parent)?;
            fs::set_permissions(&parent, fs::Permissions::from_mode(0o755))?;
            own(&parent, None, ownership)?;
        }
    }
    let at = root.join(path);
    let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&at)?;
    out.write_all(&file.data)?;
    own(&at, file.user, ownership)?;
    // After the change of owner, which clears bits; and set, not asked for at creation, since the umask would cut it.
    fs::set_permissions(&at, fs::Permissions::from_mode(effective_mode(file, ownership)))
}

fn own(path: &Path, user: Option<u32>, ownership: Ownership) -> io::Result<()> {
    if user.is_none() && ownership.group.is_none() {
        return Ok(());
    }
    chown(path, user, ownership.group)?;
    if ownership.group.is_some() && path.is_dir() {
        fs::set_permissions(path, fs::Permissions::from_mode(0o2755))?;
    }
    Ok(())
}

fn first(path: &str) -> &str {
    path.split('/').next().unwrap_or(path)
}

fn link_names(dir: &Path, payload: &Payload) -> io::Result<()> {
    for name in payload.keys().map(|p| first(p)).collect::<BTreeSet<_>>() {
        let at = dir.join(name);
        if fs::symlink_metadata(&at).is_err() {
            symlink(Path::new("..data").join(name), &at)?;
        }
    }
    Ok(())
}

/// Takes away the names that are no longer shown and the directories of former contents.
fn sweep(dir: &Path, payload: &Payload, keep: &str) -> io::Result<()> {
    let names: BTreeSet<&str> = payload.keys().map(|p| first(p)).collect();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|n| !n.starts_with("..")) else { continue };
        if !names.contains(name) && entry.file_type()?.is_symlink() {
            fs::remove_file(entry.path())?;
        }
    }
    sweep_contents(dir, Some(keep))
}

/// Takes away the directories of contents but this one.
fn sweep_contents(dir: &Path, keep: Option<&str>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|n| n.starts_with("..") && *n != "..data" && Some(*n) != keep) else { continue };
        if entry.file_type()?.is_dir() {
            runtime::tree::remove(&dir.join(name))?;
        } else {
            fs::remove_file(dir.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn payload(items: &[(&str, &str)]) -> Payload {
        items.iter().map(|(p, d)| ((*p).to_owned(), File { data: d.as_bytes().to_vec(), mode: 0o644, user: None })).collect()
    }

    #[test]
    fn content_is_swapped_through_the_data_link() {
        let dir = crate::testing::TempDir::new("atomic");
        let at = |s: u64| UNIX_EPOCH + Duration::from_secs(s);
        assert!(write(dir.path(), &payload(&[("a", "1"), ("d/b", "2")]), Ownership::default(), at(1)).unwrap());
        assert_eq!(fs::read_to_string(dir.path().join("d/b")).unwrap(), "2");
        assert_eq!(fs::read_link(dir.path().join("a")).unwrap(), Path::new("..data/a"));
        let before = fs::read_link(dir.path().join("..data")).unwrap();
        assert!(!write(dir.path(), &payload(&[("a", "1"), ("d/b", "2")]), Ownership::default(), at(2)).unwrap());
        assert_eq!(fs::read_link(dir.path().join("..data")).unwrap(), before);
        assert!(write(dir.path(), &payload(&[("a", "9")]), Ownership::default(), at(3)).unwrap());
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "9");
        assert!(fs::symlink_metadata(dir.path().join("d")).is_err());
        assert!(!dir.path().join(before).exists());
    }

    #[test]
    fn a_write_that_fails_leaves_nothing() {
        let dir = crate::testing::TempDir::new("atomic-fails");
        let at = |s: u64| UNIX_EPOCH + Duration::from_secs(s);
        let names = || fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect::<BTreeSet<_>>();
        write(dir.path(), &payload(&[("a", "1")]), Ownership::default(), at(1)).unwrap();
        let before = names();
        // A file and a directory of one name.
        let bad = payload(&[("a", "2"), ("a/b", "3")]);
        for n in 2..5 {
            write(dir.path(), &bad, Ownership::default(), at(n)).unwrap_err();
        }
        assert_eq!(names(), before);
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "1", "the old content is shown");
        // As kill -9 leaves it.
        fs::create_dir(dir.path().join("..77")).unwrap();
        write(dir.path(), &bad, Ownership::default(), at(9)).unwrap_err();
        assert_eq!(names(), before);
    }

    #[test]
    fn a_change_of_mode_alone_is_a_change() {
        let dir = crate::testing::TempDir::new("atomic-mode");
        let mut p = payload(&[("a", "1")]);
        write(dir.path(), &p, Ownership::default(), UNIX_EPOCH + Duration::from_secs(1)).unwrap();
        p.get_mut("a").unwrap().mode = 0o400;
        assert!(write(dir.path(), &p, Ownership::default(), UNIX_EPOCH + Duration::from_secs(2)).unwrap());
        assert_eq!(fs::metadata(dir.path().join("a")).unwrap().permissions().mode() & 0o777, 0o400);
    }

    #[test]
    fn paths_may_not_leave_the_volume() {
        let dir = crate::testing::TempDir::new("atomic-bad");
        for bad in ["../x", "/x", "a/../b", "..data", ""] {
            assert!(write(dir.path(), &payload(&[(bad, "1")]), Ownership::default(), UNIX_EPOCH).is_err(), "{bad}");
        }
    }
}
