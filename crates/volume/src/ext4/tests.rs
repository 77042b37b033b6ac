//! Against those who know: e2fsck, where the host has it, and the kernel, where we are root.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use runtime::block::{Keep, Loop};

use super::*;

/// A directory for a test, which goes with it.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("knarr-ext4-{name}-{}", std::process::id()));
        // Of a run with the same number that was killed.
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = umount2(&self.0.join("mnt"), MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn identity() -> Identity {
    Identity {
        uuid: *b"\x11\x22\x33\x44\x55\x66\x47\x88\x99\xaa\xbb\xcc\xdd\xee\xff\x01",
        hash_seed: [7; 16],
        made_s: 1_800_000_000,
        directory: "data".to_owned(),
    }
}

fn image(place: &Place, geometry: &Geometry) -> (PathBuf, File) {
    let path = place.0.join("image");
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    file.set_len(geometry.bytes()).unwrap();
    format(&mut file, geometry, &identity()).unwrap();
    (path, file)
}

/// What a program of e2fsprogs says; none: the host does not have it.
fn ask(program: &str, arguments: &[&str], image: &Path) -> Option<(bool, String)> {
    match Command::new(program).args(arguments).arg(image).env("LC_ALL", "C").output() {
        Ok(done) => Some((done.status.success(), String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned())),
        Err(error) => {
            eprintln!("skipped: {program} is not on this host ({error})");
            None
        }
    }
}

fn assert_clean(image: &Path, what: &str) {
    if let Some((clean, said)) = ask("e2fsck", &["-fn"], image) {
        assert!(clean && !said.contains("WARNING"), "{what}: {said}");
    }
}

fn mounted(place: &Place, file: &File) -> Option<(Loop, PathBuf)> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root mounts");
        return None;
    }
    let at = place.0.join("mnt");
    std::fs::create_dir_all(&at).unwrap();
    let device = Loop::attach(file, Keep::WhileHeld, 4096).unwrap();
    mount(Some(&device.path()), &at, Some("ext4"), MsFlags::MS_NOATIME, Some("errors=remount-ro,discard")).unwrap();
    Some((device, at))
}

fn unmount(device: Loop, at: &Path) {
    // What another test starts has what was open here until it is its program.
    let end = Instant::now() + Duration::from_secs(60);
    while let Err(error) = umount2(at, MntFlags::empty()) {
        assert!(error == nix::errno::Errno::EBUSY && Instant::now() < end, "{error}");
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(device);
}

#[test]
fn e2fsck_finds_nothing_in_any_size() {
    let place = Place::new("sizes");
    let group = 128 << 20;
    let sizes = [
        1 << 20,
        (1 << 20) + 4096,
        3 << 20,
        8 << 20,
        100 << 20,
        group - 4096,
        group,
        group + (9 << 20),
        511 << 20,
        512 << 20,
        1 << 30,
        3 << 30,
        9 << 30,
        17 << 40,
    ];
    for size in sizes {
        let geometry = Geometry::of(size.min(BYTES_MAX)).unwrap();
        let (path, file) = image(&place, &geometry);
        if size < 1 << 40 {
            assert_clean(&path, &format!("{size}: {geometry:?}"));
        } else if let Some((known, said)) = ask("dumpe2fs", &["-h"], &path) {
            // Checking this one takes minutes.
            assert!(known && said.contains("Block count:              4294967295"), "{said}");
        }
        file.set_len(0).unwrap();
    }
}

#[test]
fn random_sizes_are_clean() {
    let place = Place::new("random");
    let mut state = 0x9E37_79B9_7F4A_7C15_u64 ^ u64::from(std::process::id());
    for _ in 0..30 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // Evenly over the powers of two from 1 MiB to 16 GiB.
        let size = (1 << (20 + state % 14)) + (state >> 20) % (1 << (20 + state % 14));
        let geometry = Geometry::of(size).unwrap();
        let (path, file) = image(&place, &geometry);
        assert_clean(&path, &format!("{size} bytes: {geometry:?}"));
        file.set_len(0).unwrap();
    }
}

#[test]
fn a_gibibyte_is_a_few_blocks() {
    let place = Place::new("few");
    let geometry = Geometry::holding(1 << 30).unwrap();
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let begun = Instant::now();
        let (path, _file) = image(&place, &geometry);
        best = best.min(begun.elapsed());
        use std::os::unix::fs::MetadataExt;
        assert!(path.metadata().unwrap().blocks() * 512 < 256 << 10);
    }
    println!("1 GiB in {best:?}");
    assert!(best < Duration::from_secs(10), "{best:?}");
}

#[test]
fn the_kernel_mounts_what_is_made_and_it_holds_its_size() {
    let place = Place::new("mounts");
    for asked in [1 << 20, 20 << 20, 150 << 20] {
        let geometry = Geometry::holding(asked).unwrap();
        let (path, file) = image(&place, &geometry);
        let Some((device, at)) = mounted(&place, &file) else { return };
        let free = nix::sys::statvfs::statvfs(&at).unwrap();
        let (free, total) = (free.blocks_available() * free.fragment_size(), free.blocks() * free.fragment_size());
        assert!(free >= asked && total <= asked + asked / 20 + (1 << 20), "{asked}: {free} of {total}");
        let mut names: Vec<_> = std::fs::read_dir(&at).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["data", "lost+found"]);
        std::fs::write(at.join("data/hello"), vec![1; 300_000]).unwrap();
        unmount(device, &at);
        assert_clean(&path, &format!("{asked} after use"));
        let Some((device, at)) = mounted(&place, &file) else { return };
        assert_eq!(std::fs::read(at.join("data/hello")).unwrap(), vec![1; 300_000]);
        unmount(device, &at);
    }
}

/// The kernel grows for none but those who have `CAP_SYS_RESOURCE`.
fn may_grow() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let capabilities = status.lines().find_map(|l| l.strip_prefix("CapEff:")).and_then(|t| u64::from_str_radix(t.trim(), 16).ok()).unwrap_or_default();
    let may = capabilities >> 24 & 1 == 1;
    if !may {
        eprintln!("skipped: without CAP_SYS_RESOURCE the kernel grows nothing");
    }
    may
}

#[test]
fn it_grows_while_it_is_mounted() {
    let place = Place::new("grows");
    let mut geometry = Geometry::holding(16 << 20).unwrap();
    let (path, file) = image(&place, &geometry);
    if !may_grow() {
        return;
    }
    let Some((device, at)) = mounted(&place, &file) else { return };
    std::fs::write(at.join("data/kept"), b"kept").unwrap();
    for size in [17 << 20, 300 << 20, 10 << 30, 64 << 30] {
        geometry = geometry.grown(size).unwrap();
        file.set_len(geometry.bytes()).unwrap();
        device.take_size().unwrap();
        let inside = File::open(&at).unwrap();
        runtime::block::grow_ext4(&inside, geometry.blocks).unwrap();
        runtime::block::grow_ext4(&inside, geometry.blocks).unwrap();
        let now = nix::sys::statvfs::statvfs(&at).unwrap();
        assert!(now.blocks_available() * now.fragment_size() >= size, "{size}: {now:?}");
    }
    std::fs::write(at.join("data/more"), vec![3; 40 << 20]).unwrap();
    assert_eq!(std::fs::read(at.join("data/kept")).unwrap(), b"kept");
    unmount(device, &at);
    assert_clean(&path, "grown");
}

#[test]
fn it_grows_while_it_is_not_mounted() {
    let place = Place::new("grows-apart");
    let mut geometry = Geometry::holding(16 << 20).unwrap();
    let (path, mut file) = image(&place, &geometry);
    assert_eq!(state(&mut file).unwrap(), State::Clean(geometry.blocks));
    for size in [17 << 20, 120 << 20, 300 << 20, 3 << 30, 10 << 30, 64 << 30] {
        geometry = geometry.grown(size).unwrap();
        file.set_len(geometry.bytes()).unwrap();
        let changes = plan(&mut file, &geometry).unwrap();
        changes.apply(&mut file).unwrap();
        assert_clean(&path, &format!("{size}"));
        changes.apply(&mut file).unwrap();
        assert_eq!(plan(&mut file, &geometry).unwrap(), Changes::default(), "it has grown");
        let Some((device, at)) = mounted(&place, &file) else { continue };
        let now = nix::sys::statvfs::statvfs(&at).unwrap();
        // What a test before has written is there still.
        let files = std::fs::read_dir(at.join("data")).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum::<u64>();
        assert!(now.blocks_available() * now.fragment_size() + files + (1 << 20) >= size, "{size}: {now:?}");
        std::fs::write(at.join(format!("data/at-{size}")), vec![3; 9 << 20]).unwrap();
        assert_eq!(state(&mut file).unwrap(), State::Unfinished(geometry.blocks));
        assert_eq!(plan(&mut file, &geometry.grown(size * 2).unwrap()).unwrap(), Changes::default(), "not while it is mounted");
        unmount(device, &at);
        assert_clean(&path, &format!("{size} after use"));
    }
}

#[test]
fn random_growths_are_clean() {
    let place = Place::new("random-growths");
    let mut state = 0x2545_F491_4F6C_DD1D_u64 ^ u64::from(std::process::id());
    for _ in 0..20 {
        let mut geometry = Geometry::of((1 << 20) + state % (1 << 28)).unwrap();
        let (path, mut file) = image(&place, &geometry);
        for _ in 0..3 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            geometry = geometry.grown(geometry.capacity() + state % (geometry.bytes() * 4)).unwrap();
            file.set_len(geometry.bytes()).unwrap();
            plan(&mut file, &geometry).unwrap().apply(&mut file).unwrap();
            assert_clean(&path, &format!("{geometry:?}"));
        }
        file.set_len(0).unwrap();
    }
}
