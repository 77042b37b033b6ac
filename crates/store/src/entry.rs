//! What lies in the store: an object as the JSON that is answered, with its revision already inside.
//!
//! The decoded tree is made when it is needed and forgotten when many others were needed since ([`Decoded`]): the JSON
//! is an eighth of its size. Labels and selectable fields are kept apart, so that a selector decodes nothing.

use bytes::Bytes;
use machinery::{Map, Value};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    fmt::Write as _,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU8, Ordering},
    },
};

/// What selectors ask for.
#[derive(Debug, Default)]
pub struct Attributes {
    labels: Box<[(Box<str>, Box<str>)]>,
    fields: Box<[(&'static str, Box<str>)]>,
}

impl Attributes {
    fn new(value: &Value, fields: Vec<(&'static str, String)>) -> Self {
        let labels = value["metadata"]["labels"].as_object().into_iter().flatten();
        Attributes {
            // The map is ordered, so the slice is sorted.
            labels: labels.map(|(k, v)| (k.as_str().into(), v.as_str().unwrap_or_default().into())).collect(),
            fields: fields.into_iter().map(|(k, v)| (k, v.into())).collect(),
        }
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        let at = self.labels.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        self.labels.get(at).map(|(_, v)| &**v)
    }

    /// The value of a selectable field that the kind has of its own.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(k, _)| *k == name).map(|(_, v)| &**v)
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
    protobuf: OnceLock<Bytes>,
    /// In which encodings it has been part of a compressed list, a bit each.
    listed: AtomicU8,
    deflated: [OnceLock<Box<[u8]>>; 2],
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
            protobuf: OnceLock::new(),
            listed: AtomicU8::new(0),
            deflated: Default::default(),
            value: Mutex::new(None),
            decoded,
        }
    }

    /// The last state of a removed object, at the revision of its removal.
    pub(crate) fn at_removal(&self, revision: u64) -> Entry {
        let digits = decimal_len(self.revision);
        let (head, tail) = (self.json.get(..self.hole).unwrap_or_default(), self.json.get(self.hole + digits..).unwrap_or_default());
        let json = splice(head, revision, tail);
        Entry::stored(Arc::clone(&self.key), self.create_revision, revision, self.hole, json, Arc::clone(&self.decoded))
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
        self.decoded.used(self);
        value
    }

    fn decode(&self) -> Value {
        serde_json::from_slice(&self.json).unwrap_or_else(|error| {
            tracing::error!(key = %self.key, %error, "a stored object cannot be decoded");
            Value::Null
        })
    }

    /// Labels and fields; `fields` computes the latter for an entry that was read from the disk.
    pub fn attributes(&self, fields: impl FnOnce(&Value) -> Vec<(&'static str, String)>) -> &Attributes {
        self.attributes.get_or_init(|| {
            let value = self.value.lock().clone().unwrap_or_else(|| Arc::new(self.decode()));
            Attributes::new(&value, fields(&value))
        })
    }

    /// The object as a protobuf message of its storage version, made once by `encode`.
    pub fn protobuf(self: &Arc<Self>, encode: impl FnOnce(&Value) -> Vec<u8>) -> Bytes {
        self.protobuf.get_or_init(|| encode(&self.value()).into()).clone()
    }

    /// The object as a piece of a deflate stream, made and kept from the second time on that it is asked for: an object that
    /// changes between lists is not worth it.
    pub fn deflated(&self, encoding: Deflated, make: impl FnOnce() -> Option<Box<[u8]>>) -> Option<&[u8]> {
        let slot = &self.deflated[encoding as usize];
        if let Some(piece) = slot.get() {
            return Some(piece);
        }
        // No order is needed: who sees an old value compresses once more.
        let bit = 1 << encoding as u8;
        if self.listed.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
            return None;
        }
        let piece = make()?;
        Some(slot.get_or_init(|| piece))
    }
}

/// The encodings whose pieces of compressed lists are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deflated {
    /// Of the JSON that is answered.
    Json,
    /// Of the protobuf message of the storage version.
    Protobuf,
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
}

impl Draft {
    /// Encodes an object. `fields` are its selectable fields.
    pub fn new(mut value: Value, fields: Vec<(&'static str, String)>) -> Draft {
        let (body, hole) = encode(&value);
        let attributes = Attributes::new(&value, fields);
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("resourceVersion");
        }
        Draft { value, body, hole, attributes }
    }

    /// The entry of this draft at a revision.
    pub(crate) fn into_entry(self, key: Arc<str>, create_revision: u64, revision: u64, decoded: &Arc<Decoded>) -> Arc<Entry> {
        let Draft { mut value, body, hole, attributes } = self;
        let (head, tail) = body.split_at(hole);
        let json = splice(head, revision, tail);
        if let Value::Object(map) = &mut value
            && let Value::Object(metadata) = map.entry("metadata").or_insert_with(|| Value::Object(Map::new()))
        {
            metadata.insert("resourceVersion".into(), Value::String(revision.to_string()));
        }
        let entry = Arc::new(Entry {
            key,
            create_revision,
            revision,
            json,
            hole,
            attributes: OnceLock::from(attributes),
            protobuf: OnceLock::new(),
            listed: AtomicU8::new(0),
            deflated: Default::default(),
            value: Mutex::new(Some(Arc::new(value))),
            decoded: Arc::clone(decoded),
        });
        decoded.used(&entry);
        entry
    }
}

/// The object's JSON with an empty resourceVersion as the first field of its metadata, and where its digits go.
fn encode(value: &Value) -> (Vec<u8>, usize) {
    let mut out = Vec::with_capacity(1024);
    let mut hole = 0;
    let empty = Map::new();
    let map = value.as_object().unwrap_or(&empty);
    let mut head = |out: &mut Vec<u8>, metadata: &Map<String, Value>| {
        out.extend_from_slice(br#""metadata":{"resourceVersion":""#);
        hole = out.len();
        out.push(b'"');
        for (key, value) in metadata.iter().filter(|(key, _)| *key != "resourceVersion") {
            out.push(b',');
            field(out, key, value);
        }
        out.push(b'}');
    };
    out.push(b'{');
    let mut found = false;
    for (at, (key, value)) in map.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        match value {
            Value::Object(metadata) if key == "metadata" => {
                found = true;
                head(&mut out, metadata);
            }
            _ => field(&mut out, key, value),
        }
    }
    if !found {
        if !map.is_empty() {
            out.push(b',');
        }
        head(&mut out, &empty);
    }
    out.push(b'}');
    (out, hole)
}

/// `"key":value`. Writing JSON of a tree into memory cannot fail.
fn field(out: &mut Vec<u8>, key: &str, value: &Value) {
    let _ = serde_json::to_writer(&mut *out, key);
    out.push(b':');
    let _ = serde_json::to_writer(out, value);
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

/// Remembers which entries hold a tree, and drops the oldest ones' trees.
#[derive(Default)]
pub(crate) struct Decoded(Mutex<Ring>);

#[derive(Default)]
struct Ring {
    /// The entries with the sizes of their JSON, the oldest first.
    entries: VecDeque<(Weak<Entry>, usize)>,
    bytes: usize,
}

impl Decoded {
    fn used(&self, entry: &Arc<Entry>) {
        let mut guard = self.0.lock();
        let Ring { entries, bytes } = &mut *guard;
        entries.push_back((Arc::downgrade(entry), entry.json.len()));
        *bytes += entry.json.len();
        let mut dropped = Vec::new();
        while *bytes > DECODED_JSON_BYTES_MAX && entries.len() > 1 {
            let Some((oldest, size)) = entries.pop_front() else { break };
            *bytes -= size;
            dropped.extend(oldest.upgrade());
        }
        drop(guard);
        for entry in dropped {
            entry.value.lock().take();
        }
    }
}
