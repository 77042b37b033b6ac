//! On the real kernel, as root.

use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::*;
use crate::{Access, Secrets};

const MIB: u64 = 1 << 20;

/// A store's directory and a kubelet's, which go with the test.
struct Place {
    dir: PathBuf,
    secrets: Secrets,
}

impl Place {
    /// None where volumes cannot be: only root mounts.
    fn new(name: &str) -> Option<Place> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: only root mounts");
            return None;
        }
        // No two tests have one, whatever they call it.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let nth = COUNT.fetch_add(1, Ordering::Relaxed);
        let place = Place { dir: std::env::temp_dir().join(format!("knarr disk-{name}-{}-{nth}", std::process::id())), secrets: Secrets::default() };
        fs::create_dir_all(place.staged()).unwrap();
        Some(place)
    }

    fn volumes(&self) -> PathBuf {
        self.dir.join("volumes")
    }

    fn staged(&self) -> PathBuf {
        self.dir.join("staged")
    }

    fn target(&self, pod: &str) -> PathBuf {
        self.dir.join(pod)
    }

    fn open(&self) -> Disk {
        Disk::open(&self.volumes(), "n1").unwrap()
    }

    async fn stage(&self, disk: &Disk, volume: &Volume) -> Result<(), Failure> {
        disk.stage(Stage { volume, at: &self.staged(), secrets: &self.secrets }).await
    }

    async fn publish(&self, disk: &Disk, volume: &Volume, pod: &str, readonly: bool) -> Result<(), Failure> {
        let (staged, target) = (self.staged(), self.target(pod));
        disk.publish(Publish { volume, staged: Some(&staged), target: &target, readonly, secrets: &self.secrets }).await
    }

    async fn expand(&self, disk: &Disk, volume: &Volume, bytes: u64) -> Result<u64, Failure> {
        let staged = self.staged();
        disk.expand(Expand { volume, at: &staged, staged: Some(&staged), bytes, secrets: &self.secrets }).await
    }

    async fn end(&self, disk: &Disk, volume: &Volume) {
        disk.unpublish(&volume.handle, &self.target("pod")).await.unwrap();
        disk.unstage(&volume.handle, &self.staged()).await.unwrap();
    }

    /// Loop devices that are images of this place.
    fn devices(&self) -> Vec<u32> {
        let images: Vec<_> = store::images(&self.volumes()).unwrap().iter().map(|(_, file)| block::FileId::of(file).unwrap()).collect();
        block::attached(store::IMAGE).unwrap().into_iter().filter(|(_, file)| images.contains(file)).map(|(number, _)| number).collect()
    }

    fn mounts(&self) -> usize {
        runtime::mounts::all().unwrap().iter().filter(|m| m.at.starts_with(&self.dir)).count()
    }

    #[track_caller]
    fn assert_nothing_left(&self, what: &str) {
        // What another test starts has what was open here until it is its program, and a device goes with the last who has it.
        let end = std::time::Instant::now() + Duration::from_secs(60);
        while (self.devices(), self.mounts()) != (Vec::new(), 0) && std::time::Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!((self.devices(), self.mounts()), (Vec::new(), 0), "{what}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for mounted in runtime::mounts::all().unwrap_or_default().iter().rev().filter(|m| m.at.starts_with(&self.dir)) {
            let _ = nix::mount::umount2(&mounted.at, nix::mount::MntFlags::MNT_DETACH);
        }
        let _ = purge(&self.volumes());
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn claim() -> Claim {
    Claim { namespace: "ns".to_owned(), name: "data".to_owned(), uid: "u1".to_owned() }
}

fn new(handle: &str, bytes: u64, block: bool) -> New {
    New { handle: handle.to_owned(), claim: claim(), bytes, block }
}

fn volume(handle: &str) -> Volume {
    let mode = Mode::Filesystem { fs_type: "ext4".to_owned(), options: Vec::new(), group: None };
    Volume { handle: handle.to_owned(), attributes: BTreeMap::new(), attached: BTreeMap::new(), mode, access: Access::default() }
}

fn device(handle: &str) -> Volume {
    Volume { mode: Mode::Block, ..volume(handle) }
}

/// Writes until there is no room; how many bytes there was room for.
fn fill(path: &Path) -> (u64, io::Error) {
    let (file, piece) = (File::create(path).unwrap(), vec![7; 1 << 18]);
    let mut at = 0;
    loop {
        match file.write_at(&piece, at) {
            Ok(count) => at += count as u64,
            Err(error) => return (at, error),
        }
    }
}

#[tokio::test]
async fn a_claims_size_is_what_its_pod_can_write() {
    let Some(place) = Place::new("size") else { return };
    let disk = place.open();
    for (handle, bytes) in [("small", 3 * MIB), ("larger", 150 * MIB)] {
        let meta = disk.create(new(handle, bytes, false)).await.unwrap();
        assert_eq!(meta.bytes, bytes);
        let own = volume(handle);
        place.stage(&disk, &own).await.unwrap();
        place.publish(&disk, &own, "pod", false).await.unwrap();
        let stats = disk.stats(handle, &place.target("pod"), None).await.unwrap();
        let (counted, inodes) = (stats.bytes.unwrap(), stats.inodes.unwrap());
        assert!(counted.available >= bytes && counted.total <= bytes + bytes / 10 && counted.used < MIB, "{counted:?}");
        assert!(inodes.total > 100 && inodes.used > 0 && stats.abnormal.is_none());
        let (written, error) = fill(&place.target("pod").join("full"));
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(written.abs_diff(bytes) <= bytes / 20, "{handle}: {written} of {bytes}");
        // What is deleted is given back to the disk.
        fs::remove_file(place.target("pod").join("full")).unwrap();
        place.end(&disk, &own).await;
        let used = disk.list().await.unwrap().into_iter().find(|f| f.meta.handle == handle).unwrap().used;
        assert!(used < bytes / 4, "{handle}: {used}");
        place.assert_nothing_left(handle);
        disk.delete(handle).await.unwrap();
    }
    assert_eq!(fs::read_dir(place.volumes()).unwrap().count(), 0, "deletion leaves nothing");
}

#[tokio::test]
async fn every_call_may_come_twice_and_after_a_restart() {
    let Some(place) = Place::new("twice") else { return };
    let (own, mut disk) = (volume("pvc-1"), place.open());
    assert_eq!(disk.create(new("pvc-1", 20 * MIB, false)).await.unwrap(), disk.create(new("pvc-1", 20 * MIB, false)).await.unwrap());
    for again in 0..3 {
        place.stage(&disk, &own).await.unwrap();
        place.publish(&disk, &own, "pod", false).await.unwrap();
        place.publish(&disk, &own, "reader", true).await.unwrap();
        assert_eq!((place.devices().len(), place.mounts()), (1, 3), "round {again}");
        disk = place.open();
    }
    fs::write(place.target("pod").join("file"), "kept").unwrap();
    assert_eq!(fs::read_dir(place.target("pod")).unwrap().count(), 1, "nothing else is in it");
    assert_eq!(fs::metadata(place.target("pod")).unwrap().mode() & 0o7777, 0o777);
    assert_eq!(fs::write(place.target("reader").join("file"), "").unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
    let freed = disk.freed();
    let refused = disk.delete("pvc-1").await.unwrap_err();
    assert_eq!(refused.code, Code::FailedPrecondition, "it is in use");
    for _ in 0..2 {
        disk.unpublish("pvc-1", &place.target("pod")).await.unwrap();
        disk.unpublish("pvc-1", &place.target("reader")).await.unwrap();
        disk.unstage("pvc-1", &place.staged()).await.unwrap();
        disk = place.open();
    }
    assert!(freed.has_changed().unwrap_or(true));
    place.assert_nothing_left("unstaged");
    place.stage(&disk, &own).await.unwrap();
    assert_eq!(fs::read(place.staged().join("volume/file")).unwrap(), b"kept");
    disk.unstage("pvc-1", &place.staged()).await.unwrap();
    disk.delete("pvc-1").await.unwrap();
    disk.delete("pvc-1").await.unwrap();
    // What is gone can be taken away still, and not be used.
    place.end(&disk, &own).await;
    assert_eq!(place.stage(&disk, &own).await.unwrap_err().code, Code::NotFound);
}

#[tokio::test]
async fn a_device_is_the_image() {
    let Some(place) = Place::new("device") else { return };
    let (own, disk) = (device("pvc-1"), place.open());
    disk.create(new("pvc-1", 5 * MIB - 1, true)).await.unwrap();
    assert_eq!(place.publish(&disk, &own, "pod", false).await.unwrap_err().code, Code::FailedPrecondition, "not staged");
    for _ in 0..2 {
        place.stage(&disk, &own).await.unwrap();
        place.publish(&disk, &own, "pod", false).await.unwrap();
    }
    let target = place.target("pod");
    assert_eq!(disk.stats("pvc-1", &target, None).await.unwrap().bytes.unwrap(), Usage { total: 5 * MIB, used: 0, available: 0 });
    OpenOptions::new().write(true).open(&target).unwrap().write_at(b"raw", 4 * MIB).unwrap();
    assert_eq!(disk.grow("pvc-1", 9 * MIB).await.unwrap(), (9 * MIB, false), "the node has nothing to do");
    assert_eq!(disk.stats("pvc-1", &target, None).await.unwrap().bytes.unwrap().total, 9 * MIB);
    assert_eq!(place.expand(&disk, &own, 9 * MIB).await.unwrap(), 9 * MIB);
    place.end(&disk, &own).await;
    place.end(&disk, &own).await;
    place.assert_nothing_left("unstaged");
    let mut bytes = [0; 3];
    disk.0.store.image("pvc-1").unwrap().read_at(&mut bytes, 4 * MIB).unwrap();
    assert_eq!(&bytes, b"raw");
}

#[tokio::test]
async fn what_cannot_be_is_refused() {
    let Some(place) = Place::new("refused") else { return };
    let disk = place.open();
    let made_by = &disk;
    let code = |handle: &'static str, bytes| async move { made_by.create(new(handle, bytes, false)).await.unwrap_err().code };
    assert_eq!(code("exabyte", 1 << 60).await, Code::OutOfRange);
    assert_eq!(code("all", u64::MAX).await, Code::OutOfRange);
    assert_eq!(code("more-than-the-disk", 15 << 40).await, Code::ResourceExhausted);
    for hostile in ["", ".", "..", "../out", "a/b", ".making-x", "a\0b"] {
        assert_eq!(code(hostile, MIB).await, Code::InvalidArgument, "{hostile:?}");
        assert_eq!(place.stage(&disk, &volume(hostile)).await.unwrap_err().code, Code::NotFound, "{hostile:?}");
        assert_eq!(disk.delete(hostile).await.unwrap_err().code, Code::NotFound, "{hostile:?}");
    }
    assert_eq!(disk.create(new("smallest", 0, false)).await.unwrap().bytes, MIB);
    assert_eq!(disk.grow("smallest", 1 << 60).await.unwrap_err().code, Code::OutOfRange);
    assert_eq!(disk.grow("smallest", 1).await.unwrap().0, MIB, "nothing shrinks");
    let other = New { claim: Claim { uid: "u2".to_owned(), ..claim() }, ..new("smallest", 0, false) };
    assert_eq!(disk.create(other).await.unwrap_err().code, Code::Other(6), "a name used again");
    assert_eq!(place.stage(&disk, &device("smallest")).await.unwrap_err().code, Code::InvalidArgument, "the other mode");
    let with = |fs_type: &str, option: &str| Volume {
        mode: Mode::Filesystem { fs_type: fs_type.to_owned(), options: vec![option.to_owned()], group: None },
        ..volume("smallest")
    };
    assert_eq!(place.stage(&disk, &with("xfs", "")).await.unwrap_err().code, Code::InvalidArgument);
    assert_eq!(place.stage(&disk, &with("", "no-such-option")).await.unwrap_err().code, Code::InvalidArgument);
    place.assert_nothing_left("refused");
    place.stage(&disk, &with("", "noatime,nodev")).await.unwrap();
    assert_eq!(fs::read_dir(place.volumes()).unwrap().count(), 1);
}

#[tokio::test]
async fn what_cannot_be_read_is_not_taken_for_nothing() {
    let Some(place) = Place::new("unread") else { return };
    let disk = place.open();
    disk.create(new("own", 4 * MIB, false)).await.unwrap();
    let (own, dir) = (volume("own"), place.volumes().join("own"));
    // Changes that are perhaps half in their places: nobody mounts over them.
    fs::write(dir.join("growing.json"), "{").unwrap();
    let refused = place.stage(&disk, &own).await.unwrap_err();
    assert!(refused.message.contains("growing.json"), "{refused}");
    place.assert_nothing_left("refused");
    fs::remove_file(dir.join("growing.json")).unwrap();
    // Whether it is in use is not known.
    fs::rename(dir.join("image"), dir.join("aside")).unwrap();
    fs::create_dir(dir.join("image")).unwrap();
    assert_eq!(disk.delete("own").await.unwrap_err().code, Code::Internal);
    assert!(dir.join("aside").exists());
    fs::remove_dir(dir.join("image")).unwrap();
    // Nor whether it has a device.
    fs::rename(dir.join("meta.json"), dir.join("note")).unwrap();
    disk.unstage("own", &place.staged()).await.unwrap();
    fs::write(dir.join("meta.json"), "{").unwrap();
    assert_eq!(disk.unstage("own", &place.staged()).await.unwrap_err().code, Code::Internal);
    fs::rename(dir.join("note"), dir.join("meta.json")).unwrap();
    disk.delete("own").await.unwrap();
    assert!(!dir.exists(), "without an image there is nothing that could be in use");
}

#[tokio::test]
async fn one_whose_state_is_not_known_may_be_smaller() {
    let Some(place) = Place::new("state") else { return };
    let disk = place.open();
    let meta = disk.create(new("own", 4 * MIB, false)).await.unwrap();
    assert!(!disk.0.store.is_smaller(&meta).unwrap());
    let image = OpenOptions::new().write(true).open(place.volumes().join("own/image")).unwrap();
    // `s_state` of the superblock, whose sum is wrong now.
    image.write_all_at(&[3], 1024 + 0x3A).unwrap();
    assert!(disk.0.store.is_smaller(&meta).unwrap());
}

#[tokio::test]
async fn a_damaged_file_system_is_told() {
    let Some(place) = Place::new("damaged") else { return };
    let disk = place.open();
    disk.create(new("pvc-1", 9 * MIB, false)).await.unwrap();
    disk.0.store.image("pvc-1").unwrap().write_at(&[0xff; 4096], 0).unwrap();
    let failure = place.stage(&disk, &volume("pvc-1")).await.unwrap_err();
    assert!(failure.code == Code::Internal && failure.message.contains("e2fsck") && failure.message.contains("pvc-1"), "{failure}");
    place.assert_nothing_left("damaged");
    disk.delete("pvc-1").await.unwrap();
}

/// Whether the kernel grows a mounted file system for us.
fn may_grow() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:")).and_then(|t| u64::from_str_radix(t.trim(), 16).ok());
    effective.unwrap_or_default() >> 24 & 1 == 1
}

#[tokio::test]
async fn it_grows_in_use_or_when_it_is_staged_the_next_time() {
    let Some(place) = Place::new("grow") else { return };
    let (own, disk) = (volume("pvc-1"), place.open());
    disk.create(new("pvc-1", 9 * MIB, false)).await.unwrap();
    place.stage(&disk, &own).await.unwrap();
    place.publish(&disk, &own, "pod", false).await.unwrap();
    fs::write(place.target("pod").join("file"), "kept").unwrap();
    assert_eq!(disk.grow("pvc-1", 200 * MIB).await.unwrap(), (200 * MIB, true));
    for _ in 0..2 {
        match place.expand(&disk, &own, 200 * MIB).await {
            Ok(bytes) => assert!(may_grow() && bytes == 200 * MIB),
            Err(failure) => assert!(!may_grow() && failure.code == Code::FailedPrecondition, "{failure}"),
        }
    }
    place.end(&disk, &own).await;
    place.stage(&disk, &own).await.unwrap();
    place.publish(&disk, &own, "pod", false).await.unwrap();
    assert_eq!(fs::read(place.target("pod").join("file")).unwrap(), b"kept");
    let counted = disk.stats("pvc-1", &place.target("pod"), None).await.unwrap().bytes.unwrap();
    assert!(counted.available >= 199 * MIB, "{counted:?}");
    assert_eq!(place.expand(&disk, &own, 200 * MIB).await.unwrap(), 200 * MIB, "it has grown");
}

#[tokio::test]
async fn one_that_was_not_unmounted_grows_when_it_is_staged() {
    let Some(place) = Place::new("unfinished") else { return };
    let (own, disk) = (volume("pvc-1"), place.open());
    disk.create(new("pvc-1", 20 * MIB, false)).await.unwrap();
    place.stage(&disk, &own).await.unwrap();
    fs::write(place.staged().join("volume/file"), "kept").unwrap();
    nix::unistd::sync();
    // As after a power cut: what is on the disk now.
    let (image, copy) = (place.volumes().join("pvc-1/image"), place.dir.join("copy"));
    fs::copy(&image, &copy).unwrap();
    disk.unstage("pvc-1", &place.staged()).await.unwrap();
    fs::copy(&copy, &image).unwrap();
    disk.grow("pvc-1", 300 * MIB).await.unwrap();
    place.stage(&disk, &own).await.unwrap();
    assert_eq!(fs::read(place.staged().join("volume/file")).unwrap(), b"kept");
    assert!(disk.stats("pvc-1", &place.staged(), None).await.unwrap().bytes.unwrap().available >= 299 * MIB);
    assert_eq!(place.devices().len(), 1);
}

#[tokio::test]
async fn purging_takes_all_from_the_host_but_the_images() {
    let Some(place) = Place::new("purge") else { return };
    let disk = place.open();
    disk.create(new("pvc-1", 3 * MIB, false)).await.unwrap();
    disk.create(new("pvc-2", 3 * MIB, true)).await.unwrap();
    place.stage(&disk, &volume("pvc-1")).await.unwrap();
    place.publish(&disk, &volume("pvc-1"), "pod", true).await.unwrap();
    place.stage(&disk, &device("pvc-2")).await.unwrap();
    assert_eq!(place.devices().len(), 2);
    assert_eq!(purge(&place.volumes()).unwrap(), 2);
    place.assert_nothing_left("purged");
    assert_eq!(purge(&place.volumes()).unwrap(), 0);
    assert_eq!(purge(&place.dir.join("nowhere")).unwrap(), 0);
    assert_eq!(disk.list().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_volume_of_which_nothing_can_be_read_is_told_to_who_would_remove_all() {
    let Some(place) = Place::new("unread") else { return };
    let disk = place.open();
    disk.create(new("pvc-1", 3 * MIB, false)).await.unwrap();
    assert_eq!(list(&place.volumes()).unwrap().len(), 1);
    // A directory in the place of a note is read by nobody.
    std::fs::create_dir_all(place.volumes().join("pvc-2/meta.json")).unwrap();
    let error = list(&place.volumes()).unwrap_err().to_string();
    assert!(error.contains("pvc-2/meta.json"), "{error}");
    assert_eq!(disk.list().await.unwrap().len(), 1, "the others go on");
}

#[tokio::test]
async fn one_that_nobody_uses_is_removed_beside_who_has_the_store_open() {
    let Some(place) = Place::new("beside") else { return };
    let disk = place.open();
    for handle in ["pvc-1", "pvc-2"] {
        disk.create(new(handle, 3 * MIB, false)).await.unwrap();
    }
    // Another is being made.
    let making = place.volumes().join(".making-pvc-3");
    fs::create_dir(&making).unwrap();
    place.stage(&disk, &volume("pvc-1")).await.unwrap();
    let used = remove(&place.volumes(), "pvc-1").unwrap_err();
    assert!(used.code == Code::FailedPrecondition && used.message.contains("is in use on node"), "{used}");
    for nothing in ["pvc-9", "../volumes", ".making-pvc-3"] {
        assert_eq!(remove(&place.volumes(), nothing).unwrap_err().code, Code::NotFound, "{nothing}");
    }
    remove(&place.volumes(), "pvc-2").unwrap();
    assert_eq!(disk.list().await.unwrap().iter().map(|found| found.meta.handle.as_str()).collect::<Vec<_>>(), ["pvc-1"]);
    assert!(making.exists() && fs::remove_dir(&making).is_ok());
    disk.unstage("pvc-1", &place.staged()).await.unwrap();
    remove(&place.volumes(), "pvc-1").unwrap();
    place.assert_nothing_left("removed");
}

#[tokio::test]
async fn a_full_disk_harms_who_writes_to_it() {
    let Some(place) = Place::new("full") else { return };
    // A disk of its own, that can be full: 64 MiB.
    let (backing, host) = (place.dir.join("backing"), place.volumes());
    fs::create_dir_all(&host).unwrap();
    let geometry = crate::ext4::Geometry::holding(64 * MIB).unwrap();
    let mut file = File::options().read(true).write(true).create_new(true).open(&backing).unwrap();
    file.set_len(geometry.bytes()).unwrap();
    let identity = crate::ext4::Identity { uuid: [1; 16], hash_seed: [1; 16], made_s: 0, directory: String::new() };
    crate::ext4::format(&mut file, &geometry, &identity).unwrap();
    let backing = Loop::attach(&file, Keep::WhileHeld, FILESYSTEM_SECTOR).unwrap();
    mount(Some(&backing.path()), &host, Some("ext4"), nix::mount::MsFlags::empty(), None::<&str>).unwrap();
    drop(backing);
    let disk = place.open();
    // Each could be filled alone; not both.
    for handle in ["pvc-1", "pvc-2"] {
        disk.create(new(handle, 40 * MIB, false)).await.unwrap();
    }
    assert_eq!(disk.create(new("pvc-3", 80 * MIB, false)).await.unwrap_err().code, Code::ResourceExhausted);
    place.stage(&disk, &volume("pvc-1")).await.unwrap();
    place.publish(&disk, &volume("pvc-1"), "pod", false).await.unwrap();
    fs::write(place.target("pod").join("early"), "safe").unwrap();
    File::open(place.target("pod").join("early")).unwrap().sync_all().unwrap();
    let (taken, _) = fill(&host.join("somebody-elses"));
    assert!(taken > 50 * MIB);
    let late = File::create(place.target("pod").join("late")).unwrap();
    let failed = (0..40).map(|n| late.write_at(&[1; 1 << 20], n * MIB).and_then(|_| late.sync_all())).find_map(Result::err);
    assert!(failed.is_some(), "the pod is told");
    drop(late);
    place.end(&disk, &volume("pvc-1")).await;
    fs::remove_file(host.join("somebody-elses")).unwrap();
    place.stage(&disk, &volume("pvc-1")).await.unwrap();
    assert_eq!(fs::read(place.staged().join("volume/early")).unwrap(), b"safe");
    place.end(&disk, &volume("pvc-1")).await;
    place.stage(&disk, &volume("pvc-2")).await.unwrap();
    place.end(&disk, &volume("pvc-2")).await;
}

/// Not a test: what is killed by the next. It makes, uses, grows and removes a volume, over and over.
#[tokio::test]
async fn lives_of_a_volume() {
    let Some(dir) = std::env::var_os("KNARR_DISK_LIVES") else { return };
    let place = std::mem::ManuallyDrop::new(Place { dir: PathBuf::from(dir), secrets: Secrets::default() });
    let (own, disk) = (volume("pvc-1"), place.open());
    loop {
        disk.create(new("pvc-1", 9 * MIB, false)).await.unwrap();
        disk.keep("pvc-1").await.unwrap();
        place.stage(&disk, &own).await.unwrap();
        place.publish(&disk, &own, "pod", false).await.unwrap();
        fs::write(place.target("pod").join("file"), vec![5; 100_000]).unwrap();
        disk.grow("pvc-1", 40 * MIB).await.unwrap();
        let _ = place.expand(&disk, &own, 40 * MIB).await;
        place.end(&disk, &own).await;
        place.stage(&disk, &own).await.unwrap();
        place.end(&disk, &own).await;
        disk.delete("pvc-1").await.unwrap();
    }
}

#[tokio::test]
async fn killed_at_any_step_it_goes_on() {
    let Some(place) = Place::new("killed") else { return };
    let own = volume("pvc-1");
    let mut there = 0;
    let told = place.dir.join("told");
    for round in 0..30 {
        let file = fs::File::create(&told).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "disk::tests::lives_of_a_volume", "--nocapture"])
            .env("KNARR_DISK_LIVES", &place.dir)
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        // Not the time of anything: a moment like any other.
        tokio::time::sleep(Duration::from_millis(20 + round * 7 % 90)).await;
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "round {round}: it ended by itself: {ended:?}\n{}", fs::read_to_string(&told).unwrap_or_default());
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        let disk = place.open();
        for found in disk.list().await.unwrap() {
            there += 1;
            place.stage(&disk, &own).await.unwrap_or_else(|e| panic!("round {round}: {e}"));
            place.publish(&disk, &own, "pod", false).await.unwrap_or_else(|e| panic!("round {round}: {e}"));
            fs::write(place.target("pod").join("after"), "ours").unwrap();
            // Killed while it was mounted it may be small still; mounted anew it is not.
            place.end(&disk, &own).await;
            place.stage(&disk, &own).await.unwrap_or_else(|e| panic!("round {round}: {e}"));
            place.publish(&disk, &own, "pod", false).await.unwrap_or_else(|e| panic!("round {round}: {e}"));
            let stats = disk.stats("pvc-1", &place.target("pod"), None).await.unwrap();
            assert!(stats.abnormal.is_none() && stats.bytes.unwrap().available + MIB >= found.meta.bytes, "round {round}: {stats:?} of {found:?}");
        }
        place.end(&disk, &own).await;
        place.assert_nothing_left(&format!("round {round}"));
        disk.delete("pvc-1").await.unwrap();
        assert_eq!(fs::read_dir(place.volumes()).unwrap().count(), 0, "round {round}");
    }
    println!("{there} of 30 were killed with a volume there");
}
