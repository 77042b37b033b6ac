//! The directories of layers, and what keeps them: `layers/NAME` is one, `layers/NAME.ok` says that it is whole.
//!
//! - A layer counts when its mark is there, and the mark is written after all of the layer has reached the disk: after a
//!   crash or a power cut at any moment a layer is whole or does not count. What a store of before the marks has is trusted
//!   as it was then, by the image that names it ([`Layers::migrate`]).
//! - A layer is made in `.tmp-…`, locked by its maker, and renamed. What has to go is renamed to `.gone-…` under the store's
//!   lock, which takes no time, and removed without it.
//! - The store's lock (a file's, since `knarr image` is another process) is held for looks, renames and single files, never
//!   while something is fetched, unpacked or removed. Who needs layers that no image names yet pins them: a file with their
//!   names, locked for as long as its owner lives.
//! - Whoever has containers of these layers says so beforehand by a file `user-…` with the path of his volatile directory, where
//!   his containers' specifications lie; one whose directory is gone (a reboot, a node that was removed) has none.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{Flock, FlockArg};
use parking_lot::Mutex;

use super::{EMPTY_LAYER, random_name, short};
use crate::error::{Context, Result};
use crate::files::{self, is_free};
use crate::tree;
use crate::types::Image;

const MARK: &str = ".ok";
/// What stood for the mark before there were marks: it was written before the layer was whole.
const OLD_MARK: &str = ".size";
const MAKING: &str = ".tmp-";
const GOING: &str = ".gone-";
const PINS: &str = "pins-";
const LOCK: &str = "lock";
const USER: &str = "user-";

pub(super) struct Layers {
    pub(super) dir: PathBuf,
    /// Where things lie that are not whole yet; the lock and the pins, too.
    pub(super) ingest: PathBuf,
    /// Held while a layer is made, by its name: the second one to want it waits and finds it.
    turns: Mutex<HashMap<String, Arc<Mutex<()>>>>,
}

/// See [`Layers::pin`].
pub(crate) struct Pins {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Writes a file so that it is there as a whole or not at all, also after a power cut.
pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let tmp = path.with_extension("tmp");
    let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&tmp)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&tmp, path)?;
    sync_dir(path.parent().unwrap_or(path))
}

pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

impl Layers {
    pub(super) fn open(dir: PathBuf, ingest: PathBuf) -> Result<Layers> {
        for dir in [&dir, &ingest] {
            files::private_dir(dir)?;
        }
        let empty = dir.join(EMPTY_LAYER);
        fs::create_dir_all(&empty).at("cannot make", &empty)?;
        fs::set_permissions(&empty, fs::Permissions::from_mode(0o755)).at("cannot set the mode of", &empty)?;
        Ok(Layers { dir, ingest, turns: Mutex::default() })
    }

    /// Whether a layer is there, whole.
    pub(super) fn has(&self, name: &str) -> bool {
        self.mark(name).exists() && self.dir.join(name).is_dir()
    }

    pub(super) fn size(&self, name: &str) -> u64 {
        fs::read_to_string(self.mark(name)).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    fn mark(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}{MARK}"))
    }

    /// Excludes whoever looks at or changes what the store has, in this process and others. Not to be held for long.
    pub(super) fn locked(&self) -> io::Result<Flock<File>> {
        let file = File::options().create(true).append(true).mode(0o600).open(self.ingest.join(LOCK))?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e.into())
    }

    /// Keeps layers, which need not be there yet, from being collected until the answer is dropped or the process ends.
    pub(super) fn pin(&self, layers: &[String]) -> Result<Pins> {
        let place = || -> io::Result<Pins> {
            let name = random_name().map_err(io::Error::other)?;
            let (new, path) = (self.ingest.join(format!(".{PINS}{name}")), self.ingest.join(format!("{PINS}{name}")));
            let _lock = self.locked()?;
            let file = File::options().create_new(true).write(true).mode(0o600).open(&new)?;
            let mut lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| io::Error::from(e))?;
            lock.write_all(layers.join("\n").as_bytes())?;
            fs::rename(&new, &path)?;
            Ok(Pins { path, _lock: lock })
        };
        place().at("cannot pin layers in", &self.ingest)
    }

    /// What living owners have pinned; pins of dead ones go.
    fn pinned(&self) -> io::Result<HashSet<String>> {
        let mut all = HashSet::new();
        for entry in fs::read_dir(&self.ingest)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if !name.trim_start_matches('.').starts_with(PINS) {
                continue;
            }
            if is_free(&path) {
                let _ = fs::remove_file(&path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                all.extend(text.lines().map(str::to_owned));
            }
        }
        Ok(all)
    }

    /// Makes a runtime one of the users. What is said already is not written again: a start on a full disk writes nothing.
    pub(super) fn join(&self, run: &Path) -> io::Result<()> {
        let path = self.user(run);
        let text = run.as_os_str().as_bytes();
        if fs::read(&path).is_ok_and(|there| there == text) {
            return Ok(());
        }
        let _lock = self.locked()?;
        write_durably(&path, text)
    }

    /// It is none any more.
    pub(super) fn leave(&self, run: &Path) {
        let _ = fs::remove_file(self.user(run));
    }

    fn user(&self, run: &Path) -> PathBuf {
        self.ingest.join(format!("{USER}{}", short(&run.to_string_lossy())))
    }

    /// The volatile directories of all users.
    ///
    /// # Errors
    /// One cannot be read: its layers must stay.
    pub(super) fn users(&self) -> std::io::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(&self.ingest)?.collect::<std::io::Result<Vec<_>>>()?;
        // One with an extension is being written.
        let files = entries.iter().filter(|e| e.file_name().to_str().is_some_and(|n| n.starts_with(USER) && !n.contains('.')));
        let read = files.map(|e| fs::read(e.path())).filter(|r| !r.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound));
        read.map(|path| Ok(PathBuf::from(OsString::from_vec(path?)))).collect()
    }

    /// Makes a layer as a whole or not at all: `make` fills `fs` in the directory (below that of the layers) whose name it
    /// is given, and answers the size.
    pub(super) fn make(&self, name: &str, make: impl FnOnce(&str) -> Result<u64>) -> Result<()> {
        let turn = Arc::clone(self.turns.lock().entry(name.to_owned()).or_default());
        let held = turn.lock();
        let made = if self.has(name) { Ok(()) } else { self.make_now(name, make) };
        drop(held);
        let mut turns = self.turns.lock();
        if Arc::strong_count(&turn) == 2 {
            turns.remove(name);
        }
        made
    }

    fn make_now(&self, name: &str, make: impl FnOnce(&str) -> Result<u64>) -> Result<()> {
        let work_name = format!("{MAKING}{}", random_name()?);
        let work = self.dir.join(&work_name);
        // Whoever cleans up sees by the lock that somebody works here, and does not look before it is taken.
        let begin = || -> io::Result<Flock<File>> {
            let _store = self.locked()?;
            fs::DirBuilder::new().mode(0o700).create(&work)?;
            Flock::lock(File::open(&work)?, FlockArg::LockExclusive).map_err(|(_, e)| e.into())
        };
        let lock = begin();
        let made = lock.at("cannot make", &work).and_then(|_lock| {
            let size = make(&work_name)?;
            File::open(&work).and_then(|dir| Ok(nix::unistd::syncfs(&dir)?)).at("cannot sync", &work)?;
            self.put(name, &work.join("fs"), size).at("cannot put a layer into", &self.dir)
        });
        if let Err(e) = tree::remove(&work) {
            tracing::warn!(error = %e, "what was left of a layer stays");
        }
        made
    }

    /// Renames a whole layer to its place and marks it.
    fn put(&self, name: &str, files: &Path, size: u64) -> io::Result<()> {
        let _lock = self.locked()?;
        if self.has(name) {
            // Another process was faster.
            return Ok(());
        }
        let place = self.dir.join(name);
        if place.symlink_metadata().is_ok() {
            // What a crash left, perhaps not whole.
            self.set_aside(&place)?;
        }
        fs::rename(files, &place)?;
        write_durably(&self.mark(name), size.to_string().as_bytes())
    }

    fn set_aside(&self, place: &Path) -> io::Result<()> {
        fs::rename(place, self.dir.join(format!("{GOING}{}", random_name().map_err(io::Error::other)?)))
    }

    /// Sets aside what neither `needed` nor a pin names, and what was left unfinished. The store's lock is the caller's.
    pub(super) fn set_aside_all_but(&self, needed: &HashSet<String>) -> io::Result<()> {
        let pinned = self.pinned()?;
        let kept = |layer: &str| layer == EMPTY_LAYER || needed.contains(layer) || pinned.contains(layer);
        // All names first: the directory changes.
        let names = fs::read_dir(&self.dir)?.map(|e| e.map(|e| e.file_name())).collect::<io::Result<Vec<_>>>()?;
        for name in names.iter().filter_map(|n| n.to_str()) {
            let path = self.dir.join(name);
            let busy = name.starts_with(MAKING) && !is_free(&path);
            if busy || name.starts_with(GOING) || kept(name.strip_suffix(MARK).unwrap_or(name)) {
                continue;
            }
            // The mark first: there is never one without its layer.
            let mark = if name.ends_with(MARK) { path.clone() } else { self.mark(name) };
            match fs::remove_file(mark) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ if name.ends_with(MARK) => {}
                _ => self.set_aside(&path)?,
            }
        }
        Ok(())
    }

    /// Removes what was set aside, now or before a crash. That these are no layers any more is on the disk before the first of
    /// their files goes: else a cut of power could leave one that counts and is not whole.
    pub(super) fn remove_set_aside(&self) {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let gone: Vec<PathBuf> = entries.filter(|e| e.file_name().to_str().is_some_and(|n| n.starts_with(GOING))).map(|e| e.path()).collect();
        if gone.is_empty() {
            return;
        }
        if let Err(e) = sync_dir(&self.dir) {
            tracing::warn!(error = %e, "layers that nobody needs stay");
            return;
        }
        // One that cannot go keeps no other.
        for e in gone.iter().filter_map(|path| tree::remove(path).err()) {
            tracing::warn!(error = %e, "a layer that nobody needs stays");
        }
    }

    /// Marks the layers of a store that had no marks. There an image was recorded after its layers had been synced, so what
    /// an image names is whole if it is there; anything else stays without a mark and is collected. The old files go last:
    /// while one is there this is done again.
    pub(super) fn migrate(&self, images: impl Iterator<Item = Image>) -> io::Result<()> {
        let names = fs::read_dir(&self.dir)?.map(|e| e.map(|e| e.file_name())).collect::<io::Result<Vec<_>>>()?;
        let old: Vec<&str> = names.iter().filter_map(|n| n.to_str()).filter(|n| n.ends_with(OLD_MARK)).collect();
        if old.is_empty() {
            return Ok(());
        }
        let _lock = self.locked()?;
        for layer in images.flat_map(|image| image.layers) {
            let size = fs::read_to_string(self.dir.join(format!("{layer}{OLD_MARK}")));
            if let Ok(size) = size
                && self.dir.join(&layer).is_dir()
                && !self.has(&layer)
            {
                write_durably(&self.mark(&layer), size.as_bytes())?;
            }
        }
        for name in old {
            fs::remove_file(self.dir.join(name))?;
        }
        sync_dir(&self.dir)
    }
}
