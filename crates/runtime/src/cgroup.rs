//! Control groups, version 1 and 2, behind one type. All files lie below one root directory, so that tests run on a plain one.
//!
//! A [`CgroupPlan`] lists the directories of one cgroup: one per hierarchy on version 1, one on version 2. A process joins by
//! writing itself into each (the shim's child does so before it executes the program).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::proto::CgroupPlan;
use crate::readings::Files;
use crate::sys;
use crate::types::{Detail, Resources, Stats};

/// Hierarchies of version 1 that every container joins. Each costs a migration at each start, so the others
/// (cpuset, hugetlb) are joined only by who has a limit there.
const V1_ALWAYS: [&str; 5] = ["cpu", "cpuacct", "memory", "pids", "devices"];
/// All hierarchies of version 1 that are looked through when cgroups are removed.
const V1_ALL: [&str; 10] = ["cpu", "cpuacct", "memory", "pids", "devices", "cpuset", "hugetlb", "freezer", "blkio", "systemd"];
/// A killed cgroup empties within this; after it the directory stays for the next purge.
const EMPTY_MAX: Duration = Duration::from_secs(5);
/// Between two looks at what is being cleared away.
const PURGE_LOOK: Duration = Duration::from_millis(5);
/// How often a cgroup of version 1 is looked through for processes to kill: one that forks meanwhile has a child that no
/// earlier look saw.
const KILL_PASSES_MAX: usize = 100;

/// Whose limits are written. They differ in how shares become a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// By the linear formula of KEP-2254, as the kubelet does it.
    Pod,
    /// By the newer one of the container runtimes (runc 1.3.2, crun 1.23), by which the default shares are the default weight.
    Container,
}

/// The cgroup file systems of this host.
#[derive(Debug, Clone)]
pub(crate) struct Cgroups {
    root: PathBuf,
    unified: bool,
}

impl Cgroups {
    pub(crate) fn new(root: &Path) -> Cgroups {
        Cgroups { root: root.to_owned(), unified: root.join("cgroup.controllers").exists() }
    }

    /// Refuses a mark in whose cgroups this process itself is. A privileged container sees the host's cgroups of version 2: a cluster in it would
    /// take those of the one around it, whose name it has, for its own, and kill what is in them in the end.
    pub(crate) fn check_outside(&self, mark: &str) -> Result<()> {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        if self.unified && is_within(&own, mark) {
            return Err(Error::State(format!("this process runs in a pod of a cluster that has the cgroup {mark:?} already: choose another name")));
        }
        Ok(())
    }

    /// The directories of the cgroup at this path; nothing is made.
    pub(crate) fn plan(&self, path: &str, resources: &Resources) -> CgroupPlan {
        let path = path.trim_matches('/');
        if self.unified {
            let dir = self.root.join(path);
            return CgroupPlan { memory: Some(dir.clone()), dirs: vec![dir], unified: true };
        }
        let mut controllers = V1_ALWAYS.to_vec();
        if resources.cpuset_cpus.is_some() || resources.cpuset_mems.is_some() {
            controllers.push("cpuset");
        }
        if !resources.hugepages.is_empty() {
            controllers.push("hugetlb");
        }
        // `cpu` is often a link to `cpu,cpuacct`: one directory is joined once.
        let real: BTreeSet<PathBuf> = controllers.iter().filter_map(|c| fs::canonicalize(self.root.join(c)).ok()).collect();
        let memory = fs::canonicalize(self.root.join("memory")).ok().map(|d| d.join(path));
        CgroupPlan { dirs: real.into_iter().map(|d| d.join(path)).collect(), memory, unified: false }
    }

    /// Makes the cgroup, with those above it.
    pub(crate) fn create(&self, path: &str, resources: &Resources) -> Result<CgroupPlan> {
        let plan = self.plan(path, resources);
        for dir in &plan.dirs {
            if self.unified {
                self.delegate(path);
            }
            fs::create_dir_all(dir).map_err(|e| Error::io(format!("cannot make cgroup {}", dir.display()), e))?;
            if dir.join("cpuset.cpus").exists() && !self.unified {
                inherit_cpuset(&self.root.join("cpuset"), path);
            }
        }
        Ok(plan)
    }

    /// Version 2: a controller reaches a cgroup only if each one above passes it down.
    fn delegate(&self, path: &str) {
        let mut at = self.root.clone();
        for part in path.trim_matches('/').split('/') {
            let _ = fs::create_dir_all(&at);
            for controller in ["+cpu", "+memory", "+pids", "+cpuset", "+io", "+hugetlb"] {
                // A controller that the host lacks is refused: its limits are then refused too, if any are set.
                let _ = fs::write(at.join("cgroup.subtree_control"), controller);
            }
            at.push(part);
        }
    }

    /// Writes the limits that are given; others keep their value.
    pub(crate) fn apply(&self, plan: &CgroupPlan, r: &Resources, level: Level) -> Result<()> {
        let files = if plan.unified { v2_files(r, level) } else { v1_files(r) };
        let find = |name: &str| plan.dirs.iter().map(|d| d.join(name)).find(|f| f.exists());
        for (name, value) in &files {
            let Some(file) = find(name) else {
                tracing::debug!(name, "this host has no such limit");
                continue;
            };
            let mut written = fs::write(&file, value);
            if written.is_err() {
                // What the kernel holds against its old neighbour goes first: a smaller period is refused with the old quota, a
                // larger limit with the old one of memory and swap together.
                let neighbour = match name.as_str() {
                    "cpu.cfs_period_us" => find("cpu.cfs_quota_us").map(|f| fs::write(f, "-1")),
                    "memory.limit_in_bytes" => find("memory.memsw.limit_in_bytes").map(|f| fs::write(f, value)),
                    _ => None,
                };
                if neighbour.is_some() {
                    written = fs::write(&file, value);
                }
            }
            written.map_err(|e| Error::io(format!("cannot write {value} to {}", file.display()), e))?;
        }
        Ok(())
    }

    /// No container swaps, also one without a limit, as with the kubelet's default `NoSwap`. (Version 1 can say so only
    /// together with a limit: see [`v1_files`].)
    pub(crate) fn forbid_swap(&self, plan: &CgroupPlan) -> Result<()> {
        let Some(file) = plan.memory.as_ref().map(|d| d.join("memory.swap.max")).filter(|f| plan.unified && f.exists()) else { return Ok(()) };
        fs::write(&file, "0").map_err(|e| Error::io(format!("cannot write 0 to {}", file.display()), e))
    }

    /// A reading.
    pub(crate) fn stats(&self, plan: &CgroupPlan) -> Result<Stats> {
        Files::new(&plan.dirs, plan.unified).stats()
    }

    /// What there is beside it.
    pub(crate) fn detail(&self, plan: &CgroupPlan) -> Detail {
        Files::new(&plan.dirs, plan.unified).detail()
    }

    /// Removes the cgroup's directories, and those below; its processes must have been killed.
    pub(crate) fn remove(&self, path: &str) {
        let path = path.trim_matches('/');
        if path.is_empty() {
            return;
        }
        if self.unified {
            remove_dirs(&self.root.join(path));
            return;
        }
        for controller in V1_ALL {
            remove_dirs(&self.root.join(controller).join(path));
        }
    }

    /// As [`Cgroups::remove`], for one plan.
    pub(crate) fn remove_plan(&self, plan: &CgroupPlan) {
        kill_all(plan);
        plan.dirs.iter().for_each(|d| remove_dirs(d));
    }

    /// Kills and removes everything below the mark's own cgroup, in all hierarchies at once and by one deadline, however many
    /// cgroups there are; what is left then, each with who holds it.
    pub(crate) fn purge(&self, mark: &str) -> Vec<String> {
        let mut tops: Vec<PathBuf> = if self.unified { vec![self.root.join(mark)] } else { V1_ALL.iter().map(|c| self.root.join(c).join(mark)).collect() };
        let deadline = Instant::now() + EMPTY_MAX;
        loop {
            for top in &tops {
                kill_below(top, &mut BTreeSet::new());
                remove_empty(top);
            }
            tops.retain(|top| top.is_dir());
            if tops.is_empty() || Instant::now() > deadline {
                return tops.iter().flat_map(|top| held(top)).collect();
            }
            std::thread::sleep(PURGE_LOOK);
        }
    }
}

/// Removes a cgroup and those below as far as nobody is in them.
fn remove_empty(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_empty(&entry.path());
        }
    }
    // One that is held is tried again, or told in the end.
    let _ = fs::remove_dir(dir);
}

/// The lowest cgroups of a tree that could not be removed, with the processes in them.
fn held(dir: &Path) -> Vec<String> {
    let below: Vec<PathBuf> = fs::read_dir(dir).into_iter().flatten().flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect();
    if !below.is_empty() {
        return below.iter().flat_map(|dir| held(dir)).collect();
    }
    let who = |pid: &str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // `PID (NAME) STATE …`
        stat.rsplit_once(')').map_or_else(|| pid.to_owned(), |(name, rest)| format!("{name}) {}", rest.trim_start().chars().take(1).collect::<String>()))
    };
    let processes = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let processes: Vec<String> = processes.lines().map(who).collect();
    vec![format!("{} is held by {}", dir.display(), if processes.is_empty() { "nobody to be seen".to_owned() } else { processes.join(", ") })]
}

fn set(list: &mut Vec<(String, String)>, name: &str, value: Option<impl ToString>) {
    list.extend(value.map(|v| (name.to_owned(), v.to_string())));
}

/// Limits of huge pages: of those in use, and (since Linux 5.7) of those reserved by a mapping. With the first alone a program that maps
/// more than it may have dies of SIGBUS when it touches them; with both its mapping is refused.
fn set_pages(list: &mut Vec<(String, String)>, r: &Resources, limit: &str) {
    for (size, bytes) in &r.hugepages {
        set(list, &format!("hugetlb.{size}.{limit}"), Some(bytes));
        set(list, &format!("hugetlb.{size}.rsvd.{limit}"), Some(bytes));
    }
}

fn v1_files(r: &Resources) -> Vec<(String, String)> {
    let mut list = Vec::new();
    set(&mut list, "cpu.shares", r.cpu_shares);
    set(&mut list, "cpu.cfs_period_us", r.cpu_period.filter(|p| *p > 0));
    set(&mut list, "cpu.cfs_quota_us", r.cpu_quota.filter(|q| *q != 0));
    set(&mut list, "memory.limit_in_bytes", r.memory_limit.filter(|m| *m != 0));
    // Memory and swap together have the same limit: no swap, as the kubelet's default `NoSwap`.
    set(&mut list, "memory.memsw.limit_in_bytes", r.memory_limit.filter(|m| *m != 0));
    set(&mut list, "pids.max", r.pids_limit.filter(|p| *p != 0).map(max_or));
    set(&mut list, "cpuset.cpus", r.cpuset_cpus.as_deref().filter(|s| !s.is_empty()));
    set(&mut list, "cpuset.mems", r.cpuset_mems.as_deref().filter(|s| !s.is_empty()));
    set_pages(&mut list, r, "limit_in_bytes");
    list
}

fn v2_files(r: &Resources, level: Level) -> Vec<(String, String)> {
    let mut list = Vec::new();
    set(&mut list, "cpu.weight", r.cpu_shares.map(|shares| weight(shares, level)));
    if r.cpu_quota.is_some_and(|q| q != 0) {
        let (quota, period) = (r.cpu_quota.unwrap_or(-1), r.cpu_period.filter(|p| *p > 0).unwrap_or(100_000));
        set(&mut list, "cpu.max", Some(format!("{} {period}", max_or(quota))));
    }
    if let Some(limit) = r.memory_limit.filter(|m| *m != 0) {
        set(&mut list, "memory.max", Some(max_or(limit)));
        set(&mut list, "memory.swap.max", Some("0"));
    }
    if level == Level::Container {
        // A container dies as a whole, as upstream's `singleProcessOOMKill: false`; a pod does not.
        set(&mut list, "memory.oom.group", Some(1));
    }
    set(&mut list, "pids.max", r.pids_limit.filter(|p| *p != 0).map(max_or));
    set(&mut list, "cpuset.cpus", r.cpuset_cpus.as_deref());
    set(&mut list, "cpuset.mems", r.cpuset_mems.as_deref());
    set_pages(&mut list, r, "max");
    for (name, value) in &r.unified {
        set(&mut list, name, Some(value));
    }
    list
}

fn max_or(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

/// Shares of version 1 (2 to 262144) as weight of version 2 (1 to 10000).
fn weight(shares: u64, level: Level) -> u64 {
    let shares = shares.clamp(2, 262_144);
    match level {
        Level::Pod => 1 + (shares - 2) * 9999 / 262_142,
        Level::Container if shares == 2 => 1,
        Level::Container if shares == 262_144 => 10_000,
        // The curve through least, default and most: 2 -> 1, 1024 -> 100, 262144 -> 10000.
        Level::Container => {
            let l = (shares as f64).log2();
            10_f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0).ceil() as u64
        }
    }
}

/// Version 1's cpuset takes no process until both files are filled: copied from above, level by level.
fn inherit_cpuset(base: &Path, path: &str) {
    let mut at = base.to_path_buf();
    for part in path.trim_matches('/').split('/') {
        let above = at.clone();
        at.push(part);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if fs::read_to_string(at.join(file)).is_ok_and(|v| v.trim().is_empty())
                && let Ok(value) = fs::read_to_string(above.join(file))
            {
                let _ = fs::write(at.join(file), value.trim());
            }
        }
    }
}

/// Moves the calling process, which has one thread, into the cgroup; one that was cloned into it is there already.
///
/// `beside` is the container's first process, if there is one: a container that manages cgroups of its own below (docker in
/// docker, systemd) has passed controllers down, and then version 2 takes no process into the upper one (EBUSY). As with
/// runc, who comes later joins where the first process is now.
pub(crate) fn join(plan: &CgroupPlan, beside: Option<u32>) -> io::Result<()> {
    // Version 1: a thread that moves itself by `tasks` need not wait until no thread of the whole system forks, as
    // `cgroup.procs` does: that is a grace period of RCU, 20 ms and more.
    let file = if plan.unified { "cgroup.procs" } else { "tasks" };
    for dir in &plan.dirs {
        match (fs::write(dir.join(file), "0"), beside) {
            (Err(e), Some(pid)) if plan.unified && e.raw_os_error() == Some(libc::EBUSY) => {
                let of = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
                let inner = below(dir, &of).ok_or(e)?;
                fs::write(inner.join(file), "0")?;
            }
            (done, _) => done?,
        }
    }
    Ok(())
}

/// Whether a process is in the cgroups of this mark's cluster, by the text of its `/proc/PID/cgroup`.
fn is_within(text: &str, mark: &str) -> bool {
    let path = text.lines().find_map(|l| l.strip_prefix("0::/"));
    path.is_some_and(|path| path.split('/').next() == mark.split('/').next())
}

/// The directory below the container's own where a process is, by the text of its `/proc/PID/cgroup`.
fn below(own: &Path, text: &str) -> Option<PathBuf> {
    let name = own.file_name()?.to_str()?;
    let path = text.lines().find_map(|l| l.strip_prefix("0::"))?;
    let (_, inner) = path.split_once(&format!("/{name}/"))?;
    // The names are the container's own choice.
    let plain = Path::new(inner).components().all(|c| matches!(c, std::path::Component::Normal(_)));
    plain.then(|| own.join(inner))
}

/// Version 2: the directory for a child to be cloned into, which is as quick.
pub(crate) fn clone_target(plan: &CgroupPlan) -> Option<fs::File> {
    let dir = plan.dirs.first().filter(|_| plan.unified)?;
    fs::File::open(dir).ok()
}

/// Kills every process of one cgroup; true when there was one.
pub(crate) fn kill_all(plan: &CgroupPlan) -> bool {
    let Some(dir) = plan.memory.as_ref().or(plan.dirs.first()) else { return false };
    let mut seen = BTreeSet::new();
    // Until a look shows nobody new.
    for _ in 0..KILL_PASSES_MAX {
        if !kill_below(dir, &mut seen) {
            break;
        }
    }
    !seen.is_empty()
}

/// One pass over a cgroup and those below; true when it met a process that was not in `seen`.
fn kill_below(dir: &Path, seen: &mut BTreeSet<i32>) -> bool {
    // Version 2 kills all at once, forking or not.
    let _ = fs::OpenOptions::new().write(true).open(dir.join("cgroup.kill")).and_then(|mut file| io::Write::write_all(&mut file, b"1"));
    let mut any = false;
    for pid in fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines() {
        if let Ok(pid) = pid.parse::<i32>()
            && pid > 1
            && pid != std::process::id() as i32
        {
            sys::kill(pid, libc::SIGKILL);
            any |= seen.insert(pid);
        }
    }
    for below in fs::read_dir(dir).into_iter().flatten().flatten() {
        if below.file_type().is_ok_and(|t| t.is_dir()) {
            any |= kill_below(&below.path(), seen);
        }
    }
    any
}

/// How often the kernel killed something in this cgroup for want of memory.
pub(crate) fn oom_kills(plan: &CgroupPlan) -> u64 {
    let Some(dir) = &plan.memory else { return 0 };
    let file = if plan.unified { "memory.events" } else { "memory.oom_control" };
    let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
    let count = text.lines().find_map(|l| l.strip_prefix("oom_kill ")?.trim().parse().ok());
    count.unwrap_or(0)
}

/// Removes a cgroup's directory and those below; waits a little for killed processes to leave.
fn remove_dirs(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_dirs(&entry.path());
        }
    }
    let deadline = Instant::now() + EMPTY_MAX;
    while let Err(e) = fs::remove_dir(dir) {
        if e.raw_os_error() != Some(libc::EBUSY) || Instant::now() > deadline {
            if e.kind() != io::ErrorKind::NotFound {
                tracing::warn!(dir = %dir.display(), error = %e, "cgroup not removed");
            }
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_named_after_one_deadline_for_all() {
        let root = std::env::temp_dir().join(format!("knarr-cg-purge-{}", std::process::id()));
        // Of a run with the same number that was killed.
        let _ = std::fs::remove_dir_all(&root);
        for name in ["k/pod1/a", "k/pod2/b", "k/pod3", "other/pod"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::write(root.join("cgroup.controllers"), "cpu memory").unwrap();
        let begun = Instant::now();
        assert_eq!(Cgroups::new(&root).purge("k"), Vec::<String>::new());
        assert!(begun.elapsed() < EMPTY_MAX, "nothing holds: {:?}", begun.elapsed());
        assert!(!root.join("k").exists() && root.join("other/pod").exists());
        // A file in a plain directory is as good as a process in a cgroup: the directory stays.
        for name in ["k/pod1/a", "k/pod2/b", "k/pod3"] {
            fs::create_dir_all(root.join(name)).unwrap();
            fs::write(root.join(name).join("cgroup.procs"), "1\n").unwrap();
        }
        let begun = Instant::now();
        let mut left = Cgroups::new(&root).purge("k");
        assert!(begun.elapsed() < EMPTY_MAX * 3, "one deadline: {:?}", begun.elapsed());
        left.sort();
        let name = fs::read_to_string("/proc/1/comm").unwrap();
        assert!(left.len() == 3 && left[0].contains("k/pod1/a is held by 1 (") && left[0].contains(name.trim()), "{left:?}");
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn weights_are_those_of_the_other_runtimes() {
        let of = |shares| (weight(shares, Level::Pod), weight(shares, Level::Container));
        assert_eq!([of(0), of(2), of(1024), of(262_144), of(1 << 40)], [(1, 1), (1, 1), (39, 100), (10_000, 10_000), (10_000, 10_000)]);
        assert_eq!((weight(512, Level::Container), weight(2048, Level::Container)), (59, 174));
    }

    #[test]
    fn version_one_limits_swap_with_memory() {
        let files = v1_files(&Resources { memory_limit: Some(4096), ..Resources::default() });
        let text = |name: &str| files.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        assert_eq!((text("memory.limit_in_bytes"), text("memory.memsw.limit_in_bytes")), (Some("4096"), Some("4096")));
        assert!(v1_files(&Resources::default()).is_empty());
    }

    #[test]
    fn pages_that_are_reserved_are_limited_as_those_in_use() {
        let resources = Resources { hugepages: [("2MB".to_owned(), 4 << 20)].into(), ..Resources::default() };
        let names = |files: Vec<(String, String)>| files.into_iter().filter(|(_, v)| v == "4194304").map(|(n, _)| n).collect::<Vec<_>>();
        assert_eq!(names(v1_files(&resources)), ["hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.rsvd.limit_in_bytes"]);
        assert_eq!(names(v2_files(&resources, Level::Container)), ["hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"]);
    }

    #[test]
    fn who_is_in_a_pod_does_not_take_its_clusters_cgroups_for_its_own() {
        let pod = "0::/knarr/kubepods/pod1/c1\n";
        assert!(is_within(pod, "knarr") && is_within(pod, "knarr/node-2"));
        assert!(!is_within(pod, "other") && !is_within("0::/knarr-2/x\n", "knarr") && !is_within("0::/\n", "knarr"));
        assert!(!is_within("4:memory:/knarr/kubepods/pod1/c1\n", "knarr"), "of version 1 it is shown its own alone");
    }

    #[test]
    fn who_comes_later_joins_below_the_containers_own_cgroup_only() {
        let own = Path::new("/sys/fs/cgroup/knarr/kubepods/pod1/c1");
        let at = |text: &str| below(own, text);
        assert_eq!(at("0::/knarr/kubepods/pod1/c1/init.scope\n").unwrap(), own.join("init.scope"));
        assert_eq!(at("1:name=x:/c1/y\n0::/knarr/kubepods/pod1/c1/a/b\n").unwrap(), own.join("a/b"));
        for text in ["0::/knarr/kubepods/pod1/c1\n", "0::/knarr/kubepods/pod1/c2/x\n", "0::/knarr/c1/../../x\n", ""] {
            assert!(at(text).is_none(), "{text:?}");
        }
    }

    /// A plain directory answers no EBUSY, but the order of what is written is the same.
    #[test]
    fn a_process_joins_where_it_can() {
        let dir = std::env::temp_dir().join(format!("knarr-cg-join-{}", std::process::id()));
        // Of a run with the same number that was killed.
        let _ = std::fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let plan = CgroupPlan { dirs: vec![dir.clone()], memory: None, unified: true };
        join(&plan, Some(1)).unwrap();
        assert_eq!(fs::read_to_string(dir.join("cgroup.procs")).unwrap(), "0");
        fs::remove_dir_all(&dir).unwrap();
        assert!(join(&plan, Some(1)).is_err());
    }

    #[test]
    fn version_two_on_a_plain_directory() {
        let root = std::env::temp_dir().join(format!("knarr-cg-{}", std::process::id()));
        // Of a run with the same number that was killed.
        let _ = std::fs::remove_dir_all(&root);
        fs::create_dir_all(root.join("k/pod1/c")).unwrap();
        fs::write(root.join("cgroup.controllers"), "cpu memory").unwrap();
        for file in ["cpu.weight", "cpu.max", "memory.max", "pids.max", "memory.swap.max", "memory.oom.group"] {
            fs::write(root.join("k/pod1/c").join(file), "").unwrap();
        }
        let cgroups = Cgroups::new(&root);
        let resources = Resources {
            cpu_shares: Some(1024),
            cpu_quota: Some(50_000),
            cpu_period: Some(100_000),
            memory_limit: Some(64 << 20),
            pids_limit: Some(-1),
            ..Resources::default()
        };
        let plan = cgroups.create("/k/pod1/c", &resources).unwrap();
        cgroups.apply(&plan, &resources, Level::Pod).unwrap();
        let read = |f: &str| fs::read_to_string(root.join("k/pod1/c").join(f)).unwrap();
        assert_eq!((read("cpu.weight"), read("cpu.max"), read("memory.max")), ("39".into(), "50000 100000".into(), (64 << 20).to_string()));
        assert_eq!((read("pids.max"), read("memory.swap.max")), ("max".into(), "0".into()));
        assert_eq!(read("memory.oom.group"), "", "of a pod's containers one may be killed alone");
        cgroups.apply(&plan, &resources, Level::Container).unwrap();
        assert_eq!(read("cpu.weight"), "100");
        cgroups.apply(&plan, &Resources::default(), Level::Container).unwrap();
        assert_eq!(read("memory.oom.group"), "1", "without a limit, too");
        let unlimited = Resources { memory_limit: Some(-1), ..Resources::default() };
        cgroups.apply(&plan, &unlimited, Level::Container).unwrap();
        assert_eq!((read("memory.max"), read("memory.swap.max")), ("max".into(), "0".into()));
        fs::write(root.join("k/pod1/c/memory.swap.max"), "max").unwrap();
        cgroups.forbid_swap(&plan).unwrap();
        assert_eq!(read("memory.swap.max"), "0", "without a limit, too");
        for (file, text) in [
            ("memory.current", "1000\n"),
            ("memory.stat", "anon 7\ninactive_file 400\n"),
            ("cpu.stat", "usage_usec 5\n"),
            ("memory.events", "oom 1\noom_kill 2\n"),
        ] {
            fs::write(root.join("k/pod1/c").join(file), text).unwrap();
        }
        let stats = cgroups.stats(&plan).unwrap();
        assert_eq!((stats.cpu_usage_ns, stats.memory_working_set_bytes, stats.memory_rss_bytes), (5000, 600, 7));
        assert_eq!(oom_kills(&plan), 2);
        fs::remove_dir_all(&root).unwrap();
    }
}
