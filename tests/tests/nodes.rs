//! Several nodes on one machine: one cluster, and processes that end and come again apart from each other.

use client::{Event, ListParams};
use cluster_tests::{Cluster, IMAGE, PATIENCE, host, http, leftovers, machines::Machines, process, web, workers::pid};
use k8s_openapi::api::coordination::v1::Lease;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    collections::BTreeMap,
    fs::File,
    os::unix::process::ExitStatusExt as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// At a port of every node.
const SERVICE: &str = "type: NodePort, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]";
/// The same pods at another port, from outside those of each node alone.
const LOCAL: &str = "---\napiVersion: v1\nkind: Service\nmetadata: {name: local}\nspec: {type: NodePort, externalTrafficPolicy: Local, selector: {app: web}, \
    ports: [{port: 80, targetPort: 8080, nodePort: 30081}]}\n";

#[test]
fn three_nodes_of_one_machine_are_one_cluster_and_go_without_a_trace() {
    let mut cluster = Cluster::new("nodes").with(&["--nodes", "3"]);
    cluster.start(&[]).assert_ok();
    let nodes = cluster.json("get nodes");
    let nodes = nodes["items"].as_array().expect("nodes");
    let ips: BTreeMap<String, String> = nodes
        .iter()
        .map(|n| (n["metadata"]["name"].as_str().expect("a name").to_owned(), n["status"]["addresses"][0]["address"].as_str().expect("an address").to_owned()))
        .collect();
    let first = ips.keys().next().expect("a node").clone();
    assert_eq!(ips.keys().cloned().collect::<Vec<_>>(), [first.clone(), format!("{first}-2"), format!("{first}-3")]);
    let role = |node: &str| cluster.value(&format!("get node {node}"), "{.metadata.labels}").contains("node-role.kubernetes.io/control-plane");
    assert_eq!(ips.keys().map(|n| role(n)).collect::<Vec<_>>(), [true, false, false]);

    // A pod on each, and each reaches all pods, the Service by its name, and the ports of every node: who calls one is answered by it,
    // wherever the pod is.
    cluster.apply(&(web::manifest(SERVICE) + LOCAL));
    cluster.kubectl("rollout status daemonset/web --timeout=55s");
    let before = web::pods(&cluster);
    assert_eq!(before.keys().collect::<Vec<_>>(), ips.keys().collect::<Vec<_>>());
    let ports = ips.values().flat_map(|ip| [30080, 30081].map(|port| format!("{ip}:{port}")));
    let others: Vec<String> = ports.chain(["web.default.svc.cluster.local:80".to_owned()]).collect();
    web::reach(&cluster, &before, &others);
    // The API server reaches the kubelet of each.
    for (pod, _, _) in before.values() {
        cluster.kubectl(&format!("logs {pod}"));
    }

    // A pod with its host's network is told the node's name, and not the machine's.
    let second = format!("{first}-2");
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: plain}}\nspec:\n  nodeName: '{second}'\n  hostNetwork: true\n  containers:\n  - {{name: c, image: '{IMAGE}', args: [web], \
        env: [{{name: PORT, value: '18080'}}], readinessProbe: {{httpGet: {{port: 18080, path: /healthz}}, periodSeconds: 1}}}}\n"
    ));
    cluster.ready("default", "plain");
    let mut plain = http::Connection::open(&format!("{}:18080", ips[&second])).expect("it listens");
    plain.ask("/whoami").expect("it is asked");
    assert_eq!(plain.answer().expect("it answers").body.trim(), format!("v1 {second}"));

    // Killed, a node's process is another one soon, and nobody notices.
    let last = format!("{first}-3");
    let since = |node: &str| cluster.value(&format!("get node {node}"), "{range .status.conditions[?(@.type=='Ready')]}{.status} {.lastTransitionTime}{end}");
    let ready = since(&last);
    let (processes, old) = (host::containers(&cluster.name), pid(&cluster, 3).expect("it runs"));
    kill(Pid::from_raw(old), Signal::SIGKILL).expect("it runs");
    let leases = cluster.client().namespaced::<Lease>("kube-node-lease");
    let mut seen = None;
    cluster.until(&leases, &ListParams::fields(format!("metadata.name={last}")), "another process renews the lease", |event| {
        let (Event::Added(found) | Event::Modified(found)) = event else { return false };
        let renewed = found.spec.as_ref().and_then(|s| s.renew_time.clone());
        *seen.get_or_insert_with(|| renewed.clone()) != renewed && pid(&cluster, 3).is_some_and(|now| now != old)
    });
    assert!(ready.starts_with("True ") && since(&last) == ready, "{ready}");
    assert_eq!((web::pods(&cluster), host::containers(&cluster.name)), (before.clone(), processes.clone()));
    cluster.kubectl(&format!("exec {} -- /knarr --version", before[&last].0));

    // So is the cluster's own, which finds its nodes again.
    let old: Vec<_> = [2, 3].map(|number| pid(&cluster, number)).into();
    cluster.kill();
    cluster.start(&[]).assert_ok();
    assert_eq!([2, 3].map(|number| pid(&cluster, number)).to_vec(), old);
    assert_eq!((web::pods(&cluster), host::containers(&cluster.name)), (before.clone(), processes));

    // One goes with its pod, and the others stay.
    process::run(&mut cluster.knarr(&["node", "rm", &last]), &[], PATIENCE).assert_ok();
    let left = web::pods(&cluster);
    assert!(before.iter().filter(|(node, _)| **node != last).eq(&left), "{left:?}");
    assert_eq!(cluster.kubectl("get nodes -o name").lines().count(), 2);
    assert!(!cluster.run_folder().join("nodes/3").exists() && !cluster.data().join("nodes/3").exists());

    // Everything goes, also when nobody is left who runs it.
    cluster.kill();
    kill(Pid::from_raw(pid(&cluster, 2).expect("it runs")), Signal::SIGKILL).expect("it runs");
    cluster.down();
}

#[test]
fn of_two_clusters_of_three_nodes_one_goes_when_all_its_processes_were_killed_and_the_other_does_not_notice() {
    let [mut gone, stays] = ["nodes-goes", "nodes-stays"].map(|name| {
        let mut cluster = Cluster::new(name).with(&["--nodes", "3"]);
        cluster.start(&[]).assert_ok();
        cluster.apply(&web::manifest(SERVICE));
        cluster.kubectl("rollout status daemonset/web --timeout=55s");
        cluster
    });
    let (ours, theirs, processes) = (web::pods(&gone), web::pods(&stays), host::containers(&stays.name));
    assert!(ours.len() == 3 && ours.keys().eq(theirs.keys()) && ours.values().all(|(name, ..)| theirs.values().all(|(other, ..)| name != other)));
    // Whoever starts others first: then nobody comes again.
    gone.kill();
    loop {
        let left = leftovers::of(&gone.name, &gone.folder);
        let pids: Vec<i32> = left.iter().filter_map(|left| left.strip_prefix("process ")?.split(':').next()?.parse().ok()).collect();
        if pids.is_empty() {
            break;
        }
        for pid in pids {
            // Another's end may have been its own.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    gone.down();
    assert_eq!((web::pods(&stays), host::containers(&stays.name)), (theirs.clone(), processes));
    web::still_reach(&stays, &theirs, &[]);
}

/// Waits until the file of a lock has another text than before, which is somebody's number.
fn taken(cluster: &Cluster, lock: &str, before: &str) {
    let begun = Instant::now();
    while text(cluster, lock).is_empty() || text(cluster, lock) == before {
        assert!(begun.elapsed() < PATIENCE, "nobody has taken {lock}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn text(cluster: &Cluster, lock: &str) -> String {
    std::fs::read_to_string(cluster.run_folder().join(lock)).unwrap_or_default()
}

#[test]
fn a_start_that_is_interrupted_leaves_no_node() {
    let mut cluster = Cluster::new("nodes-interrupted").with(&["--nodes", "3"]);
    // Once it has begun, and once a node's process has, which goes on by itself.
    for lock in ["lock", "nodes/2/lock", "nodes/3/lock"] {
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            let before = text(&cluster, lock);
            let up = cluster.foreground(&[], &[]);
            taken(&cluster, lock, &before);
            up.signal(signal);
            let (lines, status) = up.end(PATIENCE);
            assert!(status.success(), "{signal} at {lock}: {status}: {lines:#?}");
            let left = leftovers::of(&cluster.name, &cluster.folder);
            assert!(!left.iter().any(|left| left.starts_with("process ")), "{signal} at {lock} leaves {left:#?}");
        }
    }
    // What was wished for stands, so the first node cannot be left out.
    let refused = process::run(&mut cluster.knarr(&["up", "--detach", "--disable", "kubelet"]), &[], PATIENCE);
    assert!(refused.stderr.contains("knarr node rm"), "{refused}");
    cluster.start(&[]).assert_ok();
    // Who has no DNS any more is not asked.
    let nodes = cluster.value("get nodes", "{.items[*].metadata.name}");
    let wait = |cluster: &Cluster, until: &str| {
        for node in nodes.split(' ') {
            cluster.kubectl(&format!("-n kube-system wait endpointslice/kube-dns-{node} --for={until} --timeout=50s"));
        }
    };
    wait(&cluster, "create");
    cluster.kill();
    cluster = cluster.with(&["--nodes", "3", "--disable", "dns"]);
    cluster.start(&[]).assert_ok();
    wait(&cluster, "delete");
    // A volume's note that cannot be read is no leave to remove it.
    let node = cluster.value("get nodes", "{.items[2].metadata.name}");
    let note = cluster.data().join("nodes/3/volumes/pvc-x/meta.json");
    std::fs::create_dir_all(&note).expect("the cluster's folder");
    let refused = process::run(&mut cluster.knarr(&["node", "rm", &node]), &[], PATIENCE).assert_fails();
    assert!(refused.contains("pvc-x/meta.json") && refused.contains("--force"), "{refused}");
    let forced = process::run(&mut cluster.knarr(&["node", "rm", "--force", &node]), &[], PATIENCE).assert_ok();
    assert!(forced.stdout.contains("go unread"), "{forced}");
}

#[test]
fn a_down_that_is_killed_leaves_nothing_after_the_next() {
    // A machine of its own: what is left of routes, forwarding and tracked connections is nobody else's.
    let machines = Machines::new("killed", 1);
    let mut cluster = Cluster::new("nodes-killed").inside(&machines.path(0)).with(&["--nodes", "2"]);
    let read = |file: &str| {
        let mut inside = Command::new("nsenter");
        // Not every kernel shows tracked connections so.
        inside.arg(format!("--net={}", machines.path(0).display())).args(["sh", "-c", &format!("cat {file} || true")]);
        process::run(&mut inside, &[], PATIENCE).assert_ok().stdout
    };
    let kept = || ["ip_forward", "conf/eth0/forwarding"].map(|file| read(&format!("/proc/sys/net/ipv4/{file}")));
    let before = kept();
    for ms in [40, 100, 160, 240, 340] {
        cluster.start(&[]).assert_ok();
        let of_the_node = cluster.data().join("nodes/2/of-the-node");
        std::fs::write(&of_the_node, "").expect("the node's folder");
        let told = cluster.folder.join("told");
        let file = File::create(&told).expect("the test's folder");
        let mut down = cluster.knarr(&["down"]);
        let mut down = down.stdin(Stdio::null()).stdout(file.try_clone().expect("a descriptor")).stderr(file).spawn().expect("it starts");
        std::thread::sleep(Duration::from_millis(ms));
        down.kill().expect("it is our child");
        let ended = down.wait().expect("its end");
        assert!(ended.success() || ended.signal() == Some(9), "{ended}:\n{}", std::fs::read_to_string(&told).unwrap_or_default());
        if std::fs::read_dir(cluster.data()).is_ok_and(|mut entries| entries.next().is_some()) {
            // Who starts it again has all of it, or is told that he has not, or it has not even been ended.
            let again = cluster.start(&[]);
            let is_told = ["is not whole", "is running already"].iter().any(|why| again.stderr.contains(why));
            assert!(if again.ok() { of_the_node.exists() } else { is_told }, "after {ms} ms: {again}");
        } else {
            // It was quicker, if only by its work and not by its end: a second one may say that there is no cluster.
            cluster.start(&[]).assert_ok();
        }
        cluster.down();
        assert_eq!((machines.left(0), kept()), (Vec::new(), before.clone()), "after {ms} ms");
        let tracked = read("/proc/net/nf_conntrack");
        let ours = tracked.lines().filter(|line| line.contains("src=10.1")).collect::<Vec<_>>();
        assert!(ours.is_empty(), "after {ms} ms: {ours:#?}");
    }
}
