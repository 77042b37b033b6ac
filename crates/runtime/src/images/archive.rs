//! Images in files: OCI layouts (directory or tar) and what `docker save` writes. What a tar has is found out by the helper
//! ([`super::helper`]); here its documents are read, and its layers' places handed on.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::index::{Index as Members, normal};
use super::manifest::{self, Descriptor, Index, Manifest};
use super::reference::{self, Reference};
use super::unpack::Section;
use super::{EMPTY_LAYER, Images, Layer, random_name};
use crate::error::{Context, Error, Result};
use crate::types::{Image, Progress};

/// Indexes, manifests and configurations are read into memory up to this size, as containerd limits them.
pub(crate) const DOCUMENT_BYTES_MAX: u64 = 8 << 20;
/// Indexes within indexes are followed this far.
const NESTING_MAX: usize = 4;
/// Links within an archive are followed this far.
const LINKS_MAX: usize = 8;

/// Files by name, wherever they are.
enum Archive {
    Directory(PathBuf),
    Tar { file: File, members: Members },
}

impl Archive {
    fn open(images: &Images, path: &Path) -> Result<Archive> {
        let meta = fs::metadata(path).at("cannot open image archive", path)?;
        if meta.is_dir() {
            return Ok(Archive::Directory(path.to_owned()));
        }
        let file = File::open(path).at("cannot open image archive", path)?;
        let expanded = nameless(&images.layers.ingest)?;
        let what = path.display().to_string();
        let members = images.helper.index(&images.layers.dir.join(EMPTY_LAYER), &file, &expanded, &what);
        let members = members.map_err(|e| match e {
            Error::Image(text) if !text.starts_with(&what) => Error::Image(format!("{what}: {text}")),
            e => e,
        })?;
        Ok(Archive::Tar { file: if members.expanded { expanded } else { file }, members })
    }

    fn section(&self, name: &str) -> Result<Section> {
        let missing = || Error::Image(format!("the image archive has no {name:?}"));
        let mut name = normal(name);
        match self {
            Archive::Directory(dir) => {
                let path = dir.join(&name);
                // Not waiting for the other end, should it be a pipe.
                let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path).map_err(|_| missing())?;
                let meta = file.metadata().ok().filter(fs::Metadata::is_file).ok_or_else(missing)?;
                Ok(Section { file, at: 0, end: meta.len() })
            }
            Archive::Tar { file, members } => {
                for _ in 0..LINKS_MAX {
                    match members.links.get(&name) {
                        Some(target) => name.clone_from(target),
                        None => break,
                    }
                }
                let &(at, size) = members.files.get(&name).ok_or_else(missing)?;
                Ok(Section { file: file.try_clone().context("cannot read the archive")?, at, end: at.saturating_add(size) })
            }
        }
    }

    fn document(&self, name: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.section(name)?.take(DOCUMENT_BYTES_MAX + 1).read_to_end(&mut bytes).context(&format!("cannot read {name}"))?;
        if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
            return Err(Error::Image(format!("{name} is too big")));
        }
        Ok(bytes)
    }

    fn has(&self, name: &str) -> bool {
        self.section(name).is_ok()
    }

    /// A blob of an OCI layout, compared with its digest.
    fn blob(&self, digest: &str) -> Result<Vec<u8>> {
        let bytes = self.document(&blob_path(digest)?)?;
        manifest::check_digest(&bytes, digest)?;
        Ok(bytes)
    }
}

/// How the names begin that files have for a moment which are to have none.
pub(super) const EXPANDED: &str = ".expanded-";

/// A file that no directory names: it goes with its last descriptor, also after a crash.
fn nameless(dir: &Path) -> Result<File> {
    let path = dir.join(format!("{EXPANDED}{}", random_name()?));
    let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path).at("cannot make", &path)?;
    let removed = fs::remove_file(&path);
    // Who sweeps may be quicker.
    if !removed.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        removed.at("cannot remove", &path)?;
    }
    Ok(file)
}

fn blob_path(digest: &str) -> Result<String> {
    let hex = digest.strip_prefix("sha256:").filter(|h| reference::is_hex(h));
    hex.map(|h| format!("blobs/sha256/{h}")).ok_or_else(|| Error::Image(format!("{digest:?} is no digest")))
}

/// An entry of docker's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Imports every image of an archive.
pub(super) fn import(images: &Images, path: &Path, progress: &dyn Progress) -> Result<Vec<Image>> {
    let archive = Archive::open(images, path)?;
    if archive.has("index.json") {
        return import_layout(images, &archive, progress);
    }
    if archive.has("manifest.json") {
        return import_saved(images, &archive, progress);
    }
    let what = path.display();
    Err(Error::Image(format!("{what} is no image archive: it has neither index.json (OCI) nor manifest.json (docker save)")))
}

fn import_layout(images: &Images, archive: &Archive, progress: &dyn Progress) -> Result<Vec<Image>> {
    let index: Index = manifest::read(&archive.document("index.json")?, "index.json")?;
    let mut list: Vec<Image> = Vec::new();
    for descriptor in &index.manifests {
        let Some((manifest, digest)) = resolve(archive, descriptor, 0)? else { continue };
        let image = import_one(images, archive, descriptor, &manifest, &digest, progress)?;
        // One image under two names is one image.
        list.retain(|i| i.id != image.id);
        list.push(image);
    }
    if list.is_empty() {
        return Err(Error::Image("the archive has no image for this machine's architecture".to_owned()));
    }
    Ok(list)
}

/// The manifest for this machine, through indexes; none if there is none for it.
fn resolve(archive: &Archive, descriptor: &Descriptor, depth: usize) -> Result<Option<(Manifest, String)>> {
    let bytes = archive.blob(&descriptor.digest)?;
    if !manifest::is_index(&bytes, &descriptor.media_type) {
        let manifest: Manifest = manifest::read(&bytes, &descriptor.digest)?;
        return Ok(manifest.is_image().then(|| (manifest, descriptor.digest.clone())));
    }
    if depth >= NESTING_MAX {
        return Err(Error::Image("indexes within indexes go too deep".to_owned()));
    }
    let index: Index = manifest::read(&bytes, &descriptor.digest)?;
    match index.choose() {
        Some(chosen) => resolve(archive, chosen, depth + 1),
        None => Ok(None),
    }
}

fn import_one(images: &Images, archive: &Archive, descriptor: &Descriptor, manifest: &Manifest, digest: &str, progress: &dyn Progress) -> Result<Image> {
    let config = archive.blob(&manifest.config.digest)?;
    let annotation = |key: &str| descriptor.annotations.get(key).filter(|v| !v.is_empty());
    let name = annotation("io.containerd.image.name").or_else(|| annotation("org.opencontainers.image.ref.name"));
    let reference = name.map(|n| Reference::parse(n)).transpose()?;
    let tags = reference.iter().filter_map(Reference::tagged).collect();
    let digests = reference.iter().map(|r| r.digested(digest)).collect();
    let layers = manifest.layers.iter().map(|layer| {
        let path = blob_path(&layer.digest)?;
        let open = move || archive.section(&path);
        Ok(Layer { digest: Some(layer.digest.clone()), size: layer.size, open: Box::new(open) })
    });
    images.store(&config, layers.collect::<Result<_>>()?, tags, digests, progress)
}

fn import_saved(images: &Images, archive: &Archive, progress: &dyn Progress) -> Result<Vec<Image>> {
    let saved: Vec<Saved> = manifest::read(&archive.document("manifest.json")?, "manifest.json")?;
    let one = |image: &Saved| {
        let config = archive.document(&image.config)?;
        let names = image.repo_tags.iter().flatten().map(|t| Reference::parse(t)).collect::<Result<Vec<_>>>()?;
        let tags = names.iter().filter_map(Reference::tagged).collect();
        let layers = image.layers.iter().map(|path| {
            let path = path.clone();
            Layer { digest: None, size: 0, open: Box::new(move || archive.section(&path)) }
        });
        images.store(&config, layers.collect(), tags, Vec::new(), progress)
    };
    saved.iter().map(one).collect()
}
