//! A walk through what people do with kubectl, on the example application.

use cluster_tests::{Cluster, IMAGE, PATIENCE, example, http, kubectl, process, process::Running, words};
use serde_json::Value;
use std::{
    collections::HashSet,
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

/// A pod with the host's programs in it: kubectl's `cp` wants a tar in the container, and the shop's image has but one file.
fn tools() -> String {
    let folders = ["usr", "bin", "lib", "lib64"];
    let list = |f: &dyn Fn(&&str) -> String| folders.iter().map(f).collect::<Vec<_>>().join(", ");
    let mounts = list(&|f| format!("{{name: {f}, mountPath: /{f}, readOnly: true}}"));
    let volumes = list(&|f| format!("{{name: {f}, hostPath: {{path: /{f}}}}}"));
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: tools, labels: {{app: tools}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: tools
      image: {IMAGE}
      command: [/bin/sh, -c, 'echo to-out; echo to-err >&2; exec sleep 3600']
      env: [{{name: PATH, value: /bin}}]
      volumeMounts: [{mounts}, {{name: data, mountPath: /data}}]
    - name: reader
      image: {IMAGE}
      stdin: true
      env: [{{name: PATH, value: /bin}}]
      command: [/bin/sh, -c, 'echo reads; while read line; do echo \"got $line\"; done; exec sleep 3600']
      volumeMounts: [{mounts}]
  volumes: [{volumes}, {{name: data, emptyDir: {{}}}}]
"
    )
}

/// The names of a table's columns.
fn columns(table: &str) -> Vec<&str> {
    let head = table.lines().next().expect("a table has a head");
    head.split("  ").map(str::trim).filter(|c| !c.is_empty()).collect()
}

/// Looks for parts of a text, whatever the width of its columns.
#[track_caller]
fn contains_all(text: &str, parts: &[&str]) {
    let narrow = |text: &str| text.lines().map(|l| words(l).join(" ")).collect::<Vec<_>>().join("\n");
    let whole = narrow(text);
    for part in parts {
        assert!(whole.contains(narrow(part).trim()), "no {part:?} in:\n{text}");
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("the test's folder is text")
}

/// What the shop's pods use. Who asks first waits two seconds for figures, and is then told of those that there are.
fn top_pods(cluster: &Cluster) -> String {
    let end = Instant::now() + PATIENCE;
    loop {
        let told = cluster.try_kubectl(&words("top pods -n shop"));
        if told.ok() && ["web-", "backend-"].iter().all(|pod| told.stdout.contains(pod)) {
            return told.stdout;
        }
        assert!(Instant::now() < end, "{told}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

#[test]
fn reading() {
    let cluster = Cluster::up("read", &[example("shop.yaml")]);
    let pods = cluster.kubectl("-n shop get pods -l app=web -o wide");
    assert_eq!(columns(&pods), ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE", "NOMINATED NODE", "READINESS GATES"]);
    assert_eq!(pods.matches("1/1").count(), 3, "{pods}");
    let deployments = cluster.kubectl("-n shop get deployments -o wide");
    assert_eq!(columns(&deployments), ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE", "CONTAINERS", "IMAGES", "SELECTOR"]);
    let services = cluster.kubectl("-n shop get services");
    assert_eq!(columns(&services), ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]);
    contains_all(&services, &["NodePort", "80:30080/TCP", "<none>"]);
    contains_all(&cluster.kubectl("get nodes -o wide"), &["Ready", "INTERNAL-IP", "CONTAINER-RUNTIME", &cluster.node_ip()]);
    contains_all(&cluster.kubectl("-n shop get all"), &["pod/web-", "service/web-public", "deployment.apps/web", "replicaset.apps/web-"]);

    let json = cluster.json("-n shop get deployment web");
    let yaml: Value = serde_yaml_ng::from_str(&cluster.kubectl("-n shop get deployment web -o yaml")).expect("YAML");
    assert_eq!(json, yaml);
    assert_eq!((&json["kind"], &json["status"]["readyReplicas"]), (&"Deployment".into(), &3.into()));
    let sorted = cluster.kubectl("-n shop get services --sort-by=.metadata.name -o custom-columns=NAME:.metadata.name,TYPE:.spec.type --no-headers");
    assert_eq!(words(&sorted), ["backend", "ClusterIP", "web", "ClusterIP", "web-public", "NodePort"]);
    assert_eq!(cluster.kubectl("-n shop get pods --field-selector status.phase!=Running -o name"), "");
    contains_all(&cluster.try_kubectl(&["get", "pod", "nobody"]).assert_fails(), &["Error from server (NotFound): pods \"nobody\" not found"]);

    let name = cluster.value("-n shop get pods -l app=web", "{.items[0].metadata.name}");
    let pod = cluster.kubectl(&format!("-n shop describe pod {name}"));
    contains_all(
        &pod,
        &[
            "Status:           Running",
            "Service Account:  web",
            "QoS Class:                   Burstable",
            "Liveness:       http-get http://:http/healthz",
            "Events:",
            "Successfully assigned shop/",
            "Started",
        ],
    );
    contains_all(
        &cluster.kubectl("-n shop describe deployment web"),
        &["StrategyType:", "RollingUpdate", "3 desired | 3 updated | 3 total | 3 available | 0 unavailable", "ScalingReplicaSet"],
    );
    contains_all(&cluster.kubectl("describe nodes"), &["Ready", "KubeletReady", "Allocated resources:", "Non-terminated Pods:"]);
    contains_all(&cluster.kubectl("-n shop describe service web"), &["Endpoints:", ":8080", "TargetPort:"]);
    contains_all(&cluster.kubectl("-n shop describe secret shop"), &["SHOP_PASSWORD:  10 bytes"]);

    contains_all(
        &cluster.kubectl("explain pod.spec.containers.livenessProbe"),
        &["KIND:       Pod", "FIELD: livenessProbe <Probe>", "DESCRIPTION:", "failureThreshold\t<integer>"],
    );
    contains_all(&cluster.kubectl("explain deployment.spec.strategy --recursive"), &["GROUP:      apps", "maxSurge"]);
    let resources = cluster.kubectl("api-resources");
    assert_eq!(words(resources.lines().next().expect("a head")), ["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"]);
    contains_all(&resources, &["deploy", "customresourcedefinitions", "gatewayclasses"][..2]);
    contains_all(&cluster.kubectl("api-versions"), &["apps/v1", "v1", "rbac.authorization.k8s.io/v1"]);
    contains_all(&cluster.kubectl("version"), &["Server Version: v1.37"]);
    contains_all(&cluster.kubectl("cluster-info"), &["is running at", "https://127.0.0.1:"]);
    assert_eq!(cluster.kubectl("auth can-i list pods -n shop --as system:serviceaccount:shop:web").trim(), "yes");
    assert_eq!(cluster.try_kubectl(&words("auth can-i list secrets -n shop --as system:serviceaccount:shop:web")).stdout.trim(), "no");
    contains_all(&top_pods(&cluster), &["CPU(cores)", "MEMORY(bytes)", "web-", "backend-"]);
    contains_all(&cluster.kubectl("get podmetrics -n shop"), &["NAME", "CPU", "MEMORY", "WINDOW", "web-"]);
    contains_all(&cluster.kubectl("-n shop events --for deployment/web"), &["Scaled up replica set"]);

    // A watch shows what is and then what comes.
    let mut watch = cluster.kubectl_running("-n shop get configmaps --watch-only -o name");
    // It may begin late: what it shows is the change, so the change is made until it is seen.
    let seen = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0.. {
                if seen.load(std::sync::atomic::Ordering::Relaxed) || n > 100 {
                    break;
                }
                cluster.kubectl(&format!("-n shop annotate configmap shop n={n} --overwrite"));
            }
        });
        watch.line(PATIENCE, |l| l == "configmap/shop");
        seen.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn writing() {
    let cluster = Cluster::up("write", &[]);
    let shop = example("shop.yaml");
    let shop = path(&shop);
    contains_all(
        &cluster.kubectl(&format!("apply -f {shop}")),
        &["namespace/shop created", "deployment.apps/web created", "rolebinding.rbac.authorization.k8s.io/web-sees-pods created"],
    );
    contains_all(
        &cluster.kubectl(&format!("create deployment dry -n shop --image={IMAGE} --dry-run=server")),
        &["deployment.apps/dry created (server dry run)"],
    );
    contains_all(&cluster.try_kubectl(&words("-n shop get deployment dry")).assert_fails(), &["not found"]);
    let again = cluster.kubectl(&format!("apply -f {shop}"));
    // Whose `stringData` is never read back is sent each time.
    assert!(again.lines().all(|l| l.ends_with("unchanged") || l == "secret/shop configured"), "{again}");
    let server = cluster.kubectl(&format!("apply -f {shop} --server-side --force-conflicts"));
    assert!(server.lines().all(|l| l.ends_with("serverside-applied")), "{server}");
    cluster.kubectl("-n shop rollout status deployment/web --timeout=55s");
    // Nothing differs; kubectl says so by its exit code.
    let diff = cluster.try_kubectl(&["diff", "--server-side", "--force-conflicts", "-f", shop]);
    assert_eq!(diff.code, Some(0), "{diff}");

    let editor = |script: &str| {
        let mut command = cluster.kubectl_command(&words("-n shop edit configmap shop"));
        process::run(command.env("KUBE_EDITOR", format!("sed -i {script}")), &[], PATIENCE)
    };
    contains_all(&editor("s/Chandlery/Lighthouse/").assert_ok().stdout, &["configmap/shop edited"]);
    assert_eq!(cluster.value("-n shop get configmap shop", "{.data.SHOP_TITLE}"), "The Lighthouse");
    contains_all(&editor("s/nothing-of-this/at-all/").stderr, &["Edit cancelled, no changes made."]);

    cluster.kubectl("-n shop label deployment web tier=front");
    assert_eq!(cluster.kubectl("-n shop get deployments -l tier=front -o name").trim(), "deployment.apps/web");
    contains_all(&cluster.try_kubectl(&words("-n shop label deployment web tier=back")).assert_fails(), &["--overwrite is false"]);
    cluster.kubectl("-n shop label deployment web tier-");
    assert_eq!(cluster.kubectl("-n shop get deployments -l tier -o name"), "");

    for (kind, patch) in [
        ("strategic", r#"{"spec":{"template":{"spec":{"containers":[{"name":"web","env":[{"name":"A","value":"1"}]}]}}}}"#),
        ("merge", r#"{"metadata":{"annotations":{"a":"b"}}}"#),
        ("json", r#"[{"op":"replace","path":"/spec/revisionHistoryLimit","value":4}]"#),
    ] {
        let patched = cluster.try_kubectl(&["-n", "shop", "patch", "deployment", "web", "--type", kind, "-p", patch]).assert_ok();
        contains_all(&patched.stdout, &["deployment.apps/web patched"]);
    }
    let web = cluster.json("-n shop get deployment web");
    let env = web["spec"]["template"]["spec"]["containers"][0]["env"].as_array().expect("variables");
    assert!(env.len() == 5 && env.iter().any(|e| e["name"] == "A"), "merged by name: {env:?}");
    assert_eq!(web["spec"]["revisionHistoryLimit"], 4);

    rollouts(&cluster);

    cluster.kubectl("-n shop scale deployment/web --replicas=5");
    cluster.kubectl("-n shop wait deployment/web --for=jsonpath={.status.readyReplicas}=5 --timeout=50s");
    cluster.kubectl("-n shop scale deployment/web --replicas=1");
    contains_all(&cluster.try_kubectl(&words("-n shop scale deployment/web --replicas=2 --current-replicas=7")).assert_fails(), &["Expected replicas to be 7"]);

    let created = cluster.kubectl(&format!("create deployment other --image={IMAGE} --dry-run=client -o yaml"));
    contains_all(&created, &["kind: Deployment", "app: other"]);
    cluster.kubectl(&format!("run one --image={IMAGE} --restart=Never --labels=app=one -- web"));
    cluster.ready("default", "one");
    cluster.kubectl("expose pod one --port=80 --target-port=8080");
    let address = cluster.value("get service one", "{.spec.clusterIP}");
    assert_eq!(http::answered(&format!("{address}:80"), "/whoami").body.trim(), "v1 one");
    contains_all(&cluster.kubectl("delete pod,service -l app=one"), &["pod \"one\" deleted", "service \"one\" deleted"]);
    contains_all(&cluster.kubectl(&format!("delete -f {shop} --timeout=55s")), &["namespace \"shop\" deleted"]);
    contains_all(&cluster.try_kubectl(&["get", "namespace", "shop"]).assert_fails(), &["not found"]);
}

fn rollouts(cluster: &Cluster) {
    let image = || cluster.value("-n shop get deployment web", "{.spec.template.spec.containers[0].image}");
    let done = || {
        let told = cluster.kubectl("-n shop rollout status deployment/web --timeout=55s");
        contains_all(&told, &["deployment \"web\" successfully rolled out"]);
    };
    cluster.kubectl("-n shop set image deployment/web web=knarr.local/shop:v2");
    done();
    assert_eq!(image(), "knarr.local/shop:v2");
    contains_all(&cluster.kubectl("-n shop rollout history deployment/web"), &["REVISION", "CHANGE-CAUSE"]);
    contains_all(&cluster.kubectl("-n shop rollout undo deployment/web"), &["deployment.apps/web rolled back"]);
    done();
    assert_eq!(image(), IMAGE);
    let before = cluster.kubectl("-n shop get pods -l app=web -o name");
    contains_all(&cluster.kubectl("-n shop rollout restart deployment/web"), &["deployment.apps/web restarted"]);
    done();
    let after = cluster.kubectl("-n shop get pods -l app=web --field-selector status.phase=Running -o json");
    let after: Value = serde_json::from_str(&after).expect("JSON");
    let fresh = after["items"].as_array().expect("pods").iter().filter(|p| p["metadata"]["deletionTimestamp"].is_null());
    assert!(fresh.filter_map(|p| p["metadata"]["name"].as_str()).all(|name| !before.contains(name)), "{before}");
    cluster.kubectl("-n shop rollout pause deployment/web");
    contains_all(&cluster.try_kubectl(&words("-n shop rollout restart deployment/web")).assert_fails(), &["can't restart paused deployment"]);
    cluster.kubectl("-n shop rollout resume deployment/web");
}

#[test]
fn into_containers() {
    let cluster = Cluster::up("into", &[]);
    cluster.apply(&tools());
    cluster.kubectl(&format!("run web --image={IMAGE} --restart=Never -- web"));
    cluster.ready("default", "tools");
    cluster.ready("default", "web");

    // Logs, as they are and as they come. Who runs has not said everything yet.
    let mut said = cluster.kubectl_running("logs -f tools -c tools");
    said.line(PATIENCE, |l| l == "to-out");
    if !said.seen().iter().any(|l| l == "to-err") {
        said.line(PATIENCE, |l| l == "to-err");
    }
    let mut follow = cluster.kubectl_running("logs -f tools -c reader");
    follow.line(PATIENCE, |l| l == "reads");
    drop(said);
    let log = cluster.kubectl("logs tools -c tools");
    assert!(log.contains("to-out\n") && log.contains("to-err\n"), "{log}");
    assert_eq!(cluster.kubectl("logs tools -c reader --tail=1"), "reads\n");
    let stamped = cluster.kubectl("logs tools -c reader --timestamps");
    assert!(stamped.starts_with("20") && stamped.ends_with("Z reads\n") | stamped.ends_with(" reads\n"), "{stamped}");
    contains_all(&cluster.try_kubectl(&words("logs tools -c nobody")).assert_fails(), &["container nobody is not valid for pod tools"]);
    contains_all(&cluster.try_kubectl(&words("logs web --previous")).assert_fails(), &["previous terminated container \"web\" in pod \"web\" not found"]);

    // Attached to its input, which the log then tells of.
    let mut attached = cluster.kubectl_running("attach -i tools -c reader");
    attached.say("hello");
    attached.line(PATIENCE, |l| l == "got hello");
    follow.line(PATIENCE, |l| l == "got hello");
    drop((attached, follow));

    exec(&cluster);
    copy(&cluster);

    let mut forward = cluster.kubectl_running("port-forward pod/web :8080");
    let line = forward.line(PATIENCE, |l| l.starts_with("Forwarding from 127.0.0.1:"));
    let port = line.trim_start_matches("Forwarding from 127.0.0.1:").split(' ').next().expect("a port").to_owned();
    for _ in 0..3 {
        assert_eq!(http::get(&format!("127.0.0.1:{port}"), "/whoami").expect("the forwarded port").body.trim(), "v1 web");
    }
    drop(forward);

    // A log that is followed ends with its container.
    let mut follow = cluster.kubectl_running("logs -f web");
    // It follows already.
    follow.line(PATIENCE, |l| l.contains("serves on"));
    cluster.kubectl("delete pod web --wait=false");
    let (lines, _) = follow.end(PATIENCE);
    assert!(lines.iter().any(|l| l.contains("SIGTERM")) && lines.last().is_some_and(|l| l.contains("ends")), "{lines:#?}");
}

fn exec(cluster: &Cluster) {
    let run = |args: &[&str], input: &[u8]| {
        let all: Vec<&str> = [&["exec", "tools", "-c", "tools"], args].concat();
        process::run(&mut cluster.kubectl_command(&all), input, PATIENCE)
    };
    contains_all(&run(&["--", "/knarr", "demo", "--help"], &[]).assert_ok().stdout, &["Usage: knarr demo"]);
    let both = run(&["--", "sh", "-c", "echo out; echo err >&2; exit 7"], &[]);
    assert_eq!((both.stdout.as_str(), both.code), ("out\n", Some(7)), "{both}");
    contains_all(&both.stderr, &["err\n", "command terminated with exit code 7"]);
    let missing = run(&["--", "no-such-program"], &[]).assert_fails();
    contains_all(&missing, &["no-such-program", "executable file not found in $PATH"]);
    // More than any buffer on the way holds, there and back, and its end arrives.
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| b'a' + (n % 23) as u8).collect();
    let echoed = run(&["-i", "--", "cat"], &large).assert_ok();
    assert!(echoed.stdout.as_bytes() == large, "{} of {} bytes came back", echoed.stdout.len(), large.len());
    assert_eq!(run(&["-i", "--", "wc", "-c"], &large).assert_ok().stdout.trim(), "3000000");

    // On a terminal, which script(1) makes, if there is one.
    let line = format!("{} exec -it tools -c tools -- sh -c 'tty; stty size'", cluster_tests::kubectl().display());
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).env("KUBECONFIG", cluster.kubeconfig()).env("HOME", &cluster.folder).env("TERM", "xterm");
    if Command::new("script").arg("--version").output().is_ok() {
        let told = process::run(&mut command, &[], PATIENCE).assert_ok();
        contains_all(&told.stdout, &["/dev/pts/"]);
    }
}

fn copy(cluster: &Cluster) {
    let (there, back) = (cluster.folder.join("there"), cluster.folder.join("back"));
    fs::create_dir_all(there.join("inner")).expect("the test's folder");
    let large: Vec<u8> = (0..2_500_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(there.join("large"), &large).expect("the test's folder");
    fs::write(there.join("inner/small"), "small").expect("the test's folder");
    cluster.kubectl(&format!("cp {} tools:/data/copy -c tools", path(&there)));
    assert_eq!(cluster.kubectl("exec tools -c tools -- cat /data/copy/inner/small"), "small");
    cluster.kubectl(&format!("cp tools:/data/copy {} -c tools", path(&back)));
    assert!(fs::read(back.join("large")).expect("it came back") == large);
    assert_eq!(fs::read_to_string(back.join("inner/small")).expect("it came back"), "small");
}

#[test]
fn a_following_log_survives_nothing_less_than_its_container() {
    let mut cluster = Cluster::up("follow", &[]);
    cluster.kubectl(&format!("run web --image={IMAGE} --restart=Never -- web"));
    cluster.ready("default", "web");
    let mut log: Running = cluster.kubectl_running("logs -f web");
    log.line(PATIENCE, |l| l.contains("serves on"));
    // knarr itself is replaced: the follower is cut off, as with any server that ends, and the log is whole for the next.
    cluster.kill();
    cluster.start(&[]).assert_ok();
    let whole = cluster.kubectl("logs web");
    assert_eq!(whole.matches("serves on").count(), 1, "{whole}");
    contains_all(&cluster.try_kubectl(&words("exec web -- /knarr demo --help")).assert_ok().stdout, &["Usage: knarr demo"]);
    cluster.kubectl("delete pod web --timeout=30s");
}

/// Two ports that nobody uses, nor will soon.
fn free_ports() -> [u16; 2] {
    // At the same time: one that is free again might be the next.
    let held = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").expect("a port"));
    held.each_ref().map(|listener| listener.local_addr().expect("its address").port())
}

/// Each family and each series stands once on a page: scrapers refuse or drop what is told again. How many there are.
fn once(page: &str) -> usize {
    let mut seen = HashSet::new();
    for line in page.lines().filter(|line| !line.starts_with("# HELP ")) {
        // A type by its family's name, a series by all but its value.
        let subject = if line.starts_with("# TYPE ") { line.rsplit_once(' ') } else { line.split_once("} ").or_else(|| line.split_once(' ')) };
        assert!(seen.insert(subject.map_or(line, |(subject, _)| subject)), "twice: {line}");
    }
    seen.len()
}

#[test]
fn metrics_of_the_control_plane() {
    let [scheduler, controllers] = free_ports();
    let ports = ["--scheduler-secure-port".to_owned(), scheduler.to_string(), "--controllers-secure-port".to_owned(), controllers.to_string()];
    let mut cluster = Cluster::new("metrics").with(&ports.each_ref().map(String::as_str));
    cluster.start(&[]).assert_ok();
    // A cluster beside another has its ports at its node's own address.
    let ip = Some(cluster.node_ip()).filter(|ip| !ip.starts_with("10.244.")).unwrap_or_else(|| "127.0.0.1".to_owned());
    let at = |port: u16, path: &str, who: &str| format!("get --raw {path} --server https://{ip}:{port} --insecure-skip-tls-verify {who}");
    assert_eq!(cluster.kubectl(&at(scheduler, "/readyz", "")), "ok");
    assert_eq!(cluster.kubectl(&at(controllers, "/healthz/deployment-controller", "")), "ok");
    cluster.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: waits}\nspec: {nodeSelector: {no: where}, containers: [{name: c, image: x, resources: {requests: {cpu: 250m}}}]}\n").assert_ok();
    cluster.kubectl("wait --for=condition=PodScheduled=False pod/waits --timeout=60s");
    let told = cluster.kubectl(&at(scheduler, "/metrics", ""));
    assert!(told.lines().any(|l| l == "scheduler_pending_pods{queue=\"unschedulable\"} 1"), "{told}");
    assert!(told.contains("scheduler_schedule_attempts_total{profile=\"default-scheduler\",result=\"unschedulable\"} "), "{told}");
    let resources = cluster.kubectl(&at(scheduler, "/metrics/resources", ""));
    assert!(resources.contains("pod=\"waits\"") && resources.contains("unit=\"cores\"} 0.25"), "{resources}");
    assert!(once(&told) > 20, "{told}");
    let told = cluster.kubectl(&at(controllers, "/metrics", ""));
    assert!(once(&told) > 20, "{told}");
    assert!(told.contains("workqueue_adds_total{name=\"serviceaccount\"}"), "{told}");
    assert!(told.contains("rest_client_requests_total{code=\"201\""), "{told}");
    assert!(once(&cluster.kubectl("get --raw /metrics")) > 100);
    let node = cluster.value("get nodes", "{.items[0].metadata.name}");
    for page in ["metrics", "metrics/cadvisor", "metrics/resource", "metrics/probes", "metrics/slis"] {
        let told = cluster.kubectl(&format!("get --raw /api/v1/nodes/{node}/proxy/{page}"));
        assert!(once(&told) > 20 || page != "metrics", "{told}");
    }
    // Who may is the API server's to say.
    cluster.kubectl("create serviceaccount watcher");
    let token = cluster.kubectl("create token watcher");
    // Without the administrator's certificate, which would count.
    let watch = |port: u16| {
        let mut kubectl = Command::new(kubectl());
        kubectl.args(words(&at(port, "/metrics", "--kubeconfig /dev/null"))).args(["--token", token.trim()]);
        process::run(&mut kubectl, b"", PATIENCE)
    };
    let why = watch(scheduler).assert_fails();
    assert!(why.contains("orbidden"), "{why}");
    cluster.kubectl("create clusterrolebinding watcher --clusterrole=system:monitoring --serviceaccount=default:watcher");
    // What the scheduler was told before it believes for ten seconds.
    assert!(watch(controllers).assert_ok().stdout.contains("process_start_time_seconds"));
    cluster.down();
}
