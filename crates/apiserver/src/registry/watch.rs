//! Watch: every change from a revision on, exactly once and in order, as frames of JSON lines or length-delimited
//! protobuf. A frame is encoded once per encoding, however many watch it.
//!
//! A watch without a revision begins with the present state as `ADDED` events. A reader that falls behind what the
//! store's history holds gets an `ERROR` event with 410 and the end; it is never skipped over. Where a webhook
//! converts the objects and does not convert one, the watch ends without a word, as upstream's: who begins it again is told why.

use super::{Call, Selectors, delete, list};
use crate::{
    Body, BoxError,
    frames::{Change, delimited, json_line},
    negotiate::{Encoding, Form},
    query::Query,
    reply,
    respond::Answer,
    rows::Row,
    storage::{self, Scope},
    table,
    world::World,
};
use bytes::Bytes;
use futures_util::{FutureExt as _, stream};
use http::StatusCode;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use machinery::{
    Value,
    field::{self, ErrorList, Path},
    proto,
    status::Status,
};
use serde_json::json;
use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};
use store::Entry;
use tokio::time::{Instant, Sleep};

/// How often a watch that allows bookmarks gets one, as upstream.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// The end of the initial state is marked within this time; a watch whose last bookmark comes no later has that one alone, as upstream.
const MARKED_WITHIN: Duration = Duration::from_millis(1250);
/// One comes so long before the watch's own end, so that its client goes on from the newest revision.
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);
/// Initial events are sent in pieces of about this size.
const PIECE_BYTES: usize = 64 * 1024;

/// What a watch asks for.
struct Options {
    /// Revision after which changes are told; `None` for "now".
    from: Option<u64>,
    /// The present state comes first.
    initial: bool,
    /// Why there is none to send: the one that was asked for is still to come.
    too_new: Option<Status>,
    /// Its time is over.
    over: bool,
    /// The end of the initial state is marked by a bookmark.
    mark_initial_end: bool,
    bookmarks: bool,
    timeout: Duration,
}

/// What is wrong with how the options of a watch go together.
pub(super) fn misused(query: &Query<'_>) -> ErrorList {
    let rule = query.text("resourceVersionMatch");
    let send = query.flag_opt("sendInitialEvents");
    let path = Path::root("resourceVersionMatch");
    let mut errors = ErrorList::new();
    if send.is_some() && rule != "NotOlderThan" {
        errors.push(field::Error::forbidden(&path, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"));
    }
    if send.is_none() && !rule.is_empty() {
        errors.push(field::Error::forbidden(&path, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"));
    }
    if !matches!(rule, "" | "NotOlderThan") {
        errors.push(field::Error::not_supported(&path, json!(rule), &["NotOlderThan"]));
    }
    // Where nothing is said of the beginning, it is set to what needs the rule.
    let with_initial = send.is_none() && rule.is_empty() && matches!(query.text("resourceVersion"), "" | "0");
    if (!rule.is_empty() || with_initial) && !query.text("continue").is_empty() {
        errors.push(field::Error::forbidden(&path, "resourceVersionMatch is forbidden when continue is provided"));
    }
    errors
}

fn options(call: &Call<'_>) -> Result<Options, Status> {
    let query = call.query;
    let send = query.flag_opt("sendInitialEvents");
    let version = list::revision(query.text("resourceVersion")).map_err(list::unreadable)?;
    let version = version.filter(|v| *v > 0);
    let initial = send.unwrap_or(version.is_none());
    // A state that is still to come cannot be sent; what comes after it can be waited for.
    let too_new = version.filter(|_| initial).and_then(|version| list::not_ahead(version, storage::revision(call.world.store())).err());
    let bookmarks = query.flag("allowWatchBookmarks");
    // As Go counts them: so many seconds that their nanoseconds do not fit are some other number.
    let nanos = query.int("timeoutSeconds")?.map(|seconds| seconds.wrapping_mul(1_000_000_000));
    let timeout = match nanos {
        Some(nanos) if nanos != 0 => Duration::from_nanos(u64::try_from(nanos).unwrap_or_default()),
        // Between once and twice the least, so that the watches of a restart do not all end together again.
        _ => call.world.config().watch_timeout_min.mul_f64(1.0 + spread(call.cx.now)),
    };
    // A watch of less than no time is over before it has begun.
    let over = nanos.is_some_and(|nanos| nanos < 0);
    Ok(Options {
        from: if initial { None } else { version },
        initial: initial && too_new.is_none() && !over,
        too_new: too_new.filter(|_| !over),
        over,
        // A watch that begins with all that there is asks for that, whether it says so or not (upstream's `SetListOptionsDefaults`).
        mark_initial_end: initial && bookmarks && !over,
        bookmarks,
        timeout,
    })
}

/// A number from 0 to 1 from the time's last digits.
fn spread(now: SystemTime) -> f64 {
    let nanos = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    f64::from(nanos % 1_000_003) / 1_000_003.0
}

/// When the next bookmark of a watch comes that has so long left, if one does (upstream's `nextBookmarkTime`).
fn bookmark_in(left: Duration) -> Option<Duration> {
    left.checked_sub(BOOKMARK_BEFORE_END).filter(|ahead| !ahead.is_zero()).map(|ahead| ahead.min(BOOKMARK_EVERY))
}

/// What an object of which nothing is said says in a bookmark where upstream holds it otherwise inside: what may be left out is a number
/// there, and what has a default has none yet.
fn as_inside(row: &Row, value: &mut Value) {
    let absent = match (row.resource.group.as_str(), row.resource.kind.kind.as_str()) {
        ("apps", "Deployment" | "ReplicaSet" | "StatefulSet") => {
            value["spec"]["replicas"] = 0.into();
            return;
        }
        ("apps", "DaemonSet") => {
            value["metadata"]["annotations"]["deprecated.daemonset.template.generation"] = "0".into();
            return;
        }
        ("", "ReplicationController") => "replicas",
        ("certificates.k8s.io", "PodCertificateRequest") => "maxExpirationSeconds",
        _ => return,
    };
    value["spec"].as_object_mut().map(|spec| spec.remove(absent));
}

/// Answers a watch.
pub(crate) async fn watch(call: &Call<'_>) -> Result<Answer, Status> {
    let selectors = Selectors::of(call.query, call.row)?;
    // A path of old that names an object: a selector may say the same, and nothing else.
    let named = call.cx.info.is_of_old && !call.name().is_empty();
    if named && selectors.fields.as_ref().is_some_and(|fields| !fields.requirements().is_empty() && fields.exact("metadata.name") != Some(call.name())) {
        return Err(Status::bad_request("fieldSelector metadata.name doesn't match requested name"));
    }
    let options = options(call)?;
    call.accepted.for_watch()?;
    let include = table::Include::of_form(call.accepted.form, call.query)?;
    list::check_root(call, &selectors)?;
    let unread = storage::begun(call.world.store(), call.row).await?;
    // What a custom kind's objects are looked at with is made here and not where the first event is told.
    call.row.ty();
    let namespace = call.namespace();
    let row = Arc::clone(call.row);
    let prefix = if namespace.is_empty() { row.root_key.clone() } else { format!("{}{namespace}/", row.root_key) };
    let snapshot = storage::snapshot(call.world.store(), &row, None).ok_or_else(|| Status::internal("the newest state is not there"))?;
    let from = options.from.unwrap_or(snapshot.revision());
    let name = call.name().to_owned();
    let wanted = Wanted { row, prefix, name, selectors };
    let mut initial: Vec<Arc<Entry>> = Vec::new();
    if options.initial && wanted.row.reader().is_some() {
        storage::untold(&wanted.row, unread, |key| snapshot.get(key).is_some_and(|entry| wanted.is_placed(entry)))?;
        let placed = snapshot.range(&wanted.prefix, "").filter(|e| wanted.is_placed(e)).cloned().collect();
        initial = storage::seen(call.world.store(), &wanted.row, placed).await?;
        initial.retain(|e| wanted.takes(e));
    } else if options.initial {
        initial.extend(snapshot.range(&wanted.prefix, "").filter(|e| wanted.takes(e)).cloned());
    }
    let format = Format { encoding: call.accepted.encoding, form: call.accepted.form, include };
    let mut stream = Stream {
        world: call.world.clone(),
        format,
        untold: call.accepted.many && matches!(format.form, Form::Partial(_)),
        first: true,
        ended: None,
        source: None,
        initial: initial.into_iter(),
        initial_end: (options.mark_initial_end && options.too_new.is_none()).then_some(from),
        seen: from,
        deadline: Box::pin(tokio::time::sleep(options.timeout)),
        bookmark: bookmark_in(options.timeout)
            .filter(|ahead| options.bookmarks && (!options.mark_initial_end || *ahead > MARKED_WITHIN))
            .map(|ahead| Box::pin(tokio::time::sleep(ahead))),
        last: false,
        wanted,
    };
    // Once a watch is let in, errors are told as events, as upstream's cacher tells them.
    match storage::watch(call.world.store(), &stream.wanted.row, from, stream.wanted.scope()) {
        _ if options.over || options.too_new.is_some() => stream.ended = options.too_new,
        Ok(source) => stream.source = Some(source),
        Err(storage::Expired(oldest)) => stream.ended = Some(Status::expired(format!("too old resource version: {from} ({oldest})"))),
    }
    // Metadata alone comes as protobuf, too; tables are never asked for so.
    let mut response = reply::respond(StatusCode::OK, format.encoding.watch_media_type(), Bytes::new());
    *response.body_mut() = body(stream);
    Ok(Answer::Whole(response))
}

fn body(stream: Stream) -> Body {
    let frames = stream::unfold(stream, |mut stream| async move {
        let bytes = stream.next().await?;
        Some((Ok::<_, BoxError>(Frame::data(bytes)), stream))
    });
    StreamBody::new(frames).boxed_unsync()
}

/// Which objects are watched.
struct Wanted {
    row: Arc<Row>,
    prefix: String,
    /// The one object of a watch on it; empty for all.
    name: String,
    selectors: Selectors,
}

/// The field by which the original tells its watches apart, since each node watches its own pods.
const NODE: &str = "spec.nodeName";

impl Wanted {
    /// The narrowest part of the resource's changes that holds all that is wanted.
    fn scope(&self) -> Scope {
        let exact = |field: &str| self.selectors.fields.as_ref().and_then(|fields| fields.exact(field));
        let name = if self.name.is_empty() { exact("metadata.name") } else { Some(self.name.as_str()) };
        let placed = !self.row.resource.namespaced || self.prefix != self.row.root_key;
        if let Some(name) = name.filter(|_| placed) {
            return Scope::Object(format!("{}{name}", self.prefix));
        }
        let own_fields = !self.row.converts && self.row.is_builtin();
        if let Some(node) = exact(NODE).filter(|_| own_fields) {
            return Scope::Field(NODE, node.to_owned());
        }
        if self.prefix == self.row.root_key { Scope::Bucket } else { Scope::Namespace(self.prefix.clone()) }
    }

    fn is_placed(&self, entry: &Entry) -> bool {
        let key = storage::key(entry);
        key.starts_with(self.prefix.as_str()) && (self.name.is_empty() || key.rsplit('/').next() == Some(self.name.as_str()))
    }

    fn takes(&self, entry: &Arc<Entry>) -> bool {
        self.is_placed(entry) && self.selectors.matches(&self.row, entry)
    }
}

/// How events are written.
#[derive(Debug, Clone, Copy)]
struct Format {
    encoding: Encoding,
    form: Form,
    include: table::Include,
}

struct Stream {
    world: World,
    wanted: Wanted,
    format: Format,
    /// Events are asked for as if each were many, which none is: it ends with the first that there is, as upstream's.
    untold: bool,
    /// Nothing was sent yet: a table's columns go with the first event.
    first: bool,
    /// The error that is still to be sent before the end.
    ended: Option<Status>,
    source: Option<storage::Watch>,
    initial: std::vec::IntoIter<Arc<Entry>>,
    /// The revision of the initial state, until its end is marked.
    initial_end: Option<u64>,
    /// The newest revision that the client knows to be complete.
    seen: u64,
    deadline: Pin<Box<Sleep>>,
    bookmark: Option<Pin<Box<Sleep>>>,
    /// The row is served no more.
    last: bool,
}

impl Stream {
    /// The next bytes; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(bytes) = self.initial_piece() {
            return (!self.untold).then_some(bytes);
        }
        if let Some(revision) = self.initial_end.take() {
            let mark = self.mark(revision, true);
            return self.sent(mark);
        }
        loop {
            let Some(source) = self.source.as_mut() else {
                let status = self.ended.take()?;
                let error = self.error(&status);
                self.wanted.row.labels().watched.note(error.len());
                return Some(error);
            };
            let tick = async {
                match self.bookmark.as_mut() {
                    Some(timer) => timer.as_mut().await,
                    None => std::future::pending().await,
                }
            };
            let row = Arc::clone(&self.wanted.row);
            let last = self.last;
            let ended = async {
                match &row.custom {
                    Some(custom) if !last => custom.ended.cancelled().await,
                    Some(_) => {}
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.world.ending().cancelled() => return None,
                () = ended => {
                    // The definition has changed or is gone: what has happened until then is still told.
                    self.last = true;
                    let Some(Ok(event)) = source.next().now_or_never() else { return None };
                    if event.revision <= self.seen {
                        continue;
                    }
                    if let Some(bytes) = self.told(event).await? {
                        return self.sent(bytes);
                    }
                }
                // Time comes first: a watch that always has something to tell would else never end.
                () = &mut self.deadline => return None,
                () = tick => {
                    let left = self.deadline.deadline().saturating_duration_since(Instant::now());
                    self.bookmark = bookmark_in(left).map(|ahead| Box::pin(tokio::time::sleep(ahead)));
                    let revision = source.passed().map_or(self.seen, |passed| passed.max(self.seen));
                    let mark = self.mark(revision, false);
                    return self.sent(mark);
                }
                event = source.next() => match event {
                    // A watch from a revision that is still to come tells nothing before it.
                    Ok(event) if event.revision <= self.seen => {}
                    Ok(event) => if let Some(bytes) = self.told(event).await? {
                        return self.sent(bytes);
                    },
                    Err(storage::Expired(oldest)) => {
                        self.wanted.row.labels().watched.leave_behind();
                        self.source = None;
                        self.ended = Some(Status::expired(format!("too old resource version: {} ({oldest})", self.seen)));
                    }
                },
            }
        }
    }

    /// What this client is told of a change, if it is told of it; `None` if the watch ends meanwhile, or because the change cannot be
    /// told.
    async fn told(&mut self, event: Arc<storage::Event>) -> Option<Option<Bytes>> {
        self.seen = event.revision;
        let before = !self.wanted.selectors.is_everything();
        let heard = storage::heard(self.world.store(), &self.wanted.row, event, |entry| self.wanted.is_placed(entry), before);
        let heard = tokio::select! {
            biased;
            heard = heard => heard,
            () = self.world.ending().cancelled() => return None,
            () = &mut self.deadline => return None,
        };
        match heard {
            Ok(event) => Some(self.event(&event)),
            Err(unread) => {
                tracing::debug!(key = %unread.key, why = unread.undecodable(), "a watch ends at what is not converted");
                None
            }
        }
    }

    /// One event that can be sent, which is counted, whatever it tells; `None` at the end.
    fn sent(&self, bytes: Bytes) -> Option<Bytes> {
        if self.untold {
            return None;
        }
        self.wanted.row.labels().watched.note(bytes.len());
        Some(bytes)
    }

    fn initial_piece(&mut self) -> Option<Bytes> {
        let mut piece = Vec::new();
        while piece.len() < PIECE_BYTES {
            let Some(entry) = self.initial.next() else { break };
            let row = &self.wanted.row;
            // Not by way of the remembered frames: those are for what many read at the same time.
            let frame = match (self.format.form, self.format.encoding) {
                (Form::Object, Encoding::Protobuf) => delimited(&proto::watch_event("ADDED", &storage::protobuf(row, &entry))),
                (Form::Object, _) => json_line("ADDED", &storage::json(row, &entry)),
                _ => self.frame(Change::Added, &entry),
            };
            self.wanted.row.labels().watched.note(frame.len());
            self.first = false;
            if piece.is_empty() && frame.len() >= PIECE_BYTES {
                return Some(frame);
            }
            piece.extend_from_slice(&frame);
        }
        (!piece.is_empty()).then(|| piece.into())
    }

    /// What this client sees of a change: an object that comes into its selection is added, one that leaves is deleted.
    fn event(&mut self, event: &storage::Event) -> Option<Bytes> {
        let (new, old) = (event.new.as_ref(), event.old.as_ref());
        let is = new.is_some_and(|e| self.wanted.takes(e));
        let was = old.is_some_and(|e| self.wanted.takes(e));
        match (was, is) {
            (false, false) => None,
            (false, true) => new.map(|e| self.frame(Change::Added, e)),
            (true, true) => new.map(|e| self.frame(Change::Modified, e)),
            (true, false) => Some(self.gone(event)),
        }
    }

    /// The last state that this client knew, at the revision of the change.
    fn gone(&mut self, event: &storage::Event) -> Bytes {
        if let Some(last) = &event.deleted {
            return self.frame(Change::Deleted, last);
        }
        let Some(old) = &event.old else { return Bytes::new() };
        let mut value = (*storage::value(&self.wanted.row, old)).clone();
        value["metadata"]["resourceVersion"] = event.revision.to_string().into();
        self.encode("DELETED", &value)
    }

    fn frame(&mut self, change: Change, entry: &Arc<Entry>) -> Bytes {
        let row = &self.wanted.row;
        match (self.format.form, self.format.encoding) {
            (Form::Object, Encoding::Protobuf) => {
                self.first = false;
                storage::protobuf_frame(row, change, entry)
            }
            (Form::Object, _) => {
                self.first = false;
                storage::json_frame(row, change, entry)
            }
            _ => {
                let value = storage::value(row, entry);
                self.encode(change.name(), &value)
            }
        }
    }

    /// Encodes an event about an object of the row's kind in this watch's form.
    fn encode(&mut self, kind: &str, value: &Value) -> Bytes {
        let row = Arc::clone(&self.wanted.row);
        let first = std::mem::replace(&mut self.first, false);
        match self.format.form {
            Form::Object => self.whole(kind, row.written_ty(), value),
            Form::Table(version) => {
                let metadata = json!({"resourceVersion": value["metadata"]["resourceVersion"]});
                // A bookmark, too, has its row; that which ends the initial events shows its annotation there whatever is asked for.
                let ends = kind == "BOOKMARK" && !value["metadata"]["annotations"].is_null();
                let include = match self.format.include {
                    table::Include::None if ends => table::Include::Metadata,
                    asked => asked,
                };
                json_line(kind, &table::one(&row, value, &table::Head { metadata: &metadata, version, with_columns: first }, include, SystemTime::now()))
            }
            Form::Partial(version) => {
                let partial = table::partial(value, version);
                self.whole(kind, table::partial_type(), &partial)
            }
        }
    }

    fn whole(&self, kind: &str, ty: Option<machinery::schema::TypeRef<'_>>, value: &Value) -> Bytes {
        match (self.format.encoding, ty) {
            (Encoding::Protobuf, Some(ty)) => delimited(&proto::watch_event(kind, &proto::encode(ty, value))),
            _ => json_line(kind, &machinery::json::encode_as(ty, value)),
        }
    }

    /// A bookmark: everything up to a revision has been told.
    fn mark(&mut self, revision: u64, initial_end: bool) -> Bytes {
        let row = &self.wanted.row;
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        // It is an object of its kind of which nothing is said, and Go writes some of that.
        let mut value = delete::nothing(row);
        value["metadata"] = metadata;
        as_inside(row, &mut value);
        self.encode("BOOKMARK", &value)
    }

    fn error(&self, status: &Status) -> Bytes {
        let value = status.to_value();
        self.whole("ERROR", storage::type_of(&value), &value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bookmark_comes_each_minute_and_before_the_end() {
        let next = |left_s: u64| bookmark_in(Duration::from_secs(left_s)).map(|ahead| ahead.as_secs());
        assert_eq!([next(1800), next(62), next(61), next(8), next(2), next(1)], [Some(60), Some(60), Some(59), Some(6), None, None]);
    }
}
