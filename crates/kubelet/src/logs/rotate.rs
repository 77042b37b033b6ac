//! Rotation: a log that has grown too long is moved aside and packed; the oldest go.
//!
//! Nothing here stands on a worker that others run on, and a kubelet that dies in between finds the rest: a log that has lost
//! its name is opened anew, and what was half packed is packed again. The newest rotated file stays unpacked, since whoever follows the log
//! may still be reading it. A limit that is negative (`--container-log-max-size=-1`) says that nothing is rotated.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::cri::{Container, SharedRuntime};
use crate::settings::LogLimits;
use crate::util;

/// Rotates the logs of all running containers that have grown too long. They are looked at in one go: a thread that wakes for each of them
/// is most of what an idle pod costs.
pub async fn rotate_all(runtime: SharedRuntime, limits: LogLimits) {
    let Some(max_bytes) = limits.max_bytes else { return };
    let mut containers = runtime.containers();
    containers.retain(|c| c.running() && !c.log_path.as_os_str().is_empty());
    let looked = util::blocking(move || {
        let length = |c: &Container| fs::metadata(&c.log_path).map(|m| m.len());
        containers.into_iter().map(|c| (length(&c), c)).collect::<Vec<_>>()
    });
    for (length, c) in looked.await {
        let done = match length {
            Ok(length) if length >= max_bytes => rotate(&runtime, &c, limits.max_files).await,
            // It was moved aside, and the process that did so ended before the runtime opened it anew.
            Err(e) if e.kind() == io::ErrorKind::NotFound => runtime.reopen_log(&c.id).await.map_err(|e| io::Error::other(e.to_string())),
            _ => Ok(()),
        };
        if let Err(e) = done {
            tracing::warn!(container = %c.id, error = %e, "log not rotated");
        }
    }
}

async fn rotate(runtime: &SharedRuntime, c: &Container, max_files: usize) -> io::Result<()> {
    let path = c.log_path.clone();
    let aside = with_suffix(&path, &format!(".{}", stamp(SystemTime::now())));
    let moved = {
        let (path, aside) = (path.clone(), aside.clone());
        util::blocking(move || fs::rename(path, aside)).await
    };
    moved?;
    if let Err(e) = runtime.reopen_log(&c.id).await {
        // The runtime still writes to the moved file: it gets its name back.
        util::blocking(move || fs::rename(aside, path)).await?;
        return Err(io::Error::other(e.to_string()));
    }
    util::blocking(move || tidy(&path, max_files)).await
}

/// What a rotated log is called by, as with the original, but in UTC: those that sort later are newer.
fn stamp(at: SystemTime) -> String {
    util::time(at).0.strftime("%Y%m%d-%H%M%S").to_string()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The rotated files of a log, oldest first.
fn rotated(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else { return Ok(Vec::new()) };
    let prefix = format!("{name}.");
    let mut out: Vec<PathBuf> =
        fs::read_dir(dir)?.flatten().filter(|e| e.file_name().to_str().is_some_and(|n| n.starts_with(&prefix))).map(|e| e.path()).collect();
    out.sort();
    Ok(out)
}

/// Removes the oldest files and packs all but the newest.
fn tidy(path: &Path, max_files: usize) -> io::Result<()> {
    let mut files = rotated(path)?;
    for half in files.extract_if(.., |f| f.extension().is_some_and(|e| e == "tmp")) {
        fs::remove_file(half)?;
    }
    while files.len() > max_files.saturating_sub(1) {
        fs::remove_file(files.remove(0))?;
    }
    files.pop();
    for f in files.iter().filter(|f| f.extension().is_none_or(|e| e != "gz")) {
        let tmp = with_suffix(f, ".tmp");
        let mut out = GzEncoder::new(File::create(&tmp)?, Compression::fast());
        io::copy(&mut File::open(f)?, &mut out)?;
        out.finish()?;
        fs::rename(&tmp, with_suffix(f, ".gz"))?;
        fs::remove_file(f)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotated_log_is_called_by_its_time() {
        assert_eq!(stamp(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_709_210_096)), "20240229-123456");
    }

    #[test]
    fn the_oldest_go_and_all_but_the_newest_are_packed() {
        let dir = crate::testing::TempDir::new("rotate");
        let log = dir.path().join("0.log");
        fs::write(&log, "now").unwrap();
        for i in 1..=6 {
            fs::write(dir.path().join(format!("0.log.{i}")), "x").unwrap();
        }
        fs::write(dir.path().join("0.log.5.tmp"), "half").unwrap();
        tidy(&log, 5).unwrap();
        let names: Vec<String> = rotated(&log).unwrap().iter().map(|p| p.file_name().unwrap().to_str().unwrap().to_owned()).collect();
        assert_eq!(names, ["0.log.3.gz", "0.log.4.gz", "0.log.5.gz", "0.log.6"]);
    }
}
