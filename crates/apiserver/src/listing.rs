//! Lists, written as they are sent: an answer holds a window of what it sends, whatever the number of objects.
//!
//! A list is a head, its items and a tail. [`Listing`] makes windows of them: JSON from the bytes that lie in memory, YAML,
//! tables and bare metadata from one tree at a time; indentation is added as the bytes pass. A large list that is asked for
//! compressed is put together from stretches that are kept ([`crate::gzip`]). The first window is made with the request, the
//! rest on the heavy threads, when the connection has room for them.
//!
//! Items of a built-in type carry no apiVersion and kind, as the original's typed lists; those of custom resources do.

use crate::{
    Body, BoxError,
    gzip::{self, Packed, Packer},
    negotiate::{self, Accepted, Encoding, Form},
    offload, reply,
    rows::Row,
    storage,
    table::{self, Among},
    windows::{Indented, WINDOW_BYTES, Windows},
};
use bytes::Bytes;
use futures_util::stream;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use machinery::{
    Map, Value,
    gvk::Gvk,
    json::{self, Texts},
    proto, yaml,
};
use std::{cmp::Reverse, collections::VecDeque, sync::Arc, time::SystemTime, vec};
use store::Entry;

/// What a list's items are made of.
enum Items {
    Stored(vec::IntoIter<Arc<Entry>>),
    Computed(vec::IntoIter<Value>),
}

enum Item {
    Stored(Arc<Entry>),
    Computed(Value),
}

impl Iterator for Items {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        match self {
            Items::Stored(entries) => entries.next().map(Item::Stored),
            Items::Computed(values) => values.next().map(Item::Computed),
        }
    }
}

/// A list of stored objects.
pub(crate) struct List {
    /// The objects, in the order of their keys.
    pub(crate) entries: Vec<Arc<Entry>>,
    /// The revision of the snapshot.
    pub(crate) revision: u64,
    /// Token of the next page; empty on the last.
    pub(crate) next: String,
    /// Objects beyond this page, where it is known.
    pub(crate) remaining: Option<u64>,
}

impl List {
    /// The list's metadata.
    pub(crate) fn metadata(&self) -> Value {
        let mut metadata = Map::new();
        if !self.next.is_empty() {
            metadata.insert("continue".into(), self.next.clone().into());
        }
        if let Some(remaining) = self.remaining {
            metadata.insert("remainingItemCount".into(), remaining.into());
        }
        metadata.insert("resourceVersion".into(), self.revision.to_string().into());
        Value::Object(metadata)
    }
}

/// How a list is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) accepted: Accepted,
    pub(crate) include: table::Include,
    pub(crate) now: SystemTime,
}

/// Answers a list of stored objects.
pub(crate) fn stored(row: &Arc<Row>, asked: Asked, list: List) -> Response<Body> {
    let plain = matches!(asked.accepted.encoding, Encoding::Json if !asked.accepted.pretty) || asked.accepted.encoding == Encoding::Protobuf;
    if asked.accepted.gzip && plain && asked.accepted.form == Form::Object && list.entries.iter().all(|entry| storage::lies(row, entry)) {
        let mut bytes = 0;
        let large = list.entries.iter().any(|entry| {
            bytes += entry.json.len();
            bytes >= gzip::MIN_BYTES
        });
        if large {
            return packed(row, asked, list);
        }
    }
    let metadata = list.metadata();
    answer(StatusCode::OK, asked.accepted, Box::new(Listing::new(row, asked, &metadata, Items::Stored(list.entries.into_iter()))))
}

/// Answers a list of objects that are found out when they are asked for.
pub(crate) fn computed(row: &Arc<Row>, asked: Asked, values: Vec<Value>) -> Response<Body> {
    let metadata = Value::Object(Map::new());
    answer(StatusCode::OK, asked.accepted, Box::new(Listing::new(row, asked, &metadata, Items::Computed(values.into_iter()))))
}

fn media(accepted: Accepted) -> &'static str {
    match accepted.encoding {
        Encoding::Json => negotiate::JSON,
        Encoding::Yaml => negotiate::YAML,
        Encoding::Protobuf => negotiate::PROTOBUF,
    }
}

/// A small answer leaves whole, a large one as it is made.
pub(crate) fn answer(code: StatusCode, accepted: Accepted, mut windows: Box<dyn Windows>) -> Response<Body> {
    let mut first = Vec::new();
    while first.len() < gzip::MIN_BYTES {
        match windows.window() {
            Some(window) if first.is_empty() => first = window,
            Some(window) => first.extend_from_slice(&window),
            None => return reply::respond(code, media(accepted), first),
        }
    }
    let mut response = reply::respond(code, media(accepted), Bytes::new());
    let stream = if accepted.gzip {
        reply::tell_gzip(&mut response);
        let mut packed = Packed::new();
        let ready = VecDeque::from([packed.push(&first)]);
        Stream { source: Some(Source::Packed(windows, packed)), ready }
    } else {
        Stream { source: Some(Source::Plain(windows)), ready: VecDeque::from([first.into()]) }
    };
    *response.body_mut() = stream_of(stream);
    response
}

/// A large list from kept stretches.
fn packed(row: &Arc<Row>, asked: Asked, list: List) -> Response<Body> {
    let metadata = list.metadata();
    let bytes = || list.entries.iter().map(|entry| item_bytes(storage::protobuf_len(row, entry))).sum();
    let (head, tail) = frame(row, asked, &metadata, bytes);
    let packer = Packer::new(row, asked.accepted.encoding, head, list.entries.into_iter(), tail);
    let mut stream = Stream { source: Some(Source::Stretches(packer)), ready: VecDeque::new() };
    stream.advance();
    let mut response = reply::respond(StatusCode::OK, media(asked.accepted), Bytes::new());
    reply::tell_gzip(&mut response);
    *response.body_mut() = stream_of(stream);
    response
}

enum Source {
    Plain(Box<dyn Windows>),
    Packed(Box<dyn Windows>, Packed),
    Stretches(Packer),
}

/// An answer on its way.
struct Stream {
    /// What makes the rest; `None` at the end.
    source: Option<Source>,
    /// What is made and not yet sent.
    ready: VecDeque<Bytes>,
}

impl Stream {
    /// Makes the next window.
    fn advance(&mut self) {
        let Some(source) = &mut self.source else { return };
        let more = match source {
            Source::Plain(windows) => windows.window().map(|window| self.ready.push_back(window.into())),
            Source::Packed(windows, packed) => match windows.window() {
                Some(window) => {
                    self.ready.push_back(packed.push(&window));
                    Some(())
                }
                None => {
                    self.ready.push_back(packed.finish());
                    None
                }
            },
            Source::Stretches(packer) => packer.window(&mut self.ready),
        };
        if more.is_none() {
            self.source = None;
        }
    }
}

fn stream_of(stream: Stream) -> Body {
    let frames = stream::unfold(stream, |mut stream| async move {
        loop {
            match stream.ready.pop_front() {
                // An empty frame would say nothing.
                Some(bytes) if bytes.is_empty() => {}
                Some(bytes) => return Some((Ok::<_, BoxError>(Frame::data(bytes)), stream)),
                None if stream.source.is_none() => return None,
                None => {
                    stream = offload::call(move || {
                        stream.advance();
                        stream
                    })
                    .await;
                }
            }
        }
    });
    StreamBody::new(frames).boxed_unsync()
}

/// Makes the windows of a list.
pub(crate) struct Listing {
    row: Arc<Row>,
    asked: Asked,
    items: Items,
    /// The name of the default one among them, if the table tells it.
    default: Option<String>,
    head: Vec<u8>,
    tail: Vec<u8>,
    begun: bool,
    /// Whether no item was written.
    empty: bool,
    ended: bool,
    /// What is made and not yet written as it is to be.
    rest: Rest,
}

/// What is left of what was made last.
enum Rest {
    /// It is written as it is made.
    Nothing,
    /// JSON that is indented.
    Indented(Indented),
    /// An item in YAML.
    Yaml(Box<yaml::Emitter>),
}

impl Listing {
    fn new(row: &Arc<Row>, asked: Asked, metadata: &Value, items: Items) -> Listing {
        let is_table = matches!(asked.accepted.form, Form::Table(_));
        let default = row.strategy.may_be_default().filter(|_| is_table).and_then(|may_be| default_of(row, &items, may_be));
        let rank = row.strategy.row_rank().filter(|_| is_table);
        let items = match (items, rank) {
            (Items::Stored(entries), Some(rank)) => {
                let mut entries: Vec<_> = entries.collect();
                entries.sort_by_cached_key(|entry| rank(&storage::value(row, entry)));
                Items::Stored(entries.into_iter())
            }
            (items, _) => items,
        };
        let bytes = || match &items {
            Items::Stored(entries) => entries.as_slice().iter().map(|entry| item_bytes(message_len(row, asked, &Item::Stored(Arc::clone(entry))))).sum(),
            Items::Computed(values) => values.as_slice().iter().map(|value| item_bytes(message_len(row, asked, &Item::Computed(value.clone())))).sum(),
        };
        let none = match &items {
            Items::Stored(entries) => entries.as_slice().is_empty(),
            Items::Computed(values) => values.as_slice().is_empty(),
        };
        let (mut head, mut tail) = frame(row, asked, metadata, bytes);
        // (The bracket is the last of the head, and the tail begins with the other.)
        if none && asked.accepted.encoding == Encoding::Json && is_collected(row, asked.accepted.form) {
            head.pop();
            head.extend_from_slice(b"null");
            tail.remove(0);
        }
        let rest = if is_indented(asked.accepted) { Rest::Indented(Indented::default()) } else { Rest::Nothing };
        Listing { row: Arc::clone(row), asked, items, default, head, tail, begun: false, empty: true, ended: false, rest }
    }

    /// Makes the next piece: the head, an item, or the tail.
    fn piece(&mut self, out: &mut Vec<u8>) {
        if !self.begun {
            self.begun = true;
            out.append(&mut self.head);
        } else if let Some(item) = self.items.next() {
            self.write(&item, out);
            self.empty = false;
        } else {
            self.ended = true;
            self.end(out);
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if self.asked.accepted.encoding == Encoding::Yaml && self.empty {
            let null = is_collected(&self.row, self.asked.accepted.form);
            // `items:` and its line's end stand there.
            out.pop();
            out.extend_from_slice(if null { b" null\n" } else { b" []\n" });
        }
        out.append(&mut self.tail);
    }

    fn write(&mut self, item: &Item, out: &mut Vec<u8>) {
        match self.asked.accepted.encoding {
            Encoding::Json => {
                if !self.empty {
                    out.push(b',');
                }
                self.write_json(item, out);
            }
            Encoding::Yaml => {
                let value = match self.asked.accepted.form {
                    Form::Object => self.bare(item),
                    _ => {
                        let mut text = Vec::new();
                        self.write_json(item, &mut text);
                        json::read(&text).unwrap_or_default()
                    }
                };
                self.rest = Rest::Yaml(Box::new(yaml::Emitter::element(&value)));
            }
            Encoding::Protobuf => {
                let message = message(&self.row, self.asked, item);
                out.extend_from_slice(proto::ItemHead::new(message.len()).as_ref());
                out.extend_from_slice(&message);
            }
        }
    }

    fn write_json(&self, item: &Item, out: &mut Vec<u8>) {
        match (self.asked.accepted.form, item) {
            (Form::Object, Item::Stored(entry)) if storage::lies(&self.row, entry) => {
                storage::item_json(&self.row, entry).into_iter().for_each(|part| out.extend_from_slice(part))
            }
            (Form::Object, _) => {
                let texts = match item {
                    Item::Stored(entry) => storage::texts(&self.row, entry),
                    Item::Computed(_) => Texts::default(),
                };
                out.extend_from_slice(&json::encode_spelled(self.row.written_ty(), &self.bare(item), &texts));
            }
            (Form::Table(version), _) => {
                let value = self.value(item);
                let is_default = self.default.as_deref().is_some_and(|name| value["metadata"]["name"] == name);
                let among = if is_default { Among::Default } else { Among::Alone };
                table::write_row(&self.row, &value, version, self.asked.include, self.asked.now, among, out);
            }
            (Form::Partial(version), _) => out.extend_from_slice(&table::partial_json(&self.value(item), version)),
        }
    }

    fn value(&self, item: &Item) -> Arc<Value> {
        value(&self.row, item)
    }

    /// An item without what the list says for all.
    fn bare(&self, item: &Item) -> Value {
        let mut value = (*self.value(item)).clone();
        if let (Value::Object(map), true) = (&mut value, self.row.is_builtin()) {
            map.remove("kind");
            map.remove("apiVersion");
        }
        value
    }
}

impl Windows for Listing {
    fn window(&mut self) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(WINDOW_BYTES + WINDOW_BYTES / 4);
        while out.len() < WINDOW_BYTES {
            match &mut self.rest {
                Rest::Yaml(item) => {
                    if item.window(WINDOW_BYTES, &mut out) {
                        self.rest = Rest::Nothing;
                    }
                }
                Rest::Indented(indented) if !indented.is_empty() => indented.take(&mut out),
                _ if self.ended => break,
                Rest::Indented(_) => {
                    let mut piece = Vec::new();
                    self.piece(&mut piece);
                    if let Rest::Indented(indented) = &mut self.rest {
                        indented.push(piece);
                    }
                }
                Rest::Nothing => self.piece(&mut out),
            }
        }
        Some(out).filter(|out| !out.is_empty())
    }
}

fn value(row: &Row, item: &Item) -> Arc<Value> {
    match item {
        Item::Stored(entry) => storage::value(row, entry),
        Item::Computed(value) => Arc::new(value.clone()),
    }
}

/// The name of the default one: of those that may be it the last that was made, and of several made then the first by name.
fn default_of(row: &Row, items: &Items, may_be: fn(&Value) -> bool) -> Option<String> {
    let Items::Stored(entries) = items else { return None };
    let text = |value: &Value, key: &str| value["metadata"][key].as_str().unwrap_or_default().to_owned();
    let found = entries.as_slice().iter().map(|entry| storage::value(row, entry)).filter(|value| may_be(value));
    let last = found.map(|value| (text(&value, "creationTimestamp"), Reverse(text(&value, "name")))).max();
    last.map(|(_, Reverse(name))| name)
}

/// An item as a protobuf message.
fn message(row: &Row, asked: Asked, item: &Item) -> Bytes {
    match (asked.accepted.form, item) {
        (Form::Partial(version), _) => match table::partial_type() {
            Some(ty) => proto::encode_raw(ty, &table::partial(&value(row, item), version)).into(),
            None => Bytes::new(),
        },
        (_, Item::Stored(entry)) => storage::protobuf_raw(row, entry),
        (_, Item::Computed(value)) => proto::encode_raw(row.ty(), value).into(),
    }
}

fn message_len(row: &Row, asked: Asked, item: &Item) -> usize {
    match (asked.accepted.form, item) {
        (Form::Partial(_), _) | (_, Item::Computed(_)) => message(row, asked, item).len(),
        (_, Item::Stored(entry)) => storage::protobuf_len(row, entry),
    }
}

/// The bytes that a message of this length takes in its list.
fn item_bytes(message: usize) -> usize {
    proto::ItemHead::new(message).as_ref().len() + message
}

/// Whether upstream collects the items in a slice of its own, which nothing has made when there are none: the metadata of objects, and
/// rows of kinds that its printers do not know.
fn is_collected(row: &Row, form: Form) -> bool {
    match form {
        Form::Partial(_) => true,
        // What has no printer of its own says when it was made.
        Form::Table(_) => row.is_builtin() && row.resource.columns.iter().any(|column| column.name == "Created At"),
        Form::Object => false,
    }
}

fn is_indented(accepted: Accepted) -> bool {
    accepted.pretty && accepted.encoding == Encoding::Json
}

/// What stands before and after the items. A protobuf list tells its length first, so its items are measured before they are
/// written.
fn frame(row: &Row, asked: Asked, metadata: &Value, items_bytes: impl FnOnce() -> usize) -> (Vec<u8>, Vec<u8>) {
    match asked.accepted.encoding {
        Encoding::Json => {
            let (head, mut tail) = json_frame(row, asked, metadata);
            if !is_indented(asked.accepted) {
                tail.push(b'\n');
            }
            (head, tail)
        }
        Encoding::Yaml => yaml_frame(row, asked, metadata),
        Encoding::Protobuf => {
            let kind = match asked.accepted.form {
                Form::Partial(version) => Gvk::parse(version, "PartialObjectMetadataList"),
                _ => list_kind(row),
            };
            let frame = proto::ListFrame::new(&kind, metadata, items_bytes());
            (frame.head, frame.tail.to_vec())
        }
    }
}

/// The kind of a row's lists.
fn list_kind(row: &Row) -> Gvk {
    Gvk { kind: row.list_kind.clone(), ..row.resource.kind.clone() }
}

/// What stands before and after the items in JSON.
fn json_frame(row: &Row, asked: Asked, metadata: &Value) -> (Vec<u8>, Vec<u8>) {
    let list = table::list_metadata(metadata);
    let list = String::from_utf8_lossy(&list);
    let head = match asked.accepted.form {
        Form::Table(version) => table::head(row, &list, version, true),
        Form::Partial(version) => format!(r#"{{"kind":"PartialObjectMetadataList","apiVersion":"{version}","metadata":{list},"items":["#),
        Form::Object if row.is_builtin() => format!(r#"{{"kind":"{}","apiVersion":"{}","metadata":{list},"items":["#, row.list_kind, row.api_version),
        // A list of custom resources is a map, whose keys are sorted.
        Form::Object => {
            let tail = format!(r#"],"kind":"{}","metadata":{}}}"#, row.list_kind, untyped(metadata));
            return (format!(r#"{{"apiVersion":"{}","items":["#, row.api_version).into(), tail.into());
        }
    };
    (head.into(), b"]}".to_vec())
}

/// A list's metadata in a list without a type of its own, where nothing is left out.
fn untyped(metadata: &Value) -> Value {
    let mut metadata = metadata.clone();
    if metadata["continue"].is_null() {
        metadata["continue"] = "".into();
    }
    metadata
}

/// What stands before and after the items in YAML, whose keys are sorted.
fn yaml_frame(row: &Row, asked: Asked, metadata: &Value) -> (Vec<u8>, Vec<u8>) {
    let (api_version, kind) = match asked.accepted.form {
        Form::Table(version) => (version, "Table".to_owned()),
        Form::Partial(version) => (version, "PartialObjectMetadataList".to_owned()),
        Form::Object => (row.api_version.as_str(), row.list_kind.clone()),
    };
    let (mut before, mut after) = (serde_json::json!({ "apiVersion": api_version }), serde_json::json!({}));
    let items = if matches!(asked.accepted.form, Form::Table(_)) {
        before["columnDefinitions"] = table::columns(row);
        before["kind"] = kind.into();
        before["metadata"] = metadata.clone();
        "rows:\n"
    } else {
        let untyped_list = row.custom.is_some() && asked.accepted.form == Form::Object;
        after = serde_json::json!({"kind": kind, "metadata": if untyped_list { untyped(metadata) } else { metadata.clone() }});
        "items:\n"
    };
    let tail = if after.as_object().is_some_and(Map::is_empty) { String::new() } else { yaml::encode(&after) };
    ((yaml::encode(&before) + items).into(), tail.into())
}
