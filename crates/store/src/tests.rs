use super::*;
use machinery::Value;
use serde_json::json;
use std::collections::BTreeMap;

const PODS: &str = "/registry/pods/";

fn object(name: &str, label: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "resourceVersion": "999", "labels": {"app": label}}, "spec": {"nodeName": "n"}})
}

fn draft(name: &str, label: &str) -> Draft {
    Draft::new(object(name, label), vec![("spec.nodeName", "n".into())])
}

fn memory(compaction: Duration) -> Store {
    Store::in_memory(&Options { compaction }).unwrap()
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
async fn a_watch_tells_every_change_once_and_in_order() {
    let store = memory(hours());
    let bucket = store.bucket(PODS);
    let start = put(&store, "before", "x").await.revision;
    let mut watch = store.watch(&bucket, start).unwrap();
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
    let watch = store.watch(&pods, 0).unwrap();
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
    let mut watch = store.watch(&bucket, 0).unwrap();
    let mut present = put(&store, "a", "0").await;
    let big = "x".repeat(1 << 20);
    for _ in 0..40 {
        present = store.put(&bucket, &present.key.clone(), Expect::Revision(present.revision), draft("a", &big)).await.unwrap();
    }
    let expired = watch.next().await.unwrap_err();
    assert!(expired.0 > 0 && store.watch(&bucket, 0).is_err());
    assert!(store.watch(&bucket, expired.0).is_ok());
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
    assert_eq!(again.attributes(|v| vec![("x", v["spec"]["nodeName"].as_str().unwrap().into())]).field("x"), Some("n"));
    // History does not outlive a restart: older readers list again.
    assert!(store.watch(&bucket, a.revision).is_err() && store.watch(&bucket, gone.revision).is_ok());
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
