//! Looks at places of the host that may never answer: a dead file server, a stuck FUSE mount.
//!
//! A look runs beside the workers that everything else runs on, is waited for no longer than [`ANSWER_MAX`], and cannot be
//! ended by anybody. So a pod has at most one under way: while that hangs the pod's next try is refused at once and waits
//! like any other failure; and all pods together have at most [`LOOKS_MAX`], which leaves threads for everything else.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Looks under way at the same time; tokio has 512 threads for what blocks.
const LOOKS_MAX: usize = 128;

/// The looks of this kubelet.
#[derive(Clone, Default)]
pub struct Looks {
    under_way: Arc<Mutex<HashSet<String>>>,
}

/// Gives the pod's place back when the look ends, whether anybody waits for it or not.
struct Place {
    of: Looks,
    uid: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of.under_way.lock().remove(&self.uid);
    }
}

impl Looks {
    fn place(&self, uid: &str) -> Result<Place, String> {
        let mut held = self.under_way.lock();
        if held.contains(uid) {
            return Err("a former look at the pod's volumes has not been answered yet: the file system hangs".into());
        }
        if held.len() >= LOOKS_MAX {
            return Err(format!("{LOOKS_MAX} looks at volumes have not been answered yet: file systems hang"));
        }
        held.insert(uid.to_owned());
        Ok(Place { of: self.clone(), uid: uid.to_owned() })
    }

    /// Does what may hang, for the pod of this UID.
    pub async fn look<T: Send + 'static>(&self, uid: &str, work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
        let place = self.place(uid)?;
        let task = tokio::task::spawn_blocking(move || {
            let _place = place;
            work()
        });
        match tokio::time::timeout(ANSWER_MAX, task).await {
            Ok(Ok(done)) => done,
            Ok(Err(e)) => Err(format!("look failed: {e}")),
            Err(_) => Err(format!("no answer within {} seconds: the file system hangs", ANSWER_MAX.as_secs())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn a_look_that_hangs_holds_back_its_own_pod_alone() {
        let looks = Looks::default();
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
}
