//! A runtime of its own for each test, on the real kernel: the tests need root. What a test made is removed at its end,
//! however that comes.
#![allow(dead_code)]

pub mod registry;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use runtime::*;

/// Long enough for a machine that does something else; reaching it is a failure.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Host {
    pub rt: Runtime,
    pub config: Config,
    pub dir: PathBuf,
}

/// Another hierarchy may be named, to see version 2 on a host that runs on version 1.
pub fn cgroup_root() -> PathBuf {
    std::env::var_os("KNARR_TEST_CGROUP_ROOT").map_or_else(|| "/sys/fs/cgroup".into(), PathBuf::from)
}

/// The example program, which is shim and guest: built beside the tests.
pub fn program() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let path = exe.parent().unwrap().parent().unwrap().join("examples/ctr");
    assert!(path.exists(), "{} is built by `cargo test`, or `cargo build --example ctr`", path.display());
    // `cargo test --test NAME` builds the test alone, and would try yesterday's shim.
    let built = std::fs::metadata(&path).and_then(|m| m.modified()).unwrap();
    let sources = std::fs::read_to_string(path.with_extension("d")).unwrap_or_default();
    let newer = |source: &&str| std::fs::metadata(source).and_then(|m| m.modified()).is_ok_and(|at| at > built);
    if let Some(source) = sources.split_whitespace().skip(1).find(newer) {
        panic!("{} is older than {source}: cargo build -p runtime --example ctr", path.display());
    }
    path
}

impl Host {
    pub async fn new() -> Host {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("knarr-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = PathBuf::from("/var/tmp").join(&name);
        let config = Config {
            root: dir.join("root"),
            store: None,
            run: PathBuf::from("/run").join(&name),
            cgroup_root: cgroup_root(),
            mark: name,
            registries: None,
            network: None,
            shim: program(),
        };
        let rt = Runtime::open(config.clone()).await.expect("root, overlayfs and cgroups");
        Host { rt, config, dir }
    }

    pub async fn with_image() -> Host {
        let host = Host::new().await;
        let file = LocalFile { host: program(), path: "/bin/main".into(), mode: 0o755 };
        let config = ImageConfig {
            entrypoint: vec!["/bin/main".into(), "guest".into()],
            cmd: vec!["say".into(), "default".into()],
            env: vec!["FROM=image".into(), "PATH=/bin".into()],
            ..ImageConfig::default()
        };
        host.rt.add_layer_image("guest", vec![file], config).await.unwrap();
        host
    }

    pub fn sandbox_config(&self, id: &str) -> SandboxConfig {
        SandboxConfig {
            id: id.into(),
            hostname: format!("{id}-host"),
            cgroup_parent: format!("/{}/{id}", self.config.mark),
            log_dir: self.dir.join("logs"),
            ..SandboxConfig::default()
        }
    }

    pub async fn sandbox(&self, id: &str) -> Sandbox {
        self.rt.create_sandbox(self.sandbox_config(id)).await.unwrap()
    }

    pub fn container(&self, id: &str, args: &[&str]) -> ContainerConfig {
        ContainerConfig {
            id: id.into(),
            name: id.into(),
            image: "guest".into(),
            args: args.iter().map(|a| (*a).to_owned()).collect(),
            log_path: format!("{id}.log").into(),
            seccomp: Seccomp::RuntimeDefault,
            ..ContainerConfig::default()
        }
    }

    pub async fn start(&self, sandbox: &str, config: ContainerConfig) {
        let id = config.id.clone();
        self.rt.create_container(sandbox, config).await.unwrap();
        self.rt.start_container(&id).await.unwrap();
    }

    /// Runs a container to its end and answers what it said.
    pub async fn run(&self, sandbox: &str, config: ContainerConfig) -> String {
        let id = config.id.clone();
        self.start(sandbox, config).await;
        self.ended(&id).await;
        self.said(&id)
    }

    /// Waits for a container's end.
    pub async fn ended(&self, id: &str) -> ContainerStatus {
        let mut events = self.rt.events();
        let wait = async {
            loop {
                let status = self.rt.container(id).unwrap();
                if status.state == ContainerState::Exited {
                    return status;
                }
                let _ = events.recv().await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the container does not end")
    }

    /// Its log without times and tags.
    pub fn said(&self, id: &str) -> String {
        let path = self.rt.container(id).unwrap().log_path;
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        text.lines().filter_map(|l| l.splitn(4, ' ').nth(3)).map(|l| format!("{l}\n")).collect()
    }

    /// Waits until the log has this line.
    pub async fn hears(&self, id: &str, line: &str) {
        let wait = async {
            while !self.said(id).lines().any(|l| l == line) {
                // A log file tells nobody that it grew.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{line:?} is not in {:?}", self.said(id)));
    }

    pub async fn exec(&self, id: &str, args: &[&str]) -> ExecResult {
        let cmd = ["/bin/main", "guest"].iter().chain(args).map(|a| (*a).to_owned()).collect();
        self.rt.exec_sync(id, cmd, Some(PATIENCE)).await.unwrap()
    }

    pub async fn exec_text(&self, id: &str, args: &[&str]) -> String {
        String::from_utf8(self.exec(id, args).await.stdout).unwrap()
    }

    /// What is left on the host of this runtime.
    pub fn traces(&self) -> Vec<String> {
        let mark = &self.config.mark;
        let mut found: Vec<String> = Vec::new();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        found.extend(mounts.lines().filter(|l| l.contains(mark.as_str())).map(str::to_owned));
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let dir = hierarchy.path().join(mark);
            found.extend(dir.exists().then(|| dir.display().to_string()));
        }
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            let own = process.file_name().to_str() == Some(&std::process::id().to_string());
            found.extend((!own && line.contains(&format!("/{mark}/"))).then_some(line));
        }
        found
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let rt = self.rt.clone();
        let _ = std::thread::spawn(move || {
            let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            tokio.block_on(rt.purge())
        })
        .join();
        let _ = std::fs::remove_dir_all(&self.dir);
        let _ = std::fs::remove_dir_all(&self.config.run);
    }
}

pub fn quiet() -> Arc<dyn Progress> {
    Arc::new(())
}

/// A tar archive in memory.
pub struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    pub fn new() -> Tar {
        Tar(tar::Builder::new(Vec::new()))
    }

    fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(0);
        header
    }

    /// A name as it is, `..` and all.
    fn raw_name(header: &mut tar::Header, name: &str) {
        let bytes = &mut header.as_old_mut().name;
        bytes.fill(0);
        bytes[..name.len()].copy_from_slice(name.as_bytes());
    }

    pub fn file(mut self, name: &str, mode: u32, data: &[u8]) -> Tar {
        let mut header = Self::header(tar::EntryType::Regular, mode);
        header.set_size(data.len() as u64);
        Self::raw_name(&mut header, name);
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    pub fn owned(mut self, name: &str, mode: u32, uid: u64, gid: u64, data: &[u8]) -> Tar {
        let mut header = Self::header(tar::EntryType::Regular, mode);
        header.set_size(data.len() as u64);
        header.set_uid(uid);
        header.set_gid(gid);
        Self::raw_name(&mut header, name);
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    pub fn dir(mut self, name: &str, mode: u32) -> Tar {
        let mut header = Self::header(tar::EntryType::Directory, mode);
        Self::raw_name(&mut header, name);
        header.set_cksum();
        self.0.append(&header, &[][..]).unwrap();
        self
    }

    pub fn link(mut self, name: &str, target: &str, hard: bool) -> Tar {
        let kind = if hard { tar::EntryType::Link } else { tar::EntryType::Symlink };
        let mut header = Self::header(kind, 0o777);
        Self::raw_name(&mut header, name);
        let bytes = &mut header.as_old_mut().linkname;
        bytes[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        self.0.append(&header, &[][..]).unwrap();
        self
    }

    pub fn done(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

pub fn digest(bytes: &[u8]) -> String {
    use sha2::Digest;
    let sum = sha2::Sha256::digest(bytes);
    format!("sha256:{}", sum.iter().map(|b| format!("{b:02x}")).collect::<String>())
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// An image's documents: blobs by digest, and the manifest's digest.
pub struct Built {
    pub blobs: Vec<(String, Vec<u8>)>,
    pub manifest: String,
    pub config: String,
}

/// An OCI image of these layers (plain tars).
pub fn build(layers: &[Vec<u8>], config: serde_json::Value) -> Built {
    let mut blobs = Vec::new();
    let mut descriptors = Vec::new();
    for (at, tar) in layers.iter().enumerate() {
        let (kind, blob) = match at % 3 {
            0 => ("tar+gzip", gzip(tar)),
            1 => ("tar+zstd", zstd::encode_all(&tar[..], 3).unwrap()),
            _ => ("tar", tar.clone()),
        };
        let media = format!("application/vnd.oci.image.layer.v1.{kind}");
        descriptors.push(serde_json::json!({"mediaType": media, "digest": digest(&blob), "size": blob.len()}));
        blobs.push((digest(&blob), blob));
    }
    let diff_ids: Vec<String> = layers.iter().map(|l| digest(l)).collect();
    let config = serde_json::json!({"architecture": "amd64", "os": "linux", "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config = serde_json::to_vec(&config).unwrap();
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len()},
        "layers": descriptors});
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let (id, name) = (digest(&config), digest(&manifest));
    blobs.push((id.clone(), config));
    blobs.push((name.clone(), manifest));
    Built { blobs, manifest: name, config: id }
}

/// The tar of an OCI layout with these images by name.
pub fn layout(images: &[(&str, &Built)]) -> Vec<u8> {
    let mut tar = Tar::new().file("oci-layout", 0o644, b"{\"imageLayoutVersion\":\"1.0.0\"}");
    let mut manifests = Vec::new();
    for (name, image) in images {
        let bytes = &image.blobs.iter().find(|(d, _)| *d == image.manifest).unwrap().1;
        manifests.push(serde_json::json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": image.manifest,
            "size": bytes.len(), "annotations": {"io.containerd.image.name": name}}));
        for (digest, blob) in &image.blobs {
            tar = tar.file(&format!("blobs/sha256/{}", &digest[7..]), 0o644, blob);
        }
    }
    let index = serde_json::json!({"schemaVersion": 2, "manifests": manifests});
    tar.file("index.json", 0o644, &serde_json::to_vec(&index).unwrap()).done()
}

pub fn write(path: &Path, bytes: &[u8]) -> PathBuf {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
    path.to_owned()
}
