//! Clusters beside each other, and the user's own kubeconfig beside them.

use cluster_tests::{Cluster, IMAGE, example, host, http, leftovers};
use serde_yaml_ng::Value;
use std::{fs, path::Path};

/// Somebody's own contexts, which no cluster may touch.
const THEIRS: &str = "apiVersion: v1
kind: Config
current-context: work
preferences: {colors: true}
clusters:
- name: work
  cluster: {server: 'https://work.example:6443', insecure-skip-tls-verify: true}
users:
- name: me
  user: {token: not-a-secret}
contexts:
- name: work
  context: {cluster: work, user: me, namespace: team}
";

fn names(config: &Path, list: &str) -> Vec<String> {
    let file: Value = serde_yaml_ng::from_str(&fs::read_to_string(config).expect("a kubeconfig")).expect("YAML");
    let mut names: Vec<_> = file[list].as_sequence().into_iter().flatten().filter_map(|e| e["name"].as_str().map(str::to_owned)).collect();
    names.sort();
    names
}

fn theirs(config: &Path) -> Vec<Value> {
    let file: Value = serde_yaml_ng::from_str(&fs::read_to_string(config).expect("a kubeconfig")).expect("YAML");
    let of = |list: &str, name: &str| file[list].as_sequence().into_iter().flatten().find(|e| e["name"] == name).cloned().unwrap_or_default();
    vec![of("clusters", "work"), of("users", "me"), of("contexts", "work"), file["preferences"].clone()]
}

fn pod(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: web}}}}\nspec:\n  containers: [{{name: web, image: '{IMAGE}', args: [web]}}]\n\
        ---\napiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{type: NodePort, selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080, nodePort: 30123}}]}}\n"
    )
}

/// Who answers on a cluster's three ways to its pod.
fn who(cluster: &Cluster) -> Vec<String> {
    let pod = cluster.value("get pods -l app=web", "{.items[0].status.podIP}");
    let service = cluster.value("get service web", "{.spec.clusterIP}");
    let ways = [format!("{pod}:8080"), format!("{service}:80"), format!("{}:30123", cluster.node_ip())];
    ways.iter().map(|way| http::get(way, "/whoami").unwrap_or_else(|e| panic!("{}: {way}: {e}", cluster.name)).body.trim().to_owned()).collect()
}

#[test]
fn two_clusters_do_not_touch_each_other_nor_anybody_else() {
    let mut one = Cluster::new("one");
    let config = one.folder.join("shared-config");
    fs::write(&config, THEIRS).expect("a kubeconfig");
    let before = theirs(&config);
    one = one.kubeconfig_in(&config);
    let mut two = Cluster::new("two").kubeconfig_in(&config);
    for cluster in [&mut one, &mut two] {
        cluster.start(&[]).assert_ok();
    }
    let mut all = vec!["work".to_owned(), one.name.clone(), two.name.clone()];
    all.sort();
    assert_eq!(names(&config, "contexts"), all);
    assert_eq!(theirs(&config), before);
    assert_ne!(one.node_ip(), two.node_ip());

    one.apply(&pod("of-one"));
    two.apply(&pod("of-two"));
    one.ready("default", "of-one");
    two.ready("default", "of-two");
    assert_eq!(one.kubectl("get pods -o name").trim(), "pod/of-one");
    assert_eq!(two.kubectl("get pods -o name").trim(), "pod/of-two");
    assert_eq!(who(&one), ["v1 of-one"; 3]);
    assert_eq!(who(&two), ["v1 of-two"; 3], "the same ports, and another cluster");

    // The end of one is not the other's.
    let (processes, uid) = (host::containers(&one.name), one.value("get pod of-one", "{.metadata.uid}"));
    let mut kept = http::Connection::open(&format!("{}:30123", one.node_ip())).expect("the node's port");
    kept.get("/whoami").expect("an answer");
    two.down();
    assert_eq!(host::containers(&one.name), processes);
    assert_eq!(one.value("get pod of-one", "{.metadata.uid}"), uid);
    assert_eq!(kept.get("/whoami").expect("the connection still works").body.trim(), "v1 of-one");
    assert_eq!(who(&one), ["v1 of-one"; 3]);
    let mut left = vec!["work".to_owned(), one.name.clone()];
    left.sort();
    assert_eq!(names(&config, "contexts"), left);

    one.down();
    assert_eq!(names(&config, "contexts"), ["work"]);
    assert_eq!((names(&config, "clusters"), names(&config, "users")), (vec!["work".to_owned()], vec!["me".to_owned()]));
    assert_eq!(theirs(&config), before);
}

#[test]
fn kept_data_comes_back_with_its_pods() {
    let mut cluster = Cluster::up("keep", &[example("shop.yaml")]);
    let facts = |c: &Cluster| (c.value("-n shop get deployment web", "{.metadata.uid}"), c.value("-n shop get service web", "{.spec.clusterIP}"), c.node_ip());
    let before = facts(&cluster);
    // The same look that finds nothing afterwards finds everything now.
    let stands = leftovers::of(&cluster.name, &cluster.folder);
    for what in ["process", "mount", "cgroup", "link", "/run/knarr"] {
        assert!(stands.iter().any(|s| s.starts_with(what)), "no {what} in {stands:#?}");
    }
    cluster.down_keeping_data();
    let left = leftovers::of(&cluster.name, &cluster.folder);
    assert!(left.is_empty(), "{left:#?}");
    assert!(cluster.data().join("store").exists());

    cluster.start(&[]).assert_ok();
    assert_eq!(facts(&cluster), before);
    for deployment in ["web", "backend"] {
        cluster.kubectl(&format!("-n shop rollout status deployment/{deployment} --timeout=55s"));
    }
    // `rollout status` believes what was stored; the pods themselves answer only if they run.
    cluster.kubectl("-n shop wait --for=condition=Ready pod --all --timeout=50s");
    let public = cluster.value("-n shop get service web-public", "{.spec.ports[0].nodePort}");
    let answer = http::get(&format!("{}:{public}", cluster.node_ip()), "/whoami").expect("the node's port");
    assert!(answer.code == 200 && answer.body.starts_with("v1 web-"), "{answer:?}");
}
