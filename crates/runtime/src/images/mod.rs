//! The images of this node, or of all nodes of this host: a small JSON file each under `images/`, and directories under `layers/`, one per layer and what
//! is below it (OCI's chain id), used by overlayfs as they are. Compressed layers are not kept.
//!
//! An image's file is written last, after its layers are whole on disk ([`layers`]), and names all that it needs: what no
//! file names is rubbish, and is removed when the runtime opens or an image goes. Archives are read and layers unpacked by a
//! process of their own ([`helper`]).
//!
//! **Shared.** All that decides is on the disk and under locks of files ([`layers`]), so the nodes of a host have one store
//! ([`Config::store`]): a layer is fetched and unpacked once, and collected when the containers of none of them need it.
//!
//! Looking for an image reads memory and the time of one directory: a change by another process (`knarr image`) is seen so.
//! Everything else waits for disks, and is called off the executor's threads.

mod archive;
mod helper;
mod index;
pub(crate) mod ingest;
mod layers;
mod local;
pub(crate) mod manifest;
pub(crate) mod reference;
pub(crate) mod space;
mod tar;
pub(crate) mod unpack;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::{Mutex, RwLock};
use sha2::{Digest, Sha256};

use self::helper::Helper;
pub use self::helper::unpack_main;
use self::layers::Layers;
pub(crate) use self::layers::Pins;
use self::reference::Reference;
use self::unpack::Section;
use crate::error::{Context, Error, Result};
use crate::files;
use crate::registry::config::Registries;
use crate::types::{Config, Image, ImageConfig, LocalFile, Origin, Progress, Step};

/// A directory without files: what an image without layers is made of.
pub(crate) const EMPTY_LAYER: &str = "empty";

/// A layer's compressed tar, wherever it lies.
pub(crate) struct Layer<'a> {
    /// Of the blob; none where only the configuration vouches for the content.
    digest: Option<String>,
    size: u64,
    open: Box<dyn Fn() -> Result<Section> + 'a>,
}

/// Longer than the coarsest clock by which a kernel stamps files (10 ms at 100 Hz).
const CLOCK_TICK: Duration = Duration::from_millis(20);

/// What is read of `images/`, and when that directory had last changed then.
#[derive(Default)]
struct Known {
    images: BTreeMap<String, Image>,
    changed: Option<SystemTime>,
}

/// The turn to fetch a blob, and its file while somebody is about to unpack it: the same blob may be several layers of an image
/// (empty ones mostly), or of several images.
pub(crate) type Transfer = tokio::sync::Mutex<Weak<ingest::Held>>;

/// The store. Shared by reference; calls may overlap.
pub(crate) struct Images {
    dir: PathBuf,
    /// The volatile directory of the runtime that this is for.
    run: PathBuf,
    /// Replaced as a whole, and held by nobody for longer than that takes.
    known: RwLock<Arc<Known>>,
    layers: Layers,
    helper: Helper,
    pub(crate) registries: Registries,
    pub(crate) pulls: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Held while a blob is fetched, by its digest: two images may want the same one.
    transfers: Mutex<HashMap<String, Weak<Transfer>>>,
}

impl Images {
    pub(crate) fn open(config: &Config) -> Result<Images> {
        let root = config.store.as_ref().unwrap_or(&config.root);
        let dir = root.join("images");
        files::private_dir(&dir)?;
        let layers = Layers::open(root.join("layers"), root.join("ingest"))?;
        layers.join(&config.run).at("cannot write into", &layers.ingest)?;
        layers.migrate(files_in(&dir)).at("cannot bring up to date", &layers.dir)?;
        Ok(Images {
            dir,
            run: config.run.clone(),
            known: RwLock::default(),
            layers,
            helper: Helper { program: config.shim.clone() },
            registries: Registries::load(config.registries.as_deref(), config.network.clone())?,
            pulls: Mutex::default(),
            transfers: Mutex::default(),
        })
    }

    /// The images as the disk has them: read again when something changed, which one look tells.
    fn known(&self) -> Arc<Known> {
        let changed = fs::metadata(&self.dir).and_then(|m| m.modified()).ok();
        let known = Arc::clone(&self.known.read());
        if known.changed == changed && changed.is_some() {
            return known;
        }
        // A change within the same tick of the file system's clock would not show: what is that young is read again.
        let settled = changed.filter(|at| at.elapsed().is_ok_and(|age| age > CLOCK_TICK));
        let known = Arc::new(Known { images: self.read(), changed: settled });
        *self.known.write() = Arc::clone(&known);
        known
    }

    /// Every image whose layers are here.
    fn read(&self) -> BTreeMap<String, Image> {
        let whole = files_in(&self.dir).filter(|image| image.layers.iter().all(|l| self.layers.has(l)));
        whole.map(|image| (image.id.clone(), image)).collect()
    }

    /// The volatile directories of all runtimes whose containers are made of these images.
    ///
    /// # Errors
    /// They are not all known.
    pub(crate) fn users(&self) -> std::io::Result<Vec<PathBuf>> {
        let mut users = self.layers.users()?;
        if !users.contains(&self.run) {
            users.push(self.run.clone());
        }
        Ok(users)
    }

    /// This runtime has no containers any more, and is none of the users from now on.
    pub(crate) fn leave(&self) {
        self.layers.leave(&self.run);
    }

    pub(crate) fn layers_dir(&self) -> PathBuf {
        self.layers.dir.clone()
    }

    /// Where things lie that are not whole yet.
    pub(crate) fn ingest_dir(&self) -> PathBuf {
        self.layers.ingest.clone()
    }

    pub(crate) fn all(&self) -> Vec<Image> {
        self.known().images.values().cloned().collect()
    }

    /// By id, or by a name as users write it.
    pub(crate) fn find(&self, name: &str) -> Option<Image> {
        self.known().find(name)
    }

    pub(crate) fn import(&self, path: &Path, progress: &dyn Progress) -> Result<Vec<Image>> {
        archive::import(self, path, progress)
    }

    pub(crate) fn add_local(&self, reference: &str, files: &[LocalFile], config: ImageConfig) -> Result<Image> {
        local::add(self, reference, files, config)
    }

    /// The turn to fetch a blob.
    pub(crate) fn transfer(&self, digest: &str) -> Arc<Transfer> {
        let mut transfers = self.transfers.lock();
        transfers.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = transfers.get(digest).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(Transfer::new(Weak::new()));
        transfers.insert(digest.to_owned(), Arc::downgrade(&turn));
        turn
    }

    // ---- writing

    /// Unpacks what is missing of an image that is imported, and records it.
    pub(crate) fn store(&self, config: &[u8], layers: Vec<Layer<'_>>, tags: Vec<String>, digests: Vec<String>, progress: &dyn Progress) -> Result<Image> {
        let configuration = manifest::configuration(config)?;
        check_count(layers.len(), configuration.diff_ids.len())?;
        let chain = chain(&configuration.diff_ids);
        let _pins = self.pin(&chain)?;
        progress.step(Step::Layers(layers.iter().map(|l| (label(l, &chain), l.size)).collect()));
        for (at, layer) in layers.iter().enumerate() {
            self.layer(&chain[..=at], &configuration.diff_ids[at], layer.digest.as_deref(), &layer.open)?;
            progress.step(Step::Unpacked { layer: label(layer, &chain) });
        }
        self.record(configuration.id, configuration.config, chain, (tags, digests), &Origin::imported())
    }

    /// Whether a layer is there already, whole.
    pub(crate) fn has_layer(&self, name: &str) -> bool {
        self.layers.has(name)
    }

    /// Keeps layers from being collected until the answer is dropped.
    pub(crate) fn pin(&self, layers: &[String]) -> Result<Pins> {
        self.layers.pin(layers)
    }

    /// Unpacks the last one of a chain of layers, unless it is there. `digest` is compared when it is given.
    pub(crate) fn layer(&self, chain: &[String], diff_id: &str, digest: Option<&str>, open: &dyn Fn() -> Result<Section>) -> Result<()> {
        let Some((name, lower)) = chain.split_last() else { return Ok(()) };
        self.make_layer(name, |work| {
            let what = format!("layer {}", digest.unwrap_or(diff_id));
            let Section { file, at, end } = open()?;
            let job = unpack::Job {
                layers: self.layers.dir.clone(),
                lower: lower.to_vec(),
                work: work.to_owned(),
                at,
                end,
                digest: digest.map(str::to_owned),
                diff_id: diff_id.to_owned(),
                what: what.clone(),
            };
            self.helper.layer(job, &file, &what)
        })
    }

    /// Makes a layer, unless it is there. An image that was written down before it lost this layer (a crash, an administrator) is
    /// one again then, though nothing of its record changes: whoever has looked at the records looks again.
    pub(crate) fn make_layer(&self, name: &str, make: impl FnOnce(&str) -> Result<u64>) -> Result<()> {
        let mut made = false;
        self.layers.make(name, |work| {
            made = true;
            make(work)
        })?;
        if made {
            fs::File::open(&self.dir).and_then(|dir| dir.set_modified(SystemTime::now())).at("cannot touch", &self.dir)?;
        }
        Ok(())
    }

    /// Writes down an image whose layers are there; from now on it exists. Names that others had become its own, and how it came is
    /// added to how it had come before. What says nothing new is not written.
    pub(crate) fn record(
        &self,
        id: String,
        config: ImageConfig,
        layers: Vec<String>,
        (tags, digests): (Vec<String>, Vec<String>),
        origin: &Origin,
    ) -> Result<Image> {
        let _lock = self.layers.locked().at("cannot lock", &self.dir)?;
        if let Some(gone) = layers.iter().find(|l| !self.layers.has(l)) {
            return Err(Error::State(format!("layer {gone} of the image was removed meanwhile")));
        }
        let known = self.read();
        let old = known.get(&id).cloned().unwrap_or_default();
        let size = layers.iter().map(|l| self.layers.size(l)).sum();
        let origin = old.origin.as_ref().map_or_else(|| origin.clone(), |o| o.and(origin));
        let mut image = Image { id: id.clone(), size, config, layers, origin: Some(origin), ..old.clone() };
        for (new, list) in [(&tags, &mut image.repo_tags), (&digests, &mut image.repo_digests)] {
            list.extend(new.iter().filter(|n| !list.contains(n)).cloned().collect::<Vec<_>>());
        }
        if image != old {
            self.write(&image)?;
        }
        for mut loser in known.into_values().filter(|i| i.id != id && i.repo_tags.iter().any(|t| tags.contains(t))) {
            loser.repo_tags.retain(|t| !tags.contains(t));
            self.write(&loser)?;
        }
        Ok(image)
    }

    /// Says how those images came that were written down without it.
    pub(crate) fn settle_origins(&self, origin: &dyn Fn(&Image) -> Origin) -> Result<()> {
        let _lock = self.layers.locked().at("cannot lock", &self.dir)?;
        for mut image in files_in(&self.dir).filter(|image| image.origin.is_none()).collect::<Vec<_>>() {
            image.origin = Some(origin(&image));
            self.write(&image)?;
        }
        Ok(())
    }

    fn file(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{}.json", id.trim_start_matches("sha256:")))
    }

    fn write(&self, image: &Image) -> Result<()> {
        let path = self.file(&image.id);
        let bytes = serde_json::to_vec(image).map_err(|e| Error::Invalid(e.to_string()))?;
        layers::write_durably(&path, &bytes).at("cannot write", &path)
    }

    // ---- removing

    /// Takes a name away, or by its id the whole image, then the layers that nobody needs. `used` answers what containers
    /// are made of.
    pub(crate) fn remove(&self, name: &str, used: &dyn Fn() -> std::io::Result<HashSet<String>>) -> Result<()> {
        let lock = self.layers.locked().at("cannot lock", &self.dir)?;
        let known = Known { images: self.read(), changed: None };
        let mut image = known.find(name).ok_or_else(|| Error::NotFound { kind: "image", name: name.to_owned() })?;
        let whole = image.id.trim_start_matches("sha256:") == name.trim_start_matches("sha256:");
        let full = full_name(name).unwrap_or_default();
        let tagged = image.repo_tags.contains(&full);
        image.repo_tags.retain(|t| *t != full);
        image.repo_digests.retain(|d| *d != full);
        let last = image.repo_tags.is_empty() && (tagged || image.repo_digests.is_empty());
        if whole || last {
            let path = self.file(&image.id);
            let removed = fs::remove_file(&path).and_then(|()| layers::sync_dir(&self.dir));
            removed.at("cannot remove", &path)?;
        } else {
            self.write(&image)?;
        }
        drop(lock);
        self.collect(used);
        Ok(())
    }

    /// Removes layers that neither an image nor a container uses, and what was left unfinished. What goes is decided and
    /// renamed under the lock, and removed without it: that may take minutes.
    pub(crate) fn collect(&self, used: &dyn Fn() -> std::io::Result<HashSet<String>>) {
        let decide = || -> std::io::Result<()> {
            let _lock = self.layers.locked()?;
            let mut needed: HashSet<String> = files_in(&self.dir).flat_map(|image| image.layers).collect();
            needed.extend(used()?);
            self.layers.set_aside_all_but(&needed)
        };
        if let Err(e) = decide() {
            tracing::warn!(error = %e, "layers that nobody needs were not all found");
        }
        self.layers.remove_set_aside();
        self.sweep();
    }

    /// Removes blobs that no pull will go on with.
    pub(crate) fn sweep(&self) {
        ingest::sweep(&self.layers.ingest);
    }
}

impl Known {
    fn find(&self, name: &str) -> Option<Image> {
        if let Some(image) = self.images.get(name) {
            return Some(image.clone());
        }
        if reference::is_hex(name) {
            return self.images.get(&format!("sha256:{name}")).cloned();
        }
        let wanted = full_name(name).ok()?;
        self.images.values().find(|i| i.repo_tags.contains(&wanted) || i.repo_digests.contains(&wanted)).cloned()
    }
}

/// The images that a directory's files describe. One that cannot be read, as a power cut left it, is none.
fn files_in(dir: &Path) -> impl Iterator<Item = Image> {
    let files = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    files.filter(|path| path.extension().is_some_and(|e| e == "json")).filter_map(|path| files::read_json(&path))
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
