//! What lies in the store: an object as the JSON that is answered, with its revision already inside. Its keys are in the
//! original's order: those of the type's Go fields.
//!
//! The decoded tree and the protobuf message are made when they are needed and forgotten when many others were needed since
//! ([`Decoded`]): the JSON is an eighth of the tree's size, and what is listed once in protobuf must not be held twice for ever. Labels and selectable fields are kept apart, so that a selector decodes nothing.

use bytes::Bytes;
use imbl::OrdMap;
use machinery::{
    Map, Value,
    gvk::Gvk,
    json::{self, Texts},
    schema::{self, Text, TypeRef},
};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    fmt::Write as _,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

/// Entries by key.
pub(crate) type Entries = OrdMap<Arc<str>, Arc<Entry>>;

/// Selectable fields of an object by their names.
pub type Fields = Vec<(Text, String)>;

/// Tells the selectable fields of an object that was read from the disk.
pub type FieldsOf = Arc<dyn Fn(&Value) -> Fields + Send + Sync>;

/// What selectors ask for: labels, sorted, and selectable fields, in one piece of text, since every object has some.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// Keys and values, one after the other.
    text: Box<str>,
    /// Where each ends.
    ends: Box<[u32]>,
    /// How many of the pairs are labels.
    labels: u32,
}

impl Attributes {
    fn new(value: &Value, fields: Fields) -> Self {
        let (mut text, mut ends) = (String::new(), Vec::new());
        let mut push = |key: &str, value: &str| {
            for part in [key, value] {
                text.push_str(part);
                ends.push(u32::try_from(text.len()).unwrap_or(u32::MAX));
            }
        };
        // The map is ordered, so the labels are sorted.
        let labels = value["metadata"]["labels"].as_object();
        labels.into_iter().flatten().for_each(|(key, value)| push(key, value.as_str().unwrap_or_default()));
        fields.iter().for_each(|(name, value)| push(name, value));
        let labels = labels.map_or(0, |labels| u32::try_from(labels.len()).unwrap_or(u32::MAX));
        Attributes { text: text.into(), ends: ends.into(), labels }
    }

    fn part(&self, at: usize) -> Option<&str> {
        let start = if at == 0 { 0 } else { *self.ends.get(at - 1)? };
        self.text.get(start as usize..*self.ends.get(at)? as usize)
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        let (mut low, mut high) = (0, self.labels as usize);
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.part(2 * middle)?.cmp(key) {
                std::cmp::Ordering::Equal => return self.part(2 * middle + 1),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// The labels, sorted.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        (0..self.labels as usize).filter_map(|at| Some((self.part(2 * at)?, self.part(2 * at + 1)?)))
    }

    /// The value of a selectable field that the kind has of its own.
    pub fn field(&self, name: &str) -> Option<&str> {
        let at = (self.labels as usize..self.ends.len() / 2).find(|at| self.part(2 * at) == Some(name))?;
        self.part(2 * at + 1)
    }
}

/// An object at a revision.
pub struct Entry {
    /// `/registry/…`, as the original has it.
    pub key: Arc<str>,
    /// The revision at which the key was made.
    pub create_revision: u64,
    /// The revision of this state: the object's resourceVersion.
    pub revision: u64,
    /// The object in its storage version.
    pub json: Bytes,
    /// Where the digits of resourceVersion begin in `json`.
    pub(crate) hole: usize,
    attributes: OnceLock<Attributes>,
    /// By whose rules the object is as it lies here; 0 where nobody has looked yet. Labels and fields are of the same rules.
    shape: AtomicU64,
    protobuf: Mutex<Option<Bytes>>,
    /// Of the message, also when it is forgotten: a list tells its length before it is made.
    protobuf_len: OnceLock<usize>,
    value: Mutex<Option<Arc<Value>>>,
    decoded: Arc<Decoded>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("key", &self.key).field("revision", &self.revision).finish_non_exhaustive()
    }
}

impl Entry {
    /// An entry as it was read from the disk.
    pub(crate) fn stored(key: Arc<str>, create_revision: u64, revision: u64, hole: usize, json: Bytes, decoded: Arc<Decoded>) -> Entry {
        Entry {
            key,
            create_revision,
            revision,
            json,
            hole,
            attributes: OnceLock::new(),
            shape: AtomicU64::new(0),
            protobuf: Mutex::new(None),
            protobuf_len: OnceLock::new(),
            value: Mutex::new(None),
            decoded,
        }
    }

    /// The last state of a removed object, at the revision of its removal.
    pub(crate) fn at_removal(&self, revision: u64) -> Entry {
        let digits = decimal_len(self.revision);
        let (head, tail) = (self.json.get(..self.hole).unwrap_or_default(), self.json.get(self.hole + digits..).unwrap_or_default());
        let json = splice(head, revision, tail);
        let entry = Entry::stored(Arc::clone(&self.key), self.create_revision, revision, self.hole, json, Arc::clone(&self.decoded));
        if let Some(attributes) = self.attributes.get() {
            let _ = entry.attributes.set(attributes.clone());
            entry.shape.store(self.shape.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        entry
    }

    /// The object as a tree. It is decoded if it was not used lately.
    pub fn value(self: &Arc<Self>) -> Arc<Value> {
        let mut slot = self.value.lock();
        if let Some(value) = &*slot {
            return Arc::clone(value);
        }
        let value = Arc::new(self.decode());
        *slot = Some(Arc::clone(&value));
        drop(slot);
        self.decoded.tree_used(self);
        value
    }

    /// The decoded tree if there is one just now, as there is behind a write.
    pub fn value_at_hand(&self) -> Option<Arc<Value>> {
        self.value.lock().clone()
    }

    /// Whether the object lies here as it is by some rules: those of a version of a custom kind, which change while objects of
    /// it are stored. Shapes are numbered by whoever has such rules, from 1.
    pub fn has_shape(&self, shape: u64) -> bool {
        self.shape.load(Ordering::Relaxed) == shape
    }

    /// Notes that the object is as it is by these rules, which find these fields in it. Where its fields were asked for by other
    /// rules before, and those found others, that is not noted.
    pub fn note_shape(&self, shape: u64, value: &Value, fields: Fields) {
        let same = match self.attributes.set(Attributes::new(value, fields)) {
            Ok(()) => true,
            Err(made) => self.attributes.get() == Some(&made),
        };
        if same {
            self.shape.store(shape, Ordering::Relaxed);
        }
    }

    /// The same object at the same revision as another would have it: what its key had in its place.
    #[must_use]
    pub fn told_as(&self, draft: Draft) -> Arc<Entry> {
        draft.into_entry(Arc::clone(&self.key), self.create_revision, self.revision, &self.decoded)
    }

    fn decode(&self) -> Value {
        json::read(&self.json).unwrap_or_else(|error| {
            tracing::error!(key = %self.key, %error, "a stored object cannot be decoded");
            Value::Null
        })
    }

    /// Labels and fields; `fields` computes the latter for an entry that was read from the disk.
    pub fn attributes(&self, fields: impl FnOnce(&Value) -> Fields) -> &Attributes {
        self.attributes.get_or_init(|| {
            let value = self.value.lock().clone().unwrap_or_else(|| Arc::new(self.decode()));
            Attributes::new(&value, fields(&value))
        })
    }

    /// The object as a protobuf message of its storage version. `encode` makes it if it was not made lately.
    pub fn protobuf(self: &Arc<Self>, encode: impl FnOnce() -> Vec<u8>) -> Bytes {
        if let Some(message) = self.kept_protobuf() {
            return message;
        }
        // Outside the lock: two may make it at once, and none waits for another's.
        let message: Bytes = encode().into();
        *self.protobuf.lock() = Some(message.clone());
        let _ = self.protobuf_len.set(message.len());
        self.decoded.message_used(self, message.len());
        message
    }

    /// The message if it was made lately: for those who need it once.
    pub fn kept_protobuf(&self) -> Option<Bytes> {
        self.protobuf.lock().clone()
    }

    /// The bytes of [`Self::protobuf`], which are counted once.
    pub fn protobuf_len(&self, count: impl FnOnce() -> usize) -> usize {
        *self.protobuf_len.get_or_init(count)
    }
}

/// A change: an object made, changed or removed.
#[derive(Debug)]
pub struct Event {
    /// The revision of the change.
    pub revision: u64,
    /// The new state; `None` for a removal.
    pub new: Option<Arc<Entry>>,
    /// The state before; `None` for what was made.
    pub old: Option<Arc<Entry>>,
    /// For a removal: the last state, with the revision of the removal inside.
    pub deleted: Option<Arc<Entry>>,
}

/// An object that is to be written: encoded by its writer, so that the committing thread only copies.
pub struct Draft {
    value: Value,
    body: Vec<u8>,
    hole: usize,
    attributes: Attributes,
    shape: u64,
}

impl Draft {
    /// Encodes an object of a type. `fields` are its selectable fields.
    pub fn new(value: Value, ty: Option<TypeRef<'_>>, fields: Fields) -> Draft {
        Draft::spelled(value, ty, fields, Texts::NONE)
    }

    /// The same, with free-form values in their texts.
    pub fn spelled(mut value: Value, ty: Option<TypeRef<'_>>, fields: Fields, texts: &Texts) -> Draft {
        set_version(&mut value, String::new());
        let (body, hole) = json::encode_with_hole(ty, &value, texts);
        let attributes = Attributes::new(&value, fields);
        Draft { value, body, hole, attributes, shape: 0 }
    }

    /// The same, made by the rules of a shape ([`Entry::has_shape`]).
    #[must_use]
    pub fn shaped(self, shape: u64) -> Draft {
        Draft { shape, ..self }
    }

    /// What it will be stored as, but for its revision.
    pub fn json(&self) -> &[u8] {
        &self.body
    }

    /// The entry of this draft at a revision.
    pub(crate) fn into_entry(self, key: Arc<str>, create_revision: u64, revision: u64, decoded: &Arc<Decoded>) -> Arc<Entry> {
        let Draft { mut value, body, hole, attributes, shape } = self;
        let (head, tail) = body.split_at(hole);
        let json = splice(head, revision, tail);
        set_version(&mut value, revision.to_string());
        let entry = Arc::new(Entry {
            key,
            create_revision,
            revision,
            json,
            hole,
            attributes: OnceLock::from(attributes),
            shape: AtomicU64::new(shape),
            protobuf: Mutex::new(None),
            protobuf_len: OnceLock::new(),
            value: Mutex::new(Some(Arc::new(value))),
            decoded: Arc::clone(decoded),
        });
        decoded.tree_used(&entry);
        entry
    }
}

/// Every object has metadata with a resourceVersion.
fn set_version(value: &mut Value, version: String) {
    let Value::Object(map) = value else { return };
    let metadata = map.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if !metadata.is_object() {
        *metadata = Value::Object(Map::new());
    }
    metadata["resourceVersion"] = Value::String(version);
}

/// An object that was stored with sorted keys, as before the original's order was known, in that order: its bytes, and where
/// its revision stands.
pub(crate) fn put_in_order(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let value: Value = json::read(bytes).ok()?;
    // What does not say what it is keeps its keys sorted: it is no reason not to start.
    let text = |field: &str| value[field].as_str().unwrap_or_default();
    let gvk = Gvk::parse(text("apiVersion"), text("kind"));
    let revision = value["metadata"]["resourceVersion"].as_str()?;
    let (mut body, hole) = json::encode_with_hole(schema::builtin().kind(&gvk), &value, Texts::NONE);
    body.splice(hole..hole, revision.bytes());
    Some((body, hole))
}

fn splice(head: &[u8], revision: u64, tail: &[u8]) -> Bytes {
    let mut digits = String::with_capacity(20);
    let _ = write!(digits, "{revision}");
    let mut json = Vec::with_capacity(head.len() + digits.len() + tail.len());
    json.extend_from_slice(head);
    json.extend_from_slice(digits.as_bytes());
    json.extend_from_slice(tail);
    json.into()
}

/// How many digits a number has.
pub(crate) fn decimal_len(number: u64) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}

/// JSON bytes of the entries whose trees are kept; the trees take about eight times as much.
const DECODED_JSON_BYTES_MAX: usize = 1 << 20;
/// Bytes of protobuf messages that are kept: those of the objects that are being listed and watched in it.
const MESSAGE_BYTES_MAX: usize = 32 << 20;
/// What an entry holds as long as it is remembered here, besides what is counted.
const REMEMBERED_BYTES: usize = 256;

/// Remembers which entries hold a tree or a message, and drops the oldest ones'.
#[derive(Default)]
pub(crate) struct Decoded {
    trees: Mutex<Ring>,
    messages: Mutex<Ring>,
}

#[derive(Default)]
struct Ring {
    /// The entries with what they count for, the oldest first.
    entries: VecDeque<(Weak<Entry>, usize)>,
    bytes: usize,
}

impl Ring {
    /// Remembers an entry; returns those that are over for it.
    fn push(&mut self, entry: &Arc<Entry>, bytes: usize, bytes_max: usize) -> Vec<Arc<Entry>> {
        self.entries.push_back((Arc::downgrade(entry), bytes));
        self.bytes += bytes;
        let mut over = Vec::new();
        while self.bytes > bytes_max && self.entries.len() > 1 {
            let Some((oldest, bytes)) = self.entries.pop_front() else { break };
            self.bytes -= bytes;
            over.extend(oldest.upgrade());
        }
        over
    }
}

impl Decoded {
    fn tree_used(&self, entry: &Arc<Entry>) {
        let over = self.trees.lock().push(entry, entry.json.len(), DECODED_JSON_BYTES_MAX);
        for entry in over {
            entry.value.lock().take();
        }
    }

    fn message_used(&self, entry: &Arc<Entry>, bytes: usize) {
        let over = self.messages.lock().push(entry, bytes + REMEMBERED_BYTES, MESSAGE_BYTES_MAX);
        for entry in over {
            entry.protobuf.lock().take();
        }
    }

    /// Bytes of messages that are remembered.
    #[cfg(test)]
    pub(crate) fn message_bytes(&self) -> usize {
        self.messages.lock().bytes
    }
}
