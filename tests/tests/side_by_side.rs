//! Clusters beside each other, and the user's own kubeconfig beside them.

use cluster_tests::{Cluster, IMAGE, example, host, http, leftovers};
use serde_yaml_ng::Value;
use std::{fs, path::Path};

/// Somebody's own contexts, which no cluster may touch.
const THEIRS: &str = "# written by hand
apiVersion: v1
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

/// A cluster's three ways to its pod.
fn ways(cluster: &Cluster) -> [String; 3] {
    let pod = cluster.value("get pods -l app=web", "{.items[0].status.podIP}");
    let service = cluster.value("get service web", "{.spec.clusterIP}");
    [format!("{pod}:8080"), format!("{service}:80"), format!("{}:30123", cluster.node_ip())]
}

/// Who answers on them, once they lead there.
fn who(cluster: &Cluster) -> [String; 3] {
    ways(cluster).map(|way| http::answered(&way, "/whoami").body.trim().to_owned())
}

#[test]
fn two_clusters_do_not_touch_each_other_nor_anybody_else() {
    let mut one = Cluster::new("one");
    let config = one.folder.join("shared-config");
    fs::write(&config, THEIRS).expect("a kubeconfig");
    let before = theirs(&config);
    one = one.kubeconfig_in(&config);
    let mut two = Cluster::new("two").kubeconfig_in(&config);
    // At the same moment: neither may choose what the other does.
    std::thread::scope(|scope| {
        for cluster in [&mut one, &mut two] {
            scope.spawn(|| cluster.start(&[]).assert_ok());
        }
    });
    let mut all = vec!["work".to_owned(), one.name.clone(), two.name.clone()];
    all.sort();
    assert_eq!(names(&config, "contexts"), all);
    assert_eq!(theirs(&config), before);
    assert!(fs::read_to_string(&config).expect("a kubeconfig").starts_with("# written by hand\n"));
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
    for way in ways(&one) {
        assert_eq!(http::get(&way, "/whoami").unwrap_or_else(|e| panic!("{way}: {e}")).body.trim(), "v1 of-one");
    }
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
    let answer = http::answered(&format!("{}:{public}", cluster.node_ip()), "/whoami");
    assert!(answer.code == 200 && answer.body.starts_with("v1 web-"), "{answer:?}");
}

/// What a user without rights sees of a path.
fn as_nobody(words: &[&str]) -> std::process::Output {
    use std::os::unix::process::CommandExt as _;
    std::process::Command::new(words[0]).args(&words[1..]).uid(65534).gid(65534).current_dir("/").output().expect("it runs")
}

#[test]
fn a_cluster_keeps_to_what_is_its_own() {
    let mut cluster = Cluster::new("own");
    // Somebody's directory, and a disk that is reached by a link.
    let (theirs, disk) = (cluster.folder.join("theirs"), cluster.folder.join("disk"));
    fs::create_dir(&theirs).expect("a folder");
    fs::create_dir(&disk).expect("a folder");
    fs::write(theirs.join("thesis"), "years of work").expect("a file");
    std::os::unix::fs::symlink(&disk, cluster.folder.join("link")).expect("a link");
    for words in [&["up", "--detach"][..], &["down"]] {
        let mut command = std::process::Command::new(cluster_tests::knarr());
        command.args(words).args(["--name", &cluster.name]).arg("--data-dir").arg(&theirs).arg("--kubeconfig").arg(cluster.kubeconfig());
        let said = cluster_tests::process::run(&mut command, &[], cluster_tests::PATIENCE);
        assert!(said.clone().assert_fails().contains("not the data of a cluster") || said.stdout.contains("not the data of a cluster"), "{said}");
    }
    assert_eq!(fs::read_to_string(theirs.join("thesis")).expect("it is there"), "years of work");

    let data = cluster.folder.join("link/data");
    cluster = cluster.data_in(&data);
    // A host's directory that a pod has by a path below it.
    let host = cluster.folder.join("host");
    fs::create_dir_all(host.join("db")).expect("a folder");
    fs::write(host.join("db/rows"), "1 2 3").expect("a file");
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: db}}\nspec:\n  containers:\n  - {{name: c, image: '{IMAGE}', args: [web], volumeMounts: [{{name: v, mountPath: /v, subPath: db}}]}}\n  \
        volumes: [{{name: v, hostPath: {{path: '{}'}}}}]\n",
        host.display()
    );
    // A roll-out that cannot finish: the cluster stays, says why, and the exit code is 1.
    let manifest = cluster.folder.join("never.yaml");
    let never = format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: never, namespace: default}}\nspec:\n  selector: {{matchLabels: {{a: b}}}}\n  template:\n    \
        metadata: {{labels: {{a: b}}}}\n    spec: {{nodeSelector: {{no: such}}, containers: [{{name: c, image: '{IMAGE}'}}]}}\n"
    );
    fs::write(&manifest, never).expect("a manifest");
    // Time enough for the scheduler to say why, also on a machine that is busy.
    cluster = cluster.with(&["--timeout", "8"]);
    let late = cluster.start(&[manifest]);
    assert_eq!(late.code, Some(1), "{late}");
    for word in ["not finished after 8 s", "default/never: 0 of 1 pods", "didn't match Pod's node affinity/selector", "The cluster runs on."] {
        assert!(late.stdout.contains(word), "{word}: {late}");
    }
    cluster.apply(&pod);
    cluster.ready("default", "db");

    // Secrets, tokens, images: nobody else looks in.
    for folder in [cluster.data().to_owned(), cluster.run_folder()] {
        let seen = as_nobody(&["find", folder.to_str().expect("text")]);
        let lines = String::from_utf8_lossy(&seen.stdout).lines().count();
        assert!(lines <= 1 && !seen.status.success(), "{}: {}", folder.display(), String::from_utf8_lossy(&seen.stdout));
    }
    cluster.down();
    assert_eq!(fs::read_to_string(host.join("db/rows")).expect("it is there"), "1 2 3");
}
