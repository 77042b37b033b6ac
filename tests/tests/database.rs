//! `examples/database.yaml`: pods that have volumes, whatever happens to the pods and to the cluster.

use client::{Api, Event, ListParams};
use cluster_tests::{
    Cluster, PATIENCE, example, host,
    http::{self, Connection},
    process,
};
use k8s_openapi::api::core::v1::Pod;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

const PODS: [&str; 3] = ["db-0", "db-1", "db-2"];
/// How many rows a writer has in safety before something happens.
const SOME: usize = 20;

/// What must stay, of each claim.
fn claims(cluster: &Cluster) -> Vec<Value> {
    let list = cluster.json("-n database get pvc");
    let facts =
        |c: &Value| json!([c["metadata"]["name"], c["metadata"]["uid"], c["spec"]["volumeName"], c["status"]["phase"], c["status"]["capacity"]["storage"]]);
    list["items"].as_array().expect("claims").iter().map(facts).collect()
}

fn address(cluster: &Cluster, pod: &str) -> String {
    format!("{}:8080", cluster.value(&format!("-n database get pod {pod}"), "{.status.podIP}"))
}

fn uid(cluster: &Cluster, pod: &str) -> String {
    cluster.value(&format!("-n database get pod {pod}"), "{.metadata.uid}")
}

/// Somebody who writes rows to a pod until it is gone.
struct Writer {
    thread: JoinHandle<Vec<String>>,
    acknowledged: Arc<AtomicUsize>,
}

impl Writer {
    fn start(cluster: &Cluster, pod: &str, word: &str) -> Self {
        let (address, word, acknowledged) = (address(cluster, pod), format!("{pod} {word}"), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&acknowledged);
        let thread = thread::spawn(move || {
            let mut connection = Connection::open(&address).expect("the database listens");
            let mut rows = Vec::new();
            loop {
                let row = format!("{word} {}", rows.len());
                match connection.post("/rows", &row) {
                    Ok(answer) => assert_eq!(answer.code, 201, "{answer:?}"),
                    Err(_) => return rows,
                }
                rows.push(row);
                count.fetch_add(1, Ordering::Relaxed);
                // A load that the log has room for.
                thread::sleep(Duration::from_millis(1));
            }
        });
        let writer = Self { thread, acknowledged };
        writer.goes_on("at the start");
        writer
    }

    /// Some more rows are acknowledged from here on.
    fn goes_on(&self, when: &str) {
        let (wanted, end) = (self.acknowledged.load(Ordering::Relaxed) + SOME, Instant::now() + PATIENCE);
        while self.acknowledged.load(Ordering::Relaxed) < wanted {
            assert!(Instant::now() < end && !self.thread.is_finished(), "{when}: no row is acknowledged");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// The rows that were acknowledged until the pod was gone.
    fn end(self) -> Vec<String> {
        self.thread.join().expect("the writer")
    }
}

/// Every acknowledged row is there, once and in its order; beside them at most one a writer that was not.
fn assert_kept(cluster: &Cluster, pod: &str, acknowledged: &[String], writers: usize) {
    let text = http::get(&address(cluster, pod), "/rows").expect("the rows").body;
    let wanted: HashSet<&str> = acknowledged.iter().map(String::as_str).collect();
    let there: Vec<&str> = text.lines().filter(|row| wanted.contains(row)).collect();
    assert_eq!(there, acknowledged, "{pod}");
    assert!(text.lines().count() <= acknowledged.len() + writers, "{pod}: {text}");
}

/// Waits until each of the pods is ready and more is true of it.
fn ready(cluster: &Cluster, pods: &Api<Pod>, names: &[&str], what: &str, more: impl Fn(&Pod) -> bool) {
    let mut missing: HashSet<&str> = names.iter().copied().collect();
    cluster.until(pods, &ListParams::default(), what, |event| {
        if let Event::Added(pod) | Event::Modified(pod) = event {
            let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
            if conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True") && more(pod) {
                missing.remove(pod.metadata.name.as_deref().unwrap_or_default());
            }
        }
        missing.is_empty()
    });
}

/// A row to each, as the head of the example says it: each has its own rows, and not the others'.
fn first_rows(cluster: &Cluster) -> Vec<Vec<String>> {
    let path = |pod: &str| format!("/api/v1/namespaces/database/pods/{pod}:8080/proxy/rows");
    let rows: Vec<Vec<String>> = PODS.iter().map(|pod| vec![format!("fair winds, {pod}")]).collect();
    for (pod, row) in PODS.iter().zip(&rows) {
        let said = cluster.kubectl_with(&format!("create --raw {} -f -", path(pod)), &format!("{}\n", row[0])).assert_ok().stdout;
        assert_eq!(said.trim(), json!({"pod": pod, "row": 1}).to_string());
        assert_eq!(cluster.kubectl(&format!("get --raw {}", path(pod))), format!("{}\n", row[0]));
    }
    rows
}

/// The databases are killed, in the middle of a row; they come again in their pods.
fn kill_databases(cluster: &Cluster, pods: &Api<Pod>, rows: &mut [Vec<String>]) {
    let writers = PODS.map(|pod| Writer::start(cluster, pod, "killed"));
    let processes = host::containers(&cluster.name);
    let databases: Vec<_> = processes.iter().filter(|(_, command)| command.contains("demo database")).collect();
    assert_eq!(databases.len(), PODS.len(), "{processes:?}");
    for (process, _) in databases {
        kill(Pid::from_raw(i32::try_from(process.pid).expect("a process ID")), Signal::SIGKILL).expect("it runs");
    }
    for (rows, writer) in rows.iter_mut().zip(writers) {
        rows.extend(writer.end());
    }
    ready(cluster, pods, &PODS, "the databases run again", |pod| {
        pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten()).any(|c| c.ready && c.restart_count == 1)
    });
    PODS.iter().zip(&*rows).for_each(|(pod, rows)| assert_kept(cluster, pod, rows, 1));
}

#[test]
fn no_acknowledged_row_is_lost() {
    let mut cluster = Cluster::up("rows", &[example("database.yaml")]);
    let pods = cluster.client().namespaced::<Pod>("database");
    let before = claims(&cluster);
    assert_eq!(before.len(), PODS.len(), "{before:?}");
    for (claim, pod) in before.iter().zip(PODS) {
        assert_eq!(json!([claim[0], claim[3], claim[4]]), json!([format!("data-{pod}"), "Bound", "64Mi"]), "{claim}");
    }
    let listed = process::run(&mut cluster.knarr(&["volume", "list"]), &[], PATIENCE).assert_ok().stdout;
    assert!(PODS.iter().all(|pod| listed.contains(&format!("database/data-{pod} "))) && listed.lines().count() == 4, "{listed}");

    let mut rows = first_rows(&cluster);
    kill_databases(&cluster, &pods, &mut rows);

    // knarr is killed: nobody who writes notices. The pod is deleted, and knarr killed while it goes.
    let (old, writer) = (uid(&cluster, "db-1"), Writer::start(&cluster, "db-1", "deleted"));
    cluster.kill();
    writer.goes_on("while nobody is at home");
    cluster.start(&[]).assert_ok();
    writer.goes_on("after the restart");
    assert_eq!(uid(&cluster, "db-1"), old);
    cluster.kubectl("-n database delete pod db-1 --wait=false");
    cluster.kill();
    cluster.start(&[]).assert_ok();
    rows[1].extend(writer.end());
    let pods = cluster.client().namespaced::<Pod>("database");
    ready(&cluster, &pods, &["db-1"], "another pod of the number", |pod| pod.metadata.uid.as_ref() != Some(&old));
    assert_kept(&cluster, "db-1", &rows[1], 2);
    assert_eq!(claims(&cluster), before);

    // Fewer pods, and as many as before: the claims wait for them.
    cluster.kubectl("-n database scale statefulset/db --replicas=1");
    cluster.kubectl("-n database wait --for=delete pod/db-1 pod/db-2 --timeout=50s");
    assert_eq!(claims(&cluster), before);
    cluster.kubectl("-n database scale statefulset/db --replicas=3");
    ready(&cluster, &pods, &PODS, "as many pods as before", |_| true);
    PODS.iter().zip(&rows).for_each(|(pod, rows)| assert_kept(&cluster, pod, rows, 2));

    // All of it is taken off the machine but the data, as when the power goes.
    let containers = |pod: &Pod| -> Vec<Option<String>> {
        let statuses = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
        statuses.map(|c| c.container_id.clone()).collect()
    };
    let list = cluster.block_on("the pods", pods.list(&ListParams::default())).expect("a list");
    let old: HashSet<_> = list.into_items().iter().flat_map(containers).collect();
    cluster.down_keeping_data();
    cluster.start(&[]).assert_ok();
    let pods = cluster.client().namespaced::<Pod>("database");
    ready(&cluster, &pods, &PODS, "the same pods on their volumes", |pod| containers(pod).iter().all(|id| id.is_some() && !old.contains(id)));
    PODS.iter().zip(&rows).for_each(|(pod, rows)| assert_kept(&cluster, pod, rows, 2));
    assert_eq!(claims(&cluster), before);

    // What is not wanted any more goes with its claim.
    cluster.kubectl("delete namespace database --timeout=50s");
    cluster.kubectl(&format!("wait --for=delete pv/{} --timeout=50s", before[0][2].as_str().expect("a name")));
    let left = process::run(&mut cluster.knarr(&["volume", "list"]), &[], PATIENCE).assert_ok().stdout;
    assert!(!left.contains("data-db-0"), "{left}");
}
