//! Images from registries: good ones, stumbling ones, hostile ones.

mod common;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use common::registry::*;
use common::*;
use runtime::*;
use serde_json::json;

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
    let file = host.config.root.join("images").join(format!("{}.json", &image.id[7..]));
    let written = std::fs::metadata(&file).unwrap().ino();
    host.rt.pull(&name, None, quiet()).await.unwrap();
    assert_eq!(log.lock().unwrap().requests, ["HEAD /v2/team/app/manifests/v1"], "what is here is not fetched");
    assert_eq!(std::fs::metadata(&file).unwrap().ino(), written, "nor written anew");
    let error = host.rt.pull(&format!("{address}/team/none:v1"), None, quiet()).await.unwrap_err();
    assert!(error.is_not_found() && error.to_string().ends_with("none:v1: not found"), "{error}");
    let error = host.rt.pull("127.0.0.1:1/x", None, quiet()).await.unwrap_err().to_string();
    assert!(
        error.contains("failed to do request: Head \"http://127.0.0.1:1/v2/x/manifests/latest\": dial tcp 127.0.0.1:1: connect: connection refused"),
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
    let known_by = |key: &str| Some(Credentials { keys: vec![key.to_owned()], ..mine.clone() });
    let keys = |keys: &[&str]| Origin { keys: keys.iter().map(|k| (*k).to_owned()).collect(), ..Origin::default() };
    let image = host.rt.pull(&name, known_by("one"), quiet()).await.unwrap();
    assert_eq!(image.origin, Some(keys(&["one"])), "the image itself tells who opened it");
    host.rt.pull(&name, known_by("two"), quiet()).await.unwrap();
    // Written by a version that did not tell.
    let file = host.config.root.join("images").join(format!("{}.json", &image.id[7..]));
    let mut old: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(old["origin"]["keys"], json!(["one", "two"]), "also where nothing is fetched for it, and on the disk");
    host.rt.settle_origins(&|_| panic!("it is known")).unwrap();
    old.as_object_mut().unwrap().remove("origin");
    std::fs::write(&file, old.to_string()).unwrap();
    host.rt.settle_origins(&|i| keys(&[&i.id])).unwrap();
    host.rt = Runtime::open(host.config.clone()).await.unwrap();
    assert_eq!(host.rt.image(&image.id).unwrap().origin, Some(keys(&[&image.id])));
    host.rt.remove_image(&image.id).await.unwrap();
    assert_eq!(host.rt.pull(&name, known_by("three"), quiet()).await.unwrap().origin, Some(keys(&["three"])), "it goes with the image");
    // The same by a mirror of Docker's hub, whose login is in the file.
    let text =
        format!("mirrors:\n  docker.io:\n    endpoint: [\"http://{address}\"]\nconfigs:\n  \"{address}\":\n    auth: {{username: me, password: secret}}\n");
    host.config.registries = Some(write(&host.dir.join("registries.yaml"), text.as_bytes()));
    host.rt = Runtime::open(host.config.clone()).await.unwrap();
    let image = host.rt.pull("app", None, quiet()).await.unwrap();
    assert!(image.repo_tags.contains(&"docker.io/library/app:latest".to_owned()));
    assert!(image.origin.unwrap().open, "the node's own login is everybody's");
}

/// What lies in `ingest/`, without the lock and what tells of the store's users.
fn ingest(root: &Path) -> Vec<String> {
    let names = std::fs::read_dir(root.join("ingest")).unwrap().flatten().map(|e| e.file_name().into_string().unwrap());
    names.filter(|n| n != "lock" && !n.starts_with("user-")).collect()
}

/// An image of many layers: `file` with noise in each.
fn many(layers: usize, bytes: usize) -> Built {
    let layers: Vec<Vec<u8>> = (0..layers).map(|n| Tar::new().file(&format!("file-{n}"), 0o644, &noise(bytes)).done()).collect();
    build(&layers, json!({"Cmd": ["/x"]}))
}

/// The empty layer of every instruction that changes nothing is one and the same blob.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_may_be_several_layers_of_several_images() {
    let host = Host::new().await;
    let layer = |name: &str| Tar::new().file(name, 0o644, name.as_bytes()).done();
    // Of the same place in the round of compressions, so that the same layer is the same blob.
    let built = build(&["a", "same", "b", "c", "same"].map(layer), json!({"Cmd": ["/x"]}));
    let other = build(&["d", "same"].map(layer), json!({"Cmd": ["/y"]}));
    assert!(built.blobs[1].0 == built.blobs[4].0 && built.blobs[1].0 == other.blobs[1].0);
    let mut registry = Registry::default();
    registry.add("many", "v1", &built);
    registry.add("one", "v1", &other);
    // While the first layer is waited for, the others are here and not unpacked yet.
    let slow = format!("/v2/many/blobs/{}", built.blobs[0].0);
    registry.refusals = vec![(slow, "429 Too Many Requests".into(), "Retry-After: 3\r\n".into())];
    let (address, _) = registry.serve();
    let (many, one) = (format!("{address}/many:v1"), format!("{address}/one:v1"));
    let (many, one) = tokio::join!(host.rt.pull(&many, None, quiet()), host.rt.pull(&one, None, quiet()));
    assert_eq!((many.unwrap().layers.len(), one.unwrap().layers.len()), (5, 2));
    assert!(ingest(&host.config.root).is_empty(), "{:?}", ingest(&host.config.root));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_stumble_are_asked_again_when_they_say_so() {
    let host = Host::new().await;
    let built = many(8, 10_000);
    let mut registry = Registry::default();
    registry.add("app", "v1", &built);
    let blob = format!("/v2/app/blobs/{}", built.blobs[1].0);
    let manifest = format!("/v2/app/manifests/{}", built.manifest);
    registry.refusals = vec![
        (blob.clone(), "429 Too Many Requests".into(), "Retry-After: 0\r\n".into()),
        (blob.clone(), "408 Request Timeout".into(), String::new()),
        (manifest.clone(), "429 Too Many Requests".into(), "Retry-After: 0\r\n".into()),
        (manifest, "503 Service Unavailable".into(), String::new()),
    ];
    let (address, log) = registry.serve();
    host.rt.pull(&format!("{address}/app:v1"), None, quiet()).await.unwrap();
    let log = log.lock().unwrap();
    assert_eq!(log.requests.iter().filter(|r| **r == blob).count(), 3);
    assert!(log.requests.len() > 12 && log.connections <= 5, "connections are kept: {} for {} requests", log.connections, log.requests.len());
    assert!(ingest(&host.config.root).is_empty(), "{:?}", ingest(&host.config.root));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_for_the_registry_alone() {
    let host = Host::new().await;
    let built = many(1, 1000);
    let (evil, heard) = Registry { challenge_all: true, ..Registry::default() }.serve();
    let login = Some(("alice".to_owned(), "s3cret".to_owned()));
    let mut registry = Registry { login: login.clone(), ..Registry::default() };
    registry.add("app", "v1", &built);
    let blob = format!("/v2/app/blobs/{}", built.blobs[0].0);
    registry.redirects.insert(blob, format!("http://{evil}/blob"));
    let (address, _) = registry.serve();
    let mine = Credentials { username: "alice".into(), password: "s3cret".into(), ..Credentials::default() };
    let error = host.rt.pull(&format!("{address}/app:v1"), Some(mine), quiet()).await.unwrap_err();
    assert!(matches!(error, Error::Registry { code: 401, .. }), "{error}");
    {
        let heard = heard.lock().unwrap();
        assert_eq!(heard.requests, ["/blob"], "its challenge is not answered");
        assert!(heard.authorizations.is_empty(), "{:?}", heard.authorizations);
    }
    // A refresh token is posted to the token's server, and by no redirect to another.
    let mut registry = Registry { login, ..Registry::default() };
    registry.redirects.insert("/token".into(), format!("http://{evil}/steal"));
    let (address, _) = registry.serve();
    let mine = Credentials { identity_token: "refresh".into(), ..Credentials::default() };
    assert!(host.rt.pull(&format!("{address}/app:v1"), Some(mine), quiet()).await.is_err());
    assert_eq!(heard.lock().unwrap().requests, ["/blob"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_what_cannot_be_had() {
    let host = Host::new().await;
    // The first layer is no tar, though its digest is right: the others come meanwhile.
    let mut built = build(&[b"no tar at all".repeat(1000)], json!({}));
    let more = many(3, 500_000);
    let mut config: serde_json::Value = serde_json::from_slice(&built.blobs[1].1).unwrap();
    let others: serde_json::Value = serde_json::from_slice(&more.blobs.iter().find(|(d, _)| *d == more.config).unwrap().1).unwrap();
    config["rootfs"]["diff_ids"].as_array_mut().unwrap().extend(others["rootfs"]["diff_ids"].as_array().unwrap().clone());
    let mut manifest: serde_json::Value = serde_json::from_slice(&built.blobs[2].1).unwrap();
    let others: serde_json::Value = serde_json::from_slice(&more.blobs.iter().find(|(d, _)| *d == more.manifest).unwrap().1).unwrap();
    manifest["layers"].as_array_mut().unwrap().extend(others["layers"].as_array().unwrap().clone());
    let config = config.to_string().into_bytes();
    manifest["config"]["digest"] = digest(&config).into();
    let manifest = manifest.to_string().into_bytes();
    (built.config, built.manifest) = (digest(&config), digest(&manifest));
    built.blobs.truncate(1);
    built.blobs.extend(more.blobs);
    built.blobs.extend([(built.config.clone(), config), (built.manifest.clone(), manifest)]);
    let mut registry = Registry::default();
    registry.add("app", "v1", &built);
    // One that breaks off too often leaves its beginning, for the next try.
    let broken = many(1, 500_000);
    registry.add("broken", "v1", &broken);
    let (address, log) = registry.serve();
    let error = host.rt.pull(&format!("{address}/app:v1"), None, quiet()).await.unwrap_err().to_string();
    assert!(error.contains("cannot be read as a tar archive"), "{error}");
    assert!(ingest(&host.config.root).is_empty(), "{:?}", ingest(&host.config.root));
    log.lock().unwrap().breaks = 5;
    let name = format!("{address}/broken:v1");
    assert!(host.rt.pull(&name, None, quiet()).await.is_err());
    let kept = ingest(&host.config.root);
    assert_eq!(kept, [&broken.blobs[0].0[7..]]);
    log.lock().unwrap().requests.clear();
    host.rt.pull(&name, None, quiet()).await.unwrap();
    assert!(log.lock().unwrap().requests.iter().any(|r| r.contains(" from ")), "it goes on");
    // What nobody goes on with is gone an hour later, at the next pull.
    let old = write(&host.config.root.join("ingest").join("a".repeat(64)), b"old");
    let young = write(&host.config.root.join("ingest").join("b".repeat(64)), b"young");
    std::fs::File::options().write(true).open(&old).unwrap().set_modified(SystemTime::now() - Duration::from_secs(7200)).unwrap();
    host.rt.remove_image(&name).await.unwrap();
    host.rt.pull(&name, None, quiet()).await.unwrap();
    assert!(!old.exists() && young.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mirrors_are_told_whose_image_is_meant() {
    let mut host = Host::new().await;
    let mut registry = Registry::default();
    registry.add("hub/app", "latest", &many(1, 1000));
    let (address, log) = registry.serve();
    let text = format!("mirrors:\n  \"*\":\n    endpoint: [\"http://{address}\"]\n    rewrite: {{\"^library/(.*)\": \"hub/$1\"}}\n");
    host.config.registries = Some(write(&host.dir.join("registries.yaml"), text.as_bytes()));
    host.rt = Runtime::open(host.config.clone()).await.unwrap();
    let image = host.rt.pull("app", None, quiet()).await.unwrap();
    assert_eq!(image.repo_tags, ["docker.io/library/app:latest"]);
    let log = log.lock().unwrap();
    assert!(log.requests.iter().all(|r| r.contains("/v2/hub/app/") && r.ends_with("?ns=docker.io")), "{:?}", log.requests);
}

/// The example program on a store of its own, with these variables.
fn ctr(host: &Host, args: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(program());
    command.args(args).env("CTR_ROOT", &host.config.root).env("CTR_RUN", host.dir.join("run")).env("CTR_MARK", format!("{}-ctr", host.config.mark));
    command.envs(variables.iter().copied()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_environments_proxies_are_asked() {
    let host = Host::new().await;
    let mut registry = Registry::default();
    registry.add("library/app", "latest", &many(2, 1000));
    let (address, log) = registry.serve();
    let text = "mirrors:\n  docker.io:\n    endpoint: [\"http://mirror.invalid\"]\n";
    let file = write(&host.dir.join("registries.yaml"), text.as_bytes());
    let proxy = format!("http://me:secret@{address}");
    let file = file.to_str().unwrap();
    let done = ctr(&host, &["pull", "app"], &[("HTTP_PROXY", &proxy), ("CTR_REGISTRIES", file)]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(log.lock().unwrap().requests.iter().all(|r| r.contains("http://mirror.invalid/v2/library/app/")), "{:?}", log.lock().unwrap().requests);
    assert!(log.lock().unwrap().proxy_authorizations.iter().all(|a| a == "Basic bWU6c2VjcmV0"));
    log.lock().unwrap().requests.clear();
    // What is enciphered goes through a tunnel, which this proxy does not give.
    let done = ctr(&host, &["pull", "quay.invalid/app"], &[("https_proxy", &proxy)]).output().unwrap();
    let error = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(error.contains("proxyconnect: 404 Not Found"), "{error}");
    assert!(log.lock().unwrap().requests.iter().all(|r| r == "CONNECT quay.invalid:443"), "{:?}", log.lock().unwrap().requests);
}

/// Paths with sizes below a directory.
fn listing(dir: &Path) -> Vec<(String, u64)> {
    let mut list = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(at) = todo.pop() {
        for entry in std::fs::read_dir(&at).unwrap().flatten() {
            let meta = entry.metadata().unwrap();
            if meta.is_dir() {
                todo.push(entry.path());
            }
            list.push((entry.path().strip_prefix(dir).unwrap().to_str().unwrap().to_owned(), if meta.is_dir() { 0 } else { meta.len() }));
        }
    }
    list.sort();
    list
}

/// A pull that is killed at any moment leaves nothing half-made that counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_can_be_killed_at_any_moment() {
    let (host, reference) = (Host::new().await, Host::new().await);
    let layer = |n: usize| (0..60).fold(Tar::new(), |tar, file| tar.file(&format!("{n}/dir-{}/file-{file}", file % 7), 0o644, &noise(9000))).done();
    let built = build(&[layer(0), layer(1), layer(2)], json!({"Cmd": ["/x"]}));
    let mut registry = Registry::default();
    registry.add("app", "v1", &built);
    let (address, _) = registry.serve();
    let name = format!("{address}/app:v1");
    let started = std::time::Instant::now();
    let whole = reference.rt.pull(&name, None, quiet()).await.unwrap();
    let took = started.elapsed();
    let expected: Vec<_> = whole.layers.iter().map(|l| listing(&reference.config.root.join("layers").join(l))).collect();
    let check = |when: u32| {
        let images = Images::open(&host.config).unwrap().list();
        for (name, expected) in whole.layers.iter().zip(&expected) {
            let layers = host.config.root.join("layers");
            if layers.join(format!("{name}.ok")).exists() {
                assert_eq!(&listing(&layers.join(name)), expected, "a layer that counts is whole (killed at step {when})");
            } else {
                assert!(images.is_empty(), "an image has all its layers (killed at step {when})");
            }
        }
        !images.is_empty()
    };
    // The start of the program takes time, too; what was got stays, so that later steps are reached.
    const STEPS: u32 = 14;
    let mut done = false;
    for step in 0..STEPS {
        let mut child = ctr(&host, &["pull", &name], &[]).spawn().unwrap();
        std::thread::sleep((took * 2 + Duration::from_millis(100)) * step / STEPS);
        child.kill().unwrap();
        child.wait().unwrap();
        done = check(step);
    }
    host.rt.pull(&name, None, quiet()).await.unwrap();
    assert!(check(STEPS));
    // And all of it goes, whatever the killed ones left.
    host.rt.remove_image(&whole.id).await.unwrap();
    let left: Vec<_> = std::fs::read_dir(host.config.root.join("layers")).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["empty"], "{done}");
    assert!(ingest(&host.config.root).iter().all(|name| name.len() == 64), "at most beginnings of blobs: {:?}", ingest(&host.config.root));
}

/// Another process that fetches the same blob is waited for, and what it has fetched is not fetched again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_another_process_holds_is_waited_for() {
    /// Longer than a look at the files takes.
    const HELD: Duration = Duration::from_millis(1500);
    let host = Host::new().await;
    let built = build(&[Tar::new().file("a", 0o644, &noise(5000)).done()], json!({"Cmd": ["/x"]}));
    let mut registry = Registry::default();
    registry.add("app", "v1", &built);
    let (address, log) = registry.serve();
    let (digest, blob) = &built.blobs[0];
    let path = host.config.root.join("ingest").join(digest.trim_start_matches("sha256:"));
    let file = std::fs::File::options().create(true).truncate(true).write(true).open(&path).unwrap();
    let mut held = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive).map_err(|(_, e)| e).unwrap();
    let (rt, name) = (host.rt.clone(), format!("{address}/app:v1"));
    let pull = tokio::spawn(async move { rt.pull(&name, None, quiet()).await });
    tokio::time::sleep(HELD).await;
    assert!(!pull.is_finished());
    std::io::Write::write_all(&mut *held, blob).unwrap();
    drop(held);
    pull.await.unwrap().unwrap();
    assert!(!log.lock().unwrap().requests.iter().any(|r| r.contains(&format!("/blobs/{digest}"))), "it is here already");
}
