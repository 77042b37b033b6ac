//! One cluster on this machine: its name, its directories, its ranges of addresses.
//!
//! The ranges are chosen at the first start and kept: the default cluster gets Kubernetes' usual ones, further clusters the
//! next that nobody on this machine uses. What stands on the host at the moment is known by the volatile directory,
//! which a reboot empties together with everything that it tells of.

use anyhow::{Context as _, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{Read as _, Seek as _, Write as _},
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// Where clusters' data lies unless `--data-dir` says otherwise.
const DATA_ROOT: &str = "/var/lib/knarr";
/// Where the volatile directories are.
const RUN_ROOT: &str = "/run/knarr";
/// The default cluster's name.
const DEFAULT: &str = "knarr";
/// Clusters side by side.
const CLUSTERS_MAX: u8 = 50;
/// The DNS domain of every cluster.
pub const DOMAIN: &str = "cluster.local";

/// The addresses of a cluster, in whole IPv4 /16 ranges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The cluster's name.
    pub name: String,
    /// Where its data lies.
    pub data: PathBuf,
    /// The network of pods, `10.244.0.0/16`.
    pub pods: Ipv4Addr,
    /// The network of Services, `10.96.0.0/16`.
    pub services: Ipv4Addr,
    /// The API server's port.
    pub port: u16,
}

impl Plan {
    fn nth(name: &str, data: &Path, index: u8) -> Plan {
        let (pods, services) = if index == 0 { (244, 96) } else { (128 + index, 32 + index) };
        Plan {
            name: name.to_owned(),
            data: data.to_owned(),
            pods: Ipv4Addr::new(10, pods, 0, 0),
            services: Ipv4Addr::new(10, services, 0, 0),
            port: 6443 + u16::from(index),
        }
    }

    fn low(network: Ipv4Addr, last: u8) -> Ipv4Addr {
        let [a, b, c, _] = network.octets();
        Ipv4Addr::new(a, b, c, last)
    }

    /// The node's own address: its bridge's.
    pub fn node_ip(&self) -> Ipv4Addr {
        Self::low(self.pods, 1)
    }

    /// The address of the Service `kubernetes`.
    pub fn api_ip(&self) -> Ipv4Addr {
        Self::low(self.services, 1)
    }

    /// The address of the cluster's DNS.
    pub fn dns_ip(&self) -> Ipv4Addr {
        Self::low(self.services, 10)
    }

    /// Whether these are the default cluster's addresses.
    pub fn is_first(&self) -> bool {
        self.pods == Plan::nth("", Path::new(""), 0).pods
    }

    /// All pods' range.
    pub fn pod_cidr(&self) -> String {
        format!("{}/16", self.pods)
    }

    /// The only node's range of pods.
    pub fn node_cidr(&self) -> String {
        format!("{}/24", self.pods)
    }

    /// The Services' range.
    pub fn service_cidr(&self) -> String {
        format!("{}/16", self.services)
    }

    fn overlaps(&self, other: &Plan) -> bool {
        self.pods == other.pods || self.services == other.services || self.port == other.port
    }
}

/// The directories of a cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Its name, which everything on the host carries.
    pub name: String,
    /// What outlives the processes.
    pub data: PathBuf,
    /// What does not outlive the machine's run.
    pub run: PathBuf,
}

impl Cluster {
    /// The cluster of this name. A running one knows where its data is; `data_dir` says it for one that is not.
    pub fn find(name: &str, data_dir: Option<&Path>) -> anyhow::Result<Cluster> {
        let run = Path::new(RUN_ROOT).join(name);
        let known = read_plan(&run.join("cluster.json")).map(|p| p.data);
        let given = data_dir.map(std::path::absolute).transpose()?;
        if let (Some(known), Some(given)) = (&known, &given)
            && known != given
            && File::open(run.join("lock")).is_ok_and(|f| Flock::lock(f, FlockArg::LockSharedNonblock).is_err())
        {
            bail!("the cluster {name:?} runs with its data in {}, not in {}: choose another --name", known.display(), given.display());
        }
        let data = given.or(known).unwrap_or_else(|| Path::new(DATA_ROOT).join(name));
        Ok(Cluster { name: name.to_owned(), data, run })
    }

    /// The cluster's addresses: those of its first start, or free ones.
    pub fn plan(&self, port: Option<u16>) -> anyhow::Result<Plan> {
        let file = self.data.join("cluster.json");
        let others = others(&self.name);
        if let Some(mut plan) = read_plan(&file) {
            (plan.name, plan.data) = (self.name.clone(), self.data.clone());
            plan.port = port.unwrap_or(plan.port);
            if let Some(other) = others.iter().find(|o| plan.overlaps(o)) {
                bail!(
                    "the cluster {:?} uses the addresses {} or port {} of this one: run `knarr down --name {}` first",
                    other.name,
                    plan.pod_cidr(),
                    plan.port,
                    other.name
                );
            }
            return Ok(plan);
        }
        let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
        let first = u8::from(self.name != DEFAULT);
        let free = |plan: &Plan| !others.iter().any(|o| plan.overlaps(o)) && !routed(&routes, plan.pods) && !routed(&routes, plan.services);
        let mut candidates = (first..CLUSTERS_MAX).map(|i| Plan::nth(&self.name, &self.data, i));
        let mut plan = candidates.find(free).context("every range of addresses that a cluster could use (10.x.0.0/16) is in use on this machine")?;
        plan.port = port.unwrap_or(plan.port);
        Ok(plan)
    }

    /// Writes the plan where this and other starts find it.
    pub fn keep(&self, plan: &Plan) -> anyhow::Result<()> {
        for directory in [&self.data, &self.run] {
            let text = serde_json::to_vec_pretty(plan)?;
            let (file, new) = (directory.join("cluster.json"), directory.join("cluster.json.new"));
            std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &file)).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(())
    }

    /// Makes the directories, for root alone.
    pub fn make_directories(&self) -> anyhow::Result<()> {
        for directory in [&self.data, &self.run] {
            std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
            std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o711))?;
        }
        Ok(())
    }

    /// Makes this process the one that runs the cluster; the lock ends with it.
    pub fn lock(&self) -> anyhow::Result<Flock<File>> {
        let path = self.run.join("lock");
        let file =
            File::options().create(true).truncate(false).read(true).write(true).open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                lock.set_len(0)?;
                lock.rewind()?;
                write!(lock, "{}", std::process::id())?;
                Ok(lock)
            }
            Err((mut file, _)) => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                bail!("the cluster {:?} is running already (process {}): use it, or end it with `knarr down --name {}`", self.name, pid.trim(), self.name)
            }
        }
    }

    /// The process that runs the cluster, if one does.
    pub fn running(&self) -> Option<i32> {
        let mut file = File::open(self.run.join("lock")).ok()?;
        let mut pid = String::new();
        file.read_to_string(&mut pid).ok()?;
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(_) => None,
            Err(_) => pid.trim().parse().ok(),
        }
    }

    /// Settings of the cluster's runtime.
    pub fn runtime(&self, registries: Option<&Path>) -> runtime::Config {
        let default = self.data.join("registries.yaml");
        runtime::Config {
            root: self.data.join("runtime"),
            run: self.run.join("runtime"),
            cgroup_root: "/sys/fs/cgroup".into(),
            mark: self.name.clone(),
            registries: registries.map(Path::to_owned).or_else(|| default.exists().then_some(default)),
            shim: "/proc/self/exe".into(),
        }
    }
}

fn read_plan(path: &Path) -> Option<Plan> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// The plans of the other clusters that stand on this machine.
fn others(name: &str) -> Vec<Plan> {
    let entries = std::fs::read_dir(RUN_ROOT).into_iter().flatten().flatten();
    entries.filter(|e| e.file_name() != name).filter_map(|e| read_plan(&e.path().join("cluster.json"))).collect()
}

/// Whether the host has a route into a /16 already (the default route aside).
fn routed(table: &str, network: Ipv4Addr) -> bool {
    let number = |field: Option<&str>| field.and_then(|f| u32::from_str_radix(f, 16).ok()).map(u32::from_be);
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace();
        let (destination, mask) = (number(fields.nth(1)), number(fields.nth(5)));
        let (Some(destination), Some(mask)) = (destination, mask) else { return false };
        let common = mask & 0xffff_0000;
        mask != 0 && (destination & common) == (u32::from(network) & common)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
        eth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        eth0\t0000F40A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
        vpn\t0000600A\t00000000\t0001\t0\t0\t0\t0000F0FF\t0\t0\t0\n";

    #[test]
    fn routes_of_others_are_respected() {
        assert!(routed(ROUTES, Ipv4Addr::new(10, 244, 0, 0)));
        assert!(routed(ROUTES, Ipv4Addr::new(10, 100, 0, 0)), "10.96.0.0/12 holds it");
        assert!(!routed(ROUTES, Ipv4Addr::new(10, 129, 0, 0)), "the default route is not in the way");
    }

    #[test]
    fn clusters_side_by_side_share_nothing() {
        let plans: Vec<Plan> = (0..CLUSTERS_MAX).map(|i| Plan::nth("c", Path::new("/d"), i)).collect();
        for (at, plan) in plans.iter().enumerate() {
            assert!(plans.iter().skip(at + 1).all(|p| !plan.overlaps(p) && plan.pods != p.services && plan.services != p.pods));
        }
        assert_eq!((plans[0].pod_cidr().as_str(), plans[0].dns_ip().to_string().as_str()), ("10.244.0.0/16", "10.96.0.10"));
    }
}
