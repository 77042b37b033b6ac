//! Images from archives and from a registry, good ones and bad ones.

mod common;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use common::*;
use runtime::*;
use serde_json::json;

/// The files of an image as a container sees them: runs the guest on them.
fn guest_layer() -> Vec<u8> {
    Tar::new().dir("bin", 0o755).file("bin/main", 0o755, &std::fs::read(program()).unwrap()).done()
}

async fn import(host: &Host, bytes: &[u8]) -> Result<Vec<Image>> {
    let path = write(&host.dir.join("archive.tar"), bytes);
    host.rt.import(&path, quiet()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layers_lie_over_each_other() {
    let host = Host::new().await;
    let base = Tar::new()
        .dir("dir", 0o750)
        .file("dir/kept", 0o644, b"kept")
        .file("dir/gone", 0o644, b"gone")
        .owned("suid", 0o4755, 12, 34, b"suid")
        .dir("hidden", 0o755)
        .file("hidden/old", 0o644, b"old")
        .dir("real", 0o755)
        .link("alias", "real", false)
        .dir("tmp", 0o1777)
        .done();
    let second = Tar::new()
        .file("dir/.wh.gone", 0, b"")
        .file("tmp/new", 0o600, b"new")
        .dir("hidden", 0o755)
        .file("hidden/.wh..wh..opq", 0, b"")
        .file("hidden/young", 0o644, b"young")
        .file("alias/through", 0o644, b"through the link")
        .link("hard", "dir/kept", true)
        .done();
    let config = json!({"Entrypoint": ["/bin/main", "guest"], "Cmd": null, "Env": ["PATH=/bin"], "WorkingDir": "/dir", "User": ""});
    let built = build(&[base.clone(), second, guest_layer()], config);
    let images = import(&host, &layout(&[("example.com/app:v1", &built), ("app", &built)])).await.unwrap();
    assert_eq!(images.len(), 1);
    let image = host.rt.image("app").unwrap();
    assert_eq!(image.repo_tags, ["example.com/app:v1", "docker.io/library/app:latest"]);
    assert_eq!((image.id.as_str(), image.layers.len()), (built.config.as_str(), 3));
    assert_eq!(host.rt.image(&format!("example.com/app@{}", built.manifest)).unwrap().id, image.id);
    let layer = |n: usize| host.config.root.join("layers").join(&image.layers[n]);
    let meta = std::fs::symlink_metadata(layer(0).join("suid")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.mtime()), (0o4755, 12, 34, 1_700_000_000));
    let whiteout = std::fs::symlink_metadata(layer(1).join("dir/gone")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    assert_eq!(std::fs::metadata(layer(1).join("dir")).unwrap().mode() & 0o7777, 0o750, "a directory passed through keeps its mode");
    assert_eq!(std::fs::metadata(layer(1).join("tmp")).unwrap().mode() & 0o7777, 0o1777);
    host.sandbox("s").await;
    let look = ContainerConfig { image: "app".into(), ..host.container("c", &["sleep"]) };
    host.start("s", look).await;
    assert_eq!(host.exec_text("c", &["where"]).await, "/dir\n");
    assert_eq!(host.exec_text("c", &["list", "/dir"]).await, "kept\n");
    assert_eq!(host.exec_text("c", &["list", "/hidden"]).await, "young\n");
    assert_eq!(host.exec_text("c", &["read", "/real/through", "/hard", "/tmp/new"]).await, "through the linkkeptnew");
    // Shared layers are there once; removing takes what nobody uses, and leaves what a container does.
    let other = build(&[base], json!({"Cmd": ["x"]}));
    import(&host, &layout(&[("other", &other)])).await.unwrap();
    host.rt.remove_image("example.com/app:v1").await.unwrap();
    assert!(host.rt.image("app").is_some());
    host.rt.remove_image("app").await.unwrap();
    assert!(host.rt.image("app").is_none() && layer(2).is_dir());
    assert_eq!(host.exec_text("c", &["say", "alive"]).await, "alive\n");
    host.rt.remove_sandbox("s").await.unwrap();
    host.rt.remove_image(&other.config).await.unwrap();
    assert!(!layer(0).exists() && !layer(2).exists());
    assert!(host.rt.remove_image("app").await.unwrap_err().is_not_found());
    // The files of an image can be a volume.
    let built = build(&[guest_layer()], json!({"Entrypoint": ["/bin/main", "guest"]}));
    let data = build(&[Tar::new().dir("sub", 0o755).file("sub/file", 0o644, b"in the volume").done()], json!({}));
    import(&host, &layout(&[("guest", &built), ("data", &data)])).await.unwrap();
    host.sandbox("t").await;
    let mount = Mount { image: Some("data".into()), container: "/volume".into(), host: "sub".into(), readonly: true, ..Mount::default() };
    let config = ContainerConfig { mounts: vec![mount], ..host.container("v", &["read", "/volume/file"]) };
    assert_eq!(host.run("t", config).await, "in the volume\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_docker_saved_is_read() {
    let host = Host::new().await;
    let layer = Tar::new().file("a", 0o644, b"a").done();
    let config = json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/a"]}, "rootfs": {"diff_ids": [digest(&layer)]}});
    let config = serde_json::to_vec(&config).unwrap();
    let saved = json!([{"Config": "c.json", "RepoTags": ["one:1", "two:2"], "Layers": ["x/layer.tar"]}]);
    let archive = Tar::new()
        .file("manifest.json", 0o644, saved.to_string().as_bytes())
        .file("c.json", 0o644, &config)
        .link("x/layer.tar", "../y/layer.tar", false)
        .file("y/layer.tar", 0o644, &layer)
        .done();
    let found = import(&host, &gzip(&archive)).await.unwrap();
    assert_eq!((found[0].id.clone(), found[0].repo_tags.len()), (digest(&config), 2));
    // Another process sees it, and its changes are seen.
    let other = Images::open(&host.config).unwrap();
    assert_eq!(other.list().len(), 1);
    other.remove("one:1").await.unwrap();
    assert!(host.rt.image("one:1").is_none() && host.rt.image("two:2").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_archives_are_refused_and_leave_nothing() {
    let host = Host::new().await;
    let refused = async |layer: Vec<u8>, words: &[&str]| {
        let built = build(&[layer], json!({}));
        let error = import(&host, &layout(&[("bad", &built)])).await.unwrap_err().to_string();
        assert!(words.iter().all(|w| error.contains(w)), "{error}");
        assert_eq!(host.rt.images().len(), 0);
    };
    let outside = PathBuf::from("/var/tmp/knarr-escaped");
    refused(Tar::new().file("../../../../../../../var/tmp/knarr-escaped", 0o644, b"x").done(), &["../var/tmp/knarr-escaped", "leads out of the image"]).await;
    let climbing = Tar::new().link("up", "../../../../../../../var/tmp", false).file("up/knarr-escaped", 0o644, b"x").done();
    refused(climbing, &["\"up/knarr-escaped\"", "leads out of the image"]).await;
    let linked = Tar::new().link("hard", "../../../../../etc/passwd", true).done();
    refused(linked, &["\"hard\"", "leads out of the image"]).await;
    refused(Tar::new().link("a", "b", false).link("b", "a", false).file("a/x", 0o644, b"").done(), &["too many symlinks"]).await;
    refused(b"this is no archive at all".repeat(100), &["cannot be read as a tar archive"]).await;
    // An absolute link stays within the image.
    let absolute = Tar::new().link("tmp", "/var/tmp", false).file("tmp/knarr-escaped", 0o644, b"x").done();
    import(&host, &layout(&[("fine", &build(&[absolute], json!({})))])).await.unwrap();
    host.rt.remove_image("fine").await.unwrap();
    assert!(!outside.exists());
    // Lies: a blob that is not its digest, a layer that is not its diff id, a foreign machine.
    let mut lying = build(&[Tar::new().file("a", 0o644, b"a").done()], json!({}));
    lying.blobs[0].1 = gzip(&Tar::new().file("a", 0o644, b"b").done());
    let error = import(&host, &layout(&[("lie", &lying)])).await.unwrap_err().to_string();
    assert!(error.contains("is not what its digest says"), "{error}");
    let error = import(&host, b"").await.unwrap_err().to_string();
    assert!(error.contains("neither index.json"), "{error}");
    let layers: Vec<_> = std::fs::read_dir(host.config.root.join("layers")).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(layers, ["empty"], "nothing is left behind");
}

/// A registry on loopback that answers from memory, and can be told to misbehave.
#[derive(Default)]
struct Registry {
    /// Path to content type and body.
    documents: HashMap<String, (String, Vec<u8>)>,
    /// Wants this user and password by the token flow.
    login: Option<(String, String)>,
    /// How often a blob breaks off in the middle.
    breaks: u32,
    requests: Vec<String>,
}

impl Registry {
    fn add(&mut self, repository: &str, tag: &str, built: &Built) {
        for (digest, blob) in &built.blobs {
            let kind = "application/octet-stream".to_owned();
            self.documents.insert(format!("/v2/{repository}/blobs/{digest}"), (kind, blob.clone()));
        }
        let manifest = built.blobs.iter().find(|(d, _)| *d == built.manifest).unwrap().1.clone();
        let kind = "application/vnd.oci.image.manifest.v1+json".to_owned();
        self.documents.insert(format!("/v2/{repository}/manifests/{}", built.manifest), (kind, manifest.clone()));
        let foreign = json!({"digest": digest(b"x"), "size": 1, "platform": {"os": "linux", "architecture": "s390x"}});
        let own = json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": built.manifest, "size": manifest.len(),
            "platform": {"os": "linux", "architecture": "amd64"}});
        let index = json!({"schemaVersion": 2, "manifests": [foreign, own]}).to_string().into_bytes();
        let kind = "application/vnd.docker.distribution.manifest.list.v2+json".to_owned();
        self.documents.insert(format!("/v2/{repository}/manifests/{tag}"), (kind, index));
    }

    /// Serves until the test ends; answers `host:port`.
    fn serve(self) -> (String, Arc<Mutex<Registry>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Mutex::new(self));
        let (own, host) = (Arc::clone(&shared), address.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (own, host) = (Arc::clone(&own), host.clone());
                std::thread::spawn(move || answer(&own, &host, stream));
            }
        });
        (address, shared)
    }
}

fn answer(registry: &Mutex<Registry>, host: &str, mut stream: TcpStream) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(|l| l.ok()).take_while(|l| !l.is_empty());
    let path = lines.next().unwrap_or_default().split(' ').nth(1).unwrap_or_default().to_owned();
    let headers: HashMap<String, String> = lines.filter_map(|l| l.split_once(": ").map(|(k, v)| (k.to_ascii_lowercase(), v.to_owned()))).collect();
    let mut registry = registry.lock().unwrap();
    let from: usize = headers.get("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()).unwrap_or(0);
    registry.requests.push(if from > 0 { format!("{path} from {from}") } else { path.clone() });
    let mut say = |status: &str, extra: &str, body: &[u8], length: usize| {
        let _ = stream.write_all(format!("HTTP/1.1 {status}\r\n{extra}Content-Length: {length}\r\n\r\n").as_bytes());
        let _ = stream.write_all(body);
    };
    if let Some((user, password)) = &registry.login {
        use base64::Engine;
        let basic = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")));
        let given = headers.get("authorization").map(String::as_str).unwrap_or_default();
        if path.starts_with("/token") {
            let token = if given == basic { "good" } else { "anonymous" };
            let body = json!({"token": token}).to_string();
            return say("200 OK", "", body.as_bytes(), body.len());
        }
        if given == "Bearer anonymous" {
            let body = br#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#;
            return say("403 Forbidden", "", body, body.len());
        }
        if given != "Bearer good" {
            let challenge = format!("WWW-Authenticate: Bearer realm=\"http://{host}/token\",service=\"test\",scope=\"repository:a:pull\"\r\n");
            return say("401 Unauthorized", &challenge, b"", 0);
        }
    }
    let Some((kind, body)) = registry.documents.get(&path).cloned() else {
        return say("404 Not Found", "", b"{}", 2);
    };
    if path.contains("/blobs/") && body.len() > 1000 && registry.breaks > 0 {
        registry.breaks -= 1;
        let whole = body.len() - from;
        return say(if from > 0 { "206 Partial Content" } else { "200 OK" }, "", &body[from..from + whole / 2], whole);
    }
    let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
    say(status, &format!("Content-Type: {kind}\r\n"), &body[from..], body.len() - from);
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut data = vec![0; bytes];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut data).unwrap();
    data
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_come_from_registries() {
    let host = Host::new().await;
    let built = build(&[Tar::new().file("big", 0o644, &noise(1 << 20)).done(), Tar::new().file("b", 0o644, b"b").done()], json!({"Cmd": ["/x"]}));
    let mut registry = Registry { breaks: 2, ..Registry::default() };
    registry.add("team/app", "v1", &built);
    let (address, log) = registry.serve();
    let name = format!("{address}/team/app:v1");
    struct Heard(Mutex<Vec<Step>>);
    impl Progress for Heard {
        fn step(&self, step: Step) {
            self.0.lock().unwrap().push(step);
        }
    }
    let heard = Arc::new(Heard(Mutex::default()));
    let image = host.rt.pull(&name, None, heard.clone()).await.unwrap();
    assert_eq!((image.id.as_str(), image.repo_tags.as_slice()), (built.config.as_str(), &[name.clone()][..]));
    assert_eq!(image.repo_digests.len(), 1);
    assert!(log.lock().unwrap().requests.iter().any(|r| r.contains(" from ")), "a broken transfer goes on: {:?}", log.lock().unwrap().requests);
    let steps = std::mem::take(&mut *heard.0.lock().unwrap());
    assert!(matches!(&steps[0], Step::Layers(layers) if layers.len() == 2));
    assert!(steps.iter().filter(|s| matches!(s, Step::Unpacked { .. })).count() == 2);
    log.lock().unwrap().requests.clear();
    host.rt.pull(&name, None, quiet()).await.unwrap();
    assert!(log.lock().unwrap().requests.iter().all(|r| !r.contains(&built.blobs[0].0)), "layers that are here are not fetched");
    let error = host.rt.pull(&format!("{address}/team/none:v1"), None, quiet()).await.unwrap_err();
    assert!(error.is_not_found() && error.to_string().ends_with("none:v1: not found"), "{error}");
    let error = host.rt.pull("127.0.0.1:1/x", None, quiet()).await.unwrap_err().to_string();
    assert!(
        error.contains("failed to do request: Get \"http://127.0.0.1:1/v2/x/manifests/latest\": dial tcp 127.0.0.1:1: connect: connection refused"),
        "{error}"
    );
    assert!(host.rt.pull("Not A Name", None, quiet()).await.unwrap_err().to_string().contains("invalid reference format"));
    // A blob that lies, and one that is not there.
    let blob = format!("/v2/team/app/blobs/{}", built.blobs[0].0);
    host.rt.remove_image(&built.config).await.unwrap();
    log.lock().unwrap().documents.get_mut(&blob).unwrap().1[5000] ^= 1;
    let error = host.rt.pull(&name, None, quiet()).await.unwrap_err().to_string();
    assert!(error.contains("is not what its digest says"), "{error}");
    log.lock().unwrap().documents.remove(&blob);
    assert!(host.rt.pull(&name, None, quiet()).await.is_err());
    assert_eq!(host.rt.images().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mirrors_and_logins_count() {
    let built = build(&[Tar::new().file("a", 0o644, b"a").done()], json!({"Cmd": ["/x"]}));
    let mut registry = Registry { login: Some(("me".into(), "secret".into())), ..Registry::default() };
    registry.add("library/app", "latest", &built);
    let (address, _) = registry.serve();
    let mut host = Host::new().await;
    let name = format!("{address}/library/app");
    let error = host.rt.pull(&name, None, quiet()).await.unwrap_err().to_string();
    assert!(error.contains("pull access denied") && error.contains("requested access to the resource is denied"), "{error}");
    let wrong = Credentials { username: "me".into(), password: "wrong".into(), ..Credentials::default() };
    assert!(matches!(host.rt.pull(&name, Some(wrong), quiet()).await, Err(Error::Registry { code: 403, .. })));
    let mine = Credentials { username: "me".into(), password: "secret".into(), ..Credentials::default() };
    host.rt.pull(&name, Some(mine), quiet()).await.unwrap();
    // The same by a mirror of Docker's hub, whose login is in the file.
    let text =
        format!("mirrors:\n  docker.io:\n    endpoint: [\"http://{address}\"]\nconfigs:\n  \"{address}\":\n    auth: {{username: me, password: secret}}\n");
    host.config.registries = Some(write(&host.dir.join("registries.yaml"), text.as_bytes()));
    host.rt = Runtime::open(host.config.clone()).await.unwrap();
    let image = host.rt.pull("app", None, quiet()).await.unwrap();
    assert!(image.repo_tags.contains(&"docker.io/library/app:latest".to_owned()));
}
