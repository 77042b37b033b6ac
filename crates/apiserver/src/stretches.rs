//! The compressed stretches that a resource's lists are put together from, as long as lists ask for them ([`crate::gzip`]).

use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Compressed bytes that one resource keeps at most.
const KEPT_BYTES_MAX: usize = 32 << 20;
/// A stretch that no list has asked for between two ends of this is forgotten.
pub(crate) const KEPT_AGE: Duration = Duration::from_secs(150);

/// A compressed stretch, and what the trailer needs to know of it.
#[derive(Clone)]
pub(crate) struct Stretch {
    pub(crate) packed: Bytes,
    pub(crate) checksum: crc32fast::Hasher,
    pub(crate) plain_bytes: u32,
}

/// By what a stretch is known: the revisions of its objects.
pub(crate) type Name = (u64, u64);

/// The stretches that a resource keeps: those that were asked for lately, and those before. Where the former are half of what
/// may be kept, or old, they become the latter.
#[derive(Default)]
pub(crate) struct Stretches(pub(crate) Mutex<Kept>);

#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) late: HashMap<Name, Stretch>,
    late_bytes: usize,
    pub(crate) before: HashMap<Name, Stretch>,
    turned: Option<Instant>,
}

impl Stretches {
    pub(crate) fn get(&self, name: Name) -> Option<Stretch> {
        let mut kept = self.0.lock();
        if let Some(stretch) = kept.late.get(&name) {
            return Some(stretch.clone());
        }
        let stretch = kept.before.remove(&name)?;
        kept.insert(name, stretch.clone());
        Some(stretch)
    }

    pub(crate) fn put(&self, name: Name, stretch: Stretch) {
        self.0.lock().insert(name, stretch);
    }

    /// Forgets what no list has asked for.
    pub(crate) fn forget(&self, now: Instant) {
        let mut kept = self.0.lock();
        let idle = kept.late.is_empty() && kept.before.is_empty();
        if !idle && kept.turned.is_none_or(|turned| now.duration_since(turned) >= KEPT_AGE) {
            kept.turn(now);
        }
    }
}

impl Kept {
    fn insert(&mut self, name: Name, stretch: Stretch) {
        if self.late_bytes + stretch.packed.len() > KEPT_BYTES_MAX / 2 {
            self.turn(Instant::now());
        }
        self.late_bytes += stretch.packed.len();
        self.late.insert(name, stretch);
    }

    fn turn(&mut self, now: Instant) {
        self.before = std::mem::take(&mut self.late);
        self.late_bytes = 0;
        self.turned = Some(now);
    }
}
