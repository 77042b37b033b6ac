//! One list of what the pods of a namespace use, for all autoscalers of it that ask within a short time.
//!
//! The original asks once for each autoscaler, for the pods that its target's selector chooses. Where many of one namespace ask,
//! the same pods are measured, authorised and written as many times; so from the fourth question within a period on, the whole
//! namespace is asked for, once for all that ask within [`STANDS`], and each takes its own pods from that. Kubelets are
//! measured each fifteen seconds, and each measure bears its time, by which steps judge it: an answer that is a few seconds old says the same.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::metrics::PodMetrics;

/// How long a list serves.
const STANDS: Duration = Duration::from_secs(3);
/// Questions are counted within this time; it is the autoscalers' period.
const COUNTED: Duration = Duration::from_secs(15);
/// Questions of a period from which on the namespace is asked for.
const MANY: usize = 4;

/// The pods of a namespace by name, or why there are none.
pub(super) type Listed = Result<Arc<HashMap<String, Arc<PodMetrics>>>, String>;

/// The last list, with its time; held by who asks for it.
type Held = Arc<tokio::sync::Mutex<Option<(Instant, Listed)>>>;

/// A namespace in which autoscalers ask.
struct Space {
    since: Instant,
    asked: usize,
    /// Whether there were many in the period before.
    many: bool,
    listed: Held,
}

/// The lists of all namespaces.
#[derive(Default)]
pub(super) struct Shared(Mutex<HashMap<String, Space>>);

impl Shared {
    /// The list of a namespace in which many ask, by `ask` if there is none that stands; none where few do.
    pub(super) async fn of<F>(&self, namespace: &str, ask: impl FnOnce() -> F) -> Option<Listed>
    where
        F: Future<Output = Listed>,
    {
        let listed = self.count(namespace)?;
        // One asks for all that wait.
        let mut listed = listed.lock().await;
        if let Some((at, listed)) = listed.as_ref().filter(|(at, _)| at.elapsed() < STANDS) {
            tracing::trace!(namespace, age = ?at.elapsed(), "what pods use was asked for by another");
            return Some(listed.clone());
        }
        let answer = ask().await;
        *listed = Some((Instant::now(), answer.clone()));
        Some(answer)
    }

    fn count(&self, namespace: &str) -> Option<Held> {
        let mut spaces = self.0.lock();
        if !spaces.contains_key(namespace) {
            // Namespaces in which nobody asks any more are forgotten when another comes.
            spaces.retain(|_, space| space.since.elapsed() < 2 * COUNTED);
            spaces.insert(namespace.to_owned(), Space { since: Instant::now(), asked: 0, many: false, listed: Arc::default() });
        }
        let space = spaces.get_mut(namespace)?;
        if space.since.elapsed() >= COUNTED {
            (space.many, space.since, space.asked) = (space.asked >= MANY, Instant::now(), 0);
        }
        space.asked += 1;
        (space.many || space.asked >= MANY).then(|| Arc::clone(&space.listed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test(start_paused = true)]
    async fn many_share_a_list_and_few_do_not() {
        let (shared, asked) = (Shared::default(), AtomicUsize::new(0));
        let ask = || async {
            asked.fetch_add(1, Ordering::Relaxed);
            Ok(Arc::default())
        };
        for number in 1..MANY {
            assert!(shared.of("n", ask).await.is_none(), "{number}");
        }
        for _ in 0..100 {
            assert!(shared.of("n", ask).await.is_some());
        }
        assert!(shared.of("other", ask).await.is_none(), "namespaces are counted by themselves");
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        tokio::time::advance(STANDS).await;
        shared.of("n", ask).await;
        assert_eq!(asked.load(Ordering::Relaxed), 2, "an old list is made anew");
        tokio::time::advance(COUNTED).await;
        assert!(shared.of("n", ask).await.is_some(), "there were many just now");
        tokio::time::advance(COUNTED).await;
        assert!(shared.of("n", ask).await.is_none(), "and are not any more");
    }
}
