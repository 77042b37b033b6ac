//! What the kernel tells of a machine without memory (upstream's `oom` package): a process that it killed for the whole machine's sake,
//! and not for a cgroup's limit, is told of by an Event of the node.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use nix::fcntl::OFlag;
use nix::sys::stat::{major, minor};

const LOG: &str = "/dev/kmsg";
/// Its device: where the kernel's log is kept from somebody, another one may stand in its place.
const DEVICE: (u64, u64) = (1, 11);
/// The longest record that there is.
const RECORD_MAX: usize = 8192;
/// No more records are read at one time.
const RECORDS_MAX: usize = 65_536;

/// The kernel's log from now on: the original tells all that the log still has again at each start.
pub(super) struct Kernel {
    log: Option<File>,
    story: Story,
}

impl Kernel {
    /// Who may not read the log tells nothing.
    pub(super) fn open() -> Self {
        let log = follow().inspect_err(|e| tracing::debug!(error = %e, "the kernel's log is not read")).ok();
        Self { log, story: Story::default() }
    }

    /// What is to be told since the last look.
    pub(super) fn news(&mut self) -> Vec<String> {
        let Some(log) = &mut self.log else { return Vec::new() };
        let mut told = Vec::new();
        let mut record = vec![0_u8; RECORD_MAX];
        for _ in 0..RECORDS_MAX {
            match log.read(&mut record) {
                Ok(0) => break,
                Ok(n) => told.extend(self.story.go_on(&message(&record[..n]))),
                // Some were overwritten before they were read.
                Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::Interrupted) => {}
                Err(_) => break,
            }
        }
        told
    }
}

fn follow() -> io::Result<File> {
    let is_log = |rdev: u64| (major(rdev), minor(rdev)) == DEVICE;
    if !is_log(std::fs::metadata(LOG)?.rdev()) {
        return Err(io::Error::other("another device"));
    }
    let mut log = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(LOG)?;
    log.seek(SeekFrom::End(0))?;
    Ok(log)
}

/// The text of a record: between what precedes it and the properties that follow in lines of their own.
fn message(record: &[u8]) -> String {
    let record = String::from_utf8_lossy(record);
    let text = record.split_once(';').map_or("", |(_, text)| text);
    text.lines().next().unwrap_or_default().to_owned()
}

/// How far the kernel has told of one kill.
#[derive(Default)]
struct Story {
    begun: bool,
}

impl Story {
    fn go_on(&mut self, line: &str) -> Option<String> {
        if !self.begun {
            self.begun = line.contains("invoked oom-killer:");
            return None;
        }
        // A cgroup's limit was reached; the second is of kernels before 5.0. The first by its begin: the names of all processes are told, too.
        if line.starts_with("oom-kill:constraint=CONSTRAINT_MEMCG,")
            || line.contains(" killed as a result of limit of ")
            || line.starts_with("Memory cgroup out of memory")
        {
            self.begun = false;
            return None;
        }
        let (pid, rest) = line.split_once("Killed process ")?.1.split_once(" (")?;
        let (process, _) = rest.rsplit_once(')')?;
        self.begun = false;
        Some(format!("System OOM encountered, victim process: {process}, pid: {pid}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(records: &[&str]) -> Vec<String> {
        let mut story = Story::default();
        records.iter().filter_map(|record| story.go_on(&message(record.as_bytes()))).collect()
    }

    #[test]
    fn a_kill_for_the_whole_machines_sake_is_told() {
        let records = [
            "4,100,5000,-;main invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0\n",
            "4,101,5001,-;CPU: 0 PID: 7 Comm: main Not tainted\n SUBSYSTEM=x\n",
            "6,101,5001,-;[    124]     0   124     1024      256    45056        0          1000 ,oom_memcg=x\n",
            "6,102,5002,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/a,task=tail (x),pid=123,uid=0\n",
            "3,103,5003,-;Out of memory: Killed process 123 (tail (x)) total-vm:4096kB, anon-rss:1024kB, UID:0 pgtables:40kB oom_score_adj:1000\n",
            "3,104,5004,-;Killed process 124 (later) total-vm:4096kB\n",
        ];
        assert_eq!(told(&records), ["System OOM encountered, victim process: tail (x), pid: 123"]);
    }

    #[test]
    fn a_kill_for_a_cgroups_limit_is_not() {
        let records = [
            "4,100,5000,-;main invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0\n",
            "6,101,5001,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/k/c,task_memcg=/k/c,task=main,pid=9845,uid=0\n",
            "3,102,5002,-;Memory cgroup out of memory: Killed process 9845 (main) total-vm:4096kB\n",
        ];
        assert!(told(&records).is_empty());
        assert!(told(&["no record", ""]).is_empty());
    }
}
