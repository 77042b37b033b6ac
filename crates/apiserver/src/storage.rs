//! The store as the path uses it: entries in the version of a row, in the encodings of answers and watches.
//!
//! What lies in the store is JSON of the storage version with its resourceVersion inside. A row of the same version
//! answers those bytes; another version's are converted on the way out, which is rare (autoscaling/v1, core Events). Custom
//! resources are looked at first ([`crate::family`]). Those that a webhook converts are asked for by [`present`], [`seen`] and
//! [`heard`], and what these give is an entry like any other: the same key and revision, the bytes of the row's version.

use crate::{
    conversion::{Memory, UNREAD_MAX, Unread},
    family::Custom,
    frames::{Change, delimited, json_line},
    rows::Row,
    tallies::{Came, Done},
};
use bytes::Bytes;
use futures_util::FutureExt;
use identity::{Changes, Seen};
use machinery::{
    Value, convert, defaulting,
    fields::FieldSelector,
    gvk::{self, Gvk},
    json::Texts,
    labels::Selector,
    numerals, proto,
    schema::{self, TypeRef},
    status::{Details, Status},
};
use std::{
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant},
};
pub(crate) use store::{Candidates, Demand, Event, Expired, Scope, Snapshot, Watch};
use store::{CommitError, Draft, Entry, Expect, Store};

/// The type of an object by what it says of itself.
pub(crate) fn type_of(value: &Value) -> Option<TypeRef<'static>> {
    let api_version = value["apiVersion"].as_str().unwrap_or("v1");
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    schema::builtin().kind(&Gvk { group: group.into(), version: version.into(), kind: value["kind"].as_str()?.into() })
}

/// The newest revision.
pub(crate) fn revision(store: &Store) -> u64 {
    store.revision()
}

/// The key of an entry.
pub(crate) fn key(entry: &Entry) -> &str {
    &entry.key
}

/// The present entry of a key.
pub(crate) fn get(store: &Store, row: &Row, key: &str) -> Option<Arc<Entry>> {
    row.bucket(store).get(key)
}

/// The present entry of a key as the row has it.
///
/// # Errors
/// It is in a version that its definition has no more, or a webhook does not convert it.
pub(crate) async fn present(store: &Store, row: &Row, key: &str, memory: Memory) -> Result<Option<Arc<Entry>>, Unread> {
    let Some(entry) = get(store, row, key) else { return Ok(None) };
    let Some(reader) = row.reader() else {
        return lost(row, std::iter::once(&entry)).pop().map_or(Ok(Some(entry)), Err);
    };
    Box::pin(reader.entries(store, vec![entry], memory)).await.map(|mut all| all.pop()).map_err(first)
}

/// Entries as the row has them: those that lie in another version are converted, where that takes a webhook.
///
/// # Errors
/// Some are in a version that their definition has no more, or the webhook does not convert all of them.
pub(crate) async fn seen(store: &Store, row: &Row, entries: Vec<Arc<Entry>>) -> Result<Vec<Arc<Entry>>, Status> {
    let Some(reader) = row.reader() else {
        let lost = lost(row, entries.iter());
        return if lost.is_empty() { Ok(entries) } else { Err(unlisted(row, &lost)) };
    };
    Box::pin(reader.entries(store, entries, Memory::Enough)).await.map_err(|unread| unlisted(row, &unread))
}

/// A change as the row has its objects; what `wanted` does not want of it stays as it lies. The last state of what is removed is told
/// by the state before.
///
/// # Errors
/// A webhook does not convert one of them.
pub(crate) async fn heard(store: &Store, row: &Row, event: Arc<Event>, wanted: impl Fn(&Entry) -> bool, before: bool) -> Result<Arc<Event>, Unread> {
    let Some(reader) = row.reader() else { return Ok(event) };
    if !event.new.iter().chain(&event.old).any(|entry| wanted(entry)) {
        return Ok(event);
    }
    let one = async |entry: &Option<Arc<Entry>>, asked: bool| match entry {
        Some(entry) if asked => Box::pin(reader.heard(store, entry)).await.map(Some),
        entry => Ok(entry.clone()),
    };
    let new = one(&event.new, true).await?;
    let old = one(&event.old, before || event.new.is_none()).await?;
    Ok(Arc::new(Event { revision: event.revision, new, old, deleted: None }))
}

/// What upstream's watch cache gives, lists and watches that say no more, waits for the cache to come up. It is made of all objects of a
/// resource, and does not come up while one of them lies in a version that the definition has no more, or is not converted.
///
/// # Errors
/// 429: there is such an object. One that is new keeps it from nothing for a while, and is given.
pub(crate) async fn begun(store: &Store, row: &Row) -> Result<Vec<Unread>, Status> {
    all_versions_known(store, row)?;
    let Some(reader) = row.reader() else { return Ok(Vec::new()) };
    let Some(snapshot) = snapshot(store, row, None) else { return Ok(Vec::new()) };
    let begun = Box::pin(reader.begun(store, snapshot, &row.root_key)).await;
    begun.map_err(|(unread, since)| unready(&unlisted(row, &unread), since))
}

/// Whoever is to be told of some that are not converted is told so.
///
/// # Errors
/// 500: they are to be told of one, by its key.
pub(crate) fn untold(row: &Row, mut unread: Vec<Unread>, is_told: impl Fn(&str) -> bool) -> Result<(), Status> {
    unread.retain(|unread| is_told(&unread.key));
    if unread.is_empty() { Ok(()) } else { Err(unlisted(row, &unread)) }
}

/// The first half: there is an object that no version of the definition reads.
fn all_versions_known(store: &Store, row: &Row) -> Result<(), Status> {
    let Some(custom) = row.custom.as_ref().filter(|custom| !custom.family.is_settled()) else { return Ok(()) };
    let Some(snapshot) = snapshot(store, row, None) else { return Ok(()) };
    // Whoever is refused comes again: no other object is looked at as long as all that were found are there.
    let known = custom.family.stale();
    let mut found = lost(row, known.iter().filter_map(|key| snapshot.get(key)));
    if known.is_empty() || found.len() < known.len() {
        found = lost(row, snapshot.range(&row.root_key, ""));
        custom.family.note_stale(found.iter().map(|unread| Arc::clone(&unread.key)).collect());
    }
    if found.is_empty() {
        // What is stored from now on is in a version that the definition has.
        custom.family.settle();
        return Ok(());
    }
    Err(unready(&unlisted(row, &found), custom.family.unsettled_for()))
}

/// 429 of what that cache would give, by what keeps it from coming up, and for how long it has: so much later it is to be asked again
/// (upstream's `calculateRetryAfterForUnreadyCache`).
fn unready(unlisted: &Status, since: Duration) -> Status {
    let again_s = (0.06 * since.as_secs_f64()).exp().clamp(1.0, 30.0);
    Status::too_many_requests(format!("storage is (re)initializing: failed to list <unspecified>: {}", unlisted.message), again_s as i64)
}

/// Those in a version that their definition has not.
fn lost<'e>(row: &Row, entries: impl Iterator<Item = &'e Arc<Entry>>) -> Vec<Unread> {
    let Some(custom) = &row.custom else { return Vec::new() };
    let old = entries.filter(|entry| !entry.has_shape(custom.shape));
    old.filter_map(|entry| Some(Unread::new(entry, custom.family.unreadable(entry)?))).take(UNREAD_MAX).collect()
}

fn first(unread: Vec<Unread>) -> Unread {
    { unread }.swap_remove(0)
}

/// 500 for one object: it is there and cannot be read. Upstream's storage names its key without the prefix of all.
pub(crate) fn unread(unread: &Unread) -> Status {
    Status::internal(unread.corrupt(unread.key.strip_prefix("/registry").unwrap_or(&unread.key)))
}

/// 500 for a list of which some cannot be read.
fn unlisted(row: &Row, unread: &[Unread]) -> Status {
    let resource = &row.resource;
    let told = |unread: &Unread| unread.corrupt(&unread.key);
    let mut message = format!("failed to read one or more {}.{} from the storage: ", resource.resource, resource.group);
    message.push_str(&unread.first().map(told).unwrap_or_default());
    if unread.len() > 1 {
        message.push_str(&format!(" (and {} more)", unread.len() - 1));
    }
    let mut status = Status::new(500, "StorageReadError", message);
    let (group, kind, name) = (resource.group.clone(), resource.resource.clone(), "list".to_owned());
    status.details = Some(Box::new(Details { group, kind, name, ..Details::default() }));
    let status = unread.iter().fold(status, |status, unread| status.cause("UnexpectedServerResponse", told(unread), &unread.key));
    if unread.len() < UNREAD_MAX { status } else { status.cause("FieldValueTooMany", "too many errors, the list is truncated", "") }
}

/// An object that can be stored: it can be read again, and is in the version in which it lies where a webhook converts it.
pub(crate) struct Ready {
    value: Value,
    texts: Texts,
    stays: &'static [&'static str],
}

impl Ready {
    fn new(value: Value) -> Ready {
        Ready { value, texts: Texts::default(), stays: &[] }
    }

    /// With parts that stay in the store as they lie there when it replaces another ([`kinds::Strategy::stays`]).
    pub(crate) fn staying(self, stays: &'static [&'static str]) -> Ready {
        Ready { stays, ..self }
    }

    /// With its free-form values spelled as these texts are.
    pub(crate) fn spelled(self, texts: Texts) -> Ready {
        Ready { texts, ..self }
    }
}

/// Readies an object of the row's version for being stored. What this refuses has not been stored.
///
/// # Errors
/// It could not be read again; a webhook does not convert it.
pub(crate) async fn ready(store: &Store, row: &Row, value: Value) -> Result<Ready, Status> {
    ready_settled(store, row, settled(row, value)).await
}

/// The same of one that [`settled`] has been asked of.
///
/// # Errors
/// As there.
pub(crate) async fn ready_settled(store: &Store, row: &Row, value: Value) -> Result<Ready, Status> {
    readable(&value)?;
    let Some(reader) = row.reader() else { return Ok(Ready::new(value)) };
    let stored = Box::pin(reader.stored(store, value)).await.map_err(|why| Status::new(500, "", why))?;
    readable(&stored)?;
    Ok(Ready::new(stored))
}

/// The program's own kinds that upstream stores as JSON (`LegacyCodec`): they are other servers' in its process.
const STORED_AS_JSON: [&str; 2] = ["apiextensions.k8s.io", "apiregistration.k8s.io"];

/// An object as a message in the store leaves it; custom ones are stored as JSON, which does not tell `1.0` from `1`.
pub(crate) fn settled(row: &Row, mut value: Value) -> Value {
    if row.is_builtin() && STORED_AS_JSON.contains(&row.resource.group.as_str()) {
        defaulting::settle_text(row.ty(), &mut value);
    } else if row.is_builtin() {
        defaulting::settle(row.ty(), &mut value);
    } else {
        numerals::reread_all(&mut value);
    }
    value
}

/// An object of the row's version as it would come back if it were stored, for a dry run.
///
/// # Errors
/// A webhook does not convert it.
pub(crate) async fn rehearsed(store: &Store, row: &Row, value: Value) -> Result<Value, Status> {
    let Some(custom) = &row.custom else { return Ok(settled(row, value)) };
    let version = &row.resource.version;
    match row.reader() {
        _ if *version == custom.family.storage => {
            let mut value = value;
            if lacks_status(row, &value) {
                defaulting::apply(row.ty(), &mut value);
            }
            Ok(value)
        }
        Some(reader) => Box::pin(reader.rehearsed(store, value)).await.map_err(|why| Status::new(500, "", why)),
        // What is stored in another version has what that version's schema leaves and fills in.
        None => Ok(custom.family.shown(version, &custom.family.stored(version, value))),
    }
}

/// Whether an object of the version in which it is stored lacks a status that the schema fills in whenever it is read: where the status
/// is a subresource, a new object has none.
fn lacks_status(row: &Row, value: &Value) -> bool {
    value.get("status").is_none() && row.ty().field("status").is_some_and(|field| field.default.is_some())
}

/// Whether what is stored of an entry is in the version in which objects are stored now: if not, a write that changes nothing
/// still writes it anew, as upstream's comparison of bytes has it.
pub(crate) fn is_current(store: &Store, row: &Row, entry: &Entry) -> bool {
    let Some(custom) = &row.custom else { return true };
    let Some(stored) = get(store, row, &entry.key) else { return true };
    gvk::parse_api_version(stored.value()["apiVersion"].as_str().unwrap_or_default()).1 == custom.family.storage
}

/// How many objects a row has.
pub(crate) fn count(store: &Store, row: &Row) -> usize {
    row.bucket(store).len()
}

/// The same, and the revision of the last change of one.
pub(crate) fn stored(store: &Store, row: &Row) -> (usize, u64) {
    let bucket = row.bucket(store);
    (bucket.len(), bucket.last_revision())
}

/// The newest state, or the one at a revision; `None` if that is no longer known.
pub(crate) fn snapshot(store: &Store, row: &Row, at: Option<u64>) -> Option<Snapshot> {
    store.snapshot(row.bucket(store), at)
}

/// An entry's object in the row's version.
pub(crate) fn value(row: &Row, entry: &Arc<Entry>) -> Arc<Value> {
    let value = entry.value();
    if let Some(custom) = &row.custom {
        return shown(row, custom, entry, value);
    }
    if row.converts { Arc::new(convert::convert((*value).clone(), &row.resource.storage, &row.resource.kind)) } else { value }
}

/// An entry's object as a version of a custom kind shows it. What it leaves as it is, is noted as such.
fn shown(row: &Row, custom: &Custom, entry: &Arc<Entry>, value: Arc<Value>) -> Arc<Value> {
    if entry.has_shape(custom.shape) {
        return value;
    }
    let shown = custom.family.shown(&row.resource.version, &value);
    if shown == *value {
        entry.note_shape(custom.shape, &value, row.strategy.selectable_fields(&value));
        return value;
    }
    Arc::new(shown)
}

/// Whether an entry's bytes are those that the row's version is shown in. Free-form values are stored with the spaces that they came with.
pub(crate) fn lies(row: &Row, entry: &Arc<Entry>) -> bool {
    match &row.custom {
        None => !row.converts && (!Texts::are_kept(row.ty()) || Texts::is_compact(&entry.json)),
        Some(custom) => entry.has_shape(custom.shape) || Arc::ptr_eq(&value(row, entry), &entry.value()),
    }
}

/// An entry's JSON in the row's version.
pub(crate) fn json(row: &Row, entry: &Arc<Entry>) -> Bytes {
    if lies(row, entry) { entry.json.clone() } else { machinery::json::encode_spelled(row.written_ty(), &value(row, entry), &texts(row, entry)).into() }
}

/// The texts of an entry's free-form values, where its kind has such.
pub(crate) fn texts(row: &Row, entry: &Entry) -> Texts {
    if row.is_builtin() { Texts::read(row.storage_ty(), &entry.json) } else { Texts::default() }
}

/// An object as an item of a JSON list, in the parts that it is put together from.
pub(crate) fn item_json<'e>(row: &Row, entry: &'e Entry) -> [&'e [u8]; 2] {
    match entry.json.strip_prefix(row.item_prefix()) {
        Some(rest) if row.is_builtin() => [b"{", rest],
        _ => [b"", &entry.json],
    }
}

/// An entry's protobuf with its envelope. The message is kept for a while: who writes in protobuf lists and watches in it.
pub(crate) fn protobuf(row: &Row, entry: &Arc<Entry>) -> Bytes {
    proto::envelope(&row.api_version, &row.resource.kind.kind, &protobuf_raw(row, entry)).into()
}

/// An entry's protobuf message alone, as lists hold it.
pub(crate) fn protobuf_raw(row: &Row, entry: &Arc<Entry>) -> Bytes {
    if row.converts {
        return by_tree(row, entry).into();
    }
    entry.protobuf(|| {
        // From a tree it takes a third of the time, if one need not be made for it and says all (free-form values have their own text).
        if let Some(tree) = entry.value_at_hand().filter(|_| !Texts::are_kept(row.ty())) {
            return proto::encode_raw(row.ty(), &tree);
        }
        // The wire is about half as long as the JSON.
        let mut message = Vec::with_capacity(entry.json.len() / 2);
        made_of_json(row, entry, &mut message);
        message
    })
}

/// Appends that message for a list, which needs it once: it is not kept for it.
pub(crate) fn write_protobuf(row: &Row, entry: &Arc<Entry>, out: &mut Vec<u8>) {
    match entry.kept_protobuf() {
        _ if row.converts => out.extend_from_slice(&by_tree(row, entry)),
        Some(message) => out.extend_from_slice(&message),
        None => made_of_json(row, entry, out),
    }
}

/// The bytes of that message. A list tells them before it is made, so they are counted without making it.
pub(crate) fn protobuf_len(row: &Row, entry: &Arc<Entry>) -> usize {
    if row.converts {
        return by_tree(row, entry).len();
    }
    entry.protobuf_len(|| proto::stored_len(row.ty(), &entry.json).unwrap_or_else(|| by_tree(row, entry).len()))
}

/// Appends the message of what lies in the row's version.
fn made_of_json(row: &Row, entry: &Arc<Entry>, out: &mut Vec<u8>) {
    if proto::encode_stored(row.ty(), &entry.json, out).is_none() {
        out.extend_from_slice(&by_tree(row, entry));
    }
}

fn by_tree(row: &Row, entry: &Arc<Entry>) -> Vec<u8> {
    proto::encode_raw_spelled(row.ty(), &value(row, entry), &texts(row, entry))
}

/// Whether an entry's labels are selected.
pub(crate) fn matches_labels(row: &Row, entry: &Entry, selector: &Selector) -> bool {
    let attributes = entry.attributes(|value| row.fields()(value));
    selector.matches(|key| attributes.label(key))
}

/// Whether an entry's fields are selected.
pub(crate) fn matches_fields(row: &Row, entry: &Arc<Entry>, selector: &FieldSelector) -> bool {
    let attributes = entry.attributes(|value| row.fields()(value));
    let apart = row.converts || row.custom.as_ref().is_some_and(|custom| !entry.has_shape(custom.shape));
    let converted = if apart { row.strategy.selectable_fields(&value(row, entry)) } else { Vec::new() };
    let path = entry.key.strip_prefix(row.root_key.as_str()).unwrap_or_default();
    let (namespace, name) = path.split_once('/').unwrap_or(("", path));
    selector.matches(|field| match field {
        "metadata.name" => Some(name),
        "metadata.namespace" => Some(namespace),
        own if apart => converted.iter().find(|(field, _)| *field == own).map(|(_, value)| value.as_str()),
        own => attributes.field(own),
    })
}

/// `present`: what it replaces.
fn draft(row: &Row, Ready { value, texts, stays }: Ready, present: Option<&Arc<Entry>>) -> Draft {
    if let Some(custom) = &row.custom {
        // A webhook has converted it before.
        let value = if custom.family.webhook.is_some() { value } else { custom.family.stored(&row.resource.version, value) };
        let fields = row.strategy.selectable_fields(&value);
        let as_shown = row.resource.version == custom.family.storage && !lacks_status(row, &value);
        let draft = Draft::new(value, None, fields);
        return if as_shown { draft.shaped(custom.shape) } else { draft };
    }
    let mut value = if row.converts { convert::convert(value, &row.resource.kind, &row.resource.storage) } else { value };
    if let (true, Some(present), Some(parts)) = (row.converts, present, value.as_object_mut()) {
        let present = present.value();
        for part in stays {
            match present.get(*part) {
                Some(lies) => parts.insert((*part).to_owned(), lies.clone()),
                None => parts.remove(*part),
            };
        }
    }
    let fields = row.storage_strategy.selectable_fields(&value);
    Draft::spelled(value, Some(row.storage_ty()), fields, &texts)
}

/// Why a write has failed.
#[derive(Debug)]
pub(crate) enum Failed {
    /// It is certain that nothing was stored.
    Refused(Status),
    /// It may be stored all the same.
    Unknown(Status),
}

impl From<Failed> for Status {
    fn from(failed: Failed) -> Status {
        match failed {
            Failed::Refused(status) | Failed::Unknown(status) => status,
        }
    }
}

fn unavailable(error: &CommitError) -> Status {
    match error {
        CommitError::Closed => Status::service_unavailable("the server is shutting down"),
        // Upstream passes on what etcd says, as an error that it has no reason for.
        CommitError::Full => Status::new(500, "", error.to_string()),
        other => Status::internal(other.to_string()),
    }
}

/// Stores a new object; `None` if its key is taken.
pub(crate) async fn create(store: &Store, row: &Row, key: &str, value: Ready) -> Result<Option<Arc<Entry>>, Status> {
    Ok(put(store, row, key, None, value).await?)
}

/// The same; the entry is as it lies. [`told`] follows.
pub(crate) async fn place(store: &Store, row: &Row, key: &str, value: Ready) -> Result<Option<Arc<Entry>>, Failed> {
    commit(store, row, key, None, value).await
}

/// What was just stored as the row shows it. It is stored whether or not it can be shown.
pub(crate) async fn told(store: &Store, row: &Row, entry: Arc<Entry>) -> Result<Arc<Entry>, Status> {
    let Some(reader) = row.reader() else { return Ok(entry) };
    let shown = Box::pin(reader.entries(store, vec![Arc::clone(&entry)], Memory::Enough)).await;
    shown.map(|mut all| all.pop().unwrap_or(entry)).map_err(|unread| Status::new(500, "", first(unread).undecodable()))
}

/// Stores an object's next state; `None` if the present one is another. Free-form values of which nobody has said how they are
/// spelled are so as they were.
pub(crate) async fn replace(store: &Store, row: &Row, key: &str, present: &Arc<Entry>, mut value: Ready) -> Result<Option<Arc<Entry>>, Failed> {
    value.texts.extend(texts(row, present));
    put(store, row, key, Some(present), value).await
}

/// Refuses what could not be read again when it is stored: protobuf, and the owners of deep fields, may be nested deeper than
/// JSON is read. A write asks before it takes anything for its object.
pub(crate) fn readable(value: &Value) -> Result<(), Status> {
    if machinery::json::is_readable(value) { Ok(()) } else { Err(Status::bad_request("exceeded max depth")) }
}

async fn put(store: &Store, row: &Row, key: &str, present: Option<&Arc<Entry>>, value: Ready) -> Result<Option<Arc<Entry>>, Failed> {
    match commit(store, row, key, present, value).await? {
        Some(entry) => told(store, row, entry).await.map(Some).map_err(Failed::Unknown),
        None => Ok(None),
    }
}

/// Bytes of a request to etcd at most (its default of `max-request-bytes`). What is larger than it takes is no object of a cluster's: it
/// could not be taken to another one, nor be sent back by who has changed it.
const REQUEST_BYTES_MAX: usize = 1536 * 1024;
/// Beside its object a write's request has its key three times (compared, written, read where the comparison fails), and about so much.
const FRAME_BYTES: usize = 64;

/// Whether etcd would refuse an object for its size. The program's own kinds lie there as messages, others as JSON.
fn is_too_large(row: &Row, key: &str, json: &[u8]) -> bool {
    let room = REQUEST_BYTES_MAX.saturating_sub(3 * key.len() + FRAME_BYTES);
    json.len() > room && (row.custom.is_some() || proto::stored_len(row.storage_ty(), json).is_none_or(|bytes| bytes > room))
}

async fn commit(store: &Store, row: &Row, key: &str, present: Option<&Arc<Entry>>, ready: Ready) -> Result<Option<Arc<Entry>>, Failed> {
    let expect = present.map_or(Expect::Absent, |present| Expect::Revision(present.revision));
    let draft = draft(row, ready, present);
    let done = if present.is_some() { Done::Update } else { Done::Create };
    if is_too_large(row, key, draft.json()) {
        row.labels().written.note(done, Came::Failed, Duration::ZERO);
        // Upstream passes on what etcd says.
        return Err(Failed::Refused(Status::new(500, "", "etcdserver: request is too large")));
    }
    let begun = Instant::now();
    let put = store.put(row.bucket(store), key, expect, draft).await;
    row.labels().written.note(done, came_of(&put), begun.elapsed());
    match put {
        Ok(entry) => Ok(Some(entry)),
        Err(CommitError::Conflict) => Ok(None),
        Err(error @ CommitError::Full) => Err(Failed::Refused(unavailable(&error))),
        Err(error) => Err(Failed::Unknown(unavailable(&error))),
    }
}

fn came_of(wrote: &Result<Arc<Entry>, CommitError>) -> Came {
    match wrote {
        Ok(_) => Came::Written,
        Err(CommitError::Conflict) => Came::Nothing,
        Err(_) => Came::Failed,
    }
}

/// Removes an object, and tells the revision of that; none if the present one is another.
pub(crate) async fn delete(store: &Store, row: &Row, key: &str, present: &Entry) -> Result<Option<u64>, Status> {
    let begun = Instant::now();
    let deleted = store.delete(row.bucket(store), key, Expect::Revision(present.revision)).await;
    row.labels().written.note(Done::Delete, came_of(&deleted), begun.elapsed());
    match deleted {
        Ok(last) => Ok(Some(last.revision)),
        Err(CommitError::Conflict) => Ok(None),
        Err(error) => Err(unavailable(&error)),
    }
}

/// The changes of a scope after a revision; the oldest known one if that is too old.
pub(crate) fn watch(store: &Store, row: &Row, from: u64, scope: Scope) -> Result<Watch, Expired> {
    store.watch(row.bucket(store), from, scope, row.fields())
}

/// The newest state, and where an index knows it, the only entries that can be selected.
pub(crate) fn candidates(store: &Store, row: &Row, demands: &[Demand<'_>]) -> (Snapshot, Option<Candidates>) {
    store.snapshot_for(row.bucket(store), demands, row.fields())
}

/// An event as a line of JSON.
pub(crate) fn json_frame(row: &Row, change: Change, entry: &Arc<Entry>) -> Bytes {
    let make = || json_line(change.name(), &json(row, entry));
    if row.reader().is_some() { make() } else { row.frames().get(entry.revision, change, false, make) }
}

/// An event as length-delimited protobuf.
pub(crate) fn protobuf_frame(row: &Row, change: Change, entry: &Arc<Entry>) -> Bytes {
    let make = || delimited(&proto::watch_event(change.name(), &protobuf(row, entry)));
    if row.reader().is_some() { make() } else { row.frames().get(entry.revision, change, true, make) }
}

/// For a watch of a whole bucket, which asks for no field.
fn no_fields() -> store::FieldsOf {
    Arc::new(|_| Vec::new())
}

/// The store's newest state as authentication and authorisation read it: objects in their storage versions.
pub(crate) struct StoredObjects(pub(crate) Store);

impl identity::Objects for StoredObjects {
    fn get(&self, key: &str) -> Option<Arc<Value>> {
        self.0.bucket_of(key)?.get(key).map(|e| e.value())
    }

    fn changes(&self, prefix: &str, since: Option<u64>) -> Changes {
        let Some(bucket) = self.0.bucket_of(prefix) else { return Changes { mark: 0, whole: true, objects: Vec::new() } };
        if let Some(mut watch) = since.and_then(|since| self.0.watch(&bucket, since, Scope::Bucket, &no_fields()).ok()) {
            let mut changes = Changes { mark: since.unwrap_or_default(), whole: false, objects: Vec::new() };
            // What is there is told at once; nothing is waited for.
            loop {
                match watch.next().now_or_never() {
                    None => return changes,
                    Some(Ok(event)) => {
                        changes.mark = event.revision;
                        let entry = event.new.as_ref().or(event.old.as_ref());
                        let value = event.new.as_ref().map(Entry::value);
                        changes.objects.extend(entry.map(|entry| (Arc::clone(&entry.key), value)));
                    }
                    Some(Err(_)) => break,
                }
            }
        }
        // The mark is taken first: what changes meanwhile is told again rather than missed.
        let mark = bucket.last_revision();
        let Some(snapshot) = self.0.snapshot(&bucket, None) else { return Changes { mark, whole: true, objects: Vec::new() } };
        let objects = snapshot.range(prefix, "").map(|entry| (Arc::clone(&entry.key), Some(entry.value()))).collect();
        Changes { mark, whole: true, objects }
    }

    fn on_node(&self, prefix: &str, node: &str, visit: &mut dyn FnMut(Seen<'_>) -> ControlFlow<()>) {
        let Some(bucket) = self.0.bucket_of(prefix) else { return };
        let strategy = kinds::strategy("", "pods");
        let fields: store::FieldsOf = Arc::new(move |value: &Value| strategy.selectable_fields(value));
        let (snapshot, candidates) = self.0.snapshot_for(&bucket, &[Demand::Field("spec.nodeName", node)], &fields);
        let all: Box<dyn Iterator<Item = &Arc<Entry>>> = match &candidates {
            Some(candidates) => Box::new(candidates.range(&snapshot, prefix, "")),
            None => Box::new(snapshot.range(prefix, "")),
        };
        for entry in all {
            if entry.attributes(|value| fields(value)).field("spec.nodeName") != Some(node) {
                continue;
            }
            if visit(Seen { key: &entry.key, revision: entry.revision, value: &|| entry.value() }).is_break() {
                return;
            }
        }
    }

    fn version(&self, prefixes: &[&str]) -> u64 {
        prefixes.iter().filter_map(|prefix| self.0.bucket_of(prefix)).map(|bucket| bucket.last_revision()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_without_room_refuses_as_upstream_passes_it_on() {
        let told = unavailable(&CommitError::Full);
        assert_eq!((told.code, told.reason.as_str(), told.message.as_str()), (500, "", "etcdserver: mvcc: database space exceeded"));
        assert_eq!(unavailable(&CommitError::Closed).code, 503);
    }

    #[test]
    fn what_is_long_not_ready_is_to_be_asked_later() {
        let again = |seconds: u64| unready(&Status::internal("x"), Duration::from_secs(seconds)).details.map(|details| details.retry_after_seconds);
        assert_eq!([0, 12, 20, 40, 500].map(again), [1, 2, 3, 11, 30].map(Some));
    }
}
