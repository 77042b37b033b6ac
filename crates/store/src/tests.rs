use super::*;
use machinery::Value;
use serde_json::json;
use std::collections::BTreeMap;

const PODS: &str = "/registry/pods/";

fn object(name: &str, label: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "resourceVersion": "999", "labels": {"app": label}}, "spec": {"nodeName": "n"}})
}

fn draft(name: &str, label: &str) -> Draft {
    on_node(name, label, "n")
}

fn on_node(name: &str, label: &str, node: &str) -> Draft {
    Draft::new(object(name, label), None, vec![("spec.nodeName".into(), node.into())])
}

fn fields() -> FieldsOf {
    Arc::new(|value| vec![("spec.nodeName".into(), value["spec"]["nodeName"].as_str().unwrap_or_default().into())])
}

/// A watch of everything in a bucket.
fn watch_all(store: &Store, bucket: &Bucket, from: u64) -> Result<Watch, Expired> {
    store.watch(bucket, from, Scope::Bucket, &fields())
}

fn memory(compaction: Duration) -> Store {
    Store::in_memory(&Options { compaction, ..Options::default() }).unwrap()
}

fn hours() -> Duration {
    Duration::from_secs(3600)
}

async fn put(store: &Store, name: &str, label: &str) -> Arc<Entry> {
    let bucket = store.bucket(PODS);
    let key = format!("{PODS}{name}");
    let expect = bucket.get(&key).map_or(Expect::Absent, |e| Expect::Revision(e.revision));
    store.put(&bucket, &key, expect, draft(name, label)).await.unwrap()
}

fn names(snapshot: &Snapshot) -> Vec<String> {
    snapshot.range(PODS, "").map(|e| e.key.rsplit('/').next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn an_entry_is_answered_as_it_was_written_with_its_revision_inside() {
    let store = memory(hours());
    let entry = put(&store, "a", "x").await;
    let mut expected = object("a", "x");
    expected["metadata"]["resourceVersion"] = entry.revision.to_string().into();
    assert_eq!(serde_json::from_slice::<Value>(&entry.json).unwrap(), expected);
    assert_eq!(*entry.value(), expected);
    let attributes = entry.attributes(|_| Vec::new());
    assert_eq!((attributes.label("app"), attributes.field("spec.nodeName"), attributes.label("b")), (Some("x"), Some("n"), None));
}

#[tokio::test]
async fn preconditions_decide_between_writers() {
    let store = memory(hours());
    let bucket = store.bucket(PODS);
    let first = put(&store, "a", "1").await.revision;
    let key = format!("{PODS}a");
    assert!(matches!(store.put(&bucket, &key, Expect::Absent, draft("a", "2")).await, Err(CommitError::Conflict)));
    // Of many who hold the same revision, one wins, also within one batch.
    let writers = (0..50).map(|i| {
        let (store, bucket, key) = (store.clone(), bucket.clone(), key.clone());
        tokio::spawn(async move { store.put(&bucket, &key, Expect::Revision(first), draft("a", &i.to_string())).await.is_ok() })
    });
    let mut won = 0;
    for writer in writers.collect::<Vec<_>>() {
        won += usize::from(writer.await.unwrap());
    }
    assert_eq!(won, 1);
    assert!(matches!(store.delete(&bucket, &key, Expect::Revision(first)).await, Err(CommitError::Conflict)));
    assert!(matches!(store.delete(&bucket, "/registry/pods/none", Expect::Revision(1)).await, Err(CommitError::Conflict)));
}

#[tokio::test]
async fn a_snapshot_knows_since_when_its_bucket_is_so() {
    let store = memory(hours());
    let bucket = store.bucket(PODS);
    let first = put(&store, "a", "x").await.revision;
    let other = store.bucket("/registry/others/");
    let later = store.put(&other, "/registry/others/a", Expect::Absent, draft("a", "x")).await.unwrap().revision;
    let now = store.snapshot(&bucket, None).unwrap();
    assert_eq!((now.revision(), now.changed()), (later, first));
    let second = put(&store, "b", "x").await.revision;
    assert_eq!(store.snapshot(&bucket, None).unwrap().changed(), second);
    let before = store.snapshot(&bucket, Some(first)).unwrap();
    assert_eq!((names(&before), before.changed()), (vec!["a".to_owned()], first));
}

#[tokio::test]
async fn a_watch_tells_every_change_once_and_in_order() {
    let store = memory(hours());
    let bucket = store.bucket(PODS);
    let start = put(&store, "before", "x").await.revision;
    let mut watch = watch_all(&store, &bucket, start).unwrap();
    assert_eq!(watch.passed(), Some(start));
    let writers: Vec<_> = (0..8)
        .map(|w| {
            let store = store.clone();
            tokio::spawn(async move {
                for i in 0..50 {
                    put(&store, &format!("{w}-{}", i % 5), &i.to_string()).await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let mut state: BTreeMap<Arc<str>, u64> = BTreeMap::new();
    for at in 1..=400 {
        let event = watch.next().await.unwrap();
        assert_eq!(event.revision, start + at);
        let new = event.new.as_ref().unwrap();
        assert_eq!(event.old.as_ref().map(|e| e.revision), state.insert(Arc::clone(&new.key), new.revision));
    }
    assert_eq!(watch.passed(), Some(store.revision()));
    let key = format!("{PODS}before");
    let gone = store.delete(&bucket, &key, Expect::Revision(start)).await.unwrap();
    let event = watch.next().await.unwrap();
    assert_eq!((event.revision, event.new.is_none()), (gone.revision, true));
    let last = event.deleted.as_ref().unwrap().value();
    assert_eq!((&last["metadata"]["resourceVersion"], &last["metadata"]["name"]), (&json!(gone.revision.to_string()), &json!("before")));
}

#[tokio::test]
async fn other_resources_do_not_disturb_a_watch_but_move_its_bookmark() {
    let store = memory(hours());
    let (pods, nodes) = (store.bucket(PODS), store.bucket("/registry/minions/"));
    let watch = watch_all(&store, &pods, 0).unwrap();
    let entry = store.put(&nodes, "/registry/minions/n", Expect::Absent, draft("n", "x")).await.unwrap();
    assert_eq!(watch.passed(), Some(entry.revision));
    assert_eq!(store.snapshot(&pods, None).unwrap().revision(), entry.revision);
}

#[tokio::test]
async fn a_list_at_an_older_revision_is_that_state_exactly() {
    let store = memory(hours());
    let bucket = store.bucket(PODS);
    for name in ["a", "b", "c"] {
        put(&store, name, "1").await;
    }
    let then = store.revision();
    let b = bucket.get("/registry/pods/b").unwrap();
    store.delete(&bucket, "/registry/pods/b", Expect::Revision(b.revision)).await.unwrap();
    put(&store, "a", "2").await;
    put(&store, "d", "2").await;
    let now = store.snapshot(&bucket, None).unwrap();
    assert_eq!(names(&now), ["a", "c", "d"]);
    for _ in 0..2 {
        let old = store.snapshot(&bucket, Some(then)).unwrap();
        assert_eq!((names(&old), old.revision()), (vec!["a".into(), "b".into(), "c".into()], then));
        assert_eq!(old.get("/registry/pods/a").unwrap().attributes(|_| Vec::new()).label("app"), Some("1"));
        let rest: Vec<_> = old.range(PODS, "/registry/pods/a").map(|e| &*e.key).collect();
        assert_eq!(rest, ["/registry/pods/b", "/registry/pods/c"]);
    }
}

#[tokio::test]
async fn a_bucket_was_before_it_was_made_as_it_began() {
    let directory = Directory::new("begun");
    let store = Store::open(&directory.0, &Options::default()).unwrap();
    put(&store, "a", "1").await;
    drop(store);
    let store = Store::open(&directory.0, &Options::default()).unwrap();
    let opened = store.revision();
    let other = store.bucket("/registry/nodes/");
    let present = store.put(&other, "/registry/nodes/n", Expect::Absent, draft("n", "1")).await.unwrap().revision;
    let bucket = store.bucket(PODS);
    put(&store, "b", "1").await;
    for at in [opened, present] {
        let old = store.snapshot(&bucket, Some(at)).unwrap();
        assert_eq!((names(&old), old.revision()), (vec!["a".into()], at));
    }
    assert!(store.snapshot(&bucket, Some(opened - 1)).is_none(), "what was before the opening is not known");
}

#[tokio::test]
async fn compaction_forgets_older_snapshots() {
    let store = memory(Duration::ZERO);
    let bucket = store.bucket(PODS);
    put(&store, "a", "1").await;
    let then = store.revision();
    put(&store, "a", "2").await;
    assert!(store.snapshot(&bucket, Some(then)).is_none());
    assert!(store.snapshot(&bucket, None).is_some());
}

#[tokio::test]
async fn a_slow_reader_is_told_that_it_was_too_slow() {
    let store = memory(hours());
    let bucket = store.bucket(PODS);
    let mut watch = watch_all(&store, &bucket, 0).unwrap();
    let mut present = put(&store, "a", "0").await;
    let big = "x".repeat(1 << 20);
    for _ in 0..80 {
        present = store.put(&bucket, &present.key.clone(), Expect::Revision(present.revision), draft("a", &big)).await.unwrap();
    }
    let expired = watch.next().await.unwrap_err();
    assert!(expired.0 > 0 && watch_all(&store, &bucket, 0).is_err());
    assert!(watch_all(&store, &bucket, expired.0).is_ok());
}

struct Directory(std::path::PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("knarr-store-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Directory(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let directory = Directory::new("restart");
    let options = Options::default();
    let store = Store::open(&directory.0, &options).unwrap();
    assert!(matches!(Store::open(&directory.0, &options), Err(OpenError::Locked(_))));
    let a = put(&store, "a", "1").await;
    let b = put(&store, "b", "1").await;
    let bucket = store.bucket(PODS);
    let gone = store.delete(&bucket, "/registry/pods/b", Expect::Revision(b.revision)).await.unwrap();
    drop((bucket, store));
    let store = Store::open(&directory.0, &options).unwrap();
    assert_eq!(store.revision(), gone.revision);
    let bucket = store.bucket(PODS);
    let again = bucket.get("/registry/pods/a").unwrap();
    assert_eq!((bucket.len(), again.revision, again.create_revision, &again.json), (1, a.revision, a.create_revision, &a.json));
    assert_eq!(again.attributes(|v| vec![("x".into(), v["spec"]["nodeName"].as_str().unwrap().into())]).field("x"), Some("n"));
    // History does not outlive a restart: older readers list again.
    assert!(watch_all(&store, &bucket, a.revision).is_err() && watch_all(&store, &bucket, gone.revision).is_ok());
    assert!(put(&store, "c", "1").await.revision > gone.revision);
}

#[tokio::test]
async fn a_half_written_journal_loses_nothing_acknowledged() {
    let directory = Directory::new("torn");
    let store = Store::open(&directory.0, &Options::default()).unwrap();
    put(&store, "a", "1").await;
    drop(store);
    // A crash in the middle of a write leaves the beginning of a record: here, of garbage, after the last whole one.
    let journal = std::fs::read_dir(&directory.0)
        .unwrap()
        .filter_map(Result::ok)
        .map(|f| f.path())
        .find(|p| p.extension().is_some_and(|e| e == "jnl"))
        .expect("the engine's journal");
    use std::io::Write as _;
    let mut file = std::fs::OpenOptions::new().append(true).open(&journal).unwrap();
    file.write_all(&[1, 0, 0, 0, 9, 9, 9]).unwrap();
    drop(file);
    let store = Store::open(&directory.0, &Options::default()).unwrap();
    assert!(store.bucket(PODS).get("/registry/pods/a").is_some());
    put(&store, "b", "1").await;
}

#[tokio::test]
async fn a_watch_of_a_part_is_told_of_nothing_else() {
    let store = memory(hours());
    let bucket = store.bucket(PODS);
    put(&store, "x/before", "1").await;
    let start = store.revision();
    put(&store, "x/a", "1").await;
    let scopes = [Scope::Namespace(format!("{PODS}x/")), Scope::Object(format!("{PODS}x/a")), Scope::Field("spec.nodeName", "m".into())];
    let mut watches: Vec<_> = scopes.into_iter().map(|scope| store.watch(&bucket, start, scope, &fields()).unwrap()).collect();
    put(&store, "y/b", "1").await;
    let a = bucket.get("/registry/pods/x/a").unwrap();
    let moved = store.put(&bucket, &a.key, Expect::Revision(a.revision), on_node("x/a", "1", "m")).await.unwrap();
    put(&store, "x/c", "1").await;
    let gone = store.put(&bucket, &a.key, Expect::Revision(moved.revision), on_node("x/a", "1", "n")).await.unwrap();
    put(&store, "y/d", "1").await;
    let expected = [
        vec![a.revision, moved.revision, moved.revision + 1, gone.revision],
        vec![a.revision, moved.revision, gone.revision],
        vec![moved.revision, gone.revision],
    ];
    for (watch, expected) in watches.iter_mut().zip(expected) {
        assert!(watch.passed().is_none(), "there is something to be told");
        for revision in expected {
            assert_eq!(watch.next().await.unwrap().revision, revision);
        }
        assert_eq!(watch.passed(), Some(store.revision()), "the others are not told");
    }
    drop(watches);
    bucket.write(|state| assert!(state.routes.is_empty(), "what nobody reads is not filled"));
}

#[tokio::test]
async fn a_part_s_slow_reader_is_told_that_it_was_too_slow() {
    let store = memory(hours());
    let bucket = store.bucket(PODS);
    let mut present = put(&store, "a", "0").await;
    let mut watch = store.watch(&bucket, present.revision, Scope::Object(present.key.to_string()), &fields()).unwrap();
    let big = "x".repeat(1 << 20);
    for _ in 0..20 {
        present = store.put(&bucket, &present.key.clone(), Expect::Revision(present.revision), draft("a", &big)).await.unwrap();
    }
    assert!(watch.next().await.is_err());
}

#[tokio::test]
async fn an_index_knows_what_a_walk_would_find() {
    let store = memory(hours());
    let bucket = store.bucket(PODS);
    let writes = (0..index::BUCKET_MIN).map(|n| {
        let (key, draft) = (format!("{PODS}{}/{n:05}", n % 2), on_node("p", &format!("v{}", n % 7), &format!("n{}", n % 100)));
        let (store, bucket) = (store.clone(), bucket.clone());
        tokio::spawn(async move { store.put(&bucket, &key, Expect::Absent, draft).await.unwrap() })
    });
    for write in writes.collect::<Vec<_>>() {
        write.await.unwrap();
    }
    let demands = [Demand::Label("app", "v3"), Demand::Field("spec.nodeName", "n5")];
    let known = async || loop {
        if let (snapshot, Some(candidates)) = store.snapshot_for(&bucket, &demands, &fields()) {
            return (snapshot, candidates);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    known().await;
    // It is kept by what is written afterwards.
    let some = bucket.get(&format!("{PODS}1/00005")).unwrap();
    store.put(&bucket, &some.key, Expect::Revision(some.revision), on_node("p", "v5", "elsewhere")).await.unwrap();
    let other = bucket.get(&format!("{PODS}1/00105")).unwrap();
    store.delete(&bucket, &other.key, Expect::Revision(other.revision)).await.unwrap();
    store.put(&bucket, &format!("{PODS}1/new"), Expect::Absent, on_node("p", "v3", "n5")).await.unwrap();
    let fields = fields();
    let selects = |entry: &Arc<Entry>, node: bool| {
        let attributes = entry.attributes(|value| fields(value));
        if node { attributes.field("spec.nodeName") == Some("n5") } else { attributes.label("app") == Some("v3") }
    };
    loop {
        let (snapshot, candidates) = known().await;
        let found: Vec<_> = candidates.range(&snapshot, &format!("{PODS}1/"), "").map(|e| e.key.clone()).collect();
        let by_node: Vec<_> = snapshot.range(&format!("{PODS}1/"), "").filter(|e| selects(e, true)).map(|e| e.key.clone()).collect();
        let by_label: Vec<_> = snapshot.range(&format!("{PODS}1/"), "").filter(|e| selects(e, false)).map(|e| e.key.clone()).collect();
        // The one that leaves the fewest is taken as soon as both are there.
        if found == by_node {
            assert!(!found.is_empty() && found.len() < by_label.len());
            break;
        }
        assert_eq!(found, by_label);
    }
    // A value that nobody has costs nothing: there is no entry to be looked at.
    for demand in [Demand::Label("app", "none"), Demand::Field("spec.nodeName", "none")] {
        let (snapshot, candidates) = loop {
            if let (snapshot, Some(candidates)) = store.snapshot_for(&bucket, &[demand], &fields) {
                break (snapshot, candidates);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        assert_eq!(candidates.range(&snapshot, PODS, "").count(), 0);
    }
}

#[tokio::test]
async fn objects_are_counted_by_namespace_at_every_revision() {
    let store = memory(hours());
    let bucket = store.bucket(PODS);
    for name in ["a/1", "a/2", "b/1"] {
        put(&store, name, "1").await;
    }
    let then = store.revision();
    put(&store, "a/2", "2").await;
    put(&store, "c/1", "1").await;
    let b = bucket.get("/registry/pods/b/1").unwrap();
    store.delete(&bucket, &b.key, Expect::Revision(b.revision)).await.unwrap();
    let count = |at: Option<u64>| {
        let snapshot = store.snapshot(&bucket, at).unwrap();
        [PODS, "/registry/pods/a/", "/registry/pods/b/", "/registry/pods/c/"].map(|prefix| snapshot.count(prefix))
    };
    assert_eq!((count(None), count(Some(then))), ([3, 2, 0, 1], [3, 2, 1, 0]));
}

#[tokio::test]
async fn what_is_over_is_given_back() {
    let store = memory(Duration::from_secs(1));
    let bucket = store.bucket(PODS);
    for n in 0..100 {
        put(&store, "a", &n.to_string()).await;
    }
    let then = store.revision() - 10;
    assert!(store.snapshot(&bucket, Some(then)).is_some());
    assert_eq!(bucket.remembered(), (100, 1));
    store.memory.forget(std::time::Instant::now() + Duration::from_secs(3600));
    assert_eq!(bucket.remembered(), (64, 0), "the last changes are kept whatever their age");
}

/// Changes bytes of the journal at a part of what is written in it.
fn damage(directory: &Directory, at: f64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt as _;
    let journal = directory.0.join("0.jnl");
    let file = std::fs::OpenOptions::new().write(true).read(true).open(&journal).unwrap();
    let written = crate::disk::written(&journal).unwrap().len() - 1;
    file.write_all_at(bytes, (written as f64 * at) as u64).unwrap();
}

#[test]
fn what_a_journal_holds_is_not_told_by_what_it_takes_of_the_disk() {
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};
    let directory = Directory::new("sparse");
    std::fs::create_dir_all(&directory.0).unwrap();
    let path = directory.0.join("0.jnl");
    let file = std::fs::File::create(&path).unwrap();
    // A hole in what is written takes nothing, as what a file system compresses takes less.
    let last = 1 << 20;
    file.write_all_at(&[1], 0).unwrap();
    file.write_all_at(&[2], last).unwrap();
    file.set_len(4 << 20).unwrap();
    assert!(file.metadata().unwrap().blocks() * 512 < last);
    let bytes = crate::disk::written(&path).unwrap();
    assert_eq!((bytes.len() as u64, bytes.first(), bytes.last()), (last + 1, Some(&1), Some(&2)));
    file.set_len(0).unwrap();
    file.set_len(1 << 20).unwrap();
    assert!(crate::disk::written(&path).unwrap().is_empty());
}

#[tokio::test]
async fn a_store_whose_making_was_cut_anywhere_is_made_the_next_time() {
    use std::{fs, path::Path};
    // What there is, in the order in which it comes to be; of what is in a directory nothing may be there yet.
    type Step = (&'static str, fn(&Path));
    let steps: [Step; 9] = [
        ("the lock", |root| fs::write(root.join("lock"), "").unwrap()),
        ("the place for tables", |root| fs::create_dir(root.join("keyspaces")).unwrap()),
        ("the journal", |root| fs::write(root.join("0.jnl"), "").unwrap()),
        ("the journal's length", |root| fs::File::options().write(true).open(root.join("0.jnl")).unwrap().set_len(64 << 20).unwrap()),
        ("the marker", |root| fs::write(root.join("version"), "").unwrap()),
        ("a part of the marker", |root| fs::write(root.join("version"), "FJL").unwrap()),
        ("the whole marker", |root| fs::write(root.join("version"), b"FJL\x03").unwrap()),
        ("the engine's own tables", |root| fs::create_dir_all(root.join("keyspaces/0/tables")).unwrap()),
        ("the objects' tables", |root| fs::create_dir_all(root.join("keyspaces/1/tables")).unwrap()),
    ];
    for (number, (last, _)) in steps.iter().enumerate() {
        let directory = Directory::new("unmade");
        fs::create_dir(&directory.0).unwrap();
        steps[..=number].iter().for_each(|(_, step)| step(&directory.0));
        let store = Store::open(&directory.0, &Options::default()).unwrap_or_else(|error| panic!("cut after {last}: {error}"));
        put(&store, "a", "1").await;
        drop(store);
        let store = Store::open(&directory.0, &Options::default()).unwrap();
        assert!(store.bucket(PODS).get(&format!("{PODS}a")).is_some(), "cut after {last}");
    }
}

#[tokio::test]
async fn nothing_is_made_over_a_store_that_has_lost_its_marker_or_is_being_made() {
    let directory = Directory::new("unmarked");
    let refused = || Store::open(&directory.0, &Options::default()).err().expect("it is refused").to_string();
    let store = Store::open(&directory.0, &Options::default()).unwrap();
    put(&store, "a", "1").await;
    drop(store);
    let marker = directory.0.join("version");
    let whole = std::fs::read(&marker).unwrap();
    std::fs::write(&marker, &whole[..2]).unwrap();
    assert!(refused().contains("is damaged: its file \"version\""), "{}", refused());
    let lock = std::fs::File::open(directory.0.join("lock")).unwrap();
    lock.lock().unwrap();
    assert!(refused().contains("in use by another process"), "{}", refused());
    drop(lock);
    let accepts = Options { accept_data_loss: true, ..Options::default() };
    let has_all = |options: &Options| Store::open(&directory.0, options).unwrap().bucket(PODS).get(&format!("{PODS}a")).is_some();
    assert!(has_all(&accepts), "what is there is opened");
    assert_eq!(std::fs::read(&marker).unwrap(), whole);
    assert!(has_all(&Options::default()));
}

#[tokio::test]
async fn what_is_cut_from_the_end_of_the_journal_is_kept_if_it_may_have_been_whole() {
    let directory = Directory::new("cut");
    let store = Store::open(&directory.0, &Options::default()).unwrap();
    put(&store, "a", "1").await;
    put(&store, "b", "1").await;
    drop(store);
    let journal = directory.0.join("0.jnl");
    let before = crate::disk::written(&journal).unwrap();
    // A byte of the last batch is another, its end is there.
    let end = before.windows(4).rposition(|w| w == b"FJL\x03").unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&journal).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[!before[end - 20]], end as u64 - 20).unwrap();
    let damaged = crate::disk::written(&journal).unwrap();
    let accepting = Options { accept_data_loss: true, ..Options::default() };
    let store = Store::open(&directory.0, &accepting).unwrap();
    assert!(store.bucket(PODS).get("/registry/pods/a").is_some() && store.bucket(PODS).get("/registry/pods/b").is_none());
    assert_eq!(std::fs::read(directory.0.join("damaged-0/0.jnl")).unwrap(), damaged);
}

#[tokio::test]
async fn damage_in_the_middle_of_the_journal_is_told_and_not_passed_over() {
    // A flipped byte in an object, and a stretch of zeros where the journal's own records are.
    for (name, bytes) in [("flipped", vec![0xff]), ("zeros", vec![0; 3000])] {
        let directory = Directory::new(name);
        let options = Options::default();
        let store = Store::open(&directory.0, &options).unwrap();
        for n in 0..50 {
            put(&store, &format!("p{n}"), &"x".repeat(200)).await;
        }
        let last = store.revision();
        drop(store);
        damage(&directory, 0.5, &bytes);
        for _ in 0..2 {
            let refused = Store::open(&directory.0, &options).err().expect("it must not start as if nothing were");
            let text = refused.to_string();
            assert!(matches!(refused, OpenError::Damaged { .. }) && text.contains("--accept-data-loss"), "{name}: {text}");
        }
        assert!(directory.0.join("damaged-0/0.jnl").exists(), "{name}: what was found is kept");
        assert!(!directory.0.join("damaged-1").exists(), "{name}: once is enough");
        let accepting = Options { accept_data_loss: true, ..options.clone() };
        let store = Store::open(&directory.0, &accepting).unwrap();
        let there = store.bucket(PODS).len();
        assert!((10..50).contains(&there), "{name}: {there} objects");
        assert!(store.revision() >= last, "{name}: no revision is given twice");
        put(&store, "after", "1").await;
        drop(store);
        let store = Store::open(&directory.0, &options).expect("it is whole again");
        assert_eq!(store.bucket(PODS).len(), there + 1);
    }
}

#[tokio::test]
async fn damage_in_an_older_journal_leaves_what_comes_before_it() {
    let directory = Directory::new("sealed");
    let store = Store::open(&directory.0, &Options::default()).unwrap();
    let journal = directory.0.join("0.jnl");
    let end = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let mut boundary = 0;
    for n in 0..50 {
        put(&store, &format!("p{n:02}"), &"x".repeat(200)).await;
        if n == 30 {
            boundary = end(&std::fs::read(&journal).unwrap());
        }
    }
    drop(store);
    // As if the engine had begun a second journal and not yet turned the first into a table.
    let bytes = std::fs::read(&journal).unwrap();
    std::fs::write(directory.0.join("1.jnl"), &bytes[boundary..end(&bytes)]).unwrap();
    let mut first = bytes[..boundary].to_vec();
    let x = first.iter().skip(boundary / 2).position(|byte| *byte == b'x').unwrap();
    first[boundary / 2 + x] = b'y';
    std::fs::write(&journal, first).unwrap();
    assert!(matches!(Store::open(&directory.0, &Options::default()), Err(OpenError::Damaged { .. })));
    let accepting = Options { accept_data_loss: true, ..Options::default() };
    let store = Store::open(&directory.0, &accepting).expect("it goes on with what is there");
    let there = store.bucket(PODS).len();
    assert!((5..31).contains(&there), "what comes before the damage: {there}");
    put(&store, "after", "1").await;
    drop(store);
    Store::open(&directory.0, &Options::default()).expect("it is whole again");
}

#[tokio::test]
async fn messages_that_were_made_once_are_not_held_for_ever() {
    let store = memory(hours());
    let bucket = store.bucket(PODS);
    for name in ["a", "b", "c"] {
        put(&store, name, "1").await;
    }
    let made = std::cell::Cell::new(0);
    let message = |name: &str, bytes: usize| {
        let entry = bucket.get(&format!("{PODS}{name}")).unwrap();
        entry.protobuf(|| {
            made.set(made.get() + 1);
            vec![0; bytes]
        })
    };
    message("a", 16 << 20);
    message("a", 16 << 20);
    assert_eq!(made.get(), 1, "it is kept while it is used");
    message("b", 15 << 20);
    message("c", 15 << 20);
    assert!(store.memory.decoded.message_bytes() <= 32 << 20);
    message("a", 1);
    assert_eq!(made.get(), 4, "the oldest has made room");
    let entry = bucket.get(&format!("{PODS}b")).unwrap();
    assert!(bucket.get(&format!("{PODS}a")).unwrap().kept_protobuf().is_some());
    assert_eq!(entry.protobuf_len(|| unreachable!("it is known of what was made once")), 15 << 20);
}

#[tokio::test]
async fn the_store_is_its_owner_s_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    fn look(path: &std::path::Path, found: &mut Vec<(bool, u32)>) {
        let metadata = path.metadata().unwrap();
        found.push((metadata.is_dir(), metadata.permissions().mode() & 0o777));
        if metadata.is_dir() {
            std::fs::read_dir(path).unwrap().for_each(|file| look(&file.unwrap().path(), found));
        }
    }
    let directory = Directory::new("private");
    std::fs::create_dir(&directory.0).unwrap();
    std::fs::set_permissions(&directory.0, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(directory.0.join("older"), "").unwrap();
    let store = Store::open(&directory.0, &Options::default()).unwrap();
    put(&store, "a", "1").await;
    let mut found = Vec::new();
    look(&directory.0, &mut found);
    assert!(found.len() > 3);
    assert!(found.iter().all(|(directory, mode)| *mode == if *directory { 0o700 } else { 0o600 }), "{found:?}");
}

#[tokio::test]
async fn what_is_long_is_there_after_a_restart() {
    let directory = Directory::new("long");
    let long = |n: usize| format!("{n}").repeat(100_000 + n);
    let store = Store::open(&directory.0, &Options::default()).unwrap();
    for n in 0..9 {
        put(&store, &format!("a{n}"), &long(n)).await;
        put(&store, &format!("b{n}"), "short").await;
    }
    drop(store);
    let store = Store::open(&directory.0, &Options::default()).unwrap();
    let bucket = store.bucket(PODS);
    for n in 0..9 {
        let label = |name: &str| bucket.get(&format!("{PODS}{name}{n}")).map(|entry| entry.value()["metadata"]["labels"]["app"].clone());
        assert_eq!((label("a"), label("b")), (Some(long(n).into()), Some("short".into())));
    }
}

#[test]
fn an_object_with_sorted_keys_is_put_in_order() {
    let sorted = br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"resourceVersion":"17","name":"a"},"data":{"a":"<"}}"#;
    let (ordered, hole) = entry::put_in_order(sorted).unwrap();
    let text = r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","resourceVersion":"17"},"data":{"a":"\u003c"}}"#;
    assert_eq!(String::from_utf8(ordered).unwrap(), text);
    assert!(text[hole..].starts_with("17"));
    let nameless = br#"{"data":{"b":"1","a":"2"},"metadata":{"resourceVersion":"17"}}"#;
    let (ordered, hole) = entry::put_in_order(nameless).expect("the store opens with it");
    assert!(ordered[hole..].starts_with(b"17") && ordered.starts_with(br#"{"data":{"a":"2","b":"1"}"#));
}

#[tokio::test]
async fn a_watch_that_begins_before_a_change_is_published_is_woken() {
    let memory = Arc::new(Memory::new(hours()));
    let bucket = memory.bucket(PODS);
    let key: Arc<str> = format!("{PODS}d/a").into();
    let new = draft("a", "x").into_entry(Arc::clone(&key), 1, 1, &memory.decoded);
    let event = Arc::new(Event { revision: 1, new: Some(new), old: None, deleted: None });
    let now = std::time::Instant::now();
    bucket.apply(now, std::iter::once((key, event)));
    let scope = Scope::Namespace(format!("{PODS}d/"));
    let mut watch = Watch::new(Arc::clone(&memory), bucket.clone(), 0, scope, &fields()).unwrap();
    let mut next = Box::pin(watch.next());
    let first = std::future::poll_fn(|cx| std::task::Poll::Ready(next.as_mut().poll(cx))).await;
    assert!(first.is_pending(), "it is not published yet");
    memory.publish(now, 1);
    bucket.wake();
    let told = tokio::time::timeout(Duration::from_secs(20), next).await.expect("it is woken");
    assert_eq!(told.unwrap().revision, 1);
}

#[test]
fn a_file_that_goes_while_it_is_looked_at_stops_nobody() {
    let gone = || std::io::Error::from(std::io::ErrorKind::NotFound);
    assert!(matches!(disk::unless_gone::<()>(Err(gone())), Ok(None)));
    assert!(disk::unless_gone::<()>(Err(std::io::ErrorKind::PermissionDenied.into())).is_err());
}

/// As many levels as any body may have, on threads as the program has them.
#[test]
fn what_is_nested_deep_is_there_after_a_restart() {
    let test = || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let directory = Directory::new("deep");
            let text = format!(
                r#"{{"apiVersion":"apps/v1","kind":"ControllerRevision","metadata":{{"name":"a"}},"data":{}1{}}}"#,
                r#"{"a":"#.repeat(9_990),
                "}".repeat(9_990)
            );
            let deep: Value = machinery::json::read(text.as_bytes()).unwrap();
            let key = format!("{PODS}deep");
            let store = Store::open(&directory.0, &Options::default()).unwrap();
            let put = store.put(&store.bucket(PODS), &key, Expect::Absent, Draft::new(deep.clone(), None, Vec::new())).await.unwrap();
            assert!(put.value()["data"] == deep["data"]);
            drop((put, store));
            let store = Store::open(&directory.0, &Options::default()).unwrap();
            let entry = store.bucket(PODS).get(&key).unwrap();
            assert!(entry.value()["data"] == deep["data"]);
            assert_eq!(entry.attributes(|value| vec![("kind".into(), value["kind"].to_string())]).field("kind"), Some("\"ControllerRevision\""));
        });
    };
    std::thread::Builder::new().stack_size(machinery::json::STACK_BYTES).spawn(test).unwrap().join().unwrap();
}

#[tokio::test]
async fn a_store_knows_how_much_room_it_takes() {
    assert_eq!(memory(hours()).size_bytes(), None);
    let directory = Directory::new("size");
    let store = Store::open(&directory.0, &Options::default()).unwrap();
    put(&store, "a", &"x".repeat(1 << 20)).await;
    let size = store.size_bytes().unwrap();
    assert!(size > 0, "{size}");
}
