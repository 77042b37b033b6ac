//! A disk that others fill, tried on a small file system of its own: what is free is taken at once by somebody else, as a pod that writes all
//! the time does. Mounting needs root, as the node does; without it there is nothing to try.

use super::*;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;
use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

const PODS: &str = "/registry/pods/";
const DISK_BYTES: u64 = 96 << 20;
/// What evicting a node full of pods may take.
const WRITES: usize = 3000;

struct Small(PathBuf);

impl Small {
    fn new(name: &str) -> Option<Small> {
        Self::with(name, DISK_BYTES)
    }

    fn with(name: &str, bytes: u64) -> Option<Small> {
        if !nix::unistd::geteuid().is_root() {
            return None;
        }
        let path = std::env::temp_dir().join(format!("knarr-full-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some(format!("size={bytes}").as_str())).unwrap();
        Some(Small(path))
    }

    /// It has as much room as the others now.
    fn grow(&self) {
        let size = format!("size={DISK_BYTES}");
        mount(Some("tmpfs"), &self.0, Some("tmpfs"), MsFlags::MS_REMOUNT, Some(size.as_str())).unwrap();
    }

    fn store(&self) -> PathBuf {
        self.0.join("store")
    }

    fn open(&self) -> Result<Store, OpenError> {
        Store::open(&self.store(), &Options::default())
    }

    fn engine_revision(&self) -> u64 {
        let gauge = Arc::<Gauge>::default();
        let reserve = reserve::Reserve::open(&self.store(), gauge).unwrap();
        reserve.records().first().map_or(u64::MAX, |(first, _)| first.base)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.0);
    }
}

/// Takes all room, and whatever becomes free.
struct Hog {
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
    file: PathBuf,
}

impl Hog {
    fn new(small: &Small) -> Hog {
        let (over, file) = (Arc::new(AtomicBool::new(false)), small.0.join("hog"));
        let (full, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn({
            let (over, mut file) = (Arc::clone(&over), fs::File::create(&file).unwrap());
            move || {
                while !over.load(Ordering::Relaxed) {
                    if file.write_all(&[1; 4096]).is_err() {
                        let _ = full.send(());
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            }
        });
        told.recv().unwrap();
        Hog { over, thread: Some(thread), file }
    }

    fn stop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Hog {
    /// As an evicted pod, whose files go.
    fn drop(&mut self) {
        self.stop();
        let _ = fs::remove_file(&self.file);
    }
}

fn draft(text: &str) -> Draft {
    Draft::new(json!({"metadata": {"name": "a"}, "spec": {"text": text}}), None, Vec::new())
}

/// Some kilobytes that do not shrink when they are compressed.
fn text(step: usize, bytes: usize) -> String {
    let mut state = (step as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..bytes / 16).map(|_| format!("{:016x}", next())).collect()
}

/// Creates, changes and removes objects of a few names.
async fn step(store: &Store, step: usize, bytes: usize) -> Result<u64, CommitError> {
    let (bucket, key) = (store.bucket(PODS), format!("{PODS}{}", step % 50));
    let expect = bucket.get(&key).map_or(Expect::Absent, |entry| Expect::Revision(entry.revision));
    let done = match expect {
        Expect::Revision(_) if step.is_multiple_of(7) => store.delete(&bucket, &key, expect).await,
        _ => store.put(&bucket, &key, expect, draft(&text(step, bytes))).await,
    };
    done.map(|entry| entry.revision)
}

fn objects(store: &Store) -> Vec<(String, u64, Vec<u8>)> {
    let bucket = store.bucket(PODS);
    store.snapshot(&bucket, None).unwrap().range(PODS, "").map(|e| (e.key.to_string(), e.revision, e.json.to_vec())).collect()
}

/// Waits until the store has left its reserve.
async fn at_ease(store: &Store) {
    while store.reserve().used_bytes() > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A disk on which there is no room for a store, or for a part of one: that is what is told, and once there is room there is a store.
#[tokio::test]
async fn a_store_that_has_no_room_at_first_is_made_when_there_is_some() {
    const BLOCK_BYTES: u64 = 4096;
    let mut refused = 0;
    for blocks in 1..24 {
        let Some(small) = Small::with("at-first", blocks * BLOCK_BYTES) else { return };
        match small.open() {
            Err(OpenError::Io { source, .. }) => {
                assert_eq!(source.kind(), std::io::ErrorKind::StorageFull, "{blocks} blocks: {source}");
                refused += 1;
            }
            Err(error) => panic!("{blocks} blocks: {error}"),
            // Nothing has been written to it yet.
            Ok(store) => drop(store),
        }
        small.grow();
        let store = small.open().unwrap_or_else(|error| panic!("{blocks} blocks, and then more: {error}"));
        step(&store, 1, 100).await.unwrap_or_else(|error| panic!("{blocks} blocks, and then more: {error:?}"));
    }
    assert!(refused > 0, "one of them is too small for what every store begins with");
}

#[tokio::test]
async fn who_fills_the_disk_stops_no_write_and_takes_no_room_from_the_store() {
    let Some(small) = Small::new("goes-on") else { return };
    let store = small.open().unwrap();
    assert_eq!((store.reserve().bytes(), store.reserve().used_bytes()), (reserve::BYTES, 0));
    for n in 0..100 {
        step(&store, n, 4000).await.unwrap();
    }
    assert_eq!(store.reserve().used_bytes(), 0);
    let mut hog = Hog::new(&small);
    for n in 100..100 + WRITES {
        step(&store, n, 4000).await.unwrap_or_else(|error| panic!("write {n}: {error}"));
    }
    assert!(store.reserve().used_bytes() > 0, "the engine cannot have had room");
    let (revision, there) = (store.revision(), objects(&store));
    // A restart in the middle of it: the disk is as full.
    drop(store);
    let store = small.open().unwrap();
    assert!((store.revision(), objects(&store)) == (revision, there) && store.reserve().used_bytes() > 0);
    step(&store, 1, 4000).await.unwrap();
    // Room comes back: it goes on without a restart, and everything is where it belongs.
    hog.stop();
    drop(hog);
    at_ease(&store).await;
    let last = step(&store, 2, 4000).await.unwrap();
    let there = objects(&store);
    assert_eq!((store.reserve().bytes(), store.reserve().used_bytes()), (reserve::BYTES, 0));
    drop(store);
    let store = small.open().unwrap();
    assert!(store.revision() == last && objects(&store) == there && store.reserve().used_bytes() == 0);
    // And it can be done again: what the first shortage left counts for nothing.
    let hog = Hog::new(&small);
    for n in 0..WRITES / 4 {
        step(&store, n, 4000).await.unwrap_or_else(|error| panic!("write {n} of the second: {error}"));
    }
    let there = objects(&store);
    drop(store);
    let store = small.open().unwrap();
    assert!(objects(&store) == there && store.reserve().used_bytes() > 0);
    drop(hog);
    at_ease(&store).await;
    assert!(objects(&store) == there);
}

#[tokio::test]
async fn a_reserve_that_is_used_up_refuses_as_etcd_does_and_takes_no_reads() {
    let Some(small) = Small::new("used-up") else { return };
    let store = small.open().unwrap();
    step(&store, 0, 4000).await.unwrap();
    let hog = Hog::new(&small);
    let mut n = 1;
    let refused = loop {
        match step(&store, n, 1 << 20).await {
            Ok(_) => n += 1,
            Err(error) => break error,
        }
    };
    assert!(n > 20, "{n} writes of a megabyte had room");
    assert_eq!((refused.to_string(), matches!(refused, CommitError::Full)), ("etcdserver: mvcc: database space exceeded".into(), true));
    let (revision, there) = (store.revision(), objects(&store));
    // Small ones have room behind it as long as there is some, and a conflict is told as such.
    step(&store, n + 1, 100).await.unwrap();
    let bucket = store.bucket(PODS);
    assert!(matches!(store.put(&bucket, &there[0].0, Expect::Absent, draft("x")).await, Err(CommitError::Conflict)));
    assert!(store.revision() > revision && objects(&store).len() >= there.len());
    let there = objects(&store);
    drop(store);
    let store = small.open().unwrap();
    assert!(objects(&store) == there);
    assert!(matches!(step(&store, n, 1 << 20).await, Err(CommitError::Full)));
    drop(hog);
    at_ease(&store).await;
    step(&store, n, 1 << 20).await.unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap().filter_map(Result::ok) {
        let place = to.join(file.file_name());
        if file.path().is_dir() {
            copy(&file.path(), &place);
        } else {
            let (bytes, length) = (disk::written(&file.path()).unwrap(), file.metadata().unwrap().len());
            fs::write(&place, bytes).unwrap();
            fs::OpenOptions::new().write(true).open(&place).unwrap().set_len(length).unwrap();
        }
    }
}

/// The process may be killed, or the power go, between any two steps: what was acknowledged is there once, and in order.
#[tokio::test]
async fn a_crash_between_reserve_and_engine_loses_nothing_and_does_nothing_twice() {
    let Some(small) = Small::new("crash") else { return };
    let folder = std::env::temp_dir().join(format!("knarr-full-states-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    let store = small.open().unwrap();
    for n in 0..60 {
        step(&store, n, 2000).await.unwrap();
    }
    let hog = Hog::new(&small);
    let (mut states, mut n) = (Vec::new(), 60);
    while states.len() < 4 {
        step(&store, n, 20_000).await.unwrap();
        n += 1;
        if store.reserve().used_bytes() > 0 {
            let at = folder.join(states.len().to_string());
            copy(&small.store(), &at);
            states.push((at, store.revision(), objects(&store)));
        }
    }
    let base = small.engine_revision();
    let open = |at: &Path| Store::open(at, &Options::default());
    for (which, (at, revision, there)) in states.iter().enumerate() {
        // Whole, as the process left it.
        let whole = folder.join("whole");
        copy(at, &whole);
        let store = open(&whole).unwrap();
        assert!(store.revision() == *revision && objects(&store) == *there, "state {which}");
        // There is room where it was copied to: it is brought back without a write, and the next write is after it.
        at_ease(&store).await;
        let later = step(&store, n, 100).await.unwrap();
        assert!(later > *revision && store.reserve().used_bytes() == 0);
        let after = objects(&store);
        drop(store);
        // Killed before the reserve was cleared: the engine has all that stands in it, and later writes too.
        fs::copy(at.join(reserve::FILE), whole.join(reserve::FILE)).unwrap();
        let store = open(&whole).unwrap();
        assert!(store.revision() == later && objects(&store) == after && store.reserve().used_bytes() == 0, "state {which} uncleared");
        drop(store);
        fs::remove_dir_all(&whole).unwrap();
        // The last record torn at any place: its batch is not there, and those before are. The note may tell of it only if it was
        // acknowledged, and then it was synced.
        let Some((_, before, objects_before)) = which.checked_sub(1).and_then(|before| states.get(before)) else { continue };
        let note = states[which - 1].0.join("acknowledged");
        let (old, new) = (disk::written(&states[which - 1].0.join(reserve::FILE)).unwrap(), disk::written(&at.join(reserve::FILE)).unwrap());
        for cut in [old.len() + 1, old.len() + 20, usize::midpoint(old.len(), new.len()), new.len() - 1] {
            copy(at, &whole);
            fs::write(whole.join(reserve::FILE), &new[..cut]).unwrap();
            fs::copy(&note, whole.join("acknowledged")).unwrap();
            let store = open(&whole).unwrap();
            assert!(store.revision() == *before && objects(&store) == *objects_before, "state {which} torn at {cut}");
            drop(store);
            fs::remove_dir_all(&whole).unwrap();
        }
    }
    // Half of it brought back when the power went: the engine's copy of one state, with the reserve of the next.
    let (first, _, _) = &states[0];
    let half = folder.join("half");
    copy(first, &half);
    let store = open(&half).unwrap();
    at_ease(&store).await;
    drop(store);
    let (last, revision, there) = &states[3];
    fs::copy(last.join(reserve::FILE), half.join(reserve::FILE)).unwrap();
    fs::copy(last.join("acknowledged"), half.join("acknowledged")).unwrap();
    let store = open(&half).unwrap();
    assert!(store.revision() == *revision && objects(&store) == *there);
    drop(store);
    // An engine that has less than the reserve rests on is told, whether or not the note survived.
    let lost = folder.join("lost");
    drop(open(&lost).unwrap());
    fs::copy(last.join(reserve::FILE), lost.join(reserve::FILE)).unwrap();
    let Err(error) = open(&lost) else { panic!("a reserve without what it rests on") };
    let text = format!("the changes from revision 1 to {base} are gone, upon which the reserve's rest");
    assert!(matches!(&error, OpenError::Damaged { what, .. } if what.contains(&text)), "{error}");
    let accepted = Store::open(&lost, &Options { accept_data_loss: true, ..Options::default() }).unwrap();
    assert!(objects(&accepted).is_empty() && accepted.revision() >= base && accepted.reserve().used_bytes() == 0);
    step(&accepted, 1, 100).await.unwrap();
    drop(accepted);
    assert!(open(&lost).is_ok() && fs::exists(lost.join("damaged-0").join(reserve::FILE)).unwrap());
    drop(hog);
    let _ = fs::remove_dir_all(folder);
}

#[test]
fn small_writes_have_the_last_quarter_however_many_come_at_once() {
    let directory = std::env::temp_dir().join(format!("knarr-reserve-quarter-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let mut reserve = reserve::Reserve::open(&directory, Arc::default()).unwrap();
    let mut revision = 0;
    let mut write = |many: usize, bytes: usize| {
        revision += 1;
        reserve.append((revision - 1, revision, 0), (0..many).map(|_| ("/registry/pods/a/b", Some(vec![b'x'; bytes]))))
    };
    while write(1, 65 << 10).is_ok() {}
    let taken = (0..99).take_while(|_| write(32, 4 << 10).is_ok()).count();
    fs::remove_dir_all(&directory).unwrap();
    assert!((62..=64).contains(&taken), "eight MiB are not for what is large: {taken} times 128 KiB");
}
