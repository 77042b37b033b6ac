//! Reading a container's log for a client: tail, since, limit, timestamps, following.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use k8s_openapi::jiff::Timestamp;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::{broadcast, mpsc};

use super::directories::{self, Directories};
use super::parse::Line;
use crate::cri::RuntimeEvent;

/// Bytes read at a time.
const BLOCK: usize = 64 << 10;
/// Longest line kept while its end is not there; the runtime splits at 16 KiB.
const MAX_LINE: usize = 1 << 20;
/// How often a followed file is looked at though nothing is heard of it, and where the kernel cannot tell.
const LOOK: Duration = Duration::from_secs(5);
const LOOK_DEAF: Duration = Duration::from_millis(50);

/// What a client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Go on with what comes.
    pub follow: bool,
    /// Only so many of the last lines.
    pub tail: Option<u64>,
    /// Only lines not older.
    pub since: Option<Timestamp>,
    /// Times before the lines.
    pub timestamps: bool,
    /// At most so many bytes.
    pub limit: Option<u64>,
    /// Only this stream: true for standard error.
    pub stderr: Option<bool>,
}

/// Turns lines into what the client sees, and counts.
struct Filter {
    options: Options,
    left: Option<u64>,
    /// The last line written had no end: what follows is its rest and gets no time.
    open: bool,
}

impl Filter {
    /// Appends what is shown of a line; false when the limit is reached.
    fn line(&mut self, raw: &[u8], out: &mut BytesMut) -> bool {
        let Some(line) = Line::parse(raw) else { return true };
        if self.options.stderr.is_some_and(|e| e != line.stderr) {
            return true;
        }
        if let Some(since) = self.options.since
            && line.time.parse::<Timestamp>().is_ok_and(|t| t < since)
        {
            return true;
        }
        let from = out.len();
        if self.options.timestamps && !self.open {
            out.extend_from_slice(line.time.as_bytes());
            out.extend_from_slice(b" ");
        }
        out.extend_from_slice(line.content);
        self.open = line.partial;
        if !line.partial {
            out.extend_from_slice(b"\n");
        }
        if let Some(left) = &mut self.left {
            let added = (out.len() - from) as u64;
            if added >= *left {
                out.truncate(from + usize::try_from(*left).unwrap_or(usize::MAX));
                *left = 0;
                return false;
            }
            *left -= added;
        }
        true
    }
}

/// Where the last `lines` lines of the file's first `len` bytes begin.
async fn tail_offset(file: &mut File, len: u64, lines: u64) -> std::io::Result<u64> {
    if lines == 0 {
        return Ok(len);
    }
    let mut at = len;
    let mut found = 0;
    let mut block = vec![0; BLOCK];
    while at > 0 {
        let size = at.min(BLOCK as u64);
        at -= size;
        let part = &mut block[..usize::try_from(size).unwrap_or(BLOCK)];
        file.seek(SeekFrom::Start(at)).await?;
        file.read_exact(part).await?;
        for (i, b) in part.iter().enumerate().rev() {
            // The newline at the very end ends the last line and begins none.
            if *b == b'\n' && at + i as u64 + 1 < len {
                found += 1;
                if found == lines {
                    return Ok(at + i as u64 + 1);
                }
            }
        }
    }
    Ok(0)
}

/// Whether the name now leads to another file: it was rotated.
async fn rotated(path: &Path, file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (tokio::fs::metadata(path).await, file.metadata().await) {
        (Ok(a), Ok(b)) => a.ino() != b.ino(),
        _ => false,
    }
}

/// News of a log that is followed: of its directory from the kernel (lines, another file in its place), and of containers from
/// the runtime. Nobody looks without need, however many follow.
struct News {
    directory: Option<directories::News>,
    events: broadcast::Receiver<RuntimeEvent>,
}

impl News {
    fn of(path: &Path, Sources { directories, events }: Sources) -> Self {
        let directory = directories.news(path.parent().unwrap_or(path));
        let directory = directory.inspect_err(|error| tracing::debug!(%error, "a log is looked at again and again")).ok();
        Self { directory, events }
    }

    async fn heard(&mut self) {
        let look = if self.directory.is_some() { LOOK } else { LOOK_DEAF };
        let changed = async {
            match &mut self.directory {
                Some(directory) => directory.changed().await,
                None => std::future::pending().await,
            }
        };
        let told = async {
            if let Err(broadcast::error::RecvError::Closed) = self.events.recv().await {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = changed => {}
            () = told => {}
            () = tokio::time::sleep(look) => {}
        }
    }
}

/// Where who follows hears of something.
pub struct Sources {
    /// Of directories.
    pub directories: Directories,
    /// Of containers.
    pub events: broadcast::Receiver<RuntimeEvent>,
}

/// Sends the log to `to` until its end, or, following, until `running` says that nothing more will come.
pub async fn send(path: PathBuf, options: Options, (running, sources): (impl Fn() -> bool + Send, Sources), to: mpsc::Sender<Bytes>) -> std::io::Result<()> {
    let mut file = File::open(&path).await?;
    let len = file.metadata().await?.len();
    let start = match options.tail {
        Some(n) => tail_offset(&mut file, len, n).await?,
        None => 0,
    };
    file.seek(SeekFrom::Start(start)).await?;
    let follow = options.follow;
    // Who does not follow sees what was there when the question came: one line asked for is one line answered.
    let mut left = if follow { u64::MAX } else { len.saturating_sub(start) };
    let mut filter = Filter { left: options.limit, options, open: false };
    let mut pending = BytesMut::with_capacity(BLOCK);
    let mut ended = false;
    // A watch on a file is scarce on a host: only who waits for more has one.
    let mut news = follow.then(|| News::of(&path, sources));
    // The file that goes on where a rotated one ended; that one is read to its end first.
    let mut next = None;
    loop {
        let before = pending.len();
        let read = file.read_buf(&mut pending).await?;
        let got = u64::try_from(read).unwrap_or(u64::MAX).min(left);
        left -= got;
        pending.truncate(before + usize::try_from(got).unwrap_or(usize::MAX));
        let mut out = BytesMut::new();
        let mut more = true;
        while let Some(end) = pending.iter().position(|b| *b == b'\n') {
            let line = pending.split_to(end + 1);
            more = filter.line(&line, &mut out);
            if !more {
                break;
            }
        }
        if pending.len() > MAX_LINE {
            pending.clear();
        }
        if !out.is_empty() && to.send(out.freeze()).await.is_err() {
            return Ok(());
        }
        if !more {
            return Ok(());
        }
        if got > 0 {
            pending.reserve(BLOCK);
            continue;
        }
        if !follow {
            return Ok(());
        }
        if let Some(next) = next.take() {
            file = next;
            continue;
        }
        if rotated(&path, &file).await {
            next = Some(File::open(&path).await?);
            continue;
        }
        if ended {
            return Ok(());
        }
        // Whether it runs is asked before the file is read for the last time, or its last words would be missed.
        ended = !running();
        if let Some(news) = news.as_mut().filter(|_| !ended) {
            tokio::select! {
                () = news.heard() => {}
                () = to.closed() => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:01.000000000Z stdout F one\n2026-01-01T00:00:02.000000000Z stderr F two\n2026-01-01T00:00:03.000000000Z stdout P th\n2026-01-01T00:00:03.100000000Z stdout F ree\n";

    fn sources(events: broadcast::Receiver<RuntimeEvent>) -> Sources {
        Sources { directories: Directories::default(), events }
    }

    async fn shown(options: Options) -> String {
        let dir = crate::testing::TempDir::new("logread");
        let path = dir.path().join("0.log");
        std::fs::write(&path, LOG).unwrap();
        let (tx, mut rx) = mpsc::channel(16);
        send(path, options, (|| false, sources(broadcast::channel(1).1)), tx).await.unwrap();
        let mut out = Vec::new();
        while let Some(b) = rx.recv().await {
            out.extend_from_slice(&b);
        }
        String::from_utf8(out).unwrap()
    }

    #[tokio::test]
    async fn a_follower_hears_of_lines_of_a_new_file_and_of_the_end() {
        let dir = crate::testing::TempDir::new("logfollow");
        let path = dir.path().join("0.log");
        std::fs::write(&path, "").unwrap();
        let ((tx, mut rx), (events, heard)) = (mpsc::channel(16), broadcast::channel(4));
        let runs = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        let running = std::sync::Arc::clone(&runs);
        let follow = Options { follow: true, ..Options::default() };
        let sending = tokio::spawn(send(path.clone(), follow, (move || running.load(std::sync::atomic::Ordering::Relaxed), sources(heard)), tx));
        let line = |n: u8| format!("2026-01-01T00:00:0{n}.000000000Z stdout F {n}\n");
        let add = |n: u8| std::io::Write::write_all(&mut std::fs::File::options().append(true).create(true).open(&path).unwrap(), line(n).as_bytes()).unwrap();
        let soon = Duration::from_secs(60);
        for n in [1, 2] {
            add(n);
            assert_eq!(tokio::time::timeout(soon, rx.recv()).await.unwrap().unwrap(), format!("{n}\n"));
        }
        std::fs::rename(&path, dir.path().join("0.log.old")).unwrap();
        add(3);
        assert_eq!(tokio::time::timeout(soon, rx.recv()).await.unwrap().unwrap(), "3\n");
        runs.store(false, std::sync::atomic::Ordering::Relaxed);
        events.send(RuntimeEvent { pod: None }).unwrap();
        assert!(tokio::time::timeout(soon, rx.recv()).await.unwrap().is_none(), "it ends with its container");
        sending.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn options() {
        assert_eq!(shown(Options::default()).await, "one\ntwo\nthree\n");
        assert_eq!(shown(Options { follow: true, ..Options::default() }).await, "one\ntwo\nthree\n");
        assert_eq!(shown(Options { tail: Some(3), ..Options::default() }).await, "two\nthree\n");
        assert_eq!(shown(Options { tail: Some(0), ..Options::default() }).await, "");
        assert_eq!(shown(Options { tail: Some(99), ..Options::default() }).await, "one\ntwo\nthree\n");
        assert_eq!(shown(Options { limit: Some(5), ..Options::default() }).await, "one\nt");
        assert_eq!(shown(Options { stderr: Some(true), ..Options::default() }).await, "two\n");
        let since = "2026-01-01T00:00:02.5Z".parse().unwrap();
        assert_eq!(shown(Options { since: Some(since), timestamps: true, ..Options::default() }).await, "2026-01-01T00:00:03.000000000Z three\n");
    }
}
