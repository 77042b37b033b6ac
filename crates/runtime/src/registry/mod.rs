//! Fetching images from registries, by the OCI distribution specification and Docker's second schema.
//!
//! Everything that arrives is compared with its digest before it counts. Layers come three at a time into files, from where
//! a broken transfer goes on, also one of a former pull; they are unpacked in order while later ones still come. Whether
//! there is anything to fetch is asked by HEAD first: that costs the registry nothing, and nobody's quota.

mod blob;
pub(crate) mod config;
mod http;
mod proxy;
mod session;

use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use hyper::body::Incoming;
use tokio_util::task::AbortOnDropHandle;

use self::config::Registries;
use self::http::{Http, read};
use self::session::Session;
use crate::error::{Error, Result};
use crate::images::manifest::{self, ACCEPTED, Configuration, Descriptor, Index, Manifest};
use crate::images::reference::{self, Reference};
use crate::images::{self, Images, Pins};
use crate::types::{Credentials, Image, Origin, Progress, Step};

/// Manifests and configurations are read into memory up to this size, as containerd limits them.
const DOCUMENT_BYTES_MAX: usize = 8 << 20;
/// Transfers at a time, as containerd and Docker do.
const TRANSFERS: usize = 3;
/// Tries for a document.
const DOCUMENT_TRIES: u32 = 3;
/// Tries for one layer, each going on where the one before broke off.
const BLOB_TRIES: u32 = 5;
/// Doubles from try to try.
const FIRST_PAUSE: Duration = Duration::from_millis(300);
/// What a server asks to wait is waited up to this; then it is for the kubelet to try again.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(20);

impl Images {
    /// Fetches an image; those who want the same wait for one fetch after the other.
    pub(crate) async fn pull(self: &Arc<Self>, name: &str, credentials: Option<Credentials>, progress: Arc<dyn Progress>) -> Result<Image> {
        let reference = Reference::parse(name)?;
        let full = reference.tagged().unwrap_or_else(|| reference.digested(reference.version()));
        let turn = Arc::clone(self.pulls.lock().entry(full.clone()).or_default());
        let done = {
            let _turn = turn.lock().await;
            pull(self, &self.registries, &reference, credentials, progress).await
        };
        let mut pulls = self.pulls.lock();
        if Arc::strong_count(&turn) == 2 {
            pulls.remove(&full);
        }
        done
    }
}

/// Fetches an image from the first server that has it.
async fn pull(
    images: &Arc<Images>,
    registries: &Registries,
    reference: &Reference,
    credentials: Option<Credentials>,
    progress: Arc<dyn Progress>,
) -> Result<Image> {
    let name = reference.tagged().unwrap_or_else(|| reference.digested(reference.version()));
    let mut last = Error::NotFound { kind: "image", name: name.clone() };
    let origin = Origin::pulled(credentials.as_ref());
    for endpoint in registries.endpoints(reference, credentials.as_ref()) {
        let http = Http::new(registries.tls(reference), registries.proxies.clone(), registries.network.clone());
        let session = Arc::new(Session::new(endpoint, http));
        match from(images, &session, (reference, &origin), &progress).await {
            Ok(image) => return Ok(image),
            Err(e) => {
                tracing::debug!(image = name, server = session.base, error = %e, "not from here");
                last = e;
            }
        }
    }
    Err(explain(&name, last))
}

/// In the words by which users know the well-known runtimes' failures (containerd's since 2.1, which resolves a name first).
fn explain(name: &str, e: Error) -> Error {
    let before = format!("failed to pull and unpack image {name:?}: ");
    let unresolved = format!("{before}failed to resolve image: ");
    match e {
        Error::Registry { code: 404, .. } => Error::Registry { code: 404, message: format!("{unresolved}{name}: not found") },
        Error::Registry { code: code @ (401 | 403), message } => {
            let text = format!("{unresolved}pull access denied, repository does not exist or may require authorization: {message}");
            Error::Registry { code, message: text }
        }
        Error::Registry { code, message } => Error::Registry { code, message: format!("{before}{message}") },
        // Of what is asked by HEAD only the name's digest is wanted.
        Error::Image(message) if message.starts_with("failed to do request: Head ") => Error::Image(format!("{unresolved}{message}")),
        Error::Image(message) => Error::Image(format!("{before}{message}")),
        other => other,
    }
}

async fn from(images: &Arc<Images>, session: &Arc<Session>, (reference, origin): (&Reference, &Origin), progress: &Arc<dyn Progress>) -> Result<Image> {
    if let Some(image) = unchanged(images, session, reference, origin).await? {
        return Ok(image);
    }
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
    let (this, names) = (Arc::clone(images), chain.clone());
    let pins = blocking(move || {
        this.sweep();
        this.pin(&names).map(Arc::new)
    });
    let pins = pins.await?;
    progress.step(Step::Layers(manifest.layers.iter().map(|l| (l.digest.clone(), l.size)).collect()));
    bring(images, session, &manifest.layers, &configuration, &chain, &pins, progress).await?;
    let tags = reference.tagged().into_iter().collect();
    let digests = vec![reference.digested(&digest)];
    record(images, pins, configuration, chain, (tags, digests), origin).await
}

/// The image, when the registry says by a digest alone that it is one that is here under this name.
async fn unchanged(images: &Arc<Images>, session: &Session, reference: &Reference, origin: &Origin) -> Result<Option<Image>> {
    let url = session.url("manifests", reference.version());
    let response = session.ask(Method::HEAD, &url, accepting()).await?;
    let digest = response.headers().get("docker-content-digest").and_then(|v| v.to_str().ok());
    // Whatever else it answers, the same question by GET will tell.
    let Some(digest) = digest.filter(|d| response.status().is_success() && reference::is_digest(d)) else { return Ok(None) };
    if reference.digest.as_deref().is_some_and(|wanted| wanted != digest) {
        return Ok(None);
    }
    let name = reference.digested(digest);
    let Some(image) = images.find(&name).filter(|image| image.repo_digests.contains(&name)) else { return Ok(None) };
    let tags: Vec<String> = reference.tagged().into_iter().collect();
    let known = image.origin.as_ref().is_some_and(|o| o.and(origin) == *o);
    if known && tags.iter().all(|tag| image.repo_tags.contains(tag)) {
        return Ok(Some(image));
    }
    let (this, names) = (Arc::clone(images), image.layers.clone());
    let pins = blocking(move || this.pin(&names).map(Arc::new)).await?;
    let configuration = Configuration { id: image.id, config: image.config, diff_ids: Vec::new() };
    record(images, pins, configuration, image.layers, (tags, vec![name]), origin).await.map(Some)
}

/// `pins` are with the work itself: it goes on when nobody waits any more.
async fn record(
    images: &Arc<Images>,
    pins: Arc<Pins>,
    of: Configuration,
    chain: Vec<String>,
    names: (Vec<String>, Vec<String>),
    origin: &Origin,
) -> Result<Image> {
    let (images, origin) = (Arc::clone(images), origin.clone());
    blocking(move || {
        let _pins = pins;
        images.record(of.id, of.config, chain, names, &origin)
    })
    .await
}

/// Fetches and unpacks the layers that are missing.
async fn bring(
    images: &Arc<Images>,
    session: &Arc<Session>,
    layers: &[Descriptor],
    configuration: &Configuration,
    chain: &[String],
    pins: &Arc<Pins>,
    progress: &Arc<dyn Progress>,
) -> Result<()> {
    let places = Arc::new(tokio::sync::Semaphore::new(TRANSFERS));
    let mut coming = std::collections::VecDeque::new();
    for (descriptor, name) in layers.iter().zip(chain) {
        let task = blob::fetch(Arc::clone(images), Arc::clone(session), descriptor.clone(), name.clone(), Arc::clone(progress), Arc::clone(&places));
        coming.push_back(AbortOnDropHandle::new(tokio::spawn(task)));
    }
    let mut at = 0;
    let failed = loop {
        let Some(task) = coming.pop_front() else { return Ok(()) };
        let fetched = match task.await.map_err(|e| Error::Image(format!("a transfer failed: {e}"))).and_then(|fetched| fetched) {
            Ok(fetched) => fetched,
            // Another pull may go on with what is here, unless the registry does not have it.
            Err(e) => break (matches!(e, Error::Registry { code: 400..=499, .. }) && !may_pass(&e), e),
        };
        if let Some(fetched) = fetched {
            let (images, pins) = (Arc::clone(images), Arc::clone(pins));
            let (chain, diff_id, digest) = (chain[..=at].to_vec(), configuration.diff_ids[at].clone(), layers[at].digest.clone());
            let unpacked = blocking(move || {
                let _pins = pins;
                blob::unpack(&images, &chain, &diff_id, &digest, fetched)
            });
            if let Err(e) = unpacked.await {
                break (true, e);
            }
        }
        progress.step(Step::Unpacked { layer: layers[at].digest.clone() });
        at += 1;
    };
    let (hopeless, error) = failed;
    for task in &coming {
        task.abort();
    }
    for task in coming {
        // Until it has let go of its file.
        let _ = task.await;
    }
    if hopeless {
        let (images, digests) = (Arc::clone(images), layers.iter().map(|l| l.digest.clone()).collect::<Vec<_>>());
        let _ = tokio::task::spawn_blocking(move || blob::discard(&images, &digests)).await;
    }
    Err(error)
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

fn accepting() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for accepted in ACCEPTED {
        headers.append(header::ACCEPT, HeaderValue::from_static(accepted));
    }
    headers.append(header::ACCEPT, HeaderValue::from_static("*/*"));
    headers
}

/// A small document and its media type. Tried again when the server stumbles.
async fn document(session: &Session, kind: &str, version: &str) -> Result<(Vec<u8>, String)> {
    let url = session.url(kind, version);
    let mut pause = FIRST_PAUSE;
    for attempt in 1.. {
        let response = session.ask(Method::GET, &url, accepting()).await?;
        let (status, asked) = (response.status(), retry_after(&response));
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
        let kind = kind.split(';').next().unwrap_or("").trim().to_owned();
        let error = match read(response, DOCUMENT_BYTES_MAX).await {
            Ok(body) if status.is_success() => return Ok((body.to_vec(), kind)),
            Ok(body) => refused(&url, status, &body),
            Err(e) => Error::Image(format!("{url}: {e}")),
        };
        let again = status.is_success() || may_pass(&error);
        if !again || attempt >= DOCUMENT_TRIES {
            return Err(error);
        }
        tokio::time::sleep(asked.unwrap_or(pause)).await;
        pause *= 2;
    }
    Err(Error::Image(url))
}

/// Whether a server's refusal may be another one soon.
fn may_pass(e: &Error) -> bool {
    matches!(e, Error::Registry { code: 408 | 429 | 500..=599, .. })
}

/// How long the server asks to wait, in seconds as registries write it.
fn retry_after(response: &Response<Incoming>) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// Runs what waits for a disk off the executor's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::Image(format!("a worker failed: {e}")))?
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
