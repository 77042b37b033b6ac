//! Trees as a hostile container leaves them. Those with mounts need root and are made in a mount namespace of the test's
//! thread.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::{process, sys};

struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // In memory: a disk takes half a minute for what the tests do.
        let path = PathBuf::from(format!("/dev/shm/knarr-tree-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir_all(&path).unwrap();
        Place(path)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn dir(&self, name: &str) -> PathBuf {
        fs::create_dir_all(self.at(name)).unwrap();
        self.at(name)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.at(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = remove(&self.0);
    }
}

/// Directories within each other, with a file in each: no path names the lowest.
fn deep(top: &Path, depth: usize) {
    let mut here = process::openat(&libc::AT_FDCWD, &sys::c_path(top).unwrap(), libc::O_RDONLY | libc::O_DIRECTORY, 0).unwrap();
    for _ in 0..depth {
        drop(process::openat(&here, c"f", libc::O_CREAT | libc::O_WRONLY, 0o600).unwrap());
        process::mkdirat(&here, c"d", 0o700).unwrap();
        here = process::openat(&here, c"d", libc::O_RDONLY | libc::O_DIRECTORY, 0).unwrap();
    }
}

/// On a stack as small as the program's workers have, and smaller.
fn on_a_small_stack<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::Builder::new().stack_size(256 << 10).spawn(work).unwrap().join().unwrap()
}

#[test]
fn any_depth_goes_with_a_small_stack_and_few_descriptors() {
    const DEPTH: usize = 12_000;
    let place = Place::new();
    let top = place.dir("top");
    deep(&top, DEPTH);
    let (counted, open, gone) = on_a_small_stack(move || {
        let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
        let before = descriptors();
        let counted = usage(&top).inodes;
        remove(&top).unwrap();
        (counted, descriptors() <= before + 64, !top.exists())
    });
    assert_eq!((counted, open, gone), (2 * DEPTH as u64, true, true));
}

#[test]
fn what_is_not_there_is_removed_and_wide_trees_go_whole() {
    let place = Place::new();
    remove(&place.at("none")).unwrap();
    remove(&place.at("none/below")).unwrap();
    for n in 0..3000 {
        place.dir(&format!("wide/{}/{n}", n % 3));
        place.file(&format!("wide/{}/{n}/x", n % 3), "x");
    }
    fs::set_permissions(place.at("wide/1"), fs::Permissions::from_mode(0o000)).unwrap();
    remove(&place.at("wide")).unwrap();
    assert!(!place.at("wide").exists());
    let file = place.file("file", "x");
    remove(&file).unwrap();
    assert!(!file.exists());
}

#[test]
fn links_are_removed_and_not_followed() {
    let place = Place::new();
    let kept = place.file("outside/kept", "kept");
    place.dir("top");
    symlink(place.at("outside"), place.at("top/link")).unwrap();
    symlink("/", place.at("top/root")).unwrap();
    symlink(place.at("outside"), place.at("itself")).unwrap();
    assert_eq!(usage(&place.at("top")).inodes, 2, "the links themselves");
    remove(&place.at("itself")).unwrap();
    remove(&place.at("top")).unwrap();
    assert!(kept.exists() && !place.at("top").exists() && !place.at("itself").exists());
}

#[test]
fn a_file_with_two_names_is_counted_once() {
    let place = Place::new();
    let data = place.file("top/a", &"x".repeat(100_000));
    fs::hard_link(&data, place.at("top/b")).unwrap();
    let usage = usage(&place.at("top"));
    assert_eq!((usage.inodes, usage.bytes), (1, fs::metadata(&data).unwrap().blocks() * 512));
}

/// Runs with mounts that nobody else sees.
fn with_mounts(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            process::unshare(libc::CLONE_NEWNS | libc::CLONE_FS).expect("root");
            sys::mount(c"", c"/", c"", libc::MS_REC | libc::MS_PRIVATE, c"").unwrap();
            work();
        });
        thread.join().unwrap();
    });
}

fn bind(from: &Path, to: &Path) {
    sys::mount(&sys::c_path(from).unwrap(), &sys::c_path(to).unwrap(), c"", libc::MS_BIND, c"").unwrap();
}

#[test]
fn a_mount_is_told_and_what_is_mounted_stays() {
    let place = Place::new();
    let kept = place.file("outside/db/kept", "kept");
    let (top, at) = (place.dir("top"), place.dir("top/a/b"));
    with_mounts(|| {
        // Of the same file system: neither device nor inode tells, only the mount.
        bind(&place.at("outside"), &at);
        let error = remove(&top).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
        assert_eq!(error.to_string(), format!("{}: something is mounted there", at.display()));
        assert_eq!(remove(&at).unwrap_err().kind(), io::ErrorKind::ResourceBusy, "nor the mount itself");
        assert_eq!(usage(&top).inodes, 1, "the way to it alone");
        assert!(kept.exists());
        // A file that is one, too.
        fs::write(place.at("file"), "").unwrap();
        bind(&kept, &place.at("file"));
        assert_eq!(remove(&place.at("file")).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
    });
    assert_eq!(fs::read_to_string(&kept).unwrap(), "kept");
    remove(&top).unwrap();
}

#[test]
fn a_tree_that_others_write_to_is_removed_in_the_end() {
    let place = Place::new();
    let top = place.dir("top");
    for n in 0..200 {
        place.file(&format!("top/{n}/x"), "");
    }
    let writing = std::sync::atomic::AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Until nothing can be made any more: the directories go.
            for n in 0..200_usize {
                for more in 0..20 {
                    let _ = fs::write(top.join(format!("{n}/more{more}")), "");
                }
            }
            writing.store(false, Ordering::Relaxed);
        });
        remove(&top).unwrap();
    });
    assert!(!top.exists() && !writing.load(Ordering::Relaxed));
}

fn real(fd: &std::os::fd::OwnedFd) -> PathBuf {
    use std::os::fd::AsRawFd;
    fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap()
}

#[test]
fn paths_stay_within_the_root() {
    let place = Place::new();
    let top = place.dir("top");
    place.file("secret", "secret");
    place.file("top/etc/passwd", "within");
    symlink("../../../secret", top.join("up")).unwrap();
    symlink("/etc", top.join("absolute")).unwrap();
    let root = Root::open(&top).unwrap();
    let read = |path: &str, links| root.read(path, links, 100).map(|b| String::from_utf8(b).unwrap());
    assert_eq!(read("up", Links::Within).unwrap_err().kind(), io::ErrorKind::NotFound, "`..` stops at the root");
    assert_eq!(read("../../etc/passwd", Links::Within).unwrap(), "within");
    assert_eq!(read("absolute/passwd", Links::Within).unwrap(), "within");
    assert_eq!(read("absolute/passwd", Links::Refused).unwrap_err().raw_os_error(), Some(libc::ELOOP));
    assert_eq!(read("etc/passwd", Links::Refused).unwrap(), "within");
    assert_eq!(root.read("etc/passwd", Links::Within, 5).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    assert_eq!(root.read("etc", Links::Within, 5).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    sys::mknodat(&root, c"fifo", libc::S_IFIFO | 0o600, 0).unwrap();
    assert_eq!(root.read("fifo", Links::Within, 5).unwrap_err().kind(), io::ErrorKind::InvalidInput, "and does not hang");
}

#[test]
fn directories_are_made_through_links_to_nothing() {
    let place = Place::new();
    let top = place.dir("top");
    place.dir("top/var");
    symlink("/run", top.join("var/run")).unwrap();
    symlink("../../../../../over/there", top.join("var/far")).unwrap();
    symlink("loop", top.join("loop")).unwrap();
    let root = Root::open(&top).unwrap();
    let made = root.directory("/var/run/secrets/x", Links::Within, 0o750).unwrap();
    assert_eq!(real(&made), top.join("run/secrets/x"));
    assert_eq!(fs::metadata(top.join("run/secrets")).unwrap().mode() & 0o7777, 0o750);
    assert_eq!(real(&root.directory("var/far/../here", Links::Within, 0o755).unwrap()), top.join("over/here"));
    assert_eq!(real(&root.directory("", Links::Within, 0o755).unwrap()), top);
    assert_eq!(root.directory("loop/x", Links::Within, 0o755).unwrap_err().raw_os_error(), Some(libc::ELOOP));
    assert_eq!(root.directory("var/run/y", Links::Refused, 0o755).unwrap_err().raw_os_error(), Some(libc::ELOOP));
    place.file("top/file", "");
    assert_eq!(root.directory("file/x", Links::Within, 0o755).unwrap_err().raw_os_error(), Some(libc::ENOTDIR));
    assert!(!place.at("over").exists());
}

#[test]
fn files_are_made_through_links_to_nothing() {
    let place = Place::new();
    let top = place.dir("top");
    symlink("/etc/deep/real", place.at("top/link")).unwrap();
    symlink("../../../outside", place.at("top/up")).unwrap();
    let root = Root::open(&top).unwrap();
    assert_eq!(real(&root.file("link", Links::Within, 0o640).unwrap()), top.join("etc/deep/real"));
    assert_eq!(fs::metadata(top.join("etc/deep/real")).unwrap().mode() & 0o7777, 0o640);
    assert_eq!(real(&root.file("up", Links::Within, 0o640).unwrap()), top.join("outside"));
    fs::remove_file(top.join("outside")).unwrap();
    assert_eq!(root.file("up", Links::Refused, 0o640).unwrap_err().raw_os_error(), Some(libc::ELOOP));
    assert!(!place.at("outside").exists());
}

#[test]
fn lookups_do_not_fail_because_others_rename() {
    let place = Place::new();
    let top = place.dir("top");
    place.file("top/run/x", "x");
    place.dir("top/var");
    symlink("../run", top.join("var/run")).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (a, b) = (place.dir("a"), place.at("b"));
            while !done.load(Ordering::Relaxed) {
                fs::rename(&a, &b).unwrap();
                fs::rename(&b, &a).unwrap();
            }
        });
        let root = Root::open(&top).unwrap();
        let failed = (0..20_000).filter(|_| root.find("var/run/x", Links::Within, 0).is_err()).count();
        done.store(true, Ordering::Relaxed);
        assert_eq!(failed, 0);
    });
}

#[test]
fn a_tree_is_given_to_a_group_by_handle_and_the_top_at_last() {
    use std::sync::atomic::{AtomicBool, AtomicU64};
    let place = Place::new();
    let (top, outside) = (place.dir("top"), place.file("outside", "theirs"));
    place.file("top/d/f", "x");
    symlink(&outside, place.at("top/d/link")).unwrap();
    fs::set_permissions(&top, fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(place.at("top/d/f"), fs::Permissions::from_mode(0o601)).unwrap();
    let before = fs::metadata(&outside).unwrap();
    let (done, stop) = (AtomicU64::new(0), AtomicBool::new(true));
    assert_eq!(give(&top, 4711, &done, &stop).unwrap_err().kind(), io::ErrorKind::Interrupted);
    assert!(is_not_given(&top, 4711), "who is ended in the middle begins anew");
    stop.store(false, Ordering::Relaxed);
    give(&top, 4711, &done, &stop).unwrap();
    let seen = |name: &str| fs::symlink_metadata(place.at(name)).map(|m| (m.gid(), m.mode() & 0o7777)).unwrap();
    assert_eq!((seen("top"), seen("top/d/f"), seen("top/d/link").0), ((4711, 0o2770), (4711, 0o661), 4711));
    assert_eq!((fs::metadata(&outside).unwrap().gid(), fs::metadata(&outside).unwrap().mode()), (before.gid(), before.mode()));
    assert_eq!(done.into_inner(), 4);
    assert!(!is_not_given(&top, 4711) && is_not_given(&top, 4712));
}

#[test]
fn who_is_given_a_program_keeps_its_setuid() {
    let place = Place::new();
    let top = place.dir("top");
    for (name, mode) in [("top/u", 0o4755), ("top/g", 0o2755)] {
        place.file(name, "x");
        fs::set_permissions(place.at(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    give(&top, 4711, &Default::default(), &Default::default()).unwrap();
    let seen = |name: &str| fs::metadata(place.at(name)).map(|m| (m.gid(), m.mode() & 0o7777)).unwrap();
    assert_eq!((seen("top/u"), seen("top/g")), ((4711, 0o4775), (4711, 0o2775)));
}
