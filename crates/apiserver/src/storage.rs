//! The store as the path uses it: entries in the version of a row, in the encodings of answers and watches.
//!
//! What lies in the store is JSON of the storage version with its resourceVersion inside. A row of the same version
//! answers those bytes; another version's are converted on the way out, which is rare (autoscaling/v1, core Events).

use crate::{
    ApiServer,
    registry::watch::{delimited, json_line},
    rows::Row,
};
use bytes::Bytes;
use imbl::OrdMap;
use machinery::{
    Value, convert,
    fields::FieldSelector,
    gvk::Gvk,
    labels::Selector,
    proto,
    schema::{self, TypeRef},
    status::Status,
};
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock};
pub(crate) use store::Event;
use store::Entry;

/// What happened to an object, as watches name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Added,
    Modified,
    Deleted,
}

impl Change {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Change::Added => "ADDED",
            Change::Modified => "MODIFIED",
            Change::Deleted => "DELETED",
        }
    }
}

/// The type of an object by what it says of itself.
pub(crate) fn type_of(value: &Value) -> Option<TypeRef<'static>> {
    let api_version = value["apiVersion"].as_str().unwrap_or("v1");
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    schema::builtin().kind(&Gvk { group: group.into(), version: version.into(), kind: value["kind"].as_str()?.into() })
}

/// Whether the row is that of Services, whose writes allocate addresses.
pub(crate) fn is_service(row: &Row) -> bool {
    row.resource.resource == "services" && row.resource.group.is_empty()
}

/// The newest revision.
pub(crate) fn revision(server: &ApiServer) -> u64 {
    server.store().revision()
}

/// The key of an entry.
pub(crate) fn key(entry: &Entry) -> &str {
    &entry.key
}

/// The revision of an entry.
fn entry_revision(entry: &Entry) -> u64 {
    entry.revision
}

/// The present entry of a key.
pub(crate) fn get(server: &ApiServer, _row: &Row, key: &str) -> Option<Arc<Entry>> {
    server.store().get(key)
}

/// The state at one revision.
pub(crate) struct Snapshot {
    revision: u64,
    map: OrdMap<Arc<str>, Arc<Entry>>,
}

impl Snapshot {
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// The entry of a key.
    pub(crate) fn get(&self, key: &str) -> Option<&Arc<Entry>> {
        self.map.get(key)
    }

    /// The entries whose keys start with `prefix` and come after `after`, in order.
    pub(crate) fn range(&self, prefix: &str, after: &str) -> impl Iterator<Item = &Arc<Entry>> {
        let start = if after > prefix { after } else { prefix };
        let (after, prefix) = (after.to_owned(), prefix.to_owned());
        self.map
            .range::<(std::ops::Bound<&str>, std::ops::Bound<&str>), str>((std::ops::Bound::Included(start), std::ops::Bound::Unbounded))
            .take_while(move |(k, _)| k.starts_with(prefix.as_str()))
            .filter(move |(k, _)| ***k != *after)
            .map(|(_, e)| e)
    }
}

/// The newest state, or the one at a revision; `None` if that is no longer known.
pub(crate) fn snapshot(server: &ApiServer, _row: &Row, at: Option<u64>) -> Option<Snapshot> {
    server.store().snapshot(at).map(|(revision, map)| Snapshot { revision, map })
}

/// An entry's object in the row's version.
pub(crate) fn value(row: &Row, entry: &Entry) -> Arc<Value> {
    let Some(value) = entry.value.get() else { return Arc::new(Value::Null) };
    if row.converts { Arc::new(convert::convert((**value).clone(), &row.resource.storage, &row.resource.kind)) } else { Arc::clone(value) }
}

/// An entry's JSON in the row's version.
pub(crate) fn json(row: &Row, entry: &Entry) -> Bytes {
    if row.converts { machinery::json::encode(&value(row, entry)).into() } else { entry.json.clone() }
}

/// An entry's protobuf with its envelope.
pub(crate) fn protobuf(row: &Row, entry: &Entry) -> Bytes {
    proto::encode(row.ty(), &value(row, entry)).into()
}

/// An entry's protobuf message alone, as lists hold it.
pub(crate) fn protobuf_raw(row: &Row, entry: &Entry) -> Bytes {
    proto::encode_raw(row.ty(), &value(row, entry)).into()
}

/// Whether an entry's labels are selected.
pub(crate) fn matches_labels(entry: &Entry, selector: &Selector) -> bool {
    selector.matches(|key| entry.labels.get(key).map(String::as_str))
}

/// Whether an entry's fields are selected.
pub(crate) fn matches_fields(row: &Row, entry: &Entry, selector: &FieldSelector) -> bool {
    let value = value(row, entry);
    let own = row.strategy.selectable_fields(&value);
    selector.matches(|field| match field.strip_prefix("metadata.") {
        Some(meta @ ("name" | "namespace")) => Some(value["metadata"][meta].as_str().unwrap_or_default()),
        _ => own.iter().find(|(name, _)| *name == field).map(|(_, v)| v.as_str()),
    })
}

fn stored(row: &Row, value: Value) -> Value {
    if row.converts { convert::convert(value, &row.resource.kind, &row.resource.storage) } else { value }
}

/// Stores a new object; `None` if its key is taken.
pub(crate) async fn create(server: &ApiServer, row: &Row, key: &str, value: Value) -> Result<Option<Arc<Entry>>, Status> {
    Ok(server.store().write(key, Some(stored(row, value)), 0).await)
}

/// Stores an object's next state; `None` if the present one is another.
pub(crate) async fn replace(server: &ApiServer, row: &Row, key: &str, present: &Entry, value: Value) -> Result<Option<Arc<Entry>>, Status> {
    Ok(server.store().write(key, Some(stored(row, value)), present.revision).await)
}

/// Removes an object; `false` if the present one is another.
pub(crate) async fn delete(server: &ApiServer, _row: &Row, key: &str, present: &Entry) -> Result<bool, Status> {
    Ok(server.store().write(key, None, present.revision).await.is_some())
}

/// The changes of one resource.
pub(crate) struct Watch(store::Watch);

impl Watch {
    /// The next change; the oldest known revision if this reader has fallen behind it.
    pub(crate) async fn next(&mut self) -> Result<Arc<Event>, u64> {
        self.0.next().await
    }
}

/// The changes after a revision; the oldest known one if that is too old.
pub(crate) fn watch(server: &ApiServer, _row: &Row, from: u64) -> Result<Watch, u64> {
    Ok(Watch(server.store().watch(from)))
}

/// A revision up to which a watch has told everything.
pub(crate) fn passed(_watch: &Watch) -> u64 {
    0
}

pub(crate) fn event_revision(event: &Event) -> u64 {
    event.revision
}

pub(crate) fn event_new(event: &Event) -> Option<&Arc<Entry>> {
    event.new.as_ref()
}

pub(crate) fn event_old(event: &Event) -> Option<&Arc<Entry>> {
    event.old.as_ref()
}

/// The last state of a removed object, at the revision of its removal.
pub(crate) fn event_deleted(event: &Event) -> Option<&Arc<Entry>> {
    event.deleted.as_ref()
}

/// An event as a line of JSON.
pub(crate) fn json_frame(row: &Row, change: Change, entry: &Entry) -> Bytes {
    row.frames().get(entry_revision(entry), change, false, || json_line(change.name(), &json(row, entry)))
}

/// An event as length-delimited protobuf.
pub(crate) fn protobuf_frame(row: &Row, change: Change, entry: &Entry) -> Bytes {
    row.frames().get(entry_revision(entry), change, true, || delimited(&proto::watch_event(change.name(), &protobuf(row, entry))))
}

/// Frames that are remembered for each resource: those of the events that watchers are reading now.
const FRAMES: usize = 128;
/// Frames beyond this size are not kept: few watch what is so large, and they would hold much memory.
const FRAME_BYTES_MAX: usize = 64 * 1024;

type Slot = Mutex<Option<((u64, Change, bool), Bytes)>>;

/// The frames of a row's latest events, so that an event is encoded once however many watch it. A slot belongs to the
/// revisions of its remainder; a newer event takes it over.
#[derive(Default)]
pub(crate) struct Frames(OnceLock<Box<[Slot]>>);

impl Frames {
    fn get(&self, revision: u64, change: Change, protobuf: bool, make: impl FnOnce() -> Bytes) -> Bytes {
        let slots = self.0.get_or_init(|| (0..FRAMES).map(|_| Slot::default()).collect());
        let at = (revision.wrapping_mul(2) + u64::from(protobuf)) % FRAMES as u64;
        let Some(slot) = usize::try_from(at).ok().and_then(|at| slots.get(at)) else { return make() };
        let mut slot = slot.lock();
        match &*slot {
            Some((key, bytes)) if *key == (revision, change, protobuf) => bytes.clone(),
            _ => {
                let bytes = make();
                if bytes.len() <= FRAME_BYTES_MAX {
                    *slot = Some(((revision, change, protobuf), bytes.clone()));
                }
                bytes
            }
        }
    }
}

/// The store's newest state as authentication and authorisation read it: objects in their storage versions.
pub(crate) struct StoredObjects(pub(crate) store::Store);

impl identity::Objects for StoredObjects {
    fn get(&self, key: &str) -> Option<Arc<Value>> {
        self.0.get(key).and_then(|e| e.value.get().cloned())
    }

    fn list(&self, prefix: &str) -> Vec<Arc<Value>> {
        let Some((revision, map)) = self.0.snapshot(None) else { return Vec::new() };
        Snapshot { revision, map }.range(prefix, "").filter_map(|e| e.value.get().cloned()).collect()
    }

    fn version(&self, _prefixes: &[&str]) -> u64 {
        self.0.revision()
    }
}
