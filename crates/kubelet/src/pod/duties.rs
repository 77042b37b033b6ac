//! What a worker has under way: at most one of each duty at a time, and none again without a pause after it has failed.
//!
//! The pause is kept here and not by whoever begins a duty, so that no flag, event or early return can make a loop of a
//! failure. It grows from failure to failure, and is measured by a clock that nobody sets. News that may mend the failure
//! shortens the pause ([`Duties::hurry`]) but never below the least. A duty that panics counts as failed.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use tokio::task::{Id, JoinSet};
use tokio::time::Instant;

/// Least pause after a failure, whatever hurries.
pub const PAUSE_MIN: Duration = Duration::from_millis(500);
/// Longest pause.
pub const PAUSE_MAX: Duration = Duration::from_secs(60);

/// A kind of work of a pod's worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Duty {
    /// Directories, cgroup, volumes, sandbox, network.
    SetUp,
    /// The start of one container.
    Start,
    /// Volumes brought up to date.
    Refresh,
    /// Resources given in place.
    Resize,
    /// All containers removed, to begin anew with the first (`RestartAllContainers`).
    Reset,
    /// Former sandboxes removed.
    Tidy,
    /// The pod's devices taken back.
    GiveBack,
    /// The pod removed from the host, and in the end from the API.
    Clean,
}

impl Duty {
    /// The pause after the first failure in a row.
    fn first_pause(self) -> Duration {
        match self {
            Self::SetUp => PAUSE_MIN,
            Self::Start => Duration::from_secs(1),
            Self::Resize | Self::Refresh => Duration::from_secs(5),
            Self::Reset | Self::Tidy | Self::GiveBack | Self::Clean => Duration::from_secs(2),
        }
    }
}

#[derive(Default)]
struct Slot {
    running: bool,
    failures: u32,
    failed_at: Option<Instant>,
    not_before: Option<Instant>,
}

/// The duties of one worker; `T` is what they end with.
pub struct Duties<T> {
    tasks: JoinSet<T>,
    of: HashMap<Id, Duty>,
    slots: HashMap<Duty, Slot>,
}

impl<T> Default for Duties<T> {
    fn default() -> Self {
        Self { tasks: JoinSet::new(), of: HashMap::new(), slots: HashMap::new() }
    }
}

impl<T: Send + 'static> Duties<T> {
    /// Whether anything is under way.
    #[must_use]
    pub fn any(&self) -> bool {
        self.slots.values().any(|s| s.running)
    }

    /// Whether one of these is under way.
    #[must_use]
    pub fn running(&self, duties: &[Duty]) -> bool {
        duties.iter().any(|d| self.slots.get(d).is_some_and(|s| s.running))
    }

    /// Until when a duty must wait, if it must.
    #[must_use]
    pub fn waits(&self, duty: Duty, now: Instant) -> Option<Instant> {
        self.slots.get(&duty)?.not_before.filter(|at| *at > now)
    }

    /// Whether a duty may begin.
    #[must_use]
    pub fn ready(&self, duty: Duty, now: Instant) -> bool {
        !self.running(&[duty]) && self.waits(duty, now).is_none()
    }

    /// Begins a duty, unless it is under way or must wait; the work is dropped then.
    pub fn begin(&mut self, duty: Duty, now: Instant, work: impl Future<Output = T> + Send + 'static) {
        if !self.ready(duty, now) {
            return;
        }
        self.slots.entry(duty).or_default().running = true;
        let id = self.tasks.spawn(work).id();
        self.of.insert(id, duty);
    }

    /// The next duty that ends, and with what; nothing if it panicked. Pends while none is under way.
    pub async fn next(&mut self) -> (Duty, Option<T>) {
        loop {
            let (id, out) = match self.tasks.join_next_with_id().await {
                Some(Ok((id, out))) => (id, Some(out)),
                Some(Err(e)) => {
                    tracing::error!(error = %e, "a pod's task failed; it counts as a failure of the pod's");
                    (e.id(), None)
                }
                None => std::future::pending().await,
            };
            if let Some(duty) = self.of.remove(&id) {
                self.slots.entry(duty).or_default().running = false;
                return (duty, out);
            }
        }
    }

    /// Says how a duty ended, and so when it may begin again.
    pub fn ended(&mut self, duty: Duty, good: bool, now: Instant) {
        let slot = self.slots.entry(duty).or_default();
        if good {
            *slot = Slot::default();
            return;
        }
        let pause = duty.first_pause().saturating_mul(2_u32.saturating_pow(slot.failures.min(16))).min(PAUSE_MAX);
        slot.failures = slot.failures.saturating_add(1);
        slot.failed_at = Some(now);
        slot.not_before = Some(now + pause);
    }

    /// What a duty failed for may have changed: it need not wait longer than the least pause.
    pub fn hurry(&mut self, duty: Duty) {
        if let Some(slot) = self.slots.get_mut(&duty) {
            slot.not_before = slot.not_before.zip(slot.failed_at).map(|(at, failed)| at.min(failed + PAUSE_MIN));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_never_tried_again_without_a_pause() {
        let (mut duties, zero) = (Duties::<bool>::default(), Instant::now());
        let mut begun = Vec::new();
        // Whoever looks all the time and hurries all the time.
        while zero.elapsed() < Duration::from_secs(10) {
            let now = Instant::now();
            if duties.ready(Duty::Refresh, now) {
                begun.push(zero.elapsed().as_millis());
                duties.begin(Duty::Refresh, now, async { false });
                let (duty, out) = duties.next().await;
                duties.ended(duty, out == Some(true), Instant::now());
            }
            duties.hurry(Duty::Refresh);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(begun.windows(2).all(|w| w[1] - w[0] >= PAUSE_MIN.as_millis()), "{begun:?}");
        assert!(begun.len() >= 19, "hurried it is tried every half second: {begun:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_a_success_forgets_them_and_a_panic_is_a_failure() {
        let mut duties = Duties::<()>::default();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let now = Instant::now();
            duties.begin(Duty::SetUp, now, async { panic!("a defect") });
            let (duty, out) = duties.next().await;
            assert_eq!((duty, out), (Duty::SetUp, None));
            duties.ended(duty, false, now);
            let until = duties.waits(Duty::SetUp, now).unwrap();
            pauses.push(until.duration_since(now).as_millis());
            tokio::time::sleep_until(until).await;
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
        duties.begin(Duty::SetUp, Instant::now(), async {});
        assert!(duties.running(&[Duty::SetUp]) && !duties.ready(Duty::SetUp, Instant::now()));
        let (duty, _) = duties.next().await;
        duties.ended(duty, true, Instant::now());
        assert!(duties.ready(Duty::SetUp, Instant::now()) && !duties.any());
    }
}
