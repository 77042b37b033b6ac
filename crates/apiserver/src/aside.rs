//! Work that is done now and then beside all else, and may hang: what reads files that somebody else names, on a file server perhaps that is
//! gone. It has a thread of its own, so it holds neither a worker nor the end of the process; it is waited for a little, and while it has
//! not come back it is not begun again.

use parking_lot::Mutex;
use std::{
    io,
    thread::{Builder, JoinHandle},
    time::Duration,
};
use tokio::sync::oneshot;

/// How long whoever asks for the work waits for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// One kind of such work.
#[derive(Default)]
pub(crate) struct Aside(Mutex<Option<JoinHandle<()>>>);

/// How it stands with the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stand {
    Done,
    /// It has not ended in time; told once of each piece of work.
    Hangs,
    /// It was not begun: what hung still does.
    Busy,
}

impl Aside {
    /// Does the work, unless the last is still under way.
    ///
    /// # Errors
    /// There is no thread for it.
    pub(crate) async fn run(&self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<Stand> {
        let (done, ended) = oneshot::channel();
        {
            let mut last = self.0.lock();
            if last.as_ref().is_some_and(|thread| !thread.is_finished()) {
                return Ok(Stand::Busy);
            }
            let work = move || {
                work();
                // Whoever asked may wait no longer.
                let _ = done.send(());
            };
            *last = Some(Builder::new().name(name.to_owned()).stack_size(machinery::json::STACK_BYTES).spawn(work)?);
        }
        // An end by panic is an end, too.
        Ok(if tokio::time::timeout(PATIENCE, ended).await.is_ok() { Stand::Done } else { Stand::Hangs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test(start_paused = true)]
    async fn what_hangs_is_waited_for_once_and_not_begun_again() {
        let (aside, (go, wait), (tell, told)) = (Aside::default(), mpsc::channel::<()>(), mpsc::channel());
        let hung = aside.run("hangs", move || wait.recv().unwrap()).await.unwrap();
        assert_eq!(hung, Stand::Hangs);
        let again = tell.clone();
        assert_eq!(aside.run("again", move || again.send("again").unwrap()).await.unwrap(), Stand::Busy);
        go.send(()).unwrap();
        aside.0.lock().take().unwrap().join().unwrap();
        aside.run("later", move || tell.send("later").unwrap()).await.unwrap();
        assert_eq!(told.recv().unwrap(), "later");
        assert!(told.recv().is_err(), "what was not begun is not made up for");
    }
}
