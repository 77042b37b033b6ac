//! A database, as small as one can be that loses nothing: rows are appended to a log, and read from it.
//!
//! What was answered with 201 is on the disk, whatever is killed afterwards. A row is one line of the log, with a sum in front of
//! it. What a crash leaves half written at the log's end was never answered, and is cut off at the next start; a line that is wrong
//! before the end was, and the database does not start rather than go on without it. Rows are written one after another, each
//! with an fsync of its own. When that fails nobody knows what the disk has: the process ends, and the next one reads what there is.
//! One process at a time has the log, by a lock that the kernel frees however it ends.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::watch;

use super::me::{Answer, Me, env};
use super::server::{self, Site};

/// Where rows are, below `/`.
const ROWS: &str = "/rows";
/// Bytes of a row at most.
const ROW_MAX: usize = 1024;
/// Bytes of the log at most: it is read whole.
const LOG_MAX: u64 = 8 * 1024 * 1024;
/// Digits of a line's sum.
const SUM_DIGITS: usize = 16;

/// Serves the log until SIGTERM, or until the disk fails.
pub async fn run() -> Result<(), String> {
    let log = Arc::new(Log::open()?);
    let served = log.clone();
    tokio::select! {
        ended = server::run(|me| Site::Database(Database { me, log: served })) => ended,
        why = log.lost() => Err(format!("nobody knows what the disk has: {why}")),
    }
}

/// The rows on the disk.
struct Log {
    /// Whoever writes has it, until what he wrote is on the disk.
    file: Mutex<File>,
    /// The same file for whoever reads: rows are only added, so no reader waits for the writer.
    reader: File,
    /// What is on the disk, and may be read.
    end: Mutex<End>,
    /// Why nobody knows what the disk has, once that is so: nothing is taken then.
    lost: watch::Sender<Option<String>>,
    max: u64,
}

/// How far the log goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct End {
    bytes: u64,
    rows: u64,
}

/// Why a row is not taken.
#[derive(Debug, PartialEq, Eq)]
enum Refused {
    /// There is no room for it; those before it are as they were.
    Full(String),
    /// Nobody knows what the disk has.
    Lost(String),
}

impl Log {
    /// Opens the log that `$DATABASE_LOG` names, or makes it.
    fn open() -> Result<Self, String> {
        let path = PathBuf::from(env("DATABASE_LOG").unwrap_or_else(|| "/data/rows".into()));
        Self::at(&path, LOG_MAX).map_err(|e| format!("{}: {e}", path.display()))
    }

    fn at(path: &Path, max: u64) -> Result<Self, String> {
        let failed = |e: std::io::Error| e.to_string();
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path).map_err(failed)?;
        file.try_lock().map_err(|e| format!("another process has it: {e}"))?;
        let mut text = Vec::new();
        // One byte more than there may be, so that what is too long is seen to be.
        (&mut file).take(max + 1).read_to_end(&mut text).map_err(failed)?;
        if text.len() as u64 > max {
            return Err(format!("it has more than {max} bytes"));
        }
        let end = whole(&text)?;
        if end.bytes < text.len() as u64 {
            println!("{} bytes at the end of {} were not written whole, and nobody was told that they were", text.len() as u64 - end.bytes, path.display());
            file.set_len(end.bytes).map_err(failed)?;
        }
        file.seek(SeekFrom::Start(end.bytes)).map_err(failed)?;
        // What was written before the crash and not synced counts from now on; the name of a new file is on the disk with its folder.
        file.sync_all().map_err(failed)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all()).map_err(failed)?;
        println!("{}: {} rows", path.display(), end.rows);
        Ok(Self { reader: file.try_clone().map_err(failed)?, file: Mutex::new(file), end: Mutex::new(end), lost: watch::Sender::new(None), max })
    }

    fn end(&self) -> End {
        *self.end.lock()
    }

    /// Appends a row; its number, counted from 1, when it is on the disk.
    fn append(&self, row: &str) -> Result<u64, Refused> {
        let mut file = self.file.lock();
        if let Some(why) = &*self.lost.borrow() {
            return Err(Refused::Lost(why.clone()));
        }
        let end = self.end();
        let line = format!("{:016x} {row}\n", sum(row.as_bytes()));
        let next = End { bytes: end.bytes + line.len() as u64, rows: end.rows + 1 };
        if next.bytes > self.max {
            return Err(Refused::Full(format!("the log has its {} bytes", self.max)));
        }
        if let Err(error) = file.write_all(line.as_bytes()) {
            let back = file.set_len(end.bytes).and_then(|()| file.seek(SeekFrom::Start(end.bytes)));
            return match (back, error.kind()) {
                (Ok(_), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => Err(Refused::Full(error.to_string())),
                _ => Err(self.lose(&error)),
            };
        }
        file.sync_data().map_err(|e| self.lose(&e))?;
        *self.end.lock() = next;
        Ok(next.rows)
    }

    fn lose(&self, error: &std::io::Error) -> Refused {
        self.lost.send_replace(Some(error.to_string()));
        Refused::Lost(error.to_string())
    }

    /// Waits until nobody knows any more what the disk has, which is hoped to be never; why.
    async fn lost(&self) -> String {
        let mut lost = self.lost.subscribe();
        let why = lost.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
        why.unwrap_or_default()
    }

    /// All rows that are on the disk, a line each.
    fn read(&self) -> std::io::Result<String> {
        let mut text = vec![0; usize::try_from(self.end().bytes).unwrap_or(0)];
        self.reader.read_exact_at(&mut text, 0)?;
        let rows = text.split_inclusive(|b| *b == b'\n').filter_map(|line| line.get(SUM_DIGITS + 1..));
        Ok(rows.map(String::from_utf8_lossy).collect())
    }
}

/// How far a log is whole, line by line.
fn whole(text: &[u8]) -> Result<End, String> {
    let mut end = End::default();
    for line in text.split_inclusive(|b| *b == b'\n') {
        if row(line).is_none() {
            let rest = text.len() as u64 - end.bytes;
            // A row is written at once: what one write has left is no longer than a line, and is the last.
            return if rest == line.len() as u64 { Ok(end) } else { Err(format!("row {} is damaged, and there are more behind it", end.rows + 1)) };
        }
        end = End { bytes: end.bytes + line.len() as u64, rows: end.rows + 1 };
    }
    Ok(end)
}

/// The row of a line, if the line is whole.
fn row(line: &[u8]) -> Option<&[u8]> {
    let (digits, row) = line.strip_suffix(b"\n")?.split_at_checked(SUM_DIGITS)?;
    let (row, digits) = (row.strip_prefix(b" ")?, std::str::from_utf8(digits).ok()?);
    (u64::from_str_radix(digits, 16) == Ok(sum(row))).then_some(row)
}

/// FNV-1a: enough against what a crash leaves.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The log, as it is served.
pub struct Database {
    me: Me,
    log: Arc<Log>,
}

impl Database {
    pub async fn page(&self, path: &str) -> Option<Answer> {
        match path {
            "/" => {
                let end = self.log.end();
                Some((StatusCode::OK, "application/json", format!("{}\n", json!({"pod": self.me.pod, "rows": end.rows, "bytes": end.bytes}))))
            }
            ROWS => {
                let log = self.log.clone();
                Some(match off_the_thread(move || log.read()).await {
                    Ok(rows) => (StatusCode::OK, "text/plain; charset=utf-8", rows),
                    Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
                })
            }
            _ => None,
        }
    }

    /// Appends the body as a row.
    pub async fn post<B>(&self, path: &str, body: B) -> Option<Answer>
    where
        B: hyper::body::Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if path != ROWS {
            return None;
        }
        let body = match Limited::new(body, ROW_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                return Some(text(StatusCode::PAYLOAD_TOO_LARGE, &format!("a row has {ROW_MAX} bytes at most")));
            }
            Err(error) => return Some(text(StatusCode::BAD_REQUEST, &error.to_string())),
        };
        let row = match std::str::from_utf8(&body).map(str::trim_end) {
            Ok(row) if !row.is_empty() && !row.contains(['\n', '\r']) => row.to_owned(),
            _ => return Some(text(StatusCode::BAD_REQUEST, "a row is one line of text")),
        };
        let log = self.log.clone();
        // Also when the client goes meanwhile: what is begun is brought to its end.
        let appended = off_the_thread(move || Ok(log.append(&row))).await.unwrap_or_else(|e| Err(Refused::Lost(e.to_string())));
        Some(match appended {
            Ok(number) => (StatusCode::CREATED, "application/json", format!("{}\n", json!({"pod": self.me.pod, "row": number}))),
            Err(Refused::Full(why)) => text(StatusCode::INSUFFICIENT_STORAGE, &why),
            Err(Refused::Lost(why)) => text(StatusCode::SERVICE_UNAVAILABLE, &why),
        })
    }
}

/// Disks take their time; probes are answered meanwhile.
async fn off_the_thread<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await?
}

fn text(code: StatusCode, text: &str) -> Answer {
    (code, "text/plain; charset=utf-8", format!("{text}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    /// A folder of its own, gone with the value.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("knarr-demo-database-{name}-{}", std::process::id()));
            // Of a run with the same number that was killed.
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn log(&self) -> PathBuf {
            self.0.join("rows")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// The log, once no program that another test has just begun to start has it with its lock, as it has all that is open.
    fn opened(folder: &Folder, most: u64) -> Result<Log, String> {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            match Log::at(&folder.log(), most) {
                Err(error) if error.starts_with("another process has it") && std::time::Instant::now() < end => {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                outcome => return outcome,
            }
        }
    }

    fn me() -> Me {
        Me { version: "v1".into(), pod: "db-0".into(), namespace: "database".into(), node: "n".into(), ip: String::new() }
    }

    #[test]
    fn what_a_crash_leaves_at_the_end_is_cut_off_and_what_is_damaged_before_it_is_not_passed_over() {
        let folder = Folder::new("crash");
        let log = Log::at(&folder.log(), LOG_MAX).unwrap();
        assert_eq!([log.append("one"), log.append("two and more")], [Ok(1), Ok(2)]);
        assert_eq!(log.read().unwrap(), "one\ntwo and more\n");
        assert!(Log::at(&folder.log(), LOG_MAX).is_err_and(|e| e.starts_with("another process has it")));
        drop(log);

        let whole = std::fs::read(folder.log()).unwrap();
        let first = whole.iter().position(|b| *b == b'\n').unwrap() + 1;
        // At every byte of the second row.
        for length in first..whole.len() {
            std::fs::write(folder.log(), &whole[..length]).unwrap();
            let log = opened(&folder, LOG_MAX).unwrap();
            assert_eq!(log.end(), End { bytes: first as u64, rows: 1 }, "cut at {length}");
            assert_eq!(log.append("three"), Ok(2));
            assert_eq!(log.read().unwrap(), "one\nthree\n");
        }
        let mut damaged = whole.clone();
        damaged[SUM_DIGITS + 1] = b'O';
        std::fs::write(folder.log(), &damaged).unwrap();
        assert_eq!(opened(&folder, LOG_MAX).err().unwrap(), "row 1 is damaged, and there are more behind it");
        assert_eq!(std::fs::read(folder.log()).unwrap(), damaged, "nothing of it is touched");
    }

    #[test]
    fn a_full_log_takes_nothing_and_keeps_what_it_has() {
        let folder = Folder::new("full");
        let log = Log::at(&folder.log(), 50).unwrap();
        assert_eq!([log.append("one"), log.append("two")], [Ok(1), Ok(2)]);
        assert_eq!(log.append("three"), Err(Refused::Full("the log has its 50 bytes".into())));
        drop(log);
        assert_eq!(opened(&folder, 50).unwrap().read().unwrap(), "one\ntwo\n");
        assert!(opened(&folder, 30).is_err_and(|e| !e.starts_with("another process has it")));
    }

    #[tokio::test]
    async fn rows_are_lines_and_nothing_else_is_taken() {
        let folder = Folder::new("http");
        let database = Database { me: me(), log: Arc::new(Log::at(&folder.log(), LOG_MAX).unwrap()) };
        let post =
            async |path: &str, body: &[u8]| database.post(path, Full::new(Bytes::copy_from_slice(body))).await.map(|answer| (answer.0.as_u16(), answer.2));
        assert_eq!(post("/rows", "fair winds, Käpt'n\n".as_bytes()).await.unwrap(), (201, "{\"pod\":\"db-0\",\"row\":1}\n".to_owned()));
        for (body, code) in [(&b""[..], 400), (b"\n", 400), (b"a\nb", 400), (b"a\rb", 400), (b"\xff", 400), (&[b'a'; ROW_MAX + 1], 413)] {
            assert_eq!(post("/rows", body).await.unwrap().0, code, "{body:?}");
        }
        assert_eq!(post("/", b"a").await, None);
        assert_eq!(database.page("/rows").await.unwrap().2, "fair winds, Käpt'n\n");
        assert!(database.page("/").await.unwrap().2.ends_with(",\"pod\":\"db-0\",\"rows\":1}\n"));
        assert!(database.page("/other").await.is_none());
    }
}
