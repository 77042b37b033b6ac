//! The turns of a task that polls several things: what one of them causes for another is done in the same turn.
//!
//! Libraries wake a connection for each frame that is queued and each stream that ends. Most of that happens while the connection's own
//! task runs. A task that wakes itself in its turn goes to the end of the runtime's queue, which wakes another worker to take it: that costs more
//! than what there is to do. Here such a call has the task look again before it rests.

use futures_util::task::AtomicWaker;
use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

/// Rounds of one turn; then others have theirs. The runtime lets nobody read for ever, either: what it holds back would ring again and again.
const ROUNDS_MAX: usize = 8;

/// The task rests; a ring wakes it.
const RESTS: u8 = 0;
/// It is in its turn.
const RUNS: u8 = 1;
/// There is something to look at.
const RUNG: u8 = 2;

/// Polls until `look` or `settle` is ready. `look` looks at everything once, and again as long as something has rung meanwhile; `settle`
/// ends each turn. Whoever may not know the waker of what is polled rings `bell`.
pub(crate) async fn turns<T>(bell: &Arc<Bell>, mut look: impl FnMut(&mut Context<'_>) -> Poll<T>, mut settle: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    let waker = Waker::from(Arc::clone(bell));
    poll_fn(|task| {
        let cx = &mut Context::from_waker(&waker);
        for _ in 0..ROUNDS_MAX {
            bell.begin(task);
            if let Poll::Ready(end) = look(cx) {
                return Poll::Ready(end);
            }
            if !bell.is_quiet() {
                continue;
            }
            if let Poll::Ready(end) = settle(cx) {
                return Poll::Ready(end);
            }
            if bell.rest() {
                return Poll::Pending;
            }
        }
        // Nor does what is written wait for those that ring again and again.
        let end = settle(cx);
        if end.is_pending() {
            task.waker().wake_by_ref();
        }
        end
    })
    .await
}

/// Rings for everything that a task polls.
#[derive(Default)]
pub(crate) struct Bell {
    state: AtomicU8,
    task: AtomicWaker,
}

impl Bell {
    /// A round of a turn begins: what rang until now is looked at in it.
    fn begin(&self, cx: &Context<'_>) {
        self.task.register(cx.waker());
        // Not stored alone: what was done before a ring is seen from here on.
        let _ = self.state.swap(RUNS, Ordering::SeqCst);
    }

    /// Whether nothing has rung in this round.
    fn is_quiet(&self) -> bool {
        self.state.load(Ordering::SeqCst) == RUNS
    }

    /// Ends the turn, unless something has rung meanwhile.
    fn rest(&self) -> bool {
        self.state.compare_exchange(RUNS, RESTS, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Tells the task that there is something to look at.
    pub(crate) fn ring(&self) {
        if self.state.swap(RUNG, Ordering::SeqCst) == RESTS {
            self.task.wake();
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_ring_within_the_turn_wakes_nobody_and_is_not_lost() {
        let (bell, count) = (Arc::new(Bell::default()), Arc::new(Count::default()));
        let task = Waker::from(Arc::clone(&count));
        let woken = || count.0.load(Ordering::SeqCst);
        bell.begin(&Context::from_waker(&task));
        Arc::clone(&bell).wake();
        assert!(!bell.is_quiet() && !bell.rest());
        bell.begin(&Context::from_waker(&task));
        assert!(bell.is_quiet() && bell.rest());
        assert_eq!(woken(), 0);
        Arc::clone(&bell).wake();
        bell.ring();
        assert_eq!(woken(), 1, "one turn looks at all of it");
        bell.begin(&Context::from_waker(&task));
        assert!(bell.rest());
        bell.ring();
        assert_eq!(woken(), 2);
    }

    /// What wakes itself whenever it is polled has rounds, and then leaves the turn to others.
    #[tokio::test]
    async fn a_turn_has_an_end() {
        let (bell, mut rounds, mut ends, settles) = (Arc::new(Bell::default()), 0, 0, AtomicUsize::new(0));
        let all = turns(
            &bell,
            |cx| {
                rounds += 1;
                cx.waker().wake_by_ref();
                if rounds == 3 * ROUNDS_MAX { Poll::Ready(()) } else { Poll::Pending }
            },
            |_| {
                settles.fetch_add(1, Ordering::SeqCst);
                Poll::Pending
            },
        );
        let mut all = std::pin::pin!(all);
        while futures_util::poll!(&mut all).is_pending() {
            ends += 1;
        }
        assert_eq!((ends, settles.load(Ordering::SeqCst)), (2, 2), "each turn is settled");
    }

    /// What rings while a turn is settled is looked at before the task rests, and what rings afterwards wakes it.
    #[tokio::test]
    async fn nothing_that_rings_is_passed_over() {
        let bell = Arc::new(Bell::default());
        let (looks, settles) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let all = turns(
            &bell,
            |_| if looks.fetch_add(1, Ordering::SeqCst) == 2 { Poll::Ready(()) } else { Poll::Pending },
            |_| {
                if settles.fetch_add(1, Ordering::SeqCst) == 0 {
                    bell.ring();
                }
                Poll::Pending
            },
        );
        let late = async {
            tokio::task::yield_now().await;
            assert_eq!((looks.load(Ordering::SeqCst), settles.load(Ordering::SeqCst)), (2, 2));
            bell.ring();
        };
        tokio::join!(all, late);
        assert_eq!((looks.load(Ordering::SeqCst), settles.load(Ordering::SeqCst)), (3, 2));
    }
}
