//! Cgroups of QoS classes, version 1 and 2; the runtime makes the pods' and the containers' below them.
//!
//! `ROOT/kubepods[/burstable|/besteffort]/podUID`, as upstream's cgroupfs driver names them. In version 1 the same path is
//! made under every controller that is mounted.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use crate::cri::CgroupLimits;
use crate::resources::{self, Qos};
use crate::util;

/// Controllers of version 1 in which pods have cgroups.
const V1_CONTROLLERS: [&str; 5] = ["cpu", "memory", "pids", "cpuset", "hugetlb"];

/// The cgroups of this kubelet.
pub struct Cgroups {
    base: PathBuf,
    root: String,
    unified: bool,
    made: Mutex<BTreeSet<String>>,
}

impl Cgroups {
    /// Cgroups below `root` (relative to the hierarchy), in the hierarchy at `base`, usually `/sys/fs/cgroup`.
    #[must_use]
    pub fn new(base: impl Into<PathBuf>, root: &str) -> Self {
        let base = base.into();
        let unified = base.join("cgroup.controllers").exists();
        Self { base, root: root.trim_matches('/').to_owned(), unified, made: Mutex::default() }
    }

    /// The path of a pod's cgroup, from the hierarchy's root.
    #[must_use]
    pub fn pod_path(&self, pod: &Pod) -> String {
        let class = match resources::qos(pod) {
            Qos::Guaranteed => "",
            Qos::Burstable => "/burstable",
            Qos::BestEffort => "/besteffort",
        };
        let root = if self.root.is_empty() { String::new() } else { format!("/{}", self.root) };
        format!("{root}/kubepods{class}/pod{}", util::uid(pod))
    }

    /// The cgroups above the pods': the one of all pods first.
    #[must_use]
    pub fn class_paths(&self) -> Vec<String> {
        let root = if self.root.is_empty() { String::new() } else { format!("/{}", self.root) };
        ["", "/burstable", "/besteffort"].map(|class| format!("{root}/kubepods{class}")).into()
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

    /// Gives the classes their weights: `burstable` what its pods ask for, `besteffort` the least, all pods together the node's
    /// (upstream's `qosContainerManager`). To be called when a pod has come, gone or changed.
    pub fn balance(&self, pods: &[Arc<Pod>], cpu_milli: i64) {
        let burstable = pods.iter().filter(|p| resources::qos(p) == Qos::Burstable).filter_map(|p| p.spec.as_ref());
        let asked = burstable.map(|s| resources::pod_requests(s).get("cpu").copied().unwrap_or(0)).fold(0, i64::saturating_add);
        let root = if self.root.is_empty() { String::new() } else { format!("/{}", self.root) };
        for (class, milli) in [("", cpu_milli), ("/burstable", asked), ("/besteffort", 0)] {
            let path = format!("{root}/kubepods{class}");
            if self.dirs(&path).iter().any(|d| d.is_dir()) {
                self.set(&path, &CgroupLimits { cpu_shares: resources::shares(milli), ..CgroupLimits::default() });
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
            let _ = fs::write(self.base.join("memory").join(rel).join("memory.limit_in_bytes"), "-1");
        }
        self.set(&path, &CgroupLimits { cpu_shares: wanted.cpu_shares, ..CgroupLimits::default() });
    }

    /// Sets the pod's own limits.
    pub fn limit_pod(&self, pod: &Pod) {
        self.set(&self.pod_path(pod), &resources::pod_limits(pod));
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
        let rel = path.trim_start_matches('/');
        let put = |controller: &str, file: &str, value: String| {
            let dir = if self.unified { self.base.join(rel) } else { self.base.join(controller).join(rel) };
            if let Err(e) = fs::write(dir.join(file), &value) {
                tracing::debug!(path, file, value, error = %e, "cgroup value not set");
            }
        };
        if self.unified {
            if limits.cpu_shares > 0 {
                put("", "cpu.weight", weight(limits.cpu_shares).to_string());
            }
            if limits.cpu_quota_us > 0 {
                put("", "cpu.max", format!("{} {}", limits.cpu_quota_us, limits.cpu_period_us));
            }
            if limits.memory_limit_bytes > 0 {
                put("", "memory.max", limits.memory_limit_bytes.to_string());
            }
        } else {
            if limits.cpu_shares > 0 {
                put("cpu", "cpu.shares", limits.cpu_shares.to_string());
            }
            if limits.cpu_quota_us > 0 {
                put("cpu", "cpu.cfs_period_us", limits.cpu_period_us.to_string());
                put("cpu", "cpu.cfs_quota_us", limits.cpu_quota_us.to_string());
            }
            if limits.memory_limit_bytes > 0 {
                put("memory", "memory.limit_in_bytes", limits.memory_limit_bytes.to_string());
            }
        }
    }

    /// Removes the pod's cgroup and what is below it. Processes in it have ended; the kernel may need a moment to notice.
    pub fn remove_pod(&self, pod: &Pod) -> io::Result<()> {
        for dir in self.dirs(&self.pod_path(pod)) {
            remove(&dir)?;
        }
        Ok(())
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
        cgroups.balance(&[pod("6"), pod("2")], 16_000);
        let weight_of = |class: &str| fs::read_to_string(at(class).join("cpu.weight")).unwrap();
        assert_eq!((weight_of(""), weight_of("burstable"), weight_of("besteffort")), (weight(16 * 1024).to_string(), weight(8 * 1024).to_string(), "1".into()));
        cgroups.balance(&[], 16_000);
        assert_eq!(weight_of("burstable"), "1");
    }

    #[test]
    fn paths_follow_the_class() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"metadata": {"uid": "u"}, "spec": {"containers": [{"name": "c"}]}})).unwrap();
        assert_eq!(Cgroups::new("/nowhere", "/knarr/").pod_path(&pod), "/knarr/kubepods/besteffort/podu");
    }
}
