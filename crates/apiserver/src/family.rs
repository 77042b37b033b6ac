//! What the versions of a custom kind share, and how an object that lies in the store is seen by one of them.
//!
//! A definition changes while objects of it are stored, in several versions. So what lies in the store is looked at when it
//! is read, as upstream does each time: pruned and given its defaults by the schema of the version in which it lies, turned
//! into the version that is asked for, and pruned by that one. An object that this leaves as it is, is noted as such by the
//! number of the version's schema (`Entry::has_shape`), and is answered from then on as its bytes lie.
//!
//! Where a webhook converts, it is asked before anything else looks at an object ([`crate::conversion`]): what is looked at here is in
//! its version already.

use crate::conversion::Webhook;
use kinds::custom::Described;
use machinery::{
    Value,
    apply::FieldSet,
    defaulting, gvk,
    gvk::Gvk,
    json::{self, Validation},
    schema::{Schema, TypeRef},
    structural,
};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use std::{
    fmt::Write as _,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use store::Entry;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

/// All versions of a custom kind.
#[derive(Debug)]
pub(crate) struct Family {
    /// The definition's name.
    pub(crate) definition: String,
    pub(crate) group: String,
    pub(crate) kind: String,
    /// The version in which objects are stored.
    pub(crate) storage: String,
    /// Who converts; none where versions differ by name alone.
    pub(crate) webhook: Option<Webhook>,
    /// The way in for new objects: one for each definition that there was.
    pub(crate) entrance: Arc<Entrance>,
    /// All versions by their names, as the definition describes them.
    versions: Vec<(String, Arc<Described>)>,
    /// What is made of them when an object is first looked at.
    schema: OnceLock<Schema>,
    /// No object lies in a version that the definition has not.
    settled: AtomicBool,
    /// When one was found that does.
    unsettled: OnceLock<Instant>,
    /// The keys of those that were found last, in their order.
    stale: Mutex<Vec<Arc<str>>>,
}

/// Whoever stores a new object of a definition is inside meanwhile. When the definition goes nobody enters any more, and its end
/// waits for those inside: none of its objects is stored behind the last one's removal, to be found under the next definition of
/// the name.
#[derive(Debug)]
pub(crate) struct Entrance(Semaphore);

/// How many may be inside.
const INSIDE_MAX: u32 = 1 << 20;

impl Entrance {
    pub(crate) fn new() -> Arc<Entrance> {
        Arc::new(Entrance(Semaphore::new(INSIDE_MAX as usize)))
    }

    /// A place inside; none if the definition goes.
    pub(crate) async fn enter(&self) -> Option<SemaphorePermit<'_>> {
        self.0.acquire().await.ok()
    }

    /// Lets nobody in any more, and waits until nobody is inside.
    pub(crate) async fn close(&self) {
        if let Ok(_all) = self.0.acquire_many(INSIDE_MAX).await {
            self.0.close();
        }
    }

    /// Lets nobody in any more.
    pub(crate) fn shut(&self) {
        self.0.close();
    }
}

impl Family {
    pub(crate) fn new(definition: String, kind: &Gvk, versions: Vec<(String, Arc<Described>)>, webhook: Option<Webhook>, entrance: Arc<Entrance>) -> Family {
        let (group, kind, storage) = (kind.group.clone(), kind.kind.clone(), kind.version.clone());
        Family {
            definition,
            group,
            kind,
            storage,
            webhook,
            entrance,
            versions,
            schema: OnceLock::new(),
            settled: AtomicBool::new(false),
            unsettled: OnceLock::new(),
            stale: Mutex::default(),
        }
    }

    pub(crate) fn schema(&self) -> &Schema {
        self.schema.get_or_init(|| {
            let trees: Vec<(Gvk, Value)> = self.versions.iter().map(|(name, described)| (self.kind_of(name), described.tree())).collect();
            let schemas: Vec<_> = trees.iter().map(|(gvk, tree)| (gvk.clone(), kinds::custom::schema_of(tree))).collect();
            structural::schema(&schemas)
        })
    }

    /// Whether an object was looked at: until then the next look takes longer.
    pub(crate) fn is_compiled(&self) -> bool {
        self.schema.get().is_some()
    }

    /// Whether every object was found to lie in a version that the definition has.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Relaxed)
    }

    /// Every object does, and so will those be that are stored.
    pub(crate) fn settle(&self) {
        self.settled.store(true, Ordering::Relaxed);
    }

    /// Those that were found last to lie in another. None is added to them while the definition stays as it is.
    pub(crate) fn stale(&self) -> Vec<Arc<str>> {
        self.stale.lock().clone()
    }

    /// These were found.
    pub(crate) fn note_stale(&self, keys: Vec<Arc<str>>) {
        *self.stale.lock() = keys;
    }

    /// How long it has been known that one does not.
    pub(crate) fn unsettled_for(&self) -> Duration {
        self.unsettled.get_or_init(Instant::now).elapsed()
    }

    /// Whether the definition has a version.
    fn is_known(&self, version: &str) -> bool {
        self.versions.iter().any(|(name, _)| name == version)
    }

    /// Why an entry cannot be read, if it lies in a version that the definition has no more.
    pub(crate) fn unreadable(&self, entry: &Arc<Entry>) -> Option<String> {
        // Nearly all that is stored begins so, and nothing is decoded for that.
        let begins = entry.json.strip_prefix(br#"{"apiVersion":""#).and_then(|rest| rest.split(|byte| *byte == b'"').next());
        let api_version = match begins.and_then(|text| std::str::from_utf8(text).ok()) {
            Some(text) => text.to_owned(),
            None => entry.value()["apiVersion"].as_str().unwrap_or_default().to_owned(),
        };
        let known = self.is_known(gvk::parse_api_version(&api_version).1);
        (!known).then(|| unknown_version(&api_version))
    }

    /// Whether an object can be converted into a version by what it says that it is: admission may have made it another.
    ///
    /// # Errors
    /// It is of no version of the kind's group; in upstream's words.
    pub(crate) fn convertible(&self, object: &Value, to: &str) -> Result<(), String> {
        let said = |field: &str| object[field].as_str().unwrap_or_default();
        let (group, version) = gvk::parse_api_version(said("apiVersion"));
        if group != self.group {
            return Err(format!("{group}/{version}, Kind={} is unstructured and is not suitable for converting to {to:?}", said("kind")));
        }
        if self.is_known(version) { Ok(()) } else { Err(unknown_version(said("apiVersion"))) }
    }

    fn kind_of(&self, version: &str) -> Gvk {
        Gvk { group: self.group.clone(), version: version.to_owned(), kind: self.kind.clone() }
    }

    pub(crate) fn ty(&self, version: &str) -> Option<TypeRef<'_>> {
        self.schema().kind(&self.kind_of(version))
    }

    /// What the schema of a version leaves of an object.
    pub(crate) fn pruned(&self, version: &str, value: Value) -> Value {
        let Some(ty) = self.ty(version) else { return value };
        // What the metadata of an object cannot hold was not stored by this program; it is shown as it is.
        match json::normalize(value.clone(), ty, Validation::Ignore) {
            Ok(decoded) => decoded.value,
            Err(_) => value,
        }
    }

    /// An object of the store as a version shows it.
    pub(crate) fn shown(&self, version: &str, stored: &Value) -> Value {
        let (lies_in, value) = self.read(stored);
        // Only a webhook knows how another version looks; who has not asked it sees the object as what it is.
        if lies_in == version || self.webhook.is_some() { value } else { self.pruned(version, self.renamed(version, value)) }
    }

    /// An object of the store as the version shows it in which it lies, and that version.
    pub(crate) fn read<'s>(&self, stored: &'s Value) -> (&'s str, Value) {
        let (_, lies_in) = gvk::parse_api_version(stored["apiVersion"].as_str().unwrap_or_default());
        let mut value = self.pruned(lies_in, stored.clone());
        if let Some(ty) = self.ty(lies_in) {
            defaulting::apply(ty, &mut value);
        }
        (lies_in, value)
    }

    /// An object of a version as it is stored.
    pub(crate) fn stored(&self, version: &str, value: Value) -> Value {
        if version == self.storage { value } else { self.pruned(&self.storage, self.renamed(&self.storage, value)) }
    }

    /// Conversion `None`: the object says another version of itself.
    fn renamed(&self, version: &str, mut value: Value) -> Value {
        if let Some(fields) = value.as_object_mut() {
            fields.insert("apiVersion".into(), gvk::api_version(&self.group, version).into());
        }
        value
    }
}

/// Why an object of a version that its definition has not is not converted.
fn unknown_version(api_version: &str) -> String {
    format!("request to convert CR from an invalid group/version: {api_version}")
}

/// The number of a version's schema; no other has it while the process lives.
pub(crate) fn next_shape() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

/// A hash of what a version's documents are made from: the version, and the definition's names and scope. It is made when it is first
/// asked for.
#[derive(Debug)]
pub(crate) struct Digest {
    described: Arc<Described>,
    named: Vec<u8>,
    made: OnceLock<String>,
}

impl Digest {
    pub(crate) fn new(described: Arc<Described>, named: Vec<u8>) -> Arc<Digest> {
        Arc::new(Digest { described, named, made: OnceLock::new() })
    }

    /// Its digits.
    pub(crate) fn text(&self) -> &str {
        self.made.get_or_init(|| {
            let mut text = String::with_capacity(64);
            for byte in Sha256::new().chain_update(self.described.text()).chain_update(&self.named).finalize() {
                let _ = write!(text, "{byte:02X}");
            }
            text
        })
    }
}

/// What a row of a custom kind has besides what every row has.
#[derive(Debug, Clone)]
pub(crate) struct Custom {
    pub(crate) family: Arc<Family>,
    pub(crate) shape: u64,
    /// The version as the definition describes it.
    pub(crate) described: Arc<Described>,
    /// Where replicas stand, if the version has `scale`.
    pub(crate) scale: Option<kinds::custom::Scale>,
    /// Where they stand in all versions, for whose they are.
    pub(crate) scales: Arc<[(String, FieldSet)]>,
    /// What clients of a deprecated version are told.
    pub(crate) deprecation: Option<String>,
    /// The definition is established: discovery and OpenAPI have it.
    pub(crate) is_told: bool,
    /// The definition goes: nothing new is made.
    pub(crate) terminating: bool,
    /// A hash of what the version's documents are made from.
    pub(crate) digest: Arc<Digest>,
    /// Cancelled when the row is replaced: watches end then, and begin again with what takes its place.
    pub(crate) ended: CancellationToken,
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use futures_util::poll;
    use serde_json::json;

    #[test]
    fn an_object_is_converted_within_its_group_and_versions() {
        let versions = ["v1", "v2"].map(|name| (name.to_owned(), Described::by(Bytes::from_static(b"{}"))));
        let family = Family::new("ks.a.b".into(), &Gvk::new("a.b", "v1", "K"), versions.into(), None, Entrance::new());
        let told = |api_version: &str| family.convertible(&json!({"apiVersion": api_version, "kind": "K"}), "a.b/v1");
        assert_eq!(told("a.b/v2"), Ok(()));
        assert_eq!(told("a.b/v3"), Err("request to convert CR from an invalid group/version: a.b/v3".to_owned()));
        assert_eq!(told("v1"), Err("/v1, Kind=K is unstructured and is not suitable for converting to \"a.b/v1\"".to_owned()));
    }

    #[tokio::test]
    async fn the_end_waits_for_those_inside_and_lets_nobody_in() {
        let entrance = Entrance::new();
        let inside = entrance.enter().await.expect("a place");
        let mut end = Box::pin(entrance.close());
        assert!(poll!(&mut end).is_pending());
        let mut late = Box::pin(entrance.enter());
        assert!(poll!(&mut late).is_pending());
        drop(inside);
        end.await;
        assert!(late.await.is_none());
        entrance.close().await;
        assert!(entrance.enter().await.is_none());
    }
}
