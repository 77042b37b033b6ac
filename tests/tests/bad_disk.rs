//! A disk that is full and a store that is half there: what was acknowledged is not lost, and what is wrong is told.

use client::{Api, Error};
use cluster_tests::{Cluster, PATIENCE, process, small::Small, words};
use k8s_openapi::api::core::v1::ConfigMap;
use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Without a node: the store is what these tests are about.
const API_ONLY: [&str; 2] = ["--disable", "kubelet,proxy,dns,scheduler"];

fn map(name: &str, text: &str) -> ConfigMap {
    let mut map = ConfigMap::default();
    map.metadata.name = Some(name.to_owned());
    map.data = Some([("text".to_owned(), text.to_owned())].into());
    map
}

fn there(cluster: &Cluster, names: &[String]) {
    let list = cluster.json("get configmaps");
    let found: Vec<_> = list["items"].as_array().expect("a list").iter().filter_map(|m| m["metadata"]["name"].as_str()).collect();
    let lost: Vec<_> = names.iter().filter(|n| !found.contains(&n.as_str())).collect();
    assert!(lost.is_empty(), "of {} acknowledged objects {lost:?} are lost", names.len());
}

/// A text that cannot be made much smaller, in case a disk would.
fn large(bytes: u64) -> String {
    (0..bytes).map(|n| char::from(b'a' + (n.wrapping_mul(n).wrapping_mul(2_654_435_761) >> 17) as u8 % 26)).collect()
}

/// A name of `knarr_store_…` in `/metrics`.
fn metric(cluster: &Cluster, name: &str) -> u64 {
    let all = cluster.kubectl("get --raw /metrics");
    let line = all.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or_else(|| panic!("no {name}"));
    line.parse().expect("a number")
}

async fn write_until_refused(api: &Api<ConfigMap>, prefix: &str, names: &mut Vec<String>) -> Error {
    let text = large(200_000);
    for number in 0.. {
        let name = format!("{prefix}-{number}");
        match api.create(&map(&name, &text)).await {
            Ok(_) => names.push(name),
            Err(error) => return error,
        }
    }
    unreachable!("a full disk refuses")
}

#[test]
fn a_full_disk_stops_no_write_until_the_reserve_is_used_up_and_recovers() {
    const RESERVE: &str = "knarr_store_reserve_bytes";
    const USED: &str = "knarr_store_reserve_used_bytes";
    let at = std::env::temp_dir().join(format!("knarr-test-small-{}", std::process::id()));
    // Before the cluster: it is dropped after it.
    let small = Small::new(&at, 128);
    let mut cluster = Cluster::new("full").with(&API_ONLY).data_in(&small.0.join("data"));
    cluster.start(&[]).assert_ok();
    let api = cluster.client().namespaced::<ConfigMap>("default");
    let mut names = vec!["first".to_owned()];
    cluster.block_on("a write", api.create(&map("first", "1"))).expect("there is room");

    assert!(metric(&cluster, RESERVE) > 0 && metric(&cluster, USED) == 0);
    let filler = small.fill();
    // As many as it takes to evict who has filled it.
    for number in 0..1000 {
        let name = format!("small-{number}");
        cluster.block_on("a write", api.create(&map(&name, "text"))).unwrap_or_else(|e| panic!("write {number}: {e}"));
        names.push(name);
    }
    for number in 0..20 {
        let name = format!("middle-{number}");
        cluster.block_on("a write", api.create(&map(&name, &large(200_000)))).unwrap_or_else(|e| panic!("write {number}: {e}"));
        names.push(name);
    }
    assert!(metric(&cluster, USED) > 0, "the engine cannot have had room");
    // A start needs no room either.
    cluster.kill();
    cluster.start(&[]).assert_ok();
    there(&cluster, &names);
    let api = cluster.client().namespaced::<ConfigMap>("default");
    let refusal = cluster.block_on("a refusal", write_until_refused(&api, "more", &mut names));
    let status = refusal.status().unwrap_or_else(|| panic!("a Status, not {refusal}"));
    // As upstream passes on what etcd says.
    assert_eq!((status.code, status.reason.as_str(), status.message.as_str()), (500, "", "etcdserver: mvcc: database space exceeded"));
    let file = cluster.folder.join("large");
    fs::write(&file, large(500_000)).expect("the test's folder is elsewhere");
    let told = cluster.kubectl_with(&format!("create configmap late --from-file={}", file.display()), "").assert_fails();
    assert!(told.contains("etcdserver: mvcc: database space exceeded"), "{told}");
    // Reads need no disk.
    there(&cluster, &names);

    fs::remove_file(&filler).expect("the filler");
    names.push("after".to_owned());
    let end = Instant::now() + PATIENCE;
    while metric(&cluster, USED) > 0 {
        assert!(Instant::now() < end, "the reserve is not given back");
        // Nobody tells when the room is back; the store looks each second.
        std::thread::sleep(Duration::from_millis(50));
    }
    cluster.block_on("a write", api.create(&map("after", "2"))).expect("there is room again");
    there(&cluster, &names);
    // The refused one is not there after all.
    let late = cluster.try_kubectl(&["get", "configmap", "late"]).assert_fails();
    assert!(late.contains("NotFound"), "{late}");
    cluster.kill();
    cluster.start(&[]).assert_ok();
    there(&cluster, &names);
}

/// The store's journal, and where what is written in it ends.
fn journal(cluster: &Cluster) -> (PathBuf, u64) {
    let files = fs::read_dir(cluster.data().join("store")).expect("the store").flatten().map(|e| e.path());
    let mut journals: Vec<_> = files.filter(|p| p.extension().is_some_and(|e| e == "jnl")).collect();
    journals.sort();
    let path = journals.pop().expect("a journal");
    let mut bytes = Vec::new();
    File::open(&path).and_then(|mut f| f.read_to_end(&mut bytes)).expect("it can be read");
    let end = bytes.iter().rposition(|b| *b != 0).expect("something is written") + 1;
    (path, end as u64)
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    let mut file = OpenOptions::new().write(true).open(path).expect("the journal");
    file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(bytes)).expect("it can be written");
}

#[test]
fn a_store_whose_last_write_is_half_there_starts() {
    let mut cluster = Cluster::new("tail").with(&API_ONLY);
    cluster.start(&[]).assert_ok();
    let api = cluster.client().namespaced::<ConfigMap>("default");
    let names: Vec<String> = (0..20).map(|n| format!("kept-{n}")).collect();
    for name in &names {
        cluster.block_on("a write", api.create(&map(name, "text"))).expect("a write");
    }
    type Damage = fn(&Path, u64);
    let damages: [(&str, Damage); 3] = [
        ("cut off", |path, end| {
            let file = OpenOptions::new().write(true).open(path).expect("the journal");
            file.set_len(end - 9).expect("it can be cut");
        }),
        ("never written to its end", |path, end| overwrite(path, end - 9, &[0; 9])),
        ("rubbish after it", |path, end| overwrite(path, end, &[0xa5; 300])),
    ];
    for (what, damage) in damages {
        // The one that is damaged was on its way when the power went: nobody was told that it is there, nor had the store
        // written down that somebody was.
        let acknowledged = cluster.data().join("store/acknowledged");
        let before = std::fs::read(&acknowledged).expect("what was acknowledged");
        cluster.block_on("a write", api.create(&map("last", what))).expect("a write");
        cluster.kill();
        std::fs::write(&acknowledged, before).expect("the store's folder");
        let (path, end) = journal(&cluster);
        damage(&path, end);
        let start = cluster.start(&[]);
        assert!(start.ok(), "{what}: {start}");
        there(&cluster, &names);
        process::run(&mut cluster.kubectl_command(&words("delete configmap last --ignore-not-found")), &[], PATIENCE).assert_ok();
    }
}

#[test]
fn a_store_that_is_damaged_within_says_so_and_what_to_do() {
    let mut cluster = Cluster::new("damaged").with(&API_ONLY);
    cluster.start(&[]).assert_ok();
    let api = cluster.client().namespaced::<ConfigMap>("default");
    let mark = "a text that can be found again ".repeat(40);
    for name in ["before", "damaged", "after"] {
        let text = if name == "damaged" { mark.as_str() } else { "text" };
        cluster.block_on("a write", api.create(&map(name, text))).expect("a write");
    }
    cluster.kill();
    let (path, _) = journal(&cluster);
    let bytes = fs::read(&path).expect("the journal");
    let at = bytes.windows(32).position(|w| w == &mark.as_bytes()[..32]).expect("values are stored as they are");
    overwrite(&path, at as u64 + 100, &[0xff; 64]);

    let told = cluster.start(&[]).assert_fails();
    let store = cluster.data().join("store");
    assert!(told.contains(&store.display().to_string()) && told.contains("damaged") && told.contains("move it away"), "{told}");
    assert!(cluster.start(&[]).assert_fails().contains("damaged"), "it was not made worse by the first try");

    // And that is what helps.
    fs::rename(&store, cluster.folder.join("damaged-store")).expect("it can be moved");
    cluster.start(&[]).assert_ok();
    assert_eq!(cluster.kubectl("get configmaps -o name").trim(), "configmap/kube-root-ca.crt");
}
