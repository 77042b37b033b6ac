//! Images from archives, good ones and bad ones.

mod common;

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

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
    let linked = Tar::new().link("hard", "../../../../../etc/passwd", true).done();
    refused(linked, &["\"hard\"", "leads out of the image"]).await;
    refused(Tar::new().link("a", "b", false).link("b", "a", false).file("a/x", 0o644, b"").done(), &["Too many levels of symbolic links"]).await;
    refused(b"this is no archive at all".repeat(100), &["cannot be read as a tar archive"]).await;
    // An absolute link stays within the image.
    let absolute = Tar::new().link("tmp", "/var/tmp", false).file("tmp/knarr-escaped", 0o644, b"x").done();
    import(&host, &layout(&[("fine", &build(&[absolute], json!({})))])).await.unwrap();
    // And `..` above the root stops there.
    let climbing = Tar::new().link("up", "../../../../../../../var/tmp", false).file("up/knarr-escaped", 0o644, b"x").done();
    let climbing = import(&host, &layout(&[("climbing", &build(&[climbing], json!({})))])).await.unwrap();
    assert!(host.config.root.join("layers").join(&climbing[0].layers[0]).join("var/tmp/knarr-escaped").exists());
    host.rt.remove_image("fine").await.unwrap();
    host.rt.remove_image("climbing").await.unwrap();
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_a_host_share_what_is_unpacked_and_take_nothing_from_each_other() {
    let host = Host::with_image().await;
    let node = Config {
        root: host.dir.join("node"),
        store: Some(host.config.root.clone()),
        run: host.config.run.join("node"),
        mark: format!("{}/node-2", host.config.mark),
        ..host.config.clone()
    };
    let other = Runtime::open(node.clone()).await.unwrap();
    let image = other.image("guest").expect("the first one's");
    let layer = host.config.root.join("layers").join(&image.layers[0]);
    assert!(!node.root.join("layers").exists());
    let sandbox = SandboxConfig { id: "s".into(), cgroup_parent: format!("/{}/s", node.mark), log_dir: host.dir.join("logs"), ..SandboxConfig::default() };
    other.create_sandbox(sandbox).await.unwrap();
    other.create_container("s", host.container("c", &["sleep"])).await.unwrap();
    other.start_container("c").await.unwrap();
    // The first has no container of it, and would have taken the image for nobody's.
    let refused = host.rt.remove_image("guest").await.unwrap_err().to_string();
    assert!(refused.contains("another node of this host"), "{refused}");
    // An administrator may; what runs stays whole, also when its node starts anew and while its process is away.
    Images::open(&host.config).unwrap().remove("guest").await.unwrap();
    assert!(host.rt.image("guest").is_none() && other.image("guest").is_none() && layer.is_dir());
    drop(other);
    let again = Runtime::open(host.config.clone()).await.unwrap();
    // It collects at its start, and tells nobody when; with another image it does so again.
    let spare = build(&[Tar::new().file("file", 0o644, b"x").done()], json!({}));
    import(&host, &layout(&[("spare", &spare)])).await.unwrap();
    again.remove_image("spare").await.unwrap();
    assert!(layer.is_dir());
    let other = Runtime::open(node.clone()).await.unwrap();
    let said = other.exec_sync("c", ["/bin/main", "guest", "say", "alive"].map(String::from).to_vec(), Some(PATIENCE)).await.unwrap();
    assert_eq!(String::from_utf8(said.stdout).unwrap(), "alive\n");
    // A node that goes takes its containers and nothing of the store.
    host.rt.add_layer_image("keep", vec![LocalFile { host: program(), path: "/keep".into(), mode: 0o755 }], ImageConfig::default()).await.unwrap();
    other.purge().await.unwrap();
    assert!(host.rt.image("keep").is_some());
    for root in ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"] {
        assert!(!std::path::Path::new(root).join(&node.mark).exists());
    }
    host.rt.remove_image("keep").await.unwrap();
    assert!(!layer.exists(), "nobody is made of it any more");
}
