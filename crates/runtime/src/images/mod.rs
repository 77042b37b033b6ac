//! The images of this node: a small JSON file each under `images/`, and directories under `layers/`, one per layer and what
//! is below it (OCI's chain id), used by overlayfs as they are. Compressed layers are not kept.
//!
//! An image's file is written last, after its layers are on disk, and names all that it needs: what no file names is
//! rubbish, and is removed when the runtime opens or an image goes.

mod archive;
mod local;
pub(crate) mod manifest;
pub(crate) mod reference;
pub(crate) mod unpack;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nix::fcntl::{Flock, FlockArg};
use parking_lot::{Mutex, MutexGuard};
use sha2::{Digest, Sha256};

use self::reference::Reference;
use crate::error::{Context, Error, Result};
use crate::registry::Registries;
use crate::types::{Credentials, Image, ImageConfig, LocalFile, Progress, Step};
use crate::{prepare, tree};

/// A directory without files: what an image without layers is made of.
pub(crate) const EMPTY_LAYER: &str = "empty";

/// A layer's compressed tar, wherever it comes from.
pub(crate) struct Layer<'a> {
    /// Of the blob; none where only the configuration vouches for the content.
    pub(crate) digest: Option<String>,
    pub(crate) size: u64,
    pub(crate) open: Box<dyn Fn() -> Result<Box<dyn Read + Send>> + 'a>,
}

/// Longer than the coarsest clock by which a kernel stamps files (10 ms at 100 Hz).
const CLOCK_TICK: Duration = Duration::from_millis(20);

/// What is read of `images/`, and when that directory had last changed then.
#[derive(Default)]
struct Known {
    images: BTreeMap<String, Image>,
    changed: Option<SystemTime>,
}

/// The store. Shared by reference; calls may overlap.
pub(crate) struct Images {
    root: PathBuf,
    known: Mutex<Known>,
    /// Shared by who adds, exclusive to who removes: another process may do either (`knarr image import`).
    lock: PathBuf,
    /// Held while a layer is unpacked, by its name: the second one to want it waits and finds it.
    unpacking: Mutex<HashMap<String, Arc<Mutex<()>>>>,
    /// Layers of images that are not recorded yet, with the number of who needs them.
    pinned: Mutex<HashMap<String, usize>>,
    registries: Registries,
    pulls: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Held while a blob is fetched, by its digest: two images may want the same one.
    transfers: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Images {
    pub(crate) fn open(root: &Path, registries: Option<&Path>) -> Result<Images> {
        for dir in ["images", "layers", "layers/empty", "ingest"] {
            let dir = root.join(dir);
            fs::create_dir_all(&dir).at("cannot make", &dir)?;
        }
        Ok(Images {
            root: root.to_owned(),
            known: Mutex::default(),
            lock: root.join("ingest").join("lock"),
            unpacking: Mutex::default(),
            pinned: Mutex::default(),
            registries: Registries::load(registries)?,
            pulls: Mutex::default(),
            transfers: Mutex::default(),
        })
    }

    /// The images as the disk has them: read again when another process changed something, which one look tells.
    fn known(&self) -> MutexGuard<'_, Known> {
        let mut known = self.known.lock();
        let dir = self.root.join("images");
        let changed = fs::metadata(&dir).and_then(|m| m.modified()).ok();
        if known.changed != changed || changed.is_none() {
            known.images.clear();
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                let Some(image) = prepare::read_json::<Image>(&entry.path()) else { continue };
                if image.layers.iter().all(|l| self.has_layer(l)) {
                    known.images.insert(image.id.clone(), image);
                }
            }
            // A change within the same tick of the file system's clock would not show: what is that young is read again.
            known.changed = changed.filter(|at| at.elapsed().is_ok_and(|age| age > CLOCK_TICK));
        }
        known
    }

    pub(crate) fn layers_dir(&self) -> PathBuf {
        self.root.join("layers")
    }

    /// Where things lie that are not whole yet.
    pub(crate) fn ingest_dir(&self) -> PathBuf {
        self.root.join("ingest")
    }

    pub(crate) fn all(&self) -> Vec<Image> {
        self.known().images.values().cloned().collect()
    }

    /// By id, or by a name as users write it.
    pub(crate) fn find(&self, name: &str) -> Option<Image> {
        let known = &self.known().images;
        if let Some(image) = known.get(name) {
            return Some(image.clone());
        }
        if reference::is_hex(name) {
            return known.get(&format!("sha256:{name}")).cloned();
        }
        let wanted = full_name(name).ok()?;
        known.values().find(|i| i.repo_tags.contains(&wanted) || i.repo_digests.contains(&wanted)).cloned()
    }

    pub(crate) fn import(&self, path: &Path, progress: &dyn Progress) -> Result<Vec<Image>> {
        archive::import(self, path, progress)
    }

    pub(crate) fn add_local(&self, reference: &str, files: &[LocalFile], config: ImageConfig) -> Result<Image> {
        local::add(self, reference, files, config)
    }

    /// The turn to fetch a blob.
    pub(crate) fn transfer(&self, digest: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut transfers = self.transfers.lock();
        transfers.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = transfers.get(digest).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        transfers.insert(digest.to_owned(), Arc::downgrade(&turn));
        turn
    }

    pub(crate) async fn pull(self: &Arc<Self>, name: &str, credentials: Option<Credentials>, progress: Arc<dyn Progress>) -> Result<Image> {
        let reference = Reference::parse(name)?;
        let full = reference.tagged().unwrap_or_else(|| reference.digested(reference.version()));
        let turn = Arc::clone(self.pulls.lock().entry(full.clone()).or_default());
        let done = {
            let _turn = turn.lock().await;
            crate::registry::pull(self, &self.registries, &reference, credentials, progress).await
        };
        let mut pulls = self.pulls.lock();
        if Arc::strong_count(&turn) == 2 {
            pulls.remove(&full);
        }
        done
    }

    // ---- writing

    /// Unpacks what is missing of an image and records it.
    pub(crate) fn store(&self, config: &[u8], layers: Vec<Layer<'_>>, tags: Vec<String>, digests: Vec<String>, progress: &dyn Progress) -> Result<Image> {
        let configuration = manifest::configuration(config)?;
        check_count(layers.len(), configuration.diff_ids.len())?;
        let chain = chain(&configuration.diff_ids);
        let _pins = self.pin(&chain);
        progress.step(Step::Layers(layers.iter().map(|l| (label(l, &chain), l.size)).collect()));
        for (at, layer) in layers.iter().enumerate() {
            self.layer(&chain[..=at], &configuration.diff_ids[at], layer)?;
            progress.step(Step::Unpacked { layer: label(layer, &chain) });
        }
        self.record(configuration.id, configuration.config, chain, tags, digests)
    }

    /// Whether a layer is there already.
    pub(crate) fn has_layer(&self, name: &str) -> bool {
        self.layers_dir().join(name).is_dir()
    }

    /// Unpacks the last one of a chain of layers, unless it is there.
    pub(crate) fn layer(&self, chain: &[String], diff_id: &str, layer: &Layer<'_>) -> Result<()> {
        let Some((name, lower)) = chain.split_last() else { return Ok(()) };
        self.make_layer(name, |work| {
            let what = format!("layer {}", layer.digest.as_deref().unwrap_or(diff_id));
            let raw = archive::checked_tar(layer)?;
            let place = unpack::Place { layers: &self.layers_dir(), lower, work };
            unpack::layer_from(&place, diff_id, raw, &what)
        })
    }

    /// Makes a layer's directory as a whole or not at all: `make` fills `fs` in the directory that it is given and
    /// answers its size.
    fn make_layer(&self, name: &str, make: impl FnOnce(&Path) -> Result<u64>) -> Result<()> {
        let turn = Arc::clone(self.unpacking.lock().entry(name.to_owned()).or_default());
        let held = turn.lock();
        let layers = self.layers_dir();
        let made = if self.has_layer(name) {
            Ok(())
        } else {
            let work = layers.join(format!(".tmp-{}", random_name()?));
            let run = || -> Result<()> {
                fs::create_dir(&work).at("cannot make", &work)?;
                let size = make(&work)?;
                fs::write(layers.join(format!("{name}.size")), size.to_string()).at("cannot write in", &layers)?;
                match fs::rename(work.join("fs"), layers.join(name)) {
                    // Another process was faster.
                    Err(_) if self.has_layer(name) => Ok(()),
                    done => done.at("cannot rename", &work),
                }
            };
            let made = run();
            let _ = tree::remove(&work);
            made
        };
        drop(held);
        let mut unpacking = self.unpacking.lock();
        if Arc::strong_count(&turn) == 2 {
            unpacking.remove(name);
        }
        made
    }

    /// Writes down an image whose layers are there; from now on it exists. Names that others had become its own.
    pub(crate) fn record(&self, id: String, config: ImageConfig, layers: Vec<String>, tags: Vec<String>, digests: Vec<String>) -> Result<Image> {
        let size = layers.iter().map(|l| self.layer_size(l)).sum();
        // The layers' data must be on disk before the file that promises them.
        File::open(self.layers_dir()).and_then(|dir| Ok(nix::unistd::syncfs(&dir)?)).context("cannot sync the layers")?;
        let mut guard = self.known();
        let known = &mut guard.images;
        let mut image = known.get(&id).cloned().unwrap_or_default();
        image = Image { id: id.clone(), size, config, layers, ..image };
        for (new, list) in [(&tags, &mut image.repo_tags), (&digests, &mut image.repo_digests)] {
            list.extend(new.iter().filter(|n| !list.contains(n)).cloned().collect::<Vec<_>>());
        }
        self.write(&image)?;
        known.insert(id.clone(), image.clone());
        let mut losers: Vec<Image> = known.values().filter(|i| i.id != id && i.repo_tags.iter().any(|t| tags.contains(t))).cloned().collect();
        for loser in &mut losers {
            loser.repo_tags.retain(|t| !tags.contains(t));
            self.write(loser)?;
            known.insert(loser.id.clone(), loser.clone());
        }
        Ok(image)
    }

    fn layer_size(&self, name: &str) -> u64 {
        let text = fs::read_to_string(self.layers_dir().join(format!("{name}.size")));
        text.ok().and_then(|t| t.parse().ok()).unwrap_or(0)
    }

    fn file(&self, id: &str) -> PathBuf {
        self.root.join("images").join(format!("{}.json", id.trim_start_matches("sha256:")))
    }

    fn write(&self, image: &Image) -> Result<()> {
        let path = self.file(&image.id);
        prepare::write_json(&path, image)?;
        let synced = File::open(&path).and_then(|f| f.sync_all());
        synced.and_then(|()| File::open(self.root.join("images"))?.sync_all()).at("cannot sync", &path)
    }

    // ---- removing

    /// Takes a name away, or by its id the whole image, then the layers that nobody needs.
    pub(crate) fn remove(&self, name: &str, used: &HashSet<String>) -> Result<()> {
        let missing = || Error::NotFound { kind: "image", name: name.to_owned() };
        let mut image = self.find(name).ok_or_else(missing)?;
        let whole = image.id.trim_start_matches("sha256:") == name.trim_start_matches("sha256:");
        let full = full_name(name).unwrap_or_default();
        let tagged = image.repo_tags.contains(&full);
        image.repo_tags.retain(|t| *t != full);
        image.repo_digests.retain(|d| *d != full);
        let last = image.repo_tags.is_empty() && (tagged || image.repo_digests.is_empty());
        {
            let known = &mut self.known().images;
            if whole || last {
                let path = self.file(&image.id);
                fs::remove_file(&path).at("cannot remove", &path)?;
                known.remove(&image.id);
            } else {
                self.write(&image)?;
                known.insert(image.id.clone(), image);
            }
        }
        self.collect(used);
        Ok(())
    }

    /// Removes layers that neither an image nor a container uses, and what was left unfinished.
    pub(crate) fn collect(&self, used: &HashSet<String>) {
        let Ok(lock) = self.locked(FlockArg::LockExclusiveNonblock) else { return };
        let known = self.known();
        let pinned = self.pinned.lock();
        let layers = self.layers_dir();
        let needed: HashSet<&str> = known.images.values().flat_map(|i| &i.layers).map(String::as_str).collect();
        for entry in fs::read_dir(&layers).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let layer = name.strip_suffix(".size").unwrap_or(name);
            let busy = pinned.contains_key(layer) || (name.starts_with(".tmp-") && !pinned.is_empty());
            if layer == EMPTY_LAYER || busy || needed.contains(layer) || used.contains(layer) {
                continue;
            }
            if let Err(e) = tree::remove(&entry.path()) {
                tracing::warn!(layer = name, error = %e, "layer not removed");
            }
        }
        drop(lock);
    }

    fn locked(&self, how: FlockArg) -> std::io::Result<Flock<File>> {
        let file = File::options().create(true).append(true).open(&self.lock)?;
        Flock::lock(file, how).map_err(|(_, e)| e.into())
    }

    /// Keeps layers from being collected until the answer is dropped.
    pub(crate) fn pin(&self, layers: &[String]) -> Pins<'_> {
        let lock = self.locked(FlockArg::LockShared).map_err(|e| tracing::warn!(error = %e, "image store not locked")).ok();
        let mut pinned = self.pinned.lock();
        for layer in layers {
            *pinned.entry(layer.clone()).or_default() += 1;
        }
        Pins { images: self, layers: layers.to_vec(), _lock: lock }
    }
}

/// See [`Images::pin`].
pub(crate) struct Pins<'a> {
    images: &'a Images,
    layers: Vec<String>,
    _lock: Option<Flock<File>>,
}

impl Drop for Pins<'_> {
    fn drop(&mut self) {
        let mut pinned = self.images.pinned.lock();
        for layer in &self.layers {
            if let Some(count) = pinned.get_mut(layer) {
                *count -= 1;
                if *count == 0 {
                    pinned.remove(layer);
                }
            }
        }
    }
}

/// The name by which an image is found.
fn full_name(name: &str) -> Result<String> {
    let reference = Reference::parse(name)?;
    Ok(reference.tagged().unwrap_or_else(|| reference.digested(reference.version())))
}

pub(crate) fn check_count(layers: usize, diff_ids: usize) -> Result<()> {
    /// What overlayfs and Docker allow.
    const LAYERS_MAX: usize = 127;
    if layers != diff_ids {
        return Err(Error::Image(format!("the manifest has {layers} layers, the configuration {diff_ids}")));
    }
    if layers > LAYERS_MAX {
        return Err(Error::Image(format!("the image has {layers} layers; {LAYERS_MAX} are supported")));
    }
    Ok(())
}

/// The directory names of a list of layers, lowest first: short, since overlayfs takes one page of them.
pub(crate) fn chain(diff_ids: &[String]) -> Vec<String> {
    let mut names = Vec::with_capacity(diff_ids.len());
    let mut id = String::new();
    for diff_id in diff_ids {
        id = if id.is_empty() { diff_id.clone() } else { manifest::digest_of(format!("{id} {diff_id}").as_bytes()) };
        names.push(short(&id));
    }
    names
}

fn short(id: &str) -> String {
    URL_SAFE_NO_PAD.encode(&Sha256::digest(id)[..16])
}

fn random_name() -> Result<String> {
    let mut bytes = [0; 12];
    getrandom::fill(&mut bytes).map_err(|e| Error::State(format!("no randomness: {e}")))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

fn label(layer: &Layer<'_>, chain: &[String]) -> String {
    layer.digest.clone().unwrap_or_else(|| chain.last().cloned().unwrap_or_default())
}
