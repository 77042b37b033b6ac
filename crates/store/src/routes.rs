//! Which watch is told of which change. A watch of one object, one namespace or one value of a field is told of nothing else:
//! a change costs those that it concerns, however many others watch (the original dispatches pods by `spec.nodeName`, and
//! Secrets, ConfigMaps and Nodes by `metadata.name`).
//!
//! Such a watch has a queue of its own; one that does not empty it within its bounds is told that it was too slow.

use crate::{
    entry::{Entry, Event, FieldsOf},
    history,
};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};
use tokio::sync::Notify;

/// Events that wait for one reader at most.
const EVENTS_MAX: usize = 10_000;
/// Bytes of events that wait for one reader at most.
const BYTES_MAX: usize = 16 << 20;

/// What a watch is about. More may be told than that; the reader looks at each event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Everything in the bucket.
    Bucket,
    /// The keys that begin with this, which ends with a slash: a namespace.
    Namespace(String),
    /// One key.
    Object(String),
    /// The objects whose selectable field has a value.
    Field(&'static str, String),
}

#[derive(Default)]
struct Waiting {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// More was to be told than the queue holds.
    lost: bool,
}

/// The events that one watch has not read.
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    pub(crate) signal: Notify,
}

/// What a queue has for its reader.
pub(crate) enum Next {
    Event(Arc<Event>),
    Nothing,
    Lost,
}

impl Queue {
    pub(crate) fn new(backlog: VecDeque<Arc<Event>>) -> Queue {
        // What history held is bounded by history.
        let waiting = Waiting { events: backlog, bytes: 0, lost: false };
        Queue { waiting: Mutex::new(waiting), signal: Notify::new() }
    }

    fn push(&self, event: &Arc<Event>) {
        let mut waiting = self.waiting.lock();
        if waiting.lost {
            return;
        }
        waiting.bytes += history::size(event);
        waiting.events.push_back(Arc::clone(event));
        if waiting.events.len() > EVENTS_MAX || waiting.bytes > BYTES_MAX {
            *waiting = Waiting { lost: true, ..Waiting::default() };
        }
    }

    /// The next event up to a revision.
    pub(crate) fn pop(&self, published: u64) -> Next {
        let mut waiting = self.waiting.lock();
        if waiting.lost {
            return Next::Lost;
        }
        if waiting.events.front().is_none_or(|event| event.revision > published) {
            return Next::Nothing;
        }
        let Some(event) = waiting.events.pop_front() else { return Next::Nothing };
        waiting.bytes = waiting.bytes.saturating_sub(history::size(&event));
        Next::Event(event)
    }

    /// The revision of the last event that waits.
    pub(crate) fn newest(&self) -> Option<u64> {
        self.waiting.lock().events.back().map(|event| event.revision)
    }

    pub(crate) fn is_empty(&self) -> bool {
        let waiting = self.waiting.lock();
        waiting.events.is_empty() && !waiting.lost
    }
}

type Queues = Vec<Arc<Queue>>;

/// The queues of a bucket's watches.
#[derive(Default)]
pub(crate) struct Routes {
    /// By key, and by namespace's prefix, which no key is.
    keys: HashMap<Box<str>, Queues>,
    fields: HashMap<&'static str, (FieldsOf, HashMap<Box<str>, Queues>)>,
    /// Those that were given something and are not yet woken.
    touched: Queues,
}

impl Routes {
    pub(crate) fn add(&mut self, scope: &Scope, queue: Arc<Queue>, fields: &FieldsOf) {
        match scope {
            Scope::Bucket => {}
            Scope::Namespace(key) | Scope::Object(key) => self.keys.entry(key.as_str().into()).or_default().push(queue),
            Scope::Field(name, value) => {
                let (_, values) = self.fields.entry(name).or_insert_with(|| (Arc::clone(fields), HashMap::new()));
                values.entry(value.as_str().into()).or_default().push(queue);
            }
        }
    }

    pub(crate) fn remove(&mut self, scope: &Scope, queue: &Arc<Queue>) {
        match scope {
            Scope::Bucket => {}
            Scope::Namespace(key) | Scope::Object(key) => remove(&mut self.keys, key, queue),
            Scope::Field(name, value) => {
                let Some((_, values)) = self.fields.get_mut(name) else { return };
                remove(values, value, queue);
                if values.is_empty() {
                    self.fields.remove(name);
                }
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.fields.is_empty()
    }

    /// Gives an event to those whom it concerns. They are woken when it is published.
    pub(crate) fn tell(&mut self, event: &Arc<Event>) {
        let Routes { keys, fields, touched } = self;
        let Some(some) = event.new.as_ref().or(event.old.as_ref()) else { return };
        let mut give = |queues: Option<&Queues>| {
            for queue in queues.into_iter().flatten() {
                queue.push(event);
                touched.push(Arc::clone(queue));
            }
        };
        if !keys.is_empty() {
            give(keys.get(&*some.key));
            let namespace = some.key.rfind('/').map(|slash| some.key.split_at(slash + 1).0);
            give(namespace.and_then(|prefix| keys.get(prefix)));
        }
        for (name, (fields, values)) in fields {
            let new = event.new.as_ref().map(|entry| field(entry, name, fields));
            let old = event.old.as_ref().map(|entry| field(entry, name, fields));
            give(new.and_then(|value| values.get(value)));
            if old != new {
                give(old.and_then(|value| values.get(value)));
            }
        }
    }

    /// Has a queue woken with those that the next published events concern.
    pub(crate) fn touch(&mut self, queue: &Arc<Queue>) {
        self.touched.push(Arc::clone(queue));
    }

    /// Takes those that are to be woken.
    pub(crate) fn touched(&mut self) -> Vec<Arc<Queue>> {
        std::mem::take(&mut self.touched)
    }
}

fn field<'e>(entry: &'e Entry, name: &str, fields: &FieldsOf) -> &'e str {
    entry.attributes(|value| fields(value)).field(name).unwrap_or_default()
}

fn remove(map: &mut HashMap<Box<str>, Queues>, key: &str, queue: &Arc<Queue>) {
    let Some(queues) = map.get_mut(key) else { return };
    queues.retain(|q| !Arc::ptr_eq(q, queue));
    if queues.is_empty() {
        map.remove(key);
    }
}

/// Whether an event concerns a scope.
pub(crate) fn concerns(scope: &Scope, event: &Event, fields: &FieldsOf) -> bool {
    let mut states = [&event.new, &event.old].into_iter().flatten();
    match scope {
        Scope::Bucket => true,
        Scope::Namespace(prefix) => states.any(|entry| entry.key.starts_with(prefix.as_str())),
        Scope::Object(key) => states.any(|entry| *entry.key == **key),
        Scope::Field(name, value) => states.any(|entry| field(entry, name, fields) == value),
    }
}
