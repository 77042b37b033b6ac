//! What one request knows about itself, and what one write tells admission.
//!
//! Invariants: a [`Context`] exists only for an authenticated and authorised request; nothing in it changes but the
//! warnings, which every stage may add to and which leave as `Warning` headers, the texts of free-form values that it brought,
//! and whether its client is still there.

use crate::{path::RequestInfo, rows::Row};
use machinery::{
    Value,
    json::{Blanks, Texts},
    status::Status,
};
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

/// Characters of warnings that one response carries, and those of each where all together are more (upstream's
/// `truncateAtTotalRunes` and `truncateItemRunes`).
const WARNINGS_CHARS_MAX: usize = 4 * 1024;
const WARNING_CHARS_CUT: usize = 256;
/// How long a write may take, whatever it asks of others (upstream's `requestTimeoutUpperBound`).
const WRITE_MAX: Duration = Duration::from_secs(34);

/// An authenticated, authorised request.
#[derive(Debug)]
pub struct Context {
    /// Who asks.
    pub user: Arc<identity::User>,
    /// What is asked for.
    pub info: RequestInfo,
    /// The time at which the request is answered; every stamp of one request is this one.
    pub now: SystemTime,
    /// The `User-Agent` header; the default field manager is its first part.
    pub user_agent: String,
    warnings: Mutex<Vec<String>>,
    texts: Mutex<Texts>,
    present_texts: Mutex<Texts>,
    blanks: Mutex<Arc<Blanks>>,
    /// The last object that was read had labels.
    labelled: AtomicBool,
    given_up: AtomicBool,
    /// An evaluation has ended because of that.
    cut_short: AtomicBool,
    began: Instant,
    /// How long it may take what it asks of others.
    limit: Duration,
}

impl Context {
    /// A context with no warnings yet.
    pub fn new(user: Arc<identity::User>, info: RequestInfo, user_agent: String, now: SystemTime) -> Self {
        Context {
            user,
            info,
            now,
            user_agent,
            warnings: Mutex::new(Vec::new()),
            texts: Mutex::default(),
            present_texts: Mutex::default(),
            blanks: Mutex::default(),
            labelled: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            cut_short: AtomicBool::new(false),
            began: Instant::now(),
            limit: WRITE_MAX,
        }
    }

    /// The same, whose sender waits no longer than this.
    pub(crate) fn within(self, limit: Duration) -> Self {
        Context { limit: limit.min(WRITE_MAX), ..self }
    }

    /// Adds a warning for the client (`Warning: 299 - "…"`); repeated ones are dropped.
    pub fn warn(&self, text: impl Into<String>) {
        let text = text.into();
        let mut warnings = self.warnings.lock();
        if !text.is_empty() && warnings.len() < WARNINGS_CHARS_MAX && !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// Notes how free-form values are spelled; what was noted before counts more.
    pub(crate) fn note_texts(&self, texts: Texts) {
        if !texts.is_empty() {
            self.texts.lock().extend(texts);
        }
    }

    /// How the free-form values are spelled that this request brought.
    pub(crate) fn texts(&self) -> Texts {
        self.texts.lock().clone()
    }

    /// Notes how the free-form values are spelled of the object that is about to be changed.
    pub(crate) fn note_present_texts(&self, texts: Texts) {
        *self.present_texts.lock() = texts;
    }

    /// How those of the object are spelled that is changed.
    pub(crate) fn present_texts(&self) -> Texts {
        self.present_texts.lock().clone()
    }

    /// Notes what the last body that was read, or the last result of a patch, has that is empty.
    pub(crate) fn note_blanks(&self, blanks: Blanks) {
        *self.blanks.lock() = Arc::new(blanks);
    }

    /// What the body has that is empty, and is not in the object.
    pub(crate) fn blanks(&self) -> Arc<Blanks> {
        Arc::clone(&self.blanks.lock())
    }

    /// Notes whether the last body that was read, or the last result of a patch, has labels.
    pub(crate) fn note_labelled(&self, labelled: bool) {
        self.labelled.store(labelled, Ordering::Relaxed);
    }

    /// Takes the warnings out. Where they are too much for headers each is cut, and what is still too much is left out.
    pub fn take_warnings(&self) -> Vec<String> {
        let mut warnings = std::mem::take(&mut *self.warnings.lock());
        // A text that is no header's is counted by nobody.
        warnings.retain(|text| !text.contains(char::is_control));
        if warnings.iter().map(|text| text.chars().count()).sum::<usize>() <= WARNINGS_CHARS_MAX {
            return warnings;
        }
        let mut written = 0;
        let cut = warnings.iter().map(|text| text.chars().take(WARNING_CHARS_CUT).collect::<String>());
        cut.take_while(|text| {
            let fits = written < WARNINGS_CHARS_MAX;
            written += text.chars().count();
            fits
        })
        .collect()
    }

    /// How long what this request asks of others may still take.
    pub(crate) fn time_left(&self) -> Duration {
        self.limit.saturating_sub(self.began.elapsed())
    }

    /// Nobody waits for the answer any more; what has begun is finished, and nothing more is begun.
    pub(crate) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// Whether the client is gone.
    pub(crate) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Whether a write may be tried (again) that others were faster than: where nobody waits for it any more it is over, since nothing
    /// of it is committed yet.
    pub(crate) fn may_try(&self, attempt: usize) -> Result<(), Status> {
        match attempt > 0 && self.is_given_up() {
            true => Err(Status::timeout("Timeout: request did not complete within requested timeout")),
            false => Ok(()),
        }
    }

    /// Is set when nobody waits any more: what is evaluated ends then.
    pub(crate) fn stop(&self) -> &AtomicBool {
        &self.given_up
    }

    /// An evaluation was cut short: whatever is made of its end, the write does not go on.
    pub(crate) fn cut_short(&self) {
        self.cut_short.store(true, Ordering::Relaxed);
    }

    /// Whether an evaluation was cut short.
    pub(crate) fn was_cut_short(&self) -> bool {
        self.cut_short.load(Ordering::Relaxed)
    }

    /// The context of the kinds crate.
    pub fn strategy(&self) -> kinds::Context {
        let mut context = kinds::Context::new(self.now, self.user.name.clone());
        context.blanks = self.blanks();
        context.labelled = self.labelled.load(Ordering::Relaxed);
        context.identity.uid.clone_from(&self.user.uid);
        context.identity.groups.clone_from(&self.user.groups);
        context.identity.extra.clone_from(&self.user.extra);
        context
    }
}

/// What a write does, as admission names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A new object, or a subresource that is created (eviction, binding).
    Create,
    /// A change.
    Update,
    /// A removal.
    Delete,
    /// exec, attach, proxy, …
    Connect,
}

/// The options of a write, as those are told who are asked about it.
pub(crate) trait Options: Send + Sync + std::fmt::Debug {
    /// `CreateOptions`, `UpdateOptions` or `DeleteOptions`.
    fn to_value(&self, operation: Operation) -> Value;
}

/// A write on its way through admission (upstream's `admission.Attributes`).
#[derive(Debug, Clone, Copy)]
pub struct Write<'a> {
    /// The request. Its `info` names the request's own resource and subresource.
    pub cx: &'a Context,
    /// The row of the resource that is written; differs from the request's only in create-on-update and the like.
    pub row: &'a Row,
    /// What is done.
    pub operation: Operation,
    /// Subresource, empty for the object itself.
    pub subresource: &'a str,
    /// Namespace, empty for cluster-scoped objects.
    pub namespace: &'a str,
    /// Name; empty for a create whose name is still to be generated.
    pub name: &'a str,
    /// Nothing is stored.
    pub dry_run: bool,
    /// The object before the write; absent for a create.
    pub old: Option<&'a Value>,
    /// Its options; absent where something is connected to.
    pub(crate) options: Option<&'a dyn Options>,
}
