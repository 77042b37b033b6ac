//! `kill -9` at any moment, and what must not be noticed of it.

use client::{Error, Event, ListParams};
use cluster_tests::{
    AMPLE, Cluster, PATIENCE, example, host,
    http::{self, Connection},
    process, watching,
};
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    os::unix::process::ExitStatusExt as _,
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, SystemTime},
};

/// How often the process is killed while it is written to.
const KILLS: usize = 5;

/// A moment within so many milliseconds; no two runs are the same, and what was chosen is told.
fn some_ms(most: u32) -> Duration {
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").subsec_nanos();
    let ms = (nanos / 1000).wrapping_mul(2_654_435_761) % most;
    eprintln!("killed {ms} ms later");
    Duration::from_millis(ms.into())
}

/// What must be the same after a restart: of each pod its UID, address and its containers' IDs and restarts.
fn pods(cluster: &Cluster) -> BTreeMap<String, Value> {
    let list = cluster.json("-n shop get pods");
    let facts = |p: &Value| {
        let containers: Vec<_> =
            p["status"]["containerStatuses"].as_array().into_iter().flatten().map(|c| (c["containerID"].clone(), c["restartCount"].clone())).collect();
        serde_json::json!([p["metadata"]["uid"], p["status"]["podIP"], containers])
    };
    list["items"].as_array().expect("pods").iter().map(|p| (p["metadata"]["name"].as_str().expect("a name").to_owned(), facts(p))).collect()
}

fn ready_since(cluster: &Cluster) -> String {
    let path = "{range .items[0].status.conditions[?(@.type=='Ready')]}{.status} {.lastTransitionTime}{end}";
    cluster.value("get nodes", path)
}

/// Writes ConfigMaps until the server is gone; the names of those that it acknowledged, each of which is told of.
async fn write(client: client::Client, round: usize, acknowledged: mpsc::Sender<()>) -> Vec<String> {
    let api = client.namespaced::<ConfigMap>("default");
    let mut names = Vec::new();
    for number in 0.. {
        let mut map = ConfigMap::default();
        map.metadata.name = Some(format!("written-{round}-{number}"));
        map.data = Some([("number".to_owned(), number.to_string())].into());
        match api.create(&map).await {
            Ok(map) => names.extend(map.metadata.name),
            Err(Error::Api(status)) => panic!("{status}"),
            Err(_) => break,
        }
        // Only the first is waited for.
        let _ = acknowledged.send(());
    }
    names
}

#[test]
fn a_killed_cluster_goes_on_as_if_nothing_had_been() {
    let mut cluster = Cluster::up("kill", &[example("shop.yaml")]);
    let (before, processes, ready) = (pods(&cluster), host::containers(&cluster.name), ready_since(&cluster));
    assert!(before.len() == 4 && processes.len() >= 4 && ready.starts_with("True "), "{before:?} {processes:?} {ready}");

    // A connection to a pod that is held all the time.
    let ip = cluster.value("-n shop get pods -l app=web", "{.items[0].status.podIP}");
    let mut kept = Connection::open(&format!("{ip}:8080")).expect("a pod");
    let who = kept.get("/whoami").expect("an answer").body;

    // Whoever watches the node all the time, over all restarts.
    let nodes = cluster.client().all::<Node>();
    let flaps = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&flaps);
    let watch = cluster.spawn(async move {
        watching::until(&nodes, &ListParams::default(), |event| {
            let (Event::Added(node) | Event::Modified(node) | Event::Deleted(node)) = event else { return false };
            let condition = node.status.as_ref().and_then(|s| s.conditions.as_ref()?.iter().find(|c| c.type_ == "Ready"));
            if matches!(event, Event::Deleted(_)) || condition.is_none_or(|c| c.status != "True") {
                told.lock().expect("no panic within").push(format!("{condition:?}"));
            }
            false
        })
        .await;
    });

    let mut names = Vec::new();
    for round in 0..KILLS {
        let (acknowledges, acknowledged) = mpsc::channel();
        let writer = cluster.spawn(write(cluster.client(), round, acknowledges));
        if round == 1 {
            cluster.kubectl("-n shop scale deployment/backend --replicas=3");
        }
        if round == 2 {
            cluster.kubectl("-n shop scale deployment/backend --replicas=2");
        }
        acknowledged.recv_timeout(PATIENCE).expect("a write is acknowledged");
        // An answer that is on its way while nobody is at home.
        kept.ask("/slow?ms=1500").expect("the connection is open");
        thread::sleep(some_ms(300));
        cluster.kill();
        cluster.start(&[]).assert_ok();
        let answer = kept.answer().expect("the answer over the restart");
        assert!(answer.code == 200 && answer.body.starts_with(who.trim()), "{answer:?}");
        let written = cluster.block_on("the writer ends", writer).expect("the writer");
        assert!(!written.is_empty(), "round {round}: nothing was written before the kill");
        names.extend(written);

        let list = cluster.json("get configmaps");
        let there: Vec<_> = list["items"].as_array().expect("a list").iter().filter_map(|m| m["metadata"]["name"].as_str()).collect();
        let lost: Vec<_> = names.iter().filter(|n| !there.contains(&n.as_str())).collect();
        assert!(lost.is_empty(), "round {round}: of {} acknowledged objects {lost:?} are lost", names.len());
    }
    eprintln!("{} objects were acknowledged", names.len());

    // What was under way is brought to its end; the rest was never touched.
    cluster.kubectl("-n shop rollout status deployment/backend --timeout=55s");
    let (after, now) = (pods(&cluster), host::containers(&cluster.name));
    for (name, facts) in &before {
        assert_eq!(after.get(name), Some(facts), "{name}");
    }
    for (process, command) in &processes {
        assert_eq!(now.get(process), Some(command), "{process:?}: a container's process");
    }
    assert_eq!(kept.get("/whoami").expect("the connection still works").body, who);
    assert_eq!(ready_since(&cluster), ready, "the node's Ready condition");
    watch.abort();
    let flaps = flaps.lock().expect("no panic within");
    assert!(flaps.is_empty(), "the node was not Ready: {flaps:?}");
}

#[test]
fn a_cluster_killed_while_it_starts_starts_the_next_time() {
    let mut cluster = Cluster::new("begin");
    let told = cluster.folder.join("told");
    for most in [60, 200, 600] {
        // A file: who is left of it may hold a pipe.
        let file = std::fs::File::create(&told).expect("the test's folder");
        let mut command = cluster.knarr(&["up"]);
        command.stdin(std::process::Stdio::null()).stdout(file.try_clone().expect("a descriptor")).stderr(file);
        let mut child = command.spawn().expect("it starts");
        thread::sleep(some_ms(most));
        child.kill().expect("it is our child");
        let status = child.wait().expect("its end");
        assert_eq!(status.signal(), Some(9), "it ended before by itself, {status}:\n{}", std::fs::read_to_string(&told).unwrap_or_default());
    }
    cluster.start(&[example("shop.yaml")]).assert_ok();
    let web = cluster.value("-n shop get deployment web", "{.status.readyReplicas}");
    assert_eq!(web, "3");
    // And ended while it runs, by the signal of service managers: containers stay, the next one takes them over.
    let (before, processes) = (pods(&cluster), host::containers(&cluster.name));
    let pid = cluster.pid().to_string();
    process::run(std::process::Command::new("kill").arg(&pid), &[], PATIENCE).assert_ok();
    let lock = std::fs::File::open(cluster.run_folder().join("lock")).expect("the lock");
    lock.lock_shared().expect("the lock is free when the process has ended");
    drop(lock);
    assert_eq!(host::containers(&cluster.name), processes);
    cluster.start(&[]).assert_ok();
    assert_eq!((pods(&cluster), host::containers(&cluster.name)), (before, processes));
}

/// So many descriptors may the cluster's process have from now on; how many it might have before.
fn descriptors(cluster: &Cluster, most: usize) -> usize {
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", cluster.pid())).expect("it runs");
    let before = limits.lines().find_map(|l| l.strip_prefix("Max open files")?.split_whitespace().next()?.parse().ok()).expect("a limit");
    // The soft limit alone.
    process::run(std::process::Command::new("prlimit").args(["--pid", &cluster.pid().to_string(), &format!("--nofile={most}:")]), &[], PATIENCE).assert_ok();
    before
}

#[test]
fn a_cluster_that_is_asked_for_too_much_says_so_stays_and_recovers() {
    let cluster = Cluster::up("much", &[example("shop.yaml")]);
    let (pid, service) = (cluster.pid(), cluster.value("-n shop get service web", "{.spec.clusterIP}:{.spec.ports[0].port}"));
    let pod = cluster.value("-n shop get pods -l app=web", "{.items[0].status.podIP}");
    let served = |at: &str| http::get(at, "/whoami").is_ok_and(|answer| answer.code == 200);
    assert_eq!(http::answered(&service, "/whoami").code, 200);
    assert!(served(&format!("{pod}:8080")));

    // More watches than there may be requests on one connection; who asks after them is answered too.
    let maps = cluster.client().namespaced::<ConfigMap>("default");
    let many = async {
        let list = maps.list(&ListParams::default()).await.expect("a list");
        let mut watches = Vec::new();
        for _ in 0..130 {
            watches.push(maps.watch(&ListParams::default(), list.resource_version()).await.expect("a watch"));
        }
        maps.list(&ListParams::default()).await.expect("a list beside them")
    };
    cluster.block_on("130 watches and a list", many);

    // No descriptor is left for whoever comes.
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count();
    let before = descriptors(&cluster, open.saturating_sub(20));
    let server = cluster.value("config view --minify", "{.clusters[0].cluster.server}");
    // Each takes one of those that are left below the limit, until there is none.
    let mut guests = Vec::new();
    let log = cluster.data().join("knarr.log");
    let end = std::time::Instant::now() + PATIENCE;
    while !std::fs::read_to_string(&log).is_ok_and(|text| text.contains("connections cannot be accepted")) {
        assert!(std::time::Instant::now() < end, "nothing is said");
        guests.push(std::net::TcpStream::connect(server.trim_start_matches("https://")).expect("the kernel takes it"));
        thread::sleep(Duration::from_millis(20));
    }
    // Who has a connection is served. (Probes need descriptors: a container that cannot be asked is taken for one that fails, as
    // by the original.)
    cluster.block_on("a list on an open connection", maps.list(&ListParams::default())).expect("a list");
    drop(guests);
    descriptors(&cluster, before);
    cluster.kubectl("create configmap after");
    cluster.kubectl("-n shop scale deployment/backend --replicas=3");
    cluster.kubectl("-n shop rollout status deployment/backend --timeout=55s");
    cluster.kubectl("-n shop rollout status deployment/web --timeout=55s");
    assert_eq!(cluster.pid(), pid, "it is the same process");

    // Another proxy takes over: of this one nothing may go before it.
    cluster.kill();
    let mut command = cluster.knarr(&["up", "--detach", "--disable", "proxy"]);
    process::run(command.args(AMPLE), &[], PATIENCE).assert_ok();
    assert!(served(&format!("{pod}:8080")), "the pods are there");
    let reached = std::net::TcpStream::connect_timeout(&service.parse().expect("an address"), Duration::from_millis(500));
    assert!(reached.is_err(), "the Services are the other's");
}
