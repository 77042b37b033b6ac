//! Fetching images from registries, by the OCI distribution specification and Docker's second schema.
//!
//! Everything that arrives is compared with its digest before it counts. Layers come three at a time into files, from where
//! a broken transfer goes on, also one of a former pull; they are unpacked in order while later ones still come.

mod config;
mod http;
mod session;

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use sha2::{Digest, Sha256};
use tokio_util::task::AbortOnDropHandle;

pub(crate) use self::config::Registries;
use self::session::{Session, read};
use crate::error::{Context, Error, Result};
use crate::images::manifest::{self, ACCEPTED, Descriptor, Index, Manifest};
use crate::images::reference::Reference;
use crate::images::unpack::hex;
use crate::images::{self, Images, Layer};
use crate::types::{Credentials, Image, Progress, Step};

/// Manifests and configurations are read into memory up to this size, as containerd limits them.
const DOCUMENT_BYTES_MAX: usize = 8 << 20;
/// Transfers at a time, as containerd and Docker do.
const TRANSFERS: usize = 3;
/// Tries for one layer, each going on where the one before broke off.
const ATTEMPTS: u32 = 5;
/// Doubles from try to try.
const FIRST_PAUSE: Duration = Duration::from_millis(300);
/// A transfer that brings nothing for so long has broken.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Progress is told in steps of this size.
const TOLD_BYTES: u64 = 256 << 10;

/// Fetches an image from the first server that has it.
pub(crate) async fn pull(
    images: &Arc<Images>,
    registries: &Registries,
    reference: &Reference,
    credentials: Option<Credentials>,
    progress: Arc<dyn Progress>,
) -> Result<Image> {
    let name = reference.tagged().unwrap_or_else(|| reference.digested(reference.version()));
    let mut last = Error::NotFound { kind: "image", name: name.clone() };
    for endpoint in registries.endpoints(reference, credentials.as_ref()) {
        let session = Arc::new(Session::new(endpoint, &reference.repository));
        match from(images, &session, reference, &progress).await {
            Ok(image) => return Ok(image),
            Err(e) => {
                tracing::debug!(image = name, server = session.base, error = %e, "not from here");
                last = e;
            }
        }
    }
    Err(explain(&name, last))
}

/// In the words by which users know the well-known runtimes' failures.
fn explain(name: &str, e: Error) -> Error {
    let before = format!("failed to pull and unpack image {name:?}: ");
    match e {
        Error::Registry { code: 404, .. } => Error::Registry { code: 404, message: format!("{before}failed to resolve reference {name:?}: {name}: not found") },
        Error::Registry { code: code @ (401 | 403), message } => {
            let repository = name.rsplit_once([':', '@']).map_or(name, |(repository, _)| repository);
            let text = format!(
                "{before}failed to resolve reference {name:?}: pull access denied for {repository}, repository does not exist or may \
                 require authorization: {message}"
            );
            Error::Registry { code, message: text }
        }
        Error::Registry { code, message } => Error::Registry { code, message: format!("{before}{message}") },
        Error::Image(message) => Error::Image(format!("{before}{message}")),
        other => other,
    }
}

async fn from(images: &Arc<Images>, session: &Arc<Session>, reference: &Reference, progress: &Arc<dyn Progress>) -> Result<Image> {
    let (bytes, media_type) = document(session, "manifests", reference.version()).await?;
    if let Some(digest) = &reference.digest {
        manifest::check_digest(&bytes, digest)?;
    }
    let digest = manifest::digest_of(&bytes);
    let manifest = choose(session, bytes, &media_type).await?;
    let (config, _) = document(session, "blobs", &manifest.config.digest).await?;
    manifest::check_digest(&config, &manifest.config.digest)?;
    let configuration = manifest::configuration(&config)?;
    images::check_count(manifest.layers.len(), configuration.diff_ids.len())?;
    let chain = images::chain(&configuration.diff_ids);
    let _pins = images.pin(&chain);
    progress.step(Step::Layers(manifest.layers.iter().map(|l| (l.digest.clone(), l.size)).collect()));
    let places = Arc::new(tokio::sync::Semaphore::new(TRANSFERS));
    let mut coming = Vec::new();
    for (descriptor, name) in manifest.layers.iter().zip(&chain) {
        let task = fetch(Arc::clone(images), Arc::clone(session), descriptor.clone(), name.clone(), Arc::clone(progress), Arc::clone(&places));
        coming.push(AbortOnDropHandle::new(tokio::spawn(task)));
    }
    for (at, task) in coming.into_iter().enumerate() {
        let file = task.await.map_err(|e| Error::Image(format!("a transfer failed: {e}")))??;
        let (images, chain, diff_id) = (Arc::clone(images), chain[..=at].to_vec(), configuration.diff_ids[at].clone());
        let digest = manifest.layers[at].digest.clone();
        if let Some(file) = file {
            let unpack = move || unpack(&images, &chain, &diff_id, &digest, file);
            tokio::task::spawn_blocking(unpack).await.map_err(|e| Error::Image(format!("an unpacking failed: {e}")))??;
        }
        progress.step(Step::Unpacked { layer: manifest.layers[at].digest.clone() });
    }
    let tags = reference.tagged().into_iter().collect();
    let digests = vec![reference.digested(&digest)];
    let images = Arc::clone(images);
    let record = move || images.record(configuration.id, configuration.config, chain, tags, digests);
    tokio::task::spawn_blocking(record).await.map_err(|e| Error::Image(format!("recording failed: {e}")))?
}

/// The manifest for this machine.
async fn choose(session: &Session, bytes: Vec<u8>, media_type: &str) -> Result<Manifest> {
    if media_type.contains("manifest.v1+") && media_type.contains("docker") {
        return Err(Error::Image("the registry has the image in Docker's first schema only, which is not supported".to_owned()));
    }
    if !manifest::is_index(&bytes, media_type) {
        return manifest::read(&bytes, "the manifest");
    }
    let index: Index = manifest::read(&bytes, "the index")?;
    let chosen = index
        .choose()
        .ok_or_else(|| Error::Image(format!("no match for platform in manifest: the image is not made for linux/{}", manifest::architecture())))?;
    let (bytes, _) = document(session, "manifests", &chosen.digest).await?;
    manifest::check_digest(&bytes, &chosen.digest)?;
    manifest::read(&bytes, "the manifest")
}

/// A small document and its media type. Tried again when the server stumbles.
async fn document(session: &Session, kind: &str, version: &str) -> Result<(Vec<u8>, String)> {
    let url = session.url(kind, version);
    let mut headers = HeaderMap::new();
    for accepted in ACCEPTED {
        headers.append(header::ACCEPT, HeaderValue::from_static(accepted));
    }
    headers.append(header::ACCEPT, HeaderValue::from_static("*/*"));
    let mut pause = FIRST_PAUSE;
    loop {
        let response = session.get(&url, headers.clone()).await?;
        let status = response.status();
        if (status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS) && pause < FIRST_PAUSE * 4 {
            tokio::time::sleep(pause).await;
            pause *= 2;
            continue;
        }
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
        let kind = kind.split(';').next().unwrap_or("").trim().to_owned();
        let body = read(response, DOCUMENT_BYTES_MAX).await.map_err(|e| Error::Image(format!("{url}: {e}")))?;
        if !status.is_success() {
            return Err(refused(&url, status, &body));
        }
        return Ok((body.to_vec(), kind));
    }
}

fn refused(url: &str, status: StatusCode, body: &[u8]) -> Error {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<One>,
    }
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(default)]
        message: String,
    }
    let told = serde_json::from_slice::<Errors>(body).ok().and_then(|e| e.errors.into_iter().map(|o| o.message).find(|m| !m.is_empty()));
    let message = match (status.as_u16(), told) {
        (401 | 403, told) => format!("server message: {}", told.unwrap_or_else(|| "insufficient_scope: authorization failed".to_owned())),
        (_, told) => {
            format!("unexpected status from GET request to {url}: {status}{}", told.map(|t| format!(": {t}")).unwrap_or_default())
        }
    };
    Error::Registry { code: status.as_u16(), message }
}

/// A blob that is here as a whole. It stays readable when another pull, which wanted it too, has removed its name.
struct Fetched {
    file: std::fs::File,
    path: PathBuf,
}

/// Brings a layer's blob; nothing when the layer is there.
async fn fetch(
    images: Arc<Images>,
    session: Arc<Session>,
    layer: Descriptor,
    name: String,
    progress: Arc<dyn Progress>,
    places: Arc<tokio::sync::Semaphore>,
) -> Result<Option<Fetched>> {
    let turn = images.transfer(&layer.digest);
    let _turn = turn.lock().await;
    let _place = places.acquire().await.map_err(|e| Error::Image(e.to_string()))?;
    if images.has_layer(&name) {
        return Ok(None);
    }
    let Some(hex_digest) = layer.digest.strip_prefix("sha256:").filter(|h| images::reference::is_hex(h)) else {
        return Err(Error::Image(format!("{:?} is no digest", layer.digest)));
    };
    let path = images.ingest_dir().join(hex_digest);
    let url = session.url("blobs", &layer.digest);
    let mut pause = FIRST_PAUSE;
    for attempt in 1.. {
        match transfer(&session, &url, &layer, &path, &*progress).await {
            Ok(()) => break,
            Err(e @ Error::Registry { code: 400..=499, .. }) => return Err(e),
            Err(e) if attempt >= ATTEMPTS || matches!(e, Error::Io { .. }) => return Err(e),
            Err(e) => tracing::debug!(layer = layer.digest, error = %e, "goes on after a pause"),
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    let file = std::fs::File::open(&path).at("cannot read", &path)?;
    Ok(Some(Fetched { file, path }))
}

/// Reads on from where the file ends.
async fn transfer(session: &Session, url: &str, layer: &Descriptor, path: &Path, progress: &dyn Progress) -> Result<()> {
    let mut file = std::fs::File::options().create(true).append(true).open(path).at("cannot write", path)?;
    let mut have = file.metadata().at("cannot look at", path)?.len();
    if layer.size > 0 && have >= layer.size {
        if have > layer.size {
            file.set_len(0).at("cannot shorten", path)?;
        } else {
            return Ok(());
        }
        have = 0;
    }
    let mut headers = HeaderMap::new();
    if have > 0
        && let Ok(range) = HeaderValue::from_str(&format!("bytes={have}-"))
    {
        headers.insert(header::RANGE, range);
    }
    let response = session.get(url, headers).await?;
    match response.status() {
        StatusCode::PARTIAL_CONTENT => {}
        StatusCode::OK => {
            file.set_len(0).at("cannot shorten", path)?;
            have = 0;
        }
        StatusCode::RANGE_NOT_SATISFIABLE => {
            file.set_len(0).at("cannot shorten", path)?;
            return Err(Error::Image(format!("{url}: the transfer cannot be gone on with")));
        }
        status => {
            let body = read(response, DOCUMENT_BYTES_MAX).await.unwrap_or_default();
            return Err(refused(url, status, &body));
        }
    }
    let mut body = response.into_body();
    let mut told = have;
    loop {
        let frame = tokio::time::timeout(SILENCE_MAX, body.frame()).await;
        let frame = frame.map_err(|_| Error::Image(format!("{url}: nothing comes any more")))?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|e| Error::Image(format!("{url}: {e}")))?;
        let Some(data) = frame.data_ref() else { continue };
        // Some kilobytes into the page cache: not worth a thread's change.
        file.write_all(data).at("cannot write", path)?;
        have += data.len() as u64;
        if layer.size > 0 && have > layer.size {
            file.set_len(0).at("cannot shorten", path)?;
            return Err(Error::Image(format!("{} is longer than its manifest says", layer.digest)));
        }
        if have - told >= TOLD_BYTES {
            told = have;
            progress.step(Step::Fetched { layer: layer.digest.clone(), bytes: have });
        }
    }
    if layer.size > 0 && have < layer.size {
        return Err(Error::Image(format!("{url}: the connection broke off: unexpected EOF")));
    }
    progress.step(Step::Fetched { layer: layer.digest.clone(), bytes: have });
    Ok(())
}

/// Compares the whole blob first, so that no byte of a liar is unpacked; the file goes in any case.
fn unpack(images: &Images, chain: &[String], diff_id: &str, digest: &str, fetched: Fetched) -> Result<()> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", fetched.file.as_raw_fd()));
    let checked = || -> Result<()> {
        let found = file_digest(&path).at("cannot read", &path)?;
        if found != digest {
            return Err(Error::Image(format!("layer {digest} is not what its digest says: found {found}")));
        }
        let open = || -> Result<Box<dyn Read + Send>> { Ok(Box::new(std::fs::File::open(&path).at("cannot read", &path)?)) };
        let size = std::fs::metadata(&path).map_or(0, |m| m.len());
        images.layer(chain, diff_id, &Layer { digest: None, size, open: Box::new(open) })
    };
    let done = checked();
    let _ = std::fs::remove_file(&fetched.path);
    done
}

fn file_digest(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 256 << 10]);
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(format!("sha256:{}", hex(&hash.finalize())));
        }
        hash.update(&buffer[..n]);
    }
}
