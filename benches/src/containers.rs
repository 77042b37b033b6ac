//! The whole life of a container in a sandbox that stands: create, start, delete, with an image that is there. Beside it
//! `runc` with an OCI bundle of the same program, in the same run, if `--runc` names one.
//!
//! Both sides run the same static program (`knarr demo pause`) in namespaces of its own, with a cgroup; the runtime's side also
//! mounts an overlay and opens a log, which runc leaves to its caller.

use crate::{Options, stats::Samples};
use anyhow::{Context as _, bail};
use runtime::{Config, ContainerConfig, ImageConfig, LocalFile, Runtime, SandboxConfig, Seccomp};
use serde_json::json;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const IMAGE: &str = "bench.local/pause:v1";
/// Where the program lies in the image and in the bundle.
const PROGRAM: &str = "/bin/knarr";
const WORDS: [&str; 3] = [PROGRAM, "demo", "pause"];

/// A folder that goes with the program, whatever happened.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}

/// Times of the steps, and of all of them.
#[derive(Default)]
struct Life {
    create: Samples,
    start: Samples,
    delete: Samples,
    whole: Samples,
}

impl Life {
    fn add(&mut self, [create, start, delete]: [Duration; 3]) {
        self.create.add(create);
        self.start.add(start);
        self.delete.add(delete);
        self.whole.add(create + start + delete);
    }

    fn print(&self, of: &str) {
        println!("{}", Samples::head(of));
        for (name, samples) in [("create", &self.create), ("start", &self.start), ("kill and delete", &self.delete), ("all of it", &self.whole)] {
            println!("{}", samples.line(name));
        }
        println!();
    }
}

/// Runs the program.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let rounds = options.number("rounds", 50_usize)?;
    let knarr = cluster_tests::knarr();
    let folder = Folder(std::env::temp_dir().join(format!("knarr-bench-containers-{}", std::process::id())));
    fs::create_dir_all(&folder.0)?;
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    tokio.block_on(ours(&folder.0, &knarr, rounds))?.print("knarr's runtime, ms");
    if let Some(runc) = options.path("runc") {
        theirs(&folder.0, &knarr, &runc, rounds)?.print("runc, ms");
    }
    Ok(())
}

async fn ours(folder: &Path, knarr: &Path, rounds: usize) -> anyhow::Result<Life> {
    let mark = format!("knarr-bench-{}", std::process::id());
    let rt = Runtime::open(Config {
        root: folder.join("root"),
        store: None,
        run: Path::new("/run").join(&mark),
        cgroup_root: "/sys/fs/cgroup".into(),
        mark: mark.clone(),
        registries: None,
        network: None,
        shim: knarr.to_owned(),
    })
    .await?;
    let lives = lives(&rt, folder, knarr, &mark, rounds).await;
    rt.purge().await?;
    lives
}

async fn lives(rt: &Runtime, folder: &Path, knarr: &Path, mark: &str, rounds: usize) -> anyhow::Result<Life> {
    let file = LocalFile { host: knarr.to_owned(), path: PROGRAM.into(), mode: 0o755 };
    let config = ImageConfig { entrypoint: WORDS.map(Into::into).to_vec(), ..ImageConfig::default() };
    rt.add_layer_image(IMAGE, vec![file], config).await?;
    rt.create_sandbox(SandboxConfig {
        id: "sandbox".into(),
        hostname: "bench".into(),
        cgroup_parent: format!("/{mark}/pod"),
        log_dir: folder.join("logs"),
        ..SandboxConfig::default()
    })
    .await?;
    let mut life = Life::default();
    // The first finds nothing warm, and is left out on both sides.
    for round in 0..=rounds {
        let id = format!("c{round}");
        let config = ContainerConfig {
            id: id.clone(),
            name: "main".into(),
            image: IMAGE.into(),
            log_path: format!("{id}.log").into(),
            seccomp: Seccomp::RuntimeDefault,
            ..ContainerConfig::default()
        };
        let began = Instant::now();
        rt.create_container("sandbox", config).await?;
        let created = began.elapsed();
        rt.start_container(&id).await?;
        let started = began.elapsed();
        rt.stop_container(&id, Duration::ZERO).await?;
        rt.remove_container(&id).await?;
        if round > 0 {
            life.add([created, started - created, began.elapsed() - started]);
        }
    }
    Ok(life)
}

fn theirs(folder: &Path, knarr: &Path, runc: &Path, rounds: usize) -> anyhow::Result<Life> {
    let bundle = folder.join("bundle");
    let program = bundle.join("rootfs").join(&PROGRAM[1..]);
    fs::create_dir_all(program.parent().context("a folder")?)?;
    fs::copy(knarr, &program)?;
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755))?;
    call(Command::new(runc).arg("spec").arg("--bundle").arg(&bundle))?;
    let file = bundle.join("config.json");
    let mut spec: serde_json::Value = serde_json::from_slice(&fs::read(&file)?)?;
    spec["process"]["terminal"] = json!(false);
    spec["process"]["args"] = json!(WORDS);
    spec["linux"]["cgroupsPath"] = json!(format!("/knarr-bench-runc-{}", std::process::id()));
    fs::write(&file, spec.to_string())?;
    let root = folder.join("runc");
    let runc = |words: &[&str]| call(Command::new(runc).arg("--root").arg(&root).args(words));
    let bundle = bundle.to_str().context("a folder whose name is text")?;
    let mut life = Life::default();
    for round in 0..=rounds {
        let id = format!("knarr-bench-{}-{round}", std::process::id());
        let began = Instant::now();
        runc(&["create", "--bundle", bundle, &id])?;
        let created = began.elapsed();
        runc(&["start", &id])?;
        let started = began.elapsed();
        runc(&["delete", "--force", &id])?;
        if round > 0 {
            life.add([created, started - created, began.elapsed() - started]);
        }
    }
    Ok(life)
}

fn call(command: &mut Command) -> anyhow::Result<()> {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().with_context(|| format!("{command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}
