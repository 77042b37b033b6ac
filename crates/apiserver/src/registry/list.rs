//! Get and list. Both answer from memory; a page of a list is a piece of one exact snapshot.

use super::{Call, Selectors, cursor::Cursor};
use crate::{
    astray,
    conversion::Memory,
    listing::List,
    query::Query,
    respond::Answer,
    rows::Row,
    storage::{self, Demand, Snapshot},
};
use http::StatusCode;
use machinery::{
    field::{self, Path},
    fields::FieldSelector,
    labels::{Operator, Selector},
    names,
    quote::Quoted,
    status::Status,
};
use serde_json::json;
use std::sync::Arc;
use store::Entry;

/// Objects that are converted at once for a selector.
const PIECE_OBJECTS: usize = 500;

/// The kinds of whose objects upstream's watch cache has an index, and the field that it is by (`IndexFields` of their predicates).
const INDEXED_KINDS: [&str; 2] = ["Pod", "ResourceSlice"];
const INDEXED_FIELD: &str = "spec.nodeName";

/// Answers a GET of one object.
pub(crate) async fn get(call: &Call<'_>) -> Result<Answer, Status> {
    Ok(Answer::Stored(StatusCode::OK, call.entry(memory(call)?).await?))
}

/// What a GET of one object, or of a part of one, says of how new it is to be.
pub(crate) fn memory(call: &Call<'_>) -> Result<Memory, Status> {
    if call.query.flag("export") {
        return Err(Status::bad_request("the export parameter, deprecated since v1.14, is no longer supported"));
    }
    if let Some(version) = revision(call.query.text("resourceVersion")).map_err(unreadable)? {
        within_reach(call, version)?;
    }
    // Who says a revision takes what is remembered, as upstream answers from its cache.
    Ok(if call.query.text("resourceVersion").is_empty() { Memory::Anew } else { Memory::Enough })
}

/// The options of a list.
struct Options {
    limit: usize,
    /// The snapshot that is asked for exactly.
    exact: Option<u64>,
    after: String,
    /// How many are left after the page before, where its token says so.
    left: Option<u64>,
    /// It is read in pages, whoever has asked for that.
    paged: bool,
}

impl Options {
    /// Whether upstream's watch cache gives such a list, and not what it is made from.
    fn are_of_cache(&self, selectors: &Selectors) -> bool {
        self.exact.is_none() && self.after.is_empty() && !(self.paged && selectors.is_everything())
    }
}

/// Answers a GET of many.
pub(crate) async fn list(call: &Call<'_>) -> Result<Answer, Status> {
    let selectors = Selectors::of(call.query, call.row)?;
    let options = options(call, false)?;
    match select(call, &selectors, &options).await? {
        Some(list) => Ok(Answer::List(list)),
        None if options.after.is_empty() => Err(too_old()),
        None => Ok(page_too_old(&options, &prefix(call))),
    }
}

/// What a list with these selectors and the query's options has, for who reads it in pages whatever is asked for: of a revision that is
/// told it is what there was then.
pub(crate) async fn of(call: &Call<'_>, selectors: &Selectors) -> Result<List, Status> {
    select(call, selectors, &options(call, true)?).await?.ok_or_else(too_old)
}

fn too_old() -> Status {
    Status::expired("The resourceVersion for the provided list is too old.")
}

/// The selected objects of a snapshot as the row has them; `None` if that is no longer known.
async fn select(call: &Call<'_>, selectors: &Selectors, options: &Options) -> Result<Option<List>, Status> {
    let (row, store) = (call.row, call.world.store());
    check_root(call, selectors)?;
    if options.are_of_cache(selectors) {
        let (unread, prefix, name) = (storage::begun(store, row).await?, prefix(call), one_name(call, selectors));
        storage::untold(row, unread, |key| key.strip_prefix(prefix.as_str()).is_some_and(|rest| name.is_none_or(|name| rest == name)))?;
    }
    let converted = if row.reader().is_some() && !selectors.is_everything() {
        let Some(snapshot) = storage::snapshot(store, row, options.exact) else { return Ok(None) };
        let selected = converted(call, selectors, options, &snapshot).await?;
        Some((snapshot, selected))
    } else {
        None
    };
    let Some(mut list) = pick(call, selectors, options, converted) else { return Ok(None) };
    list.entries = storage::seen(store, row, list.entries).await?;
    Ok(Some(list))
}

/// Those that are selected by what they say when they are converted, and of a page one more: only what is converted can be selected.
async fn converted(call: &Call<'_>, selectors: &Selectors, options: &Options, snapshot: &Snapshot) -> Result<Vec<Arc<Entry>>, Status> {
    let (prefix, start) = bounds(call, options);
    let all: Vec<Arc<Entry>> = match one_name(call, selectors).filter(|_| options.after.is_empty()) {
        Some(name) => snapshot.get(&format!("{prefix}{name}")).cloned().into_iter().collect(),
        None => snapshot.range(&prefix, &start).cloned().collect(),
    };
    let mut selected = Vec::new();
    for piece in all.chunks(PIECE_OBJECTS) {
        let seen = storage::seen(call.world.store(), call.row, piece.to_vec()).await?;
        selected.extend(seen.into_iter().filter(|entry| selectors.matches(call.row, entry)));
        if options.limit > 0 && selected.len() > options.limit {
            break;
        }
    }
    Ok(selected)
}

/// The prefix of the keys that are asked for.
fn prefix(call: &Call<'_>) -> String {
    let (root, namespace) = (&call.row.root_key, call.namespace());
    if namespace.is_empty() { root.clone() } else { format!("{root}{namespace}/") }
}

/// That prefix, and the key after which they begin.
fn bounds(call: &Call<'_>, options: &Options) -> (String, String) {
    let prefix = prefix(call);
    let start = if options.after.is_empty() { String::new() } else { format!("{prefix}{}", options.after) };
    (prefix, start)
}

/// The selected objects of a snapshot, or of what was `converted` of it; `None` if that is no longer known.
fn pick(call: &Call<'_>, selectors: &Selectors, options: &Options, converted: Option<(Snapshot, Vec<Arc<Entry>>)>) -> Option<List> {
    let row = call.row;
    let (converted, of) = converted.map(|(snapshot, entries)| (entries, snapshot)).unzip();
    let demands = demands(row, selectors);
    let (snapshot, candidates) = match (of, options.exact) {
        (Some(snapshot), _) => (snapshot, None),
        (None, None) => storage::candidates(call.world.store(), row, &demands),
        (None, exact) => (storage::snapshot(call.world.store(), row, exact)?, None),
    };
    let (prefix, start) = bounds(call, options);
    if let Some(name) = one_name(call, selectors).filter(|_| options.after.is_empty() && converted.is_none()) {
        let found = snapshot.get(&format!("{prefix}{name}")).filter(|e| selectors.matches(row, e));
        let entries = found.cloned().into_iter().collect();
        return Some(List { entries, revision: snapshot.revision(), next: String::new(), remaining: None });
    }
    let everything = selectors.is_everything();
    let mut list = List { entries: Vec::new(), revision: snapshot.revision(), next: String::new(), remaining: None };
    let all: Box<dyn Iterator<Item = &Arc<Entry>>> = match (&converted, &candidates) {
        (Some(converted), _) => Box::new(converted.iter()),
        (None, Some(candidates)) => Box::new(candidates.range(&snapshot, &prefix, &start)),
        (None, None) => Box::new(snapshot.range(&prefix, &start)),
    };
    let selected = all.filter(|entry| everything || selectors.matches(row, entry));
    if options.limit == 0 {
        list.entries.extend(selected.cloned());
        return Some(list);
    }
    list.entries.extend(selected.take(options.limit).cloned());
    // With a selector the rest is not counted, as upstream: one more object is enough to go on, whether it matches or not. Where upstream
    // looks into an index, it is one more of those that are found there.
    let indexed = indexed(row, selectors, options);
    let is_found =
        |entry: &Arc<Entry>| indexed.is_none_or(|wanted| entry.attributes(|value| row.fields()(value)).field(INDEXED_FIELD).unwrap_or_default() == wanted);
    // Candidates by that field alone are all that are found there.
    let found = candidates.filter(|_| indexed.is_some() && matches!(demands[..], [Demand::Field(..)]));
    let goes_on = |last: &&Arc<Entry>| match &found {
        Some(found) => found.range(&snapshot, &prefix, &last.key).any(is_found),
        None => snapshot.range(&prefix, &last.key).any(is_found),
    };
    let last = list.entries.last().filter(|_| list.entries.len() == options.limit);
    if let Some(last) = last.filter(goes_on) {
        let after = storage::key(last).strip_prefix(prefix.as_str()).map(str::to_owned);
        // Each page has one snapshot, so the pages before it tell what is left.
        let before = match (options.after.is_empty(), options.left) {
            (true, _) => u64::try_from(snapshot.count(&prefix)).ok(),
            // The page before was selected, and nobody has counted what it left.
            (false, None) if everything => u64::try_from(snapshot.range(&prefix, &start).count()).ok(),
            (false, left) => left,
        };
        list.remaining = before.filter(|_| everything).and_then(|before| before.checked_sub(list.entries.len() as u64));
        list.next = Cursor { revision: Some(list.revision), after: after.unwrap_or_default(), left: list.remaining }.encode(&prefix);
    }
    Some(list)
}

/// What an index may know: the labels and fields that must have one value.
fn demands<'s>(row: &Row, selectors: &'s Selectors) -> Vec<Demand<'s>> {
    let fields = selectors.fields.iter().flat_map(FieldSelector::requirements);
    // Name and namespace are in the key; another version's fields are not those of what is stored.
    let fields = fields.filter(|r| r.equal && !row.converts && row.is_builtin() && !r.field.starts_with("metadata."));
    let labels = selectors.labels.iter().flat_map(Selector::requirements);
    let labels = labels.filter(|r| r.operator == Operator::In && r.values.len() == 1);
    let fields = fields.map(|r| Demand::Field(&r.field, &r.value));
    fields.chain(labels.flat_map(|r| r.values.iter().map(|value| Demand::Label(&r.key, value)))).collect()
}

/// The value that upstream looks up in an index: not for a snapshot of the past, nor for a page that goes on.
fn indexed<'s>(row: &Row, selectors: &'s Selectors, options: &Options) -> Option<&'s str> {
    let has_index = row.is_builtin() && INDEXED_KINDS.contains(&row.resource.kind.kind.as_str());
    let is_asked = has_index && options.exact.is_none() && options.after.is_empty();
    selectors.fields.as_ref().filter(|_| is_asked)?.exact(INDEXED_FIELD)
}

/// The one name that a field selector asks for, where the place of the object is known: no search is needed.
fn one_name<'s>(call: &Call<'_>, selectors: &'s Selectors) -> Option<&'s str> {
    let placed = !call.row.resource.namespaced || !call.namespace().is_empty();
    selectors.fields.as_ref().filter(|_| placed)?.exact("metadata.name")
}

/// Of what is in no namespace that there can be: the one that is asked for, if it can be named, or all.
pub(super) fn check_root(call: &Call<'_>, selectors: &Selectors) -> Result<(), Status> {
    let name = one_name(call, selectors).filter(|name| names::path_segment(name).is_empty());
    astray::check_key(call.row, call.namespace(), name.unwrap_or_default())
}

/// 410: a page whose snapshot is gone gets a token to go on without consistency.
fn page_too_old(options: &Options, prefix: &str) -> Answer {
    let status = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue \
         parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token \
         results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and \
         now may show up in the list.",
    );
    let mut value = status.to_value();
    value["metadata"]["continue"] = Cursor { revision: None, after: options.after.clone(), left: options.left }.encode(prefix).into();
    Answer::Other(StatusCode::GONE, value)
}

/// What is wrong with how the options of a list go together.
pub(super) fn misused(query: &Query<'_>) -> field::ErrorList {
    let (version, rule) = (query.text("resourceVersion"), query.text("resourceVersionMatch"));
    let path = Path::root("resourceVersionMatch");
    let mut errors = field::ErrorList::new();
    if !rule.is_empty() {
        if version.is_empty() {
            errors.push(field::Error::forbidden(&path, "resourceVersionMatch is forbidden unless resourceVersion is provided"));
        }
        if !query.text("continue").is_empty() {
            errors.push(field::Error::forbidden(&path, "resourceVersionMatch is forbidden when continue is provided"));
        }
        if !matches!(rule, "Exact" | "NotOlderThan") {
            errors.push(field::Error::not_supported(&path, json!(rule), &["Exact", "NotOlderThan", ""]));
        }
        if rule == "Exact" && version == "0" {
            errors.push(field::Error::forbidden(&path, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""));
        }
    }
    if query.get("sendInitialEvents").is_some() {
        errors.push(field::Error::forbidden(&Path::root("sendInitialEvents"), "sendInitialEvents is forbidden for list"));
    }
    errors
}

/// The options, whose selectors have been read. `paged`: it is read in pages, though nobody has said of how many.
fn options(call: &Call<'_>, paged: bool) -> Result<Options, Status> {
    let query = call.query;
    let (version, rule, token) = (query.text("resourceVersion"), query.text("resourceVersionMatch"), query.text("continue"));
    let limit = usize::try_from(query.int("limit")?.unwrap_or(0)).unwrap_or(0);
    if !token.is_empty() {
        let cursor = Cursor::decode(token, &prefix(call))?;
        if !matches!(version, "" | "0") {
            return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
        }
        if let Some(wanted) = cursor.revision {
            within_reach(call, wanted)?;
        }
        let paged = paged || limit > 0;
        let limit = if of_cache(call, version) { 0 } else { limit };
        return Ok(Options { limit, exact: cursor.revision, after: cursor.after, left: cursor.left, paged });
    }
    let wanted = revision(version).map_err(|why| Status::bad_request(format!("invalid resource version: {why}")))?;
    if let Some(wanted) = wanted {
        within_reach(call, wanted)?;
    }
    let is_paged = paged || limit > 0;
    let limit = if of_cache(call, version) { 0 } else { limit };
    // Upstream reads an exact snapshot also where a limit goes with a version and no rule is given.
    let exact = wanted.filter(|v| *v > 0 && (rule == "Exact" || (rule.is_empty() && (paged || limit > 0))));
    Ok(Options { limit, exact, after: String::new(), left: None, paged: is_paged })
}

/// Whether any version will do: that is upstream's cache's to give, which gives all; events alone have none.
fn of_cache(call: &Call<'_>, version: &str) -> bool {
    version == "0" && !call.row.holds_events()
}

/// Reads a resourceVersion. Upstream words what is none in the same way everywhere and answers it in three.
pub(crate) fn revision(text: &str) -> Result<Option<u64>, field::Error> {
    if text.is_empty() {
        return Ok(None);
    }
    numbered(text).map(Some).map_err(|why| field::Error::invalid(&Path::root("resourceVersion"), json!(text), why))
}

/// A resourceVersion's number; else why Go reads none from it.
pub(super) fn numbered(text: &str) -> Result<u64, String> {
    let told = |why: &str| format!("strconv.ParseUint: parsing {}: {why}", Quoted(text));
    // In Go a number without a sign has none.
    if text.starts_with('+') {
        return Err(told("invalid syntax"));
    }
    text.parse::<u64>().map_err(|e| {
        let is_large = *e.kind() == std::num::IntErrorKind::PosOverflow;
        told(if is_large { "value out of range" } else { "invalid syntax" })
    })
}

/// Where nothing else is wrong, an error of its own becomes upstream's 500 without a reason.
pub(crate) fn unreadable(why: field::Error) -> Status {
    Status::new(500, "", why.to_string())
}

/// The same for a list or an object. Of events upstream has no cache that could catch up, so nobody is told to come again.
fn within_reach(call: &Call<'_>, wanted: u64) -> Result<(), Status> {
    not_ahead(wanted, storage::revision(call.world.store())).map_err(|mut status| {
        if let Some(details) = status.details.as_mut().filter(|_| call.row.holds_events()) {
            details.retry_after_seconds = 0;
        }
        status
    })
}

/// A version that this server has not reached is told as upstream does after its wait: every revision that was ever
/// handed out is in this server's memory, so there is nothing to wait for.
pub(crate) fn not_ahead(wanted: u64, current: u64) -> Result<(), Status> {
    if wanted <= current {
        return Ok(());
    }
    Err(Status::too_large_resource_version(wanted, current))
}
