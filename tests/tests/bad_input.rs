//! What is wrong is refused where the user looks, in Kubernetes' own words where it has some; and nothing comes of it.

use bytes::Bytes;
use client::{Event, ListParams};
use cluster_tests::{
    Cluster, PATIENCE,
    archive::{self, Entry},
    knarr, leftovers, process,
};
use http::Request;
use k8s_openapi::api::core::v1::Event as CoreEvent;
use serde_json::Value;
use std::{
    fs,
    net::TcpListener,
    os::unix::{fs::PermissionsExt, process::CommandExt as _},
    process::Command,
    time::Instant,
};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A cluster without a node: what is asked of the API alone needs none.
fn api_only(name: &str) -> Cluster {
    let mut cluster = Cluster::new(name).with(&["--disable", "kubelet,proxy,dns,scheduler"]);
    cluster.start(&[]).assert_ok();
    cluster
}

/// POSTs bytes as they are; the code and the message of the refusal.
#[track_caller]
fn refused(cluster: &Cluster, path: &str, content: &str, body: impl Into<Bytes>) -> (u16, String, String) {
    let request = Request::post(path).header("content-type", content).body(body.into()).expect("a request");
    let answer = cluster.block_on("an answer", cluster.client().raw(request));
    match answer {
        Ok(answer) => panic!("{path} accepted it: {}", answer.status()),
        Err(error) => {
            let status = error.status().unwrap_or_else(|| panic!("{path}: no Status but {error}"));
            (status.code, status.reason.clone(), status.message.clone())
        }
    }
}

#[test]
fn manifests_that_are_wrong() {
    let cluster = api_only("manifest");
    let apply = |manifest: &str| cluster.kubectl_with("apply -f -", manifest).assert_fails();
    let deployment = |spec: &str| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: bad}}\nspec:\n  selector: {{matchLabels: {{a: b}}}}\n  template:\n    metadata: {{labels: {{a: b}}}}\n    spec: {{containers: [{{name: c, image: i}}]}}\n{spec}"
        )
    };
    let unknown = apply(&deployment("  replica: 3\n"));
    assert!(
        unknown.contains("Error from server (BadRequest)")
            && unknown.contains("Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: unknown field \"spec.replica\""),
        "{unknown}"
    );
    let wrong = apply(&deployment("  replicas: three\n"));
    assert!(
        wrong.contains("Error from server (BadRequest)")
            && wrong.contains("cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"),
        "{wrong}"
    );
    let invalid = apply(&deployment("  replicas: -1\n"));
    assert!(invalid.contains("The Deployment \"bad\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0"), "{invalid}");
    let name = cluster.kubectl_with("create -f -", "apiVersion: v1\nkind: ConfigMap\nmetadata: {namespace: default}\n").assert_fails();
    assert!(name.contains("name or generateName is required") || name.contains("resource name may not be empty"), "{name}");
    let kind = apply("apiVersion: shop/v1\nkind: Anchor\nmetadata: {name: a}\n");
    assert!(kind.contains("no matches for kind \"Anchor\" in version \"shop/v1\"") && kind.contains("ensure CRDs are installed first"), "{kind}");

    let strict = format!("{CONFIG_MAPS}?fieldValidation=Strict");
    let (code, reason, message) = refused(&cluster, &strict, "application/json", r#"{"metadata":{"name":"a"},"data":{"k":"1","k":"2"}}"#);
    assert_eq!((code, reason.as_str()), (400, "BadRequest"), "{message}");
    assert_eq!(message, "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: duplicate field \"data.k\"");
    let (code, _, message) = refused(&cluster, &strict, "application/yaml", "metadata: {name: a}\ndata:\n  k: '1'\n  k: '2'\n");
    assert_eq!(code, 400, "{message}");
    assert_eq!(
        message,
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: yaml: unmarshal errors:\n  line 4: key \"k\" already set in map"
    );
    let (code, reason, message) = refused(&cluster, CONFIG_MAPS, "application/json", r#"{"metadata":{}}"#);
    assert_eq!((code, reason.as_str()), (422, "Invalid"), "{message}");
    assert_eq!(message, "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required");
    assert_eq!(cluster.kubectl("get configmaps,deployments -o name").trim(), "configmap/kube-root-ca.crt");
}

#[test]
fn bodies_that_are_wrong() {
    let cluster = api_only("body");
    let large = format!(r#"{{"metadata":{{"name":"large"}},"data":{{"k":"{}"}}}}"#, "x".repeat(4 << 20));
    let (code, reason, message) = refused(&cluster, CONFIG_MAPS, "application/json", large);
    assert_eq!((code, reason.as_str()), (413, "RequestEntityTooLarge"));
    assert_eq!(message, "Request entity too large: limit is 3145728");

    for levels in [100, 100_000] {
        let deep = format!(r#"{{"metadata":{{"name":"deep"}},"deep":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
        let (code, _, message) = refused(&cluster, &format!("{CONFIG_MAPS}?fieldValidation=Strict"), "application/json", deep);
        assert_eq!(code, 400, "{levels} levels: {message}");
        assert!(message.contains("unknown field \"deep\"") || message.contains("exceeded max depth"), "{levels} levels: {message}");
    }
    let (code, _, message) = refused(&cluster, CONFIG_MAPS, "application/json", r#"{"metadata":{"name":"#);
    assert!(code == 400 && message.contains("unexpected end of JSON input"), "{code} {message}");
    let (code, reason, message) = refused(&cluster, CONFIG_MAPS, "application/xml", "<a/>");
    assert_eq!((code, reason.as_str()), (415, "UnsupportedMediaType"), "{message}");
    assert_eq!(cluster.kubectl("get configmaps -o name").trim(), "configmap/kube-root-ca.crt", "and it is still there to say so");

    // Bytes that are no UTF-8 are taken and replaced, as Go's decoder does.
    let utf = Bytes::from_static(b"{\"metadata\":{\"name\":\"utf\"},\"data\":{\"k\":\"\xff\xfe\"}}");
    let request = Request::post(CONFIG_MAPS).header("content-type", "application/json").body(utf).expect("a request");
    cluster.block_on("an answer", cluster.client().raw(request)).expect("it is taken");
    assert_eq!(cluster.value("get configmap utf", "{.data.k}"), "\u{fffd}\u{fffd}");
}

#[test]
fn a_port_that_is_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("it listens").port();
    let mut cluster = Cluster::new("port");
    let refused = process::run(&mut cluster.knarr(&["up", "--detach", "--port", &port.to_string()]), &[], PATIENCE);
    let told = refused.clone().assert_fails();
    assert!(told.contains(&format!("127.0.0.1:{port} is in use")) && told.contains("--port"), "{refused}");
    let left = leftovers::of(&cluster.name, &cluster.folder);
    assert!(left.is_empty() && !cluster.data().exists(), "nothing was made: {left:#?}");
    assert!(!cluster.kubeconfig().exists(), "no context of a cluster that does not run");
    // With another it starts; the first try is not in its way.
    cluster.start(&[]).assert_ok();
    assert!(!cluster.kubectl("cluster-info").contains(&format!(":{port}")));
}

#[test]
fn whoever_is_not_root() {
    let cluster = Cluster::new("nobody");
    let (folder, program) = (cluster.folder.join("nobody"), cluster.folder.join("knarr"));
    fs::create_dir(&folder).expect("the test's folder");
    fs::set_permissions(&folder, PermissionsExt::from_mode(0o777)).expect("it is ours");
    // Not by this process: a program that is written to, be it by a child that another test is about to start, cannot be run.
    process::run(Command::new("cp").arg(knarr()).arg(&program), &[], PATIENCE).assert_ok();
    for words in [&["up"][..], &["down"], &["image", "list"]] {
        let mut command = Command::new(&program);
        command.args(words).args(["--name", &cluster.name]).arg("--data-dir").arg(folder.join("data")).arg("--kubeconfig").arg(folder.join("config"));
        let told = process::run(command.uid(65534).gid(65534), &[], PATIENCE).assert_fails();
        assert!(told.contains("knarr must be root") && told.contains("sudo"), "{told}");
    }
    assert_eq!(fs::read_dir(&folder).expect("it is there").count(), 0, "nothing was made");
}

#[test]
fn an_image_that_does_not_exist() {
    let cluster = Cluster::up("noimage", &[]);
    // A registry where nobody is: no network is needed to find that out.
    let image = "127.0.0.1:9/none:v1";
    let events = cluster.client().namespaced::<CoreEvent>("default");
    cluster.apply(&format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: none}}\nspec: {{containers: [{{name: c, image: '{image}'}}]}}\n"));
    let mut missing = vec![
        ("Normal", "Pulling", format!("Pulling image \"{image}\"")),
        ("Warning", "Failed", format!("Failed to pull image \"{image}\": ")),
        ("Warning", "Failed", "Error: ErrImagePull".to_owned()),
        ("Normal", "BackOff", format!("Back-off pulling image \"{image}\"")),
        ("Warning", "Failed", "Error: ImagePullBackOff".to_owned()),
    ];
    let params = ListParams { field_selector: "involvedObject.name=none".into(), ..ListParams::default() };
    cluster.until(&events, &params, "the pull's Events", |event| {
        let (Event::Added(e) | Event::Modified(e)) = event else { return false };
        let text = |o: &Option<String>| o.clone().unwrap_or_default();
        missing.retain(|(kind, reason, message)| !(text(&e.type_) == *kind && text(&e.reason) == *reason && text(&e.message).starts_with(message)));
        missing.is_empty()
    });
    // Between two tries; one of them may come before this is read.
    let backs_off = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ImagePullBackOff";
    let end = Instant::now() + PATIENCE;
    let pod = loop {
        let pod = cluster.json("get pod none");
        if backs_off(&pod) {
            break pod;
        }
        assert!(Instant::now() < end, "{:#}", pod["status"]);
    };
    let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
    assert!(waiting["message"].as_str().is_some_and(|m| m.starts_with(&format!("Back-off pulling image \"{image}\""))), "{waiting}");
    let ready = pod["status"]["conditions"].as_array().expect("conditions").iter().find(|c| c["type"] == "Ready").expect("Ready");
    assert_eq!((&ready["status"], &ready["reason"]), (&"False".into(), &"ContainersNotReady".into()), "{ready}");
    assert_eq!(ready["message"], "containers with unready status: [c]");
    assert_eq!(pod["status"]["phase"], "Pending");
    cluster.kubectl_running("get pod none --watch").line(PATIENCE, |line| line.contains("ImagePullBackOff"));
    cluster.kubectl("delete pod none --timeout=30s");
}

/// What is started in the foreground stays when the roll-out of its manifests does not finish, says why, and says it again by
/// its exit code when it is ended.
#[test]
fn a_roll_out_that_does_not_finish() {
    let mut cluster = Cluster::new("unfinished");
    let manifest = cluster.folder.join("none.yaml");
    let template = "{metadata: {labels: {a: b}}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: '127.0.0.1:9/none:v1'}]}}";
    let text =
        format!("apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: none}}\nspec: {{selector: {{matchLabels: {{a: b}}}}, template: {template}}}\n");
    fs::write(&manifest, text).expect("a manifest");
    // As long as a busy machine may take to find out.
    let mut up = cluster.foreground(&["--timeout", "10"], &[manifest]);
    up.line(PATIENCE, |line| line == "The cluster runs on.");
    let told = up.seen().join("\n");
    for part in ["knarr: the roll-out is not finished after 10 s:", "  default/none: 0 of 1 pods", "/c: ", "ImagePull", "127.0.0.1:9/none:v1"] {
        assert!(told.contains(part), "{part:?} is missing in:\n{told}");
    }
    up.line(PATIENCE, |line| line.contains("Ctrl-C stops the cluster."));
    assert_eq!(cluster.value("get deployment none", "{.status.replicas}"), "1", "it is there and answers");
    up.signal(nix::sys::signal::Signal::SIGINT);
    let (lines, status) = up.end(PATIENCE);
    assert_eq!(status.code(), Some(1), "{lines:#?}");
    // Without anything to wait for, the same cluster ends well.
    let mut up = cluster.foreground(&[], &[]);
    up.line(PATIENCE, |line| line.contains("Ctrl-C stops the cluster."));
    cluster.kubectl("delete deployment none --wait=false");
    up.signal(nix::sys::signal::Signal::SIGTERM);
    let (lines, status) = up.end(PATIENCE);
    assert_eq!(status.code(), Some(0), "{lines:#?}");
}

#[test]
fn archives_that_lie_or_escape() {
    let cluster = Cluster::up("archive", &[]);
    let import = |path: &std::path::Path| process::run(cluster.knarr(&["image", "import"]).arg(path), &[], PATIENCE);
    let file = |name: &str| cluster.folder.join(name);
    let good = archive::layer(&[Entry::File("hello", "hello")]);

    // First that the archive itself is understood.
    archive::write(&file("good.tar"), "test.local/good:v1", &good, &good);
    let told = import(&file("good.tar")).assert_ok();
    assert!(told.stdout.contains("test.local/good:v1"), "{told}");

    let other = archive::layer(&[Entry::File("hello", "hullo")]);
    assert_ne!(good, other);
    archive::write(&file("lie.tar"), "test.local/lie:v1", &other, &good);
    let told = import(&file("lie.tar")).assert_fails();
    assert!(told.contains("digest") || told.contains("sha256:"), "{told}");

    // Whatever it hits, it must not be there.
    let (outside, deep) = (file("outside"), "../".repeat(12));
    fs::create_dir(&outside).expect("the test's folder");
    let escape = format!("{deep}{}", file("escaped").strip_prefix("/").expect("absolute").display());
    assert!(escape.len() < 100, "it fits a tar's name: {escape}");
    let up = archive::layer(&[Entry::File(&escape, "out")]);
    archive::write(&file("up.tar"), "test.local/up:v1", &up, &up);
    let told = import(&file("up.tar")).assert_fails();
    assert!(told.contains(".."), "{told}");
    assert!(!file("escaped").exists(), "a layer wrote outside");

    // A link to an absolute place is what images have; what goes through it stays within the image, or is refused.
    for (name, target) in [("link", outside.display().to_string()), ("up-link", format!("{deep}{}", outside.strip_prefix("/").expect("absolute").display()))] {
        let link = archive::layer(&[Entry::Link("way", &target), Entry::File("way/evil", "out")]);
        archive::write(&file("link.tar"), &format!("test.local/{name}:v1"), &link, &link);
        let told = import(&file("link.tar"));
        assert_eq!(fs::read_dir(&outside).expect("it is there").count(), 0, "{name}: a layer wrote outside: {told}");
    }
    let list = process::run(&mut cluster.knarr(&["image", "list"]), &[], PATIENCE).assert_ok().stdout;
    assert!(list.contains("test.local/good:v1") && !list.contains("test.local/lie") && !list.contains("test.local/up:"), "{list}");
}
