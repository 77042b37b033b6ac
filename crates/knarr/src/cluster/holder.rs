//! Who runs a cluster: whoever holds the lock in its volatile directory.
//!
//! The kernel says who that is (`/proc/locks`), not the number in the file, which may be the last run's. A holder that is
//! dying (killed, and not done with what it held) is waited for: to the user it is gone already. What the holder is at, running the
//! cluster or taking it away, it writes into the file itself, after its number.

use anyhow::{Context as _, bail};
use nix::fcntl::{Flock, FlockArg};
use std::{
    fs::{File, Metadata},
    io::{ErrorKind, Seek as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    time::{Duration, Instant},
};

use super::files::private;

/// The lock's file.
const FILE: &str = "lock";
/// A process that was killed has let go of everything within this, however much it held.
const DYING: Duration = Duration::from_secs(15);
/// How often a directory that is removed is emptied: others may write there for a moment.
const REMOVALS_MAX: usize = 100;
/// Between two looks at a dying holder: its lock cannot be awaited with a limit.
const LOOK: Duration = Duration::from_millis(5);
/// How often the kernel's table is looked at before a lock counts as nobody's: it is read in pieces, and where others let go of theirs
/// meanwhile it leaves lines out.
const TABLES: usize = 4;
/// `PF_EXITING` in the flags of `/proc/PID/stat`.
const EXITING: u64 = 0x4;
/// SIGKILL's bit in the masks of `/proc/PID/status`.
const KILLED: u64 = 1 << 8;

/// The lock; it ends with the process.
pub type Lock = Flock<File>;

/// What a holder is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// It runs the cluster, or its node.
    Runs,
    /// It takes the cluster away.
    Ends,
}

/// After the number of a holder that takes the cluster away.
const ENDS: &str = " down";

/// Takes the lock, or says who has it.
pub(super) async fn lock(name: &str, run: &Path, own: Work) -> anyhow::Result<Lock> {
    let path = run.join(FILE);
    let begun = Instant::now();
    loop {
        let opened = private(run).and_then(|()| File::options().create(true).truncate(false).read(true).write(true).mode(0o600).open(&path));
        if opened.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound) && begun.elapsed() < DYING {
            // The directory went since: a `down` has just come to its end.
            tokio::time::sleep(LOOK).await;
            continue;
        }
        let file = opened.with_context(|| format!("cannot make {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            // A `down` that held it may have removed the file meanwhile: then the lock is on nothing.
            Ok(mut lock) if std::fs::metadata(&path).is_ok_and(|there| is_of(&lock, &there)) => {
                lock.set_len(0)?;
                lock.rewind()?;
                write!(lock, "{}{}", std::process::id(), if own == Work::Ends { ENDS } else { "" })?;
                return Ok(lock);
            }
            Ok(_) => continue,
            // Without a holder it was let go of just now.
            Err((file, _)) => {
                if let Some(pid) = holder_of(&file).filter(|pid| !dying(*pid) || begun.elapsed() > DYING) {
                    if work(run, pid) == Some(Work::Ends) {
                        bail!("the cluster {name:?} is being taken away (process {pid})");
                    }
                    bail!("the cluster {name:?} is running already (process {pid}): use it, or end it with `knarr down --name {name}`");
                }
                // Or the kernel does not tell here: of another process namespace, or of a file system that names its device otherwise.
                if begun.elapsed() > DYING {
                    bail!("somebody holds {} and the kernel does not tell who: is the cluster {:?} running in a container?", path.display(), name);
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Removes a volatile directory with all that is in it. The lock goes last: who finds it free has a directory in which nobody removes
/// anything any more, be it the one that was here or another.
pub(super) fn remove(run: &Path, lock: Lock) -> anyhow::Result<()> {
    let removed = || -> std::io::Result<()> {
        for round in 0..REMOVALS_MAX {
            for entry in std::fs::read_dir(run)? {
                let entry = entry?;
                if round > 0 && run.join(FILE).exists() {
                    // A start that came since has it.
                    return Ok(());
                }
                if entry.file_name() != FILE {
                    runtime::tree::remove(&entry.path())?;
                }
            }
            if std::fs::metadata(run.join(FILE)).is_ok_and(|there| is_of(&lock, &there)) {
                std::fs::remove_file(run.join(FILE))?;
            }
            match std::fs::remove_dir(run) {
                // A start has it already, or who asked for the nodes has left something.
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {}
                other => return other,
            }
        }
        Err(ErrorKind::DirectoryNotEmpty.into())
    };
    match removed() {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).with_context(|| format!("cannot remove {}", run.display())),
        _ => Ok(()),
    }
}

/// Whether there is nothing in a volatile directory but the lock.
pub(super) fn is_alone(run: &Path) -> bool {
    std::fs::read_dir(run).is_ok_and(|entries| entries.flatten().all(|entry| entry.file_name() == FILE))
}

/// Whether the file with this lock is the one that is told of.
fn is_of(lock: &Lock, there: &Metadata) -> bool {
    lock.metadata().is_ok_and(|own| (own.dev(), own.ino()) == (there.dev(), there.ino()))
}

/// The process that holds the lock of a volatile directory.
pub(super) fn holder(run: &Path) -> Option<i32> {
    holder_of(&File::open(run.join(FILE)).ok()?)
}

/// What a holder is at; none: it has not said so yet.
pub(super) fn work(run: &Path, holder: i32) -> Option<Work> {
    let text = std::fs::read_to_string(run.join(FILE)).ok()?;
    match text.strip_prefix(&holder.to_string())? {
        ENDS => Some(Work::Ends),
        "" => Some(Work::Runs),
        _ => None,
    }
}

fn holder_of(file: &File) -> Option<i32> {
    let meta = file.metadata().ok()?;
    let place = format!("{:02x}:{:02x}:{}", nix::sys::stat::major(meta.dev()), nix::sys::stat::minor(meta.dev()), meta.ino());
    (0..TABLES).find_map(|_| find(&std::fs::read_to_string("/proc/locks").ok()?, &place))
}

/// The holder of an exclusive flock(2) in the kernel's table; who only waits has an arrow before its line.
fn find(table: &str, place: &str) -> Option<i32> {
    table.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [_, "FLOCK", _, "WRITE", pid, at, ..] if at == place => pid.parse().ok().filter(|pid| *pid > 0),
            _ => None,
        }
    })
}

/// Whether a process has ended but for what the kernel still has to clear away.
fn dying(pid: i32) -> bool {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}"));
    let (Ok(stat), Ok(status)) = (read("stat"), read("status")) else { return true };
    is_dying(&stat, &status)
}

fn is_dying(stat: &str, status: &str) -> bool {
    // After the command's name, which may hold anything: state, and the flags as the seventh.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let exiting = fields.get(6).and_then(|f| f.parse::<u64>().ok()).is_some_and(|flags| flags & EXITING != 0);
    let pending = |name: &str| status.lines().find_map(|l| u64::from_str_radix(l.strip_prefix(name)?.trim(), 16).ok()).unwrap_or(0);
    matches!(fields.first(), Some(&"Z" | &"X")) || exiting || (pending("SigPnd:") | pending("ShdPnd:")) & KILLED != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_who_holds_a_lock() {
        let table = "1: POSIX  ADVISORY  WRITE 11 00:19:700 0 EOF\n2: FLOCK  ADVISORY  WRITE 4711 00:19:700 0 EOF\n\
            2: -> FLOCK  ADVISORY  WRITE 12 00:19:700 0 EOF\n3: FLOCK  ADVISORY  READ 13 00:19:701 0 EOF\n";
        assert_eq!(find(table, "00:19:700"), Some(4711));
        assert_eq!(find(table, "00:19:701"), None, "whoever only reads runs no cluster");
        assert_eq!(find(table, "00:19:702"), None);
    }

    #[test]
    fn the_dying_are_known() {
        let status = |pending: &str| format!("Name:\tknarr\nSigPnd:\t0000000000000000\nShdPnd:\t{pending}\n");
        let none = status("0000000000000000");
        assert!(!is_dying("7 (a) b) S 1 7 7 0 -1 4194560 0", &none));
        assert!(is_dying("7 (knarr) Z 1 7 7 0 -1 4194560 0", &none), "a zombie");
        assert!(is_dying("7 (knarr) R 1 7 7 0 -1 4194564 0", &none), "it exits");
        assert!(is_dying("7 (knarr) D 1 7 7 0 -1 4194560 0", &status("0000000000000100")), "it was killed");
    }

    #[tokio::test]
    async fn a_lock_is_taken_once_and_its_holder_is_told() {
        let run = std::env::temp_dir().join(format!("knarr-holder-{}", std::process::id()));
        // Of a run with the same number that was killed.
        let _ = std::fs::remove_dir_all(&run);
        std::fs::create_dir_all(&run).unwrap();
        // What the last run left says nothing.
        std::fs::write(run.join(FILE), "1").unwrap();
        assert_eq!(holder(&run), None);
        let me = std::process::id() as i32;
        let held = lock("held", &run, Work::Runs).await.unwrap();
        assert_eq!((work(&run, me), work(&run, me + 1)), (Some(Work::Runs), None));
        assert_eq!(holder(&run), Some(me));
        let error = lock("held", &run, Work::Ends).await.unwrap_err().to_string();
        assert!(error.contains(&format!("(process {})", std::process::id())), "{error}");
        drop(held);
        let ending = lock("held", &run, Work::Ends).await.unwrap();
        assert_eq!(work(&run, me), Some(Work::Ends));
        let error = lock("held", &run, Work::Runs).await.unwrap_err().to_string();
        assert!(error.contains("is being taken away"), "{error}");
        drop(ending);
        std::fs::remove_dir_all(&run).unwrap();
    }

    #[tokio::test]
    async fn who_starts_while_a_cluster_goes_keeps_what_he_writes() {
        let run = std::env::temp_dir().join(format!("knarr-removed-{}", std::process::id()));
        // Of a run with the same number that was killed.
        let _ = std::fs::remove_dir_all(&run);
        for _ in 0..50 {
            let ending = lock("gone", &run, Work::Ends).await.unwrap();
            for name in 0..50 {
                std::fs::write(run.join(name.to_string()), "").unwrap();
            }
            let at = run.clone();
            let starts = tokio::spawn(async move {
                loop {
                    if let Ok(lock) = lock("gone", &at, Work::Runs).await {
                        std::fs::write(at.join("cluster.json"), "kept").unwrap();
                        return lock;
                    }
                    tokio::task::yield_now().await;
                }
            });
            tokio::task::yield_now().await;
            let going = run.clone();
            tokio::task::spawn_blocking(move || remove(&going, ending)).await.unwrap().unwrap();
            let started = starts.await.unwrap();
            assert_eq!(std::fs::read_to_string(run.join("cluster.json")).unwrap(), "kept");
            remove(&run, started).unwrap();
            assert!(!run.exists());
        }
        // What is gone already is no error.
        let ending = lock("gone", &run, Work::Ends).await.unwrap();
        std::fs::remove_dir_all(&run).unwrap();
        remove(&run, ending).unwrap();
    }
}
