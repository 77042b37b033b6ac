//! A layer's blob on its way into a file, and from there into the store.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use sha2::{Digest, Sha256};

use super::http::{Stream, read};
use super::session::Session;
use super::{BLOB_TRIES, DOCUMENT_BYTES_MAX, FIRST_PAUSE, blocking, may_pass, refused, retry_after};
use crate::error::{Context, Error, Result};
use crate::images::ingest::{self, Held};
use crate::images::manifest::Descriptor;
use crate::images::space::{self, Space};
use crate::images::unpack::{Section, hex};
use crate::images::{self, Images, Transfer};
use crate::types::{Progress, Step};

/// Progress is told in steps of this size.
const TOLD_BYTES: u64 = 256 << 10;
/// Bytes gathered before they are written: a disk that is slow holds up no other task.
const WRITTEN_BYTES: usize = 1 << 20;
/// Between two looks at a file that another process holds: it is in its first quarter of a second if that only looks through the
/// files, else until it has unpacked the layer.
const HELD_PAUSE: Duration = Duration::from_millis(50);
/// Another process that fetches the same blob is waited for as long as its file grows, and for so long without that: it may be
/// unpacking.
const HELD_STALL_MAX: Duration = Duration::from_secs(300);

/// A blob that is here as a whole, and held: nobody removes it until this is dropped.
pub(super) struct Fetched {
    file: Arc<Held>,
    path: PathBuf,
    /// Whoever wants the same blob meanwhile finds the file by it.
    _transfer: Arc<Transfer>,
}

fn path_of(images: &Images, digest: &str) -> Result<PathBuf> {
    let hex = digest.strip_prefix("sha256:").filter(|h| images::reference::is_hex(h));
    hex.map(|h| images.ingest_dir().join(h)).ok_or_else(|| Error::Image(format!("{digest:?} is no digest")))
}

/// Brings a layer's blob; nothing when the layer is there.
pub(super) async fn fetch(
    images: Arc<Images>,
    session: Arc<Session>,
    layer: Descriptor,
    name: String,
    progress: Arc<dyn Progress>,
    places: Arc<tokio::sync::Semaphore>,
) -> Result<Option<Fetched>> {
    let transfer = images.transfer(&layer.digest);
    let mut here = transfer.lock().await;
    let _place = places.acquire().await.map_err(|e| Error::Image(e.to_string()))?;
    let (this, chain_name) = (Arc::clone(&images), name.clone());
    if blocking(move || Ok(this.has_layer(&name))).await? {
        return Ok(None);
    }
    if layer.size == 0 {
        return Err(Error::Image(format!("the manifest does not tell the size of {}", layer.digest)));
    }
    let path = path_of(&images, &layer.digest)?;
    if let Some(file) = here.upgrade() {
        return Ok(Some(Fetched { file, path, _transfer: Arc::clone(&transfer) }));
    }
    let file = hold(&path).await?;
    // Another process may have had it meanwhile, and the layer with it.
    let (this, name, held, size) = (Arc::clone(&images), chain_name, Arc::clone(&file), layer.size);
    let there = blocking(move || {
        let there = this.has_layer(&name);
        let missing = size.saturating_sub(held.metadata().context("cannot look at a layer's file")?.len());
        if !there {
            space::fits(&**held, missing).context("cannot fetch a layer")?;
        }
        Ok(there)
    });
    if there.await? {
        let _ = std::fs::remove_file(&path);
        return Ok(None);
    }
    let url = session.url("blobs", &layer.digest);
    let mut pause = FIRST_PAUSE;
    for attempt in 1.. {
        let (done, asked) = receive(&session, &url, &layer, &file, &*progress).await;
        match done {
            Ok(()) => break,
            Err(e) if matches!(e, Error::Registry { .. }) && !may_pass(&e) => return Err(e),
            Err(e) if attempt >= BLOB_TRIES || matches!(e, Error::Io { .. }) => return Err(e),
            Err(e) => tracing::debug!(layer = layer.digest, error = %e, "goes on after a pause"),
        }
        tokio::time::sleep(asked.unwrap_or(pause)).await;
        pause *= 2;
    }
    *here = Arc::downgrade(&file);
    Ok(Some(Fetched { file, path, _transfer: Arc::clone(&transfer) }))
}

async fn hold(path: &Path) -> Result<Arc<Held>> {
    let (mut length, mut grown) = (0, Instant::now());
    while grown.elapsed() < HELD_STALL_MAX {
        let own = path.to_owned();
        let look = move || Ok((ingest::open(&own).at("cannot write", &own)?, std::fs::metadata(&own).map_or(0, |m| m.len())));
        let (held, now) = blocking(look).await?;
        if let Some(held) = held {
            return Ok(Arc::new(held));
        }
        if now != length {
            (length, grown) = (now, Instant::now());
        }
        tokio::time::sleep(HELD_PAUSE).await;
    }
    Err(Error::Image(format!("{} is held by another process, which does not go on", path.display())))
}

/// Reads on from where the file ends. Answers, too, how long the server asks to wait before another try.
async fn receive(session: &Session, url: &str, layer: &Descriptor, file: &Arc<Held>, progress: &dyn Progress) -> (Result<()>, Option<Duration>) {
    let begun = begin(session, url, layer, file).await;
    let (mut body, mut have) = match begun {
        Ok(Some(begun)) => begun,
        Ok(None) => return (Ok(()), None),
        Err((e, asked)) => return (Err(e), asked),
    };
    let run = async {
        let mut told = have;
        let mut gathered = Vec::new();
        // Others write to the same disk meanwhile, layers of this image among them.
        let mut space = Space::default();
        loop {
            let piece = body.next().await;
            let ended = !matches!(piece, Ok(Some(_)));
            if let Ok(Some(data)) = &piece {
                gathered.extend_from_slice(data);
                have += data.len() as u64;
            }
            if have > layer.size {
                shorten(file).await?;
                return Err(Error::Image(format!("{} is longer than its manifest says", layer.digest)));
            }
            if gathered.len() >= WRITTEN_BYTES || ended {
                let (file, bytes, mut there) = (Arc::clone(file), std::mem::take(&mut gathered), std::mem::take(&mut space));
                let written = blocking(move || {
                    there.take(&**file, bytes.len() as u64).and_then(|()| (&**file).write_all(&bytes)).context("cannot write a layer")?;
                    Ok(there)
                });
                space = written.await?;
            }
            if have - told >= TOLD_BYTES || ended {
                told = have;
                progress.step(Step::Fetched { layer: layer.digest.clone(), bytes: have });
            }
            // What came before the connection broke is kept.
            if piece.map_err(|e| Error::Image(format!("{url}: {e}")))?.is_none() {
                break;
            }
        }
        if have < layer.size {
            return Err(Error::Image(format!("{url}: the connection broke off: unexpected EOF")));
        }
        Ok(())
    };
    (run.await, None)
}

/// Asks for what is missing; nothing when nothing is.
async fn begin(session: &Session, url: &str, layer: &Descriptor, file: &Arc<Held>) -> Result<Option<(Stream, u64)>, (Error, Option<Duration>)> {
    let plain = |e: Error| (e, None);
    let mut have = file.metadata().context("cannot look at a layer").map_err(plain)?.len();
    if have == layer.size {
        return Ok(None);
    }
    if have > layer.size {
        shorten(file).await.map_err(plain)?;
        have = 0;
    }
    let mut headers = HeaderMap::new();
    if have > 0
        && let Ok(range) = HeaderValue::from_str(&format!("bytes={have}-"))
    {
        headers.insert(header::RANGE, range);
    }
    let response = session.ask(Method::GET, url, headers).await.map_err(plain)?;
    match response.status() {
        StatusCode::PARTIAL_CONTENT if have > 0 => {}
        StatusCode::OK => {
            shorten(file).await.map_err(plain)?;
            have = 0;
        }
        StatusCode::RANGE_NOT_SATISFIABLE => {
            shorten(file).await.map_err(plain)?;
            return Err(plain(Error::Image(format!("{url}: the transfer cannot be gone on with"))));
        }
        status => {
            let asked = retry_after(&response);
            let body = read(response, DOCUMENT_BYTES_MAX).await.unwrap_or_default();
            return Err((refused(url, status, &body), asked));
        }
    }
    Ok(Some((Stream::new(response), have)))
}

async fn shorten(file: &Arc<Held>) -> Result<()> {
    let file = Arc::clone(file);
    blocking(move || file.set_len(0).context("cannot shorten a layer")).await
}

/// Compares the whole blob first, so that no byte of a liar is unpacked; the file goes in any case.
pub(super) fn unpack(images: &Images, chain: &[String], diff_id: &str, digest: &str, fetched: Fetched) -> Result<()> {
    let checked = || -> Result<()> {
        let found = file_digest(&fetched.file).at("cannot read", &fetched.path)?;
        if found != digest {
            return Err(Error::Image(format!("layer {digest} is not what its digest says: found {found}")));
        }
        let open = || {
            let file = fetched.file.try_clone().at("cannot read", &fetched.path)?;
            let end = file.metadata().at("cannot read", &fetched.path)?.len();
            Ok(Section { file, at: 0, end })
        };
        images.layer(chain, diff_id, None, &open)
    };
    let done = checked();
    let _ = std::fs::remove_file(&fetched.path);
    done
}

/// Removes what is here of these blobs and nobody holds.
pub(super) fn discard(images: &Images, digests: &[String]) {
    for path in digests.iter().filter_map(|digest| path_of(images, digest).ok()) {
        ingest::discard(&path);
    }
}

fn file_digest(file: &File) -> std::io::Result<String> {
    let (mut hash, mut buffer, mut at) = (Sha256::new(), vec![0; 256 << 10], 0);
    loop {
        let n = file.read_at(&mut buffer, at)?;
        if n == 0 {
            return Ok(format!("sha256:{}", hex(&hash.finalize())));
        }
        hash.update(&buffer[..n]);
        at += n as u64;
    }
}
