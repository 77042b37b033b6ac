//! Cuts of power, tried on the store's directory as it may be found then: what was synced is there; of what was written after the last sync,
//! each sector may be there or not. What was acknowledged survives, and of the write that was under way there is all or nothing.
//!
//! The directory is looked at after every acknowledged write, which is after its sync. Between two of them the difference is what a cut
//! may tear: its beginning up to any place, or any of its sectors. The note of what was acknowledged is never synced, so any that was written
//! before may be found, or none.

use super::*;
use serde_json::json;
use std::{collections::BTreeMap, fs, path::PathBuf};

const PODS: &str = "/registry/pods/";
/// What a disk writes whole.
const SECTOR_BYTES: usize = 512;
/// The store's note of what was acknowledged.
const NOTE: &str = "acknowledged";
/// Ways to tear each write by its sectors.
const TEARS: usize = 4;

/// What is in a file, and how long it is: the engine makes its journal long beforehand.
type Files = BTreeMap<PathBuf, (Vec<u8>, u64)>;
/// Objects with their JSON.
type Objects = BTreeMap<String, Vec<u8>>;

fn files(root: &Path, below: &Path, out: &mut Files) -> std::io::Result<()> {
    for file in fs::read_dir(root.join(below))? {
        let file = file?;
        let (place, meta) = (below.join(file.file_name()), file.metadata()?);
        if meta.is_dir() {
            files(root, &place, out)?;
            continue;
        }
        out.insert(place, (disk::written(&file.path())?, meta.len()));
    }
    Ok(())
}

fn look(root: &Path) -> Files {
    let mut out = Files::new();
    files(root, Path::new(""), &mut out).unwrap();
    out
}

fn lay(root: &Path, all: &Files) {
    let _ = fs::remove_dir_all(root);
    for (place, (bytes, length)) in all {
        let path = root.join(place);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(*length).unwrap();
    }
}

fn objects(store: &Store) -> Objects {
    let bucket = store.bucket(PODS);
    store.snapshot(&bucket, None).unwrap().range(PODS, "").map(|e| (e.key.to_string(), e.json.to_vec())).collect()
}

/// Marsaglia's xorshift: the same tears every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// The states of one file between two looks.
fn torn(random: &mut Random, before: &[u8], after: &[u8]) -> Vec<Vec<u8>> {
    let mut old = before.to_vec();
    old.resize(after.len().max(before.len()), 0);
    let mut new = after.to_vec();
    new.resize(old.len(), 0);
    let changed = |at: &usize| old[*at] != new[*at];
    let (Some(first), Some(last)) = ((0..old.len()).find(changed), (0..old.len()).rev().find(changed)) else { return Vec::new() };
    let length = last - first + 1;
    let mut cuts = vec![first + 1, last, last + 1];
    cuts.extend((1..5).map(|n| first + length * n / 5));
    let mut out: Vec<Vec<u8>> = cuts.iter().map(|cut| [&new[..*cut], &old[*cut..]].concat()).collect();
    for _ in 0..TEARS {
        let mut mixed = old.clone();
        for start in (first / SECTOR_BYTES * SECTOR_BYTES..=last).step_by(SECTOR_BYTES) {
            let end = (start + SECTOR_BYTES).min(new.len());
            if random.next() & 1 == 0 {
                mixed[start..end].copy_from_slice(&new[start..end]);
            }
        }
        out.push(mixed);
    }
    out
}

/// Creates, changes and removals of objects of some bytes to some sectors; the directory and what is in it after each.
async fn history(root: &Path) -> Vec<(u64, Files, Objects)> {
    let store = Store::open(root, &Options::default()).unwrap();
    let bucket = store.bucket(PODS);
    let mut out = vec![(store.revision(), look(root), objects(&store))];
    for step in 0..14_usize {
        let key = format!("{PODS}{}", step % 4);
        let there = bucket.get(&key);
        let expect = there.as_ref().map_or(Expect::Absent, |e| Expect::Revision(e.revision));
        if step % 5 == 4 && there.is_some() {
            store.delete(&bucket, &key, expect).await.unwrap();
        } else {
            // What does not shrink when it is compressed.
            let text: String = (0..[10, 700, 4000, 9000][step % 4]).map(|at| char::from(b'a' + ((at * at * 31 + step * 7 + at / 3) % 26) as u8)).collect();
            let draft = Draft::new(json!({"metadata": {"name": step.to_string()}, "spec": {"text": text}}), None, Vec::new());
            store.put(&bucket, &key, expect, draft).await.unwrap();
        }
        out.push((store.revision(), look(root), objects(&store)));
    }
    out
}

#[tokio::test]
async fn a_cut_of_power_loses_nothing_acknowledged_and_leaves_nothing_half() {
    let folder = std::env::temp_dir().join(format!("knarr-store-power-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    let states = history(&folder.join("first")).await;
    let (mut random, mut tried, mut whole) = (Random(0x9E37_79B9_7F4A_7C15), 0, 0);
    for pair in states.windows(2) {
        let [(revision, before, objects_before), (next, after, objects_after)] = pair else { continue };
        for (place, (bytes, length)) in after.iter().filter(|(place, _)| !place.ends_with(NOTE)) {
            let old = before.get(place).map_or(&[][..], |(bytes, _)| bytes);
            for (n, state) in torn(&mut random, old, bytes).into_iter().enumerate() {
                let mut found = before.clone();
                found.insert(place.clone(), (state, *length));
                let note = states[..]
                    .iter()
                    .rev()
                    .find(|(at, _, _)| *at <= revision.saturating_sub(n as u64 % 3))
                    .and_then(|(_, files, _)| files.get(Path::new(NOTE)));
                match note.filter(|_| n % 4 != 3) {
                    Some(note) => found.insert(NOTE.into(), note.clone()),
                    None => found.insert(NOTE.into(), (Vec::new(), 0)),
                };
                let root = folder.join("found");
                lay(&root, &found);
                let when = format!("between {revision} and {next}, state {n} of {}", place.display());
                let store = Store::open(&root, &Options::default()).unwrap_or_else(|e| panic!("{when}: {e}"));
                let (at, there) = (store.revision(), objects(&store));
                assert!(at == *revision || at == *next, "{when}: {at}");
                assert!(there == *if at == *next { objects_after } else { objects_before }, "{when}: the objects are not those of revision {at}");
                (tried, whole) = (tried + 1, whole + usize::from(at == *next));
                // It goes on from there, and what it writes then survives in its turn.
                if n % 5 == 0 {
                    let draft = Draft::new(json!({"metadata": {"name": "later"}}), None, Vec::new());
                    let later = store.put(&store.bucket(PODS), "/registry/pods/later", Expect::Absent, draft).await.unwrap().revision;
                    drop(store);
                    let store = Store::open(&root, &Options::default()).unwrap_or_else(|e| panic!("{when}, after another write: {e}"));
                    assert_eq!((store.revision(), objects(&store).len()), (later, there.len() + 1), "{when}");
                }
            }
        }
    }
    assert!(tried > 100 && whole > 10 && whole < tried, "{whole} of {tried} had the write that was under way");
    let _ = fs::remove_dir_all(&folder);
}

/// What fills the engine's memory in a few writes.
const BIG_BYTES: usize = 1 << 20;
/// How often the engine writes a table before its journal is full and another is begun.
const FLUSHES: usize = 2;

/// The directory when the engine's own thread has nothing left to do: it gives no sign, so its files are compared until they stay, for so
/// many looks that its thread had its turn meanwhile.
fn settled(root: &Path) -> Files {
    const LOOKS: usize = 4;
    let (mut last, mut same) = (None, 0);
    loop {
        let mut now = Files::new();
        // What goes while it is looked at makes another look.
        let now = files(root, Path::new(""), &mut now).is_ok().then_some(now);
        same = if now.is_some() && now == last { same + 1 } else { 0 };
        if same == LOOKS {
            return now.unwrap_or_default();
        }
        last = now;
        std::thread::sleep(std::time::Duration::from_millis(40));
    }
}

fn tables(files: &Files) -> Vec<&PathBuf> {
    files.keys().filter(|place| place.components().any(|part| part.as_os_str() == "tables")).collect()
}

fn journals(files: &Files) -> Vec<&PathBuf> {
    files.keys().filter(|place| place.extension().is_some_and(|end| end == "jnl")).collect()
}

/// The directory before and after a write.
type Pair = [(u64, Files, Objects); 2];

/// Writes until the engine has written tables, and then until it has begun another journal; the writes that brought it to that.
async fn full(root: &Path) -> Vec<Pair> {
    let store = Store::open(root, &Options::default()).unwrap();
    let bucket = store.bucket(PODS);
    let (mut random, mut out) = (Random(0xD1B5_4A32_D192_ED03), Vec::new());
    let mut before: Option<(u64, Files, Objects)> = None;
    for step in 0.. {
        let text: String = (0..BIG_BYTES / 16).map(|_| format!("{:016x}", random.next())).collect();
        let draft = Draft::new(json!({"metadata": {"name": step.to_string()}, "spec": {"text": text}}), None, Vec::new());
        let key = format!("{PODS}{}", step % 3);
        let expect = bucket.get(&key).map_or(Expect::Absent, |e| Expect::Revision(e.revision));
        store.put(&bucket, &key, expect, draft).await.unwrap();
        // Between the first tables and the end of the journal there is nothing new to see.
        let near_the_end = (step + 4) * (BIG_BYTES as u64 + 300) > disk::JOURNAL_BYTES;
        if out.len() >= FLUSHES && !near_the_end {
            before = None;
            continue;
        }
        let now = (store.revision(), settled(root), objects(&store));
        if let Some(before) = before.take() {
            let (wrote, turned) = (tables(&before.1) != tables(&now.1), journals(&before.1) != journals(&now.1));
            if wrote {
                out.push([before, now.clone()]);
            }
            if turned {
                return out;
            }
        }
        before = Some(now);
    }
    out
}

/// What is new, in the order in which the engine syncs it (`fjall`, `lsm-tree`): the next journal, tables, versions, and at last the file that
/// names the version.
fn in_order(before: &Files, after: &Files) -> Vec<PathBuf> {
    let rank = |place: &PathBuf| match place.file_name().and_then(|name| name.to_str()).unwrap_or_default() {
        name if name.ends_with(".jnl") => 0,
        "current" => 3,
        _ if tables(after).contains(&place) => 1,
        _ => 2,
    };
    let new = after.iter().filter(|(place, content)| !place.ends_with(NOTE) && (before.get(*place).is_none_or(|old| old != *content)));
    let mut new: Vec<PathBuf> = new.map(|(place, _)| place.clone()).filter(|place| rank(place) > 0 || !before.contains_key(place)).collect();
    new.sort_by_key(|place| (rank(place), place.clone()));
    new
}

/// Tables are written, and another journal is begun, by the engine's own thread while nothing is acknowledged: whatever of it a cut of power
/// leaves, what the journal held is there.
#[tokio::test]
async fn a_cut_of_power_while_tables_and_journals_are_written_loses_nothing() {
    let folder = std::env::temp_dir().join(format!("knarr-store-tables-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    let pairs = full(&folder.join("first")).await;
    let (mut random, mut tried) = (Random(0x9E37_79B9_7F4A_7C15), 0);
    let root = folder.join("found");
    for [(_, before, _), (revision, after, wanted)] in &pairs {
        let turned = journals(before) != journals(after);
        let mut base = before.clone();
        if !turned {
            // The write that filled the memory was synced before.
            base.extend(journals(after).into_iter().map(|place| (place.clone(), after[place].clone())));
        }
        base.insert(NOTE.into(), before[Path::new(NOTE)].clone());
        let mut check = |found: &Files, when: &str| {
            lay(&root, found);
            let store = Store::open(&root, &Options::default()).unwrap_or_else(|e| panic!("{when}: {e}"));
            let now = store.revision();
            // A journal that is gone afterwards is known as it was a write earlier.
            assert!(now == *revision || turned && now + 1 == *revision, "{when}: {now} of {revision}");
            assert!(now != *revision || objects(&store) == *wanted, "{when}: the objects are not those of revision {now}");
            tried += 1;
        };
        for step in &in_order(before, after) {
            let (bytes, length) = &after[step];
            let when = format!("at {revision}, {}", step.display());
            check(&base, &format!("{when} not begun"));
            // The name of the version is replaced as a whole.
            if !step.ends_with("current") {
                for state in torn(&mut random, &[], bytes).into_iter().step_by(3) {
                    let mut found = base.clone();
                    found.insert(step.clone(), (state, *length));
                    check(&found, &format!("{when} torn"));
                }
            }
            base.insert(step.clone(), (bytes.clone(), *length));
        }
        check(&base, &format!("at {revision}, nothing removed yet"));
        check(after, &format!("at {revision}"));
    }
    assert!(pairs.len() > FLUSHES && tried > 20, "{tried} states of {} writes", pairs.len());
    let _ = fs::remove_dir_all(&folder);
}
