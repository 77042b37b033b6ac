//! Events: what a component tells users about an object.
//!
//! Written as `v1` Events in the background, so that recording never blocks and never fails. The same event again is
//! counted in the one already written (`count`, `lastTimestamp`), as upstream's correlator does; one that tells the same in ever
//! other words is combined ([`Similar`]); a source that floods about one object is cut off by the same token bucket.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use machinery::names;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::api::Client;
use crate::params::{Patch, PatchParams};
use crate::similar::Similar;

/// Events that wait to be written at most; beyond it they are dropped, as upstream does (its queue has 1000).
const QUEUE_MAX: usize = 1000;
/// Events that are remembered for counting (upstream `maxLruCacheEntries`).
const REMEMBERED_MAX: usize = 4096;
/// Events about one object that may come at once (upstream `defaultSpamBurst`).
const BURST: f64 = 25.0;
/// Seconds until one more may come (upstream `defaultSpamQPS` = 1/300).
const REFILL_S: f64 = 300.0;
/// Bytes of a message at most (the API's limit for `note`).
const MESSAGE_MAX: usize = 1024;
/// An event that cannot be written is tried this often (upstream `maxTriesPerEvent` is 12).
const TRIES: u32 = 5;

/// Whether an event is a matter of course.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// A matter of course.
    Normal,
    /// Somebody should look at it.
    Warning,
}

impl EventType {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Records events of one component. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: mpsc::Sender<Note>,
}

#[derive(Debug)]
struct Note {
    about: ObjectReference,
    kind: EventType,
    reason: String,
    message: String,
    at: Timestamp,
}

/// What makes two events the same.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Same {
    uid: String,
    namespace: String,
    name: String,
    field_path: String,
    kind: EventType,
    reason: String,
    message: String,
}

/// An event that was written.
#[derive(Clone)]
struct Written {
    name: String,
    count: i32,
    first: Timestamp,
    last: Instant,
}

/// Events that an object may still have.
struct Bucket {
    left: f64,
    since: Instant,
}

/// Buckets of objects, for what is a matter of course and for what is not (upstream `EventSourceObjectSpamFilter`): what fails again and
/// again hides nothing that goes well.
#[derive(Default)]
struct Buckets(HashMap<String, Bucket>);

impl Buckets {
    fn allow(&mut self, about: &ObjectReference, kind: EventType) -> bool {
        let now = Instant::now();
        if self.0.len() >= REMEMBERED_MAX {
            self.0.retain(|_, b| b.left + (now - b.since).as_secs_f64() / REFILL_S < BURST);
            if self.0.len() >= REMEMBERED_MAX {
                self.0.clear();
            }
        }
        let parts = [&about.api_version, &about.kind, &about.namespace, &about.name, &about.uid].map(|part| part.as_deref().unwrap_or_default());
        let key = format!("{}/{}", parts.join("/"), kind.as_str());
        let bucket = self.0.entry(key).or_insert(Bucket { left: BURST, since: now });
        bucket.left = (bucket.left + (now - bucket.since).as_secs_f64() / REFILL_S).min(BURST);
        bucket.since = now;
        if bucket.left < 1.0 {
            return false;
        }
        bucket.left -= 1.0;
        true
    }
}

impl Recorder {
    /// A recorder of this component (`kubelet`, `deployment-controller`, …) on this host (empty for those without one).
    #[must_use]
    pub fn new(client: Client, component: &str, host: &str) -> Self {
        let (queue, receiver) = mpsc::channel(QUEUE_MAX);
        let (component, host) = (component.to_owned(), host.to_owned());
        let writer = Writer { client, component, host, written: HashMap::new(), buckets: Buckets::default(), similar: Similar::default() };
        tokio::spawn(writer.run(receiver));
        Self { queue }
    }

    /// Records an event about an object.
    pub fn event(&self, about: &ObjectReference, kind: EventType, reason: &str, message: impl Into<String>) {
        let note = Note { about: about.clone(), kind, reason: reason.to_owned(), message: shortened(message.into()), at: crate::timestamp() };
        if self.queue.try_send(note).is_err() {
            tracing::debug!(reason, "event dropped: too many are waiting");
        }
    }
}

struct Writer {
    client: Client,
    component: String,
    host: String,
    written: HashMap<Same, Written>,
    buckets: Buckets,
    similar: Similar<Same>,
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::Receiver<Note>) {
        while let Some(note) = queue.recv().await {
            self.write(note).await;
        }
    }

    async fn write(&mut self, mut note: Note) {
        let mut same = Same {
            uid: note.about.uid.clone().unwrap_or_default(),
            namespace: note.about.namespace.clone().unwrap_or_default(),
            name: note.about.name.clone().unwrap_or_default(),
            field_path: note.about.field_path.clone().unwrap_or_default(),
            kind: note.kind,
            reason: note.reason.clone(),
            message: note.message.clone(),
        };
        let group = Same { field_path: String::new(), message: String::new(), ..same.clone() };
        let combined = self.similar.combined(group.clone(), &note.message, Instant::now());
        if let Some(message) = &combined {
            note.message = shortened(message.clone());
            same = group;
        }
        // What is not written counts as well, as upstream's does.
        let known = self.written.get_mut(&same).map(|known| {
            known.count = known.count.saturating_add(1);
            known.last = Instant::now();
            known.clone()
        });
        if !self.buckets.allow(&note.about, note.kind) {
            return;
        }
        let namespace = if same.namespace.is_empty() { "default".to_owned() } else { same.namespace.clone() };
        let api = self.client.namespaced::<Event>(&namespace);
        if let Some(known) = &known {
            let mut body = json!({"count": known.count, "lastTimestamp": seconds(note.at)});
            if combined.is_some() {
                body["message"] = note.message.as_str().into();
            }
            match api.patch(&known.name, &Patch::Strategic(body), &PatchParams::default()).await {
                Ok(_) => return,
                // It lives an hour only; then it is told anew.
                Err(error) if error.is_not_found() => {}
                Err(error) => return tracing::debug!(%error, "event not counted"),
            }
        }
        let written = known.unwrap_or_else(|| Written {
            name: event_name(note.about.name.as_deref().unwrap_or_default(), note.at),
            count: 1,
            first: note.at,
            last: Instant::now(),
        });
        let event = self.event(&note, &namespace, &written, combined.is_some());
        for attempt in 0..TRIES {
            match api.create(&event).await {
                Ok(_) => break,
                Err(error) if error.status().is_some_and(|s| s.code != 429 && s.code < 500) => {
                    return tracing::debug!(%error, "event refused");
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(200) * 2u32.pow(attempt)).await,
            }
        }
        self.remember(same, written);
    }

    fn remember(&mut self, same: Same, written: Written) {
        if self.written.len() >= REMEMBERED_MAX {
            // The older half goes.
            let mut ages: Vec<Instant> = self.written.values().map(|w| w.last).collect();
            ages.sort_unstable();
            let middle = ages[ages.len() / 2];
            self.written.retain(|_, w| w.last > middle);
        }
        self.written.insert(same, written);
    }

    /// Of one that is combined the original's aggregator tells no reporter.
    fn event(&self, note: &Note, namespace: &str, written: &Written, is_combined: bool) -> Event {
        let reporter = |own: &str| Some(if is_combined { String::new() } else { own.to_owned() });
        Event {
            metadata: ObjectMeta { name: Some(written.name.clone()), namespace: Some(namespace.to_owned()), ..ObjectMeta::default() },
            involved_object: note.about.clone(),
            reason: Some(note.reason.clone()),
            message: Some(note.message.clone()),
            source: Some(EventSource { component: Some(self.component.clone()), host: Some(self.host.clone()).filter(|h| !h.is_empty()) }),
            first_timestamp: Some(Time(written.first)),
            last_timestamp: Some(Time(note.at)),
            count: Some(written.count),
            type_: Some(note.kind.as_str().to_owned()),
            reporting_component: reporter(&self.component),
            reporting_instance: reporter(&self.host),
            ..Event::default()
        }
    }
}

/// RFC 3339 in whole seconds.
fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A message as long as it may be.
pub(crate) fn shortened(mut message: String) -> String {
    if message.len() > MESSAGE_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_MAX - 3));
        message.push_str("...");
    }
    message
}

/// The name of an event: its object's and the time, unless that is too long for a name or the object's is none for an event
/// (upstream `GenerateEventName`).
pub(crate) fn event_name(object: &str, at: Timestamp) -> String {
    let name = format!("{object}.{:x}", at.as_nanosecond());
    if names::dns1123_subdomain(&name).is_empty() { name } else { format!("{:016x}.{:x}", RandomState::new().hash_one(&name), at.as_nanosecond()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_a_name_whatever_its_object_is_called() {
        let named = event_name("web-0", crate::timestamp());
        assert!(named.starts_with("web-0."), "{named}");
        for odd in ["system:node", "a".repeat(250).as_str(), ""] {
            let named = event_name(odd, crate::timestamp());
            assert!(names::dns1123_subdomain(&named).is_empty() && named.len() < 60, "{named}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_again_and_again_hides_nothing_that_goes_well() {
        let about = |name: &str| ObjectReference { name: Some(name.to_owned()), ..ObjectReference::default() };
        let mut buckets = Buckets::default();
        let told = (0..100).filter(|_| buckets.allow(&about("web"), EventType::Warning)).count();
        assert_eq!(told, 25);
        assert!(buckets.allow(&about("web"), EventType::Normal) && buckets.allow(&about("db"), EventType::Warning));
        tokio::time::advance(Duration::from_secs(301)).await;
        assert!(buckets.allow(&about("web"), EventType::Warning) && !buckets.allow(&about("web"), EventType::Warning));
    }

    #[test]
    fn a_message_is_cut_between_letters() {
        assert_eq!(shortened("short".to_owned()), "short");
        let cut = shortened("\u{fc}".repeat(MESSAGE_MAX));
        assert!(cut.len() <= MESSAGE_MAX && cut.ends_with("\u{fc}..."), "{}", cut.len());
    }
}
