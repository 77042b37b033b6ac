//! The trait that every kind's logic implements, with default bodies that do what most kinds want.

use crate::{name_rule::NameRule, rows, schema, tree};
use machinery::{Value, field::ErrorList, json::Blanks, schema::Text};
use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool},
    time::SystemTime,
};

/// What a strategy may know of the request.
#[derive(Debug, Clone)]
pub struct Context {
    /// The time of the request.
    pub now: SystemTime,
    /// The name of the user who asks.
    pub user: String,
    /// The user's UID, groups and further attributes: kinds that record who asked want them.
    pub identity: Identity,
    /// What the body has that is empty, where the object goes without.
    pub blanks: Arc<Blanks>,
    /// Whether the object had labels before it had defaults.
    pub labelled: bool,
}

/// What is known of a user besides the name.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// UID, may be empty.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Further attributes.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What is said of an object.
#[derive(Debug, Default)]
pub struct Judged {
    /// What is wrong with it, apart from its metadata.
    pub errors: ErrorList,
    /// What the client of one that is right should be told.
    pub warnings: Vec<String>,
    /// What is told of one that is wrong as well: what was let pass because it was there before.
    pub let_pass: Vec<String>,
}

impl Judged {
    pub(crate) fn of(errors: ErrorList, warnings: impl FnOnce() -> Vec<String>) -> Self {
        let warnings = if errors.is_empty() { warnings() } else { Vec::new() };
        Self { errors, warnings, let_pass: Vec::new() }
    }
}

impl Context {
    /// A request of a user of whom only the name is known.
    pub fn new(now: SystemTime, user: impl Into<String>) -> Self {
        Self { now, user: user.into(), identity: Identity::default(), blanks: Arc::default(), labelled: false }
    }

    /// Writes down who asked, as the spec of a certificate signing request has it.
    pub(crate) fn identify(&self, spec: &mut tree::Fields) {
        spec.insert("username".into(), self.user.as_str().into());
        if !self.identity.uid.is_empty() {
            spec.insert("uid".into(), self.identity.uid.as_str().into());
        }
        if !self.identity.groups.is_empty() {
            spec.insert("groups".into(), self.identity.groups.clone().into());
        }
        if !self.identity.extra.is_empty() {
            spec.insert("extra".into(), self.identity.extra.iter().map(|(k, v)| (k.clone(), Value::from(v.clone()))).collect());
        }
    }
}

/// Fields that selectors may name, with an object's values.
pub type Selectable = Vec<(Text, String)>;

/// What happens to the dependents of a deleted object (`DeleteOptions.propagationPolicy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// They stay, without the owner.
    Orphan,
    /// The garbage collector removes them afterwards.
    Background,
    /// They go first.
    Foreground,
}

/// An object as it is written: without what is empty that only its strategy is told of.
#[must_use]
pub fn as_written<'v>(strategy: &dyn Strategy, obj: &'v Value) -> Cow<'v, Value> {
    tree::without_blanks(obj, strategy.told_blanks())
}

/// What a kind adds to the generic path.
///
/// A kind usually implements only `default`, `check`, `check_update` and `row`; the rest says how it differs.
pub trait Strategy: Send + Sync {
    /// Lists and maps for which it matters that a body has them, though they be empty: those stay in the object until it is stored.
    fn told_blanks(&self) -> &'static [&'static str] {
        &[]
    }

    /// Adds what upstream's defaults add to an object that it reads from its store, as it does before it answers.
    fn read_again(&self, _obj: &mut Value) {}

    /// Adds what upstream's defaults add to an object that has its empty lists and maps again.
    fn complete(&self, _whole: &mut Value) {}

    /// Whether it matters to who judges an object that its body has lists and maps that are empty, wherever they are.
    fn judges_blanks(&self) -> bool {
        false
    }

    /// Why upstream cannot turn a body of this version into what it works with, though its fields are right: told before anybody looks
    /// at the rest.
    fn inconvertible(&self, _obj: &Value) -> Option<String> {
        None
    }

    /// Adds the defaults that are not in the schema. Called for every body that arrives, also for updates.
    fn default(&self, _obj: &mut Value) {}

    /// Whether the server counts the changes of the desired state in `metadata.generation`.
    fn has_generation(&self) -> bool {
        false
    }

    /// What is said of a new object before it is readied, be it right or wrong.
    fn preparing(&self, _obj: &Value) -> Vec<String> {
        Vec::new()
    }

    /// Readies a new object: what only controllers write is dropped, the generation begins at 1.
    fn prepare_create(&self, _cx: &Context, obj: &mut Value) {
        tree::reset_status(obj);
        if self.has_generation() {
            tree::set_meta(obj, "generation", 1.into());
        }
    }

    /// Readies an update of the object itself: the status stays, a change of anything but metadata counts.
    fn prepare_update(&self, _cx: &Context, obj: &mut Value, old: &Value) {
        tree::keep(obj, old, "status");
        if self.has_generation() && tree::body_differs(&tree::without_blanks(obj, self.told_blanks()), old) {
            tree::bump_generation(obj, old);
        }
    }

    /// Whether who writes the status changes no metadata, but for who manages what: upstream's strategies of some kinds keep it all.
    fn status_keeps_metadata(&self) -> bool {
        false
    }

    /// Readies an update of the status: everything but status and metadata stays, and that too where [`Self::status_keeps_metadata`].
    fn prepare_status(&self, _cx: &Context, obj: &mut Value, old: &Value) {
        tree::keep_all_but_status(obj, old);
        if self.status_keeps_metadata() {
            tree::keep_all_but_managers(obj, old);
        }
    }

    /// An object as it lies in upstream's store, which tells it otherwise: it is changed, and whose its fields are is found out, as it lies.
    /// None where that is as it is told.
    fn as_it_lies(&self, _obj: &Value) -> Option<Value> {
        None
    }

    /// Readies an update through an endpoint that only this kind has: nothing but the endpoint's own fields changes. One of
    /// which nothing is known writes the status.
    fn prepare_part(&self, _cx: &Context, _part: &str, obj: &mut Value, old: &Value) {
        tree::keep_all_but(obj, old, &["status"]);
    }

    /// Readies an update through an endpoint of the object, `""` being the object itself: what the request path calls, the
    /// same for every kind.
    fn prepare_through(&self, cx: &Context, part: &str, obj: &mut Value, old: &Value) {
        match part {
            "" | "scale" => self.prepare_update(cx, obj, old),
            "status" => self.prepare_status(cx, obj, old),
            own => self.prepare_part(cx, own, obj, old),
        }
    }

    /// The kind's own checks of an object as a whole.
    fn check(&self, _obj: &Value, _errors: &mut ErrorList) {}

    /// Completes what an object says of its addresses: a new one's before anybody looks at them or gives it some, a changed one's when all have.
    fn name_addresses(&self, _obj: &mut Value) {}

    /// What is wrong with a new object so that nobody looks at the rest.
    fn stops(&self, _obj: &Value) -> ErrorList {
        ErrorList::new()
    }

    /// The kind's own checks of a change: fields that may not change.
    fn check_update(&self, _obj: &Value, _old: &Value, _errors: &mut ErrorList) {}

    /// What is wrong with a new object, apart from its metadata.
    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        self.check(obj, &mut errors);
        schema::check_enums(obj, &mut errors);
        errors
    }

    /// What is wrong with an update, apart from its metadata.
    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate(obj);
        self.check_update(obj, old, &mut errors);
        errors
    }

    /// What is wrong with an update of the status.
    fn validate_status(&self, _obj: &Value, _old: &Value) -> ErrorList {
        ErrorList::new()
    }

    /// What is wrong with an update through an endpoint that only this kind has.
    fn validate_part(&self, _part: &str, _obj: &Value, _old: &Value) -> ErrorList {
        ErrorList::new()
    }

    /// What is wrong with an update through an endpoint: the counterpart of `prepare_through`.
    fn validate_through(&self, part: &str, obj: &Value, old: &Value) -> ErrorList {
        match part {
            "" | "scale" => self.validate_update(obj, old),
            "status" => self.validate_status(obj, old),
            own => self.validate_part(own, obj, old),
        }
    }

    /// Fills in the times that a body has by default, before it is told whose its fields are.
    fn default_times(&self, _now: SystemTime, _obj: &mut Value) {}

    /// What is said of a new object. Setting `stop` ends what takes long of it: nobody waits for it then, and the object is not right.
    fn judge(&self, obj: &Value, _stop: &AtomicBool) -> Judged {
        Judged::of(self.validate(obj), || self.warnings(obj, None))
    }

    /// What is said of an update through an endpoint, as [`Self::judge`] says it.
    fn judge_through(&self, part: &str, obj: &Value, old: &Value, _stop: &AtomicBool) -> Judged {
        let warnings = || match part {
            "" | "scale" => self.warnings(obj, Some(old)),
            "status" => self.status_warnings(obj),
            _ => Vec::new(),
        };
        Judged::of(self.validate_through(part, obj, old), warnings)
    }

    /// The fields that field selectors may name, with their values, besides `metadata.name` and `metadata.namespace`. The
    /// names are the same for every object, `Null` included.
    fn selectable_fields(&self, _obj: &Value) -> Selectable {
        Vec::new()
    }

    /// The selectable field that a selector means by a name of old.
    fn field_alias(&self, _field: &str) -> Option<&'static str> {
        None
    }

    /// Whether it may take long to judge an object, however small it is.
    fn judges_at_length(&self) -> bool {
        false
    }

    /// What the client should be told although the object is accepted.
    fn warnings(&self, _obj: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    /// The same, of an object whose status is written.
    fn status_warnings(&self, _obj: &Value) -> Vec<String> {
        Vec::new()
    }

    /// By what the rows of a table of them are sorted, where that is not the name.
    fn row_rank(&self) -> Option<fn(&Value) -> i64> {
        None
    }

    /// What may be the default one among its kind, where there is such: the table of a list names it, the last that was made.
    fn may_be_default(&self) -> Option<fn(&Value) -> bool> {
        None
    }

    /// The table cells, in the order of the resource's columns.
    fn row(&self, obj: &Value, now: SystemTime) -> Vec<Value> {
        rows::cells(obj, now)
    }

    /// What the row of a table says besides of an object that has run to its end: the reason and the message of its condition `Completed`.
    fn row_completed(&self, _obj: &Value) -> Option<(&'static str, &'static str)> {
        None
    }

    /// How objects may be named.
    fn name_rule(&self) -> NameRule {
        if self.metadata_last() { NameRule::PathSegment } else { NameRule::Subdomain }
    }

    /// Whether an object for which nobody says a name is given one.
    fn is_named(&self) -> bool {
        false
    }

    /// Whether a name is made of what it is to begin with; else it is that.
    fn makes_names(&self) -> bool {
        true
    }

    /// What is wrong with the name, or the prefix of one, of an object whose kind checks it itself ([`NameRule::Own`]).
    fn own_name(&self, _obj: &Value, _name: &str, _prefix: bool) -> Vec<String> {
        Vec::new()
    }

    /// Whether a new object's metadata is looked at where nothing else is wrong: upstream's validation of the kind leaves it to what
    /// holds for every kind, which asks of names and finalizers no more than [`Self::name_rule`] and [`Self::any_finalizer`] say here.
    fn metadata_last(&self) -> bool {
        false
    }

    /// Whether PUT of an absent object makes it.
    fn allow_create_on_update(&self) -> bool {
        false
    }

    /// Whether [`Self::judge`] and [`Self::judge_through`] look at metadata too, as upstream's strategy of the kind does: a new
    /// object's is then left to them.
    fn judges_metadata(&self) -> bool {
        false
    }

    /// Whether finalizers may be called as anybody likes: only the original's core asks for a domain.
    fn any_finalizer(&self) -> bool {
        self.metadata_last()
    }

    /// Whether that holds for changes alone: upstream's updates of some kinds do not look again at what is checked of new objects.
    fn any_finalizer_later(&self) -> bool {
        false
    }

    /// Whether an update may leave the resourceVersion out.
    fn allow_unconditional_update(&self) -> bool {
        true
    }

    /// Whether it may through this version of the API.
    fn unconditional_through(&self, _version: &str) -> bool {
        self.allow_unconditional_update()
    }

    /// What becomes of the dependents if the deleter does not say.
    fn default_propagation(&self) -> Propagation {
        Propagation::Background
    }

    /// What a deleter is warned of who does not say what becomes of the dependents.
    fn deletion_warning(&self) -> Option<&'static str> {
        None
    }

    /// Why the object of this name is never deleted.
    fn keeps(&self, _name: &str) -> Option<&'static str> {
        None
    }

    /// Whether the end of an object is noted on it even where it takes no time.
    fn ends_gracefully(&self) -> bool {
        false
    }

    /// How long a deleted object stays, in seconds; 0: it goes at once.
    fn grace_period(&self, _obj: &Value, _requested: Option<i64>) -> i64 {
        0
    }

    /// The object after the first request to delete it, where the kind says what it is: something of the server's own is to be
    /// done before it goes.
    fn mark_deleted(&self, _obj: &Value, _now: SystemTime) -> Option<Value> {
        None
    }

    /// Whether a deletion answers the object that is gone instead of a Status (upstream's `ReturnDeletedObject`).
    fn answers_deleted(&self) -> bool {
        false
    }

    /// Whether the object stays when it is deleted though no finalizer of its metadata holds it.
    fn lingers(&self, _obj: &Value) -> bool {
        false
    }

    /// What the deletion of an object that lingers changes in it.
    fn begin_end(&self, _obj: &mut Value) {}

    /// The parts that a write of the object (`""`) or of a subresource leaves as they lie in the store, also where the version in which it is
    /// written cannot tell all of them: upstream takes them from what it has read, before any version of it.
    fn stays(&self, _part: &str) -> &'static [&'static str] {
        &[]
    }

    /// Whether the objects are given addresses and ports of the cluster.
    fn takes_addresses(&self) -> bool {
        false
    }

    /// The fields that writers of an endpoint (`""`, `status`, …) never own, since the server resets them.
    fn reset_fields(&self, subresource: &str) -> &'static [&'static [&'static str]] {
        match subresource {
            "" => &[&["status"]],
            "status" if self.status_keeps_metadata() => &[&["metadata"], &["spec"]],
            "status" => &[&["spec"]],
            _ => &[],
        }
    }
}

/// The strategy of kinds without logic of their own.
#[derive(Debug, Clone, Copy)]
pub struct Generic;

impl Strategy for Generic {
    fn has_generation(&self) -> bool {
        true
    }

    fn status_keeps_metadata(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn reset_fields(&self, subresource: &str) -> &'static [&'static [&'static str]] {
        match subresource {
            "" => &[&["status"]],
            "status" => &[&["spec"], &["metadata", "labels"], &["metadata", "annotations"], &["metadata", "finalizers"], &["metadata", "ownerReferences"]],
            _ => &[],
        }
    }
}
