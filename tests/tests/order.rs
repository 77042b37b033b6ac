//! The end of a pod, in the order that the founding note tells: out of service, preStop hook, stop signal, exit.

use client::{Event, ListParams, Meta as _};
use cluster_tests::{
    Cluster, IMAGE, PATIENCE,
    http::{self, Listener},
    process::Running,
};
use k8s_openapi::api::{core::v1::Pod, discovery::v1::EndpointSlice};
use std::time::{Duration, Instant, SystemTime};

/// A web pod in a Service of its own, with this lifecycle.
fn manifest(name: &str, grace: u32, hook: &str, args: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: {grace}
  containers:
    - name: web
      image: {IMAGE}
      args: {args}
      ports: [{{containerPort: 8080}}]
      lifecycle:
        preStop:
          {hook}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ports: [{{port: 80, targetPort: 8080}}]
"
    )
}

/// Of an EndpointSlice's endpoints: whether one is ready, whether one is terminating.
fn conditions(slice: &EndpointSlice) -> (bool, bool) {
    let all = slice.endpoints.iter().flatten().filter_map(|e| e.conditions.as_ref());
    all.fold((false, false), |(ready, ending), c| (ready || c.ready == Some(true), ending || c.terminating == Some(true)))
}

fn slices_of(service: &str) -> ListParams {
    ListParams { label_selector: format!("kubernetes.io/service-name={service}"), ..ListParams::default() }
}

/// Waits until the Service has a ready endpoint.
fn in_service(cluster: &Cluster, service: &str) {
    let api = cluster.client().namespaced::<EndpointSlice>("default");
    cluster.until(&api, &slices_of(service), "an endpoint that is ready", |event| matches!(event, Event::Added(s) | Event::Modified(s) if conditions(s).0));
}

/// The moment that a line of the demo's log tells.
fn stamp(line: &str) -> f64 {
    line.split(' ').next().and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("no time in {line:?}"))
}

fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

fn logs(cluster: &Cluster, pod: &str) -> Running {
    let mut logs = cluster.kubectl_running(&format!("logs -f {pod}"));
    logs.line(PATIENCE, |l| l.contains("serves on"));
    logs
}

fn gone(cluster: &Cluster, pod: &str) {
    cluster.kubectl(&format!("wait --for=delete pod/{pod} --timeout=50s"));
}

#[test]
fn out_of_service_then_the_hook_then_the_signal() {
    let cluster = Cluster::up("order", &[]);
    // The kubelet calls this test as the hook: what holds at that moment can be looked at, and the hook lasts as we like.
    let hook = Listener::new();
    cluster.apply(&manifest("ordered", 30, &format!("httpGet: {{host: 127.0.0.1, port: {}, path: /stopping}}", hook.port()), "[web]"));
    cluster.ready("default", "ordered");
    in_service(&cluster, "ordered");
    let ip = cluster.value("get pod ordered", "{.status.podIP}");
    let uid = cluster.value("get pod ordered", "{.metadata.uid}");
    let mut logs = logs(&cluster, "ordered");

    cluster.kubectl("delete pod ordered --wait=false");
    let asked = hook.asked();
    assert_eq!(asked.line, "GET /stopping HTTP/1.1");
    let slices = cluster.client().namespaced::<EndpointSlice>("default");
    let list = cluster.block_on("the EndpointSlice", slices.list(&slices_of("ordered"))).expect("a list");
    assert_eq!(conditions(&list.items()[0]), (false, true), "out of service when the hook begins: {:?}", list.items()[0].endpoints);

    // It serves while the hook runs, old connections and new ones.
    let mut kept = http::Connection::open(&format!("{ip}:8080")).expect("a connection while the hook runs");
    for _ in 0..2 {
        let answer = kept.get("/whoami").expect("an answer while the hook runs");
        assert_eq!((answer.code, answer.body.trim()), (200, "v1 ordered"));
        assert!(answer.head.contains("x-shop-state: serving"), "no signal yet: {}", answer.head);
    }
    let state = cluster.value("get pod ordered", "{.status.containerStatuses[0].state}");
    assert!(state.contains("running"), "{state}");
    let answered = now();
    asked.answer();

    let term = logs.line(PATIENCE, |l| l.contains("SIGTERM"));
    let end = logs.line(PATIENCE, |l| l.contains("ends; 0 requests in flight"));
    assert!(stamp(&term) >= answered - 0.001 && stamp(&end) >= stamp(&term), "{answered} {term} {end}");
    gone(&cluster, "ordered");
    let (lines, _) = logs.end(PATIENCE);
    let told: Vec<_> = lines.iter().filter(|l| l.contains("SIGTERM")).collect();
    assert_eq!(told.len(), 1, "uid {uid}: {lines:#?}");
}

#[test]
fn a_hook_that_is_a_program_has_its_time_and_the_pod_serves_in_it() {
    let cluster = Cluster::up("hook", &[]);
    cluster.apply(&manifest("drained", 30, "exec: {command: [/knarr, demo, drain, \"5\"]}", "[web]"));
    cluster.ready("default", "drained");
    in_service(&cluster, "drained");
    let ip = cluster.value("get pod drained", "{.status.podIP}");
    let mut logs = logs(&cluster, "drained");

    // When the watch tells it.
    let slices = cluster.client().namespaced::<EndpointSlice>("default");
    let out_of_service = cluster.spawn(async move {
        let out = |event: &Event<EndpointSlice>| matches!(event, Event::Added(s) | Event::Modified(s) if conditions(s) == (false, true));
        cluster_tests::watching::until(&slices, &slices_of("drained"), out).await;
        now()
    });
    cluster.kubectl("delete pod drained --wait=false");
    let hook = logs.line(PATIENCE, |l| l.contains("preStop: draining"));
    let answer = http::get(&format!("{ip}:8080"), "/whoami").expect("an answer while the hook runs");
    assert_eq!((answer.code, answer.body.trim()), (200, "v1 drained"));
    assert!(answer.head.contains("x-shop-state: draining"), "{}", answer.head);
    let term = logs.line(PATIENCE, |l| l.contains("SIGTERM"));
    let out = cluster.block_on("out of service", out_of_service).expect("the watch");
    assert!(out < stamp(&term) - 1.5, "out of service at {out}, {term}");
    let hook_took = stamp(&term) - stamp(&hook);
    assert!((4.9..30.0).contains(&hook_took), "the hook takes 5 s: {hook} … {term}");
    let end = logs.line(PATIENCE, |l| l.contains("ends; 0 requests"));
    assert!(stamp(&end) >= stamp(&term));
    gone(&cluster, "drained");
}

#[test]
fn a_hook_longer_than_the_grace_period_is_cut() {
    const GRACE_S: u64 = 3;
    // What a container gets after its signal, however long the hook was.
    const LEAST_S: u64 = 2;
    const MARGIN_S: u64 = 30;
    let cluster = Cluster::up("cut", &[]);
    // As the first process of its namespace it is not ended by a signal that it does not handle.
    let hook = "exec: {command: [/knarr, demo, sleep, \"600\"]}";
    cluster.apply(&manifest("stubborn", 3, hook, "[sleep, \"600\"]"));
    cluster.ready("default", "stubborn");
    let pods = cluster.client().namespaced::<Pod>("default");
    let params = ListParams { field_selector: "metadata.name=stubborn".into(), ..ListParams::default() };
    let (watched, all) = (pods.clone(), params.clone());
    let exit = cluster.spawn(async move {
        let mut code = None;
        cluster_tests::watching::until(&watched, &all, |event| {
            let (Event::Added(pod) | Event::Modified(pod) | Event::Deleted(pod)) = event else { return false };
            let container = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref()?.first()?.state.as_ref()?.terminated.as_ref());
            code = container.map(|t| t.exit_code).or(code);
            pod.is_deleting() && code.is_some()
        })
        .await;
        code
    });
    let began = Instant::now();
    cluster.kubectl("delete pod stubborn --wait=false");
    gone(&cluster, "stubborn");
    let took = began.elapsed();
    assert_eq!(cluster.block_on("the container's end", exit).expect("the watch"), Some(137), "killed");
    assert!(took >= Duration::from_secs(GRACE_S), "{took:?}: it has its grace period");
    assert!(took <= Duration::from_secs(GRACE_S + LEAST_S + MARGIN_S), "{took:?}");
    let processes = cluster_tests::host::containers(&cluster.name);
    assert!(!processes.values().any(|c| c.contains("sleep 600")), "the hook's process too: {processes:?}");
}

#[test]
fn ctrl_c_ends_pods_as_a_deletion_does_and_keeps_their_objects() {
    const GRACE_S: u32 = 120;
    let mut cluster = Cluster::up("ctrl-c", &[]);
    let hook = Listener::new();
    cluster.apply(&manifest("kept", GRACE_S, &format!("httpGet: {{host: 127.0.0.1, port: {}, path: /stopping}}", hook.port()), "[web]"));
    cluster.ready("default", "kept");
    in_service(&cluster, "kept");
    let service = format!("{}:80", cluster.value("get service kept", "{.spec.clusterIP}"));
    assert_eq!(http::answered(&service, "/whoami").body.trim(), "v1 kept");
    let uid = cluster.value("get pod kept", "{.metadata.uid}");

    let lock = std::fs::File::open(cluster.run_folder().join("lock")).expect("the lock");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(cluster.pid()), nix::sys::signal::Signal::SIGINT).expect("it runs");
    let asked = hook.asked();
    assert_eq!(asked.line, "GET /stopping HTTP/1.1");
    // While hooks run, what they may ask is there.
    assert_eq!(cluster.value("get pod kept", "{.metadata.uid}"), uid);
    assert_eq!(http::get(&service, "/whoami").expect("the Service while the hook runs").body.trim(), "v1 kept");
    let answered = Instant::now();
    asked.answer();
    lock.lock_shared().expect("the lock is free when the process has ended");
    drop(lock);
    assert!(answered.elapsed() < PATIENCE, "nobody waits for the whole grace period: {:?}", answered.elapsed());
    assert!(cluster_tests::host::containers(&cluster.name).is_empty());
    let reached = std::net::TcpStream::connect_timeout(&service.parse().expect("an address"), Duration::from_millis(500));
    assert!(reached.is_err(), "nothing leads to where nobody is");

    cluster.start(&[]).assert_ok();
    cluster.ready("default", "kept");
    assert_eq!(cluster.value("get pod kept", "{.metadata.uid}"), uid, "the same pod runs again");
    assert_eq!(http::answered(&service, "/whoami").body.trim(), "v1 kept");
}
