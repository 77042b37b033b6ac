//! Events of `events.k8s.io`, as the original's scheduler tells them (client-go's `tools/events`).
//!
//! They say what was being done (`action`), and have no count. The second of equal ones begins a series in the first; later ones are counted
//! here, and the count is written when the series has ended, or every half hour while it goes on. Two are equal whatever their notes say, as
//! long as the object is at the same revision. So nothing is held back, and nothing combined.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at, sleep};

use crate::api::Client;
use crate::error::Error;
use crate::object::Meta;
use crate::params::{Patch, PatchParams};
use crate::recorder::{EventType, event_name, shortened};

/// Events that wait to be written at most; beyond it they are dropped (upstream `maxQueuedEvents`).
const QUEUE_MAX: usize = 1000;
/// A series of which nothing was heard for so long has ended (upstream `finishTime`).
const FINISH: Duration = Duration::from_secs(6 * 60);
/// The counts of series that go on are written so often (upstream `refreshTime`): else the Event's life would end before they do.
const REFRESH: Duration = Duration::from_secs(30 * 60);
/// Events that are remembered. Upstream sets no limit.
const REMEMBERED_MAX: usize = 4096;
/// An event that cannot be written is tried this often.
const TRIES: u32 = 5;
/// The machine's name.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// What was done, or could not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Deed {
    /// Why there is an event.
    pub reason: &'static str,
    /// What was being done.
    pub action: &'static str,
}

/// Records events of one component. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SeriesRecorder {
    queue: mpsc::Sender<Event>,
}

impl SeriesRecorder {
    /// A recorder of this component on this machine.
    #[must_use]
    pub fn new(client: Client, controller: &str) -> Self {
        let host = std::fs::read_to_string(HOST_NAME).unwrap_or_default();
        let writer = Writer { client, controller: controller.to_owned(), instance: format!("{controller}-{}", host.trim()), known: Known::default() };
        let (queue, receiver) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(writer.run(receiver));
        Self { queue }
    }

    /// Records what happened to an object.
    pub fn event(&self, regarding: &ObjectReference, kind: EventType, deed: Deed, note: impl Into<String>) {
        if self.queue.try_send(event(regarding, kind, deed, note.into())).is_err() {
            tracing::debug!(reason = deed.reason, "event dropped: too many are waiting");
        }
    }
}

/// The event without who reports it.
fn event(regarding: &ObjectReference, kind: EventType, deed: Deed, note: String) -> Event {
    let namespace = regarding.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".to_owned());
    let name = event_name(regarding.name.as_deref().unwrap_or_default(), crate::timestamp());
    Event {
        metadata: ObjectMeta { name: Some(name), namespace: Some(namespace), ..ObjectMeta::default() },
        event_time: Some(crate::now_micro()),
        action: Some(deed.action.to_owned()),
        reason: Some(deed.reason.to_owned()),
        regarding: Some(regarding.clone()),
        note: Some(shortened(note)),
        type_: Some(kind.as_str().to_owned()),
        ..Event::default()
    }
}

/// What makes two events of one component the same: all but times and notes.
fn said(event: &Event) -> impl Hash {
    let regarding = event.regarding.as_ref();
    let regarding = regarding.map(|of| [&of.api_version, &of.kind, &of.namespace, &of.name, &of.uid, &of.resource_version, &of.field_path]);
    (regarding, &event.type_, &event.reason, &event.action)
}

/// What was told.
#[derive(Debug)]
struct Told {
    event: Event,
    last: Instant,
}

/// What was told not long ago, and may be told again; by a hash of what makes it the same, since a thousand pods may be placed in a moment.
#[derive(Debug, Default)]
struct Known {
    told: HashMap<u64, Told>,
    hasher: RandomState,
}

impl Known {
    /// What is to be written of an event: itself the first time, its series the second.
    fn heard(&mut self, event: Event, now: Instant) -> Option<Event> {
        let key = self.hasher.hash_one(said(&event));
        if let Some(told) = self.told.get_mut(&key) {
            told.last = now;
            let last_observed_time: MicroTime = event.event_time.unwrap_or_else(crate::now_micro);
            if let Some(series) = &mut told.event.series {
                series.count = series.count.saturating_add(1);
                series.last_observed_time = last_observed_time;
                return None;
            }
            told.event.series = Some(EventSeries { count: 2, last_observed_time });
            return Some(told.event.clone());
        }
        if self.told.len() >= REMEMBERED_MAX {
            // The older half goes.
            let mut ages: Vec<Instant> = self.told.values().map(|told| told.last).collect();
            ages.sort_unstable();
            let middle = ages[ages.len() / 2];
            self.told.retain(|_, told| told.last > middle);
        }
        self.told.insert(key, Told { event: event.clone(), last: now });
        Some(event)
    }

    /// Forgets what is not told any more; what is to be written last.
    fn ended(&mut self, now: Instant) -> Vec<Event> {
        let mut ended = Vec::new();
        self.told.retain(|_, told| {
            let goes_on = now.duration_since(told.last) <= FINISH;
            if !goes_on && told.event.series.is_some() {
                ended.push(told.event.clone());
            }
            goes_on
        });
        self.told.shrink_to_fit();
        ended
    }

    /// All series.
    fn series(&self) -> Vec<Event> {
        self.told.values().filter(|told| told.event.series.is_some()).map(|told| told.event.clone()).collect()
    }
}

struct Writer {
    client: Client,
    controller: String,
    instance: String,
    known: Known,
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::Receiver<Event>) {
        let mut finish = interval_at(Instant::now() + FINISH, FINISH);
        let mut refresh = interval_at(Instant::now() + REFRESH, REFRESH);
        loop {
            let due: Vec<Event> = tokio::select! {
                event = queue.recv() => {
                    let Some(mut event) = event else { return };
                    event.reporting_controller = Some(self.controller.clone());
                    event.reporting_instance = Some(self.instance.clone());
                    self.known.heard(event, Instant::now()).into_iter().collect()
                }
                _ = finish.tick() => self.known.ended(Instant::now()),
                _ = refresh.tick() => self.known.series(),
            };
            for event in &due {
                self.write(event).await;
            }
        }
    }

    async fn write(&self, event: &Event) {
        for attempt in 0..TRIES {
            if self.is_settled(event).await {
                return;
            }
            sleep(Duration::from_millis(200) * 2u32.pow(attempt)).await;
        }
    }

    /// Writes an event; whether there is nothing more to be tried.
    async fn is_settled(&self, event: &Event) -> bool {
        let refused = |error: &Error| {
            tracing::debug!(%error, "event not written");
            error.status().is_some_and(|status| status.code != 429 && status.code < 500)
        };
        let api = self.client.namespaced::<Event>(event.namespace());
        if event.series.is_some() {
            match api.patch(event.name(), &Patch::Strategic(json!({"series": event.series})), &PatchParams::default()).await {
                Ok(_) => return true,
                // It lives an hour only; then it is told anew.
                Err(error) if error.is_not_found() => {}
                Err(error) => return refused(&error),
            }
        }
        match api.create(event).await {
            Ok(_) => true,
            // It was not there a moment ago: now it can be patched.
            Err(error) if error.is_already_exists() => event.series.is_none(),
            Err(error) => refused(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: Deed = Deed { reason: "FailedScheduling", action: "Scheduling" };

    fn failed(pod: &str, revision: &str, note: &str) -> Event {
        let about = ObjectReference {
            name: Some(pod.to_owned()),
            namespace: Some("shop".to_owned()),
            resource_version: Some(revision.to_owned()),
            ..ObjectReference::default()
        };
        event(&about, EventType::Warning, FAILED, note.to_owned())
    }

    fn count(event: Option<&Event>) -> Option<i32> {
        event?.series.as_ref().map(|series| series.count)
    }

    #[tokio::test(start_paused = true)]
    async fn a_series_begins_with_the_second_and_is_counted_when_it_ends() {
        let mut known = Known::default();
        let first = known.heard(failed("web", "1", "no room"), Instant::now()).expect("the first is written");
        assert_eq!((first.series.is_none(), first.action.as_deref(), first.namespace()), (true, Some("Scheduling"), "shop"));
        let second = known.heard(failed("web", "1", "no room at all"), Instant::now());
        assert_eq!(count(second.as_ref()), Some(2));
        let second = second.expect("a series");
        assert_eq!((second.name(), second.note.as_deref()), (first.name(), Some("no room")), "the first tells it");
        assert_eq!(known.heard(failed("web", "1", "no room"), Instant::now()), None, "it is counted only");
        let other = known.heard(failed("web", "2", "no room"), Instant::now()).expect("of another revision");
        assert!(other.series.is_none() && other.name() != first.name());
        assert_eq!(count(known.series().first()), Some(3));
        assert!(known.ended(Instant::now()).is_empty());
        tokio::time::advance(FINISH + Duration::from_secs(1)).await;
        let ended = known.ended(Instant::now());
        assert_eq!((ended.len(), count(ended.first())), (1, Some(3)), "one that was told once needs no last word");
        assert!(known.told.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_has_an_end() {
        let mut known = Known::default();
        for n in 0..=REMEMBERED_MAX {
            known.heard(failed(&n.to_string(), "1", "no room"), Instant::now());
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!(known.told.len() <= REMEMBERED_MAX / 2 + 1, "{}", known.told.len());
        assert_eq!(count(known.heard(failed(&REMEMBERED_MAX.to_string(), "1", "no room"), Instant::now()).as_ref()), Some(2));
    }
}
