//! Cgroups of QoS classes, version 1 and 2; the runtime makes the pods' and the containers' below them.
//!
//! `ROOT/kubepods[/burstable|/besteffort]/podUID`, as upstream's cgroupfs driver names them. In version 1 the same path is
//! made under every controller that is mounted.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use crate::counts::Counts;
use crate::cri::CgroupLimits;
use crate::resources::{self, Qos};
use crate::util;

/// Controllers of version 1 in which pods have cgroups.
const V1_CONTROLLERS: [&str; 5] = ["cpu", "memory", "pids", "cpuset", "hugetlb"];
/// Version 1's limit of memory and swap together; where it stands, the limit of memory alone cannot be above it.
const SWAP_TOO: &str = "memory.memsw.limit_in_bytes";

/// The cgroups of this kubelet.
pub struct Cgroups {
    base: PathBuf,
    root: String,
    unified: bool,
    made: Mutex<BTreeSet<String>>,
    counts: Option<Counts>,
}

impl Cgroups {
    /// Cgroups below `root` (relative to the hierarchy), in the hierarchy at `base`, usually `/sys/fs/cgroup`.
    #[must_use]
    pub fn new(base: impl Into<PathBuf>, root: &str) -> Self {
        let base = base.into();
        let unified = base.join("cgroup.controllers").exists();
        Self { base, root: root.trim_matches('/').to_owned(), unified, made: Mutex::default(), counts: None }
    }

    /// The same, whose work is counted.
    #[must_use]
    pub fn counted(mut self, counts: Counts) -> Self {
        self.counts = Some(counts);
        self
    }

    /// Does something, and counts how long it took.
    fn count<T>(&self, what: &str, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let done = work();
        if let Some(counts) = &self.counts {
            counts.cgroup(what, begun.elapsed());
        }
        done
    }

    /// The version of the host's cgroups.
    #[must_use]
    pub fn version(&self) -> u8 {
        if self.unified { 2 } else { 1 }
    }

    /// The path of a pod's cgroup, from the hierarchy's root.
    #[must_use]
    pub fn pod_path(&self, pod: &Pod) -> String {
        let class = match resources::qos(pod) {
            Qos::Guaranteed => "",
            Qos::Burstable => "/burstable",
            Qos::BestEffort => "/besteffort",
        };
        format!("{}{class}/pod{}", self.node_path(), util::uid(pod))
    }

    /// Where version 1's cgroups of memory are.
    #[must_use]
    pub fn memory_base(&self) -> Option<PathBuf> {
        Some(self.base.join("memory")).filter(|d| !self.unified && d.is_dir())
    }

    /// The cgroup of all pods.
    #[must_use]
    pub fn node_path(&self) -> String {
        let root = if self.root.is_empty() { String::new() } else { format!("/{}", self.root) };
        format!("{root}/kubepods")
    }

    /// The cgroups above the pods': the one of all pods first.
    #[must_use]
    pub fn class_paths(&self) -> Vec<String> {
        ["", "/burstable", "/besteffort"].map(|class| format!("{}{class}", self.node_path())).into()
    }

    /// Makes the cgroup of all pods, and gives it its limits: what pods may take together.
    pub fn limit_node(&self, limits: &CgroupLimits, pids: Option<i64>) -> io::Result<()> {
        let path = self.node_path();
        if self.dirs(&path).iter().any(|d| !d.is_dir()) {
            self.make(&path)?;
        }
        self.put_all(&path, limits, pids)
    }

    /// Gives a cgroup that somebody else made its limits.
    pub fn limit_existing(&self, path: &str, limits: &CgroupLimits, pids: Option<i64>) -> io::Result<()> {
        let name = path.trim_matches('/');
        let missing: Vec<String> = self.dirs(path).iter().filter(|d| !d.is_dir()).map(|d| d.display().to_string()).collect();
        if !missing.is_empty() {
            return Err(io::Error::other(format!("cgroup [{name:?}] has some missing paths: {}", missing.join(", "))));
        }
        self.put_all(path, limits, pids)
    }

    /// Where a controller (of version 1) has a cgroup.
    fn dir(&self, controller: &str, path: &str) -> PathBuf {
        let base = if self.unified { self.base.clone() } else { self.base.join(controller) };
        base.join(path.trim_start_matches('/'))
    }

    /// Writes limits; the first that the kernel does not take is an error, but for those of controllers that are not there.
    fn put_all(&self, path: &str, limits: &CgroupLimits, pids: Option<i64>) -> io::Result<()> {
        let pids = pids.map(|n| ("pids", "pids.max", n.to_string()));
        self.count("update", || self.put_each(path, limits, pids))
    }

    fn put_each(&self, path: &str, limits: &CgroupLimits, pids: Option<(&'static str, &'static str, String)>) -> io::Result<()> {
        for (controller, file, value) in self.values(limits).into_iter().chain(pids) {
            let at = self.dir(controller, path).join(file);
            if let Err(e) = fs::write(&at, &value)
                && at.exists()
            {
                return Err(io::Error::new(e.kind(), format!("{file} {value}: {e}")));
            }
        }
        Ok(())
    }

    /// Makes the cgroup of the pod's class, once; the runtime makes the pod's own below it. Answers the pod's path.
    pub fn ensure_class(&self, pod: &Pod) -> io::Result<String> {
        let path = self.pod_path(pod);
        if let Some((class, _)) = path.rsplit_once('/')
            && !self.made.lock().contains(class)
        {
            self.make(class)?;
            self.made.lock().insert(class.to_owned());
        }
        Ok(path)
    }

    /// Gives the classes their weights: `burstable` what its pods ask for, `besteffort` the least, all pods together the `whole`
    /// (upstream's `qosContainerManager`). To be called when a pod has come, gone or changed.
    pub fn balance(&self, pods: &[Arc<Pod>], whole: u64) {
        let burstable = pods.iter().filter(|p| resources::qos(p) == Qos::Burstable).filter_map(|p| p.spec.as_ref());
        let asked = burstable.map(|s| resources::pod_requests(s).get("cpu").copied().unwrap_or(0)).fold(0, i64::saturating_add);
        for (class, cpu_shares) in [("", whole), ("/burstable", resources::shares(asked)), ("/besteffort", resources::shares(0))] {
            let path = format!("{}{class}", self.node_path());
            if self.dirs(&path).iter().any(|d| d.is_dir()) {
                self.set(&path, &CgroupLimits { cpu_shares, ..CgroupLimits::default() });
            }
        }
    }

    /// Removes all cgroups of this kubelet; no pod may be left.
    pub fn purge(&self) -> io::Result<()> {
        if self.root.is_empty() {
            return Ok(());
        }
        for dir in self.dirs(&self.root) {
            remove(&dir)?;
        }
        Ok(())
    }

    /// Takes the pod's own limits away for a moment, so that its containers' can grow.
    pub fn widen_pod(&self, pod: &Pod) {
        let (path, wanted) = (self.pod_path(pod), resources::pod_limits(pod));
        let rel = path.trim_start_matches('/');
        if self.unified {
            for file in ["cpu.max", "memory.max"] {
                let _ = fs::write(self.base.join(rel).join(file), "max");
            }
        } else {
            let _ = fs::write(self.base.join("cpu").join(rel).join("cpu.cfs_quota_us"), "-1");
            // Memory with swap is never below memory alone, so it goes first; without accounting of swap there is no such file.
            for file in [SWAP_TOO, "memory.limit_in_bytes"] {
                let _ = fs::write(self.base.join("memory").join(rel).join(file), "-1");
            }
        }
        self.set(&path, &CgroupLimits { cpu_shares: wanted.cpu_shares, ..CgroupLimits::default() });
    }

    /// Sets the pod's own limits, after [`Self::widen_pod`]. Swap is none of a pod's.
    pub fn limit_pod(&self, pod: &Pod) {
        let (path, limits) = (self.pod_path(pod), resources::pod_limits(pod));
        self.set(&path, &limits);
        if !self.unified && limits.memory_limit_bytes > 0 {
            let file = self.dir("memory", &path).join(SWAP_TOO);
            let _ = fs::write(file, limits.memory_limit_bytes.to_string());
        }
    }

    fn dirs(&self, path: &str) -> Vec<PathBuf> {
        let path = path.trim_start_matches('/');
        if self.unified {
            return vec![self.base.join(path)];
        }
        let mounted = V1_CONTROLLERS.iter().map(|c| self.base.join(c)).filter(|d| d.is_dir());
        // `cpu` is often a link to `cpu,cpuacct`: one directory is made once.
        let real: BTreeSet<PathBuf> = mounted.filter_map(|d| d.canonicalize().ok()).collect();
        real.into_iter().map(|d| d.join(path)).collect()
    }

    fn make(&self, path: &str) -> io::Result<()> {
        self.count("create", || self.make_each(path))
    }

    fn make_each(&self, path: &str) -> io::Result<()> {
        for dir in self.dirs(path) {
            if self.unified {
                self.delegate(path)?;
            }
            fs::create_dir_all(&dir)?;
            if dir.starts_with(self.base.join("cpuset")) {
                inherit_cpuset(&self.base.join("cpuset"), path.trim_start_matches('/'));
            }
        }
        Ok(())
    }

    /// Version 2: a controller must be passed down by every cgroup above.
    fn delegate(&self, path: &str) -> io::Result<()> {
        let mut at = self.base.clone();
        for part in path.trim_matches('/').split('/') {
            fs::create_dir_all(&at)?;
            for c in ["+cpu", "+memory", "+pids", "+cpuset", "+io"] {
                let _ = fs::write(at.join("cgroup.subtree_control"), c);
            }
            at.push(part);
        }
        fs::create_dir_all(&at)?;
        for c in ["+cpu", "+memory", "+pids", "+cpuset", "+io"] {
            let _ = fs::write(at.join("cgroup.subtree_control"), c);
        }
        Ok(())
    }

    /// Writes the limits; a controller that is not there is passed over, since the node's status tells what there is.
    fn set(&self, path: &str, limits: &CgroupLimits) {
        self.count("update", || {
            for (controller, file, value) in self.values(limits) {
                if let Err(e) = fs::write(self.dir(controller, path).join(file), &value) {
                    tracing::debug!(path, file, value, error = %e, "cgroup value not set");
                }
            }
        });
    }

    /// Controller (of version 1), file and value of each limit that there is.
    fn values(&self, limits: &CgroupLimits) -> Vec<(&'static str, &'static str, String)> {
        let mut out = Vec::new();
        let (shares, quota, memory) = (limits.cpu_shares, limits.cpu_quota_us, limits.memory_limit_bytes);
        if shares > 0 {
            out.push(if self.unified { ("cpu", "cpu.weight", weight(shares).to_string()) } else { ("cpu", "cpu.shares", shares.to_string()) });
        }
        if quota > 0 && self.unified {
            out.push(("cpu", "cpu.max", format!("{quota} {}", limits.cpu_period_us)));
        } else if quota > 0 {
            out.push(("cpu", "cpu.cfs_period_us", limits.cpu_period_us.to_string()));
            out.push(("cpu", "cpu.cfs_quota_us", quota.to_string()));
        }
        if memory > 0 {
            out.push(("memory", if self.unified { "memory.max" } else { "memory.limit_in_bytes" }, memory.to_string()));
        }
        out
    }

    /// Removes the pod's cgroup and what is below it. Processes in it have ended; the kernel may need a moment to notice.
    pub fn remove_pod(&self, pod: &Pod) -> io::Result<()> {
        self.count("destroy", || self.dirs(&self.pod_path(pod)).iter().try_for_each(|dir| remove(dir)))
    }
}

/// Version 1's cpuset is unusable until both files are filled: copied from above, level by level.
fn inherit_cpuset(base: &Path, path: &str) {
    let mut at = base.to_path_buf();
    for part in path.split('/') {
        let above = at.clone();
        at.push(part);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if fs::read_to_string(at.join(file)).is_ok_and(|v| v.trim().is_empty())
                && let Ok(v) = fs::read_to_string(above.join(file))
            {
                let _ = fs::write(at.join(file), v.trim());
            }
        }
    }
}

fn remove(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(e) => e,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove(&entry.path())?;
        }
    }
    match fs::remove_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Shares of version 1 as weight of version 2 (KEP-2254's formula).
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights() {
        assert_eq!((weight(2), weight(1024), weight(262_144)), (1, 39, 10_000));
    }

    #[test]
    fn a_class_weighs_what_its_pods_ask_for() {
        let dir = crate::testing::TempDir::new("classes");
        fs::write(dir.path().join("cgroup.controllers"), "cpu").unwrap();
        let cgroups = Cgroups::new(dir.path(), "/knarr/");
        let at = |class: &str| dir.path().join("knarr/kubepods").join(class);
        for class in ["", "burstable", "besteffort"] {
            fs::create_dir_all(at(class)).unwrap();
        }
        let pod = |cpu: &str| -> Arc<Pod> {
            let asks = serde_json::json!({"requests": {"cpu": cpu}});
            Arc::new(serde_json::from_value(serde_json::json!({"spec": {"containers": [{"name": "c", "resources": asks}]}})).unwrap())
        };
        cgroups.balance(&[pod("6"), pod("2")], 16 * 1024);
        let weight_of = |class: &str| fs::read_to_string(at(class).join("cpu.weight")).unwrap();
        assert_eq!((weight_of(""), weight_of("burstable"), weight_of("besteffort")), (weight(16 * 1024).to_string(), weight(8 * 1024).to_string(), "1".into()));
        cgroups.balance(&[], 16 * 1024);
        assert_eq!(weight_of("burstable"), "1");
    }

    #[test]
    fn all_pods_have_a_limit_together_and_others_theirs_where_they_are() {
        let dir = crate::testing::TempDir::new("node-limits");
        fs::write(dir.path().join("cgroup.controllers"), "cpu memory pids").unwrap();
        let cgroups = Cgroups::new(dir.path(), "knarr");
        let limits = CgroupLimits { cpu_shares: 2048, memory_limit_bytes: 1 << 30, ..CgroupLimits::default() };
        cgroups.limit_node(&limits, Some(100)).unwrap();
        let at = |file: &str| fs::read_to_string(dir.path().join("knarr/kubepods").join(file)).unwrap();
        assert_eq!((at("memory.max"), at("pids.max"), at("cpu.weight")), ((1 << 30).to_string(), "100".into(), weight(2048).to_string()));
        let error = cgroups.limit_existing("/system", &limits, None).unwrap_err().to_string();
        assert!(error.starts_with("cgroup [\"system\"] has some missing paths: "), "{error}");
        fs::create_dir(dir.path().join("system")).unwrap();
        cgroups.limit_existing("/system", &limits, None).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("system/memory.max")).unwrap(), (1 << 30).to_string());
        // Version 1 has a directory for each controller.
        let old = crate::testing::TempDir::new("node-limits-1");
        for controller in ["cpu", "memory", "pids"] {
            fs::create_dir(old.path().join(controller)).unwrap();
        }
        Cgroups::new(old.path(), "").limit_node(&limits, Some(100)).unwrap();
        let at = |file: &str| fs::read_to_string(old.path().join(file)).unwrap();
        assert_eq!((at("memory/kubepods/memory.limit_in_bytes"), at("pids/kubepods/pids.max")), ((1 << 30).to_string(), "100".into()));
    }

    #[test]
    fn a_pod_that_grows_has_its_new_limits_of_memory_with_swap_too() {
        let dir = crate::testing::TempDir::new("growth");
        let cgroups = Cgroups::new(dir.path(), "");
        let spec = serde_json::json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "1", "memory": "96Mi"}}}]});
        let pod: Pod = serde_json::from_value(serde_json::json!({"metadata": {"uid": "u"}, "spec": spec})).unwrap();
        let at = |controller: &str, file: &str| dir.path().join(controller).join(cgroups.pod_path(&pod).trim_start_matches('/')).join(file);
        for controller in ["cpu", "memory"] {
            fs::create_dir_all(at(controller, "")).unwrap();
        }
        let texts = || ["memory.limit_in_bytes", SWAP_TOO].map(|file| fs::read_to_string(at("memory", file)).unwrap());
        cgroups.widen_pod(&pod);
        assert_eq!(texts(), ["-1", "-1"]);
        cgroups.limit_pod(&pod);
        assert_eq!(texts(), [(96 << 20).to_string(), (96 << 20).to_string()]);
        assert_eq!(fs::read_to_string(at("cpu", "cpu.cfs_quota_us")).unwrap(), "100000");
    }

    #[test]
    fn paths_follow_the_class() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"metadata": {"uid": "u"}, "spec": {"containers": [{"name": "c"}]}})).unwrap();
        assert_eq!(Cgroups::new("/nowhere", "/knarr/").pod_path(&pod), "/knarr/kubepods/besteffort/podu");
    }
}
