//! Images that are made to hurt: what reads them is a process of its own, and its end an error of that image.

mod common;

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::*;
use runtime::*;
use serde_json::json;

async fn import(host: &Host, name: &str, layers: &[Vec<u8>]) -> Result<Image> {
    let path = write(&host.dir.join("archive.tar"), &layout(&[(name, &build(layers, json!({})))]));
    host.rt.import(&path, quiet()).await.map(|mut images| images.remove(0))
}

fn layer(host: &Host, image: &Image, n: usize) -> PathBuf {
    host.config.root.join("layers").join(&image.layers[n])
}

/// A tar with PAX records before its only file.
fn pax(records: &[(&str, &[u8])], name: &str, data: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_pax_extensions(records.iter().copied()).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_size(data.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    builder.append_data(&mut header, name, data).unwrap();
    builder.into_inner().unwrap()
}

/// What is in the store's directories, without the lock and what tells of the store's users.
fn left(root: &Path) -> Vec<String> {
    let names = |dir: &str| std::fs::read_dir(root.join(dir)).unwrap().flatten().map(|e| e.file_name().into_string().unwrap());
    let mut all: Vec<String> = names("layers").chain(names("ingest")).filter(|n| n != "lock" && n != "empty" && !n.starts_with("user-")).collect();
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_long_or_too_deep_is_refused_and_leaves_nothing() {
    let host = Host::new().await;
    let deep = "d/".repeat(9_000) + "f";
    let long = "n".repeat(5_000);
    for path in [deep.as_str(), &long] {
        let error = import(&host, "bad", &[pax(&[("path", path.as_bytes())], "f", b"x")]).await.unwrap_err().to_string();
        assert!(error.contains("its path is too long"), "{error}");
    }
    // A link may not make a path longer than the kernel takes, either.
    let mut tar = Tar::new();
    let part = "p".repeat(90);
    for n in 0..60 {
        let before = if n == 0 { part.clone() } else { format!("l{}/{part}", n - 1) };
        tar = tar.dir(&before, 0o755).link(&format!("l{n}"), &before, false);
    }
    let error = import(&host, "bad", &[tar.done()]).await.unwrap_err().to_string();
    assert!(error.contains("cannot unpack entry"), "{error}");
    assert!(left(&host.config.root).is_empty(), "{:?}", left(&host.config.root));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unusual_forms_are_read_as_they_are_meant() {
    let host = Host::new().await;
    // A capability whose bytes have a newline among them, and a record after it.
    let capability = [1, 0, 0, 2, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let with_xattr = pax(&[("SCHILY.xattr.security.capability", &capability), ("uid", b"4000000")], "program", b"x");
    let mut content = b"2\n1\n3\n8192\n2\n".to_vec();
    content.resize(512, 0);
    content.extend_from_slice(b"abcde");
    let sparse = [("GNU.sparse.major", &b"1"[..]), ("GNU.sparse.minor", b"0"), ("GNU.sparse.name", b"real"), ("GNU.sparse.realsize", b"10000")];
    let sparse = pax(&sparse, "GNUSparseFile.7/real", &content);
    let image = import(&host, "unusual", &[with_xattr, sparse]).await.unwrap();
    let program = layer(&host, &image, 0).join("program");
    assert_eq!(std::fs::metadata(&program).unwrap().uid(), 4_000_000);
    let shown = Command::new("getfattr").args(["-e", "hex", "-n", "security.capability"]).arg(&program).output();
    if let Ok(shown) = shown {
        assert!(String::from_utf8_lossy(&shown.stdout).contains("0x010000020a00"), "{shown:?}");
    }
    let real = layer(&host, &image, 1).join("real");
    let bytes = std::fs::read(&real).unwrap();
    assert_eq!((bytes.len(), &bytes[..4], &bytes[8192..8194]), (10_000, &b"\0abc"[..], &b"de"[..]));
    assert!(!layer(&host, &image, 1).join("GNUSparseFile.7").exists());
    // A frame to skip before the first one.
    let tar = Tar::new().file("z", 0o644, b"z").done();
    let mut built = build(std::slice::from_ref(&tar), json!({}));
    let frame = [&[0x51, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], b"skip", &zstd::encode_all(&tar[..], 1).unwrap()].concat();
    let manifest: serde_json::Value = serde_json::from_slice(&built.blobs[2].1).unwrap();
    let text = manifest.to_string().replace(&built.blobs[0].0, &digest(&frame));
    built.blobs[0] = (digest(&frame), frame);
    built.manifest = digest(text.as_bytes());
    built.blobs[2] = (built.manifest.clone(), text.into_bytes());
    let path = write(&host.dir.join("skippable.tar"), &layout(&[("skippable", &built)]));
    host.rt.import(&path, quiet()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_opaque_mark_reaches_into_own_directories() {
    let host = Host::new().await;
    let low = Tar::new().file("d/sub/low", 0o644, b"").file("d/sub/deep/low", 0o644, b"").file("d/low", 0o644, b"").file("kept", 0o644, b"").done();
    // After what is the layer's own, by a link, and with a directory that only the way to a file made.
    let high = Tar::new().link("alias", "d", false).file("alias/sub/deep/own", 0o644, b"").file("d/.wh..wh..opq", 0, b"").done();
    let image = import(&host, "opaque", &[low, high]).await.unwrap();
    let high = layer(&host, &image, 1);
    let hidden = |path: &str| std::fs::symlink_metadata(high.join(path)).is_ok_and(|m| m.rdev() == 0 && m.mode() & libc::S_IFMT == libc::S_IFCHR);
    assert!(high.join("d/sub/deep/own").exists());
    for path in ["d/sub/low", "d/sub/deep/low", "d/low"] {
        assert!(hidden(path), "{path}");
    }
    assert!(!high.join("kept").exists());
}

/// The store by the example program, as `knarr image import` is beside the cluster: with a umask that hides everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn modes_do_not_depend_on_the_umask() {
    let host = Host::new().await;
    let low = Tar::new().dir("./", 0o711).file("implied/file", 0o666, b"").done();
    let high = Tar::new().file("implied/.wh.file", 0, b"").file("more/file", 0o644, b"").done();
    let path = write(&host.dir.join("archive.tar"), &layout(&[("modes", &build(&[low, high], json!({})))]));
    let shell = "umask 077; exec \"$0\" import \"$1\"";
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", shell])
        .arg(program())
        .arg(&path)
        .env("CTR_ROOT", &host.config.root)
        .env("CTR_RUN", host.dir.join("run"))
        .env("CTR_MARK", "knarr-umask");
    assert!(command.stdout(Stdio::null()).status().unwrap().success());
    let image = host.rt.image("modes").unwrap();
    let mode = |n: usize, path: &str| std::fs::symlink_metadata(layer(&host, &image, n).join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(0, ""), mode(0, "implied"), mode(0, "implied/file")), (0o711, 0o755, 0o666));
    assert_eq!((mode(1, ""), mode(1, "implied"), mode(1, "more")), (0o711, 0o755, 0o755), "the image's `/` is that of the layer below");
    for dir in ["images", "layers", "ingest"] {
        assert_eq!(std::fs::metadata(host.config.root.join(dir)).unwrap().permissions().mode() & 0o7777, 0o700, "{dir} is nobody else's");
    }
}

/// The helpers that work for this runtime.
fn helpers(host: &Host) -> Vec<i32> {
    let mine = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.starts_with("knarr\0unpack\0") && line.contains(&host.config.mark)
    };
    let processes = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    processes.filter(mine).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_helper_that_dies_is_an_error_of_its_image_alone() {
    let host = Host::new().await;
    let big = Tar::new().file("zeros", 0o644, &vec![0; 200 << 20]).done();
    let path = write(&host.dir.join("big.tar"), &layout(&[("big", &build(&[big], json!({})))]));
    let (rt, importing) = (host.rt.clone(), path.clone());
    let import_big = tokio::spawn(async move { rt.import(&importing, quiet()).await });
    let seen = loop {
        let at_work = helpers(&host).into_iter().find(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains("\"Layer\"")
        });
        assert!(!import_big.is_finished(), "it was too fast to be seen");
        match at_work {
            Some(pid) => break pid,
            None => tokio::task::yield_now().await,
        }
    };
    let status = std::fs::read_to_string(format!("/proc/{seen}/status")).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(seen), nix::sys::signal::Signal::SIGKILL).unwrap();
    let error = import_big.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("was ended by signal 9"), "{error}");
    assert!(!status.is_empty() && left(&host.config.root).is_empty(), "{:?}", left(&host.config.root));
    // The next one is as if nothing had been.
    host.rt.import(&path, quiet()).await.unwrap();
    assert!(helpers(&host).is_empty());
}

/// A disk of its own that a few megabytes fill.
struct Small(std::path::PathBuf);

impl Small {
    fn new(host: &Host, mebibytes: u32) -> Small {
        let at = host.dir.join("small");
        std::fs::create_dir_all(&at).unwrap();
        let size = format!("size={mebibytes}m");
        nix::mount::mount(Some("tmpfs"), &at, Some("tmpfs"), nix::mount::MsFlags::empty(), Some(size.as_str())).unwrap();
        Small(at)
    }

    fn free_part(&self) -> f64 {
        let of = nix::sys::statvfs::statvfs(&self.0).unwrap();
        of.blocks_available() as f64 / of.blocks() as f64
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_that_cannot_go_keeps_no_other() {
    let host = Host::new().await;
    let aside = |name: &str, n: u32| host.config.root.join(format!("layers/.gone-{name}{n}"));
    let mut held = Vec::new();
    for n in 0..6 {
        let at = aside("held", n).join("fs");
        std::fs::create_dir_all(&at).unwrap();
        nix::mount::mount(Some("tmpfs"), &at, Some("tmpfs"), nix::mount::MsFlags::empty(), Some("size=1m")).unwrap();
        held.push(Small(at));
        std::fs::create_dir_all(aside("free", n).join("fs")).unwrap();
    }
    let _next = Runtime::open(host.config.clone()).await.unwrap();
    let wait = async {
        while (0..6).any(|n| aside("free", n).exists()) {
            // That a directory is gone tells nobody.
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the others go");
    assert!(held.iter().all(|small| small.0.exists()), "nothing is removed across a mount");
}

/// A small layer that unpacks to more than there is room for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_image_fills_the_disk() {
    let host = Host::new().await;
    let small = Small::new(&host, 64);
    let config = Config { root: small.0.join("root"), run: host.config.run.join("small"), ..host.config.clone() };
    let rt = Runtime::open(config).await.unwrap();
    let bomb = build(&[Tar::new().file("zeros", 0o644, &vec![0; 100 << 20]).done()], json!({"Cmd": ["/x"]}));
    let archive = write(&host.dir.join("bomb.tar"), &layout(&[("bomb", &bomb)]));
    assert!(std::fs::metadata(&archive).unwrap().len() < 2 << 20);
    let error = rt.import(&archive, quiet()).await.unwrap_err().to_string();
    assert!(error.contains("the disk is full: its last twentieth, or 2 GiB of a large one, stays free"), "{error}");
    assert!(small.free_part() > 0.9, "all of it is gone: {}", small.free_part());
    // The same for an archive that is compressed as a whole.
    let error = rt.import(&write(&host.dir.join("bomb.gz"), &gzip(&vec![0; 100 << 20])), quiet()).await.unwrap_err().to_string();
    assert!(error.contains("the disk is full"), "{error}");
    assert!(small.free_part() > 0.9);
    let fits = build(&[Tar::new().file("zeros", 0o644, &vec![0; 10 << 20]).done()], json!({"Cmd": ["/x"]}));
    rt.import(&write(&host.dir.join("fits.tar"), &layout(&[("fits", &fits)])), quiet()).await.unwrap();
}

/// Directories of a layer's own within one that hides what is below: more than a process may have descriptors.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deep_layer_may_hide_what_is_below() {
    const DEEP: usize = 600;
    let host = Host::new().await;
    let path = |n: usize| format!("top/{}", "d/".repeat(n));
    let long = |name: &str, hides: bool| {
        let mut tar = tar::Builder::new(Vec::new());
        let mut add = |kind: tar::EntryType, path: &str, data: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(0o755);
            header.set_size(data.len() as u64);
            tar.append_data(&mut header, path, data).unwrap();
        };
        (0..=DEEP).for_each(|n| add(tar::EntryType::Directory, &path(n), b""));
        add(tar::EntryType::Regular, &format!("{}{name}", path(DEEP)), name.as_bytes());
        if hides {
            add(tar::EntryType::Regular, "top/.wh..wh..opq", b"");
        }
        tar.into_inner().unwrap()
    };
    let (below, above) = (long("old", false), long("new", true));
    let built = build(&[below, above], json!({"Cmd": ["/x"]}));
    let images = host.rt.import(&write(&host.dir.join("deep.tar"), &layout(&[("deep", &built)])), quiet()).await.unwrap();
    let layer = host.config.root.join("layers").join(&images[0].layers[1]);
    assert_eq!(std::fs::read_to_string(layer.join(format!("{}new", path(DEEP)))).unwrap(), "new");
    let old = std::fs::symlink_metadata(layer.join(format!("{}old", path(DEEP)))).map(|m| m.file_type().is_char_device());
    assert!(old.unwrap_or(true), "the file below is hidden");
}
