//! Several nodes on one machine: one cluster, and processes that end and come again apart from each other.

use client::{Event, ListParams};
use cluster_tests::{Cluster, IMAGE, PATIENCE, host, process, words};
use k8s_openapi::api::coordination::v1::Lease;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use std::collections::BTreeMap;

/// One pod a node, and a Service at a port of every node.
fn web() -> String {
    format!(
        "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: web}}\nspec:\n  selector: {{matchLabels: {{app: web}}}}\n  template:\n    metadata: {{labels: {{app: web}}}}\n    \
        spec: {{containers: [{{name: web, image: '{IMAGE}', args: [web], readinessProbe: {{httpGet: {{port: 8080, path: /healthz}}, periodSeconds: 1}}}}]}}\n\
        ---\napiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{type: NodePort, selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080, nodePort: 30080}}]}}\n"
    )
}

/// Of each pod its node: name, address, and what must stay the same while nobody asks for anything else.
fn pods(cluster: &Cluster) -> BTreeMap<String, (String, String, Value)> {
    let list = cluster.json("get pods -l app=web");
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let facts = |p: &Value| {
        let container = &p["status"]["containerStatuses"][0];
        let same = serde_json::json!([p["metadata"]["uid"], container["containerID"], container["restartCount"]]);
        (text(&p["spec"]["nodeName"]), (text(&p["metadata"]["name"]), text(&p["status"]["podIP"]), same))
    };
    list["items"].as_array().expect("pods").iter().map(facts).collect()
}

/// The process that runs a further node.
fn pid(cluster: &Cluster, number: u32) -> Option<i32> {
    std::fs::read_to_string(cluster.run_folder().join(format!("nodes/{number}/lock"))).ok()?.trim().parse().ok()
}

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

    // A pod on each, and each reaches all pods, the Service by its name, and the port of every node.
    cluster.apply(&web());
    cluster.kubectl("rollout status daemonset/web --timeout=55s");
    let before = pods(&cluster);
    assert_eq!(before.keys().collect::<Vec<_>>(), ips.keys().collect::<Vec<_>>());
    let urls: Vec<String> = (before.values().map(|(_, ip, _)| format!("{ip}:8080")))
        .chain(["web.default.svc.cluster.local:80".to_owned()])
        .chain(ips.values().map(|ip| format!("{ip}:30080")))
        .map(|at| format!("--url=http://{at}/whoami"))
        .collect();
    for (pod, _, _) in before.values() {
        let mut all = words("exec");
        all.extend([pod.as_str(), "--", "/knarr", "demo", "load", "--strict", "--quiet", "--rate=100", "--seconds=0.3", "--connections=new"]);
        all.extend(urls.iter().map(String::as_str));
        cluster.try_kubectl(&all).assert_ok();
    }
    // The API server reaches the kubelet of each.
    for (pod, _, _) in before.values() {
        cluster.kubectl(&format!("logs {pod}"));
    }

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
    assert_eq!((pods(&cluster), host::containers(&cluster.name)), (before.clone(), processes.clone()));
    cluster.kubectl(&format!("exec {} -- /knarr --version", before[&last].0));

    // So is the cluster's own, which finds its nodes again.
    let old: Vec<_> = [2, 3].map(|number| pid(&cluster, number)).into();
    cluster.kill();
    cluster.start(&[]).assert_ok();
    assert_eq!([2, 3].map(|number| pid(&cluster, number)).to_vec(), old);
    assert_eq!((pods(&cluster), host::containers(&cluster.name)), (before.clone(), processes));

    // One goes with its pod, and the others stay.
    process::run(&mut cluster.knarr(&["node", "rm", &last]), &[], PATIENCE).assert_ok();
    let left = pods(&cluster);
    assert!(before.iter().filter(|(node, _)| **node != last).eq(&left), "{left:?}");
    assert_eq!(cluster.kubectl("get nodes -o name").lines().count(), 2);
    assert!(!cluster.run_folder().join("nodes/3").exists() && !cluster.data().join("nodes/3").exists());

    // Everything goes, also when nobody is left who runs it.
    cluster.kill();
    kill(Pid::from_raw(pid(&cluster, 2).expect("it runs")), Signal::SIGKILL).expect("it runs");
    cluster.down();
}
