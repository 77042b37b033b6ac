//! An image's files as a container will see them, looked at without mounting: the layers over one another, where a name that
//! an upper layer deleted (a device 0:0) is gone, one that it made opaque hides what lies below, and a link leads to wherever
//! it leads in the whole. Everything goes by handle and by one name at a time, as hostile trees want it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path};

use crate::{process, sys};

/// Links followed for one path, as the kernel limits them.
const LINKS_MAX: usize = 40;

/// A directory of the whole: its parts, highest first.
type Merged = Vec<OwnedFd>;

enum Found {
    Directory(Merged),
    Link(OsString),
    /// With the directory that holds it.
    File(OwnedFd),
    Nothing,
}

/// The text of a regular file of the image, at most so many bytes of it; nothing where there is none.
pub(crate) fn read(layers_dir: &Path, layers: &[String], path: &str, bytes_max: u64) -> io::Result<Option<String>> {
    let Found::File(fd) = walk(layers_dir, layers, Path::new(path))? else { return Ok(None) };
    let mut bytes = Vec::new();
    File::from(fd).take(bytes_max).read_to_end(&mut bytes)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Whether the image has such a directory or regular file.
pub(crate) fn has(layers_dir: &Path, layers: &[String], path: &Path) -> io::Result<bool> {
    walk(layers_dir, layers, path).map(|found| !matches!(found, Found::Nothing))
}

/// Where a path leads, which is no link.
fn walk(layers_dir: &Path, layers: &[String], path: &Path) -> io::Result<Found> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    let open = |layer: &String| process::openat(&libc::AT_FDCWD, &sys::c_path(&layers_dir.join(layer))?, flags, 0);
    let mut way: Vec<Merged> = vec![layers.iter().rev().map(open).collect::<io::Result<_>>()?];
    let mut todo = names(path);
    let mut links = 0;
    while let Some(name) = todo.pop() {
        if name == ".." {
            way.truncate((way.len() - 1).max(1));
            continue;
        }
        let Some(here) = way.last() else { return Ok(Found::Nothing) };
        match look_up(here, &name)? {
            Found::Directory(next) => way.push(next),
            Found::Link(target) => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(io::Error::from_raw_os_error(libc::ELOOP));
                }
                let target = Path::new(&target);
                if target.is_absolute() {
                    way.truncate(1);
                }
                todo.extend(names(target));
            }
            Found::File(fd) if todo.is_empty() => return Ok(Found::File(fd)),
            Found::File(_) | Found::Nothing => return Ok(Found::Nothing),
        }
    }
    Ok(way.pop().map_or(Found::Nothing, Found::Directory))
}

/// The names of a path, last first.
fn names(path: &Path) -> Vec<OsString> {
    let kept = path.components().filter(|c| matches!(c, Component::Normal(_) | Component::ParentDir));
    let mut names: Vec<OsString> = kept.map(|c| c.as_os_str().to_owned()).collect();
    names.reverse();
    names
}

fn look_up(here: &Merged, name: &OsString) -> io::Result<Found> {
    let c_name = sys::c_path(Path::new(name))?;
    let mut parts = Vec::new();
    for dir in here {
        let place = match process::openat(dir, &c_name, libc::O_PATH | libc::O_NOFOLLOW, 0) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENAMETOOLONG)) => continue,
            place => File::from(place?),
        };
        let meta = place.metadata()?;
        let kind = meta.file_type();
        if kind.is_dir() {
            let part = process::openat(dir, &c_name, libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW, 0)?;
            let opaque = sys::xattrs(&part).iter().any(|(name, value)| name.to_bytes() == b"trusted.overlay.opaque" && value == b"y");
            parts.push(part);
            if opaque {
                break;
            }
            continue;
        }
        // What is no directory ends a directory that began above.
        if !parts.is_empty() || kind.is_char_device() && meta.rdev() == 0 {
            break;
        }
        if kind.is_symlink() {
            return Ok(Found::Link(nix::fcntl::readlinkat(dir, c_name.as_c_str())?));
        }
        if kind.is_file() {
            return process::openat(dir, &c_name, libc::O_RDONLY | libc::O_NOFOLLOW, 0).map(Found::File);
        }
        return Ok(Found::Nothing);
    }
    Ok(if parts.is_empty() { Found::Nothing } else { Found::Directory(parts) })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_whole_is_seen_and_not_a_layer() {
        let base = std::env::temp_dir().join(format!("knarr-layers-{}", std::process::id()));
        // Of a run with the same number that was killed.
        let _ = std::fs::remove_dir_all(&base);
        let at = |path: &str| base.join(path);
        for dir in ["1/etc/sub", "1/nix", "2/nix/store/x", "2/etc", "3/etc", "3/loop"] {
            fs::create_dir_all(at(dir)).unwrap();
        }
        fs::write(at("1/etc/passwd"), "old").unwrap();
        fs::write(at("1/etc/group"), "group").unwrap();
        fs::write(at("1/etc/sub/deep"), "deep").unwrap();
        fs::write(at("2/nix/store/x/passwd"), "nix").unwrap();
        symlink("/nix/store/x/passwd", at("3/etc/passwd")).unwrap();
        symlink("../../../../etc/group", at("3/etc/up")).unwrap();
        symlink("a", at("3/loop/a")).unwrap();
        let layers: Vec<String> = ["1", "2", "3"].map(str::to_owned).into();
        let of = |path: &str| read(&base, &layers, path, 100).map_err(|e| e.raw_os_error());
        let text = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!((of("etc/passwd"), of("/etc/group"), of("etc/sub/../up")), (text("nix"), text("group"), text("group")), "links lead through the whole");
        assert_eq!((of("etc/passwd/x"), of("etc"), of("none/x"), of("loop/a")), (Ok(None), Ok(None), Ok(None), Err(Some(libc::ELOOP))));
        let there = |path: &str| has(&base, &layers, Path::new(path)).map_err(|e| e.raw_os_error());
        assert_eq!(
            (there(""), there("etc/sub"), there("etc/passwd"), there("etc/none"), there("etc/passwd/x")),
            (Ok(true), Ok(true), Ok(true), Ok(false), Ok(false))
        );
        // Deleted above; and a directory that hides what is below.
        assert_eq!(of("etc/sub/deep"), text("deep"));
        let dir = fs::File::open(at("3/etc")).unwrap();
        sys::mknodat(&dir, c"group", libc::S_IFCHR, 0).unwrap();
        sys::fsetxattr(&dir, c"trusted.overlay.opaque", b"y").unwrap();
        assert_eq!((of("etc/group"), of("etc/sub/deep"), of("etc/passwd")), (Ok(None), Ok(None), text("nix")));
        fs::remove_dir_all(&base).unwrap();
    }
}
