//! Keeps an informer's memory as the server has it: list, then watch from the list's revision for ever.
//!
//! A watch that ends, or whose connection breaks, is taken up at the last revision seen, objects' or bookmarks'. After any
//! other failure, and after several broken connections in a row, all begins anew with a list, of which listeners see only what
//! differs (as client-go's `ListAndWatch`): whatever the failure was (the revision is no longer kept, or is one of another
//! life of the server, or a frame cannot be read), the memory never stays behind for ever. Failures in a row wait longer
//! each time, whatever they are.
//!
//! Of all this only [`Sink`] knows the type: the rest is compiled once for all kinds.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use crate::api::{self, Collection};
use crate::error::{Error, Result};
use crate::object::Object;
use crate::params::ListParams;
use crate::watch::{self, Event};

/// After the first failure; a server in the same process is back soon.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// As client-go's reflector.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Until the first list is there: whoever reads the informer does nothing before it, and a server that is slow to start is not to be
/// waited for half a minute longer than it takes.
const FIRST_BACKOFF_MAX: Duration = Duration::from_secs(1);
/// A server that was not there so long does not just start: it is asked as seldom as any other.
const START_PATIENCE: Duration = Duration::from_secs(120);
/// Connections that break in a row until all is listed anew.
const BROKEN_MAX: u32 = 5;
/// Objects a page, so that no answer is out of bounds however large the cluster; within it one page is enough.
const PAGE: u32 = 10_000;
/// Seconds after which a watch is to be ended by the server, so that a dead one is not waited on for ever.
const WATCH_TIMEOUT_S: u32 = 480;
/// A server that has not ended the watch by then is not there any more.
const WATCH_DEADLINE: Duration = Duration::from_secs(WATCH_TIMEOUT_S as u64 + 60);

/// What to do next.
enum Step {
    List,
    Watch(String),
}

/// Where what the server sends goes to: a memory of objects of one type.
pub(super) trait Sink: Send {
    /// The type.
    fn kind(&self) -> &'static str;
    /// A list begins.
    fn begin(&mut self);
    /// Takes a page in that came from `uri`: its revision, and where the next begins (empty: nowhere).
    fn page(&mut self, uri: &str, bytes: &[u8]) -> Result<(String, String)>;
    /// The list is complete.
    fn end(&mut self);
    /// Takes a frame of a watch in: its revision.
    fn frame(&mut self, frame: &[u8]) -> Result<String>;
}

pub(super) struct Reflector {
    of: Collection,
    params: ListParams,
    sink: Box<dyn Sink>,
    backoff: Duration,
    /// There was a list.
    listed: bool,
    begun: tokio::time::Instant,
    /// Connections that broke in a row.
    broken: u32,
}

impl Reflector {
    pub(super) fn new(of: Collection, params: ListParams, sink: Box<dyn Sink>) -> Self {
        Self { of, params, sink, backoff: BACKOFF_MIN, listed: false, begun: tokio::time::Instant::now(), broken: 0 }
    }

    /// Runs until it is dropped.
    pub(super) async fn run(mut self) {
        let mut step = Step::List;
        loop {
            step = match step {
                Step::List => match self.list().await {
                    Ok(version) => Step::Watch(version),
                    Err(error) => {
                        self.pause(&error).await;
                        Step::List
                    }
                },
                Step::Watch(mut version) => match self.watch(&mut version).await {
                    Ok(()) => {
                        self.broken = 0;
                        self.backoff = BACKOFF_MIN;
                        Step::Watch(version)
                    }
                    Err(error) => {
                        let again = self.is_taken_up_after(&error);
                        self.pause(&error).await;
                        if again { Step::Watch(version) } else { Step::List }
                    }
                },
            };
        }
    }

    /// Whether a watch that failed so is taken up at the same revision.
    fn is_taken_up_after(&mut self, error: &Error) -> bool {
        let broken = matches!(error, Error::Transport(_)) || error.status().is_some_and(|s| s.code == 429);
        if !broken {
            if !error.is_expired() {
                tracing::warn!(kind = self.sink.kind(), %error, "a watch failed, and all is listed anew");
            }
            return false;
        }
        self.broken += 1;
        self.broken < BROKEN_MAX
    }

    async fn pause(&mut self, error: &Error) {
        tracing::debug!(kind = self.sink.kind(), %error, "list or watch failed");
        tokio::time::sleep(self.backoff).await;
        self.backoff = (self.backoff * 2).min(backoff_max(self.listed, self.begun.elapsed()));
    }

    /// All objects, page by page; the revision at which the first page was taken.
    async fn list(&mut self) -> Result<String> {
        let mut params = ListParams { limit: PAGE, ..self.params.clone() };
        self.sink.begin();
        let version = loop {
            let (uri, bytes) = self.of.list(&params).await?;
            let (version, next) = self.sink.page(&uri, &bytes)?;
            if next.is_empty() {
                break version;
            }
            params.continue_token = next;
        };
        self.sink.end();
        (self.listed, self.broken) = (true, 0);
        Ok(version)
    }

    /// Follows a watch to its end; `version` is where to take up from.
    async fn watch(&mut self, version: &mut String) -> Result<()> {
        let mut frames = self.of.watch(&self.params, version, Some(WATCH_TIMEOUT_S)).await?;
        let deadline = tokio::time::Instant::now() + WATCH_DEADLINE;
        loop {
            let Ok(next) = tokio::time::timeout_at(deadline, frames.next()).await else { return Ok(()) };
            let Some(frame) = next? else { break };
            *version = self.sink.frame(&frame)?;
            (self.backoff, self.broken) = (BACKOFF_MIN, 0);
        }
        // A server that ends every watch at once must not be asked in a busy loop.
        tokio::time::sleep(BACKOFF_MIN).await;
        Ok(())
    }
}

/// The longest wait after a failure so long after the beginning.
fn backoff_max(listed: bool, since: Duration) -> Duration {
    if listed || since >= START_PATIENCE { BACKOFF_MAX } else { FIRST_BACKOFF_MAX }
}

/// The memory of one type.
pub(super) struct Memory<K> {
    shared: Arc<Shared<K>>,
    /// The pages of the list that is being read.
    listed: Vec<K>,
}

impl<K> Memory<K> {
    pub(super) fn new(shared: Arc<Shared<K>>) -> Self {
        Self { shared, listed: Vec::new() }
    }
}

impl<K: Object> Sink for Memory<K> {
    fn kind(&self) -> &'static str {
        std::any::type_name::<K>()
    }

    fn begin(&mut self) {
        self.listed = Vec::new();
    }

    fn page(&mut self, uri: &str, bytes: &[u8]) -> Result<(String, String)> {
        let page = api::decode_list::<K>(uri, bytes)?;
        let told = (page.resource_version().to_owned(), page.metadata.continue_.clone().unwrap_or_default());
        self.listed.extend(page.into_items());
        Ok(told)
    }

    fn end(&mut self) {
        self.shared.cache.write().replace(std::mem::take(&mut self.listed));
        self.shared.synced.send_replace(true);
    }

    fn frame(&mut self, frame: &[u8]) -> Result<String> {
        let event = watch::decode::<K>(frame)?;
        let mut cache = self.shared.cache.write();
        Ok(match event {
            Event::Added(object) | Event::Modified(object) => {
                let version = object.resource_version().to_owned();
                cache.upsert(object);
                version
            }
            Event::Deleted(object) => {
                let (version, key) = (object.resource_version().to_owned(), object.key());
                cache.remove(&key, Some(object));
                version
            }
            // What cannot be read stays as it was last known: better old than gone.
            Event::Unread { key, resource_version, is_gone } => {
                if is_gone {
                    cache.remove(&key, None);
                }
                resource_version
            }
            Event::Bookmark { resource_version, .. } => resource_version,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_starts_is_asked_often_and_one_that_stays_away_is_not() {
        let minute = Duration::from_secs(60);
        assert_eq!(backoff_max(false, Duration::ZERO), FIRST_BACKOFF_MAX);
        assert_eq!(backoff_max(false, minute), FIRST_BACKOFF_MAX);
        assert_eq!(backoff_max(false, 2 * minute), BACKOFF_MAX);
        assert_eq!(backoff_max(true, Duration::ZERO), BACKOFF_MAX);
    }
}
