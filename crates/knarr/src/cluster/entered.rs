//! The first steps of whoever starts something in a cluster's place, the lock and the mark, which may turn out to have been in vain: one that
//! is refused leaves no more there than it found.

use super::{Cluster, Lock, Work, directory, holder, remove_known};

/// Holds the place; dropped, it leaves it as it was.
#[derive(Debug)]
pub struct Entered {
    cluster: Cluster,
    lock: Option<Lock>,
    /// There was no data before.
    is_new: bool,
    /// There was nothing else that does not outlive the machine's run.
    is_first: bool,
}

impl Cluster {
    /// Takes the lock and makes the data directory this cluster's, until it is known whether anything is started.
    ///
    /// # Errors
    /// Somebody else has either.
    pub async fn enter(&self) -> anyhow::Result<Entered> {
        let lock = Some(self.lock(Work::Runs).await?);
        let mut entered = Entered { cluster: self.clone(), lock, is_new: false, is_first: holder::is_alone(&self.run) };
        let is_new = !self.has_data()?;
        directory::is_whole(&self.data, &self.name)?;
        self.claim()?;
        entered.is_new = is_new;
        Ok(entered)
    }
}

impl Entered {
    /// Something is started: the lock, which ends with the process.
    pub fn stay(mut self) -> Option<Lock> {
        self.lock.take()
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let Some(lock) = self.lock.take() else { return };
        let Cluster { data, run, .. } = &self.cluster;
        // Who has joined a cluster has something to keep, whatever failed after it.
        let left = if self.is_new && !self.cluster.is_agent() { remove_known(data).map(drop) } else { Ok(()) };
        if let Err(error) = left.and_then(|()| if self.is_first { holder::remove(run, lock) } else { Ok(()) }) {
            tracing::warn!("not all is as it was before: {error:#}");
        }
    }
}
