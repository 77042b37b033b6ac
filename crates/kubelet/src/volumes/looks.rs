//! Looks at places of the host that may never answer: a dead file server, a stuck FUSE mount.
//!
//! A look runs beside the workers that everything else runs on, is waited for no longer than [`ANSWER_MAX`], and cannot be
//! ended by anybody. So a pod has at most one under way: those for its further volumes wait their turn, and are refused when it
//! does not come in the time of an answer; and all pods together have at most [`LOOKS_MAX`], which leaves threads for everything else.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Longest further wait for a look that says that it works: a large device gets a file system.
const WORK_MAX: Duration = Duration::from_secs(600);
/// Looks under way at the same time; tokio has 512 threads for what blocks.
const LOOKS_MAX: usize = 128;

/// The looks of this kubelet.
#[derive(Clone)]
pub struct Looks {
    under_way: Arc<Mutex<HashSet<String>>>,
    /// Told when one has ended.
    ended: watch::Sender<()>,
    /// How long a pod's further looks wait for their turn.
    turn_max: Duration,
}

impl Default for Looks {
    fn default() -> Self {
        Self { under_way: Arc::default(), ended: watch::Sender::new(()), turn_max: ANSWER_MAX }
    }
}

/// Gives the pod's place back when the look ends, whether anybody waits for it or not.
struct Place {
    of: Looks,
    uid: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of.under_way.lock().remove(&self.uid);
        self.of.ended.send_replace(());
    }
}

impl Looks {
    /// The pod's turn.
    async fn turn(&self, uid: &str) -> Result<Place, String> {
        let mut ended = self.ended.subscribe();
        let turn = async {
            loop {
                if let Some(place) = self.place(uid)? {
                    return Ok(place);
                }
                // Whoever tells is here.
                let _ = ended.changed().await;
            }
        };
        let late = "a former look at the pod's volumes has not been answered yet: the file system hangs";
        tokio::time::timeout(self.turn_max, turn).await.unwrap_or_else(|_| Err(late.into()))
    }

    /// None: the pod has one.
    fn place(&self, uid: &str) -> Result<Option<Place>, String> {
        let mut held = self.under_way.lock();
        if held.contains(uid) {
            return Ok(None);
        }
        if held.len() >= LOOKS_MAX {
            return Err(format!("{LOOKS_MAX} looks at volumes have not been answered yet: file systems hang"));
        }
        held.insert(uid.to_owned());
        Ok(Some(Place { of: self.clone(), uid: uid.to_owned() }))
    }

    /// Does what may hang, for the pod of this UID.
    pub async fn look<T: Send + 'static>(&self, uid: &str, work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
        self.work(uid, &Arc::default(), work).await
    }

    /// Does what may hang, or may say that it has begun what takes its time.
    pub async fn work<T: Send + 'static>(
        &self,
        uid: &str,
        works: &Arc<AtomicBool>,
        work: impl FnOnce() -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let place = self.turn(uid).await?;
        let mut task = tokio::task::spawn_blocking(move || {
            let _place = place;
            work()
        });
        let mut waited = ANSWER_MAX;
        let mut done = tokio::time::timeout(ANSWER_MAX, &mut task).await;
        if done.is_err() && works.load(Ordering::Acquire) {
            waited += WORK_MAX;
            done = tokio::time::timeout(WORK_MAX, &mut task).await;
        }
        match done {
            Ok(Ok(done)) => done,
            Ok(Err(e)) => Err(format!("look failed: {e}")),
            Err(_) => Err(format!("no answer within {} seconds: the file system hangs", waited.as_secs())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn a_look_that_hangs_holds_back_its_own_pod_alone() {
        let looks = Looks { turn_max: Duration::from_millis(20), ..Looks::default() };
        let (release, hangs) = mpsc::channel::<()>();
        let hung = tokio::spawn({
            let looks = looks.clone();
            async move { looks.look("hung", move || hangs.recv().map_err(|e| e.to_string())).await }
        });
        // This runtime has one worker: that anything goes on shows that the look does not stand on it.
        while !looks.under_way.lock().contains("hung") {
            tokio::task::yield_now().await;
        }
        assert!(looks.look("hung", || Ok(())).await.unwrap_err().contains("not been answered yet"));
        assert_eq!(looks.look("other", || Ok(7)).await, Ok(7));
        // Nobody waits any more, and yet there is no second look until the first has ended.
        hung.abort();
        assert!(hung.await.is_err());
        assert!(looks.look("hung", || Ok(())).await.is_err());
        release.send(()).unwrap();
        while looks.under_way.lock().contains("hung") {
            tokio::task::yield_now().await;
        }
        assert_eq!(looks.look("hung", || Ok(())).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_that_he_works_is_waited_for() {
        let looks = Looks::default();
        for (works, told) in [(false, "within 10 seconds"), (true, "within 610 seconds")] {
            let (release, hangs) = mpsc::channel::<()>();
            // Time that is paused goes on only when nothing else does: a blocking task holds it, so it is moved by hand.
            let flag = Arc::new(AtomicBool::new(works));
            let own = looks.clone();
            let look = tokio::spawn(async move { own.work("pod", &flag, move || hangs.recv().map_err(|e| e.to_string())).await });
            while looks.under_way.lock().is_empty() {
                tokio::task::yield_now().await;
            }
            tokio::task::yield_now().await;
            for _ in 0..2 {
                tokio::time::advance(WORK_MAX + Duration::from_millis(1)).await;
                tokio::task::yield_now().await;
            }
            let why = look.await.unwrap().unwrap_err();
            assert!(why.contains(told), "{why}");
            release.send(()).unwrap();
            while !looks.under_way.lock().is_empty() {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn a_pods_looks_take_turns() {
        let looks = Looks::default();
        let (release, first) = mpsc::channel::<()>();
        let begun = looks.clone();
        let one = tokio::spawn(async move { begun.look("pod", move || first.recv().map_err(|e| e.to_string())).await });
        while !looks.under_way.lock().contains("pod") {
            tokio::task::yield_now().await;
        }
        let others = [1, 2].map(|n| {
            let looks = looks.clone();
            tokio::spawn(async move { looks.look("pod", move || Ok(n)).await })
        });
        tokio::task::yield_now().await;
        assert!(others.iter().all(|other| !other.is_finished()));
        release.send(()).unwrap();
        assert_eq!(one.await.unwrap(), Ok(()));
        for (n, other) in [1, 2].into_iter().zip(others) {
            assert_eq!(other.await.unwrap(), Ok(n));
        }
    }
}
