//! One version's way to objects that lie in another.

use super::{answer::Answered, known::Known, unread::Unread, webhook::Webhook};
use crate::{
    Body,
    family::Family,
    hooks::{Itself, OwnAnswer, Services},
    offload,
};
use futures_util::{
    FutureExt,
    future::{BoxFuture, WeakShared},
};
use http::Request;
use kinds::Strategy;
use machinery::{
    Value,
    gvk::{self, Gvk},
};
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};
use store::{Draft, Entry, Snapshot, Store};
use tokio::time::Instant;

/// Objects and bytes that one review holds at most; a single object may be larger.
const OBJECTS_MAX: usize = 500;
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// Objects that are told of when they cannot be read, as upstream tells no more.
pub(crate) const UNREAD_MAX: usize = 100;

/// How long upstream's cache hears again of a change that it cannot read, before it goes down.
const DOWN_AFTER: Duration = Duration::from_secs(30);

/// How long a list of which some fail is asked about, in halves and further pieces: no request waits longer.
const ASKED_MAX: Duration = Duration::from_secs(60);

/// What one review is about: the places of objects among others, and the objects as they are sent.
struct Piece {
    places: Vec<usize>,
    objects: Vec<Value>,
    bytes: usize,
}

impl Piece {
    fn of(places: &[usize], object: impl Fn(usize) -> Option<Value>, bytes: usize) -> Piece {
        let (places, objects) = places.iter().filter_map(|at| Some((*at, object(*at)?))).unzip();
        Piece { places, objects, bytes }
    }
}

/// Whether what was converted before will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory {
    Enough,
    /// The webhook is asked again.
    Anew,
}

/// See the module's head.
pub(crate) struct Reader {
    family: Arc<Family>,
    version: String,
    api_version: String,
    shape: u64,
    strategy: Arc<dyn Strategy>,
    known: Known,
    begun: Mutex<Begun>,
}

/// How far upstream's cache of the version would have come.
#[derive(Default)]
struct Begun {
    /// The revision up to which every object was converted once.
    at: u64,
    /// One after it that is not, and when it was found.
    unread: Option<(u64, Instant)>,
    /// Who looks for it now, at the state that has been there from this revision on.
    looks: Option<(u64, WeakShared<BoxFuture<'static, IsUp>>)>,
}

/// What is not converted though that cache is up; or that it is not, by what, and for how long.
type IsUp = Result<Vec<Unread>, (Vec<Unread>, Duration)>;

impl Reader {
    /// The reader of a version; none where nobody is asked. `shape` is the number of its schema.
    pub(crate) fn of(family: &Arc<Family>, version: &str, shape: u64, strategy: &Arc<dyn Strategy>) -> Option<Arc<Reader>> {
        family.webhook.as_ref()?;
        Some(Arc::new(Reader {
            api_version: gvk::api_version(&family.group, version),
            family: Arc::clone(family),
            version: version.to_owned(),
            shape,
            strategy: Arc::clone(strategy),
            known: Known::default(),
            begun: Mutex::default(),
        }))
    }

    /// Entries as the version has them, in their order.
    ///
    /// # Errors
    /// Those that are not converted, [`UNREAD_MAX`] of them at most.
    pub(crate) async fn entries(self: &Arc<Self>, store: &Store, entries: Vec<Arc<Entry>>, memory: Memory) -> Result<Vec<Arc<Entry>>, Vec<Unread>> {
        let differ = |entry: &&Arc<Entry>| !entry.has_shape(self.shape);
        if entries.iter().find(differ).is_none() {
            return Ok(entries);
        }
        let bytes: usize = entries.iter().filter(differ).map(|entry| entry.json.len()).sum();
        let work = Box::pin(Arc::clone(self).each(store.clone(), entries, memory));
        if bytes >= offload::INLINE_BYTES_MAX { offload::run(work).await } else { work.await }
    }

    /// Whether upstream's cache of the version is up, which is made of all objects, those below `root`. It has come up when all that
    /// there were at its beginning are converted. By a later one that is not it goes down, but not at once: meanwhile what it would
    /// give comes from where the objects lie, and only who is told of that one is refused. Those are given.
    ///
    /// # Errors
    /// It is not up: those that are not converted, [`UNREAD_MAX`] of them at most, and for how long it has not been.
    pub(crate) async fn begun(self: &Arc<Self>, store: &Store, snapshot: Snapshot, root: &str) -> IsUp {
        let changed = snapshot.changed();
        let is_up = {
            let mut begun = self.begun.lock();
            if changed <= begun.at {
                return Ok(Vec::new());
            }
            // After a start all who watch come at once: they wait for one who asks about all objects.
            let looks = begun.looks.as_ref().filter(|(of, _)| *of >= changed).and_then(|(_, looks)| looks.upgrade());
            looks.unwrap_or_else(|| {
                let (reader, store, root) = (Arc::clone(self), store.clone(), root.to_owned());
                let look = async move { reader.look(&store, &snapshot, &root).await };
                let look = offload::apart(look).boxed().shared();
                begun.looks = look.downgrade().map(|weak| (changed, weak));
                look
            })
        };
        offload::resting(is_up).await
    }

    async fn look(self: &Arc<Self>, store: &Store, snapshot: &Snapshot, root: &str) -> IsUp {
        let at = self.begun.lock().at;
        let new = snapshot.range(root, "").filter(|entry| entry.revision > at).cloned().collect();
        let outcome = self.entries(store, new, Memory::Enough).await;
        let mut begun = self.begun.lock();
        let Err(unread) = outcome else {
            begun.at = begun.at.max(snapshot.revision());
            // One that came after this snapshot is not known to be converted.
            begun.unread = begun.unread.filter(|(revision, _)| *revision > begun.at);
            return Ok(Vec::new());
        };
        let known = begun.unread.filter(|(revision, _)| unread.iter().any(|unread| unread.revision == *revision));
        let first = unread.first().map_or(0, |unread| unread.revision);
        let (_, since) = *begun.unread.insert(known.unwrap_or_else(|| (first, Instant::now())));
        let (since, born) = (since.elapsed(), self.family.webhook.as_ref().map_or(0, Webhook::born));
        if unread.iter().any(|unread| unread.revision <= born) {
            return Err((unread, since));
        }
        match since.checked_sub(DOWN_AFTER) {
            None => Ok(unread),
            Some(since) => Err((unread, since)),
        }
    }

    /// One entry, for whoever hears of a change: who hears of it at the same time does not ask again.
    ///
    /// # Errors
    /// It is not converted.
    pub(crate) async fn heard(self: &Arc<Self>, store: &Store, entry: &Arc<Entry>) -> Result<Arc<Entry>, Unread> {
        if entry.has_shape(self.shape) {
            return Ok(Arc::clone(entry));
        }
        if let Some(known) = self.known.get(entry.revision) {
            return Ok(known);
        }
        let begin = || {
            let (reader, store, entry) = (Arc::clone(self), store.clone(), Arc::clone(entry));
            async move {
                match reader.entries(&store, vec![Arc::clone(&entry)], Memory::Enough).await {
                    Ok(mut all) => Ok(all.pop().unwrap_or(entry)),
                    Err(mut all) => Err(all.pop().unwrap_or_else(|| Unread::new(&entry, "nothing was converted".into()))),
                }
            }
            .boxed()
        };
        self.known.asked(entry.revision, begin).await
    }

    async fn each(self: Arc<Self>, store: Store, mut entries: Vec<Arc<Entry>>, memory: Memory) -> Result<Vec<Arc<Entry>>, Vec<Unread>> {
        let (mut unread, began) = (Vec::new(), Instant::now());
        let mut from = 0;
        while from < entries.len() && unread.len() < UNREAD_MAX {
            let (mut places, mut objects, mut bytes) = (Vec::new(), Vec::new(), 0);
            while let Some(entry) = entries.get_mut(from) {
                if !places.is_empty() && (places.len() >= OBJECTS_MAX || bytes + entry.json.len() > BYTES_MAX) {
                    break;
                }
                if let Some(known) = self.own(entry, memory) {
                    *entry = known;
                } else {
                    match self.sent(entry) {
                        Ok(object) => {
                            places.push(from);
                            bytes += entry.json.len();
                            objects.push(object);
                        }
                        Err(why) => unread.push(Unread::new(entry, why)),
                    }
                }
                from += 1;
            }
            self.ask(&store, &mut entries, Piece { places, objects, bytes }, began, &mut unread).await;
            if !unread.is_empty() && began.elapsed() >= ASKED_MAX {
                break;
            }
        }
        unread.truncate(UNREAD_MAX);
        if unread.is_empty() { Ok(entries) } else { Err(unread) }
    }

    /// Asks about a piece. Upstream asks about the objects of a list one by one, so what fails as a whole is asked about in halves: one
    /// object that is refused is not the failure of the others, and what was converted of a slow piece is kept.
    async fn ask(&self, store: &Store, entries: &mut [Arc<Entry>], piece: Piece, began: Instant, unread: &mut Vec<Unread>) {
        let Some(webhook) = &self.family.webhook else { return };
        let mut left = vec![piece];
        while let Some(Piece { places, objects, bytes }) = left.pop() {
            if objects.is_empty() {
                continue;
            }
            let answered = webhook.convert(&Cluster::of(store, webhook), &self.api_version, objects, bytes).await;
            let halve = answered.is_err() && places.len() > 1 && unread.len() < UNREAD_MAX && began.elapsed() < ASKED_MAX;
            if !halve {
                self.take(entries, &places, answered, unread);
                continue;
            }
            let (first, second) = places.split_at(places.len() / 2);
            for half in [second, first] {
                left.push(Piece::of(half, |at| self.sent(entries.get(at)?).ok(), bytes / 2));
            }
        }
    }

    /// Puts what was converted into its places.
    fn take(&self, entries: &mut [Arc<Entry>], places: &[usize], answered: Answered, unread: &mut Vec<Unread>) {
        let mut answers = match answered {
            Ok(answers) => answers.into_iter(),
            Err(why) => vec![Err(why); places.len()].into_iter(),
        };
        for at in places {
            let Some(entry) = entries.get_mut(*at) else { continue };
            match answers.next().unwrap_or_else(|| Err("nothing was converted".into())) {
                Ok(value) => {
                    let value = self.family.pruned(&self.version, value);
                    let fields = self.strategy.selectable_fields(&value);
                    *entry = entry.told_as(Draft::new(value, None, fields).shaped(self.shape));
                    self.known.keep(entry);
                }
                Err(why) => unread.push(Unread::new(entry, why)),
            }
        }
    }

    /// An entry that nobody need be asked about.
    fn own(&self, entry: &Arc<Entry>, memory: Memory) -> Option<Arc<Entry>> {
        if entry.has_shape(self.shape) {
            return Some(Arc::clone(entry));
        }
        if let Some(known) = self.known.get(entry.revision).filter(|_| memory == Memory::Enough) {
            return Some(known);
        }
        (entry.value()["apiVersion"] == self.api_version.as_str()).then(|| Arc::clone(entry))
    }

    /// A stored object as it is sent.
    fn sent(&self, entry: &Arc<Entry>) -> Result<Value, String> {
        match self.family.unreadable(entry) {
            Some(why) => Err(why),
            None => Ok(without_revision(self.family.read(&entry.value()).1)),
        }
    }

    /// An object of this version as it is stored.
    ///
    /// # Errors
    /// It is not converted, in upstream's words.
    pub(crate) async fn stored(&self, store: &Store, value: Value) -> Result<Value, String> {
        let storage = &self.family.storage;
        if *storage == self.version {
            return Ok(value);
        }
        let converted = self.written(store, &gvk::api_version(&self.family.group, storage), without_revision(value)).await?;
        // The webhook chooses how large it is, and a call of it has been waited for already.
        let family = Arc::clone(&self.family);
        Ok(offload::call(move || family.pruned(&family.storage, converted)).await)
    }

    /// An object of this version as it would come back if it were stored, for who only tries.
    ///
    /// # Errors
    /// It is not converted, in upstream's words.
    pub(crate) async fn rehearsed(&self, store: &Store, value: Value) -> Result<Value, String> {
        if self.family.storage == self.version {
            return Ok(value);
        }
        let revision = value["metadata"].get("resourceVersion").cloned();
        let stored = self.stored(store, value).await?;
        let mut back = self.family.pruned(&self.version, self.written(store, &self.api_version, stored).await?);
        if let Some(revision) = revision {
            back["metadata"]["resourceVersion"] = revision;
        }
        Ok(back)
    }

    /// An object of another version in this one, as admission shows it.
    ///
    /// # Errors
    /// It is not converted, in upstream's words.
    pub(crate) async fn turned(&self, services: &dyn Services, value: Value) -> Result<Value, String> {
        if value["apiVersion"] == self.api_version.as_str() { Ok(value) } else { self.convert(services, &self.api_version, value).await }
    }

    /// Objects of other versions in one of them, with all fields that the webhook gives them.
    ///
    /// # Errors
    /// One of them is not converted, in upstream's words.
    pub(super) async fn compared(&self, services: &dyn Services, to: &Gvk, values: Vec<Value>) -> Result<Vec<Value>, String> {
        let Some(webhook) = &self.family.webhook else { return Ok(values) };
        let answers = offload::resting(Box::pin(webhook.convert(services, &to.api_version(), values, 0))).await?;
        answers.into_iter().collect()
    }

    async fn written(&self, store: &Store, to: &str, value: Value) -> Result<Value, String> {
        let Some(webhook) = &self.family.webhook else { return Ok(value) };
        self.convert(&Cluster::of(store, webhook), to, value).await
    }

    async fn convert(&self, services: &dyn Services, to: &str, value: Value) -> Result<Value, String> {
        let Some(webhook) = &self.family.webhook else { return Ok(value) };
        // What is written or admitted is where work of its size belongs.
        let answers = Box::pin(webhook.convert(services, to, vec![value], 0)).await?;
        { answers }.pop().unwrap_or_else(|| Err("nothing was converted".into()))
    }
}

/// The revision is no part of what is stored.
fn without_revision(mut value: Value) -> Value {
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
    }
    value
}

/// What a call needs to know of the cluster, from its store.
struct Cluster {
    store: Store,
    itself: Itself,
}

impl Cluster {
    fn of(store: &Store, webhook: &Webhook) -> Cluster {
        Cluster { store: store.clone(), itself: webhook.itself().clone() }
    }
}

impl Services for Cluster {
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let key = format!("/registry/services/specs/{namespace}/{name}");
        self.store.bucket_of(&key)?.get(&key).map(|entry| entry.value())
    }

    fn itself(&self, request: Request<Body>) -> Option<OwnAnswer> {
        self.itself.ask(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_sent_has_no_revision() {
        assert_eq!(without_revision(json!({"metadata": {"name": "a", "resourceVersion": "7"}})), json!({"metadata": {"name": "a"}}));
        assert_eq!(without_revision(json!({"metadata": 1})), json!({"metadata": 1}));
    }
}
