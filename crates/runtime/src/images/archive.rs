//! Images in files: OCI layouts (directory or tar) and what `docker save` writes.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::manifest::{self, Descriptor, Index, Manifest};
use super::reference::{self, Reference};
use super::unpack::{Hashing, decompressed};
use super::{Images, Layer};
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
    Tar { file: Arc<File>, files: HashMap<String, (u64, u64)>, links: HashMap<String, String> },
}

/// A part of a file.
struct Section {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = (self.end - self.at).min(buffer.len() as u64) as usize;
        let n = self.file.read_at(&mut buffer[..room], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Archive {
    fn open(path: &Path, scratch: &Path) -> Result<Archive> {
        let meta = fs::metadata(path).at("cannot open image archive", path)?;
        if meta.is_dir() {
            return Ok(Archive::Directory(path.to_owned()));
        }
        let file = File::open(path).at("cannot open image archive", path)?;
        let mut magic = [0; 4];
        let n = file.read_at(&mut magic, 0).at("cannot read", path)?;
        let packed = magic[..n].starts_with(&[0x1f, 0x8b]) || magic == [0x28, 0xb5, 0x2f, 0xfd];
        let file = if packed { expand(file, scratch).at("cannot decompress", path)? } else { file };
        let (file, mut files, mut links) = (Arc::new(file), HashMap::new(), HashMap::new());
        let length = file.metadata().at("cannot read", path)?.len();
        let reader = io::BufReader::with_capacity(64 * 1024, Section { file: Arc::clone(&file), at: 0, end: length });
        let bad = |e: io::Error| Error::Image(format!("{} is no tar archive: {e}", path.display()));
        let mut tar = tar::Archive::new(reader);
        for entry in tar.entries().map_err(bad)? {
            let entry = entry.map_err(bad)?;
            let name = normal(&entry.path().map_err(bad)?.to_string_lossy());
            let kind = entry.header().entry_type();
            if kind.is_file() || kind.is_contiguous() {
                files.insert(name, (entry.raw_file_position(), entry.size()));
            } else if let (true, Ok(Some(target))) = (kind.is_symlink() || kind.is_hard_link(), entry.link_name()) {
                let target = target.to_string_lossy().into_owned();
                let base = if kind.is_symlink() { name.rsplit_once('/').map_or("", |(dir, _)| dir) } else { "" };
                links.insert(name.clone(), normal(&format!("{base}/{target}")));
            }
        }
        Ok(Archive::Tar { file, files, links })
    }

    fn reader(&self, name: &str) -> Result<Box<dyn Read + Send>> {
        let missing = || Error::Image(format!("the image archive has no {name:?}"));
        let mut name = normal(name);
        match self {
            Archive::Directory(dir) => {
                let path = dir.join(&name);
                Ok(Box::new(File::open(&path).map_err(|_| missing())?))
            }
            Archive::Tar { file, files, links } => {
                for _ in 0..LINKS_MAX {
                    match links.get(&name) {
                        Some(target) => name.clone_from(target),
                        None => break,
                    }
                }
                let &(at, size) = files.get(&name).ok_or_else(missing)?;
                Ok(Box::new(Section { file: Arc::clone(file), at, end: at + size }))
            }
        }
    }

    fn document(&self, name: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.reader(name)?.take(DOCUMENT_BYTES_MAX + 1).read_to_end(&mut bytes).context(&format!("cannot read {name}"))?;
        if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
            return Err(Error::Image(format!("{name} is too big")));
        }
        Ok(bytes)
    }

    fn has(&self, name: &str) -> bool {
        self.reader(name).is_ok()
    }

    /// A blob of an OCI layout, compared with its digest.
    fn blob(&self, digest: &str) -> Result<Vec<u8>> {
        let bytes = self.document(&blob_path(digest)?)?;
        manifest::check_digest(&bytes, digest)?;
        Ok(bytes)
    }
}

/// The file with its content, decompressed, which no directory names.
fn expand(file: File, scratch: &Path) -> io::Result<File> {
    let path = scratch.join(format!("expanded-{}", std::process::id()));
    let mut out = File::options().read(true).write(true).create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    io::copy(&mut decompressed(file)?, &mut out)?;
    Ok(out)
}

fn blob_path(digest: &str) -> Result<String> {
    let hex = digest.strip_prefix("sha256:").filter(|h| reference::is_hex(h));
    hex.map(|h| format!("blobs/sha256/{h}")).ok_or_else(|| Error::Image(format!("{digest:?} is no digest")))
}

/// Without `.` and empty parts; `..` takes one away.
fn normal(name: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
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
    let archive = Archive::open(path, &images.ingest_dir())?;
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
        let open = move || archive.reader(&path);
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
            Layer { digest: None, size: 0, open: Box::new(move || archive.reader(&path)) }
        });
        images.store(&config, layers.collect(), tags, Vec::new(), progress)
    };
    saved.iter().map(one).collect()
}

/// A reader of a layer's tar; the blob's own digest is compared when all of it has passed.
pub(super) fn checked_tar<'a>(layer: &Layer<'a>) -> Result<Box<dyn Read + Send + 'a>> {
    let raw = (layer.open)()?;
    let Some(digest) = layer.digest.clone() else {
        return Ok(Box::new(Plain(raw)));
    };
    Ok(Box::new(Checked { raw: Some(Hashing::new(raw)), digest }))
}

struct Plain(Box<dyn Read + Send>);

impl Read for Plain {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

/// Fails at its end if what passed is not what the digest says.
struct Checked {
    raw: Option<Hashing<Box<dyn Read + Send>>>,
    digest: String,
}

impl Read for Checked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(raw) = &mut self.raw else { return Ok(0) };
        let n = raw.read(buffer)?;
        if n == 0
            && !buffer.is_empty()
            && let Some(raw) = self.raw.take()
        {
            raw.finish(&self.digest, "the layer").map_err(io::Error::other)?;
        }
        Ok(n)
    }
}
