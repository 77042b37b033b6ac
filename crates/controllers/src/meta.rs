//! Shorthands on objects' metadata and the API's times.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use client::{Meta, Object};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use machinery::labels::Selector;

pub(crate) type Map = BTreeMap<String, String>;

static NONE: LazyLock<Map> = LazyLock::new(Map::new);

/// An optional map as a map.
pub(crate) fn map(map: Option<&Map>) -> &Map {
    map.unwrap_or(&NONE)
}

/// An object's labels.
pub(crate) fn labels(object: &impl Meta) -> &Map {
    map(object.meta().labels.as_ref())
}

/// An object's annotations.
pub(crate) fn annotations(object: &impl Meta) -> &Map {
    map(object.meta().annotations.as_ref())
}

/// An object's annotations, to be changed.
pub(crate) fn annotations_mut(object: &mut impl Meta) -> &mut Map {
    object.meta_mut().annotations.get_or_insert_default()
}

/// An object's revision; those of one kind are ordered.
pub(crate) fn revision(object: &impl Meta) -> u64 {
    object.resource_version().parse().unwrap_or(0)
}

/// An object's generation; 0 if it has none.
pub(crate) fn generation(object: &impl Meta) -> i64 {
    object.meta().generation.unwrap_or(0)
}

/// A selector ready to match; one that cannot be read selects nothing. To be kept, not made at each use (`compiled.rs`).
pub(crate) fn selector(selector: &LabelSelector) -> Selector {
    Selector::of(Some(selector))
}

/// A selector as the original's messages write it.
pub(crate) fn selector_text(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return "nil".to_owned() };
    let labels: Vec<String> = selector.match_labels.iter().flatten().map(|(k, v)| format!("{k}: {v},")).collect();
    let one = |e: &LabelSelectorRequirement| {
        let values = e.values.as_deref().unwrap_or_default().join(" ");
        format!("LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},", e.key, e.operator)
    };
    let expressions: Vec<String> = selector.match_expressions.iter().flatten().map(one).collect();
    format!("&LabelSelector{{MatchLabels:map[string]string{{{}}},MatchExpressions:[]LabelSelectorRequirement{{{}}},}}", labels.concat(), expressions.concat())
}

/// A selector by equality, as Services have it.
pub(crate) fn equality(set: Option<&Map>) -> Selector {
    Selector::from_set(map(set).iter().map(|(k, v)| (k.as_str(), v.as_str())))
}

/// When an object was created.
pub(crate) fn created(object: &impl Meta) -> Timestamp {
    time(object.meta().creation_timestamp.as_ref())
}

/// A time; the epoch if there is none.
pub(crate) fn time(time: Option<&Time>) -> Timestamp {
    time.map_or(Timestamp::UNIX_EPOCH, |t| t.0)
}

/// The API's time of a moment: whole seconds.
pub(crate) fn seconds(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// Whole seconds as a duration; negative ones are none.
pub(crate) fn secs(seconds: impl Into<i64>) -> Duration {
    Duration::from_secs(u64::try_from(seconds.into()).unwrap_or(0))
}

/// How long from one moment to a later one; zero if it is not later.
pub(crate) fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// A moment later.
pub(crate) fn plus(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// A moment earlier.
pub(crate) fn minus(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_sub(by).unwrap_or(Timestamp::MIN)
}

/// The metadata that controllers give a new object.
pub(crate) fn new_meta(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), namespace: Some(namespace.to_owned()).filter(|n| !n.is_empty()), ..ObjectMeta::default() }
}

/// Objects by creation, the oldest first; names break ties.
pub(crate) fn sort_by_creation<K: Object>(objects: &mut [std::sync::Arc<K>]) {
    objects.sort_by(|a, b| created(&**a).cmp(&created(&**b)).then_with(|| a.name().cmp(b.name())));
}
