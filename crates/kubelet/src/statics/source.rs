//! The files of static pods: a directory of them, or one.
//!
//! The kernel tells of changes; every twenty seconds (upstream's `fileCheckFrequency`) all is looked at anew, which finds what the kernel
//! did not tell (a directory that came later, a link whose target changed). A file that cannot be read as a pod just after a change may be
//! half written: what it said before stands until the next of those looks, and goes then, as upstream's does. While the directory itself
//! cannot be read nothing is told, so that no pod ends by that; one that does not exist holds no pods.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::Pod;
use nix::sys::inotify::AddWatchFlags;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{FullName, full_name, read, same};
use crate::logs::directories::Directories;
use crate::util;

/// How often all files are looked at (upstream's `fileCheckFrequency`).
const LOOK: Duration = Duration::from_secs(20);
/// How soon a directory that cannot be watched is tried again (upstream's `retryPeriod`).
const RETRY: Duration = Duration::from_secs(1);

/// What a file said when it was read last.
#[derive(Clone)]
struct Known {
    digest: [u8; 32],
    pod: Option<Arc<Pod>>,
}

/// All that is known of the files.
struct Files {
    path: PathBuf,
    node: String,
    known: BTreeMap<PathBuf, Known>,
    /// Why a file was refused, as it was told last.
    told: BTreeMap<PathBuf, String>,
}

/// Tells of the static pods of a path: all of them, at the start and whenever they change.
pub fn follow(path: PathBuf, node: &str, stop: CancellationToken) -> mpsc::UnboundedReceiver<Vec<Arc<Pod>>> {
    let (to, sets) = mpsc::unbounded_channel();
    let files = Files { path, node: node.to_owned(), known: BTreeMap::new(), told: BTreeMap::new() };
    tokio::spawn(async move {
        tokio::select! {
            () = run(files, to) => {}
            () = stop.cancelled() => {}
        }
    });
    sets
}

async fn run(mut files: Files, to: mpsc::UnboundedSender<Vec<Arc<Pod>>>) {
    let (directories, path) = (Directories::default(), files.path.clone());
    // A file is whole when its writer closes it, and a name when it has been moved to.
    let changes = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF;
    let mut last: Option<Vec<Arc<Pod>>> = None;
    let mut news = None;
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is at once.
    ticks.tick().await;
    let mut whole = true;
    loop {
        let (mut own, again) = (files, news.is_none() || whole);
        let at = directories.clone();
        let looking = util::blocking(move || {
            // Whatever has the name by now; before the look, which sees what came until then.
            let watched = again.then(|| at.watch(&own.path, changes).ok());
            let found = own.look(!whole);
            (own, watched, found)
        });
        let (back, watched, found) = told_if_it_hangs(&path, looking).await;
        files = back;
        news = watched.unwrap_or(news);
        match found {
            Ok(pods) if last.as_ref().is_none_or(|last| !unchanged(last, &pods)) => {
                last = Some(pods.clone());
                if to.send(pods).is_err() {
                    return;
                }
            }
            Ok(_) => {}
            Err(error) => tracing::error!(path = %files.path.display(), %error, "Unable to read config path"),
        }
        whole = tokio::select! {
            _ = ticks.tick() => true,
            there = async { match &mut news {
                Some(news) => news.next().await,
                None => {
                    tokio::time::sleep(RETRY).await;
                    true
                }
            }} => {
                if !there {
                    news = None;
                }
                false
            }
        };
    }
}

/// Waits for a look, however long it takes, and says that it does: a file server that is gone answers nobody.
async fn told_if_it_hangs<T>(path: &Path, looking: impl Future<Output = T>) -> T {
    let mut looking = std::pin::pin!(looking);
    if let Ok(found) = tokio::time::timeout(LOOK, &mut looking).await {
        return found;
    }
    tracing::error!(path = %path.display(), "Unable to read config path: it does not answer");
    looking.await
}

fn unchanged(a: &[Arc<Pod>], b: &[Arc<Pod>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

impl Files {
    /// The names that are looked at, sorted; none if the path does not exist.
    fn list(&self) -> io::Result<BTreeSet<PathBuf>> {
        let meta = match fs::metadata(&self.path) {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            Err(e) => return Err(e),
        };
        if meta.is_file() {
            return Ok(BTreeSet::from([self.path.clone()]));
        }
        if !meta.is_dir() {
            return Err(io::Error::other("path is not a directory or file"));
        }
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if !entry.file_name().to_string_lossy().starts_with('.') {
                names.insert(entry.path());
            }
        }
        Ok(names)
    }

    /// The pods that the files describe. `keep`: a file that cannot be read as one says what it said before.
    fn look(&mut self, keep: bool) -> io::Result<Vec<Arc<Pod>>> {
        let names = self.list()?;
        // What one file alone said stands until it says something else (upstream returns before it replaces anything).
        let keep = keep || names.contains(&self.path);
        let mut pods: BTreeMap<FullName, Arc<Pod>> = BTreeMap::new();
        self.known.retain(|path, _| names.contains(path));
        self.told.retain(|path, _| names.contains(path));
        for path in names {
            let before = self.known.get(&path).cloned();
            let now = match read::bytes(&path) {
                Ok(bytes) => self.file(&path, &bytes, before.as_ref(), keep),
                Err(why) => {
                    self.refuse(&path, why);
                    before.filter(|_| keep)
                }
            };
            let Some(now) = now else {
                self.known.remove(&path);
                continue;
            };
            // Of two files with one name the last counts.
            if let Some(pod) = &now.pod {
                pods.insert(full_name(pod), Arc::clone(pod));
            }
            self.known.insert(path, now);
        }
        Ok(pods.into_values().collect())
    }

    fn file(&mut self, path: &Path, bytes: &[u8], before: Option<&Known>, keep: bool) -> Option<Known> {
        let digest: [u8; 32] = Sha256::digest(bytes).into();
        if let Some(before) = before.filter(|b| b.digest == digest) {
            return Some(before.clone());
        }
        let old = before.and_then(|b| b.pod.as_ref());
        match read::pod(bytes, path, &self.node, &machinery::time::rfc3339_micro(SystemTime::now())) {
            Ok(pod) => {
                self.told.remove(path);
                // The same pod in other words was seen before.
                let pod = old.filter(|old| util::uid(old) == util::uid(&pod) && same(old, &pod)).map_or_else(|| Arc::new(pod), Arc::clone);
                Some(Known { digest, pod: Some(pod) })
            }
            Err(why) => {
                self.refuse(path, why);
                // Where it stands for what it said before it does so with the digest of that: it is read again at the next look.
                if keep { before.cloned() } else { Some(Known { digest, pod: None }) }
            }
        }
    }

    fn refuse(&mut self, path: &Path, why: String) {
        if self.told.get(path) != Some(&why) {
            tracing::error!(path = %path.display(), error = why, "Could not process manifest file");
            self.told.insert(path.to_owned(), why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn web(image: &str) -> String {
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec: {{containers: [{{name: c, image: \"{image}\"}}]}}\n")
    }

    async fn next(sets: &mut mpsc::UnboundedReceiver<Vec<Arc<Pod>>>) -> Vec<String> {
        let set = tokio::time::timeout(Duration::from_secs(60), sets.recv()).await.expect("news").unwrap();
        set.iter().map(|p| p.spec.as_ref().unwrap().containers[0].image.clone().unwrap()).collect()
    }

    #[tokio::test]
    async fn files_that_come_change_and_go_are_told() {
        let dir = TempDir::new("statics");
        let (path, stop) = (dir.path().join("manifests"), CancellationToken::new());
        let mut sets = follow(path.clone(), "n", stop.clone());
        assert!(next(&mut sets).await.is_empty(), "a directory that does not exist holds no pods, and that is told");
        fs::create_dir(&path).unwrap();
        fs::write(path.join(".web.swp"), web("hidden")).unwrap();
        fs::write(dir.path().join("new"), web("v1")).unwrap();
        fs::rename(dir.path().join("new"), path.join("web.yaml")).unwrap();
        assert_eq!(next(&mut sets).await, ["v1"]);
        fs::write(dir.path().join("new"), web("v2")).unwrap();
        fs::rename(dir.path().join("new"), path.join("web.yaml")).unwrap();
        assert_eq!(next(&mut sets).await, ["v2"]);
        fs::remove_file(path.join("web.yaml")).unwrap();
        assert!(next(&mut sets).await.is_empty());
        stop.cancel();
    }

    #[test]
    fn what_a_half_written_file_said_before_stands_for_a_while() {
        let dir = TempDir::new("statics-half");
        let mut files = Files { path: dir.path().to_owned(), node: "n".into(), known: BTreeMap::new(), told: BTreeMap::new() };
        let at = |name: &str| dir.path().join(name);
        fs::write(at("a.yaml"), web("v1")).unwrap();
        nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::create_dir(at("dir")).unwrap();
        let first = files.look(false).unwrap();
        assert_eq!(first.len(), 1);
        assert!(unchanged(&first, &files.look(false).unwrap()), "what has not changed is not read anew");
        fs::write(at("a.yaml"), "# the same\n".to_owned() + &web("v1")).unwrap();
        assert!(unchanged(&first, &files.look(true).unwrap()), "nor is the same in other words another pod");
        fs::write(at("a.yaml"), "apiVersion: v1\nkind:").unwrap();
        assert!(unchanged(&first, &files.look(true).unwrap()));
        assert!(files.look(false).unwrap().is_empty());
        // Of two files with one name the last counts.
        fs::write(at("a.yaml"), web("v1")).unwrap();
        fs::write(at("b.yaml"), web("v2")).unwrap();
        let both = files.look(false).unwrap();
        assert_eq!(both.len(), 1);
        assert_eq!(both[0].spec.as_ref().unwrap().containers[0].image.as_deref(), Some("v2"));
        // One file alone.
        files.path = at("a.yaml");
        assert_eq!(files.look(false).unwrap().len(), 1);
        files.path = at("pipe");
        assert!(files.look(false).is_err(), "nothing is told of it");
    }
}
