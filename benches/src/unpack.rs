//! An image of a gibibyte in ten layers, brought in from an archive and unpacked: `knarr image import`, and containerd's
//! `ctr image import` of the same archive in the same run if `--peer` is given.
//!
//! The layers are gzip, as images are published: half of each file is text that packs well, half is noise. Beside the time it takes
//! stands the CPU time of all that works on it: on a machine that does something else that is what can be compared.

use crate::{Options, peer::Peer, process, stats::Samples};
use anyhow::bail;
use cluster_tests::Cluster;
use flate2::{Compression, write::GzEncoder};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

const LAYERS: u64 = 10;
const FILE_BYTES: usize = 256 << 10;
const NAME: &str = "bench.local/big:v1";
const OCI: &str = "application/vnd.oci.image";

/// Runs the program.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let (rounds, mebibytes) = (options.number("rounds", 3_usize)?, options.number("mebibytes", 1024_u64)?);
    let folder = std::env::temp_dir().join(format!("knarr-bench-unpack-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let figures = measure(options, &folder, rounds, mebibytes);
    fs::remove_dir_all(&folder)?;
    figures
}

fn measure(options: &Options, folder: &Path, rounds: usize, mebibytes: u64) -> anyhow::Result<()> {
    let archive = write(folder, mebibytes << 20)?;
    println!("{mebibytes} MiB in {LAYERS} layers, {} MiB packed\n{}", fs::metadata(&archive)?.len() >> 20, Samples::head("import, ms"));
    let mut cluster = Cluster::new("bench-unpack").with(&["--port", "7443"]);
    cluster.start(&[]).assert_ok();
    let (mut samples, mut cpu) = (Samples::default(), Samples::default());
    for _ in 0..rounds {
        let name = cluster.name.clone();
        let knarr = |words: &[&str]| {
            Command::new(cluster_tests::knarr())
                .arg("image")
                .args(words)
                .args(["--name", &name])
                .arg("--data-dir")
                .arg(cluster.data())
                .stdout(Stdio::null())
                .status()
        };
        let before = process::cpu_of_children();
        samples.add(timed(|| knarr(&["import", archive.to_str().unwrap_or_default()]))?);
        cpu.add(process::cpu_of_children() - before);
        checked(knarr(&["rm", NAME]))?;
    }
    cluster.down();
    println!("{}\n{}", samples.line("knarr image import"), cpu.line("  its CPU"));
    let Some(peer) = Peer::of(options)? else { return Ok(()) };
    let [socket, programs] = peer.containerd()?;
    let ctr = |words: &[&str]| Command::new(programs.join("ctr")).arg("-a").arg(&socket).args(["-n", "bench"]).args(words).stdout(Stdio::null()).status();
    let daemons: Vec<i32> = peer.pids()?.split(',').filter_map(|pid| pid.parse().ok()).collect();
    let used = || daemons.iter().map(|pid| process::cpu(*pid)).sum::<std::time::Duration>() + process::cpu_of_children();
    let (mut samples, mut cpu) = (Samples::default(), Samples::default());
    for _ in 0..rounds {
        let before = used();
        samples.add(timed(|| ctr(&["images", "import", "--platform", "linux/amd64", "--local", archive.to_str().unwrap_or_default()]))?);
        cpu.add(used() - before);
        checked(ctr(&["images", "rm", "--sync", NAME]))?;
    }
    println!("{}\n{}", samples.line("ctr image import"), cpu.line("  CPU, with containerd's"));
    Ok(())
}

/// From nothing dirty to everything on the disk: what is left to be written counts for the one who wrote it.
fn timed(run: impl FnOnce() -> io::Result<std::process::ExitStatus>) -> anyhow::Result<std::time::Duration> {
    sync();
    let began = Instant::now();
    checked(run())?;
    sync();
    Ok(began.elapsed())
}

fn sync() {
    let _ = Command::new("sync").status();
}

fn checked(status: io::Result<std::process::ExitStatus>) -> anyhow::Result<()> {
    let status = status?;
    if status.success() { Ok(()) } else { bail!("an import or removal failed: {status}") }
}

/// Counts and digests what passes.
struct Digested<W> {
    to: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Digested<W> {
    fn new(to: W) -> Self {
        Self { to, hash: Sha256::new(), bytes: 0 }
    }

    fn end(self) -> (W, String, u64) {
        (self.to, hex(&self.hash.finalize()), self.bytes)
    }
}

impl<W: Write> Write for Digested<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.to.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn write(folder: &Path, bytes: u64) -> anyhow::Result<PathBuf> {
    let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
    for n in 0..LAYERS {
        let (path, digest, size, diff_id) = layer(folder, n, bytes / LAYERS)?;
        diff_ids.push(format!("sha256:{diff_id}"));
        layers.push((path, digest, size));
    }
    let config = json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/x"]}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}).to_string();
    let described: Vec<_> = layers
        .iter()
        .map(|(_, digest, size)| json!({"mediaType": format!("{OCI}.layer.v1.tar+gzip"), "digest": format!("sha256:{digest}"), "size": size}))
        .collect();
    let digest = |text: &str| hex(&Sha256::digest(text));
    let manifest = json!({"schemaVersion": 2, "mediaType": format!("{OCI}.manifest.v1+json"),
        "config": {"mediaType": format!("{OCI}.config.v1+json"), "digest": format!("sha256:{}", digest(&config)), "size": config.len()}, "layers": described})
    .to_string();
    let index = json!({"schemaVersion": 2, "manifests": [{"mediaType": format!("{OCI}.manifest.v1+json"), "digest": format!("sha256:{}", digest(&manifest)), "size": manifest.len(),
        "annotations": {"io.containerd.image.name": NAME, "org.opencontainers.image.ref.name": "v1"}}]}).to_string();
    let archive = folder.join("image.tar");
    let mut tar = tar::Builder::new(File::create(&archive)?);
    let texts = [
        ("oci-layout".to_owned(), r#"{"imageLayoutVersion":"1.0.0"}"#),
        ("index.json".to_owned(), &index),
        (format!("blobs/sha256/{}", digest(&manifest)), &manifest),
        (format!("blobs/sha256/{}", digest(&config)), &config),
    ];
    for (path, text) in texts {
        append(&mut tar, &path, text.len() as u64, text.as_bytes())?;
    }
    for (path, digest, size) in &layers {
        append(&mut tar, &format!("blobs/sha256/{digest}"), *size, File::open(path)?)?;
        fs::remove_file(path)?;
    }
    tar.finish()?;
    Ok(archive)
}

fn append<W: Write>(tar: &mut tar::Builder<W>, path: &str, size: u64, from: impl io::Read) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    tar.append_data(&mut header, path, from)
}

/// One layer's file, its digest and size, and the digest of its tar.
fn layer(folder: &Path, n: u64, bytes: u64) -> anyhow::Result<(PathBuf, String, u64, String)> {
    let path = folder.join(format!("layer-{n}"));
    let packed = Digested::new(io::BufWriter::new(File::create(&path)?));
    let mut tar = tar::Builder::new(Digested::new(GzEncoder::new(packed, Compression::fast())));
    let mut noise = 0x9e37_79b9_7f4a_7c15 ^ (n + 1);
    for file in 0..bytes / FILE_BYTES as u64 {
        let mut content = Vec::with_capacity(FILE_BYTES);
        while content.len() < FILE_BYTES / 2 {
            // xorshift64*: not compressible, the same in every run.
            noise ^= noise >> 12;
            noise ^= noise << 25;
            noise ^= noise >> 27;
            content.extend_from_slice(&noise.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
        }
        while content.len() < FILE_BYTES {
            content.extend_from_slice(format!("line {} of file {file} in layer {n}\n", content.len()).as_bytes());
        }
        content.truncate(FILE_BYTES);
        append(&mut tar, &format!("usr/share/bench/{n}/{}/{file}", file % 16), FILE_BYTES as u64, content.as_slice())?;
    }
    let (gzip, diff_id, _) = tar.into_inner()?.end();
    let (mut file, digest, size) = gzip.finish()?.end();
    file.flush()?;
    Ok((path, digest, size, diff_id))
}
