//! News of directories from the kernel, for all who follow logs: one inotify instance, since a user has few of those (128 by default, and
//! root's are everybody's), and one watch for each directory, however many look at it.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use parking_lot::Mutex;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// The directories that somebody looks at. Cheap to clone.
#[derive(Clone, Default)]
pub struct Directories(Arc<Mutex<Option<Open>>>);

/// News of one directory, until it is dropped.
pub struct News {
    open: Open,
    number: WatchDescriptor,
    changes: watch::Receiver<()>,
}

#[derive(Clone)]
struct Open {
    instance: Arc<Instance>,
    _reads: Arc<AbortOnDropHandle<()>>,
}

struct Instance {
    kernel: Inotify,
    watched: Mutex<HashMap<WatchDescriptor, watch::Sender<()>>>,
}

impl Open {
    fn new() -> io::Result<Self> {
        let kernel = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let pipe = pipe::Receiver::from_owned_fd_unchecked(kernel.as_fd().try_clone_to_owned()?)?;
        let instance = Arc::new(Instance { kernel, watched: Mutex::default() });
        let reads = tokio::spawn(read(Arc::clone(&instance), pipe));
        Ok(Self { instance, _reads: Arc::new(AbortOnDropHandle::new(reads)) })
    }
}

/// Reads the news, of which the pipe says that there are some.
async fn read(instance: Arc<Instance>, pipe: pipe::Receiver) {
    while pipe.readable().await.is_ok() {
        // No event has room in this, so none is taken: it is an error (`inotify(7)`), and another one where there are none.
        if pipe.try_read(&mut [0]).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock) {
            continue;
        }
        match instance.kernel.read_events() {
            Ok(events) => instance.tell(&events),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => return tracing::warn!(%error, "news of logs cannot be read"),
        }
    }
}

impl Instance {
    /// Tells those who look at a directory that something came of it; what it is does not matter, since they look for themselves.
    fn tell(&self, events: &[InotifyEvent]) {
        let mut watched = self.watched.lock();
        for event in events {
            if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                // The directory is gone, and its number with it.
                watched.remove(&event.wd);
            } else if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                watched.values().for_each(|tell| tell.send_replace(()));
            } else if let Some(tell) = watched.get(&event.wd) {
                tell.send_replace(());
            }
        }
    }
}

impl Directories {
    /// News of a directory: lines that are written in it, files that come.
    pub fn news(&self, of: &Path) -> io::Result<News> {
        self.watch(of, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO)
    }

    /// News of these changes of a file or a directory.
    pub fn watch(&self, of: &Path, changes: AddWatchFlags) -> io::Result<News> {
        let mut kept = self.0.lock();
        let open = match &*kept {
            Some(open) => open.clone(),
            None => kept.insert(Open::new()?).clone(),
        };
        let mut watched = open.instance.watched.lock();
        let number = open.instance.kernel.add_watch(of, changes)?;
        let changes = watched.entry(number).or_insert_with(|| watch::Sender::new(())).subscribe();
        drop(watched);
        Ok(News { open, number, changes })
    }
}

impl News {
    /// Waits for some.
    pub async fn changed(&mut self) {
        if !self.next().await {
            std::future::pending().await
        }
    }

    /// Waits for some; false if none will come, since it is gone.
    pub async fn next(&mut self) -> bool {
        self.changes.changed().await.is_ok()
    }
}

impl Drop for News {
    fn drop(&mut self) {
        let mut watched = self.open.instance.watched.lock();
        // The last one, which is this.
        if watched.get(&self.number).is_some_and(|tell| tell.receiver_count() <= 1) {
            watched.remove(&self.number);
            let _ = self.open.instance.kernel.rm_watch(self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    fn instances() -> usize {
        let all = fs::read_dir("/proc/self/fd").unwrap().filter_map(|e| fs::read_link(e.ok()?.path()).ok());
        all.filter(|link| link.to_string_lossy().contains("inotify")).count()
    }

    #[tokio::test]
    async fn one_instance_serves_all() {
        let (a, b) = (crate::testing::TempDir::new("news-a"), crate::testing::TempDir::new("news-b"));
        let directories = Directories::default();
        let before = instances();
        let mut all: Vec<News> = (0..300).map(|n| directories.news(if n % 2 == 0 { a.path() } else { b.path() }).unwrap()).collect();
        // Other tests follow logs meanwhile.
        assert!(instances().saturating_sub(before) < 20);
        fs::write(a.path().join("x"), "x").unwrap();
        let soon = Duration::from_secs(60);
        for news in all.iter_mut().step_by(2) {
            tokio::time::timeout(soon, news.changed()).await.expect("all who look at it hear of it");
        }
        assert!(!all[1].changes.has_changed().unwrap(), "of the other directory nothing came");
        assert_eq!(all[0].open.instance.watched.lock().len(), 2);
        let last = all.pop().unwrap();
        drop(all);
        assert_eq!(last.open.instance.watched.lock().len(), 1, "who has gone is watched for no more");
        drop(last);
        let mut again = directories.news(a.path()).unwrap();
        fs::write(a.path().join("y"), "y").unwrap();
        tokio::time::timeout(soon, again.changed()).await.expect("it can begin anew");
    }
}
