//! Update, and the one loop that every change of a stored object takes: PUT, the four patches, `status`, `scale`,
//! `binding` and the rest differ only in how the next object is made from the present one.

use super::{
    ATTEMPTS_MAX, Call, admin_access,
    apply::{Apply, check_name},
    claim_rights, create, delete, list, meta,
    options::WriteOptions,
};
use crate::{
    Context, Operation, Write, admission,
    conversion::{Memory, Unread, replayed},
    errors, own,
    respond::Answer,
    rows::Row,
    services, storage,
    world::World,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::StatusCode;
use machinery::{
    Value, apply,
    field::{self, Path},
    json::{self, Texts},
    status::Status,
    time,
};
use serde_json::json;
use std::sync::Arc;
use store::Entry;

/// What is changed, and how.
pub(crate) struct Change<'a> {
    pub(crate) row: &'a Arc<Row>,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    /// Empty for the object itself.
    pub(crate) subresource: &'a str,
    pub(crate) options: &'a WriteOptions,
    /// An absent object is created.
    pub(crate) may_create: bool,
    /// The next object's managers are already written (server-side apply).
    pub(crate) applied: bool,
    /// The next object stems from the present one, so an absent resourceVersion means the present one's.
    pub(crate) derived: bool,
}

/// Answers a PUT.
pub(crate) async fn update(call: &Call<'_>, subresource: &str, body: &Bytes) -> Result<Answer, Status> {
    let options = WriteOptions::of(call, "UpdateOptions")?;
    let mut first = Some(body_value(call, &options, body)?);
    let may_create = may_create(call.row, subresource);
    let change_of =
        Change { row: call.row, namespace: call.namespace(), name: call.name(), subresource, options: &options, may_create, applied: false, derived: false };
    // Only an unconditional update that lost a race decodes its body again.
    change(call, &change_of, |_| match first.take() {
        Some(value) => Ok(value),
        None => body_value(call, &options, body),
    })
    .await
}

/// Whether an update makes what is not there. Upstream's stores of the statuses are copies of those of their kinds, and make it as well.
pub(super) fn may_create(row: &Row, subresource: &str) -> bool {
    matches!(subresource, "" | "status") && row.strategy.allow_create_on_update()
}

fn body_value(call: &Call<'_>, options: &WriteOptions, bytes: &Bytes) -> Result<Value, Status> {
    let mut value = call.decode(bytes, options.validation)?;
    create::check_kind(call.row, &value)?;
    own::default(call.row, &mut value);
    call.row.strategy.default_times(call.cx.now, &mut value);
    create::place(call.row, call.namespace(), &mut value)?;
    check_name(call, meta::text(&value, "name"))?;
    Ok(value)
}

/// How the next object is made from the present one.
pub(super) enum Make<'a> {
    /// On the spot.
    By(&'a mut (dyn FnMut(Option<&Value>) -> Result<Value, Status> + Send)),
    /// By an apply, which may have to ask how other versions look.
    Apply(&'a Apply<'a>),
    /// By a part of it that is a kind of its own.
    Part(&'a mut dyn Part),
}

/// A part of an object that is written as a kind of its own: those who may change what is written are asked about the part.
pub(crate) trait Part: Send {
    /// The next object, when they have been asked.
    fn next<'s>(&'s mut self, call: &'s Call<'_>, old: Option<&'s Value>) -> BoxFuture<'s, Result<Value, Status>>;
}

impl Make<'_> {
    async fn next(&mut self, call: &Call<'_>, old: Option<&Value>) -> Result<Value, Status> {
        match self {
            Make::By(make) => make(old),
            Make::Apply(apply) => Box::pin(apply.next(call, old)).await,
            Make::Part(part) => part.next(call, old).await,
        }
    }
}

/// Changes an object by a part of it.
pub(crate) async fn change_part(call: &Call<'_>, what: &Change<'_>, part: &mut dyn Part) -> Result<Answer, Status> {
    change_by(call, what, Make::Part(part)).await
}

/// Makes the next object from the present one and commits it, again and again until nobody was faster.
pub(crate) async fn change<F>(call: &Call<'_>, what: &Change<'_>, mut make: F) -> Result<Answer, Status>
where
    F: FnMut(Option<&Value>) -> Result<Value, Status> + Send,
{
    change_by(call, what, Make::By(&mut make)).await
}

pub(super) async fn change_by(call: &Call<'_>, what: &Change<'_>, mut make: Make<'_>) -> Result<Answer, Status> {
    super::placed(what.row, what.namespace, what.name)?;
    let key = what.row.resource.key(what.namespace, what.name);
    for attempt in 0..ATTEMPTS_MAX {
        call.cx.may_try(attempt)?;
        let present = storage::present(call.world.store(), what.row, &key, Memory::Enough).await;
        // What is only tried is read where lists are read, which say it otherwise.
        let dry_run = what.options.dry_run;
        let unreadable = |unread: Unread| if dry_run { storage::unread(&unread) } else { Status::new(500, "", unread.undecodable()) };
        let Some(entry) = present.map_err(unreadable)? else {
            if !what.may_create {
                return Err(errors::not_found(what.row, what.name));
            }
            let mut value = make.next(call, None).await?;
            let uid = meta::text(&value, "uid");
            if !uid.is_empty() {
                return Err(by_the_store(what.row, what.name, &value, dry_run, &uid_mismatch(uid, "")));
            }
            version(&value)?;
            // Nothing is there whose version it could be; only a plain create is told so. What is only tried does not come to the store,
            // which forgets it.
            if !dry_run {
                meta::set(&mut value, "resourceVersion", Value::Null);
            }
            let made = if what.applied { create::Made::Applied } else { create::Made::Updated };
            match create::create_value(call, what.row, what.namespace, what.options, value, made).await {
                // Somebody was faster; one that was given another name is not there to be changed.
                Err(status) if status.reason == "AlreadyExists" && status.details.as_ref().is_some_and(|details| details.name == what.name) => continue,
                other => return other,
            }
        };
        let old = storage::value(what.row, &entry);
        call.cx.note_present_texts(storage::texts(what.row, &entry));
        let lies = what.row.strategy.as_it_lies(&old);
        let value = make.next(call, Some(lies.as_ref().unwrap_or(&old))).await?;
        let admitted = matches!(make, Make::Part(_));
        if let Some(answer) = round(call, what, (&key, &entry), (&old, lies.as_ref()), (value, admitted)).await? {
            return Ok(answer);
        }
    }
    Err(errors::modified(what.row, what.name))
}

/// One round; `None` if somebody was faster. `lies`: the present object as [`kinds::Strategy::as_it_lies`] has it. `admitted`: those who may
/// change the next one have been asked.
async fn round(
    call: &Call<'_>,
    what: &Change<'_>,
    (key, entry): (&str, &Arc<Entry>),
    (old, lies): (&Value, Option<&Value>),
    (mut value, admitted): (Value, bool),
) -> Result<Option<Answer>, Status> {
    let (cx, row, options) = (call.cx, what.row, what.options);
    // An earlier release wrote less of what is absent (`null` where Go leaves nothing out), and that is no change of what may not
    // change. Upstream's decoder gives what is stored its defaults; here only what does not look alike is given them. What is custom has
    // those of the version in which it lies, and none of the one in which it is asked for.
    let filled;
    let old = if !row.is_builtin() || value["spec"] == old["spec"] {
        old
    } else {
        let mut with_defaults = old.clone();
        own::default(row, &mut with_defaults);
        filled = with_defaults;
        &filled
    };
    let checked = check_preconditions(what, &value, old);
    // Upstream has looked at the owners, a patch's too, before it finds that.
    if !what.derived || checked.is_err() {
        own::owners_once(&mut value, cx, what.derived);
    }
    checked?;
    // A Binding has been admitted as what it is.
    let admits = what.subresource != "binding";
    // What a body leaves out, those who may change it are not told of: the server writes it when they have (`BeforeUpdate`).
    if what.derived || !admits {
        keep_system_fields(&mut value, old);
    }
    if !what.applied {
        value = tracked(call, what, lies.unwrap_or(old), value).await;
    }
    // Upstream looks at those of a patch when it has been admitted, and whose they are has been noted.
    if what.derived {
        own::owners_once(&mut value, cx, true);
    }
    let write = Write {
        cx,
        row,
        operation: Operation::Update,
        subresource: what.subresource,
        namespace: what.namespace,
        name: what.name,
        dry_run: options.dry_run,
        old: Some(old),
        options: Some(options),
    };
    if admits {
        if !admitted {
            admission::mutate(call.world, &write, &mut value).await?;
        }
        create::place(row, what.namespace, &mut value)?;
        // Nor do those who are asked write what the server alone writes.
        keep_system_fields(&mut value, old);
    }
    kinds::withhold(&row.resource.group, &row.resource.kind.kind, &mut value, Some(old));
    row.strategy.prepare_through(&cx.strategy(), what.subresource, &mut value, old);
    storage::readable(&value)?;
    let hold = match row.strategy.takes_addresses() && what.subresource.is_empty() {
        true => {
            let stops = row.strategy.stops(&value);
            if !stops.is_empty() {
                return Err(errors::invalid(row, what.name, stops));
            }
            let offer = services::Offer::of(call.world).rehearsed(options.dry_run);
            Some(call.world.services().update(&mut value, old, &offer).map_err(|refused| services::refusal(row, what.name, refused))?)
        }
        false => None,
    };
    let kept = cx.present_texts();
    // Upstream looks at a Binding's target alone; its labels and annotations go to the pod past whoever looks at pods (`assignPod`).
    if admits {
        for warning in validate(call.world, what, cx, &value, old, &kept)? {
            cx.warn(warning);
        }
        admission::validate(call.world, &write, &value).await?;
    }
    let charges = admission::charge(call.world, &write, &value).await?;
    // Upstream leaves what was said to whoever reads it.
    if row.strategy.takes_addresses() && what.subresource.is_empty() {
        row.strategy.name_addresses(&mut value);
    }
    commit(call, what, (key, entry, old), Agreed { value, kept, hold, charges }).await
}

/// A change to which all who are asked have agreed, and what was taken for it.
struct Agreed<'a> {
    value: Value,
    /// How its free-form values are spelled.
    kept: Texts,
    /// Addresses and ports.
    hold: Option<services::Hold<'a>>,
    charges: admission::Charges,
}

/// Stores it; `None` if somebody was faster. What keeps it from the store gives back what was taken for it.
async fn commit(
    call: &Call<'_>,
    what: &Change<'_>,
    (key, entry, old): (&str, &Arc<Entry>, &Value),
    Agreed { mut value, kept, hold, charges }: Agreed<'_>,
) -> Result<Option<Answer>, Status> {
    let (cx, row) = (call.cx, what.row);
    if what.options.dry_run {
        cx.note_texts(kept);
        return Ok(Some(Answer::Object(StatusCode::OK, storage::rehearsed(call.world.store(), row, value).await?)));
    }
    // The store takes no link (upstream's `PrepareObjectForStorage`); what is only tried does not come there.
    meta::of(&mut value).remove("selfLink");
    // What is compared is what would lie in the store.
    let value = storage::settled(row, value);
    if meta::same(&value, old) && storage::is_current(call.world.store(), row, entry) && !cx.texts().respell(&kept) {
        return Ok(Some(Answer::Stored(StatusCode::OK, Arc::clone(entry))));
    }
    if delete::is_finished(row, &value) {
        // The last finalizer is gone: this change is the deletion, and what it was charged stands for nothing, won, lost or failed.
        let removed = delete::remove(call, row, key, entry, old).await;
        charges.refund(call.world).await;
        return Ok(removed?.map(|_| Answer::Object(StatusCode::OK, value)));
    }
    let ready = match storage::ready_settled(call.world.store(), row, value).await {
        Ok(ready) => ready.spelled(cx.texts()).staying(row.strategy.stays(what.subresource)),
        Err(error) => {
            charges.refund(call.world).await;
            return Err(error);
        }
    };
    let replaced = storage::replace(call.world.store(), row, key, entry, ready).await;
    let stored = create::settle(call.world, (what.namespace, what.name), (hold, charges), replaced).await?;
    Ok(stored.map(|entry| Answer::Stored(StatusCode::OK, entry)))
}

/// The next object with its managers.
async fn tracked(call: &Call<'_>, what: &Change<'_>, old: &Value, value: Value) -> Value {
    let (row, now) = (what.row, time::rfc3339(call.cx.now));
    let exclude = row.reset_fields(what.subresource);
    let track = |kind: apply::Written<'_>, value: &mut Value| {
        create::track(row, &call.cx.blanks(), value, |value| {
            apply::track_update(kind, Some(old), value, &what.options.manager, &row.api_version, what.subresource, &now, exclude);
        });
    };
    if row.reader().is_none() {
        let mut value = value;
        track(row.ty().into(), &mut value);
        return value;
    }
    let replayed = replayed(call.world, row, Some(old), |kind| {
        let mut next = value.clone();
        track(kind, &mut next);
        next
    });
    // Who writes in the version that is stored need not wait for a webhook to be well: nobody is told whose the fields are then.
    match Box::pin(replayed).await {
        Ok(next) => next,
        Err((why, mut next)) => {
            tracing::debug!(name = what.name, why, "the owners are left as they are");
            meta::set(&mut next, "managedFields", old["metadata"]["managedFields"].clone());
            next
        }
    }
}

pub(crate) fn uid_mismatch(wanted: &str, found: &str) -> String {
    format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}")
}

/// The UID, if given, must be the present object's: 409, upon which a client may read and try again.
pub(crate) fn check_uid(row: &Row, name: &str, value: &Value, old: &Value, dry_run: bool) -> Result<(), Status> {
    let (uid, old_uid) = (meta::text(value, "uid"), meta::text(old, "uid"));
    if uid.is_empty() || uid == old_uid {
        return Ok(());
    }
    Err(by_the_store(row, name, old, dry_run, &uid_mismatch(uid, old_uid)))
}

/// The revision, if given, must be the present object's, where it is a condition and not what was read (a Binding's).
pub(crate) fn check_revision(row: &Row, name: &str, value: &Value, old: &Value, dry_run: bool) -> Result<(), Status> {
    let (asked, is) = (meta::text(value, "resourceVersion"), meta::text(old, "resourceVersion"));
    if asked.is_empty() || asked == is {
        return Ok(());
    }
    Err(by_the_store(row, name, old, dry_run, &format!("Precondition failed: ResourceVersion in precondition: {asked}, ResourceVersion in object meta: {is}")))
}

/// It is the store that looks, and it says by what key; what stands before the store for a rehearsal does not know the whole of it.
fn by_the_store(row: &Row, name: &str, old: &Value, dry_run: bool, why: &str) -> Status {
    let whole = row.resource.key(meta::text(old, "namespace"), name);
    let key = if dry_run { whole.strip_prefix("/registry").unwrap_or(&whole) } else { &whole };
    errors::conflict(row, name, &format!("StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: {why}"))
}

/// The UID of an update must be the present object's, that of a patch is left to validation; the resourceVersion must be the
/// present one, unless the kind allows to go without.
fn check_preconditions(what: &Change<'_>, value: &Value, old: &Value) -> Result<(), Status> {
    if !what.derived {
        check_uid(what.row, what.name, value, old, what.options.dry_run)?;
    }
    let wanted = version(value)?;
    if wanted == 0 {
        // What is made from the present object has its version, unless a patch has taken it away.
        if what.row.strategy.unconditional_through(&what.row.resource.kind.version) {
            return Ok(());
        }
        let path = Path::root("metadata").child("resourceVersion");
        let error = field::Error::invalid(&path, json!(0), "must be specified for an update");
        // Upstream names the resource here, not the kind.
        let resource = &what.row.resource;
        return Err(Status::invalid(&resource.group, &resource.resource, what.name, vec![error]));
    }
    if wanted != version(old)? {
        return Err(errors::modified(what.row, what.name));
    }
    Ok(())
}

/// The version that an object says it has, 0 for none. It is the store's versioner that cannot read one, and nobody makes a Status of that.
fn version(value: &Value) -> Result<u64, Status> {
    match meta::text(value, "resourceVersion") {
        "" => Ok(0),
        text => list::numbered(text).map_err(|why| Status::new(500, "", why)),
    }
}

/// What a client may leave out of an update because only the server writes it. The time of creation is kept whatever the
/// client says, as upstream keeps it: a manifest that was saved before the object was made anew can be put back.
fn keep_system_fields(value: &mut Value, old: &Value) {
    let old = &old["metadata"];
    let metadata = meta::of(value);
    // An update neither takes a deletion back nor moves its time.
    if !old["deletionTimestamp"].is_null() {
        metadata.insert("deletionTimestamp".into(), old["deletionTimestamp"].clone());
    }
    for field in ["uid", "deletionGracePeriodSeconds"] {
        if metadata.get(field).is_none_or(|v| v.is_null() || v == "") && !old[field].is_null() {
            metadata.insert(field.into(), old[field].clone());
        }
    }
    for field in ["creationTimestamp", "generation", "resourceVersion"] {
        match &old[field] {
            Value::Null => metadata.remove(field),
            value => metadata.insert(field.into(), value.clone()),
        };
    }
}

/// Refuses what is wrong; else what the client should be told.
fn validate(world: &World, what: &Change<'_>, cx: &Context, value: &Value, old: &Value, kept: &Texts) -> Result<Vec<String>, Status> {
    let row = what.row;
    let mut errors = field::ErrorList::new();
    if what.subresource == "status" {
        errors.extend(admin_access::check_status(world, row, value, old));
        errors.extend(claim_rights::check(world, row, cx, value, old));
    }
    errors.extend(kinds::validate_meta_update(what.subresource, value, old, &*row.strategy));
    let judged = errors::judged(row, &cx.blanks(), value, |value| row.strategy.judge_through(what.subresource, value, old, cx.stop()));
    errors.extend(judged.errors);
    errors::show_blanks(&mut errors, &cx.blanks());
    let sent = cx.texts();
    // An apply without texts has changed nothing.
    if row.is_builtin() && row.resource.kind.kind == "ControllerRevision" && !(what.applied && sent.is_empty()) {
        keep_data(&mut errors, &sent, kept, &value["data"], &old["data"]);
    }
    judged.let_pass.into_iter().for_each(|warning| cx.warn(warning));
    // Who was asked about it may call it otherwise, and it is told of by that name (upstream's `BeforeUpdate`).
    if errors.is_empty() { Ok(judged.warnings) } else { Err(create::invalid(row, meta::text(value, "name"), value, errors)) }
}

/// Data that never changes is compared as the bytes that it came in, spaces and all.
fn keep_data(errors: &mut field::ErrorList, sent: &Texts, kept: &Texts, new: &Value, old: &Value) {
    if new.is_null() {
        return;
    }
    let text = match (sent.of(new), kept.of(new)) {
        (Some(text), _) => text.to_vec(),
        // What a patch leaves alone has been JSON that was written.
        (None, Some(text)) => Texts::compact(text),
        (None, None) => json::encode(new),
    };
    let path = Path::root("data");
    errors.retain(|error| error.path != path);
    if kept.of(old) != Some(text.as_slice()) {
        let shown = String::from_utf8_lossy(&Texts::compact(&text)).into_owned();
        errors.push(field::Error::invalid(&path, new.clone(), "field is immutable").shown_as(shown));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_s_data_is_compared_as_it_came() {
        let ty = machinery::schema::builtin().named("io.k8s.api.apps.v1.ControllerRevision").expect("a type");
        let of = |data: &str| Texts::read(ty, format!(r#"{{"data":{data}}}"#).as_bytes());
        let kept = of(r#"{"a": 1}"#);
        let told = |sent: &Texts, new: &Value| {
            let mut errors = vec![field::Error::invalid(&Path::root("data"), new.clone(), "field is immutable")];
            keep_data(&mut errors, sent, &kept, new, &json!({"a": 1}));
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let refused = |shown: &str| vec![format!("data: Invalid value: {shown}: field is immutable")];
        assert!(told(&of(r#"{"a": 1}"#), &json!({"a": 1})).is_empty());
        assert_eq!(told(&of(r#"{"a":1}"#), &json!({"a": 1})), refused(r#"{"a":1}"#));
        assert_eq!(told(Texts::NONE, &json!({"a": 1})), refused(r#"{"a":1}"#), "a patch of something else");
        assert_eq!(told(&of(r#"{"b": 2,"a": 1}"#), &json!({"a": 1, "b": 2})), refused(r#"{"b":2,"a":1}"#));
    }
}
