//! Indexes of a bucket by a label or a selectable field, so that a list of what few objects have costs what it returns.
//!
//! An index is made when a large bucket is asked for a value, by a thread of its own, from a snapshot and the changes since;
//! meanwhile lists walk the bucket. From then on the committing thread keeps it. What nobody asks for is dropped, so a
//! bucket without such lists pays nothing.

use crate::entry::{Entries, Entry, Event, FieldsOf};
use imbl::OrdSet;
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// In smaller buckets a walk costs no more than an index.
pub(crate) const BUCKET_MIN: usize = 2000;
/// Indexes of one bucket at most; the one that was not asked for the longest makes room.
const INDEXES_MAX: usize = 8;
/// An index that nobody asked for so long is dropped.
const UNUSED_MAX: Duration = Duration::from_secs(600);

/// What a list demands: a label or a field with one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand<'d> {
    /// The label has the value.
    Label(&'d str, &'d str),
    /// The selectable field has the value.
    Field(&'d str, &'d str),
}

/// What an index is by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum By {
    Label(Box<str>),
    Field(Box<str>),
}

impl By {
    pub(crate) fn of(demand: Demand<'_>) -> By {
        match demand {
            Demand::Label(key, _) => By::Label(key.into()),
            Demand::Field(name, _) => By::Field(name.into()),
        }
    }

    fn is(&self, demand: Demand<'_>) -> bool {
        match (self, demand) {
            (By::Label(own), Demand::Label(key, _)) | (By::Field(own), Demand::Field(key, _)) => **own == *key,
            _ => false,
        }
    }

    fn value<'e>(&self, entry: &'e Entry, fields: &FieldsOf) -> Option<&'e str> {
        let attributes = entry.attributes(|value| fields(value));
        match self {
            By::Label(key) => attributes.label(key),
            // An absent field is empty.
            By::Field(name) => Some(attributes.field(name).unwrap_or_default()),
        }
    }
}

/// The keys of the objects that have a value, in order.
pub(crate) type Keys = OrdSet<Arc<str>>;

pub(crate) struct Index {
    by: By,
    fields: FieldsOf,
    places: HashMap<Box<str>, Keys>,
    used: Instant,
}

impl Index {
    pub(crate) fn of(by: By, fields: FieldsOf, entries: &Entries) -> Index {
        let mut index = Index { by, fields, places: HashMap::new(), used: Instant::now() };
        for (key, entry) in entries {
            index.insert(key, entry);
        }
        index
    }

    fn insert(&mut self, key: &Arc<str>, entry: &Entry) {
        let Some(value) = self.by.value(entry, &self.fields) else { return };
        match self.places.get_mut(value) {
            Some(keys) => {
                keys.insert(Arc::clone(key));
            }
            None => {
                self.places.insert(value.into(), OrdSet::unit(Arc::clone(key)));
            }
        }
    }

    fn remove(&mut self, entry: &Entry) {
        let Some(value) = self.by.value(entry, &self.fields) else { return };
        if let Some(keys) = self.places.get_mut(value) {
            keys.remove(&*entry.key);
            if keys.is_empty() {
                self.places.remove(value);
            }
        }
    }

    pub(crate) fn apply(&mut self, event: &Event) {
        if let (Some(old), Some(new)) = (&event.old, &event.new)
            && self.by.value(old, &self.fields) == self.by.value(new, &self.fields)
        {
            return;
        }
        if let Some(old) = &event.old {
            self.remove(old);
        }
        if let Some(new) = &event.new {
            self.insert(&new.key, new);
        }
    }
}

/// The indexes of one bucket.
#[derive(Default)]
pub(crate) struct Indexes {
    ready: Vec<Index>,
    /// Those that are being made.
    making: Vec<By>,
}

impl Indexes {
    pub(crate) fn apply(&mut self, event: &Event) {
        for index in &mut self.ready {
            index.apply(event);
        }
    }

    /// The keys that meet the demands that there is an index for: those of the one that leaves the fewest.
    pub(crate) fn keys(&mut self, demands: &[Demand<'_>]) -> Option<Keys> {
        let mut fewest: Option<Keys> = None;
        for demand in demands {
            let Some(index) = self.ready.iter_mut().find(|index| index.by.is(*demand)) else { continue };
            index.used = Instant::now();
            let (Demand::Label(_, value) | Demand::Field(_, value)) = *demand;
            let keys = index.places.get(value).cloned().unwrap_or_default();
            if fewest.as_ref().is_none_or(|f| keys.len() < f.len()) {
                fewest = Some(keys);
            }
        }
        fewest
    }

    pub(crate) fn forget(&mut self, now: Instant) {
        self.ready.retain(|index| now.duration_since(index.used) < UNUSED_MAX);
    }

    pub(crate) fn begin(&mut self, by: &By) -> bool {
        let known = self.making.contains(by) || self.ready.iter().any(|index| index.by == *by);
        if !known && self.making.len() < INDEXES_MAX {
            self.making.push(by.clone());
            return true;
        }
        false
    }

    pub(crate) fn end(&mut self, by: &By, index: Option<Index>) {
        self.making.retain(|b| b != by);
        let Some(index) = index else { return };
        if self.ready.len() >= INDEXES_MAX
            && let Some(oldest) = (0..self.ready.len()).min_by_key(|at| self.ready[*at].used)
        {
            self.ready.remove(oldest);
        }
        self.ready.push(index);
    }
}
